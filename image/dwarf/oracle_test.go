package dwarf

import (
	"bufio"
	"bytes"
	"cmp"
	std "debug/dwarf"
	stdpe "debug/pe"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"openkd/image/sym"
)

// These tests compare with programs that read the same files: nm, objdump and
// gdb where they are installed, and debug/dwarf. OPENKD_MINGW_IMAGES names more
// images to compare, separated like PATH: the real ones are large and not ours
// to pass on.

func each(t *testing.T, do func(t *testing.T, f *File, path string)) {
	for _, path := range images(t) {
		t.Run(filepath.Base(filepath.Dir(path))+"/"+filepath.Base(path), func(t *testing.T) {
			f, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			do(t, f, path)
		})
	}
}

// tool runs a program of binutils or gdb and returns what it printed. Where it
// is not installed, or does not know the image, the test is skipped.
func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skip(name, " is not installed")
	}
	cmd := exec.Command(name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if s := stderr.String(); strings.Contains(s, "file format not recognized") {
		t.Skip(name, " does not know this machine's images")
	}
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, stderr.String())
	}
	return string(out)
}

// gdb runs Python in gdb with the image loaded. ask is what the script finds in
// the variable ask; what the script puts in answer goes to answer.
func gdb(t *testing.T, image, script string, ask, answer any) {
	t.Helper()
	dir := t.TempDir()
	b, err := json.Marshal(ask)
	if err != nil {
		t.Fatal(err)
	}
	in, out, py := filepath.Join(dir, "ask"), filepath.Join(dir, "answer"), filepath.Join(dir, "script.py")
	script = fmt.Sprintf("import json\nask = json.load(open(%q))\n%s\njson.dump(answer, open(%q, 'w'))\n", in, script, out)
	if err := cmp.Or(os.WriteFile(in, b, 0o600), os.WriteFile(py, []byte(script), 0o600)); err != nil {
		t.Fatal(err)
	}
	said := tool(t, "gdb", "-nx", "-batch", "-ex", "set python print-stack full", "-x", py, image)
	if b, err = os.ReadFile(out); err != nil {
		if strings.Contains(said, "Python scripting is not supported") {
			t.Skip("gdb without Python")
		}
		t.Fatal("gdb wrote no answer: ", said)
	}
	if err := json.Unmarshal(b, answer); err != nil {
		t.Fatal(err)
	}
}

// explained are the differences that are known, and why they are none of ours.
// Tests count them by these keys; a difference that is not here is a failure.
var explained = map[string]string{
	"nm: nowhere":            "absolute numbers and names of debug sections are no places in the image",
	"nm: section":            "names of sections, and of what one object file brought to a section",
	"nm: dropped":            "nm takes L… for the assembler's own, and G++ has names that the assembler drops",
	"nm: moved":              "the linker has defined the name itself; DWARF has the place of what the program has of that name",
	"gdb: another":           "several definitions of one name: which of them a debugger shows is chance",
	"gdb: inner type":        "gdb does not find what is declared within procedures from outside",
	"gdb: same line":         "gdb leaves out a row whose line is that of the row before",
	"gdb: blocks":            "gdb breaks once for each block of a procedure, we once for the procedure",
	"gdb: calculated":        "a value that has to be calculated, which llvm-dwarfdump is asked about",
	"gdb: bits":              "pieces of some bits, such as a structure of bit fields that was taken apart: our model has pieces of bytes",
	"gdb: no code":           "a label, or a variable of a block that has no code",
	"gdb: beyond":            "the compiler's range goes beyond the block",
	"gdb: elsewhere":         "declared in the procedure, defined elsewhere",
	"gdb: no variable":       "functions, labels and types of the scope",
	"gdb: propagated":        "GCC describes a parameter that it has replaced by its value twice, first by where it would be: gdb shows that, we the value",
	"gdb: frame base":        "in DWARF 2 the frame base is a list of places; gdb shows that of the first instruction",
	"debug/dwarf: encoding":  "it does not know the encoding of char32_t",
	"debug/dwarf: nameless":  "GCC's optimisation at link time leaves procedures without names: ours are the linker's",
	"debug/dwarf: no size":   "it knows no sizes of what is only declared, and of pointers to members",
	"objdump: common entry":  "rows of common entries, which are no code",
	"dwarfdump: no code":     "a scope without code, or of code that the linker dropped",
	"dwarfdump: calculated":  "a value that has to be calculated, or taken from the caller's frame: our model has no words for it, so it has no location",
	"dwarfdump: propagated":  "GCC describes a parameter that it has replaced by its value twice, first by where it would be: we show the value",
	"dwarfdump: arithmetic":  "constants that are calculated, and pieces of which some have to be: our reader does the sum, or shows the others",
	"dwarfdump: unnamed":     "the parameters of a template's pack have no names of their own to be listed by",
	"dwarfdump: uninit":      "LLVM does not know DW_OP_GNU_uninit, which says that a piece has no value yet; GCC writes it behind a register",
	"c++filt: short":         "c++filt writes what std::string stands for",
	"dwarfdump: no sequence": "rows that go backwards or are not in the image",
}

// unread are the images that a program does not read, and why.
var unread = []struct{ program, image, why string }{
	{"gdb", "arm64", "gdb has no reader of images for ARM64; llvm-dwarfdump and debug/dwarf are asked in its stead"},
	{"objdump", "arm64", "objdump has no reader of images for ARM64; llvm-dwarfdump is asked in its stead"},
	{"gdb", "types4", "GNU ld aligns .debug_types; no program but this one expects the zeros between its pieces"},
	{"debug/dwarf", "types4", "as gdb"},
	{"objdump", "types4", "as gdb"},
	{"llvm-dwarfdump", "types4", "as gdb"},
	{"debug/dwarf", "types5", "it looks for types with a unit of their own in .debug_types only"},
	{"debug/dwarf lines", "arm64-dwarf5", "it does not read the addresses that Clang 14 writes for offsets into .debug_line_str"},
	{"debug/dwarf lines", "testdata/arm64.exe", "as above"},
	{"gdb", "x64-lto-O2", "GCC's optimisation at link time leaves no names of types and variables for MinGW, and what it leaves makes gdb stop"},
}

// reads says whether a program can be asked about an image; if not, the test of
// that image is skipped.
func reads(t *testing.T, program, path string) {
	t.Helper()
	for _, u := range unread {
		if u.program == program && strings.Contains(filepath.ToSlash(path), u.image) {
			t.Skip(program, ": ", u.why)
		}
	}
}

// differ collects differences and shows the first of them.
type differ struct {
	t    *testing.T
	n    int
	know map[string]int
}

// explain counts a difference that is known.
func (d *differ) explain(key string) {
	if _, ok := explained[key]; !ok {
		d.t.Fatalf("%q is not explained", key)
	}
	if d.know == nil {
		d.know = map[string]int{}
	}
	d.know[key]++
}

func (d *differ) add(format string, args ...any) {
	if d.n++; d.n <= 20 {
		d.t.Errorf(format, args...)
	}
}

func (d *differ) end(same int, what string) {
	d.t.Helper()
	d.t.Logf("%d %s the same, %d different", same, what, d.n)
	known := 0
	for key, n := range d.know {
		d.t.Logf("%d times %s: %s", n, key, explained[key])
		if key != "nm: section" && key != "nm: nowhere" && key != "gdb: blocks" && key != "gdb: same line" {
			known += n
		}
	}
	if same == 0 || known > 2*same+20 {
		d.t.Errorf("%d compared, %d explained away", same, known)
	}
}

func TestPublicsAgainstNM(t *testing.T) {
	each(t, func(t *testing.T, f *File, path string) {
		name := "nm"
		if f.im.Machine == machineARM64 {
			name = "llvm-nm"
		}
		out := tool(t, name, "-a", path)
		d := differ{t: t}
		known := map[string]bool{} // name and address
		same := 0
		for line := range strings.Lines(out) {
			w := strings.Fields(line)
			if len(w) != 3 {
				continue // undefined
			}
			addr, err := strconv.ParseUint(w[0], 16, 64)
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case strings.ContainsAny(w[1], "aANnw?"):
				d.explain("nm: nowhere")
				continue
			case strings.HasPrefix(w[2], ".") && w[1] == strings.ToLower(w[1]) && !strings.HasPrefix(w[2], ".l"):
				if s, _ := f.ByName(w[2]); len(s) == 0 {
					d.explain("nm: section")
					continue
				}
			}
			rva := uint32(addr - f.im.ImageBase)
			known[fmt.Sprint(w[2], rva)] = true
			list, err := f.ByName(w[2])
			if err != nil {
				t.Fatal(err)
			}
			ok := slices.ContainsFunc(list, func(s sym.Symbol) bool {
				return s.RVA == rva && (s.Linkage == w[2] || s.Name == w[2])
			})
			if !ok && f.sectionSymbol(w[2], rva) {
				d.explain("nm: section")
				continue
			}
			if !ok {
				d.add("%s at %#x of nm: %+v", w[2], rva, list)
				continue
			}
			same++
		}
		for s, err := range f.Symbols(func(string) bool { return true }) {
			if err != nil {
				t.Fatal(err)
			}
			if s.Linkage == "" {
				s.Linkage = s.Name
			}
			if s.Static && (s.Linkage[0] == 'L' || s.Name == "__FUNCTION__") {
				d.explain("nm: dropped")
				continue
			}
			if strings.HasPrefix(s.Linkage, "__RUNTIME_PSEUDO_RELOC_LIST_") {
				d.explain("nm: moved")
				continue
			}
			if s.Kind != sym.Constant && !known[fmt.Sprint(s.Linkage, s.RVA)] {
				d.add("%+v is not in nm", s)
			}
		}
		d.end(same, "symbols")
	})
}

// sectionSymbol says whether a name stands for a part of a section that one
// object file has brought, such as INIT.
func (f *File) sectionSymbol(name string, rva uint32) bool {
	s := f.im.SectionOf(rva)
	return s != nil && (s.Name == name || strings.HasPrefix(name, s.Name+"$") || len(s.Name) == 8 && strings.HasPrefix(name, s.Name))
}

// stdDWARF opens an image with debug/dwarf.
func stdDWARF(t *testing.T, path string) *std.Data {
	p, err := stdpe.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	data, err := p.DWARF()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestFunctionsAgainstDebugDwarf asks for each procedure at its first and last
// byte and by its name.
func TestFunctionsAgainstDebugDwarf(t *testing.T) {
	each(t, func(t *testing.T, f *File, path string) {
		reads(t, "debug/dwarf", path)
		data := stdDWARF(t, path)
		d := differ{t: t}
		same := 0
		r := data.Reader()
		for e, err := r.Next(); e != nil; e, err = r.Next() {
			if err != nil {
				t.Fatal(err)
			}
			if e.Tag != std.TagSubprogram {
				continue
			}
			ranges, err := data.Ranges(e)
			if err != nil {
				t.Fatal(err)
			}
			name := ""
			for at := e; at != nil; {
				if s, ok := at.Val(std.AttrLinkageName).(string); ok && strings.HasPrefix(s, "_Z") {
					name = display(s)
					break
				} else if s, ok := at.Val(std.AttrName).(string); ok && name == "" {
					name = s
				}
				off, ok := at.Val(std.AttrAbstractOrigin).(std.Offset)
				if !ok {
					off, ok = at.Val(std.AttrSpecification).(std.Offset)
				}
				if !ok {
					break
				}
				r2 := data.Reader()
				r2.Seek(off)
				if at, err = r2.Next(); err != nil {
					t.Fatal(err)
				}
			}
			for k, rg := range ranges {
				lo, ok := f.rva(rg[0])
				if !ok || rg[0] == rg[1] {
					continue
				}
				size := uint32(rg[1] - rg[0])
				bad := false
				for _, rva := range []uint32{lo, lo + size - 1} {
					s, ok, err := f.ByRVA(rva)
					if s.RVA == lo-f.hook() {
						s.RVA, s.Size = lo, s.Size-f.hook()
					}
					if k > 0 && strings.HasPrefix(s.Name, name+".") {
						s.Name = name // the cold part
					}
					if name == "" && s.Name != "" {
						d.explain("debug/dwarf: nameless")
						s.Name = ""
					}
					if !ok || err != nil || s.RVA != lo || s.Size != size || s.Name != name && !strings.HasSuffix(s.Name, "::"+name) || s.Kind != sym.Function || s.Type == 0 {
						d.add("%s at %#x, %#x bytes: %+v, %v", name, lo, size, s, err)
						bad = true
					}
				}
				if k == 0 {
					s, _, _ := f.ByRVA(lo)
					list, err := f.ByName(s.Name)
					if !slices.ContainsFunc(list, func(s sym.Symbol) bool { return s.RVA+s.Size == lo+size }) {
						d.add("%s by name: %+v, %v", name, list, err)
						bad = true
					}
				}
				if !bad {
					same++
				}
			}
		}
		d.end(same, "functions")
	})
}

// flat is a member as both sides describe it: bits from the start.
type flat struct {
	name      string
	pos, bits uint64
	size      uint64 // of its type in bytes
}

// flatten lists the fields of a structure of debug/dwarf as Members does.
func flatten(t *std.StructType, at uint64, depth int) []flat {
	var list []flat
	old := slices.ContainsFunc(t.Field, func(m *std.StructField) bool { return m.BitOffset != 0 })
	for _, m := range t.Field {
		if in, ok := strip(m.Type).(*std.StructType); ok && m.Name == "" && depth < 10 {
			list = append(list, flatten(in, at+uint64(m.ByteOffset)*8, depth+1)...)
			continue
		}
		x := flat{name: m.Name, pos: at + uint64(m.ByteOffset)*8}
		if m.BitSize != 0 {
			x.bits = uint64(m.BitSize)
			if !old {
				x.pos = at + uint64(m.DataBitOffset)
			} else {
				unit := m.ByteSize
				if unit == 0 {
					unit = m.Type.Size()
				}
				x.pos = uint64(int64(x.pos) + unit*8 - m.BitOffset - m.BitSize)
			}
		} else if n := m.Type.Size(); n > 0 {
			x.size = uint64(n)
		}
		list = append(list, x)
	}
	return list
}

func strip(t std.Type) std.Type {
	for range 20 {
		switch q := t.(type) {
		case *std.TypedefType:
			t = q.Type
		case *std.QualType:
			t = q.Type
		default:
			return t
		}
	}
	return t
}

// ours are the fields of a structure in the same form.
func ours(t *testing.T, f *File, id sym.TypeID) []flat {
	t.Helper()
	members, err := f.Members(id)
	if err != nil {
		t.Fatal(err)
	}
	var list []flat
	for _, m := range members {
		if m.Kind != sym.Field && m.Kind != sym.VTable {
			continue
		}
		mt, err := f.Type(m.Type)
		if err != nil {
			t.Fatal(err)
		}
		x := flat{name: m.Name, pos: m.Offset * 8, size: mt.Size}
		if mt.Kind == sym.BitField {
			x.pos, x.bits, x.size = x.pos+uint64(mt.BitPos), uint64(mt.BitLen), 0
		}
		list = append(list, x)
	}
	return list
}

// TestTypesAgainstDebugDwarf compares every structure that is defined, in every
// unit: sizes, members, offsets and bits.
func TestTypesAgainstDebugDwarf(t *testing.T) {
	each(t, func(t *testing.T, f *File, path string) {
		reads(t, "debug/dwarf", path)
		data := stdDWARF(t, path)
		d := differ{t: t}
		same := 0
		r := data.Reader()
		for e, err := r.Next(); e != nil; e, err = r.Next() {
			if err != nil {
				t.Fatal(err)
			}
			if e.Tag != std.TagStructType && e.Tag != std.TagUnionType && e.Tag != std.TagClassType ||
				e.Val(std.AttrDeclaration) != nil {
				continue
			}
			// Units have thousands of the same: of real images some are enough.
			if name, _ := e.Val(std.AttrName).(string); f.info.size > 8<<20 && e.Offset%17 != 0 && name != "_EPROCESS" {
				continue
			}
			st, err := data.Type(e.Offset)
			if err != nil && strings.Contains(err.Error(), "unrecognized encoding") {
				d.explain("debug/dwarf: encoding")
				continue
			}
			if err != nil {
				t.Fatalf("debug/dwarf at %#x: %v", e.Offset, err)
			}
			id := sym.TypeID(idEntry | uint64(e.Offset))
			typ, err := f.Type(id)
			if err != nil {
				t.Fatal(err)
			}
			members, _ := f.Members(id)
			static := map[string]bool{}
			for _, m := range members {
				static[m.Name] = m.Kind == sym.StaticField
			}
			want, got := flatten(st.(*std.StructType), 0, 0), ours(t, f, id)
			want = slices.DeleteFunc(want, func(x flat) bool { return static[x.name] })
			for i := range want {
				// It knows no sizes of what is declared here and defined
				// elsewhere, and of pointers to members.
				if i < len(got) && want[i].size == 0 && want[i].bits == 0 && got[i].size != 0 {
					want[i].size = got[i].size
					d.explain("debug/dwarf: no size")
				}
			}
			if typ.Size != uint64(st.Size()) || !slices.Equal(want, got) {
				d.add("%s at %#x: size %d, %v\n debug/dwarf: size %d, %v", typ.Name, e.Offset, typ.Size, got, st.Size(), want)
				continue
			}
			same++
		}
		d.end(same, "structures")
	})
}

// fieldsOfGDB lists fields as ptype /o shows them, those of members without
// name in the structure itself.
const fieldsOfGDB = `
def flatten(t, at, out, depth=0):
    for f in t.fields():
        if not hasattr(f, 'bitpos') or f.is_base_class:
            continue
        pos = at + f.bitpos
        inner = f.type.strip_typedefs()
        if not f.name and inner.code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION) and depth < 10:
            flatten(inner, pos, out, depth + 1)
        else:
            out.append([f.name or '', pos, f.bitsize, 0 if f.bitsize else f.type.sizeof])
answer = {}
for name in ask:
    try:
        t = gdb.lookup_type(name)
    except gdb.error:
        continue
    out = []
    s = t.strip_typedefs()
    if s.code == gdb.TYPE_CODE_ENUM:
        out = [[f.name.split('::')[-1], f.enumval, 0, 0] for f in s.fields()]
    elif s.code in (gdb.TYPE_CODE_STRUCT, gdb.TYPE_CODE_UNION):
        flatten(s, 0, out)
    answer[name] = {'size': t.sizeof, 'fields': out}
`

func TestTypesAgainstGDB(t *testing.T) {
	each(t, func(t *testing.T, f *File, path string) {
		reads(t, "gdb", path)
		ids := map[string]sym.TypeID{}
		var ask []string
		for n, err := range f.TypeNames(func(string) bool { return true }) {
			if err != nil {
				t.Fatal(err)
			}
			typ, err := f.Type(n.ID)
			if err != nil {
				t.Fatal(err)
			}
			name := n.Name
			switch typ.Kind {
			case sym.Struct:
				name = "struct " + name
			case sym.Union:
				name = "union " + name
			case sym.Enum:
				name = "enum " + name
			case sym.Alias:
			default:
				continue
			}
			ids[name] = n.ID
			ask = append(ask, name)
		}
		var answer map[string]struct {
			Size   uint64
			Fields [][4]any
		}
		gdb(t, path, fieldsOfGDB, ask, &answer)
		d := differ{t: t}
		same := 0
		for _, name := range ask {
			a, ok := answer[name]
			if !ok {
				d.explain("gdb: inner type")
				continue
			}
			var want []flat
			for _, x := range a.Fields {
				pos, _ := x[1].(float64)
				bits, _ := x[2].(float64)
				size, _ := x[3].(float64)
				if size == 1<<32 {
					size = 0 // an array of 0xFFFFFFFF+1 elements of a byte
				}
				want = append(want, flat{x[0].(string), uint64(int64(pos)), uint64(bits), uint64(size)})
			}
			slices.SortStableFunc(want, func(a, b flat) int { return cmp.Compare(a.pos, b.pos) })
			size, got := shown(t, f, ids[name])
			switch {
			case size == a.Size && slices.Equal(got, want):
				same++
			case defines(t, f, name, a.Size, want):
				d.explain("gdb: another")
			default:
				d.add("%s: size %d, %v\n gdb: size %d, %v", name, size, got, a.Size, want)
			}
		}
		d.end(same, "types")
	})
}

// TestLinesAgainstGDB asks for the line of each address where a line begins, and
// behind it.
func TestLinesAgainstGDB(t *testing.T) {
	each(t, func(t *testing.T, f *File, path string) {
		reads(t, "gdb", path)
		var ask []uint64
		for _, x := range extentsOf(t, f) {
			u, _, err := f.at(x.lo)
			if err != nil || u == nil {
				t.Fatal(u, err)
			}
			table, err := f.table(u)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range table.rows {
				if len(ask) < 60000 && !r.end && x.has(r.rva) && x.has(r.rva+1) {
					ask = append(ask, f.im.ImageBase+uint64(r.rva), f.im.ImageBase+uint64(r.rva)+1)
				}
			}
		}
		var answer [][]any
		gdb(t, path, `
answer = []
for pc in ask:
    s = gdb.find_pc_line(pc)
    answer.append([s.symtab.filename if s.symtab else '', s.line])
`, ask, &answer)
		d := differ{t: t}
		data := stdDWARF(t, path)
		same := 0
		for i, pc := range ask {
			l, ok, err := f.Line(uint32(pc - f.im.ImageBase))
			if err != nil {
				t.Fatal(err)
			}
			file, line := answer[i][0].(string), answer[i][1].(float64)
			if float64(l.Line) != line && (lastRow(t, f, data, pc).line == int(l.Line) || lastRow(t, f, data, pc).good[int(l.Line)]) {
				d.explain("gdb: same line")
				continue
			}
			if float64(l.Line) != line || ok && !strings.HasSuffix(slashes(l.File), strings.TrimPrefix(slashes(file), "./")) {
				d.add("%#x: %s:%d, %v; gdb: %s:%v", pc, l.File, l.Line, ok, file, line)
				continue
			}
			same++
		}
		d.end(same, "addresses")
	})
}

// rowOf is what debug/dwarf says about an address.
type rowOf struct {
	line int          // of the last row at or below the address
	at   uint64       // where that is
	stop bool         // it is a good place to stop at
	good map[int]bool // lines that have a good place to stop at there
}

func lastRow(t *testing.T, f *File, data *std.Data, pc uint64) (row rowOf) {
	t.Helper()
	u, _, err := f.at(uint32(pc - f.im.ImageBase))
	if err != nil {
		t.Fatal(err)
	}
	r := data.Reader()
	r.Seek(std.Offset(u.first))
	unit, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	lr, err := data.LineReader(unit)
	if err != nil {
		t.Fatal(err)
	}
	row.good = map[int]bool{}
	at := uint64(0)
	good := map[int]bool{}
	for le, before := (std.LineEntry{}), (std.LineEntry{}); lr.Next(&le) == nil; before = le {
		if before.EndSequence || le.Address != at {
			at, good = le.Address, map[int]bool{}
		}
		if !before.EndSequence && before.Address <= pc && pc < le.Address {
			row.line, row.at, row.stop = before.Line, before.Address, before.IsStmt
		}
		if good[le.Line] = good[le.Line] || le.IsStmt; le.Address <= pc && !le.EndSequence {
			row.good = good
		}
	}
	return row
}

func extentsOf(t *testing.T, f *File) []extent {
	t.Helper()
	x, err := f.extents()
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// TestLinesAgainstDebugDwarf compares every row with debug/dwarf.
func TestLinesAgainstDebugDwarf(t *testing.T) {
	each(t, func(t *testing.T, f *File, path string) {
		reads(t, "debug/dwarf", path)
		reads(t, "debug/dwarf lines", path)
		data := stdDWARF(t, path)
		d := differ{t: t}
		same := 0
		r := data.Reader()
		for e, err := r.Next(); e != nil; e, err = r.Next() {
			if err != nil {
				t.Fatal(err)
			}
			r.SkipChildren()
			lr, err := data.LineReader(e)
			if err != nil {
				t.Fatal(err)
			}
			if lr == nil {
				continue
			}
			var rows []lineRow
			for {
				var le std.LineEntry
				if err := lr.Next(&le); err == io.EOF {
					break
				} else if err != nil {
					t.Fatal(err)
				}
				rows = append(rows, lineRow{le.Address, le.Line, le.File.Name, le.IsStmt, le.EndSequence})
			}
			same += compareLines(t, f, &d, rows, "debug/dwarf")
		}
		d.end(same, "rows")
	})
}

var (
	rangeOfGDB  = regexp.MustCompile(`^  (?:Base address 0x[0-9a-f]+  )?Range 0x([0-9a-f]+)-0x([0-9a-f]+): (.*)`)
	symbolOfGDB = regexp.MustCompile(`^Symbol (\S+) is (.*)`)
	frameOfGDB  = regexp.MustCompile(`^a variable at frame base reg \$(\w+) offset (\d+)\+(-?\d+)`)
	regOfGDB    = regexp.MustCompile(`^a variable in \$(\w+)`)
	staticOfGDB = regexp.MustCompile(`^static storage at address 0x([0-9a-f]+)`)
	pieceOfGDB  = regexp.MustCompile(`^(.*) \[(\d+)-byte piece\]$`)
	cfaOfGDB    = regexp.MustCompile(`^0: DW_OP_fbreg (-?\d+)$`)
)

// location is where gdb has a variable.
type location struct {
	scope  uint64 // address asked for
	name   string
	lo, hi uint64 // 0: everywhere
	text   string // the first line of it
	ops    []string
	more   string // what follows them: more pieces
}

// parse says where gdb has the variable; kind: "place" for what it returns, "out"
// of sight, a "constant", "computed" for what our model has no words for, "" if
// it is no variable.
func (a *location) parse(f *File) (list []sym.Location, kind string) {
	text, _, _ := strings.Cut(a.text, ", length ")
	off := uint32(0)
	for part := range strings.SplitSeq(text, ", and ") {
		var l sym.Location
		m := pieceOfGDB.FindStringSubmatch(part)
		size := uint32(0)
		if m != nil {
			n, _ := strconv.Atoi(m[2])
			size, part = uint32(n), m[1]
		}
		switch {
		case strings.HasPrefix(part, "optimized out"):
			return nil, "out"
		case strings.HasPrefix(part, "the constant"), strings.HasPrefix(part, "constant"):
			if m != nil {
				return nil, "constants"
			}
			return nil, "constant"
		case strings.HasPrefix(part, "an empty"):
			var n uint32
			fmt.Sscanf(part, "an empty %d-byte piece", &n)
			off += n
			continue
		case strings.HasPrefix(part, "a complex DWARF expression") && len(a.ops) == 1 && cfaOfGDB.MatchString(a.ops[0]) && a.more == "":
			l.Kind = sym.CFARelative
			l.Offset, _ = strconv.ParseInt(cfaOfGDB.FindStringSubmatch(a.ops[0])[1], 10, 64)
		case frameOfGDB.MatchString(part):
			m := frameOfGDB.FindStringSubmatch(part)
			o1, _ := strconv.ParseInt(m[2], 10, 64)
			o2, _ := strconv.ParseInt(m[3], 10, 64)
			l = sym.Location{Kind: sym.RegRelative, Reg: m[1], Offset: o1 + o2}
		case regOfGDB.MatchString(part):
			l = sym.Location{Kind: sym.InRegister, Reg: regOfGDB.FindStringSubmatch(part)[1]}
		case staticOfGDB.MatchString(part):
			addr, _ := strconv.ParseUint(staticOfGDB.FindStringSubmatch(part)[1], 16, 64)
			l = sym.Location{Kind: sym.AtRVA, RVA: uint32(addr - f.im.ImageBase)}
		case strings.Contains(part, "complex DWARF expression"), strings.Contains(part, "implicit"), strings.Contains(part, "literal"):
			return nil, "computed"
		default:
			return nil, ""
		}
		l.PieceOffset, l.PieceSize = off, size
		off += size
		list = append(list, l)
	}
	return list, "place"
}

// scopesOfGDB reads what info scope says.
func scopesOfGDB(out string) []location {
	var list []location
	var at uint64
	var name string
	lines := bufio.NewScanner(strings.NewReader(out))
	for lines.Scan() {
		s := lines.Text()
		if rest, ok := strings.CutPrefix(s, "@@"); ok {
			at, _ = strconv.ParseUint(rest, 0, 64)
		} else if m := symbolOfGDB.FindStringSubmatch(s); m != nil {
			name = m[1]
			if !strings.HasPrefix(m[2], "multi-location") {
				list = append(list, location{scope: at, name: name, text: strings.TrimPrefix(m[2], "a variable of ")})
			}
		} else if m := rangeOfGDB.FindStringSubmatch(s); m != nil {
			lo, _ := strconv.ParseUint(m[1], 16, 64)
			hi, _ := strconv.ParseUint(m[2], 16, 64)
			list = append(list, location{scope: at, name: name, lo: lo, hi: hi, text: m[3]})
		} else if s = strings.TrimSpace(s); len(list) > 0 && s != "" && s[0] >= '0' && s[0] <= '9' {
			l := &list[len(list)-1]
			l.ops = append(l.ops, s)
		} else if len(list) > 0 && strings.HasPrefix(s, "[") {
			list[len(list)-1].more = s
		}
	}
	return list
}

// TestLocalsAgainstGDB compares names of variables and where they are, with info
// scope at the first address of each procedure and inlined call.
func TestLocalsAgainstGDB(t *testing.T) {
	each(t, func(t *testing.T, f *File, path string) {
		reads(t, "gdb", path)
		var ask []uint64
		for _, x := range extentsOf(t, f) {
			u, _, err := f.at(x.lo)
			if err != nil {
				t.Fatal(err)
			}
			list, err := u.funcs()
			if err != nil {
				t.Fatal(err)
			}
			for _, fn := range list {
				if len(ask) < 3000 && x.has(fn.lo) {
					ask = append(ask, f.im.ImageBase+uint64(fn.lo), f.im.ImageBase+uint64(fn.lo+(fn.hi-fn.lo)/2))
				}
			}
		}
		var said []string
		gdb(t, path, `
answer = []
for pc in ask:
    try:
        s = gdb.execute('info scope *%#x' % pc, to_string=True)
    except gdb.error as e:
        s = ''
    answer.append('@@%#x\n%s' % (pc, s))
`, ask, &said)
		answers := scopesOfGDB(strings.Join(said, "\n"))
		d := differ{t: t}
		same := 0
		twice := map[string]int{} // how often a scope has a name
		for i, a := range answers {
			if i == 0 || answers[i-1].name != a.name || answers[i-1].scope != a.scope || a.lo == 0 || a.lo < answers[i-1].lo {
				twice[fmt.Sprint(a.scope, a.name)]++
			}
		}
		for _, a := range answers {
			at := max(a.scope, a.lo)
			if a.lo != 0 && a.lo == a.hi {
				continue
			}
			want, kind := a.parse(f)
			switch kind {
			case "":
				d.explain("gdb: no variable")
				continue
			case "computed":
				d.explain("gdb: calculated")
				continue
			}
			if a.lo != 0 && at >= a.hi {
				continue // another of its ranges counts
			}
			scopes, err := f.Scopes(uint32(at - f.im.ImageBase))
			if err != nil {
				t.Fatal(err)
			}
			at0, err := f.Scopes(uint32(a.scope - f.im.ImageBase))
			if err != nil {
				t.Fatal(err)
			}
			ok, base := false, false
			var seen []sym.Var
			for _, s := range scopes {
				for _, v := range s.Vars {
					if v.Name != a.name {
						continue
					}
					seen = append(seen, v)
					switch kind {
					case "out":
						ok = ok || len(v.Loc) == 0
					case "constant":
						ok = ok || len(v.Loc) == 1 && v.Loc[0].Kind == sym.IsConstant
					case "constants":
						ok = ok || len(v.Loc) > 0 && v.Loc[0].PieceSize != 0
					default:
						ok = ok || slices.EqualFunc(v.Loc, want, func(x, y sym.Location) bool {
							if len(want) == 1 && y.PieceSize == 0 {
								y.PieceSize = x.PieceSize
							}
							return fmt.Sprint(x) == fmt.Sprint(y)
						})
						// In DWARF 2 gdb counts from where the procedure begins.
						cfi, has, _ := f.CFI(uint32(at - f.im.ImageBase))
						if has && cfi.CFA.Kind == ValueExpression && len(v.Loc) == 0 {
							base = true // it has to be calculated
						}
						if has && len(v.Loc) == 1 && want[0].Kind == sym.RegRelative &&
							v.Loc[0].Kind == sym.RegRelative && v.Loc[0].Reg == cfi.CFA.Reg {
							base = base || v.Loc[0].Offset-cfi.CFA.Offset == want[0].Offset-int64(f.pointerSize())
						}
					}
				}
			}
			if !slices.EqualFunc(scopes, at0, func(x, y sym.Scope) bool { return x.RVA == y.RVA && x.Name == y.Name }) {
				d.explain("gdb: beyond")
				continue
			}
			if len(seen) == 0 && kind == "out" || !ok && kind == "out" && twice[fmt.Sprint(a.scope, a.name)] > 1 {
				d.explain("gdb: no code")
				continue
			}
			if !ok && len(seen) == 0 && strings.HasPrefix(a.text, "static storage") {
				d.explain("gdb: elsewhere")
				continue
			}
			if !ok && strings.Contains(a.text, "-bit piece") {
				d.explain("gdb: bits")
				continue
			}
			if !ok && base {
				d.explain("gdb: frame base")
				continue
			}
			if !ok && twice[fmt.Sprint(a.scope, a.name)] > 1 && len(seen) == 1 && len(seen[0].Loc) == 1 && seen[0].Loc[0].Kind == sym.IsConstant {
				d.explain("gdb: propagated")
				continue
			}
			if !ok {
				d.add("%s at %#x (asked at %#x): %v; gdb: %s %v", a.name, at, a.scope, seen, a.text, a.ops)
				continue
			}
			same++
		}
		d.end(same, "variables")
	})
}

// TestAddressesAgainstGDB compares where breakpoints for lines go.
func TestAddressesAgainstGDB(t *testing.T) {
	each(t, func(t *testing.T, f *File, path string) {
		reads(t, "gdb", path)
		var ask []string
		if strings.HasPrefix(path, "testdata") || builtDir != "" && strings.HasPrefix(path, builtDir) && !strings.Contains(path, "exceptions") {
			for file, n := range map[string]int{"types.c": 50, "other.c": 40, "code.c": 120, "cxx.cpp": 130} {
				for i := range n {
					ask = append(ask, fmt.Sprintf("%s:%d", file, i+1))
				}
			}
		} else {
			for i, x := range extentsOf(t, f) {
				if l, ok, _ := f.Line(x.lo + (x.hi-x.lo)/3); ok && i%3 == 0 && l.File[0] == '/' {
					ask = append(ask, fmt.Sprintf("%s:%d", l.File, l.Line), fmt.Sprintf("%s:%d", l.File, l.Line+1))
				}
			}
		}
		data := stdDWARF(t, path)
		var answer map[string][][2]uint64
		gdb(t, path, `
answer = {}
for spec in ask:
    try:
        answer[spec] = [[s.pc, s.line] for s in gdb.decode_line(spec)[1] or []]
    except gdb.error:
        pass
`, ask, &answer)
		d := differ{t: t}
		same := 0
		for _, spec := range ask {
			file, num, _ := strings.Cut(spec, ":")
			line, _ := strconv.Atoi(num)
			list, err := f.Addresses(file, uint32(line))
			if err != nil {
				t.Fatal(err)
			}
			var got [][2]uint64
			for _, l := range list {
				got = append(got, [2]uint64{f.im.ImageBase + uint64(l.RVA), uint64(l.Line)})
			}
			want := slices.Clone(answer[spec])
			slices.SortFunc(want, func(a, b [2]uint64) int { return cmp.Compare(a[0], b[0]) })
			// Within a procedure gdb has one for each block.
			want = slices.DeleteFunc(want, func(x [2]uint64) bool {
				if slices.Contains(got, x) {
					return false
				}
				rva := uint32(x[0] - f.im.ImageBase)
				if l, ok, _ := f.Line(rva); ok && l.RVA < rva && slices.Contains(got, [2]uint64{f.im.ImageBase + uint64(l.RVA), x[1]}) {
					d.explain("gdb: blocks") // what was inlined there is of the same line
					return true
				}
				u, _, err := f.at(rva)
				if u == nil || err != nil {
					return false
				}
				if lastRow(t, f, data, x[0]).line != int(x[1]) {
					d.explain("gdb: same line") // the code there is of another line
					return true
				}
				scope, _ := u.scopeAt(rva, newWork())
				ours := slices.ContainsFunc(list, func(l sym.Line) bool {
					other, _ := u.scopeAt(l.RVA, newWork())
					return l.RVA < rva && other == scope && uint64(l.Line) == x[1]
				})
				if ours {
					d.explain("gdb: blocks")
				}
				return ours
			})
			if len(got) > 0 && len(want) > 0 && got[0][1] < want[0][1] && !slices.ContainsFunc(got, func(x [2]uint64) bool {
				row := lastRow(t, f, data, x[0])
				return (row.line != int(x[1]) || row.at != x[0] || !row.stop) && !row.good[int(x[1])]
			}) {
				d.explain("gdb: same line")
				continue
			}
			if !slices.Equal(got, want) {
				d.add("%s: %d, only ours %#x; gdb: %d, only its %#x", spec, len(got), without(got, want), len(want), without(want, got))
				continue
			}
			same++
		}
		d.end(same, "lines")
	})
}

// without is what of a is not in b.
func without(a, b [][2]uint64) [][2]uint64 {
	return slices.DeleteFunc(slices.Clone(a), func(x [2]uint64) bool { return slices.Contains(b, x) })
}

var (
	fdeOfObjdump = regexp.MustCompile(`FDE cie=[0-9a-f]+ pc=([0-9a-f]+)\.\.([0-9a-f]+)`)
	rowOfObjdump = regexp.MustCompile(`^([0-9a-f]{8,16}) (\S+)\s+(.*)$`)
)

// TestCFIAgainstObjdump compares each row of call frame information.
func TestCFIAgainstObjdump(t *testing.T) {
	each(t, func(t *testing.T, f *File, path string) {
		reads(t, "objdump", path)
		if f.frame.size == 0 && f.ehFrame.size == 0 {
			t.Skip("no call frame information: Clang leaves it to the unwind data")
		}
		out := tool(t, "objdump", "--dwarf=frames-interp", path)
		d := differ{t: t}
		same := 0
		var columns []string
		var lo, hi uint64
		check := func(at uint64, words []string) {
			if at < lo || at >= hi {
				d.explain("objdump: common entry")
				return
			}
			rva, ok := f.rva(at)
			if !ok {
				return
			}
			row, ok, err := f.CFI(rva)
			if err != nil || !ok {
				d.add("%#x: %v, %v", at, ok, err)
				return
			}
			got := map[string]string{}
			for _, r := range row.Regs {
				s := fmt.Sprintf("c%+d", r.Offset)
				switch {
				case r.Kind == Undefined:
					s = "u"
				case r.Kind == Value && r.Rule.Reg != "":
					s = r.Rule.Reg
				case r.Kind == Value:
					s = fmt.Sprintf("v%+d", r.Offset)
				case r.Kind == SavedExpression:
					s = "exp"
				case r.Kind == ValueExpression:
					s = "vexp"
				}
				name := r.Reg
				if name == row.Return {
					name = "ra"
				}
				got[name] = s
			}
			cfa := fmt.Sprintf("%s%+d", row.CFA.Reg, row.CFA.Offset)
			if row.CFA.Kind == ValueExpression {
				cfa = "exp"
			}
			ok = row.RVA == rva && cfa == words[0]
			for i, c := range columns {
				if i+1 >= len(words) {
					ok = false
					break
				}
				g, have := got[c]
				w := words[i+1]
				ok = ok && (g == w || !have && (w == "u" || w == "s"))
			}
			if !ok {
				d.add("%#x: from %#x, cfa %s, %v; objdump: %v %v", at, row.RVA, cfa, got, columns, words)
				return
			}
			same++
		}
		for line := range strings.Lines(out) {
			line = strings.TrimRight(line, " \n")
			if m := fdeOfObjdump.FindStringSubmatch(line); m != nil {
				lo, _ = strconv.ParseUint(m[1], 16, 64)
				hi, _ = strconv.ParseUint(m[2], 16, 64)
				if rva, ok := f.rva(lo); ok && lo < hi {
					if _, ok, err := f.CFI(rva); !ok {
						d.add("%#x: nothing, %v", lo, err)
					}
				}
			} else if w := strings.Fields(line); len(w) > 1 && w[0] == "LOC" {
				columns = w[2:]
			} else if strings.Contains(line, " CIE ") {
				lo, hi = 0, 0
			} else if m := rowOfObjdump.FindStringSubmatch(line); m != nil && !strings.Contains(line, "FDE") {
				at, _ := strconv.ParseUint(m[1], 16, 64)
				check(at, strings.Fields(line)[1:])
			}
		}
		d.end(same, "rows")
	})
}

// shown is the size of a type as gdb shows it and what is in it.
func shown(t *testing.T, f *File, id sym.TypeID) (uint64, []flat) {
	t.Helper()
	typ, err := f.Type(id)
	if err != nil {
		t.Fatal(err)
	}
	size := typ.Size
	for typ.Kind == sym.Alias || typ.Kind == sym.Modifier {
		id = typ.Elem
		if typ, err = f.Type(id); err != nil {
			t.Fatal(err)
		}
	}
	got := ours(t, f, id)
	switch typ.Kind {
	case sym.Func:
		size = 1 // as in C of GNU
	case sym.Enum:
		members, err := f.Members(id)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range members {
			got = append(got, flat{name: m.Name, pos: uint64(m.Value)})
		}
	}
	slices.SortStableFunc(got, func(a, b flat) int { return cmp.Compare(a.pos, b.pos) })
	return size, got
}

// defines says whether one of the definitions of a type in the image is the one
// that is wanted. Units may define different ones of one name: which of them a
// debugger shows is chance.
func defines(t *testing.T, f *File, name string, size uint64, want []flat) bool {
	if _, s, ok := strings.Cut(name, " "); ok {
		name = s
	}
	heads, err := f.headers()
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range heads {
		u, err := f.unit(h)
		if err != nil {
			t.Fatal(err)
		}
		for i := range u.dies {
			e := entry{u, i}
			if groupOf(e.tag()) == 0 || u.ab(i).declares {
				continue
			}
			if s, _ := e.qualified(); s != name {
				continue
			}
			if n, got := shown(t, f, typeID(e)); n == size && slices.Equal(got, want) {
				return true
			}
		}
	}
	return false
}
