package types

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"strings"
	"unicode"
	"unicode/utf16"

	"openkd/image/sym"
)

// unread stands for what cannot be read.
const unread = "????"

// Name is a type in dt's words.
func (p *Printer) Name(id sym.TypeID) string {
	t, err := p.of(id)
	if err != nil {
		if err == errEndless {
			return "..."
		}
		return "<damaged type>"
	}
	return p.name(t, false, 0)
}

// TypeName is a type in dt's words; verbose as dt -v has them.
func (p *Printer) TypeName(t Type, verbose bool) string { return p.name(t, verbose, 0) }

func (p *Printer) name(t Type, verbose bool, depth int) string {
	if depth > maxDepth {
		return "..."
	}
	of := func() string {
		e, err := t.Element()
		if err != nil {
			return "<damaged type>"
		}
		return p.name(e, verbose, depth+1)
	}
	switch t.Kind {
	case 0, sym.Void:
		return "Void"
	case sym.Bool:
		return "Bool"
	case sym.WChar:
		return "Wchar"
	case sym.Char, sym.Int:
		switch {
		case t.Size == 1 && t.Signed:
			return "Char"
		case t.Size == 1:
			return "UChar"
		case t.Signed:
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
		if verbose {
			return fmt.Sprintf("Ptr%d to %s", t.Size*8, of())
		}
		return fmt.Sprintf("Ptr%d %s", t.Size*8, of())
	case sym.Array:
		return fmt.Sprintf("[%d] %s", t.Count, of())
	case sym.BitField:
		s := "s"
		if t.BitLen == 1 {
			s = ""
		}
		word := ""
		if verbose {
			word = "Bitfield "
		}
		return fmt.Sprintf("%sPos %d, %d Bit%s", word, t.BitPos, t.BitLen, s)
	case sym.Func:
		r, err := t.Element()
		if err != nil {
			return "    <damaged type> "
		}
		return "    " + r.C(Model) + " "
	}
	name := t.Name
	if name == "" {
		name = "<unnamed-tag>"
	}
	if verbose {
		return p.headline(t, name)
	}
	return name
}

// headline is what dt -v says of a type: "struct _X, 9 elements, 0x10 bytes".
func (p *Printer) headline(t Type, name string) string {
	n := 0
	if list, err := p.members(t, true); err == nil {
		n = len(list)
	}
	switch {
	case t.Kind == sym.Enum:
		return fmt.Sprintf("Enum %s,  %d total enums", name, n)
	case t.HasMembers():
		return fmt.Sprintf("%s %s, %d elements, 0x%x bytes", t.tag(), name, n, t.Size)
	}
	return name
}

// Headline is the line that dt -v puts above the fields of a type.
func (p *Printer) Headline(t Type) string { return p.name(t, true, 0) }

func number(b []byte) uint64 {
	var w [8]byte
	copy(w[:], b)
	return binary.LittleEndian.Uint64(w[:])
}

// Pointer is an address as dt and ?? show it; size is that of a pointer.
func Pointer(v uint64, size uint64) string {
	if size == 4 {
		return fmt.Sprintf("0x%08x", uint32(v))
	}
	return fmt.Sprintf("0x%08x`%08x", v>>32, uint32(v))
}

// hex is an unsigned number as dt shows it.
func hex(v uint64) string {
	switch {
	case v < 10:
		return fmt.Sprintf("%d", v)
	case v>>32 != 0:
		return Pointer(v, 8)
	}
	return fmt.Sprintf("0x%x", v)
}

// signed widens a number of size bytes.
func signed(v, size uint64) int64 {
	if size >= 8 || size == 0 {
		return int64(v)
	}
	shift := 64 - 8*size
	return int64(v<<shift) >> shift
}

// glyph is a character between quotes, nothing if it is none that is shown.
func glyph(v uint64) string {
	if v < 0x20 || v >= 0x7F && v < 0xA0 || v > 0xFFFF || !unicode.IsPrint(rune(v)) || v >= 0x7F && v < 0x100 {
		return "''"
	}
	return "'" + string(rune(v)) + "'"
}

// need is how many bytes a value has that is shown as one.
func need(t Type) uint64 {
	if t.Kind == sym.BitField {
		if e, err := t.Element(); err == nil {
			return e.Size
		}
		return 1
	}
	return t.Size
}

// bitsOf cuts a bit field out of what it is in.
func bitsOf(t Type, data []byte) uint64 {
	v := number(data[:min(len(data), 8)]) >> (t.BitPos & 63)
	if t.BitLen < 64 {
		v &= 1<<t.BitLen - 1
	}
	return v
}

// value is what stands behind dt's colon. bare leaves the names of types out, as
// dt does where the fields follow.
func (p *Printer) value(ctx context.Context, m Memory, t Type, data []byte, bare bool) string {
	if uint64(len(data)) < need(t) && !t.HasMembers() && t.Kind != sym.Array {
		return unread
	}
	switch t.Kind {
	case sym.Bool, sym.Char, sym.WChar, sym.Int, sym.Float:
		return scalar(t, data)
	case sym.BitField:
		v := bitsOf(t, data)
		s := fmt.Sprintf("0y%0*b", int(t.BitLen), v)
		if t.BitLen > 4 {
			if v == 0 {
				return s + " (0)"
			}
			return fmt.Sprintf("%s (0x%x)", s, v)
		}
		return s
	case sym.Enum:
		v := signed(number(data[:min(t.Size, 8)]), t.Size)
		name, ok := p.enumerator(t, uint64(v))
		if !ok {
			name = "No matching name"
		}
		if v >= 0 && v < 10 {
			return fmt.Sprintf("%d ( %s )", v, name)
		}
		return fmt.Sprintf("0n%d ( %s )", v, name)
	case sym.Pointer:
		return p.pointer(ctx, m, t, number(data[:min(t.Size, 8)]), bare)
	case sym.Array:
		return p.array(ctx, m, t, data, bare)
	case sym.Struct, sym.Union:
		s := p.summary(ctx, m, t, data)
		if !bare {
			return strings.TrimSpace(p.name(t, false, 0) + " " + s)
		}
		if s != "" {
			return " " + s
		}
		return ""
	}
	return p.name(t, false, 0)
}

// scalar is a number or character in dt's words.
func scalar(t Type, data []byte) string {
	v := number(data[:min(uint64(len(data)), t.Size, 8)])
	switch {
	case t.Kind == sym.Bool:
		return fmt.Sprintf("%d", v)
	case t.Kind == sym.Float:
		return float(t, data)
	case t.Size == 1 && t.Signed:
		return fmt.Sprintf("%d %s", int8(v), glyph(uint64(uint8(v))))
	case t.Size == 1 && v == 0:
		return "0 ''"
	case t.Size == 1, t.Kind == sym.WChar:
		return fmt.Sprintf("0x%x %s", v, glyph(v))
	case t.Signed && t.Size <= 8:
		return fmt.Sprintf("0n%d", signed(v, t.Size))
	case t.Size > 8:
		return wideNumber(data[:t.Size])
	}
	return hex(v)
}

// wideNumber is a number of more than 64 bits.
func wideNumber(b []byte) string {
	var s strings.Builder
	s.WriteString("0x")
	for i := len(b) - 1; i >= 0; i-- {
		fmt.Fprintf(&s, "%02x", b[i])
		if i%4 == 0 && i > 0 {
			s.WriteByte('`')
		}
	}
	return s.String()
}

// Float is a floating-point number of 4 or 8 bytes.
func (t Type) Float(data []byte) float64 {
	if t.Size == 4 {
		return float64(math.Float32frombits(uint32(number(data[:min(len(data), 4)]))))
	}
	return math.Float64frombits(number(data[:min(len(data), 8)]))
}

func float(t Type, data []byte) string {
	switch t.Size {
	case 4:
		return fmt.Sprintf("%g", float32(t.Float(data)))
	case 8:
		return fmt.Sprintf("%g", t.Float(data))
	}
	return wideNumber(data[:min(uint64(len(data)), t.Size)])
}

// enumerator is the name of a value of an enumeration.
func (p *Printer) enumerator(t Type, v uint64) (string, bool) {
	list, err := p.members(t, false)
	if err != nil {
		return "", false
	}
	mask := ^uint64(0)
	if t.Size < 8 {
		mask = 1<<(8*t.Size) - 1
	}
	for _, m := range list {
		if m.Kind == sym.Enumerator && uint64(m.Value)&mask == v&mask {
			return m.Name, true
		}
	}
	return "", false
}

// leads is how much of what a pointer of type t leads to is shown beside it, in
// bytes, and what that is.
func (p *Printer) leads(t Type) (Type, int) {
	to, err := t.Element()
	if err != nil || t.Size == 0 {
		return Type{}, 0
	}
	switch {
	case to.isText():
		return to, firstText * int(to.Size)
	case to.HasMembers():
		if n := p.summarised(to); n > 0 {
			return to, n
		}
	case to.Kind == sym.Int, to.Kind == sym.Bool, to.Kind == sym.Enum, to.Kind == sym.Float, to.Kind == sym.Pointer, to.Kind == sym.WChar, to.Kind == sym.Char:
		if to.Size > 0 && to.Size <= 16 {
			return to, int(to.Size)
		}
	}
	return to, 0
}

func (p *Printer) pointer(ctx context.Context, m Memory, t Type, v uint64, bare bool) string {
	if v == 0 {
		return "(null) "
	}
	s := Pointer(v, t.Size) + " "
	if bare {
		return s
	}
	to, n := p.leads(t)
	if to.Kind == sym.Func {
		return s + p.name(to, false, 1) + " " + p.place(v)
	}
	addr := p.canon(v, t.Size)
	switch {
	case m != nil && to.isText():
		text, ok := p.text(ctx, m, addr, int(to.Size), maxText)
		if !ok {
			text = lost(addr, t.Size)
		}
		return s + " \"" + text + "\""
	case m != nil && n > 0 && !to.HasMembers():
		b := make([]byte, n)
		if k, _ := m.Read(ctx, addr, b); k < n {
			return s + " -> " + unread
		}
		if to.Kind == sym.Pointer {
			if v := number(b); v != 0 {
				return s + " -> " + Pointer(v, to.Size)
			}
			return s + " -> (null)"
		}
		return s + " -> " + p.value(ctx, m, to, b, true)
	case to.Kind == sym.Pointer || to.Kind == sym.Int || to.Kind == sym.Char || to.Kind == sym.Opaque && to.Name == "`vtable'":
		return s
	}
	s += strings.TrimRight(p.name(to, false, 1), " ")
	if m != nil && n > 0 {
		b := make([]byte, min(to.Size, maxValue))
		k, _ := m.Read(ctx, addr, b)
		if text := p.summary(ctx, m, to, b[:k]); text != "" {
			s += " " + text
		}
	}
	return s
}

// place is the name of a code address as dt has it behind a pointer: "nt!F+0".
func (p *Printer) place(v uint64) string {
	if p.Symbol != nil {
		if name, off, ok := p.Symbol(v); ok {
			return fmt.Sprintf("%s+%x", name, off)
		}
	}
	return "+0"
}

// canon is an address of a pointer of size bytes in the form that addresses have.
func (p *Printer) canon(v, size uint64) uint64 {
	if size == 4 {
		return uint64(int64(int32(v)))
	}
	return v
}

// array shows text as text, and the first element otherwise.
func (p *Printer) array(ctx context.Context, m Memory, t Type, data []byte, bare bool) string {
	e, err := t.Element()
	if err != nil || t.Count == 0 {
		return p.name(t, false, 0)
	}
	head := fmt.Sprintf("[%d] ", t.Count)
	for range maxNested {
		if e.Kind != sym.Array {
			break
		}
		head += fmt.Sprintf("[%d] ", e.Count)
		if e, err = e.Element(); err != nil {
			return p.name(t, false, 0)
		}
	}
	if e.Kind == sym.Array {
		return head + "..."
	}
	if e.isText() {
		if len(data) == 0 {
			return head + unread
		}
		return head + " \"" + textOf(data, int(e.Size)) + "\""
	}
	return head + p.value(ctx, m, e, cut(data, 0, need(e)), bare)
}

// cut is the piece of a value that a member has; short, if it was not read.
func cut(data []byte, off, size uint64) []byte {
	if off > uint64(len(data)) {
		return nil
	}
	data = data[off:]
	return data[:min(size, uint64(len(data)))]
}

// text reads a string that ends with a NUL.
func (p *Printer) text(ctx context.Context, m Memory, addr uint64, size, most int) (text string, ok bool) {
	for n := firstText; ; n = most {
		b := make([]byte, min(n, most)*size)
		k, _ := m.Read(ctx, addr, b)
		if k < size {
			return "", false
		}
		if n == most || k < len(b) || ends(b, size) {
			return textOf(b[:k], size), true
		}
	}
}

// ends says whether a string has its NUL.
func ends(b []byte, size int) bool {
	for i := 0; i+size <= len(b); i += size {
		if b[i] == 0 && (size == 1 || b[i+1] == 0) {
			return true
		}
	}
	return false
}

// textOf is the characters in front of the first NUL.
func textOf(b []byte, size int) string {
	var s strings.Builder
	if size == 1 {
		for _, c := range b[:min(len(b), maxText)] {
			if c == 0 {
				break
			}
			if c >= 0x7F { // what it means only the target's code page says
				c = '?'
			}
			s.WriteRune(printable(rune(c)))
		}
		return s.String()
	}
	u := make([]uint16, 0, min(len(b)/2, maxText))
	for i := 0; i+1 < len(b) && len(u) < maxText; i += 2 {
		c := binary.LittleEndian.Uint16(b[i:])
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	for _, r := range utf16.Decode(u) {
		s.WriteRune(printable(r))
	}
	return s.String()
}

// printable stands for a character that a terminal cannot show, or should not.
func printable(r rune) rune {
	if r < 0x7F && unicode.IsPrint(r) || r >= 0xA0 && unicode.IsPrint(r) && r != unicode.ReplacementChar {
		return r
	}
	return '?'
}

// lost stands for text that cannot be read.
func lost(addr, size uint64) string {
	return "--- memory read error at address " + Pointer(addr, size) + " ---"
}

// Structures of which dt shows what they hold in one line.
const (
	listEntry     = "_LIST_ENTRY"
	unicodeString = "_UNICODE_STRING"
)

// summarised is how many bytes of a structure are needed to show it in one line; 0
// if it is not.
func (p *Printer) summarised(t Type) int {
	size := p.PointerSize
	switch t.Name {
	case listEntry:
		return 2 * size
	case unicodeString, "_STRING", "_ANSI_STRING":
		return 2 * size
	case "_LARGE_INTEGER", "_ULARGE_INTEGER":
		return 8
	case "_GUID":
		return 16
	}
	return 0
}

// summary is what a structure holds, in one line; "" for most.
func (p *Printer) summary(ctx context.Context, m Memory, t Type, data []byte) string {
	size := uint64(p.PointerSize)
	n := p.summarised(t)
	if n == 0 || len(data) < n || t.Size != uint64(n) {
		return ""
	}
	switch t.Name {
	case listEntry:
		return fmt.Sprintf("[ %s - %s ]", Pointer(number(data[:size]), size), Pointer(number(data[size:2*size]), size))
	case "_LARGE_INTEGER", "_ULARGE_INTEGER":
		v := number(data[:8])
		if v>>32 != 0 {
			return Pointer(v, 8)
		}
		return fmt.Sprintf("0x%x", v)
	case "_GUID":
		return fmt.Sprintf("{%08x-%04x-%04x-%x-%x}", uint32(number(data[:4])), uint16(number(data[4:6])), uint16(number(data[6:8])), data[8:10], data[10:16])
	}
	if s, ok := p.counted(ctx, m, t, data); ok {
		return `"` + s + `"`
	}
	return `"` + lost(number(data[size:2*size]), size) + `"`
}

// counted is the text of a STRING or UNICODE_STRING: u16 length in bytes, u16
// size of the buffer, padding, pointer.
func (p *Printer) counted(ctx context.Context, m Memory, t Type, data []byte) (string, bool) {
	size := uint64(p.PointerSize)
	n := min(int(binary.LittleEndian.Uint16(data)), 2*maxText)
	at := p.canon(number(data[size:2*size]), size)
	if n == 0 || at == 0 || m == nil {
		return "", true
	}
	b := make([]byte, n)
	k, _ := m.Read(ctx, at, b)
	if k == 0 {
		return "", false
	}
	width := 1
	if t.Name == unicodeString {
		width = 2
	}
	return textOf(b[:k], width), true
}

// Expression is a value in the words of ?? and dv, without its type: "0n5",
// "0x41 'A'", "Green (0n5)", "0x00000000`00000004"; "" for a structure.
func (p *Printer) Expression(ctx context.Context, m Memory, t Type, data []byte) string {
	if uint64(len(data)) < need(t) && !t.HasMembers() && t.Kind != sym.Array {
		return "<Memory access error>"
	}
	switch t.Kind {
	case sym.Bool:
		return fmt.Sprint(number(data[:t.Size]) != 0)
	case sym.Float:
		return float(t, data)
	case sym.Enum:
		v := number(data[:min(t.Size, 8)])
		name, ok := p.enumerator(t, v)
		if !ok {
			return fmt.Sprintf("0n%d (No matching enumerant)", signed(v, t.Size))
		}
		return fmt.Sprintf("%s (0n%d)", name, signed(v, t.Size))
	case sym.BitField:
		e, err := t.Element()
		if err != nil {
			return "<damaged type>"
		}
		v := bitsOf(t, data)
		if e.Signed && t.BitLen > 0 && t.BitLen < 64 {
			return fmt.Sprintf("0n%d", int64(v<<(64-t.BitLen))>>(64-t.BitLen))
		}
		return hex(v)
	case sym.Char, sym.WChar, sym.Int:
		v := number(data[:min(t.Size, 8)])
		switch {
		case t.Size > 8:
			return wideNumber(data[:t.Size])
		case t.Size == 1 && t.Signed:
			return fmt.Sprintf("0n%d %s", int8(v), glyph(v))
		case t.Size == 1:
			return fmt.Sprintf("0x%02x %s", v, glyph(v))
		case t.Kind == sym.WChar:
			return fmt.Sprintf("0x%x %s", v, glyph(v))
		case t.Signed:
			return fmt.Sprintf("0n%d", signed(v, t.Size))
		}
		return hex(v)
	case sym.Pointer:
		return Pointer(number(data[:min(t.Size, 8)]), t.Size)
	}
	return ""
}

// PointedText is the text that a pointer to characters leads to.
func (p *Printer) PointedText(ctx context.Context, m Memory, t Type, v uint64) (string, bool) {
	to, err := t.Element()
	if err != nil || t.Kind != sym.Pointer || v == 0 || !to.isText() {
		return "", false
	}
	text, ok := p.text(ctx, m, p.canon(v, t.Size), int(to.Size), maxText)
	if !ok {
		text = lost(v, t.Size)
	}
	return text, true
}

// ArrayText is the text in an array of characters.
func (p *Printer) ArrayText(t Type, data []byte) (string, bool) {
	e, err := t.Element()
	if err != nil || t.Kind != sym.Array || !e.isText() || len(data) == 0 {
		return "", false
	}
	return textOf(data, int(e.Size)), true
}
