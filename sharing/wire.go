package sharing

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"

	"openkd/internal/strict"
)

// The range of protocol versions that this release speaks.
const (
	ProtocolMin = 1
	ProtocolMax = 1
)

// Magic words of the hello. The frames and the hello have the shape of package
// kdrpc, so that both recognise each other.
const (
	magic      = "openkd-share"
	magicKdrpc = "openkd-kdrpc"
)

// kind is the kind of a frame.
type kind uint8

const (
	kindHello  kind = 0x01
	kindRefuse kind = 0x02
	kindPing   kind = 0x03
	kindPong   kind = 0x04

	kindJoin    kind = 0x10 // client: who it is, where it was
	kindRequest kind = 0x11 // client: something to do, with a number
	kindBye     kind = 0x12 // client: it leaves for good
	kindAsk     kind = 0x13 // client: what can stand at a place of a line?

	kindJoined  kind = 0x30
	kindEntries kind = 0x31
	kindReply   kind = 0x32 // to one request
	kindEnd     kind = 0x33 // the session or this client's part in it has ended
	kindAnswer  kind = 0x34 // to an ask
)

// Limits.
const (
	headerSize = 9
	maxFrame   = 256 << 10 // bytes of a payload
	// MaxLine is the longest line that a client may send, in bytes.
	MaxLine = 64 << 10
	// maxEntry bounds the text of one entry; longer text is cut into several.
	maxEntry = 32 << 10
	// firstBatch and batchBytes are what goes into one frame of entries at least,
	// if there is as much; an entry more may follow. A frame that breaks off is
	// sent anew, so that a connection begins with small ones.
	firstBatch = 2 << 10
	batchBytes = 64 << 10
	maxName    = 64 // bytes of a name
	// maxAsk is the longest line that is completed, and maxAnswer bounds the texts
	// of an answer, in bytes.
	maxAsk    = 4 << 10
	maxAnswer = 32 << 10
	maxItems  = 1 << 16
)

type hello struct {
	Magic   string `cbor:"1,keyasint"`
	Release string `cbor:"2,keyasint"` // for people
	Min     uint32 `cbor:"3,keyasint"`
	Max     uint32 `cbor:"4,keyasint"`
	// Capabilities are what the server can do beyond its version.
	Capabilities []string `cbor:"5,keyasint,omitempty"`
	Program      string   `cbor:"6,keyasint,omitempty"` // what is shared: "kd", or the command of remote
}

// canComplete is the capability of servers that answer asks.
const canComplete = "complete"

// Refusal is why a hub does not let somebody in.
type Refusal struct {
	Code    RefusalCode `cbor:"1,keyasint"`
	Text    string      `cbor:"2,keyasint,omitempty"`
	Release string      `cbor:"7,keyasint,omitempty"`
	Min     uint32      `cbor:"8,keyasint,omitempty"`
	Max     uint32      `cbor:"9,keyasint,omitempty"`
}

// RefusalCode is the kind of a Refusal, as in package kdrpc where both have it.
type RefusalCode uint32

// Codes.
const (
	RefusedOther   RefusalCode = 0
	RefusedVersion RefusalCode = 1
	RefusedFull    RefusalCode = 6
)

func (r *Refusal) Error() string {
	switch r.Code {
	case RefusedVersion:
		return fmt.Sprintf("the session is shared by %s, which speaks versions %d to %d of the protocol, and this program %d to %d: use the same release on both sides",
			clean(r.Release, maxName), r.Min, r.Max, ProtocolMin, ProtocolMax)
	case RefusedFull:
		return "the session has as many clients as it takes"
	}
	return clean(r.Text, 512)
}

type join struct {
	Name     string `cbor:"1,keyasint"`           // machine\user
	Session  []byte `cbor:"2,keyasint,omitempty"` // coming back to this one
	Token    []byte `cbor:"3,keyasint,omitempty"` // as this client
	After    uint64 `cbor:"4,keyasint,omitempty"` // the last entry that came
	ReadOnly bool   `cbor:"5,keyasint,omitempty"` // does not want to type
	Lines    int    `cbor:"6,keyasint,omitempty"` // of history; 0: what there is; -1: none
}

type joined struct {
	Session  []byte `cbor:"1,keyasint"`
	Token    []byte `cbor:"2,keyasint"`
	ID       uint32 `cbor:"3,keyasint"`
	ReadOnly bool   `cbor:"4,keyasint,omitempty"`
	After    uint64 `cbor:"5,keyasint,omitempty"`  // entries follow behind this one
	Missed   uint64 `cbor:"6,keyasint,omitempty"`  // entries that are not kept any more
	Taken    uint64 `cbor:"7,keyasint,omitempty"`  // the last request that was taken
	Title    string `cbor:"8,keyasint,omitempty"`  // of the session, for people
	Fresh    bool   `cbor:"9,keyasint,omitempty"`  // the token was not known: a new participant
	Now      uint64 `cbor:"10,keyasint"`           // the last entry there is; up to it is history
	State    string `cbor:"11,keyasint,omitempty"` // as of Now
	Prompt   string `cbor:"12,keyasint,omitempty"`
	PromptOf uint32 `cbor:"13,keyasint,omitempty"`
	Stop     []byte `cbor:"14,keyasint,omitempty"` // the fields of the last halted event
	Secure   bool   `cbor:"15,keyasint,omitempty"` // Secure Mode
	Lines    uint64 `cbor:"16,keyasint,omitempty"` // lines of the session up to After
}

// Op is what a request asks for.
type Op uint8

// Operations.
const (
	OpCommand   Op = 1 // run Text when it is its turn
	OpBreakIn   Op = 2 // stop the target, at once
	OpInterrupt Op = 3 // CTRL+C: break in, or cancel the command
	OpKey       Op = 4 // another control key of the debugger, in Text
	OpAnswer    Op = 5 // what the target asks
)

type request struct {
	ID   uint64 `cbor:"1,keyasint"`
	Op   Op     `cbor:"2,keyasint"`
	Text string `cbor:"3,keyasint,omitempty"`
}

type reply struct {
	ID   uint64 `cbor:"1,keyasint"`
	Text string `cbor:"2,keyasint,omitempty"` // why it was refused, or what there is to say
	OK   bool   `cbor:"3,keyasint,omitempty"`
	Done bool   `cbor:"4,keyasint,omitempty"` // nothing more comes of it: no result
}

// ask is what a client wants to know of a line that is being typed. It is no
// request: it has no turn, is not sent again, and an answer that is late is none.
type ask struct {
	ID     uint64 `cbor:"1,keyasint"`
	Line   string `cbor:"2,keyasint"`
	Cursor int    `cbor:"3,keyasint"` // bytes
}

type answer struct {
	ID uint64 `cbor:"1,keyasint"`
	Completion
}

// Completion is what can stand at a place of a line; the fields are those of
// command.Completion.
type Completion struct {
	From       int         `cbor:"2,keyasint,omitempty"` // the part of the line that is completed, bytes
	To         int         `cbor:"3,keyasint,omitempty"`
	Insert     string      `cbor:"4,keyasint,omitempty"` // in its place
	Candidates []Candidate `cbor:"5,keyasint,omitempty"`
	More       int         `cbor:"6,keyasint,omitempty"` // that are not listed
	Incomplete bool        `cbor:"7,keyasint,omitempty"`
	Note       string      `cbor:"8,keyasint,omitempty"`
}

// Candidate is one of the texts that can stand there.
type Candidate struct {
	Text string `cbor:"1,keyasint"`
	Show int    `cbor:"2,keyasint,omitempty"` // where the part begins that a list shows, bytes
	Kind string `cbor:"3,keyasint,omitempty"` // a word of console/JSON.md
}

type end struct {
	Text string `cbor:"1,keyasint"`
	Code int    `cbor:"2,keyasint,omitempty"` // 0: the session; 1: only this client
}

// EntryKind is the kind of an Entry.
type EntryKind uint8

// Kinds of entries.
const (
	EntryText    EntryKind = 1 // text of a command or of the debugger
	EntryCommand EntryKind = 2 // a command begins
	EntryResult  EntryKind = 3 // it has ended
	EntryEvent   EntryKind = 4 // something happened
	EntryPrompt  EntryKind = 5 // a line is waited for; without Prompt: not any more
	EntryNotice  EntryKind = 6 // of the session itself: who came, left, says what
)

// Entry is one step of a shared session. Its text may be any bytes.
type Entry struct {
	Seq  uint64    `cbor:"1,keyasint"`
	Kind EntryKind `cbor:"2,keyasint"`
	Time int64     `cbor:"3,keyasint,omitempty"` // nanoseconds since 1970, UTC
	From uint32    `cbor:"4,keyasint,omitempty"` // participant; 0: the server's own console
	Who  string    `cbor:"5,keyasint,omitempty"` // the participant's name
	ID   uint64    `cbor:"6,keyasint,omitempty"` // command and result: the request's number

	// Text is what people see: text, event, notice. Of a command it is the line.
	Text   string `cbor:"7,keyasint,omitempty"`
	Prompt string `cbor:"8,keyasint,omitempty"`  // prompt; command: the one it was typed at
	Name   string `cbor:"9,keyasint,omitempty"`  // event: its name; notice: its kind; prompt, result: the state
	Data   []byte `cbor:"10,keyasint,omitempty"` // event: its fields, a JSON object; result: the stop

	OK      bool   `cbor:"11,keyasint,omitempty"` // result
	Failure string `cbor:"12,keyasint,omitempty"` // result: kind of error
	Message string `cbor:"13,keyasint,omitempty"` // result: the error
}

// codec is how messages are written.
var codec = strict.New(4)

func encode(v any) []byte { return codec.Encode(v) }

// ProtocolError says that the other side broke the protocol.
type ProtocolError struct{ What string }

func (e *ProtocolError) Error() string { return "the other side broke the protocol: " + e.What }

func protocolErrorf(format string, a ...any) error {
	return &ProtocolError{fmt.Sprintf(format, a...)}
}

func decode(b []byte, v any) error {
	if err := codec.Decode(b, v); err != nil {
		return protocolErrorf("%T: %v", v, err)
	}
	return nil
}

// appendFrame appends one frame:
//
//	@0 u32  length of what follows, 5 to 262149, little-endian
//	@4 u32  0
//	@8 u8   kind
//	@9      payload
func appendFrame(b []byte, k kind, payload []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)+headerSize-4))
	b = append(b, 0, 0, 0, 0, byte(k))
	return append(b, payload...)
}

// errTorn: the connection is gone, and with it the frame it was in.
var errTorn = errors.New("it ended in the middle of something")

// readFrame reads one frame. The payload is valid until the next call with the
// same buffer. io.EOF: the stream ended between two frames.
func readFrame(r *bufio.Reader, buf *[]byte) (kind, []byte, error) {
	var h [headerSize]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errTorn
		}
		return 0, nil, err
	}
	n := binary.LittleEndian.Uint32(h[:])
	if n < headerSize-4 || n > maxFrame+headerSize-4 {
		return 0, nil, protocolErrorf("a frame of %d bytes; 5 to %d are allowed", n, maxFrame+headerSize-4)
	}
	n -= headerSize - 4
	if uint32(cap(*buf)) < n || cap(*buf) > 2*batchBytes && n < batchBytes {
		*buf = make([]byte, max(n, 512))
	}
	p := (*buf)[:n]
	if _, err := io.ReadFull(r, p); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errTorn
		}
		return 0, nil, err
	}
	return kind(h[8]), p, nil
}

// Timeouts are the times of a connection. Zero fields take the defaults; tests
// shorten them.
type Timeouts struct {
	Hello time.Duration // for the other side's hello and what follows it: 10 s
	Ping  time.Duration // silence before a ping: 5 s
	Dead  time.Duration // silence before the connection is given up: 15 s
	Write time.Duration // for 8 KiB to be taken: 20 s
}

func (t Timeouts) withDefaults() Timeouts {
	for _, d := range []struct {
		d   *time.Duration
		def time.Duration
	}{{&t.Hello, 10 * time.Second}, {&t.Ping, 5 * time.Second}, {&t.Dead, 15 * time.Second}, {&t.Write, 20 * time.Second}} {
		if *d.d <= 0 {
			*d.d = d.def
		}
	}
	return t
}

// wire writes frames to a connection and keeps it alive.
//
// Concurrency: send from any goroutine; frames are written in the order of the
// calls. One goroutine reads.
type wire struct {
	conn  net.Conn
	times Timeouts
	r     *bufio.Reader
	buf   []byte
	heard atomic.Int64 // when a frame last began, UnixNano

	mu  sync.Mutex
	out []byte
}

func newWire(conn net.Conn, t Timeouts) *wire {
	w := &wire{conn: conn, times: t}
	w.r = bufio.NewReaderSize(lively{w}, 4<<10)
	w.heard.Store(time.Now().UnixNano())
	return w
}

// lively gives a silent connection up. On a slow line a frame takes its time,
// so that each read counts.
type lively struct{ w *wire }

func (l lively) Read(b []byte) (int, error) {
	l.w.conn.SetReadDeadline(time.Now().Add(l.w.times.Dead))
	n, err := l.w.conn.Read(b)
	if n > 0 {
		l.w.heard.Store(time.Now().UnixNano())
	}
	return n, err
}

// piece is what is written within Timeouts.Write.
const piece = 8 << 10

// send writes a frame; it waits until the system has taken it, at most
// Timeouts.Write for each piece.
func (w *wire) send(k kind, payload []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out = appendFrame(w.out[:0], k, payload)
	var err error
	for b := w.out; len(b) > 0 && err == nil; b = b[min(len(b), piece):] {
		w.conn.SetWriteDeadline(time.Now().Add(w.times.Write))
		_, err = w.conn.Write(b[:min(len(b), piece)])
	}
	if cap(w.out) > 2*batchBytes {
		w.out = nil
	}
	return err
}

// next reads a frame. A silent connection is given up after Timeouts.Dead: the
// other side pings when it has nothing to say.
func (w *wire) next() (kind, []byte, error) {
	for {
		k, p, err := readFrame(w.r, &w.buf)
		if err != nil {
			return 0, nil, err
		}
		switch k {
		case kindPing, kindPong: // an answer is not needed: each side pings
			continue
		}
		return k, p, nil
	}
}

// clean makes other people's words fit for one line of at most n bytes.
func clean(s string, n int) string {
	have := 0
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			r = '?'
		}
		if have += utf8.RuneLen(r); have > n {
			return -1
		}
		return r
	}, s)
}
