package types

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"openkd/image/sym"
)

// maxElements is how many elements of an array dx shows.
const maxElements = 100

// Natural says how dx shows a value.
type Natural struct {
	Depth  int    // -r: levels that are opened
	Base   byte   // x, d, o, b; 0: as the type is
	Names  bool   // en: enumerators by name alone
	Char   bool   // c: a single character, no string
	Text   byte   // s: 8-bit strings, u: 16-bit ones; 0: as the type is
	Plain  bool   // without the quotes of strings
	Raw    bool   // !: structures as they are
	Count  uint64 // elements of a pointer or an array; 0: as the type is
	Memory Memory
	Addr   uint64
	Data   []byte // the value, if it is known or in no memory
}

// NaturalText is a value in dx's words; "" for what has only fields. ok is false
// where it cannot be read.
func (p *Printer) NaturalText(ctx context.Context, t Type, data []byte, o *Natural) (text string, ok bool) {
	if uint64(len(data)) < need(t) && t.Kind != sym.Array {
		return "", t.HasMembers()
	}
	switch t.Kind {
	case sym.Bool:
		return fmt.Sprint(number(data) != 0), true
	case sym.Float:
		if t.Size <= 8 {
			return fmt.Sprintf("%f", t.Float(data)), true
		}
		return float(t, data), true
	case sym.BitField:
		e, err := t.Element()
		if err != nil {
			return "<damaged type>", true
		}
		v := bitsOf(t, data)
		if e.Kind == sym.Enum {
			return p.natural(e, v, o), true
		}
		if e.Signed && o.Base == 0 && t.BitLen > 0 && t.BitLen < 64 {
			return fmt.Sprint(int64(v<<(64-t.BitLen)) >> (64 - t.BitLen)), true
		}
		return based(v, e.Size, false, o.Base), true
	case sym.Enum:
		return p.natural(t, number(data[:min(t.Size, 8)]), o), true
	case sym.Char, sym.WChar, sym.Int:
		if t.Size > 8 {
			return wideNumber(data[:t.Size]), true
		}
		v := number(data[:t.Size])
		text := based(v, t.Size, t.Signed || t.Kind == sym.WChar, o.Base)
		if g := glyph(v); t.Kind == sym.Char && t.Signed && g != "''" || t.Kind == sym.WChar || o.Char {
			text += " " + g
		}
		return text, true
	case sym.Pointer:
		return p.naturalPointer(ctx, t, number(data[:min(t.Size, 8)]), o), true
	case sym.Array:
		e, err := t.Element()
		if err != nil || t.Count == 0 || !(e.isText() || o.Text != 0 && e.Size <= 2) || o.Raw {
			return "", true
		}
		if len(data) == 0 {
			return "", false
		}
		return o.quoted(textOf(data, int(e.Size))), true
	case sym.Struct, sym.Union:
		if o.Raw || p.summarised(t) == 0 || t.Name == listEntry || t.Size > uint64(len(data)) {
			return "", true
		}
		switch t.Name {
		case "_LARGE_INTEGER":
			return "{" + based(number(data[:8]), 8, true, o.Base) + "}", true
		case "_ULARGE_INTEGER":
			return "{" + based(number(data[:8]), 8, false, o.Base) + "}", true
		}
		if isString(t.Name) {
			s, ok := p.counted(ctx, o.Memory, t, data)
			if !ok {
				return "", true
			}
			return o.quoted(s), true
		}
		return p.summary(ctx, o.Memory, t, data), true
	}
	return "", true
}

func (o *Natural) quoted(s string) string {
	if o.Plain {
		return s
	}
	return `"` + s + `"`
}

// natural is a value of an enumeration in dx's words.
func (p *Printer) natural(t Type, v uint64, o *Natural) string {
	n := based(uint64(signed(v, t.Size)), 8, true, o.Base)
	name, ok := p.enumerator(t, v)
	switch {
	case !ok:
		return n
	case o.Names:
		return name
	}
	return name + " (" + n + ")"
}

// based is a number of size bytes in a base, or as its type is shown.
func based(v, size uint64, sign bool, base byte) string {
	if size < 8 {
		v &= 1<<(8*size) - 1
	}
	switch base {
	case 'd':
		return fmt.Sprint(v)
	case 'o':
		return fmt.Sprintf("0%o", v)
	case 'b':
		return fmt.Sprintf("0y%b", v)
	case 'x':
		return fmt.Sprintf("0x%x", v)
	}
	if sign {
		return fmt.Sprint(signed(v, size))
	}
	return fmt.Sprintf("0x%x", v)
}

func (p *Printer) naturalPointer(ctx context.Context, t Type, v uint64, o *Natural) string {
	s := fmt.Sprintf("0x%x", v)
	to, err := t.Element()
	if err != nil || v == 0 {
		return s
	}
	size := uint64(0)
	switch {
	case o.Text == 's':
		size = 1
	case o.Text == 'u':
		size = 2
	case to.isText() && (to.Kind == sym.WChar || to.Kind == sym.Char && to.Signed) && !o.Raw:
		size = to.Size
	}
	switch {
	case to.Kind == sym.Func && p.Symbol != nil:
		if name, off, ok := p.Symbol(v); ok {
			s += fmt.Sprintf(" : %s+0x%x", name, off)
		}
	case size > 0 && o.Memory != nil && !o.Char:
		if text, ok := p.text(ctx, o.Memory, p.canon(v, t.Size), int(size), maxText); ok {
			s += " : " + o.quoted(text)
		}
	}
	return s
}

// NaturalHead is the line that dx begins with.
func (p *Printer) NaturalHead(ctx context.Context, expr string, t Type, o *Natural) string {
	data := o.Data
	if data == nil && o.Memory != nil {
		data = make([]byte, min(need(t), maxValue))
		n, _ := o.Memory.Read(ctx, o.Addr, data)
		data = data[:n]
	}
	text, ok := p.NaturalText(ctx, t, data, o)
	return naturalLine("", expr+strings.Repeat(" ", 16), t, text, ok, o.Addr)
}

func naturalLine(indent, name string, t Type, text string, ok bool, addr uint64) string {
	line := fmt.Sprintf("%s%-16s ", indent, name)
	switch {
	case !ok:
		return line + fmt.Sprintf(": Unable to read memory at Address 0x%x", addr)
	case text != "":
		line += ": " + text + " "
	}
	return line + "[Type: " + t.C(Model) + "]"
}

// NaturalRows shows what is inside a value as dx does.
func (p *Printer) NaturalRows(ctx context.Context, t Type, o Natural) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		n := &naturalWalk{p: p, o: &o, w: &walk{ctx: ctx, o: &Options{Memory: o.Memory}}, yield: yield}
		data := o.Data
		if data == nil && (t.Kind == sym.Pointer || t.HasMembers() || t.Kind == sym.Array) {
			data = n.w.read(o.Addr, min(need(t), maxValue))
		}
		if err := n.inside(t, 1, o.Addr, data, o.Count); err != nil && !errors.Is(err, errStopped) {
			yield("", err)
		}
	}
}

// Item is a value in memory with what stands for it in a list.
type Item struct {
	Name string
	Type Type
	Addr uint64
}

// NaturalList shows values one below the other, as dx shows what is in a
// collection.
func (p *Printer) NaturalList(ctx context.Context, items []Item, o Natural) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		n := &naturalWalk{p: p, o: &o, w: &walk{ctx: ctx, o: &Options{Memory: o.Memory}}, yield: yield}
		for _, it := range items {
			if o.Depth == 0 {
				return
			}
			data := n.w.read(it.Addr, min(need(it.Type), maxValue))
			if err := n.one("    ", it.Name, it.Type, 1, it.Addr, data); err != nil {
				if !errors.Is(err, errStopped) {
					yield("", err)
				}
				return
			}
		}
	}
}

type naturalWalk struct {
	p     *Printer
	o     *Natural
	w     *walk
	rows  int
	yield func(string, error) bool
}

func (n *naturalWalk) line(s string) error {
	if n.rows++; n.rows > maxRows {
		return ErrTooMuch
	}
	if n.rows&0xFF == 0 && n.w.ctx.Err() != nil {
		return context.Cause(n.w.ctx)
	}
	if !n.yield(s, nil) {
		return errStopped
	}
	return nil
}

func (n *naturalWalk) inside(t Type, depth int, addr uint64, data []byte, count uint64) error {
	if depth > min(n.o.Depth, maxDepth) {
		return nil
	}
	indent := strings.Repeat("    ", depth)
	switch {
	case t.Kind == sym.Pointer:
		to, err := t.Element()
		if err != nil || uint64(len(data)) < t.Size {
			return err
		}
		at := n.p.canon(number(data[:min(t.Size, 8)]), t.Size)
		switch {
		case at == 0:
			return nil
		case count > 0:
			a, err := ArrayOf(to, count)
			if err != nil {
				return err
			}
			return n.inside(a, depth, at, n.w.read(at, min(a.Size, maxValue)), 0)
		case to.HasMembers():
			return n.inside(to, depth, at, n.w.read(at, to.Size), 0)
		case to.Kind == sym.Void || to.Kind == 0 || to.Kind == sym.Func || to.isText() || to.Kind == sym.Opaque:
			return nil
		}
		return n.one(indent, "*", to, depth, at, n.w.read(at, need(to)))
	case t.Kind == sym.Array:
		e, err := t.Element()
		if err != nil {
			return err
		}
		if count == 0 || count > t.Count {
			count = t.Count
		}
		for i := range count {
			if i == maxElements && n.o.Count == 0 {
				return n.line(indent + "[...]")
			}
			piece := cut(data, i*e.Size, need(e))
			if uint64(len(piece)) < need(e) && i*e.Size >= maxValue {
				piece = n.w.read(addr+i*e.Size, need(e))
			}
			if err := n.one(indent, "["+based(i, 8, true, n.o.Base)+"]", e, depth, addr+i*e.Size, piece); err != nil {
				return err
			}
		}
		return nil
	case !t.HasMembers():
		return nil
	}
	members, err := n.p.members(t, false)
	if err != nil {
		return err
	}
	for _, m := range members {
		ft, err := Of(m.Of.File, m.Type, m.Of.Module)
		if err != nil {
			return err
		}
		place := fmt.Sprintf("[+0x%03x]", m.Offset)
		if ft.Kind == sym.BitField {
			place = fmt.Sprintf("[+0x%03x (%2d:%2d)]", m.Offset, int(ft.BitPos)+int(ft.BitLen)-1, ft.BitPos)
		}
		name := m.Name
		switch m.Kind {
		case sym.StaticField:
			if err := n.line(indent + m.Name + " [Type: static " + ft.C(Model) + "]"); err != nil {
				return err
			}
			continue
		case sym.VTable:
			name = "__VFN_table"
		case sym.VirtualBase:
			name = "__VirtualBase"
		case sym.Base:
			name = "__BaseClass"
		}
		piece := cut(data, m.Offset, need(ft))
		if m.Offset >= maxValue {
			piece = n.w.read(addr+m.Offset, need(ft))
		}
		if err := n.one(indent+place+" ", name, ft, depth, addr+m.Offset, piece); err != nil {
			return err
		}
	}
	return nil
}

// one is a line and what is inside of it.
func (n *naturalWalk) one(indent, name string, t Type, depth int, addr uint64, data []byte) error {
	text, ok := n.p.NaturalText(n.w.ctx, t, data, n.o)
	if err := n.line(naturalLine(indent, name, t, text, ok, addr)); err != nil || !ok {
		return err
	}
	return n.inside(t, depth+1, addr, data, 0)
}
