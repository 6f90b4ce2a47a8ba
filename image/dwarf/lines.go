package dwarf

import (
	"cmp"
	std "debug/dwarf"
	"slices"
	"sort"
	"strings"
	"unsafe"

	"openkd/image/sym"
)

// Operations of line number programs (DWARF 5, 7.22).
const (
	lnsCopy           = 1
	lnsAdvancePC      = 2
	lnsAdvanceLine    = 3
	lnsSetFile        = 4
	lnsSetColumn      = 5
	lnsNegateStmt     = 6
	lnsSetBasicBlock  = 7
	lnsConstAddPC     = 8
	lnsFixedAdvancePC = 9
	lneEndSequence    = 1
	lneSetAddress     = 2
	lneDefineFile     = 3
)

// What the tables of directories and files of DWARF 5 hold.
const (
	lnctPath      = 1
	lnctDirectory = 2
	lnctMD5       = 5
)

// row says that from an address on the code belongs to a line. Of several rows
// at one address the last has the code; the others are for lines that have come
// to nothing, which GCC notes at the address where they would be.
type row struct {
	rva  uint32
	line uint32 // 0: to none
	file uint32 // index in files
	stmt bool   // a good place to stop at
	end  bool   // of a sequence: the code before it ends here
}

// sequence is a run of rows with rising addresses.
type sequence struct {
	span
	reach       uint32
	first, last int32 // rows; the last ends it
}

// sourceFile is a file of a line table.
type sourceFile struct {
	name string
	dir  uint64
	md5  []byte
}

// lineTable is a decoded line number program.
type lineTable struct {
	dirs  []string
	files []sourceFile // by the numbers of the program; DWARF 4 begins with 1
	rows  []row
	seqs  []sequence // by address

	minInst    uint8
	isStmt     bool
	lineBase   int8
	lineRange  uint8
	opBase     uint8
	opLengths  []byte
	addr       uint8 // bytes of an address
	start, end uint64
}

// path is the whole name of a file.
func (t *lineTable) path(n uint64, compDir string) string {
	if n >= uint64(len(t.files)) {
		return ""
	}
	f := &t.files[n]
	dir := compDir
	if f.dir < uint64(len(t.dirs)) {
		dir = under(compDir, t.dirs[f.dir])
	}
	return under(dir, f.name)
}

// under is the path of a name that may be relative to a directory.
func under(dir, name string) string {
	if dir == "" || name == "" || name[0] == '/' || name[0] == '\\' || len(name) > 1 && name[1] == ':' {
		return name
	}
	if c := dir[len(dir)-1]; c == '/' || c == '\\' {
		return dir + name
	}
	return dir + "/" + name
}

// lineHeader reads the header of the table of a unit.
func (f *File) lineHeader(u *unit) (*lineTable, error) {
	off := u.lineOff
	for n := uint64(16 << 10); ; n *= 8 {
		b, err := f.line.tail(off, n)
		if err != nil {
			return nil, err
		}
		c := cursor{b: b}
		t, err := f.parseLineHeader(&c, u)
		if err != nil {
			return nil, err
		}
		if !c.bad {
			return t, nil
		}
		if uint64(len(b)) < n {
			return nil, malformed(f.line.name, "the table at %#x has no end", off)
		}
	}
}

func (f *File) parseLineHeader(c *cursor, u *unit) (*lineTable, error) {
	bad := func(format string, args ...any) error {
		return malformed(f.line.name, "table at %#x: "+format, append([]any{u.lineOff}, args...)...)
	}
	n, size := c.length()
	end := u.lineOff + uint64(c.p) + n
	if n > uint64(f.line.size) || end > uint64(f.line.size) {
		return nil, bad("%#x bytes, of %#x", n, f.line.size)
	}
	t := &lineTable{addr: u.addr, end: end}
	version := c.u16()
	if !c.bad && (version < 2 || version > 5) {
		return nil, bad("version %d, not 2 to 5", version)
	}
	if version >= 5 {
		if t.addr = c.u8(); t.addr != 4 && t.addr != 8 && !c.bad {
			return nil, bad("addresses of %d bytes", t.addr)
		}
		c.u8() // size of segment selectors
	}
	n = c.uint(size)
	t.start = u.lineOff + uint64(c.p) + n
	if n > uint64(f.line.size) || t.start > end {
		return nil, bad("a header of %#x bytes", n)
	}
	t.minInst = c.u8()
	if version >= 4 {
		c.u8() // operations in an instruction: 1 on our machines
	}
	t.isStmt = c.u8() != 0
	t.lineBase, t.lineRange, t.opBase = int8(c.u8()), c.u8(), c.u8()
	if c.bad {
		return t, nil
	}
	if t.lineRange == 0 || t.opBase == 0 {
		return nil, bad("line range %d, operations from %d", t.lineRange, t.opBase)
	}
	t.opLengths = append(t.opLengths, c.bytes(uint64(t.opBase-1))...)
	if version >= 5 {
		dirs, err := f.fileTable(c, u, size)
		if err != nil {
			return nil, err
		}
		for _, d := range dirs {
			t.dirs = append(t.dirs, d.name)
		}
		t.files, err = f.fileTable(c, u, size)
		return t, err
	}
	t.dirs = append(t.dirs, u.dir)
	for !c.bad {
		name := c.str()
		if len(name) == 0 {
			break
		}
		t.dirs = append(t.dirs, string(name))
	}
	t.files = append(t.files, sourceFile{name: u.name})
	for !c.bad {
		name := c.str()
		if len(name) == 0 {
			break
		}
		t.files = append(t.files, sourceFile{name: string(name), dir: c.uleb()})
		c.uleb() // time
		c.uleb() // size
	}
	return t, nil
}

// fileTable reads a table of directories or files of DWARF 5.
func (f *File) fileTable(c *cursor, u *unit, size int) ([]sourceFile, error) {
	s := shape{addr: u.addr, off: uint8(size), version: 5}
	var format []spec
	for range c.u8() {
		format = append(format, spec{at: std.Attr(c.uleb()), form: uint16(min(c.uleb(), 0x7FFF))})
	}
	n := c.uleb()
	if len(format) == 0 && n > 0 {
		return nil, malformed(f.line.name, "table at %#x: files of nothing", u.lineOff)
	}
	var list []sourceFile
	for ; n > 0 && !c.bad; n-- {
		var sf sourceFile
		before := c.p
		for k := range format {
			sp := &format[k]
			if sp.form == formImplicitConst || s.fixed(sp.form) < 0 && !passable(sp.form) {
				return nil, malformed(f.line.name, "table at %#x: form %#x", u.lineOff, sp.form)
			}
			v := s.value(c, sp)
			if c.bad {
				return list, nil
			}
			switch sp.at {
			case lnctPath:
				name, err := v.str(u)
				if err != nil {
					return nil, err
				}
				sf.name = string(name)
			case lnctDirectory:
				sf.dir = v.u
			case lnctMD5:
				if len(v.b) == 16 {
					sf.md5 = append([]byte(nil), v.b...)
				}
			}
		}
		if c.p == before {
			return nil, malformed(f.line.name, "table at %#x: files of no bytes", u.lineOff)
		}
		list = append(list, sf)
	}
	return list, nil
}

// passable says whether a form without fixed size is known at all.
func passable(form uint16) bool {
	switch form {
	case formString, formSdata, formUdata, formStrx, formBlock, formBlock1, formBlock2, formBlock4:
		return true
	}
	return false
}

// table returns the decoded line table of a unit, nil if it has none.
func (f *File) table(u *unit) (*lineTable, error) {
	if !u.hasLine {
		return nil, nil
	}
	return f.lines.get(uint32(min(u.lineOff, uint64(f.line.size))), func() (*lineTable, int, error) {
		t, err := f.lineHeader(u)
		if err != nil {
			return nil, 0, err
		}
		b, err := f.line.read(t.start, t.end-t.start)
		if err != nil {
			return nil, 0, err
		}
		if err := f.run(t, b); err != nil {
			return nil, 0, err
		}
		return t, cap(t.rows)*int(unsafe.Sizeof(row{})) + 64*len(t.files), nil
	})
}

// run runs a line number program.
func (f *File) run(t *lineTable, program []byte) error {
	c := cursor{b: program}
	var (
		addr      uint64
		file      uint64
		line      uint32
		stmt, out bool   // out: the sequence is not in the image
		good      uint32 // the last address that is a good place to stop at
		first     int
	)
	reset := func() {
		addr, file, line, stmt, out, good = 0, 1, 1, t.isStmt, false, 0
		first = len(t.rows)
	}
	emit := func(end bool) {
		rva, ok := f.rva(addr)
		if !ok && end && addr == f.im.ImageBase+uint64(f.im.SizeOfImage) {
			ok = true
		}
		if !ok {
			out = true
			return
		}
		// Of rows at one address one that is no good place to stop at yields,
		// as in gdb.
		if !end && !stmt && good == rva {
			return
		}
		if stmt {
			good = rva
		}
		r := row{rva, line, uint32(min(file, uint64(len(t.files)))), stmt, end}
		if n := len(t.rows); n > first {
			last := &t.rows[n-1]
			same := last.line == line && last.file == r.file
			switch {
			case end:
				for ; n > first && t.rows[n-1].rva == rva; n-- {
				}
				t.rows = t.rows[:n]
			case same && (last.stmt || !stmt):
				return
			case same && last.rva == rva:
				last.stmt = true
				return
			}
		}
		t.rows = append(t.rows, r)
	}
	reset()
	for c.p < len(c.b) {
		if len(t.rows) >= maxRows {
			return malformed(f.line.name, "a table of more than %d rows", maxRows)
		}
		op := c.u8()
		if op >= t.opBase {
			op -= t.opBase
			addr += uint64(op/t.lineRange) * uint64(t.minInst)
			line += uint32(int32(t.lineBase) + int32(op%t.lineRange))
			emit(false)
			continue
		}
		switch op {
		case 0:
			n := c.uleb()
			arg := cursor{b: c.bytes(n)}
			switch arg.u8() {
			case lneEndSequence:
				emit(true)
				t.sequence(first, out)
				reset()
			case lneSetAddress:
				addr = arg.uint(min(len(arg.b)-arg.p, 8))
			case lneDefineFile:
				t.files = append(t.files, sourceFile{name: string(arg.str()), dir: arg.uleb()})
			}
		case lnsCopy:
			emit(false)
		case lnsAdvancePC:
			addr += c.uleb() * uint64(t.minInst)
		case lnsAdvanceLine:
			line += uint32(c.sleb())
		case lnsSetFile:
			file = c.uleb()
		case lnsSetColumn:
			c.uleb()
		case lnsNegateStmt:
			stmt = !stmt
		case lnsConstAddPC:
			addr += uint64((255-t.opBase)/t.lineRange) * uint64(t.minInst)
		case lnsFixedAdvancePC:
			addr += uint64(c.u16())
		default: // also set_basic_block, set_prologue_end, set_epilogue_begin, set_isa
			for range t.opLengths[op-1] {
				c.uleb()
			}
		}
	}
	t.rows = t.rows[:first] // what has no end is no sequence
	slices.SortStableFunc(t.seqs, func(a, b sequence) int {
		return cmp.Or(cmp.Compare(a.lo, b.lo), cmp.Compare(b.hi, a.hi))
	})
	reach := uint32(0)
	for i := range t.seqs {
		reach = max(reach, t.seqs[i].hi)
		t.seqs[i].reach = reach
	}
	return nil
}

// sequence takes in the rows from first on, if they are good.
func (t *lineTable) sequence(first int, out bool) {
	rows := t.rows[first:]
	sorted := slices.IsSortedFunc(rows, func(a, b row) int { return cmp.Compare(a.rva, b.rva) })
	if n := len(rows); !out && sorted && n > 1 && rows[0].rva < rows[n-1].rva {
		t.seqs = append(t.seqs, sequence{
			span:  span{rows[0].rva, rows[n-1].rva},
			first: int32(first), last: int32(len(t.rows) - 1),
		})
		return
	}
	t.rows = t.rows[:first]
}

// line is the line from row i on, as far as it goes.
func (t *lineTable) line(u *unit, i int) sym.Line {
	r := &t.rows[i]
	end := i + 1
	for !t.rows[end].end && (t.empty(end) || t.rows[end].line == r.line && t.rows[end].file == r.file) && !t.empty(i) {
		end++
	}
	l := sym.Line{File: t.path(uint64(r.file), u.dir), Line: r.line, RVA: r.rva, Size: t.rows[end].rva - r.rva}
	if int(r.file) < len(t.files) {
		if sum := t.files[r.file].md5; sum != nil {
			l.ChecksumKind, l.Checksum = 1, slices.Clone(sum)
		}
	}
	return l
}

// empty says whether row i has no code. It is not the end of a sequence.
func (t *lineTable) empty(i int) bool { return t.rows[i+1].rva == t.rows[i].rva }

// rowAt is the row that an address belongs to; -1: none.
func (t *lineTable) rowAt(rva uint32) int {
	for k := range reaching(len(t.seqs), rva, func(i int) (span, uint32) { return t.seqs[i].span, t.seqs[i].reach }) {
		s := &t.seqs[k]
		rows := t.rows[s.first:s.last]
		return int(s.first) + sort.Search(len(rows), func(i int) bool { return rows[i].rva > rva }) - 1
	}
	return -1
}

// Line returns the source line of an address.
func (f *File) Line(rva uint32) (sym.Line, bool, error) {
	u, _, err := f.at(rva)
	if u == nil {
		return sym.Line{}, false, err
	}
	t, err := f.table(u)
	if err != nil || t == nil {
		return sym.Line{}, false, err
	}
	i := t.rowAt(rva)
	if i < 0 || t.rows[i].line == 0 {
		return sym.Line{}, false, nil
	}
	// Back over rows that say the same.
	for k := i; k > 0 && !t.rows[k-1].end; k-- {
		if t.empty(k - 1) {
			continue
		}
		if t.rows[k-1].line != t.rows[i].line || t.rows[k-1].file != t.rows[i].file {
			break
		}
		i = k - 1
	}
	return t.line(u, i), true, nil
}

// Addresses returns where the code of a source line begins: one entry for each
// procedure, and for each place that it was inlined into, that has code of it.
func (f *File) Addresses(file string, line uint32) ([]sym.Line, error) {
	if !f.Private() || file == "" {
		return nil, nil
	}
	heads, damage := f.headers()
	want := slashes(file)
	best := uint32(0)
	var found []sym.Line
	w := newWork()
	seen := map[uint64]bool{}
	for _, h := range heads {
		if h.kind != unitCompile && h.kind != unitPartial {
			continue
		}
		if w.left < 0 {
			break
		}
		u, err := f.rootOnly(h)
		if err == nil && (!u.hasLine || seen[u.lineOff]) {
			continue
		}
		if err == nil {
			err = w.do(u.tab.size)
		}
		if err == nil {
			seen[u.lineOff] = true
			var at uint32
			var list []sym.Line
			if at, list, err = f.addressesIn(u, want, line, best, w); len(list) > 0 {
				if at < best || best == 0 {
					best, found = at, nil
				}
				found = append(found, list...)
			}
		}
		if err != nil && damage == nil {
			damage = err
		}
	}
	slices.SortFunc(found, func(a, b sym.Line) int { return cmp.Compare(a.RVA, b.RVA) })
	found = slices.CompactFunc(found, func(a, b sym.Line) bool { return a.RVA == b.RVA })
	if len(found) > 0 {
		damage = nil
	}
	return found, damage
}

// slashes is a path as it is compared.
func slashes(path string) string {
	return strings.ToLower(strings.ReplaceAll(path, `\`, "/"))
}

// addressesIn looks for a line in the table of one unit: the line itself or the
// first behind it that has code, but none behind limit, which 0 leaves open.
func (f *File) addressesIn(u *unit, want string, line, limit uint32, w *work) (uint32, []sym.Line, error) {
	head, err := f.lineHeader(u)
	if err != nil {
		return 0, nil, err
	}
	if err := w.do(len(head.files)); err != nil {
		return 0, nil, err
	}
	mine := make([]bool, len(head.files)+1)
	some := false
	for i := range head.files {
		got := slashes(head.path(uint64(i), u.dir))
		if strings.HasSuffix(got, want) && (len(got) == len(want) || want[0] == '/' || got[len(got)-len(want)-1] == '/') {
			mine[i], some = true, true
		}
	}
	if !some {
		return 0, nil, nil
	}
	t, err := f.table(u)
	if err != nil || t == nil {
		return 0, nil, err
	}
	if err := w.do(len(t.rows)); err != nil {
		return 0, nil, err
	}
	at := limit
	for i := range t.rows {
		if r := &t.rows[i]; t.starts(i) && int(r.file) < len(mine) && mine[r.file] && r.line >= line && (at == 0 || r.line < at) {
			at = r.line
		}
	}
	if at == 0 {
		return 0, nil, nil
	}
	whole, err := f.unit(u.header)
	if err != nil {
		return 0, nil, err
	}
	// Of each procedure or inlined copy the lowest address counts.
	lowest := map[int]int{}
	var order []int
	for i := range t.rows {
		r := &t.rows[i]
		if r.line != at || int(r.file) >= len(mine) || !mine[r.file] || !t.starts(i) {
			continue
		}
		scope, err := whole.scopeAt(r.rva, w)
		if err != nil {
			return 0, nil, err
		}
		old, ok := lowest[scope]
		if !ok {
			order = append(order, scope)
		}
		if !ok || r.rva < t.rows[old].rva {
			lowest[scope] = i
		}
	}
	var list []sym.Line
	for _, scope := range order {
		list = append(list, t.line(u, lowest[scope]))
	}
	return at, list, nil
}

// starts says whether a line begins with row i, at a good place to stop.
func (t *lineTable) starts(i int) bool {
	r := &t.rows[i]
	if r.end || !r.stmt || r.line == 0 {
		return false
	}
	for k := i; t.empty(k); k++ {
		if t.rows[k+1].file != r.file {
			return false // the code is of what was inlined there
		}
	}
	return i == 0 || t.rows[i-1].end || t.rows[i-1].line != r.line || t.rows[i-1].file != r.file || !t.rows[i-1].stmt
}
