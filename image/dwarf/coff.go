package dwarf

import (
	"cmp"
	"fmt"
	"hash/maphash"
	"slices"
	"sort"
	"strings"

	"openkd/image/pe"
)

// Records of the COFF symbol table ("PE Format", COFF Symbol Table).
const (
	coffSymbol   = 18 // bytes
	coffExternal = 2
	coffStatic   = 3
	coffLabel    = 6
	coffWeak     = 105
	coffFunction = 0x20 // of the type
)

// public is a symbol of the linker.
type public struct {
	linkage string
	rva     uint32
	hash    uint32 // of stem(plain(linkage))
	class   uint8
	fn      bool // the type says that it is a function
	code    bool // it is in an executable section
}

// coffTable holds the symbols of the linker.
type coffTable struct {
	list    []public // by address
	seed    maphash.Seed
	mangled []int32 // those of C++
	dotted  []int32 // those that Clang may have made of others: procedure.counter
	statics bool    // symbols that are visible in one file are there too
}

func (t *coffTable) hash(name string) uint32 { return uint32(maphash.String(t.seed, name)) }

// publics are the symbols of the COFF symbol table. With an error they are those
// that could be read.
func (f *File) publics() (*coffTable, error) {
	return f.coff.get(func() (*coffTable, error) {
		t := &coffTable{seed: maphash.MakeSeed()}
		err := t.read(f)
		// Of several at one address those that other files see come first.
		slices.SortStableFunc(t.list, func(a, b public) int {
			return cmp.Or(cmp.Compare(a.rva, b.rva), cmp.Compare(a.class, b.class))
		})
		for i := range t.list {
			name := f.plain(t.list[i].linkage)
			if mangled(name) {
				t.mangled = append(t.mangled, int32(i))
			}
			if k := strings.LastIndexByte(name, '.'); k > 0 && !digits(name[k+1:]) {
				t.dotted = append(t.dotted, int32(i))
			}
		}
		return t, err
	})
}

// read reads the COFF symbol table.
func (t *coffTable) read(f *File) error {
	if f.symbolCount == 0 {
		return nil
	}
	names, damage := f.coffStrings()
	room := 16*len(names) + 1<<20 // bytes of names: they may share their ends, within reason
	const batch = 2048
	buf := make([]byte, min(batch, int64(f.symbolCount))*coffSymbol)
	skip := 0
	for n := int64(0); n < int64(f.symbolCount); {
		b := buf[:min(batch, int64(f.symbolCount)-n)*coffSymbol]
		if err := f.r.read(b, f.symbols+n*coffSymbol); err != nil {
			return fmt.Errorf("COFF symbol table: %w", err)
		}
		for ; len(b) > 0; b = b[coffSymbol:] {
			n++
			if skip > 0 {
				skip--
				continue
			}
			skip = int(b[17]) // auxiliary records
			p, ok, err := f.public(b, names)
			if damage = cmp.Or(damage, err); !ok {
				continue
			}
			if room -= len(p.linkage); room < 0 {
				return malformed("COFF string table", "the names are longer than the table")
			}
			p.hash = t.hash(stem(f.plain(p.linkage)))
			t.statics = t.statics || p.class == coffStatic
			t.list = append(t.list, p)
		}
	}
	return damage
}

// coffStrings is the string table, with its four bytes of size.
func (f *File) coffStrings() (string, error) {
	at := f.symbols + coffSymbol*int64(f.symbolCount)
	if at+4 > f.r.size {
		return "", nil // all names are short
	}
	var n [4]byte
	if err := f.r.read(n[:], at); err != nil {
		return "", fmt.Errorf("COFF string table: %w", err)
	}
	size := int64(le.Uint32(n[:]))
	if size > f.r.size-at {
		return "", malformed("COFF string table", "%#x bytes at %#x of the file, which has %#x", size, at, f.r.size)
	}
	b := make([]byte, size)
	if err := f.r.read(b, at); err != nil {
		return "", fmt.Errorf("COFF string table: %w", err)
	}
	return string(b), nil
}

// public decodes a record; false: it is not about a place in the image.
func (f *File) public(b []byte, names string) (public, bool, error) {
	p := public{class: b[16], fn: le.Uint16(b[14:])&0x30 == coffFunction}
	n := int(int16(le.Uint16(b[12:])))
	switch p.class {
	case coffExternal, coffStatic, coffLabel, coffWeak:
	default:
		return p, false, nil
	}
	if n <= 0 { // undefined, an absolute number, or of a debugger
		return p, false, nil
	}
	if n > len(f.im.Sections) {
		return p, false, malformed("COFF symbol table", "a symbol in section %d of %d", n, len(f.im.Sections))
	}
	s := &f.im.Sections[n-1]
	if strings.HasPrefix(s.Name, ".debug_") {
		return p, false, nil
	}
	if le.Uint32(b) == 0 {
		off := le.Uint32(b[4:])
		if uint64(off) >= uint64(len(names)) {
			return p, false, malformed("COFF string table", "name at %#x of %#x", off, len(names))
		}
		end := strings.IndexByte(names[off:], 0)
		if end < 0 {
			return p, false, malformed("COFF string table", "the name at %#x has no end", off)
		}
		p.linkage = names[off : int(off)+end]
	} else {
		p.linkage = strings.TrimRight(string(b[:8]), "\x00")
	}
	// The symbol of a section has the section's name, and mostly a record with
	// its size.
	if p.class == coffStatic && !p.fn && (b[17] != 0 || strings.HasPrefix(p.linkage, ".")) || p.linkage == "" {
		return p, false, nil
	}
	p.rva = s.VirtualAddress + le.Uint32(b[8:])
	p.code = s.Characteristics&(pe.SectionExecute|pe.SectionCode) != 0
	return p, p.rva < f.im.SizeOfImage, nil
}

// above is the index of the first symbol behind an address.
func (t *coffTable) above(rva uint32) int {
	return sort.Search(len(t.list), func(i int) bool { return t.list[i].rva > rva })
}

// size is how far it is from symbol i to the next one, or to the end of the
// section.
func (t *coffTable) size(f *File, i int) uint32 {
	rva := t.list[i].rva
	end := rva
	if s := f.im.SectionOf(rva); s != nil {
		end = s.VirtualAddress + max(s.VirtualSize, s.Size)
		if s.VirtualSize != 0 {
			end = s.VirtualAddress + s.VirtualSize
		}
	}
	for i = t.above(rva); i < len(t.list) && t.list[i].rva < end; i++ {
		if t.list[i].class != coffLabel {
			return t.list[i].rva - rva
		}
	}
	return end - min(rva, end)
}
