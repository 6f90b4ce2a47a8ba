package fault

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
)

// PacketConn is what Packets wraps: the part of a *net.UDPConn that packet
// links use.
type PacketConn interface {
	ReadFromUDPAddrPort(b []byte) (n int, addr netip.AddrPort, err error)
	WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
	LocalAddr() net.Addr
	Close() error
}

// Packets is a datagram socket with faults in both directions: what Stream is
// to bytes. The chances of its Config are chances per datagram: to be lost, to
// have a byte changed, to come twice, to come after the next one, and to come
// behind one of random bytes. Which datagram is hit depends on the seed, the
// direction and its number in that direction.
//
// Concurrency: one read and any number of writes at a time.
type Packets struct {
	below PacketConn
	cfg   Config
	done  chan struct{}
	once  sync.Once

	in, out *packetWay
	left    []datagram // arrived and not yet read; the reader's
}

type datagram struct {
	b    []byte
	addr netip.AddrPort
}

// NewPackets wraps a socket. Closing it closes the socket below.
func NewPackets(below PacketConn, cfg Config) *Packets {
	return &Packets{below: below, cfg: cfg, done: make(chan struct{}), in: newPacketWay(cfg, 1), out: newPacketWay(cfg, 2)}
}

type packetWay struct {
	cfg  Config
	mu   sync.Mutex
	dice *rand.Rand
	held *datagram // overtaken by the next one

	counts PacketCounts
}

// PacketCounts says what Packets has done, both directions together.
type PacketCounts struct {
	Datagrams                                    uint64 // that went in
	Drops, Corruptions, Dups, Reorderings, Noise uint64
}

func newPacketWay(cfg Config, direction uint64) *packetWay {
	return &packetWay{cfg: cfg, dice: rand.New(rand.NewPCG(cfg.Seed, direction))}
}

// spoil returns the datagrams that travel in place of d.
func (w *packetWay) spoil(d datagram) []datagram {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts.Datagrams++
	out := []datagram{d}
	x := w.dice.Float64()
	hit := func(rate float64) bool {
		x -= rate
		return x < 0 && x >= -rate
	}
	switch {
	case hit(w.cfg.Drop):
		w.counts.Drops++
		out = nil
	case hit(w.cfg.Corrupt):
		w.counts.Corruptions++
		if len(d.b) > 0 {
			d.b[w.dice.IntN(len(d.b))] ^= byte(1 + w.dice.IntN(255))
		}
	case hit(w.cfg.Duplicate):
		w.counts.Dups++
		out = append(out, d)
	case hit(w.cfg.Noise):
		w.counts.Noise++
		b := make([]byte, 1+w.dice.IntN(1500))
		for i := range b {
			b[i] = byte(w.dice.IntN(256))
		}
		out = []datagram{{b, d.addr}, d}
	case w.held == nil && hit(w.cfg.Reorder):
		w.counts.Reorderings++
		w.held = &d
		return nil
	}
	if w.held != nil && len(out) > 0 {
		out = append(out, *w.held)
		w.held = nil
	}
	return out
}

// ReadFromUDPAddrPort implements PacketConn.
func (p *Packets) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	for len(p.left) == 0 {
		n, addr, err := p.below.ReadFromUDPAddrPort(b)
		if err != nil {
			return n, addr, err
		}
		sleep(p.cfg.Delay, p.done)
		p.left = p.in.spoil(datagram{append([]byte(nil), b[:n]...), addr})
	}
	d := p.left[0]
	p.left = p.left[1:]
	return copy(b, d.b), d.addr, nil
}

// WriteToUDPAddrPort implements PacketConn. It reports all bytes written, lost
// ones too.
func (p *Packets) WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error) {
	for _, d := range p.out.spoil(datagram{append([]byte(nil), b...), addr}) {
		if _, err := p.below.WriteToUDPAddrPort(d.b, d.addr); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// LocalAddr implements PacketConn.
func (p *Packets) LocalAddr() net.Addr { return p.below.LocalAddr() }

// Close closes the socket below.
func (p *Packets) Close() error {
	p.once.Do(func() { close(p.done) })
	return p.below.Close()
}

// Counts returns what has been done so far.
func (p *Packets) Counts() PacketCounts {
	var c PacketCounts
	for _, w := range []*packetWay{p.in, p.out} {
		w.mu.Lock()
		c.Datagrams += w.counts.Datagrams
		c.Drops += w.counts.Drops
		c.Corruptions += w.counts.Corruptions
		c.Dups += w.counts.Dups
		c.Reorderings += w.counts.Reorderings
		c.Noise += w.counts.Noise
		w.mu.Unlock()
	}
	return c
}

var _ PacketConn = (*net.UDPConn)(nil)
