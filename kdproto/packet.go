package kdproto

import (
	"encoding/binary"
	"errors"
	"fmt"
)

var le = binary.LittleEndian

// Sizes and constants of the link header (KDCOM framing).
const (
	DataLeader    = 0x30303030 // "0000", starts a data packet
	ControlLeader = 0x69696969 // "iiii", starts a control packet
	BreakInByte   = 0x62       // 'b', sent alone and unframed
	Trailer       = 0xAA       // one byte after the payload of data packets only

	HeaderSize = 16   // bytes of the link header
	MaxPayload = 4000 // bytes of payload in one data packet

	InitialID = 0x80800000 // first id a host sends; both sides' id after a RESET
	SyncBit   = 0x00000800 // set in an id: "my stream starts here"
	FirstID   = InitialID | SyncBit
)

// PacketType is the PacketType field of the link header.
type PacketType uint16

// Packet types. H = host, T = target.
const (
	TypeUnused         PacketType = 0  // only the KDNET connection check
	TypeStateChange32  PacketType = 1  // T to H, Windows 2000 and older
	TypeManipulate     PacketType = 2  // requests H to T, replies T to H
	TypeDebugIO        PacketType = 3  // prints and prompts T to H, answers H to T
	TypeAcknowledge    PacketType = 4  // control
	TypeResend         PacketType = 5  // control
	TypeReset          PacketType = 6  // control
	TypeStateChange64  PacketType = 7  // T to H
	TypePollBreakIn    PacketType = 8  // never on the wire
	TypeTraceIO        PacketType = 9  // T to H, only acknowledged
	TypeControlRequest PacketType = 10 // T to H
	TypeFileIO         PacketType = 11 // requests T to H, answers H to T
	TypeMax            PacketType = 12 // MaxPacketType of the version block
)

var packetTypeNames = [...]string{
	"Unused", "StateChange32", "Manipulate", "DebugIO", "Acknowledge", "Resend",
	"Reset", "StateChange64", "PollBreakIn", "TraceIO", "ControlRequest", "FileIO",
}

func (t PacketType) String() string {
	if int(t) < len(packetTypeNames) {
		return packetTypeNames[t]
	}
	return fmt.Sprintf("PacketType(%d)", uint16(t))
}

// MessageHeaderSize is the length in bytes of the fixed header that a data
// payload of type t begins with, or 0 where none is known. A receiver rejects
// shorter packets of that type.
func (t PacketType) MessageHeaderSize() int {
	switch t {
	case TypeManipulate:
		return ManipulateSize
	case TypeDebugIO:
		return DebugIOSize
	case TypeStateChange64:
		return StateChangeSize
	case TypeTraceIO:
		return TraceIOSize
	case TypeControlRequest:
		return ControlRequestSize
	case TypeFileIO:
		return FileIOSize
	}
	return 0
}

// Header is the 16-byte link header.
//
//	@0  u32 Leader     DataLeader or ControlLeader
//	@4  u16 Type
//	@6  u16 ByteCount  payload bytes, 0..4000; 0 in control packets
//	@8  u32 ID         data: alternating id; ACK: id acknowledged, without SyncBit
//	@12 u32 Checksum   sum of the payload bytes; 0 in control packets
type Header struct {
	Leader    uint32
	Type      PacketType
	ByteCount uint16
	ID        uint32
	Checksum  uint32
}

// Append appends the 16 bytes of h to b.
func (h Header) Append(b []byte) []byte {
	b = le.AppendUint32(b, h.Leader)
	b = le.AppendUint16(b, uint16(h.Type))
	b = le.AppendUint16(b, h.ByteCount)
	b = le.AppendUint32(b, h.ID)
	return le.AppendUint32(b, h.Checksum)
}

// ErrShort says that a buffer ends before the record it should hold.
var ErrShort = errors.New("kdproto: record is cut short")

// DecodeHeader reads a link header. It checks the length only: a receiver
// has found the leader before, and what it does about a bad count is its own.
func DecodeHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize {
		return Header{}, ErrShort
	}
	return Header{
		Leader:    le.Uint32(b[0:]),
		Type:      PacketType(le.Uint16(b[4:])),
		ByteCount: le.Uint16(b[6:]),
		ID:        le.Uint32(b[8:]),
		Checksum:  le.Uint32(b[12:]),
	}, nil
}

// Checksum is the plain unsigned 32-bit sum of the payload bytes.
func Checksum(payload []byte) uint32 {
	var s uint32
	for _, c := range payload {
		s += uint32(c)
	}
	return s
}

// AppendData appends a whole data packet, header, payload and trailer, to b.
// The payload is at most MaxPayload bytes; a longer one is the caller's bug.
func AppendData(b []byte, t PacketType, id uint32, payload []byte) []byte {
	if len(payload) > MaxPayload {
		panic("kdproto: payload over 4000 bytes")
	}
	b = Header{DataLeader, t, uint16(len(payload)), id, Checksum(payload)}.Append(b)
	b = append(b, payload...)
	return append(b, Trailer)
}

// AppendControl appends a control packet (Acknowledge, Resend, Reset) to b.
func AppendControl(b []byte, t PacketType, id uint32) []byte {
	return Header{Leader: ControlLeader, Type: t, ID: id}.Append(b)
}
