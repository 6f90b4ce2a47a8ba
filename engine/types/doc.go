// Package types shows types and typed values in the words that users of
// WinDbg's dt know: "+0x010 Flags : Uint4B", "Pos 3, 1 Bit",
// "0xfffff800`1e20b040 _KTHREAD".
//
// It finds no symbols and reads no target: a symbol file and a way to read
// memory are given to it. The shapes are those of the documented dt command and
// of its output as it is published.
package types
