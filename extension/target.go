package extension

import (
	"errors"
	"fmt"
	"strings"

	"go.starlark.net/starlark"

	"openkd/arch"
	"openkd/engine"
	"openkd/engine/expr"
	"openkd/image/sym"
	"openkd/internal/brief"
	"openkd/symbols"
)

var processorParam = Param{Name: "processor", Kind: Int, Optional: true, Min: 0, Max: 65535, Doc: "which; the current one if not given"}

func (a args) processor(i int) int {
	if !a.given(i) {
		return -1
	}
	return int(a.num(i))
}

func registerFuncs() []*Func {
	const g = "Registers and processors"
	return []*Func{
		{Name: "reg", Group: g, Summary: "Reads a register: of the scope that commands look at (.frame, .cxr), or of a processor.", Params: []Param{{Name: "name", Kind: Text, Doc: "`rax`, `cr3`, `zf`"}, processorParam},
			Returns: "a number", Example: `reg("rip")`,
			run: func(c *invocation, a args) (any, error) {
				v, r, err := c.m.e.RegisterOf(c.ctx, a.processor(1), strings.TrimPrefix(a.text(0), "@"))
				if err != nil {
					return nil, err
				}
				return c.register(v, r), nil
			}},
		{Name: "regs", Group: g, Summary: "Reads all whole integer registers.", Params: []Param{processorParam}, Returns: "a dict from name to number", Example: `regs()["rsp"]`, run: allRegisters},
		{Name: "set_reg", Group: g, Summary: "Writes a register of the current processor.", Params: []Param{{Name: "name", Kind: Text, Doc: "`rax`"}, {Name: "value", Kind: Int, Doc: "the number"}}, Returns: "nothing", Example: `set_reg("rax", 0)`,
			run: func(c *invocation, a args) (any, error) {
				c.m.epoch++
				return nil, c.m.e.SetRegister(c.ctx, strings.TrimPrefix(a.text(0), "@"), arch.Value{Lo: uint64(a.num(1))})
			}},
		{Name: "processors", Group: g, Summary: "How many processors the target has.", Returns: "a number", Example: `for n in range(processors()): print(n)`,
			run: func(c *invocation, a args) (any, error) { return c.m.e.Processors(), nil }},
		{Name: "processor", Group: g, Summary: "The processor that commands look at.", Returns: "a number", Example: `processor()`,
			run: func(c *invocation, a args) (any, error) { return c.m.e.Processor(), nil }},
		{Name: "set_processor", Group: g, Summary: "Changes the processor that commands look at.", Params: []Param{{Name: "processor", Kind: Int, Min: 0, Max: 65535, Doc: "which"}}, Returns: "nothing", Example: `set_processor(1)`,
			run: func(c *invocation, a args) (any, error) {
				return nil, c.m.e.SetProcessor(c.ctx, int(a.num(0)))
			}},
		{Name: "current_thread", Group: g, Summary: "The thread of the current processor: the address of its KTHREAD.", Returns: "a number", Example: `typed("nt!_ETHREAD", current_thread())`,
			run: func(c *invocation, a args) (any, error) { return c.value("@$thread") }},
		{Name: "current_process", Group: g, Summary: "The process of the current thread: the address of its EPROCESS.", Returns: "a number", Example: `typed("nt!_EPROCESS", current_process()).ImageFileName`,
			run: func(c *invocation, a args) (any, error) { return c.value("@$proc") }},
		{Name: "pointer_size", Group: g, NoTarget: true, Summary: "How many bytes a pointer of the target has.", Returns: "4 or 8", Example: `pointer_size()`,
			run: func(c *invocation, a args) (any, error) { return c.m.pointerSize(), nil }},
		{Name: "system", Group: g, Summary: "What the target says about itself.", Returns: "an object with name, build, processors, machine, kernel_base, build_lab, uptime in seconds (-1: not known)", Example: `system().build`, run: systemOf},
		{Name: "stop", Group: g, Summary: "The stop that the target stands at.", Returns: "an object with number, reason, headline, description, processor, thread, pc, breakpoints (their ids), exception (an object with code, address, first_chance, parameters, or None), bugcheck (an object with code and parameters, or None)", Example: `stop().reason`,
			run: func(c *invocation, a args) (any, error) { return stopObject(c.m.e, c.m.e.LastStop()), nil }},
	}
}

func (c *invocation) value(expression string) (any, error) {
	v, err := c.eval(expression)
	return Addr(v), err
}

func (c *invocation) register(v arch.Value, r *arch.Reg) any {
	switch {
	case r.Bits > 64:
		return le.AppendUint64(le.AppendUint64(nil, v.Lo), v.Hi)[:min(16, (r.Bits+7)/8)]
	case r.Bits == 64 || r.Bits == 32 && c.m.pointerSize() == 4 && r.Mask&(arch.MaskInt32|arch.MaskInt64) != 0:
		return Addr(v.Lo)
	}
	return int(v.Lo)
}

func allRegisters(c *invocation, a args) (any, error) {
	st, err := c.m.e.State(c.ctx, a.processor(0))
	if err != nil {
		return nil, err
	}
	d := Dict{}
	for _, r := range c.m.e.Arch().Regs() {
		if r.Sub || r.InSpecial() || r.Type != arch.TypeInt && r.Type != arch.TypeFlag || r.Bits > 64 {
			continue
		}
		if v, ok := r.Get(st); ok {
			d = append(d, Field{r.Name, c.register(v, r)})
		}
	}
	return d, nil
}

func systemOf(c *invocation, a args) (any, error) {
	s, err := c.m.e.System(c.ctx)
	if err != nil {
		return nil, err
	}
	up := -1.0
	if s.Uptime >= 0 {
		up = s.Uptime.Seconds()
	}
	return &Object{"system", []Field{{"name", s.Name}, {"build", int(s.Build)}, {"processors", s.Processors}, {"machine", engine.MachineName(s.Machine)},
		{"kernel_base", Addr(s.KernBase)}, {"build_lab", s.BuildLab}, {"uptime", up}}}, nil
}

func stopObject(e *engine.Engine, st *engine.Stop) any {
	if st == nil || st.Stop == nil {
		return nil
	}
	ids := []any{}
	for _, b := range st.Breakpoints {
		ids = append(ids, b.ID)
	}
	var exception, bugcheck any
	if x := st.Exception; x != nil {
		var p []any
		for i := range min(int(x.NumberParameters), len(x.Information)) {
			p = append(p, Addr(x.Information[i]))
		}
		if p == nil {
			p = []any{}
		}
		exception = &Object{"exception", []Field{{"code", int(uint32(x.Code))}, {"address", Addr(x.Address)}, {"first_chance", x.FirstChance}, {"parameters", p}}}
	}
	if b := st.BugCheck; b != nil {
		bugcheck = &Object{"bugcheck", []Field{{"code", Addr(b.Code)}, {"parameters", []any{Addr(b.Args[0]), Addr(b.Args[1]), Addr(b.Args[2]), Addr(b.Args[3])}}}}
	}
	return &Object{"stop", []Field{{"number", int(st.Number)}, {"reason", st.Reason.String()}, {"headline", st.Headline}, {"description", st.Description},
		{"processor", st.Processor}, {"thread", Addr(st.Thread)}, {"pc", Addr(st.PC)}, {"breakpoints", ids}, {"exception", exception}, {"bugcheck", bugcheck}}}
}

func symbolFuncs() []*Func {
	const g = "Symbols"
	return []*Func{
		{Name: "addr", Group: g, NoTarget: true, Summary: "The address that is meant: of a symbol or an expression by its text, of a typed value. Wherever a function takes an address it takes these too.",
			Params: []Param{{Name: "address", Kind: Address, Doc: "`nt!PsActiveProcessHead`, `poi(@rsp)`, a typed value, a number"}}, Returns: "a number", Example: `addr("nt!KeBugCheckEx")`,
			run: func(c *invocation, a args) (any, error) { return Addr(a.addr(0)), nil }},
		{Name: "name", Group: g, NoTarget: true, Summary: "The name of an address, as ln and the stack show it.", Params: []Param{{Name: "address", Kind: Address, Doc: "where"}}, Returns: "text, empty without a name", Example: `name(reg("rip"))`,
			run: func(c *invocation, a args) (any, error) {
				if err := c.loadSymbols(a.addr(0)); err != nil {
					return nil, err
				}
				return c.m.e.Symbolize(a.addr(0)), nil
			}},
		{Name: "symbol", Group: g, NoTarget: true, Summary: "The symbol at or below an address.", Params: []Param{{Name: "address", Kind: Address, Doc: "where, or a name"}}, Returns: "an object with name, module, address, offset (of the address given), size (0: not known), kind, or None", Example: `symbol(reg("rip")).name`, run: symbolAt},
		{Name: "symbols", Group: g, NoTarget: true, Summary: "The symbols whose names match, as x lists them. A module that is named in full is loaded for it.", Params: []Param{{Name: "pattern", Kind: Text, Doc: "`module!name`, with `*` and `?`"}, {Name: "max", Kind: Int, Optional: true, Default: 10000, Min: 1, Max: maxElements, Doc: "symbols at most"}},
			Returns: "a list of objects as symbol() returns them, with offset 0", Example: `[s.name for s in symbols("nt!Ps*")]`, run: symbolList},
		{Name: "source_line", Group: g, NoTarget: true, Summary: "The source line that code belongs to.", Params: []Param{{Name: "address", Kind: Address, Doc: "of the code"}}, Returns: "an object with file, line, address, or None", Example: `source_line(reg("rip"))`,
			run: func(c *invocation, a args) (any, error) {
				set := c.m.e.SymbolSet()
				if set == nil {
					return nil, nil
				}
				l, ok, err := set.Line(c.ctx, a.addr(0))
				if err != nil || !ok {
					return nil, notMissing(err)
				}
				return lineObject(l), nil
			}},
		{Name: "source_addresses", Group: g, NoTarget: true, Summary: "Where the code of a source line begins, in all modules whose symbols are loaded, or in one.", Params: []Param{{Name: "file", Kind: Text, Doc: "the end of its path"}, {Name: "line", Kind: Int, Min: 1, Max: 1<<31 - 1, Doc: "its number"}, {Name: "module", Kind: Text, Optional: true, Default: "", Doc: "a module's name"}},
			Returns: "a list of objects with file, line, address", Example: `source_addresses("ps.c", 80)`,
			run: func(c *invocation, a args) (any, error) {
				set := c.m.e.SymbolSet()
				if set == nil {
					return nil, errors.New("no symbols are read in this session (.sympath, -y)")
				}
				l, err := set.Addresses(c.ctx, a.text(2), a.text(0), uint32(a.num(1)))
				out := make([]any, len(l))
				for i := range l {
					out[i] = lineObject(l[i])
				}
				return out, err
			}},
	}
}

func lineObject(l symbols.Line) any {
	return &Object{"line", []Field{{"file", l.File}, {"line", int(l.Line.Line)}, {"address", Addr(l.Addr)}}}
}

// notMissing drops errors that only say that there is nothing.
func notMissing(err error) error {
	var none *symbols.NoSymbolsError
	if errors.Is(err, symbols.ErrNoModule) || errors.Is(err, symbols.ErrNotFound) || errors.As(err, &none) {
		return nil
	}
	return err
}

// loadSymbols loads the symbols around addresses where the target can be asked
// which they are.
func (c *invocation) loadSymbols(addrs ...uint64) error {
	_, err := c.m.e.LoadSymbols(c.ctx, addrs...)
	if c.ctx.Err() != nil {
		return c.ctx.Err()
	}
	if !c.m.e.Halted() {
		return nil
	}
	return err
}

var symbolKinds = map[sym.Kind]string{sym.Public: "public", sym.Function: "function", sym.Data: "data", sym.Label: "label", sym.Thunk: "thunk", sym.Constant: "constant", sym.TypeDef: "type"}

func symbolObject(s *symbols.Symbol, off uint64) any {
	return &Object{"symbol", []Field{{"name", s.Full()}, {"module", s.Module}, {"address", Addr(s.Addr)}, {"offset", int(off)}, {"size", int(s.Size)}, {"kind", symbolKinds[s.Kind]}}}
}

func symbolAt(c *invocation, a args) (any, error) {
	set := c.m.e.SymbolSet()
	if set == nil {
		return nil, nil
	}
	x, off, ok, err := set.Nearest(c.ctx, a.addr(0))
	if err != nil || !ok {
		return nil, notMissing(err)
	}
	return symbolObject(&x, off), nil
}

func symbolList(c *invocation, a args) (any, error) {
	out := []any{}
	for s, err := range c.m.e.EachSymbol(c.ctx, a.text(0)) {
		if err != nil {
			return nil, err
		}
		if !s.HasAddress() {
			continue
		}
		if out = append(out, symbolObject(&s, 0)); len(out) >= int(a.num(1)) {
			break
		}
	}
	return out, nil
}

func matcher(pattern string) func(string) bool {
	return func(s string) bool { return expr.Match(pattern, s) }
}

func moduleFuncs() []*Func {
	const g = "Modules"
	fields := "name, image, path, base, end, size, timestamp, checksum"
	return []*Func{
		{Name: "modules", Group: g, Summary: "The loaded modules by address.", Params: []Param{{Name: "pattern", Kind: Text, Optional: true, Default: "*", Doc: "of their names"}, {Name: "headers", Kind: Bool, Optional: true, Default: false, Doc: "read the time stamps and check sums of their headers, in one exchange"}},
			Returns: "a list of objects with " + fields, Example: `[m.name for m in modules()]`,
			run: func(c *invocation, a args) (any, error) {
				list, err := c.m.e.Modules(c.ctx)
				if err != nil {
					return nil, err
				}
				if a.flag(1) {
					bases := make([]uint64, len(list))
					for i := range list {
						bases[i] = list[i].Base
					}
					if err := c.m.e.Headers(c.ctx, bases...); err != nil {
						return nil, err
					}
					list = c.m.e.KnownModules()
				}
				out := []any{}
				for i := range list {
					if expr.Match(a.text(0), list[i].Name) {
						out = append(out, moduleObject(&list[i]))
					}
				}
				return out, nil
			}},
		{Name: "module", Group: g, Summary: "A module by its name or an address in it.", Params: []Param{{Name: "address", Kind: AnyAddress, Doc: "its name, or an address"}},
			Returns: "an object with " + fields + ", or None", Example: `module("nt").base`,
			run: func(c *invocation, a args) (any, error) {
				list, err := c.m.e.Modules(c.ctx)
				if err != nil {
					return nil, err
				}
				if name, ok := a[0].(string); ok {
					for i := range list {
						if strings.EqualFold(list[i].Name, name) || strings.EqualFold(list[i].ImageName, name) {
							return moduleObject(&list[i]), nil
						}
					}
					return nil, nil
				}
				m, ok, err := c.m.e.ModuleAt(c.ctx, a.addr(0))
				if err != nil || !ok {
					return nil, err
				}
				return moduleObject(&m), nil
			}},
		{Name: "unloaded_modules", Group: g, Summary: "What the target remembers of unloaded modules, newest first.", Returns: "a list of objects with name, base, end", Example: `unloaded_modules()`,
			run: func(c *invocation, a args) (any, error) {
				if _, err := c.m.e.Modules(c.ctx); err != nil {
					return nil, err
				}
				out := []any{}
				for _, u := range c.m.e.UnloadedModules() {
					out = append(out, &Object{"unloaded_module", []Field{{"name", u.Name}, {"base", Addr(u.Start)}, {"end", Addr(u.End)}}})
				}
				return out, nil
			}},
	}
}

func moduleObject(m *engine.Module) any {
	return &Object{"module", []Field{{"name", m.Name}, {"image", m.ImageName}, {"path", m.Path}, {"base", Addr(m.Base)}, {"end", Addr(m.End())}, {"size", int(m.Size)}, {"timestamp", int(m.TimeDateStamp)}, {"checksum", int(m.CheckSum)}}}
}

func stackFuncs() []*Func {
	const g = "Stacks"
	return []*Func{
		{Name: "stack", Group: g, Summary: "The stack: of the scope that commands look at, of a processor, or of a thread that waits. Symbols are loaded for it.",
			Params: []Param{{Name: "max", Kind: Int, Optional: true, Default: 256, Min: 1, Max: 65535, Doc: "frames at most"}, processorParam, {Name: "thread", Kind: Address, Optional: true, Doc: "of its KTHREAD"},
				{Name: "lines", Kind: Bool, Optional: true, Default: false, Doc: "find the source lines too"}},
			Returns: "a list of objects with number, pc, sp, ret (where it returns to), name (with the offset), module, inline, and with lines file and line", Example: `[f.name for f in stack(8)]`, run: stackOf},
	}
}

func stackOf(c *invocation, a args) (any, error) {
	e := c.m.e
	regs, err := e.Regs(c.ctx, a.processor(1))
	if err != nil {
		return nil, err
	}
	if a.given(2) {
		rec, running, err := e.ThreadContext(c.ctx, a.addr(2))
		if err != nil {
			return nil, err
		}
		if running {
			regs, err = e.Regs(c.ctx, e.Processor())
		} else {
			regs, err = unwindFrom(e, rec)
		}
		if err != nil {
			return nil, err
		}
	}
	st, err := e.Stack(c.ctx, regs, engine.StackOpt{Limit: int(a.num(0))})
	if err != nil {
		return nil, err
	}
	pcs := make([]uint64, len(st.Frames))
	for i := range st.Frames {
		pcs[i] = st.Frames[i].PC
	}
	if err := c.loadSymbols(pcs...); err != nil {
		return nil, err
	}
	out := make([]any, len(st.Frames))
	for i := range st.Frames {
		f := &st.Frames[i]
		text := f.Inline
		if text == "" {
			text = e.Symbolize(f.PC)
		}
		mod := ""
		if m, ok, _ := e.ModuleAt(c.ctx, f.PC); ok {
			mod = m.Name
		}
		o := &Object{"frame", []Field{{"number", f.Number}, {"pc", Addr(f.PC)}, {"sp", Addr(f.SP)}, {"ret", Addr(f.Return)}, {"name", text}, {"module", mod}, {"inline", f.Inline != ""}}}
		if a.flag(3) {
			var file, line any
			if set := e.SymbolSet(); set != nil {
				at := f.PC
				if !f.Exact && at > 0 {
					at-- // the call, not what follows it
				}
				if l, ok, err := set.Line(c.ctx, at); err == nil && ok {
					file, line = l.File, int(l.Line.Line)
				}
			}
			o.Fields = append(o.Fields, Field{"file", file}, Field{"line", line})
		}
		out[i] = o
	}
	return out, nil
}

func breakpointFuncs() []*Func {
	const g = "Breakpoints"
	return []*Func{
		{Name: "breakpoint", Group: g, Summary: "Sets a breakpoint. With a function it is called at every hit, with the breakpoint's number if it takes an argument: when it returns True the target goes on and nothing is shown; False or None stops as usual. It must not let the target go itself. The function goes when the extension does, and the breakpoint with it.",
			Params: []Param{{Name: "address", Kind: AnyAddress, Doc: "where; a text whose module is not there yet waits for it, as with bu"}, {Name: "function", Kind: Function, Optional: true, Doc: "what is called at a hit"},
				{Name: "access", Kind: Text, Optional: true, Default: "", Doc: "a processor breakpoint as of ba: `e1`, `w4`, `r8`, `i2`"},
				{Name: "once", Kind: Bool, Optional: true, Default: false, Doc: "it goes with its first hit"}, {Name: "passes", Kind: Int, Optional: true, Default: 1, Min: 1, Max: 1 << 31, Doc: "at which hit it stops"},
				{Name: "thread", Kind: Address, Optional: true, Doc: "the KTHREAD it is limited to"}, {Name: "process", Kind: Address, Optional: true, Doc: "the EPROCESS it is limited to"},
				{Name: "commands", Kind: Text, Optional: true, Default: "", Doc: "commands to run at a hit, instead of a function"}},
			Returns: "its number", Example: `breakpoint("nt!NtReadFile", lambda: reg("r8") < 100)`, run: setBreakpoint},
		{Name: "clear_breakpoint", Group: g, NoTarget: true, Summary: "Clears a breakpoint.", Params: []Param{{Name: "id", Kind: Int, Min: 0, Max: engine.MaxID, Doc: "its number"}}, Returns: "whether there was one", Example: `clear_breakpoint(0)`,
			run: func(c *invocation, a args) (any, error) {
				id := int(a.num(0))
				for _, x := range append([]*Extension{c.ext}, c.m.chain...) {
					if x != nil {
						delete(x.hits, id)
					}
				}
				return c.m.e.Breakpoints().Clear(id), nil
			}},
		{Name: "enable_breakpoint", Group: g, NoTarget: true, Summary: "Switches a breakpoint on or off.", Params: []Param{{Name: "id", Kind: Int, Min: 0, Max: engine.MaxID, Doc: "its number"}, {Name: "on", Kind: Bool, Optional: true, Default: true, Doc: "on or off"}}, Returns: "nothing", Example: `enable_breakpoint(0, False)`,
			run: func(c *invocation, a args) (any, error) {
				return nil, c.m.e.Breakpoints().Enable(int(a.num(0)), a.flag(1))
			}},
		{Name: "breakpoints", Group: g, NoTarget: true, Summary: "The breakpoints.", Returns: "a list of objects with id, address, name, enabled, access, passes, passes_left, once, deferred, commands", Example: `[b.id for b in breakpoints()]`, run: breakpointList},
	}
}

func breakpointList(c *invocation, a args) (any, error) {
	out := []any{}
	for _, b := range c.m.e.Breakpoints().List() {
		access := ""
		if b.Kind == engine.Processor {
			access = fmt.Sprintf("%c%d", "ewir"[b.Access&3], b.Len)
		}
		out = append(out, &Object{"breakpoint", []Field{{"id", b.ID}, {"address", Addr(b.Addr)}, {"name", c.m.e.Symbolize(b.Addr)}, {"enabled", b.Enabled}, {"access", access},
			{"passes", int(b.Passes)}, {"passes_left", int(b.PassesLeft)}, {"once", b.OneShot}, {"deferred", b.Deferred}, {"commands", b.Command}}})
	}
	return out, nil
}

// place puts a breakpoint where at says. What means nothing yet is kept as it was
// written, as bp does.
func (c *invocation) place(bp *engine.Breakpoint, at any) error {
	text, ok := at.(string)
	if !ok {
		bp.Addr = at.(uint64)
		return nil
	}
	addr, err := c.eval(text)
	if err == nil {
		bp.Addr = addr
		return nil
	}
	radix := c.host.Radix()
	var unknown *expr.Error
	if bp.Kind != engine.Software || !errors.As(err, &unknown) || unknown.Kind != expr.Resolve {
		return err
	}
	if mods, rest, bad := engine.Names(text, radix); bad != nil || rest != "" || len(mods) == 0 {
		return err
	}
	bp.Expr, bp.Radix, bp.Deferred = text, radix, true
	return nil
}

func setBreakpoint(c *invocation, a args) (any, error) {
	bp := engine.Breakpoint{ID: -1, OneShot: a.flag(3), Passes: uint32(a.num(4)), Thread: a.addr(5), Process: a.addr(6), Command: a.text(7)}
	f, _ := a[1].(starlark.Callable)
	if f != nil && bp.Command != "" {
		return nil, &ArgError{"breakpoint", "commands", errors.New("a breakpoint has a function or commands, not both")}
	}
	if t := a.text(2); t != "" {
		kinds := map[byte]uint8{'e': arch.HWExecute, 'w': arch.HWWrite, 'i': arch.HWIO, 'r': arch.HWAccess}
		k, ok := kinds[t[0]]
		if !ok || len(t) != 2 || !strings.Contains("1248", t[1:]) {
			return nil, &ArgError{"breakpoint", "access", fmt.Errorf("%q is not e, w, r or i with 1, 2, 4 or 8", brief.Text(t, 80))}
		}
		bp.Kind, bp.Access, bp.Len = engine.Processor, k, t[1]-'0'
	}
	if err := c.place(&bp, a[0]); err != nil {
		return nil, err
	}
	list := c.m.e.Breakpoints()
	set, _, err := list.Set(bp)
	if err != nil {
		return nil, err
	}
	if f != nil {
		if err := list.SetCommand(set.ID, hitCommand(c.ext, set.ID)); err != nil {
			return nil, err
		}
		c.ext.hits[set.ID] = f
	}
	return set.ID, nil
}
