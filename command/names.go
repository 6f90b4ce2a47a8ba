package command

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"openkd/engine"
	"openkd/engine/expr"
	"openkd/engine/types"
	"openkd/image/sym"
	"openkd/internal/brief"
	"openkd/symbols"
)

func nameCommands() []*Command {
	f := "Symbols"
	return []*Command{
		{Names: []string{"x"}, Family: f, Run: cmdExamine,
			Summary: "show symbols by name, with * ? [] # + as wildcards: /0 addresses only, /1 names only, /2 both, /t types, /v kinds and sizes, /s of one size, /q in quotes, /p no blank in front of (, /f functions, /d data; sorted by address (/a, /A backwards), name (/n /N) or size (/z /Z)",
			Usage:   "x [/0|/1|/2] [/D] [/t] [/v] [/q] [/p] [/f|/d] [/a|/A|/n|/N|/z|/Z] [/s size] module!pattern\nx *!   the modules\nx [options] pattern   the variables of the current function, and symbols of the modules that are loaded", Example: "x nt!Ke*Event*"},
		{Names: []string{"ln"}, Family: f, Run: cmdNearest, Summary: "show the symbols around an address", Usage: "ln [/D] [address]", Example: "ln @rip"},
		symoptCommand(),
	}
}

// examine is what x was asked for.
type examine struct {
	only            byte // '0', '1', '2': what is shown; 0: all
	types, verbose  bool
	quoted, tight   bool
	functions, data bool
	order           byte // a A n N z Z; 0: by address, in pieces
	size            uint64
	sized           bool
	c               *Call
	rows            int
	file            sym.File // of the module at base
	base            uint64
	module          string
}

const (
	// x sorts so many symbols at a time, so that the first of a million come at
	// once; where an order was asked for, all of them.
	examinePiece = 1 << 16
	examineMost  = 1 << 22
	// Values of so many bytes are read, and of so many symbols at once.
	maxShown     = 128
	examineBatch = 2048
	examineFetch = 500 // pieces of memory, which engine.Fetch takes in one exchange
)

func (c *Call) examineOptions() (*examine, string, error) {
	x := &examine{c: c}
	args := strings.TrimSpace(c.Args)
	for strings.HasPrefix(args, "/") {
		w, rest := cutWord(args)
		for i := 1; i < len(w); i++ {
			switch w[i] {
			case '0', '1', '2':
				x.only = w[i]
			case 't', 'T':
				x.types = true
			case 'v', 'V':
				x.verbose = true
			case 'q', 'Q':
				x.quoted = true
			case 'p', 'P':
				x.tight = true
			case 'f', 'F':
				x.functions = true
			case 'd':
				x.data = true
			case 'D':
			case 'a', 'A', 'n', 'N', 'z', 'Z':
				x.order = w[i]
			case 's', 'S':
				at := rest
				var n string
				if n = w[i+1:]; n == "" {
					n, rest = cutWord(rest)
				}
				v, err := c.Eval(n)
				if err != nil {
					return nil, "", err
				}
				if v > math.MaxUint32 {
					return nil, "", c.Fault("Range error", at, "a symbol has less than 4 GB")
				}
				x.size, x.sized = v, true
				i = len(w)
			default:
				return nil, "", c.Syntax(args)
			}
		}
		args = rest
	}
	return x, args, nil
}

func cmdExamine(c *Call) error {
	x, pattern, err := c.examineOptions()
	if err != nil {
		return err
	}
	pattern = strings.TrimSpace(pattern)
	if t, ok := strings.CutPrefix(pattern, "@!"); ok {
		pattern = unquote(t)
	}
	switch {
	case pattern == "":
		return c.Syntax("")
	case pattern == "*!":
		return x.listModules()
	case strings.HasPrefix(pattern, "$!"):
		return x.locals(pattern[2:], true)
	case !strings.Contains(pattern, "!"):
		if err := x.locals(pattern, false); err != nil {
			return err
		}
		if pattern == "*" {
			if x.rows == 0 {
				return x.listModules()
			}
			return nil
		}
		pattern = "*!" + pattern
	}
	return x.symbols(pattern)
}

// listModules is x *!.
func (x *examine) listModules() error {
	mods, err := x.c.S.Engine.Modules(x.c.Ctx)
	if err != nil {
		return err
	}
	x.c.Printf("%-*s %-*s   module name\n", x.width(), "start", x.width(), "end")
	for _, m := range mods {
		x.c.Printf("%s %s   %s\n", x.c.S.addr(m.Base), x.c.S.addr(m.End()), m.Name)
	}
	return nil
}

func (x *examine) width() int { return len(x.c.S.addr(0)) }

// wild reports whether a pattern stands for more than one name.
func wild(pattern string) bool { return strings.ContainsAny(pattern, `*?[#+\`) }

// symbols shows what a pattern names.
func (x *examine) symbols(pattern string) error {
	c := x.c
	if _, err := c.S.Engine.Modules(c.Ctx); err != nil {
		return err
	}
	set, err := c.symbolSet()
	if err != nil {
		return err
	}
	mod, name := symbols.Split(pattern)
	var list []symbols.Symbol
	most := examinePiece
	if x.order != 0 {
		most = examineMost
	}
	take := func(s symbols.Symbol) error {
		if (x.sized || x.order|0x20 == 'z') && s.Size == 0 && s.Type != 0 && !s.Code && x.open(&s) {
			if t, err := types.Of(x.file, s.Type, s.Module); err == nil && t.Size <= math.MaxUint32 {
				s.Size = uint32(t.Size)
			}
		}
		if !x.wants(&s) {
			return nil
		}
		if list = append(list, s); len(list) < most {
			return nil
		}
		if x.order != 0 {
			return fmt.Errorf("more than %d symbols match: they are too many to be sorted", most)
		}
		err := x.show(list)
		list = list[:0]
		return err
	}
	if !wild(name) && !wild(mod) && name != "" {
		// A walk through all names is not needed.
		found, err := set.Lookup(c.Ctx, pattern)
		if errors.Is(err, symbols.ErrNotFound) {
			return x.nothing(set, mod, name)
		}
		if err != nil {
			return x.why(pattern, err)
		}
		for _, s := range found {
			if err := take(s); err != nil {
				return err
			}
		}
	} else {
		for s, err := range c.S.Engine.EachSymbol(c.Ctx, pattern) {
			if err == nil {
				err = take(s)
			}
			if err != nil {
				return x.why(pattern, err)
			}
		}
	}
	if err := x.show(list); err != nil {
		return err
	}
	if x.rows == 0 {
		return x.nothing(set, mod, name)
	}
	return nil
}

// why says in few words why nothing can be shown.
func (x *examine) why(pattern string, err error) error {
	var none *symbols.NoSymbolsError
	if !errors.Is(err, symbols.ErrNoModule) && !errors.As(err, &none) {
		return err
	}
	_, _, err = x.c.S.Engine.Symbol(x.c.Ctx, pattern)
	return err
}

// nothing says that no symbol matches, and where none was looked for.
func (x *examine) nothing(set *symbols.Set, mod, name string) error {
	if !wild(mod) {
		if st, ok := set.Named(mod); ok && st.State == symbols.Exports {
			return fmt.Errorf("nothing that %s exports matches %q, and its exports are all that is known of it", st.Name, brief.Text(name, 60))
		}
		return fmt.Errorf("module %s has no symbol that matches %q", mod, brief.Text(name, 60))
	}
	in, deferred := 0, 0
	for _, st := range set.Modules() {
		if expr.Match(mod, st.Name) {
			in++
			if st.State == symbols.Deferred {
				deferred++
			}
		}
	}
	switch {
	case in == 0:
		return fmt.Errorf("no module is called %q (lm lists them)", brief.Text(mod, 60))
	case deferred > 0:
		return fmt.Errorf("no symbol matches %q in the modules whose symbols are loaded; those of %d others are not: .reload /f loads them, and naming a module in full", brief.Text(name, 60), deferred)
	}
	return fmt.Errorf("no symbol matches %q", brief.Text(name, 60))
}

// wants says whether a symbol is shown.
func (x *examine) wants(s *symbols.Symbol) bool {
	switch {
	case !s.HasAddress(), x.functions && !s.Code, x.data && s.Code, x.sized && uint64(s.Size) != x.size:
		return false
	}
	return true
}

// show shows symbols in their order. Values are read together.
func (x *examine) show(list []symbols.Symbol) error {
	by := func(a, b symbols.Symbol) int {
		return cmp.Or(cmp.Compare(a.Addr, b.Addr), cmp.Compare(b2i(a.Kind == sym.Public), b2i(b.Kind == sym.Public)), strings.Compare(a.Name, b.Name))
	}
	order := by
	switch x.order | 0x20 {
	case 'n':
		order = func(a, b symbols.Symbol) int { return cmp.Or(strings.Compare(a.Name, b.Name), by(a, b)) }
	case 'z':
		order = func(a, b symbols.Symbol) int { return cmp.Or(cmp.Compare(a.Size, b.Size), by(a, b)) }
	}
	slices.SortFunc(list, by)
	// The linker's name of what has a private one is not another symbol.
	list = slices.CompactFunc(list, func(a, b symbols.Symbol) bool {
		return a.Addr == b.Addr && (a.Name == b.Name || a.Linkage != "" && a.Linkage == b.Name)
	})
	if x.order != 0 && x.order != 'a' {
		slices.SortStableFunc(list, order)
	}
	if x.order != 0 && x.order < 'a' {
		slices.Reverse(list)
	}
	for len(list) > 0 {
		part := list[:min(len(list), examineBatch)]
		if err := x.part(part); err != nil {
			return err
		}
		list = list[len(part):]
	}
	return nil
}

// part shows some symbols, whose values it reads in one exchange.
func (x *examine) part(list []symbols.Symbol) error {
	c := x.c
	var b strings.Builder
	if x.only == 0 {
		var wants []engine.Want
		for i := range list {
			if s := &list[i]; !s.Code && s.Type != 0 && x.open(s) {
				if t, err := types.Of(x.file, s.Type, s.Module); err == nil && t.Size > 0 {
					wants = append(wants, engine.Want{Addr: s.Addr, Len: int(min(t.Size, maxShown))})
				}
			}
		}
		for wants = together(wants); len(wants) > 0; {
			n := min(len(wants), examineFetch)
			if err := c.S.Engine.Fetch(c.Ctx, wants[:n]...); err != nil {
				return err
			}
			wants = wants[n:]
		}
	}
	for i := range list {
		if i%256 == 0 && c.Ctx.Err() != nil {
			return context.Cause(c.Ctx)
		}
		x.row(&b, &list[i])
	}
	x.rows += len(list)
	c.Printf("%s", b.String())
	return c.Ctx.Err()
}

// together joins pieces of memory that lie near each other.
func together(wants []engine.Want) []engine.Want {
	slices.SortFunc(wants, func(a, b engine.Want) int { return cmp.Compare(a.Addr, b.Addr) })
	var out []engine.Want
	for _, w := range wants {
		const gap, most = 128, 64 << 10
		if n := len(out) - 1; n >= 0 {
			if l := &out[n]; w.Addr-l.Addr <= uint64(l.Len)+gap && w.Addr-l.Addr+uint64(w.Len) <= most {
				l.Len = max(l.Len, int(w.Addr-l.Addr)+w.Len)
				continue
			}
		}
		out = append(out, w)
	}
	return out
}

// open has the symbol file of a symbol's module at hand.
func (x *examine) open(s *symbols.Symbol) bool {
	if x.file != nil && x.base == s.Base {
		return true
	}
	f, err := x.c.S.Engine.SymbolSet().File(x.c.Ctx, s.Base, symbols.LoadOptions{})
	if err != nil {
		return false
	}
	x.file, x.base, x.module = f, s.Base, s.Module
	return true
}

// row is a line of x.
func (x *examine) row(b *strings.Builder, s *symbols.Symbol) {
	name := s.Full()
	if x.quoted {
		name = `@!"` + name + `"`
	}
	switch x.only {
	case '0':
		b.WriteString(x.c.S.addr(s.Addr) + "\n")
		return
	case '1':
		b.WriteString(name + "\n")
		return
	case '2':
		b.WriteString(x.c.S.addr(s.Addr) + " " + name + "\n")
		return
	}
	typed := s.Type != 0 && x.open(s)
	if x.verbose {
		scope, kind := "pub", "global"
		if s.Kind != sym.Public {
			scope = "prv"
		}
		if s.Code {
			kind = "func"
		}
		fmt.Fprintf(b, "%s %-6s ", scope, kind)
	}
	b.WriteString(x.c.S.addr(s.Addr) + " ")
	var t types.Type
	if typed {
		var err error
		if t, err = types.Of(x.file, s.Type, s.Module); err != nil {
			typed = false
		}
	}
	if x.verbose {
		size := uint64(s.Size)
		if size == 0 && typed && !s.Code {
			size = t.Size
		}
		fmt.Fprintf(b, "%4x ", size)
	}
	if x.types {
		switch {
		case !typed:
			b.WriteString("<NoType> ")
		case s.Code:
			b.WriteString("<function> ")
		default:
			b.WriteString(t.C(types.Expression) + " ")
		}
	}
	b.WriteString(name)
	switch {
	case s.Code:
		if !x.tight {
			b.WriteByte(' ')
		}
		b.WriteString(x.c.parameters(x.file, s, typed))
	case !typed:
		b.WriteString(" = <no type information>")
	default:
		b.WriteString(" = " + x.value(t, s.Addr))
	}
	b.WriteByte('\n')
}

// parameters are those of a function, in brackets.
func (c *Call) parameters(f sym.File, s *symbols.Symbol, typed bool) string {
	if !typed {
		return "(<no parameter info>)"
	}
	t, err := types.Of(f, s.Type, s.Module)
	if err != nil || t.Kind != sym.Func {
		return "(<no parameter info>)"
	}
	var names []string
	if scopes, err := f.Scopes(s.RVA); err == nil && len(scopes) > 0 && scopes[0].RVA == s.RVA {
		for _, v := range scopes[0].Vars {
			if v.Param {
				names = append(names, v.Name)
			}
		}
	}
	// What was left out of the code, and this, would shift the others.
	if len(names) != len(t.Params) {
		names = nil
	}
	var out []string
	for i, id := range t.Params {
		p, err := types.Of(f, id, s.Module)
		text := "<damaged type>"
		if err == nil {
			text = p.C(types.Expression)
		}
		if names != nil && names[i] != "" {
			text += " " + names[i]
		}
		if out = append(out, text); len(out) == 64 {
			break
		}
	}
	if t.Variadic {
		out = append(out, "...")
	}
	if len(out) == 0 {
		out = append(out, "void")
	}
	return "(" + strings.Join(out, ", ") + ")"
}

// value is a value in the words of ?? and dv.
func (x *examine) value(t types.Type, addr uint64) string {
	c := x.c
	if t.HasMembers() && t.Size > 0 {
		text := t.C(types.Expression)
		// The text of a string would be another exchange for each.
		if p := c.printer(t); p.Summarised(t) && !strings.HasSuffix(t.Name, "STRING") {
			if d, err := c.S.Engine.Read(c.Ctx, engine.Virtual, addr, int(min(t.Size, maxShown))); err == nil {
				if s := p.Summary(c.Ctx, noMemory{}, t, d.Prefix()); s != "" {
					text += " " + s
				}
			}
		}
		return text
	}
	if t.Size == 0 {
		return t.C(types.Expression)
	}
	d, err := c.S.Engine.Read(c.Ctx, engine.Virtual, addr, int(min(t.Size, maxShown)))
	b := d.Prefix()
	if err != nil || len(b) == 0 {
		return "????"
	}
	p := c.printer(t)
	if t.Kind == sym.Array {
		text := t.C(types.Expression)
		if s, ok := p.ArrayText(t, b); ok {
			text += ` "` + s + `"`
		}
		return text
	}
	if uint64(len(b)) < t.Size {
		return "????"
	}
	text := p.Expression(c.Ctx, nil, t, b)
	if t.Kind == sym.Pointer {
		if e, err := t.Element(); err == nil && e.Kind == sym.Func && number(b) != 0 {
			if n := c.S.symbol(c.S.canon(number(b))); n != "" {
				text += " " + n
			}
		}
	}
	return text
}

// cmdNearest is ln.
func cmdNearest(c *Call) error {
	args := strings.TrimSpace(c.Args)
	if w, rest := cutWord(args); w == "/D" || w == "/d" {
		args = strings.TrimSpace(rest)
	}
	e := c.S.Engine
	var addr uint64
	var err error
	if args == "" {
		addr, err = e.PC(c.Ctx)
	} else {
		addr, err = c.Eval(args)
	}
	if err != nil {
		return err
	}
	addr = c.S.canon(addr)
	m, inside, err := e.ModuleAt(c.Ctx, addr)
	if err != nil {
		return err
	}
	if !inside {
		return fmt.Errorf("%s lies in no module (lm lists them)", c.S.addr(addr))
	}
	set, err := c.symbolSet()
	if err != nil {
		c.Printf("(%s)   %s\n", c.S.addr(m.Base), offset(m.Name, addr-m.Base))
		return nil
	}
	s, d, found, err := set.Nearest(c.Ctx, addr)
	if err != nil {
		var none *symbols.NoSymbolsError
		if !errors.As(err, &none) {
			return err
		}
		c.Printf("(%s)   %s\n", c.S.addr(m.Base), offset(m.Name, addr-m.Base))
		return e.NameError(m.Name+"!", err)
	}
	next, follows, err := set.After(c.Ctx, addr)
	if err != nil {
		return err
	}
	if l, ok := c.S.line(c.Ctx, addr); ok {
		c.Printf("%s\n", lineText(l.File, int(l.Line.Line), addr-l.Addr))
	}
	switch {
	case found && follows:
		c.Printf("(%s)   %s   |  (%s)   %s\n", c.S.addr(s.Addr), offset(s.Full(), d), c.S.addr(next.Addr), next.Full())
	case found:
		c.Printf("(%s)   %s\n", c.S.addr(s.Addr), offset(s.Full(), d))
	case follows:
		c.Printf("(%s)   %s   |  (%s)   %s\n", c.S.addr(m.Base), offset(m.Name, addr-m.Base), c.S.addr(next.Addr), next.Full())
	default:
		c.Printf("(%s)   %s\n", c.S.addr(m.Base), offset(m.Name, addr-m.Base))
	}
	if !found || d != 0 {
		return nil
	}
	c.Printf("Exact matches:\n")
	x := &examine{c: c}
	typed := s.Type != 0 && x.open(&s)
	switch {
	case s.Code:
		c.Printf("    %s %s\n", s.Full(), c.parameters(x.file, &s, typed))
	case !typed:
		c.Printf("    %s = <no type information>\n", s.Full())
	default:
		t, err := types.Of(x.file, s.Type, s.Module)
		if err != nil {
			return err
		}
		c.Printf("    %s = %s\n", s.Full(), x.value(t, s.Addr))
	}
	return nil
}

// offset is a name with a distance.
func offset(name string, d uint64) string {
	if d == 0 {
		return name
	}
	return fmt.Sprintf("%s+0x%x", name, d)
}

// locals shows the variables of the current function whose names match. That there
// are none is an error if they must be there.
func (x *examine) locals(pattern string, must bool) error {
	c := x.c
	list, err := c.S.Engine.Locals(c.Ctx)
	if err != nil {
		if c.Ctx.Err() != nil {
			return context.Cause(c.Ctx)
		}
		if must {
			return err
		}
		return nil
	}
	list = slices.DeleteFunc(list, func(l engine.Local) bool {
		return !expr.Match(pattern, l.Name) || x.functions || x.sized && l.Size != x.size
	})
	if len(list) == 0 && must {
		return fmt.Errorf("the current function has no variable that matches %q", brief.Text(pattern, 60))
	}
	order := x.order
	if order == 0 {
		order = 'a'
	}
	sortLocals(list, order)
	x.rows += len(list)
	return c.gather(func(w *bytes.Buffer, m types.Memory) error {
		for i := range list {
			l := &list[i]
			t, err := types.Of(l.File, l.Type, l.Module)
			switch x.only {
			case '0':
				fmt.Fprintf(w, "%s\n", strings.TrimRight(c.placeOf(l, false), " "))
				continue
			case '1':
				fmt.Fprintf(w, "%s\n", l.Name)
				continue
			case '2':
				fmt.Fprintf(w, "%s %s\n", c.placeOf(l, false), l.Name)
				continue
			}
			if x.verbose {
				kind := "local"
				if l.Param {
					kind = "param"
				}
				fmt.Fprintf(w, "prv %-6s ", kind)
			}
			w.WriteString(c.placeOf(l, false) + " ")
			if x.verbose {
				fmt.Fprintf(w, "%4x ", l.Size)
			}
			if x.types && err == nil {
				w.WriteString(t.C(types.Expression) + " ")
			}
			text := "<damaged type>"
			if err == nil {
				text = c.localText(m, l, t)
			}
			fmt.Fprintf(w, "%s = %s\n", l.Name, text)
		}
		return nil
	})
}
