package types

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"math"
	"path"
	"strings"
	"unicode"
	"unicode/utf16"

	"openkd/image/sym"
)

// Bounds: a symbol file may be wrong, and a person may ask for too much.
const (
	maxDepth   = 16      // levels of nested structures and names
	maxRows    = 20000   // rows of one answer
	maxValue   = 1 << 20 // bytes of a structure that is read
	maxText    = 256     // characters of a string that is shown
	maxMembers = 65536
)

// Memory reads the target.
//
// Concurrency: as the caller's own.
type Memory interface {
	// Read fills b from addr as far as it can be read and returns how much.
	Read(ctx context.Context, addr uint64, b []byte) (int, error)
}

// Printer shows types of one symbol file.
type Printer struct {
	File        sym.File
	PointerSize int // bytes, 4 or 8
	// Symbol names an address, for pointers to functions; nil or "": no name.
	Symbol func(addr uint64) string
}

// Row is a line of an answer: a member of a structure at a depth.
type Row struct {
	Depth  int
	Offset uint64
	Name   string
	Text   string // its type, or its value
	Enum   bool   // it is an enumerator: no offset, Text is its value
}

// String is the line as dt prints it.
func (r Row) String() string {
	if r.Enum {
		return fmt.Sprintf("%s%s = %s", strings.Repeat("   ", r.Depth+1), r.Name, r.Text)
	}
	return fmt.Sprintf("%s+0x%03x %-16s : %s", strings.Repeat("   ", r.Depth+1), r.Offset, r.Name, r.Text)
}

// ErrTooMuch ends an answer that is longer than anybody reads.
var ErrTooMuch = errors.New("the answer has more than 20000 lines: ask for a field, or with a smaller -r")

// Name is a type in dt's words.
func (p *Printer) Name(id sym.TypeID) string { return p.name(id, 0) }

func (p *Printer) name(id sym.TypeID, depth int) string {
	if id == 0 {
		return "Void"
	}
	if depth > maxDepth {
		return "..."
	}
	t, err := p.File.Type(id)
	if err != nil {
		return "<damaged type>"
	}
	switch t.Kind {
	case sym.Void:
		return "Void"
	case sym.Bool:
		return "Bool"
	case sym.Char:
		if t.Signed {
			return "Char"
		}
		return "UChar"
	case sym.WChar:
		return "Wchar"
	case sym.Int:
		if t.Size == 1 {
			if t.Signed {
				return "Char"
			}
			return "UChar"
		}
		if t.Signed {
			return fmt.Sprintf("Int%dB", t.Size)
		}
		return fmt.Sprintf("Uint%dB", t.Size)
	case sym.Float:
		switch t.Size {
		case 4:
			return "Float"
		case 8:
			return "Double"
		}
		return fmt.Sprintf("Float%dB", t.Size)
	case sym.Pointer:
		return fmt.Sprintf("Ptr%d %s", t.Size*8, p.name(t.Elem, depth+1))
	case sym.Array:
		return fmt.Sprintf("[%d] %s", t.Count, p.name(t.Elem, depth+1))
	case sym.BitField:
		return bits(t)
	case sym.Modifier:
		return p.name(t.Elem, depth+1)
	case sym.Alias:
		// dt looks through a typedef, except where there is nothing behind it.
		if t.Elem == 0 {
			return t.Name
		}
		return p.name(t.Elem, depth+1)
	case sym.Func:
		return "    " + p.name(t.Elem, depth+1) + " "
	}
	if t.Name == "" {
		return "<unnamed-tag>"
	}
	return t.Name
}

func bits(t sym.Type) string {
	s := "s"
	if t.BitLen == 1 {
		s = ""
	}
	return fmt.Sprintf("Pos %d, %d Bit%s", t.BitPos, t.BitLen, s)
}

// resolve looks through typedefs and const.
func (p *Printer) resolve(id sym.TypeID) (sym.Type, error) {
	for range maxDepth {
		t, err := p.File.Type(id)
		if err != nil || (t.Kind != sym.Modifier && t.Kind != sym.Alias) || t.Elem == 0 {
			return t, err
		}
		id = t.Elem
	}
	return sym.Type{}, errors.New("the type is a chain of names without end")
}

func hasMembers(t sym.Type) bool { return t.Kind == sym.Struct || t.Kind == sym.Union }

// Size is how many bytes a value of a type has.
func (p *Printer) Size(id sym.TypeID) (uint64, error) {
	t, err := p.resolve(id)
	return t.Size, err
}

// Options are those of dt.
type Options struct {
	Depth  int      // -r: levels of structures that are opened
	Fields []string // names or patterns of the first level; none: all
	Prefix bool     // -y: Fields are the beginnings of names
	Addr   uint64   // of a value; with Memory
	Memory Memory   // nil: the types are shown
}

// Rows shows the members of a structure or union, or the enumerators of an
// enumeration. A value is read in one piece for each structure.
func (p *Printer) Rows(ctx context.Context, id sym.TypeID, o Options) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		w := &walk{p: p, ctx: ctx, o: o, yield: yield}
		if err := w.members(id, 0, o.Addr, nil, o.Fields); err != nil && !errors.Is(err, errStopped) {
			yield(Row{}, err)
		}
	}
}

var errStopped = errors.New("stopped")

type walk struct {
	p     *Printer
	ctx   context.Context
	o     Options
	yield func(Row, error) bool
	rows  int
}

func (w *walk) row(r Row) error {
	if w.rows++; w.rows > maxRows {
		return ErrTooMuch
	}
	if !w.yield(r, nil) {
		return errStopped
	}
	return nil
}

// members shows the members of a type. data is its value, if it was read with
// what is around it.
func (w *walk) members(id sym.TypeID, depth int, addr uint64, data []byte, fields []string) error {
	t, err := w.p.resolve(id)
	if err != nil {
		return err
	}
	if t.Kind != sym.Enum && !hasMembers(t) {
		return nil
	}
	list, err := w.p.File.Members(t.ID)
	if err != nil {
		return err
	}
	if len(list) > maxMembers {
		list = list[:maxMembers]
	}
	if w.o.Memory != nil && data == nil && t.Kind != sym.Enum {
		data = w.read(addr, t.Size)
	}
	for _, m := range list {
		if !wanted(m.Name, fields, w.o.Prefix) {
			continue
		}
		r := Row{Depth: depth, Offset: m.Offset, Name: m.Name}
		switch m.Kind {
		case sym.Enumerator:
			r.Enum, r.Text = true, fmt.Sprintf("0n%d", m.Value)
			if err := w.row(r); err != nil {
				return err
			}
			continue
		case sym.StaticField:
			r.Text = "static " + w.p.Name(m.Type)
			if err := w.row(r); err != nil {
				return err
			}
			continue
		case sym.Base, sym.VirtualBase:
			r.Name = "__BaseClass"
		case sym.VTable:
			r.Name = "__VFN_table"
		}
		at := addr + m.Offset
		var piece []byte
		if w.o.Memory == nil {
			r.Text = w.p.Name(m.Type)
		} else {
			piece = cut(data, m.Offset, w.p.sizeOf(m.Type))
			r.Text = w.p.value(w.ctx, w.o.Memory, m.Type, at, piece)
		}
		if err := w.row(r); err != nil {
			return err
		}
		if depth < min(w.o.Depth, maxDepth) {
			if err := w.open(m.Type, depth+1, at, piece); err != nil {
				return err
			}
		}
	}
	return nil
}

// open shows what is inside a member: a structure, or the one that a pointer
// leads to.
func (w *walk) open(id sym.TypeID, depth int, addr uint64, data []byte) error {
	t, err := w.p.resolve(id)
	if err != nil {
		return err
	}
	if t.Kind == sym.Pointer {
		to, err := w.p.resolve(t.Elem)
		if err != nil || !hasMembers(to) || w.o.Memory == nil && depth > 1 {
			return err
		}
		if w.o.Memory == nil {
			return w.members(t.Elem, depth, 0, nil, nil)
		}
		if uint64(len(data)) < t.Size {
			return nil
		}
		if addr = number(data[:t.Size]); addr == 0 {
			return nil
		}
		return w.members(t.Elem, depth, addr, nil, nil)
	}
	if !hasMembers(t) {
		return nil
	}
	return w.members(id, depth, addr, data, nil)
}

// read reads a structure as far as it can be read.
func (w *walk) read(addr, size uint64) []byte {
	b := make([]byte, min(size, maxValue))
	n, _ := w.o.Memory.Read(w.ctx, addr, b)
	return b[:n]
}

func (p *Printer) sizeOf(id sym.TypeID) uint64 {
	t, err := p.resolve(id)
	if err != nil {
		return 0
	}
	if t.Kind == sym.BitField {
		e, err := p.resolve(t.Elem)
		if err != nil {
			return 0
		}
		return e.Size
	}
	return t.Size
}

// cut is the piece of a value that a member has; short, if it was not read.
func cut(data []byte, off, size uint64) []byte {
	if off > uint64(len(data)) {
		return nil
	}
	data = data[off:]
	return data[:min(size, uint64(len(data)))]
}

// wanted says whether dt shows a member: by its name, a pattern, or with -y the
// beginning of its name. Case does not matter.
func wanted(name string, fields []string, prefix bool) bool {
	if len(fields) == 0 {
		return true
	}
	name = strings.ToLower(name)
	for _, f := range fields {
		f, _, _ = strings.Cut(strings.ToLower(f), ".")
		if prefix && strings.HasPrefix(name, f) {
			return true
		}
		if ok, err := path.Match(f, name); ok && err == nil {
			return true
		}
	}
	return false
}

func number(b []byte) uint64 {
	var w [8]byte
	copy(w[:], b)
	return binary.LittleEndian.Uint64(w[:])
}

// pointer is an address as dt shows it.
func pointer(v uint64, size uint64) string {
	if size == 4 {
		return fmt.Sprintf("0x%08x", uint32(v))
	}
	return fmt.Sprintf("0x%08x`%08x", v>>32, uint32(v))
}

// Value shows a value of a type, as it stands behind the colon.
func (p *Printer) Value(ctx context.Context, m Memory, id sym.TypeID, addr uint64) (string, error) {
	size, err := p.Size(id)
	if err != nil {
		return "", err
	}
	b := make([]byte, min(size, maxValue))
	n, err := m.Read(ctx, addr, b)
	if n == 0 && err != nil && size > 0 {
		return "", err
	}
	return p.value(ctx, m, id, addr, b[:n]), nil
}

const unread = "??"

func (p *Printer) value(ctx context.Context, m Memory, id sym.TypeID, addr uint64, data []byte) string {
	t, err := p.resolve(id)
	if err != nil {
		return "<damaged type>"
	}
	if size := p.sizeOf(id); uint64(len(data)) < size && !hasMembers(t) && t.Kind != sym.Array {
		return unread
	}
	switch t.Kind {
	case sym.Bool, sym.Char:
		return character(data[0])
	case sym.WChar:
		return fmt.Sprintf("0x%x", number(data))
	case sym.Int:
		return integer(t, data)
	case sym.Float:
		switch t.Size {
		case 4:
			return fmt.Sprintf("%g", math.Float32frombits(uint32(number(data))))
		case 8:
			return fmt.Sprintf("%g", math.Float64frombits(number(data)))
		}
		return p.Name(id)
	case sym.BitField:
		v := number(data) >> t.BitPos
		if t.BitLen < 64 {
			v &= 1<<t.BitLen - 1
		}
		return fmt.Sprintf("0y%0*b", int(t.BitLen), v)
	case sym.Enum:
		return p.enumerator(t, data)
	case sym.Pointer:
		return p.pointer(t, number(data))
	case sym.Array:
		return p.array(ctx, m, t, addr, data)
	case sym.Struct, sym.Union:
		return p.structure(ctx, m, t, data)
	}
	return p.Name(id)
}

func character(b byte) string {
	s := ""
	if b >= 0x20 && b < 0x7F {
		s = string(rune(b))
	}
	if b < 10 {
		return fmt.Sprintf("%d '%s'", b, s)
	}
	return fmt.Sprintf("0x%x '%s'", b, s)
}

func integer(t sym.Type, data []byte) string {
	v := number(data[:min(uint64(len(data)), t.Size)])
	if t.Size == 1 {
		return character(byte(v))
	}
	if t.Signed && t.Size < 8 {
		shift := 64 - 8*t.Size
		return fmt.Sprintf("0n%d", int64(v<<shift)>>shift)
	}
	if t.Signed {
		return fmt.Sprintf("0n%d", int64(v))
	}
	switch {
	case v < 10:
		return fmt.Sprintf("%d", v)
	case t.Size == 8 && v>>32 != 0:
		return pointer(v, 8)
	}
	return fmt.Sprintf("0x%x", v)
}

func (p *Printer) enumerator(t sym.Type, data []byte) string {
	v := number(data)
	list, err := p.File.Members(t.ID)
	name := "No matching name"
	mask := ^uint64(0)
	if n := uint64(len(data)); n < 8 {
		mask = 1<<(8*n) - 1
	}
	if err == nil {
		for _, m := range list[:min(len(list), maxMembers)] {
			if uint64(m.Value)&mask == v&mask {
				name = m.Name
				break
			}
		}
	}
	if v < 10 {
		return fmt.Sprintf("%d ( %s )", v, name)
	}
	return fmt.Sprintf("0n%d ( %s )", int64(v), name)
}

func (p *Printer) pointer(t sym.Type, v uint64) string {
	to, err := p.resolve(t.Elem)
	name := "Void"
	if err == nil && t.Elem != 0 {
		name = strings.TrimRight(p.Name(t.Elem), " ")
	}
	if v == 0 {
		return "(null) "
	}
	s := pointer(v, t.Size) + " " + name
	if to.Kind == sym.Func && p.Symbol != nil {
		if n := p.Symbol(v); n != "" {
			s += "  " + n
		}
	}
	return s
}

// array shows the first element, and text as text.
func (p *Printer) array(ctx context.Context, m Memory, t sym.Type, addr uint64, data []byte) string {
	e, err := p.resolve(t.Elem)
	if err != nil || t.Count == 0 {
		return p.Name(t.ID)
	}
	if e.Size == 1 && (e.Kind == sym.Char || e.Kind == sym.Int) {
		return fmt.Sprintf("[%d]  %q", t.Count, narrow(data))
	}
	if e.Kind == sym.WChar {
		return fmt.Sprintf("[%d]  %q", t.Count, wide(data))
	}
	return fmt.Sprintf("[%d] %s", t.Count, p.value(ctx, m, t.Elem, addr, cut(data, 0, e.Size)))
}

func narrow(b []byte) string {
	var s strings.Builder
	for _, c := range b[:min(len(b), maxText)] {
		if c == 0 {
			break
		}
		s.WriteRune(printable(rune(c)))
	}
	return s.String()
}

func wide(b []byte) string {
	u := make([]uint16, 0, min(len(b)/2, maxText))
	for i := 0; i+1 < len(b) && len(u) < maxText; i += 2 {
		c := binary.LittleEndian.Uint16(b[i:])
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	var s strings.Builder
	for _, r := range utf16.Decode(u) {
		s.WriteRune(printable(r))
	}
	return s.String()
}

func printable(r rune) rune {
	if unicode.IsPrint(r) {
		return r
	}
	return '.'
}

// structure shows what dt shows of a structure inside another one: its name,
// and of a few well-known ones what they hold.
func (p *Printer) structure(ctx context.Context, m Memory, t sym.Type, data []byte) string {
	size := uint64(p.PointerSize)
	switch t.Name {
	case "_LIST_ENTRY":
		if uint64(len(data)) >= 2*size {
			return fmt.Sprintf("%s [ %s - %s ]", t.Name, pointer(number(data[:size]), size), pointer(number(data[size:2*size]), size))
		}
	case "_UNICODE_STRING", "_STRING", "_ANSI_STRING":
		at := size // of the buffer: behind two lengths, aligned
		if uint64(len(data)) >= at+size {
			n := binary.LittleEndian.Uint16(data)
			text := make([]byte, min(int(n), 2*maxText))
			if b := number(data[at : at+size]); b != 0 && n > 0 && m != nil {
				k, _ := m.Read(ctx, b, text)
				text = text[:k]
			} else {
				text = nil
			}
			if t.Name == "_UNICODE_STRING" {
				return fmt.Sprintf("%s %q", t.Name, wide(text))
			}
			return fmt.Sprintf("%s %q", t.Name, narrow(text))
		}
	case "_LARGE_INTEGER", "_ULARGE_INTEGER":
		if len(data) >= 8 {
			return fmt.Sprintf("%s 0x%x", t.Name, number(data[:8]))
		}
	}
	return p.Name(t.ID)
}

// Field finds a member by its path, as Header.Lock or Items[2].Next, and says
// what it is and how far from the start. It follows no pointers.
func (p *Printer) Field(id sym.TypeID, fieldPath string) (sym.TypeID, uint64, error) {
	var at uint64
	for step := range strings.SplitSeq(fieldPath, ".") {
		name, index, err := splitIndex(step)
		if err != nil {
			return 0, 0, err
		}
		m, off, err := p.member(id, name, 0)
		if err != nil {
			return 0, 0, err
		}
		id, at = m.Type, at+off
		if index < 0 {
			continue
		}
		t, err := p.resolve(id)
		if err != nil {
			return 0, 0, err
		}
		if t.Kind != sym.Array {
			return 0, 0, fmt.Errorf("%s is no array", name)
		}
		e, err := p.Size(t.Elem)
		if err != nil {
			return 0, 0, err
		}
		id, at = t.Elem, at+uint64(index)*e
	}
	return id, at, nil
}

func splitIndex(step string) (name string, index int64, err error) {
	name, rest, ok := strings.Cut(step, "[")
	if !ok {
		return name, -1, nil
	}
	var n uint32
	if k, err := fmt.Sscanf(rest, "%d]", &n); k != 1 || err != nil || !strings.HasSuffix(rest, "]") {
		return "", 0, fmt.Errorf("%q: an index is a decimal number in brackets", step)
	}
	return name, int64(n), nil
}

// member finds a member by its name, in bases and members without name too.
func (p *Printer) member(id sym.TypeID, name string, depth int) (sym.Member, uint64, error) {
	t, err := p.resolve(id)
	if err != nil {
		return sym.Member{}, 0, err
	}
	if !hasMembers(t) || depth > maxDepth {
		return sym.Member{}, 0, fmt.Errorf("%s has no members", p.Name(id))
	}
	list, err := p.File.Members(t.ID)
	if err != nil {
		return sym.Member{}, 0, err
	}
	list = list[:min(len(list), maxMembers)]
	for _, exact := range []bool{true, false} {
		for _, m := range list {
			if m.Name == name || !exact && strings.EqualFold(m.Name, name) {
				return m, m.Offset, nil
			}
		}
	}
	for _, m := range list {
		if m.Kind == sym.Base || m.Name == "" {
			if in, off, err := p.member(m.Type, name, depth+1); err == nil {
				return in, m.Offset + off, nil
			}
		}
	}
	return sym.Member{}, 0, fmt.Errorf("%s has no member %s", p.Name(id), name)
}
