package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"openkd/arch"
	"openkd/engine"
	"openkd/engine/cexpr"
	"openkd/engine/expr"
	"openkd/engine/types"
	"openkd/image/sym"
	"openkd/internal/brief"
	"openkd/symbols"
	"openkd/target"
)

func typedCommands() []*Command {
	f := "Types"
	return []*Command{
		{Names: []string{"??"}, Family: f, NoTarget: true, Run: cmdTyped, Summary: "evaluate a C++ expression: casts, fields, pointers, sizeof, #FIELD_OFFSET, assignments", Usage: "?? expression", Example: "?? ((nt!_EPROCESS*)@$proc)->UniqueProcessId"},
		{Names: []string{"dx"}, Family: f, Run: cmdNatural, Summary: "show a value and its fields: -r<n> levels; behind a comma x d o b en c s sb su sub ! or a number of elements, as 4 or [4]x; @$curprocess and @$curthread have a KernelObject; lists by FromListEntry",
			Usage: "dx [-r<n>] [-n] [-v] expression[,format]", Example: "dx -r2 (*((nt!_LIST_ENTRY *)&nt!PsActiveProcessHead))"},
		{Names: []string{".expr"}, Family: f, NoTarget: true, Run: cmdExpr, Summary: "show or choose the expression evaluator", Usage: ".expr [/q] [/s masm|c++]", Example: ".expr /s c++"},
	}
}

// typing is what a session knows of types.
type typing struct {
	typed     [20]typedTemp // $t0 to $t19, where r? has set them
	cpp       bool          // .expr /s c++
	lastType  string        // that dt has shown
	extret    uint64        // the node of !list
	hasExtret bool
}

// typedTemp is what r? has put into $t<n>.
type typedTemp struct {
	set   bool
	value cexpr.Value
}

// cppEnv answers C++ expressions out of a session's engine.
type cppEnv struct {
	ctx context.Context
	s   *Session
}

var _ cexpr.Env = cppEnv{}

func (v cppEnv) PointerSize() int { return v.s.pointerSize() }

// set is the session's symbols, nil where there are none.
func (s *Session) set() *symbols.Set {
	if s.Engine == nil {
		return nil
	}
	return s.Engine.SymbolSet()
}

// listed makes sure that the modules of a halted target are known.
func (s *Session) listed(ctx context.Context) {
	if s.Engine != nil && s.Engine.Halted() {
		_, _ = s.Engine.Modules(ctx) // what is not known is not found
	}
}

// typeOf is a type of a module's symbol file.
func (v cppEnv) typeOf(base uint64, id sym.TypeID, module string) (types.Type, error) {
	set := v.s.set()
	if set == nil {
		return types.Type{}, errNoSet
	}
	f, err := set.File(v.ctx, base, symbols.LoadOptions{})
	if err != nil {
		return types.Type{}, err
	}
	return types.Of(f, id, module)
}

var errNoSet = errors.New("no symbols are read in this session (.sympath, -y)")

// Type implements cexpr.Env.
func (v cppEnv) Type(name string) (types.Type, bool, error) {
	set := v.s.set()
	if set == nil {
		if strings.Contains(name, "!") {
			return types.Type{}, false, errNoSet
		}
		return types.Type{}, false, nil
	}
	v.s.listed(v.ctx)
	t, err := set.FindType(v.ctx, name)
	if err != nil {
		if mod, _ := symbols.Split(name); mod != "" && v.ctx.Err() == nil {
			if st, ok := set.Named(mod); ok && (st.State == symbols.Exports || st.State == symbols.None) {
				return types.Type{}, false, noValue(st.Name + " has no symbol file, so that its types and variables are not known; dt " + mod + "!* says why")
			}
		}
		if errors.Is(err, symbols.ErrNotFound) {
			return types.Type{}, false, nil
		}
		if !strings.Contains(name, "!") && v.ctx.Err() == nil {
			return types.Type{}, false, nil
		}
		return types.Type{}, false, err
	}
	out, err := v.typeOf(t.Base, t.ID, t.Module)
	return out, err == nil, err
}

// Symbol implements cexpr.Env.
func (v cppEnv) Symbol(name string) (cexpr.Value, bool, error) {
	none := cexpr.Value{}
	if v.s.Engine == nil {
		return none, false, nil
	}
	local := strings.TrimPrefix(name, "$!")
	if !strings.Contains(local, "!") && !strings.Contains(local, "::") {
		l, err := v.s.Engine.Local(v.ctx, local)
		if err != nil {
			return none, false, err
		}
		if l != nil {
			return v.local(l)
		}
		if local != name {
			return none, false, nil
		}
	}
	set := v.s.set()
	if set == nil {
		return none, false, nil
	}
	v.s.listed(v.ctx)
	list, err := set.Lookup(v.ctx, strings.TrimPrefix(name, "!"))
	if err != nil || len(list) == 0 {
		if val, ok := v.enumerator(name); ok {
			return val, true, nil
		}
		var missing *symbols.NoSymbolsError
		switch {
		case v.ctx.Err() != nil:
			return none, false, context.Cause(v.ctx)
		case errors.As(err, &missing):
			return none, false, noValue(err.Error())
		}
		if mod, _ := symbols.Split(name); mod != "" {
			if st, ok := set.Named(mod); ok && (st.State == symbols.Exports || st.State == symbols.None) {
				return none, false, noValue(st.Name + " has no symbol file, so that its types and variables are not known; dt " + mod + "!* says why")
			}
		}
		return none, false, nil
	}
	best := -1
	for i := range list {
		x := &list[i]
		switch {
		case x.Kind == sym.TypeDef:
		case best < 0, list[best].Type == 0 && x.Type != 0, list[best].Static && !x.Static && x.Type != 0:
			best = i
		}
	}
	if best < 0 {
		return none, false, nil
	}
	x := &list[best]
	out := cexpr.Value{Name: x.Full(), Addr: x.Addr, InMemory: true, Type: types.Void}
	if x.Type != 0 {
		if out.Type, err = v.typeOf(x.Base, x.Type, x.Module); err != nil {
			return none, true, err
		}
	} else if x.Code || x.Kind == sym.Function || x.Kind == sym.Thunk || x.Kind == sym.Label {
		out.Type = types.Type{Type: sym.Type{Kind: sym.Func}}
	}
	switch x.Kind {
	case sym.Constant:
		t := out.Type
		if !t.IsInteger() || t.Size == 0 {
			t = types.Int
		}
		return cexpr.Value{Name: x.Full(), Type: t, Data: little(uint64(x.Value), int(min(t.Size, 8)))}, true, nil
	case sym.Function, sym.Thunk, sym.Label:
		if out.Type.Kind != sym.Func {
			out.Type = types.Type{Type: sym.Type{Kind: sym.Func}}
		}
	}
	return out, true, nil
}

// enumerator is a constant of an enumeration: module!Enum::Name.
func (v cppEnv) enumerator(name string) (cexpr.Value, bool) {
	i := strings.LastIndex(name, "::")
	if i <= 0 {
		return cexpr.Value{}, false
	}
	t, ok, err := v.Type(name[:i])
	if !ok || err != nil || t.Kind != sym.Enum {
		return cexpr.Value{}, false
	}
	list, _ := t.Members(false)
	for _, m := range list {
		if m.Kind == sym.Enumerator && m.Name == name[i+2:] {
			return cexpr.Value{Type: t, Data: little(uint64(m.Value), int(min(t.Size, 8)))}, true
		}
	}
	return cexpr.Value{}, false
}

func little(v uint64, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(v >> (8 * i))
	}
	return b
}

// local is a local variable as a value. What is nowhere, or in a register that
// is not known in this frame, has no value.
func (v cppEnv) local(l *engine.Local) (cexpr.Value, bool, error) {
	t, err := types.Of(l.File, l.Type, l.Module)
	if err != nil {
		return cexpr.Value{}, true, err
	}
	out := cexpr.Value{Type: t, Name: l.Name}
	if len(l.Places) == 1 && l.Places[0].InMemory && l.Places[0].Offset == 0 {
		out.InMemory, out.Addr = true, l.Places[0].Addr
		return out, true, nil
	}
	data, ok := v.s.assemble(v.ctx, l)
	if !ok {
		return out, true, noValue(fmt.Sprintf("the value of the variable %s is not available here", l.Name))
	}
	out.Data = data
	if len(l.Places) == 1 && v.s.Engine.Scope() == (engine.Scope{}) {
		out.Reg = l.Places[0].Reg
	}
	return out, true, nil
}

// assemble puts the pieces of a variable together.
func (s *Session) assemble(ctx context.Context, l *engine.Local) ([]byte, bool) {
	if !l.Known() || l.Size > cexpr.MaxRead {
		return nil, false
	}
	out := make([]byte, l.Size)
	covered := uint64(0)
	for _, p := range l.Places {
		b := p.Value
		if p.InMemory {
			var err error
			if b, err = s.Engine.ReadFull(ctx, engine.Virtual, p.Addr, int(p.Size)); err != nil {
				return nil, false
			}
		}
		if p.Offset < l.Size {
			covered += uint64(copy(out[p.Offset:], b[:min(uint64(len(b)), p.Size)]))
		}
	}
	return out, covered >= l.Size
}

// Register implements cexpr.Env.
func (v cppEnv) Register(name string) (cexpr.Value, bool, error) {
	none := cexpr.Value{}
	s := v.s
	word := func(t types.Type, x uint64) (cexpr.Value, bool, error) {
		return cexpr.Value{Type: t, Data: little(x, int(t.Size))}, true, nil
	}
	if i, ok := tempNumber(name); ok {
		if t := s.typed[i]; t.set {
			return t.value, true, nil
		}
		x, _, err := word(types.UInt64, s.temps[i])
		x.Reg = name
		return x, true, err
	}
	if strings.HasPrefix(name, "$") {
		x, ok, err := env{v.ctx, s}.Pseudo(name)
		if err != nil || !ok {
			return none, false, err
		}
		p := s.pointerSize()
		kernel := map[string]string{"$proc": "_EPROCESS", "$thread": "_ETHREAD", "$teb": "_TEB", "$peb": "_PEB"}[name]
		switch {
		case kernel != "":
			t, ok, err := v.Type("nt!" + kernel)
			if err != nil || !ok {
				t = types.Void
			}
			return word(types.PointerTo(t, p), x)
		case name == "$tpid", name == "$tid", name == "$exr_code", name == "$bug_code":
			return word(types.UInt, x)
		case name == "$ip", name == "$ra", name == "$csp", name == "$scopeip", name == "$relip", name == "$eventip", name == "$previp",
			name == "$exentry", name == "$ea", name == "$ea2", strings.HasPrefix(name, "$bp"):
			return word(types.PointerTo(types.UChar, p), x)
		}
		return word(types.UInt64, x)
	}
	if s.Engine == nil {
		return none, false, nil
	}
	val, reg, err := s.Engine.Register(v.ctx, name)
	switch {
	case errors.Is(err, engine.ErrUnknownRegister), errors.Is(err, engine.ErrUnknownMachine):
		return none, false, nil
	case err != nil:
		return none, false, err
	}
	if reg.Type == arch.TypeFloat80 || reg.Bits > 64 {
		t, err := types.ArrayOf(types.UChar, uint64(reg.Bits/8))
		return cexpr.Value{Type: t, Data: append(little(val.Lo, 8), little(val.Hi, 8)...)[:reg.Bits/8]}, true, err
	}
	t := types.UInt64
	switch {
	case reg.Bits <= 8:
		t = types.UChar
	case reg.Bits <= 16:
		t = types.UShort
	case reg.Bits <= 32:
		t = types.UInt
	}
	x, _, _ := word(t, val.Lo)
	x.Reg = name
	return x, true, nil
}

// tempNumber is the number of $t0 to $t19.
func tempNumber(name string) (int, bool) {
	n, ok := strings.CutPrefix(name, "$t")
	if !ok {
		return 0, false
	}
	i, err := strconv.Atoi(n)
	return i, err == nil && i >= 0 && i < 20 && strconv.Itoa(i) == n
}

// SetRegister implements cexpr.Env.
func (v cppEnv) SetRegister(name string, x cexpr.Value) error {
	if i, ok := tempNumber(name); ok {
		return v.s.setTyped(i, x, v)
	}
	if strings.HasPrefix(name, "$") {
		return fmt.Errorf("%s cannot be written; $t0 to $t19 can", name)
	}
	return v.s.Engine.SetRegister(v.ctx, name, arch.Value{Lo: number(x.Data)})
}

// setTyped puts a value into $t<n>, with its type.
func (s *Session) setTyped(n int, x cexpr.Value, v cppEnv) error {
	num, err := cexpr.Uint(x, v)
	if err != nil {
		if !x.InMemory || !x.Type.HasMembers() {
			return err
		}
		num = x.Addr // a structure: where it is
	}
	s.temps[n] = num
	if !x.InMemory {
		x.Reg = ""
	}
	if !x.Type.HasMembers() && x.Type.Kind != sym.Array && x.InMemory {
		b, err := cexpr.Load(x, v)
		if err != nil {
			return err
		}
		x = cexpr.Value{Type: x.Type, Data: b}
	}
	x.Reg, x.Name = "", ""
	if !x.InMemory {
		x.Reg = fmt.Sprintf("$t%d", n)
	}
	s.typed[n] = typedTemp{true, x}
	return nil
}

// Read implements cexpr.Env.
func (v cppEnv) Read(addr uint64, b []byte) (int, error) {
	if v.s.Engine == nil {
		return 0, engine.ErrUnknownMachine
	}
	d, err := v.s.Engine.Read(v.ctx, engine.Virtual, addr, len(b))
	if err != nil {
		return 0, err
	}
	n := copy(b, d.Prefix())
	if n < len(b) {
		return n, &engine.MemoryError{Addr: v.s.canon(addr + uint64(n)), Status: d.Status}
	}
	return n, nil
}

// Write implements cexpr.Env.
func (v cppEnv) Write(addr uint64, b []byte) error {
	if v.s.Engine == nil {
		return engine.ErrUnknownMachine
	}
	_, err := v.s.Engine.Write(v.ctx, engine.Virtual, addr, b)
	return err
}

// Masm implements cexpr.Env.
func (v cppEnv) Masm(text string) (uint64, error) {
	return expr.Eval(text, env(v), expr.Options{Radix: v.s.radix})
}

// evalCpp is Session.Eval where C++ is the evaluator.
func (s *Session) evalCpp(ctx context.Context, text string) (uint64, error) {
	v := cppEnv{ctx, s}
	x, err := cexpr.Eval(text, v)
	if err != nil {
		return 0, err
	}
	n, err := cexpr.Uint(x, v)
	if err == nil {
		s.lastEval = n
	}
	return n, err
}

// evalCppPrefix is evalCpp of as much as is one expression.
func (s *Session) evalCppPrefix(ctx context.Context, text string) (uint64, string, error) {
	v := cppEnv{ctx, s}
	x, rest, err := cexpr.EvalPrefix(text, v)
	if err != nil {
		return 0, "", err
	}
	n, err := cexpr.Uint(x, v)
	if err == nil {
		s.lastEval = n
	}
	return n, rest, err
}

// byTypes are pseudo-registers that the kernel's types tell.
func (v env) byTypes(name string) (uint64, bool) {
	text := map[string]string{
		"$peb":  "((nt!_EPROCESS*)@$proc)->Peb",
		"$tpid": "(unsigned int)((nt!_ETHREAD*)@$thread)->Cid.UniqueProcess",
		"$tid":  "(unsigned int)((nt!_ETHREAD*)@$thread)->Cid.UniqueThread",
	}[name]
	if text == "" || v.s.set() == nil {
		return 0, false
	}
	x, err := v.Cpp(text)
	return x, err == nil
}

var _ expr.Cpp = env{}

// Cpp implements expr.Cpp: what stands between @@c++( ) in a MASM expression.
func (v env) Cpp(text string) (uint64, error) {
	x, err := cexpr.Eval(text, cppEnv(v))
	if err != nil {
		return 0, err
	}
	return cexpr.Uint(x, cppEnv(v))
}

// localAddress is the address of a local variable, for MASM expressions, or its
// value if it is in a register.
func (s *Session) localAddress(ctx context.Context, name string) (uint64, bool, error) {
	if s.Engine == nil {
		return 0, false, nil
	}
	l, err := s.Engine.Local(ctx, name)
	if err != nil || l == nil {
		return 0, false, err
	}
	v := cppEnv{ctx, s}
	x, _, err := v.local(l)
	if err != nil {
		return 0, false, err
	}
	if x.InMemory {
		return x.Addr, true, nil
	}
	n, err := cexpr.Uint(x, v)
	return n, err == nil, err
}

// evalTyped is the value of a C++ expression; errors are *Fault, so that the caret
// finds its place.
func (c *Call) evalTyped(text string) (cexpr.Value, error) {
	v, err := cexpr.Eval(text, cppEnv{c.Ctx, c.S})
	if err != nil {
		return v, exprFault(err, text)
	}
	return v, nil
}

// printer shows values of a type.
func (c *Call) printer(t types.Type) *types.Printer {
	p := &types.Printer{File: t.File, Module: t.Module, PointerSize: c.S.pointerSize()}
	if e := c.S.Engine; e != nil {
		p.Symbol = e.Name
	}
	return p
}

// gather runs f until all the memory that it reads is there; what it writes the
// last time is shown.
func (c *Call) gather(f func(w *bytes.Buffer, m types.Memory) error) error {
	var b bytes.Buffer
	run := func(m types.Memory) error {
		b.Reset()
		return f(&b, m)
	}
	var err error
	if e := c.S.Engine; e == nil || !e.Halted() {
		err = run(noMemory{})
	} else {
		err = e.Gather(c.Ctx, func(m *engine.Peek) error { return run(m) })
	}
	_, _ = c.Write(b.Bytes())
	return err
}

// noMemory is that of a target which does not stand.
type noMemory struct{}

func (noMemory) Read(context.Context, uint64, []byte) (int, error) { return 0, engine.ErrRunning }

// want is a plan of types as the engine takes it.
func want(addr uint64, size int, then []types.Deref) engine.Want {
	return engine.Want{Addr: addr, Len: size, Then: derefs(then)}
}

func derefs(in []types.Deref) []engine.Deref {
	out := make([]engine.Deref, 0, len(in))
	for _, d := range in {
		out = append(out, engine.Deref{Offset: d.Offset, Len: d.Len, Then: derefs(d.Then)})
	}
	return out
}

// cmdTyped is ??.
func cmdTyped(c *Call) error {
	text := strings.TrimSpace(c.Args)
	if text == "" {
		return c.Syntax("")
	}
	v, err := c.evalTyped(text)
	if err != nil {
		return err
	}
	env := cppEnv{c.Ctx, c.S}
	if n, err := cexpr.Uint(v, env); err == nil {
		c.S.lastEval = n
	}
	return c.showTyped(v)
}

// showTyped shows a value as ?? does.
func (c *Call) showTyped(v cexpr.Value) error {
	t := v.Type
	p := c.printer(t)
	name := t.C(types.Expression)
	addr := types.Pointer(v.Addr, uint64(c.S.pointerSize()))
	switch {
	case t.Kind == sym.Func:
		c.Printf("<function> * %s\n", addr)
		return nil
	case t.Kind == 0 || t.Kind == sym.Void || t.Kind == sym.Opaque:
		if v.InMemory && v.Name != "" {
			return fmt.Errorf("no type is known for %s at %s; cast its address: *(type*)&%s", v.Name, c.S.addr(v.Addr), v.Name)
		}
		c.Printf("%s\n", name)
		return nil
	case t.HasMembers():
		c.Printf("%s\n", name)
		return c.showFields(t, v)
	}
	data, err := cexpr.Load(v, cppEnv{c.Ctx, c.S})
	if err != nil {
		return err
	}
	switch t.Kind {
	case sym.Array:
		if text, ok := p.ArrayText(t, data); ok && !v.InMemory {
			c.Printf("%s \"%s\"\n", name, text)
			return nil
		}
		if v.InMemory {
			name += " " + addr
		}
		c.Printf("%s\n", name)
		e, err := t.Element()
		if err != nil || t.Count == 0 || e.Size == 0 || uint64(len(data)) < e.Size {
			return err
		}
		return c.gather(func(w *bytes.Buffer, m types.Memory) error {
			fmt.Fprintf(w, "%s\n", p.Text(c.Ctx, m, e, data[:e.Size]))
			return nil
		})
	case sym.Pointer:
		return c.showPointer(t, number(data[:min(uint64(len(data)), t.Size, 8)]), name+" "+p.Expression(c.Ctx, nil, t, data))
	}
	c.Printf("%s %s\n", name, p.Expression(c.Ctx, nil, t, data))
	return nil
}

// showPointer shows a pointer: the line, and what it leads to.
func (c *Call) showPointer(t types.Type, v uint64, line string) error {
	c.Printf("%s\n", line)
	to, err := t.Element()
	if err != nil || v == 0 {
		return err
	}
	at := v
	if t.Size == 4 {
		at = c.S.canon(uint64(uint32(v)))
	}
	if to.HasMembers() {
		return c.showFields(to, cexpr.Value{Type: to, Addr: at, InMemory: true})
	}
	p := c.printer(to)
	return c.gather(func(w *bytes.Buffer, m types.Memory) error {
		if text, ok := p.PointedText(c.Ctx, m, t, at); ok {
			fmt.Fprintf(w, " \"%s\"\n", text)
		}
		return nil
	})
}

// showFields shows the fields of a structure as dt does.
func (c *Call) showFields(t types.Type, v cexpr.Value) error {
	o := types.Options{Addr: v.Addr, Data: v.Data}
	return c.showRows(t, o, v.InMemory && v.Data == nil)
}

// showRows shows fields, and above them what the structure is in one line. With
// fetch all that is needed is read in one exchange.
func (c *Call) showRows(t types.Type, o types.Options, fetch bool) error {
	p := c.printer(t)
	if fetch && c.S.Engine != nil && c.S.Engine.Halted() {
		size, then := p.Plan(t, o)
		if err := c.S.Engine.Fetch(c.Ctx, want(o.Addr, size, then)); err != nil {
			return err
		}
	}
	return c.gather(func(w *bytes.Buffer, m types.Memory) error {
		o.Memory = m
		return c.writeRows(w, p, t, o)
	})
}

// maxOutput bounds what one answer shows, in bytes.
const maxOutput = 8 << 20

func (c *Call) writeRows(w *bytes.Buffer, p *types.Printer, t types.Type, o types.Options) error {
	if len(o.Fields) == 0 && o.Memory != nil && t.HasMembers() {
		data := o.Data
		if data == nil {
			data = make([]byte, min(t.Size, 64))
			n, _ := o.Memory.Read(c.Ctx, o.Addr, data)
			data = data[:n]
		}
		if s := p.Summary(c.Ctx, o.Memory, t, data); s != "" {
			fmt.Fprintf(w, " %s\n", s)
		}
	}
	n := 0
	for row, err := range p.TypeRows(c.Ctx, t, o) {
		var lost *types.UnreadableError
		switch {
		case errors.As(err, &lost):
			c.endRows(w, o, n)
			fmt.Fprintf(w, "%v\n", err)
			return nil
		case err != nil:
			c.endRows(w, o, n)
			return err
		}
		n++
		w.WriteString(row.String())
		if !o.Compact {
			w.WriteByte('\n')
		}
		if w.Len() > maxOutput {
			c.endRows(w, o, n)
			return types.ErrTooMuch
		}
	}
	c.endRows(w, o, n)
	return nil
}

func (c *Call) endRows(w *bytes.Buffer, o types.Options, n int) {
	if o.Compact && n > 0 {
		w.WriteByte('\n')
	}
}

// typedRegister is r? $t<n> = expression, and r? register = expression.
func (c *Call) typedRegister(args string) error {
	at := args
	args = strings.TrimSpace(args)
	name, text, ok := strings.Cut(args, "=")
	name = strings.ToLower(strings.TrimPrefix(strings.TrimSpace(name), "@"))
	if name == "" {
		return c.Fault("Syntax error", at, "r? $t1 = <C++ expression>")
	}
	if !ok || strings.HasPrefix(text, "=") {
		v, err := c.evalTyped("@" + name)
		if err != nil {
			return err
		}
		return c.showTyped(v)
	}
	v, err := c.evalTyped(strings.TrimSpace(text))
	if err != nil {
		return err
	}
	env := cppEnv{c.Ctx, c.S}
	if i, ok := tempNumber(name); ok {
		return c.S.setTyped(i, v, env)
	}
	if name == "$ip" {
		name = map[int]string{x86: "eip", x64: "rip", arm64: "pc"}[c.S.machine()]
	}
	if strings.HasPrefix(name, "$") {
		return c.Fault("Syntax error", at, "%s cannot be written; $ip and $t0 to $t19 can", name)
	}
	n, err := cexpr.Uint(v, env)
	if err != nil {
		return exprFault(err, text)
	}
	return c.S.Engine.SetRegister(c.Ctx, name, arch.Value{Lo: n})
}

// cmdExpr is .expr.
func cmdExpr(c *Call) error {
	args := strings.TrimSpace(c.Args)
	names := map[bool]string{false: "MASM - Microsoft Assembler expressions", true: "C++ - C++ source expressions"}
	switch w, rest := cutWord(args); {
	case args == "":
	case strings.EqualFold(w, "/q") && rest == "":
		c.Printf("Available expression evaluators:\n%s\n%s\n", names[false], names[true])
	case strings.EqualFold(w, "/s"):
		switch strings.ToLower(strings.TrimSpace(rest)) {
		case "masm":
			c.S.cpp = false
		case "c++", "cpp":
			c.S.cpp = true
		default:
			return c.Fault("Couldn't resolve error", rest, "the evaluators are masm and c++")
		}
	default:
		return c.Syntax(args)
	}
	c.Printf("Current expression evaluator: %s\n", names[c.S.cpp])
	return nil
}

// dxFormats are the formats behind the comma of dx.
func dxFormat(f string, o *types.Natural) bool {
	switch f {
	case "x", "d", "o", "b":
		o.Base = f[0]
	case "h", "X", "H":
		o.Base = 'x'
	case "en":
		o.Names = true
	case "c":
		o.Char = true
	case "s", "s8":
		o.Text = 's'
	case "sb", "s8b":
		o.Text, o.Plain = 's', true
	case "su":
		o.Text = 'u'
	case "sub":
		o.Text, o.Plain = 'u', true
	case "!":
		o.Raw = true
	case "nd", "na":
	default:
		// A number of elements, as 4 or [4], and how they are shown: [4]x.
		number, rest := f, ""
		if in, ok := strings.CutPrefix(f, "["); ok {
			if number, rest, ok = strings.Cut(in, "]"); !ok {
				return false
			}
		}
		n, err := strconv.ParseUint(strings.TrimSpace(number), 0, 32)
		if err != nil || n == 0 || rest != "" && (isDigit(rest[0]) || rest[0] == '[' || !dxFormat(rest, o)) {
			return false
		}
		o.Count = n
	}
	return true
}

// objectModel says whether an expression is about the debugger's own objects.
func objectModel(text string) bool {
	low := strings.ToLower(text)
	if strings.HasPrefix(low, "debugger") || strings.Contains(text, "=>") {
		return true
	}
	for _, w := range []string{"@$cursession", "@$curprocess", "@$curthread", "@$curstack", "@$curframe", "@$myscript", ".where(", ".select(", ".first(", ".count(", ".orderby", ".fromlistentry("} {
		if strings.Contains(low, w) {
			return true
		}
	}
	return false
}

// dxObjects are the objects of the debugger that stand for something in the
// target, and what that is.
var dxObjects = []struct{ name, kernel, id, label string }{
	{"@$curprocess", "(*@$proc)", "(unsigned __int64)(*@$proc).UniqueProcessId", "(*@$proc).ImageFileName"},
	{"@$curthread", "(*@$thread)", "(unsigned __int64)(*@$thread).Cid.UniqueThread", ""},
}

// dxKernel writes an expression about such an object as one about the target:
// @$curprocess.KernelObject.ImageFileName.
func dxKernel(text string) string {
	low := strings.ToLower(text)
	for _, o := range dxObjects {
		key := o.name + ".kernelobject"
		for i := strings.Index(low, key); i >= 0; i = strings.Index(low, key) {
			if end := i + len(key); end < len(text) && (isLetter(text[end]) || isDigit(text[end]) || text[end] == '_') {
				break
			}
			text = text[:i] + o.kernel + text[i+len(key):]
			low = strings.ToLower(text)
		}
	}
	return text
}

// dxObject shows @$curprocess and @$curthread, or one of what is small in them;
// false: it is something else.
func (c *Call) dxObject(text string, o types.Natural) (bool, error) {
	low := strings.ToLower(text)
	for _, x := range dxObjects {
		what, ok := strings.CutPrefix(low, x.name)
		if !ok || what != "" && what != ".id" && (what != ".name" || x.label == "") {
			continue
		}
		kernel, err := c.evalTyped(x.kernel)
		if err != nil {
			return true, err
		}
		id, err := c.evalTyped(x.id)
		if err != nil {
			return true, err
		}
		var label cexpr.Value
		if x.label != "" {
			if label, err = c.evalTyped(x.label); err != nil {
				return true, err
			}
		}
		return true, c.gather(func(w *bytes.Buffer, m types.Memory) error {
			plain := types.Natural{Plain: true, Base: o.Base, Memory: m}
			p := c.printer(kernel.Type)
			number, _ := p.NaturalText(c.Ctx, id.Type, id.Data, &plain)
			name := ""
			if label.InMemory {
				data := make([]byte, min(label.Type.Size, 256))
				n, _ := m.Read(c.Ctx, label.Addr, data)
				name, _ = p.NaturalText(c.Ctx, label.Type, data[:n], &plain)
			}
			pad := strings.Repeat(" ", 16)
			switch {
			case what == ".id":
				fmt.Fprintf(w, "%s%s : %s\n", text, pad, number)
				return nil
			case what == ".name":
				fmt.Fprintf(w, "%s%s : %s\n", text, pad, name)
				return nil
			case name != "":
				fmt.Fprintf(w, "%s%s : %s\n", text, pad, name)
			default:
				fmt.Fprintf(w, "%s\n", text)
			}
			if o.Depth == 0 {
				return nil
			}
			fmt.Fprintf(w, "    %-16s [Type: %s]\n", "KernelObject", kernel.Type.C(types.Model))
			if name != "" {
				fmt.Fprintf(w, "    %-16s : %s\n", "Name", name)
			}
			fmt.Fprintf(w, "    %-16s : %s\n", "Id", number)
			return nil
		})
	}
	return false, nil
}

// dxFromList is how lists of the kernel are shown in the words of dx.
var dxFromList = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?is)^debugger\.utility\.collections\.fromlistentry\s*\((.*?),\s*"([^"]+)"\s*,\s*"([^"]+)"\s*\)\s*(.*)$`)
})

// dxSelect is what may stand behind: what to show of each element.
var dxSelect = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`(?is)^\.select\s*\(\s*([a-z_]\w*)\s*=>\s*(.*)\)$`)
})

// dxList shows a list, "" then, or returns the expression for one of its elements.
// What is no list comes back as it is.
func (c *Call) dxList(args, text string, o types.Natural) (string, error) {
	m := dxFromList().FindStringSubmatch(text)
	if m == nil {
		return text, nil
	}
	head, typeName, field, rest := strings.TrimSpace(m[1]), m[2], m[3], strings.TrimSpace(m[4])
	t, ok, err := cexpr.Type(typeName, cppEnv{c.Ctx, c.S})
	if err != nil {
		return "", err
	}
	if !ok || !t.HasMembers() {
		return "", c.Fault("Couldn't resolve error", args, "no structure of the name %s is known", brief.Text(typeName, 60))
	}
	ch, err := findChain(t, field)
	if err != nil {
		return "", err
	}
	v, err := c.evalTyped(head)
	if err != nil {
		return "", err
	}
	start := v.Addr
	if !v.InMemory || v.Type.Kind == sym.Pointer {
		if start, err = cexpr.Uint(v, cppEnv{c.Ctx, c.S}); err != nil {
			return "", err
		}
	}
	// The head is no element.
	nodes, why, err := c.S.nodesOf(c.Ctx, c.S.canon(start-ch.base), ch, target.MaxNodes, nil)
	if err != nil {
		return "", err
	}
	nodes = nodes[1:]
	element := func(n int, of string) (string, error) {
		if n < 0 || n >= len(nodes) {
			return "", c.Fault("Range error", args, "the list has 0x%x elements", len(nodes))
		}
		return fmt.Sprintf("(*(%s *)0x%x)%s", typeName, nodes[n], of), nil
	}
	low := strings.ToLower(rest)
	sel := dxSelect().FindStringSubmatch(rest)
	switch {
	case strings.HasPrefix(rest, "["):
		in, of, ok := strings.Cut(rest[1:], "]")
		n, err := strconv.ParseUint(strings.TrimSpace(in), 0, 31)
		if !ok || err != nil {
			return "", c.Fault("Syntax error", args, "the number of an element is expected between [ and ]")
		}
		return element(int(n), of)
	case strings.HasPrefix(low, ".first()"):
		return element(0, rest[len(".first()"):])
	case low == ".count()":
		c.Printf("%s%s : 0x%x\n", args, strings.Repeat(" ", 16), len(nodes))
		return "", nil
	case rest != "" && sel == nil:
		return text, nil
	}
	var word *regexp.Regexp // what stands for the element, where it is no field
	if sel != nil {
		word = regexp.MustCompile(`(^|[^\w.>!$@])` + sel[1] + `\b`)
	}
	items := make([]types.Item, len(nodes))
	for i, at := range nodes {
		items[i] = types.Item{Name: fmt.Sprintf("[0x%x]", i), Type: t, Addr: at}
		if sel != nil {
			if c.Ctx.Err() != nil {
				return "", context.Cause(c.Ctx)
			}
			one, _ := element(i, "")
			v, err := c.evalTyped(word.ReplaceAllString(sel[2], "${1}"+one))
			if err != nil {
				return "", err
			}
			if !v.InMemory {
				return "", c.Fault("Operand error", args, "Select shows what lies in memory here, as p => p.ImageFileName")
			}
			items[i].Type, items[i].Addr = v.Type, v.Addr
		}
	}
	err = c.gather(func(w *bytes.Buffer, m types.Memory) error {
		o.Memory = m
		w.WriteString(args + "\n")
		for line, err := range c.printer(t).NaturalList(c.Ctx, items, o) {
			if err != nil {
				return err
			}
			w.WriteString(line + "\n")
			if w.Len() > maxOutput {
				return types.ErrTooMuch
			}
		}
		return nil
	})
	if err == nil && why != "" {
		err = errors.New(why)
	}
	return "", err
}

// cmdNatural is dx.
func cmdNatural(c *Call) error {
	o := types.Natural{Depth: 1}
	args := strings.TrimSpace(c.Args)
	for strings.HasPrefix(args, "-") {
		w, rest := cutWord(args)
		switch {
		case w == "-?" || w == "-h":
			c.Printf("%s\n", c.Command.Usage)
			return nil
		case strings.HasPrefix(w, "-r"):
			o.Depth = 1
			if n := w[2:]; n != "" {
				d, err := strconv.Atoi(n)
				if err != nil || d < 0 {
					return c.Fault("Syntax error", args, "-r is followed by a number of levels, as -r2")
				}
				o.Depth = min(d, 1000)
			}
		case w == "-n", w == "-v", w == "-nv", w == "-vn":
			o.Raw = o.Raw || strings.Contains(w, "n")
		case strings.HasPrefix(w, "-g") || strings.HasPrefix(w, "-c"):
			return c.Fault("Syntax error", args, "dx shows values and their fields here; grids and containers (%s) are not there", w)
		case w == "-id":
			// Links of dx name the process so: 0,0,address.
			var ids string
			ids, rest = cutWord(rest)
			of := strings.Split(ids, ",")
			proc, err := c.Eval("@$proc")
			if err != nil {
				return err
			}
			if at, err := c.Eval(of[len(of)-1]); err != nil || len(of) != 3 || at != 0 && c.S.canon(at) != proc {
				return c.Fault("Range error", args, "-id is for the current process here, which is %s", c.S.addr(proc))
			}
		default:
			if len(w) > 1 && (isDigit(w[1]) || w[1] == '(' || w[1] == '@') {
				break
			}
			return c.Syntax(args)
		}
		if len(w) > 1 && isDigit(w[1]) {
			break
		}
		args = strings.TrimSpace(rest)
	}
	if args == "" {
		return c.Syntax("")
	}
	text := args
	for i := strings.LastIndexByte(text, ','); i > 0; i = strings.LastIndexByte(text, ',') {
		if !dxFormat(strings.TrimSpace(text[i+1:]), &o) {
			break
		}
		text = strings.TrimSpace(text[:i])
	}
	ok, err := c.dxObject(text, o)
	if ok || err != nil {
		return err
	}
	if text, err = c.dxList(args, dxKernel(text), o); text == "" || err != nil {
		return err
	}
	if objectModel(text) {
		return phrased("Error: dx shows values and their fields; the debugger's object model (Debugger, LINQ) is not there, but for KernelObject, Id and Name of @$curprocess and @$curthread, and lists by Debugger.Utility.Collections.FromListEntry, with [n], Count(), First() and Select(p => p.field) behind. lm, k, dt and scripts (.scriptload) tell what it would")
	}
	v, err := c.evalTyped(text)
	if err != nil {
		return err
	}
	t := v.Type
	if v.InMemory && (t.Kind == 0 || t.Kind == sym.Void || t.Kind == sym.Opaque) {
		return phrased(fmt.Sprintf("Error: No type (or void) for object at Address 0x%x", v.Addr))
	}
	if t.Kind == sym.Func {
		v.Data = little(v.Addr, c.S.pointerSize())
		v.InMemory = false
		t = types.PointerTo(t, c.S.pointerSize())
	}
	p := c.printer(t)
	o.Addr, o.Data = v.Addr, v.Data
	if e := c.S.Engine; v.InMemory && e != nil && e.Halted() {
		po := types.Options{Depth: min(o.Depth, 16) - 1}
		if t.Kind == sym.Pointer {
			po.Depth++
		}
		size, then := p.Plan(t, po)
		if err := e.Fetch(c.Ctx, want(v.Addr, size, then)); err != nil {
			return err
		}
	}
	return c.gather(func(w *bytes.Buffer, m types.Memory) error {
		o.Memory = m
		w.WriteString(p.NaturalHead(c.Ctx, args, t, &o) + "\n")
		for line, err := range p.NaturalRows(c.Ctx, t, o) {
			if err != nil {
				return err
			}
			w.WriteString(line + "\n")
			if w.Len() > maxOutput {
				return types.ErrTooMuch
			}
		}
		return nil
	})
}
