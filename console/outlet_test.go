package console

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"openkd/command"
	"openkd/sharing"
	"openkd/target"
)

// tap is an output that takes something only while it is open.
type tap struct {
	mu   sync.Mutex
	cond *sync.Cond
	shut bool
	held bool // a write waits
	buf  bytes.Buffer
	err  error
}

func newTap(shut bool) *tap {
	t := &tap{shut: shut}
	t.cond = sync.NewCond(&t.mu)
	return t
}

func (t *tap) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for t.shut {
		t.held = true
		t.cond.Broadcast()
		t.cond.Wait()
	}
	if t.err != nil {
		return 0, t.err
	}
	return t.buf.Write(b)
}

func (t *tap) turn(shut bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.shut, t.held = shut, false
	t.cond.Broadcast()
}

// stuck waits until a write waits.
func (t *tap) stuck() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for !t.held {
		t.cond.Wait()
	}
}

func (t *tap) text() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

// TestOutlet: what is written comes out in order; a full queue leaves out what
// comes later and says so on a line of its own; nobody waits who does not want to.
func TestOutlet(t *testing.T) {
	w := newTap(true)
	o := newOutlet(w, func(n int) string { return fmt.Sprintf("[%d]\n", n) })
	o.limit = 10
	woken := make(chan struct{}, 1)
	o.woke = func() { poke(woken) }
	io.WriteString(o, "a\n")
	w.stuck()
	for _, text := range []string{"bcd\n", "efghi", "j\nk\nl", "m\n"} {
		if n, err := io.WriteString(o, text); n != len(text) || err != nil {
			t.Errorf("%q: %d, %v", text, n, err)
		}
	}
	if o.Room() {
		t.Error("there is room")
	}
	o.wait(0, nil, func() bool { return false })
	over := make(chan struct{})
	close(over)
	o.wait(0, over, nil)
	w.turn(false)
	<-woken
	io.WriteString(o, "n\n")
	o.wait(0, nil, nil)
	if got := w.text(); got != "a\nbcd\nefghi\n[3]\nn\n" {
		t.Errorf("shown: %q", got)
	}
	io.WriteString(o, "last\n")
	o.close(0, nil)
	if got := w.text(); !strings.HasSuffix(got, "n\nlast\n") {
		t.Errorf("shown at the end: %q", got)
	}
	io.WriteString(o, "too late\n")
	o.close(0, nil)
}

// TestOutletEnds: the end waits for what is there, as long as it may.
func TestOutletEnds(t *testing.T) {
	w := newTap(true)
	o := newOutlet(w, leftOut)
	io.WriteString(o, "a\n")
	w.stuck()
	o.close(time.Millisecond, nil)
	if n, err := io.WriteString(o, "b\n"); n != 0 || err == nil {
		t.Errorf("a write behind the end: %d, %v", n, err)
	}
	w.turn(false)
	<-o.gone

	w = newTap(false)
	w.err = errors.New("broken")
	o = newOutlet(w, leftOut)
	io.WriteString(o, "a\n")
	<-o.gone
	o.wait(0, nil, nil)
	if _, err := io.WriteString(o, "b\n"); !errors.Is(err, w.err) {
		t.Errorf("a write to what is broken: %v", err)
	}
	o.close(0, nil)
}

// TestOutletDiscard: what waits can be thrown away.
func TestOutletDiscard(t *testing.T) {
	w := newTap(true)
	o := newOutlet(w, leftOut)
	io.WriteString(o, "a\n")
	w.stuck()
	io.WriteString(o, "b\nc\n")
	if n, ok := o.discard(4); n != 0 || ok {
		t.Errorf("%d, %v", n, ok)
	}
	if n, ok := o.discard(3); n != 2 || !ok {
		t.Errorf("%d, %v", n, ok)
	}
	io.WriteString(o, "d\n")
	w.turn(false)
	o.close(0, nil)
	if got := w.text(); got != "a\nd\n" {
		t.Errorf("shown: %q", got)
	}
}

// onlooker gathers what a session says.
type onlooker struct {
	mu   sync.Mutex
	text strings.Builder
	last map[sharing.EntryKind]int
	more chan struct{}
}

func (o *onlooker) Joined(sharing.Session)                     {}
func (o *onlooker) Reply(_ uint64, ok, done bool, text string) {}
func (o *onlooker) Link(string)                                {}
func (o *onlooker) Entry(e sharing.Entry, mine uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.WriteString(e.Text)
	if mine > 0 {
		o.last[e.Kind]++
	}
	poke(o.more)
}

func (o *onlooker) until(t *testing.T, what string, ok func(text string, mine map[sharing.EntryKind]int) bool) {
	t.Helper()
	end := time.After(time.Minute)
	for {
		o.mu.Lock()
		done := ok(o.text.String(), o.last)
		o.mu.Unlock()
		if done {
			return
		}
		select {
		case <-o.more:
		case <-end:
			t.Fatalf("others do not see %s", what)
		}
	}
}

// look joins a hub.
func look(t *testing.T, h *sharing.Hub) (*onlooker, *sharing.Client) {
	t.Helper()
	return lookAs(t, h, "ann", false)
}

func lookAs(t *testing.T, h *sharing.Hub, name string, readOnly bool) (*onlooker, *sharing.Client) {
	t.Helper()
	p := &shared{h: h}
	o := &onlooker{more: make(chan struct{}, 1), last: map[sharing.EntryKind]int{}}
	c, err := sharing.Join(context.Background(), sharing.ClientOptions{Name: name, ReadOnly: readOnly, Where: "here", Dial: p.dial}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); p.conns.Wait() })
	return o, c
}

func gapless(t *testing.T, where, text string, n int) {
	t.Helper()
	for i := range n {
		want := fmt.Sprintf("print %d ", i)
		at := strings.Index(text, want)
		if at < 0 {
			t.Fatalf("%s lacks %q", where, want)
		}
		text = text[at:]
	}
}

// TestStalledConsole: the console of a shared session takes nothing. Others see
// everything at once, their commands run, the log has all of it; the console
// tells what it lacks when it wakes, and shows its prompt.
func TestStalledConsole(t *testing.T) {
	const prints = 400
	log := filepath.Join(t.TempDir(), "log")
	r := newRig(nil)
	in, keys := io.Pipe()
	out := newTap(false)
	r.opt.In, r.opt.Out, r.opt.backlog = in, out, 8<<10
	hub := sharing.NewHub(sharing.Options{})
	r.opt.Session.Share = hub
	if err := r.opt.Session.OpenLog(log, false); err != nil {
		t.Fatal(err)
	}
	code := make(chan int, 1)
	go func() { code <- Run(context.Background(), r.opt) }()
	r.met()
	o, c := look(t, hub)
	o.until(t, "the stop", func(s string, _ map[sharing.EntryKind]int) bool { return strings.Contains(s, "int     3") })
	out.turn(true)
	for i := range prints {
		r.f.Send(target.Event{Kind: target.EventPrint, Text: fmt.Sprintf("print %d %s\n", i, strings.Repeat("x", 60))})
	}
	o.until(t, "what is printed", func(s string, _ map[sharing.EntryKind]int) bool {
		return strings.Contains(s, fmt.Sprintf("print %d ", prints-1))
	})
	if _, err := c.Send(sharing.OpCommand, ".echo typed by ann"); err != nil {
		t.Fatal(err)
	}
	o.until(t, "the end of a command", func(s string, mine map[sharing.EntryKind]int) bool {
		return strings.Contains(s, "typed by ann\n") && mine[sharing.EntryResult] == 1
	})
	if strings.Contains(out.text(), "typed by ann") {
		t.Error("the console was not stalled")
	}
	out.turn(false)
	for end := time.Now().Add(time.Minute); !strings.Contains(out.text(), " left out here") || !strings.HasSuffix(out.text(), "\n0: kd> "); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the console shows\n%q", out.text())
		}
	}
	io.WriteString(keys, ".echo awake\nq\n")
	if c := <-code; c != ExitOK {
		t.Errorf("exit %d", c)
	}
	text := out.text()
	if n := strings.Count(text, "left out here"); n != 1 || !strings.Contains(text, "\n[") || !strings.Contains(text, "0: kd> awake\n") {
		t.Errorf("the console shows\n%s", text)
	}
	if len(text) > 20<<10 {
		t.Errorf("%d bytes waited for the console", len(text))
	}
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	gapless(t, "the log", string(b), prints)
	o.mu.Lock()
	gapless(t, "what others see", o.text.String(), prints)
	o.mu.Unlock()
}

// TestSlowAlone: without anybody else nothing is left out, however slow the output
// is; and the end of the session does not wait for it.
func TestSlowAlone(t *testing.T) {
	const prints = 400
	r := newRig(nil)
	in, keys := io.Pipe()
	out := newTap(true)
	r.opt.In, r.opt.Out = in, out
	r.opt.Session = command.NewSession(r.opt.Engine, io.Discard, command.Options{Quiet: true, Share: sharing.NewHub(sharing.Options{})})
	code := make(chan int, 1)
	go func() { code <- Run(context.Background(), r.opt) }()
	r.met()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for i := range prints {
			r.f.Send(target.Event{Kind: target.EventPrint, Text: fmt.Sprintf("print %d %s\n", i, strings.Repeat("x", 600))})
		}
	}()
	out.stuck()
	out.turn(false)
	<-sent
	for end := time.Now().Add(time.Minute); !strings.Contains(out.text(), fmt.Sprintf("print %d ", prints-1)); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it does not come")
		}
	}
	io.WriteString(keys, "q\n")
	if c := <-code; c != ExitOK {
		t.Errorf("exit %d", c)
	}
	gapless(t, "the output", out.text(), prints)
}

// TestEndsStalled: an output that takes nothing does not keep the session from
// ending: the target is let go, and the wait for the output has a bound.
func TestEndsStalled(t *testing.T) {
	r := newRig(nil)
	out := newTap(true)
	r.opt.In, r.opt.Out = never(), out
	ctx, cancel := context.WithCancel(context.Background())
	code := make(chan int, 1)
	go func() { code <- Run(ctx, r.opt) }()
	r.met()
	out.stuck()
	cancel()
	select {
	case <-code:
	case <-time.After(time.Minute):
		t.Fatal("it does not end")
	}
	if len(r.f.Left) != 1 || r.f.Left[0] != target.LeaveRunning {
		t.Errorf("left %v", r.f.Left)
	}
	out.turn(false)
}
