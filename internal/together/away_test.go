package together

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"openkd/sharing"
)

// gate is a way that is closed for a while.
type gate struct {
	dial func(ctx context.Context) (net.Conn, error)

	mu     sync.Mutex
	conn   net.Conn
	closed chan struct{} // nil: open
}

func (g *gate) Dial(ctx context.Context) (net.Conn, error) {
	g.mu.Lock()
	closed := g.closed
	g.mu.Unlock()
	if closed != nil {
		select {
		case <-closed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	c, err := g.dial(ctx)
	g.mu.Lock()
	g.conn = c
	g.mu.Unlock()
	return c, err
}

// shut breaks the connection and lets none through until it is opened.
func (g *gate) shut() (open func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closed = make(chan struct{})
	g.conn.Close()
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		close(g.closed)
		g.closed = nil
	}
}

var (
	gap   = regexp.MustCompile(`Connected again\. (\d+) lines of the session are missing here: the server does not keep them any more\.`)
	above = regexp.MustCompile(`(?m)^(\d+) lines of it came before those that follow\.$`)
	// not the line that she typed
	ownAnswer = regexp.MustCompile(`(?m)(?:^|> )ann-0$`)
	floods    = regexp.MustCompile(`flood (\d+)\b`)
)

// TestAway: who is away for longer than the session keeps is told how many lines
// are missing, to the line, and goes on; who joins late gets the end of the
// history and is told how much came before; neither is told anything twice.
func TestAway(t *testing.T) {
	s := begin(t, sharing.Options{}, nil)
	ways := map[string]*gate{}
	join := func(name string, js bool, lines int) *visitor {
		g := &gate{dial: s.through("tcp", false, 0, nil).dial}
		ways[name] = g
		return visit(t, sharing.ClientOptions{Name: name, Where: "tcp", Dial: g.Dial, Retry: time.Millisecond, Lines: lines}, js)
	}
	ann, prog := join("ann", false, 0), join("prog", true, 0)
	ann.typed(".echo ann-0")
	prog.typed(`{"id":0,"command":".echo prog-0"}`)
	if !s.done(".echo ann-0") || !s.done(".echo prog-0") || !prog.out.has(t, `"type":"result"`) || !prog.out.has(t, `"command":".echo ann-0","event":"done"`) || !ann.out.has(t, "prog-0\n") || !ann.out.until(t, "her own", func(x string) bool { return ownAnswer.MatchString(x) }) {
		return
	}
	var open []func()
	for _, g := range ways {
		open = append(open, g.shut())
	}
	for _, who := range []string{"ann", "prog"} {
		s.out.has(t, who+" (tcp") // joined
		s.out.until(t, who+" is lost", func(x string) bool {
			return regexp.MustCompile(`(?m)^` + who + ` \([^)]*\) has lost its connection`).MatchString(x)
		})
	}
	s.beside.Leave(patience) // he would not keep up
	// More than is kept.
	const flood = 140000
	for i := range flood {
		s.hub.Append(sharing.Entry{Kind: sharing.EntryText, Text: fmt.Sprintf("flood %d\n", i)})
	}
	for _, f := range open {
		f()
	}
	s.typed(".echo srv-1")
	ann.typed(".echo ann-1")
	prog.typed(`{"id":1,"command":".echo prog-1"}`)
	ben := join("ben", false, 5000)
	ben.typed(".echo ben-1")
	for _, v := range []*visitor{ann, prog, ben} {
		if !v.out.until(t, "all", func(x string) bool {
			return strings.Contains(x, "ann-1") && strings.Contains(x, "prog-1") && strings.Contains(x, "ben-1") && strings.Contains(x, "srv-1")
		}) {
			return
		}
	}
	// seen counts the lines of the flood, which must follow each other without a
	// gap up to the last one.
	seen := func(v *visitor) int {
		t.Helper()
		l := floods.FindAllStringSubmatch(v.out.String(), -1)
		for i, m := range l {
			if k, _ := strconv.Atoi(m[1]); k != flood-len(l)+i {
				t.Fatalf("%s saw line %d where line %d belongs", v.name, k, flood-len(l)+i)
			}
		}
		return len(l)
	}
	for _, v := range []*visitor{ann, prog} {
		m := gap.FindAllStringSubmatch(v.out.String(), -1)
		if len(m) != 1 {
			t.Errorf("%s is told of %d gaps", v.name, len(m))
			continue
		}
		// Besides the flood the notices of two losses and of the one beside the hub
		// that left may be missing.
		told, _ := strconv.Atoi(m[0][1])
		if lost := told + seen(v) - flood; lost < 0 || lost > 3 {
			t.Errorf("%s is told that %d lines are missing and saw %d of %d", v.name, told, seen(v), flood)
		}
	}
	m := above.FindAllStringSubmatch(ben.out.String(), -1)
	if n := seen(ben); len(m) != 1 || n < 4900 || n > 5000 {
		t.Errorf("ben saw %d lines of the history and is told %q", n, m)
	} else if before, _ := strconv.Atoi(m[0][1]); before+n < flood || before+n > flood+60 {
		t.Errorf("ben is told that %d lines came before the %d of %d that he saw", before, n, flood)
	}
}

// TestPromptAgain: whatever comes between a prompt and what is typed at it, the
// prompt is shown again below.
func TestPromptAgain(t *testing.T) {
	s := begin(t, sharing.Options{}, nil)
	join := func(name string, readOnly bool) *visitor {
		w := s.through("tcp", readOnly, 0, nil)
		return visit(t, sharing.ClientOptions{Name: name, Where: "tcp", Dial: w.dial}, false)
	}
	ann, eve := join("ann", false), join("eve", true)
	s.out.slow.Store(true)
	ann.out.slow.Store(true)
	if !ann.out.has(t, "eve (tcp") {
		return
	}
	for i := range 30 {
		said := fmt.Sprintf("[eve] %d\n", i)
		eve.typed(fmt.Sprintf(".echo %d", i))
		for _, x := range []*text{s.out, ann.out} {
			if !x.until(t, "the prompt below "+said, func(x string) bool {
				_, below, ok := strings.Cut(x, said)
				return ok && strings.HasSuffix(below, "kd> ")
			}) {
				return
			}
		}
	}
}
