package pdb

import (
	"bufio"
	"bytes"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"openkd/image/sym"
	"openkd/image/undname"
)

// tool finds a program of LLVM, by its plain name or one with a version.
func tool(t testing.TB, name string) string {
	t.Helper()
	for _, n := range []string{name, name + "-14", name + "-15", name + "-16", name + "-19"} {
		if p, err := exec.LookPath(n); err == nil {
			return p
		}
	}
	t.Skipf("%s is not installed", name)
	return ""
}

// dump runs llvm-pdbutil dump.
func dump(t testing.TB, path string, args ...string) []string {
	t.Helper()
	var errs bytes.Buffer
	cmd := exec.Command(tool(t, "llvm-pdbutil"), append(append([]string{"dump"}, args...), path)...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("llvm-pdbutil dump %v %s: %v: %s", args, path, err, errs.String())
	}
	var lines []string
	sc := bufio.NewScanner(bytes.NewReader(out))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		lines = append(lines, sc.Text())
	}
	return lines
}

// fixtures are the PDBs that tests read: the ones of this package and those of
// the simulator's kernel.
func fixtures(t testing.TB) []string {
	list, err := filepath.Glob("testdata/*.pdb")
	if err != nil {
		t.Fatal(err)
	}
	kernel, err := filepath.Glob("../../sim/kernel/image/*.pdb")
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 3 || len(kernel) == 0 {
		t.Fatalf("fixtures %v, %v", list, kernel)
	}
	return append(list, kernel...)
}

func open(t testing.TB, path string) *File {
	t.Helper()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func eachFixture(t *testing.T, do func(t *testing.T, path string, f *File)) {
	for _, path := range fixtures(t) {
		t.Run(filepath.Base(path), func(t *testing.T) { do(t, path, open(t, path)) })
	}
}

func num(t testing.TB, s string, base int) uint64 {
	t.Helper()
	v, err := strconv.ParseUint(s, base, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// lrec is a symbol record as llvm-pdbutil prints it.
type lrec struct {
	mod  int // -1: of the global symbols
	pos  uint32
	kind string
	name string
	text string // the lines below, joined
}

var recordHead = regexp.MustCompile("^ *([0-9]+) \\| (S_[A-Z0-9_]+) \\[size = [0-9]+\\](?: `(.*)`|.*)$")

// records parses the symbol records of a dump.
func records(t testing.TB, lines []string) []lrec {
	var list []lrec
	mod := -1
	for _, line := range lines {
		if strings.HasPrefix(strings.TrimSpace(line), "Mod 0") {
			mod = int(num(t, strings.TrimSpace(line)[4:8], 10))
			continue
		}
		if m := recordHead.FindStringSubmatch(line); m != nil {
			list = append(list, lrec{mod: mod, pos: uint32(num(t, m[1], 10)), kind: m[2], name: m[3]})
		} else if len(list) > 0 {
			list[len(list)-1].text += strings.TrimSpace(line) + "; "
		}
	}
	return list
}

// field takes a value out of the text of a record.
func (r *lrec) field(t testing.TB, pattern string) []string {
	t.Helper()
	m := regexp.MustCompile(pattern).FindStringSubmatch(r.text)
	if m == nil {
		t.Fatalf("no %s in %+v", pattern, *r)
	}
	return m[1:]
}

// addr is where a record says it is.
func (r *lrec) addr(t testing.TB) addr {
	m := r.field(t, `addr = ([0-9]+):([0-9]+)`)
	return addr{uint16(num(t, m[0], 10)), uint32(num(t, m[1], 10))}
}

// typeOf is the type number of a record.
func (r *lrec) typeOf(t testing.TB) uint32 {
	if strings.Contains(r.text, "type = <no type>") || strings.Contains(r.text, "type = `<no type>`") {
		return 0
	}
	return uint32(num(t, r.field(t, "type *= *`?0x([0-9A-Fa-f]+)")[0], 16))
}

func TestIdentityAgainstLLVM(t *testing.T) {
	eachFixture(t, func(t *testing.T, path string, f *File) {
		text := strings.Join(dump(t, path, "-summary"), "\n")
		g := f.Identity().GUID
		want := fmt.Sprintf("GUID: {%08X-%04X-%04X-%X-%X}", le.Uint32(g[:]), le.Uint16(g[4:]), le.Uint16(g[6:]), g[8:10], g[10:])
		// This version prints the bytes in the order they are stored.
		raw := fmt.Sprintf("GUID: {%X-%X-%X-%X-%X}", g[:4], g[4:6], g[6:8], g[8:10], g[10:])
		if !strings.Contains(text, want) && !strings.Contains(text, raw) {
			t.Errorf("no %s in\n%s", want, text)
		}
		if !strings.Contains(text, fmt.Sprintf("\n  Age: %d\n", f.Identity().Age)) {
			t.Errorf("no age %d in\n%s", f.Identity().Age, text)
		}
	})
}

func TestPublicsAgainstLLVM(t *testing.T) {
	eachFixture(t, func(t *testing.T, path string, f *File) {
		l, err := f.layout()
		if err != nil {
			t.Fatal(err)
		}
		want := records(t, dump(t, path, "-publics"))
		ours := map[string]sym.Symbol{}
		hidden := map[uint32]bool{}
		for s, err := range f.Symbols(func(string) bool { return true }) {
			if err != nil {
				t.Fatal(err)
			}
			if s.Kind == sym.Public {
				name := s.Linkage
				if name == "" {
					name = s.Name
				}
				ours[name] = s
			} else if s.Kind != sym.Constant && s.Kind != sym.TypeDef {
				hidden[s.RVA] = true
			}
		}
		n := 0
		for _, r := range want {
			if r.kind != "S_PUB32" {
				t.Fatalf("%+v", r)
			}
			a := r.addr(t)
			n++
			if int(a.seg) > len(l.sections) {
				s, err := f.ByName(r.name)
				if err != nil || len(s) != 1 || s[0].Kind != sym.Constant || s[0].Value != int64(a.off) {
					t.Errorf("absolute %s: %+v, %v", r.name, s, err)
				}
				continue
			}
			rva, ok := l.rva(a.seg, a.off)
			if !ok {
				t.Errorf("%s at %v has no address", r.name, a)
				continue
			}
			// In the list, unless a private symbol stands for it.
			s, listed := ours[r.name]
			if listed == hidden[rva] || listed && s.RVA != rva {
				t.Errorf("%s at %x: listed %v, hidden %v, %+v", r.name, rva, listed, hidden[rva], s)
			}
			if listed && s.Code != (strings.Contains(r.text, "function") || strings.Contains(r.text, "code") || l.code(a.seg)) {
				t.Errorf("%s: code %v, %s", r.name, s.Code, r.text)
			}
			// By the linker's name, and by the plain one.
			for _, name := range []string{r.name, f.plain(r.name)} {
				if name == "`string'" {
					continue // texts are not looked for by name
				}
				found, err := f.ByName(name)
				if err != nil || !slices.ContainsFunc(found, func(s sym.Symbol) bool { return s.RVA == rva }) {
					t.Errorf("ByName(%q) = %+v, %v; want RVA %x", name, found, err, rva)
				}
			}
			// By address, if it is not the end of a section, where another may begin.
			if sec := l.sections[a.seg-1]; a.off == sec.size {
				continue
			}
			s, ok, err := f.ByRVA(rva)
			inside := s.Kind == sym.Function && rva > s.RVA && rva-s.RVA < s.Size // a second entry of a function
			if err != nil || !ok || s.RVA != rva && !inside {
				t.Errorf("ByRVA(%x) = %+v, %v, %v; want %s", rva, s, ok, err, r.name)
			}
			// Labels, thunks and variables of functions are not listed.
			if s.Kind == sym.Public && !listed || s.Kind == sym.Function && listed && !inside {
				t.Errorf("%s: %+v, listed %v", r.name, s, listed)
			}
		}
		t.Logf("%d publics", n)
	})
}

func TestGlobalsAgainstLLVM(t *testing.T) {
	eachFixture(t, func(t *testing.T, path string, f *File) {
		l, err := f.layout()
		if err != nil {
			t.Fatal(err)
		}
		// What the module records say of the procedures that globals refer to.
		type at struct {
			mod int
			pos uint32
		}
		procs := map[at]lrec{}
		for _, r := range records(t, dump(t, path, "-symbols")) {
			procs[at{r.mod, r.pos}] = r
		}
		count := map[string]int{}
		for _, r := range records(t, dump(t, path, "-globals")) {
			found, err := f.ByName(r.name)
			if err != nil {
				t.Errorf("%s: %v", r.name, err)
				continue
			}
			count[r.kind]++
			var want sym.Symbol
			switch r.kind {
			case "S_PROCREF", "S_LPROCREF":
				m := r.field(t, `module = ([0-9]+), sum name = 0, offset = ([0-9]+)`)
				p, ok := procs[at{int(num(t, m[0], 10)) - 1, uint32(num(t, m[1], 10))}]
				if !ok || p.name != r.name {
					t.Fatalf("%+v refers to %+v", r, p)
				}
				a := p.addr(t)
				want.Kind, want.Code = sym.Function, true
				want.RVA, _ = l.rva(a.seg, a.off)
				want.Size = uint32(num(t, p.field(t, `code size = ([0-9]+)`)[0], 10))
				want.Type = sym.TypeID(p.typeOf(t))
				want.Static = r.kind == "S_LPROCREF"
			case "S_LDATA32", "S_GDATA32", "S_LTHREAD32", "S_GTHREAD32":
				a := r.addr(t)
				want.Kind, want.Type = sym.Data, sym.TypeID(r.typeOf(t))
				if a.seg == 0 {
					continue // it was left out of the image
				}
				want.RVA, _ = l.rva(a.seg, a.off)
				want.Static = r.kind == "S_LDATA32" || r.kind == "S_LTHREAD32"
				n, err := f.sizeOf(uint32(want.Type))
				if err != nil {
					t.Error(err)
				}
				want.Size = uint32(n)
				if int(a.seg) > len(l.sections) {
					if len(found) == 0 || found[0].Kind != sym.Constant && found[0].RVA != 0 {
						t.Errorf("absolute %s: %+v", r.name, found)
					}
					continue
				}
				// It may be declared without its size too.
				if i := slices.IndexFunc(found, func(s sym.Symbol) bool { return s.RVA == want.RVA }); i >= 0 && found[i].Size >= want.Size {
					want.Size, want.Type = found[i].Size, found[i].Type
				}
				// It covers its bytes.
				for _, off := range []uint32{0, want.Size / 2, max(want.Size, 1) - 1} {
					s, ok, err := f.ByRVA(want.RVA + off)
					inside := s.Kind == sym.Function && l.code(a.seg) // a table in a function
					if err != nil || !ok || s.RVA != want.RVA && !inside {
						t.Errorf("ByRVA(%x) = %+v, %v, %v; want %s", want.RVA+off, s, ok, err, r.name)
					}
				}
			case "S_CONSTANT":
				want.Kind, want.Type = sym.Constant, sym.TypeID(r.typeOf(t))
				// It prints some large values as negative ones.
				under, err := f.Type(want.Type)
				if err == nil && under.Kind == sym.Modifier {
					under, err = f.Type(under.Elem)
				}
				if err != nil {
					t.Error(err)
				}
				v, err := strconv.ParseInt(r.field(t, `value = (-?[0-9]+)`)[0], 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				want.Value = v
				if under.Kind == sym.Int && !under.Signed {
					want.Value = extend(v, &under)
				}
			case "S_UDT":
				want.Kind, want.Type = sym.TypeDef, sym.TypeID(r.typeOf(t))
			default:
				t.Errorf("a kind that nothing is known of: %+v", r)
			}
			want.Name = r.name
			if !slices.ContainsFunc(found, func(s sym.Symbol) bool { s.Linkage = ""; return s == want }) {
				t.Errorf("ByName(%q) = %+v; want %+v", r.name, found, want)
			}
		}
		t.Log(count)
	})
}

// TestRecordsAgainstLLVM compares every record of every module.
func TestRecordsAgainstLLVM(t *testing.T) {
	kinds := map[string]uint16{"S_END": sEnd, "S_THUNK32": sThunk32, "S_BLOCK32": sBlock32, "S_LDATA32": sLData32, "S_GDATA32": sGData32,
		"S_LPROC32": sLProc32, "S_GPROC32": sGProc32, "S_REGREL32": sRegRel32, "S_LTHREAD32": sLThread32, "S_UDT": sUDT, "S_CONSTANT": sConstant,
		"S_LOCAL": sLocal, "S_DEFRANGE_REGISTER": sDefRangeReg, "S_DEFRANGE_FRAMEPOINTER_REL": sDefRangeFP,
		"S_DEFRANGE_SUBFIELD_REGISTER": sDefRangeSub, "S_DEFRANGE_REGISTER_REL": sDefRangeRel, "S_INLINESITE": sInlineSite,
		"S_INLINESITE_END": sInlineEnd, "S_FRAMEPROC": sFrameProc, "S_LABEL32": sLabel32, "S_BPREL32": sBPRel32, "S_REGISTER": sRegister, "S_FILESTATIC": sFileStatic, "S_TRAMPOLINE": sTrampoline,
		"S_DEFRANGE_FRAMEPOINTER_REL_FULL_SCOPE": sDefRangeFull}
	// Records about how the module was made, and about calls.
	other := map[string]bool{"S_OBJNAME": true, "S_COMPILE3": true, "S_BUILDINFO": true, "S_ENVBLOCK": true, "S_SECTION": true, "S_COFFGROUP": true, "S_EXPORT": true,
		"S_COMPILE2": true, "S_UNAMESPACE": true, "S_CALLSITEINFO": true, "S_CALLEES": true, "S_INLINEES": true, "S_HEAPALLOCSITE": true, "S_FRAMECOOKIE": true}
	eachFixture(t, func(t *testing.T, path string, f *File) {
		type key struct {
			mod int
			pos uint32
		}
		ours := map[key]symRec{}
		mods, err := f.moduleList()
		if err != nil {
			t.Fatal(err)
		}
		for i := range mods {
			u, err := f.unit(uint16(i))
			if err != nil {
				t.Fatal(err)
			}
			if u == nil {
				continue
			}
			err = u.walk(4, u.symbols, func(pos uint32, r symRec) error {
				r.name = bytes.Clone(r.name)
				ours[key{i, pos}] = r
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		want := records(t, dump(t, path, "-symbols"))
		if len(want) != len(ours) {
			t.Errorf("%d records, want %d", len(ours), len(want))
		}
		for _, w := range want {
			r, ok := ours[key{w.mod, w.pos}]
			if !ok {
				t.Errorf("missed %+v", w)
				continue
			}
			if other[w.kind] {
				continue
			}
			k, known := kinds[w.kind]
			if !known || r.kind != k {
				t.Errorf("kind %#x, want %+v", r.kind, w)
				continue
			}
			if string(r.name) != w.name && k != sLabel32 { // of labels it prints no names
				t.Errorf("name %q, want %+v", r.name, w)
			}
			switch k {
			case sGProc32, sLProc32, sBlock32, sThunk32:
				size := w.field(t, `size = ([0-9]+)`)[0]
				if k == sGProc32 || k == sLProc32 || k == sBlock32 {
					size = w.field(t, `code size = ([0-9]+)`)[0]
				}
				end := w.field(t, `parent = ([0-9]+), end = ([0-9]+)`)
				if (addr{r.seg, r.off}) != w.addr(t) || uint64(r.size) != num(t, size, 10) || uint64(r.parent) != num(t, end[0], 10) || uint64(r.end) != num(t, end[1], 10) {
					t.Errorf("%+v, want %+v", r, w)
				}
			case sLData32, sLThread32:
				if (addr{r.seg, r.off}) != w.addr(t) || r.typ != w.typeOf(t) {
					t.Errorf("%+v, want %+v", r, w)
				}
			case sLocal:
				if r.typ != w.typeOf(t) || r.flags&localParam != 0 != strings.Contains(w.text, "param") {
					t.Errorf("%+v, want %+v", r, w)
				}
			case sInlineSite:
				if m := w.field(t, `inlinee = 0x([0-9A-F]+) .*, parent = ([0-9]+), end = ([0-9]+)`); uint64(r.typ) != num(t, m[0], 16) || uint64(r.parent) != num(t, m[1], 10) || uint64(r.end) != num(t, m[2], 10) {
					t.Errorf("%+v, want %+v", r, w)
				}
			}
		}
		t.Logf("%d records", len(want))
	})
}

// TestTypesAgainstLLVM compares every type record: kinds, sizes, names, members.
func TestTypesAgainstLLVM(t *testing.T) {
	eachFixture(t, func(t *testing.T, path string, f *File) {
		typ, err := f.tpi()
		if err != nil {
			t.Fatal(err)
		}
		head := regexp.MustCompile("^ *0x([0-9A-F]+) \\| (LF_[A-Z0-9_]+) \\[size = ([0-9]+)(?:, hash = 0x[0-9A-F]+)?\\](?: `(.*)`)?$")
		type rec struct {
			ti         uint32
			kind, name string
			text       string
			members    []string
		}
		var list []rec
		for _, line := range dump(t, path, "-types") {
			if m := head.FindStringSubmatch(line); m != nil {
				list = append(list, rec{ti: uint32(num(t, m[1], 16)), kind: m[2], name: m[4]})
			} else if n := len(list); n > 0 {
				line = strings.TrimSpace(line)
				if r := &list[n-1]; strings.HasPrefix(line, "- LF_") {
					r.members = append(r.members, line)
				} else if k := len(r.members); k > 0 {
					r.members[k-1] += " " + line
				} else {
					list[n-1].text += line + "; "
				}
			}
		}
		if len(list) != int(typ.end-typ.first) {
			t.Errorf("%d records, want %d", typ.end-typ.first, len(list))
		}
		lists := map[uint32]rec{}
		for _, r := range list {
			lists[r.ti] = r
		}
		get := func(r rec, pattern string) []string {
			m := regexp.MustCompile(pattern).FindStringSubmatch(r.text)
			if m == nil {
				t.Fatalf("no %s in %+v", pattern, r)
			}
			return m[1:]
		}
		kindsSeen := map[string]int{}
		for _, r := range list {
			kindsSeen[r.kind]++
			leaf, _, err := typ.record(r.ti)
			if err != nil {
				t.Errorf("%#x: %v", r.ti, err)
				continue
			}
			switch r.kind {
			case "LF_FIELDLIST":
				if leaf != lfFieldList {
					t.Errorf("%#x is %#x, want %s", r.ti, leaf, r.kind)
				}
				continue
			case "LF_ARGLIST":
				if leaf != lfArgList {
					t.Errorf("%#x is %#x, want %s", r.ti, leaf, r.kind)
				}
				continue
			case "LF_METHODLIST":
				continue
			}
			got, err := f.Type(sym.TypeID(r.ti))
			if err != nil {
				t.Errorf("%#x %s: %v", r.ti, r.kind, err)
				continue
			}
			want := sym.Type{ID: sym.TypeID(r.ti)}
			typeNum := func(s string) sym.TypeID { return sym.TypeID(num(t, s, 16)) }
			switch r.kind {
			case "LF_STRUCTURE", "LF_CLASS", "LF_UNION", "LF_ENUM":
				want.Kind = map[string]sym.TypeKind{"LF_STRUCTURE": sym.Struct, "LF_CLASS": sym.Struct, "LF_UNION": sym.Union, "LF_ENUM": sym.Enum}[r.kind]
				want.Class, want.Name = r.kind == "LF_CLASS", r.name
				full := r
				if strings.Contains(r.text, "forward ref") {
					m := regexp.MustCompile(`forward ref \((?:->|<-) 0x([0-9A-F]+)\)`).FindStringSubmatch(r.text)
					// Of types of functions this version finds no definition,
					// which it looks for under the wrong name.
					if m == nil {
						if strings.Contains(r.text, "scoped") && got.ID != want.ID {
							full = lists[uint32(got.ID)]
							if full.name != r.name || strings.Contains(full.text, "forward ref") {
								t.Errorf("%#x is defined by %+v", r.ti, full)
							}
							want.ID = got.ID
						} else {
							want.Kind = sym.Opaque
						}
					} else {
						want.ID = typeNum(m[1])
						full = lists[uint32(want.ID)]
					}
				}
				if r.kind == "LF_ENUM" {
					want.Elem = typeNum(get(full, `underlying type: 0x([0-9A-F]+)`)[0])
					want.Size = simpleType(uint32(want.Elem)).Size
				} else {
					want.Size = num(t, get(full, `sizeof ([0-9]+)`)[0], 10)
				}
				fields := regexp.MustCompile(`field list: 0x([0-9A-F]+)`).FindStringSubmatch(full.text)
				var members []string
				if fields != nil {
					members = lists[uint32(typeNum(fields[1]))].members
				}
				compareMembers(t, f, got.ID, members)
				if want.Kind != sym.Opaque && !anonymous([]byte(r.name)) {
					id, err := f.TypeByName(r.name)
					if err != nil {
						t.Errorf("TypeByName(%q): %v", r.name, err)
					}
					named, err := f.Type(id)
					if err != nil || named.Name != r.name || named.Kind == sym.Opaque {
						t.Errorf("TypeByName(%q) = %#x %+v, %v", r.name, uint64(id), named, err)
					}
				}
			case "LF_POINTER":
				want.Kind = sym.Pointer
				m := get(r, `referent = 0x([0-9A-F]+).*, mode = ([a-z ]+), opts = ([A-Za-z |]+), kind = ptr([0-9]+)`)
				want.Elem = typeNum(m[0])
				want.Reference = strings.Contains(m[1], "ref")
				want.Const, want.Volatile = strings.Contains(m[2], "const"), strings.Contains(m[2], "volatile")
				want.Size = num(t, m[3], 10) / 8
				if strings.Contains(m[1], "member") {
					want.Size = got.Size // it is not printed
				}
			case "LF_MODIFIER":
				want.Kind = sym.Modifier
				m := get(r, `referent = 0x([0-9A-F]+).*, modifiers = ([a-z |]+)`)
				want.Elem = typeNum(m[0])
				want.Const, want.Volatile = strings.Contains(m[1], "const"), strings.Contains(m[1], "volatile")
				elem, err := f.Type(want.Elem)
				if err != nil {
					t.Error(err)
				}
				want.Size = elem.Size
			case "LF_ARRAY":
				want.Kind = sym.Array
				m := get(r, `size: ([0-9]+), index type: .*, element type: 0x([0-9A-F]+)`)
				want.Size, want.Elem = num(t, m[0], 10), typeNum(m[1])
				elem, err := f.Type(want.Elem)
				if err != nil {
					t.Error(err)
				}
				if elem.Size > 0 {
					want.Count = want.Size / elem.Size
				}
			case "LF_BITFIELD":
				want.Kind = sym.BitField
				m := get(r, `type = 0x([0-9A-F]+).*, bit offset = ([0-9]+), # bits = ([0-9]+)`)
				want.Elem, want.BitPos, want.BitLen = typeNum(m[0]), uint8(num(t, m[1], 10)), uint8(num(t, m[2], 10))
				elem, err := f.Type(want.Elem)
				if err != nil {
					t.Error(err)
				}
				want.Size = elem.Size
			case "LF_PROCEDURE", "LF_MFUNCTION":
				want.Kind = sym.Func
				m := get(r, `return type = (?:0x|<no type>)([0-9A-F]*).*# args = ([0-9]+), param list = 0x([0-9A-F]+)`)
				if m[0] != "" {
					want.Elem = typeNum(m[0])
				}
				for _, p := range regexp.MustCompile(`0x([0-9A-F]+)(?: \([^;]*\))?: |<no type>`).FindAllStringSubmatch(lists[uint32(typeNum(m[2]))].text, -1) {
					if p[1] == "" {
						want.Variadic = true
					} else {
						want.Params = append(want.Params, typeNum(p[1]))
					}
				}
			case "LF_VTSHAPE":
				want.Kind, want.Name, want.Count = sym.Opaque, "`vtable'", got.Count
			default:
				t.Errorf("a kind that nothing is known of: %+v", r)
			}
			if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
				t.Errorf("%#x %s\n got %+v\nwant %+v\n%s", r.ti, r.kind, got, want, r.text)
			}
		}
		t.Log(kindsSeen)
	})
}

// compareMembers compares the members of a type with the lines of its list.
func compareMembers(t *testing.T, f *File, id sym.TypeID, lines []string) {
	t.Helper()
	got, err := f.Members(id)
	if err != nil {
		t.Errorf("%#x: %v", uint64(id), err)
		return
	}
	typ, err := f.Type(id)
	if err != nil {
		t.Error(err)
	}
	one := func(line, pattern string) string {
		m := regexp.MustCompile(pattern).FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("no %s in %s", pattern, line)
		}
		return m[1]
	}
	var want []sym.Member
	for _, line := range lines {
		kind := strings.Fields(line)[1]
		typeOf := func() sym.TypeID { return sym.TypeID(num(t, one(line, `(?i)type = 0x([0-9A-F]+)`), 16)) }
		switch kind {
		case "LF_MEMBER":
			want = append(want, sym.Member{Kind: sym.Field, Name: one(line, "name = `([^`]*)`"), Type: typeOf(), Offset: num(t, one(line, `offset = ([0-9]+)`), 10)})
		case "LF_STMEMBER":
			want = append(want, sym.Member{Kind: sym.StaticField, Name: one(line, "name = `([^`]*)`"), Type: typeOf()})
		case "LF_BCLASS":
			want = append(want, sym.Member{Kind: sym.Base, Type: typeOf(), Offset: num(t, one(line, `offset = ([0-9]+)`), 10)})
		case "LF_VFUNCTAB":
			want = append(want, sym.Member{Kind: sym.VTable, Type: typeOf()})
		case "LF_VBCLASS":
			want = append(want, sym.Member{Kind: sym.VirtualBase, Type: sym.TypeID(num(t, one(line, `base = 0x([0-9A-F]+)`), 16)),
				Offset: num(t, one(line, `vbptr offset = ([0-9]+)`), 10), Value: int64(num(t, one(line, `vtable index = ([0-9]+)`), 10))})
		case "LF_ENUMERATE":
			v := one(line, ` = (-?[0-9]+)\]`)
			var n int64
			if strings.HasPrefix(v, "-") {
				n, err = strconv.ParseInt(v, 10, 64)
				if err != nil {
					t.Fatal(err)
				}
			} else {
				n = int64(num(t, v, 10))
			}
			// clang stores negative values as large ones.
			if under := simpleType(uint32(typ.Elem)); under.Signed && under.Size == 4 {
				n = int64(int32(n))
			} else if under.Signed && under.Size == 1 {
				n = int64(int8(n))
			}
			want = append(want, sym.Member{Kind: sym.Enumerator, Name: one(line, `\[(.*) = -?[0-9]+\]`), Value: n})
		case "LF_ONEMETHOD", "LF_METHOD", "LF_NESTTYPE", "LF_IVBCLASS":
		default:
			t.Errorf("a kind that nothing is known of: %s", line)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("members of %#x\n got %+v\nwant %+v", uint64(id), got, want)
	}
}

// lline is a line record as llvm-pdbutil prints it.
type lline struct {
	file  string
	start addr
	end   uint32
	line  uint32
	off   uint32 // in the section
}

// linesOf parses a dump of lines. Of modules without lines this version prints
// those of the module before once more.
func linesOf(t testing.TB, f *File, lines []string) []lline {
	mods, err := f.moduleList()
	if err != nil {
		t.Fatal(err)
	}
	head := regexp.MustCompile(`^  ([0-9A-F]{4}):([0-9A-F]{8})-([0-9A-F]{8}), line/(?:column/)?addr entries = [0-9]+$`)
	entry := regexp.MustCompile(`([0-9]+|NSI|ASI) ([0-9A-F]{8}) ?!?`)
	fileLine := regexp.MustCompile(`^ ?(.*\S) \((MD5: [0-9A-F]+|no checksum|SHA.*)\)$`)
	var list []lline
	var file string
	var start addr
	var end uint32
	skip := false
	for _, line := range lines {
		if strings.HasPrefix(strings.TrimSpace(line), "Mod 0") {
			m := mods[num(t, strings.TrimSpace(line)[4:8], 10)]
			skip = m.stream == noStream || m.c13 == 0
		} else if skip {
			continue
		} else if m := head.FindStringSubmatch(line); m != nil {
			start, end = addr{uint16(num(t, m[1], 16)), uint32(num(t, m[2], 16))}, uint32(num(t, m[3], 16))
		} else if m := fileLine.FindStringSubmatch(line); m != nil {
			file = m[1]
		} else {
			for _, m := range entry.FindAllStringSubmatch(line, -1) {
				n := map[string]uint32{"NSI": lineNeverStep, "ASI": lineAlwaysStep}[m[1]]
				if n == 0 {
					n = uint32(num(t, m[1], 10))
				}
				list = append(list, lline{file, start, end, n, uint32(num(t, m[2], 16))})
			}
		}
	}
	return list
}

// TestLinesAgainstLLVM compares every line record, those that compilers give to
// code without line included.
func TestLinesAgainstLLVM(t *testing.T) {
	eachFixture(t, func(t *testing.T, path string, f *File) {
		l, err := f.layout()
		if err != nil {
			t.Fatal(err)
		}
		list := linesOf(t, f, dump(t, path, "-l"))
		type place struct {
			file string
			line uint32
		}
		lowest := map[place]map[addr]uint32{} // of a line in a function
		lastAt := map[addr]lline{}
		for _, w := range list {
			lastAt[addr{w.start.seg, w.off}] = w
		}
		for i, w := range list {
			a := addr{w.start.seg, w.off}
			rva, ok := l.rva(a.seg, a.off)
			if !ok {
				t.Fatal(a)
			}
			p, _, err := f.procedureAt(rva)
			if err != nil || p == nil {
				t.Fatalf("%+v: %v", w, err)
			}
			k := place{w.file, w.line}
			if lowest[k] == nil {
				lowest[k] = map[addr]uint32{}
			}
			if old, ok := lowest[k][w.start]; !ok || rva < old {
				lowest[k][w.start] = rva
			}
			if lastAt[a] != w {
				continue // another record is for the same address
			}
			got, ok, err := p.ownLine()
			if w.line == 0 || w.line == lineAlwaysStep || w.line == lineNeverStep {
				if ok || err != nil {
					t.Errorf("%x: %+v, %v", rva, got, err)
				}
				continue
			}
			if err != nil || !ok || got.File != w.file || got.Line != w.line || got.RVA != rva {
				t.Errorf("%x: %+v, %v, %v; want %+v", rva, got, ok, err, w)
			}
			// The same in the middle of its code.
			if n := got.Size; n > 1 {
				p.at.off += n - 1
				if mid, ok, err := p.ownLine(); err != nil || !ok || mid.RVA != got.RVA {
					t.Errorf("%x: %+v, %v, %v; want %+v", rva+n-1, mid, ok, err, w)
				}
			}
			next := w.end
			for _, n := range list[max(0, i-2000):min(len(list), i+2000)] {
				if n.start == w.start && n.off > w.off {
					next = min(next, n.off)
				}
			}
			if got.Size != next-w.off {
				t.Errorf("%x: size %d, next at %x", rva, got.Size, next)
			}
		}
		for k, in := range lowest {
			if k.line == 0 || k.line == lineNeverStep || k.line == lineAlwaysStep {
				continue
			}
			got, err := f.Addresses(k.file, k.line)
			if err != nil {
				t.Fatal(err)
			}
			for _, rva := range in {
				if !slices.ContainsFunc(got, func(l sym.Line) bool { return l.RVA == rva && l.Line == k.line && l.File == k.file }) {
					t.Errorf("Addresses(%s, %d) = %+v; want %x", k.file, k.line, got, rva)
				}
			}
		}
		t.Logf("%d lines", len(list))
	})
}

// TestAnnotationsAgainstLLVM compares which code an inlined call has and of which
// lines with the operations as llvm-pdbutil prints them.
func TestAnnotationsAgainstLLVM(t *testing.T) {
	op := regexp.MustCompile(`code 0x([0-9A-F]+)|code end 0x([0-9A-F]+)|line (-?[0-9]+) \(`)
	eachFixture(t, func(t *testing.T, path string, f *File) {
		n := 0
		for _, r := range records(t, dump(t, path, "-symbols")) {
			if r.kind != "S_INLINESITE" {
				continue
			}
			n++
			u, err := f.unit(uint16(r.mod))
			if err != nil {
				t.Fatal(err)
			}
			rec, err := u.s.symbol(int64(r.pos))
			if err != nil {
				t.Fatal(err)
			}
			x, err := u.lineTable()
			if err != nil {
				t.Fatal(err)
			}
			from, ok := x.inlinee(rec.typ)
			if !ok {
				t.Errorf("nothing is known of %+v", r)
			}
			var want []piece
			line := from.line
			for _, row := range strings.Split(r.text, "; ")[1:] {
				begins := false
				for _, m := range op.FindAllStringSubmatch(row, -1) {
					switch {
					case m[1] != "":
						off := uint32(num(t, m[1], 16))
						if k := len(want); k > 0 && want[k-1].size == 0 {
							want[k-1].size = off - want[k-1].off
						}
						want = append(want, piece{off: off, file: from.file})
						begins = true
					case m[2] != "":
						k := len(want) - 1
						want[k].size = uint32(num(t, m[2], 16)) - want[k].off
					case m[3] != "":
						d, err := strconv.Atoi(m[3])
						if err != nil {
							t.Fatal(err)
						}
						line = from.line + uint32(d)
					}
				}
				if begins {
					want[len(want)-1].line = line
				}
			}
			if got := annotations(rec.rest, from); !slices.Equal(got, want) {
				t.Errorf("%+v\n got %+v\nwant %+v", r, got, want)
			}
		}
		t.Logf("%d inlined calls", n)
	})
}

// TestInlineesAgainstLLVM compares where inlined functions stand in their files.
func TestInlineesAgainstLLVM(t *testing.T) {
	row := regexp.MustCompile(`^ *0x([0-9A-F]+) \| +([0-9]+) \| (.*) \((?:MD5: ([0-9A-F]+)|no checksum)\)$`)
	eachFixture(t, func(t *testing.T, path string, f *File) {
		var u *unit
		n := 0
		for _, line := range dump(t, path, "-il") {
			if strings.HasPrefix(strings.TrimSpace(line), "Mod 0") {
				var err error
				if u, err = f.unit(uint16(num(t, strings.TrimSpace(line)[4:8], 10))); err != nil {
					t.Fatal(err)
				}
				continue
			}
			m := row.FindStringSubmatch(line)
			if m == nil || u == nil {
				continue
			}
			n++
			x, err := u.lineTable()
			if err != nil {
				t.Fatal(err)
			}
			in, ok := x.inlinee(uint32(num(t, m[1], 16)))
			if !ok {
				t.Errorf("missed %s", line)
				continue
			}
			l, err := u.checksum(&x, in.file)
			if err != nil {
				t.Fatal(err)
			}
			kind := byte(1)
			if m[4] == "" {
				kind = 0
			}
			if in.line != uint32(num(t, m[2], 10)) || l.File != m[3] || l.ChecksumKind != kind || fmt.Sprintf("%X", l.Checksum) != m[4] {
				t.Errorf("%+v, %+v; want %s", in, l, line)
			}
		}
		t.Logf("%d functions", n)
	})
}

// TestInlinedAgainstLLVM asks llvm-symbolizer for the frames at every second
// byte of every function. Lines within inlined calls are not compared: version
// 14 gives code the line of the record after its own (see
// TestAnnotationsAgainstLLVM for those). Nor are lines where two records have one
// address: it takes the first, we take the last, as the first has no code.
func TestInlinedAgainstLLVM(t *testing.T) {
	symbolizer := tool(t, "llvm-symbolizer")
	for name, base := range map[string]uint64{"x86": 0x400000, "x64": 0x140000000, "arm64": 0x140000000} {
		t.Run(name, func(t *testing.T) {
			f := open(t, "testdata/"+name+".pdb")
			l, err := f.layout()
			if err != nil {
				t.Fatal(err)
			}
			records := map[uint32]int{} // of lines at an address
			for _, w := range linesOf(t, f, dump(t, "testdata/"+name+".pdb", "-l")) {
				rva, _ := l.rva(w.start.seg, w.off)
				records[rva]++
			}
			var asked []uint32
			var in strings.Builder
			for s, err := range f.Symbols(func(string) bool { return true }) {
				if err != nil {
					t.Fatal(err)
				}
				if s.Kind == sym.Function {
					for off := uint32(0); off < s.Size; off += 2 {
						asked = append(asked, s.RVA+off)
						fmt.Fprintf(&in, "0x%x\n", base+uint64(s.RVA+off))
					}
				}
			}
			// It looks for the PDB next to the image, by the image's name for it.
			cmd := exec.Command(symbolizer, "--obj="+name+".exe", "--inlines", "--no-demangle")
			cmd.Dir = "testdata"
			cmd.Stdin = strings.NewReader(in.String())
			out, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			answers := strings.Split(strings.TrimSpace(string(out)), "\n\n")
			if len(answers) != len(asked) {
				t.Fatalf("%d answers for %d addresses", len(answers), len(asked))
			}
			nested, differ := 0, 0
			for i, rva := range asked {
				got := framesAt(t, f, rva)
				var want []string // innermost first
				lines := strings.Split(answers[i], "\n")
				for k := 0; k+1 < len(lines); k += 2 {
					pos := lines[k+1]
					pos = pos[:strings.LastIndexByte(pos, ':')] // the column
					want = append(want, lines[k]+" "+pos)
				}
				nested = max(nested, len(got))
				for k := range min(len(want), len(got)) {
					if k == len(want)-1 {
						// Of the function itself it prints the linker's name.
						p, where, _ := strings.Cut(want[k], " ")
						s, ok, err := f.ByRVA(rva)
						if err != nil || !ok {
							t.Fatalf("%x: %v, %v", rva, ok, err)
						}
						if p == s.Linkage || p == "_"+s.Name {
							p = s.Name
						}
						want[k] = p + " " + where
					}
					if k < len(want)-1 || records[rva] > 1 {
						want[k], got[k] = want[k][:strings.LastIndexByte(want[k], ':')], got[k][:strings.LastIndexByte(got[k], ':')]
					}
				}
				if !slices.Equal(got, want) {
					if differ++; differ < 10 {
						t.Errorf("%x\n got %q\nwant %q", rva, got, want)
					}
				}
			}
			if nested < 3 {
				t.Errorf("only %d calls in each other", nested)
			}
			t.Logf("%d addresses, %d differ, %d calls deep", len(asked), differ, nested)
		})
	}
}

// framesAt returns the function and inlined calls at an address with the place
// of each in its source, innermost first.
func framesAt(t *testing.T, f *File, rva uint32) []string {
	t.Helper()
	scopes, err := f.Scopes(rva)
	if err != nil {
		t.Fatal(err)
	}
	at, ok, err := f.Line(rva)
	if err != nil {
		t.Fatal(err)
	}
	text := func(l sym.Line, ok bool) string {
		if !ok {
			return "??:0"
		}
		return fmt.Sprintf("%s:%d", l.File, l.Line)
	}
	pos := text(at, ok)
	var got []string
	for k := len(scopes) - 1; k >= 0; k-- {
		s := scopes[k]
		if k > 0 && !s.Inlined {
			continue // a block
		}
		got = append(got, s.Name+" "+pos)
		pos = text(s.Call, s.Call.Line != 0)
	}
	return got
}

// TestLocalsAgainstLLVM looks for every variable at the beginning, the end and in
// the gaps of every range that it has.
func TestLocalsAgainstLLVM(t *testing.T) {
	lower := func(reg string) string { return strings.ToLower(strings.TrimPrefix(reg, "ARM64_")) }
	for _, path := range fixtures(t)[:3] {
		t.Run(filepath.Base(path), func(t *testing.T) {
			f := open(t, path)
			l, err := f.layout()
			if err != nil {
				t.Fatal(err)
			}
			var local lrec
			var base, paramBase string
			checked, unseen, gone := 0, 0, 0
			find := func(a addr, name string, want sym.Location) (has, with bool) {
				rva, _ := l.rva(a.seg, a.off)
				scopes, err := f.Scopes(rva)
				if err != nil {
					t.Fatal(err)
				}
				for _, s := range scopes {
					for _, v := range s.Vars {
						if v.Name != name || v.Type != sym.TypeID(local.typeOf(t)) || v.Param != strings.Contains(local.text, "param") {
							continue
						}
						has = true
						with = with || slices.ContainsFunc(v.Loc, func(l sym.Location) bool {
							if want.PieceSize == 0 {
								l.PieceSize = 0
							}
							return fmt.Sprint(l) == fmt.Sprint(want)
						})
					}
				}
				return has, with
			}
			gap := regexp.MustCompile(`\(([0-9]+),([0-9]+)\)`)
			all := records(t, dump(t, path, "-symbols"))
			named := map[string]int{} // variables of a name in the procedure
			for k, r := range all {
				var want sym.Location
				u := func(s string) uint32 { return uint32(num(t, s, 10)) }
				i := func(s string) int64 {
					v, err := strconv.ParseInt(s, 10, 64)
					if err != nil {
						t.Fatal(err)
					}
					return v
				}
				switch r.kind {
				case "S_GPROC32", "S_LPROC32":
					clear(named)
					for _, in := range all[k+1:] {
						if in.kind == "S_GPROC32" || in.kind == "S_LPROC32" {
							break
						}
						if in.kind == "S_LOCAL" {
							named[in.name]++
						}
					}
					continue
				case "S_FRAMEPROC":
					m := r.field(t, `local fp reg = ([A-Z0-9_]+), param fp reg = ([A-Z0-9_]+)`)
					base, paramBase = lower(m[0]), lower(m[1])
					continue
				case "S_LOCAL":
					local = r
					if strings.Contains(r.text, "optimized away") {
						gone++
					}
					continue
				case "S_DEFRANGE_REGISTER":
					want = sym.Location{Kind: sym.InRegister, Reg: lower(r.field(t, `register = ([A-Z0-9_]+)`)[0])}
				case "S_DEFRANGE_SUBFIELD_REGISTER":
					want = sym.Location{Kind: sym.InRegister, Reg: lower(r.field(t, `register = ([A-Z0-9_]+)`)[0]), PieceOffset: u(r.field(t, `offset in parent = ([0-9]+)`)[0]), PieceSize: 8}
					if strings.HasPrefix(want.Reg, "e") || strings.HasPrefix(want.Reg, "w") || strings.HasSuffix(want.Reg, "d") {
						want.PieceSize = 4
					}
				case "S_DEFRANGE_REGISTER_REL":
					m := r.field(t, `register = ([A-Z0-9_]+), offset = (-?[0-9]+), offset in parent = ([0-9]+), has spilled udt = (true|false)`)
					want = sym.Location{Kind: sym.RegRelative, Reg: lower(m[0]), Offset: i(m[1])}
					if m[0] == "VFRAME" {
						want.Kind, want.Reg = sym.FrameBase, ""
					}
					if m[3] == "true" {
						want.PieceOffset = u(m[2])
					}
				case "S_DEFRANGE_FRAMEPOINTER_REL":
					want = sym.Location{Kind: sym.RegRelative, Reg: base, Offset: i(r.field(t, `offset = (-?[0-9]+)`)[0])}
					if strings.Contains(local.text, "param") {
						want.Reg = paramBase
					}
					if want.Reg == "vframe" {
						want.Kind, want.Reg = sym.FrameBase, ""
					}
				default:
					continue
				}
				m := r.field(t, `(?:range = \[|range start = )([0-9]+):([0-9]+),(?:\+| length = )([0-9]+)`)
				start, size := addr{uint16(u(m[0])), u(m[1])}, u(m[2])
				if size == 0 {
					continue
				}
				gaps := gap.FindAllStringSubmatch(r.text[strings.Index(r.text, "gaps"):], -1)
				inGap := func(off uint32) bool {
					return slices.ContainsFunc(gaps, func(g []string) bool { return off >= u(g[1]) && off-u(g[1]) < u(g[2]) })
				}
				for _, off := range []uint32{0, size / 2, size - 1} {
					has, with := find(addr{start.seg, start.off + off}, local.name, want)
					switch {
					case !has, !with && !inGap(off) && named[local.name] > 1:
						unseen++ // the range is larger than its scope
					case with == inGap(off):
						t.Errorf("%s at %v+%d: %v; want %+v of %+v", local.name, start, off, with, want, r)
					default:
						checked++
					}
				}
				for _, g := range gaps {
					if _, with := find(addr{start.seg, start.off + u(g[1])}, local.name, want); with {
						t.Errorf("%s is there in a gap of %+v", local.name, r)
					}
				}
			}
			if checked < 500 || unseen > checked/10 {
				t.Errorf("only %d places, %d out of scope", checked, unseen)
			}
			t.Logf("%d places, %d out of scope, %d variables without", checked, unseen, gone)
		})
	}
}

func TestFrameDataAgainstLLVM(t *testing.T) {
	path := "testdata/x86.pdb"
	f := open(t, path)
	row := regexp.MustCompile(`^([0-9A-F]{8}) \| +([0-9]+) \| +([0-9]+) \| +([0-9]+) \| +[0-9]+ \| +([0-9]+) \| +([0-9]+) \| .*(true|false) \| (.*)$`)
	n := 0
	for _, line := range dump(t, path, "-fpo") {
		m := row.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		n++
		v := func(i, base int) uint32 { return uint32(num(t, m[i], base)) }
		want := sym.X86Frame{RVA: v(1, 16), Size: v(2, 10), Locals: v(3, 10), Params: v(4, 10), Prolog: v(5, 10), SavedRegs: v(6, 10), HasProgram: true, Program: m[8]}
		got, ok, err := f.X86Frame(want.RVA)
		got.Program = strings.TrimSpace(got.Program)
		want.Program = strings.TrimSpace(want.Program)
		if err != nil || !ok || got != want {
			t.Errorf("%x: %+v, %v, %v; want %+v", want.RVA, got, ok, err, want)
		}
	}
	if n < 50 {
		t.Errorf("only %d records", n)
	}
	if _, ok, err := f.X86Frame(0x500); ok || err != nil {
		t.Error("a frame in the headers")
	}
}

// TestNamesAgainstLLVM undecorates every public name of the fixtures.
func TestNamesAgainstLLVM(t *testing.T) {
	tool := tool(t, "llvm-undname")
	var names []string
	for _, path := range fixtures(t) {
		for _, r := range records(t, dump(t, path, "-publics")) {
			if strings.HasPrefix(r.name, "?") {
				names = append(names, r.name)
			}
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	cmd := exec.Command(tool)
	cmd.Stdin = strings.NewReader(strings.Join(names, "\n") + "\n")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(out), "\n")
	if len(names) < 100 || len(lines) < 3*len(names) {
		t.Fatalf("%d names, %d lines", len(names), len(lines))
	}
	for i, n := range names {
		if got, err := undname.Full(n); got != lines[3*i+1] {
			t.Errorf("%s\n got %s, %v\nwant %s", n, got, err, lines[3*i+1])
		}
	}
}
