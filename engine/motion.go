package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"openkd/arch"
	"openkd/image/disasm"
	"openkd/image/unwind"
	"openkd/kdproto"
	"openkd/symbols"
	"openkd/target"
)

type motionKind uint8

const (
	motionGo   motionKind = iota
	motionStep            // one instruction, or over one, or until a kind of instruction
)

// temp is a breakpoint of a motion: gone with the next stop.
type temp struct {
	addr uint64
	// thread, sp and frame limit the hit to the thread that the motion is about
	// and to its frame: recursion comes by with a lower stack pointer, and with
	// another canonical frame address. 0: any.
	thread, sp, frame uint64
}

// motion is what the target was let go for.
type motion struct {
	kind     motionKind
	status   kdproto.Status // of the first resume
	temps    []temp
	hwTemps  []uint64 // g's own addresses as processor breakpoints
	over     bool
	until    StepUntil
	trapping bool // the trap flag is set: a single-step exception ends this leg
	thread   uint64
	proc     int
	switched bool // the processor that steps is not the one that stopped first
	legs     int
	after    uint64       // StepTaken: what is behind the transfer of this leg; 0: it is none
	running  bool         // this leg goes to breakpoints at what comes next
	careful  bool         // every instruction is stepped: breakpoints cannot be placed
	line     symbols.Line // StepLine: where it began
	entered  bool         // StepLine: this leg went into a call
	hwOwner  [4]int       // breakpoint of each processor slot, -1 none, -2 the motion's own

	// off is set for the first leg when an execute breakpoint register points at
	// the program counter: it would hit again before anything runs, so that leg
	// is a single step without it. before: the leg is only that, and the motion
	// begins behind it.
	// late: before was interrupted, and its single step is still to come.
	off, before, late bool
	offAddr           uint64
}

// GoOpt says how Go lets the target go.
type GoOpt struct {
	// Status is the answer to the exception; 0 means what g means:
	// DbgExceptionHandled for exceptions, DbgContinue for other stops. gh is
	// DbgExceptionHandled, gn is DbgExceptionNotHandled.
	Status kdproto.Status
	From   *uint64  // new program counter first
	Until  []uint64 // stop there, once
	// UntilHW makes Until processor breakpoints.
	UntilHW bool

	out []temp // where StepOut ends
}

// StepUntil is where a sequence of steps ends.
type StepUntil uint8

// Ends of a sequence of steps.
const (
	StepOnce         StepUntil = iota // after one
	StepToReturn                      // in front of a return (pt, tt)
	StepToCall                        // in front of a call (pc, tc)
	StepToCallReturn                  // in front of either (pct, tct)
	StepToBranch                      // in front of any transfer (ph, th)
	StepTaken                         // behind the next transfer that is taken (tb)
	StepLine                          // at another line of source; once, where there is none
)

// StepOpt says how Step steps. A sequence is not made of single steps where the
// code shows what comes next: the target runs to that.
type StepOpt struct {
	Over   bool // calls, and repeated string instructions, count as one
	Until  StepUntil
	From   *uint64 // new program counter first
	Status kdproto.Status
}

// MaxLegs bounds a sequence of steps, so that it ends even where the
// instruction looked for never comes.
const MaxLegs = 1 << 20

// Go lets the target go and returns when it has been told; Wait tells how it
// ended. An *InsertError leaves it halted.
func (e *Engine) Go(ctx context.Context, opt GoOpt) error {
	h, a, err := e.view()
	if err != nil {
		return err
	}
	if len(opt.Until) > 0 && opt.UntilHW && len(opt.Until) > 4 {
		return errors.New("the processor has 4 breakpoint registers")
	}
	m := &motion{kind: motionGo, status: opt.Status, thread: h.stop.Thread, temps: slices.Clone(opt.out)}
	for _, addr := range opt.Until {
		if opt.UntilHW {
			m.hwTemps = append(m.hwTemps, a.Canon(addr))
		} else {
			m.temps = append(m.temps, temp{addr: a.Canon(addr)})
		}
	}
	if opt.From != nil {
		if err := e.setPC(ctx, h, *opt.From); err != nil {
			return err
		}
	}
	// The processor that stopped first must be the one that is answered.
	if err := e.switchTo(ctx, h, h.origin); err != nil {
		return err
	}
	return e.start(ctx, h, m)
}

// Step lets the target make one step of the processor that commands look at,
// or a sequence of them, and returns when it has been told; Wait tells how it
// ended.
func (e *Engine) Step(ctx context.Context, opt StepOpt) error {
	h, _, err := e.view()
	if err != nil {
		return err
	}
	n := h.pick(-1)
	if err := e.switchTo(ctx, h, n); err != nil {
		return err
	}
	if opt.From != nil {
		if err := e.setPC(ctx, h, *opt.From); err != nil {
			return err
		}
	}
	var line symbols.Line
	if opt.Until == StepLine {
		s, err := e.state(ctx, h, n, false)
		if err != nil {
			return err
		}
		var ok bool
		if line, ok = e.LineAt(ctx, e.Arch().PC(s.Context), true); !ok {
			opt.Until = StepOnce
		}
	}
	if (opt.Until == StepOnce || opt.Until == StepLine) && !opt.Status.Failed() {
		if done, err := e.stepCoded(ctx, h, n); done || err != nil {
			return err
		}
	}
	m := &motion{kind: motionStep, status: opt.Status, over: opt.Over, until: opt.Until, line: line, proc: n, switched: n != h.origin, thread: e.stopOf(h).Thread}
	if err := e.leg(ctx, h, m); err != nil {
		return err
	}
	return e.start(ctx, h, m)
}

// stepCoded steps over a breakpoint or assertion instruction that is part of the
// program: the program counter moves behind it and nothing runs. Letting it run would raise
// the exception again, and the target's own way past it goes one further.
func (e *Engine) stepCoded(ctx context.Context, h *halt, n int) (bool, error) {
	stop := e.stopOf(h)
	a := e.Arch()
	if stop.Exception == nil || trapOf(a, stop.Exception.Code) == nil {
		return false, nil
	}
	s, err := e.state(ctx, h, n, false)
	if err != nil {
		return false, err
	}
	pc := a.PC(s.Context)
	if pc != stop.PC {
		return false, nil
	}
	d, err := e.read(ctx, h, a, Virtual, pc, len(trapOf(a, stop.Exception.Code)))
	if err != nil || !isTrap(a, stop.Exception.Code, d) {
		return false, err
	}
	pc = a.Canon(pc + uint64(len(d.Bytes)))
	a.SetPC(s.Context, pc)
	if err := e.setContext(ctx, h, n, s.Context); err != nil {
		return false, err
	}
	now := *stop
	now.PC, now.Asked, now.Breakpoint, now.Again = pc, false, false, false
	x := *stop.Exception
	x.Code = kdproto.StatusSingleStep
	now.Exception = &x
	shown := &Stop{Stop: &now, Reason: ReasonStep, Description: singleStep, Steps: 1, Time: e.opt.Now()}
	h.mu.Lock()
	h.scope = scope{}
	h.mu.Unlock()
	e.mu.Lock()
	h.stop, e.lastStop = &now, shown
	e.mu.Unlock()
	e.emit(Event{Event: target.Event{Kind: target.EventHalted, Stop: &now}, Stop: shown})
	return true, nil
}

// assertion is int 2Ch, with which x86 and x64 kernels report a failed
// assertion. The exception is reported at the instruction.
var assertion = []byte{0xCD, 0x2C}

// trapOf is the instruction that raises an exception because it is meant to,
// nil where there is none.
func trapOf(a *arch.Arch, code kdproto.Status) []byte {
	switch {
	case code == kdproto.StatusBreakpoint:
		return a.Break
	case code == kdproto.StatusAssertionFailure && (a.Machine == kdproto.MachineI386 || a.Machine == kdproto.MachineAMD64):
		return assertion
	}
	return nil
}

// isTrap reports whether d, the bytes at the program counter, is that
// instruction.
func isTrap(a *arch.Arch, code kdproto.Status, d Data) bool {
	t := trapOf(a, code)
	return len(t) > 0 && d.Complete() && bytes.Equal(d.Bytes, t)
}

const singleStep = "Single step exception - code 80000004 (first chance)"

func (e *Engine) stopOf(h *halt) *target.Stop {
	e.mu.Lock()
	defer e.mu.Unlock()
	return h.stop
}

func (e *Engine) setPC(ctx context.Context, h *halt, pc uint64) error {
	n := h.pick(-1)
	if err := e.switchTo(ctx, h, n); err != nil {
		return err
	}
	s, err := e.state(ctx, h, n, false)
	if err != nil {
		return err
	}
	e.Arch().SetPC(s.Context, pc)
	return e.setContext(ctx, h, n, s.Context)
}

// leg prepares one step of m: the trap flag, a breakpoint behind the instruction
// when that is to be stepped over, or breakpoints at what a sequence comes to
// next.
func (e *Engine) leg(ctx context.Context, h *halt, m *motion) error {
	m.temps, m.trapping, m.running, m.after, m.entered = nil, true, false, 0, m.entered && m.until == StepLine
	m.legs++
	if !m.over && m.until == StepOnce {
		return nil
	}
	a := e.Arch()
	s, err := e.state(ctx, h, m.proc, false)
	if err != nil {
		return err
	}
	pc := a.Canon(a.PC(s.Context))
	if m.until != StepOnce && !m.careful {
		stops, steps, called, err := e.run(ctx, h, pc, m.until, m.over, e.lineRange(ctx, h, m, pc))
		if err == nil {
			frame := e.frameOf(ctx, h, m.proc)
			for _, st := range stops {
				t := temp{addr: st.addr, thread: m.thread, frame: frame}
				if called && st.ret {
					t.sp = a.SP(s.Context) // it was not higher before
				} else if called && frame == 0 {
					err = errNoRun // a recursion could not be told from this call
				}
				m.temps = append(m.temps, t)
			}
			if err == nil {
				m.trapping, m.running = false, true
				m.legs += max(steps-1, 0)
				return nil
			}
			m.temps = nil
		}
		if !errors.Is(err, errNoRun) {
			return err
		}
	}
	in, err := e.inst(ctx, h, pc, nil)
	if err != nil {
		return nil // unreadable: the trap flag works all the same
	}
	m.entered = in.Kind == disasm.Call || m.entered && in.Kind == disasm.Jump
	if m.until == StepTaken && transfers(in.Kind) {
		m.after = a.Canon(pc + uint64(in.Len))
	}
	if !m.over {
		return nil
	}
	if in.Kind == disasm.Call || in.Kind == disasm.Rep {
		m.trapping = false
		t := temp{addr: a.Canon(in.Addr + uint64(in.Len)), thread: m.thread}
		if in.Kind == disasm.Call {
			t.sp = a.SP(s.Context)
		}
		m.temps = []temp{t}
	}
	return nil
}

// Instruction decodes the instruction at addr.
func (e *Engine) Instruction(ctx context.Context, addr uint64) (disasm.Inst, error) {
	h, _, err := e.view()
	if err != nil {
		return disasm.Inst{}, err
	}
	return e.decodeAt(ctx, h, addr)
}

func (e *Engine) decodeAt(ctx context.Context, h *halt, addr uint64) (disasm.Inst, error) {
	return e.inst(ctx, h, addr, e.Symbolize)
}

// inst is decodeAt with other names, or without any.
func (e *Engine) inst(ctx context.Context, h *halt, addr uint64, sym func(uint64) string) (disasm.Inst, error) {
	a := e.Arch()
	addr = a.Canon(addr)
	const longest = 16
	// Look at what is known first: an instruction that ends inside it needs no
	// exchange for the bytes behind.
	h.mu.Lock()
	d := h.copyOut(a, Virtual, addr, longest)
	h.mu.Unlock()
	b := d.Prefix()
	if len(b) > 0 {
		if in, err := disasm.Decode(a.Machine, b, addr, sym); err == nil && (len(b) == longest || in.Mnemonic != "???") {
			return in, nil
		}
	}
	d, err := e.read(ctx, h, a, Virtual, addr, longest)
	if err != nil {
		return disasm.Inst{}, err
	}
	if b = d.Prefix(); len(b) == 0 {
		return disasm.Inst{}, &MemoryError{Addr: addr, Status: d.Status}
	}
	return disasm.Decode(a.Machine, b, addr, sym)
}

// start hands the target over to m.
func (e *Engine) start(ctx context.Context, h *halt, m *motion) error {
	status := m.status
	if status == 0 {
		status = kdproto.DbgContinue
		if s := e.stopOf(h); s.Reason == target.StopException {
			status = kdproto.DbgExceptionHandled
		}
	}
	if e.bps.waits() {
		for _, l := range e.placePending(ctx, "", true) {
			e.notice("%s", l)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	if err := e.leaveStop(ctx, h, m, status); err != nil {
		return err
	}
	err := e.letGo(ctx, h, m, status)
	if m.running && noRoom(err) {
		m.careful = true
		if err := e.leg(ctx, h, m); err != nil {
			return err
		}
		return e.letGo(ctx, h, m, status)
	}
	return err
}

// noRoom reports whether a breakpoint could not be placed.
func noRoom(err error) bool {
	var ie *InsertError
	var full *fullError
	return errors.As(err, &ie) || errors.As(err, &full)
}

// letGo makes one attempt of start.
func (e *Engine) letGo(ctx context.Context, h *halt, m *motion, status kdproto.Status) error {
	r, err := e.resumeFor(m, status)
	if err != nil {
		return err
	}
	config, same := e.wantedConfig()
	if !same {
		r.Config = &config // in the same exchange
	}
	e.mu.Lock()
	if e.halt != h {
		e.mu.Unlock()
		return target.ErrRunning
	}
	e.halt, e.motion = nil, m
	e.userBreak = false
	e.mu.Unlock()
	if err := e.t.Resume(ctx, r); err != nil {
		e.restore(h)
		var ie *target.InsertError
		if errors.As(err, &ie) {
			return e.bps.insertError(ie)
		}
		return err
	}
	e.mu.Lock()
	e.config = config
	e.mu.Unlock()
	return nil
}

// leaveStop deals with what would stop the target again where it stands.
func (e *Engine) leaveStop(ctx context.Context, h *halt, m *motion, status kdproto.Status) error {
	a := e.Arch()
	e.mu.Lock()
	stop, n := h.stop, h.reporter
	e.mu.Unlock()
	h.mu.Lock()
	c := h.cpus[n]
	pc, touched := stop.PC, false
	var record []byte
	if c != nil && len(c.context) > 0 {
		record, touched = append(record, c.context...), c.touched
		pc = a.PC(record)
	}
	d := h.copyOut(a, Virtual, pc, len(a.Break))
	h.mu.Unlock()
	// A coded breakpoint is passed by the target's side, unless the context was
	// written: then the program counter is taken as it is, so it must be moved.
	if touched && pc == stop.PC && !status.Failed() && stop.Exception != nil && stop.Exception.Code == kdproto.StatusBreakpoint &&
		len(e.bps.at(pc)) == 0 && d.Complete() && bytes.Equal(d.Bytes, a.Break) {
		a.SetPC(record, a.Canon(pc+uint64(len(a.Break))))
		return e.setContext(ctx, h, n, record)
	}
	// Nobody passes the instruction of an assertion but the debugger.
	if stop.Exception != nil && stop.Exception.Code == kdproto.StatusAssertionFailure && pc == stop.PC && !status.Failed() && trapOf(a, stop.Exception.Code) != nil {
		d, err := e.read(ctx, h, a, Virtual, pc, len(assertion))
		if err != nil {
			return err
		}
		if isTrap(a, stop.Exception.Code, d) {
			s, err := e.state(ctx, h, n, false)
			if err != nil {
				return err
			}
			a.SetPC(s.Context, a.Canon(pc+uint64(len(assertion))))
			return e.setContext(ctx, h, n, s.Context)
		}
	}
	_, hw, _ := e.bps.active()
	for _, b := range hw {
		if b.Enabled && b.Kind == arch.HWExecute && a.Canon(b.Addr) == pc {
			m.off, m.offAddr = true, b.Addr
			if m.kind != motionStep || !m.trapping {
				m.before = true
			}
		}
	}
	return nil
}

// restore puts the view of a halt back after a resume that did not happen,
// unless the target has moved on meanwhile.
func (e *Engine) restore(h *halt) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if h != nil && e.halt == nil && e.internal == nil && !e.closed && !e.isLost {
		e.halt, e.motion = h, nil
		e.wake()
	}
}

// resumeFor builds the order for a motion, with all breakpoints.
func (e *Engine) resumeFor(m *motion, status kdproto.Status) (target.Resume, error) {
	soft, hw, owner := e.bps.active()
	r := target.Resume{Mode: target.Go, Status: status, Breakpoints: soft, Hardware: hw}
	if m.kind == motionStep && m.trapping || m.before {
		r.Mode = target.Step
	}
	if m.off {
		for i, b := range r.Hardware {
			if b.Kind == arch.HWExecute && b.Addr == m.offAddr {
				r.Hardware[i].Enabled = false
			}
		}
	}
	have := make(map[uint64]bool, len(soft))
	for _, s := range soft {
		have[s] = true
	}
	for _, t := range m.temps {
		if !have[t.addr] {
			have[t.addr] = true
			r.Breakpoints = append(r.Breakpoints, t.addr)
		}
	}
	if len(r.Breakpoints) > MaxSoftware {
		return r, &fullError{len(r.Breakpoints)}
	}
	for _, addr := range m.hwTemps {
		i := 0
		for i < 4 && r.Hardware[i].Enabled {
			i++
		}
		if i == 4 {
			return r, errors.New("the processor has 4 breakpoint registers and all are in use; disable or clear one, or use g instead of ga")
		}
		r.Hardware[i] = target.HWBreak{Enabled: true, Len: 1, Addr: addr}
		owner[i] = -2
	}
	m.hwOwner = owner
	return r, nil
}

// fullError says that a motion needs more breakpoints than there are.
type fullError struct{ n int }

func (e *fullError) Error() string {
	return fmt.Sprintf("this needs %d software breakpoints and the target's table holds %d; disable (bd) or clear (bc) some, or use ga", e.n, MaxSoftware)
}

// StepOut lets the target go until the function returns that the current
// processor is in; in a recursion, this call of it. Who goes on from a stop on the
// way to the same end does so with again.
func (e *Engine) StepOut(ctx context.Context) (again GoOpt, err error) {
	h, a, err := e.view()
	if err != nil {
		return again, err
	}
	n := h.pick(-1)
	r, err := e.Regs(ctx, n)
	if err != nil {
		return again, err
	}
	s, err := e.Stack(ctx, r, StackOpt{Limit: 1, NoInline: true})
	if err != nil {
		return again, err
	}
	if len(s.Frames) == 0 || s.Frames[0].Return == 0 {
		return again, noCaller(s.End)
	}
	if err := e.switchTo(ctx, h, n); err != nil {
		return again, err
	}
	f := &s.Frames[0]
	m := &motion{kind: motionGo, thread: e.stopOf(h).Thread, proc: n, switched: n != h.origin}
	t := temp{addr: a.Canon(f.Return), thread: m.thread}
	if f.How != unwind.Guess {
		t.sp = f.CFA
	}
	m.temps = []temp{t}
	again.out = []temp{t}
	return again, e.start(ctx, h, m)
}
