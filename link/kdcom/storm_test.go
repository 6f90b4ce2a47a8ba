package kdcom

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"openkd/kdproto"
)

// TestBreakInDuringPrints: a target that prints without a pause looks for a
// break-in only right behind each print, and swallows a byte that comes while
// it waits for the acknowledgement. It can be broken into all the same.
func TestBreakInDuringPrints(t *testing.T) {
	a, b := net.Pipe()
	h := NewHost(a, HostOptions{})
	defer h.Close()
	target := NewTarget(b, TargetOptions{})
	defer target.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	broke := make(chan int, 1)
	go func() {
		for i := 0; ctx.Err() == nil; i++ {
			target.Send(ctx, kdproto.TypeDebugIO, kdproto.NewPrint(fmt.Appendf(nil, "%d\n", i)).Append(nil), true)
			if target.PollBreakIn() {
				broke <- i
				return
			}
		}
		broke <- -1
	}()
	prints := 0
	go func() {
		for {
			if _, err := h.Receive(ctx); err != nil {
				return
			}
			prints++
			if prints%100 == 0 { // as a debugger does that repeats its wish
				h.BreakIn()
			}
		}
	}()
	if at := <-broke; at < 0 {
		t.Error("the prints kept the break-in out")
	} else if at > 2000 {
		t.Errorf("the break-in was seen after %d prints", at)
	}
}
