package dwarf

import (
	std "debug/dwarf"
	"math"
)

// Forms of attributes (DWARF 5, 7.5.6). debug/dwarf keeps its own to itself.
const (
	formAddr          = 0x01
	formBlock2        = 0x03
	formBlock4        = 0x04
	formData2         = 0x05
	formData4         = 0x06
	formData8         = 0x07
	formString        = 0x08
	formBlock         = 0x09
	formBlock1        = 0x0A
	formData1         = 0x0B
	formFlag          = 0x0C
	formSdata         = 0x0D
	formStrp          = 0x0E
	formUdata         = 0x0F
	formRefAddr       = 0x10
	formRef1          = 0x11
	formRef2          = 0x12
	formRef4          = 0x13
	formRef8          = 0x14
	formRefUdata      = 0x15
	formIndirect      = 0x16
	formSecOffset     = 0x17
	formExprloc       = 0x18
	formFlagPresent   = 0x19
	formStrx          = 0x1A
	formAddrx         = 0x1B
	formRefSup4       = 0x1C
	formStrpSup       = 0x1D
	formData16        = 0x1E
	formLineStrp      = 0x1F
	formRefSig8       = 0x20
	formImplicitConst = 0x21
	formLoclistx      = 0x22
	formRnglistx      = 0x23
	formRefSup8       = 0x24
	formStrx1         = 0x25
	formStrx2         = 0x26
	formStrx3         = 0x27
	formStrx4         = 0x28
	formAddrx1        = 0x29
	formAddrx2        = 0x2A
	formAddrx3        = 0x2B
	formAddrx4        = 0x2C
)

// spec is an attribute of an abbreviation.
type spec struct {
	at       std.Attr
	form     uint16
	varies   bool  // the size depends on the value
	from     int32 // bytes behind the last one in front that varies, or behind the code
	implicit int64
}

// abbrev says what an entry of the unit looks like.
type abbrev struct {
	tag      std.Tag
	children bool
	declares bool // it has DW_AT_declaration, or the signature of what defines it
	specs    []spec
	// What to do to get over the attributes: a number of bytes below variable,
	// else a form that has to be looked at.
	plan []uint16
}

const variable = 0x8000

// shape is what the sizes of forms depend on.
type shape struct {
	addr, off uint8 // bytes of an address, of an offset
	version   uint8
}

// fixed is the size of a form, or -1 if that depends on the value.
func (s shape) fixed(form uint16) int {
	switch form {
	case formFlagPresent, formImplicitConst:
		return 0
	case formData1, formRef1, formFlag, formStrx1, formAddrx1:
		return 1
	case formData2, formRef2, formStrx2, formAddrx2:
		return 2
	case formStrx3, formAddrx3:
		return 3
	case formData4, formRef4, formRefSup4, formStrx4, formAddrx4:
		return 4
	case formData8, formRef8, formRefSig8, formRefSup8:
		return 8
	case formData16:
		return 16
	case formAddr:
		return int(s.addr)
	case formRefAddr:
		if s.version == 2 {
			return int(s.addr)
		}
		return int(s.off)
	case formStrp, formSecOffset, formLineStrp, formStrpSup:
		return int(s.off)
	}
	return -1
}

// skip passes over a value of a form without fixed size.
func (s shape) skip(c *cursor, form uint16) {
	switch form {
	case formString:
		c.str()
	case formSdata, formUdata, formRefUdata, formStrx, formAddrx, formLoclistx, formRnglistx:
		c.uleb()
	case formBlock1:
		c.bytes(uint64(c.u8()))
	case formBlock2:
		c.bytes(uint64(c.u16()))
	case formBlock4:
		c.bytes(uint64(c.u32()))
	case formBlock, formExprloc:
		c.bytes(c.uleb())
	case formIndirect:
		form = indirect(c)
		if n := s.fixed(form); n >= 0 {
			c.bytes(uint64(n))
			return
		}
		s.skip(c, form)
	default:
		c.fail()
	}
}

// indirect reads the form that stands before the value; one that is indirect
// again, or implicit, is none.
func indirect(c *cursor) uint16 {
	form := c.uleb()
	if form == formIndirect || form == formImplicitConst || form > math.MaxUint16 {
		c.fail()
		return formFlagPresent
	}
	return uint16(form)
}

// abbrevs is a table of abbreviations. The codes are mostly 1, 2, 3...
type abbrevs struct {
	list   []abbrev
	dense  int // so many codes are their place in the list, from 1
	sparse map[uint64]int32
	size   int // bytes in the file
}

// find is the place of a code in the list, -1 if it is not there.
func (t *abbrevs) find(code uint64) int32 {
	if code-1 < uint64(t.dense) {
		return int32(code - 1)
	}
	if i, ok := t.sparse[code]; ok {
		return i
	}
	return -1
}

// readAbbrevs reads the table at an offset. With only it stops after the
// abbreviation of that code; 0: it reads all.
func (f *File) readAbbrevs(off uint64, s shape, only uint64) (*abbrevs, error) {
	for n := uint64(4 << 10); ; n *= 4 {
		b, err := f.abbrev.tail(off, n)
		if err != nil {
			return nil, err
		}
		c := cursor{b: b}
		t, err := parseAbbrevs(&c, s, only)
		if err != nil {
			return nil, malformed(f.abbrev.name, "table at %#x: %v", off, err)
		}
		if !c.bad {
			return t, nil
		}
		if uint64(len(b)) < n {
			return nil, malformed(f.abbrev.name, "the table at %#x has no end", off)
		}
	}
}

func parseAbbrevs(c *cursor, s shape, only uint64) (*abbrevs, error) {
	t := &abbrevs{}
	var specs []spec
	var plan []uint16
	for n := 0; ; n++ {
		code := c.uleb()
		if code == 0 || c.bad {
			t.size = c.p
			return t, nil
		}
		if n == maxAbbrevs {
			return nil, malformed("abbreviations", "more than %d", maxAbbrevs)
		}
		tag, children := c.uleb(), c.u8()
		a := abbrev{tag: std.Tag(min(tag, math.MaxUint32)), children: children != 0}
		first, firstStep, run, gap := len(specs), len(plan), 0, 0
		for {
			at, form := c.uleb(), c.uleb()
			if form == 0 && at == 0 || c.bad {
				break
			}
			if len(specs)-first == maxAttrs {
				return nil, malformed("abbreviations", "%d has more than %d attributes", code, maxAttrs)
			}
			sp := spec{at: std.Attr(min(at, math.MaxUint32)), form: uint16(min(form, math.MaxUint16))}
			if sp.form == formImplicitConst {
				sp.implicit = c.sleb()
			}
			sp.from, sp.varies = int32(gap), s.fixed(sp.form) < 0
			if gap += max(s.fixed(sp.form), 0); sp.varies {
				gap = 0
			}
			a.declares = a.declares || sp.at == std.AttrDeclaration || sp.at == std.AttrSignature
			specs = append(specs, sp)
			if n := s.fixed(sp.form); n >= 0 {
				if run += n; run >= variable-16 {
					plan = append(plan, uint16(run))
					run = 0
				}
				continue
			}
			if run > 0 {
				plan = append(plan, uint16(run))
				run = 0
			}
			plan = append(plan, variable|sp.form)
		}
		if run > 0 {
			plan = append(plan, uint16(run))
		}
		a.specs = specs[first:len(specs):len(specs)]
		a.plan = plan[firstStep:len(plan):len(plan)]
		switch n := len(t.list); {
		case n == t.dense && code == uint64(n)+1:
			t.dense++
		case t.find(code) >= 0:
			continue
		default:
			if t.sparse == nil {
				t.sparse = map[uint64]int32{}
			}
			t.sparse[code] = int32(n)
		}
		t.list = append(t.list, a)
		if code == only {
			t.size = c.p
			return t, nil
		}
	}
}
