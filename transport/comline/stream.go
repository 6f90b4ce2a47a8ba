package comline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// refusal is why the other side does not take a stream, or broke it off.
type refusal struct {
	code byte
	text string
}

func (r refusal) Error() string {
	switch {
	case r.text != "":
		return r.text
	case r.code == codeNobody:
		return "nobody listens on this channel at the other end of the line: is kdsrv running there with the same channel=?"
	case r.code == codeFull:
		return fmt.Sprintf("the line carries %d streams already, which is the most", maxStreams)
	case r.code == codeGone:
		return "the program at the other end is gone"
	case r.code == codeBroken:
		return "the other end broke the stream off"
	}
	return fmt.Sprintf("the other end broke the stream off (code %d)", r.code)
}

// errPeerClosed is what a writer sees whose reader has gone.
var errPeerClosed = errors.New("the other end closed the stream")

// stream is one stream of a mux, with the contract of transport.Conn. Its
// fields are guarded by the mutex of the mux.
type stream struct {
	m       *mux
	id      uint64 // as this side writes it
	channel int
	relayed bool // carried for another process

	isOpen bool
	closed bool  // by this side
	deaf   bool  // this side reads nothing more
	err    error // the stream is over, by reset or with its session
	gone   bool  // the mux does not know it any more
	linger *time.Timer

	readable sync.Cond
	in       []byte
	read     int // of in
	fin      bool
	recvLeft int  // bytes that the other side may send
	consumed int  // bytes that it may send again and does not know of
	credited bool // it is about to be told
	rd       deadline

	writable sync.Cond
	out      []byte
	written  int // of out
	writing  bool
	credit   int
	finAsked bool
	finSent  bool
	stopped  bool // the other side reads nothing more
	listed   bool
	wd       deadline
}

func newStream(m *mux, id uint64, channel int) *stream {
	s := &stream{m: m, id: id, channel: channel, recvLeft: m.recvWindow, credit: m.sendWindow}
	s.readable.L, s.writable.L = &m.mu, &m.mu
	return s
}

// awaitOpened waits for the answer to an open. When ctx ends first the stream
// is as it was.
func (s *stream) awaitOpened(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		s.m.mu.Lock()
		defer s.m.mu.Unlock()
		s.readable.Broadcast()
	})
	defer stop()
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	for {
		switch {
		case s.err != nil:
			return s.err
		case s.isOpen:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		}
		s.readable.Wait()
	}
}

// accept takes a stream that the other side opens.
func (s *stream) accept() {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.err == nil && !s.isOpen {
		s.isOpen = true
		s.m.tellLocked(message{kind: msgOpened, stream: s.id})
	}
}

// refuse does not take it.
func (s *stream) refuse(r refusal) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.err == nil {
		s.m.tellLocked(message{kind: msgRefused, stream: s.id, code: r.code, text: r.text})
		s.overLocked(r)
	}
}

// reset breaks the stream off at once. What is under way is lost.
func (s *stream) reset(r refusal) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.resetLocked(r)
}

func (s *stream) resetLocked(r refusal) {
	if s.err == nil && !s.gone {
		s.m.tellLocked(message{kind: msgReset, stream: s.id, code: r.code, text: r.text})
	}
	s.overLocked(r)
}

// alive reports whether the stream has not been broken off.
func (s *stream) alive() bool {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	return s.err == nil
}

// overLocked ends the stream in both directions. What has arrived can be read;
// when that was everything, it ends as if nothing had happened.
func (s *stream) overLocked(err error) {
	if s.err == nil {
		s.err = err
	}
	s.goneLocked()
	s.out, s.written = nil, 0
	s.wakeLocked()
}

// doneLocked forgets the stream when both directions have ended.
func (s *stream) doneLocked() {
	if s.fin && s.finSent {
		s.goneLocked()
	}
}

func (s *stream) goneLocked() {
	if s.gone {
		return
	}
	s.gone = true
	s.sentOutLocked()
	delete(s.m.streams, s.id)
}

// sentOutLocked: nothing of a closed stream waits any more.
func (s *stream) sentOutLocked() {
	if s.linger != nil {
		s.linger.Stop()
		s.linger = nil
		if !s.relayed {
			s.m.lingering--
		}
	}
}

func (s *stream) wakeLocked() {
	s.readable.Broadcast()
	s.writable.Broadcast()
}

func (s *stream) listedLocked() *bool { return &s.listed }

// sendableLocked reports whether the stream has something to send and may.
func (s *stream) sendableLocked() bool {
	if s.gone {
		return false
	}
	if s.written < len(s.out) {
		return s.credit > 0
	}
	return s.finAsked && !s.finSent
}

// fillLocked appends as much of the stream to b as b takes and credit allows.
func (s *stream) fillLocked(b []byte, most int) []byte {
	if s.gone {
		return b
	}
	if left := len(s.out) - s.written; left > 0 {
		const header = 1 + 5 + 3 // kind, stream, length at most
		n := min(left, s.credit, most-len(b)-header)
		b = appendMessage(b, message{kind: msgData, stream: s.id, data: s.out[s.written : s.written+n]})
		s.credit -= n
		if s.written += n; s.written == len(s.out) {
			s.out, s.written = s.out[:0], 0
			if cap(s.out) > 4<<10 {
				s.out = nil
			}
		}
		s.writable.Broadcast()
	}
	if s.written == len(s.out) && s.finAsked && !s.finSent && most-len(b) >= 1+5 {
		b = appendMessage(b, message{kind: msgFin, stream: s.id})
		s.finSent = true
		s.sentOutLocked()
		s.doneLocked()
	}
	return b
}

func (s *stream) dataLocked(b []byte) error {
	if len(b) > s.recvLeft || s.fin {
		return errCredit
	}
	s.recvLeft -= len(b)
	if !s.deaf {
		s.in = append(s.in, b...)
		s.readable.Broadcast()
	}
	return nil
}

// stopLocked: what is not sent yet, nobody wants.
func (s *stream) stopLocked() {
	s.stopped = true
	s.out, s.written = nil, 0
	s.finAsked = true
	s.wakeLocked()
	s.m.readyLocked(s)
}

// Read implements net.Conn.
func (s *stream) Read(b []byte) (int, error) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	for {
		switch {
		case s.closed:
			return 0, net.ErrClosed
		case s.rd.passed:
			return 0, os.ErrDeadlineExceeded
		case len(b) == 0:
			return 0, nil
		case s.read < len(s.in):
			n := copy(b, s.in[s.read:])
			if s.read += n; s.read == len(s.in) {
				s.in, s.read = s.in[:0], 0
				if cap(s.in) > 4<<10 {
					s.in = nil
				}
			}
			s.consumedLocked(n)
			return n, nil
		case s.fin:
			return 0, io.EOF
		case s.err != nil:
			return 0, s.err
		}
		s.readable.Wait()
	}
}

// consumedLocked grants credit again, a good part of the window at a time.
func (s *stream) consumedLocked(n int) {
	if s.gone || s.fin {
		return
	}
	s.consumed += n
	if s.consumed >= s.m.recvWindow/4 && !s.credited {
		s.credited = true
		s.m.out = append(s.m.out, pending{credit: s})
		s.m.wake()
	}
}

// Write implements net.Conn. It returns when all bytes are on their way or wait
// in the stream's buffer. The bytes of two writes do not mix.
func (s *stream) Write(b []byte) (int, error) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	done, turn := 0, false
	defer func() {
		if turn {
			s.writing = false
			s.writable.Broadcast()
		}
	}()
	for {
		switch {
		case s.closed, s.finAsked && !s.stopped:
			return done, net.ErrClosed
		case s.wd.passed:
			return done, os.ErrDeadlineExceeded
		case s.err != nil:
			return done, s.err
		case s.stopped:
			return done, errPeerClosed
		case len(b) == 0:
			return done, nil
		}
		if !turn && !s.writing {
			turn, s.writing = true, true
		}
		room := s.m.sendBuffer - (len(s.out) - s.written)
		if !turn || room <= 0 {
			s.writable.Wait()
			continue
		}
		if s.written > 0 && len(s.out)+min(room, len(b)) > cap(s.out) {
			s.out = s.out[:copy(s.out, s.out[s.written:])]
			s.written = 0
		}
		n := min(room, len(b))
		s.out = append(s.out, b[:n]...)
		b, done = b[n:], done+n
		s.m.readyLocked(s)
	}
}

// CloseWrite tells the other side that nothing more will come.
func (s *stream) CloseWrite() error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	switch {
	case s.closed:
		return net.ErrClosed
	case s.err != nil:
		return s.err
	}
	s.finAsked = true
	s.writable.Broadcast()
	s.m.readyLocked(s)
	return nil
}

// stopReading tells the other side that nothing of it is read any more.
func (s *stream) stopReading() {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.in, s.read = nil, 0
	s.deafLocked()
}

func (s *stream) deafLocked() {
	if !s.deaf && !s.fin && !s.gone {
		s.m.tellLocked(message{kind: msgStop, stream: s.id})
	}
	s.deaf = true
}

// lingerFor is how long a closed stream may make no progress.
const lingerFor = 30 * time.Second

// Close closes both directions. What was written still goes out.
func (s *stream) Close() error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.closed = true
	s.rd.stop()
	s.wd.stop()
	s.in, s.read = nil, 0
	s.wakeLocked()
	if s.gone {
		return nil
	}
	s.deafLocked()
	s.finAsked = true
	if !s.finSent {
		if !s.relayed {
			s.m.lingering++
		}
		left := len(s.out) - s.written
		s.linger = time.AfterFunc(lingerFor, func() { s.lingered(left) })
		s.m.readyLocked(s)
	}
	return nil
}

// lingered gives a closed stream up that nobody reads at the other side.
func (s *stream) lingered(before int) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	left := len(s.out) - s.written
	switch {
	case s.linger == nil:
	case left < before:
		s.linger = time.AfterFunc(lingerFor, func() { s.lingered(left) })
	default:
		s.resetLocked(refusal{code: codeBroken})
	}
}

func (s *stream) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

func (s *stream) SetReadDeadline(t time.Time) error {
	return s.setDeadline(&s.rd, &s.readable, t)
}

func (s *stream) SetWriteDeadline(t time.Time) error {
	return s.setDeadline(&s.wd, &s.writable, t)
}

type deadline struct {
	timer  *time.Timer
	passed bool
	gen    uint64
}

// stop forgets the deadline; the gen keeps a timer that fires late from
// touching the next one.
func (d *deadline) stop() {
	d.gen++
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

func (s *stream) setDeadline(d *deadline, c *sync.Cond, t time.Time) error {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	d.stop()
	d.passed = false
	if t.IsZero() {
		return nil
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.passed = true
		c.Broadcast()
		return nil
	}
	gen := d.gen
	d.timer = time.AfterFunc(wait, func() {
		s.m.mu.Lock()
		defer s.m.mu.Unlock()
		if d.gen == gen {
			d.passed = true
			c.Broadcast()
		}
	})
	return nil
}
