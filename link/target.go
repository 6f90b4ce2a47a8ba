package link

import (
	"context"
	"errors"
	"fmt"
	"time"

	"openkd/kdproto"
)

// Result says how Target.Receive ended.
type Result int

// Results of Target.Receive.
const (
	Received Result = iota // a packet of the wanted type
	Timeout                // nothing within the time
	Resend                 // the host asks for the last packet again
)

func (r Result) String() string {
	switch r {
	case Received:
		return "received"
	case Timeout:
		return "timeout"
	case Resend:
		return "resend"
	}
	return fmt.Sprintf("Result(%d)", int(r))
}

// ErrNotPresent says that a droppable packet was given up: no debugger has
// answered.
var ErrNotPresent = errors.New("link: no debugger answers")

// Target is the kernel's side of a link, for simulated machines: it behaves as
// a kernel's own transport does, polling and single-minded. It receives only
// while it is asked to, one wanted packet type at a time, acknowledges and
// drops the rest, and repeats what is not acknowledged.
//
// Concurrency: Send, Receive, PollBreakIn and Restart are called by one
// goroutine at a time, the simulated processor. Present and Close may be called
// by any goroutine at any time.
type Target interface {
	// Send sends a data packet until it is acknowledged. A droppable one is
	// given up with ErrNotPresent after a number of silent waits; any other is
	// repeated until the context or the link ends.
	Send(ctx context.Context, t kdproto.PacketType, payload []byte, droppable bool) error

	// Receive waits for a packet of a wanted type, at most timeout for each
	// silence before it (0: the link's own). The payload is the caller's.
	Receive(ctx context.Context, want kdproto.PacketType, timeout time.Duration) ([]byte, Result, error)

	// PollBreakIn is what the clock interrupt of a running kernel does: it looks
	// without waiting whether a break-in has come, and throws away what it takes
	// instead.
	PollBreakIn() bool

	// Present reports whether the target believes in a debugger: it does at
	// first, stops when a droppable packet is given up, and does again when one
	// is heard. A kernel sends no prints, symbol reports and command strings
	// while there is none; that is left to the caller.
	Present() bool

	// Restart makes the link that of a machine that has just started.
	Restart()

	// Close ends the link. Calls that wait fail.
	Close() error
}
