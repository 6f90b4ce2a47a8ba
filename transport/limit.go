package transport

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limiter slows wrong passwords down, for each address and over all, at every
// door that it is given to (Options.Limiter): another door is no new chance.
// Attempts that are under way hold a place as if they were wrong, so that many
// at once win nothing; a right one gives its place back.
//
// An address that has proved a door's password lately is held to its own limit
// only at this door: somebody who guesses from many addresses uses up what all
// have together, and must not lock the owner out with it.
//
// Concurrency: any door from any goroutine.
type Limiter struct {
	g Guesses

	mu    sync.Mutex
	all   bucket
	peers map[netip.Prefix]*bucket
	freed chan struct{} // closed and made anew when a turn ends
}

// door is one door's view of a Limiter.
type door struct {
	*Limiter
	secret bool // there is a password to prove
}

func (l *Limiter) door(password string) *door { return &door{l, password != ""} }

type bucket struct {
	lim     *rate.Limiter
	pending int
	used    time.Time
	proved  map[*door]time.Time // when the right password came last
}

// knownFor is how long an address is known that has proved the password.
const knownFor = 24 * time.Hour

func (b *bucket) known(d *door, now time.Time) bool {
	at, ok := b.proved[d]
	return ok && now.Sub(at) < knownFor
}

func (b *bucket) knownAnywhere(now time.Time) bool {
	for d := range b.proved {
		if b.known(d, now) {
			return true
		}
	}
	return false
}

// outcome is how an attempt ended.
type outcome uint8

const (
	gaveUp outcome = iota
	wrong
	right
)

// Addresses that are remembered at once. A full table forgets those whose
// bucket is full again, and then the one used longest ago; those that have
// proved the password go last.
const maxPeers = 4096

// NewLimiter returns a limiter. Zero fields of g take the defaults.
func NewLimiter(g Guesses) *Limiter {
	g = g.withDefaults()
	return &Limiter{
		g:     g,
		all:   bucket{lim: rate.NewLimiter(rate.Every(g.AllEvery), g.AllBurst)},
		peers: make(map[netip.Prefix]*bucket),
		freed: make(chan struct{}),
	}
}

// turn is the right to one attempt.
type turn struct {
	d    *door
	peer *bucket
}

// take waits for the right to one attempt. A nil turn without an error says
// that the attempt is refused, and for how long.
func (d *door) take(ctx context.Context, addr net.Addr) (*turn, time.Duration, error) {
	l := d.Limiter
	key := peerKey(addr)
	deadline := time.Now().Add(l.g.MaxDelay)
	for {
		l.mu.Lock()
		now := time.Now()
		b := l.bucketLocked(key, now)
		wp, bp := b.wait(now)
		var wa time.Duration
		var ba bool
		if !b.known(d, now) {
			wa, ba = l.all.wait(now)
		}
		if wp <= 0 && wa <= 0 && !bp && !ba {
			b.pending++
			l.all.pending++
			l.mu.Unlock()
			return &turn{d, b}, 0, nil
		}
		freed := l.freed
		l.mu.Unlock()

		wait := max(wp, wa)
		if wait > 0 && now.Add(wait).After(deadline) || now.After(deadline) {
			return nil, max(wait, time.Second), nil
		}
		if wait <= 0 || bp || ba {
			wait = max(wait, time.Until(deadline)+time.Millisecond)
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-freed:
		case <-ctx.Done():
			t.Stop()
			return nil, 0, ctx.Err()
		}
		t.Stop()
	}
}

// wait says how long the bucket lets an attempt wait, and whether it is only
// held up by attempts under way.
func (b *bucket) wait(now time.Time) (time.Duration, bool) {
	tokens := b.lim.TokensAt(now)
	if tokens < 1 {
		return time.Duration((1 - tokens) / float64(b.lim.Limit()) * float64(time.Second)), false
	}
	return 0, tokens-float64(b.pending) < 1
}

func (t *turn) done(o outcome) {
	l := t.d.Limiter
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	for _, b := range []*bucket{t.peer, &l.all} {
		b.pending--
		b.used = now
		if o == wrong {
			b.lim.ReserveN(now, 1) // may go below zero; the next ones wait for it
		}
	}
	if o == right && t.d.secret {
		if t.peer.proved == nil {
			t.peer.proved = make(map[*door]time.Time)
		}
		t.peer.proved[t.d] = now
	}
	close(l.freed)
	l.freed = make(chan struct{})
}

func (l *Limiter) bucketLocked(key netip.Prefix, now time.Time) *bucket {
	if b, ok := l.peers[key]; ok {
		b.used = now
		return b
	}
	if len(l.peers) >= maxPeers {
		var oldest netip.Prefix
		for k, b := range l.peers {
			if b.pending > 0 {
				continue
			}
			if b.lim.TokensAt(now) >= float64(l.g.PeerBurst) && !b.knownAnywhere(now) {
				delete(l.peers, k)
				continue
			}
			o, ok := l.peers[oldest]
			if kb := b.knownAnywhere(now); !ok || kb == o.knownAnywhere(now) && b.used.Before(o.used) || !kb && o.knownAnywhere(now) {
				oldest = k
			}
		}
		if len(l.peers) >= maxPeers {
			delete(l.peers, oldest)
		}
	}
	b := &bucket{lim: rate.NewLimiter(rate.Every(l.g.PeerEvery), l.g.PeerBurst), used: now}
	l.peers[key] = b
	return b
}

// peerKey is what guesses are counted against: an IPv4 address or an IPv6
// network of 64 bits, since one host has all of those addresses.
func peerKey(addr net.Addr) netip.Prefix {
	if addr == nil {
		return netip.Prefix{}
	}
	ap, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Prefix{}
	}
	a := ap.Addr().Unmap().WithZone("")
	bits := 64
	if a.Is4() {
		bits = 32
	}
	p, _ := a.Prefix(bits)
	return p
}
