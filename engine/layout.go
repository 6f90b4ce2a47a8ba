package engine

import (
	"context"
	"errors"
	"fmt"

	"openkd/arch"
	"openkd/image/sym"
	"openkd/image/unwind"
	"openkd/kdproto"
)

// field is where a field of a structure is, in bytes.
type field struct{ off, size uint32 }

// layout is a structure of the kernel: its fields by name, and its size.
type layout struct {
	fields map[string]field
	size   uint32
	// types: the target's own symbol file told; otherwise it is what the public
	// headers say, which holds for most systems.
	types bool
}

// maxNested bounds how deep unnamed members are followed.
const maxNested = 8

// kernelType is the layout of a structure by the kernel's symbol file; false
// where there is none, or the structure is not in it.
func (e *Engine) kernelType(ctx context.Context, name string) (layout, bool, error) {
	e.mu.Lock()
	var nt Module
	found := false
	for _, m := range e.mods.list {
		if m.Name == "nt" {
			nt, found = m, true
		}
	}
	e.mu.Unlock()
	if !found {
		return layout{}, false, nil
	}
	f := e.symbolFile(ctx, nt)
	if f == nil {
		return layout{}, false, nil
	}
	id, err := f.TypeByName(name)
	if err != nil || id == 0 {
		return layout{}, false, err
	}
	t, err := f.Type(id)
	if err != nil {
		return layout{}, false, err
	}
	l := layout{fields: map[string]field{}, size: uint32(t.Size), types: true}
	return l, true, l.add(f, id, 0, 0)
}

// add notes the members of a type. Those of unnamed unions and structures count
// as its own.
func (l *layout) add(f sym.File, id sym.TypeID, at uint64, depth int) error {
	members, err := f.Members(id)
	if err != nil {
		return err
	}
	for _, m := range members {
		t, err := f.Type(m.Type)
		if err != nil {
			return err
		}
		for (t.Kind == sym.Alias || t.Kind == sym.Modifier) && t.Elem != 0 {
			if t, err = f.Type(t.Elem); err != nil {
				return err
			}
		}
		switch {
		case m.Kind != sym.Field && m.Kind != sym.Base:
		case m.Name != "" && m.Kind == sym.Field:
			if _, ok := l.fields[m.Name]; !ok {
				l.fields[m.Name] = field{uint32(at + m.Offset), uint32(t.Size)}
			}
		case depth < maxNested && (t.Kind == sym.Struct || t.Kind == sym.Union):
			if err := l.add(f, t.ID, at+m.Offset, depth+1); err != nil {
				return err
			}
		}
	}
	return nil
}

// known makes a layout of offsets that are in public headers.
func known(size uint32, fields map[string]field) layout { return layout{fields: fields, size: size} }

// trapFields name the registers of a KTRAP_FRAME: field, register.
var (
	trapFields64 = [][2]string{
		{"Rip", "rip"}, {"Rsp", "rsp"}, {"Rax", "rax"}, {"Rcx", "rcx"}, {"Rdx", "rdx"}, {"R8", "r8"}, {"R9", "r9"}, {"R10", "r10"}, {"R11", "r11"},
		{"Rbp", "rbp"}, {"EFlags", "efl"}, {"SegCs", "cs"}, {"SegSs", "ss"}, {"MxCsr", "mxcsr"},
		{"Xmm0", "xmm0"}, {"Xmm1", "xmm1"}, {"Xmm2", "xmm2"}, {"Xmm3", "xmm3"}, {"Xmm4", "xmm4"}, {"Xmm5", "xmm5"},
	}
	trapFields32 = [][2]string{
		{"Eip", "eip"}, {"Eax", "eax"}, {"Ecx", "ecx"}, {"Edx", "edx"}, {"Ebx", "ebx"}, {"Esi", "esi"}, {"Edi", "edi"}, {"Ebp", "ebp"},
		{"EFlags", "efl"}, {"SegCs", "cs"}, {"SegDs", "ds"}, {"SegEs", "es"}, {"SegFs", "fs"}, {"SegGs", "gs"},
	}
	trapFieldsARM = [][2]string{{"Pc", "pc"}, {"Sp", "sp"}, {"Lr", "lr"}, {"Fp", "fp"}, {"Spsr", "cpsr"}}
)

// trapLayout is where the fields of a KTRAP_FRAME are. Those of x86 have never
// changed, those of x64 not since Windows Vista; both, which ReactOS follows,
// are in the headers of the WDK and of ReactOS. ARM64's changes.
func (e *Engine) trapLayout(ctx context.Context, a *arch.Arch) (layout, error) {
	l, ok, err := e.kernelType(ctx, "_KTRAP_FRAME")
	if ok || err != nil {
		return l, err
	}
	switch a.Machine {
	case kdproto.MachineAMD64:
		m := map[string]field{"MxCsr": {0x2C, 4}, "Rbp": {0x158, 8}, "Rip": {0x168, 8}, "SegCs": {0x170, 2}, "EFlags": {0x178, 4}, "Rsp": {0x180, 8}, "SegSs": {0x188, 2}}
		for i, n := range []string{"Rax", "Rcx", "Rdx", "R8", "R9", "R10", "R11"} {
			m[n] = field{0x30 + 8*uint32(i), 8}
		}
		for i := range uint32(6) {
			m[fmt.Sprintf("Xmm%d", i)] = field{0x70 + 16*i, 16}
		}
		return known(0x190, m), nil
	case kdproto.MachineI386:
		return known(0x8C, map[string]field{
			"SegGs": {0x30, 2}, "SegEs": {0x34, 2}, "SegDs": {0x38, 2}, "Edx": {0x3C, 4}, "Ecx": {0x40, 4}, "Eax": {0x44, 4}, "SegFs": {0x50, 2},
			"Edi": {0x54, 4}, "Esi": {0x58, 4}, "Ebx": {0x5C, 4}, "Ebp": {0x60, 4}, "Eip": {0x68, 4}, "SegCs": {0x6C, 2}, "EFlags": {0x70, 4},
			"HardwareEsp": {0x74, 4}, "HardwareSegSs": {0x78, 2},
		}), nil
	}
	return layout{}, fmt.Errorf("the layout of a trap frame of %s is told by the kernel's symbol file only (nt!_KTRAP_FRAME)", a.Name)
}

// read reads the structure at addr and returns the number in each field.
func (l *layout) read(b []byte, name string) (arch.Value, bool) {
	f, ok := l.fields[name]
	if !ok || f.size == 0 || int(f.off)+int(f.size) > len(b) {
		return arch.Value{}, false
	}
	b = b[f.off : f.off+f.size]
	if len(b) <= 8 {
		return arch.Value{Lo: uintOf(b)}, true
	}
	return arch.Value{Lo: uintOf(b[:8]), Hi: uintOf(b[8:min(len(b), 16)])}, true
}

// TrapFrame is the CONTEXT of what was interrupted, out of a trap frame.
// Registers that trap frames do not hold are zero. types says that the target's
// symbols told the layout.
func (e *Engine) TrapFrame(ctx context.Context, addr uint64) (record []byte, types bool, err error) {
	_, a, err := e.view()
	if err != nil {
		return nil, false, err
	}
	addr = a.Canon(addr)
	l, err := e.trapLayout(ctx, a)
	if err != nil {
		return nil, false, err
	}
	if l.size == 0 || l.size > pageSize {
		return nil, false, fmt.Errorf("nt!_KTRAP_FRAME has 0x%x bytes, which no trap frame has", l.size)
	}
	b, err := e.ReadFull(ctx, Virtual, addr, int(l.size))
	if err != nil {
		return nil, false, err
	}
	record = make([]byte, a.ContextSize)
	return record, l.types, trapRegisters(a, &l, addr, b, record)
}

// trapRegisters takes the registers out of a trap frame at addr.
func trapRegisters(a *arch.Arch, l *layout, addr uint64, b, record []byte) error {
	st := arch.State{Context: record}
	set := func(reg string, v arch.Value) {
		if r, ok := a.Reg(reg); ok {
			r.Set(st, v)
		}
	}
	names := map[kdproto.Machine][][2]string{kdproto.MachineAMD64: trapFields64, kdproto.MachineI386: trapFields32, kdproto.MachineARM64: trapFieldsARM}[a.Machine]
	for _, n := range names {
		if v, ok := l.read(b, n[0]); ok {
			set(n[1], v)
		}
	}
	if _, ok := l.read(b, names[0][0]); !ok {
		return fmt.Errorf("nt!_KTRAP_FRAME has no field %s", names[0][0])
	}
	switch a.Machine {
	case kdproto.MachineI386:
		// Without a change of the ring the processor pushes no stack pointer:
		// the interrupted stack goes on where it would stand.
		cs, _ := l.read(b, "SegCs")
		efl, _ := l.read(b, "EFlags")
		esp := l.fields["HardwareEsp"]
		v := arch.Value{Lo: addr + uint64(esp.off)}
		if cs.Lo&1 != 0 || efl.Lo&(1<<17) != 0 {
			v, _ = l.read(b, "HardwareEsp")
			ss, _ := l.read(b, "HardwareSegSs")
			set("ss", ss)
		}
		set("esp", v)
		a.SetContextFlags(record, 0x10007)
	case kdproto.MachineAMD64:
		a.SetContextFlags(record, 0x10000B)
	case kdproto.MachineARM64:
		if x, ok := l.fields["X"]; ok {
			for i := range min(x.size/8, 19) {
				set(fmt.Sprintf("x%d", i), arch.Value{Lo: uintOf(b[x.off+8*i : x.off+8*i+8])})
			}
		}
		a.SetContextFlags(record, 0x400003)
	}
	return nil
}

// trapFrame implements unwind.Walker's function of that name, for ARM64.
func (v *view) trapFrame(addr uint64, r *unwind.Regs) error {
	l, err := v.e.trapLayout(v.ctx, v.a)
	if err != nil {
		return err
	}
	if l.size == 0 || l.size > pageSize {
		return fmt.Errorf("nt!_KTRAP_FRAME has 0x%x bytes, which no trap frame has", l.size)
	}
	b := make([]byte, l.size)
	if n, err := v.Read(addr, b); err != nil {
		if errors.Is(err, errMissing) {
			v.note(addr+uint64(n), len(b)-n)
		}
		return err
	}
	record := r.Context(make([]byte, v.a.ContextSize))
	if err := trapRegisters(v.a, &l, addr, b, record); err != nil {
		return err
	}
	*r, err = unwind.FromContext(v.a.Machine, record)
	return err
}

// TrapFrameOf is where the trap frame of a frame begins that was entered by a
// trap; 0 where it is not known.
func (e *Engine) TrapFrameOf(ctx context.Context, f *Frame) uint64 {
	a := e.Arch()
	if f.MachineFrame == 0 || a == nil {
		return 0
	}
	l, err := e.trapLayout(ctx, a)
	if err != nil {
		return 0
	}
	if a.Machine == kdproto.MachineARM64 {
		return f.MachineFrame
	}
	// Kernels allocate the whole trap frame in one piece, so where symbols do
	// not tell, the function's allocation does.
	if !l.types && a.Machine == kdproto.MachineAMD64 && f.FP < f.MachineFrame && f.MachineFrame-f.FP < 0x1000 {
		return f.FP
	}
	ip := l.fields[map[kdproto.Machine]string{kdproto.MachineAMD64: "Rip", kdproto.MachineI386: "Eip"}[a.Machine]]
	return f.MachineFrame - uint64(ip.off)
}

// ReadContext reads a CONTEXT record of the target.
func (e *Engine) ReadContext(ctx context.Context, addr uint64) ([]byte, error) {
	_, a, err := e.view()
	if err != nil {
		return nil, err
	}
	b, err := e.ReadFull(ctx, Virtual, addr, a.ContextSize)
	if err != nil {
		return nil, err
	}
	if f := a.ContextFlags(b); !validContext(a, f) {
		return nil, fmt.Errorf("there is no CONTEXT record of %s at %s: its ContextFlags are %x", a.Name, e.FormatAddr(a.Canon(addr)), f)
	}
	return b, nil
}

// validContext reports whether ContextFlags name the processor and at least its
// control registers (winnt.h).
func validContext(a *arch.Arch, flags uint32) bool {
	bit := map[kdproto.Machine]uint32{kdproto.MachineI386: 0x10000, kdproto.MachineAMD64: 0x100000, kdproto.MachineARM64: 0x400000}[a.Machine]
	return flags&0xFF0000 == bit && flags&1 != 0
}

// Offsets in the debugger data block of the u16 that tell where a KTHREAD keeps
// something (wdbgexts.h).
const (
	offThreadKernelStack = 0x29C
	offThreadState       = 0x2A2
	threadRunning        = 2 // KTHREAD_STATE
)

// dataOffset is an offset that the debugger data block tells; 0: it does not.
func (e *Engine) dataOffset(at int) uint64 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if at+2 > len(e.data) {
		return 0
	}
	return uint64(le.Uint16(e.data[at:]))
}

// ThreadContext is the CONTEXT that a thread goes on with when it runs again:
// the program counter, the stack pointer and what the switch to another thread
// has saved next to it. running says that the thread is on the processor that
// stopped, whose own registers count.
func (e *Engine) ThreadContext(ctx context.Context, thread uint64) (record []byte, running bool, err error) {
	h, a, err := e.view()
	if err != nil {
		return nil, false, err
	}
	thread = a.Canon(thread)
	if stop := e.stopOf(h); stop.Thread != 0 && a.Canon(stop.Thread) == thread && h.pick(-1) == stop.Processor {
		return nil, true, nil
	}
	var stack, state field
	l, ok, err := e.kernelType(ctx, "_KTHREAD")
	if err != nil {
		return nil, false, err
	}
	if ok {
		stack, state = l.fields["KernelStack"], l.fields["State"]
	} else {
		stack, state = field{off: uint32(e.dataOffset(offThreadKernelStack))}, field{off: uint32(e.dataOffset(offThreadState))}
	}
	if stack.off == 0 {
		return nil, false, errors.New("where a thread keeps its stack is told by the kernel's symbol file (nt!_KTHREAD) or its debugger data block, and neither is there")
	}
	r, err := e.Do(ctx, Virtual.ReadRequest(thread+uint64(stack.off), a.PointerSize), Virtual.ReadRequest(thread+uint64(state.off), 1))
	if err != nil {
		return nil, false, err
	}
	sp := r[0].Data()
	if len(sp) < a.PointerSize {
		return nil, false, &MemoryError{Addr: thread + uint64(stack.off), Status: r[0].Status}
	}
	if b := r[1].Data(); state.off != 0 && len(b) == 1 && b[0] == threadRunning {
		return nil, false, fmt.Errorf("the thread at %s runs on another processor: ~<n>s goes there", e.FormatAddr(thread))
	}
	record, err = e.switchFrame(ctx, a, a.Canon(uintOf(sp)))
	return record, false, err
}

// switchFrame reads what lies on the stack of a thread that was switched off
// (KSWITCH_FRAME of the WDK's and ReactOS' headers).
func (e *Engine) switchFrame(ctx context.Context, a *arch.Arch, sp uint64) ([]byte, error) {
	l, ok, err := e.kernelType(ctx, "_KSWITCH_FRAME")
	if err != nil {
		return nil, err
	}
	fp, ip := "Rbp", "Return"
	switch a.Machine {
	case kdproto.MachineAMD64:
		if !ok {
			l = known(0x40, map[string]field{"Rbp": {0x30, 8}, "Return": {0x38, 8}})
		}
	case kdproto.MachineI386:
		fp, ip = "", "RetAddr"
		if !ok {
			l = known(0x0C, map[string]field{"RetAddr": {8, 4}})
		}
	default:
		if fp, ip = "Fp", "Return"; !ok {
			return nil, fmt.Errorf("what %s saves of a thread that is switched off is told by the kernel's symbol file only (nt!_KSWITCH_FRAME)", a.Name)
		}
	}
	if l.size == 0 || l.size > pageSize {
		return nil, fmt.Errorf("nt!_KSWITCH_FRAME has 0x%x bytes, which it cannot have", l.size)
	}
	b, err := e.ReadFull(ctx, Virtual, sp, int(l.size))
	if err != nil {
		return nil, fmt.Errorf("the thread's stack: %w", err)
	}
	pc, ok := l.read(b, ip)
	if !ok {
		return nil, fmt.Errorf("nt!_KSWITCH_FRAME has no field %s", ip)
	}
	if m, ok, err := e.ModuleAt(ctx, pc.Lo); err != nil {
		return nil, err
	} else if !ok || pc.Lo == m.Base {
		return nil, fmt.Errorf("at the top of the thread's stack, %s, is no frame of a switch to another thread: it would go on at %s. "+
			"The frame's layout is told by the kernel's symbol file (nt!_KSWITCH_FRAME)", e.FormatAddr(sp), e.FormatAddr(a.Canon(pc.Lo)))
	}
	record := make([]byte, a.ContextSize)
	st := arch.State{Context: record}
	if v, ok := l.read(b, fp); ok {
		if r, ok := a.Reg(map[kdproto.Machine]string{kdproto.MachineAMD64: "rbp", kdproto.MachineARM64: "fp"}[a.Machine]); ok {
			r.Set(st, v)
		}
	}
	a.SetPC(record, pc.Lo)
	a.SetSP(record, sp+uint64(l.size))
	a.SetContextFlags(record, map[kdproto.Machine]uint32{kdproto.MachineI386: 0x10003, kdproto.MachineAMD64: 0x100003, kdproto.MachineARM64: 0x400003}[a.Machine])
	return record, nil
}
