package dwarf

import (
	std "debug/dwarf"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync"
	"unsafe"
)

// Kinds of units (DWARF 5, 7.5.1).
const (
	unitCompile      = 1
	unitType         = 2
	unitPartial      = 3
	unitSkeleton     = 4
	unitSplitCompile = 5
	unitSplitType    = 6
)

// header is the header of a unit. Offsets are in .debug_info.
type header struct {
	shape
	kind      uint8
	off       uint32 // of the header
	first     uint32 // of the first entry
	end       uint32
	abbrevOff uint64
	signature uint64 // of a type unit
	typ       uint32 // its type
}

// errPadding says that there is no unit at an offset but zeros up to the next.
var errPadding = errors.New("padding")

const (
	maxHeader  = 40
	usualEntry = 12 // bytes of an entry; most are longer
)

// readHeader reads the header of a unit, or says where the next one is if this
// one is of no use.
func (f *File) readHeader(off uint32) (h header, next uint32, err error) {
	b, err := f.info.tail(uint64(off), maxHeader)
	if err != nil {
		return h, f.info.size, err
	}
	c := cursor{b: b}
	n, size := c.length()
	start := uint64(off) + uint64(c.p)
	limit := uint64(f.info.size)
	if off < f.typesFrom {
		limit = uint64(f.typesFrom)
	}
	if c.bad || n == 0 || start > limit || n > limit-start {
		if to := f.padding(off, limit); to > off {
			return h, to, errPadding
		}
		return h, uint32(limit), malformed(f.info.name, "the unit at %#x has %#x bytes, there are %#x", off, n, limit)
	}
	next = uint32(start + n)
	h = header{off: off, end: next, kind: unitCompile}
	version := c.u16()
	if off >= f.typesFrom {
		h.kind = unitType
	}
	if version < 2 || version > 5 {
		return h, next, malformed(f.info.name, "the unit at %#x is of DWARF version %d, not 2 to 5", off, version)
	}
	h.version, h.shape.off = uint8(version), uint8(size)
	if version >= 5 {
		h.kind = c.u8()
		h.addr = c.u8()
		h.abbrevOff = c.uint(size)
	} else {
		h.abbrevOff = c.uint(size)
		h.addr = c.u8()
	}
	switch h.kind {
	case unitType, unitSplitType:
		h.signature = c.u64()
		typ := c.uint(size)
		h.typ = uint32(min(uint64(off)+typ, uint64(next)))
	case unitSkeleton, unitSplitCompile:
		c.u64()
	}
	h.first = off + uint32(c.p)
	if c.bad || h.first > next {
		return h, next, malformed(f.info.name, "the unit at %#x is shorter than its header", off)
	}
	if h.addr != 4 && h.addr != 8 {
		return h, next, malformed(f.info.name, "the unit at %#x has addresses of %d bytes", off, h.addr)
	}
	return h, next, nil
}

// padding passes over the zeros that linkers put between pieces that they
// align, and returns where they end.
func (f *File) padding(off uint32, limit uint64) uint32 {
	at := uint64(off)
	for at < limit {
		b, err := f.info.tail(at, min(64<<10, limit-at))
		if err != nil {
			break
		}
		if i := slices.IndexFunc(b, func(c byte) bool { return c != 0 }); i >= 0 {
			// The length that follows may begin with zeros too.
			start := uint64(0)
			if off >= f.typesFrom {
				start = uint64(f.typesFrom)
			}
			at = start + (at+uint64(i)-start)&^3
			break
		}
		at += uint64(len(b))
	}
	return max(off, uint32(at))
}

// headers are those of all units, in the order of the file. What is damaged is
// left out and is the error.
func (f *File) headers() ([]header, error) {
	return f.heads.get(func() ([]header, error) {
		var all []header
		var first error
		for off := uint32(0); off < f.info.size; {
			h, next, err := f.readHeader(off)
			if err == nil {
				all = append(all, h)
			} else if first == nil && err != errPadding {
				first = err
			}
			off = next
		}
		return all, first
	})
}

// typeUnits are the types that have a unit of their own, by signature.
func (f *File) typeUnits() (map[uint64]uint32, error) {
	return f.signed.get(func() (map[uint64]uint32, error) {
		all, err := f.headers()
		m := map[uint64]uint32{}
		for _, h := range all {
			if h.kind == unitType {
				m[h.signature] = h.typ
			}
		}
		return m, err
	})
}

// unitOf is the header of the unit that has an offset in it.
func (f *File) unitOf(off uint32) (header, error) {
	all, err := f.headers()
	i := sort.Search(len(all), func(i int) bool { return all[i].end > off })
	if i < len(all) && off >= all[i].first {
		return all[i], nil
	}
	if err == nil {
		err = malformed(f.info.name, "there is no entry at %#x", off)
	}
	return header{}, err
}

// die is an entry of a decoded unit. It has no pointers: there are many.
type die struct {
	off    uint32 // from the start of the unit
	parent int32  // -1: none
	next   int32  // the entry after this one and all below it
	abbrev int32
}

// ab is the abbreviation of entry i.
func (u *unit) ab(i int) *abbrev { return &u.tab.list[u.dies[i].abbrev] }

// unit is a decoded unit. It does not change.
type unit struct {
	header
	f    *File
	data []byte // with the header
	dies []die
	tab  *abbrevs

	// From the first entry.
	name, dir   string
	low         uint64
	c           bool // C: no names within structures
	hasLine     bool
	lineOff     uint64
	strBase     uint64
	addrBase    uint64
	rnglistBase uint64
	loclistBase uint64

	once      sync.Once
	functions []function
	funcErr   error
}

// unit returns the decoded unit of a header.
func (f *File) unit(h header) (*unit, error) {
	return f.unitAt(h.off, func() (header, error) { return h, nil })
}

// unitAt is the unit whose header is at an offset, which head reads if the unit
// is not at hand.
func (f *File) unitAt(off uint32, head func() (header, error)) (*unit, error) {
	return f.units.get(off, func() (*unit, int, error) {
		h, err := head()
		if err != nil {
			return nil, 0, err
		}
		u := &unit{header: h, f: f}
		f.decoded.Add(int64(h.end - h.off))
		if err := u.decode(false); err != nil {
			return nil, 0, err
		}
		return u, len(u.data) + cap(u.dies)*int(unsafe.Sizeof(die{})) + 8*u.tab.size, nil
	})
}

// decode reads the unit and finds its entries. With skim, what is within
// structures of C, enumerations and declarations is left out where the compiler
// notes how to get over it. What u.data and u.dies have is used as memory.
func (u *unit) decode(skim bool) error {
	f := u.f
	var err error
	if u.data, err = f.info.readTo(u.data, uint64(u.off), uint64(u.end-u.off)); err != nil {
		return err
	}
	if u.tab == nil {
		if u.tab, err = f.readAbbrevs(u.abbrevOff, u.shape, 0); err != nil {
			return err
		}
	}
	if u.dies = u.dies[:0]; cap(u.dies) == 0 {
		u.dies = make([]die, 0, min(len(u.data)/usualEntry+1, maxDIEs))
	}
	c := cursor{b: u.data, p: int(u.first - u.off)}
	parent := int32(-1)
	depth := 0
	for c.p < len(c.b) {
		at := c.p
		code := c.uleb()
		if code == 0 {
			if parent < 0 {
				break
			}
			u.dies[parent].next = int32(len(u.dies))
			parent = u.dies[parent].parent
			if depth--; depth == 0 {
				break
			}
			continue
		}
		k := u.tab.find(code)
		if k < 0 {
			return u.damaged(at, "abbreviation %d is not in the table at %#x", code, u.abbrevOff)
		}
		if len(u.dies) == maxDIEs {
			return u.damaged(at, "more than %d entries", maxDIEs)
		}
		i := int32(len(u.dies))
		ab := &u.tab.list[k]
		u.dies = append(u.dies, die{off: uint32(at), parent: parent, next: i + 1, abbrev: k})
		for _, step := range ab.plan {
			if step < variable {
				c.bytes(uint64(step))
			} else {
				u.skip(&c, step&^variable)
			}
		}
		if c.bad {
			return u.damaged(at, "the entry is longer than its unit, or has an unknown form")
		}
		if i == 0 {
			if err := u.root(); err != nil {
				return err
			}
		}
		if !ab.children {
			if i == 0 {
				break
			}
			continue
		}
		if skim && u.skims(ab) {
			if to, ok := u.sibling(int(i)); ok && to >= c.p && to <= len(c.b) {
				c.p = to
				continue
			}
		}
		if depth++; depth > maxDepth {
			return u.damaged(at, "entries are nested deeper than %d", maxDepth)
		}
		parent = i
	}
	// A unit that is cut short ends all that is open.
	for ; parent >= 0; parent = u.dies[parent].parent {
		u.dies[parent].next = int32(len(u.dies))
	}
	if len(u.dies) == 0 {
		return u.damaged(int(u.first-u.off), "no entries")
	}
	return nil
}

func (u *unit) damaged(at int, format string, args ...any) error {
	return malformed(u.f.info.name, "%#x: %s", int(u.off)+at, fmt.Sprintf(format, args...))
}

func (u *unit) skims(ab *abbrev) bool {
	switch ab.tag {
	case std.TagStructType, std.TagUnionType, std.TagClassType:
		return u.c
	case std.TagEnumerationType, std.TagSubroutineType, std.TagArrayType:
		return true
	case std.TagSubprogram:
		return ab.declares
	}
	return false
}

// sibling is where the next entry on the same level is, from the start of the
// unit, if the compiler noted that.
func (u *unit) sibling(i int) (int, bool) {
	v, ok := u.attr(i, std.AttrSibling)
	if !ok {
		return 0, false
	}
	off, _, err := v.ref(u)
	return int(off) - int(u.off), err == nil
}

// root takes from the first entry what the others need.
func (u *unit) root() error {
	u.strBase, u.addrBase = 8, 8 // after the header, where nothing is said
	lang, _ := u.attr(0, std.AttrLanguage)
	switch lang.u {
	case 0x01, 0x02, 0x0C, 0x1D, 0x8001: // C89, C, C99, C11, assembler
		u.c = true
	}
	for at, p := range map[std.Attr]*uint64{
		std.AttrStrOffsetsBase: &u.strBase, std.AttrAddrBase: &u.addrBase,
		std.AttrRnglistsBase: &u.rnglistBase, std.AttrLoclistsBase: &u.loclistBase,
	} {
		if v, ok := u.attr(0, at); ok {
			*p = v.u
		}
	}
	if v, ok := u.attr(0, std.AttrStmtList); ok {
		u.hasLine, u.lineOff = true, v.u
	}
	if v, ok := u.attr(0, std.AttrLowpc); ok {
		var err error
		if u.low, err = v.addr(u); err != nil {
			return err
		}
	}
	var err error
	if u.name, err = u.text(0, std.AttrName); err != nil {
		return err
	}
	u.dir, err = u.text(0, std.AttrCompDir)
	return err
}

// attrGNUDwoName is what GCC and Clang wrote before DWARF 5 had DW_AT_dwo_name.
const attrGNUDwoName = std.Attr(0x2130)

// split says that what the unit should tell is in another file.
func (u *unit) split() error {
	for _, at := range []std.Attr{std.AttrDwoName, attrGNUDwoName} {
		if name, err := u.text(0, at); err == nil && name != "" {
			return fmt.Errorf("%w: types, variables and lines of inlined calls of %s are in %s; build without -gsplit-dwarf", ErrSplit, u.name, name)
		}
	}
	return nil
}

// value is the value of an attribute.
type value struct {
	form uint16
	u    uint64 // numbers; the bits of signed ones
	b    []byte // strings and blocks
}

// attr finds an attribute of entry i.
func (u *unit) attr(i int, at std.Attr) (value, bool) {
	specs := u.ab(i).specs
	found := -1
	for k := range specs {
		if specs[k].at == at {
			found = k
			break
		}
	}
	if found < 0 {
		return value{}, false
	}
	c := cursor{b: u.data, p: int(u.dies[i].off)}
	c.uleb()
	for k := range found {
		if specs[k].varies {
			c.bytes(uint64(specs[k].from))
			u.skip(&c, specs[k].form)
		}
	}
	c.bytes(uint64(specs[found].from))
	return u.value(&c, &specs[found]), true
}

func (s shape) pass(c *cursor, form uint16) {
	if n := s.fixed(form); n >= 0 {
		c.bytes(uint64(n))
		return
	}
	s.skip(c, form)
}

// value reads one value; that it is all there was seen by decode.
func (s shape) value(c *cursor, sp *spec) value {
	v := value{form: sp.form}
	if v.form == formIndirect {
		v.form = indirect(c)
	}
	switch v.form {
	case formImplicitConst:
		v.u = uint64(sp.implicit)
	case formFlagPresent:
		v.u = 1
	case formSdata:
		v.u = uint64(c.sleb())
	case formUdata, formRefUdata, formStrx, formAddrx, formLoclistx, formRnglistx:
		v.u = c.uleb()
	case formString:
		v.b = c.str()
	case formBlock1:
		v.b = c.bytes(uint64(c.u8()))
	case formBlock2:
		v.b = c.bytes(uint64(c.u16()))
	case formBlock4:
		v.b = c.bytes(uint64(c.u32()))
	case formBlock, formExprloc:
		v.b = c.bytes(c.uleb())
	case formData16:
		v.b = c.bytes(16)
	default:
		v.u = c.uint(max(s.fixed(v.form), 0))
	}
	return v
}

// block says whether the value is a piece of bytes: an expression, or a constant.
func (v value) block() bool {
	switch v.form {
	case formBlock, formBlock1, formBlock2, formBlock4, formExprloc, formData16:
		return true
	}
	return false
}

// constant says whether the value is a number, which is in u.
func (v value) constant() bool {
	switch v.form {
	case formData1, formData2, formData4, formData8, formSdata, formUdata, formImplicitConst:
		return true
	}
	return false
}

// offset says whether the value is an offset into a section of lists. Before
// DWARF 4 those were written as numbers.
func (v value) offset(u *unit) bool {
	return v.form == formSecOffset || u.version < 4 && (v.form == formData4 || v.form == formData8)
}

// ref is the entry that the value refers to, an offset in .debug_info; false: it
// is in another file.
func (v value) ref(u *unit) (uint32, bool, error) {
	var off uint64
	switch v.form {
	case formRef1, formRef2, formRef4, formRef8, formRefUdata:
		if off = uint64(u.off) + v.u; v.u >= uint64(u.end-u.off) {
			return 0, false, malformed(u.f.info.name, "reference to %#x in the unit at %#x", v.u, u.off)
		}
	case formRefAddr:
		if off = v.u; off >= uint64(u.f.info.size) {
			return 0, false, malformed(u.f.info.name, "reference to %#x from the unit at %#x", v.u, u.off)
		}
	case formRefSig8:
		types, err := u.f.typeUnits()
		to, ok := types[v.u]
		return to, ok, err
	default:
		return 0, false, nil
	}
	return uint32(off), true, nil
}

// addr is the value as an address.
func (v value) addr(u *unit) (uint64, error) {
	switch v.form {
	case formAddr:
		return v.u, nil
	case formAddrx, formAddrx1, formAddrx2, formAddrx3, formAddrx4:
		return u.address(v.u)
	}
	return 0, malformed(u.f.info.name, "form %#x is no address", v.form)
}

// address is entry n of the unit's part of .debug_addr.
func (u *unit) address(n uint64) (uint64, error) {
	if n > uint64(u.f.addrs.size) {
		return 0, malformed(u.f.addrs.name, "entry %d", n)
	}
	return u.f.addrs.small(u.addrBase+n*uint64(u.addr), int(u.addr))
}

// str is the value as a string, which may not be written to.
func (v value) str(u *unit) ([]byte, error) {
	switch v.form {
	case formString:
		if len(v.b) > maxName {
			return nil, malformed(u.f.info.name, "a string of %d bytes in the unit at %#x", len(v.b), u.off)
		}
		return v.b, nil
	case formStrp:
		return u.f.str.bytes(v.u)
	case formLineStrp:
		off := v.u
		if base := uint64(uint32(u.f.im.ImageBase) + u.f.lineStrRVA); off >= uint64(u.f.lineStr.size) && off >= base {
			off -= base // Clang 14 writes the linked address
		}
		return u.f.lineStr.bytes(off)
	case formStrx, formStrx1, formStrx2, formStrx3, formStrx4:
		if v.u > uint64(u.f.strOffsets.size) {
			return nil, malformed(u.f.strOffsets.name, "entry %d", v.u)
		}
		off, err := u.f.strOffsets.small(u.strBase+v.u*uint64(u.shape.off), int(u.shape.off))
		if err != nil {
			return nil, err
		}
		return u.f.str.bytes(off)
	}
	return nil, nil
}

// text is a string of entry i, "" if it has none.
func (u *unit) text(i int, at std.Attr) (string, error) {
	v, ok := u.attr(i, at)
	if !ok {
		return "", nil
	}
	b, err := v.str(u)
	return string(b), err
}

// flag says whether entry i has an attribute that is set.
func (u *unit) flag(i int, at std.Attr) bool {
	v, ok := u.attr(i, at)
	return ok && v.u != 0
}

// find is the entry at an offset of .debug_info.
func (u *unit) find(off uint32) (int, error) {
	i, ok := slices.BinarySearchFunc(u.dies, off-u.off, func(d die, at uint32) int { return int(d.off) - int(at) })
	if !ok {
		return 0, malformed(u.f.info.name, "there is no entry at %#x", off)
	}
	return i, nil
}

// entry is an entry with its unit.
type entry struct {
	u *unit
	i int
}

// entry is the entry at an offset of .debug_info.
func (f *File) entry(off uint32) (entry, error) {
	h, err := f.unitOf(off)
	if err != nil {
		return entry{}, err
	}
	u, err := f.unit(h)
	if err != nil {
		return entry{}, err
	}
	i, err := u.find(off)
	return entry{u, i}, err
}

func (e entry) tag() std.Tag                     { return e.u.ab(e.i).tag }
func (e entry) off() uint32                      { return e.u.off + e.u.dies[e.i].off }
func (e entry) attr(at std.Attr) (value, bool)   { return e.u.attr(e.i, at) }
func (e entry) flag(at std.Attr) bool            { return e.u.flag(e.i, at) }
func (e entry) text(at std.Attr) (string, error) { return e.u.text(e.i, at) }
func (e entry) parent() (entry, bool)            { p := int(e.u.dies[e.i].parent); return entry{e.u, p}, p >= 0 }

// children runs through the entries directly below.
func (e entry) children(yield func(entry) bool) {
	end := int(e.u.dies[e.i].next)
	for i := e.i + 1; i < end; i = int(e.u.dies[i].next) {
		if !yield(entry{e.u, i}) {
			return
		}
	}
}

// refers is the entry that an attribute refers to.
func (e entry) refers(at std.Attr) (entry, bool, error) {
	v, ok := e.attr(at)
	if !ok {
		return entry{}, false, nil
	}
	off, ok, err := v.ref(e.u)
	if !ok || err != nil {
		return entry{}, false, err
	}
	if off >= e.u.first && off < e.u.end {
		i, err := e.u.find(off)
		return entry{e.u, i}, err == nil, err
	}
	to, err := e.u.f.entry(off)
	return to, err == nil, err
}

// origin is the entry that this one completes or is an instance of.
func (e entry) origin() (entry, bool, error) {
	o, ok, err := e.refers(std.AttrAbstractOrigin)
	if !ok && err == nil {
		o, ok, err = e.refers(std.AttrSpecification)
	}
	return o, ok, err
}

// with is the entry itself or the origin of it that has an attribute; false:
// none has.
func (e entry) with(at std.Attr) (entry, bool, error) {
	for range maxHops {
		if _, ok := e.attr(at); ok {
			return e, true, nil
		}
		o, ok, err := e.origin()
		if !ok || err != nil {
			return entry{}, false, err
		}
		e = o
	}
	return entry{}, false, malformed(e.u.f.info.name, "%#x: its origins have no end", e.off())
}

// inherited is a string of the entry or of its origins.
func (e entry) inherited(at std.Attr) (string, error) {
	o, ok, err := e.with(at)
	if !ok || err != nil {
		return "", err
	}
	return o.text(at)
}
