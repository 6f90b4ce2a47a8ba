package cpu

import "encoding/binary"

const (
	tlbSize    = 256
	icacheSize = 2048

	// Tag bits of a TLB entry, below the page number.
	tagUser  = 1 << 0  // filled at CPL 3
	tagValid = 1 << 1  // tells an entry from an empty one
	tagAC    = 1 << 2  // filled with SMAP suspended by RFLAGS.AC
	tagSlow  = 1 << 10 // no direct pointer
	tagWatch = 1 << 11 // never in an entry: makes every access take the slow path
)

// Kinds of access, each with its TLB.
const (
	accRead = iota
	accWrite
	accExec
)

type tlbEntry struct {
	tag  uint64
	phys uint64
	page *[4096]byte
}

// Page table entry bits and page fault error bits.
const (
	pteP  = 1 << 0
	pteW  = 1 << 1
	pteU  = 1 << 2
	pteA  = 1 << 5
	pteD  = 1 << 6
	ptePS = 1 << 7
	pteNX = 1 << 63

	pteAddr = 0x000FFFFFFFFFF000

	pfP    = 1 << 0
	pfW    = 1 << 1
	pfU    = 1 << 2
	pfRsvd = 1 << 3
	pfI    = 1 << 4
)

// FlushTLB forgets cached translations. The owner calls it after it changed
// page tables or replaced memory by itself; changes to CR0, CR3, CR4 and EFER
// are noticed without it.
func (c *CPU) FlushTLB() {
	if c.tlb != nil {
		*c.tlb = [3][tlbSize]tlbEntry{}
	}
	c.seenCR0, c.seenCR3, c.seenCR4, c.eef = c.CR0, c.CR3, c.CR4, c.EFER
	c.memSeen = c.Mem
	c.pager, _ = c.Mem.(Pager)
}

func (c *CPU) readPhys64(a uint64) (uint64, bool) {
	if c.Mem == nil || !c.Mem.ReadPhys(a, c.scratch[:8]) {
		return 0, false
	}
	return binary.LittleEndian.Uint64(c.scratch[:8]), true
}

func (c *CPU) writePhys64(a, v uint64) {
	binary.LittleEndian.PutUint64(c.scratch[:8], v)
	c.Mem.WritePhys(a, c.scratch[:8])
}

// Translate walks the page tables for one access and checks its rights
// without marking anything accessed or dirty. faultErr is the #PF error code.
// With CR0.PG clear the linear address is the physical one.
func (c *CPU) Translate(lin uint64, write, exec, user bool) (phys uint64, ok bool, faultErr uint64) {
	if c.CR0&CR0PG != 0 && !canonical(lin) {
		return 0, false, 0
	}
	return c.walk(lin, write, exec, user, false, false)
}

// walk translates. update sets accessed and dirty bits; probe ignores rights.
func (c *CPU) walk(lin uint64, write, exec, user, update, probe bool) (phys uint64, ok bool, faultErr uint64) {
	if c.CR0&CR0PG == 0 {
		return lin, true, 0
	}
	var code uint64
	if write {
		code |= pfW
	}
	if user {
		code |= pfU
	}
	nxe := c.EFER&EFERNXE != 0
	if exec && (nxe || c.CR4&CR4SMEP != 0) {
		code |= pfI
	}
	var where, entry [4]uint64
	table := c.CR3 & pteAddr
	rw, us, nx := true, true, false
	level := 3
	var e uint64
	for ; ; level-- {
		a := table + lin>>(12+9*level)&0x1FF*8
		e, ok = c.readPhys64(a)
		if !ok || e&pteP == 0 {
			return 0, false, code
		}
		where[level], entry[level] = a, e
		if e&pteNX != 0 && !nxe || level == 3 && e&ptePS != 0 {
			return 0, false, code | pfP | pfRsvd
		}
		rw = rw && e&pteW != 0
		us = us && e&pteU != 0
		nx = nx || e&pteNX != 0
		if level == 0 || e&ptePS != 0 {
			break
		}
		table = e & pteAddr
	}
	size := uint64(1) << (12 + 9*level)
	if level > 0 && e&pteAddr&(size-1)&^0x1000 != 0 { // bit 12 is PAT in a large page
		return 0, false, code | pfP | pfRsvd
	}
	if !probe {
		bad := user && !us
		if write {
			bad = bad || !rw && (user || c.CR0&CR0WP != 0)
		}
		if exec {
			bad = bad || nx || !user && us && c.CR4&CR4SMEP != 0
		} else {
			bad = bad || !user && us && c.CR4&CR4SMAP != 0 && c.RFlags&FlagAC == 0
		}
		if bad {
			return 0, false, code | pfP
		}
	}
	if update {
		for l := 3; l >= level; l-- {
			want := entry[l] | pteA
			if l == level && write {
				want |= pteD
			}
			if want != entry[l] {
				c.writePhys64(where[l], want)
			}
		}
	}
	return e&pteAddr&^(size-1) | lin&(size-1), true, 0
}

// ReadLinear reads memory for the owner, whatever the rights, without marking
// pages accessed. It returns the bytes read before the first page that is not
// there.
func (c *CPU) ReadLinear(addr uint64, p []byte) int {
	return c.linear(addr, p, func(phys uint64, q []byte) bool { return c.Mem.ReadPhys(phys, q) })
}

// WriteLinear writes memory for the owner, also where the page is read-only,
// without marking pages accessed or dirty. It returns the bytes written before
// the first page that is not there.
func (c *CPU) WriteLinear(addr uint64, p []byte) int {
	return c.linear(addr, p, func(phys uint64, q []byte) bool { return c.Mem.WritePhys(phys, q) })
}

func (c *CPU) linear(addr uint64, p []byte, do func(uint64, []byte) bool) (done int) {
	if c.Mem == nil {
		return 0
	}
	for done < len(p) {
		a := addr + uint64(done)
		if c.CR0&CR0PG != 0 && !canonical(a) {
			break
		}
		phys, ok, _ := c.walk(a, false, false, false, false, true)
		if !ok {
			break
		}
		n := min(len(p)-done, int(4096-a&0xFFF))
		if !do(phys, p[done:done+n]) {
			break
		}
		done += n
	}
	return done
}

// lookup translates the page of an access and remembers it. On false the
// fault is pending.
func (c *CPU) lookup(addr uint64, acc int) (*tlbEntry, bool) {
	e := &c.tlb[acc][addr>>12&(tlbSize-1)]
	if e.tag&^tagSlow == addr&^0xFFF|c.amode {
		return e, true
	}
	phys, ok, code := c.walk(addr, acc == accWrite, acc == accExec, c.CS&3 == 3, true, false)
	if !ok {
		c.CR2 = addr
		c.raise(VecPF, code)
		c.pend.Addr = addr
		return nil, false
	}
	e.tag = addr&^0xFFF | c.amode
	e.phys = phys &^ 0xFFF
	e.page = nil
	if c.pager != nil {
		e.page = c.pager.Page(e.phys)
	}
	if e.page == nil {
		e.tag |= tagSlow
	}
	return e, true
}

// read copies bytes out of one page; what is not there reads as ones.
func (c *CPU) read(e *tlbEntry, off uint64, p []byte) {
	if e.page != nil {
		copy(p, e.page[off:])
		return
	}
	if c.Mem == nil || !c.Mem.ReadPhys(e.phys+off, p) {
		for k := range p {
			p[k] = 0xFF
		}
	}
}

func (c *CPU) write(e *tlbEntry, off uint64, p []byte) {
	if e.page != nil {
		copy(e.page[off:], p)
		return
	}
	if c.Mem != nil {
		c.Mem.WritePhys(e.phys+off, p)
	}
}

// load reads size bytes (1, 2, 4, 8) at a linear address.
func (c *CPU) load(addr uint64, size uint8) (uint64, bool) {
	e := &c.tlb[accRead][addr>>12&(tlbSize-1)]
	off := addr & 0xFFF
	if e.tag == addr&^0xFFF|c.mode && off+uint64(size) <= 4096 {
		p := e.page[off:]
		switch size {
		case 8:
			return binary.LittleEndian.Uint64(p), true
		case 4:
			return uint64(binary.LittleEndian.Uint32(p)), true
		case 1:
			return uint64(p[0]), true
		case 2:
			return uint64(binary.LittleEndian.Uint16(p)), true
		}
	}
	return c.loadSlow(addr, size, accRead)
}

// loadW reads what the same instruction will write: write access is checked
// first, so that the store that follows cannot fault.
func (c *CPU) loadW(addr uint64, size uint8) (uint64, bool) {
	e := &c.tlb[accWrite][addr>>12&(tlbSize-1)]
	off := addr & 0xFFF
	if e.tag == addr&^0xFFF|c.mode && off+uint64(size) <= 4096 {
		p := e.page[off:]
		switch size {
		case 8:
			return binary.LittleEndian.Uint64(p), true
		case 4:
			return uint64(binary.LittleEndian.Uint32(p)), true
		case 1:
			return uint64(p[0]), true
		case 2:
			return uint64(binary.LittleEndian.Uint16(p)), true
		}
	}
	return c.loadSlow(addr, size, accWrite)
}

// store writes size bytes (1, 2, 4, 8) at a linear address.
func (c *CPU) store(addr uint64, size uint8, v uint64) bool {
	e := &c.tlb[accWrite][addr>>12&(tlbSize-1)]
	off := addr & 0xFFF
	if e.tag == addr&^0xFFF|c.mode && off+uint64(size) <= 4096 {
		p := e.page[off:]
		switch size {
		case 8:
			binary.LittleEndian.PutUint64(p, v)
			return true
		case 4:
			binary.LittleEndian.PutUint32(p, uint32(v))
			return true
		case 1:
			p[0] = byte(v)
			return true
		case 2:
			binary.LittleEndian.PutUint16(p, uint16(v))
			return true
		}
	}
	binary.LittleEndian.PutUint64(c.scratch[8:], v)
	e1, e2, ok := c.span(addr, uint64(size), accWrite)
	if !ok {
		return false
	}
	// span may have used the scratch for page tables, not its second half.
	c.writeSpan(e1, e2, off, c.scratch[8:8+size])
	if c.slow&slowData != 0 {
		c.watch(addr, uint64(size), true)
	}
	return true
}

// span translates an access that may cross into a second page.
func (c *CPU) span(addr, size uint64, acc int) (e1, e2 tlbEntry, ok bool) {
	last := addr + size - 1
	if c.CR0&CR0PG != 0 && (!canonical(addr) || !canonical(last)) || last < addr {
		c.raise(int(c.gpVec), 0)
		return e1, e2, false
	}
	p, ok := c.lookup(addr, acc)
	if !ok {
		return e1, e2, false
	}
	e1 = *p
	if addr>>12 != last>>12 {
		if p, ok = c.lookup(last&^0xFFF, acc); !ok {
			return e1, e2, false
		}
		e2 = *p
	}
	return e1, e2, true
}

func (c *CPU) readSpan(e1, e2 tlbEntry, off uint64, p []byte) {
	n := min(uint64(len(p)), 4096-off)
	c.read(&e1, off, p[:n])
	if n < uint64(len(p)) {
		c.read(&e2, 0, p[n:])
	}
}

func (c *CPU) writeSpan(e1, e2 tlbEntry, off uint64, p []byte) {
	n := min(uint64(len(p)), 4096-off)
	c.write(&e1, off, p[:n])
	if n < uint64(len(p)) {
		c.write(&e2, 0, p[n:])
	}
}

func (c *CPU) loadSlow(addr uint64, size uint8, acc int) (uint64, bool) {
	e1, e2, ok := c.span(addr, uint64(size), acc)
	if !ok {
		return 0, false
	}
	clear(c.scratch[:8])
	c.readSpan(e1, e2, addr&0xFFF, c.scratch[:size])
	if c.slow&slowData != 0 {
		c.watch(addr, uint64(size), false)
	}
	return binary.LittleEndian.Uint64(c.scratch[:8]), true
}

// load128 reads 16 bytes.
func (c *CPU) load128(addr uint64) (lo, hi uint64, ok bool) {
	e := &c.tlb[accRead][addr>>12&(tlbSize-1)]
	off := addr & 0xFFF
	if e.tag == addr&^0xFFF|c.mode && off <= 4096-16 {
		p := e.page[off : off+16]
		return binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:]), true
	}
	e1, e2, ok := c.span(addr, 16, accRead)
	if !ok {
		return 0, 0, false
	}
	c.readSpan(e1, e2, off, c.scratch[:16])
	if c.slow&slowData != 0 {
		c.watch(addr, 16, false)
	}
	return binary.LittleEndian.Uint64(c.scratch[:]), binary.LittleEndian.Uint64(c.scratch[8:]), true
}

// store128 writes 16 bytes.
func (c *CPU) store128(addr, lo, hi uint64) bool {
	e := &c.tlb[accWrite][addr>>12&(tlbSize-1)]
	off := addr & 0xFFF
	if e.tag == addr&^0xFFF|c.mode && off <= 4096-16 {
		p := e.page[off : off+16]
		binary.LittleEndian.PutUint64(p, lo)
		binary.LittleEndian.PutUint64(p[8:], hi)
		return true
	}
	e1, e2, ok := c.span(addr, 16, accWrite)
	if !ok {
		return false
	}
	binary.LittleEndian.PutUint64(c.scratch[:], lo)
	binary.LittleEndian.PutUint64(c.scratch[8:], hi)
	c.writeSpan(e1, e2, off, c.scratch[:16])
	if c.slow&slowData != 0 {
		c.watch(addr, 16, true)
	}
	return true
}

// loadSys reads as the processor does for its own tables: as supervisor,
// whatever the current privilege level.
func (c *CPU) loadSys(addr uint64, size uint8) (uint64, bool) {
	cs := c.CS
	c.CS = cs &^ 3
	c.syncMode()
	c.gpVec = VecGP
	v, ok := c.load(addr, size)
	c.CS = cs
	c.syncMode()
	return v, ok
}

// fetch decodes the instruction at RIP, or returns nil with a fault pending.
func (c *CPU) fetch() *inst {
	rip := c.RIP
	off := rip & 0xFFF
	e := &c.tlb[accExec][rip>>12&(tlbSize-1)]
	if e.tag == rip&^0xFFF|c.amode && off <= 4096-16 {
		p := e.page[off : off+16]
		b0, b1 := binary.LittleEndian.Uint64(p), binary.LittleEndian.Uint64(p[8:])
		i := &c.icache[(rip^rip>>12)&(icacheSize-1)]
		// An entry is good for the bytes it was made from, wherever they are:
		// code that is patched needs no invalidation.
		if i.len != 0 && (b0^i.key0)&i.mask0|(b1^i.key1)&i.mask1 == 0 {
			return i
		}
		i.len = 0
		switch decode(p[:15], i) {
		case decodeOK:
			i.key0, i.key1 = b0, b1
			i.mask0, i.mask1 = ^uint64(0), 0
			if i.len < 8 {
				i.mask0 = 1<<(8*i.len) - 1
			} else {
				i.mask1 = 1<<(8*(i.len-8)) - 1
			}
			return i
		case decodeShort:
			i.len = 0
			c.gp(0)
		default:
			i.len = 0
			c.ud()
		}
		return nil
	}
	return c.fetchSlow()
}

func (c *CPU) fetchSlow() *inst {
	if c.CR0&CR0PG != 0 && !canonical(c.RIP) {
		c.gp(0)
		return nil
	}
	e, ok := c.lookup(c.RIP, accExec)
	if !ok {
		return nil
	}
	off := c.RIP & 0xFFF
	n := min(15, 4096-off)
	c.read(e, off, c.ibuf[:n])
	i := &c.tmp
	st := decode(c.ibuf[:n], i)
	if st == decodeShort && n < 15 {
		nextPage := c.RIP&^0xFFF + 4096
		if c.CR0&CR0PG != 0 && !canonical(nextPage) {
			c.gp(0)
			return nil
		}
		if e, ok = c.lookup(nextPage, accExec); !ok {
			return nil
		}
		c.read(e, 0, c.ibuf[n:15])
		st = decode(c.ibuf[:15], i)
	}
	switch st {
	case decodeOK:
		return i
	case decodeShort:
		c.gp(0)
	default:
		c.ud()
	}
	return nil
}
