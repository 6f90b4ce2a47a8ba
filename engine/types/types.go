package types

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"reflect"
	"strings"

	"openkd/image/sym"
	"openkd/internal/brief"
)

// Bounds: a symbol file may be wrong, and a person may ask for too much.
const (
	maxDepth   = 16      // levels of nested structures and names
	maxNested  = 8       // of bases, unnamed members, dimensions
	maxRows    = 20000   // rows of one answer
	maxValue   = 1 << 20 // bytes of a structure that is read
	maxTotal   = 8 << 20 // bytes of all structures of an answer
	maxText    = 256     // characters of a string that is shown
	firstText  = 64      // characters that are read of a string at first
	maxMembers = 65536
	maxInner   = 8192    // fields of bases and of unnamed structures in a structure
	maxCached  = 1 << 18 // members that a Printer keeps
)

// Memory reads the target.
//
// Concurrency: as the caller's own.
type Memory interface {
	// Read fills b from addr as far as it can be read and returns how much.
	Read(ctx context.Context, addr uint64, b []byte) (int, error)
}

// Printer shows types of one symbol file, and those that expressions make.
//
// Concurrency: one goroutine.
type Printer struct {
	File        sym.File
	Module      string // its name
	PointerSize int    // bytes, 4 or 8
	// Symbol names an address, for pointers to functions; nil: there are no
	// names.
	Symbol func(addr uint64) (name string, displacement uint64, ok bool)

	cache  map[memberKey][]Member
	cached int // members in it
}

type memberKey struct {
	file  sym.File
	id    sym.TypeID
	whole bool
}

// members are those of a type, which an answer asks for again and again.
func (p *Printer) members(t Type, whole bool) ([]Member, error) {
	k := memberKey{t.File, t.ID, whole}
	if t.File == nil {
		return nil, nil
	}
	if !reflect.TypeOf(t.File).Comparable() {
		return t.Members(whole)
	}
	if list, ok := p.cache[k]; ok {
		return list, nil
	}
	list, err := t.Members(whole)
	if err != nil {
		return nil, err
	}
	if p.cache == nil || p.cached > maxCached {
		p.cache, p.cached = map[memberKey][]Member{}, 0
	}
	p.cache[k] = list
	p.cached += len(list) + 1
	return list, nil
}

func (p *Printer) of(id sym.TypeID) (Type, error) { return Of(p.File, id, p.Module) }

// Row is a line of an answer: a member of a structure at a depth.
type Row struct {
	Depth  int
	Offset uint64
	Name   string
	Text   string // its type, or its value
	Kind   sym.MemberKind
	// Index is which element of an array it is; -1: it is none.
	Index int

	o *Options
}

// String is the line as dt prints it.
func (r Row) String() string {
	o := r.o
	if o == nil {
		o = &Options{}
	}
	width := 16
	if len(o.Fields) > 0 {
		width = 0
		for _, f := range o.Fields {
			width = max(width, len(f.Pattern))
		}
	}
	indent := strings.Repeat("   ", r.Depth+1)
	if o.NoIndent {
		indent = ""
	}
	if o.Compact {
		indent, width = " ", 0
	}
	switch {
	case r.Index >= 0:
		if !o.NoIndent {
			indent += " "
		}
		return fmt.Sprintf("%s[%02d] %s", indent, r.Index, r.Text)
	case r.Kind == sym.Enumerator:
		return fmt.Sprintf("%s%s = %s", indent, r.Name, r.Text)
	case r.Kind == sym.StaticField:
		return fmt.Sprintf("%s=static %s : %s", indent, r.Name, r.Text)
	case r.Kind == sym.VTable || r.Kind == sym.Base || r.Kind == sym.VirtualBase:
		width = 0
	}
	if !o.NoOffset {
		indent += fmt.Sprintf("+0x%03x ", r.Offset)
	}
	sep := " : "
	if r.Kind == sym.Base || r.Kind == sym.VirtualBase {
		sep = " "
	}
	return fmt.Sprintf("%s%-*s%s%s", indent, width, r.Name, sep, r.Text)
}

// ErrTooMuch ends an answer that is longer than anybody reads.
var ErrTooMuch = errors.New("the answer has more than 20000 lines: ask for a field, or with a smaller -r")

// UnreadableError says, at the end of an answer, where memory could not be read.
type UnreadableError struct{ Addr uint64 }

func (e *UnreadableError) Error() string { return fmt.Sprintf("Memory read error %016x", e.Addr) }

// Field is one of the fields that dt was asked for.
type Field struct {
	// Pattern is as it is typed: a name, one with wildcards, a path as
	// Header.Lock, Next->Flags or Items[2], a name with periods behind it, each
	// of which opens a level.
	Pattern string
	Prefix  bool // -y: it is the beginning of the name

	steps []step
}

type step struct {
	name   string // "": any
	prefix bool
	index  []uint64
}

// ParseField reads a field as a person types it.
func ParseField(pattern string, prefix bool) (Field, error) {
	f := Field{Pattern: pattern, Prefix: prefix}
	for rest, more := pattern, true; more; {
		var part string
		dot, arrow := strings.IndexByte(rest, '.'), strings.Index(rest, "->")
		period := false
		switch {
		case dot >= 0 && (arrow < 0 || dot < arrow):
			part, rest, period = rest[:dot], rest[dot+1:], true
		case arrow >= 0:
			part, rest = rest[:arrow], rest[arrow+2:]
		default:
			part, more = rest, false
		}
		s := step{prefix: period || prefix && !more && part != ""}
		if part != "" {
			var err error
			if s.name, s.index, err = splitIndex(part); err != nil {
				return f, err
			}
			s.name = strings.ToLower(s.name)
			s.prefix = s.prefix && len(s.index) == 0
		}
		if f.steps = append(f.steps, s); len(f.steps) > maxDepth {
			return f, fmt.Errorf("%q opens more than %d levels", brief.Text(pattern, 60), maxDepth)
		}
	}
	return f, nil
}

// Options are those of dt. The zero value shows all fields of a type.
type Options struct {
	Depth    int     // -r: levels of structures that are opened, those behind pointers too
	Blocks   bool    // -b: structures and arrays inside are opened, pointers are not
	Fields   []Field // of the first level; none: all
	Arrays   int     // -a: so many elements of arrays, a line each; -1: all of them
	Verbose  bool    // -v
	NoOffset bool    // -o
	NoIndent bool    // -i
	Compact  bool    // -c
	Addr     uint64  // of a value; with Memory
	Memory   Memory  // nil: the types are shown
	// Data is the value, if it is not in memory; with Memory.
	Data []byte
	// Match compares a name with a pattern that has wildcards; nil: only * and ?
	// in any case.
	Match func(pattern, name string) bool
}

// Rows shows the members of a structure or union, or the enumerators of an
// enumeration. A value is read in one piece for each structure. What cannot be
// read is shown as ????.
func (p *Printer) Rows(ctx context.Context, id sym.TypeID, o Options) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		t, err := p.of(id)
		if err != nil {
			yield(Row{}, err)
			return
		}
		var lost *UnreadableError
		for r, err := range p.TypeRows(ctx, t, o) {
			if errors.As(err, &lost) || !yield(r, err) {
				return
			}
		}
	}
}

// TypeRows is Rows of a type that need not be of the printer's file. If any of
// the value cannot be read, an *UnreadableError is the last that comes.
func (p *Printer) TypeRows(ctx context.Context, t Type, o Options) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		w := &walk{p: p, ctx: ctx, o: &o, yield: yield}
		err := w.members(t, 0, o.Addr, o.Data, w.all())
		switch {
		case errors.Is(err, errStopped):
		case err != nil:
			yield(Row{}, err)
		case w.lost:
			yield(Row{}, &UnreadableError{w.lostAt})
		}
	}
}

// ElementRows shows elements of an array as dt -a does: n of them, at most as
// many as there are.
func (p *Printer) ElementRows(ctx context.Context, t Type, n uint64, o Options) iter.Seq2[Row, error] {
	return func(yield func(Row, error) bool) {
		w := &walk{p: p, ctx: ctx, o: &o, yield: yield}
		data := o.Data
		if o.Memory != nil && data == nil {
			data = w.read(o.Addr, min(t.Size, maxValue))
		}
		err := w.elements(t, 0, o.Addr, data, n)
		switch {
		case errors.Is(err, errStopped):
		case err != nil:
			yield(Row{}, err)
		case w.lost:
			yield(Row{}, &UnreadableError{w.lostAt})
		}
	}
}

var errStopped = errors.New("stopped")

type walk struct {
	p      *Printer
	ctx    context.Context
	o      *Options
	yield  func(Row, error) bool
	rows   int
	total  uint64 // bytes asked for
	lost   bool   // some of it cannot be read
	lostAt uint64
}

func (w *walk) row(r Row) error {
	if w.rows++; w.rows > maxRows {
		return ErrTooMuch
	}
	if w.rows&0xFF == 0 && w.ctx.Err() != nil {
		return context.Cause(w.ctx)
	}
	r.o = w.o
	if !w.yield(r, nil) {
		return errStopped
	}
	return nil
}

// fields is what is asked for at a level: patterns, and how deep in each the
// level is.
type fields []struct {
	f  *Field
	at int
}

func (w *walk) all() fields {
	var out fields
	for i := range w.o.Fields {
		f := &w.o.Fields[i]
		if f.steps == nil {
			p, err := ParseField(f.Pattern, f.Prefix)
			if err != nil {
				continue
			}
			*f = p
		}
		out = append(out, struct {
			f  *Field
			at int
		}{f, 0})
	}
	return out
}

// wanted says whether a member is shown, what is asked for inside of it, and
// which element of an array it is.
func (w *walk) wanted(name string, list fields) (show bool, inside fields, index []uint64) {
	if list == nil {
		return true, nil, nil
	}
	for _, e := range list {
		s := &e.f.steps[e.at]
		if !s.fits(name, w.o.Match) {
			continue
		}
		show = true
		if len(s.index) > 0 {
			index = s.index
		}
		if e.at+1 < len(e.f.steps) {
			e.at++
			inside = append(inside, e)
		}
	}
	return show, inside, index
}

func (s *step) fits(name string, match func(pattern, name string) bool) bool {
	if s.name == "" {
		return true
	}
	low := strings.ToLower(name)
	switch {
	case strings.ContainsAny(s.name, "*?[#+"):
		if match == nil {
			match = glob
		}
		return match(s.name, low)
	case s.prefix:
		return strings.HasPrefix(low, s.name)
	}
	return low == s.name
}

// glob matches * and ?.
func glob(pattern, s string) bool {
	pi, si, star, mark := 0, 0, -1, 0
	for si < len(s) {
		switch {
		case pi < len(pattern) && pattern[pi] == '*':
			star, mark = pi, si
			pi++
		case pi < len(pattern) && (pattern[pi] == '?' || pattern[pi] == s[si]):
			pi++
			si++
		case star >= 0:
			mark++
			pi, si = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[pi:], "*") == ""
}

// members shows the members of a type. data is its value, if it was read with
// what is around it.
func (w *walk) members(t Type, depth int, addr uint64, data []byte, list fields) error {
	if t.Kind != sym.Enum && !t.HasMembers() || depth > maxDepth {
		return nil
	}
	members, err := w.p.members(t, w.o.Verbose)
	if err != nil {
		return err
	}
	if w.o.Memory != nil && data == nil && t.Kind != sym.Enum {
		data = w.read(addr, t.Size)
	}
	for i := range members {
		m := &members[i]
		show, inside, index := w.wanted(m.Name, list)
		if !show {
			continue
		}
		if err := w.member(m, depth, addr, data, inside, index); err != nil {
			return err
		}
	}
	return nil
}

func (w *walk) member(m *Member, depth int, addr uint64, data []byte, inside fields, index []uint64) error {
	r := Row{Depth: depth, Offset: m.Offset, Name: m.Name, Kind: m.Kind, Index: -1}
	if m.Kind == sym.Enumerator {
		r.Text = fmt.Sprintf("0n%d", m.Value)
		return w.row(r)
	}
	t, err := Of(m.Of.File, m.Type, m.Of.Module)
	if err != nil {
		r.Text = "<damaged type>"
		return w.row(r)
	}
	switch m.Kind {
	case sym.StaticField:
		r.Text = w.p.name(t, w.o.Verbose, 0)
		return w.row(r)
	case sym.Base, sym.VirtualBase:
		r.Name, r.Text = "__BaseClass", w.p.headline(t, t.Name)
		if m.Kind == sym.VirtualBase {
			r.Name = "__VirtualBase"
		}
		return w.row(r)
	case sym.VTable:
		r.Name = "__VFN_table"
	}
	at := m.Offset
	for _, i := range index {
		if t.Kind != sym.Array {
			break
		}
		if t, err = t.Element(); err != nil {
			return err
		}
		at += i * t.Size // may wrap: then it is memory that is not there
		r.Name += fmt.Sprintf("[%d]", i)
	}
	r.Offset = at
	t = wideBuffer(m, t)
	var piece []byte
	if w.o.Memory != nil {
		piece = cut(data, at, need(t))
		if at >= maxValue && t.Size <= maxValue {
			piece = w.read(addr+at, need(t)) // further in than is read with the whole
		}
		if uint64(len(piece)) < need(t) && !w.lost {
			w.lost, w.lostAt = true, addr+at+uint64(len(piece))
		}
	}
	elements := uint64(0)
	if t.Kind == sym.Array && (w.o.Arrays != 0 || w.o.Blocks) {
		if e, err := t.Element(); err == nil && (w.o.Arrays != 0 || !e.isText()) {
			elements = t.Count
			if w.o.Arrays > 0 {
				elements = min(elements, uint64(w.o.Arrays))
			}
		}
	}
	opened := false
	switch {
	case elements > 0:
		opened = true
	case w.o.Memory == nil && m.Kind == sym.VTable:
		r.Text = fmt.Sprintf("Ptr%d ", 8*w.p.PointerSize)
	case w.o.Memory == nil:
		r.Text = w.p.name(t, w.o.Verbose, 0)
	case m.Kind == sym.VTable:
		r.Text = w.p.value(w.ctx, w.o.Memory, t, piece, true)
	default:
		bare := len(inside) > 0 || w.o.Blocks && t.Kind == sym.Pointer
		r.Text = w.p.value(w.ctx, w.o.Memory, t, piece, bare)
		if w.o.Verbose && !bare {
			r.Text = w.verbose(t, r.Text)
		}
	}
	if err := w.row(r); err != nil {
		return err
	}
	if opened {
		return w.elements(t, depth, addr+at, piece, elements)
	}
	if len(inside) > 0 || depth < min(w.o.Depth, maxDepth) || w.o.Blocks && t.HasMembers() {
		return w.open(t, depth+1, addr+at, piece, inside)
	}
	return nil
}

// wideBuffer makes the text of a _UNICODE_STRING text, where a compiler has taken
// its characters for numbers.
func wideBuffer(m *Member, t Type) Type {
	if m.Name != "Buffer" || m.Of.Name != unicodeString || t.Kind != sym.Pointer {
		return t
	}
	if to, err := t.Element(); err != nil || to.Kind != sym.Int || to.Size != 2 {
		return t
	}
	w := WChar
	t.To = &w
	return t
}

// verbose puts what dt -v says of a type in front of a value.
func (w *walk) verbose(t Type, text string) string {
	switch t.Kind {
	case sym.BitField:
		return "Bitfield " + text
	case sym.Struct, sym.Union:
		name := w.p.name(t, false, 0)
		return w.p.name(t, true, 0) + strings.TrimPrefix(text, name)
	}
	return text
}

// elements shows elements of an array, a line each.
func (w *walk) elements(t Type, depth int, addr uint64, data []byte, n uint64) error {
	e, err := t.Element()
	if err != nil {
		return err
	}
	for i := range min(n, t.Count) {
		r := Row{Depth: depth, Index: int(min(i, 1<<30)), Name: ""}
		at := i * e.Size
		piece := cut(data, at, need(e))
		open := e.HasMembers() && (w.o.Blocks || depth < w.o.Depth)
		switch {
		case w.o.Memory == nil:
			r.Text = w.p.name(e, w.o.Verbose, 0)
		default:
			if uint64(len(piece)) < need(e) && at+e.Size > uint64(len(data)) && at >= maxValue {
				piece = w.read(addr+at, need(e))
			}
			if uint64(len(piece)) < need(e) && !w.lost {
				w.lost, w.lostAt = true, addr+at+uint64(len(piece))
			}
			r.Text = w.p.value(w.ctx, w.o.Memory, e, piece, w.o.Blocks && e.Kind == sym.Pointer)
		}
		if err := w.row(r); err != nil {
			return err
		}
		if open {
			if err := w.open(e, depth+1, addr+at, piece, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// open shows what is inside a member: a structure, or the one that a pointer
// leads to.
func (w *walk) open(t Type, depth int, addr uint64, data []byte, inside fields) error {
	if t.Kind == sym.Pointer && !w.o.Blocks {
		to, err := t.Element()
		if err != nil || !to.HasMembers() {
			return err
		}
		if w.o.Memory == nil {
			return w.members(to, depth, 0, nil, inside)
		}
		if uint64(len(data)) < t.Size {
			return nil
		}
		if addr = w.p.canon(number(data[:min(t.Size, 8)]), t.Size); addr == 0 {
			return nil
		}
		return w.members(to, depth, addr, nil, inside)
	}
	if !t.HasMembers() {
		return nil
	}
	if w.o.Memory != nil && data == nil {
		data = []byte{}
	}
	return w.members(t, depth, addr, data, inside)
}

// read reads a structure as far as it can be read.
func (w *walk) read(addr, size uint64) []byte {
	size = min(size, maxValue, maxTotal-min(w.total, maxTotal))
	w.total += size
	b := make([]byte, size)
	n, _ := w.o.Memory.Read(w.ctx, addr, b)
	return b[:n]
}

// Size is how many bytes a value of a type has.
func (p *Printer) Size(id sym.TypeID) (uint64, error) {
	t, err := resolve(p.File, id)
	return t.Size, err
}

// Value shows a value of a type, as it stands behind dt's colon.
func (p *Printer) Value(ctx context.Context, m Memory, id sym.TypeID, addr uint64) (string, error) {
	t, err := p.of(id)
	if err != nil {
		return "", err
	}
	b := make([]byte, min(need(t), maxValue))
	n, err := m.Read(ctx, addr, b)
	if n == 0 && err != nil && len(b) > 0 {
		return "", err
	}
	return p.value(ctx, m, t, b[:n], false), nil
}

// Text is a value as it stands behind dt's colon; data is what was read of it.
func (p *Printer) Text(ctx context.Context, m Memory, t Type, data []byte) string {
	return p.value(ctx, m, t, data, false)
}

// Summary is what dt says of a structure in one line, above its fields: the text
// of a _UNICODE_STRING, the links of a _LIST_ENTRY; "" for most.
func (p *Printer) Summary(ctx context.Context, m Memory, t Type, data []byte) string {
	if !t.HasMembers() {
		return ""
	}
	return p.summary(ctx, m, t, data)
}

// Summarised reports whether Summary has something to say of a type.
func (p *Printer) Summarised(t Type) bool { return t.HasMembers() && p.summarised(t) > 0 }

// Field finds a member by its path, as Header.Lock or Items[2].Next, and says
// what it is and how far from the start. It follows no pointers.
func (p *Printer) Field(id sym.TypeID, fieldPath string) (sym.TypeID, uint64, error) {
	t, err := p.of(id)
	if err != nil {
		return 0, 0, err
	}
	t, at, err := t.Path(fieldPath)
	return t.ID, at, err
}
