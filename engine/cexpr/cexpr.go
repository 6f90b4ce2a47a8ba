// Package cexpr evaluates C++ expressions over the types of symbol files: what
// people type behind ??, into dx, and between @@c++( ).
//
// It knows the operators, the conversions and the literals of the language. What
// a name, a type or a register is, and what memory holds, it asks of an Env. It
// calls no functions and knows no classes but as structures. Expressions of the
// other evaluator are in engine/expr, whose errors it uses.
//
// Facts come from the documentation of Microsoft's debuggers ("C++ Numbers and
// Operators", "Sign Extension", "Pseudo-Register Syntax") and from the C++ standard
// as far as Windows has it: int and long have four bytes.
package cexpr

import (
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"openkd/engine/expr"
	"openkd/engine/types"
	"openkd/image/sym"
	"openkd/internal/brief"
)

// Limits.
const (
	MaxLength = 16 << 10 // bytes of an expression
	MaxDepth  = 200      // of brackets and operators in each other
	MaxNames  = 256      // names that are looked for
	MaxRead   = 1 << 20  // bytes of a value
)

// Value is what an expression is.
type Value struct {
	Type types.Type
	// A place: at Addr, if InMemory, or in a register; neither: it has none.
	Addr     uint64
	InMemory bool
	Reg      string // as in "@rax", without the @; "$t1" for a pseudo-register
	// Data is the value, little-endian; nil, with InMemory: not read yet.
	Data []byte
	// Name is the symbol that it is, for messages.
	Name string
}

// Env answers what an expression asks for. Its methods are called on the
// goroutine of Eval, one at a time.
type Env interface {
	// Symbol finds a variable, a function or a constant: "nt!X", "!X", "X", which
	// may be a local variable. The type of what has none is void. false: not
	// known. An error says why it has no value.
	Symbol(name string) (Value, bool, error)
	// Type finds a type by its name, without struct and its like. false: there is
	// none.
	Type(name string) (types.Type, bool, error)
	// Register is a register ("rax") or a pseudo-register ("$proc").
	Register(name string) (Value, bool, error)
	// Read fills b from a virtual address as far as it can be read.
	Read(addr uint64, b []byte) (int, error)
	Write(addr uint64, b []byte) error
	// SetRegister changes a register or a pseudo-register to a value.
	SetRegister(name string, v Value) error
	// Masm is the value of a MASM expression.
	Masm(text string) (uint64, error)
	// PointerSize is 4 or 8 bytes.
	PointerSize() int
}

// Eval is the value of all of s. Errors are *expr.Error.
func Eval(s string, env Env) (Value, error) {
	v, rest, err := EvalPrefix(s, env)
	if err != nil {
		return Value{}, err
	}
	if rest != "" {
		return Value{}, &expr.Error{Kind: expr.Extra, Pos: len(s) - len(rest), Near: near(rest), Help: "an operator or the end is expected here"}
	}
	return v, nil
}

// EvalPrefix evaluates as much of s as is one expression and returns the rest,
// without the space in front.
func EvalPrefix(s string, env Env) (Value, string, error) {
	if len(s) > MaxLength {
		return Value{}, "", &expr.Error{Kind: expr.Syntax, Near: near(s), Help: fmt.Sprintf("an expression has at most %d characters", MaxLength)}
	}
	p := &parser{s: s, env: env}
	n, err := p.comma()
	if err != nil {
		return Value{}, "", err
	}
	p.space()
	rest := s[p.i:]
	if strings.HasPrefix(rest, "//") {
		rest = ""
	}
	e := &evaluator{s: s, env: env}
	v, err := e.eval(n)
	return v, rest, err
}

// Uint is a value as a command takes it: a number, or the address of what has
// one.
func Uint(v Value, env Env) (uint64, error) {
	e := &evaluator{env: env}
	v, err := e.rvalue(&node{}, v)
	if err != nil {
		return 0, err
	}
	switch {
	case v.Type.IsInteger(), v.Type.Kind == sym.Pointer:
		return e.bits(v), nil
	case v.Type.Kind == sym.Float:
		return uint64(int64(v.Type.Float(v.Data))), nil
	}
	return 0, &expr.Error{Kind: expr.Operand, Help: "a number or a pointer is expected, and this is a " + v.Type.C(types.Expression)}
}

// Load reads the value of what is in memory, as far as it can be read.
func Load(v Value, env Env) ([]byte, error) {
	if v.Data != nil || !v.InMemory {
		return v.Data, nil
	}
	b := make([]byte, min(size(v.Type), MaxRead))
	n, err := env.Read(v.Addr, b)
	if n > 0 || len(b) == 0 {
		return b[:n], nil
	}
	return nil, err
}

// size is how many bytes a value has.
func size(t types.Type) uint64 {
	if t.Kind == sym.BitField {
		if e, err := t.Element(); err == nil {
			return e.Size
		}
	}
	return t.Size
}

// near is the word that begins s.
func near(s string) string {
	n := 0
	for n < len(s) && (isName(s[n]) || n > 0 && (s[n] == '!' && n+1 < len(s) && s[n+1] != '=' || s[n] == ':' && strings.HasPrefix(s[n-1:], "::") || strings.HasPrefix(s[n:], "::"))) {
		n++
	}
	if n == 0 && s != "" {
		_, n = utf8.DecodeRuneInString(s)
	}
	return brief.Text(strings.ToValidUTF8(s[:n], "?"), 40)
}

func isName(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '_' || c == '$' || c == '?'
}

func isStart(c byte) bool { return isName(c) && (c < '0' || c > '9') && c != '?' }

// evaluator computes the value of a tree.
type evaluator struct {
	s   string
	env Env
	dry bool // only the type counts: nothing is read and nothing changed
}

func (e *evaluator) fail(k expr.Kind, n *node, help string, args ...any) error {
	if len(args) > 0 {
		help = fmt.Sprintf(help, args...)
	}
	return &expr.Error{Kind: k, Pos: n.pos, Near: near(e.s[min(n.pos, len(e.s)):]), Help: help}
}

func (e *evaluator) wrap(k expr.Kind, n *node, err error) error {
	var x *expr.Error
	if errors.As(err, &x) {
		return err
	}
	return &expr.Error{Kind: k, Pos: n.pos, Near: near(e.s[min(n.pos, len(e.s)):]), Help: err.Error(), Err: err}
}

func (e *evaluator) pointer() int { return e.env.PointerSize() }

// word is the type of a size or a difference: unsigned says which.
func (e *evaluator) word(unsigned bool) types.Type {
	switch {
	case e.pointer() == 8 && unsigned:
		return types.UInt64
	case e.pointer() == 8:
		return types.Int64
	case unsigned:
		return types.UInt
	}
	return types.Int
}

func (e *evaluator) eval(n *node) (Value, error) {
	switch n.op {
	case opValue:
		return n.value, nil
	case opSymbol:
		if n.err != nil {
			return Value{}, e.wrap(expr.Resolve, n, n.err)
		}
		return n.value, nil
	case opRegister:
		v, ok, err := e.env.Register(n.text)
		if err != nil {
			return Value{}, e.wrap(expr.Resolve, n, err)
		}
		if !ok {
			return Value{}, e.fail(expr.Resolve, n, "there is no register and no pseudo-register of that name")
		}
		return v, nil
	case opMasm:
		v, err := e.env.Masm(n.text)
		if err != nil {
			return Value{}, e.inner(n, err)
		}
		return number(types.UInt64, v), nil
	case opSizeof:
		t := n.typ
		if n.a != nil {
			v, err := e.typeOf(n.a)
			if err != nil {
				return Value{}, err
			}
			t = v
		}
		return number(e.word(true), size(t)), nil
	case opCast:
		v, err := e.eval(n.a)
		if err != nil {
			return Value{}, err
		}
		return e.cast(n, v, n.typ)
	case opField, opArrow:
		return e.field(n)
	case opIndex:
		return e.index(n)
	case opDeref:
		v, err := e.eval(n.a)
		if err != nil {
			return Value{}, err
		}
		return e.deref(n, v)
	case opAddress:
		return e.address(n)
	case opNeg, opPlus, opNot, opCompl:
		return e.unary(n)
	case opPreInc, opPreDec, opPostInc, opPostDec:
		return e.step(n)
	case opAnd, opOr:
		return e.logic(n)
	case opCond:
		c, err := e.truth(n.a)
		if err != nil {
			return Value{}, err
		}
		if c {
			return e.eval(n.b)
		}
		return e.eval(n.c)
	case opComma:
		if _, err := e.eval(n.a); err != nil {
			return Value{}, err
		}
		return e.eval(n.b)
	case opAssign:
		return e.assign(n)
	case opMacro:
		return e.macro(n)
	}
	a, err := e.operand(n.a)
	if err != nil {
		return Value{}, err
	}
	b, err := e.operand(n.b)
	if err != nil {
		return Value{}, err
	}
	return e.binary(n, a, b)
}

// inner puts an error of a MASM expression where it stands.
func (e *evaluator) inner(n *node, err error) error {
	var x *expr.Error
	if !errors.As(err, &x) {
		return e.wrap(expr.Resolve, n, err)
	}
	out := *x
	out.Pos += n.at
	return &out
}

// number is a value of a type that has no place.
func number(t types.Type, v uint64) Value {
	b := make([]byte, 8)
	for i := range b {
		b[i] = byte(v >> (8 * i))
	}
	return Value{Type: t, Data: b[:min(t.Size, 8)]}
}

func floating(t types.Type, f float64) Value {
	if t.Size == 4 {
		v := number(types.UInt, uint64(math.Float32bits(float32(f))))
		v.Type = t
		return v
	}
	v := number(types.UInt64, math.Float64bits(f))
	v.Type = t
	return v
}

func truth(b bool) Value {
	if b {
		return number(types.Bool, 1)
	}
	return number(types.Bool, 0)
}

// rvalue reads what is in a place. Arrays become pointers to their first element,
// functions pointers to themselves.
func (e *evaluator) rvalue(n *node, v Value) (Value, error) {
	switch v.Type.Kind {
	case sym.Array:
		if v.InMemory {
			to, err := v.Type.Element()
			if err != nil {
				return Value{}, e.wrap(expr.Operand, n, err)
			}
			p := number(types.UInt64, v.Addr)
			p.Type = types.PointerTo(to, e.pointer())
			p.Data = p.Data[:e.pointer()]
			return p, nil
		}
		return v, nil
	case sym.Func:
		p := number(types.UInt64, v.Addr)
		p.Type = types.PointerTo(v.Type, e.pointer())
		p.Data = p.Data[:e.pointer()]
		return p, nil
	case 0, sym.Void, sym.Opaque:
		if v.InMemory {
			return Value{}, e.fail(expr.Unsupported, n, "%s", noType(v))
		}
		return v, nil
	}
	if v.Data == nil && v.InMemory {
		want := size(v.Type)
		if want > MaxRead {
			return Value{}, e.fail(expr.Operand, n, "a value of %d bytes is more than is read at once", want)
		}
		b := make([]byte, want)
		if e.dry {
			v.Data = b
			return v, nil
		}
		got, err := e.env.Read(v.Addr, b)
		if uint64(got) < want {
			if err == nil {
				err = fmt.Errorf("the memory at %s cannot be read", types.Pointer(v.Addr+uint64(got), uint64(e.pointer())))
			}
			return Value{}, e.wrap(expr.Memory, n, err)
		}
		v.Data = b
	}
	if uint64(len(v.Data)) < size(v.Type) {
		return Value{}, e.fail(expr.Memory, n, "the value is not there")
	}
	return v, nil
}

func noType(v Value) string {
	if v.Name != "" {
		return "no type is known for " + v.Name + "; cast its address: *(type*)&" + v.Name
	}
	return "a void has no value; cast its address to a pointer to something"
}

// operand evaluates to a value that operators take.
func (e *evaluator) operand(n *node) (Value, error) {
	v, err := e.eval(n)
	if err != nil {
		return Value{}, err
	}
	return e.rvalue(n, v)
}

// bits are those of a number or a pointer, widened as its type says.
func (e *evaluator) bits(v Value) uint64 {
	t := v.Type
	if t.Kind == sym.BitField {
		x := raw(v.Data) >> (t.BitPos & 63)
		el, _ := t.Element()
		if t.BitLen == 0 || t.BitLen >= 64 {
			return x
		}
		if el.Signed {
			return uint64(int64(x<<(64-t.BitLen)) >> (64 - t.BitLen))
		}
		return x & (1<<t.BitLen - 1)
	}
	x := raw(v.Data[:min(uint64(len(v.Data)), t.Size, 8)])
	if t.Size >= 8 || t.Size == 0 {
		return x
	}
	shift := 64 - 8*t.Size
	sign := t.Signed
	if t.Kind == sym.Enum {
		el, err := t.Element()
		sign = err != nil || el.Signed || el.Size == 0
	}
	if sign || t.Kind == sym.Pointer {
		return uint64(int64(x<<shift) >> shift)
	}
	return x << shift >> shift
}

func raw(b []byte) uint64 {
	var v uint64
	for i := min(len(b), 8) - 1; i >= 0; i-- {
		v = v<<8 | uint64(b[i])
	}
	return v
}

// promote is the type that a number has in arithmetic.
func promote(t types.Type) types.Type {
	switch t.Kind {
	case sym.Bool, sym.Char, sym.WChar:
		if t.Size >= 4 {
			return types.UInt
		}
		return types.Int
	case sym.Int:
		if t.Size < 4 {
			return types.Int
		}
		if t.Size > 8 {
			return types.UInt64
		}
		return t
	case sym.Enum:
		if el, err := t.Element(); err == nil && el.Kind == sym.Int {
			return promote(el)
		}
		return types.Int
	case sym.BitField:
		el, err := t.Element()
		if err != nil || t.BitLen < 32 {
			return types.Int
		}
		return promote(el)
	}
	return t
}

// rank orders types for arithmetic.
func rank(t types.Type) int {
	switch {
	case t.Kind == sym.Float && t.Size == 8:
		return 7
	case t.Kind == sym.Float:
		return 6
	case t.Size == 8 && !t.Signed:
		return 5
	case t.Size == 8:
		return 4
	case t.C(types.Model) == "unsigned long":
		return 3
	case t.C(types.Model) == "long":
		return 2
	case !t.Signed:
		return 1
	}
	return 0
}

// common is the type of the result of arithmetic.
func common(a, b types.Type) types.Type {
	a, b = promote(a), promote(b)
	ra, rb := rank(a), rank(b)
	if ra < rb {
		a, b, ra, rb = b, a, rb, ra
	}
	if ra == 2 && rb == 1 { // long and unsigned int have the same size
		return types.ULong
	}
	if a.Kind == sym.Float && a.Size != 4 && a.Size != 8 {
		return types.Double
	}
	return a
}

func (e *evaluator) real(v Value) float64 {
	if v.Type.Kind == sym.Float {
		return v.Type.Float(v.Data)
	}
	x := e.bits(v)
	if t := promote(v.Type); t.Signed {
		return float64(int64(x))
	}
	return float64(x)
}

func arithmetic(t types.Type) bool { return t.IsInteger() || t.Kind == sym.Float && t.Size <= 8 }

// truth is a value as a condition.
func (e *evaluator) truth(n *node) (bool, error) {
	v, err := e.operand(n)
	if err != nil {
		return false, err
	}
	switch {
	case v.Type.Kind == sym.Float && v.Type.Size <= 8:
		return v.Type.Float(v.Data) != 0, nil
	case v.Type.IsInteger(), v.Type.Kind == sym.Pointer:
		return e.bits(v) != 0, nil
	}
	return false, e.fail(expr.Operand, n, "a %s is neither true nor false", v.Type.C(types.Expression))
}

func (e *evaluator) logic(n *node) (Value, error) {
	a, err := e.truth(n.a)
	if err != nil || a == (n.op == opOr) {
		return truth(a), err
	}
	b, err := e.truth(n.b)
	return truth(b), err
}

func (e *evaluator) unary(n *node) (Value, error) {
	v, err := e.operand(n.a)
	if err != nil {
		return Value{}, err
	}
	if n.op == opNot {
		b, err := e.truth(&node{op: opValue, value: v, pos: n.pos})
		return truth(!b), err
	}
	if n.op == opPlus && v.Type.Kind == sym.Pointer {
		return Value{Type: v.Type, Data: v.Data}, nil
	}
	if !arithmetic(v.Type) || n.op == opCompl && !v.Type.IsInteger() {
		return Value{}, e.fail(expr.Operand, n, "'%s' does not take a %s", opText[n.op], v.Type.C(types.Expression))
	}
	t := promote(v.Type)
	if t.Kind == sym.Float {
		f := e.real(v)
		if n.op == opNeg {
			f = -f
		}
		return floating(t, f), nil
	}
	x := e.bits(v)
	switch n.op {
	case opNeg:
		x = -x
	case opCompl:
		x = ^x
	}
	return number(t, x), nil
}

// binary is arithmetic, comparison and shifts.
func (e *evaluator) binary(n *node, a, b Value) (Value, error) {
	bad := func() error {
		return e.fail(expr.Operand, n, "'%s' does not take a %s and a %s", opText[n.op], a.Type.C(types.Expression), b.Type.C(types.Expression))
	}
	pa, pb := a.Type.Kind == sym.Pointer, b.Type.Kind == sym.Pointer
	if pa || pb {
		switch n.op {
		case opAdd, opSub:
			return e.pointerMath(n, a, b, bad)
		case opEq, opNe, opLt, opGt, opLe, opGe:
			if (pa || a.Type.IsInteger()) && (pb || b.Type.IsInteger()) {
				x, y := e.bits(a), e.bits(b)
				if e.pointer() == 4 {
					x, y = uint64(uint32(x)), uint64(uint32(y))
				}
				return truth(compare(n.op, x < y, x == y)), nil
			}
		}
		return Value{}, bad()
	}
	if !arithmetic(a.Type) || !arithmetic(b.Type) {
		return Value{}, bad()
	}
	if n.op == opShl || n.op == opShr {
		if !a.Type.IsInteger() || !b.Type.IsInteger() {
			return Value{}, bad()
		}
		t := promote(a.Type)
		x, by := e.bits(a), e.bits(b)&(8*t.Size-1)
		switch {
		case n.op == opShl:
			x <<= by
		case t.Signed:
			x = uint64(int64(x) >> by)
		default:
			x >>= by
		}
		return number(t, x), nil
	}
	t := common(a.Type, b.Type)
	if t.Kind == sym.Float {
		x, y := e.real(a), e.real(b)
		switch n.op {
		case opAdd:
			return floating(t, x+y), nil
		case opSub:
			return floating(t, x-y), nil
		case opMul:
			return floating(t, x*y), nil
		case opDiv:
			return floating(t, x/y), nil
		case opEq, opNe, opLt, opGt, opLe, opGe:
			return truth(compare(n.op, x < y, x == y)), nil
		}
		return Value{}, bad()
	}
	x, y := convert(e.bits(a), t), convert(e.bits(b), t)
	switch n.op {
	case opAdd:
		x += y
	case opSub:
		x -= y
	case opMul:
		x *= y
	case opDiv, opMod:
		if y == 0 && e.dry {
			y = 1
		}
		if y == 0 {
			return Value{}, e.fail(expr.Operand, n.b, "division by zero")
		}
		switch {
		case t.Signed && int64(y) == -1: // the smallest number has no opposite
			if x = -x; n.op == opMod {
				x = 0
			}
		case t.Signed && n.op == opDiv:
			x = uint64(int64(x) / int64(y))
		case t.Signed:
			x = uint64(int64(x) % int64(y))
		case n.op == opDiv:
			x /= y
		default:
			x %= y
		}
	case opBitAnd:
		x &= y
	case opBitOr:
		x |= y
	case opBitXor:
		x ^= y
	case opEq, opNe, opLt, opGt, opLe, opGe:
		less := x < y
		if t.Signed {
			less = int64(x) < int64(y)
		}
		return truth(compare(n.op, less, x == y)), nil
	default:
		return Value{}, bad()
	}
	return number(t, x), nil
}

// convert brings a number into the range of a type.
func convert(x uint64, t types.Type) uint64 {
	if t.Size >= 8 || t.Size == 0 {
		return x
	}
	shift := 64 - 8*t.Size
	if t.Signed {
		return uint64(int64(x<<shift) >> shift)
	}
	return x << shift >> shift
}

func compare(o op, less, equal bool) bool {
	switch o {
	case opEq:
		return equal
	case opNe:
		return !equal
	case opLt:
		return less
	case opLe:
		return less || equal
	case opGt:
		return !less && !equal
	}
	return !less
}

// pointerMath is a pointer and a number, or the distance of two pointers.
func (e *evaluator) pointerMath(n *node, a, b Value, bad func() error) (Value, error) {
	if b.Type.Kind == sym.Pointer && a.Type.Kind != sym.Pointer && n.op == opAdd {
		a, b = b, a
	}
	if a.Type.Kind != sym.Pointer {
		return Value{}, bad()
	}
	to, err := a.Type.Element()
	if err != nil {
		return Value{}, e.wrap(expr.Operand, n, err)
	}
	if to.Kind == sym.Func {
		return Value{}, e.fail(expr.Operand, n, "a pointer to a function is no place to count from; cast it to char* first")
	}
	unit := max(to.Size, 1)
	if b.Type.Kind == sym.Pointer {
		if n.op != opSub {
			return Value{}, bad()
		}
		return number(e.word(false), uint64(int64(e.bits(a)-e.bits(b))/int64(min(unit, math.MaxInt64)))), nil
	}
	if !b.Type.IsInteger() {
		return Value{}, bad()
	}
	d := e.bits(b) * unit
	if n.op == opSub {
		d = -d
	}
	v := number(types.UInt64, e.bits(a)+d)
	v.Type, v.Data = a.Type, v.Data[:min(a.Type.Size, 8)]
	return v, nil
}

// deref is what a pointer leads to.
func (e *evaluator) deref(n *node, v Value) (Value, error) {
	v, err := e.rvalue(n, v)
	if err != nil {
		return Value{}, err
	}
	if v.Type.Kind == sym.Array { // in a register
		return e.element(n, v, 0)
	}
	if v.Type.Kind != sym.Pointer {
		return Value{}, e.fail(expr.Operand, n, "a %s leads nowhere: it is no pointer", v.Type.C(types.Expression))
	}
	to, err := v.Type.Element()
	if err != nil {
		return Value{}, e.wrap(expr.Operand, n, err)
	}
	return Value{Type: to, Addr: e.bits(v), InMemory: true}, nil
}

func (e *evaluator) index(n *node) (Value, error) {
	a, err := e.eval(n.a)
	if err != nil {
		return Value{}, err
	}
	i, err := e.operand(n.b)
	if err != nil {
		return Value{}, err
	}
	if !i.Type.IsInteger() {
		return Value{}, e.fail(expr.Operand, n.b, "an index is a whole number")
	}
	if a.Type.Kind == sym.Array && !a.InMemory {
		return e.element(n, a, e.bits(i))
	}
	if a, err = e.rvalue(n.a, a); err != nil {
		return Value{}, err
	}
	if a.Type.Kind != sym.Pointer {
		return Value{}, e.fail(expr.Operand, n, "a %s has no elements", a.Type.C(types.Expression))
	}
	p, err := e.pointerMath(&node{op: opAdd, pos: n.pos}, a, i, func() error { return e.fail(expr.Operand, n, "this is no index") })
	if err != nil {
		return Value{}, err
	}
	return e.deref(n, p)
}

// element is one of an array that is in no memory.
func (e *evaluator) element(n *node, a Value, i uint64) (Value, error) {
	to, err := a.Type.Element()
	if err != nil {
		return Value{}, e.wrap(expr.Operand, n, err)
	}
	if i >= a.Type.Count || (i+1)*to.Size > uint64(len(a.Data)) {
		return Value{}, e.fail(expr.Operand, n, "there is no element %d", i)
	}
	return Value{Type: to, Data: a.Data[i*to.Size : (i+1)*to.Size]}, nil
}

// field is a member of a structure, or of the one that a pointer leads to.
func (e *evaluator) field(n *node) (Value, error) {
	v, err := e.eval(n.a)
	if err != nil {
		return Value{}, err
	}
	if n.op == opArrow || v.Type.Kind == sym.Pointer && v.Type.Reference {
		if v.Type.HasMembers() {
			return Value{}, e.fail(expr.Operand, n, "this is a %s and no pointer to one: use '.'", v.Type.C(types.Expression))
		}
		if v, err = e.deref(n, v); err != nil {
			return Value{}, err
		}
	} else if v.Type.Kind == sym.Pointer {
		return Value{}, e.fail(expr.Operand, n, "this is a pointer: use '->'")
	}
	if !v.Type.HasMembers() {
		if v.Type.Kind == 0 || v.Type.Kind == sym.Void {
			return Value{}, e.fail(expr.Operand, n, "%s", noType(v))
		}
		return Value{}, e.fail(expr.Operand, n, "a %s has no fields", v.Type.C(types.Expression))
	}
	t, m, err := v.Type.Find(n.text)
	if err != nil {
		return Value{}, e.fail(expr.Resolve, n, "%s", err.Error())
	}
	if m.Kind == sym.StaticField {
		name := m.Of.Name + "::" + m.Name
		if m.Of.Module != "" {
			name = m.Of.Module + "!" + name
		}
		s, ok, err := e.env.Symbol(name)
		if err != nil || !ok {
			return Value{}, e.fail(expr.Resolve, n, "%s is static, and its address is not known", name)
		}
		return s, nil
	}
	out := Value{Type: t, InMemory: v.InMemory, Addr: v.Addr + m.Offset}
	if v.Data != nil {
		if m.Offset+size(t) > uint64(len(v.Data)) || m.Offset > uint64(len(v.Data)) {
			return Value{}, e.fail(expr.Memory, n, "the value is not there")
		}
		out.Data = v.Data[m.Offset : m.Offset+size(t)]
	}
	return out, nil
}

func (e *evaluator) address(n *node) (Value, error) {
	v, err := e.eval(n.a)
	if err != nil {
		return Value{}, err
	}
	if v.Type.Kind == sym.BitField {
		return Value{}, e.fail(expr.Operand, n, "a bit field has no address")
	}
	if !v.InMemory && v.Type.Kind != sym.Func {
		if v.Reg != "" {
			return Value{}, e.fail(expr.Operand, n, "it is in the register %s and has no address", v.Reg)
		}
		return Value{}, e.fail(expr.Operand, n, "this has no address")
	}
	p := number(types.UInt64, v.Addr)
	p.Type = types.PointerTo(v.Type, e.pointer())
	p.Data = p.Data[:e.pointer()]
	return p, nil
}

// cast makes a value one of another type.
func (e *evaluator) cast(n *node, v Value, t types.Type) (Value, error) {
	if t.HasMembers() {
		// Registers and numbers are no structures, but what is at a place may be
		// looked at as another one.
		if v.InMemory {
			return Value{Type: t, Addr: v.Addr, InMemory: true}, nil
		}
		return Value{}, e.fail(expr.Operand, n, "a %s cannot become a %s; cast a pointer", v.Type.C(types.Expression), t.C(types.Expression))
	}
	if v.InMemory && v.Type.Kind != sym.Array && (v.Type.Kind == 0 || v.Type.Kind == sym.Void) && t.Kind == sym.Pointer {
		return Value{}, e.fail(expr.Unsupported, n, "%s", noType(v))
	}
	v, err := e.rvalue(n, v)
	if err != nil {
		return Value{}, err
	}
	switch {
	case t.Kind == 0 || t.Kind == sym.Void:
		return Value{Type: types.Void}, nil
	case t.Kind == sym.Array, t.Kind == sym.Func:
		return Value{}, e.fail(expr.Operand, n, "nothing can become a %s; cast to a pointer", t.C(types.Expression))
	case v.Type.HasMembers() || v.Type.Kind == sym.Array || v.Type.Kind == 0 || v.Type.Kind == sym.Void:
		return Value{}, e.fail(expr.Operand, n, "a %s cannot become a %s", v.Type.C(types.Expression), t.C(types.Expression))
	case t.Kind == sym.Float:
		if t.Size != 4 && t.Size != 8 || v.Type.Kind == sym.Pointer {
			return Value{}, e.fail(expr.Operand, n, "a %s cannot become a %s", v.Type.C(types.Expression), t.C(types.Expression))
		}
		return floating(t, e.real(v)), nil
	case t.Kind == sym.Bool:
		b, err := e.truth(&node{op: opValue, value: v, pos: n.pos})
		out := truth(b)
		out.Type = t
		for uint64(len(out.Data)) < t.Size {
			out.Data = append(out.Data, 0)
		}
		return out, err
	case v.Type.Kind == sym.Float:
		f := v.Type.Float(v.Data)
		if t.Kind == sym.Pointer {
			return Value{}, e.fail(expr.Operand, n, "a %s cannot become a pointer", v.Type.C(types.Expression))
		}
		return number(t, uint64(int64(f))), nil
	}
	x := e.bits(v)
	out := number(t, x)
	for uint64(len(out.Data)) < t.Size && len(out.Data) < 16 {
		out.Data = append(out.Data, byte(int64(x)>>63))
	}
	return out, nil
}

// step is ++ and --.
func (e *evaluator) step(n *node) (Value, error) {
	place, err := e.eval(n.a)
	if err != nil {
		return Value{}, err
	}
	was, err := e.rvalue(n.a, place)
	if err != nil {
		return Value{}, err
	}
	o := opAdd
	if n.op == opPreDec || n.op == opPostDec {
		o = opSub
	}
	sum, err := e.binary(&node{op: o, pos: n.pos, b: n.a}, was, number(types.Int, 1))
	if err != nil {
		return Value{}, err
	}
	is, err := e.store(n, place, sum)
	if n.op == opPostInc || n.op == opPostDec {
		return Value{Type: was.Type, Data: was.Data}, err
	}
	return is, err
}

func (e *evaluator) assign(n *node) (Value, error) {
	place, err := e.eval(n.a)
	if err != nil {
		return Value{}, err
	}
	v, err := e.eval(n.b)
	if err != nil {
		return Value{}, err
	}
	if n.with != 0 {
		a, err := e.rvalue(n.a, place)
		if err != nil {
			return Value{}, err
		}
		b, err := e.rvalue(n.b, v)
		if err != nil {
			return Value{}, err
		}
		if v, err = e.binary(&node{op: n.with, pos: n.pos, b: n.b}, a, b); err != nil {
			return Value{}, err
		}
	}
	return e.store(n, place, v)
}

// store puts a value into a place and returns the place as it is then.
func (e *evaluator) store(n *node, place, v Value) (Value, error) {
	if !place.InMemory && place.Reg == "" {
		return Value{}, e.fail(expr.Operand, n, "what stands in front is no place that can be changed")
	}
	if e.dry {
		return place, nil
	}
	v, err := e.rvalue(n, v)
	if err != nil {
		return Value{}, err
	}
	t := place.Type
	if place.Reg != "" {
		if !strings.HasPrefix(place.Reg, "$t") {
			if v, err = e.cast(n, v, t); err != nil {
				return Value{}, err
			}
		}
		if err := e.env.SetRegister(place.Reg, v); err != nil {
			return Value{}, e.wrap(expr.Operand, n, err)
		}
		return Value{Type: v.Type, Reg: place.Reg, Data: v.Data}, nil
	}
	switch {
	case t.HasMembers():
		if !v.Type.HasMembers() || v.Type.Size != t.Size || uint64(len(v.Data)) < t.Size {
			return Value{}, e.fail(expr.Operand, n, "a %s cannot become a %s", v.Type.C(types.Expression), t.C(types.Expression))
		}
	case t.Kind == sym.Array || t.Kind == sym.Func || t.Kind == 0 || t.Kind == sym.Void:
		return Value{}, e.fail(expr.Operand, n, "a %s cannot be changed as a whole", t.C(types.Expression))
	case t.Kind == sym.BitField:
		whole, err := e.rvalue(n, Value{Type: place.Type, Addr: place.Addr, InMemory: true})
		if err != nil {
			return Value{}, err
		}
		if !v.Type.IsInteger() {
			return Value{}, e.fail(expr.Operand, n, "a bit field holds a whole number")
		}
		mask := uint64(1)<<t.BitLen - 1
		if t.BitLen >= 64 {
			mask = ^uint64(0)
		}
		x := raw(whole.Data)&^(mask<<(t.BitPos&63)) | e.bits(v)&mask<<(t.BitPos&63)
		out := number(types.UInt64, x)
		v = Value{Type: t, Data: out.Data[:min(uint64(len(out.Data)), size(t))]}
	default:
		if v, err = e.cast(n, v, t); err != nil {
			return Value{}, err
		}
	}
	if err := e.env.Write(place.Addr, v.Data); err != nil {
		return Value{}, e.wrap(expr.Memory, n, err)
	}
	return Value{Type: t, Addr: place.Addr, InMemory: true, Data: v.Data, Name: place.Name}, nil
}

// typeOf is the type of an expression whose value is not needed.
func (e *evaluator) typeOf(n *node) (types.Type, error) {
	was := e.dry
	e.dry = true
	v, err := e.eval(n)
	e.dry = was
	return v.Type, err
}

// macro is one of the macros of winnt.h.
func (e *evaluator) macro(n *node) (Value, error) {
	word := func(v uint64) Value { return number(e.word(true), v) }
	switch n.text {
	case "FIELD_OFFSET", "RTL_FIELD_SIZE", "RTL_SIZEOF_THROUGH_FIELD":
		t, at, err := n.typ.Path(n.field)
		if err != nil {
			return Value{}, e.fail(expr.Resolve, n, "%s", err.Error())
		}
		switch n.text {
		case "FIELD_OFFSET":
			return number(types.Long, at), nil
		case "RTL_FIELD_SIZE":
			return word(size(t)), nil
		}
		return word(at + size(t)), nil
	case "CONTAINING_RECORD":
		v, err := e.operand(n.a)
		if err != nil {
			return Value{}, err
		}
		if !v.Type.IsInteger() && v.Type.Kind != sym.Pointer {
			return Value{}, e.fail(expr.Operand, n.a, "an address is expected here")
		}
		_, at, err := n.typ.Path(n.field)
		if err != nil {
			return Value{}, e.fail(expr.Resolve, n, "%s", err.Error())
		}
		p := number(types.UInt64, e.bits(v)-at)
		p.Type = types.PointerTo(n.typ, e.pointer())
		p.Data = p.Data[:e.pointer()]
		return p, nil
	case "RTL_NUMBER_OF":
		t, err := e.typeOf(n.a)
		if err != nil {
			return Value{}, err
		}
		if t.Kind != sym.Array {
			return Value{}, e.fail(expr.Operand, n.a, "this is no array")
		}
		return word(t.Count), nil
	case "RTL_CONTAINS_FIELD":
		v, err := e.eval(n.a)
		if err != nil {
			return Value{}, err
		}
		if v.Type.Kind == sym.Pointer {
			if v, err = e.deref(n, v); err != nil {
				return Value{}, err
			}
		}
		b, err := e.operand(n.b)
		if err != nil {
			return Value{}, err
		}
		t, at, err := v.Type.Path(n.field)
		if err != nil {
			return Value{}, e.fail(expr.Resolve, n, "%s", err.Error())
		}
		return truth(e.bits(b) >= at+size(t)), nil
	}
	return Value{}, e.fail(expr.Resolve, n, "there is no such macro")
}
