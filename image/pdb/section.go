package pdb

import (
	"cmp"
	"math"
	"slices"
	"sort"
)

// Streams that the end of the DBI stream lists, by their place in the list.
const (
	debugFPO         = 0
	debugOmapTo      = 3 // from the image as it is to the image as it was linked
	debugOmapFrom    = 4 // and back
	debugSections    = 5
	debugFrameData   = 9
	debugSectionOrig = 10 // headers before the image was rearranged
)

// debugStream opens one of the streams that the DBI stream lists; nil: none.
func (f *File) debugStream(i int, what string) (*stream, error) {
	p := f.dbi.debug
	if int64(2*i+2) > p.size {
		return nil, nil
	}
	var b [2]byte
	if err := f.dbi.s.read(b[:], p.off+int64(2*i)); err != nil {
		return nil, err
	}
	n := le.Uint16(b[:])
	if n == noStream {
		return nil, nil
	}
	return f.msf.open(n, what)
}

// section is a section of the image as it was linked.
type section struct {
	rva, size uint32
	code      bool
}

// omap is a piece of an image that was rearranged after linking: what began at
// from begins at to now.
type omap struct{ from, to uint32 }

// gone says whether a piece has no place there: tools write 0, or set the
// highest bit.
func (o omap) gone() bool { return o.to == 0 || o.to>>31 != 0 }

// layout turns section and offset, which is what records have, into RVAs.
type layout struct {
	sections []section
	// Sorted by from; nil for an image that was not rearranged.
	now  []omap // from as linked to as it is
	then []omap // and back
}

// Bytes of a section header and of an OMAP entry.
const (
	sectionBytes = 40
	omapBytes    = 8
	maxSections  = 1 << 12
)

func (f *File) layout() (*layout, error) {
	return f.where.get(func() (*layout, error) {
		l := &layout{}
		from, err := f.omap(debugOmapFrom, "OMAP from source")
		if err != nil {
			return nil, err
		}
		to, err := f.omap(debugOmapTo, "OMAP to source")
		if err != nil {
			return nil, err
		}
		which := debugSections
		if len(from) > 0 && len(to) > 0 {
			l.now, l.then = from, to
			which = debugSectionOrig
		}
		s, err := f.debugStream(which, "section headers")
		if err == nil && s == nil && which == debugSectionOrig {
			s, err = f.debugStream(debugSections, "section headers")
		}
		if err != nil {
			return nil, err
		}
		if s == nil {
			return nil, malformed("DBI stream", "it names no section headers, so nothing in it has an address")
		}
		if s.size > maxSections*sectionBytes {
			return nil, malformed(s.what, "%d bytes", s.size)
		}
		raw, err := s.bytes(0, int64(s.size))
		if err != nil {
			return nil, err
		}
		l.sections = make([]section, 0, len(raw)/sectionBytes)
		for ; len(raw) >= sectionBytes; raw = raw[sectionBytes:] {
			l.sections = append(l.sections, section{
				rva:  le.Uint32(raw[12:]),
				size: max(le.Uint32(raw[8:]), le.Uint32(raw[16:])),
				code: le.Uint32(raw[36:])&0x20000020 != 0, // code or executable
			})
		}
		return l, nil
	})
}

func (f *File) omap(which int, what string) ([]omap, error) {
	s, err := f.debugStream(which, what)
	if s == nil || err != nil {
		return nil, err
	}
	w := window{s: s}
	list := make([]omap, 0, s.size/omapBytes)
	for off := int64(0); off+omapBytes <= int64(s.size); off += omapBytes {
		b, err := w.at(off, omapBytes)
		if err != nil {
			return nil, err
		}
		list = append(list, omap{le.Uint32(b), le.Uint32(b[4:])})
	}
	byFrom := func(a, b omap) int { return cmp.Compare(a.from, b.from) }
	if !slices.IsSortedFunc(list, byFrom) {
		slices.SortStableFunc(list, byFrom)
	}
	return list, nil
}

// through leads an address through a map; false: it is not there any more.
func through(m []omap, rva uint32) (uint32, bool) {
	if m == nil {
		return rva, true
	}
	i := sort.Search(len(m), func(i int) bool { return m[i].from > rva }) - 1
	if i < 0 || m[i].gone() {
		return 0, false
	}
	return m[i].to + (rva - m[i].from), true
}

// absolute says whether a symbol has a value and no place: linkers give it the
// section behind the last. The image's base gets that too. (Section 0 is for
// what was left out of the image.)
func (l *layout) absolute(r *symRec) bool {
	return int(r.seg) > len(l.sections) && !isImageBase(r.name)
}

func isImageBase(name []byte) bool {
	return string(name) == "__ImageBase" || string(name) == "___ImageBase"
}

// rva returns where an offset of a section is in the image; false: nowhere.
func (l *layout) rva(seg uint16, off uint32) (uint32, bool) {
	if seg == 0 || int(seg) > len(l.sections) {
		return 0, false
	}
	return through(l.now, l.sections[seg-1].rva+off)
}

// symbol returns where a symbol is; false: nowhere, or it has a value only.
func (l *layout) symbol(r *symRec) (uint32, bool) {
	if isImageBase(r.name) {
		return 0, true
	}
	return l.rva(r.seg, r.off)
}

// place returns the section and offset of an RVA.
func (l *layout) place(rva uint32) (addr, bool) {
	old, ok := through(l.then, rva)
	if !ok {
		return addr{}, false
	}
	for i, s := range l.sections {
		if old >= s.rva && old-s.rva < s.size {
			return addr{uint16(i + 1), old - s.rva}, true
		}
	}
	// What is behind a section's end counts as of the section, up to the end
	// of the page: symbols for the end stand there.
	for i, s := range l.sections {
		const page = 0x1000
		if old >= s.rva && old-s.rva < (s.size+page)&^(page-1) {
			return addr{uint16(i + 1), old - s.rva}, true
		}
	}
	return addr{}, false
}

// linear is about how many bytes of sections are in front of an address.
func (l *layout) linear(a addr) float64 {
	var n float64
	for i, s := range l.sections {
		if i+1 >= int(a.seg) {
			if i+1 == int(a.seg) {
				n += float64(min(a.off, s.size))
			}
			break
		}
		n += float64(s.size)
	}
	return n
}

// search returns the first of n places, which are sorted by address, that is
// above a. Every look at one costs pages of the file, and places are spread about
// evenly over a section. So it looks where a should be, and once it is in the
// right section, then to the other side of it as far as it may well be off.
// What that leaves of a million is halved until it is found.
func (l *layout) search(n int, a addr, at func(int) (addr, error)) (int, error) {
	const (
		guesses = 3
		few     = 16 // are halved at once
	)
	low, high := 0, n // what is asked for is in between
	var below, above float64
	look := func(i int) (up bool, err error) {
		if i < low || i >= high {
			return false, nil
		}
		p, err := at(i)
		if err != nil {
			return false, err
		}
		if p.compare(a) > 0 {
			high, above = i, l.linear(p)
			return false, nil
		}
		low, below = i+1, l.linear(p)
		return true, nil
	}
	if n > few {
		for _, i := range []int{0, n - 1} {
			if _, err := look(i); err != nil {
				return 0, err
			}
		}
		for k := range guesses {
			width := high - low
			if width <= few || above <= below {
				break
			}
			i := low + int(float64(width)*(l.linear(a)-below)/(above-below))
			i = min(max(i, low), high-1)
			up, err := look(i)
			if err != nil {
				return 0, err
			}
			if k == 0 {
				continue
			}
			step := int(math.Sqrt(float64(width)))
			if !up {
				step = -step
			}
			if _, err := look(i + step); err != nil {
				return 0, err
			}
		}
	}
	for low < high {
		if _, err := look((low + high) / 2); err != nil {
			return 0, err
		}
	}
	return low, nil
}

// code says whether a section has code.
func (l *layout) code(seg uint16) bool {
	return seg != 0 && int(seg) <= len(l.sections) && l.sections[seg-1].code
}

// addr is an address as records have it.
type addr struct {
	seg uint16 // from 1
	off uint32
}

// compare orders addresses.
func (a addr) compare(b addr) int {
	return cmp.Or(cmp.Compare(a.seg, b.seg), cmp.Compare(a.off, b.off))
}

// within says whether the address is in size bytes from start.
func (a addr) within(start addr, size uint32) bool {
	return a.seg == start.seg && a.off >= start.off && a.off-start.off < size
}
