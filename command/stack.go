package command

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"openkd/engine"
	"openkd/engine/types"
	"openkd/image/unwind"
	"openkd/kdproto"
)

func stackCommands() []*Command {
	f := "Stacks"
	return []*Command{
		{Names: []string{"k", "kb", "kc", "kf", "kL", "kn", "kp", "kP", "kv"}, Family: f, Glued: true, Run: cmdStack,
			Summary: "show the stack; letters: b arguments, c names only, f sizes of frames, p and P parameters, v arguments and trap frames, n numbers, L no lines of source, which .lines shows",
			Usage:   "[processor]k[b|p|P|v][c][n][f][L][M] [frames]\nk = stack-pointer [frames]\nk = stack-pointer instruction-pointer frames (x86: k = ebp [frames], k = ebp esp eip)", Example: "kb 10"},
		{Names: []string{"kd"}, Family: f, Run: cmdStackData, Summary: "show what lies on the stack, pointer by pointer, with names", Usage: "kd [count]", Example: "kd 20"},
		{Names: []string{".kframes"}, Family: f, NoTarget: true, Run: cmdStackDepth, Summary: "show or set how many frames k shows", Usage: ".kframes [frames]", Example: ".kframes 0n40"},
		{Names: []string{".frame"}, Family: f, Run: cmdFrame, Summary: "show a frame and make it the current one; /c takes its registers, /r shows them", Usage: ".frame [/c] [/r] [number]", Example: ".frame /r 1"},
		{Names: []string{".cxr"}, Family: f, Run: cmdContextRecord, Summary: "take the registers of a CONTEXT record; without one, back to those of the processor", Usage: ".cxr [/w] [address|-1]", Example: ".cxr @rcx"},
		{Names: []string{".trap"}, Family: f, Run: cmdTrapFrame, Summary: "take the registers of a trap frame; without one, back to those of the processor", Usage: ".trap [address]", Example: ".trap ffff8a00`00012e10"},
		{Names: []string{".ecxr"}, Family: f, Run: cmdEventContext, Summary: "take the registers of the exception that stopped the target, or of the bug check", Usage: ".ecxr", Example: ".ecxr"},
		{Names: []string{".thread"}, Family: f, Run: cmdThread, Summary: "take the registers of a thread that waits; without one, back to the current thread", Usage: ".thread [/p [/r]] [/P] [/w] [address]", Example: ".thread @$thread"},
		{Names: []string{".fnent"}, Family: f, Run: cmdFunctionEntry, Summary: "show the unwind data of the function at an address", Usage: ".fnent address", Example: ".fnent @rip"},
	}
}

// stackShape is what k shows of each frame.
type stackShape struct {
	args, traps, bare, sizes bool
	params                   byte // p or P; 0: none
	noLines                  bool
}

// stackLetters reads the letters of k.
func (c *Call) stackLetters() (s stackShape, args string, err error) {
	letters := c.Name[1:]
	args = c.Args
	if c.glued() {
		n := 0
		for n < len(args) && isLetter(args[n]) {
			n++
		}
		letters, args = letters+args[:n], strings.TrimLeft(args[n:], " \t")
	}
	for i := range len(letters) {
		switch letters[i] {
		case 'b', 'B':
			s.args = true
		case 'v', 'V':
			s.args, s.traps = true, true
		case 'c', 'C':
			s.bare = true
		case 'f', 'F':
			s.sizes = true
		case 'p', 'P':
			s.params = letters[i]
		case 'l', 'L':
			s.noLines = true
		case 'n', 'N', 'm', 'M':
			// Numbers are shown always, and there are no links.
		default:
			return s, "", c.Fault("Syntax error", c.Args, "k knows the letters b c f L M n p P v, not %q", letters[i])
		}
	}
	return s, args, nil
}

// defaultDepth is how many frames k shows.
const defaultDepth = engine.DefaultFrames

func (s *Session) stackDepth() int {
	if s.frames > 0 {
		return s.frames
	}
	return defaultDepth
}

// frameCount checks a number of frames.
func (c *Call) frameCount(v uint64, at string) (int, error) {
	if v == 0 || v > engine.MaxFrames {
		return 0, c.Fault("Range error", at, "1 to 0x%x frames are shown", engine.MaxFrames)
	}
	return int(v), nil
}

func cmdStack(c *Call) error {
	shape, args, err := c.stackLetters()
	if err != nil {
		return err
	}
	n, err := c.processor()
	if err != nil {
		return err
	}
	e := c.S.Engine
	regs, err := e.Regs(c.Ctx, n)
	if err != nil {
		return err
	}
	depth := c.S.stackDepth()
	given := strings.HasPrefix(args, "=")
	if given {
		if depth, err = c.stackFrom(&regs, args[1:], depth); err != nil {
			return err
		}
	} else if args != "" {
		v, err := c.Eval(args)
		if err != nil {
			return err
		}
		if depth, err = c.frameCount(v, args); err != nil {
			return err
		}
	}
	if sc := e.Scope(); n < 0 && !given && sc.Kind != engine.ScopeLive {
		c.Printf("  *** Stack trace for last set context - .thread/.cxr resets it\n")
	}
	st, err := e.Stack(c.Ctx, regs, engine.StackOpt{Limit: depth, Regs: shape.params != 0})
	if err != nil {
		return err
	}
	return c.showStack(st, shape)
}

// stackFrom reads `= ...`: x64 and ARM64 have the stack pointer, then the program
// counter; x86 the frame pointer, then both.
func (c *Call) stackFrom(r *unwind.Regs, args string, depth int) (int, error) {
	at := strings.TrimSpace(args)
	var v []uint64
	for rest := at; rest != ""; {
		x, r, err := c.EvalPrefix(rest)
		if err != nil {
			return 0, err
		}
		v, rest = append(v, x), strings.TrimLeft(r, " \t,")
	}
	if len(v) == 0 || len(v) > 4 {
		return 0, c.Syntax(at)
	}
	count := -1
	if r.Machine == kdproto.MachineI386 {
		const ebp = 5
		r.Set(ebp, c.S.canon(v[0])&0xFFFFFFFF)
		switch len(v) {
		case 1:
		case 2:
			count = 1
		default:
			r.SP, r.PC = c.S.canon(v[1]), c.S.canon(v[2])
			if len(v) == 4 {
				count = 3
			}
		}
	} else {
		r.SP = v[0]
		switch len(v) {
		case 1:
		case 2:
			count = 1
		case 3:
			r.PC, count = v[1], 2
		default:
			return 0, c.Syntax(at)
		}
	}
	if count < 0 {
		return depth, nil
	}
	return c.frameCount(v[count], at)
}

// stackHeader is the line above a stack.
func (c *Call) stackHeader(s stackShape) string {
	x86 := c.S.pointerSize() == 4
	head := " # "
	if s.sizes {
		head = " #   Memory  "
	}
	switch {
	case s.bare:
		return " # Call Site"
	case x86 && s.args:
		return head + "ChildEBP RetAddr      Args to Child"
	case x86:
		return head + "ChildEBP RetAddr"
	case s.args:
		return head + "RetAddr               : Args to Child                                                           : Call Site"
	}
	return head + "Child-SP          RetAddr               Call Site"
}

// inlineMark stands in the columns of a function that has no frame of its own.
const inlineMark = "(Inline Function)"

func (c *Call) showStack(st *engine.Stack, shape stackShape) error {
	e := c.S.Engine
	x86 := c.S.pointerSize() == 4
	var args []string
	if shape.args {
		var err error
		if args, err = c.arguments(st); err != nil {
			return err
		}
	}
	var params [][]string
	if shape.params != 0 {
		var err error
		if params, err = c.stackParams(st); err != nil {
			return err
		}
	}
	var lines []string
	if !shape.noLines && !shape.bare {
		lines = c.frameLines(st)
	}
	var b strings.Builder
	b.WriteString(c.stackHeader(shape) + "\n")
	guessed, lost := false, false
	last := uint64(0)
	for i := range st.Frames {
		f := &st.Frames[i]
		name := c.frameName(f)
		if f.Inline == "" {
			if !lost && e.Symbolize(f.PC) == "" {
				lost = true
				b.WriteString("WARNING: Frame IP not in any known module. Following frames may be wrong.\n")
			} else if !guessed && !lost && f.How == unwind.Guess {
				guessed = true
				b.WriteString("WARNING: Stack unwind information not available. Following frames may be wrong.\n")
			}
		}
		if params != nil && len(params[i]) > 0 {
			name = withParams(name, params[i], shape.params == 'P')
		}
		if lines != nil {
			name += lines[i]
		}
		fmt.Fprintf(&b, "%02x ", f.Number)
		if shape.bare {
			b.WriteString(name + "\n")
			continue
		}
		at := f.SP
		if x86 {
			at = f.FP
		}
		if shape.sizes {
			size := ""
			if i > 0 && f.Inline == "" && last != 0 {
				size = fmt.Sprintf("%x", at-last)
			}
			fmt.Fprintf(&b, "%8s  ", size)
		}
		if f.Inline == "" {
			last = at
		}
		first, ret := c.S.addr(at), c.S.addr(f.Return)
		if f.Inline != "" {
			first, ret = c.inlineColumns()
		}
		switch {
		case shape.args && x86:
			fmt.Fprintf(&b, "%s %s     %s %s", first, ret, args[i], name)
		case shape.args:
			fmt.Fprintf(&b, "%s     : %s : %s", ret, args[i], name)
		default:
			fmt.Fprintf(&b, "%s %s     %s", first, ret, name)
		}
		if shape.traps {
			b.WriteString(c.frameNotes(f, x86))
		}
		b.WriteByte('\n')
		if b.Len() > 1<<16 {
			c.Printf("%s", b.String())
			b.Reset()
		}
	}
	if t := st.End.String(); t != "" {
		b.WriteString(t + "\n")
	}
	c.Printf("%s", b.String())
	return c.Ctx.Err()
}

// inlineColumns stand where other frames have addresses.
func (c *Call) inlineColumns() (first, ret string) {
	first, ret = inlineMark, strings.Map(func(r rune) rune {
		if r == '`' {
			return r
		}
		return '-'
	}, c.S.addr(0))
	if c.S.pointerSize() == 4 {
		first = "(Inline)"
	}
	return first, ret
}

// frameName is the place of a frame in words.
func (c *Call) frameName(f *engine.Frame) string {
	if f.Inline != "" {
		return f.Inline
	}
	if c.endsInCall(f) {
		if n, d, ok := c.S.Engine.Name(f.PC - 1); ok {
			return fmt.Sprintf("%s+0x%x", n, d+1)
		}
	}
	if n := c.S.symbol(f.PC); n != "" {
		return n
	}
	return "0x" + c.S.addr(f.PC)
}

// endsInCall reports whether a frame waits for a call that is the last
// instruction of its function, as those that never return are: what follows is
// another function, which has nothing to do with the stack.
func (c *Call) endsInCall(f *engine.Frame) bool {
	if f.Exact || f.PC == 0 || c.S.Engine == nil || c.S.machine() == arm64 {
		return false
	}
	if _, d, ok := c.S.Engine.Name(f.PC); !ok || d != 0 {
		return false
	}
	data, err := c.S.Engine.Read(c.Ctx, engine.Virtual, f.PC-7, 7)
	if err != nil || !data.ValidRange(0, 7) {
		return false
	}
	b := data.Bytes
	if b[2] == 0xE8 { // call near
		return true
	}
	for _, n := range []int{2, 3, 4, 6, 7} { // call through a register or memory
		if b[7-n] == 0xFF && b[8-n]>>3&7 == 2 {
			return true
		}
	}
	return false
}

// arguments are the columns of kb: what lies where the caller puts parameters.
// On x64 that is the room for the first four, which the function may have used
// otherwise. ARM64 passes them in registers only.
func (c *Call) arguments(st *engine.Stack) ([]string, error) {
	size, n := c.S.pointerSize(), 4
	if size == 4 {
		n = 3
	}
	hole := strings.Map(func(r rune) rune {
		if r == '`' {
			return r
		}
		return '?'
	}, c.S.addr(0))
	out := make([]string, len(st.Frames))
	var ranges []engine.Range
	for i := range st.Frames {
		f := &st.Frames[i]
		r := engine.Range{Addr: f.CFA, Len: n * size}
		if f.Inline != "" || f.CFA == 0 || f.MachineFrame != 0 || c.S.machine() == arm64 {
			r = engine.Range{}
		}
		ranges = append(ranges, r)
	}
	data, err := c.S.Engine.ReadEach(c.Ctx, ranges)
	if err != nil {
		return nil, err
	}
	for i := range data {
		var cols []string
		for k := range n {
			switch d := &data[i]; {
			case ranges[i].Len == 0:
				cols = append(cols, strings.ReplaceAll(hole, "?", "-"))
			case d.ValidRange(k*size, size):
				cols = append(cols, c.S.addr(number(d.Bytes[k*size:(k+1)*size])))
			default:
				cols = append(cols, hole)
			}
		}
		out[i] = strings.Join(cols, " ")
	}
	return out, nil
}

// frameNotes are what kv adds: the layout of frames of x86, trap frames.
func (c *Call) frameNotes(f *engine.Frame, x86 bool) string {
	trap := ""
	if at := c.S.Engine.TrapFrameOf(c.Ctx, f); at != 0 {
		trap = "TrapFrame @ " + c.S.addr(at)
	}
	if x86 && f.How == unwind.FPO {
		x := &f.X86
		text := fmt.Sprintf("FPO: [%d,%d,%d]", x.Params/4, x.Locals/4, x.SavedRegs/4)
		if x.UsesEBP {
			text = fmt.Sprintf("FPO: [uses EBP] [%d,%d,%d]", x.Params/4, x.Locals/4, x.SavedRegs/4)
		}
		if trap != "" {
			text += " " + trap
		}
		return " (" + text + ")"
	}
	if x86 && f.How == unwind.FramePointer && trap == "" {
		return " (FPO: [Non-Fpo])"
	}
	if trap != "" {
		return " (" + trap + ")"
	}
	return ""
}

// noParams stands for the parameters of a function that has none.
const noParams = "void"

// stackParams are the parameters of the functions of a stack as dv shows them,
// by frame; nil where nothing is known of them. All values are read together.
func (c *Call) stackParams(st *engine.Stack) ([][]string, error) {
	frames := c.S.Engine.Params(c.Ctx, st)
	out := make([][]string, len(frames))
	err := c.gather(func(_ *bytes.Buffer, m types.Memory) error {
		for i, list := range frames {
			out[i] = nil
			if list != nil && len(list) == 0 {
				out[i] = []string{noParams}
			}
			for k := range list {
				l := &list[k]
				t, err := types.Of(l.File, l.Type, l.Module)
				if err != nil {
					out[i] = append(out[i], l.Name+" = <damaged type>")
					continue
				}
				out[i] = append(out[i], t.C(types.Expression)+" "+l.Name+" = "+c.localText(m, l, t))
			}
		}
		return nil
	})
	return out, err
}

// withParams puts parameters between the name of a function and the offset in
// it: on one line, or on one each.
func withParams(name string, params []string, lines bool) string {
	fn, off := name, ""
	if i := strings.LastIndex(name, "+0x"); i > 0 {
		fn, off = name[:i], name[i:]
	}
	if lines && params[0] != noParams {
		return fn + "(\n\t\t\t" + strings.Join(params, ",\n\t\t\t") + ")" + off
	}
	return fn + "(" + strings.Join(params, ", ") + ")" + off
}

// cmdStackData is kd: dps from the stack pointer on.
func cmdStackData(c *Call) error {
	sp, err := c.S.Engine.SP(c.Ctx)
	if err != nil {
		return err
	}
	n := uint64(20)
	if strings.TrimSpace(c.Args) != "" {
		if n, err = c.Eval(c.Args); err != nil {
			return err
		}
		if n == 0 || n > 1<<16 {
			return c.Fault("Range error", c.Args, "1 to 0x10000 pointers are shown")
		}
	}
	at := *c
	at.Name, at.Args = "dps", fmt.Sprintf("%s L%x", c.S.addr(sp), n)
	return cmdDumpSymbols(&at)
}

func cmdStackDepth(c *Call) error {
	args := strings.TrimSpace(c.Args)
	if args != "" {
		v, err := c.Eval(args)
		if err != nil {
			return err
		}
		if c.S.frames, err = c.frameCount(v, args); err != nil {
			return err
		}
	}
	c.Printf("Default stack trace depth is 0n%d frames\n", c.S.stackDepth())
	return nil
}

// frameLine is a frame as .frame shows it.
func (c *Call) frameLine(f *engine.Frame) string {
	if f.Inline != "" {
		first, ret := c.inlineColumns()
		return fmt.Sprintf("%02x %s %s     %s\n", f.Number, first, ret, f.Inline)
	}
	at := f.SP
	if c.S.pointerSize() == 4 {
		at = f.FP
	}
	line := ""
	if l := c.frameLines(&engine.Stack{Frames: []engine.Frame{*f}}); l != nil {
		line = l[0]
	}
	return fmt.Sprintf("%02x %s %s     %s%s\n", f.Number, c.S.addr(at), c.S.addr(f.Return), c.frameName(f), line)
}

func cmdFrame(c *Call) error {
	args := strings.TrimSpace(c.Args)
	take, show := false, false
	for strings.HasPrefix(args, "/") {
		w, rest := cutWord(args)
		switch strings.ToLower(w) {
		case "/c":
			take = true
		case "/r":
			show = true
		default:
			return c.Syntax(args)
		}
		args = rest
	}
	e := c.S.Engine
	var f *engine.Frame
	var err error
	if args == "" {
		f, err = e.CurrentFrame(c.Ctx)
	} else {
		v, rest, e1 := c.EvalPrefix(strings.TrimPrefix(args, "="))
		if e1 != nil {
			return e1
		}
		if err := c.End(rest); err != nil {
			return err
		}
		if v >= engine.MaxFrames {
			return c.Fault("Range error", args, "frames are numbered 0 to 0x%x", engine.MaxFrames-1)
		}
		f, err = e.SetFrame(c.Ctx, int(v))
	}
	if err != nil {
		return err
	}
	c.Printf("%s", c.frameLine(f))
	if !take && !show {
		return nil
	}
	record, err := e.FrameContext(c.Ctx, f)
	if err != nil {
		return err
	}
	if take {
		if err := e.SetScope(engine.ScopeFrame, f.SP, record); err != nil {
			return err
		}
		c.S.place(c.Ctx, f.PC, true)
		return nil
	}
	a, err := c.arch()
	if err != nil {
		return err
	}
	st, err := e.State(c.Ctx, -1)
	if err != nil {
		return err
	}
	st.Context = record
	c.Printf("%s", a.Format(st, c.S.exec.mask))
	c.S.location(c.Ctx, f.PC)
	return nil
}

// resetScope goes back to the processor's own registers.
func (c *Call) resetScope() error {
	c.S.Engine.ResetScope()
	c.Printf("Resetting default scope\n")
	return nil
}

// setScope takes registers and shows them.
func (c *Call) setScope(kind engine.ScopeKind, addr uint64, record []byte) error {
	if err := c.S.Engine.SetScope(kind, addr, record); err != nil {
		return err
	}
	a, err := c.arch()
	if err != nil {
		return err
	}
	c.S.place(c.Ctx, a.PC(record), true)
	return nil
}

func cmdContextRecord(c *Call) error {
	args := strings.TrimSpace(c.Args)
	if w, _ := cutWord(args); strings.EqualFold(w, "/w") {
		return errors.New(".cxr /w is for the 32-bit threads of 64-bit user mode, which is not supported")
	}
	if args == "" || args == "-1" {
		return c.resetScope()
	}
	addr, err := c.Eval(args)
	if err != nil {
		return err
	}
	record, err := c.S.Engine.ReadContext(c.Ctx, addr)
	if err != nil {
		return err
	}
	return c.setScope(engine.ScopeContext, c.S.canon(addr), record)
}

func cmdTrapFrame(c *Call) error {
	args := strings.TrimSpace(c.Args)
	if args == "" {
		return c.resetScope()
	}
	addr, err := c.Eval(args)
	if err != nil {
		return err
	}
	record, _, err := c.S.Engine.TrapFrame(c.Ctx, addr)
	if err != nil {
		return err
	}
	c.Printf("NOTE: The trap frame does not contain all registers.\nSome register values may be zeroed or incorrect.\n")
	return c.setScope(engine.ScopeTrap, c.S.canon(addr), record)
}

// Bug checks one of whose parameters points to the CONTEXT record of the
// exception (Bug Check Code Reference), by number of the parameter.
var bugContexts = map[uint64]int{
	0x3B: 3, 0x7E: 4, 0x1000007E: 4, 0x24: 3, 0x23: 3, 0x27: 4,
}

func cmdEventContext(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	e := c.S.Engine
	st := e.LastStop()
	if st == nil || !e.Halted() {
		_, err := e.PC(c.Ctx) // says why there is none
		if err == nil {
			err = errors.New("there was no event yet")
		}
		return err
	}
	if b := st.BugCheck; b != nil {
		if n := bugContexts[b.Code]; n != 0 && b.Args[n-1] != 0 {
			record, err := e.ReadContext(c.Ctx, b.Args[n-1])
			if err != nil {
				return fmt.Errorf("parameter %d of the bug check: %w", n, err)
			}
			return c.setScope(engine.ScopeContext, b.Args[n-1], record)
		}
	}
	if st.Exception == nil {
		return errors.New("the last event was no exception")
	}
	if st.Processor != e.Processor() {
		if err := e.SetProcessor(c.Ctx, st.Processor); err != nil {
			return err
		}
	}
	e.ResetScope()
	pc, err := e.PC(c.Ctx)
	if err != nil {
		return err
	}
	c.S.place(c.Ctx, pc, true)
	return nil
}

func cmdThread(c *Call) error {
	args := strings.TrimSpace(c.Args)
	for strings.HasPrefix(args, "/") {
		w, rest := cutWord(args)
		if w != "/r" {
			return fmt.Errorf(".thread %s needs the address space of the thread's process, which cannot be switched yet; without it kernel memory is shown all the same", w)
		}
		args = rest
	}
	e := c.S.Engine
	current, ok, err := env{c.Ctx, c.S}.thread()
	if args == "" {
		if !ok {
			return err
		}
		e.ResetScope()
		c.Printf("Implicit thread is now %s\n", c.S.addr(current))
		return nil
	}
	addr, err := c.Eval(args)
	if err != nil {
		return err
	}
	if addr = c.S.canon(addr); addr == 0 {
		addr = current
	}
	record, running, err := e.ThreadContext(c.Ctx, addr)
	switch {
	case err != nil:
		return err
	case running:
		e.ResetScope()
	default:
		if err := e.SetScope(engine.ScopeThread, addr, record); err != nil {
			return err
		}
	}
	c.Printf("Implicit thread is now %s\n", c.S.addr(addr))
	return nil
}

// functionStart is where the function around an address begins, by its name.
func (s *Session) functionStart(addr uint64) (uint64, bool) {
	name, off, ok := s.Engine.Name(addr)
	// The name of a module alone says nothing of functions.
	if !ok || !strings.Contains(name, "!") {
		return 0, false
	}
	return addr - off, true
}
