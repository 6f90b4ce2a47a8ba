package password

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	dir := t.TempDir()
	env := func(string) string { return "from the environment" }
	for _, c := range []struct {
		name, content string
		mode          os.FileMode
		want, err     string
	}{
		{"plain", "s e cret\nanother line\n", 0o600, "s e cret", ""},
		{"readonly", "secret", 0o400, "secret", ""},
		{"crlf", "secret\r\n", 0o600, "secret", ""},
		{"bom", "\xEF\xBB\xBFsecret\n", 0o600, "secret", ""},
		{"utf16", "\xFF\xFEs\x00e\x00", 0o600, "", "UTF-16"},
		{"empty", "", 0o600, "", "first line is empty"},
		{"blank", "\nsecret\n", 0o600, "", "first line is empty"},
		{"group", "secret\n", 0o640, "", "chmod 600 "},
		{"world", "secret\n", 0o604, "", "chmod 600 "},
		{"long", strings.Repeat("x", 10_000), 0o600, strings.Repeat("x", maxLine), ""},
	} {
		file := filepath.Join(dir, c.name)
		if err := os.WriteFile(file, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(file, c.mode); err != nil {
			t.Fatal(err)
		}
		if runtime.GOOS == "windows" && c.mode&0o077 != 0 {
			continue
		}
		got, err := Find(file, env)
		switch {
		case c.err == "" && (err != nil || got != c.want):
			t.Errorf("%s: %q, %v", c.name, got, err)
		case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err) || !strings.Contains(err.Error(), file)):
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error quotes the file: %v", c.name, err)
		}
	}
	for _, file := range []string{dir, filepath.Join(dir, "missing")} {
		if _, err := Find(file, env); err == nil {
			t.Errorf("%s was taken", file)
		}
	}
	if got, err := Find("", env); got != "from the environment" || err != nil {
		t.Errorf("without a file: %q, %v", got, err)
	}
	if got, err := Find("", func(string) string { return "" }); got != "" || err != nil {
		t.Errorf("without anything: %q, %v", got, err)
	}
}
