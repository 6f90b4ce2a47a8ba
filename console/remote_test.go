package console

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"openkd/command"
	"openkd/connstr"
	"openkd/engine"
	"openkd/internal/captured"
	"openkd/internal/ports"
	"openkd/rundir"
	"openkd/sharing"
	"openkd/transport"
)

// shared is a program that shares its console: it answers each line with a few
// of its own.
type shared struct {
	h     *sharing.Hub
	stop  chan struct{}
	wg    sync.WaitGroup
	order sync.Mutex
	lines []string // what it has said, in order
	conns sync.WaitGroup
	// The server's ends of connections, which have no deadlines but those that the
	// test sets; nil: they have their own.
	patient chan<- net.Conn

	mu   sync.Mutex
	gate chan struct{} // of "block"; nil: nothing is blocked

	asked []string      // what completions were asked for
	later chan struct{} // they wait for it; nil: they do not
}

// Complete implements sharing.Completer for two commands.
func (p *shared) Complete(_ sharing.Person, _ bool, line string, cursor int) sharing.Completion {
	p.mu.Lock()
	p.asked = append(p.asked, line[:cursor])
	later := p.later
	p.mu.Unlock()
	if later != nil {
		<-later
	}
	c := sharing.Completion{To: cursor, Insert: line[:cursor]}
	for _, n := range []string{".logclose", ".logopen"} {
		if strings.HasPrefix(n, c.Insert) {
			c.Candidates = append(c.Candidates, sharing.Candidate{Text: n, Show: 1, Kind: "command"})
		}
	}
	switch len(c.Candidates) {
	case 1:
		c.Insert = c.Candidates[0].Text + " "
	case 2:
		c.Insert = ".log"
	}
	return c
}

func (p *shared) completions() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.asked)
}

// blocked says whether the program waits for CTRL+C.
func (p *shared) blocked() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.gate != nil
}

func (p *shared) interrupt() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gate != nil {
		close(p.gate)
		p.gate = nil
	}
}

func (p *shared) Announce(e sharing.Entry) { p.h.Append(e) }
func (p *shared) Do(_ sharing.Person, op sharing.Op, _ string) error {
	if op == sharing.OpInterrupt {
		p.interrupt()
	}
	return nil
}
func (p *shared) Early(sharing.Person, string) (string, bool) { return "", false }
func (p *shared) say(format string, args ...any)              { p.put(sharing.EntryText, "", format, args...) }
func (p *shared) put(k sharing.EntryKind, name, f string, args ...any) {
	p.order.Lock()
	defer p.order.Unlock()
	text := fmt.Sprintf(f, args...)
	p.lines = append(p.lines, strings.TrimSuffix(text, "\n"))
	p.h.Append(sharing.Entry{Kind: k, Name: name, Text: text})
}

func (p *shared) run() {
	arrival := make(chan struct{}, 1)
	p.h.OnArrival(func() { poke(arrival) })
	for n := 0; ; {
		p.h.SetPrompt("0: kd> ", "halted", 0)
		l, ok := p.h.Take(func() bool { return false })
		if !ok {
			select {
			case <-arrival:
				continue
			case <-p.stop:
				return
			}
		}
		n++
		p.h.Command(l, "0: kd> ")
		if l.Text == "block" {
			gate := make(chan struct{})
			p.mu.Lock()
			p.gate = gate
			p.mu.Unlock()
			select {
			case <-gate:
			case <-p.stop:
			}
			p.say("interrupted %d\n", n)
		}
		p.say("answer %d to %s of %s\n", n, l.Text, l.Name)
		for i := range 3 {
			p.put(sharing.EntryEvent, "print", "print %d.%d %s\n", n, i, strings.Repeat("x", n%40))
		}
		p.say("done %d\n", n)
		p.h.Append(sharing.Entry{Kind: sharing.EntryResult, From: l.ID, Who: l.Name, ID: l.Request, Text: l.Text, OK: true, Name: "halted", Prompt: "0: kd> "})
	}
}

func share(t *testing.T) *shared {
	p := &shared{h: sharing.NewHub(sharing.Options{}), stop: make(chan struct{})}
	p.h.Attach(p)
	p.wg.Go(p.run)
	t.Cleanup(func() {
		p.h.Close("The test is over.")
		close(p.stop)
		p.wg.Wait()
		p.conns.Wait()
	})
	return p
}

// unhurried has no deadline for writes.
type unhurried struct{ net.Conn }

func (unhurried) SetWriteDeadline(time.Time) error { return nil }

// dial joins without a network.
func (p *shared) dial(context.Context) (net.Conn, error) {
	a, b := net.Pipe()
	if p.patient != nil {
		p.patient <- b
		b = unhurried{b}
	}
	p.conns.Go(func() { p.h.Serve(context.Background(), b, sharing.Via{Proto: "pipe"}) })
	return a, nil
}

// farConn is a connection that is far away and breaks after some bytes.
type farConn struct {
	net.Conn
	delay time.Duration
	mu    sync.Mutex
	left  int
	in    chan late
	rest  []byte
	done  chan struct{}
	once  sync.Once
}

type late struct {
	b   []byte
	due time.Time
	err error
}

var errBroken = errors.New("the connection broke, as the seed says")

func far(c net.Conn, delay time.Duration, bytes int) *farConn {
	f := &farConn{Conn: c, delay: delay, left: bytes, in: make(chan late, 1024), done: make(chan struct{})}
	go func() {
		for {
			b := make([]byte, 4096)
			n, err := c.Read(b)
			select {
			case f.in <- late{b[:n], time.Now().Add(delay), err}:
			case <-f.done:
				return
			}
			if err != nil {
				return
			}
		}
	}()
	return f
}

func (f *farConn) pay(n int) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.left -= n; f.left < 0 {
		f.Close()
		return errBroken
	}
	return nil
}

func (f *farConn) Read(b []byte) (int, error) {
	for len(f.rest) == 0 {
		select {
		case l := <-f.in:
			select {
			case <-time.After(time.Until(l.due)):
			case <-f.done:
				return 0, errBroken
			}
			if len(l.b) == 0 && l.err != nil {
				return 0, l.err
			}
			f.rest = l.b
		case <-f.done:
			return 0, errBroken
		}
	}
	n := copy(b, f.rest)
	f.rest = f.rest[n:]
	return n, f.pay(n)
}

func (f *farConn) Write(b []byte) (int, error) {
	if err := f.pay(len(b)); err != nil {
		return 0, err
	}
	return f.Conn.Write(b)
}

func (f *farConn) SetReadDeadline(time.Time) error { return nil }

func (f *farConn) Close() error {
	f.once.Do(func() { close(f.done) })
	return f.Conn.Close()
}

// visitor is a client of RunRemote with its input and output.
type visitor struct {
	in   *io.PipeWriter
	mu   sync.Mutex
	out  bytes.Buffer
	more chan struct{}
	code chan int
}

func (v *visitor) Write(b []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.out.Write(b)
	poke(v.more)
	return len(b), nil
}

func (v *visitor) text() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.out.String()
}

func (v *visitor) until(t *testing.T, what string, ok func(string) bool) {
	t.Helper()
	end := time.After(time.Minute)
	for !ok(v.text()) {
		select {
		case <-v.more:
		case <-end:
			t.Fatalf("%s did not come:\n%s", what, v.text())
		}
	}
}

func visit(t *testing.T, o sharing.ClientOptions, js bool) *visitor {
	t.Helper()
	in, w := io.Pipe()
	v := &visitor{in: w, more: make(chan struct{}, 1), code: make(chan int, 1)}
	go func() {
		code, err := RunRemote(context.Background(), RemoteOptions{
			In: in, Out: v, Err: v, JSON: js, Signals: make(chan os.Signal),
			Join: func(ctx context.Context, view sharing.Viewer) (*sharing.Client, error) {
				return sharing.Join(ctx, o, view)
			},
		})
		if err != nil {
			t.Error(err)
		}
		in.Close()
		v.code <- code
	}()
	return v
}

var spoken = regexp.MustCompile(`(?m)^(?:0: kd> )*((?:answer|print|done) \d+.*)$`)

// said are the program's lines in what a console shows.
func said(text string) []string {
	var l []string
	for _, m := range spoken.FindAllStringSubmatch(text, -1) {
		l = append(l, m[1])
	}
	return l
}

// saidJSON are the same in what a program is told.
func saidJSON(t *testing.T, text string) []string {
	var all strings.Builder
	results := map[float64]int{}
	s := bufio.NewScanner(strings.NewReader(text))
	s.Buffer(nil, 1<<22)
	var prints strings.Builder // of the command that runs: they come before its result
	for s.Scan() {
		var v struct {
			Type, Event, Text, Output string
			ID                        float64
			OK                        bool
		}
		if err := json.Unmarshal(s.Bytes(), &v); err != nil {
			t.Errorf("no JSON: %q", s.Text())
			continue
		}
		switch {
		case v.Type == "output":
			all.WriteString(v.Text)
		case v.Event == "print":
			prints.WriteString(v.Text)
			all.WriteString(v.Text)
		case v.Type == "result":
			if !v.OK {
				t.Errorf("request %v failed: %s", v.ID, s.Text())
			}
			results[v.ID]++
			// The events came while the output was gathered.
			text := strings.TrimSuffix(all.String(), prints.String())
			first, rest, _ := strings.Cut(v.Output, "\n")
			all.Reset()
			all.WriteString(text + first + "\n" + prints.String() + rest)
		}
		if v.Event == "command" || v.Type == "result" || v.Event == "done" {
			prints.Reset()
		}
	}
	for id, n := range results {
		if n != 1 {
			t.Errorf("request %v has %d results", id, n)
		}
	}
	return said(all.String())
}

// TestFarAndBroken: three clients, a console, one that may only look and a
// program, far away and over connections that break: all see every line once
// and in its place, and every command runs once.
func TestFarAndBroken(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for a distance of 100 ms")
	}
	dir := t.TempDir()
	t.Setenv(rundir.Env, dir)
	for _, door := range []string{"tcp", "npipe", "reverse"} {
		if door == "npipe" && runtime.GOOS != "windows" && len(dir) > 70 {
			continue // longer than the path of a socket may be
		}
		t.Run(door, func(t *testing.T) {
			p := share(t)
			open := func(readOnly bool) connstr.Transport {
				there := connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: connstr.AnyPort, Password: "pw"}
				if door == "npipe" {
					there = connstr.Transport{Proto: "npipe", Pipe: fmt.Sprintf("far-%d", len(p.h.Doors())), Password: "pw"}
				}
				if _, err := p.h.OpenDoor(t.Context(), there, readOnly); err != nil {
					t.Fatal(err)
				}
				doors := p.h.Doors()
				there = doors[len(doors)-1]
				if door == "npipe" {
					there.Server = "localhost"
				} else {
					there.Server = "127.0.0.1"
				}
				there.Password = "pw"
				return there
			}
			cuts := -3 // the first connection of each
			var mu sync.Mutex
			join := func(name string, seed uint64, readOnly, js bool) *visitor {
				var there connstr.Transport
				if door == "reverse" {
					// The client listens; the session connects out, as often as it is lost.
					there = connstr.Transport{Proto: "tcp", ClientOf: "127.0.0.1", Port: ports.TCP(t), Password: "pw"}
				} else {
					there = open(readOnly)
				}
				rnd := rand.New(rand.NewPCG(seed, 1))
				o := sharing.ClientOptions{Name: name, Where: there.String(), Retry: time.Millisecond, ReadOnly: readOnly, Dial: func(ctx context.Context) (net.Conn, error) {
					c, err := transport.Dial(ctx, there, transport.Options{})
					if err != nil {
						return nil, err
					}
					mu.Lock()
					defer mu.Unlock()
					cuts++
					return far(c, 100*time.Millisecond, 2000+rnd.IntN(3000)), nil
				}}
				if door == "reverse" {
					out := connstr.Transport{Proto: "tcp", ClientOf: "127.0.0.1", Port: there.Port, Password: "pw"}
					v := visit(t, o, js)
					if _, err := p.h.OpenDoor(t.Context(), out, readOnly); err != nil {
						t.Fatal(err)
					}
					return v
				}
				return visit(t, o, js)
			}
			ann, eve, prog := join("ann", 1, false, false), join("eve", 2, true, false), join("prog", 3, false, true)
			prog.until(t, "the hello", func(s string) bool { return strings.Contains(s, `"hello"`) })
			eve.until(t, "the session", func(s string) bool { return strings.Contains(s, "kd> ") })
			n, few := 20, 6
			if door == "reverse" {
				n, few = 6, 2 // the session tries again only every now and then
			}
			for i := range n {
				fmt.Fprintf(ann.in, "a%d\n", i)
				fmt.Fprintf(prog.in, "{\"id\":%d,\"command\":\"p%d\"}\n", i+1, i)
			}
			last := fmt.Sprintf("done %d\n", 2*n)
			ann.until(t, last, func(s string) bool { return strings.Contains(s, last) })
			eve.until(t, last, func(s string) bool { return strings.Contains(s, last) })
			prog.until(t, "the last result", func(s string) bool {
				return strings.Count(s, `"type":"result"`) == n && strings.Contains(s, fmt.Sprintf("done %d\\n", 2*n))
			})
			p.order.Lock()
			want := strings.Join(p.lines, "\n")
			p.order.Unlock()
			if got := strings.Count(want, "answer"); got != 2*n {
				t.Errorf("%d of %d commands were run", got, 2*n)
			}
			for _, v := range []*visitor{ann, eve, prog} {
				v.in.Close()
				<-v.code
			}
			for who, got := range map[string][]string{"ann": said(ann.text()), "eve": said(eve.text()), "prog": saidJSON(t, prog.text())} {
				if g := strings.Join(got, "\n"); g != want {
					t.Errorf("%s saw\n%s\nnot\n%s", who, g, want)
				}
			}
			t.Logf("%d connections", cuts)
			if cuts < few {
				t.Error("too few connections broke to show anything")
			}
		})
	}
}

// lateText collects text; what is no prompt gets there a moment later.
type lateText struct{ captured.Text }

func (l *lateText) Write(b []byte) (int, error) {
	if !bytes.HasSuffix(b, []byte("> ")) {
		time.Sleep(5 * time.Millisecond)
	}
	return l.Text.Write(b)
}

// is waits until the text is that and nothing else.
func (l *lateText) is(t *testing.T, want string) {
	t.Helper()
	if got, ok := l.Wait(func(s string) bool { return s == want }); !ok {
		t.Fatalf("it shows %q, not %q", got, want)
	}
}

// TestPromptBelow: without an editor, a prompt that others' words come between
// stands below them again, whoever is quicker; at a client and where the session
// is.
func TestPromptBelow(t *testing.T) {
	const prompt = "0: kd> "
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	notice := sharing.Entry{Kind: sharing.EntryNotice, Text: "somebody came\n"}
	in := func(out io.Writer) source { return newPlain(nil, out, keys{}) }
	shows := prompt + "\nsomebody came\n" + prompt

	out := &lateText{}
	r := &remote{ctx: ctx, c: new(sharing.Client), out: out, src: in(out), changed: make(chan struct{}, 1), prompt: prompt, state: "halted", caughtUp: true}
	wg.Go(func() {
		for ctx.Err() == nil {
			r.read(prompt)
		}
	})
	out.is(t, prompt)
	r.Entry(notice, 0)
	out.is(t, shows)

	hub := sharing.NewHub(sharing.Options{})
	defer hub.Close("")
	out = &lateText{}
	k := &console{ctx: ctx, local: out, src: in(out), s: command.NewSession(engine.New(nil, engine.Options{}), io.Discard, command.Options{Share: hub})}
	wg.Go(func() { k.take(ctx, func() string { return prompt }, "halted") })
	out.is(t, prompt)
	k.Announce(notice)
	out.is(t, shows)
}

// TestPromptComesBack: when others' command is over and the owner waits already,
// the prompt's return wakes him, though it is the one that stood before.
func TestPromptComesBack(t *testing.T) {
	const prompt = "0: kd> "
	out := &lateText{}
	r := &remote{ctx: t.Context(), c: new(sharing.Client), out: out, tty: true, changed: make(chan struct{}, 1), prompt: prompt, state: "halted", caughtUp: true}
	if _, ok := r.drawPrompt(prompt, func() {}); !ok {
		t.Fatal("the prompt is not drawn")
	}
	woken := func(e sharing.Entry) {
		t.Helper()
		r.Entry(e, 0)
		select {
		case <-r.changed:
		default:
			t.Error("the owner is not woken")
		}
	}
	woken(sharing.Entry{Kind: sharing.EntryCommand, From: 2, Who: "dumb", Prompt: prompt, Text: "? 7"})
	r.ask = nil // the reading ended, and the owner found no prompt
	woken(sharing.Entry{Kind: sharing.EntryResult, From: 2, Name: "halted", OK: true})
	woken(sharing.Entry{Kind: sharing.EntryPrompt, Name: "halted", Prompt: prompt})
}

// TestPromptChanges: another prompt takes the place of one that stands, also when
// nobody reads at that any more.
func TestPromptChanges(t *testing.T) {
	out := &lateText{}
	r := &remote{ctx: t.Context(), c: new(sharing.Client), out: out, changed: make(chan struct{}, 1), prompt: "0: kd> ", state: "halted", caughtUp: true}
	show := func() {
		t.Helper()
		if _, ok := r.drawPrompt(r.prompt, func() {}); !ok {
			t.Fatal("the prompt is not drawn")
		}
	}
	show()
	r.Entry(sharing.Entry{Kind: sharing.EntryPrompt, Name: "halted"}, 0)
	r.ask = nil // the reading ended
	r.Entry(sharing.Entry{Kind: sharing.EntryPrompt, Name: "halted", Prompt: "1: kd> "}, 0)
	show()
	out.is(t, "0: kd> \n1: kd> ")
}

// TestForgottenInACommand: a program whose command was running when the session
// forgot it gets what it has heard of it as its result, and what comes then is
// nobody's.
func TestForgottenInACommand(t *testing.T) {
	var out bytes.Buffer
	r := &remote{ctx: t.Context(), changed: make(chan struct{}, 1)}
	x := &remoteJSON{r: r, j: &jsonOut{out: &out}, ids: map[uint64]asked{7: {id: 1, command: "k"}}, open: 1, waits: make(map[int]waiter)}
	x.Entry(sharing.Entry{Kind: sharing.EntryCommand, Text: "k"}, 7)
	x.Entry(sharing.Entry{Kind: sharing.EntryText, Text: "half\n"}, 0)
	w := waiter{id: 2, timer: time.NewTimer(time.Hour)}
	x.waits[0] = w
	x.Joined(sharing.Session{State: "halted", Prompt: "0: kd> ", Stop: []byte(`{"stop":{"number":3}}`)})
	x.Reply(7, false, true, "not known")
	x.Entry(sharing.Entry{Kind: sharing.EntryText, Text: "others\n"}, 0)
	for _, want := range []string{`"output":"half\n"`, `{"text":"others\n","type":"output"}`, `"do":"wait","id":2`} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%s is missing:\n%s", want, out.String())
		}
	}
	// Nothing else would wake it.
	w = waiter{id: 3, after: 3, timer: time.NewTimer(time.Hour)}
	x.waits[1] = w
	x.Joined(sharing.Session{State: "halted", Prompt: "0: kd> ", Stop: []byte(`{"stop":{"number":4}}`)})
	if len(x.waits) > 0 {
		t.Errorf("it waits still:\n%s", out.String())
	}
}

// TestPastStops: a program that waits for a stop does not get one of the history,
// which comes when the session has been joined.
func TestPastStops(t *testing.T) {
	var out bytes.Buffer
	r := &remote{ctx: t.Context(), changed: make(chan struct{}, 1)}
	x := &remoteJSON{r: r, j: &jsonOut{out: &out}, ids: make(map[uint64]asked), waits: make(map[int]waiter)}
	stop := func(n int) []byte { return fmt.Appendf(nil, `{"stop":{"number":%d}}`, n) }
	x.Joined(sharing.Session{State: "running", History: 5, Stop: stop(2)})
	x.wait(request{ID: 1, Timeout: 3600})
	entries := []sharing.Entry{
		{Kind: sharing.EntryEvent, Name: "halted", Data: stop(1)},
		{Kind: sharing.EntryPrompt, Name: "halted", Prompt: "0: kd> "},
		{Kind: sharing.EntryCommand, Text: "k"},
		{Kind: sharing.EntryResult, Name: "halted", OK: true},
		{Kind: sharing.EntryPrompt, Name: "halted", Prompt: "0: kd> "},
		{Kind: sharing.EntryEvent, Name: "halted", Data: stop(3)}, // the history ends before this
	}
	for i, e := range entries {
		e.Seq = uint64(i + 1)
		x.Entry(e, 0)
		if len(x.waits) != 1 {
			t.Fatalf("entry %d of the past ends the wait:\n%s", i, out.String())
		}
	}
	x.Entry(sharing.Entry{Seq: 7, Kind: sharing.EntryPrompt, Name: "halted", Prompt: "0: kd> "}, 0)
	if want := `"do":"wait","id":1,"state":"halted","stop":{"number":3`; len(x.waits) > 0 || !strings.Contains(out.String(), want) {
		t.Errorf("%s is missing:\n%s", want, out.String())
	}
	// What comes to a session that stood is no end of its prompt.
	x.Joined(sharing.Session{State: "halted", Prompt: "0: kd> ", History: 9, Stop: stop(4)})
	x.Entry(sharing.Entry{Seq: 8, Kind: sharing.EntryCommand, Text: "k"}, 0)
	x.Entry(sharing.Entry{Seq: 9, Kind: sharing.EntryEvent, Name: "running"}, 0)
	x.wait(request{ID: 2})
	if len(x.waits) > 0 {
		t.Errorf("it waits still:\n%s", out.String())
	}
}

// TestRoomAgain: a program's request that waits for room goes out when an earlier
// one is taken, not only when it has ended.
func TestRoomAgain(t *testing.T) {
	r := &remote{ctx: t.Context(), changed: make(chan struct{}, 1)}
	x := &remoteJSON{r: r, j: &jsonOut{out: io.Discard}, ids: map[uint64]asked{7: {id: 1, command: "g"}}, open: 1}
	x.Reply(7, true, false, "")
	select {
	case <-r.changed:
	default:
		t.Error("nobody is woken")
	}
}
