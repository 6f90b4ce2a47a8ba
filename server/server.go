// Package server is the connection server: it holds the sessions with targets
// on behalf of clients that may be far away, come and go.
//
// A session belongs to one link. Its lease is held by one client; another one
// is refused with the holder's name, or takes over when it says so. When the
// holder's connection is lost the session waits for him for the grace time;
// then our breakpoints are removed and the target runs. A server that ends does
// the same for every session. Nobody's machine stays frozen, unless its holder
// said so in Close.
//
// The package speaks kdrpc to clients and target.Target to what is below. It
// opens no link by itself (Options.Opener does), parses no command line, and
// listens on nothing: it is given streams that have authenticated already.
package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"openkd/kdrpc"
	"openkd/status"
	"openkd/target"
	"openkd/transport"
)

// Options configure a Server.
type Options struct {
	Logger *slog.Logger // nil: nothing is logged

	// Opener opens a link. link is what the client typed; the server's machine
	// fills in what is missing. The string is the link in canonical spelling:
	// two links with the same one are the same line. ctx bounds the opening
	// only, not the life of the target.
	Opener func(ctx context.Context, link string, cfg target.Config) (target.Target, string, error)

	// Canonical tells the canonical spelling without opening anything, so that
	// a second client is refused before the line is touched. nil: the link as
	// it is, without blanks around it.
	Canonical func(link string) (string, error)

	// Grace is how long a session waits for a client whose connection was
	// lost. 0: 60 s. Less than zero: not at all.
	Grace time.Duration

	// MaxClients bounds the connections that are served at once; more are
	// refused with a message. 0: DefaultMaxClients.
	MaxClients int

	// CloseWithin bounds letting a target go. 0: 10 s.
	CloseWithin time.Duration

	Release  string         // of the program, for hellos; "": kdrpc.Release
	Timeouts kdrpc.Timeouts // of the connections
}

// DefaultMaxClients is how many clients one server takes, unless told otherwise.
const DefaultMaxClients = 4096

// Connections over the bound that are told so at once. Beyond, they are closed
// without a word.
const maxRefusing = 64

// Server is a connection server.
//
// Concurrency: any method from any goroutine.
type Server struct {
	o     Options
	log   *slog.Logger
	local bool
	ctx   context.Context
	stop  context.CancelFunc

	endOnce sync.Once
	endC    chan struct{}

	started time.Time

	mu       sync.Mutex
	sessions map[string]*session // by canonical line, and by what the client typed while it opens
	doors    []*door             // in the order they were opened
	present  map[*client]bool
	refusing int
	ending   bool
	down     chan struct{} // closed when Shutdown is through
	wg       sync.WaitGroup
}

// New returns a server that holds no session yet.
func New(o Options) *Server {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Canonical == nil {
		o.Canonical = func(link string) (string, error) { return strings.TrimSpace(link), nil }
	}
	if o.Grace == 0 {
		o.Grace = time.Minute
	}
	if o.MaxClients <= 0 {
		o.MaxClients = DefaultMaxClients
	}
	if o.CloseWithin <= 0 {
		o.CloseWithin = 10 * time.Second
	}
	s := &Server{
		o: o, log: o.Logger, endC: make(chan struct{}), down: make(chan struct{}), started: time.Now(),
		sessions: make(map[string]*session), present: make(map[*client]bool),
	}
	s.ctx, s.stop = context.WithCancel(context.Background())
	return s
}

// InProcess returns a server for clients in this process, which reach it with
// Dial. It cannot be ended by .endpsrv: it ends with the process.
func InProcess(o Options) *Server {
	s := New(o)
	s.local = true
	return s
}

// Dial connects a client in this process over a pipe.
func (s *Server) Dial(context.Context) (net.Conn, error) {
	a, b := transport.Pipe()
	if !s.spawn(func() { s.serveConn(b, nil) }) {
		return nil, errors.New("the server has ended")
	}
	return a, nil
}

// spawn runs f unless the server has ended.
func (s *Server) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ending {
		return false
	}
	s.wg.Go(f)
	return true
}

// Serve serves what a listener accepts until the listener is closed, ctx ends
// or the server is shut down. It does not close the listener. Connections live
// on until Shutdown.
func (s *Server) Serve(ctx context.Context, l transport.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	d := &door{transport: l.Transport().String(), address: l.Addr().String()}
	s.mu.Lock()
	s.doors = append(s.doors, d)
	s.mu.Unlock()
	defer s.shut(d)
	for {
		c, err := l.Accept(ctx)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return nil
			}
			return err
		}
		if !s.spawn(func() { s.serveConn(c, d) }) {
			c.Close()
			return nil
		}
	}
}

// shut takes a door off the list.
func (s *Server) shut(d *door) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.doors = slices.DeleteFunc(s.doors, func(o *door) bool { return o == d })
}

func (s *Server) serveConn(conn net.Conn, d *door) {
	c := &client{s: s, d: d, peer: conn.RemoteAddr().String(), since: time.Now()}
	log := s.log.With("peer", c.peer, "door", c.doorName())
	defer func() {
		if v := recover(); v != nil {
			conn.Close()
			log.Error("a connection panicked", "panic", v, "stack", string(debug.Stack()))
		}
	}()
	o := kdrpc.ServeOptions{Logger: s.log, Release: s.o.Release, Timeouts: s.o.Timeouts, Meter: &c.meter}
	leave, full, ok := s.enter(c)
	if !ok {
		conn.Close()
		return
	}
	defer leave()
	if full {
		o.Refuse = &kdrpc.Refusal{Code: kdrpc.RefusedFull, Text: fmt.Sprintf("the server has %d clients, which is as many as it takes; one has to leave first (its -maxclients says how many)", s.o.MaxClients)}
		log.Warn("client refused", "audit", "refuse", "reason", "too many clients", "clients", s.o.MaxClients)
		kdrpc.Serve(s.ctx, conn, c, o)
		return
	}
	log.Info("client connected", "audit", "connect")
	err := kdrpc.Serve(s.ctx, conn, c, o)
	in, out := c.meter.Bytes()
	s.mu.Lock()
	owner := c.owner
	s.mu.Unlock()
	log.Info("client gone", "audit", "disconnect", "owner", owner, "duration", time.Since(c.since), "in", in, "out", out, "reason", reason(err))
}

// reason is why a connection ended, for the log.
func reason(err error) string {
	if err == nil {
		return "it left"
	}
	return status.Clean(err.Error(), maxReason)
}

// enter counts a connection. full: it is over the bound, to be told so; not
// ok: not even that.
func (s *Server) enter(c *client) (leave func(), full, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.present) < s.o.MaxClients {
		s.present[c] = true
		if c.d != nil {
			c.d.clients++
			c.d.accepted++
		}
		return func() { s.leave(c) }, false, true
	}
	if s.refusing >= maxRefusing {
		return nil, true, false
	}
	s.refusing++
	return func() {
		s.mu.Lock()
		s.refusing--
		s.mu.Unlock()
	}, true, true
}

func (s *Server) leave(c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.present, c)
	if c.d != nil {
		in, out := c.meter.Bytes()
		c.d.clients, c.d.in, c.d.out = c.d.clients-1, c.d.in+in, c.d.out+out
	}
}

// EndAsked is closed when a client asked the server to end (.endpsrv). Whoever
// runs the server then calls Shutdown.
func (s *Server) EndAsked() <-chan struct{} { return s.endC }

func (s *Server) endServer(c *client, peer string) (end func(), err error) {
	if s.local {
		return nil, fmt.Errorf("%w: there is no server process to end; this link is served inside the debugger", target.ErrBadRequest)
	}
	s.mu.Lock()
	owner := c.owner
	s.mu.Unlock()
	s.log.Warn("a client asked the server to end", "audit", "endpsrv", "peer", peer, "door", c.doorName(), "owner", owner)
	return func() { s.endOnce.Do(func() { close(s.endC) }) }, nil
}

// Info describes a session.
type Info struct {
	Line  string
	Owner string
	Peer  string
	Since time.Time // of the lease
	Epoch uint64
	Lost  time.Time // when the holder's connection was lost; zero: it is there
}

// Sessions lists the sessions by line.
func (s *Server) Sessions() []Info {
	var out []Info
	for _, ses := range s.list() {
		if info, ok := ses.info(); ok {
			out = append(out, info)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Line < out[j].Line })
	return out
}

func (s *Server) list() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	seen := make(map[*session]bool)
	var out []*session
	for _, ses := range s.sessions {
		if !seen[ses] {
			seen[ses] = true
			out = append(out, ses)
		}
	}
	return out
}

// Shutdown ends every session, with the targets running, and every connection.
// It waits for all of it, but not longer than Options.CloseWithin for a target
// and not longer than ctx.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	again := s.ending
	s.ending = true
	s.mu.Unlock()
	if again {
		select {
		case <-s.down:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		var wg sync.WaitGroup
		for _, ses := range s.list() {
			wg.Go(func() {
				select {
				case <-ses.ready:
				case <-ses.ended:
					return
				case <-ctx.Done():
					return
				}
				if !s.local {
					ses.log.Append(target.Event{Kind: target.EventNotice, Time: time.Now(), Text: "The server is ending; the target is let go."})
				}
				ses.end(ctx, target.LeaveRunning, "the server is ending")
				ses.drain(ctx, time.Second)
			})
		}
		wg.Wait()
		s.stop()
		s.wg.Wait()
		close(s.down)
	}()
	select {
	case <-finished:
		return nil
	case <-ctx.Done():
		s.stop()
		return ctx.Err()
	}
}

// open gives a client a session.
func (s *Server) open(ctx context.Context, o kdrpc.Open, peer string) (kdrpc.Session, error) {
	if o.Resume != nil {
		return s.resume(o, peer)
	}
	key, err := s.o.Canonical(o.Link)
	if err != nil {
		return nil, &kdrpc.Refusal{Code: kdrpc.RefusedLink, Text: err.Error()}
	}
	for {
		s.mu.Lock()
		if s.ending {
			s.mu.Unlock()
			return nil, &kdrpc.Refusal{Code: kdrpc.RefusedEnding}
		}
		ses := s.sessions[key]
		if ses == nil {
			ses = newSession(s, key, o.Owner, peer)
			s.sessions[key] = ses
			s.mu.Unlock()
			return s.openLine(ctx, ses, o)
		}
		s.mu.Unlock()

		// An owner who comes back without his token (his debugger was killed) gets
		// his session: nobody is working in it.
		back := func(ref *kdrpc.Refusal) bool { return !ref.LostSince.IsZero() && ref.Holder == o.Owner }
		if ref := ses.heldFrom(); ref != nil && !o.TakeOver && !back(ref) {
			return nil, ref
		}
		select { // it opens, and is taken over then; or it ends, and is opened anew
		case <-ses.ready:
			a, ref := ses.takeOver(o.Owner, peer, o.TakeOver)
			if ref != nil { // he came back meanwhile
				return nil, ref
			}
			if a != nil {
				a.configure(ctx, o.Config)
				return a, nil
			}
		case <-ses.ended:
			continue
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		select {
		case <-ses.ended:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// openLine opens the line of a session that is in the table already.
func (s *Server) openLine(ctx context.Context, ses *session, o kdrpc.Open) (kdrpc.Session, error) {
	fail := func(err error) (kdrpc.Session, error) {
		ses.forget()
		var ref *kdrpc.Refusal
		if errors.As(err, &ref) {
			return nil, ref
		}
		return nil, &kdrpc.Refusal{Code: kdrpc.RefusedLink, Text: err.Error()}
	}
	tg, line, err := s.callOpener(ctx, o)
	if err != nil {
		return fail(err)
	}
	s.mu.Lock()
	other := s.sessions[line]
	if other == nil {
		s.sessions[line] = ses
	}
	s.mu.Unlock()
	if other != nil && other != ses { // two spellings of one line
		c, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.o.CloseWithin)
		defer cancel()
		tg.Close(c, target.LeaveRunning)
		ref := other.heldFrom()
		if ref == nil {
			return fail(fmt.Errorf("%s is being closed: try again", line))
		}
		return fail(ref)
	}
	return ses.start(tg, line), nil
}

func (s *Server) callOpener(ctx context.Context, o kdrpc.Open) (tg target.Target, line string, err error) {
	defer func() {
		if v := recover(); v != nil {
			s.log.Error("opening a link panicked", "owner", o.Owner, "panic", v, "stack", string(debug.Stack()))
			err = errors.New("the server has a fault: opening the link failed")
		}
	}()
	return s.o.Opener(ctx, o.Link, o.Config)
}

// resume gives a session back to the owner of its token.
func (s *Server) resume(o kdrpc.Open, peer string) (kdrpc.Session, error) {
	for _, ses := range s.list() {
		if a := ses.resume(o, peer); a != nil {
			return a, nil
		}
	}
	return nil, &kdrpc.Refusal{Code: kdrpc.RefusedToken}
}

func newToken() []byte {
	b := make([]byte, 16)
	rand.Read(b) // never fails: the runtime ends the process instead
	return b
}
