package pdb

import (
	"sort"
	"strconv"
	"strings"

	"openkd/image/sym"
)

// Bytes of a record of frame data and of FPO_DATA.
const (
	frameDataBytes = 32
	fpoBytes       = 16
)

// X86Frame looks into the frame data, which has a program for every piece of a
// function, then into the older FPO_DATA.
func (f *File) X86Frame(rva uint32) (sym.X86Frame, bool, error) {
	if f.dbi.machine != machineX86 {
		return sym.X86Frame{}, false, nil
	}
	l, err := f.layout()
	if err != nil {
		return sym.X86Frame{}, false, err
	}
	old, ok := through(l.then, rva)
	if !ok {
		return sym.X86Frame{}, false, nil
	}
	fr, ok, err := f.frameData(old)
	if err == nil && !ok {
		fr, ok, err = f.fpoData(old)
	}
	if ok {
		fr.RVA, ok = through(l.now, fr.RVA)
	}
	return fr, ok && err == nil, err
}

// around finds the last record of a sorted table that begins at or before an
// address and reaches beyond it. Records of one function lie in each other, so
// some before the nearest are tried too.
func around(s *stream, each int64, rva uint32) ([]byte, bool, error) {
	var failed error
	n := int(int64(s.size) / each)
	raw := make([]byte, each)
	i := sort.Search(n, func(i int) bool {
		if err := s.read(raw[:4], int64(i)*each); err != nil {
			failed = err
			return true
		}
		return le.Uint32(raw) > rva
	})
	if failed != nil {
		return nil, false, failed
	}
	const most = 64
	for k := i - 1; k >= 0 && k >= i-most; k-- {
		if err := s.read(raw, int64(k)*each); err != nil {
			return nil, false, err
		}
		if rva-le.Uint32(raw) < le.Uint32(raw[4:]) {
			return raw, true, nil
		}
	}
	return nil, false, nil
}

func (f *File) frameData(rva uint32) (sym.X86Frame, bool, error) {
	s, err := f.debugStream(debugFrameData, "frame data")
	if s == nil || err != nil {
		return sym.X86Frame{}, false, err
	}
	raw, ok, err := around(s, frameDataBytes, rva)
	if !ok || err != nil {
		return sym.X86Frame{}, false, err
	}
	c := cursor{b: raw}
	fr := sym.X86Frame{RVA: c.u32(), Size: c.u32(), Locals: c.u32(), Params: c.u32(), HasProgram: true}
	c.u32() // most that is pushed
	program := c.u32()
	fr.Prolog, fr.SavedRegs = uint32(c.u16()), uint32(c.u16())
	text, err := f.text(program)
	fr.Program = namedRegisters(text)
	return fr, err == nil, err
}

// namedRegisters gives the registers of a program their names: Microsoft's
// compiler writes the numbers that CodeView has for them ($23 for $esi).
func namedRegisters(program string) string {
	if !strings.Contains(program, "$") {
		return program
	}
	words := strings.Fields(program)
	for i, w := range words {
		if n, err := strconv.ParseUint(strings.TrimPrefix(w, "$"), 10, 16); err == nil && w[0] == '$' {
			if r := x86Register(uint16(n)); r.name != "" {
				words[i] = "$" + r.name
			}
		}
	}
	return strings.Join(words, " ")
}

// FPO_DATA counts locals and parameters in words of four bytes.
const fpoWord = 4

func (f *File) fpoData(rva uint32) (sym.X86Frame, bool, error) {
	s, err := f.debugStream(debugFPO, "FPO data")
	if s == nil || err != nil {
		return sym.X86Frame{}, false, err
	}
	raw, ok, err := around(s, fpoBytes, rva)
	if !ok || err != nil {
		return sym.X86Frame{}, false, err
	}
	c := cursor{b: raw}
	fr := sym.X86Frame{RVA: c.u32(), Size: c.u32(), Locals: fpoWord * c.u32(), Params: fpoWord * uint32(c.u16())}
	bits := c.u16()
	fr.Prolog = uint32(bits & 0xff)
	fr.SavedRegs = fpoWord * uint32(bits>>8&7)
	fr.UsesEBP = bits&(1<<12) != 0
	kind := bits >> 14 // 0 FPO, 1 trap, 2 TSS, 3 with frame pointer
	fr.Trap = kind == 1 || kind == 2
	return fr, true, nil
}
