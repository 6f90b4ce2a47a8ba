package sim

import (
	"encoding/binary"
	"fmt"
)

var le = binary.LittleEndian

// Bits of page table entries.
const (
	ptePresent  = 1 << 0
	pteWrite    = 1 << 1
	pteUser     = 1 << 2
	pteAccessed = 1 << 5
	pteDirty    = 1 << 6
	pteGlobal   = 1 << 8
	pteNX       = 1 << 63
	pteAddr     = 0x000FFFFFFFFFF000

	pageSize = 4096

	// pteBase is where the page tables map themselves; selfSlot is the entry of
	// the top table that does it.
	pteBase  = 0xFFFFF68000000000
	selfSlot = pteBase >> 39 & 0x1FF
)

// memory is the machine's RAM from physical address 0. The host's system gives
// it pages as they are touched.
type memory struct {
	ram  []byte
	next uint64   // next page never given out
	free []uint64 // pages given back
}

func newMemory(size uint64) *memory {
	return &memory{ram: make([]byte, size), next: pageSize} // page 0 stays unused
}

// ReadPhys implements cpu.Memory.
func (m *memory) ReadPhys(addr uint64, p []byte) bool {
	if addr > uint64(len(m.ram)) || uint64(len(p)) > uint64(len(m.ram))-addr {
		return false
	}
	copy(p, m.ram[addr:])
	return true
}

// WritePhys implements cpu.Memory.
func (m *memory) WritePhys(addr uint64, p []byte) bool {
	if addr > uint64(len(m.ram)) || uint64(len(p)) > uint64(len(m.ram))-addr {
		return false
	}
	copy(m.ram[addr:], p)
	return true
}

// Page implements cpu.Pager.
func (m *memory) Page(addr uint64) *[pageSize]byte {
	if addr > uint64(len(m.ram))-pageSize {
		return nil
	}
	return (*[pageSize]byte)(m.ram[addr:])
}

// alloc gives out a zeroed page.
func (m *memory) alloc() (uint64, error) {
	if n := len(m.free); n > 0 {
		p := m.free[n-1]
		m.free = m.free[:n-1]
		clear(m.ram[p : p+pageSize])
		return p, nil
	}
	if m.next+pageSize > uint64(len(m.ram)) {
		return 0, fmt.Errorf("sim: the machine's %d MiB of memory are used up", len(m.ram)>>20)
	}
	p := m.next
	m.next += pageSize
	return p, nil
}

func (m *memory) u64(addr uint64) uint64       { return le.Uint64(m.ram[addr:]) }
func (m *memory) putU64(addr uint64, v uint64) { le.PutUint64(m.ram[addr:], v) }

// newTop makes a top page table that maps itself.
func (m *memory) newTop() (uint64, error) {
	p, err := m.alloc()
	if err == nil {
		m.putU64(p+8*selfSlot, p|ptePresent|pteWrite|pteAccessed|pteDirty|pteNX)
	}
	return p, err
}

// entry returns the physical address of the page table entry of a virtual
// address, making the tables above it.
func (m *memory) entry(top, va uint64) (uint64, error) {
	table := top
	for level := 3; level > 0; level-- {
		a := table + va>>(12+9*level)&0x1FF*8
		e := m.u64(a)
		if e&ptePresent == 0 {
			p, err := m.alloc()
			if err != nil {
				return 0, err
			}
			e = p | ptePresent | pteWrite | pteAccessed | pteDirty
			if va < 1<<47 {
				e |= pteUser
			}
			m.putU64(a, e)
		}
		// A debugger may have spoilt the tables.
		if table = e & pteAddr; table > uint64(len(m.ram))-pageSize {
			return 0, fmt.Errorf("sim: the page tables of %#x lead out of memory", va)
		}
	}
	return table + va>>12&0x1FF*8, nil
}

// mapPage maps one page with the bits given.
func (m *memory) mapPage(top, va, pa, bits uint64) error {
	a, err := m.entry(top, va)
	if err != nil {
		return err
	}
	m.putU64(a, pa|bits|ptePresent|pteAccessed|pteDirty)
	return nil
}

// mapNew maps size bytes of new memory.
func (m *memory) mapNew(top, va, size, bits uint64) error {
	for off := uint64(0); off < size; off += pageSize {
		p, err := m.alloc()
		if err == nil {
			err = m.mapPage(top, va+off, p, bits)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// unmap takes size bytes out of the address space and frees their pages.
func (m *memory) unmap(top, va, size uint64) error {
	for off := uint64(0); off < size; off += pageSize {
		a, err := m.entry(top, va+off)
		if err != nil {
			return err
		}
		if e := m.u64(a); e&ptePresent != 0 {
			if p := e & pteAddr; p >= pageSize && p < m.next {
				m.free = append(m.free, p)
			}
			m.putU64(a, 0)
		}
	}
	return nil
}

// each calls f with the physical pieces of a virtual range, until one is not
// mapped; it returns the bytes done.
func (m *memory) each(top, va, size uint64, f func(pa uint64, off, n uint64)) uint64 {
	for off := uint64(0); off < size; {
		pa, ok := m.translate(top, va+off)
		if !ok {
			return off
		}
		n := min(size-off, pageSize-pa%pageSize)
		f(pa, off, n)
		off += n
	}
	return size
}

func (m *memory) translate(top, va uint64) (uint64, bool) {
	if uint64(int64(va<<16)>>16) != va {
		return 0, false
	}
	table := top & pteAddr
	for level := 3; ; level-- {
		a := table + va>>(12+9*level)&0x1FF*8
		if a+8 > uint64(len(m.ram)) {
			return 0, false
		}
		e := m.u64(a)
		if e&ptePresent == 0 {
			return 0, false
		}
		if size := uint64(1) << (12 + 9*level); level == 0 || e&(1<<7) != 0 {
			pa := e&pteAddr&^(size-1) | va&(size-1)
			return pa, pa < uint64(len(m.ram))
		}
		table = e & pteAddr
	}
}

func (m *memory) read(top, va uint64, p []byte) int {
	return int(m.each(top, va, uint64(len(p)), func(pa, off, n uint64) { copy(p[off:off+n], m.ram[pa:]) }))
}

func (m *memory) write(top, va uint64, p []byte) int {
	return int(m.each(top, va, uint64(len(p)), func(pa, off, n uint64) { copy(m.ram[pa:pa+n], p[off:]) }))
}
