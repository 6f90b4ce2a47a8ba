package pdb

import (
	"slices"
	"sort"

	"openkd/image/sym"
)

// procedure is the code around an address that was asked for.
type procedure struct {
	f   *File
	l   *layout
	u   *unit
	at  addr   // what was asked for
	pos uint32 // of its record
	rec symRec
}

// procedureAt finds the procedure at an address. If the module has no record of
// one, ok is false and only the module is known; without a module p is nil.
func (f *File) procedureAt(rva uint32) (p *procedure, ok bool, err error) {
	l, err := f.layout()
	if err != nil {
		return nil, false, err
	}
	a, ok := l.place(rva)
	if !ok {
		return nil, false, nil
	}
	n, ok, err := f.moduleAt(a)
	if err != nil || !ok {
		return nil, false, err
	}
	u, err := f.unit(n)
	if u == nil || err != nil {
		return nil, false, err
	}
	p = &procedure{f: f, l: l, u: u, at: a}
	x, err := u.lookup()
	if err != nil {
		return nil, false, err
	}
	sp, ok := x.spanAt(a)
	if !ok {
		return p, false, nil
	}
	p.pos = sp.pos
	if p.rec, err = u.s.symbol(int64(sp.pos)); err != nil {
		return nil, false, err
	}
	return p, p.rec.isProc() || p.rec.kind == sSepCode, nil
}

// call is an inlined call around the address.
type call struct {
	id     uint32
	pieces []piece
	in     int // the piece of the address
}

// piece is code of an inlined call: where, and of which line.
type piece struct {
	off, size uint32 // from the start of the procedure
	line      uint32
	file      uint32
}

// frames walks the records of the procedure and calls f for each whose scopes
// are all around the address, the beginnings and ends of those scopes included.
// sites are the inlined calls it is in.
func (p *procedure) frames(f func(r *symRec, raw []byte, sites []call) error) error {
	x, err := p.u.lineTable()
	if err != nil {
		return err
	}
	start := addr{p.rec.seg, p.rec.off}
	var sites []call
	var open []byte // of every open scope: what it is
	const (
		outside = iota // not around the address
		around
		site
	)
	skip := 0 // how many open scopes are outside
	end := min(p.rec.end, p.u.symbols)
	w := window{s: p.u.s, piece: min(windowBytes, max(int64(end)-int64(p.pos), 1))}
	for pos := int64(p.pos); pos+4 <= int64(end); {
		kind, body, next, err := w.record(pos)
		if err != nil {
			return err
		}
		r, err := decodeSym(kind, body)
		if err != nil {
			return err
		}
		switch {
		case r.closes():
			if len(open) == 0 {
				return nil
			}
			state := open[len(open)-1]
			open = open[:len(open)-1]
			if state == outside {
				skip--
				break
			}
			if err := f(&r, body, sites); err != nil {
				return err
			}
			if state == site {
				sites = sites[:len(sites)-1]
			}
			if len(open) == 0 {
				return nil
			}
		case r.opens():
			state := byte(outside)
			switch {
			case pos == int64(p.pos):
				state = around
			case skip > 0:
			case r.kind == sInlineSite || r.kind == sInlineSite2:
				from, _ := x.inlinee(r.typ)
				c := call{id: r.typ, pieces: annotations(r.rest, from)}
				c.in = pieceAt(c.pieces, p.at.off-start.off)
				if c.in >= 0 {
					state = site
					sites = append(sites, c)
				}
			case r.kind == sBlock32 || r.kind == sBlock32ST:
				if p.at.within(addr{r.seg, r.off}, r.size) {
					state = around
				}
			case r.kind == sWith32 || r.kind == sWith32ST:
				state = around
			}
			open = append(open, state)
			if state == outside {
				skip++
			} else if err := f(&r, body, sites); err != nil {
				return err
			}
		case skip == 0:
			if err := f(&r, body, sites); err != nil {
				return err
			}
		}
		pos = next
	}
	return nil
}

// inlined returns the inlined calls around the address, outermost first.
func (p *procedure) inlined() ([]call, error) {
	var out []call
	err := p.frames(func(_ *symRec, _ []byte, sites []call) error {
		if len(sites) > len(out) {
			out = slices.Clone(sites)
		}
		return nil
	})
	return out, err
}

// line returns the line of the call's code at the address.
func (c *call) line(p *procedure) (sym.Line, bool, error) {
	x, err := p.u.lineTable()
	if err != nil {
		return sym.Line{}, false, err
	}
	pc := c.pieces[c.in]
	if pc.line == 0 || pc.line == lineAlwaysStep || pc.line == lineNeverStep {
		return sym.Line{}, false, nil
	}
	return p.u.line(&x, lineEntry{line: pc.line, file: pc.file}, addr{p.rec.seg, p.rec.off + pc.off}, pc.size, p.l)
}

// inlinee returns where an inlined function stands in its source.
func (x *unitLines) inlinee(id uint32) (inlinee, bool) {
	i := sort.Search(len(x.inlinees), func(i int) bool { return x.inlinees[i].id >= id })
	if i < len(x.inlinees) && x.inlinees[i].id == id {
		return x.inlinees[i], true
	}
	return inlinee{}, false
}

// Operations of binary annotations.
const (
	opEnd = iota
	opCodeOffset
	opCodeBase
	opCodeDelta
	opCodeLength
	opFile
	opLineDelta
	opLineEnd
	opRangeKind
	opColumnStart
	opColumnEndDelta
	opCodeAndLine
	opLengthAndCode
	opColumnEnd
)

// annotations runs the program that says which code an inlined call has and of
// which lines it is. Operands are compressed: one, two or four bytes, by their
// first bits; signed ones have the sign in the lowest bit.
func annotations(b []byte, from inlinee) []piece {
	c := cursor{b: b}
	num := func() uint32 {
		first := c.u8()
		switch {
		case first&0x80 == 0:
			return uint32(first)
		case first&0xc0 == 0x80:
			return uint32(first&0x3f)<<8 | uint32(c.u8())
		case first&0xe0 == 0xc0:
			p := c.take(3)
			if p == nil {
				return 0
			}
			return uint32(first&0x1f)<<24 | uint32(p[0])<<16 | uint32(p[1])<<8 | uint32(p[2])
		}
		c.take(-1)
		return 0
	}
	signed := func(v uint32) uint32 {
		if v&1 != 0 {
			return -(v >> 1)
		}
		return v >> 1
	}
	var list []piece
	var off uint32
	var apart bool // in code that lies apart from the procedure
	line, file := from.line, from.file
	const open = ^uint32(0) // the size is not known yet
	// begin starts a piece, which ends the one before if that has no size.
	begin := func(delta uint32) {
		off += delta
		if apart {
			return
		}
		if n := len(list); n > 0 && list[n-1].size == open {
			list[n-1].size = off - list[n-1].off
		}
		list = append(list, piece{off: off, size: open, line: line, file: file})
	}
	length := func(n uint32) {
		if k := len(list); k > 0 && !apart {
			list[k-1].size = n
		}
	}
	for len(c.b) > 0 && !c.bad {
		switch num() {
		case opEnd:
			c.b = nil
		case opCodeOffset:
			off = num()
		case opCodeBase:
			apart = num() != 0
		case opCodeDelta:
			begin(num())
		case opCodeLength:
			n := num()
			length(n)
			off += n // what follows counts from the end
		case opFile:
			file = num()
		case opLineDelta:
			line += signed(num())
		case opCodeAndLine:
			v := num()
			line += signed(v >> 4)
			begin(v & 0xf)
		case opLengthAndCode:
			n := num()
			begin(num())
			length(n)
		case opLineEnd, opRangeKind, opColumnStart, opColumnEndDelta, opColumnEnd:
			num()
		default:
			c.take(-1)
		}
	}
	if n := len(list); n > 0 && list[n-1].size == open {
		list[n-1].size = 0
	}
	return list
}

// pieceAt returns which piece has an offset; -1: none.
func pieceAt(list []piece, off uint32) int {
	for i, p := range list {
		if off >= p.off && off-p.off < p.size {
			return i
		}
	}
	return -1
}
