package unwind

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"openkd/arch"
	"openkd/image/pe"
	"openkd/image/sym"
	"openkd/kdproto"
)

// from reads what a fuzzer gives as if it were an image.
func from(b []byte) func(off uint32, p []byte) error {
	return func(off uint32, p []byte) error {
		if uint64(off)+uint64(len(p)) > uint64(len(b)) {
			return errors.New("outside")
		}
		copy(p, b[off:])
		return nil
	}
}

func FuzzUnwindInfo(f *testing.F) {
	for _, level := range levels {
		x := openFixture(f, "x64-"+level+".sys")
		for _, fn := range x.functions(f) {
			f.Add(x.code(f, fn.Data, 32))
		}
	}
	f.Add([]byte{2, 6, 7, 0, 3, 0x16, 0x10, 6, 0, 6, 0, 6, 6, 0x32, 2, 0x50, 1, 0x30})
	f.Fuzz(func(t *testing.T, b []byte) {
		u := unwinder{}
		var info x64Info
		if err := parseX64(&info, u.data[:], from(b)); err != nil {
			return
		}
		if n := len(info.ops) + len(info.epilogs); n > 255 {
			t.Errorf("%d operations", n)
		}
	})
}

func FuzzXdata(f *testing.F) {
	for _, level := range levels {
		x := openFixture(f, "arm64-"+level+".sys")
		for _, fn := range x.functions(f) {
			if fn.Data&3 == 0 {
				f.Add(x.code(f, fn.Data, 48))
			} else {
				f.Add(le.AppendUint32(nil, fn.Data))
			}
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= 4 {
			var info armInfo
			if err := armPacked(&info, le.Uint32(b)); err == nil && len(info.ops) > 20 {
				t.Errorf("%d operations", len(info.ops))
			}
		}
		u := unwinder{}
		var info armInfo
		if err := parseARM(&info, 0, u.data[:], from(b)); err != nil {
			return
		}
		scopes := 0
		_ = armScopes(&info, from(b), func(start, index uint32) bool {
			scopes++
			if n, err := armSequence(info.codes, index); err == nil && int(n) > len(info.codes) {
				t.Errorf("%d instructions of %d bytes", n, len(info.codes))
			}
			return true
		})
		if scopes > 65535 {
			t.Errorf("%d scopes", scopes)
		}
	})
}

func FuzzFrameProgram(f *testing.F) {
	f.Add("$T0 .raSearch = $eip $T0 ^ = $esp $T0 4 + = $ebp $T0 4 - ^ = $ebx $T0 8 - ^ =")
	f.Add("$T1 $ebp 4 + = $T0 $T1 16 - 8 @ = $eip $T1 ^ = $esp $T1 4 + =")
	f.Add("$a 7 2 % = $b 7 2 / = $c 7 2 * = $d -1 =")
	f.Fuzz(func(t *testing.T, program string) {
		reads := 0
		vars := map[string]uint32{"$esp": 0x1000, "$ebp": 0x1010}
		_, _ = runProgram(program, vars, func() (uint32, error) { reads++; return 0x1000, nil }, func(at uint32) (uint32, error) { reads++; return at, nil })
		if reads > maxProgram/2 || len(vars) > maxProgram/2+2 {
			t.Errorf("%d reads, %d variables", reads, len(vars))
		}
	})
}

// FuzzWalk gives a walk an image and a stack that are nothing but bytes.
func FuzzWalk(f *testing.F) {
	for i, name := range []string{"x64-1.sys", "arm64-1.sys", "x86-1.sys"} {
		x := openFixture(f, name)
		text := x.code(f, 0, int(min(x.im.Size(), 0x3000)))
		f.Add(byte(i), text[0x1000:], []byte("\x05\x10\x40\x00\x00\x00\x00\x00\x10\x20\x70\x00\x00\x00\x00\x00"), uint32(0x10), "$eip $esp ^ = $esp $esp 4 + =")
		f.Add(byte(i), text[0x2000:], bytes.Repeat([]byte{5, 0, 0x40, 0, 0, 0, 0, 0}, 64), uint32(5), "")
	}
	f.Fuzz(func(t *testing.T, machine byte, image, stack []byte, pc uint32, program string) {
		im := &hostileImage{fakeImage{base: fixtureBase, b: image, machine: [...]kdproto.Machine{kdproto.MachineAMD64, kdproto.MachineARM64, kdproto.MachineI386}[machine%3]}}
		const base = 0x700000
		m := &memory{}
		for i, b := range stack {
			m.put(base+uint64(i), uint64(b), 1)
		}
		a, _ := arch.For(im.machine)
		r := Regs{Machine: im.machine, PC: fixtureBase + uint64(pc), SP: base}
		for i := range 31 {
			r.Set(i, base+uint64(i)*8)
		}
		w := &Walker{
			Memory: m,
			ImageAt: func(pc uint64) (Image, bool) {
				_, ok := im.at(pc)
				return im, ok
			},
			TrapFrame: func(addr uint64, r *Regs) error { r.PC, r.SP = addr, addr+8; return nil },
			Block:     256,
		}
		if program != "" {
			w.X86Frame = func(pc uint64) (sym.X86Frame, bool) {
				return sym.X86Frame{RVA: uint32(pc) & 0xFF0, Size: 0x100, Locals: uint32(pc), HasProgram: len(program)%2 == 0, Program: program, Prolog: 8, Trap: program == "trap"}, true
			}
		}
		const limit = 50
		frames := 0
		end := w.Walk(context.Background(), r, limit, func(f *Frame) bool { frames++; return true })
		if frames > limit || len(m.reads) > maxBlocks {
			t.Errorf("%d frames, %d reads", frames, len(m.reads))
		}
		if a.PointerSize == 4 && end.Reason == Unreadable && end.Addr != a.Canon(end.Addr) {
			t.Errorf("address %#x is not in wire form", end.Addr)
		}
		_ = end.String()
	})
}

// hostileImage has functions wherever one looks, whose unwind data lies there
// too.
type hostileImage struct{ fakeImage }

func (h *hostileImage) Function(rva uint32) (pe.Function, bool, error) {
	var b [12]byte
	at := rva &^ 15
	if h.ReadRVA(at, b[:]) != nil {
		return pe.Function{}, false, nil
	}
	fn := pe.Function{Begin: at, End: at + uint32(b[0]), Data: le.Uint32(b[4:])}
	if n := uint32(len(h.b)); n > 0 && fn.Data&3 == 0 {
		fn.Data = fn.Data % n &^ 3
	}
	return fn, rva < fn.End || h.machine == kdproto.MachineARM64, nil
}
