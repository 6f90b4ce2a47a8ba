package extension

import (
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"

	"go.starlark.net/starlark"

	"openkd/engine"
	"openkd/image/unwind"
	"openkd/internal/brief"
)

func unwindFrom(e *engine.Engine, record []byte) (unwind.Regs, error) {
	return unwind.FromContext(e.Arch().Machine, record)
}

// textWriter collects what commands write.
type textWriter struct {
	b    []byte
	over bool
}

func (w *textWriter) Write(b []byte) (int, error) {
	if len(w.b)+len(b) > maxText {
		w.over = true
	} else {
		w.b = append(w.b, b...)
	}
	return len(b), nil
}

func commandFuncs() []*Func {
	const g = "Commands"
	return []*Func{
		{Name: "run", Group: g, NoTarget: true, Summary: "Runs commands as they would be typed, and returns what they write. Commands that let the target go (g, p, t and their kin) wait for the next stop; q ends the script and the session. In callbacks neither is allowed. A command that fails ends the script, unless it stands in .catch { }.",
			Params: []Param{{Name: "commands", Kind: Text, Doc: "`k 5; r rax`"}}, Returns: "text", Example: `run("k").splitlines()`, run: runCommands},
		{Name: "data", Group: g, Summary: "What a command tells, as data instead of text: for lm what modules() returns, for k stack(), r regs(), bl breakpoints(), x symbols(), ln symbol(), dt typed(), .lastevent stop(), vertarget system(). Options of the commands are not taken; lm takes m and a pattern, k a number of frames.",
			Params: []Param{{Name: "command", Kind: Text, Doc: "`lm m nt*`, `k 5`, `x nt!Ps*`, `dt nt!_EPROCESS @$proc`"}}, Returns: "as the function named returns it", Example: `data("lm")[0].base`, run: dataOf},
		{Name: "eval", Group: g, NoTarget: true, Summary: "The value of an expression of the command language.", Params: []Param{{Name: "expression", Kind: Text, Doc: "`poi(@rsp)+8`"}}, Returns: "a number of 64 bits without sign", Example: `eval("@$t0 + 1")`,
			run: func(c *invocation, a args) (any, error) { return c.value(a.text(0)) }},
		{Name: "functions", Group: g, NoTarget: true, Summary: "The functions that programs can call.", Returns: "a list of objects with name, signature, summary", Example: `functions()`,
			run: func(c *invocation, a args) (any, error) {
				out := []any{}
				for _, f := range c.m.api {
					if !f.Scripts {
						out = append(out, &Object{"api", []Field{{"name", f.Name}, {"signature", f.Signature()}, {"summary", f.Summary}}})
					}
				}
				return out, nil
			}},
	}
}

func runCommands(c *invocation, a args) (any, error) {
	w := &textWriter{}
	c.m.epoch++
	err := c.host.Run(c.ctx, a.text(0), w, c.callback)
	c.m.epoch++
	if err != nil {
		return nil, err
	}
	if stop := c.host.Interrupted(c.ctx); stop != nil {
		return nil, &Unwind{stop}
	}
	if w.over {
		return nil, fmt.Errorf("the output of %q is longer than %d MiB", brief.Text(a.text(0), 80), maxText>>20)
	}
	return strings.ToValidUTF8(string(w.b), "\ufffd"), nil
}

func dataOf(c *invocation, a args) (any, error) {
	word, rest, _ := strings.Cut(strings.TrimSpace(a.text(0)), " ")
	rest = strings.TrimSpace(rest)
	call := func(name string, give ...starlark.Value) (any, error) {
		f := c.m.byName[name]
		x, err := c.fromStarlark(f, give, nil)
		if err != nil {
			return nil, err
		}
		return f.run(c, x)
	}
	text := func(s string) starlark.Value { return starlark.String(s) }
	switch {
	case word == "lm" && rest == "":
		return call("modules")
	case word == "lm" && strings.HasPrefix(rest, "m "):
		return call("modules", text(strings.TrimSpace(rest[2:])))
	case word == "k" && rest == "":
		return call("stack")
	case word == "k":
		n, err := c.eval(rest)
		if err != nil {
			return nil, err
		}
		return call("stack", starlark.MakeUint64(n))
	case word == "r" && rest == "":
		return call("regs")
	case word == "bl" && rest == "":
		return call("breakpoints")
	case word == "x" && rest != "":
		return call("symbols", text(rest))
	case word == "ln" && rest != "":
		return call("symbol", text(rest))
	case word == ".lastevent" && rest == "":
		return call("stop")
	case word == "vertarget" && rest == "":
		return call("system")
	case word == "dt" && rest != "":
		ty, at, ok := strings.Cut(rest, " ")
		if ok {
			return call("typed", text(ty), text(strings.TrimSpace(at)))
		}
		return call("fields", text(ty))
	}
	return nil, &ArgError{"data", "command", fmt.Errorf("%q has no data: lm [m pattern], k [frames], r, bl, x pattern, ln address, dt type [address], .lastevent, vertarget; run() gives the text of every command", brief.Text(a.text(0), 80))}
}

func outputFuncs() []*Func {
	const g = "Output"
	return []*Func{
		{Name: "print", Group: g, Scripts: true, NoTarget: true, Summary: "Writes values with blanks between them, and a new line.", Params: []Param{{Name: "values", Kind: Rest, Doc: "what is written"}}, Returns: "nothing", Example: `print("pid", p.UniqueProcessId)`,
			run: func(c *invocation, a args) (any, error) {
				s, err := joined(a[0].([]starlark.Value), nil, " ")
				if err != nil {
					return nil, err
				}
				return nil, c.emit(s + "\n")
			}},
		{Name: "printf", Group: g, Scripts: true, NoTarget: true, Summary: "Writes what sprintf() makes.", Params: []Param{{Name: "format", Kind: Text, Doc: "see sprintf"}, {Name: "values", Kind: Rest, Doc: "one for each place"}}, Returns: "nothing", Example: `printf("%p %-16s %4d\n", p, p.ImageFileName, p.ActiveThreads)`,
			run: func(c *invocation, a args) (any, error) {
				s, err := c.format(a.text(0), a[1].([]starlark.Value))
				if err != nil {
					return nil, err
				}
				return nil, c.emit(s)
			}},
		{Name: "sprintf", Group: g, Scripts: true, NoTarget: true, Summary: "Text with values in it, as in C and in .printf: `%d` `%u` `%x` `%X` `%o` `%b` numbers, `%c` a character, `%s` any value, `%p` an address as the debugger shows it, `%y` the name of an address, `%f` `%e` `%g` floating point, `%%`. Width, precision and the flags `-`, `0`, `+`, `#` and blank stand behind the %; `*` takes the width from the values. (Starlark's own % knows no width.)",
			Params: []Param{{Name: "format", Kind: Text, Doc: "the text"}, {Name: "values", Kind: Rest, Doc: "one for each place"}}, Returns: "text", Example: `sprintf("%08x", 0x1234)`,
			run: func(c *invocation, a args) (any, error) { return c.format(a.text(0), a[1].([]starlark.Value)) }},
	}
}

// emit writes to where commands write, within the limit.
func (c *invocation) emit(s string) error {
	if c.b.written += len(s); c.b.written > c.b.lim.Output {
		return c.b.fail(&LimitError{fmt.Sprintf("it has written more than %d KiB, which is the limit", c.b.lim.Output>>10)})
	}
	_, err := c.host.Output().Write([]byte(s))
	return err
}

// format is sprintf.
func (c *invocation) format(f string, values []starlark.Value) (string, error) {
	var b strings.Builder
	next := 0
	bad := func(form string, args ...any) error {
		return &ArgError{"sprintf", "format", fmt.Errorf(form, args...)}
	}
	take := func(verb string) (starlark.Value, error) {
		if next >= len(values) {
			return nil, bad("there is no value for %s", verb)
		}
		next++
		return values[next-1], nil
	}
	for i := 0; i < len(f); i++ {
		if f[i] != '%' {
			b.WriteByte(f[i])
			continue
		}
		start := i
		i++
		flags := ""
		for i < len(f) && strings.IndexByte("-0+# ", f[i]) >= 0 {
			flags += f[i : i+1]
			i++
		}
		count := func() (string, error) {
			if i < len(f) && f[i] == '*' {
				i++
				v, err := take("*")
				if err != nil {
					return "", err
				}
				n, err := starlark.AsInt32(v)
				if err != nil || n < -4096 || n > 4096 {
					return "", bad("a width is a number up to 4096")
				}
				if n < 0 {
					flags += "-"
					n = -n
				}
				return strconv.Itoa(n), nil
			}
			from := i
			for i < len(f) && f[i] >= '0' && f[i] <= '9' {
				i++
			}
			if n, _ := strconv.Atoi(f[from:i]); n > 4096 || i-from > 4 {
				return "", bad("a width is a number up to 4096")
			}
			return f[from:i], nil
		}
		width, err := count()
		if err != nil {
			return "", err
		}
		precision := ""
		if i < len(f) && f[i] == '.' {
			i++
			if precision, err = count(); err != nil {
				return "", err
			}
			precision = "." + precision
		}
		for i < len(f) && strings.IndexByte("lhIw", f[i]) >= 0 { // sizes of C mean nothing here
			if strings.HasPrefix(f[i:], "I64") {
				i += 2
			}
			i++
		}
		if i >= len(f) {
			return "", bad("%q ends the text", f[start:])
		}
		verb := f[i]
		if verb == '%' {
			b.WriteByte('%')
			continue
		}
		v, err := take(f[start : i+1])
		if err != nil {
			return "", err
		}
		spec := "%" + flags + width + precision
		switch verb {
		case 'd', 'i', 'u', 'x', 'X', 'o', 'b':
			n, err := integer(v)
			if err != nil {
				return "", bad("%s takes a number, not a %s", f[start:i+1], v.Type())
			}
			if verb == 'i' || verb == 'u' {
				verb = 'd'
			} else if verb != 'd' && n.Sign() < 0 {
				n = new(big.Int).And(n, new(big.Int).SetUint64(^uint64(0))) // as the target has it
			}
			fmt.Fprintf(&b, spec+string(verb), n)
		case 'e', 'f', 'g', 'E', 'G':
			x, ok := starlark.AsFloat(v)
			if !ok {
				return "", bad("%s takes a number, not a %s", f[start:i+1], v.Type())
			}
			fmt.Fprintf(&b, spec+string(verb), x)
		case 'c':
			n, err := starlark.AsInt32(v)
			if s, ok := starlark.AsString(v); ok {
				fmt.Fprintf(&b, spec+"s", s)
			} else if err != nil || n < 0 || n > 0x10FFFF {
				return "", bad("%s takes a character", f[start:i+1])
			} else {
				fmt.Fprintf(&b, spec+"c", rune(n))
			}
		case 's':
			s, err := plainText(v)
			if err != nil {
				return "", err
			}
			fmt.Fprintf(&b, "%"+strings.ReplaceAll(flags, "0", "")+width+precision+"s", s)
		case 'p', 'y':
			x, err := c.argument(&Param{Kind: Address}, v)
			if _, text := v.(starlark.String); err != nil || text {
				return "", bad("%s takes an address, not a %s", f[start:i+1], v.Type())
			}
			at := x.(uint64)
			s := c.m.e.FormatAddr(at)
			if verb == 'y' {
				if err := c.loadSymbols(at); err != nil {
					return "", err
				}
				if n := c.m.e.Symbolize(at); n != "" {
					s = n
				}
			}
			fmt.Fprintf(&b, "%"+strings.ReplaceAll(flags, "0", "")+width+"s", s)
		default:
			return "", bad("%%%c is not known: d u x X o b c s p y f e g %%", verb)
		}
		if b.Len() > maxText {
			return "", tooLarge(starlark.String(""))
		}
	}
	if next < len(values) {
		return "", &ArgError{"sprintf", "values", fmt.Errorf("%d values are left over", len(values)-next)}
	}
	return b.String(), nil
}

func integer(v starlark.Value) (*big.Int, error) {
	switch x := v.(type) {
	case starlark.Int:
		return x.BigInt(), nil
	case starlark.Bool:
		if x {
			return big.NewInt(1), nil
		}
		return new(big.Int), nil
	}
	if t, ok := asTyped(v); ok {
		return new(big.Int).SetUint64(t.addr), nil
	}
	return nil, errors.New("no number")
}

func scriptFuncs() []*Func {
	const g = "The script itself"
	return []*Func{
		{Name: "command", Group: g, Scripts: true, NoTarget: true, Summary: "Makes a function a command: `!name arguments`. The function has no parameter, or one that gets the arguments as they were typed. Its documentation string is the help.",
			Params:  []Param{{Name: "function", Kind: Function, Doc: "the function"}, {Name: "name", Kind: Text, Optional: true, Doc: "the command's name, without !; the function's name if not given"}, {Name: "help", Kind: Text, Optional: true, Doc: "instead of the documentation string"}},
			Returns: "the function", Example: `command(processes, "ps")`, run: declare},
		{Name: "words", Group: g, Scripts: true, NoTarget: true, Summary: "Splits arguments at blanks; double quotes keep a word together.", Params: []Param{{Name: "text", Kind: Text, Doc: "the arguments"}}, Returns: "a list of text", Example: `words(args)`,
			run: func(c *invocation, a args) (any, error) {
				out := []any{}
				for t := strings.TrimSpace(a.text(0)); t != ""; t = strings.TrimSpace(t) {
					if t[0] == '"' {
						w, rest, _ := strings.Cut(t[1:], `"`)
						out, t = append(out, w), rest
						continue
					}
					n := strings.IndexAny(t, " \t")
					if n < 0 {
						n = len(t)
					}
					out, t = append(out, t[:n]), t[n:]
				}
				return out, nil
			}},
	}
}

// maxCommands bounds the commands of an extension.
const maxCommands = 1000

func declare(c *invocation, a args) (any, error) {
	f := a[0].(starlark.Callable)
	name := a.text(1)
	if name == "" {
		name = f.Name()
	}
	ok := name != "" && name != "lambda" && len(name) <= 64
	for _, r := range name {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_')
	}
	if !ok {
		return nil, &ArgError{"command", "name", fmt.Errorf("%q is no name of a command: letters, digits and _; a lambda needs a name", brief.Text(name, 80))}
	}
	help := a.text(2)
	cmd := &scriptCommand{name: name, f: f, args: true}
	if fn, ok := f.(*starlark.Function); ok {
		if help == "" {
			help = fn.Doc()
		}
		required := fn.NumParams()
		if fn.HasVarargs() {
			required--
		}
		if fn.HasKwargs() {
			required--
		}
		for i := range required {
			if fn.ParamDefault(i) != nil && i > 0 {
				required = i
				break
			}
		}
		if required > 1 {
			return nil, &ArgError{"command", "function", fmt.Errorf("%s has %d parameters: a command has one, which gets its arguments, or none", fn.Name(), required)}
		}
		cmd.args = fn.NumParams() > 0
	}
	cmd.help = dedent(strings.ToValidUTF8(help, "\ufffd"))
	c.ext.commands = slices.DeleteFunc(c.ext.commands, func(x *scriptCommand) bool { return x.name == name })
	if len(c.ext.commands) >= maxCommands {
		return nil, fmt.Errorf("an extension has at most %d commands", maxCommands)
	}
	c.ext.commands = append(c.ext.commands, cmd)
	return f, nil
}

// dedent takes the indentation off a documentation string.
func dedent(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	least := -1
	for _, l := range lines[1:] {
		if t := strings.TrimLeft(l, " \t"); t != "" && (least < 0 || len(l)-len(t) < least) {
			least = len(l) - len(t)
		}
	}
	for i, l := range lines {
		if i > 0 && least > 0 && len(l) >= least {
			l = l[least:]
		}
		lines[i] = strings.TrimRight(l, " \t\r")
	}
	return strings.Join(lines, "\n")
}
