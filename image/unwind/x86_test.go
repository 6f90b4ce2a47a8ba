package unwind

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/arch/x86/x86asm"

	"openkd/image/dwarf"
	"openkd/image/sym"
	"openkd/kdproto"
)

// readFPO reads the table of frame data that llvm-pdbutil printed.
func readFPO(t testing.TB, name string) (frames []sym.X86Frame, starts map[uint32]uint32) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	starts = map[uint32]uint32{}
	for line := range strings.Lines(string(text)) {
		c := strings.Split(line, "|")
		if len(c) != 11 || strings.Contains(line, "Program") {
			continue
		}
		num := func(i, base int) uint32 {
			v, err := strconv.ParseUint(strings.TrimSpace(c[i]), base, 32)
			if err != nil {
				t.Fatal(err)
			}
			return uint32(v)
		}
		fr := sym.X86Frame{RVA: num(0, 16), Size: num(1, 10), Locals: num(2, 10), Params: num(3, 10), Prolog: num(5, 10), SavedRegs: num(6, 10),
			HasProgram: true, Program: strings.TrimSpace(c[10])}
		frames = append(frames, fr)
		if strings.TrimSpace(c[9]) == "true" {
			starts[fr.RVA] = fr.Size
		}
	}
	return frames, starts
}

// x86State is what the walk through x86 code knows.
type x86State struct {
	pc uint64
	x  [8]uint64
	m  *memory
}

const (
	x86Top   = 0x81F00000 // esp on entry, in wire form with the upper half set
	x86Ret   = 0x00400000 // return address on entry: behind a call of the fixture, see x86Caller
	x86Limit = x86Top - 4<<20
)

func (s *x86State) clone() *x86State {
	c := *s
	c.m = s.m.clone()
	return &c
}

func (s *x86State) regs() Regs {
	r := Regs{Machine: kdproto.MachineI386, PC: s.pc, SP: uint64(int64(int32(uint32(s.x[x86SP]))))}
	for i, v := range s.x {
		if i != x86SP {
			r.Set(i, v)
		}
	}
	return r
}

func x86Num(r x86asm.Reg) int {
	switch {
	case r >= x86asm.EAX && r <= x86asm.EDI:
		return int(r - x86asm.EAX)
	case r >= x86asm.AX && r <= x86asm.DI:
		return int(r - x86asm.AX)
	case r >= x86asm.AL && r <= x86asm.BL:
		return int(r - x86asm.AL)
	case r >= x86asm.AH && r <= x86asm.BH:
		return int(r - x86asm.AH)
	}
	return -1
}

// wire makes a stack address one that Memory is asked for.
func wire(a uint64) uint64 { return uint64(int64(int32(uint32(a)))) }

// step does one instruction as far as stacks go. pops tells how many bytes a
// callee releases, probe that it makes room for eax bytes.
func (s *x86State) step(in x86asm.Inst, callee func(target uint64) (pops uint64, probe bool)) (next []uint64) {
	spoil := uint64(uint32(0xBAD00000 + s.pc))
	fall := s.pc + uint64(in.Len)
	was := s.x[x86SP]
	addr := func(m x86asm.Mem) (uint64, bool) {
		b, i := x86Num(m.Base), x86Num(m.Index)
		if b < 0 || i >= 0 || m.Segment != 0 {
			return 0, false
		}
		a := uint64(uint32(s.x[b] + uint64(m.Disp)))
		return a, a >= x86Limit && a < x86Top+4096
	}
	value := func(a x86asm.Arg) (uint64, bool) {
		switch a := a.(type) {
		case x86asm.Reg:
			if a >= x86asm.EAX && a <= x86asm.EDI {
				return s.x[x86Num(a)], true
			}
		case x86asm.Imm:
			return uint64(uint32(a)), true
		case x86asm.Mem:
			if at, ok := addr(a); ok && in.MemBytes == 4 {
				return s.m.get(wire(at), 4), true
			}
		}
		return spoil, false
	}
	set := func(a x86asm.Arg, v uint64) {
		switch a := a.(type) {
		case x86asm.Reg:
			if n := x86Num(a); n >= 0 {
				s.x[n] = uint64(uint32(v))
			}
		case x86asm.Mem:
			if at, ok := addr(a); ok {
				s.m.put(wire(at), v, max(in.MemBytes, 1))
			}
		}
	}
	push := func(v uint64) {
		s.x[x86SP] -= 4
		s.m.put(wire(s.x[x86SP]), v, 4)
	}
	pop := func() uint64 {
		v := s.m.get(wire(s.x[x86SP]), 4)
		s.x[x86SP] += 4
		return v
	}
	rel := func() (uint64, bool) {
		r, ok := in.Args[0].(x86asm.Rel)
		return fall + uint64(int64(r)), ok
	}
	switch in.Op {
	case x86asm.PUSH:
		v, _ := value(in.Args[0])
		push(v)
	case x86asm.POP:
		set(in.Args[0], pop())
	case x86asm.LEAVE:
		s.x[x86SP] = s.x[x86BP]
		s.x[x86BP] = pop()
	case x86asm.MOV:
		v, ok := value(in.Args[1])
		if _, mem := in.Args[0].(x86asm.Mem); ok || !mem {
			set(in.Args[0], v)
		}
	case x86asm.LEA:
		m := in.Args[1].(x86asm.Mem)
		if b, i := x86Num(m.Base), x86Num(m.Index); b >= 0 && i < 0 {
			set(in.Args[0], s.x[b]+uint64(m.Disp))
		} else {
			set(in.Args[0], spoil)
		}
	case x86asm.ADD, x86asm.SUB, x86asm.AND:
		a, ok1 := value(in.Args[0])
		b, ok2 := value(in.Args[1])
		v := spoil
		if ok1 && ok2 {
			switch in.Op {
			case x86asm.ADD:
				v = a + b
			case x86asm.SUB:
				v = a - b
			case x86asm.AND:
				v = a & b
			}
		}
		set(in.Args[0], v)
	case x86asm.RET, x86asm.INT, x86asm.UD2:
		return nil
	case x86asm.JMP:
		if t, ok := rel(); ok {
			return []uint64{t}
		}
		return []uint64{fall} // the cases of a switch follow
	case x86asm.CALL:
		t, ok := rel()
		if !ok {
			t = 0
		}
		pops, probe := callee(t)
		s.x[x86SP] += pops
		if probe {
			s.x[x86SP] -= s.x[0]
		}
		s.x[0], s.x[1], s.x[2] = spoil, spoil, spoil
	case x86asm.CMP, x86asm.TEST, x86asm.NOP:
	default:
		if t, ok := rel(); ok {
			return []uint64{fall, t}
		}
		if r, ok := in.Args[0].(x86asm.Reg); ok {
			set(r, spoil)
		}
		if in.Op == x86asm.MUL || in.Op == x86asm.CDQ {
			s.x[0], s.x[2] = spoil, spoil
		}
		if in.Op == x86asm.XCHG {
			if r, ok := in.Args[1].(x86asm.Reg); ok {
				set(r, spoil)
			}
		}
	}
	if sp := s.x[x86SP]; sp < x86Limit || sp > x86Top+64 { // room of a size that is not known
		s.x[x86SP] = was - 256
	}
	return []uint64{fall}
}

// x86Walk goes through all code of a function and unwinds at every instruction.
type x86Walk struct {
	t          *testing.T
	f          *fixture
	frames     []sym.X86Frame
	file       sym.File // in place of frames
	begin, end uint64
	seen       map[uint64]bool
	ret        uint64
	bad, units int
	hows       map[How]int
	mode       x86Mode
	wrong      map[How]int // callers not found, by what was believed
}

// x86Mode is what the unwinder gets to know.
type x86Mode int

const (
	withPrograms x86Mode = iota // frame data
	withFPO                     // FPO_DATA: what old compilers wrote
	noSymbols
)

func (a *x86Walk) frame(pc uint64) (sym.X86Frame, bool) {
	rva := uint32(pc - fixtureBase)
	if a.file != nil {
		fr, ok, err := a.file.X86Frame(rva)
		return fr, ok && err == nil
	}
	if a.mode == withFPO {
		// The last record of the function has the sizes.
		fr := sym.X86Frame{RVA: uint32(a.begin - fixtureBase), Size: uint32(a.end - a.begin)}
		for _, r := range a.frames {
			if r.RVA >= fr.RVA && r.RVA-fr.RVA < fr.Size {
				fr.Locals, fr.Params, fr.SavedRegs, fr.Prolog = r.Locals, r.Params, r.SavedRegs, r.RVA-fr.RVA
			}
		}
		return fr, rva >= fr.RVA && rva-fr.RVA < fr.Size
	}
	for i := len(a.frames) - 1; i >= 0; i-- {
		if fr := a.frames[i]; rva >= fr.RVA && rva-fr.RVA < fr.Size {
			return fr, true
		}
	}
	return sym.X86Frame{}, false
}

func (a *x86Walk) start() *x86State {
	s := &x86State{pc: a.begin, m: &memory{}}
	for i := range s.x {
		s.x[i] = 0x10000000 + uint64(i)<<16
	}
	s.x[x86SP] = x86Top
	s.x[x86BP] = x86Top + 0x40 // the caller's frame
	s.m.put(wire(x86Top), a.ret, 4)
	return s
}

func (a *x86Walk) check(s *x86State, exact bool) {
	a.units++
	w := Walker{Memory: s.m, ImageAt: a.f.at}
	if a.mode != noSymbols {
		w.X86Frame = a.frame
	}
	var frames []Frame
	end := w.walk(context.Background(), s.regs(), exact, 2, func(f *Frame) bool { frames = append(frames, *f); return true })
	fail := func(format string, args ...any) {
		if a.wrong != nil {
			a.wrong[frames[0].How]++
			return
		}
		a.bad++
		if a.bad < 4 {
			a.t.Errorf("%s, exact %v: %s", at(a.f.name, uint32(s.pc-fixtureBase)), exact, fmt.Sprintf(format, args...))
		}
	}
	if len(frames) != 2 {
		fail("%d frames: %v", len(frames), end)
		return
	}
	a.hows[frames[0].How]++
	r, want := frames[1].Regs, a.start()
	// A function may release its parameters; what is below them is the caller's.
	if r.PC != a.ret || r.SP < wire(x86Top+4) || r.SP > wire(x86Top+4+64) {
		fail("caller %#x, sp %#x; want %#x, %#x or above", r.PC, r.SP, a.ret, wire(x86Top+4))
		return
	}
	for _, i := range []int{x86BX, x86BP, x86SI, x86DI} {
		if a.wrong != nil {
			break
		}
		if v, ok := r.Reg(i); !ok && (a.mode != noSymbols || i == x86BP) || ok && v != want.x[i] {
			fail("%s is %#x %v, want %#x (by %v)", names32[i], v, ok, want.x[i], frames[0].How)
			return
		}
	}
}

func (a *x86Walk) run(callee func(target uint64) (uint64, bool)) {
	s := a.start()
	s.m.fill(wire(x86Limit), wire(x86Top+256))
	todo := []*x86State{s}
	for len(todo) > 0 {
		s := todo[0]
		todo = todo[1:]
		for {
			if a.seen[s.pc] || s.pc < a.begin || s.pc >= a.end {
				break
			}
			a.seen[s.pc] = true
			a.check(s, true)
			in, err := x86asm.Decode(a.f.code(a.t, uint32(s.pc-fixtureBase), 15), 32)
			if err != nil {
				break // a table of jumps
			}
			was := s.x[x86SP]
			next := s.step(in, callee)
			if in.Op == x86asm.CALL {
				c := *s
				c.x[x86SP] = was
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

// x86Caller finds an address behind a call, to be what a function returns to.
func x86Caller(t *testing.T, f *fixture) uint64 {
	for rva := uint32(0x1000); ; rva++ {
		if b := f.code(t, rva, 5); b[0] == 0xE8 && b[3] == 0xFF && b[4] == 0xFF || b[0] == 0xE8 && b[3] == 0 && b[4] == 0 {
			return fixtureBase + uint64(rva) + 5
		}
	}
}

func TestX86EveryInstruction(t *testing.T) {
	for _, mode := range []struct {
		name string
		mode x86Mode
	}{{"frame data", withPrograms}, {"FPO data", withFPO}, {"no symbols", noSymbols}} {
		t.Run(mode.name, func(t *testing.T) {
			for _, level := range levels {
				if testing.Short() && level != levels[0] {
					continue
				}
				f := openFixture(t, "x86-"+level+".sys")
				frames, starts := readFPO(t, "x86-"+level+".fpo")
				probe := fixtureBase + uint64(0x1000)
				hows := map[How]int{}
				var wrong map[How]int
				if mode.mode == noSymbols && level != "0" {
					wrong = map[How]int{} // nothing tells where frames without frame pointer are
				}
				units, missed := 0, 0
				for rva, size := range starts {
					a := &x86Walk{
						t: t, f: f, frames: frames, begin: fixtureBase + uint64(rva), end: fixtureBase + uint64(rva+size),
						seen: map[uint64]bool{}, ret: x86Caller(t, f), hows: hows, mode: mode.mode, wrong: wrong,
					}
					a.run(func(target uint64) (uint64, bool) { return 0, target == probe })
					units += a.units
					for at := rva; at < rva+size; {
						in, err := x86asm.Decode(f.code(t, at, 15), 32)
						if err != nil {
							break
						}
						if !a.seen[fixtureBase+uint64(at)] {
							missed++
						}
						at += uint32(in.Len)
					}
				}
				t.Logf("%s: %d times unwound, %d instructions not reached, by %v, wrong by %v", f.name, units, missed, hows, wrong)
				// Frames larger than what is looked through have no caller.
				if n := wrong[None]; len(wrong) > 1 || len(wrong) == 1 && n == 0 || n > units/10 {
					t.Errorf("%s: wrong by %v", f.name, wrong)
				}
			}
		})
	}
}

// What DWARF says of frames comes as frame programs, in code that keeps frame
// pointers and in code that does not.
func TestX86EveryInstructionOfDWARF(t *testing.T) {
	for _, name := range []string{"x86.exe", "x86-dwarf2.exe"} {
		t.Run(name, func(t *testing.T) {
			path := "../../dwarf/testdata/" + name
			f := openFixture(t, path)
			file, err := dwarf.Open(filepath.Join("testdata", path))
			if err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			// A function tells where it returns what it releases.
			pops := func(target uint64) (uint64, bool) {
				for at := target; at >= fixtureBase+0x1000; {
					in, err := x86asm.Decode(f.code(t, uint32(at-fixtureBase), 15), 32)
					if err != nil {
						break
					}
					if n, ok := in.Args[0].(x86asm.Imm); ok && in.Op == x86asm.RET {
						return uint64(n), false
					}
					if in.Op == x86asm.RET {
						break
					}
					at += uint64(in.Len)
				}
				return 0, false
			}
			hows, units, functions := map[How]int{}, 0, 0
			for s, err := range file.Symbols(func(string) bool { return true }) {
				if err != nil {
					t.Fatal(err)
				}
				if s.Kind != sym.Function || s.Size == 0 {
					continue
				}
				if _, ok, _ := file.X86Frame(s.RVA); !ok {
					continue // made by the assembler, without call frame information
				}
				a := &x86Walk{
					t: t, f: f, file: file, begin: fixtureBase + uint64(s.RVA), end: fixtureBase + uint64(s.RVA+uint32(s.Size)),
					seen: map[uint64]bool{}, ret: x86Caller(t, f), hows: hows,
				}
				a.run(pops)
				units, functions = units+a.units, functions+1
			}
			t.Logf("%d functions, %d times unwound, by %v", functions, units, hows)
			if functions < 10 || units < 200 || hows[FPO]+hows[Code] != units {
				t.Errorf("%d functions, %d times unwound, by %v", functions, units, hows)
			}
		})
	}
}

func TestFrameProgram(t *testing.T) {
	memory := map[uint32]uint32{0x1000: 0xAAAA, 0x1004: 0xBBBB}
	for _, c := range []struct {
		program string
		want    map[string]uint32
		err     string
	}{
		{"$T0 .raSearch = $eip $T0 ^ = $esp $T0 4 + =", map[string]uint32{"$T0": 0x1000, "$eip": 0xAAAA, "$esp": 0x1004}, ""},
		{"$T1 $ebp 4 + = $T0 $T1 16 - 8 @ =", map[string]uint32{"$T1": 0x2007, "$T0": 0x1FF0}, ""},
		{"$a 7 2 % = $b 7 2 / = $c 7 2 * = $d -1 =", map[string]uint32{"$a": 1, "$b": 3, "$c": 14, "$d": 0xFFFFFFFF}, ""},
		{"$a .cbLocals .cbSavedRegs + .cbParams + = $b 0x10 =", map[string]uint32{"$a": 0x60, "$b": 16}, ""},
		{"  ", map[string]uint32{}, ""},
		{"=", nil, "an operator without operands"},
		{"1 +", nil, "an operator without operands"},
		{"$a $nothing =", nil, "$nothing has no value"},
		{"1 2 =", nil, "assigns to what is no variable"},
		{".cbLocals 2 =", nil, "assigns to what is no variable"},
		{"$a 1 0 / =", nil, "division by zero"},
		{"$a 1 0 % =", nil, "division by zero"},
		{"$a 1 3 @ =", nil, "no power of two"},
		{"$a 1 0 @ =", nil, "no power of two"},
		{"$a what =", nil, `"what" is neither a number nor a variable`},
		{"$a 0x100000000 =", nil, "neither a number"},
		{"$a 0x3000 ^ =", nil, "not mapped"},
		{strings.Repeat("1 ", 40), nil, "too many operands"},
		{strings.Repeat("1 ", 4000), nil, "8000 bytes long"},
	} {
		vars := map[string]uint32{"$ebp": 0x2003, ".cbLocals": 0x10, ".cbSavedRegs": 0x20, ".cbParams": 0x30}
		assigned, err := runProgram(c.program, vars, func() (uint32, error) { return 0x1000, nil }, func(at uint32) (uint32, error) {
			if v, ok := memory[at]; ok {
				return v, nil
			}
			return 0, errHole
		})
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%.40q: %v, want %q", c.program, err, c.err)
			}
			continue
		}
		if err != nil || len(assigned) != len(c.want) {
			t.Errorf("%q: %v, %v", c.program, assigned, err)
		}
		for k, v := range c.want {
			if vars[k] != v || !assigned[k] {
				t.Errorf("%q: %s is %#x, want %#x", c.program, k, vars[k], v)
			}
		}
	}
}

const (
	fake86      = 0xFFFFFFFF80000000
	after86Call = fake86 + 0x805
	stack86     = 0x81F00000
)

func newFake86() (*fakeImage, *memory) {
	f := newFake()
	f.base, f.machine = fake86, kdproto.MachineI386
	m := &memory{}
	m.fill(wire(stack86-0x1000), wire(stack86+0x1000))
	return f, m
}

func put86(m *memory, at uint64, v uint32) { m.put(wire(at), uint64(v), 4) }

// TestX86Trap crosses the kernel's trap frame, from the handler's callee whose
// frame pointer chain leads to it.
func TestX86Trap(t *testing.T) {
	for _, c := range []struct {
		name string
		make func(m *memory, at uint64)
		sp   uint64
		syms bool // the symbol file says that the function has a trap frame
	}{
		{"kernel", func(m *memory, at uint64) { put86(m, at+trapSegCs, 8); put86(m, at+trapEFlags, 0x246) }, stack86 + trapEsp, false},
		{"user", func(m *memory, at uint64) {
			put86(m, at+trapSegCs, 0x1B)
			put86(m, at+trapEFlags, 0x246)
			put86(m, at+trapEsp, 0x12F000)
		}, 0x12F000, false},
		{"edited", func(m *memory, at uint64) {
			put86(m, at+trapSegCs, 0)
			put86(m, at+trapEFlags, 0x246)
			put86(m, at+trapEsp2, stack86+0x200)
		}, stack86 + 0x200, false},
		{"by symbols", func(m *memory, at uint64) {
			put86(m, at+trapSegCs, 8)
			put86(m, at+trapEFlags, 0x246)
			put86(m, at+trapArgMark, 0)
		}, stack86 + trapEsp, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, m := newFake86()
			const trap = stack86
			put86(m, trap+trapArgMark, trapMark)
			for i, off := range []uint64{trapEax, trapEcx, trapEdx, trapEbx, trapEsi, trapEdi} {
				put86(m, trap+off, uint32(0x100+i))
			}
			put86(m, trap+trapEbp, stack86+0x300)
			put86(m, trap+trapEip, uint32(0x80000850))
			c.make(m, trap)
			// The handler's callee: push ebp, mov ebp, esp.
			put86(m, trap-8, trap)
			put86(m, trap-4, uint32(0x80000805))
			r := Regs{Machine: kdproto.MachineI386, PC: fake86 + 0x900, SP: wire(trap - 0x40)}
			r.Set(x86BP, trap-8)
			w := &Walker{Memory: m, ImageAt: f.at}
			if c.syms {
				w.X86Frame = func(pc uint64) (sym.X86Frame, bool) {
					return sym.X86Frame{RVA: 0x700, Size: 0x200, Trap: true}, pc < fake86+0x810
				}
			}
			l, end := walkOf(w, r, 3)
			if len(l) != 3 {
				t.Fatalf("%d frames, %v", len(l), end)
			}
			g := l[2]
			if g.PC != fake86+0x850 || g.SP != wire(c.sp) || !g.Trap || l[1].MachineFrame != wire(trap+trapEip) || l[1].Return != g.PC {
				t.Errorf("pc %#x sp %#x trap %v; %+v", g.PC, g.SP, g.Trap, l[1])
			}
			for reg, want := range map[string]uint64{"eax": 0x100, "ecx": 0x101, "edx": 0x102, "ebx": 0x103, "esi": 0x104, "edi": 0x105, "ebp": stack86 + 0x300} {
				if v, ok := g.Regs.Get(reg); !ok || v.Lo != want {
					t.Errorf("%s is %#x %v, want %#x", reg, v.Lo, ok, want)
				}
			}
		})
	}
}

// TestX86JumpedTo: a trap handler that is jumped to has the trap frame where a
// return address would be; and a symbol file whose program takes the stack
// pointer of user mode is not believed about a trap in the kernel.
func TestX86JumpedTo(t *testing.T) {
	const trap = stack86
	build := func() (*fakeImage, *memory) {
		f, m := newFake86()
		put86(m, trap, stack86+0x300) // DbgEbp
		put86(m, trap+4, uint32(0x80000850))
		put86(m, trap+trapArgMark, trapMark)
		put86(m, trap+trapEbp, stack86+0x300)
		put86(m, trap+trapEip, uint32(0x80000850))
		put86(m, trap+trapSegCs, 8)
		put86(m, trap+trapEsp, 0x12F000)
		return f, m
	}
	for _, c := range []struct {
		name string
		make func(m *memory) (Regs, sym.X86Frame)
		trap bool
	}{
		{"jumped", func(m *memory) (Regs, sym.X86Frame) {
			put86(m, trap-4, 0x1234) // the handler's push ebp
			r := Regs{Machine: kdproto.MachineI386, PC: fake86 + 0x900, SP: wire(trap - 0x40)}
			r.Set(x86BP, trap-4)
			return r, sym.X86Frame{RVA: 0x900, Size: 0x100, HasProgram: true, Program: "$T0 $ebp 8 + = $eip $T0 4 - ^ = $ebp $T0 8 - ^ = $esp $T0 ="}
		}, true},
		{"program", func(m *memory) (Regs, sym.X86Frame) {
			r := Regs{Machine: kdproto.MachineI386, PC: fake86 + 0x900, SP: wire(trap - 0x40)}
			r.Set(x86BP, trap)
			return r, sym.X86Frame{RVA: 0x900, Size: 0x100, Trap: true, HasProgram: true, Program: "$T0 $ebp 108 + = $eip $T0 4 - ^ = $esp $T0 8 + ^ ="}
		}, true},
		{"called", func(m *memory) (Regs, sym.X86Frame) { // the mark is a parameter
			put86(m, trap, uint32(0x80000805))
			put86(m, trap-4, stack86+0x300)
			r := Regs{Machine: kdproto.MachineI386, PC: fake86 + 0x900, SP: wire(trap - 0x40)}
			r.Set(x86BP, trap-4)
			return r, sym.X86Frame{RVA: 0x900, Size: 0x100, HasProgram: true, Program: "$T0 $ebp 8 + = $eip $T0 4 - ^ = $ebp $T0 8 - ^ = $esp $T0 ="}
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, m := build()
			r, fr := c.make(m)
			w := &Walker{Memory: m, ImageAt: f.at, X86Frame: func(pc uint64) (sym.X86Frame, bool) { return fr, pc == fake86+0x900 }}
			l, end := walkOf(w, r, 2)
			if len(l) != 2 {
				t.Fatalf("%d frames, %v", len(l), end)
			}
			if c.trap {
				if l[0].MachineFrame != wire(trap+trapEip) || l[1].PC != fake86+0x850 || l[1].SP != wire(trap+trapEsp) || !l[1].Trap {
					t.Errorf("%+v then %+v", l[0], l[1])
				}
			} else if l[0].MachineFrame != 0 || l[1].PC != fake86+0x805 || l[1].Trap {
				t.Errorf("%+v then %+v", l[0], l[1])
			}
		})
	}
}

// TestX86CalledHere: at the first instruction of code that no symbol file
// describes, whatever that is, a return address behind a call of this very
// place is one; what follows another call is not.
func TestX86CalledHere(t *testing.T) {
	for _, c := range []struct {
		target uint64
		want   uint64
	}{
		{fake86 + 0x900, fake86 + 0x705},
		{fake86 + 0x901, fake86 + 0x805}, // the frame pointer's
	} {
		f, m := newFake86()
		put86(m, stack86-0x40, uint32(0x80000705))
		put86(m, stack86-0x3C, uint32(0x80000805))
		put86(m, stack86, stack86+0x20)
		put86(m, stack86+4, uint32(0x80000805))
		call := make([]byte, 5)
		call[0] = 0xE8
		le.PutUint32(call[1:], uint32(c.target-(fake86+0x705)))
		copy(f.b[0x700:], call)
		r := Regs{Machine: kdproto.MachineI386, PC: fake86 + 0x900, SP: wire(stack86 - 0x40)}
		r.Set(x86BP, stack86)
		l, end := walkOf(&Walker{Memory: m, ImageAt: f.at}, r, 2)
		if len(l) != 2 || l[1].PC != c.want {
			t.Errorf("call to %#x: %+v, %v; want %#x", c.target, l, end, c.want)
		}
	}
}

// TestX86FPO: parameters of the callee lie above its return address, and may
// look like one; what the prolog pushed is found.
func TestX86FPO(t *testing.T) {
	// push ebx, push ebp, push esi, sub esp 10h
	free := sym.X86Frame{RVA: 0x700, Size: 0x200, Prolog: 6, Locals: 0x10, Params: 8, SavedRegs: 12, UsesEBP: true}
	program := free
	program.HasProgram = true
	program.Program = "$T0 .raSearch = $eip $T0 ^ = $esp $T0 4 + = $ebx $T0 4 - ^ = $ebp $T0 8 - ^ = $esi $T0 12 - ^ ="
	// push ebx, push ebp, mov ebp esp, push esi, sub esp 10h
	framed := free
	framed.Prolog, framed.UsesEBP = 8, false
	for _, c := range []struct {
		name string
		fr   sym.X86Frame
		code string
	}{
		{"FPO", free, "\x53\x55\x56\x83\xEC\x10"},
		{"program", program, "\x53\x55\x56\x83\xEC\x10"},
		{"frame pointer", framed, "\x53\x55\x8B\xEC\x56\x83\xEC\x10"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, m := newFake86()
			copy(f.b[0x700:], c.code)
			w := &Walker{Memory: m, ImageAt: f.at, X86Frame: func(uint64) (sym.X86Frame, bool) { return c.fr, true }}
			// Two activations: from the second's locals up.
			at := uint64(stack86 - 0x100)
			sp := at
			bp := at + 0x10 + 4 // where ebp is saved
			for i := range 2 {
				at += 0x10
				saved := uint32(bp+40) - uint32(i)*0x1000                              // the first activation's frame, then any
				for k, v := range []uint32{0xE51 + uint32(i)<<16, saved, 0x80000805} { // esi, ebp, ebx, which looks like a return address
					put86(m, at+4*uint64(k), v)
				}
				put86(m, at+12, uint32(0x80000805))
				at += 16
				put86(m, at, uint32(0x80000805)) // parameters
				put86(m, at+4, uint32(0x80000805))
				at += 8
			}
			r := Regs{Machine: kdproto.MachineI386, PC: fake86 + 0x800, SP: wire(sp)}
			r.Set(x86BP, bp)
			l, end := walkOf(w, r, 3)
			if len(l) != 3 || l[0].How != FPO || l[0].X86 != c.fr || l[0].FuncRVA != 0x700 {
				t.Fatalf("%d frames, %v", len(l), end)
			}
			if l[1].PC != after86Call || l[1].SP != wire(sp+0x10+16) || l[0].CFA != l[1].SP || l[0].FP != l[1].SP-8 {
				t.Errorf("caller %#x %#x; %+v", l[1].PC, l[1].SP, l[0])
			}
			if l[2].PC != after86Call || l[2].SP != wire(sp+0x10+16+8+0x10+16) {
				t.Errorf("its caller %#x %#x", l[2].PC, l[2].SP)
			}
			for i, fr := range l[1:] {
				for reg, want := range map[int]uint64{x86SI: 0xE51 + uint64(i)<<16, x86BP: bp + 40 - uint64(i)*0x1000, x86BX: 0x80000805} {
					if v, ok := fr.Regs.Reg(reg); !ok || v != want {
						t.Errorf("frame %d: %s is %#x %v, want %#x", i+1, names32[reg], v, ok, want)
					}
				}
			}
		})
	}
}

// TestX86Epilogs: without symbols, at each instruction of epilogs.
func TestX86Epilogs(t *testing.T) {
	for _, c := range []struct {
		name, code string
		depths     []int
		pops       uint64
		wrong      bool // it is none: what ebp says is taken
	}{
		{"leave", "C9 C3", []int{0x30, 0}, 0, false},
		{"pop", "8BE5 5D C3", []int{0x30, 4, 0}, 0, false},
		{"release", "83C42C 5D C21000", []int{0x30, 4, 0}, 0x10, false},
		{"release much", "81C42C000000 5D C3", []int{0x30, 4, 0}, 0, false},
		{"saved registers", "8D65F8 5E 5F 5D C3", []int{0x30, 12, 8, 4, 0}, 0, false},
		{"far", "8DA5F8FFFFFF 5E 5F 5D C3", []int{0x30, 12, 8, 4, 0}, 0, false},
		{"tail call", "C9 E900010000", []int{0x30}, 0, false},
		{"clean up and jump", "83C408 EB10", []int{0x30}, 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f, m := newFake86()
			at := uint32(0x900)
			var ats []uint32
			for _, h := range strings.Fields(c.code) {
				var b []byte
				if _, err := fmt.Sscanf(h, "%x", &b); err != nil {
					t.Fatal(err)
				}
				ats = append(ats, at)
				at += uint32(copy(f.b[at:], b))
			}
			// From the return address down: ebp, edi, esi.
			put86(m, stack86, 0x80000805)
			put86(m, stack86-4, 0xEB0)
			put86(m, stack86-8, 0xED1)
			put86(m, stack86-12, 0xE51)
			for i, depth := range c.depths {
				r := Regs{Machine: kdproto.MachineI386, PC: fake86 + uint64(ats[i]), SP: wire(stack86 - uint64(depth))}
				r.Set(x86BP, stack86-4)
				if depth < 4 {
					r.Set(x86BP, 0xEB0)
				}
				l, end := walkOf(&Walker{Memory: m, ImageAt: f.at}, r, 2)
				if len(l) != 2 {
					t.Fatalf("instruction %d: %d frames, %v", i, len(l), end)
				}
				want := wire(stack86 + 4 + c.pops)
				bp, _ := l[1].Regs.Reg(x86BP)
				if l[1].PC != after86Call || l[1].SP != want || bp != 0xEB0 || (l[0].How == Code) == c.wrong {
					t.Errorf("instruction %d: pc %#x sp %#x ebp %#x by %v, want sp %#x", i, l[1].PC, l[1].SP, bp, l[0].How, want)
				}
			}
		})
	}
}

// TestX86Guess: nothing is known but that code calls.
func TestX86Guess(t *testing.T) {
	f, m := newFake86()
	put86(m, stack86+0x123*4, 0x80000805)
	r := Regs{Machine: kdproto.MachineI386, PC: fake86 + 0x900, SP: wire(stack86)}
	l, end := walkOf(&Walker{Memory: m, ImageAt: f.at}, r, 100)
	if len(l) != 2 || l[0].How != Guess || l[1].PC != after86Call || l[1].SP != wire(stack86+0x124*4) || end.Reason != BadData {
		t.Errorf("%d frames, %v", len(l), end)
	}
	if _, ok := l[1].Regs.Reg(x86BX); ok {
		t.Error("ebx is known behind a guess")
	}
	r.PC = 0x1234
	m.fill(wire(stack86), wire(stack86+0x100))
	if l, end := walkOf(&Walker{Memory: m, ImageAt: f.at}, r, 100); len(l) != 1 || end.Reason != NoImage {
		t.Errorf("%d frames, %v", len(l), end)
	}
}
