package pdb

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"openkd/image/sym"
)

// counted is a file that counts what is read of it.
type counted struct {
	r     io.ReaderAt
	reads atomic.Int64
	bytes atomic.Int64
}

func (c *counted) ReadAt(p []byte, off int64) (int, error) {
	c.reads.Add(1)
	c.bytes.Add(int64(len(p)))
	return c.r.ReadAt(p, off)
}

func openBytes(t testing.TB, raw []byte) *File {
	t.Helper()
	f, err := New(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestBuilt: what the tests build is what LLVM takes for a PDB.
func TestBuilt(t *testing.T) {
	b := newBuilder(machineX64)
	m := b.module("one.obj", 0, 0x100)
	p := m.proc(sGProc32, "first", 0x74, 0x10, 0x20)
	m.end(p, sEnd)
	b.pub("first", 1, 0x10, pubFunction)
	b.global(sProcRef, uint32(0), p, uint16(1), "first")
	b.global(sGData32, uint32(0x74), uint32(8), uint16(2), "datum")
	b.pub("datum", 2, 8, 0)
	fields := b.typ(lfFieldList, uint16(lfMember), uint16(3), uint32(0x74), uint16(4), "x")
	b.typ(lfStructure, uint16(1), uint16(0), fields, uint32(0), uint32(0), uint16(8), "S")
	raw := b.bytes(t)
	path := filepath.Join(t.TempDir(), "built.pdb")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(dump(t, path, "-summary", "-symbols", "-globals", "-publics", "-types", "-section-headers", "-section-contribs", "-modules", "-files"), "\n")
	for _, want := range []string{"S_GPROC32 [size = 48] `first`", "S_PROCREF", "S_GDATA32", "addr = 0001:0016", "LF_STRUCTURE", "sizeof 8", "one.obj", "Is stripped: false"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
}

// TestLayouts: blocks of every size, in any order, both kinds of block map.
func TestLayouts(t *testing.T) {
	kernel, err := os.ReadFile("testdata/x64.pdb")
	if err != nil {
		t.Fatal(err)
	}
	ref := openBytes(t, kernel)
	var streams [][]byte
	list, err := ref.msf.extents()
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range list {
		s, err := ref.msf.open(uint16(i), "any")
		if err != nil {
			t.Fatal(err)
		}
		raw, err := s.bytes(0, int64(e.size))
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, raw)
	}
	want := describe(t, ref)
	for block := minBlock; block <= maxBlock; block *= 2 {
		for seed := range 3 {
			o := msfOptions{block: block, mapArray: seed == 1}
			if seed > 0 {
				o.shuffle = rand.New(rand.NewPCG(uint64(seed), uint64(block)))
			}
			raw := msfBytes(t, streams, o)
			f := openBytes(t, raw)
			if got := describe(t, f); got != want {
				t.Errorf("blocks of %d, seed %d: another file", block, seed)
			}
		}
	}
	// A directory so long that its map has several blocks.
	for len(streams) < 9000 {
		streams = append(streams, make([]byte, 700))
	}
	for _, array := range []bool{false, true} {
		raw := msfBytes(t, streams, msfOptions{block: minBlock, mapArray: array, deleted: []int{len(streams) - 1}})
		if got := describe(t, openBytes(t, raw)); got != want {
			t.Errorf("long directory, array %v: another file", array)
		}
	}
}

// describe makes a text of names and types, to compare files.
func describe(t testing.TB, f *File) string {
	t.Helper()
	var lines []string
	for s, err := range f.Symbols(func(string) bool { return true }) {
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%+v", s))
	}
	for n, err := range f.TypeNames(func(string) bool { return true }) {
		if err != nil {
			t.Fatal(err)
		}
		typ, err := f.Type(n.ID)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, fmt.Sprintf("%+v %+v", n, typ))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestRefused: what is no PDB of the kind that is read says why.
func TestRefused(t *testing.T) {
	plain := newBuilder(machineX64).bytes(t)
	with := func(off int, v uint32) []byte {
		raw := bytes.Clone(plain)
		le.PutUint32(raw[off:], v)
		return raw
	}
	old := newBuilder(machineX64)
	old.version = 19970604
	fast := newBuilder(machineX64)
	fast.features = []uint32{20140508, featureMinimal}
	server := newBuilder(machineX64).build()
	server[streamDBI] = nil
	ancient := newBuilder(machineX64).build()
	le.PutUint32(ancient[streamDBI], 0x12345)
	o := msfOptions{block: 4096}
	for name, c := range map[string]struct {
		raw  []byte
		err  error
		says string
	}{
		"empty":       {nil, ErrMalformed, "does not begin like a PDB"},
		"text":        {[]byte(strings.Repeat("<html>", 100)), ErrMalformed, "does not begin like a PDB"},
		"2.00":        {[]byte("Microsoft C/C++ program database 2.00\r\n\x1aJG\x00\x00" + strings.Repeat("\x00", 100)), ErrUnsupported, "format 2.00"},
		"portable":    {[]byte("BSJB\x01\x00\x01\x00" + strings.Repeat("\x00", 100)), ErrUnsupported, ".NET"},
		"compressed":  {[]byte("Microsoft MSFZ Container\r\n\x1aALD\x00" + strings.Repeat("\x00", 100)), ErrUnsupported, "compressed"},
		"image":       {[]byte("MZ" + strings.Repeat("\x00", 100)), ErrUnsupported, "an image"},
		"cabinet":     {[]byte("MSCF" + strings.Repeat("\x00", 100)), ErrUnsupported, "cabinet"},
		"short":       {plain[:50], ErrMalformed, "ends in it"},
		"truncated":   {plain[:len(plain)/2], ErrMalformed, "not copied completely"},
		"block size":  {with(32, 1000), ErrMalformed, "block size of 1000"},
		"blocks":      {with(40, 0xffffffff), ErrMalformed, "not copied completely"},
		"directory":   {with(44, 0xffffffff), ErrMalformed, "directory of 4294967295"},
		"map":         {with(52, 0xfffffff0), ErrMalformed, "block"},
		"no GUID":     {old.bytes(t), ErrUnsupported, "no GUID"},
		"fastlink":    {fast.bytes(t), ErrUnsupported, "/DEBUG:FULL"},
		"type server": {msfBytes(t, server, o), ErrUnsupported, "types only"},
		"old DBI":     {msfBytes(t, ancient, o), ErrUnsupported, "before 1997"},
		"two streams": {msfBytes(t, server[:2], o), ErrMalformed, "2 streams"},
	} {
		f, err := New(bytes.NewReader(c.raw), int64(len(c.raw)))
		if f != nil || !errors.Is(err, c.err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Open(filepath.Join(t.TempDir(), "none.pdb")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	bad := filepath.Join(t.TempDir(), "bad.pdb")
	if err := os.WriteFile(bad, []byte("BSJB"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(bad); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), bad) {
		t.Error(err)
	}
}

// TestOpenReadsLittle: opening a file reads some pages, and the first names a
// few more, however large the file is.
func TestOpenReadsLittle(t *testing.T) {
	b := newBuilder(machineX64)
	const procs = 200
	for i := range 300 {
		m := b.module(fmt.Sprintf("module%d.obj", i), uint32(i*procs), procs)
		for j := range procs {
			name := fmt.Sprintf("function_%d_%d", i, j)
			off := uint32(i*procs + j)
			p := m.proc(sGProc32, name, 0, off, 1)
			m.end(p, sEnd)
			b.pub(name, 1, off, pubFunction)
			b.global(sProcRef, uint32(0), p, uint16(i+1), name)
		}
	}
	raw := b.bytes(t)
	c := &counted{r: bytes.NewReader(raw)}
	f, err := New(c, int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	opened := c.reads.Load()
	// Super block, map, directory, info stream, DBI stream, each in one page.
	if opened > 8 || c.bytes.Load() > 8*4096 {
		t.Errorf("opening made %d reads of %d bytes", opened, c.bytes.Load())
	}
	s, err := f.ByName("function_123_45")
	if err != nil || len(s) != 1 || s[0].RVA != 0x1000+123*procs+45 {
		t.Fatalf("%+v, %v", s, err)
	}
	if n := c.reads.Load() - opened; n > 200 || c.bytes.Load() > int64(len(raw))/10 {
		t.Errorf("the first name made %d reads, %d bytes of %d", n, c.bytes.Load(), len(raw))
	}
	byName := c.reads.Load()
	if s, ok, err := f.ByRVA(0x1000 + 7*procs + 7); err != nil || !ok || s.Name != "function_7_7" {
		t.Errorf("%+v, %v, %v", s, ok, err)
	}
	if n := c.reads.Load() - byName; n > 100 {
		t.Errorf("the first address made %d reads", n)
	}
	if n := len(f.msf.slots); n > cacheBytes/4096 {
		t.Errorf("%d pages are kept", n)
	}
}

// TestOldRecords: records with lengths before names, and those that LLVM does
// not write.
func TestOldRecords(t *testing.T) {
	b := newBuilder(machineX86)
	m := b.module("old.obj", 0, 0x1000)
	p := m.proc(sGProc32ST, st("old"), 0x74, 0x10, 0x20)
	m.add(sRegRel32ST, int32(-8), uint32(0x74), uint16(22), st("local"))
	m.add(sBPRel32ST, int32(8), uint32(0x74), st("param"))
	m.add(sRegisterST, uint32(0x74), uint16(17), st("count"))
	m.end(p, sEnd)
	p2 := m.proc(sLProc32, "now", 0x74, 0x40, 0x20)
	m.add(sBPRel32, int32(8), uint32(0x74), "a")
	m.add(sBPRel32, int32(12), uint32(0x10), "b")
	m.add(sEndArg)
	m.add(sBPRel32, int32(-4), uint32(0x74), "c")
	m.add(sRegister, uint32(0x74), uint16(23), "d")
	m.add(sLData32, uint32(0x74), uint32(0x20), uint16(2), "inside")
	m.add(sConstant, uint32(0x74), uint16(leafChar), uint8(0xff), "minus")
	m.add(sLThread32, uint32(0x74), uint32(0x20), uint16(2), "thread")
	blk := m.add(sBlock32, p2, uint32(0), uint32(8), uint32(0x48), uint16(1), "")
	m.add(sBPRel32, int32(-12), uint32(0x74), "deep")
	m.end(blk, sEnd)
	m.end(p2, sEnd)
	m.add(sLabel32, uint32(0x80), uint16(1), uint8(0), "label")
	th := m.add(sThunk32, uint32(0), uint32(0), uint32(0), uint32(0x90), uint16(1), uint16(6), uint8(0), "thunk")
	m.end(th, sEnd)
	m.add(sTrampoline, uint16(0), uint16(5), uint32(0xa0), uint32(0x40), uint16(1), uint16(1))
	sep := m.add(sSepCode, p2, uint32(0), uint32(0x10), uint32(0), uint32(0xb0), uint32(0x40), uint16(1), uint16(1))
	m.end(sep, sEnd)
	b.global(sProcRefST, uint32(0), p, uint16(1), uint16(0), st("old"))
	b.global(sLProcRef, uint32(0), p2, uint16(1), "now")
	b.global(sGData32ST, uint32(0x74), uint32(0x30), uint16(2), st("datum"))
	b.global(sConstantST, uint32(0x74), uint16(7), st("seven"))
	b.global(sUDTST, uint32(0x75), st("DWORD"))
	b.publics = append(b.publics, record(sPub32ST, uint32(pubFunction), uint32(0x10), uint16(1), st("_old")))
	b.pub("_now@8", 1, 0x40, pubFunction)
	b.pub("@fast@4", 1, 0x200, pubFunction)
	b.pub("vector@@16", 1, 0x210, pubFunction)
	b.pub("_std@12", 1, 0x220, pubFunction)
	f := b.file(t)

	for _, c := range []struct {
		name string
		want sym.Symbol
	}{
		{"old", sym.Symbol{Name: "old", Linkage: "_old", Kind: sym.Function, RVA: 0x1010, Size: 0x20, Type: 0x74, Code: true}},
		{"_old", sym.Symbol{Name: "old", Linkage: "_old", Kind: sym.Function, RVA: 0x1010, Size: 0x20, Type: 0x74, Code: true}},
		{"now", sym.Symbol{Name: "now", Linkage: "_now@8", Kind: sym.Function, RVA: 0x1040, Size: 0x20, Type: 0x74, Code: true, Static: true}},
		{"_now@8", sym.Symbol{Name: "now", Linkage: "_now@8", Kind: sym.Function, RVA: 0x1040, Size: 0x20, Type: 0x74, Code: true, Static: true}},
		{"datum", sym.Symbol{Name: "datum", Kind: sym.Data, RVA: 0x20030, Size: 4, Type: 0x74}},
		{"seven", sym.Symbol{Name: "seven", Kind: sym.Constant, Type: 0x74, Value: 7}},
		{"DWORD", sym.Symbol{Name: "DWORD", Kind: sym.TypeDef, Type: 0x75}},
		{"fast", sym.Symbol{Name: "fast", Linkage: "@fast@4", Kind: sym.Public, RVA: 0x1200, Code: true}},
		{"vector", sym.Symbol{Name: "vector", Linkage: "vector@@16", Kind: sym.Public, RVA: 0x1210, Code: true}},
		{"std", sym.Symbol{Name: "std", Linkage: "_std@12", Kind: sym.Public, RVA: 0x1220, Code: true}},
		{"_std@12", sym.Symbol{Name: "std", Linkage: "_std@12", Kind: sym.Public, RVA: 0x1220, Code: true}},
	} {
		got, err := f.ByName(c.name)
		if err != nil || len(got) != 1 || got[0] != c.want {
			t.Errorf("ByName(%q) = %+v, %v; want %+v", c.name, got, err, c.want)
		}
	}
	for _, name := range []string{"", "nothing", "OLD", "label"} {
		if got, err := f.ByName(name); err != nil || len(got) != 0 {
			t.Errorf("ByName(%q) = %+v, %v", name, got, err)
		}
	}
	for _, c := range []struct {
		rva  uint32
		name string
		kind sym.Kind
		at   uint32
	}{
		{0x1010, "old", sym.Function, 0x1010}, {0x102f, "old", sym.Function, 0x1010},
		{0x1030, "old", sym.Function, 0x1010}, // behind it, nothing is nearer
		{0x1044, "now", sym.Function, 0x1040}, {0x1080, "label", sym.Label, 0x1080}, {0x108f, "label", sym.Label, 0x1080},
		{0x1092, "thunk", sym.Thunk, 0x1090}, {0x10a1, "ILT(_now@8)", sym.Thunk, 0x10a0}, {0x10b8, "now", sym.Function, 0x10b0},
		{0x1200, "fast", sym.Public, 0x1200}, {0x1fff, "std", sym.Public, 0x1220},
		{0x20020, "inside", sym.Data, 0x20020}, {0x20033, "datum", sym.Data, 0x20030}, {0x20040, "datum", sym.Data, 0x20030},
	} {
		s, ok, err := f.ByRVA(c.rva)
		if c.name == "inside" {
			// The contribution of the module is code only, so its data is not
			// looked for in it.
			if err != nil || ok {
				t.Errorf("ByRVA(%x) = %+v, %v, %v", c.rva, s, ok, err)
			}
			continue
		}
		if err != nil || !ok || s.Name != c.name || s.Kind != c.kind || s.RVA != c.at {
			t.Errorf("ByRVA(%x) = %+v, %v, %v; want %s", c.rva, s, ok, err, c.name)
		}
	}
	for _, rva := range []uint32{0, 0xfff, 0x1000, 0x12000, 0xffffffff} {
		if s, ok, err := f.ByRVA(rva); ok || err != nil {
			t.Errorf("ByRVA(%x) = %+v, %v", rva, s, err)
		}
	}
	got, err := f.Scopes(0x1048)
	if err != nil {
		t.Fatal(err)
	}
	at := func(reg string, off int64) []sym.Location {
		return []sym.Location{{Kind: sym.RegRelative, Reg: reg, Offset: off}}
	}
	want := []sym.Scope{
		{Name: "now", RVA: 0x1040, Size: 0x20, Type: 0x74, Vars: []sym.Var{
			{Name: "a", Type: 0x74, Param: true, Loc: at("ebp", 8)},
			{Name: "b", Type: 0x10, Param: true, Loc: at("ebp", 12)},
			{Name: "c", Type: 0x74, Loc: at("ebp", -4)},
			{Name: "d", Type: 0x74, Loc: []sym.Location{{Kind: sym.InRegister, Reg: "esi"}}},
			{Name: "inside", Type: 0x74, Loc: []sym.Location{{Kind: sym.AtRVA, RVA: 0x20020}}},
			{Name: "minus", Type: 0x74, Loc: []sym.Location{{Kind: sym.IsConstant, Value: []byte{255, 255, 255, 255, 255, 255, 255, 255}}}},
			{Name: "thread", Type: 0x74},
		}},
		{RVA: 0x1048, Size: 8, Vars: []sym.Var{{Name: "deep", Type: 0x74, Loc: at("ebp", -12)}}},
	}
	if fmt.Sprintf("%+v", got) != fmt.Sprintf("%+v", want) {
		t.Errorf("\n got %+v\nwant %+v", got, want)
	}
	if got, err := f.Scopes(0x1047); err != nil || len(got) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	// The part apart: what is of the function is known, not which block.
	if got, err := f.Scopes(0x10b8); err != nil || len(got) != 1 || got[0].Name != "now" {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := f.Scopes(0x1014); err != nil || len(got) != 1 || len(got[0].Vars) != 3 || got[0].Vars[0].Loc[0].Reg != "ebp" {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestParamsOfOldCode: Microsoft's compiler does not say which variables of
// unoptimised x64 code are parameters; their number is in the type.
func TestParamsOfOldCode(t *testing.T) {
	b := newBuilder(machineX64)
	args := b.typ(lfArgList, uint32(2), uint32(0x74), uint32(0x74))
	fn := b.typ(lfProcedure, uint32(0x74), uint8(0), uint8(0), uint16(2), args)
	method := b.typ(lfMFunction, uint32(0x74), uint32(0x3), uint32(0x603), uint8(0), uint8(0), uint16(1), args, uint32(0))
	m := b.module("a.obj", 0, 0x1000)
	for i, typ := range []uint32{fn, method} {
		p := m.proc(sGProc32, "f", typ, uint32(i*0x20), 0x20)
		m.add(sFrameProc, uint32(0), uint32(0), uint32(0), uint32(0), uint32(0), uint16(0), uint32(2<<frameLocalShift|1<<frameParamShift))
		for k := range 3 {
			m.add(sRegRel32, int32(32+8*k), uint32(0x74), uint16(335), string(rune('a'+k)))
		}
		m.end(p, sEnd)
	}
	f := b.file(t)
	for _, rva := range []uint32{0x1000, 0x1020} {
		got, err := f.Scopes(rva)
		if err != nil || len(got) != 1 {
			t.Fatalf("%+v, %v", got, err)
		}
		for i, v := range got[0].Vars {
			if v.Param != (i < 2) || v.Loc[0].Reg != "rsp" || v.Loc[0].Offset != int64(32+8*i) {
				t.Errorf("%x: %+v", rva, v)
			}
		}
	}
}

// TestPieces: a variable in pieces, in memory and in registers.
func TestPieces(t *testing.T) {
	b := newBuilder(machineX64)
	fields := b.typ(lfFieldList, uint16(lfMember), uint16(3), uint32(0x13), uint16(0), "x", uint16(lfMember), uint16(3), uint32(0x13), uint16(8), "y")
	s := b.typ(lfStructure, uint16(2), uint16(0), fields, uint32(0), uint32(0), uint16(20), "S")
	m := b.module("a.obj", 0, 0x1000)
	p := m.proc(sGProc32, "f", 0, 0, 0x40)
	m.add(sFrameProc, uint32(0), uint32(0), uint32(0), uint32(0), uint32(0), uint16(0), uint32(2<<frameLocalShift|1<<frameParamShift))
	local := func(name string, flags uint16) { m.add(sLocal, s, flags, name) }
	rng := func(off uint32, n uint16, gaps ...uint16) []byte {
		out := enc(nil, off, uint16(1), n)
		for _, g := range gaps {
			out = enc(out, g)
		}
		return out
	}
	local("pieces", 0)
	m.add(sDefRangeRel, uint16(335), uint16(1|8<<4), int32(-24), rng(0, 0x40))
	m.add(sDefRangeSub, uint16(328), uint16(0), uint32(0), rng(0, 0x40, 0x10, 8))
	m.add(sDefRangeSub, uint16(330), uint16(0), uint32(16), rng(0, 0x40))
	local("whole", 0)
	m.add(sDefRangeFull, int32(-8))
	local("param", localParam)
	m.add(sDefRangeFP, int32(16), rng(0x10, 0x10, 4, 4))
	local("twice", 0)
	m.add(sDefRangeReg, uint16(328), uint16(0), rng(0, 0x40))
	m.add(sDefRangeRel, uint16(335), uint16(0), int32(8), rng(0, 0x40))
	local("maybe", 0)
	m.add(sDefRangeReg, uint16(328), uint16(1), rng(0, 0x40))
	m.add(sDefRangeReg, uint16(330), uint16(0), rng(0x12, 0x10))
	m.add(sDefRangeReg, uint16(331), uint16(1), rng(0, 0x40))
	local("unknown", 0)
	m.add(sDefRangeReg, uint16(9999), uint16(0), rng(0, 0x40))
	m.end(p, sEnd)
	f := b.file(t)
	text := func(rva uint32) map[string]string {
		got, err := f.Scopes(rva)
		if err != nil || len(got) != 1 {
			t.Fatalf("%+v, %v", got, err)
		}
		out := map[string]string{}
		for _, v := range got[0].Vars {
			for _, l := range v.Loc {
				out[v.Name] += fmt.Sprintf("%d %s%+d [%d,%d) ", l.Kind, l.Reg, l.Offset, l.PieceOffset, l.PieceOffset+l.PieceSize)
			}
		}
		return out
	}
	for rva, want := range map[uint32]map[string]string{
		0x1000: {"pieces": "1 rax+0 [0,8) 2 rsp-24 [8,16) 1 rcx+0 [16,20) ", "whole": "2 rbp-8 [0,0) ", "twice": "1 rax+0 [0,0) ", "maybe": "1 rax+0 [0,0) "},
		0x1012: {"pieces": "2 rsp-24 [8,16) 1 rcx+0 [16,20) ", "whole": "2 rbp-8 [0,0) ", "param": "2 rsp+16 [0,0) ", "twice": "1 rax+0 [0,0) ", "maybe": "1 rcx+0 [0,0) "},
		0x1014: {"pieces": "2 rsp-24 [8,16) 1 rcx+0 [16,20) ", "whole": "2 rbp-8 [0,0) ", "twice": "1 rax+0 [0,0) ", "maybe": "1 rcx+0 [0,0) "},
	} {
		if got := text(rva); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%x\n got %v\nwant %v", rva, got, want)
		}
	}
}

// TestRearranged: an image whose pieces were moved after it was linked.
func TestRearranged(t *testing.T) {
	b := newBuilder(machineX86)
	b.original = []section{{rva: 0x1000, size: 0x1000, code: true}, {rva: 0x2000, size: 0x1000}}
	b.sections = []section{{rva: 0x1000, size: 0x800, code: true}, {rva: 0x5000, size: 0x1000, code: true}, {rva: 0x8000, size: 0x1000}}
	// first stays, second goes to another section, third is gone.
	b.now = []omap{{0x1000, 0x1000}, {0x1100, 0x5000}, {0x1200, 0}, {0x2000, 0x8000}}
	b.then = []omap{{0x1000, 0x1000}, {0x1100, 0}, {0x5000, 0x1100}, {0x5100, 0}, {0x8000, 0x2000}}
	m := b.module("a.obj", 0, 0x1000)
	for i, name := range []string{"first", "second", "third"} {
		off := uint32(i) * 0x100
		p := m.proc(sGProc32, name, 0, off, 0x80)
		m.end(p, sEnd)
		b.pub("_"+name, 1, off, pubFunction)
		b.global(sProcRef, uint32(0), p, uint16(1), name)
	}
	b.pub("_datum", 2, 0x10, 0)
	m.sub(subLines, uint32(0x100), uint16(1), uint16(0), uint32(0x80), uint32(0), uint32(2), uint32(28), uint32(0), uint32(7), uint32(0x20), uint32(9))
	m.sub(subChecksum, b.text(`c:\src\a.c`), uint8(0), uint8(0))
	m.files = []string{`c:\src\a.c`}
	b.fpo = enc(nil, uint32(0x1100), uint32(0x80), uint32(3), uint16(2), uint16(6|2<<8|1<<12))
	f := b.file(t)
	for _, c := range []struct {
		name string
		rva  uint32
	}{{"first", 0x1000}, {"second", 0x5000}, {"datum", 0x8010}} {
		s, err := f.ByName(c.name)
		if err != nil || len(s) != 1 || s[0].RVA != c.rva {
			t.Errorf("%s: %+v, %v", c.name, s, err)
		}
		at, ok, err := f.ByRVA(c.rva + 4)
		if err != nil || !ok || at.Name != c.name || at.RVA != c.rva {
			t.Errorf("%x: %+v, %v, %v", c.rva+4, at, ok, err)
		}
	}
	if s, err := f.ByName("third"); err != nil || len(s) != 0 {
		t.Errorf("%+v, %v", s, err)
	}
	for _, rva := range []uint32{0x1180, 0x5180} { // where nothing came to
		if s, ok, err := f.ByRVA(rva); ok || err != nil {
			t.Errorf("%x: %+v, %v", rva, s, err)
		}
	}
	l, ok, err := f.Line(0x5030)
	if err != nil || !ok || l.Line != 9 || l.RVA != 0x5020 || l.Size != 0x60 || l.File != `c:\src\a.c` {
		t.Errorf("%+v, %v, %v", l, ok, err)
	}
	where, err := f.Addresses("A.C", 8)
	if err != nil || len(where) != 1 || where[0].RVA != 0x5020 {
		t.Errorf("%+v, %v", where, err)
	}
	fr, ok, err := f.X86Frame(0x5010)
	want := sym.X86Frame{RVA: 0x5000, Size: 0x80, Prolog: 6, Locals: 12, Params: 8, SavedRegs: 8, UsesEBP: true}
	if err != nil || !ok || fr != want {
		t.Errorf("%+v, %v, %v", fr, ok, err)
	}
}

// TestLineRules: lines that are none, lines in several files, columns, files
// that match, the next line that has code.
func TestLineRules(t *testing.T) {
	b := newBuilder(machineX64)
	m := b.module("a.obj", 0, 0x1000)
	name := b.text(`c:\Src\main.c`)
	header := b.text(`c:\src\other\header.h`)
	b.text(`d:\src\not_main.c`)
	notMain := b.text(`d:\src\notmain.c`)
	m.sub(subChecksum, name, uint8(4), uint8(1), []byte{1, 2, 3, 4}, uint16(0), header, uint8(0), uint8(0), uint16(0), notMain, uint8(0), uint8(0))
	p := m.proc(sGProc32, "f", 0, 0, 0x100)
	m.end(p, sEnd)
	line := func(off, n uint32) []byte { return enc(nil, off, n|1<<31) }
	m.sub(subLines, uint32(0), uint16(1), uint16(1), uint32(0x100),
		uint32(0), uint32(3), uint32(12+3*12), line(0, 10), line(0x20, 12), line(0x80, lineAlwaysStep), make([]byte, 12),
		uint32(12), uint32(1), uint32(12+12), line(0x40, 5), make([]byte, 4),
		uint32(0), uint32(1), uint32(12+12), line(0x60, 12), make([]byte, 4))
	m.sub(subLines|subIgnore, uint32(0), uint16(1), uint16(0), uint32(0x100), uint32(0), uint32(1), uint32(20), line(0, 99))
	m.sub(subLines, uint32(0x200), uint16(1), uint16(0), uint32(0x10), uint32(20), uint32(1), uint32(20), line(0, 11))
	m.files = []string{`c:\Src\main.c`, `c:\src\other\header.h`, `d:\src\notmain.c`}
	f := b.file(t)
	for rva, want := range map[uint32]string{
		0x1000: "main.c:10 1000+20", 0x101f: "main.c:10 1000+20", 0x1020: "main.c:12 1020+20", 0x1040: "header.h:5 1040+20",
		0x1060: "main.c:12 1060+20", 0x1080: "", 0x10ff: "", 0x1100: "", 0x1208: "notmain.c:11 1200+10",
	} {
		l, ok, err := f.Line(rva)
		got := ""
		if ok {
			got = fmt.Sprintf("%s:%d %x+%x", l.File[strings.LastIndexByte(l.File, '\\')+1:], l.Line, l.RVA, l.Size)
		}
		if err != nil || got != want {
			t.Errorf("%x: %q, %v; want %q", rva, got, err, want)
		}
		if strings.HasPrefix(want, "main") && (l.ChecksumKind != 1 || !bytes.Equal(l.Checksum, []byte{1, 2, 3, 4})) {
			t.Errorf("%x: %+v", rva, l)
		}
	}
	for _, c := range []struct {
		file string
		line uint32
		want string
	}{
		{"main.c", 10, "1000"}, {"MAIN.C", 1, "1000"}, {`src\main.c`, 12, "1020"}, {"c:/src/Main.c", 11, "1020"}, {"main.c", 13, ""},
		{"other/header.h", 5, "1040"}, {"header.h", 6, ""}, {"ain.c", 10, ""}, {"notmain.c", 3, "1200"}, {"none.c", 1, ""}, {"", 13, ""},
	} {
		list, err := f.Addresses(c.file, c.line)
		got := ""
		for _, l := range list {
			got += fmt.Sprintf("%x", l.RVA)
		}
		if err != nil || got != c.want {
			t.Errorf("Addresses(%q, %d) = %q, %v; want %q", c.file, c.line, got, err, c.want)
		}
	}
}

// TestInlineOperations: every operation of binary annotations.
func TestInlineOperations(t *testing.T) {
	from := inlinee{file: 24, line: 100}
	for _, c := range []struct {
		program []byte
		want    []piece
	}{
		{[]byte{opCodeDelta, 4, opCodeLength, 6}, []piece{{4, 6, 100, 24}}},
		{[]byte{opCodeAndLine, 0x24, opCodeAndLine, 0x35, opCodeLength, 2}, []piece{{4, 5, 101, 24}, {9, 2, 100, 24}}},
		{[]byte{opLineDelta, 6, opCodeDelta, 4, opCodeLength, 2, opCodeDelta, 8, opCodeLength, 1}, []piece{{4, 2, 103, 24}, {14, 1, 103, 24}}},
		{[]byte{opFile, 0x30, opLengthAndCode, 5, 0x10}, []piece{{16, 5, 100, 48}}},
		{[]byte{opCodeOffset, 0x81, 0x00, opCodeDelta, 0, opCodeLength, 4}, []piece{{256, 4, 100, 24}}},
		{[]byte{opLineEnd, 2, opRangeKind, 1, opColumnStart, 3, opColumnEndDelta, 4, opColumnEnd, 9, opCodeDelta, 1, opCodeLength, 1}, []piece{{1, 1, 100, 24}}},
		{[]byte{opCodeDelta, 0xc0, 0x01, 0x00, 0x00, opCodeLength, 1}, []piece{{65536, 1, 100, 24}}},
		{[]byte{opCodeDelta, 4, opCodeBase, 1, opCodeDelta, 2, opCodeLength, 7}, []piece{{4, 0, 100, 24}}}, // the rest lies apart
		{[]byte{opCodeDelta, 4}, []piece{{4, 0, 100, 24}}},
		{[]byte{opCodeDelta, 4, opEnd, opCodeDelta, 4}, []piece{{4, 0, 100, 24}}},
		{[]byte{0xff, 1, 2}, nil},
		{[]byte{opCodeDelta, 0xe0}, []piece{{0, 0, 100, 24}}},
		{nil, nil},
	} {
		if got := annotations(c.program, from); !slices.Equal(got, c.want) {
			t.Errorf("%x: %+v; want %+v", c.program, got, c.want)
		}
	}
}

// TestTypeKinds: type records that clang does not write.
func TestTypeKinds(t *testing.T) {
	for _, noHash := range []bool{false, true} {
		b := newBuilder(machineX64)
		b.noHash = noHash
		rest := b.typ(lfFieldList, uint16(lfMember), uint16(3), uint32(0x74), uint16(leafULong), uint32(0x12345678), "far",
			uint16(lfMember), uint16(3), uint32(0x74), uint16(leafUQuadword), uint64(0x123456789a), "farther")
		fields := b.typ(lfFieldList, uint16(lfMember), uint16(3), uint32(0x74), uint16(0), "a", []byte{0xf2, 0xf1},
			uint16(lfFriendCls), uint16(0), uint32(0x3), uint16(lfFriendFcn), uint16(0), uint32(3), "friend", uint16(lfVFuncOff), uint16(0), uint32(0x603), uint32(8),
			uint16(lfOneMethod), uint16(4<<2), uint32(0x3), uint32(0), "virtual", uint16(lfOneMethod), uint16(0), uint32(0x3), "plain", uint16(lfNestTypeEx), uint16(0), uint32(3), "nested",
			uint16(lfMemberModify), uint16(0), uint32(3), "mod", uint16(lfBInterface), uint16(0), uint32(0x3), uint16(16), uint16(lfIVBClass), uint16(0), uint32(3), uint32(3), uint16(0), uint16(1),
			uint16(lfIndex), uint16(0), rest)
		new2 := b.typ(lfStructure2, uint32(0), fields, uint32(0), uint32(0), uint16(3), uint16(leafULong), uint32(0x20000000), "New2")
		b.typ(lfClass2, uint32(0), uint32(0), uint32(0), uint32(0), uint16(0), uint16(1), "NewClass")
		b.typ(lfUnion2, uint32(0), rest, uint16(2), uint16(8), "NewUnion")
		b.typ(lfInterface, uint16(0), uint16(0), uint32(0), uint32(0), uint32(0), uint16(8), "IFace")
		oldFields := b.typ(lfFieldList, uint16(lfMemberST), uint16(3), uint32(0x74), uint16(4), st("old"), uint16(lfSTMemberST), uint16(3), uint32(0x74), st("static"),
			uint16(lfMethodST), uint16(1), uint32(3), st("m"), uint16(lfNestTypeST), uint16(0), uint32(3), st("n"), uint16(lfOneMethodST), uint16(0), uint32(3), st("o"))
		old := b.typ(lfStructureST, uint16(2), uint16(0), oldFields, uint32(0), uint32(0), uint16(8), st("Old"))
		b.typ(lfUnionST, uint16(1), uint16(0), oldFields, uint16(8), st("OldUnion"))
		enums := b.typ(lfFieldList, uint16(lfEnumerateST), uint16(3), uint16(leafShort), uint16(0xfffe), st("minus"), uint16(lfEnumerate), uint16(3), uint16(leafUShort), uint16(0xffff), "umax",
			uint16(lfEnumerate), uint16(3), uint16(leafQuadword), ^uint64(0), "all", uint16(lfEnumerate), uint16(3), uint16(leafLong), int32(-1), "long")
		b.typ(lfEnumST, uint16(1), uint16(0), uint32(0x74), enums, st("OldEnum"))
		b.typ(lfEnum, uint16(1), uint16(0), uint32(0x21), enums, "ShortEnum")
		b.typ(lfEnum, uint16(1), uint16(0), uint32(0x23), enums, "BigEnum")
		vec := b.typ(lfVector, uint32(0x40), uint32(4), uint16(16), "")
		strided := b.typ(lfStrided, uint32(0x74), uint32(0x22), uint32(8), uint16(32), "")
		oldArray := b.typ(lfArrayST, uint32(0x74), uint32(0x22), uint16(12), st(""))
		alias := b.typ(lfAlias, uint32(0x75), "ULONG32")
		shape := b.typ(lfVTShape, uint16(3), uint8(0x55), uint8(5))
		label := b.typ(lfLabel, uint16(0))
		// Enough between them that they are in several of the file's pieces.
		for i := range 2000 {
			b.typ(lfStructure, uint16(0), uint16(0), uint32(0), uint32(0), uint32(0), uint16(i), fmt.Sprintf("Filler%d", i))
		}
		forward := b.typ(lfStructure, uint16(0), uint16(propForward), uint32(0), uint32(0), uint32(0), uint16(0), "Old")
		// Declared as a structure, defined as a union: not the same.
		other := b.typ(lfStructure, uint16(0), uint16(propForward), uint32(0), uint32(0), uint32(0), uint16(0), "NewUnion")
		b.typ(lfStructure, uint16(0), uint16(propScoped|propUnique|propForward), uint32(0), uint32(0), uint32(0), uint16(0), "f::Local", ".?AULocal@?1??f@@YAXXZ@")
		local := b.typ(lfStructure, uint16(0), uint16(propScoped|propUnique), uint32(0), uint32(0), uint32(0), uint16(6), "f::Local", ".?AULocal@?1??f@@YAXXZ@")
		b.typ(lfStructure, uint16(0), uint16(propForward), uint32(0), uint32(0), uint32(0), uint16(0), "Nowhere")
		b.global(sUDT, new2, "Typedef")
		f := b.file(t)
		check := func(name string, want sym.Type) {
			t.Helper()
			id, err := f.TypeByName(name)
			if err != nil || id == 0 {
				t.Errorf("TypeByName(%q) = %#x, %v", name, uint64(id), err)
				return
			}
			got, err := f.Type(id)
			got.ID = 0
			if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%s\n got %+v, %v\nwant %+v", name, got, err, want)
			}
		}
		check("New2", sym.Type{Kind: sym.Struct, Name: "New2", Size: 0x20000000})
		check("NewClass", sym.Type{Kind: sym.Struct, Name: "NewClass", Size: 1, Class: true})
		check("NewUnion", sym.Type{Kind: sym.Union, Name: "NewUnion", Size: 8})
		check("IFace", sym.Type{Kind: sym.Struct, Name: "IFace", Size: 8})
		check("Old", sym.Type{Kind: sym.Struct, Name: "Old", Size: 8})
		check("OldUnion", sym.Type{Kind: sym.Union, Name: "OldUnion", Size: 8})
		check("OldEnum", sym.Type{Kind: sym.Enum, Name: "OldEnum", Size: 4, Elem: 0x74})
		check("Typedef", sym.Type{Kind: sym.Struct, Name: "New2", Size: 0x20000000})
		check("f::Local", sym.Type{Kind: sym.Struct, Name: "f::Local", Size: 6})
		check("Nowhere", sym.Type{Kind: sym.Opaque, Name: "Nowhere"})
		check("Filler1999", sym.Type{Kind: sym.Struct, Name: "Filler1999", Size: 1999})
		if id, err := f.TypeByName("Nothing"); id != 0 || err != nil {
			t.Errorf("%#x, %v", uint64(id), err)
		}
		for ti, want := range map[uint32]sym.Type{
			vec:         {ID: sym.TypeID(vec), Kind: sym.Array, Elem: 0x40, Count: 4, Size: 16},
			strided:     {ID: sym.TypeID(strided), Kind: sym.Array, Elem: 0x74, Count: 8, Size: 32},
			oldArray:    {ID: sym.TypeID(oldArray), Kind: sym.Array, Elem: 0x74, Count: 3, Size: 12},
			alias:       {ID: sym.TypeID(alias), Kind: sym.Alias, Name: "ULONG32", Elem: 0x75, Size: 4},
			shape:       {ID: sym.TypeID(shape), Kind: sym.Opaque, Name: "`vtable'", Count: 3},
			label:       {ID: sym.TypeID(label), Kind: sym.Opaque, Name: "`label'"},
			forward:     {ID: sym.TypeID(old), Kind: sym.Struct, Name: "Old", Size: 8},
			other:       {ID: sym.TypeID(other), Kind: sym.Opaque, Name: "NewUnion"},
			local:       {ID: sym.TypeID(local), Kind: sym.Struct, Name: "f::Local", Size: 6},
			0x74:        {ID: 0x74, Kind: sym.Int, Name: "int", Size: 4, Signed: true},
			0x674:       {ID: 0x674, Kind: sym.Pointer, Elem: 0x74, Size: 8},
			0x0:         {Kind: sym.Opaque},
			0x7fff:      {},
			fields:      {},
			uint32(0x4): {ID: 4, Kind: sym.Opaque},
		} {
			got, err := f.Type(sym.TypeID(ti))
			if want.Kind == 0 && ti >= firstType {
				if err == nil {
					t.Errorf("%#x: %+v", ti, got)
				}
				continue
			}
			if noHash && (ti == forward) {
				want = sym.Type{ID: sym.TypeID(forward), Kind: sym.Opaque, Name: "Old"} // no way to find it
			}
			if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("%#x\n got %+v, %v\nwant %+v", ti, got, err, want)
			}
		}
		members := func(name string) string {
			id, err := f.TypeByName(name)
			if err != nil {
				t.Fatal(err)
			}
			list, err := f.Members(id)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			var out []string
			for _, m := range list {
				out = append(out, fmt.Sprintf("%d %s %x %d", m.Kind, m.Name, m.Offset, m.Value))
			}
			return strings.Join(out, ", ")
		}
		for name, want := range map[string]string{
			"New2":      "1 a 0 0, 5  8 0, 2  10 0, 1 far 12345678 0, 1 farther 123456789a 0",
			"Old":       "1 old 4 0, 4 static 0 0",
			"OldEnum":   "6 minus 0 -2, 6 umax 0 65535, 6 all 0 -1, 6 long 0 -1",
			"ShortEnum": "6 minus 0 65534, 6 umax 0 65535, 6 all 0 65535, 6 long 0 65535",
			"BigEnum":   "6 minus 0 -2, 6 umax 0 65535, 6 all 0 -1, 6 long 0 -1",
			"NewClass":  "",
		} {
			if got := members(name); got != want {
				t.Errorf("members of %s\n got %s\nwant %s", name, got, want)
			}
		}
		var names []string
		for n, err := range f.TypeNames(func(s string) bool { return !strings.HasPrefix(s, "Filler") }) {
			if err != nil {
				t.Fatal(err)
			}
			names = append(names, n.Name)
		}
		slices.Sort(names)
		want := "BigEnum IFace New2 NewClass NewUnion Nowhere Old OldEnum OldUnion ShortEnum Typedef f::Local"
		if got := strings.Join(names, " "); got != want {
			t.Errorf("names %s\nwant %s", got, want)
		}
	}
}

// TestTypeCircles: types of each other end.
func TestTypeCircles(t *testing.T) {
	b := newBuilder(machineX64)
	a := uint32(firstType)
	b.typ(lfModifier, a+1, uint16(1))
	b.typ(lfModifier, a, uint16(2))
	b.typ(lfFieldList, uint16(lfIndex), uint16(0), a+3)
	b.typ(lfFieldList, uint16(lfIndex), uint16(0), a+2)
	b.typ(lfStructure, uint16(0), uint16(0), a+2, uint32(0), uint32(0), uint16(8), "Circle")
	b.typ(lfArray, a+6, uint32(0x22), uint16(8), "")
	b.typ(lfArray, a+5, uint32(0x22), uint16(8), "")
	b.typ(lfEnum, uint16(1), uint16(0), a+7, a+2, "OwnEnum")
	b.typ(lfBitField, a+8, uint8(1), uint8(1))
	b.typ(lfProcedure, a+9, uint8(0), uint8(0), uint16(0), a+9)
	b.global(sConstant, a, uint16(0x80), "constant")
	f := b.file(t)
	for i := range uint32(len(b.types)) {
		_, _ = f.Type(sym.TypeID(a + i))
		_, _ = f.Members(sym.TypeID(a + i))
		_, _ = f.sizeOf(a + i)
	}
	if _, err := f.Members(sym.TypeID(a + 4)); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	if _, err := f.sizeOf(a); !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
	if _, err := f.ByName("constant"); err != nil && !errors.Is(err, ErrMalformed) {
		t.Error(err)
	}
}

// TestPublicCxx: a file with public names only has those of C++ by the names
// that people write.
func TestPublicCxx(t *testing.T) {
	b := newBuilder(machineX64)
	b.flags = dbiStripped
	for i, n := range []string{"?f@ns@@YAXXZ", "?f@ns@@YAXH@Z", "??0A@ns@@QEAA@XZ", "??$g@H@@YAXXZ", "??HA@@QEAAXXZ", "?h@?$T@U?$T@H@@@@QEAAXXZ", "??_7A@@6B@", "?f@@YAXXZ", "plain", "??_C@_01FJMABOPO@x?$AA@"} {
		b.pub(n, 1, uint32(0x10*i), pubFunction)
	}
	f := b.file(t)
	if f.Private() {
		t.Error("private")
	}
	for name, want := range map[string][]uint32{
		"ns::f": {0x1000, 0x1010}, "ns::A::A": {0x1020}, "g<int>": {0x1030}, "A::operator+": {0x1040}, "T<T<int> >::h": {0x1050}, "T<T<int>>::h": {0x1050},
		"A::`vftable'": {0x1060}, "f": {0x1070}, "plain": {0x1080}, "?f@@YAXXZ": {0x1070}, "ns::g": nil, "::f": nil, "<": nil, "operator<": nil,
	} {
		list, err := f.ByName(name)
		var got []uint32
		for _, s := range list {
			got = append(got, s.RVA)
		}
		slices.Sort(got)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("ByName(%q) = %x, %v; want %x", name, got, err, want)
		}
	}
	n := 0
	for s, err := range f.Symbols(func(name string) bool { return name == "ns::f" }) {
		if err != nil || s.Name != "ns::f" || !strings.HasPrefix(s.Linkage, "?f@ns@@") {
			t.Errorf("%+v, %v", s, err)
		}
		n++
		if n == 1 {
			break // a caller may have enough
		}
	}
	if s, ok, err := f.ByRVA(0x1014); err != nil || !ok || s.Name != "ns::f" || s.Linkage != "?f@ns@@YAXH@Z" {
		t.Errorf("%+v, %v, %v", s, ok, err)
	}
}

// TestContributionsInDisorder: a linker that did not sort them.
func TestContributionsInDisorder(t *testing.T) {
	b := newBuilder(machineX64)
	rng := rand.New(rand.NewPCG(1, 2))
	const n = 100
	for i := range n {
		m := b.module(fmt.Sprintf("m%d.obj", i), uint32(i*0x20), 0x10)
		p := m.proc(sGProc32, fmt.Sprintf("f%d", i), 0, uint32(i*0x20), 0x10)
		m.end(p, sEnd)
		b.contribs = append(b.contribs, m.contrib)
	}
	rng.Shuffle(n, func(i, j int) { b.contribs[i], b.contribs[j] = b.contribs[j], b.contribs[i] })
	f := b.file(t)
	for i := range n {
		for _, off := range []int{0, 0xf, 0x18} {
			s, ok, err := f.ByRVA(uint32(0x1000 + i*0x20 + off))
			if err != nil || !ok || s.Name != fmt.Sprintf("f%d", i) {
				t.Errorf("%d+%x: %+v, %v, %v", i, off, s, ok, err)
			}
		}
	}
	if len(f.units) > maxUnits {
		t.Errorf("%d modules are kept", len(f.units))
	}
}

func TestFramePrograms(t *testing.T) {
	for in, want := range map[string]string{
		"":                                 "",
		".raSearch 4 +":                    ".raSearch 4 +",
		"$T0 .raSearch = $eip $T0 ^ = ":    "$T0 .raSearch = $eip $T0 ^ =",
		"$T0 $ebp =  $23 $T0 4 - ^ =  $20": "$T0 $ebp = $esi $T0 4 - ^ = $ebx",
		"$ $9999 $65536 23":                "$ $9999 $65536 23",
	} {
		if got := namedRegisters(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// TestCrossModule: a module that refers to numbers of another.
func TestCrossModule(t *testing.T) {
	b := newBuilder(machineX64)
	s := b.typ(lfStructure, uint16(0), uint16(0), uint32(0), uint32(0), uint32(0), uint16(12), "S")
	fn := b.typ(lfProcedure, uint32(3), uint8(0), uint8(0), uint16(0), uint32(0))
	inl := b.id(lfFuncID, uint32(0), fn, "inlined")
	id := b.id(lfFuncID, uint32(0), fn, "withid")
	const crossInl, crossS, crossBad, crossGone = crossRef | 1<<crossModule | 1, crossRef | 1<<crossModule, crossRef | 7<<crossModule, crossRef
	from := b.module(`c:\obj\from.obj`, 0x800, 0x10)
	from.sub(subExports, uint32(0x1005), s, uint32(0x1007), inl)
	m := b.module("m.obj", 0, 0x100)
	m.sub(subChecksum, b.text("m.c"), uint8(0), uint8(0))
	m.sub(subImports, b.text("gone.obj"), uint32(1), uint32(0x1000), b.text(`C:\obj\FROM.obj`), uint32(2), uint32(0x1005), uint32(0x1007))
	m.sub(subInlinees, uint32(1), uint32(crossInl), uint32(0), uint32(7), uint32(2), uint32(0), uint32(0))
	p := m.proc(sGProc32ID, "f", id, 0, 0x40)
	m.add(sLocal, uint32(crossS), uint16(0), "v")
	in := m.add(sInlineSite2, p, uint32(0), uint32(crossInl), uint32(3), []byte{opCodeDelta, 8, opCodeLength, 8})
	m.end(in, sInlineEnd)
	m.end(p, sEnd)
	for i, bad := range []uint32{crossBad, crossGone, crossS + 5} {
		p := m.proc(sGProc32, "bad", bad, uint32(0x50+0x10*i), 0x10)
		m.end(p, sEnd)
	}
	f := b.file(t)
	got, err := f.Scopes(0x1009)
	if err != nil || len(got) != 2 || got[0].Type != sym.TypeID(fn) || got[0].Vars[0].Type != sym.TypeID(s) || got[1].Name != "inlined" || got[1].Type != sym.TypeID(fn) {
		t.Errorf("%+v, %v", got, err)
	}
	if l, ok, err := f.Line(0x1009); err != nil || !ok || l.Line != 7 {
		t.Errorf("%+v, %v, %v", l, ok, err)
	}
	for _, rva := range []uint32{0x1050, 0x1060, 0x1070} {
		if _, _, err := f.ByRVA(rva); !errors.Is(err, ErrMalformed) {
			t.Errorf("%x: %v", rva, err)
		}
	}
}

// TestFullBuckets: names that share a bucket by the hundred, sorted and not.
func TestFullBuckets(t *testing.T) {
	for _, disorder := range []bool{false, true} {
		b := newBuilder(machineX64)
		b.disorder = disorder
		var names []string
		for i := 0; len(names) < 300; i++ {
			// Two words that cancel each other leave the hash alone.
			name := fmt.Sprintf("%04d%04dName", i, i)
			if i%3 == 0 {
				name = strings.ToUpper(name)
			}
			if i%7 == 0 {
				name += fmt.Sprintf("%04x%04x", i, i)
			}
			names = append(names, name)
		}
		rand.New(rand.NewPCG(8, 9)).Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
		for i, name := range names {
			b.pub(name, 1, uint32(i*16), pubFunction)
			b.global(sGData32, uint32(0x74), uint32(i*8), uint16(2), name)
		}
		f := b.file(t)
		tab, err := f.tables()
		if err != nil {
			t.Fatal(err)
		}
		from, to, err := tab.publics.bucket(hashV1([]byte(names[0])) % gsiBuckets)
		if err != nil || to-from < 100 {
			t.Fatalf("%d in a bucket, %v", to-from, err)
		}
		for i, name := range names {
			if i%8 != 0 {
				continue
			}
			s, err := f.ByName(name)
			if err != nil || len(s) != 2 || s[0].RVA != 0x20000+uint32(i*8) || s[1].RVA != 0x1000+uint32(i*16) {
				t.Errorf("disorder %v: ByName(%q) = %+v, %v", disorder, name, s, err)
			}
			for _, other := range []string{strings.ToLower(name), name + "x", name[1:]} {
				if s, err := f.ByName(other); err != nil || len(s) != 0 && s[0].Name != other {
					t.Errorf("disorder %v: ByName(%q) = %+v, %v", disorder, other, s, err)
				}
			}
		}
	}
}

// TestFoldedAndAlias: several names of one address.
func TestFoldedAndAlias(t *testing.T) {
	b := newBuilder(machineX64)
	m := b.module("a.obj", 0, 0x100)
	for _, name := range []string{"ns::one", "two"} {
		p := m.proc(sGProc32, name, 0, 0x10, 0x10)
		m.end(p, sEnd)
		b.global(sProcRef, uint32(0), p, uint16(1), name)
	}
	b.pub("?one@ns@@YAXXZ", 1, 0x10, pubFunction)
	b.pub("two", 1, 0x10, pubFunction)
	b.pub("three", 1, 0x10, pubFunction)
	f := b.file(t)
	for name, linkage := range map[string]string{"ns::one": "?one@ns@@YAXXZ", "two": ""} {
		s, err := f.ByName(name)
		if err != nil || len(s) != 1 || s[0].Name != name || s[0].Linkage != linkage {
			t.Errorf("ByName(%q) = %+v, %v", name, s, err)
		}
	}
	// Only public, but its address has a private symbol.
	if s, err := f.ByName("three"); err != nil || len(s) != 1 || s[0].Kind != sym.Function {
		t.Errorf("%+v, %v", s, err)
	}
	n := 0
	for s, err := range f.Symbols(func(string) bool { return true }) {
		if err != nil || s.Kind != sym.Function {
			t.Errorf("%+v, %v", s, err)
		}
		n++
	}
	if n != 2 {
		t.Errorf("%d symbols", n)
	}
}

// TestBoundedAllocation: lengths of gigabytes in small files take no memory.
func TestBoundedAllocation(t *testing.T) {
	raw, err := os.ReadFile("testdata/x64.pdb")
	if err != nil {
		t.Fatal(err)
	}
	allocated := func(f func()) uint64 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		return after.TotalAlloc - before.TotalAlloc
	}
	ref := allocated(func() { exercise(bytes.NewReader(raw), int64(len(raw))) })
	// Every word of the first bytes of every stream, and of the directory.
	ref0 := openBytes(t, raw)
	var targets []int64
	list, err := ref0.msf.extents()
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range list {
		s, err := ref0.msf.open(uint16(i), "any")
		if err != nil {
			t.Fatal(err)
		}
		for off := uint32(0); off < min(e.size, 72); off += 4 {
			b, err := s.blockAt(off >> s.m.shift)
			if err != nil {
				t.Fatal(err)
			}
			targets = append(targets, int64(b)<<s.m.shift+int64(off&(s.m.block-1)))
		}
	}
	for off := int64(0); off < int64(len(list))*4; off += 4 {
		b, err := ref0.msf.dir.blockAt(0)
		if err != nil {
			t.Fatal(err)
		}
		targets = append(targets, int64(b)<<ref0.msf.shift+off)
	}
	if testing.Short() {
		targets = targets[:len(targets)/40]
	}
	for _, at := range targets {
		for _, v := range []uint32{0xffffffff, 0x7fffffff} {
			if at+4 > int64(len(raw)) {
				continue
			}
			bad := bytes.Clone(raw)
			le.PutUint32(bad[at:], v)
			n := allocated(func() { exercise(bytes.NewReader(bad), int64(len(bad))) })
			if n > 4*ref+1<<20 {
				t.Errorf("%#x at %#x: %d bytes, of the sound file %d", v, at, n, ref)
			}
		}
	}
}

// exercise asks a file for everything. Errors are as good as answers.
func exercise(r io.ReaderAt, size int64) {
	f, err := New(r, size)
	if err != nil {
		return
	}
	f.Private()
	all := func(string) bool { return true }
	var rvas []uint32
	var names []string
	n := 0
	for s, err := range f.Symbols(all) {
		if n++; n > 500 || err != nil {
			break
		}
		if n%8 == 0 {
			rvas = append(rvas, s.RVA, s.RVA+3)
			names = append(names, s.Name, s.Linkage)
		}
	}
	n = 0
	for nt, err := range f.TypeNames(all) {
		if n++; n > 200 || err != nil {
			break
		}
		_, _ = f.TypeByName(nt.Name)
		_, _ = f.Type(nt.ID)
		_, _ = f.Members(nt.ID)
	}
	for _, name := range append(names, "nothing", "ns::nothing") {
		_, _ = f.ByName(name)
	}
	for _, rva := range append(rvas, 0, 0x1000, 0x1640, 0x1662, 0x2000, 0xffffffff) {
		_, _, _ = f.ByRVA(rva)
		_, _, _ = f.Line(rva)
		_, _ = f.Scopes(rva)
		_, _, _ = f.X86Frame(rva)
	}
	_, _ = f.Addresses("opt.c", 20)
	_, _ = f.Addresses("", 1)
}

// TestDamage spoils bytes of a file by seed: nothing may panic or hang, and most
// of what is asked must still be answered or refused.
func TestDamage(t *testing.T) {
	rounds := 150
	if testing.Short() {
		rounds = 4
	}
	for _, name := range []string{"x64", "x86"} {
		raw, err := os.ReadFile("testdata/" + name + ".pdb")
		if err != nil {
			t.Fatal(err)
		}
		for seed := range rounds {
			rng := rand.New(rand.NewPCG(uint64(seed), 7))
			bad := bytes.Clone(raw)
			for range 1 + rng.IntN(20) {
				i := rng.IntN(len(bad))
				switch rng.IntN(3) {
				case 0:
					bad[i] = byte(rng.Uint32())
				case 1:
					bad[i] ^= 1 << rng.IntN(8)
				default:
					n := min(len(bad)-i, rng.IntN(64))
					copy(bad[i:i+n], bad[rng.IntN(len(bad)-n):])
				}
			}
			exercise(bytes.NewReader(bad), int64(len(bad)))
		}
	}
}

// failing is a file that cannot be read after some bytes.
type failing struct {
	r    io.ReaderAt
	left atomic.Int64
}

func (f *failing) ReadAt(p []byte, off int64) (int, error) {
	if f.left.Add(-1) < 0 {
		return 0, errors.New("the disk is gone")
	}
	return f.r.ReadAt(p, off)
}

// TestReadErrors: the reader's errors come through, and a later try succeeds.
func TestReadErrors(t *testing.T) {
	raw, err := os.ReadFile("testdata/x64.pdb")
	if err != nil {
		t.Fatal(err)
	}
	good := 0
	for n := range int64(60) {
		r := &failing{r: bytes.NewReader(raw)}
		r.left.Store(n)
		f, err := New(r, int64(len(raw)))
		if err == nil {
			_, err = f.ByName("optimised")
			if err != nil {
				r.left.Store(1 << 20)
				if s, err := f.ByName("optimised"); err != nil || len(s) != 1 {
					t.Errorf("after %d reads: %+v, %v", n, s, err)
				}
			}
		}
		switch {
		case err == nil:
			good++
		case !strings.Contains(err.Error(), "the disk is gone") || errors.Is(err, ErrMalformed):
			t.Errorf("after %d reads: %v", n, err)
		}
	}
	if good == 0 || good == 60 {
		t.Errorf("%d of 60 tries succeeded", good)
	}
}

// TestConcurrent asks from many goroutines, with a cache that is too small.
func TestConcurrent(t *testing.T) {
	f := open(t, "testdata/x64.pdb")
	want := describe(t, f)
	g := open(t, "testdata/x64.pdb")
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			if got := describe(t, g); got != want {
				t.Errorf("goroutine %d saw another file", i)
			}
			for rva := uint32(0x1600); rva < 0x1700; rva += 5 {
				if _, err := g.Scopes(rva); err != nil {
					t.Error(err)
				}
				if _, _, err := g.ByRVA(rva); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// TestCacheReplaces: more pages than are kept are read right.
func TestCacheReplaces(t *testing.T) {
	const block = maxBlock
	n := 3 * cacheBytes / block
	big := make([]byte, n*block)
	for i := range big {
		big[i] = byte(i / block * 7)
	}
	streams := newBuilder(machineX64).build()
	streams = append(streams, big)
	raw := msfBytes(t, streams, msfOptions{block: block, shuffle: rand.New(rand.NewPCG(3, 4))})
	f := openBytes(t, raw)
	s, err := f.msf.open(uint16(len(streams)-1), "big")
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(5, 6))
	for range 2000 {
		off := rng.IntN(len(big) - 8)
		var b [8]byte
		if err := s.read(b[:], int64(off)); err != nil || !bytes.Equal(b[:], big[off:off+8]) {
			t.Fatalf("%x: %x, %v", off, b, err)
		}
	}
	if len(f.msf.slots) > cacheBytes/block {
		t.Errorf("%d pages of %d are kept", len(f.msf.slots), block)
	}
	all, err := s.bytes(0, int64(len(big)))
	if err != nil || !bytes.Equal(all, big) {
		t.Error("the whole stream is another")
	}
	if n, err := s.ReadAt(make([]byte, 16), int64(len(big)-8)); n != 8 || err != io.EOF {
		t.Errorf("%d, %v at the end", n, err)
	}
	if n, err := s.ReadAt(make([]byte, 16), int64(len(big))); n != 0 || err != io.EOF {
		t.Errorf("%d, %v behind the end", n, err)
	}
}
