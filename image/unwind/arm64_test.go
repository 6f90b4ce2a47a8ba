package unwind

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"openkd/arch"
	"openkd/kdproto"
)

// armState is what the walk through ARM64 code below knows: registers and the
// stack.
type armState struct {
	pc uint64
	x  [32]uint64 // 31: sp
	d  [32]uint64
	q  [32]uint64 // high halves
	m  *memory
}

func (s *armState) clone() *armState {
	c := *s
	c.m = s.m.clone()
	return &c
}

const (
	armTop   = 0x7FF0000000       // the stack pointer on entry
	armRet   = 0xFFFFF80312345678 // the return address on entry
	armLimit = armTop - 16<<20
)

func armEntry(pc uint64) *armState {
	s := &armState{pc: pc, m: &memory{}}
	for i := range s.x {
		s.x[i] = 0x1111_0000_0000_0000 + uint64(i)<<32
		s.d[i] = 0xDDDD_0000_0000_0000 + uint64(i)
		s.q[i] = 0xEEEE_0000_0000_0000 + uint64(i)
	}
	s.x[29] = 0x7FF1000000
	s.x[30], s.x[31] = armRet, armTop
	return s
}

func (s *armState) regs() Regs {
	r := Regs{Machine: kdproto.MachineARM64, PC: s.pc, SP: s.x[31]}
	for i := range 31 {
		r.Set(i, s.x[i])
	}
	for i := range 32 {
		r.SetV(i, arch.Value{Lo: s.d[i], Hi: s.q[i]})
	}
	return r
}

// step does one instruction as far as stacks go: what it does not know it takes
// for arithmetic that spoils its destination. It returns where control may go.
func (s *armState) step(w uint32) (next []uint64) {
	spoil := uint64(0xBAD0_0000_0000_0000) + s.pc
	rd, rn, rm := w&31, w>>5&31, w>>16&31
	rel := func(v uint32, bits int) uint64 {
		return s.pc + uint64(int64(v)<<(64-bits)>>(64-bits)*4)
	}
	fall, was := s.pc+4, s.x[31]
	access := func(addr uint64, reg uint32, size int, vector, load bool) {
		if addr < armLimit || addr > armTop+4096 {
			if load && !vector && reg != 31 {
				s.x[reg] = spoil
			}
			return
		}
		switch {
		case vector && load:
			s.d[reg] = s.m.get(addr, min(size, 8))
			if size == 16 {
				s.q[reg] = s.m.get(addr+8, 8)
			}
		case vector:
			s.m.put(addr, s.d[reg], min(size, 8))
			if size == 16 {
				s.m.put(addr+8, s.q[reg], 8)
			}
		case load && reg != 31:
			s.x[reg] = s.m.get(addr, size)
		case !load:
			v := s.x[reg]
			if reg == 31 {
				v = 0
			}
			s.m.put(addr, v, size)
		}
	}
	switch {
	case w>>26 == 5: // b
		return []uint64{rel(w&0x3FFFFFF, 26)}
	case w>>26 == 0x25: // bl
		s.x[30] = fall
		return []uint64{fall}
	case w&0xFF000010 == 0x54000000: // b.cond
		return []uint64{fall, rel(w>>5&0x7FFFF, 19)}
	case w&0x7E000000 == 0x34000000: // cbz, cbnz
		return []uint64{fall, rel(w>>5&0x7FFFF, 19)}
	case w&0x7E000000 == 0x36000000: // tbz, tbnz
		return []uint64{fall, rel(w>>5&0x3FFF, 14)}
	case w&0xFFFFFC1F == 0xD65F0000: // ret
		return nil
	case w&0xFFFFFC1F == 0xD61F0000: // br: of a switch, whose cases follow, or a tail call
		if s.x[31] == armTop {
			return nil
		}
		return []uint64{fall}
	case w&0xFFFFFC1F == 0xD63F0000: // blr
		s.x[30] = fall
		return []uint64{fall}
	case w&0xFFE0001F == 0xD4200000: // brk
		return nil
	case w == 0xD503237F: // pacibsp
		s.x[30] = s.x[30]&^(0x7F<<48) | 0x2A<<48
		return []uint64{fall}
	case w == 0xD50323FF: // autibsp
		s.x[30] |= 0xFF << 48
		return []uint64{fall}
	case w&0x3A000000 == 0x28000000: // a pair
		load, vector := w>>22&1 != 0, w>>26&1 != 0
		size := 4 << (w >> 31)
		if vector {
			size = 4 << (w >> 30)
		}
		off := uint64(int64(w>>15&0x7F)<<57>>57) * uint64(size)
		base := s.x[rn]
		addr := base + off
		mode := w >> 23 & 3
		if mode == 1 {
			addr = base
		}
		access(addr, rd, size, vector, load)
		access(addr+uint64(size), w>>10&31, size, vector, load)
		if mode == 1 || mode == 3 {
			s.x[rn] = base + off
		}
		return []uint64{fall}
	case w&0x3B000000 == 0x39000000 || w&0x3B200C00 == 0x38000400 || w&0x3B200C00 == 0x38000C00 || w&0x3B200C00 == 0x38000000: // one register
		vector, load := w>>26&1 != 0, w>>22&3 != 0
		size := 1 << (w >> 30)
		if vector {
			load = w>>22&1 != 0
			if w>>23&1 != 0 {
				size = 16
			}
		}
		base := s.x[rn]
		var addr uint64
		if w>>24&1 != 0 {
			addr = base + uint64(w>>10&0xFFF)*uint64(size)
		} else {
			off := uint64(int64(w>>12&0x1FF) << 55 >> 55)
			addr = base + off
			if mode := w >> 10 & 3; mode != 0 {
				s.x[rn] = base + off
				if mode == 1 {
					addr = base
				}
			}
		}
		access(addr, rd, size, vector, load)
		return []uint64{fall}
	case w&0x1F000000 == 0x11000000: // add, sub with a constant
		imm := uint64(w >> 10 & 0xFFF)
		if w>>22&1 != 0 {
			imm <<= 12
		}
		if w>>30&1 != 0 {
			imm = -imm
		}
		v := s.x[rn] + imm
		if w>>31 == 0 {
			v = uint64(uint32(v))
		}
		if w>>29&1 == 0 || rd != 31 {
			s.x[rd] = v
		}
	case w&0x1FE00000 == 0x0B000000: // add, sub with a register shifted left
		v := s.x[rm] << (w >> 10 & 63)
		if w>>30&1 != 0 {
			v = -v
		}
		if rn == 31 { // the zero register: neg
			if rd != 31 {
				s.x[rd] = spoil
			}
		} else if rd != 31 {
			s.x[rd] = s.x[rn] + v
		}
	case w&0x1FE00000 == 0x0B200000: // add, sub with an extended register
		v := s.x[rm] << (w >> 10 & 7)
		if w>>30&1 != 0 {
			v = -v
		}
		if w>>29&1 == 0 || rd != 31 {
			s.x[rd] = s.x[rn] + v
		}
	case w&0x7FE0FFE0 == 0x2A0003E0: // mov
		if rd != 31 {
			s.x[rd] = s.x[rm]
			if rm == 31 {
				s.x[rd] = 0
			}
		}
	case w&0x7F800000 == 0x52800000: // movz
		s.x[rd] = uint64(w>>5&0xFFFF) << (16 * (w >> 21 & 3))
	case w&0x7F800000 == 0x72800000: // movk
		sh := 16 * (w >> 21 & 3)
		s.x[rd] = s.x[rd]&^(0xFFFF<<sh) | uint64(w>>5&0xFFFF)<<sh
	case w&0x7F800000 == 0x12000000: // and with a constant: aligns, as far as sp is concerned
		s.x[rd] = s.x[rn] &^ 63
		if rd != 31 && (s.x[rn] < armLimit || s.x[rn] > armTop) {
			s.x[rd] = spoil
		}
	case w&0x0E000000 == 0x0E000000 || w&0x1E000000 == 0x1E000000: // vectors and floating point
		if op := w >> 16 & 7; w&0x5F20FC00 == 0x1E200000 && op != 2 && op != 3 && op != 7 { // conversions, moves to integer registers
			if rd != 31 {
				s.x[rd] = spoil
			}
			break
		}
		s.d[rd], s.q[rd] = spoil, spoil
	case w&0x3F000000 == 0x08000000, w&0x3B200C00 == 0x38200800: // exclusive; register offset
		if w>>22&1 != 0 && w>>26&1 == 0 && rd != 31 {
			s.x[rd] = spoil
		}
	default:
		if w>>24 != 0xD5 && rd != 31 { // not a hint
			s.x[rd] = spoil
		}
	}
	if sp := s.x[31]; sp < armLimit || sp > armTop { // room of a size that is not known
		s.x[31] = was - 256
	}
	return []uint64{fall}
}

// armWalk goes through all code of a function that can be reached and unwinds at
// every instruction, as an interrupted frame and, behind calls, as one that
// waits.
type armWalk struct {
	t     *testing.T
	f     *fixture
	begin uint64
	end   uint64
	seen  map[uint64]bool
	want  *armState
	bad   int
	units int
}

func (a *armWalk) check(s *armState, exact bool) {
	a.units++
	w := Walker{Memory: s.m, ImageAt: a.f.at}
	var frames []Frame
	end := w.walk(context.Background(), s.regs(), exact, 2, func(f *Frame) bool {
		frames = append(frames, *f)
		return true
	})
	fail := func(format string, args ...any) {
		a.bad++
		if a.bad < 4 {
			a.t.Errorf("%s, exact %v: %s", at(a.f.name, uint32(s.pc-fixtureBase)), exact, fmt.Sprintf(format, args...))
		}
	}
	if len(frames) != 2 {
		fail("%d frames: %v", len(frames), end)
		return
	}
	r := frames[1].Regs
	want := a.want
	if r.PC != want.x[30] || r.SP != want.x[31] {
		fail("caller %#x, sp %#x; want %#x, %#x (sp here %#x)", r.PC, r.SP, want.x[30], want.x[31], s.x[31])
		return
	}
	for i := 19; i <= 29; i++ {
		if v, ok := r.Reg(i); !ok || v != want.x[i] {
			fail("x%d is %#x %v, want %#x", i, v, ok, want.x[i])
			return
		}
	}
	for i := 8; i < 16; i++ {
		if v := r.V[i].Lo; v != want.d[i] {
			fail("d%d is %#x, want %#x", i, v, want.d[i])
			return
		}
	}
}

func (a *armWalk) run(start *armState) {
	start.m.fill(armLimit, armTop+64)
	todo := []*armState{start}
	for len(todo) > 0 {
		s := todo[0] // breadth first, so that a switch's cases are met on their own ways if they can be
		todo = todo[1:]
		for {
			if a.seen[s.pc] || s.pc < a.begin || s.pc >= a.end {
				break
			}
			a.seen[s.pc] = true
			a.check(s, true)
			w := le.Uint32(a.f.code(a.t, uint32(s.pc-fixtureBase), 4))
			call := w>>26 == 0x25 || w&0xFFFFFC1F == 0xD63F0000
			next := s.step(w)
			if call {
				c := *s
				c.pc = next[0]
				a.check(&c, false)
			}
			if len(next) == 0 {
				break
			}
			for _, n := range next[1:] {
				c := s.clone()
				c.pc = n
				todo = append(todo, c)
			}
			s.pc = next[0]
		}
	}
}

func TestARM64EveryInstruction(t *testing.T) {
	for _, level := range levels {
		f := openFixture(t, "arm64-"+level+".sys")
		total, missed := 0, 0
		hand := handmade(t, f)
		for _, fn := range f.functions(t) {
			u := unwinder{}
			var info armInfo
			if err := parseARM(&info, fn.Data, u.data[:], f.im.ReadRVA); err != nil {
				t.Fatal(err)
			}
			if hand[fn.Begin] {
				continue
			}
			a := &armWalk{t: t, f: f, begin: fixtureBase + uint64(fn.Begin), end: fixtureBase + uint64(fn.Begin+info.length), seen: map[uint64]bool{}, want: armEntry(0)}
			a.run(armEntry(a.begin))
			total += a.units
			missed += int(info.length/4) - len(a.seen)
		}
		t.Logf("%s: %d times unwound, %d instructions not reached", f.name, total, missed)
	}
}

// handmade finds the functions whose callers are not found by returning: those
// entered by a trap, and the fragments. They stand in a row in the source.
func handmade(t *testing.T, f *fixture) map[uint32]bool {
	l := map[uint32]bool{}
	for _, rva := range handmadeList(t, f) {
		l[rva] = true
	}
	return l
}

// handmadeList returns the starts of machineframe, contextframe, trapframe,
// exactcall, fragshrink, fragnothing and fragepilog.
func handmadeList(t *testing.T, f *fixture) []uint32 {
	var l []uint32
	for _, fn := range f.functions(t) {
		u := unwinder{}
		var info armInfo
		if err := parseARM(&info, fn.Data, u.data[:], f.im.ReadRVA); err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(info.codes); {
			o, n, err := decodeARM(info.codes[i:])
			if err != nil {
				t.Fatal(err)
			}
			i += n
			if o.kind > armEnd {
				l = append(l, fn.Begin)
				break
			}
			if o.kind == armEnd {
				break
			}
		}
	}
	if len(l) != 7 {
		t.Fatalf("%d functions are made by hand, want 7", len(l))
	}
	return l
}

// TestARM64Frames enters the functions that no call enters.
func TestARM64Frames(t *testing.T) {
	f := openFixture(t, "arm64-1.sys")
	h := handmadeList(t, f)
	machine, contextOf, trap, exact := h[0], h[1], h[2], h[3]
	const sp, callerSP, callerPC = uint64(0x7FF0000000), uint64(0x7FF1000000), uint64(0xFFFFF80312345678)
	one := func(s *armState, tf func(uint64, *Regs) error) ([]Frame, End) {
		s.m.fill(sp-512, sp+2048)
		w := Walker{Memory: s.m, ImageAt: f.at, TrapFrame: tf}
		var l []Frame
		end := w.Walk(context.Background(), s.regs(), 2, func(f *Frame) bool { l = append(l, *f); return true })
		return l, end
	}
	t.Run("machine frame", func(t *testing.T) {
		for off, at := range []uint64{sp, sp - 32} { // before and after the allocation
			s := armEntry(fixtureBase + uint64(machine) + 4*uint64(off))
			s.x[31] = at
			s.m.put(sp, callerSP, 8)
			s.m.put(sp+8, callerPC, 8)
			l, end := one(s, nil)
			if len(l) != 2 || l[1].PC != callerPC || l[1].SP != callerSP || !l[1].Trap || l[0].MachineFrame != sp+8 {
				t.Errorf("+%d: %+v, %v", 4*off, l, end)
			}
			if _, ok := l[1].Regs.Reg(arm64LR); ok {
				t.Error("the interrupted code's lr is not known")
			}
		}
	})
	t.Run("context", func(t *testing.T) {
		a, _ := arch.For(kdproto.MachineARM64)
		c := make([]byte, a.ContextSize)
		a.SetContextFlags(c, 0x400007)
		a.SetPC(c, callerPC)
		a.SetSP(c, callerSP)
		x5, _ := a.Reg("x5")
		x5.Set(arch.State{Context: c}, arch.Value{Lo: 55})
		s := armEntry(fixtureBase + uint64(contextOf) + 4)
		for i, b := range c {
			s.m.put(sp+uint64(i), uint64(b), 1)
		}
		l, end := one(s, nil)
		if len(l) != 2 || l[1].PC != callerPC || l[1].SP != callerSP || !l[1].Trap {
			t.Fatalf("%+v, %v", l, end)
		}
		if v, ok := l[1].Regs.Get("w5"); !ok || v.Lo != 55 {
			t.Errorf("w5 is %v %v", v, ok)
		}
	})
	t.Run("trap frame", func(t *testing.T) {
		s := armEntry(fixtureBase + uint64(trap) + 4)
		s.x[31] = sp - 64
		l, end := one(s, nil)
		if len(l) != 1 || end.Reason != BadData {
			t.Errorf("without symbols: %d frames, %v", len(l), end)
		}
		l, end = one(s, func(addr uint64, r *Regs) error {
			if addr != sp {
				t.Errorf("trap frame at %#x, want %#x", addr, sp)
			}
			r.PC, r.SP = callerPC, callerSP
			r.Set(0, 7)
			return nil
		})
		if len(l) != 2 || l[1].PC != callerPC || l[1].SP != callerSP || !l[1].Trap || l[0].MachineFrame != sp {
			t.Errorf("%+v, %v", l, end)
		}
	})
	t.Run("exact", func(t *testing.T) {
		s := armEntry(fixtureBase + uint64(exact) + 4)
		s.x[31] = sp - 16
		l, end := one(s, nil)
		if len(l) != 2 || l[1].PC != armRet || l[1].SP != sp || !l[1].Trap {
			t.Errorf("%+v, %v", l, end)
		}
	})
	t.Run("fragments", func(t *testing.T) {
		total := 0
		for i, fn := range h[4:] {
			s := armEntry(fixtureBase + uint64(fn))
			want := armEntry(0)
			// What the parent's prolog has done.
			s.x[31] -= 256
			s.m.put(s.x[31], s.x[29], 8)
			s.m.put(s.x[31]+8, s.x[30], 8)
			s.m.put(s.x[31]+240, s.x[19], 8)
			s.m.put(s.x[31]+248, s.x[20], 8)
			s.x[29], s.x[30], s.x[19], s.x[20] = s.x[31], 0, 1, 2
			end := uint64(fixtureBase + fn + []uint32{16, 12, 20}[i])
			a := &armWalk{t: t, f: f, begin: s.pc, end: end, seen: map[uint64]bool{}, want: want}
			a.run(s)
			total += a.units
		}
		if total != 14 {
			t.Errorf("unwound %d times, want at 12 instructions and behind 2 calls", total)
		}
	})
	t.Run("leaf", func(t *testing.T) {
		s := armEntry(fixtureBase + 0x1000) // __chkstk
		l, end := one(s, nil)
		if len(l) != 2 || l[0].How != Leaf || l[1].PC != armRet || l[1].SP != s.x[31] || l[1].Trap {
			t.Errorf("%+v, %v", l, end)
		}
	})
	t.Run("null pointer called", func(t *testing.T) {
		s := armEntry(0)
		l, end := one(s, nil)
		if len(l) != 2 || l[0].How != Guess || l[1].PC != armRet {
			t.Errorf("%+v, %v", l, end)
		}
	})
}

// TestARM64Chain: code without unwind data that has called something is left by
// its frame pointer.
func TestARM64Chain(t *testing.T) {
	f := newFake()
	f.machine = kdproto.MachineARM64
	le.PutUint32(f.b[0x800:], 0x94000000) // bl
	for _, c := range []struct {
		name string
		ret  uint64
		how  How
		end  Reason
	}{
		{"found", fakeBase + 0x804, FramePointer, Bottom},
		{"signed", (fakeBase + 0x804) &^ (0x7F << 48), FramePointer, Bottom},
		{"no call there", fakeBase + 0x900, None, BadData},
	} {
		m := &memory{}
		m.fill(fakeStack, fakeStack+0x1000)
		m.put(fakeStack+0x40, fakeStack+0x80, 8)
		m.put(fakeStack+0x48, c.ret, 8)
		m.put(fakeStack+0x80, 0, 8)
		m.put(fakeStack+0x88, 0, 8)
		r := Regs{Machine: kdproto.MachineARM64, PC: fakeBase + 0x804, SP: fakeStack}
		r.Set(arm64FP, fakeStack+0x40)
		var l []Frame
		end := (&Walker{Memory: m, ImageAt: f.at}).WalkWaiting(context.Background(), r, 10, func(f *Frame) bool { l = append(l, *f); return true })
		if end.Reason != c.end || len(l) == 0 || l[0].How != c.how || c.how == FramePointer && (len(l) != 2 || l[1].PC != fakeBase+0x804 || l[1].SP != fakeStack+0x50) {
			t.Errorf("%s: %+v, %v", c.name, l, end)
		}
	}
}

func TestARM64Decode(t *testing.T) {
	for _, c := range []struct {
		code string
		want armOp
		err  string
	}{
		{"\xDB\x83", armOp{kind: armSave, file: fileD, reg: 14, reg2: 15, off: 32, writeback: true}, ""},
		{"\xD6\x42", armOp{kind: armSave, reg: 21, reg2: 30, off: 16}, ""},
		{"\xE7\x4E\x04", armOp{kind: armSave, reg: 14, reg2: 15, off: 64}, ""},
		{"\xE7\x66\x85", armOp{kind: armSave, file: fileQ, reg: 6, reg2: 7, off: 96, writeback: true}, ""},
		{"\xE7\x08\x46", armOp{kind: armSave, file: fileD, reg: 8, reg2: noReg, off: 48}, ""},
		{"\xE0\x01\x00\x00", armOp{kind: armAlloc, reg2: noReg, off: 1 << 20}, ""},
		{"\xFC", armOp{kind: armSignLR, reg2: noReg}, ""},
		{"", armOp{}, "have no end"},
		{"\xE0\x01", armOp{}, "cut off"},
		{"\xCB\xC0", armOp{}, "a register that there is not"},
		{"\xD3\xC0", armOp{}, "a register that there is not"},
		{"\xE7\x5F\x00", armOp{}, "a register that there is not"},
		{"\xE7\x0E\xC0", armOp{}, "scalable"},
		{"\xDF\x01", armOp{}, "not supported"},
		{"\xEB", armOp{}, "not supported"},
		{"\xF8\x00", armOp{}, "not supported"},
	} {
		o, n, err := decodeARM([]byte(c.code))
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("% x: %v, want %q", c.code, err, c.err)
			}
			continue
		}
		c.want.code = c.code[0]
		if err != nil || n != len(c.code) || o != c.want {
			t.Errorf("% x: %+v, %d bytes, %v; want %+v", c.code, o, n, err, c.want)
		}
	}
	for _, data := range []uint32{3, 1 | 11<<16, 1 | 10<<16} { // form 3; 11 registers; no room for 10
		var info armInfo
		if err := armPacked(&info, data); err == nil {
			t.Errorf("packed data %#x is taken", data)
		}
	}
}
