package comline

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Between two processes of one machine go blocks of messages, each behind its
// length: two bytes, little-endian. The first block of either side is one
// msgAttach, and msgWelcome or msgDenied.
const (
	maxBlock       = 16 << 10
	handshakeBound = 2 * time.Second
	answerWithin   = 5 * time.Second // a question to a process of this machine
)

// who names this process to people.
func who() string {
	return fmt.Sprintf("%s (process %d)", filepath.Base(os.Args[0]), os.Getpid())
}

func readBlock(r io.Reader, buf []byte) ([]byte, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.LittleEndian.Uint16(head[:]))
	if n > maxBlock {
		return nil, errors.New("a block that is too long")
	}
	_, err := io.ReadFull(r, buf[:n])
	return buf[:n], err
}

// putBlock puts the length in front of b, which begins with two bytes for it.
func putBlock(b []byte) []byte {
	binary.LittleEndian.PutUint16(b, uint16(len(b)-2))
	return b
}

func writeMessage(w io.Writer, m message) error {
	_, err := w.Write(putBlock(appendMessage(make([]byte, 2), m)))
	return err
}

func readMessage(r io.Reader) (message, error) {
	b, err := readBlock(r, make([]byte, maxBlock))
	if err != nil {
		return message{}, err
	}
	m, _, err := parseMessage(b)
	return m, err
}

// bounded runs a handshake, and closes the connection when ctx or its bound
// ends first.
func bounded(ctx context.Context, c io.Closer, shake func() error) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeBound)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	err := shake()
	if !stop() {
		return context.Cause(ctx)
	}
	return err
}

// local carries a mux over a connection between two processes.
type local struct {
	c    io.ReadWriteCloser
	m    *mux
	kick chan struct{}
	done chan struct{}
	shut sync.Once
	wg   sync.WaitGroup

	mu      sync.Mutex
	busy    bool          // a block is being written
	changed chan struct{} // closed and replaced when a block was written
}

func newLocal(c io.ReadWriteCloser, h handler, window int, sp speed) *local {
	p := &local{c: c, kick: make(chan struct{}, 1), done: make(chan struct{}), changed: make(chan struct{})}
	p.m = newMux(h, p.wake, min(window, 1<<20), sp.window, sp.sendBuffer)
	return p
}

func (p *local) start() {
	p.wg.Go(p.reader)
	p.wg.Go(p.writer)
}

func (p *local) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// end closes the connection; the goroutines follow.
func (p *local) end(err error) {
	p.shut.Do(func() {
		close(p.done)
		p.m.fail(err)
		p.c.Close()
	})
}

func (p *local) reader() {
	buf := make([]byte, maxBlock)
	for {
		b, err := readBlock(p.c, buf)
		if err == nil {
			err = p.m.receive(b)
		}
		if err != nil {
			p.end(errOtherProcess)
			return
		}
	}
}

func (p *local) writer() {
	buf := make([]byte, 2, 2+maxBlock)
	msgs := make([]byte, 0, maxBlock)
	for {
		p.mu.Lock()
		msgs = p.m.fill(msgs[:0], maxBlock)
		p.busy = len(msgs) > 0
		close(p.changed)
		p.changed = make(chan struct{})
		p.mu.Unlock()
		if len(msgs) == 0 {
			select {
			case <-p.kick:
				continue
			case <-p.done:
				return
			}
		}
		if _, err := p.c.Write(putBlock(append(buf[:2], msgs...))); err != nil {
			p.end(errOtherProcess)
			return
		}
	}
}

// drain waits until all that closed streams have to say was taken by the other
// process, or nothing gets on.
func (p *local) drain() {
	for {
		p.mu.Lock()
		left, changed := p.busy || p.m.unsent(), p.changed
		p.mu.Unlock()
		if !left {
			return
		}
		t := time.NewTimer(drainBound)
		select {
		case <-changed:
			t.Stop()
		case <-p.done:
			t.Stop()
			return
		case <-t.C:
			return
		}
	}
}

var errOtherProcess = errors.New("the process that had the line open has ended; another one takes it over, so connect again")

// denied is why a process may not use the line that another one has open.
type denied struct{ text string }

func (d denied) Error() string { return d.text }

func baudError(name, holder string, theirs, ours int) string {
	return fmt.Sprintf("%s is open at %d baud by %s; a line has one speed: write baud=%d here too, or end that program", name, theirs, holder, theirs)
}

func versionError(name, holder string) string {
	return fmt.Sprintf("%s is open by %s, which is of another release than %s: use programs of one release", name, holder, who())
}

// attached is the way over a process of this machine that has the device open.
type attached struct {
	*local
	name string

	mu      sync.Mutex
	takers  map[int]func(*stream)
	answers map[int]chan message // of msgListen, by channel
	stat    []chan Stats
}

// attach joins the owner of the line. Errors: denied; anything else means that
// there is no owner now.
func attach(ctx context.Context, base string, cfg Config) (*attached, error) {
	c, err := dialLocal(ctx, base)
	if err != nil {
		return nil, err
	}
	sp := speedOf(cfg.Baud)
	var m message
	err = bounded(ctx, c, func() (err error) {
		if err = writeMessage(c, message{kind: msgAttach, stream: Version, n: uint64(cfg.Baud), window: uint64(sp.window), text: who()}); err == nil {
			m, err = readMessage(c)
		}
		return err
	})
	if err == nil {
		switch {
		case m.kind == msgDenied:
			err = denied{m.text}
		case m.kind != msgWelcome || m.stream != Version:
			err = denied{versionError(cfg.Port, m.text)}
		}
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	cfg.Logger.Info("another process has the line open; joined it", "port", cfg.Port, "owner", m.text)
	a := &attached{name: cfg.Port, takers: map[int]func(*stream){}, answers: map[int]chan message{}}
	a.local = newLocal(c, a, int(min(m.window, 1<<20)), sp)
	a.start()
	return a, nil
}

func (a *attached) over() <-chan struct{} { return a.done }

func (a *attached) close() {
	a.drain()
	a.end(errWireClosed)
	a.wg.Wait()
}

func (a *attached) opened(s *stream) {
	a.mu.Lock()
	take := a.takers[s.channel]
	a.mu.Unlock()
	if take == nil {
		s.refuse(refusal{code: codeNobody})
		return
	}
	take(s)
}

func (a *attached) control(m message) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch m.kind {
	case msgTaken:
		if c := a.answers[int(m.stream)]; c != nil {
			delete(a.answers, int(m.stream))
			c <- m
		}
	case msgStats:
		for _, c := range a.stat {
			c <- statsOf(m.counts)
		}
		a.stat = nil
	default:
		return errProtocol
	}
	return nil
}

func (a *attached) dial(ctx context.Context, channel int) (*stream, error) {
	ctx, cancel := context.WithTimeout(ctx, answerBound+answerWithin)
	defer cancel()
	s, err := a.m.open(channel)
	if err != nil {
		return nil, err
	}
	if err := s.awaitOpened(ctx); err != nil {
		s.reset(refusal{code: codeGone})
		return nil, err
	}
	return s, nil
}

func (a *attached) listen(ctx context.Context, channel int, take func(*stream)) error {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	answer := make(chan message, 1)
	a.mu.Lock()
	a.takers[channel], a.answers[channel] = take, answer
	a.mu.Unlock()
	a.m.tell(message{kind: msgListen, stream: uint64(channel)})
	var err error
	select {
	case m := <-answer:
		if m.code == 0 {
			return nil
		}
		err = denied{m.text}
	case <-a.done:
		err = errOtherProcess
	case <-ctx.Done():
		err = fmt.Errorf("the process that has %s open does not answer: %w", a.name, ctx.Err())
		a.m.tell(message{kind: msgRelease, stream: uint64(channel)})
	}
	a.mu.Lock()
	delete(a.takers, channel)
	delete(a.answers, channel)
	a.mu.Unlock()
	return err
}

func (a *attached) release(channel int) {
	a.mu.Lock()
	delete(a.takers, channel)
	a.mu.Unlock()
	a.m.tell(message{kind: msgRelease, stream: uint64(channel)})
}

func (a *attached) stats() (Stats, bool) {
	c := make(chan Stats, 1)
	a.mu.Lock()
	a.stat = append(a.stat, c)
	a.mu.Unlock()
	a.m.tell(message{kind: msgStats})
	t := time.NewTimer(answerWithin)
	defer t.Stop()
	select {
	case st := <-c:
		return st, true
	case <-a.done:
	case <-t.C:
	}
	return Stats{}, false
}

// counts are the counters as they go between processes; statsOf reads them.
func (st Stats) counts() []uint64 {
	return []uint64{
		st.BytesIn, st.BytesOut, st.FramesIn, st.FramesOut, st.Resends, st.Duplicates,
		st.BadChecksums, st.Rubbish, st.Echoes, st.Sessions, st.Streams, uint64(st.RTT),
	}
}

func statsOf(c []uint64) Stats {
	c = append(c, make([]uint64, maxCounts)...) // one of another build may send fewer
	return Stats{
		BytesIn: c[0], BytesOut: c[1], FramesIn: c[2], FramesOut: c[3], Resends: c[4], Duplicates: c[5],
		BadChecksums: c[6], Rubbish: c[7], Echoes: c[8], Sessions: c[9], Streams: c[10], RTT: time.Duration(c[11]),
	}
}

// owner is the way over the device itself. It serves the other processes of
// this machine.
type owner struct {
	cfg  Config
	lock io.Closer
	ln   io.Closer
	w    *wire
	wg   sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	takers  map[int]taker
	clients map[*client]bool
}

// taker is who listens on a channel.
type taker struct {
	who    string
	client *client // nil: this process
	take   func(*stream)
}

// client is a process that is attached to an owner.
type client struct {
	*local
	o   *owner
	who string
}

const maxClients = 256

// own opens the device, with the lock in hand, and takes callers at base.
func own(ctx context.Context, base string, lock io.Closer, cfg Config) (*owner, error) {
	dev, err := openDevice(ctx, cfg)
	if err != nil {
		return nil, err
	}
	ln, err := listenLocal(base)
	if err != nil {
		dev.Close()
		return nil, fmt.Errorf("the other processes of this machine cannot be let in at %s: %w", base, err)
	}
	o := &owner{cfg: cfg, lock: lock, ln: ln, takers: map[int]taker{}, clients: map[*client]bool{}}
	o.w = newWire(dev, cfg.Port, cfg.Baud, cfg.Logger, o.incoming)
	o.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				// Without it others cannot join; when it is not us who ended it,
				// the line is given up and opened again.
				o.w.over(deviceError{err})
				return
			}
			o.wg.Go(func() { o.serve(c) })
		}
	})
	return o, nil
}

func (o *owner) over() <-chan struct{} { return o.w.done }

func (o *owner) close() {
	o.w.close()
	o.ln.Close()
	o.mu.Lock()
	o.closed = true
	for c := range o.clients {
		c.end(errOtherProcess)
	}
	o.mu.Unlock()
	o.wg.Wait()
	o.lock.Close()
}

func (o *owner) dial(ctx context.Context, channel int) (*stream, error) {
	return o.w.dial(ctx, channel)
}

func (o *owner) listen(_ context.Context, channel int, take func(*stream)) error {
	return o.register(channel, taker{who: who(), take: take})
}

func (o *owner) register(channel int, t taker) error {
	o.mu.Lock()
	defer o.mu.Unlock()
	if have, ok := o.takers[channel]; ok {
		return denied{fmt.Sprintf("it is listened on already, by %s: choose another channel= from 0 to %d", have.who, MaxChannel)}
	}
	o.takers[channel] = t
	return nil
}

func (o *owner) release(channel int) { o.unregister(channel, nil) }

func (o *owner) unregister(channel int, c *client) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if t, ok := o.takers[channel]; ok && t.client == c {
		delete(o.takers, channel)
	}
}

func (o *owner) stats() (Stats, bool) { return o.w.Stats(), true }

// incoming is told of the streams that the other end opens.
func (o *owner) incoming(s *stream) {
	o.mu.Lock()
	t, ok := o.takers[s.channel]
	o.mu.Unlock()
	switch {
	case !ok:
		s.refuse(refusal{code: codeNobody})
	case t.client != nil:
		o.wg.Go(func() { t.client.deliver(s) })
	default:
		t.take(s)
	}
}

// serve carries the streams of one attached process.
func (o *owner) serve(conn io.ReadWriteCloser) {
	c := &client{o: o}
	err := bounded(context.Background(), conn, func() error {
		m, err := readMessage(conn)
		c.who = m.text
		deny := func(code byte, text string) error {
			writeMessage(conn, message{kind: msgDenied, stream: Version, code: code, text: text})
			return denied{text}
		}
		switch {
		case m.kind == msgAttach && m.stream != Version:
			return deny(codeVersion, versionError(o.cfg.Port, who()))
		case err != nil:
			return err
		case m.kind != msgAttach:
			return errProtocol
		case m.n != uint64(o.cfg.Baud):
			return deny(codeBaud, baudError(o.cfg.Port, who(), o.cfg.Baud, int(m.n)))
		}
		c.local = newLocal(conn, c, int(min(m.window, 1<<20)), o.w.sp)
		return writeMessage(conn, message{kind: msgWelcome, stream: Version, n: uint64(o.cfg.Baud), window: uint64(o.w.sp.window), text: who()})
	})
	if err == nil {
		o.mu.Lock()
		if o.closed || len(o.clients) >= maxClients {
			err = errOtherProcess
		} else {
			o.clients[c] = true
		}
		o.mu.Unlock()
	}
	if err != nil {
		conn.Close()
		return
	}
	o.cfg.Logger.Info("another process uses the line too", "port", o.cfg.Port, "process", c.who)
	c.start()
	<-c.done
	o.mu.Lock()
	delete(o.clients, c)
	for channel, t := range o.takers {
		if t.client == c {
			delete(o.takers, channel)
		}
	}
	o.mu.Unlock()
	c.wg.Wait()
}

// opened implements handler: the process dials.
func (c *client) opened(s *stream) {
	s.relay()
	c.wg.Go(func() {
		st, err := c.o.w.dial(context.Background(), s.channel)
		if err != nil {
			select {
			case <-c.o.w.done: // the process hears of that by losing its owner
			default:
				s.refuse(asRefusal(err))
			}
			return
		}
		st.relay()
		s.accept()
		join(s, st)
	})
}

// deliver hands a stream from the line to the process, which listens.
func (c *client) deliver(s *stream) {
	s.relay()
	ctx, cancel := context.WithTimeout(context.Background(), answerWithin)
	defer cancel()
	st, err := c.m.open(s.channel)
	if err == nil {
		st.relay()
		if err = st.awaitOpened(ctx); err != nil {
			st.reset(refusal{code: codeGone})
		}
	}
	if err != nil {
		s.refuse(refusal{code: codeNobody})
		return
	}
	s.accept()
	join(st, s)
}

// control implements handler.
func (c *client) control(m message) error {
	channel := int(m.stream)
	switch m.kind {
	case msgListen:
		if m.stream > MaxChannel {
			return errProtocol
		}
		answer := message{kind: msgTaken, stream: m.stream}
		if err := c.o.register(channel, taker{who: c.who, client: c}); err != nil {
			answer.code, answer.text = codeChannelOwn, err.Error()
		}
		c.m.tell(answer)
	case msgRelease:
		c.o.unregister(channel, c)
	case msgStats:
		counts := c.o.w.Stats().counts()
		c.m.tell(message{kind: msgStats, stream: uint64(len(counts)), counts: counts})
	default:
		return errProtocol
	}
	return nil
}

func asRefusal(err error) refusal {
	var r refusal
	if !errors.As(err, &r) {
		r = refusal{codeFailed, err.Error()}
	}
	return r
}

// join carries bytes between a stream of a process of this machine and one of
// the line until both have ended.
func join(process, lined *stream) {
	var wg sync.WaitGroup
	wg.Go(func() { carry(process, lined, asRefusal) })
	// What goes wrong on this machine is not the other one's business.
	carry(lined, process, func(error) refusal { return refusal{code: codeGone} })
	wg.Wait()
	process.Close()
	lined.Close()
}

func carry(dst, src *stream, say func(error) refusal) {
	buf := make([]byte, 4<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			if _, werr := dst.Write(buf[:n]); errors.Is(werr, errPeerClosed) {
				src.stopReading()
				return
			} else if werr != nil {
				src.reset(say(werr))
				return
			}
		}
		if err == io.EOF {
			dst.CloseWrite()
			return
		}
		if err != nil {
			dst.reset(say(err))
			return
		}
	}
}

// relay marks a stream as carried for another process: this one does not stay
// for it.
func (s *stream) relay() {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	s.relayed = true
}

// openDevice opens the device. One that is busy may be so only because its last
// owner has just been killed.
func openDevice(ctx context.Context, cfg Config) (io.ReadWriteCloser, error) {
	for tries := 0; ; tries++ {
		dev, err := cfg.Open(ctx)
		if err == nil || tries == 10 || !deviceBusy(err) {
			return dev, err
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
