package unwind

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"openkd/arch"
	"openkd/image/pe"
	"openkd/image/sym"
	"openkd/kdproto"
)

// fakeImage is an image made of bytes, with functions that a test gives.
type fakeImage struct {
	base    uint64
	machine kdproto.Machine
	b       []byte
	fns     []pe.Function
	err     error // of every lookup
}

func (f *fakeImage) Base() uint64             { return f.base }
func (f *fakeImage) Size() uint32             { return uint32(len(f.b)) }
func (f *fakeImage) Machine() kdproto.Machine { return f.machine }
func (f *fakeImage) ReadRVA(rva uint32, b []byte) error {
	if uint64(rva)+uint64(len(b)) > uint64(len(f.b)) {
		return errors.New("outside")
	}
	copy(b, f.b[rva:])
	return nil
}

func (f *fakeImage) Function(rva uint32) (pe.Function, bool, error) {
	if f.err != nil {
		return pe.Function{}, false, f.err
	}
	for _, fn := range f.fns {
		if rva >= fn.Begin && rva < fn.End {
			return fn, true, nil
		}
	}
	return pe.Function{}, false, nil
}

func (f *fakeImage) at(pc uint64) (Image, bool) {
	if pc >= f.base && pc-f.base < uint64(len(f.b)) {
		return f, true
	}
	return nil, false
}

const (
	fakeBase  = 0xFFFFF80000100000
	fakeStack = 0xFFFFA00000010000
)

// newFake is an image of x64: code, all nop, up to 0x1000, a call that ends at
// 0x805, and room for unwind data behind it.
func newFake() *fakeImage {
	f := &fakeImage{base: fakeBase, machine: kdproto.MachineAMD64, b: bytes.Repeat([]byte{0x90}, 0x2000)}
	copy(f.b[0x800:], "\xE8\x00\x00\x00\x00")
	copy(f.b[0x805:], "\xCC")
	return f
}

const afterFakeCall = fakeBase + 0x805

// x64UnwindInfo puts UNWIND_INFO at an RVA: version and flags, prolog, frame
// register and offset, codes.
func (f *fakeImage) info(rva uint32, version, flags, prolog, frame byte, codes []uint16, tail ...uint32) uint32 {
	b := []byte{version | flags<<3, prolog, byte(len(codes)), frame}
	for _, c := range codes {
		b = le.AppendUint16(b, c)
	}
	if len(codes)%2 != 0 {
		b = append(b, 0, 0)
	}
	for _, v := range tail {
		b = le.AppendUint32(b, v)
	}
	copy(f.b[rva:], b)
	return rva
}

// code is an UNWIND_CODE.
func code(offset, op, info int) uint16 { return uint16(offset | op<<8 | info<<12) }

// walkOf collects the frames of a walk.
func walkOf(w *Walker, r Regs, limit int) ([]Frame, End) {
	var l []Frame
	end := w.Walk(context.Background(), r, limit, func(f *Frame) bool { l = append(l, *f); return true })
	return l, end
}

// TestX64Epilogs: forms of epilogs, from every instruction of them. The frame
// is push rbx, push rbp, sub rsp 20h, with what comes before the return address
// known; a form that is none is unwound as the body.
func TestX64Epilogs(t *testing.T) {
	const begin = 0x100
	for _, c := range []struct {
		name   string
		code   string // the instructions, separated by spaces, in hexadecimal
		depths []int  // bytes below the return address, at each instruction
		pops   uint64 // parameters that the return releases
		stale  bool   // an old return address lies on top of the stack
	}{
		{name: "add, pops, ret", code: "4883C420 5D 5B C3", depths: []int{0x30, 0x10, 8, 0}},
		{name: "add of four bytes", code: "4881C420000000 5D 5B C3", depths: []int{0x30, 0x10, 8, 0}},
		{name: "rep ret", code: "4883C420 5D 5B F3C3", depths: []int{0x30, 0x10, 8, 0}},
		{name: "bnd ret", code: "4883C420 5D 5B F2C3", depths: []int{0x30, 0x10, 8, 0}},
		{name: "ret with parameters", code: "4883C420 5D 5B C21000", depths: []int{0x30, 0x10, 8, 0}, pops: 0x10},
		{name: "pops with prefix", code: "4883C420 405D 405B C3", depths: []int{0x30, 0x10, 8, 0}},
		{name: "tail call", code: "4883C420 5D 5B E900080000", depths: []int{0x30, 0x10, 8, 0}},
		{name: "short tail call to a leaf", code: "4883C420 5D 5B EB7F", depths: []int{0x30, 0x10, 8, 0}},
		{name: "tail call through an import", code: "4883C420 5D 5B FF2500080000", depths: []int{0x30, 0x10, 8, 0}},
		{name: "tail call through a register", code: "4883C420 5D 5B 48FFE0", depths: []int{0x30, 0x10, 8, 0}},
		{name: "bnd jmp", code: "4883C420 5D 5B F2E900080000", depths: []int{0x30, 0x10, 8, 0}},
		{name: "tail call of itself", code: "4883C420 5D 5B E9E5FFFFFF", depths: []int{0x30, 0x10, 8, 0}},
		{name: "jump out of the body", code: "E900080000", depths: []int{0x30}},
		{name: "jump through an import out of the body", code: "FF2500080000", depths: []int{0x30}},
		{name: "jump within the function", code: "EB10 4883C420", depths: []int{0x30, 0x30}},
		{name: "jump of a switch", code: "FFE0 3EFFE0 FF24C5", depths: []int{0x30, 0x30, 0x30}, stale: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake()
			f.info(0x1000, 1, 0, 6, 0, []uint16{code(6, opAllocSmall, 3), code(2, opPushNonvol, x64BP), code(1, opPushNonvol, x64BX)})
			f.fns = []pe.Function{{Begin: begin, End: begin + 0x40, Data: 0x1000}}
			// The code is placed where jumps are counted from: at +0x10.
			rva := uint32(begin + 0x10)
			var ats []uint32
			for _, h := range strings.Fields(c.code) {
				var b []byte
				if _, err := fmt.Sscanf(h, "%x", &b); err != nil {
					t.Fatal(err)
				}
				ats = append(ats, rva)
				copy(f.b[rva:], b)
				rva += uint32(len(b))
			}
			for i, depth := range c.depths {
				m := &memory{}
				m.fill(fakeStack-0x100, fakeStack+0x1000)
				// From the return address down.
				m.put(fakeStack, afterFakeCall, 8)
				m.put(fakeStack-8, 0xB0B, 8)
				m.put(fakeStack-16, 0xEBE, 8)
				if c.stale {
					m.put(fakeStack-uint64(depth), afterFakeCall, 8)
				}
				r := Regs{Machine: kdproto.MachineAMD64, PC: fakeBase + uint64(ats[i]), SP: fakeStack - uint64(depth)}
				bx, bp := uint64(0xBAD), uint64(0xBAD)
				if depth < 8 {
					bx = 0xB0B
				}
				if depth < 16 {
					bp = 0xEBE
				}
				r.Set(x64BX, bx)
				r.Set(x64BP, bp)
				w := &Walker{Memory: m, ImageAt: f.at}
				l, end := walkOf(w, r, 2)
				if len(l) != 2 {
					t.Fatalf("instruction %d: %d frames, %v", i, len(l), end)
				}
				want := fakeStack + 8 + c.pops
				g := l[1].Regs
				if g.PC != afterFakeCall || g.SP != want || g.X[x64BX] != 0xB0B || g.X[x64BP] != 0xEBE {
					t.Errorf("instruction %d: pc %#x sp %#x rbx %#x rbp %#x, want %#x %#x b0b ebe", i, g.PC, g.SP, g.X[x64BX], g.X[x64BP], uint64(afterFakeCall), want)
				}
			}
		})
	}
}

// TestX64Version2: where epilogs are is told, and code that looks like one is
// none.
func TestX64Version2(t *testing.T) {
	f := newFake()
	// Two epilogs of 3 bytes: pop rbp, pop rbx, ret; one at the end (+3D), one
	// that ends 10h bytes before it (+30).
	f.info(0x1000, 2, 0, 6, 0, []uint16{
		code(3, opEpilog, 1), code(0x10, opEpilog, 0), code(0, opEpilog, 0), code(0, opEpilog, 0),
		code(6, opAllocSmall, 3), code(2, opPushNonvol, x64BP), code(1, opPushNonvol, x64BX),
	})
	f.fns = []pe.Function{{Begin: 0x100, End: 0x140, Data: 0x1000}}
	for _, rva := range []int{0x120, 0x130, 0x13D} {
		copy(f.b[rva:], "\x5D\x5B\xC3")
	}
	var info x64Info
	if err := (&unwinder{}).info(f, f.fns[0], &info); err != nil {
		t.Fatal(err)
	}
	if info.epilogSize != 3 || fmt.Sprint(info.epilogs) != "[3 16]" || len(info.ops) != 3 {
		t.Errorf("%+v", info)
	}
	for _, c := range []struct {
		rva  uint64
		down uint64 // what the stack pointer is below the return address
	}{
		{0x120, 0x30}, {0x121, 0x30}, {0x122, 0x30}, // the body, whatever it looks like
		{0x130, 16}, {0x131, 8}, {0x132, 0}, {0x133, 0x30},
		{0x13D, 16}, {0x13E, 8}, {0x13F, 0},
	} {
		m := &memory{}
		m.fill(fakeStack-0x100, fakeStack+0x100)
		m.put(fakeStack, afterFakeCall, 8)
		m.put(fakeStack-8, 0xB0B, 8)
		m.put(fakeStack-16, 0xEBE, 8)
		r := Regs{Machine: kdproto.MachineAMD64, PC: fakeBase + c.rva, SP: fakeStack - c.down}
		if c.down < 8 {
			r.Set(x64BX, 0xB0B)
		}
		if c.down < 16 {
			r.Set(x64BP, 0xEBE)
		}
		l, end := walkOf(&Walker{Memory: m, ImageAt: f.at}, r, 2)
		if len(l) != 2 || l[1].PC != afterFakeCall || l[1].SP != fakeStack+8 || l[1].Regs.X[x64BX] != 0xB0B || l[1].Regs.X[x64BP] != 0xEBE {
			t.Errorf("+%#x: %d frames, %v", c.rva, len(l), end)
		}
	}
}

// TestX64Displaced: code that has pushed what it pops next.
func TestX64Displaced(t *testing.T) {
	for _, c := range []struct {
		name, code string
		off        int // of the instruction
		pushed     uint64
		ok         bool
	}{
		{"flags", "9C 58 89C3", 1, 8, true},
		{"two", "9C 51 59 58 89C3", 2, 16, true},
		{"between", "9C FA 58 89C3", 2, 8, true},
		{"not popped before a branch", "9C 90 EB10", 1, 8, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFake()
			f.info(0x1000, 1, 0, 4, 0, []uint16{code(4, opAllocSmall, 4)})
			f.fns = []pe.Function{{Begin: 0x100, End: 0x140, Data: 0x1000}}
			at := uint32(0x110)
			pc := at
			for i, h := range strings.Fields(c.code) {
				var b []byte
				_, _ = fmt.Sscanf(h, "%x", &b)
				if i == c.off {
					pc = at
				}
				at += uint32(copy(f.b[at:], b))
			}
			m := &memory{}
			m.fill(fakeStack-0x100, fakeStack+0x100)
			m.put(fakeStack, afterFakeCall, 8)
			r := Regs{Machine: kdproto.MachineAMD64, PC: fakeBase + uint64(pc), SP: fakeStack - 0x28 - c.pushed}
			l, end := walkOf(&Walker{Memory: m, ImageAt: f.at}, r, 2)
			if ok := len(l) == 2 && l[1].PC == afterFakeCall && l[1].SP == fakeStack+8; ok != c.ok {
				t.Errorf("found %v, want %v: %+v, %v", ok, c.ok, l, end)
			}
		})
	}
}

// TestX64Odd: entries that point to entries, chains in a circle, versions and
// operations that are not known, images that cannot be read.
func TestX64Odd(t *testing.T) {
	run := func(f *fakeImage) ([]Frame, End) {
		m := &memory{}
		m.fill(fakeStack-0x100, fakeStack+0x1000)
		m.put(fakeStack, afterFakeCall, 8)
		r := Regs{Machine: kdproto.MachineAMD64, PC: fakeBase + 0x120, SP: fakeStack - 0x28}
		return walkOf(&Walker{Memory: m, ImageAt: f.at}, r, 2)
	}
	f := newFake()
	f.fns = []pe.Function{{Begin: 0x100, End: 0x140, Data: 0x1101}}
	le.PutUint32(f.b[0x1108:], f.info(0x1000, 1, 0, 4, 0, []uint16{code(4, opAllocSmall, 4)}))
	if l, end := run(f); len(l) != 2 || l[1].PC != afterFakeCall {
		t.Errorf("indirect: %d frames, %v", len(l), end)
	}

	for _, c := range []struct {
		name, want string
		make       func(f *fakeImage)
	}{
		{"version 3", "UNWIND_INFO of version 3: 1 and 2 are known", func(f *fakeImage) { f.info(0x1000, 3, 0, 0, 0, nil) }},
		{"operation", "operation 11 is not known", func(f *fakeImage) { f.info(0x1000, 1, 0, 0, 0, []uint16{code(0, 11, 0)}) }},
		{"cut off", "needs 3 slots of 2", func(f *fakeImage) { f.info(0x1000, 1, 0, 0, 0, []uint16{code(0, opSaveNonvolFar, 1), 0}) }},
		{"large form", "ALLOC_LARGE of form 2", func(f *fakeImage) { f.info(0x1000, 1, 0, 0, 0, []uint16{code(0, opAllocLarge, 2), 0}) }},
		{"machine form", "PUSH_MACHFRAME of form 2", func(f *fakeImage) { f.info(0x1000, 1, 0, 0, 0, []uint16{code(0, opPushMachine, 2)}) }},
		{"circle", "in a circle", func(f *fakeImage) {
			f.info(0x1000, 1, flagChain, 0, 0, nil, 0x100, 0x140, 0x1000)
		}},
		{"circle of entries", "in a circle", func(f *fakeImage) {
			f.fns[0].Data = 0x1001
			le.PutUint32(f.b[0x1008:], 0x1001)
		}},
		{"outside", "unwind data at offset 0x5000 of its image: outside", func(f *fakeImage) { f.fns[0].Data = 0x5000 }},
		{"directory", "no pages", func(f *fakeImage) { f.err = errors.New("no pages") }},
	} {
		f := newFake()
		f.fns = []pe.Function{{Begin: 0x100, End: 0x140, Data: 0x1000}}
		c.make(f)
		l, end := run(f)
		if len(l) != 1 || l[0].How != None || end.Reason != BadData || !strings.Contains(end.String(), c.want) || end.Addr != fakeBase+0x120 {
			t.Errorf("%s: %d frames, %v", c.name, len(l), end)
		}
	}
}

// chainOf builds a stack of n frames of size bytes each, all waiting behind the
// call, ended by a zero.
func chainOf(f *fakeImage, n int, size uint64) (*memory, Regs) {
	f.fns = []pe.Function{{Begin: 0x700, End: 0x900, Data: 0x1000}}
	f.info(0x1000, 1, 0, 4, 0, []uint16{code(4, opAllocLarge, 1), uint16(size - 8), uint16((size - 8) >> 16)})
	m := &memory{}
	m.fill(fakeStack, fakeStack+uint64(n)*size+0x1000)
	for i := 1; i <= n; i++ {
		v := uint64(afterFakeCall)
		if i == n {
			v = 0
		}
		m.put(fakeStack+uint64(i)*size-8, v, 8)
	}
	return m, Regs{Machine: kdproto.MachineAMD64, PC: afterFakeCall, SP: fakeStack}
}

func TestPrefetch(t *testing.T) {
	for _, c := range []struct {
		frames, limit int
		size          uint64
		block         int
		reads, bytes  int // at most
	}{
		{30, 30, 0x100, 0, 1, 8192},
		{30, 256, 0x100, 0, 1, 8192},
		{100, 256, 0x100, 0, 4, 4 * 8192},
		{30, 256, 0x400, 16384, 2, 2 * 16384},
		{30, 1, 0x100, 0, 1, 1280}, // one frame asks for little
		{3, 256, 0x40000, 0, 3, 3 * 8192},
	} {
		f := newFake()
		m, r := chainOf(f, c.frames, c.size)
		l, end := walkOf(&Walker{Memory: m, ImageAt: f.at, Block: c.block}, r, c.limit)
		if len(l) != min(c.frames, c.limit) || len(m.reads) > c.reads || m.bytes > c.bytes {
			t.Errorf("%+v: %d frames, %d reads of %d bytes, %v", c, len(l), len(m.reads), m.bytes, end)
		}
		t.Logf("%d frames of %#x bytes: %d reads, %d bytes", len(l), c.size, len(m.reads), m.bytes)
	}
}

func TestEnds(t *testing.T) {
	base := func() (*fakeImage, *memory, Regs) {
		f := newFake()
		m, r := chainOf(f, 10, 0x100)
		return f, m, r
	}
	t.Run("bottom", func(t *testing.T) {
		f, m, r := base()
		l, end := walkOf(&Walker{Memory: m, ImageAt: f.at}, r, 100)
		if len(l) != 10 || end.Reason != Bottom || l[9].Return != 0 || l[9].How != None || l[8].How != UnwindData || end.String() != "" {
			t.Errorf("%d frames, %v", len(l), end)
		}
		if l[0].CFA != fakeStack+0x100 || l[1].SP != l[0].CFA || !l[0].Trap || l[1].Trap || l[0].FuncRVA != 0x700 {
			t.Errorf("%+v", l[0])
		}
	})
	t.Run("limit", func(t *testing.T) {
		f, m, r := base()
		if l, end := walkOf(&Walker{Memory: m, ImageAt: f.at}, r, 4); len(l) != 4 || end.Reason != Limit {
			t.Errorf("%d frames, %v", len(l), end)
		}
		if l, end := walkOf(&Walker{Memory: m, ImageAt: f.at}, r, 0); len(l) != 0 || end.Reason != Limit {
			t.Errorf("%d frames, %v", len(l), end)
		}
	})
	t.Run("stopped", func(t *testing.T) {
		f, m, r := base()
		n := 0
		end := (&Walker{Memory: m, ImageAt: f.at}).Walk(context.Background(), r, 100, func(*Frame) bool { n++; return n < 3 })
		if n != 3 || end.Reason != Stopped {
			t.Errorf("%d frames, %v", n, end)
		}
	})
	t.Run("cancelled", func(t *testing.T) {
		f, m, r := base()
		ctx, cancel := context.WithCancel(context.Background())
		n := 0
		end := (&Walker{Memory: m, ImageAt: f.at}).Walk(ctx, r, 100, func(*Frame) bool {
			if n++; n == 2 {
				cancel()
			}
			return true
		})
		if n != 2 || end.Reason != Cancelled || !errors.Is(end.Err, context.Canceled) || end.String() == "" {
			t.Errorf("%d frames, %v", n, end)
		}
	})
	t.Run("unreadable", func(t *testing.T) {
		f, m, r := base()
		m.to = fakeStack + 0x380
		for a := range m.b {
			if a >= m.to {
				delete(m.b, a)
			}
		}
		l, end := walkOf(&Walker{Memory: m, ImageAt: f.at}, r, 100)
		if len(l) != 4 || end.Reason != Unreadable || end.Addr != fakeStack+0x3F8 || !errors.Is(end.Err, errHole) {
			t.Errorf("%d frames, %v", len(l), end)
		}
		if want := "The stack cannot be read at 0xffffa000000103f8: not mapped"; end.String() != want {
			t.Errorf("%q, want %q", end, want)
		}
	})
	t.Run("no image", func(t *testing.T) {
		f, m, r := base()
		m.put(fakeStack+0x1F8, 0x1234, 8)
		l, end := walkOf(&Walker{Memory: m, ImageAt: f.at}, r, 100)
		if len(l) != 3 || end.Reason != NoImage || end.Addr != 0x1234 || l[2].PC != 0x1234 || l[2].How != None || end.String() == "" {
			t.Errorf("%d frames, %v", len(l), end)
		}
	})
	t.Run("circle", func(t *testing.T) {
		// Frames that restore the stack pointer from a register that is always the same.
		f, m, r := base()
		f.info(0x1000, 1, 0, 4, x64BP, []uint16{code(4, opSetFPReg, 0)})
		m.put(fakeStack+0x200, afterFakeCall, 8)
		r.Set(x64BP, fakeStack+0x200)
		l, end := walkOf(&Walker{Memory: m, ImageAt: f.at}, r, 1000)
		if len(l) != 2 || end.Reason != Loop || end.Addr != fakeStack+0x208 || end.String() == "" {
			t.Errorf("%d frames, %v", len(l), end)
		}
	})
	t.Run("stack pointer goes down", func(t *testing.T) {
		f := newFake()
		f.machine = kdproto.MachineI386
		m := &memory{}
		m.fill(wire(0x81F00000), wire(0x81F10000))
		m.put(wire(0x81F00100), fakeBase+0x805, 4)
		f.base = 0xFFFFFFFF80000000
		m.put(wire(0x81F00100), uint64(uint32(f.base+0x805)), 4)
		w := &Walker{Memory: m, ImageAt: f.at, X86Frame: func(uint64) (sym.X86Frame, bool) {
			return sym.X86Frame{HasProgram: true, Program: "$eip 0x81F00100 ^ = $esp $esp 4 - ="}, true
		}}
		l, end := walkOf(w, Regs{Machine: kdproto.MachineI386, PC: f.base + 0x850, SP: wire(0x81F00200)}, 1000)
		if len(l) != 1 || end.Reason != Loop {
			t.Errorf("%d frames, %v", len(l), end)
		}
	})
	t.Run("scattered", func(t *testing.T) {
		// Every frame lies a long way from the last one.
		f := newFake()
		m, r := chainOf(f, 1000, 0x10000)
		l, end := walkOf(&Walker{Memory: m, ImageAt: f.at}, r, 1000)
		if end.Reason != Unreadable || !errors.Is(end.Err, errScattered) || len(m.reads) > maxBlocks || len(l) < 50 {
			t.Errorf("%d frames, %d reads, %v", len(l), len(m.reads), end)
		}
	})
	t.Run("machine", func(t *testing.T) {
		end := (&Walker{}).Walk(context.Background(), Regs{Machine: kdproto.MachineARMNT}, 1, nil)
		if end.Reason != BadData {
			t.Error(end)
		}
	})
	t.Run("bad pointer called", func(t *testing.T) {
		f, m, r := base()
		m.put(fakeStack-8, afterFakeCall, 8)
		m.from -= 0x100
		r.PC, r.SP = 0, fakeStack-8
		l, end := walkOf(&Walker{Memory: m, ImageAt: f.at}, r, 100)
		if len(l) != 11 || l[0].How != Guess || l[1].PC != afterFakeCall || end.Reason != Bottom {
			t.Errorf("%d frames, %v", len(l), end)
		}
	})
}

// TestWaiting: a call that is the last instruction of its function returns to
// what is another one.
func TestWaiting(t *testing.T) {
	f := newFake()
	m, r := chainOf(f, 3, 0x100)
	f.fns = []pe.Function{{Begin: 0x700, End: 0x805, Data: 0x1000}, {Begin: 0x805, End: 0x900, Data: 0x1100}}
	f.info(0x1100, 1, 0, 1, 0, []uint16{code(1, opPushNonvol, x64BP)})
	var l []Frame
	end := (&Walker{Memory: m, ImageAt: f.at}).WalkWaiting(context.Background(), r, 100, func(f *Frame) bool { l = append(l, *f); return true })
	if len(l) != 3 || end.Reason != Bottom || l[0].FuncRVA != 0x700 || l[0].Trap {
		t.Errorf("%d frames, %v", len(l), end)
	}
}

// TestNoUnwindData: code that called something must have unwind data; what lies
// on top of its stack is believed only if it is behind a call.
func TestNoUnwindData(t *testing.T) {
	f := newFake()
	m, r := chainOf(f, 1, 0x100)
	f.fns = nil
	m.put(fakeStack, afterFakeCall, 8)
	m.put(fakeStack+8, afterFakeCall, 8)
	m.put(fakeStack+16, fakeBase+0x900, 8)
	l, end := walkOf(&Walker{Memory: m, ImageAt: f.at}, r, 100)
	if len(l) != 3 || l[0].How != Leaf || l[1].How != Guess || l[2].How != None || end.Reason != BadData || !errors.Is(end.Err, errNoData) {
		t.Errorf("%d frames, %v", len(l), end)
	}
}

func TestRegs(t *testing.T) {
	for _, c := range []struct {
		machine        kdproto.Machine
		whole, part    string
		value          uint64
		partOf         uint64
		vector, number string
	}{
		{kdproto.MachineAMD64, "rbx", "bl", 0x1122334455667788, 0x88, "xmm6", "xmm6l"},
		{kdproto.MachineARM64, "x19", "w19", 0x1122334455667788, 0x55667788, "v8", "d8"},
		{kdproto.MachineI386, "ebx", "bx", 0x55667788, 0x7788, "", ""},
	} {
		a, _ := arch.For(c.machine)
		ctx := make([]byte, a.ContextSize)
		a.SetContextFlags(ctx, 0xFFFFFFFF)
		a.SetPC(ctx, 0xFFFFFFFF80001000)
		a.SetSP(ctx, 0xFFFFFFFF80002000)
		st := arch.State{Context: ctx}
		set := func(name string, v arch.Value) { r, _ := a.Reg(name); r.Set(st, v) }
		set(c.whole, arch.Value{Lo: c.value})
		if c.vector != "" {
			set(c.vector, arch.Value{Lo: 7, Hi: 9})
		}
		r, err := FromContext(c.machine, ctx)
		if err != nil {
			t.Fatal(err)
		}
		get := func(name string, want uint64) {
			t.Helper()
			if v, ok := r.Get(name); !ok || v.Lo != want {
				t.Errorf("%s %s is %#x %v, want %#x", a.Name, name, v.Lo, ok, want)
			}
		}
		get(c.whole, c.value)
		get(c.part, c.partOf)
		if c.vector != "" {
			get(c.vector, 7)
			get(c.number, 7)
		}
		if out := r.Context(make([]byte, a.ContextSize)); a.PC(out) != a.PC(ctx) || a.SP(out) != a.SP(ctx) {
			t.Errorf("%s: the record does not come back", a.Name)
		} else if back, err := FromContext(c.machine, r.Context(ctx)); err != nil || back != r {
			t.Errorf("%s: the registers do not come back: %v", a.Name, err)
		}
		var none Regs
		none.Machine = c.machine
		if _, ok := none.Get(c.whole); ok {
			t.Errorf("%s: %s of a frame where nothing is known", a.Name, c.whole)
		}
		for _, name := range []string{"cr3", "nonsense", "efl"} {
			if _, ok := r.Get(name); ok {
				t.Errorf("%s: %s is no register of a frame", a.Name, name)
			}
		}
		if !none.Put(c.whole, 5) || none.Put("nonsense", 5) || none.Put("", 5) {
			t.Errorf("%s: Put", a.Name)
		}
		if v, ok := none.Get(c.whole); !ok || v.Lo != 5 {
			t.Errorf("%s: %s is %v %v", a.Name, c.whole, v, ok)
		}
		if _, err := FromContext(c.machine, ctx[:100]); err == nil {
			t.Errorf("%s: a short record is taken", a.Name)
		}
	}
	if _, err := FromContext(kdproto.MachineARMNT, nil); err == nil {
		t.Error("a machine that is not known is taken")
	}
}

// TestNewImage: pages that are missing are errors, and come back when they are
// there again.
func TestNewImage(t *testing.T) {
	f := openFixture(t, "x64-1.sys")
	flat := make([]byte, f.im.Size())
	if err := f.im.ReadRVA(0, flat); err != nil {
		t.Fatal(err)
	}
	holes := &holeReader{data: flat}
	p, err := pe.Open(holes, pe.Mapped)
	if err != nil {
		t.Fatal(err)
	}
	im, err := NewImage(p, fixtureBase)
	if err != nil {
		t.Fatal(err)
	}
	holes.from, holes.to = 0x2000, 0x3000
	b := make([]byte, 16)
	if err := im.ReadRVA(0x1FF8, b); err == nil || !strings.Contains(err.Error(), "not mapped") {
		t.Errorf("a hole is read: %v", err)
	}
	holes.to = 0
	if err := im.ReadRVA(0x1FF8, b); err != nil || !bytes.Equal(b, flat[0x1FF8:0x2008]) {
		t.Errorf("after it came back: %v", err)
	}
	if err := im.ReadRVA(im.Size()-4, b); err == nil {
		t.Error("a read beyond the end")
	}
	if err := im.ReadRVA(0xFFFFFFFF, b); err == nil {
		t.Error("a read that wraps around")
	}
	if im.Machine() != kdproto.MachineAMD64 || im.Base() != fixtureBase {
		t.Error("machine, base")
	}
	// The same functions as in the file.
	for _, fn := range f.functions(t) {
		got, ok, err := im.Function(fn.Begin)
		if !ok || err != nil || got != fn {
			t.Errorf("%#x: %+v %v %v", fn.Begin, got, ok, err)
		}
	}
	x86 := openFixture(t, "x86-1.sys")
	if _, ok, err := x86.im.Function(0x1000); ok || err != nil {
		t.Errorf("x86 has functions: %v %v", ok, err)
	}
}

type holeReader struct {
	data     []byte
	from, to int64
}

func (h *holeReader) ReadAt(b []byte, off int64) (int, error) {
	for i := range b {
		at := off + int64(i)
		if at >= h.from && at < h.to {
			return i, errHole
		}
		if at >= int64(len(h.data)) {
			return i, io.EOF
		}
		b[i] = h.data[at]
	}
	return len(b), nil
}
