package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestServiceCommandLine(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.WriteFile("pw", []byte("geheim\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := func(name string) string { return map[string]string{"OPENKD_PASSWORD": "geheim"}[name] }
	abs := func(name string) string {
		p, err := filepath.Abs(name)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, c := range []struct {
		line  string
		env   func(string) string
		args  []string
		pw    string
		ports []int
		err   string
	}{
		{"-install -t tcp:port=1234 -v /PasswordFile pw -logfile log -x whatever", noEnv,
			[]string{"-t", "tcp:port=1234", "-v", "-logfile", abs("log")}, abs("pw"), []int{1234}, ""},
		{"-t tcp:port=1:9 -t tcp:port=0 -t tcp:port=5,clicon=h -t npipe:pipe=x -t tcp:port=6,ipversion=6 -t ssl:proto=tls13,certuser=x,port=7 -audit /a/b -install", noEnv,
			[]string{"-t", "tcp:port=1:9", "-t", "tcp:port=0", "-t", "tcp:port=5,clicon=h", "-t", "npipe:pipe=x", "-t", "tcp:port=6,ipversion=6", "-t", "ssl:proto=tls13,certuser=x,port=7", "-audit", abs("/a/b")}, "", []int{7}, ""},
		{"-install -t tcp:port=1,password=geheim", noEnv, nil, "", nil, "-passwordfile <file>"},
		{"-install -t tcp:port=1", env, nil, "", nil, "OPENKD_PASSWORD"},
		{"-install -t tcp:port=1 -passwordfile missing", noEnv, nil, "", nil, "missing"},
	} {
		f, err := parse(strings.Fields(c.line))
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
			continue
		}
		s, err := f.serviceSpec(c.env)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "geheim") {
				t.Errorf("%s: %v", c.line, err)
			}
			continue
		}
		if err != nil || !slices.Equal(s.Args, c.args) || s.PasswordFile != c.pw || !slices.Equal(s.Ports, c.ports) {
			t.Errorf("%s: %+v, %v", c.line, s, err)
		}
	}
	if _, err := parse([]string{"-install"}); err == nil || !strings.Contains(err.Error(), "-t is missing") {
		t.Errorf("-install alone: %v", err)
	}
	if _, err := parse([]string{"-uninstall"}); err != nil {
		t.Errorf("-uninstall alone: %v", err)
	}
}
