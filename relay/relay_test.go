package relay

import (
	"context"
	"os"
	"runtime"
	"testing"
	"time"

	"go.uber.org/goleak"

	"openkd/internal/captured"
	"openkd/sharing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestInterrupt: CTRL+C reaches the program, from here and from a client, and
// what it writes last is seen.
func TestInterrupt(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the program of this test is Unix's")
	}
	out := new(captured.Text)
	keys := make(chan os.Signal, 1)
	hub := sharing.NewHub(sharing.Options{})
	code := make(chan int, 1)
	go func() {
		c, err := Serve(context.Background(), Options{
			Command: `n=0; trap 'n=$((n+1)); echo caught $n' INT; echo ready; while [ $n -lt 2 ]; do sleep 0.05; done; echo last words; exit 3`,
			Out:     out, Hub: hub, Interrupts: keys,
		})
		if err != nil {
			t.Error(err)
		}
		code <- c
	}()
	out.Until(t, "ready\n")
	keys <- os.Interrupt
	out.Until(t, "caught 1\n")
	keys <- os.Interrupt
	out.Until(t, "caught 2\n")
	if c := <-code; c != 3 {
		t.Errorf("the exit code is %d", c)
	}
	out.Until(t, "last words\n")
}

// TestKilled: a program that ignores everything is ended all the same.
func TestKilled(t *testing.T) {
	if runtime.GOOS == "windows" || testing.Short() {
		t.Skip("it waits for a stubborn program of Unix")
	}
	out := new(captured.Text)
	ctx, cancel := context.WithCancel(context.Background())
	code := make(chan int, 1)
	go func() {
		c, _ := Serve(ctx, Options{Command: `trap '' TERM INT HUP; echo ready; while :; do sleep 0.1; done`, Out: out, Hub: sharing.NewHub(sharing.Options{})})
		code <- c
	}()
	out.Until(t, "ready\n")
	cancel()
	select {
	case c := <-code:
		if c == 0 {
			t.Error("it ended well")
		}
	case <-time.After(30 * time.Second):
		t.Fatal("it lives on")
	}
}
