package dwarf

import (
	"cmp"
	std "debug/dwarf"
	"iter"
	"slices"
	"strings"

	"openkd/image/pe"
	"openkd/image/sym"
)

// A symbol comes from two sources. The linker's table has the address of
// nearly everything; DWARF has kind, size and type of what C and C++ define. A
// procedure of DWARF is found by its address through its unit, a variable
// through the index. The two are one symbol where the linker's name is the
// one of DWARF, or one that GCC made of it (counter.0, name.isra.0).

// details are what DWARF says about the symbol that is entry e.
func (f *File) details(e entry, s *sym.Symbol) error {
	o, external, err := e.with(std.AttrExternal)
	if err != nil {
		return err
	}
	s.Static = !external || !o.flag(std.AttrExternal)
	if e.tag() == std.TagSubprogram {
		s.Kind, s.Type = sym.Function, typeID(e)
		return nil
	}
	s.Kind = sym.Data
	if s.Type, err = e.typeOf(std.AttrType); err != nil || s.Type == 0 {
		return err
	}
	t, err := f.Type(s.Type)
	s.Size = uint32(min(t.Size, 1<<32-1))
	return err
}

// bare is symbol i of the linker without what DWARF knows.
func (f *File) bare(t *coffTable, i int) sym.Symbol {
	p := &t.list[i]
	s := sym.Symbol{Kind: sym.Public, RVA: p.rva, Static: p.class == coffStatic || p.class == coffLabel, Code: p.code}
	plain := f.plain(p.linkage)
	s.Name = display(plain)
	if s.Name != p.linkage {
		s.Linkage = p.linkage
	}
	switch {
	case p.class == coffLabel:
		s.Kind = sym.Label
	case p.fn:
		s.Kind = sym.Function
		s.Size = t.size(f, p.rva)
	}
	return s
}

// full is symbol i of the linker with what DWARF knows. Damage in DWARF is no
// reason not to know the symbol.
func (f *File) full(t *coffTable, i int) sym.Symbol {
	var vars []place
	if p := &t.list[i]; !p.code && p.class != coffLabel && f.Private() {
		vars = at(f.names().vars, p.rva)
	}
	return f.fullOf(t, i, vars)
}

// fullOf is full with what the index has at the symbol's address: for code
// procedures, whose names need not be looked for then, else all variables.
func (f *File) fullOf(t *coffTable, i int, places []place) sym.Symbol {
	s := f.bare(t, i)
	p := &t.list[i]
	if !f.Private() || p.class == coffLabel {
		return s
	}
	if p.code {
		u, fn, err := f.at(p.rva)
		if err == nil && fn == nil {
			u, fn, err = f.at(p.rva + f.hook())
		}
		if err != nil || fn == nil || !fn.entry || fn.lo < p.rva {
			if t.partial && p.fn {
				whole, _ := f.publics()
				s.Size = whole.size(f, p.rva)
			}
			return s
		}
		if s.Kind == sym.Function && fn.lo == p.rva {
			s.Size = fn.hi - fn.lo // under another name
		} else if t.partial && p.fn {
			whole, _ := f.publics()
			s.Size = whole.size(f, p.rva)
		}
		e := entry{u, int(fn.die)}
		name := ""
		if k := slices.IndexFunc(places, func(q place) bool { return q.off == e.off() }); k >= 0 {
			name = places[k].name
		} else {
			name, err = e.linkName()
		}
		if err == nil && name == "" {
			name = f.plain(p.linkage) // as in own
		}
		if err == nil && same(name, f.plain(p.linkage)) {
			f.merge(&s, e, name, fn.hi-p.rva)
		}
		return s
	}
	for k := len(places) - 1; k >= 0; k-- {
		v := &places[k]
		if !same(v.name, f.plain(p.linkage)) {
			continue
		}
		if e, err := f.entry(v.off); err == nil && f.merge(&s, e, v.name, 0) {
			break
		}
	}
	return s
}

// merge adds to a symbol of the linker what DWARF says of it.
func (f *File) merge(s *sym.Symbol, e entry, name string, size uint32) bool {
	m := *s
	if m.Linkage == "" {
		m.Linkage = m.Name
	}
	if plain := f.plain(m.Linkage); mangled(plain) {
		name = stem(plain)
	}
	if m.Name = display(name); m.Linkage == m.Name {
		m.Linkage = ""
	}
	m.Size = size
	if f.details(e, &m) != nil {
		return false
	}
	*s = m
	return true
}

// own is a symbol that DWARF knows, with the linker's name if it has one.
func (f *File) own(e entry, rva, size uint32) (sym.Symbol, error) {
	name, err := e.linkName()
	if err != nil {
		return sym.Symbol{}, err
	}
	t := &coffTable{}
	if s := f.im.SectionOf(rva); e.tag() == std.TagSubprogram && s != nil {
		t, _ = f.publicsAt(rva)
	} else {
		t, _ = f.publics()
	}
	if name == "" {
		// GCC's optimisation at link time loses names.
		for i := t.above(rva) - 1; i >= 0 && t.list[i].rva == rva && name == ""; i-- {
			name = f.plain(t.list[i].linkage)
		}
	}
	s := sym.Symbol{Name: name, RVA: rva, Code: e.tag() == std.TagSubprogram}
	for i := t.above(rva) - 1; i >= 0 && t.list[i].rva == rva; i-- {
		if same(name, f.plain(t.list[i].linkage)) {
			s.Linkage = t.list[i].linkage
		}
	}
	if i := t.above(rva) - 1; i >= 0 && s.Code && t.list[i].rva == rva-f.hook() && same(name, f.plain(t.list[i].linkage)) {
		s.Linkage, s.RVA = t.list[i].linkage, rva-f.hook()
		size += f.hook()
	}
	if !f.merge(&s, e, name, size) {
		return s, f.details(e, &s)
	}
	return s, nil
}

// ByName returns the symbols of a name: as DWARF has it, as the linker has it,
// or in C with only part of what x86 compilers put around it.
func (f *File) ByName(name string) ([]sym.Symbol, error) {
	t, damage := f.publicsNamed(name)
	effort := f.effort()
	var list []sym.Symbol
	add := func(s sym.Symbol) {
		for i := range list {
			if list[i].RVA == s.RVA && list[i].Name == s.Name && s.Kind != sym.Constant {
				if list[i].Type == 0 {
					list[i] = s
				}
				return
			}
		}
		list = append(list, s)
	}
	h1, h2 := t.hash(stem(name)), t.hash(stem(f.plain(name)))
	for i := range t.list {
		p := &t.list[i]
		if p.hash != h1 && p.hash != h2 {
			continue
		}
		exact := f.spelled(p.linkage, name) || f.plain(p.linkage) == name
		if !exact && stem(name) != name {
			continue
		}
		if s := f.full(t, i); exact || s.Name == name {
			add(s)
		}
		if err := effort(); err != nil {
			return list, err
		}
	}
	part := component(name)
	for _, i := range t.mangled {
		p := &t.list[i]
		if !strings.Contains(p.linkage, part) || !strings.HasPrefix(name, display(stem(f.plain(p.linkage)))) {
			continue
		}
		if s := f.full(t, int(i)); s.Name == name {
			add(s)
		}
	}
	for _, i := range t.dotted {
		if strings.HasSuffix(t.list[i].linkage, name) {
			if s := f.full(t, int(i)); s.Name == name {
				add(s)
			}
		}
	}
	// The linker's table has it all, unless those were taken out that no other
	// file needs.
	if f.Private() && (len(list) == 0 || !t.statics) {
		ix := f.names()
		if damage == nil {
			damage = ix.err
		}
		is := func(s string) bool {
			return s == name || mangled(s) && (s == f.plain(name) || strings.Contains(s, part) && display(s) == name)
		}
		for _, places := range [][]place{ix.funcs, ix.vars} {
			for k := range places {
				if !is(places[k].name) {
					continue
				}
				s, err := f.placed(&places[k])
				switch {
				case err != nil:
					damage = cmp.Or(damage, err)
				case s.Name == name || f.spelled(s.Linkage, name):
					add(s)
				}
				if err := effort(); err != nil {
					return list, err
				}
			}
		}
		for k := range ix.consts {
			if is(ix.consts[k].name) {
				add(f.constant(&ix.consts[k]))
			}
		}
	}
	if len(list) > 0 {
		damage = nil
	}
	// What everybody sees first.
	slices.SortStableFunc(list, func(a, b sym.Symbol) int {
		if a.Static != b.Static {
			if a.Static {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.RVA, b.RVA)
	})
	return list, damage
}

// spelled says whether a name is a way to write a linker's name.
func (f *File) spelled(linkage, name string) bool {
	if linkage == name {
		return true
	}
	if f.im.Machine != machineX86 {
		return false
	}
	rest, ok := strings.CutPrefix(linkage, name)
	return ok && rest[0] == '@' || linkage == "_"+name || linkage == "@"+name
}

// placed is the symbol of a place.
func (f *File) placed(p *place) (sym.Symbol, error) {
	e, err := f.entry(p.off)
	if err != nil {
		return sym.Symbol{}, err
	}
	size := uint32(0)
	if e.tag() == std.TagSubprogram {
		list, err := e.u.pieces(e.i, newWork())
		if err != nil {
			return sym.Symbol{}, err
		}
		for _, fn := range list {
			if fn.lo == p.rva {
				size = fn.hi - fn.lo
			}
		}
	}
	return f.own(e, p.rva, size)
}

func (f *File) constant(c *constant) sym.Symbol {
	s := sym.Symbol{Name: display(c.name), Kind: sym.Constant, Value: c.value, Static: true}
	if s.Name != c.name {
		s.Linkage = c.name
	}
	if e, err := f.entry(c.off); err == nil {
		s.Type, _ = e.typeOf(std.AttrType)
	}
	return s
}

// ByRVA returns the symbol that covers an address, or the nearest below it.
func (f *File) ByRVA(rva uint32) (sym.Symbol, bool, error) {
	sec := f.im.SectionOf(rva)
	if sec == nil {
		return sym.Symbol{}, false, nil
	}
	var damage error
	code := sec.Characteristics&(pe.SectionExecute|pe.SectionCode) != 0
	if f.Private() && code {
		u, fn, err := f.at(rva)
		if fn != nil {
			var s sym.Symbol
			if s, err = f.own(entry{u, int(fn.die)}, fn.lo, fn.hi-fn.lo); err == nil {
				if fn.entry {
					return s, true, nil
				}
				t, _ := f.publics()
				if i := t.above(fn.lo) - 1; i >= 0 && t.list[i].rva == fn.lo {
					// The compiler has split it, and named the rest.
					s.Name, s.Linkage = display(f.plain(t.list[i].linkage)), t.list[i].linkage
				}
				return s, true, nil
			}
		}
		damage = err
	}
	t, err := f.publics()
	damage = cmp.Or(err, damage)
	best, some := f.nearest(t, rva)
	if some && best.RVA < sec.VirtualAddress {
		best, some = sym.Symbol{}, false
	}
	if f.Private() && (!code || !t.statics) {
		ix := f.names()
		if damage == nil {
			damage = ix.err
		}
		places := ix.vars
		if code {
			places = ix.funcs
		}
		if i := near(places, rva); i >= 0 && places[i].rva >= sec.VirtualAddress {
			s, err := f.placed(&places[i])
			if err != nil {
				damage = cmp.Or(damage, err)
			} else if !some || s.RVA >= best.RVA || rva-s.RVA < s.Size {
				best, some = s, true
			}
		}
	}
	if some {
		damage = nil
	}
	return best, some, damage
}

// nearest is the linker's symbol at or below an address; of several at one
// address one that DWARF knows.
func (f *File) nearest(t *coffTable, rva uint32) (sym.Symbol, bool) {
	var best sym.Symbol
	some := false
	for i := t.above(rva) - 1; i >= 0; i-- {
		p := &t.list[i]
		if some && p.rva != best.RVA {
			break
		}
		if p.class == coffLabel && strings.HasPrefix(p.linkage, ".") {
			continue // local to a page of assembler
		}
		if s := f.full(t, i); !some || s.Type != 0 || best.Type == 0 {
			best, some = s, true
		}
	}
	return best, some
}

// Symbols runs through all symbols whose name matches.
func (f *File) Symbols(match func(name string) bool) iter.Seq2[sym.Symbol, error] {
	return func(yield func(sym.Symbol, error) bool) {
		t, damage := f.publics()
		ix := &index{}
		if f.Private() {
			ix = f.names()
			damage = cmp.Or(damage, ix.err)
		}
		effort := f.effort()
		// Places that the linker has a name for.
		usedFuncs, usedVars := make([]bool, len(ix.funcs)), make([]bool, len(ix.vars))
		funcs, hooked, vars := pass{list: ix.funcs}, pass{list: ix.funcs}, pass{list: ix.vars}
		for i := range t.list {
			p := &t.list[i]
			plain := f.plain(p.linkage)
			name := ""
			take := func(places []place, first int, used []bool) {
				for k := len(places) - 1; k >= 0; k-- {
					if !same(places[k].name, plain) {
						continue
					}
					used[first+k] = true
					if name = display(places[k].name); mangled(plain) {
						name = display(stem(plain))
					}
				}
			}
			var here []place
			first := 0
			if p.code {
				here, first = funcs.at(p.rva)
				take(here, first, usedFuncs)
				behind, first := hooked.at(p.rva + f.hook())
				take(behind, first, usedFuncs)
			} else {
				here, first = vars.at(p.rva)
				take(here, first, usedVars)
			}
			if name == "" {
				name = display(plain)
			}
			if match(name) && !yield(f.fullOf(t, i, here), nil) {
				return
			}
			if err := effort(); err != nil {
				yield(sym.Symbol{}, err)
				return
			}
		}
		for n, places := range [][]place{ix.funcs, ix.vars} {
			used := [][]bool{usedFuncs, usedVars}[n]
			for k := range places {
				if p := &places[k]; !used[k] && match(display(p.name)) {
					s, err := f.placed(p)
					if damage = cmp.Or(damage, err); err == nil && !yield(s, nil) {
						return
					}
					if err := effort(); err != nil {
						yield(sym.Symbol{}, err)
						return
					}
				}
			}
		}
		for k := range ix.consts {
			if c := &ix.consts[k]; match(display(c.name)) && !yield(f.constant(c), nil) {
				return
			}
		}
		if damage != nil {
			yield(sym.Symbol{}, damage)
		}
	}
}
