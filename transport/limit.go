package transport

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// limiter slows wrong passwords down, for each address and over all. Attempts
// that are under way hold a place as if they were wrong, so that many at once
// win nothing; a right one gives its place back.
//
// An address that has proved the password lately is held to its own limit only:
// somebody who guesses from many addresses uses up what all have together, and
// must not lock the owner out with it.
type limiter struct {
	g Guesses

	mu    sync.Mutex
	all   bucket
	peers map[netip.Prefix]*bucket
	freed chan struct{} // closed and made anew when a turn ends
}

type bucket struct {
	lim     *rate.Limiter
	pending int
	used    time.Time
	proved  time.Time // when the right password came last; zero: never
}

// knownFor is how long an address is known that has proved the password.
const knownFor = 24 * time.Hour

func (b *bucket) known(now time.Time) bool {
	return !b.proved.IsZero() && now.Sub(b.proved) < knownFor
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

func newLimiter(g Guesses) *limiter {
	return &limiter{
		g:     g,
		all:   bucket{lim: rate.NewLimiter(rate.Every(g.AllEvery), g.AllBurst)},
		peers: make(map[netip.Prefix]*bucket),
		freed: make(chan struct{}),
	}
}

// turn is the right to one attempt.
type turn struct {
	l    *limiter
	peer *bucket
}

// take waits for the right to one attempt. A nil turn without an error says
// that the attempt is refused, and for how long.
func (l *limiter) take(ctx context.Context, addr net.Addr) (*turn, time.Duration, error) {
	key := peerKey(addr)
	deadline := time.Now().Add(l.g.MaxDelay)
	for {
		l.mu.Lock()
		now := time.Now()
		b := l.bucketLocked(key, now)
		wp, bp := b.wait(now)
		var wa time.Duration
		var ba bool
		if !b.known(now) {
			wa, ba = l.all.wait(now)
		}
		if wp <= 0 && wa <= 0 && !bp && !ba {
			b.pending++
			l.all.pending++
			l.mu.Unlock()
			return &turn{l, b}, 0, nil
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
	l := t.l
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
	if o == right {
		t.peer.proved = now
	}
	close(l.freed)
	l.freed = make(chan struct{})
}

func (l *limiter) bucketLocked(key netip.Prefix, now time.Time) *bucket {
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
			if b.lim.TokensAt(now) >= float64(l.g.PeerBurst) && !b.known(now) {
				delete(l.peers, k)
				continue
			}
			o, ok := l.peers[oldest]
			if kb := b.known(now); !ok || kb == o.known(now) && b.used.Before(o.used) || !kb && o.known(now) {
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
