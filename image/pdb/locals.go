package pdb

import (
	"slices"

	"openkd/image/sym"
)

// Scopes returns the procedure at an address, the blocks and inlined calls in
// it, and their variables. Thread-local variables have no location.
func (f *File) Scopes(rva uint32) ([]sym.Scope, error) {
	p, ok, err := f.procedureAt(rva)
	if err != nil || !ok {
		return nil, err
	}
	if p.rec.kind == sSepCode {
		if p.rec.parent >= p.u.symbols {
			return nil, malformed(p.u.s.what, "a part of a procedure at %#x", p.rec.parent)
		}
		p.pos = p.rec.parent
		if p.rec, err = p.u.s.symbol(int64(p.pos)); err != nil || !p.rec.isProc() {
			return nil, err
		}
	}
	b := scopeBuilder{p: p}
	if err := p.frames(b.record); err != nil {
		return nil, err
	}
	for i := range b.list {
		for j := range b.list[i].Vars {
			if err := f.fitPieces(&b.list[i].Vars[j]); err != nil {
				return nil, err
			}
		}
	}
	return b.list, nil
}

// scopeBuilder makes scopes of records.
type scopeBuilder struct {
	p      *procedure
	list   []sym.Scope
	open   []int // which of them are open
	frame  uint32
	params int  // parameters still to come, of records that do not say
	maybe  bool // the only place of the last variable may be gone
}

// Registers that S_FRAMEPROC names by two bits, by processor.
const (
	frameLocalShift = 14
	frameParamShift = 16
)

func (b *scopeBuilder) record(r *symRec, raw []byte, sites []call) error {
	switch {
	case r.opens():
		s, err := b.scope(r, sites)
		if err != nil {
			return err
		}
		b.open = append(b.open, len(b.list))
		b.list = append(b.list, s)
		return nil
	case r.closes():
		b.open = b.open[:len(b.open)-1]
		return nil
	case r.kind == sFrameProc:
		b.frame = r.flags
		return nil
	case r.kind == sEndArg:
		b.params = 0
		return nil
	}
	if r.kind >= sDefRangeReg && r.kind <= sDefRangeRel {
		return b.defRange(r.kind, raw)
	}
	typ, err := b.p.u.global(r.typ)
	if err != nil {
		return err
	}
	r.typ = typ
	v := sym.Var{Name: string(r.name), Type: sym.TypeID(r.typ)}
	switch r.kind {
	case sLocal, sFileStatic:
		v.Param = r.flags&localParam != 0
	case sRegRel32, sRegRel32ST:
		v.Loc = b.relative(r.reg, r.disp)
		v.Param = b.isParam()
	case sBPRel32, sBPRel32ST:
		v.Loc = []sym.Location{{Kind: sym.RegRelative, Reg: "ebp", Offset: int64(r.disp)}}
		if b.p.f.dbi.machine != machineX86 {
			v.Loc[0].Reg = "rbp"
		}
		// Above the return address.
		v.Param = r.disp > 4
	case sRegister, sRegisterST:
		if reg, ok := register(b.p.f.dbi.machine, r.reg); ok {
			v.Loc = []sym.Location{{Kind: sym.InRegister, Reg: reg.name}}
		}
		v.Param = b.isParam()
	case sLData32, sGData32, sLData32ST, sGData32ST:
		if rva, ok := b.p.l.rva(r.seg, r.off); ok {
			v.Loc = []sym.Location{{Kind: sym.AtRVA, RVA: rva}}
		}
	case sLThread32, sGThread32, sLThread32ST, sGThread32ST:
	case sConstant, sManConstant, sConstantST:
		n, err := b.p.f.constant(r)
		if err != nil {
			return err
		}
		v.Loc = []sym.Location{{Kind: sym.IsConstant, Value: le.AppendUint64(nil, uint64(n))}}
	default:
		return nil
	}
	in := &b.list[b.open[len(b.open)-1]]
	in.Vars = append(in.Vars, v)
	return nil
}

// scope makes a procedure, block or inlined call.
func (b *scopeBuilder) scope(r *symRec, sites []call) (sym.Scope, error) {
	p := b.p
	s := sym.Scope{Name: string(r.name)}
	if r.kind == sInlineSite || r.kind == sInlineSite2 {
		c := sites[len(sites)-1]
		id, err := p.u.global(c.id)
		if err != nil {
			return s, err
		}
		fn, err := p.f.function(id)
		if err != nil {
			return s, err
		}
		s.Name, s.Type, s.Inlined = fn.name, fn.typ, true
		at := c.pieces[c.in]
		s.RVA, _ = p.l.rva(p.rec.seg, p.rec.off+c.pieces[0].off)
		s.Size = at.off + at.size - c.pieces[0].off
		for _, x := range c.pieces {
			s.Size = max(s.Size, x.off+x.size-c.pieces[0].off)
		}
		if len(sites) > 1 {
			s.Call, _, err = sites[len(sites)-2].line(p)
		} else {
			s.Call, _, err = p.ownLine()
		}
		return s, err
	}
	s.RVA, _ = p.l.rva(r.seg, r.off)
	s.Size = r.size
	if !r.isProc() {
		return s, nil
	}
	var err error
	if s.Type, err = p.u.procType(r); err != nil {
		return s, err
	}
	// Records of unoptimised code by Microsoft's compiler do not say which
	// variables are parameters; they come first.
	if s.Type >= firstType {
		t, err := p.f.tpi()
		if t == nil || err != nil {
			return s, err
		}
		leaf, body, err := t.record(uint32(s.Type))
		if err != nil {
			return s, err
		}
		c := cursor{b: body}
		switch leaf {
		case lfProcedure:
			c.take(6)
			b.params = int(c.u16())
		case lfMFunction:
			c.take(8)
			this := c.u32()
			c.take(2)
			b.params = int(c.u16())
			if this != 0 {
				b.params++
			}
		}
	}
	return s, nil
}

// isParam counts down the parameters of a procedure.
func (b *scopeBuilder) isParam() bool {
	if len(b.open) != 1 || b.params == 0 {
		return false
	}
	b.params--
	return true
}

// vframe is the CodeView register for the frame's base that the frame data of
// x86 computes.
const vframe = 30006

// relative is a place in memory relative to a register.
func (b *scopeBuilder) relative(reg uint16, disp int32) []sym.Location {
	if reg == vframe {
		return []sym.Location{{Kind: sym.FrameBase, Offset: int64(disp)}}
	}
	r, ok := register(b.p.f.dbi.machine, reg)
	if !ok {
		return nil
	}
	return []sym.Location{{Kind: sym.RegRelative, Reg: r.name, Offset: int64(disp)}}
}

// base is the register that S_FRAMEPROC names for locals or parameters.
func (b *scopeBuilder) base(param bool) (string, bool) {
	which := b.frame >> frameLocalShift & 3
	if param {
		which = b.frame >> frameParamShift & 3
	}
	switch b.p.f.dbi.machine {
	case machineX86:
		return [4]string{"", "", "ebp", "ebx"}[which], which != 0 // 1: the frame's base
	case machineX64:
		return [4]string{"", "rsp", "rbp", "r13"}[which], which != 0
	case machineARM64:
		return [4]string{"", "sp", "fp", "x19"}[which], which != 0
	}
	return "", false
}

// defRange adds a place to the variable before it, if it holds at the address.
func (b *scopeBuilder) defRange(kind uint16, raw []byte) error {
	vars := b.list[b.open[len(b.open)-1]].Vars
	if len(vars) == 0 {
		return nil
	}
	v := &vars[len(vars)-1]
	c := cursor{b: raw}
	var loc []sym.Location
	var whole, maybe bool
	switch kind {
	case sDefRangeReg, sDefRangeSub:
		reg, ok := register(b.p.f.dbi.machine, c.u16())
		maybe = c.u16()&1 != 0 && kind == sDefRangeReg
		l := sym.Location{Kind: sym.InRegister, Reg: reg.name}
		if kind == sDefRangeSub {
			l.PieceOffset, l.PieceSize = c.u32()&0xfff, uint32(reg.size)
		}
		if ok {
			loc = []sym.Location{l}
		}
	case sDefRangeFP, sDefRangeFull:
		disp := int64(int32(c.u32()))
		if reg, ok := b.base(v.Param); ok && reg != "" {
			loc = []sym.Location{{Kind: sym.RegRelative, Reg: reg, Offset: disp}}
		} else if ok {
			loc = []sym.Location{{Kind: sym.FrameBase, Offset: disp}}
		}
		whole = kind == sDefRangeFull
	case sDefRangeRel:
		reg, flags := c.u16(), c.u16()
		loc = b.relative(reg, int32(c.u32()))
		if flags&1 != 0 && len(loc) > 0 { // a part of the variable
			loc[0].PieceOffset = uint32(flags >> 4)
			loc[0].PieceSize = ^uint32(0)
		}
	}
	if !whole && !b.p.at.inRange(&c) || c.bad || len(loc) == 0 {
		return nil
	}
	// A place that holds on some ways through the code only is the last choice.
	switch {
	case len(v.Loc) == 0:
		b.maybe = maybe
	case maybe:
		return nil
	case b.maybe:
		b.maybe = false
		v.Loc = v.Loc[:0]
	}
	v.Loc = append(v.Loc, loc...)
	return nil
}

// inRange takes the range of a record and its gaps, and says whether the address
// is in the range and in none of the gaps.
func (a addr) inRange(c *cursor) bool {
	start := addr{off: c.u32(), seg: c.u16()}
	if size := uint32(c.u16()); c.bad || !a.within(start, size) {
		return false
	}
	for len(c.b) >= 4 {
		gap := addr{start.seg, start.off + uint32(c.u16())}
		if a.within(gap, uint32(c.u16())) {
			return false
		}
	}
	return true
}

// fitPieces gives a size to the pieces of a variable whose records have none,
// and takes back what reaches beyond it.
func (f *File) fitPieces(v *sym.Var) error {
	if !slices.ContainsFunc(v.Loc, func(l sym.Location) bool { return l.PieceSize != 0 }) {
		if len(v.Loc) > 1 {
			v.Loc = v.Loc[:1] // several places for all of it: one is enough
		}
		return nil
	}
	slices.SortStableFunc(v.Loc, func(a, b sym.Location) int { return int(a.PieceOffset) - int(b.PieceOffset) })
	n, err := f.sizeOf(uint32(v.Type))
	if err != nil {
		return err
	}
	for i := range v.Loc {
		l := &v.Loc[i]
		end := uint32(min(n, 1<<31))
		if i+1 < len(v.Loc) {
			end = min(end, v.Loc[i+1].PieceOffset)
		}
		if end > l.PieceOffset {
			l.PieceSize = min(l.PieceSize, end-l.PieceOffset)
		}
	}
	return nil
}
