package unwind

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/arch/x86/x86asm"

	"openkd/arch"
	"openkd/image/pe"
	"openkd/kdproto"
	"openkd/sim/kernel"
)

// x64State is what the walk through x64 code knows: it goes where running code
// may never get.
type x64State struct {
	pc  uint64
	x   [16]uint64
	xmm [16]uint64 // low halves; the high ones are their complement
	m   *memory
}

const (
	x64Top   = 0xFFFFA00000100000 // rsp on entry
	x64Limit = x64Top - 4<<20
)

func (s *x64State) clone() *x64State {
	c := *s
	c.m = s.m.clone()
	return &c
}

func (s *x64State) regs() Regs {
	r := Regs{Machine: kdproto.MachineAMD64, PC: s.pc, SP: s.x[x64SP]}
	for i := range 16 {
		r.Set(i, s.x[i])
		r.SetV(i, arch.Value{Lo: s.xmm[i], Hi: ^s.xmm[i]})
	}
	return r
}

func x64Num(r x86asm.Reg) int {
	switch {
	case r >= x86asm.RAX && r <= x86asm.R15:
		return int(r - x86asm.RAX)
	case r >= x86asm.EAX && r <= x86asm.R15L:
		return int(r - x86asm.EAX)
	case r >= x86asm.AX && r <= x86asm.R15W:
		return int(r - x86asm.AX)
	case r >= x86asm.AL && r <= x86asm.BL:
		return int(r - x86asm.AL)
	case r >= x86asm.AH && r <= x86asm.BH:
		return int(r - x86asm.AH)
	case r >= x86asm.SPB && r <= x86asm.R15B:
		return int(r-x86asm.SPB) + 4
	}
	return -1
}

// step does one instruction as far as stacks go. probe is the function that
// tests whether rax bytes of stack are there.
func (s *x64State) step(in x86asm.Inst) (next []uint64) {
	spoil := 0xBAD0_0000_0000_0000 + s.pc
	fall := s.pc + uint64(in.Len)
	was := s.x[x64SP]
	addr := func(m x86asm.Mem) (uint64, bool) {
		b := x64Num(m.Base)
		if m.Base == x86asm.RIP || b < 0 || x64Num(m.Index) >= 0 || m.Segment == x86asm.GS || m.Segment == x86asm.FS {
			return 0, false
		}
		a := s.x[b] + uint64(m.Disp)
		return a, a >= x64Limit && a < x64Top+4096
	}
	value := func(a x86asm.Arg) (uint64, bool) {
		switch a := a.(type) {
		case x86asm.Reg:
			if a >= x86asm.RAX && a <= x86asm.R15 {
				return s.x[x64Num(a)], true
			}
			if a >= x86asm.EAX && a <= x86asm.R15L {
				return uint64(uint32(s.x[x64Num(a)])), true
			}
		case x86asm.Imm:
			return uint64(a), true
		case x86asm.Mem:
			if at, ok := addr(a); ok && in.MemBytes == 8 {
				return s.m.get(at, 8), true
			}
		}
		return spoil, false
	}
	set := func(a x86asm.Arg, v uint64) {
		switch a := a.(type) {
		case x86asm.Reg:
			if n := x64Num(a); n >= 0 {
				s.x[n] = v
			} else if a >= x86asm.X0 && a <= x86asm.X15 {
				s.xmm[a-x86asm.X0] = v
			}
		case x86asm.Mem:
			if at, ok := addr(a); ok {
				s.m.put(at, v, min(max(in.MemBytes, 1), 8))
			}
		}
	}
	push := func(v uint64) {
		s.x[x64SP] -= 8
		s.m.put(s.x[x64SP], v, 8)
	}
	pop := func() uint64 {
		v := s.m.get(s.x[x64SP], 8)
		s.x[x64SP] += 8
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
	case x86asm.PUSHF, x86asm.PUSHFQ:
		push(0x246)
	case x86asm.POP:
		set(in.Args[0], pop())
	case x86asm.POPF, x86asm.POPFQ:
		pop()
	case x86asm.LEAVE:
		s.x[x64SP] = s.x[x64BP]
		s.x[x64BP] = pop()
	case x86asm.MOV:
		v, ok := value(in.Args[1])
		if _, mem := in.Args[0].(x86asm.Mem); ok || !mem {
			set(in.Args[0], v)
		} else {
			set(in.Args[0], spoil)
		}
	case x86asm.MOVAPS, x86asm.MOVUPS, x86asm.MOVAPD, x86asm.MOVDQA, x86asm.MOVDQU, x86asm.MOVUPD:
		switch to := in.Args[0].(type) {
		case x86asm.Mem:
			from, ok := in.Args[1].(x86asm.Reg)
			if at, on := addr(to); on && ok {
				v := s.xmm[from-x86asm.X0]
				s.m.put(at, v, 8)
				s.m.put(at+8, ^v, 8)
			}
		case x86asm.Reg:
			v := spoil
			if m, ok := in.Args[1].(x86asm.Mem); ok {
				if at, on := addr(m); on {
					v = s.m.get(at, 8)
				}
			}
			s.xmm[to-x86asm.X0] = v
		}
	case x86asm.LEA:
		m := in.Args[1].(x86asm.Mem)
		if b, i := x64Num(m.Base), x64Num(m.Index); b >= 0 && i < 0 && m.Base != x86asm.RIP {
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
	case x86asm.RET, x86asm.UD2, x86asm.IRETQ, x86asm.LRET:
		return nil
	case x86asm.INT:
		if v, ok := in.Args[0].(x86asm.Imm); ok && v != 3 {
			break
		}
		return nil
	case x86asm.JMP:
		if t, ok := rel(); ok {
			return []uint64{t}
		}
		if s.x[x64SP] == x64Top {
			return nil // a tail call
		}
		return []uint64{fall} // the cases of a switch follow
	case x86asm.CALL:
		for _, i := range []int{0, 1, 2, 8, 9, 10, 11} {
			if i != 0 || s.x[0] > 1<<24 { // else it may be what is probed for
				s.x[i] = spoil
			}
		}
		for i := range 6 {
			s.xmm[i] = spoil
		}
	case x86asm.CMP, x86asm.TEST, x86asm.NOP:
	case x86asm.XCHG, x86asm.XADD:
		set(in.Args[0], spoil)
		set(in.Args[1], spoil)
	case x86asm.MOVSB, x86asm.MOVSW, x86asm.MOVSD, x86asm.MOVSQ, x86asm.CMPSB, x86asm.CMPSW, x86asm.CMPSD, x86asm.CMPSQ:
		s.x[x64SI], s.x[x64DI], s.x[1] = spoil, spoil, spoil
	case x86asm.STOSB, x86asm.STOSW, x86asm.STOSD, x86asm.STOSQ, x86asm.SCASB, x86asm.SCASW, x86asm.SCASD, x86asm.SCASQ,
		x86asm.INSB, x86asm.INSW, x86asm.INSD:
		s.x[x64DI], s.x[1] = spoil, spoil
	case x86asm.LODSB, x86asm.LODSW, x86asm.LODSD, x86asm.LODSQ, x86asm.OUTSB, x86asm.OUTSW, x86asm.OUTSD:
		s.x[0], s.x[x64SI], s.x[1] = spoil, spoil, spoil
	default:
		if t, ok := rel(); ok {
			return []uint64{fall, t}
		}
		if r, ok := in.Args[0].(x86asm.Reg); ok {
			set(r, spoil)
		}
		switch in.Op {
		case x86asm.MUL, x86asm.DIV, x86asm.IDIV, x86asm.CDQ, x86asm.CQO, x86asm.IMUL, x86asm.CPUID, x86asm.RDTSC, x86asm.RDMSR:
			s.x[0], s.x[2] = spoil, spoil
			if in.Op == x86asm.CPUID {
				s.x[1], s.x[3] = spoil, spoil
			}
		case x86asm.CMPXCHG, x86asm.CMPXCHG8B, x86asm.CMPXCHG16B:
			s.x[0] = spoil
		}
	}
	if sp := s.x[x64SP]; sp < x64Limit || sp > x64Top+64 { // room of a size that is not known
		s.x[x64SP] = was - 256
	}
	return []uint64{fall}
}

type x64Walk struct {
	t     *testing.T
	name  string
	im    Image
	part  func(pc uint64) bool // belongs to the function
	seen  map[uint64]bool
	want  *x64State
	ret   uint64
	bad   *int
	mine  int // wrong callers in this function
	units int
}

func (a *x64Walk) check(s *x64State, exact bool) {
	a.units++
	w := Walker{Memory: s.m, ImageAt: func(pc uint64) (Image, bool) {
		return a.im, pc >= a.im.Base() && pc-a.im.Base() < uint64(a.im.Size())
	}}
	var frames []Frame
	end := w.walk(context.Background(), s.regs(), exact, 2, func(f *Frame) bool { frames = append(frames, *f); return true })
	fail := func(format string, args ...any) {
		a.mine++
		if *a.bad++; a.mine == 1 && *a.bad < 100 {
			a.t.Errorf("%s, exact %v: %s", at(a.name, uint32(s.pc-a.im.Base())), exact, fmt.Sprintf(format, args...))
		}
	}
	if len(frames) != 2 {
		fail("%d frames: %v", len(frames), end)
		return
	}
	r := frames[1].Regs
	if r.PC != a.ret || r.SP != x64Top+8 {
		fail("caller %#x, sp %#x; want %#x, %#x", r.PC, r.SP, a.ret, uint64(x64Top+8))
		return
	}
	for i := range 16 {
		if v, ok := r.Reg(i); x64Saved>>i&1 != 0 && (!ok || v != a.want.x[i]) {
			fail("%s is %#x %v, want %#x", names64[i], v, ok, a.want.x[i])
			return
		}
		if v := r.V[i]; i >= 6 && (v.Lo != a.want.xmm[i] || v.Hi != ^a.want.xmm[i]) {
			fail("xmm%d is %#x, want %#x", i, v, a.want.xmm[i])
			return
		}
	}
}

func x64Entry(pc, ret uint64) *x64State {
	s := &x64State{pc: pc, m: &memory{}}
	for i := range s.x {
		s.x[i] = 0x1111_0000_0000 + uint64(i)<<32
		s.xmm[i] = 0xDDDD_0000_0000_0000 + uint64(i)
	}
	s.x[x64SP] = x64Top
	s.m.fill(x64Limit, x64Top+256)
	s.m.put(x64Top, ret, 8)
	return s
}

func (a *x64Walk) run(start *x64State) {
	todo := []*x64State{start}
	for len(todo) > 0 {
		s := todo[0]
		todo = todo[1:]
		for !a.seen[s.pc] && a.part(s.pc) {
			a.seen[s.pc] = true
			a.check(s, true)
			b := make([]byte, 15)
			if a.im.ReadRVA(uint32(s.pc-a.im.Base()), b) != nil {
				break
			}
			in, err := x86asm.Decode(b, 64)
			if err != nil {
				break // a table of jumps
			}
			next := s.step(in)
			if in.Op == x86asm.CALL {
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

// walkX64 unwinds at every instruction of every function of an image that
// control can reach, those apart that are entered by a trap.
func walkX64(t *testing.T, name string, data []byte, skip func(rva uint32) bool) {
	p, err := pe.Open(bytes.NewReader(data), pe.File)
	if err != nil {
		t.Fatal(err)
	}
	im, err := NewImage(p, 0xFFFFF80000000000)
	if err != nil {
		t.Fatal(err)
	}
	fns := (&fixture{pe: p}).functions(t)
	units, missed, bad, count := 0, 0, 0, 0
	ret := uint64(0)
	u := &unwinder{Walker: &Walker{}, arch: nil}
	u.arch, _ = arch.For(kdproto.MachineAMD64)
	for rva := uint32(0x1000); ret == 0; rva++ {
		if u.callBefore(im, rva) {
			ret = im.Base() + uint64(rva)
		}
	}
functions:
	for _, fn := range fns {
		var info x64Info
		if err := u.info(im, fn, &info); err != nil {
			t.Fatal(err)
		}
		if info.flags&flagChain != 0 || skip != nil && skip(fn.Begin) {
			continue
		}
		for _, o := range info.ops {
			if o.op == opPushMachine {
				continue functions
			}
		}
		a := &x64Walk{t: t, name: name, im: im, seen: map[uint64]bool{}, ret: ret, bad: &bad, part: func(pc uint64) bool {
			at := rva(im, pc)
			if at >= fn.Begin && at < fn.End {
				return true
			}
			f, ok, err := im.Function(at)
			if !ok || err != nil {
				return false
			}
			own, err := u.primary(im, f)
			return err == nil && own.Begin == fn.Begin
		}}
		a.want = x64Entry(0, ret)
		a.run(x64Entry(im.Base()+uint64(fn.Begin), ret))
		units += a.units
		count++
		for at := fn.Begin; at < fn.End; {
			b := make([]byte, 15)
			if im.ReadRVA(at, b) != nil {
				break
			}
			in, err := x86asm.Decode(b, 64)
			if err != nil {
				at++
				continue
			}
			if !a.seen[im.Base()+uint64(at)] && in.Op != x86asm.NOP && in.Op != x86asm.INT {
				missed++
			}
			at += uint32(in.Len)
		}
	}
	t.Logf("%s: %d functions, %d times unwound, %d instructions not reached", name, count, units, missed)
}

func TestX64EveryPath(t *testing.T) {
	for _, level := range levels {
		f := openFixture(t, "x64-"+level+".sys")
		walkX64(t, f.name, f.data, nil)
	}
	for _, name := range []string{"ntoskrnl.exe", "openkd.sys", "tcpip.sys", "sample.sys"} {
		data, err := kernel.Image(name)
		if err != nil {
			t.Fatal(err)
		}
		syms, err := kernel.Symbols(name)
		if err != nil {
			t.Fatal(err)
		}
		swap := uint32(0) // changes to another thread's stack
		for line := range strings.Lines(string(syms)) {
			if off, name, _ := strings.Cut(strings.TrimSpace(line), " "); name == "KiSwapContext" {
				v, _ := strconv.ParseUint(off, 16, 32)
				swap = uint32(v)
			}
		}
		walkX64(t, name, data, func(rva uint32) bool { return rva == swap })
	}
}
