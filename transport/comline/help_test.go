package comline

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"openkd/internal/shortdir"
)

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		helper()
		return
	}
	// go-winio has one for all files of a process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/Microsoft/go-winio.ioCompletionProcessor"))
}

// helperEnv makes the test binary another program that uses a line: see helper.
const helperEnv = "COMLINE_TEST_HELPER"

// helper listens on a channel, echoes, and ends with its standard input. Its
// arguments are the port, the directory and the channel.
func helper() {
	channel, _ := strconv.Atoi(os.Args[3])
	ln, err := Listen(context.Background(), Config{Port: os.Args[1], Baud: ptyBaud, Dir: os.Args[2]}, channel)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				io.Copy(c, c)
			}()
		}
	}()
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	ln.Close()
}

const (
	fast    = 100_000_000 // of a cable in memory
	ptyBaud = 12_000_000  // what connection strings allow
)

// end is one end of a cable.
type end struct {
	r *half
	w *half
}

// half is one direction of a cable in memory: what a driver buffers.
type half struct {
	mu     sync.Mutex
	c      sync.Cond
	buf    []byte
	closed bool
}

// driverBuffer is what the systems hold of each direction.
const driverBuffer = 4 << 10

func cable() (a, b *end) {
	x, y := &half{}, &half{}
	x.c.L, y.c.L = &x.mu, &y.mu
	return &end{x, y}, &end{y, x}
}

func (e *end) Read(b []byte) (int, error) {
	h := e.r
	h.mu.Lock()
	defer h.mu.Unlock()
	for len(h.buf) == 0 && !h.closed {
		h.c.Wait()
	}
	if len(h.buf) == 0 {
		return 0, io.EOF
	}
	n := copy(b, h.buf)
	h.buf = h.buf[:copy(h.buf, h.buf[n:])]
	h.c.Broadcast()
	return n, nil
}

func (e *end) Write(b []byte) (int, error) {
	h := e.w
	h.mu.Lock()
	defer h.mu.Unlock()
	for n := 0; ; {
		if h.closed {
			return n, io.ErrClosedPipe
		}
		k := min(len(b)-n, driverBuffer-len(h.buf))
		h.buf = append(h.buf, b[n:n+k]...)
		h.c.Broadcast()
		if n += k; n == len(b) {
			return n, nil
		}
		h.c.Wait()
	}
}

func (e *end) Close() error {
	for _, h := range []*half{e.r, e.w} {
		h.mu.Lock()
		h.closed = true
		h.c.Broadcast()
		h.mu.Unlock()
	}
	return nil
}

// unplug is an end whose Close leaves the cable as it is, so that it can be
// opened again.
type unplug struct {
	*end
	closed bool // guarded by end.r.mu
}

func (u *unplug) Close() error {
	u.r.mu.Lock()
	defer u.r.mu.Unlock()
	u.closed = true
	u.r.c.Broadcast()
	return nil
}

func (u *unplug) Read(b []byte) (int, error) {
	u.r.mu.Lock()
	for len(u.r.buf) == 0 && !u.closed && !u.r.closed {
		u.r.c.Wait()
	}
	closed := u.closed
	u.r.mu.Unlock()
	if closed {
		return 0, os.ErrClosed
	}
	return u.end.Read(b)
}

// dir is a directory with a short name: the path of a socket has 104 characters
// on some systems.
func dir(t testing.TB) string {
	return shortdir.New(t)
}

// ends are the configurations of the two ends of a cable in memory.
func ends(t testing.TB, baud int, wrap func(io.ReadWriteCloser) io.ReadWriteCloser) (a, b Config) {
	x, y := cable()
	d := dir(t)
	cfg := func(name string, e *end) Config {
		open := func(context.Context) (io.ReadWriteCloser, error) {
			if wrap != nil {
				return wrap(&unplug{end: e}), nil
			}
			return &unplug{end: e}, nil
		}
		return Config{Port: name, Baud: baud, Dir: d, Open: open}
	}
	return cfg("a", x), cfg("b", y)
}
