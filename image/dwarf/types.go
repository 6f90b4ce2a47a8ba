package dwarf

import (
	std "debug/dwarf"
	"iter"
	"strings"

	"openkd/image/sym"
)

// A TypeID is the offset of an entry in .debug_info, with a mark where the
// model has a type that DWARF has no entry of its own for.
const (
	idOffset   = 1<<32 - 1
	idDimShift = 32      // of an array of arrays: which dimension
	idBitField = 1 << 48 // the entry is the member
	idVoid     = 1 << 49 // no entry
	idEntry    = 1 << 50
)

func typeID(e entry) sym.TypeID { return sym.TypeID(idEntry | uint64(e.off())) }

// typeOf is the type that an attribute of the entry, or of its origins, names;
// void if none does.
func (e entry) typeOf(at std.Attr) (sym.TypeID, error) {
	o, ok, err := e.with(at)
	if err != nil {
		return 0, err
	}
	if !ok {
		return idVoid, nil
	}
	to, ok, err := o.refers(at)
	if err != nil || !ok {
		return 0, err
	}
	return typeID(to), nil
}

// TypeByName finds a type by its name.
func (f *File) TypeByName(name string) (sym.TypeID, error) {
	if !f.Private() {
		return 0, nil
	}
	// Of several with one name the structure counts: if there is one, that is all.
	if ref, ok := f.sought(name, groupStruct); ok {
		return sym.TypeID(idEntry | uint64(ref.off)), nil
	}
	ix := f.names()
	ref, ok := ix.typeNamed(name)
	if !ok {
		return 0, ix.err
	}
	return sym.TypeID(idEntry | uint64(ref.off)), nil
}

// TypeNames runs through the names of types. Of a name that a structure and a
// typedef have, TypeByName knows the structure.
func (f *File) TypeNames(match func(name string) bool) iter.Seq2[sym.NamedType, error] {
	return func(yield func(sym.NamedType, error) bool) {
		if !f.Private() {
			return
		}
		ix := f.names()
		for key, ref := range ix.types {
			if match(key.name) && !yield(sym.NamedType{Name: key.name, ID: sym.TypeID(idEntry | uint64(ref.off))}, nil) {
				return
			}
		}
		if ix.err != nil {
			yield(sym.NamedType{}, ix.err)
		}
	}
}

// Type describes a type.
func (f *File) Type(id sym.TypeID) (sym.Type, error) {
	return f.describe(id, 0)
}

func (f *File) describe(id sym.TypeID, depth int) (sym.Type, error) {
	if depth > maxHops {
		return sym.Type{}, malformed(f.info.name, "type at %#x: it is made of itself", uint64(id)&idOffset)
	}
	if id == idVoid {
		return sym.Type{ID: id, Kind: sym.Void, Name: "void"}, nil
	}
	if id&idEntry == 0 {
		return sym.Type{}, malformed(f.info.name, "there is no type %#x", uint64(id))
	}
	e, err := f.entry(uint32(id & idOffset))
	if err != nil {
		return sym.Type{}, err
	}
	if e, err = f.definition(e); err != nil {
		return sym.Type{}, err
	}
	if id&idBitField != 0 {
		return f.bitField(e, depth)
	}
	t := sym.Type{ID: typeID(e)}
	if t.Name, err = e.qualified(); err != nil {
		return t, err
	}
	size, sized := e.attr(std.AttrByteSize)
	if sized && size.constant() {
		t.Size = size.u
	}
	// elem fills in what the type is made of.
	elem := func(sizeToo bool) error {
		if t.Elem, err = e.typeOf(std.AttrType); err != nil || !sizeToo || t.Elem == 0 {
			return err
		}
		to, err := f.describe(t.Elem, depth+1)
		t.Size = to.Size
		return err
	}
	switch tag := e.tag(); tag {
	case std.TagBaseType:
		f.base(e, &t)
	case std.TagUnspecifiedType:
		t.Kind = sym.Void
	case std.TagPointerType, std.TagReferenceType, std.TagRvalueReferenceType, std.TagPtrToMemberType:
		t.Kind, t.Name = sym.Pointer, ""
		t.Reference = tag == std.TagReferenceType || tag == std.TagRvalueReferenceType
		if t.Size == 0 {
			t.Size = uint64(e.u.addr)
		}
		if err = elem(false); err == nil && !sized && tag == std.TagPtrToMemberType {
			var to sym.Type
			if to, err = f.describe(t.Elem, depth+1); to.Kind == sym.Func {
				t.Size *= 2 // with what to add to this (Itanium C++ ABI, 2.3)
			}
		}
	case std.TagStructType, std.TagClassType, std.TagUnionType, std.TagEnumerationType:
		switch tag {
		case std.TagUnionType:
			t.Kind = sym.Union
		case std.TagEnumerationType:
			if t.Kind = sym.Enum; e.has(std.AttrType) {
				err = elem(!sized)
			}
		default:
			t.Kind, t.Class = sym.Struct, tag == std.TagClassType
		}
		if e.u.ab(e.i).declares {
			t.Kind = sym.Opaque
		}
	case std.TagTypedef:
		t.Kind = sym.Alias
		if err = elem(true); err == nil && t.Name == "wchar_t" && t.Size == 2 {
			// The type of characters of C is a mere name for short.
			t.Kind, t.Elem = sym.WChar, 0
		}
	case std.TagConstType, std.TagVolatileType, std.TagRestrictType, std.TagAtomicType:
		return f.modified(e, depth)
	case std.TagSubroutineType, std.TagSubprogram:
		t.Kind, t.Name, t.Size = sym.Func, "", 0
		if err = elem(false); err == nil {
			err = f.params(e, &t)
		}
	case std.TagArrayType:
		return f.array(e, int(id>>idDimShift&0xFF), depth)
	default:
		t.Kind = sym.Opaque
	}
	return t, err
}

func (e entry) has(at std.Attr) bool { _, ok := e.attr(at); return ok }

// Encodings of base types (DWARF 5, 7.8).
const (
	ateBoolean      = 0x02
	ateComplexFloat = 0x03
	ateFloat        = 0x04
	ateSigned       = 0x05
	ateSignedChar   = 0x06
	ateUnsignedChar = 0x08
	ateUTF          = 0x10
)

func (f *File) base(e entry, t *sym.Type) {
	v, _ := e.attr(std.AttrEncoding)
	switch t.Kind = sym.Int; v.u {
	case ateBoolean:
		t.Kind = sym.Bool
	case ateFloat, ateComplexFloat:
		t.Kind = sym.Float
	case ateSigned:
		t.Signed = true
	case ateSignedChar:
		t.Kind, t.Signed = sym.Char, true
	case ateUnsignedChar:
		t.Kind = sym.Char
	case ateUTF:
		if t.Kind = sym.Char; t.Size == 2 {
			t.Kind = sym.WChar
		}
	}
	if t.Name == "wchar_t" && t.Size == 2 {
		t.Kind = sym.WChar
	}
}

// modified is a type with const and volatile. What the model has no word for
// (restrict, atomic) is as if it were not there.
func (f *File) modified(e entry, depth int) (sym.Type, error) {
	t := sym.Type{ID: typeID(e), Kind: sym.Modifier}
	for range maxHops {
		switch e.tag() {
		case std.TagConstType:
			t.Const = true
		case std.TagVolatileType:
			t.Volatile = true
		case std.TagRestrictType, std.TagAtomicType:
		default:
			t.Elem = typeID(e)
			return f.sized(t, depth)
		}
		to, ok, err := e.refers(std.AttrType)
		if err != nil {
			return t, err
		}
		if !ok {
			t.Elem = idVoid
			return f.sized(t, depth)
		}
		e = to
	}
	return t, malformed(f.info.name, "type at %#x: it is made of itself", e.off())
}

// sized gives a modifier the size of what it modifies, or is that itself when
// there is nothing to say.
func (f *File) sized(t sym.Type, depth int) (sym.Type, error) {
	to, err := f.describe(t.Elem, depth+1)
	if err != nil {
		return t, err
	}
	if !t.Const && !t.Volatile {
		return to, nil
	}
	t.Size = to.Size
	return t, nil
}

// params fills in the parameters of a function.
func (f *File) params(e entry, t *sym.Type) error {
	// An instance may lack those that the compiler has done away with.
	for range maxHops {
		o, ok, err := e.refers(std.AttrAbstractOrigin)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		e = o
	}
	for c := range e.children {
		switch c.tag() {
		case std.TagFormalParameter:
			p, err := c.typeOf(std.AttrType)
			if err != nil {
				return err
			}
			t.Params = append(t.Params, p)
		case std.TagUnspecifiedParameters:
			t.Variadic = true
		}
	}
	return nil
}

// array is the array e from its dimension dim on.
func (f *File) array(e entry, dim, depth int) (sym.Type, error) {
	t := sym.Type{ID: typeID(e) | sym.TypeID(dim)<<idDimShift, Kind: sym.Array}
	var counts []uint64
	for c := range e.children {
		if tag := c.tag(); tag != std.TagSubrangeType && tag != std.TagEnumerationType || len(counts) == 0xFF {
			continue
		}
		n := uint64(0) // flexible, or as long as a variable says
		if v, ok := c.attr(std.AttrCount); ok && v.constant() {
			n = v.u
		} else if v, ok := c.attr(std.AttrUpperBound); ok && v.constant() {
			n = v.u + 1 // GCC writes -1 for none
			if v.form == formData4 && uint32(n) == 0 {
				n = 0
			}
		}
		counts = append(counts, n)
	}
	if dim >= max(len(counts), 1) {
		return t, malformed(f.info.name, "array at %#x has no dimension %d", e.off(), dim)
	}
	elem, err := e.typeOf(std.AttrType)
	if err != nil || elem == 0 {
		return t, err
	}
	to, err := f.describe(elem, depth+1)
	if err != nil {
		return t, err
	}
	t.Elem, t.Size = elem, to.Size
	for _, n := range counts[min(dim, len(counts)):] {
		if t.Size != 0 && n > (1<<63)/t.Size {
			return t, malformed(f.info.name, "array at %#x: %d elements of %#x bytes", e.off(), n, t.Size)
		}
		t.Size *= n
	}
	if dim < len(counts) {
		t.Count = counts[dim]
	}
	if dim+1 < len(counts) {
		t.Elem = typeID(e) | sym.TypeID(dim+1)<<idDimShift
	}
	return t, nil
}

// bits is where a member that is a bit field lies: in a unit of so many bytes
// at an offset, pos counted from the lowest bit.
type bits struct {
	offset, unit uint64
	pos, len     uint8
}

// bits says where a bit field lies; false: the member is none. DWARF 4 says it
// from the start of the structure, what came before from the highest bit of
// the unit.
func (f *File) bits(e entry, elem sym.TypeID, depth int) (bits, bool, error) {
	length, ok := e.attr(std.AttrBitSize)
	if !ok {
		return bits{}, false, nil
	}
	t, err := f.describe(elem, depth+1)
	if err != nil {
		return bits{}, false, err
	}
	b := bits{unit: t.Size, len: uint8(length.u)}
	if v, ok := e.attr(std.AttrByteSize); ok && v.constant() {
		b.unit = v.u
	}
	if length.u == 0 || length.u > 128 || b.unit == 0 || b.unit > 16 {
		return bits{}, false, malformed(f.info.name, "%#x: a bit field of %d bits in %d bytes", e.off(), length.u, b.unit)
	}
	first := int64(0) // bits from the start of the structure
	if v, ok := e.attr(std.AttrDataBitOffset); ok {
		first = int64(v.u)
	} else {
		off, _ := e.memberOffset()
		v, _ := e.attr(std.AttrBitOffset)
		first = int64(8*off) + int64(8*b.unit) - v.signed() - int64(length.u)
	}
	if first < 0 || first > 1<<40 {
		return bits{}, false, malformed(f.info.name, "%#x: a bit field at bit %d", e.off(), first)
	}
	n := int64(8 * b.unit)
	at := first / n * n
	if first+int64(length.u) > at+n {
		at = first &^ 7 // packed, across units
	}
	b.offset, b.pos = uint64(at/8), uint8(first-at)
	return b, true, nil
}

// signed is a number that the compiler may have written in as few bytes as it
// needs.
func (v value) signed() int64 {
	switch v.form {
	case formData1:
		return int64(int8(v.u))
	case formData2:
		return int64(int16(v.u))
	case formData4:
		return int64(int32(v.u))
	}
	return int64(v.u)
}

// bitField is the type of the member e.
func (f *File) bitField(e entry, depth int) (sym.Type, error) {
	t := sym.Type{ID: typeID(e) | idBitField, Kind: sym.BitField}
	var err error
	if t.Elem, err = e.typeOf(std.AttrType); err != nil {
		return t, err
	}
	b, ok, err := f.bits(e, t.Elem, depth)
	if err == nil && !ok {
		err = malformed(f.info.name, "%#x is no bit field", e.off())
	}
	t.Size, t.BitPos, t.BitLen = b.unit, b.pos, b.len
	return t, err
}

// memberOffset is where a member or a base lies; false: it has to be looked up
// in the object, as a virtual base.
func (e entry) memberOffset() (uint64, bool) {
	v, ok := e.attr(std.AttrDataMemberLoc)
	switch {
	case !ok:
		return 0, true
	case v.constant():
		return v.u, true
	case v.block():
		// DWARF 2: what to add to the address on the stack.
		c := cursor{b: v.b}
		if c.u8() == opPlusUconst {
			if n := c.uleb(); !c.bad && c.p == len(c.b) {
				return n, true
			}
		}
	}
	return 0, false
}

// Members lists what is in a structure, a union or an enumeration.
func (f *File) Members(id sym.TypeID) ([]sym.Member, error) {
	if id&idEntry == 0 || id&idBitField != 0 {
		return nil, nil
	}
	e, err := f.entry(uint32(id & idOffset))
	if err != nil {
		return nil, err
	}
	if e, err = f.definition(e); err != nil {
		return nil, err
	}
	var list []sym.Member
	switch e.tag() {
	case std.TagEnumerationType:
		for c := range e.children {
			if c.tag() != std.TagEnumerator {
				continue
			}
			m := sym.Member{Kind: sym.Enumerator, Type: typeID(e)}
			if m.Name, err = c.text(std.AttrName); err != nil {
				return nil, err
			}
			v, _ := c.attr(std.AttrConstValue)
			m.Value = int64(v.u)
			list = append(list, m)
		}
	case std.TagStructType, std.TagClassType, std.TagUnionType:
		err = f.members(e, 0, 0, &list, &work{4 * maxMembers})
	}
	return list, err
}

// members adds the members of e, which lies at an offset of the structure that
// is asked about.
func (f *File) members(e entry, at uint64, depth int, list *[]sym.Member, w *work) error {
	if depth > maxHops {
		return malformed(f.info.name, "structure at %#x is within itself", e.off())
	}
	for c := range e.children {
		if err := w.do(1); err != nil {
			return err
		}
		tag := c.tag()
		if tag != std.TagMember && tag != std.TagInheritance && tag != std.TagVariable {
			continue
		}
		if len(*list) == maxMembers {
			return malformed(f.info.name, "structure at %#x has more than %d members", e.off(), maxMembers)
		}
		m := sym.Member{Kind: sym.Field}
		var err error
		if m.Name, err = c.text(std.AttrName); err != nil {
			return err
		}
		if m.Type, err = c.typeOf(std.AttrType); err != nil {
			return err
		}
		off, fixed := c.memberOffset()
		m.Offset = at + off
		switch {
		case tag == std.TagInheritance:
			m.Kind = sym.Base
			if v, _ := c.attr(std.AttrVirtuality); v.u != 0 || !fixed {
				m.Kind, m.Offset = sym.VirtualBase, 0
			}
		case tag == std.TagVariable || c.flag(std.AttrDeclaration) || c.flag(std.AttrExternal):
			m.Kind, m.Offset = sym.StaticField, 0
		case strings.HasPrefix(m.Name, "_vptr"):
			m.Kind = sym.VTable
		case m.Name == "":
			if inner, ok, err := f.aggregate(c); err != nil {
				return err
			} else if ok {
				if err := f.members(inner, m.Offset, depth+1, list, w); err != nil {
					return err
				}
				continue
			}
		}
		if b, ok, err := f.bits(c, m.Type, 0); err != nil {
			return err
		} else if ok {
			m.Type, m.Offset = typeID(c)|idBitField, at+b.offset
		}
		*list = append(*list, m)
	}
	return nil
}

// aggregate is the structure or union that is the type of a member without
// name.
func (f *File) aggregate(m entry) (entry, bool, error) {
	e, ok, err := m.refers(std.AttrType)
	for range maxHops {
		if err != nil || !ok {
			return e, false, err
		}
		switch e.tag() {
		case std.TagStructType, std.TagClassType, std.TagUnionType:
			e, err = f.definition(e)
			return e, err == nil, err
		case std.TagTypedef, std.TagConstType, std.TagVolatileType:
			e, ok, err = e.refers(std.AttrType)
		default:
			return e, false, nil
		}
	}
	return e, false, nil
}
