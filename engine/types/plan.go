package types

import "openkd/image/sym"

// Deref is a pointer in a value, and how much will be read of what it leads to.
type Deref struct {
	Offset uint32 // of the pointer
	Len    int    // bytes
	Then   []Deref
}

// Bounds of a plan.
const (
	maxPlanned  = 512 // pointers
	planDepth   = 2   // of pointers behind pointers
	planOffset  = 1 << 16
	plannedText = 2 * firstText * 2 // bytes of a counted string
)

// Plan says what Rows with these options will read: the value itself, and what
// pointers in it lead to. It is a guess by types alone, so that all of it can be
// fetched together.
func (p *Printer) Plan(t Type, o Options) (size int, then []Deref) {
	if t.Kind == sym.Enum {
		return 0, nil
	}
	pl := &planner{p: p, o: &o, left: maxPlanned, steps: maxRows}
	w := &walk{o: &o}
	size = int(min(t.Size, maxValue))
	if t.HasMembers() {
		return size, pl.members(t, 0, 0, planDepth, w.all())
	}
	return size, pl.value(t, 0, planDepth)
}

type planner struct {
	p     *Printer
	o     *Options
	left  int // pointers
	steps int
}

func (pl *planner) members(t Type, at uint64, depth, derefs int, list fields) []Deref {
	if depth > maxDepth {
		return nil
	}
	members, err := pl.p.members(t, pl.o.Verbose)
	if err != nil {
		return nil
	}
	w := &walk{o: pl.o}
	var out []Deref
	for i := range members {
		m := &members[i]
		show, inside, index := w.wanted(m.Name, list)
		if pl.steps--; pl.left <= 0 || pl.steps < 0 {
			return out
		}
		if !show || m.Kind != sym.Field || m.Offset > planOffset {
			continue
		}
		ft, err := Of(m.Of.File, m.Type, m.Of.Module)
		if err != nil {
			continue
		}
		off := at + m.Offset
		for _, i := range index {
			if ft.Kind != sym.Array {
				break
			}
			if ft, err = ft.Element(); err != nil || i > planOffset {
				return out
			}
			off += i * ft.Size
		}
		ft = wideBuffer(m, ft)
		if off > planOffset {
			continue
		}
		opens := len(inside) > 0 || depth < pl.o.Depth
		switch {
		case ft.HasMembers() && (opens || pl.o.Blocks):
			if isString(ft.Name) {
				out = append(out, pl.value(ft, off, derefs)...)
			}
			out = append(out, pl.members(ft, off, depth+1, derefs, inside)...)
		case opens && ft.Kind == sym.Pointer && !pl.o.Blocks:
			if to, err := ft.Element(); err == nil && to.HasMembers() && derefs > 0 {
				pl.left--
				d := Deref{Offset: uint32(off), Len: int(min(to.Size, maxValue))}
				if derefs > 1 {
					d.Then = pl.members(to, 0, depth+1, derefs-1, inside)
				}
				out = append(out, d)
				continue
			}
			fallthrough
		default:
			out = append(out, pl.value(ft, off, derefs)...)
		}
	}
	return out
}

// value is what is read to show a value in one line.
func (pl *planner) value(t Type, at uint64, derefs int) []Deref {
	if derefs <= 0 || pl.left <= 0 {
		return nil
	}
	d := Deref{Offset: uint32(at)}
	switch {
	case t.Kind == sym.Array && t.Count > 0:
		if e, err := t.Element(); err == nil && e.Kind == sym.Pointer {
			return pl.value(e, at, derefs)
		}
		return nil
	case t.Kind == sym.Pointer && !pl.o.Blocks:
		to, n := pl.p.leads(t)
		if n == 0 {
			return nil
		}
		d.Len = n
		if to.HasMembers() {
			d.Then = pl.value(to, 0, derefs-1)
		}
	case t.HasMembers() && isString(t.Name):
		d.Offset += uint32(pl.p.PointerSize)
		d.Len = plannedText
	default:
		return nil
	}
	pl.left--
	return []Deref{d}
}

func isString(name string) bool {
	return name == unicodeString || name == "_STRING" || name == "_ANSI_STRING"
}
