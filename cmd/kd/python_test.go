package main

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"openkd/internal/shortdir"
	"openkd/rundir"
)

// TestPythonExample: the example that programs are shown really joins, stops,
// steps, lets go and leaves, and the target runs on.
func TestPythonExample(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("there is no python3 here")
	}
	if testing.Short() {
		t.Skip("it builds kd")
	}
	t.Setenv(rundir.Env, shortdir.New(t))
	exe := filepath.Join(shortdir.New(t), "kd")
	build := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", exe, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as it is given to people
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("kd does not build: %v\n%s", err, text)
	}
	in, keep := io.Pipe()
	out := &screen{changed: make(chan struct{}, 1)}
	errs := &screen{changed: make(chan struct{}, 1)}
	code := make(chan int, 1)
	go func() {
		code <- run([]string{"-demo", "-server", "tcp:port=0,password=snake", "-c", "g"}, in, out, errs)
		in.Close()
	}()
	if !out.until(func(s string) bool { return strings.Contains(s, "kd> g") }, patience) {
		t.Fatalf("the session does not start:\n%s%s", out.text(), errs.text())
	}
	port := doorPort.FindStringSubmatch(out.text())[1]
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, python, filepath.Join("..", "..", "sharing", "example", "join.py"), exe, "tcp:server=127.0.0.1,port="+port+",password=snake")
	text, err := cmd.CombinedOutput()
	got := strings.ReplaceAll(string(text), "\r\n", "\n")
	if i := strings.Index(got, "joined"); i >= 0 {
		got = got[i:] // kd's banner comes before
	}
	want := `joined kd as client 1
the target runs; breaking in
stopped: break-in
Evaluate expression: 4 = 00000000` + "`" + `00000004
stopped again: step
runs
`
	if err != nil || got != want {
		t.Errorf("the example ended with %v and said\n%s\nnot\n%s\nThe session:\n%s", err, text, want, out.text())
	}
	if !out.until(func(s string) bool { return strings.Contains(s, "disconnected at") }, patience) {
		t.Errorf("it did not leave:\n%s", out.text())
	}
	keep.Close()
	select {
	case <-code:
	case <-time.After(patience):
		t.Fatal("kd does not end")
	}
}
