// Package pe reads the headers, exports, debug directory, relocations and the
// table of functions of Portable Executable images, from files and from images
// as they lie mapped in the memory of a target, where pages may be missing.
//
// It is not debug/pe: that reads whole sections into memory and knows files
// only. Nothing here is trusted: every count and offset is checked, tables are
// read piece by piece, and memory is taken only for what has been read. It
// knows no symbols (package symbols) and not what unwind data says (package
// unwind).
//
// The format is Microsoft's published "PE Format" specification.
package pe

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"openkd/kdproto"
)

var le = binary.LittleEndian

// ErrMalformed is wrapped by every error that says the image contradicts the
// format; the error's text names the field. Errors of the reader, such as
// missing pages, do not wrap it.
var ErrMalformed = errors.New("malformed image")

// ErrUnsupported is wrapped by errors about well-formed but unknown formats.
var ErrUnsupported = errors.New("not supported")

func malformed(field, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrMalformed, field, fmt.Sprintf(format, args...))
}

// Bounds. The section limit is the Windows loader's.
const (
	maxSections  = 96
	maxHeaderPos = 1 << 20
	maxOptional  = 4096
	maxString    = 4096
	maxOrdinals  = 1 << 16
	maxDebug     = 64
)

// Layout says how the bytes behind the reader lie.
type Layout uint8

// Layouts.
const (
	File   Layout = iota // as on disk: offsets are file offsets
	Mapped               // as in memory: offsets are relative to the image's base
)

// Directory is an entry of the optional header's data directories.
type Directory struct{ VirtualAddress, Size uint32 }

// Indices of the data directories.
const (
	DirExport    = 0
	DirImport    = 1
	DirResource  = 2
	DirException = 3
	DirSecurity  = 4
	DirBaseReloc = 5
	DirDebug     = 6
)

// Section is one section header.
type Section struct {
	Name            string
	VirtualAddress  uint32 // relative to the base
	VirtualSize     uint32 // bytes in memory
	Offset          uint32 // in the file
	Size            uint32 // bytes in the file
	Characteristics uint32
}

// Section characteristics a debugger looks at.
const (
	SectionCode        = 0x00000020
	SectionDiscardable = 0x02000000
	SectionExecute     = 0x20000000
	SectionWrite       = 0x80000000
)

// Image is an image whose headers have been read. Its methods read more on
// demand; they are safe for concurrent use when the reader's ReadAt is.
type Image struct {
	Layout             Layout
	Machine            kdproto.Machine
	PE32Plus           bool
	Characteristics    uint16
	DllCharacteristics uint16
	Subsystem          uint16
	TimeDateStamp      uint32 // seconds since 1970, or a hash for reproducible builds
	CheckSum           uint32
	SizeOfImage        uint32
	SizeOfHeaders      uint32
	EntryPoint         uint32 // relative to the base; 0 none
	ImageBase          uint64 // preferred, in mapped images the actual base
	SectionAlignment   uint32
	FileAlignment      uint32
	Sections           []Section
	Dirs               [16]Directory

	r io.ReaderAt
	// flat: aligned to less than a page and laid out in the file as in
	// memory; the loader maps such an image as one piece.
	flat    bool
	strings int64 // file offset of the COFF string table, 0 none
}

// readFull fills p from offset off and names what it was reading on failure.
func readFull(r io.ReaderAt, p []byte, off int64, what string) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%s: %d bytes at %#x: %w", what, len(p), off, err)
}

// Open reads the headers of an image. For Mapped, r is addressed relative to
// the image's base.
func Open(r io.ReaderAt, layout Layout) (*Image, error) {
	im := &Image{Layout: layout, r: r}
	var dos [64]byte
	if err := readFull(r, dos[:], 0, "DOS header"); err != nil {
		return nil, err
	}
	if dos[0] != 'M' || dos[1] != 'Z' {
		return nil, malformed("e_magic", "% x is not MZ", dos[:2])
	}
	pos := le.Uint32(dos[0x3C:])
	if pos > maxHeaderPos || pos < 4 {
		return nil, malformed("e_lfanew", "%#x", pos)
	}
	var h [24]byte // signature and COFF header
	if err := readFull(r, h[:], int64(pos), "PE header"); err != nil {
		return nil, err
	}
	if string(h[:4]) != "PE\x00\x00" {
		return nil, malformed("signature", "% x is not PE", h[:4])
	}
	im.Machine = kdproto.Machine(le.Uint16(h[4:]))
	n := int(le.Uint16(h[6:]))
	im.TimeDateStamp = le.Uint32(h[8:])
	if symtab, count := le.Uint32(h[12:]), le.Uint32(h[16:]); symtab != 0 && layout == File {
		im.strings = int64(symtab) + 18*int64(count)
	}
	optSize := int(le.Uint16(h[20:]))
	im.Characteristics = le.Uint16(h[22:])
	if n == 0 || n > maxSections {
		return nil, malformed("NumberOfSections", "%d is not in 1..%d", n, maxSections)
	}
	if optSize < 96 || optSize > maxOptional {
		return nil, malformed("SizeOfOptionalHeader", "%d", optSize)
	}
	opt := make([]byte, optSize)
	if err := readFull(r, opt, int64(pos)+24, "optional header"); err != nil {
		return nil, err
	}
	if err := im.optional(opt); err != nil {
		return nil, err
	}
	im.flat = im.SectionAlignment < 0x1000
	raw := make([]byte, 40*n)
	if err := readFull(r, raw, int64(pos)+24+int64(optSize), "section headers"); err != nil {
		return nil, err
	}
	for i := range n {
		s, err := im.section(raw[40*i:], i)
		if err != nil {
			return nil, err
		}
		im.Sections = append(im.Sections, s)
		im.flat = im.flat && (s.Offset == s.VirtualAddress || s.Size == 0)
	}
	return im, nil
}

func (im *Image) optional(o []byte) error {
	dirs := 0
	switch magic := le.Uint16(o); magic {
	case 0x10B:
		im.ImageBase = uint64(le.Uint32(o[28:]))
		dirs = 96
	case 0x20B:
		if len(o) < 112 {
			return malformed("SizeOfOptionalHeader", "%d is too short for PE32+", len(o))
		}
		im.PE32Plus = true
		im.ImageBase = le.Uint64(o[24:])
		dirs = 112
	default:
		return malformed("Magic", "%#x is neither PE32 (0x10b) nor PE32+ (0x20b)", magic)
	}
	im.EntryPoint = le.Uint32(o[16:])
	im.SectionAlignment, im.FileAlignment = le.Uint32(o[32:]), le.Uint32(o[36:])
	im.SizeOfImage, im.SizeOfHeaders, im.CheckSum = le.Uint32(o[56:]), le.Uint32(o[60:]), le.Uint32(o[64:])
	im.Subsystem, im.DllCharacteristics = le.Uint16(o[68:]), le.Uint16(o[70:])
	if a := im.SectionAlignment; a == 0 || a&(a-1) != 0 {
		return malformed("SectionAlignment", "%#x is not a power of two", a)
	}
	if a := im.FileAlignment; a == 0 || a&(a-1) != 0 {
		return malformed("FileAlignment", "%#x is not a power of two", a)
	}
	if im.SizeOfImage == 0 || im.SizeOfImage > 1<<31 {
		return malformed("SizeOfImage", "%#x", im.SizeOfImage)
	}
	if im.SizeOfHeaders > im.SizeOfImage {
		return malformed("SizeOfHeaders", "%#x is more than SizeOfImage %#x", im.SizeOfHeaders, im.SizeOfImage)
	}
	count := le.Uint32(o[dirs-4:])
	for i := 0; i < len(im.Dirs) && uint32(i) < count && dirs+8*i+8 <= len(o); i++ {
		im.Dirs[i] = Directory{le.Uint32(o[dirs+8*i:]), le.Uint32(o[dirs+8*i+4:])}
	}
	return nil
}

func (im *Image) section(h []byte, i int) (Section, error) {
	s := Section{
		Name: cstring(h[:8]), VirtualSize: le.Uint32(h[8:]), VirtualAddress: le.Uint32(h[12:]),
		Size: le.Uint32(h[16:]), Offset: le.Uint32(h[20:]), Characteristics: le.Uint32(h[36:]),
	}
	if uint64(s.VirtualAddress)+uint64(s.VirtualSize) > 1<<32 {
		return s, malformed(fmt.Sprintf("section %d", i), "address %#x and size %#x wrap around", s.VirtualAddress, s.VirtualSize)
	}
	// MinGW's long names are offsets into the string table.
	if num, ok := strings.CutPrefix(s.Name, "/"); ok && im.strings != 0 {
		if off, err := strconv.ParseUint(num, 10, 32); err == nil {
			var b [64]byte
			k, _ := im.r.ReadAt(b[:], im.strings+int64(off))
			if name := cstring(b[:max(k, 0)]); name != "" && len(name) < k {
				s.Name = name
			}
		}
	}
	return s, nil
}

func cstring(b []byte) string {
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return string(b)
}

// Key is the folder of the image in a symbol store: time stamp and size.
func (im *Image) Key() string { return fmt.Sprintf("%08X%x", im.TimeDateStamp, im.SizeOfImage) }

// SectionOf is the section that holds a relative address, nil when none does.
func (im *Image) SectionOf(rva uint32) *Section {
	for i := range im.Sections {
		s := &im.Sections[i]
		if rva >= s.VirtualAddress && uint64(rva) < uint64(s.VirtualAddress)+uint64(s.extent()) {
			return s
		}
	}
	return nil
}

// extent is the section's size in memory; old linkers leave VirtualSize 0.
func (s *Section) extent() uint32 {
	if s.VirtualSize == 0 {
		return s.Size
	}
	return s.VirtualSize
}

// ReadAt reads the image as the loader would map it, without relocations:
// off is relative to the base, gaps and uninitialised data read as zero, and
// the end is SizeOfImage. Of a Mapped image it reads memory as it is.
func (im *Image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, fmt.Errorf("image offset %d is negative", off)
	}
	if im.Layout == Mapped {
		return im.r.ReadAt(p, off)
	}
	n := 0
	for n < len(p) {
		rva := off + int64(n)
		if rva >= int64(im.SizeOfImage) {
			return n, io.EOF
		}
		fileOff, run := im.locate(uint32(rva))
		k := int(min(int64(len(p)-n), run, int64(im.SizeOfImage)-rva))
		if fileOff < 0 {
			clear(p[n : n+k])
			n += k
			continue
		}
		got, err := im.r.ReadAt(p[n:n+k], fileOff)
		got = min(max(got, 0), k)
		n += got
		switch {
		case got == k:
		case err != nil && !errors.Is(err, io.EOF):
			return n, fmt.Errorf("image data at %#x of the file: %w", fileOff+int64(got), err)
		case im.flat:
			// The rest of the file's last page.
			clear(p[n : n+k-got])
			n += k - got
		default:
			return n, fmt.Errorf("image data: the file ends at %#x, before the end of its sections: %w", fileOff+int64(got), io.ErrUnexpectedEOF)
		}
	}
	return n, nil
}

// locate finds where a relative address lies in the file, -1 for zeroes, and
// how far that holds.
func (im *Image) locate(rva uint32) (off, run int64) {
	if im.flat {
		return int64(rva), 1 << 32
	}
	next := int64(im.SizeOfImage)
	for i := range im.Sections {
		s := &im.Sections[i]
		if rva < s.VirtualAddress {
			next = min(next, int64(s.VirtualAddress))
			continue
		}
		in := int64(rva - s.VirtualAddress)
		data := int64(s.Size)
		if s.VirtualSize != 0 {
			// What the file holds beyond the section is padding, which the
			// loader maps up to the end of the page.
			data = min(data, (int64(s.VirtualSize)+0xFFF)&^0xFFF)
		}
		if in < data {
			at := int64(s.Offset)
			if im.FileAlignment >= 0x200 {
				at &^= 0x1FF // the loader reads whole sectors
			}
			return at + in, data - in
		}
	}
	run = max(next-int64(rva), 1)
	if rva < im.SizeOfHeaders {
		return int64(rva), min(run, int64(im.SizeOfHeaders-rva))
	}
	return -1, run
}

// readString reads a NUL-terminated string at a relative address.
func readString(r io.ReaderAt, rva uint32, what string) (string, error) {
	var s []byte
	for len(s) < maxString {
		var b [64]byte
		n, err := r.ReadAt(b[:], int64(rva)+int64(len(s)))
		for i := range n {
			if b[i] == 0 {
				return string(append(s, b[:i]...)), nil
			}
		}
		s = append(s, b[:n]...)
		if n < len(b) {
			if err == nil || errors.Is(err, io.EOF) {
				return "", malformed(what, "the string at %#x has no end", rva)
			}
			return "", fmt.Errorf("%s at %#x: %w", what, rva, err)
		}
	}
	return "", malformed(what, "the string at %#x is longer than %d", rva, maxString)
}
