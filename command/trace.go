package command

import (
	"context"
	"fmt"
	"path"
	"sort"
	"strconv"
	"strings"

	"openkd/arch"
	"openkd/engine"
	"openkd/image/disasm"
)

// Limits of wt: the instructions of one trace, and how deep it looks.
const (
	maxTraced     = 1 << 24
	maxTraceDepth = 256
)

// tracer is one wt. The target runs from one transfer of control to the next;
// how many instructions lie between tells the code.
type tracer struct {
	c                 *Call
	depth             int
	only, ignore      []string // patterns of modules
	calls, summary    bool
	addresses, result bool

	end     uint64 // where it ends; 0: where the first function returns
	stack   []*traced
	sums    map[string]*traceSum
	total   uint64 // instructions
	events  int    // times that the target stopped
	systems int    // system calls
}

// traced is a function that is being run.
type traced struct {
	name       string
	begin, end uint64 // of the piece that it was entered at; 0: not known
	sp         uint64 // behind its return
	own        uint64 // instructions of its own
	children   uint64 // and of what it has called
}

// traceSum is a line of the summary.
type traceSum struct{ n, min, max, all uint64 }

func (c *Call) traceOptions() (*tracer, *uint64, error) {
	t := &tracer{c: c, depth: maxTraceDepth, calls: true, summary: true, sums: map[string]*traceSum{}}
	args := strings.TrimSpace(c.Args)
	for strings.HasPrefix(args, "-") {
		w, rest := cutWord(args)
		switch w {
		case "-l", "-m", "-i":
			v, r := cutWord(rest)
			if v == "" {
				return nil, nil, c.Fault("Syntax error", "", "a value is expected behind %s", w)
			}
			switch w {
			case "-l":
				n, err := strconv.Atoi(v)
				if err != nil || n < 1 || n > maxTraceDepth {
					return nil, nil, c.Fault("Range error", rest, "the depth is 1 to %d, in decimal", maxTraceDepth)
				}
				t.depth = n
			case "-m":
				t.only = append(t.only, v)
			case "-i":
				t.ignore = append(t.ignore, v)
			}
			rest = r
		case "-nc":
			t.calls = false
		case "-ns":
			t.summary = false
		case "-nw":
		case "-oa":
			t.addresses = true
		case "-or", "-oR":
			t.result = true
		default:
			return nil, nil, c.Syntax(args)
		}
		args = rest
	}
	from, args, err := c.start(args)
	if err != nil {
		return nil, nil, err
	}
	if args != "" {
		v, rest, err := c.EvalPrefix(args)
		if err != nil {
			return nil, nil, err
		}
		if err := c.End(rest); err != nil {
			return nil, nil, err
		}
		t.end = c.S.canon(v)
	}
	return t, from, nil
}

// cmdTrace is wt.
func cmdTrace(c *Call) error {
	t, from, err := c.traceOptions()
	if err != nil {
		return err
	}
	e := c.S.Engine
	e.ResetScope()
	if from != nil {
		if err := e.SetRegister(c.Ctx, c.pcName(), arch.Value{Lo: *from}); err != nil {
			return err
		}
	}
	pc, err := e.PC(c.Ctx)
	if err != nil {
		return err
	}
	if t.end == 0 {
		start, err := c.atStart(pc)
		if err != nil {
			return err
		}
		if !start {
			// As documented, in the middle of a function it is a step.
			m := c.S.steps(engine.StepOpt{Over: true}, 1, "", nil)
			return c.letGo(m, m)
		}
	}
	again := c.S.steps(engine.StepOpt{Over: true}, 1, "", nil)
	return c.letGo(func(ctx context.Context) (*engine.Stop, error) { return t.run(ctx, pc) }, again)
}

// atStart reports whether a function begins at an address, as far as anybody
// knows.
func (c *Call) atStart(pc uint64) (bool, error) {
	f, ok, err := c.S.Engine.Function(c.Ctx, pc)
	if err != nil {
		return false, err
	}
	if ok {
		return f.Start == pc, nil
	}
	start, ok := c.S.functionStart(pc)
	return !ok || start == pc, nil
}

// enter notes a function that begins at pc.
func (t *tracer) enter(ctx context.Context, pc, sp uint64) {
	f := &traced{name: t.c.S.symbol(pc), sp: sp}
	if f.name == "" {
		f.name = "0x" + t.c.S.addr(pc)
	}
	if fn, ok, err := t.c.S.Engine.Function(ctx, pc); ok && err == nil {
		f.begin, f.end = fn.Begin, fn.End
	}
	t.stack = append(t.stack, f)
}

func (t *tracer) top() *traced { return t.stack[len(t.stack)-1] }

// line shows how far the function has come that runs.
func (t *tracer) line(note string) {
	if !t.calls {
		return
	}
	f, n := t.top(), len(t.stack)-1
	if note != "" {
		note = " " + note
	}
	t.c.Printf("%5d %5d [%3d] %s%s%s\n", f.own, f.children, n, strings.Repeat("  ", n), f.name, note)
}

// leave ends the function that runs.
func (t *tracer) leave() {
	f := t.top()
	t.stack = t.stack[:len(t.stack)-1]
	if len(t.stack) > 0 {
		t.top().children += f.own + f.children
	}
	s := t.sums[f.name]
	if s == nil {
		s = &traceSum{min: f.own}
		t.sums[f.name] = s
	}
	s.n++
	s.min, s.max, s.all = min(s.min, f.own), max(s.max, f.own), s.all+f.own
}

// wanted reports whether a function is gone into, by its module.
func (t *tracer) wanted(pc uint64) bool {
	m, ok, err := t.c.S.Engine.ModuleAt(t.c.Ctx, pc)
	if err != nil || !ok {
		return len(t.only) == 0
	}
	match := func(list []string) bool {
		for _, p := range list {
			if ok, err := path.Match(strings.ToLower(p), strings.ToLower(m.Name)); ok && err == nil {
				return true
			}
		}
		return false
	}
	return (len(t.only) == 0 || match(t.only)) && !match(t.ignore)
}

// step lets the target make one motion. ok is false when something else than
// its end stopped it.
func (t *tracer) step(ctx context.Context, move func(context.Context) error) (st *engine.Stop, ok bool, err error) {
	if err := t.c.S.stopped(ctx); err != nil {
		return nil, false, err
	}
	if err := move(ctx); err != nil {
		return nil, false, err
	}
	if st, err = t.c.S.wait(ctx); err != nil {
		return nil, false, err
	}
	t.events++
	return st, st.Reason == engine.ReasonStep, nil
}

// run traces from pc on.
func (t *tracer) run(ctx context.Context, pc uint64) (*engine.Stop, error) {
	c, e := t.c, t.c.S.Engine
	sp, err := e.SP(ctx)
	if err != nil {
		return nil, err
	}
	ra, err := e.ReturnAddress(ctx)
	switch {
	case err != nil && t.end == 0:
		return nil, err
	case t.end != 0:
		c.Printf("Tracing %s to address %s\n", c.S.nameOf(pc), c.S.addr(t.end))
	default:
		c.Printf("Tracing %s to return address %s\n", c.S.nameOf(pc), c.S.addr(ra))
	}
	t.enter(ctx, pc, sp+1) // a return takes something off the stack, but on ARM64
	if c.S.machine() == arm64 {
		t.top().sp = sp
	}
	var st *engine.Stop
	for t.total < maxTraced {
		in, err := e.Instruction(ctx, pc)
		if err != nil {
			return st, t.finish(err)
		}
		if sp, err = e.SP(ctx); err != nil {
			return st, t.finish(err)
		}
		var ok bool
		opt := engine.StepOpt{}
		into := false
		switch in.Kind {
		case disasm.Call:
			opt.Over = len(t.stack) > t.depth || in.HasTarget && !t.wanted(in.Target)
			into = !opt.Over
		case disasm.Ret, disasm.Jump, disasm.CondJump, disasm.Interrupt, disasm.Syscall:
			if in.Kind == disasm.Syscall {
				t.systems++
			}
		default:
			opt.Until = engine.StepToBranch
		}
		if st, ok, err = t.step(ctx, func(ctx context.Context) error { return e.Step(ctx, opt) }); err != nil {
			return st, t.finish(err)
		}
		n := uint64(max(st.Steps, 1))
		t.top().own += n
		t.total += n
		if !ok {
			break
		}
		pc = st.PC
		if into && !t.wanted(pc) {
			// Where an indirect call goes is known now.
			if st, ok, err = t.step(ctx, func(ctx context.Context) error { _, err := e.StepOut(ctx); return err }); err != nil {
				return st, t.finish(err)
			}
			if pc, into = st.PC, false; !ok {
				break
			}
		}
		now, err := e.SP(ctx)
		if err != nil {
			return st, t.finish(err)
		}
		switch {
		case into:
			note := ""
			if t.addresses {
				note = "@ " + c.S.addr(in.Addr)
			}
			t.line(note)
			t.enter(ctx, pc, sp)
			continue
		case in.Kind == disasm.Ret:
			for len(t.stack) > 1 && now >= t.top().sp {
				t.line(t.returned(ctx))
				t.leave()
			}
			if len(t.stack) == 1 && now >= t.top().sp && t.end == 0 {
				ok = false
			}
		case in.Kind == disasm.Jump:
			// A jump to the start of another function is a call that returns to
			// whoever called this one.
			if f := t.top(); pc < f.begin || pc >= f.end {
				if fn, found, err := e.Function(ctx, pc); err == nil && found && fn.Start == pc && fn.Begin != f.begin {
					t.line("")
					own := f.sp
					t.leave()
					t.enter(ctx, pc, own)
				}
			}
		}
		if !ok || t.end != 0 && pc == t.end {
			break
		}
	}
	return st, t.finish(nil)
}

// returned is what a function has returned.
func (t *tracer) returned(ctx context.Context) string {
	if !t.result {
		return ""
	}
	name := map[int]string{x86: "eax", x64: "rax", arm64: "x0"}[t.c.S.machine()]
	v, r, err := t.c.S.Engine.Register(ctx, name)
	if err != nil {
		return ""
	}
	return r.Name + " = " + strconv.FormatUint(v.Lo, 16)
}

// finish shows the counts, and where the target stands.
func (t *tracer) finish(err error) error {
	c := t.c
	t.line(t.returned(c.Ctx))
	for len(t.stack) > 0 {
		t.leave()
	}
	c.Printf("\n%d instructions were executed in %d events (0 from other threads)\n", t.total, t.events)
	if t.summary {
		names := make([]string, 0, len(t.sums))
		for n := range t.sums {
			names = append(names, n)
		}
		sort.Strings(names)
		var b strings.Builder
		fmt.Fprintf(&b, "\n%-43s %11s %7s %7s %7s\n", "Function Name", "Invocations", "MinInst", "MaxInst", "AvgInst")
		for _, n := range names {
			s := t.sums[n]
			fmt.Fprintf(&b, "%-43s %11d %7d %7d %7d\n", n, s.n, s.min, s.max, s.all/s.n)
		}
		fmt.Fprintf(&b, "\n%d system calls were executed\n\n", t.systems)
		c.Printf("%s", b.String())
	}
	if st := c.S.Engine.LastStop(); st != nil && err == nil && c.S.Engine.Halted() && !quietHit(st) {
		c.S.ShowStop(c.Ctx, st)
	}
	return err
}

// nameOf is the name of an address, or the address.
func (s *Session) nameOf(addr uint64) string {
	if n := s.symbol(addr); n != "" {
		return n
	}
	return "0x" + s.addr(addr)
}
