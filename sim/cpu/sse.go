package cpu

import "math"

// Mandatory prefixes of the 0F map, in the order of precedence of the manuals.
const (
	pNone = iota
	p66
	pF3
	pF2
)

func (i *inst) prefix() int {
	switch {
	case i.rep == 0xF3:
		return pF3
	case i.rep == 0xF2:
		return pF2
	case i.p66:
		return p66
	}
	return pNone
}

// MXCSR exception flags that are kept.
const (
	mxIE = 1 << 0
	mxZE = 1 << 2
)

// srcX reads the 16-byte r/m operand, which must be aligned in memory.
func (c *CPU) srcX(i *inst) (lo, hi uint64, ok bool) {
	if !i.mem {
		lo, hi = c.xmm(i.rm)
		return lo, hi, true
	}
	a := c.ea(i)
	if a&15 != 0 {
		return 0, 0, c.gp(0)
	}
	return c.load128(a)
}

// srcLow reads the low 4 or 8 bytes of the r/m operand.
func (c *CPU) srcLow(i *inst, size uint8) (uint64, bool) {
	if i.mem {
		return c.load(c.ea(i), size)
	}
	lo, _ := c.xmm(i.rm)
	return lo & maskOf(size), true
}

// setLow replaces the low 4 or 8 bytes of a register.
func (c *CPU) setLow(n, size uint8, v uint64) {
	lo, hi := c.xmm(n)
	m := maskOf(size)
	c.setXMM(n, lo&^m|v&m, hi)
}

// sse does the vector and floating point instructions of the 0F map.
func (c *CPU) sse(i *inst) bool {
	if !c.sseOK() {
		return false
	}
	p := i.prefix()
	switch i.op {
	case 0x110, 0x111, 0x128, 0x129, 0x16F, 0x17F, 0x12B, 0x1E7:
		return c.moveX(i, p)
	case 0x112, 0x113, 0x116, 0x117:
		return c.moveHalf(i, p)
	case 0x16E: // movd, movq
		if p != p66 {
			return c.ud()
		}
		n := uint8(4)
		if i.rexW {
			n = 8
		}
		v, ok := c.readRM(i, n)
		if !ok {
			return false
		}
		c.setXMM(i.reg, v, 0)
		return true
	case 0x17E:
		lo, _ := c.xmm(i.reg)
		switch p {
		case p66:
			n := uint8(4)
			if i.rexW {
				n = 8
			}
			return c.writeRM(i, n, lo)
		case pF3:
			v, ok := c.srcLow(i, 8)
			if !ok {
				return false
			}
			c.setXMM(i.reg, v, 0)
			return true
		}
		return c.ud()
	case 0x1D6:
		if p != p66 {
			return c.ud()
		}
		lo, _ := c.xmm(i.reg)
		if i.mem {
			return c.store(c.ea(i), 8, lo)
		}
		c.setXMM(i.rm, lo, 0)
		return true
	case 0x12A, 0x12C, 0x12D:
		return c.convertGeneral(i, p)
	case 0x12E, 0x12F:
		return c.compareScalar(i, p)
	case 0x150: // movmskps, movmskpd
		if i.mem || p > p66 {
			return c.ud()
		}
		lo, hi := c.xmm(i.rm)
		if p == p66 {
			c.R[i.reg] = lo>>63 | hi>>63<<1
		} else {
			c.R[i.reg] = lo>>31&1 | lo>>63<<1 | hi>>31&1<<2 | hi>>63<<3
		}
		return true
	case 0x1D7: // pmovmskb
		if i.mem || p != p66 {
			return c.ud()
		}
		lo, hi := c.xmm(i.rm)
		var m uint64
		for k := range 8 {
			m |= lo >> (8*k + 7) & 1 << k
			m |= hi >> (8*k + 7) & 1 << (8 + k)
		}
		c.R[i.reg] = m
		return true
	case 0x151, 0x158, 0x159, 0x15C, 0x15D, 0x15E, 0x15F, 0x1C2:
		return c.arith(i, p)
	case 0x15A, 0x15B, 0x1E6:
		return c.convert(i, p)
	case 0x114, 0x115, 0x1C6, 0x154, 0x155, 0x156, 0x157:
		if p > p66 {
			return c.ud()
		}
		return c.shuffleFloat(i, p)
	case 0x170:
		return c.shuffleInt(i, p)
	case 0x171, 0x172, 0x173:
		if p != p66 || i.mem {
			return c.ud()
		}
		return c.shiftImm(i)
	case 0x1C4: // pinsrw
		if p != p66 {
			return c.ud()
		}
		v, ok := c.readRM(i, 2)
		if !ok {
			return false
		}
		lo, hi := c.xmm(i.reg)
		s := i.imm & 3 * 16
		if i.imm&4 == 0 {
			lo = lo&^(0xFFFF<<s) | v<<s
		} else {
			hi = hi&^(0xFFFF<<s) | v<<s
		}
		c.setXMM(i.reg, lo, hi)
		return true
	case 0x1C5: // pextrw
		if p != p66 || i.mem {
			return c.ud()
		}
		lo, hi := c.xmm(i.rm)
		if i.imm&4 != 0 {
			lo = hi
		}
		c.R[i.reg] = lo >> (i.imm & 3 * 16) & 0xFFFF
		return true
	case 0x1F7: // maskmovdqu
		if p != p66 || i.mem {
			return c.ud()
		}
		return c.maskMove(i)
	}
	if p != p66 || !packedOp(i.op) {
		return c.ud()
	}
	bl, bh, ok := c.srcX(i)
	if !ok {
		return false
	}
	al, ah := c.xmm(i.reg)
	lo, hi := packed(i.op, al, ah, bl, bh)
	c.setXMM(i.reg, lo, hi)
	return true
}

// moveX is the whole-register and scalar moves.
func (c *CPU) moveX(i *inst, p int) bool {
	aligned, toMem := false, false
	switch i.op {
	case 0x110, 0x111:
		toMem = i.op == 0x111
		if p >= pF3 {
			size := uint8(4)
			if p == pF2 {
				size = 8
			}
			switch {
			case !i.mem:
				from, to := i.rm, i.reg
				if toMem {
					from, to = to, from
				}
				v, _ := c.xmm(from)
				c.setLow(to, size, v)
				return true
			case toMem:
				v, _ := c.xmm(i.reg)
				return c.store(c.ea(i), size, v)
			}
			v, ok := c.load(c.ea(i), size)
			if !ok {
				return false
			}
			c.setXMM(i.reg, v, 0)
			return true
		}
	case 0x128, 0x129:
		if p > p66 {
			return c.ud()
		}
		aligned, toMem = true, i.op == 0x129
	case 0x12B:
		if p > p66 || !i.mem {
			return c.ud()
		}
		aligned, toMem = true, true
	case 0x1E7:
		if p != p66 || !i.mem {
			return c.ud()
		}
		aligned, toMem = true, true
	default: // 6F, 7F
		if p != p66 && p != pF3 {
			return c.ud()
		}
		aligned, toMem = p == p66, i.op == 0x17F
	}
	var a uint64
	if i.mem {
		a = c.ea(i)
		if aligned && a&15 != 0 {
			return c.gp(0)
		}
	}
	if toMem {
		lo, hi := c.xmm(i.reg)
		if i.mem {
			return c.store128(a, lo, hi)
		}
		c.setXMM(i.rm, lo, hi)
		return true
	}
	lo, hi := c.xmm(i.rm)
	if i.mem {
		var ok bool
		if lo, hi, ok = c.load128(a); !ok {
			return false
		}
	}
	c.setXMM(i.reg, lo, hi)
	return true
}

// moveHalf is movlps, movhps, movlpd, movhpd, movhlps, movlhps.
func (c *CPU) moveHalf(i *inst, p int) bool {
	store := i.op&1 != 0
	if p > p66 || !i.mem && (p == p66 || store) {
		return c.ud()
	}
	lo, hi := c.xmm(i.reg)
	high := i.op >= 0x116
	if store {
		if high {
			lo = hi
		}
		return c.store(c.ea(i), 8, lo)
	}
	var v uint64
	if i.mem {
		var ok bool
		if v, ok = c.load(c.ea(i), 8); !ok {
			return false
		}
	} else {
		l, h := c.xmm(i.rm)
		v = h
		if high {
			v = l
		}
	}
	if high {
		c.setXMM(i.reg, lo, v)
	} else {
		c.setXMM(i.reg, v, hi)
	}
	return true
}

func (c *CPU) maskMove(i *inst) bool {
	ml, mh := c.xmm(i.rm)
	dl, dh := c.xmm(i.reg)
	a := c.R[RDI]
	if i.addr32 {
		a = uint64(uint32(a))
	}
	a += c.segBase(i)
	c.gpVec = VecGP
	at := func(lo, hi uint64, k int) uint8 {
		if k >= 8 {
			return uint8(hi >> (8 * (k - 8)))
		}
		return uint8(lo >> (8 * k))
	}
	for pass := range 2 { // first see that all of it can be written
		for k := range 16 {
			if at(ml, mh, k)&0x80 == 0 {
				continue
			}
			if pass == 0 {
				if _, ok := c.loadW(a+uint64(k), 1); !ok {
					return false
				}
			} else {
				c.store(a+uint64(k), 1, uint64(at(dl, dh, k)))
			}
		}
	}
	return true
}

// Floating point. Values travel as bits; a NaN keeps its payload as the
// hardware keeps it, which Go's arithmetic does not promise.

const (
	quiet32   = 1 << 22
	quiet64   = 1 << 51
	default32 = 0xFFC00000
	default64 = 0xFFF8000000000000
)

func isNaN32(v uint32) bool { return v&0x7FFFFFFF > 0x7F800000 }
func isNaN64(v uint64) bool { return v&^(1<<63) > 0x7FF0000000000000 }
func isSNaN(v uint64, size uint8) bool {
	if size == 4 {
		return isNaN32(uint32(v)) && v&quiet32 == 0
	}
	return isNaN64(v) && v&quiet64 == 0
}

// float does sqrt (51), add (58), mul (59), sub (5C), min (5D), div (5E) or
// max (5F) on one element.
func (c *CPU) float(op uint8, a, b uint64, size uint8) uint64 {
	if size == 4 {
		return uint64(c.float32(op, uint32(a), uint32(b)))
	}
	if op == 0x51 {
		a = b
	}
	nan := isNaN64(a) || isNaN64(b)
	x, y := math.Float64frombits(a), math.Float64frombits(b)
	switch op {
	case 0x5D, 0x5F:
		if nan {
			c.MxCsr |= mxIE
			return b
		}
		if op == 0x5D && x < y || op == 0x5F && x > y {
			return a
		}
		return b
	}
	if nan {
		if isSNaN(a, 8) || isSNaN(b, 8) {
			c.MxCsr |= mxIE
		}
		if isNaN64(a) {
			return a | quiet64
		}
		return b | quiet64
	}
	var r float64
	switch op {
	case 0x51:
		r = math.Sqrt(y)
	case 0x58:
		r = x + y
	case 0x59:
		r = x * y
	case 0x5C:
		r = x - y
	case 0x5E:
		if y == 0 && x != 0 && !math.IsInf(x, 0) {
			c.MxCsr |= mxZE
		}
		r = x / y
	}
	if r != r {
		c.MxCsr |= mxIE
		return default64
	}
	return math.Float64bits(r)
}

func (c *CPU) float32(op uint8, a, b uint32) uint32 {
	if op == 0x51 {
		a = b
	}
	nan := isNaN32(a) || isNaN32(b)
	x, y := math.Float32frombits(a), math.Float32frombits(b)
	switch op {
	case 0x5D, 0x5F:
		if nan {
			c.MxCsr |= mxIE
			return b
		}
		if op == 0x5D && x < y || op == 0x5F && x > y {
			return a
		}
		return b
	}
	if nan {
		if isSNaN(uint64(a), 4) || isSNaN(uint64(b), 4) {
			c.MxCsr |= mxIE
		}
		if isNaN32(a) {
			return a | quiet32
		}
		return b | quiet32
	}
	var r float32
	switch op {
	case 0x51:
		r = float32(math.Sqrt(float64(y)))
	case 0x58:
		r = x + y
	case 0x59:
		r = x * y
	case 0x5C:
		r = x - y
	case 0x5E:
		if y == 0 && x != 0 && !math.IsInf(float64(x), 0) {
			c.MxCsr |= mxZE
		}
		r = x / y
	}
	if r != r {
		c.MxCsr |= mxIE
		return default32
	}
	return math.Float32bits(r)
}

// floatCompare does one element of cmpps and kin; the answer is all ones or 0.
func (c *CPU) floatCompare(pred uint8, a, b uint64, size uint8) uint64 {
	var x, y float64
	var nan bool
	if size == 4 {
		nan = isNaN32(uint32(a)) || isNaN32(uint32(b))
		x, y = float64(math.Float32frombits(uint32(a))), float64(math.Float32frombits(uint32(b)))
	} else {
		nan = isNaN64(a) || isNaN64(b)
		x, y = math.Float64frombits(a), math.Float64frombits(b)
	}
	if isSNaN(a, size) || isSNaN(b, size) || nan && (pred&3 == 1 || pred&3 == 2) {
		c.MxCsr |= mxIE
	}
	var r bool
	switch pred & 3 {
	case 0:
		r = !nan && x == y
	case 1:
		r = !nan && x < y
	case 2:
		r = !nan && x <= y
	case 3:
		r = nan
	}
	if r != (pred&4 != 0) {
		return maskOf(size)
	}
	return 0
}

// arith does the four widths of float and floatCompare.
func (c *CPU) arith(i *inst, p int) bool {
	op := uint8(i.op)
	one := func(a, b uint64, size uint8) uint64 {
		if op == 0xC2 {
			return c.floatCompare(uint8(i.imm), a, b, size)
		}
		return c.float(op, a, b, size)
	}
	al, ah := c.xmm(i.reg)
	switch p {
	case pF3, pF2:
		size := uint8(4)
		if p == pF2 {
			size = 8
		}
		b, ok := c.srcLow(i, size)
		if !ok {
			return false
		}
		c.setLow(i.reg, size, one(al&maskOf(size), b, size))
		return true
	}
	bl, bh, ok := c.srcX(i)
	if !ok {
		return false
	}
	if p == p66 {
		c.setXMM(i.reg, one(al, bl, 8), one(ah, bh, 8))
		return true
	}
	const m = 0xFFFFFFFF
	lo := one(al&m, bl&m, 4) | one(al>>32, bl>>32, 4)<<32
	hi := one(ah&m, bh&m, 4) | one(ah>>32, bh>>32, 4)<<32
	c.setXMM(i.reg, lo, hi)
	return true
}

// compareScalar is ucomiss, ucomisd, comiss, comisd.
func (c *CPU) compareScalar(i *inst, p int) bool {
	if p > p66 {
		return c.ud()
	}
	size := uint8(4)
	if p == p66 {
		size = 8
	}
	b, ok := c.srcLow(i, size)
	if !ok {
		return false
	}
	a, _ := c.xmm(i.reg)
	a &= maskOf(size)
	var x, y float64
	var nan bool
	if size == 4 {
		nan = isNaN32(uint32(a)) || isNaN32(uint32(b))
		x, y = float64(math.Float32frombits(uint32(a))), float64(math.Float32frombits(uint32(b)))
	} else {
		nan = isNaN64(a) || isNaN64(b)
		x, y = math.Float64frombits(a), math.Float64frombits(b)
	}
	if nan && (i.op == 0x12F || isSNaN(a, size) || isSNaN(b, size)) {
		c.MxCsr |= mxIE
	}
	switch {
	case nan:
		c.setStatus(FlagZF | FlagPF | FlagCF)
	case x < y:
		c.setStatus(FlagCF)
	case x == y:
		c.setStatus(FlagZF)
	default:
		c.setStatus(0)
	}
	return true
}

// toInt converts to a signed integer of 4 or 8 bytes, rounding by MXCSR or,
// with trunc, towards zero. What does not fit is the "integer indefinite".
func (c *CPU) toInt(x float64, size uint8, trunc bool) uint64 {
	if !trunc {
		switch c.MxCsr >> 13 & 3 {
		case 0:
			x = math.RoundToEven(x)
		case 1:
			x = math.Floor(x)
		case 2:
			x = math.Ceil(x)
		}
	}
	x = math.Trunc(x)
	limit := float64(1 << 31)
	if size == 8 {
		limit = 1 << 63
	}
	if !(x >= -limit && x < limit) {
		c.MxCsr |= mxIE
		return 1 << signShift(size)
	}
	return uint64(int64(x)) & maskOf(size)
}

// convertGeneral is cvtsi2ss/sd, cvt(t)ss2si and cvt(t)sd2si.
func (c *CPU) convertGeneral(i *inst, p int) bool {
	if p < pF3 {
		return c.ud() // MMX forms
	}
	n := uint8(4)
	if i.rexW {
		n = 8
	}
	if i.op == 0x12A {
		v, ok := c.readRM(i, n)
		if !ok {
			return false
		}
		s := int64(signExtend(v, n))
		if p == pF3 {
			c.setLow(i.reg, 4, uint64(math.Float32bits(float32(s))))
		} else {
			c.setLow(i.reg, 8, math.Float64bits(float64(s)))
		}
		return true
	}
	size := uint8(4)
	if p == pF2 {
		size = 8
	}
	v, ok := c.srcLow(i, size)
	if !ok {
		return false
	}
	x := math.Float64frombits(v)
	if size == 4 {
		x = float64(math.Float32frombits(uint32(v)))
	}
	c.set(i.reg, n, c.toInt(x, n, i.op == 0x12C))
	return true
}

func (c *CPU) widen(v uint32) uint64 {
	if isNaN32(v) {
		if v&quiet32 == 0 {
			c.MxCsr |= mxIE
		}
		return uint64(v>>31)<<63 | 0x7FF<<52 | quiet64 | uint64(v&0x7FFFFF)<<29
	}
	return math.Float64bits(float64(math.Float32frombits(v)))
}

func (c *CPU) narrow(v uint64) uint64 {
	if isNaN64(v) {
		if v&quiet64 == 0 {
			c.MxCsr |= mxIE
		}
		return v>>63<<31 | 0x7F800000 | quiet32 | v>>29&0x7FFFFF
	}
	return uint64(math.Float32bits(float32(math.Float64frombits(v))))
}

// convert is the conversions between vector elements.
func (c *CPU) convert(i *inst, p int) bool {
	f32 := func(v uint64) float64 { return float64(math.Float32frombits(uint32(v))) }
	switch {
	case i.op == 0x15A && p == pF3: // cvtss2sd
		v, ok := c.srcLow(i, 4)
		if !ok {
			return false
		}
		c.setLow(i.reg, 8, c.widen(uint32(v)))
		return true
	case i.op == 0x15A && p == pF2: // cvtsd2ss
		v, ok := c.srcLow(i, 8)
		if !ok {
			return false
		}
		c.setLow(i.reg, 4, c.narrow(v))
		return true
	case i.op == 0x15A && p == pNone: // cvtps2pd
		v, ok := c.srcLow(i, 8)
		if !ok {
			return false
		}
		c.setXMM(i.reg, c.widen(uint32(v)), c.widen(uint32(v>>32)))
		return true
	case i.op == 0x1E6 && p == pF3: // cvtdq2pd
		v, ok := c.srcLow(i, 8)
		if !ok {
			return false
		}
		c.setXMM(i.reg, math.Float64bits(float64(int32(v))), math.Float64bits(float64(int32(v>>32))))
		return true
	}
	if i.op == 0x15B && p == pF2 || i.op == 0x1E6 && p == pNone {
		return c.ud()
	}
	lo, hi, ok := c.srcX(i)
	if !ok {
		return false
	}
	switch i.op {
	case 0x15A: // cvtpd2ps
		c.setXMM(i.reg, c.narrow(lo)|c.narrow(hi)<<32, 0)
	case 0x1E6: // cvttpd2dq, cvtpd2dq
		a := c.toInt(math.Float64frombits(lo), 4, p == p66)
		b := c.toInt(math.Float64frombits(hi), 4, p == p66)
		c.setXMM(i.reg, a|b<<32, 0)
	default:
		one := func(v uint64) uint64 {
			v &= 0xFFFFFFFF
			if p == pNone { // cvtdq2ps
				return uint64(math.Float32bits(float32(int32(v))))
			}
			return c.toInt(f32(v), 4, p == pF3)
		}
		c.setXMM(i.reg, one(lo)|one(lo>>32)<<32, one(hi)|one(hi>>32)<<32)
	}
	return true
}

// shuffleFloat is unpck, shufps/pd and the logical operations on floats.
func (c *CPU) shuffleFloat(i *inst, p int) bool {
	bl, bh, ok := c.srcX(i)
	if !ok {
		return false
	}
	al, ah := c.xmm(i.reg)
	const m = 0xFFFFFFFF
	var lo, hi uint64
	switch i.op {
	case 0x154:
		lo, hi = al&bl, ah&bh
	case 0x155:
		lo, hi = ^al&bl, ^ah&bh
	case 0x156:
		lo, hi = al|bl, ah|bh
	case 0x157:
		lo, hi = al^bl, ah^bh
	case 0x114, 0x115:
		if i.op == 0x115 {
			al, bl = ah, bh
		}
		if p == p66 {
			lo, hi = al, bl
		} else {
			lo, hi = al&m|bl<<32, al>>32|bl&^m
		}
	case 0x1C6:
		if p == p66 {
			lo, hi = al, bl
			if i.imm&1 != 0 {
				lo = ah
			}
			if i.imm&2 != 0 {
				hi = bh
			}
		} else {
			lo = dword(al, ah, i.imm) | dword(al, ah, i.imm>>2)<<32
			hi = dword(bl, bh, i.imm>>4) | dword(bl, bh, i.imm>>6)<<32
		}
	}
	c.setXMM(i.reg, lo, hi)
	return true
}

// dword is element k&3 of four.
func dword(lo, hi, k uint64) uint64 {
	if k&2 != 0 {
		lo = hi
	}
	return lo >> (k & 1 * 32) & 0xFFFFFFFF
}

// shuffleInt is pshufd, pshufhw, pshuflw.
func (c *CPU) shuffleInt(i *inst, p int) bool {
	if p == pNone {
		return c.ud()
	}
	lo, hi, ok := c.srcX(i)
	if !ok {
		return false
	}
	words := func(v uint64) (r uint64) {
		for k := range 4 {
			r |= v >> (i.imm >> (2 * k) & 3 * 16) & 0xFFFF << (16 * k)
		}
		return r
	}
	switch p {
	case p66:
		lo, hi = dword(lo, hi, i.imm)|dword(lo, hi, i.imm>>2)<<32, dword(lo, hi, i.imm>>4)|dword(lo, hi, i.imm>>6)<<32
	case pF3:
		hi = words(hi)
	case pF2:
		lo = words(lo)
	}
	c.setXMM(i.reg, lo, hi)
	return true
}

// shiftLane shifts elements of size bytes: 0 right, 1 arithmetic right, 2 left.
func shiftLane(kind int, v, count uint64, size uint8) uint64 {
	n := 8 * uint64(size)
	if kind == 1 && count >= n {
		count = n - 1
	}
	if count >= n {
		return 0
	}
	return mapLanes(v, 0, size, func(a, _ uint64) uint64 {
		switch kind {
		case 0:
			return a >> count
		case 1:
			return uint64(int64(signExtend(a, size)) >> count)
		}
		return a << count
	})
}

// shiftImm is groups 12, 13 and 14.
func (c *CPU) shiftImm(i *inst) bool {
	lo, hi := c.xmm(i.rm)
	n := i.imm & 0xFF
	size := uint8(2) << (i.op - 0x171)
	switch i.reg & 7 {
	case 2:
		lo, hi = shiftLane(0, lo, n, size), shiftLane(0, hi, n, size)
	case 4:
		if size == 8 {
			return c.ud()
		}
		lo, hi = shiftLane(1, lo, n, size), shiftLane(1, hi, n, size)
	case 6:
		lo, hi = shiftLane(2, lo, n, size), shiftLane(2, hi, n, size)
	case 3, 7: // psrldq, pslldq
		if size != 8 {
			return c.ud()
		}
		n = min(n, 16) * 8
		if i.reg&7 == 3 {
			if n >= 64 {
				lo, hi = hi>>(n-64), 0
			} else {
				lo, hi = lo>>n|hi<<(64-n), hi>>n
			}
		} else {
			if n >= 64 {
				lo, hi = 0, lo<<(n-64)
			} else {
				lo, hi = lo<<n, hi<<n|lo>>(64-n)
			}
		}
	default:
		return c.ud()
	}
	c.setXMM(i.rm, lo, hi)
	return true
}

// mapLanes applies f to the elements of size bytes of half a register.
func mapLanes(a, b uint64, size uint8, f func(a, b uint64) uint64) (r uint64) {
	n := 8 * uint64(size)
	m := maskOf(size)
	for s := uint64(0); s < 64; s += n {
		r |= f(a>>s&m, b>>s&m) & m << s
	}
	return r
}

func clamp(v, lo, hi int64) uint64 { return uint64(min(max(v, lo), hi)) }

// packedOp reports whether packed knows an opcode of the 66 0F map.
func packedOp(op uint16) bool {
	switch {
	case op >= 0x160 && op <= 0x16D, op >= 0x174 && op <= 0x176:
		return true
	case op >= 0x1D1 && op <= 0x1FE:
		switch op {
		case 0x1D6, 0x1D7, 0x1E6, 0x1E7, 0x1F0, 0x1F7:
			return false
		}
		return true
	}
	return false
}

// packed does the integer vector operations on two registers.
func packed(op uint16, al, ah, bl, bh uint64) (lo, hi uint64) {
	both := func(size uint8, f func(a, b uint64) uint64) (uint64, uint64) {
		return mapLanes(al, bl, size, f), mapLanes(ah, bh, size, f)
	}
	signed := func(size uint8, f func(a, b int64) uint64) (uint64, uint64) {
		return both(size, func(a, b uint64) uint64 {
			return f(int64(signExtend(a, size)), int64(signExtend(b, size)))
		})
	}
	shift := func(kind int, size uint8) (uint64, uint64) {
		return shiftLane(kind, al, bl, size), shiftLane(kind, ah, bl, size)
	}
	ones := func(on bool) uint64 {
		if on {
			return ^uint64(0)
		}
		return 0
	}
	switch op {
	case 0x160, 0x161, 0x162: // punpckl
		return interleave(al, bl, 1<<(op-0x160))
	case 0x168, 0x169, 0x16A: // punpckh
		return interleave(ah, bh, 1<<(op-0x168))
	case 0x16C:
		return al, bl
	case 0x16D:
		return ah, bh
	case 0x163: // packsswb
		return pack(al, ah, 2, -128, 127), pack(bl, bh, 2, -128, 127)
	case 0x167: // packuswb
		return pack(al, ah, 2, 0, 255), pack(bl, bh, 2, 0, 255)
	case 0x16B: // packssdw
		return pack(al, ah, 4, -32768, 32767), pack(bl, bh, 4, -32768, 32767)
	case 0x164, 0x165, 0x166: // pcmpgt
		return signed(1<<(op-0x164), func(a, b int64) uint64 { return ones(a > b) })
	case 0x174, 0x175, 0x176: // pcmpeq
		return both(1<<(op-0x174), func(a, b uint64) uint64 { return ones(a == b) })
	case 0x1D1, 0x1D2, 0x1D3:
		return shift(0, 2<<(op-0x1D1))
	case 0x1E1, 0x1E2:
		return shift(1, 2<<(op-0x1E1))
	case 0x1F1, 0x1F2, 0x1F3:
		return shift(2, 2<<(op-0x1F1))
	case 0x1D4:
		return al + bl, ah + bh
	case 0x1FC, 0x1FD, 0x1FE:
		return both(1<<(op-0x1FC), func(a, b uint64) uint64 { return a + b })
	case 0x1F8, 0x1F9, 0x1FA, 0x1FB:
		return both(1<<(op-0x1F8), func(a, b uint64) uint64 { return a - b })
	case 0x1D5: // pmullw
		return both(2, func(a, b uint64) uint64 { return a * b })
	case 0x1E4: // pmulhuw
		return both(2, func(a, b uint64) uint64 { return a * b >> 16 })
	case 0x1E5: // pmulhw
		return signed(2, func(a, b int64) uint64 { return uint64(a * b >> 16) })
	case 0x1F4: // pmuludq
		const m = 0xFFFFFFFF
		return (al & m) * (bl & m), (ah & m) * (bh & m)
	case 0x1F5: // pmaddwd
		mad := func(a, b uint64) (r uint64) {
			for s := uint64(0); s < 64; s += 32 {
				x := int32(int16(a>>s))*int32(int16(b>>s)) + int32(int16(a>>(s+16)))*int32(int16(b>>(s+16)))
				r |= uint64(uint32(x)) << s
			}
			return r
		}
		return mad(al, bl), mad(ah, bh)
	case 0x1F6: // psadbw
		sad := func(a, b uint64) (r uint64) {
			for s := 0; s < 64; s += 8 {
				x, y := a>>s&0xFF, b>>s&0xFF
				r += max(x, y) - min(x, y)
			}
			return r
		}
		return sad(al, bl), sad(ah, bh)
	case 0x1D8, 0x1D9: // psubus
		return both(1<<(op-0x1D8), func(a, b uint64) uint64 { return a - min(a, b) })
	case 0x1DC, 0x1DD: // paddus
		size := uint8(1) << (op - 0x1DC)
		return both(size, func(a, b uint64) uint64 { return min(a+b, maskOf(size)) })
	case 0x1E8, 0x1E9: // psubs
		top := int64(1)<<(8<<(op-0x1E8)-1) - 1
		return signed(1<<(op-0x1E8), func(a, b int64) uint64 { return clamp(a-b, -top-1, top) })
	case 0x1EC, 0x1ED: // padds
		top := int64(1)<<(8<<(op-0x1EC)-1) - 1
		return signed(1<<(op-0x1EC), func(a, b int64) uint64 { return clamp(a+b, -top-1, top) })
	case 0x1DA: // pminub
		return both(1, func(a, b uint64) uint64 { return min(a, b) })
	case 0x1DE: // pmaxub
		return both(1, func(a, b uint64) uint64 { return max(a, b) })
	case 0x1EA: // pminsw
		return signed(2, func(a, b int64) uint64 { return uint64(min(a, b)) })
	case 0x1EE: // pmaxsw
		return signed(2, func(a, b int64) uint64 { return uint64(max(a, b)) })
	case 0x1E0: // pavgb
		return both(1, func(a, b uint64) uint64 { return (a + b + 1) >> 1 })
	case 0x1E3: // pavgw
		return both(2, func(a, b uint64) uint64 { return (a + b + 1) >> 1 })
	case 0x1DB:
		return al & bl, ah & bh
	case 0x1DF:
		return ^al & bl, ^ah & bh
	case 0x1EB:
		return al | bl, ah | bh
	}
	return al ^ bl, ah ^ bh // EF pxor, the last of packedOp
}

// interleave merges the elements of two halves into a register.
func interleave(a, b uint64, size uint8) (lo, hi uint64) {
	n := 8 * uint64(size)
	m := maskOf(size)
	for s := uint64(0); s < 32; s += n {
		lo |= (a>>s&m | b>>s&m<<n) << (2 * s)
		hi |= (a>>(s+32)&m | b>>(s+32)&m<<n) << (2 * s)
	}
	return lo, hi
}

// pack narrows the elements of size bytes of a register to half, saturating.
func pack(lo, hi uint64, size uint8, low, high int64) (r uint64) {
	n := 8 * uint64(size)
	m := maskOf(size / 2)
	for s := uint64(0); s < 64; s += n {
		r |= clamp(int64(signExtend(lo>>s&maskOf(size), size)), low, high) & m << (s / 2)
		r |= clamp(int64(signExtend(hi>>s&maskOf(size), size)), low, high) & m << (s/2 + 32)
	}
	return r
}
