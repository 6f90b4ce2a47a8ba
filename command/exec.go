package command

import (
	"context"
	"errors"
	"strings"

	"openkd/engine"
	"openkd/kdproto"
	"openkd/target"
)

func executionCommands() []*Command {
	f := "Execution"
	step := func(names []string, summary, example string) *Command {
		n := names[0]
		return &Command{Names: names, Family: f, Run: cmdStep, Summary: summary, Usage: n + "[r] [=start] [count] [\"commands\"]", Example: example}
	}
	until := func(names []string, summary string) *Command {
		n := names[0]
		return &Command{Names: names, Family: f, Run: cmdStep, Summary: summary, Usage: n + " [r] [=start] [count]", Example: n}
	}
	return []*Command{
		{Names: []string{"g"}, Family: f, Run: cmdGo, Summary: "let the target go, up to the next stop or an address", Usage: "g [=start] [address ... [; commands]]", Example: "g nt+12345"},
		{Names: []string{"ga"}, Family: f, Run: cmdGo, Summary: "g with processor breakpoints at its addresses", Usage: "ga [=start] [address ... [; commands]]", Example: "ga nt+12345"},
		{Names: []string{"gh"}, Family: f, Run: cmdGo, Summary: "g, with the exception handled", Usage: "gh[a] [=start] [address ...]", Example: "gh"},
		{Names: []string{"gn", "gN"}, Family: f, Run: cmdGo, Summary: "g, with the exception not handled", Usage: "gn[a] [=start] [address ...]", Example: "gn"},
		{Names: []string{"gc"}, Family: f, Run: cmdGoConditional, Summary: "go on as before the hit, in the commands of a breakpoint: step, or go to where g or gu was to end", Usage: "gc", Example: `bp nt+1000 "j (@rcx == 0) ''; 'gc'"`},
		step([]string{"t", "tr"}, "one instruction, or several; into calls", "t 5"),
		step([]string{"p", "pr"}, "one instruction, or several; over calls", "p"),
		{Names: []string{"ta"}, Family: f, Run: cmdStepTo, Summary: "step into calls, up to an address, showing each step", Usage: "ta [r] [=start] address", Example: "ta nt+12345"},
		{Names: []string{"pa"}, Family: f, Run: cmdStepTo, Summary: "step over calls, up to an address, showing each step", Usage: "pa [r] [=start] address", Example: "pa @rip+10"},
		until([]string{"tt"}, "step into calls, up to a return"),
		until([]string{"pt"}, "step over calls, up to a return"),
		until([]string{"tc"}, "step into calls, up to a call"),
		until([]string{"pc"}, "step over calls, up to a call"),
		until([]string{"tct"}, "step into calls, up to a call or return"),
		until([]string{"pct"}, "step over calls, up to a call or return"),
		until([]string{"th"}, "step into calls, up to a branch of any kind"),
		until([]string{"ph"}, "step over calls, up to a branch of any kind"),
		until([]string{"tb"}, "step up to where a branch leads that is taken"),
		{Names: []string{"gu"}, Family: f, Run: cmdGoUp, Summary: "let the target go until the current function returns, in this call of it", Usage: "gu", Example: "gu"},
		{Names: []string{"wt"}, Family: f, Run: cmdTrace, Summary: "run the current function and show what it calls, with counts of instructions; -l depth, -m into this module only, -i not into this one, -nc no calls, -ns no summary, -nw no warnings, -oa addresses of calls, -or what calls return", Usage: "wt [-l depth] [-m module] [-i module] [-nc] [-ns] [-nw] [-oa|-or|-oR] [=start] [end]", Example: "wt -l 3"},
		{Names: []string{".breakin"}, Family: f, NoTarget: true, Run: cmdBreakIn, Summary: "break into the target while it runs", Usage: ".breakin", Example: ".breakin"},
	}
}

// start reads "=address" off the front of args.
func (c *Call) start(args string) (from *uint64, rest string, err error) {
	rest = strings.TrimLeft(args, " \t")
	if !strings.HasPrefix(rest, "=") {
		return nil, rest, nil
	}
	v, rest, err := c.EvalPrefix(rest[1:])
	if err != nil {
		return nil, "", err
	}
	return &v, strings.TrimLeft(rest, " \t"), nil
}

// letGo runs a motion and remembers it for gc.
func (c *Call) letGo(m, again motion) error {
	if !c.S.exec.action {
		c.S.exec.last = again
	}
	return c.S.follow(c.Ctx, m)
}

// going makes a motion of a resume.
func (s *Session) going(start func(ctx context.Context) error) motion {
	return func(ctx context.Context) (*engine.Stop, error) {
		if err := start(ctx); err != nil {
			return nil, err
		}
		return s.waitShown(ctx)
	}
}

func (s *Session) plainGo(status kdproto.Status) motion {
	return s.going(func(ctx context.Context) error { return s.Engine.Go(ctx, engine.GoOpt{Status: status}) })
}

func cmdGo(c *Call) error {
	args := c.Args
	opt := engine.GoOpt{UntilHW: c.Name == "ga" || c.Name == "GA"}
	switch strings.ToLower(c.Name) {
	case "gh":
		opt.Status = kdproto.DbgExceptionHandled
	case "gn":
		opt.Status = kdproto.DbgExceptionNotHandled
	}
	var err error
	if opt.From, args, err = c.start(args); err != nil {
		return err
	}
	for args != "" {
		var v uint64
		if v, args, err = c.EvalPrefix(args); err != nil {
			return err
		}
		opt.Until = append(opt.Until, v)
		args = strings.TrimLeft(args, " \t,")
	}
	m := c.S.going(func(ctx context.Context) error { return c.S.Engine.Go(ctx, opt) })
	again := engine.GoOpt{Until: opt.Until, UntilHW: opt.UntilHW}
	return c.letGo(m, c.S.going(func(ctx context.Context) error { return c.S.Engine.Go(ctx, again) }))
}

func cmdGoConditional(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	if c.S.exec.last == nil || !c.S.exec.action {
		return c.S.follow(c.Ctx, c.S.plainGo(0))
	}
	return c.S.follow(c.Ctx, c.S.exec.last)
}

// maxCount bounds the counts of p and t.
const maxCount = 1 << 24

// stepOptions reads "[r] [=start]" of the step commands.
func (c *Call) stepOptions() (opt engine.StepOpt, args string, err error) {
	name := strings.ToLower(c.Name)
	args = c.Args
	toggle := strings.HasSuffix(name, "r")
	if w, rest := cutWord(args); w == "r" && !toggle {
		toggle, args = true, rest
	}
	if toggle {
		c.S.exec.noRegs = !c.S.exec.noRegs
	}
	opt.Over = name[0] == 'p'
	switch strings.TrimSuffix(name[1:], "r") {
	case "t":
		opt.Until = engine.StepToReturn
	case "c":
		opt.Until = engine.StepToCall
	case "ct":
		opt.Until = engine.StepToCallReturn
	case "h":
		opt.Until = engine.StepToBranch
	case "b":
		opt.Until = engine.StepTaken
	case "":
		if c.S.source.options&sourceStep != 0 {
			opt.Until = engine.StepLine
		}
	}
	opt.From, args, err = c.start(args)
	return opt, args, err
}

func cmdStep(c *Call) error {
	opt, args, err := c.stepOptions()
	if err != nil {
		return err
	}
	count := uint64(1)
	if args != "" && args[0] != '"' {
		at := args
		if count, args, err = c.EvalPrefix(args); err != nil {
			return err
		}
		if count == 0 || count > maxCount {
			return c.Fault("Range error", at, "the count is 1 to %d", maxCount)
		}
	}
	commands, rest, _, err := c.CutString(args)
	if err != nil {
		return err
	}
	if err := c.End(rest); err != nil {
		return err
	}
	s := c.S
	one := opt
	one.From = nil
	again := s.steps(one, 1, "", nil)
	return c.letGo(s.steps(opt, count, commands, nil), again)
}

// steps makes count steps, each shown. A stop that is no step ends them, and so
// does until. commands run after every step.
func (s *Session) steps(opt engine.StepOpt, count uint64, commands string, until func(pc uint64) bool) motion {
	return func(ctx context.Context) (*engine.Stop, error) {
		var st *engine.Stop
		for range count {
			if err := s.stopped(ctx); err != nil {
				return nil, err
			}
			if err := s.Engine.Step(ctx, opt); err != nil {
				return nil, err
			}
			opt.From = nil
			var err error
			if st, err = s.waitShown(ctx); err != nil {
				return nil, err
			}
			if st.Reason != engine.ReasonStep {
				return st, nil
			}
			if commands != "" {
				if err := s.run(ctx, commands, -1); err != nil {
					return nil, err
				}
			}
			if until != nil && until(st.PC) {
				break
			}
		}
		return st, nil
	}
}

func cmdStepTo(c *Call) error {
	opt, args, err := c.stepOptions()
	if err != nil {
		return err
	}
	opt.Until = engine.StepOnce
	opt.Over = strings.ToLower(c.Name)[0] == 'p'
	if args == "" {
		return c.Syntax("")
	}
	stop, rest, err := c.EvalPrefix(args)
	if err != nil {
		return err
	}
	commands, rest, _, err := c.CutString(strings.TrimLeft(rest, " \t"))
	if err != nil {
		return err
	}
	if err := c.End(rest); err != nil {
		return err
	}
	stop = c.S.canon(stop)
	m := c.S.steps(opt, maxCount, commands, func(pc uint64) bool { return pc == stop })
	return c.letGo(m, m)
}

func cmdGoUp(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	e := c.S.Engine
	var same engine.GoOpt
	out := c.S.going(func(ctx context.Context) (err error) {
		same, err = e.StepOut(ctx)
		return err
	})
	return c.letGo(out, c.S.going(func(ctx context.Context) error { return e.Go(ctx, same) }))
}

func cmdBreakIn(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	e := c.S.Engine
	if e.Halted() {
		return errors.New("the target is halted already")
	}
	return c.S.follow(c.Ctx, c.S.going(func(ctx context.Context) error {
		if err := e.BreakIn(ctx); err != nil && !errors.Is(err, target.ErrHalted) {
			return err
		}
		return nil
	}))
}
