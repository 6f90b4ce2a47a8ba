//go:build !windows

package carrier_test

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"openkd/internal/captured"
	"openkd/transport/carrier"
)

// list is what lies in a folder.
func list(t *testing.T, dir string) string {
	t.Helper()
	var names []string
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestPipeFiles(t *testing.T) {
	dir := pipeDir(t)
	var log captured.Text
	l := listenPipe(t, "k", carrier.Options{Logger: textLog(&log), PipeUsers: []string{"ann"}})
	if got := list(t, dir); got != "k.pipe k.pipe.lock" {
		t.Errorf("in the run directory: %s", got)
	}
	for _, name := range []string{"k.pipe", "k.pipe.lock"} {
		fi, err := os.Lstat(filepath.Join(dir, name))
		if err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, fi.Mode(), err)
		}
	}
	if !strings.Contains(log.String(), "on Windows only") {
		t.Errorf("users of the pipe: %q", log.String())
	}
	l.Close()
	if got := list(t, dir); got != "" {
		t.Errorf("left behind: %s", got)
	}
	if err := os.Chmod(dir, 0o770); err != nil {
		t.Fatal(err)
	}
	if _, err := carrier.Listen(t.Context(), pipeOf("k"), carrier.Options{}); err == nil || !strings.Contains(err.Error(), "can be written by others") {
		t.Errorf("in a directory of many: %v", err)
	}
}

// A server that was killed leaves its socket and its lock behind; both are
// taken over. While it lives, and even while it is stopped, they are not.
func TestPipeDeadServer(t *testing.T) {
	dir := pipeDir(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envServe+"=k")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := sync.OnceFunc(func() { cmd.Process.Kill(); cmd.Wait() })
	defer ended()
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "<nil>\n" {
		t.Fatalf("the other server: %s %v", line, err)
	}
	inUse := func(want string) {
		t.Helper()
		_, err := carrier.Listen(t.Context(), pipeOf("k"), carrier.Options{})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	inUse(fmt.Sprintf("k is in use by another server (process %d)", cmd.Process.Pid))
	cmd.Process.Signal(syscall.SIGSTOP)
	inUse("is in use")
	// Without its lock, too: cleaners of temporary directories are about.
	lock := filepath.Join(dir, "k.pipe.lock")
	if err := os.Remove(lock); err != nil {
		t.Fatal(err)
	}
	inUse("is in use")
	if _, err := os.Lstat(lock); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a lock was left behind: %v", err)
	}
	c, err := dialPipe(t.Context(), "localhost", "k")
	if err != nil {
		t.Error("the server was harmed:", err)
	} else {
		if want := fmt.Sprintf("uid %d pid %d", os.Geteuid(), cmd.Process.Pid); c.RemoteAddr().String() != want {
			t.Errorf("the server is %q, want %q", c.RemoteAddr(), want)
		}
		c.Close()
	}
	ended()
	if _, err := dialPipe(t.Context(), "localhost", "k"); err == nil || !strings.Contains(err.Error(), "left behind") {
		t.Errorf("a dead server: %v", err)
	}
	echoes(t, listenPipe(t, "k", carrier.Options{}))
	c, err = dialPipe(t.Context(), "localhost", "k")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answers(t, c)
}

// Servers that start at once, over what a dead one left: one wins, and it is
// the one that clients find.
func TestPipeRace(t *testing.T) {
	dir := pipeDir(t)
	for round := range 50 {
		dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "k.pipe"), Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		dead.SetUnlinkOnClose(false)
		dead.Close()
		var mu sync.Mutex
		var won []carrier.Listener
		var wg sync.WaitGroup
		start := make(chan struct{})
		for range 8 {
			wg.Go(func() {
				<-start
				l, err := carrier.Listen(t.Context(), pipeOf("k"), carrier.Options{})
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won = append(won, l)
				} else if !strings.Contains(err.Error(), "is in use") {
					t.Error(err)
				}
			})
		}
		close(start)
		wg.Wait()
		if len(won) == 1 {
			c, err := dialPipe(t.Context(), "localhost", "k")
			if err != nil {
				t.Errorf("round %d: %v", round, err)
			} else {
				c.Close()
			}
		}
		for _, l := range won {
			l.Close()
		}
		if len(won) != 1 {
			t.Fatalf("round %d: %d servers have the name", round, len(won))
		}
	}
}

// Servers that come and go: at no time do two have the name, and nobody removes
// what is another's.
func TestPipeChurn(t *testing.T) {
	dir := pipeDir(t)
	var holders, turns atomic.Int32
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 500 {
				l, err := carrier.Listen(t.Context(), pipeOf("k"), carrier.Options{})
				if err != nil {
					if !strings.Contains(err.Error(), "is in use") {
						t.Error(err)
					}
					continue
				}
				turns.Add(1)
				if n := holders.Add(1); n != 1 {
					t.Errorf("%d servers have the name", n)
				}
				if _, err := os.Lstat(filepath.Join(dir, "k.pipe")); err != nil {
					t.Error("the socket is gone:", err)
				}
				runtime.Gosched()
				holders.Add(-1)
				l.Close()
			}
		})
	}
	wg.Wait()
	if turns.Load() == 0 || list(t, dir) != "" {
		t.Errorf("%d turns, left behind: %q", turns.Load(), list(t, dir))
	}
}

// What else may lie where the socket and its lock belong is not touched and not
// followed.
func TestPipeInTheWay(t *testing.T) {
	elsewhere := filepath.Join(t.TempDir(), "precious")
	for name, put := range map[string]func(path string) error{
		"link to a file":     func(p string) error { return os.Symlink(elsewhere, p) },
		"link to nothing":    func(p string) error { return os.Symlink(elsewhere+".new", p) },
		"folder":             func(p string) error { return os.Mkdir(p, 0o700) },
		"pipe without a end": func(p string) error { return syscall.Mkfifo(p, 0o600) },
	} {
		for _, at := range []string{"k.pipe", "k.pipe.lock"} {
			dir := pipeDir(t)
			if err := os.WriteFile(elsewhere, []byte("precious"), 0o600); err != nil {
				t.Fatal(err)
			}
			if err := put(filepath.Join(dir, at)); err != nil {
				t.Fatal(err)
			}
			_, err := carrier.Listen(t.Context(), pipeOf("k"), carrier.Options{})
			if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, at)) {
				t.Errorf("%s at %s: %v", name, at, err)
			}
			if got := list(t, dir); got != at {
				t.Errorf("%s at %s: then there is %s", name, at, got)
			}
			if at == "k.pipe" {
				if _, err := dialPipe(t.Context(), "localhost", "k"); err == nil || !strings.Contains(err.Error(), "is no socket") {
					t.Errorf("connecting to a %s: %v", name, err)
				}
			}
			if b, err := os.ReadFile(elsewhere); err != nil || string(b) != "precious" {
				t.Errorf("%s at %s: what it points to is %q, %v", name, at, b, err)
			}
			if _, err := os.Lstat(elsewhere + ".new"); err == nil {
				t.Errorf("%s at %s: what it points to was made", name, at)
			}
		}
	}
}

// A file of another kind than a socket of ours: a file at the socket's place is
// in the way, a file at the lock's is a lock that nobody holds.
func TestPipeOldLock(t *testing.T) {
	dir := pipeDir(t)
	if err := os.WriteFile(filepath.Join(dir, "k.pipe.lock"), []byte(strings.Repeat("9", 100)), 0o600); err != nil {
		t.Fatal(err)
	}
	l := listenPipe(t, "k", carrier.Options{})
	if b, err := os.ReadFile(filepath.Join(dir, "k.pipe.lock")); err != nil || string(b) != fmt.Sprint(os.Getpid()) {
		t.Errorf("the lock says %q, %v", b, err)
	}
	l.Close()
	if err := os.WriteFile(filepath.Join(dir, "k.pipe"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := carrier.Listen(t.Context(), pipeOf("k"), carrier.Options{}); err == nil || !strings.Contains(err.Error(), "in the way") {
		t.Errorf("a file: %v", err)
	}
}

func TestPipeLongPath(t *testing.T) {
	dir := filepath.Join(pipeDir(t), strings.Repeat("d", 60))
	t.Setenv("OPENKD_RUN_DIR", dir)
	name := strings.Repeat("n", 60)
	for who, err := range map[string]error{
		"server": func() error { _, err := carrier.Listen(t.Context(), pipeOf(name), carrier.Options{}); return err }(),
		"client": func() error { _, err := dialPipe(t.Context(), ".", name); return err }(),
	} {
		if err == nil || !strings.Contains(err.Error(), filepath.Join(dir, name+".pipe")) || !strings.Contains(err.Error(), "OPENKD_RUN_DIR") {
			t.Errorf("%s: %v", who, err)
		}
	}
}
