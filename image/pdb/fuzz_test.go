package pdb

import (
	"bytes"
	"testing"

	"openkd/image/sym"
)

// small is a PDB with a bit of everything.
func small() *builder {
	b := newBuilder(machineX86)
	fields := b.typ(lfFieldList, uint16(lfMember), uint16(3), uint32(0x74), uint16(0), "a", uint16(lfEnumerate), uint16(3), uint16(leafLong), int32(-1), "e")
	s := b.typ(lfStructure, uint16(1), uint16(0), fields, uint32(0), uint32(0), uint16(4), "S")
	b.typ(lfStructure, uint16(0), uint16(propForward), uint32(0), uint32(0), uint32(0), uint16(0), "S")
	ptr := b.typ(lfPointer, s, uint32(0x0a|4<<13))
	args := b.typ(lfArgList, uint32(1), ptr)
	fn := b.typ(lfProcedure, uint32(0x74), uint8(0), uint8(0), uint16(1), args)
	scope := b.id(lfStringID, uint32(0), "ns")
	inl := b.id(lfFuncID, scope, fn, "inlined")
	m := b.module("m.obj", 0, 0x100)
	p := m.proc(sGProc32, "f", fn, 0x10, 0x40)
	m.add(sFrameProc, uint32(0), uint32(0), uint32(0), uint32(0), uint32(0), uint16(0), uint32(2<<frameLocalShift))
	m.add(sLocal, s, uint16(localParam), "v")
	m.add(sDefRangeReg, uint16(17), uint16(0), uint32(0x10), uint16(1), uint16(0x40), uint16(4), uint16(4))
	m.add(sDefRangeSub, uint16(17), uint16(0), uint32(2), uint32(0x10), uint16(1), uint16(0x40))
	in := m.add(sInlineSite, p, uint32(0), inl, []byte{opCodeDelta, 8, opCodeAndLine, 0x24, opCodeLength, 8})
	m.end(in, sInlineEnd)
	m.end(p, sEnd)
	name := b.text("m.c")
	m.sub(subChecksum, name, uint8(2), uint8(1), []byte{1, 2})
	m.sub(subLines, uint32(0x10), uint16(1), uint16(0), uint32(0x40), uint32(0), uint32(2), uint32(28), uint32(0), uint32(1), uint32(8), uint32(2))
	m.sub(subInlinees, uint32(0), inl, uint32(0), uint32(7))
	m.files = []string{"m.c"}
	b.global(sProcRef, uint32(0), p, uint16(1), "f")
	b.global(sGData32, s, uint32(4), uint16(2), "d")
	b.global(sConstant, uint32(0x74), uint16(leafChar), uint8(0x80), "c")
	b.pub("_f", 1, 0x10, pubFunction)
	b.pub("?g@ns@@YAXXZ", 1, 0x80, pubFunction)
	b.frames = enc(nil, uint32(0x1010), uint32(0x40), uint32(0), uint32(4), uint32(0), b.text("$T0 .raSearch = "), uint16(2), uint16(0), uint32(4))
	return b
}

// ask asks for everything there is in small files.
func ask(f *File) {
	all := func(string) bool { return true }
	for s, err := range f.Symbols(all) {
		if err != nil {
			break
		}
		_, _ = f.ByName(s.Name)
		_, _, _ = f.ByRVA(s.RVA)
	}
	for n, err := range f.TypeNames(all) {
		if err != nil {
			break
		}
		_, _ = f.TypeByName(n.Name)
	}
	for ti := sym.TypeID(firstType); ti < firstType+32; ti++ {
		_, _ = f.Type(ti)
		_, _ = f.Members(ti)
	}
	for rva := uint32(0x1000); rva < 0x1080; rva += 6 {
		_, _, _ = f.Line(rva)
		_, _ = f.Scopes(rva)
		_, _, _ = f.ByRVA(rva)
		_, _, _ = f.X86Frame(rva)
	}
	_, _ = f.ByName("ns::g")
	_, _ = f.TypeByName("none")
	_, _ = f.Addresses("m.c", 1)
	f.Private()
}

func FuzzOpen(f *testing.F) {
	for _, block := range []int{512, 1024} {
		f.Add(msfBytes(f, small().build(), msfOptions{block: block}))
		f.Add(msfBytes(f, small().build(), msfOptions{block: block, mapArray: true}))
	}
	f.Add(magicMSF2)
	f.Fuzz(func(t *testing.T, raw []byte) {
		p, err := New(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return
		}
		ask(p)
	})
}

// FuzzDamaged changes words of a sound file: six bytes say where and to what.
func FuzzDamaged(f *testing.F) {
	base := msfBytes(f, small().build(), msfOptions{block: minBlock})
	f.Add([]byte{0, 44, 0xff, 0xff, 0xff, 0xff})
	for off := range len(base) / 64 {
		f.Add([]byte{byte(off * 64 >> 8), byte(off * 64), 0xff, 0xff, 0xff, 0x7f})
	}
	f.Fuzz(func(t *testing.T, patches []byte) {
		raw := bytes.Clone(base)
		for ; len(patches) >= 6; patches = patches[6:] {
			at := (int(patches[0])<<8 | int(patches[1])) % (len(raw) - 3)
			copy(raw[at:], patches[2:6])
		}
		p, err := New(bytes.NewReader(raw), int64(len(raw)))
		if err != nil {
			return
		}
		ask(p)
	})
}

func FuzzTypes(f *testing.F) {
	for _, list := range [][][]byte{small().types, small().ids} {
		var raw []byte
		for _, r := range list {
			raw = append(raw, r...)
		}
		f.Add(raw, true)
		f.Add(raw, false)
	}
	f.Fuzz(func(t *testing.T, raw []byte, noHash bool) {
		b := newBuilder(machineX64)
		b.noHash = noHash
		for len(raw) >= 4 {
			n := min(max(2+int(le.Uint16(raw)), 4), len(raw))
			b.types = append(b.types, raw[:n])
			raw = raw[n:]
		}
		b.ids = b.types
		p := b.file(t)
		ask(p)
		for ti := range uint32(len(b.types)) {
			_, _ = p.Type(sym.TypeID(firstType + ti))
			_, _ = p.Members(sym.TypeID(firstType + ti))
			_, _ = p.function(firstType + ti)
			_, _ = p.sizeOf(firstType + ti)
		}
	})
}

func FuzzSymbols(f *testing.F) {
	m := small().modules[0]
	f.Add(m.symbols[4:], uint16(machineX86))
	f.Add(m.symbols[4:], uint16(machineARM64))
	f.Fuzz(func(t *testing.T, raw []byte, machine uint16) {
		b := small()
		b.machine = machine
		b.modules[0].symbols = append(enc(nil, uint32(moduleSignature)), raw...)
		// The same as records of global symbols, where they can be.
		for rest := raw; len(rest) >= 4; {
			n := min(max(2+int(le.Uint16(rest)), 4), len(rest))
			if r, err := decodeSym(le.Uint16(rest[2:]), rest[4:n]); err == nil && len(r.name) > 0 && n%4 == 0 {
				b.globals = append(b.globals, rest[:n])
			}
			rest = rest[n:]
		}
		ask(b.file(t))
	})
}

func FuzzLines(f *testing.F) {
	f.Add(small().modules[0].c13)
	f.Fuzz(func(t *testing.T, raw []byte) {
		b := small()
		b.modules[0].c13 = raw
		ask(b.file(t))
	})
}

func FuzzAnnotations(f *testing.F) {
	f.Add([]byte{opCodeDelta, 8, opCodeAndLine, 0x24, opCodeLength, 8}, uint32(7))
	f.Add([]byte{opCodeOffset, 0x81, 0, opLengthAndCode, 0xc0, 1, 2, 3, 4, opCodeBase, 1, opFile, 3, opLineDelta, 5}, uint32(0))
	f.Fuzz(func(t *testing.T, raw []byte, line uint32) {
		list := annotations(raw, inlinee{line: line})
		if len(list) > len(raw) {
			t.Errorf("%d pieces of %d bytes", len(list), len(raw))
		}
	})
}

// TestSmall: what the fuzzers begin with is understood.
func TestSmall(t *testing.T) {
	f := small().file(t)
	if l, ok, err := f.Line(0x101d); err != nil || !ok || l.Line != 8 || l.File != "m.c" {
		t.Errorf("%+v, %v, %v", l, ok, err)
	}
	s, err := f.Scopes(0x101d)
	if err != nil || len(s) != 2 || s[1].Name != "ns::inlined" || s[1].Call.Line != 2 || len(s[0].Vars) != 1 || len(s[0].Vars[0].Loc) != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	if _, ok, err := f.X86Frame(0x1020); !ok || err != nil {
		t.Error(err)
	}
}
