package cpu

// stringChunk is how many iterations of a repeated string instruction run
// before the owner may interrupt it.
const stringChunk = 4096

// stringOp does movs, cmps, stos, lods, scas, ins and outs with their repeat
// prefixes. Every iteration is complete in itself: a fault in a later one
// leaves the registers as that iteration found them.
func (c *CPU) stringOp(i *inst) bool {
	if i.op < 0x70 && !c.ioAllowed() {
		return c.gp(0)
	}
	if i.rep == 0 {
		return c.stringOnce(i)
	}
	amask := ^uint64(0)
	if i.addr32 {
		amask = 0xFFFFFFFF
	}
	n := 1
	if c.slow == 0 && c.RFlags&FlagTF == 0 {
		n = stringChunk
	}
	compare := i.op == 0xA6 || i.op == 0xA7 || i.op == 0xAE || i.op == 0xAF
	if c.R[RCX]&amask == 0 {
		c.R[RCX] &= amask
		return true
	}
	for ; n > 0; n-- {
		if !c.stringOnce(i) {
			return false
		}
		c.R[RCX] = (c.R[RCX] - 1) & amask
		if c.R[RCX] == 0 {
			return true
		}
		if compare && (c.RFlags&FlagZF != 0) != (i.rep == 0xF3) {
			return true
		}
	}
	// Interrupted: RF keeps an execute breakpoint here from firing again.
	c.next = c.RIP
	c.RFlags |= FlagRF
	return true
}

func (c *CPU) stringOnce(i *inst) bool {
	size := i.size
	if i.op < 0x70 && size == 8 {
		size = 4
	}
	amask := ^uint64(0)
	if i.addr32 {
		amask = 0xFFFFFFFF
	}
	c.gpVec = VecGP
	step := uint64(size)
	if c.RFlags&FlagDF != 0 {
		step = -step
	}
	di := c.R[RDI] & amask
	si := c.R[RSI] & amask
	src := si + c.segBase(i)
	useSI, useDI := true, true
	switch i.op &^ 1 {
	case 0xA4: // movs
		v, ok := c.load(src, size)
		if !ok || !c.store(di, size, v) {
			return false
		}
	case 0xA6: // cmps
		a, ok := c.load(src, size)
		if !ok {
			return false
		}
		b, ok := c.load(di, size)
		if !ok {
			return false
		}
		c.sub(a, b, 0, size)
	case 0xAA: // stos
		useSI = false
		if !c.store(di, size, c.R[RAX]) {
			return false
		}
	case 0xAC: // lods
		useDI = false
		v, ok := c.load(src, size)
		if !ok {
			return false
		}
		c.set(RAX, size, v)
	case 0xAE: // scas
		useSI = false
		b, ok := c.load(di, size)
		if !ok {
			return false
		}
		c.sub(c.get(RAX, size), b, 0, size)
	case 0x6C: // ins
		useSI = false
		if _, ok := c.loadW(di, size); !ok { // before the port is read
			return false
		}
		if !c.store(di, size, c.portIn(uint16(c.R[RDX]), size)) {
			return false
		}
	case 0x6E: // outs
		useDI = false
		v, ok := c.load(src, size)
		if !ok {
			return false
		}
		c.portOut(uint16(c.R[RDX]), size, v)
	}
	if useSI {
		c.R[RSI] = (si + step) & amask
	}
	if useDI {
		c.R[RDI] = (di + step) & amask
	}
	return true
}
