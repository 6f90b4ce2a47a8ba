package comline

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Kinds of message. A message is its kind, the stream (an unsigned varint:
// the number that its opener counted, times two, plus one when the sender of
// the message is the opener) and what the kind says.
const (
	msgOpen    = 0x01 // channel (1 byte): opens the stream
	msgOpened  = 0x02 // the stream is taken
	msgRefused = 0x03 // code (1), length (1), text: it is not; the stream is over
	msgData    = 0x04 // length (varint), bytes
	msgFin     = 0x05 // nothing more will come from the sender
	msgStop    = 0x06 // the sender reads nothing more; the receiver sends msgFin
	msgReset   = 0x07 // code (1), length (1), text: the stream is over
	msgCredit  = 0x08 // count (varint): so many more bytes may be sent

	// Between the processes of one machine only. They name no stream: the
	// varint stands for what is said.
	msgAttach  = 0x10 // Version; baud (varint), window (varint), length (1), who
	msgWelcome = 0x11 // Version; baud (varint), window (varint), length (1), who
	msgDenied  = 0x12 // Version; code (1), length (1), text
	msgListen  = 0x13 // channel: asks for it
	msgTaken   = 0x14 // channel; code (1), length (1), text: the answer, code 0 is yes
	msgRelease = 0x15 // channel: gives it back
	msgStats   = 0x16 // how many; so many varints: the counters of Stats in their order
)

// Codes of a refusal or a reset.
const (
	codeNobody     = 1 // nobody listens on the channel
	codeFull       = 2 // too many streams
	codeGone       = 3 // who listened, or dialled, is gone
	codeBroken     = 4 // the sender broke the stream off
	codeFailed     = 5 // as the text says; between the processes of one machine
	codeBaud       = 6 // the port is open at another speed
	codeVersion    = 7 // another version
	codeChannelOwn = 8 // the channel has a listener
)

// Bounds of what a message may say.
const (
	maxText   = 255
	maxCounts = 32
	maxStream = 1<<32 - 1 // streams that one side may open in a session
)

// message is one message, whatever its kind; the fields that the kind has not
// are zero.
type message struct {
	kind    byte
	stream  uint64 // as on the wire
	channel int
	code    byte
	text    string // of msgAttach and msgWelcome: who
	data    []byte
	n       uint64
	window  uint64
	counts  []uint64
}

// hasCode reports whether the body is a code and a text.
func (m message) hasCode() bool {
	switch m.kind {
	case msgRefused, msgReset, msgDenied, msgTaken:
		return true
	}
	return false
}

func appendMessage(b []byte, m message) []byte {
	b = append(b, m.kind)
	b = binary.AppendUvarint(b, m.stream)
	switch m.kind {
	case msgOpen:
		b = append(b, byte(m.channel))
	case msgData:
		b = binary.AppendUvarint(b, uint64(len(m.data)))
		b = append(b, m.data...)
	case msgCredit:
		b = binary.AppendUvarint(b, m.n)
	case msgAttach, msgWelcome:
		b = binary.AppendUvarint(b, m.n)
		b = binary.AppendUvarint(b, m.window)
		b = appendText(b, m.text)
	case msgStats:
		for _, n := range m.counts {
			b = binary.AppendUvarint(b, n)
		}
	}
	if m.hasCode() {
		b = appendText(append(b, m.code), m.text)
	}
	return b
}

func appendText(b []byte, s string) []byte {
	for len(s) > maxText {
		_, n := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-n]
	}
	return append(append(b, byte(len(s))), s...)
}

var errMessage = errors.New("a message that is not complete")

// parseMessage reads the first message of b and returns what is behind it. Data
// points into b.
func parseMessage(b []byte) (m message, rest []byte, err error) {
	if len(b) == 0 {
		return m, nil, errMessage
	}
	m.kind, b = b[0], b[1:]
	num := func() (n uint64) {
		n, k := binary.Uvarint(b)
		if k <= 0 {
			err = errMessage
			return 0
		}
		b = b[k:]
		return n
	}
	take := func(n uint64) (p []byte) {
		if n > uint64(len(b)) {
			err = errMessage
			return nil
		}
		p, b = b[:n:n], b[n:]
		return p
	}
	one := func() byte {
		if p := take(1); err == nil {
			return p[0]
		}
		return 0
	}
	text := func() string { return clean(take(uint64(one()))) }

	m.stream = num()
	switch m.kind {
	case msgOpen:
		m.channel = int(one())
		if m.channel > MaxChannel {
			err = fmt.Errorf("channel %d", m.channel)
		}
	case msgOpened, msgFin, msgStop:
	case msgData:
		m.data = take(num())
	case msgCredit:
		m.n = num()
	case msgRefused, msgReset, msgDenied, msgTaken:
		m.code, m.text = one(), text()
	case msgAttach, msgWelcome:
		m.n, m.window = num(), num()
		m.text = text()
	case msgListen, msgRelease:
	case msgStats:
		if m.stream > maxCounts {
			return m, nil, errMessage
		}
		m.counts = make([]uint64, m.stream)
		for i := range m.counts {
			m.counts[i] = num()
		}
	default:
		return m, nil, fmt.Errorf("a message of the unknown kind %#x", m.kind)
	}
	if err == nil && m.kind < msgAttach && m.stream>>1 > maxStream {
		err = fmt.Errorf("stream %d", m.stream>>1)
	}
	if err != nil {
		return m, nil, err
	}
	return m, b, nil
}

// clean makes a text from outside fit for a terminal.
func clean(b []byte) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, string(b))
}
