package sim

import (
	"bytes"
	"debug/pe"
	"fmt"
	"sort"
	"strconv"
	"strings"

	"openkd/sim/kernel"
)

// image is a PE file that can be mapped.
type image struct {
	name      string // file name
	data      []byte
	size      uint32 // SizeOfImage
	entry     uint32
	checksum  uint32
	timestamp uint32
	headers   uint32
	preferred uint64
	baseField uint32 // file offset of OptionalHeader.ImageBase
	sections  []*pe.Section
	exports   map[string]uint32
	imports   []imported
	relocs    []uint32
}

type imported struct {
	dll, name string
	slot      uint32
}

// module is a mapped image.
type module struct {
	name string
	base uint64
	size uint64
	img  *image // nil: a synthetic module
	syms []symbol
}

type symbol struct {
	rva  uint32
	name string
}

func openImage(name string) (*image, error) {
	data, err := kernel.Image(name)
	if err != nil {
		return nil, fmt.Errorf("sim: no image %q: the machine has hal.dll, ntoskrnl.exe, openkd.sys, tcpip.sys and sample.sys", name)
	}
	f, err := pe.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("sim: image %s: %w", name, err)
	}
	h, ok := f.OptionalHeader.(*pe.OptionalHeader64)
	if !ok {
		return nil, fmt.Errorf("sim: image %s is not 64-bit", name)
	}
	g := &image{
		name: name, data: data, size: h.SizeOfImage, entry: h.AddressOfEntryPoint, checksum: h.CheckSum,
		timestamp: f.TimeDateStamp, headers: h.SizeOfHeaders, preferred: h.ImageBase, sections: f.Sections,
		baseField: le.Uint32(data[0x3C:]) + 24 + 24, exports: map[string]uint32{},
	}
	m := g.flat()
	dir := func(i int) (uint32, uint32) { return h.DataDirectory[i].VirtualAddress, h.DataDirectory[i].Size }
	str := func(rva uint32) string {
		s := m[rva:]
		if i := bytes.IndexByte(s, 0); i >= 0 {
			s = s[:i]
		}
		return string(s)
	}
	if rva, _ := dir(pe.IMAGE_DIRECTORY_ENTRY_EXPORT); rva != 0 {
		n, funcs, names, ords := le.Uint32(m[rva+24:]), le.Uint32(m[rva+28:]), le.Uint32(m[rva+32:]), le.Uint32(m[rva+36:])
		for i := range n {
			ord := uint32(le.Uint16(m[ords+2*i:]))
			g.exports[str(le.Uint32(m[names+4*i:]))] = le.Uint32(m[funcs+4*ord:])
		}
	}
	if rva, _ := dir(pe.IMAGE_DIRECTORY_ENTRY_IMPORT); rva != 0 {
		for ; le.Uint32(m[rva+12:]) != 0; rva += 20 {
			dll := str(le.Uint32(m[rva+12:]))
			look, slot := le.Uint32(m[rva:]), le.Uint32(m[rva+16:])
			for ; le.Uint64(m[look:]) != 0; look, slot = look+8, slot+8 {
				g.imports = append(g.imports, imported{dll, str(uint32(le.Uint64(m[look:])) + 2), slot})
			}
		}
	}
	if rva, size := dir(pe.IMAGE_DIRECTORY_ENTRY_BASERELOC); rva != 0 {
		for end := rva + size; rva < end; {
			page, n := le.Uint32(m[rva:]), le.Uint32(m[rva+4:])
			for o := uint32(8); o < n; o += 2 {
				if e := le.Uint16(m[rva+o:]); e>>12 == 10 { // DIR64
					g.relocs = append(g.relocs, page+uint32(e&0xFFF))
				}
			}
			rva += n
		}
	}
	return g, nil
}

// flat is the image as it lies in memory, before relocation.
func (g *image) flat() []byte {
	m := make([]byte, (g.size+pageSize-1)&^(pageSize-1))
	copy(m, g.data[:g.headers])
	for _, s := range g.sections {
		n := min(s.Size, s.VirtualSize)
		copy(m[s.VirtualAddress:], g.data[s.Offset:s.Offset+n])
	}
	return m
}

// protection gives the page table bits for an offset into the image.
func (g *image) protection(rva uint32) uint64 {
	for _, s := range g.sections {
		if rva >= s.VirtualAddress && rva < s.VirtualAddress+s.VirtualSize {
			bits := uint64(pteGlobal)
			if s.Characteristics&pe.IMAGE_SCN_MEM_WRITE != 0 {
				bits |= pteWrite
			}
			if s.Characteristics&pe.IMAGE_SCN_MEM_EXECUTE == 0 {
				bits |= pteNX
			}
			return bits
		}
	}
	return pteGlobal | pteNX
}

// mapImage maps an image at a base, relocated and with its imports bound.
func (b *board) mapImage(g *image, base uint64) (*module, error) {
	m := g.flat()
	for _, r := range g.relocs {
		le.PutUint64(m[r:], le.Uint64(m[r:])+base-g.preferred)
	}
	le.PutUint64(m[g.baseField:], base)
	for _, i := range g.imports {
		a, ok := b.export(i.dll, i.name)
		if !ok {
			return nil, fmt.Errorf("sim: image %s: %s does not export %s", g.name, i.dll, i.name)
		}
		le.PutUint64(m[i.slot:], a)
	}
	for off := uint32(0); off < uint32(len(m)); off += pageSize {
		p, err := b.mem.alloc()
		if err == nil {
			err = b.mem.mapPage(b.top, base+uint64(off), p, g.protection(off))
		}
		if err != nil {
			return nil, err
		}
		copy(b.mem.ram[p:p+pageSize], m[off:])
	}
	mod := &module{name: g.name, base: base, size: uint64(len(m)), img: g, syms: imageSymbols(g.name)}
	b.modules = append(b.modules, mod)
	return mod, nil
}

func (b *board) export(dll, name string) (uint64, bool) {
	for _, m := range b.modules {
		if m.img != nil && strings.EqualFold(m.name, dll) {
			rva, ok := m.img.exports[name]
			return m.base + uint64(rva), ok
		}
	}
	return 0, false
}

func imageSymbols(name string) (syms []symbol) {
	text, err := kernel.Symbols(name)
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		off, n, ok := strings.Cut(strings.TrimSpace(line), " ")
		rva, err := strconv.ParseUint(off, 16, 32)
		if ok && err == nil {
			syms = append(syms, symbol{uint32(rva), n})
		}
	}
	sort.SliceStable(syms, func(i, k int) bool { return syms[i].rva < syms[k].rva })
	return syms
}

func (m *module) symbol(name string) (uint64, bool) {
	for _, s := range m.syms {
		if s.name == name {
			return m.base + uint64(s.rva), true
		}
	}
	return 0, false
}

// syntheticHeader is a page with the headers of an empty image.
func syntheticHeader(base uint64, stamp uint32) []byte {
	p := make([]byte, pageSize)
	copy(p, "MZ")
	le.PutUint32(p[0x3C:], 0x80)
	h := p[0x80:]
	copy(h, "PE\x00\x00")
	le.PutUint16(h[4:], 0x8664)
	le.PutUint32(h[8:], stamp)
	le.PutUint16(h[20:], 0xF0)   // optional header
	le.PutUint16(h[22:], 0x2022) // executable, large address aware, DLL
	o := h[24:]
	le.PutUint16(o[0:], 0x20B)
	le.PutUint64(o[24:], base)
	le.PutUint32(o[32:], pageSize) // section alignment
	le.PutUint32(o[36:], 0x200)
	le.PutUint16(o[40:], 10)
	le.PutUint16(o[48:], 10)
	le.PutUint32(o[56:], pageSize) // size of image
	le.PutUint32(o[60:], 0x400)
	le.PutUint16(o[68:], 1)   // native
	le.PutUint32(o[108:], 16) // directories
	return p
}
