package fault

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
)

// loopback is a socket that gives back what is written to it.
type loopback struct{ sent [][]byte }

func (l *loopback) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	if len(l.sent) == 0 {
		return 0, netip.AddrPort{}, net.ErrClosed
	}
	n := copy(b, l.sent[0])
	l.sent = l.sent[1:]
	return n, netip.AddrPort{}, nil
}

func (l *loopback) WriteToUDPAddrPort(b []byte, _ netip.AddrPort) (int, error) {
	l.sent = append(l.sent, b)
	return len(b), nil
}

func (l *loopback) LocalAddr() net.Addr { return &net.UDPAddr{} }
func (l *loopback) Close() error        { return nil }

// Each kind of fault does what it says, as often as its chance, and the same
// with the same seed.
func TestPackets(t *testing.T) {
	const n = 1000
	run := func(c Config) (numbers []uint32, noise int, counts PacketCounts) {
		below := &loopback{}
		p := NewPackets(below, c)
		for i := range uint32(n) {
			p.WriteToUDPAddrPort(append(binary.LittleEndian.AppendUint32(nil, i), make([]byte, 60)...), netip.AddrPort{})
		}
		for _, d := range below.sent {
			if len(d) != 64 {
				noise++
				continue
			}
			numbers = append(numbers, binary.LittleEndian.Uint32(d))
		}
		return numbers, noise, p.Counts()
	}
	about := func(what string, got uint64) {
		t.Helper()
		if got < 60 || got > 140 {
			t.Errorf("%s: %d of %d at a chance of 0.1", what, got, n)
		}
	}
	got, _, c := run(Config{Drop: 0.1, Seed: 1})
	about("drops", c.Drops)
	if len(got) != n-int(c.Drops) {
		t.Errorf("%d of %d came, %d were dropped", len(got), n, c.Drops)
	}
	got, _, c = run(Config{Duplicate: 0.1, Seed: 1})
	about("duplicates", c.Dups)
	if len(got) != n+int(c.Dups) {
		t.Errorf("%d came, %d were doubled", len(got), c.Dups)
	}
	got, _, c = run(Config{Reorder: 0.1, Seed: 1})
	about("reorderings", c.Reorderings)
	back := 0
	for i := 1; i < len(got); i++ {
		if got[i] < got[i-1] {
			back++
		}
	}
	if back == 0 || len(got) < n-1 {
		t.Errorf("%d came, %d out of order", len(got), back)
	}
	_, noise, c := run(Config{Noise: 0.1, Seed: 1})
	about("noise", c.Noise)
	if noise < 50 {
		t.Errorf("%d datagrams of noise", noise)
	}
	_, _, c = run(Config{Corrupt: 0.1, Seed: 1})
	about("corruptions", c.Corruptions)

	all := Config{Drop: 0.1, Duplicate: 0.1, Reorder: 0.1, Corrupt: 0.1, Noise: 0.1, Seed: 9}
	_, _, a := run(all)
	if _, _, b := run(all); a != b {
		t.Errorf("the same seed does %+v and %+v", a, b)
	}
}
