package together

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"openkd/command"
	"openkd/connstr"
	"openkd/console"
	"openkd/engine"
	"openkd/internal/audit"
	"openkd/internal/captured"
	"openkd/internal/shortdir"
	"openkd/kdrpc"
	"openkd/rundir"
	"openkd/server"
	"openkd/sharing"
	"openkd/sim/simtest"
	"openkd/target"
	"openkd/transport"
	"openkd/transport/certs"
)

// patience bounds every wait; nothing comes near it.
const patience = time.Minute

func TestMain(m *testing.M) {
	// Short, because the paths of sockets are.
	dir, err := shortdir.Make()
	if err != nil {
		panic(err)
	}
	os.Setenv(rundir.Env, dir)
	os.Setenv(certs.EnvUserDir, filepath.Join(dir, "certs"))
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// text collects what somebody is shown, or what is logged.
type text struct {
	captured.Text
	slow atomic.Bool // what is no prompt takes its time
}

func (x *text) Write(p []byte) (int, error) {
	if x.slow.Load() && !bytes.HasSuffix(p, []byte("kd> ")) {
		time.Sleep(2 * time.Millisecond)
	}
	return x.Text.Write(p)
}

// until waits until the text is as wanted.
func (x *text) until(t testing.TB, what string, ok func(string) bool) bool {
	t.Helper()
	s, came := x.Wait(ok)
	if !came {
		t.Errorf("%s did not come:\n…%s", what, s[max(0, len(s)-2000):])
	}
	return came
}

func (x *text) has(t testing.TB, what string) bool {
	t.Helper()
	return x.until(t, what, func(s string) bool { return strings.Contains(s, what) })
}

// session is a debugger on a simulated machine that shares its session.
type session struct {
	t     testing.TB
	m     *simtest.Machine
	hub   *sharing.Hub
	in    *io.PipeWriter // of its own console
	out   *text
	audit *text
	code  chan int

	command func(sharing.Entry)
	beside  *sharing.Client // who keeps log

	mu    sync.Mutex
	log   []sharing.Entry // all of it, as one sees it who sits beside the hub
	grown chan struct{}   // closed when log grows
}

// begin starts a session and waits until its target has stopped. told is told
// each command as it begins; it must not wait.
func begin(t testing.TB, o sharing.Options, told func(s *session, e sharing.Entry)) *session {
	t.Helper()
	m := simtest.New(t, simtest.Steady())
	ctx, cancel := context.WithCancel(context.Background())
	s := &session{t: t, m: m, out: new(text), audit: new(text), code: make(chan int, 1), grown: make(chan struct{})}
	if told != nil {
		s.command = func(e sharing.Entry) { told(s, e) }
	}
	o.Logger = slog.New(audit.New(slog.DiscardHandler, s.audit))
	s.hub = sharing.NewHub(o)
	s.hub.SetTitle("together")
	lines := server.Lines{Getenv: func(string) string { return "" }}
	srv := server.InProcess(server.Options{Opener: lines.Open, Canonical: lines.Key})
	cfg := target.Config{}
	c, err := kdrpc.Connect(ctx, srv.Dial, kdrpc.Open{Link: m.TCP(), Config: cfg}, kdrpc.WithLocal())
	if err != nil {
		t.Fatal(err)
	}
	e := engine.New(c, engine.Options{Name: "together", Config: cfg})
	in, w := io.Pipe()
	s.in = w
	cs := command.NewSession(e, s.out, command.Options{Quiet: true, Share: s.hub})
	go func() {
		code := console.Run(ctx, console.Options{In: in, Out: s.out, Err: s.out, Session: cs, Engine: e, Signals: make(chan os.Signal)})
		in.Close()
		s.code <- code
	}()
	t.Cleanup(func() {
		s.end()
		if s.beside != nil {
			s.beside.Close()
		}
		s.hub.Close("The test is over.")
		end, stop := context.WithTimeout(context.Background(), patience)
		defer stop()
		c.Close(end, target.LeaveRunning)
		srv.Shutdown(end)
		cancel()
	})
	if !s.out.until(t, "the first prompt", func(x string) bool { return strings.HasSuffix(x, "kd> ") }) {
		t.FailNow()
	}
	s.beside = s.watch(o.Timeouts)
	return s
}

// end ends the session at its own console.
func (s *session) end() {
	s.in.Close()
	select {
	case code := <-s.code:
		s.code <- code
	case <-time.After(patience):
		s.t.Errorf("the session does not end:\n%s", s.out)
	}
}

// watch notes the log as it grows.
func (s *session) watch(times sharing.Timeouts) *sharing.Client {
	s.t.Helper()
	c, err := sharing.Join(context.Background(), sharing.ClientOptions{Name: "the test", Timeouts: times, Retry: time.Millisecond, Dial: func(context.Context) (net.Conn, error) {
		here, there := net.Pipe()
		go s.hub.Serve(context.Background(), there, sharing.Via{})
		return here, nil
	}}, watcher{s})
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

type watcher struct{ s *session }

func (w watcher) Joined(sharing.Session)           {}
func (w watcher) Reply(uint64, bool, bool, string) {}

func (w watcher) Link(text string) {
	if strings.Contains(text, "missing") {
		w.s.t.Errorf("the one beside the hub: %s", text)
	}
}

func (w watcher) Entry(e sharing.Entry, _ uint64) {
	s := w.s
	s.mu.Lock()
	s.log = append(s.log, e)
	close(s.grown)
	s.grown = make(chan struct{})
	s.mu.Unlock()
	if e.Kind == sharing.EntryCommand && s.command != nil {
		s.command(e)
	}
}

// entries are the log as it is, and what is closed when there is more.
func (s *session) entries() ([]sharing.Entry, chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log[:len(s.log):len(s.log)], s.grown
}

// done waits until a command has ended whose text begins so.
func (s *session) done(prefix string) bool {
	s.t.Helper()
	end := time.After(patience)
	for {
		log, more := s.entries()
		for _, e := range log {
			if e.Kind == sharing.EntryResult && strings.HasPrefix(e.Text, prefix) {
				return true
			}
		}
		select {
		case <-more:
		case <-end:
			s.t.Errorf("%q was not done:\n%s", prefix, s.out)
			return false
		}
	}
}

// typed types a line at the session's own console.
func (s *session) typed(line string) { io.WriteString(s.in, line+"\n") }

// audited are the lines of the audit of one kind.
func (s *session) audited(kind string) (l []auditLine) {
	s.t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(s.audit.String()), "\n") {
		var a auditLine
		if err := json.Unmarshal([]byte(line), &a); err != nil {
			s.t.Errorf("the audit has %q: %v", line, err)
		}
		if a.Kind == kind {
			l = append(l, a)
		}
	}
	return l
}

type auditLine struct {
	Kind    string `json:"audit"`
	Owner   string
	Command string
}

// visitor is a client: RunRemote with its input and output.
type visitor struct {
	name     string
	js       bool
	readOnly bool
	in       *io.PipeWriter
	out      *text
	code     chan int
}

// visit joins a session.
func visit(t testing.TB, o sharing.ClientOptions, js bool) *visitor {
	t.Helper()
	in, w := io.Pipe()
	v := &visitor{name: o.Name, js: js, readOnly: o.ReadOnly, in: w, out: new(text), code: make(chan int, 1)}
	go func() {
		code, err := console.RunRemote(context.Background(), console.RemoteOptions{
			In: in, Out: v.out, Err: v.out, JSON: js, Signals: make(chan os.Signal),
			Join: func(ctx context.Context, view sharing.Viewer) (*sharing.Client, error) {
				return sharing.Join(ctx, o, view)
			},
		})
		if err != nil {
			t.Errorf("%s cannot join: %v", v.name, err)
		}
		in.Close()
		v.code <- code
	}()
	t.Cleanup(func() { v.leave(t) })
	return v
}

func (v *visitor) typed(line string) { io.WriteString(v.in, line+"\n") }

// leave ends the client's input and returns its exit code.
func (v *visitor) leave(t testing.TB) int {
	t.Helper()
	v.in.Close()
	select {
	case code := <-v.code:
		v.code <- code
		return code
	case <-time.After(patience):
		t.Fatalf("%s does not leave:\n%s", v.name, v.out)
	}
	return -1
}

// way is a client's way through a door: how to dial, and the line between.
type way struct {
	dial func(ctx context.Context) (net.Conn, error)
	name string
	line *badLine
}

const password = "open sesame"

// dialler dials a transport with a password.
func dialler(t connstr.Transport) func(ctx context.Context) (net.Conn, error) {
	t.Password = password
	return func(ctx context.Context) (net.Conn, error) {
		c, err := transport.Dial(ctx, t, transport.Options{Expect: "shared session"})
		if err != nil {
			return nil, err
		}
		return c, nil
	}
}
