package arch

import (
	"fmt"

	"openkd/kdproto"
)

// newARM64 lays out the 912-byte CONTEXT and the A0-byte KSPECIAL_REGISTERS.
func newARM64() *Arch {
	a := &Arch{
		Machine: kdproto.MachineARM64, Name: "ARM64", PointerSize: 8,
		ContextSize: 0x390, SpecialAddr: 2, SpecialSize: 0xA0,
		Break:       []byte{0x00, 0x00, 0x3E, 0xD4}, // brk #0xF000
		DefaultMask: MaskInt64,
		pc:          0x108, sp: 0x100, flags: 4, ctxFlags: 0, pcSize: 8,
	}
	b := &builder{}
	b.ctx(MaskInt64, 64, 8, numbered("x%d", 0, 29)...)
	b.ctx(MaskInt64, 64, 0xF0, "fp", "lr", "sp", "pc")
	b.ctx(MaskInt64, 32, 4, "psr")
	b.alias("cpsr", "psr")
	b.alias("x29", "fp")
	b.alias("x30", "lr")
	for i := range 31 {
		b.sub(TypeInt, MaskInt64, 32, 8+8*i, 0, fmt.Sprintf("w%d", i))
	}
	for _, f := range []struct {
		name  string
		shift int
	}{{"nf", 31}, {"zf", 30}, {"cf", 29}, {"vf", 28}} {
		b.sub(TypeFlag, MaskInt64, 1, 4, f.shift, f.name)
	}
	b.typed(TypeVector, MaskFloat, 128, 0x110, 16, numbered("v%d", 0, 32)...)
	for i := range 32 {
		b.sub(TypeVector, MaskFloat, 128, 0x110+16*i, 0, fmt.Sprintf("q%d", i))
		b.sub(TypeInt, MaskFloat, 64, 0x110+16*i, 0, fmt.Sprintf("d%d", i))
		b.sub(TypeInt, MaskFloat, 32, 0x110+16*i, 0, fmt.Sprintf("s%d", i))
	}
	b.ctx(MaskFloat, 32, 0x310, "fpcr", "fpsr")

	// The processor's own break and watch points, like dr0..dr7 elsewhere;
	// the CONTEXT has another set, of the thread.
	b.spec(MaskDebug, 64, 0x28, numbered("bvr%d", 0, 8)...)
	b.spec(MaskDebug, 32, 0x68, numbered("bcr%d", 0, 8)...)
	b.spec(MaskDebug, 64, 0x88, "wvr0", "wvr1")
	b.spec(MaskDebug, 32, 0x98, "wcr0", "wcr1")
	b.spec(MaskControl, 64, 0, "elr_el1")
	b.spec(MaskControl, 32, 8, "spsr_el1")
	b.spec(MaskControl, 64, 0x10, "tpidr_el0", "tpidrro_el0", "tpidr_el1")
	return a.finish(b)
}
