// Package captured collects what programs write, for tests that wait for it. It is
// for tests only, and no terminal: control characters are bytes like others
// (console/lineedit/vttest is one).
package captured

import (
	"strings"
	"sync"
	"testing"
	"time"
)

// Patience bounds every wait for what has to come; nothing comes near it.
const Patience = time.Minute

// Text is what was written to it. The zero value is empty. Any number of
// goroutines may write and wait at the same time.
type Text struct {
	mu    sync.Mutex
	b     []byte
	grown chan struct{} // closed by the next Write; nil: nobody waits
}

func (x *Text) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.b = append(x.b, p...)
	if x.grown != nil {
		close(x.grown)
		x.grown = nil
	}
	return len(p), nil
}

func (x *Text) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return string(x.b)
}

// Take returns the text and forgets it.
func (x *Text) Take() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	s := string(x.b)
	x.b = nil
	return s
}

// Wait waits until the text is as it should be. It returns the text and whether
// it came to that before Patience was over.
func (x *Text) Wait(ok func(text string) bool) (string, bool) { return x.WaitUnless(nil, ok) }

// WaitUnless is Wait that gives up when over is closed, as by the end of who
// writes.
func (x *Text) WaitUnless(over <-chan struct{}, ok func(text string) bool) (string, bool) {
	end := time.NewTimer(Patience)
	defer end.Stop()
	for {
		x.mu.Lock()
		s := string(x.b)
		if x.grown == nil {
			x.grown = make(chan struct{})
		}
		grown := x.grown
		x.mu.Unlock()
		if ok(s) {
			return s, true
		}
		select {
		case <-grown:
		case <-over:
			return s, false
		case <-end.C:
			return s, false
		}
	}
}

// Until waits for a part of the text; the test ends if it does not come.
func (x *Text) Until(t testing.TB, part string) {
	t.Helper()
	x.Times(t, part, 1)
}

// Times waits until a part has come n times; the test ends if it does not.
func (x *Text) Times(t testing.TB, part string, n int) {
	t.Helper()
	if s, ok := x.Wait(func(s string) bool { return strings.Count(s, part) >= n }); !ok {
		t.Fatalf("%q was not shown (%d of %d times):\n%s", part, strings.Count(s, part), n, s)
	}
}
