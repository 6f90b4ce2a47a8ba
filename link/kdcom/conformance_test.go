package kdcom

import (
	"context"
	"io"
	"net"
	"path/filepath"
	"runtime"
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
type peer struct{ *Target }

func (p peer) Send(ctx context.Context, t kdproto.PacketType, payload []byte) error {
	return p.Target.Send(ctx, t, payload, false)
}

func (p peer) Receive(ctx context.Context, want kdproto.PacketType) ([]byte, error) {
	for {
		b, r, err := p.Target.Receive(ctx, want, 0)
		switch {
		case err != nil:
			return nil, err
		case r == Received:
			return b, nil
		case r == Resend:
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

// quick are options for tests over memory and loopback.
var quick = HostOptions{AckTimeout: 40 * time.Millisecond, ResendWait: 5 * time.Millisecond, ByteGap: 20 * time.Millisecond}
var quickTarget = TargetOptions{ByteTimeout: 30 * time.Millisecond}

func sockets(t *testing.T, network, address string) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Skipf("no %s sockets here: %v", network, err)
	}
	defer l.Close()
	if a, err = net.Dial(network, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func TestConformance(t *testing.T) {
	streams := map[string]func(t *testing.T) (a, b io.ReadWriteCloser){
		"pipe": func(t *testing.T) (a, b io.ReadWriteCloser) { return net.Pipe() },
		"tcp":  func(t *testing.T) (a, b io.ReadWriteCloser) { return sockets(t, "tcp", "127.0.0.1:0") },
		"split": func(t *testing.T) (a, b io.ReadWriteCloser) {
			a, b = net.Pipe()
			return fault.New(a, fault.Config{Split: 7, Seed: 1}), b
		},
	}
	if runtime.GOOS != "windows" {
		streams["unix"] = func(t *testing.T) (a, b io.ReadWriteCloser) {
			return sockets(t, "unix", filepath.Join(t.TempDir(), "s"))
		}
	}
	for name, stream := range streams {
		for _, kernel := range []string{"windows", "reactos"} {
			if kernel == "reactos" && name != "pipe" {
				continue // the stream makes no difference to that
			}
			t.Run(name+"/"+kernel, func(t *testing.T) {
				t.Parallel()
				linktest.Run(t, func(t *testing.T) (link.Host, linktest.Peer) {
					a, b := stream(t)
					opt := quickTarget
					opt.ReactOS = kernel == "reactos"
					h, k := NewHost(a, quick), NewTarget(b, opt)
					t.Cleanup(func() { k.Close(); h.Close() })
					return h, peer{k}
				})
			})
		}
	}
}
