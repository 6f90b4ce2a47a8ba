package cpu

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"golang.org/x/arch/x86/x86asm"
)

// TestLengths compares instruction lengths with another decoder.
func TestLengths(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	compared, differ := 0, 0
	n := 100000
	if testing.Short() {
		n = 30000
	}
	for range n {
		b := make([]byte, 15)
		for k := range b {
			b[k] = byte(r.Uint32())
		}
		if r.IntN(3) == 0 {
			b[0] = 0x0F
		}
		var i inst
		if decode(b, &i) != decodeOK {
			continue
		}
		want, err := x86asm.Decode(b, 64)
		if err != nil || want.Op == 0 {
			continue // it knows fewer system instructions
		}
		if i.op&^3 == 0x120 && int(i.len) < want.Len {
			continue // it takes mod for real where the manuals say it is ignored
		}
		if i.p66 && opcodes[i.op]&aImm32 != 0 {
			continue // it follows AMD: a 16-bit branch
		}
		if want.Op == x86asm.NOP && want.Len < int(i.len) || bytes.IndexByte(b[:i.len], 0x9B) == 0 {
			continue // it takes fwait for a prefix
		}
		compared++
		if want.Len != int(i.len) {
			differ++
			if differ < 20 {
				t.Errorf("% x: length %d, x86asm %d (%v)", b, i.len, want.Len, want)
			}
		}
	}
	t.Logf("%d lengths compared, %d differ", compared, differ)
	if compared < n/4 {
		t.Errorf("only %d of %d could be compared", compared, n)
	}
}

// fuzzMachine is paged, ring 0 or 3, with code and data a page apart from
// pages that are missing, so that faults happen everywhere.
func fuzzMachine(t testing.TB, text []byte, seed uint64, user bool) (*CPU, *pageTables) {
	c, p := paged(t)
	for k := range uint64(8) {
		bits := uint64(pteP | pteW | pteU)
		if k == 3 {
			bits &^= pteW
		}
		if k == 5 {
			continue
		}
		p.mapPage(0x10000+k*0x1000, 0x10000+k*0x1000, bits, 0)
	}
	if len(text) > 64 {
		text = text[:64]
	}
	c.WriteLinear(0x10FF0, text)
	c.RIP = 0x10FF0
	r := rand.New(rand.NewPCG(seed, 9))
	for k := range c.R {
		c.R[k] = 0x10000 + r.Uint64N(0x8000)
		if r.IntN(4) == 0 {
			c.R[k] = randomValue64(r)
		}
	}
	if user {
		c.CS, c.SS = 0x33, 0x2B
	}
	c.RFlags |= r.Uint64() & flagStatus
	return c, p
}

func randomValue64(r *rand.Rand) uint64 { return r.Uint64() >> r.IntN(64) }

// checkStep runs one instruction and checks what holds for every instruction.
func checkStep(t *testing.T, c *CPU) *Exception {
	t.Helper()
	before := *c
	var b [15]byte // before the step: a string instruction may overwrite itself
	n := c.ReadLinear(before.RIP, b[:])
	e := c.Step()
	if e == nil {
		return nil
	}
	if e.Vector == VecPF && c.CR2 != e.Addr {
		t.Fatalf("cr2 %#x, address %#x", c.CR2, e.Addr)
	}
	trap := e.Software || e.Vector == VecBP || e.Vector == VecDB
	var i inst
	decoded := decode(b[:n], &i) == decodeOK
	repeated := decoded && i.rep != 0 && (i.op >= 0xA4 && i.op <= 0xAF || i.op >= 0x6C && i.op <= 0x6F)
	if !trap && !repeated {
		if c.R != before.R || c.RIP != before.RIP || c.RFlags != before.RFlags || c.XMM != before.XMM ||
			c.CS != before.CS || c.SS != before.SS || c.FSBase != before.FSBase || c.GSBase != before.GSBase || c.CR3 != before.CR3 {
			t.Fatalf("% x: fault %+v changed the state\n%x %#x %#x\n%x %#x %#x", b[:n], *e,
				before.R, before.RIP, before.RFlags, c.R, c.RIP, c.RFlags)
		}
	}
	if e.Vector == VecBP && c.RIP == before.RIP {
		t.Fatalf("% x: %+v left rip", b[:n], *e)
	}
	return e
}

func fuzzOne(t *testing.T, text []byte, seed uint64, mode byte) {
	c, _ := fuzzMachine(t, text, seed, mode&1 != 0)
	if mode&2 != 0 {
		c.RFlags |= FlagTF
	}
	if mode&4 != 0 {
		c.DR[0], c.DR[1], c.DR[7] = 0x12008, 0x10FF4, 0x405|0xD<<16
	}
	if mode&8 != 0 {
		c.Mem = slowRAM{c.Mem.(*ram)}
	}
	for range 20 {
		if e := checkStep(t, c); e != nil && e.Vector != VecDB || c.Halted {
			return
		}
	}
}

func FuzzStep(f *testing.F) {
	f.Add([]byte{0x48, 0x89, 0x03}, uint64(1), byte(0))
	f.Add([]byte{0xF3, 0x48, 0xA5}, uint64(2), byte(6))
	f.Add([]byte{0xC8, 0x00, 0x00, 0x1F, 0xCF}, uint64(3), byte(1))
	f.Add([]byte{0x0F, 0xAE, 0x03, 0x0F, 0x22, 0xD8}, uint64(4), byte(8))
	f.Fuzz(fuzzOne)
}

// TestRandomCode is the fuzzer without the fuzzer: every opcode with every
// kind of operand, in modes drawn at random.
func TestRandomCode(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for op := range 512 {
		for range 4 {
			mode := byte(r.IntN(16))
			b := []byte{0x66, 0xF2, 0xF3, 0xF0, 0x67, 0x65, 0x2E}[r.IntN(7):][:1]
			if r.IntN(2) == 0 {
				b = nil
			}
			b = bytes.Clone(b)
			if r.IntN(2) == 0 {
				b = append(b, 0x40|byte(r.IntN(16)))
			}
			if op >= 256 {
				b = append(b, 0x0F)
			}
			b = append(b, byte(op))
			for range 12 {
				b = append(b, byte(r.Uint32()))
			}
			fuzzOne(t, b, r.Uint64(), mode)
		}
	}
}
