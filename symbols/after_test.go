package symbols

import (
	"path/filepath"
	"slices"
	"testing"

	"openkd/image/pe"
)

// TestAfter compares what follows every address of code with a walk through all
// symbols.
func TestAfter(t *testing.T) {
	check := func(s *Set, base uint64, size uint32, most int) {
		t.Helper()
		var all []uint64
		starts := map[uint64]bool{}
		for x, err := range s.Each(ctx, base, func(string) bool { return true }) {
			if err != nil {
				t.Fatal(err)
			}
			if x.HasAddress() && x.Code {
				all = append(all, x.Addr)
				starts[x.Addr] = true
			}
		}
		slices.Sort(all)
		if len(all) < 3 {
			t.Fatalf("%d symbols", len(all))
		}
		step := max((all[len(all)-1]-all[0])/uint64(most), 1)
		for addr := all[0]; addr < all[len(all)-1]; addr += step {
			behind := addr
			here, d, ok, err := s.Nearest(ctx, addr)
			if err != nil || !ok {
				continue // between sections
			}
			if d < uint64(here.Size) {
				behind = here.Addr + uint64(here.Size) - 1
			}
			i, _ := slices.BinarySearch(all, behind+1)
			if i == len(all) {
				continue
			}
			got, ok, err := s.After(ctx, addr)
			if err != nil || !ok || got.Addr != all[i] && got.Code || got.Addr > all[i] {
				t.Errorf("%x (%s+%x): %s at %x, %v, %v; want %x", addr, here.Full(), d, got.Full(), got.Addr, ok, err, all[i])
			}
		}
		if _, ok, err := s.After(ctx, base+uint64(size)+1000); ok || err != nil {
			t.Error("behind the module", ok, err)
		}
	}
	mods, mem := machine(t)
	s, _ := newSet(t, mods, mem, kernelDir, nil)
	check(s, mods[0].Base, mods[0].Size, 2000)
	none, _ := newSet(t, mods, mem, t.TempDir(), nil) // exports
	check(none, mods[0].Base, mods[0].Size, 200)
	for _, name := range []string{"x64.exe", "x86.exe", "arm64.exe"} {
		file := filepath.Join("../image/dwarf/testdata", name)
		im, err := openImage(file)
		if err != nil {
			t.Fatal(err)
		}
		const base = 0x10000000
		mem := &memory{images: map[uint64]*pe.Image{base: im}}
		s, _ := newSet(t, []Module{{Name: "mod", Image: name, Base: base, Size: im.SizeOfImage}}, mem, t.TempDir(), nil)
		s.SetPaths(Path{}, path(t, filepath.Dir(file)))
		check(s, base, im.SizeOfImage, 2000)
	}
}
