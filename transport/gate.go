package transport

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"
)

// gate accepts connections and gives each of them a place until it has proved
// itself. The places are few: when they are all taken, the oldest connection of
// the busiest address loses its own.
//
// Concurrency: prove is run by a goroutine for each connection; close waits for
// all of them.
type gate struct {
	ln     net.Listener
	places int
	log    *slog.Logger
	prove  func(p *pending) // must call p.proved when it has, and return when g.ctx ends
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	pending []*pending // oldest first
	told    time.Time  // when an eviction was logged
	slot    chan struct{}
}

// pending is a connection that has not proved itself yet.
type pending struct {
	g      *gate
	conn   net.Conn
	peer   netip.Prefix
	since  time.Time
	authed bool
}

// proved keeps the connection's place for it until its prove returns.
func (p *pending) proved() {
	p.g.mu.Lock()
	p.authed = true
	p.g.mu.Unlock()
}

// newGate makes a gate, which accepts nothing before open.
func newGate(ln net.Listener, places int, log *slog.Logger) *gate {
	g := &gate{ln: ln, places: places, log: log, slot: make(chan struct{}, 1)}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	return g
}

func (g *gate) open(prove func(*pending)) {
	g.prove = prove
	g.wg.Go(g.acceptLoop)
}

// close stops accepting, closes what has not proved itself, and waits.
func (g *gate) close() error {
	g.cancel()
	err := g.ln.Close()
	g.mu.Lock()
	for _, p := range g.pending {
		if !p.authed {
			p.conn.Close()
		}
	}
	g.mu.Unlock()
	g.wg.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (g *gate) acceptLoop() {
	for {
		raw, err := g.ln.Accept()
		if err != nil {
			if g.ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors, or a peer that left already: neither is a
			// reason to stop serving.
			g.log.Warn("accepting a connection failed", "error", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-g.ctx.Done():
				return
			}
			continue
		}
		p := g.admit(raw)
		if p == nil {
			raw.Close()
			return
		}
		g.wg.Go(func() { g.serve(p) })
	}
}

// Time that a connection has to itself before another may take its place among
// the pending ones. Honest ones on a near network take milliseconds. With it a
// full queue of the system, some thousands of silent connections, is gone
// through within seconds, so that who waits behind them is still served.
const placeFor = 100 * time.Millisecond

// admit gives raw a place among the pending connections; nil: closing.
func (g *gate) admit(raw net.Conn) *pending {
	p := &pending{g: g, conn: raw, peer: peerKey(raw.RemoteAddr())}
	for {
		g.mu.Lock()
		if g.ctx.Err() != nil {
			g.mu.Unlock()
			return nil
		}
		wait := time.Duration(0)
		if len(g.pending) >= g.places {
			wait = g.evictLocked()
		}
		if wait <= 0 {
			p.since = time.Now()
			g.pending = append(g.pending, p)
			g.mu.Unlock()
			return p
		}
		g.mu.Unlock()
		t := time.NewTimer(wait)
		select {
		case <-g.slot:
		case <-g.ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

// evictLocked closes the oldest connection of the address that has most
// pending, or tells how long that one still has.
func (g *gate) evictLocked() time.Duration {
	count := make(map[netip.Prefix]int)
	for _, p := range g.pending {
		if !p.authed {
			count[p.peer]++
		}
	}
	var victim *pending
	for _, p := range g.pending {
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
	if now := time.Now(); now.Sub(g.told) >= time.Second { // a flood must not fill the log
		g.log.Info("too many connections without a password: the oldest of an address are closed", "peer", victim.conn.RemoteAddr())
		g.told = now
	}
	g.dropLocked(victim)
	victim.conn.Close()
	return 0
}

func (g *gate) dropLocked(p *pending) {
	for i, q := range g.pending {
		if q == p {
			g.pending = append(g.pending[:i], g.pending[i+1:]...)
			select {
			case g.slot <- struct{}{}:
			default:
			}
			return
		}
	}
}

func (g *gate) serve(p *pending) {
	defer func() {
		g.mu.Lock()
		g.dropLocked(p)
		g.mu.Unlock()
	}()
	defer func() {
		if v := recover(); v != nil {
			p.conn.Close()
			g.log.Error("a handshake panicked", "peer", p.conn.RemoteAddr().String(), "panic", v, "stack", string(debug.Stack()))
		}
	}()
	g.prove(p)
}
