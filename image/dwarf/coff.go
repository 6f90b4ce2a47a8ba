package dwarf

import (
	"bytes"
	"cmp"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"sort"
	"strings"
	"unsafe"

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
	partial bool    // only what one question needs
}

func (t *coffTable) hash(name string) uint32 { return uint32(maphash.String(t.seed, name)) }

// publics are the symbols of the COFF symbol table. With an error they are those
// that could be read.
func (f *File) publics() (*coffTable, error) {
	return f.coff.get(func() (*coffTable, error) {
		t := &coffTable{seed: maphash.MakeSeed()}
		if f.symbolCount == 0 {
			return t, nil
		}
		names, damage := f.coffStrings()
		t.list = make([]public, 0, f.symbolCount) // no more than the file has records for
		room := 16*len(names) + 1<<20             // bytes of names: they may share their ends, within reason
		err := t.read(f, func(b []byte) error {
			p, ok, err := f.public(b, names)
			if damage = cmp.Or(damage, err); !ok {
				return nil
			}
			if room -= len(p.linkage); room < 0 {
				return malformed("COFF string table", "the names are longer than the table")
			}
			t.statics = t.statics || p.class == coffStatic
			t.add(f, p)
			return nil
		})
		t.sort(f)
		return t, cmp.Or(err, damage)
	})
}

func (t *coffTable) add(f *File, p public) {
	p.hash = t.hash(stem(f.plain(p.linkage)))
	t.list = append(t.list, p)
}

func (t *coffTable) sort(f *File) {
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
}

// read runs through the COFF symbol table.
func (t *coffTable) read(f *File, record func([]byte) error) error {
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
			if err := record(b[:coffSymbol]); err != nil {
				return err
			}
		}
	}
	return nil
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
	return unsafe.String(unsafe.SliceData(b), len(b)), nil // nobody else has b
}

// long says whether the name of a record is in the string table.
func long(b []byte) bool { return le.Uint32(b) == 0 }

// places says whether a record is about a place in a section.
func (f *File) places(b []byte) bool {
	switch b[16] {
	case coffExternal, coffStatic, coffLabel, coffWeak:
	default:
		return false
	}
	// Else it is undefined, an absolute number, or of a debugger.
	return int16(le.Uint16(b[12:])) > 0
}

// public decodes a record; false: it is not about a place in the image.
func (f *File) public(b []byte, names string) (public, bool, error) {
	p := public{class: b[16], fn: le.Uint16(b[14:])&0x30 == coffFunction}
	n := int(int16(le.Uint16(b[12:])))
	if !f.places(b) {
		return p, false, nil
	}
	if n > len(f.im.Sections) {
		return p, false, malformed("COFF symbol table", "a symbol in section %d of %d", n, len(f.im.Sections))
	}
	s := &f.im.Sections[n-1]
	if strings.HasPrefix(s.Name, ".debug_") {
		return p, false, nil
	}
	if long(b) {
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

// Large tables are not kept for the first questions, which are answered by
// looking through the file.
const (
	largeTable  = 1 << 16 // records
	looks       = 16      // questions, after which the table is read
	maxMatching = 1 << 10 // names
)

// look says whether a question may be answered by looking through the file.
func (f *File) look() bool {
	return f.symbolCount >= f.large && f.Private() && !f.coff.ready() && f.looked.Add(1) <= looks
}

// publicsNamed is the table with at least the symbols that ByName needs for a
// name.
func (f *File) publicsNamed(name string) (*coffTable, error) {
	// What every linker's name of it contains.
	key := stem(f.plain(name))
	if part := component(name); len(part) < len(key) {
		key = part
	}
	if len(key) < 3 || !f.look() {
		return f.publics()
	}
	names, ok := f.stringsWith(key)
	if !ok {
		return f.publics()
	}
	t := &coffTable{seed: maphash.MakeSeed(), partial: true}
	var damage error
	err := t.read(f, func(b []byte) error {
		t.statics = t.statics || b[16] == coffStatic && f.places(b) && le.Uint16(b[14:])&0x30 == coffFunction
		linkage := ""
		if long(b) {
			off := le.Uint32(b[4:])
			i := sort.Search(len(names), func(i int) bool { return names[i].key >= off })
			if i == len(names) || names[i].at > off {
				return nil
			}
			linkage = names[i].text[off-names[i].at:]
		} else if !bytes.Contains(b[:8], []byte(key)) {
			return nil
		}
		return t.take(f, b, linkage, &damage)
	})
	t.sort(f)
	return t, cmp.Or(err, damage)
}

// take takes in a record, with its name if that is in the string table.
func (t *coffTable) take(f *File, b []byte, linkage string, damage *error) error {
	if linkage != "" {
		// Its name alone is a string table.
		r := [coffSymbol]byte(b)
		clear(r[:8])
		b, linkage = r[:], linkage+"\x00"
	}
	p, ok, err := f.public(b, linkage)
	if *damage = cmp.Or(*damage, err); ok {
		t.add(f, p)
	}
	return nil
}

// publicsAt is the table with at least the symbols at an address of code.
func (f *File) publicsAt(rva uint32) (*coffTable, error) {
	if !f.look() {
		return f.publics()
	}
	t := &coffTable{seed: maphash.MakeSeed(), partial: true}
	start, err := f.stringsStart()
	if err != nil {
		return f.publics()
	}
	var damage error
	err = t.read(f, func(b []byte) error {
		n := int(int16(le.Uint16(b[12:])))
		if n <= 0 || n > len(f.im.Sections) || !f.places(b) {
			return nil
		}
		if at := f.im.Sections[n-1].VirtualAddress + le.Uint32(b[8:]); at != rva && at != rva-f.hook() {
			return nil
		}
		if len(t.list) == maxMatching {
			return malformed("COFF symbol table", "more than %d symbols at %#x", maxMatching, rva)
		}
		linkage := ""
		if long(b) {
			s := section{r: f.r, name: "COFF string table", off: start, size: uint32(min(f.r.size-start, math.MaxUint32))}
			name, err := s.bytes(uint64(le.Uint32(b[4:])))
			if err != nil {
				damage = cmp.Or(damage, err)
				return nil
			}
			linkage = string(name)
		}
		return t.take(f, b, linkage, &damage)
	})
	t.sort(f)
	return t, cmp.Or(err, damage)
}

// stringsStart is where the string table is in the file.
func (f *File) stringsStart() (int64, error) {
	at := f.symbols + coffSymbol*int64(f.symbolCount)
	if at+4 > f.r.size {
		return 0, malformed("COFF string table", "there is none")
	}
	return at, nil
}

// tableString is a string of the string table that contains what was looked
// for.
type tableString struct {
	at, key uint32 // where it begins, where in it the last place of that is
	text    string
}

// stringsWith are the strings of the string table that contain a key, by where
// they are; false: they are many, or the table is damaged.
func (f *File) stringsWith(key string) ([]tableString, bool) {
	start, err := f.stringsStart()
	if err != nil {
		return nil, false
	}
	var list []tableString
	s := section{r: f.r, name: "COFF string table", off: start, size: uint32(min(f.r.size-start, math.MaxUint32))}
	n, err := s.small(0, 4)
	if err != nil || n > uint64(s.size) || n < 4 {
		return nil, false
	}
	s.size = uint32(n)
	err = s.search([]byte(key), func(at uint32) error {
		if len(list) == maxMatching {
			return ErrMalformed
		}
		if k := len(list); k > 0 && at-list[k-1].at < uint32(len(list[k-1].text)) {
			list[k-1].key = at
			return nil
		}
		// Back to where it begins.
		lo := max(at, maxName+4) - maxName
		b, err := s.read(uint64(lo), uint64(min(s.size-lo, 3*maxName)))
		if err != nil {
			return err
		}
		first := bytes.LastIndexByte(b[:at-lo], 0) + 1
		end := bytes.IndexByte(b[at-lo:], 0)
		if end < 0 || first == 0 && lo > 4 {
			return ErrMalformed // longer than any name: let the whole table be read
		}
		list = append(list, tableString{lo + uint32(first), at, string(b[first : at-lo+uint32(end)])})
		return nil
	})
	return list, err == nil
}

// above is the index of the first symbol behind an address.
func (t *coffTable) above(rva uint32) int {
	return sort.Search(len(t.list), func(i int) bool { return t.list[i].rva > rva })
}

// size is how far it is from an address to the next symbol, or to the end of the
// section; 0 if only a part of the table is known.
func (t *coffTable) size(f *File, rva uint32) uint32 {
	if t.partial {
		return 0
	}
	end := rva
	if s := f.im.SectionOf(rva); s != nil {
		end = s.VirtualAddress + max(s.VirtualSize, s.Size)
		if s.VirtualSize != 0 {
			end = s.VirtualAddress + s.VirtualSize
		}
	}
	for i := t.above(rva); i < len(t.list) && t.list[i].rva < end; i++ {
		if t.list[i].class != coffLabel {
			return t.list[i].rva - rva
		}
	}
	return end - min(rva, end)
}
