package unwind

import "encoding/binary"

var le = binary.LittleEndian

// maxBlocks bounds what one walk keeps, and so what it reads: a stack that is
// all over the place is none.
const maxBlocks = 128

// stack reads the target's stack in blocks, from the address that is wanted
// upwards: callers lie above.
type stack struct {
	mem    Memory
	block  int
	canon  func(uint64) uint64
	blocks []piece
	reads  int
}

type piece struct {
	addr uint64
	b    []byte
	err  error // why it is not longer
}

// read fills b from addr. An error is an *errEnd with the reason Unreadable.
func (s *stack) read(addr uint64, b []byte) error {
	addr = s.canon(addr)
	for len(b) > 0 {
		p, err := s.at(addr)
		if err != nil {
			return &errEnd{End{Unreadable, addr, err}}
		}
		n := copy(b, p.b[addr-p.addr:])
		b, addr = b[n:], addr+uint64(n)
	}
	return nil
}

// at finds or reads the piece that holds an address.
func (s *stack) at(addr uint64) (*piece, error) {
	for i := len(s.blocks) - 1; i >= 0; i-- {
		p := &s.blocks[i]
		if addr >= p.addr && addr-p.addr < uint64(len(p.b)) {
			return p, nil
		}
		if addr == p.addr+uint64(len(p.b)) && p.err != nil {
			return nil, p.err
		}
	}
	if s.reads >= maxBlocks {
		return nil, errScattered
	}
	s.reads++
	n := s.block
	if room := -addr; room != 0 && room < uint64(n) {
		n = int(room) // the top of the address space
	}
	b := make([]byte, n)
	got, err := s.mem.Read(addr, b)
	got = min(max(got, 0), n)
	if got < n && err == nil {
		err = errShort
	}
	s.blocks = append(s.blocks, piece{addr, b[:got], err})
	if got == 0 {
		return nil, err
	}
	return &s.blocks[len(s.blocks)-1], nil
}

func (s *stack) u64(addr uint64) (uint64, error) {
	var b [8]byte
	err := s.read(addr, b[:])
	return le.Uint64(b[:]), err
}

func (s *stack) u32(addr uint64) (uint32, error) {
	var b [4]byte
	err := s.read(addr, b[:])
	return le.Uint32(b[:]), err
}
