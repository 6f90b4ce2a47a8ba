package extension

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"go.starlark.net/starlark"

	"openkd/engine"
)

// Version is that of the API. Its first number changes when something is taken
// away or changes its meaning.
const Version = "1.0"

// Kind is what a parameter takes.
type Kind uint8

// Kinds of parameters.
const (
	AnyValue   Kind = iota
	Address         // a number, a typed value, or text: an expression of the command language
	Int             // a number
	Text            // text
	Bytes           // bytes
	Bool            // True or False
	Function        // a function
	Ranges          // a list of (address, size)
	TypeName        // "nt!_EPROCESS", or a typed value
	TypedOnly       // a typed value
	TextList        // a list of text
	Rest            // all further values
	AnyAddress      // an address, but text is a name
)

var kindNames = [...]string{"value", "address", "number", "text", "bytes", "flag", "function", "ranges", "type", "typed value", "list of text", "values", "name or address"}

func (k Kind) String() string { return kindNames[k] }

// Param is a parameter of a function.
type Param struct {
	Name    string
	Kind    Kind
	Default any // of a Go type; nil with Optional: nothing
	// Optional ones can be left out.
	Optional bool
	Min, Max int64 // of an Int; 0, 0: any of 64 bits
	Doc      string
}

// Func is a function of the API.
type Func struct {
	Name    string
	Group   string
	Summary string
	Params  []Param
	Returns string
	Example string
	// Scripts marks what only scripts can call, not programs in the JSON mode.
	Scripts bool
	// NoTarget marks what needs no halted target.
	NoTarget bool

	run func(c *invocation, a args) (any, error)
}

// Signature is the call as it is written, with defaults.
func (f *Func) Signature() string {
	var l []string
	for _, p := range f.Params {
		switch {
		case p.Kind == Rest:
			l = append(l, "*"+p.Name)
		case !p.Optional:
			l = append(l, p.Name)
		default:
			l = append(l, p.Name+"="+defaultText(p.Default))
		}
	}
	return f.Name + "(" + strings.Join(l, ", ") + ")"
}

func defaultText(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		return map[bool]string{true: "True", false: "False"}[v]
	case string:
		return strconv.Quote(v)
	}
	return fmt.Sprint(v)
}

// ArgError is a mistake in the arguments of a call.
type ArgError struct {
	Func, Param string
	Err         error
}

func (e *ArgError) Error() string {
	switch {
	case e.Func == "" && e.Param == "": // where it is shown stands the function already
		return e.Err.Error()
	case e.Func == "":
		return fmt.Sprintf("argument %s: %v", e.Param, e.Err)
	case e.Param == "":
		return fmt.Sprintf("%s: %v", e.Func, e.Err)
	}
	return fmt.Sprintf("%s: argument %s: %v", e.Func, e.Param, e.Err)
}

func (e *ArgError) Unwrap() error { return e.Err }

// args are the arguments of a call in the order of the parameters, converted.
type args []any

func (a args) addr(i int) uint64 { v, _ := a[i].(uint64); return v }
func (a args) num(i int) int64   { v, _ := a[i].(int64); return v }
func (a args) text(i int) string { v, _ := a[i].(string); return v }
func (a args) flag(i int) bool   { v, _ := a[i].(bool); return v }
func (a args) bytes(i int) []byte {
	v, _ := a[i].([]byte)
	return v
}
func (a args) given(i int) bool { return a[i] != nil }

func defaultOf(p *Param) any {
	switch v := p.Default.(type) {
	case int:
		return int64(v)
	default:
		return v
	}
}

// number checks an Int.
func (p *Param) number(v int64) (any, error) {
	if (p.Min != 0 || p.Max != 0) && (v < p.Min || v > p.Max) {
		return nil, fmt.Errorf("%d is not within %d to %d", v, p.Min, p.Max)
	}
	return v, nil
}

// fromStarlark converts the arguments of a script's call.
func (c *invocation) fromStarlark(f *Func, given starlark.Tuple, kwargs []starlark.Tuple) (args, error) {
	out := make(args, len(f.Params))
	set := make([]bool, len(f.Params))
	bad := func(p *Param, err error) error { return &ArgError{f.Name, p.Name, err} }
	for i := range f.Params {
		p := &f.Params[i]
		if p.Kind == Rest {
			out[i], set[i] = []starlark.Value(given[min(i, len(given)):]), true
			given = given[:min(i, len(given))]
			break
		}
		out[i] = defaultOf(p)
	}
	if len(given) > len(f.Params) {
		return nil, &ArgError{f.Name, "", fmt.Errorf("%d arguments are too many: %s", len(given), f.Signature())}
	}
	take := func(i int, v starlark.Value) error {
		p := &f.Params[i]
		set[i] = true
		if v == starlark.None && p.Optional {
			return nil
		}
		x, err := c.argument(p, v)
		if err != nil {
			return bad(p, err)
		}
		out[i] = x
		return nil
	}
	for i, v := range given {
		if err := take(i, v); err != nil {
			return nil, err
		}
	}
	for _, kv := range kwargs {
		name, _ := starlark.AsString(kv[0])
		i := f.param(name)
		switch {
		case i < 0:
			return nil, &ArgError{f.Name, "", fmt.Errorf("there is no argument %s: %s", name, f.Signature())}
		case set[i]:
			return nil, &ArgError{f.Name, name, errors.New("it is given twice")}
		}
		if err := take(i, kv[1]); err != nil {
			return nil, err
		}
	}
	return out, f.complete(set)
}

func (f *Func) param(name string) int {
	for i := range f.Params {
		if f.Params[i].Name == name && f.Params[i].Kind != Rest {
			return i
		}
	}
	return -1
}

func (f *Func) complete(set []bool) error {
	for i := range f.Params {
		if !set[i] && !f.Params[i].Optional && f.Params[i].Kind != Rest {
			return &ArgError{f.Name, "", fmt.Errorf("argument %s is missing: %s", f.Params[i].Name, f.Signature())}
		}
	}
	return nil
}

func wrong(p *Param, v starlark.Value) error {
	return fmt.Errorf("%s is expected, not %s", article(p.Kind.String()), article(v.Type()))
}

func article(noun string) string {
	switch {
	case noun == "bytes", noun == "ranges", noun == "values", noun == "NoneType":
		return noun
	case strings.ContainsRune("aeiou", rune(noun[0])):
		return "an " + noun
	}
	return "a " + noun
}

// bits64 is an int of a script as 64 bits; negative ones as their complement.
func bits64(v starlark.Int) (uint64, bool) {
	if u, ok := v.Uint64(); ok {
		return u, true
	}
	i, ok := v.Int64()
	return uint64(i), ok
}

func (c *invocation) argument(p *Param, v starlark.Value) (any, error) {
	switch p.Kind {
	case Address:
		switch v := v.(type) {
		case starlark.Int:
			u, ok := bits64(v)
			if !ok {
				return nil, errors.New("it has more than 64 bits")
			}
			return c.m.canon(u), nil
		case starlark.String:
			return c.eval(string(v))
		}
		if t, ok := asTyped(v); ok {
			return t.addr, nil
		}
	case Int:
		if v, ok := v.(starlark.Int); ok {
			u, ok := bits64(v)
			if !ok {
				return nil, errors.New("it has more than 64 bits")
			}
			return p.number(int64(u))
		}
	case Text:
		if s, ok := starlark.AsString(v); ok {
			return s, nil
		}
	case Bytes:
		switch v := v.(type) {
		case starlark.Bytes:
			return []byte(v), nil
		case starlark.String:
			return []byte(v), nil
		case *starlark.List:
			b := make([]byte, v.Len())
			for i := range b {
				n, err := starlark.AsInt32(v.Index(i))
				if err != nil || n < 0 || n > 255 {
					return nil, fmt.Errorf("element %d is no byte", i)
				}
				b[i] = byte(n)
			}
			return b, nil
		}
	case Bool:
		if b, ok := v.(starlark.Bool); ok {
			return bool(b), nil
		}
	case Function:
		if f, ok := v.(starlark.Callable); ok {
			return f, nil
		}
	case AnyAddress:
		if s, ok := starlark.AsString(v); ok {
			return s, nil
		}
		return c.argument(&Param{Kind: Address}, v)
	case TypeName:
		if s, ok := starlark.AsString(v); ok {
			return s, nil
		}
		if t, ok := asTyped(v); ok {
			return t, nil
		}
	case TypedOnly:
		if t, ok := asTyped(v); ok {
			return t, nil
		}
	case TextList:
		if it := starlark.Iterate(v); it != nil {
			if _, text := v.(starlark.String); text {
				it.Done()
				break
			}
			defer it.Done()
			l := []string{}
			for x := starlark.Value(nil); it.Next(&x); {
				s, ok := starlark.AsString(x)
				if !ok || len(l) > 4096 {
					return nil, fmt.Errorf("element %d is no text", len(l))
				}
				l = append(l, s)
			}
			return l, nil
		}
	case Ranges:
		it := starlark.Iterate(v)
		if it == nil {
			break
		}
		defer it.Done()
		var l []engine.Range
		for x := starlark.Value(nil); it.Next(&x); {
			pair, ok := x.(starlark.Indexable)
			if !ok || pair.Len() != 2 {
				return nil, fmt.Errorf("element %d is no (address, size)", len(l))
			}
			a, err := c.argument(&Param{Kind: Address}, pair.Index(0))
			if err != nil {
				return nil, fmt.Errorf("element %d: %w", len(l), err)
			}
			n, err := starlark.AsInt32(pair.Index(1))
			if err != nil {
				return nil, fmt.Errorf("element %d: the size: %w", len(l), err)
			}
			l = append(l, engine.Range{Addr: a.(uint64), Len: n})
			if len(l) > maxRanges {
				return nil, errRanges
			}
		}
		return l, nil
	case AnyValue:
		return v, nil
	}
	return nil, wrong(p, v)
}

// maxRanges is that of one batch.
const maxRanges = 4096

var errRanges = fmt.Errorf("more than %d ranges", maxRanges)

// fromJSON converts the arguments of a program's call.
func (c *invocation) fromJSON(f *Func, raw json.RawMessage) (args, error) {
	given := map[string]any{}
	if len(raw) > 0 {
		d := json.NewDecoder(strings.NewReader(string(raw)))
		d.UseNumber()
		if err := d.Decode(&given); err != nil || given == nil {
			return nil, &ArgError{f.Name, "", errors.New(`"args" is an object with the arguments by name`)}
		}
	}
	out := make(args, len(f.Params))
	set := make([]bool, len(f.Params))
	for i := range f.Params {
		p := &f.Params[i]
		out[i] = defaultOf(p)
		v, ok := given[p.Name]
		if !ok {
			continue
		}
		delete(given, p.Name)
		set[i] = true
		if v == nil && p.Optional {
			continue
		}
		x, err := c.jsonArgument(p, v)
		if err != nil {
			return nil, &ArgError{f.Name, p.Name, err}
		}
		out[i] = x
	}
	for name := range given {
		return nil, &ArgError{f.Name, "", fmt.Errorf("there is no argument %.60q: %s", name, f.Signature())}
	}
	return out, f.complete(set)
}

func (c *invocation) jsonArgument(p *Param, v any) (any, error) {
	switch p.Kind {
	case Address:
		switch v := v.(type) {
		case json.Number:
			u, err := jsonBits(v)
			return c.m.canon(u), err
		case string:
			return c.eval(v)
		}
	case Int:
		var u uint64
		var err error
		switch v := v.(type) {
		case json.Number:
			u, err = jsonBits(v)
		case string:
			u, err = jsonBits(json.Number(v))
		default:
			return nil, errors.New("a number is expected")
		}
		if err != nil {
			return nil, err
		}
		return p.number(int64(u))
	case AnyAddress:
		if s, ok := v.(string); ok && !strings.HasPrefix(s, "0x") {
			return s, nil
		}
		return c.jsonArgument(&Param{Kind: Address}, v)
	case Text, TypeName:
		if s, ok := v.(string); ok {
			return s, nil
		}
	case Bytes:
		if s, ok := v.(string); ok {
			b, err := hex.DecodeString(s)
			if err != nil {
				return nil, fmt.Errorf("bytes are hexadecimal digits: %w", err)
			}
			return b, nil
		}
	case Bool:
		if b, ok := v.(bool); ok {
			return b, nil
		}
	case TextList:
		if l, ok := v.([]any); ok {
			out := []string{}
			for i, x := range l {
				s, ok := x.(string)
				if !ok || i > 4096 {
					return nil, fmt.Errorf("element %d is no text", i)
				}
				out = append(out, s)
			}
			return out, nil
		}
	case Ranges:
		l, ok := v.([]any)
		if !ok {
			break
		}
		var out []engine.Range
		for i, x := range l {
			pair, ok := x.([]any)
			if !ok || len(pair) != 2 {
				return nil, fmt.Errorf("element %d is no [address, size]", i)
			}
			a, err := c.jsonArgument(&Param{Kind: Address}, pair[0])
			if err != nil {
				return nil, fmt.Errorf("element %d: %w", i, err)
			}
			n, err := c.jsonArgument(&Param{Kind: Int, Min: 0, Max: math.MaxInt32}, pair[1])
			if err != nil {
				return nil, fmt.Errorf("element %d: %w", i, err)
			}
			if out = append(out, engine.Range{Addr: a.(uint64), Len: int(n.(int64))}); len(out) > maxRanges {
				return nil, errRanges
			}
		}
		return out, nil
	case Rest:
		return nil, errors.New("only scripts give it")
	case AnyValue, TypedOnly, Function:
		return nil, fmt.Errorf("only scripts have a %s", p.Kind)
	}
	return nil, fmt.Errorf("%s is expected", article(p.Kind.String()))
}

func jsonBits(n json.Number) (uint64, error) {
	s := strings.TrimSpace(n.String())
	if u, err := strconv.ParseUint(s, 0, 64); err == nil {
		return u, nil
	}
	if i, err := strconv.ParseInt(s, 0, 64); err == nil {
		return uint64(i), nil
	}
	return 0, fmt.Errorf("%.40q is no number of 64 bits; 0x stands in front of hexadecimal digits", s)
}

// eval is an expression of the command language.
func (c *invocation) eval(text string) (uint64, error) {
	if c.host == nil {
		return 0, errors.New("there is no session")
	}
	c.b.rest()
	defer c.b.work()
	return c.host.Eval(c.ctx, text)
}

// Functions lists the API in the order of the reference.
func Functions() []*Func {
	var l []*Func
	for _, f := range []func() []*Func{
		memoryFuncs, registerFuncs, symbolFuncs, typeFuncs, moduleFuncs, stackFuncs, breakpointFuncs, eventFuncs, commandFuncs, outputFuncs, scriptFuncs,
	} {
		l = append(l, f()...)
	}
	return l
}

// invocation is one run of a script, or one call of a program.
type invocation struct {
	m        *Manager
	ctx      context.Context
	host     Host
	b        *budget
	ext      *Extension // nil: a program
	callback bool
}
