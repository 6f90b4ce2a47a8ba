// Package transporttest is what every stream between debuggers must do. Each
// implementation of transport.Conn runs it over its own pairs.
package transporttest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"openkd/transport"
)

// Generous: reached only when something hangs.
const bound = 20 * time.Second

// Run runs the suite. pair returns two connected ends; the suite closes them.
func Run(t *testing.T, pair func(t *testing.T) (a, b transport.Conn)) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, a, b transport.Conn)
	}{
		{"tiny and big writes", sizes},
		{"full duplex", duplex},
		{"half close", halfClose},
		{"written before close arrives", closeDelivers},
		{"close unblocks", closeUnblocks},
		{"abrupt loss", loss},
		{"use after close", afterClose},
		{"read deadline", readDeadline},
		{"write deadline and back-pressure", writeDeadline},
		{"deadline taken back", deadlineBack},
		{"concurrent writers", writers},
		{"empty operations", empty},
		{"addresses", addresses},
	} {
		t.Run(c.name, func(t *testing.T) {
			a, b := pair(t)
			defer a.Close()
			defer b.Close()
			done := time.AfterFunc(bound, func() { a.Close(); b.Close() })
			defer done.Stop()
			c.run(t, a, b)
		})
	}
	t.Run("many pairs", func(t *testing.T) {
		var wg sync.WaitGroup
		for range 20 {
			a, b := pair(t)
			wg.Go(func() {
				defer a.Close()
				io.Copy(a, a)
			})
			wg.Go(func() {
				defer b.Close()
				msg := random(10000)
				if _, err := b.Write(msg); err != nil {
					t.Errorf("write: %v", err)
				}
				got := make([]byte, len(msg))
				if _, err := io.ReadFull(b, got); err != nil || !bytes.Equal(got, msg) {
					t.Errorf("echo: %v", err)
				}
			})
		}
		wg.Wait()
	})
}

// Connections that a door has at the same time in RunDoor.
const thousand = 1000

// RunDoor runs the suite over streams through one door, and has a thousand at
// once come in. dial connects to l.
func RunDoor(t *testing.T, l transport.Listener, dial func(context.Context) (transport.Conn, error)) {
	pair := func(t testing.TB) (a, b transport.Conn, err error) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		type result struct {
			c   transport.Conn
			err error
		}
		dialled := make(chan result, 1)
		go func() {
			c, err := dial(ctx)
			if err != nil {
				cancel()
			}
			dialled <- result{c, err}
		}()
		a, aerr := l.Accept(ctx)
		d := <-dialled
		return a, d.c, errors.Join(d.err, aerr)
	}
	Run(t, func(t *testing.T) (transport.Conn, transport.Conn) {
		a, b, err := pair(t)
		if err != nil {
			t.Fatal(err)
		}
		return a, b
	})
	t.Run("a thousand connections", func(t *testing.T) {
		n := thousand
		if testing.Short() {
			n /= 20
		}
		needFiles(t, 2*n+100)
		var near, far []transport.Conn
		defer func() {
			for _, c := range append(near, far...) {
				c.Close()
			}
		}()
		for range n {
			a, b, err := pair(t)
			if err != nil {
				t.Fatalf("after %d connections: %v", len(near), err)
			}
			near, far = append(near, a), append(far, b)
		}
		// Any of them carries what it should, whatever the others do. Accept may
		// have given them in another order than dial.
		var wg sync.WaitGroup
		for _, a := range near {
			wg.Go(func() {
				buf := make([]byte, 100)
				if _, err := io.ReadFull(a, buf); err == nil {
					a.Write(buf)
				}
			})
		}
		for _, b := range far {
			wg.Go(func() {
				msg, got := random(100), make([]byte, 100)
				if _, err := b.Write(msg); err != nil {
					t.Errorf("write: %v", err)
				}
				if _, err := io.ReadFull(b, got); err != nil || !bytes.Equal(got, msg) {
					t.Errorf("echo: %v", err)
				}
			})
		}
		wg.Wait()
	})
}

// needFiles skips a test where a process may not have that many open files.
func needFiles(t *testing.T, n int) {
	t.Helper()
	for range n {
		f, err := os.Open(os.DevNull)
		if err != nil {
			t.Skipf("it needs %d open files: %v (ulimit -n)", n, err)
		}
		defer f.Close()
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func sizes(t *testing.T, a, b transport.Conn) {
	for _, n := range []int{1, 2, 15, 4096, 65535, 65536, 1 << 20, 3<<20 + 1} {
		msg := random(n)
		go a.Write(msg)
		got := make([]byte, n)
		if _, err := io.ReadFull(b, got); err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if !bytes.Equal(got, msg) {
			t.Fatalf("%d bytes arrived changed", n)
		}
	}
}

func duplex(t *testing.T, a, b transport.Conn) {
	const n = 2 << 20
	var wg sync.WaitGroup
	for _, c := range []struct{ w, r transport.Conn }{{a, b}, {b, a}} {
		msg := random(n)
		wg.Go(func() {
			for i := 0; i < n; i += 10000 {
				if _, err := c.w.Write(msg[i:min(n, i+10000)]); err != nil {
					t.Errorf("write: %v", err)
					return
				}
			}
		})
		wg.Go(func() {
			got := make([]byte, n)
			if _, err := io.ReadFull(c.r, got); err != nil || !bytes.Equal(got, msg) {
				t.Errorf("read: %v, equal %v", err, bytes.Equal(got, msg))
			}
		})
	}
	wg.Wait()
}

func halfClose(t *testing.T, a, b transport.Conn) {
	a.Write([]byte("question"))
	if err := a.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(b)
	if err != nil || string(got) != "question" {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := b.Write([]byte("answer")); err != nil {
		t.Fatalf("writing after the other side's half close: %v", err)
	}
	b.CloseWrite()
	got, err = io.ReadAll(a)
	if err != nil || string(got) != "answer" {
		t.Fatalf("%q, %v", got, err)
	}
	if _, err := a.Write([]byte("more")); err == nil {
		t.Error("a write after CloseWrite succeeded")
	}
}

func closeDelivers(t *testing.T, a, b transport.Conn) {
	msg := random(100000)
	got := make(chan []byte)
	go func() {
		m, _ := io.ReadAll(b)
		got <- m
	}()
	if _, err := a.Write(msg); err != nil {
		t.Fatal(err)
	}
	a.Close()
	if m := <-got; !bytes.Equal(m, msg) {
		t.Errorf("%d of %d bytes arrived", len(m), len(msg))
	}
}

func closeUnblocks(t *testing.T, a, b transport.Conn) {
	errs := make(chan error, 2)
	go func() {
		_, err := a.Read(make([]byte, 1))
		errs <- err
	}()
	go func() {
		for {
			if _, err := a.Write(make([]byte, 1<<20)); err != nil {
				errs <- err
				return
			}
		}
	}()
	time.Sleep(10 * time.Millisecond) // lets both block; the outcome is the same if they do not yet
	a.Close()
	for range 2 {
		if err := <-errs; err == nil {
			t.Error("an operation on a closed stream succeeded")
		}
	}
}

func loss(t *testing.T, a, b transport.Conn) {
	b.Close()
	if _, err := a.Read(make([]byte, 1)); err == nil {
		t.Error("read from a lost peer succeeded")
	}
	var err error
	for i := 0; i < 1000 && err == nil; i++ {
		_, err = a.Write(make([]byte, 64<<10))
	}
	if err == nil {
		t.Error("64 MiB went to a lost peer without an error")
	}
}

func afterClose(t *testing.T, a, b transport.Conn) {
	a.Close()
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("read: %v", err)
	}
	if _, err := a.Write([]byte{1}); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write: %v", err)
	}
	a.Close() // a second time must not panic
}

func readDeadline(t *testing.T, a, b transport.Conn) {
	for _, d := range []time.Duration{-time.Second, 5 * time.Millisecond} {
		a.SetReadDeadline(time.Now().Add(d))
		_, err := a.Read(make([]byte, 1))
		var ne net.Error
		if !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
			t.Fatalf("deadline in %v: %v", d, err)
		}
	}
	// A deadline set while a read waits counts for it.
	a.SetReadDeadline(time.Time{})
	errs := make(chan error)
	go func() {
		_, err := a.Read(make([]byte, 1))
		errs <- err
	}()
	time.Sleep(5 * time.Millisecond)
	a.SetReadDeadline(time.Now())
	if err := <-errs; !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("deadline during a read: %v", err)
	}
}

func writeDeadline(t *testing.T, a, b transport.Conn) {
	a.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	var err error
	var n int
	for err == nil && n < 256<<20 {
		var k int
		k, err = a.Write(make([]byte, 256<<10))
		n += k
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after %d bytes that nobody read: %v", n, err)
	}
}

func deadlineBack(t *testing.T, a, b transport.Conn) {
	a.SetReadDeadline(time.Now().Add(-time.Second))
	a.Read(make([]byte, 1))
	a.SetDeadline(time.Time{})
	b.Write([]byte("x"))
	buf := make([]byte, 1)
	if _, err := io.ReadFull(a, buf); err != nil || buf[0] != 'x' {
		t.Errorf("after the deadline was taken back: %q, %v", buf, err)
	}
}

func writers(t *testing.T, a, b transport.Conn) {
	const each, size = 50, 1000
	for w := range 4 {
		go func() {
			for range each {
				a.Write(bytes.Repeat([]byte{byte(w)}, size))
			}
		}()
	}
	counts := map[byte]int{}
	buf := make([]byte, size)
	for range 4 * each {
		if _, err := io.ReadFull(b, buf); err != nil {
			t.Fatal(err)
		}
		if bytes.Count(buf, buf[:1]) != size {
			t.Fatal("bytes of two writes are mixed")
		}
		counts[buf[0]]++
	}
	for w, n := range counts {
		if n != each {
			t.Errorf("writer %d: %d writes", w, n)
		}
	}
}

func empty(t *testing.T, a, b transport.Conn) {
	if n, err := a.Write(nil); n != 0 || err != nil {
		t.Errorf("empty write: %d, %v", n, err)
	}
	if n, err := a.Read(nil); n != 0 || err != nil {
		t.Errorf("empty read: %d, %v", n, err)
	}
}

func addresses(t *testing.T, a, b transport.Conn) {
	for _, c := range []transport.Conn{a, b} {
		if c.LocalAddr() == nil || c.RemoteAddr() == nil || c.RemoteAddr().String() == "" {
			t.Errorf("addresses %v %v", c.LocalAddr(), c.RemoteAddr())
		}
	}
}
