package engine

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"openkd/arch"
	"openkd/kdproto"
	"openkd/symbols"
	"openkd/target"
)

// manyModules is an engine with a Set and n modules.
func manyModules(t testing.TB, n int) (*Engine, *symbolSet) {
	t.Helper()
	e := New(nil, Options{})
	e.arch, _ = arch.For(kdproto.MachineAMD64)
	finder, err := symbols.NewFinder(symbols.Options{})
	if err != nil {
		t.Fatal(err)
	}
	set := e.UseSymbols(finder)
	t.Cleanup(set.Close)
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range n {
		e.mods.event(nil, &target.Module{Path: fmt.Sprintf(`\driver%d.sys`, i), Base: 0xFFFFF80000000000 + uint64(i)<<20, Size: 0x80000})
	}
	return e, e.opt.Symbols.(*symbolSet)
}

// Names do not look through the modules: the Set is told once of each change.
func TestNamesDoNotCompareModules(t *testing.T) {
	e, s := manyModules(t, 200)
	for i := range 10_000 {
		addr := 0xFFFFF80000000000 + uint64(i%200)<<20 + uint64(i)
		if name, _, ok := e.Name(addr); !ok || !strings.HasPrefix(name, "driver") && name != "nt" {
			t.Fatal(name, ok)
		}
	}
	if s.copies != 1 {
		t.Errorf("the modules were looked through %d times for 10000 names, want once", s.copies)
	}
	e.AddModule(Module{Name: "late", ImageName: "late.sys", Base: 0xFFFFF90000000000, Size: 0x1000})
	for range 100 {
		if name, _, ok := e.Name(0xFFFFF90000000010); !ok || name != "late" {
			t.Fatal(name, ok)
		}
	}
	if _, ok := s.now().Named("late"); !ok || s.copies != 2 {
		t.Error("a change is not seen, or seen more than once: ", ok, s.copies)
	}
}

// Whatever is done to the list, the Set has it at the next question.
func TestSetFollowsModules(t *testing.T) {
	e, s := manyModules(t, 3)
	rnd := rand.New(rand.NewPCG(1, 2))
	header := make([]byte, 0x60)
	copy(header, "PE\x00\x00")
	told := 0
	for step := range 3000 {
		base := 0xFFFFF80000000000 + rnd.Uint64N(8)<<20
		what := rnd.IntN(8)
		e.mu.Lock()
		switch what {
		case 0:
			e.mods.event(nil, &target.Module{Path: fmt.Sprintf(`\x%d.sys`, rnd.IntN(20)), Base: base, Size: rnd.Uint32N(5) << 12})
		case 1:
			e.mods.event(nil, &target.Module{Base: base, Unload: true})
		case 2:
			if step%7 == 0 {
				e.mods.event(nil, &target.Module{All: true})
			}
		case 3:
			e.mods.edit(base, func(m *Module) { m.Name = "nt" })
		case 4:
			e.mods.addNew(Module{Name: "y", ImageName: "y.dll", Base: base, Size: 0x1000})
		}
		e.mu.Unlock()
		switch what {
		case 5:
			e.AddModule(Module{ImageName: fmt.Sprintf("z%d.sys", rnd.IntN(5)), Base: base, Size: 0x2000})
		case 6:
			e.RemoveModule(base)
		case 7:
			binary.LittleEndian.PutUint32(header[8:], rnd.Uint32())
			binary.LittleEndian.PutUint32(header[0x58:], rnd.Uint32())
			e.noteHeader(base, header)
		}
		want, got := e.KnownModules(), s.now().Modules()
		if len(want) != len(got) {
			t.Fatalf("step %d, %d: the Set has %d modules, the engine %d", step, what, len(got), len(want))
		}
		for i, w := range want {
			g := got[i]
			// What the Set has once learnt of sizes and stamps it keeps.
			if g.Base != w.Base || g.Name != w.Name || w.TimeDateStamp != 0 && g.Timestamp != w.TimeDateStamp || w.CheckSum != 0 && g.CheckSum != w.CheckSum {
				t.Fatalf("step %d, %d: the Set has %+v, the engine %+v", step, what, g.Module, w)
			}
		}
		told += len(want)
	}
	if told < 3000 {
		t.Errorf("only %d modules in 3000 steps", told)
	}
}

// BenchmarkName is one name among many modules.
func BenchmarkName(b *testing.B) {
	for _, n := range []int{2, 200, 1000} {
		b.Run(fmt.Sprintf("modules=%d", n), func(b *testing.B) {
			e, _ := manyModules(b, n)
			for b.Loop() {
				e.Name(0xFFFFF80000000123)
			}
		})
	}
}
