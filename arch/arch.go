// Package arch knows the processors a KD target can have: x86, x64 and ARM64.
// It gives names to the bytes of the two raw records a target hands out, the
// CONTEXT and the KSPECIAL_REGISTERS, edits them in place, prints them the way
// WinDbg's r command does, and encodes the debug registers.
//
// It is not a debugger: it reads no target, follows no pointer and keeps no
// state. Records stay raw bytes so that fields this package does not know
// survive a read, change, write round trip.
//
// Offsets come from public headers (winnt.h, the ReactOS NDK) checked against
// records captured from live targets; DR6 and DR7 from the processor manuals;
// the display from published WinDbg transcripts and the rm documentation. All
// records are little-endian.
package arch

import (
	"encoding/binary"
	"strings"
	"sync"

	"openkd/kdproto"
)

var le = binary.LittleEndian

// Arch describes one processor architecture. It is immutable and safe for use
// by many goroutines.
type Arch struct {
	Machine     kdproto.Machine
	Name        string // "x86", "x64", "ARM64"
	PointerSize int    // bytes
	ContextSize int    // bytes of a full CONTEXT record
	SpecialAddr uint64 // control-space address of KSPECIAL_REGISTERS
	SpecialSize int    // bytes to ask for; a target may give fewer (older) or more than asked
	Break       []byte // the breakpoint instruction; do not modify
	DefaultMask uint32 // what r shows without rm: see the Mask constants

	pc, sp, flags, ctxFlags int // offsets in CONTEXT
	pcSize                  int
	regs                    []*Reg
	byName                  map[string]*Reg
}

// Register groups of the rm command, as its documentation numbers them.
// MaskInt32 and MaskInt64 have the same effect.
const (
	MaskInt32   uint32 = 0x1
	MaskInt64   uint32 = 0x2
	MaskFloat   uint32 = 0x4   // x87 state; ARM64: v0..v31, fpcr, fpsr
	MaskSegment uint32 = 0x8   // x86, x64
	MaskMMX     uint32 = 0x10  // x86, x64
	MaskDebug   uint32 = 0x20  // dr0..dr7 and cr4; ARM64: break and watch point registers
	MaskXMM     uint32 = 0x40  // x86, x64
	MaskControl uint32 = 0x80  // cr0 cr2 cr3 cr8; ARM64: the special registers
	MaskDesc    uint32 = 0x100 // gdtr gdtl idtr idtl tr ldtr
)

// MaskGroup is one line of the rm command's explanation.
type MaskGroup struct {
	Bit  uint32
	Text string
}

// MaskGroups lists the groups that Format can show on this architecture.
func (a *Arch) MaskGroups() []MaskGroup {
	if a.Machine == kdproto.MachineARM64 {
		return []MaskGroup{
			{MaskInt32, "Integer state (32-bit) or"},
			{MaskInt64, "Integer state (64-bit), 64-bit takes precedence"},
			{MaskFloat, "Floating-point and vector state"},
			{MaskDebug, "Breakpoint and watchpoint registers"},
			{MaskControl, "Special registers"},
		}
	}
	return []MaskGroup{
		{MaskInt32, "Integer state (32-bit) or"},
		{MaskInt64, "Integer state (64-bit), 64-bit takes precedence"},
		{MaskFloat, "Floating-point state"},
		{MaskSegment, "Segment registers"},
		{MaskMMX, "MMX registers"},
		{MaskDebug, "Debug registers and, in kernel, CR4"},
		{MaskXMM, "SSE XMM registers"},
		{MaskControl, "Control registers CR0, CR2, CR3 and, on x64, CR8"},
		{MaskDesc, "Descriptor and task state registers"},
	}
}

// ValidMask is the union of the groups that Format can show.
func (a *Arch) ValidMask() uint32 {
	var m uint32
	for _, g := range a.MaskGroups() {
		m |= g.Bit
	}
	return m
}

// The tables are built once, when they are needed, and never written again.
var (
	archX86   = sync.OnceValue(newX86)
	archX64   = sync.OnceValue(newX64)
	archARM64 = sync.OnceValue(newARM64)
)

// For returns the architecture of a machine: x86, x64 and ARM64 are known.
func For(m kdproto.Machine) (*Arch, bool) {
	switch m {
	case kdproto.MachineI386:
		return archX86(), true
	case kdproto.MachineAMD64:
		return archX64(), true
	case kdproto.MachineARM64:
		return archARM64(), true
	}
	return nil, false
}

// Canon brings an address into the form addresses have on the wire: 32-bit
// addresses sign-extended to 64 bits, 64-bit ones unchanged. A target gives
// both forms of a 32-bit address, so compare only after Canon.
func (a *Arch) Canon(addr uint64) uint64 {
	if a.PointerSize == 4 {
		return uint64(int64(int32(uint32(addr))))
	}
	return addr
}

func getUint(b []byte, off, size int) uint64 {
	if off < 0 || off+size > len(b) {
		return 0
	}
	var v uint64
	for i := size - 1; i >= 0; i-- {
		v = v<<8 | uint64(b[off+i])
	}
	return v
}

func putUint(b []byte, off, size int, v uint64) bool {
	if off < 0 || off+size > len(b) {
		return false
	}
	for i := range size {
		b[off+i] = byte(v >> (8 * i))
	}
	return true
}

// PC returns the program counter of a CONTEXT in wire form (see Canon), 0 when
// the record is too short.
func (a *Arch) PC(context []byte) uint64 { return a.Canon(getUint(context, a.pc, a.pcSize)) }

// SetPC changes the program counter; a record that is too short is left alone.
func (a *Arch) SetPC(context []byte, pc uint64) { putUint(context, a.pc, a.pcSize, pc) }

// SP returns the stack pointer in wire form, 0 when the record is too short.
func (a *Arch) SP(context []byte) uint64 { return a.Canon(getUint(context, a.sp, a.pcSize)) }

// SetSP changes the stack pointer; a record that is too short is left alone.
func (a *Arch) SetSP(context []byte, sp uint64) { putUint(context, a.sp, a.pcSize, sp) }

// Flags returns EFlags, or Cpsr on ARM64, as recorded: with TF where the
// target left it set (see Reg.View). 0 when the record is too short.
func (a *Arch) Flags(context []byte) uint32 { return uint32(getUint(context, a.flags, 4)) }

// SetFlags changes EFlags or Cpsr; a record that is too short is left alone.
func (a *Arch) SetFlags(context []byte, f uint32) { putUint(context, a.flags, 4, uint64(f)) }

// ContextFlags says which parts of a CONTEXT are valid; 0 when it is too short.
func (a *Arch) ContextFlags(context []byte) uint32 {
	return uint32(getUint(context, a.ctxFlags, 4))
}

// SetContextFlags changes which parts of a CONTEXT are valid.
func (a *Arch) SetContextFlags(context []byte, f uint32) {
	putUint(context, a.ctxFlags, 4, uint64(f))
}

// State is the raw records of one processor. Either may be nil or short: an
// old target has a shorter KSPECIAL_REGISTERS. The records are edited in place.
type State struct {
	Context []byte
	Special []byte
}

// Value is a register value of up to 128 bits; Lo holds the low 64.
type Value struct{ Lo, Hi uint64 }

// Type says how the bits of a register are shown.
type Type uint8

// Register types.
const (
	TypeInt     Type = iota // hexadecimal, all digits of the width
	TypeFlag                // hexadecimal, as short as can be
	TypeFloat80             // x87 extended
	TypeVector              // four single floats, highest first
)

// Reg is one register or a named part of one (al, zf). It is immutable.
type Reg struct {
	Name string
	Bits int    // 1..128
	Mask uint32 // rm group, one of the Mask constants
	Type Type
	Sub  bool // a part or another name of a register that is listed itself

	special  bool
	off      int    // byte offset in the record
	shift    int    // bit offset from there, below 32
	viewMask uint64 // bits of Lo that a view leaves out

	needs    uint32 // bits of ContextFlags without which the bytes mean nothing
	flagsOff int    // of ContextFlags in the record
}

// Reg finds a register by name, in any case.
func (a *Arch) Reg(name string) (*Reg, bool) {
	r, ok := a.byName[strings.ToLower(name)]
	return r, ok
}

// Regs lists all registers in display order, parts (Sub) after whole ones of
// their group. The slice is the caller's.
func (a *Arch) Regs() []*Reg { return append([]*Reg(nil), a.regs...) }

// InSpecial tells which record holds the register: KSPECIAL_REGISTERS (true),
// written back through control space, or CONTEXT, written by SetContext.
func (r *Reg) InSpecial() bool { return r.special }

func (r *Reg) record(s State) []byte {
	if r.special {
		return s.Special
	}
	return s.Context
}

// Span is the bytes of the record that hold the register.
func (r *Reg) Span() (off, size int) { return r.off, (r.shift + r.Bits + 7) / 8 }

// Get reads the register as recorded. It reports false when the record is too
// short to hold it.
func (r *Reg) Get(s State) (Value, bool) {
	b := r.record(s)
	off, n := r.Span()
	if off+n > len(b) {
		return Value{}, false
	}
	// Floating-point bytes of a record that does not claim them are what lay on
	// the target's stack. (Segments are filled in by targets that do not claim
	// them, so only floating point is held to its claim.)
	if f := uint32(getUint(b, r.flagsOff, 4)); r.needs != 0 && f != 0 && f&r.needs != r.needs {
		return Value{}, false
	}
	if n > 8 {
		v := Value{getUint(b, off, 8), getUint(b, off+8, n-8)}
		return v, true
	}
	return Value{Lo: getUint(b, off, n) >> r.shift & maskBits(r.Bits)}, true
}

// View is Get without what a person should not see: the trap flag, in efl and
// tf, which x64 targets leave set in the CONTEXT after a single step although
// nobody asked for it.
func (r *Reg) View(s State) (Value, bool) {
	v, ok := r.Get(s)
	v.Lo &^= r.viewMask
	return v, ok
}

// Set writes the register into its record, dropping bits beyond its width; no
// other bit changes. It reports false, and changes nothing, when the record is
// too short.
func (r *Reg) Set(s State, v Value) bool {
	b := r.record(s)
	off, n := r.Span()
	if off+n > len(b) {
		return false
	}
	if n > 8 {
		putUint(b, off, 8, v.Lo)
		putUint(b, off+8, n-8, v.Hi)
		return true
	}
	m := maskBits(r.Bits) << r.shift
	putUint(b, off, n, getUint(b, off, n)&^m|v.Lo<<r.shift&m)
	return true
}

func maskBits(n int) uint64 {
	if n >= 64 {
		return ^uint64(0)
	}
	return 1<<n - 1
}

// builder collects the registers of one architecture.
type builder struct{ regs []*Reg }

func (b *builder) ctx(mask uint32, bits, off int, names ...string) {
	for i, n := range names {
		b.regs = append(b.regs, &Reg{Name: n, Bits: bits, Mask: mask, off: off + i*bits/8})
	}
}

func (b *builder) spec(mask uint32, bits, off int, names ...string) {
	b.ctx(mask, bits, off, names...)
	for _, r := range b.regs[len(b.regs)-len(names):] {
		r.special = true
	}
}

func (b *builder) typed(t Type, mask uint32, bits, off, stride int, names ...string) {
	for i, n := range names {
		b.regs = append(b.regs, &Reg{Name: n, Bits: bits, Mask: mask, Type: t, off: off + i*stride})
	}
}

func (b *builder) sub(t Type, mask uint32, bits, off, shift int, name string) {
	b.regs = append(b.regs, &Reg{Name: name, Bits: bits, Mask: mask, Type: t, Sub: true, off: off, shift: shift})
}

func (b *builder) alias(name, of string) {
	for _, r := range b.regs {
		if r.Name == of {
			c := *r
			c.Name, c.Sub = name, true
			b.regs = append(b.regs, &c)
			return
		}
	}
	panic("arch: no register " + of)
}

func (a *Arch) finish(b *builder) *Arch {
	a.regs = b.regs
	a.byName = make(map[string]*Reg, len(b.regs))
	for _, r := range b.regs {
		if a.byName[r.Name] != nil {
			panic("arch: register " + r.Name + " is listed twice")
		}
		a.byName[r.Name] = r
		r.flagsOff = a.ctxFlags
		if r.special {
			continue
		}
		switch {
		case a.Machine == kdproto.MachineARM64:
			if r.Mask == MaskFloat {
				r.needs = 0x400004
			}
		case r.Mask == MaskFloat || r.Mask == MaskMMX:
			r.needs = 0x8 // CONTEXT_FLOATING_POINT
		case r.Mask == MaskXMM && a.Machine == kdproto.MachineI386:
			r.needs = 0x20 // CONTEXT_EXTENDED_REGISTERS
		case r.Mask == MaskXMM:
			r.needs = 0x8
		}
	}
	return a
}
