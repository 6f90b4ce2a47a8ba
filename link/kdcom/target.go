package kdcom

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"openkd/kdproto"
	"openkd/link"
)

// Defaults of TargetOptions.
const (
	DefaultTargetTimeout = 250 * time.Millisecond
	DefaultTargetRetries = 20
	DefaultTargetBuffer  = 64 << 10
)

// Result is link.Result.
type Result = link.Result

// Results of Target.Receive.
const (
	Received = link.Received
	Timeout  = link.Timeout
	Resend   = link.Resend
)

// ErrNotPresent is link.ErrNotPresent. The numbering has started anew, the next
// packet carries SYNC.
var ErrNotPresent = link.ErrNotPresent

// TargetOptions tune a Target.
type TargetOptions struct {
	ByteTimeout time.Duration // silence inside a packet; 0: 250 ms
	AckTimeout  time.Duration // silence while waiting for an ACK; 0: ByteTimeout, and more with Speed
	Speed       int           // baud of a paced line whose Write returns early; 0: not paced
	Retries     int           // silent waits before a droppable packet is given up; 0: 20
	Buffer      int           // bytes taken from the stream and not yet read; 0: 64 KiB

	// ReactOS selects that kernel's way with a host packet that arrives while
	// an ACK is waited for: it always counts as the ACK and has to be sent
	// again. Otherwise, as Microsoft's does, only one with the expected id
	// does, and any other is a stale duplicate that is acknowledged.
	ReactOS bool

	// Tamper sees every packet (acknowledgements too) before it is written and
	// returns the bytes to write in its place; nothing loses the packet. It is
	// called by the goroutine that calls the target.
	Tamper func(packet []byte) []byte
}

// Target implements link.Target over a byte stream.
//
// Concurrency: Send, Receive, PollBreakIn, Restart and WriteRaw are called by
// one goroutine at a time, the simulated processor. Attach, Present, BreakInSeen,
// Err and Close may be called by any goroutine at any time.
type Target struct {
	opt TargetOptions

	current  uint32 // id of the next packet sent
	expected uint32 // id of the next packet of the host
	payload  [maxFrame]byte

	mu      sync.Mutex
	line    *line
	present bool
	breakIn bool
	closed  bool
}

var _ link.Target = (*Target)(nil)

// line is one stream with its reader goroutine.
type line struct {
	stream io.ReadWriteCloser
	limit  int
	done   chan struct{} // closed when the reader has ended
	data   chan struct{} // capacity 1: bytes, an end or a replacement
	room   chan struct{} // capacity 1: bytes were taken

	mu   sync.Mutex
	buf  []byte
	pos  int
	err  error // the stream's end
	gone bool  // replaced or closed
}

// NewTarget makes a target with the ids of a machine that has just started. A
// nil stream is a line with nobody at the other end: writes vanish, nothing
// arrives.
func NewTarget(stream io.ReadWriteCloser, opt TargetOptions) *Target {
	if opt.ByteTimeout <= 0 {
		opt.ByteTimeout = DefaultTargetTimeout
	}
	if opt.AckTimeout <= 0 {
		opt.AckTimeout = opt.ByteTimeout + wireTime(maxFrame+kdproto.HeaderSize, opt.Speed)
	}
	if opt.Retries <= 0 {
		opt.Retries = DefaultTargetRetries
	}
	if opt.Buffer <= 0 {
		opt.Buffer = DefaultTargetBuffer
	}
	t := &Target{opt: opt}
	t.Restart()
	t.line = newLine(stream, opt.Buffer)
	return t
}

func newLine(stream io.ReadWriteCloser, limit int) *line {
	l := &line{
		stream: stream, limit: limit,
		done: make(chan struct{}), data: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}
	if stream == nil {
		close(l.done)
		return l
	}
	go l.read()
	return l
}

func (l *line) read() {
	defer close(l.done)
	buf := make([]byte, 4096)
	for {
		n, err := l.stream.Read(buf)
		l.mu.Lock()
		l.buf = append(l.buf, buf[:n]...)
		if err != nil {
			l.err = err
		}
		full := len(l.buf)-l.pos >= l.limit
		end := l.err != nil || l.gone
		l.mu.Unlock()
		wake(l.data)
		if end {
			return
		}
		for full {
			<-l.room
			l.mu.Lock()
			full = len(l.buf)-l.pos >= l.limit && !l.gone
			l.mu.Unlock()
		}
		if n == 0 {
			time.Sleep(time.Millisecond) // a port with time-outs of its own
		}
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// take copies bytes out, as many as there are. err is the stream's end once
// everything before it has been taken.
func (l *line) take(p []byte) (n int, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gone {
		return 0, errReplaced
	}
	n = copy(p, l.buf[l.pos:])
	if len(p) == 0 && l.pos < len(l.buf) {
		return 0, nil
	}
	l.pos += n
	if l.pos == len(l.buf) {
		l.buf, l.pos = l.buf[:0], 0
	}
	if n > 0 {
		wake(l.room)
		return n, nil
	}
	return 0, l.err
}

// dropResets drops whole RESET packets at the front of the buffer.
func (l *line) dropResets() {
	reset := kdproto.AppendControl(nil, kdproto.TypeReset, 0)[:8]
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.buf)-l.pos >= kdproto.HeaderSize && string(l.buf[l.pos:l.pos+len(reset)]) == string(reset) {
		l.pos += kdproto.HeaderSize
		wake(l.room)
	}
}

// end closes the stream and waits for the reader.
func (l *line) end() error {
	l.mu.Lock()
	l.gone = true
	l.mu.Unlock()
	wake(l.data)
	wake(l.room)
	if l.stream == nil {
		return nil
	}
	err := l.stream.Close()
	timer := time.NewTimer(closePatience)
	defer timer.Stop()
	select {
	case <-l.done:
	case <-timer.C:
	}
	return err
}

var errReplaced = errors.New("kdcom: the stream was replaced")

// Attach gives the target another stream and closes the one before. The ids,
// and what the target believes about the debugger, stay: the machine does not
// notice that its serial line has a new client. A call that waits goes on with
// the new stream. nil leaves the line with nobody at its other end.
func (t *Target) Attach(stream io.ReadWriteCloser) {
	t.mu.Lock()
	old := t.line
	if t.closed {
		t.mu.Unlock()
		if stream != nil {
			stream.Close()
		}
		return
	}
	t.line = newLine(stream, t.opt.Buffer)
	t.mu.Unlock()
	old.end()
}

// Close closes the stream. Calls that wait return io.ErrClosedPipe.
func (t *Target) Close() error {
	t.mu.Lock()
	l, was := t.line, t.closed
	t.closed = true
	t.mu.Unlock()
	if was {
		return nil
	}
	return l.end()
}

// Restart sets the ids of a machine that has just started, so that the next
// packet carries SYNC.
func (t *Target) Restart() {
	t.current, t.expected = kdproto.FirstID, kdproto.InitialID
	t.mu.Lock()
	t.present, t.breakIn = true, false
	t.mu.Unlock()
}

// Present reports whether the target believes in a debugger: it does at first,
// stops when a droppable packet is given up, and does again when a packet's
// leader arrives. A kernel sends no prints, symbol reports and command strings
// while there is none; that is left to the caller.
func (t *Target) Present() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.present
}

// BreakInSeen reports and forgets a break-in byte that Send or Receive found.
// A stopped kernel remembers it and stops once more later.
func (t *Target) BreakInSeen() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.breakIn
	t.breakIn = false
	return b
}

// Err is how the stream ended, once everything before its end was read: io.EOF
// when the debugger hung up. It is nil while the stream is open, and with none.
// Send and Receive return it; a running target, which only polls, asks here.
func (t *Target) Err() error {
	_, err := t.nowLine().take(nil)
	if err == errReplaced {
		return nil
	}
	return err
}

func (t *Target) nowLine() *line {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.line
}

// PollBreakIn is what the clock interrupt of a running kernel does: it takes at
// most one byte, without waiting, and throws away anything but a break-in. A
// break-in remembered from before counts too.
func (t *Target) PollBreakIn() bool {
	if t.BreakInSeen() {
		return true
	}
	var b [1]byte
	n, _ := t.nowLine().take(b[:])
	return n == 1 && b[0] == kdproto.BreakInByte
}

// errSilence is the inner form of Timeout.
var errSilence = errors.New("kdcom: silence")

// readFull fills p. A wait of more than timeout for a byte is errSilence.
func (t *Target) readFull(ctx context.Context, p []byte, timeout time.Duration) error {
	var timer *time.Timer
	for len(p) > 0 {
		l := t.nowLine()
		n, err := l.take(p)
		if n > 0 {
			p = p[n:]
			if timer != nil {
				timer.Reset(timeout)
			}
			continue
		}
		if err == errReplaced {
			t.mu.Lock()
			closed := t.closed
			t.mu.Unlock()
			if closed {
				return io.ErrClosedPipe
			}
			if l == t.nowLine() {
				return err
			}
			continue
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if timer == nil {
			timer = time.NewTimer(timeout)
			defer timer.Stop()
		}
		select {
		case <-l.data:
		case <-timer.C:
			return errSilence
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// WriteRaw writes bytes as they are: noise, odd packets.
func (t *Target) WriteRaw(b []byte) error {
	l := t.nowLine()
	if l.stream == nil {
		return nil
	}
	err := writeAll(l.stream, b)
	if err != nil && l != t.nowLine() {
		return nil // the old client is gone; the packet is repeated to the new one
	}
	return err
}

func (t *Target) write(packet []byte) error {
	if t.opt.Tamper != nil {
		if packet = t.opt.Tamper(packet); len(packet) == 0 {
			return nil
		}
	}
	return t.WriteRaw(packet)
}

func (t *Target) control(p kdproto.PacketType, id uint32) error {
	return t.write(kdproto.AppendControl(make([]byte, 0, kdproto.HeaderSize), p, id))
}

// Send sends a data packet until it is acknowledged. A droppable one is given
// up with ErrNotPresent after the retries; any other is repeated until the
// context or the stream ends. While it waits, a host's data packet may count as
// the acknowledgement, see TargetOptions.ReactOS.
func (t *Target) Send(ctx context.Context, typ kdproto.PacketType, payload []byte, droppable bool) error {
	if len(payload) > kdproto.MaxPayload {
		return fmt.Errorf("kdcom: payload of %d bytes does not fit into a packet of %d", len(payload), kdproto.MaxPayload)
	}
	retries := t.opt.Retries
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		// The id is read anew each time: a RESET meanwhile has changed it.
		if err := t.write(kdproto.AppendData(nil, typ, t.current, payload)); err != nil {
			return err
		}
		_, r, err := t.receive(ctx, kdproto.TypeAcknowledge, t.opt.AckTimeout)
		if err != nil {
			return err
		}
		switch r {
		case Received:
			t.current &^= kdproto.SyncBit
			return nil
		case Timeout:
			if retries > 0 {
				retries--
			}
			if retries == 0 && droppable {
				t.mu.Lock()
				t.present = false
				t.mu.Unlock()
				t.current, t.expected = kdproto.FirstID, kdproto.InitialID
				return ErrNotPresent
			}
		}
	}
}

// Receive waits for a packet of a wanted type, at most timeout for each byte of
// silence before it (0: the byte timeout). Others are acknowledged and dropped.
// Resend says that the host wants the last packet again: it sent RESEND or
// RESET, or a lone break-in byte and then nothing. The payload is the caller's.
func (t *Target) Receive(ctx context.Context, want kdproto.PacketType, timeout time.Duration) ([]byte, Result, error) {
	if timeout <= 0 {
		timeout = t.opt.ByteTimeout
	}
	p, r, err := t.receive(ctx, want, timeout)
	if p != nil {
		p = append([]byte(nil), p...)
	}
	return p, r, err
}

func (t *Target) receive(ctx context.Context, want kdproto.PacketType, timeout time.Duration) ([]byte, Result, error) {
	for {
		lead, r, err := t.leader(ctx, timeout)
		if err != nil || r != Received {
			return nil, r, err
		}
		var head [kdproto.HeaderSize]byte
		for i := range 4 {
			head[i] = lead
		}
		silent := func(err error) ([]byte, Result, error) {
			if err == errSilence {
				return nil, Timeout, nil
			}
			return nil, Timeout, err
		}
		if err := t.readFull(ctx, head[4:6], t.opt.ByteTimeout); err != nil {
			return silent(err)
		}
		typ := kdproto.PacketType(head[4]) | kdproto.PacketType(head[5])<<8
		if lead == controlByte && typ == kdproto.TypeResend {
			// The rest of its header is eaten by the next search for a leader.
			return nil, Resend, nil
		}
		if err := t.readFull(ctx, head[6:], t.opt.ByteTimeout); err != nil {
			return silent(err)
		}
		h, _ := kdproto.DecodeHeader(head[:])

		if lead == controlByte {
			switch typ {
			case kdproto.TypeAcknowledge:
				if want == kdproto.TypeAcknowledge && h.ID == t.current&^kdproto.SyncBit {
					t.current ^= 1
					return nil, Received, nil
				}
			case kdproto.TypeReset:
				t.current, t.expected = kdproto.InitialID, kdproto.InitialID
				// RESETs that piled up meanwhile are one RESET.
				t.nowLine().dropResets()
				if err := t.control(kdproto.TypeReset, 0); err != nil {
					return nil, Timeout, err
				}
				return nil, Resend, nil
			}
			continue
		}

		if want == kdproto.TypeAcknowledge && (t.opt.ReactOS || h.ID == t.expected) {
			// The host has gone on, so it must have seen our packet. Its own is
			// not read; the search for a leader skips it.
			if err := t.control(kdproto.TypeResend, 0); err != nil {
				return nil, Timeout, err
			}
			t.current ^= 1
			return nil, Received, nil
		}
		least := want.MessageHeaderSize()
		if want == kdproto.TypeAcknowledge {
			least = 0
		}
		good := int(h.ByteCount) >= least && h.ByteCount <= kdproto.MaxPayload
		if good {
			p := t.payload[:int(h.ByteCount)+1]
			err := t.readFull(ctx, p, t.opt.ByteTimeout)
			if err != nil && err != errSilence {
				return nil, Timeout, err
			}
			good = err == nil && p[len(p)-1] == kdproto.Trailer && kdproto.Checksum(p[:len(p)-1]) == h.Checksum
		}
		if !good {
			if err := t.control(kdproto.TypeResend, 0); err != nil {
				return nil, Timeout, err
			}
			continue
		}
		// A debugger that hangs up with the acknowledgement in its hands was
		// promised that the packet counts; a serial chip does not even notice.
		ackErr := t.control(kdproto.TypeAcknowledge, h.ID&^kdproto.SyncBit)
		if h.ID != t.expected || typ != want {
			if ackErr != nil {
				return nil, Timeout, ackErr
			}
			continue
		}
		t.expected ^= 1
		return t.payload[:h.ByteCount], Received, nil
	}
}

// leader searches for four equal leader bytes.
func (t *Target) leader(ctx context.Context, timeout time.Duration) (byte, Result, error) {
	var b [1]byte
	var last byte
	count, breakIn := 0, false
	for {
		err := t.readFull(ctx, b[:], timeout)
		if err == errSilence {
			if breakIn {
				t.mu.Lock()
				t.breakIn = true
				t.mu.Unlock()
				return 0, Resend, nil
			}
			return 0, Timeout, nil
		}
		if err != nil {
			return 0, Timeout, err
		}
		switch c := b[0]; c {
		case dataByte, controlByte:
			if c != last {
				count = 0
			}
			last = c
			count++
			if count == 4 {
				t.mu.Lock()
				t.present = true
				t.mu.Unlock()
				return c, Received, nil
			}
		case kdproto.BreakInByte:
			count, last, breakIn = 0, 0, true
		default:
			count, last, breakIn = 0, 0, false
		}
	}
}
