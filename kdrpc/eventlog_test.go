package kdrpc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"openkd/target"
)

func printEvent(s string) target.Event { return target.Event{Kind: target.EventPrint, Text: s} }

func TestEventLogMergesPrints(t *testing.T) {
	l := NewEventLog()
	l.Append(printEvent("a"))
	l.Append(printEvent("b"))
	seq, e, err := l.Next(t.Context(), 0)
	if err != nil || e.Text != "ab" || seq != 1 {
		t.Fatalf("%d %q %v", seq, e.Text, err)
	}
	l.Append(printEvent("c")) // what was handed out does not change any more
	if seq, e, _ := l.Next(t.Context(), 1); e.Text != "c" || seq != 2 {
		t.Errorf("%d %q", seq, e.Text)
	}
	if _, e, _ := l.Next(t.Context(), 0); e.Text != "ab" {
		t.Errorf("again from the start: %q", e.Text)
	}
	l.Ack(1)
	if seq, _, _ := l.Next(t.Context(), 0); seq != 2 {
		t.Errorf("what was acknowledged comes again: %d", seq)
	}
	l.Close()
	l.Append(printEvent("late"))
	if _, _, err := l.Next(t.Context(), 2); !errors.Is(err, target.ErrClosed) {
		t.Error(err)
	}
}

func TestEventLogDropsOnlyPrints(t *testing.T) {
	l := NewEventLog()
	total := 0
	for i := range 100 {
		for range 40 {
			l.Append(printEvent(strings.Repeat("x", 1000)))
			total += 1000
		}
		l.Append(target.Event{Kind: target.EventModule, Module: &target.Module{Base: uint64(i)}})
	}
	l.Close()
	modules, printed, dropped := uint64(0), 0, 0
	var after uint64
	for {
		seq, e, err := l.Next(t.Context(), after)
		if err != nil {
			break
		}
		if seq <= after {
			t.Fatalf("%d after %d", seq, after)
		}
		after = seq
		switch e.Kind {
		case target.EventModule:
			if e.Module.Base != modules {
				t.Fatalf("module %d, want %d", e.Module.Base, modules)
			}
			modules++
		case target.EventPrint:
			printed += len(e.Text)
		case target.EventNotice:
			var n int
			if _, err := fmt.Sscanf(e.Text, "%d bytes", &n); err != nil {
				t.Errorf("%q", e.Text)
			}
			dropped += n
		}
		l.Ack(seq)
	}
	if modules != 100 || printed+dropped != total || printed > logPrints || dropped == 0 {
		t.Errorf("%d modules, %d printed and %d dropped of %d", modules, printed, dropped, total)
	}
}

func TestEventLogHoldsTheTargetBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewEventLog()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		n := 0
		for l.WaitRoom(ctx) == nil {
			l.Append(target.Event{Kind: target.EventModule, Module: &target.Module{}})
			if n++; n > 10*logEntries {
				t.Fatal("the log has no bound")
			}
		}
		room := make(chan error)
		go func() { room <- l.WaitRoom(t.Context()) }()
		synctest.Wait()
		var after uint64
		for range 10 {
			after, _, _ = l.Next(t.Context(), after)
		}
		l.Ack(after)
		if err := <-room; err != nil {
			t.Error(err)
		}
	})
}

// A client that takes events but reads none is not given more than a window.
func TestEventLogHoldsBackFromSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewEventLog()
		for range 20 {
			l.Append(target.Event{Kind: target.EventHalted, Stop: &target.Stop{Bundle: target.Bundle{Context: make([]byte, 512<<10)}}})
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var after uint64
		taken := 0
		for {
			seq, _, err := l.Next(ctx, after)
			if err != nil {
				break
			}
			after = seq
			taken += 512 << 10
		}
		if taken < logAhead || taken > logAhead+1<<20 {
			t.Errorf("%d bytes handed out", taken)
		}
		l.Ack(after)
		if _, _, err := l.Next(t.Context(), after); err != nil {
			t.Error(err)
		}
	})
}

// However often the connection breaks, a reader sees every state event once
// and in order, and every byte of prints once.
func TestEventLogProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := NewEventLog()
		var received, read uint64
		var queue []uint64
		want, got := "", ""
		n := 0
		take := func() {
			seq, e, err := l.Next(context.Background(), received)
			if err != nil {
				t.Fatal(err)
			}
			if seq <= received {
				t.Fatalf("%d after %d", seq, received)
			}
			received = seq
			queue = append(queue, seq)
			got += e.Text
		}
		t.Repeat(map[string]func(*rapid.T){
			"print": func(t *rapid.T) {
				s := fmt.Sprintf("p%d ", n)
				n++
				want += s
				l.Append(printEvent(s))
			},
			"state": func(t *rapid.T) {
				s := fmt.Sprintf("S%d ", n)
				n++
				want += s
				l.Append(target.Event{Kind: target.EventNotice, Text: s})
			},
			"take": func(t *rapid.T) {
				if got != want {
					take()
				}
			},
			"read": func(t *rapid.T) {
				if len(queue) > 0 {
					read, queue = queue[0], queue[1:]
					l.Ack(read)
				}
			},
		})
		for got != want {
			take()
		}
	})
}

func TestEventLogRestart(t *testing.T) {
	l := NewEventLog()
	for range 5 {
		l.Append(target.Event{Kind: target.EventNotice, Text: "old"})
	}
	l.Next(t.Context(), 0)
	after := l.Restart(target.Event{Kind: target.EventConnected}, target.Event{Kind: target.EventRunning})
	l.Append(target.Event{Kind: target.EventHalted})
	for _, want := range []target.EventKind{target.EventConnected, target.EventRunning, target.EventHalted} {
		seq, e, err := l.Next(t.Context(), after)
		if err != nil || e.Kind != want {
			t.Errorf("%v, %v, want %v", e.Kind, err, want)
		}
		after = seq
		l.Ack(seq)
	}
}
