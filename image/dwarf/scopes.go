package dwarf

import (
	std "debug/dwarf"

	"openkd/image/sym"
)

// chain finds the procedure around an address in the unit and the blocks and
// inlined calls in it that are around the address, outermost first.
func (u *unit) chain(rva uint32, w *work) ([]entry, []span, error) {
	list, err := u.funcs()
	if err != nil {
		return nil, nil, err
	}
	var path []entry
	var spans []span
	for i := range reaching(len(list), rva, func(i int) (span, uint32) { return list[i].span, list[i].reach }) {
		path = append(path, entry{u, int(list[i].die)})
		spans = append(spans, list[i].span)
		break
	}
	for deeper := len(path) > 0; deeper; {
		deeper = false
		for c := range path[len(path)-1].children {
			if tag := c.tag(); tag != std.TagLexDwarfBlock && tag != std.TagInlinedSubroutine {
				continue
			}
			if err := w.do(1); err != nil {
				return nil, nil, err
			}
			pieces, err := u.spans(c.i, w)
			if err != nil {
				return nil, nil, err
			}
			for _, s := range pieces {
				if s.has(rva) {
					path, spans = append(path, c), append(spans, s)
					deeper = true
					break
				}
			}
			if deeper {
				break
			}
		}
	}
	return path, spans, nil
}

// scopeAt is the index of the entry of the innermost procedure or inlined call
// around an address, -1 for none.
func (u *unit) scopeAt(rva uint32, w *work) (int, error) {
	path, _, err := u.chain(rva, w)
	for i := len(path) - 1; i >= 0; i-- {
		if path[i].tag() != std.TagLexDwarfBlock {
			return path[i].i, err
		}
	}
	return -1, err
}

// Scopes returns what is around an address, outermost first.
func (f *File) Scopes(rva uint32) ([]sym.Scope, error) {
	u, fn, err := f.at(rva)
	if fn == nil {
		return nil, err
	}
	w := newWork()
	path, spans, err := u.chain(rva, w)
	if err != nil {
		return nil, err
	}
	fr := &frame{u: u, rva: rva}
	if err := fr.frameBase(path[0], w); err != nil {
		return nil, err
	}
	var list []sym.Scope
	for i, e := range path {
		s := sym.Scope{RVA: spans[i].lo, Size: spans[i].hi - spans[i].lo}
		switch e.tag() {
		case std.TagSubprogram:
			s.Type = typeID(e)
		case std.TagInlinedSubroutine:
			s.Inlined = true
			s.Call, err = f.callLine(e, s.RVA)
			if err != nil {
				return nil, err
			}
			if o, ok, err := e.refers(std.AttrAbstractOrigin); err != nil {
				return nil, err
			} else if ok {
				s.Type = typeID(o)
			}
		}
		if e.tag() != std.TagLexDwarfBlock {
			name, err := e.linkName()
			if err != nil {
				return nil, err
			}
			s.Name = display(name)
		}
		if s.Vars, err = fr.vars(e, w); err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

// callLine is where an inlined call stands.
func (f *File) callLine(e entry, rva uint32) (sym.Line, error) {
	l := sym.Line{RVA: rva}
	line, _ := e.attr(std.AttrCallLine)
	l.Line = uint32(line.u)
	file, ok := e.attr(std.AttrCallFile)
	if !ok || !e.u.hasLine {
		return l, nil
	}
	t, err := f.table(e.u)
	if err != nil {
		return l, err
	}
	l.File = t.path(file.u, e.u.dir)
	return l, nil
}

// vars are the variables that a scope declares itself. An instance of a
// procedure names them by those of the procedure, and leaves out what has no
// place in it at all.
func (fr *frame) vars(scope entry, w *work) ([]sym.Var, error) {
	var list []sym.Var
	named := map[uint32]int{} // entry to its place in list
	add := func(c entry, own bool) error {
		tag := c.tag()
		if tag != std.TagVariable && tag != std.TagFormalParameter || c.flag(std.AttrDeclaration) {
			return nil
		}
		if err := w.do(1); err != nil {
			return err
		}
		o, isCopy, err := c.refers(std.AttrAbstractOrigin)
		if err != nil {
			return err
		}
		if isCopy {
			if at, ok := named[o.off()]; ok {
				v := &list[at]
				if v.Loc, err = fr.place(c, w); err == nil {
					c.u.f.fit(v)
				}
				return err
			}
		}
		v := sym.Var{Param: tag == std.TagFormalParameter}
		if v.Name, err = c.inherited(std.AttrName); err != nil {
			return err
		}
		if v.Type, err = c.typeOf(std.AttrType); err != nil {
			return err
		}
		if own {
			if v.Loc, err = fr.place(c, w); err != nil {
				return err
			}
		} else {
			named[c.off()] = len(list)
			// A static variable has its place in the procedure itself.
			if l, ok := c.attr(std.AttrLocation); ok {
				if rva, ok := c.u.static(l); ok {
					v.Loc = []sym.Location{{Kind: sym.AtRVA, RVA: rva}}
				}
			}
			v.Loc = append(v.Loc, c.constant()...)
		}
		c.u.f.fit(&v)
		list = append(list, v)
		return nil
	}
	if o, ok, err := scope.refers(std.AttrAbstractOrigin); err != nil {
		return nil, err
	} else if ok {
		for c := range o.children {
			if err := add(c, false); err != nil {
				return nil, err
			}
		}
	}
	for c := range scope.children {
		if err := add(c, true); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// fit cuts the value of a variable that is a constant to the variable's size: a
// number is written in eight bytes.
func (f *File) fit(v *sym.Var) {
	if len(v.Loc) != 1 || v.Loc[0].Kind != sym.IsConstant || v.Loc[0].PieceSize != 0 {
		return
	}
	if t, err := f.Type(v.Type); err == nil && t.Size != 0 {
		b := v.Loc[0].Value
		v.Loc[0].Value = b[:min(t.Size, uint64(len(b)))]
	}
}

// place is where a variable is at the address of the frame.
func (fr *frame) place(v entry, w *work) ([]sym.Location, error) {
	o, ok, err := v.with(std.AttrLocation)
	if err != nil {
		return nil, err
	}
	if !ok {
		if o, ok, err = v.with(std.AttrConstValue); err != nil || !ok {
			return nil, err
		}
		return o.constant(), nil
	}
	loc, _ := o.attr(std.AttrLocation)
	at := *fr
	at.u = o.u
	expr, err := at.expression(loc, w)
	if err != nil {
		return nil, err
	}
	return at.locate(expr), nil
}

// constant is the value of a variable that the compiler has done away with.
func (e entry) constant() []sym.Location {
	v, ok := e.attr(std.AttrConstValue)
	if !ok {
		return nil
	}
	var b []byte
	switch {
	case v.constant():
		b = le.AppendUint64(nil, uint64(v.u))
	case v.block() && v.form != formExprloc:
		b = append(b, v.b...)
	case v.form == formString || v.form == formStrp: // an array of characters
		s, err := v.str(e.u)
		if err != nil {
			return nil
		}
		b = append(append(b, s...), 0)
	default:
		return nil
	}
	return []sym.Location{{Kind: sym.IsConstant, Value: b}}
}
