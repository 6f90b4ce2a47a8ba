package cpu

import (
	"encoding/binary"
	"fmt"
)

// Model specific registers kept in the CPU itself.
const (
	msrTSC          = 0x10
	msrEFER         = 0xC0000080
	msrSTAR         = 0xC0000081
	msrLSTAR        = 0xC0000082
	msrCSTAR        = 0xC0000083
	msrSFMASK       = 0xC0000084
	msrFSBase       = 0xC0000100
	msrGSBase       = 0xC0000101
	msrKernelGSBase = 0xC0000102
	msrTSCAux       = 0xC0000103
)

func (c *CPU) ioAllowed() bool {
	return uint64(c.CS&3) <= c.RFlags>>12&3
}

func (c *CPU) portIn(port uint16, size uint8) uint64 {
	c.watchIO(port, uint64(size))
	if c.Ports == nil {
		return maskOf(size)
	}
	return uint64(c.Ports.In(port, int(size))) & maskOf(size)
}

func (c *CPU) portOut(port uint16, size uint8, v uint64) {
	c.watchIO(port, uint64(size))
	if c.Ports != nil {
		c.Ports.Out(port, int(size), uint32(v&maskOf(size)))
	}
}

func (c *CPU) in(i *inst, port uint16) bool {
	if !c.ioAllowed() {
		return c.gp(0)
	}
	size := min(i.size, 4)
	c.set(RAX, size, c.portIn(port, size))
	return true
}

func (c *CPU) out(i *inst, port uint16) bool {
	if !c.ioAllowed() {
		return c.gp(0)
	}
	size := min(i.size, 4)
	c.portOut(port, size, c.get(RAX, size))
	return true
}

func (c *CPU) setIF(on bool) bool {
	if !c.ioAllowed() {
		return c.gp(0)
	}
	if on && c.RFlags&FlagIF == 0 {
		c.slow |= slowSTI
	}
	c.setFlag(FlagIF, on)
	return true
}

func (c *CPU) popf(i *inst) bool {
	v, ok := c.pop(i.size)
	if !ok {
		return false
	}
	change := uint64(flagStatus | FlagTF | FlagDF | FlagNT | FlagAC | FlagID)
	if c.CS&3 == 0 {
		change |= FlagIOPL
	}
	if c.ioAllowed() {
		change |= FlagIF
	}
	if i.size == 2 {
		change &= 0xFFFF
	}
	c.RFlags = c.RFlags&^change | v&change
	c.syncMode()
	return true
}

// sreg is a segment register by its number in an instruction (0-5).
func (c *CPU) sreg(n uint8) *uint16 {
	switch n {
	case 0:
		return &c.ES
	case 1:
		return &c.CS
	case 2:
		return &c.SS
	case 3:
		return &c.DS
	case 4:
		return &c.FS
	}
	return &c.GS
}

// flat reports that there are no descriptors to check against.
func (c *CPU) flat() bool { return c.GDTR.Limit == 0 }

// descriptor reads the 8-byte descriptor of a selector. On false a fault with
// the given vector, or a page fault, is pending.
func (c *CPU) descriptor(sel uint16, vec int) (uint64, bool) {
	off := sel &^ 7
	if sel&4 != 0 || uint32(off)+7 > uint32(c.GDTR.Limit) { // no local table
		return 0, c.raise(vec, uint64(sel&^3))
	}
	return c.loadSys(c.GDTR.Base+uint64(off), 8)
}

func descBase(d uint64) uint64 { return d>>16&0xFFFFFF | d>>56<<24 }

// loadSreg loads es, ss, ds, fs or gs.
func (c *CPU) loadSreg(n uint8, sel uint16) bool {
	var base uint64
	if sel&^3 == 0 {
		if n == 2 && (c.CS&3 == 3 || sel&3 != c.CS&3) {
			return c.gp(0)
		}
	} else if !c.flat() {
		d, ok := c.descriptor(sel, VecGP)
		if !ok {
			return false
		}
		typ, dpl := d>>40&0x1F, uint16(d>>45&3)
		data := typ&0x18 == 0x10
		switch {
		case n == 2 && (!data || typ&2 == 0 || dpl != c.CS&3 || sel&3 != c.CS&3),
			n != 2 && typ&0x10 == 0,
			n != 2 && !data && typ&2 == 0, // code that cannot be read
			n != 2 && (data || typ&4 == 0) && (dpl < c.CS&3 || dpl < sel&3):
			return c.gp(uint64(sel &^ 3))
		case d>>47&1 == 0 && n == 2:
			return c.raise(VecSS, uint64(sel&^3))
		case d>>47&1 == 0:
			return c.raise(VecNP, uint64(sel&^3))
		}
		base = descBase(d)
	}
	*c.sreg(n) = sel
	if n >= 4 && !c.flat() {
		if n == 4 {
			c.FSBase = base
		} else {
			c.GSBase = base
		}
	}
	if n == 2 {
		c.slow |= slowSS
	}
	return true
}

// checkCode checks a code selector that an instruction loads; only 64-bit
// segments are known here.
func (c *CPU) checkCode(sel uint16) bool {
	if sel&^3 == 0 {
		return c.gp(0)
	}
	if c.flat() {
		return true
	}
	d, ok := c.descriptor(sel, VecGP)
	if !ok {
		return false
	}
	typ, dpl := d>>40&0x1F, uint16(d>>45&3)
	if typ&0x18 != 0x18 || typ&4 == 0 && dpl != sel&3 || typ&4 != 0 && dpl > sel&3 || d>>53&1 == 0 {
		return c.gp(uint64(sel &^ 3))
	}
	if d>>47&1 == 0 {
		return c.raise(VecNP, uint64(sel&^3))
	}
	return true
}

// iret returns from an interrupt. In 64-bit mode rsp and ss are always popped.
func (c *CPU) iret(i *inst) bool {
	if c.RFlags&FlagNT != 0 || i.size == 2 {
		return c.gp(0) // no task switches, and no 16-bit frames
	}
	size := uint64(i.size)
	var f [5]uint64
	c.gpVec = VecSS
	for k := range f {
		v, ok := c.load(c.R[RSP]+uint64(k)*size, i.size)
		if !ok {
			return false
		}
		f[k] = v
	}
	cs, ss := uint16(f[1]), uint16(f[4])
	cpl := c.CS & 3
	if cs&3 < cpl {
		return c.gp(uint64(cs &^ 3))
	}
	if !c.checkCode(cs) {
		return false
	}
	if ss&^3 == 0 {
		if cs&3 == 3 || ss&3 != cs&3 {
			return c.gp(0)
		}
	} else if ss&3 != cs&3 {
		return c.gp(uint64(ss &^ 3))
	} else if !c.flat() {
		d, ok := c.descriptor(ss, VecGP)
		if !ok {
			return false
		}
		if d>>40&0x1A != 0x12 || uint16(d>>45&3) != cs&3 {
			return c.gp(uint64(ss &^ 3))
		}
		if d>>47&1 == 0 {
			return c.raise(VecSS, uint64(ss&^3))
		}
	}
	if !canonical(f[0]) {
		return c.gp(0)
	}
	change := uint64(flagStatus | FlagTF | FlagDF | FlagNT | FlagRF | FlagAC | FlagID)
	if cpl == 0 {
		change |= FlagIOPL | FlagVIF | FlagVIP
	}
	if c.ioAllowed() {
		change |= FlagIF
	}
	c.next = f[0]
	c.CS, c.SS = cs, ss
	c.RFlags = c.RFlags&^change | f[2]&change
	c.R[RSP] = f[3]
	if cs&3 > cpl {
		c.dropSegments(cs & 3)
	}
	c.syncMode()
	return true
}

// dropSegments clears the data selectors that an outer ring may not keep.
func (c *CPU) dropSegments(cpl uint16) {
	if c.flat() {
		return
	}
	for _, n := range []uint8{0, 3, 4, 5} {
		s := c.sreg(n)
		if *s&^3 == 0 {
			continue
		}
		d, ok := c.descriptor(*s, VecGP)
		if !ok || d>>40&0x1C != 0x1C && uint16(d>>45&3) < cpl {
			*s = 0
		}
	}
}

// retFar is ret with a new code segment.
func (c *CPU) retFar(i *inst) bool {
	size := uint64(i.size)
	c.gpVec = VecSS
	sp := c.R[RSP]
	to, ok := c.load(sp, i.size)
	if !ok {
		return false
	}
	v, ok := c.load(sp+size, i.size)
	if !ok {
		return false
	}
	cs := uint16(v)
	cpl := c.CS & 3
	if cs&3 < cpl {
		return c.gp(uint64(cs &^ 3))
	}
	if !c.checkCode(cs) {
		return false
	}
	sp += 2*size + i.imm
	if cs&3 > cpl {
		newSP, ok := c.load(sp, i.size)
		if !ok {
			return false
		}
		ss, ok := c.load(sp+size, i.size)
		if !ok {
			return false
		}
		if uint16(ss)&3 != cs&3 || ss&0xFFFC == 0 {
			return c.gp(ss & 0xFFFC)
		}
		if !c.jump(to) {
			return false
		}
		c.CS, c.SS = cs, uint16(ss)
		c.R[RSP] = newSP + i.imm
		c.dropSegments(cs & 3)
	} else {
		if !c.jump(to) {
			return false
		}
		c.CS = cs
		c.R[RSP] = sp
	}
	c.syncMode()
	return true
}

// branchFar is call and jmp through a far pointer in memory, within a ring.
func (c *CPU) branchFar(i *inst, call bool) bool {
	a := c.ea(i)
	to, ok := c.load(a, i.size)
	if !ok {
		return false
	}
	v, ok := c.load(a+uint64(i.size), 2)
	if !ok {
		return false
	}
	cs := uint16(v)&^3 | c.CS&3
	if !c.checkCode(cs) {
		return false
	}
	if !canonical(to) {
		return c.gp(0)
	}
	if call {
		size := uint64(i.size)
		c.gpVec = VecSS
		sp := c.R[RSP] - 2*size
		if !c.store(sp+size, i.size, uint64(c.CS)) || !c.store(sp, i.size, c.next) {
			return false
		}
		c.R[RSP] = sp
	}
	c.next = to
	c.CS = cs
	return true
}

func (c *CPU) syscall() bool {
	if c.EFER&EFERSCE == 0 {
		return c.ud()
	}
	c.R[RCX] = c.next
	c.R[R11] = c.RFlags &^ FlagRF
	c.RFlags = c.RFlags&^(c.SFMask|FlagRF) | 2
	c.CS = uint16(c.STAR>>32) &^ 3
	c.SS = c.CS + 8
	c.next = c.LSTAR
	c.syncMode()
	return true
}

func (c *CPU) sysret(i *inst) bool {
	if c.EFER&EFERSCE == 0 || i.size != 8 { // the other form returns to 32-bit code
		return c.ud()
	}
	if c.CS&3 != 0 || !canonical(c.R[RCX]) {
		return c.gp(0)
	}
	c.CS = (uint16(c.STAR>>48) + 16) | 3
	c.SS = (uint16(c.STAR>>48) + 8) | 3
	c.next = c.R[RCX]
	c.RFlags = c.R[R11]&0x3C7FD7 | 2
	c.syncMode()
	return true
}

// system does the instructions that only a kernel uses.
func (c *CPU) system(i *inst) bool {
	kernel := c.CS&3 == 0
	switch i.op {
	case 0x106, 0x108, 0x109: // clts, invd, wbinvd
		if !kernel {
			return c.gp(0)
		}
		if i.op == 0x106 {
			c.CR0 &^= CR0TS
			c.seenCR0 = c.CR0
		}
		return true
	case 0x100:
		return c.group6(i, kernel)
	case 0x101:
		return c.group7(i, kernel)
	case 0x120, 0x122:
		if !kernel {
			return c.gp(0)
		}
		return c.movCR(i)
	case 0x121, 0x123:
		return c.movDR(i, kernel)
	case 0x130, 0x132:
		if !kernel {
			return c.gp(0)
		}
		reg := uint32(c.R[RCX])
		if i.op == 0x132 {
			v, ok := c.readMSR(reg)
			if !ok {
				return c.gp(0)
			}
			c.set(RAX, 4, v)
			c.set(RDX, 4, v>>32)
			return true
		}
		if !c.writeMSR(reg, c.R[RDX]<<32|c.R[RAX]&0xFFFFFFFF) {
			return c.gp(0)
		}
		return true
	case 0x131:
		if !kernel && c.CR4&CR4TSD != 0 {
			return c.gp(0)
		}
		c.rdtsc()
		return true
	}
	return c.group15(i)
}

func (c *CPU) tsc() uint64 {
	if c.TSC != nil {
		return c.TSC()
	}
	return c.count
}

func (c *CPU) rdtsc() {
	v := c.tsc()
	c.set(RAX, 4, v)
	c.set(RDX, 4, v>>32)
}

func (c *CPU) readMSR(reg uint32) (uint64, bool) {
	switch reg {
	case msrEFER:
		return c.EFER, true
	case msrSTAR:
		return c.STAR, true
	case msrLSTAR:
		return c.LSTAR, true
	case msrCSTAR:
		return c.CSTAR, true
	case msrSFMASK:
		return c.SFMask, true
	case msrFSBase:
		return c.FSBase, true
	case msrGSBase:
		return c.GSBase, true
	case msrKernelGSBase:
		return c.KernelGSBase, true
	}
	var v uint64
	if c.MSR != nil && c.MSR(reg, false, &v) {
		return v, true
	}
	if reg == msrTSC {
		return c.tsc(), true
	}
	return 0, false
}

func (c *CPU) writeMSR(reg uint32, v uint64) bool {
	var p *uint64
	switch reg {
	case msrEFER:
		const known = EFERSCE | EFERLME | EFERLMA | EFERNXE
		if v&^known != 0 || c.CR0&CR0PG != 0 && (v^c.EFER)&EFERLME != 0 {
			return false
		}
		c.EFER = v&^EFERLMA | c.EFER&EFERLMA
		c.FlushTLB()
		return true
	case msrSTAR:
		p = &c.STAR
	case msrSFMASK:
		if v>>32 != 0 {
			return false
		}
		p = &c.SFMask
	case msrLSTAR:
		p = &c.LSTAR
	case msrCSTAR:
		p = &c.CSTAR
	case msrFSBase:
		p = &c.FSBase
	case msrGSBase:
		p = &c.GSBase
	case msrKernelGSBase:
		p = &c.KernelGSBase
	default:
		return c.MSR != nil && c.MSR(reg, true, &v)
	}
	if reg != msrSTAR && !canonical(v) {
		return false
	}
	*p = v
	return true
}

func (c *CPU) movCR(i *inst) bool {
	var p *uint64
	switch i.reg {
	case 0:
		p = &c.CR0
	case 2:
		p = &c.CR2
	case 3:
		p = &c.CR3
	case 4:
		p = &c.CR4
	case 8:
		p = &c.CR8
	default:
		return c.ud()
	}
	if i.op == 0x120 {
		c.R[i.rm] = *p
		return true
	}
	v := c.R[i.rm]
	switch i.reg {
	case 0:
		if v>>32 != 0 || v&CR0PG != 0 && v&CR0PE == 0 || v&CR0NW != 0 && v&CR0CD == 0 {
			return c.gp(0)
		}
		v |= CR0ET
	case 3:
		v &^= 1 << 63
		if v>>52 != 0 {
			return c.gp(0)
		}
	case 4:
		const known = 0x3F7FFF &^ (1<<12 | 1<<13 | 1<<14 | 1<<17 | 1<<18 | 1<<19)
		if v&^known != 0 || v&CR4PAE == 0 && c.EFER&EFERLME != 0 && c.CR0&CR0PG != 0 {
			return c.gp(0)
		}
	case 8:
		if v > 15 {
			return c.gp(0)
		}
	}
	*p = v
	if i.reg != 2 && i.reg != 8 {
		c.FlushTLB()
		c.syncMode()
	}
	return true
}

func (c *CPU) movDR(i *inst, kernel bool) bool {
	n := i.reg & 15
	if n > 7 {
		return c.ud()
	}
	if n == 4 || n == 5 {
		if c.CR4&CR4DE != 0 {
			return c.ud()
		}
		n += 2
	}
	if !kernel {
		return c.gp(0)
	}
	if c.DR[7]&(1<<13) != 0 { // general detect
		c.DR[7] &^= 1 << 13
		c.setDR6(c.DR[6]&0xF | DR6BD)
		return c.raise(VecDB, 0)
	}
	if i.op == 0x121 {
		v := c.DR[n]
		switch n {
		case 6:
			v |= dr6Fixed
		case 7:
			v |= 0x400
		}
		c.R[i.rm] = v
		return true
	}
	v := c.R[i.rm]
	switch n {
	case 6:
		if v>>32 != 0 {
			return c.gp(0)
		}
		v = v&(0xF|DR6BD|DR6BS|1<<15) | dr6Fixed
	case 7:
		if v>>32 != 0 {
			return c.gp(0)
		}
		v = v&^(1<<11|1<<12|1<<14|1<<15) | 0x400
	}
	c.DR[n] = v
	c.syncDebug()
	c.syncMode()
	return true
}

// group6 is 0F 00: sldt, str, lldt, ltr.
func (c *CPU) group6(i *inst, kernel bool) bool {
	switch i.reg & 7 {
	case 0, 1:
		v := uint64(c.LDTR)
		if i.reg&7 == 1 {
			v = uint64(c.TR)
		}
		if i.mem {
			return c.store(c.ea(i), 2, v)
		}
		c.set(i.rm, i.size, v)
		return true
	case 2, 3:
		if !kernel {
			return c.gp(0)
		}
		v, ok := c.readRM(i, 2)
		if !ok {
			return false
		}
		sel := uint16(v)
		if i.reg&7 == 2 {
			if sel&^3 != 0 {
				return c.gp(uint64(sel &^ 3)) // local tables are not covered
			}
			c.LDTR = sel
			return true
		}
		if sel&^3 == 0 {
			return c.gp(0)
		}
		if !c.flat() {
			d, ok := c.descriptor(sel, VecGP)
			if !ok {
				return false
			}
			if d>>40&0x1F != 9 { // an available 64-bit task state segment
				return c.gp(uint64(sel &^ 3))
			}
			if d>>47&1 == 0 {
				return c.raise(VecNP, uint64(sel&^3))
			}
			if !c.storeSys(c.GDTR.Base+uint64(sel&^7)+5, 1, d>>40&0xFF|2) { // busy
				return false
			}
		}
		c.TR = sel
		return true
	}
	return c.ud()
}

// group7 is 0F 01: descriptor tables, invlpg, swapgs, rdtscp, smsw, lmsw.
func (c *CPU) group7(i *inst, kernel bool) bool {
	ext := i.reg & 7
	if !i.mem {
		switch ext<<3 | i.rm&7 {
		case 7 << 3: // swapgs
			if !kernel {
				return c.gp(0)
			}
			c.GSBase, c.KernelGSBase = c.KernelGSBase, c.GSBase
			return true
		case 7<<3 | 1: // rdtscp
			if !kernel && c.CR4&CR4TSD != 0 {
				return c.gp(0)
			}
			var aux uint64
			if c.MSR != nil {
				c.MSR(msrTSCAux, false, &aux)
			}
			c.rdtsc()
			c.set(RCX, 4, aux)
			return true
		case 1<<3 | 2, 1<<3 | 3: // clac, stac
			if !kernel || c.CR4&CR4SMAP == 0 {
				return c.ud()
			}
			c.setFlag(FlagAC, i.rm&7 == 3)
			c.syncMode()
			return true
		}
	}
	switch ext {
	case 0, 1: // sgdt, sidt
		if !i.mem {
			return c.ud()
		}
		t := c.GDTR
		if ext == 1 {
			t = c.IDTR
		}
		a := c.ea(i)
		if _, ok := c.loadW(a+2, 8); !ok {
			return false
		}
		return c.store(a, 2, uint64(t.Limit)) && c.store(a+2, 8, t.Base)
	case 2, 3: // lgdt, lidt
		if !i.mem {
			return c.ud()
		}
		if !kernel {
			return c.gp(0)
		}
		a := c.ea(i)
		limit, ok := c.load(a, 2)
		if !ok {
			return false
		}
		base, ok := c.load(a+2, 8)
		if !ok {
			return false
		}
		if !canonical(base) {
			return c.gp(0)
		}
		t := Table{Limit: uint16(limit), Base: base}
		if ext == 2 {
			c.GDTR = t
		} else {
			c.IDTR = t
		}
		return true
	case 4: // smsw
		if i.mem {
			return c.store(c.ea(i), 2, c.CR0&0xFFFF)
		}
		c.set(i.rm, i.size, c.CR0)
		return true
	case 6: // lmsw
		if !kernel {
			return c.gp(0)
		}
		v, ok := c.readRM(i, 2)
		if !ok {
			return false
		}
		c.CR0 = c.CR0&^0xE | v&0xF // PE can be set, not cleared
		c.seenCR0 = c.CR0
		return true
	case 7: // invlpg
		if !i.mem {
			return c.ud()
		}
		if !kernel {
			return c.gp(0)
		}
		c.FlushTLB() // everything: the address may lie in a large page
		return true
	}
	return c.ud()
}

// group15 is 0F AE: fences, fxsave, fxrstor, mxcsr, fs and gs bases, clflush.
func (c *CPU) group15(i *inst) bool {
	ext := i.reg & 7
	if !i.mem {
		switch {
		case i.rep == 0xF3 && ext < 4:
			if c.CR4&CR4FSGSBASE == 0 {
				return c.ud()
			}
			p := &c.FSBase
			if ext&1 != 0 {
				p = &c.GSBase
			}
			if ext < 2 {
				c.set(i.rm, i.size, *p)
				return true
			}
			v := c.get(i.rm, i.size)
			if !canonical(v) {
				return c.gp(0)
			}
			*p = v
			return true
		case i.rep == 0 && ext >= 5: // lfence, mfence, sfence
			return true
		}
		return c.ud()
	}
	if i.rep != 0 {
		return c.ud()
	}
	switch ext {
	case 0, 1: // fxsave, fxrstor
		if c.CR0&(CR0EM|CR0TS) != 0 {
			return c.raise(VecNM, 0)
		}
		return c.fxstate(i, ext == 1)
	case 2: // ldmxcsr
		if !c.sseOK() {
			return false
		}
		v, ok := c.load(c.ea(i), 4)
		if !ok {
			return false
		}
		if v>>16 != 0 {
			return c.gp(0)
		}
		c.MxCsr = uint32(v)
		return true
	case 3: // stmxcsr
		return c.sseOK() && c.store(c.ea(i), 4, uint64(c.MxCsr))
	case 7: // clflush
		_, ok := c.load(c.ea(i), 1)
		return ok
	}
	return c.ud()
}

// fxstate saves or restores the 512-byte area. There is no x87 state here: its
// part is saved as after fninit and ignored when restored.
func (c *CPU) fxstate(i *inst, restore bool) bool {
	a := c.ea(i)
	if a&15 != 0 {
		return c.gp(0)
	}
	if restore {
		mx, ok := c.load(a+24, 4)
		if !ok {
			return false
		}
		if mx>>16 != 0 {
			return c.gp(0)
		}
		var x [16][2]uint64
		for k := range x {
			if x[k][0], x[k][1], ok = c.load128(a + 160 + 16*uint64(k)); !ok {
				return false
			}
		}
		c.MxCsr = uint32(mx)
		for k := range x {
			c.setXMM(uint8(k), x[k][0], x[k][1])
		}
		return true
	}
	if _, ok := c.loadW(a+511, 1); !ok { // the area may cross a page
		return false
	}
	if !c.store128(a, 0x37F, 0) || !c.store128(a+16, 0, uint64(c.MxCsr)|0xFFFF<<32) {
		return false
	}
	for k := range uint64(8) {
		c.store128(a+32+16*k, 0, 0)
	}
	for k := range c.XMM {
		lo, hi := c.xmm(uint8(k))
		c.store128(a+160+16*uint64(k), lo, hi)
	}
	return true
}

func (c *CPU) xmm(n uint8) (lo, hi uint64) {
	x := &c.XMM[n&15]
	return binary.LittleEndian.Uint64(x[:]), binary.LittleEndian.Uint64(x[8:])
}

func (c *CPU) setXMM(n uint8, lo, hi uint64) {
	x := &c.XMM[n&15]
	binary.LittleEndian.PutUint64(x[:], lo)
	binary.LittleEndian.PutUint64(x[8:], hi)
}

// sseOK checks that the kernel has switched SSE on.
func (c *CPU) sseOK() bool {
	if c.CR0&CR0EM != 0 || c.CR4&CR4OSFXSR == 0 {
		return c.ud()
	}
	if c.CR0&CR0TS != 0 {
		return c.raise(VecNM, 0)
	}
	return true
}

// cpuid reports what this package covers, unless the owner answers.
func (c *CPU) cpuid() {
	leaf, sub := uint32(c.R[RAX]), uint32(c.R[RCX])
	var a, b, cx, d uint32
	if c.CPUID != nil {
		a, b, cx, d = c.CPUID(leaf, sub)
	} else {
		a, b, cx, d = DefaultCPUID(leaf)
	}
	c.set(RAX, 4, uint64(a))
	c.set(RBX, 4, uint64(b))
	c.set(RCX, 4, uint64(cx))
	c.set(RDX, 4, uint64(d))
}

// DefaultCPUID is the answer to cpuid of a CPU without a CPUID function: a
// family 6 processor with the features that this package executes.
func DefaultCPUID(leaf uint32) (a, b, c, d uint32) {
	word := binary.LittleEndian.Uint32
	switch leaf {
	case 0:
		v := []byte("OpenKD Sim64") // ebx, edx, ecx
		return 1, word(v), word(v[8:]), word(v[4:])
	case 1:
		const (
			ecx = 1<<13 | 1<<23                                             // cx16 popcnt
			edx = 1<<2 | 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<8 | 1<<11 | 1<<13 | // de pse tsc msr pae cx8 sep pge
				1<<15 | 1<<19 | 1<<24 | 1<<25 | 1<<26 // cmov clfsh fxsr sse sse2
		)
		return 0x00000611, 8 << 8, ecx, edx
	case 0x80000000:
		return 0x80000008, 0, 0, 0
	case 0x80000001:
		// lahf lzcnt prefetchw; syscall nx 1G pages rdtscp long mode
		return 0, 0, 1<<0 | 1<<5 | 1<<8, 1<<11 | 1<<20 | 1<<26 | 1<<27 | 1<<29
	case 0x80000002, 0x80000003, 0x80000004:
		var name [48]byte
		copy(name[:], "OpenKD simulated x64 processor")
		n := name[(leaf-0x80000002)*16:]
		return word(n), word(n[4:]), word(n[8:]), word(n[12:])
	case 0x80000008:
		return 0x3034, 0, 0, 0 // 52 physical bits, 48 linear
	}
	return 0, 0, 0, 0
}

func (c *CPU) storeSys(addr uint64, size uint8, v uint64) bool {
	cs := c.CS
	c.CS = cs &^ 3
	c.syncMode()
	c.gpVec = VecGP
	ok := c.store(addr, size, v)
	c.CS = cs
	c.syncMode()
	return ok
}

// Deliver enters the handler of a vector through the IDT in memory, as the
// hardware does for an interrupt or exception at the current RIP: stack switch
// (IST, or the new ring's stack from the TSS), frame, error code if hasErr,
// flags. Halted is cleared. On an error nothing but memory below the new stack
// pointer has changed; the hardware would raise a double fault.
func (c *CPU) Deliver(vector int, err uint64, hasErr bool) error {
	c.sync()
	carryOver := *c // the copy shares TLB and memory, and restores everything else
	if e := c.deliver(vector, err, hasErr); e != nil {
		slow := c.slow
		*c = carryOver
		c.slow = slow
		c.syncMode()
		return fmt.Errorf("delivering vector %#x: %w", vector, e)
	}
	c.Halted = false
	c.slow &^= slowSTI | slowSS
	return nil
}

func (c *CPU) faultText(what string, a uint64) error {
	return fmt.Errorf("%s at %#x: exception %#x, error code %#x", what, a, c.pend.Vector, c.pend.Error)
}

func (c *CPU) deliver(vector int, errCode uint64, hasErr bool) error {
	if vector < 0 || vector > 255 {
		return fmt.Errorf("not a vector")
	}
	gate := uint64(vector) * 16
	if gate+15 > uint64(c.IDTR.Limit) {
		return fmt.Errorf("the IDT has no such gate (limit %#x)", c.IDTR.Limit)
	}
	lo, ok := c.loadSys(c.IDTR.Base+gate, 8)
	if !ok {
		return c.faultText("reading the gate", c.IDTR.Base+gate)
	}
	hi, ok := c.loadSys(c.IDTR.Base+gate+8, 8)
	if !ok {
		return c.faultText("reading the gate", c.IDTR.Base+gate+8)
	}
	typ := lo >> 40 & 0x1F
	if lo>>47&1 == 0 || typ != 0xE && typ != 0xF {
		return fmt.Errorf("gate %#016x is not a present 64-bit interrupt or trap gate", lo)
	}
	sel := uint16(lo >> 16)
	target := lo&0xFFFF | lo>>48<<16 | hi<<32
	ist := lo >> 32 & 7
	newCPL := sel & 3
	if !c.flat() {
		d, ok := c.descriptor(sel, VecGP)
		if !ok {
			return c.faultText("reading the code descriptor", uint64(sel))
		}
		if d>>40&0x18 != 0x18 || d>>47&1 == 0 || d>>53&1 == 0 {
			return fmt.Errorf("selector %#x is not 64-bit code", sel)
		}
		newCPL = uint16(d >> 45 & 3)
		if d>>42&1 != 0 { // conforming: stays in its ring
			newCPL = c.CS & 3
		}
	} else if sel&^3 == 0 {
		return fmt.Errorf("null code selector")
	}
	if newCPL > c.CS&3 {
		return fmt.Errorf("handler in ring %d, less privileged than ring %d", newCPL, c.CS&3)
	}
	if !canonical(target) {
		return fmt.Errorf("handler address %#x is not canonical", target)
	}
	oldSP, oldSS, oldCS := c.R[RSP], c.SS, c.CS
	sp := oldSP
	ss := c.SS
	if ist != 0 || newCPL != c.CS&3 {
		if c.flat() {
			return fmt.Errorf("a stack switch needs a TSS, and there is no GDT")
		}
		off := 4 + 8*uint64(newCPL) // RSP0-2, then IST1-7
		if ist != 0 {
			off = 36 + 8*(ist-1)
		}
		d, ok := c.descriptor(c.TR, VecTS)
		if !ok {
			return c.faultText("reading the TSS descriptor", uint64(c.TR))
		}
		up, ok := c.loadSys(c.GDTR.Base+uint64(c.TR&^7)+8, 8)
		if !ok {
			return c.faultText("reading the TSS descriptor", uint64(c.TR))
		}
		if t := d >> 40 & 0x1F; t != 9 && t != 11 {
			return fmt.Errorf("TR %#x does not name a TSS", c.TR)
		}
		tss := descBase(d) | up<<32
		if sp, ok = c.loadSys(tss+off, 8); !ok {
			return c.faultText("reading the TSS", tss+off)
		}
		if newCPL != c.CS&3 {
			ss = newCPL
		}
	}
	sp &^= 15
	flags := c.RFlags
	switch vector {
	case VecDE, 5, VecUD, VecNM, VecTS, VecNP, VecSS, VecGP, VecPF, 16, 17, 19, 20, 21:
		flags |= FlagRF // a fault's instruction is not stopped again by its own breakpoint
	}
	frame := []uint64{c.RIP, uint64(oldCS), flags, oldSP, uint64(oldSS)}
	if hasErr {
		frame = append([]uint64{errCode}, frame...)
	}
	c.CS = sel&^3 | newCPL
	c.syncMode()
	c.gpVec = VecSS
	for k := len(frame) - 1; k >= 0; k-- {
		sp -= 8
		if !c.store(sp, 8, frame[k]) {
			return c.faultText("pushing the frame", sp)
		}
	}
	c.SS = ss
	c.R[RSP] = sp
	c.RIP = target
	c.RFlags &^= FlagTF | FlagNT | FlagRF | FlagVM
	if typ == 0xE {
		c.RFlags &^= FlagIF
	}
	c.syncMode()
	return nil
}
