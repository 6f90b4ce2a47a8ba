package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"openkd/connstr"
	"openkd/kdrpc"
	"openkd/server"
	"openkd/target"
	"openkd/target/targettest"
	"openkd/transport"
)

// The other end of what is measured runs in a process of its own, so that its
// memory is its own. It is this program with the kind of the other end in this
// variable.
const farEnd = "BENCH_FAR_END"

// Kinds of the other end.
const (
	farServer = "kdsrv" // a connection server with simulated targets
	farLines  = "lines" // one with live targets, over TCP to machines that are silent
	farTCP    = "tcp"   // writes and does nothing else
	farTLS    = "tls"   // the same through transport
)

const farPassword = "secret"

func TestMain(m *testing.M) {
	if kind := os.Getenv(farEnd); kind != "" {
		far(kind)
	}
	goleak.VerifyTestMain(m)
}

// usage is what the other end says about itself.
type usage struct {
	Heap, Stack uint64        // bytes in use
	RSS         uint64        // bytes of the process in memory; 0: not known
	CPU         time.Duration // of the processors; 0: not known
	Goroutines  int
	Sessions    int
}

// far is the other end: its first line is its port, and each line that it
// reads is answered with its usage, of memory too if there is something on the
// line. It ends with its standard input.
func far(kind string) {
	at := connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: connstr.AnyPort, Password: farPassword}
	quiet := slog.New(slog.DiscardHandler)
	sessions := func() int { return 0 }
	port := 0
	must := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	switch kind {
	case farTCP:
		l, err := net.Listen("tcp", "127.0.0.1:0")
		must(err)
		port = l.Addr().(*net.TCPAddr).Port
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				go pour(c)
			}
		}()
	case farTLS:
		l, err := transport.Listen(context.Background(), at, transport.Options{Logger: quiet})
		must(err)
		port = l.Transport().Port
		go func() {
			for {
				c, err := l.Accept(context.Background())
				if err != nil {
					return
				}
				go pour(c)
			}
		}()
	case farServer, farLines:
		l, err := transport.Listen(context.Background(), at, transport.Options{Logger: quiet})
		must(err)
		port = l.Transport().Port
		silent, err := net.Listen("tcp", "127.0.0.1:0")
		must(err)
		go func() {
			var machines []net.Conn // held: a connection that nobody holds is closed
			defer func() {
				for _, m := range machines {
					m.Close()
				}
			}()
			for {
				c, err := silent.Accept()
				if err != nil {
					for _, c := range machines {
						c.Close()
					}
					return
				}
				machines = append(machines, c)
			}
		}()
		line := fmt.Sprintf("com:ipport=%d,port=127.0.0.1", silent.Addr().(*net.TCPAddr).Port)
		srv := server.New(server.Options{Logger: quiet, Opener: func(ctx context.Context, link string, cfg target.Config) (target.Target, string, error) {
			if kind == farServer {
				return &quick{targettest.New()}, link, nil
			}
			tg, _, err := (server.Lines{}).Open(ctx, line, cfg)
			return tg, link, err
		}})
		sessions = func() int { return len(srv.Sessions()) }
		go srv.Serve(context.Background(), l)
	}
	fmt.Println(port)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		u := usage{CPU: processorTime()}
		if in.Text() != "" {
			runtime.GC()
			debug.FreeOSMemory() // and a second collection
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			u.Heap, u.Stack, u.RSS, u.Goroutines, u.Sessions = m.HeapAlloc, m.StackInuse, resident(), runtime.NumGoroutine(), sessions()
		}
		json.NewEncoder(os.Stdout).Encode(u)
	}
	os.Exit(0)
}

// gulp is what is asked for at once, in bytes.
const gulp = 256 << 10

// pour is the plain copy loop: a gulp for each byte that comes.
func pour(c net.Conn) {
	defer c.Close()
	b := make([]byte, 64<<10)
	for {
		if _, err := c.Read(b[:1]); err != nil {
			return
		}
		for n := 0; n < gulp; n += len(b) {
			if _, err := c.Write(b); err != nil {
				return
			}
		}
	}
}

// resident is the process in memory, in bytes, where the system tells it.
func resident() uint64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, pages uint64
	fmt.Sscan(string(text), &size, &pages)
	return pages * uint64(os.Getpagesize())
}

// quick is a target whose reads cost nothing, in parts as packets bring them.
type quick struct{ *targettest.Fake }

var quickData [4000]byte

func (q *quick) Do(ctx context.Context, batch []target.Request, sink func(target.Part) error) error {
	for i := range batch {
		for off := uint64(0); off < batch[i].Len; off += uint64(len(quickData)) {
			n := min(uint64(len(quickData)), batch[i].Len-off)
			if err := sink(target.Part{Index: i, Offset: off, Data: quickData[:n], Done: off+n == batch[i].Len}); err != nil {
				return err
			}
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

// opposite is the other end, seen from here.
type opposite struct {
	tb   testing.TB
	port int
	in   io.WriteCloser
	out  *bufio.Reader
}

func startFar(tb testing.TB, kind string) *opposite {
	tb.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), farEnd+"="+kind)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		tb.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { in.Close(); cmd.Wait() })
	o := &opposite{tb: tb, in: in, out: bufio.NewReader(out)}
	if _, err := fmt.Fscanln(o.out, &o.port); err != nil {
		tb.Fatalf("the other end does not start: %v", err)
	}
	return o
}

func (o *opposite) usage(memory bool) usage {
	o.tb.Helper()
	ask := "\n"
	if memory {
		ask = "memory\n"
	}
	io.WriteString(o.in, ask)
	line, err := o.out.ReadString('\n')
	var u usage
	if err == nil {
		err = json.Unmarshal([]byte(line), &u)
	}
	if err != nil {
		o.tb.Fatal(err)
	}
	return u
}

func (o *opposite) dial(ctx context.Context) (net.Conn, error) {
	return transport.Dial(ctx, connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: o.port, Password: farPassword}, transport.Options{Handshake: time.Minute})
}

// some runs f for 0 to n-1, a few at a time: as many at once would be a test of
// the handshakes.
func some(n int, f func(i int) error) error {
	places := make(chan struct{}, 16)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	for i := range n {
		places <- struct{}{}
		wg.Go(func() {
			defer func() { <-places }()
			if err := f(i); err != nil {
				mu.Lock()
				if first == nil {
					first = fmt.Errorf("%d: %w", i, err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return first
}

// howMany is n, or what the files that may be open and the time allow.
func howMany(tb testing.TB, n int) int {
	tb.Helper()
	if testing.Short() {
		tb.Logf("-short: 100 instead of %d, because each proves a password, which takes milliseconds of both sides", n)
		n = 100
	}
	if most, ok := raiseFiles(); ok && most < uint64(n)+200 {
		tb.Logf("%d files may be open, which makes %d connections instead of %d", most, int(most)-200, n)
		n = int(most) - 200
	}
	if n < 10 {
		tb.Skip("too few files may be open")
	}
	return n
}

// clients connects n smart clients to as many links.
func (o *opposite) clients(n int) []*kdrpc.Client {
	o.tb.Helper()
	cs := make([]*kdrpc.Client, n)
	o.tb.Cleanup(func() {
		some(n, func(i int) error {
			if cs[i] == nil {
				return nil
			}
			return cs[i].Close(context.Background(), target.LeaveRunning)
		})
	})
	if err := some(n, func(i int) (err error) {
		cs[i], err = kdrpc.Connect(context.Background(), o.dial, kdrpc.Open{Link: fmt.Sprint("link ", i), Owner: fmt.Sprint("client ", i)})
		return err
	}); err != nil {
		o.tb.Fatal(err)
	}
	return cs
}

// TestThousandClients: one server serves a thousand clients on a thousand
// links, each with its own; what an idle one of them costs is printed; and when
// they are gone nothing of them is left.
func TestThousandClients(t *testing.T) {
	n := howMany(t, 1000)
	t.Run("simulated targets", func(t *testing.T) {
		most := 64.0 // KiB
		cost := idle(t, farServer, n, func(i int, c *kdrpc.Client) error {
			targettest.Await(t.Context(), t, c, target.EventConnected)
			got := 0
			err := c.Do(t.Context(), []target.Request{{Op: target.OpReadVirtual, Addr: 0x1000, Len: uint64(i + 1)}}, func(p target.Part) error {
				got += len(p.Data)
				return nil
			})
			if err == nil && got != i+1 {
				err = fmt.Errorf("%d bytes of %d", got, i+1)
			}
			if err == nil {
				var st target.Status
				if st, err = c.Status(t.Context()); err == nil && st.State != target.StateRunning {
					err = fmt.Errorf("the target is %v", st.State)
				}
			}
			return err
		})
		if cost > most {
			t.Errorf("an idle session costs %.1f KiB, more than %.0f", cost, most)
		}
	})
	t.Run("silent lines", func(t *testing.T) {
		idle(t, farLines, n, func(_ int, c *kdrpc.Client) error {
			st, err := c.Status(t.Context())
			if err == nil && st.Stage < target.StageOpened {
				err = fmt.Errorf("the line is not open: %v", st.Stage)
			}
			return err
		})
	})
}

// idle connects n clients to a server, has each served once, and returns what
// an idle one costs the server, in KiB.
func idle(t *testing.T, kind string, n int, served func(i int, c *kdrpc.Client) error) float64 {
	o := startFar(t, kind)
	// What the first ones cost once and for all is not counted.
	for _, c := range o.clients(4) {
		c.Close(t.Context(), target.LeaveRunning)
	}
	o.settle(0)
	before := o.usage(true)
	cs := o.clients(n)
	if err := some(n, func(i int) error { return served(i, cs[i]) }); err != nil {
		t.Fatal(err)
	}
	time.Sleep(idleFor)
	now := o.usage(true)
	if now.Sessions != n {
		t.Errorf("%d sessions, want %d", now.Sessions, n)
	}
	per := func(a, b uint64) float64 { return float64(int64(b)-int64(a)) / float64(n) / 1024 }
	cost := per(before.Heap+before.Stack, now.Heap+now.Stack)
	t.Logf("an idle session of %d costs the server %.1f KiB: %.1f of heap, %.1f of stacks, %.1f goroutines; %.1f KiB of the process in memory",
		n, cost, per(before.Heap, now.Heap), per(before.Stack, now.Stack), float64(now.Goroutines-before.Goroutines)/float64(n), per(before.RSS, now.RSS))
	if err := some(n, func(i int) error { return cs[i].Close(t.Context(), target.LeaveRunning) }); err != nil {
		t.Error(err)
	}
	o.settle(before.Goroutines)
	return cost
}

// Time after which an idle connection has given its buffers back.
const idleFor = 12 * time.Second

// settle waits until no session is left and, unless it is 0, no more than so
// many goroutines.
func (o *opposite) settle(goroutines int) {
	o.tb.Helper()
	var u usage
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if u = o.usage(true); u.Sessions == 0 && (goroutines == 0 || u.Goroutines <= goroutines) {
			return
		}
	}
	o.tb.Errorf("left at the other end: %d sessions, %d goroutines, %d at first", u.Sessions, u.Goroutines, goroutines)
}

// BenchmarkThousandClients reads through a thousand connections at once and
// reports what all get together against a plain copy loop over as many sockets,
// with TLS and without: in bytes per second, and in bytes per second of the
// processors, which says the same where nothing else runs. The three take turns,
// and the median of the ratios counts.
func BenchmarkThousandClients(b *testing.B) {
	n := howMany(b, 1000)
	var flows []*flow
	for _, kind := range []string{farServer, farTLS, farTCP} {
		flows = append(flows, newFlow(b, kind, n))
	}
	for _, f := range flows {
		f.run(100 * time.Millisecond) // buffers and stacks grow
	}
	ratios := map[string][]float64{}
	var rate float64
	for b.Loop() {
		for range 5 {
			var r [3]rates
			for i, f := range flows {
				r[i] = f.run(time.Second)
			}
			for i, copy := range []string{"", "TLS-copy", "TCP-copy"} {
				if copy != "" {
					ratios["of-"+copy] = append(ratios["of-"+copy], r[0].wall/r[i].wall)
					ratios["of-"+copy+"-by-cpu"] = append(ratios["of-"+copy+"-by-cpu"], r[0].cpu/r[i].cpu)
				}
			}
			rate = r[0].wall
		}
	}
	for name, v := range ratios {
		slices.Sort(v)
		if m := v[len(v)/2]; !math.IsNaN(m) {
			b.ReportMetric(m, name)
		}
	}
	b.ReportMetric(rate/1e6, "MB/s")
	b.ReportMetric(0, "ns/op")
}

// flow is n connections to one other end, which gives as much as is read.
type flow struct {
	b     *testing.B
	o     *opposite
	total atomic.Uint64
	reads []func() error
}

// rates are bytes per second, and per second of the processors of both ends
// (NaN where the system does not tell).
type rates struct{ wall, cpu float64 }

func newFlow(b *testing.B, kind string, n int) *flow {
	b.Helper()
	f := &flow{b: b, o: startFar(b, kind), reads: make([]func() error, n)}
	if kind == farServer {
		sink := func(p target.Part) error { f.total.Add(uint64(len(p.Data))); return nil }
		for i, c := range f.o.clients(n) {
			f.reads[i] = func() error {
				return c.Do(context.Background(), []target.Request{{Op: target.OpReadVirtual, Addr: 0x1000, Len: gulp}}, sink)
			}
		}
		return f
	}
	if err := some(n, func(i int) error {
		c, err := net.Conn(nil), error(nil)
		if kind == farTLS {
			c, err = f.o.dial(context.Background())
		} else {
			c, err = net.Dial("tcp", fmt.Sprint("127.0.0.1:", f.o.port))
		}
		if err != nil {
			return err
		}
		b.Cleanup(func() { c.Close() })
		buf := make([]byte, 64<<10)
		f.reads[i] = func() error {
			if _, err := c.Write(buf[:1]); err != nil {
				return err
			}
			for n := 0; n < gulp; {
				k, err := c.Read(buf)
				if err != nil {
					return err
				}
				n += k
				f.total.Add(uint64(k))
			}
			return nil
		}
		return nil
	}); err != nil {
		b.Fatal(err)
	}
	return f
}

// run reads through all connections for a while.
func (f *flow) run(d time.Duration) rates {
	var stop atomic.Bool
	var wg sync.WaitGroup
	for _, read := range f.reads {
		wg.Go(func() {
			for !stop.Load() {
				if err := read(); err != nil {
					f.b.Error(err)
					return
				}
			}
		})
	}
	time.Sleep(d / 5) // all are under way
	from, at, cpu := f.total.Load(), time.Now(), f.cpu()
	time.Sleep(d)
	n, took, used := float64(f.total.Load()-from), time.Since(at), f.cpu()-cpu
	stop.Store(true)
	wg.Wait()
	r := rates{wall: n / took.Seconds(), cpu: math.NaN()}
	if used > 0 {
		r.cpu = n / used.Seconds()
	}
	return r
}

// cpu is the time of the processors that both ends have used.
func (f *flow) cpu() time.Duration {
	far := f.o.usage(false).CPU
	if far == 0 {
		return 0
	}
	return far + processorTime()
}
