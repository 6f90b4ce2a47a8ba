package pdb

import (
	"bytes"
	"cmp"
	"slices"
	"sort"
	"strings"

	"openkd/image/sym"
)

// Kinds of subsections of C13 line records.
const (
	subLines    = 0xf2
	subChecksum = 0xf4
	subInlinees = 0xf6
	subImports  = 0xf7 // ids that are of another module
	subExports  = 0xf8
	subIgnore   = 0x80000000
)

// Lines that compilers give to code that belongs to none.
const (
	lineAlwaysStep = 0xfeefee
	lineNeverStep  = 0xf00f00
	lineMask       = 0xffffff
)

// lineSpan is code that has line records.
type lineSpan struct {
	addr
	size    uint32
	columns bool
	part    // its blocks in the module's stream
}

// inlinee is where a function stands that was inlined.
type inlinee struct{ id, file, line uint32 }

// unitLines is what the line records of a module consist of.
type unitLines struct {
	spans     []lineSpan
	checksums part
	inlinees  []inlinee
	imports   part
	exports   part
}

// lineTable finds the subsections of a module's line records.
func (u *unit) lineTable() (unitLines, error) {
	return u.lines.get(func() (unitLines, error) {
		var x unitLines
		off := int64(u.symbols) + int64(u.c11)
		end := off + int64(u.c13)
		w := window{s: u.s}
		for off+8 <= end {
			b, err := w.at(off, 8)
			if err != nil {
				return x, err
			}
			kind, p := le.Uint32(b), part{off + 8, int64(le.Uint32(b[4:]))}
			if p.end() > end {
				return x, malformed(u.s.what, "line records of %d bytes at %#x", p.size, off)
			}
			switch kind {
			case subLines:
				const header = 12
				if p.size < header {
					return x, malformed(u.s.what, "line records of %d bytes at %#x", p.size, off)
				}
				if b, err = w.at(p.off, header); err != nil {
					return x, err
				}
				x.spans = append(x.spans, lineSpan{
					addr{le.Uint16(b[4:]), le.Uint32(b)}, le.Uint32(b[8:]), le.Uint16(b[6:])&1 != 0, part{p.off + header, p.size - header}})
			case subChecksum:
				x.checksums = p
			case subImports:
				x.imports = p
			case subExports:
				x.exports = p
			case subInlinees:
				if x.inlinees, err = appendInlinees(x.inlinees, &w, p); err != nil {
					return x, err
				}
			}
			off = (p.end() + 3) &^ 3
		}
		slices.SortStableFunc(x.spans, func(a, b lineSpan) int { return a.compare(b.addr) })
		slices.SortStableFunc(x.inlinees, func(a, b inlinee) int { return cmp.Compare(a.id, b.id) })
		return x, nil
	})
}

func appendInlinees(list []inlinee, w *window, p part) ([]inlinee, error) {
	b, err := w.at(p.off, min(4, p.size))
	if err != nil || len(b) < 4 {
		return list, err
	}
	extra := le.Uint32(b) == 1 // entries have more files
	for off := p.off + 4; off+12 <= p.end(); off += 12 {
		if b, err = w.at(off, 12); err != nil {
			return list, err
		}
		list = append(list, inlinee{le.Uint32(b), le.Uint32(b[4:]), le.Uint32(b[8:])})
		if extra {
			if off+16 > p.end() {
				break
			}
			if b, err = w.at(off+12, 4); err != nil {
				return list, err
			}
			off += 4 + 4*int64(le.Uint32(b))
		}
	}
	return list, nil
}

// spanAt returns the lines around an address.
func (x *unitLines) spanAt(a addr) (lineSpan, bool) {
	i := sort.Search(len(x.spans), func(i int) bool { return x.spans[i].compare(a) > 0 }) - 1
	if i >= 0 && a.within(x.spans[i].addr, x.spans[i].size) {
		return x.spans[i], true
	}
	return lineSpan{}, false
}

// lineEntry is a line record: from off on, code belongs to a line.
type lineEntry struct {
	off  uint32 // from the start of the span
	line uint32 // 0: none
	file uint32 // position of the file's checksum
}

// entries reads the line records of a span, in the order of addresses.
func (u *unit) entries(sp lineSpan) ([]lineEntry, error) {
	raw, err := u.s.bytes(sp.off(), sp.part.size)
	if err != nil {
		return nil, err
	}
	var list []lineEntry
	c := cursor{b: raw}
	for len(c.b) >= 12 {
		file, n := c.u32(), c.u32()
		size := c.u32()
		each := uint64(8)
		if sp.columns {
			each += 4
		}
		if uint64(n)*each+12 > uint64(size) || uint64(size) > uint64(len(c.b))+12 {
			return nil, malformed(u.s.what, "%d lines in %d bytes", n, size)
		}
		block := cursor{b: c.take(int(size) - 12)}
		for range n {
			off, line := block.u32(), block.u32()&lineMask
			if line == lineAlwaysStep || line == lineNeverStep {
				line = 0
			}
			list = append(list, lineEntry{off, line, file})
		}
	}
	slices.SortStableFunc(list, func(a, b lineEntry) int { return cmp.Compare(a.off, b.off) })
	return list, nil
}

// off is the position of the blocks; the address has an off too.
func (sp *lineSpan) off() int64 { return sp.part.off }

// size returns how far entry i of a list goes.
func entrySize(list []lineEntry, i int, whole uint32) uint32 {
	end := whole
	for _, e := range list[i+1:] {
		if e.off > list[i].off {
			end = min(end, e.off)
			break
		}
	}
	return end - min(end, list[i].off)
}

// checksum reads a file's entry: its name, the kind and bytes of its checksum.
func (u *unit) checksum(x *unitLines, at uint32) (sym.Line, error) {
	var l sym.Line
	off := x.checksums.off + int64(at)
	if off+6 > x.checksums.end() {
		return l, malformed(u.s.what, "there is no file at %#x of %d bytes of checksums", at, x.checksums.size)
	}
	var b [6]byte
	if err := u.s.read(b[:], off); err != nil {
		return l, err
	}
	name, err := u.f.text(le.Uint32(b[:]))
	if err != nil {
		return l, err
	}
	l.File = name
	if n := int64(b[4]); n > 0 && off+6+n <= x.checksums.end() {
		l.ChecksumKind = b[5]
		l.Checksum, err = u.s.bytes(off+6, n)
	}
	return l, err
}

// Header of the table of texts.
const (
	textMagic  = 0xeffeeffe
	textHeader = 12
)

// text returns a text of the table that the file has for names of files and
// for programs of frames.
func (f *File) text(off uint32) (string, error) {
	s, err := f.texts.get(func() (*stream, error) {
		n, ok := f.named("/names")
		if !ok || n >= noStream {
			return nil, malformed("PDB info stream", "it names no stream of texts (/names)")
		}
		s, err := f.msf.open(uint16(n), "/names")
		if err != nil {
			return nil, err
		}
		magic, err := s.u32(0)
		if err == nil && magic != textMagic {
			err = malformed(s.what, "it begins with %#x", magic)
		}
		return s, err
	})
	if err != nil {
		return "", err
	}
	return s.text(textHeader + int64(off))
}

// Line returns the line of an address: in an inlined call the line of what is
// inlined.
func (f *File) Line(rva uint32) (sym.Line, bool, error) {
	p, ok, err := f.procedureAt(rva)
	if err != nil || p == nil {
		return sym.Line{}, false, err
	}
	if ok {
		calls, err := p.inlined()
		if err != nil {
			return sym.Line{}, false, err
		}
		if n := len(calls); n > 0 {
			return calls[n-1].line(p)
		}
	}
	return p.ownLine()
}

// ownLine returns the line of the procedure itself: of what is inlined the line
// where the call stands.
func (p *procedure) ownLine() (sym.Line, bool, error) {
	x, err := p.u.lineTable()
	if err != nil {
		return sym.Line{}, false, err
	}
	sp, ok := x.spanAt(p.at)
	if !ok {
		return sym.Line{}, false, nil
	}
	list, err := p.u.entries(sp)
	if err != nil {
		return sym.Line{}, false, err
	}
	in := p.at.off - sp.addr.off
	i := sort.Search(len(list), func(i int) bool { return list[i].off > in }) - 1
	if i < 0 || list[i].line == 0 {
		return sym.Line{}, false, nil
	}
	return p.u.line(&x, list[i], addr{sp.seg, sp.addr.off + list[i].off}, entrySize(list, i, sp.size), p.l)
}

// line makes a line of an entry that begins at an address.
func (u *unit) line(x *unitLines, e lineEntry, a addr, size uint32, l *layout) (sym.Line, bool, error) {
	rva, ok := l.rva(a.seg, a.off)
	if !ok {
		return sym.Line{}, false, nil
	}
	out, err := u.checksum(x, e.file)
	out.Line, out.RVA, out.Size = e.line, rva, size
	return out, err == nil, err
}

// Addresses returns where the code of a line begins: for each function, and for
// each place it is inlined at, the lowest address.
func (f *File) Addresses(file string, line uint32) ([]sym.Line, error) {
	l, err := f.layout()
	if err != nil {
		return nil, err
	}
	mods, err := f.modulesOf(file)
	if err != nil {
		return nil, err
	}
	q := lineQuery{l: l, file: slashes(file), want: line}
	for _, n := range mods {
		u, err := f.unit(n)
		if err != nil {
			return nil, err
		}
		if u == nil {
			continue
		}
		if err := q.search(u); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(q.found, func(a, b sym.Line) int { return cmp.Compare(a.RVA, b.RVA) })
	return slices.CompactFunc(q.found, func(a, b sym.Line) bool { return a.RVA == b.RVA }), nil
}

// slashes makes paths comparable: one kind of slash, lower case.
func slashes(path string) string {
	return strings.ToLower(strings.ReplaceAll(path, `\`, "/"))
}

// endsWith says whether a path ends with another, whole names at a time.
func endsWith(path, end string) bool {
	path = slashes(path)
	if !strings.HasSuffix(path, end) {
		return false
	}
	rest := path[:len(path)-len(end)]
	return rest == "" || end == "" || end[0] == '/' || strings.HasSuffix(rest, "/") || strings.HasSuffix(rest, ":")
}

// modulesOf returns the modules that have code of a source file. The DBI stream
// lists for every module where the names of its files are.
func (f *File) modulesOf(file string) ([]uint16, error) {
	p, s := f.dbi.files, f.dbi.s
	if p.size < 4 {
		return nil, nil
	}
	head, err := s.bytes(p.off, 4)
	if err != nil {
		return nil, err
	}
	// The count of files in the header has 16 bits and is not used. The
	// counts of each module are repeated in its own description.
	mods := int64(le.Uint16(head))
	counts := p.off + 4 + 2*mods
	offsets := counts + 2*mods
	list, err := f.moduleList()
	if err != nil {
		return nil, err
	}
	w := window{s: s}
	var total int64
	for i := range mods {
		b, err := w.at(counts+2*i, 2)
		if err != nil {
			return nil, err
		}
		total += int64(le.Uint16(b))
	}
	names := offsets + 4*total
	if names > p.end() {
		return nil, malformed(s.what, "%d source files in %d bytes", total, p.size)
	}
	end := slashes(file)
	matches := map[uint32]bool{}
	for off := names; off < p.end(); {
		next, err := w.skipText(off, p.end())
		if err != nil {
			break // what is behind the last name
		}
		if n := next - off - 1; n >= int64(len(end)) && n < 64<<10 {
			b, err := w.at(off, n)
			if err != nil {
				return nil, err
			}
			if endsWith(string(b), end) {
				matches[uint32(off-names)] = true
			}
		}
		off = next
	}
	var out []uint16
	if len(matches) == 0 {
		return nil, nil
	}
	at := offsets
	counter := window{s: s}
	for i := range min(mods, int64(len(list))) {
		b, err := counter.at(counts+2*i, 2)
		if err != nil {
			return nil, err
		}
		has := false
		for range le.Uint16(b) {
			o, err := w.at(at, 4)
			if err != nil {
				return nil, err
			}
			has = has || matches[le.Uint32(o)]
			at += 4
		}
		if has {
			out = append(out, uint16(i))
		}
	}
	return out, nil
}

// lineQuery collects where a line begins, or the next one that has code.
type lineQuery struct {
	l     *layout
	file  string
	want  uint32
	best  uint32 // the line of what was found; 0: nothing yet
	found []sym.Line
}

// offer takes the lowest places of a function's lines.
func (q *lineQuery) offer(u *unit, x *unitLines, start addr, list []lineEntry, files map[uint32]bool, whole uint32) error {
	best := -1
	for i, e := range list {
		if !files[e.file] || e.line < q.want || e.line == 0 || q.best != 0 && e.line > q.best {
			continue
		}
		if best < 0 || e.line < list[best].line {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	e := list[best]
	if q.best == 0 || e.line < q.best {
		q.best, q.found = e.line, q.found[:0]
	}
	ln, ok, err := u.line(x, e, addr{start.seg, start.off + e.off}, entrySize(list, best, whole), q.l)
	if ok && len(q.found) < mostFound {
		q.found = append(q.found, ln)
	}
	return err
}

// search looks through a module: its own lines, then those of inlined calls.
func (q *lineQuery) search(u *unit) error {
	x, err := u.lineTable()
	if err != nil {
		return err
	}
	files := map[uint32]bool{}
	for at := int64(0); at+6 <= x.checksums.size; {
		ln, err := u.checksum(&x, uint32(at))
		if err != nil {
			return err
		}
		if endsWith(ln.File, q.file) {
			files[uint32(at)] = true
		}
		at = (at + 6 + int64(len(ln.Checksum)) + 3) &^ 3
	}
	if len(files) == 0 {
		return nil
	}
	for _, sp := range x.spans {
		list, err := u.entries(sp)
		if err != nil {
			return err
		}
		if err := q.offer(u, &x, sp.addr, list, files, sp.size); err != nil {
			return err
		}
	}
	var proc symRec
	return u.walk(4, u.symbols, func(_ uint32, r symRec) error {
		switch {
		case r.isProc():
			proc = r
			proc.name = bytes.Clone(r.name)
		case r.kind == sInlineSite || r.kind == sInlineSite2:
			from, ok := x.inlinee(r.typ)
			if !ok {
				return nil
			}
			var list []lineEntry
			for _, p := range annotations(r.rest, from) {
				list = append(list, lineEntry{p.off, p.line, p.file})
			}
			return q.offer(u, &x, addr{proc.seg, proc.off}, list, files, proc.size)
		}
		return nil
	})
}
