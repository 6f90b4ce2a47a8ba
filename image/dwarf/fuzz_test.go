package dwarf

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"testing"
)

// spoil changes a sound file by a script: short inputs find more than changing
// all of a file at random does. Each change takes five bytes: what to do, where,
// and a value.
func spoil(b, script []byte) []byte {
	b = bytes.Clone(b)
	for ; len(script) >= 5 && len(b) > 8; script = script[5:] {
		at := (int(script[1]) | int(script[2])<<8 | int(script[3])<<16) % (len(b) - 8)
		v := script[4]
		switch script[0] % 6 {
		case 0:
			b[at] = v
		case 1:
			copy(b[at:], []byte{0xFF, 0xFF, 0xFF, v})
		case 2:
			b[at] += v
		case 3:
			copy(b[at:], b[int(v)*(len(b)-8)/256:][:8])
		case 4:
			clear(b[at : at+8])
		case 5:
			b = b[:max(len(b)-int(v)*int(v), at, 16)]
		}
	}
	return b
}

var scripts = [][]byte{nil, {0, 100, 0, 0, 1}, {1, 0, 2, 0, 0x7F, 2, 0, 64, 0, 1}, {3, 0, 33, 0, 9, 4, 1, 1, 0, 0, 5, 0, 0, 0, 200}}

func FuzzImage(f *testing.F) {
	var images [][]byte
	for _, name := range fixtures {
		b, err := os.ReadFile(filepath.Join("testdata", name+".exe"))
		if err != nil {
			f.Fatal(err)
		}
		images = append(images, b)
	}
	for i := range images {
		for _, s := range scripts {
			f.Add(uint8(i), s)
		}
	}
	f.Fuzz(func(t *testing.T, image uint8, script []byte) {
		b := spoil(images[int(image)%len(images)], script)
		if file, err := New(bytes.NewReader(b), int64(len(b))); err == nil {
			exercise(file)
		}
	})
}

// contents are sections of a fixture.
func contents(f *testing.F, image string, names ...string) map[string][]byte {
	file := open(f, image)
	all := map[string][]byte{}
	for _, s := range file.sections() {
		for _, name := range names {
			if s.name != name {
				continue
			}
			b, err := s.read(0, uint64(s.size))
			if err != nil {
				f.Fatal(err)
			}
			all[name] = b
		}
	}
	return all
}

// FuzzSections spoils one section of DWARF and leaves the others as they are.
func FuzzSections(f *testing.F) {
	names := []string{".debug_info", ".debug_abbrev", ".debug_str", ".debug_line", ".debug_line_str", ".debug_rnglists", ".debug_loclists",
		".debug_aranges", ".debug_addr", ".debug_str_offsets", ".debug_ranges", ".debug_loc"}
	all := map[string]map[string][]byte{}
	for _, name := range fixtures {
		all[name] = contents(f, name, names...)
	}
	for i := range names {
		for _, s := range scripts {
			f.Add(uint8(i%len(fixtures)), uint8(i), s)
		}
	}
	f.Fuzz(func(t *testing.T, image, section uint8, script []byte) {
		of := fixtures[int(image)%len(fixtures)]
		sections := maps.Clone(all[of])
		name := names[int(section)%len(names)]
		sections[name] = spoil(sections[name], script)
		file := synthetic(sections)
		file.im.ImageBase = 0x140000000
		if of == "x86" || of == "x86-dwarf2" {
			file.im.Machine, file.im.PE32Plus, file.im.ImageBase = machineX86, false, 0x400000
		}
		exercise(file)
	})
}

func FuzzAbbreviations(f *testing.F) {
	f.Add([]byte{1, 0x11, 1, 3, 8, 0, 0, 2, 0x34, 0, 3, formImplicitConst, 5, 0, 0, 0}, uint8(0))
	f.Add([]byte{9, 0x24, 0, 0x0B, 0x0F, 0, 0, 0x81, 1, 0x24, 0, 3, 0x16, 0, 0, 0}, uint8(9))
	f.Fuzz(func(t *testing.T, b []byte, only uint8) {
		file := synthetic(map[string][]byte{".debug_abbrev": b})
		table, err := file.readAbbrevs(0, shape{addr: 8, off: 4, version: 5}, uint64(only))
		if err != nil {
			return
		}
		for code := range uint64(300) {
			if i := table.find(code); i >= int32(len(table.list)) {
				t.Fatalf("code %d is %d of %d", code, i, len(table.list))
			}
		}
	})
}

func FuzzLines(f *testing.F) {
	for _, image := range []string{"x64", "x86-dwarf2", "arm64"} {
		f.Add(contents(f, image, ".debug_line")[".debug_line"], uint8(8))
	}
	f.Fuzz(func(t *testing.T, b []byte, addr uint8) {
		file := synthetic(map[string][]byte{".debug_line": b})
		u := &unit{f: file, dir: "/src", hasLine: true, header: header{shape: shape{addr: 4 + addr&4, off: 4, version: 5}}}
		table, err := file.table(u)
		if err != nil {
			return
		}
		for i, r := range table.rows {
			if r.end {
				continue
			}
			table.starts(i)
			if l := table.line(u, i); l.RVA != r.rva || i > 10000 {
				break
			}
			if at := table.rowAt(r.rva); at >= 0 && table.rows[at].rva > r.rva {
				t.Fatalf("%#x is in row %+v", r.rva, table.rows[at])
			}
		}
		if _, _, err := file.addressesIn(u, "x.c", 3, 0, newWork()); err != nil {
			return
		}
	})
}

func FuzzExpression(f *testing.F) {
	f.Add([]byte{opFbreg, 0x70, opDeref, opPlusUconst, 8, opStackValue, opPiece, 4}, uint8(0))
	f.Add([]byte{opBreg0 + 4, 0, opConst4u, 1, 2, 3, 4, opAnd, opLit0, opSwap, opMul}, uint8(1))
	f.Add([]byte{opReg0, opPiece, 4, opImplicitValue, 2, 1, 2, opPiece, 2}, uint8(3))
	f.Fuzz(func(t *testing.T, expr []byte, how uint8) {
		file := synthetic(nil)
		fr := &frame{u: &unit{f: file, header: header{shape: shape{addr: 8, off: 4, version: 5}}}, base: &term{base: baseCFA}}
		fr.locate(expr)
		file.program(expr, how&1 != 0)
		fr.reg = func(string) (uint64, bool) { return 16, how&2 == 0 }
		fr.read = func(addr uint64, size int) (uint64, error) { return addr, nil }
		cfa := uint64(0x1000)
		fr.rule(&Rule{Kind: SavedExpression, expr: expr}, &cfa)
	})
}

func FuzzFrames(f *testing.F) {
	sound := [2][]byte{contents(f, "x86", ".eh_frame")[".eh_frame"], contents(f, "x64", ".debug_frame")[".debug_frame"]}
	for i := range sound {
		for _, s := range scripts {
			f.Add(uint8(i), s)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, script []byte) {
		name := [2]string{".eh_frame", ".debug_frame"}[which%2]
		file := synthetic(map[string][]byte{name: spoil(sound[which%2], script)})
		file.im.Machine, file.im.PE32Plus, file.ehFrameRVA = machineX86, false, 0x4000
		list, _ := file.frames()
		for i, x := range list {
			if i == 200 {
				break
			}
			for _, rva := range []uint32{x.lo, x.lo + (x.hi-x.lo)/2, x.hi - 1} {
				row, ok, err := file.CFI(rva)
				if ok && err == nil && (rva < row.RVA || rva >= row.RVA+row.Size) {
					t.Fatalf("%#x: %+v", rva, row)
				}
				if fr, ok, _ := file.X86Frame(rva); ok && fr.Program == "" {
					t.Fatalf("%#x: %+v", rva, fr)
				}
			}
		}
	})
}

// FuzzNames: what decorates a name comes off, whatever the name is.
func FuzzNames(f *testing.F) {
	for _, s := range []string{"_NtClose@4", "@f@12", "__ZN2ns3BoxIiLi3EE3SumEv", "ns::Box<int, 3>::~Box", "a.b.c", "_ZZ8CxxStartE5place"} {
		f.Add(s)
	}
	file := synthetic(nil)
	file.im.Machine = machineX86
	f.Fuzz(func(t *testing.T, s string) {
		plain := file.plain(s)
		if len(plain) > len(s) || s != "" && plain == "" {
			t.Errorf("%q: %q", s, plain)
		}
		display(plain)
		component(s)
		file.stackArgs(s)
		file.spelled(s, plain)
	})
}
