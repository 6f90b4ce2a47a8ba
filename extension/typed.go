package extension

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"

	"go.starlark.net/starlark"
	"go.starlark.net/syntax"

	"openkd/engine"
	"openkd/engine/types"
	"openkd/image/sym"
	"openkd/internal/brief"
	"openkd/symbols"
	"openkd/target"
)

// Typed is a structure, a union or an array in the target's memory. It is a
// view: fields are read when they are asked for, in one piece for the whole, and
// again after the target ran or was written to.
type Typed struct {
	m      *Manager
	file   sym.File
	module string
	id     sym.TypeID // as resolved
	t      sym.Type
	addr   uint64

	epoch uint64 // of data
	stop  uint64
	data  []piece
}

// piece is memory that was read, from an offset in the value.
type piece struct {
	off uint64
	b   []byte
}

var (
	_ starlark.HasAttrs   = (*Typed)(nil)
	_ starlark.Comparable = (*Typed)(nil)
	_ starlark.Indexable  = (*array)(nil)
	_ starlark.Iterable   = (*array)(nil)
)

// maxTyped is how much of a structure is read at once; of larger ones the field
// that is asked for.
const maxTyped = 64 << 10

func (m *Manager) printer(f sym.File) *types.Printer {
	return &types.Printer{File: f, PointerSize: m.pointerSize(), Symbol: m.e.Name}
}

// resolve looks through typedefs and const.
func resolve(f sym.File, id sym.TypeID) (sym.Type, error) {
	for range 16 {
		t, err := f.Type(id)
		if err != nil || (t.Kind != sym.Modifier && t.Kind != sym.Alias) || t.Elem == 0 {
			return t, err
		}
		id = t.Elem
	}
	return sym.Type{}, errors.New("the type is a chain of names without end")
}

func isStructure(t sym.Type) bool { return t.Kind == sym.Struct || t.Kind == sym.Union }

// typed makes the view of a value; starlark arrays are another type, because
// structures have no elements.
func (m *Manager) typed(f sym.File, module string, t sym.Type, addr uint64, data []piece) any {
	v := &Typed{m: m, file: f, module: module, id: t.ID, t: t, addr: addr}
	if data != nil {
		v.data, v.epoch, v.stop = data, m.epoch, m.stopNumber()
	}
	if t.Kind == sym.Array {
		return &array{Typed: v}
	}
	return v
}

func (m *Manager) stopNumber() uint64 {
	if s := m.e.Stop(); s != nil {
		return s.Number
	}
	return 0
}

// name is the type as scripts write it.
func (v *Typed) name() string {
	return v.module + "!" + v.m.printer(v.file).Name(v.id)
}

func (v *Typed) String() string        { return v.name() + " at " + v.m.e.FormatAddr(v.addr) }
func (v *Typed) Type() string          { return "typed" }
func (v *Typed) Freeze()               {}
func (v *Typed) Truth() starlark.Bool  { return v.addr != 0 }
func (v *Typed) Hash() (uint32, error) { return uint32(v.addr) ^ uint32(v.addr>>32), nil }

// CompareSameType implements starlark.Comparable.
func (v *Typed) CompareSameType(op syntax.Token, y starlark.Value, _ int) (bool, error) {
	o, ok := asTyped(y)
	if !ok {
		return op == syntax.NEQ, nil
	}
	switch op {
	case syntax.EQL:
		return v.addr == o.addr && v.name() == o.name(), nil
	case syntax.NEQ:
		return v.addr != o.addr || v.name() != o.name(), nil
	}
	return false, errors.New("typed values have no order; compare addr(x)")
}

// Attr implements starlark.HasAttrs: a field by its name.
func (v *Typed) Attr(name string) (starlark.Value, error) {
	if !isStructure(v.t) {
		return nil, nil
	}
	x, err := v.field(name)
	if err != nil {
		return nil, err
	}
	return toStarlark(x), nil
}

// AttrNames implements starlark.HasAttrs.
func (v *Typed) AttrNames() []string {
	list, err := v.file.Members(v.id)
	if err != nil || !isStructure(v.t) {
		return nil
	}
	var l []string
	for _, m := range list {
		if m.Name != "" && m.Kind == sym.Field {
			l = append(l, m.Name)
		}
	}
	return l
}

// member finds a field by its path. What is found is remembered: a walk asks for
// the same ones again and again.
func (m *Manager) member(f sym.File, id sym.TypeID, name string) (sym.TypeID, uint64, error) {
	k := fieldKey{f, id, name}
	if i, ok := m.fields[k]; ok {
		return i.id, i.off, i.err
	}
	id, off, err := m.printer(f).Field(id, name)
	if len(m.fields) > 10000 {
		clear(m.fields)
	}
	if !errors.Is(err, symbols.ErrUnloaded) {
		m.fields[k] = fieldInfo{id, off, err}
	}
	return id, off, err
}

func (v *Typed) field(path string) (any, error) {
	id, off, err := v.m.member(v.file, v.id, path)
	if err != nil {
		return nil, err
	}
	return v.at(id, off)
}

// at decodes what lies at an offset.
func (v *Typed) at(id sym.TypeID, off uint64) (any, error) {
	t, err := resolve(v.file, id)
	if err != nil {
		return nil, err
	}
	addr := v.m.canon(v.addr + off)
	size := t.Size
	switch t.Kind {
	case sym.Struct, sym.Union:
		return v.m.typed(v.file, v.module, t, addr, v.inside(off, size)), nil
	case sym.Array:
		e, err := resolve(v.file, t.Elem)
		if err != nil {
			return nil, err
		}
		if !isText(e) {
			return v.m.typed(v.file, v.module, t, addr, v.inside(off, size)), nil
		}
		b, err := v.bytes(off, min(size, maxTyped))
		if err != nil {
			return nil, err
		}
		return fixedText(b, e.Size == 2), nil
	case sym.Func, sym.Void, sym.Opaque:
		return Addr(addr), nil
	case sym.BitField:
		under, err := resolve(v.file, t.Elem)
		if err != nil {
			return nil, err
		}
		size = under.Size
	}
	if size == 0 || size > 16 {
		return nil, fmt.Errorf("a value of %d bytes is none that a script can have", size)
	}
	b, err := v.bytes(off, size)
	if err != nil {
		return nil, err
	}
	return v.scalar(t, b)
}

func isText(e sym.Type) bool {
	return e.Kind == sym.WChar && e.Size == 2 || e.Size == 1 && (e.Kind == sym.Char || e.Kind == sym.Int)
}

// fixedText is the text in an array of characters, up to its NUL.
func fixedText(b []byte, wide bool) string {
	if wide {
		for i := 0; i+1 < len(b); i += 2 {
			if b[i] == 0 && b[i+1] == 0 {
				b = b[:i]
			}
		}
		return text16(b)
	}
	for i, c := range b {
		if c == 0 {
			return text8(b[:i])
		}
	}
	return text8(b)
}

func (v *Typed) scalar(t sym.Type, b []byte) (any, error) {
	switch t.Kind {
	case sym.Bool:
		return number(b) != 0, nil
	case sym.Float:
		switch len(b) {
		case 4:
			return float64(math.Float32frombits(uint32(number(b)))), nil
		case 8:
			return math.Float64frombits(number(b)), nil
		}
		return b, nil
	case sym.BitField:
		x := number(b) >> t.BitPos
		if t.BitLen < 64 {
			x &= 1<<t.BitLen - 1
		}
		if t.BitLen > 53 {
			return Addr(x), nil
		}
		return int(x), nil
	case sym.Pointer:
		to := v.m.canon(number(b))
		if e, err := resolve(v.file, t.Elem); err == nil && t.Elem != 0 && isStructure(e) {
			return v.m.typed(v.file, v.module, e, to, nil), nil
		}
		return Addr(to), nil
	case sym.Enum:
		if e, err := resolve(v.file, t.Elem); err == nil {
			return decoded(b, e.Signed), nil
		}
	}
	if len(b) > 8 {
		return b, nil
	}
	return decoded(b, t.Signed), nil
}

// part is a stretch that is known already.
func (v *Typed) part(off, size uint64) []piece {
	if !v.fresh() {
		return nil
	}
	for _, p := range v.data {
		if n := uint64(len(p.b)); off >= p.off && off-p.off <= n && size <= n-(off-p.off) {
			return []piece{{0, p.b[off-p.off:][:size]}}
		}
	}
	return nil
}

// inside is what is known already of a field that is a structure or an array.
func (v *Typed) inside(off, size uint64) []piece {
	if !v.fresh() {
		return nil
	}
	var out []piece
	for _, p := range v.data {
		from, to := max(p.off, off), min(p.off+uint64(len(p.b)), off+size)
		if from < to {
			out = append(out, piece{from - off, p.b[from-p.off : to-p.off]})
		}
	}
	return out
}

func (v *Typed) fresh() bool {
	return v.data != nil && v.epoch == v.m.epoch && v.stop == v.m.stopNumber()
}

// bytes reads a piece of the value; the first time all of it.
func (v *Typed) bytes(off, size uint64) ([]byte, error) {
	if v.addr == 0 {
		return nil, fmt.Errorf("the pointer to %s is null", v.name())
	}
	if p := v.part(off, size); p != nil {
		return p[0].b, nil
	}
	ctx := context.Background()
	if c := v.m.current; c != nil {
		c.b.rest()
		defer c.b.work()
		ctx = c.ctx
	}
	if !v.fresh() {
		v.data = nil
	}
	if whole := v.t.Size; v.data == nil && whole <= maxTyped && off+size <= whole {
		d, err := v.m.e.Read(ctx, engine.Virtual, v.addr, int(whole))
		if err != nil {
			return nil, err
		}
		v.data, v.epoch, v.stop = []piece{}, v.m.epoch, v.m.stopNumber()
		for _, s := range d.Spans {
			v.data = append(v.data, piece{uint64(s.Offset), d.Bytes[s.Offset : s.Offset+s.Len]})
		}
		if p := v.part(off, size); p != nil {
			return p[0].b, nil
		}
	}
	return v.m.e.ReadFull(ctx, engine.Virtual, v.m.canon(v.addr+off), int(size))
}

// json is the value for programs: its fields, and those of structures in it down
// to a depth.
func (v *Typed) json(depth int) any {
	o := object{{"type", v.name()}, {"address", toJSON(Addr(v.addr))}}
	if depth > 2 || v.addr == 0 {
		return o
	}
	var fields object
	for _, name := range v.AttrNames() {
		id, _, err := v.m.member(v.file, v.id, name)
		if err != nil {
			continue
		}
		x, err := v.field(name)
		if err != nil {
			fields = append(fields, Field{name, nil})
			continue
		}
		deeper := depth + 1
		if t, err := resolve(v.file, id); err == nil && t.Kind == sym.Pointer {
			deeper = 99 // pointers are told, not followed
		}
		switch x := x.(type) {
		case *Typed:
			fields = append(fields, Field{name, x.json(deeper)})
		case *array:
			fields = append(fields, Field{name, object{{"type", x.name()}, {"address", toJSON(Addr(x.addr))}, {"count", x.t.Count}}})
		default:
			fields = append(fields, Field{name, toJSON(x)})
		}
	}
	return append(o, Field{"fields", fields})
}

// asTyped is the typed value that v is.
func asTyped(v starlark.Value) (*Typed, bool) {
	switch v := v.(type) {
	case *Typed:
		return v, true
	case *array:
		return v.Typed, true
	}
	return nil, false
}

// array is a Typed with elements.
type array struct{ *Typed }

// Len implements starlark.Sequence.
func (a *array) Len() int { return int(min(a.t.Count, maxElements)) }

// Index implements starlark.Indexable. What cannot be read is an error of the
// script that asks, which the interface cannot tell: the element is None then.
func (a *array) Index(i int) starlark.Value {
	x, err := a.element(i)
	if err != nil {
		return starlark.None
	}
	return toStarlark(x)
}

func (a *array) element(i int) (any, error) {
	e, err := resolve(a.file, a.t.Elem)
	if err != nil {
		return nil, err
	}
	return a.at(a.t.Elem, uint64(i)*e.Size)
}

// Iterate implements starlark.Iterable.
func (a *array) Iterate() starlark.Iterator { return &arrayIterator{a: a} }

type arrayIterator struct {
	a *array
	i int
}

// Next implements starlark.Iterator.
func (it *arrayIterator) Next(p *starlark.Value) bool {
	if it.i >= it.a.Len() {
		return false
	}
	*p = it.a.Index(it.i)
	it.i++
	return true
}

// Done implements starlark.Iterator.
func (it *arrayIterator) Done() {}

// found is a type with where it comes from.
type found struct {
	file   sym.File
	module string
	id     sym.TypeID // as named
	t      sym.Type   // resolved
}

// typeOf finds the type of an argument: a name, or that of a typed value.
func (c *invocation) typeOf(v any) (found, error) {
	switch v := v.(type) {
	case *Typed:
		return found{v.file, v.module, v.id, v.t}, nil
	case string:
		return c.findType(v)
	}
	return found{}, errors.New("a type is expected")
}

func (c *invocation) findType(name string) (found, error) {
	set := c.m.e.SymbolSet()
	if set == nil {
		return found{}, errors.New("no symbols are read in this session (.sympath, -y)")
	}
	plain := strings.TrimSpace(name)
	for _, w := range []string{"struct ", "union ", "enum ", "class "} {
		plain = strings.TrimPrefix(plain, w)
	}
	ty, err := set.FindType(c.ctx, plain)
	if err != nil {
		return found{}, fmt.Errorf("type %s: %w", brief.Text(name, 80), err)
	}
	f, err := set.File(c.ctx, ty.Base, symbols.LoadOptions{})
	if err != nil {
		return found{}, fmt.Errorf("type %s: %w", brief.Text(name, 80), err)
	}
	t, err := resolve(f, ty.ID)
	return found{f, ty.Module, ty.ID, t}, err
}

func typeFuncs() []*Func {
	const g = "Types"
	ty := Param{Name: "type", Kind: TypeName, Doc: "its name, as `nt!_EPROCESS`, or a typed value"}
	return []*Func{
		{Name: "typed", Group: g, Summary: "A structure in memory, by its type. Fields are attributes: numbers are numbers, arrays of characters are text, structures are typed values, and so are pointers to structures, which are followed when a field of them is asked for (a null one is false). Other pointers are numbers. Bit fields and enumerations are numbers. Arrays have elements and a length. The structure is read in one piece.",
			Params: []Param{ty, {Name: "address", Kind: Address, Doc: "where it lies"},
				{Name: "count", Kind: Int, Optional: true, Min: 0, Max: 65536, Doc: "how many lie there one behind the other; then a list comes back, read in one exchange"}},
			Returns: "a typed value, or a list of them", Example: `typed("nt!_KPRCB", "@$prcb").Number`, run: makeTyped},
		{Name: "list_entries", Group: g, Summary: "All structures of a linked list, with their data, in one exchange however long it is.",
			Params: []Param{{Name: "head", Kind: Address, Doc: "of the list's head"}, ty, {Name: "field", Kind: Text, Doc: "the link in the structure, as `ActiveProcessLinks`"},
				{Name: "only", Kind: TextList, Optional: true, Doc: "the fields that are needed: over a slow line much less is read. Others are read when they are asked for"},
				{Name: "max", Kind: Int, Optional: true, Default: 4096, Min: 1, Max: target.MaxNodes, Doc: "structures at most"}},
			Returns: "a list of typed values", Example: `list_entries("nt!PsActiveProcessHead", "nt!_EPROCESS", "ActiveProcessLinks")`, run: listEntries},
		{Name: "container", Group: g, Summary: "The structure that a field belongs to, as CONTAINING_RECORD finds it.",
			Params:  []Param{{Name: "address", Kind: Address, Doc: "of the field, or the typed value of it"}, ty, {Name: "field", Kind: Text, Doc: "the field's path"}},
			Returns: "a typed value", Example: `container(thread.Tcb, "nt!_ETHREAD", "Tcb")`,
			run: func(c *invocation, a args) (any, error) {
				f, err := c.typeOf(a[1])
				if err != nil {
					return nil, err
				}
				_, off, err := c.m.member(f.file, f.t.ID, a.text(2))
				if err != nil {
					return nil, err
				}
				return c.m.typed(f.file, f.module, f.t, c.m.canon(a.addr(0)-off), nil), nil
			}},
		{Name: "sizeof", Group: g, NoTarget: true, Summary: "How many bytes a type has.", Params: []Param{ty}, Returns: "a number", Example: `sizeof("nt!_EPROCESS")`,
			run: func(c *invocation, a args) (any, error) {
				f, err := c.typeOf(a[0])
				return int(f.t.Size), err
			}},
		{Name: "offset", Group: g, NoTarget: true, Summary: "How far a field is from the start of its structure.", Params: []Param{ty, {Name: "field", Kind: Text, Doc: "its path, as `Pcb.Header` or `Items[2].Next`"}},
			Returns: "a number", Example: `offset("nt!_EPROCESS", "ImageFileName")`,
			run: func(c *invocation, a args) (any, error) {
				f, err := c.typeOf(a[0])
				if err != nil {
					return nil, err
				}
				_, off, err := c.m.member(f.file, f.t.ID, a.text(1))
				return int(off), err
			}},
		{Name: "fields", Group: g, NoTarget: true, Summary: "The fields of a structure.", Params: []Param{ty}, Returns: "a list of objects with name, offset, size and type", Example: `[f.name for f in fields("nt!_LIST_ENTRY")]`, run: fieldsOf},
		{Name: "enum", Group: g, NoTarget: true, Summary: "The names of an enumeration.", Params: []Param{ty}, Returns: "a dict from name to number", Example: `enum("nt!_KTHREAD_STATE")["Running"]`, run: enumOf},
		{Name: "type_name", Group: g, NoTarget: true, Summary: "The type of a typed value.", Params: []Param{{Name: "value", Kind: TypedOnly, Doc: "the value"}}, Scripts: true, Returns: "text", Example: `type_name(p)`,
			run: func(c *invocation, a args) (any, error) { return a[0].(*Typed).name(), nil }},
		{Name: "raw", Group: g, Summary: "The bytes of a typed value or of a field of it, for arrays of bytes that are no text.", Scripts: true,
			Params: []Param{{Name: "value", Kind: TypedOnly, Doc: "the value"}, {Name: "field", Kind: Text, Optional: true, Doc: "its path; all of the value if not given"}}, Returns: "bytes", Example: `raw(guid, "Data4")`, run: rawBytes},
		{Name: "dt", Group: g, Summary: "The text of the command dt for a typed value.", Scripts: true,
			Params: []Param{{Name: "value", Kind: TypedOnly, Doc: "the value"}, {Name: "depth", Kind: Int, Optional: true, Default: 0, Min: 0, Max: 8, Doc: "levels of structures that are opened"}}, Returns: "text", Example: `print(dt(typed("nt!_EPROCESS", "@$proc")))`, run: showTyped},
		{Name: "types", Group: g, NoTarget: true, Summary: "The types whose names match.", Params: []Param{{Name: "pattern", Kind: Text, Doc: "`module!name`, with `*` and `?` in the name"}, {Name: "max", Kind: Int, Optional: true, Default: 1000, Min: 1, Max: 100000, Doc: "names at most"}},
			Returns: "a list of names", Example: `types("nt!_K*")`, run: typeNames},
		{Name: "unicode_strings", Group: g, Summary: "The texts of many UNICODE_STRINGs, in at most two exchanges.", Params: []Param{{Name: "values", Kind: AnyValue, Doc: "typed values of them, or their addresses"}}, Scripts: true,
			Returns: "a list of text, with None for what cannot be read", Example: `unicode_strings([e.BaseDllName for e in entries])`, run: unicodeStrings},
	}
}

func makeTyped(c *invocation, a args) (any, error) {
	f, err := c.typeOf(a[0])
	if err != nil {
		return nil, err
	}
	addr := a.addr(1)
	if !isStructure(f.t) {
		// Numbers and pointers are read at once.
		v := &Typed{m: c.m, file: f.file, module: f.module, id: f.id, t: f.t, addr: addr}
		if !a.given(2) {
			return v.at(f.id, 0)
		}
	}
	if !a.given(2) {
		return c.m.typed(f.file, f.module, f.t, addr, nil), nil
	}
	n, size := int(a.num(2)), f.t.Size
	if size == 0 || uint64(n) > maxBytes/size {
		return nil, &ArgError{"typed", "count", fmt.Errorf("%d of %d bytes are more than %d MiB", n, size, maxBytes>>20)}
	}
	d, err := c.m.e.Read(c.ctx, engine.Virtual, addr, n*int(size))
	if err != nil {
		return nil, err
	}
	out := make([]any, n)
	for i := range out {
		off := i * int(size)
		var data []piece
		if d.ValidRange(off, int(size)) {
			data = []piece{{0, d.Bytes[off : off+int(size)]}}
		}
		v := &Typed{m: c.m, file: f.file, module: f.module, id: f.id, t: f.t, addr: c.m.canon(addr + uint64(off)), data: data, epoch: c.m.epoch, stop: c.m.stopNumber()}
		if isStructure(f.t) {
			out[i] = v
		} else if out[i], err = v.at(f.id, 0); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func listEntries(c *invocation, a args) (any, error) {
	f, err := c.typeOf(a[1])
	if err != nil {
		return nil, err
	}
	_, link, err := c.m.member(f.file, f.t.ID, a.text(2))
	if err != nil {
		return nil, err
	}
	var pieces []target.Piece
	add := func(off, size uint64) {
		for size > 0 && len(pieces) <= target.MaxPieces {
			n := min(size, target.MaxPiece)
			if k := len(pieces) - 1; k >= 0 && uint64(pieces[k].Offset+pieces[k].Len) == off && uint64(pieces[k].Len)+n <= target.MaxPiece {
				pieces[k].Len += uint32(n)
			} else {
				pieces = append(pieces, target.Piece{Via: target.ViaNode, Offset: uint32(off), Len: uint32(n)})
			}
			off, size = off+n, size-n
		}
	}
	if only, ok := a[3].([]string); ok {
		for _, path := range only {
			id, off, err := c.m.member(f.file, f.t.ID, path)
			if err != nil {
				return nil, err
			}
			t, err := resolve(f.file, id)
			if err != nil {
				return nil, err
			}
			if t.Kind == sym.BitField {
				if t, err = resolve(f.file, t.Elem); err != nil {
					return nil, err
				}
			}
			add(off, t.Size)
		}
	} else {
		add(0, f.t.Size)
	}
	if len(pieces) > target.MaxPieces {
		return nil, &ArgError{"list_entries", "only", fmt.Errorf("at most %d pieces of a structure, of %d bytes each, are read: name fewer fields", target.MaxPieces, target.MaxPiece)}
	}
	nodes, err := c.m.follow(c, a.addr(0), uint32(link), int(a.num(4)), pieces)
	if err != nil {
		return nil, err
	}
	out := make([]any, len(nodes))
	for i, n := range nodes {
		data := []piece{}
		for k, b := range n.Pieces {
			if k >= len(pieces) || uint32(len(b)) != pieces[k].Len {
				continue
			}
			if j := len(data) - 1; j >= 0 && data[j].off+uint64(len(data[j].b)) == uint64(pieces[k].Offset) {
				data[j].b = append(data[j].b[:len(data[j].b):len(data[j].b)], b...)
			} else {
				data = append(data, piece{uint64(pieces[k].Offset), b})
			}
		}
		out[i] = c.m.typed(f.file, f.module, f.t, c.m.canon(n.Addr), data)
	}
	return out, nil
}

func fieldsOf(c *invocation, a args) (any, error) {
	f, err := c.typeOf(a[0])
	if err != nil {
		return nil, err
	}
	list, err := f.file.Members(f.t.ID)
	if err != nil {
		return nil, err
	}
	p := c.m.printer(f.file)
	out := []any{}
	for _, m := range list {
		if m.Kind != sym.Field && m.Kind != sym.Base || len(out) >= maxElements {
			continue
		}
		t, err := resolve(f.file, m.Type)
		if err != nil {
			return nil, err
		}
		size := t.Size
		if t.Kind == sym.BitField {
			if e, err := resolve(f.file, t.Elem); err == nil {
				size = e.Size
			}
		}
		out = append(out, &Object{"field", []Field{{"name", m.Name}, {"offset", int(m.Offset)}, {"size", int(size)}, {"type", strings.TrimSpace(p.Name(m.Type))}}})
	}
	return out, nil
}

func enumOf(c *invocation, a args) (any, error) {
	f, err := c.typeOf(a[0])
	if err != nil {
		return nil, err
	}
	if f.t.Kind != sym.Enum {
		return nil, fmt.Errorf("%s is no enumeration", c.m.printer(f.file).Name(f.id))
	}
	list, err := f.file.Members(f.t.ID)
	if err != nil {
		return nil, err
	}
	d := Dict{}
	for _, m := range list {
		if m.Kind == sym.Enumerator {
			d = append(d, Field{m.Name, int(m.Value)})
		}
	}
	return d, nil
}

func rawBytes(c *invocation, a args) (any, error) {
	v := a[0].(*Typed)
	if !a.given(1) {
		if v.t.Size > maxBytes {
			return nil, fmt.Errorf("the value has more than %d MiB", maxBytes>>20)
		}
		return v.bytes(0, v.t.Size)
	}
	id, off, err := c.m.member(v.file, v.id, a.text(1))
	if err != nil {
		return nil, err
	}
	t, err := resolve(v.file, id)
	if err != nil {
		return nil, err
	}
	if t.Kind == sym.BitField {
		if t, err = resolve(v.file, t.Elem); err != nil {
			return nil, err
		}
	}
	if t.Size > maxBytes {
		return nil, fmt.Errorf("the field has more than %d MiB", maxBytes>>20)
	}
	return v.bytes(off, t.Size)
}

// typedMemory reads the target for package types.
type typedMemory struct{ e *engine.Engine }

// Read implements types.Memory.
func (m typedMemory) Read(ctx context.Context, addr uint64, b []byte) (int, error) {
	d, err := m.e.Read(ctx, engine.Virtual, addr, len(b))
	if err != nil {
		return 0, err
	}
	n := copy(b, d.Prefix())
	if n < len(b) {
		return n, &engine.MemoryError{Addr: addr + uint64(n), Status: d.Status}
	}
	return n, nil
}

func showTyped(c *invocation, a args) (any, error) {
	v := a[0].(*Typed)
	if v.addr == 0 {
		return nil, errors.New("the pointer is null")
	}
	var b strings.Builder
	o := types.Options{Depth: int(a.num(1)), Addr: v.addr, Memory: typedMemory{c.m.e}}
	for row, err := range c.m.printer(v.file).Rows(c.ctx, v.id, o) {
		if err != nil {
			return nil, err
		}
		b.WriteString(row.String() + "\n")
		if b.Len() > maxText {
			return nil, tooLarge(starlark.String(""))
		}
	}
	return strings.TrimSuffix(b.String(), "\n"), nil
}

func typeNames(c *invocation, a args) (any, error) {
	set := c.m.e.SymbolSet()
	if set == nil {
		return nil, errors.New("no symbols are read in this session (.sympath, -y)")
	}
	mod, pattern := symbols.Split(a.text(0))
	if mod == "" {
		mod = "nt"
	}
	st, ok := set.Named(mod)
	if !ok {
		return nil, fmt.Errorf("there is no module %s", brief.Text(mod, 80))
	}
	out := []any{}
	for t, err := range set.EachType(c.ctx, st.Base, matcher(pattern)) {
		if err != nil {
			return nil, err
		}
		if out = append(out, t.Module+"!"+t.Name); len(out) >= int(a.num(1)) {
			break
		}
	}
	return out, nil
}

func unicodeStrings(c *invocation, a args) (any, error) {
	it := starlark.Iterate(a[0].(starlark.Value))
	if it == nil {
		return nil, &ArgError{"unicode_strings", "values", errors.New("a list is expected")}
	}
	defer it.Done()
	p := c.m.pointerSize()
	var heads []engine.Range
	known := map[int][]byte{}
	for x := starlark.Value(nil); it.Next(&x); {
		v, err := c.argument(&Param{Kind: Address}, x)
		if err != nil {
			return nil, &ArgError{"unicode_strings", "values", fmt.Errorf("element %d: %w", len(heads), err)}
		}
		if t, ok := asTyped(x); ok {
			if d := t.part(0, uint64(2*p)); d != nil {
				known[len(heads)] = d[0].b
			}
		}
		n := 2 * p
		if known[len(heads)] != nil {
			n = 0
		}
		if heads = append(heads, engine.Range{Addr: v.(uint64), Len: n}); len(heads) > maxRanges {
			return nil, &ArgError{"unicode_strings", "values", errRanges}
		}
	}
	data, err := c.m.e.ReadEach(c.ctx, heads)
	if err != nil {
		return nil, err
	}
	texts := make([]engine.Range, len(heads))
	valid := make([]bool, len(heads))
	total := 0
	for i := range heads {
		b := known[i]
		if b == nil {
			if !data[i].Complete() {
				continue
			}
			b = data[i].Bytes
		}
		valid[i] = true
		texts[i] = engine.Range{Addr: c.m.canon(number(b[p : 2*p])), Len: int(le.Uint16(b))}
		if total += texts[i].Len; total > maxBytes {
			return nil, fmt.Errorf("the texts have more than %d MiB", maxBytes>>20)
		}
	}
	if data, err = c.m.e.ReadEach(c.ctx, texts); err != nil {
		return nil, err
	}
	out := make([]any, len(heads))
	for i := range out {
		if valid[i] && data[i].Complete() {
			out[i] = text16(data[i].Bytes)
		}
	}
	return out, nil
}
