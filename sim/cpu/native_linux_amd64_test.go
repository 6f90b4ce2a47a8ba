package cpu

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"openkd/sim/cpu/internal/native"
)

// nativeMem shows the interpreter memory at the addresses the real processor
// has it at.
type nativeMem struct {
	base uint64
	ram
}

func (m *nativeMem) Page(a uint64) *[4096]byte         { return m.ram.Page(a - m.base) }
func (m *nativeMem) ReadPhys(a uint64, p []byte) bool  { return m.ram.ReadPhys(a-m.base, p) }
func (m *nativeMem) WritePhys(a uint64, p []byte) bool { return m.ram.WritePhys(a-m.base, p) }
func (m *nativeMem) slice(off, n uint64) []byte        { return m.pages[off/4096][off&0xFFF:][:n] }

// form is a family of instructions to try.
type form struct {
	name    string
	must    []byte // mandatory prefix
	op      []byte
	plus    int  // registers in the opcode
	ext     int  // modrm.reg, or anyReg; noModRM for none
	imm     int  // bytes; immZ, immV
	no66    bool // no operand size prefix
	noMem   bool
	memory  bool // memory only
	bit     bool // bit number in a register
	aligned bool
	sse     bool
	str     bool // string instruction
	undef   func(i *inst, before *native.State) (flags uint64, skip bool)
}

const (
	noModRM = -2
	anyReg  = -1
	immZ    = -1
	immV    = -2
)

func always(f uint64) func(*inst, *native.State) (uint64, bool) {
	return func(*inst, *native.State) (uint64, bool) { return f, false }
}

// shiftCount is the count of a shift or double shift.
func shiftCount(i *inst, s *native.State) uint64 {
	n := s.R[RCX]
	switch i.op {
	case 0xC0, 0xC1, 0x1A4, 0x1AC:
		n = i.imm
	case 0xD0, 0xD1:
		n = 1
	}
	if i.size == 8 {
		return n & 63
	}
	return n & 31
}

func undefShift(i *inst, s *native.State) (f uint64, skip bool) {
	n := shiftCount(i, s)
	if n == 0 {
		return 0, false
	}
	if n != 1 {
		f |= FlagOF
	}
	if i.reg&7 >= 4 {
		f |= FlagAF
		if i.reg&7 < 7 && n >= uint64(i.size)*8 {
			f |= FlagCF
		}
	}
	return f, false
}

func undefDouble(i *inst, s *native.State) (f uint64, skip bool) {
	n := shiftCount(i, s)
	if n == 0 {
		return 0, false
	}
	f = FlagAF
	if n != 1 {
		f |= FlagOF
	}
	return f, n > uint64(i.size)*8
}

var integerForms = buildIntegerForms()

func buildIntegerForms() (fs []form) {
	add := func(f form) { fs = append(fs, f) }
	names := []string{"add", "or", "adc", "sbb", "and", "sub", "xor", "cmp"}
	for k, name := range names {
		u := always(0)
		if k == 1 || k == 4 || k == 6 {
			u = always(FlagAF)
		}
		for form4 := range 4 {
			add(form{name: name, op: []byte{byte(k*8 + form4)}, ext: anyReg, undef: u})
		}
		add(form{name: name, op: []byte{byte(k*8 + 4)}, ext: noModRM, imm: 1, undef: u})
		add(form{name: name, op: []byte{byte(k*8 + 5)}, ext: noModRM, imm: immZ, undef: u})
		add(form{name: name, op: []byte{0x80}, ext: k, imm: 1, undef: u})
		add(form{name: name, op: []byte{0x81}, ext: k, imm: immZ, undef: u})
		add(form{name: name, op: []byte{0x83}, ext: k, imm: 1, undef: u})
	}
	for k, name := range []string{"rol", "ror", "rcl", "rcr", "shl", "shr", "sal", "sar"} {
		for _, o := range []byte{0xC0, 0xC1} {
			add(form{name: name, op: []byte{o}, ext: k, imm: 1, undef: undefShift})
		}
		for _, o := range []byte{0xD0, 0xD1, 0xD2, 0xD3} {
			add(form{name: name, op: []byte{o}, ext: k, undef: undefShift})
		}
	}
	for _, o := range []byte{0xA4, 0xAC} {
		add(form{name: "shld/shrd", op: []byte{0x0F, o}, ext: anyReg, imm: 1, undef: undefDouble})
		add(form{name: "shld/shrd cl", op: []byte{0x0F, o + 1}, ext: anyReg, undef: undefDouble})
	}
	const mulU = FlagSF | FlagZF | FlagAF | FlagPF
	for _, o := range []byte{0xF6, 0xF7} {
		im := 1
		if o == 0xF7 {
			im = immZ
		}
		add(form{name: "test", op: []byte{o}, ext: 0, imm: im, undef: always(FlagAF)})
		add(form{name: "not", op: []byte{o}, ext: 2})
		add(form{name: "neg", op: []byte{o}, ext: 3})
		add(form{name: "mul", op: []byte{o}, ext: 4, undef: always(mulU)})
		add(form{name: "imul", op: []byte{o}, ext: 5, undef: always(mulU)})
		add(form{name: "div", op: []byte{o}, ext: 6, undef: always(flagStatus)})
		add(form{name: "idiv", op: []byte{o}, ext: 7, undef: always(flagStatus)})
		add(form{name: "inc", op: []byte{o + 8}, ext: 0})
		add(form{name: "dec", op: []byte{o + 8}, ext: 1})
		add(form{name: "test", op: []byte{o - 0x72}, ext: anyReg, undef: always(FlagAF)})
		add(form{name: "xchg", op: []byte{o - 0x70}, ext: anyReg})
		add(form{name: "mov", op: []byte{o - 0x6E}, ext: anyReg})
		add(form{name: "mov", op: []byte{o - 0x6C}, ext: anyReg})
		add(form{name: "mov", op: []byte{o - 0x30}, ext: 0, imm: im})
		add(form{name: "test", op: []byte{o - 0x4E}, ext: noModRM, imm: im, undef: always(FlagAF)})
		add(form{name: "cmpxchg", op: []byte{0x0F, o - 0x46}, ext: anyReg})
		add(form{name: "xadd", op: []byte{0x0F, o - 0x36}, ext: anyReg})
		add(form{name: "movzx", op: []byte{0x0F, o - 0x40}, ext: anyReg})
		add(form{name: "movsx", op: []byte{0x0F, o - 0x38}, ext: anyReg})
	}
	add(form{name: "imul", op: []byte{0x69}, ext: anyReg, imm: immZ, undef: always(mulU)})
	add(form{name: "imul", op: []byte{0x6B}, ext: anyReg, imm: 1, undef: always(mulU)})
	add(form{name: "imul", op: []byte{0x0F, 0xAF}, ext: anyReg, undef: always(mulU)})
	add(form{name: "movsxd", op: []byte{0x63}, ext: anyReg})
	add(form{name: "lea", op: []byte{0x8D}, ext: anyReg, memory: true})
	add(form{name: "xchg rax", op: []byte{0x90}, plus: 8, ext: noModRM})
	add(form{name: "cwde", op: []byte{0x98}, ext: noModRM})
	add(form{name: "cdq", op: []byte{0x99}, ext: noModRM})
	add(form{name: "lahf", op: []byte{0x9F}, ext: noModRM})
	add(form{name: "sahf", op: []byte{0x9E}, ext: noModRM})
	add(form{name: "mov imm8", op: []byte{0xB0}, plus: 8, ext: noModRM, imm: 1})
	add(form{name: "mov imm", op: []byte{0xB8}, plus: 8, ext: noModRM, imm: immV})
	add(form{name: "flags", op: []byte{0xF5}, ext: noModRM})
	add(form{name: "flags", op: []byte{0xF8}, plus: 2, ext: noModRM})
	add(form{name: "setcc", op: []byte{0x0F, 0x90}, plus: 16, ext: anyReg})
	add(form{name: "cmovcc", op: []byte{0x0F, 0x40}, plus: 16, ext: anyReg})
	const btU = FlagOF | FlagSF | FlagAF | FlagPF
	for k, o := range []byte{0xA3, 0xAB, 0xB3, 0xBB} {
		add(form{name: "bt", op: []byte{0x0F, o}, ext: anyReg, bit: true, undef: always(btU)})
		add(form{name: "bt imm", op: []byte{0x0F, 0xBA}, ext: 4 + k, imm: 1, undef: always(btU)})
	}
	const scanU = FlagOF | FlagSF | FlagAF | FlagPF
	for _, o := range []byte{0xBC, 0xBD} {
		add(form{name: "bsf/bsr", op: []byte{0x0F, o}, ext: anyReg, undef: always(scanU | FlagCF)})
		add(form{name: "tzcnt/lzcnt", must: []byte{0xF3}, op: []byte{0x0F, o}, ext: anyReg, undef: always(scanU)})
	}
	add(form{name: "popcnt", must: []byte{0xF3}, op: []byte{0x0F, 0xB8}, ext: anyReg})
	add(form{name: "bswap", op: []byte{0x0F, 0xC8}, plus: 8, ext: noModRM, no66: true})
	add(form{name: "movnti", op: []byte{0x0F, 0xC3}, ext: anyReg, memory: true, no66: true})
	add(form{name: "cmpxchg8b/16b", op: []byte{0x0F, 0xC7}, ext: 1, memory: true, aligned: true})
	return fs
}

var sseForms = buildSSEForms()

func buildSSEForms() (fs []form) {
	const memOnly, regOnly = 1, 2
	add := func(name string, must, op byte, kind int, aligned bool, imm int, ext int) {
		f := form{name: name, op: []byte{0x0F, op}, ext: ext, imm: imm, sse: true, no66: true, aligned: aligned,
			memory: kind == memOnly, noMem: kind == regOnly}
		if must != 0 {
			f.must = []byte{must}
		}
		fs = append(fs, f)
	}
	for _, must := range []byte{0, 0x66, 0xF3, 0xF2} {
		scalar := must >= 0xF2
		for _, op := range []byte{0x10, 0x11} {
			add("movups", must, op, 0, false, 0, anyReg)
		}
		for _, op := range []byte{0x51, 0x58, 0x59, 0x5C, 0x5D, 0x5E, 0x5F} {
			add("float", must, op, 0, !scalar, 0, anyReg)
		}
		add("cmpps", must, 0xC2, 0, !scalar, 1, anyReg)
		add("cvt", must, 0x5A, 0, must == 0x66, 0, anyReg)
		if must != 0xF2 {
			add("cvt", must, 0x5B, 0, true, 0, anyReg)
		}
		if must != 0 {
			add("cvt", must, 0xE6, 0, must != 0xF3, 0, anyReg)
			add("pshuf", must, 0x70, 0, true, 1, anyReg)
		}
		if scalar {
			for _, op := range []byte{0x2A, 0x2C, 0x2D} {
				add("cvt general", must, op, 0, false, 0, anyReg)
			}
			continue
		}
		for _, op := range []byte{0x28, 0x29, 0x14, 0x15, 0x54, 0x55, 0x56, 0x57} {
			add("movaps", must, op, 0, true, 0, anyReg)
		}
		add("shufps", must, 0xC6, 0, true, 1, anyReg)
		for _, op := range []byte{0x12, 0x13, 0x16, 0x17} {
			add("movlps", must, op, memOnly, false, 0, anyReg)
		}
		add("movntps", must, 0x2B, memOnly, true, 0, anyReg)
		for _, op := range []byte{0x2E, 0x2F} {
			add("comis", must, op, 0, false, 0, anyReg)
		}
		add("movmskps", must, 0x50, regOnly, false, 0, anyReg)
	}
	add("movhlps", 0, 0x12, regOnly, false, 0, anyReg)
	add("movlhps", 0, 0x16, regOnly, false, 0, anyReg)
	for _, op := range []byte{0x6F, 0x7F} {
		add("movdqa", 0x66, op, 0, true, 0, anyReg)
		add("movdqu", 0xF3, op, 0, false, 0, anyReg)
	}
	add("movd", 0x66, 0x6E, 0, false, 0, anyReg)
	add("movd", 0x66, 0x7E, 0, false, 0, anyReg)
	add("movq", 0xF3, 0x7E, 0, false, 0, anyReg)
	add("movq", 0x66, 0xD6, 0, false, 0, anyReg)
	add("movntdq", 0x66, 0xE7, memOnly, true, 0, anyReg)
	add("pmovmskb", 0x66, 0xD7, regOnly, false, 0, anyReg)
	add("pinsrw", 0x66, 0xC4, 0, false, 1, anyReg)
	add("pextrw", 0x66, 0xC5, regOnly, false, 1, anyReg)
	add("maskmovdqu", 0x66, 0xF7, regOnly, false, 0, anyReg)
	for op := 0x160; op <= 0x1FE; op++ {
		if packedOp(uint16(op)) {
			add("packed", 0x66, byte(op), 0, true, 0, anyReg)
		}
	}
	for op, exts := range [][]int{{2, 4, 6}, {2, 4, 6}, {2, 3, 6, 7}} {
		for _, ext := range exts {
			add("packed shift", 0x66, 0x71+byte(op), regOnly, false, 1, ext)
		}
	}
	return fs
}

var stringForms = buildStringForms()

func buildStringForms() (fs []form) {
	for _, op := range []byte{0xA4, 0xA5, 0xA6, 0xA7, 0xAA, 0xAB, 0xAC, 0xAD, 0xAE, 0xAF} {
		for _, must := range [][]byte{nil, {0xF3}, {0xF2}, {0x66, 0xF3}} {
			fs = append(fs, form{name: "string", must: must, op: []byte{op}, ext: noModRM, str: true})
		}
	}
	return fs
}

func TestNativeString(t *testing.T) { compareNative(t, stringForms) }

func TestNativeSSE(t *testing.T) { compareNative(t, sseForms) }

// randomFloat is two single or one double of some use, or just bits, or a
// small count.
func randomFloat(r *rand.Rand) uint64 {
	single := func() uint64 {
		switch r.IntN(5) {
		case 0:
			return uint64([]uint32{0, 1 << 31, 0x7F800000, 0xFF800000, 0x7FC00001, 0x7F800001, 0xFFC00000, 1, 0x3F800000, 0x4F000000, 0xCF000000}[r.IntN(11)])
		case 1:
			return uint64(r.Uint32())
		}
		return uint64(math.Float32bits(float32(r.IntN(2000)-1000) / float32(1+r.IntN(8))))
	}
	switch r.IntN(6) {
	case 0:
		return r.Uint64()
	case 1:
		return r.Uint64N(70)
	case 2:
		return []uint64{0, 1 << 63, 0x7FF << 52, 0xFFF << 52, 0x7FF8000000000001, 0x7FF0000000000001, 1, 0x3FF << 52,
			0x41DFFFFFFFC00000, 0x41E0000000000000, 0xC1E0000000000000, 0x43E0000000000000, 0xC3E0000000000000}[r.IntN(13)]
	case 3:
		return math.Float64bits(float64(r.IntN(2000)-1000) / float64(1+r.IntN(8)))
	}
	return single() | single()<<32
}

var interesting = []uint64{0, 1, 2, 7, 8, 15, 16, 31, 32, 63, 64, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000,
	0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x100000000, 1<<63 - 1, 1 << 63, 1<<64 - 1, 1<<64 - 2}

func randomValue(r *rand.Rand) uint64 {
	switch r.IntN(4) {
	case 0:
		return interesting[r.IntN(len(interesting))]
	case 1:
		return r.Uint64() >> r.IntN(64)
	case 2:
		return -(r.Uint64() >> r.IntN(64))
	}
	return r.Uint64()
}

const (
	dataSize  = 4096
	dataMid   = 2048
	dataSpan  = 640 // bytes around the middle that instructions reach
	codeBytes = 16
)

// encode makes one instruction of a form.
func (f *form) encode(r *rand.Rand) []byte {
	var b []byte
	if !f.no66 && len(f.must) == 0 && r.IntN(4) == 0 {
		b = append(b, 0x66)
	}
	b = append(b, f.must...)
	rex := byte(0)
	if r.IntN(3) != 0 {
		rex = 0x40 | byte(r.IntN(16))
		b = append(b, rex)
	}
	b = append(b, f.op...)
	if f.plus > 0 {
		b[len(b)-1] += byte(r.IntN(f.plus))
	}
	if f.ext != noModRM {
		reg := byte(f.ext)
		if f.ext == anyReg {
			reg = byte(r.IntN(8))
		}
		mem := f.memory || !f.noMem && r.IntN(3) == 0
		if !mem {
			b = append(b, 0xC0|reg<<3|byte(r.IntN(8)))
		} else {
			// Base rdi or r15, both in the middle of the data.
			disp := byte(r.IntN(256))
			if f.aligned {
				disp &= 0xF0
			}
			switch r.IntN(4) {
			case 0:
				b = append(b, reg<<3|7)
			case 1:
				b = append(b, 0x40|reg<<3|7, disp)
			case 2:
				b = append(b, 0x80|reg<<3|7, disp&0x7F, 0, 0, 0)
			case 3:
				sib := byte(r.IntN(4))<<6 | 4<<3 | 7 // index r12 or none
				b = append(b, 0x40|reg<<3|4, sib, disp)
			}
		}
	}
	n := f.imm
	size := 4
	if rex&8 != 0 {
		size = 8
	} else if b[0] == 0x66 {
		size = 2
	}
	switch n {
	case immV:
		n = size
	case immZ:
		n = min(size, 4)
	}
	v := randomValue(r)
	for range n {
		b = append(b, byte(v))
		v >>= 8
	}
	return b
}

// usesRSP reports whether a register operand is the stack pointer, which the
// snippets keep off.
func usesRSP(f *form, i *inst) bool {
	if f.sse { // which side is a general register differs; the number decides
		return i.reg == RSP || !i.mem && i.rm == RSP
	}
	return f.ext == anyReg && i.reg == RSP || !i.mem && i.rm == RSP
}

func TestNativeInteger(t *testing.T) { compareNative(t, integerForms) }

// rounds is how many instructions of each form are compared; the environment
// variable asks for a longer search with another seed.
func rounds(t *testing.T) (n int, seed uint64) {
	if v := os.Getenv("OPENKD_CPU_ROUNDS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatalf("OPENKD_CPU_ROUNDS: %v", err)
		}
		return n, uint64(n)
	}
	if testing.Short() {
		return 25, 1
	}
	return 100, 1
}

// compareNative runs instructions of each form on both processors.
func compareNative(t *testing.T, forms []form) {
	m, err := native.New(dataSize)
	if err != nil {
		t.Skip(err)
	}
	defer m.Close()
	n, seed := rounds(t)
	r := rand.New(rand.NewPCG(seed, 2))
	mem := &nativeMem{base: m.DataAddr(), ram: *newRAM(dataSize)}
	codeMem := &nativeMem{base: m.CodeAddr(), ram: *newRAM(4096)}
	c := &CPU{CS: 0x10, SS: 0x18}
	c.InitLongMode()
	c.CR0 &^= CR0PG
	c.Mem = twoMem{codeMem, mem}
	ran, faulted, failed := 0, 0, 0
	for k := range forms {
		f := &forms[k]
		okForm := 0
		for range n {
			text := f.encode(r)
			var i inst
			if st := decode(text, &i); st != decodeOK || int(i.len) != len(text) {
				t.Fatalf("%s: % x decodes to status %d, length %d", f.name, text, st, i.len)
			}
			if usesRSP(f, &i) {
				continue
			}
			var before native.State
			for k := range before.R {
				before.R[k] = randomValue(r)
			}
			if i.op == 0xF6 || i.op == 0xF7 { // let half of the divisions succeed
				if r.IntN(2) == 0 {
					before.R[RDX] = uint64(r.IntN(2)) * -uint64(before.R[RAX]>>63)
				}
			}
			mid := m.DataAddr() + dataMid
			before.R[RDI], before.R[R15] = mid, mid
			before.R[R12] = uint64(r.IntN(64)) &^ 15
			if f.bit && i.mem {
				if i.reg == RDI || i.reg == R15 || i.reg == R12 {
					continue
				}
				before.R[i.reg] = uint64(int64(r.IntN(4000) - 2000))
			}
			before.Flags = 0x202 | r.Uint64()&flagStatus
			if f.str {
				before.R[RSI] = mid - 64 + r.Uint64N(128)
				before.R[RCX] = r.Uint64N(20)
				before.Flags |= r.Uint64() & FlagDF
			}
			for k := range before.XMM {
				fillXMM(r, f, &before.XMM[k])
			}
			for off := dataMid - dataSpan; off < dataMid+dataSpan; off += 8 {
				v := randomValue(r)
				if f.sse {
					v = randomFloat(r)
				} else if off&0x10 != 0 || f.str && r.IntN(4) != 0 {
					v = before.R[RAX] // so that compares find something
				}
				put64(m.Data()[off:], v)
			}
			if i.op == 0x1C7 && r.IntN(2) == 0 {
				a := uint64(dataMid) + c.offsetOf(&i, &before) - mid
				if i.rexW {
					put64(m.Data()[a:], before.R[RAX])
					put64(m.Data()[a+8:], before.R[RDX])
				} else {
					put64(m.Data()[a:], before.R[RDX]<<32|before.R[RAX]&0xFFFFFFFF)
				}
			}
			copy(mem.slice(0, 4096), m.Data())
			copy(codeMem.slice(0, codeBytes), append(bytes.Clone(text), 0xC3))
			before.R[RSP] = 0
			c.R = before.R
			c.RFlags = before.Flags
			c.XMM = before.XMM
			c.RIP = m.CodeAddr()
			var undef uint64
			if f.undef != nil {
				var skip bool
				if undef, skip = f.undef(&i, &before); skip {
					continue
				}
			}
			if e := c.Step(); e != nil {
				if e.Vector == VecDE {
					faulted++
					continue
				}
				t.Fatalf("%s: % x raised %+v", f.name, text, *e)
			}
			after := before
			m.Run(text, &after)
			ran++
			okForm++
			bad := ""
			for k := range after.R {
				if after.R[k] != c.R[k] {
					bad += fmt.Sprintf(" r%d real %#x ours %#x (before %#x)", k, after.R[k], c.R[k], before.R[k])
				}
			}
			if d := (after.Flags ^ c.RFlags) & (flagStatus | FlagDF) &^ undef; d != 0 {
				bad += fmt.Sprintf(" flags real %#x ours %#x differ %#x", after.Flags, c.RFlags, d)
			}
			for k := range after.XMM {
				if after.XMM[k] != c.XMM[k] {
					bad += fmt.Sprintf(" xmm%d real %x ours %x (before %x)", k, after.XMM[k], c.XMM[k], before.XMM[k])
				}
			}
			if !bytes.Equal(m.Data(), mem.slice(0, 4096)) {
				bad += " memory differs"
			}
			if c.RIP != m.CodeAddr()+uint64(len(text)) {
				bad += fmt.Sprintf(" rip %#x", c.RIP)
			}
			if bad != "" {
				failed++
				t.Errorf("%s: % x size %d:%s\nbefore %x", f.name, text, i.size, bad, before.R)
				if failed > 20 {
					t.Fatal("too many differences")
				}
			}
		}
		if okForm == 0 {
			t.Errorf("%s % x never ran", f.name, f.op)
		}
	}
	t.Logf("%d forms, %d instructions compared, %d division faults, %d differences", len(forms), ran, faulted, failed)
}

// offsetOf is the address of i's memory operand in a state.
func (c *CPU) offsetOf(i *inst, s *native.State) uint64 {
	d := CPU{R: s.R}
	return d.offset(i)
}

func put64(b []byte, v uint64) {
	for k := range 8 {
		b[k] = byte(v >> (8 * k))
	}
}

func fillXMM(r *rand.Rand, f *form, x *[16]byte) {
	if !f.sse {
		return
	}
	put64(x[:], randomFloat(r))
	put64(x[8:], randomFloat(r))
}

// twoMem is code and data at their own addresses.
type twoMem struct{ a, b *nativeMem }

func (m twoMem) at(a uint64) *nativeMem {
	if a-m.a.base < uint64(len(m.a.pages))*4096 {
		return m.a
	}
	return m.b
}
func (m twoMem) Page(a uint64) *[4096]byte         { return m.at(a).Page(a) }
func (m twoMem) ReadPhys(a uint64, p []byte) bool  { return m.at(a).ReadPhys(a, p) }
func (m twoMem) WritePhys(a uint64, p []byte) bool { return m.at(a).WritePhys(a, p) }
