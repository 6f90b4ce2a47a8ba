package target

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"openkd/arch"
	"openkd/kdproto"
	"openkd/link"
)

var _ Target = (*Live)(nil)

// run has the owner do f and waits for it. ctx only counts until f has begun:
// an exchange with the target is never abandoned half way.
func (l *Live) run(ctx context.Context, f func() error) error {
	result := make(chan error, 1)
	begun := make(chan struct{})
	select {
	case l.work <- func() { close(begun); result <- f() }:
	case <-ctx.Done():
		return ctx.Err()
	case <-l.done:
		return ErrClosed
	}
	select {
	case err := <-result:
		return err
	case <-l.done:
		select {
		case err := <-result:
			return err
		default:
			return ErrClosed
		}
	}
}

// ready says why no request can be made now, if so.
func (l *Live) ready() error {
	switch l.getState() {
	case StateHalted:
		return nil
	case StateRunning:
		return ErrRunning
	case StateClosed:
		return ErrClosed
	}
	if l.version == nil {
		return ErrNotReady
	}
	return ErrLost
}

// Next implements Target.
func (l *Live) Next(ctx context.Context) (Event, error) { return l.events.next(ctx) }

// Status implements Target.
func (l *Live) Status(context.Context) (Status, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := Status{State: l.state, Stage: l.stage, Since: l.since, Line: l.opt.Line, Speed: l.opt.Speed, Stats: l.oldStats}
	if l.host != nil {
		addStats(&s.Stats, l.host.Stats())
	}
	return s, nil
}

// BreakIn implements Target.
func (l *Live) BreakIn(context.Context) error {
	l.mu.Lock()
	state, h := l.state, l.host
	switch state {
	case StateClosed:
		l.mu.Unlock()
		return ErrClosed
	case StateHalted:
		l.cancelBatch = true
		l.mu.Unlock()
		return nil
	}
	l.breakWanted = true
	l.mu.Unlock()
	if h == nil {
		return nil // as soon as the line is there
	}
	return l.sendBreak(h)
}

// Answer implements Target.
func (l *Live) Answer(ctx context.Context, text string) error {
	if len(text) > 512 {
		return fmt.Errorf("%w: an answer has at most 512 bytes", ErrBadRequest)
	}
	return l.run(ctx, func() error {
		l.mu.Lock()
		open := l.promptOpen
		l.promptOpen = false
		l.mu.Unlock()
		if !open {
			return fmt.Errorf("%w: the target has not asked anything", ErrBadRequest)
		}
		return l.send(kdproto.TypeDebugIO, kdproto.NewAnswer([]byte(text)).Append(nil))
	})
}

// Control implements Target.
func (l *Live) Control(ctx context.Context, c Control) error {
	switch c.Op {
	case ControlConfigure:
		l.mu.Lock()
		l.cfg = c.Config
		if c.Config.Break && l.state == StateWaiting {
			l.breakWanted = true
		}
		l.mu.Unlock()
		return nil
	case ControlResync:
		h := l.getHost()
		if h == nil {
			return ErrLost
		}
		return h.Resync()
	case ControlReopen:
		return l.run(ctx, func() error {
			l.mu.Lock()
			h := l.host
			l.host = nil // serve sees it
			l.mu.Unlock()
			if h == nil {
				return ErrLost
			}
			l.stop = nil
			l.version = nil
			l.setState(StateWaiting)
			return nil
		})
	case ControlReboot, ControlCrash:
		return l.run(ctx, func() error {
			if err := l.ready(); err != nil {
				return err
			}
			api := kdproto.APIReboot
			if c.Op == ControlCrash {
				api = kdproto.APICauseBugCheck
			} else if err := l.takeOutAll(); err != nil {
				return err
			}
			return l.letGo(kdproto.NewRequest(api, l.report.Processor, nil, nil))
		})
	}
	return fmt.Errorf("%w: control operation %d", ErrBadRequest, c.Op)
}

// Switch implements Target.
func (l *Live) Switch(ctx context.Context, processor int) error {
	return l.run(ctx, func() error {
		if err := l.ready(); err != nil {
			return err
		}
		if processor < 0 || processor >= l.stop.Processors {
			return fmt.Errorf("%w: processor %d of %d", ErrBadRequest, processor, l.stop.Processors)
		}
		if processor == l.stop.Processor {
			return nil
		}
		if l.origin < 0 {
			l.origin, l.originStop = l.stop.Processor, l.report
		}
		m := kdproto.NewRequest(kdproto.APISwitchProcessor, uint16(processor), nil, nil)
		if err := l.send(kdproto.TypeManipulate, m.Append(nil)); err != nil {
			return err
		}
		l.stop = nil // what comes is a new stop
		l.setState(StateRunning)
		return nil
	})
}

// Resume implements Target.
func (l *Live) Resume(ctx context.Context, r Resume) error {
	if len(r.Breakpoints) > 1024 {
		return fmt.Errorf("%w: %d breakpoints", ErrBadRequest, len(r.Breakpoints))
	}
	return l.run(ctx, func() error {
		if err := l.ready(); err != nil {
			return err
		}
		return l.resume(r)
	})
}

func (l *Live) resume(r Resume) error {
	if r.Status == 0 {
		r.Status = kdproto.DbgContinue
	}
	if r.Config != nil {
		l.mu.Lock()
		l.cfg = *r.Config
		l.mu.Unlock()
	}
	wanted := make([]uint64, 0, len(r.Breakpoints))
	for _, a := range r.Breakpoints {
		if a = l.arch.Canon(a); !slices.Contains(wanted, a) {
			wanted = append(wanted, a)
		}
	}
	pc, err := l.presentPC()
	if err != nil {
		return err
	}
	if r.BreakIn {
		// Before anything is inserted: the report that it makes the target repeat
		// may take out the breakpoints at the program counter.
		l.mu.Lock()
		l.breakWanted = true
		l.mu.Unlock()
		l.askEarly()
	}
	if err := l.writeHardware(r.Hardware); err != nil {
		return err
	}
	l.wanted = wanted
	off := slices.Contains(wanted, pc)
	if off && !r.Status.Failed() && pc == l.stop.PC && l.coded() {
		// The instruction under the breakpoint is itself one: nothing is there to
		// be stepped, it would only stop again.
		if err := l.stepOverCoded(); err != nil {
			return err
		}
		l.moved, off = true, false
	}
	if off {
		// A breakpoint at the program counter would be hit at once: take it out,
		// run one instruction, put it in.
		if err := l.takeOut(pc, 1); err != nil {
			return err
		}
		if err := l.insert(without(wanted, pc)); err != nil {
			return err
		}
	} else if err := l.insert(wanted); err != nil {
		return err
	}
	if !r.Status.Failed() && !l.moved && !off && l.coded() {
		if err := l.stepOverCoded(); err != nil {
			return err
		}
	}
	if r.Mode == Step {
		l.stepping = true
		return l.continue2(true, r.Status)
	}
	if off && !r.Status.Failed() && l.origin < 0 {
		done, err := l.stepOff(r.Status)
		if done || err != nil {
			return err
		}
		if err := l.insert(wanted); err != nil {
			l.stop = nil
			l.halted(l.report, StopException, nil, "")
			return err
		}
		l.setState(StateRunning) // it was told already
		return l.continue2(false, kdproto.DbgContinue)
	}
	return l.continue2(false, r.Status)
}

func without(s []uint64, v uint64) []uint64 {
	return slices.DeleteFunc(slices.Clone(s), func(a uint64) bool { return a == v })
}

// stepOff runs one instruction, off a breakpoint. It reports done when
// something else happened on the way that is a stop, or took so long that the
// target just runs.
func (l *Live) stepOff(status kdproto.Status) (done bool, err error) {
	from := l.report.Processor
	if err := l.continue2(true, status); err != nil {
		return true, err
	}
	deadline := time.NewTimer(l.opt.ReplyTimeout)
	defer deadline.Stop()
	for {
		p, err := l.nextPacket(deadline.C)
		if err != nil {
			// The instruction waits for something. When it completes, the stop
			// shows up as an event; the engine goes on from it.
			l.stepping = true
			return true, nil
		}
		if p.Type != kdproto.TypeStateChange64 {
			if p.Type != kdproto.TypeManipulate {
				l.inline(p)
			}
			continue
		}
		s, err := kdproto.DecodeStateChange(p.Payload)
		if err != nil || p.Fresh || s.Kind != kdproto.StateException || s.Exception.Code != kdproto.StatusSingleStep ||
			s.Processor != from || s.DecodeReport(l.version.Machine).Dr6&0xF != 0 {
			l.packet(p)
			return true, nil
		}
		l.report = s
		l.setState(StateHalted)
		pc := l.arch.Canon(s.ProgramCounter)
		l.stop = &Stop{Number: l.stops, Processor: int(s.Processor), Processors: int(s.NumberProcessors), PC: pc, Exception: &s.Exception}
		// The target takes out the breakpoints inside the bytes that it reports.
		err = l.takeOut(pc, 16)
		if slices.Contains(l.wanted, pc) {
			// The next instruction has a breakpoint, too: that is a hit.
			s.Exception.Code = kdproto.StatusBreakpoint
			l.stop = nil
			l.halted(s, StopException, nil, "")
			return true, nil
		}
		return false, err
	}
}

// presentPC is where the reporting processor goes on.
func (l *Live) presentPC() (uint64, error) {
	if !l.moved {
		return l.stop.PC, nil
	}
	ctx := l.getContext(l.report.Processor)
	if ctx == nil {
		return 0, errors.New("the target does not tell its registers")
	}
	return l.arch.PC(ctx), nil
}

func (l *Live) streamAtPC() []byte {
	if l.version == nil {
		return nil
	}
	return l.report.DecodeReport(l.version.Machine).Stream
}

// coded reports whether the program counter of the report stands on a
// breakpoint instruction that is not ours (ours are out of the reported
// bytes).
func (l *Live) coded() bool {
	s := l.streamAtPC()
	b := l.arch.Break
	return len(b) > 0 && len(s) >= len(b) && string(s[:len(b)]) == string(b)
}

// stepOverCoded moves the program counter past a coded breakpoint, at which
// the target would stop for ever.
func (l *Live) stepOverCoded() error {
	ctx := l.getContext(l.report.Processor)
	if ctx == nil {
		return errors.New("the target does not tell its registers, so a coded breakpoint cannot be passed")
	}
	if l.arch.PC(ctx) != l.arch.Canon(l.report.ProgramCounter) {
		return nil // a debugger that died on its way moved it already
	}
	l.arch.SetPC(ctx, l.arch.PC(ctx)+uint64(len(l.arch.Break)))
	return l.setContext(l.report.Processor, ctx)
}

// continue2 lets the target go, with or without trace.
func (l *Live) continue2(trace bool, status kdproto.Status) error {
	m := kdproto.NewRequest(kdproto.APIContinue2, l.report.Processor, &kdproto.Continue2{
		Machine: l.version.Machine, Status: status, Trace: trace, Dr7: l.dr7(), SymbolStart: 1,
	}, nil)
	if l.origin >= 0 {
		s := l.originStop
		l.swallow, l.swallowBy = &s, time.Now().Add(l.opt.ReplyTimeout)
		l.origin = -1
	}
	return l.letGo(m)
}

func (l *Live) dr7() uint64 {
	var hw [4]arch.HW
	for i, h := range l.hw {
		hw[i] = arch.HW{Enabled: h.Enabled, Kind: h.Kind, Len: h.Len}
	}
	return l.arch.EncodeDr7(hw)
}

// writeHardware brings the debug registers of every processor up to date.
func (l *Live) writeHardware(hw [4]HWBreak) error {
	l.hw = hw
	if hw == l.hwWritten {
		return nil
	}
	var addrs [4]uint64
	for i, h := range hw {
		if h.Enabled {
			addrs[i] = h.Addr
		}
	}
	for p := range l.stop.Processors {
		sp := l.getSpecial(uint16(p))
		if sp == nil || !l.arch.SetDebug(sp, addrs, l.dr7()) {
			return fmt.Errorf("processor %d does not give its special registers, so processor breakpoints cannot be set", p)
		}
		m := kdproto.NewRequest(kdproto.APIWriteControlSpace, uint16(p), &kdproto.Memory{Address: l.arch.SpecialAddr, Count: uint32(len(sp))}, sp)
		r, err := l.transact(m)
		if err != nil {
			return err
		}
		if r.Status.Failed() {
			return fmt.Errorf("processor %d refused its debug registers (%v)", p, r.Status)
		}
	}
	l.hwWritten = hw
	if l.stop.Bundle.Special != nil {
		sp := l.getSpecial(l.report.Processor)
		if l.stop == nil {
			return ErrLost
		}
		l.stop.Bundle.Special = sp
	}
	return nil
}

// insert makes the breakpoints in the target be those of wanted.
func (l *Live) insert(wanted []uint64) error {
	for a := range l.inserted {
		if !slices.Contains(wanted, a) {
			if err := l.restore(a); err != nil {
				return err
			}
		}
	}
	var failed []uint64
	cleaned := false
	for i := 0; i < len(wanted); i++ {
		a := wanted[i]
		if _, in := l.inserted[a]; in {
			continue
		}
		b := kdproto.WriteBreakPoint{Address: a}
		r, err := l.transact(kdproto.NewRequest(kdproto.APIWriteBreakPoint, l.report.Processor, &b, nil))
		if err != nil {
			return err
		}
		b.Get(&r.Union)
		if !r.Status.Failed() {
			l.inserted[a] = b.Handle
			continue
		}
		if !cleaned && len(l.inserted) < 32 {
			// An entry that we do not know of may be in the way.
			cleaned = true
			l.clearTable(l.report.Processor)
			failed, i = nil, -1
			continue
		}
		failed = append(failed, a)
	}
	if failed != nil {
		return &InsertError{failed}
	}
	return nil
}

// restore takes one breakpoint out. That the target says it has none there is
// fine: it takes out those near its program counter by itself.
func (l *Live) restore(a uint64) error {
	h, ok := l.inserted[a]
	if !ok {
		return nil
	}
	_, err := l.transact(kdproto.NewRequest(kdproto.APIRestoreBreakPoint, l.report.Processor, &kdproto.RestoreBreakPoint{Handle: h}, nil))
	if err == nil {
		delete(l.inserted, a)
	}
	return err
}

// takeOut takes out the breakpoints whose bytes are in [addr, addr+n). An error
// means that the target does not answer.
func (l *Live) takeOut(addr, n uint64) error {
	if len(l.inserted) == 0 {
		return nil
	}
	size := uint64(max(len(l.arch.Break), 1))
	for a := range l.inserted {
		if a-addr < n || addr-a < size {
			if err := l.restore(a); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *Live) takeOutAll() error {
	for a := range l.inserted {
		if err := l.restore(a); err != nil {
			return err
		}
	}
	return nil
}

// Close implements Target.
func (l *Live) Close(ctx context.Context, leave Leave) error {
	if l.getState() == StateClosed {
		return nil
	}
	text := "The session is closed."
	err := l.run(ctx, func() error {
		text = l.leave(leave)
		l.setState(StateClosed)
		return nil
	})
	if err != nil && !errors.Is(err, ErrClosed) {
		text = "The session is closed; nothing could be done for the target: " + err.Error()
	}
	l.setState(StateClosed)
	l.emit(Event{Kind: EventClosed, Text: text})
	l.cancel()
	<-l.done
	return nil
}

// leave removes what is ours from the target and says how it was left.
func (l *Live) leave(leave Leave) string {
	if l.version == nil || l.arch == nil {
		return "The session is closed; the target was never stopped."
	}
	ours := len(l.inserted) > 0 || l.hwWritten != [4]HWBreak{}
	if l.getState() == StateRunning && ours && !l.stopForLeaving() {
		return "The session is closed. The target runs; it did not stop, so our breakpoints are still in it. The next debugger that attaches removes them."
	}
	switch l.getState() {
	case StateRunning:
		return "The session is closed; the target runs."
	case StateWaiting:
		return "The session is closed; the target was out of reach."
	}
	const silent = "The session is closed; the target stopped answering, so our breakpoints may still be in it. The next debugger that attaches removes them."
	if l.takeOutAll() != nil || l.getState() != StateHalted || l.stop == nil {
		return silent
	}
	if leave == LeaveHalted {
		if l.writeHardware([4]HWBreak{}) != nil {
			return silent
		}
		return "The session is closed; the target stays halted, as asked."
	}
	if err := l.resume(Resume{Mode: Go, Status: l.leaveStatus()}); err != nil {
		return "The session is closed; the target could not be let go: " + err.Error()
	}
	l.seeOff()
	return "The session is closed; the target runs."
}

// seeOff stays with a target that was let go until it is sure to run: one
// whose processor was switched reports once more, and one that has a break-in
// byte left, of ours or of a debugger that died, stops once more. Nobody would let it go then.
func (l *Live) seeOff() {
	left := func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.breaksSent > 0 || l.doubt
	}
	until := time.Now().Add(l.opt.ReplyTimeout / 3)
	for (l.swallow != nil || left() || l.getState() == StateHalted) && time.Now().Before(until) {
		t := time.NewTimer(time.Until(until))
		p, err := l.nextPacket(t.C)
		t.Stop()
		if err != nil {
			return
		}
		l.packet(p)
		if l.getState() == StateHalted && l.resume(Resume{Mode: Go, Status: l.leaveStatus()}) != nil {
			return
		}
	}
}

// leaveStatus: an exception that nobody has handled goes to the kernel's own
// handlers; our kinds of stop are handled.
func (l *Live) leaveStatus() kdproto.Status {
	if l.stop == nil || l.stop.Exception == nil {
		return kdproto.DbgContinue
	}
	switch l.stop.Exception.Code {
	case kdproto.StatusBreakpoint, kdproto.StatusSingleStep, kdproto.StatusWakeSystemDebugger:
		return kdproto.DbgContinue
	}
	return kdproto.DbgExceptionNotHandled
}

// stopForLeaving stops a running target that has breakpoints of ours in it.
func (l *Live) stopForLeaving() bool {
	h := l.getHost()
	if h == nil {
		return false
	}
	l.mu.Lock()
	l.breakWanted = true
	l.mu.Unlock()
	l.sendBreak(h)
	deadline := time.NewTimer(l.opt.ReplyTimeout)
	defer deadline.Stop()
	for l.getState() != StateHalted {
		p, err := l.nextPacket(deadline.C)
		if err != nil {
			return false
		}
		l.packet(p)
	}
	return true
}

var errTimeout = errors.New("no packet came in time")

// nextPacket waits for a packet: one set aside, or a new one.
func (l *Live) nextPacket(timeout <-chan time.Time) (link.Packet, error) {
	if len(l.backlog) > 0 {
		p := l.backlog[0]
		l.backlog = l.backlog[1:]
		return p, nil
	}
	select {
	case p := <-l.packets:
		return p, nil
	case err := <-l.linkErr:
		l.linkErr <- err // the owner's loop wants it, too
		return link.Packet{}, err
	case <-timeout:
		return link.Packet{}, errTimeout
	case <-l.ctx.Done():
		return link.Packet{}, ErrClosed
	}
}

// attempts of one request before the target counts as lost. Those that a
// resynchronisation crossed do not count as much as silence does.
const (
	attempts = 3
	crossed  = 6
)

// transact sends a request and waits for its reply. What else comes meanwhile
// is answered or set aside. A request without reply is repeated after a
// resynchronisation; those that must not happen twice are not.
func (l *Live) transact(m *kdproto.Manipulate) (kdproto.Manipulate, error) {
	if l.version != nil && l.version.Machine == kdproto.MachineI386 && m.API == kdproto.APIGetBusData && l.version.Minor == 3790 && l.version.Major&0xFF == 0x0C {
		// That kernel (ReactOS, x86) never answers again.
		return kdproto.Manipulate{Status: kdproto.StatusUnsuccessful}, nil
	}
	payload := m.Append(nil)
	var last error
	for silent, tries := 0, 0; silent < attempts && tries < crossed; tries++ {
		if last != nil {
			switch m.API {
			case kdproto.APIReadIoSpace, kdproto.APIWriteIoSpace, kdproto.APIReadIoSpaceExtended, kdproto.APIWriteIoSpaceExtended,
				kdproto.APISetBusData:
				return kdproto.Manipulate{}, fmt.Errorf("%w: no reply to %v, which is not repeated because it may have happened", ErrLost, m.API)
			}
		}
		switch {
		case last == nil || errors.Is(last, errRepeated): // agreed with the target
		case errors.Is(last, link.ErrResynced):
			if err := l.awaitReport(); err != nil {
				last = err
				silent++
				continue
			}
		default:
			if err := l.resync(); err != nil {
				last = err
				silent++
				if errors.Is(err, errRestarted) {
					return kdproto.Manipulate{}, fmt.Errorf("%w: no reply to %v (%w)", ErrLost, m.API, err)
				}
				continue
			}
		}
		err := l.send(kdproto.TypeManipulate, payload)
		if err == nil {
			var r kdproto.Manipulate
			if r, err = l.awaitReply(m.API); err == nil {
				return r, nil
			}
		}
		last = err
		if errors.Is(err, errRestarted) || errors.Is(err, ErrClosed) || l.getHost() == nil || l.ctx.Err() != nil {
			break
		}
		if errors.Is(err, link.ErrNoAnswer) || errors.Is(err, errTimeout) {
			silent++
		} else if !errors.Is(err, link.ErrResynced) && !errors.Is(err, errRepeated) {
			break // the stream itself is gone
		}
	}
	err := fmt.Errorf("%w: no reply to %v (%w)", ErrLost, m.API, last)
	if l.getState() == StateHalted && !errors.Is(last, errRestarted) {
		l.lost(fmt.Sprintf("the halted target does not answer any more (%v)", last))
	}
	return kdproto.Manipulate{}, err
}

var (
	errRestarted = errors.New("the target restarted")
	errRepeated  = errors.New("the target repeated its report")
)

func (l *Live) replyTimeout() *time.Timer {
	d := l.opt.ReplyTimeout
	if l.opt.Speed > 0 {
		d += time.Duration(2*kdproto.MaxPayload*10) * time.Second / time.Duration(l.opt.Speed)
	}
	return time.NewTimer(d)
}

func (l *Live) awaitReply(api kdproto.API) (kdproto.Manipulate, error) {
	t := l.replyTimeout()
	defer t.Stop()
	for {
		p, err := l.nextReply(t.C)
		if err != nil {
			return kdproto.Manipulate{}, err
		}
		switch p.Type {
		case kdproto.TypeManipulate:
			r, err := kdproto.DecodeManipulate(p.Payload)
			if err == nil && r.API == api {
				return r, nil
			}
			// An orphan: the reply to a request of before.
		case kdproto.TypeStateChange64:
			if p.Fresh {
				l.backlog = append(l.backlog, p)
				return kdproto.Manipulate{}, errRestarted
			}
			if p.Repeated {
				return kdproto.Manipulate{}, errRepeated
			}
			// A break-in byte made it report again; the request still stands.
		default:
			l.inline(p)
		}
	}
}

// nextReply is nextPacket without the packets that were set aside, which come
// later in the order of things.
func (l *Live) nextReply(timeout <-chan time.Time) (link.Packet, error) {
	aside := l.backlog
	l.backlog = nil
	p, err := l.nextPacket(timeout)
	l.backlog = append(aside, l.backlog...)
	return p, err
}

// resync starts the numbering anew and waits for the report that a stopped
// target repeats then.
func (l *Live) resync() error {
	h := l.getHost()
	if h == nil {
		return ErrLost
	}
	if err := h.Resync(); err != nil {
		return err
	}
	return l.awaitReport()
}

// awaitReport waits for the report that a stopped target repeats after a
// RESET. One that was sending a reply repeats that first, and the report after
// one more RESET.
func (l *Live) awaitReport() error {
	t := l.replyTimeout()
	defer t.Stop()
	for {
		p, err := l.nextReply(t.C)
		if err != nil {
			return err
		}
		switch p.Type {
		case kdproto.TypeStateChange64:
			if p.Fresh {
				l.backlog = append(l.backlog, p)
				return errRestarted
			}
			return nil
		case kdproto.TypeManipulate:
			h := l.getHost()
			if h == nil {
				return ErrLost
			}
			if err := h.Resync(); err != nil {
				return err
			}
		default:
			l.inline(p)
		}
	}
}
