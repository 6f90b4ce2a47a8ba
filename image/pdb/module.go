package pdb

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"sort"
	"sync"
)

// module is a compiland: an object file as the linker took it.
type module struct {
	stream  uint16 // noStream: nothing is known of it
	files   uint16 // source files
	symbols uint32 // bytes of symbol records, from the start of the stream
	c11     uint32 // bytes of old line records behind them
	c13     uint32 // bytes of line records behind those
	name    uint32 // position of the name in the DBI stream
}

// moduleFixed is what a module's description has before its two names.
const moduleFixed = 64

// moduleTable has the modules that were read so far. Their descriptions have
// different lengths, so those in front have to be read for one.
type moduleTable struct {
	mu   sync.Mutex
	list []module
	next int64 // position of the next description in the DBI stream; 0: none was read
}

// moduleList reads where every module's description is. Names stay in the file.
func (f *File) moduleList() ([]module, error) { return f.firstModules(math.MaxInt) }

// firstModules returns at least the first n modules, all of them if there are
// fewer. After an error the next call goes on where this one stopped.
func (f *File) firstModules(n int) ([]module, error) {
	t := &f.mods
	t.mu.Lock()
	defer t.mu.Unlock()
	if n <= len(t.list) {
		return t.list, nil
	}
	const (
		piece = 16 << 10
		usual = 160 // bytes of a description with its names
	)
	w := window{s: f.dbi.s, piece: piece}
	end := f.dbi.modules.end()
	if t.next == 0 {
		t.next = f.dbi.modules.off
		t.list = make([]module, 0, f.dbi.modules.size/usual+1)
	}
	// A good part more, so that a walk through all of them reads little twice.
	for n = max(n, len(t.list)+len(t.list)/4); len(t.list) < n && t.next+moduleFixed <= end; {
		b, err := w.at(t.next, moduleFixed)
		if err != nil {
			return nil, err
		}
		m := module{
			stream:  le.Uint16(b[34:]),
			symbols: le.Uint32(b[36:]),
			c11:     le.Uint32(b[40:]),
			c13:     le.Uint32(b[44:]),
			files:   le.Uint16(b[48:]),
			name:    uint32(t.next + moduleFixed),
		}
		off := t.next + moduleFixed
		for range 2 {
			if off, err = w.skipText(off, end); err != nil {
				return nil, err
			}
		}
		t.list = append(t.list, m)
		t.next = (off + 3) &^ 3
	}
	return t.list, nil
}

// skipText returns what follows the text at off that ends in a zero byte.
func (w *window) skipText(off, end int64) (int64, error) {
	for off < end {
		b, err := w.at(off, min(256, end-off))
		if err != nil {
			return 0, err
		}
		if i := bytes.IndexByte(b, 0); i >= 0 {
			return off + int64(i) + 1, nil
		}
		off += int64(len(b))
	}
	return 0, malformed(w.s.what, "a text that does not end")
}

// text reads the text at off, which ends in a zero byte.
func (s *stream) text(off int64) (string, error) {
	const longest = 64 << 10
	var out []byte
	var b [128]byte
	for len(out) < longest {
		p := b[:max(0, min(int64(len(b)), int64(s.size)-off))]
		if len(p) == 0 {
			break
		}
		if err := s.read(p, off); err != nil {
			return "", err
		}
		if i := bytes.IndexByte(p, 0); i >= 0 {
			return string(append(out, p[:i]...)), nil
		}
		out = append(out, p...)
		off += int64(len(p))
	}
	return "", malformed(s.what, "a text that does not end")
}

// span is a piece of code with a record in a module.
type span struct {
	addr
	size uint32
	pos  uint32 // of its record
}

// mark is a datum or a label with a record in a module.
type mark struct {
	addr
	pos uint32
}

// unit is a module whose stream is in use.
type unit struct {
	module
	f     *File
	s     *stream
	tick  uint64 // when it was last used; guarded by File.unitsMu
	index lazy[unitIndex]
	lines lazy[unitLines]
}

type unitIndex struct {
	spans []span
	marks []mark
}

// maxUnits is how many modules are kept with their indices.
const maxUnits = 64

// moduleSignature begins the stream of a module with 32-bit types and names
// that end in zero.
const moduleSignature = 4

// unit returns a module by its number from 0; nil: nothing is known of it.
func (f *File) unit(n uint16) (*unit, error) {
	mods, err := f.firstModules(int(n) + 1)
	if err != nil {
		return nil, err
	}
	if int(n) >= len(mods) {
		return nil, malformed("symbol record", "it is of module %d of %d", n, len(mods))
	}
	m := mods[n]
	if m.stream == noStream || m.symbols == 0 && m.c13 == 0 {
		return nil, nil
	}
	f.unitsMu.Lock()
	defer f.unitsMu.Unlock()
	f.tick++
	if u := f.units[n]; u != nil {
		u.tick = f.tick
		return u, nil
	}
	s, err := f.msf.open(m.stream, fmt.Sprintf("symbols of module %d", n))
	if err != nil {
		return nil, err
	}
	if uint64(m.symbols)+uint64(m.c11)+uint64(m.c13) > uint64(s.size) {
		return nil, malformed(s.what, "%d, %d and %d bytes in %d", m.symbols, m.c11, m.c13, s.size)
	}
	if m.symbols >= 4 {
		sig, err := s.u32(0)
		if err != nil {
			return nil, err
		}
		if sig != moduleSignature {
			return nil, fmt.Errorf("%s: %w: records of CodeView version %d", s.what, ErrUnsupported, sig)
		}
	}
	if len(f.units) >= maxUnits {
		var oldest uint16
		when := f.tick
		for i, u := range f.units {
			if u.tick < when {
				oldest, when = i, u.tick
			}
		}
		delete(f.units, oldest)
	}
	u := &unit{module: m, f: f, s: s, tick: f.tick}
	f.units[n] = u
	return u, nil
}

// walk calls f for the symbol records from off to end, with the position of
// each. The record's bytes are valid during the call only.
func (u *unit) walk(off, end uint32, f func(pos uint32, r symRec) error) error {
	w := window{s: u.s}
	for pos := int64(off); pos+4 <= int64(min(end, u.symbols)); {
		kind, body, next, err := w.record(pos)
		if err != nil {
			return err
		}
		r, err := decodeSym(kind, body)
		if err != nil {
			return fmt.Errorf("%s at %#x: %w", u.s.what, pos, err)
		}
		if err := f(uint32(pos), r); err != nil {
			return err
		}
		pos = next
	}
	return nil
}

// lookup returns what the module has at addresses, sorted by them.
func (u *unit) lookup() (unitIndex, error) {
	return u.index.get(func() (unitIndex, error) {
		var x unitIndex
		err := u.walk(4, u.symbols, func(pos uint32, r symRec) error {
			a := addr{r.seg, r.off}
			switch {
			case r.seg == 0:
			case r.isProc() || r.kind == sThunk32 || r.kind == sThunk32ST || r.kind == sTrampoline || r.kind == sSepCode:
				x.spans = append(x.spans, span{a, r.size, pos})
			case r.isData() || r.kind == sLabel32 || r.kind == sLabel32ST:
				x.marks = append(x.marks, mark{a, pos})
			}
			return nil
		})
		slices.SortStableFunc(x.spans, func(a, b span) int { return a.compare(b.addr) })
		slices.SortStableFunc(x.marks, func(a, b mark) int { return a.compare(b.addr) })
		return x, err
	})
}

// spanAt returns the piece of code around an address.
func (x *unitIndex) spanAt(a addr) (span, bool) {
	i := sort.Search(len(x.spans), func(i int) bool { return x.spans[i].compare(a) > 0 })
	// Folded functions stand at one address; the first is as good as the others.
	for i--; i > 0 && x.spans[i-1].addr == x.spans[i].addr; i-- {
	}
	if i >= 0 && a.within(x.spans[i].addr, x.spans[i].size) {
		return x.spans[i], true
	}
	return span{}, false
}

// Versions of the section contributions.
const (
	contribV1    = 0xeffe0000 + 19970605
	contribV2    = 0xeffe0000 + 20140516
	contribV1Len = 28
	contribV2Len = 32
)

// contrib is a piece of a section that came from one module.
type contrib struct {
	addr
	size uint32
	mod  uint16
}

// contribTable is the list of them, which linkers sort by address.
type contribTable struct {
	s      *stream
	off    int64
	length int64 // of an entry
	count  int
}

func (f *File) contribTable() (contribTable, error) {
	t := contribTable{s: f.dbi.s, off: f.dbi.contribs.off + 4, length: contribV1Len}
	if f.dbi.contribs.size < 4 {
		return t, nil
	}
	v, err := t.s.u32(f.dbi.contribs.off)
	if err != nil {
		return t, err
	}
	switch v {
	case contribV1:
	case contribV2:
		t.length = contribV2Len
	default:
		return t, malformed(t.s.what, "section contributions of version %#x", v)
	}
	t.count = int((f.dbi.contribs.size - 4) / t.length)
	return t, nil
}

func (t *contribTable) at(i int) (contrib, error) {
	var b [18]byte
	err := t.s.read(b[:], t.off+int64(i)*t.length)
	return decodeContrib(b[:]), err
}

func decodeContrib(b []byte) contrib {
	return contrib{addr: addr{le.Uint16(b), le.Uint32(b[4:])}, size: le.Uint32(b[8:]), mod: le.Uint16(b[16:])}
}

// moduleAt returns the module that an address came from; between two of them
// the one before. False: none.
func (f *File) moduleAt(a addr) (uint16, bool, error) {
	t, err := f.contribTable()
	if err != nil {
		return 0, false, err
	}
	l, err := f.layout()
	if err != nil {
		return 0, false, err
	}
	i, err := l.search(t.count, a, func(i int) (addr, error) {
		c, err := t.at(i)
		return c.addr, err
	})
	if err != nil {
		return 0, false, err
	}
	var c contrib
	if i > 0 {
		if c, err = t.at(i - 1); err != nil {
			return 0, false, err
		}
		if a.within(c.addr, c.size) {
			return c.mod, true, nil
		}
	}
	// Either nothing is there, or the table is not sorted after all.
	list, err := f.contribOrder(t)
	if err != nil {
		return 0, false, err
	}
	if list != nil {
		i = sort.Search(len(list), func(i int) bool { return list[i].compare(a) > 0 })
		if i > 0 {
			c = list[i-1]
		}
	}
	if i == 0 || c.seg != a.seg {
		return 0, false, nil
	}
	return c.mod, true, nil
}

// contribOrder returns the contributions in order if the file does not have
// them in order, else nil.
func (f *File) contribOrder(t contribTable) ([]contrib, error) {
	return f.contribs.get(func() ([]contrib, error) {
		w := window{s: t.s}
		sorted := true
		var last addr
		var list []contrib
		for pass := range 2 {
			for i := range t.count {
				b, err := w.at(t.off+int64(i)*t.length, 18)
				if err != nil {
					return nil, err
				}
				c := decodeContrib(b)
				if pass == 0 {
					sorted = sorted && last.compare(c.addr) <= 0
					last = c.addr
				} else {
					list = append(list, c)
				}
			}
			if sorted {
				return nil, nil
			}
		}
		slices.SortStableFunc(list, func(a, b contrib) int { return a.compare(b.addr) })
		return list, nil
	})
}
