package cexpr

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"openkd/engine/expr"
	"openkd/engine/types"
	"openkd/image/sym"
)

// op is what a node does.
type op uint8

const (
	opValue op = iota + 1
	opSymbol
	opRegister
	opMasm
	opSizeof
	opCast
	opField
	opArrow
	opIndex
	opDeref
	opAddress
	opNeg
	opPlus
	opNot
	opCompl
	opPreInc
	opPreDec
	opPostInc
	opPostDec
	opMul
	opDiv
	opMod
	opAdd
	opSub
	opShl
	opShr
	opLt
	opGt
	opLe
	opGe
	opEq
	opNe
	opBitAnd
	opBitXor
	opBitOr
	opAnd
	opOr
	opCond
	opAssign
	opComma
	opMacro
)

var opText = map[op]string{
	opNeg: "-", opPlus: "+", opNot: "!", opCompl: "~", opMul: "*", opDiv: "/", opMod: "%", opAdd: "+", opSub: "-", opShl: "<<", opShr: ">>",
	opLt: "<", opGt: ">", opLe: "<=", opGe: ">=", opEq: "==", opNe: "!=", opBitAnd: "&", opBitXor: "^", opBitOr: "|",
}

// node is a part of an expression.
type node struct {
	op      op
	pos     int // in the expression
	a, b, c *node
	value   Value
	typ     types.Type
	text    string
	field   string
	at      int // where a MASM expression begins
	with    op  // of an assignment: the operation, 0 for none
	err     error
}

type parser struct {
	s     string
	i     int
	env   Env
	depth int
	names int
}

func (p *parser) space() {
	for p.i < len(p.s) && (p.s[p.i] == ' ' || p.s[p.i] == '\t' || p.s[p.i] == '\r' || p.s[p.i] == '\n') {
		p.i++
	}
}

func (p *parser) fail(k expr.Kind, pos int, help string, args ...any) error {
	if len(args) > 0 {
		help = fmt.Sprintf(help, args...)
	}
	return &expr.Error{Kind: k, Pos: pos, Near: near(p.s[pos:]), Help: help}
}

func (p *parser) wrap(k expr.Kind, pos int, err error) error {
	return &expr.Error{Kind: k, Pos: pos, Near: near(p.s[pos:]), Help: err.Error(), Err: err}
}

func (p *parser) enter() error {
	if p.depth++; p.depth > MaxDepth {
		return p.fail(expr.Syntax, p.i, "the expression nests deeper than %d levels", MaxDepth)
	}
	return nil
}

// has takes a sign, if it comes next and is not the beginning of a longer one.
func (p *parser) has(sign string, not ...string) bool {
	p.space()
	rest := p.s[p.i:]
	if !strings.HasPrefix(rest, sign) {
		return false
	}
	for _, n := range not {
		if strings.HasPrefix(rest, n) {
			return false
		}
	}
	p.i += len(sign)
	return true
}

func (p *parser) expect(sign, help string, args ...any) error {
	if p.has(sign) {
		return nil
	}
	return p.fail(expr.Syntax, p.i, help, args...)
}

func (p *parser) comma() (*node, error) {
	a, err := p.assignment()
	for n := 0; err == nil; n++ {
		at := p.i
		if !p.has(",") {
			return a, nil
		}
		if n > MaxDepth {
			return nil, p.fail(expr.Syntax, at, "the expression has more than %d parts", MaxDepth)
		}
		b, err := p.assignment()
		if err != nil {
			return nil, err
		}
		a = &node{op: opComma, pos: at, a: a, b: b}
	}
	return nil, err
}

var assignments = []struct {
	sign string
	with op
}{
	{"<<=", opShl}, {">>=", opShr}, {"*=", opMul}, {"/=", opDiv}, {"%=", opMod}, {"+=", opAdd}, {"-=", opSub},
	{"&=", opBitAnd}, {"|=", opBitOr}, {"^=", opBitXor},
}

func (p *parser) assignment() (*node, error) {
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	a, err := p.condition()
	if err != nil {
		return nil, err
	}
	p.space()
	n := &node{op: opAssign, pos: p.i, a: a}
	found := p.has("=", "==")
	for _, x := range assignments {
		if found {
			break
		}
		if found = p.has(x.sign); found {
			n.with = x.with
		}
	}
	if !found {
		return a, nil
	}
	n.b, err = p.assignment()
	return n, err
}

func (p *parser) condition() (*node, error) {
	a, err := p.binary(0)
	if err != nil {
		return nil, err
	}
	p.space()
	at := p.i
	if !p.has("?") {
		return a, nil
	}
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	b, err := p.comma()
	if err != nil {
		return nil, err
	}
	if err := p.expect(":", "':' is expected here, for the '?' at character %d", at+1); err != nil {
		return nil, err
	}
	c, err := p.assignment()
	return &node{op: opCond, pos: at, a: a, b: b, c: c}, err
}

// levels are the binary operators, the weakest binding first. What follows an
// operator's sign is what it must not be the beginning of.
var levels = [...][]struct {
	sign string
	op   op
	not  []string
}{
	{{"||", opOr, nil}},
	{{"&&", opAnd, nil}},
	{{"|", opBitOr, []string{"||", "|="}}},
	{{"^", opBitXor, []string{"^="}}},
	{{"&", opBitAnd, []string{"&&", "&="}}},
	{{"==", opEq, nil}, {"!=", opNe, nil}},
	{{"<=", opLe, nil}, {">=", opGe, nil}, {"<", opLt, []string{"<<"}}, {">", opGt, []string{">>"}}},
	{{"<<", opShl, []string{"<<="}}, {">>", opShr, []string{">>="}}},
	{{"+", opAdd, []string{"++", "+="}}, {"-", opSub, []string{"--", "-=", "->"}}},
	{{"*", opMul, []string{"*="}}, {"/", opDiv, []string{"/=", "//"}}, {"%", opMod, []string{"%="}}},
}

func (p *parser) binary(level int) (*node, error) {
	if level == len(levels) {
		return p.unary()
	}
	a, err := p.binary(level + 1)
	if err != nil {
		return nil, err
	}
	for n := 0; ; n++ {
		p.space()
		at := p.i
		var o op
		for _, l := range levels[level] {
			if p.has(l.sign, l.not...) {
				o = l.op
				break
			}
		}
		if o == 0 {
			return a, nil
		}
		if n > MaxDepth {
			return nil, p.fail(expr.Syntax, at, "the expression has more than %d operators in a row", MaxDepth)
		}
		b, err := p.binary(level + 1)
		if err != nil {
			return nil, err
		}
		a = &node{op: o, pos: at, a: a, b: b}
	}
}

func (p *parser) unary() (*node, error) {
	p.space()
	at := p.i
	if err := p.enter(); err != nil {
		return nil, err
	}
	defer func() { p.depth-- }()
	one := func(o op) (*node, error) {
		a, err := p.unary()
		return &node{op: o, pos: at, a: a}, err
	}
	switch {
	case at == len(p.s):
		return nil, &expr.Error{Kind: expr.Missing, Pos: at, Help: "a number, a register or a name is expected here"}
	case p.has("++"):
		return one(opPreInc)
	case p.has("--"):
		return one(opPreDec)
	case p.has("+"):
		return one(opPlus)
	case p.has("-"):
		return one(opNeg)
	case p.has("!"):
		return one(opNot)
	case p.has("~"):
		return one(opCompl)
	case p.has("*"):
		return one(opDeref)
	case p.has("&", "&&"):
		return one(opAddress)
	case p.word("sizeof"):
		n := &node{op: opSizeof, pos: at}
		p.space()
		if p.i < len(p.s) && p.s[p.i] == '(' {
			t, ok, err := p.typeIn()
			if err != nil {
				return nil, err
			}
			if ok {
				n.typ = t
				return n, nil
			}
		}
		a, err := p.unary()
		n.a = a
		return n, err
	}
	for _, w := range []string{"static_cast", "reinterpret_cast", "const_cast", "dynamic_cast"} {
		if p.word(w) {
			if err := p.expect("<", "'<' and a type are expected behind %s", w); err != nil {
				return nil, err
			}
			t, err := p.mustType()
			if err != nil {
				return nil, err
			}
			if err := p.expect(">", "'>' is expected behind the type"); err != nil {
				return nil, err
			}
			if err := p.expect("(", "the value is expected between parentheses"); err != nil {
				return nil, err
			}
			a, err := p.comma()
			if err != nil {
				return nil, err
			}
			if err := p.expect(")", "')' is expected here"); err != nil {
				return nil, err
			}
			return p.postfix(&node{op: opCast, pos: at, a: a, typ: t})
		}
	}
	if p.s[at] == '(' {
		t, ok, err := p.typeIn()
		if err != nil {
			return nil, err
		}
		if ok {
			a, err := p.unary()
			return &node{op: opCast, pos: at, a: a, typ: t}, err
		}
	}
	a, err := p.primary()
	if err != nil {
		return nil, err
	}
	return p.postfix(a)
}

// word takes a word of the language.
func (p *parser) word(w string) bool {
	p.space()
	rest := p.s[p.i:]
	if !strings.HasPrefix(rest, w) || len(rest) > len(w) && (isName(rest[len(w)]) || rest[len(w)] == '!') {
		return false
	}
	p.i += len(w)
	return true
}

func (p *parser) postfix(a *node) (*node, error) {
	for n := 0; ; n++ {
		p.space()
		at := p.i
		switch {
		case n > MaxDepth:
			return nil, p.fail(expr.Syntax, at, "the expression nests deeper than %d levels", MaxDepth)
		case p.has("["):
			b, err := p.comma()
			if err != nil {
				return nil, err
			}
			if err := p.expect("]", "']' is expected here, for the '[' at character %d", at+1); err != nil {
				return nil, err
			}
			a = &node{op: opIndex, pos: at, a: a, b: b}
		case p.has("->"), p.has(".", "..."):
			o := opField
			if p.s[p.i-1] == '>' {
				o = opArrow
			}
			p.space()
			name := p.plainName()
			if name == "" {
				if p.i < len(p.s) && p.s[p.i] == '*' {
					return nil, p.fail(expr.Unsupported, p.i, "pointers to members are not followed")
				}
				return nil, p.fail(expr.Syntax, p.i, "the name of a field is expected here")
			}
			a = &node{op: o, pos: p.i - len(name), a: a, text: name}
		case p.has("++"):
			a = &node{op: opPostInc, pos: at, a: a}
		case p.has("--"):
			a = &node{op: opPostDec, pos: at, a: a}
		case p.i < len(p.s) && p.s[p.i] == '(' && (a.op == opSymbol || a.op == opField || a.op == opArrow) && a.value.Type.Kind == sym.Func:
			return nil, p.fail(expr.Unsupported, at, "functions of the target are not called")
		default:
			return a, nil
		}
	}
}

// plainName takes a name without a module.
func (p *parser) plainName() string {
	i := p.i
	if i < len(p.s) && isStart(p.s[i]) {
		for i < len(p.s) && isName(p.s[i]) && p.s[i] != '?' {
			i++
		}
	}
	name := p.s[p.i:i]
	p.i = i
	return name
}

func (p *parser) primary() (*node, error) {
	at := p.i
	c := p.s[at]
	switch {
	case c == '(':
		p.i++
		a, err := p.comma()
		if err != nil {
			return nil, err
		}
		return a, p.expect(")", "')' is expected here, for the '(' at character %d", at+1)
	case c >= '0' && c <= '9', c == '.' && at+1 < len(p.s) && p.s[at+1] >= '0' && p.s[at+1] <= '9':
		return p.number()
	case c == '\'', c == '"', c == 'L' && at+1 < len(p.s) && (p.s[at+1] == '\'' || p.s[at+1] == '"'):
		return p.literal()
	case c == '@':
		return p.at()
	case c == '#':
		return p.macro()
	case isStart(c), c == ':' && strings.HasPrefix(p.s[at:], "::"), c == '!':
		return p.name()
	}
	return nil, p.fail(expr.Syntax, at, "a number, a register or a name is expected here")
}

// number is an integer or a floating-point number.
func (p *parser) number() (*node, error) {
	at := p.i
	i := at
	hex := strings.HasPrefix(p.s[i:], "0x") || strings.HasPrefix(p.s[i:], "0X")
	for i < len(p.s) {
		c := p.s[i]
		digit := c >= '0' && c <= '9' || c == '`'
		letter := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !digit && !letter && !(c == '.' && !hex) && !((c == '+' || c == '-') && !hex && i > at && p.s[i-1]|0x20 == 'e') {
			break
		}
		i++
	}
	text := p.s[at:i]
	p.i = i
	if !hex && strings.ContainsAny(text, ".eE") {
		t := types.Double
		if f, ok := strings.CutSuffix(strings.ToLower(text), "f"); ok {
			text, t = f, types.Float
		}
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || strings.ContainsAny(text, "_`pPxX") {
			return nil, p.fail(expr.Syntax, at, "this is no number")
		}
		return &node{op: opValue, pos: at, value: floating(t, f)}, nil
	}
	digits := strings.ReplaceAll(strings.ToLower(text), "`", "")
	suffix := ""
	for _, s := range []string{"ui64", "i64", "ull", "llu", "ul", "lu", "ll", "u", "l"} {
		if d, ok := strings.CutSuffix(digits, s); ok {
			digits, suffix = d, s
			break
		}
	}
	base := 10
	switch {
	case hex:
		digits, base = digits[2:], 16
	case strings.HasPrefix(digits, "0n") || strings.HasPrefix(digits, "0y") || strings.HasPrefix(digits, "0t"):
		return nil, p.fail(expr.Syntax, at, "numbers are decimal here, and hexadecimal with 0x; @@( ) takes the other forms")
	case len(digits) > 1 && digits[0] == '0':
		digits, base = digits[1:], 8
	}
	v, err := strconv.ParseUint(digits, base, 64)
	if err != nil {
		if e, ok := err.(*strconv.NumError); ok && e.Err == strconv.ErrRange {
			return nil, p.fail(expr.Overflow, at, "the number has more than 64 bits")
		}
		return nil, p.fail(expr.Syntax, at, "this is no number in base %d; numbers are decimal here, and hexadecimal with 0x", base)
	}
	t := types.Int
	unsigned, long, wide := strings.Contains(suffix, "u"), strings.Contains(suffix, "l"), strings.Contains(suffix, "ll") || strings.Contains(suffix, "i64")
	switch {
	case wide || v>>32 != 0 || v>>31 != 0 && base == 10 && !unsigned:
		t = types.Int64
		if unsigned || v>>63 != 0 {
			t = types.UInt64
		}
	case long && (unsigned || v>>31 != 0):
		t = types.ULong
	case long:
		t = types.Long
	case unsigned || v>>31 != 0:
		t = types.UInt
	}
	return &node{op: opValue, pos: at, value: number(t, v)}, nil
}

// literal is a character or a string.
func (p *parser) literal() (*node, error) {
	at := p.i
	wide := p.s[p.i] == 'L'
	if wide {
		p.i++
	}
	q := p.s[p.i]
	p.i++
	var out []rune
	for {
		if p.i >= len(p.s) {
			return nil, p.fail(expr.Syntax, at, "the closing quote is missing")
		}
		r, n := utf8.DecodeRuneInString(p.s[p.i:])
		p.i += n
		if byte(r) == q && n == 1 {
			break
		}
		if r == '\\' && p.i < len(p.s) {
			c := p.s[p.i]
			p.i++
			switch c {
			case 'n':
				r = '\n'
			case 't':
				r = '\t'
			case 'r':
				r = '\r'
			case 'a':
				r = 7
			case 'b':
				r = 8
			case 'f':
				r = 12
			case 'v':
				r = 11
			case 'x':
				j := p.i
				for j < len(p.s) && j < p.i+4 && strings.IndexByte("0123456789abcdefABCDEF", p.s[j]) >= 0 {
					j++
				}
				v, err := strconv.ParseUint(p.s[p.i:j], 16, 16)
				if err != nil {
					return nil, p.fail(expr.Syntax, p.i, "hexadecimal digits are expected behind \\x")
				}
				r, p.i = rune(v), j
			case '0', '1', '2', '3', '4', '5', '6', '7':
				v := rune(c - '0')
				for k := 0; k < 2 && p.i < len(p.s) && p.s[p.i] >= '0' && p.s[p.i] <= '7'; k++ {
					v = v*8 + rune(p.s[p.i]-'0')
					p.i++
				}
				r = v
			default:
				r = rune(c)
			}
		}
		out = append(out, r)
	}
	elem := types.Char
	if wide {
		elem = types.WChar
	}
	if q == '\'' {
		if len(out) != 1 {
			return nil, p.fail(expr.Syntax, at, "a character constant is one character between single quotes")
		}
		return &node{op: opValue, pos: at, value: number(elem, uint64(out[0]))}, nil
	}
	t, err := types.ArrayOf(elem, uint64(len(out)+1))
	if err != nil {
		return nil, p.wrap(expr.Syntax, at, err)
	}
	var data []byte
	for _, r := range append(out, 0) {
		data = append(data, byte(r))
		if wide {
			data = append(data, byte(r>>8))
		}
	}
	return &node{op: opValue, pos: at, value: Value{Type: t, Data: data}}, nil
}

// at is a register, a pseudo-register, or a part in the words of another
// evaluator.
func (p *parser) at() (*node, error) {
	at := p.i
	rest := p.s[at+1:]
	if !strings.HasPrefix(rest, "@") {
		if strings.HasPrefix(rest, `!"`) {
			name, _, ok := strings.Cut(rest[2:], `"`)
			if !ok {
				return nil, p.fail(expr.Syntax, at, "the closing quote of the symbol name is missing")
			}
			if name == "" {
				return nil, p.fail(expr.Syntax, at, "a symbol name is expected between the quotes")
			}
			p.i = at + 3 + len(name) + 1
			return p.symbol(at, name)
		}
		n := 0
		for n < len(rest) && isName(rest[n]) && rest[n] != '?' {
			n++
		}
		if n == 0 {
			return nil, p.fail(expr.Syntax, at, "'@' stands in front of a register or pseudo-register")
		}
		p.i = at + 1 + n
		return &node{op: opRegister, pos: at, text: strings.ToLower(rest[:n])}, nil
	}
	p.i = at + 2
	low := strings.ToLower(p.s[p.i:])
	cpp := false
	switch {
	case strings.HasPrefix(low, "masm"):
		p.i += 4
	case strings.HasPrefix(low, "c++"):
		p.i, cpp = p.i+3, true
	}
	if p.i >= len(p.s) || p.s[p.i] != '(' {
		return nil, p.fail(expr.Syntax, at, "@@( ), @@masm( ) or @@c++( ) is expected")
	}
	if cpp {
		return p.primary()
	}
	end := expr.Closing(p.s, p.i)
	if end < 0 {
		return nil, p.fail(expr.Syntax, at, "the closing parenthesis is missing")
	}
	n := &node{op: opMasm, pos: at, text: p.s[p.i+1 : end], at: p.i + 1}
	p.i = end + 1
	return n, nil
}

// scanName is how long the name at i is: with its module, classes and template
// arguments in front of classes.
func (p *parser) scanName(i int) int {
	from := i
	bang := false
	for i < len(p.s) {
		c := p.s[i]
		switch {
		case c == '!' && !bang && i+1 < len(p.s) && (isStart(p.s[i+1]) || p.s[i+1] == '?' || p.s[i+1] == ':'):
			bang = true
			i++
		case c == '`' && bang:
			i++
		case strings.HasPrefix(p.s[i:], "::"):
			i += 2
			if i < len(p.s) && p.s[i] == '~' {
				i++
			}
		case isName(c) && (c != '?' || bang && i > from && (p.s[i-1] == '!' || p.s[i-1] == '?')):
			i++
		default:
			return i
		}
	}
	return i
}

// template is where the template arguments at i end, and what they are; the
// caller asks whether there is such a name.
func (p *parser) template(i int) (end int, ok bool) {
	depth := 0
	for j := i; j < len(p.s) && j < i+1024; j++ {
		switch c := p.s[j]; {
		case c == '<':
			depth++
		case c == '>':
			if depth--; depth == 0 {
				return j + 1, true
			}
		case isName(c), strings.IndexByte(" :,*&!()'[]-", c) >= 0:
		default:
			return 0, false
		}
	}
	return 0, false
}

// tighten takes out the blanks that symbol files do not write.
func tighten(name string) string {
	if !strings.Contains(name, "<") {
		return name
	}
	for _, r := range [][2]string{{", ", ","}, {" ,", ","}, {"< ", "<"}, {" *", "*"}, {"*", " *"}, {"> >", ">>"}, {" >", ">"}} {
		name = strings.ReplaceAll(name, r[0], r[1])
	}
	return name
}

func (p *parser) look(pos int) error {
	if p.names++; p.names > MaxNames {
		return p.fail(expr.Syntax, pos, "the expression has more than %d names", MaxNames)
	}
	return nil
}

// name is a variable, a function, a constant.
func (p *parser) name() (*node, error) {
	at := p.i
	end := p.scanName(at)
	if end < len(p.s) && p.s[end] == '<' {
		if e, ok := p.template(end); ok {
			e = p.scanName(e)
			if err := p.look(at); err != nil {
				return nil, err
			}
			if v, ok, err := p.env.Symbol(tighten(p.s[at:e])); ok && err == nil {
				p.i = e
				return &node{op: opSymbol, pos: at, value: v, text: p.s[at:e]}, nil
			}
		}
	}
	if end == at {
		return nil, p.fail(expr.Syntax, at, "a name is expected here")
	}
	p.i = end
	return p.symbol(at, p.s[at:end])
}

func (p *parser) symbol(at int, name string) (*node, error) {
	switch name {
	case "true", "false":
		return &node{op: opValue, pos: at, value: truth(name == "true")}, nil
	case "nullptr", "NULL":
		v := number(types.UInt64, 0)
		v.Type = types.PointerTo(types.Void, p.env.PointerSize())
		v.Data = v.Data[:p.env.PointerSize()]
		return &node{op: opValue, pos: at, value: v}, nil
	}
	if err := p.look(at); err != nil {
		return nil, err
	}
	v, ok, err := p.env.Symbol(strings.TrimPrefix(name, "::"))
	if err != nil {
		// Its type may still be asked for.
		return &node{op: opSymbol, pos: at, text: name, value: v, err: err}, nil
	}
	if !ok {
		help := "no variable, function or constant of that name is known"
		if strings.ContainsRune("0123456789", rune(name[0])) {
			help = "this is no number"
		} else if _, ok, _ := p.env.Type(name); ok {
			help = "this is a type: cast with it, (" + name + "*)value, or take its size"
		} else if isHex(name) {
			help += "; hexadecimal numbers begin with 0x here"
		} else if _, ok, _ := p.env.Register(strings.ToLower(name)); ok {
			help += "; registers have an @ in front here: @" + name
		}
		return nil, p.fail(expr.Resolve, at, "%s", help)
	}
	return &node{op: opSymbol, pos: at, value: v, text: name}, nil
}

func isHex(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c|0x20 < 'a' || c|0x20 > 'f') {
			return false
		}
	}
	return s != ""
}

// typeIn takes a type between parentheses. false: what stands there is none, and
// nothing is taken.
func (p *parser) typeIn() (types.Type, bool, error) {
	at := p.i
	p.i++
	if !p.looksLikeType() {
		p.i = at
		return types.Type{}, false, nil
	}
	// With a star in front of the parenthesis it can be nothing else.
	end := strings.IndexByte(p.s[p.i:], ')')
	must := end > 0 && strings.HasSuffix(strings.TrimRight(p.s[p.i:p.i+end], " \t"), "*")
	t, ok, err := p.typeName(must)
	if err == nil && ok && !p.has(")") {
		ok = false
	}
	if err != nil && !must {
		var e *expr.Error
		if errors.As(err, &e) && e.Err != nil {
			err, ok = nil, false // it may still be a variable
		}
	}
	if err != nil || !ok {
		p.i = at
	}
	return t, ok, err
}

// looksLikeType says whether a name with stars and brackets behind it comes up to
// a closing parenthesis, so that symbols that are none are not looked for as types.
func (p *parser) looksLikeType() bool {
	p.space()
	i := p.i
	if i >= len(p.s) || !isStart(p.s[i]) && p.s[i] != ':' {
		return false
	}
	words := 0
	for i < len(p.s) {
		switch c := p.s[i]; {
		case c == ')':
			return words > 0
		case c == ' ' || c == '*' || c == '&' || c == '\t':
			i++
		case c == '(':
			_, n := pointerToArray(p.s[i:])
			if n == 0 {
				return false
			}
			i += n
		case c == '[':
			j := strings.IndexByte(p.s[i:], ']')
			if j < 0 {
				return false
			}
			i += j + 1
		case c == '<':
			e, ok := p.template(i)
			if !ok {
				return false
			}
			i = e
		case isStart(c) || c == ':':
			e := p.scanName(i)
			if e == i {
				return false
			}
			i = e
			words++
		default:
			return false
		}
	}
	return false
}

func (p *parser) mustType() (types.Type, error) {
	p.space()
	at := p.i
	t, ok, err := p.typeName(true)
	if err == nil && !ok {
		err = p.fail(expr.Resolve, at, "no type of that name is known")
	}
	return t, err
}

// Type is a type as a person writes it, all of s: "struct _X *", "ULONG[4]".
// false: there is none.
func Type(s string, env Env) (types.Type, bool, error) {
	if len(s) > MaxLength {
		return types.Type{}, false, nil
	}
	p := &parser{s: s, env: env}
	t, ok, err := p.typeName(false)
	p.space()
	return t, ok && p.i == len(p.s), err
}

// typeName takes a type with its stars.
func (p *parser) typeName(must bool) (types.Type, bool, error) {
	tagged := false
	for {
		switch {
		case p.word("const"), p.word("volatile"):
			continue
		case p.word("struct"), p.word("union"), p.word("enum"), p.word("class"):
			tagged = true
			continue
		}
		break
	}
	p.space()
	start := p.i
	// dx puts the module in front of types of the language too.
	if end := p.scanName(start); end > start {
		p.i += strings.IndexByte(p.s[start:end], '!') + 1
	}
	t, ok, err := p.fundamental()
	if err != nil {
		return t, false, err
	}
	if !ok {
		p.i = start
		at := p.i
		end := p.scanName(at)
		if end == at {
			return t, false, nil
		}
		name := p.s[at:end]
		if end < len(p.s) && p.s[end] == '<' {
			if e, ok := p.template(end); ok {
				end = p.scanName(e)
				name = tighten(p.s[at:end])
			}
		}
		if err := p.look(at); err != nil {
			return t, false, err
		}
		name = strings.TrimPrefix(name, "::")
		t, ok, err = p.env.Type(name)
		if err == nil && !ok && !strings.Contains(name, "!") {
			t, ok = types.Known(name, p.env.PointerSize())
		}
		if err != nil {
			if tagged || must || strings.Contains(name, "!") {
				return t, false, p.wrap(expr.Resolve, at, err)
			}
			return t, false, nil
		}
		if !ok {
			if tagged || must {
				return t, false, p.fail(expr.Resolve, at, "no type of that name is known")
			}
			return t, false, nil
		}
		p.i = end
	}
	var dims []uint64
	outer := 0 // stars of a pointer to an array: int (*)[4]
	for n := 0; ; n++ {
		if stars, size := pointerToArray(p.s[p.i:]); size > 0 && outer == 0 && len(dims) == 0 {
			outer, p.i = stars, p.i+size
		}
		switch {
		case n > 32:
			return t, false, p.fail(expr.Syntax, p.i, "a type has fewer stars")
		case p.word("const"), p.word("volatile"), p.word("__ptr64"), p.word("__ptr32"):
			continue
		case len(dims) == 0 && (p.has("*") || p.has("&", "&&")):
			t = types.PointerTo(t, p.env.PointerSize())
			continue
		case p.has("["):
			p.space()
			i := p.i
			for i < len(p.s) && isName(p.s[i]) {
				i++
			}
			v, err := strconv.ParseUint(p.s[p.i:i], 0, 48)
			if err != nil {
				return t, false, p.fail(expr.Syntax, p.i, "the number of elements is expected here")
			}
			p.i = i
			if err := p.expect("]", "']' is expected here"); err != nil {
				return t, false, err
			}
			dims = append(dims, v)
			continue
		}
		break
	}
	for i := len(dims) - 1; i >= 0; i-- {
		if t, err = types.ArrayOf(t, dims[i]); err != nil {
			return t, false, p.wrap(expr.Operand, p.i, err)
		}
	}
	for range outer {
		t = types.PointerTo(t, p.env.PointerSize())
	}
	return t, true, nil
}

// pointerToArray takes the "(*)" of "int (*)[4]", as dx itself writes types: how
// many stars it has, and how long it is; 0: something else begins s.
func pointerToArray(s string) (stars, size int) {
	rest, ok := strings.CutPrefix(strings.TrimLeft(s, " \t"), "(")
	for ok {
		rest = strings.TrimLeft(rest, " \t")
		if rest, ok = strings.CutPrefix(rest, "*"); ok {
			stars++
		}
	}
	rest, ok = strings.CutPrefix(rest, ")")
	if stars == 0 || stars > 8 || !ok || !strings.HasPrefix(strings.TrimLeft(rest, " \t"), "[") {
		return 0, 0
	}
	return stars, len(s) - len(rest)
}

// fundamental takes the words of a type of the language: unsigned long long int.
func (p *parser) fundamental() (types.Type, bool, error) {
	at := p.i
	count := map[string]int{}
	n := 0
	for ; ; n++ {
		found := false
		for _, w := range []string{"unsigned", "signed", "char", "short", "int", "long", "float", "double", "bool", "void", "wchar_t", "__int8", "__int16", "__int32", "__int64", "int64"} {
			if p.word(w) {
				count[w]++
				found = true
				break
			}
		}
		if !found || n > 5 {
			break
		}
	}
	if n == 0 {
		return types.Type{}, false, nil
	}
	u := count["unsigned"] > 0
	pick := func(a, b types.Type) (types.Type, bool, error) {
		if u {
			return b, true, nil
		}
		return a, true, nil
	}
	for _, w := range []string{"void", "bool", "wchar_t", "float", "double"} {
		if count[w] > 0 && n > 1 && !(w == "double" && n == 2 && count["long"] == 1) {
			return types.Type{}, false, p.fail(expr.Syntax, at, "these words make no type")
		}
	}
	switch {
	case count["void"] == 1 && n == 1:
		return types.Void, true, nil
	case count["bool"] == 1 && n == 1:
		return types.Bool, true, nil
	case count["wchar_t"] == 1 && n == 1:
		return types.WChar, true, nil
	case count["float"] == 1 && n == 1:
		return types.Float, true, nil
	case count["double"] == 1 && n <= 2:
		return types.Double, true, nil
	case count["char"] == 1 || count["__int8"] == 1:
		return pick(types.Char, types.UChar)
	case count["short"] == 1 || count["__int16"] == 1:
		return pick(types.Short, types.UShort)
	case count["long"] == 2 || count["__int64"] == 1 || count["int64"] == 1:
		return pick(types.Int64, types.UInt64)
	case count["long"] == 1:
		return pick(types.Long, types.ULong)
	case count["int"] == 1 || count["__int32"] == 1 || count["unsigned"] == 1 || count["signed"] == 1:
		return pick(types.Int, types.UInt)
	}
	return types.Type{}, false, p.fail(expr.Syntax, at, "these words make no type")
}

// macro is #FIELD_OFFSET and its kin.
func (p *parser) macro() (*node, error) {
	at := p.i
	p.i++
	n := &node{op: opMacro, pos: at, text: strings.ToUpper(p.plainName())}
	var err error
	typ := func() error { n.typ, err = p.mustType(); return err }
	field := func() error {
		p.space()
		i := p.i
		for i < len(p.s) && p.s[i] != ')' && p.s[i] != ',' {
			i++
		}
		n.field = strings.TrimSpace(p.s[p.i:i])
		if n.field == "" {
			return p.fail(expr.Syntax, p.i, "the name of a field is expected here")
		}
		p.i = i
		return nil
	}
	a := func() error { n.a, err = p.assignment(); return err }
	b := func() error { n.b, err = p.assignment(); return err }
	args, ok := map[string][]func() error{
		"FIELD_OFFSET": {typ, field}, "RTL_FIELD_SIZE": {typ, field}, "RTL_SIZEOF_THROUGH_FIELD": {typ, field},
		"CONTAINING_RECORD": {a, typ, field}, "RTL_NUMBER_OF": {a}, "RTL_CONTAINS_FIELD": {a, b, field},
	}[n.text]
	if !ok {
		return nil, p.fail(expr.Resolve, at, "the macros are #FIELD_OFFSET, #CONTAINING_RECORD, #RTL_CONTAINS_FIELD, #RTL_FIELD_SIZE, #RTL_NUMBER_OF and #RTL_SIZEOF_THROUGH_FIELD")
	}
	if err := p.expect("(", "#%s has its arguments in parentheses", n.text); err != nil {
		return nil, err
	}
	for i, f := range args {
		if i > 0 {
			if err := p.expect(",", "#%s takes %d arguments, separated by commas", n.text, len(args)); err != nil {
				return nil, err
			}
		}
		if err := f(); err != nil {
			return nil, err
		}
	}
	return n, p.expect(")", "')' is expected behind the arguments of #%s", n.text)
}
