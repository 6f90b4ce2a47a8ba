package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"openkd/image/sym"
	"openkd/symbols"
)

// Local is a parameter or a local variable of the function in a frame.
type Local struct {
	Name   string
	Param  bool
	File   sym.File // that Type belongs to
	Type   sym.TypeID
	Size   uint64 // bytes
	Module string
	// Places is where it is; several for one that is kept in pieces, none for one
	// that is nowhere at this place of the code.
	Places []Place
}

// Place is where a variable is, or a piece of one.
type Place struct {
	Offset, Size uint64 // of the piece in the variable, bytes
	// One of them: an address; a register, with its value; a constant.
	InMemory bool
	Addr     uint64
	Reg      string // the register that holds it or, with InMemory, that Disp counts from
	Disp     int64
	Value    []byte // nil: the register is not known in this frame
}

// Known says whether the whole value can be read.
func (l *Local) Known() bool {
	for i := range l.Places {
		if p := &l.Places[i]; !p.InMemory && p.Value == nil {
			return false
		}
	}
	return len(l.Places) > 0
}

// ErrNoLocals says that nothing is known of the variables of a function.
var ErrNoLocals = errors.New("no private symbols")

// Locals are the variables of the function that the current frame is in, the
// parameters first, and what is in inner blocks behind what is around them. What
// is built into the function shows its own. It loads the symbols of the module.
// The error is an ErrNoLocals where there are none.
func (e *Engine) Locals(ctx context.Context) ([]Local, error) {
	return e.locals(ctx, func(string) bool { return true })
}

// Local is the innermost variable of a name in the current frame; nil: there is
// none. A target that runs has no variables.
func (e *Engine) Local(ctx context.Context, name string) (*Local, error) {
	if !e.Halted() {
		return nil, nil
	}
	list, err := e.locals(ctx, func(n string) bool { return strings.EqualFold(n, name) })
	if err != nil {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return nil, err
		}
		return nil, nil // whatever there is, it is no local variable
	}
	var found *Local
	for i := range list {
		if l := &list[i]; found == nil || l.Name == name || found.Name != name {
			found = l
		}
	}
	return found, nil
}

// LocalsAt are the variables of the function at an address, without the values
// that only a frame has.
func (e *Engine) LocalsAt(ctx context.Context, addr uint64) ([]Local, error) {
	file, m, err := e.fileOf(ctx, addr)
	if err != nil {
		return nil, err
	}
	scopes, err := file.Scopes(uint32(e.canon(addr) - m.Base))
	if err != nil {
		return nil, err
	}
	var out []Local
	for _, v := range visible(scopes, "") {
		out = append(out, e.place(file, m.Name, m.Base, v, nil))
	}
	return out, nil
}

// fileOf is the symbol file of the module around an address.
func (e *Engine) fileOf(ctx context.Context, addr uint64) (sym.File, symbols.Status, error) {
	set := e.SymbolSet()
	if set == nil {
		return nil, symbols.Status{}, errNoSymbols
	}
	st, ok := set.At(e.canon(addr))
	if !ok {
		if _, _, err := e.ModuleAt(ctx, addr); err != nil { // the list may not be read yet
			return nil, st, err
		}
		st, ok = e.SymbolSet().At(e.canon(addr))
	}
	if !ok {
		return nil, st, fmt.Errorf("%w: %s lies in no module", ErrNoLocals, e.FormatAddr(e.canon(addr)))
	}
	file, err := set.File(ctx, st.Base, symbols.LoadOptions{})
	if err != nil {
		var none *symbols.NoSymbolsError
		if errors.As(err, &none) {
			err = fmt.Errorf("%w: %w", ErrNoLocals, err)
		}
		return nil, st, err
	}
	if !file.Private() {
		st, _ = set.Status(st.Base)
		return nil, st, fmt.Errorf("%w: %s has %s", ErrNoLocals, st.Name, st.String())
	}
	return file, st, nil
}

func (e *Engine) locals(ctx context.Context, match func(name string) bool) ([]Local, error) {
	f := &Frame{Exact: true}
	var err error
	first := e.Scope().Frame == 0
	if first {
		f.PC, err = e.PC(ctx)
	} else {
		f, err = e.CurrentFrame(ctx)
	}
	if err != nil {
		return nil, err
	}
	at := f.PC
	if !f.Exact {
		at-- // behind a call
	}
	file, m, err := e.fileOf(ctx, at)
	if err != nil {
		return nil, err
	}
	scopes, err := file.Scopes(uint32(e.canon(at) - m.Base))
	if err != nil {
		return nil, err
	}
	inline := inlineName(f.Inline, m.Name)
	if first {
		for _, s := range scopes {
			if s.Inlined && s.Name != "" {
				inline = s.Name // the innermost is frame 0
			}
		}
	}
	var vars []sym.Var
	walk := false
	for _, v := range visible(scopes, inline) {
		if !match(v.Name) {
			continue
		}
		vars = append(vars, v)
		for _, l := range v.Loc {
			walk = walk || l.Kind == sym.CFARelative || l.Kind == sym.FrameBase
		}
	}
	if len(vars) == 0 {
		if len(scopes) == 0 {
			return nil, fmt.Errorf("%w: %s has nothing about the function at %s", ErrNoLocals, m.Name, e.FormatAddr(e.canon(at)))
		}
		return nil, nil
	}
	switch {
	case first && walk:
		if f, err = e.CurrentFrame(ctx); err != nil {
			return nil, err
		}
	case first:
		r, err := e.Regs(ctx, -1)
		if err != nil {
			return nil, err
		}
		f.Regs = &r
	}
	if f.Inline != "" && walk {
		if f, err = e.around(ctx, f); err != nil {
			return nil, err
		}
	}
	out := make([]Local, 0, len(vars))
	for _, v := range vars {
		out = append(out, e.place(file, m.Name, m.Base, v, f))
	}
	return out, nil
}

// around is the frame that a function is built into.
func (e *Engine) around(ctx context.Context, f *Frame) (*Frame, error) {
	for n := f.Number + 1; n < f.Number+64; n++ {
		g, err := e.Frame(ctx, n)
		if err != nil {
			return nil, err
		}
		if g.Inline == "" {
			return g, nil
		}
	}
	return f, nil
}

// inlineName is the name of the function in the name of a frame: nt!F+0x12.
func inlineName(inline, module string) string {
	name, _ := strings.CutPrefix(inline, module+"!")
	name, _, _ = strings.Cut(name, "+0x")
	return name
}

// visible are the variables that a frame shows: those of the procedure and its
// blocks or, with the name of one, those of a function built into it.
func visible(scopes []sym.Scope, inline string) []sym.Var {
	from, to := 0, len(scopes)
	for i := range scopes {
		if s := &scopes[i]; s.Inlined {
			if inline == "" {
				to = i
				break
			}
			if s.Name == inline {
				from = i
			}
		}
	}
	for i := from + 1; i < to; i++ {
		if scopes[i].Inlined {
			to = i
		}
	}
	var params, locals []sym.Var
	for i := from; i < to; i++ {
		for _, v := range scopes[i].Vars {
			if v.Param {
				params = append(params, v)
			} else {
				locals = append(locals, v)
			}
		}
	}
	return append(params, locals...)
}

// place says where a variable of a module is; without a frame, relative to what.
func (e *Engine) place(file sym.File, module string, base uint64, v sym.Var, f *Frame) Local {
	l := Local{Name: v.Name, Param: v.Param, File: file, Type: v.Type, Module: module}
	t, err := file.Type(v.Type)
	for range maxNested {
		if err != nil || t.Elem == 0 || t.Kind != sym.Alias && t.Kind != sym.Modifier {
			break
		}
		t, err = file.Type(t.Elem)
	}
	if l.Size = t.Size; err != nil {
		l.Size = 0
	}
	if t.Kind == sym.Pointer && l.Size == 0 && e.Arch() != nil {
		l.Size = uint64(e.Arch().PointerSize)
	}
	for i := range v.Loc {
		loc := &v.Loc[i]
		p := Place{Offset: uint64(loc.PieceOffset), Size: uint64(loc.PieceSize), Reg: loc.Reg, Disp: loc.Offset}
		if p.Offset > l.Size {
			continue
		}
		if p.Size == 0 || p.Size > l.Size-p.Offset {
			p.Size = l.Size - p.Offset
		}
		switch loc.Kind {
		case sym.RegRelative, sym.AtRVA, sym.FrameBase, sym.CFARelative:
			p.InMemory = true
		}
		if f == nil || f.Regs == nil {
			if loc.Kind == sym.AtRVA {
				p.Addr = base + uint64(loc.RVA)
			}
			l.Places = append(l.Places, p)
			continue
		}
		value, mem := place1(loc, f, base, int(min(p.Size, 1<<20)))
		if p.Value, p.Addr = value, e.canon(mem); p.InMemory && mem == 0 {
			p.InMemory = false // the register is not known here
		}
		l.Places = append(l.Places, p)
	}
	return l
}
