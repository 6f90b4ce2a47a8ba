package cpu

import "math/bits"

// get reads a register operand.
func (c *CPU) get(r, size uint8) uint64 {
	switch size {
	case 8:
		return c.R[r&15]
	case 4:
		return uint64(uint32(c.R[r&15]))
	case 2:
		return uint64(uint16(c.R[r&15]))
	}
	if r >= 16 {
		return c.R[r&3] >> 8 & 0xFF
	}
	return uint64(uint8(c.R[r&15]))
}

// set writes a register operand. 32-bit writes clear the upper half.
func (c *CPU) set(r, size uint8, v uint64) {
	switch size {
	case 8:
		c.R[r&15] = v
	case 4:
		c.R[r&15] = uint64(uint32(v))
	case 2:
		c.R[r&15] = c.R[r&15]&^0xFFFF | v&0xFFFF
	default:
		if r >= 16 {
			c.R[r&3] = c.R[r&3]&^0xFF00 | v&0xFF<<8
		} else {
			c.R[r&15] = c.R[r&15]&^0xFF | v&0xFF
		}
	}
}

// offset is the effective address without the segment base.
func (c *CPU) offset(i *inst) uint64 {
	a := i.disp
	if i.base < 16 {
		a += c.R[i.base&15]
	} else if i.base == ripReg {
		a += c.RIP + uint64(i.len)
	}
	if i.index < 16 {
		a += c.R[i.index&15] << (i.scale & 3)
	}
	if i.addr32 {
		a = uint64(uint32(a))
	}
	return a
}

func (c *CPU) segBase(i *inst) uint64 {
	switch i.seg {
	case segFS:
		return c.FSBase
	case segGS:
		return c.GSBase
	}
	return 0
}

// ea is the linear address of the memory operand.
func (c *CPU) ea(i *inst) uint64 {
	c.gpVec = VecGP
	if i.stack {
		c.gpVec = VecSS
	}
	a := c.offset(i)
	if i.seg != 0 {
		a += c.segBase(i)
	}
	return a
}

// readRM reads the r/m operand.
func (c *CPU) readRM(i *inst, size uint8) (uint64, bool) {
	if i.mem {
		return c.load(c.ea(i), size)
	}
	return c.get(i.rm, size), true
}

// writeRM writes the r/m operand.
func (c *CPU) writeRM(i *inst, size uint8, v uint64) bool {
	if i.mem {
		return c.store(c.ea(i), size, v)
	}
	c.set(i.rm, size, v)
	return true
}

// modify reads the r/m operand for a write that will follow by commit. The
// commit cannot fail.
func (c *CPU) modify(i *inst) (addr, v uint64, ok bool) {
	if i.mem {
		addr = c.ea(i)
		v, ok = c.loadW(addr, i.size)
		return addr, v, ok
	}
	return 0, c.get(i.rm, i.size), true
}

func (c *CPU) commit(i *inst, addr, v uint64) bool {
	if i.mem {
		return c.store(addr, i.size, v)
	}
	c.set(i.rm, i.size, v)
	return true
}

func (c *CPU) push(v uint64, size uint8) bool {
	sp := c.R[RSP] - uint64(size)
	c.gpVec = VecSS
	if !c.store(sp, size, v) {
		return false
	}
	c.R[RSP] = sp
	return true
}

func (c *CPU) pop(size uint8) (uint64, bool) {
	c.gpVec = VecSS
	v, ok := c.load(c.R[RSP], size)
	if ok {
		c.R[RSP] += uint64(size)
	}
	return v, ok
}

// jump sets where execution goes on.
func (c *CPU) jump(to uint64) bool {
	if !canonical(to) {
		return c.gp(0)
	}
	c.next = to
	return true
}

func (c *CPU) call(to uint64) bool {
	if !canonical(to) {
		return c.gp(0)
	}
	if !c.push(c.next, 8) {
		return false
	}
	c.next = to
	return true
}

// exec executes one decoded instruction. RIP still is the instruction's, next
// is where to go on. On false an exception is pending.
func (c *CPU) exec(i *inst) bool {
	switch i.op {
	case 0x00, 0x08, 0x10, 0x18, 0x20, 0x28, 0x30,
		0x01, 0x09, 0x11, 0x19, 0x21, 0x29, 0x31: // op r/m, reg
		if !i.mem { // the common case, without the detour
			c.set(i.rm, i.size, c.alu(uint8(i.op>>3), c.get(i.rm, i.size), c.get(i.reg, i.size), i.size))
			return true
		}
		addr, a, ok := c.modify(i)
		if !ok {
			return false
		}
		return c.commit(i, addr, c.alu(uint8(i.op>>3), a, c.get(i.reg, i.size), i.size))
	case 0x38, 0x39: // cmp r/m, reg
		a, ok := c.readRM(i, i.size)
		if !ok {
			return false
		}
		c.sub(a, c.get(i.reg, i.size), 0, i.size)
		return true
	case 0x02, 0x0A, 0x12, 0x1A, 0x22, 0x2A, 0x32,
		0x03, 0x0B, 0x13, 0x1B, 0x23, 0x2B, 0x33: // op reg, r/m
		b, ok := c.readRM(i, i.size)
		if !ok {
			return false
		}
		c.set(i.reg, i.size, c.alu(uint8(i.op>>3), c.get(i.reg, i.size), b, i.size))
		return true
	case 0x3A, 0x3B: // cmp reg, r/m
		b, ok := c.readRM(i, i.size)
		if !ok {
			return false
		}
		c.sub(c.get(i.reg, i.size), b, 0, i.size)
		return true
	case 0x04, 0x0C, 0x14, 0x1C, 0x24, 0x2C, 0x34,
		0x05, 0x0D, 0x15, 0x1D, 0x25, 0x2D, 0x35: // op rax, imm
		c.set(RAX, i.size, c.alu(uint8(i.op>>3), c.get(RAX, i.size), i.imm&maskOf(i.size), i.size))
		return true
	case 0x3C, 0x3D: // cmp rax, imm
		c.sub(c.get(RAX, i.size), i.imm&maskOf(i.size), 0, i.size)
		return true
	case 0x80, 0x81, 0x83: // op r/m, imm
		b := i.imm & maskOf(i.size)
		if i.reg&7 == 7 {
			a, ok := c.readRM(i, i.size)
			if !ok {
				return false
			}
			c.sub(a, b, 0, i.size)
			return true
		}
		if !i.mem {
			c.set(i.rm, i.size, c.alu(i.reg, c.get(i.rm, i.size), b, i.size))
			return true
		}
		addr, a, ok := c.modify(i)
		if !ok {
			return false
		}
		return c.commit(i, addr, c.alu(i.reg, a, b, i.size))

	case 0x50, 0x51, 0x52, 0x53, 0x54, 0x55, 0x56, 0x57:
		return c.push(c.get(i.rm, i.size), i.size)
	case 0x58, 0x59, 0x5A, 0x5B, 0x5C, 0x5D, 0x5E, 0x5F:
		v, ok := c.pop(i.size)
		if !ok {
			return false
		}
		c.set(i.rm, i.size, v)
		return true
	case 0x63: // movsxd
		n := min(i.size, 4)
		v, ok := c.readRM(i, n)
		if !ok {
			return false
		}
		c.set(i.reg, i.size, signExtend(v, n))
		return true
	case 0x68, 0x6A:
		return c.push(i.imm, i.size)
	case 0x69, 0x6B:
		v, ok := c.readRM(i, i.size)
		if !ok {
			return false
		}
		c.set(i.reg, i.size, c.imul(v, i.imm, i.size))
		return true
	case 0x70, 0x71, 0x72, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7A, 0x7B, 0x7C, 0x7D, 0x7E, 0x7F,
		0x180, 0x181, 0x182, 0x183, 0x184, 0x185, 0x186, 0x187, 0x188, 0x189, 0x18A, 0x18B, 0x18C, 0x18D, 0x18E, 0x18F:
		if c.cond(uint8(i.op)) {
			return c.jump(c.next + i.imm)
		}
		return true
	case 0x84, 0x85: // test
		a, ok := c.readRM(i, i.size)
		if !ok {
			return false
		}
		c.logic(a&c.get(i.reg, i.size), i.size)
		return true
	case 0x86, 0x87: // xchg
		addr, a, ok := c.modify(i)
		if !ok {
			return false
		}
		b := c.get(i.reg, i.size)
		c.commit(i, addr, b)
		c.set(i.reg, i.size, a)
		return true
	case 0x88, 0x89:
		return c.writeRM(i, i.size, c.get(i.reg, i.size))
	case 0x8A, 0x8B:
		v, ok := c.readRM(i, i.size)
		if !ok {
			return false
		}
		c.set(i.reg, i.size, v)
		return true
	case 0x8C: // mov r/m, sreg
		if i.reg&7 > 5 {
			return c.ud()
		}
		v := uint64(*c.sreg(i.reg & 7))
		if i.mem {
			return c.store(c.ea(i), 2, v)
		}
		c.set(i.rm, i.size, v)
		return true
	case 0x8D: // lea
		if !i.mem {
			return c.ud()
		}
		c.set(i.reg, i.size, c.offset(i))
		return true
	case 0x8E: // mov sreg, r/m
		if i.reg&7 > 5 || i.reg&7 == 1 {
			return c.ud()
		}
		v, ok := c.readRM(i, 2)
		return ok && c.loadSreg(i.reg&7, uint16(v))
	case 0x8F: // pop r/m
		if i.reg&7 != 0 {
			return c.ud()
		}
		v, ok := c.pop(i.size)
		if !ok {
			return false
		}
		if !c.writeRM(i, i.size, v) { // an address through rsp uses its new value
			c.R[RSP] -= uint64(i.size)
			return false
		}
		return true
	case 0x90, 0x91, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97: // nop, pause, xchg rax
		if i.rm == RAX {
			return true
		}
		a, b := c.get(RAX, i.size), c.get(i.rm, i.size)
		c.set(RAX, i.size, b)
		c.set(i.rm, i.size, a)
		return true
	case 0x98: // cbw cwde cdqe
		c.set(RAX, i.size, signExtend(c.R[RAX], i.size/2))
		return true
	case 0x99: // cwd cdq cqo
		c.set(RDX, i.size, uint64(int64(signExtend(c.R[RAX], i.size))>>63))
		return true
	case 0x9B: // fwait
		return true
	case 0x9C:
		return c.push(c.RFlags&^(FlagRF|FlagVM), i.size)
	case 0x9D:
		return c.popf(i)
	case 0x9E: // sahf
		const m = FlagSF | FlagZF | FlagAF | FlagPF | FlagCF
		c.RFlags = c.RFlags&^m | c.R[RAX]>>8&m
		return true
	case 0x9F: // lahf
		c.R[RAX] = c.R[RAX]&^0xFF00 | c.RFlags&0xFF<<8
		return true
	case 0xA0, 0xA1:
		c.gpVec = VecGP
		v, ok := c.load(i.imm+c.segBase(i), i.size)
		if !ok {
			return false
		}
		c.set(RAX, i.size, v)
		return true
	case 0xA2, 0xA3:
		c.gpVec = VecGP
		return c.store(i.imm+c.segBase(i), i.size, c.get(RAX, i.size))
	case 0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF, 0x6C, 0x6D, 0x6E, 0x6F:
		return c.stringOp(i)
	case 0xA8, 0xA9:
		c.logic(c.get(RAX, i.size)&i.imm, i.size)
		return true
	case 0xB0, 0xB1, 0xB2, 0xB3, 0xB4, 0xB5, 0xB6, 0xB7, 0xB8, 0xB9, 0xBA, 0xBB, 0xBC, 0xBD, 0xBE, 0xBF:
		c.set(i.rm, i.size, i.imm)
		return true
	case 0xC0, 0xC1:
		return c.shiftRM(i, i.imm)
	case 0xD0, 0xD1:
		return c.shiftRM(i, 1)
	case 0xD2, 0xD3:
		return c.shiftRM(i, c.R[RCX])
	case 0xC2, 0xC3: // ret
		c.gpVec = VecSS
		to, ok := c.load(c.R[RSP], 8)
		if !ok || !c.jump(to) {
			return false
		}
		c.R[RSP] += 8 + i.imm
		return true
	case 0xC6, 0xC7:
		if i.reg&7 != 0 {
			return c.ud()
		}
		return c.writeRM(i, i.size, i.imm)
	case 0xC8:
		return c.enter(i)
	case 0xC9: // leave
		c.gpVec = VecSS
		v, ok := c.load(c.R[RBP], i.size)
		if !ok {
			return false
		}
		c.R[RSP] = c.R[RBP] + uint64(i.size)
		c.set(RBP, i.size, v)
		return true
	case 0xCA, 0xCB:
		return c.retFar(i)
	case 0xCC:
		return c.raiseTrap(VecBP, false)
	case 0xCD:
		return c.raiseTrap(int(uint8(i.imm)), true)
	case 0xCF:
		return c.iret(i)
	case 0xD7: // xlat
		c.gpVec = VecGP
		a := c.R[RBX] + c.R[RAX]&0xFF
		if i.addr32 {
			a = uint64(uint32(a))
		}
		v, ok := c.load(a+c.segBase(i), 1)
		if !ok {
			return false
		}
		c.set(RAX, 1, v)
		return true
	case 0xE0, 0xE1, 0xE2: // loopne, loope, loop
		n := c.R[RCX] - 1
		if i.addr32 {
			n = uint64(uint32(n))
		}
		take := n != 0
		if i.op != 0xE2 {
			take = take && (c.RFlags&FlagZF != 0) == (i.op == 0xE1)
		}
		if take && !c.jump(c.next+i.imm) {
			return false
		}
		c.R[RCX] = n
		return true
	case 0xE3: // jrcxz
		n := c.R[RCX]
		if i.addr32 {
			n = uint64(uint32(n))
		}
		if n == 0 {
			return c.jump(c.next + i.imm)
		}
		return true
	case 0xE4, 0xE5:
		return c.in(i, uint16(uint8(i.imm)))
	case 0xEC, 0xED:
		return c.in(i, uint16(c.R[RDX]))
	case 0xE6, 0xE7:
		return c.out(i, uint16(uint8(i.imm)))
	case 0xEE, 0xEF:
		return c.out(i, uint16(c.R[RDX]))
	case 0xE8:
		return c.call(c.next + i.imm)
	case 0xE9, 0xEB:
		return c.jump(c.next + i.imm)
	case 0xF1: // int1
		return c.raiseTrap(VecDB, false)
	case 0xF4: // hlt
		if c.CS&3 != 0 {
			return c.gp(0)
		}
		c.Halted = true
		return true
	case 0xF5:
		c.RFlags ^= FlagCF
		return true
	case 0xF6, 0xF7:
		return c.group3(i)
	case 0xF8:
		c.RFlags &^= FlagCF
		return true
	case 0xF9:
		c.RFlags |= FlagCF
		return true
	case 0xFA, 0xFB:
		return c.setIF(i.op == 0xFB)
	case 0xFC:
		c.RFlags &^= FlagDF
		return true
	case 0xFD:
		c.RFlags |= FlagDF
		return true
	case 0xFE, 0xFF:
		return c.group5(i)
	case 0xDB: // fninit and fnclex, which change nothing that exists here
		if !i.mem && (i.reg&7 == 4) && (i.rm&7 == 3 || i.rm&7 == 2) {
			return true
		}
		return c.ud()
	}
	if i.op >= 0x100 {
		return c.exec0F(i)
	}
	return c.ud()
}

// imul multiplies signed values of a size and sets CF and OF where the result
// does not fit. The other status flags are undefined; they follow the result.
func (c *CPU) imul(a, b uint64, size uint8) uint64 {
	x, y := int64(signExtend(a, size)), int64(signExtend(b, size))
	var r uint64
	var lost bool
	if size == 8 {
		hi, lo := mulSigned(x, y)
		r = lo
		lost = hi != uint64(int64(lo)>>63)
	} else {
		p := uint64(x * y)
		r = p & maskOf(size)
		lost = signExtend(r, size) != p
	}
	f := resultFlags(r, size)
	if lost {
		f |= FlagCF | FlagOF
	}
	c.setStatus(f)
	return r
}

func mulSigned(x, y int64) (hi, lo uint64) {
	hi, lo = bits.Mul64(uint64(x), uint64(y))
	if x < 0 {
		hi -= uint64(y)
	}
	if y < 0 {
		hi -= uint64(x)
	}
	return hi, lo
}

func (c *CPU) shiftRM(i *inst, count uint64) bool {
	addr, a, ok := c.modify(i)
	if !ok {
		return false
	}
	return c.commit(i, addr, c.shift(i.reg, a, count&0xFF, i.size))
}

// group3 is F6 and F7: test, not, neg, mul, imul, div, idiv.
func (c *CPU) group3(i *inst) bool {
	size := i.size
	switch i.reg & 7 {
	case 0, 1:
		a, ok := c.readRM(i, size)
		if !ok {
			return false
		}
		c.logic(a&i.imm, size)
		return true
	case 2:
		addr, a, ok := c.modify(i)
		if !ok {
			return false
		}
		return c.commit(i, addr, ^a)
	case 3:
		addr, a, ok := c.modify(i)
		if !ok {
			return false
		}
		return c.commit(i, addr, c.sub(0, a, 0, size))
	}
	b, ok := c.readRM(i, size)
	if !ok {
		return false
	}
	mask := maskOf(size)
	n := 8 * uint64(size)
	// The wide operand is dx:ax, or ax alone for bytes.
	var hi, lo uint64
	switch size {
	case 1:
		lo, hi = c.R[RAX]&0xFF, c.R[RAX]>>8&0xFF
	default:
		lo, hi = c.get(RAX, size), c.get(RDX, size)
	}
	switch i.reg & 7 {
	case 4: // mul
		var lost bool
		if size == 8 {
			hi, lo = bits.Mul64(lo, b)
		} else {
			p := lo * b
			lo, hi = p&mask, p>>n
		}
		lost = hi != 0
		f := resultFlags(lo, size)
		if lost {
			f |= FlagCF | FlagOF
		}
		c.setStatus(f)
	case 5: // imul
		var lost bool
		if size == 8 {
			hi, lo = mulSigned(int64(lo), int64(b))
			lost = hi != uint64(int64(lo)>>63)
		} else {
			p := signExtend(lo, size) * signExtend(b, size)
			lo, hi = p&mask, p>>n&mask
			lost = signExtend(lo, size) != p
		}
		f := resultFlags(lo, size)
		if lost {
			f |= FlagCF | FlagOF
		}
		c.setStatus(f)
	case 6: // div
		if b == 0 || hi >= b {
			return c.raise(VecDE, 0)
		}
		if size == 8 {
			lo, hi = bits.Div64(hi, lo, b)
		} else {
			p := hi<<n | lo
			lo, hi = p/b, p%b
		}
	case 7: // idiv
		q, r, ok := divSigned(hi, lo, b, size)
		if !ok {
			return c.raise(VecDE, 0)
		}
		lo, hi = q&mask, r&mask
	}
	if size == 1 {
		c.set(RAX, 2, hi<<8|lo)
	} else {
		c.set(RAX, size, lo)
		c.set(RDX, size, hi)
	}
	return true
}

// divSigned divides hi:lo by b, all two's complement of a size, truncating
// towards zero. It is not ok where the quotient does not fit.
func divSigned(hi, lo, b uint64, size uint8) (q, r uint64, ok bool) {
	if b == 0 {
		return 0, 0, false
	}
	d := signExtend(b, size)
	n := 8 * uint64(size)
	if size != 8 {
		p := int64(signExtend(hi<<n|lo, 2*size))
		if p == -1<<63 && int64(d) == -1 {
			return 0, 0, false
		}
		x, y := p/int64(d), p%int64(d)
		return uint64(x), uint64(y), uint64(x) == signExtend(uint64(x), size)
	}
	negP, negD := int64(hi) < 0, int64(d) < 0
	if negP {
		var borrow uint64
		lo, borrow = bits.Sub64(0, lo, 0)
		hi, _ = bits.Sub64(0, hi, borrow)
	}
	if negD {
		d = -d
	}
	if hi >= d {
		return 0, 0, false
	}
	q, r = bits.Div64(hi, lo, d)
	if negP != negD {
		if q > 1<<63 {
			return 0, 0, false
		}
		q = -q
	} else if q > 1<<63-1 {
		return 0, 0, false
	}
	if negP {
		r = -r
	}
	return q, r, true
}

// group5 is FE and FF: inc, dec, call, jmp, push.
func (c *CPU) group5(i *inst) bool {
	ext := i.reg & 7
	if i.op == 0xFE && ext > 1 {
		return c.ud()
	}
	switch ext {
	case 0, 1:
		addr, a, ok := c.modify(i)
		if !ok {
			return false
		}
		if ext == 0 {
			a = c.inc(a, i.size)
		} else {
			a = c.dec(a, i.size)
		}
		return c.commit(i, addr, a)
	case 2, 4:
		to, ok := c.readRM(i, 8)
		if !ok {
			return false
		}
		if ext == 2 {
			return c.call(to)
		}
		return c.jump(to)
	case 3, 5:
		if !i.mem {
			return c.ud()
		}
		return c.branchFar(i, ext == 3)
	case 6:
		v, ok := c.readRM(i, i.size)
		return ok && c.push(v, i.size)
	}
	return c.ud()
}

func (c *CPU) enter(i *inst) bool {
	size := uint64(i.size)
	c.gpVec = VecSS
	sp := c.R[RSP] - size
	if !c.store(sp, i.size, c.R[RBP]) {
		return false
	}
	frame := sp
	if level := i.imm2 & 31; level > 0 {
		bp := c.R[RBP]
		for range level - 1 {
			bp -= size
			v, ok := c.load(bp, i.size)
			sp -= size
			if !ok || !c.store(sp, i.size, v) {
				return false
			}
		}
		sp -= size
		if !c.store(sp, i.size, frame) {
			return false
		}
	}
	sp -= i.imm
	// The manuals check that the new top of stack is writable.
	if _, ok := c.loadW(sp, 1); !ok {
		return false
	}
	c.set(RBP, i.size, frame)
	c.R[RSP] = sp
	return true
}

func (c *CPU) exec0F(i *inst) bool {
	switch i.op {
	case 0x140, 0x141, 0x142, 0x143, 0x144, 0x145, 0x146, 0x147, 0x148, 0x149, 0x14A, 0x14B, 0x14C, 0x14D, 0x14E, 0x14F:
		v, ok := c.readRM(i, i.size)
		if !ok {
			return false
		}
		if !c.cond(uint8(i.op)) {
			v = c.get(i.reg, i.size) // a 32-bit move not taken still clears the upper half
		}
		c.set(i.reg, i.size, v)
		return true
	case 0x190, 0x191, 0x192, 0x193, 0x194, 0x195, 0x196, 0x197, 0x198, 0x199, 0x19A, 0x19B, 0x19C, 0x19D, 0x19E, 0x19F:
		v := uint64(0)
		if c.cond(uint8(i.op)) {
			v = 1
		}
		return c.writeRM(i, 1, v)
	case 0x1B6, 0x1B7, 0x1BE, 0x1BF: // movzx, movsx
		n := uint8(1 + i.op&1)
		v, ok := c.readRM(i, n)
		if !ok {
			return false
		}
		if i.op >= 0x1BE {
			v = signExtend(v, n)
		}
		c.set(i.reg, i.size, v)
		return true
	case 0x1AF:
		v, ok := c.readRM(i, i.size)
		if !ok {
			return false
		}
		c.set(i.reg, i.size, c.imul(c.get(i.reg, i.size), v, i.size))
		return true
	case 0x10D, 0x118, 0x119, 0x11A, 0x11B, 0x11C, 0x11D, 0x11E, 0x11F: // prefetch, nop, endbr64
		return true
	case 0x105:
		return c.syscall()
	case 0x107:
		return c.sysret(i)
	case 0x10B, 0x1B9, 0x1FF:
		return c.ud()
	case 0x1A0, 0x1A8:
		s := c.FS
		if i.op == 0x1A8 {
			s = c.GS
		}
		return c.push(uint64(s), i.size)
	case 0x1A1, 0x1A9:
		c.gpVec = VecSS
		v, ok := c.load(c.R[RSP], i.size)
		if !ok || !c.loadSreg(4+uint8(i.op>>3&1), uint16(v)) {
			return false
		}
		c.R[RSP] += uint64(i.size)
		return true
	case 0x1A2:
		c.cpuid()
		return true
	case 0x1A3, 0x1AB, 0x1B3, 0x1BB:
		return c.bitOp(i, uint8(i.op>>3&3), c.get(i.reg, i.size), true)
	case 0x1BA:
		if i.reg&7 < 4 {
			return c.ud()
		}
		return c.bitOp(i, i.reg&3, i.imm&(uint64(i.size)*8-1), false)
	case 0x1A4, 0x1A5, 0x1AC, 0x1AD:
		count := i.imm & 0xFF
		if i.op&1 != 0 {
			count = c.R[RCX] & 0xFF
		}
		addr, a, ok := c.modify(i)
		if !ok {
			return false
		}
		return c.commit(i, addr, c.shiftDouble(i.op < 0x1A8, a, c.get(i.reg, i.size), count, i.size))
	case 0x1B0, 0x1B1: // cmpxchg
		addr, a, ok := c.modify(i)
		if !ok {
			return false
		}
		acc := c.get(RAX, i.size)
		c.sub(acc, a, 0, i.size)
		if acc == a {
			return c.commit(i, addr, c.get(i.reg, i.size))
		}
		if i.mem { // the bus cycle always ends in a write; a register keeps its upper half
			c.store(addr, i.size, a)
		}
		c.set(RAX, i.size, a)
		return true
	case 0x1C0, 0x1C1: // xadd
		addr, a, ok := c.modify(i)
		if !ok {
			return false
		}
		r := c.add(a, c.get(i.reg, i.size), 0, i.size)
		if i.mem {
			c.store(addr, i.size, r)
			c.set(i.reg, i.size, a)
		} else {
			c.set(i.reg, i.size, a)
			c.set(i.rm, i.size, r)
		}
		return true
	case 0x1B8: // popcnt
		if i.rep != 0xF3 {
			return c.ud()
		}
		v, ok := c.readRM(i, i.size)
		if !ok {
			return false
		}
		f := uint64(0)
		if v == 0 {
			f = FlagZF
		}
		c.setStatus(f)
		c.set(i.reg, i.size, uint64(bits.OnesCount64(v)))
		return true
	case 0x1BC, 0x1BD:
		return c.bitScan(i)
	case 0x1C3: // movnti
		if !i.mem || i.size == 2 {
			return c.ud()
		}
		return c.store(c.ea(i), i.size, c.get(i.reg, i.size))
	case 0x1C7:
		return c.group9(i)
	case 0x1C8, 0x1C9, 0x1CA, 0x1CB, 0x1CC, 0x1CD, 0x1CE, 0x1CF: // bswap
		switch i.size {
		case 8:
			c.R[i.rm] = bits.ReverseBytes64(c.R[i.rm])
		case 4:
			c.set(i.rm, 4, uint64(bits.ReverseBytes32(uint32(c.R[i.rm]))))
		default:
			c.set(i.rm, 2, 0) // undefined; processors agree on zero
		}
		return true
	case 0x100, 0x101, 0x106, 0x108, 0x109, 0x120, 0x121, 0x122, 0x123, 0x130, 0x131, 0x132, 0x1AE:
		return c.system(i)
	}
	return c.sse(i)
}

// bitOp is bt, bts, btr, btc (0-3). A bit number from a register addresses
// memory beyond the operand.
func (c *CPU) bitOp(i *inst, op uint8, bit uint64, far bool) bool {
	n := uint64(i.size) * 8
	var addr, a uint64
	ok := true
	if i.mem {
		addr = c.ea(i)
		if far {
			k := uint64(int64(signExtend(bit, i.size)) >> bits.TrailingZeros64(n))
			addr = c.offset(i) + k*uint64(i.size)
			if i.addr32 {
				addr = uint64(uint32(addr))
			}
			addr += c.segBase(i)
		}
		if op == 0 {
			a, ok = c.load(addr, i.size)
		} else {
			a, ok = c.loadW(addr, i.size)
		}
	} else {
		a = c.get(i.rm, i.size)
	}
	if !ok {
		return false
	}
	m := uint64(1) << (bit & (n - 1))
	c.setFlag(FlagCF, a&m != 0)
	switch op {
	case 0:
		return true
	case 1:
		a |= m
	case 2:
		a &^= m
	case 3:
		a ^= m
	}
	return c.commit(i, addr, a)
}

// bitScan is bsf, bsr and, with F3, tzcnt and lzcnt.
func (c *CPU) bitScan(i *inst) bool {
	v, ok := c.readRM(i, i.size)
	if !ok {
		return false
	}
	n := uint64(i.size) * 8
	if i.rep == 0xF3 {
		r := n
		if v != 0 {
			if i.op == 0x1BC {
				r = uint64(bits.TrailingZeros64(v))
			} else {
				r = n - uint64(bits.Len64(v))
			}
		}
		c.setFlag(FlagCF, v == 0)
		c.setFlag(FlagZF, r == 0)
		c.set(i.reg, i.size, r)
		return true
	}
	c.setFlag(FlagZF, v == 0)
	if v == 0 {
		return true // the destination stays, as on every processor
	}
	r := uint64(bits.TrailingZeros64(v))
	if i.op == 0x1BD {
		r = uint64(bits.Len64(v)) - 1
	}
	c.set(i.reg, i.size, r)
	return true
}

// group9 is 0F C7: cmpxchg8b and cmpxchg16b.
func (c *CPU) group9(i *inst) bool {
	if i.reg&7 != 1 || !i.mem {
		return c.ud()
	}
	addr := c.ea(i)
	if !i.rexW {
		a, ok := c.loadW(addr, 8)
		if !ok {
			return false
		}
		if a == c.R[RDX]<<32|c.R[RAX]&0xFFFFFFFF {
			c.RFlags |= FlagZF
			return c.store(addr, 8, c.R[RCX]<<32|c.R[RBX]&0xFFFFFFFF)
		}
		c.RFlags &^= FlagZF
		c.store(addr, 8, a)
		c.set(RAX, 4, a)
		c.set(RDX, 4, a>>32)
		return true
	}
	if addr&15 != 0 {
		return c.gp(0)
	}
	lo, ok := c.loadW(addr, 8)
	if !ok {
		return false
	}
	hi, ok := c.loadW(addr+8, 8)
	if !ok {
		return false
	}
	if lo == c.R[RAX] && hi == c.R[RDX] {
		c.RFlags |= FlagZF
		return c.store128(addr, c.R[RBX], c.R[RCX])
	}
	c.RFlags &^= FlagZF
	c.store128(addr, lo, hi)
	c.R[RAX], c.R[RDX] = lo, hi
	return true
}
