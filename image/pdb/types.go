package pdb

import (
	"bytes"
	"cmp"
	"fmt"
	"iter"
	"slices"
	"sort"

	"openkd/image/sym"
)

// Kinds of type records, named as in CodeView.
const (
	lfVTShape     = 0x000a
	lfLabel       = 0x000e
	lfModifier    = 0x1001
	lfPointer     = 0x1002
	lfArrayST     = 0x1003
	lfClassST     = 0x1004
	lfStructureST = 0x1005
	lfUnionST     = 0x1006
	lfEnumST      = 0x1007
	lfProcedure   = 0x1008
	lfMFunction   = 0x1009
	lfAliasST     = 0x1010
	lfArgList     = 0x1201
	lfFieldList   = 0x1203
	lfBitField    = 0x1205
	lfLastST      = 0x1500 // the last with lengths in front of names
	lfArray       = 0x1503
	lfClass       = 0x1504
	lfStructure   = 0x1505
	lfUnion       = 0x1506
	lfEnum        = 0x1507
	lfAlias       = 0x150a
	lfStrided     = 0x1516
	lfInterface   = 0x1519
	lfVector      = 0x151b
	lfFuncID      = 0x1601
	lfMFuncID     = 0x1602
	lfStringID    = 0x1605
	lfClass2      = 0x1608
	lfStructure2  = 0x1609
	lfUnion2      = 0x160a
	lfInterface2  = 0x160b
)

// Kinds of entries of field lists.
const (
	lfEnumerateST    = 0x0403
	lfBClass         = 0x1400
	lfVBClass        = 0x1401
	lfIVBClass       = 0x1402
	lfFriendFcnST    = 0x1403
	lfIndex          = 0x1404
	lfMemberST       = 0x1405
	lfSTMemberST     = 0x1406
	lfMethodST       = 0x1407
	lfNestTypeST     = 0x1408
	lfVFuncTab       = 0x1409
	lfFriendCls      = 0x140a
	lfOneMethodST    = 0x140b
	lfVFuncOff       = 0x140c
	lfNestTypeExST   = 0x140d
	lfMemberModifyST = 0x140e
	lfEnumerate      = 0x1502
	lfFriendFcn      = 0x150c
	lfMember         = 0x150d
	lfSTMember       = 0x150e
	lfMethod         = 0x150f
	lfNestType       = 0x1510
	lfOneMethod      = 0x1511
	lfNestTypeEx     = 0x1512
	lfMemberModify   = 0x1513
	lfBInterface     = 0x151a
	lfPad            = 0xf0 // and above, one byte: how many to the next entry
)

// Properties of structures, unions and enumerations.
const (
	propForward = 0x80
	propScoped  = 0x100 // declared in a function
	propUnique  = 0x200 // has the name of the linker too
)

// firstType is the first number that is not a simple type.
const firstType = 0x1000

// deepest bounds types of types of types where a size is needed.
const deepest = 64

// typeStream is a stream of type records (TPI) or of ids (IPI).
type typeStream struct {
	s          *stream
	first, end uint32 // numbers, end not included
	data       part
	// Of the hash stream; nil if there is none.
	hash    *stream
	buckets uint32
	values  part // the bucket of every record, four bytes each
	offsets part // number and position of a record every few kilobytes

	own lazy[[]byte] // the offsets, where the file has none
}

const typeHeader = 56

// types opens one of the two streams; nil: the file has none.
func (f *File) types(l *lazy[*typeStream], n uint16, what string) (*typeStream, error) {
	return l.get(func() (*typeStream, error) {
		if uint32(n) >= f.msf.count {
			return nil, nil
		}
		s, err := f.msf.open(n, what)
		if err != nil || s.size == 0 {
			return nil, err
		}
		raw, err := s.bytes(0, min(int64(s.size), typeHeader))
		if err != nil {
			return nil, err
		}
		c := cursor{b: raw}
		version := c.u32()
		header := int64(c.u32())
		t := &typeStream{s: s}
		t.first, t.end = c.u32(), c.u32()
		t.data = part{header, int64(c.u32())}
		hash := c.u16()
		c.u16() // another, unused
		key := c.u32()
		t.buckets = c.u32()
		next := func() part { o, n := c.u32(), c.u32(); return part{int64(o), int64(n)} }
		values, offsets := next(), next()
		if c.bad || t.data.end() > int64(s.size) || t.first < firstType || t.end < t.first || int64(t.end-t.first) > t.data.size/4 {
			return nil, malformed(what, "version %d, types %#x to %#x in %d bytes", version, t.first, t.end, s.size)
		}
		if hash == noStream {
			return t, nil
		}
		h, err := f.msf.open(hash, "hashes of the "+what)
		if err != nil {
			return nil, err
		}
		if values.end() > int64(h.size) || offsets.end() > int64(h.size) {
			return nil, malformed(h.what, "%d bytes", h.size)
		}
		t.hash, t.offsets = h, offsets
		if key == 4 && values.size == 4*int64(t.end-t.first) && t.buckets > 0 {
			t.values = values
		}
		return t, nil
	})
}

func (f *File) tpi() (*typeStream, error) { return f.types(&f.tpiStream, streamTPI, "type stream") }
func (f *File) ipi() (*typeStream, error) { return f.types(&f.ipiStream, streamIPI, "id stream") }

// offset returns entry i of the list that says where some records are.
func (t *typeStream) offset(i int) (ti, pos uint32, err error) {
	var b [8]byte
	if t.offsets.size < 8 {
		raw, err := t.ownOffsets()
		if err != nil {
			return 0, 0, err
		}
		copy(b[:], raw[8*i:])
	} else if err := t.hash.read(b[:], t.offsets.off+8*int64(i)); err != nil {
		return 0, 0, err
	}
	return le.Uint32(b[:]), le.Uint32(b[4:]), nil
}

// ownOffsets makes the list where the file has none: an entry for each 8 KB.
func (t *typeStream) ownOffsets() ([]byte, error) {
	return t.own.get(func() ([]byte, error) {
		const every = 8 << 10
		var out []byte
		next := int64(0)
		err := t.scan(t.first, 0, t.end, func(ti uint32, pos int64, _ uint16, _ []byte) error {
			if pos >= next {
				out = le.AppendUint32(le.AppendUint32(out, ti), uint32(pos))
				next = pos + every
			}
			return nil
		})
		return out, err
	})
}

// scan calls f for the records from ti, which is at pos, to end.
func (t *typeStream) scan(ti uint32, pos int64, end uint32, f func(ti uint32, pos int64, leaf uint16, body []byte) error) error {
	w := window{s: t.s}
	for ; ti < end && pos+4 <= t.data.size; ti++ {
		leaf, body, next, err := w.record(t.data.off + pos)
		if err != nil {
			return err
		}
		if err := f(ti, pos, leaf, body); err != nil {
			return err
		}
		pos = next - t.data.off
	}
	return nil
}

// record returns a record by its number.
func (t *typeStream) record(ti uint32) (leaf uint16, body []byte, err error) {
	if ti < t.first || ti >= t.end {
		return 0, nil, malformed(t.s.what, "there is no number %#x, only %#x to %#x", ti, t.first, t.end)
	}
	n := int(t.offsets.size / 8)
	if n == 0 {
		own, err := t.ownOffsets()
		if err != nil {
			return 0, nil, err
		}
		n = len(own) / 8
	}
	i := sort.Search(n, func(i int) bool {
		at, _, e := t.offset(i)
		if e != nil {
			err = e
			return true
		}
		return at > ti
	}) - 1
	if err != nil {
		return 0, nil, err
	}
	if i < 0 {
		return 0, nil, malformed(t.s.what, "no position is given for number %#x", ti)
	}
	at, pos, err := t.offset(i)
	if err != nil {
		return 0, nil, err
	}
	const piece = 1 << 10
	w := window{s: t.s, piece: piece}
	for off, end := t.data.off+int64(pos), t.data.end(); off+4 <= end; at++ {
		head, err := w.at(off, 4)
		if err != nil {
			return 0, nil, err
		}
		n := int64(le.Uint16(head))
		leaf = le.Uint16(head[2:])
		if n < 2 || off+2+n > end {
			return 0, nil, malformed(t.s.what, "a record of %d bytes at %#x", n, off)
		}
		if at == ti {
			body, err = w.at(off+4, n-2)
			return leaf, body, err
		}
		off += 2 + n
	}
	return 0, nil, malformed(t.s.what, "number %#x is not there", ti)
}

// bucketed calls f with the numbers of the records in a bucket of names.
func (t *typeStream) bucketed(hash uint32, f func(ti uint32) error) error {
	if t.values.size == 0 {
		return nil
	}
	h := hash % t.buckets
	w := window{s: t.hash}
	for off := int64(0); off < t.values.size; {
		b, err := w.at(t.values.off+off, min(windowBytes, t.values.size-off)&^3)
		if err != nil {
			return err
		}
		for i := 0; i+4 <= len(b); i += 4 {
			if le.Uint32(b[i:]) != h {
				continue
			}
			if err := f(t.first + uint32(off+int64(i))/4); err != nil {
				return err
			}
		}
		off += int64(len(b))
	}
	return nil
}

// udt is a record of a structure, union or enumeration.
type udt struct {
	kind   sym.TypeKind
	class  bool
	prop   uint32
	fields uint32
	under  uint32 // of an enumeration
	size   uint64
	name   []byte
	unique []byte // as the linker knows it
}

// decodeUDT reads such a record; false: it is another one.
func decodeUDT(leaf uint16, body []byte) (udt, bool, error) {
	var u udt
	c := cursor{b: body}
	st := leaf < lfLastST
	switch leaf {
	case lfClass, lfStructure, lfInterface, lfClassST, lfStructureST:
		u.kind, u.class = sym.Struct, leaf == lfClass || leaf == lfClassST
		c.u16() // members
		u.prop, u.fields = uint32(c.u16()), c.u32()
		c.u32() // derived from
		c.u32() // table of virtual functions
		u.size = c.number()
	case lfClass2, lfStructure2, lfInterface2:
		u.kind, u.class = sym.Struct, leaf == lfClass2
		u.prop, u.fields = c.u32(), c.u32()
		c.u32()
		c.u32()
		c.number() // members
		u.size = c.number()
	case lfUnion, lfUnionST:
		u.kind = sym.Union
		c.u16()
		u.prop, u.fields, u.size = uint32(c.u16()), c.u32(), c.number()
	case lfUnion2:
		u.kind = sym.Union
		u.prop, u.fields = c.u32(), c.u32()
		c.number()
		u.size = c.number()
	case lfEnum, lfEnumST:
		u.kind = sym.Enum
		c.u16()
		u.prop, u.under, u.fields = uint32(c.u16()), c.u32(), c.u32()
	default:
		return u, false, nil
	}
	u.name = c.text(st)
	if u.prop&propUnique != 0 && len(c.b) > 0 {
		u.unique = c.text(st)
	}
	if c.bad {
		return u, false, malformed("type record", "kind %#x in %d bytes", leaf, len(body))
	}
	return u, true, nil
}

func (u *udt) forward() bool { return u.prop&propForward != 0 }

// anonymous says whether a name was made by the compiler for a type without one.
func anonymous(name []byte) bool {
	return string(name) == "<unnamed-tag>" || string(name) == "__unnamed" ||
		bytes.HasSuffix(name, []byte("::<unnamed-tag>")) || bytes.HasSuffix(name, []byte("::__unnamed"))
}

// definition finds the record that defines what a forward declaration only
// names; 0: there is none.
func (t *typeStream) definition(u *udt) (uint32, error) {
	// Types of functions are filed under the linker's name, others under the
	// plain one.
	key := u.name
	if u.prop&propScoped != 0 && u.unique != nil {
		key = u.unique
	}
	return t.named(key, func(d *udt) bool {
		if d.kind != u.kind || d.forward() {
			return false
		}
		if u.unique != nil && d.unique != nil {
			return bytes.Equal(u.unique, d.unique)
		}
		return bytes.Equal(u.name, d.name)
	})
}

// named returns the first record filed under a name that is wanted; 0: none.
func (t *typeStream) named(key []byte, want func(*udt) bool) (uint32, error) {
	var found uint32
	err := t.bucketed(hashV1(key), func(ti uint32) error {
		leaf, body, err := t.record(ti)
		if err != nil {
			return err
		}
		d, ok, err := decodeUDT(leaf, body)
		if err != nil || !ok || !want(&d) {
			return err
		}
		found = ti
		return errStop
	})
	if err == errStop {
		err = nil
	}
	return found, err
}

// full returns the record of a structure, union or enumeration; of a forward
// declaration the one that defines it, if there is one.
func (t *typeStream) full(ti uint32) (udt, uint32, bool, error) {
	leaf, body, err := t.record(ti)
	if err != nil {
		return udt{}, 0, false, err
	}
	u, ok, err := decodeUDT(leaf, body)
	if err != nil || !ok || !u.forward() {
		return u, ti, ok, err
	}
	d, err := t.definition(&u)
	if err != nil || d == 0 {
		return u, ti, true, err
	}
	leaf, body, err = t.record(d)
	if err != nil {
		return u, ti, true, err
	}
	u, ok, err = decodeUDT(leaf, body)
	return u, d, ok, err
}

// TypeByName finds a structure, union, enumeration or a name that typedef gave
// to a type.
func (f *File) TypeByName(name string) (sym.TypeID, error) {
	t, err := f.tpi()
	if t == nil || err != nil {
		return 0, err
	}
	var forward uint32
	find := func(key []byte) (uint32, error) {
		return t.named(key, func(u *udt) bool {
			return string(u.name) == name && !u.forward()
		})
	}
	ti, err := find([]byte(name))
	if err != nil || ti != 0 {
		return sym.TypeID(ti), err
	}
	if t.values.size == 0 {
		err := t.scan(t.first, 0, t.end, func(n uint32, _ int64, leaf uint16, body []byte) error {
			u, ok, err := decodeUDT(leaf, body)
			if ok && string(u.name) == name {
				if !u.forward() {
					ti = n
					return errStop
				}
				forward = n
			}
			return err
		})
		if err != nil && err != errStop {
			return 0, err
		}
		if ti == 0 {
			ti = forward
		}
		if ti != 0 {
			return sym.TypeID(ti), nil
		}
	}
	// A typedef, which is a global symbol.
	tab, err := f.tables()
	if err != nil {
		return 0, err
	}
	err = tab.globals.find([]byte(name), func(r *symRec) error {
		if r.isUDT() && string(r.name) == name {
			ti = r.typ
		}
		return nil
	})
	if err != nil || ti != 0 {
		return sym.TypeID(ti), err
	}
	// A type of a function, filed under a name that cannot be known, or one
	// that is declared and nowhere defined.
	others, err := f.unfiled(t)
	if err != nil {
		return 0, err
	}
	h := hashV1([]byte(name))
	for i := sort.Search(len(others), func(i int) bool { return others[i].hash >= h }); i < len(others) && others[i].hash == h; i++ {
		u, ti, ok, err := t.full(others[i].pos)
		if err != nil {
			return 0, err
		}
		if ok && string(u.name) == name {
			return sym.TypeID(ti), nil
		}
	}
	return 0, nil
}

// unfiled returns the types that the file's own table has not under their
// names: those of functions, and those that are nowhere defined. Forward
// declarations of defined types are left out.
func (f *File) unfiled(t *typeStream) ([]hashed, error) {
	return f.otherTypes.get(func() ([]hashed, error) {
		var defined []uint32
		var list, declared []hashed
		err := t.scan(t.first, 0, t.end, func(ti uint32, _ int64, leaf uint16, body []byte) error {
			u, ok, err := decodeUDT(leaf, body)
			if err != nil || !ok {
				return err
			}
			h := hashV1(u.name)
			switch {
			case u.forward():
				declared = append(declared, hashed{h, ti})
			case u.prop&propScoped != 0:
				list = append(list, hashed{h, ti})
			default:
				defined = append(defined, h)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		slices.Sort(defined)
		for _, e := range declared {
			if _, ok := slices.BinarySearch(defined, e.hash); !ok {
				list = append(list, e)
			}
		}
		slices.SortStableFunc(list, func(a, b hashed) int { return cmp.Compare(a.hash, b.hash) })
		return list, nil
	})
}

// TypeNames runs through the types that have a name, typedefs included.
// Declarations are left out where the type is defined too.
func (f *File) TypeNames(match func(name string) bool) iter.Seq2[sym.NamedType, error] {
	return func(yield func(sym.NamedType, error) bool) {
		if err := f.eachType(match, func(n sym.NamedType) bool { return yield(n, nil) }); err != nil && err != errStop {
			yield(sym.NamedType{}, err)
		}
	}
}

func (f *File) eachType(match func(string) bool, yield func(sym.NamedType) bool) error {
	t, err := f.tpi()
	if t == nil || err != nil {
		return err
	}
	var declared []uint32
	seen := map[string]bool{}
	err = t.scan(t.first, 0, t.end, func(ti uint32, _ int64, leaf uint16, body []byte) error {
		u, ok, err := decodeUDT(leaf, body)
		if err != nil || !ok || anonymous(u.name) {
			return err
		}
		name := string(u.name)
		if !match(name) {
			return nil
		}
		if u.forward() {
			declared = append(declared, ti)
			return nil
		}
		seen[name] = true
		if !yield(sym.NamedType{Name: name, ID: sym.TypeID(ti)}) {
			return errStop
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, ti := range declared {
		u, d, ok, err := t.full(ti)
		if err != nil {
			return err
		}
		if name := string(u.name); ok && d == ti && !seen[name] {
			seen[name] = true
			if !yield(sym.NamedType{Name: name, ID: sym.TypeID(ti)}) {
				return errStop
			}
		}
	}
	tab, err := f.tables()
	if err != nil {
		return err
	}
	return f.eachRecord(tab, &tab.globals, func(_ uint32, r *symRec) error {
		if !r.isUDT() {
			return nil
		}
		name := string(r.name)
		if seen[name] || !match(name) {
			return nil
		}
		seen[name] = true
		if !yield(sym.NamedType{Name: name, ID: sym.TypeID(r.typ)}) {
			return errStop
		}
		return nil
	})
}

// Type describes a type.
func (f *File) Type(id sym.TypeID) (sym.Type, error) {
	if id > 0xffffffff {
		return sym.Type{}, fmt.Errorf("there is no type %#x", uint64(id))
	}
	ti := uint32(id)
	if ti < firstType {
		return simpleType(ti), nil
	}
	t, err := f.tpi()
	if err != nil {
		return sym.Type{}, err
	}
	if t == nil {
		return sym.Type{}, fmt.Errorf("there is no type %#x: the file has none", ti)
	}
	leaf, body, err := t.record(ti)
	if err != nil {
		return sym.Type{}, err
	}
	out := sym.Type{ID: id}
	c := cursor{b: body}
	switch leaf {
	case lfModifier:
		out.Kind, out.Elem = sym.Modifier, sym.TypeID(c.u32())
		mod := c.u16()
		out.Const, out.Volatile = mod&1 != 0, mod&2 != 0
		out.Size, err = f.sizeOf(uint32(out.Elem))
	case lfPointer:
		out.Kind, out.Elem = sym.Pointer, sym.TypeID(c.u32())
		attr := c.u32()
		out.Size = pointerSize(attr)
		mode := attr >> 5 & 7
		out.Reference = mode == 1 || mode == 4
		out.Volatile, out.Const = attr&(1<<9) != 0, attr&(1<<10) != 0
	case lfArray, lfArrayST, lfStrided:
		out.Kind, out.Elem = sym.Array, sym.TypeID(c.u32())
		c.u32() // type of an index
		if leaf == lfStrided {
			c.u32()
		}
		out.Size = c.number()
		var each uint64
		if each, err = f.sizeOf(uint32(out.Elem)); each > 0 {
			out.Count = out.Size / each
		}
	case lfVector:
		out.Kind, out.Elem, out.Count, out.Size = sym.Array, sym.TypeID(c.u32()), uint64(c.u32()), c.number()
	case lfBitField:
		out.Kind, out.Elem, out.BitLen, out.BitPos = sym.BitField, sym.TypeID(c.u32()), c.u8(), c.u8()
		out.Size, err = f.sizeOf(uint32(out.Elem))
	case lfProcedure, lfMFunction:
		out.Kind, out.Elem = sym.Func, sym.TypeID(c.u32())
		if leaf == lfMFunction {
			c.u32() // class
			c.u32() // this
		}
		c.u16() // calling convention, attributes
		c.u16() // parameters
		out.Params, out.Variadic, err = t.params(c.u32())
	case lfAlias, lfAliasST:
		out.Kind, out.Elem, out.Name = sym.Alias, sym.TypeID(c.u32()), string(c.text(leaf == lfAliasST))
		out.Size, err = f.sizeOf(uint32(out.Elem))
	case lfVTShape:
		out.Kind, out.Name, out.Count = sym.Opaque, "`vtable'", uint64(c.u16())
	case lfLabel:
		out.Kind, out.Name = sym.Opaque, "`label'"
	default:
		u, d, ok, err := t.full(ti)
		if err != nil {
			return out, err
		}
		if !ok {
			return out, fmt.Errorf("type %#x: %w: a record of kind %#x", ti, ErrUnsupported, leaf)
		}
		out.ID, out.Kind, out.Class, out.Name, out.Size = sym.TypeID(d), u.kind, u.class, string(u.name), u.size
		if u.kind == sym.Enum {
			out.Elem = sym.TypeID(u.under)
			if out.Size, err = f.sizeOf(u.under); err != nil {
				return out, err
			}
		}
		if u.forward() {
			out.Kind = sym.Opaque
		}
		return out, nil
	}
	if c.bad {
		err = malformed(t.s.what, "record %#x of kind %#x in %d bytes", ti, leaf, len(body))
	}
	return out, err
}

// params returns the types of parameters. The last of a variadic function is 0.
func (t *typeStream) params(ti uint32) ([]sym.TypeID, bool, error) {
	if ti < firstType {
		return nil, false, nil
	}
	leaf, body, err := t.record(ti)
	if err != nil {
		return nil, false, err
	}
	c := cursor{b: body}
	n := c.u32()
	if leaf != lfArgList || c.bad || uint64(n)*4 > uint64(len(c.b)) {
		return nil, false, malformed(t.s.what, "record %#x of kind %#x is no list of parameters", ti, leaf)
	}
	var list []sym.TypeID
	for range n {
		list = append(list, sym.TypeID(c.u32()))
	}
	if n > 0 && list[n-1] == 0 {
		return list[:n-1], true, nil
	}
	return list, false, nil
}

// pointerSize takes the size of a pointer from its attributes. The size they
// have is right for pointers to members; for others clang may write that of what
// is pointed to.
func pointerSize(attr uint32) uint64 {
	size := uint64(attr >> 13 & 0x3f)
	if mode := attr >> 5 & 7; mode == 2 || mode == 3 {
		return size
	}
	switch attr & 0x1f {
	case 0x0c: // 64 bits
		return 8
	case 0x0b: // 16:32
		return 6
	case 0x0a: // 32 bits
		return 4
	}
	return size
}

// sizeOf returns the size of a type in bytes.
func (f *File) sizeOf(ti uint32) (uint64, error) {
	for range deepest {
		if ti < firstType {
			return simpleType(ti).Size, nil
		}
		t, err := f.tpi()
		if t == nil || err != nil {
			return 0, err
		}
		leaf, body, err := t.record(ti)
		if err != nil {
			return 0, err
		}
		c := cursor{b: body}
		switch leaf {
		case lfModifier, lfBitField, lfAlias, lfAliasST:
			ti = c.u32()
			continue
		case lfPointer:
			c.u32()
			return pointerSize(c.u32()), nil
		case lfArray, lfArrayST:
			c.take(8)
			return c.number(), nil
		case lfStrided:
			c.take(12)
			return c.number(), nil
		case lfVector:
			c.take(8)
			return c.number(), nil
		}
		u, _, ok, err := t.full(ti)
		if err != nil || !ok {
			return 0, err
		}
		if u.kind != sym.Enum || u.forward() {
			return u.size, nil
		}
		ti = u.under
	}
	return 0, malformed("type stream", "type %#x is of a type of a type without end", ti)
}

// Members lists what a structure, union or enumeration has. Methods and nested
// types are not among it, nor the virtual bases of bases.
func (f *File) Members(id sym.TypeID) ([]sym.Member, error) {
	t, err := f.tpi()
	if err != nil {
		return nil, err
	}
	if t == nil || id < firstType || id > 0xffffffff {
		return nil, nil
	}
	u, _, ok, err := t.full(uint32(id))
	if err != nil || !ok || u.fields == 0 {
		return nil, err
	}
	var list []sym.Member
	seen := map[uint32]bool{}
	for next := u.fields; next != 0; {
		if seen[next] {
			return nil, malformed(t.s.what, "the members of %#x go in a circle", uint64(id))
		}
		seen[next] = true
		leaf, body, err := t.record(next)
		if err != nil {
			return nil, err
		}
		if leaf != lfFieldList {
			return nil, malformed(t.s.what, "record %#x of kind %#x is no list of members", next, leaf)
		}
		this := next
		c := cursor{b: body}
		list, next = appendMembers(list, &c)
		if c.bad {
			return nil, malformed(t.s.what, "the list of members %#x", this)
		}
	}
	if u.kind == sym.Enum {
		under := simpleType(u.under)
		for i := range list {
			list[i].Value = extend(list[i].Value, &under)
		}
	}
	return list, nil
}

// constant is the value of a constant with the sign that its type has.
func (f *File) constant(r *symRec) (int64, error) {
	v := int64(r.value)
	if r.value < 0x80 {
		return v, nil // it is the same whatever the type
	}
	for ti, i := sym.TypeID(r.typ), 0; i < deepest; i++ {
		t, err := f.Type(ti)
		if err != nil {
			return 0, err
		}
		switch t.Kind {
		case sym.Modifier, sym.Alias, sym.Enum, sym.BitField:
			ti = t.Elem
		case sym.Int, sym.Char, sym.WChar, sym.Bool:
			return extend(v, &t), nil
		default:
			return v, nil
		}
	}
	return v, nil
}

// extend makes a value of the bits that its type has. Compilers store negative
// ones as large ones.
func extend(v int64, t *sym.Type) int64 {
	if t.Size == 0 || t.Size >= 8 {
		return v
	}
	n := 64 - 8*t.Size
	if t.Signed {
		return v << n >> n
	}
	return int64(uint64(v) << n >> n)
}

// appendMembers reads a field list, and returns where it goes on; 0: nowhere.
func appendMembers(list []sym.Member, c *cursor) ([]sym.Member, uint32) {
	for len(c.b) > 0 && !c.bad {
		if c.b[0] >= lfPad {
			n := int(c.b[0] & 0xf)
			c.take(min(max(n, 1), len(c.b)))
			continue
		}
		m := sym.Member{}
		leaf := c.u16()
		st := leaf < lfLastST
		switch leaf {
		case lfMember, lfMemberST:
			c.u16()
			m.Kind, m.Type, m.Offset, m.Name = sym.Field, sym.TypeID(c.u32()), c.number(), string(c.text(st))
		case lfSTMember, lfSTMemberST:
			c.u16()
			m.Kind, m.Type, m.Name = sym.StaticField, sym.TypeID(c.u32()), string(c.text(st))
		case lfBClass, lfBInterface:
			c.u16()
			m.Kind, m.Type, m.Offset = sym.Base, sym.TypeID(c.u32()), c.number()
		case lfVBClass, lfIVBClass:
			c.u16()
			m.Kind, m.Type = sym.VirtualBase, sym.TypeID(c.u32())
			c.u32() // type of the pointer to the table of virtual bases
			m.Offset, m.Value = c.number(), int64(c.number())
			if leaf == lfIVBClass {
				continue // it is a base of a base
			}
		case lfEnumerate, lfEnumerateST:
			c.u16()
			m.Kind, m.Value, m.Name = sym.Enumerator, int64(c.number()), string(c.text(leaf == lfEnumerateST))
		case lfVFuncTab:
			c.u16()
			m.Kind, m.Type = sym.VTable, sym.TypeID(c.u32())
		case lfVFuncOff:
			c.u16()
			m.Kind, m.Type, m.Offset = sym.VTable, sym.TypeID(c.u32()), uint64(c.u32())
		case lfIndex:
			c.u16()
			return list, c.u32()
		case lfFriendCls:
			c.take(6)
			continue
		case lfFriendFcn, lfFriendFcnST, lfMethod, lfMethodST, lfNestType, lfNestTypeST, lfNestTypeEx, lfNestTypeExST, lfMemberModify, lfMemberModifyST:
			c.take(6)
			c.text(st)
			continue
		case lfOneMethod, lfOneMethodST:
			attr := c.u16()
			c.u32()
			if k := attr >> 2 & 7; k == 4 || k == 6 { // it begins a slot of the table
				c.u32()
			}
			c.text(st)
			continue
		default:
			c.take(-1)
			continue
		}
		list = append(list, m)
	}
	return list, 0
}

// function is what an id of a function says.
type function struct {
	name string // with its namespace or class
	typ  sym.TypeID
}

// function reads an id, as inlined calls have it.
func (f *File) function(id uint32) (function, error) {
	t, err := f.ipi()
	if t == nil || err != nil {
		return function{}, err
	}
	leaf, body, err := t.record(id)
	if err != nil {
		return function{}, err
	}
	c := cursor{b: body}
	scope, typ, name := c.u32(), c.u32(), c.text(false)
	if c.bad {
		return function{}, malformed(t.s.what, "record %#x of kind %#x in %d bytes", id, leaf, len(body))
	}
	fn := function{name: string(name), typ: sym.TypeID(typ)}
	if scope == 0 {
		return fn, nil
	}
	switch leaf {
	case lfFuncID:
		leaf, body, err := t.record(scope)
		if err != nil {
			return fn, err
		}
		if in := (cursor{b: body}); leaf == lfStringID {
			in.u32()
			if s := in.text(false); !in.bad {
				fn.name = string(s) + "::" + fn.name
			}
		}
	case lfMFuncID:
		types, err := f.tpi()
		if types == nil || err != nil {
			return fn, err
		}
		u, _, ok, err := types.full(scope)
		if err != nil {
			return fn, err
		}
		if ok {
			fn.name = string(u.name) + "::" + fn.name
		}
	default:
		return fn, malformed(t.s.what, "record %#x of kind %#x is no function", id, leaf)
	}
	return fn, nil
}
