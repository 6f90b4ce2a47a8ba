package dwarf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"openkd/image/sym"
)

var _ sym.File = (*File)(nil)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if builtDir != "" {
			os.RemoveAll(builtDir)
		}
		os.Exit(code)
	}))
}

// fixtures are the images that testdata/src/build.sh builds from one source.
var fixtures = []string{"x64", "x64-dwarf4", "x86", "x86-dwarf2", "arm64"}

func open(t testing.TB, name string) *File {
	t.Helper()
	f, err := Open(filepath.Join("testdata", name+".exe"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func everyFixture(t *testing.T, do func(t *testing.T, f *File)) {
	for _, name := range fixtures {
		t.Run(name, func(t *testing.T) { do(t, open(t, name)) })
	}
}

// text is a type as a declaration would have it, in short.
func text(t testing.TB, f *File, id sym.TypeID) string {
	t.Helper()
	typ, err := f.Type(id)
	if err != nil {
		t.Fatal(err)
	}
	switch typ.Kind {
	case sym.Pointer:
		if typ.Reference {
			return text(t, f, typ.Elem) + "&"
		}
		return text(t, f, typ.Elem) + "*"
	case sym.Array:
		return fmt.Sprintf("%s[%d]", text(t, f, typ.Elem), typ.Count)
	case sym.Modifier:
		s := text(t, f, typ.Elem)
		if typ.Const {
			s = "const " + s
		}
		if typ.Volatile {
			s = "volatile " + s
		}
		return s
	case sym.BitField:
		return fmt.Sprintf("%s:%d at %d", text(t, f, typ.Elem), typ.BitLen, typ.BitPos)
	case sym.Func:
		var params []string
		for _, p := range typ.Params {
			params = append(params, text(t, f, p))
		}
		if typ.Variadic {
			params = append(params, "...")
		}
		return fmt.Sprintf("%s(%s)", text(t, f, typ.Elem), strings.Join(params, ", "))
	case sym.Opaque:
		return "opaque " + typ.Name
	}
	if typ.Name == "" {
		return fmt.Sprintf("{%d}", typ.Size)
	}
	return typ.Name
}

func one(t testing.TB, f *File, name string) sym.Symbol {
	t.Helper()
	list, err := f.ByName(name)
	if err != nil || len(list) != 1 {
		t.Fatalf("%s: %+v, %v; want one", name, list, err)
	}
	return list[0]
}

func TestIdentity(t *testing.T) {
	f := open(t, "x64")
	if id := f.Identity(); id.ImageSize != f.im.SizeOfImage || id.ImageSize == 0 || id.GUID != [16]byte{} || !f.Private() {
		t.Errorf("%+v, private %v", id, f.Private())
	}
}

func TestSymbols(t *testing.T) {
	tests := []struct {
		name    string
		kind    sym.Kind
		typ     string
		static  bool
		linkage map[string]string // where it differs
	}{
		{"Exported", sym.Function, "ULONG(POBJECT, ULONG)", false, map[string]string{"x86": "_Exported", "x86-dwarf2": "_Exported"}},
		{"Standard", sym.Function, "ULONG(ULONG, ULONG)", false, map[string]string{"x86": "_Standard@8", "x86-dwarf2": "_Standard@8"}},
		{"Fast", sym.Function, "ULONG(ULONG, ULONG, ULONG)", false, map[string]string{"x86": "@Fast@12", "x86-dwarf2": "@Fast@12"}},
		{"CountUp", sym.Function, "ULONG()", true, map[string]string{"x86": "_CountUp", "x86-dwarf2": "_CountUp"}},
		{"GlobalObject", sym.Data, "OBJECT", false, map[string]string{"x86": "_GlobalObject", "x86-dwarf2": "_GlobalObject"}},
		{"Port", sym.Data, "volatile unsigned char", false, map[string]string{"x86": "_Port", "x86-dwarf2": "_Port"}},
		{"GlobalHidden", sym.Data, "HIDDEN*", false, map[string]string{"x86": "_GlobalHidden", "x86-dwarf2": "_GlobalHidden"}},
		{"Uninitialised", sym.Data, "int[32]", false, map[string]string{"x86": "_Uninitialised", "x86-dwarf2": "_Uninitialised"}},
		{"ns::Derived::shared", sym.Data, "int", false, map[string]string{
			"x64": "_ZN2ns7Derived6sharedE", "x64-dwarf4": "_ZN2ns7Derived6sharedE", "arm64": "_ZN2ns7Derived6sharedE",
			"x86": "__ZN2ns7Derived6sharedE", "x86-dwarf2": "__ZN2ns7Derived6sharedE"}},
		{"(anonymous namespace)::Anonymous", sym.Function, "int(int&, int*)", true, map[string]string{
			"x64": "_ZN12_GLOBAL__N_19AnonymousEOiPi", "x64-dwarf4": "_ZN12_GLOBAL__N_19AnonymousEOiPi.isra.0", "arm64": "_ZN12_GLOBAL__N_19AnonymousEOiPi",
			"x86": "__ZN12_GLOBAL__N_19AnonymousEOiPi", "x86-dwarf2": "__ZN12_GLOBAL__N_19AnonymousEOiPi"}},
	}
	for _, name := range fixtures {
		t.Run(name, func(t *testing.T) {
			f := open(t, name)
			for _, tt := range tests {
				s := one(t, f, tt.name)
				got := text(t, f, s.Type)
				if name == "x86-dwarf2" {
					got = strings.ReplaceAll(got, "int&", "int*") // as strict DWARF 2 has an rvalue reference
					tt.typ = strings.ReplaceAll(tt.typ, "int&", "int*")
				}
				if s.Kind != tt.kind || got != tt.typ || s.Static != tt.static || s.Linkage != tt.linkage[name] || s.Size == 0 || s.Code != (tt.kind == sym.Function) {
					t.Errorf("%s: %+v, type %s", tt.name, s, got)
				}
				// Back by its first and its last byte.
				for _, at := range []uint32{s.RVA, s.RVA + s.Size - 1} {
					if back, ok, err := f.ByRVA(at); !ok || err != nil || back != s {
						t.Errorf("%s at %#x: %+v, %v, %v; want %+v", tt.name, at, back, ok, err, s)
					}
				}
				if tt.linkage[name] != "" {
					if back := one(t, f, tt.linkage[name]); back != s {
						t.Errorf("%s: %+v", tt.linkage[name], back)
					}
				}
			}
		})
	}
}

// TestNames looks for one symbol by all its spellings.
func TestNames(t *testing.T) {
	for _, tt := range []struct {
		image, name string
		n           int
	}{
		{"x86", "Standard", 1}, {"x86", "_Standard@8", 1}, {"x86", "Standard@8", 1}, {"x86", "_Standard", 1}, {"x86", "Standard@12", 0},
		{"x86", "@Fast@12", 1}, {"x86", "Fast@12", 1}, {"x86", "standard", 0},
		{"x64", "counter", 2}, {"x64", "counter.0", 1}, {"x64", "counter.7", 0},
		{"arm64", "counter", 2}, {"arm64", "CountUp.counter", 1},
		{"x64", "StaticTight", 2},
		{"x64", "ns::Overloaded", 2}, {"x64", "Overloaded", 0}, {"x64", "_ZN2ns10OverloadedEi", 1}, {"x86", "__ZN2ns10OverloadedEi", 1},
		{"x64", "ns::Derived::operator+", 1}, {"x64", "ns::Derived::Derived", 1}, {"x64", "ns::Box<int, 3>::Sum", 1},
		{"x64", "vtable for ns::Derived", 1},
		{"x64", "Limit", 1}, {"x64", ".refptr.GlobalObject", 1},
		{"x64", "", 0}, {"x64", "nothing like it", 0},
	} {
		list, err := open(t, tt.image).ByName(tt.name)
		if err != nil || len(list) != tt.n {
			t.Errorf("%s in %s: %d symbols, %v; want %d: %+v", tt.name, tt.image, len(list), err, tt.n, list)
		}
	}
	s := one(t, open(t, "x64"), "Limit")
	if s.Kind != sym.Constant || s.Value != 17 || s.RVA != 0 {
		t.Errorf("a constant: %+v", s)
	}
	s = one(t, open(t, "x64"), ".refptr.GlobalObject")
	if g := one(t, open(t, "x64"), "GlobalObject"); s.Kind != sym.Public || s.RVA == g.RVA {
		t.Errorf("a pointer to it: %+v, %+v", s, g)
	}
}

func TestByRVABetween(t *testing.T) {
	f := open(t, "x64")
	// Behind the last byte of a function up to the next one.
	s := one(t, f, "CountDown")
	for at := s.RVA + s.Size; ; at++ {
		got, ok, err := f.ByRVA(at)
		if !ok || err != nil {
			t.Fatalf("%#x: %v, %v", at, ok, err)
		}
		if got.Name != "CountDown" {
			if got.Name != "Exported" || got.RVA != at {
				t.Errorf("%#x: %+v", at, got)
			}
			break
		}
	}
	for _, at := range []uint32{0, 0x10, f.im.SizeOfImage, 1<<32 - 1} {
		if got, ok, err := f.ByRVA(at); ok || err != nil {
			t.Errorf("%#x: %+v, %v", at, got, err)
		}
	}
}

func TestTypes(t *testing.T) {
	tests := []struct {
		name    string
		size    [2]uint64 // of 64 and 32 bits
		members map[string][2]uint64
		types   map[string]string
	}{
		{"_OBJECT", [2]uint64{344, 280}, map[string][2]uint64{
			"Type": {0, 0}, "Flags": {8, 8}, "Low": {8, 8}, "High": {8, 8}, "Bits": {8, 8}, "Nested": {0x20, 0x20}, "Matrix": {0x68, 0x4C},
			"Table": {0x130, 0x100}, "Quad": {0x150, 0x110}, "Tail": {0x158, 0x118},
		}, map[string]string{
			"Low": "ULONG:16 at 0", "High": "ULONG:16 at 16", "Callback": "CALLBACK", "Register": "volatile const ULONG*", "Name": "char[16]",
			"Hidden": "PHIDDEN", "HiddenUnion": "_HIDDEN_UNION*", "Nowhere": "opaque _NOWHERE*", "Truth": "_Bool", "Table": "void(_OBJECT*)*[4]",
			"Tail": "UCHAR[0]", "Wide": "WCHAR[8]",
		}},
		{"_HIDDEN", [2]uint64{32, 20}, map[string][2]uint64{"Link": {0, 0}, "One": {16, 8}, "Two": {20, 12}, "Three": {24, 16}}, nil},
		{"_HIDDEN_UNION", [2]uint64{4, 4}, map[string][2]uint64{"Whole": {0, 0}, "Part": {0, 0}}, nil},
		{"_BITS", [2]uint64{24, 24}, map[string][2]uint64{"A": {0, 0}, "D": {8, 8}, "E": {8, 8}, "G": {16, 16}, "H": {20, 20}}, map[string]string{
			"B": "ULONG:3 at 1", "C": "ULONG:28 at 4", "E": "long long unsigned int:24 at 40", "G": "signed char:4 at 4", "H": "int:7 at 0"}},
		{"_PACKED", [2]uint64{15, 15}, map[string][2]uint64{"Byte": {0, 0}, "Long": {1, 1}, "Short": {5, 5}, "Quad": {7, 7}}, nil},
	}
	everyFixture(t, func(t *testing.T, f *File) {
		width := 0
		if !f.im.PE32Plus {
			width = 1
		}
		for _, tt := range tests {
			id, err := f.TypeByName(tt.name)
			if err != nil || id == 0 {
				t.Fatalf("%s: %v, %v", tt.name, id, err)
			}
			typ, err := f.Type(id)
			if err != nil || typ.Size != tt.size[width] || typ.Name != tt.name || typ.ID != id {
				t.Errorf("%s: %+v, %v", tt.name, typ, err)
			}
			members, err := f.Members(id)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]sym.Member{}
			for _, m := range members {
				got[m.Name] = m
			}
			for name, offset := range tt.members {
				if m, ok := got[name]; !ok || m.Kind != sym.Field || m.Offset != offset[width] {
					t.Errorf("%s.%s: %+v, %v", tt.name, name, m, ok)
				}
			}
			for name, want := range tt.types {
				s := strings.ReplaceAll(text(t, f, got[name].Type), "unsigned long long", "long long unsigned int")
				if s != want {
					t.Errorf("%s.%s is %s, want %s", tt.name, name, s, want)
				}
			}
		}
		// By the name of the typedef, and through it.
		id, err := f.TypeByName("POBJECT")
		alias, err2 := f.Type(id)
		if err != nil || err2 != nil || alias.Kind != sym.Alias || alias.Name != "POBJECT" || text(t, f, alias.Elem) != "_OBJECT*" {
			t.Errorf("POBJECT: %+v, %v, %v", alias, err, err2)
		}
		matrix, err := f.TypeByName("_OBJECT")
		if err != nil {
			t.Fatal(err)
		}
		members, _ := f.Members(matrix)
		for _, m := range members {
			if m.Name != "Matrix" {
				continue
			}
			var dims []uint64
			at := m.Type
			for {
				typ, err := f.Type(at)
				if err != nil {
					t.Fatal(err)
				}
				if typ.Kind != sym.Array {
					break
				}
				dims = append(dims, typ.Count, typ.Size)
				at = typ.Elem
			}
			if !slices.Equal(dims, []uint64{3, 120, 4, 40, 5, 10}) {
				t.Errorf("short [3][4][5]: %v", dims)
			}
		}
		if id, err := f.TypeByName("OBJECT "); id != 0 || err != nil {
			t.Errorf("a name that is not there: %v, %v", id, err)
		}
	})
}

func TestEnumsAndCharacters(t *testing.T) {
	everyFixture(t, func(t *testing.T, f *File) {
		id, _ := f.TypeByName("_SIGNED")
		list, err := f.Members(id)
		want := []sym.Member{{Name: "Below", Kind: sym.Enumerator, Type: id, Value: -2}, {Name: "Zero", Kind: sym.Enumerator, Type: id},
			{Name: "Above", Kind: sym.Enumerator, Type: id, Value: 2}}
		if err != nil || !slices.Equal(list, want) {
			t.Errorf("%+v, %v", list, err)
		}
		id, _ = f.TypeByName("_COLOUR")
		if list, err = f.Members(id); err != nil || len(list) != 4 || list[3].Value != 0x7FFFFFFF || list[2].Value != 6 {
			t.Errorf("%+v, %v", list, err)
		}
		for name, want := range map[string]sym.Type{
			"UCHAR": {Kind: sym.Char, Size: 1}, "WCHAR": {Kind: sym.WChar, Size: 2}, "ULONG": {Kind: sym.Int, Size: 4},
			"SIGNED": {Kind: sym.Enum, Size: 4}, "SHADE": {Kind: sym.Enum, Size: 4},
		} {
			id, err := f.TypeByName(name)
			if err != nil {
				t.Fatal(err)
			}
			typ, err := f.Type(id)
			for typ.Kind == sym.Alias && err == nil {
				typ, err = f.Type(typ.Elem)
			}
			if err != nil || typ.Kind != want.Kind || typ.Size != want.Size || typ.Signed {
				t.Errorf("%s: %+v, %v", name, typ, err)
			}
		}
	})
}

func TestClasses(t *testing.T) {
	for _, name := range []string{"x64", "x64-dwarf4", "x86", "arm64"} { // strict DWARF 2 knows no namespaces
		t.Run(name, func(t *testing.T) {
			f := open(t, name)
			id, err := f.TypeByName("ns::Derived")
			if err != nil || id == 0 {
				t.Fatal(id, err)
			}
			typ, err := f.Type(id)
			if err != nil || typ.Kind != sym.Struct || !typ.Class || typ.Name != "ns::Derived" {
				t.Errorf("%+v, %v", typ, err)
			}
			members, err := f.Members(id)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, m := range members {
				got = append(got, fmt.Sprintf("%d %s %s", m.Kind, m.Name, text(t, f, m.Type)))
			}
			want := []string{"2  ns::Base", "2  ns::Other", "4 shared int", "4 fixed const int", "1 inner ns::Derived::Inner",
				"1 level ns::Level:2 at 0", "1 later ns::Derived::Later*", "1 member int*", "1 method int("}
			for i, w := range want {
				if i >= len(got) || !strings.HasPrefix(got[i], w) {
					t.Errorf("member %d: %v, want %s", i, got, w)
					break
				}
			}
			if members[1].Offset != uint64(f.pointerSize())*2 {
				t.Errorf("second base at %d", members[1].Offset)
			}
			// Defined behind its class.
			id, err = f.TypeByName("ns::Derived::Later")
			if typ, _ = f.Type(id); err != nil || typ.Size != 8 || typ.Kind != sym.Struct {
				t.Errorf("%+v, %v", typ, err)
			}
			for _, n := range []string{"ns::Derived::Inner::Deeper", "ns::Box<int, 3>", "(anonymous namespace)::Hidden", "ns::Level"} {
				if id, err := f.TypeByName(n); id == 0 || err != nil {
					t.Errorf("%s: %v, %v", n, id, err)
				}
			}
			id, _ = f.TypeByName("ns::Base")
			if members, err = f.Members(id); err != nil || members[0].Kind != sym.VTable {
				t.Errorf("%+v, %v", members, err)
			}
		})
	}
}

func (f *File) pointerSize() int {
	if f.im.PE32Plus {
		return 8
	}
	return 4
}

func TestTypeNames(t *testing.T) {
	f := open(t, "x64")
	var got []string
	for n, err := range f.TypeNames(func(s string) bool { return strings.Contains(s, "HIDDEN") }) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, n.Name)
	}
	slices.Sort(got)
	if want := []string{"HIDDEN", "PHIDDEN", "_HIDDEN", "_HIDDEN_UNION"}; !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	for range f.TypeNames(func(string) bool { return true }) {
		break
	}
	for range f.Symbols(func(string) bool { return true }) {
		break
	}
}

// lineOf is the number of the first line of a source file that contains a text.
func lineOf(t testing.TB, file, what string) uint32 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata/src", file))
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range strings.Split(string(b), "\n") {
		if strings.Contains(s, what) {
			return uint32(i + 1)
		}
	}
	t.Fatalf("%s has no %q", file, what)
	return 0
}

func TestLines(t *testing.T) {
	everyFixture(t, func(t *testing.T, f *File) {
		for name, at := range map[string]struct{ file, text string }{
			"Exported": {"types.c", "ULONG Exported("}, "Fast": {"code.c", "ULONG FASTCALL Fast("},
			"ns::Derived::Get": {"cxx.cpp", "int Derived::Get() const"}, "UseHidden": {"other.c", "ULONG UseHidden("},
		} {
			s := one(t, f, name)
			n := lineOf(t, at.file, at.text)
			l, ok, err := f.Line(s.RVA)
			if err != nil || !ok || l.Line < n || l.Line > n+2 || !strings.HasSuffix(l.File, at.file) || l.RVA != s.RVA {
				t.Errorf("%s: %+v, %v, %v; want %s:%d", name, l, ok, err, at.file, n)
			}
			for _, path := range []string{at.file, strings.ToUpper(at.file), "src/" + at.file, `src\` + at.file} {
				list, err := f.Addresses(path, n)
				if err != nil || len(list) == 0 || !slices.ContainsFunc(list, func(l sym.Line) bool { return l.RVA == s.RVA }) {
					t.Errorf("%s:%d: %+v, %v; want %#x", path, n, list, err, s.RVA)
				}
			}
			if list, err := f.Addresses("x"+at.file, n); err != nil || list != nil {
				t.Errorf("x%s: %v, %v", at.file, list, err)
			}
		}
		// A line without code: the next one that has.
		list, err := f.Addresses("code.c", 1)
		if err != nil || len(list) == 0 || list[0].Line <= 1 {
			t.Errorf("code.c:1: %+v, %v", list, err)
		}
		if list, err = f.Addresses("code.c", 100000); err != nil || list != nil {
			t.Errorf("code.c:100000: %+v, %v", list, err)
		}
		if _, ok, err := f.Line(one(t, f, "GlobalObject").RVA); ok || err != nil {
			t.Errorf("data has a line: %v, %v", ok, err)
		}
	})
}

// TestInlined finds the line of an inline function in each of its copies.
func TestInlined(t *testing.T) {
	for _, name := range []string{"x64", "x64-dwarf4", "x86", "arm64"} {
		t.Run(name, func(t *testing.T) {
			f := open(t, name)
			list, err := f.Addresses("code.c", lineOf(t, "code.c", "ULONG product = value"))
			if err != nil || len(list) == 0 || len(list) < 2 && name != "arm64" { // Clang made one of them
				t.Fatalf("%+v, %v", list, err)
			}
			found := map[string]bool{}
			for _, l := range list {
				for at := l.RVA; at < l.RVA+max(l.Size, 1); at++ {
					scopes, err := f.Scopes(at)
					if err != nil || len(scopes) == 0 || scopes[0].Inlined || scopes[0].Name == "" || scopes[0].Type == 0 {
						t.Fatalf("%#x: %+v, %v", at, scopes, err)
					}
					for i, s := range scopes {
						if s.RVA > at || at >= s.RVA+s.Size {
							t.Errorf("%#x is not in %+v", at, s)
						}
						if s.Inlined {
							if i == 0 || s.Call.Line == 0 || !strings.HasSuffix(s.Call.File, "code.c") {
								t.Errorf("%#x: %+v", at, s)
							}
							found[s.Name] = true
							for _, v := range s.Vars {
								found[s.Name+"."+v.Name] = true
							}
						}
					}
				}
			}
			for _, want := range []string{"Square", "Square.value", "Square.product"} {
				if !found[want] {
					t.Errorf("no %s in %v", want, found)
				}
			}
		})
	}
}

func TestScopes(t *testing.T) {
	at := func(t *testing.T, image, function string, off uint32) map[string]sym.Var {
		f := open(t, image)
		scopes, err := f.Scopes(one(t, f, function).RVA + off)
		if err != nil {
			t.Fatal(err)
		}
		vars := map[string]sym.Var{}
		for _, s := range scopes {
			for _, v := range s.Vars {
				vars[v.Name] = v
			}
		}
		return vars
	}
	check := func(v sym.Var, param bool, want ...sym.Location) {
		t.Helper()
		if fmt.Sprint(v.Loc) != fmt.Sprint(want) || v.Param != param || v.Type == 0 {
			t.Errorf("%+v, want %+v", v, want)
		}
	}
	vars := at(t, "x64", "Standard", 0)
	check(vars["one"], true, sym.Location{Kind: sym.InRegister, Reg: "rcx"})
	check(vars["two"], true, sym.Location{Kind: sym.InRegister, Reg: "rdx"})
	check(vars["onStack"], false, sym.Location{Kind: sym.CFARelative, Offset: -48})
	vars = at(t, "x86", "Standard", 0)
	check(vars["one"], true, sym.Location{Kind: sym.CFARelative})
	check(vars["two"], true, sym.Location{Kind: sym.CFARelative, Offset: 4})
	vars = at(t, "x64", "Fast", 0)
	check(vars["constant"], false, sym.Location{Kind: sym.IsConstant, Value: []byte{42, 0, 0, 0}})
	check(vars["sum"], false)
	f := open(t, "x64")
	vars = at(t, "x64", "CountUp", 0)
	counters, _ := f.ByName("counter.0")
	check(vars["counter"], false, sym.Location{Kind: sym.AtRVA, RVA: counters[0].RVA})
	vars = at(t, "x64", "Pieces", 0x11)
	check(vars["p"], false, sym.Location{Kind: sym.InRegister, Reg: "rcx", PieceSize: 8}, sym.Location{Kind: sym.InRegister, Reg: "rdx", PieceOffset: 8, PieceSize: 4})
	vars = at(t, "arm64", "Fast", 0)
	check(vars["two"], true, sym.Location{Kind: sym.InRegister, Reg: "x1"})
	// DWARF 2 has the frame base as a list of registers.
	vars = at(t, "x86-dwarf2", "Standard", 0)
	check(vars["one"], true, sym.Location{Kind: sym.RegRelative, Reg: "esp", Offset: 4})

	if scopes, err := f.Scopes(one(t, f, "GlobalObject").RVA); scopes != nil || err != nil {
		t.Errorf("of data: %v, %v", scopes, err)
	}
}

// TestStrippedStatics compares what is found with the linker's names for what is
// static, and without.
func TestStrippedStatics(t *testing.T) {
	b, err := os.ReadFile("testdata/x64.exe")
	if err != nil {
		t.Fatal(err)
	}
	whole := open(t, "x64")
	n := 0
	for i := range whole.symbolCount {
		p := b[whole.symbols+int64(i)*coffSymbol:]
		if p[16] == coffStatic && p[17] == 0 {
			p[16] = 0
			n++
		}
	}
	if n == 0 {
		t.Fatal("no statics")
	}
	f, err := New(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"CountUp", "counter", "StaticTight", "Fast", "GlobalObject"} {
		got, err := f.ByName(name)
		want, _ := whole.ByName(name)
		for i := range want {
			if want[i].Static {
				want[i].Linkage = ""
			}
		}
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, want)
		}
		for _, s := range want {
			if got, ok, err := f.ByRVA(s.RVA + s.Size - 1); !ok || err != nil || got != s {
				t.Errorf("%s by address: %+v, %v, %v; want %+v", name, got, ok, err, s)
			}
		}
	}
}

func TestNoDWARF(t *testing.T) {
	b, err := os.ReadFile("testdata/x86.exe")
	if err != nil {
		t.Fatal(err)
	}
	whole := open(t, "x86")
	b = bytes.ReplaceAll(b, []byte(".debug_info\x00"), []byte(".nothing_in\x00"))
	f, err := New(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if f.Private() {
		t.Error("private")
	}
	for _, name := range []string{"Fast", "Exported", "GlobalCount"} {
		got, want := one(t, f, name), one(t, whole, name)
		kind := sym.Public
		if want.Code {
			kind = sym.Function
		}
		if got.RVA != want.RVA || got.Kind != kind || got.Linkage != want.Linkage || got.Type != 0 || want.Code && got.Size < want.Size {
			t.Errorf("%+v, want %+v", got, want)
		}
		if back, ok, err := f.ByRVA(got.RVA + 1); !ok || err != nil || back.Name != name {
			t.Errorf("%s: %+v, %v, %v", name, back, ok, err)
		}
	}
	if _, ok, err := f.Line(one(t, f, "Fast").RVA); ok || err != nil {
		t.Error(ok, err)
	}
	if id, err := f.TypeByName("_OBJECT"); id != 0 || err != nil {
		t.Error(id, err)
	}
	// And without anything.
	pos := binary.LittleEndian.Uint32(b[0x3C:])
	clear(b[pos+12 : pos+20])
	if _, err := New(bytes.NewReader(b), int64(len(b))); !errors.Is(err, ErrNoSymbols) {
		t.Error(err)
	}
}

func TestTruncated(t *testing.T) {
	b, err := os.ReadFile("testdata/x64.exe")
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(b) {
		if n > 1024 && n%97 != 0 {
			continue
		}
		if f, err := New(bytes.NewReader(b[:n]), int64(n)); err == nil {
			if end := f.symbols + int64(f.symbolCount)*coffSymbol; end > int64(n) {
				t.Errorf("%d bytes of %d are enough", n, len(b))
			}
			exercise(f)
		}
	}
}

// failing is a reader that fails from some call on.
type failing struct {
	r io.ReaderAt
	n int
}

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if f.n--; f.n < 0 {
		return 0, errors.New("the disk is gone")
	}
	return f.r.ReadAt(p, off)
}

func TestReaderFails(t *testing.T) {
	b, err := os.ReadFile("testdata/x64.exe")
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < 60; n++ {
		f, err := New(&failing{bytes.NewReader(b), n}, int64(len(b)))
		if err != nil {
			if !strings.Contains(err.Error(), "the disk is gone") && !errors.Is(err, ErrNoSymbols) && !errors.Is(err, ErrMalformed) {
				t.Error(err)
			}
			continue
		}
		exercise(f)
	}
}

func TestConcurrent(t *testing.T) {
	f := open(t, "x64")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() { exercise(f) })
	}
	wg.Wait()
}

// exercise asks an image for everything and gives up on nothing. What it finds
// it only counts.
func exercise(f *File) int {
	n := 0
	note := func(ok bool, err error) {
		if ok && err == nil {
			n++
		}
	}
	for _, name := range []string{"Fast", "_Standard@8", "counter", "ns::Overloaded", "operator new", "nothing"} {
		list, err := f.ByName(name)
		note(len(list) > 0, err)
	}
	for s, err := range f.Symbols(func(string) bool { return true }) {
		if err != nil {
			break
		}
		if n++; n > 300 {
			break
		}
		walk(f, s.Type, 4)
		for _, rva := range []uint32{s.RVA, s.RVA + s.Size/2} {
			_, ok, err := f.ByRVA(rva)
			note(ok, err)
			if !s.Code {
				continue
			}
			_, ok, err = f.Line(rva)
			note(ok, err)
			scopes, err := f.Scopes(rva)
			note(len(scopes) > 0, err)
			row, ok, err := f.CFI(rva)
			note(ok, err)
			if ok {
				_, err = row.Caller(func(string) (uint64, bool) { return 0x1000, true }, func(addr uint64, size int) (uint64, error) { return addr + uint64(size), nil })
				note(true, err)
			}
			_, ok, err = f.X86Frame(rva)
			note(ok, err)
		}
	}
	for _, name := range []string{"_OBJECT", "_BITS", "ns::Derived", "WCHAR"} {
		id, err := f.TypeByName(name)
		note(id != 0, err)
		walk(f, id, 3)
	}
	for t, err := range f.TypeNames(func(string) bool { return true }) {
		if err != nil {
			break
		}
		if n++; n > 1000 {
			break
		}
		walk(f, t.ID, 2)
	}
	list, err := f.Addresses("code.c", 40)
	note(len(list) > 0, err)
	return n
}

// walk describes a type and what it is made of.
func walk(f *File, id sym.TypeID, depth int) {
	if id == 0 || depth == 0 {
		return
	}
	typ, err := f.Type(id)
	if err != nil {
		return
	}
	walk(f, typ.Elem, depth-1)
	for i, p := range typ.Params {
		if i < 20 {
			walk(f, p, depth-1)
		}
	}
	members, _ := f.Members(id)
	for i, m := range members {
		if i < 50 {
			walk(f, m.Type, depth-1)
		}
	}
}
