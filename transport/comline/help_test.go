package comline

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"openkd/transport"
)

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		helper()
		return
	}
	goleak.VerifyTestMain(m)
}

const helperEnv = "COMLINE_TEST_HELPER"

func helper() {}

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

// dir is a directory with a short name: the path of a socket has 104 characters
// on some systems.
func dir(t testing.TB) string {
	d, err := os.MkdirTemp("", "cl")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(d) })
	return d
}

// wires are the configurations of the two ends of a cable in memory.
func ends(t testing.TB, baud int, wrap func(io.ReadWriteCloser) io.ReadWriteCloser) (a, b Config) {
	x, y := cable()
	d := dir(t)
	cfg := func(name string, e *end) Config {
		var dev io.ReadWriteCloser = e
		if wrap != nil {
			dev = wrap(e)
		}
		return Config{Port: name, Baud: baud, Dir: d, Open: func(context.Context) (io.ReadWriteCloser, error) { return dev, nil }}
	}
	return cfg("a", x), cfg("b", y)
}

// pairs returns a function that makes connected streams over one line.
func pairs(t testing.TB, a, b Config) func(t *testing.T) (transport.Conn, transport.Conn) {
	var la, lb Lines
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	ln, err := lb.Listen(ctx, b, 3)
	if err != nil {
		t.Fatal(err)
	}
	keep, err := la.Listen(ctx, a, 200) // so that the line stays open between pairs
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		keep.Close()
		ln.Close()
		cancel()
	})
	return func(t *testing.T) (transport.Conn, transport.Conn) {
		got := make(chan net.Conn, 1)
		go func() {
			c, err := ln.Accept()
			if err != nil {
				t.Error(err)
			}
			got <- c
		}()
		c, err := la.Dial(ctx, a, 3)
		if err != nil {
			t.Fatal(err)
		}
		return c.(transport.Conn), (<-got).(transport.Conn)
	}
}
