package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sort"

	"openkd/arch"
	"openkd/image/disasm"
	"openkd/image/pe"
	"openkd/image/unwind"
	"openkd/kdproto"
	"openkd/symbols"
)

// Function is what an image's unwind data says about the function at an
// address. Functions that keep nothing on the stack have none.
type Function struct {
	Module Module
	Entry  pe.Function // of the piece that holds the address
	// Start is where the function begins: that of the piece, or of what it
	// belongs to (chained unwind data of x64).
	Start uint64
	// Begin and End are the piece.
	Begin, End uint64
}

// Function finds the unwind data of the function at an address; false where it
// has none.
func (e *Engine) Function(ctx context.Context, addr uint64) (Function, bool, error) {
	h, a, err := e.view()
	if err != nil {
		return Function{}, false, err
	}
	return e.function(ctx, h, a, addr)
}

func (e *Engine) function(ctx context.Context, h *halt, a *arch.Arch, addr uint64) (f Function, ok bool, err error) {
	addr = a.Canon(addr)
	err = e.look(ctx, h, a, func(v *view) (err error) {
		f, ok, err = v.function(addr)
		if _, known := v.moduleAt(addr); !known {
			return errNoModule
		}
		return err
	})
	if errors.Is(err, errNoModule) {
		err = nil
	}
	return f, ok, err
}

// ReadImage reads code or unwind data of a module: from its file, or from memory
// that may have been read at another stop.
func (e *Engine) ReadImage(ctx context.Context, m Module, rva uint32, b []byte) error {
	h, a, err := e.view()
	if err != nil {
		return err
	}
	return e.look(ctx, h, a, func(v *view) error {
		im, ok := v.image(m.Base)
		if !ok {
			return fmt.Errorf("%s is not loaded any more", m.Name)
		}
		return im.ReadRVA(rva, b)
	})
}

// function is Function by what is known.
func (v *view) function(addr uint64) (Function, bool, error) {
	m, ok := v.moduleAt(addr)
	if !ok {
		return Function{}, false, nil
	}
	im, _ := v.image(addr)
	fn, ok, err := im.Function(uint32(addr - m.Base))
	if !ok || err != nil {
		return Function{}, false, err
	}
	f := Function{Module: m, Entry: fn, Start: m.Base + uint64(fn.Begin), Begin: m.Base + uint64(fn.Begin), End: m.Base + uint64(fn.End)}
	if v.a.Machine == kdproto.MachineARM64 {
		n, err := armLength(im, fn)
		if err != nil {
			return Function{}, false, err
		}
		f.End = f.Begin + uint64(n)
		return f, addr < f.End, nil
	}
	own, err := primary(im, fn)
	f.Start = m.Base + uint64(own.Begin)
	return f, true, err
}

// armLength is the length of a function of ARM64 in bytes: of packed unwind
// data, or of the record it points to ("ARM64 exception handling").
func armLength(im unwind.Image, fn pe.Function) (uint32, error) {
	if fn.Data&3 != 0 {
		return fn.Data >> 2 & 0x7FF * 4, nil
	}
	var b [4]byte
	if err := im.ReadRVA(fn.Data, b[:]); err != nil {
		return 0, err
	}
	return le.Uint32(b[:]) & 0x3FFFF * 4, nil
}

// primary follows chained unwind data of x64 to the function that a piece
// belongs to.
func primary(im unwind.Image, fn pe.Function) (pe.Function, error) {
	const chained = 4 // flag of UNWIND_INFO
	for range 32 {
		var b [12]byte
		if fn.Data&1 != 0 { // it points to another entry
			if err := im.ReadRVA(fn.Data&^1, b[:]); err != nil {
				return fn, err
			}
			fn.Data = le.Uint32(b[8:])
			continue
		}
		if err := im.ReadRVA(fn.Data, b[:4]); err != nil {
			return fn, err
		}
		if b[0]>>3&chained == 0 {
			return fn, nil
		}
		codes := uint32(b[2])
		if err := im.ReadRVA(fn.Data+4+2*((codes+1)&^1), b[:]); err != nil {
			return fn, err
		}
		fn = pe.Function{Begin: le.Uint32(b[:]), End: le.Uint32(b[4:]), Data: le.Uint32(b[8:])}
	}
	return fn, errors.New("the chain of unwind data goes in a circle")
}

// Routine is a function's code as far as it can be followed.
type Routine struct {
	Start  uint64
	Blocks []Block // by address
	// Incomplete: it jumps to addresses out of tables or registers, so there may
	// be more.
	Incomplete bool
}

// Block is code that is entered at its start only, and has no transfer but at
// its end.
type Block struct {
	Addr  uint64
	Insts []disasm.Inst
}

// maxRoutine bounds the instructions of a Routine.
const maxRoutine = 1 << 16

// Routine disassembles the function around an address, following its jumps. Where
// it begins tell its unwind data, or name, which finds the nearest symbol at or
// below an address; otherwise it begins at the address. It reads the function in
// one exchange where unwind data tells how long it is.
func (e *Engine) Routine(ctx context.Context, addr uint64, name func(addr uint64) (start uint64, ok bool)) (*Routine, error) {
	h, a, err := e.view()
	if err != nil {
		return nil, err
	}
	addr = a.Canon(addr)
	f, found, err := e.function(ctx, h, a, addr)
	if err != nil {
		return nil, err
	}
	r := &Routine{Start: addr}
	lo, hi := addr, addr
	switch {
	case found:
		r.Start, lo, hi = f.Start, f.Begin, f.End
	default:
		if s, ok := name(addr); ok && s <= addr && addr-s < maxRoutine {
			r.Start = s
		}
	}
	c := &coder{e: e, ctx: ctx, h: h, a: a, sym: e.Symbolize}
	if found && hi-lo <= 1<<20 {
		if _, err := e.read(ctx, h, a, Virtual, lo, int(hi-lo)); err != nil {
			return nil, err
		}
	}
	// own reports whether a jump stays in the function.
	own := func(to uint64) (bool, error) {
		if found && to >= lo && to < hi {
			return true, nil
		}
		g, ok, err := e.function(ctx, h, a, to)
		if err != nil {
			return false, err
		}
		if found || ok {
			return ok && g.Start == r.Start, nil
		}
		if s, ok := name(to); ok {
			return s == r.Start, nil
		}
		return to >= r.Start && to-r.Start < pageSize, nil
	}
	insts := map[uint64]disasm.Inst{}
	leaders := map[uint64]bool{r.Start: true}
	follow := func(from uint64) error {
		todo := []uint64{from}
		for len(todo) > 0 {
			at := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			for {
				if err := ctx.Err(); err != nil {
					return err
				}
				if _, ok := insts[at]; ok {
					break
				}
				if len(insts) >= maxRoutine {
					return fmt.Errorf("the function at %s has more than %d instructions", e.FormatAddr(r.Start), maxRoutine)
				}
				in, err := c.at(at)
				if err != nil {
					if at == r.Start {
						return err
					}
					r.Incomplete = true
					break
				}
				insts[at] = in
				next := a.Canon(at + uint64(in.Len))
				ends := !in.Valid() || in.Kind == disasm.Ret
				switch in.Kind {
				case disasm.Interrupt:
					ends = ends || noReturn(a, &in)
				case disasm.Jump, disasm.CondJump:
					ends = ends || in.Kind == disasm.Jump
					if !in.HasTarget {
						r.Incomplete = true
						break
					}
					ok, err := own(in.Target)
					if err != nil {
						return err
					}
					if ok {
						leaders[in.Target] = true
						todo = append(todo, in.Target)
					}
					leaders[next] = true
				case disasm.Call:
					// What never returns has no code behind it.
					if found && next == hi {
						ends = true
					}
				}
				if ends {
					break
				}
				if found && (next < lo || next >= hi) && at >= lo && at < hi {
					break // it falls out of its unwind data
				}
				at = next
			}
		}
		return nil
	}
	if err := follow(r.Start); err != nil {
		return nil, err
	}
	if found && addr != r.Start {
		if _, ok := insts[addr]; !ok {
			// Only a table leads there, or it is another piece.
			leaders[lo] = true
			if err := follow(lo); err != nil {
				return nil, err
			}
		}
	}
	r.build(a, insts, leaders)
	return r, nil
}

// noReturn reports whether nothing follows an interrupt instruction: int 3, ud2
// and __fastfail are what compilers put where nobody comes.
func noReturn(a *arch.Arch, in *disasm.Inst) bool {
	switch {
	case bytes.Equal(in.Bytes, a.Break):
		return true
	case a.Machine == kdproto.MachineARM64:
		return true // brk
	}
	return len(in.Bytes) >= 2 && (in.Bytes[0] == 0x0F || in.Bytes[0] == 0xCD && in.Bytes[1] == 0x29)
}

// build makes blocks of the instructions found.
func (r *Routine) build(a *arch.Arch, insts map[uint64]disasm.Inst, leaders map[uint64]bool) {
	addrs := make([]uint64, 0, len(insts))
	for at := range insts {
		addrs = append(addrs, at)
	}
	sort.Slice(addrs, func(i, j int) bool { return addrs[i] < addrs[j] })
	for i, at := range addrs {
		in := insts[at]
		n := len(r.Blocks)
		if n == 0 || leaders[at] || a.Canon(addrs[i-1]+uint64(insts[addrs[i-1]].Len)) != at {
			r.Blocks = append(r.Blocks, Block{Addr: at})
			n++
		}
		r.Blocks[n-1].Insts = append(r.Blocks[n-1].Insts, in)
	}
}

// coder decodes instructions out of halted memory, a page at a time.
type coder struct {
	e   *Engine
	ctx context.Context
	h   *halt
	a   *arch.Arch
	sym func(uint64) string
}

func (c *coder) at(addr uint64) (disasm.Inst, error) {
	in, err := c.e.inst(c.ctx, c.h, addr, c.sym)
	if err == nil {
		in.Bytes = append([]byte(nil), in.Bytes...)
	}
	return in, err
}

// A run lets the target go to the next place that a sequence of steps must look
// at, instead of through every instruction on the way: the code says which
// places those are, and they get breakpoints.
const (
	maxRun     = 4096 // instructions looked at
	maxRunRoom = 24   // breakpoints of a run
	// A run without unwind data goes so far from where it starts, in bytes.
	runReach = 4096
)

// errNoRun: the instruction must be stepped.
var errNoRun = errors.New("no run is possible")

// codeRange is the code from one address to another.
type codeRange struct{ from, to uint64 }

// lineRange is the code around pc that belongs to the line that a motion steps
// over; nil with other motions.
func (e *Engine) lineRange(ctx context.Context, h *halt, m *motion, pc uint64) *codeRange {
	if m.until != StepLine {
		return nil
	}
	l, ok := e.LineAt(ctx, pc, false)
	if !ok || !sameLine(&l, &m.line) {
		return &codeRange{pc, pc + 1}
	}
	return &codeRange{l.Addr, l.Addr + max(uint64(l.Size), 1)}
}

// Lines that compilers give code that belongs to none.
const (
	hiddenLine      = 0xFEEFEE
	hiddenLineOther = 0xF00F00
)

func sameLine(l, m *symbols.Line) bool {
	n := l.Line.Line
	return n == m.Line.Line && l.File == m.File || n == hiddenLine || n == hiddenLineOther
}

// runStop is a place where a run stops: in front of a return or of something
// else.
type runStop struct {
	addr uint64
	ret  bool
}

// way is a step of the search of run.
type way struct {
	to         uint64
	behindCall bool
}

// run finds where the target has to stop next when it goes on at pc. steps is
// how many instructions lead there, if there is only one way; 0 if not. called:
// there are calls on the way, which may come by the same places.
// errNoRun means that the instruction at pc must be stepped by itself. within, not
// nil, is code that the target must stop behind.
func (e *Engine) run(ctx context.Context, h *halt, pc uint64, until StepUntil, over bool, within *codeRange) (stops []runStop, steps int, called bool, err error) {
	a := e.Arch()
	pc = a.Canon(pc)
	first, err := e.inst(ctx, h, pc, nil)
	if err != nil {
		return nil, 0, false, errNoRun
	}
	lo, hi := pc-min(pc, runReach), pc+min(-pc-1, runReach)
	v := e.newView(ctx, h, a)
	f, bounded, err := v.function(pc)
	if bounded = bounded && err == nil; bounded {
		lo, hi = f.Begin, f.End
	}
	function := func(to uint64) bool { return to >= lo && to < hi }
	inside := function
	if within != nil {
		inside = func(to uint64) bool { return to >= within.from && to < within.to && function(to) }
	}
	// halts reports whether the target must stop in front of an instruction.
	halts := func(in *disasm.Inst) bool {
		if until.matches(in.Kind) {
			return true
		}
		switch in.Kind {
		case disasm.Ret, disasm.Syscall:
			return true
		case disasm.Interrupt:
			return !bytes.Equal(in.Bytes, a.Break)
		case disasm.Call:
			return !over
		case disasm.Jump, disasm.CondJump:
			return !in.HasTarget || !inside(in.Target)
		}
		return !in.Valid()
	}
	// The instruction at pc may be what the last stop was for.
	switch {
	case first.Kind == disasm.Call && over && until == StepToReturn:
	case first.Kind != disasm.Other && first.Kind != disasm.Rep && (until.matches(first.Kind) || halts(&first)):
		return nil, 0, false, errNoRun
	case !first.Valid():
		return nil, 0, false, errNoRun
	}
	if bytes.Equal(first.Bytes, a.Break) {
		return nil, 0, false, errNoRun
	}
	seen := map[uint64]bool{pc: true}
	var todo []way
	add := func(in *disasm.Inst) {
		called = called || in.Kind == disasm.Call
		if in.Kind != disasm.Jump {
			todo = append(todo, way{a.Canon(in.Addr + uint64(in.Len)), in.Kind == disasm.Call})
		}
		if in.Kind == disasm.Jump || in.Kind == disasm.CondJump {
			todo = append(todo, way{in.Target, false})
		}
	}
	add(&first)
	straight := first.Kind != disasm.CondJump
	for len(todo) > 0 {
		w := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if seen[w.to] {
			continue
		}
		seen[w.to] = true
		if !inside(w.to) {
			if !w.behindCall || !bounded || function(w.to) { // else the call never returns
				stops = append(stops, runStop{addr: w.to})
			}
			continue
		}
		in, err := e.inst(ctx, h, w.to, nil)
		if err != nil {
			if ctx.Err() != nil {
				return nil, 0, false, ctx.Err()
			}
			return nil, 0, false, errNoRun
		}
		if halts(&in) {
			stops = append(stops, runStop{w.to, in.Kind == disasm.Ret})
		} else if !bytes.Equal(in.Bytes, a.Break) { // there it stops by itself
			straight = straight && in.Kind != disasm.CondJump
			add(&in)
		}
		if len(seen) > maxRun || len(stops) > maxRunRoom {
			if until == StepToBranch {
				return nil, 0, false, errNoRun
			}
			return e.run(ctx, h, pc, StepToBranch, false, nil)
		}
	}
	if len(stops) == 1 && stops[0].addr == a.Canon(pc+uint64(first.Len)) && first.Kind == disasm.Other {
		return nil, 0, false, errNoRun // a step does as well
	}
	if straight && len(stops) == 1 {
		steps = len(seen) - 1
	}
	return stops, steps, called, nil
}

// frameOf is the canonical frame address of the function that a processor is
// in, if that can be told without asking the target; 0 if not.
func (e *Engine) frameOf(ctx context.Context, h *halt, n int) uint64 {
	a := e.Arch()
	s, err := e.state(ctx, h, n, false)
	if err != nil {
		return 0
	}
	r, err := unwind.FromContext(a.Machine, s.Context)
	if err != nil {
		return 0
	}
	v := e.newView(ctx, h, a)
	st := v.walk(r, StackOpt{Limit: 1})
	v.needStack(st, StackOpt{Limit: 1})
	if len(v.missing) > 0 || len(st.Frames) == 0 || st.Frames[0].How != unwind.UnwindData {
		return 0
	}
	return st.Frames[0].CFA
}
