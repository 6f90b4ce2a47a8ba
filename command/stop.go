package command

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"openkd/engine"
	"openkd/kdproto"
	"openkd/target"
)

// execState is what a session remembers about letting the target go.
type execState struct {
	mask     uint32 // rm; 0 means the processor's default
	noRegs   bool   // p and t show no registers (pr, tr, .prompt_allow -reg)
	stopRegs bool   // every stop shows registers (-r)
	noCode   bool   // stops show no instruction (.prompt_allow -dis)
	noName   bool   // stops show no symbol line (.prompt_allow -sym)

	lostEnds bool   // a lost link ends a wait, for scripts
	program  string // name and version of the program, for version

	action  bool   // the commands of a breakpoint are running
	still   bool   // a callback of an extension runs: nothing may let the target go
	pending motion // what they let go, to be followed by whoever waits
	last    motion // what gc repeats
}

// motion lets the target go and waits until it stands again; it returns the
// stop, which it has shown (but see quietHit).
type motion func(ctx context.Context) (*engine.Stop, error)

// errResumed ends the commands of a breakpoint that let the target go. Nobody
// is to see it.
var errResumed = errors.New("the target was let go")

// SetProgram names the program for the version command.
func (s *Session) SetProgram(text string) { s.exec.program = text }

// SetLostEnds makes a lost link end the command that waits for a stop, with
// target.ErrLost. Otherwise it goes on waiting: the target is looked for again.
func (s *Session) SetLostEnds(on bool) { s.exec.lostEnds = on }

// SetShowRegisters makes every stop show the registers (-r).
func (s *Session) SetShowRegisters(on bool) { s.exec.stopRegs = on }

// WaitStop waits until the target stands at a stop, shows it, and runs the
// commands of the breakpoints that were hit; when these let it go again, it
// waits for the next one.
func (s *Session) WaitStop(ctx context.Context) error {
	return s.follow(ctx, s.waitShown)
}

// follow runs a motion and the breakpoint commands at its end, and whatever
// motion those ask for. It is a loop on purpose: a condition may be wrong a
// million times.
func (s *Session) follow(ctx context.Context, m motion) error {
	if s.exec.still {
		return errStill
	}
	if s.exec.action {
		s.exec.pending = m
		return shown{errResumed}
	}
	for m != nil {
		if err := s.stopped(ctx); err != nil {
			return err
		}
		st, err := m(ctx)
		if err != nil {
			return err
		}
		s.exec.pending = nil
		err = s.actions(ctx, st)
		m = s.exec.pending
		s.exec.pending = nil
		if m == nil && quietHit(st) && s.Engine.Halted() && !errors.Is(err, ErrQuit) {
			s.place(ctx, st.PC, s.exec.stopRegs)
		}
		if err != nil {
			return err
		}
		if m == nil {
			if err := s.deliver(ctx, st); err != nil {
				return err
			}
		}
	}
	return nil
}

// actions runs the commands of the breakpoints that were hit, and of the event.
func (s *Session) actions(ctx context.Context, st *engine.Stop) error {
	if st == nil {
		return nil
	}
	s.exec.action = true
	defer func() { s.exec.action = false }()
	var list []string
	for _, b := range st.Breakpoints {
		list = append(list, b.Command)
	}
	for _, text := range append(list, st.Commands) {
		if strings.TrimSpace(text) == "" {
			continue
		}
		err := s.run(ctx, text, -1)
		switch {
		case s.exec.pending != nil || errors.Is(err, errResumed):
			return nil // a command that resumes ends the list
		case err != nil:
			return err
		}
	}
	return nil
}

// quietHit reports whether a stop is a hit of breakpoints that all have
// commands. Nothing is shown then before the commands have run, and nothing at
// all when they let the target go: a condition that is false is silent.
func quietHit(st *engine.Stop) bool {
	if st == nil || len(st.Breakpoints) == 0 {
		return false
	}
	for _, b := range st.Breakpoints {
		if strings.TrimSpace(b.Command) == "" {
			return false
		}
	}
	return true
}

// waitShown waits for a stop and shows it, unless its breakpoints' commands
// come first.
func (s *Session) waitShown(ctx context.Context) (*engine.Stop, error) {
	st, err := s.wait(ctx)
	if err != nil {
		return nil, err
	}
	if !quietHit(st) {
		s.ShowStop(ctx, st)
	}
	return st, nil
}

// wait waits for a stop.
func (s *Session) wait(ctx context.Context) (*engine.Stop, error) {
	for {
		o, err := s.Engine.Wait(ctx)
		if err != nil {
			return nil, err
		}
		switch o.Kind {
		case engine.Stopped:
			return o.Stop, nil
		case engine.Closed:
			return nil, fmt.Errorf("%w while the target ran: %s", target.ErrClosed, o.Text)
		case engine.Lost:
			if s.exec.lostEnds {
				return nil, fmt.Errorf("%w: %s", target.ErrLost, o.Text)
			}
		}
	}
}

// ShowStop prints a stop the way WinDbg does: what happened, registers after a
// step, where it stands.
func (s *Session) ShowStop(ctx context.Context, st *engine.Stop) {
	if st.Headline != "" {
		WriteStyled(s.w, Headline, st.Headline+"\n")
	}
	switch st.Reason {
	case engine.ReasonBreakIn:
		if !s.Quiet {
			put(s, breakInBox)
		}
	case engine.ReasonBugCheck:
		s.showBugCheck(st.BugCheck)
	}
	s.place(ctx, st.PC, s.exec.stopRegs || st.Reason == engine.ReasonStep && !s.exec.noRegs)
}

func put(s *Session, text string) { fmt.Fprint(s.w, text) }

// place prints registers, where asked for, and the location.
func (s *Session) place(ctx context.Context, pc uint64, regs bool) {
	if s.sourceOnly(ctx, pc) {
		s.SetNextCode(pc)
		return
	}
	if regs {
		if st, err := s.Engine.State(ctx, -1); err == nil {
			put(s, s.Engine.Arch().Format(st, s.exec.mask))
		}
	}
	s.sourceAt(ctx, pc)
	s.location(ctx, pc)
}

func (s *Session) location(ctx context.Context, pc uint64) {
	_, _ = s.Engine.LoadSymbols(ctx, pc)
	if n := s.Engine.Symbolize(pc); n != "" && !s.exec.noName {
		fmt.Fprintf(s.w, "%s%s:\n", n, s.atLine(pc))
	}
	if !s.exec.noCode {
		if in, err := s.Engine.Instruction(ctx, pc); err == nil {
			fmt.Fprintf(s.w, "%s\n", in.Line())
		} else {
			fmt.Fprintf(s.w, "%s ??              ???\n", s.addr(pc))
		}
	}
	s.SetNextCode(pc)
}

const breakInBox = `*******************************************************************************
*                                                                             *
*   The target stopped because you asked for it:                              *
*       CTRL+C, or -b or -bonc at the start of the debugger.                  *
*                                                                             *
*                   THIS IS NOT A BUG OR A SYSTEM CRASH                       *
*                                                                             *
*   If you did not intend to break in, type "g" and press Enter to let the    *
*   target go on. This message may come again at once; then do it once more.  *
*                                                                             *
*******************************************************************************
`

const bugCheckBox = `*******************************************************************************
*                                                                             *
*                        Bugcheck Analysis                                    *
*                                                                             *
*******************************************************************************
`

// manualCrash is MANUALLY_INITIATED_CRASH, the bug check of .crash and of the
// keyboard. It has no first stop.
const manualCrash = 0xE2

func (s *Session) showBugCheck(b *engine.BugCheck) {
	if b == nil {
		return
	}
	when := "Bugcheck callbacks have not been invoked."
	switch {
	case b.Status == 4 && b.Code == manualCrash:
		when = "This crash was asked for. The kernel stops for it once only, and does not tell whether it has invoked bugcheck callbacks or written a dump."
	case b.Status == 4:
		when = "Bugcheck callbacks have been invoked; the dump, if there is one, is written."
	}
	fmt.Fprintf(s.w, "\nA fatal system error has occurred.\n%s\n\n%s\nBugCheck %X, {%x, %x, %x, %x}\n\n",
		when, bugCheckBox, b.Code, b.Args[0], b.Args[1], b.Args[2], b.Args[3])
	if b.Repeat {
		put(s, "The target stops here at every g from now on; .reboot starts it again.\n")
	}
}

// exceptionRecord prints a record the way .exr does.
func (c *Call) exceptionRecord(x *kdproto.Exception) {
	s := c.S
	n := s.pointerSize()
	ptr := func(v uint64) string {
		if n == 4 {
			return fmt.Sprintf("%08x", uint32(v))
		}
		return fmt.Sprintf("%016x", v)
	}
	name, _ := engine.ExceptionName(x.Code)
	where := ""
	c.named(x.Address)
	if t := s.Engine.Symbolize(x.Address); t != "" {
		where = " (" + t + ")"
	}
	c.Printf("ExceptionAddress: %s%s\n", ptr(x.Address), where)
	c.Printf("   ExceptionCode: %08x (%s)\n", uint32(x.Code), name)
	c.Printf("  ExceptionFlags: %08x\n", x.Flags)
	if x.Record != 0 {
		c.Printf("  NestedRecord at: %s\n", ptr(x.Record))
	}
	c.Printf("NumberParameters: %d\n", x.NumberParameters)
	for i := range min(int(x.NumberParameters), len(x.Information)) {
		c.Printf("   Parameter[%d]: %s\n", i, ptr(x.Information[i]))
	}
	if x.Code == kdproto.StatusAccessViolation && x.NumberParameters >= 2 {
		verb := map[uint64]string{0: "read from", 1: "write to", 8: "execute non-executable"}[x.Information[0]]
		if verb != "" {
			c.Printf("Attempt to %s address %s\n", verb, ptr(x.Information[1]))
		}
	}
}
