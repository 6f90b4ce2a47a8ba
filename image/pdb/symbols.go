package pdb

import (
	"errors"
	"iter"
	"slices"
	"sort"
	"strconv"
	"strings"

	"openkd/image/sym"
	"openkd/image/undname"
)

// tables are the ways into the records of global and public symbols.
type tables struct {
	records *stream
	globals gsi
	publics gsi
	byAddr  part // in the stream of publics: positions of records, by address
}

// publicsHeader comes before the hash table of public symbols.
const publicsHeader = 28

func (f *File) tables() (*tables, error) {
	return f.symbols.get(func() (*tables, error) {
		t := &tables{}
		if f.dbi.records == noStream {
			return nil, malformed("DBI stream", "it names no stream of symbol records")
		}
		var err error
		if t.records, err = f.msf.open(f.dbi.records, "symbol records"); err != nil {
			return nil, err
		}
		if f.dbi.globals != noStream {
			s, err := f.msf.open(f.dbi.globals, "global symbols")
			if err != nil {
				return nil, err
			}
			if t.globals, err = openGSI(s, t.records, 0, int64(s.size)); err != nil {
				return nil, err
			}
		}
		if f.dbi.publics != noStream {
			s, err := f.msf.open(f.dbi.publics, "public symbols")
			if err != nil {
				return nil, err
			}
			raw, err := s.bytes(0, publicsHeader)
			if err != nil {
				return nil, err
			}
			hash, byAddr := int64(le.Uint32(raw)), int64(le.Uint32(raw[4:]))
			if t.publics, err = openGSI(s, t.records, publicsHeader, hash); err != nil {
				return nil, err
			}
			t.byAddr = part{publicsHeader + hash, byAddr}
			if t.byAddr.end() > int64(s.size) {
				return nil, malformed(s.what, "an address map of %d bytes in %d", byAddr, s.size)
			}
		}
		return t, nil
	})
}

// public is a public symbol with its undecorated name.
type public struct {
	addr
	rva      uint32
	flags    uint32
	absolute bool // the offset is its value
	linkage  string
	name     string
}

// public turns a record into one; false: its place is not in the image any more.
func (f *File) public(l *layout, r *symRec) (public, bool) {
	if !r.isPublic() {
		return public{}, false
	}
	p := public{addr: addr{r.seg, r.off}, flags: r.flags, linkage: string(r.name), absolute: l.absolute(r)}
	if !p.absolute {
		var ok bool
		if p.rva, ok = l.symbol(r); !ok {
			return public{}, false
		}
	}
	p.name = f.plain(p.linkage)
	return p, true
}

// plain returns the name of a public symbol as a person writes it: C++ names
// undecorated, C names without what x86 compilers put around them.
func (f *File) plain(linkage string) string {
	if strings.HasPrefix(linkage, "?") {
		if s, ok := undname.Name(linkage); ok {
			return s
		}
		return linkage
	}
	name := linkage
	if i := strings.LastIndexByte(name, '@'); i > 0 && paramBytes(name[i+1:]) {
		switch {
		case name[i-1] == '@' && i > 1: // name@@16: __vectorcall
			return name[:i-1]
		case f.dbi.machine == machineX86 && (name[0] == '_' || name[0] == '@') && i > 1: // _name@8, @name@8
			return name[1:i]
		}
	}
	if f.dbi.machine == machineX86 && len(name) > 1 && name[0] == '_' {
		return name[1:]
	}
	return name
}

// paramBytes says whether a text can be how many bytes of parameters there are.
// Others follow an @ too: floating-point constants have their bits there.
func paramBytes(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n%4 == 0 && n < 1<<12 && (s[0] != '0' || s == "0")
}

func (p *public) symbol(l *layout) sym.Symbol {
	s := sym.Symbol{Name: p.name, Kind: sym.Public, RVA: p.rva, Code: p.flags&(pubCode|pubFunction) != 0 || l.code(p.seg)}
	if p.absolute {
		s = sym.Symbol{Name: p.name, Kind: sym.Constant, Value: int64(p.off)}
	}
	if p.linkage != p.name {
		s.Linkage = p.linkage
	}
	return s
}

// publicsAt returns the last public symbols at or below an address in its
// section: usually one, several if they stand at one address.
func (f *File) publicsAt(t *tables, l *layout, a addr) ([]public, error) {
	at := func(i int) (symRec, error) {
		pos, err := t.publics.s.u32(t.byAddr.off + 4*int64(i))
		if err != nil {
			return symRec{}, err
		}
		return t.records.symbol(int64(pos))
	}
	i, err := l.search(int(t.byAddr.size/4), a, func(i int) (addr, error) {
		r, err := at(i)
		return addr{r.seg, r.off}, err
	})
	if err != nil {
		return nil, err
	}
	var out []public
	const most = 64 // folded functions without end
	for i--; i >= 0 && len(out) < most; i-- {
		r, err := at(i)
		if err != nil {
			return nil, err
		}
		here := addr{r.seg, r.off}
		if here.seg != a.seg || len(out) > 0 && here != out[0].addr {
			break
		}
		if p, ok := f.public(l, &r); ok && !p.absolute {
			out = append(out, p)
		}
	}
	slices.Reverse(out)
	return out, nil
}

// withLinkage adds the name of the linker to a private symbol.
func (f *File) withLinkage(t *tables, l *layout, a addr, s sym.Symbol) (sym.Symbol, error) {
	list, err := f.publicsAt(t, l, a)
	if err != nil {
		return s, err
	}
	here := 0
	for _, p := range list {
		if p.addr != a {
			continue
		}
		here++
		if sameName(p.name, s.Name) {
			s.Linkage = ""
			if p.linkage != s.Name {
				s.Linkage = p.linkage
			}
			return s, nil
		}
		s.Linkage = p.linkage
	}
	if here > 1 {
		s.Linkage = "" // which of them cannot be known
	}
	return s, nil
}

// sameName compares names but for the blanks between closing angle brackets,
// which compilers and undecorators set differently.
func sameName(a, b string) bool {
	if a == b {
		return true
	}
	return strings.ReplaceAll(a, " ", "") == strings.ReplaceAll(b, " ", "")
}

// global turns a record of the global symbols into a symbol and its address, if
// it has one. False: it has none in the image, or is of a kind without meaning.
func (f *File) global(l *layout, r *symRec) (sym.Symbol, addr, bool, error) {
	switch {
	case r.isRef():
		return f.referred(l, r)
	case r.isData() && l.absolute(r):
		return sym.Symbol{Name: string(r.name), Kind: sym.Constant, Type: sym.TypeID(r.typ), Value: int64(r.off)}, addr{}, true, nil
	case r.isData():
		s, ok := f.datum(l, r)
		return s, addr{r.seg, r.off}, ok, nil
	case r.isConstant():
		v, err := f.constant(r)
		return sym.Symbol{Name: string(r.name), Kind: sym.Constant, Type: sym.TypeID(r.typ), Value: v}, addr{}, err == nil, err
	case r.isUDT():
		return sym.Symbol{Name: string(r.name), Kind: sym.TypeDef, Type: sym.TypeID(r.typ)}, addr{}, true, nil
	}
	return sym.Symbol{}, addr{}, false, nil
}

// referred follows a reference into a module's symbols.
func (f *File) referred(l *layout, r *symRec) (sym.Symbol, addr, bool, error) {
	if r.mod == 0 {
		return sym.Symbol{}, addr{}, false, nil
	}
	u, err := f.unit(r.mod - 1)
	if u == nil || err != nil {
		return sym.Symbol{}, addr{}, false, err
	}
	if r.ref >= u.symbols {
		return sym.Symbol{}, addr{}, false, malformed("symbol record", "it refers to %#x of %#x bytes of module %d", r.ref, u.symbols, r.mod-1)
	}
	in, err := u.s.symbol(int64(r.ref))
	if err != nil {
		return sym.Symbol{}, addr{}, false, err
	}
	s, ok, err := f.private(l, u, &in)
	return s, addr{in.seg, in.off}, ok, err
}

// datum is a variable. Its size is not known without reading its type.
func (f *File) datum(l *layout, r *symRec) (sym.Symbol, bool) {
	rva, ok := l.symbol(r)
	return sym.Symbol{Name: string(r.name), Kind: sym.Data, RVA: rva, Type: sym.TypeID(r.typ), Static: r.static()}, ok
}

// private turns a record of a module into a symbol.
func (f *File) private(l *layout, u *unit, r *symRec) (sym.Symbol, bool, error) {
	rva, ok := l.symbol(r)
	s := sym.Symbol{Name: string(r.name), RVA: rva, Size: r.size, Code: true, Static: r.static()}
	switch {
	case !ok:
		return s, false, nil
	case r.isProc():
		s.Kind = sym.Function
		t, err := u.procType(r)
		if err != nil {
			return s, false, err
		}
		s.Type = t
	case r.isData():
		t, err := u.global(r.typ)
		if err != nil {
			return s, false, err
		}
		s, ok = f.datum(l, r)
		s.Type = sym.TypeID(t)
	case r.kind == sLabel32 || r.kind == sLabel32ST:
		s.Kind = sym.Label
	case r.kind == sThunk32 || r.kind == sThunk32ST:
		s.Kind = sym.Thunk
	case r.kind == sSepCode:
		// A part of a function that lies apart from it.
		in, err := u.s.symbol(int64(r.parent))
		if err != nil || !in.isProc() {
			return s, false, err
		}
		s.Kind, s.Name, s.Static = sym.Function, string(in.name), in.static()
		if s.Type, err = u.procType(&in); err != nil {
			return s, false, err
		}
	case r.kind == sTrampoline:
		// A jump of the incremental linker, named after where it leads.
		t, err := f.tables()
		if err != nil {
			return s, false, err
		}
		to, err := f.publicsAt(t, l, addr{r.mod, r.ref})
		if err != nil {
			return s, false, err
		}
		s.Kind, s.Name = sym.Thunk, "ILT"
		if len(to) > 0 {
			s.Name = "ILT(" + to[0].linkage + ")"
		}
	default:
		ok = false
	}
	return s, ok, nil
}

// procType returns the type of a procedure, of those with an id in place of it
// what the id names.
func (u *unit) procType(r *symRec) (sym.TypeID, error) {
	t, err := u.global(r.typ)
	if err != nil {
		return 0, err
	}
	switch r.kind {
	case sGProc32ID, sLProc32ID, sLProc32DPCID:
		fn, err := u.f.function(t)
		return fn.typ, err
	}
	return sym.TypeID(t), nil
}

// sized adds the size of a variable.
func (f *File) sized(s sym.Symbol) (sym.Symbol, error) {
	if s.Kind != sym.Data || s.Size != 0 {
		return s, nil
	}
	n, err := f.sizeOf(uint32(s.Type))
	s.Size = uint32(min(n, 1<<32-1))
	return s, err
}

// ByName returns the symbols of this name. A private symbol hides the public
// one of the same address. Public names of C++ are found by their undecorated
// name if nothing else has it or the file has no private symbols; the first such
// search reads all of them.
func (f *File) ByName(name string) ([]sym.Symbol, error) {
	t, err := f.tables()
	if err != nil {
		return nil, err
	}
	l, err := f.layout()
	if err != nil {
		return nil, err
	}
	q := query{f: f, t: t, l: l}
	if err := q.globals(name); err != nil {
		return nil, err
	}
	if err := q.publics(name); err != nil {
		return nil, err
	}
	if f.dbi.machine == machineX86 {
		if err := q.publics("_" + name); err != nil {
			return nil, err
		}
	}
	if len(q.found) == 0 {
		if err := q.decorated(name); err != nil {
			return nil, err
		}
	}
	if (len(q.found) == 0 || !f.Private()) && !strings.HasPrefix(name, "?") {
		if err := q.cxx(name); err != nil {
			return nil, err
		}
	}
	return q.found, nil
}

// query collects symbols of a name.
type query struct {
	f     *File
	t     *tables
	l     *layout
	found []sym.Symbol
}

// mostFound bounds what one name can have.
const mostFound = 1 << 16

func (q *query) add(a addr, s sym.Symbol) error {
	if len(q.found) >= mostFound {
		return nil
	}
	s, err := q.f.sized(s)
	if err != nil {
		return err
	}
	if a.seg != 0 && s.Linkage == "" {
		if s, err = q.f.withLinkage(q.t, q.l, a, s); err != nil {
			return err
		}
	}
	// A variable may be recorded once more by who only declared it, without
	// the size of an array.
	for i, old := range q.found {
		if s.Kind == sym.Data && old.Kind == sym.Data && old.RVA == s.RVA && old.Name == s.Name {
			if old.Size < s.Size {
				q.found[i] = s
			}
			return nil
		}
	}
	q.found = append(q.found, s)
	return nil
}

func (q *query) globals(name string) error {
	return q.t.globals.find([]byte(name), func(r *symRec) error {
		if string(r.name) != name {
			return nil
		}
		s, a, ok, err := q.f.global(q.l, r)
		if err != nil || !ok {
			return err
		}
		return q.add(a, s)
	})
}

func (q *query) publics(linkage string) error {
	return q.t.publics.find([]byte(linkage), func(r *symRec) error {
		if string(r.name) != linkage {
			return nil
		}
		return q.public(r, func(public) bool { return true })
	})
}

// public adds a public symbol that matches, or the private one that stands at
// its address, unless that was found already.
func (q *query) public(r *symRec, match func(public) bool) error {
	p, ok := q.f.public(q.l, r)
	if !ok || !match(p) {
		return nil
	}
	if p.absolute {
		return q.add(addr{}, p.symbol(q.l))
	}
	for _, s := range q.found {
		if s.RVA == p.rva && s.Kind != sym.Constant && s.Kind != sym.TypeDef {
			return nil
		}
	}
	s, ok, err := q.f.privateOf(q.t, q.l, &p)
	if err != nil {
		return err
	}
	if !ok {
		s = p.symbol(q.l)
	} else if s.Linkage == "" && p.linkage != s.Name {
		s.Linkage = p.linkage
	}
	return q.add(addr{}, s)
}

// decorated looks for C names with the bytes of their parameters: _name@8 and
// @name@8 of x86, name@@8.
func (q *query) decorated(name string) error {
	const most = 128 // bytes of parameters
	for n := 0; n <= most; n += 4 {
		size := strconv.Itoa(n)
		var tries []string
		if q.f.dbi.machine == machineX86 {
			tries = append(tries, "_"+name+"@"+size, "@"+name+"@"+size)
		}
		if n%8 == 0 || q.f.dbi.machine == machineX86 {
			tries = append(tries, name+"@@"+size)
		}
		for _, s := range tries {
			if err := q.publics(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// privateOf returns the private symbol at the address of a public one.
func (f *File) privateOf(t *tables, l *layout, p *public) (sym.Symbol, bool, error) {
	if l.code(p.seg) {
		s, a, ok, err := f.inModule(l, p.addr)
		if err != nil || ok && a == p.addr {
			return s, ok, err
		}
	}
	var s sym.Symbol
	var ok bool
	err := t.globals.find([]byte(p.name), func(r *symRec) error {
		if !ok && r.isData() && (addr{r.seg, r.off}) == p.addr && string(r.name) == p.name {
			s, ok = f.datum(l, r)
		}
		return nil
	})
	return s, ok, err
}

// inModule returns what the module of an address has around it or, failing
// that, below it; and where that begins.
func (f *File) inModule(l *layout, a addr) (sym.Symbol, addr, bool, error) {
	var none sym.Symbol
	n, ok, err := f.moduleAt(a)
	if err != nil || !ok {
		return none, addr{}, false, err
	}
	u, err := f.unit(n)
	if u == nil || err != nil {
		return none, addr{}, false, err
	}
	x, err := u.lookup()
	if err != nil {
		return none, addr{}, false, err
	}
	if sp, ok := x.spanAt(a); ok {
		r, err := u.s.symbol(int64(sp.pos))
		if err != nil {
			return none, addr{}, false, err
		}
		s, ok, err := f.private(l, u, &r)
		return s, sp.addr, ok, err
	}
	// The nearest below: code, a label or a datum.
	var pos uint32
	var best addr
	if i := sort.Search(len(x.spans), func(i int) bool { return x.spans[i].compare(a) > 0 }); i > 0 && x.spans[i-1].seg == a.seg {
		best, pos = x.spans[i-1].addr, x.spans[i-1].pos
	}
	if i := sort.Search(len(x.marks), func(i int) bool { return x.marks[i].compare(a) > 0 }); i > 0 && x.marks[i-1].seg == a.seg && x.marks[i-1].compare(best) > 0 {
		best, pos = x.marks[i-1].addr, x.marks[i-1].pos
	}
	if best.seg == 0 {
		return none, addr{}, false, nil
	}
	r, err := u.s.symbol(int64(pos))
	if err != nil {
		return none, addr{}, false, err
	}
	s, ok, err := f.private(l, u, &r)
	return s, best, ok, err
}

// whereabouts is what an answer about an address begins with; false: the address
// is in no section.
func (f *File) whereabouts(rva uint32) (t *tables, l *layout, a addr, ok bool, err error) {
	if t, err = f.tables(); err != nil {
		return t, l, a, false, err
	}
	if l, err = f.layout(); err != nil {
		return t, l, a, false, err
	}
	a, ok = l.place(rva)
	return t, l, a, ok, nil
}

// ByRVA returns the symbol at an address.
func (f *File) ByRVA(rva uint32) (sym.Symbol, bool, error) {
	t, l, a, ok, err := f.whereabouts(rva)
	if !ok || err != nil {
		return sym.Symbol{}, false, err
	}
	best, at, found, err := f.inModule(l, a)
	if err != nil {
		return best, false, err
	}
	if found {
		if best, err = f.sized(best); err != nil {
			return best, false, err
		}
	}
	covers := func() bool { return found && a.within(at, best.Size) }
	if !covers() {
		s, d, ok, err := f.dataBelow(t, l, a)
		if err != nil {
			return best, false, err
		}
		if ok && (!found || d.compare(at) >= 0 || a.within(d, s.Size)) {
			best, at, found = s, d, true
		}
	}
	if covers() {
		s, err := f.withLinkage(t, l, at, best)
		return s, err == nil, err
	}
	pubs, err := f.publicsAt(t, l, a)
	if err != nil {
		return best, false, err
	}
	if len(pubs) > 0 && (!found || pubs[0].compare(at) > 0) {
		return pubs[0].symbol(l), true, nil
	}
	if !found {
		return best, false, nil
	}
	s, err := f.withLinkage(t, l, at, best)
	return s, err == nil, err
}

// dataBelow returns the variable at or below an address. The file has no table
// of them by address, so one is made: twelve bytes for each.
func (f *File) dataBelow(t *tables, l *layout, a addr) (sym.Symbol, addr, bool, error) {
	list, err := f.data.get(func() ([]mark, error) {
		var list []mark
		err := f.eachRecord(t, &t.globals, func(pos uint32, r *symRec) error {
			if r.isData() {
				list = append(list, mark{addr{r.seg, r.off}, pos})
			}
			return nil
		})
		slices.SortStableFunc(list, func(a, b mark) int { return a.compare(b.addr) })
		return list, err
	})
	if err != nil {
		return sym.Symbol{}, addr{}, false, err
	}
	i := sort.Search(len(list), func(i int) bool { return list[i].compare(a) > 0 }) - 1
	if i < 0 || list[i].seg != a.seg {
		return sym.Symbol{}, addr{}, false, nil
	}
	// Of several records the one that knows the size.
	const most = 16
	var best sym.Symbol
	found := false
	for k := i; k >= 0 && k > i-most && list[k].addr == list[i].addr; k-- {
		r, err := t.records.symbol(int64(list[k].pos))
		if err != nil {
			return best, addr{}, false, err
		}
		s, ok := f.datum(l, &r)
		if !ok {
			continue
		}
		if s, err = f.sized(s); err != nil {
			return best, addr{}, false, err
		}
		if !found || s.Size >= best.Size {
			best, found = s, true
		}
	}
	return best, list[i].addr, found, nil
}

// eachRecord reads the records of a hash table in the order they lie. The
// record's bytes are valid during the call only.
func (f *File) eachRecord(t *tables, g *gsi, do func(pos uint32, r *symRec) error) error {
	set, err := g.positions(t.records.size)
	if err != nil {
		return err
	}
	w := window{s: t.records}
	return set.each(func(pos uint32) error {
		kind, body, _, err := w.record(int64(pos))
		if err != nil {
			return err
		}
		r, err := decodeSym(kind, body)
		if err != nil {
			return err
		}
		return do(pos, &r)
	})
}

// errStop ends a walk whose caller has enough.
var errStop = errors.New("stop")

// Symbols runs through global symbols and then through the public ones that
// stand at no address of a global one that matched. Variables in functions,
// labels and thunks are not among them but where they are public. Linkage and the
// size of variables are left out. A variable comes once for each source file
// that described it.
func (f *File) Symbols(match func(name string) bool) iter.Seq2[sym.Symbol, error] {
	return func(yield func(sym.Symbol, error) bool) {
		if err := f.eachSymbol(match, func(s sym.Symbol) bool { return yield(s, nil) }); err != nil && !errors.Is(err, errStop) {
			yield(sym.Symbol{}, err)
		}
	}
}

func (f *File) eachSymbol(match func(string) bool, yield func(sym.Symbol) bool) error {
	t, err := f.tables()
	if err != nil {
		return err
	}
	l, err := f.layout()
	if err != nil {
		return err
	}
	var seen []uint32
	err = f.eachRecord(t, &t.globals, func(_ uint32, r *symRec) error {
		if r.name == nil || !match(string(r.name)) {
			return nil
		}
		s, a, ok, err := f.global(l, r)
		if err != nil || !ok {
			return err
		}
		if a.seg != 0 {
			seen = append(seen, s.RVA)
		}
		if !yield(s) {
			return errStop
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.Sort(seen)
	return f.eachRecord(t, &t.publics, func(_ uint32, r *symRec) error {
		p, ok := f.public(l, r)
		if !ok || !match(p.name) {
			return nil
		}
		if _, dup := slices.BinarySearch(seen, p.rva); dup && !p.absolute {
			return nil
		}
		if !yield(p.symbol(l)) {
			return errStop
		}
		return nil
	})
}
