// Package linktest is the conformance suite of link.Host: what every link has
// to do, whatever carries its packets.
//
// It knows the contract in package link and nothing about a wire. Damage on
// the wire is tested where the wire is known.
package linktest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"openkd/kdproto"
	"openkd/link"
)

// ErrResend is what Peer.Receive returns when the host asks for the last
// packet again.
var ErrResend = errors.New("linktest: the host wants the last packet again")

// Peer is the target's end of the link under test, driven step by step. It is
// used by one goroutine at a time, except Close.
type Peer interface {
	// Send sends a data packet and returns when the host has acknowledged it.
	// After an error the same packet may be sent again, as a repetition.
	Send(ctx context.Context, t kdproto.PacketType, payload []byte) error
	// Receive returns the next packet of a type, or ErrResend. What the host
	// sends while Receive does not run is kept or lost as the wire has it, but
	// it is not acknowledged.
	Receive(ctx context.Context, want kdproto.PacketType) ([]byte, error)
	// BreakIn waits for a break-in, as a running target does: all else is
	// thrown away.
	BreakIn(ctx context.Context) error
	// Restart makes the target a machine that has just started: its next
	// packet starts the numbering anew.
	Restart()
	// Close hangs up.
	Close() error
}

// Lingerer is a Peer of a link that loses packets. When its part of a test is
// done and the host's is not, it does what a target would that waits for the
// next request: acknowledge what the host repeats.
type Lingerer interface {
	Linger(stop <-chan struct{})
}

// patience bounds every wait of the suite; it is no measure of speed.
const patience = 30 * time.Second

// Unreliable is a Peer of a link that loses even what nobody acknowledges: a
// single break-in may not arrive, and is not asked for.
type Unreliable interface{ Unreliable() bool }

// Run runs the suite. make joins a fresh host to a fresh peer for one test and
// cleans up after it; the host should give up on a silent target within a
// second or two.
func Run(t *testing.T, make func(t *testing.T) (link.Host, Peer)) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *bench)
	}{
		{"Packets", testPackets},
		{"Sizes", testSizes},
		{"TooLong", testTooLong},
		{"PrintBeforeReply", testPrintBeforeReply},
		{"NobodyReceives", testNobodyReceives},
		{"BreakIn", testBreakIn},
		{"BreakInDuringSend", testBreakInDuringSend},
		{"ResyncRepeats", testResyncRepeats},
		{"ResyncDropsWhatIsBuffered", testResyncDrops},
		{"ResyncDuringSend", testResyncDuringSend},
		{"RestartIsFresh", testRestart},
		{"RestartDuringSend", testRestartDuringSend},
		{"NoAnswer", testNoAnswer},
		{"Contexts", testContexts},
		{"CloseUnblocks", testClose},
		{"HangUp", testHangUp},
		{"StatsAnyTime", testStats},
	} {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			h, p := make(t)
			u, ok := p.(Unreliable)
			unreliable := ok && u.Unreliable()
			if unreliable && strings.HasPrefix(c.name, "BreakIn") {
				t.Skip("a lost break-in is not repeated by a link")
			}
			c.test(t, &bench{t: t, ctx: ctx, host: h, peer: p, unreliable: unreliable})
		})
	}
}

// bench is one host and one peer under test.
type bench struct {
	t    *testing.T
	ctx  context.Context
	host link.Host
	peer Peer

	unreliable bool // what is sent may be lost, or overtaken
	stops      int
}

// state is a state change that can be told from others by n.
func state(n int) []byte {
	s := kdproto.StateChange{Kind: kdproto.StateException, ProgramCounter: uint64(n)}
	return s.Append(nil)
}

// request is a manipulate packet of 56 bytes and size more.
func request(n, size int) []byte {
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(n + i)
	}
	return kdproto.NewRequest(kdproto.APIWriteVirtualMemory, 0,
		&kdproto.Memory{Address: uint64(n), Count: uint32(size)}, data).Append(nil)
}

func printed(n int) []byte { return kdproto.NewPrint(fmt.Appendf(nil, "line %d\n", n)).Append(nil) }

// together runs the peer's part beside the host's and waits for both.
func (b *bench) together(peer, host func() error) {
	b.t.Helper()
	end, over := make(chan error, 1), make(chan struct{})
	go func() {
		err := peer()
		if l, ok := b.peer.(Lingerer); ok && err == nil {
			l.Linger(over)
		}
		end <- err
	}()
	if err := host(); err != nil {
		b.t.Errorf("host: %v", err)
	}
	close(over)
	if err := <-end; err != nil {
		b.t.Errorf("peer: %v", err)
	}
	if b.t.Failed() {
		b.t.FailNow()
	}
}

// expect receives a packet and compares it.
func (b *bench) expect(t kdproto.PacketType, payload []byte) (link.Packet, error) {
	p, err := b.host.Receive(b.ctx)
	if err != nil {
		return p, fmt.Errorf("receive: %w", err)
	}
	if p.Type != t || !bytes.Equal(p.Payload, payload) {
		return p, fmt.Errorf("received %v of %d bytes (%.20x), want %v of %d (%.20x)", p.Type, len(p.Payload), p.Payload, t, len(payload), payload)
	}
	return p, nil
}

// attach brings both sides to a stop that the host has seen. Every stop is
// another one: a link may take the same first packet of a machine twice in a
// row, with nothing in between, for a repetition.
func (b *bench) attach() {
	b.t.Helper()
	b.stops++
	first := state(1000 + b.stops)
	b.together(func() error { return b.peer.Send(b.ctx, kdproto.TypeStateChange64, first) },
		func() error {
			p, err := b.expect(kdproto.TypeStateChange64, first)
			if err == nil && !p.Fresh {
				err = errors.New("the first packet of a machine is not Fresh")
			}
			return err
		})
}

// exchange sends a request and gets a reply.
func (b *bench) exchange(n, size int) {
	b.t.Helper()
	b.together(func() error { return b.serve(1) }, func() error {
		req := request(n, size)
		if err := b.host.Send(b.ctx, kdproto.TypeManipulate, req); err != nil {
			return err
		}
		p, err := b.expect(kdproto.TypeManipulate, req)
		if err == nil && (p.Fresh || p.Repeated) {
			err = fmt.Errorf("a plain reply has Fresh %v, Repeated %v", p.Fresh, p.Repeated)
		}
		return err
	})
}

// serve echoes n requests. A wish for the last packet is answered with it.
func (b *bench) serve(n int) error {
	for range n {
		p, err := b.peer.Receive(b.ctx, kdproto.TypeManipulate)
		if err != nil {
			return err
		}
		if err := b.peer.Send(b.ctx, kdproto.TypeManipulate, p); err != nil {
			return err
		}
	}
	return nil
}

func testPackets(t *testing.T, b *bench) {
	b.attach()
	const n = 50
	b.together(func() error { return b.serve(n) }, func() error {
		for i := range n {
			if err := b.host.Send(b.ctx, kdproto.TypeManipulate, request(i, i)); err != nil {
				return err
			}
			if _, err := b.expect(kdproto.TypeManipulate, request(i, i)); err != nil {
				return err
			}
		}
		return nil
	})
	file := kdproto.NewFileCreate(`\SystemRoot\x.sys`).Append(nil)
	trace := (&kdproto.TraceIO{API: kdproto.APIPrintTrace, Data: []byte("0000")}).Append(nil)
	control := (&kdproto.ControlRequest{API: kdproto.APIRequestHWBreak, Number: 1}).Append(nil)
	for _, p := range []struct {
		t kdproto.PacketType
		b []byte
	}{
		{kdproto.TypeDebugIO, printed(1)}, {kdproto.TypeFileIO, file}, {kdproto.TypeTraceIO, trace},
		{kdproto.TypeControlRequest, control}, {kdproto.TypeStateChange64, state(1)},
	} {
		b.together(func() error { return b.peer.Send(b.ctx, p.t, p.b) }, func() error { _, err := b.expect(p.t, p.b); return err })
	}
	// Answers travel the other way in the same packet types.
	for _, p := range []kdproto.PacketType{kdproto.TypeDebugIO, kdproto.TypeFileIO} {
		payload := file
		if p == kdproto.TypeDebugIO {
			payload = kdproto.NewAnswer([]byte("boipt")).Append(nil)
		}
		b.together(func() error {
			got, err := b.peer.Receive(b.ctx, p)
			if err == nil && !bytes.Equal(got, payload) {
				err = fmt.Errorf("peer received %x", got)
			}
			return err
		}, func() error { return b.host.Send(b.ctx, p, payload) })
	}
}

func testSizes(t *testing.T, b *bench) {
	b.attach()
	for i, n := range []int{0, 1, 100, 1023, 1024, 3943, kdproto.MaxTransfer} {
		b.exchange(i, n)
	}
}

func testTooLong(t *testing.T, b *bench) {
	b.attach()
	if err := b.host.Send(b.ctx, kdproto.TypeManipulate, make([]byte, kdproto.MaxPayload+1)); err == nil {
		t.Fatal("a payload of 4001 bytes was sent")
	}
	b.exchange(1, 1)
}

func testPrintBeforeReply(t *testing.T, b *bench) {
	b.attach()
	b.together(func() error {
		p, err := b.peer.Receive(b.ctx, kdproto.TypeManipulate)
		if err != nil {
			return err
		}
		for i := range 3 {
			if err := b.peer.Send(b.ctx, kdproto.TypeDebugIO, printed(i)); err != nil {
				return err
			}
		}
		return b.peer.Send(b.ctx, kdproto.TypeManipulate, p)
	}, func() error {
		if err := b.host.Send(b.ctx, kdproto.TypeManipulate, request(1, 1)); err != nil {
			return err
		}
		for i := range 3 {
			if _, err := b.expect(kdproto.TypeDebugIO, printed(i)); err != nil {
				return err
			}
		}
		_, err := b.expect(kdproto.TypeManipulate, request(1, 1))
		return err
	})
}

// testNobodyReceives: packets are acknowledged without a receiver up to a
// bound, then no longer, and none is lost or doubled.
func testNobodyReceives(t *testing.T, b *bench) {
	b.attach()
	const most = 20_000
	sent := 0
	for ; sent < most; sent++ {
		ctx, cancel := context.WithTimeout(b.ctx, 500*time.Millisecond)
		err := b.peer.Send(ctx, kdproto.TypeDebugIO, printed(sent))
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if sent == 0 || sent == most {
		t.Fatalf("%d packets were acknowledged with nobody receiving", sent)
	}
	b.together(func() error { return b.peer.Send(b.ctx, kdproto.TypeDebugIO, printed(sent)) }, func() error {
		for i := range sent + 1 {
			if _, err := b.expect(kdproto.TypeDebugIO, printed(i)); err != nil {
				return err
			}
		}
		return nil
	})
	b.exchange(1, 1)
}

func testBreakIn(t *testing.T, b *bench) {
	b.attach()
	b.together(func() error {
		if err := b.peer.BreakIn(b.ctx); err != nil {
			return err
		}
		return b.peer.Send(b.ctx, kdproto.TypeStateChange64, state(1))
	}, func() error {
		if err := b.host.BreakIn(); err != nil {
			return err
		}
		_, err := b.expect(kdproto.TypeStateChange64, state(1))
		return err
	})
	if n := b.host.Stats().BreakIns; n != 1 {
		t.Fatalf("%d break-ins counted", n)
	}
	b.exchange(1, 1)
}

// testBreakInDuringSend: a break-in does not wait for a Send's ACK.
func testBreakInDuringSend(t *testing.T, b *bench) {
	b.attach()
	ctx, cancel := context.WithCancel(b.ctx)
	end := make(chan error, 1)
	go func() { end <- b.host.Send(ctx, kdproto.TypeManipulate, request(0, 0)) }()
	for b.host.Stats().PacketsOut == 0 {
		time.Sleep(time.Millisecond)
	}
	b.together(func() error { return b.peer.BreakIn(b.ctx) }, b.host.BreakIn)
	cancel()
	<-end
}

func testResyncRepeats(t *testing.T, b *bench) {
	for requests := range 3 {
		unmarked := false
		b.peer.Restart()
		b.attach()
		for i := range requests {
			b.exchange(i, 1)
		}
		b.together(func() error {
			_, err := b.peer.Receive(b.ctx, kdproto.TypeManipulate)
			if !errors.Is(err, ErrResend) {
				return fmt.Errorf("want ErrResend, got %w", err)
			}
			return b.peer.Send(b.ctx, kdproto.TypeStateChange64, state(7))
		}, func() error {
			if err := b.host.Resync(); err != nil {
				return err
			}
			p, err := b.expect(kdproto.TypeStateChange64, state(7))
			// Where the answer to the RESET is lost, the packet behind it could as
			// well have been sent before, and is not marked.
			unmarked = err == nil && !p.Repeated && b.unreliable
			if err == nil && (!p.Repeated && !unmarked || p.Fresh) {
				err = fmt.Errorf("the packet asked for has Repeated %v, Fresh %v", p.Repeated, p.Fresh)
			}
			return err
		})
		if unmarked {
			return // the RESET goes out again, and the target has to repeat again
		}
		b.exchange(8, 8)
		b.exchange(9, 9)
	}
}

func testResyncDrops(t *testing.T, b *bench) {
	b.attach()
	for i := range 5 {
		if err := b.peer.Send(b.ctx, kdproto.TypeDebugIO, printed(i)); err != nil {
			t.Fatal(err)
		}
	}
	b.together(func() error {
		if _, err := b.peer.Receive(b.ctx, kdproto.TypeManipulate); !errors.Is(err, ErrResend) {
			return fmt.Errorf("want ErrResend, got %w", err)
		}
		return b.peer.Send(b.ctx, kdproto.TypeStateChange64, state(3))
	}, func() error {
		if err := b.host.Resync(); err != nil {
			return err
		}
		_, err := b.expect(kdproto.TypeStateChange64, state(3))
		return err
	})
}

func testResyncDuringSend(t *testing.T, b *bench) {
	b.attach()
	end := make(chan error, 1)
	go func() { end <- b.host.Send(b.ctx, kdproto.TypeManipulate, request(0, 0)) }()
	for b.host.Stats().PacketsOut == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := b.host.Resync(); err != nil {
		t.Fatal(err)
	}
	if err := <-end; !errors.Is(err, link.ErrResynced) {
		t.Fatalf("Send: %v", err)
	}
}

// testRestart: after a reboot the host's own numbering starts anew too, however
// many packets it had sent.
func testRestart(t *testing.T, b *bench) {
	for requests := range 3 {
		b.peer.Restart()
		b.attach()
		for i := range requests {
			b.exchange(i, 1)
		}
	}
}

func testRestartDuringSend(t *testing.T, b *bench) {
	b.attach()
	b.exchange(1, 1)
	end := make(chan error, 1)
	go func() { end <- b.host.Send(b.ctx, kdproto.TypeManipulate, request(0, 0)) }()
	for b.host.Stats().PacketsOut < 2 {
		time.Sleep(time.Millisecond)
	}
	b.peer.Restart()
	b.together(func() error { return b.peer.Send(b.ctx, kdproto.TypeStateChange64, state(4)) }, func() error {
		p, err := b.expect(kdproto.TypeStateChange64, state(4))
		if err == nil && !p.Fresh {
			err = errors.New("not Fresh")
		}
		return err
	})
	if err := <-end; !errors.Is(err, link.ErrResynced) {
		t.Fatalf("Send: %v", err)
	}
}

func testNoAnswer(t *testing.T, b *bench) {
	b.attach()
	if err := b.host.Send(b.ctx, kdproto.TypeManipulate, request(0, 0)); !errors.Is(err, link.ErrNoAnswer) {
		t.Fatalf("Send to a deaf target: %v", err)
	}
	if s := b.host.Stats(); s.PacketsOut != 1 || s.Resends == 0 {
		t.Fatalf("%+v", s)
	}
	// The link is still open, and the target comes back.
	b.together(func() error {
		for {
			_, err := b.peer.Receive(b.ctx, kdproto.TypeManipulate)
			if errors.Is(err, ErrResend) {
				return b.peer.Send(b.ctx, kdproto.TypeStateChange64, state(5))
			}
			if err != nil {
				return err
			}
		}
	}, func() error {
		if err := b.host.Resync(); err != nil {
			return err
		}
		_, err := b.expect(kdproto.TypeStateChange64, state(5))
		return err
	})
	b.exchange(1, 1)
}

func testContexts(t *testing.T, b *bench) {
	b.attach()
	ctx, cancel := context.WithCancel(b.ctx)
	ends := make(chan error, 2)
	go func() { _, err := b.host.Receive(ctx); ends <- err }()
	go func() { ends <- b.host.Send(ctx, kdproto.TypeManipulate, request(0, 0)) }()
	for b.host.Stats().PacketsOut == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	for range 2 {
		if err := <-ends; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
}

func testClose(t *testing.T, b *bench) {
	b.attach()
	ends := make(chan error, 2)
	go func() { _, err := b.host.Receive(b.ctx); ends <- err }()
	go func() { ends <- b.host.Send(b.ctx, kdproto.TypeManipulate, request(0, 0)) }()
	for b.host.Stats().PacketsOut == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := b.host.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-ends; !errors.Is(err, link.ErrClosed) {
			t.Errorf("a call that Close ends: %v", err)
		}
	}
	_, receive := b.host.Receive(b.ctx)
	for name, err := range map[string]error{
		"Receive": receive,
		"Send":    b.host.Send(b.ctx, kdproto.TypeManipulate, request(0, 0)),
		"BreakIn": b.host.BreakIn(),
		"Resync":  b.host.Resync(),
	} {
		if !errors.Is(err, link.ErrClosed) {
			t.Errorf("%s after Close: %v", name, err)
		}
	}
	if err := b.host.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// testHangUp: what was acknowledged is delivered before the error, which stays.
func testHangUp(t *testing.T, b *bench) {
	b.attach()
	for i := range 5 {
		if err := b.peer.Send(b.ctx, kdproto.TypeDebugIO, printed(i)); err != nil {
			t.Fatal(err)
		}
	}
	b.peer.Close()
	for i := range 5 {
		if _, err := b.expect(kdproto.TypeDebugIO, printed(i)); err != nil {
			t.Fatal(err)
		}
	}
	_, first := b.host.Receive(b.ctx)
	if first == nil || errors.Is(first, link.ErrClosed) || errors.Is(first, context.DeadlineExceeded) {
		t.Fatalf("after the peer hung up: %v", first)
	}
	if _, again := b.host.Receive(b.ctx); again != first {
		t.Fatalf("the error changed from %v to %v", first, again)
	}
	if err := b.host.Send(b.ctx, kdproto.TypeManipulate, request(0, 0)); err == nil {
		t.Fatal("Send to nobody succeeds")
	}
}

// testStats also lets everything that may be called at any time run at once;
// the race detector watches.
func testStats(t *testing.T, b *bench) {
	b.attach()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				b.host.Stats()
				time.Sleep(100 * time.Microsecond)
			}
		}
	})
	const n = 20
	before := b.host.Stats()
	start := time.Now()
	for i := range n {
		b.exchange(i, 100)
	}
	close(stop)
	wg.Wait()
	s := b.host.Stats()
	if s.PacketsIn-before.PacketsIn != n || s.PacketsOut-before.PacketsOut != n {
		t.Errorf("packets in %d, out %d, want %d more than before (%d, %d)", s.PacketsIn, s.PacketsOut, n, before.PacketsIn, before.PacketsOut)
	}
	if least := uint64(n * 156); s.BytesIn-before.BytesIn < least || s.BytesOut-before.BytesOut < least {
		t.Errorf("bytes in %d, out %d", s.BytesIn, s.BytesOut)
	}
	if s.LastByte.Before(start) || s.RoundTrip <= 0 {
		t.Errorf("last byte %v, round trip %v", s.LastByte, s.RoundTrip)
	}
}
