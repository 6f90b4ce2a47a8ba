package kdrpc

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/user"
	"time"

	"openkd/internal/strict"
	"openkd/kdproto"
	"openkd/status"
	"openkd/target"
)

// The range of protocol versions that this release speaks.
const (
	ProtocolMin = 1
	ProtocolMax = 1
)

// magic opens every hello, so that a stream that carries something else is
// noticed at once.
const magic = "openkd-kdrpc"

// magicShare opens the hello of a shared session (package sharing), whose frames
// and hello have the shape of these, so that each side can name the other.
const magicShare = "openkd-share"

// Hello is the first frame of each side.
type Hello struct {
	Magic        string   `cbor:"1,keyasint"`
	Release      string   `cbor:"2,keyasint"` // of the program, for people
	Min          uint32   `cbor:"3,keyasint"` // protocol versions spoken
	Max          uint32   `cbor:"4,keyasint"`
	Capabilities []string `cbor:"5,keyasint,omitempty"`
}

// Refusal says why a connection or an Open is not served.
type Refusal struct {
	Code   RefusalCode `cbor:"1,keyasint"`
	Text   string      `cbor:"2,keyasint,omitempty"`
	Holder string      `cbor:"3,keyasint,omitempty"` // RefusedHeld: who
	Since  time.Time   `cbor:"4,keyasint,omitempty"` // RefusedHeld: since when
	// RefusedHeld: the holder's connection is lost since then, and the lease
	// ends Grace seconds later.
	LostSince time.Time `cbor:"5,keyasint,omitempty"`
	Grace     uint32    `cbor:"6,keyasint,omitempty"`
	Release   string    `cbor:"7,keyasint,omitempty"` // RefusedVersion: the server's
	Min       uint32    `cbor:"8,keyasint,omitempty"`
	Max       uint32    `cbor:"9,keyasint,omitempty"`
}

// RefusalCode is the kind of a Refusal.
type RefusalCode uint32

// Codes.
const (
	RefusedOther   RefusalCode = iota // Text
	RefusedVersion                    // no common protocol version
	RefusedHeld                       // the lease of the link is held
	RefusedToken                      // no such session to resume
	RefusedLink                       // the link cannot be opened: Text
	RefusedEnding                     // the server is ending
	RefusedFull                       // as many clients as the server takes: Text; later there may be room
)

func (r *Refusal) Error() string {
	switch r.Code {
	case RefusedVersion:
		return fmt.Sprintf("%s: the server is release %q and speaks protocol %d to %d; this is release %q and speaks %d to %d",
			r.Text, r.Release, r.Min, r.Max, Release, ProtocolMin, ProtocolMax)
	case RefusedHeld:
		s := fmt.Sprintf("the link is held by %s since %s", r.Holder, r.Since.Local().Format(time.DateTime))
		if !r.LostSince.IsZero() {
			s += fmt.Sprintf(" (whose connection was lost at %s; the lease ends %d s after that)", r.LostSince.Local().Format(time.TimeOnly), r.Grace)
		}
		return s + "; kd -takeover takes it over"
	case RefusedToken:
		return "the server has no such session any more: it was restarted, or the grace time has passed"
	case RefusedEnding:
		return "the server is ending"
	}
	return r.Text
}

// Is makes a refused lease an ErrLease.
func (r *Refusal) Is(err error) bool { return r.Code == RefusedHeld && err == target.ErrLease }

// Open asks for a session.
type Open struct {
	Link     string        `cbor:"1,keyasint"` // as typed inside trans=@{}; the server fills in its defaults
	Owner    string        `cbor:"2,keyasint"` // for people: user@host
	TakeOver bool          `cbor:"3,keyasint,omitempty"`
	Config   target.Config `cbor:"4,keyasint"`
	Resume   []byte        `cbor:"5,keyasint,omitempty"` // token of a session to go on with
	LastSeen uint64        `cbor:"6,keyasint,omitempty"` // with Resume: last event that arrived
}

// Opened is the answer to Open.
type Opened struct {
	Token []byte `cbor:"1,keyasint"` // proves the owner when he comes back
	Epoch uint64 `cbor:"2,keyasint"` // of the lease
	Grace uint32 `cbor:"3,keyasint"` // seconds that the session waits for a lost client
	Line  string `cbor:"4,keyasint"` // the link in canonical spelling
	After uint64 `cbor:"5,keyasint"` // events with higher sequence numbers follow
}

// Result is the last frame of a request.
type Result struct {
	Code      Code           `cbor:"1,keyasint,omitempty"`
	Text      string         `cbor:"2,keyasint,omitempty"`
	Addresses []uint64       `cbor:"3,keyasint,omitempty"` // CodeInsert
	Status    *target.Status `cbor:"4,keyasint,omitempty"` // answer to KindStatus
	Refusal   *Refusal       `cbor:"5,keyasint,omitempty"` // CodeRefused, answer to Open
	Server    *status.Server `cbor:"6,keyasint,omitempty"` // answer to KindServer
}

// Code is an error on its way. 0 is success.
type Code uint32

// Codes.
const (
	CodeOK Code = iota
	CodeOther
	CodeRunning
	CodeHalted
	CodeLost
	CodeNotReady
	CodeClosed
	CodeLease
	CodeBadRequest
	CodeInsert
	CodeCanceled
	CodeDeadline
	CodeUnknown // a request kind that this side does not know
	CodeRefused // Refusal
)

// ErrDisconnected says that the connection to the server is lost. It is a
// target.ErrLost too.
var ErrDisconnected error = disconnected{}

type disconnected struct{}

func (disconnected) Error() string        { return "the connection to the server is lost" }
func (disconnected) Is(target error) bool { return target == targetErrLost }

var targetErrLost = target.ErrLost

var sentinels = map[Code]error{
	CodeRunning: target.ErrRunning, CodeHalted: target.ErrHalted, CodeLost: target.ErrLost,
	CodeNotReady: target.ErrNotReady, CodeClosed: target.ErrClosed, CodeLease: target.ErrLease,
	CodeBadRequest: target.ErrBadRequest, CodeCanceled: context.Canceled, CodeDeadline: context.DeadlineExceeded,
}

// RemoteError is an error of the far side: its text, and the sentinel that it
// was there, for errors.Is.
type RemoteError struct {
	Code Code
	Text string
}

func (e *RemoteError) Error() string { return e.Text }

func (e *RemoteError) Unwrap() error { return sentinels[e.Code] }

// resultOf puts an error on its way.
func resultOf(err error) Result {
	if err == nil {
		return Result{}
	}
	r := Result{Code: CodeOther, Text: limitText(err.Error())}
	var ie *target.InsertError
	var ref *Refusal
	switch {
	case errors.As(err, &ref):
		r.Code, r.Refusal = CodeRefused, ref
		return r
	case errors.As(err, &ie):
		r.Code, r.Addresses = CodeInsert, ie.Addresses
		return r
	}
	for c, s := range sentinels {
		if errors.Is(err, s) {
			r.Code = c
			break
		}
	}
	return r
}

func limitText(s string) string {
	const most = 16 << 10
	if len(s) > most {
		s = s[:most] + "..."
	}
	return s
}

// err is the error that r stands for.
func (r *Result) err() error {
	switch r.Code {
	case CodeOK:
		return nil
	case CodeInsert:
		if len(r.Addresses) > 0 {
			return &target.InsertError{Addresses: r.Addresses}
		}
	case CodeRefused:
		if r.Refusal != nil {
			return r.Refusal
		}
	}
	if s := sentinels[r.Code]; s != nil && r.Text == s.Error() {
		return s
	}
	text := r.Text
	if text == "" {
		text = fmt.Sprintf("error %d of the server", r.Code)
	}
	return &RemoteError{r.Code, text}
}

// Release is what this program calls itself in a hello.
const Release = "openkd 0.1"

// codec is how messages are written.
var codec = strict.New(12)

func encode(v any) []byte { return codec.Encode(v) }

// items counts the heads of a body, up to a bound. A body of a byte for each
// item unfolds to many times its size; this is looked at before it is decoded.
func items(b []byte, most int) int {
	n := 0
	for ; len(b) > 0 && n <= most; n++ {
		major, low := b[0]>>5, b[0]&31
		b = b[1:]
		arg := uint64(low)
		if low >= 24 {
			size := 1 << (low - 24)
			if low > 27 || size > len(b) {
				return n // no good; the decoder says what is wrong
			}
			arg = 0
			for _, c := range b[:size] {
				arg = arg<<8 | uint64(c)
			}
			b = b[size:]
		}
		if major == 2 || major == 3 {
			b = b[min(arg, uint64(len(b))):]
		}
	}
	return n
}

func decode(b []byte, v any) error {
	if items(b, maxItems) > maxItems {
		return protocolErrorf("%T: more than %d items", v, maxItems)
	}
	if err := codec.Decode(b, v); err != nil {
		return protocolErrorf("%T: %v", v, err)
	}
	return nil
}

// A part's payload:
//
//	@0 u8 flags     bit 0: the request is done
//	@1 u8           0
//	@2 u32 index    of the request in its batch
//	@6 u64 offset   of the data in the request's range
//	@14 u32 status, @18 u64 value: with bit 0 only
//	    data, to the end
func appendPart(b []byte, id uint32, p *target.Part, data []byte, done bool) []byte {
	n := partHeader + len(data)
	flags := byte(0)
	if done {
		n += doneHeader
		flags = flagDone
	}
	le := binary.LittleEndian
	b = appendHeader(b, id, KindPart, n)
	b = append(b, flags, 0)
	b = le.AppendUint32(b, uint32(p.Index))
	b = le.AppendUint64(b, p.Offset)
	if done {
		b = le.AppendUint32(b, uint32(p.Status))
		b = le.AppendUint64(b, p.Value)
	}
	return append(b, data...)
}

func decodePart(b []byte) (target.Part, error) {
	le := binary.LittleEndian
	if len(b) < partHeader || b[0]&flagDone != 0 && len(b) < partHeader+doneHeader {
		return target.Part{}, protocolErrorf("a part of %d bytes", len(b))
	}
	p := target.Part{Index: int(le.Uint32(b[2:])), Offset: le.Uint64(b[6:])}
	if p.Index >= target.MaxBatch {
		return target.Part{}, protocolErrorf("a part of request %d", p.Index)
	}
	p.Done = b[0]&flagDone != 0
	b = b[partHeader:]
	if p.Done {
		p.Status, p.Value = kdproto.Status(le.Uint32(b)), le.Uint64(b[4:])
		b = b[doneHeader:]
	}
	if len(b) > 0 {
		p.Data = b
	}
	return p, nil
}

func encodeEvent(seq uint64, e target.Event) []byte {
	b := binary.LittleEndian.AppendUint64(nil, seq)
	return append(b, encode(e)...)
}

func decodeEvent(b []byte) (uint64, target.Event, error) {
	var e target.Event
	if len(b) < 8 {
		return 0, e, protocolErrorf("an event of %d bytes", len(b))
	}
	err := decode(b[8:], &e)
	return binary.LittleEndian.Uint64(b), e, err
}

// DefaultOwner is user@host of this process.
func DefaultOwner() string {
	name := "somebody"
	if u, err := user.Current(); err == nil && u.Username != "" {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil || host == "" {
		host = "localhost"
	}
	return name + "@" + host
}
