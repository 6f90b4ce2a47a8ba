// Package dwarf reads the symbols that GCC and Clang leave in PE images, DWARF
// sections and the COFF symbol table, into the model of package sym. That is
// what drivers and kernels built with MinGW have instead of a PDB: ReactOS and
// its drivers above all.
//
// It knows DWARF 2 to 5 in one file. Split files (.dwo) are named as what is not
// read. It knows no other container than PE, for which no linker compresses
// sections. It writes nothing, and it does not look for files: package
// symbols does.
//
// It is not debug/dwarf, of which it uses the numbers only. That package wants
// whole sections in memory, reads all abbreviations when it opens them, finds
// nothing by name, reads no locations and no call frame information, and says
// of itself that damaged input may make it panic. Here everything is read when
// it is needed: an address finds its unit through .debug_aranges, a name its
// address through the COFF symbols, and only that unit is decoded. What needs
// names over all units (types, variables, wildcards) passes once over
// .debug_info and keeps an index of names. Decoded units are kept within a
// bound. Nothing in the file is trusted: memory is taken only in proportion to
// what is really there, and every walk has an end.
//
// The facts come from the DWARF specifications, versions 2 to 5, Microsoft's
// "PE Format", the Itanium C++ ABI and the psABIs of i386, x86-64 and AArch64
// (numbers of registers), and from comparing with nm, objdump and gdb.
package dwarf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"sync"
	"sync/atomic"

	"openkd/image/pe"
	"openkd/image/sym"
)

var le = binary.LittleEndian

// ErrMalformed is wrapped by every error that says the file contradicts the
// format. Errors of the reader do not wrap it.
var ErrMalformed = errors.New("damaged debug information")

// ErrNoSymbols says that an image has neither DWARF nor COFF symbols.
var ErrNoSymbols = errors.New("the image has no symbols: it was linked or stripped without them")

// ErrSplit is wrapped by the error that says that debug information is in files
// of its own.
var ErrSplit = errors.New("split debug information is not read")

func malformed(what, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrMalformed, what, fmt.Sprintf(format, args...))
}

// Bounds on what a file can make us do.
const (
	maxDIEs      = 4 << 20  // entries of one unit
	maxDepth     = 1024     // nesting of entries
	maxName      = 4096     // bytes
	maxHops      = 64       // references followed for one answer
	maxRows      = 4 << 20  // of one line table
	maxSteps     = 1 << 24  // list entries, rows and the like for one answer
	keepUnits    = 24 << 20 // bytes of decoded units
	keepLines    = 8 << 20  // bytes of decoded line tables
	maxMembers   = 1 << 18  // of one structure, those of anonymous members included
	maxProgram   = 4096     // bytes of a frame program
	maxAbbrevs   = 1 << 20  // of one table
	maxAttrs     = 256      // of one abbreviation
	maxExprSteps = 1 << 12  // operations of one expression
)

// Machines, as in the COFF header.
const (
	machineX86   = 0x14C
	machineX64   = 0x8664
	machineARM64 = 0xAA64
)

// File is an open image with symbols. It implements sym.File, whose comments
// are the contract.
type File struct {
	im     *pe.Image
	r      *blocks
	closer io.Closer

	symbols     int64 // COFF, offset in the file
	symbolCount uint32
	ehFrameRVA  uint32
	lineStrRVA  uint32

	info      section // .debug_info, and behind it .debug_types of DWARF 4
	typesFrom uint32  // where that begins; the size of info if there is none
	types     section

	abbrev, str, lineStr, line, aranges section
	ranges, rnglists, loc, loclists     section
	addrs, strOffsets, frame, ehFrame   section

	coff    lazy[*coffTable]
	heads   lazy[[]header]
	signed  lazy[map[uint64]uint32]
	covered lazy[[]extent]
	index   lazy[*index]
	fdes    lazy[[]fde]

	decoded atomic.Int64 // bytes of units, over and over
	large   uint32       // records of a table of symbols that is not read at once
	looked  atomic.Int32 // questions about symbols that were answered without that
	asked   atomic.Int32 // questions about types that were answered without the index
	units   *cache[uint32, *unit]
	lines   *cache[uint32, *lineTable]
}

// Open opens the image at path.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil {
		var d *File
		if d, err = New(f, st.Size()); err == nil {
			d.closer = f
			return d, nil
		}
		err = fmt.Errorf("%s: %w", path, err)
	}
	f.Close()
	return nil, err
}

// New reads the headers of an image of so many bytes. The reader stays the
// caller's; it must serve calls from several goroutines.
func New(r io.ReaderAt, size int64) (*File, error) {
	im, err := pe.Open(r, pe.File)
	if err != nil {
		return nil, err
	}
	f := &File{
		im: im, r: newBlocks(r, size), large: largeTable,
		units: newCache[uint32, *unit](keepUnits),
		lines: newCache[uint32, *lineTable](keepLines),
	}
	f.name()
	for i := range im.Sections {
		s := &im.Sections[i]
		for _, d := range f.sections() {
			if d.name != s.Name || d.size != 0 {
				continue
			}
			switch d {
			case &f.ehFrame:
				f.ehFrameRVA = s.VirtualAddress
			case &f.lineStr:
				f.lineStrRVA = s.VirtualAddress
			}
			d.off, d.size = int64(s.Offset), s.Size
			if s.VirtualSize != 0 {
				d.size = min(d.size, s.VirtualSize) // the rest is padding
			}
			if d.off+int64(d.size) > size {
				return nil, malformed(d.name, "it ends at %#x of the file, which has %#x bytes: the file is truncated",
					d.off+int64(d.size), size)
			}
		}
	}
	f.join()
	if f.symbols, f.symbolCount, err = im.SymbolTable(); err != nil {
		return nil, err
	}
	if f.info.size == 0 && f.symbolCount == 0 {
		return nil, ErrNoSymbols
	}
	if end := f.symbols + coffSymbol*int64(f.symbolCount); end > size {
		return nil, malformed("COFF symbol table", "it ends at %#x of the file, which has %#x bytes: the file is truncated", end, size)
	}
	return f, nil
}

// name gives the sections their names.
func (f *File) name() {
	for name, s := range map[string]*section{
		".debug_info": &f.info, ".debug_types": &f.types, ".debug_abbrev": &f.abbrev, ".debug_str": &f.str, ".debug_line_str": &f.lineStr,
		".debug_line": &f.line, ".debug_aranges": &f.aranges, ".debug_ranges": &f.ranges, ".debug_rnglists": &f.rnglists,
		".debug_loc": &f.loc, ".debug_loclists": &f.loclists, ".debug_addr": &f.addrs,
		".debug_str_offsets": &f.strOffsets, ".debug_frame": &f.frame, ".eh_frame": &f.ehFrame,
	} {
		s.r, s.name = f.r, name
	}
}

func (f *File) sections() []*section {
	return []*section{&f.info, &f.types, &f.abbrev, &f.str, &f.lineStr, &f.line, &f.aranges, &f.ranges, &f.rnglists,
		&f.loc, &f.loclists, &f.addrs, &f.strOffsets, &f.frame, &f.ehFrame}
}

// join counts the offsets of .debug_types on from those of .debug_info, so that
// an offset is enough to know an entry.
func (f *File) join() {
	f.typesFrom = f.info.size
	if f.types.size > math.MaxUint32-f.info.size {
		f.types.size = 0
	}
	f.info.more, f.info.size = &f.types, f.info.size+f.types.size
}

// Close closes the file that Open opened.
func (f *File) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}

// Identity is the time stamp and the size of the image; MinGW's linkers leave
// no GUID.
func (f *File) Identity() sym.Identity {
	return sym.Identity{Timestamp: f.im.TimeDateStamp, ImageSize: f.im.SizeOfImage}
}

// Private says whether there is DWARF.
func (f *File) Private() bool { return f.info.size != 0 }

// rva makes a relative address of one that DWARF gives, which counts from
// address 0 at the linker's image base. What lies outside of the image belonged
// to a section that the linker dropped.
func (f *File) rva(addr uint64) (uint32, bool) {
	d := addr - f.im.ImageBase
	return uint32(d), addr >= f.im.ImageBase && d < uint64(f.im.SizeOfImage)
}

// lazy is a value that is made when it is asked for first.
type lazy[T any] struct {
	mu   sync.Mutex
	done bool
	v    T
	err  error
}

// ready says whether the value has been made.
func (l *lazy[T]) ready() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.done
}

func (l *lazy[T]) get(make func() (T, error)) (T, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.done {
		l.v, l.err = make()
		l.done = true
	}
	return l.v, l.err
}

// effort bounds how often one answer decodes the same units, which a file could
// make it do by turns: the function it returns says when that is too often.
func (f *File) effort() func() error {
	limit := f.decoded.Load() + 16*int64(f.info.size) + 64<<20
	return func() error {
		if f.decoded.Load() > limit {
			return malformed(f.info.name, "the units refer to one another in a way that would take too long to follow")
		}
		return nil
	}
}

// work bounds what one answer may cost, where a file could make lists of lists.
type work struct{ left int }

func newWork() *work { return &work{maxSteps} }

func (w *work) do(n int) error {
	if w.left -= n; w.left < 0 {
		return malformed("lists", "more steps for one answer than a sound file takes")
	}
	return nil
}
