package cpu

import "math/bits"

// parity has FlagPF for bytes with an even number of ones.
var parity = buildParity()

func buildParity() (t [256]uint8) {
	for k := range t {
		if bits.OnesCount8(uint8(k))&1 == 0 {
			t[k] = FlagPF
		}
	}
	return t
}

func maskOf(size uint8) uint64 { return ^uint64(0) >> ((64 - 8*size) & 63) }

// signShift is the number of the sign bit.
func signShift(size uint8) uint8 { return (8*size - 1) & 63 }

func signExtend(v uint64, size uint8) uint64 {
	s := (64 - 8*size) & 63
	return uint64(int64(v<<s) >> s)
}

// resultFlags are ZF, SF and PF of r.
func resultFlags(r uint64, size uint8) uint64 {
	f := uint64(parity[uint8(r)]) | r>>signShift(size)&1<<7
	if r == 0 {
		f |= FlagZF
	}
	return f
}

func (c *CPU) setStatus(f uint64) { c.RFlags = c.RFlags&^flagStatus | f }

func (c *CPU) setFlag(bit uint64, on bool) {
	if on {
		c.RFlags |= bit
	} else {
		c.RFlags &^= bit
	}
}

// add returns a+b+cin and sets the status flags. a and b fit in size.
func (c *CPU) add(a, b, cin uint64, size uint8) uint64 {
	r := (a + b + cin) & maskOf(size)
	s := signShift(size)
	carry := a&b | (a|b)&^r
	over := (a ^ r) & (b ^ r)
	c.setStatus(carry>>s&1 | over>>s&1<<11 | (a^b^r)&FlagAF | resultFlags(r, size))
	return r
}

// sub returns a-b-cin and sets the status flags. a and b fit in size.
func (c *CPU) sub(a, b, cin uint64, size uint8) uint64 {
	r := (a - b - cin) & maskOf(size)
	s := signShift(size)
	borrow := ^a&b | (^a|b)&r
	over := (a ^ b) & (a ^ r)
	c.setStatus(borrow>>s&1 | over>>s&1<<11 | (a^b^r)&FlagAF | resultFlags(r, size))
	return r
}

func (c *CPU) logic(r uint64, size uint8) uint64 {
	c.setStatus(resultFlags(r, size))
	return r
}

// alu does one of add or adc sbb and sub xor cmp, numbered as in the opcodes.
// The result of cmp is to be thrown away.
func (c *CPU) alu(op uint8, a, b uint64, size uint8) uint64 {
	switch op & 7 {
	case 0:
		return c.add(a, b, 0, size)
	case 1:
		return c.logic(a|b, size)
	case 2:
		return c.add(a, b, c.RFlags&FlagCF, size)
	case 3:
		return c.sub(a, b, c.RFlags&FlagCF, size)
	case 4:
		return c.logic(a&b, size)
	case 6:
		return c.logic(a^b, size)
	}
	return c.sub(a, b, 0, size)
}

func (c *CPU) inc(a uint64, size uint8) uint64 {
	cf := c.RFlags & FlagCF
	r := c.add(a, 1, 0, size)
	c.RFlags = c.RFlags&^FlagCF | cf
	return r
}

func (c *CPU) dec(a uint64, size uint8) uint64 {
	cf := c.RFlags & FlagCF
	r := c.sub(a, 1, 0, size)
	c.RFlags = c.RFlags&^FlagCF | cf
	return r
}

// shift does one of rol ror rcl rcr shl shr sal sar, numbered as in the
// opcodes, and sets the flags; a count of zero changes nothing.
func (c *CPU) shift(op uint8, a, count uint64, size uint8) uint64 {
	if size == 8 {
		count &= 63
	} else {
		count &= 31
	}
	if count == 0 {
		return a
	}
	n := uint64(size) * 8
	mask := maskOf(size)
	s := signShift(size)
	var r, cf, of uint64
	switch op & 7 {
	case 0: // rol
		k := count % n
		r = (a<<k | a>>(n-k)) & mask
		cf = r & 1
		of = r>>s&1 ^ cf
		c.RFlags = c.RFlags&^(FlagCF|FlagOF) | cf | of<<11
		return r
	case 1: // ror
		k := count % n
		r = (a>>k | a<<(n-k)) & mask
		cf = r >> s & 1
		of = cf ^ r>>(s-1)&1
		c.RFlags = c.RFlags&^(FlagCF|FlagOF) | cf | of<<11
		return r
	case 2: // rcl
		cf = c.RFlags & FlagCF
		r = a
		for range count % (n + 1) {
			top := r >> s & 1
			r = (r<<1 | cf) & mask
			cf = top
		}
		of = r>>s&1 ^ cf
		c.RFlags = c.RFlags&^(FlagCF|FlagOF) | cf | of<<11
		return r
	case 3: // rcr
		cf = c.RFlags & FlagCF
		r = a
		for range count % (n + 1) {
			low := r & 1
			r = r>>1 | cf<<s
			cf = low
		}
		of = r>>s&1 ^ r>>(s-1)&1
		c.RFlags = c.RFlags&^(FlagCF|FlagOF) | cf | of<<11
		return r
	case 4, 6: // shl
		r = a << count & mask
		if count <= n {
			cf = a >> (n - count) & 1
		}
		of = r>>s&1 ^ cf
	case 5: // shr
		r = a >> count
		cf = a >> (count - 1) & 1
		of = a >> s & 1
	case 7: // sar
		x := int64(signExtend(a, size))
		r = uint64(x>>count) & mask
		cf = uint64(x>>(count-1)) & 1
	}
	c.setStatus(cf | of<<11 | resultFlags(r, size))
	return r
}

// shiftDouble does shld (left) or shrd. For 16-bit operands and counts over 16
// the result is undefined in the manuals; here the operand pair repeats.
func (c *CPU) shiftDouble(left bool, a, b, count uint64, size uint8) uint64 {
	if size == 8 {
		count &= 63
	} else {
		count &= 31
	}
	if count == 0 {
		return a
	}
	n := uint64(size) * 8
	mask := maskOf(size)
	s := signShift(size)
	var r, cf uint64
	if left {
		if count > n { // 16-bit only
			w := a<<32 | b<<16 | a
			r = w >> (32 - count) & mask
			cf = w >> (48 - count) & 1
		} else {
			r = (a<<count | b>>(n-count)) & mask
			cf = a >> (n - count) & 1
		}
	} else {
		if count > n {
			w := a<<32 | b<<16 | a
			r = w >> count & mask
			cf = w >> (count - 1) & 1
		} else {
			r = (a>>count | b<<(n-count)) & mask
			cf = a >> (count - 1) & 1
		}
	}
	of := (a ^ r) >> s & 1
	c.setStatus(cf | of<<11 | resultFlags(r, size))
	return r
}

// cond evaluates the condition code of jcc, setcc and cmovcc.
func (c *CPU) cond(cc uint8) bool {
	f := c.RFlags
	var v bool
	switch cc >> 1 & 7 {
	case 0:
		v = f&FlagOF != 0
	case 1:
		v = f&FlagCF != 0
	case 2:
		v = f&FlagZF != 0
	case 3:
		v = f&(FlagCF|FlagZF) != 0
	case 4:
		v = f&FlagSF != 0
	case 5:
		v = f&FlagPF != 0
	case 6:
		v = (f>>7^f>>11)&1 != 0
	case 7:
		v = f&FlagZF != 0 || (f>>7^f>>11)&1 != 0
	}
	return v != (cc&1 != 0)
}
