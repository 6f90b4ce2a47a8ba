package kdnet

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"openkd/kdproto"
	"openkd/link"
	"openkd/link/kdnet/recorded"
)

// counter is a socket that only counts what is sent to whom.
type counter struct {
	nowhere
	to   map[netip.Addr]int
	last map[netip.Addr][]byte
}

func (c *counter) WriteToUDPAddrPort(b []byte, a netip.AddrPort) (int, error) {
	if c.to == nil {
		c.to, c.last = map[netip.Addr]int{}, map[netip.Addr][]byte{}
	}
	c.to[a.Addr()]++
	c.last[a.Addr()] = append([]byte(nil), b...)
	return len(b), nil
}

// still is a host without sockets of the system and without goroutines.
func still(key Key, s Conn) *Host {
	return &Host{
		cfg: Config{Key: key, Queue: 4}.withDefaults(), control: newSeal(key, key), target: &where{v4: true, v6: true}, sockets: []Conn{s},
		packets: make(chan link.Packet, 4), dead: make(chan struct{}), plain: make([]byte, 0, maxDatagram), sendID: hostFirst,
		work: newFair(workBurst, workPerSecond, true), reply: newFair(answerBurst, answerPerSecond, false), nudge: newFair(askBurst, askPerSecond, false),
		nudges: newBucket(askAllBurst, askAllPerSecond),
	}
}

// freeze stops the clock of limits, so that counts do not depend on how fast the
// machine is.
func freeze(b *bucket, fs ...*fair) {
	now := time.Now()
	clock := func() time.Time { return now }
	b.clock, b.since = clock, now
	for _, f := range fs {
		f.clock, f.since = clock, now
	}
}

// A flood before there is a session: junk on both channels from one machine
// and all its ports, and real offers of other days, sent again. It is refused
// at little cost, and a real offer is answered and becomes the session all the
// same.
func TestFlood(t *testing.T) {
	key := key1234(t)
	out := &counter{}
	h := still(key, out)
	freeze(&h.nudges, h.work, h.reply, h.nudge)
	control := newSeal(key, key)
	offer := func(nonce byte, boot string) []byte {
		p := poke{host: netip.MustParseAddrPort("10.0.0.1:50000"), target: netip.MustParseAddrPort("10.0.0.2:50000")}
		copy(p.nonce[4:], boot)
		p.nonce[0] = nonce
		return control.append(nil, meta{protocol: 5, channel: chanControl, sequence: 3 * uint64(nonce)}, p.encode())
	}
	forged := offer(1, "forged")
	forged[50] ^= 1
	junk := append([]byte("MDBG\x05\x00"), make([]byte, 32)...)
	bad := netip.MustParseAddr("10.6.6.6")
	const rounds = 30_000
	flood := func() {
		for i := range rounds {
			one, each := netip.AddrPortFrom(bad, 6), netip.AddrPortFrom(bad, uint16(i))
			h.datagram(out, one, forged)
			h.datagram(out, each, forged)
			h.datagram(out, one, junk)
			h.datagram(out, each, junk)
			h.datagram(out, each, offer(byte(i%50), "recorded"))
		}
	}
	flood()
	good := netip.MustParseAddrPort("10.0.0.2:50000")
	h.datagram(out, good, offer(1, "real"))
	if out.to[good.Addr()] != 1 || len(out.last[good.Addr()]) != headerSize+metaSize+responseSize+6+tagSize {
		t.Fatalf("the offer was not answered: %d datagrams", out.to[good.Addr()])
	}
	answer := out.last[good.Addr()]
	flood()
	_, body, err := control.open(nil, answer, true)
	if err != nil {
		t.Fatal(err)
	}
	data := newSeal(dataKey(key, body), key)
	h.datagram(out, good, data.append(nil, meta{protocol: 5, sequence: 1}, make([]byte, checkSize)))
	s := h.Stats()
	if s.Sessions != 1 || s.Peer != good.String() {
		t.Errorf("no session: %+v", s)
	}
	// What was opened is BadTags, the rest was not looked at.
	if s.BadTags == 0 || s.BadTags > (2+fairBuckets)*workBurst {
		t.Errorf("%d of %d forged datagrams were decrypted", s.BadTags, 4*rounds)
	}
	if n := out.to[bad]; n > 2*(askBurst+answerBurst) {
		t.Errorf("%d datagrams were sent to who sent junk", n)
	}
	if len(h.cands) > candidates {
		t.Errorf("%d candidates", len(h.cands))
	}
	t.Logf("%d junk datagrams: %d were decrypted, %d answered", 10*rounds, s.BadTags, out.to[bad])
}

// Who sends offers without end, which are recorded ones, does not push the offer
// of somebody else out before it is taken up.
func TestOffersAreKept(t *testing.T) {
	key := key1234(t)
	out := &counter{}
	h := still(key, out)
	control := newSeal(key, key)
	offer := func(from string, n byte) {
		p := poke{host: netip.MustParseAddrPort("10.0.0.1:50000"), nonce: [nonceSize]byte{n, 0, 0, 0, from[len(from)-1]}}
		h.datagram(out, netip.AddrPortFrom(netip.MustParseAddr(from), 50000), control.append(nil, meta{protocol: 5, channel: chanControl, sequence: uint64(n)}, p.encode()))
	}
	offer("10.0.0.2", 1)
	answer := out.last[netip.MustParseAddr("10.0.0.2")]
	for n := range byte(2 * candidates) {
		offer("10.6.6.6", n+1)
	}
	if n := out.to[netip.MustParseAddr("10.6.6.6")]; n <= candidates {
		t.Fatalf("%d offers were answered, this shows nothing", n)
	}
	_, body, err := control.open(nil, answer, true)
	if err != nil {
		t.Fatal(err)
	}
	h.datagram(out, netip.MustParseAddrPort("10.0.0.2:50000"), newSeal(dataKey(key, body), key).append(nil, meta{protocol: 5, sequence: 1}, make([]byte, checkSize)))
	if s := h.Stats(); s.Sessions != 1 {
		t.Errorf("%+v", s)
	}
}

// A machine that is switched on starts once.
func TestOneHandshake(t *testing.T) {
	key := NewKey()
	h := listen(t, quick(key))
	k := newTarget(t, quickTarget(key, h.Port()))
	waitFor(t, "a session", func() bool { return h.Stats().Sessions > 0 })
	k.Restart()
	meet(t, h, k)
	if s := h.Stats(); s.Sessions != 1 {
		t.Errorf("%d handshakes", s.Sessions)
	}
}

// The same at the target: junk does not keep the answer of its debugger out.
func TestFloodAtTheTarget(t *testing.T) {
	key := key1234(t)
	out := &counter{}
	k := &Target{
		cfg: TargetConfig{Key: key}, control: newSeal(key, key), socket: out,
		inbox: make(chan []byte, inboxSize), joined: make(chan struct{}, 1), done: make(chan struct{}), plain: make([]byte, 0, maxDatagram),
		work: newFair(workBurst, workPerSecond, true), asked: newFair(answerBurst, answerPerSecond, false), askedAll: newBucket(askAllBurst, askAllPerSecond), used: true,
	}
	freeze(&k.askedAll, k.work, k.asked)
	k.Restart()
	host := netip.MustParseAddrPort("10.0.0.1:50000")
	k.offerLocked(host)
	control := newSeal(key, key)
	ask := control.append(nil, meta{protocol: 5, channel: chanControl, host: true, sequence: 1}, nil)
	junk := append([]byte("MDBG\x05\x01"), make([]byte, 48)...)
	bad := netip.MustParseAddr("10.6.6.6")
	for i := range 100_000 {
		k.datagram(netip.AddrPortFrom(bad, uint16(i)), junk)
		k.datagram(netip.AddrPortFrom(bad, 6), ask)
	}
	if n := out.to[bad]; n == 0 || n > 2*answerBurst {
		t.Errorf("%d offers to who asks without end", n)
	}
	body := encodeResponse(k.boot, [nonceSize]byte{1})
	k.datagram(host, control.append(nil, meta{protocol: 5, channel: chanControl, host: true, sequence: 3}, body))
	if k.seal == nil || k.peer != host {
		t.Error("the answer was not taken")
	}
}

// Who tells people of strangers does so once, whatever ports and addresses
// they use.
func TestConditionIsCalm(t *testing.T) {
	key := key1234(t)
	h := still(key, &counter{})
	freeze(&h.nudges, h.work, h.reply, h.nudge)
	forged := newSeal(NewKey(), NewKey()).append(nil, meta{protocol: 5, channel: chanControl, sequence: 3}, (&poke{}).encode())
	texts := map[string]bool{}
	for i := range 2000 {
		h.datagram(h.sockets[0], netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 6, byte(i), 6}), uint16(1+i)), forged)
		texts[h.Condition().Text] = true
	}
	if len(texts) != 1 {
		t.Errorf("%d things to tell", len(texts))
	}
}

// Two debuggers that both ask for the target: the second one has it, the first
// one says so and does not take it back, until it is free.
func TestTakenOver(t *testing.T) {
	key := NewKey()
	k := newTarget(t, TargetConfig{Key: key, Local: freeAddr(t), Offer: 50 * time.Millisecond, Timeout: 30 * time.Millisecond})
	cfg := quick(key)
	cfg.Target, cfg.Quiet = k.Local().String(), 300*time.Millisecond
	first := listen(t, cfg)
	meet(t, first, k)
	exchange(t, first, k, 3, 0)
	waitFor(t, "a sign of life", func() bool { first.mu.Lock(); defer first.mu.Unlock(); return first.sess.self.IsValid() })
	second := listen(t, cfg)
	waitFor(t, "taken over", func() bool { return second.Stats().Sessions == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := first.Receive(ctx)
	var taken *TakenError
	if !errors.As(err, &taken) || taken.By.Port() != uint16(second.Port()) || !strings.Contains(err.Error(), fmt.Sprintf("another debugger (127.0.0.1:%d) has taken the target %s over", second.Port(), k.Local())) {
		t.Fatalf("the first one ends with %v", err)
	}
	first.Close()

	// It comes back, as a session does that has lost its link.
	polite := cfg
	polite.Polite, polite.Port = true, first.Port()
	first = listen(t, polite)
	waitFor(t, "it sees who holds the target", func() bool {
		return strings.Contains(first.Condition().Text, fmt.Sprintf("another debugger (127.0.0.1:%d) holds that target", second.Port()))
	})
	if c := first.Condition(); !strings.Contains(c.Hint, "start this debugger again, which takes the target over") {
		t.Errorf("%+v", c)
	}
	// Each question of the polite one has been answered with an offer by now.
	in := first.Stats().DatagramsIn
	waitFor(t, "some more offers", func() bool { return first.Stats().DatagramsIn > in+3 })
	if a, b := first.Stats(), second.Stats(); a.Sessions != 0 || b.Sessions != 1 {
		t.Errorf("sessions %d and %d", a.Sessions, b.Sessions)
	}
	meet(t, second, k)
	second.Close()
	k.Restart() // it has no debugger now
	meet(t, first, k)
	exchange(t, first, k, 3, 0)
}

// A machine with several addresses may answer from another one than the target
// was told: that is no other debugger.
func TestOwnOtherAddress(t *testing.T) {
	key := key1234(t)
	for connected, answered := range map[string]int{"127.0.0.1:50000": 1, "127.0.0.1:50001": 0, "10.9.9.9:50000": 0} {
		out := &counter{}
		h := still(key, out)
		h.port = 50000
		p := poke{host: netip.MustParseAddrPort("10.0.0.1:50000"), connected: netip.MustParseAddrPort(connected)}
		from := netip.MustParseAddrPort("10.0.0.2:50000")
		h.datagram(out, from, newSeal(key, key).append(nil, meta{protocol: 5, channel: chanControl, sequence: 3}, p.encode()))
		if out.to[from.Addr()] != answered {
			t.Errorf("connected with %s: %d answers", connected, out.to[from.Addr()])
		}
	}
}

// rebound is a socket whose address a translator on the way can change.
type rebound struct {
	mu  sync.Mutex
	now Conn
	end bool
}

func (r *rebound) conn() Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *rebound) ReadFromUDPAddrPort(b []byte) (int, netip.AddrPort, error) {
	for {
		c := r.conn()
		n, a, err := c.ReadFromUDPAddrPort(b)
		r.mu.Lock()
		again := err != nil && !r.end && c != r.now
		r.mu.Unlock()
		if !again {
			return n, a, err
		}
	}
}

func (r *rebound) WriteToUDPAddrPort(b []byte, a netip.AddrPort) (int, error) {
	return r.conn().WriteToUDPAddrPort(b, a)
}
func (r *rebound) LocalAddr() net.Addr { return r.conn().LocalAddr() }
func (r *rebound) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end = true
	return r.now.Close()
}

func (r *rebound) move(t *testing.T, to string) {
	t.Helper()
	c, err := listenExclusively(t.Context(), "udp4", to)
	if err != nil {
		t.Fatal(err)
	}
	r.mu.Lock()
	old := r.now
	r.now = c
	r.mu.Unlock()
	old.Close()
}

// A translator between the two may give the target another port, or another
// address, in the middle of a session.
func TestTargetIsRebound(t *testing.T) {
	key := NewKey()
	h := listen(t, quick(key))
	var way *rebound
	tc := quickTarget(key, h.Port())
	tc.Socket = func(ctx context.Context, network, address string) (Conn, error) {
		c, err := listenExclusively(ctx, network, address)
		way = &rebound{now: c}
		return way, err
	}
	k := newTarget(t, tc)
	meet(t, h, k)
	exchange(t, h, k, 3, 0)
	// Its next sign of life tells, though it has nothing to say.
	way.move(t, "127.0.0.1:0")
	port := way.LocalAddr().String()
	waitFor(t, "the new port", func() bool { return h.Stats().Peer == port })
	exchange(t, h, k, 3, 100)
	if runtime.GOOS != "linux" {
		return // 127.0.0.2 is not everywhere
	}
	way.move(t, "127.0.0.2:0")
	meet(t, h, k) // it reports
	if s := h.Stats(); s.Peer != way.LocalAddr().String() || s.Sessions != 1 {
		t.Errorf("%+v", s)
	}
	exchange(t, h, k, 3, 100)
}

// A target that starts again at another address is met again.
func TestTargetComesBackElsewhere(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("127.0.0.2 is not everywhere")
	}
	key := NewKey()
	cfg := quick(key)
	cfg.Quiet = 500 * time.Millisecond
	h := listen(t, cfg)
	for i := range 3 {
		tc := quickTarget(key, h.Port())
		tc.Local = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, byte(1 + i)}), 0)
		k := newTarget(t, tc)
		if p := meet(t, h, k); !p.Fresh {
			t.Error("not Fresh")
		}
		exchange(t, h, k, 3, 10)
		k.Close()
	}
	if c := h.Condition(); strings.Contains(c.Text, "uses the same key") {
		t.Errorf("%+v", c)
	}
}

// What was sent under the key of an earlier boot and arrives late is known as
// such, and does nothing.
func TestLateDatagrams(t *testing.T) {
	key := NewKey()
	h := listen(t, quick(key))
	var wire *tap
	tc := quickTarget(key, h.Port())
	tc.Socket = tapped(&wire)
	k := newTarget(t, tc)
	meet(t, h, k)
	exchange(t, h, k, 3, 0)
	// Never seen before, in order, authentic: but of the boot before.
	text := kdproto.AppendData(nil, kdproto.TypeDebugIO, 1<<20, kdproto.NewPrint([]byte("late")).Append(nil))
	k.mu.Lock()
	late := k.seal.append(nil, meta{protocol: 5, sequence: 1 << 20}, text[:len(text)-1])
	life := k.control.append(nil, meta{protocol: 5, channel: chanControl, sequence: 1 << 20}, (&poke{
		nonce: k.boot, target: k.local, host: tc.Host, connected: tc.Host,
	}).encode())
	k.mu.Unlock()
	k.Restart()
	meet(t, h, k)
	before := h.Stats()
	to := tc.Host
	for range 10 {
		wire.Conn.WriteToUDPAddrPort(late, to)
		wire.Conn.WriteToUDPAddrPort(life, to)
	}
	exchange(t, h, k, 20, 100)
	s := h.Stats()
	if s.Replays < before.Replays+20 || s.BadTags != before.BadTags || s.Sessions != before.Sessions || s.PacketsIn != before.PacketsIn+20 {
		t.Errorf("before %+v\nafter %+v", before, s)
	}
}

// The boot loader hands the session over to the kernel, which numbers its
// packets anew.
func TestHandOver(t *testing.T) {
	key := NewKey()
	h := listen(t, quick(key))
	k := newTarget(t, quickTarget(key, h.Port()))
	for range 2 {
		if p := meet(t, h, k); !p.Fresh {
			t.Error("not Fresh")
		}
		exchange(t, h, k, 5, 100)
		k.current, k.expected = 0, hostFirst
	}
	if s := h.Stats(); s.Sessions != 1 {
		t.Errorf("%+v", s)
	}
}

// Every datagram of both sides is understood by a decoder that was written from
// the description of the protocol alone.
func TestSecondDecoder(t *testing.T) {
	key := NewKey()
	var hosts, targets *tap
	cfg := quick(key)
	cfg.Socket = tapped(&hosts)
	h := listen(t, cfg)
	tc := quickTarget(key, h.Port())
	tc.Socket = tapped(&targets)
	k := newTarget(t, tc)
	meet(t, h, k)
	for size := range 40 {
		exchange(t, h, k, 1, size)
	}
	exchange(t, h, k, 3, kdproto.MaxPayload-56)
	if err := h.BreakIn(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the break-in", k.PollBreakIn)
	h.Close()
	k.Close()
	var parts [4]uint64
	for i := range parts {
		parts[i] = binary.LittleEndian.Uint64(key[8*i:])
	}
	r := recorded.NewReader(parts)
	last := map[bool]uint64{}
	kinds := map[string]int{}
	look := func(side bool, d []byte) {
		p, err := r.Read(d)
		if err != nil || p.Host != side || p.Protocol != 5 {
			t.Fatalf("%+v %v", p, err)
		}
		switch {
		case p.Channel == 1:
			kinds[fmt.Sprintf("control, %d bytes", len(p.Body))]++
			return
		case p.Sequence <= last[side]:
			t.Fatalf("sequence %d behind %d", p.Sequence, last[side])
		}
		last[side] = p.Sequence
		if len(p.Body) == 1 || len(p.Body) == 12 {
			kinds[fmt.Sprintf("data, %d bytes", len(p.Body))]++
			return
		}
		hd, _, err := recorded.KD(p.Body)
		if err != nil {
			t.Fatal(err)
		}
		kinds[hd.Type.String()]++
	}
	for _, d := range hosts.all() { // first: the responses hold the key
		look(true, d)
	}
	for _, d := range targets.all() {
		look(false, d)
	}
	for _, want := range []string{"control, 344 bytes", "control, 322 bytes", "data, 1 bytes", "data, 12 bytes", kdproto.TypeManipulate.String(), kdproto.TypeAcknowledge.String()} {
		if kinds[want] == 0 {
			t.Errorf("no %s among %v", want, kinds)
		}
	}
	t.Log(kinds)
}
