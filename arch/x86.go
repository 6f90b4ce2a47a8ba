package arch

import (
	"fmt"

	"openkd/kdproto"
)

// Bits of EFlags.
const (
	FlagCF  uint32 = 1 << 0
	FlagPF  uint32 = 1 << 2
	FlagAF  uint32 = 1 << 4
	FlagZF  uint32 = 1 << 6
	FlagSF  uint32 = 1 << 7
	FlagTF  uint32 = 1 << 8
	FlagIF  uint32 = 1 << 9
	FlagDF  uint32 = 1 << 10
	FlagOF  uint32 = 1 << 11
	FlagVIF uint32 = 1 << 19
	FlagVIP uint32 = 1 << 20
)

// eflags adds efl at off and its named bits.
func (b *builder) eflags(off int) {
	b.ctx(MaskSegment, 32, off, "efl")
	b.regs[len(b.regs)-1].viewMask = uint64(FlagTF)
	b.alias("eflags", "efl")
	b.sub(TypeFlag, MaskInt64, 2, off, 12, "iopl")
	for _, f := range []struct {
		name  string
		shift int
	}{
		{"of", 11}, {"df", 10}, {"if", 9}, {"tf", 8}, {"sf", 7}, {"zf", 6}, {"af", 4}, {"pf", 2}, {"cf", 0},
		{"nt", 14}, {"rf", 16}, {"vm", 17}, {"ac", 18}, {"vif", 19}, {"vip", 20}, {"id", 21},
	} {
		b.sub(TypeFlag, MaskInt64, 1, off, f.shift, f.name)
		if f.name == "tf" {
			b.regs[len(b.regs)-1].viewMask = 1
		}
	}
}

func numbered(format string, first, n int) []string {
	s := make([]string, n)
	for i := range s {
		s[i] = fmt.Sprintf(format, first+i)
	}
	return s
}

// newX86 lays out the 716-byte CONTEXT and the 84-byte KSPECIAL_REGISTERS.
//
// FloatSave @1C is an FNSAVE image: control, status, tag u32 each, error
// offset +C, error selector +10 (opcode in its high half), data offset +14,
// data selector +18, eight 10-byte registers +1C. ExtendedRegisters @CC is an
// FXSAVE image: mxcsr +18, xmm0 +A0.
func newX86() *Arch {
	a := &Arch{
		Machine: kdproto.MachineI386, Name: "x86", PointerSize: 4,
		ContextSize: 0x2CC, SpecialAddr: 0x2CC, SpecialSize: 84, Break: []byte{0xCC},
		DefaultMask: MaskInt32 | MaskSegment,
		pc:          0xB8, sp: 0xC4, flags: 0xC0, ctxFlags: 0, pcSize: 4,
	}
	b := &builder{}
	gp := []struct {
		off  int
		name string
	}{
		{0xB0, "eax"}, {0xA4, "ebx"}, {0xAC, "ecx"}, {0xA8, "edx"}, {0xA0, "esi"}, {0x9C, "edi"},
		{0xB8, "eip"}, {0xC4, "esp"}, {0xB4, "ebp"},
	}
	for _, r := range gp {
		b.ctx(MaskInt32, 32, r.off, r.name)
	}
	for _, r := range gp {
		b.sub(TypeInt, MaskInt32, 16, r.off, 0, r.name[1:])
	}
	for _, r := range gp[:4] {
		b.sub(TypeInt, MaskInt32, 8, r.off, 0, r.name[1:2]+"l")
		b.sub(TypeInt, MaskInt32, 8, r.off+1, 0, r.name[1:2]+"h")
	}
	for _, r := range []struct {
		off  int
		name string
	}{{0xBC, "cs"}, {0xC8, "ss"}, {0x98, "ds"}, {0x94, "es"}, {0x90, "fs"}, {0x8C, "gs"}} {
		b.ctx(MaskSegment, 16, r.off, r.name)
	}
	b.eflags(0xC0)

	const fs = 0x1C
	b.ctx(MaskFloat, 16, fs, "fpcw")
	b.ctx(MaskFloat, 16, fs+4, "fpsw")
	b.ctx(MaskFloat, 16, fs+8, "fptw")
	b.ctx(MaskFloat, 16, fs+0x12, "fopcode")
	b.ctx(MaskFloat, 32, fs+0xC, "fpip")
	b.ctx(MaskFloat, 16, fs+0x10, "fpipsel")
	b.ctx(MaskFloat, 32, fs+0x14, "fpdp")
	b.ctx(MaskFloat, 16, fs+0x18, "fpdpsel")
	b.typed(TypeFloat80, MaskFloat, 80, fs+0x1C, 10, numbered("st%d", 0, 8)...)
	b.typed(TypeInt, MaskMMX, 64, fs+0x1C, 10, numbered("mm%d", 0, 8)...)
	b.ctx(MaskXMM, 32, 0xCC+0x18, "mxcsr")
	b.typed(TypeVector, MaskXMM, 128, 0xCC+0xA0, 16, numbered("xmm%d", 0, 8)...)

	b.spec(MaskControl, 32, 0, "cr0")
	b.spec(MaskControl, 32, 4, "cr2")
	b.spec(MaskControl, 32, 8, "cr3")
	b.spec(MaskDebug, 32, 0x10, "dr0", "dr1", "dr2", "dr3", "dr6", "dr7")
	b.spec(MaskDebug, 32, 0xC, "cr4")
	b.spec(MaskDesc, 32, 0x2C, "gdtr")
	b.spec(MaskDesc, 16, 0x2A, "gdtl")
	b.spec(MaskDesc, 32, 0x34, "idtr")
	b.spec(MaskDesc, 16, 0x32, "idtl")
	b.spec(MaskDesc, 16, 0x38, "tr", "ldtr")
	return a.finish(b)
}

// newX64 lays out the 1232-byte CONTEXT and KSPECIAL_REGISTERS, of which old
// systems give D8, newer ones E0 or more bytes.
//
// FltSave @100 is an FXSAVE image: control u16, status u16, abridged tag u8
// @4, opcode u16 @6, error offset u32 @8, selector u16 @C, data offset u32
// @10, selector u16 @14, MxCsr u32 @18, registers 16 bytes apart @20.
func newX64() *Arch {
	a := &Arch{
		Machine: kdproto.MachineAMD64, Name: "x64", PointerSize: 8,
		ContextSize: 0x4D0, SpecialAddr: 2, SpecialSize: 0xF0, Break: []byte{0xCC},
		DefaultMask: MaskInt64 | MaskSegment,
		pc:          0xF8, sp: 0x98, flags: 0x44, ctxFlags: 0x30, pcSize: 8,
	}
	b := &builder{}
	gp := []struct {
		off  int
		name string
	}{
		{0x78, "rax"}, {0x90, "rbx"}, {0x80, "rcx"}, {0x88, "rdx"}, {0xA8, "rsi"}, {0xB0, "rdi"},
		{0xF8, "rip"}, {0x98, "rsp"}, {0xA0, "rbp"},
		{0xB8, "r8"}, {0xC0, "r9"}, {0xC8, "r10"}, {0xD0, "r11"}, {0xD8, "r12"}, {0xE0, "r13"}, {0xE8, "r14"}, {0xF0, "r15"},
	}
	for _, r := range gp {
		b.ctx(MaskInt64, 64, r.off, r.name)
	}
	for i, r := range gp {
		if i >= 9 {
			b.sub(TypeInt, MaskInt64, 32, r.off, 0, r.name+"d")
			b.sub(TypeInt, MaskInt64, 16, r.off, 0, r.name+"w")
			b.sub(TypeInt, MaskInt64, 8, r.off, 0, r.name+"b")
			continue
		}
		b.sub(TypeInt, MaskInt64, 32, r.off, 0, "e"+r.name[1:])
		b.sub(TypeInt, MaskInt64, 16, r.off, 0, r.name[1:])
		switch {
		case i < 4:
			b.sub(TypeInt, MaskInt64, 8, r.off, 0, r.name[1:2]+"l")
			b.sub(TypeInt, MaskInt64, 8, r.off+1, 0, r.name[1:2]+"h")
		case r.name != "rip":
			b.sub(TypeInt, MaskInt64, 8, r.off, 0, r.name[1:]+"l")
		}
	}
	for _, r := range []struct {
		off  int
		name string
	}{{0x38, "cs"}, {0x42, "ss"}, {0x3A, "ds"}, {0x3C, "es"}, {0x3E, "fs"}, {0x40, "gs"}} {
		b.ctx(MaskSegment, 16, r.off, r.name)
	}
	b.eflags(0x44)

	const fs = 0x100
	b.ctx(MaskFloat, 16, fs, "fpcw", "fpsw")
	b.ctx(MaskFloat, 8, fs+4, "fptw")
	b.ctx(MaskFloat, 16, fs+6, "fopcode")
	b.ctx(MaskFloat, 32, fs+8, "fpip")
	b.ctx(MaskFloat, 16, fs+0xC, "fpipsel")
	b.ctx(MaskFloat, 32, fs+0x10, "fpdp")
	b.ctx(MaskFloat, 16, fs+0x14, "fpdpsel")
	b.typed(TypeFloat80, MaskFloat, 80, fs+0x20, 16, numbered("st%d", 0, 8)...)
	b.typed(TypeInt, MaskMMX, 64, fs+0x20, 16, numbered("mm%d", 0, 8)...)
	b.ctx(MaskXMM, 32, 0x34, "mxcsr")
	b.typed(TypeVector, MaskXMM, 128, fs+0xA0, 16, numbered("xmm%d", 0, 16)...)
	for i := range 16 {
		b.sub(TypeInt, MaskXMM, 64, fs+0xA0+16*i, 0, fmt.Sprintf("xmm%dl", i))
		b.sub(TypeInt, MaskXMM, 64, fs+0xA8+16*i, 0, fmt.Sprintf("xmm%dh", i))
	}

	b.spec(MaskControl, 64, 0, "cr0", "cr2", "cr3")
	b.spec(MaskControl, 64, 0xA0, "cr8")
	b.spec(MaskDebug, 64, 0x20, "dr0", "dr1", "dr2", "dr3", "dr6", "dr7")
	b.spec(MaskDebug, 64, 0x18, "cr4")
	for _, n := range []string{"0", "1", "2", "3", "6", "7"} {
		b.alias("kdr"+n, "dr"+n)
	}
	b.spec(MaskDesc, 64, 0x58, "gdtr")
	b.spec(MaskDesc, 16, 0x56, "gdtl")
	b.spec(MaskDesc, 64, 0x68, "idtr")
	b.spec(MaskDesc, 16, 0x66, "idtl")
	b.spec(MaskDesc, 16, 0x70, "tr", "ldtr")
	b.spec(0, 32, 0x74, "kmxcsr")
	b.spec(0, 64, 0x78, "debugcontrol", "lastbranchto", "lastbranchfrom", "lastexceptionto", "lastexceptionfrom")
	b.spec(0, 64, 0xA8, "gsbase", "gsswap", "star", "lstar", "cstar", "syscallmask", "xcr0", "fsbase")
	return a.finish(b)
}
