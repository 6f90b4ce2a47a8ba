package extension

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf16"
	"unicode/utf8"

	"openkd/engine"
	"openkd/target"
)

var le = binary.LittleEndian

// maxCount bounds how many numbers one call reads.
const maxCount = 1 << 18

var countParam = Param{Name: "count", Kind: Int, Optional: true, Min: 0, Max: maxCount, Doc: "how many; then a list comes back, read in one exchange"}

func memoryFuncs() []*Func {
	const g = "Memory"
	at := Param{Name: "address", Kind: Address, Doc: "where"}
	l := []*Func{
		{Name: "read", Group: g, Summary: "Reads virtual memory.",
			Params: []Param{at, {Name: "size", Kind: Int, Min: 0, Max: maxBytes, Doc: "bytes"},
				{Name: "partial", Kind: Bool, Optional: true, Default: false, Doc: "what can be read up to the first page that cannot, instead of an error"}},
			Returns: "bytes", Example: `read("nt", 2) == b"MZ"`,
			run: func(c *invocation, a args) (any, error) { return c.read(engine.Virtual, a) }},
		{Name: "read_many", Group: g, Summary: "Reads many pieces of virtual memory in one exchange with the target. Over a far or slow line this is the way to read what is scattered.",
			Params:  []Param{{Name: "ranges", Kind: Ranges, Doc: "pairs of address and size, at most 4096 of them and 16 MiB together"}},
			Returns: "a list of bytes, with None for what cannot be read whole", Example: `read_many([(m.base, 2) for m in modules()])`, run: readMany},
	}
	for _, n := range []struct {
		name   string
		size   int
		signed bool
		text   string
	}{
		{"u8", 1, false, "an unsigned number of 8 bits"}, {"u16", 2, false, "an unsigned number of 16 bits"}, {"u32", 4, false, "an unsigned number of 32 bits"}, {"u64", 8, false, "an unsigned number of 64 bits"},
		{"i8", 1, true, "a signed number of 8 bits"}, {"i16", 2, true, "a signed number of 16 bits"}, {"i32", 4, true, "a signed number of 32 bits"}, {"i64", 8, true, "a signed number of 64 bits"},
	} {
		l = append(l, &Func{Name: n.name, Group: g, Summary: "Reads " + n.text + ", or several.", Params: []Param{at, countParam}, Returns: "a number, or a list of them",
			Example: n.name + `("nt!NtBuildNumber")`, run: func(c *invocation, a args) (any, error) { return c.numbers(a, n.size, n.signed) }})
	}
	return append(l, []*Func{
		{Name: "ptr", Group: g, Summary: "Reads a pointer of the target, or several. On a target of 32 bits it is sign-extended, as everywhere in the debugger.",
			Params: []Param{at, countParam}, Returns: "a number, or a list of them", Example: `ptr("nt!PsLoadedModuleList")`,
			run: func(c *invocation, a args) (any, error) { return c.numbers(a, 0, false) }},
		{Name: "cstring", Group: g, Summary: "Reads text of 8-bit characters up to its NUL.",
			Params:  []Param{at, {Name: "max", Kind: Int, Optional: true, Default: 1024, Min: 1, Max: target.MaxString, Doc: "bytes at most"}},
			Returns: "text", Example: `cstring("nt!NtBuildLab")`, run: func(c *invocation, a args) (any, error) { return c.cstring(a, false) }},
		{Name: "wstring", Group: g, Summary: "Reads text of 16-bit characters up to its NUL.",
			Params:  []Param{at, {Name: "max", Kind: Int, Optional: true, Default: 1024, Min: 2, Max: target.MaxString, Doc: "bytes at most"}},
			Returns: "text", Example: `wstring(0xfffff78000000030)`, run: func(c *invocation, a args) (any, error) { return c.cstring(a, true) }},
		{Name: "unicode_string", Group: g, Summary: "Reads the text of a UNICODE_STRING.", Params: []Param{{Name: "address", Kind: Address, Doc: "of the structure, or the typed value"}},
			Returns: "text", Example: `unicode_string(entry.BaseDllName)`, run: func(c *invocation, a args) (any, error) { return c.counted(a.addr(0), true) }},
		{Name: "ansi_string", Group: g, Summary: "Reads the text of an ANSI_STRING.", Params: []Param{{Name: "address", Kind: Address, Doc: "of the structure, or the typed value"}},
			Returns: "text", Example: `ansi_string(0xfffff80012345678)`, run: func(c *invocation, a args) (any, error) { return c.counted(a.addr(0), false) }},
		{Name: "readable", Group: g, Summary: "Says whether all of a piece of virtual memory can be read.", Params: []Param{at, {Name: "size", Kind: Int, Optional: true, Default: 1, Min: 1, Max: maxBytes, Doc: "bytes"}},
			Returns: "True or False", Example: `readable(0)`,
			run: func(c *invocation, a args) (any, error) {
				d, err := c.m.e.Read(c.ctx, engine.Virtual, a.addr(0), int(a.num(1)))
				return err == nil && d.Complete(), err
			}},
		{Name: "find", Group: g, Summary: "Looks for bytes in virtual memory. The search runs next to the target, so a far line does not slow it down.",
			Params: []Param{at, {Name: "size", Kind: Int, Min: 1, Max: target.MaxSearch, Doc: "bytes to look through"}, {Name: "pattern", Kind: Bytes, Doc: "what to look for: bytes, text, or a list of numbers"},
				{Name: "step", Kind: Int, Optional: true, Default: 1, Min: 1, Max: 4096, Doc: "places are multiples of this away from the start"},
				{Name: "max", Kind: Int, Optional: true, Default: 1000, Min: 1, Max: 100000, Doc: "places at most"}},
			Returns: "a list of addresses", Example: `find("nt", module("nt").size, b"MZ", step=4096)`, run: find},
		{Name: "chase", Group: g, Summary: "Follows a linked list and reads pieces of every node, in one exchange. list_entries() does it by type.",
			Params: []Param{
				{Name: "head", Kind: Address, Doc: "of the list's head, which holds the pointer to the first link"}, {Name: "link", Kind: Int, Min: 0, Max: 1 << 30, Doc: "offset of the link in a node"},
				{Name: "size", Kind: Int, Min: 0, Max: target.MaxPiece * target.MaxPieces, Doc: "bytes to read of every node, from its start"},
				{Name: "max", Kind: Int, Optional: true, Default: 4096, Min: 1, Max: target.MaxNodes, Doc: "nodes at most"}},
			Returns: "a list of nodes with address and data, which is None where it cannot be read", Example: `chase("nt!PsLoadedModuleList", 0, 0xa0)`, run: chase},
		{Name: "number", Group: g, NoTarget: true, Scripts: true, Summary: "The little-endian number in bytes that were read.",
			Params:  []Param{{Name: "data", Kind: Bytes, Doc: "the bytes"}, {Name: "offset", Kind: Int, Optional: true, Default: 0, Min: 0, Max: maxBytes, Doc: "where in them"}, {Name: "size", Kind: Int, Optional: true, Default: 4, Min: 1, Max: 8, Doc: "bytes of the number"}, {Name: "signed", Kind: Bool, Optional: true, Default: false, Doc: "with a sign"}},
			Returns: "a number", Example: `number(read("nt", 64), 0x3c)`,
			run: func(c *invocation, a args) (any, error) {
				b, off, n := a.bytes(0), int(a.num(1)), int(a.num(2))
				if off+n > len(b) {
					return nil, &ArgError{"number", "offset", fmt.Errorf("there are %d bytes, not %d", len(b), off+n)}
				}
				v := number(b[off : off+n])
				if shift := 64 - 8*n; a.flag(3) {
					return Int64(int64(v<<shift) >> shift), nil
				}
				return Addr(v), nil
			}},
		{Name: "write", Group: g, Summary: "Writes virtual memory.", Params: []Param{at, {Name: "data", Kind: Bytes, Doc: "bytes, text, or a list of numbers up to 255"}},
			Returns: "nothing", Example: `write("nt!SimWatchedVariable", [1, 0, 0, 0])`, run: func(c *invocation, a args) (any, error) { return c.write(engine.Virtual, a.addr(0), a.bytes(1)) }},
		{Name: "write_number", Group: g, Summary: "Writes a number to virtual memory, little-endian.",
			Params:  []Param{at, {Name: "value", Kind: Int, Doc: "the number"}, {Name: "size", Kind: Int, Optional: true, Doc: "1, 2, 4 or 8 bytes; a pointer's if not given"}},
			Returns: "nothing", Example: `write_number("nt!SimWatchedVariable", 1, 4)`,
			run: func(c *invocation, a args) (any, error) {
				n := int(a.num(2))
				if !a.given(2) {
					n = c.m.pointerSize()
				}
				if n != 1 && n != 2 && n != 4 && n != 8 {
					return nil, &ArgError{"write_number", "size", fmt.Errorf("%d is not one of 1, 2, 4 and 8", n)}
				}
				b := le.AppendUint64(nil, uint64(a.num(1)))
				return c.write(engine.Virtual, a.addr(0), b[:n])
			}},
		{Name: "read_physical", Group: g, Summary: "Reads physical memory.", Params: []Param{{Name: "address", Kind: Int, Doc: "where"}, {Name: "size", Kind: Int, Min: 0, Max: maxBytes, Doc: "bytes"}},
			Returns: "bytes", Example: `read_physical(0x1000, 16)`,
			run: func(c *invocation, a args) (any, error) {
				return c.read(engine.Physical, args{uint64(a.num(0)), a[1], false})
			}},
		{Name: "write_physical", Group: g, Summary: "Writes physical memory.", Params: []Param{{Name: "address", Kind: Int, Doc: "where"}, {Name: "data", Kind: Bytes, Doc: "bytes, text, or a list of numbers up to 255"}},
			Returns: "nothing", Example: `write_physical(0x1000, b"\0")`, run: func(c *invocation, a args) (any, error) {
				return c.write(engine.Physical, uint64(a.num(0)), a.bytes(1))
			}},
		{Name: "read_msr", Group: g, Summary: "Reads a model-specific register of the current processor.", Params: []Param{{Name: "number", Kind: Int, Min: 0, Max: 1<<32 - 1, Doc: "which"}},
			Returns: "a number", Example: `name(read_msr(0xc0000082))`,
			run: func(c *invocation, a args) (any, error) {
				v, err := c.m.e.ReadMSR(c.ctx, uint32(a.num(0)))
				return Addr(v), err
			}},
	}...)
}

func (m *Manager) pointerSize() int {
	if a := m.e.Arch(); a != nil {
		return a.PointerSize
	}
	return 8
}

func (c *invocation) read(sp engine.Space, a args) (any, error) {
	d, err := c.m.e.Read(c.ctx, sp, a.addr(0), int(a.num(1)))
	if err != nil {
		return nil, err
	}
	if a.flag(2) {
		return d.Prefix(), nil
	}
	if !d.Complete() {
		return nil, &engine.MemoryError{Space: sp, Addr: a.addr(0) + uint64(len(d.Prefix())), Status: d.Status}
	}
	return d.Bytes, nil
}

func readMany(c *invocation, a args) (any, error) {
	ranges, _ := a[0].([]engine.Range)
	total := 0
	for i, r := range ranges {
		if r.Len < 0 || r.Len > maxBytes {
			return nil, &ArgError{"read_many", "ranges", fmt.Errorf("element %d: the size is not within 0 to %d", i, maxBytes)}
		}
		total += r.Len
	}
	if total > maxBytes {
		return nil, &ArgError{"read_many", "ranges", fmt.Errorf("%d bytes are more than %d MiB", total, maxBytes>>20)}
	}
	data, err := c.m.e.ReadEach(c.ctx, ranges)
	if err != nil {
		return nil, err
	}
	out := make([]any, len(data))
	for i := range data {
		if data[i].Complete() {
			out[i] = data[i].Bytes
		}
	}
	return out, nil
}

// decoded is a little-endian number as the API returns it: those of 64 bits are
// kept apart, because JSON readers round them.
func decoded(b []byte, signed bool) any {
	var w [8]byte
	n := copy(w[:], b)
	v := le.Uint64(w[:])
	switch {
	case signed && n == 8:
		return Int64(v)
	case signed:
		shift := 64 - 8*n
		return int(int64(v<<shift) >> shift)
	case n == 8:
		return Addr(v)
	}
	return int(v)
}

// numbers reads one or more numbers; size 0 is that of pointers.
func (c *invocation) numbers(a args, size int, signed bool) (any, error) {
	pointer := size == 0
	if pointer {
		size = c.m.pointerSize()
	}
	one := func(b []byte) any {
		if pointer {
			return Addr(c.m.canon(number(b)))
		}
		return decoded(b, signed)
	}
	n := 1
	if a.given(1) {
		n = int(a.num(1))
	}
	b, err := c.m.e.ReadFull(c.ctx, engine.Virtual, a.addr(0), n*size)
	if err != nil {
		return nil, err
	}
	if !a.given(1) {
		return one(b), nil
	}
	out := make([]any, n)
	for i := range out {
		out[i] = one(b[i*size : (i+1)*size])
	}
	return out, nil
}

func number(b []byte) uint64 {
	var w [8]byte
	copy(w[:], b)
	return le.Uint64(w[:])
}

func (c *invocation) cstring(a args, wide bool) (any, error) {
	n := int(a.num(1))
	if wide {
		n &^= 1
	}
	b, err := c.m.e.ReadString(c.ctx, a.addr(0), wide, n)
	if err != nil {
		return nil, err
	}
	if wide {
		return text16(b), nil
	}
	return text8(b), nil
}

// text8 is text of 8-bit characters: UTF-8 if it is, else Latin-1.
func text8(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var s strings.Builder
	for _, c := range b {
		s.WriteRune(rune(c))
	}
	return s.String()
}

func text16(b []byte) string {
	u := make([]uint16, len(b)/2)
	for i := range u {
		u[i] = le.Uint16(b[2*i:])
	}
	return string(utf16.Decode(u))
}

func (c *invocation) counted(addr uint64, wide bool) (any, error) {
	p := c.m.pointerSize()
	b, err := c.m.e.ReadFull(c.ctx, engine.Virtual, addr, 2*p)
	if err != nil {
		return nil, err
	}
	n := int(le.Uint16(b))
	if n == 0 {
		return "", nil
	}
	t, err := c.m.e.ReadFull(c.ctx, engine.Virtual, c.m.canon(number(b[p:])), n)
	if err != nil {
		return nil, fmt.Errorf("the buffer of the string at %s: %w", c.m.e.FormatAddr(addr), err)
	}
	if wide {
		return text16(t), nil
	}
	return text8(t), nil
}

func find(c *invocation, a args) (any, error) {
	pattern, step := a.bytes(2), uint64(a.num(3))
	if len(pattern) == 0 || len(pattern) > target.MaxPattern {
		return nil, &ArgError{"find", "pattern", fmt.Errorf("it has 1 to %d bytes, not %d", target.MaxPattern, len(pattern))}
	}
	addr, size := a.addr(0), uint64(a.num(1))
	if size < uint64(len(pattern)) {
		return []any{}, nil
	}
	r, err := c.m.e.Do(c.ctx, target.Request{Op: target.OpSearch, Addr: addr, Len: size, Value: step, Flags: uint32(a.num(4)), Data: pattern})
	if err != nil {
		return nil, err
	}
	out := []any{}
	for b := r[0].Data(); len(b) >= 8; b = b[8:] {
		out = append(out, Addr(le.Uint64(b)))
	}
	return out, nil
}

func chase(c *invocation, a args) (any, error) {
	var pieces []target.Piece
	size := uint32(a.num(2))
	for off := uint32(0); off < size; off += target.MaxPiece {
		pieces = append(pieces, target.Piece{Via: target.ViaNode, Offset: off, Len: min(target.MaxPiece, size-off)})
	}
	nodes, err := c.m.follow(c, a.addr(0), uint32(a.num(1)), int(a.num(3)), pieces)
	if err != nil {
		return nil, err
	}
	out := make([]any, len(nodes))
	for i, n := range nodes {
		var data any
		if b := bytes.Join(n.Pieces, nil); len(b) == int(size) {
			data = b
		}
		out[i] = &Object{"node", []Field{{"address", Addr(c.m.canon(n.Addr))}, {"data", data}}}
	}
	return out, nil
}

// follow runs a chase along a list next to the target.
func (m *Manager) follow(c *invocation, head uint64, link uint32, most int, pieces []target.Piece) ([]target.Node, error) {
	each := 0
	for _, p := range pieces {
		each += int(p.Len)
	}
	if each > 0 {
		most = min(most, target.MaxListData/each)
	}
	r, err := m.e.Do(c.ctx, target.Request{Op: target.OpFollow, List: &target.List{
		Head: head, LinkOffset: link, Pointer: uint8(m.pointerSize()), MaxNodes: uint32(most), Pieces: pieces,
	}})
	if err != nil {
		return nil, err
	}
	nodes, err := target.DecodeNodes(r[0].Data())
	if err != nil {
		return nil, fmt.Errorf("the list at %s: %w", m.e.FormatAddr(head), err)
	}
	if len(nodes) == 0 && r[0].Status.Failed() {
		return nil, &engine.MemoryError{Addr: head, Status: r[0].Status}
	}
	return nodes, nil
}

func (c *invocation) write(sp engine.Space, addr uint64, b []byte) (any, error) {
	if len(b) == 0 {
		return nil, nil
	}
	if len(b) > target.MaxWrite {
		return nil, errors.New("more than 16 MiB are not written at once")
	}
	c.m.epoch++
	_, err := c.m.e.Write(c.ctx, sp, addr, b)
	return nil, err
}
