package kdrpc

import (
	"context"
	"fmt"
	"sort"
	"sync"

	"openkd/target"
)

// Bounds of an event log, in bytes unless said.
const (
	logPrints  = 1 << 20  // of prints that are kept for a client
	logEvents  = 4 << 20  // of everything else, before the target has to wait
	logEntries = 8192     // entries, before the target has to wait
	logAhead   = 2 << 20  // sent but not read by the client
	mergeTo    = 32 << 10 // prints are merged up to this size
	eventSize  = 128      // what an event costs beyond its text and data
)

// EventLog numbers the events of a session and keeps those that its client has
// not read yet, so that a client that lost its connection misses nothing.
//
// Prints that wait are merged; beyond 1 MiB the oldest are dropped and a
// notice stands in their place. Other events are never dropped: the writer has
// to wait (WaitRoom).
//
// Concurrency: any method from any goroutine; Next by one at a time.
type EventLog struct {
	mu      sync.Mutex
	entries []logEntry // ascending seq
	seq     uint64     // last number given
	sent    uint64     // highest number that Next has handed out
	acked   uint64
	total   uint64 // bytes ever appended
	base    uint64 // of them, acknowledged
	prints  int    // bytes of prints kept
	closed  bool
	change  chan struct{} // closed and made anew at every change
}

type logEntry struct {
	seq     uint64
	ev      target.Event
	end     uint64 // total after this entry
	dropped int    // bytes of prints that this notice stands for
}

// NewEventLog returns an empty log.
func NewEventLog() *EventLog { return &EventLog{change: make(chan struct{})} }

func sizeOf(e *target.Event) int {
	n := eventSize + len(e.Text) + len(e.DataBlock)
	if e.Stop != nil {
		n += 256 + len(e.Stop.Bundle.Context) + len(e.Stop.Bundle.Special) + len(e.Stop.Command)
		for _, m := range e.Stop.Bundle.Memory {
			n += 16 + len(m.Data)
		}
	}
	return n
}

func (l *EventLog) changedLocked() {
	close(l.change)
	l.change = make(chan struct{})
}

// Append adds an event. It never waits. After Close it does nothing.
func (l *EventLog) Append(e target.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return
	}
	l.appendLocked(e)
	l.changedLocked()
}

func (l *EventLog) appendLocked(e target.Event) {
	n := len(l.entries)
	if e.Kind == target.EventPrint {
		l.prints += len(e.Text)
		if n > 0 {
			last := &l.entries[n-1]
			if last.ev.Kind == target.EventPrint && last.seq > l.sent && len(last.ev.Text)+len(e.Text) <= mergeTo {
				last.ev.Text += e.Text
				l.total += uint64(len(e.Text))
				last.end = l.total
				l.trimLocked()
				return
			}
		}
	}
	l.seq++
	l.total += uint64(sizeOf(&e))
	l.entries = append(l.entries, logEntry{seq: l.seq, ev: e, end: l.total})
	l.trimLocked()
}

// trimLocked drops the oldest prints over the bound. The first of a stretch
// becomes the notice, so that a reader learns where something is missing.
func (l *EventLog) trimLocked() {
	for i := 0; l.prints > logPrints && i < len(l.entries); {
		e := &l.entries[i]
		if e.ev.Kind != target.EventPrint {
			i++
			continue
		}
		n := len(e.ev.Text)
		l.prints -= n
		if i > 0 && l.entries[i-1].dropped > 0 {
			p := &l.entries[i-1]
			p.dropped += n
			p.ev.Text = droppedText(p.dropped)
			p.seq, p.end = e.seq, e.end
			l.entries = append(l.entries[:i], l.entries[i+1:]...)
			continue
		}
		e.dropped = n
		e.ev = target.Event{Kind: target.EventNotice, Time: e.ev.Time, Text: droppedText(n)}
		i++
	}
}

func droppedText(n int) string {
	return fmt.Sprintf("%d bytes of the target's output were dropped here: nobody read them for too long", n)
}

// WaitRoom waits until the log has room for another event of the target.
func (l *EventLog) WaitRoom(ctx context.Context) error {
	for {
		l.mu.Lock()
		if l.closed || len(l.entries) < logEntries && l.total-l.base-uint64(l.prints) < logEvents {
			l.mu.Unlock()
			return nil
		}
		change := l.change
		l.mu.Unlock()
		select {
		case <-change:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Next waits for the first event after a sequence number. It holds back when
// the client has much in hand that it has not read. Errors: target.ErrClosed
// after the last event, the context's.
func (l *EventLog) Next(ctx context.Context, after uint64) (uint64, target.Event, error) {
	for {
		l.mu.Lock()
		i := sort.Search(len(l.entries), func(i int) bool { return l.entries[i].seq > after })
		if i < len(l.entries) {
			ahead := uint64(0)
			if i > 0 {
				ahead = l.entries[i-1].end - l.base
			}
			if ahead < logAhead {
				e := l.entries[i]
				l.sent = max(l.sent, e.seq)
				l.mu.Unlock()
				return e.seq, e.ev, nil
			}
		} else if l.closed {
			l.mu.Unlock()
			return 0, target.Event{}, target.ErrClosed
		}
		change := l.change
		l.mu.Unlock()
		select {
		case <-change:
		case <-ctx.Done():
			return 0, target.Event{}, ctx.Err()
		}
	}
}

// Ack says that the client has read everything up to a sequence number.
func (l *EventLog) Ack(seq uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seq = min(seq, l.sent)
	if seq <= l.acked {
		return
	}
	l.acked = seq
	i := sort.Search(len(l.entries), func(i int) bool { return l.entries[i].seq > seq })
	for _, e := range l.entries[:i] {
		l.base = e.end
		if e.ev.Kind == target.EventPrint {
			l.prints -= len(e.ev.Text)
		}
	}
	l.entries = append(l.entries[:0:0], l.entries[i:]...)
	l.changedLocked()
}

// Restart forgets everything and begins with other events, for a client that
// has seen nothing. It returns the number after which they come.
func (l *EventLog) Restart(evs ...target.Event) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	after := l.seq
	l.entries, l.prints, l.base, l.acked, l.sent = nil, 0, l.total, l.seq, l.seq
	for _, e := range evs {
		l.appendLocked(e)
	}
	l.changedLocked()
	return after
}

// Close lets readers have what is there, and target.ErrClosed after it.
func (l *EventLog) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.closed {
		l.closed = true
		l.changedLocked()
	}
}
