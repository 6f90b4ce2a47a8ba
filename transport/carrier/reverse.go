package carrier

import (
	"context"
	"net"
	"sync"
	"time"

	"openkd/connstr"
)

// Waits between attempts of a reverse connection: from the first, doubled up
// to the last. A connection that lasted longer than the last one starts anew.
const (
	reverseFirst = 250 * time.Millisecond
	reverseLast  = 5 * time.Second
)

// reverse is the server's side of clicon=: a listener that connects out. There
// is one peer, so there is one stream at a time; when it is closed the next
// one is made. The original gives up at the first refusal or loss and has to
// be started again (Microsoft: "KdSrv Command-Line Options", clicon).
type reverse struct {
	t      connstr.Transport
	o      Options
	ctx    context.Context
	cancel context.CancelFunc
	free   chan struct{} // holds a token while there is no stream

	mu   sync.Mutex
	wait time.Duration // before the next attempt
}

func newReverse(t connstr.Transport, o Options) *reverse {
	r := &reverse{t: t, o: o, free: make(chan struct{}, 1)}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	r.free <- struct{}{}
	return r
}

func (r *reverse) Transport() connstr.Transport { return r.t }

func (r *reverse) Close() error {
	r.cancel()
	return nil
}

// reverseAddr is where a reverse listener gets its streams from.
type reverseAddr string

func (reverseAddr) Network() string  { return "reverse" }
func (a reverseAddr) String() string { return string(a) }

func (r *reverse) Addr() net.Addr { return reverseAddr(Name(r.t)) }

// Accept connects. It returns when that worked, however long it takes, or when
// the listener is closed.
func (r *reverse) Accept() (net.Conn, error) {
	select {
	case <-r.free:
	case <-r.ctx.Done():
		return nil, net.ErrClosed
	}
	to := Name(r.t)
	log := r.o.Logger.With("to", to)
	told := ""
	for {
		if !r.pause() {
			return nil, net.ErrClosed
		}
		ctx, cancel := context.WithTimeout(r.ctx, r.o.Within)
		c, err := dialTCP(ctx, r.t, r.t.ClientOf)
		cancel()
		if err == nil {
			log.Info("reverse connection made")
			return &reverseConn{Conn: c, r: r, since: time.Now()}, nil
		}
		if r.ctx.Err() != nil {
			return nil, net.ErrClosed
		}
		if s := err.Error(); s != told { // each reason once, not each attempt
			told = s
			log.Warn("reverse connection not made; it is tried again and again", "error", err)
		}
		r.longer()
	}
}

// pause waits before an attempt; false: closed.
func (r *reverse) pause() bool {
	r.mu.Lock()
	d := r.wait
	r.mu.Unlock()
	if d == 0 {
		return r.ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-r.ctx.Done():
		return false
	}
}

func (r *reverse) longer() {
	r.mu.Lock()
	r.wait = min(max(2*r.wait, reverseFirst), reverseLast)
	r.mu.Unlock()
}

// reverseConn makes room for the next stream when it is closed.
type reverseConn struct {
	net.Conn
	r     *reverse
	since time.Time
	once  sync.Once
}

// CloseWrite is TCP's.
func (c *reverseConn) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

func (c *reverseConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() {
		if time.Since(c.since) > reverseLast {
			c.r.mu.Lock()
			c.r.wait = reverseFirst
			c.r.mu.Unlock()
		} else {
			c.r.longer()
		}
		if c.r.ctx.Err() == nil {
			c.r.o.Logger.Info("reverse connection ended; it is made again", "to", Name(c.r.t))
		}
		c.r.free <- struct{}{}
	})
	return err
}
