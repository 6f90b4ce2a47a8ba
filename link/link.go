// Package link carries KD packets reliably between a host and a target.
//
// One interface, Host, stands between the debugger and the way the packets
// travel; link/kdcom implements it over any byte stream, and a network link
// can stand beside it. The package itself holds the contract and the figures
// that every link reports; it moves no bytes. It does not know what the
// payloads mean beyond their packet type, and it never answers the target
// except with acknowledgements, resends and resets.
package link

import (
	"context"
	"errors"
	"time"

	"openkd/kdproto"
)

// Packet is a data packet that arrived whole, checked and acknowledged.
type Packet struct {
	Type    kdproto.PacketType
	Payload []byte // owned by the receiver of the Packet

	// Fresh says that the target has started its numbering anew with this
	// packet (SYNC bit, or a RESET the host did not ask for): it rebooted, or
	// had declared the host absent. What was known about it may be stale.
	Fresh bool

	// Repeated says that the packet came as the answer to a RESET of ours: the
	// target sent its last packet again.
	Repeated bool
}

// Errors a caller decides on.
var (
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("link: closed")
	// ErrNoAnswer says that the target acknowledged nothing within the retry
	// budget. The link is still open; Resync may bring the target back.
	ErrNoAnswer = errors.New("link: the target does not answer")
	// ErrResynced says that the numbering started anew while a packet was
	// being sent. It is not known whether the target has seen it.
	ErrResynced = errors.New("link: resynchronised while sending")
)

// Host is the debugger's side of a link.
//
// Concurrency: Receive is called by one goroutine at a time, Send by one
// goroutine at a time (they may be different ones); BreakIn, Resync, Stats and
// Close may be called by any goroutine at any time and do not wait for a Send
// that waits for its acknowledgement. Bytes of two packets are never mixed and
// a break-in is never written inside a packet. An implementation keeps
// receiving and acknowledging by itself, whether or not anybody calls Receive,
// until a bounded queue is full; from then on it stops acknowledging.
type Host interface {
	// Send transmits one data packet and returns when it is acknowledged. It
	// retransmits by itself. Errors: ErrNoAnswer, ErrResynced, ErrClosed, the
	// stream's error, or the context's; after any of them the packet may or may
	// not have been seen.
	Send(ctx context.Context, t kdproto.PacketType, payload []byte) error

	// Receive returns the next data packet. Errors: ErrClosed, the stream's
	// error (io.EOF when the other end went away; it stays), or the context's.
	Receive(ctx context.Context) (Packet, error)

	// BreakIn asks a running target to stop.
	BreakIn() error

	// Resync drops what is buffered, starts the numbering anew and asks the
	// target for its last packet. A target that runs does not answer.
	Resync() error

	// Stats returns the figures so far.
	Stats() Stats

	// Close ends the link and unblocks every call. It does not tell the target
	// anything.
	Close() error
}

// Finder is a Host that has to be found by its target, and tells people how
// that goes.
type Finder interface {
	// Condition says how it stands. It may be called by any goroutine at any
	// time.
	Condition() Condition
}

// Condition is for people.
type Condition struct {
	Text string // what happened, worth telling once; "": nothing
	Hint string // what usually keeps it there; "": no idea
}

// Stats are the figures of a link since it was opened. Bytes and packets are
// counted where they cross the stream.
type Stats struct {
	BytesIn, BytesOut     uint64
	PacketsIn, PacketsOut uint64 // data packets accepted, and sent (first time)
	Resends               uint64 // data packets sent again
	ResendsAsked          uint64 // RESEND packets sent by us
	BadChecksums          uint64
	Truncated             uint64 // packets cut short or without trailer
	Garbage               uint64 // bytes outside packets
	Duplicates            uint64
	Resets                uint64 // RESET packets received
	Syncs                 uint64 // packets with SYNC received
	BreakIns              uint64
	// Of links of datagrams: all that came, refused ones too, and all that were
	// sent.
	DatagramsIn, DatagramsOut uint64

	BadTags   uint64        // datagrams that the key does not open
	Replays   uint64        // authentic datagrams that came late or again
	Foreign   uint64        // datagrams of somebody else's
	Sessions  uint64        // handshakes that led to a session
	Peer      string        // address of the target, where the link has one
	LastByte  time.Time     // when a byte last arrived; zero: never
	RoundTrip time.Duration // smoothed time from a packet to its acknowledgement
}
