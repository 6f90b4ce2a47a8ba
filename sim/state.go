package sim

import "openkd/sim/cpu"

// Offsets into CONTEXT and KSPECIAL_REGISTERS.
const (
	ctxFlags  = 0x30
	ctxMxCsr  = 0x34
	ctxSegCs  = 0x38 // cs ds es fs gs ss
	ctxEFlags = 0x44
	ctxDr0    = 0x48
	ctxRax    = 0x78
	ctxRip    = 0xF8
	ctxFlt    = 0x100
	ctxXmm    = 0x1A0

	spCr0  = 0x00
	spDr0  = 0x20
	spDr6  = 0x40
	spDr7  = 0x48
	spGdtr = 0x56
	spIdtr = 0x66
	spTr   = 0x70
	spCr8  = 0xA0
)

func contextRecord(c *cpu.CPU) []byte {
	p := make([]byte, contextSize)
	le.PutUint32(p[ctxFlags:], 0x10001F)
	le.PutUint32(p[ctxMxCsr:], c.MxCsr)
	for i, s := range []uint16{c.CS, c.DS, c.ES, c.FS, c.GS, c.SS} {
		le.PutUint16(p[ctxSegCs+2*i:], s)
	}
	le.PutUint32(p[ctxEFlags:], uint32(c.RFlags))
	for i, n := range []int{0, 1, 2, 3, 6, 7} {
		le.PutUint64(p[ctxDr0+8*i:], c.DR[n])
	}
	for i, v := range c.R {
		le.PutUint64(p[ctxRax+8*i:], v)
	}
	le.PutUint64(p[ctxRip:], c.RIP)
	le.PutUint16(p[ctxFlt:], 0x27F) // x87 control word; there is no x87
	le.PutUint32(p[ctxFlt+24:], c.MxCsr)
	le.PutUint32(p[ctxFlt+28:], 0xFFFF)
	for i := range c.XMM {
		copy(p[ctxXmm+16*i:], c.XMM[i][:])
	}
	return p
}

// loadContext is total: any record gives a state that the processor accepts.
func loadContext(c *cpu.CPU, p []byte) {
	c.MxCsr = le.Uint32(p[ctxMxCsr:]) & 0xFFFF
	c.CS, c.DS, c.ES = le.Uint16(p[ctxSegCs:]), le.Uint16(p[ctxSegCs+2:]), le.Uint16(p[ctxSegCs+4:])
	c.FS, c.GS, c.SS = le.Uint16(p[ctxSegCs+6:]), le.Uint16(p[ctxSegCs+8:]), le.Uint16(p[ctxSegCs+10:])
	old := c.RIP
	c.RFlags = uint64(le.Uint32(p[ctxEFlags:]))
	for i := range c.R {
		c.R[i] = le.Uint64(p[ctxRax+8*i:])
	}
	if c.RIP = le.Uint64(p[ctxRip:]); c.RIP != old {
		c.Halted = false
	}
	for i := range c.XMM {
		copy(c.XMM[i][:], p[ctxXmm+16*i:])
	}
}

func specialRegisters(c *cpu.CPU) []byte {
	p := make([]byte, specialSize)
	put := func(o int, v ...uint64) {
		for i, x := range v {
			le.PutUint64(p[o+8*i:], x)
		}
	}
	put(spCr0, c.CR0, c.CR2, c.CR3, c.CR4)
	put(spDr0, c.DR[0], c.DR[1], c.DR[2], c.DR[3], c.DR[6], c.DR[7])
	le.PutUint16(p[spGdtr:], c.GDTR.Limit)
	put(spGdtr+2, c.GDTR.Base)
	le.PutUint16(p[spIdtr:], c.IDTR.Limit)
	put(spIdtr+2, c.IDTR.Base)
	le.PutUint16(p[spTr:], c.TR)
	le.PutUint16(p[spTr+2:], c.LDTR)
	le.PutUint32(p[spTr+4:], c.MxCsr)
	put(spCr8, c.CR8, c.GSBase, c.KernelGSBase, c.STAR, c.LSTAR, c.CSTAR, c.SFMask, 1, c.FSBase)
	return p
}

func loadSpecial(c *cpu.CPU, p []byte) {
	get := func(o int) uint64 { return le.Uint64(p[o:]) }
	c.CR0, c.CR2, c.CR3, c.CR4 = get(spCr0), get(8), get(16), get(24)
	c.DR[0], c.DR[1], c.DR[2], c.DR[3] = get(spDr0), get(spDr0+8), get(spDr0+16), get(spDr0+24)
	c.DR[6], c.DR[7] = get(spDr6), get(spDr7)|0x400
	c.GDTR.Limit, c.GDTR.Base = le.Uint16(p[spGdtr:]), get(spGdtr+2)
	c.IDTR.Limit, c.IDTR.Base = le.Uint16(p[spIdtr:]), get(spIdtr+2)
	c.TR, c.LDTR = le.Uint16(p[spTr:]), le.Uint16(p[spTr+2:])
	c.CR8, c.GSBase, c.KernelGSBase = get(spCr8)&15, get(0xA8), get(0xB0)
	c.STAR, c.LSTAR, c.CSTAR, c.SFMask = get(0xB8), get(0xC0), get(0xC8), get(0xD0)
	c.FSBase = get(0xE0)
}
