package unwind

import (
	"fmt"

	"openkd/arch"
	"openkd/kdproto"
)

// Regs are the registers of a frame as far as they are known. The registers
// that a called function may change are known in frames that were interrupted,
// not in those that wait for a call to return.
type Regs struct {
	Machine kdproto.Machine
	PC, SP  uint64     // in wire form
	X       [32]uint64 // by the processor's numbers: rax rcx rdx rbx rsp rbp..., eax ecx..., x0..x30. That of the stack pointer is not used
	V       [32]arch.Value
	known   uint32 // of X
	vknown  uint32 // of V
}

// Numbers of registers.
const (
	x64BX, x64SP, x64BP, x64SI, x64DI = 3, 4, 5, 6, 7
	x86BX, x86SP, x86BP, x86SI, x86DI = 3, 4, 5, 6, 7
	arm64FP, arm64LR                  = 29, 30

	// What a called function preserves. ARM64's x18 belongs to the system.
	x64Saved   = 1<<x64BX | 1<<x64BP | 1<<x64SI | 1<<x64DI | 0xF<<12
	x64VSaved  = 0xFFC0
	x86Saved   = 1<<x86BX | 1<<x86BP | 1<<x86SI | 1<<x86DI
	arm64Saved = 0x7FF<<19 | 1<<18
	arm64V     = 0xFF00
)

var (
	names64  = [...]string{"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"}
	names32  = [...]string{"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"}
	namesARM = [...]string{"x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16",
		"x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27", "x28", "fp", "lr"}
)

// names lists the registers of X by number, and the prefix of V's.
func names(m kdproto.Machine) (x []string, pc, sp, v string, n int) {
	switch m {
	case kdproto.MachineAMD64:
		return names64[:], "rip", "rsp", "xmm", 16
	case kdproto.MachineARM64:
		return namesARM[:], "pc", "sp", "v", 32
	case kdproto.MachineI386:
		return names32[:], "eip", "esp", "", 0
	}
	return nil, "", "", "", 0
}

// FromContext takes the registers out of a CONTEXT record of the target.
func FromContext(m kdproto.Machine, context []byte) (Regs, error) {
	r := Regs{Machine: m}
	a, ok := arch.For(m)
	if !ok {
		return r, fmt.Errorf("no unwinder for machine %v: x86, x64 and ARM64 are known", m)
	}
	if len(context) < a.ContextSize {
		return r, fmt.Errorf("a CONTEXT record of %d bytes: %s has %d", len(context), a.Name, a.ContextSize)
	}
	st := arch.State{Context: context}
	x, _, sp, v, n := names(m)
	for i, name := range x {
		reg, _ := a.Reg(name)
		if val, ok := reg.Get(st); ok && name != sp {
			r.Set(i, val.Lo)
		}
	}
	for i := range n {
		reg, _ := a.Reg(fmt.Sprintf("%s%d", v, i))
		if val, ok := reg.Get(st); ok {
			r.SetV(i, val)
		}
	}
	r.PC, r.SP = a.PC(context), a.SP(context)
	return r, nil
}

// Context writes the known registers into a copy of a CONTEXT record. What is
// not known stays as it is in like.
func (r *Regs) Context(like []byte) []byte {
	c := append([]byte(nil), like...)
	a, ok := arch.For(r.Machine)
	if !ok {
		return c
	}
	st := arch.State{Context: c}
	x, _, _, v, n := names(r.Machine)
	for i, name := range x {
		if val, ok := r.Reg(i); ok {
			reg, _ := a.Reg(name)
			reg.Set(st, arch.Value{Lo: val})
		}
	}
	for i := range n {
		if r.vknown>>i&1 != 0 {
			reg, _ := a.Reg(fmt.Sprintf("%s%d", v, i))
			reg.Set(st, r.V[i])
		}
	}
	a.SetPC(c, r.PC)
	a.SetSP(c, r.SP)
	return c
}

// Reg is the register of a number, false when it is not known. The stack
// pointer has a field of its own.
func (r *Regs) Reg(i int) (uint64, bool) {
	return r.X[i&31], r.known>>(i&31)&1 != 0
}

// Set gives the register of a number a value.
func (r *Regs) Set(i int, v uint64) {
	r.X[i&31] = v
	r.known |= 1 << (i & 31)
}

// SetV gives the vector register of a number a value.
func (r *Regs) SetV(i int, v arch.Value) {
	r.V[i&31] = v
	r.vknown |= 1 << (i & 31)
}

// Put gives a whole register a value, by the name that package arch gives it;
// false: there is none of this name in a frame.
func (r *Regs) Put(name string, v uint64) bool {
	x, pc, sp, _, _ := names(r.Machine)
	switch {
	case name == "":
		return false
	case name == pc:
		r.PC = v
		return true
	case name == sp:
		r.SP = v
		return true
	case r.Machine == kdproto.MachineARM64 && name == "x29":
		name = "fp"
	case r.Machine == kdproto.MachineARM64 && name == "x30":
		name = "lr"
	}
	for i, n := range x {
		if n == name {
			r.Set(i, v)
			return true
		}
	}
	return false
}

// Get is the value of a register by the name that package arch gives it, parts
// of registers (al, w3, xmm6l) included; false when it is not known, or no
// register of a frame.
func (r *Regs) Get(name string) (arch.Value, bool) {
	a, ok := arch.For(r.Machine)
	if !ok {
		return arch.Value{}, false
	}
	reg, ok := a.Reg(name)
	if !ok || reg.InSpecial() {
		return arch.Value{}, false
	}
	off, size := reg.Span()
	whole, pc, sp, v, n := names(r.Machine)
	for i, of := range whole {
		if of == name && of != sp {
			val, ok := r.Reg(i)
			return arch.Value{Lo: val}, ok
		}
	}
	// The register that holds these bytes of the record.
	in := func(of string) bool {
		w, _ := a.Reg(of)
		o, s := w.Span()
		return off >= o && off+size <= o+s
	}
	c := make([]byte, a.ContextSize)
	known := in(pc) || in(sp)
	for i, of := range whole {
		known = known || of != sp && r.known>>i&1 != 0 && in(of)
	}
	for i := range n {
		known = known || r.vknown>>i&1 != 0 && in(fmt.Sprintf("%s%d", v, i))
	}
	if !known {
		return arch.Value{}, false
	}
	return reg.Get(arch.State{Context: r.Context(c)})
}

// returned forgets what a called function may have changed.
func (r *Regs) returned() {
	switch r.Machine {
	case kdproto.MachineAMD64:
		r.known &= x64Saved
		r.vknown &= x64VSaved
	case kdproto.MachineARM64:
		r.known &= arm64Saved
		r.vknown &= arm64V
		for i := range r.V {
			r.V[i].Hi = 0 // of these the low half only
		}
	default:
		r.known &= x86Saved
	}
}
