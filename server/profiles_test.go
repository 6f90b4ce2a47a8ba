package server

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestProfiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "profiles")
	lines := Lines{Getenv: func(name string) string {
		if name == ProfilesEnv {
			return file
		}
		return ""
	}}
	refuse := func(link, want string) {
		t.Helper()
		_, _, err := lines.Resolve(link)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", link, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "s3cret") {
			t.Errorf("the key is in the error: %v", err)
		}
	}
	refuse("net:profile=lab7", "is not there; write it, with the line\n  lab7 port=")
	text := "# machines of the lab\n\nlab7 port=50007,key=s3cret.2.3.4\nbad key=s3cret.2.3.4\nodd port=50009,key=s3cret.2.3\nchain profile=lab7\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	l, key, err := lines.Resolve("net:profile=LAB7")
	if err != nil || key != "udp 50007" || l.Key != "s3cret.2.3.4" || strings.Contains(l.String(), "s3cret") {
		t.Errorf("%v %q %v", l, key, err)
	}
	if _, direct, _ := lines.Resolve("net:port=50007,key=1.2.3.4"); direct != key {
		t.Errorf("the same port has the names %q and %q", direct, key)
	}
	refuse("net:profile=other", "has no such profile")
	refuse("net:profile=bad", "a mistake in line 4")
	refuse("net:profile=odd", "the key has 3 parts")
	refuse("net:profile=chain", "cannot lead to another one")
	refuse("net:port=50000,key=s3cret.2.3", "the key has 3 parts")
	refuse("net:port=50000,key=1.2.3.4,hostip=10.0.0.1", "hostip= belongs to the target")
	if runtime.GOOS != "windows" {
		os.Chmod(file, 0o640)
		refuse("net:profile=lab7", "can be read by others (mode 0640)")
	}
}
