// Package pdb reads program databases, the symbol files of Microsoft's and
// LLVM's linkers, into the model of package sym.
//
// It reads format 7.00 (MSF 7.00 with 32-bit type numbers and C13 lines), which
// every linker since Visual Studio 2003 writes. Older files, portable PDBs of
// .NET and PDBs whose symbols are elsewhere (/DEBUG:FASTLINK, type servers of
// compilers) are refused with a reason. It writes nothing, and it does not look
// for files: package symbols does.
//
// Everything is read when it is needed: opening a file touches a handful of its
// pages, a name is found through the file's own hash tables, an address through
// its sorted tables. What is kept is bounded, and nothing in the file is
// trusted: memory is taken only for what is really there, and every walk ends.
//
// The facts come from the sources that Microsoft published as microsoft-pdb, from
// LLVM's documentation of the PDB and CodeView formats, and from comparing with
// llvm-pdbutil.
package pdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"

	"openkd/image/sym"
)

var le = binary.LittleEndian

// ErrMalformed is wrapped by every error that says the file contradicts the
// format. Errors of the reader do not wrap it.
var ErrMalformed = errors.New("damaged PDB")

// ErrUnsupported is wrapped by errors about files that may be well but are not
// of the kind this package reads.
var ErrUnsupported = errors.New("not supported")

func malformed(what, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrMalformed, what, fmt.Sprintf(format, args...))
}

// Numbers of streams that every PDB has.
const (
	streamInfo = 1
	streamTPI  = 2
	streamDBI  = 3
	streamIPI  = 4
)

// Versions of the info stream, dates by their form. Before infoGUID a file has
// a time and no GUID.
const infoGUID = 19990604

// A feature at the end of the info stream: the symbols are in the object files.
const featureMinimal = 0x494e494d

// maxInfo bounds the info stream, whose map of names is read at once.
const maxInfo = 1 << 20

// usualNames is how many streams with names a file has, about.
const usualNames = 8

// File is an open PDB. It implements sym.File, whose comments are the contract.
type File struct {
	msf     *msf
	closer  io.Closer
	id      sym.Identity
	streams []namedStream
	dbi     dbi

	symbols    lazy[*tables]
	where      lazy[*layout]
	mods       moduleTable
	contribs   lazy[[]contrib]
	data       lazy[[]mark]
	cxxNames   lazy[[]hashed]
	texts      lazy[*stream]
	tpiStream  lazy[*typeStream]
	ipiStream  lazy[*typeStream]
	otherTypes lazy[[]hashed]

	unitsMu sync.Mutex
	units   map[uint16]*unit
	tick    uint64
}

var _ sym.File = (*File)(nil)

// Open opens the PDB at path.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil {
		var p *File
		if p, err = New(f, st.Size()); err == nil {
			p.closer = f
			return p, nil
		}
		err = fmt.Errorf("%s: %w", path, err)
	}
	_ = f.Close()
	return nil, err
}

// New reads a PDB of size bytes. The reader is used until Close, by several
// goroutines if the file is.
func New(r io.ReaderAt, size int64) (*File, error) {
	m, err := openMSF(r, size)
	if err != nil {
		return nil, err
	}
	f := &File{msf: m, units: map[uint16]*unit{}}
	if err := f.readInfo(); err != nil {
		return nil, err
	}
	if err := f.readDBI(); err != nil {
		return nil, err
	}
	return f, nil
}

// Close ends the use of the file.
func (f *File) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}

// Identity is the GUID with the age of the debug information, which is what an
// image refers to.
func (f *File) Identity() sym.Identity { return f.id }

// readInfo reads the info stream: version, time, age, GUID, and the names of
// named streams.
func (f *File) readInfo() error {
	s, err := f.msf.early(streamInfo, "PDB info stream")
	if err != nil {
		return err
	}
	if s.size > maxInfo {
		return malformed(s.what, "%d bytes", s.size)
	}
	raw, err := s.bytes(0, int64(s.size))
	if err != nil {
		return err
	}
	c := cursor{b: raw}
	version := c.u32()
	c.u32() // time
	f.id.Age = c.u32()
	if !c.bad && version < infoGUID {
		return fmt.Errorf("%w: a PDB of version %d, which has no GUID", ErrUnsupported, version)
	}
	copy(f.id.GUID[:], c.take(16))
	if c.bad {
		return malformed(s.what, "%d bytes", s.size)
	}
	f.streams = namedStreams(&c)
	for !c.bad && len(c.b) >= 4 {
		if c.u32() == featureMinimal {
			return fmt.Errorf("%w: linked with /DEBUG:FASTLINK, so its symbols are in the object files; link with /DEBUG:FULL", ErrUnsupported)
		}
	}
	return nil
}

// namedStream is a stream with a name.
type namedStream struct {
	name   string
	number uint32
}

// named returns the number of a stream with a name.
func (f *File) named(name string) (uint32, bool) {
	for _, s := range slices.Backward(f.streams) {
		if s.name == name {
			return s.number, true
		}
	}
	return 0, false
}

// namedStreams reads the map of names to streams: the names, then a hash table
// whose order does not matter here. A damaged map names nothing.
func namedStreams(c *cursor) []namedStream {
	names := c.take(int(c.u32()))
	count := c.u32()
	c.u32()                  // capacity
	c.take(4 * int(c.u32())) // which entries are used
	c.take(4 * int(c.u32())) // which were deleted
	out := make([]namedStream, 0, usualNames)
	for range count {
		off, n := c.u32(), c.u32()
		if c.bad || uint64(off) >= uint64(len(names)) {
			break
		}
		n2 := cursor{b: names[off:]}
		if name := n2.zstr(); !n2.bad {
			out = append(out, namedStream{string(name), n})
		}
	}
	c.u32() // the number of the next name
	return out
}

// Private says whether the file has more than public names.
func (f *File) Private() bool {
	if f.dbi.flags&dbiStripped != 0 {
		return false
	}
	t, err := f.tables()
	return err == nil && t.globals.count > 0
}
