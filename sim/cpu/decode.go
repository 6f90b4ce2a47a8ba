package cpu

import "encoding/binary"

// inst is a decoded instruction. It does not depend on where the bytes are.
type inst struct {
	key0, key1, mask0, mask1 uint64 // the bytes it was made from
	imm                      uint64 // sign-extended
	disp                     uint64 // sign-extended
	op                       uint16 // opcode; 0F xx is 0x100|xx
	len                      uint8
	size                     uint8 // operand size in bytes: 1, 2, 4, 8
	reg, rm                  uint8 // register numbers; 16-19 are ah ch dh bh
	base, index              uint8 // 0-15, noReg, ripReg
	scale                    uint8 // shift
	seg                      uint8 // segFS, segGS or 0
	rep                      uint8 // 0xF2, 0xF3 or 0
	imm2                     uint8 // enter's second operand
	mem                      bool  // the r/m operand is memory
	lock, p66, rexW          bool
	addr32                   bool
	stack                    bool // the memory operand is addressed through rsp or rbp
}

const (
	noReg  = 0xFF
	ripReg = 0xFE

	segFS = 1
	segGS = 2

	opSYSCALL = 0x105
	opSYSRET  = 0x107
)

type decodeStatus int

const (
	decodeOK    decodeStatus = iota
	decodeShort              // more bytes are needed
	decodeBad                // no such instruction here
)

// Attributes of an opcode.
type attr uint16

const (
	aModRM attr = 1 << iota
	aImm8
	aImmZ  // 2 or 4 bytes by operand size
	aImmV  // 2, 4 or 8 bytes by operand size
	aImm16 // 2 bytes, not extended
	aImm32 // 4 bytes: near branches
	aEnter // 2 bytes and 1 byte
	aMoffs // an address
	aByte  // operand size 1
	aRegB  // the reg field names a byte register
	aRmB   // the r/m field, or the opcode's register, names a byte register
	aD64   // operand size 8, or 2 with 66
	aF64   // operand size always 8
	aLock  // some form may be locked
	aBad
)

// opcodes describes the one-byte map and, from 0x100 on, the 0F map.
var opcodes = buildOpcodes()

func buildOpcodes() (t [512]attr) {
	for k := range t {
		t[k] = aBad
	}
	set := func(a attr, ops ...int) {
		for _, o := range ops {
			t[o] = a
		}
	}
	span := func(a attr, from, to int) {
		for o := from; o <= to; o++ {
			t[o] = a
		}
	}
	const eb = aModRM | aByte | aRegB | aRmB
	for b := 0; b < 0x40; b += 8 {
		lock := aLock
		if b == 0x38 {
			lock = 0
		}
		set(eb|lock, b)
		set(aModRM|lock, b+1)
		set(eb, b+2)
		set(aModRM, b+3)
		set(aByte|aImm8, b+4)
		set(aImmZ, b+5)
	}
	span(aD64, 0x50, 0x5F)
	set(aModRM, 0x63)
	set(aImmZ|aD64, 0x68)
	set(aModRM|aImmZ, 0x69)
	set(aImm8|aD64, 0x6A)
	set(aModRM|aImm8, 0x6B)
	set(aByte, 0x6C, 0x6E)
	set(0, 0x6D, 0x6F)
	span(aImm8|aF64, 0x70, 0x7F)
	set(aModRM|aByte|aRmB|aImm8|aLock, 0x80)
	set(aModRM|aImmZ|aLock, 0x81)
	set(aModRM|aImm8|aLock, 0x83)
	set(eb, 0x84, 0x88, 0x8A)
	set(aModRM, 0x85, 0x89, 0x8B, 0x8C, 0x8D, 0x8E)
	set(eb|aLock, 0x86)
	set(aModRM|aLock, 0x87)
	set(aModRM|aD64, 0x8F)
	span(0, 0x90, 0x99)
	set(0, 0x9B, 0x9E, 0x9F)
	set(aD64, 0x9C, 0x9D)
	set(aMoffs|aByte, 0xA0, 0xA2)
	set(aMoffs, 0xA1, 0xA3)
	set(aByte, 0xA4, 0xA6, 0xAA, 0xAC, 0xAE)
	set(0, 0xA5, 0xA7, 0xAB, 0xAD, 0xAF)
	set(aByte|aImm8, 0xA8)
	set(aImmZ, 0xA9)
	span(aByte|aImm8|aRmB, 0xB0, 0xB7)
	span(aImmV, 0xB8, 0xBF)
	set(aModRM|aByte|aRmB|aImm8, 0xC0, 0xC6)
	set(aModRM|aImm8, 0xC1)
	set(aModRM|aImmZ, 0xC7)
	set(aImm16|aF64, 0xC2)
	set(aF64, 0xC3)
	set(aEnter|aD64, 0xC8)
	set(aD64, 0xC9)
	set(aImm16, 0xCA)
	set(0, 0xCB, 0xCC, 0xCF)
	set(aImm8, 0xCD)
	set(aModRM|aByte|aRmB, 0xD0, 0xD2)
	set(aModRM, 0xD1, 0xD3)
	set(0, 0xD7)
	span(aModRM, 0xD8, 0xDF)
	span(aImm8|aF64, 0xE0, 0xE3)
	set(aByte|aImm8, 0xE4, 0xE6)
	set(aImm8, 0xE5, 0xE7)
	set(aImm32|aF64, 0xE8, 0xE9)
	set(aImm8|aF64, 0xEB)
	set(aByte, 0xEC, 0xEE)
	set(0, 0xED, 0xEF)
	set(0, 0xF1, 0xF4, 0xF5)
	set(aModRM|aByte|aRmB|aLock, 0xF6, 0xFE)
	set(aModRM|aLock, 0xF7, 0xFF)
	span(0, 0xF8, 0xFD)

	set(aModRM, 0x100, 0x101, 0x10D)
	set(0, 0x105, 0x106, 0x107, 0x108, 0x109, 0x10B)
	span(aModRM, 0x110, 0x11F)
	span(aModRM|aF64, 0x120, 0x123)
	span(aModRM, 0x128, 0x12F)
	set(0, 0x130, 0x131, 0x132)
	span(aModRM, 0x140, 0x16F)
	span(aModRM|aImm8, 0x170, 0x173)
	span(aModRM, 0x174, 0x176)
	set(aModRM, 0x17E, 0x17F)
	span(aImm32|aF64, 0x180, 0x18F)
	span(aModRM|aByte|aRmB, 0x190, 0x19F)
	set(aD64, 0x1A0, 0x1A1, 0x1A8, 0x1A9)
	set(0, 0x1A2)
	set(aModRM, 0x1A3, 0x1A5, 0x1AD, 0x1AE, 0x1AF)
	set(aModRM|aImm8, 0x1A4, 0x1AC)
	set(aModRM|aLock, 0x1AB, 0x1B3, 0x1BB, 0x1B1, 0x1C1, 0x1C7)
	set(eb|aLock, 0x1B0, 0x1C0)
	set(aModRM|aRmB, 0x1B6, 0x1BE)
	set(aModRM, 0x1B7, 0x1BF, 0x1B8, 0x1B9, 0x1BC, 0x1BD)
	set(aModRM|aImm8|aLock, 0x1BA)
	set(aModRM|aImm8, 0x1C2, 0x1C4, 0x1C5, 0x1C6)
	set(aModRM, 0x1C3)
	span(0, 0x1C8, 0x1CF)
	span(aModRM, 0x1D1, 0x1FF)
	return t
}

// lockable reports whether the decoded instruction may carry a lock prefix.
// Only opcodes marked aLock get here, with a memory operand.
func (i *inst) lockable() bool {
	ext := i.reg & 7
	switch i.op {
	case 0x80, 0x81, 0x83:
		return ext != 7
	case 0xF6, 0xF7:
		return ext == 2 || ext == 3
	case 0xFE, 0xFF:
		return ext < 2
	case 0x1BA:
		return ext >= 5
	case 0x1C7:
		return ext == 1
	}
	return true
}

// decode reads one instruction from the front of b, which holds at most 15
// bytes. With decodeShort and 15 bytes the instruction is too long.
func decode(b []byte, i *inst) decodeStatus {
	*i = inst{base: noReg, index: noReg}
	var rex byte
	n := 0
	var op uint16
prefixes:
	for {
		if n >= len(b) {
			return decodeShort
		}
		p := b[n]
		n++
		switch p {
		case 0x66:
			i.p66 = true
		case 0x67:
			i.addr32 = true
		case 0xF0:
			i.lock = true
		case 0xF2, 0xF3:
			i.rep = p
		case 0x64:
			i.seg = segFS
		case 0x65:
			i.seg = segGS
		case 0x26, 0x2E, 0x36, 0x3E:
			// No meaning in 64-bit mode; they do not undo fs or gs.
		default:
			if p&0xF0 == 0x40 {
				rex = p
				continue // a prefix after it cancels it
			}
			op = uint16(p)
			break prefixes
		}
		rex = 0
	}
	if op == 0x0F {
		if n >= len(b) {
			return decodeShort
		}
		op = 0x100 | uint16(b[n])
		n++
	}
	a := opcodes[op]
	if a&aBad != 0 {
		return decodeBad
	}
	i.op = op
	i.rexW = rex&8 != 0
	switch {
	case a&aByte != 0:
		i.size = 1
	case a&aF64 != 0 || i.rexW:
		i.size = 8
	case i.p66:
		i.size = 2
	case a&aD64 != 0:
		i.size = 8
	default:
		i.size = 4
	}
	i.rm = uint8(op)&7 | rex&1<<3
	if a&aModRM != 0 {
		if n >= len(b) {
			return decodeShort
		}
		m := b[n]
		n++
		i.reg = m>>3&7 | rex&4<<1
		i.rm = m&7 | rex&1<<3
		mod := m >> 6
		if mod != 3 && op&^3 != 0x120 {
			i.mem = true
			dispLen := 0
			switch mod {
			case 1:
				dispLen = 1
			case 2:
				dispLen = 4
			}
			if m&7 == 4 {
				if n >= len(b) {
					return decodeShort
				}
				sib := b[n]
				n++
				i.base = sib&7 | rex&1<<3
				if x := sib>>3&7 | rex&2<<2; x != 4 {
					i.index = x
					i.scale = sib >> 6
				}
				if sib&7 == 5 && mod == 0 {
					i.base = noReg
					dispLen = 4
				}
			} else if m&7 == 5 && mod == 0 {
				i.base = ripReg
				dispLen = 4
			} else {
				i.base = i.rm
			}
			i.stack = i.seg == 0 && (i.base == RSP || i.base == RBP)
			if n+dispLen > len(b) {
				return decodeShort
			}
			switch dispLen {
			case 1:
				i.disp = uint64(int8(b[n]))
			case 4:
				i.disp = uint64(int32(binary.LittleEndian.Uint32(b[n:])))
			}
			n += dispLen
		}
		ext := i.reg & 7
		switch {
		case op == 0xF6 && ext < 2:
			a |= aImm8
		case op == 0xF7 && ext < 2:
			a |= aImmZ
		case op == 0xFF && (ext == 2 || ext == 4):
			i.size = 8
		case op == 0xFF && ext == 6 && i.size == 4:
			i.size = 8
		}
	}
	if rex == 0 {
		if a&aRegB != 0 && i.reg >= 4 {
			i.reg += 12
		}
		if a&aRmB != 0 && !i.mem && i.rm >= 4 {
			i.rm += 12
		}
	}
	immLen := 0
	switch {
	case a&aImm8 != 0:
		immLen = 1
	case a&aImmZ != 0:
		immLen = 4
		if i.size == 2 {
			immLen = 2
		}
	case a&aImmV != 0:
		immLen = int(i.size)
	case a&aImm16 != 0:
		immLen = 2
	case a&aImm32 != 0:
		immLen = 4
	case a&aEnter != 0:
		immLen = 3
	case a&aMoffs != 0:
		immLen = 8
		if i.addr32 {
			immLen = 4
		}
	}
	if n+immLen > len(b) {
		return decodeShort
	}
	switch immLen {
	case 1:
		i.imm = uint64(int8(b[n]))
	case 2:
		v := binary.LittleEndian.Uint16(b[n:])
		i.imm = uint64(int16(v))
		if a&aImm16 != 0 {
			i.imm = uint64(v)
		}
	case 3:
		i.imm = uint64(binary.LittleEndian.Uint16(b[n:]))
		i.imm2 = b[n+2]
	case 4:
		v := binary.LittleEndian.Uint32(b[n:])
		i.imm = uint64(int32(v))
		if a&aMoffs != 0 {
			i.imm = uint64(v)
		}
	case 8:
		i.imm = binary.LittleEndian.Uint64(b[n:])
	}
	n += immLen
	i.len = uint8(n)
	if i.lock && (a&aLock == 0 || !i.mem || !i.lockable()) {
		return decodeBad
	}
	return decodeOK
}
