package sharing

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// knowing is a program that completes.
type knowing struct {
	*program
	asked atomic.Int32
	begun chan string   // what is asked
	gate  chan struct{} // nil: it answers at once
	give  Completion
}

func (k *knowing) Complete(who Person, readOnly bool, line string, cursor int) Completion {
	k.asked.Add(1)
	if k.begun != nil {
		k.begun <- line
	}
	if k.gate != nil {
		<-k.gate
	}
	c := k.give
	c.Note = who.Name
	if readOnly {
		c.Note += ", looking"
	}
	return c
}

// knows is a session whose program completes, and a client of it.
func knows(t *testing.T, k *knowing, o ClientOptions) *Client {
	t.Helper()
	h := NewHub(Options{})
	k.program = &program{h: h}
	k.own.c = make(chan struct{}, 1)
	h.Attach(k)
	served := make(chan struct{}, 1)
	o.Where = "here"
	o.Dial = func(context.Context) (net.Conn, error) {
		a, b := net.Pipe()
		go func() { h.Serve(context.Background(), b, Via{}); poke(served) }()
		return a, nil
	}
	c, err := Join(context.Background(), o, still{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); <-served; h.Close("") })
	return c
}

// TestComplete: one exchange for one question, also for those who may only look;
// an answer that does not fit the line is none.
func TestComplete(t *testing.T) {
	k := &knowing{give: Completion{From: 2, To: 5, Insert: "@rip", Candidates: []Candidate{{Text: "@rip", Show: 1, Kind: "register"}}}}
	c := knows(t, k, ClientOptions{Name: "ann", ReadOnly: true})
	got, err := c.Complete(t.Context(), "r @ri", 5)
	if err != nil || got.Insert != "@rip" || len(got.Candidates) != 1 || got.Note != "ann, looking" {
		t.Errorf("%+v, %v", got, err)
	}
	if n := k.asked.Load(); n != 1 {
		t.Errorf("asked %d times", n)
	}
	if _, err := c.Complete(t.Context(), "r", 1); !errors.Is(err, ErrNoCompletion) {
		t.Errorf("an answer about more than the line: %v", err)
	}
	if _, err := c.Complete(t.Context(), strings.Repeat("x", maxAsk+1), 1); !errors.Is(err, ErrNoCompletion) {
		t.Errorf("a long line: %v", err)
	}
	c.Close()
	if _, err := c.Complete(t.Context(), "r @ri", 5); !errors.Is(err, ErrNoCompletion) {
		t.Errorf("after the end: %v", err)
	}
}

// TestCompleteSupersedes: a later question takes the place of an earlier one, here
// and at the server, which works on one at a time; who waits can give up; requests
// are served meanwhile.
func TestCompleteSupersedes(t *testing.T) {
	k := &knowing{begun: make(chan string, 10), gate: make(chan struct{})}
	c := knows(t, k, ClientOptions{Name: "ann"})
	first := make(chan error, 1)
	go func() { _, err := c.Complete(context.Background(), "first", 5); first <- err }()
	<-k.begun
	ctx, cancel := context.WithCancel(context.Background())
	second := make(chan error, 1)
	go func() { _, err := c.Complete(ctx, "second", 6); second <- err }()
	if err := <-first; !errors.Is(err, ErrNoCompletion) {
		t.Errorf("the first one: %v", err)
	}
	if _, err := c.Send(OpBreakIn, ""); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		k.mu.Lock()
		n := len(k.done)
		k.mu.Unlock()
		if n == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("a request waits for a completion")
		}
	}
	cancel()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Errorf("the second one: %v", err)
	}
	third := make(chan error, 1)
	go func() { _, err := c.Complete(context.Background(), "third", 5); third <- err }()
	close(k.gate)
	if err := <-third; err != nil {
		t.Errorf("the third one: %v", err)
	}
}

// TestCompleteWithout: an earlier release, or a program that completes nothing.
func TestCompleteWithout(t *testing.T) {
	c := &Client{v: still{}, wake: make(chan struct{}, 1), done: make(chan struct{})}
	c.entered(joined{Session: []byte{1}}, hello{})
	if _, err := c.Complete(t.Context(), "r", 1); !errors.Is(err, ErrNoCompletion) {
		t.Errorf("an earlier release: %v", err)
	}
	h := NewHub(Options{})
	defer h.Close("")
	h.Attach(&program{h: h})
	if r := h.complete(&participant{}, ask{ID: 1, Line: "r", Cursor: 1}); r.ID != 1 || len(r.Candidates) > 0 || r.Insert != "" {
		t.Errorf("a program that completes nothing: %+v", r)
	}
}

// TestCompletionBounds: an answer fits into a frame, and says what it leaves out.
func TestCompletionBounds(t *testing.T) {
	c := Completion{Insert: "x", More: 3}
	for range 500 {
		c.Candidates = append(c.Candidates, Candidate{Text: strings.Repeat("n", 500)})
	}
	got := c.bounded()
	if n := len(encode(answer{Completion: got})); n > 2*maxAnswer {
		t.Errorf("%d bytes", n)
	}
	if got.More != 503-len(got.Candidates) || len(got.Candidates) == 0 {
		t.Errorf("%d candidates, %d more", len(got.Candidates), got.More)
	}
	for _, bad := range []Completion{
		{From: -1}, {From: 2, To: 1}, {To: 4}, {Insert: "a\x1b[2J"}, {Insert: "\xff"}, {More: -1},
		{Candidates: []Candidate{{Text: "a", Show: 2}}}, {Candidates: []Candidate{{Text: "a", Show: -1}}},
	} {
		if bad.fits("abc") {
			t.Errorf("%+v fits", bad)
		}
	}
}
