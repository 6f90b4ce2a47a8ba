package extension

import (
	"errors"
	"fmt"
	"strings"

	"go.starlark.net/starlark"
	"go.starlark.net/syntax"
)

// What a single value may hold. Everything larger is refused before it is made.
const (
	maxText     = 4 << 20  // bytes of a string
	maxBytes    = 16 << 20 // bytes of a bytes value
	maxElements = 1 << 20  // of a list, tuple, dict or set
	maxRange    = 1 << 24  // of a range, which is not stored
	maxBits     = 1 << 16  // of an int
	maxSource   = 512 << 10
	maxNesting  = 200 // of brackets in a source
)

// Names that no script can write, for the checks that its operators become.
const (
	opAdd     = "+"
	opMul     = "*"
	opMod     = "%"
	opShift   = "<<"
	opGrow    = "+="
	opAppend  = "x.y+="
	opMethod  = "x.y"
	guardMark = "<builtin>"
)

// guardedMethods make large values from small ones.
var guardedMethods = map[string]bool{
	"join": true, "replace": true, "format": true, "extend": true, "update": true, "union": true,
	"difference": true, "intersection": true, "symmetric_difference": true, "issubset": true, "issuperset": true,
}

// parse reads a source and puts the checks into it. Recursion of the parser
// follows the nesting of the source, so that is bounded first.
func parse(file string, src []byte) (*syntax.File, error) {
	if len(src) > maxSource {
		return nil, fmt.Errorf("%s is longer than %d KiB", file, maxSource>>10)
	}
	if line := tooDeep(src); line > 0 {
		return nil, fmt.Errorf("%s:%d: brackets nest deeper than %d levels", file, line, maxNesting)
	}
	opt := &syntax.FileOptions{Set: true, While: true, TopLevelControl: true, GlobalReassign: true, Recursion: true}
	f, err := opt.Parse(file, src, 0)
	if err != nil {
		return nil, err
	}
	r := &rewriter{}
	r.stmts(f.Stmts)
	return f, r.err
}

// tooDeep is the line where brackets nest too deep, 0 if none does.
func tooDeep(src []byte) int {
	depth, line := 0, 1
	var quote byte
	triple := false
	for i := 0; i < len(src); i++ {
		c := src[i]
		if c == '\n' {
			line++
			if quote != 0 && !triple {
				quote = 0
			}
			continue
		}
		if quote != 0 {
			switch {
			case c == '\\':
				if i+1 < len(src) && src[i+1] == '\n' {
					line++
				}
				i++
			case c == quote && !triple:
				quote = 0
			case c == quote && i+2 < len(src) && src[i+1] == quote && src[i+2] == quote:
				quote, i = 0, i+2
			}
			continue
		}
		switch c {
		case '#':
			for i+1 < len(src) && src[i+1] != '\n' {
				i++
			}
		case '"', '\'':
			quote = c
			if triple = i+2 < len(src) && src[i+1] == c && src[i+2] == c; triple {
				i += 2
			}
		case '(', '[', '{':
			if depth++; depth > maxNesting {
				return line
			}
		case ')', ']', '}':
			depth = max(depth-1, 0)
		}
	}
	return 0
}

// rewriter turns operators and methods that can make something large into calls
// of their checks.
type rewriter struct{ err error }

func (r *rewriter) stmts(list []syntax.Stmt) {
	for _, s := range list {
		r.stmt(s)
	}
}

func (r *rewriter) stmt(s syntax.Stmt) {
	switch s := s.(type) {
	case *syntax.AssignStmt:
		r.assign(s)
	case *syntax.DefStmt:
		r.params(s.Params)
		r.stmts(s.Body)
	case *syntax.ExprStmt:
		s.X = r.expr(s.X)
	case *syntax.IfStmt:
		s.Cond = r.expr(s.Cond)
		r.stmts(s.True)
		r.stmts(s.False)
	case *syntax.ForStmt:
		s.Vars, s.X = r.target(s.Vars), r.expr(s.X)
		r.stmts(s.Body)
	case *syntax.WhileStmt:
		s.Cond = r.expr(s.Cond)
		r.stmts(s.Body)
	case *syntax.ReturnStmt:
		if s.Result != nil {
			s.Result = r.expr(s.Result)
		}
	}
}

var augmented = map[syntax.Token]string{
	syntax.PLUS_EQ: opGrow, syntax.STAR_EQ: opMul, syntax.PERCENT_EQ: opMod, syntax.LTLT_EQ: opShift,
}

func (r *rewriter) assign(s *syntax.AssignStmt) {
	name, plain := unparen(s.LHS).(*syntax.Ident)
	s.LHS, s.RHS = r.target(s.LHS), r.expr(s.RHS)
	check := augmented[s.Op]
	switch {
	case check == "":
	case plain:
		same := &syntax.Ident{NamePos: name.NamePos, Name: name.Name}
		s.RHS = call(check, s.OpPos, same, s.RHS)
		if s.Op != syntax.PLUS_EQ { // which changes a list in place
			s.Op = syntax.EQ
		}
	case s.Op == syntax.PLUS_EQ:
		s.RHS = call(opAppend, s.OpPos, s.RHS)
	default:
		op := strings.TrimSuffix(s.Op.String(), "=")
		r.fail(syntax.Error{Pos: s.OpPos, Msg: fmt.Sprintf("%s works on names only here: write x[i] = x[i] %s y", s.Op, op)})
	}
}

func (r *rewriter) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

func unparen(x syntax.Expr) syntax.Expr {
	for {
		p, ok := x.(*syntax.ParenExpr)
		if !ok {
			return x
		}
		x = p.X
	}
}

// target is what is assigned to: its names stay.
func (r *rewriter) target(x syntax.Expr) syntax.Expr {
	switch x := x.(type) {
	case *syntax.DotExpr:
		x.X = r.expr(x.X)
	case *syntax.IndexExpr:
		x.X, x.Y = r.expr(x.X), r.expr(x.Y)
	case *syntax.ParenExpr:
		x.X = r.target(x.X)
	case *syntax.TupleExpr:
		for i := range x.List {
			x.List[i] = r.target(x.List[i])
		}
	case *syntax.ListExpr:
		for i := range x.List {
			x.List[i] = r.target(x.List[i])
		}
	}
	return x
}

// params has defaults rewritten.
func (r *rewriter) params(list []syntax.Expr) {
	for _, p := range list {
		if b, ok := p.(*syntax.BinaryExpr); ok && b.Op == syntax.EQ {
			b.Y = r.expr(b.Y)
		}
	}
}

func (r *rewriter) list(list []syntax.Expr) {
	for i := range list {
		list[i] = r.expr(list[i])
	}
}

var operators = map[syntax.Token]string{syntax.PLUS: opAdd, syntax.STAR: opMul, syntax.PERCENT: opMod, syntax.LTLT: opShift}

func (r *rewriter) expr(x syntax.Expr) syntax.Expr {
	switch x := x.(type) {
	case *syntax.BinaryExpr:
		x.X, x.Y = r.expr(x.X), r.expr(x.Y)
		if check := operators[x.Op]; check != "" {
			return call(check, x.OpPos, x.X, x.Y)
		}
	case *syntax.CallExpr:
		x.Fn = r.expr(x.Fn)
		for i, a := range x.Args {
			switch a := a.(type) {
			case *syntax.BinaryExpr:
				if a.Op == syntax.EQ { // name=value
					a.Y = r.expr(a.Y)
					continue
				}
			case *syntax.UnaryExpr:
				if a.Op == syntax.STAR || a.Op == syntax.STARSTAR {
					a.X = r.expr(a.X)
					continue
				}
			}
			x.Args[i] = r.expr(a)
		}
	case *syntax.Comprehension:
		x.Body = r.expr(x.Body)
		for _, c := range x.Clauses {
			switch c := c.(type) {
			case *syntax.ForClause:
				c.Vars, c.X = r.target(c.Vars), r.expr(c.X)
			case *syntax.IfClause:
				c.Cond = r.expr(c.Cond)
			}
		}
	case *syntax.CondExpr:
		x.Cond, x.True, x.False = r.expr(x.Cond), r.expr(x.True), r.expr(x.False)
	case *syntax.DictEntry:
		x.Key, x.Value = r.expr(x.Key), r.expr(x.Value)
	case *syntax.DictExpr:
		r.list(x.List)
	case *syntax.DotExpr:
		x.X = r.expr(x.X)
		if guardedMethods[x.Name.Name] {
			name := &syntax.Literal{Token: syntax.STRING, TokenPos: x.NamePos, Raw: x.Name.Name, Value: x.Name.Name}
			return call(opMethod, x.Dot, x.X, name)
		}
	case *syntax.IndexExpr:
		x.X, x.Y = r.expr(x.X), r.expr(x.Y)
	case *syntax.LambdaExpr:
		r.params(x.Params)
		x.Body = r.expr(x.Body)
	case *syntax.ListExpr:
		r.list(x.List)
	case *syntax.ParenExpr:
		x.X = r.expr(x.X)
	case *syntax.SliceExpr:
		x.X = r.expr(x.X)
		for _, p := range []*syntax.Expr{&x.Lo, &x.Hi, &x.Step} {
			if *p != nil {
				*p = r.expr(*p)
			}
		}
	case *syntax.TupleExpr:
		r.list(x.List)
	case *syntax.UnaryExpr:
		if x.X != nil {
			x.X = r.expr(x.X)
		}
	}
	return x
}

func call(check string, pos syntax.Position, args ...syntax.Expr) syntax.Expr {
	return &syntax.CallExpr{Fn: &syntax.Ident{NamePos: pos, Name: check}, Lparen: pos, Args: args, Rparen: pos}
}

// length is how many elements or bytes a value has, -1 for one that has none.
func length(v starlark.Value) int {
	switch v := v.(type) {
	case starlark.String:
		return len(v)
	case starlark.Bytes:
		return len(v)
	}
	return starlark.Len(v)
}

// limitOf is how long a value like v may be.
func limitOf(v starlark.Value) int {
	switch v.(type) {
	case starlark.String:
		return maxText
	case starlark.Bytes:
		return maxBytes
	}
	return maxElements
}

// tooLarge says of which kind of value too much was asked for.
func tooLarge(v starlark.Value) error {
	switch v.(type) {
	case starlark.String:
		return fmt.Errorf("the string would be longer than %d MiB", maxText>>20)
	case starlark.Bytes:
		return fmt.Errorf("the bytes would be more than %d MiB", maxBytes>>20)
	case starlark.Int:
		return fmt.Errorf("the number would have more than %d bits", maxBits)
	}
	return fmt.Errorf("the %s would have more than %d elements", v.Type(), maxElements)
}

// room checks that x may grow by y and charges the result.
func room(t *starlark.Thread, x, y starlark.Value) error {
	n, m := length(x), length(y)
	if n < 0 || m < 0 {
		return nil
	}
	if n+m > limitOf(x) {
		return tooLarge(x)
	}
	return charge(t, size(x, n+m))
}

// size is about how many bytes n elements of a value like v take.
func size(v starlark.Value, n int) int {
	switch v.(type) {
	case starlark.String, starlark.Bytes:
		return n
	}
	return 16 * n
}

func checkBits(n int) error {
	if n > maxBits {
		return tooLarge(starlark.MakeInt(0))
	}
	return nil
}

func bitsOf(v starlark.Value) int {
	i, ok := v.(starlark.Int)
	if !ok {
		return 0
	}
	if _, small := i.Int64(); small {
		return 64
	}
	return i.BigInt().BitLen()
}

// repeat checks x * y where one is a count.
func repeat(t *starlark.Thread, x, y starlark.Value) error {
	n, ok := y.(starlark.Int)
	if !ok {
		if n, ok = x.(starlark.Int); !ok {
			return nil
		}
		x = y
	}
	if _, both := x.(starlark.Int); both {
		if a, b := bitsOf(x), bitsOf(n); a > 64 || b > 64 {
			return checkBits(a + b)
		}
		return nil
	}
	l := length(x)
	if l <= 0 || n.Sign() <= 0 {
		return nil
	}
	count, ok := n.Int64()
	if !ok || count > int64(limitOf(x)/l) {
		return tooLarge(x)
	}
	return charge(t, size(x, l*int(count)))
}

// formatted checks x % y, and turns what would be written without bound into
// text.
func formatted(t *starlark.Thread, x, y starlark.Value) (starlark.Value, error) {
	s, ok := x.(starlark.String)
	if !ok {
		return y, nil
	}
	verbs := strings.Count(string(s), "%")
	total := len(s)
	switch a := y.(type) {
	case starlark.Tuple:
		args := make(starlark.Tuple, len(a))
		for i, v := range a {
			v, n, err := bounded(v)
			if err != nil {
				return nil, err
			}
			args[i] = v
			if total += n; total > maxText {
				return nil, tooLarge(s)
			}
		}
		y = args
	case *starlark.Dict:
		args := starlark.NewDict(a.Len())
		most := 0
		for _, item := range a.Items() {
			v, n, err := bounded(item[1])
			if err != nil {
				return nil, err
			}
			most = max(most, n)
			if err := args.SetKey(item[0], v); err != nil {
				return nil, err
			}
		}
		total += verbs * most
		y = args
	default:
		v, n, err := bounded(y)
		if err != nil {
			return nil, err
		}
		y, total = v, total+n
	}
	if total > maxText {
		return nil, tooLarge(s)
	}
	return y, charge(t, total)
}

// rendered is a value that was written already.
type rendered struct {
	starlark.Value
	text string
}

func (r rendered) String() string { return r.text }

// bounded is a value that can be written in at most n bytes.
func bounded(v starlark.Value) (starlark.Value, int, error) {
	switch x := v.(type) {
	case starlark.String:
		return v, 6*len(x) + 2, nil // as %r might write it
	case starlark.Bytes:
		return v, 6*len(x) + 3, nil
	case starlark.Int:
		return v, bitsOf(v)/3 + 2, nil
	case starlark.NoneType, starlark.Bool, starlark.Float:
		return v, 400, nil
	}
	text, err := textOf(v)
	return rendered{v, text}, len(text), err
}

// guards are the checks, by the names that the rewriter gives them.
func guards() starlark.StringDict {
	d := starlark.StringDict{}
	binary := func(name string, op syntax.Token, check func(t *starlark.Thread, x, y starlark.Value) (starlark.Value, error)) {
		d[name] = starlark.NewBuiltin(name, func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
			x, y := args[0], args[1]
			y, err := check(t, x, y)
			if err != nil {
				return nil, err
			}
			return starlark.Binary(op, x, y)
		})
	}
	binary(opAdd, syntax.PLUS, func(t *starlark.Thread, x, y starlark.Value) (starlark.Value, error) { return y, room(t, x, y) })
	binary(opMul, syntax.STAR, func(t *starlark.Thread, x, y starlark.Value) (starlark.Value, error) { return y, repeat(t, x, y) })
	binary(opMod, syntax.PERCENT, formatted)
	binary(opShift, syntax.LTLT, func(t *starlark.Thread, x, y starlark.Value) (starlark.Value, error) {
		n, _ := starlark.AsInt32(y)
		return y, checkBits(bitsOf(x) + max(n, 0))
	})
	d[opGrow] = starlark.NewBuiltin(opGrow, func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
		return args[1], room(t, args[0], args[1])
	})
	// What grows is not known here, so it grows by a piece of bounded size.
	d[opAppend] = starlark.NewBuiltin(opAppend, func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
		if n := length(args[0]); n > limitOf(args[0])/4 {
			return nil, tooLarge(args[0])
		} else if n > 0 {
			// The whole is copied, whatever it has.
			return args[0], charge(t, limitOf(args[0])/16+size(args[0], n))
		}
		return args[0], nil
	})
	d[opMethod] = starlark.NewBuiltin(opMethod, func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, _ []starlark.Tuple) (starlark.Value, error) {
		name, _ := starlark.AsString(args[1])
		return method(args[0], name)
	})
	return d
}

// method is x.name, with its check where it needs one.
func method(x starlark.Value, name string) (starlark.Value, error) {
	h, ok := x.(starlark.HasAttrs)
	if !ok {
		return nil, fmt.Errorf("%s has no .%s field or method", x.Type(), name)
	}
	v, err := h.Attr(name)
	if err == nil && v == nil {
		err = starlark.NoSuchAttrError(fmt.Sprintf("%s has no .%s field or method", x.Type(), name))
	}
	if err != nil {
		return nil, err
	}
	b, ok := v.(*starlark.Builtin)
	if !ok || !guardedMethods[name] {
		return v, nil
	}
	return starlark.NewBuiltin(name, func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		args, kwargs, err := checkMethod(t, x, name, args, kwargs)
		if err != nil {
			return nil, err
		}
		return b.CallInternal(t, args, kwargs)
	}), nil
}

func checkMethod(t *starlark.Thread, x starlark.Value, name string, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Tuple, []starlark.Tuple, error) {
	s, text := x.(starlark.String)
	switch {
	case text && name == "join":
		if len(args) != 1 {
			break
		}
		total, n := 0, 0
		it := starlark.Iterate(args[0])
		if it == nil {
			break
		}
		defer it.Done()
		var v starlark.Value
		for it.Next(&v) {
			e, ok := starlark.AsString(v)
			if !ok {
				break // join says so
			}
			if total += len(e) + len(s); total > maxText || n > maxElements {
				return nil, nil, tooLarge(s)
			}
			n++
		}
		return args, kwargs, charge(t, total)
	case text && name == "replace":
		if len(args) < 2 {
			break
		}
		from, ok1 := starlark.AsString(args[0])
		to, ok2 := starlark.AsString(args[1])
		if ok1 && ok2 && len(to) > len(from) {
			n := strings.Count(string(s), from)
			if grow := len(to) - len(from); n > 0 && grow > (maxText-min(len(s), maxText))/n {
				return nil, nil, tooLarge(s)
			}
		}
		return args, kwargs, charge(t, len(s))
	case text && name == "format":
		most := 0
		fields := strings.Count(string(s), "{")
		out := make(starlark.Tuple, len(args))
		for i, a := range args {
			v, n, err := bounded(a)
			if err != nil {
				return nil, nil, err
			}
			out[i], most = v, max(most, n)
		}
		named := make([]starlark.Tuple, len(kwargs))
		for i, kv := range kwargs {
			v, n, err := bounded(kv[1])
			if err != nil {
				return nil, nil, err
			}
			named[i], most = starlark.Tuple{kv[0], v}, max(most, n)
		}
		if most > 0 && fields > maxText/most || len(s) > maxText {
			return nil, nil, tooLarge(s)
		}
		return out, named, charge(t, len(s)+fields*most)
	case name == "extend" && len(args) == 1:
		return args, kwargs, room(t, x, args[0])
	default:
		for _, a := range args {
			if n := starlark.Len(a); n > maxElements {
				return nil, nil, tooLarge(a)
			}
		}
		if n := starlark.Len(x); n > maxElements {
			return nil, nil, tooLarge(x)
		}
	}
	return args, kwargs, nil
}

// universe has those of Starlark's own builtins that must be checked.
func universe() starlark.StringDict {
	d := starlark.StringDict{}
	for _, name := range []string{"all", "any", "bytes", "dict", "enumerate", "list", "max", "min", "reversed", "set", "sorted", "tuple"} {
		inner := starlark.Universe[name].(*starlark.Builtin)
		d[name] = starlark.NewBuiltin(name, func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
			total := 0
			for _, a := range args {
				if _, ok := a.(starlark.String); ok {
					continue
				}
				n := starlark.Len(a)
				if n > maxElements {
					return nil, fmt.Errorf("%d elements are more than the %d that a list may have", n, maxElements)
				}
				total += max(n, 0)
			}
			if err := charge(t, 16*total); err != nil {
				return nil, err
			}
			return inner.CallInternal(t, args, kwargs)
		})
	}
	d["zip"] = starlark.NewBuiltin("zip", func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		least := -1
		for _, a := range args {
			if n := starlark.Len(a); n >= 0 && (least < 0 || n < least) {
				least = n
			}
		}
		if least > 0 && len(args) > maxElements/least {
			return nil, fmt.Errorf("%d tuples of %d elements are more than may be made", least, len(args))
		}
		if err := charge(t, 16*max(least, 0)*len(args)); err != nil {
			return nil, err
		}
		return starlark.Universe["zip"].(*starlark.Builtin).CallInternal(t, args, kwargs)
	})
	d["range"] = starlark.NewBuiltin("range", func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		v, err := starlark.Universe["range"].(*starlark.Builtin).CallInternal(t, args, kwargs)
		if err == nil && starlark.Len(v) > maxRange {
			return nil, fmt.Errorf("a range of %d numbers is longer than %d: use while", starlark.Len(v), maxRange)
		}
		return v, err
	})
	d["int"] = starlark.NewBuiltin("int", func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		if len(args) > 0 {
			if s, ok := starlark.AsString(args[0]); ok && len(s) > maxBits/4 {
				return nil, tooLarge(starlark.MakeInt(0))
			}
			if v, ok := asTyped(args[0]); ok && len(args) == 1 {
				return starlark.MakeUint64(v.addr), nil
			}
		}
		return starlark.Universe["int"].(*starlark.Builtin).CallInternal(t, args, kwargs)
	})
	d["getattr"] = starlark.NewBuiltin("getattr", func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		if len(args) >= 2 {
			if name, ok := starlark.AsString(args[1]); ok && guardedMethods[name] {
				v, err := method(args[0], name)
				if err != nil && len(args) > 2 {
					return args[2], nil
				}
				return v, err
			}
		}
		return starlark.Universe["getattr"].(*starlark.Builtin).CallInternal(t, args, kwargs)
	})
	write := func(name string, f func(v starlark.Value) (string, error)) {
		d[name] = starlark.NewBuiltin(name, func(t *starlark.Thread, b *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
			if len(args) != 1 || len(kwargs) > 0 {
				return nil, fmt.Errorf("%s takes one argument", name)
			}
			s, err := f(args[0])
			if err != nil {
				return nil, err
			}
			return starlark.String(s), charge(t, len(s))
		})
	}
	write("str", plainText)
	write("repr", textOf)
	d["fail"] = starlark.NewBuiltin("fail", func(t *starlark.Thread, _ *starlark.Builtin, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		s, err := joined(args, kwargs, " ")
		if err != nil {
			return nil, err
		}
		return nil, failure(s)
	})
	return d
}

// failure is what a script says with fail.
type failure string

func (f failure) Error() string { return string(f) }

// joined are the arguments of print and fail as one text.
func joined(args starlark.Tuple, kwargs []starlark.Tuple, sep string) (string, error) {
	for _, kv := range kwargs {
		name, _ := starlark.AsString(kv[0])
		s, ok := starlark.AsString(kv[1])
		if name != "sep" || !ok {
			return "", fmt.Errorf("unexpected keyword argument %s", name)
		}
		sep = s
	}
	var b strings.Builder
	for i, a := range args {
		if i > 0 {
			b.WriteString(sep)
		}
		s, err := plainText(a)
		if err != nil {
			return "", err
		}
		if b.Len()+len(s) > maxText {
			return "", tooLarge(starlark.String(""))
		}
		b.WriteString(s)
	}
	return b.String(), nil
}

// plainText is str(v).
func plainText(v starlark.Value) (string, error) {
	switch v := v.(type) {
	case starlark.String:
		return string(v), nil
	case starlark.Bytes:
		return strings.ToValidUTF8(string(v), "\ufffd"), nil
	}
	return textOf(v)
}

var errText = errors.New("the value is too large to be written")

// textOf is repr(v). Values may hold each other many times over, so the text is
// bounded while it is written.
func textOf(v starlark.Value) (string, error) {
	var b strings.Builder
	err := writeText(&b, v, nil)
	return b.String(), err
}

func writeText(b *strings.Builder, v starlark.Value, path []starlark.Value) error {
	if b.Len() > maxText {
		return errText
	}
	if len(path) > 100 {
		b.WriteString("...")
		return nil
	}
	switch v.(type) {
	case *starlark.List, *starlark.Dict, *starlark.Set, *record: // what can hold itself
		for _, p := range path {
			if p == v {
				b.WriteString("...")
				return nil
			}
		}
	}
	items := func(open, closing string, n int, at func(i int) starlark.Value) error {
		b.WriteString(open)
		for i := range n {
			if i > 0 {
				b.WriteString(", ")
			}
			if err := writeText(b, at(i), path); err != nil {
				return err
			}
		}
		b.WriteString(closing)
		return nil
	}
	switch v := v.(type) {
	case *starlark.List:
		path = append(path, v)
		return items("[", "]", v.Len(), v.Index)
	case starlark.Tuple:
		// A tuple cannot hold itself, but it can be deep.
		path = append(path, starlark.None)
		closing := ")"
		if len(v) == 1 {
			closing = ",)"
		}
		return items("(", closing, len(v), v.Index)
	case *starlark.Dict:
		path = append(path, v)
		b.WriteString("{")
		for i, kv := range v.Items() {
			if i > 0 {
				b.WriteString(", ")
			}
			if err := writeText(b, kv[0], path); err != nil {
				return err
			}
			b.WriteString(": ")
			if err := writeText(b, kv[1], path); err != nil {
				return err
			}
		}
		b.WriteString("}")
		return nil
	case *starlark.Set:
		path = append(path, v)
		list := make([]starlark.Value, 0, v.Len())
		for e := range v.Elements() {
			list = append(list, e)
		}
		return items("set([", "])", len(list), func(i int) starlark.Value { return list[i] })
	case *record:
		path = append(path, v)
		b.WriteString(v.kind + "(")
		for i, f := range v.fields {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(f.name + "=")
			if err := writeText(b, f.value, path); err != nil {
				return err
			}
		}
		b.WriteString(")")
		return nil
	case *starlark.Builtin:
		b.WriteString("<built-in " + v.Name() + ">") // its receiver may be anything
		return nil
	case rendered:
		b.WriteString(v.text)
		return nil
	}
	s := v.String()
	if b.Len()+len(s) > 6*maxText+16 {
		return errText
	}
	b.WriteString(s)
	return nil
}
