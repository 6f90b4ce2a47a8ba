package command

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"openkd/engine"
	"openkd/engine/cexpr"
	"openkd/engine/expr"
	"openkd/engine/types"
	"openkd/image/sym"
	"openkd/internal/brief"
	"openkd/symbols"
	"openkd/target"
)

func typeCommands() []*Command {
	f := "Types"
	return []*Command{
		{Names: []string{"dt"}, Family: f, NoTarget: true, Run: cmdType,
			Summary: "show a type, a value of it, or a variable: -r<n> levels, -b blocks, -a<n> elements, -l list, -v verbose, -o no offsets, -i no indents, -c compact, -p physical, -y beginning of a name, -n a name, -e -t -s list types",
			Usage:   "dt [-abceioprtv] [-n|-y] [module!]name [[-n|-y] field ...] [address] [-l field]\ndt [options] address\ndt module!pattern*",
			Example: "dt nt!_EPROCESS ImageFileName @$proc"},
	}
}

// maxTypes bounds a list of types.
const maxTypes = 20000

// typeRequest is what dt was asked for.
type typeRequest struct {
	o                   types.Options
	physical, enumerate bool
	typesOnly           bool
	size                int64 // -s; -1: any
	list                string

	name   string
	prefix bool // -y name
	words  []typeWord
	addr   *uint64
	addrAt string
}

type typeWord struct {
	text           string
	prefix, isName bool
}

// typeArgs splits arguments at blanks; parentheses, brackets and quotes hold
// together what is between them.
func typeArgs(args string) []string {
	var out []string
	depth, start := 0, -1
	quote := byte(0)
	for i := 0; i < len(args); i++ {
		c := args[i]
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
			continue
		case c == '"':
			quote = c
		case c == '(' || c == '[' || c == '<':
			depth++
		case (c == ')' || c == ']' || c == '>') && depth > 0 && !(c == '>' && i > 0 && args[i-1] == '-'):
			depth--
		case isBlank(c) && depth == 0:
			if start >= 0 {
				out = append(out, args[start:i])
				start = -1
			}
			continue
		}
		if start < 0 {
			start = i
		}
	}
	if start >= 0 {
		out = append(out, args[start:])
	}
	return out
}

// typeOptions reads the arguments of dt. Options stand anywhere.
func (c *Call) typeOptions() (r typeRequest, err error) {
	r.size = -1
	words := typeArgs(c.Args)
	var pending typeWord
	for i := 0; i < len(words); i++ {
		w := words[i]
		if len(w) < 2 || w[0] != '-' && !(w[0] == '/' && isLetter(w[1])) || isDigit(w[1]) || w[1] == '(' || w[1] == '@' {
			pending.text = w
			r.words = append(r.words, pending)
			pending = typeWord{}
			continue
		}
		for k := 1; k < len(w); k++ {
			n := 0
			number := func() (int, bool) {
				j := k + 1
				for j < len(w) && isDigit(w[j]) {
					j++
				}
				if j == k+1 {
					return 0, false
				}
				v, err := strconv.Atoi(w[k+1 : j])
				if err != nil {
					v = 1 << 30
				}
				k = j - 1
				return v, true
			}
			switch w[k] {
			case 'a':
				r.o.Arrays = -1
				if v, ok := number(); ok {
					r.o.Arrays = v
				}
			case 'b':
				r.o.Blocks = true
			case 'c':
				r.o.Compact = true
			case 'd', 'v':
				r.o.Verbose = true
			case 'e':
				r.enumerate = true
			case 't':
				r.typesOnly = true
			case 'i':
				r.o.NoIndent = true
			case 'o':
				r.o.NoOffset = true
			case 'p':
				r.physical = true
			case 'n':
				pending.isName = true
			case 'y':
				pending.prefix = true
			case 'r':
				r.o.Depth = 16
				if v, ok := number(); ok {
					r.o.Depth = v
				}
			case 's':
				r.enumerate = true
				if i+1 >= len(words) {
					return r, c.Fault("Syntax error", "", "-s is followed by a size in bytes")
				}
				i++
				v, err := c.Eval(words[i])
				if err != nil {
					return r, err
				}
				r.size = int64(min(v, 1<<62))
			case 'l':
				if i+1 >= len(words) {
					return r, c.Fault("Syntax error", "", "-l is followed by the field that leads on: -l ActiveProcessLinks.Flink")
				}
				i++
				r.list = words[i]
			case 'h', '?':
				return r, errHelp
			default:
				return r, c.Fault("Syntax error", w, "dt has no option -%c; .help dt lists them", w[k])
			}
			_ = n
		}
	}
	r.o.Depth = min(r.o.Depth, 16)
	if len(r.words) == 0 {
		return r, c.Syntax("")
	}
	return r, nil
}

var errHelp = errors.New("help")

// looksLikeAddress says whether a word can only be an address where dt expects a
// name.
func looksLikeAddress(w string) bool {
	if w == "" {
		return false
	}
	if isDigit(w[0]) || w[0] == '@' || w[0] == '(' && strings.ContainsAny(w, "+-@") && !strings.Contains(w, "*)") || strings.HasPrefix(w, "poi(") {
		return true
	}
	for i := range len(w) {
		if ch := w[i] | 0x20; !isDigit(w[i]) && (ch < 'a' || ch > 'f') && w[i] != '`' {
			return false
		}
	}
	return true
}

func cmdType(c *Call) error {
	r, err := c.typeOptions()
	if errors.Is(err, errHelp) {
		c.Printf("%s\n%s\nExample: %s\n", c.Command.Usage, c.Command.Summary, c.Command.Example)
		return nil
	}
	if err != nil {
		return err
	}
	if r.physical && r.list != "" {
		return c.Fault("Syntax error", c.Args, "lists are followed in virtual memory")
	}
	r.o.Match = expr.Match
	// The name is the first word, unless that is an address.
	w := r.words[0]
	if !w.isName && !w.prefix && looksLikeAddress(w.text) {
		if err := c.typeAddress(&r, w.text); err != nil {
			return err
		}
		r.words = r.words[1:]
		if len(r.words) == 0 {
			return c.typeAt(&r)
		}
		w = r.words[0]
	}
	r.name, r.prefix = strings.Trim(w.text, `"`), w.prefix
	r.words = r.words[1:]
	if r.name == "." {
		if c.S.lastType == "" {
			return c.Fault("Syntax error", ".", "there was no type before")
		}
		r.name = c.S.lastType
		mod, name := symbols.Split(r.name)
		c.Printf("Using sym %s\n", strings.TrimPrefix(name, mod+"!"))
	}
	if inner, ok := strings.CutPrefix(r.name, "("); ok && strings.HasSuffix(inner, ")") {
		r.name = strings.TrimSpace(strings.TrimSuffix(inner, ")"))
	}
	if r.enumerate || r.prefix || strings.ContainsAny(nameOnly(r.name), "*?#+") && !strings.HasSuffix(strings.TrimSpace(r.name), " *") {
		done, err := c.typeList(&r)
		if done || err != nil {
			return err
		}
	}
	return c.typeNamed(&r)
}

// nameOnly is a name without indices.
func nameOnly(name string) string {
	name, _, _ = strings.Cut(name, "[")
	return name
}

func (c *Call) typeAddress(r *typeRequest, text string) error {
	v, err := c.Eval(text)
	if err != nil {
		return err
	}
	if !r.physical {
		v = c.S.canon(v)
	}
	r.addr, r.addrAt = &v, text
	return nil
}

// subject is a type, perhaps with a value.
type subject struct {
	t      types.Type
	header string
	value  cexpr.Value
	has    bool // value
}

// typeNamed shows a type or a variable.
func (c *Call) typeNamed(r *typeRequest) error {
	s, err := c.findType(r)
	if err != nil {
		if r.addr == nil && strings.ContainsAny(r.name, "+-@(") && c.evaluates(r.name) {
			// No name, but an expression.
			if err := c.typeAddress(r, r.name); err != nil {
				return err
			}
			if len(r.words) == 0 {
				return c.typeAt(r)
			}
			r.name = strings.Trim(r.words[0].text, `"`)
			r.words = r.words[1:]
			s, err = c.findType(r)
		}
		if err != nil {
			return err
		}
	}
	c.S.lastType = r.name
	// What follows are fields, and an address.
	of := s.t
	if of.Kind == sym.Pointer && s.has {
		if to, err := of.Element(); err == nil && to.HasMembers() {
			of = to
		}
	}
	for i, w := range r.words {
		field := w.isName || w.prefix || c.isField(of, w.text)
		if !field && r.addr == nil && !s.has {
			rest := w.text
			if i == len(r.words)-2 && !c.isField(of, r.words[i+1].text) && isOperator(r.words[i+1].text) {
				rest = w.text
			}
			if looksLikeAddress(w.text) || c.evaluates(w.text) || !of.HasMembers() {
				if err := c.typeAddress(r, rest); err != nil {
					return err
				}
				continue
			}
		}
		if !field && (r.addr != nil || s.has) && looksLikeAddress(w.text) && isDigit(w.text[0]) {
			return c.Fault("Extra character error", w.text, "there is an address already, and this is no field of %s", of.C(types.Model))
		}
		f, err := types.ParseField(w.text, w.prefix)
		if err != nil {
			return c.Fault("Syntax error", w.text, "%v", err)
		}
		r.o.Fields = append(r.o.Fields, f)
	}
	if s.header != "" {
		c.Printf("%s\n", s.header)
	}
	switch {
	case r.list != "":
		return c.typeChain(r, &s)
	case s.has:
		return c.typeValue(r, s.t, s.value)
	case r.addr != nil:
		return c.typeValue(r, s.t, cexpr.Value{Type: s.t, Addr: *r.addr, InMemory: true})
	}
	// The type alone.
	p := c.printer(s.t)
	if r.o.Verbose && (s.t.HasMembers() || s.t.Kind == sym.Enum) {
		c.Printf("%s\n", p.Headline(s.t))
	}
	t := s.t
	if t.Kind == sym.Pointer || t.Kind == sym.Array {
		if e, err := t.Element(); err == nil && e.HasMembers() {
			c.Printf("%s\n", strings.TrimRight(p.TypeName(t, r.o.Verbose), " "))
			t = e
		}
	}
	if !t.HasMembers() && t.Kind != sym.Enum {
		c.Printf("%s\n", strings.TrimRight(p.TypeName(t, r.o.Verbose), " "))
		return nil
	}
	var b bytes.Buffer
	err = c.writeRows(&b, p, t, r.o)
	_, _ = c.Write(b.Bytes())
	if err == nil && b.Len() == 0 && len(r.o.Fields) > 0 {
		return c.noField(t, r.o.Fields)
	}
	return err
}

func isOperator(s string) bool { return s == "+" || s == "-" }

func (c *Call) noField(t types.Type, list []types.Field) error {
	var names []string
	for _, f := range list {
		names = append(names, f.Pattern)
	}
	return fmt.Errorf("cannot find specified field members: %s has no %s", t.C(types.Model), brief.Text(strings.Join(names, ", "), 60))
}

// isField says whether a word names a field of a type: by its first step.
func (c *Call) isField(t types.Type, w string) bool {
	if strings.ContainsAny(w, "()@`") || w == "" || isDigit(w[0]) {
		return false
	}
	first := w
	if i := strings.IndexAny(first, ".["); i >= 0 {
		first = first[:i]
	}
	if i := strings.Index(first, "->"); i >= 0 {
		first = first[:i]
	}
	if first == "" {
		return false
	}
	list, err := t.Members(false)
	if err != nil {
		return false
	}
	for _, m := range list {
		if strings.EqualFold(m.Name, first) || strings.ContainsAny(first, "*?[#+") && expr.Match(first, m.Name) ||
			strings.Contains(w, ".") && len(m.Name) >= len(first) && strings.EqualFold(m.Name[:len(first)], first) {
			return true
		}
	}
	return false
}

// evaluates says whether a word is an expression.
func (c *Call) evaluates(w string) bool {
	_, err := expr.Eval(w, env{c.Ctx, c.S}, expr.Options{Radix: c.S.radix})
	return err == nil
}

// findType finds what a name means: a local variable, a type, a global variable.
func (c *Call) findType(r *typeRequest) (subject, error) {
	v := cppEnv{c.Ctx, c.S}
	name := r.name
	for _, tag := range []string{"struct ", "union ", "enum ", "class "} {
		name = strings.TrimPrefix(name, tag)
	}
	base, index, indexed := strings.Cut(name, "[")
	base = strings.TrimSpace(base)
	plain := !strings.ContainsAny(base, "*& ")
	if plain && !strings.Contains(base, "!") && c.S.Engine != nil && r.addr == nil {
		l, err := c.S.Engine.Local(c.Ctx, base)
		if err != nil {
			return subject{}, err
		}
		if l != nil {
			return c.localSubject(l, index, indexed)
		}
	}
	t, ok, err := v.Type(base)
	if !ok && err == nil && plain && !strings.Contains(base, "!") {
		t, ok = types.Known(base, c.S.pointerSize())
	}
	if !ok && !plain || ok && indexed {
		var ty types.Type
		if ty, ok, err = cexpr.Type(name, v); err != nil {
			return subject{}, exprFault(err, name)
		}
		if ok {
			return subject{t: ty}, nil
		}
	}
	if ok {
		s := subject{t: t}
		if !strings.Contains(base, "!") && t.Module != "" && (t.HasMembers() || t.Kind == sym.Enum) {
			s.header = t.Module + "!" + cmp.Or(t.Name, base)
		}
		return s, nil
	}
	if !plain {
		return subject{}, c.noType(r.name, err)
	}
	val, found, serr := v.Symbol(base)
	if serr != nil && err == nil {
		err = serr
	}
	if !found || serr != nil {
		return subject{}, c.noType(r.name, err)
	}
	s := subject{t: val.Type, value: val, has: true}
	if !strings.Contains(base, "!") {
		s.header = val.Name
	}
	if indexed {
		if s, err = c.element(s, index); err != nil {
			return s, err
		}
	}
	if k := s.t.Kind; val.InMemory && (k == 0 || k == sym.Void || k == sym.Opaque) {
		return s, fmt.Errorf("Symbol %s has no type: %s %s. To show it give the type too: dt <type> %s", val.Name, c.S.addr(val.Addr), c.known(val.Name), val.Name)
	}
	return s, nil
}

// known says what symbols a module has.
func (c *Call) known(name string) string {
	set := c.S.set()
	if set == nil {
		return ""
	}
	mod, _ := symbols.Split(name)
	st, ok := set.Named(mod)
	if !ok {
		return ""
	}
	return "(" + st.Name + ": " + strings.TrimSpace(st.String()) + ")"
}

func (c *Call) element(s subject, index string) (subject, error) {
	for index != "" {
		in, rest, ok := strings.Cut(index, "]")
		n, err := strconv.ParseUint(strings.TrimSpace(in), 10, 32)
		if !ok || err != nil {
			return s, c.Fault("Syntax error", "["+index, "an index is a decimal number between brackets")
		}
		e, err := s.t.Element()
		if err != nil || s.t.Kind != sym.Array {
			return s, c.Fault("Operand error", "["+index, "this is no array")
		}
		if s.value.InMemory {
			s.value.Addr += n * e.Size
		} else if lo, hi := n*e.Size, (n+1)*e.Size; hi <= uint64(len(s.value.Data)) {
			s.value.Data = s.value.Data[lo:hi]
		} else {
			return s, c.Fault("Operand error", "["+index, "there is no element %d", n)
		}
		s.t, s.value.Type = e, e
		index = strings.TrimPrefix(rest, "[")
	}
	return s, nil
}

// localSubject is a local variable.
func (c *Call) localSubject(l *engine.Local, index string, indexed bool) (subject, error) {
	v := cppEnv{c.Ctx, c.S}
	val, _, err := v.local(l)
	name := strings.ReplaceAll(val.Type.C(types.Model), " *", "*")
	s := subject{t: val.Type, value: val, has: true, header: "Local var Type " + name}
	if len(l.Places) == 1 {
		switch p := &l.Places[0]; {
		case p.InMemory:
			s.header = fmt.Sprintf("Local var @ 0x%x Type %s", p.Addr, name)
		case p.Reg != "":
			s.header = fmt.Sprintf("Local var @ %s Type %s", p.Reg, name)
		}
	}
	if err != nil {
		c.Printf("%s\n", s.header)
		return s, err
	}
	if indexed {
		return c.element(s, index)
	}
	return s, nil
}

// noType says that a name means nothing, what is loaded, and where it was looked
// for.
func (c *Call) noType(name string, err error) error {
	if c.Ctx.Err() != nil {
		return context.Cause(c.Ctx)
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Symbol %s not found.", brief.Text(name, 120))
	set := c.S.set()
	if set == nil {
		return phrased(b.String() + " " + c.S.sentence(errNoSet.Error(), ""))
	}
	mod, _ := symbols.Split(name)
	if mod == "" {
		mod = "nt"
	}
	st, ok := set.Named(mod)
	switch {
	case !ok && mod == "nt":
		b.WriteString(" No modules are known yet.")
	case !ok:
		fmt.Fprintf(&b, " There is no module %s (lm lists them).", brief.Text(mod, 40))
	case st.State == symbols.PDB || st.State == symbols.InImage:
		if !st.Private {
			b.WriteString(" The symbols are public ones.")
		}
		if !strings.Contains(name, "!") {
			b.WriteString(" It was looked for in nt and where symbols are loaded; write module!name for others.")
		}
		fmt.Fprintf(&b, "\n%-10s %s", st.Name, strings.TrimSpace(st.String()))
	default:
		fmt.Fprintf(&b, " %s has no symbol file, so that its types are not known", st.Name)
		if st.State == symbols.Exports {
			b.WriteString(", only what it exports")
		}
		b.WriteString(".")
		switch {
		case st.Err != nil:
			fmt.Fprintf(&b, "\n%s", st.Err.Error())
		case err != nil:
			fmt.Fprintf(&b, "\n%s", err.Error())
		}
		if n := len(st.Tried); n > 0 {
			b.WriteString("\nIt was looked for here:")
			for _, t := range st.Tried[:min(n, 8)] {
				fmt.Fprintf(&b, "\n    %s", brief.Text(t, 300))
			}
			if n > 8 {
				fmt.Fprintf(&b, "\n    and in %d places more", n-8)
			}
		}
	}
	return phrased(b.String())
}

// physicalMemory reads physical addresses.
type physicalMemory struct{ e *engine.Engine }

func (p physicalMemory) Read(ctx context.Context, addr uint64, b []byte) (int, error) {
	d, err := p.e.Read(ctx, engine.Physical, addr, len(b))
	if err != nil {
		return 0, err
	}
	return copy(b, d.Prefix()), nil
}

// typeValue shows a value as dt does.
func (c *Call) typeValue(r *typeRequest, t types.Type, v cexpr.Value) error {
	e := c.S.Engine
	if e == nil {
		return engine.ErrUnknownMachine
	}
	if v.Data == nil {
		if _, err := e.PC(c.Ctx); err != nil {
			return err // the target runs
		}
	}
	p := c.printer(t)
	o := r.o
	o.Addr, o.Data = v.Addr, v.Data
	arrays := o.Arrays
	named := len(o.Fields) == 0
	if named {
		o.Arrays = 0
	}
	of := t
	if t.Kind == sym.Pointer && v.Name != "" || t.Kind == sym.Pointer && r.addr == nil {
		if to, err := t.Element(); err == nil && to.HasMembers() {
			of = to
		}
	}
	if o.Verbose && of.HasMembers() {
		c.Printf("%s\n", p.Headline(of))
	}
	if t.Kind == sym.Func {
		c.Printf("%s\n", t.C(types.Model))
		return nil
	}
	show := func(w *bytes.Buffer, m types.Memory) error {
		o := o
		o.Memory = m
		switch {
		case named && arrays != 0 && t.Kind != sym.Pointer:
			return c.typeElements(w, p, t, o, arrays)
		case t.Kind == sym.Array:
			if !named {
				return fmt.Errorf("an array has no fields; give an element: name[n]")
			}
			return c.typeArray(w, p, t, o)
		case t.HasMembers():
			return c.writeRows(w, p, t, o)
		}
		data := v.Data
		if data == nil {
			data = make([]byte, min(t.Size, 64))
			n, _ := m.Read(c.Ctx, v.Addr, data)
			data = data[:n]
		}
		if of.HasMembers() && uint64(len(data)) >= t.Size {
			at := number(data[:min(t.Size, 8)])
			if at == 0 {
				w.WriteString("(null) \n")
				return nil
			}
			fmt.Fprintf(w, "%s \n", types.Pointer(at, t.Size))
			o.Addr, o.Data = at, nil
			if t.Size == 4 {
				o.Addr = c.S.canon(uint64(uint32(at)))
			}
			return c.writeRows(w, p, of, o)
		}
		fmt.Fprintf(w, "%s\n", p.Text(c.Ctx, m, t, data))
		if uint64(len(data)) < t.Size {
			fmt.Fprintf(w, "%v\n", &types.UnreadableError{Addr: v.Addr + uint64(len(data))})
		}
		return nil
	}
	if r.physical {
		var b bytes.Buffer
		err := show(&b, physicalMemory{e})
		_, _ = c.Write(b.Bytes())
		return err
	}
	if v.Data == nil {
		size, then := p.Plan(of, o)
		if of.Kind != t.Kind { // behind a pointer
			size, then = int(t.Size), []types.Deref{{Len: size, Then: then}}
		}
		if named && arrays > 0 && t.Kind != sym.Array {
			size = int(min(uint64(arrays)*t.Size, 1<<20))
		}
		if err := e.Fetch(c.Ctx, want(v.Addr, size, then)); err != nil {
			return err
		}
	}
	empty := true
	err := c.gather(func(w *bytes.Buffer, m types.Memory) error {
		err := show(w, m)
		empty = w.Len() == 0
		return err
	})
	if err == nil && empty && !named {
		return c.noField(of, o.Fields)
	}
	return err
}

// typeArray shows an array as it is named: text as text, structures one by one.
func (c *Call) typeArray(w *bytes.Buffer, p *types.Printer, t types.Type, o types.Options) error {
	e, err := t.Element()
	if err != nil {
		return err
	}
	if e.HasMembers() || e.Kind == sym.Array {
		return c.typeElements(w, p, t, o, -1)
	}
	data := o.Data
	if data == nil {
		data = make([]byte, min(t.Size, 1<<16))
		n, _ := o.Memory.Read(c.Ctx, o.Addr, data)
		data = data[:n]
	}
	if _, ok := p.ArrayText(t, data); ok || len(data) == 0 {
		fmt.Fprintf(w, "%s\n", p.Text(c.Ctx, o.Memory, t, data))
		return nil
	}
	return c.typeElements(w, p, t, o, -1)
}

// maxElementsShown bounds the elements of an array.
const maxElementsShown = 20000

// typeElements shows so many values of a type, one behind the other.
func (c *Call) typeElements(w *bytes.Buffer, p *types.Printer, t types.Type, o types.Options, n int) error {
	count := uint64(n)
	if t.Kind == sym.Array {
		e, err := t.Element()
		if err != nil {
			return err
		}
		if n < 0 || count > t.Count {
			count = t.Count
		}
		t = e
	} else if n < 0 {
		count = 1
	}
	whole := o.Data
	for i := range count {
		if i >= maxElementsShown || w.Len() > maxOutput {
			return types.ErrTooMuch
		}
		if c.Ctx.Err() != nil {
			return context.Cause(c.Ctx)
		}
		at := o
		at.Addr += i * t.Size
		if whole != nil {
			if (i+1)*t.Size > uint64(len(whole)) {
				return nil
			}
			at.Data = whole[i*t.Size : (i+1)*t.Size]
		}
		if !t.HasMembers() {
			data := at.Data
			if data == nil {
				data = make([]byte, min(t.Size, 1<<12))
				k, _ := o.Memory.Read(c.Ctx, at.Addr, data)
				data = data[:k]
			}
			fmt.Fprintf(w, "[%d] %s\n", i, p.Text(c.Ctx, o.Memory, t, data))
			continue
		}
		if o.Compact {
			fmt.Fprintf(w, "[%d]", i)
			if err := c.writeRows(w, p, t, at); err != nil {
				return err
			}
			continue
		}
		fmt.Fprintf(w, "[%d] @ %s \n---------------------------------------------\n", i, c.S.addr(at.Addr))
		if err := c.writeRows(w, p, t, at); err != nil {
			return err
		}
		w.WriteByte('\n')
	}
	return nil
}

// typeAt is dt with an address alone: the variable that is there.
func (c *Call) typeAt(r *typeRequest) error {
	set := c.S.set()
	if set == nil {
		return errNoSet
	}
	c.S.listed(c.Ctx)
	x, d, ok, err := set.Nearest(c.Ctx, *r.addr)
	switch {
	case err != nil:
		return err
	case !ok:
		return fmt.Errorf("%s is in no module with symbols; give the type too: dt module!type %s", c.S.addr(*r.addr), r.addrAt)
	case d != 0 && uint64(x.Size) <= d:
		return fmt.Errorf("%s is %s+0x%x and no variable; give the type too: dt module!type %s", c.S.addr(*r.addr), x.Full(), d, r.addrAt)
	}
	v, ok, err := cppEnv{c.Ctx, c.S}.Symbol(x.Full())
	if err != nil {
		return err
	}
	if !ok || v.Type.Kind == 0 || v.Type.Kind == sym.Void {
		return fmt.Errorf("%s is %s, whose type is not known; give it: dt module!type %s", c.S.addr(*r.addr), x.Full(), r.addrAt)
	}
	c.Printf("%s\n", x.Full())
	if v.Type.Kind == sym.Func {
		c.Printf("%s\n", v.Type.C(types.Model))
		return nil
	}
	return c.typeValue(r, v.Type, v)
}

// typeList lists types and variables. done is false where the name turns out to
// be that of one.
func (c *Call) typeList(r *typeRequest) (done bool, err error) {
	set := c.S.set()
	if set == nil {
		return true, errNoSet
	}
	c.S.listed(c.Ctx)
	mod, pattern := symbols.Split(r.name)
	prefix := pattern
	if r.prefix {
		pattern += "*"
	}
	match := func(name string) bool { return expr.Match(pattern, name) }
	if p, ok := strings.CutSuffix(pattern, "*"); ok && !strings.ContainsAny(p, `*?[#+\`) {
		match = func(name string) bool { return len(name) >= len(p) && strings.EqualFold(name[:len(p)], p) }
	}
	if mod == "" {
		mod = "nt"
		if st, ok := set.Named("nt"); !ok || st.State == symbols.None {
			mod = "*"
		}
	}
	type item struct {
		addr uint64
		name string
		size uint64
	}
	var items [2][]item // variables, types
	seen := map[string]bool{}
	n := 0
	modules := []symbols.Status{}
	for _, st := range set.Modules() {
		if strings.EqualFold(st.Name, mod) || strings.ContainsAny(mod, "*?") && expr.Match(mod, st.Name) && st.State != symbols.Deferred {
			modules = append(modules, st)
		}
	}
	if st, ok := set.Named(mod); ok && len(modules) == 0 {
		modules = append(modules, st)
	}
	if len(modules) == 0 {
		return true, c.noType(r.name, nil)
	}
	v := cppEnv{c.Ctx, c.S}
	first := ""
	more := false
	for _, st := range modules {
		add := func(which int, it item) bool {
			key := strconv.Itoa(which) + it.name + strconv.FormatUint(it.addr, 16)
			if seen[key] || r.size >= 0 && it.size != uint64(r.size) {
				return true
			}
			if n++; n > maxTypes {
				more = true
				return false
			}
			seen[key] = true
			items[which] = append(items[which], it)
			return true
		}
		sized := r.size >= 0 || r.o.Verbose
		for t, err := range set.EachType(c.Ctx, st.Base, match) {
			if err != nil {
				return true, c.noType(r.name, err)
			}
			it := item{name: t.Module + "!" + t.Name}
			if sized {
				if ty, err := v.typeOf(t.Base, t.ID, t.Module); err == nil {
					it.size = ty.Size
				}
			}
			if !add(1, it) {
				break
			}
		}
		if r.typesOnly || r.prefix && len(items[1]) > 0 {
			continue
		}
		for x, err := range set.Each(c.Ctx, st.Base, match) {
			if err != nil {
				return true, c.noType(r.name, err)
			}
			if x.Kind != sym.Data && !r.o.Verbose || !x.HasAddress() || x.Type == 0 && !r.o.Verbose {
				continue
			}
			it := item{addr: x.Addr, name: x.Full(), size: uint64(x.Size)}
			if sized && x.Type != 0 && x.Kind == sym.Data {
				if ty, err := v.typeOf(x.Base, x.Type, x.Module); err == nil {
					it.size = ty.Size
				}
			}
			if !add(0, it) {
				break
			}
		}
	}
	if n == 0 && !r.prefix {
		// Stars belong to types too: (nt!_EPROCESS*).
		if name := strings.TrimRight(r.name, "* "); name != r.name && name != "" {
			if _, ok, _ := cexpr.Type(r.name, v); ok {
				return false, nil
			}
		}
		return true, c.noType(r.name, nil)
	}
	if n == 0 {
		return true, c.noType(r.name, nil)
	}
	for i := range items {
		slices.SortFunc(items[i], func(a, b item) int { return strings.Compare(a.name, b.name) })
	}
	if r.o.Verbose {
		head := "Enumerating symbols matching " + r.name
		if r.size >= 0 {
			head += fmt.Sprintf(", Size = 0x%x", r.size)
		}
		width := len(c.S.addr(0))
		c.Printf("%s\n%-*s Size Symbol\n", head, width, "Address")
		for i := range items {
			for _, it := range items[i] {
				addr := ""
				if i == 0 {
					addr = c.S.addr(it.addr)
				}
				c.Printf("%-*s   %03x %s\n", width, addr, it.size, it.name)
			}
		}
	} else {
		for i := range items {
			for _, it := range items[i] {
				if i == 0 {
					c.Printf("%s  %s\n", c.S.addr(it.addr), it.name)
				} else {
					c.Printf("          %s\n", it.name)
				}
			}
		}
	}
	if more {
		return true, fmt.Errorf("there are more than %d: give more of the name", maxTypes)
	}
	if !r.prefix {
		return true, nil
	}
	// With -y the first one is shown, the name itself if it is among them.
	if len(items[1]) > 0 {
		first = items[1][0].name
	} else if len(items[0]) > 0 {
		first = items[0][0].name
	}
	for _, it := range items[1] {
		if _, name := symbols.Split(it.name); strings.EqualFold(name, prefix) {
			first = it.name
		}
	}
	r.name = first
	return false, nil
}

// chain is a list that a field leads along.
type chain struct {
	link uint64 // of the pointer in a node
	base uint64 // in a node, where pointers lead to
}

// findChain finds the pointer of a list: field is its path in t.
func findChain(t types.Type, field string) (chain, error) {
	ft, at, err := t.Path(strings.ReplaceAll(field, "->", "."))
	if err != nil {
		return chain{}, err
	}
	parent, base := t, uint64(0)
	if i := strings.LastIndexByte(field, '.'); i >= 0 {
		if parent, base, err = t.Path(field[:i]); err != nil {
			return chain{}, err
		}
	}
	if ft.HasMembers() {
		// A whole _LIST_ENTRY or _SINGLE_LIST_ENTRY: its first pointer leads on.
		for _, name := range []string{"Flink", "Next"} {
			if inner, m, err := ft.Find(name); err == nil && inner.Kind == sym.Pointer {
				return chain{link: at + m.Offset, base: at}, nil
			}
		}
	}
	if ft.Kind != sym.Pointer {
		return chain{}, fmt.Errorf("%s is a %s and leads nowhere: -l takes a pointer, as ActiveProcessLinks.Flink", field, ft.C(types.Expression))
	}
	// A pointer to what it is a part of leads to the same place in the next node;
	// any other to the node's beginning.
	to, err := ft.Element()
	if err == nil && to.HasMembers() && to.Name == parent.Name && parent.Name != t.Name {
		return chain{link: at, base: base}, nil
	}
	return chain{link: at}, nil
}

// nodesOf walks a list from the node at addr, which comes first, at most n of
// them, and reads what pieces say of every node. why says how the list ended if that
// was not at its beginning or a null pointer. first is read beside it.
func (s *Session) nodesOf(ctx context.Context, addr uint64, ch chain, n int, ranges []target.Piece, first ...engine.Want) (nodes []uint64, why string, err error) {
	p := s.pointerSize()
	nodes = []uint64{addr}
	if n <= 1 {
		return nodes, "", nil
	}
	n = min(n, target.MaxNodes)
	if ch.link == ch.base && ch.link < 1<<31 {
		// Pointers lead to pointers: the whole chase is one request.
		more, end, err := s.Engine.Chase(ctx, target.List{Head: addr + ch.link, LinkOffset: uint32(ch.link), Pointer: uint8(p), MaxNodes: uint32(n - 1), Pieces: ranges}, first...)
		if err != nil {
			return nodes, "", err
		}
		return append(nodes, more...), chainEnd(s, end, len(more) >= n-1), nil
	}
	seen := map[uint64]bool{addr: true}
	for at := addr; ; {
		next, err := s.Engine.ReadPointer(ctx, engine.Virtual, at+ch.link)
		var lost *engine.MemoryError
		switch {
		case errors.As(err, &lost):
			return nodes, fmt.Sprintf("the list breaks off: the link at %s cannot be read", s.addr(s.canon(at+ch.link))), nil
		case err != nil:
			return nodes, "", err
		case next == 0:
			return nodes, "", nil
		}
		at = s.canon(next - ch.base)
		switch {
		case at == addr:
			return nodes, "", nil
		case seen[at]:
			return nodes, fmt.Sprintf("the list runs in a circle: it comes back to %s, which is not where it began", s.addr(at)), nil
		case len(nodes) >= n:
			return nodes, chainEnd(s, engine.ChaseEnd{}, true), nil
		}
		seen[at] = true
		nodes = append(nodes, at)
	}
}

func chainEnd(s *Session, end engine.ChaseEnd, full bool) string {
	switch {
	case end.Broken:
		return fmt.Sprintf("the list breaks off: the link at %s cannot be read", s.addr(end.Addr))
	case end.Circle:
		return fmt.Sprintf("the list runs in a circle: it comes back to %s, which is not where it began", s.addr(end.Addr))
	case full:
		return fmt.Sprintf("the list goes on: no more than 0n%d nodes are followed", target.MaxNodes)
	}
	return ""
}

// typeChain is dt -l: every node of a list.
func (c *Call) typeChain(r *typeRequest, s *subject) error {
	t := s.t
	addr := uint64(0)
	switch {
	case r.addr != nil:
		addr = *r.addr
	case s.has && s.value.InMemory && t.HasMembers():
		addr = s.value.Addr
	case s.has && t.Kind == sym.Pointer:
		v, err := cexpr.Uint(s.value, cppEnv{c.Ctx, c.S})
		if err != nil {
			return err
		}
		addr = v
	default:
		return c.Fault("Syntax error", "", "a list needs the address of its first structure")
	}
	if t.Kind == sym.Pointer && s.has {
		to, err := t.Element()
		if err != nil {
			return err
		}
		t = to
	}
	ch, err := findChain(t, r.list)
	if err != nil {
		return err
	}
	e := c.S.Engine
	if e == nil {
		return engine.ErrUnknownMachine
	}
	p := c.printer(t)
	o := r.o
	size, then := p.Plan(t, o)
	addr = c.S.canon(addr)
	nodes, why, err := c.S.nodesOf(c.Ctx, addr, ch, target.MaxNodes, c.chainPieces(p, t, o), want(addr, size, then))
	if err != nil {
		return err
	}
	wants := []engine.Want{}
	for _, n := range nodes {
		wants = append(wants, want(n, size, then))
	}
	if err := e.Fetch(c.Ctx, wants...); err != nil {
		return err
	}
	empty := true
	err = c.gather(func(w *bytes.Buffer, m types.Memory) error {
		o.Memory = m
		for _, n := range nodes {
			fmt.Fprintf(w, "%s at %s\n---------------------------------------------\n", r.list, types.Pointer(n, uint64(c.S.pointerSize())))
			o.Addr = n
			before := w.Len()
			if err := c.writeRows(w, p, t, o); err != nil {
				return err
			}
			empty = empty && w.Len() == before
			w.WriteByte('\n')
			if w.Len() > maxOutput {
				return types.ErrTooMuch
			}
		}
		return nil
	})
	if err == nil && empty && len(o.Fields) > 0 {
		err = c.noField(t, o.Fields)
	}
	if err == nil && why != "" {
		return errors.New(why)
	}
	return err
}

// chainPieces is what is read of every node of a list: the fields that are asked
// for, or all of a node as far as it is reasonable.
func (c *Call) chainPieces(p *types.Printer, t types.Type, o types.Options) []target.Piece {
	var out []target.Piece
	if len(o.Fields) > 0 {
		for _, f := range o.Fields {
			name := strings.TrimRight(f.Pattern, ".")
			if ft, at, err := t.Path(name); err == nil && at < 1<<31 && ft.Size > 0 && ft.Size <= target.MaxPiece && len(out) < 8 {
				out = append(out, target.Piece{Offset: uint32(at), Len: uint32(max(ft.Size, 1))})
			}
		}
		if len(out) == len(o.Fields) {
			return append(out, c.textPieces(p, t, o, len(out))...)
		}
		out = nil
	}
	for at := uint64(0); at < t.Size && len(out) < 4; at += target.MaxPiece {
		out = append(out, target.Piece{Offset: uint32(at), Len: uint32(min(t.Size-at, target.MaxPiece))})
	}
	return append(out, c.textPieces(p, t, o, len(out))...)
}

// textPieces are the strings that nodes point to.
func (c *Call) textPieces(p *types.Printer, t types.Type, o types.Options, used int) []target.Piece {
	_, then := p.Plan(t, o)
	var out []target.Piece
	for _, d := range then {
		if used+len(out) < target.MaxPieces && d.Len > 0 && d.Len <= target.MaxPiece {
			out = append(out, target.Piece{Via: target.ViaPointer, Offset: d.Offset, Len: uint32(d.Len)})
		}
	}
	return out
}
