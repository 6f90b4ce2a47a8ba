package unwind

import (
	"context"
	"fmt"
	"testing"

	"openkd/image/sym"
)

// BenchmarkWalk is the time a frame costs, by unwind data of x64, of ARM64 and
// by the frame programs of x86, over images from files.
func BenchmarkWalk(b *testing.B) {
	b.Run("x64", func(b *testing.B) {
		// The fixture, in its deepest call with small frames.
		f := openFixture(b, "x64-1.sys")
		c := x64Machine(b, f, "asmentry")
		best, regs := 0, Regs{}
		mem := &memory{}
		for range 200_000 {
			if c.Step() != nil || c.Halted {
				break
			}
			if depth := int(ramStack - c.R[4]); depth > best && depth < 600 {
				best, regs = depth, x64Regs(c)
				mem = &memory{}
				for i := range depth {
					var p [1]byte
					c.ReadLinear(regs.SP+uint64(i), p[:])
					mem.put(regs.SP+uint64(i), uint64(p[0]), 1)
				}
			}
		}
		benchWalk(b, &Walker{Memory: flatten(mem, regs.SP, best), ImageAt: f.at}, regs)
	})
	b.Run("synthetic/100", func(b *testing.B) {
		f := newFake()
		m, r := chainOf(f, 100, 0x80)
		benchWalk(b, &Walker{Memory: flatten(m, fakeStack, 100*0x80), ImageAt: f.at}, r)
	})
	b.Run("arm64", func(b *testing.B) {
		f := openFixture(b, "arm64-1.sys")
		// Frames of asmentry, one above the other: fp, lr.
		fns := f.functions(b)
		m := &memory{}
		const n = 100
		ret := uint64(fixtureBase + fns[0].Begin + 12)
		for i := range uint64(n) {
			m.put(armTop-0x1000+16*i, armTop-0x1000+16*(i+1), 8)
			v := ret
			if i == n-1 {
				v = 0
			}
			m.put(armTop-0x1000+16*i+8, v, 8)
		}
		s := armEntry(ret)
		s.x[31], s.x[29] = armTop-0x1000, armTop-0x1000
		benchWalk(b, &Walker{Memory: flatten(m, armTop-0x1000, 16*n), ImageAt: f.at}, s.regs())
	})
	b.Run("x86", func(b *testing.B) {
		f, m := newFake86()
		const n = 100
		for i := range uint64(n) {
			v := uint32(0x80000805)
			if i == n-1 {
				v = 0
			}
			put86(m, stack86+32*i+28, v)
		}
		w := &Walker{Memory: flatten(m, wire(stack86), 32*n), ImageAt: f.at, X86Frame: func(uint64) (sym.X86Frame, bool) {
			return sym.X86Frame{RVA: 0x700, Size: 0x200, Locals: 16, SavedRegs: 12, HasProgram: true,
				Program: "$T0 .raSearch = $eip $T0 ^ = $esp $T0 4 + = $ebp $T0 4 - ^ = $ebx $T0 8 - ^ ="}, true
		}}
		benchWalk(b, w, Regs{Machine: f.machine, PC: fake86 + 0x800, SP: wire(stack86)})
	})
}

// flat is memory without the cost of a map.
type flat struct {
	base uint64
	b    []byte
}

func flatten(m *memory, base uint64, n int) *flat {
	f := &flat{base: base, b: make([]byte, n)}
	for i := range f.b {
		f.b[i], _ = m.byte(base + uint64(i))
	}
	return f
}

func (f *flat) Read(addr uint64, b []byte) (int, error) {
	if addr < f.base || addr >= f.base+uint64(len(f.b)) {
		return 0, errHole
	}
	if n := copy(b, f.b[addr-f.base:]); n < len(b) {
		return n, errHole
	}
	return len(b), nil
}

func benchWalk(b *testing.B, w *Walker, r Regs) {
	frames := 0
	for b.Loop() {
		end := w.Walk(context.Background(), r, 1000, func(*Frame) bool { frames++; return true })
		if end.Reason != Bottom {
			b.Fatal(fmt.Sprint(end.Reason, end, frames))
		}
	}
	b.ReportMetric(float64(frames)/b.Elapsed().Seconds(), "frames/s")
	b.ReportMetric(float64(frames)/float64(b.N), "frames/walk")
}
