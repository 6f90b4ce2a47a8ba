package kdnet

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"openkd/kdproto"
	"openkd/link"
)

// meet brings both to the first stop.
func meet(t testing.TB, h *Host, k *Target) link.Packet {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	sent := make(chan error, 1)
	state := (&kdproto.StateChange{Kind: kdproto.StateException}).Append(nil)
	go func() { sent <- k.Send(ctx, kdproto.TypeStateChange64, state, false) }()
	p, err := h.Receive(ctx)
	if err == nil {
		err = <-sent
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func readRequest(n int) []byte {
	return kdproto.NewRequest(kdproto.APIReadVirtualMemory, 0, &kdproto.Memory{Address: uint64(n), Count: uint32(n)}, nil).Append(nil)
}

// answer is the target's part of n exchanges: each request comes back with its
// number and size more bytes.
func answer(ctx context.Context, k *Target, n, size int) error {
	for range n {
		var p []byte
		for {
			b, r, err := k.Receive(ctx, kdproto.TypeManipulate, 0)
			if err != nil {
				return err
			}
			if r == link.Received {
				p = b
				break
			}
		}
		q := p
		for i := range size {
			q = append(q, p[16]+byte(i))
		}
		if err := k.Send(ctx, kdproto.TypeManipulate, q, false); err != nil {
			return err
		}
	}
	return nil
}

// ask is the host's part.
func ask(ctx context.Context, h *Host, n, size int) error {
	for i := range n {
		req := readRequest(i)
		if err := h.Send(ctx, kdproto.TypeManipulate, req); err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
		p, err := h.Receive(ctx)
		if err != nil {
			return fmt.Errorf("reply %d: %w", i, err)
		}
		want := req
		for j := range size {
			want = append(want, req[16]+byte(j))
		}
		if p.Type != kdproto.TypeManipulate || p.Fresh || p.Repeated || !bytes.Equal(p.Payload, want) {
			return fmt.Errorf("reply %d: %+v", i, p)
		}
	}
	return nil
}

func exchange(t testing.TB, h *Host, k *Target, n, size int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		if err := answer(ctx, k, n, size); err != nil {
			t.Errorf("target: %v", err)
			cancel()
		}
	})
	if err := ask(ctx, h, n, size); err != nil {
		t.Errorf("host: %v", err)
		cancel()
	}
}

// tap keeps every datagram that a socket sends.
type tap struct {
	Conn
	mu   sync.Mutex
	sent [][]byte
}

func (s *tap) WriteToUDPAddrPort(b []byte, a netip.AddrPort) (int, error) {
	s.mu.Lock()
	s.sent = append(s.sent, bytes.Clone(b))
	s.mu.Unlock()
	return s.Conn.WriteToUDPAddrPort(b, a)
}

func (s *tap) all() [][]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([][]byte(nil), s.sent...)
}

func tapped(into **tap) func(context.Context, string, string) (Conn, error) {
	return func(ctx context.Context, network, address string) (Conn, error) {
		c, err := listenExclusively(ctx, network, address)
		if err != nil {
			return nil, err
		}
		*into = &tap{Conn: c}
		return *into, nil
	}
}

// What strangers send while a session works is refused, counted and not
// noticed by the session; so is what the target itself sent, sent again from its
// own address.
func TestStrangers(t *testing.T) {
	key := NewKey()
	cfg := quick(key)
	cfg.Retransmit = 200 * time.Millisecond
	h := listen(t, cfg)
	var wire *tap
	tc := quickTarget(key, h.Port())
	tc.Socket = tapped(&wire)
	k := newTarget(t, tc)
	meet(t, h, k)
	exchange(t, h, k, 20, 100)
	sessions := h.Stats().Sessions

	stranger, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: h.Port()})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(h.Port()))
	record := wire.all()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		big := bytes.Repeat([]byte("MDBG\x05\x00"), 1500)
		other := newSeal(dataKey(NewKey(), nil), NewKey())
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			d := record[i%len(record)]
			forged := bytes.Clone(d)
			forged[len(forged)/2] ^= 1
			stranger.Write(d)                                                            // replayed from elsewhere
			stranger.Write(forged)                                                       // forged
			stranger.Write(d[:len(d)-1-i%20])                                            // cut short
			stranger.Write(big)                                                          // too long
			stranger.Write(other.append(nil, meta{protocol: 5, sequence: 9}, []byte{1})) // of another key
			wire.Conn.WriteToUDPAddrPort(d, to)                                          // replayed from the target's address
			wire.Conn.WriteToUDPAddrPort(forged, to)                                     // forged with the target's address
			wire.Conn.WriteToUDPAddrPort(big, to)
			time.Sleep(100 * time.Microsecond)
		}
	})
	exchange(t, h, k, 300, 900)
	close(stop)
	wg.Wait()
	s := h.Stats()
	if s.Foreign == 0 || s.BadTags == 0 || s.Replays == 0 {
		t.Errorf("not counted: %+v", s)
	}
	if s.Sessions != sessions || s.Resets != 0 {
		t.Errorf("the session noticed: %d sessions, %d before, %d resets", s.Sessions, sessions, s.Resets)
	}
	if c := h.Condition(); !strings.HasPrefix(c.Text, "Connected to target 127.0.0.1 on port ") {
		t.Errorf("%+v", c)
	}
	// What the target said, said again by somebody else, is not the target moving.
	before, all := h.Stats(), wire.all()
	said := all[len(all)-1]
	if said[5] != chanData {
		said = all[len(all)-2] // a sign of life came behind it
	}
	waitFor(t, "the repetition has come", func() bool {
		stranger.Write(said) // most are not looked at, he has sent too much already
		return h.Stats().Replays > before.Replays
	})
	if s := h.Stats(); s.Peer != before.Peer {
		t.Errorf("the target is at %s now, it was at %s", s.Peer, before.Peer)
	}
}

// The same at the target's side.
func TestStrangersAtTheTarget(t *testing.T) {
	key := NewKey()
	var wire *tap
	cfg := quick(key)
	cfg.Retransmit, cfg.Socket = 200*time.Millisecond, tapped(&wire)
	h := listen(t, cfg)
	k := newTarget(t, quickTarget(key, h.Port()))
	meet(t, h, k)
	exchange(t, h, k, 20, 10)
	to := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), k.Local().Port())
	record := wire.all()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			d := record[i%len(record)]
			forged := bytes.Clone(d)
			forged[i%len(d)] ^= 0x10
			for _, b := range [][]byte{d, forged, d[:i%len(d)]} {
				wire.Conn.WriteToUDPAddrPort(b, to)
			}
			time.Sleep(100 * time.Microsecond)
		}
	})
	exchange(t, h, k, 300, 900)
	close(stop)
	wg.Wait()
	if s := h.Stats(); s.Sessions != 1 {
		t.Errorf("%+v", s)
	}
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// What people are told.
func TestCondition(t *testing.T) {
	key := NewKey()
	h := listen(t, quick(key))
	if c := h.Condition(); c.Text != "" || !strings.Contains(c.Hint, fmt.Sprintf("No datagram yet on udp/%d", h.Port())) {
		t.Errorf("silence: %+v", c)
	}
	wrong := newTarget(t, quickTarget(NewKey(), h.Port()))
	waitFor(t, "the key does not fit", func() bool { return strings.Contains(h.Condition().Text, "the key does not fit") })
	wrong.Close()

	odd := quickTarget(NewKey(), h.Port())
	odd.Protocol = 9
	other := newTarget(t, odd)
	waitFor(t, "an unknown protocol byte", func() bool { return strings.Contains(h.Condition().Text, "protocol byte 9") })
	other.Close()

	// A target with another debugger.
	s := newSeal(key, key)
	c, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: h.Port()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	p := poke{host: netip.MustParseAddrPort("127.0.0.1:50000"), connected: netip.MustParseAddrPort("10.9.8.7:50000")}
	c.Write(s.append(nil, meta{protocol: 5, channel: chanControl, sequence: 3}, p.encode()))
	waitFor(t, "held", func() bool {
		return strings.Contains(h.Condition().Text, "another debugger (10.9.8.7:50000) holds")
	})

	k := quickTarget(key, h.Port())
	k.Protocol = 7
	tg := newTarget(t, k)
	meet(t, h, tg)
	if c := h.Condition(); !strings.Contains(c.Text, "Connected to target 127.0.0.1") || !strings.Contains(c.Text, "byte 7, which is not known") {
		t.Errorf("%+v", c)
	}
	for _, c := range []string{key.Reveal(), strings.Split(key.Reveal(), ".")[0]} {
		if strings.Contains(h.Condition().Text+h.Condition().Hint, c) {
			t.Error("the key is told")
		}
	}
}

// A host that ends and comes back takes the session over; the target is not
// new to it.
func TestHostRestart(t *testing.T) {
	key := NewKey()
	cfg := quick(key)
	h := listen(t, cfg)
	k := newTarget(t, quickTarget(key, h.Port()))
	meet(t, h, k)
	exchange(t, h, k, 3, 0)
	h.Close()
	cfg.Port = h.Port()
	h = listen(t, cfg)
	if err := h.Resync(); err != nil { // remembered
		t.Fatal(err)
	}
	if err := h.BreakIn(); err != nil { // the same
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	state := (&kdproto.StateChange{Kind: kdproto.StateException}).Append(nil)
	go func() {
		for {
			_, r, err := k.Receive(ctx, kdproto.TypeManipulate, 0)
			if err != nil {
				done <- err
				return
			}
			if r == link.Resend && k.Present() {
				done <- k.Send(ctx, kdproto.TypeStateChange64, state, false)
				return
			}
		}
	}()
	p, err := h.Receive(ctx)
	if err != nil || p.Type != kdproto.TypeStateChange64 || p.Fresh {
		t.Fatalf("%+v %v", p, err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the break-in asked for before", func() bool { return k.PollBreakIn() })
	if err := h.Resync(); err != nil {
		t.Fatal(err)
	}
	for {
		_, r, err := k.Receive(ctx, kdproto.TypeManipulate, 0)
		if err != nil {
			t.Fatal(err)
		}
		if r == link.Resend {
			break
		}
	}
	go func() { done <- k.Send(ctx, kdproto.TypeStateChange64, state, false) }()
	if p, err = h.Receive(ctx); err != nil || !p.Repeated {
		t.Fatalf("%+v %v", p, err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	exchange(t, h, k, 5, 10)
}

// A machine that was reset offers itself again, from another port too.
func TestTargetMoves(t *testing.T) {
	key := NewKey()
	h := listen(t, quick(key))
	for range 3 {
		k := newTarget(t, quickTarget(key, h.Port()))
		if p := meet(t, h, k); !p.Fresh {
			t.Error("not Fresh")
		}
		exchange(t, h, k, 3, 0)
		k.Restart()
		if p := meet(t, h, k); !p.Fresh {
			t.Error("not Fresh after a reset")
		}
		exchange(t, h, k, 3, 0)
		k.Close()
	}
}

// target= asks a machine that has no debugger, or another one.
func TestConnectRequest(t *testing.T) {
	key := NewKey()
	k := newTarget(t, TargetConfig{Key: key, Local: freeAddr(t), Offer: 50 * time.Millisecond, Timeout: 30 * time.Millisecond})
	cfg := quick(key)
	cfg.Target = k.Local().String()
	first := listen(t, cfg)
	meet(t, first, k)
	exchange(t, first, k, 3, 0)
	cfg.Target = fmt.Sprintf("localhost:%d", k.Local().Port())
	second := listen(t, cfg)
	waitFor(t, "taken over", func() bool { return second.Stats().Sessions == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- k.Send(ctx, kdproto.TypeDebugIO, kdproto.NewPrint([]byte("hello")).Append(nil), false) }()
	if p, err := second.Receive(ctx); err != nil || p.Type != kdproto.TypeDebugIO {
		t.Fatalf("%+v %v", p, err)
	}
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func freeAddr(t *testing.T) netip.AddrPort {
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).AddrPort()
}

func TestListenErrors(t *testing.T) {
	key := NewKey()
	h := listen(t, quick(key))
	for target, want := range map[string]string{
		"0.0.0.0":             fmt.Sprintf("udp/%d is in use", h.Port()),
		"no.such.invalid":     "target=no.such.invalid does not resolve",
		"10.0.0.1:0":          "a number from 1 to 65535",
		"a b":                 "neither an address nor the name",
		"10.0.0.1:port":       "a number from 1 to 65535",
		"http://x/":           "number from 1 to 65535",
		"":                    fmt.Sprintf("udp/%d is in use", h.Port()),
		"[fe80::zz]:50000000": "number from 1 to 65535",
	} {
		cfg := quick(key)
		cfg.Target, cfg.Port = target, h.Port()
		got, err := Listen(t.Context(), cfg)
		if err == nil {
			got.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("target=%q: %v, want %q", target, err, want)
		}
	}
}
