// Package kdproto holds the packets of the Windows kernel debugger (KD) wire
// protocol as Go values: encode, decode, nothing else.
//
// It does not send, receive, acknowledge or retry anything (package link does)
// and does not know what a debugger is. All integers on the wire are
// little-endian; they are read and written by hand, field by field, so that an
// offset in a comment can be checked against the line below it. Decoders never
// panic and never allocate more than the input holds.
//
// Facts come from public material: the ReactOS headers (windbgkd.h, kddll.h),
// the radare2/Rizin and ntoseye clients, the ISPRAS QEMU stub, Xen's kdd, the
// Lekensteyn KDNET captures, and from recorded sessions with a ReactOS kernel.
// Names are the field's own.
package kdproto
