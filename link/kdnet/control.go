package kdnet

import (
	"encoding/binary"
	"net/netip"
)

// What the target says on the control channel (kd-protocol, section 4.4) and
// what the host answers (4.5).
const (
	pokeSize     = 344
	responseSize = 322
	nonceSize    = 32

	typePoke     = 0x0101 // 01 01
	typeResponse = 0x0201 // 01 02
)

// poke is the target's offer, or, while it has a debugger, its sign of life.
type poke struct {
	nonce     [nonceSize]byte
	target    netip.AddrPort
	host      netip.AddrPort // where the target sends to
	connected netip.AddrPort // port 0: nobody
}

func putAddr(b []byte, a netip.AddrPort) {
	ip := a.Addr().As16()
	copy(b, ip[:])
	binary.BigEndian.PutUint16(b[16:], a.Port())
}

func getAddr(b []byte) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[:16])).Unmap(), binary.BigEndian.Uint16(b[16:]))
}

func (p *poke) encode() []byte {
	b := make([]byte, pokeSize)
	binary.LittleEndian.PutUint16(b, typePoke)
	copy(b[2:], p.nonce[:])
	putAddr(b[34:], p.target)
	putAddr(b[52:], p.host)
	putAddr(b[70:], p.connected)
	return b
}

// decodePoke reads a poke; false: it is something else.
func decodePoke(b []byte) (poke, bool) {
	if len(b) != pokeSize || binary.LittleEndian.Uint16(b) != typePoke {
		return poke{}, false
	}
	return poke{
		nonce:  [nonceSize]byte(b[2:34]),
		target: getAddr(b[34:]), host: getAddr(b[52:]), connected: getAddr(b[70:]),
	}, true
}

func encodeResponse(nonce, random [nonceSize]byte) []byte {
	b := make([]byte, responseSize)
	binary.LittleEndian.PutUint16(b, typeResponse)
	copy(b[2:], nonce[:])
	copy(b[34:], random[:])
	return b
}

// decodeResponse reads a response's nonce; false: it is something else.
func decodeResponse(b []byte) (nonce [nonceSize]byte, ok bool) {
	if len(b) != responseSize || binary.LittleEndian.Uint16(b) != typeResponse {
		return nonce, false
	}
	return [nonceSize]byte(b[2:34]), true
}
