package kdnet

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"go.uber.org/goleak"

	"openkd/kdproto"
	"openkd/link"
	"openkd/link/fault"
	"openkd/link/linktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// peer drives a Target for the conformance suite.
type peer struct {
	*Target
	faulty bool
}

// Unreliable implements linktest.Unreliable.
func (p peer) Unreliable() bool { return p.faulty }

// Linger implements linktest.Lingerer. What is new is kept for the next Receive.
func (p peer) Linger(stop <-chan struct{}) {
	var later [][]byte
	for {
		select {
		case b := <-p.inbox:
			h, err := kdproto.DecodeHeader(b)
			if err == nil && h.Leader == kdproto.DataLeader && int32(h.ID-p.expected) < 0 {
				p.writeControl(kdproto.TypeAcknowledge, h.ID)
				continue
			}
			later = append(later, b)
		case <-stop:
			for _, b := range later {
				p.inbox <- b
			}
			return
		}
	}
}

func (p peer) Send(ctx context.Context, t kdproto.PacketType, payload []byte) error {
	return p.Target.Send(ctx, t, payload, false)
}

func (p peer) Receive(ctx context.Context, want kdproto.PacketType) ([]byte, error) {
	for {
		b, r, err := p.Target.Receive(ctx, want, 0)
		switch {
		case err != nil:
			return nil, err
		case r == link.Received:
			return b, nil
		case r == link.Resend:
			return nil, linktest.ErrResend
		}
	}
}

func (p peer) BreakIn(ctx context.Context) error {
	for ctx.Err() == nil {
		if p.PollBreakIn() {
			return nil
		}
		time.Sleep(100 * time.Microsecond)
	}
	return ctx.Err()
}

func quick(key Key) Config {
	return Config{
		Key: key, Target: "0.0.0.0", Retransmit: 40 * time.Millisecond, ResendWait: 2 * time.Millisecond,
		Connect: 20 * time.Millisecond, Silence: 2 * time.Second,
	}
}

func quickTarget(key Key, port int) TargetConfig {
	return TargetConfig{
		Key: key, Host: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port)),
		Offer: 100 * time.Millisecond, Timeout: 30 * time.Millisecond,
	}
}

// spoilt makes sockets with faults.
func spoilt(f fault.Config) func(context.Context, string, string) (Conn, error) {
	if f == (fault.Config{}) {
		return nil
	}
	return func(ctx context.Context, network, address string) (Conn, error) {
		c, err := listenExclusively(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return fault.NewPackets(c, f), nil
	}
}

func listen(t testing.TB, cfg Config) *Host {
	t.Helper()
	h, err := Listen(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.Close() })
	return h
}

func newTarget(t testing.TB, cfg TargetConfig) *Target {
	t.Helper()
	k, err := NewTarget(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { k.Close() })
	return k
}

func TestConformance(t *testing.T) {
	faults := map[string]fault.Config{
		"clean":     {},
		"lossy":     {Drop: 0.05, Seed: 1},
		"doubled":   {Duplicate: 0.2, Seed: 2},
		"disorder":  {Reorder: 0.05, Seed: 3},
		"spoilt":    {Corrupt: 0.05, Noise: 0.05, Seed: 4},
		"all of it": {Drop: 0.01, Duplicate: 0.02, Reorder: 0.01, Corrupt: 0.01, Noise: 0.02, Seed: 5},
	}
	key := NewKey()
	for name, f := range faults {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			linktest.Run(t, func(t *testing.T) (link.Host, linktest.Peer) {
				cfg := quick(key)
				cfg.Socket = spoilt(f)
				h := listen(t, cfg)
				return h, peer{newTarget(t, quickTarget(key, h.Port())), f != (fault.Config{})}
			})
		})
	}
	t.Run("ipv6", func(t *testing.T) {
		if c, err := net.ListenPacket("udp6", "[::1]:0"); err != nil {
			t.Skipf("no IPv6 here: %v", err)
		} else {
			c.Close()
		}
		linktest.Run(t, func(t *testing.T) (link.Host, linktest.Peer) {
			cfg := quick(key)
			cfg.Target = "::"
			h := listen(t, cfg)
			k := quickTarget(key, h.Port())
			k.Host = netip.AddrPortFrom(netip.IPv6Loopback(), uint16(h.Port()))
			return h, peer{newTarget(t, k), false}
		})
	})
}
