package carrier_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"openkd/connstr"
	"openkd/internal/captured"
	"openkd/internal/shortdir"
	"openkd/transport/carrier"
)

// pipeDir is where pipes are made that are Unix sockets: a folder with a short
// path, since the names of sockets are short.
func pipeDir(t testing.TB) string {
	t.Helper()
	dir := shortdir.New(t)
	t.Setenv("OPENKD_RUN_DIR", dir)
	return dir
}

func pipeOf(name string) connstr.Transport {
	return connstr.Transport{Proto: "npipe", Pipe: name}
}

func listenPipe(t testing.TB, name string, o carrier.Options) carrier.Listener {
	t.Helper()
	l, err := carrier.Listen(t.Context(), pipeOf(name), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func dialPipe(ctx context.Context, server, name string) (net.Conn, error) {
	tr := pipeOf(name)
	tr.Server = server
	return carrier.Dial(ctx, tr, carrier.Options{})
}

// echoes serves every stream of a listener until it is closed.
func echoes(t testing.TB, l net.Listener) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
				return
			}
			wg.Go(func() { io.Copy(c, c); c.Close() })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
}

func answers(t testing.TB, c net.Conn) {
	t.Helper()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 5)
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hello" {
		t.Fatalf("%q, %v", buf, err)
	}
}

func TestPipe(t *testing.T) {
	pipeDir(t)
	l := listenPipe(t, "KernelPipe-%x", carrier.Options{})
	name := fmt.Sprintf("KernelPipe-%x", os.Getpid())
	if got := l.Transport(); got.Pipe != name || got.String() != "npipe:Pipe="+name {
		t.Errorf("the pipe is %q (%v)", got.Pipe, got)
	}
	if !strings.Contains(l.Addr().String(), name) || l.Addr().Network() != "pipe" {
		t.Errorf("address %v", l.Addr())
	}
	own, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 1)
	for _, host := range []string{"localhost", "LOCALHOST", ".", `\\.`, own, strings.ToUpper(own), "127.0.0.1", "[::1]", "::ffff:127.0.0.1"} {
		go func() {
			c, _ := l.Accept()
			accepted <- c
		}()
		c, err := dialPipe(t.Context(), host, name)
		if err != nil {
			t.Fatalf("%s: %v", host, err)
		}
		s := <-accepted
		go func() { io.Copy(s, s); s.Close() }()
		answers(t, c)
		for _, end := range []net.Conn{s, c} {
			if end.LocalAddr() == nil || end.RemoteAddr() == nil || end.LocalAddr().String() == "" || end.RemoteAddr().String() == "" {
				t.Errorf("addresses %v %v", end.LocalAddr(), end.RemoteAddr())
			}
		}
		if want := fmt.Sprintf("pid %d", os.Getpid()); !strings.Contains(s.RemoteAddr().String(), want) {
			t.Errorf("the peer is %q, want %q", s.RemoteAddr(), want)
		}
		c.Close()
	}

	// A name that is taken is taken for every transport, until it is given back.
	second := pipeOf(name)
	second.Proto = "spipe"
	if _, err := carrier.Listen(t.Context(), second, carrier.Options{}); err == nil || !strings.Contains(err.Error(), name+" is in use") {
		t.Errorf("a name in use: %v", err)
	}
	c, err := dialPipe(t.Context(), "localhost", name)
	if err != nil {
		t.Fatal("after the second server:", err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l.Close()
	l.Close()
	if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accepting after the end: %v", err)
	}
	go func() { io.Copy(s, s) }()
	answers(t, c) // outlives its listener
	c.Close()
	s.Close()
	if _, err := dialPipe(t.Context(), "localhost", name); err == nil || !strings.Contains(err.Error(), "no such pipe") || !strings.Contains(err.Error(), `\\localhost\pipe\`+name) {
		t.Errorf("after the end: %v", err)
	}
	listenPipe(t, name, carrier.Options{})
}

func TestPipeErrors(t *testing.T) {
	pipeDir(t)
	for _, c := range []struct{ name, why string }{
		{"", "missing"}, {"../x", "slashes"}, {`\\.\pipe\x`, "write pipe=x"}, {"a b", "blanks"}, {"kd%s", "only codes"}, {strings.Repeat("x", 300), "at most 247"},
	} {
		_, err := carrier.Listen(t.Context(), pipeOf(c.name), carrier.Options{})
		if err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("a server's %q: %v", c.name, err)
		}
		if c.why == "only codes" {
			c.why = "kdsrv printed"
		}
		_, err = dialPipe(t.Context(), "localhost", c.name)
		if err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("a client's %q: %v", c.name, err)
		}
	}
	if _, err := dialPipe(t.Context(), "localhost", "nobody"); err == nil || !strings.Contains(err.Error(), "is kdsrv -t npipe:pipe=nobody running") {
		t.Errorf("%v", err)
	}
	if runtime.GOOS != "windows" {
		_, err := dialPipe(t.Context(), `\\192.0.2.17`, "x")
		if err == nil || !strings.Contains(err.Error(), "(192.0.2.17)") || !strings.Contains(err.Error(), "use tcp or ssl") {
			t.Errorf("another machine: %v", err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	listenPipe(t, "there", carrier.Options{})
	if _, err := dialPipe(ctx, "localhost", "there"); !errors.Is(err, context.Canceled) {
		t.Errorf("called off: %v", err)
	}
}

// Accept waits in the system; the end of the listener interrupts it.
func TestPipeCloseInterrupts(t *testing.T) {
	pipeDir(t)
	l := listenPipe(t, "ends", carrier.Options{})
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
				t.Errorf("accept: %v", err)
			}
		})
	}
	time.Sleep(10 * time.Millisecond) // lets them wait; the outcome is the same if they do not yet
	l.Close()
	wg.Wait()
}

// Many at once, some of whom come and go.
func TestPipeCrowd(t *testing.T) {
	pipeDir(t)
	var log captured.Text
	l := listenPipe(t, "crowd", carrier.Options{Logger: textLog(&log)})
	echoes(t, l)
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			c, err := dialPipe(t.Context(), "localhost", "crowd")
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			if i%3 != 0 {
				answers(t, c)
			}
		})
	}
	wg.Wait()
	c, err := dialPipe(t.Context(), "localhost", "crowd")
	if err != nil {
		t.Fatal(err)
	}
	answers(t, c)
	c.Close()
	if log.String() != "" {
		t.Errorf("the log has\n%s", log.String())
	}
}

func textLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
