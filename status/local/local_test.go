package local

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"openkd/internal/shortdir"
	"openkd/rundir"
	"openkd/status"
)

// TestMain makes this program a server that only waits, for a test that kills
// one.
func TestMain(m *testing.M) {
	if os.Getenv("LOCAL_TEST_SERVER") != "" {
		_, err := Serve(func(context.Context) *status.Server { return &status.Server{Release: "killed"} })
		fmt.Println("serving:", err)
		time.Sleep(time.Minute)
		os.Exit(1)
	}
	// go-winio has one for all files of a process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/Microsoft/go-winio.ioCompletionProcessor"))
}

// runDir is short: names of sockets are.
func runDir(t *testing.T) string {
	t.Helper()
	d := shortdir.New(t)
	d = filepath.Join(d, "run")
	t.Setenv(rundir.Env, d)
	return d
}

func listed(t *testing.T) string {
	t.Helper()
	servers, errs := List(t.Context())
	for _, err := range errs {
		t.Error(err)
	}
	var names []string
	for _, s := range servers {
		names = append(names, s.Release)
	}
	return strings.Join(names, " ")
}

func server(t *testing.T, name string, started time.Time) *Door {
	t.Helper()
	d, err := Serve(func(context.Context) *status.Server { return &status.Server{Release: name, Started: started} })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

func TestList(t *testing.T) {
	dir := runDir(t)
	if got := listed(t); got != "" {
		t.Errorf("without any: %s", got)
	}
	now := time.Now()
	late, early := server(t, "late", now), server(t, "early", now.Add(-time.Hour))
	for range 2 {
		if got := listed(t); got != "early late" {
			t.Errorf("two: %q", got)
		}
	}
	if runtime.GOOS != "windows" {
		fi, err := os.Stat(late.file)
		if err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%v %v", fi.Mode(), err)
		}
	}
	early.Close()
	if got := listed(t); got != "late" {
		t.Errorf("one: %q", got)
	}
	late.Close()
	if files, _ := os.ReadDir(filepath.Join(dir, folder)); len(files) != 0 {
		t.Errorf("left behind: %v", files)
	}
}

func TestKilledServer(t *testing.T) {
	dir := runDir(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "LOCAL_TEST_SERVER=1")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 100)
	n, _ := out.Read(line)
	if got := listed(t); got != "killed" {
		t.Errorf("it says %s, listed: %q", line[:n], got)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if got := listed(t); got != "" {
		t.Errorf("a dead server is listed: %s", got)
	}
	if files, _ := os.ReadDir(filepath.Join(dir, folder)); len(files) != 0 {
		t.Errorf("left behind: %v", files)
	}
}

// One that runs and says nothing, or rubbish, is told and not hung upon.
func TestServerThatDoesNotTell(t *testing.T) {
	runDir(t)
	server(t, "good", time.Now())
	ln, err := listen(filepath.Join(rundir.Path(), folder, "77-bad"))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if c, err := ln.Accept(); err == nil {
			c.Write([]byte("rubbish"))
			c.Close()
		}
	}()
	servers, errs := List(t.Context())
	if len(servers) != 1 || len(errs) != 1 || !strings.Contains(errs[0].Error(), "process 77") {
		t.Errorf("%v, %v", servers, errs)
	}
	ln.Close()
	<-done
}

func TestForeignDirectory(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("access lists are inherited from the user's profile")
	}
	dir := runDir(t)
	server(t, "x", time.Now())
	os.Chmod(dir, 0o777)
	if servers, errs := List(t.Context()); len(servers) != 0 || len(errs) != 1 {
		t.Errorf("a directory that everybody can write to: %v, %v", servers, errs)
	}
}
