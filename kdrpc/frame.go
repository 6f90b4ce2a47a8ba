package kdrpc

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"openkd/target"
)

// Kind is the kind of a frame. See PROTOCOL.md.
type Kind uint8

// Kinds. C is the client, S the server.
const (
	KindHello  Kind = 0x01 // C->S, S->C  Hello
	KindRefuse Kind = 0x02 // S->C        Refusal; the server closes behind it
	KindPing   Kind = 0x03 // either      empty
	KindPong   Kind = 0x04 // either      empty, the answer to a ping

	KindOpen      Kind = 0x10 // C->S  Open
	KindDo        Kind = 0x11 // C->S  array of target.Request
	KindResume    Kind = 0x12 // C->S  target.Resume
	KindSwitch    Kind = 0x13 // C->S  u32 processor
	KindBreakIn   Kind = 0x14 // C->S  empty
	KindAnswer    Kind = 0x15 // C->S  text
	KindControl   Kind = 0x16 // C->S  target.Control
	KindStatus    Kind = 0x17 // C->S  empty
	KindClose     Kind = 0x18 // C->S  u8 target.Leave
	KindEndServer Kind = 0x19 // C->S  empty
	KindServer    Kind = 0x1A // C->S  empty; what the server says about itself

	KindCancel Kind = 0x20 // C->S  empty; the id is the request's
	KindCredit Kind = 0x21 // C->S  u32 bytes of data of parts that may be sent on top
	KindAck    Kind = 0x22 // C->S  u64 sequence number up to which events were read

	KindOpened Kind = 0x30 // S->C  Opened, the answer to Open
	KindPart   Kind = 0x31 // S->C  a part of a Do's answer
	KindDone   Kind = 0x32 // S->C  Result, the last frame of a request
	KindEvent  Kind = 0x33 // S->C  u64 sequence number, target.Event; empty: no more events

	// flagMore says that the body goes on in the next frame of the same kind
	// and id.
	flagMore Kind = 0x80
)

// Sizes in bytes.
const (
	frameHeader  = 9               // u32 length of what follows it, u32 id, u8 kind
	maxFrame     = 256 << 10       // longest payload
	fragment     = 64 << 10        // payload of the pieces of a long body, and most of a part
	maxBody      = 32 << 20        // longest body that comes in pieces, client to server
	maxEventBody = 8 << 20         // the same, server to client
	partHeader   = 14              // u8 flags, u32 index, u64 offset, u8 reserved
	doneHeader   = 12              // u32 status, u64 value, with flagDone
	creditWindow = 4 << 20         // of data of parts, at the start of a connection
	maxOut       = 512 << 10       // waiting to be written before parts and events have to wait
	killOut      = 8 << 20         // waiting to be written before the connection is given up
	pingEvery    = 5 * time.Second // of silence from the other side
	deadAfter    = 15 * time.Second
	frameWithin  = time.Minute // from the first byte of a frame to its last
	helloWithin  = 10 * time.Second
	openWithin   = 30 * time.Second
	measureEvery = 30 * time.Second // the round trip, when no ping was needed

	flagDone = 1

	// Parts gather for this long or until they are so many bytes: with one more
	// part of a packet still four whole records of TLS, each of which costs both
	// sides a system call.
	gather = 5 * time.Millisecond
	enough = fragment - 4<<10
)

// Timeouts are the times of a connection. Zero fields take the protocol's
// defaults; tests shorten them.
type Timeouts struct {
	Ping  time.Duration // silence before a ping: 5 s
	Dead  time.Duration // silence before the connection is given up: 15 s
	Frame time.Duration // for a whole frame once it has begun: 60 s
	Hello time.Duration // for the other side's hello: 10 s
	Open  time.Duration // from the hello to Open: 30 s
}

func (t Timeouts) withDefaults() Timeouts {
	for _, d := range []struct {
		d   *time.Duration
		def time.Duration
	}{{&t.Ping, pingEvery}, {&t.Dead, deadAfter}, {&t.Frame, frameWithin}, {&t.Hello, helloWithin}, {&t.Open, openWithin}} {
		if *d.d <= 0 {
			*d.d = d.def
		}
	}
	return t
}

// ProtocolError says that the other side broke the protocol.
type ProtocolError struct{ What string }

func (e *ProtocolError) Error() string { return "kdrpc: protocol error: " + e.What }

func protocolErrorf(format string, a ...any) error {
	return &ProtocolError{fmt.Sprintf(format, a...)}
}

// frame is one frame as it was read. The payload is valid until the next read.
type frame struct {
	id      uint32
	kind    Kind // with flagMore
	payload []byte
}

// frameReader reads frames. It allocates no more than one frame of the longest
// size, whatever the stream claims.
type frameReader struct {
	r   *bufio.Reader
	buf []byte
	// begun is called when the first byte of a frame is there, and ended when
	// the frame is whole. Either may be nil.
	begun, ended func()
}

// What lies before a payload fits into the buffer, with many small frames; a
// long payload goes past it. It is there as long as the connection.
const readBuffer = 2 << 10

// A payload's buffer above this size is not kept for small ones.
const smallBuffer = 8 << 10

func newFrameReader(r io.Reader) *frameReader {
	return &frameReader{r: bufio.NewReaderSize(r, readBuffer)}
}

// swap gives the payload of the last frame away, and takes another buffer for
// the next one.
func (r *frameReader) swap(buf []byte) { r.buf = buf[:cap(buf)] }

// next returns the next frame. io.EOF: the stream ended between two frames.
func (r *frameReader) next() (frame, error) {
	if r.begun != nil {
		if _, err := r.r.Peek(1); err != nil {
			return frame{}, err
		}
		r.begun()
		defer r.ended()
	}
	var h [frameHeader]byte
	if _, err := io.ReadFull(r.r, h[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = protocolErrorf("the stream ended inside a frame")
		}
		return frame{}, err
	}
	n := binary.LittleEndian.Uint32(h[:])
	if n < frameHeader-4 || n > maxFrame+frameHeader-4 {
		return frame{}, protocolErrorf("a frame of %d bytes; 5 to %d are allowed", n, maxFrame+frameHeader-4)
	}
	n -= frameHeader - 4
	if have := uint32(cap(r.buf)); have < n || n < readBuffer && have > smallBuffer {
		r.buf = make([]byte, max(n, 64))
	}
	f := frame{id: binary.LittleEndian.Uint32(h[4:]), kind: Kind(h[8]), payload: r.buf[:n]}
	if _, err := io.ReadFull(r.r, f.payload); err != nil {
		return frame{}, protocolErrorf("the stream ended inside a frame: %v", err)
	}
	return f, nil
}

// bodies puts bodies together that come in several frames. One body is under
// way at a time; whole frames may come in between.
type bodies struct {
	max  int
	id   uint32
	kind Kind
	buf  []byte
	open bool
}

// add takes a frame and returns the body and kind when it is whole. The body
// is valid until the next call.
func (b *bodies) add(f frame) ([]byte, Kind, bool, error) {
	kind := f.kind &^ flagMore
	more := f.kind&flagMore != 0
	if !b.open {
		if !more {
			return f.payload, kind, true, nil
		}
		b.open, b.id, b.kind, b.buf = true, f.id, kind, append([]byte(nil), f.payload...)
		return nil, 0, false, nil
	}
	if f.id != b.id || kind != b.kind {
		if more {
			return nil, 0, false, protocolErrorf("two bodies in pieces at once")
		}
		return f.payload, kind, true, nil
	}
	if len(b.buf)+len(f.payload) > b.max {
		return nil, 0, false, protocolErrorf("a body of more than %d bytes", b.max)
	}
	b.buf = append(b.buf, f.payload...)
	if more {
		return nil, 0, false, nil
	}
	body := b.buf
	b.open, b.buf = false, nil
	return body, kind, true, nil
}

// each calls take with every body that arrives, of at most most bytes, until it or
// the stream ends with an error. The body is valid until take returns, unless it
// swaps the buffer.
func (r *frameReader) each(most int, take func(id uint32, kind Kind, body []byte) error) error {
	asm := bodies{max: most}
	for {
		f, err := r.next()
		if err != nil {
			return err
		}
		body, kind, whole, err := asm.add(f)
		if err != nil {
			return err
		}
		if !whole {
			continue
		}
		if err := take(f.id, kind, body); err != nil {
			return err
		}
	}
}

func appendHeader(b []byte, id uint32, k Kind, payload int) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(payload+frameHeader-4))
	b = binary.LittleEndian.AppendUint32(b, id)
	return append(b, byte(k))
}

// appendFrames appends a body as one frame, or as several when it is long.
func appendFrames(b []byte, id uint32, k Kind, body []byte) []byte {
	for len(body) > fragment {
		b = appendHeader(b, id, k|flagMore, fragment)
		b = append(b, body[:fragment]...)
		body = body[fragment:]
	}
	b = appendHeader(b, id, k, len(body))
	return append(b, body...)
}

// wire is what both sides do with a connection: write frames without making
// the writers wait for the network, ping, and notice a dead peer.
//
// Frames are appended to a buffer that one goroutine at a time writes. While it
// writes, the next ones gather, so that many small ones cost few system calls.
type wire struct {
	conn  net.Conn
	times Timeouts

	meter *Meter
	probe bool         // ping to measure too, not only in silence
	heard atomic.Int64 // when bytes last came, nanoseconds since start
	begun atomic.Int64 // when the frame that is being read began; 0: none
	start time.Time

	mu      sync.Mutex
	buf     []byte
	spare   []byte
	busy    int // bytes that are being written
	writing bool
	err     error
	broken  error       // writing failed; what came before is still read
	pongs   bool        // a pong waits in buf
	pinged  time.Time   // when the ping went that has no answer yet; zero: none
	asked   time.Time   // when the last ping went
	tail    tail        // the part at the end of buf
	alive   *time.Timer // calls tick, until err is set
	timer   *time.Timer
	armed   bool          // timer will wake the writer
	closed  bool          // write what is there, then stop
	loop    bool          // writeLoop runs
	room    chan struct{} // closed when the buffer has been taken
	dead    chan struct{} // closed when err is set or writing has stopped
	deaf    chan struct{} // closed when reading has stopped
	wg      sync.WaitGroup
	once    sync.Once
	heardIt sync.Once // closes deaf
}

// tail is a part at the end of the buffer that can still grow.
type tail struct {
	ok    bool
	start int // of its frame in buf
	id    uint32
	index int
	next  uint64 // offset of the data that would continue it
}

// newWire: meter may be nil, when nobody wants to know.
func newWire(conn net.Conn, times Timeouts, meter *Meter) *wire {
	probe := meter != nil
	if !probe {
		meter = new(Meter)
	}
	w := &wire{
		conn: conn, meter: meter, probe: probe, times: times.withDefaults(), start: time.Now(),
		room: make(chan struct{}), dead: make(chan struct{}), deaf: make(chan struct{}),
	}
	w.timer = time.AfterFunc(time.Hour, w.flush)
	w.timer.Stop()
	w.mu.Lock() // the first tick has to find its timer
	w.alive = time.AfterFunc(w.times.Ping, w.tick)
	w.mu.Unlock()
	return w
}

// Read makes the wire the reader under a frameReader: it notes life.
func (w *wire) Read(b []byte) (int, error) {
	n, err := w.conn.Read(b)
	if n > 0 {
		w.heard.Store(int64(time.Since(w.start)))
		w.meter.in.Add(uint64(n))
	}
	if err != nil {
		w.heardIt.Do(func() { close(w.deaf) })
	}
	return n, err
}

func (w *wire) reader() *frameReader {
	r := newFrameReader(w)
	r.begun = func() { w.begun.Store(int64(time.Since(w.start)) + 1) }
	r.ended = func() { w.begun.Store(0) }
	return r
}

// fail gives the connection up; the first reason stays.
func (w *wire) fail(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = err
		w.alive.Stop() // a tick that runs already sees err
	}
	w.mu.Unlock()
	w.once.Do(func() { close(w.dead) })
	w.conn.Close()
}

// lingering is how long is read what the other side has sent before it would take
// no more: the last words of a session are among that.
const lingering = time.Second

// stopWriting notes that the other side takes no more.
func (w *wire) stopWriting(err error) {
	w.mu.Lock()
	w.broken, w.buf = err, nil
	given := w.err != nil // up already, and closed
	w.mu.Unlock()
	w.once.Do(func() { close(w.dead) })
	if !given {
		time.AfterFunc(lingering, func() { w.fail(err) })
	}
}

// writable says why nothing can be written any more.
func (w *wire) writable() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.writableLocked()
}

func (w *wire) writableLocked() error {
	if w.err != nil {
		return w.err
	}
	return w.broken
}

// reason says why the connection ended.
func (w *wire) reason() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// finish lets what is queued go out, for at most a moment, and closes.
func (w *wire) finish(d time.Duration) { w.end(d, false) }

// part does so while another goroutine reads, and lets the other side close
// first: what it had under way here would make of the end a reset, with which
// what it has not read yet is lost.
func (w *wire) part(d time.Duration) { w.end(d, true) }

func (w *wire) end(d time.Duration, read bool) {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.poke()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-w.dead:
		c, ok := w.conn.(interface{ CloseWrite() error })
		if read && ok && w.writable() == nil && c.CloseWrite() == nil {
			select {
			case <-w.deaf:
			case <-t.C:
			}
		}
	case <-t.C:
	}
	w.fail(net.ErrClosed)
	w.timer.Stop()
	w.wg.Wait()
}

// poke has what is queued written. The writer is there only while there is
// something to write: a server has thousands of idle connections.
func (w *wire) poke() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.loop || w.writableLocked() != nil {
		return
	}
	w.loop = true
	w.wg.Add(1)
	go w.writeLoop()
}

// append lets add append frames to what goes out. It never waits.
func (w *wire) append(add func([]byte) []byte) error {
	err := w.gather(func(b []byte) []byte {
		w.tail.ok = false
		return add(b)
	})
	if err == nil {
		w.poke()
	}
	return err
}

// sendPart appends a part. Parts that continue each other become one frame,
// and small ones gather for a moment, so that a quick line costs the network
// one write for many packets.
func (w *wire) sendPart(id uint32, p *target.Part, data []byte, done bool) error {
	full := false
	err := w.gather(func(b []byte) []byte {
		t := &w.tail
		if t.ok && !done && t.id == id && t.index == p.Index && t.next == p.Offset && len(b)-t.start+len(data) <= frameHeader+partHeader+fragment {
			b = append(b, data...)
			binary.LittleEndian.PutUint32(b[t.start:], uint32(len(b)-t.start-4))
		} else {
			if cap(b) == 0 {
				b = make([]byte, 0, keepBuffer)
			}
			*t = tail{ok: !done, start: len(b), id: id, index: p.Index}
			b = appendPart(b, id, p, data, done)
		}
		t.next = p.Offset + uint64(len(data))
		full = len(b) >= enough
		if !full && !w.armed {
			w.armed = true
			w.timer.Reset(gather)
		}
		return b
	})
	if err == nil && full {
		// Here and not in the writer: waking it would send the scheduler looking
		// for another processor in the middle of a dialogue that the link has
		// with the target, which costs more than the write.
		w.writeOnce()
	}
	return err
}

func (w *wire) flush() {
	w.mu.Lock()
	w.armed = false
	w.mu.Unlock()
	w.poke()
}

// gather appends without waking the writer.
func (w *wire) gather(add func([]byte) []byte) error {
	w.mu.Lock()
	if w.err == nil && len(w.buf)+w.busy > killOut {
		w.mu.Unlock()
		w.fail(errors.New("kdrpc: the other side does not read"))
		w.mu.Lock()
	}
	if err := w.writableLocked(); err != nil || w.closed {
		w.mu.Unlock()
		if err == nil {
			err = net.ErrClosed
		}
		return err
	}
	w.buf = add(w.buf)
	w.mu.Unlock()
	return nil
}

func (w *wire) send(id uint32, k Kind, body []byte) error {
	return w.append(func(b []byte) []byte { return appendFrames(b, id, k, body) })
}

// waitRoom waits until little enough is queued, so that what a slow peer does
// not read stays where it came from.
func (w *wire) waitRoom(ctx context.Context) error {
	for {
		w.mu.Lock()
		if err := w.writableLocked(); err != nil {
			w.mu.Unlock()
			return err
		}
		if len(w.buf)+w.busy <= maxOut {
			w.mu.Unlock()
			return nil
		}
		room := w.room
		w.mu.Unlock()
		select {
		case <-room:
		case <-w.dead:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *wire) pong() {
	w.mu.Lock()
	again := w.pongs
	w.pongs = true
	w.mu.Unlock()
	if !again { // one is enough, however many pings came
		w.send(0, KindPong, nil)
	}
}

// ping asks for a sign of life, and measures the round trip with it.
func (w *wire) ping() {
	w.mu.Lock()
	w.asked = time.Now()
	if w.pinged.IsZero() {
		w.pinged = w.asked
	}
	w.mu.Unlock()
	w.send(0, KindPing, nil)
}

func (w *wire) sinceAsked() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Since(w.asked)
}

// ponged takes the answer. With several pings under way it is that to the
// oldest.
func (w *wire) ponged() {
	w.mu.Lock()
	at := w.pinged
	w.pinged = time.Time{}
	w.mu.Unlock()
	if !at.IsZero() {
		w.meter.trip(time.Since(at))
	}
}

// A buffer holds a fragment and the parts that made it full. One that grew
// beyond, for a big answer, is given back at once, the others when the
// connection is idle.
const keepBuffer = fragment + 32<<10

// writeOnce writes what is queued, unless somebody else is at it. It says
// whether it wrote.
func (w *wire) writeOnce() bool {
	w.mu.Lock()
	b := w.buf
	if w.writing || len(b) == 0 || w.writableLocked() != nil {
		w.mu.Unlock()
		return false
	}
	w.writing = true
	if w.armed {
		w.armed = false
		w.timer.Stop()
	}
	w.buf, w.spare = w.spare[:0], nil
	w.busy, w.pongs, w.tail.ok = len(b), false, false
	w.mu.Unlock()
	n, err := w.conn.Write(b)
	w.meter.out.Add(uint64(n))
	w.mu.Lock()
	w.writing, w.busy = false, 0
	if cap(b) <= keepBuffer {
		w.spare = b[:0]
	}
	close(w.room)
	w.room = make(chan struct{})
	again := len(w.buf) > 0 && !w.armed || w.closed
	w.mu.Unlock()
	if err != nil {
		w.stopWriting(err)
		return false
	}
	if again {
		w.poke()
	}
	return true
}

func (w *wire) writeLoop() {
	defer w.wg.Done()
	for {
		for w.writeOnce() {
		}
		w.mu.Lock()
		// Who writes now pokes when he is through, if there is more.
		idle := len(w.buf) == 0 || w.writing || w.writableLocked() != nil
		over := w.closed && len(w.buf) == 0 && !w.writing
		if idle {
			w.loop = false
		}
		w.mu.Unlock()
		if over {
			w.once.Do(func() { close(w.dead) })
		}
		if idle {
			return
		}
	}
}

// errSilent is the reason when the other side was not heard.
var errSilent = errors.New("kdrpc: the other side is silent")

// tick looks after an idle connection. It is a timer and not a goroutine,
// because a server has thousands of those connections; a wait for wg waits for
// it too.
func (w *wire) tick() {
	w.mu.Lock()
	if w.err != nil {
		w.mu.Unlock()
		return
	}
	w.wg.Add(1)
	w.mu.Unlock()
	defer w.wg.Done()

	now := time.Since(w.start)
	silent := now - time.Duration(w.heard.Load())
	begun := w.begun.Load()
	switch {
	case silent >= w.times.Dead:
		w.fail(fmt.Errorf("%w for %v", errSilent, w.times.Dead))
		return
	case begun != 0 && now-time.Duration(begun) > w.times.Frame:
		w.fail(protocolErrorf("a frame was not whole within %v", w.times.Frame))
		return
	case silent >= w.times.Ping || w.probe && w.sinceAsked() >= measureEvery:
		w.ping()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.buf) == 0 && silent >= w.times.Ping/2 {
		w.buf, w.spare = nil, nil
	}
	if w.err == nil {
		w.alive.Reset(w.times.Ping)
	}
}
