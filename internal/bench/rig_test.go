package bench

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"openkd/command"
	"openkd/connstr"
	"openkd/engine"
	"openkd/internal/shortdir"
	"openkd/kdrpc"
	"openkd/link/fault"
	"openkd/server"
	"openkd/sim"
	"openkd/sim/simtest"
	"openkd/target"
	"openkd/transport"
)

// machine starts a simulated machine behind a Unix socket and returns its
// link. A baud rate paces its line, both ways.
func machine(t testing.TB, cfg sim.Config, baud int) (*simtest.Machine, string) {
	t.Helper()
	if cfg.Seed == 0 {
		cfg.Seed = 1
	}
	dir := shortdir.New(t)
	sock := filepath.Join(dir, "kd")
	ln, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	m := simtest.New(t, cfg)
	m.PowerOn()
	m.Listen(ln, func(c net.Conn) io.ReadWriteCloser {
		if baud > 0 {
			return fault.Throttle(c, baud)
		}
		return c
	})
	return m, "com:pipe,port=" + sock
}

// rig is a debugger on a machine.
type rig struct {
	t      testing.TB
	client *kdrpc.Client
	e      *engine.Engine
	s      *command.Session
	out    *bytes.Buffer
}

// Event implements engine.Sink.
func (r *rig) Event(ev engine.Event) {}

// local attaches through a server in this process. wrap, when set, stands
// between client and server.
func local(t testing.TB, link string, tune func(*target.LiveOptions), wrap func(net.Conn) net.Conn) *rig {
	t.Helper()
	lines := server.Lines{Tune: tune}
	srv := server.InProcess(server.Options{Opener: lines.Open, Canonical: lines.Key})
	t.Cleanup(func() { srv.Shutdown(context.Background()) })
	dial := func(ctx context.Context) (net.Conn, error) {
		c, err := srv.Dial(ctx)
		if err == nil && wrap != nil {
			c = wrap(c)
		}
		return c, err
	}
	return attach(t, link, dial, kdrpc.WithLocal())
}

// start builds and starts a command of the project and returns the first line
// that it prints.
func start(t testing.TB, name string, args ...string) string {
	t.Helper()
	bin := filepath.Join(t.TempDir(), name)
	build := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", bin, "openkd/cmd/"+name)
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as they are given to people
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command(bin, args...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Signal(os.Interrupt); cmd.Wait() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// apart starts a machine in a process of its own and returns its link.
func apart(t testing.TB, baud int) string {
	t.Helper()
	dir := shortdir.New(t)
	link := "com:pipe,port=" + filepath.Join(dir, "kd")
	serve := link
	if baud > 0 {
		serve += fmt.Sprintf(",baud=%d", baud)
	}
	start(t, "kdtarget", "-seed", "1", "-t", serve)
	return link
}

// remote attaches through a kdsrv process on loopback.
func remote(t testing.TB, link string) *rig {
	t.Helper()
	line := start(t, "kdsrv", "-t", "tcp:port=0,password=secret")
	_, rest, ok := strings.Cut(strings.ToLower(line), "port=")
	var port int
	if _, err := fmt.Sscanf(rest, "%d", &port); !ok || err != nil {
		t.Fatalf("no port in %q", line)
	}
	tr := connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: port, Password: "secret"}
	return attach(t, link, func(ctx context.Context) (net.Conn, error) { return transport.Dial(ctx, tr, transport.Options{}) })
}

func attach(t testing.TB, link string, dial func(context.Context) (net.Conn, error), opts ...kdrpc.Option) *rig {
	t.Helper()
	return attachWith(t, link, dial, nil, opts...)
}

// attachWith is attach with something done to the engine before it runs.
func attachWith(t testing.TB, link string, dial func(context.Context) (net.Conn, error), prepare func(*engine.Engine), opts ...kdrpc.Option) *rig {
	t.Helper()
	return attachConfig(t, link, target.Config{Break: true}, dial, prepare, opts...)
}

// attachConfig is attachWith with other wishes than to stop as soon as it goes.
func attachConfig(t testing.TB, link string, cfg target.Config, dial func(context.Context) (net.Conn, error), prepare func(*engine.Engine), opts ...kdrpc.Option) *rig {
	t.Helper()
	client, err := kdrpc.Connect(context.Background(), dial, kdrpc.Open{Link: link, Config: cfg}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, client: client, out: new(bytes.Buffer)}
	r.e = engine.New(client, engine.Options{Config: cfg, Sink: r})
	if prepare != nil {
		prepare(r.e)
	}
	r.s = command.NewSession(r.e, r.out, command.Options{Quiet: true})
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { r.e.Run(ctx) })
	t.Cleanup(func() {
		client.Close(context.Background(), target.LeaveRunning)
		stop()
		wg.Wait()
	})
	r.wait()
	return r
}

// wait waits for a stop.
func (r *rig) wait() {
	r.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	o, err := r.e.Wait(ctx)
	if err != nil || !r.e.Halted() {
		r.t.Fatalf("no stop: %+v, %v", o, err)
	}
}

// run executes a command line and returns what it printed and how many
// exchanges with the server it took.
func (r *rig) run(line string) (text string, exchanges uint64) {
	r.t.Helper()
	r.out.Reset()
	before := r.client.Exchanges()
	ctx, cancel := context.WithTimeout(context.Background(), 120*time.Second)
	defer cancel()
	if err := r.s.Execute(ctx, line); err != nil {
		r.t.Fatalf("%s: %v\n%s", line, err, r.out)
	}
	return r.out.String(), r.client.Exchanges() - before
}

// later delays what is read from a connection by a fixed time, without
// limiting how much is under way: a far line, not a slow one.
type later struct {
	net.Conn
	by   time.Duration
	data chan parcel
	rest []byte
	err  error
}

type parcel struct {
	b   []byte
	due time.Time
	err error
}

func delay(c net.Conn, by time.Duration) net.Conn {
	l := &later{Conn: c, by: by, data: make(chan parcel, 4096)}
	go func() {
		defer close(l.data)
		for {
			b := make([]byte, 64<<10)
			n, err := c.Read(b)
			l.data <- parcel{b[:n], time.Now().Add(by), err}
			if err != nil {
				return
			}
		}
	}()
	return l
}

func (l *later) Read(b []byte) (int, error) {
	for len(l.rest) == 0 {
		if l.err != nil {
			return 0, l.err
		}
		p, ok := <-l.data
		if !ok {
			return 0, io.EOF
		}
		time.Sleep(time.Until(p.due))
		l.rest, l.err = p.b, p.err
	}
	n := copy(b, l.rest)
	l.rest = l.rest[n:]
	return n, nil
}
