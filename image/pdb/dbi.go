package pdb

import "fmt"

// dbiHeader is the size of the DBI stream's header.
const dbiHeader = 64

// dbi is the header of the DBI stream, which says where the rest is.
type dbi struct {
	s       *stream // nil: the file describes types only
	age     uint32
	globals uint16 // stream with the hash table of global symbols
	publics uint16 // stream with the hash table and address map of public symbols
	records uint16 // stream with the records of both
	flags   uint16
	machine uint16 // IMAGE_FILE_MACHINE_*
	// Parts of the stream.
	modules, contribs, files, debug part
}

// part is a range of bytes of a stream.
type part struct{ off, size int64 }

func (p part) end() int64 { return p.off + p.size }

// Flags of the DBI stream.
const dbiStripped = 2 // private symbols were removed

// Machines.
const (
	machineX86   = 0x14c
	machineX64   = 0x8664
	machineARM64 = 0xaa64
)

func (f *File) readDBI() error {
	s, err := f.msf.early(streamDBI, "DBI stream")
	if err != nil {
		return err
	}
	if s.size == 0 {
		return fmt.Errorf("%w: it describes types only, as the PDBs that compilers write for the linker", ErrUnsupported)
	}
	raw, err := s.bytes(0, min(int64(s.size), dbiHeader))
	if err != nil {
		return err
	}
	c := cursor{b: raw}
	if c.u32() != 0xffffffff {
		return fmt.Errorf("%w: its DBI stream is of the form used before 1997", ErrUnsupported)
	}
	d := dbi{s: s}
	c.u32() // version
	d.age = c.u32()
	d.globals = c.u16()
	c.u16() // build number
	d.publics = c.u16()
	c.u16() // version of the writer
	d.records = c.u16()
	c.u16() // and its build
	off := int64(dbiHeader)
	next := func() part {
		p := part{off, int64(int32(c.u32()))}
		off += p.size
		if p.size < 0 || off > int64(s.size) {
			c.bad = true
		}
		return p
	}
	d.modules, d.contribs = next(), next()
	next() // sections of the image, without addresses
	d.files = next()
	types := next()
	c.u32() // type server of MFC
	debug := int64(int32(c.u32()))
	ec := int64(int32(c.u32()))
	d.debug = part{types.end() + ec, debug}
	d.flags = c.u16()
	d.machine = c.u16()
	c.u32()
	if c.bad || ec < 0 || debug < 0 || d.debug.end() > int64(s.size) {
		return malformed(s.what, "its parts have more than its %d bytes", s.size)
	}
	f.dbi = d
	f.id.Age = d.age
	return nil
}
