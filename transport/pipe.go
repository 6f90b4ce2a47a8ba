package transport

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Bytes that one direction of a Pipe holds before Write waits.
const pipeBuffer = 256 << 10

// Pipe returns the two ends of a stream inside this process. It is buffered:
// a Write waits only while 256 KiB are unread. There is no encryption and no
// password, because there is nobody in between.
func Pipe() (Conn, Conn) {
	ab, ba := newHalf(), newHalf()
	return &pipeConn{r: ba, w: ab}, &pipeConn{r: ab, w: ba}
}

type pipeConn struct{ r, w *half }

type pipeAddr struct{}

func (pipeAddr) Network() string { return "pipe" }
func (pipeAddr) String() string  { return "<Local>" }

func (c *pipeConn) Read(b []byte) (int, error)  { return c.r.read(b) }
func (c *pipeConn) Write(b []byte) (int, error) { return c.w.write(b) }
func (c *pipeConn) CloseWrite() error           { return c.w.closeWrite() }
func (c *pipeConn) LocalAddr() net.Addr         { return pipeAddr{} }
func (c *pipeConn) RemoteAddr() net.Addr        { return pipeAddr{} }

func (c *pipeConn) Close() error {
	c.w.close(false)
	c.r.close(true)
	return nil
}

func (c *pipeConn) SetDeadline(t time.Time) error {
	c.r.setDeadline(&c.r.rd, t)
	c.w.setDeadline(&c.w.wd, t)
	return nil
}

func (c *pipeConn) SetReadDeadline(t time.Time) error {
	c.r.setDeadline(&c.r.rd, t)
	return nil
}

func (c *pipeConn) SetWriteDeadline(t time.Time) error {
	c.w.setDeadline(&c.w.wd, t)
	return nil
}

// half is one direction: a ring that grows to pipeBuffer and is given back
// when it runs empty, so that an idle pipe costs little.
type half struct {
	mu       sync.Mutex
	readable sync.Cond
	writable sync.Cond
	ring     []byte
	start, n int
	eof      bool // the writer said that it is done
	rclosed  bool // the reader's end was closed
	wclosed  bool // the writer's end was closed
	rd, wd   pipeDeadline
}

type pipeDeadline struct {
	timer  *time.Timer
	passed bool
	gen    uint64
}

func newHalf() *half {
	h := &half{}
	h.readable.L, h.writable.L = &h.mu, &h.mu
	return h
}

func (h *half) read(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.rclosed:
			return 0, net.ErrClosed
		case h.rd.passed:
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		case h.n > 0:
			n := copy(b, h.ring[h.start:min(h.start+h.n, len(h.ring))])
			if n < len(b) && n < h.n {
				n += copy(b[n:], h.ring[:h.n-n])
			}
			h.start = (h.start + n) % len(h.ring)
			h.n -= n
			if h.n == 0 {
				h.start = 0
				if len(h.ring) > 16<<10 && h.eof {
					h.ring = nil
				}
			}
			h.writable.Broadcast()
			return n, nil
		case h.eof:
			return 0, io.EOF
		}
		h.readable.Wait()
	}
}

func (h *half) write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	done := 0
	for {
		switch {
		case h.wclosed || h.eof:
			return done, net.ErrClosed
		case h.wd.passed:
			return done, os.ErrDeadlineExceeded
		case h.rclosed:
			return done, io.ErrClosedPipe
		case len(b) == 0:
			return done, nil
		}
		if h.n < pipeBuffer {
			h.growLocked(min(h.n+len(b), pipeBuffer))
			n := min(len(b), pipeBuffer-h.n, len(h.ring)-h.n)
			end := (h.start + h.n) % len(h.ring)
			k := copy(h.ring[end:], b[:n])
			copy(h.ring, b[k:n])
			h.n += n
			b, done = b[n:], done+n
			h.readable.Broadcast()
			continue
		}
		h.writable.Wait()
	}
}

func (h *half) growLocked(need int) {
	if need <= len(h.ring) {
		return
	}
	size := max(4<<10, len(h.ring))
	for size < need {
		size *= 2
	}
	ring := make([]byte, size)
	if h.n > 0 {
		k := copy(ring[:h.n], h.ring[h.start:])
		copy(ring[k:h.n], h.ring)
	}
	h.ring, h.start = ring, 0
}

func (h *half) closeWrite() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.wclosed {
		return net.ErrClosed
	}
	h.eof = true
	h.wakeLocked()
	return nil
}

func (h *half) close(reader bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if reader {
		h.rclosed = true
		h.ring, h.n = nil, 0
		h.rd.stop()
	} else {
		h.wclosed, h.eof = true, true
		h.wd.stop()
	}
	h.wakeLocked()
}

func (h *half) wakeLocked() {
	h.readable.Broadcast()
	h.writable.Broadcast()
}

func (h *half) setDeadline(d *pipeDeadline, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d.stop()
	d.passed = false
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.passed = true
		h.wakeLocked()
		return
	}
	gen := d.gen
	d.timer = time.AfterFunc(wait, func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if d.gen == gen {
			d.passed = true
			h.wakeLocked()
		}
	})
}

// stop forgets the deadline; the gen keeps a timer that fires late from
// touching the next one.
func (d *pipeDeadline) stop() {
	d.gen++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
