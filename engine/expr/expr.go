// Package expr evaluates MASM expressions: the numbers, addresses and
// conditions that people type into commands.
//
// It knows numbers, operators and the names of the language. What a register,
// a symbol or a piece of memory holds it asks of an Env. It does not know
// types; the C++ evaluator is in package cexpr.
//
// Facts come from the documentation of Microsoft's debuggers ("MASM Numbers
// and Operators", "Numerical Expression Syntax", "Sign Extension",
// "Pseudo-Register Syntax", "String Wildcard Syntax"):
//
//   - every value is an unsigned 64-bit number;
//   - in kernel mode a constant from 80000000 to ffffffff is sign-extended,
//     unless it is written with a back-tick;
//   - a word is a number if it can be one in the current base, else a common
//     x86 register, a symbol, or any other register; `@` in front means a
//     register or a pseudo-register.
package expr

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"openkd/internal/brief"
)

// Env answers what an expression asks for. Its methods are called on the
// goroutine of Eval, one at a time.
type Env interface {
	// Register returns a register of the current processor by any spelling of
	// its name. 32-bit values come sign-extended. false: no such register.
	Register(name string) (uint64, bool, error)
	// Symbol returns the address of "module!name", "!name", "name", of the local
	// variable "$!name", or the base of a module. false: not known. The error is
	// an *Unknown where it can be said why.
	Symbol(name string) (uint64, bool, error)
	// Line returns the address of a source line, "module!file:line", of which the
	// module may be missing, the file, or the line.
	Line(place string) (uint64, error)
	// Pseudo returns the pseudo-register name, "$" included, in lower case.
	// false: no such pseudo-register.
	Pseudo(name string) (uint64, bool, error)
	// Read returns the little-endian number of size bytes (1, 2, 4 or 8) at a
	// virtual or physical address.
	Read(physical bool, addr uint64, size int) (uint64, error)
	// Valid says whether the n bytes at addr are in memory.
	Valid(addr, n uint64) (bool, error)
	// PointerSize is 4 or 8 bytes.
	PointerSize() int
}

// Unknown is why a name means nothing.
type Unknown struct {
	Why       string
	Ambiguous bool // it means too much
}

func (e *Unknown) Error() string { return e.Why }

// Cpp is implemented by an Env that knows the other evaluator too.
type Cpp interface {
	// Cpp is the value of a C++ expression, a number or an address. Errors of
	// the expression are *Error.
	Cpp(text string) (uint64, error)
}

// Options of an evaluation.
type Options struct {
	Radix int // of numbers without prefix: 8, 10 or 16; 0 counts as 16
}

// Limits.
const (
	MaxLength = 16 << 10 // bytes of an expression
	MaxDepth  = 200      // of brackets and signs in each other
)

// Kind is what went wrong.
type Kind uint8

// Kinds of error.
const (
	Syntax      Kind = iota // not an expression
	Missing                 // a number is missing
	Extra                   // something follows the expression
	Resolve                 // a name means nothing
	Operand                 // an operator cannot take its operand
	Memory                  // memory that cannot be read
	Overflow                // a number of more than 64 bits
	Unsupported             // needs what is not there (types, symbols)
	Ambiguous               // a name means several things
)

var words = [...]string{
	Syntax: "Syntax error", Missing: "Numeric expression missing", Extra: "Extra character error",
	Resolve: "Couldn't resolve error", Operand: "Operand error", Memory: "Memory access error",
	Overflow: "Overflow error", Unsupported: "Couldn't resolve error",
	Ambiguous: "Ambiguous symbol error",
}

// Words are those that WinDbg uses for the kind.
func (k Kind) Words() string {
	if int(k) < len(words) {
		return words[k]
	}
	return "Error"
}

// Error is why an expression has no value.
type Error struct {
	Kind Kind
	Pos  int    // byte offset in the expression
	Near string // the part at fault; empty at the end of the expression
	Help string // what would be right
	Err  error  // of the Env, if that is the cause
}

func (e *Error) Error() string {
	near := e.Near
	if near == "" {
		near = "<EOL>"
	}
	sep := " at '"
	if e.Kind == Missing {
		sep = " from '"
	}
	s := e.Kind.Words() + sep + near + "'"
	if e.Help != "" {
		s += ": " + e.Help
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Eval returns the value of all of s. Errors are *Error.
func Eval(s string, env Env, opt Options) (uint64, error) {
	v, rest, err := eval(s, env, opt, false)
	if err != nil {
		return 0, err
	}
	if rest != "" {
		return 0, &Error{Kind: Extra, Pos: len(s) - len(rest), Near: near(rest), Help: "an operator or the end is expected here"}
	}
	return v, nil
}

// EvalPrefix evaluates as much of s as is one expression and returns the rest,
// without the space in front. A blank does not end an expression if an
// operator follows; a range's L does.
func EvalPrefix(s string, env Env, opt Options) (v uint64, rest string, err error) {
	return eval(s, env, opt, true)
}

func eval(s string, env Env, opt Options, prefix bool) (uint64, string, error) {
	if len(s) > MaxLength {
		return 0, "", &Error{Kind: Syntax, Near: near(s), Help: fmt.Sprintf("an expression has at most %d characters", MaxLength)}
	}
	if opt.Radix == 0 {
		opt.Radix = 16
	}
	p := &parser{s: s, env: env, radix: opt.Radix, prefix: prefix}
	v, err := p.binary(0)
	if err != nil {
		return 0, "", err
	}
	p.space()
	return v, s[p.i:], nil
}

type parser struct {
	s      string
	i      int
	env    Env
	radix  int
	prefix bool
	depth  int
}

func (p *parser) space() {
	for p.i < len(p.s) && isSpace(p.s[p.i]) {
		p.i++
	}
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

// near is the word that begins s.
func near(s string) string {
	n := 0
	for n < len(s) && isWord(s[n]) {
		n++
	}
	if n == 0 && s != "" {
		_, n = utf8.DecodeRuneInString(s)
	}
	return brief.Text(strings.ToValidUTF8(s[:n], "?"), 40)
}

func (p *parser) fail(k Kind, pos int, help string, args ...any) error {
	if len(args) > 0 {
		help = fmt.Sprintf(help, args...)
	}
	return &Error{Kind: k, Pos: pos, Near: near(p.s[pos:]), Help: help}
}

// wrap makes an error of the Env an *Error that names the part at fault.
func (p *parser) wrap(k Kind, pos int, err error) error {
	var e *Error
	if errors.As(err, &e) {
		return &Error{Kind: e.Kind, Pos: pos, Near: near(p.s[pos:]), Help: e.Help, Err: err}
	}
	return &Error{Kind: k, Pos: pos, Near: near(p.s[pos:]), Help: err.Error(), Err: err}
}

func (p *parser) enter(pos int) error {
	if p.depth++; p.depth > MaxDepth {
		return p.fail(Syntax, pos, "the expression nests deeper than %d levels", MaxDepth)
	}
	return nil
}

// operators by level, the weakest binding first; in a level the longest first.
var levels = [...][]string{
	{"or", "|"},
	{"xor", "^"},
	{"and", "&"},
	{"==", "=", "<=", ">=", "!=", "<", ">"},
	{"<<", ">>>", ">>"},
	{"+", "-"},
	{"*", "/", "mod", "%"},
}

// operator returns the operator of a level at the current place.
func (p *parser) operator(level int) string {
	r := p.s[p.i:]
	for _, op := range levels[level] {
		if len(r) < len(op) || !strings.EqualFold(r[:len(op)], op) {
			continue
		}
		next := byte(0)
		if len(r) > len(op) {
			next = r[len(op)]
		}
		switch {
		case op[0] >= 'a' && op[0] <= 'z' && isWord(next):
			continue // a longer word
		case (op == "<" || op == ">") && next == op[0]:
			continue // a shift
		}
		return op
	}
	return ""
}

func (p *parser) binary(level int) (uint64, error) {
	if level == len(levels) {
		return p.unary()
	}
	a, err := p.binary(level + 1)
	if err != nil {
		return 0, err
	}
	for {
		p.space()
		op := p.operator(level)
		if op == "" {
			return a, nil
		}
		p.i += len(op)
		p.space()
		at := p.i
		b, err := p.binary(level + 1)
		if err != nil {
			return 0, err
		}
		if b == 0 && (op == "/" || op == "%" || op == "mod") {
			return 0, p.fail(Operand, at, "division by zero")
		}
		a = apply(op, a, b)
	}
}

func truth(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

func apply(op string, a, b uint64) uint64 {
	switch op {
	case "or", "|":
		return a | b
	case "xor", "^":
		return a ^ b
	case "and", "&":
		return a & b
	case "==", "=":
		return truth(a == b)
	case "!=":
		return truth(a != b)
	case "<":
		return truth(a < b)
	case ">":
		return truth(a > b)
	case "<=":
		return truth(a <= b)
	case ">=":
		return truth(a >= b)
	case "<<":
		return a << b
	case ">>":
		return a >> b
	case ">>>":
		return uint64(int64(a) >> b)
	case "+":
		return a + b
	case "-":
		return a - b
	case "*":
		return a * b
	case "/":
		return a / b
	}
	return a % b
}

// reads are the memory operators: size in bytes, 0 for a pointer.
var reads = map[string]struct {
	size     int
	physical bool
}{
	"by": {1, false}, "wo": {2, false}, "dwo": {4, false}, "qwo": {8, false}, "poi": {0, false},
	"$pby": {1, true}, "$pwo": {2, true}, "$pdwo": {4, true}, "$pqwo": {8, true}, "$ppoi": {0, true},
}

func (p *parser) unary() (uint64, error) {
	p.space()
	at := p.i
	if err := p.enter(at); err != nil {
		return 0, err
	}
	defer func() { p.depth-- }()
	if p.i == len(p.s) {
		return 0, p.fail(Missing, at, "a number, a register or a symbol is expected here")
	}
	switch c := p.s[p.i]; {
	case c == '+':
		p.i++
		return p.unary()
	case c == '-':
		p.i++
		v, err := p.unary()
		return -v, err
	case c == '(' || c == '[':
		return p.bracket(map[byte]byte{'(': ')', '[': ']'}[c])
	case c == '\'':
		return p.char()
	case c == '`':
		return p.line()
	case c == '.':
		if p.i+1 < len(p.s) && isWord(p.s[p.i+1]) {
			break
		}
		p.i++
		return p.pseudo(at, "$ip")
	case isWord(c):
		return p.word()
	}
	return 0, p.fail(Syntax, at, "a number, a register or a symbol is expected here")
}

func (p *parser) bracket(end byte) (uint64, error) {
	at := p.i
	p.i++
	v, err := p.binary(0)
	if err != nil {
		return 0, err
	}
	p.space()
	if p.i == len(p.s) || p.s[p.i] != end {
		if p.i == len(p.s) {
			return 0, &Error{Kind: Syntax, Pos: p.i, Help: fmt.Sprintf("'%c' is missing for the '%c' at character %d", end, p.s[at], at+1)}
		}
		return 0, p.fail(Syntax, p.i, "'%c' or an operator is expected here", end)
	}
	p.i++
	return v, nil
}

// char is a character constant.
func (p *parser) char() (uint64, error) {
	r, n := utf8.DecodeRuneInString(p.s[p.i+1:])
	end := p.i + 1 + n
	if n == 0 || end >= len(p.s) || p.s[end] != '\'' || r == utf8.RuneError {
		return 0, p.fail(Syntax, p.i, "a character constant is one character between single quotes")
	}
	p.i = end + 1
	return uint64(r), nil
}

func isWord(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '$' || c == '@' || c == '?' || c == '!' || c == '`'
}

// scan returns the word at the current place: a number, name or operator.
func (p *parser) scan() string {
	i := p.i
	for i < len(p.s) {
		c := p.s[i]
		if c == '!' && i+1 < len(p.s) && p.s[i+1] == '=' {
			break
		}
		if c == ':' && strings.HasPrefix(p.s[i:], "::") {
			i += 2
			if i < len(p.s) && p.s[i] == '~' {
				i++
			}
			continue
		}
		if c == '`' && i > p.i && (p.s[i-1] == '!' || p.s[i-1] == ':') {
			// nt!`anonymous namespace'::name
			if n := strings.IndexByte(p.s[i:], '\''); n > 0 {
				i += n + 1
				continue
			}
		}
		if !isWord(c) {
			break
		}
		i++
	}
	return p.s[p.i:i]
}

// longer are the names that w may be the beginning of, the longest first: with
// what follows it in angle brackets, or with an operator's signs. They end a name
// and begin an operator of the language alike, so symbols decide.
func (p *parser) longer(w string) (out []string) {
	if !strings.Contains(w, "!") {
		return nil
	}
	end := p.i + len(w)
	for range 16 {
		n := end
		if strings.HasSuffix(p.s[p.i:end], "operator") {
			for n < len(p.s) && n < end+3 && strings.IndexByte("=!<>+-*/%&|^~[](),", p.s[n]) >= 0 {
				n++
				out = append(out, p.s[p.i:n])
			}
		} else if n < len(p.s) && p.s[n] == '<' {
			if n = closing(p.s, n); n < 0 {
				break
			}
			out = append(out, p.s[p.i:n])
		}
		if n == end {
			break
		}
		if end = n; strings.HasPrefix(p.s[end:], "::") {
			rest := parser{s: p.s, i: end}
			end += len(rest.scan())
			out = append(out, p.s[p.i:end])
		}
	}
	slices.SortFunc(out, func(a, b string) int { return len(b) - len(a) })
	return out
}

// closing finds the end of the angle brackets that begin at i; -1: there is none.
func closing(s string, i int) int {
	depth := 0
	for ; i < len(s); i++ {
		switch s[i] {
		case '<':
			depth++
		case '>':
			if depth--; depth == 0 {
				return i + 1
			}
		case ';', '"':
			return -1
		}
	}
	return -1
}

// line is a place in a source file between back-ticks.
func (p *parser) line() (uint64, error) {
	at := p.i
	text, _, ok := strings.Cut(p.s[at+1:], "`")
	if !ok {
		return 0, p.fail(Syntax, at, "the closing back-tick of `file:line` is missing")
	}
	v, err := p.env.Line(strings.TrimSpace(text))
	if err != nil {
		return 0, p.unknown(at, text, err)
	}
	p.i = at + len(text) + 2
	return v, nil
}

// unknown says why a name means nothing. Errors that are not about the name stay
// what they are.
func (p *parser) unknown(at int, name string, err error) error {
	var u *Unknown
	if !errors.As(err, &u) {
		return p.wrap(Resolve, at, err)
	}
	k := Resolve
	if u.Ambiguous {
		k = Ambiguous
	}
	return &Error{Kind: k, Pos: at, Near: brief.Text(name, 60), Help: u.Why}
}

// common x86 registers need no `@` and come before symbols.
var common = map[string]bool{
	"eax": true, "ebx": true, "ecx": true, "edx": true, "esi": true, "edi": true,
	"ebp": true, "esp": true, "eip": true, "efl": true,
}

func (p *parser) word() (uint64, error) {
	at := p.i
	w := p.scan()
	switch {
	case w == "":
		return 0, p.fail(Syntax, at, "a number, a register or a symbol is expected here")
	case strings.HasPrefix(w, "@@"):
		return p.evaluator(w)
	case w[0] == '@':
		return p.at(w)
	case w[0] == '$':
		return p.dollar(w)
	}
	v, n, kind := number(w, p.radix, p.prefix)
	switch kind {
	case isNumber:
		p.i += n
		return v, nil
	case tooBig:
		return 0, p.fail(Overflow, at, "the number has more than 64 bits")
	}
	if w[0] >= '0' && w[0] <= '9' {
		base := p.radix
		if len(w) > 1 && w[0] == '0' {
			if b, ok := prefixes[w[1]|0x20]; ok {
				base = b
			}
		}
		return 0, p.fail(Syntax, at, "not a number in base %d (0x, 0n, 0t and 0y in front mean base 16, 10, 8 and 2)", base)
	}
	low := strings.ToLower(w)
	switch low {
	case "not", "hi", "low":
		p.i += len(w)
		v, err := p.unary()
		switch {
		case err != nil:
			return 0, err
		case low == "not":
			return truth(v == 0), nil
		case low == "hi":
			return v >> 16 & 0xffff, nil
		}
		return v & 0xffff, nil
	case "and", "or", "xor", "mod":
		return 0, p.fail(Missing, at, "a value is missing in front of the operator")
	}
	if _, ok := reads[low]; ok {
		return p.memory(at, w)
	}
	return p.name(w)
}

// memory is by, wo, dwo, qwo, poi and their physical twins.
func (p *parser) memory(at int, w string) (uint64, error) {
	r := reads[strings.ToLower(w)]
	p.i += len(w)
	addr, err := p.unary()
	if err != nil {
		return 0, err
	}
	size := r.size
	if size == 0 {
		size = p.env.PointerSize()
	}
	v, err := p.env.Read(r.physical, addr, size)
	if err != nil {
		return 0, p.wrap(Memory, at, err)
	}
	if r.size == 0 && size == 4 {
		v = signExtend32(v)
	}
	return v, nil
}

func signExtend32(v uint64) uint64 { return uint64(int64(int32(v))) }

// name is a register or symbol without `@`.
func (p *parser) name(w string) (uint64, error) {
	at := p.i
	register := func() (uint64, bool, error) {
		if strings.ContainsAny(w, "!:?$`") {
			return 0, false, nil
		}
		return p.env.Register(strings.ToLower(w))
	}
	var why error
	symbol := func(name string) (uint64, bool, error) {
		v, ok, err := p.env.Symbol(name)
		var u *Unknown
		if errors.As(err, &u) {
			// It may be a register; but a name of several things is a symbol.
			if why == nil {
				why = err
			}
			if !u.Ambiguous {
				err = nil
			}
		}
		return v, ok, err
	}
	for _, name := range p.longer(w) {
		if v, ok, err := symbol(name); err != nil {
			return 0, p.unknown(at, name, err)
		} else if ok {
			p.i += len(name)
			return v, nil
		}
	}
	why = nil
	ask := []func() (uint64, bool, error){func() (uint64, bool, error) { return symbol(w) }, register}
	if common[strings.ToLower(w)] {
		ask[0], ask[1] = ask[1], ask[0]
	}
	for _, f := range ask {
		v, ok, err := f()
		if err != nil {
			return 0, p.unknown(at, w, err)
		}
		if ok {
			p.i += len(w)
			return v, nil
		}
	}
	var u *Unknown
	switch {
	case !errors.As(why, &u):
		return 0, p.fail(Resolve, at, "no number in base %d, no register, no module and no symbol that is known", p.radix)
	case !strings.Contains(w, "!"):
		why = &Unknown{Why: fmt.Sprintf("no number in base %d, no register and no module; %s", p.radix, u.Why)}
	}
	return 0, p.unknown(at, w, why)
}

// at is a word with `@` in front.
func (p *parser) at(w string) (uint64, error) {
	at := p.i
	if strings.HasPrefix(p.s[at:], `@!"`) {
		name, _, ok := strings.Cut(p.s[at+3:], `"`)
		if !ok {
			return 0, p.fail(Syntax, at, "the closing quote of the symbol name is missing")
		}
		v, ok, err := p.env.Symbol(name)
		if err != nil {
			return 0, p.unknown(at, name, err)
		}
		if !ok {
			return 0, p.fail(Resolve, at, "no symbol of that name is known")
		}
		p.i = at + 3 + len(name) + 1
		return v, nil
	}
	name := w[1:]
	if strings.HasPrefix(name, "$") {
		p.i++
		return p.dollar(name)
	}
	if name == "" {
		return 0, p.fail(Syntax, at, "'@' stands in front of a register or pseudo-register")
	}
	v, ok, err := p.env.Register(strings.ToLower(name))
	if err != nil {
		return 0, p.wrap(Resolve, at, err)
	}
	if !ok {
		return 0, p.fail(Resolve, at, "the target has no register of that name")
	}
	p.i += len(w)
	return v, nil
}

// dollar is a pseudo-register, a function or a physical memory operator.
func (p *parser) dollar(w string) (uint64, error) {
	at := p.i
	low := strings.ToLower(w)
	if _, ok := reads[low]; ok {
		return p.memory(at, w)
	}
	if f, ok := functions[low]; ok {
		p.i += len(w)
		return p.call(at, low, f)
	}
	if strings.HasPrefix(w, "$!") {
		v, ok, err := p.env.Symbol(w)
		if err != nil {
			return 0, p.unknown(at, w, err)
		}
		if !ok {
			return 0, p.fail(Resolve, at, "the current function has no variable of that name that is known and in memory")
		}
		p.i += len(w)
		return v, nil
	}
	v, err := p.pseudo(at, low)
	if err == nil {
		p.i = at + len(w)
	}
	return v, err
}

func (p *parser) pseudo(at int, name string) (uint64, error) {
	v, ok, err := p.env.Pseudo(name)
	if err != nil {
		return 0, p.wrap(Resolve, at, err)
	}
	if !ok {
		return 0, p.fail(Resolve, at, "there is no pseudo-register of that name")
	}
	return v, nil
}

// evaluator is @@(...), @@masm(...) and @@c++(...).
func (p *parser) evaluator(w string) (uint64, error) {
	at := p.i
	which := strings.ToLower(w[2:])
	p.i += len(w)
	if which == "c" && strings.HasPrefix(p.s[p.i:], "++") {
		which, p.i = "c++", p.i+2
	}
	p.space()
	switch {
	case which == "masm" && p.i < len(p.s) && p.s[p.i] == '(':
		if err := p.enter(at); err != nil {
			return 0, err
		}
		v, err := p.bracket(')')
		p.depth--
		return v, err
	case (which == "c++" || which == "") && p.i < len(p.s) && p.s[p.i] == '(':
		cpp, ok := p.env.(Cpp)
		if !ok {
			return 0, p.fail(Unsupported, at, "there is no C++ evaluator here; write the expression for the MASM evaluator")
		}
		if err := p.enter(at); err != nil {
			return 0, err
		}
		defer func() { p.depth-- }()
		from := p.i + 1
		end := Closing(p.s, p.i)
		if end < 0 {
			return 0, p.fail(Syntax, at, "the closing parenthesis is missing")
		}
		v, err := cpp.Cpp(p.s[from:end])
		var e *Error
		switch {
		case errors.As(err, &e):
			inner := *e
			inner.Pos += from
			return 0, &inner
		case err != nil:
			return 0, p.wrap(Resolve, at, err)
		}
		p.i = end + 1
		return v, nil
	}
	return 0, p.fail(Syntax, at, "@@( ), @@c++( ) or @@masm( ) is expected")
}

// Closing is where the parenthesis at i of s is closed; -1: nowhere. Quotes protect
// what is between them.
func Closing(s string, i int) int {
	depth := 0
	for ; i < len(s); i++ {
		switch s[i] {
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i
			}
		case '"':
			j := strings.IndexByte(s[i+1:], '"')
			if j < 0 {
				return -1
			}
			i += j + 1
		case '\'':
			if i+2 < len(s) && s[i+2] == '\'' { // a character, which may be a parenthesis
				i += 2
			}
		}
	}
	return -1
}
