package engine

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"openkd/arch"
	"openkd/image/disasm"
	"openkd/kdproto"
	"openkd/target"
)

// Reason is why the user sees a stop.
type Reason uint8

// Reasons.
const (
	ReasonException  Reason = iota
	ReasonBreakIn           // asked for
	ReasonBreakpoint        // Breakpoints
	ReasonStep              // the step or the sequence of steps is done, or g's own address reached
	ReasonBugCheck          // BugCheck
	ReasonLoad
	ReasonUnload
	ReasonAgain // met halted, or reported again: nothing new happened
	ReasonInsert
)

var reasonNames = [...]string{"exception", "break-in", "breakpoint", "step", "bug check", "module load", "module unload", "halted already", "breakpoint not inserted"}

func (r Reason) String() string {
	if int(r) < len(reasonNames) {
		return reasonNames[r]
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

// Stop is a stop that the user sees.
type Stop struct {
	*target.Stop
	Reason Reason
	// Headline is what WinDbg prints first: "Breakpoint 1 hit", "Break
	// instruction exception - code 80000003 (first chance)", "ModLoad: ...".
	// Empty after a step. It may have several lines.
	Headline string
	// Description is the event in words, as .lastevent tells it.
	Description string
	// Breakpoints are the ones that were hit, with their commands, as they stood
	// when they were (a one-shot one is gone from the list).
	Breakpoints []Breakpoint
	// Commands are those of the event's filter (sxe -c).
	Commands string
	BugCheck *BugCheck
	Steps    int       // steps made by a sequence
	Time     time.Time // when the target told of it, by the clock next to the line
}

// BugCheck is what the kernel says about its end.
type BugCheck struct {
	Code   uint64
	Args   [4]uint64
	Status uint64 // 3 before, 4 after the dump; 0 unknown
	Repeat bool   // status 4 again: it stops here at every go
}

// Status arguments of DbgBreakPointWithStatus.
const (
	statusBugCheckFirst  = 3
	statusBugCheckSecond = 4
)

// verdict is what becomes of a stop: shown, or passed with a resume.
type verdict struct {
	stop   *Stop
	status kdproto.Status // of the silent resume
	mode   *motion        // goes on with it; nil: a plain go
	notice string
	// breakIn: the user waits for a stop, and this one was only in front of it.
	breakIn bool
}

// halted judges a halt of the target: shows it, or lets the target go on.
func (e *Engine) halted(ctx context.Context, ev target.Event) {
	s := ev.Stop
	e.mu.Lock()
	if e.switching != nil && (s.Switched || s.Again) && e.halt != nil {
		e.adopt(s)
		e.mu.Unlock()
		return
	}
	e.mu.Unlock()
	h := newHalt(s)
	e.mu.Lock()
	// A second report while halted (a break-in byte that came late) keeps what
	// the user looks at.
	m := e.motion
	e.halt, e.internal = nil, h
	e.isLost, e.lost = false, ""
	e.mu.Unlock()

	v := e.judge(ctx, h, m)
	if v.notice != "" {
		e.notice("%s", v.notice)
	}
	e.mu.Lock()
	asked := e.userBreak
	e.mu.Unlock()
	if v.stop == nil && asked && s.Exception != nil {
		line := exceptionLine(s.Exception)
		v.stop = &Stop{Stop: s, Reason: ReasonBreakIn, Headline: line, Description: line, Steps: legs(m)}
	}
	if v.stop == nil {
		err := e.passOn(ctx, h, v)
		if err == nil {
			return
		}
		if ctx.Err() != nil || errors.Is(err, target.ErrRunning) || errors.Is(err, target.ErrLost) || errors.Is(err, target.ErrClosed) {
			return // an event tells, or told
		}
		v.stop = &Stop{Stop: s, Reason: ReasonInsert, Headline: err.Error(), Description: "breakpoint not inserted"}
	}
	e.meetKernel(ctx, h)
	e.present(h, v.stop, ev)
}

// adopt takes the report of a processor switch into the view. mu is held.
func (e *Engine) adopt(s *target.Stop) {
	h := e.halt
	if s.Processor != e.switchCPU {
		e.endSwitch(fmt.Errorf("the target did not switch to processor %d; processor %d answers", e.switchCPU, s.Processor))
		return
	}
	h.reporter, h.stop = s.Processor, mergeStop(h.stop, s)
	h.mu.Lock()
	old := h.cpus[s.Processor]
	h.mu.Unlock()
	h.takeBundle(s)
	h.mu.Lock()
	if c := h.cpus[s.Processor]; old != nil {
		if len(c.context) == 0 {
			c.context = old.context
		}
		if len(c.special) == 0 {
			c.special = old.special
		}
	}
	h.mu.Unlock()
	e.endSwitch(nil)
}

// mergeStop is the stop as it looks from another processor: why it stopped
// stays, who talks changes.
func mergeStop(old, now *target.Stop) *target.Stop {
	s := *now
	s.Reason, s.Exception, s.Module, s.Command = old.Reason, old.Exception, old.Module, old.Command
	s.Asked, s.Breakpoint = old.Asked, old.Breakpoint
	return &s
}

// present shows a stop.
func (e *Engine) present(h *halt, s *Stop, ev target.Event) {
	e.mu.Lock()
	e.motion, e.internal = nil, nil
	e.userBreak, e.toldRunning = false, false
	s.Time = ev.Time
	e.lastStop = s
	if s.Reason != ReasonBugCheck {
		e.lastBug = 0
	}
	e.mu.Unlock()
	e.emit(Event{Event: ev, Stop: s})
	e.mu.Lock()
	e.halt = h
	e.wake()
	e.mu.Unlock()
}

// passOn lets the target go on after a stop that the user does not see.
func (e *Engine) passOn(ctx context.Context, h *halt, v verdict) error {
	m := v.mode
	if m == nil {
		m = &motion{kind: motionGo}
	}
	err := e.passOnce(ctx, v, m)
	if m.running && noRoom(err) {
		m.careful = true
		if err := e.leg(ctx, h, m); err != nil {
			return err
		}
		return e.passOnce(ctx, v, m)
	}
	return err
}

// passOnce makes one attempt of passOn.
func (e *Engine) passOnce(ctx context.Context, v verdict, m *motion) error {
	r, err := e.resumeFor(m, v.status)
	if err != nil {
		return err
	}
	e.mu.Lock()
	e.internal, e.motion = nil, v.mode
	asked := e.userBreak
	e.mu.Unlock()
	r.BreakIn = asked || v.breakIn
	if err := e.t.Resume(ctx, r); err != nil {
		var ie *target.InsertError
		if errors.As(err, &ie) {
			return e.bps.insertError(ie)
		}
		return err
	}
	e.mu.Lock()
	late := e.userBreak && !asked
	e.mu.Unlock()
	if late {
		// The target may have taken that request for one to a halted target.
		if err := e.t.BreakIn(ctx); err != nil && !errors.Is(err, target.ErrHalted) {
			e.notice("The break-in could not be sent: %v", err)
		}
	}
	return nil
}

// on lets m go on as it was.
func on(m *motion, status kdproto.Status) verdict {
	if m != nil && (m.trapping || m.before) {
		// The trap flag stays set in the thread that steps; this resume is
		// another processor's.
		c := *m
		c.trapping, c.before, c.off = false, false, false
		c.late = m.before
		return verdict{status: status, mode: &c}
	}
	return verdict{status: status, mode: m}
}

func (e *Engine) judge(ctx context.Context, h *halt, m *motion) verdict {
	s := h.stop
	show := func(r Reason, headline, description string) verdict {
		st := &Stop{Stop: s, Reason: r, Headline: headline, Description: description, Steps: legs(m)}
		if x := s.Exception; x != nil && r == ReasonException {
			f := e.filterOf(x.Code)
			st.Commands = f.commands(x.FirstChance)
		}
		return verdict{stop: st}
	}
	e.mu.Lock()
	stray := e.strayStep
	e.strayStep = false
	if s.Reason == target.StopException {
		e.rebooted = false
	}
	e.mu.Unlock()

	switch s.Reason {
	case target.StopLoad, target.StopUnload:
		return e.judgeModule(ctx, h, m)
	case target.StopCommand:
		return verdict{notice: "The target sent a debugger command, which was not run: " + printable(s.Command), status: kdproto.DbgContinue, mode: m}
	}
	x := s.Exception
	if x == nil {
		return show(ReasonAgain, "", "the target is halted")
	}
	if m != nil && (s.Again || s.Switched) && m.switched && m.legs > 0 && !s.Asked {
		// The processor that stopped first reports again when another one was
		// let go; the second answer makes the target run.
		return verdict{status: kdproto.DbgExceptionHandled, mode: untrapped(m)}
	}
	if e.placeAt(ctx, h, "") {
		e.tellConfig(ctx)
	}
	if s.Again && m == nil {
		return show(ReasonAgain, exceptionLine(x), exceptionLine(x))
	}

	switch x.Code {
	case kdproto.StatusBreakpoint:
		if v, ok := e.judgeBreakpoint(ctx, h, m); ok {
			return v
		}
		if b := e.bugCheckAt(ctx, h); b != nil {
			v := show(ReasonBugCheck, exceptionLine(x), bugLine(b))
			v.stop.BugCheck = b
			return v
		}
		if s.Asked {
			return show(ReasonBreakIn, exceptionLine(x), exceptionLine(x))
		}
		return show(ReasonException, exceptionLine(x), exceptionLine(x))
	case kdproto.StatusSingleStep:
		return e.judgeStep(ctx, h, m, stray)
	case kdproto.StatusWakeSystemDebugger:
		if s.Switched || s.Again {
			return show(ReasonAgain, "", "the target is halted")
		}
	case kdproto.StatusAssertionFailure:
		return show(ReasonException, exceptionLine(x), exceptionLine(x))
	}
	f := e.filterOf(x.Code)
	if pass, status := f.passes(x.FirstChance); pass && !s.Asked && (m == nil || m.kind == motionGo) {
		v := verdict{status: status, mode: m}
		if f.Action != FilterIgnore {
			v.notice = exceptionLine(x) + e.where(s.PC)
		}
		return v
	}
	return show(ReasonException, exceptionLine(x), exceptionLine(x))
}

func legs(m *motion) int {
	if m == nil {
		return 0
	}
	return m.legs
}

func untrapped(m *motion) *motion {
	c := *m
	c.switched, c.trapping = false, false
	return &c
}

func (e *Engine) where(pc uint64) string {
	if n := e.Symbolize(pc); n != "" {
		return " at " + n
	}
	return " at " + e.FormatAddr(pc)
}

// judgeBreakpoint judges a breakpoint exception where one of ours was. ok is
// false when it is none of ours.
func (e *Engine) judgeBreakpoint(ctx context.Context, h *halt, m *motion) (verdict, bool) {
	s := h.stop
	at := e.bps.at(s.PC)
	var t *temp
	if m != nil {
		for i := range m.temps {
			if m.temps[i].addr == s.PC {
				t = &m.temps[i]
			}
		}
	}
	if len(at) == 0 && t == nil {
		if s.Breakpoint {
			// One that was taken off the list while the target ran.
			return on(m, kdproto.DbgExceptionHandled), true
		}
		return verdict{}, false
	}
	if v, ok := e.hits(ctx, h, m, at); ok {
		return v, true
	}
	if t != nil && e.arrived(ctx, h, t) {
		return e.legDone(ctx, h, m), true
	}
	if s.Asked {
		return verdict{}, false
	}
	return on(m, kdproto.DbgExceptionHandled), true
}

// hits counts the hits of breakpoints and shows the stop when one of them
// counts.
func (e *Engine) hits(ctx context.Context, h *halt, m *motion, at []Breakpoint) (verdict, bool) {
	s := h.stop
	var hit []Breakpoint
	for _, b := range at {
		if b.Thread != 0 && e.canon(b.Thread) != e.canon(s.Thread) {
			continue
		}
		if b.Process != 0 && !e.inProcess(ctx, h, b.Process) {
			continue
		}
		if !e.depthFits(ctx, h, &b) {
			continue
		}
		if e.bps.pass(b.ID, m == nil || m.kind == motionGo) {
			b.PassesLeft = 1
			hit = append(hit, b)
		}
	}
	if len(hit) == 0 {
		return verdict{}, false
	}
	if m != nil && m.kind == motionStep && m.trapping {
		e.mu.Lock()
		e.strayStep = true
		e.mu.Unlock()
	}
	var lines []string
	for _, b := range hit {
		lines = append(lines, fmt.Sprintf("Breakpoint %d hit", b.ID))
	}
	return verdict{stop: &Stop{Stop: s, Reason: ReasonBreakpoint, Headline: strings.Join(lines, "\n"),
		Description: "Hit breakpoint " + fmt.Sprint(hit[0].ID), Breakpoints: hit, Steps: legs(m)}}, true
}

// arrived reports whether a temporary breakpoint was hit by the one it is for.
func (e *Engine) arrived(ctx context.Context, h *halt, t *temp) bool {
	s := h.stop
	if t.thread != 0 && t.thread != s.Thread {
		return false
	}
	if t.frame != 0 {
		if f := e.frameOf(ctx, h, s.Processor); f != 0 && f != t.frame {
			return false
		}
	}
	if t.sp == 0 {
		return true
	}
	st, err := e.state(ctx, h, s.Processor, false)
	if err != nil {
		return true // better one stop too many than none
	}
	return e.Arch().SP(st.Context) >= t.sp
}

// judgeStep judges a single-step exception: ours, of a processor breakpoint, or
// from nowhere.
func (e *Engine) judgeStep(ctx context.Context, h *halt, m *motion, stray bool) verdict {
	s := h.stop
	d := arch.DecodeDr6(s.Dr6)
	owner := [4]int{-1, -1, -1, -1}
	if m != nil {
		owner = m.hwOwner
	} else {
		_, _, owner = e.bps.active()
	}
	var at []Breakpoint
	mine, any := false, false
	for i, hit := range d.Hit {
		switch {
		case !hit || owner[i] == -1:
		case owner[i] == -2:
			mine, any = true, true
		default:
			if b, ok := e.bps.Get(owner[i]); ok {
				at, any = append(at, b), true
			}
		}
	}
	if v, ok := e.hits(ctx, h, m, at); ok {
		return v
	}
	if m != nil && (m.before || m.late) && (d.SingleStep || !any) {
		c := *m
		c.before, c.late, c.off = false, false, false
		return verdict{status: kdproto.DbgExceptionHandled, mode: &c}
	}
	if mine {
		return e.legDone(ctx, h, m)
	}
	if m != nil && m.kind == motionStep && m.legs > 0 && len(m.temps) == 0 && (d.SingleStep || !any) {
		return e.legDone(ctx, h, m)
	}
	if any || stray {
		return verdict{status: kdproto.DbgExceptionHandled, mode: m}
	}
	line := exceptionLine(s.Exception)
	return verdict{stop: &Stop{Stop: s, Reason: ReasonException, Headline: line, Description: line, Steps: legs(m)}}
}

// legDone ends a step, or makes the next one of a sequence.
func (e *Engine) legDone(ctx context.Context, h *halt, m *motion) verdict {
	done := verdict{stop: &Stop{Stop: h.stop, Reason: ReasonStep, Description: singleStep, Steps: m.legs}}
	if m.kind == motionGo {
		done.stop.Description = "Hit temporary breakpoint"
		return done
	}
	if m.until == StepOnce {
		return done
	}
	e.mu.Lock()
	asked := e.userBreak
	e.mu.Unlock()
	if asked || m.legs >= MaxLegs {
		return done
	}
	if m.until == StepLine {
		if v, ok := e.lineDone(ctx, h, m); ok {
			return v
		}
		return done
	}
	if m.after != 0 && m.after != h.stop.PC {
		return done
	}
	in, err := e.decodeAt(ctx, h, h.stop.PC)
	if err != nil || m.until != StepTaken && m.until.matches(in.Kind) {
		return done
	}
	c := *m
	c.proc = h.stop.Processor
	c.switched, c.off = false, false
	if err := e.leg(ctx, h, &c); err != nil {
		return done
	}
	return verdict{status: kdproto.DbgExceptionHandled, mode: &c}
}

// lineDone lets a step by source lines go on where it has not come to another line;
// false: it has, or there is nothing to go on to.
func (e *Engine) lineDone(ctx context.Context, h *halt, m *motion) (verdict, bool) {
	pc := h.stop.PC
	known, done := e.placing(ctx, h)
	l, ok := e.LineAt(known, pc, true)
	done()
	if ok && !sameLine(&l, &m.line) {
		return verdict{}, false
	}
	c := *m
	c.proc = h.stop.Processor
	c.switched, c.off = false, false
	on := verdict{status: kdproto.DbgExceptionHandled, mode: &c}
	if !ok {
		if !m.entered {
			return verdict{}, false
		}
		if in, err := e.decodeAt(ctx, h, pc); err != nil || in.Kind != disasm.Jump {
			// A function without lines is stepped over; a jump leads to one that may
			// have some.
			t, ok := e.returnOf(ctx, h)
			if !ok {
				return verdict{}, false
			}
			c.temps, c.trapping, c.running, c.entered = []temp{t}, false, false, false
			c.legs++
			return on, true
		}
	}
	if err := e.leg(ctx, h, &c); err != nil {
		return verdict{}, false
	}
	return on, true
}

// returnOf is where the function returns to that has just been called.
func (e *Engine) returnOf(ctx context.Context, h *halt) (temp, bool) {
	a := e.Arch()
	s, err := e.state(ctx, h, h.stop.Processor, false)
	if err != nil {
		return temp{}, false
	}
	t := temp{thread: h.stop.Thread, sp: a.SP(s.Context)}
	if a.Machine == kdproto.MachineARM64 {
		r, ok := a.Reg("lr")
		if !ok {
			return temp{}, false
		}
		v, ok := r.Get(s)
		t.addr = v.Lo
		return t, ok && t.addr != 0
	}
	d, err := e.read(ctx, h, a, Virtual, t.sp, a.PointerSize)
	if err != nil || !d.Complete() {
		return temp{}, false
	}
	t.addr, t.sp = a.Canon(uintOf(d.Bytes)), t.sp+uint64(a.PointerSize)
	return t, true
}

func (u StepUntil) matches(k disasm.Kind) bool {
	switch u {
	case StepToReturn:
		return k == disasm.Ret
	case StepToCall:
		return k == disasm.Call
	case StepToCallReturn:
		return k == disasm.Call || k == disasm.Ret
	case StepToBranch, StepTaken:
		return transfers(k)
	case StepLine:
		return false
	}
	return true
}

// transfers reports whether an instruction goes elsewhere.
func transfers(k disasm.Kind) bool {
	return k == disasm.Call || k == disasm.Ret || k == disasm.Jump || k == disasm.CondJump
}

// judgeModule judges a stop at a module load or unload: asked for by the user,
// or by the engine to place breakpoints.
func (e *Engine) judgeModule(ctx context.Context, h *halt, m *motion) verdict {
	s := h.stop
	if s.Module == nil {
		return verdict{status: kdproto.DbgContinue, mode: m}
	}
	unload := s.Reason == target.StopUnload
	mod := *s.Module
	mod.Unload = mod.Unload || unload
	e.mu.Lock()
	name := e.moduleEvent(&mod)
	boot := !unload && (e.rebooted || name == "nt")
	if boot {
		e.rebooted = false
	}
	first, initial := boot && e.opt.Config.BreakOnFirstLoad, boot && e.opt.Config.Break
	load, gone := e.opt.Config.StopOnLoad, e.opt.Config.StopOnUnload
	e.mu.Unlock()
	if unload {
		e.moduleGone(ctx, mod.Base)
	} else {
		e.placeAt(ctx, h, name)
	}
	e.tellConfig(ctx)
	want := gone
	reason, word := ReasonUnload, "Unload"
	if !unload {
		want, reason, word = load, ReasonLoad, "Load"
	}
	if !first && (want == "" || !matchModule(want, name, baseName(mod.Path))) {
		return verdict{status: kdproto.DbgContinue, mode: m, breakIn: initial}
	}
	f := e.filterNamed(moduleFilter(unload))
	return verdict{stop: &Stop{Stop: s, Reason: reason, Headline: e.moduleLine(&mod, name), Description: word + " module " + e.moduleText(&mod, name), Commands: f.commands(true), Steps: legs(m)}}
}

// moduleLine is WinDbg's line of a load or unload.
func (e *Engine) moduleLine(m *target.Module, name string) string {
	if m.Unload {
		return "Unload module " + e.moduleText(m, name)
	}
	n := baseName(m.Path)
	if n == "" {
		n = name
	}
	return fmt.Sprintf("ModLoad: %s %s   %s", e.FormatAddr(m.Base), e.FormatAddr(m.Base+uint64(m.Size)), printable(n))
}

func (e *Engine) moduleText(m *target.Module, name string) string {
	n := printable(m.Path)
	if n == "" {
		n = name
	}
	return n + " at " + e.FormatAddr(m.Base)
}

// ModuleLine is the line of EventModule as WinDbg shows it.
func (e *Engine) ModuleLine(ev Event) string {
	if ev.Module == nil {
		return ""
	}
	return e.moduleLine(ev.Module, ev.Name)
}

// matchModule compares a module with a pattern of a user: its name or its file
// name, with * and ?, in any case.
func matchModule(pattern, name, file string) bool {
	p := strings.ToLower(pattern)
	for _, n := range []string{name, file, strings.TrimSuffix(file, path.Ext(file))} {
		if ok, err := path.Match(p, strings.ToLower(n)); err == nil && ok {
			return true
		}
	}
	return false
}

// reloaded is the reboot: what was known is void, breakpoints wait for their
// modules.
func (e *Engine) reloaded(ctx context.Context, ev target.Event) {
	e.mu.Lock()
	e.halt, e.internal, e.motion = nil, nil, nil
	e.mods.forget()
	e.images.forgetAll()
	e.headerFor, e.lastBug, e.strayStep = 0, 0, false
	e.rebooted = true
	e.endSwitch(errors.New("the target rebooted"))
	e.wake()
	e.mu.Unlock()
	e.emit(Event{Event: ev})
	lines := e.bps.deferAll()
	for _, l := range lines {
		e.notice("%s", l)
	}
	if len(lines) == 0 {
		return
	}
	// They go in where the kernel reports its own load, at which the target was
	// told to stop, and at the loads of their modules. A break-in would come at
	// some time of its own, and be mistaken for a stop of the kernel or the user.
	e.tellConfig(ctx)
}

// bugCheckAt recognises a bug check: the break instruction that the kernel
// stops at, with the status that says so.
func (e *Engine) bugCheckAt(ctx context.Context, h *halt) *BugCheck {
	s := h.stop
	at, ok := e.DataField(0x20)
	if !ok || at == 0 || at != s.PC {
		return nil
	}
	a := e.Arch()
	name := map[kdproto.Machine]string{kdproto.MachineI386: "eax", kdproto.MachineAMD64: "ecx", kdproto.MachineARM64: "w0"}[a.Machine]
	st, err := e.state(ctx, h, s.Processor, false)
	if err != nil {
		return nil
	}
	r, ok := a.Reg(name)
	if !ok {
		return nil
	}
	v, ok := r.Get(st)
	if status := v.Lo & 0xFFFFFFFF; !ok || status != statusBugCheckFirst && status != statusBugCheckSecond {
		return nil
	}
	b, err := e.readBugCheck(ctx, h)
	if err != nil || b == nil {
		b = &BugCheck{}
	}
	b.Status = v.Lo & 0xFFFFFFFF
	e.mu.Lock()
	b.Repeat = b.Status == statusBugCheckSecond && e.lastBug == statusBugCheckSecond
	e.lastBug = b.Status
	e.mu.Unlock()
	return b
}

// BugCheck reads what the kernel noted about a bug check; Code 0 means that
// there was none.
func (e *Engine) BugCheck(ctx context.Context) (*BugCheck, error) {
	h, _, err := e.view()
	if err != nil {
		return nil, err
	}
	b, err := e.readBugCheck(ctx, h)
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, errors.New("the target has no debugger data block, which tells where KiBugCheckData is")
	}
	return b, nil
}

func (e *Engine) readBugCheck(ctx context.Context, h *halt) (*BugCheck, error) {
	addr, ok := e.DataField(0x88)
	if !ok || addr == 0 {
		return nil, nil
	}
	a := e.Arch()
	n := a.PointerSize
	d, err := e.read(ctx, h, a, Virtual, addr, 5*n)
	if err != nil {
		return nil, err
	}
	if !d.Complete() {
		return nil, &MemoryError{Addr: addr, Status: d.Status}
	}
	b := &BugCheck{Code: uintOf(d.Bytes[:n]) & 0xFFFFFFFF}
	for i := range b.Args {
		b.Args[i] = uintOf(d.Bytes[(i+1)*n : (i+2)*n])
	}
	return b, nil
}

func bugLine(b *BugCheck) string {
	return fmt.Sprintf("Bug check %X, {%x, %x, %x, %x}", b.Code, b.Args[0], b.Args[1], b.Args[2], b.Args[3])
}

// inProcess reports whether the thread of a stop belongs to a process. When
// that cannot be told it says yes: a stop too many shows, one too few hides.
func (e *Engine) inProcess(ctx context.Context, h *halt, process uint64) bool {
	e.mu.Lock()
	data := e.data
	e.mu.Unlock()
	if len(data) < 0x2A2 || h.stop.Thread == 0 {
		return true
	}
	off := uint64(le.Uint16(data[0x2A0:])) // OffsetKThreadApcProcess
	a := e.Arch()
	if off == 0 {
		return true
	}
	d, err := e.read(ctx, h, a, Virtual, h.stop.Thread+off, a.PointerSize)
	if err != nil || !d.Complete() {
		return true
	}
	return a.Canon(uintOf(d.Bytes)) == a.Canon(process)
}

// DataField is a 64-bit slot of the debugger data block, such as 0x88 for
// KiBugCheckData, in wire form. ok is false where the block is too short.
func (e *Engine) DataField(off int) (uint64, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if off < 0 || off+8 > len(e.data) {
		return 0, false
	}
	v := le.Uint64(e.data[off:])
	if e.arch != nil && v != 0 {
		v = e.arch.Canon(v)
	}
	return v, true
}

// printable keeps what came from outside from steering a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7F {
			return '?'
		}
		return r
	}, s)
}

// ExceptionName is an exception code in WinDbg's words, and its short name
// (empty for one without).
func ExceptionName(code kdproto.Status) (name, short string) {
	if n, ok := exceptionNames[code]; ok {
		return n[0], n[1]
	}
	return "Unknown exception", ""
}

var exceptionNames = map[kdproto.Status][2]string{
	0x80000001: {"Guard page violation", "gp"},
	0x80000002: {"Data misaligned", "dm"},
	0x80000003: {"Break instruction exception", "bpe"},
	0x80000004: {"Single step exception", "sse"},
	0x80000007: {"Wake debugger", "wkd"},
	0xC0000005: {"Access violation", "av"},
	0xC0000006: {"In-page I/O error", "ip"},
	0xC0000008: {"Invalid handle", "ch"},
	0xC000001D: {"Illegal instruction", "ii"},
	0xC000001E: {"Invalid lock sequence", "lsq"},
	0xC0000025: {"Noncontinuable exception", ""},
	0xC0000026: {"Invalid disposition", ""},
	0xC000008C: {"Array bounds exceeded", ""},
	0xC000008D: {"Floating point denormal operand", ""},
	0xC000008E: {"Floating point divide by zero", ""},
	0xC000008F: {"Floating point inexact result", ""},
	0xC0000090: {"Floating point invalid operation", ""},
	0xC0000091: {"Floating point overflow", ""},
	0xC0000092: {"Floating point stack check", ""},
	0xC0000093: {"Floating point underflow", ""},
	0xC0000094: {"Integer divide-by-zero", "dz"},
	0xC0000095: {"Integer overflow", "iov"},
	0xC0000096: {"Privileged instruction", ""},
	0xC00000FD: {"Stack overflow", "sov"},
	0xC0000194: {"Possible deadlock", ""},
	0xC00002B4: {"Floating point multiple faults", ""},
	0xC00002B5: {"Floating point multiple traps", ""},
	0xC0000409: {"Security check failure or stack buffer overrun", "sbo"},
	0xC0000420: {"Assertion failure", "asrt"},
	0xC0000421: {"Verifier stop", "vs"},
	0xE06D7363: {"C++ EH exception", "eh"},
	0xE0434F4D: {"CLR exception", "clr"},
	0xE0434352: {"CLR exception", "clr"},
	0x40010005: {"Control-C exception", "cc"},
	0x40010008: {"Control-Break exception", ""},
	0x4000001F: {"WOW64 breakpoint", "wob"},
	0x4000001E: {"WOW64 single step", "wos"},
}

// exceptionLine is WinDbg's line of an exception.
func exceptionLine(x *kdproto.Exception) string {
	name, _ := ExceptionName(x.Code)
	chance := "(!!! second chance !!!)"
	if x.FirstChance {
		chance = "(first chance)"
	}
	return fmt.Sprintf("%s - code %08x %s", name, uint32(x.Code), chance)
}

// ExceptionLine is WinDbg's line of an exception.
func ExceptionLine(x *kdproto.Exception) string { return exceptionLine(x) }
