package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"openkd/connstr"
	"openkd/kdrpc"
	"openkd/server"
	"openkd/target"
	"openkd/transport"
)

// door is a door on loopback of a bench's server.
func (b *bench) door(password string) connstr.Transport {
	b.t.Helper()
	l, err := transport.Listen(b.t.Context(), connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: connstr.AnyPort, Password: password}, transport.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { b.srv.Serve(context.Background(), l) })
	b.t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Transport()
}

func (b *bench) through(d connstr.Transport, link, owner string) *kdrpc.Client {
	b.t.Helper()
	d.Server = "127.0.0.1"
	dial := func(ctx context.Context) (net.Conn, error) { return transport.Dial(ctx, d, transport.Options{}) }
	c, err := kdrpc.Connect(b.t.Context(), dial, kdrpc.Open{Link: link, Owner: owner})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close(context.Background(), target.LeaveRunning) })
	return c
}

func TestStatus(t *testing.T) {
	b := newBench(t, func(o *server.Options) { o.MaxClients, o.Release = 7, "kdsrv 9" })
	d := b.door("geheim")
	before := time.Now()
	x, y := b.through(d, "x", "ann@lab"), b.must("y", "ben@lab", false)
	b.halt("X", x)

	// A batch that hangs in the target does not matter.
	held, let := make(chan struct{}), make(chan struct{})
	b.fake("X").OnPart = func(context.Context, int, uint64, int) error {
		close(held)
		<-let
		return nil
	}
	b.fake("X").Map(0x1000, make([]byte, 8))
	busy := make(chan error, 1)
	go func() {
		_, err := target.Collect(t.Context(), x, target.Request{Op: target.OpReadVirtual, Addr: 0x1000, Len: 8})
		busy <- err
	}()
	<-held
	defer func() { <-busy }()
	defer close(let)
	b.until("the round trip is measured", func() bool {
		s := b.srv.Status(t.Context())
		return s.Clients[0].RoundTrip > 0 && s.Clients[1].RoundTrip > 0
	})
	batches := b.fake("X").Batches()
	s, err := y.ServerStatus(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n := b.fake("X").Batches(); n != batches {
		t.Errorf("the target was asked %d times", n-batches)
	}
	if s.Release != "kdsrv 9" || s.Host == "" || s.PID == 0 || s.MaxClients != 7 || s.ClientCount != 2 || s.SessionCount != 2 || s.Started.After(s.Now) {
		t.Errorf("%+v", s)
	}
	if len(s.Doors) != 1 || s.Doors[0].Transport != d.String() || s.Doors[0].Clients != 1 || s.Doors[0].Accepted != 1 || !strings.HasPrefix(s.Doors[0].Address, "127.0.0.1:") {
		t.Errorf("doors %+v", s.Doors)
	}
	if len(s.Sessions) != 2 || len(s.Clients) != 2 {
		t.Fatalf("%+v", s)
	}
	ses := s.Sessions[0]
	if ses.Line != "X" || ses.Owner != "ann@lab" || ses.Epoch != 1 || ses.State != "halted" || ses.Speed != 115200 || ses.Lost != nil ||
		ses.Link.BytesIn != 1234 || ses.Link.PacketsIn != 5 || ses.Link.RoundTrip != 3*time.Millisecond || ses.Since.Before(before) || ses.Opened.Before(before) {
		t.Errorf("session %+v", ses)
	}
	c := s.Clients[0]
	if c.Peer != ses.Peer || c.Owner != "ann@lab" || c.Line != "X" || c.Door != s.Doors[0].Transport || c.BytesIn == 0 || c.BytesOut == 0 || c.Since.Before(before) {
		t.Errorf("client %+v", c)
	}
	var text strings.Builder
	s.Write(&text)
	js, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(text.String()+string(js), "geheim") {
		t.Errorf("the password is in\n%s%s", &text, js)
	}

	if door := s.Doors[0]; door.BytesIn < c.BytesIn || door.BytesOut < c.BytesOut {
		t.Errorf("the door counts less than its client: %+v %+v", door, c)
	}
	was := s.Doors[0]

	b.cut(true)
	b.until("the connection is lost", func() bool {
		s = b.srv.Status(t.Context())
		return s.ClientCount == 1
	})
	if door := s.Doors[0]; door.BytesIn < was.BytesIn || door.BytesOut < was.BytesOut {
		t.Errorf("the door's bytes went back: %+v, were %+v", door, was)
	}
	if ses := s.Sessions[1]; ses.Lost == nil || ses.GraceSeconds != 60 {
		t.Errorf("session without its client: %+v", ses)
	}
}

// What a client calls itself is in lists, logs and messages to others.
func TestOwnersAreHarmless(t *testing.T) {
	b := newBench(t)
	b.must("x", "ann\x1b[31m\nfake line\u202e"+strings.Repeat("x", 10_000), false)
	_, err := b.client(kdrpc.Open{Link: "x", Owner: "ben"})
	s := b.srv.Status(t.Context())
	for what, got := range map[string]string{"status": s.Sessions[0].Owner, "clients": s.Clients[0].Owner, "refusal": err.Error()} {
		if strings.ContainsAny(got, "\x1b\n\u202e") || !strings.Contains(got, "ann?[31m?fake line?xxx") || len(got) > 300 {
			t.Errorf("%s: %q", what, got)
		}
	}
}

// trail is a log of which the audit lines are kept, as "event key=value ...".
type trail struct {
	slog.Handler
	mu    sync.Mutex
	lines []map[string]string
	with  []slog.Attr
	root  *trail
}

func (h *trail) Enabled(context.Context, slog.Level) bool { return true }
func (h *trail) WithAttrs(a []slog.Attr) slog.Handler {
	return &trail{root: h.root, with: append(slices.Clone(h.with), a...)}
}
func (h *trail) Handle(_ context.Context, r slog.Record) error {
	line := map[string]string{}
	for _, a := range h.with {
		line[a.Key] = a.Value.String()
	}
	r.Attrs(func(a slog.Attr) bool { line[a.Key] = a.Value.String(); return true })
	if line["audit"] != "" {
		h.root.mu.Lock()
		h.root.lines = append(h.root.lines, line)
		h.root.mu.Unlock()
	}
	return nil
}

func TestAuditLines(t *testing.T) {
	h := &trail{}
	h.root = h
	b := newBench(t, func(o *server.Options) { o.Logger, o.Grace = slog.New(h), time.Hour })
	d := b.door("")
	ann := b.through(d, "x", "ann")
	b.client(kdrpc.Open{Link: "x", Owner: "ben"})
	b.client(kdrpc.Open{Link: "bad link", Owner: "ben"})
	ben := b.must("x", "ben", true)
	audited := func(what string) func() bool {
		return func() bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return slices.ContainsFunc(h.lines, func(l map[string]string) bool { return l["audit"] == what })
		}
	}
	b.cut(true) // who comes back before the loss was seen has lost nothing
	b.until("lost", audited("lost"))
	b.cut(false)
	b.until("resumed", audited("resume"))
	// The server is there first; who leaves before he knows of it leaves a session
	// that waits for him.
	b.until("ben knows it", func() bool { return !errors.Is(version(ben), kdrpc.ErrDisconnected) })
	for who, c := range map[string]*kdrpc.Client{"ben": ben, "ann": ann} {
		if err := c.Close(t.Context(), target.LeaveRunning); err != nil && who == "ben" {
			t.Errorf("%s leaves: %v", who, err)
		}
	}
	b.until("all are gone", func() bool { return b.srv.Status(t.Context()).ClientCount == 0 })

	h.mu.Lock()
	defer h.mu.Unlock()
	seen := map[string]int{}
	for _, l := range h.lines {
		seen[l["audit"]]++
		for _, k := range map[string][]string{
			"connect":    {"peer", "door"},
			"disconnect": {"peer", "door", "owner", "duration", "in", "out", "reason"},
			"refuse":     {"peer", "door", "owner", "reason"},
			"lease":      {"line", "owner", "peer", "epoch"},
			"takeover":   {"line", "owner", "peer", "from", "epoch"},
			"lost":       {"line", "owner", "grace"},
			"resume":     {"line", "owner", "peer", "epoch"},
			"end":        {"line", "owner", "duration", "in", "out", "reason"},
		}[l["audit"]] {
			if _, ok := l[k]; !ok {
				t.Errorf("%v lacks %s", l, k)
			}
		}
		if l["audit"] == "end" && l["in"] != "1234" {
			t.Errorf("%v: want 1234 bytes of the link", l)
		}
		if l["audit"] == "disconnect" && (l["in"] == "0" || l["out"] == "0") && l["owner"] != "" {
			t.Errorf("%v counts no bytes", l)
		}
	}
	want := map[string]int{"connect": 5, "disconnect": 5, "refuse": 2, "lease": 1, "takeover": 1, "lost": 1, "resume": 1, "end": 1}
	if !maps.Equal(seen, want) {
		t.Errorf("%v, want %v", seen, want)
	}
	if s := fmt.Sprint(h.lines); !strings.Contains(s, "held by ann") || !strings.Contains(s, "no such link") {
		t.Errorf("no reasons in\n%s", s)
	}
}
