package fault

import (
	"io"
	"sync"
	"time"
)

// fifo is how many bytes a throttled line hands over at a time, as the FIFO of
// a 16550 does.
const fifo = 16

// Throttled is a byte stream at the speed of a serial line, see Throttle.
//
// Concurrency: as Stream.
type Throttled struct {
	below   io.ReadWriteCloser
	perByte time.Duration
	done    chan struct{}
	once    sync.Once

	in, out pace

	raw  []byte
	left []byte
	end  error
}

// Throttle wraps a stream so that each direction carries baud/10 bytes a
// second, 8N1. Write returns when the last byte is on the wire. A baud of 0 or
// less is no limit.
//
// Read takes what the stream below holds and hands it on at the speed of the
// line, so the far end's Write may return long before. Where the far end has
// time-outs shorter than a packet takes, as a kernel's have, it is the far end
// that belongs on the throttled stream: its Write lasts as long as a UART's.
func Throttle(below io.ReadWriteCloser, baud int) *Throttled {
	t := &Throttled{below: below, done: make(chan struct{}), raw: make([]byte, 4096)}
	if baud > 0 {
		t.perByte = 10 * time.Second / time.Duration(baud)
	}
	return t
}

// pace keeps the time at which one direction of the line is free. It counts in
// byte times, not in sleeps: what a sleep lasted too long is made up for by the
// next one, so that the rate holds. A pause of the line is made up for by
// nothing.
type pace struct {
	free time.Time
	lag  time.Duration // of the last sleep
}

// pauseAfter tells a pause of the line from the work between two pieces.
const pauseAfter = 200 * time.Microsecond

// pass waits until n more bytes have passed. more says that they were there when
// the bytes before them passed, so that the line had no pause.
func (p *pace) pass(n int, more bool, perByte time.Duration, done <-chan struct{}) {
	if perByte <= 0 {
		return
	}
	now := time.Now()
	if !more && now.Sub(p.free) > p.lag+pauseAfter {
		p.free = now
	}
	p.free = p.free.Add(time.Duration(n) * perByte)
	sleep(p.free.Sub(now), done)
	p.lag = max(0, time.Since(p.free))
}

// Read implements io.Reader.
func (t *Throttled) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	more := len(t.left) > 0
	if !more {
		if t.end != nil {
			return 0, t.end
		}
		n, err := t.below.Read(t.raw)
		t.left, t.end = t.raw[:n], err
		if n == 0 {
			return 0, err
		}
	}
	n := min(len(p), len(t.left))
	if t.perByte > 0 {
		n = min(n, fifo)
	}
	t.in.pass(n, more, t.perByte, t.done)
	copy(p, t.left[:n])
	t.left = t.left[n:]
	return n, nil
}

// Write implements io.Writer.
func (t *Throttled) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n := len(p) - done
		if t.perByte > 0 {
			n = min(n, fifo)
		}
		t.out.pass(n, done > 0, t.perByte, t.done)
		m, err := t.below.Write(p[done : done+n])
		done += m
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// Close closes the stream below.
func (t *Throttled) Close() error {
	t.once.Do(func() { close(t.done) })
	return t.below.Close()
}
