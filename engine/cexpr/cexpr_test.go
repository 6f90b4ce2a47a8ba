package cexpr

import (
	"bytes"
	"context"
	stdpe "debug/pe"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"testing"

	"openkd/engine/expr"
	"openkd/engine/types"
	"openkd/image/pdb"
	"openkd/image/sym"
)

// fake answers out of a program's PDB, and of its image laid out at base.
type fake struct {
	f      sym.File
	mem    []byte
	base   uint64
	ps     int
	regs   map[string]Value
	writes int
	asked  int
}

var _ Env = (*fake)(nil)

func newFake(t testing.TB, name string, ps int) *fake {
	t.Helper()
	f, err := pdb.Open("../../image/pdb/testdata/" + name + ".pdb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	im, err := stdpe.Open("../../image/pdb/testdata/" + name + ".exe")
	if err != nil {
		t.Fatal(err)
	}
	defer im.Close()
	e := &fake{f: f, base: 0x140000000, ps: ps, regs: map[string]Value{}}
	if ps == 4 {
		e.base = 0x400000
	}
	for _, s := range im.Sections {
		b := make([]byte, s.VirtualSize)
		if _, err := s.ReadAt(b[:min(s.VirtualSize, s.Size)], 0); err != nil && err != io.EOF {
			t.Fatal(err)
		}
		if end := int(s.VirtualAddress) + len(b); end > len(e.mem) {
			e.mem = append(e.mem, make([]byte, end-len(e.mem))...)
		}
		copy(e.mem[s.VirtualAddress:], b)
	}
	e.regs["rax"] = Value{Type: types.UInt64, Data: []byte{0xFE, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}, Reg: "rax"}
	e.regs["$t1"] = Value{Type: types.UInt64, Data: []byte{5, 0, 0, 0, 0, 0, 0, 0}, Reg: "$t1"}
	return e
}

func (e *fake) Symbol(name string) (Value, bool, error) {
	e.asked++
	name = strings.TrimPrefix(name, "app!")
	list, err := e.f.ByName(name)
	if err != nil || len(list) == 0 {
		return Value{}, false, err
	}
	for _, s := range list {
		switch {
		case s.Kind == sym.Constant:
			return number(types.Int, uint64(s.Value)), true, nil
		case s.Kind == sym.TypeDef, s.Type == 0:
			continue
		}
		t, err := types.Of(e.f, s.Type, "app")
		return Value{Type: t, Addr: e.base + uint64(s.RVA), InMemory: true, Name: name}, true, err
	}
	if list[0].Kind == sym.TypeDef {
		return Value{}, false, nil
	}
	return Value{Type: types.Void, Addr: e.base + uint64(list[0].RVA), InMemory: true, Name: name}, true, nil
}

func (e *fake) Type(name string) (types.Type, bool, error) {
	e.asked++
	id, err := e.f.TypeByName(strings.TrimPrefix(name, "app!"))
	if err != nil || id == 0 {
		return types.Type{}, false, err
	}
	t, err := types.Of(e.f, id, "app")
	return t, err == nil, err
}

func (e *fake) Register(name string) (Value, bool, error) {
	v, ok := e.regs[name]
	return v, ok, nil
}

func (e *fake) Read(addr uint64, b []byte) (int, error) {
	if addr < e.base || addr-e.base >= uint64(len(e.mem)) {
		return 0, fmt.Errorf("the memory at %x cannot be read", addr)
	}
	return copy(b, e.mem[addr-e.base:]), nil
}

func (e *fake) Write(addr uint64, b []byte) error {
	if addr < e.base || addr-e.base+uint64(len(b)) > uint64(len(e.mem)) {
		return errors.New("the memory cannot be written")
	}
	e.writes++
	copy(e.mem[addr-e.base:], b)
	return nil
}

func (e *fake) SetRegister(name string, v Value) error {
	if _, ok := e.regs[name]; !ok {
		return errors.New("no such register")
	}
	v.Reg = name
	e.regs[name] = v
	return nil
}

func (e *fake) Masm(text string) (uint64, error) {
	if text == "bad" {
		return 0, &expr.Error{Kind: expr.Resolve, Pos: 1, Near: "ad"}
	}
	return uint64(len(text)), nil
}

func (e *fake) PointerSize() int { return e.ps }

// show is a value as ?? has it in its first line.
func (e *fake) show(v Value) string {
	p := &types.Printer{File: v.Type.File, PointerSize: e.ps}
	b, err := Load(v, e)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(v.Type.C(types.Expression) + " " + p.Expression(context.Background(), nil, v.Type, b))
}

func TestValues(t *testing.T) {
	e := newFake(t, "x64", 8)
	for _, c := range []struct{ in, want string }{
		// Literals have the types of C.
		{"5", "int 0n5"}, {"0x7fffffff", "int 0n2147483647"}, {"0x80000000", "unsigned int 0x80000000"}, {"2147483648", "int64 0n2147483648"},
		{"4294967296", "int64 0n4294967296"}, {"0xffffffffffffffff", "unsigned int64 0xffffffff`ffffffff"}, {"5u", "unsigned int 5"}, {"5L", "long 0n5"},
		{"5ul", "unsigned long 5"}, {"5i64", "int64 0n5"}, {"010", "int 0n8"}, {"0xfffff800`00001000", "unsigned int64 0xfffff800`00001000"},
		{"1.5", "double 1.5"}, {"1e3f", "float 1000"}, {".5 + .25", "double 0.75"},
		{"'A'", "char 0n65 'A'"}, {`'\n'`, "char 0n10 ''"}, {`'\x41'`, "char 0n65 'A'"}, {"L'A'", "wchar_t 0x41 'A'"}, {"true", "bool true"},
		{`sizeof("abc")`, "unsigned int64 4"},
		// Arithmetic.
		{"1 + 2 * 3", "int 0n7"}, {"(1 + 2) * 3", "int 0n9"}, {"7 / 2", "int 0n3"}, {"-7 / 2", "int 0n-3"}, {"-7 % 3", "int 0n-1"},
		{"1 << 4", "int 0n16"}, {"-16 >> 2", "int 0n-4"}, {"0xf0000000 >> 28", "unsigned int 0xf"}, {"1 + 2.5", "double 3.5"},
		{"~0", "int 0n-1"}, {"~0u", "unsigned int 0xffffffff"}, {"!5", "bool false"}, {"-5u", "unsigned int 0xfffffffb"},
		{"1u - 2", "unsigned int 0xffffffff"}, {"-1 < 0u", "bool false"}, {"-1 < 0", "bool true"}, {"1L + 1u", "unsigned long 2"},
		{"5 & 6 | 8 ^ 1", "int 0n13"}, {"1 == 1.0", "bool true"}, {"3 > 2 && 2 > 1", "bool true"}, {"0 || 0", "bool false"},
		{"1 ? 2 : 3", "int 0n2"}, {"0 ? 1 : 0 ? 2 : 3", "int 0n3"}, {"1, 2, 3", "int 0n3"}, {"(-2147483647 - 1) / -1", "int 0n-2147483648"},
		{"1 // and no more", "int 0n1"},
		// What is not needed is not computed.
		{"0 && *(int*)0", "bool false"}, {"1 || 1/0", "bool true"}, {"1 ? 5 : 1/0", "int 0n5"}, {"sizeof(*(Point*)0)", "unsigned int64 8"},
		// Casts.
		{"(char)0x141", "char 0n65 'A'"}, {"(unsigned char)-1", "unsigned char 0xff ''"}, {"(unsigned short)70000", "unsigned short 0x1170"},
		{"(long long)-1", "int64 0n-1"}, {"(unsigned __int64)-1", "unsigned int64 0xffffffff`ffffffff"}, {"(int)3.9", "int 0n3"}, {"(float)1/3", "float 0.33333334"},
		{"(void*)16", "void * 0x00000000`00000010"}, {"static_cast<unsigned char>(65)", "unsigned char 0x41 'A'"}, {"reinterpret_cast<Point*>(8)", "struct Point * 0x00000000`00000008"},
		{"(ULONG)-1", "unsigned long 0xffffffff"}, {"(PVOID)1", "void * 0x00000000`00000001"}, {"(u32)7", "unsigned int 7"}, {"(Colour)5", "enum Colour Green (0n5)"},
		{"(Colour)6", "enum Colour 0n6 (No matching enumerant)"}, {"(bool)7", "bool true"}, {"(struct Point *)0", "struct Point * 0x00000000`00000000"},
		// Variables, in the image as the linker has left it.
		{"data_initialised", "int 0n42"}, {"app!data_initialised + 1", "int 0n43"}, {"number", "double 1.5"}, {"text_constant[1]", "char 0n111 'o'"},
		{"*text_constant", "char 0n99 'c'"}, {"&data_initialised == (int*)&data_initialised", "bool true"}, {"*&data_initialised", "int 0n42"},
		{"list_head.Flink == &list_head", "bool true"}, {"list_head.Flink->Blink->Flink - &list_head", "int64 0n0"},
		{"sizeof(all)", "unsigned int64 0x"}, {"sizeof all.points", "unsigned int64 0x60"}, {"sizeof(all.points[0])", "unsigned int64 0x20"},
		{"&grid[1][2] - &grid[0][0]", "int64 0n6"}, {"(char*)&grid[1] - (char*)grid", "int64 0n32"}, {"&grid[0][1].y - &grid[0][0].x", "int64 0n3"},
		{"sizeof(Point)", "unsigned int64 8"}, {"sizeof(Point*)", "unsigned int64 8"}, {"sizeof(Point[3])", "unsigned int64 0x18"}, {"sizeof(struct All)", "unsigned int64 0x"},
		{"sizeof(int)", "unsigned int64 4"}, {"sizeof(long double)", "unsigned int64 8"},
		{"&((All*)0x1000)->counter", "long * 0x00000000`0000"}, {"*(int*)((char*)&grid + 4)", "int 0n0"},
		{"((Point*)0)->y + 1", "the memory at 4 cannot be read"},
		{"(&data_initialised)[0]", "int 0n42"}, {"0[&data_initialised]", "an index is a whole number"},
		// Macros.
		{"#FIELD_OFFSET(Point, y)", "long 0n4"}, {"#FIELD_OFFSET(app!All, bits)", "long 0n16"}, {"#CONTAINING_RECORD(&all.bits, All, bits) == &all", "bool true"},
		{"#RTL_FIELD_SIZE(All, points)", "unsigned int64 0x60"}, {"#RTL_NUMBER_OF(all.points)", "unsigned int64 3"}, {"#RTL_SIZEOF_THROUGH_FIELD(Point, x)", "unsigned int64 4"},
		{"#RTL_CONTAINS_FIELD(&all, 20, bits)", "bool false"}, {"#FIELD_OFFSET(All, points[1])", "long 0n"},
		// Registers and the other evaluator.
		{"@rax", "unsigned int64 0xffffffff`fffffffe"}, {"(int)@rax", "int 0n-2"}, {"@$t1 + 1", "unsigned int64 6"}, {"@@(four) + 1", "unsigned int64 5"},
		{"@@masm(abc)", "unsigned int64 3"}, {"@@c++(1 + 1) * 2", "int 0n4"},
		// C++.
		{"outer::inner::counter", "int 0n0"}, {"sizeof(outer::inner::Wide)", "unsigned int64 8"}, {"wide", "enum outer::inner::Wide Big (0n-9223372036854775807)"},
		{"tiny", "enum outer::inner::Tiny Neg (0n-128)"}, {"Base::static_field", "int 0n9"}, {"char16", "char16_t 0x78 'x'"},
		{"sizeof(Array<Array<float,4>,4>)", "unsigned int64 0x40"}, {"sizeof(Array< Array<float, 4>, 4 >)", "unsigned int64 0x40"},
		{"sizeof(((Derived*)0)->base_field)", "unsigned int64 4"}, {"&((Derived*)0x1000)->base_field", "int * 0x00000000`00001008"},
	} {
		v, err := Eval(c.in, e)
		got := ""
		if err != nil {
			var x *expr.Error
			if !errors.As(err, &x) {
				t.Errorf("%s: %T", c.in, err)
				continue
			}
			got = x.Help
		} else {
			got = e.show(v)
		}
		if got != c.want && (!strings.HasSuffix(c.want, "0x") && !strings.HasSuffix(c.want, "0n") && !strings.HasSuffix(c.want, "`0000") || !strings.HasPrefix(got, c.want)) {
			t.Errorf("%s: %s, want %s", c.in, got, c.want)
		}
	}
	if e.writes != 0 {
		t.Errorf("%d writes", e.writes)
	}
}

func TestAssignments(t *testing.T) {
	e := newFake(t, "x64", 8)
	for _, c := range []struct{ in, want, then, is string }{
		{"data_initialised = 7", "int 0n7", "data_initialised", "int 0n7"},
		{"data_initialised += 3", "int 0n10", "data_initialised", "int 0n10"},
		{"data_initialised++", "int 0n10", "data_initialised", "int 0n11"},
		{"--data_initialised", "int 0n10", "data_initialised", "int 0n10"},
		{"data_initialised <<= 2", "int 0n40", "data_initialised", "int 0n40"},
		{"all.bits.mid = 0x3ff", "unsigned int 0x3ff", "all.bits.low", "unsigned int 0"},
		{"all.bits.mid = 0", "unsigned int 0", "all.bits.high", "unsigned int 0"},
		{"all.bits.sign = -1", "int 0n-1", "all.bits.sign", "int 0n-1"},
		{"all.colour = (Colour)5", "enum Colour Green (0n5)", "all.colour == 5", "bool true"},
		{"all.d = 2", "double 2", "all.d / 4", "double 0.5"},
		{"all.points[2][3].y = all.points[1][1].x = 9", "int 0n9", "all.points[2][3].y", "int 0n9"},
		{"all.self = &all", "struct All * 0x", "all.self->self->self == &all", "bool true"},
		{"grid[0][0] = all.points[2][3]", "struct Point", "grid[0][0].y", "int 0n9"},
		{"@$t1 = &all", "struct All * 0x", "@$t1->points[2][3].y", "int 0n9"},
		{"@rax = 3", "unsigned int64 3", "@rax", "unsigned int64 3"},
	} {
		v, err := Eval(c.in, e)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if got := e.show(v); !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %s, want %s", c.in, got, c.want)
		}
		v, err = Eval(c.then, e)
		if got := e.show(v); err != nil || got != c.is {
			t.Errorf("%s after %s: %s, want %s (%v)", c.then, c.in, got, c.is, err)
		}
	}
	writes := e.writes
	for _, in := range []string{"5 = 6", "sizeof(data_initialised = 9)", "0 && (data_initialised = 9)", "all = 5", "grid = grid", "*(int*)0 = 1"} {
		_, _ = Eval(in, e)
	}
	if e.writes != writes {
		t.Error("something was written")
	}
}

func TestErrors(t *testing.T) {
	e := newFake(t, "x64", 8)
	for _, c := range []struct {
		in   string
		kind expr.Kind
		pos  int
		help string
	}{
		{"", expr.Missing, 0, "is expected here"}, {"1 +", expr.Missing, 3, "is expected here"}, {"(1", expr.Syntax, 2, "')'"}, {"1)", expr.Extra, 1, ""},
		{"nosuch", expr.Resolve, 0, "no variable"}, {"Point", expr.Resolve, 0, "this is a type"}, {"rax", expr.Resolve, 0, "@rax"}, {"@nosuch", expr.Resolve, 0, "no register"},
		{"fff8", expr.Resolve, 0, "0x"}, {"0n10", expr.Syntax, 0, "decimal here"}, {"12z", expr.Syntax, 0, "no number"}, {"0x", expr.Syntax, 0, "no number"},
		{"99999999999999999999", expr.Overflow, 0, "64 bits"}, {"1/0", expr.Operand, 2, "division by zero"}, {"5 % 0", expr.Operand, 4, "division"},
		{"all.nosuch", expr.Resolve, 4, "no field"}, {"all->bits", expr.Operand, 5, "use '.'"}, {"(&all).bits", expr.Operand, 7, "use '->'"},
		{"*5", expr.Operand, 0, "no pointer"}, {"&5", expr.Operand, 0, "no address"}, {"&all.bits.mid", expr.Operand, 0, "bit field"}, {"&@rax", expr.Operand, 0, "register"},
		{"all + 1", expr.Operand, 4, "does not take"}, {"&all * 2", expr.Operand, 5, "does not take"}, {"1.5 << 2", expr.Operand, 4, "does not take"},
		{"(Point)5", expr.Operand, 0, "cannot become"}, {"(nosuch*)5", expr.Resolve, 1, ""}, {"(struct nosuch*)5", expr.Resolve, 8, "no type"}, {"sizeof(struct nosuch)", expr.Resolve, 14, "no type"},
		{"5 = 6", expr.Operand, 2, "no place"}, {"add(1, 2)", expr.Unsupported, 3, "not called"}, {"publics_data + 1", expr.Unsupported, 0, "cast its address"},
		{"+*(int*)0", expr.Memory, 0, "cannot be read"}, {"'ab'", expr.Syntax, 0, "one character"}, {`"ab`, expr.Syntax, 0, "closing quote"},
		{"#NOSUCH(1)", expr.Resolve, 0, "macros are"}, {"#FIELD_OFFSET(Point)", expr.Syntax, 19, "2 arguments"}, {"#FIELD_OFFSET(Point, z)", expr.Resolve, 0, "no field"},
		{"@@(bad)", expr.Resolve, 4, ""}, {"@@(1", expr.Syntax, 0, "closing parenthesis"}, {"@@ 1", expr.Syntax, 0, "@@( )"}, {"a ? b", expr.Resolve, 0, "no variable"},
		{"1 ? 2", expr.Syntax, 5, "':'"}, {"unsigned long short", expr.Resolve, 0, ""}, {"(unsigned float)1", expr.Syntax, 1, "make no type"},
		{strings.Repeat("(", 300) + "1", expr.Syntax, 0, "nests deeper"}, {strings.Repeat("-", 300) + "1", expr.Syntax, 0, ""}, {strings.Repeat("1+", 300) + "1", expr.Syntax, 0, "in a row"},
		{strings.Repeat("x", MaxLength+1), expr.Syntax, 0, "at most"}, {strings.Repeat("all.self->", 300) + "self", expr.Syntax, 0, "nests deeper"},
		{strings.Repeat("1?", 300) + "1", expr.Syntax, 0, ""}, {"(Point[99999999999999])0", expr.Operand, 0, ""},
	} {
		_, err := Eval(c.in, e)
		var x *expr.Error
		if !errors.As(err, &x) {
			t.Errorf("%.40s: %v", c.in, err)
			continue
		}
		if x.Kind != c.kind && c.help != "" || !strings.Contains(x.Help, c.help) || c.pos != 0 && x.Pos != c.pos {
			t.Errorf("%.40s: kind %d at %d: %s", c.in, x.Kind, x.Pos, x.Help)
		}
	}
}

func TestPrefix(t *testing.T) {
	e := newFake(t, "x64", 8)
	for in, want := range map[string]string{"1 + 2 L8": "L8", "&data_initialised L4": "L4", "(1) ; x": "; x", "5": "", "data_initialised 7": "7", "1 // x": ""} {
		if _, rest, err := EvalPrefix(in, e); rest != want || err != nil {
			t.Errorf("%q leaves %q, %v", in, rest, err)
		}
	}
	for in, want := range map[string]string{"Point": "struct Point", "Point *": "struct Point *", "unsigned int[4]": "unsigned int [4]", "const char**": "char **",
		"app!All*": "struct All *", "ULONG": "unsigned long", "int[2][3]": "int [2][3]"} {
		if ty, ok, err := Type(in, e); !ok || err != nil || ty.C(types.Expression) != want {
			t.Errorf("%s: %s %v %v", in, ty.C(types.Expression), ok, err)
		}
	}
	for _, in := range []string{"", "Point)", "nosuch", "5", "Point x"} {
		if _, ok, err := Type(in, e); ok && err == nil {
			t.Errorf("%q is a type", in)
		}
	}
}

// 32-bit pointers are four bytes, and addresses in the upper half have their sign
// in the upper bits.
func TestX86(t *testing.T) {
	e := newFake(t, "x86", 4)
	for in, want := range map[string]string{
		"sizeof(all.self)": "unsigned int 4", "&data_initialised == (int*)(void*)&data_initialised": "bool true", "data_initialised": "int 0n42",
		"(void*)0x80000000": "void * 0x80000000", "(char*)0x80000000 > (char*)0x7fffffff": "bool true", "list_head.Flink == &list_head": "bool true",
		"(unsigned __int64)(void*)0x80000000": "unsigned int64 0xffffffff`80000000", "&grid[1][2] - &grid[0][0]": "int 0n6",
	} {
		v, err := Eval(in, e)
		if got := e.show(v); err != nil || got != want {
			t.Errorf("%s: %s, want %s (%v)", in, got, want, err)
		}
	}
}

// Many names in one expression are not all looked for.
func TestNames(t *testing.T) {
	e := newFake(t, "x64", 8)
	_, err := Eval(strings.Repeat("(data_initialised)|", 150)+strings.Repeat("(data_initialised)+", 150)+"1", e)
	if err == nil || e.asked > 2*MaxNames+8 {
		t.Errorf("%d names were looked for, %v", e.asked, err)
	}
}

// FuzzEval reads what people type.
func FuzzEval(f *testing.F) {
	for _, s := range []string{
		"((All*)&all)->points[1][2].x + 1", "#CONTAINING_RECORD(&all.bits, All, bits)", "sizeof(Array<Array<float,4>,4>)", "a ? b : c = 5", `"str\x41\0"`,
		"0x12345678`9abcdef0ui64", "static_cast<unsigned char>(65)", "@@masm(1)+@rax", "all.bits.mid++", "grid[0][0] = all.points[2][3]", "L'x' // y", "(int[3])0", "-1.5e-3f*2",
		"!app!all.l", "::outer::inner::counter", "&*&*&all", "app!`anonymous namespace'::hidden.n", "1<2>3", "operator<<", "(unsigned)1",
		`@!""`, "::", "!", "(::)1", "(!)1", "@@masm()", "@@c++()", "\"\"[0]", "L\"\"[1]", "*\"\"", "0x", "0xui64", "1e", ".5`", "0`", "'\\x'", "(char(*)[2])all", "all.points[-1]", "*(int(*)[1])all = 1",
		"@rax++, @$t1 = @rax", "--all.l, all.bits.mid = -1", "0x8000000000000000i64 / -1", "(int64)1 << 64", "all = all", "#RTL_NUMBER_OF(\"\")", "(bool)0 ? 1", "(float)all.l %= 2",
	} {
		f.Add(s)
	}
	e := newFake(f, "x64", 8)
	mem, regs := bytes.Clone(e.mem), maps.Clone(e.regs)
	f.Fuzz(func(t *testing.T, s string) {
		copy(e.mem, mem) // assignments change it
		e.regs = maps.Clone(regs)
		v, rest, err := EvalPrefix(s, e)
		if err != nil {
			var x *expr.Error
			if !errors.As(err, &x) || x.Pos < 0 || x.Pos > len(s) {
				t.Fatalf("%q: %T %v", s, err, err)
			}
			return
		}
		if !strings.HasSuffix(s, rest) {
			t.Fatalf("%q leaves %q", s, rest)
		}
		_ = e.show(v)
		_, _ = Uint(v, e)
	})
}
