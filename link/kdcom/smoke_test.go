package kdcom

import (
	"bytes"
	"context"
	"net"
	"testing"
	"time"

	"openkd/kdproto"
)

// pair is a host and a target joined by an in-memory stream.
func pair(t testing.TB, ho HostOptions, to TargetOptions) (*Host, *Target) {
	t.Helper()
	a, b := net.Pipe()
	h, k := NewHost(a, ho), NewTarget(b, to)
	t.Cleanup(func() { k.Close(); h.Close() })
	return h, k
}

func request(n int) []byte {
	m := kdproto.NewRequest(kdproto.APIReadVirtualMemory, 0, &kdproto.Memory{Address: uint64(n), Count: 16}, nil)
	return m.Append(nil)
}

func TestRequestAndReply(t *testing.T) {
	h, k := pair(t, HostOptions{}, TargetOptions{})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	errs := make(chan error, 1)
	go func() {
		s := kdproto.StateChange{Kind: kdproto.StateException}
		if err := k.Send(ctx, kdproto.TypeStateChange64, s.Append(nil), false); err != nil {
			errs <- err
			return
		}
		for range 5 {
			p, r, err := k.Receive(ctx, kdproto.TypeManipulate, time.Minute)
			if err != nil || r != Received {
				errs <- err
				return
			}
			if err := k.Send(ctx, kdproto.TypeManipulate, append(p, "0000iiiib"...), false); err != nil {
				errs <- err
				return
			}
		}
		errs <- nil
	}()
	if p, err := h.Receive(ctx); err != nil || !p.Fresh || p.Type != kdproto.TypeStateChange64 {
		t.Fatal(p, err)
	}
	for i := range 5 {
		req := request(i)
		if err := h.Send(ctx, kdproto.TypeManipulate, req); err != nil {
			t.Fatal(err)
		}
		p, err := h.Receive(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if want := append(req, "0000iiiib"...); !bytes.Equal(p.Payload, want) || p.Fresh {
			t.Fatalf("packet %d: %+v", i, p)
		}
	}
	if err := <-errs; err != nil {
		t.Fatal(err)
	}
	s := h.Stats()
	if s.PacketsIn != 6 || s.PacketsOut != 5 || s.Resends != 0 || s.Garbage != 0 || s.Syncs != 1 {
		t.Fatalf("stats %+v", s)
	}
}
