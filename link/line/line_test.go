package line

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"openkd/connstr"
	"openkd/internal/shortdir"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, s string) (io.ReadWriteCloser, error) {
	t.Helper()
	k, err := connstr.ParseLink(s)
	if err != nil {
		t.Fatal(err)
	}
	k, err = k.WithDefaults(func(string) string { return "" })
	if err != nil {
		t.Fatal(err)
	}
	l, err := New(k)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	return l.Open(ctx)
}

// echo checks that what is written to a arrives at b, both ways, and that
// closing a unblocks its reader.
func echo(t *testing.T, a, b io.ReadWriteCloser) {
	t.Helper()
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i) // every byte value: nothing is translated on the way
	}
	for _, p := range [][2]io.ReadWriteCloser{{a, b}, {b, a}} {
		if _, err := p[0].Write(all); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(all))
		if _, err := io.ReadFull(p[1], got); err != nil || string(got) != string(all) {
			t.Fatalf("got % x, %v", got, err)
		}
	}
	done := make(chan error, 1)
	go func() { _, err := a.Read(make([]byte, 1)); done <- err }()
	time.Sleep(10 * time.Millisecond)
	a.Close()
	select {
	case err := <-done:
		if err == nil {
			t.Error("a read after Close gave no error")
		}
	case <-time.After(time.Minute):
		t.Error("Close does not unblock Read")
	}
	b.Close()
}

func TestTCP(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	a, err := open(t, "com:ipport="+port+",port=127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	echo(t, a, b)
}

// TestListenTwice: a machine that restarts finds the same door open.
func TestListenTwice(t *testing.T) {
	path := filepath.Join(shortdir.New(t), "s")
	k, _ := connstr.ParseLink("com:pipe,listen,port=" + path)
	l, err := New(k)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for range 2 {
		got := make(chan io.ReadWriteCloser, 1)
		go func() {
			c, err := l.Open(t.Context())
			if err != nil {
				t.Error(err)
			}
			got <- c
		}()
		var b net.Conn
		for b == nil {
			if b, err = net.Dial("unix", path); err != nil {
				time.Sleep(time.Millisecond)
			}
		}
		echo(t, <-got, b)
	}
	if st, err := os.Stat(path); err == nil && st.Mode().Perm() != 0o600 {
		t.Errorf("the socket has mode %v", st.Mode())
	}
}

func TestListenCancelled(t *testing.T) {
	k, _ := connstr.ParseLink("com:pipe,listen,port=" + filepath.Join(shortdir.New(t), "s"))
	l, _ := New(k)
	defer l.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := l.Open(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := filepath.Join(shortdir.New(t), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ListenPipe(path); err == nil {
		t.Fatal("a socket that somebody listens on was taken over")
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
	ln2, err := ListenPipe(path)
	if err != nil {
		t.Fatal(err)
	}
	ln2.Close()
}

func TestErrors(t *testing.T) {
	dir := shortdir.New(t)
	file := filepath.Join(dir, "file")
	os.WriteFile(file, nil, 0o600)
	sock := filepath.Join(dir, "sock")
	ln, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	dead := filepath.Join(dir, "dead")
	l2, _ := net.Listen("unix", dead)
	l2.(*net.UnixListener).SetUnlinkOnClose(false)
	l2.Close()
	free, _ := net.Listen("tcp", "127.0.0.1:0")
	_, port, _ := net.SplitHostPort(free.Addr().String())
	free.Close()
	for _, c := range []struct{ link, want string }{
		{"com:pipe,port=" + dir + "/none", "reconnect"},
		{"com:pipe,port=" + file, "not a socket"},
		{"com:pipe,port=" + dead, "left over"},
		{"com:pipe,port=/dev/null", "com:port="},
		{`com:pipe,port=\\.\pipe\vm`, "Windows only"},
		{"com:pipe,port=/tmp/" + strings.Repeat("x", 120), "about 104"},
		{"com:port=" + dir + "/none", "no such device"},
		{"com:port=com1", "/dev/ttyS0"},
		{"com:port=/dev/null", "not a serial device"},
		{"com:port=" + sock, "com:pipe"},
		{"com:port=/dev/ptmx", "/dev/pts/N"},
		{"com:ipport=" + port + ",port=127.0.0.1", "nothing listens"},
	} {
		s, err := open(t, c.link)
		if err == nil {
			s.Close()
		}
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v; want %q", c.link, err, c.want)
		}
	}
}
