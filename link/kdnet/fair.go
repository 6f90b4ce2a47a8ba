package kdnet

import (
	"hash/maphash"
	"net/netip"
	"time"
)

// fair bounds how much is done for strangers so that one of them cannot use up
// what another one needs: each address has two buckets, which it shares with
// others by chance; one of them is enough. The seeds make sure that nobody can
// choose with whom. Its size is fixed whatever comes.
//
// Concurrency: none.
type fair struct {
	size, rate float64 // of each bucket: at once, and per second
	ports      bool    // a third bucket is one of the address with its port
	clock      func() time.Time
	since      time.Time
	seeds      [3]maphash.Seed
	rows       [3][]level
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

func newFair(size, rate float64, ports bool) *fair {
	f := &fair{size: size, rate: rate, ports: ports, clock: time.Now, since: time.Now()}
	for i := range f.rows {
		f.seeds[i], f.rows[i] = maphash.MakeSeed(), make([]level, fairBuckets)
	}
	return f
}

// take reports whether something may be done for from.
func (f *fair) take(from netip.AddrPort) bool {
	a := from.Addr()
	if a.Is6() { // who has one address there has its neighbours, too
		p, _ := a.WithZone("").Prefix(64)
		a = p.Addr()
	}
	at := f.clock().Sub(f.since)
	take := func(row int, who netip.AddrPort) bool {
		return f.rows[row][maphash.Comparable(f.seeds[row], who)%fairBuckets].take(at, f.size, f.rate)
	}
	who := netip.AddrPortFrom(a, 0)
	return take(0, who) || take(1, who) || f.ports && take(2, from)
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
	clock      func() time.Time
	since      time.Time
	level      level
}

func newBucket(size, rate float64) bucket {
	return bucket{size: size, rate: rate, clock: time.Now, since: time.Now()}
}

func (b *bucket) take() bool { return b.level.take(b.clock().Sub(b.since), b.size, b.rate) }
