package bench

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"openkd/connstr"
	"openkd/internal/ports"
	"openkd/kdrpc"
	"openkd/link/kdnet"
	"openkd/link/kdnet/recorded"
	"openkd/server"
	"openkd/sim"
	"openkd/sim/simtest"
	"openkd/target"
	"openkd/transport"
)

// machineOnNet starts a simulated machine that is debugged over UDP and returns
// its link.
func machineOnNet(t testing.TB, cfg sim.Config) (*simtest.Machine, string) {
	t.Helper()
	port := ports.UDP(t)
	key := kdnet.NewKey()
	cfg.Seed = 1
	cfg.Net = &kdnet.TargetConfig{
		Key: key, Host: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port)), Offer: 50 * time.Millisecond,
	}
	m := simtest.New(t, cfg)
	m.PowerOn()
	return m, fmt.Sprintf("net:port=%d,key=%s,target=0.0.0.0", port, key.Reveal())
}

// longWay is a long way to a server: what crosses it arrives later. It counts the
// round trips of the connections through it: how often something came back
// after something had been sent.
type longWay struct {
	t     testing.TB
	to    string
	by    time.Duration
	ln    net.Listener
	mu    sync.Mutex
	up    bool // the last bytes went to the server
	trips int
}

func newLongWay(t testing.TB, to string, by time.Duration) *longWay {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := &longWay{t: t, to: to, by: by, ln: ln}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	keep := func(c net.Conn) { mu.Lock(); defer mu.Unlock(); open = append(open, c) }
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", to)
			if err != nil {
				c.Close()
				continue
			}
			keep(c)
			keep(s)
			wg.Go(func() { f.carry(s, c, true) })
			wg.Go(func() { f.carry(c, s, false) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return f
}

func (f *longWay) carry(to, from net.Conn, up bool) {
	defer to.Close()
	late := from
	if f.by > 0 {
		late = delay(from, f.by)
	}
	b := make([]byte, 64<<10)
	for {
		n, err := late.Read(b)
		if n > 0 {
			f.mu.Lock()
			if !up && f.up {
				f.trips++
			}
			f.up = up
			f.mu.Unlock()
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func (f *longWay) roundTrips() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.trips
}

// remoteOver attaches through a kdsrv process that is some way off, and
// returns the way and how many round trips of it the door took (TLS and
// password).
func remoteOver(t testing.TB, link string, cfg target.Config, by time.Duration) (r *rig, way *longWay, door int) {
	t.Helper()
	line := start(t, "kdsrv", "-t", "tcp:port=0,password=secret")
	_, rest, ok := strings.Cut(strings.ToLower(line), "port=")
	var port int
	if _, err := fmt.Sscanf(rest, "%d", &port); !ok || err != nil {
		t.Fatalf("no port in %q", line)
	}
	f := newLongWay(t, fmt.Sprintf("127.0.0.1:%d", port), by)
	tr := connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: f.ln.Addr().(*net.TCPAddr).Port, Password: "secret"}
	r = attachConfig(t, link, cfg, func(ctx context.Context) (net.Conn, error) {
		c, err := transport.Dial(ctx, tr, transport.Options{})
		door = f.roundTrips()
		return c, err
	}, nil)
	return r, f, door
}

// TestConnectOverNet: the handshake, the requests of attaching and their
// acknowledgements happen beside the target. A client 100 ms away, through a
// kdsrv process, asks at most twice more than one in the same process, whatever
// the target is asked. On the recorded target it then reads in one go what
// WinDbg read there, one request after the other.
func TestConnectOverNet(t *testing.T) {
	type machine struct {
		name  string
		start func(t *testing.T) (link string, served func() uint64)
		cfg   target.Config
		read  []target.Request
	}
	session, err := recorded.Load()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var read []target.Request
	if session != nil {
		t.Logf("WinDbg sent %d requests to the recorded target, among them %d reads of memory", session.Requests, len(session.Reads))
		for _, m := range session.Reads {
			read = append(read, target.Request{Op: target.OpReadVirtual, Addr: m.Address, Len: uint64(m.Count)})
		}
	}
	for _, k := range []machine{
		{"simulated", func(t *testing.T) (string, func() uint64) {
			m, link := machineOnNet(t, sim.Config{Modules: 100})
			return link, func() uint64 { return m.Stats().Exchanges }
		}, target.Config{Break: true}, nil},
		// Loading an image is what it stopped for.
		{"recorded", func(t *testing.T) (string, func() uint64) {
			if session == nil {
				t.Skip("the recorded session is not there")
			}
			return recordedOnNet(t, session)
		}, target.Config{StopOnLoad: "*"}, read},
	} {
		t.Run(k.name, func(t *testing.T) {
			link, served := k.start(t)
			lines := server.Lines{}
			srv := server.InProcess(server.Options{Opener: lines.Open, Canonical: lines.Key})
			defer srv.Shutdown(context.Background())
			near := attachConfig(t, link, k.cfg, srv.Dial, nil, kdrpc.WithLocal())
			look(t, near, k.read)
			beside, asked := near.client.Exchanges(), served()
			near.client.Close(t.Context(), leave)

			link, served = k.start(t)
			far, way, door := remoteOver(t, link, k.cfg, 100*time.Millisecond)
			look(t, far, k.read)
			away, all := far.client.Exchanges(), way.roundTrips()
			t.Logf("beside: %d questions of the client, %d requests to the target; 100 ms away: %d questions, %d requests, %d round trips of the line, %d of them for TLS and password",
				beside, asked, away, served(), all, door)
			if away > beside+2 || asked < 5 || served() < 5 {
				t.Errorf("%d questions beside the target, %d from far away; %d and %d requests", beside, away, asked, served())
			}
			// The greeting and the opening are two, each question is one.
			if session := all - door; session > int(beside)+2+2 {
				t.Errorf("%d round trips behind the door, %d questions beside the target", session, beside)
			}
		})
	}
}

// leave lets a target run.
const leave = target.LeaveRunning

// look reads memory, all of it in one question.
func look(t *testing.T, r *rig, what []target.Request) {
	t.Helper()
	if len(what) == 0 {
		return
	}
	got, err := target.Collect(t.Context(), r.client, what...)
	if err != nil {
		t.Fatal(err)
	}
	full := 0
	for _, g := range got {
		if len(g.Data()) > 0 {
			full++
		}
	}
	if full < 30 {
		t.Errorf("only %d of %d reads gave anything", full, len(what))
	}
}

// recordedOnNet plays the recorded boot debugger of Windows 10.
func recordedOnNet(t *testing.T, s *recorded.Session) (string, func() uint64) {
	t.Helper()
	key, err := kdnet.ParseKey(recorded.Key)
	if err != nil {
		t.Fatal(err)
	}
	port := ports.UDP(t)
	k, err := kdnet.NewTarget(kdnet.TargetConfig{
		Key: key, Host: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port)), Protocol: 4, Offer: 50 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	var served atomic.Uint64
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.Serve(ctx, k, func() { served.Add(1) }) })
	t.Cleanup(func() { stop(); wg.Wait(); k.Close() })
	return fmt.Sprintf("net:port=%d,key=%s,target=0.0.0.0", port, recorded.Key), served.Load
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
