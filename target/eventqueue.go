package target

import (
	"context"
	"fmt"
	"sync"
)

// maxPrints bounds the bytes of prints that wait for a reader.
const maxPrints = 4 << 20

// eventQueue hands events to one reader. Events are kept until they are read;
// prints that wait are merged, and over maxPrints the oldest go, with a note.
type eventQueue struct {
	mu     sync.Mutex
	q      []Event
	prints int // bytes of prints in q
	lost   int // bytes of prints given up
	closed bool
	more   chan struct{} // holds one token when there may be something to read
}

func newEventQueue() *eventQueue { return &eventQueue{more: make(chan struct{}, 1)} }

func (q *eventQueue) put(e Event) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return
	}
	if e.Kind == EventPrint {
		q.prints += len(e.Text)
		if n := len(q.q); n > 0 && q.q[n-1].Kind == EventPrint && len(q.q[n-1].Text) < 64<<10 {
			q.q[n-1].Text += e.Text
		} else {
			q.q = append(q.q, e)
		}
		for i := 0; q.prints > maxPrints && i < len(q.q)-1; {
			if q.q[i].Kind != EventPrint {
				i++
				continue
			}
			q.prints -= len(q.q[i].Text)
			q.lost += len(q.q[i].Text)
			q.q = append(q.q[:i], q.q[i+1:]...)
		}
	} else {
		q.q = append(q.q, e)
	}
	q.wake()
}

func (q *eventQueue) wake() {
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// close lets the reader have what is queued and ErrClosed after it.
func (q *eventQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.wake()
}

func (q *eventQueue) next(ctx context.Context) (Event, error) {
	for {
		q.mu.Lock()
		if q.lost > 0 {
			e := Event{Kind: EventNotice, Text: fmt.Sprintf("%d bytes of the target's output were lost: they came faster than they were read.", q.lost)}
			q.lost = 0
			q.mu.Unlock()
			return e, nil
		}
		if len(q.q) > 0 {
			e := q.q[0]
			q.q[0] = Event{}
			q.q = q.q[1:]
			if e.Kind == EventPrint {
				q.prints -= len(e.Text)
			}
			q.mu.Unlock()
			return e, nil
		}
		closed := q.closed
		q.mu.Unlock()
		if closed {
			q.wake()
			return Event{}, ErrClosed
		}
		select {
		case <-q.more:
		case <-ctx.Done():
			return Event{}, ctx.Err()
		}
	}
}
