package kdrpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"openkd/status"
	"openkd/target"
)

// Backend is what a server offers to its connections.
type Backend interface {
	// Open gives the session that a client asks for. peer names the other end
	// for people. A *Refusal says why not. ctx ends with the connection.
	Open(ctx context.Context, o Open, peer string) (Session, error)
	// EndServer asks whether the whole server may be ended (.endpsrv). end is
	// called when the answer is on its way; it returns at once.
	EndServer(ctx context.Context, peer string) (end func(), err error)
	// ServerStatus is what the server says about itself. It must not touch a
	// target, nor wait for one.
	ServerStatus(ctx context.Context) (*status.Server, error)
}

// Session is one connection's hold on a session. Its methods may be called
// from any goroutine, as target.Target says.
type Session interface {
	Do(ctx context.Context, batch []target.Request, sink func(target.Part) error) error
	Resume(ctx context.Context, r target.Resume) error
	Switch(ctx context.Context, processor int) error
	BreakIn(ctx context.Context) error
	Answer(ctx context.Context, text string) error
	Control(ctx context.Context, c target.Control) error
	Status(ctx context.Context) (target.Status, error)
	Close(ctx context.Context, l target.Leave) error

	// Opened is what the client is told.
	Opened() Opened
	// Next and Ack are those of an EventLog.
	Next(ctx context.Context, after uint64) (uint64, target.Event, error)
	Ack(seq uint64)
	// Detach says that the connection is gone. It is called once, after every
	// other call has returned.
	Detach()
	// Panicked says that a call above panicked; the session has to end.
	Panicked(v any, stack []byte)
}

// ServeOptions tune Serve.
type ServeOptions struct {
	Logger   *slog.Logger // nil: nothing is logged
	Release  string       // "": Release
	Timeouts Timeouts
	Refuse   *Refusal // answers the hello; the connection ends with it
	Meter    *Meter   // counts the connection; nil: nobody looks
}

// Requests of one connection that may wait or run at once, in turn and out of
// turn.
const (
	maxQueued    = 64
	maxOutOfBand = 32

	// What they hold together, and what one of them may unfold to: the largest
	// batch that is allowed has some 700,000 items.
	maxWaiting = 2 * maxBody // bytes of their bodies
	maxItems   = 1 << 20     // items of CBOR in a body
)

// server is one connection, seen from the server.
type server struct {
	w    *wire
	b    Backend
	peer string
	ctx  context.Context
	stop context.CancelFunc
	log  *slog.Logger

	wg sync.WaitGroup

	mu      sync.Mutex
	queue   []*request // served in turn
	working bool       // by worker, which runs
	session Session
	opening bool
	active  map[uint32]*request
	oob     int
	waiting int // bytes of the bodies of active
	credit  int64
	granted chan struct{} // closed and made anew when credit comes
}

type request struct {
	id     uint32
	kind   Kind
	size   int // of the body in bytes
	body   any
	ctx    context.Context
	cancel context.CancelFunc
}

// Serve serves one connection until it ends, and closes it. It returns nil
// when the client closed it between two frames, and why it ended otherwise. When ctx
// ends, what has been queued for the client still goes out.
func Serve(ctx context.Context, conn net.Conn, b Backend, o ServeOptions) error {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Release == "" {
		o.Release = Release
	}
	s := &server{
		w: newWire(conn, o.Timeouts, o.Meter), b: b, peer: conn.RemoteAddr().String(), log: o.Logger,
		active: make(map[uint32]*request),
		credit: creditWindow, granted: make(chan struct{}),
	}
	s.ctx, s.stop = context.WithCancel(ctx)
	defer s.stop()

	// The end of ctx must end the reading, after a moment for what is queued.
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		s.w.part(time.Second)
	})
	r := s.w.reader()
	err := s.hello(r, o)
	if err == nil {
		openBy := time.AfterFunc(s.w.times.Open, func() {
			s.mu.Lock()
			late := s.session == nil && !s.opening
			s.mu.Unlock()
			if late {
				s.w.fail(errors.New("no session was asked for"))
			}
		})
		err = s.readLoop(r)
		openBy.Stop()
	}
	if why := s.w.reason(); why != nil && !errors.Is(why, net.ErrClosed) {
		err = why
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	s.stop()
	s.wg.Wait()
	s.mu.Lock()
	session := s.session
	s.mu.Unlock()
	if session != nil {
		session.Detach()
	}
	if !stop() {
		<-ended
	}
	s.w.finish(time.Second)
	return err
}

func (s *server) hello(r *frameReader, o ServeOptions) error {
	timer := time.AfterFunc(s.w.times.Hello, func() { s.w.fail(fmt.Errorf("no hello within %v", s.w.times.Hello)) })
	defer timer.Stop()
	f, err := r.next()
	if err != nil {
		return err
	}
	if f.kind != KindHello {
		return protocolErrorf("the first frame is of kind %#x, not a hello", uint8(f.kind))
	}
	var h Hello
	if err := decode(f.payload, &h); err != nil {
		return err
	}
	if h.Magic != magic {
		if h.Magic == magicShare {
			// A debugger that wants to join a shared session learns what this is.
			s.w.send(0, KindHello, encode(Hello{Magic: magic, Release: o.Release, Min: ProtocolMin, Max: ProtocolMax}))
			s.w.finish(time.Second)
			return protocolErrorf("the client wants to join a shared session (-remote), and this is a connection server")
		}
		return protocolErrorf("the hello is of something else")
	}
	refuse := func(ref *Refusal) {
		s.w.send(0, KindRefuse, encode(ref))
		s.w.finish(time.Second)
	}
	release := o.Release
	if h.Min > ProtocolMax || h.Max < ProtocolMin || h.Min > h.Max {
		refuse(&Refusal{Code: RefusedVersion, Text: "no common protocol version", Release: release, Min: ProtocolMin, Max: ProtocolMax})
		return fmt.Errorf("the client is release %q and speaks protocol %d to %d; this server is release %q and speaks %d to %d",
			limitText(h.Release), h.Min, h.Max, release, ProtocolMin, ProtocolMax)
	}
	if o.Refuse != nil {
		refuse(o.Refuse)
		return o.Refuse
	}
	return s.w.send(0, KindHello, encode(Hello{Magic: magic, Release: release, Min: ProtocolMin, Max: ProtocolMax}))
}

func (s *server) readLoop(r *frameReader) error {
	return r.each(maxBody, s.take)
}

// take handles one body. It must not wait.
func (s *server) take(id uint32, kind Kind, body []byte) error {
	le := binary.LittleEndian
	switch kind {
	case KindPing:
		s.w.pong()
		return nil
	case KindPong:
		s.w.ponged()
		return nil
	case KindCancel:
		s.mu.Lock()
		if rq := s.active[id]; rq != nil {
			rq.cancel()
		}
		s.mu.Unlock()
		return nil
	case KindCredit:
		if len(body) != 4 {
			return protocolErrorf("a credit of %d bytes", len(body))
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.credit += int64(le.Uint32(body))
		if s.credit > creditWindow {
			return protocolErrorf("more credit than the window has")
		}
		close(s.granted)
		s.granted = make(chan struct{})
		return nil
	case KindAck:
		if len(body) != 8 {
			return protocolErrorf("an acknowledgement of %d bytes", len(body))
		}
		if ses := s.current(); ses != nil {
			ses.Ack(le.Uint64(body))
		}
		return nil
	}

	rq := &request{id: id, kind: kind, size: len(body)}
	s.mu.Lock()
	full := s.waiting+rq.size > maxWaiting
	s.mu.Unlock()
	if full {
		s.reply(id, Result{Code: CodeBadRequest, Text: fmt.Sprintf("requests of more than %d MiB wait on this connection", maxWaiting>>20)})
		return nil
	}
	inTurn := true
	var err error
	switch kind {
	case KindOpen:
		var o Open
		err = decode(body, &o)
		rq.body = o
		s.mu.Lock()
		if s.opening {
			err = protocolErrorf("a second open on one connection")
		}
		s.opening = true
		s.mu.Unlock()
	case KindDo:
		var b []target.Request
		err = decode(body, &b)
		rq.body = b
	case KindResume:
		var r target.Resume
		err = decode(body, &r)
		rq.body = r
	case KindSwitch:
		if len(body) != 4 {
			return protocolErrorf("a switch of %d bytes", len(body))
		}
		rq.body = int(int32(le.Uint32(body)))
	case KindClose:
		if len(body) != 1 || body[0] > byte(target.LeaveHalted) {
			return protocolErrorf("a close that is not one")
		}
		rq.body = target.Leave(body[0])
	case KindAnswer:
		rq.body, inTurn = string(body), false
	case KindControl:
		var c target.Control
		err = decode(body, &c)
		rq.body, inTurn = c, false
	case KindBreakIn, KindStatus, KindEndServer, KindServer:
		inTurn = false
	default:
		if kind < KindOpen || kind >= KindCancel {
			return nil // of a later version, and no request: nobody waits for an answer
		}
		s.reply(id, Result{Code: CodeUnknown, Text: fmt.Sprintf("this server does not know requests of kind %#x", uint8(kind))})
		return nil
	}
	if err != nil {
		return err
	}

	rq.ctx, rq.cancel = context.WithCancel(s.ctx)
	s.mu.Lock()
	if s.active[id] != nil {
		s.mu.Unlock()
		rq.cancel()
		return protocolErrorf("request id %d is in use", id)
	}
	if !inTurn && s.oob >= maxOutOfBand {
		s.mu.Unlock()
		rq.cancel()
		s.reply(id, Result{Code: CodeBadRequest, Text: "too many requests at once"})
		return nil
	}
	s.active[id] = rq
	s.waiting += rq.size
	if !inTurn {
		s.oob++
	}
	s.mu.Unlock()
	if !inTurn {
		s.wg.Go(func() {
			s.serve(rq)
			s.mu.Lock()
			s.oob--
			s.mu.Unlock()
		})
		return nil
	}
	s.mu.Lock()
	full = len(s.queue) >= maxQueued
	start := !full && !s.working
	if !full {
		s.queue = append(s.queue, rq)
		s.working = true
	}
	s.mu.Unlock()
	if full {
		s.done(rq)
		return protocolErrorf("more than %d requests wait", maxQueued)
	}
	if start {
		s.wg.Go(s.worker)
	}
	return nil
}

func (s *server) current() Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.session
}

func (s *server) done(rq *request) {
	s.mu.Lock()
	delete(s.active, rq.id)
	s.waiting -= rq.size
	s.mu.Unlock()
	rq.cancel()
}

func (s *server) reply(id uint32, r Result) {
	if r.Code == CodeOK && r.Status == nil && r.Server == nil {
		s.w.send(id, KindDone, nil)
		return
	}
	body := encode(r)
	for r.Server != nil && len(body) > maxEventBody { // thousands of very long names
		st := *r.Server
		st.Sessions, st.Clients = st.Sessions[:len(st.Sessions)/2], st.Clients[:len(st.Clients)/2]
		r.Server = &st
		body = encode(r)
	}
	s.w.send(id, KindDone, body)
}

// worker serves what waits, and ends: an idle connection needs none.
func (s *server) worker() {
	for {
		s.mu.Lock()
		if len(s.queue) == 0 {
			s.queue, s.working = nil, false
			s.mu.Unlock()
			return
		}
		rq := s.queue[0]
		s.queue = s.queue[1:]
		s.mu.Unlock()
		if s.ctx.Err() != nil {
			s.done(rq)
			continue
		}
		s.serve(rq)
	}
}

// serve runs one request. A panic of what is called ends the session and this
// connection, and nothing else.
func (s *server) serve(rq *request) {
	defer func() {
		if v := recover(); v != nil {
			s.done(rq)
			s.reply(rq.id, Result{Code: CodeClosed, Text: "the server has a fault; this session is ended"})
			s.log.Error("a session panicked", "peer", s.peer, "panic", v, "stack", string(debug.Stack()))
			if ses := s.current(); ses != nil {
				ses.Panicked(v, debug.Stack())
			} else {
				s.w.fail(fmt.Errorf("panic: %v", v))
			}
		}
	}()
	r, answered := s.answer(rq)
	s.done(rq)
	if !answered {
		if r.Code == CodeCanceled && s.ctx.Err() != nil {
			// The connection ends, and with it the request: nobody cancelled it. A
			// client that still gets to read would believe so.
			return
		}
		s.reply(rq.id, r)
	}
}

// answer runs one request; answered says that the answer has been sent.
func (s *server) answer(rq *request) (r Result, answered bool) {
	switch rq.kind {
	case KindOpen:
		return s.open(rq)
	case KindEndServer:
		// Without a session too: who got here has authenticated.
		end, err := s.b.EndServer(rq.ctx, s.peer)
		if err != nil {
			return resultOf(err), false
		}
		s.reply(rq.id, Result{})
		end()
		return Result{}, true
	case KindServer:
		st, err := s.b.ServerStatus(rq.ctx)
		if err != nil {
			return resultOf(err), false
		}
		return Result{Server: st}, false
	}
	ses := s.current()
	if ses == nil {
		return Result{Code: CodeBadRequest, Text: "no session is open on this connection"}, false
	}
	var err error
	switch rq.kind {
	case KindDo:
		err = s.do(rq, ses)
	case KindResume:
		err = ses.Resume(rq.ctx, rq.body.(target.Resume))
	case KindSwitch:
		err = ses.Switch(rq.ctx, rq.body.(int))
	case KindBreakIn:
		err = ses.BreakIn(rq.ctx)
	case KindAnswer:
		err = ses.Answer(rq.ctx, rq.body.(string))
	case KindControl:
		err = ses.Control(rq.ctx, rq.body.(target.Control))
	case KindStatus:
		var st target.Status
		if st, err = ses.Status(rq.ctx); err == nil {
			return Result{Status: &st}, false
		}
	case KindClose:
		err = ses.Close(rq.ctx, rq.body.(target.Leave))
	}
	return resultOf(err), false
}

func (s *server) open(rq *request) (Result, bool) {
	ses, err := s.b.Open(rq.ctx, rq.body.(Open), s.peer)
	if err != nil {
		return resultOf(err), false
	}
	opened := ses.Opened()
	s.mu.Lock()
	s.session = ses
	s.mu.Unlock()
	s.w.send(rq.id, KindOpened, encode(opened))
	if s.w.probe {
		s.w.ping() // the first measurement
	}
	s.wg.Go(func() { s.push(ses, opened.After) })
	return Result{}, true
}

// push sends events until the session or the connection ends.
func (s *server) push(ses Session, after uint64) {
	for {
		seq, e, err := ses.Next(s.ctx, after)
		if errors.Is(err, target.ErrClosed) {
			s.w.send(0, KindEvent, nil) // no more events
			return
		}
		if err != nil {
			return
		}
		if err := s.w.waitRoom(s.ctx); err != nil {
			return
		}
		s.w.send(0, KindEvent, encodeEvent(seq, e))
		after = seq
	}
}

// do runs a batch. Its parts are cut to fragments and wait for credit and for
// room on the wire, so that a slow client slows the target's line instead of
// filling this machine's memory.
func (s *server) do(rq *request, ses Session) error {
	return ses.Do(rq.ctx, rq.body.([]target.Request), func(p target.Part) error {
		data := p.Data
		for {
			n := min(len(data), fragment)
			if err := s.spend(rq.ctx, int64(n)); err != nil {
				return err
			}
			if err := s.w.waitRoom(rq.ctx); err != nil {
				return err
			}
			if err := s.w.sendPart(rq.id, &p, data[:n], p.Done && n == len(data)); err != nil {
				return err
			}
			p.Offset += uint64(n)
			if data = data[n:]; len(data) == 0 {
				return nil
			}
		}
	})
}

func (s *server) spend(ctx context.Context, n int64) error {
	for {
		s.mu.Lock()
		if s.credit >= n {
			s.credit -= n
			s.mu.Unlock()
			return nil
		}
		granted := s.granted
		s.mu.Unlock()
		select {
		case <-granted:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
