package unwind

import (
	"context"
	"fmt"
	"sort"
	"testing"

	"openkd/arch"
	"openkd/image/disasm"
	"openkd/kdproto"
	"openkd/sim/cpu"
)

// ram is the memory of a machine that runs a fixture: 16 MiB, mapped to
// themselves. The page tables lie at the start.
type ram struct{ b []byte }

func (m *ram) ReadPhys(addr uint64, p []byte) bool {
	if addr+uint64(len(p)) > uint64(len(m.b)) {
		return false
	}
	copy(p, m.b[addr:])
	return true
}

func (m *ram) WritePhys(addr uint64, p []byte) bool {
	if addr+uint64(len(p)) > uint64(len(m.b)) {
		return false
	}
	copy(m.b[addr:], p)
	return true
}

const (
	ramSize  = 16 << 20
	ramIDT   = 0x10000
	ramStack = 0xC00000 // top; the stack may be 2 MiB
)

// x64Machine runs a fixture of x64 from a function of it.
func x64Machine(t testing.TB, f *fixture, start string) *cpu.CPU {
	t.Helper()
	r := &ram{make([]byte, ramSize)}
	m := r.b
	le.PutUint64(m[0x1000:], 0x2000|3)
	le.PutUint64(m[0x2000:], 0x3000|3)
	for i := range uint64(ramSize >> 21) {
		le.PutUint64(m[0x3000+8*i:], i<<21|0x83)
	}
	if err := f.im.ReadRVA(0, m[fixtureBase:fixtureBase+f.im.Size()]); err != nil {
		t.Fatal(err)
	}
	gate := func(v, h uint64) {
		le.PutUint64(m[ramIDT+16*v:], h&0xFFFF|0x10<<16|0x8E00<<32|h>>16&0xFFFF<<48)
		le.PutUint64(m[ramIDT+16*v+8:], h>>32)
	}
	gate(0x40, f.export(t, "trap"))
	gate(0x41, f.export(t, "nested"))
	c := &cpu.CPU{CS: 0x10, SS: 0x18, Mem: r, CR3: 0x1000, RIP: f.export(t, start)}
	c.IDTR.Base, c.IDTR.Limit = ramIDT, 0xFFF
	c.InitLongMode()
	for i := range c.R {
		c.R[i] = 0x1111_0000_0000 + uint64(i)
		le.PutUint64(c.XMM[i][:], 0xDDDD_0000+uint64(i))
		le.PutUint64(c.XMM[i][8:], 0xEEEE_0000+uint64(i))
	}
	c.R[cpu.RSP] = ramStack - 8 // the return address is 0
	return c
}

func (f *fixture) export(t testing.TB, name string) uint64 {
	t.Helper()
	e, err := f.pe.Exports()
	if err != nil || e == nil {
		t.Fatal(err)
	}
	x, ok, err := e.Lookup(name)
	if !ok || err != nil {
		t.Fatalf("no export %s: %v", name, err)
	}
	return fixtureBase + uint64(x.RVA)
}

type linear struct {
	c     *cpu.CPU
	reads int
}

func (l *linear) Read(addr uint64, b []byte) (int, error) {
	l.reads++
	if addr >= ramStack {
		return 0, errHole
	}
	if room := ramStack - addr; uint64(len(b)) > room {
		b = b[:room]
		return l.c.ReadLinear(addr, b), errHole
	}
	return l.c.ReadLinear(addr, b), nil
}

func x64Regs(c *cpu.CPU) Regs {
	r := Regs{Machine: kdproto.MachineAMD64, PC: c.RIP, SP: c.R[cpu.RSP]}
	for i, v := range c.R {
		r.Set(i, v)
		r.SetV(i, arch.Value{Lo: le.Uint64(c.XMM[i][:]), Hi: le.Uint64(c.XMM[i][8:])})
	}
	return r
}

// TestX64EveryInstruction runs the fixtures and unwinds before every
// instruction. What calls and interrupts push is noted as it happens.
func TestX64EveryInstruction(t *testing.T) {
	for _, level := range levels {
		if testing.Short() && level != levels[0] {
			continue
		}
		f := openFixture(t, "x64-"+level+".sys")
		c := x64Machine(t, f, "asmentry")
		type caller struct {
			slot uint64
			pc   uint64
			was  cpu.CPU
			trap bool
		}
		var callers []caller
		kinds := map[uint64]disasm.Inst{}
		done := map[string]bool{}
		where := map[uint64]bool{}
		hows := map[How]int{}
		frames, bad := 0, 0
		check := func() {
			key := fmt.Sprint(c.RIP)
			for _, k := range callers {
				key += fmt.Sprint(" ", k.pc)
			}
			if done[key] {
				return
			}
			done[key] = true
			where[c.RIP] = true
			fail := func(format string, args ...any) {
				bad++
				if bad < 6 {
					t.Errorf("%s: %s", at(f.name, uint32(c.RIP-fixtureBase)), fmt.Sprintf(format, args...))
				}
			}
			l := &linear{c: c}
			w := Walker{Memory: l, ImageAt: f.at}
			i := 0
			end := w.Walk(context.Background(), x64Regs(c), 100, func(fr *Frame) bool {
				frames++
				hows[fr.How]++
				want := caller{pc: c.RIP, was: *c, trap: true}
				if i > len(callers) {
					fail("frame %d: there is none", i)
					return false
				}
				if i > 0 {
					want = callers[len(callers)-i]
				}
				if fr.PC != want.pc || fr.SP != want.was.R[cpu.RSP] || fr.Trap != want.trap {
					fail("frame %d: pc %#x sp %#x %v, want %#x %#x %v", i, fr.PC, fr.SP, fr.Trap, want.pc, want.was.R[cpu.RSP], want.trap)
					return false
				}
				for k := range 16 {
					if v, ok := fr.Regs.Reg(k); ok && k != cpu.RSP && v != want.was.R[k] {
						fail("frame %d: register %d is %#x, want %#x", i, k, v, want.was.R[k])
						return false
					} else if !ok && x64Saved>>k&1 != 0 {
						fail("frame %d: register %d is not known", i, k)
						return false
					}
					if v := fr.Regs.V[k]; k >= 6 && (v.Lo != le.Uint64(want.was.XMM[k][:]) || v.Hi != le.Uint64(want.was.XMM[k][8:])) {
						fail("frame %d: xmm%d is %#x, want %#x", i, k, v, want.was.XMM[k])
						return false
					}
				}
				i++
				return true
			})
			if end.Reason != Bottom || i != len(callers)+1 {
				fail("%d frames, want %d: %d %v", i, len(callers)+1, end.Reason, end)
			}
		}
		for range 1_000_000 {
			sp := c.R[cpu.RSP]
			for len(callers) > 0 && callers[len(callers)-1].slot < sp {
				callers = callers[:len(callers)-1]
			}
			check()
			in, ok := kinds[c.RIP]
			if !ok {
				var err error
				if in, err = disasm.Decode(kdproto.MachineAMD64, f.code(t, uint32(c.RIP-fixtureBase), 15), c.RIP, nil); err != nil {
					t.Fatal(err)
				}
				kinds[c.RIP] = in
			}
			was := *c
			e := c.Step()
			if c.Halted {
				break
			}
			if e != nil {
				if !e.Software {
					t.Fatalf("%s: exception %+v at %#x", f.name, e, c.RIP)
				}
				was.RIP = c.RIP
				if err := c.Deliver(e.Vector, 0, e.Vector == 0x40); err != nil {
					t.Fatal(err)
				}
				slot := c.R[cpu.RSP]
				if e.Vector == 0x40 {
					slot += 8
				}
				callers = append(callers, caller{slot, was.RIP, was, true})
			} else if in.Kind == disasm.Call {
				callers = append(callers, caller{c.R[cpu.RSP], in.Addr + uint64(in.Len), was, false})
			}
		}
		if !c.Halted {
			t.Errorf("%s: it did not come to its end", f.name)
		}
		// What of the functions' code was met.
		total, met := 0, 0
		var missed []string
		for _, fn := range f.functions(t) {
			for rva := fn.Begin; rva < fn.End; {
				in, err := disasm.Decode(kdproto.MachineAMD64, f.code(t, rva, int(min(fn.End-rva, 15))), 0, nil)
				if err != nil {
					t.Fatal(err)
				}
				if in.Mnemonic != "nop" && in.Mnemonic != "int" {
					total++
					if where[fixtureBase+uint64(rva)] {
						met++
					} else {
						missed = append(missed, fmt.Sprintf("%#x", rva))
					}
				}
				rva += uint32(in.Len)
			}
		}
		sort.Strings(missed)
		t.Logf("%s: %d states, %d frames, %d of %d instructions, %v", f.name, len(done), frames, met, total, hows)
		if met*100 < total*90 {
			t.Errorf("%s: only %d of %d instructions were met; not %v", f.name, met, total, missed)
		}
	}
}
