package comline

import (
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Bounds of what a session holds.
const (
	maxStreams = 2048 // at once; of each 32 KiB may wait to be read, see speedOf
	maxControl = 8192 // small messages that wait to be sent
	minChunk   = 24   // a chunk of a stream that is shorter waits for the next frame
)

// handler is told what a mux cannot answer itself. It is called without locks,
// by the goroutine that calls receive.
type handler interface {
	// opened is told of a stream that the other side opens; accept, refuse or
	// reset answers it.
	opened(s *stream)
	// control gets the messages that name no stream; an error ends the session.
	control(m message) error
}

// mux carries streams in the payloads of a channel that is reliable and in
// order: the frames of a session on the line, or a socket between two processes.
// It knows no clock and starts no goroutine.
//
// Concurrency: receive is called by one goroutine, everything else by any.
type mux struct {
	mu         sync.Mutex
	wake       func() // there is something to send; must not call back
	handler    handler
	sendWindow int // bytes of a stream that the other side takes beyond what was read
	recvWindow int // bytes of a stream that this side takes
	sendBuffer int // bytes of a stream that wait here

	err       error // why the session is over
	streams   map[uint64]*stream
	opened    uint64 // streams opened from here
	peer      uint64 // streams opened from there
	lingering int    // streams of this process that are closed and not yet sent out

	out   []pending
	turns turns[*channelTurns]
	chans [MaxChannel + 1]*channelTurns
}

// pending is a small message to send: m, or what a stream has to tell by then.
type pending struct {
	m      message
	credit *stream
}

// turns decides who sends next among those that have something to send: each
// may fill one frame, then come the others. Who has just come back with
// something goes first, so that a few bytes do not wait for every long transfer;
// but only once in a round, so that the transfers go on (the scheduler of
// FQ-CoDel, RFC 8290 section 4.1). Channels take turns, and so do the streams of
// each.
type turns[T turner] struct {
	fresh, rest queue[T]
}

type turner interface {
	sendableLocked() bool
	listedLocked() *bool // whether it is in a queue
}

func (t *turns[T]) add(v T) {
	if listed := v.listedLocked(); !*listed {
		*listed = true
		t.fresh.push(v)
	}
}

// next returns who is to send, and whether it has just come back. served must
// follow, if it sends.
func (t *turns[T]) next() (v T, fresh, ok bool) {
	for _, q := range []*queue[T]{&t.fresh, &t.rest} {
		for !q.empty() {
			if v = q.items[q.head]; v.sendableLocked() {
				return v, q == &t.fresh, true
			}
			*q.pop().listedLocked() = false
		}
	}
	return v, false, false
}

// served puts who has sent where its next turn is. One that has just come back
// stays for the round even if it has nothing more.
func (t *turns[T]) served(fresh bool) {
	var v T
	if fresh {
		v = t.fresh.pop()
	} else {
		v = t.rest.pop()
	}
	if v.sendableLocked() || fresh && !t.rest.empty() {
		t.rest.push(v)
	} else {
		*v.listedLocked() = false
	}
}

// channelTurns is a channel among the others.
type channelTurns struct {
	turns  turns[*stream]
	listed bool
}

func (c *channelTurns) listedLocked() *bool { return &c.listed }

func (c *channelTurns) sendableLocked() bool {
	_, _, ok := c.turns.next()
	return ok
}

// queue is first in, first out.
type queue[T any] struct {
	items []T
	head  int
}

func (q *queue[T]) empty() bool { return q.head == len(q.items) }

func (q *queue[T]) push(v T) {
	if q.head > 64 && q.head > len(q.items)/2 {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, v)
}

func (q *queue[T]) pop() (v T) {
	var zero T
	v, q.items[q.head] = q.items[q.head], zero
	q.head++
	if q.empty() {
		q.items, q.head = nil, 0
	}
	return v
}

func newMux(h handler, wake func(), sendWindow, recvWindow, sendBuffer int) *mux {
	return &mux{
		wake: wake, handler: h, sendWindow: sendWindow, recvWindow: recvWindow, sendBuffer: sendBuffer,
		streams: make(map[uint64]*stream),
	}
}

// open opens a stream; awaitOpened says what the other side answers.
func (m *mux) open(channel int) (*stream, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return nil, m.err
	}
	if len(m.streams) >= maxStreams || m.opened == maxStream {
		return nil, refusal{code: codeFull}
	}
	m.opened++
	s := newStream(m, m.opened<<1|1, channel)
	m.streams[s.id] = s
	m.tellLocked(message{kind: msgOpen, stream: s.id, channel: channel})
	return s, nil
}

// tell sends a message that names no stream.
func (m *mux) tell(msg message) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tellLocked(msg)
}

func (m *mux) tellLocked(msg message) {
	if m.err == nil {
		m.out = append(m.out, pending{m: msg})
		m.wake()
	}
}

// count is how many streams there are.
func (m *mux) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.streams)
}

// unsent reports whether closed streams of this process have something to send.
func (m *mux) unsent() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err == nil && (m.lingering > 0 || len(m.out) > 0)
}

// fail ends the session and all its streams.
func (m *mux) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return
	}
	m.err = err
	for _, s := range m.streams {
		s.overLocked(err)
	}
	m.out = nil
	m.turns = turns[*channelTurns]{}
	clear(m.chans[:])
}

// fill appends messages to b until it holds most bytes. An appended nothing
// means that there is nothing to send.
func (m *mux) fill(b []byte, most int) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	sent := 0
	for _, p := range m.out {
		msg := p.m
		if s := p.credit; s != nil {
			msg = message{kind: msgCredit, stream: s.id, n: uint64(s.consumed)}
		}
		n := len(b)
		if b = appendMessage(b, msg); len(b) > most && n > 0 {
			b = b[:n]
			break
		}
		if s := p.credit; s != nil {
			s.recvLeft += s.consumed
			s.consumed, s.credited = 0, false
		}
		sent++
	}
	m.out = slices.Delete(m.out, 0, sent)
	small := false
	for most-len(b) >= minChunk {
		c, freshChannel, ok := m.turns.next()
		if !ok {
			break
		}
		s, fresh, _ := c.turns.next()
		if small && !fresh && !freshChannel {
			break // it would fill the frame, for which the others would wait
		}
		b = s.fillLocked(b, most)
		c.turns.served(fresh)
		m.turns.served(freshChannel)
		small = small || fresh || freshChannel
	}
	return b
}

// readyLocked gives a stream its turns.
func (m *mux) readyLocked(s *stream) {
	if !s.sendableLocked() {
		return
	}
	c := m.chans[s.channel]
	if c == nil {
		c = &channelTurns{}
		m.chans[s.channel] = c
	}
	c.turns.add(s)
	m.turns.add(c)
	m.wake()
}

var errProtocol = errors.New("the other end broke the protocol of the line")

// receive takes a payload. An error ends the session.
func (m *mux) receive(b []byte) error {
	for len(b) > 0 {
		msg, rest, err := parseMessage(b)
		if err != nil {
			return fmt.Errorf("%w: %w", errProtocol, err)
		}
		b = rest
		if msg.kind >= msgAttach {
			if err := m.handler.control(msg); err != nil {
				return err
			}
			continue
		}
		s, err := m.take(msg)
		if err != nil {
			return fmt.Errorf("%w: stream %d: %w", errProtocol, msg.stream, err)
		}
		if s != nil {
			m.handler.opened(s)
		}
	}
	return nil
}

var (
	errOrder  = errors.New("opened out of order")
	errCredit = errors.New("more than was granted")
	errFlood  = errors.New("questions without reading the answers")
)

// take does what a message says. It returns a stream that was opened by it.
func (m *mux) take(msg message) (*stream, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err != nil {
		return nil, nil
	}
	id := msg.stream ^ 1 // the sender's view into ours
	if msg.kind == msgOpen {
		if id&1 != 0 || id>>1 != m.peer+1 {
			return nil, errOrder
		}
		m.peer++
		if len(m.out) >= maxControl {
			return nil, errFlood
		}
		if len(m.streams) >= maxStreams {
			m.tellLocked(message{kind: msgRefused, stream: id, code: codeFull})
			return nil, nil
		}
		s := newStream(m, id, msg.channel)
		m.streams[id] = s
		return s, nil
	}
	s := m.streams[id]
	if s == nil {
		return nil, nil // over already, on this side
	}
	switch msg.kind {
	case msgOpened:
		s.isOpen = true
		s.wakeLocked()
	case msgRefused:
		s.overLocked(refusal{msg.code, msg.text})
	case msgReset:
		s.overLocked(refusal{msg.code, msg.text})
	case msgData:
		return nil, s.dataLocked(msg.data)
	case msgFin:
		s.fin = true
		s.wakeLocked()
		s.doneLocked()
	case msgStop:
		s.stopLocked()
	case msgCredit:
		if msg.n > uint64(m.sendWindow) || s.credit+int(msg.n) > m.sendWindow {
			return nil, errCredit
		}
		s.credit += int(msg.n)
		m.readyLocked(s)
	}
	return nil, nil
}
