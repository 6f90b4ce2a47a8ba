package expr

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// fake is an environment made of tables.
type fake struct{ pointer int }

var errMemory = errors.New("no memory there")

func (f fake) Register(n string) (uint64, bool, error) {
	v, ok := map[string]uint64{"rax": 0x1122334455667788, "eax": 0xfffffffff5667788, "rsp": 0x1000, "cl": 7, "efl": 0x246}[n]
	return v, ok, nil
}

func (f fake) Symbol(n string) (uint64, bool, error) {
	switch n {
	case "two!Foo":
		return 0, false, &Unknown{Why: "it is there twice", Ambiguous: true}
	case "rsp", "nt!None", "$!gone":
		return 0, false, &Unknown{Why: "nt has no such symbol"}
	}
	v, ok := map[string]uint64{"nt": 0xfffff80000000000, "nt!Foo": 0xfffff80000001000, "cl": 0x99, "eax": 1, "a::~b": 2,
		"m!T<int>": 3, "m!T<A<B>>::f": 4, "m!C::operator<": 5, "m!C::operator<<": 6, "m!`anonymous namespace'::x": 7, "m!T": 8, "$!local": 9}[n]
	return v, ok, nil
}

func (f fake) Line(place string) (uint64, error) {
	if place == "nt!a.c:12" {
		return 0x5000, nil
	}
	return 0, &Unknown{Why: "no module has that file"}
}

func (f fake) Pseudo(n string) (uint64, bool, error) {
	if n == "$broken" {
		return 0, false, errors.New("the target is running")
	}
	v, ok := map[string]uint64{"$ip": 0x4000, "$t0": 5, "$ra": 6}[n]
	return v, ok, nil
}

func (f fake) Read(physical bool, addr uint64, size int) (uint64, error) {
	if addr == 0 {
		return 0, errMemory
	}
	v := uint64(0x8877665544332211)
	if physical {
		v = 0xffeeddccbbaa9988
	}
	if addr == 0x2000 {
		v = 0x3000
	}
	if size < 8 {
		v &= 1<<(8*size) - 1
	}
	return v, nil
}

func (f fake) Valid(addr, n uint64) (bool, error) { return addr != 0, nil }
func (f fake) PointerSize() int                   { return f.pointer }

func TestEval(t *testing.T) {
	for _, tt := range []struct {
		in    string
		radix int
		want  uint64
	}{
		{"10", 16, 0x10}, {"10", 10, 10}, {"10", 8, 8},
		{"0x10", 10, 16}, {"0n10", 16, 10}, {"0t10", 16, 8}, {"0y101", 16, 5},
		{"10h", 10, 16}, {"ffh", 10, 255}, {"ah", 16, 10}, {"FFFFH", 10, 0xffff},
		{"fffff800`00001000", 16, 0xfffff80000001000},
		{"1`00000000", 16, 1 << 32},
		{"7fffffff", 16, 0x7fffffff},
		{"80000000", 16, 0xffffffff80000000},
		{"ffffffff", 16, 0xffffffffffffffff},
		{"00000000`80000000", 16, 0x80000000},
		{"100000000", 16, 1 << 32},
		{"0n4294967295", 16, 0xffffffffffffffff},
		{"1+2*3", 16, 7}, {"(1+2)*3", 16, 9}, {"[1+2]*3", 16, 9}, {"2*3+1", 16, 7},
		{"1 + 2", 16, 3}, {"8-3-2", 16, 3}, {"8/2/2", 16, 2}, {"7 mod 4", 16, 3}, {"7%4", 16, 3}, {"7 MOD 4", 16, 3},
		{"1<<4", 16, 16}, {"80>>4", 16, 8}, {"-1>>>4", 16, ^uint64(0)}, {"-1>>4", 16, ^uint64(0) >> 4}, {"1<<40", 16, 0}, {"1 << 2 + 1", 16, 8},
		{"1=1", 16, 1}, {"1==2", 16, 0}, {"1!=2", 16, 1}, {"1<2", 16, 1}, {"2>=2", 16, 1}, {"2<=1", 16, 0}, {"-1>1", 16, 1},
		{"c and a", 16, 8}, {"c & a", 16, 8}, {"c or 3", 16, 15}, {"c|3", 16, 15}, {"c xor a", 16, 6}, {"c^a", 16, 6},
		{"1 | 2 ^ 3 & 2", 16, 1}, {"1 + 1 == 2 and 1", 16, 1},
		{"-1", 16, ^uint64(0)}, {"--1", 16, 1}, {"+1", 16, 1}, {"not 0", 16, 1}, {"not 5", 16, 0}, {"not(0)", 16, 1},
		{"hi(12345678)", 16, 0x1234}, {"low 12345678", 16, 0x5678},
		{"by(1)", 16, 0x11}, {"wo(1)", 16, 0x2211}, {"dwo(1)", 16, 0x44332211}, {"qwo(1)", 16, 0x8877665544332211}, {"poi(1)", 16, 0x8877665544332211},
		{"poi rsp + 1", 16, 0x8877665544332212}, {"poi(poi(2000))", 16, 0x8877665544332211}, {"POI(1)", 16, 0x8877665544332211},
		{"$pby(1)", 16, 0x88}, {"$pwo(1)", 16, 0x9988}, {"$pdwo(1)", 16, 0xbbaa9988}, {"$pqwo(1)", 16, 0xffeeddccbbaa9988}, {"$ppoi(1)", 16, 0xffeeddccbbaa9988},
		{"@rax", 16, 0x1122334455667788}, {"rax", 16, 0x1122334455667788}, {"@RAX", 16, 0x1122334455667788},
		{"eax", 16, 0xfffffffff5667788}, // common registers come before symbols
		{"cl", 16, 0x99},                // others behind
		{"@cl", 16, 7}, {"efl", 16, 0x246},
		{"nt", 16, 0xfffff80000000000}, {"nt+1000", 16, 0xfffff80000001000}, {"nt!Foo", 16, 0xfffff80000001000}, {"nt!Foo!=0", 16, 1},
		{`@!"nt!Foo"`, 16, 0xfffff80000001000}, {"a::~b", 16, 2},
		// Names with brackets and operators, where there are such.
		{"m!T<int>", 16, 3}, {"m!T<int>+1", 16, 4}, {"m!T<A<B>>::f", 16, 4}, {"m!C::operator<", 16, 5}, {"m!C::operator<<", 16, 6}, {"m!C::operator< < 6", 16, 1},
		{"m!T<9", 16, 1}, {"m!T<9>0", 16, 1}, {"m!`anonymous namespace'::x", 16, 7}, {"$!local + 1", 16, 10}, {"@$!local", 16, 9}, {"rsp", 16, 0x1000},
		{"`nt!a.c:12`", 16, 0x5000}, {"` nt!a.c:12 ` + 1", 16, 0x5001}, {"fffff800`00000000", 16, 0xfffff80000000000},
		{".", 16, 0x4000}, {".+1", 16, 0x4001}, {"$ip", 16, 0x4000}, {"@$ip", 16, 0x4000}, {"@$t0 * 2", 16, 10}, {"$RA", 16, 6},
		{"'A'", 16, 65}, {"@@masm(1+1)", 16, 2}, {"@@MASM( 2 )*2", 16, 4},
		{`$scmp("a","b")`, 16, ^uint64(0)}, {`$scmp("a","a")`, 16, 0}, {`$sicmp("A","a")`, 16, 0}, {`$scmp("A" , "a")`, 16, ^uint64(0)},
		{`$spat("nt!Foo","nt!*")`, 16, 1}, {`$spat("abc","a?d")`, 16, 0}, {"$vvalid(1,10)", 16, 1}, {"$vvalid(0,10)", 16, 0},
	} {
		got, err := Eval(tt.in, fake{8}, Options{Radix: tt.radix})
		if err != nil || got != tt.want {
			t.Errorf("%s in base %d = %x, %v; want %x", tt.in, tt.radix, got, err, tt.want)
		}
	}
	if v, err := Eval("poi(1)", fake{4}, Options{}); err != nil || v != 0x44332211 {
		t.Errorf("%x %v", v, err)
	}
	if v, err := Eval("$ppoi(1)", fake{4}, Options{}); err != nil || v != 0xffffffffbbaa9988 {
		t.Errorf("a 32-bit pointer is sign-extended: %x %v", v, err)
	}
}

func TestErrors(t *testing.T) {
	for _, tt := range []struct {
		in   string
		pos  int
		want string // the beginning of the text
	}{
		{"", 0, "Numeric expression missing from '<EOL>'"},
		{"1 +", 3, "Numeric expression missing from '<EOL>'"},
		{"(1", 2, "Syntax error at '<EOL>': ')' is missing for the '(' at character 1"},
		{"(1 2)", 3, "Syntax error at '2': ')' or an operator is expected here"},
		{"1 2", 2, "Extra character error at '2'"},
		{"foo", 0, "Couldn't resolve error at 'foo'"},
		{"1 + foo", 4, "Couldn't resolve error at 'foo'"},
		{"@foo", 0, "Couldn't resolve error at '@foo': the target has no register"},
		{"@$foo", 1, "Couldn't resolve error at '$foo': there is no pseudo-register"},
		{"12g", 0, "Syntax error at '12g': not a number in base 16"},
		{"0n12a", 0, "Syntax error at '0n12a': not a number in base 10"},
		{"0y12", 0, "Syntax error at '0y12': not a number in base 2"},
		{"1/0", 2, "Operand error at '0': division by zero"},
		{"1 mod (2-2)", 6, "Operand error at '(': division by zero"},
		{"poi(0)", 0, "Memory access error at 'poi': no memory there"},
		{"1ffffffffffffffff", 0, "Overflow error at '1ffffffffffffffff'"},
		{"and 1", 0, "Numeric expression missing from 'and'"},
		{"@@c++(1)", 0, "Couldn't resolve error at '@@c': there is no C++ evaluator here"},
		{"$!none", 0, "Couldn't resolve error at '$!none': the current function"},
		{"$!gone", 0, "Couldn't resolve error at '$!gone': nt has no such symbol"},
		{"1+nt!None", 2, "Couldn't resolve error at 'nt!None': nt has no such symbol"},
		{"two!Foo", 0, "Ambiguous symbol error at 'two!Foo': it is there twice"},
		{`@!"two!Foo"`, 0, "Ambiguous symbol error at 'two!Foo': it is there twice"},
		{"`b.c:1`", 0, "Couldn't resolve error at 'b.c:1': no module has that file"},
		{"`b.c:1", 0, "Syntax error at '`b': the closing back-tick"},
		{"$fnsucc(1,2,3)", 0, "Couldn't resolve error at '$fnsucc'"},
		{"$scmp(1,2)", 6, "Syntax error at '1': $scmp compares strings"},
		{"$vvalid(1)", 9, "Syntax error at ')': $vvalid takes 2 arguments"},
		{"'ab'", 0, "Syntax error at ''': a character constant"},
		{"#", 0, "Syntax error at '#'"},
		{"$broken", 0, "Couldn't resolve error at '$broken': the target is running"},
		{strings.Repeat("(", 5000), MaxDepth, "Syntax error at '(': the expression nests deeper"},
		{strings.Repeat("-", 5000) + "1", MaxDepth, "Syntax error at '-': the expression nests deeper"},
		{strings.Repeat("1", MaxLength+1), 0, "Syntax error"},
	} {
		_, err := Eval(tt.in, fake{8}, Options{})
		var e *Error
		if !errors.As(err, &e) || !strings.HasPrefix(err.Error(), tt.want) || e.Pos != tt.pos || strings.Contains(err.Error(), "\n") {
			t.Errorf("%.40q: %v; want %s", tt.in, err, tt.want)
		}
		if e != nil && e.Pos != tt.pos {
			t.Errorf("%.40q: at %d, want %d", tt.in, e.Pos, tt.pos)
		}
	}
	_, err := Eval("poi(0)", fake{8}, Options{})
	if !errors.Is(err, errMemory) {
		t.Error("the cause is lost")
	}
}

func TestPrefix(t *testing.T) {
	for _, tt := range []struct {
		in   string
		v    uint64
		rest string
	}{
		{"1000 L20", 0x1000, "L20"}, {"1000L20", 0x1000, "L20"}, {"1000l?20", 0x1000, "l?20"}, {"1000 2000", 0x1000, "2000"},
		{"1000 + 1 2000", 0x1001, "2000"}, {`1000 "g"`, 0x1000, `"g"`}, {"1, 2", 1, ", 2"}, {"(1) 'x'", 1, "'x'"}, {"1 ", 1, ""}, {"1;", 1, ";"},
	} {
		v, rest, err := EvalPrefix(tt.in, fake{8}, Options{})
		if err != nil || v != tt.v || rest != tt.rest {
			t.Errorf("%s: %x, %q, %v", tt.in, v, rest, err)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true}, {"*", "", true}, {"*", "x", true}, {"?", "", false}, {"?", "x", true}, {"a*c", "abbc", true}, {"A*C", "abbc", true},
		{"[abc]x", "bx", true}, {"[a-c]x", "dx", false}, {"ab#c", "ac", true}, {"ab#c", "abbbc", true}, {"ab+c", "ac", false}, {"ab+c", "abbc", true},
		{`\*`, "*", true}, {`\*`, "x", false}, {"[x", "[x", true}, {"*a*a*a*a*a*a*b", strings.Repeat("a", 2000), false}, {"?#", "abc", true}, {"#", "#", true},
	} {
		if got := Match(tt.pattern, tt.s); got != tt.want {
			t.Errorf("%q against %.20q: %v", tt.pattern, tt.s, got)
		}
	}
}

// node is a random expression with its value.
type node struct {
	text  string
	value uint64
	level int // how strongly it binds: 0 or ... 7 a single thing
}

var ops = []struct {
	text  string
	level int
	f     func(a, b uint64) uint64
}{
	{"or", 0, func(a, b uint64) uint64 { return a | b }}, {"|", 0, func(a, b uint64) uint64 { return a | b }},
	{"^", 1, func(a, b uint64) uint64 { return a ^ b }}, {"xor", 1, func(a, b uint64) uint64 { return a ^ b }},
	{"&", 2, func(a, b uint64) uint64 { return a & b }},
	{"==", 3, func(a, b uint64) uint64 { return truth(a == b) }}, {"<", 3, func(a, b uint64) uint64 { return truth(a < b) }}, {">=", 3, func(a, b uint64) uint64 { return truth(a >= b) }},
	{"<<", 4, func(a, b uint64) uint64 { return a << b }}, {">>", 4, func(a, b uint64) uint64 { return a >> b }},
	{">>>", 4, func(a, b uint64) uint64 { return uint64(int64(a) >> b) }},
	{"+", 5, func(a, b uint64) uint64 { return a + b }}, {"-", 5, func(a, b uint64) uint64 { return a - b }},
	{"*", 6, func(a, b uint64) uint64 { return a * b }},
}

func draw(t *rapid.T, depth int) node {
	if depth == 0 || rapid.IntRange(0, 3).Draw(t, "leaf") == 0 {
		v := rapid.Uint64().Draw(t, "v") >> rapid.IntRange(0, 63).Draw(t, "shift")
		text := fmt.Sprintf("%x`%08x", v>>32, uint32(v))
		if v < 1<<31 {
			text = rapid.SampledFrom([]string{fmt.Sprintf("%x", v), fmt.Sprintf("0n%d", v), fmt.Sprintf("0x%X", v), fmt.Sprintf("0t%o", v), "0y" + strconv.FormatUint(v, 2), fmt.Sprintf("0%xh", v)}).Draw(t, "form")
		}
		return node{text, v, 7}
	}
	o := rapid.SampledFrom(ops).Draw(t, "op")
	a, b := draw(t, depth-1), draw(t, depth-1)
	if a.level < o.level {
		a.text = "(" + a.text + ")"
	}
	if b.level <= o.level {
		b.text = "[" + b.text + "]"
	}
	return node{a.text + " " + o.text + " " + b.text, o.f(a.value, b.value), o.level}
}

// TestPrecedence: the parser groups as the levels say.
func TestPrecedence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := draw(t, 5)
		got, err := Eval(n.text, fake{8}, Options{})
		if err != nil || got != n.value {
			t.Fatalf("%s = %x, %v; want %x", n.text, got, err, n.value)
		}
	})
}

func FuzzEval(f *testing.F) {
	for _, s := range []string{"1+2*3", "poi(@rsp+8)", "nt!Foo", "fffff800`00000000", `$scmp("a","b")`, "@@masm(1)", "'a'", "((((", "1000L10", "$iment(1)", "a::~b", "0x", "0n", "`", "@@c++(1)"} {
		f.Add(s, 16, false)
	}
	f.Fuzz(func(t *testing.T, s string, radix int, prefix bool) {
		opt := Options{Radix: []int{0, 8, 10, 16}[uint(radix)%4]}
		v, rest, err := EvalPrefix(s, fake{8}, opt)
		if err != nil {
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("%q: %T", s, err)
			}
			if e.Pos < 0 || e.Pos > len(s) {
				t.Fatalf("%q: position %d", s, e.Pos)
			}
			return
		}
		if !strings.HasSuffix(s, rest) {
			t.Fatalf("%q: rest %q", s, rest)
		}
		if w, err := Eval(s, fake{8}, opt); err == nil && w != v {
			t.Fatalf("%q: %x as a prefix, %x as a whole", s, v, w)
		}
	})
}

func FuzzMatch(f *testing.F) {
	f.Add("a*[b-d]?#+\\x", "abc")
	f.Fuzz(func(t *testing.T, p, s string) {
		Match(p, s)
		if len(s) < MaxPattern && !Match("*", s) {
			t.Errorf("* does not fit %q", s)
		}
	})
}
