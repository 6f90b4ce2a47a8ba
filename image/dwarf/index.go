package dwarf

import (
	"cmp"
	std "debug/dwarf"
	"slices"
	"sort"
	"strings"
)

// group keeps types of one name apart that may stand side by side.
type group uint8

const (
	groupStruct group = iota + 1 // struct and class
	groupUnion
	groupEnum
	groupBase
	groupTypedef
)

func groupOf(tag std.Tag) group {
	switch tag {
	case std.TagStructType, std.TagClassType:
		return groupStruct
	case std.TagUnionType:
		return groupUnion
	case std.TagEnumerationType:
		return groupEnum
	case std.TagBaseType, std.TagUnspecifiedType:
		return groupBase
	case std.TagTypedef:
		return groupTypedef
	}
	return 0
}

// found says how good an entry is as the meaning of a name.
type found uint8

const (
	declared found = iota // nowhere defined so far
	local                 // defined within a procedure
	defined
)

type typeKey struct {
	group group
	name  string
}

type typeRef struct {
	off  uint32
	good found
}

// place is a procedure or a variable that is in the image.
type place struct {
	name string // as the linker knows it in C++, else as the source has it
	rva  uint32
	off  uint32 // of the entry
}

// constant is a variable that the compiler has replaced by its value.
type constant struct {
	name  string
	value int64
	off   uint32 // of the entry
}

// index is what is known by name over all units. Of types with one name the
// first definition counts.
type index struct {
	types  map[typeKey]typeRef
	funcs  []place    // where they begin, by address
	vars   []place    // by address
	consts []constant // by name
	err    error      // what of it could not be read
}

// names makes the index. Its error is in it: what could be read is there.
func (f *File) names() *index {
	ix, _ := f.index.get(func() (*index, error) {
		b := f.builder()
		all, err := f.headers()
		b.err = err
		for _, h := range all {
			if err := b.unit(h); err != nil && b.err == nil {
				b.err = err
			}
		}
		byRVA := func(x, y place) int { return cmp.Or(cmp.Compare(x.rva, y.rva), cmp.Compare(x.off, y.off)) }
		slices.SortFunc(b.funcs, byRVA)
		slices.SortFunc(b.vars, byRVA)
		// Each inlined copy of a procedure has its static variables too.
		b.vars = slices.CompactFunc(b.vars, func(x, y place) bool { return x.rva == y.rva && x.name == y.name })
		// Those of headers are in many units.
		slices.SortFunc(b.consts, func(x, y constant) int {
			return cmp.Or(strings.Compare(x.name, y.name), cmp.Compare(x.value, y.value), cmp.Compare(x.off, y.off))
		})
		b.consts = slices.CompactFunc(b.consts, func(x, y constant) bool { return x.name == y.name && x.value == y.value })
		return &b.index, nil
	})
	return ix
}

// builder passes over the units.
type builder struct {
	index
	f       *File
	w       *work
	effort  func() error
	room    int   // bytes of names that may still be kept
	abbrevs int   // bytes of abbreviations that may still be read
	u       *unit // the last one: its memory serves the next
}

func (f *File) builder() *builder {
	b := &builder{f: f, w: newWork(), effort: f.effort()}
	b.types = map[typeKey]typeRef{}
	b.room = 2*(int(f.info.size)+int(f.str.size)) + 1<<20
	b.abbrevs = 4*int(f.abbrev.size) + 1<<20
	return b
}

func (b *builder) unit(h header) error {
	if b.abbrevs < 0 {
		return malformed(b.f.abbrev.name, "units share tables in a way that would take too long to read")
	}
	u := &unit{header: h, f: b.f}
	if l := b.u; l != nil {
		u.data, u.dies = l.data, l.dies
		// Units that the linker has made of one another share a table.
		if l.abbrevOff == h.abbrevOff && l.shape == h.shape {
			u.tab = l.tab
		}
	}
	shared := u.tab != nil
	err := u.decode(true)
	if b.u = u; err != nil {
		return err
	}
	if !shared {
		b.abbrevs -= u.tab.size
	}
	if err := u.split(); err != nil {
		return err
	}
	return b.level(0, int(u.dies[0].next), "", defined)
}

// level takes in the entries below entry i, up to end. prefix is for the names
// of types.
func (b *builder) level(i, end int, prefix string, good found) error {
	u := b.u
	for i++; i < end; i = int(u.dies[i].next) {
		ab := u.ab(i)
		next := int(u.dies[i].next)
		switch tag := ab.tag; tag {
		case std.TagStructType, std.TagClassType, std.TagUnionType, std.TagEnumerationType,
			std.TagTypedef, std.TagBaseType, std.TagUnspecifiedType:
			name, err := b.typ(i, tag, prefix, good)
			if err != nil {
				return err
			}
			if next > i+1 && tag != std.TagEnumerationType && name != "" && !u.c {
				if err := b.level(i, next, name+"::", good); err != nil {
					return err
				}
			}
		case std.TagNamespace:
			name, err := u.text(i, std.AttrName)
			if err != nil {
				return err
			}
			if name == "" {
				name = "(anonymous namespace)"
			}
			if len(prefix)+len(name) > maxName {
				continue
			}
			if err := b.level(i, next, prefix+name+"::", good); err != nil {
				return err
			}
		case std.TagSubprogram:
			if ab.declares {
				continue
			}
			if err := b.function(i); err != nil {
				return err
			}
			if err := b.level(i, next, prefix, local); err != nil {
				return err
			}
		case std.TagLexDwarfBlock, std.TagInlinedSubroutine:
			if err := b.level(i, next, prefix, local); err != nil {
				return err
			}
		case std.TagVariable:
			if err := b.variable(i, good); err != nil {
				return err
			}
		}
	}
	return nil
}

// typ takes in a type and returns its whole name.
func (b *builder) typ(i int, tag std.Tag, prefix string, good found) (string, error) {
	u := b.u
	if u.ab(i).declares {
		good = declared
	}
	key := typeKey{group: groupOf(tag)}
	v, ok := u.attr(i, std.AttrName)
	if !ok {
		// Defined outside of the structure that declares it.
		if _, ok := u.attr(i, std.AttrSpecification); !ok {
			return "", nil
		}
		err := cmp.Or(b.effort(), b.w.do(maxDepth/8))
		if err != nil {
			return "", err
		}
		if key.name, err = (entry{u, i}).qualified(); err != nil || key.name == "" {
			return "", err
		}
		return key.name, b.keep(key, i, good)
	}
	name, err := v.str(u)
	if err != nil || len(name) == 0 || len(prefix)+len(name) > maxName {
		return "", err
	}
	if u.c {
		// Mostly known, without making a string of it.
		if old, ok := b.types[typeKey{key.group, string(name)}]; ok && old.good >= good {
			return "", nil
		}
	}
	key.name = prefix + string(name)
	return key.name, b.keep(key, i, good)
}

func (b *builder) keep(key typeKey, i int, good found) error {
	if old, ok := b.types[key]; ok && old.good >= good {
		return nil
	}
	if b.room -= len(key.name); b.room < 0 {
		return malformed(b.f.info.name, "the names of types are longer than the file")
	}
	b.types[key] = typeRef{b.u.off + b.u.dies[i].off, good}
	return nil
}

// function takes in a procedure that has code.
func (b *builder) function(i int) error {
	u := b.u
	if _, ok := u.attr(i, std.AttrLowpc); !ok {
		if _, ok := u.attr(i, std.AttrRanges); !ok {
			return nil
		}
	}
	list, err := u.pieces(i, b.w)
	if err != nil {
		return err
	}
	for _, fn := range list {
		if fn.entry {
			return b.place(&b.funcs, i, fn.lo)
		}
	}
	return nil
}

// variable takes in one that lies in the image, or is a constant.
func (b *builder) variable(i int, good found) error {
	u := b.u
	v, ok := u.attr(i, std.AttrLocation)
	if !ok {
		if v, ok = u.attr(i, std.AttrConstValue); !ok || !v.constant() || good != defined {
			return nil
		}
		name, err := b.name(i)
		if err == nil && name != "" {
			b.consts = append(b.consts, constant{name, int64(v.u), u.off + u.dies[i].off})
		}
		return err
	}
	if rva, ok := u.static(v); ok {
		return b.place(&b.vars, i, rva)
	}
	return nil
}

func (b *builder) place(list *[]place, i int, rva uint32) error {
	name, err := b.name(i)
	if err == nil && name != "" {
		*list = append(*list, place{name, rva, b.u.off + b.u.dies[i].off})
	}
	return err
}

// name is that of a procedure or a variable.
func (b *builder) name(i int) (string, error) {
	name, err := entry{b.u, i}.linkName()
	if err == nil {
		err = b.effort()
	}
	if b.room -= len(name); b.room < 0 && err == nil {
		err = malformed(b.f.info.name, "the names of symbols are longer than the file")
	}
	return name, err
}

// linkName is the name of a procedure or a variable: in C++ as the linker knows
// it, else as the source has it.
func (e entry) linkName() (string, error) {
	s, err := e.inherited(std.AttrLinkageName)
	if err != nil || mangled(s) {
		return stem(withoutArgs(s)), err
	}
	return e.inherited(std.AttrName)
}

// qualified is the name of a type with those of the namespaces and structures
// around it.
func (e entry) qualified() (string, error) {
	for range maxHops {
		if _, ok := e.attr(std.AttrName); ok {
			break
		}
		o, ok, err := e.refers(std.AttrSpecification)
		if err != nil || !ok {
			return "", err
		}
		e = o
	}
	name, err := e.text(std.AttrName)
	if err != nil || name == "" || e.u.c {
		return name, err
	}
	for p, ok := e.parent(); ok; p, ok = p.parent() {
		outer := ""
		switch p.tag() {
		case std.TagNamespace, std.TagStructType, std.TagClassType, std.TagUnionType:
			if outer, err = p.text(std.AttrName); err != nil {
				return "", err
			}
			if outer == "" && p.tag() == std.TagNamespace {
				outer = "(anonymous namespace)"
			}
		}
		if outer != "" {
			name = outer + "::" + name
		}
		if len(name) > 2*maxName {
			return "", malformed(e.u.f.info.name, "%#x: the name is longer than %d bytes", e.off(), maxName)
		}
	}
	return name, nil
}

// definition finds where a type that is only declared is defined.
func (f *File) definition(e entry) (entry, error) {
	if !e.u.ab(e.i).declares {
		return e, nil
	}
	if v, ok := e.attr(std.AttrSignature); ok {
		off, ok, err := v.ref(e.u)
		if err != nil || !ok {
			return e, err
		}
		return f.entry(off)
	}
	name, err := e.qualified()
	if err != nil || name == "" {
		return e, err
	}
	ref, ok := f.sought(name, groupOf(e.tag()))
	if !ok {
		ref, ok = f.names().types[typeKey{groupOf(e.tag()), name}]
	}
	if !ok || ref.good == declared {
		return e, nil
	}
	return f.entry(ref.off)
}

// maxSought bounds how many units are decoded to find one type.
const maxSought = 64

// sought finds where a type is defined first without the index, in the units in
// which its name stands; false: that takes the index.
func (f *File) sought(name string, g group) (typeRef, bool) {
	base := name[strings.LastIndexByte(name, ':')+1:]
	if f.index.ready() || f.strOffsets.size > 0 || len(base) < 3 || strings.ContainsAny(name, "<( ") || f.asked.Add(1) > looks {
		return typeRef{}, false
	}
	all, err := f.headers()
	if err != nil {
		return typeRef{}, false
	}
	// The places of the name: in the entries, or in .debug_str.
	keys := [][]byte{append([]byte(base), 0)}
	err = f.str.search(keys[0], func(at uint32) error {
		if len(keys) == 16 {
			return ErrMalformed
		}
		keys = append(keys, le.AppendUint32(nil, at))
		return nil
	})
	if err != nil {
		return typeRef{}, false
	}
	var units []int
	for _, key := range keys {
		last := -1
		err := f.info.search(key, func(at uint32) error {
			if last >= 0 && at < all[last].end {
				return nil
			}
			last = sort.Search(len(all), func(i int) bool { return all[i].end > at })
			if last == len(all) {
				return ErrMalformed
			}
			units = append(units, last)
			return nil
		})
		if err != nil {
			return typeRef{}, false
		}
	}
	slices.Sort(units)
	units = slices.Compact(units)
	b := f.builder()
	for n, k := range units {
		if n == maxSought || b.unit(all[k]) != nil {
			break
		}
		if ref, ok := b.types[typeKey{g, name}]; ok && ref.good == defined {
			return ref, true
		}
	}
	return typeRef{}, false
}

// typeNamed finds a type by its whole name.
func (ix *index) typeNamed(name string) (typeRef, bool) {
	var best typeRef
	some := false
	for g := groupStruct; g <= groupTypedef; g++ {
		if r, ok := ix.types[typeKey{g, name}]; ok && (!some || r.good > best.good) {
			best, some = r, true
		}
	}
	return best, some
}

// near is the index in a list by address of the last place at or below one, -1
// if there is none.
func near(list []place, rva uint32) int {
	return sort.Search(len(list), func(i int) bool { return list[i].rva > rva }) - 1
}

// at are the places at an address.
func at(list []place, rva uint32) []place {
	i := sort.Search(len(list), func(i int) bool { return list[i].rva >= rva })
	return list[i : i+alike(list[i:], rva)]
}

// alike is how many places at the beginning of a list are at an address.
func alike(list []place, rva uint32) int {
	n := 0
	for n < len(list) && list[n].rva == rva {
		n++
	}
	return n
}

// pass goes through a list of places together with something else that is
// sorted by address, without looking for each address anew.
type pass struct {
	list []place
	next int
}

// at are the places at an address, not below the one asked before, and the index
// of the first one.
func (p *pass) at(rva uint32) ([]place, int) {
	for p.next < len(p.list) && p.list[p.next].rva < rva {
		p.next++
	}
	return p.list[p.next : p.next+alike(p.list[p.next:], rva)], p.next
}

// hook is how many bytes behind a procedure's address DWARF has it begin, if GCC
// has put instructions there that a jump can replace (ms_hook_prologue).
func (f *File) hook() uint32 {
	if f.im.Machine == machineX86 {
		return 5
	}
	return 8
}

// same says whether a plain name of the linker is that of a place, or one that
// a compiler made of it: counter.0 and name.isra.0 (GCC), procedure.counter
// (Clang), and names of C++ where DWARF has not got them, as for what is within
// procedures.
func same(name, plain string) bool {
	if rest, ok := strings.CutPrefix(plain, name); ok && (rest == "" || rest[0] == '.') {
		return true
	}
	if strings.HasSuffix(plain, name) && len(plain) > len(name) && plain[len(plain)-len(name)-1] == '.' {
		return true
	}
	if mangled(name) || !mangled(plain) {
		return false
	}
	full := display(stem(plain))
	return full == name || strings.HasSuffix(full, "::"+name)
}
