package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
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
			err = fmt.Errorf("the other side does not speak TLS: is a %s of this program listening there?", o.Expect)
		case refusedCertificate(err) != "":
			err = errors.New(refusedCertificate(err))
		case remoteAlert(err) != "":
			err = fmt.Errorf("the other side refused the TLS handshake (%s): is a %s of this program listening there, and does it speak the same proto=?", remoteAlert(err), o.Expect)
		case ctx.Err() != nil:
			err = fmt.Errorf("no answer to the TLS handshake within %v: is a %s listening there?", o.Handshake, o.Expect)
		case errors.Is(err, io.EOF) || errors.As(err, &op) && (op.Op == "read" || op.Op == "write"):
			err = fmt.Errorf("the other side ended the connection before it said anything (%w): is a %s listening there, or a repeater that does not reach its server?", err, o.Expect)
		}
		return nil, fmt.Errorf("connecting to %s: %w", addr, err)
	}
	if c.ConnectionState().NegotiatedProtocol != authALPN {
		raw.Close()
		return nil, fmt.Errorf("connecting to %s: a TLS server that is no %s is listening there", addr, o.Expect)
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
	type result struct {
		c   Conn
		err error
	}
	won := make(chan result)
	g := newGate(ln, o.MaxPending, o.Logger)
	g.open(func(p *pending) {
		c, err := clientHandshake(g.ctx, p.conn, t, p.conn.RemoteAddr().String(), o)
		var ae *AuthError
		if err != nil && !(errors.As(err, &ae) && ae.Reason != AuthIncomplete) {
			o.Logger.Debug("what connected is no server of ours", "peer", p.conn.RemoteAddr().String(), "error", err)
			return
		}
		p.proved()
		select {
		case won <- result{c, err}:
		case <-g.ctx.Done():
			if c != nil {
				c.Close()
			}
		}
	})
	defer g.close()
	select {
	case r := <-won:
		return r.c, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for %s to connect to %s: %w", t.ClientOf, ln.Addr(), ctx.Err())
	}
}

// secureListener authenticates what a listener accepts before anybody sees it.
type secureListener struct {
	*gate
	ln      carrier.Listener
	o       Options
	cfg     *tls.Config
	guesses *door
	ready   chan Conn

	logMu   sync.Mutex
	refusal *rate.Limiter // of lines of the log
	unsaid  int           // refusals that were not logged
}

func newSecureListener(ln carrier.Listener, cfg *tls.Config, o Options) *secureListener {
	t := ln.Transport()
	l := &secureListener{
		gate: newGate(ln, o.MaxPending, o.Logger.With("listening", ln.Addr().String())), ln: ln, o: o, cfg: cfg,
		guesses: o.Limiter.door(t.Password), refusal: rate.NewLimiter(rate.Every(time.Second), 30), ready: make(chan Conn),
	}
	if t.Password == "" {
		l.log.Warn("no password: anyone who reaches this address can debug what it serves; give password= to the transport")
	}
	l.open(l.handshake)
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

func (l *secureListener) Close() error { return l.close() }

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
	l.logMu.Lock()
	say := l.refusal.Allow()
	more := l.unsaid
	if say {
		l.unsaid = 0
	} else {
		l.unsaid++
	}
	l.logMu.Unlock()
	if say {
		log.Warn("password refused", "audit", "refuse", "door", l.Transport().String(), "reason", why, "unsaid", more)
	}
}

func (l *secureListener) handshake(p *pending) {
	log := l.log.With("peer", p.conn.RemoteAddr().String())
	conn := p.conn
	if l.Transport().ClientOf == "" {
		conn.SetDeadline(time.Now().Add(l.o.Handshake))
	} else {
		// We connected, perhaps to a repeater whose client comes in an hour: the
		// time counts from the first byte. The listener's end interrupts it.
		stop := context.AfterFunc(l.ctx, func() { p.conn.SetDeadline(time.Unix(1, 0)) })
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
	p.proved()
	p.conn.SetDeadline(time.Time{})
	select {
	case l.ready <- c:
	case <-l.ctx.Done():
		c.Close()
	}
}
