package kdcom

import (
	"encoding/binary"

	"openkd/kdproto"
)

const (
	dataByte    = kdproto.DataLeader & 0xFF
	controlByte = kdproto.ControlLeader & 0xFF

	// maxFrame is the longest packet: header, payload, trailer.
	maxFrame = kdproto.HeaderSize + kdproto.MaxPayload + 1
)

// verdict is what the receiver says about a stretch of bytes.
type verdict int

const (
	needMore     verdict = iota // the bytes may become a packet
	garbage                     // bytes that belong to no packet
	goodData                    // a data packet with a good checksum
	goodControl                 // an ACK, RESEND or RESET
	badChecksum                 // well framed, but damaged inside
	badHeader                   // a data packet was meant, its header is impossible
	notAPacket                  // a leader that starts nothing
	cutShort                    // a data packet without its trailer, or ended by silence
	cutShortCtrl                // a control packet ended by silence
)

// receiver finds packets in a stream of bytes.
//
// It keeps the bytes of the packet in hand. ByteCount is honoured, so leaders
// inside a payload are data. When the packet turns out not to be one, because
// its trailer is missing or the line fell silent in the middle of it, the
// search starts again one byte behind its leader and not behind its end: a
// lost byte or a damaged count must not take the next packet along. A packet
// whose trailer is in its place but whose checksum is wrong was framed well and
// is skipped whole, since a search inside it would find only payload.
//
// Header fields are covered by no checksum. Impossible types and counts are
// refused, and a payload whose leading number belongs to another packet type
// than the header says counts as damaged.
//
// What no receiver can see: several damaged bytes in one packet whose changes
// add up to nothing.
//
// A receiver belongs to one goroutine or one lock. It holds at most one packet
// and what was fed after it.
type receiver struct {
	buf []byte // at most maxFrame bytes and the last chunk
	pos int    // first byte of buf that is not judged
}

func (r *receiver) feed(b []byte) {
	if r.pos > 0 {
		n := copy(r.buf, r.buf[r.pos:])
		r.buf, r.pos = r.buf[:n], 0
	}
	r.buf = append(r.buf, b...)
}

func (r *receiver) reset() { r.buf, r.pos = r.buf[:0], 0 }

// pending reports whether a packet is in hand.
func (r *receiver) pending() bool { return r.pos < len(r.buf) }

// bytes are the next n bytes, valid until feed.
func (r *receiver) bytes(n int) []byte { return r.buf[r.pos : r.pos+n] }

// skip drops the next n bytes.
func (r *receiver) skip(n int) { r.pos += n }

// next judges the bytes in hand and returns how many of them its verdict is
// about; the caller uses them and then calls skip with that number. With final
// set the line is silent: nothing is waited for any longer.
func (r *receiver) next(final bool) (v verdict, h kdproto.Header, n int) {
	b := r.buf[r.pos:]
	if len(b) == 0 {
		return needMore, h, 0
	}
	at, run := leader(b)
	if at > 0 {
		return garbage, h, at
	}
	if run < 4 {
		if final {
			return garbage, h, len(b)
		}
		return needMore, h, 0
	}
	control := b[0] == controlByte
	// The type is judged as soon as it is there, the count likewise.
	if len(b) >= 6 {
		t := kdproto.PacketType(binary.LittleEndian.Uint16(b[4:]))
		if control && !isControl(t) || !control && !isData(t) {
			return notAPacket, h, 1
		}
		if !control && len(b) >= 8 {
			c := int(binary.LittleEndian.Uint16(b[6:]))
			if c > kdproto.MaxPayload || c < t.MessageHeaderSize() {
				return badHeader, h, 1
			}
		}
	}
	short := cutShort
	if control {
		short = cutShortCtrl
	}
	if len(b) < kdproto.HeaderSize {
		if final {
			return short, h, 1
		}
		return needMore, h, 0
	}
	h, _ = kdproto.DecodeHeader(b)
	if control {
		// Nothing ends a control packet. Where another leader begins in it, it
		// was cut short and the next packet has filled it up.
		if at, run := leader(b[4:min(len(b), kdproto.HeaderSize+3)]); run == 4 {
			return cutShortCtrl, h, 4 + at
		}
		return goodControl, h, kdproto.HeaderSize
	}
	n = kdproto.HeaderSize + int(h.ByteCount) + 1
	if len(b) < n {
		if final {
			return short, h, 1
		}
		return needMore, h, 0
	}
	payload := b[kdproto.HeaderSize : n-1]
	if b[n-1] != kdproto.Trailer {
		return cutShort, h, 1
	}
	if kdproto.Checksum(payload) != h.Checksum || !believable(h, payload) {
		return badChecksum, h, n
	}
	if len(b) > n && b[n] == kdproto.Trailer {
		// Two trailers: a byte too many has come before. If it was an AA too,
		// and the payload ends in one, the sum has not seen it.
		return badChecksum, h, n + 1
	}
	return goodData, h, n
}

// leader returns where the first leader, or the start of one at the end of b,
// begins, and how many equal leader bytes (at most 4) stand there. Without any
// it returns len(b).
func leader(b []byte) (at, run int) {
	for i := 0; i < len(b); {
		c := b[i]
		if c != dataByte && c != controlByte {
			i++
			continue
		}
		j := i + 1
		for j < len(b) && b[j] == c && j-i < 4 {
			j++
		}
		if j-i == 4 || j == len(b) {
			return i, j - i
		}
		i = j
	}
	return len(b), 0
}

func isControl(t kdproto.PacketType) bool {
	return t == kdproto.TypeAcknowledge || t == kdproto.TypeResend || t == kdproto.TypeReset
}

// isData tells data types from noise. It lets types through that are not known
// today, so that they are acknowledged and the target is not stuck.
func isData(t kdproto.PacketType) bool {
	return t < 32 && !isControl(t) && t != kdproto.TypePollBreakIn
}

// believable checks header fields that the checksum does not cover: the id is
// one of the two (with or without SYNC), and the number that the payload begins
// with does not belong to another packet type.
func believable(h kdproto.Header, payload []byte) bool {
	if base := h.ID &^ kdproto.SyncBit; base != kdproto.InitialID && base != kdproto.InitialID^1 {
		return false
	}
	if len(payload) < 4 {
		return true
	}
	n := binary.LittleEndian.Uint32(payload)
	switch n >> 8 {
	case 0x30, 0x130: // the second with StateAlternate
		return h.Type == kdproto.TypeStateChange64 || h.Type == kdproto.TypeStateChange32
	case 0x31:
		return h.Type == kdproto.TypeManipulate
	case 0x32:
		return h.Type == kdproto.TypeDebugIO
	case 0x33:
		return h.Type == kdproto.TypeTraceIO
	case 0x34:
		return h.Type == kdproto.TypeFileIO
	case 0x43:
		return h.Type == kdproto.TypeControlRequest
	}
	return true
}
