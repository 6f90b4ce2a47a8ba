package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"openkd/discovery"
	"openkd/rundir"
)

// listed is what kd -QR would show of this machine.
func listed(t *testing.T) string {
	t.Helper()
	l, err := discovery.Local(t.Context())
	if err != nil {
		t.Error(err)
	}
	var b strings.Builder
	for _, s := range l {
		b.WriteString(s.Kind.Label() + " - " + s.String() + "\n")
	}
	return b.String()
}

func TestListed(t *testing.T) {
	t.Setenv(rundir.Env, filepath.Join(t.TempDir(), "run"))
	if got := listed(t); got != "" {
		t.Errorf("before: %s", got)
	}
	_, errs, end := startServer(t, "-t", "tcp:port=0,password=secret", "-t", "tcp:port=0,hidden", "-noannounce")
	if got := listed(t); !regexp.MustCompile(`^Remote Kernel Debugger Server - tcp:Port=[1-9]\d*,Password=\*\n$`).MatchString(got) {
		t.Errorf("listed:\n%s%s", got, errs)
	}
	if code := end(); code != 0 {
		t.Errorf("exit %d", code)
	}
	if got := listed(t); got != "" {
		t.Errorf("after the end: %s", got)
	}
}

// TestNotListed: a run directory that cannot be used keeps nobody from serving.
func TestNotListed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(rundir.Env, file)
	_, errs, end := startServer(t, "-t", "tcp:port=0,password=secret")
	if code := end(); code != 0 {
		t.Errorf("exit %d", code)
	}
	if !strings.Contains(errs.String(), "kd -QR will not list this server") || !strings.Contains(errs.String(), rundir.Env) {
		t.Errorf("the log does not say that it is not listed:\n%s", errs)
	}
}
