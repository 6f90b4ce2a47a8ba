package kdnet

import (
	"hash/maphash"
	"net/netip"
	"time"
)

// fair bounds how much is done for strangers so that one of them cannot use up
// what another one needs: each address, and each address with its port, has a
// bucket of its own. Buckets are shared by chance, the seeds make sure that
// nobody can choose with whom. Its size is fixed whatever comes.
//
// Concurrency: none.
type fair struct {
	size, rate float64 // of each bucket: at once, and per second
	since      time.Time
	seeds      [2]maphash.Seed
	rows       [2][]level
}

// level is how full a bucket was; the zero level is that of one never used.
type level struct {
	spent float64
	at    time.Duration
}

func (l *level) take(at time.Duration, size, rate float64) bool {
	l.spent, l.at = max(0, l.spent-(at-l.at).Seconds()*rate), at
	if l.spent > size-1 {
		return false
	}
	l.spent++
	return true
}

// fairBuckets is how many buckets a row has. Together with the rate it bounds
// the whole, should somebody send from as many addresses.
const fairBuckets = 1024

func newFair(size, rate float64) *fair {
	f := &fair{size: size, rate: rate, since: time.Now()}
	for i := range f.rows {
		f.seeds[i], f.rows[i] = maphash.MakeSeed(), make([]level, fairBuckets)
	}
	return f
}

// take reports whether something may be done for from. One of its two buckets
// is enough: other ports of its address have not used up its own, other
// addresses not that of its address.
func (f *fair) take(from netip.AddrPort, now time.Time) bool {
	a := from.Addr()
	if a.Is6() { // who has one address there has its neighbours, too
		p, _ := a.WithZone("").Prefix(64)
		a = p.Addr()
	}
	at := now.Sub(f.since)
	take := func(row int, who netip.AddrPort) bool {
		return f.rows[row][maphash.Comparable(f.seeds[row], who)%fairBuckets].take(at, f.size, f.rate)
	}
	return take(0, netip.AddrPortFrom(a, 0)) || take(1, from)
}

// sighting is somebody whom people are told of. Who comes next is not told at
// once: else a stranger with many addresses could fill a screen.
type sighting struct {
	who         netip.AddrPort
	first, last time.Time
}

// sightingTime is how long somebody is told of who is not seen again.
const sightingTime = 30 * time.Second

// see notes somebody; false: there is somebody else already.
func (s *sighting) see(who netip.AddrPort, now time.Time) bool {
	switch {
	case !s.who.IsValid() || now.Sub(s.last) > sightingTime:
		s.who, s.first = who, now
	case s.who.Addr() != who.Addr():
		return false
	}
	s.last = now
	return true
}

func (s *sighting) seen() bool { return s.who.IsValid() }

// bucket bounds how often something is done, for whomever.
type bucket struct {
	size, rate float64 // at once, and per second
	since      time.Time
	level      level
}

func (b *bucket) take(now time.Time) bool {
	if b.since.IsZero() {
		b.since = now
	}
	return b.level.take(now.Sub(b.since), b.size, b.rate)
}
