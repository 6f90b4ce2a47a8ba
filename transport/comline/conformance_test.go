package comline_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"openkd/link/fault"
	"openkd/transport"
	"openkd/transport/comline"
	"openkd/transport/transporttest"
)

// pairs returns a function that makes connected streams over one line.
func pairs(t testing.TB, a, b comline.Config) func(t *testing.T) (transport.Conn, transport.Conn) {
	var la, lb comline.Lines
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	ln, err := lb.Listen(ctx, b, 3)
	if err != nil {
		t.Fatal(err)
	}
	keep, err := la.Listen(ctx, a, 200) // so that the line stays open between pairs
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		keep.Close()
		ln.Close()
		cancel()
	})
	return func(t *testing.T) (transport.Conn, transport.Conn) {
		got := make(chan net.Conn, 1)
		go func() {
			c, err := ln.Accept()
			if err != nil {
				t.Error(err)
			}
			got <- c
		}()
		c, err := la.Dial(ctx, a, 3)
		if err != nil {
			t.Fatal(err)
		}
		return c.(transport.Conn), (<-got).(transport.Conn)
	}
}

func TestConformance(t *testing.T) {
	a, b := comline.Ends(t, comline.Fast, nil)
	transporttest.Run(t, pairs(t, a, b))
}

// spoilt is for both ends of a line: together, a byte in two thousand is lost,
// changed, repeated or has rubbish in front of it, in either direction.
func spoilt(seed uint64) fault.Config {
	const each = 1. / 16000
	return fault.Config{Drop: each, Corrupt: each, Duplicate: each, Noise: each, Spacing: 1, Seed: seed}
}

func TestConformanceFaulty(t *testing.T) {
	seed := uint64(0)
	a, b := comline.Ends(t, comline.Fast, func(dev io.ReadWriteCloser) io.ReadWriteCloser {
		seed++
		return fault.New(dev, spoilt(seed))
	})
	transporttest.Run(t, pairs(t, a, b))
}

// TestConformanceShared: neither end has the device itself.
func TestConformanceShared(t *testing.T) {
	a, b := comline.Ends(t, comline.Fast, nil)
	for _, cfg := range []comline.Config{a, b} {
		ln, err := comline.Listen(t.Context(), cfg, 250)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
	}
	transporttest.Run(t, pairs(t, a, b))
}
