package pdb

// Kinds of symbol records, named as in CodeView. Those that end in ST have
// names with a length in front; linkers wrote them until 2003.
const (
	sEnd          = 0x0006
	sEndArg       = 0x000a
	sThunk32ST    = 0x0206
	sBlock32ST    = 0x0207
	sWith32ST     = 0x0208
	sLabel32ST    = 0x0209
	sProcRefST    = 0x0400
	sDataRefST    = 0x0401
	sLProcRefST   = 0x0403
	sRegisterST   = 0x1001
	sConstantST   = 0x1002
	sUDTST        = 0x1003
	sBPRel32ST    = 0x1006
	sLData32ST    = 0x1007
	sGData32ST    = 0x1008
	sPub32ST      = 0x1009
	sLProc32ST    = 0x100a
	sGProc32ST    = 0x100b
	sRegRel32ST   = 0x100d
	sLThread32ST  = 0x100e
	sGThread32ST  = 0x100f
	sFrameProc    = 0x1012
	sLast         = 0x1100 // the last with such names
	sThunk32      = 0x1102
	sBlock32      = 0x1103
	sWith32       = 0x1104
	sLabel32      = 0x1105
	sRegister     = 0x1106
	sConstant     = 0x1107
	sUDT          = 0x1108
	sCobolUDT     = 0x1109
	sBPRel32      = 0x110b
	sLData32      = 0x110c
	sGData32      = 0x110d
	sPub32        = 0x110e
	sLProc32      = 0x110f
	sGProc32      = 0x1110
	sRegRel32     = 0x1111
	sLThread32    = 0x1112
	sGThread32    = 0x1113
	sProcRef      = 0x1125
	sDataRef      = 0x1126
	sLProcRef     = 0x1127
	sTrampoline   = 0x112c
	sManConstant  = 0x112d
	sSepCode      = 0x1132
	sLocal        = 0x113e
	sDefRangeReg  = 0x1141 // S_DEFRANGE_REGISTER
	sDefRangeFP   = 0x1142 // S_DEFRANGE_FRAMEPOINTER_REL
	sDefRangeSub  = 0x1143 // S_DEFRANGE_SUBFIELD_REGISTER
	sDefRangeFull = 0x1144 // S_DEFRANGE_FRAMEPOINTER_REL_FULL_SCOPE
	sDefRangeRel  = 0x1145 // S_DEFRANGE_REGISTER_REL
	sLProc32ID    = 0x1146
	sGProc32ID    = 0x1147
	sInlineSite   = 0x114d
	sInlineEnd    = 0x114e
	sProcEnd      = 0x114f
	sFileStatic   = 0x1153
	sLProc32DPC   = 0x1155
	sLProc32DPCID = 0x1156
	sInlineSite2  = 0x115d
)

// Flags of public symbols.
const (
	pubCode     = 1
	pubFunction = 2
)

// Flags of S_LOCAL.
const (
	localParam = 1 << 0
)

// symRec is what a symbol record says, whatever its kind. Which fields count
// depends on the kind; the others are zero.
type symRec struct {
	kind   uint16
	name   []byte // of the record's own bytes
	typ    uint32 // a type, or an id with the _ID kinds and of an inlined call
	seg    uint16 // section, from 1
	off    uint32 // in the section
	size   uint32 // bytes of code
	parent uint32 // the enclosing scope's record, as position in its stream
	end    uint32 // the record that ends this scope
	flags  uint32
	value  uint64 // of a constant
	mod    uint16 // module, from 1, of a reference
	ref    uint32 // position of the record it refers to
	reg    uint16 // CodeView register
	disp   int32  // relative to the register
	rest   []byte // annotations of an inlined call
}

// decodeSym reads a record. Of a kind that has nothing to say here only kind is
// set. It fails if the record is too short for its kind.
func decodeSym(kind uint16, body []byte) (symRec, error) {
	r := symRec{kind: kind}
	c := cursor{b: body}
	st := kind < sLast
	switch kind {
	case sPub32, sPub32ST:
		r.flags, r.off, r.seg, r.name = c.u32(), c.u32(), c.u16(), c.text(st)
	case sLData32, sGData32, sLThread32, sGThread32, sLData32ST, sGData32ST, sLThread32ST, sGThread32ST:
		r.typ, r.off, r.seg, r.name = c.u32(), c.u32(), c.u16(), c.text(st)
	case sGProc32, sLProc32, sGProc32ID, sLProc32ID, sLProc32DPC, sLProc32DPCID, sGProc32ST, sLProc32ST:
		r.parent, r.end = c.u32(), c.u32()
		c.u32() // next procedure
		r.size = c.u32()
		c.u32() // where the prolog ends
		c.u32() // where the epilog begins
		r.typ, r.off, r.seg, r.flags, r.name = c.u32(), c.u32(), c.u16(), uint32(c.u8()), c.text(st)
	case sThunk32, sThunk32ST:
		r.parent, r.end = c.u32(), c.u32()
		c.u32() // next
		r.off, r.seg, r.size = c.u32(), c.u16(), uint32(c.u16())
		c.u8() // what kind of thunk
		r.name = c.text(st)
	case sTrampoline:
		c.u16() // what kind
		r.size, r.off = uint32(c.u16()), c.u32()
		r.ref = c.u32()
		r.seg, r.mod = c.u16(), c.u16() // ref and mod: where it leads
	case sSepCode:
		r.parent, r.end, r.size = c.u32(), c.u32(), c.u32()
		c.u32() // flags
		r.off = c.u32()
		c.u32() // where its parent is
		r.seg = c.u16()
	case sBlock32, sBlock32ST:
		r.parent, r.end, r.size, r.off, r.seg, r.name = c.u32(), c.u32(), c.u32(), c.u32(), c.u16(), c.text(st)
	case sLabel32, sLabel32ST:
		r.off, r.seg, r.flags, r.name = c.u32(), c.u16(), uint32(c.u8()), c.text(st)
	case sProcRef, sLProcRef, sDataRef:
		c.u32() // a hash of the name
		r.ref, r.mod, r.name = c.u32(), c.u16(), c.text(false)
	case sProcRefST, sLProcRefST, sDataRefST:
		c.u32()
		r.ref, r.mod = c.u32(), c.u16()
		c.u16()
		r.name = c.text(true)
	case sConstant, sManConstant, sConstantST:
		r.typ, r.value, r.name = c.u32(), c.number(), c.text(st)
	case sUDT, sCobolUDT, sUDTST:
		r.typ, r.name = c.u32(), c.text(st)
	case sLocal:
		r.typ, r.flags, r.name = c.u32(), uint32(c.u16()), c.text(false)
	case sFileStatic:
		r.typ = c.u32()
		c.u32() // name of the module
		r.flags, r.name = uint32(c.u16()), c.text(false)
	case sRegRel32, sRegRel32ST:
		r.disp, r.typ, r.reg, r.name = int32(c.u32()), c.u32(), c.u16(), c.text(st)
	case sBPRel32, sBPRel32ST:
		r.disp, r.typ, r.name = int32(c.u32()), c.u32(), c.text(st)
	case sRegister, sRegisterST:
		r.typ, r.reg, r.name = c.u32(), c.u16(), c.text(st)
	case sInlineSite, sInlineSite2:
		r.parent, r.end, r.typ = c.u32(), c.u32(), c.u32()
		if kind == sInlineSite2 {
			c.u32() // how often it is called
		}
		r.rest = c.take(len(c.b))
	case sFrameProc:
		c.u32() // bytes of the frame
		c.u32() // of padding
		c.u32() // where the padding is
		c.u32() // of saved registers
		c.u32() // the exception handler
		c.u16()
		r.flags = c.u32()
	}
	if c.bad {
		return r, malformed("symbol record", "kind %#x in %d bytes", kind, len(body))
	}
	return r, nil
}

func (r *symRec) isProc() bool {
	switch r.kind {
	case sGProc32, sLProc32, sGProc32ID, sLProc32ID, sLProc32DPC, sLProc32DPCID, sGProc32ST, sLProc32ST:
		return true
	}
	return false
}

// static says whether a procedure or datum is known in its source file only.
func (r *symRec) static() bool {
	switch r.kind {
	case sLProc32, sLProc32ID, sLProc32DPC, sLProc32DPCID, sLProc32ST, sLProcRef, sLProcRefST,
		sLData32, sLData32ST, sLThread32, sLThread32ST:
		return true
	}
	return false
}

func (r *symRec) isData() bool {
	switch r.kind {
	case sLData32, sGData32, sLThread32, sGThread32, sLData32ST, sGData32ST, sLThread32ST, sGThread32ST:
		return true
	}
	return false
}

func (r *symRec) isRef() bool {
	switch r.kind {
	case sProcRef, sLProcRef, sDataRef, sProcRefST, sLProcRefST, sDataRefST:
		return true
	}
	return false
}

func (r *symRec) isConstant() bool {
	return r.kind == sConstant || r.kind == sManConstant || r.kind == sConstantST
}

func (r *symRec) isUDT() bool {
	return r.kind == sUDT || r.kind == sCobolUDT || r.kind == sUDTST
}

func (r *symRec) isPublic() bool { return r.kind == sPub32 || r.kind == sPub32ST }

// opens says whether a record begins a scope, which another ends.
func (r *symRec) opens() bool {
	switch r.kind {
	case sBlock32, sBlock32ST, sWith32, sWith32ST, sInlineSite, sInlineSite2, sThunk32, sThunk32ST, sSepCode:
		return true
	}
	return r.isProc()
}

func (r *symRec) closes() bool {
	return r.kind == sEnd || r.kind == sInlineEnd || r.kind == sProcEnd
}

// record reads the CodeView record at off: its length (of what follows it), its
// kind, its body.
func (s *stream) record(off int64) (kind uint16, body []byte, err error) {
	var head [4]byte
	if err := s.read(head[:], off); err != nil {
		return 0, nil, err
	}
	n := int64(le.Uint16(head[:]))
	if n < 2 {
		return 0, nil, malformed(s.what, "a record of %d bytes at %#x", n, off)
	}
	body, err = s.bytes(off+4, n-2)
	return le.Uint16(head[2:]), body, err
}

// symbol reads the symbol record at off.
func (s *stream) symbol(off int64) (symRec, error) {
	kind, body, err := s.record(off)
	if err != nil {
		return symRec{}, err
	}
	return decodeSym(kind, body)
}

// record is stream.record for reading on: body is valid until the next call.
func (w *window) record(off int64) (kind uint16, body []byte, next int64, err error) {
	head, err := w.at(off, 4)
	if err != nil {
		return 0, nil, 0, err
	}
	n := int64(le.Uint16(head))
	if n < 2 {
		return 0, nil, 0, malformed(w.s.what, "a record of %d bytes at %#x", n, off)
	}
	b, err := w.at(off, 2+n)
	if err != nil {
		return 0, nil, 0, err
	}
	return le.Uint16(b[2:]), b[4:], off + 2 + n, nil
}
