package dwarf

import (
	"cmp"
	std "debug/dwarf"
	"iter"
	"slices"
	"sort"
)

// span is a piece of code, as RVAs; hi is behind it.
type span struct{ lo, hi uint32 }

func (s span) has(rva uint32) bool { return s.lo <= rva && rva < s.hi }

// extent is a piece of code that a unit speaks of.
type extent struct {
	span
	reach uint32 // the highest hi up to this one
	unit  uint32 // offset of its header
}

// reaching runs through the indices of what has an address, of n pieces sorted
// by where they begin: backwards, so that of nested ones the innermost is
// first.
func reaching(n int, rva uint32, at func(i int) (s span, reach uint32)) iter.Seq[int] {
	return func(yield func(int) bool) {
		i := sort.Search(n, func(i int) bool { s, _ := at(i); return s.lo > rva })
		for i--; i >= 0; i-- {
			s, reach := at(i)
			if reach <= rva || s.has(rva) && !yield(i) {
				return
			}
		}
	}
}

// extents are the pieces of code of all units by address: from .debug_aranges,
// and for units that are not in it, as those of Clang, from their first entry.
func (f *File) extents() ([]extent, error) {
	return f.covered.get(func() ([]extent, error) {
		all, first := f.headers()
		list, err := f.readAranges()
		if first == nil {
			first = err
		}
		known := map[uint32]bool{}
		for _, x := range list {
			known[x.unit] = true
		}
		w := newWork()
		for _, h := range all {
			if known[h.off] || h.kind != unitCompile && h.kind != unitPartial {
				continue
			}
			if w.left < 0 {
				break
			}
			var spans []span
			u, err := f.rootOnly(h)
			if err == nil {
				err = w.do(u.tab.size)
			}
			if err == nil {
				spans, err = u.spans(0, w)
			}
			if err != nil && first == nil {
				first = err
			}
			for _, s := range spans {
				list = append(list, extent{span: s, unit: h.off})
			}
		}
		slices.SortFunc(list, func(a, b extent) int {
			return cmp.Or(cmp.Compare(a.lo, b.lo), cmp.Compare(b.hi, a.hi), cmp.Compare(a.unit, b.unit))
		})
		reach := uint32(0)
		for i := range list {
			reach = max(reach, list[i].hi)
			list[i].reach = reach
		}
		return list, first
	})
}

// readAranges reads .debug_aranges.
func (f *File) readAranges() ([]extent, error) {
	if f.aranges.size == 0 {
		return nil, nil
	}
	b, err := f.aranges.read(0, uint64(f.aranges.size))
	if err != nil {
		return nil, err
	}
	var list []extent
	for p := 0; p < len(b); {
		c := cursor{b: b, p: p}
		n, size := c.length()
		if n > uint64(len(b)-c.p) || n == 0 {
			return list, malformed(f.aranges.name, "the table at %#x has %#x bytes", p, n)
		}
		end := c.p + int(n)
		c.b = b[:end]
		version, unit, addr, seg := c.u16(), c.uint(size), int(c.u8()), int(c.u8())
		if version != 2 || addr != 4 && addr != 8 || seg != 0 || unit >= uint64(f.info.size) {
			return list, malformed(f.aranges.name, "header of the table at %#x", p)
		}
		// The pairs are aligned to their size, from the start of the table.
		if r := (c.p - p) % (2 * addr); r != 0 {
			c.bytes(uint64(2*addr - r))
		}
		for c.p < end && !c.bad {
			lo, n := c.uint(addr), c.uint(addr)
			if s, ok := f.span(lo, lo+n); ok {
				list = append(list, extent{span: s, unit: uint32(unit)})
			}
		}
		p = end
	}
	return list, nil
}

// span makes a span of two addresses; false: it is empty or not in the image.
func (f *File) span(lo, hi uint64) (span, bool) {
	a, ok := f.rva(lo)
	if !ok || hi <= lo {
		return span{}, false
	}
	return span{a, a + uint32(min(hi-lo, uint64(f.im.SizeOfImage-a)))}, true
}

// rootOnly reads the first entry of a unit and nothing else of it.
func (f *File) rootOnly(h header) (*unit, error) {
	for n := uint64(4 << 10); ; n *= 8 {
		b, err := f.info.read(uint64(h.off), min(n, uint64(h.end-h.off)))
		if err != nil {
			return nil, err
		}
		c := cursor{b: b, p: int(h.first - h.off)}
		code := c.uleb()
		if code == 0 || c.bad {
			return nil, (&unit{header: h, f: f}).damaged(int(h.first-h.off), "no entries")
		}
		tab, err := f.readAbbrevs(h.abbrevOff, h.shape, code)
		if err != nil {
			return nil, err
		}
		u := &unit{header: h, f: f, data: b, tab: tab}
		k := tab.find(code)
		if k < 0 {
			return nil, u.damaged(int(h.first-h.off), "abbreviation %d is not in the table at %#x", code, h.abbrevOff)
		}
		for _, sp := range tab.list[k].specs {
			u.pass(&c, sp.form)
		}
		if c.bad {
			if uint64(len(b)) < n {
				return nil, u.damaged(int(h.first-h.off), "the entry is longer than its unit, or has an unknown form")
			}
			continue
		}
		u.dies = []die{{off: h.first - h.off, parent: -1, next: 1, abbrev: k}}
		if err := u.root(); err != nil {
			return nil, err
		}
		return u, nil
	}
}

// Kinds of entries of .debug_rnglists (DWARF 5, 7.25).
const (
	rleEnd          = 0
	rleBasex        = 1
	rleStartxEndx   = 2
	rleStartxLength = 3
	rleOffsetPair   = 4
	rleBase         = 5
	rleStartEnd     = 6
	rleStartLength  = 7
)

// spans are the pieces of code of entry i.
func (u *unit) spans(i int, w *work) ([]span, error) {
	if v, ok := u.attr(i, std.AttrRanges); ok {
		if u.version >= 5 {
			return u.rnglist(v, w)
		}
		return u.oldRanges(v, w)
	}
	v, ok := u.attr(i, std.AttrLowpc)
	if !ok {
		return nil, nil
	}
	lo, err := v.addr(u)
	if err != nil {
		return nil, err
	}
	v, ok = u.attr(i, std.AttrHighpc)
	if !ok {
		return nil, nil
	}
	hi := lo + v.u
	if !v.constant() {
		if hi, err = v.addr(u); err != nil {
			return nil, err
		}
	}
	s, ok := u.f.span(lo, hi)
	if !ok {
		return nil, nil
	}
	return []span{s}, nil
}

// listOffset is where a list begins in a section of DWARF 5, by offset or
// through the table of offsets of the unit.
func (u *unit) listOffset(s *section, v value, base uint64) (uint64, error) {
	if v.form == formSecOffset {
		return v.u, nil
	}
	if v.u > uint64(s.size) {
		return 0, malformed(s.name, "entry %d of the table of offsets", v.u)
	}
	off, err := s.small(base+v.u*uint64(u.shape.off), int(u.shape.off))
	return base + off, err
}

// list reads a list of pieces bit by bit: next is called on a cursor with at
// least one whole entry, or with all there is.
func (s *section) list(off uint64, w *work, next func(*cursor) (more bool, err error)) error {
	for window := uint64(4 << 10); ; {
		b, err := s.tail(off, window)
		if err != nil {
			return err
		}
		c := cursor{b: b}
		start := 0
		for more := true; more; {
			start = c.p
			if err := w.do(1); err != nil {
				return err
			}
			if more, err = next(&c); err != nil || !more && !c.bad {
				return err
			}
			more = !c.bad
		}
		if uint64(len(b)) < window {
			return malformed(s.name, "the list at %#x has no end", off)
		}
		// The entry is only partly there: once more from it.
		off += uint64(start)
		if start == 0 {
			window *= 8
		}
	}
}

func (u *unit) rnglist(v value, w *work) ([]span, error) {
	s := &u.f.rnglists
	off, err := u.listOffset(s, v, u.rnglistBase)
	if err != nil {
		return nil, err
	}
	var list []span
	base := u.low
	err = s.list(off, w, func(c *cursor) (bool, error) {
		var lo, hi uint64
		var err error
		switch kind := c.u8(); kind {
		case rleEnd:
			return false, nil
		case rleBasex:
			n := c.uleb()
			if !c.bad {
				base, err = u.address(n)
			}
			return true, err
		case rleBase:
			if b := c.uint(int(u.addr)); !c.bad {
				base = b
			}
			return true, nil
		case rleStartxEndx, rleStartxLength:
			a, b := c.uleb(), c.uleb()
			if c.bad {
				return true, nil
			}
			if lo, err = u.address(a); err != nil {
				return false, err
			}
			if hi = lo + b; kind == rleStartxEndx {
				if hi, err = u.address(b); err != nil {
					return false, err
				}
			}
		case rleOffsetPair:
			lo, hi = base+c.uleb(), base+c.uleb()
		case rleStartEnd:
			lo, hi = c.uint(int(u.addr)), c.uint(int(u.addr))
		case rleStartLength:
			lo = c.uint(int(u.addr))
			hi = lo + c.uleb()
		default:
			return false, malformed(s.name, "entry of kind %d", kind)
		}
		if sp, ok := u.f.span(lo, hi); ok && !c.bad {
			list = append(list, sp)
		}
		return true, nil
	})
	return list, err
}

func (u *unit) oldRanges(v value, w *work) ([]span, error) {
	var list []span
	base := u.low
	err := u.f.ranges.list(v.u, w, func(c *cursor) (bool, error) {
		lo, hi := c.uint(int(u.addr)), c.uint(int(u.addr))
		switch {
		case c.bad:
		case lo == 0 && hi == 0:
			return false, nil
		case lo == 1<<(8*u.addr)-1: // of u.addr 8 too: the shift gives 0
			base = hi
		default:
			if sp, ok := u.f.span(base+lo, base+hi); ok {
				list = append(list, sp)
			}
		}
		return true, nil
	})
	return list, err
}

// function is a piece of code of a procedure.
type function struct {
	span
	reach uint32 // the highest hi up to this one
	die   int32
	entry bool // the procedure begins here
}

// funcs are the procedures of the unit by address.
func (u *unit) funcs() ([]function, error) {
	u.once.Do(func() {
		w := newWork()
		for i := range u.dies {
			if u.ab(i).tag != std.TagSubprogram {
				continue
			}
			list, err := u.pieces(i, w)
			if err != nil {
				u.funcErr = err
				return
			}
			u.functions = append(u.functions, list...)
		}
		slices.SortStableFunc(u.functions, func(a, b function) int {
			return cmp.Or(cmp.Compare(a.lo, b.lo), cmp.Compare(b.hi, a.hi))
		})
		reach := uint32(0)
		for i := range u.functions {
			reach = max(reach, u.functions[i].hi)
			u.functions[i].reach = reach
		}
	})
	return u.functions, u.funcErr
}

// pieces are those of the procedure that is entry i.
func (u *unit) pieces(i int, w *work) ([]function, error) {
	spans, err := u.spans(i, w)
	if err != nil || len(spans) == 0 {
		return nil, err
	}
	begin := spans[0].lo
	if v, ok := u.attr(i, std.AttrEntrypc); ok && !v.constant() {
		if a, err := v.addr(u); err == nil {
			if rva, ok := u.f.rva(a); ok {
				begin = rva
			}
		}
	}
	list := make([]function, len(spans))
	for k, s := range spans {
		list[k] = function{span: s, die: int32(i), entry: s.lo == begin}
	}
	return list, nil
}

// at finds the unit and the procedure around an address. Without procedure the
// unit is nil where no unit has the address either.
func (f *File) at(rva uint32) (*unit, *function, error) {
	if !f.Private() {
		return nil, nil, nil
	}
	all, err := f.extents()
	var found *unit
	tried := make([]uint32, 0, maxHops)
	for i := range reaching(len(all), rva, func(i int) (span, uint32) { return all[i].span, all[i].reach }) {
		x := all[i]
		if len(tried) == maxHops || slices.Contains(tried, x.unit) {
			continue
		}
		tried = append(tried, x.unit)
		u, fn, err := f.functionIn(x.unit, rva)
		if err != nil || fn != nil {
			return u, fn, err
		}
		if found == nil {
			found = u
		}
	}
	if found != nil {
		return found, nil, nil
	}
	return nil, nil, err
}

// functionIn looks for the procedure around an address in one unit.
func (f *File) functionIn(off, rva uint32) (*unit, *function, error) {
	u, err := f.unitAt(off, func() (header, error) {
		h, _, err := f.readHeader(off)
		return h, err
	})
	if err != nil {
		return nil, nil, err
	}
	list, err := u.funcs()
	if err != nil {
		return nil, nil, err
	}
	for i := range reaching(len(list), rva, func(i int) (span, uint32) { return list[i].span, list[i].reach }) {
		return u, &list[i], nil
	}
	return u, nil, nil
}
