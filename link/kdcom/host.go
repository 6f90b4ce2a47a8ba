package kdcom

import (
	"context"
	"fmt"
	"hash/maphash"
	"io"
	"sync"
	"time"

	"openkd/kdproto"
	"openkd/link"
)

// Defaults of HostOptions.
const (
	DefaultAckTimeout = time.Second
	DefaultRetries    = 10
	DefaultResendWait = 60 * time.Millisecond
	DefaultByteGap    = 200 * time.Millisecond
	DefaultQueue      = 64
)

const (
	// resetWindow is how long after a RESET of ours another RESET counts as an
	// echo. Answering it would start a bounce that feeds itself.
	resetWindow = 250 * time.Millisecond
	// resetPatience is how long an unanswered RESET keeps the next one back.
	resetPatience = 2 * time.Second
	// resetMemory is how long an unanswered RESET may still be answered. A
	// booting machine finds RESETs in its pipe seconds later.
	resetMemory = 10 * time.Second
	// syncMemory is how long the same packet with SYNC is a repetition. Targets
	// repeat about every second; a reboot takes longer.
	syncMemory = 5 * time.Second
	// closePatience bounds Close against a stream whose Close does not end a
	// blocked Read or Write.
	closePatience = 2 * time.Second
	// maxOut bounds the packets that wait for a blocked stream.
	maxOut = 1024
)

// HostOptions tune a Host. The zero value suits sockets, pipes and fast lines.
type HostOptions struct {
	Speed      int           // baud of a paced line; 0: not paced
	AckTimeout time.Duration // wait for an ACK; 0: 1 s, and more on slow lines
	Retries    int           // transmissions of one packet before link.ErrNoAnswer; 0: 10
	ResendWait time.Duration // wait for an ACK after a first RESEND, four times as long after each further one, and the least distance of our own RESENDs; 0: 60 ms
	ByteGap    time.Duration // silence that ends a packet in the middle; 0: 200 ms and 20 byte times
	Queue      int           // packets received and not yet fetched; 0: 64

	// UnlimitedResets lifts the rule that at most one RESET waits for its
	// answer (resets=0: virtual machines whose pipes drop what is not read).
	UnlimitedResets bool
	// MaxResets bounds the RESETs sent until something arrives; 0: not bounded.
	MaxResets int

	// Trace sees every packet, break-in byte and run of garbage as it crosses
	// the stream. It is called from the host's goroutines, one call at a time,
	// must not call the host and must not keep the slice.
	Trace func(d Direction, b []byte)
}

func (o HostOptions) withDefaults() HostOptions {
	if o.AckTimeout <= 0 {
		o.AckTimeout = DefaultAckTimeout
	}
	if o.Retries <= 0 {
		o.Retries = DefaultRetries
	}
	if o.ResendWait <= 0 {
		o.ResendWait = DefaultResendWait
	}
	if o.ByteGap <= 0 {
		o.ByteGap = DefaultByteGap + wireTime(20, o.Speed)
	}
	if o.Queue <= 0 {
		o.Queue = DefaultQueue
	}
	return o
}

// wireTime is how long n bytes take at a speed in baud, 10 bits a byte.
func wireTime(n, baud int) time.Duration {
	if baud <= 0 {
		return 0
	}
	return time.Duration(n) * 10 * time.Second / time.Duration(baud)
}

// ackTimeout is the wait for the ACK of a packet of n bytes.
func (o *HostOptions) ackTimeout(n int) time.Duration {
	if o.Speed <= 0 {
		return o.AckTimeout
	}
	return max(o.AckTimeout, wireTime(n+kdproto.HeaderSize, o.Speed)+500*time.Millisecond)
}

// outgoing is a piece that waits for the writer.
type outgoing struct {
	bytes []byte
	send  *sending           // the data packet it belongs to, nil for others
	kind  kdproto.PacketType // of a control packet
}

// sending is a Send in progress.
type sending struct {
	id     uint32
	packet []byte
	done   chan error    // capacity 1: the end, nil for an ACK
	resend chan struct{} // capacity 1: a RESEND came
	queued bool          // waits for the writer
	sent   time.Time     // when the writer took it the last time
	times  int           // transmissions

	resends int // RESENDs answered; the sending goroutine's own
}

// Host implements link.Host over a byte stream. See link.Host for the
// concurrency contract.
//
// Three parties share mu: the reader (with the gap timer that ends half
// packets) owns receiving and queues the answers, the writer owns the stream's
// Write and puts out what is queued, and the callers. Nobody holds mu while the
// stream blocks.
type Host struct {
	stream io.ReadWriteCloser
	opt    HostOptions
	start  time.Time

	packets chan link.Packet
	kick    chan struct{} // capacity 1: the writer has work
	dead    chan struct{} // closed when err is set
	sendSem chan struct{} // capacity 1: one Send at a time
	wg      sync.WaitGroup

	mu     sync.Mutex
	err    error
	closed bool
	stats  link.Stats

	rx       receiver
	lastByte time.Duration // since start
	gap      *time.Timer
	gapArmed bool

	out    []outgoing
	wanted bool // a RESEND is owed, unless a good packet comes first

	sendID  uint32
	unacked bool // a packet with sendID is out; its ACK may still come
	pending *sending

	known     bool   // expect is valid
	expect    uint32 // next id of the target
	fresh     bool   // next packet starts the numbering anew
	breakNext bool   // a break-in is wanted: one more byte behind the next acknowledgement of a print
	repeat    bool   // next packet answers our RESET

	syncLive bool // the last packet accepted had SYNC and nothing was acknowledged since
	syncHash uint64
	syncAt   time.Time
	seed     maphash.Seed

	resetAt      time.Time // last RESET of ours
	resetWaiting bool      // its answer has not come
	resets       int       // sent since something arrived
	resendAt     time.Time // last RESEND of ours

	traced  []traceEntry
	traceMu sync.Mutex
}

type traceEntry struct {
	d     Direction
	noise bool
	b     []byte
}

var _ link.Host = (*Host)(nil)

// NewHost starts a link over stream. The host owns the stream from here on and
// closes it in Close. Nothing is sent until the caller asks for it.
func NewHost(stream io.ReadWriteCloser, opt HostOptions) *Host {
	opt = opt.withDefaults()
	h := &Host{
		stream:  stream,
		opt:     opt,
		start:   time.Now(),
		packets: make(chan link.Packet, opt.Queue),
		kick:    make(chan struct{}, 1),
		dead:    make(chan struct{}),
		sendSem: make(chan struct{}, 1),
		sendID:  kdproto.InitialID,
		seed:    maphash.MakeSeed(),
	}
	h.wg.Add(2)
	go h.read()
	go h.write()
	return h
}

// read is the reader goroutine.
func (h *Host) read() {
	defer h.wg.Done()
	buf := make([]byte, 4096) // the longest packet, and the acknowledgement before it
	for {
		n, err := h.stream.Read(buf)
		if n > 0 {
			h.arrived(buf[:n])
		}
		if err != nil {
			h.fail(err)
			return
		}
		if n == 0 {
			// Some ports return nothing after a time-out of their own.
			select {
			case <-h.dead:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}
}

// arrived takes bytes from the stream.
func (h *Host) arrived(b []byte) {
	h.mu.Lock()
	h.stats.BytesIn += uint64(len(b))
	h.stats.LastByte = time.Now()
	h.lastByte = time.Since(h.start)
	h.resets = 0
	h.rx.feed(b)
	h.scanLocked(false)
	h.armGapLocked()
	h.mu.Unlock()
	h.flushTrace()
}

// armGapLocked starts the gap timer when a packet is in hand. A timer that
// runs already looks at lastByte when it fires.
func (h *Host) armGapLocked() {
	if !h.rx.pending() || h.gapArmed || h.err != nil {
		return
	}
	h.gapArmed = true
	if h.gap == nil {
		h.gap = time.AfterFunc(h.opt.ByteGap, h.silence)
		return
	}
	h.gap.Reset(h.opt.ByteGap)
}

// silence runs when the gap timer fires.
func (h *Host) silence() {
	h.mu.Lock()
	h.gapArmed = false
	if h.rx.pending() && h.err == nil {
		if quiet := time.Since(h.start) - h.lastByte; quiet < h.opt.ByteGap {
			h.gapArmed = true
			h.gap.Reset(h.opt.ByteGap - quiet)
		} else {
			h.scanLocked(true)
		}
	}
	h.mu.Unlock()
	h.flushTrace()
}

// scanLocked takes all packets out of the receiver. final: the line is silent.
func (h *Host) scanLocked(final bool) {
	for {
		v, hd, n := h.rx.next(final)
		if v == needMore {
			break
		}
		b := h.rx.bytes(n)
		switch v {
		case garbage, notAPacket:
			h.noiseLocked(b)
		case cutShortCtrl:
			h.stats.Truncated++
			h.noiseLocked(b)
		case cutShort, badHeader:
			h.stats.Truncated++
			h.wanted = true
			h.noiseLocked(b)
		case badChecksum:
			h.stats.BadChecksums++
			h.wanted = true
			h.traceLocked(In, b, false)
		case goodControl:
			h.traceLocked(In, b, false)
			h.controlLocked(hd)
		case goodData:
			h.wanted = false
			h.traceLocked(In, b, false)
			h.dataLocked(hd, b[kdproto.HeaderSize:n-1])
		}
		h.rx.skip(n)
	}
	if h.wanted {
		h.wanted = false
		h.askAgainLocked()
	}
}

// askAgainLocked sends RESEND, not too often: every RESEND that finds the
// target's packet already on its way makes one more copy of it.
func (h *Host) askAgainLocked() {
	now := time.Now()
	if !h.resendAt.IsZero() && now.Sub(h.resendAt) < h.opt.ResendWait {
		return
	}
	h.resendAt = now
	h.stats.ResendsAsked++
	h.controlOutLocked(kdproto.TypeResend, 0)
}

func (h *Host) controlLocked(hd kdproto.Header) {
	switch hd.Type {
	case kdproto.TypeAcknowledge:
		if !h.unacked || hd.ID&^kdproto.SyncBit != h.sendID {
			return // late, or for a packet of an older numbering
		}
		h.unacked = false
		h.syncLive = false
		h.sendID ^= 1
		if p := h.pending; p != nil {
			h.pending = nil
			if p.times == 1 { // else nobody knows which copy it is for
				h.roundTripLocked(time.Since(p.sent))
			}
			p.done <- nil
		}
	case kdproto.TypeResend:
		if p := h.pending; p != nil {
			select {
			case p.resend <- struct{}{}:
			default:
			}
		}
	case kdproto.TypeReset:
		h.stats.Resets++
		h.resetLocked()
	}
}

func (h *Host) roundTripLocked(d time.Duration) {
	if h.stats.RoundTrip == 0 {
		h.stats.RoundTrip = d
		return
	}
	h.stats.RoundTrip += (d - h.stats.RoundTrip) / 8
}

// resetLocked handles a RESET packet. The target's numbers are initial now,
// whoever asked for it; the only question is whether to answer.
func (h *Host) resetLocked() {
	now := time.Now()
	since := now.Sub(h.resetAt)
	asked := !h.resetAt.IsZero() && (h.resetWaiting && since < resetMemory || since < resetWindow)
	h.resetWaiting = false
	// A Send that began after our RESET went out behind it and is numbered
	// right; any other does not know what became of its packet.
	if p := h.pending; p != nil && !(asked && p.id == kdproto.InitialID) {
		h.endSendLocked(link.ErrResynced)
	}
	if h.pending == nil {
		h.unacked = false
	}
	h.sendID = kdproto.InitialID
	h.known, h.expect = true, kdproto.InitialID
	h.syncLive = false
	if asked {
		h.repeat = true
		return
	}
	h.repeat, h.fresh = false, true
	h.resetAt = now
	if !h.dropOutLocked(false) { // ACKs of the old numbering would count in the new one
		h.controlOutLocked(kdproto.TypeReset, 0)
	}
}

// endSendLocked ends the Send in progress.
func (h *Host) endSendLocked(err error) {
	p := h.pending
	if p == nil {
		return
	}
	h.pending = nil
	h.unqueueLocked(p)
	p.done <- err
}

// unqueueLocked takes a packet back that the writer has not fetched.
func (h *Host) unqueueLocked(p *sending) {
	if !p.queued {
		return
	}
	p.queued = false
	for i := range h.out {
		if h.out[i].send == p {
			h.out = append(h.out[:i], h.out[i+1:]...)
			return
		}
	}
}

// dropOutLocked drops what waits for the writer, except break-ins, a RESET and,
// if told so, ACKs. It reports whether there is a RESET.
func (h *Host) dropOutLocked(acks bool) (reset bool) {
	keep := h.out[:0]
	for _, o := range h.out {
		switch {
		case len(o.bytes) == 1 || o.kind == kdproto.TypeReset || acks && o.kind == kdproto.TypeAcknowledge:
			reset = reset || o.kind == kdproto.TypeReset
			keep = append(keep, o)
		case o.send != nil:
			o.send.queued = false
		}
	}
	h.out = keep
	return reset
}

// dataLocked handles a data packet with a good checksum. payload is only valid
// until the receiver moves on.
func (h *Host) dataLocked(hd kdproto.Header, payload []byte) {
	base := hd.ID &^ kdproto.SyncBit
	sync := hd.ID != base
	if sync {
		h.stats.Syncs++
		sum := maphash.Bytes(h.seed, payload) ^ uint64(hd.Type)
		now := time.Now()
		if h.syncLive && sum == h.syncHash && now.Sub(h.syncAt) < syncMemory {
			h.syncAt = now
			h.stats.Duplicates++
			h.ackLocked(base)
			return
		}
		if len(h.packets) == cap(h.packets) {
			return
		}
		h.endSendLocked(link.ErrResynced)
		h.sendID, h.unacked = kdproto.InitialID, false
		h.syncLive, h.syncHash, h.syncAt = true, sum, now
		h.fresh, h.repeat = true, false
	} else {
		if h.known && base != h.expect {
			h.stats.Duplicates++
			h.ackLocked(base)
			return
		}
		if len(h.packets) == cap(h.packets) {
			return // not acknowledged: the target keeps it and comes again
		}
		h.syncLive = false
	}
	h.known, h.expect = true, base^1
	h.stats.PacketsIn++
	h.ackLocked(base)
	if h.breakNext {
		// A target that waits for an acknowledgement swallows the byte in front of
		// it, but looks for one right behind that of a print. In a storm of prints
		// there is no other moment.
		h.breakNext = false
		if hd.Type == kdproto.TypeDebugIO {
			h.stats.BreakIns++
			h.queueLocked(outgoing{bytes: []byte{kdproto.BreakInByte}})
		}
	}
	p := link.Packet{Type: hd.Type, Payload: append([]byte(nil), payload...), Fresh: h.fresh, Repeated: h.repeat}
	h.fresh, h.repeat = false, false
	h.packets <- p // has room: only this place fills it, under mu
}

func (h *Host) ackLocked(id uint32) { h.controlOutLocked(kdproto.TypeAcknowledge, id) }

func (h *Host) controlOutLocked(t kdproto.PacketType, id uint32) {
	h.queueLocked(outgoing{
		bytes: kdproto.AppendControl(make([]byte, 0, kdproto.HeaderSize), t, id),
		kind:  t,
	})
}

func (h *Host) queueLocked(o outgoing) {
	if h.err != nil {
		return
	}
	if o.send == nil && len(h.out) >= maxOut {
		return // the stream is stuck; a lost ACK is asked for again
	}
	h.out = append(h.out, o)
	h.wake()
}

func (h *Host) wake() {
	select {
	case h.kick <- struct{}{}:
	default:
	}
}

// write is the writer goroutine. What has queued up meanwhile goes out in one
// Write, an ACK together with the request behind it, but nothing waits for
// anything else to join it.
func (h *Host) write() {
	defer h.wg.Done()
	var buf []byte
	var batch []outgoing
	for {
		select {
		case <-h.kick:
		case <-h.dead:
			return
		}
		for {
			h.mu.Lock()
			if len(h.out) == 0 || h.err != nil {
				h.mu.Unlock()
				break
			}
			batch, h.out = h.out, batch[:0]
			buf = buf[:0]
			now := time.Now()
			for _, o := range batch {
				if o.send != nil {
					o.send.queued = false
					o.send.sent = now
				}
				h.traceLocked(Out, o.bytes, false)
				buf = append(buf, o.bytes...)
			}
			h.mu.Unlock()
			h.flushTrace()
			err := writeAll(h.stream, buf)
			h.mu.Lock()
			h.stats.BytesOut += uint64(len(buf))
			clear(batch)
			h.mu.Unlock()
			if err != nil {
				h.fail(err)
				return
			}
		}
	}
}

// writeAll writes b whole, also to a stream that returns short without an
// error.
func writeAll(w io.Writer, b []byte) error {
	for len(b) > 0 {
		n, err := w.Write(b)
		if err != nil {
			return err
		}
		if n <= 0 {
			return io.ErrShortWrite
		}
		b = b[n:]
	}
	return nil
}

// fail ends the link with an error; the first one stays.
func (h *Host) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return
	}
	h.err = err
	close(h.dead)
	if h.gap != nil {
		h.gap.Stop()
	}
}

func (h *Host) errLocked() error {
	if h.closed {
		return link.ErrClosed
	}
	return h.err
}

// Send implements link.Host.
func (h *Host) Send(ctx context.Context, t kdproto.PacketType, payload []byte) error {
	if len(payload) > kdproto.MaxPayload {
		return fmt.Errorf("kdcom: payload of %d bytes does not fit into a packet of %d", len(payload), kdproto.MaxPayload)
	}
	select {
	case h.sendSem <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-h.sendSem }()

	h.mu.Lock()
	if err := h.errLocked(); err != nil {
		h.mu.Unlock()
		return err
	}
	p := &sending{
		id:     h.sendID,
		packet: kdproto.AppendData(make([]byte, 0, kdproto.HeaderSize+len(payload)+1), t, h.sendID, payload),
		done:   make(chan error, 1),
		resend: make(chan struct{}, 1),
	}
	h.pending, h.unacked = p, true
	h.stats.PacketsOut++
	h.mu.Unlock()

	timeout := h.opt.ackTimeout(len(p.packet))
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for try := 0; try < h.opt.Retries; try++ {
		h.mu.Lock()
		if h.pending != p {
			h.mu.Unlock()
			return h.sendEnd(ctx, p)
		}
		if !p.queued {
			select {
			case <-p.resend: // was about the copy before
			default:
			}
			p.queued = true
			p.times++
			if p.times > 1 {
				h.stats.Resends++
			}
			h.queueLocked(outgoing{bytes: p.packet, send: p})
		}
		h.mu.Unlock()
		timer.Reset(timeout)
		if done, err := h.await(ctx, p, timer); done {
			return err
		}
	}
	h.mu.Lock()
	if h.pending == p {
		h.endSendLocked(link.ErrNoAnswer)
	}
	h.mu.Unlock()
	return <-p.done
}

// await waits until p has to be sent again or is done.
func (h *Host) await(ctx context.Context, p *sending, timer *time.Timer) (done bool, err error) {
	resend := p.resend
	// The target cannot acknowledge in the middle of a packet of its own.
	patience := wireTime(maxFrame, h.opt.Speed) + h.opt.ByteGap
	for {
		select {
		case err := <-p.done:
			return true, err
		case <-resend:
			// The packet may only have been late, or still be on its way: its
			// ACK would follow. An answer at once would keep a stale copy in
			// flight for good.
			// A second RESEND for the same packet says that the target has taken
			// a copy for the rest of something else and may go on doing so;
			// only a silence longer than its byte timeout frees it.
			resend = nil
			wait := h.opt.ResendWait << (2 * min(p.resends, 8))
			p.resends++
			timer.Reset(min(wait, h.opt.ackTimeout(len(p.packet))) + h.onTheWay(p))
		case <-timer.C:
			if resend != nil && patience > 0 {
				if d := h.busy(); d > 0 {
					d = min(d, patience)
					patience -= d
					timer.Reset(d)
					continue
				}
			}
			return false, nil
		case <-ctx.Done():
			h.mu.Lock()
			if h.pending == p {
				h.endSendLocked(ctx.Err())
			}
			h.mu.Unlock()
			return true, <-p.done
		case <-h.dead:
			return true, h.sendEnd(ctx, p)
		}
	}
}

// onTheWay returns how long the line still needs for the bytes of p.
func (h *Host) onTheWay(p *sending) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p.sent.IsZero() {
		return 0
	}
	return max(0, wireTime(len(p.packet), h.opt.Speed)-time.Since(p.sent))
}

// busy returns how long to wait when a packet is just arriving, else 0.
func (h *Host) busy() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.rx.pending() {
		return 0
	}
	return max(0, h.opt.ByteGap-(time.Since(h.start)-h.lastByte))
}

// sendEnd is the result of a Send that somebody else has ended.
func (h *Host) sendEnd(ctx context.Context, p *sending) error {
	select {
	case err := <-p.done:
		return err
	default:
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.pending == p {
		h.pending = nil
	}
	if err := h.errLocked(); err != nil {
		return err
	}
	return ctx.Err()
}

// Receive implements link.Host.
func (h *Host) Receive(ctx context.Context) (link.Packet, error) {
	select {
	case p := <-h.packets:
		return p, nil
	default:
	}
	select {
	case p := <-h.packets:
		return p, nil
	case <-ctx.Done():
		return link.Packet{}, ctx.Err()
	case <-h.dead:
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case p := <-h.packets:
		if !h.closed {
			return p, nil
		}
	default:
	}
	return link.Packet{}, h.errLocked()
}

// BreakIn implements link.Host. The byte overtakes packets that have not begun
// to go out; several that wait become one.
func (h *Host) BreakIn() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.errLocked(); err != nil {
		return err
	}
	if len(h.out) > 0 && len(h.out[0].bytes) == 1 {
		return nil
	}
	h.stats.BreakIns++
	h.out = append([]outgoing{{bytes: []byte{kdproto.BreakInByte}}}, h.out...)
	h.breakNext = true
	h.wake()
	return nil
}

// Resync implements link.Host. A RESET is sent only when none of ours waits
// for its answer, or 2 s have passed since: RESETs pile up in the pipe of a
// machine that boots, and every one of them would be answered.
func (h *Host) Resync() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.errLocked(); err != nil {
		return err
	}
	h.rx.reset()
	h.wanted = false
	for len(h.packets) > 0 {
		select {
		case <-h.packets:
		default:
		}
	}
	h.endSendLocked(link.ErrResynced)
	// What was received stays acknowledged: a target that repeats a reply which
	// nobody wants would otherwise answer the RESET with that reply again.
	queued := h.dropOutLocked(true)
	h.sendID, h.unacked = kdproto.InitialID, false
	h.known, h.syncLive = false, false
	h.fresh, h.repeat = false, false

	now := time.Now()
	if queued {
		return nil
	}
	if h.resetWaiting && !h.opt.UnlimitedResets && now.Sub(h.resetAt) < resetPatience {
		return nil
	}
	if h.opt.MaxResets > 0 && h.resets >= h.opt.MaxResets {
		return nil
	}
	h.resets++
	h.resetAt, h.resetWaiting = now, true
	h.controlOutLocked(kdproto.TypeReset, 0)
	return nil
}

// Stats implements link.Host.
func (h *Host) Stats() link.Stats {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.stats
}

// Close implements link.Host.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	if h.err == nil {
		h.err = link.ErrClosed
		close(h.dead)
	}
	if h.gap != nil {
		h.gap.Stop()
	}
	h.mu.Unlock()
	err := h.stream.Close()
	ended := make(chan struct{})
	go func() { h.wg.Wait(); close(ended) }()
	timer := time.NewTimer(closePatience)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
	return err
}

// noiseLocked counts bytes outside packets.
func (h *Host) noiseLocked(b []byte) {
	h.stats.Garbage += uint64(len(b))
	h.traceLocked(In, b, true)
}

// traceLocked remembers what crossed the stream, a run of noise as one entry;
// flushTrace reports it outside the lock.
func (h *Host) traceLocked(d Direction, b []byte, noise bool) {
	if h.opt.Trace == nil {
		return
	}
	if n := len(h.traced); n > 0 && noise && h.traced[n-1].noise {
		h.traced[n-1].b = append(h.traced[n-1].b, b...)
		return
	}
	h.traced = append(h.traced, traceEntry{d, noise, append([]byte(nil), b...)})
}

func (h *Host) flushTrace() {
	if h.opt.Trace == nil {
		return
	}
	h.traceMu.Lock()
	defer h.traceMu.Unlock()
	h.mu.Lock()
	t := h.traced
	h.traced = nil
	h.mu.Unlock()
	for _, e := range t {
		h.opt.Trace(e.d, e.b)
	}
}
