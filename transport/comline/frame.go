package comline

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"sync"
)

// Version is the version of what is said on the line. 1 is the first.
const Version = 1

// Kinds of frame: the low four bits of the first byte.
const (
	frameHello = 1 // who is there; also "are you there?" and its answer
	frameBye   = 2 // the sender leaves the line
	frameAck   = 3 // what has arrived
	frameData  = 4 // what has arrived, and messages
)

// Flags of a hello.
const helloAnswer = 1 // the receiver is to answer with a hello

const (
	maxPayload = 1024 // bytes of messages in one data frame
	maxBitmap  = 15   // bytes of the bitmap of an acknowledgement
	dataHeader = 1 + 4 + 4
	crcSize    = 4

	maxFrame = dataHeader + maxBitmap + maxPayload + crcSize
	maxCoded = maxFrame + maxFrame/254 + 1

	// frameCost is what a data frame without a bitmap costs on the line beside
	// its messages: header, checksum, one byte of stuffing, two delimiters.
	frameCost = dataHeader + crcSize + 3
)

// castagnoli is made when a line is first used: it takes longer than most of what
// a program does at its start.
var castagnoli = sync.OnceValue(func() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) })

// tag is what the checksum of a frame of a session begins with: the frames of
// one session are rubbish to every other one.
type tag [16]byte

func newTag(sender, receiver uint64) *tag {
	var t tag
	binary.LittleEndian.PutUint64(t[:], sender)
	binary.LittleEndian.PutUint64(t[8:], receiver)
	return &t
}

// seal appends the checksum to a frame. A nil tag is that of a hello or bye.
func seal(frame []byte, t *tag) []byte {
	return binary.LittleEndian.AppendUint32(frame, checksum(frame, t))
}

func checksum(b []byte, t *tag) uint32 {
	var c uint32
	if t != nil {
		c = crc32.Update(0, castagnoli(), t[:])
	}
	return crc32.Update(c, castagnoli(), b)
}

// unseal returns the frame without its checksum, or false.
func unseal(frame []byte, t *tag) ([]byte, bool) {
	n := len(frame) - crcSize
	if n < 1 {
		return nil, false
	}
	return frame[:n], checksum(frame[:n], t) == binary.LittleEndian.Uint32(frame[n:])
}

// stuff appends a sealed frame as it goes over the line: a zero, the frame
// without zeros (COBS: Cheshire, Baker, "Consistent Overhead Byte Stuffing",
// 1999), a zero. The first zero ends rubbish, the second one the frame.
func stuff(dst, frame []byte) []byte {
	dst = append(dst, 0)
	at := len(dst)
	dst = append(dst, 0) // the code, filled in when the run ends
	for i, c := range frame {
		if c != 0 {
			dst = append(dst, c)
		}
		if n := len(dst) - at; c == 0 || n == 255 {
			dst[at] = byte(n)
			if c != 0 && i == len(frame)-1 {
				return append(dst, 0) // a full run at the end needs no other one
			}
			at = len(dst)
			dst = append(dst, 0)
		}
	}
	dst[at] = byte(len(dst) - at)
	return append(dst, 0)
}

// unstuff decodes in place what stood between two zeros.
func unstuff(b []byte) ([]byte, bool) {
	out := b[:0]
	for len(b) > 0 {
		n := int(b[0])
		if n == 0 || n > len(b) {
			return nil, false
		}
		out = append(out, b[1:n]...)
		if b = b[n:]; n < 255 && len(b) > 0 {
			out = append(out, 0)
		}
	}
	return out, len(out) > 0
}

// deframer cuts what comes from the line at the zeros. It holds one frame.
type deframer struct {
	buf  []byte
	over bool // what comes is longer than any frame
	skip int  // bytes of it so far
}

// next takes bytes from the line. It returns the rest of them, and, when a
// zero ended something, what it was: a sealed frame, valid until the next call,
// or nil and the number of bytes that were no frame.
func (d *deframer) next(in []byte) (rest, frame []byte, rubbish int) {
	for i, c := range in {
		if c != 0 {
			if len(d.buf) == maxCoded {
				d.over, d.skip = true, d.skip+len(d.buf)
				d.buf = d.buf[:0]
			}
			d.buf = append(d.buf, c)
			continue
		}
		n := len(d.buf) + d.skip
		if n == 0 {
			continue
		}
		b, over := d.buf, d.over
		d.buf, d.over, d.skip = d.buf[:0], false, 0
		if !over {
			if f, ok := unstuff(b); ok {
				return in[i+1:], f, n
			}
		}
		return in[i+1:], nil, n
	}
	return nil, nil, 0
}

// hello is a hello or a bye.
type hello struct {
	version  byte
	flags    byte
	sender   uint64
	receiver uint64 // 0: not known yet
	window   uint32 // bytes that the sender takes of each stream beyond what was read
}

const helloSize = 1 + 1 + 1 + 8 + 8 + 4

func appendHello(b []byte, kind byte, h hello) []byte {
	b = append(b, kind, h.version, h.flags)
	b = binary.LittleEndian.AppendUint64(b, h.sender)
	b = binary.LittleEndian.AppendUint64(b, h.receiver)
	return binary.LittleEndian.AppendUint32(b, h.window)
}

var errShort = errors.New("too short")

// parseHello reads a hello or bye without its checksum. Of another version only
// the version is filled in.
func parseHello(b []byte) (hello, error) {
	if len(b) < 2 {
		return hello{}, errShort
	}
	h := hello{version: b[1]}
	if h.version != Version {
		return h, nil
	}
	if len(b) != helloSize {
		return h, errShort
	}
	h.flags = b[2]
	h.sender = binary.LittleEndian.Uint64(b[3:])
	h.receiver = binary.LittleEndian.Uint64(b[11:])
	h.window = binary.LittleEndian.Uint32(b[19:])
	return h, nil
}

// packet is an ack or a data frame.
type packet struct {
	kind   byte
	ack    uint16 // the first data frame that has not arrived
	echo   uint16 // the number of the transmission that arrived last
	bitmap []byte // bit i, lowest first: frame ack+1+i has arrived
	seq    uint16 // data: the number of the frame
	tx     uint16 // data: the number of the transmission
	data   []byte // data: messages
}

func appendPacket(b []byte, p packet) []byte {
	b = append(b, p.kind|byte(len(p.bitmap))<<4)
	b = binary.LittleEndian.AppendUint16(b, p.ack)
	b = binary.LittleEndian.AppendUint16(b, p.echo)
	b = append(b, p.bitmap...)
	if p.kind == frameData {
		b = binary.LittleEndian.AppendUint16(b, p.seq)
		b = binary.LittleEndian.AppendUint16(b, p.tx)
		b = append(b, p.data...)
	}
	return b
}

// parsePacket reads an ack or a data frame without its checksum. The slices
// point into b.
func parsePacket(b []byte) (packet, error) {
	if len(b) < 1 {
		return packet{}, errShort
	}
	p := packet{kind: b[0] & 15}
	n := int(b[0] >> 4)
	if len(b) < 5+n {
		return p, errShort
	}
	p.ack = binary.LittleEndian.Uint16(b[1:])
	p.echo = binary.LittleEndian.Uint16(b[3:])
	p.bitmap, b = b[5:5+n], b[5+n:]
	if p.kind == frameData {
		if len(b) < 5 || len(b) > 4+maxPayload {
			return p, errShort
		}
		p.seq = binary.LittleEndian.Uint16(b)
		p.tx = binary.LittleEndian.Uint16(b[2:])
		p.data = b[4:]
	} else if len(b) != 0 {
		return p, errShort
	}
	return p, nil
}
