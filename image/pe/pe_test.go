package pe

import (
	"bytes"
	dpe "debug/pe"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"openkd/kdproto"
)

// build makes a small PE32+ DLL: .text at 1000, .data at 2000 (with more
// memory than file), .edata at 3000 with the exports, .rdata at 4000 with the
// debug directory and relocations at 5000.
func build(t testing.TB) []byte {
	t.Helper()
	f := make([]byte, 0x1800)
	copy(f, "MZ")
	le.PutUint32(f[0x3C:], 0x80)
	h := f[0x80:]
	copy(h, "PE\x00\x00")
	le.PutUint16(h[4:], 0x8664)
	le.PutUint16(h[6:], 5)
	le.PutUint32(h[8:], 0x5E0EB67A)
	le.PutUint16(h[20:], 0xF0)
	le.PutUint16(h[22:], 0x2022)
	o := h[24:]
	le.PutUint16(o, 0x20B)
	le.PutUint32(o[16:], 0x1010)
	le.PutUint64(o[24:], 0x180000000)
	le.PutUint32(o[32:], 0x1000)
	le.PutUint32(o[36:], 0x200)
	le.PutUint32(o[56:], 0x6000)
	le.PutUint32(o[60:], 0x400)
	le.PutUint32(o[64:], 0x1234)
	le.PutUint16(o[68:], 1)
	le.PutUint32(o[108:], 16)
	dir := func(i int, va, size uint32) {
		le.PutUint32(o[112+8*i:], va)
		le.PutUint32(o[116+8*i:], size)
	}
	dir(DirExport, 0x3000, 0x180)
	dir(DirDebug, 0x4000, 28)
	dir(DirBaseReloc, 0x5000, 16)
	for i, s := range []struct {
		name              string
		va, vs, off, size uint32
	}{
		{".text", 0x1000, 0x100, 0x400, 0x200}, {".data", 0x2000, 0x800, 0x600, 0x200},
		{".edata", 0x3000, 0x180, 0x800, 0x200}, {".rdata", 0x4000, 0x100, 0xA00, 0x200}, {".reloc", 0x5000, 16, 0xC00, 0x200},
	} {
		x := o[0xF0+40*i:]
		copy(x, s.name)
		le.PutUint32(x[8:], s.vs)
		le.PutUint32(x[12:], s.va)
		le.PutUint32(x[16:], s.size)
		le.PutUint32(x[20:], s.off)
		le.PutUint32(x[36:], SectionCode|SectionExecute)
	}
	copy(f[0x400:], bytes.Repeat([]byte{0xCC}, 0x100))
	le.PutUint64(f[0x400+0x20:], 0x180001010) // a pointer to relocate
	copy(f[0x600:], "data")

	e := f[0x800:]
	le.PutUint32(e[12:], 0x3100)
	le.PutUint32(e[16:], 5) // Base
	le.PutUint32(e[20:], 4) // functions
	le.PutUint32(e[24:], 3) // names
	le.PutUint32(e[28:], 0x3040)
	le.PutUint32(e[32:], 0x3060)
	le.PutUint32(e[36:], 0x3080)
	for i, v := range []uint32{0x1010, 0x3140, 0, 0x1030} { // own, forwarder, none, unnamed
		le.PutUint32(e[0x40+4*i:], v)
	}
	for i, v := range []uint32{0x3110, 0x3118, 0x3120} {
		le.PutUint32(e[0x60+4*i:], v)
	}
	for i, v := range []uint16{0, 1, 0} {
		le.PutUint16(e[0x80+2*i:], v)
	}
	copy(e[0x100:], "tiny.dll\x00")
	copy(e[0x110:], "Alpha\x00")
	copy(e[0x118:], "Beta\x00")
	copy(e[0x120:], "Gamma\x00")
	copy(e[0x140:], "NTDLL.RtlBeta\x00")

	r := f[0xA00:]
	le.PutUint32(r[12:], 2)
	le.PutUint32(r[16:], 24+9)
	le.PutUint32(r[20:], 0x4040)
	le.PutUint32(r[24:], 0xA40)
	copy(r[0x40:], "RSDS")
	for i := range 16 {
		r[0x44+i] = byte(i + 1)
	}
	le.PutUint32(r[0x54:], 3)
	copy(r[0x58:], `c:\t.pdb`+"\x00")

	q := f[0xC00:]
	le.PutUint32(q, 0x1000)
	le.PutUint32(q[4:], 16)
	le.PutUint16(q[8:], 10<<12|0x020)
	return f
}

func open(t testing.TB, b []byte) *Image {
	t.Helper()
	im, err := Open(bytes.NewReader(b), File)
	if err != nil {
		t.Fatal(err)
	}
	return im
}

func TestHeaders(t *testing.T) {
	im := open(t, build(t))
	if im.Machine != kdproto.MachineAMD64 || !im.PE32Plus || im.TimeDateStamp != 0x5E0EB67A || im.SizeOfImage != 0x6000 ||
		im.EntryPoint != 0x1010 || im.ImageBase != 0x180000000 || im.CheckSum != 0x1234 || len(im.Sections) != 5 {
		t.Errorf("%+v", im)
	}
	if im.Key() != "5E0EB67A6000" {
		t.Errorf("key %q", im.Key())
	}
	if s := im.SectionOf(0x2700); s == nil || s.Name != ".data" {
		t.Errorf("section of 2700: %+v", s)
	}
	if s := im.SectionOf(0x2900); s != nil {
		t.Errorf("section of 2900: %+v", s)
	}
}

func TestMalformedNamesTheField(t *testing.T) {
	for _, c := range []struct {
		field string
		spoil func(b []byte)
	}{
		{"e_magic", func(b []byte) { b[0] = 'X' }},
		{"e_lfanew", func(b []byte) { le.PutUint32(b[0x3C:], 0xFFFFFFF0) }},
		{"signature", func(b []byte) { b[0x80] = 'N' }},
		{"NumberOfSections", func(b []byte) { le.PutUint16(b[0x86:], 97) }},
		{"NumberOfSections", func(b []byte) { le.PutUint16(b[0x86:], 0) }},
		{"SizeOfOptionalHeader", func(b []byte) { le.PutUint16(b[0x94:], 20) }},
		{"SizeOfOptionalHeader", func(b []byte) { le.PutUint16(b[0x94:], 0xFFFF) }},
		{"Magic", func(b []byte) { le.PutUint16(b[0x98:], 0x107) }},
		{"SectionAlignment", func(b []byte) { le.PutUint32(b[0x98+32:], 0) }},
		{"FileAlignment", func(b []byte) { le.PutUint32(b[0x98+36:], 3) }},
		{"SizeOfImage", func(b []byte) { le.PutUint32(b[0x98+56:], 0) }},
		{"SizeOfHeaders", func(b []byte) { le.PutUint32(b[0x98+60:], 0x10000) }},
		{"section 1", func(b []byte) { le.PutUint32(b[0x98+0xF0+40+12:], 0xFFFFFFFF) }},
	} {
		b := build(t)
		c.spoil(b)
		_, err := Open(bytes.NewReader(b), File)
		if !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), c.field) {
			t.Errorf("%s: %v", c.field, err)
		}
	}
	b := build(t)
	for n := range 0x250 {
		if _, err := Open(bytes.NewReader(b[:n]), File); err == nil {
			t.Fatalf("opened %d bytes", n)
		}
	}
}

func wantExports(t *testing.T, im *Image) {
	t.Helper()
	e, err := im.Exports()
	if err != nil || e == nil {
		t.Fatal(err)
	}
	if e.Name != "tiny.dll" || e.Base != 5 {
		t.Errorf("%+v", e)
	}
	all, err := e.All()
	if err != nil {
		t.Error(err)
	}
	want := []Export{{"Alpha", 5, 0x1010, ""}, {"Gamma", 5, 0x1010, ""}, {"Beta", 6, 0, "NTDLL.RtlBeta"}, {"", 8, 0x1030, ""}}
	if fmt.Sprint(all) != fmt.Sprint(want) {
		t.Errorf("got %v, want %v", all, want)
	}
	for _, w := range want[:3] {
		if x, ok, err := e.Lookup(w.Name); err != nil || !ok || x != w {
			t.Errorf("%s: %v %v %v", w.Name, x, ok, err)
		}
	}
	for _, n := range []string{"", "Aaa", "Delta", "Zeta"} {
		if _, ok, err := e.Lookup(n); ok || err != nil {
			t.Errorf("%q: found %v, %v", n, ok, err)
		}
	}
	if x, ok, err := e.ByOrdinal(8); !ok || err != nil || x.RVA != 0x1030 {
		t.Errorf("ordinal 8: %v %v %v", x, ok, err)
	}
	for _, n := range []uint32{0, 4, 7, 9, 0xFFFFFFFF} {
		if _, ok, err := e.ByOrdinal(n); ok || err != nil {
			t.Errorf("ordinal %d: %v %v", n, ok, err)
		}
	}
}

func TestExports(t *testing.T) { wantExports(t, open(t, build(t))) }

func TestCodeView(t *testing.T) {
	b := build(t)
	cv, err := open(t, b).CodeView()
	if err != nil || cv.PDB != `c:\t.pdb` || cv.Name() != "t.pdb" || cv.Age != 3 ||
		cv.GUID.String() != "04030201-0605-0807-090a-0b0c0d0e0f10" || cv.Key() != "0403020106050807090A0B0C0D0E0F103" {
		t.Errorf("%+v %v", cv, err)
	}
	copy(b[0xA40:], "NB10")
	if _, err := open(t, b).CodeView(); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "NB10") {
		t.Errorf("NB10: %v", err)
	}
	copy(b[0xA40:], "ABCD")
	if _, err := open(t, b).CodeView(); !errors.Is(err, ErrMalformed) {
		t.Errorf("ABCD: %v", err)
	}
	le.PutUint32(b[0xA00+16:], 0xFFFFFFFF)
	if _, err := open(t, b).CodeView(); !errors.Is(err, ErrMalformed) {
		t.Errorf("huge record: %v", err)
	}
	le.PutUint32(b[0x98+112+8*DirDebug:], 0)
	if cv, err := open(t, b).CodeView(); cv != nil || err != nil {
		t.Errorf("none: %v %v", cv, err)
	}
}

func mapAll(t testing.TB, im *Image) []byte {
	t.Helper()
	b := make([]byte, im.SizeOfImage)
	if n, err := im.ReadAt(b, 0); n != len(b) || err != nil {
		t.Fatalf("%d of %d: %v", n, len(b), err)
	}
	return b
}

func TestMapping(t *testing.T) {
	im := open(t, build(t))
	m := mapAll(t, im)
	if m[0x1000] != 0xCC || string(m[0x2000:0x2005]) != "data\x00" || m[0x2200] != 0 || string(m[:2]) != "MZ" || m[0x500] != 0 {
		t.Error("the image is not mapped as the loader does")
	}
	if n, err := im.ReadAt(make([]byte, 16), 0x5FF8); n != 8 || err != io.EOF {
		t.Errorf("at the end: %d %v", n, err)
	}
	if _, err := im.ReadAt(make([]byte, 1), -1); err == nil {
		t.Error("negative offset")
	}
	// Piecewise reads give the same.
	for at := 0; at < len(m); {
		n := min(37, len(m)-at)
		p := make([]byte, n)
		if _, err := im.ReadAt(p, int64(at)); err != nil || !bytes.Equal(p, m[at:at+n]) {
			t.Fatalf("at %#x: %v", at, err)
		}
		at += n
	}
}

// An image aligned to less than a page lies in the file as in memory, and the
// file may end inside the last page.
func TestFlatMapping(t *testing.T) {
	b := build(t)
	le.PutUint32(b[0x98+32:], 0x200)
	le.PutUint32(b[0x98+56:], 0x2000)
	for i := range 5 {
		x := b[0x98+0xF0+40*i:]
		le.PutUint32(x[12:], le.Uint32(x[20:])) // address = file offset
	}
	im := open(t, b)
	m := mapAll(t, im)
	if !bytes.Equal(m[:len(b)], b) || !bytes.Equal(m[len(b):], make([]byte, len(m)-len(b))) {
		t.Error("not mapped as one piece")
	}
	// Sections elsewhere than in the file: mapped one by one.
	le.PutUint32(b[0x98+0xF0+12:], 0x1A00)
	if m := mapAll(t, open(t, b)); m[0x1A00] != 0xCC || m[0x400] == 0xCC {
		t.Error("a section that moved is not followed")
	}
}

// A file cut short is an error, not zeroes.
func TestTruncatedFile(t *testing.T) {
	b := build(t)
	im := open(t, b[:0xA80])
	p := make([]byte, 0x200)
	if n, err := im.ReadAt(p, 0x4000); n != 0x80 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d %v", n, err)
	}
}

// holes is memory with missing pages.
type holes struct {
	b       []byte
	missing map[int64]bool
	reads   int
}

var errMissing = errors.New("page not present")

func (h *holes) ReadAt(p []byte, off int64) (int, error) {
	h.reads++
	for n := range p {
		at := off + int64(n)
		if at >= int64(len(h.b)) {
			return n, io.EOF
		}
		if h.missing[at/0x1000] {
			return n, errMissing
		}
		p[n] = h.b[at]
	}
	return len(p), nil
}

func TestMappedWithHoles(t *testing.T) {
	h := &holes{b: mapAll(t, open(t, build(t))), missing: map[int64]bool{1: true, 5: true}}
	im, err := Open(h, Mapped)
	if err != nil {
		t.Fatal(err)
	}
	h.reads = 0
	wantExports(t, im)
	if h.reads != 1 {
		t.Errorf("the export directory is one page and took %d reads", h.reads)
	}
	if cv, err := im.CodeView(); err != nil || cv.Age != 3 {
		t.Errorf("%v %v", cv, err)
	}
	if _, err := im.Relocate(0); !errors.Is(err, ErrUnsupported) {
		t.Errorf("relocate: %v", err)
	}
	h.missing[4] = true
	if _, err := im.CodeView(); !errors.Is(err, errMissing) || errors.Is(err, ErrMalformed) {
		t.Errorf("missing debug directory: %v", err)
	}
	h.missing[3] = true
	if _, err := im.Exports(); !errors.Is(err, errMissing) {
		t.Errorf("missing exports: %v", err)
	}
	h.missing[0] = true
	if _, err := Open(h, Mapped); !errors.Is(err, errMissing) {
		t.Errorf("missing header: %v", err)
	}
}

func TestExportsPartly(t *testing.T) {
	b := build(t)
	le.PutUint32(b[0x800+0x64:], 0x2FFFFFF0) // the second name leaves the image
	e, err := open(t, b).Exports()
	if err != nil {
		t.Fatal(err)
	}
	all, err := e.All()
	if err == nil || len(all) == 0 {
		t.Errorf("%v %v", all, err)
	}
	for _, n := range []int{20, 24} {
		b := build(t)
		le.PutUint32(b[0x800+n:], 0xFFFFFFFF)
		if _, err := open(t, b).Exports(); !errors.Is(err, ErrMalformed) {
			t.Errorf("count at %d: %v", n, err)
		}
	}
}

func TestRelocate(t *testing.T) {
	im := open(t, build(t))
	r, err := im.Relocate(0xfffff80000400000)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 8)
	if _, err := r.ReadAt(p, 0x1020); err != nil || le.Uint64(p) != 0xfffff80000401010 {
		t.Errorf("%x %v", p, err)
	}
	whole := make([]byte, 0x40)
	if _, err := r.ReadAt(whole, 0x1000); err != nil {
		t.Fatal(err)
	}
	for from := range 0x40 {
		for n := 1; from+n <= 0x40; n++ {
			p := make([]byte, n)
			if _, err := r.ReadAt(p, int64(0x1000+from)); err != nil || !bytes.Equal(p, whole[from:from+n]) {
				t.Fatalf("%d bytes at %#x: % x", n, from, p)
			}
		}
	}
	if !r.Patched(0x1027, 1) || r.Patched(0x1030, 16) || r.Patched(0x1000, 0x20) {
		t.Error("Patched")
	}
	same, err := im.Relocate(im.ImageBase)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := same.ReadAt(p, 0x1020); err != nil || le.Uint64(p) != 0x180001010 {
		t.Errorf("own base: %x %v", p, err)
	}
	for name, spoil := range map[string]func(b []byte){
		"block":       func(b []byte) { le.PutUint32(b[0xC04:], 7) },
		"long block":  func(b []byte) { le.PutUint32(b[0xC04:], 0xFFFFFF00) },
		"leaves":      func(b []byte) { le.PutUint32(b[0xC00:], 0xF0000000) },
		"directory":   func(b []byte) { le.PutUint32(b[0x98+112+8*DirBaseReloc+4:], 0xF0000000) },
		"unsupported": func(b []byte) { le.PutUint16(b[0xC08:], 4<<12) },
		"none":        func(b []byte) { le.PutUint32(b[0x98+112+8*DirBaseReloc:], 0) },
	} {
		b := build(t)
		spoil(b)
		if _, err := open(t, b).Relocate(1 << 40); !errors.Is(err, ErrMalformed) && !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// sameAsStandard compares with debug/pe.
func sameAsStandard(t *testing.T, path string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	im, err := Open(f, File)
	if err != nil {
		t.Errorf("%s: %v", filepath.Base(path), err)
		return
	}
	std, err := dpe.NewFile(f)
	if err != nil {
		t.Logf("%s: debug/pe: %v", filepath.Base(path), err)
		return
	}
	if uint16(im.Machine) != std.Machine || im.TimeDateStamp != std.TimeDateStamp || len(im.Sections) != len(std.Sections) {
		t.Errorf("%s: header differs", filepath.Base(path))
	}
	switch h := std.OptionalHeader.(type) {
	case *dpe.OptionalHeader64:
		if im.ImageBase != h.ImageBase || im.SizeOfImage != h.SizeOfImage || im.EntryPoint != h.AddressOfEntryPoint || im.CheckSum != h.CheckSum {
			t.Errorf("%s: optional header differs", filepath.Base(path))
		}
	case *dpe.OptionalHeader32:
		if im.ImageBase != uint64(h.ImageBase) || im.SizeOfImage != h.SizeOfImage || im.EntryPoint != h.AddressOfEntryPoint || im.CheckSum != h.CheckSum {
			t.Errorf("%s: optional header differs", filepath.Base(path))
		}
	}
	for i, s := range std.Sections {
		o := im.Sections[i]
		if o.Name != s.Name || o.VirtualAddress != s.VirtualAddress || o.VirtualSize != s.VirtualSize || o.Size != s.Size || o.Offset != s.Offset {
			t.Errorf("%s: section %d: %+v, debug/pe %+v", filepath.Base(path), i, o, s.SectionHeader)
			continue
		}
		data, err := s.Data()
		if err != nil {
			continue
		}
		n := min(len(data), int(o.extent()))
		got := make([]byte, n)
		if _, err := im.ReadAt(got, int64(o.VirtualAddress)); err != nil || !bytes.Equal(got, data[:n]) {
			t.Errorf("%s: data of %s differs (%v)", filepath.Base(path), s.Name, err)
		}
	}
	exports := 0
	if e, err := im.Exports(); err != nil {
		t.Errorf("%s: exports: %v", filepath.Base(path), err)
	} else if e != nil {
		all, err := e.All()
		if err != nil {
			t.Errorf("%s: exports: %v", filepath.Base(path), err)
		}
		exports = len(all)
		names := 0
		for _, x := range all {
			if x.Name == "" {
				continue
			}
			names++
			if y, ok, err := e.Lookup(x.Name); err != nil || !ok || y != x {
				t.Errorf("%s: %s: %v, %v %v", filepath.Base(path), x.Name, x, y, err)
			}
		}
		if names != int(e.NumNames) {
			t.Errorf("%s: %d names of %d", filepath.Base(path), names, e.NumNames)
		}
	}
	cv, err := im.CodeView()
	if err != nil && !errors.Is(err, ErrUnsupported) {
		t.Errorf("%s: %v", filepath.Base(path), err)
	}
	relocs := -1
	if r, err := im.Relocate(im.ImageBase + 0x10000); err == nil {
		relocs = len(r.relocs)
		if !sort.SliceIsSorted(r.relocs, func(i, j int) bool { return r.relocs[i].rva < r.relocs[j].rva }) {
			t.Errorf("%s: relocations not sorted", filepath.Base(path))
		}
	} else if !errors.Is(err, ErrUnsupported) {
		t.Errorf("%s: %v", filepath.Base(path), err)
	}
	t.Logf("%s: %v, %d sections, %d exports, %d relocations, pdb %v", filepath.Base(path), im.Machine, len(im.Sections), exports, relocs, cv)
}

// TestRealImages compares with debug/pe: programs built here, the images of
// the simulated kernel, and those in OPENKD_PE_FILES (separated as in PATH).
func TestRealImages(t *testing.T) {
	var files []string
	if !testing.Short() {
		if goTool, err := exec.LookPath("go"); err == nil {
			dir := t.TempDir()
			src := filepath.Join(dir, "m.go")
			if err := os.WriteFile(src, []byte("package main\nfunc main() { println(1) }\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, a := range []string{"amd64", "386", "arm64"} {
				out := filepath.Join(dir, a+".exe")
				cmd := exec.Command(goTool, "build", "-o", out, src)
				cmd.Env = append(os.Environ(), "GOOS=windows", "GOARCH="+a, "CGO_ENABLED=0")
				if msg, err := cmd.CombinedOutput(); err != nil {
					t.Logf("go build for %s: %v: %s", a, err, msg)
					continue
				}
				files = append(files, out)
			}
		}
	}
	for _, p := range []string{"*.exe", "*.dll", "*.sys", "image/*.exe", "image/*.dll"} {
		more, _ := filepath.Glob("../../sim/kernel/" + p)
		files = append(files, more...)
	}
	if v := os.Getenv("OPENKD_PE_FILES"); v != "" {
		files = append(files, filepath.SplitList(v)...)
	}
	if len(files) == 0 {
		t.Skip("no image to compare: no go command, no simulated kernel, OPENKD_PE_FILES not set")
	}
	for _, f := range files {
		sameAsStandard(t, f)
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(build(f), true)
	f.Add(build(f), false)
	f.Add([]byte("MZ"), true)
	f.Fuzz(func(t *testing.T, b []byte, mapped bool) {
		layout := File
		if mapped {
			layout = Mapped
		}
		im, err := Open(bytes.NewReader(b), layout)
		if err != nil {
			return
		}
		_, _ = im.CodeView()
		if e, err := im.Exports(); err == nil && e != nil {
			all, _ := e.All()
			if len(all) > 2*maxOrdinals {
				t.Fatalf("%d exports", len(all))
			}
			_, _, _ = e.Lookup("Beta")
			_, _, _ = e.ByOrdinal(e.Base)
		}
		p := make([]byte, 300)
		for _, at := range []int64{0, 0x3F0, 0xFF8, int64(im.EntryPoint), int64(im.SizeOfImage) - 4} {
			if at < 0 {
				continue
			}
			n, err := im.ReadAt(p, at)
			if n < 0 || n > len(p) || n < len(p) && err == nil {
				t.Fatalf("%d bytes at %#x, %v", n, at, err)
			}
		}
		if r, err := im.Relocate(im.ImageBase + 0x123450000); err == nil {
			_, _ = r.ReadAt(p, 0x1000)
		}
	})
}
