// Package kdcom carries KD packets over any 8-bit clean byte stream: a serial
// port, a pipe, a socket. Host is the debugger's side, Target the kernel's.
//
// It frames, acknowledges, repeats and resynchronises. It does not open ports
// (package link/line does), does not know what payloads mean beyond the number
// that every payload begins with, and it never decides what to do about a
// target that is silent: it reports link.ErrNoAnswer and waits to be told.
//
// The framing has no escapes and its only check is a plain sum over the
// payload. The header is covered by nothing at all, so a receiver has to doubt
// it: see receiver.
//
// Facts come from the ReactOS kdcom and kd64 sources (read for facts), the
// VirtualKD notes on the behaviour of Microsoft's kdcom, public KD clients, and
// from recorded sessions with a ReactOS kernel. Where they contradict each
// other, the recordings win.
package kdcom

// Direction says which way bytes went, seen from the side that reports them.
type Direction bool

// Directions.
const (
	In  Direction = false
	Out Direction = true
)

func (d Direction) String() string {
	if d == Out {
		return ">"
	}
	return "<"
}
