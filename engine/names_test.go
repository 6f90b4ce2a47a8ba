package engine

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"openkd/image/sym"
	"openkd/symbols"
)

func TestPlace(t *testing.T) {
	s := func(addr, base uint64, static bool) symbols.Symbol {
		return symbols.Symbol{Symbol: sym.Symbol{Name: "f", Kind: sym.Function, Static: static}, Module: "m", Base: base, Addr: addr}
	}
	constant := symbols.Symbol{Symbol: sym.Symbol{Name: "c", Kind: sym.Constant}, Module: "m"}
	for _, tt := range []struct {
		what string
		in   []symbols.Symbol
		want uint64
		many int
	}{
		{"one", []symbols.Symbol{s(1, 0, false)}, 1, 0},
		{"the one that all see", []symbols.Symbol{s(1, 0, true), s(2, 0, false), s(3, 0, true)}, 2, 0},
		{"two names of one place", []symbols.Symbol{s(7, 0, false), s(7, 0, false)}, 7, 0},
		{"two that all see", []symbols.Symbol{s(9, 0, false), s(7, 0, false)}, 0, 2},
		{"static ones of several files", []symbols.Symbol{s(3, 0, true), s(1, 0, true), s(2, 0, true)}, 0, 3},
		{"the first module", []symbols.Symbol{s(0x11, 0x10, false), s(0x21, 0x20, false)}, 0x11, 0},
		{"a constant beside", []symbols.Symbol{constant, s(4, 0, true)}, 4, 0},
		{"a constant", []symbols.Symbol{constant}, 0, 0},
	} {
		got, err := place("m!f", tt.in)
		var many *AmbiguousError
		switch {
		case tt.many > 0:
			if !errors.As(err, &many) || len(many.Symbols) != tt.many || !slices.IsSortedFunc(many.Symbols, byAddr) {
				t.Errorf("%s: %x, %v", tt.what, got, err)
			}
		case tt.want == 0:
			if err == nil {
				t.Errorf("%s: %x", tt.what, got)
			}
		case got != tt.want || err != nil:
			t.Errorf("%s: %x, %v; want %x", tt.what, got, err, tt.want)
		}
	}
	e := New(nil, Options{})
	err := e.NameError("m!f", &AmbiguousError{"m!f", []symbols.Symbol{s(1, 0, false), s(2, 0, false)}})
	if text := err.Error(); !strings.Contains(text, "Matched: 00000000`00000001 m!f\n") {
		t.Error(text)
	}
}

func TestNames(t *testing.T) {
	for _, tt := range []struct{ in, mods, rest string }{
		{"nt!Foo", "nt", ""},
		{"nt!Foo+10 3 \"cmd\"", "nt", "3 \"cmd\""},
		{"Foo", "", ""},
		{"`mod!file.c:12` \"x\"", "mod", "\"x\""},
		{"`file.c:12`", "", ""},
		{`@!"nt!C<int>::f" 2`, "nt", "2"},
		{"nt!A + hal!B", "hal,nt", ""},
		{"poi(nt!A)", "nt", ""},
		{"12345", "-", ""},
		{"fffff800`12345678", "-", ""},
	} {
		mods, rest, err := Names(tt.in, 16)
		got := strings.Join(mods, ",")
		if len(mods) == 0 {
			got = "-"
		}
		if err != nil || got != tt.mods || rest != tt.rest {
			t.Errorf("%s: %q, %q, %v; want %q, %q", tt.in, got, rest, err, tt.mods, tt.rest)
		}
	}
	for _, bad := range []string{"", "1+", "(", "`x", "@rax", "12g"} {
		if _, _, err := Names(bad, 16); err == nil {
			t.Errorf("%q is an expression", bad)
		}
	}
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"nt!Foo+1", "`a!b:1`", `@!"x`, "nt!operator==<<a>>", "a<b<c>::d<", "m!T<int>::operator->", "m!`x'::y"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		_, rest, err := Names(s, 16)
		if err == nil && !strings.HasSuffix(s, rest) {
			t.Errorf("%q: the rest %q is not its end", s, rest)
		}
	})
}

func TestSources(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const text = "one\r\ntwo\r\n\tthree"
	write("a/src/Mod/File.C", text)
	write("b/file.c", "other\n")
	write("b/utf16.c", "\xff\xfea\x00\n\x00b\x00\n\x00")
	write("b/latin.c", "gr\xfc\xdfe\n")
	write("b/dir.c/x", "")
	md5 := []byte{0x8d, 0xde, 0x3f, 0x7c, 0x7b, 0x0a, 0x0e, 0x5c, 0x0f, 0x73, 0x0b, 0x1d, 0x1a, 0x3d, 0x84, 0x0b} // of nothing here
	in := func(elements ...string) string {
		for i := range elements {
			elements[i] = filepath.Join(dir, elements[i])
		}
		return strings.Join(elements, ";")
	}
	for _, tt := range []struct {
		what, path, file, want string // end of the path found; "": none
		sum                    []byte
		differs                bool
	}{
		{"the longest end", in("b", "a"), `d:\build\src\mod\file.c`, "a/src/Mod/File.C", nil, false},
		{"the name alone", in("b"), `d:\build\src\mod\file.c`, "b/file.c", nil, false},
		{"slashes", in("a"), "/home/x/src/Mod/File.C", "a/src/Mod/File.C", nil, false},
		{"another file", in("b"), `d:\build\file.c`, "b/file.c", md5, true},
		{"not out of the folder", in("b"), `..\..\a\src\mod\file.c`, "b/file.c", nil, false},
		{"nowhere", in("b"), `d:\build\none.c`, "", nil, false},
		{"a folder", in("b"), `dir.c`, "", nil, false},
		{"no path", "", `d:\build\file.c`, "", nil, false},
		{"as it is", "", filepath.Join(dir, "b", "file.c"), "b/file.c", nil, false},
		{"another machine's", "", `\\server\share\file.c`, "", nil, false},
		{"no name", in("b"), "", "", nil, false},
	} {
		var s Sources
		s.SetPath(tt.path, false)
		l := sym.Line{File: tt.file}
		if tt.sum != nil {
			l.ChecksumKind, l.Checksum = 1, tt.sum
		}
		f, err := s.Find(l)
		switch {
		case tt.want == "":
			if err == nil {
				t.Errorf("%s: %s", tt.what, f.Path)
			}
		case err != nil:
			t.Errorf("%s: %v", tt.what, err)
		case !strings.EqualFold(filepath.ToSlash(f.Path), filepath.ToSlash(filepath.Join(dir, tt.want))) || f.Differs != tt.differs:
			t.Errorf("%s: %s, another one %v; want %s", tt.what, f.Path, f.Differs, tt.want)
		}
	}
	var s Sources
	s.SetPath(in("a"), false)
	s.SetPath(in("b"), true)
	for file, want := range map[string]string{"file.c": "other", "utf16.c": "a|b", "latin.c": "grüße", "mod/file.c": "other"} {
		f, err := s.Find(sym.Line{File: file})
		if err != nil {
			t.Error(err)
		} else if got := strings.Join(f.Lines, "|"); got != want {
			t.Errorf("%s: %q", file, got)
		}
	}
	f, err := s.Find(sym.Line{File: "src/mod/file.c"})
	if err != nil {
		t.Fatal(err)
	}
	if l, ok := f.Line(3); !ok || l != "\tthree" {
		t.Errorf("line 3: %q", l)
	}
	for _, n := range []int{0, -1, 4} {
		if l, ok := f.Line(n); ok {
			t.Errorf("line %d: %q", n, l)
		}
	}
	// A file that was changed is read again.
	write("b/file.c", "changed\nlonger\n")
	if f, err := s.Find(sym.Line{File: "file.c"}); err != nil || len(f.Lines) != 2 {
		t.Errorf("%+v, %v", f, err)
	}
}

// TestPending: what breakpoints that wait for names make the engine ask for.
func TestPending(t *testing.T) {
	b := &Breakpoints{e: New(nil, Options{})}
	b.bp = []*Breakpoint{
		{ID: 0, Enabled: true, Deferred: true, Expr: "foo!Bar+3", Radix: 16},
		{ID: 1, Enabled: true, Deferred: true, Module: "baz", Offset: 1},
		{ID: 2, Deferred: true, Expr: "off!Bar", Radix: 16},
		{ID: 3, Enabled: true, Expr: "there!Bar", Radix: 16},
	}
	if got := strings.Join(b.pending(), " "); got != "foo baz" {
		t.Error(got)
	}
	b.bp[0].Expr = "Bar"
	if got := strings.Join(b.pending(), " "); got != "* baz" {
		t.Error(got)
	}
	if err := b.Renumber([]int{0, 1}, []int{1, 0}); err != nil || b.bp[0].Module != "baz" || b.bp[1].Expr != "Bar" {
		t.Error(err, b.bp[0], b.bp[1])
	}
	for _, bad := range [][2][]int{{{9}, {10}}, {{0}, {1}}, {{0}, {-1}}, {{0, 1}, {5, 5}}, {{0, 0}, {5, 6}}, {{0}, {MaxID + 1}}} {
		if err := b.Renumber(bad[0], bad[1]); err == nil {
			t.Errorf("%v became %v", bad[0], bad[1])
		}
	}
}

func TestNameEnvWithoutTarget(t *testing.T) {
	e := New(nil, Options{})
	if _, err := e.Resolve(context.Background(), "nt!Foo", 16); err == nil {
		t.Error("a name without a target")
	}
	if v, err := e.Resolve(context.Background(), "10+10", 16); v != 0x20 || err != nil {
		t.Error(v, err)
	}
}
