package undname

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/names.txt anew from clang and llvm-undname")

// TestByHand has what clang does not make.
func TestByHand(t *testing.T) {
	for _, c := range []struct{ in, full, name string }{
		{"?f@@YAXXZ", "void __cdecl f(void)", "f"},
		{"??0Foo@@QEAA@XZ", "public: __cdecl Foo::Foo(void)", "Foo::Foo"},
		{"??1?$Foo@H@@QEAA@XZ", "public: __cdecl Foo<int>::~Foo<int>(void)", "Foo<int>::~Foo<int>"},
		{"?x@?A0x12345678@@3HA", "int `anonymous namespace'::x", "`anonymous namespace'::x"},
		{"?f@@9", `extern "C" f`, "f"},
		{"?f@N@@$$J0YAXXZ", `extern "C" void __cdecl N::f(void)`, "N::f"},
		{"?f@C@@$4PPPPPPPM@A@EAAXXZ", "[thunk]: public: virtual void __cdecl C::f`vtordisp{-4, 0}'(void)", "C::f"},
		{"?f@C@@$R477PPPPPPPM@7AEXXZ", "[thunk]: public: virtual void __thiscall C::f`vtordispex{8, 8, -4, 8}'(void)", "C::f"},
		{"?f@C@@$4?3A@EAAXXZ", "[thunk]: public: virtual void __cdecl C::f`vtordisp{-4, 0}'(void)", "C::f"},
		{"?f@C@@OBA@AEXXZ", "[thunk]: protected: virtual void __thiscall C::f`adjustor{16}'(void)", "C::f"},
		{"??_B?1??getS@@YAAAUS@@XZ@51", "`struct S & __cdecl getS(void)'::`2'::`local static guard'{2}", "`getS'::`2'::`local static guard'"},
		{"??__FC@?1??f@@YAXXZ@YAXXZ", "void __cdecl `dynamic atexit destructor for '`void __cdecl f(void)'::`2'::C''(void)", "`dynamic atexit destructor for '`f'::`2'::C''"},
		{"?f@@YwXH@Z", "void __regcall f(int)", "f"},
		{"?f@@YAX_L_M@Z", "void __cdecl f(__int128, unsigned __int128)", "f"},
		{"?f@@YAXV?$A@$F7BA@@@@Z", "void __cdecl f(class A<{8, 16}>)", "f"},
		{"??_SC@@6B@", "const C::`local vftable'", "C::`local vftable'"},
		{".PEAVBase@@", "class Base *`RTTI Type Descriptor Name'", "Base *`RTTI Type Descriptor Name'"},
		{"??@a6a285da2eea70dba6b578022be61d81@", "??@a6a285da2eea70dba6b578022be61d81@", "??@a6a285da2eea70dba6b578022be61d81@"},
		{"?f@@YAXV?$A@U?$B@H@@@@@Z", "void __cdecl f(class A<struct B<int>>)", "f"},
		{"??$f@V?$A@U?$B@H@@D@@@@YAXXZ", "void __cdecl f<class A<struct B<int>, char>>(void)", "f<A<B<int>,char> >"},
		// The way to a base by several classes; llvm-undname shows the first only.
		{"??_7A@@6BB@@C@@@", "const A::`vftable'{for `B's `C'}", "A::`vftable'"},
	} {
		full, err := Full(c.in)
		if err != nil || full != c.full {
			t.Errorf("Full(%q) = %q, %v; want %q", c.in, full, err, c.full)
		}
		name, ok := Name(c.in)
		if !ok || name != c.name {
			t.Errorf("Name(%q) = %q, %v; want %q", c.in, name, ok, c.name)
		}
	}
}

func TestInvalid(t *testing.T) {
	deep := "?f@@YAX" + strings.Repeat("PA", 5000) + "H@Z"
	wide := "?f@@YAXY" + strings.Repeat("9", 5000) + "H@Z"
	for _, in := range []string{"", "f", "_f@8", "?", "??", "?f", "?f@@", "?f@@Q", "?f@@YAX", "?f@@YAX1@Z", "?1@@3HA", "?x@1@3HA",
		"??0@@YAXXZ", "?f@@YAXV?$A@$0", "??_C@_0", "??_C@_0!@A@x@", "??_R0H", ".", ".H@", deep, wide, "?" + strings.Repeat("?", 30000)} {
		if s, err := Full(in); err == nil {
			t.Errorf("Full(%.40q) = %.40q", in, s)
		}
	}
}

// TestDoubling: names whose parts refer back to twice what came before cost
// what their bounds allow and no more.
func TestDoubling(t *testing.T) {
	var b strings.Builder
	b.WriteString("?f@@YAX")
	for i := range 400 {
		fmt.Fprintf(&b, "U?$a%d@", i)
	}
	b.WriteString("H")
	for range 400 {
		b.WriteString("V1@V1@@@")
	}
	b.WriteString("@Z")
	big := "?f@@YAX" + strings.Repeat("P6AXPAUaaaaaaaaaaaaaaaaaaaaaaaaaaaa@@00000000@Z", 150) + "@Z"
	for _, in := range []string{b.String(), big} {
		if s, err := Full(in); err == nil && len(s) > maxOutput {
			t.Errorf("%d characters", len(s))
		}
	}
}

// golden returns the checked-in names with their declarations.
func golden(t testing.TB) [][2]string {
	raw, err := os.ReadFile("testdata/names.txt")
	if err != nil {
		t.Fatal(err)
	}
	var list [][2]string
	for line := range strings.Lines(string(raw)) {
		in, full, ok := strings.Cut(strings.TrimRight(line, "\r\n"), "\t")
		if !ok {
			t.Fatalf("line %q", line)
		}
		list = append(list, [2]string{in, full})
	}
	if len(list) < 500 {
		t.Fatalf("only %d names", len(list))
	}
	return list
}

// TestGolden compares with what llvm-undname said.
func TestGolden(t *testing.T) {
	for _, g := range golden(t) {
		full, err := Full(g[0])
		if err != nil || full != g[1] {
			t.Errorf("%s\n got %s, %v\nwant %s", g[0], full, err, g[1])
		}
		name, ok := Name(g[0])
		if !ok || name == "" {
			t.Errorf("%s has no name", g[0])
		}
		// The name stands in the declaration, but for how types are written.
		if strings.Contains(g[0], "@$1?") || strings.Contains(g[0], "$E?") {
			continue // arguments that are symbols stand with their types there
		}
		loose := regexp.MustCompile(`struct |class |union |enum | `)
		if a, b := loose.ReplaceAllString(full, ""), loose.ReplaceAllString(name, ""); name != "`string'" && !strings.Contains(name, "`") && !strings.Contains(a, b) {
			t.Errorf("%s: %s is not in %s", g[0], name, full)
		}
	}
}

// TestAgainstLLVM compiles testdata/names.cpp and compares every name in it.
func TestAgainstLLVM(t *testing.T) {
	undname := tool(t, "llvm-undname")
	clang := tool(t, "clang")
	names := map[string]bool{}
	quoted := regexp.MustCompile(`"(\.?\?[^"]+)"`)
	for _, target := range []string{"x86_64", "i686"} {
		out := filepath.Join(t.TempDir(), target+".s")
		cmd := exec.Command(clang, "--target="+target+"-pc-windows-msvc", "-std=c++17", "-w", "-fms-compatibility-version=19.20",
			"-fcxx-exceptions", "-fexceptions", "-S", "-o", out, "testdata/names.cpp")
		if msg, err := cmd.CombinedOutput(); err != nil {
			t.Skipf("this clang does not compile the names: %v\n%s", err, msg)
		}
		raw, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range quoted.FindAllSubmatch(raw, -1) {
			names[string(m[1])] = true
		}
	}
	var list []string
	for n := range names {
		list = append(list, n)
	}
	slices.Sort(list)
	want := ask(t, undname, list)
	bad := 0
	for i, n := range list {
		if got, err := Full(n); got != want[i] {
			if bad++; bad < 20 {
				t.Errorf("%s\n got %s, %v\nwant %s", n, got, err, want[i])
			}
		}
	}
	t.Logf("%d names, %d differences", len(list), bad)
	if *update {
		var b strings.Builder
		for i, n := range list {
			fmt.Fprintf(&b, "%s\t%s\n", n, want[i])
		}
		if err := os.WriteFile("testdata/names.txt", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// tool finds a program of LLVM, by its plain name or one with a version.
func tool(t testing.TB, name string) string {
	t.Helper()
	for _, n := range []string{name, name + "-14", name + "-15", name + "-16", name + "-19"} {
		if p, err := exec.LookPath(n); err == nil {
			return p
		}
	}
	t.Skipf("%s is not installed", name)
	return ""
}

// ask gives names to llvm-undname, which answers each with itself, a line and
// an empty line.
func ask(t testing.TB, undname string, names []string) []string {
	t.Helper()
	cmd := exec.Command(undname)
	cmd.Stdin = strings.NewReader(strings.Join(names, "\n") + "\n")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", undname, err, errs.String())
	}
	var list []string
	sc := bufio.NewScanner(bytes.NewReader(out))
	sc.Buffer(nil, 1<<20)
	for i := 0; sc.Scan(); i++ {
		if i%3 == 1 {
			list = append(list, sc.Text())
		}
	}
	if len(list) != len(names) {
		t.Fatalf("%d answers for %d names", len(list), len(names))
	}
	return list
}

func FuzzUndname(f *testing.F) {
	for i, g := range golden(f) {
		if i%7 == 0 {
			f.Add(g[0])
		}
	}
	f.Add("?f@C@@$R477PPPPPPPM@7AEXXZ")
	f.Add("??__E?x@C@@2HA@@YAXXZ")
	f.Fuzz(func(t *testing.T, s string) {
		full, err := Full(s)
		if len(full) > maxOutput+100 || err != nil && full != "" {
			t.Errorf("%d characters, %v", len(full), err)
		}
		name, ok := Name(s)
		if len(name) > maxOutput+100 || ok && name == "" {
			t.Errorf("%d characters, %v", len(name), ok)
		}
	})
}

func BenchmarkName(b *testing.B) {
	list := golden(b)
	for i := 0; b.Loop(); i++ {
		Name(list[i%len(list)][0])
	}
}

func BenchmarkFull(b *testing.B) {
	list := golden(b)
	for i := 0; b.Loop(); i++ {
		_, _ = Full(list[i%len(list)][0])
	}
}
