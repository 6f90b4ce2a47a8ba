package doors

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"openkd/connstr"
	"openkd/kdrpc"
	"openkd/rundir"
	"openkd/sim/simtest"
	"openkd/target"
	"openkd/transport"
	"openkd/transport/carrier"
)

// stranger does something at a door that no debugger does. It gets a bare
// stream and leaves it open: closing is not its business.
type stranger struct {
	name string
	do   func(ctx context.Context, c net.Conn, r *rand.Rand)
}

func strangers() []stranger {
	random := func(r *rand.Rand, n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		return b
	}
	client := func(ctx context.Context, c net.Conn, protos ...string) *tls.Conn {
		t := tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: protos})
		if t.HandshakeContext(ctx) != nil {
			return nil
		}
		return t
	}
	return []stranger{
		{"says nothing", func(context.Context, net.Conn, *rand.Rand) {}},
		{"random bytes", func(_ context.Context, c net.Conn, r *rand.Rand) { c.Write(random(r, 1+r.IntN(3000))) }},
		{"a browser without TLS", func(_ context.Context, c net.Conn, _ *rand.Rand) {
			io.WriteString(c, "GET / HTTP/1.1\r\nHost: lab\r\nUpgrade: websocket\r\n\r\n")
		}},
		{"a browser with TLS", func(ctx context.Context, c net.Conn, _ *rand.Rand) { client(ctx, c, "h2", "http/1.1") }},
		{"TLS, then silence", func(ctx context.Context, c net.Conn, _ *rand.Rand) { client(ctx, c, "openkd") }},
		{"TLS, then rubbish", func(ctx context.Context, c net.Conn, r *rand.Rand) {
			if t := client(ctx, c, "openkd"); t != nil {
				t.Write(random(r, 3000))
			}
		}},
		{"TLS, then half a password", func(ctx context.Context, c net.Conn, _ *rand.Rand) {
			if t := client(ctx, c, "openkd"); t != nil {
				io.WriteString(t, "KDPW\x01\x01half of a share")
			}
		}},
		{"a byte now and then", func(ctx context.Context, c net.Conn, _ *rand.Rand) {
			hello := []byte{22, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3}
			for _, b := range hello {
				c.Write([]byte{b})
				select {
				case <-time.After(20 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		}},
		{"leaves in the middle", func(_ context.Context, c net.Conn, _ *rand.Rand) {
			c.Write([]byte{22, 3, 1, 2, 0, 1})
			c.Close()
		}},
	}
}

// At every door strangers come in while somebody works there: every read of
// his is answered, with the right bytes, and his connection is never lost.
func TestStrangers(t *testing.T) {
	for _, d := range append(doors(), chains()[:2]...) { // strangers meet the same at the other chains
		if strings.HasPrefix(d.name, "reverse") || strings.Contains(d.name, ", ") && d.name != "ssl, by name" {
			continue // who connects out opens no door; variants of a door are no others
		}
		t.Run(d.name, func(t *testing.T) {
			s := newSite(t)
			s.setenv(t)
			text := d.open(s)
			m := simtest.New(t, simtest.Steady())
			link := m.TCP()
			tr, err := connstr.ParseTransport(text, false)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w := begin(ctx, t, tr, link)
			defer w.leave()

			want := make([]byte, 512) // little enough for a serial line
			if m.ReadVirtual(w.base, want) != len(want) {
				t.Fatal("the machine has no kernel there")
			}
			read := func() {
				b, err := w.read(len(want))
				if err != nil || !bytes.Equal(b, want) {
					t.Fatalf("a read while strangers are at the door: %d bytes, %v", len(b), err)
				}
			}
			visits := 10
			if testing.Short() {
				visits = 2
			}
			var wg sync.WaitGroup
			var met atomic.Int64
			for i, st := range strangers() {
				wg.Go(func() {
					r := rand.New(rand.NewPCG(uint64(i), 7))
					for range visits {
						c, err := carrier.Dial(ctx, tr, carrier.Options{Within: 5 * time.Second})
						if err != nil {
							continue // the door may be full of strangers
						}
						met.Add(1)
						defer c.Close()
						st.do(ctx, c, r)
					}
				})
			}
			gone := make(chan struct{})
			go func() { wg.Wait(); close(gone) }()
			reads := 0
			for busy := true; busy || reads < 50; reads++ {
				read()
				select {
				case <-gone:
					busy = false
				default:
				}
			}
			wg.Wait()
			if met.Load() < int64(2*visits) {
				t.Errorf("only %d strangers came in", met.Load())
			}
			if text := w.notices(); text != "" {
				t.Errorf("the session noticed:\n%s", text)
			}
			t.Logf("%d strangers, %d reads", met.Load(), reads)
		})
	}
}

// The tools that people point at ports.
func TestTools(t *testing.T) {
	s := newSite(t)
	port, p := s.kdsrv("tcp:port=0," + password)
	for _, tool := range [][]string{
		{"curl", "-sk", "--max-time", "5", "https://127.0.0.1:" + port + "/"},
		{"curl", "-s", "--max-time", "5", "http://127.0.0.1:" + port + "/"},
		{"openssl", "s_client", "-connect", "127.0.0.1:" + port},
		{"openssl", "s_client", "-tls1_2", "-connect", "127.0.0.1:" + port},
		{"openssl", "s_client", "-alpn", "openkd", "-connect", "127.0.0.1:" + port},
		{"chromium", "--headless", "--no-sandbox", "--disable-gpu", "--ignore-certificate-errors", "--timeout=3000",
			"--user-data-dir=" + filepath.Join(s.dir, "chromium"), "--dump-dom", "https://127.0.0.1:" + port + "/"},
	} {
		t.Run(strings.Join(tool[:2], " "), func(t *testing.T) {
			exe, err := exec.LookPath(tool[0])
			if err != nil {
				t.Skip("not on this machine")
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, exe, tool[1:]...)
			cmd.Stdin = strings.NewReader("GET / HTTP/1.0\r\n\r\n")
			out, _ := cmd.CombinedOutput()
			if ctx.Err() != nil {
				t.Errorf("the server keeps it: %s", out)
			}
		})
	}
	if got := s.work("tcp:server=127.0.0.1,port="+port+","+password, simtest.New(t, simtest.Steady()).TCP()); !strings.Contains(got, "the target runs") {
		t.Error(got)
	}
	if strings.Contains(p.err.String(), "panic") {
		t.Error(p.err.String())
	}
}

// setenv makes the site's folders those of this process too.
func (s *site) setenv(t *testing.T) {
	for _, kv := range s.env[len(s.env)-3:] {
		k, v, _ := strings.Cut(kv, "=")
		t.Setenv(k, v)
	}
	if !strings.HasPrefix(rundir.Path(), s.dir) {
		t.Fatal("the run directory is not the site's")
	}
}

// worker is somebody at work: a smart client with a halted machine.
type worker struct {
	t    testing.TB
	c    *kdrpc.Client
	base uint64
	wg   sync.WaitGroup
	halt chan struct{}

	mu    sync.Mutex
	notes []string
}

func begin(ctx context.Context, t testing.TB, tr connstr.Transport, link string) *worker {
	t.Helper()
	dial := func(ctx context.Context) (net.Conn, error) { return transport.Dial(ctx, tr, transport.Options{}) }
	c, err := kdrpc.Connect(ctx, dial, kdrpc.Open{Link: link, Config: target.Config{Break: true}})
	if err != nil {
		t.Fatal(err)
	}
	w := &worker{t: t, c: c, halt: make(chan struct{})}
	w.wg.Go(func() {
		var once sync.Once
		for {
			ev, err := c.Next(context.Background())
			if err != nil {
				return
			}
			switch ev.Kind {
			case target.EventConnected:
				w.base = ev.Version.KernBase
			case target.EventHalted:
				once.Do(func() { close(w.halt) })
			case target.EventLost, target.EventNotice:
				w.mu.Lock()
				w.notes = append(w.notes, ev.Text)
				w.mu.Unlock()
			case target.EventClosed:
				return
			}
		}
	})
	select {
	case <-w.halt:
	case <-time.After(patience):
		t.Fatal("the machine does not stop")
	}
	w.mu.Lock()
	w.notes = nil
	w.mu.Unlock()
	return w
}

func (w *worker) read(n int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	got := make([]byte, 0, n)
	err := w.c.Do(ctx, []target.Request{{Op: target.OpReadVirtual, Addr: w.base, Len: uint64(n)}}, func(p target.Part) error {
		got = append(got, p.Data...)
		if p.Done && p.Status != 0 {
			return fmt.Errorf("status %#x", p.Status)
		}
		return nil
	})
	return got, err
}

func (w *worker) notices() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.notes, "\n")
}

func (w *worker) leave() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w.c.Close(ctx, target.LeaveRunning)
	w.wg.Wait()
}
