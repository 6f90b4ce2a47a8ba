package dwarf

import (
	std "debug/dwarf"
	"encoding/binary"

	"openkd/image/sym"
)

// Operations of location expressions (DWARF 5, 7.7.1).
const (
	opAddr          = 0x03
	opDeref         = 0x06
	opConst1u       = 0x08
	opConst1s       = 0x09
	opConst2u       = 0x0A
	opConst2s       = 0x0B
	opConst4u       = 0x0C
	opConst4s       = 0x0D
	opConst8u       = 0x0E
	opConst8s       = 0x0F
	opConstu        = 0x10
	opConsts        = 0x11
	opDup           = 0x12
	opDrop          = 0x13
	opOver          = 0x14
	opSwap          = 0x16
	opAbs           = 0x19
	opAnd           = 0x1A
	opDiv           = 0x1B
	opMinus         = 0x1C
	opMod           = 0x1D
	opMul           = 0x1E
	opNeg           = 0x1F
	opNot           = 0x20
	opOr            = 0x21
	opPlus          = 0x22
	opPlusUconst    = 0x23
	opShl           = 0x24
	opShr           = 0x25
	opShra          = 0x26
	opXor           = 0x27
	opLit0          = 0x30
	opReg0          = 0x50
	opBreg0         = 0x70
	opRegx          = 0x90
	opFbreg         = 0x91
	opBregx         = 0x92
	opPiece         = 0x93
	opDerefSize     = 0x94
	opNop           = 0x96
	opCallFrameCFA  = 0x9C
	opBitPiece      = 0x9D
	opImplicitValue = 0x9E
	opStackValue    = 0x9F
	opAddrx         = 0xA1
	opConstx        = 0xA2
	opEntryValue    = 0xA3
	opGNUEntryValue = 0xF3
	opGNUUninit     = 0xF0
)

// term is a value on the stack of an expression: a number, or something that
// the debugger adds one to.
type term struct {
	base base
	reg  uint64
	n    int64
}

type base uint8

const (
	baseNone    base = iota
	baseReg          // a register
	baseCFA          // the canonical frame address
	baseAddr         // an address in the image as linked
	baseUnknown      // what takes the target to know
)

// frame is what an expression is evaluated for.
type frame struct {
	u    *unit
	rva  uint32
	base *term // what DW_OP_fbreg counts from; nil: not known

	// The target, where there is one; nil: only its registers' names.
	reg  func(name string) (uint64, bool)
	read func(addr uint64, size int) (uint64, error)
}

// static is the address of a variable that lies in the image.
func (u *unit) static(v value) (uint32, bool) {
	if !v.block() {
		return 0, false
	}
	c := cursor{b: v.b}
	var addr uint64
	switch c.u8() {
	case opAddr:
		addr = c.uint(int(u.addr))
	case opAddrx:
		n := c.uleb()
		var err error
		if addr, err = u.address(n); err != nil {
			return 0, false
		}
	default:
		return 0, false
	}
	if c.bad || c.p != len(c.b) {
		return 0, false
	}
	return u.f.rva(addr)
}

// locate says where an expression finds a variable. What the model has no words
// for, a value that has to be calculated or taken from the caller's frame, has
// no location; so has what is damaged, as far as an expression can be.
func (fr *frame) locate(expr []byte) []sym.Location {
	u := fr.u
	c := cursor{b: expr}
	var (
		list   []sym.Location
		stack  []term
		simple *sym.Location // what is no address: a register, a value
		off    uint32        // of the piece
	)
	// flush is the location that has been described so far.
	flush := func() (sym.Location, bool) {
		if simple != nil {
			return *simple, true
		}
		if len(stack) == 0 {
			return sym.Location{}, false
		}
		return fr.memory(stack[len(stack)-1])
	}
	for steps := 0; c.p < len(c.b); steps++ {
		if steps == maxExprSteps {
			return nil
		}
		op := c.u8()
		switch {
		case op >= opReg0 && op < opBreg0 || op == opRegx:
			n := uint64(op - opReg0)
			if op == opRegx {
				n = c.uleb()
			}
			name := u.f.register(n)
			if name == "" {
				return nil
			}
			simple = &sym.Location{Kind: sym.InRegister, Reg: name}
		case op == opImplicitValue:
			simple = &sym.Location{Kind: sym.IsConstant, Value: append([]byte(nil), c.bytes(c.uleb())...)}
		case op == opStackValue:
			if len(stack) == 0 {
				return nil
			}
			if l, ok := fr.itself(stack[len(stack)-1]); ok {
				simple = &l
			} else {
				stack = stack[:0]
			}
		case op == opPiece:
			n := c.uleb()
			if c.bad || n > 1<<31 || uint64(off)+n > 1<<31 {
				return nil
			}
			if l, ok := flush(); ok {
				l.PieceOffset, l.PieceSize = off, uint32(n)
				if l.Kind == sym.IsConstant {
					l.Value = l.Value[:min(n, uint64(len(l.Value)))]
				}
				list = append(list, l)
			}
			off += uint32(n)
			stack, simple = stack[:0], nil
		case op == opNop, op == opGNUUninit:
		default:
			var ok bool
			if stack, ok = fr.step(op, &c, stack); !ok {
				return nil
			}
		}
	}
	if c.bad {
		return nil
	}
	if off == 0 {
		if l, ok := flush(); ok {
			return []sym.Location{l}
		}
		return nil
	}
	return list
}

// step does one operation on the stack; false: it cannot be done here.
func (fr *frame) step(op byte, c *cursor, stack []term) ([]term, bool) {
	u := fr.u
	push := func(t term) ([]term, bool) { return append(stack, t), !c.bad }
	number := func(n int64) ([]term, bool) { return push(term{n: n}) }
	switch {
	case op >= opLit0 && op < opReg0:
		return number(int64(op - opLit0))
	case op >= opBreg0 && op < opRegx:
		return fr.register(uint64(op-opBreg0), c, stack)
	}
	switch op {
	case opAddr:
		return push(term{base: baseAddr, n: int64(c.uint(int(u.addr)))})
	case opAddrx, opConstx:
		n, err := u.address(c.uleb())
		if err != nil {
			return nil, false
		}
		if op == opConstx {
			return number(int64(n))
		}
		return push(term{base: baseAddr, n: int64(n)})
	case opConst1u, opConst2u, opConst4u, opConst8u:
		return number(int64(c.uint(1 << ((op - opConst1u) / 2))))
	case opConst1s, opConst2s, opConst4s, opConst8s:
		return number(c.sint(1 << ((op - opConst1s) / 2)))
	case opConstu:
		return number(int64(c.uleb()))
	case opConsts:
		return number(c.sleb())
	case opBregx:
		return fr.register(c.uleb(), c, stack)
	case opFbreg:
		n := c.sleb()
		if fr.base == nil {
			return nil, false
		}
		t := *fr.base
		t.n += n
		return push(t)
	case opCallFrameCFA:
		return push(term{base: baseCFA})
	case opEntryValue, opGNUEntryValue:
		c.bytes(c.uleb())
		return append(stack, unknown), !c.bad && fr.read == nil
	}
	// The others take what is there.
	n := len(stack)
	if n == 0 {
		return nil, false
	}
	top := &stack[n-1]
	switch op {
	case opDup:
		return push(*top)
	case opDrop:
		return stack[:n-1], true
	case opPlusUconst:
		top.n += int64(c.uleb())
		return stack, !c.bad
	case opDeref, opDerefSize:
		size := int(u.addr)
		if op == opDerefSize {
			size = int(c.u8())
		}
		if fr.read == nil {
			*top = unknown
			return stack, !c.bad
		}
		if top.base != baseNone || size < 1 || size > int(u.addr) {
			return nil, false
		}
		v, err := fr.read(uint64(top.n), size)
		top.n = int64(v)
		return stack, err == nil && !c.bad
	case opNeg, opNot, opAbs:
		switch {
		case top.base != baseNone:
			*top = unknown
			return stack, fr.read == nil
		case op == opNot:
			top.n = ^top.n
		case op == opNeg || top.n < 0:
			top.n = -top.n
		}
		return stack, true
	}
	if n < 2 {
		return nil, false
	}
	under := &stack[n-2]
	switch op {
	case opOver:
		return push(*under)
	case opSwap:
		*top, *under = *under, *top
		return stack, true
	}
	t, ok := binaryOp(op, *under, *top)
	if !ok && t.base == baseUnknown {
		ok = fr.read == nil
	}
	*under = t
	return stack[:n-1], ok
}

var unknown = term{base: baseUnknown}

// register pushes what DW_OP_breg names: a register and an offset.
func (fr *frame) register(n uint64, c *cursor, stack []term) ([]term, bool) {
	t := term{baseReg, n, c.sleb()}
	if fr.reg != nil {
		v, ok := fr.reg(fr.u.f.register(n))
		if !ok {
			return nil, false
		}
		t = term{n: int64(v) + t.n}
	}
	return append(stack, t), !c.bad
}

// binaryOp calculates a op b.
func binaryOp(op byte, a, b term) (term, bool) {
	switch {
	case op == opPlus && b.base == baseNone:
		a.n += b.n
		return a, true
	case op == opPlus && a.base == baseNone:
		b.n += a.n
		return b, true
	case op == opMinus && b.base == baseNone:
		a.n -= b.n
		return a, true
	case a.base != baseNone || b.base != baseNone:
		switch op {
		case opAnd, opOr, opXor, opMul, opDiv, opMod, opShl, opShr, opShra, opPlus, opMinus:
			return unknown, false
		}
		return term{}, false
	}
	x, y := a.n, b.n
	switch op {
	case opAnd:
		x &= y
	case opOr:
		x |= y
	case opXor:
		x ^= y
	case opMul:
		x *= y
	case opDiv, opMod:
		if y == 0 {
			return term{}, false
		}
		if op == opDiv {
			x /= y
		} else {
			x = int64(uint64(x) % uint64(y))
		}
	case opShl:
		x = int64(uint64(x) << min(uint64(y), 64))
	case opShr:
		x = int64(uint64(x) >> min(uint64(y), 64))
	case opShra:
		x >>= min(uint64(y), 64)
	default:
		return term{}, false
	}
	return term{n: x}, true
}

// memory is the place that a term is the address of.
func (fr *frame) memory(t term) (sym.Location, bool) {
	switch t.base {
	case baseReg:
		name := fr.u.f.register(t.reg)
		return sym.Location{Kind: sym.RegRelative, Reg: name, Offset: t.n}, name != ""
	case baseCFA:
		return sym.Location{Kind: sym.CFARelative, Offset: t.n}, true
	}
	rva, ok := fr.u.f.rva(uint64(t.n))
	return sym.Location{Kind: sym.AtRVA, RVA: rva}, ok && t.base == baseAddr
}

// itself is the term as a value.
func (fr *frame) itself(t term) (sym.Location, bool) {
	switch {
	case t.base == baseNone:
		return sym.Location{Kind: sym.IsConstant, Value: binary.LittleEndian.AppendUint64(nil, uint64(t.n))}, true
	case t.base == baseReg && t.n == 0:
		name := fr.u.f.register(t.reg)
		return sym.Location{Kind: sym.InRegister, Reg: name}, name != ""
	}
	return sym.Location{}, false
}

// frameBase evaluates DW_AT_frame_base of a procedure.
func (fr *frame) frameBase(fn entry, w *work) error {
	o, ok, err := fn.with(std.AttrFrameBase)
	if err != nil || !ok {
		return err
	}
	v, _ := o.attr(std.AttrFrameBase)
	expr, err := fr.expression(v, w)
	if err != nil || len(expr) == 0 {
		return err
	}
	c := cursor{b: expr}
	switch op := c.u8(); {
	case op >= opReg0 && op < opBreg0 && len(expr) == 1:
		fr.base = &term{base: baseReg, reg: uint64(op - opReg0)} // what is in it
	default:
		c.p = 0
		var stack []term
		for ok := true; c.p < len(c.b); {
			if stack, ok = fr.step(c.u8(), &c, stack); !ok {
				return nil
			}
		}
		if len(stack) > 0 {
			fr.base = &stack[len(stack)-1]
		}
	}
	return nil
}

// Kinds of entries of .debug_loclists (DWARF 5, 7.29).
const (
	lleEnd          = 0
	lleBasex        = 1
	lleStartxEndx   = 2
	lleStartxLength = 3
	lleOffsetPair   = 4
	lleDefault      = 5
	lleBase         = 6
	lleStartEnd     = 7
	lleStartLength  = 8
	lleViewPair     = 9 // of GCC
)

// expression is the one that a location attribute has for the address of the
// frame; nil: none.
func (fr *frame) expression(v value, w *work) ([]byte, error) {
	u := fr.u
	if v.block() {
		return v.b, nil
	}
	if v.form == formLoclistx || v.offset(u) {
		if u.version >= 5 {
			return fr.loclist(v, w)
		}
		return fr.oldLoclist(v, w)
	}
	return nil, nil
}

// covers says whether linked addresses are around the frame's.
func (fr *frame) covers(lo, hi uint64) bool {
	at := fr.u.f.im.ImageBase + uint64(fr.rva)
	return lo <= at && at < hi
}

func (fr *frame) loclist(v value, w *work) ([]byte, error) {
	u := fr.u
	s := &u.f.loclists
	off, err := u.listOffset(s, v, u.loclistBase)
	if err != nil {
		return nil, err
	}
	var expr, other []byte
	base := u.low
	err = s.list(off, w, func(c *cursor) (bool, error) {
		var lo, hi uint64
		var err error
		kind := c.u8()
		switch kind {
		case lleEnd:
			return false, nil
		case lleBasex:
			n := c.uleb()
			if !c.bad {
				base, err = u.address(n)
			}
			return true, err
		case lleBase:
			if b := c.uint(int(u.addr)); !c.bad {
				base = b
			}
			return true, nil
		case lleViewPair:
			c.uleb()
			c.uleb()
			return true, nil
		case lleStartxEndx, lleStartxLength:
			a, b := c.uleb(), c.uleb()
			if c.bad {
				return true, nil
			}
			if lo, err = u.address(a); err != nil {
				return false, err
			}
			if hi = lo + b; kind == lleStartxEndx {
				if hi, err = u.address(b); err != nil {
					return false, err
				}
			}
		case lleOffsetPair:
			lo, hi = base+c.uleb(), base+c.uleb()
		case lleStartEnd:
			lo, hi = c.uint(int(u.addr)), c.uint(int(u.addr))
		case lleStartLength:
			lo = c.uint(int(u.addr))
			hi = lo + c.uleb()
		case lleDefault:
		default:
			return false, malformed(s.name, "entry of kind %d", kind)
		}
		b := c.bytes(c.uleb())
		switch {
		case c.bad:
		case kind == lleDefault:
			other = b
		case fr.covers(lo, hi):
			expr = b
			return false, nil
		}
		return true, nil
	})
	if expr == nil {
		expr = other
	}
	return expr, err
}

func (fr *frame) oldLoclist(v value, w *work) ([]byte, error) {
	u := fr.u
	var expr []byte
	base := u.low
	err := u.f.loc.list(v.u, w, func(c *cursor) (bool, error) {
		lo, hi := c.uint(int(u.addr)), c.uint(int(u.addr))
		switch {
		case c.bad:
		case lo == 0 && hi == 0:
			return false, nil
		case lo == 1<<(8*u.addr)-1:
			base = hi
		default:
			if b := c.bytes(uint64(c.u16())); !c.bad && fr.covers(base+lo, base+hi) {
				expr = b
				return false, nil
			}
		}
		return true, nil
	})
	return expr, err
}
