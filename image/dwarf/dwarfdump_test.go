package dwarf

import (
	"bufio"
	std "debug/dwarf"
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"openkd/image/sym"
)

// These tests compare with llvm-dwarfdump, which reads the images of every
// machine, and with objdump's list of lines.

// dumped is an entry as llvm-dwarfdump prints it.
type dumped struct {
	off    uint32
	tag    string
	depth  int
	parent *dumped
	attrs  map[string]string // without DW_AT_; the text between the outer brackets
	names  []string          // of the attributes, in order
}

var (
	headOfDump = regexp.MustCompile(`^0x([0-9a-f]{8}):( +)(DW_TAG_(\w+)|NULL)`)
	attrOfDump = regexp.MustCompile(`^ +DW_AT_(\w+)\t\((.*)`)
	unitOfDump = regexp.MustCompile(`^0x([0-9a-f]{8}): (\w+) Unit: `)
)

// dwarfdump runs the program and hands on its lines.
func dwarfdump(t *testing.T, path string, args ...string) *bufio.Scanner {
	t.Helper()
	reads(t, "llvm-dwarfdump", path)
	lines := bufio.NewScanner(strings.NewReader(tool(t, "llvm-dwarfdump", append(args, path)...)))
	lines.Buffer(nil, 1<<20)
	return lines
}

// entriesOf are all entries of an image by offset, and in order.
func entriesOf(t *testing.T, path string) (map[uint32]*dumped, []*dumped) {
	t.Helper()
	all := map[uint32]*dumped{}
	var list []*dumped
	var open []*dumped
	var cur *dumped
	last := ""
	lines := dwarfdump(t, path, "--debug-info", "--debug-types")
	for lines.Scan() {
		s := lines.Text()
		if m := headOfDump.FindStringSubmatch(s); m != nil {
			cur, last = nil, ""
			if m[3] == "NULL" {
				continue
			}
			off, _ := strconv.ParseUint(m[1], 16, 32)
			cur = &dumped{off: uint32(off), tag: m[4], depth: len(m[2]) / 2, attrs: map[string]string{}}
			open = open[:min(len(open), cur.depth)]
			for len(open) < cur.depth {
				open = append(open, nil)
			}
			if cur.depth > 0 {
				cur.parent = open[cur.depth-1]
			}
			open = append(open, cur)
			all[cur.off] = cur
			list = append(list, cur)
		} else if m := attrOfDump.FindStringSubmatch(s); m != nil && cur != nil {
			last = m[1]
			cur.attrs[last] = m[2]
			cur.names = append(cur.names, last)
		} else if unitOfDump.MatchString(s) {
			cur, last = nil, ""
		} else if s = strings.TrimSpace(s); s != "" && cur != nil && last != "" {
			cur.attrs[last] += "\n" + s
		}
	}
	for _, e := range list {
		for k, v := range e.attrs {
			e.attrs[k] = strings.TrimSuffix(v, ")")
		}
	}
	return all, list
}

// number is the first number of an attribute's text.
func (e *dumped) number(name string) (uint64, bool) {
	s, ok := e.attrs[name]
	if !ok {
		return 0, false
	}
	s, _, _ = strings.Cut(s, " ")
	s, _, _ = strings.Cut(s, "\n")
	if n, err := strconv.ParseInt(s, 0, 64); err == nil {
		return uint64(n), true
	}
	n, err := strconv.ParseUint(s, 0, 64)
	return n, err == nil
}

// attrByName are the attributes that the reader uses, by the names of DWARF.
var attrByName = map[string]uint64{
	"sibling": 0x01, "byte_size": 0x0B, "low_pc": 0x11, "high_pc": 0x12, "import": 0x18, "const_value": 0x1C, "containing_type": 0x1D,
	"upper_bound": 0x2F, "abstract_origin": 0x31, "count": 0x37, "data_member_location": 0x38, "specification": 0x47, "type": 0x49,
	"bit_size": 0x0D, "bit_offset": 0x0C, "data_bit_offset": 0x6B, "name": 0x03, "comp_dir": 0x1B, "linkage_name": 0x6E, "MIPS_linkage_name": 0x2007,
	"stmt_list": 0x10, "call_line": 0x59, "call_file": 0x58, "declaration": 0x3C, "external": 0x3F, "artificial": 0x34, "virtuality": 0x4C,
	"inline": 0x20, "signature": 0x69, "object_pointer": 0x64, "prototyped": 0x27, "encoding": 0x3E, "language": 0x13,
	"location": 0x02, "frame_base": 0x40, "ranges": 0x55, "str_offsets_base": 0x72, "addr_base": 0x73, "rnglists_base": 0x74, "loclists_base": 0x8C,
}

// TestEntriesAgainstDwarfdump compares every entry of every unit: where it is,
// what it is, below which one, and its strings, numbers and references.
func TestEntriesAgainstDwarfdump(t *testing.T) {
	each(t, func(t *testing.T, f *File, path string) {
		if f.info.size > 8<<20 {
			t.Skip("it is large; its parts are compared with gdb")
		}
		_, list := entriesOf(t, path)
		d := differ{t: t}
		same, attrs := 0, 0
		heads, err := f.headers()
		if err != nil {
			t.Fatal(err)
		}
		total := 0
		for _, h := range heads {
			u, err := f.unit(h)
			if err != nil {
				t.Fatal(err)
			}
			total += len(u.dies)
		}
		if total != len(list) {
			d.add("%d entries; llvm-dwarfdump: %d", total, len(list))
		}
		for _, w := range list {
			e, err := f.entry(w.off)
			if err != nil {
				d.add("%#x: %v", w.off, err)
				continue
			}
			bad := d.n
			if tag := strings.ToLower(e.tag().String()); tag != strings.ReplaceAll(w.tag, "_", "") &&
				!strings.HasPrefix(tag, "tag(") && tag != "lexdwarfblock" && !strings.HasPrefix(tag, strings.ReplaceAll(w.tag, "_", "")[:4]) && tag != "restricttype" && tag != "ptrtomembertype" {
				d.add("%#x: %s; llvm-dwarfdump: %s", w.off, tag, w.tag)
			}
			if p, ok := e.parent(); ok != (w.parent != nil) || ok && p.off() != w.parent.off {
				d.add("%#x: below another entry", w.off)
			}
			if n := len(e.u.ab(e.i).specs); n != len(w.names) {
				d.add("%#x: %d attributes; llvm-dwarfdump: %v", w.off, n, w.names)
			}
			for _, name := range w.names {
				at, ok := attrByName[name]
				if !ok {
					continue
				}
				v, ok := e.u.attr(e.i, std.Attr(at))
				if !ok {
					d.add("%#x: no %s", w.off, name)
					continue
				}
				attrs++
				text := w.attrs[name]
				switch {
				case name == "call_file":
					l, err := f.callLine(e, 0)
					if err != nil || text[0] == '"' && text != `""` && `"`+l.File+`"` != text {
						d.add("%#x: called in %s, %v; llvm-dwarfdump: %s", w.off, l.File, err, text)
					}
				case strings.HasPrefix(text, `"`):
					got, err := v.str(e.u)
					if err != nil || strconv.Quote(string(got)) != strconv.Quote(strings.Trim(text, `"`)) {
						// Of Clang 14's images it reads no names of files.
						if f.lineStr.size == 0 || text != `""` {
							d.add("%#x: %s %q, %v; llvm-dwarfdump: %s", w.off, name, got, err, text)
						}
					}
				case v.form == formRef4 || v.form == formRefAddr || v.form == formRefUdata || v.form == formRef1 || v.form == formRef2:
					got, _, err := v.ref(e.u)
					if n, ok := w.number(name); !ok || err != nil || uint64(got) != n {
						d.add("%#x: %s refers to %#x, %v; llvm-dwarfdump: %s", w.off, name, got, err, text)
					}
				case name == "low_pc" || name == "high_pc":
					got := v.u
					if !v.constant() {
						if got, err = v.addr(e.u); err != nil {
							d.add("%#x: %v", w.off, err)
						}
					} else if low, ok := e.u.attr(e.i, std.Attr(0x11)); ok {
						lo, _ := low.addr(e.u)
						got += lo
					}
					if n, ok := w.number(name); !ok || got != n {
						d.add("%#x: %s %#x; llvm-dwarfdump: %s", w.off, name, got, text)
					}
				case text == "true":
					if v.u == 0 {
						d.add("%#x: %s is not set", w.off, name)
					}
				case v.constant():
					n, ok := w.number(name)
					if mask := sizeMask(v.form); ok && v.u&mask != n&mask {
						d.add("%#x: %s %#x; llvm-dwarfdump: %s", w.off, name, v.u, text)
					}
				}
			}
			if d.n == bad {
				same++
			}
		}
		t.Logf("with %d attributes", attrs)
		d.end(same, "entries")
	})
}

// sizeMask is for what a form can hold; llvm-dwarfdump shows some numbers with
// their sign.
func sizeMask(form uint16) uint64 {
	switch form {
	case formData1:
		return 0xFF
	case formData2:
		return 0xFFFF
	case formData4:
		return 0xFFFFFFFF
	}
	return ^uint64(0)
}

// lineRow is a row of a line table as a program prints it.
type lineRow struct {
	addr uint64
	line int
	file string
	stmt bool
	end  bool
}

// meant are the rows that have the code at their address: of several at one
// address the last, but one that is no good place to stop at yields to one that
// is.
func meant(rows []lineRow) []lineRow {
	var list []lineRow
	for i, r := range rows {
		if i > 0 && rows[i-1].addr == r.addr && !rows[i-1].end && len(list) > 0 {
			if last := &list[len(list)-1]; r.end || r.stmt || !last.stmt {
				*last = r
			}
			continue
		}
		list = append(list, r)
	}
	return list
}

// compareLines asks for each row at its first and at its last address.
func compareLines(t *testing.T, f *File, d *differ, rows []lineRow, program string) (same int) {
	t.Helper()
	rows = meant(rows)
	for i, r := range rows {
		if r.end || i+1 == len(rows) {
			continue
		}
		lo, ok := f.rva(r.addr)
		hi, ok2 := f.rva(rows[i+1].addr)
		if !ok || !ok2 || hi <= lo {
			d.explain("dwarfdump: no sequence")
			continue
		}
		for _, rva := range []uint32{lo, hi - 1} {
			l, ok, err := f.Line(rva)
			if err != nil || ok != (r.line != 0) || int(l.Line) != r.line || ok && r.file != "" && fileName(l.File) != fileName(r.file) {
				d.add("%#x: %s:%d, %v, %v; %s: %s:%d", rva, l.File, l.Line, ok, err, program, r.file, r.line)
				break
			}
			if rva == hi-1 {
				same++
			}
		}
	}
	return same
}

func fileName(path string) string {
	path = slashes(path)
	return path[strings.LastIndexByte(path, '/')+1:]
}

var rowOfDump = regexp.MustCompile(`^0x([0-9a-f]{16}) +(\d+) +\d+ +(\d+) +\d+ +\d+ (.*)$`)

// TestLinesAgainstDwarfdump compares every row of every line table.
func TestLinesAgainstDwarfdump(t *testing.T) {
	each(t, func(t *testing.T, f *File, path string) {
		d := differ{t: t}
		same := 0
		var rows []lineRow
		files := map[int]string{}
		file := -1
		lines := dwarfdump(t, path, "--debug-line")
		for lines.Scan() {
			s := lines.Text()
			if m := rowOfDump.FindStringSubmatch(s); m != nil {
				addr, _ := strconv.ParseUint(m[1], 16, 64)
				line, _ := strconv.Atoi(m[2])
				k, _ := strconv.Atoi(m[3])
				rows = append(rows, lineRow{addr, line, files[k], strings.Contains(m[4], "is_stmt"), strings.Contains(m[4], "end_sequence")})
			} else if strings.HasPrefix(s, "debug_line[") {
				same += compareLines(t, f, &d, rows, "llvm-dwarfdump")
				rows, files = nil, map[int]string{}
			} else if _, err := fmt.Sscanf(s, "file_names[%d]:", &file); err == nil {
				continue
			} else if name, ok := strings.CutPrefix(strings.TrimSpace(s), `name: "`); ok {
				files[file] = strings.TrimSuffix(name, `"`) // of Clang 14's images it reads none
			}
		}
		same += compareLines(t, f, &d, rows, "llvm-dwarfdump")
		d.end(same, "rows")
	})
}

var rowOfDecoded = regexp.MustCompile(`^(\S.*?) +(\d+|-) +(0x[0-9a-f]+|0) *(\d+)? *(x)?( *END)?$`)

// TestLinesAgainstObjdump compares every row that objdump prints.
func TestLinesAgainstObjdump(t *testing.T) {
	each(t, func(t *testing.T, f *File, path string) {
		reads(t, "objdump", path)
		d := differ{t: t}
		same := 0
		var rows []lineRow
		out := tool(t, "objdump", "--dwarf=decodedline", "-WL", path)
		for s := range strings.Lines(out) {
			m := rowOfDecoded.FindStringSubmatch(strings.TrimRight(s, "\r\n "))
			if m == nil {
				continue
			}
			addr, _ := strconv.ParseUint(m[3], 0, 64)
			line, _ := strconv.Atoi(m[2])
			end := m[2] == "-" || m[6] != ""
			name := m[1]
			if strings.HasPrefix(name, "...") || len(name) >= 34 {
				name = "" // it cuts long names
			}
			rows = append(rows, lineRow{addr, line, name, m[5] != "", end})
			if end {
				same += compareLines(t, f, &d, rows, "objdump")
				rows = nil
			}
		}
		d.end(same, "rows")
	})
}

// rangesOf are the addresses of a scope; nil: it has no code.
func (e *dumped) rangesOf() [][2]uint64 {
	var list [][2]uint64
	if lo, ok := e.number("low_pc"); ok && e.attrs["ranges"] == "" {
		hi, _ := e.number("high_pc")
		if hi > lo {
			list = append(list, [2]uint64{lo, hi})
		}
	}
	for _, m := range rangeOfDump.FindAllStringSubmatch(e.attrs["ranges"], -1) {
		lo, _ := strconv.ParseUint(m[1], 0, 64)
		hi, _ := strconv.ParseUint(m[2], 0, 64)
		if hi > lo {
			list = append(list, [2]uint64{lo, hi})
		}
	}
	return list
}

var (
	rangeOfDump = regexp.MustCompile(`\[(0x[0-9a-f]+), (0x[0-9a-f]+)\)(?:: (.*))?`)
	regOfDump   = regexp.MustCompile(`^DW_OP_(?:reg\d+|regx) (\w+)$`)
	bregOfDump  = regexp.MustCompile(`^DW_OP_(?:breg\d+|bregx) (\w+)([+-]\d+)$`)
	numOfDump   = regexp.MustCompile(`^DW_OP_(fbreg|addrx?|constu|consts|const\du|const\ds|lit|implicit_value|piece) ?(.*)$`)
)

// located is a location of a variable with the addresses that it is good for;
// lo and hi are 0 if that is everywhere.
type located struct {
	lo, hi uint64
	text   string
}

func locatedIn(text string) []located {
	if !strings.Contains(text, "[0x") {
		return []located{{text: text}}
	}
	var list []located
	for _, m := range rangeOfDump.FindAllStringSubmatch(text, -1) {
		lo, _ := strconv.ParseUint(m[1], 0, 64)
		hi, _ := strconv.ParseUint(m[2], 0, 64)
		list = append(list, located{lo, hi, m[3]})
	}
	return list
}

// register is a register of LLVM by the name of this package.
func (f *File) registerOfLLVM(name string) string {
	name = strings.ToLower(name)
	if f.im.Machine != machineARM64 {
		return name
	}
	switch {
	case name == "wsp":
		return "sp"
	case name == "w29":
		return "fp"
	case name == "w30":
		return "lr"
	case name[0] == 'w':
		return "x" + name[1:]
	case name[0] == 'b':
		return "v" + name[1:]
	}
	return name
}

// translate says where an expression as llvm-dwarfdump prints it finds a
// variable; false: it has to be calculated.
func (f *File) translate(text string, base func() string, addrs []uint64) ([]sym.Location, bool) {
	var list []sym.Location
	var cur *sym.Location
	var off uint32
	pieces := false
	ops := strings.Split(text, ", ")
	for i := 0; i < len(ops); i++ {
		op := ops[i]
		if m := regOfDump.FindStringSubmatch(op); m != nil && cur == nil {
			cur = &sym.Location{Kind: sym.InRegister, Reg: f.registerOfLLVM(m[1])}
			continue
		}
		if m := bregOfDump.FindStringSubmatch(op); m != nil && cur == nil {
			n, _ := strconv.ParseInt(m[2], 10, 64)
			cur = &sym.Location{Kind: sym.RegRelative, Reg: f.registerOfLLVM(m[1]), Offset: n}
			if i+1 < len(ops) && ops[i+1] == "DW_OP_stack_value" {
				if i++; n != 0 {
					return nil, false
				}
				*cur = sym.Location{Kind: sym.InRegister, Reg: cur.Reg}
			}
			continue
		}
		m := numOfDump.FindStringSubmatch(op)
		if m == nil || cur != nil && m[1] != "piece" {
			return nil, false
		}
		arg, _, _ := strings.Cut(m[2], " ")
		n, err := strconv.ParseInt(strings.TrimPrefix(arg, "+"), 0, 64)
		if err != nil {
			u, _ := strconv.ParseUint(arg, 0, 64)
			n = int64(u)
		}
		switch m[1] {
		case "piece":
			pieces = true
			if cur != nil {
				cur.PieceOffset, cur.PieceSize = off, uint32(n)
				list = append(list, *cur)
				cur = nil
			}
			off += uint32(n)
		case "fbreg":
			b := base()
			if rm := regOfDump.FindStringSubmatch(b); rm != nil {
				cur = &sym.Location{Kind: sym.RegRelative, Reg: f.registerOfLLVM(rm[1]), Offset: n}
			} else if bm := bregOfDump.FindStringSubmatch(b); bm != nil {
				o, _ := strconv.ParseInt(bm[2], 10, 64)
				cur = &sym.Location{Kind: sym.RegRelative, Reg: f.registerOfLLVM(bm[1]), Offset: o + n}
			} else if b == "DW_OP_call_frame_cfa" {
				cur = &sym.Location{Kind: sym.CFARelative, Offset: n}
			} else {
				return nil, false
			}
		case "addr", "addrx":
			if m[1] == "addrx" {
				if n < 0 || n >= int64(len(addrs)) {
					return nil, false
				}
				n = int64(addrs[n])
			}
			rva, ok := f.rva(uint64(n))
			if !ok {
				return nil, false
			}
			cur = &sym.Location{Kind: sym.AtRVA, RVA: rva}
		case "implicit_value":
			var b []byte
			for _, x := range strings.Fields(m[2])[1:] {
				v, _ := strconv.ParseUint(x, 0, 8)
				b = append(b, byte(v))
			}
			cur = &sym.Location{Kind: sym.IsConstant, Value: b}
		default: // a number, which must be the value
			if i++; i >= len(ops) || ops[i] != "DW_OP_stack_value" {
				return nil, false
			}
			cur = &sym.Location{Kind: sym.IsConstant, Value: binary.LittleEndian.AppendUint64(nil, uint64(n))}
		}
	}
	if cur != nil {
		if pieces {
			return nil, false
		}
		list = append(list, *cur)
	}
	return list, true
}

// addressTables reads .debug_addr: the addresses of the table that begins at an
// offset.
func addressTables(t *testing.T, f *File, path string) map[uint64][]uint64 {
	tables := map[uint64][]uint64{}
	if f.addrs.size == 0 {
		return tables
	}
	off, at := uint64(0), uint64(0)
	lines := dwarfdump(t, path, "--debug-addr")
	for lines.Scan() {
		s := lines.Text()
		if m := regexp.MustCompile(`header: length = (0x[0-9a-f]+)`).FindStringSubmatch(s); m != nil {
			n, _ := strconv.ParseUint(m[1], 0, 64)
			at = off + 8
			off += 4 + n
		} else if strings.HasPrefix(s, "0x") {
			v, _ := strconv.ParseUint(s, 0, 64)
			tables[at] = append(tables[at], v)
		}
	}
	return tables
}

// TestLocalsAgainstDwarfdump compares each place of each variable, at the first,
// the middle and the last address that it is good for.
func TestLocalsAgainstDwarfdump(t *testing.T) {
	each(t, func(t *testing.T, f *File, path string) {
		all, list := entriesOf(t, path)
		addrs := addressTables(t, f, path)
		d := differ{t: t}
		same := 0
		follow := func(e *dumped, name string) (string, bool) {
			for range 10 {
				if s, ok := e.attrs[name]; ok {
					return s, true
				}
				n, ok := e.number("abstract_origin")
				if !ok {
					if n, ok = e.number("specification"); !ok {
						break
					}
				}
				if e = all[uint32(n)]; e == nil {
					break
				}
			}
			return "", false
		}
		for _, e := range list {
			if e.tag != "variable" && e.tag != "formal_parameter" || e.attrs["declaration"] != "" {
				continue
			}
			loc, ok := e.attrs["location"]
			value, isValue := e.number("const_value")
			if !ok && !isValue {
				continue
			}
			name, _ := follow(e, "name")
			name = strings.Trim(name, `"`)
			// The scope and the procedure around it.
			scope := e.parent
			var proc, unit *dumped
			for p := e.parent; p != nil; p = p.parent {
				if p.tag == "subprogram" && proc == nil {
					proc = p
				}
				unit = p
			}
			if proc == nil {
				continue // TestPublicsAgainstNM has them
			}
			if name == "" && scope.tag == "GNU_formal_parameter_pack" {
				d.explain("dwarfdump: unnamed")
				continue
			}
			for scope != nil && scope.attrs["low_pc"] == "" && scope.attrs["ranges"] == "" && scope != proc {
				scope = scope.parent
			}
			code := scope.rangesOf()
			code = slices.DeleteFunc(code, func(r [2]uint64) bool {
				_, ok := f.rva(r[0])
				return !ok
			})
			if len(code) == 0 {
				d.explain("dwarfdump: no code")
				continue
			}
			places := locatedIn(loc)
			if !ok {
				places = []located{{text: fmt.Sprintf("DW_OP_constu %d, DW_OP_stack_value", value)}}
			}
			n, _ := unit.number("addr_base")
			for _, p := range places {
				for _, r := range code {
					lo, hi := r[0], r[1]
					if p.hi != 0 || p.lo != 0 {
						lo, hi = max(lo, p.lo), min(hi, p.hi)
					}
					if lo >= hi {
						continue
					}
					for _, pc := range []uint64{lo, lo + (hi-lo)/2, hi - 1} {
						want, ok := f.translate(p.text, func() string {
							for _, b := range locatedIn(proc.attrs["frame_base"]) {
								if b.hi == 0 && b.lo == 0 || b.lo <= pc && pc < b.hi {
									return b.text
								}
							}
							return ""
						}, addrs[n])
						if !ok {
							want = nil
						}
						verdict, seen := f.hasVar(t, uint32(pc-f.im.ImageBase), name, want)
						switch {
						case verdict && !ok:
							d.explain("dwarfdump: calculated")
						case verdict:
							same++
						case strings.Contains(p.text, "<decoding error> f0"):
							d.explain("dwarfdump: uninit")
						case !ok && f.calculable(p.text):
							d.explain("dwarfdump: arithmetic")
						case len(seen) > 0 && slices.ContainsFunc(seen, func(v sym.Var) bool { return len(v.Loc) == 1 && v.Loc[0].Kind == sym.IsConstant }) && twiceIn(list, e):
							d.explain("dwarfdump: propagated")
						default:
							d.add("%s at %#x: %+v; llvm-dwarfdump: %s %+v", name, pc, seen, p.text, want)
						}
					}
				}
			}
		}
		d.end(same, "places")
	})
}

// calculable says whether an expression, which the test does not translate, is a
// sum of constants or has pieces: there the reader may know more.
func (f *File) calculable(text string) bool {
	return strings.Contains(text, "DW_OP_piece") || strings.HasSuffix(text, "DW_OP_stack_value") && !strings.Contains(text, "DW_OP_breg") &&
		!strings.Contains(text, "DW_OP_entry") && !strings.Contains(text, "DW_OP_fbreg")
}

// twiceIn says whether a procedure describes the variable e more than once.
func twiceIn(list []*dumped, e *dumped) bool {
	n := 0
	for _, x := range list {
		if x.parent == e.parent && x.attrs["abstract_origin"] == e.attrs["abstract_origin"] && e.attrs["abstract_origin"] != "" {
			n++
		}
	}
	return n > 1
}

// hasVar says whether a scope around an address has the variable at the place.
func (f *File) hasVar(t *testing.T, rva uint32, name string, want []sym.Location) (bool, []sym.Var) {
	t.Helper()
	scopes, err := f.Scopes(rva)
	if err != nil {
		t.Fatal(err)
	}
	var seen []sym.Var
	for _, s := range scopes {
		for _, v := range s.Vars {
			if v.Name != name {
				continue
			}
			seen = append(seen, v)
			if slices.EqualFunc(v.Loc, want, func(x, y sym.Location) bool {
				if x.Kind == sym.IsConstant && y.Kind == sym.IsConstant {
					y.Value = y.Value[:min(len(x.Value), len(y.Value))] // ours has the size of the variable
				}
				return fmt.Sprintf("%+v", x) == fmt.Sprintf("%+v", y)
			}) {
				return true, seen
			}
		}
	}
	return false, seen
}
