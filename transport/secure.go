package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"openkd/connstr"
	"openkd/transport/carrier"
)

// clientHandshake makes raw a TLS stream and proves the password over it.
func clientHandshake(ctx context.Context, raw net.Conn, t connstr.Transport, addr string, o Options) (Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, o.Handshake)
	defer cancel()
	// A cancelled context must interrupt the reads of the password exchange too.
	stop := context.AfterFunc(ctx, func() { raw.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	cfg, err := clientTLS(t)
	if err != nil {
		raw.Close()
		return nil, err
	}
	c := tls.Client(raw, cfg)
	if err := c.HandshakeContext(ctx); err != nil {
		raw.Close()
		var record tls.RecordHeaderError
		var op *net.OpError
		switch {
		case errors.As(err, &record):
			err = errors.New("the other side does not speak TLS: is a kdsrv of this program listening there?")
		case refusedCertificate(err) != "":
			err = errors.New(refusedCertificate(err))
		case remoteAlert(err) != "":
			err = fmt.Errorf("the other side refused the TLS handshake (%s): is a kdsrv of this program listening there, and does it speak the same proto=?", remoteAlert(err))
		case ctx.Err() != nil:
			err = fmt.Errorf("no answer to the TLS handshake within %v: is a kdsrv listening there?", o.Handshake)
		case errors.Is(err, io.EOF) || errors.As(err, &op) && (op.Op == "read" || op.Op == "write"):
			err = fmt.Errorf("the other side ended the connection before it said anything (%w): is a kdsrv listening there, or a repeater that does not reach its server?", err)
		}
		return nil, fmt.Errorf("connecting to %s: %w", addr, err)
	}
	if c.ConnectionState().NegotiatedProtocol != authALPN {
		raw.Close()
		return nil, fmt.Errorf("connecting to %s: a TLS server that is no kdsrv is listening there", addr)
	}
	if err := authClient(c, t.Password, addr); err != nil {
		raw.Close()
		// TLS 1.3 tells here, not in its handshake, what it thinks of our side.
		if why := refusedCertificate(err); why != "" {
			return nil, fmt.Errorf("connecting to %s: %s", addr, why)
		}
		return nil, err
	}
	if !stop() {
		raw.Close()
		return nil, fmt.Errorf("connecting to %s: %w", addr, ctx.Err())
	}
	return c, nil
}

// awaitServer is Dial of a reverse connection: it listens until a server has
// connected and proved itself. What else connects is dropped. A wrong password
// ends it, since nobody would see why nothing happens.
func awaitServer(ctx context.Context, t connstr.Transport, o Options) (Conn, error) {
	ln, err := carrier.Await(ctx, t, o.carrier())
	if err != nil {
		return nil, err
	}
	if o.OnListen != nil {
		o.OnListen(ln.Transport())
	}
	ctx, cancel := context.WithCancel(ctx)
	type result struct {
		c   Conn
		err error
	}
	var wg sync.WaitGroup
	won := make(chan result, 1)
	places := make(chan struct{}, o.MaxPending)
	wg.Go(func() {
		for {
			raw, err := ln.Accept()
			if err != nil {
				return
			}
			select {
			case places <- struct{}{}:
			case <-ctx.Done():
				raw.Close()
				return
			}
			wg.Go(func() {
				defer func() { <-places }()
				c, err := clientHandshake(ctx, raw, t, raw.RemoteAddr().String(), o)
				var ae *AuthError
				if err != nil && !(errors.As(err, &ae) && ae.Reason != AuthIncomplete) {
					o.Logger.Debug("what connected is no server of ours", "peer", raw.RemoteAddr().String(), "error", err)
					return
				}
				select {
				case won <- result{c, err}:
				default:
					if c != nil {
						c.Close()
					}
				}
			})
		}
	})
	var r result
	select {
	case r = <-won:
	case <-ctx.Done():
		r.err = fmt.Errorf("waiting for %s to connect to %s: %w", t.ClientOf, ln.Addr(), ctx.Err())
	}
	ln.Close()
	cancel()
	wg.Wait()
	if r.c == nil { // one may have won meanwhile
		select {
		case late := <-won:
			if late.c != nil {
				late.c.Close()
			}
		default:
		}
	}
	return r.c, r.err
}

// secureListener authenticates what a listener accepts before anybody sees it.
type secureListener struct {
	ln      carrier.Listener
	o       Options
	log     *slog.Logger
	cfg     *tls.Config
	guesses *door
	refusal *rate.Limiter // of lines of the log
	ready   chan Conn
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu      sync.Mutex
	pending []*pending // oldest first
	told    time.Time  // when an eviction was logged
	unsaid  int        // refusals that were not logged
	slot    chan struct{}
}

// pending is a connection that has not authenticated yet.
type pending struct {
	conn   net.Conn
	peer   netip.Prefix
	since  time.Time
	authed bool
}

func newSecureListener(ln carrier.Listener, cfg *tls.Config, o Options) *secureListener {
	t := ln.Transport()
	ctx, cancel := context.WithCancel(context.Background())
	l := &secureListener{
		ln: ln, o: o, log: o.Logger.With("listening", ln.Addr().String()), cfg: cfg,
		guesses: o.Limiter.door(t.Password), refusal: rate.NewLimiter(rate.Every(time.Second), 30), ready: make(chan Conn),
		ctx: ctx, cancel: cancel, slot: make(chan struct{}, 1),
	}
	if t.Password == "" {
		l.log.Warn("no password: anyone who reaches this address can debug what it serves; give password= to the transport")
	}
	l.wg.Add(1)
	go l.acceptLoop()
	return l
}

func (l *secureListener) Addr() net.Addr               { return l.ln.Addr() }
func (l *secureListener) Transport() connstr.Transport { return l.ln.Transport() }

func (l *secureListener) Accept(ctx context.Context) (Conn, error) {
	select {
	case c := <-l.ready:
		return c, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *secureListener) Close() error {
	l.cancel()
	err := l.ln.Close()
	l.mu.Lock()
	for _, p := range l.pending {
		p.conn.Close()
	}
	l.mu.Unlock()
	l.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (l *secureListener) acceptLoop() {
	defer l.wg.Done()
	for {
		raw, err := l.ln.Accept()
		if err != nil {
			if l.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors, or a peer that left already: neither is a
			// reason to stop serving.
			l.log.Warn("accepting a connection failed", "error", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-l.ctx.Done():
				return
			}
			continue
		}
		p := l.admit(raw)
		if p == nil {
			raw.Close()
			return
		}
		l.wg.Add(1)
		go l.handshake(p)
	}
}

// Time that a connection has to itself before another may take its place among
// the pending ones. Honest ones on a near network take milliseconds. With it a
// full queue of the system, some thousands of silent connections, is gone
// through within seconds, so that who waits behind them is still served.
const placeFor = 100 * time.Millisecond

// admit gives raw a place among the pending connections; nil: closing.
func (l *secureListener) admit(raw net.Conn) *pending {
	p := &pending{conn: raw, peer: peerKey(raw.RemoteAddr())}
	for {
		l.mu.Lock()
		if l.ctx.Err() != nil {
			l.mu.Unlock()
			return nil
		}
		wait := time.Duration(0)
		if len(l.pending) >= l.o.MaxPending {
			wait = l.evictLocked()
		}
		if wait <= 0 {
			p.since = time.Now()
			l.pending = append(l.pending, p)
			l.mu.Unlock()
			return p
		}
		l.mu.Unlock()
		t := time.NewTimer(wait)
		select {
		case <-l.slot:
		case <-l.ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// evictLocked closes the oldest connection of the address that has most
// pending, or tells how long that one still has.
func (l *secureListener) evictLocked() time.Duration {
	count := make(map[netip.Prefix]int)
	for _, p := range l.pending {
		if !p.authed {
			count[p.peer]++
		}
	}
	var victim *pending
	for _, p := range l.pending {
		if !p.authed && (victim == nil || count[p.peer] > count[victim.peer]) {
			victim = p
		}
	}
	if victim == nil {
		return placeFor // all wait to be accepted
	}
	if left := placeFor - time.Since(victim.since); left > 0 {
		return left
	}
	if now := time.Now(); now.Sub(l.told) >= time.Second { // a flood must not fill the log
		l.log.Info("too many connections without a password: the oldest of an address are closed", "peer", victim.conn.RemoteAddr())
		l.told = now
	}
	l.dropLocked(victim)
	victim.conn.Close()
	return 0
}

func (l *secureListener) dropLocked(p *pending) {
	for i, q := range l.pending {
		if q == p {
			l.pending = append(l.pending[:i], l.pending[i+1:]...)
			select {
			case l.slot <- struct{}{}:
			default:
			}
			return
		}
	}
}

// fromFirstByte sets the deadline of a handshake when it begins.
type fromFirstByte struct {
	net.Conn
	within time.Duration
	begun  bool // of the reading goroutine
}

func (c *fromFirstByte) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.begun {
		c.begun = true
		c.Conn.SetDeadline(time.Now().Add(c.within))
	}
	return n, err
}

// logRefusal says that a password was not taken. Who tries again and again must
// not fill the log.
func (l *secureListener) logRefusal(log *slog.Logger, why error) {
	l.mu.Lock()
	say := l.refusal.Allow()
	more := l.unsaid
	if say {
		l.unsaid = 0
	} else {
		l.unsaid++
	}
	l.mu.Unlock()
	if say {
		log.Warn("password refused", "audit", "refuse", "door", l.Transport().String(), "reason", why, "unsaid", more)
	}
}

func (l *secureListener) handshake(p *pending) {
	defer l.wg.Done()
	defer func() {
		l.mu.Lock()
		l.dropLocked(p)
		l.mu.Unlock()
	}()
	log := l.log.With("peer", p.conn.RemoteAddr().String())
	defer func() {
		if v := recover(); v != nil {
			p.conn.Close()
			log.Error("a handshake panicked", "panic", v, "stack", string(debug.Stack()))
		}
	}()
	conn := p.conn
	if l.Transport().ClientOf == "" {
		conn.SetDeadline(time.Now().Add(l.o.Handshake))
	} else {
		// We connected, perhaps to a repeater whose client comes in an hour: the
		// time counts from the first byte. The listener's end interrupts it.
		stop := context.AfterFunc(l.ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
		defer stop()
		conn = &fromFirstByte{Conn: conn, within: l.o.Handshake}
	}
	c := tls.Server(conn, l.cfg)
	if err := c.HandshakeContext(l.ctx); err != nil {
		p.conn.Close()
		log.Debug("no TLS handshake", "error", err)
		return
	}
	if c.ConnectionState().NegotiatedProtocol != authALPN {
		p.conn.Close()
		log.Debug("a TLS client that is no debugger")
		return
	}
	ctx, cancel := context.WithTimeout(l.ctx, l.o.Handshake)
	defer cancel()
	if err := authServer(ctx, c, l.ln.Transport().Password, p.conn.RemoteAddr(), l.guesses); err != nil {
		c.Close()
		switch {
		case errors.Is(err, errWrongPassword), errors.Is(err, errTooMany), errors.Is(err, errNoPassword):
			l.logRefusal(log, err)
		default:
			log.Debug("no password exchange", "error", err)
		}
		return
	}
	l.mu.Lock()
	p.authed = true
	l.mu.Unlock()
	p.conn.SetDeadline(time.Time{})
	select {
	case l.ready <- c:
	case <-l.ctx.Done():
		c.Close()
	}
}
