package captured

import (
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Everybody who waits is woken, and nothing that is written gets lost.
func TestText(t *testing.T) {
	var x Text
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if s, ok := x.Wait(func(s string) bool { return strings.Count(s, "a") == 200 && strings.HasSuffix(s, "a") }); !ok {
				t.Errorf("%d bytes came", len(s))
			}
		})
	}
	for range 2 {
		wg.Go(func() {
			for range 100 {
				x.Write([]byte("a"))
			}
		})
	}
	wg.Wait()
	x.Until(t, "aa")
	x.Times(t, "a", 200)
	if n := len(x.Take()); n != 200 || x.String() != "" {
		t.Errorf("taken %d, left %q", n, x.String())
	}
}

// Who waits for one that has ended is not kept, and still gets what was written.
func TestWaitUnless(t *testing.T) {
	var x Text
	x.Write([]byte("last words"))
	over := make(chan struct{})
	close(over)
	if s, ok := x.WaitUnless(over, func(s string) bool { return strings.HasSuffix(s, "\n") }); ok || s != "last words" {
		t.Errorf("%q, %v", s, ok)
	}
	if s, ok := x.WaitUnless(over, func(s string) bool { return strings.HasPrefix(s, "last") }); !ok || s != "last words" {
		t.Errorf("%q, %v", s, ok)
	}
}
