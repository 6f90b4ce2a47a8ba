package pdb

import "bytes"

// cursor takes values off a record. After a value that is not there, bad stays
// set and all further values are zero.
type cursor struct {
	b   []byte
	bad bool
}

// take returns the next n bytes of the record itself, not a copy.
func (c *cursor) take(n int) []byte {
	if c.bad || n < 0 || n > len(c.b) {
		c.bad = true
		c.b = nil
		return nil
	}
	p := c.b[:n:n]
	c.b = c.b[n:]
	return p
}

func (c *cursor) u8() uint8 {
	if p := c.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (c *cursor) u16() uint16 {
	if p := c.take(2); p != nil {
		return le.Uint16(p)
	}
	return 0
}

func (c *cursor) u32() uint32 {
	if p := c.take(4); p != nil {
		return le.Uint32(p)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if p := c.take(8); p != nil {
		return le.Uint64(p)
	}
	return 0
}

// zstr takes a text that ends in a zero byte.
func (c *cursor) zstr() []byte {
	i := bytes.IndexByte(c.b, 0)
	if i < 0 {
		c.take(-1)
		return nil
	}
	s := c.take(i + 1)
	return s[:i]
}

// text takes a name: with its length in front, as old records (_ST) have it, or
// with a zero behind. A name that fills its record lacks the zero in some files.
func (c *cursor) text(st bool) []byte {
	if st {
		return c.take(int(c.u8()))
	}
	if bytes.IndexByte(c.b, 0) < 0 {
		return c.take(len(c.b))
	}
	return c.zstr()
}

// Numeric leaves: a value below leafNumeric stands for itself, else it is the
// kind of the value that follows.
const (
	leafNumeric    = 0x8000
	leafChar       = 0x8000
	leafShort      = 0x8001
	leafUShort     = 0x8002
	leafLong       = 0x8003
	leafULong      = 0x8004
	leafReal32     = 0x8005
	leafReal64     = 0x8006
	leafReal80     = 0x8007
	leafReal128    = 0x8008
	leafQuadword   = 0x8009
	leafUQuadword  = 0x800a
	leafVarString  = 0x8010
	leafOctword    = 0x8017
	leafUOctword   = 0x8018
	leafDecimal    = 0x8019
	leafDate       = 0x801a
	leafUTF8String = 0x801b
	leafReal16     = 0x801c
)

// number takes a numeric leaf and returns its bits, widened by its sign to 64.
// Of floating-point values these are the bits of the value as stored, of wider
// ones the low 64.
func (c *cursor) number() uint64 {
	k := c.u16()
	if k < leafNumeric {
		return uint64(k)
	}
	switch k {
	case leafChar:
		return uint64(int8(c.u8()))
	case leafShort:
		return uint64(int16(c.u16()))
	case leafUShort, leafReal16:
		return uint64(c.u16())
	case leafLong:
		return uint64(int32(c.u32()))
	case leafULong, leafReal32:
		return uint64(c.u32())
	case leafQuadword, leafUQuadword, leafReal64, leafDate:
		return c.u64()
	case leafReal80:
		v := c.u64()
		c.u16()
		return v
	case leafReal128, leafOctword, leafUOctword, leafDecimal:
		v := c.u64()
		c.u64()
		return v
	case leafVarString:
		c.take(int(c.u16()))
	case leafUTF8String:
		c.zstr()
	default:
		c.take(-1)
	}
	return 0
}
