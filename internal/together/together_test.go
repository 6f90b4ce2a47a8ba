package together

import (
	"context"
	"flag"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"openkd/connstr"
	"openkd/sharing"
	"openkd/transport"
	"openkd/transport/carrier"
	"openkd/transport/certs"
)

var seedFlag = flag.Uint64("seed", 0, "play the broken lines of this seed only")

// openDoor opens a door of a session and returns its transport.
func (s *session) openDoor(t connstr.Transport, readOnly bool) connstr.Transport {
	s.t.Helper()
	t.Password, t.Hidden = password, true
	if _, err := s.hub.OpenDoor(context.Background(), t, readOnly); err != nil {
		s.t.Fatal(err)
	}
	l := s.hub.Doors()
	return l[len(l)-1]
}

var pipes atomic.Int32

// certificate makes a certificate, once, and returns its thumbprint, by which
// the server finds it and the client knows it.
var certificate = sync.OnceValue(func() string {
	m, err := certs.Make(os.Getenv(certs.EnvUserDir), "together", "lab.example", nil, time.Now(), time.Hour)
	if err != nil {
		panic(err)
	}
	return m.Thumbprint
})

// through makes a way through a door of its own, over a bad line.
func (s *session) through(door string, readOnly bool, delay time.Duration, plan []fate) way {
	s.t.Helper()
	listen := func(t connstr.Transport) carrier.Listener {
		ln, err := carrier.Listen(context.Background(), t, carrier.Options{})
		if err != nil {
			s.t.Fatal(err)
		}
		return ln
	}
	to := func(t connstr.Transport) func(ctx context.Context) (net.Conn, error) {
		return func(ctx context.Context) (net.Conn, error) { return carrier.Dial(ctx, t, carrier.Options{}) }
	}
	here := connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: connstr.AnyPort}
	switch door {
	case "tcp", "silent", "ssl":
		there := here
		if door == "ssl" {
			there.Proto, there.Secure, there.CertUser = "ssl", "tls13", certificate()
		}
		d := s.openDoor(there, readOnly)
		d.Server = "127.0.0.1"
		ln := listen(here)
		there.Port = ln.Transport().Port
		l := newBadLine(s.t, ln, delay, plan, false, to(d))
		return way{dial: dialler(there), name: door, line: l}
	case "npipe", "spipe":
		near := connstr.Transport{Proto: door, Pipe: fmt.Sprintf("together%d", pipes.Add(1))}
		if door == "spipe" {
			near.Secure, near.CertUser = "tls13", certificate()
		}
		far := near
		far.Pipe += "s"
		d := s.openDoor(far, readOnly)
		d.Server = "localhost"
		ln := listen(near)
		near.Server = "localhost"
		l := newBadLine(s.t, ln, delay, plan, false, to(d))
		return way{dial: dialler(near), name: door, line: l}
	case "reverse":
		// The client waits; the session connects out to the line, and the line to
		// the client, at whatever port it waits.
		var port atomic.Int32
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			s.t.Fatal(err)
		}
		l := newBadLine(s.t, ln, delay, plan, true, func(ctx context.Context) (net.Conn, error) {
			for {
				if p := port.Load(); p != 0 {
					c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", p))
					if err == nil {
						return c, nil
					}
				}
				select {
				case <-ctx.Done():
					return nil, ctx.Err()
				case <-time.After(time.Millisecond):
				}
			}
		})
		s.openDoor(connstr.Transport{Proto: "tcp", ClientOf: "127.0.0.1", Port: ln.Addr().(*net.TCPAddr).Port}, readOnly)
		wait := connstr.Transport{Proto: "tcp", ClientOf: "127.0.0.1", Port: connstr.AnyPort, Password: password}
		return way{name: "reverse", line: l, dial: func(ctx context.Context) (net.Conn, error) {
			defer port.Store(0)
			c, err := transport.Dial(ctx, wait, transport.Options{OnListen: func(t connstr.Transport) { port.Store(int32(t.Port)) }})
			if err != nil {
				return nil, err
			}
			return c, nil
		}}
	}
	s.t.Fatalf("there is no door %q", door)
	return way{}
}

// TestBroken: a console, one that may only look and a program, 100 ms away, over
// lines that break again and again: all see every line of the session once and
// in its place, what each typed is run once and in its order, and what he may
// not do is not done.
func TestBroken(t *testing.T) {
	var wg sync.WaitGroup // they wait more than they work: all at once
	defer wg.Wait()
	for _, door := range []string{"tcp", "npipe", "reverse", "ssl", "spipe", "silent"} {
		seeds, cuts, delay := 3, 6, 50*time.Millisecond
		switch door {
		case "reverse":
			cuts = 3 // the session waits longer each time before it tries again
		case "ssl", "spipe": // with a certificate that is known
			seeds, cuts = 1, 4
		case "silent": // lines that are not closed, but dead
			if seeds, cuts = 1, 1; testing.Short() {
				continue
			}
		}
		if testing.Short() {
			seeds, delay, cuts = 1, 10*time.Millisecond, min(cuts, 3)
		}
		for i := range seeds {
			seed := uint64(i + 1)
			if *seedFlag != 0 {
				if seed = *seedFlag; i > 0 {
					break
				}
			}
			wg.Go(func() {
				t.Run(fmt.Sprintf("%s/seed=%d", door, seed), func(t *testing.T) { broken(t, door, seed, cuts, delay) })
			})
		}
	}
}

func broken(t *testing.T, door string, seed uint64, cuts int, delay time.Duration) {
	const n = 8 // commands of each
	var times sharing.Timeouts
	if door == "silent" {
		// Long enough for a busy machine, which else does nothing but connect.
		times.Ping, times.Dead = 500*time.Millisecond, 4*time.Second
	}
	s := begin(t, sharing.Options{Timeouts: times}, func(s *session, e sharing.Entry) {
		// A target that was let go prints, and stops unless somebody else is to
		// stop it.
		id, rest, _ := strings.Cut(strings.TrimPrefix(e.Text, ".echo "), ";")
		if !strings.HasPrefix(rest, " g") {
			return
		}
		for i := range 3 {
			s.m.Print(fmt.Sprintf("%s prints %d\n", id, i))
		}
		if !strings.Contains(rest, "until") {
			s.m.Break()
		}
	})
	var lines []*badLine
	join := func(name string, k uint64, readOnly, js bool) *visitor {
		w := s.through(door, readOnly, delay, plan(seed*10+k, cuts, door))
		lines = append(lines, w.line)
		return visit(t, sharing.ClientOptions{Name: name, Where: w.name, Dial: w.dial, Retry: time.Millisecond, Timeouts: times}, js)
	}
	ann, eve, prog := join("ann", 1, false, false), join("eve", 2, true, false), join("prog", 3, false, true)

	// Each types as soon as it is in, the console of the session between the
	// others. What lets the target go is stopped by the machine, but one by the
	// program, and one by CTRL+C.
	work := [n]string{"? 0n%d+1", "r rip", "g", "db nt L20", "p", "g", "g; $$ until", "? %d"}
	line := func(who string, i int) string {
		w := work[i]
		if strings.Contains(w, "%") {
			w = fmt.Sprintf(w, i)
		}
		if who == "srv" {
			w = strings.TrimSuffix(w, "; $$ until")
		}
		return fmt.Sprintf(".echo %s-%d; %s", who, i, w)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			if !s.done(fmt.Sprintf(".echo %s-%d;", []string{"ann", "prog"}[i%2], i)) {
				return
			}
			s.typed(line("srv", i))
		}
	})
	for i := range n {
		ann.typed(line("ann", i))
		prog.typed(fmt.Sprintf(`{"id":%d,"command":%q}`, i, line("prog", i)))
	}
	for i := range n {
		eve.typed(fmt.Sprintf(".echo eve-%d", i))
		eve.typed(fmt.Sprintf("r @$t0 = %d", i))
	}
	wg.Go(func() { // the program stops what ann let go
		if prog.out.has(t, `ann-6 prints 2\n`) {
			prog.typed(`{"id":"stop","do":"breakin"}`)
		}
	})
	wg.Go(func() { // and ann what the program let go
		if ann.out.has(t, "prog-6 prints 2\n") {
			ann.typed("\x03")
		}
	})
	wg.Wait()
	refused := func(x string) int { return strings.Count(x, "this client may only look") }
	last := n - 1
	ok := !t.Failed() && s.done(fmt.Sprintf(".echo srv-%d", last)) && s.done(fmt.Sprintf(".echo ann-%d", last)) && s.done(fmt.Sprintf(".echo prog-%d", last)) &&
		eve.out.until(t, "all that is refused", func(x string) bool { return refused(x) >= n }) &&
		eve.out.has(t, fmt.Sprintf("[eve] eve-%d\n", last))
	if !ok {
		return
	}
	s.typed(".echo srv-end")
	ok = s.done(".echo srv-end") && ann.out.has(t, "srv-end\n") && eve.out.has(t, "srv-end\n") && prog.out.has(t, `"text":"srv-end\n"`)
	if !ok {
		return
	}
	ann.leave(t)
	eve.leave(t)
	prog.leave(t)
	s.end()
	if t.Failed() {
		return
	}

	log, _ := s.entries()
	all := asText(log)
	same(t, "the session's own console", before(seen(s.out.String(), "srv"), "srv-end"), before(seen(all, "srv"), "srv-end"))
	for _, v := range []*visitor{ann, eve} {
		same(t, v.name, before(seen(v.out.String(), v.name), "srv-end"), before(seen(all, v.name), "srv-end"))
	}
	same(t, prog.name, before(heard(t, prog.out.String()), "srv-end"), before(told(log, "prog"), "srv-end"))

	// What was run, by the audit: in the order of the log, and of each his own
	// lines, all of them, once, in the order in which he typed them.
	var ran, logged []string
	next := map[string]int{}
	for _, a := range s.audited("command") {
		ran = append(ran, a.Owner+" "+a.Command)
		var who string
		var i int
		if _, err := fmt.Sscanf(strings.NewReplacer("-", " ", ";", " ").Replace(a.Command), ".echo %s %d", &who, &i); err != nil {
			if a.Command != ".echo srv-end" {
				t.Errorf("%s ran %q", a.Owner, a.Command)
			}
			continue
		}
		if i != next[who] {
			t.Errorf("%s ran %q, the next is %d", a.Owner, a.Command, next[who])
		}
		next[who] = i + 1
		if owner := map[string]string{"srv": "the server's console", "ann": "ann", "prog": "prog"}[who]; a.Owner != owner {
			t.Errorf("%q was run for %s", a.Command, a.Owner)
		}
	}
	for _, e := range log {
		if e.Kind == sharing.EntryCommand {
			who := e.Who
			if e.From == 0 {
				who = "the server's console"
			}
			logged = append(logged, who+" "+e.Text)
		}
	}
	if !slices.Equal(ran, logged) {
		t.Errorf("the audit has\n%s\nand the log\n%s", strings.Join(ran, "\n"), strings.Join(logged, "\n"))
	}
	for _, who := range []string{"srv", "ann", "prog"} {
		if next[who] != n {
			t.Errorf("of %s %d lines were run", who, next[who])
		}
	}
	for _, what := range []string{"breakin", "interrupt"} {
		if l := s.audited(what); len(l) != 1 {
			t.Errorf("%s was asked for %d times: %v", what, len(l), l)
		}
	}
	if k := refused(eve.out.String()); k != n {
		t.Errorf("eve was refused %d commands, not %d", k, n)
	}
	chats := 0
	for _, e := range log {
		if e.Kind == sharing.EntryNotice && e.Name == "chat" {
			if want := fmt.Sprintf("[eve] eve-%d\n", chats); e.Text != want {
				t.Errorf("eve said %q, not %q", e.Text, want)
			}
			chats++
		}
	}
	for i, l := range lines {
		n, kinds := l.cuts()
		t.Logf("%s: %d connections, %d broke: %v", []string{"ann", "eve", "prog"}[i], l.made, n, kinds)
		if n == 0 {
			t.Errorf("no connection of %s broke: nothing was shown", []string{"ann", "eve", "prog"}[i])
		}
	}
}
