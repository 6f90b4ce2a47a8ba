package symbols

import (
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

func TestParsePath(t *testing.T) {
	type e = Element
	cases := []struct {
		text string
		want []Element
		err  string // part of it; "" none
	}{
		{"", nil, ""},
		{" ; ;", nil, ""},
		{"/a/b", []e{{Folder, []string{"/a/b"}, ""}}, ""},
		{` "/a b" ;rel`, []e{{Folder, []string{"/a b"}, ""}, {Folder, []string{"rel"}, ""}}, ""},
		{"srv*", []e{{Server, []string{MicrosoftServer}, ""}}, ""},
		{"SRV**", []e{{Server, []string{"", MicrosoftServer}, ""}}, ""},
		{"srv*https://a.example/s", []e{{Server, []string{"https://a.example/s"}, ""}}, ""},
		{"https://a.example/s", []e{{Server, []string{"https://a.example/s"}, ""}}, ""},
		{"srv**http://a.example", []e{{Server, []string{"", "http://a.example"}, ""}}, ""},
		{"srv*/c*https://a.example/s", []e{{Server, []string{"/c", "https://a.example/s"}, ""}}, ""},
		{"Srv*/c1*/c2*https://a.example/s", []e{{Server, []string{"/c1", "/c2", "https://a.example/s"}, ""}}, ""},
		{"srv*/c*", []e{{Server, []string{"/c", MicrosoftServer}, ""}}, ""},
		{"srv*/store", []e{{Server, []string{"/store"}, ""}}, ""},
		{"symsrv*symsrv.dll*/c*http://a.example", []e{{Server, []string{"/c", "http://a.example"}, ""}}, ""},
		{"SymSrv*SYMSRV.DLL*http://a.example", []e{{Server, []string{"http://a.example"}, ""}}, ""},
		{"cache*", []e{{Cache, []string{""}, ""}}, ""},
		{"cache*/c;srv*", []e{{Cache, []string{"/c"}, ""}, {Server, []string{MicrosoftServer}, ""}}, ""},
		{"symsrv*other.dll*/c*http://a.example", nil, "other libraries (other.dll)"},
		{"symsrv*symsrv.dll", nil, "server is missing"},
		{"cache*/a*/b", nil, "one folder"},
		{"cache*http://a.example", nil, "cannot be a cache"},
		{"what*/a", nil, "begins with srv*"},
		{"srv*http://", nil, "no host"},
		{"srv*http://a.example/x#y", nil, "#"},
		{"srv*http://[::1", nil, "not a URL"},
		{"a\tb;c", []e{{Folder, []string{"c"}, ""}}, "control"},
		{"srv*" + strings.Repeat("/a*", 11) + "/b", nil, "12 stores"},
		{"/ok;what*x;/ok2", []e{{Folder, []string{"/ok"}, ""}, {Folder, []string{"/ok2"}, ""}}, "what*x"},
		{strings.Repeat("a;", 300), nil, "256 elements"},
		{strings.Repeat("a", maxPath+1), nil, "longer"},
	}
	if runtime.GOOS != "windows" {
		cases = append(cases, []struct {
			text string
			want []Element
			err  string
		}{
			{`C:\symbols`, nil, "folder of Windows"},
			{`srv*c:\sym*https://a.example`, nil, "folder of Windows"},
			{`\\server\share`, nil, "folder of Windows"},
		}...)
	}
	for _, c := range cases {
		p, err := ParsePath(c.text)
		if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%.40q: error %v, want %q", c.text, err, c.err)
		}
		got := append([]Element(nil), p.Elements()...)
		for i := range got {
			got[i].text = ""
		}
		if c.want != nil && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%.40q: %+v, want %+v", c.text, got, c.want)
		}
	}
}

func TestPathText(t *testing.T) {
	must := func(s string) Path {
		p, err := ParsePath(s)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	p := must("/a; cache*/b ;srv*https://joe:secret@s.example/x?key=secret; srv* https://joe:secret@s.example * /d;srv*;srv*/d*/e")
	if got, want := p.String(), "/a;cache*/b;srv*https://joe:xxxxx@s.example/x?...;srv* https://joe:xxxxx@s.example * /d;srv*;srv*/d*/e"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got, want := p.Expanded("/C"), "/a;cache*/b;srv*/C*https://joe:xxxxx@s.example/x?...;srv*https://joe:xxxxx@s.example*/d;srv*/C*"+MicrosoftServer+";srv*/d*/e"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := must("/a").Append(must("/b;/c")).String(); got != "/a;/b;/c" {
		t.Error(got)
	}
	base := must("/a;/b")
	_ = base.Append(must("/c"))
	if got := base.Append(must("/d")).String(); got != "/a;/b;/d" {
		t.Error(got)
	}
	_, err := ParsePath("what*https://joe:secret@s.example/x?key=secret")
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("the error tells: %v", err)
	}
	for in, want := range map[string]string{"": "srv*", "/c": "srv*/c*" + MicrosoftServer} {
		if p, err := Fix(in); err != nil || p.String() != want {
			t.Errorf("Fix(%q): %v, %v", in, p, err)
		}
	}
	if _, err := Fix("a*b"); err == nil {
		t.Error("Fix took a*b")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range must(dir + ";" + file + ";" + filepath.Join(dir, "none") + ";srv*;cache*/none").Problems() {
		names = append(names, filepath.Base(p.Element)+": "+p.Err.Error())
	}
	if len(names) != 2 || names[0] != "f: not a folder" || !strings.HasPrefix(names[1], "none: ") {
		t.Error(names)
	}
}

func TestEnvironment(t *testing.T) {
	get := func(m map[string]string) func(string) string { return func(k string) string { return m[k] } }
	e := FromEnvironment(get(map[string]string{
		"_NT_SYMBOL_PATH": "/a", "_NT_ALT_SYMBOL_PATH": "/b", "_NT_EXECUTABLE_IMAGE_PATH": "/i",
		"_NT_SYMBOL_PROXY": "p:8080", "DBGHELP_HOMEDIR": "/h",
	}))
	if want := (Environment{"/b;/a", "/i", "p:8080", filepath.Join("/h", "sym")}); e != want {
		t.Errorf("%+v", e)
	}
	if e := FromEnvironment(get(map[string]string{"_NT_ALT_SYMBOL_PATH": "/b"})); e.Symbols != "/b" {
		t.Errorf("%+v", e)
	}
	if runtime.GOOS == "windows" {
		dir := t.TempDir()
		shared := filepath.Join(dir, "Dbg", "Sym")
		if err := os.MkdirAll(shared, 0o700); err != nil {
			t.Fatal(err)
		}
		if e := FromEnvironment(get(map[string]string{"ProgramData": dir})); e.Cache != shared {
			t.Errorf("%+v", e)
		}
	}
}

func FuzzParsePath(f *testing.F) {
	for _, s := range []string{"srv*", "cache*/a;srv*/b*https://u:p@h/x?y", `symsrv*symsrv.dll*\\a\b*c`, `"a b";c`, "srv*https://x *b", "srv* https://x", "\u00a0https://x/\u2028;", "https://x/#", "c\u212aache*", "srv*\"https://x\"*b"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, _ := ParsePath(s)
		_, _ = p.Expanded("/c"), p.String()
		for _, e := range p.Elements() {
			if len(e.Stores) == 0 || e.Kind != Server && len(e.Stores) != 1 {
				t.Fatalf("%q: %+v", s, e)
			}
			if e.Kind == Server && e.Stores[len(e.Stores)-1] == "" {
				t.Fatalf("%q: a server without a source", s)
			}
		}
		if strings.ContainsAny(s, "@?%") { // what is hidden does not come back
			return
		}
		q, err := ParsePath(p.String())
		if err != nil || !reflect.DeepEqual(q.elements, p.elements) {
			t.Fatalf("%q: %v, then %v, %v", s, p.elements, q.elements, err)
		}
	})
}
