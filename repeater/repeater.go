// Package repeater passes bytes on between debuggers that cannot reach each
// other: a client on one side, a server on the other, any door of package
// carrier for each, in either direction of connecting.
//
// It is blind to the bytes. TLS, passwords and what debuggers say are between
// the two ends; a repeater in the middle can delay and cut, and that is all.
// It is never in a list of servers. The command line and its facts are
// Microsoft's ("Repeaters"), where the program is called dbengprx.
//
// # Who is connected with whom
//
// A client that comes gets a server of his own: a repeater that reaches its
// server dials once for each client. With clicon= on the server's side servers
// connect in and wait; the one that has waited longest is given to the client
// that has. One kdsrv with clicon= connects once at a time, so its clients take
// turns.
//
// Clients speak first: that is so in every protocol that goes through here. A
// server that connected in and speaks unasked is none. A connection that one
// side made on suspicion (a client of clicon=, one that waits for such a
// server) counts as a client from its first byte, so that a silent one takes
// nobody's server.
package repeater

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"openkd/connstr"
	"openkd/transport/carrier"
	"openkd/transport/comline"
)

// Options tune a Repeater. The zero value is right for production, but for
// Keep.
type Options struct {
	Logger *slog.Logger // nil: nothing is logged
	// Keep goes on when the last connection has ended (-p).
	Keep bool
	// Within bounds one attempt to reach the server, and the silence of a
	// client before its first byte where that is waited for. 0: 10 s.
	Within time.Duration
	// Wait bounds how long a client waits for a server that connects in.
	// 0: 30 s.
	Wait time.Duration
	// Linger bounds the silence of a connection one direction of which has
	// ended. 0: 1 min.
	Linger time.Duration
	// MaxClients bounds the clients at one time. 0: 4096.
	MaxClients int
	// PipeUsers may use a named pipe besides its owner (carrier.Options).
	PipeUsers []string

	lines *comline.Lines // shared by all that passes through
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&o.Within, 10*time.Second)
	def(&o.Wait, 30*time.Second)
	def(&o.Linger, time.Minute)
	if o.MaxClients <= 0 {
		o.MaxClients = 4096
	}
	o.lines = new(comline.Lines)
	return o
}

func (o Options) carrier() carrier.Options {
	return carrier.Options{Logger: o.Logger, Within: o.Within, PipeUsers: o.PipeUsers, Lines: o.lines}
}

// Bounds of the servers that connected in and wait for a client: those from
// the machine that clicon= names, and all others.
const (
	maxNamed  = 256
	maxOthers = 64
)

// Repeater passes connections on.
type Repeater struct {
	o   Options
	log *slog.Logger

	server  connstr.Transport // how the server is reached
	clients carrier.Listener
	servers carrier.Listener // nil: servers are dialled
	// callsClients: clients are connected to, one at a time.
	callsClients bool

	// Servers that wait, each sent by a goroutine of its own. Senders and
	// receivers of a channel are served in the order in which they came.
	named, others chan *leg
	names         []netip.Addr // of the machine of clicon=

	end context.CancelCauseFunc

	mu     sync.Mutex
	n      int  // clients that are here
	paired bool // there was a connection
	told   time.Time
}

// Open opens both sides: server is how the server is reached (a client's
// transport), client is what clients connect to (a server's transport). ctx
// bounds the opening only. Nothing is passed on before Run.
func Open(ctx context.Context, server, client connstr.Transport, o Options) (*Repeater, error) {
	if err := Check(server, client); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	r := &Repeater{
		o: o, log: o.Logger, server: server, callsClients: client.ClientOf != "",
		named: make(chan *leg), others: make(chan *leg),
	}
	var err error
	if server.ClientOf != "" {
		if r.servers, err = carrier.Await(ctx, server, o.carrier()); err != nil {
			return nil, err
		}
		r.server = r.servers.Transport()
		r.names = r.lookUp(ctx, server.ClientOf)
	}
	if r.clients, err = carrier.Listen(ctx, client, o.carrier()); err != nil {
		r.Close()
		return nil, err
	}
	if err := r.loops(ctx); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Server is how the server is reached, with the port that is listened on if it
// connects in.
func (r *Repeater) Server() connstr.Transport { return r.server }

// Client is what clients connect to, with the port that was taken.
func (r *Repeater) Client() connstr.Transport { return r.clients.Transport() }

// Close closes a repeater that does not run.
func (r *Repeater) Close() {
	if r.clients != nil {
		r.clients.Close()
	}
	if r.servers != nil {
		r.servers.Close()
	}
}

var errLast = errors.New("the last connection ended")

// Run passes connections on until ctx ends or, without Options.Keep, until the
// last connection has ended. Then it closes everything, waits for all of it,
// and says why it ended. It may be called once.
func (r *Repeater) Run(ctx context.Context) error {
	ctx, r.end = context.WithCancelCause(ctx)
	defer r.end(nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		<-ctx.Done()
		r.Close()
	})
	if r.servers != nil {
		wg.Go(func() { r.acceptServers(ctx, &wg) })
	}
	r.acceptClients(ctx, &wg)
	r.end(net.ErrClosed)
	wg.Wait()
	return context.Cause(ctx)
}

// next is Accept that survives its errors; nil: the repeater ends.
func (r *Repeater) next(ctx context.Context, ln carrier.Listener) net.Conn {
	for {
		c, err := ln.Accept()
		if err == nil {
			return c
		}
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			return nil
		}
		r.log.Warn("accepting a connection failed", "at", ln.Addr().String(), "error", err)
		t := time.NewTimer(100 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

func (r *Repeater) acceptClients(ctx context.Context, wg *sync.WaitGroup) {
	for {
		var s *leg
		if r.callsClients && r.servers != nil {
			// No client is called before there is a server for him.
			select {
			case s = <-r.named:
			case s = <-r.others:
			case <-ctx.Done():
				return
			}
		}
		c := r.next(ctx, r.clients)
		if c == nil {
			if s != nil {
				s.drop()
			}
			return
		}
		switch {
		case r.callsClients: // there is one at a time
			r.enter()
			r.serve(ctx, c, s)
		case r.enter():
			wg.Go(func() { r.serve(ctx, c, nil) })
		default:
			c.Close()
		}
	}
}

// enter counts a client, or says that there is no room.
func (r *Repeater) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.n >= r.o.MaxClients {
		if now := time.Now(); now.Sub(r.told) >= time.Second { // a flood must not fill the log
			r.told = now
			r.log.Warn("clients are turned away: no more are passed on at one time", "limit", r.o.MaxClients)
		}
		return false
	}
	r.n++
	return true
}

func (r *Repeater) leave(paired bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n--
	r.paired = r.paired || paired
	if !r.o.Keep && r.paired && r.n == 0 {
		r.end(errLast)
	}
}

// serve finds a server for a client and passes bytes between them. s is a
// server that was taken for him already, or nil.
func (r *Repeater) serve(ctx context.Context, conn net.Conn, s *leg) {
	paired := false
	defer func() { r.leave(paired) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c := newLeg(conn)
	defer c.drop()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	log := r.log.With("client", c.name())

	s, err := r.reach(ctx, log, c, s)
	if err != nil {
		switch {
		case ctx.Err() != nil:
		case errors.Is(err, errLeft):
			log.Info("the client left before there was a server")
		default:
			log.Warn("the client is let go", "error", err)
		}
		return
	}
	defer s.drop()
	defer context.AfterFunc(ctx, func() { s.Close() })()
	paired = true
	log = log.With("server", s.name())
	log.Info("connected")
	up, down, why := pass(c, s, r.o.Linger)
	if ctx.Err() != nil {
		why = "the repeater ends"
	}
	log.Info("ended", "reason", why, "to_server", up, "to_client", down)
}

var errLeft = errors.New("the client left")

// reach finds a server for the client c. It returns with both free to be read.
func (r *Repeater) reach(ctx context.Context, log *slog.Logger, c, s *leg) (*leg, error) {
	if r.callsClients || r.servers != nil {
		c.watch()
		silence := r.o.Within
		if r.callsClients {
			silence = 0 // it may be a repeater whose client comes in an hour
		}
		if err := c.awaitFirst(ctx, silence); err != nil {
			if s != nil {
				s.drop()
			}
			return nil, err
		}
	}
	var err error
	if r.servers != nil {
		s, err = r.takeServer(ctx, log, c, s)
	} else {
		s, err = r.dial(ctx)
	}
	if err != nil {
		return nil, err
	}
	if !c.claim() {
		s.drop()
		return nil, errLeft
	}
	return s, nil
}

func (r *Repeater) dial(ctx context.Context) (*leg, error) {
	conn, err := carrier.Dial(ctx, r.server, r.o.carrier())
	if err != nil {
		return nil, fmt.Errorf("the server cannot be reached: %w", err)
	}
	return newLeg(conn), nil
}

// takeServer takes a server that has connected in, or waits for one. s is one
// that was taken already, and may have gone since, or nil.
func (r *Repeater) takeServer(ctx context.Context, log *slog.Logger, c, s *leg) (*leg, error) {
	t := time.NewTimer(r.o.Wait)
	defer t.Stop()
	for {
		if s != nil {
			if s.claim() && len(s.head) == 0 { // else it spoke before it was asked
				return s, nil
			}
			s.drop()
		}
		select {
		case s = <-r.named:
			continue
		default:
		}
		select {
		case s = <-r.others:
			continue
		default:
		}
		log.Info("the client waits for a server to connect in; one kdsrv with clicon= connects once at a time")
		select {
		case s = <-r.named:
		case s = <-r.others:
		case <-c.gone:
			return nil, errLeft
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-t.C:
			return nil, fmt.Errorf("no server has connected to port %d within %v: is kdsrv -t %s:port=%d,clicon=<this machine> running there, and free?",
				r.server.Port, r.o.Wait, r.server.Proto, r.server.Port)
		}
	}
}

// acceptServers takes in servers and holds them until a client takes them.
func (r *Repeater) acceptServers(ctx context.Context, wg *sync.WaitGroup) {
	named, others := make(chan struct{}, maxNamed), make(chan struct{}, maxOthers)
	for {
		conn := r.next(ctx, r.servers)
		if conn == nil {
			return
		}
		log := r.log.With("server", conn.RemoteAddr().String())
		to, places := r.others, others
		if r.isNamed(conn.RemoteAddr()) {
			to, places = r.named, named
		}
		select {
		case places <- struct{}{}:
		default:
			log.Warn("a server is turned away: enough wait for a client already", "waiting", cap(places))
			conn.Close()
			continue
		}
		log.Info("a server connected in and waits for a client", "named by clicon", to == r.named)
		wg.Go(func() {
			defer func() { <-places }()
			l := newLeg(conn)
			l.watch()
			select {
			case to <- l:
				return
			case <-l.spoke:
				log.Info("what connected in is no server: it spoke before it was asked")
			case <-l.gone:
				log.Info("a server left before a client came")
			case <-ctx.Done():
			}
			l.drop()
		})
	}
}
