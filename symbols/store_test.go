package symbols

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestPointer(t *testing.T) {
	cases := []struct{ text, path, message, err string }{
		{"PATH:\\\\server\\share\\a.pdb", `\\server\share\a.pdb`, "", ""},
		{"path: /a/b.pdb\r\nmore", "/a/b.pdb", "", ""},
		{"\ufeffMSG: it was thrown away", "", "it was thrown away", ""},
		{"/a/b.pdb", "/a/b.pdb", "", ""},
		{"C:\\x\\b.pdb", `C:\x\b.pdb`, "", ""},
		{"PATH:https://h/x", "https://h/x", "", ""},
		{"", "", "", "empty"},
		{"PATH: ", "", "", "no file"},
		{"\x00\x01", "", "", "control"},
		{strings.Repeat("a", maxPointer+1), "", "", "longer"},
	}
	for _, c := range cases {
		p, err := parsePointer([]byte(c.text))
		if (err != nil) != (c.err != "") || err != nil && !strings.Contains(err.Error(), c.err) || p.path != c.path || p.message != c.message {
			t.Errorf("%.30q: %+v, %v", c.text, p, err)
		}
	}
}

func FuzzPointer(f *testing.F) {
	f.Add([]byte("PATH:/a"))
	f.Add([]byte("MSG: x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := parsePointer(b)
		if err == nil && p.path == "" && p.message == "" && !strings.Contains(strings.ToUpper(string(b)), "MSG") {
			t.Fatalf("%q says nothing", b)
		}
		if strings.ContainsAny(p.path+p.message, "\n\x00\x1b") {
			t.Fatalf("%q", p)
		}
	})
}

func TestFileNames(t *testing.T) {
	for _, ok := range []string{"ntkrnlmp.pdb", "a", "ä.pdb", "a b.pdb", "comx.sys", "com.pdb", "x.y.z", "a+b.pdb", "a%20.pdb", "a#.pdb"} {
		if !plainName(ok) {
			t.Errorf("%q refused", ok)
		}
	}
	for _, bad := range []string{"", ".", "..", "a/b", `a\b`, "a:b", "C:", "a*", "a?", `"`, "<a", "a|", "\x00", "a\n", "a.", "a ", " a", "CON", "nul.pdb", "COM1", "lpt9.x", strings.Repeat("a", 201), "a\xff"} {
		if plainName(bad) {
			t.Errorf("%q taken", bad)
		}
	}
}

func TestAnyCase(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("for file systems where case matters")
	}
	dir := t.TempDir()
	sub := filepath.Join(dir, "Symbols", "SYS")
	if err := os.MkdirAll(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(sub, "TcpIp.PDB")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := lookUpFile(dir, "symbols", "sys", "tcpip.pdb"); err != nil || got != file {
		t.Error(got, err)
	}
	if _, err := lookUpFile(dir, "symbols", "sys", "tcpip2.pdb"); err == nil {
		t.Error("found what is not there")
	}
	if _, err := lookUpFile(dir, "symbols", "sys"); err == nil {
		t.Error("a folder was taken for a file")
	}
}
