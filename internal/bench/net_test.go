package bench

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"openkd/link/kdnet"
	"openkd/sim"
	"openkd/target"
)

// machineOnNet starts a simulated machine that is debugged over UDP and returns
// its link.
func machineOnNet(t testing.TB, cfg sim.Config) (*sim.Machine, string) {
	t.Helper()
	c, err := net.ListenUDP("udp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	port := c.LocalAddr().(*net.UDPAddr).Port
	c.Close()
	key := kdnet.NewKey()
	cfg.Seed = 1
	cfg.Net = &kdnet.TargetConfig{
		Key: key, Host: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port)), Offer: 50 * time.Millisecond,
	}
	m, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { m.Run(ctx) })
	t.Cleanup(func() { stop(); wg.Wait() })
	return m, fmt.Sprintf("net:port=%d,key=%s,target=0.0.0.0", port, key.Reveal())
}

// TestConnectOverNet: the handshake, the requests of attaching and their
// acknowledgements happen beside the target. A client far away asks as often as
// one beside it, besides the greeting and the opening of the session.
func TestConnectOverNet(t *testing.T) {
	const most = 4
	for _, by := range []time.Duration{0, 100 * time.Millisecond} {
		t.Run(by.String(), func(t *testing.T) {
			m, link := machineOnNet(t, sim.Config{Modules: 100})
			r := local(t, link, nil, func(c net.Conn) net.Conn {
				if by == 0 {
					return c
				}
				return delay(c, by)
			})
			asked, served := r.client.Exchanges(), m.Stats().Exchanges
			if asked > most || served < 5 {
				t.Errorf("attaching took %d questions of the client; the target was asked %d times", asked, served)
			}
			t.Logf("%d questions of the client, %d requests to the target", asked, served)
			nt := r.e.Version().KernBase
			got, err := target.Collect(t.Context(), r.client, target.Request{Op: target.OpReadVirtual, Addr: nt, Len: 1 << 18})
			want := make([]byte, 1<<18)
			m.ReadVirtual(nt, want)
			if err != nil || !bytes.Equal(got[0].Data(), want) {
				t.Errorf("%v, %d bytes", err, len(got[0].Data()))
			}
		})
	}
}

// BenchmarkNetMemory reads memory of a machine over UDP on loopback, and
// compares with an echo of datagrams of the same sizes: request and its
// acknowledgement, reply and its acknowledgement.
func BenchmarkNetMemory(b *testing.B) {
	const size = 1 << 20
	_, link := machineOnNet(b, sim.Config{})
	r := local(b, link, nil, nil)
	nt := r.e.Version().KernBase
	st, _ := r.client.Status(b.Context())
	for b.Loop() {
		if _, err := target.Collect(b.Context(), r.client, target.Request{Op: target.OpReadVirtual, Addr: nt, Len: size}); err != nil {
			b.Fatal(err)
		}
	}
	spent := b.Elapsed()
	now, _ := r.client.Status(b.Context())
	asked := now.Stats.PacketsOut - st.Stats.PacketsOut
	plain := echo(b, int(asked))
	b.ReportMetric(float64(size)*float64(b.N)/spent.Seconds()/1e6, "MB/s")
	b.ReportMetric(float64(4*asked)/spent.Seconds(), "datagrams/s")
	b.ReportMetric(plain.Seconds()/spent.Seconds(), "of-plain-echo")
}

// echo is how long n exchanges of plain datagrams of the same sizes take.
func echo(b *testing.B, n int) time.Duration {
	far, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		b.Fatal(err)
	}
	const request, control, reply = 102, 54, 16 + 56 + 3944 + 38
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf, out := make([]byte, 8192), make([]byte, 8192)
		for {
			n, from, err := far.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if n == request {
				far.WriteToUDPAddrPort(out[:control], from)
				far.WriteToUDPAddrPort(out[:reply], from)
			}
		}
	}()
	defer func() { far.Close(); <-done }()
	near, err := net.DialUDP("udp4", nil, far.LocalAddr().(*net.UDPAddr))
	if err != nil {
		b.Fatal(err)
	}
	defer near.Close()
	buf := make([]byte, 8192)
	start := time.Now()
	for range n {
		near.Write(buf[:request])
		for got := 0; got < 2; got++ {
			if _, err := near.Read(buf); err != nil {
				b.Fatal(err)
			}
		}
		near.Write(buf[:control])
	}
	return time.Since(start)
}
