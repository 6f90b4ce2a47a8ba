package repeater

import (
	"errors"
	"io"
	"sync/atomic"
	"time"
)

// Buffers of one direction. Nothing else is held between the two ends, so who
// reads slowly slows the other. An idle connection costs the small ones.
const (
	smallBuffer = 4 << 10
	bigBuffer   = 64 << 10
)

// way is one direction of a connection.
type way struct {
	from, to *leg
	n        int64
	how      ending
	err      error
	first    *atomic.Pointer[way] // of both directions
}

type ending int

const (
	endSaid  ending = iota // the source ended it, and the sink was told
	endMute                // the source ended it; the sink's carrier cannot be told but by closing
	endRead                // the source broke
	endWrite               // the sink broke
)

// pass moves bytes both ways until both directions have ended, or one end
// broke, and tells how many went each way and why that is over. It closes
// neither leg if both ended well.
func pass(c, s *leg, linger time.Duration) (up, down int64, why string) {
	var half atomic.Bool          // one direction is over
	var began atomic.Pointer[way] // the direction that was over first
	ways := [2]*way{{from: c, to: s, first: &began}, {from: s, to: c, first: &began}}
	over := make(chan *way, 2)
	for _, w := range ways {
		go func() {
			w.run(&half, linger)
			over <- w
		}()
	}
	first := <-over
	switch first.how {
	case endSaid, endWrite:
		// The other direction goes on: after a half close with what is said
		// yet; when the sink broke, with what it had said before.
		half.Store(true)
		t := time.Now().Add(linger)
		c.SetDeadline(t)
		s.SetDeadline(t)
	case endMute, endRead:
		c.Close()
		s.Close()
	}
	<-over
	// Who came first is not who was told first: the end of one direction may
	// bring that of the other before this is looked at.
	first = began.Load()
	who := func(l *leg) string {
		if l == c {
			return "the client"
		}
		return "the server"
	}
	switch first.how {
	case endSaid, endMute:
		why = who(first.from) + " ended it"
	case endRead:
		why = who(first.from) + " was lost: " + first.err.Error()
	case endWrite:
		why = who(first.to) + " was lost: " + first.err.Error()
	}
	return ways[0].n, ways[1].n, why
}

// run moves bytes until the direction is over.
func (w *way) run(half *atomic.Bool, linger time.Duration) {
	if !w.write(w.from.head) {
		return
	}
	w.from.head = nil
	buf := make([]byte, smallBuffer)
	for {
		if half.Load() {
			t := time.Now().Add(linger)
			w.from.SetReadDeadline(t)
			w.to.SetWriteDeadline(t)
		}
		n, err := w.from.Read(buf)
		if n > 0 && !w.write(buf[:n]) {
			return
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF):
			w.first.CompareAndSwap(nil, w) // before the sink knows
			w.end()
			return
		default:
			w.first.CompareAndSwap(nil, w)
			w.how, w.err = endRead, err
			return
		}
		if n == len(buf) && len(buf) < bigBuffer {
			buf = make([]byte, 4*len(buf))
		}
	}
}

func (w *way) write(b []byte) bool {
	if len(b) == 0 {
		return true
	}
	n, err := w.to.Write(b)
	w.n += int64(n)
	if err != nil {
		w.first.CompareAndSwap(nil, w)
		w.how, w.err = endWrite, err
	}
	return err == nil
}

// end passes the end of the direction on.
func (w *way) end() {
	to, ok := w.to.Conn.(interface{ CloseWrite() error })
	if !ok {
		w.how = endMute
		return
	}
	if err := to.CloseWrite(); err != nil {
		w.how, w.err = endWrite, err
	}
}
