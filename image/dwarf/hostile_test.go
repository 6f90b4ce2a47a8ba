package dwarf

import (
	"bytes"
	std "debug/dwarf"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"openkd/image/pe"
	"openkd/image/sym"
)

// asm writes DWARF.
type asm struct{ bytes.Buffer }

func (a *asm) u8(v ...uint8) *asm {
	a.Write(v)
	return a
}

func (a *asm) u16(v uint16) *asm {
	a.Write(binary.LittleEndian.AppendUint16(nil, v))
	return a
}

func (a *asm) u32(v uint32) *asm {
	a.Write(binary.LittleEndian.AppendUint32(nil, v))
	return a
}

func (a *asm) u64(v uint64) *asm {
	a.Write(binary.LittleEndian.AppendUint64(nil, v))
	return a
}

func (a *asm) uleb(v uint64) *asm {
	for v >= 0x80 {
		a.WriteByte(uint8(v) | 0x80)
		v >>= 7
	}
	a.WriteByte(uint8(v))
	return a
}

func (a *asm) str(s string) *asm {
	a.WriteString(s)
	a.WriteByte(0)
	return a
}

// abbrev writes an abbreviation; attrs are attribute and form by turns.
func (a *asm) abbrev(code uint64, tag std.Tag, children uint8, attrs ...uint64) *asm {
	a.uleb(code).uleb(uint64(tag)).u8(children)
	for _, v := range attrs {
		a.uleb(v)
	}
	a.u8(0, 0)
	return a
}

// unit puts the header of a unit of DWARF 5 before entries. Entries begin at 12.
func (a *asm) unit(abbrevs uint32, entries []byte) *asm {
	a.u32(uint32(8+len(entries))).u16(5).u8(unitCompile, 8).u32(abbrevs)
	a.Write(entries)
	return a
}

const testBase = 0x400000

// synthetic is an image with these sections and nothing else.
func synthetic(sections map[string][]byte) *File {
	var all []byte
	f := &File{
		im: &pe.Image{
			Machine: machineX64, PE32Plus: true, ImageBase: testBase, SizeOfImage: 0x100000,
			Sections: []pe.Section{{Name: ".text", VirtualAddress: 0x1000, VirtualSize: 0x80000, Characteristics: pe.SectionExecute}},
		},
		units: newCache[uint32, *unit](keepUnits),
		lines: newCache[uint32, *lineTable](keepLines),
	}
	f.name()
	for _, s := range f.sections() {
		b := sections[s.name]
		s.off, s.size = int64(len(all)), uint32(len(b))
		all = append(all, b...)
	}
	f.r = newBlocks(bytes.NewReader(all), int64(len(all)))
	f.name()
	f.join()
	return f
}

const (
	attrName    = uint64(std.AttrName)
	attrType    = uint64(std.AttrType)
	attrOrigin  = uint64(std.AttrAbstractOrigin)
	attrSibling = uint64(std.AttrSibling)
)

func u(a std.Attr) uint64 { return uint64(a) }

// TestHostile asks images that lie for everything. Each must end, and most must
// say what is wrong.
func TestHostile(t *testing.T) {
	structs := func(fill func(a *asm)) map[string][]byte {
		abbrevs := new(asm).
			abbrev(1, std.TagCompileUnit, 1).
			abbrev(2, std.TagTypedef, 0, attrName, formString, attrType, formRef4).
			abbrev(3, std.TagStructType, 1, attrName, formString).
			abbrev(4, std.TagMember, 0, attrType, formRef4).
			abbrev(5, std.TagConstType, 0, attrType, formRef4).
			abbrev(6, std.TagArrayType, 1, attrType, formRef4).
			abbrev(7, std.TagSubrangeType, 0, u(std.AttrCount), formData8).
			abbrev(8, std.TagSubprogram, 0, attrOrigin, formRef4, u(std.AttrLowpc), formAddr, u(std.AttrHighpc), formData4).
			abbrev(9, std.TagPointerType, 0, attrType, formRef4).
			abbrev(10, std.TagNamespace, 1).
			abbrev(11, std.TagMember, 0, attrName, formString, attrType, formRef4, u(std.AttrBitSize), formUdata, u(std.AttrDataBitOffset), formUdata).
			u8(0)
		var e asm
		e.u8(1)
		fill(&e)
		e.u8(0)
		return map[string][]byte{".debug_info": new(asm).unit(0, e.Bytes()).Bytes(), ".debug_abbrev": abbrevs.Bytes()}
	}
	at := func(e *asm) uint32 { return uint32(12 + e.Len()) } // offset of the next entry in the unit
	for _, tt := range []struct {
		name     string
		sections map[string][]byte
		wrong    string // what the errors say, "" if nothing is wrong
	}{
		{"length of 4 GB", map[string][]byte{".debug_info": new(asm).u32(0xFFFFFFF0).u16(5).u64(0).Bytes()}, "has 0xfffffff0 bytes"},
		{"length of 2^63", map[string][]byte{".debug_info": new(asm).u32(0xFFFFFFFF).u64(1 << 63).u64(0).Bytes()}, "has 0x8000000000000000 bytes"},
		{"version 9", map[string][]byte{".debug_info": new(asm).u32(20).u16(9).u64(0).u64(0).u16(0).Bytes()}, "version 9"},
		{"no abbreviations", map[string][]byte{".debug_info": new(asm).unit(0, []byte{1}).Bytes()}, "no end"},
		{"unknown form", map[string][]byte{".debug_info": new(asm).unit(0, []byte{1, 1}).Bytes(),
			".debug_abbrev": new(asm).abbrev(1, std.TagCompileUnit, 0, attrName, 0x7F).u8(0).Bytes()}, "unknown form"},
		{"endless indirection", map[string][]byte{".debug_info": new(asm).unit(0, []byte{1, 0x16, 0x16, 0x16, 0x16}).Bytes(),
			".debug_abbrev": new(asm).abbrev(1, std.TagCompileUnit, 0, attrName, formIndirect).u8(0).Bytes()}, "unknown form"},
		{"attributes without end", map[string][]byte{".debug_info": new(asm).unit(0, []byte{1}).Bytes(),
			".debug_abbrev": append([]byte{1, 0x11, 0}, bytes.Repeat([]byte{1, formFlagPresent}, 100000)...)}, "more than 256 attributes"},
		{"block of 4 GB", map[string][]byte{".debug_info": new(asm).unit(0, []byte{1, 0xFF, 0xFF, 0xFF, 0xFF}).Bytes(),
			".debug_abbrev": new(asm).abbrev(1, std.TagCompileUnit, 0, attrName, formBlock4).u8(0).Bytes()}, "longer than its unit"},
		{"a typedef of itself", structs(func(e *asm) { e.u8(2).str("T").u32(13) }), "made of itself"},
		{"const const const", structs(func(e *asm) {
			e.u8(2).str("T").u32(20)
			e.u8(5).u32(20)
		}), "made of itself"},
		{"an array of itself", structs(func(e *asm) {
			e.u8(2).str("T").u32(20)
			e.u8(6).u32(20).u8(7).u64(9).u8(0)
		}), "made of itself"},
		{"an array of 2^62 arrays", structs(func(e *asm) {
			e.u8(2).str("T").u32(20)
			e.u8(6).u32(27).u8(7).u64(1 << 40).u8(0)
			n := at(e)
			e.u8(6).u32(n + 15).u8(7).u64(1 << 40).u8(0)
			e.u8(9).u32(0)
		}), "there is no entry"},
		{"a structure in itself", structs(func(e *asm) { e.u8(3).str("S").u8(4).u32(13).u8(0) }), "within itself"},
		{"structures in structures", structs(func(e *asm) {
			for i := range 5 { // each has the next a hundred times
				next := at(e) + 5 + 5*100 + 1
				e.u8(3).str(fmt.Sprintf("S%02d", i))
				for range 100 {
					e.u8(4).u32(next)
				}
				e.u8(0)
			}
			e.u8(3).str("S05").u8(0)
		}), "steps"},
		{"an origin of itself", structs(func(e *asm) { e.u8(8).u32(13).u64(testBase + 0x1000).u32(0x10) }), "origins have no end"},
		{"a reference into the middle", structs(func(e *asm) { e.u8(2).str("T").u32(15) }), "no entry at"},
		{"a reference behind the unit", structs(func(e *asm) { e.u8(2).str("T").u32(1 << 30) }), "reference to"},
		{"a pointer to itself", structs(func(e *asm) {
			e.u8(2).str("T").u32(20)
			e.u8(9).u32(20)
		}), ""},
		{"nested without end", structs(func(e *asm) { e.Write(bytes.Repeat([]byte{10}, 3000)) }), "nested deeper"},
		{"a bit field of 200 bits", structs(func(e *asm) { e.u8(3).str("S").u8(11).str("b").u32(13).uleb(200).uleb(3).u8(0) }), "bit field of 200 bits"},
		{"units of no length", map[string][]byte{".debug_info": make([]byte, 1<<20)}, ""},
		{"a unit behind zeros", map[string][]byte{".debug_info": append(make([]byte, 1<<20), new(asm).u32(20).u16(9).u64(0).u64(0).u16(0).Bytes()...)}, "version 9"},
		{"types of 4 GB", map[string][]byte{".debug_types": new(asm).u32(0xFFFFFFF0).u16(4).u64(0).Bytes()}, "has 0xfffffff0 bytes"},
		{"a string behind the end", map[string][]byte{".debug_info": new(asm).unit(0, new(asm).u8(1).u32(0xFFFFFF00).Bytes()).Bytes(), ".debug_str": {0},
			".debug_abbrev": new(asm).abbrev(1, std.TagCompileUnit, 0, attrName, formStrp).u8(0).Bytes()}, "string at 0xffffff00"},
		{"a string of offset 2^60", map[string][]byte{".debug_info": new(asm).unit(0, new(asm).u8(1).uleb(1<<60).Bytes()).Bytes(), ".debug_str_offsets": make([]byte, 64),
			".debug_abbrev": new(asm).abbrev(1, std.TagCompileUnit, 0, attrName, formStrx).u8(0).Bytes()}, "entry 1152921504606846976"},
		{"a string without end", map[string][]byte{".debug_info": new(asm).unit(0, new(asm).u8(1).u32(0).Bytes()).Bytes(), ".debug_str": bytes.Repeat([]byte{'x'}, 1<<20),
			".debug_abbrev": new(asm).abbrev(1, std.TagCompileUnit, 0, attrName, formStrp).u8(0).Bytes()}, "longer than 4096"},
		{"ranges without end", map[string][]byte{".debug_info": new(asm).unit(0, new(asm).u8(1).u32(0).Bytes()).Bytes(), ".debug_rnglists": bytes.Repeat([]byte{rleStartLength, 0, 16, 64, 0, 0, 0, 0, 0, 1}, 1000),
			".debug_abbrev": new(asm).abbrev(1, std.TagCompileUnit, 0, u(std.AttrRanges), formSecOffset).u8(0).Bytes()}, "no end"},
		{"in another file", map[string][]byte{".debug_info": new(asm).unit(0, new(asm).u8(1).str("x.c").str("x.dwo").Bytes()).Bytes(),
			".debug_abbrev": new(asm).abbrev(1, std.TagCompileUnit, 0, attrName, formString, u(std.AttrDwoName), formString).u8(0).Bytes()}, "x.dwo"},
		{"siblings backwards", map[string][]byte{
			".debug_abbrev": new(asm).abbrev(1, std.TagCompileUnit, 1).abbrev(2, std.TagEnumerationType, 1, attrSibling, formRef4).u8(0).Bytes(),
			".debug_info":   new(asm).unit(0, new(asm).u8(1, 2).u32(12).u8(0, 2).u32(18).u8(0, 0).Bytes()).Bytes(),
		}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if testing.Short() && tt.name == "structures in structures" {
				t.Skip("it goes on until the work is too much, on one goroutine")
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			f := synthetic(tt.sections)
			err := errorsOf(f)
			runtime.ReadMemStats(&after)
			if n := after.TotalAlloc - before.TotalAlloc; n > 4<<20 {
				t.Errorf("%d KB", n>>10)
			}
			if tt.wrong == "" && err != nil || tt.wrong != "" && (!errors.Is(err, ErrMalformed) && !errors.Is(err, ErrSplit) || !strings.Contains(err.Error(), tt.wrong)) {
				t.Errorf("%v, want %q", err, tt.wrong)
			}
		})
	}
}

// TestSignedTypes reads a type of DWARF 4 that has a unit of its own in
// .debug_types, behind the zeros that GNU ld puts there.
func TestSignedTypes(t *testing.T) {
	abbrevs := new(asm).abbrev(1, std.TagCompileUnit, 1).abbrev(2, std.TagTypedef, 0, attrName, formString, attrType, formRef4).
		abbrev(3, std.TagStructType, 0, u(std.AttrSignature), formRefSig8).
		abbrev(4, std.TagTypeUnit, 1).
		abbrev(5, std.TagStructType, 0, attrName, formString, u(std.AttrByteSize), formData1).u8(0)
	unit := func(entries *asm) *asm { // of DWARF 4; entries begin at 11
		a := new(asm).u32(uint32(7 + entries.Len())).u16(4).u32(0).u8(8)
		a.Write(entries.Bytes())
		return a
	}
	info := unit(new(asm).u8(1, 2).str("T").u32(11 + 1 + 1 + 2 + 4).u8(3).u64(0x1234).u8(0))
	types := new(asm)
	for i, name := range []string{"other", "S"} {
		entries := new(asm).u8(4, 5).str(name).u8(uint8(40 + i)).u8(0)
		types.u32(uint32(19 + entries.Len())).u16(4).u32(0).u8(8).u64(uint64(0x1233 + i)).u32(24)
		types.Write(entries.Bytes())
		for types.Len()%4 != 0 {
			types.u8(0)
		}
	}
	f := synthetic(map[string][]byte{".debug_info": info.Bytes(), ".debug_types": types.Bytes(), ".debug_abbrev": abbrevs.Bytes()})
	if err := errorsOf(f); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"T", "S"} {
		id, err := f.TypeByName(name)
		if err != nil {
			t.Fatal(err)
		}
		typ, err := f.Type(id)
		if err == nil && name == "T" {
			typ, err = f.Type(typ.Elem)
		}
		if err != nil || typ.Name != "S" || typ.Size != 41 || typ.Kind != sym.Struct {
			t.Errorf("%s: %+v, %v", name, typ, err)
		}
	}
}

// errorsOf is everything that is found wrong.
func errorsOf(f *File) error {
	var all []error
	note := func(err error) {
		if err != nil {
			all = append(all, err)
		}
	}
	for n, err := range f.TypeNames(func(string) bool { return true }) {
		note(err)
		typ, err := f.Type(n.ID)
		note(err)
		if err == nil {
			_, err = f.Type(typ.Elem)
			if typ.Elem != 0 {
				note(err)
			}
		}
		if n.ID != 0 {
			_, err = f.Members(n.ID)
			note(err)
		}
	}
	for _, err := range f.Symbols(func(string) bool { return true }) {
		note(err)
	}
	for _, rva := range []uint32{0x1000, 0x1008, 0x2000} {
		_, _, err := f.ByRVA(rva)
		note(err)
		_, _, err = f.Line(rva)
		note(err)
		_, err = f.Scopes(rva)
		note(err)
		_, _, err = f.CFI(rva)
		note(err)
	}
	_, err := f.Addresses("x.c", 1)
	note(err)
	return errors.Join(all...)
}

// TestSharedAbbreviations: a hundred thousand units of a few bytes that refer
// by turns to tables that take long to read.
func TestSharedAbbreviations(t *testing.T) {
	if testing.Short() {
		t.Skip("it goes on until the work is too much, on one goroutine")
	}
	var tables [2]asm
	for i := range tables {
		for code := range 20000 {
			tables[i].abbrev(uint64(code+2), std.TagBaseType, 0)
		}
		tables[i].abbrev(1, std.TagCompileUnit, 0).u8(0)
	}
	var info asm
	for i := range 100000 {
		info.unit(uint32(i%2*tables[0].Len()), []byte{1})
	}
	f := synthetic(map[string][]byte{
		".debug_info": info.Bytes(), ".debug_abbrev": append(tables[0].Bytes(), tables[1].Bytes()...),
	})
	if ix := f.names(); ix.err == nil || !strings.Contains(ix.err.Error(), "take too long") {
		t.Error(ix.err)
	}
	if _, err := f.extents(); err == nil || !strings.Contains(err.Error(), "steps") {
		t.Error(err)
	}
}

// TestManyLines: a program of special operations makes a row from each byte.
func TestManyLines(t *testing.T) {
	if testing.Short() {
		t.Skip("it makes more rows than are allowed, on one goroutine")
	}
	head := new(asm).u8(1, 1, 1).u8(0xFB, 14, 13).u8(0, 1, 1, 1, 1, 0, 0, 0, 1, 0, 0, 1)
	head.u8(1, lnctPath, formString).u8(1).str("/").u8(2, lnctPath, formString, lnctDirectory, formData1).u8(1).str("x.c").u8(0)
	program := new(asm).u8(0, 9, lneSetAddress).u64(testBase + 0x1000)
	program.Write(bytes.Repeat([]byte{13 + 5 + 1 + 0}, maxRows+10)) // the next line, the same address
	program.u8(lnsAdvancePC, 4, 0, 1, lneEndSequence)
	line := new(asm).u32(uint32(8+head.Len()+program.Len())).u16(5).u8(8, 0).u32(uint32(head.Len()))
	line.Write(head.Bytes())
	line.Write(program.Bytes())
	f := synthetic(map[string][]byte{
		".debug_abbrev": new(asm).abbrev(1, std.TagCompileUnit, 0, u(std.AttrStmtList), formSecOffset,
			u(std.AttrLowpc), formAddr, u(std.AttrHighpc), formData4).u8(0).Bytes(),
		".debug_info": new(asm).unit(0, new(asm).u8(1).u32(0).u64(testBase+0x1000).u32(0x100).Bytes()).Bytes(),
		".debug_line": line.Bytes(),
	})
	if _, _, err := f.Line(0x1000); err == nil || !strings.Contains(err.Error(), "rows") {
		t.Error(err)
	}
	if _, err := f.Addresses("x.c", 1); err == nil || !strings.Contains(err.Error(), "rows") {
		t.Error(err)
	}
}

// TestNothingForNothing: what a file claims costs no memory, only what it has.
func TestNothingForNothing(t *testing.T) {
	b, err := os.ReadFile("testdata/x64.exe")
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	var before, after runtime.MemStats
	rounds := 150
	if testing.Short() {
		rounds = 15
	}
	for range rounds {
		bad := bytes.Clone(b)
		for range 1 + r.IntN(40) {
			// Large numbers, where lengths and offsets are.
			at := r.IntN(len(bad) - 8)
			if r.IntN(4) == 0 {
				at = r.IntN(1024)
			}
			copy(bad[at:], [][]byte{{0xFF, 0xFF, 0xFF, 0xFF}, {0xFF, 0xFF, 0xFF, 0x7F}, {0, 0, 0, 0x80}, {0xFF}, {0}}[r.IntN(5)])
		}
		runtime.ReadMemStats(&before)
		if f, err := New(bytes.NewReader(bad), int64(len(bad))); err == nil {
			exercise(f)
		}
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 256<<20 {
			t.Errorf("%d MB for an image of %d KB", n>>20, len(b)>>10)
		}
	}
}

// runProgram runs a frame program as package sym describes it.
func runProgram(t *testing.T, program string, regs map[string]uint32, read func(uint32) uint32) map[string]uint32 {
	t.Helper()
	vars := map[string]uint32{}
	for name, v := range regs {
		vars["$"+name] = v
	}
	type value struct {
		name string
		v    uint32
	}
	var stack []value
	for _, w := range strings.Fields(program) {
		pop := func() value {
			if len(stack) == 0 {
				t.Fatalf("%q: nothing for %s", program, w)
			}
			v := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			return v
		}
		switch w {
		case "+":
			b, a := pop(), pop()
			stack = append(stack, value{v: a.v + b.v})
		case "-":
			b, a := pop(), pop()
			stack = append(stack, value{v: a.v - b.v})
		case "^":
			stack = append(stack, value{v: read(pop().v)})
		case "=":
			v, to := pop(), pop()
			vars[to.name] = v.v
		default:
			if w[0] == '$' {
				stack = append(stack, value{w, vars[w]})
				break
			}
			n, err := strconv.ParseUint(w, 10, 32)
			if err != nil {
				t.Fatalf("%q: %v", program, err)
			}
			stack = append(stack, value{v: uint32(n)})
		}
	}
	if len(stack) != 0 {
		t.Errorf("%q leaves %v", program, stack)
	}
	return vars
}

// TestX86FrameIsCFI runs the frame programs at each byte of code and compares
// with the rules they were made of, on registers and memory made of noise.
func TestX86FrameIsCFI(t *testing.T) {
	for _, image := range []string{"x86", "x86-dwarf2"} {
		f := open(t, image)
		regs := map[string]uint32{}
		for i, name := range regsX86[:9] {
			regs[name] = 0x01020300 + uint32(i)*0x1000
		}
		read := func(at uint32) uint32 { return at*2654435761 + 1 }
		list, err := f.frames()
		if err != nil || len(list) == 0 {
			t.Fatal(len(list), err)
		}
		n, expressions := 0, 0
		for _, x := range list {
			for rva := x.lo; rva < x.hi; rva++ {
				row, ok, err := f.CFI(rva)
				if !ok || err != nil || rva < row.RVA || rva >= row.RVA+row.Size {
					t.Fatalf("%#x: %+v, %v, %v", rva, row, ok, err)
				}
				want, err := row.Caller(func(name string) (uint64, bool) { v, ok := regs[name]; return uint64(v), ok },
					func(addr uint64, size int) (uint64, error) { return uint64(read(uint32(addr))), nil })
				if err != nil {
					t.Fatalf("%#x: %v", rva, err)
				}
				fr, ok, err := f.X86Frame(rva)
				if !ok || err != nil || !fr.HasProgram || fr.RVA != row.RVA || fr.Size != row.Size {
					t.Fatalf("%#x: %+v, %v, %v", rva, fr, ok, err)
				}
				got := runProgram(t, fr.Program, regs, read)
				for name := range regs {
					w, changed := want[name]
					if !changed {
						w = uint64(regs[name])
					}
					if got["$"+name] != uint32(w) {
						t.Errorf("%#x: %s is %#x, want %#x: %s", rva, name, got["$"+name], w, fr.Program)
					}
				}
				if _, ok := want["eip"]; !ok {
					t.Errorf("%#x: no return address", rva)
				}
				n++
				if row.CFA.Kind == ValueExpression {
					expressions++
				}
			}
		}
		if n < 500 || expressions == 0 {
			t.Errorf("%s: %d bytes of code, %d with expressions", image, n, expressions)
		}
		fr, ok, err := f.X86Frame(one(t, f, "Standard").RVA)
		if want := "$T0 $esp 4 + = $eip $T0 4 - ^ = $esp $T0 ="; !ok || err != nil || fr.Program != want || fr.Params != 8 {
			t.Errorf("%+v, %v, %v", fr, ok, err)
		}
		if fr, _, _ = f.X86Frame(one(t, f, "Fast").RVA); fr.Params != 4 {
			t.Errorf("%+v", fr)
		}
	}
	if _, ok, err := open(t, "x64").X86Frame(0x1000); ok || err != nil {
		t.Error("x64: ", ok, err)
	}
	if _, ok, err := open(t, "x86").X86Frame(0x2000); ok || err != nil {
		t.Error("data: ", ok, err)
	}
}

func TestCallerSaysWhatItLacks(t *testing.T) {
	row, ok, err := open(t, "x86").CFI(one(t, open(t, "x86"), "Standard").RVA)
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	none := func(string) (uint64, bool) { return 0, false }
	some := func(string) (uint64, bool) { return 0x1000, true }
	gone := errors.New("memory is not there")
	if _, err := row.Caller(none, nil); err == nil || !strings.Contains(err.Error(), "esp is not known") {
		t.Error(err)
	}
	if _, err := row.Caller(some, func(uint64, int) (uint64, error) { return 0, gone }); !errors.Is(err, gone) {
		t.Error(err)
	}
}

// TestExpressions evaluates what compilers write and what they do not.
func TestExpressions(t *testing.T) {
	u := &unit{f: synthetic(nil), header: header{shape: shape{addr: 8, off: 4, version: 5}}}
	fr := &frame{u: u, base: &term{base: baseCFA, n: 16}}
	addr := func(v uint64) []byte { return append([]byte{opAddr}, binary.LittleEndian.AppendUint64(nil, v)...) }
	for _, tt := range []struct {
		expr []byte
		want []sym.Location
	}{
		{nil, nil},
		{[]byte{opReg0 + 3}, []sym.Location{{Kind: sym.InRegister, Reg: "rbx"}}},
		{[]byte{opRegx, 17}, []sym.Location{{Kind: sym.InRegister, Reg: "xmm0"}}},
		{[]byte{opRegx, 0x80, 0x7F}, nil},
		{[]byte{opBreg0 + 7, 0x70}, []sym.Location{{Kind: sym.RegRelative, Reg: "rsp", Offset: -16}}},
		{[]byte{opBregx, 6, 8}, []sym.Location{{Kind: sym.RegRelative, Reg: "rbp", Offset: 8}}},
		{[]byte{opFbreg, 0x78}, []sym.Location{{Kind: sym.CFARelative, Offset: 8}}},
		{[]byte{opCallFrameCFA, opPlusUconst, 4}, []sym.Location{{Kind: sym.CFARelative, Offset: 4}}},
		{addr(testBase + 0x20), []sym.Location{{Kind: sym.AtRVA, RVA: 0x20}}},
		{append(addr(testBase), opConst1s, 0x10, opPlus), []sym.Location{{Kind: sym.AtRVA, RVA: 0x10}}},
		{addr(0), nil},
		{[]byte{opLit0 + 5, opLit0 + 3, opMinus, opStackValue}, []sym.Location{{Kind: sym.IsConstant, Value: []byte{2, 0, 0, 0, 0, 0, 0, 0}}}},
		{[]byte{opConsts, 0x7F, opStackValue}, []sym.Location{{Kind: sym.IsConstant, Value: bytes.Repeat([]byte{0xFF}, 8)}}},
		{[]byte{opImplicitValue, 2, 7, 8}, []sym.Location{{Kind: sym.IsConstant, Value: []byte{7, 8}}}},
		{[]byte{opImplicitValue, 9, 7, 8}, nil},
		{[]byte{opBreg0, 0, opStackValue}, []sym.Location{{Kind: sym.InRegister, Reg: "rax"}}},
		{[]byte{opBreg0, 1, opStackValue}, nil}, // to be calculated
		{[]byte{opBreg0, 0, opDeref}, nil},
		{[]byte{opReg0, opPiece, 4, opPiece, 4, opFbreg, 0, opPiece, 8}, []sym.Location{
			{Kind: sym.InRegister, Reg: "rax", PieceSize: 4}, {Kind: sym.CFARelative, Offset: 16, PieceOffset: 8, PieceSize: 8}}},
		{[]byte{opLit0, opStackValue, opPiece, 4, opBreg0, 1, opStackValue, opPiece, 4}, []sym.Location{
			{Kind: sym.IsConstant, Value: []byte{0, 0, 0, 0}, PieceSize: 4}}},
		{[]byte{opReg0, opPiece, 4, opBreg0, 0, opConst1u, 255, opAnd, opStackValue, opPiece, 8, opLit0, opStackValue, opPiece, 1}, []sym.Location{
			{Kind: sym.InRegister, Reg: "rax", PieceSize: 4}, {Kind: sym.IsConstant, Value: []byte{0}, PieceOffset: 12, PieceSize: 1}}},
		{[]byte{opEntryValue, 1, opReg0, opStackValue, opPiece, 8, opBreg0, 8, opDeref, opNeg, opPiece, 4, opReg0, opPiece, 4}, []sym.Location{
			{Kind: sym.InRegister, Reg: "rax", PieceOffset: 12, PieceSize: 4}}},
		{[]byte{opEntryValue, 1, opReg0, opStackValue}, nil},
		{[]byte{opEntryValue, 9, opReg0, opStackValue}, nil},
		{[]byte{opReg0, opPiece, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F}, nil},
		{[]byte{opLit0, opLit0, opDiv}, nil},
		{[]byte{opLit0 + 1, opLit0, opMod}, nil},
		{[]byte{opPlus}, nil}, {[]byte{opDup}, nil}, {[]byte{opSwap}, nil}, {[]byte{opStackValue}, nil}, {[]byte{0x02}, nil}, {[]byte{opAddr, 1}, nil},
		{append([]byte{opLit0}, bytes.Repeat([]byte{opDup}, 100000)...), nil},
	} {
		if got := fr.locate(tt.expr); fmt.Sprint(got) != fmt.Sprint(tt.want) {
			t.Errorf("% x: %+v, want %+v", tt.expr[:min(len(tt.expr), 16)], got, tt.want)
		}
	}
}

func TestUndecorated(t *testing.T) {
	x86, x64 := synthetic(nil), synthetic(nil)
	x86.im.Machine = machineX86
	for _, tt := range []struct {
		linkage, plain string
		args           uint32
	}{
		{"_NtClose@4", "NtClose", 4}, {"@KeUpdateSystemTime@12", "KeUpdateSystemTime", 4}, {"@f@4", "f", 0}, {"f@@32", "f", 32},
		{"_main", "main", 0}, {"__imp__NtClose@4", "_imp__NtClose", 4}, {"__ZN2ns1fEv", "_ZN2ns1fEv", 0}, {"_", "_", 0}, {"@", "@", 0}, {"", "", 0},
		{"_a@b", "a@b", 0}, {"@Fast@12.constprop.0", "Fast.constprop.0", 4}, {"_f@8.cold", "f.cold", 8}, {"_.f@8", ".f", 8}, {"_f@99999999999", "f", 0},
	} {
		if got := x86.plain(tt.linkage); got != tt.plain {
			t.Errorf("%s: %s, want %s", tt.linkage, got, tt.plain)
		}
		if got := x86.stackArgs(tt.linkage); got != tt.args {
			t.Errorf("%s: %d bytes, want %d", tt.linkage, got, tt.args)
		}
		if got := x64.plain(tt.linkage); got != tt.linkage {
			t.Errorf("%s on x64: %s", tt.linkage, got)
		}
	}
	for mangled, want := range map[string]string{
		"_ZN2ns3fooEi": "ns::foo", "_Z1fIiET_S0_": "f<int>", "_ZN3FooC2ERKS_.cold": "Foo::Foo.cold", "plain": "plain", "_Zwhat": "_Zwhat",
	} {
		if got := display(mangled); got != want {
			t.Errorf("%s: %s, want %s", mangled, got, want)
		}
	}
	for name, want := range map[string]string{
		"f": "f", "ns::f": "f", "ns::Box<a::b, 3>::Sum": "", "ns::Box<int>": "Box", "ns::Foo::~Foo": "Foo", "operator new": "", "std::string": "",
	} {
		if got := component(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
