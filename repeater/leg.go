package repeater

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"
)

// headSize bounds what is held of a client that has no server yet. What a TLS
// client says first fits in.
const headSize = 4 << 10

// leg is one end of a connection. While it waits for the other one it may be
// watched: what it sends is held, and its end is noticed.
type leg struct {
	net.Conn
	spoke   chan struct{} // closed at its first byte while watched
	gone    chan struct{} // closed when it ended while watched
	watched chan struct{} // closed when the watch is over; nil: not watched
	head    []byte        // came while it was watched; of the watch until that is over
}

func newLeg(c net.Conn) *leg {
	return &leg{Conn: c, spoke: make(chan struct{}), gone: make(chan struct{})}
}

// name is the other side's address, or what stands for it.
func (l *leg) name() string { return l.RemoteAddr().String() }

// watch reads until claim or drop.
func (l *leg) watch() {
	l.watched = make(chan struct{})
	go func() {
		defer close(l.watched)
		buf := make([]byte, headSize)
		for len(l.head) < headSize {
			n, err := l.Read(buf[len(l.head):])
			if n > 0 && len(l.head) == 0 {
				close(l.spoke)
			}
			l.head = buf[:len(l.head)+n]
			if err != nil {
				// Who ends his direction before there is anybody to answer him is
				// taken for gone.
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					close(l.gone)
				}
				return
			}
		}
	}()
}

// awaitFirst waits for the first byte, within d if that is not 0.
func (l *leg) awaitFirst(ctx context.Context, d time.Duration) error {
	var late <-chan time.Time
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		late = t.C
	}
	select {
	case <-l.spoke:
		return nil
	case <-l.gone:
		return errLeft
	case <-ctx.Done():
		return ctx.Err()
	case <-late:
		return fmt.Errorf("it has said nothing for %v", d)
	}
}

// claim ends the watch, if there is one; false: the leg is gone.
func (l *leg) claim() bool {
	if l.watched == nil {
		return true
	}
	l.SetReadDeadline(time.Unix(1, 0))
	<-l.watched
	select {
	case <-l.gone:
		return false
	default:
	}
	return l.SetReadDeadline(time.Time{}) == nil
}

// drop closes the leg and waits for its watch.
func (l *leg) drop() {
	l.Close()
	if l.watched != nil {
		<-l.watched
	}
}
