package symbols

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sort"

	"openkd/image/pe"
	"openkd/image/sym"
)

// exported is what an image exports, as a symbol file: the last resort. It is
// read once and kept, 64 Ki names at most.
type exported struct {
	id     sym.Identity
	byRVA  []sym.Symbol
	byName map[string]int
}

var _ sym.File = (*exported)(nil)

// errNoExports says that an image exports nothing that has an address.
var errNoExports = errors.New("the image exports nothing")

// readExports lists the exports of an image. What cannot be read is left out if
// anything can.
func readExports(im *pe.Image) (*exported, error) {
	dir, err := im.Exports()
	if err != nil {
		return nil, err
	}
	if dir == nil {
		return nil, errNoExports
	}
	list, err := dir.All()
	x := &exported{id: sym.Identity{Timestamp: im.TimeDateStamp, ImageSize: im.SizeOfImage}, byName: map[string]int{}}
	for _, e := range list {
		if e.Forwarder != "" || e.RVA == 0 || e.RVA >= im.SizeOfImage {
			continue
		}
		s := sym.Symbol{Name: e.Name, Kind: sym.Public, RVA: e.RVA}
		if s.Name == "" {
			s.Name = fmt.Sprintf("Ordinal%d", e.Ordinal)
		}
		if sec := im.SectionOf(e.RVA); sec != nil {
			s.Code = sec.Characteristics&(pe.SectionCode|pe.SectionExecute) != 0
		}
		x.byRVA = append(x.byRVA, s)
	}
	if len(x.byRVA) == 0 {
		if err == nil {
			err = errNoExports
		}
		return nil, err
	}
	slices.SortStableFunc(x.byRVA, func(a, b sym.Symbol) int { return cmp.Compare(a.RVA, b.RVA) })
	for i, s := range x.byRVA {
		if _, dup := x.byName[s.Name]; !dup {
			x.byName[s.Name] = i
		}
	}
	return x, nil
}

// overlay reads what was read ahead from memory, and the rest from below.
type overlay struct {
	below io.ReaderAt
	at    int64
	data  []byte
}

func (o *overlay) ReadAt(p []byte, off int64) (int, error) {
	if off >= o.at && off-o.at <= int64(len(o.data))-int64(len(p)) {
		return copy(p, o.data[off-o.at:]), nil
	}
	return o.below.ReadAt(p, off)
}

// maxAhead bounds what is read of an export directory at once, in bytes.
const maxAhead = 1 << 20

// exportsInMemory reads the exports of an image in a target's memory, its
// directory in one go: that is one exchange.
func exportsInMemory(r io.ReaderAt) (*exported, error) {
	im, err := pe.Open(r, pe.Mapped)
	if err != nil {
		return nil, err
	}
	d := im.Dirs[pe.DirExport]
	if d.VirtualAddress == 0 || d.Size == 0 {
		return nil, errNoExports
	}
	const page = 0x1000 // what is read a piece at a time later is read in pages
	from := int64(d.VirtualAddress) &^ (page - 1)
	to := min((int64(d.VirtualAddress)+int64(d.Size)+page-1)&^(page-1), int64(im.SizeOfImage))
	if from < to && to-from <= maxAhead {
		data := make([]byte, to-from)
		n, err := r.ReadAt(data, from)
		if n == 0 && err != nil {
			return nil, err
		}
		if im, err = pe.Open(&overlay{r, from, data[:n]}, pe.Mapped); err != nil {
			return nil, err
		}
	}
	return readExports(im)
}

func (x *exported) Identity() sym.Identity { return x.id }
func (x *exported) Private() bool          { return false }
func (x *exported) Close() error           { return nil }

func (x *exported) ByName(name string) ([]sym.Symbol, error) {
	if i, ok := x.byName[name]; ok {
		return x.byRVA[i : i+1 : i+1], nil
	}
	return nil, nil
}

func (x *exported) ByRVA(rva uint32) (sym.Symbol, bool, error) {
	i := sort.Search(len(x.byRVA), func(i int) bool { return x.byRVA[i].RVA > rva }) - 1
	if i < 0 {
		return sym.Symbol{}, false, nil
	}
	for i > 0 && x.byRVA[i-1].RVA == x.byRVA[i].RVA {
		i-- // the first of several, as the order of ordinals has it
	}
	return x.byRVA[i], true, nil
}

func (x *exported) Symbols(match func(string) bool) iter.Seq2[sym.Symbol, error] {
	return func(yield func(sym.Symbol, error) bool) {
		for _, s := range x.byRVA {
			if match(s.Name) && !yield(s, nil) {
				return
			}
		}
	}
}

func (x *exported) Line(uint32) (sym.Line, bool, error)          { return sym.Line{}, false, nil }
func (x *exported) Addresses(string, uint32) ([]sym.Line, error) { return nil, nil }
func (x *exported) TypeByName(string) (sym.TypeID, error)        { return 0, nil }
func (x *exported) Type(id sym.TypeID) (sym.Type, error)         { return sym.Type{}, noType(id) }
func (x *exported) Members(id sym.TypeID) ([]sym.Member, error)  { return nil, noType(id) }
func (x *exported) Scopes(uint32) ([]sym.Scope, error)           { return nil, nil }
func (x *exported) X86Frame(uint32) (sym.X86Frame, bool, error)  { return sym.X86Frame{}, false, nil }
func (x *exported) TypeNames(func(string) bool) iter.Seq2[sym.NamedType, error] {
	return func(func(sym.NamedType, error) bool) {}
}

func noType(id sym.TypeID) error { return fmt.Errorf("exports have no type %d", id) }
