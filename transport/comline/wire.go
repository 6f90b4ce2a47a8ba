package comline

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
)

// Times of a session.
const (
	helloEvery  = 250 * time.Millisecond // while nobody has answered
	greetings   = 3                      // hellos that tell of a new session unasked
	quietBefore = 3 * time.Second        // before a hello asks whether the other end is still there
	askEvery    = time.Second
	deadAfter   = 10 * time.Second // without a sign of the other end
	nobodyAfter = 5 * time.Second  // a dial has heard nothing
	answerBound = 15 * time.Second // a dial has heard something, but no answer
	drainBound  = 3 * time.Second  // without progress, while the line is left
)

// Sizes that depend on the speed.
const (
	minPayload = 64
	// backlog is how much of the line's time may wait in the system's buffer.
	// More would make a small message wait; less would leave the line idle while
	// this program sleeps a bit long.
	backlog = 10 * time.Millisecond
)

// speed is what follows from the baud rate.
type speed struct {
	perByte    time.Duration // ten bits, 8N1
	payload    int           // of a data frame: 20 ms of the line
	window     int           // of a stream: a quarter of a second
	sendBuffer int
	slack      time.Duration // what a frame in front of an acknowledgement takes
}

func speedOf(baud int) speed {
	perByte := 10 * time.Second / time.Duration(baud)
	bytes := func(d time.Duration, low, high int) int {
		return max(low, min(high, int(d/max(1, perByte))))
	}
	s := speed{
		perByte:    perByte,
		payload:    bytes(20*time.Millisecond, minPayload, maxPayload),
		window:     bytes(time.Second/4, 4<<10, 32<<10),
		sendBuffer: bytes(time.Second/4, 2<<10, 32<<10),
	}
	s.slack = 10*time.Millisecond + 2*time.Duration(s.payload+frameCost)*perByte
	return s
}

// Stats counts what a line has done since this machine opened it.
type Stats struct {
	BytesIn, BytesOut   uint64
	FramesIn, FramesOut uint64
	Resends             uint64        // data frames that went again
	Duplicates          uint64        // data frames that came again
	BadChecksums        uint64        // pieces that had a wrong checksum, or were too spoilt to have one
	Rubbish             uint64        // bytes of those, and of what came while nobody was there
	Echoes              uint64        // frames of this end that came back
	Sessions            uint64        // times that the other end was found
	Streams             uint64        // open now
	RTT                 time.Duration // of a frame and its acknowledgement, smoothed; 0: not known
}

var (
	errWireClosed = errors.New("the line was closed")
	errPeerLeft   = errors.New("the other end has left the line")
	errPeerNew    = errors.New("the other end of the line has started again")
	errPeerSilent = fmt.Errorf("nothing came from the other end of the line for %v: its program hangs or the cable is out", deadAfter)
)

// deviceError is why the device can be used no more.
type deviceError struct{ err error }

func (e deviceError) Error() string { return "the serial device failed: " + e.err.Error() }
func (e deviceError) Unwrap() error { return e.err }

// wire speaks to the other end over an open device: it finds it, keeps a session
// with it, and notices when it is another one.
//
// A session is named by a number of either end. An end that has lost a session,
// for whatever reason, takes a new number, so that the other one cannot take
// frames of the old session for those of the new.
//
// Two goroutines, a reader and a writer, live until close.
type wire struct {
	dev  io.ReadWriteCloser
	name string // of the port, for errors
	baud int
	sp   speed
	log  *slog.Logger
	kick chan struct{}
	take func(*stream) // a stream that the other end opened; see handler
	done chan struct{} // closed when the wire is over
	shut sync.Once
	wg   sync.WaitGroup

	mu      sync.Mutex
	err     error         // why the wire is over
	changed chan struct{} // closed and replaced when session, err or progress changes
	id      uint64
	sess    *session
	dials   int // that wait
	stats   Stats
	other   byte      // a version that the other end speaks and this one does not
	heard   time.Time // when the last frame came

	greet    int       // hellos still to send unasked
	answer   bool      // a hello is owed
	bye      int       // byes to send
	nextAsk  time.Time // not before
	free     time.Time // when the line will have sent what the system holds
	payload  [maxFrame]byte
	sealed   [maxFrame + helloSize]byte
	deframer deframer
}

// session is what one number of the other end and one of ours have said.
type session struct {
	peer     uint64
	known    bool // the other end knows our number
	to, from *tag
	snd      *sender
	rcv      receiver
	mux      *mux
	since    time.Time // nothing was expected of the other end before
	idle     bool      // no streams
}

// newWire starts to speak on a device, which it owns from now on.
func newWire(dev io.ReadWriteCloser, name string, baud int, log *slog.Logger, take func(*stream)) *wire {
	w := &wire{
		dev: dev, name: name, baud: baud, sp: speedOf(baud), log: log, take: take,
		kick: make(chan struct{}, 1), done: make(chan struct{}), changed: make(chan struct{}),
		id: newID(), greet: greetings,
	}
	w.wg.Go(w.reader)
	w.wg.Go(w.writer)
	return w
}

func newID() uint64 {
	var b [8]byte
	for {
		rand.Read(b[:])
		if id := binary.LittleEndian.Uint64(b[:]); id != 0 {
			return id
		}
	}
}

func (w *wire) wake() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

func (w *wire) changedLocked() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// over ends the wire; the goroutines follow.
func (w *wire) over(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = err
		if w.sess != nil {
			w.sess.mux.fail(err)
		}
		w.changedLocked()
		close(w.done)
	}
	w.mu.Unlock()
	w.shut.Do(func() { w.dev.Close() })
}

// close leaves the line: it delivers what closed streams of this process have
// to say, as long as that gets on, tells the other end, and closes the device.
func (w *wire) close() {
	w.drain()
	w.mu.Lock()
	if w.sess != nil && w.err == nil {
		w.bye = 2
		w.wake()
		for w.bye > 0 && w.err == nil {
			// The device takes them at once, or hangs.
			if !w.awaitLocked(time.Second) {
				break
			}
		}
	}
	w.mu.Unlock()
	w.over(errWireClosed)
	w.wg.Wait()
}

// awaitLocked waits for a change; false says that none came in time.
func (w *wire) awaitLocked(d time.Duration) bool {
	changed := w.changed
	w.mu.Unlock()
	defer w.mu.Lock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-changed:
		return true
	case <-t.C:
		return false
	}
}

func (w *wire) drain() {
	w.mu.Lock()
	defer w.mu.Unlock()
	var of *session
	var mark uint16
	for w.err == nil && w.sess != nil && w.sess.known {
		s := w.sess
		if of != s && !s.mux.unsent() {
			of, mark = s, s.snd.next
		}
		if of == s && s.snd.base-mark < 1<<15 {
			return
		}
		if !w.awaitLocked(drainBound) {
			w.log.Warn("the line is left although the other end has not taken everything", "port", w.name)
			return
		}
	}
}

// Stats returns the counters.
func (w *wire) Stats() Stats {
	w.mu.Lock()
	defer w.mu.Unlock()
	st := w.stats
	if s := w.sess; s != nil {
		st.RTT = s.snd.srtt
		st.Streams = uint64(s.mux.count())
	}
	return st
}

// opened implements handler.
func (w *wire) opened(s *stream) { w.take(s) }

// control implements handler: the other end of a line has nothing to say there.
func (w *wire) control(message) error { return errProtocol }

func (w *wire) reader() {
	buf := make([]byte, 8<<10)
	for {
		n, err := w.dev.Read(buf)
		for in := buf[:n]; len(in) > 0; {
			rest, frame, rubbish := w.deframer.next(in)
			in = rest
			if rubbish > 0 {
				w.input(frame, rubbish)
			}
		}
		w.mu.Lock()
		w.stats.BytesIn += uint64(n)
		over := w.err != nil
		w.mu.Unlock()
		if err != nil || over {
			if err == nil {
				err = io.EOF
			}
			w.over(deviceError{err})
			return
		}
	}
}

// input takes what stood between two zeros, of n bytes: a sealed frame or nil.
func (w *wire) input(sealed []byte, n int) {
	var deliver [][]byte
	w.mu.Lock()
	now := time.Now()
	good := w.frameLocked(sealed, now, func(b []byte) { deliver = append(deliver, b) })
	if good {
		w.stats.FramesIn++
		w.heard = now
	} else {
		w.stats.Rubbish += uint64(n)
		if w.sess != nil && w.sess.known {
			w.stats.BadChecksums++
		}
	}
	s := w.sess
	w.mu.Unlock()
	for _, b := range deliver {
		if err := s.mux.receive(b); err != nil {
			w.mu.Lock()
			if w.sess == s {
				w.dropLocked(err)
			}
			w.mu.Unlock()
			return
		}
	}
}

func (w *wire) frameLocked(sealed []byte, now time.Time, deliver func([]byte)) bool {
	if len(sealed) <= crcSize {
		return false
	}
	switch kind := sealed[0] & 15; kind {
	case frameHello, frameBye:
		b, ok := unseal(sealed, nil)
		if !ok {
			return false
		}
		h, err := parseHello(b)
		if err != nil {
			return false
		}
		if h.version != Version {
			if w.other != h.version {
				w.other = h.version
				w.log.Warn("the other end of the line speaks another version", "port", w.name, "theirs", h.version, "ours", Version)
			}
			w.answer = kind == frameHello && !now.Before(w.nextAsk)
			w.wake()
			return true
		}
		if h.sender == w.id {
			w.stats.Echoes++
			return false
		}
		if kind == frameBye {
			if s := w.sess; s != nil && s.peer == h.sender && h.receiver == w.id {
				w.dropLocked(errPeerLeft)
			}
			return true
		}
		w.helloLocked(h, now)
		return true
	case frameAck, frameData:
		s := w.sess
		if s == nil {
			return false
		}
		b, ok := unseal(sealed, s.from)
		if !ok {
			return false
		}
		p, err := parsePacket(b)
		if err != nil {
			return false
		}
		w.knownLocked(s)
		if s.snd.acked(p, now) {
			w.changedLocked() // drain may wait for it
		}
		if kind == frameData {
			s.rcv.arrived(p, deliver)
			w.stats.Duplicates += s.rcv.dups
			s.rcv.dups = 0
		}
		w.wake()
		return true
	}
	return false
}

func (w *wire) helloLocked(h hello, now time.Time) {
	if s := w.sess; s == nil || s.peer != h.sender {
		if s != nil && s.known {
			w.dropLocked(errPeerNew)
		}
		w.sess = w.newSessionLocked(h, now)
	}
	if h.receiver == w.id {
		w.knownLocked(w.sess)
	}
	if h.flags&helloAnswer != 0 {
		w.answer = true
	}
	w.wake()
}

func (w *wire) newSessionLocked(h hello, now time.Time) *session {
	s := &session{
		peer: h.sender,
		to:   newTag(w.id, h.sender), from: newTag(h.sender, w.id),
		snd:   newSender(w.sp.slack),
		since: now,
	}
	s.mux = newMux(w, w.wake, int(min(h.window, 1<<20)), w.sp.window, w.sp.sendBuffer)
	return s
}

// knownLocked: the other end has shown that it knows our number.
func (w *wire) knownLocked(s *session) {
	if s.known {
		return
	}
	s.known = true
	w.stats.Sessions++
	w.other, w.greet = 0, 0
	w.log.Info("the other end of the line is there", "port", w.name)
	w.changedLocked()
}

// dropLocked ends the session. Streams fail; dials wait for the next one.
func (w *wire) dropLocked(err error) {
	s := w.sess
	w.sess = nil
	s.mux.fail(err)
	if s.known {
		w.id = newID()
		w.greet = greetings
		level := slog.LevelWarn
		if err == errPeerLeft {
			level = slog.LevelInfo
		}
		w.log.Log(context.Background(), level, "the session with the other end of the line is over", "port", w.name, "reason", err)
	}
	w.changedLocked()
	w.wake()
}

func (w *wire) writer() {
	var batch []byte
	var left []uint16
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		w.mu.Lock()
		if w.err != nil {
			w.mu.Unlock()
			return
		}
		now := time.Now()
		var next time.Time
		var s *session
		batch, left, next = w.composeLocked(batch[:0], left[:0], now)
		s = w.sess
		w.stats.BytesOut += uint64(len(batch))
		w.mu.Unlock()

		if len(batch) > 0 {
			if _, err := w.dev.Write(batch); err != nil {
				w.over(deviceError{err})
				return
			}
			w.mu.Lock()
			now = time.Now()
			for _, tx := range left {
				s.snd.left(tx, now)
			}
			w.mu.Unlock()
			continue
		}
		if next.IsZero() {
			select {
			case <-w.kick:
			case <-w.done:
			}
			continue
		}
		timer.Reset(time.Until(next))
		select {
		case <-w.kick:
		case <-w.done:
		case <-timer.C:
		}
	}
}

// composeLocked appends the frames that are to go now, and the transmissions
// in them. Without any it says when to look again; zero: when woken.
func (w *wire) composeLocked(batch []byte, left []uint16, now time.Time) ([]byte, []uint16, time.Time) {
	next := w.timersLocked(now)
	if w.free.Before(now) {
		w.free = now
	}
	for {
		// The line has enough for a while.
		if d := w.free.Sub(now); d > backlog {
			return batch, left, earlier(next, w.free.Add(-backlog))
		}
		before := len(batch)
		tx, isData := uint16(0), false
		if batch, tx, isData = w.frameOutLocked(batch, now); len(batch) == before {
			return batch, left, next
		}
		if isData {
			left = append(left, tx)
		}
		w.stats.FramesOut++
		w.free = w.free.Add(time.Duration(len(batch)-before) * w.sp.perByte)
	}
}

func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// timersLocked does what is due and says when the next thing is.
func (w *wire) timersLocked(now time.Time) (next time.Time) {
	s := w.sess
	if s == nil || !s.known {
		// Silence, but for those who want to talk and for those who have just
		// come: an idle server leaves a modem or a getty alone.
		if w.dials > 0 || w.greet > 0 || s != nil && now.Sub(s.since) < nobodyAfter {
			if now.Before(w.nextAsk) {
				return w.nextAsk
			}
			w.answer = true
		}
		return time.Time{}
	}
	if s.mux.count() == 0 {
		s.idle = true
	} else if s.idle {
		s.idle, s.since = false, now
	}
	if at := s.snd.alarm(); !at.IsZero() {
		if !at.After(now) {
			s.snd.expire()
		} else {
			next = at
		}
	}
	if !s.idle {
		quiet := w.heard
		if s.since.After(quiet) {
			quiet = s.since
		}
		if dead := quiet.Add(deadAfter); !dead.After(now) {
			w.dropLocked(errPeerSilent)
			return now
		}
		ask := quiet.Add(quietBefore)
		if s.snd.backoff >= 2 {
			ask = now
		}
		if ask.Before(w.nextAsk) {
			ask = w.nextAsk
		}
		if !ask.After(now) {
			w.answer = true
			ask = now.Add(askEvery)
		}
		next = earlier(next, ask)
	}
	return next
}

// frameOutLocked appends the next frame, if there is any.
func (w *wire) frameOutLocked(batch []byte, now time.Time) (_ []byte, tx uint16, isData bool) {
	s := w.sess
	if w.bye > 0 && s != nil {
		if w.bye--; w.bye == 0 {
			defer w.changedLocked()
		}
		return w.helloOutLocked(batch, frameBye, 0), 0, false
	}
	if w.answer {
		w.answer = false
		var flags byte
		every := askEvery
		if s == nil || !s.known {
			flags, every = helloAnswer, helloEvery
			w.greet = max(0, w.greet-1)
		} else if quiet := now.Sub(w.heard); quiet > quietBefore/2 || s.snd.backoff >= 2 {
			flags = helloAnswer
		}
		w.nextAsk = now.Add(every)
		return w.helloOutLocked(batch, frameHello, flags), 0, false
	}
	if s == nil || !s.known {
		return batch, 0, false
	}
	p := packet{kind: frameData}
	var ok bool
	if p.seq, p.tx, p.data, ok = s.snd.again(now); ok {
		w.stats.Resends++
	} else if s.snd.room() {
		if p.data = s.mux.fill(w.payload[:0], s.snd.payload(w.sp.payload)); len(p.data) > 0 {
			p.seq, p.tx = s.snd.add(p.data, now)
			ok = true
		}
	}
	if !ok {
		if !s.rcv.due {
			return batch, 0, false
		}
		p.kind = frameAck
	}
	var space [maxBitmap]byte
	s.rcv.fill(&p, &space)
	return stuff(batch, seal(appendPacket(w.sealed[:0], p), s.to)), p.tx, ok
}

func (w *wire) helloOutLocked(batch []byte, kind, flags byte) []byte {
	h := hello{version: Version, flags: flags, sender: w.id, window: uint32(w.sp.window)}
	if w.sess != nil {
		h.receiver = w.sess.peer
	}
	return stuff(batch, seal(appendHello(w.sealed[:0], kind, h), nil))
}

// dial opens a stream to a channel of the other end.
func (w *wire) dial(ctx context.Context, channel int) (*stream, error) {
	start := time.Now()
	ctx, cancel := context.WithDeadline(ctx, start.Add(answerBound))
	defer cancel()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dials++
	defer func() { w.dials-- }()
	w.wake()
	before := w.stats
	var st *stream
	for {
		if w.err != nil {
			return nil, w.err
		}
		if st == nil && w.sess != nil && w.sess.known {
			var err error
			if st, err = w.sess.mux.open(channel); err != nil {
				return nil, err
			}
		}
		silent := !w.heard.After(start)
		wait := time.Until(start.Add(nobodyAfter))
		if silent && wait <= 0 || ctx.Err() != nil {
			if st != nil {
				st.reset(refusal{code: codeGone})
			}
			return nil, w.nobodyLocked(ctx, start, silent, before)
		}
		if !silent {
			wait = answerBound
		}
		if st == nil {
			changed := w.changed
			w.mu.Unlock()
			t := time.NewTimer(wait)
			select {
			case <-changed:
			case <-t.C:
			case <-ctx.Done():
			}
			t.Stop()
			w.mu.Lock()
			continue
		}
		w.mu.Unlock()
		wctx, stop := context.WithTimeout(ctx, wait)
		err := st.awaitOpened(wctx)
		stop()
		w.mu.Lock()
		switch {
		case err == nil:
			return st, nil
		case wctx.Err() != nil && st.alive():
			continue
		case errors.As(err, new(refusal)):
			return nil, err
		}
		st = nil // the session went; the next one is asked
	}
}

// nobodyLocked says what a dial without an answer has seen.
func (w *wire) nobodyLocked(ctx context.Context, start time.Time, silent bool, before Stats) error {
	end := fmt.Sprintf("the other end of %s (%d baud)", w.name, w.baud)
	after := time.Since(start).Round(100 * time.Millisecond)
	cause := errors.New("no answer")
	if err := context.Cause(ctx); err != nil {
		cause = err
	}
	rubbish, echoes := w.stats.Rubbish-before.Rubbish, w.stats.Echoes-before.Echoes
	switch {
	case w.other != 0:
		return fmt.Errorf("%s speaks version %d of the line's protocol, this program version %d: use the same release on both machines: %w", end, w.other, Version, cause)
	case !silent:
		return fmt.Errorf("%s is there but has not answered within %v: %w", end, after, cause)
	case echoes > 0:
		return fmt.Errorf("nobody answers at %s within %v, the line sends back what is sent: a loopback plug, or a modem or login prompt that echoes: %w", end, after, cause)
	case rubbish > 0:
		return fmt.Errorf("nobody answers at %s within %v, but %d bytes came that mean nothing: is baud= the same there, or is another program on that port (a modem, a login prompt)? %w", end, after, rubbish, cause)
	}
	return fmt.Errorf("nobody answers at %s within %v, nothing at all was received: does kdsrv run there on that port, and is the cable a null-modem cable? %w", end, after, cause)
}
