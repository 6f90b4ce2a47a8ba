package kdrpc

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"openkd/status"
	"openkd/target"
)

var _ target.Target = (*Client)(nil)

// Option tunes a Client.
type Option func(*clientOptions)

type clientOptions struct {
	release  string
	timeouts Timeouts
	attempt  time.Duration
	server   string
	local    bool
}

// WithTimeouts changes the times of the connection.
func WithTimeouts(t Timeouts) Option { return func(o *clientOptions) { o.timeouts = t } }

// WithRelease changes what the program calls itself in its hello.
func WithRelease(r string) Option { return func(o *clientOptions) { o.release = r } }

// WithAttempt changes how long a request waits for a lost connection to come
// back before it fails with ErrDisconnected. 0: 10 s.
func WithAttempt(d time.Duration) Option { return func(o *clientOptions) { o.attempt = d } }

// WithServer names the server in messages.
func WithServer(name string) Option { return func(o *clientOptions) { o.server = name } }

// WithLocal leaves out the stage events of a connection, for a server inside
// this process.
func WithLocal() Option { return func(o *clientOptions) { o.local = true } }

// Client is a Target at the far end of a stream.
//
// It notices within 15 s that the connection is lost, dials again and goes on
// with its session by token, for as long as the server's grace time; events
// that happened meanwhile arrive then. A request that was under way when the
// connection was lost fails with ErrDisconnected: whether the target has seen
// it is not known. A request that is made meanwhile waits.
//
// Concurrency: as target.Target says.
type Client struct {
	dial func(context.Context) (net.Conn, error)
	open Open
	o    clientOptions

	ctx       context.Context
	stop      context.CancelFunc
	wg        sync.WaitGroup
	exchanges atomic.Uint64
	ids       atomic.Uint32

	mu       sync.Mutex
	conn     *clientConn   // nil while the connection is lost
	change   chan struct{} // closed and made anew when conn, failed or events change
	failed   error         // no connection any more, for good
	leaving  bool          // Close was called
	opened   Opened
	lastSeen uint64 // event received
	read     uint64 // event handed out
	unacked  int    // bytes handed out since the last acknowledgement
	waiting  int    // bytes of the server's events in the queue
	events   []queued
	ended    bool // no event will come behind those in the queue
	closing  bool // EventClosed is among those that came
}

type queued struct {
	seq uint64 // 0: our own
	ev  target.Event
}

// clientConn is one connection of a Client.
type clientConn struct {
	c *Client
	w *wire

	fresh bool // the session is new to this client, not resumed

	mu    sync.Mutex
	calls map[uint32]*call
	owed  int      // credit to give back
	held  int      // bytes of parts that came and are not given back
	free  [][]byte // buffers that parts came in, for the next ones
	lost  bool     // no call may be added any more
}

// call is one request that waits for its answer.
type call struct {
	mu     sync.Mutex
	parts  []received
	done   bool
	result Result
	open   bool          // answered by KindOpened
	err    error         // the connection was lost
	more   chan struct{} // holds one token
}

// received is a part with the buffer that it came in.
type received struct {
	target.Part
	buf []byte
}

func newCall() *call { return &call{more: make(chan struct{}, 1)} }

func (k *call) wake() {
	select {
	case k.more <- struct{}{}:
	default:
	}
}

// Connect dials and opens a session. dial is called again when the connection
// is lost. ctx bounds Connect only. Errors: dial's, a *Refusal, or what the
// stream says.
func Connect(ctx context.Context, dial func(ctx context.Context) (net.Conn, error), open Open, opts ...Option) (*Client, error) {
	o := clientOptions{release: Release, attempt: 10 * time.Second, server: "the server"}
	for _, f := range opts {
		f(&o)
	}
	o.timeouts = o.timeouts.withDefaults()
	if open.Owner == "" {
		open.Owner = DefaultOwner()
	}
	c := &Client{dial: dial, open: open, o: o, change: make(chan struct{})}
	c.ctx, c.stop = context.WithCancel(context.Background())
	cc, run, err := c.connect(ctx, open)
	if err != nil {
		c.stop()
		return nil, err
	}
	c.wg.Go(func() { c.keep(cc, run) })
	return c, nil
}

// Opened is what the server said when the session was opened last.
func (c *Client) Opened() Opened {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.opened
}

// Exchanges counts the requests so far that waited for an answer from the
// server, hello and open included. Events, acknowledgements and credit cost
// none.
func (c *Client) Exchanges() uint64 { return c.exchanges.Load() }

// connect makes one connection: dial, hello, open. run reads it until it ends.
func (c *Client) connect(ctx context.Context, open Open) (*clientConn, func() error, error) {
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	w := newWire(conn, c.o.timeouts, nil)
	cc := &clientConn{c: c, w: w, fresh: open.Resume == nil, calls: make(map[uint32]*call)}
	stop := context.AfterFunc(ctx, func() { w.fail(context.Cause(ctx)) })
	defer stop()
	give := func(err error) (*clientConn, func() error, error) {
		if why := w.reason(); why != nil && ctx.Err() == nil {
			err = why
		}
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		w.fail(err)
		w.wg.Wait()
		return nil, nil, err
	}
	timer := time.AfterFunc(c.o.timeouts.Hello, func() {
		w.fail(fmt.Errorf("%s does not answer the hello: is it a kdsrv?", c.o.server))
	})
	defer timer.Stop()
	c.exchanges.Add(1)
	if err := w.send(0, KindHello, encode(Hello{Magic: magic, Release: c.o.release, Min: ProtocolMin, Max: ProtocolMax})); err != nil {
		return give(err)
	}
	r := w.reader()
	f, err := r.next()
	if err != nil {
		return give(fmt.Errorf("%s ended the connection instead of a hello: %w", c.o.server, err))
	}
	switch f.kind {
	case KindHello:
		var h Hello
		if err := decode(f.payload, &h); err != nil {
			return give(err)
		}
		if h.Magic == magicShare {
			return give(fmt.Errorf("what answers at %s is a shared debugging session, not a KD connection server: use kd -remote %s", c.o.server, c.o.server))
		}
		if h.Magic != magic {
			return give(protocolErrorf("%s is no kdsrv", c.o.server))
		}
		if h.Min > ProtocolMax || h.Max < ProtocolMin {
			return give(&Refusal{Code: RefusedVersion, Text: "no common protocol version", Release: h.Release, Min: h.Min, Max: h.Max})
		}
	case KindRefuse:
		var ref Refusal
		if err := decode(f.payload, &ref); err != nil {
			return give(err)
		}
		w.fail(&ref)
		return give(&ref)
	default:
		return give(protocolErrorf("the first frame is of kind %#x, not a hello", uint8(f.kind)))
	}
	timer.Stop()

	// From here on the connection is read by one goroutine, which Connect
	// hands over to keep.
	k := newCall()
	id := c.ids.Add(1)
	cc.calls[id] = k
	ended := make(chan error, 1)
	go func() { ended <- cc.readLoop(r) }()
	run := func() error { return <-ended }
	abandon := func(err error) (*clientConn, func() error, error) {
		_, _, err = give(err)
		<-ended
		c.mu.Lock()
		c.conn = nil
		c.mu.Unlock()
		return nil, nil, err
	}
	c.exchanges.Add(1)
	if err := w.send(id, KindOpen, encode(open)); err != nil {
		return abandon(err)
	}
	for {
		k.mu.Lock()
		done, res, opened, err := k.done, k.result, k.open, k.err
		k.mu.Unlock()
		switch {
		case err != nil:
			return abandon(fmt.Errorf("%s ended the connection: %w", c.o.server, err))
		case opened:
			if !stop() {
				return abandon(ctx.Err())
			}
			return cc, run, nil
		case done:
			err := res.err()
			if err == nil {
				err = protocolErrorf("an open that is done without a session")
			}
			w.fail(err)
			return abandon(err)
		}
		select {
		case <-k.more:
		case <-ctx.Done():
			return abandon(ctx.Err())
		}
	}
}

func (c *Client) changedLocked() {
	close(c.change)
	c.change = make(chan struct{})
}

func (c *Client) pushLocked(e target.Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if !c.ended {
		c.events = append(c.events, queued{ev: e})
		c.changedLocked()
	}
}

// keep owns the connection: it waits for its end and makes the next one.
func (c *Client) keep(cc *clientConn, run func() error) {
	for {
		why := run()
		if r := cc.w.reason(); r != nil {
			why = r
		}
		cc.w.fail(why)
		cc.w.wg.Wait()
		cc.failCalls()
		c.mu.Lock()
		c.conn = nil
		c.changedLocked()
		if c.leaving || c.ended || c.ctx.Err() != nil {
			c.finishLocked(target.ErrClosed, "the session was left")
			c.mu.Unlock()
			return
		}
		grace := time.Duration(c.opened.Grace) * time.Second
		c.pushLocked(target.Event{Kind: target.EventNotice, Text: fmt.Sprintf(
			"The connection to %s is lost (%v). Trying again for %v.", c.o.server, why, grace)})
		c.mu.Unlock()

		var err error
		cc, run, err = c.again(grace)
		if err != nil {
			c.mu.Lock()
			switch {
			case c.leaving || c.ctx.Err() != nil:
				c.finishLocked(target.ErrClosed, "the session was left while the connection was lost; the server lets the target run after the grace time")
			case errors.Is(err, target.ErrLease):
				c.finishLocked(err, err.Error())
			default:
				c.finishLocked(target.ErrClosed, fmt.Sprintf("the connection to %s did not come back: %v", c.o.server, err))
			}
			c.mu.Unlock()
			return
		}
		c.mu.Lock()
		c.pushLocked(target.Event{Kind: target.EventNotice, Text: fmt.Sprintf("The connection to %s is back; the session goes on.", c.o.server)})
		c.mu.Unlock()
	}
}

// again dials until the session is resumed, the server says that it is gone,
// or the grace time has passed.
func (c *Client) again(grace time.Duration) (*clientConn, func() error, error) {
	ctx, cancel := context.WithTimeout(c.ctx, grace)
	defer cancel()
	pause := 100 * time.Millisecond
	var last error
	for {
		open := c.open
		c.mu.Lock()
		open.Resume, open.LastSeen = c.opened.Token, c.lastSeen
		c.mu.Unlock()
		cc, run, err := c.connect(ctx, open)
		if err == nil {
			return cc, run, nil
		}
		var ref *Refusal
		if errors.As(err, &ref) && ref.Code != RefusedFull {
			return nil, nil, err
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, nil, last
		}
		pause = min(2*pause, 5*time.Second)
	}
}

// finishLocked ends the client for good.
func (c *Client) finishLocked(err error, text string) {
	if c.failed != nil {
		return
	}
	c.failed = err
	if !c.ended {
		if !c.closing {
			c.pushLocked(target.Event{Kind: target.EventClosed, Text: text})
		}
		c.ended = true
	}
	c.changedLocked()
}

// failCalls ends the calls of a connection that is lost.
func (cc *clientConn) failCalls() {
	cc.mu.Lock()
	calls := cc.calls
	cc.calls, cc.lost = nil, true
	cc.mu.Unlock()
	for _, k := range calls {
		k.mu.Lock()
		k.err = ErrDisconnected
		k.mu.Unlock()
		k.wake()
	}
}

func (cc *clientConn) readLoop(r *frameReader) (err error) {
	defer func() {
		if err != nil {
			cc.w.fail(err)
		}
		cc.failCalls()
	}()
	return r.each(maxEventBody, func(id uint32, kind Kind, body []byte) error {
		kept, err := cc.take(id, kind, body)
		if kept && err == nil {
			r.swap(cc.buffer())
		}
		return err
	})
}

// take handles a body. kept: the body is not to be overwritten.
func (cc *clientConn) take(id uint32, kind Kind, body []byte) (kept bool, err error) {
	switch kind {
	case KindPing:
		cc.w.pong()
	case KindPart:
		p, err := decodePart(body)
		if err != nil {
			return false, err
		}
		cc.mu.Lock()
		cc.held += len(p.Data)
		over := cc.held > creditWindow
		cc.mu.Unlock()
		if over {
			return false, protocolErrorf("more data than there was credit for")
		}
		k := cc.call(id)
		if k == nil { // given up meanwhile
			cc.giveBack(len(p.Data))
			return false, nil
		}
		// A little data must not hold a big buffer: there may be many of them.
		kept := len(p.Data) > 0 && cap(body) <= 2*len(body)
		in := received{Part: p}
		if kept {
			in.buf = body
		} else {
			in.Data = bytes.Clone(p.Data)
		}
		k.mu.Lock()
		k.parts = append(k.parts, in)
		many := len(k.parts) > maxParts
		k.mu.Unlock()
		if many {
			return false, protocolErrorf("more than %d parts before one was taken", maxParts)
		}
		k.wake()
		return kept, nil
	case KindDone:
		var r Result
		if len(body) > 0 {
			if err := decode(body, &r); err != nil {
				return false, err
			}
		}
		cc.mu.Lock()
		k := cc.calls[id]
		delete(cc.calls, id)
		cc.mu.Unlock()
		if k != nil {
			k.mu.Lock()
			k.done, k.result = true, r
			k.mu.Unlock()
			k.wake()
		}
	case KindOpened:
		var o Opened
		if err := decode(body, &o); err != nil {
			return false, err
		}
		cc.mu.Lock()
		k := cc.calls[id]
		delete(cc.calls, id)
		cc.mu.Unlock()
		if k == nil {
			return false, protocolErrorf("a session that nobody asked for")
		}
		// Here and not by who waits, because events may follow at once.
		c := cc.c
		c.mu.Lock()
		c.opened, c.conn = o, cc
		if cc.fresh {
			c.lastSeen, c.read = o.After, o.After
			if !c.o.local {
				c.pushLocked(target.Event{Kind: target.EventStage, Stage: target.StageServerReached, Text: c.o.server})
				c.pushLocked(target.Event{Kind: target.EventStage, Stage: target.StageAuthenticated})
			}
		}
		c.changedLocked()
		c.mu.Unlock()
		k.mu.Lock()
		k.open = true
		k.mu.Unlock()
		k.wake()
	case KindEvent:
		c := cc.c
		c.mu.Lock()
		defer c.mu.Unlock()
		if len(body) == 0 {
			c.ended = true
			c.changedLocked()
			return false, nil
		}
		seq, e, err := decodeEvent(body)
		if err != nil {
			return false, err
		}
		if seq <= c.lastSeen || c.ended {
			return false, nil
		}
		size := sizeOf(&e)
		if c.waiting > 0 && c.waiting+size > maxEvents {
			return false, protocolErrorf("events of more than %d bytes that were not read yet", maxEvents)
		}
		c.waiting += size
		c.lastSeen = seq
		c.closing = c.closing || e.Kind == target.EventClosed
		c.events = append(c.events, queued{seq, e})
		c.changedLocked()
	}
	return false, nil
}

func (cc *clientConn) call(id uint32) *call {
	cc.mu.Lock()
	defer cc.mu.Unlock()
	return cc.calls[id]
}

// What a server may send ahead; one that goes beyond is not ours. Ours stops
// when logAhead bytes of events were not acknowledged, the last of them whole.
const (
	maxEvents = logAhead + 2*maxEventBody
	maxParts  = 1 << 20 // of one request
)

// Buffers of parts that a connection keeps; together half a MiB at most.
const keepParts = 8

func (cc *clientConn) buffer() []byte {
	cc.mu.Lock()
	defer cc.mu.Unlock()
	n := len(cc.free)
	if n == 0 {
		return nil
	}
	b := cc.free[n-1]
	cc.free = cc.free[:n-1]
	return b
}

func (cc *clientConn) keepBuffer(b []byte) {
	cc.mu.Lock()
	defer cc.mu.Unlock()
	if len(cc.free) < keepParts && cap(b) > 0 && cap(b) <= 2*fragment {
		cc.free = append(cc.free, b)
	}
}

// giveBack returns credit to the server, a quarter of the window at a time.
func (cc *clientConn) giveBack(n int) {
	cc.mu.Lock()
	cc.held -= n
	cc.owed += n
	n = cc.owed
	if n < creditWindow/4 {
		cc.mu.Unlock()
		return
	}
	cc.owed = 0
	cc.mu.Unlock()
	cc.w.send(0, KindCredit, binary.LittleEndian.AppendUint32(nil, uint32(n)))
}

// up waits for a connection.
func (c *Client) up(ctx context.Context) (*clientConn, error) {
	var timeout <-chan time.Time
	for {
		c.mu.Lock()
		cc, failed, change := c.conn, c.failed, c.change
		if c.leaving && failed == nil {
			failed = target.ErrClosed
		}
		c.mu.Unlock()
		switch {
		case failed != nil:
			return nil, failed
		case cc != nil:
			return cc, nil
		}
		if timeout == nil {
			t := time.NewTimer(c.o.attempt)
			defer t.Stop()
			timeout = t.C
		}
		select {
		case <-change:
		case <-timeout:
			return nil, ErrDisconnected
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// request sends a body and waits for its answer; sink takes the parts of a Do.
func (c *Client) request(ctx context.Context, kind Kind, body []byte, sink func(target.Part) error) (Result, error) {
	if err := ctx.Err(); err != nil {
		return Result{}, err
	}
	cc, err := c.up(ctx)
	if err != nil {
		return Result{}, err
	}
	return cc.request(ctx, kind, body, sink)
}

func (cc *clientConn) request(ctx context.Context, kind Kind, body []byte, sink func(target.Part) error) (Result, error) {
	k := newCall()
	id := cc.c.ids.Add(1)
	cc.mu.Lock()
	if cc.lost {
		cc.mu.Unlock()
		return Result{}, ErrDisconnected
	}
	cc.calls[id] = k
	cc.mu.Unlock()
	cc.c.exchanges.Add(1)
	if err := cc.w.send(id, kind, body); err != nil {
		cc.drop(id, k)
		return Result{}, ErrDisconnected
	}
	for {
		k.mu.Lock()
		parts, done, res, lost := k.parts, k.done, k.result, k.err
		k.parts = nil
		k.mu.Unlock()
		for i, p := range parts {
			err := ctx.Err()
			if err == nil {
				if sink == nil {
					err = protocolErrorf("a part of something that has none")
				} else {
					err = sink(p.Part)
				}
			}
			cc.giveBack(len(p.Data))
			cc.keepBuffer(p.buf)
			if err != nil {
				for _, p := range parts[i+1:] {
					cc.giveBack(len(p.Data))
				}
				cc.cancel(id, k)
				return Result{}, err
			}
		}
		switch {
		case len(parts) > 0:
			continue // there may be more by now
		case done:
			return res, nil
		case lost != nil:
			return Result{}, lost
		}
		select {
		case <-k.more:
		case <-ctx.Done():
			cc.cancel(id, k)
			return Result{}, ctx.Err()
		}
	}
}

// cancel gives a request up and tells the server.
func (cc *clientConn) cancel(id uint32, k *call) {
	if cc.drop(id, k) {
		cc.w.send(id, KindCancel, nil)
	}
}

// drop forgets a call; false: it was answered already.
func (cc *clientConn) drop(id uint32, k *call) bool {
	cc.mu.Lock()
	_, waiting := cc.calls[id]
	delete(cc.calls, id)
	cc.mu.Unlock()
	k.mu.Lock()
	parts := k.parts
	k.parts = nil
	k.mu.Unlock()
	for _, p := range parts {
		cc.giveBack(len(p.Data))
	}
	return waiting
}

func (c *Client) simple(ctx context.Context, kind Kind, body []byte) error {
	r, err := c.request(ctx, kind, body, nil)
	if err != nil {
		return err
	}
	return r.err()
}

// Do implements target.Target.
func (c *Client) Do(ctx context.Context, batch []target.Request, sink func(target.Part) error) error {
	if len(batch) > target.MaxBatch {
		return fmt.Errorf("%w: %d requests in a batch; at most %d are allowed", target.ErrBadRequest, len(batch), target.MaxBatch)
	}
	if len(batch) == 0 {
		batch = []target.Request{}
	}
	size := 0
	for i := range batch {
		size += len(batch[i].Data)
	}
	var body []byte
	if size <= maxBody {
		body = encode(batch)
		size = len(body)
	}
	if size > maxBody {
		return fmt.Errorf("%w: a batch of %d bytes; at most %d can be sent at once", target.ErrBadRequest, size, maxBody)
	}
	r, err := c.request(ctx, KindDo, body, sink)
	if err != nil {
		return err
	}
	return r.err()
}

// Resume implements target.Target.
func (c *Client) Resume(ctx context.Context, r target.Resume) error {
	return c.simple(ctx, KindResume, encode(r))
}

// Switch implements target.Target.
func (c *Client) Switch(ctx context.Context, processor int) error {
	return c.simple(ctx, KindSwitch, binary.LittleEndian.AppendUint32(nil, uint32(processor)))
}

// BreakIn implements target.Target.
func (c *Client) BreakIn(ctx context.Context) error { return c.simple(ctx, KindBreakIn, nil) }

// Answer implements target.Target.
func (c *Client) Answer(ctx context.Context, text string) error {
	return c.simple(ctx, KindAnswer, []byte(text))
}

// Control implements target.Target.
func (c *Client) Control(ctx context.Context, k target.Control) error {
	return c.simple(ctx, KindControl, encode(k))
}

// Status implements target.Target.
func (c *Client) Status(ctx context.Context) (target.Status, error) {
	r, err := c.request(ctx, KindStatus, nil, nil)
	if err == nil {
		err = r.err()
	}
	if err != nil {
		return target.Status{}, err
	}
	if r.Status == nil {
		return target.Status{}, protocolErrorf("a status without a status")
	}
	return *r.Status, nil
}

// EndServer asks the server to end (.endpsrv). It lets go of every target that
// it holds.
func (c *Client) EndServer(ctx context.Context) error { return c.simple(ctx, KindEndServer, nil) }

// ServerStatus asks the server what it says about itself. It is answered
// whatever the target is doing, and does not touch it.
func (c *Client) ServerStatus(ctx context.Context) (*status.Server, error) {
	r, err := c.request(ctx, KindServer, nil, nil)
	switch {
	case err != nil:
		return nil, err
	case r.Code == CodeUnknown:
		return nil, fmt.Errorf("the connection server does not tell its status: it is of an older release than this debugger (%w)", r.err())
	case r.Code != CodeOK:
		return nil, r.err()
	case r.Server == nil:
		return nil, protocolErrorf("a server's status without a status")
	}
	return r.Server, nil
}

// Next implements target.Target.
func (c *Client) Next(ctx context.Context) (target.Event, error) {
	for {
		c.mu.Lock()
		if len(c.events) > 0 {
			q := c.events[0]
			c.events[0] = queued{}
			c.events = c.events[1:]
			var ack uint64
			if q.seq != 0 {
				c.read = q.seq
				size := sizeOf(&q.ev)
				c.unacked += size
				c.waiting -= size
				if len(c.events) == 0 || c.unacked >= logAhead/8 {
					ack, c.unacked = c.read, 0
				}
			}
			cc := c.conn
			c.mu.Unlock()
			if ack != 0 && cc != nil {
				cc.w.send(0, KindAck, binary.LittleEndian.AppendUint64(nil, ack))
			}
			return q.ev, nil
		}
		ended, change := c.ended, c.change
		c.mu.Unlock()
		if ended {
			return target.Event{}, target.ErrClosed
		}
		select {
		case <-change:
		case <-ctx.Done():
			return target.Event{}, ctx.Err()
		}
	}
}

// Time that Close waits for the last events.
const lastEvents = 2 * time.Second

// Close implements target.Target. When the connection is lost the server does
// not hear of it: the error says so, and the target is let go when the grace
// time has passed.
func (c *Client) Close(ctx context.Context, l target.Leave) error {
	c.mu.Lock()
	cc, again := c.conn, c.leaving
	c.leaving = true
	c.mu.Unlock()
	var err error
	switch {
	case again:
	case cc == nil:
		c.mu.Lock()
		if c.failed == nil {
			err = fmt.Errorf("%w: the server lets the target run when %d s have passed since then", ErrDisconnected, c.opened.Grace)
		}
		c.mu.Unlock()
	default:
		var r Result
		if r, err = cc.request(ctx, KindClose, []byte{byte(l)}, nil); err == nil {
			err = r.err()
		}
		c.mu.Lock()
		if errors.Is(err, target.ErrClosed) || c.ended && errors.Is(err, ErrDisconnected) {
			err = nil // it had ended by itself
		}
		c.mu.Unlock()
		// The events behind the last one read are still on their way.
		t := time.NewTimer(lastEvents)
		defer t.Stop()
		for waiting := true; waiting; {
			c.mu.Lock()
			ended, change := c.ended || c.failed != nil, c.change
			c.mu.Unlock()
			if ended {
				break
			}
			select {
			case <-change:
			case <-t.C:
				waiting = false
			case <-ctx.Done():
				waiting = false
			}
		}
	}
	c.stop()
	if cc != nil {
		cc.w.finish(time.Second)
	}
	c.wg.Wait()
	return err
}
