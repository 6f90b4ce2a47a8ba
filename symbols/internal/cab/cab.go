// Package cab expands Microsoft Cabinet files of one file, which is how symbol
// servers keep compressed ones (name.pd_): stored, MSZIP and LZX. Quantum, sets
// of several cabinets and everything that is not the first file are left alone.
// It writes no cabinets.
//
// Nothing in the file is trusted: what is produced is bounded by the caller,
// memory by the window that LZX names (2 MiB at most), and each block by 32 KiB.
//
// The facts come from Microsoft's "Cabinet File Format", "MSZIP Compression
// Format" and [MS-PATCH] "LZX DELTA Compression and Decompression", and from
// comparing with cabextract.
package cab

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

var le = binary.LittleEndian

// ErrMalformed is wrapped by every error that says the cabinet contradicts the
// format. Errors of the reader and the writer do not wrap it.
var ErrMalformed = errors.New("damaged cabinet")

// ErrUnsupported is wrapped by errors about well-formed cabinets of a kind that
// is not read.
var ErrUnsupported = errors.New("not supported")

// ErrTooLarge says that the file in the cabinet is larger than the caller wants.
var ErrTooLarge = errors.New("the file in the cabinet is too large")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// Signature is how every cabinet begins.
const Signature = "MSCF"

const (
	frame    = 32 << 10   // bytes that a block expands to, but for the last
	maxBlock = 38912      // bytes of a compressed block: 32 KiB + 6144
	maxName  = 256        // bytes of a name
	folderAt = 8          // bytes of CFFOLDER without what is reserved
	fileAt   = 16         // bytes of CFFILE without its name
	dataAt   = 8          // bytes of CFDATA without what is reserved
	hasPrev  = 1          // flags of CFHEADER
	hasNext  = 2          //
	hasSpare = 4          //
	spanning = 0xFFFD     // from here on iFolder is in another cabinet
	maxFirst = 0x7FFF8000 // what the blocks of one folder can hold
)

// Kinds of compression, the low four bits of typeCompress.
const (
	stored = iota
	mszip
	quantum
	lzx
)

// File is what a cabinet says of its first file.
type File struct {
	Name string
	Size int64 // bytes
}

// Expand writes the first file of the cabinet to w. It fails before it writes
// if that is larger than limit bytes.
func Expand(ctx context.Context, w io.Writer, r io.Reader, limit int64) (File, error) {
	c := &cabinet{r: r}
	f, err := c.open()
	if err != nil {
		return f, err
	}
	if f.Size > limit {
		return f, fmt.Errorf("%w: %d bytes, and %d are allowed", ErrTooLarge, f.Size, limit)
	}
	return f, c.expand(ctx, w, f.Size)
}

// cabinet reads from the beginning to the end, once.
type cabinet struct {
	r      io.Reader
	pos    int64
	spare  int // bytes reserved in each CFDATA
	blocks int // in the folder
	method uint16
	skip   int64 // what the folder holds before the file
}

func (c *cabinet) read(p []byte, what string) error {
	n, err := io.ReadFull(c.r, p)
	c.pos += int64(n)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return malformed("it ends in the %s, at %#x", what, c.pos)
	}
	return fmt.Errorf("%s at %#x: %w", what, c.pos, err)
}

// to skips what lies before an offset.
func (c *cabinet) to(off int64, what string) error {
	if off < c.pos {
		return malformed("the %s at %#x lies before %#x", what, off, c.pos)
	}
	n, err := io.CopyN(io.Discard, c.r, off-c.pos)
	c.pos += n
	if errors.Is(err, io.EOF) {
		return malformed("it ends before the %s at %#x", what, off)
	}
	return err
}

func (c *cabinet) text(what string) (string, error) {
	var s []byte
	for {
		var b [1]byte
		if err := c.read(b[:], what); err != nil {
			return "", err
		}
		if b[0] == 0 {
			return string(s), nil
		}
		if s = append(s, b[0]); len(s) > maxName {
			return "", malformed("the %s has no end", what)
		}
	}
}

// open reads up to the first block of data.
func (c *cabinet) open() (File, error) {
	var f File
	var h [36]byte
	if err := c.read(h[:], "header"); err != nil {
		return f, err
	}
	files, major, folders, count := le.Uint32(h[16:]), h[25], le.Uint16(h[26:]), le.Uint16(h[28:])
	flags := le.Uint16(h[30:])
	switch {
	case string(h[:4]) != Signature:
		return f, malformed("it begins with %q", h[:4])
	case major != 1:
		return f, fmt.Errorf("%w: a cabinet of version %d", ErrUnsupported, major)
	case folders == 0 || count == 0:
		return f, malformed("%d folders with %d files", folders, count)
	case flags&(hasPrev|hasNext) != 0:
		return f, fmt.Errorf("%w: one of a set of cabinets", ErrUnsupported)
	}
	folderSpare := 0
	if flags&hasSpare != 0 {
		var s [4]byte
		if err := c.read(s[:], "sizes of what is reserved"); err != nil {
			return f, err
		}
		folderSpare, c.spare = int(s[2]), int(s[3])
		if err := c.to(c.pos+int64(le.Uint16(s[:])), "end of what is reserved"); err != nil {
			return f, err
		}
	}
	folder := make([]byte, folderAt+folderSpare)
	if err := c.read(folder, "first folder"); err != nil {
		return f, err
	}
	data := int64(le.Uint32(folder))
	c.blocks, c.method = int(le.Uint16(folder[4:])), le.Uint16(folder[6:])

	if err := c.to(int64(files), "list of files"); err != nil {
		return f, err
	}
	var e [fileAt]byte
	if err := c.read(e[:], "first file"); err != nil {
		return f, err
	}
	f.Size, c.skip = int64(le.Uint32(e[:])), int64(le.Uint32(e[4:]))
	if n := le.Uint16(e[8:]); n >= spanning {
		return f, fmt.Errorf("%w: its file is in several cabinets", ErrUnsupported)
	} else if n != 0 {
		return f, malformed("its first file is in folder %d", n)
	}
	var err error
	if f.Name, err = c.text("name of the first file"); err != nil {
		return f, err
	}
	if f.Size+c.skip > maxFirst || f.Size+c.skip > int64(c.blocks)*frame {
		return f, malformed("a file of %d bytes in %d blocks of 32 KiB", f.Size, c.blocks)
	}
	return f, c.to(data, "data")
}

// expander turns one block into its frame of so many bytes, which is valid up to
// the next call.
type expander interface {
	expand(block []byte, size int) ([]byte, error)
}

func (c *cabinet) expander() (expander, error) {
	switch c.method & 15 {
	case stored:
		return plain{}, nil
	case mszip:
		return &zip{}, nil
	case quantum:
		return nil, fmt.Errorf("%w: Quantum compression", ErrUnsupported)
	case lzx:
		bits := int(c.method >> 8 & 31)
		if bits < minWindow || bits > maxWindow {
			return nil, malformed("an LZX window of %d bits", bits)
		}
		return newLZX(bits), nil
	}
	return nil, fmt.Errorf("%w: compression of kind %d", ErrUnsupported, c.method&15)
}

func (c *cabinet) expand(ctx context.Context, w io.Writer, size int64) error {
	x, err := c.expander()
	if err != nil {
		return err
	}
	head := make([]byte, dataAt+c.spare)
	block := make([]byte, maxBlock)
	left := c.blocks
	for ; size > 0 && left > 0; left-- {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := c.read(head, "head of a block"); err != nil {
			return err
		}
		sum, n, out := le.Uint32(head), int(le.Uint16(head[4:])), int(le.Uint16(head[6:]))
		if n > maxBlock || out > frame || out == 0 || out < frame && left > 1 && c.method&15 != stored {
			return malformed("a block of %d bytes for %d, at %#x", n, out, c.pos)
		}
		if err := c.read(block[:n], "block"); err != nil {
			return err
		}
		if sum != 0 {
			// What is reserved is not part of it.
			if have := checksum(head[4:dataAt], checksum(block[:n], 0)); have != sum {
				return malformed("the block before %#x has the check sum %#x, not %#x", c.pos, have, sum)
			}
		}
		b, err := x.expand(block[:n], out)
		if err != nil {
			return fmt.Errorf("the block before %#x: %w", c.pos, err)
		}
		k := min(c.skip, int64(len(b)))
		c.skip -= k
		b = b[k:]
		b = b[:min(size, int64(len(b)))]
		if _, err := w.Write(b); err != nil {
			return err
		}
		size -= int64(len(b))
	}
	if size > 0 {
		return malformed("its blocks end %d bytes before the end of the file", size)
	}
	return nil
}

// checksum adds up words of four bytes by exclusive or, from seed; the last one
// to three bytes count as a big-endian number.
func checksum(p []byte, seed uint32) uint32 {
	for ; len(p) >= 4; p = p[4:] {
		seed ^= le.Uint32(p)
	}
	var tail uint32
	for _, b := range p {
		tail = tail<<8 | uint32(b)
	}
	return seed ^ tail
}

type plain struct{}

func (plain) expand(block []byte, size int) ([]byte, error) {
	if len(block) != size {
		return nil, malformed("%d bytes stored as %d", size, len(block))
	}
	return block, nil
}

// zip is MSZIP: each block is a deflate stream of its own, which may refer to
// the frame before.
type zip struct {
	r    io.ReadCloser
	last []byte
	next []byte
}

func (z *zip) expand(block []byte, size int) ([]byte, error) {
	if len(block) < 2 || string(block[:2]) != "CK" {
		return nil, malformed("an MSZIP block that does not begin with CK")
	}
	in := bytes.NewReader(block[2:])
	if z.r == nil {
		z.r, z.next = flate.NewReader(in), make([]byte, frame)
	} else if err := z.r.(flate.Resetter).Reset(in, z.last); err != nil {
		return nil, err
	}
	out := z.next[:size]
	if _, err := io.ReadFull(z.r, out); err != nil {
		return nil, malformed("MSZIP: %v", err)
	}
	if n, err := z.r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		return nil, malformed("an MSZIP block that goes on behind %d bytes (%v)", size, err)
	}
	// The reader has copied the dictionary, so two buffers take turns.
	z.last, z.next = out, append(z.last[:0:0], make([]byte, frame)...)
	return out, nil
}
