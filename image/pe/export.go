package pe

import (
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
)

// Export is one exported symbol.
type Export struct {
	Name      string // "" exported by ordinal only
	Ordinal   uint32
	RVA       uint32 // 0 for a forwarder
	Forwarder string // "NTDLL.RtlFoo", "" for an export of its own
}

// Exports is the export directory. It reads its tables on demand, a page at a
// time and each page once, so it must not be used by several goroutines.
type Exports struct {
	Name         string // the module's name at link time
	Base         uint32 // ordinal of the first function
	NumFunctions uint32
	NumNames     uint32

	dir                        Directory
	functions, names, ordinals uint32
	p                          *pager
	text                       int // bytes of strings read, see maxText
}

// maxText bounds the strings of one directory: entries of a hostile table may
// all point at the same long string.
const maxText = 16 << 20

var errTooMuch = errors.New("the directory asks for more than a real one holds")

func (e *Exports) str(rva uint32, what string) (string, error) {
	if e.text > maxText {
		return "", fmt.Errorf("%w: %s: %w", ErrMalformed, what, errTooMuch)
	}
	s, err := readString(e.p, rva, what)
	e.text += len(s)
	if errors.Is(err, ErrMalformed) {
		e.text += maxString // read, and thrown away
	}
	return s, err
}

// Exports reads the export directory, not yet its tables; nil without an error
// when the image exports nothing.
func (im *Image) Exports() (*Exports, error) {
	d := im.Dirs[DirExport]
	if d.VirtualAddress == 0 || d.Size == 0 {
		return nil, nil
	}
	e := &Exports{dir: d, p: &pager{r: im, limit: int64(im.SizeOfImage), pages: map[int64][]byte{}}}
	var h [40]byte
	if err := readFull(e.p, h[:], int64(d.VirtualAddress), "export directory"); err != nil {
		return nil, err
	}
	e.Base, e.NumFunctions, e.NumNames = le.Uint32(h[16:]), le.Uint32(h[20:]), le.Uint32(h[24:])
	e.functions, e.names, e.ordinals = le.Uint32(h[28:]), le.Uint32(h[32:]), le.Uint32(h[36:])
	if e.NumFunctions > maxOrdinals {
		return nil, malformed("NumberOfFunctions", "%d is more than %d", e.NumFunctions, maxOrdinals)
	}
	if e.NumNames > maxOrdinals {
		return nil, malformed("NumberOfNames", "%d is more than %d", e.NumNames, maxOrdinals)
	}
	var err error
	if e.Name, err = readString(e.p, le.Uint32(h[12:]), "export directory name"); err != nil {
		// A module without a readable name still has exports.
		e.Name = ""
	}
	return e, nil
}

func (e *Exports) u32(table, i uint32, what string) (uint32, error) {
	var b [4]byte
	err := readFull(e.p, b[:], int64(table)+4*int64(i), what)
	return le.Uint32(b[:]), err
}

// function fills address or forwarder of the function with an index.
func (e *Exports) function(x *Export, index uint32) error {
	if index >= e.NumFunctions {
		return malformed("export ordinal", "index %d of %d functions", index, e.NumFunctions)
	}
	rva, err := e.u32(e.functions, index, "export addresses")
	if err != nil {
		return err
	}
	x.Ordinal = e.Base + index
	if rva >= e.dir.VirtualAddress && rva-e.dir.VirtualAddress < e.dir.Size {
		x.Forwarder, err = e.str(rva, "export forwarder")
		return err
	}
	x.RVA = rva
	return nil
}

// name reads entry i of the name table.
func (e *Exports) name(i uint32) (string, error) {
	at, err := e.u32(e.names, i, "export names")
	if err != nil {
		return "", err
	}
	return e.str(at, "export name")
}

func (e *Exports) named(i uint32, name string) (Export, error) {
	x := Export{Name: name}
	var b [2]byte
	if err := readFull(e.p, b[:], int64(e.ordinals)+2*int64(i), "export ordinals"); err != nil {
		return x, err
	}
	return x, e.function(&x, uint32(le.Uint16(b[:])))
}

// Lookup finds an export by name with a binary search, as the loader does; in
// an image whose names are not sorted it may miss.
func (e *Exports) Lookup(name string) (Export, bool, error) {
	lo, hi := uint32(0), e.NumNames
	for lo < hi {
		mid := lo + (hi-lo)/2
		s, err := e.name(mid)
		if err != nil {
			return Export{}, false, err
		}
		switch c := strings.Compare(s, name); {
		case c == 0:
			x, err := e.named(mid, s)
			return x, err == nil, err
		case c < 0:
			lo = mid + 1
		default:
			hi = mid
		}
	}
	return Export{}, false, nil
}

// ByOrdinal finds an export by its ordinal; its name is not looked for.
func (e *Exports) ByOrdinal(ord uint32) (Export, bool, error) {
	if ord < e.Base || ord-e.Base >= e.NumFunctions {
		return Export{}, false, nil
	}
	var x Export
	err := e.function(&x, ord-e.Base)
	return x, err == nil && (x.RVA != 0 || x.Forwarder != ""), err
}

// All lists the exports by ordinal, a function with several names several
// times. What cannot be read (missing pages, bad entries) is left out and
// reported by the first such error, so a partial list comes with an error.
func (e *Exports) All() ([]Export, error) {
	var out []Export
	var first error
	keep := func(err error) bool {
		if err != nil && first == nil {
			first = err
		}
		return err == nil
	}
	named := map[uint32]bool{}
	for i := range e.NumNames {
		name, err := e.name(i)
		if !keep(err) {
			if giveUp(err) {
				break
			}
			continue
		}
		x, err := e.named(i, name)
		if !keep(err) {
			continue
		}
		named[x.Ordinal] = true
		out = append(out, x)
	}
	for i := range e.NumFunctions {
		if named[e.Base+i] {
			continue
		}
		var x Export
		if err := e.function(&x, i); !keep(err) {
			if giveUp(err) {
				break
			}
			continue
		}
		if x.RVA != 0 || x.Forwarder != "" {
			out = append(out, x)
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Ordinal < out[j].Ordinal })
	return out, first
}

// giveUp: a table that runs past the end of the image has no more entries
// worth asking for; a missing page may be followed by present ones.
func giveUp(err error) bool {
	return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, errTooMuch)
}

// pager reads the image in pages and keeps them, failures too: the tables and
// strings of an export directory lie close together, and each read of a
// target's memory costs an exchange. Bounded in pages.
type pager struct {
	r     io.ReaderAt
	limit int64 // SizeOfImage
	pages map[int64][]byte
	errs  map[int64]error
}

const (
	pageSize = 4096
	maxPages = 8192
)

func (p *pager) page(n int64) ([]byte, error) {
	if b, ok := p.pages[n]; ok {
		return b, p.errs[n]
	}
	if len(p.pages) >= maxPages {
		return nil, fmt.Errorf("%w: export directory: %w", ErrMalformed, errTooMuch)
	}
	size := min(pageSize, p.limit-n*pageSize)
	if size <= 0 {
		return nil, io.EOF
	}
	b := make([]byte, size)
	k, err := p.r.ReadAt(b, n*pageSize)
	b = b[:max(k, 0)]
	if k == int(size) {
		err = nil
	}
	p.pages[n] = b
	if err != nil {
		if p.errs == nil {
			p.errs = map[int64]error{}
		}
		p.errs[n] = err
	}
	return b, err
}

// ReadAt implements io.ReaderAt.
func (p *pager) ReadAt(dst []byte, off int64) (int, error) {
	n := 0
	for n < len(dst) {
		at := off + int64(n)
		b, err := p.page(at / pageSize)
		in := int(at % pageSize)
		if in >= len(b) {
			if err == nil {
				err = io.EOF
			}
			return n, err
		}
		n += copy(dst[n:], b[in:])
	}
	return n, nil
}
