package command

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"time"

	"openkd/engine"
	"openkd/kdproto"
	"openkd/target"
)

func controlCommands() []*Command {
	p, t, l := "Processors", "Target control", "Leaving"
	return []*Command{
		{Names: []string{"~"}, Family: p, Run: cmdProcessors, Summary: "list the processors, or make one the current one", Usage: "~\n~<n>s", Example: "~1s"},
		{Names: []string{"|", "||"}, Family: p, NoTarget: true, Run: cmdSystems, Summary: "show the session", Usage: "|\n||", Example: "||"},
		{Names: []string{"vertarget"}, Family: t, Run: cmdVerTarget, Summary: "show what the target runs", Usage: "vertarget", Example: "vertarget"},
		{Names: []string{"version"}, Family: t, Run: cmdVersion, Summary: "show what the target runs, and the version of the debugger", Usage: "version", Example: "version"},
		{Names: []string{".time"}, Family: t, Run: cmdTime, Summary: "show the target's time and how long it has been up", Usage: ".time [-h hours]", Example: ".time"},
		{Names: []string{".lastevent"}, Family: t, NoTarget: true, Run: cmdLastEvent, Summary: "show the last stop", Usage: ".lastevent", Example: ".lastevent"},
		{Names: []string{".exr"}, Family: t, Run: cmdExceptionRecord, Summary: "show an exception record; -1 is that of the last stop", Usage: ".exr {-1|address}", Example: ".exr -1"},
		{Names: []string{".bugcheck"}, Family: t, Run: cmdBugCheck, Summary: "show the bug check code and its arguments", Usage: ".bugcheck", Example: ".bugcheck"},
		{Names: []string{".cache"}, Family: t, NoTarget: true, Run: cmdCache, Summary: "show, size or flush the memory cache", Usage: ".cache [size in KB|flushall|flushu|flush address]", Example: ".cache flushall"},
		{Names: []string{".prompt_allow"}, Family: t, NoTarget: true, Run: cmdPromptAllow, Summary: "choose what a stop shows", Usage: ".prompt_allow [{+|-}{dis|reg|sym|ea|src} ...]", Example: ".prompt_allow -reg"},
		{Names: []string{".reboot"}, Family: t, Run: cmdReboot, Summary: "reset the target's machine at once", Usage: ".reboot", Example: ".reboot"},
		{Names: []string{".crash"}, Family: t, Run: cmdCrash, Summary: "make the target bug check (0xE2)", Usage: ".crash", Example: ".crash"},
		{Names: []string{".restart"}, Family: t, NoTarget: true, Run: cmdRestart, Summary: "close and open the link again", Usage: ".restart", Example: ".restart"},
		{Names: []string{".endpsrv"}, Family: l, NoTarget: true, Run: cmdEndServer, Summary: "end the connection server that this session goes through, and leave", Usage: ".endpsrv", Example: ".endpsrv"},
		{Names: []string{".psrvstatus"}, Family: l, NoTarget: true, Run: cmdServerStatus, Summary: "show what the connection server of this session serves, and to whom", Usage: ".psrvstatus", Example: ".psrvstatus"},
		{Names: []string{"q", "qq", "qd"}, Family: l, NoTarget: true, Run: cmdQuit, Summary: "leave: breakpoints are removed and the target runs; with /h it stays halted", Usage: "q [/h]", Example: "q"},
	}
}

func cmdProcessors(c *Call) error {
	e := c.S.Engine
	args := strings.TrimSpace(c.Args)
	if args == "" || args == "*" {
		states, err := e.States(c.Ctx)
		if err != nil {
			return err
		}
		a, stop := e.Arch(), e.LastStop()
		for i, st := range states {
			mark := " "
			switch {
			case i == e.Processor():
				mark = "."
			case stop != nil && i == stop.Processor:
				mark = "#"
			}
			if len(st.Context) == 0 {
				c.Printf("%s %2d  its state cannot be read\n", mark, i)
				continue
			}
			pc := a.PC(st.Context)
			c.Printf("%s\n", strings.TrimRight(fmt.Sprintf("%s %2d  %s %s", mark, i, c.S.addr(pc), e.Symbolize(pc)), " "))
		}
		return nil
	}
	digits := 0
	for digits < len(args) && isDigit(args[digits]) {
		digits++
	}
	n, err := strconv.Atoi(args[:digits])
	if err != nil || args[digits:] != "s" && args[digits:] != "S" {
		return c.Fault("Syntax error", args, "~ lists the processors and ~<n>s makes one the current one; a number in front of a command shows another processor: 2r")
	}
	if err := e.SetProcessor(c.Ctx, n); err != nil {
		return err
	}
	pc, err := e.PC(c.Ctx)
	if err != nil {
		return err
	}
	c.S.location(c.Ctx, pc)
	return nil
}

func cmdSystems(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	c.Printf(".  0 %s\n", c.S.Engine.SessionName())
	return nil
}

func cmdVerTarget(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	s, err := c.S.Engine.System(c.Ctx)
	if err != nil {
		return err
	}
	c.Printf("%s%s", s.Banner(), s.Times())
	return nil
}

func cmdVersion(c *Call) error {
	if err := cmdVerTarget(c); err != nil {
		return err
	}
	c.Printf("%s\n", c.S.Engine.SessionName())
	if c.S.exec.program != "" {
		c.Printf("%s\n", c.S.exec.program)
	}
	c.Printf("built with %s for %s/%s\n", runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}

func cmdTime(c *Call) error {
	args := strings.TrimSpace(c.Args)
	var hours int64
	shift := false
	if t, ok := strings.CutPrefix(args, "-h"); ok {
		t = strings.TrimSpace(t)
		n, err := strconv.ParseInt(t, 10, 8)
		if err != nil || n < -24 || n > 24 {
			return c.Fault("Syntax error", t, "-h takes the difference to UTC in hours: -h 2")
		}
		hours, shift = n, true
	} else if err := c.End(args); err != nil {
		return err
	}
	s, err := c.S.Engine.System(c.Ctx)
	if err != nil {
		return err
	}
	if shift {
		s.Zone = time.Duration(hours) * time.Hour
	}
	c.Printf("%s", s.Times())
	return nil
}

func cmdLastEvent(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	st := c.S.Engine.LastStop()
	if st == nil {
		return errors.New("there was no event yet")
	}
	c.Printf("Last event: %s\n", st.Description)
	c.Printf("  debugger time: %s\n", engine.FormatTime(st.Time.In(c.S.now().Location())))
	return nil
}

func cmdExceptionRecord(c *Call) error {
	args := strings.TrimSpace(c.Args)
	if args == "" {
		return c.Syntax("")
	}
	e := c.S.Engine
	if args == "-1" {
		st := e.LastStop()
		if st == nil || st.Exception == nil {
			return errors.New("the last event was no exception")
		}
		c.exceptionRecord(st.Exception)
		return nil
	}
	addr, err := c.Eval(args)
	if err != nil {
		return err
	}
	// EXCEPTION_RECORD: u32 code, u32 flags, pointer to the nested record,
	// pointer to the place, u32 count, pointers.
	n := c.S.pointerSize()
	b, err := e.ReadFull(c.Ctx, engine.Virtual, addr, 8+2*n+n+15*n)
	if err != nil {
		return err
	}
	at := 0
	next := func(size int) uint64 {
		v := number(b[at : at+size])
		at += size
		return v
	}
	x := kdproto.Exception{Code: kdproto.Status(next(4)), Flags: uint32(next(4)), Record: c.S.canon(next(n)), Address: c.S.canon(next(n))}
	x.NumberParameters = uint32(next(n)) // with its padding on 64-bit
	for i := range x.Information {
		x.Information[i] = next(n)
	}
	if x.NumberParameters > 15 {
		return fmt.Errorf("there is no exception record at %s: it would have %d parameters", c.S.addr(addr), x.NumberParameters)
	}
	c.exceptionRecord(&x)
	return nil
}

func cmdBugCheck(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	b, err := c.S.Engine.BugCheck(c.Ctx)
	if err != nil {
		return err
	}
	c.Printf("Bugcheck code %08X\nArguments", b.Code)
	for _, a := range b.Args {
		c.Printf(" %s", c.S.addr(a))
	}
	c.Printf("\n")
	return nil
}

func cmdCache(c *Call) error {
	e := c.S.Engine
	word, rest := cutWord(c.Args)
	switch strings.ToLower(word) {
	case "":
	case "flushall", "flushu":
		if err := c.End(rest); err != nil {
			return err
		}
		e.FlushCache()
	case "flush":
		if _, err := c.Eval(rest); err != nil {
			return err
		}
		e.FlushCache()
	case "hold", "unhold", "decodeptes", "nodecodeptes", "forcedecodeptes", "forcedecodeuser", "noforcedecodeptes", "noforcedecodeuser":
		return c.Fault("Syntax error", c.Args, "the cache belongs to a stop and ends with it, and addresses are translated by the target; only a size, flushall, flushu and flush are known")
	default:
		v, err := c.Eval(c.Args)
		if err != nil {
			return err
		}
		if v == 0 || v > 1<<20 {
			return c.Fault("Range error", c.Args, "the size is given in KB: 1 to 100000 (1 GB); reads go past the cache only when they are large")
		}
		e.SetCacheSize(int(v) << 10)
	}
	st := e.CacheStats()
	c.Printf("Max cache size is       : %d bytes (0x%x KB)\n", st.Size, st.Size>>10)
	c.Printf("Total memory in cache   : %d bytes (0x%x KB)\n", st.Bytes, st.Bytes>>10)
	c.Printf("Number of regions cached: %d\n", st.Pages)
	return nil
}

func cmdPromptAllow(c *Call) error {
	x := &c.S.exec
	onOff := func(no bool) string {
		if no {
			return "-"
		}
		return "+"
	}
	for _, w := range strings.Fields(c.Args) {
		if w[0] != '+' && w[0] != '-' {
			return c.Fault("Syntax error", w, "each word is + or - and one of dis, reg, sym, ea, src")
		}
		off := w[0] == '-'
		switch strings.ToLower(w[1:]) {
		case "dis":
			x.noCode = off
		case "reg":
			x.noRegs = off
		case "sym":
			x.noName = off
		case "ea", "src":
			if !off {
				return c.Fault("Syntax error", w, "%s is not shown at stops yet", w[1:])
			}
		default:
			return c.Fault("Syntax error", w, "each word is + or - and one of dis, reg, sym, ea, src")
		}
	}
	c.Printf("Allow the following information to be displayed at the prompt:\n(Other settings can affect whether the information is actually displayed)\n   sym - Symbol for current instruction: %s\n   dis - Disassembly of current instruction: %s\n   reg - Register state after p and t: %s\n",
		onOff(x.noName), onOff(x.noCode), onOff(x.noRegs))
	return nil
}

func cmdReboot(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	return c.S.follow(c.Ctx, c.S.going(c.S.Engine.Reboot))
}

func cmdCrash(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	if st := c.S.Engine.LastStop(); st != nil && st.Reason == engine.ReasonBugCheck {
		return errors.New("the target is inside a bug check already; g lets it go on with it")
	}
	return c.S.follow(c.Ctx, c.S.going(c.S.Engine.Crash))
}

func cmdRestart(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	if !c.S.Actor.Local() {
		return errors.New(".restart works where the session is shared, not at a client")
	}
	return c.S.follow(c.Ctx, c.S.going(func(ctx context.Context) error { return c.S.Engine.Reopen(ctx) }))
}

func cmdQuit(c *Call) error {
	leave := target.LeaveRunning
	args := strings.TrimSpace(c.Args)
	if strings.EqualFold(args, "/h") {
		leave, args = target.LeaveHalted, ""
	}
	if err := c.End(args); err != nil {
		return err
	}
	if err := c.S.mayQuit(strings.ToLower(c.Name)); err != nil {
		return err
	}
	return &Quit{Leave: leave}
}
