package symbols

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"openkd/image/pe"
	"openkd/image/sym"
)

// memory is a target that has images loaded.
type memory struct {
	mu     sync.Mutex
	images map[uint64]*pe.Image // nil: headers are paged out
	err    error
	asked  []int // modules in each exchange
	reads  atomic.Int32
}

func (m *memory) Headers(_ context.Context, mods []Module) ([]*Header, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, len(mods))
	if m.err != nil {
		return nil, m.err
	}
	out := make([]*Header, len(mods))
	for i, mod := range mods {
		if im := m.images[mod.Base]; im != nil {
			cv, err := im.CodeView()
			if err != nil {
				return nil, err
			}
			out[i] = &Header{im.TimeDateStamp, im.CheckSum, im.SizeOfImage, cv}
		}
	}
	return out, nil
}

type counted struct {
	r io.ReaderAt
	n *atomic.Int32
}

func (c counted) ReadAt(p []byte, off int64) (int, error) {
	c.n.Add(1)
	return c.r.ReadAt(p, off)
}

func (m *memory) Memory(_ context.Context, mod Module) io.ReaderAt {
	m.mu.Lock()
	defer m.mu.Unlock()
	if im := m.images[mod.Base]; im != nil {
		return counted{im, &m.reads}
	}
	return bytes.NewReader(nil)
}

const ntBase = 0xFFFFF80000400000

// machine is the simulator's kernel with its drivers, as a target says it.
func machine(t testing.TB) ([]Module, *memory) {
	t.Helper()
	m := &memory{images: map[uint64]*pe.Image{}}
	var mods []Module
	for i, name := range []string{"ntoskrnl.exe", "hal.dll", "openkd.sys", "sample.sys", "tcpip.sys"} {
		fx := load(t, name)
		mod := Module{Image: name, Base: ntBase + uint64(i)*0x1000000, Size: fx.im.SizeOfImage, CheckSum: fx.im.CheckSum}
		mods = append(mods, mod)
		m.images[mod.Base] = fx.im
	}
	return mods, m
}

func newSet(t testing.TB, mods []Module, target Target, path string, change func(*Options)) (*Set, *log) {
	t.Helper()
	f, l := finder(t, change)
	s := NewSet(f, target)
	t.Cleanup(s.Close)
	p, err := ParsePath(path)
	if err != nil {
		t.Fatal(err)
	}
	s.SetPaths(p, Path{})
	s.Update(mods)
	return s, l
}

var ctx = context.Background()

// list is the simulator's own list of symbols of an image.
func list(t testing.TB, image string) map[string]uint64 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(kernelDir, image+".sym"))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]uint64{}
	for _, l := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		var rva uint64
		var name string
		if _, err := fmt.Sscanf(l, "%x %s", &rva, &name); err != nil {
			t.Fatal(l, err)
		}
		out[name] = rva
	}
	return out
}

func TestNames(t *testing.T) {
	mods, mem := machine(t)
	s, _ := newSet(t, mods, mem, kernelDir, nil)
	for i, image := range []string{"ntoskrnl.exe", "hal.dll", "tcpip.sys"} {
		m, ok := s.Named(image)
		if !ok {
			t.Fatal(image)
		}
		n := 0
		for name, rva := range list(t, image) {
			// Not a place, the end of a section, local to a function.
			if rva == 0 || strings.HasPrefix(name, "__imp_") || name == "MmBulkDataEnd" || strings.Contains(name, ".") {
				continue
			}
			got, err := s.Lookup(ctx, m.Name+"!"+name)
			if err != nil {
				t.Errorf("%s!%s: %v", m.Name, name, err)
				continue
			}
			if !slices.ContainsFunc(got, func(x Symbol) bool { return x.Addr == m.Base+rva && x.Name == name && x.Module == m.Name }) {
				t.Errorf("%s!%s: %+v, want %x", m.Name, name, got, m.Base+rva)
			}
			x, d, ok, err := s.Nearest(ctx, m.Base+rva)
			if err != nil || !ok || d != 0 || x.Addr != m.Base+rva {
				t.Errorf("%s: %s+%x, %t, %v", name, x.Full(), d, ok, err)
			}
			k, kd, ok := s.Known(m.Base + rva)
			if !ok || k.Full() != x.Full() || kd != d {
				t.Errorf("%s: %s+%x is known", name, k.Full(), kd)
			}
			n++
		}
		if n == 0 {
			t.Error("nothing to look at in", image)
		}
		if got := mem.asked; len(got) != i+1 || got[i] != 1 {
			t.Errorf("headers were asked for %v times", got)
		}
	}
	st, _ := s.Named("NT")
	if st.State != PDB || !st.Private || st.Name != "nt" || filepath.Base(st.File) != "ntkrnlmp.pdb" || !strings.HasPrefix(st.String(), "(private pdb symbols)   ") {
		t.Errorf("%+v: %s", st, st.String())
	}
	if st, _ := s.Named("sample"); st.State != Deferred || st.String() != "(deferred)" {
		t.Errorf("%+v", st)
	}

	// In any case; by the file's name; without a module.
	for _, name := range []string{"NT!kebugcheckex", "ntoskrnl!KeBugCheckEx", "ntoskrnl.exe!KeBugCheckEx", "KeBugCheckEx", "!KEBUGCHECKEX"} {
		got, err := s.Lookup(ctx, name)
		if err != nil || len(got) == 0 || got[0].Full() != "nt!KeBugCheckEx" {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for name, want := range map[string]string{
		"nt!NoSuchThing":  "no such symbol as nt!NoSuchThing",
		"NoSuchThing":     "in the 3 of 5 modules whose symbols are loaded",
		"SampleIncrement": "in the 3 of 5",
		"none!x":          `no such module as "none"`,
		"nt!":             "no such symbol",
		"":                "no such symbol",
	} {
		if _, err := s.Lookup(ctx, name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if st, _ := s.Named("sample"); st.State != Deferred {
		t.Error("a name without a module loads them all")
	}
	if _, _, ok, err := s.Nearest(ctx, 0x1000); ok || err != nil {
		t.Error(ok, err)
	}
	if _, _, ok := s.Known(ntBase + 3*0x1000000 + 0x1000); ok {
		t.Error("a deferred module is known")
	}
}

func TestPlainNames(t *testing.T) {
	for in, want := range map[string]string{
		"ntoskrnl.exe": "nt", "NTKRNLPA.EXE": "nt", "hal.dll": "hal", "a.b.sys": "a.b", "x": "x", ".sys": ".sys",
	} {
		if got := ModuleName(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}

func TestTypesAndLines(t *testing.T) {
	mods, mem := machine(t)
	s, _ := newSet(t, mods, mem, kernelDir, nil)
	ty, err := s.FindType(ctx, "nt!_EPROCESS")
	if err != nil || ty.ID == 0 || ty.Base != ntBase || ty.Name != "_EPROCESS" {
		t.Fatal(ty, err)
	}
	for _, name := range []string{"_eprocess", "NT!_Eprocess", "_EPROCESS"} {
		if got, err := s.FindType(ctx, name); err != nil || got.ID != ty.ID || got.Name != "_EPROCESS" {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	for _, name := range []string{"nt!_NOTHING", "_NOTHING", "none!_X", ""} {
		if _, err := s.FindType(ctx, name); err == nil {
			t.Errorf("%s is a type", name)
		}
	}
	f, err := s.File(ctx, ntBase, LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	members, err := f.Members(ty.ID)
	if err != nil || len(members) == 0 {
		t.Error(members, err)
	}
	n := 0
	for x, err := range s.EachType(ctx, ntBase, func(n string) bool { return strings.HasPrefix(n, "_K") }) {
		if err != nil || !strings.HasPrefix(x.Name, "_K") {
			t.Error(x, err)
		}
		n++
	}
	if n == 0 {
		t.Error("no types")
	}

	tcpip, _ := s.Named("tcpip")
	rva := list(t, "tcpip.sys")["TcpipChecksum"]
	at := tcpip.Base + rva
	l, ok, err := s.Line(ctx, at)
	if err != nil || !ok || l.Addr != at || !strings.HasSuffix(l.File, "tcpip.c") || l.Module != "tcpip" {
		t.Fatal(l, ok, err)
	}
	for _, mod := range []string{"tcpip", ""} {
		got, err := s.Addresses(ctx, mod, "tcpip.c", l.Line.Line)
		if err != nil || !slices.ContainsFunc(got, func(x Line) bool { return x.Addr == at }) {
			t.Error(got, err)
		}
	}
	scopes, err := s.Scopes(ctx, at)
	if err != nil || len(scopes) == 0 || scopes[0].Name != "TcpipChecksum" {
		t.Error(scopes, err)
	}
	var names []string
	for x, err := range s.Each(ctx, tcpip.Base, func(n string) bool { return strings.HasPrefix(n, "Tcpip") }) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, x.Name)
	}
	slices.Sort(names)
	if want := []string{"TcpipChecksum", "TcpipReceiveThread", "TcpipSegment", "TcpipSegments"}; !slices.Equal(names, want) {
		t.Error(names)
	}
	for range s.Each(ctx, tcpip.Base, func(string) bool { return true }) {
		break // and nothing is left open
	}
	for _, err := range s.Each(ctx, 1, func(string) bool { return true }) {
		if !errors.Is(err, ErrNoModule) {
			t.Error(err)
		}
	}
	if _, err := s.Scopes(ctx, 1); !errors.Is(err, ErrNoModule) {
		t.Error(err)
	}
}

func TestLoadAll(t *testing.T) {
	mods, mem := machine(t)
	s, _ := newSet(t, mods, mem, kernelDir, nil)
	var done []string
	if err := s.LoadAll(ctx, nil, LoadOptions{}, func(st Status) { done = append(done, st.Name+" "+st.String()) }); err != nil {
		t.Fatal(err)
	}
	if len(done) != 5 || len(mem.asked) != 1 || mem.asked[0] != 5 {
		t.Errorf("%q, after asking for %v", done, mem.asked)
	}
	for _, st := range s.Modules() {
		if st.State != PDB || !st.Header || st.Timestamp == 0 || st.PDB == nil {
			t.Errorf("%+v", st)
		}
	}
	// Nothing is done twice, unless it is asked for.
	if err := s.LoadAll(ctx, nil, LoadOptions{}, nil); err != nil || len(mem.asked) != 1 {
		t.Error(err, mem.asked)
	}
	s.Unload(ntBase)
	if st, _ := s.Status(ntBase); st.State != Deferred {
		t.Error(st.State)
	}
	if st, _ := s.Status(ntBase + 0x1000000); st.State != PDB {
		t.Error(st.State)
	}
	s.Unload()
	for _, st := range s.Modules() {
		if st.State != Deferred {
			t.Error(st.Name, st.State)
		}
	}
}

func TestFallbacks(t *testing.T) {
	mods, mem := machine(t)
	hal, tcpip := mods[1], mods[4]
	halList := list(t, "hal.dll")
	exported := func(s *Set) error {
		got, err := s.Lookup(ctx, "hal!HalReadCmos")
		if err == nil && (len(got) != 1 || got[0].Addr != hal.Base+halList["HalReadCmos"] || !got[0].Code) {
			err = fmt.Errorf("%+v", got)
		}
		if err != nil {
			return err
		}
		x, d, ok, err := s.Nearest(ctx, got[0].Addr+2)
		if err != nil || !ok || x.Full() != "hal!HalReadCmos" || d != 2 {
			return fmt.Errorf("%s+%x, %v", x.Full(), d, err)
		}
		return nil
	}
	t.Run("headers are paged out, the image is here", func(t *testing.T) {
		mem.images[tcpip.Base] = nil
		defer func() { mem.images[tcpip.Base] = load(t, "tcpip.sys").im }()
		m := tcpip
		m.Timestamp = load(t, "tcpip.sys").im.TimeDateStamp
		s, _ := newSet(t, []Module{m}, mem, kernelDir, nil)
		if err := s.Load(ctx, m.Base, LoadOptions{}); err != nil {
			t.Fatal(err)
		}
		st, _ := s.Status(m.Base)
		if st.State != PDB || filepath.Base(st.ImageFile) != "tcpip.sys" {
			t.Errorf("%+v", st)
		}
	})
	t.Run("the image is on the image path, its PDB beside it", func(t *testing.T) {
		m := tcpip
		m.Timestamp = load(t, "tcpip.sys").im.TimeDateStamp
		s, _ := newSet(t, []Module{m}, nil, "", nil)
		s.SetPaths(Path{}, path(t, kernelDir))
		if err := s.Load(ctx, m.Base, LoadOptions{}); err != nil {
			t.Fatal(err)
		}
		im, err := s.Image(ctx, m.Base)
		if err != nil || im.SizeOfImage != m.Size {
			t.Error(im, err)
		}
	})
	t.Run("headers are paged out, and nothing is known", func(t *testing.T) {
		mem.images[tcpip.Base] = nil
		defer func() { mem.images[tcpip.Base] = load(t, "tcpip.sys").im }()
		m := tcpip
		m.CheckSum = 0
		s, _ := newSet(t, []Module{m}, mem, kernelDir, nil)
		err := s.Load(ctx, m.Base, LoadOptions{})
		var no *NoSymbolsError
		if !errors.As(err, &no) || !strings.Contains(err.Error(), "headers of tcpip.sys cannot be read") {
			t.Error(err)
		}
	})
	t.Run("exports of the file", func(t *testing.T) {
		dir := t.TempDir()
		write(t, load(t, "hal.dll").imageData, dir, "hal.dll")
		s, l := newSet(t, mods, mem, dir, nil)
		if err := exported(s); err != nil {
			t.Fatal(err)
		}
		st, _ := s.Named("hal")
		if st.State != Exports || st.File != filepath.Join(dir, "hal.dll") || st.Private || st.Err == nil {
			t.Errorf("%+v", st)
		}
		if !strings.Contains(l.text(), "DBGHELP: hal - export symbols") {
			t.Error(l.text())
		}
		if _, ok, err := s.Line(ctx, hal.Base+0x1000); ok || err != nil {
			t.Error(ok, err)
		}
		if _, err := s.FindType(ctx, "hal!_X"); err == nil {
			t.Error("a type")
		}
		if got, err := s.Scopes(ctx, hal.Base+0x1000); len(got) != 0 || err != nil {
			t.Error(got, err)
		}
		n := 0
		for _, err := range s.Each(ctx, hal.Base, func(n string) bool { return strings.HasPrefix(n, "Hal") }) {
			if err != nil {
				t.Error(err)
			}
			n++
		}
		if n != 2 {
			t.Error(n)
		}
	})
	t.Run("exports in memory", func(t *testing.T) {
		mem.reads.Store(0)
		s, _ := newSet(t, mods, mem, t.TempDir(), nil)
		if err := exported(s); err != nil {
			t.Fatal(err)
		}
		st, _ := s.Named("hal")
		if st.State != Exports || st.File != "" || st.String() != "(export symbols)        hal.dll" {
			t.Errorf("%+v %s", st, st.String())
		}
		if n := mem.reads.Load(); n > 12 {
			t.Errorf("%d reads of the target", n)
		}
	})
	t.Run("nothing", func(t *testing.T) {
		dir := t.TempDir()
		s, l := newSet(t, mods, mem, dir, nil)
		_, err := s.Lookup(ctx, "tcpip!TcpipChecksum")
		var no *NoSymbolsError
		if !errors.As(err, &no) || !strings.Contains(err.Error(), "tcpip.pdb (GUID ") {
			t.Fatal(err)
		}
		st, _ := s.Named("tcpip")
		if st.State != None || st.String() != "(no symbols)" || st.Err == nil || len(st.Tried) == 0 {
			t.Errorf("%+v", st)
		}
		if !strings.Contains(l.text(), "DBGHELP: tcpip - no symbols loaded") {
			t.Error(l.text())
		}
		if _, _, ok, err := s.Nearest(ctx, tcpip.Base+0x1000); ok || !errors.As(err, &no) {
			t.Error(ok, err)
		}
		// It is not looked for again until something changes.
		n := strings.Count(l.text(), "\n")
		_, _ = s.Lookup(ctx, "tcpip!TcpipChecksum")
		if strings.Count(l.text(), "\n") != n {
			t.Error("looked for again")
		}
		write(t, load(t, "tcpip.sys").pdbData, dir, "tcpip.pdb")
		if err := s.Load(ctx, tcpip.Base, LoadOptions{}); err == nil {
			t.Error("looked for again")
		}
		if err := s.Load(ctx, tcpip.Base, LoadOptions{Force: true}); err != nil {
			t.Error(err)
		}
		s.Unload(tcpip.Base)
		if err := os.Remove(filepath.Join(dir, "tcpip.pdb")); err != nil {
			t.Fatal(err)
		}
		if err := s.Load(ctx, tcpip.Base, LoadOptions{}); err == nil {
			t.Error("loaded")
		}
		s.SetPaths(path(t, kernelDir), Path{})
		if _, err := s.Lookup(ctx, "tcpip!TcpipChecksum"); err != nil {
			t.Error(err)
		}
	})
	t.Run("the target runs", func(t *testing.T) {
		running := errors.New("the target is running")
		mem.err = running
		defer func() { mem.err = nil }()
		s, _ := newSet(t, mods, mem, t.TempDir(), nil)
		if err := s.Load(ctx, tcpip.Base, LoadOptions{}); !errors.Is(err, running) {
			t.Error(err)
		}
		if st, _ := s.Named("tcpip"); st.State != Deferred {
			t.Error(st.State)
		}
		mem.err = nil
		s.SetPaths(path(t, kernelDir), Path{})
		if err := s.Load(ctx, tcpip.Base, LoadOptions{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("the target is not to be asked", func(t *testing.T) {
		s, _ := newSet(t, mods, mem, t.TempDir(), nil)
		mem.asked = nil
		for range 3 {
			if f, err := s.File(ctx, hal.Base, LoadOptions{NoTarget: true}); err == nil {
				t.Error(f)
			}
		}
		if len(mem.asked) != 0 {
			t.Error("asked")
		}
		if st, _ := s.Status(hal.Base); st.State != Deferred {
			t.Error(st.State)
		}
		if err := exported(s); err != nil {
			t.Error(err)
		}
	})
}

func TestMinGW(t *testing.T) {
	for _, name := range []string{"x64.exe", "x86.exe", "arm64.exe"} {
		file := filepath.Join("../image/dwarf/testdata", name)
		im, err := openImage(file)
		if err != nil {
			t.Fatal(err)
		}
		const base = 0x10000000
		mem := &memory{images: map[uint64]*pe.Image{base: im}}
		s, l := newSet(t, []Module{{Name: "mod", Image: name, Base: base, Size: im.SizeOfImage}}, mem, t.TempDir(), nil)
		if err := s.Load(ctx, base, LoadOptions{}); err != nil { // exports
			t.Error(err)
		}
		s.SetPaths(Path{}, path(t, filepath.Dir(file)))
		if err := s.Load(ctx, base, LoadOptions{}); err != nil {
			t.Fatal(err)
		}
		st, _ := s.Status(base)
		if st.State != InImage || !st.Private || !strings.HasPrefix(st.String(), "(dwarf symbols)         ") || st.Err != nil {
			t.Errorf("%+v\n%s", st, l.text())
		}
		n := 0
		for x, err := range s.Each(ctx, base, func(string) bool { return true }) {
			if err != nil {
				t.Fatal(err)
			}
			if x.Kind != sym.Function || n > 20 {
				continue
			}
			n++
			got, err := s.Lookup(ctx, "mod!"+x.Name)
			if err != nil || !slices.ContainsFunc(got, func(y Symbol) bool { return y.Addr == x.Addr }) {
				t.Errorf("%s: %+v, %v", x.Name, got, err)
			}
		}
		if n == 0 {
			t.Error("no functions")
		}
	}
}

func TestGivenFile(t *testing.T) {
	mods, mem := machine(t)
	tcpip := mods[4]
	dir := t.TempDir()
	right := write(t, load(t, "tcpip.sys").pdbData, dir, "renamed.pdb")
	wrong := write(t, load(t, "hal.dll").pdbData, dir, "wrong.pdb")
	s, _ := newSet(t, mods, mem, "", nil)
	if err := s.Load(ctx, tcpip.Base, LoadOptions{File: right}); err != nil {
		t.Error(err)
	}
	if err := s.Load(ctx, tcpip.Base, LoadOptions{File: wrong}); err == nil || !strings.Contains(err.Error(), "/i takes it") {
		t.Error(err)
	}
	if st, _ := s.Status(tcpip.Base); st.State != PDB || st.File != right {
		t.Errorf("what was there is gone: %+v", st)
	}
	if err := s.Load(ctx, tcpip.Base, LoadOptions{File: wrong, Loose: true}); err != nil {
		t.Error(err)
	}
	if st, _ := s.Status(tcpip.Base); st.File != wrong || !st.Mismatched || !strings.Contains(st.String(), "(mismatched)") {
		t.Errorf("%+v", st)
	}
	for _, bad := range []string{filepath.Join(dir, "none"), dir, write(t, []byte("hello"), dir, "x.pdb"), write(t, nil, dir, "y.pdb")} {
		if err := s.Load(ctx, tcpip.Base, LoadOptions{File: bad, Force: true}); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
	// Loose along a path.
	write(t, load(t, "hal.dll").pdbData, dir, "tcpip.pdb")
	s.SetPaths(path(t, dir), Path{})
	s.Unload()
	if err := s.Load(ctx, tcpip.Base, LoadOptions{}); err == nil {
		t.Error("a wrong file was taken")
	}
	if err := s.Load(ctx, tcpip.Base, LoadOptions{Loose: true}); err != nil {
		t.Error(err)
	}
	if err := s.Load(ctx, 1, LoadOptions{}); !errors.Is(err, ErrNoModule) {
		t.Error(err)
	}
}

func TestLinkedWhereItLies(t *testing.T) {
	mods, mem := machine(t)
	tcpip := mods[4]
	fx := load(t, "tcpip.sys")
	file := write(t, fx.pdbData, t.TempDir(), "tcpip.pdb")
	cv := *fx.cv
	cv.PDB = file
	tcpip.PDB, tcpip.Header, tcpip.Timestamp = &cv, true, fx.im.TimeDateStamp
	s, l := newSet(t, []Module{tcpip}, mem, "", nil)
	if err := s.Load(ctx, tcpip.Base, LoadOptions{}); err != nil {
		t.Fatal(err, l.text())
	}
	for _, evil := range []string{`\\server\share\tcpip.pdb`, "//server/share/tcpip.pdb", "/dev/zero", "/etc/passwd", "tcpip.pdb", "../tcpip.pdb", "/proc/self/mem"} {
		cv.PDB = evil
		s.Unload()
		if err := s.Load(ctx, tcpip.Base, LoadOptions{}); err == nil {
			t.Errorf("%s was taken", evil)
		}
	}
}

func TestUpdate(t *testing.T) {
	mods, mem := machine(t)
	s, _ := newSet(t, mods, mem, kernelDir, nil)
	if err := s.LoadAll(ctx, nil, LoadOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	nt, err := s.File(ctx, ntBase, LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	hal, err := s.File(ctx, mods[1].Base, LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	// In another order, with more known of one, another image where hal was.
	next := slices.Clone(mods)
	slices.Reverse(next)
	for i := range next {
		switch next[i].Image {
		case "tcpip.sys":
			next[i].Timestamp = load(t, "tcpip.sys").im.TimeDateStamp
		case "hal.dll":
			next[i].Image = "other.dll"
		}
	}
	s.Update(next)
	for _, st := range s.Modules() {
		want := PDB
		if st.Image == "other.dll" {
			want = Deferred
		}
		if st.State != want {
			t.Errorf("%s: %v", st.Image, st.State)
		}
	}
	if _, err := nt.ByName("KeBugCheckEx"); err != nil {
		t.Error(err)
	}
	if _, err := hal.ByName("HalInitSystem"); !errors.Is(err, ErrUnloaded) {
		t.Error(err)
	}
	s.Unload(ntBase)
	if _, err := nt.ByName("KeBugCheckEx"); !errors.Is(err, ErrUnloaded) {
		t.Error(err)
	}
	if err := s.Load(ctx, ntBase, LoadOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := nt.ByName("KeBugCheckEx"); err != nil {
		t.Error("the same file again:", err)
	}
	// Another time stamp is another image.
	for i := range next {
		if next[i].Image == "tcpip.sys" {
			next[i].Timestamp++
		}
	}
	s.Update(next)
	if st, _ := s.Named("tcpip"); st.State != Deferred {
		t.Error(st.State)
	}
	s.Update(nil)
	if _, err := nt.ByName("KeBugCheckEx"); !errors.Is(err, ErrUnloaded) {
		t.Error(err)
	}
	if len(s.Modules()) != 0 {
		t.Error(s.Modules())
	}
	if _, ok := s.At(ntBase); ok {
		t.Error("still there")
	}
}

// watched opens PDBs and counts how many are open.
type watched struct {
	sym.File
	open *atomic.Int32
}

func (w watched) Close() error {
	w.open.Add(-1)
	return w.File.Close()
}

func watching(open, most *atomic.Int32) func(*Options) {
	return func(o *Options) {
		real := DefaultOpeners()
		o.Openers = real
		o.Openers.PDB = func(path string) (sym.File, error) {
			f, err := real.PDB(path)
			if err != nil {
				return nil, err
			}
			n := open.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			return watched{f, open}, nil
		}
	}
}

// TestNameComesLater: a kernel that was met without a module list has no file name
// yet, and keeps its symbols when it gets one.
func TestNameComesLater(t *testing.T) {
	mods, mem := machine(t)
	first := mods[0]
	first.Image = ""
	s, _ := newSet(t, []Module{first}, mem, kernelDir, nil)
	if err := s.Load(ctx, first.Base, LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	s.Update(mods)
	if st, _ := s.Status(first.Base); st.State != PDB || st.Image != mods[0].Image {
		t.Errorf("%+v", st)
	}
}

// TestNoExports: what is only exported is not read unless somebody asks for it.
func TestNoExports(t *testing.T) {
	mods, mem := machine(t)
	s, _ := newSet(t, mods, mem, t.TempDir(), nil)
	for range 2 {
		var none *NoSymbolsError
		if err := s.Load(ctx, ntBase, LoadOptions{NoExports: true}); !errors.As(err, &none) {
			t.Fatal(err)
		}
		if st, _ := s.Status(ntBase); st.State != Deferred || st.Err == nil {
			t.Fatalf("%+v", st)
		}
	}
	if err := s.Load(ctx, ntBase, LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	if st, _ := s.Status(ntBase); st.State != Exports {
		t.Errorf("%+v", st)
	}
	s.Unload()
	s.SetPaths(path(t, kernelDir), Path{})
	if err := s.Load(ctx, ntBase, LoadOptions{NoExports: true}); err != nil {
		t.Fatal(err)
	}
}

func TestFewFilesOpen(t *testing.T) {
	mods, mem := machine(t)
	var open, most atomic.Int32
	dir := t.TempDir()
	for _, m := range mods {
		fx := load(t, m.Image)
		write(t, fx.pdbData, dir, fx.pdb)
	}
	s, _ := newSet(t, mods, mem, dir, watching(&open, &most))
	s.maxOpen = 2
	if err := s.LoadAll(ctx, nil, LoadOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	if n := open.Load(); n != 2 {
		t.Errorf("%d files are open", n)
	}
	nt, err := s.File(ctx, ntBase, LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		for _, m := range mods {
			x, _, ok := s.Known(m.Base + 0x1000)
			if !ok {
				t.Error(m.Image, x)
			}
		}
		if list, err := nt.ByName("KeBugCheckEx"); err != nil || len(list) == 0 {
			t.Error(list, err)
		}
	}
	if n := open.Load(); n != 2 {
		t.Errorf("%d files are open", n)
	}
	// A file that is in use is not closed.
	for range nt.Symbols(func(string) bool { return true }) {
		for _, m := range mods[1:] {
			s.Known(m.Base + 0x1000)
		}
		s.Unload(ntBase)
		break
	}
	if n := open.Load(); n > 2 {
		t.Errorf("%d files are open", n)
	}
	// One that has become another file meanwhile is not mixed with the old.
	if err := s.Load(ctx, ntBase, LoadOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, m := range mods[1:] {
		s.Known(m.Base + 0x1000)
	}
	write(t, load(t, "hal.dll").pdbData, dir, "ntkrnlmp.pdb")
	if _, err := nt.ByName("KeBugCheckEx"); err == nil || !strings.Contains(err.Error(), "another file now") {
		t.Error(err)
	}
	s.Close()
	if n := open.Load(); n != 0 {
		t.Errorf("%d files are open", n)
	}
}

func TestManyAtOnce(t *testing.T) {
	mods, mem := machine(t)
	var open, most atomic.Int32
	s, _ := newSet(t, mods, mem, kernelDir, watching(&open, &most))
	s.maxOpen = 2
	fine := func(err error) bool {
		return err == nil || errors.Is(err, ErrUnloaded) || errors.Is(err, ErrNoModule) || errors.Is(err, ErrNotFound)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 40 {
				switch (n + i) % 8 {
				case 0:
					if _, err := s.Lookup(ctx, "nt!KeBugCheckEx"); !fine(err) {
						t.Error(err)
					}
				case 1:
					if _, _, _, err := s.Nearest(ctx, mods[n%5].Base+0x1010); !fine(err) {
						t.Error(err)
					}
				case 2:
					s.Unload(mods[n%5].Base)
				case 3:
					for _, err := range s.Each(ctx, mods[n%5].Base, func(string) bool { return true }) {
						if !fine(err) {
							t.Error(err)
						}
					}
				case 4:
					s.Update(mods[:2+n%4])
				case 5:
					s.Update(mods)
					s.Known(mods[n%5].Base + 0x1010)
				case 6:
					if err := s.LoadAll(ctx, nil, LoadOptions{}, func(Status) {}); err != nil {
						t.Error(err)
					}
				case 7:
					if f, err := s.File(ctx, ntBase, LoadOptions{}); err == nil {
						_, err = f.TypeByName("_EPROCESS")
						if !fine(err) {
							t.Error(err)
						}
					}
				}
			}
		})
	}
	wg.Wait()
	s.Close()
	if n := open.Load(); n != 0 {
		t.Errorf("%d files are open", n)
	}
}

func TestServerForSet(t *testing.T) {
	mods, mem := machine(t)
	srv := serve(t)
	for _, m := range mods {
		fx := load(t, m.Image)
		srv.files[fx.pdbPath()] = fx.pdbData
	}
	gate := make(chan struct{})
	srv.hook = func(w http.ResponseWriter, r *http.Request) bool {
		select {
		case <-gate:
		case <-r.Context().Done():
			return true
		}
		return false
	}
	s, l := newSet(t, mods, mem, "srv*"+srv.URL, nil)
	// Who only wants what is known does not wait for a download.
	first, cancel := context.WithCancel(ctx)
	var wg, interrupted sync.WaitGroup
	interrupted.Go(func() {
		if err := s.Load(first, ntBase, LoadOptions{}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	for len(srv.requests()) == 0 {
		time.Sleep(time.Millisecond)
	}
	if _, _, ok := s.Known(ntBase + 0x1000); ok {
		t.Error("known before it has come")
	}
	if st, _ := s.Status(ntBase); st.State != Deferred {
		t.Error(st.State)
	}
	// Another waits for it, and goes on when the first is interrupted.
	wg.Go(func() {
		if err := s.Load(ctx, ntBase, LoadOptions{}); err != nil {
			t.Error(err)
		}
	})
	time.Sleep(20 * time.Millisecond) // lets it wait; the outcome is the same if it does not yet
	cancel()
	interrupted.Wait()
	close(gate)
	wg.Wait()
	if err := s.LoadAll(ctx, nil, LoadOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	for _, st := range s.Modules() {
		if st.State != PDB || !strings.HasPrefix(st.File, s.Finder().Cache()) {
			t.Errorf("%+v", st)
		}
	}
	// Offline, from the cache.
	srv.Close()
	s2, _ := newSet(t, mods, mem, "srv*"+srv.URL, func(o *Options) { o.Cache = s.Finder().Cache() })
	if err := s2.LoadAll(ctx, nil, LoadOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	for _, st := range s2.Modules() {
		if st.State != PDB {
			t.Errorf("%+v", st)
		}
	}
	if n := l.noticed(); len(n) != 0 {
		t.Error(n)
	}
}

func TestRetry(t *testing.T) {
	mods, mem := machine(t)
	addr, conns := silent(t)
	c := &clock{t: time.Now()}
	dir := t.TempDir()
	s, l := newSet(t, mods, mem, "srv*http://"+addr+";"+dir, func(o *Options) { o.Header = 200 * time.Millisecond; o.Now = c.now })
	if err := s.LoadAll(ctx, nil, LoadOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for %d modules", n, len(mods))
	}
	if n := l.noticed(); len(n) != 1 {
		t.Error(n)
	}
	tcpip, _ := s.Named("tcpip")
	var down *DownError
	if tcpip.State != None || !errors.As(tcpip.Err, &down) {
		t.Errorf("%+v", tcpip)
	}
	// While it is left alone, so are the modules; later both are tried again.
	write(t, load(t, "tcpip.sys").pdbData, dir, "tcpip.pdb")
	if err := s.Load(ctx, tcpip.Base, LoadOptions{}); err == nil {
		t.Error("looked for again at once")
	}
	c.pass(2 * time.Minute)
	if err := s.Load(ctx, tcpip.Base, LoadOptions{}); err != nil {
		t.Error(err)
	}
	if n := conns.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

func TestImageFileReplaced(t *testing.T) {
	mods, mem := machine(t)
	dir := t.TempDir()
	hal := load(t, "hal.dll")
	file := write(t, hal.imageData, dir, "hal.dll")
	mods[1].Timestamp = hal.im.TimeDateStamp
	s, _ := newSet(t, mods, mem, "", nil)
	if _, err := s.Image(ctx, mods[1].Base); err == nil {
		t.Error("an image from nowhere")
	}
	s.SetPaths(Path{}, path(t, dir))
	im, err := s.Image(ctx, mods[1].Base)
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 16)
	if _, err := im.ReadAt(b, 0x1000); err != nil {
		t.Error(err)
	}
	write(t, append(hal.imageData, 0), file)
	if _, err := im.ReadAt(b, 0x1000); !errors.Is(err, errReplaced) {
		t.Error(err)
	}
	if _, err := s.Image(ctx, 1); !errors.Is(err, ErrNoModule) {
		t.Error(err)
	}
}
