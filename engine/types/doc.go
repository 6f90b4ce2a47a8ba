// Package types shows types and typed values in the words that users of
// WinDbg's dt, ?? and dx know: "+0x010 Flags : Uint4B", "Pos 3, 1 Bit",
// "0xfffff800`1e20b040 _KTHREAD", "unsigned long 0x1c",
// "[+0x010] Flags : 0x1c [Type: unsigned long]".
//
// It finds no symbols and reads no target: a symbol file and a way to read
// memory are given to it. The shapes are those of the documented commands and
// of their output as it is published.
//
// Nothing in a symbol file is believed: depth, rows, sizes and the memory that
// is read are bounded, whatever it says.
package types
