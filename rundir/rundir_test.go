package rundir

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

func TestMake(t *testing.T) {
	d := filepath.Join(t.TempDir(), "a", "b")
	t.Setenv(Env, d)
	got, err := Make()
	if err != nil || got != d {
		t.Fatal(got, err)
	}
	if s := Search(); len(s) != 1 || s[0] != d {
		t.Errorf("searched: %v", s)
	}
	if runtime.GOOS == "windows" {
		return
	}
	fi, err := os.Stat(d)
	if err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("%v %v", fi.Mode(), err)
	}
	if err := os.Chmod(d, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Make(); err == nil {
		t.Error("a directory that everybody can write to was taken")
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(t.TempDir(), link); err != nil {
		t.Fatal(err)
	}
	t.Setenv(Env, link)
	if _, err := Make(); err == nil {
		t.Error("a symbolic link was taken")
	}
}

func TestWhere(t *testing.T) {
	t.Setenv(Env, "")
	if runtime.GOOS != "windows" && os.Geteuid() != 0 {
		t.Setenv("XDG_RUNTIME_DIR", "/run/user/7")
		if p := Path(); p != "/run/user/7/openkd" {
			t.Error(p)
		}
		t.Setenv("XDG_RUNTIME_DIR", "relative")
		if s := Search(); len(s) != 2 || !filepath.IsAbs(s[0]) {
			t.Error(s)
		}
	}
	if p := Path(); !filepath.IsAbs(p) {
		t.Error(p)
	}
}
