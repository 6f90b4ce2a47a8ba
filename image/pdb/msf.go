package pdb

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"sync"
	"sync/atomic"
)

// The magic of an MSF 7.00 file and of what may be taken for one.
var (
	magicMSF7  = []byte("Microsoft C/C++ MSF 7.00\r\n\x1aDS\x00\x00\x00")
	magicMSF2  = []byte("Microsoft C/C++ program database 2.00")
	magicMSFZ  = []byte("Microsoft MSFZ Container")
	magicBSJB  = []byte("BSJB")
	magicImage = []byte("MZ")
	magicCab   = []byte("MSCF")
)

// Bounds.
const (
	minBlock   = 512
	maxBlock   = 64 << 10
	cacheBytes = 4 << 20 // of pages that are kept
	firstPages = 96      // that a first question reads, about
	maxStreams = 1 << 16 // a stream's number has 16 bits
	noStream   = 0xffff
	noSize     = 0xffffffff // of a stream that was deleted
	superBytes = 56         // of the super block, one entry of its array included
)

// msf is a multi-stream file: blocks of one size, a directory that lists the
// blocks of every stream, and a block map that lists the blocks of the
// directory. Nothing but the super block is read before it is needed.
type msf struct {
	r      io.ReaderAt
	size   int64
	block  uint32 // bytes
	blocks uint32 // blocks in the file
	shift  uint   // block = 1<<shift
	dir    stream // the directory

	count   uint32 // streams
	streams lazy[[]extent]

	mu    sync.Mutex
	where map[uint32]int // block to slot
	slots []slot
	hand  int
	spare []byte
}

// slot holds a page; the pages are replaced as by a clock.
type slot struct {
	block uint32
	used  bool
	data  []byte
}

// extent is what the directory says of a stream.
type extent struct {
	size uint32 // bytes
	list uint32 // position of its block numbers in the directory, in bytes
}

// openMSF checks the super block and finds the directory.
func openMSF(r io.ReaderAt, size int64) (*msf, error) {
	var super [superBytes]byte
	n, err := r.ReadAt(super[:min(size, superBytes)], 0)
	if err != nil && (n < len(super) && !errors.Is(err, io.EOF)) {
		return nil, fmt.Errorf("reading the first bytes: %w", err)
	}
	head := super[:n]
	switch {
	case bytes.HasPrefix(head, magicMSF7):
	case bytes.HasPrefix(head, magicMSF2):
		return nil, fmt.Errorf("%w: a PDB of format 2.00, as linkers before Visual Studio 2003 wrote it; only format 7.00 is read", ErrUnsupported)
	case bytes.HasPrefix(head, magicBSJB):
		return nil, fmt.Errorf("%w: a portable PDB of .NET, which describes managed code only", ErrUnsupported)
	case bytes.HasPrefix(head, magicMSFZ):
		return nil, fmt.Errorf("%w: a compressed PDB (MSFZ); ask the symbol server for the plain file", ErrUnsupported)
	case bytes.HasPrefix(head, magicCab):
		return nil, fmt.Errorf("%w: a cabinet; the PDB in it must be expanded first", ErrUnsupported)
	case bytes.HasPrefix(head, magicImage):
		return nil, fmt.Errorf("%w: an image, not its PDB", ErrUnsupported)
	default:
		return nil, malformed("super block", "the file does not begin like a PDB")
	}
	if n < superBytes {
		return nil, malformed("super block", "the file ends in it")
	}
	m := &msf{r: r, size: size, block: le.Uint32(head[32:]), blocks: le.Uint32(head[40:])}
	if m.block < minBlock || m.block > maxBlock || m.block&(m.block-1) != 0 {
		return nil, malformed("super block", "a block size of %d bytes", m.block)
	}
	m.shift = uint(bits.TrailingZeros32(m.block))
	if want := int64(m.blocks) << m.shift; want > size {
		return nil, malformed("super block", "the file has %d bytes of the %d it should have: it was not copied completely", size, want)
	}
	dirBytes, mapBlock := le.Uint32(head[44:]), le.Uint32(head[52:])
	if int64(dirBytes) > size || dirBytes < 4 {
		return nil, malformed("super block", "a directory of %d bytes in a file of %d", dirBytes, size)
	}
	// Room for the pages of a first question, so that nothing has to grow on
	// the way to its answer.
	first := min(m.blocks, firstPages, uint32(cacheBytes>>m.shift))
	m.where = make(map[uint32]int, first)
	m.slots = make([]slot, 0, first)
	m.dir.m, m.dir.size, m.dir.what = m, dirBytes, "stream directory"
	if m.dir.list, err = m.blockMap(mapBlock, dirBytes); err != nil {
		return nil, err
	}
	var b [4]byte
	if err := m.dir.read(b[:], 0); err != nil {
		return nil, err
	}
	m.count = le.Uint32(b[:])
	if m.count > maxStreams || 4+4*int64(m.count) > int64(dirBytes) {
		return nil, malformed("stream directory", "%d streams in %d bytes", m.count, dirBytes)
	}
	return m, nil
}

// blockMap returns what lists the directory's blocks. The super block ends in
// an array of the blocks that hold the map. LLVM's tools write one entry only
// and put further blocks of the map behind the first.
func (m *msf) blockMap(first, dirBytes uint32) (func(uint32) (uint32, error), error) {
	perBlock := m.block / 4
	maps := (m.blocksOf(dirBytes) + perBlock - 1) / perBlock
	list := []uint32{first}
	if maps > 1 {
		if 4*int64(maps) > int64(m.block)-(superBytes-4) {
			return nil, malformed("super block", "a directory of %d bytes needs %d blocks of map", dirBytes, maps)
		}
		raw := make([]byte, 4*maps)
		if err := m.page(0, superBytes-4, raw); err != nil {
			return nil, err
		}
		list = list[:0]
		for i := range maps {
			n := le.Uint32(raw[4*i:])
			if n == 0 {
				n = first + i
			}
			list = append(list, n)
		}
	}
	return func(i uint32) (uint32, error) {
		var b [4]byte
		err := m.page(list[i/perBlock], i%perBlock*4, b[:])
		return le.Uint32(b[:]), err
	}, nil
}

func (m *msf) blocksOf(bytes uint32) uint32 {
	return uint32((uint64(bytes) + uint64(m.block) - 1) >> m.shift)
}

// extents reads the sizes of all streams. It is what opening a file leaves out.
func (m *msf) extents() ([]extent, error) {
	return m.streams.get(func() ([]extent, error) {
		list := make([]extent, m.count)
		if err := m.walkExtents(m.count, func(i uint32, e extent) { list[i] = e }); err != nil {
			return nil, err
		}
		return list, nil
	})
}

// walkExtents gives the first n streams to f. The sum of blocks is checked: a
// block belongs to one stream, so there cannot be more than the file has.
func (m *msf) walkExtents(n uint32, f func(uint32, extent)) error {
	const chunk = 128 // little, for the stack
	var raw [4 * chunk]byte
	pos := 4 + 4*uint64(m.count)
	var total uint64
	for i := uint32(0); i < n; i += chunk {
		part := raw[:4*min(chunk, n-i)]
		if err := m.dir.read(part, 4+4*int64(i)); err != nil {
			return err
		}
		for j := range uint32(len(part) / 4) {
			size := le.Uint32(part[4*j:])
			if size == noSize {
				size = 0
			}
			blocks := uint64(m.blocksOf(size))
			if total += blocks; total > uint64(m.blocks) || pos+4*blocks > uint64(m.dir.size) {
				return malformed("stream directory", "stream %d has %d bytes, more than the file has room for", i+j, size)
			}
			f(i+j, extent{size: size, list: uint32(pos)})
			pos += 4 * blocks
		}
	}
	return nil
}

// early opens one of the first streams without reading the sizes of all.
func (m *msf) early(n uint16, what string) (*stream, error) {
	if uint32(n) >= m.count {
		return nil, malformed(what, "the file has %d streams, not number %d", m.count, n)
	}
	var e extent
	if err := m.walkExtents(uint32(n)+1, func(_ uint32, x extent) { e = x }); err != nil {
		return nil, err
	}
	return m.at(e, what), nil
}

// open opens a stream by its number. what names it in errors.
func (m *msf) open(n uint16, what string) (*stream, error) {
	if uint32(n) >= m.count {
		return nil, malformed(what, "the file has %d streams, not number %d", m.count, n)
	}
	list, err := m.extents()
	if err != nil {
		return nil, err
	}
	return m.at(list[n], what), nil
}

func (m *msf) at(e extent, what string) *stream {
	return &stream{m: m, size: e.size, what: what, list: func(i uint32) (uint32, error) {
		return m.dir.u32(int64(e.list) + 4*int64(i))
	}}
}

// stream is an io.ReaderAt over the blocks of one stream.
type stream struct {
	m    *msf
	size uint32
	what string
	list func(i uint32) (uint32, error) // the file's block that is the stream's i-th
	last atomic.Uint64                  // the answer before: i+1, and the block
}

// blockAt returns the file's block that is the stream's i-th.
func (s *stream) blockAt(i uint32) (uint32, error) {
	if l := s.last.Load(); l>>32 == uint64(i)+1 {
		return uint32(l), nil
	}
	b, err := s.list(i)
	if err == nil {
		s.last.Store((uint64(i)+1)<<32 | uint64(b))
	}
	return b, err
}

// ReadAt reads through the cache what is less than a block and directly what
// is more, neighbouring blocks at once.
func (s *stream) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= int64(s.size) {
		return 0, io.EOF
	}
	short := false
	if rest := int64(s.size) - off; int64(len(p)) > rest {
		p, short = p[:rest], true
	}
	m, done := s.m, 0
	for done < len(p) {
		i, in := uint32(off>>m.shift), uint32(off)&(m.block-1)
		b, err := s.blockAt(i)
		if err != nil {
			return done, err
		}
		n := min(len(p)-done, int(m.block-in))
		if len(p)-done < 2*int(m.block) {
			err = m.page(b, in, p[done:done+n])
		} else {
			for next := b + 1; len(p)-done-n >= int(m.block); next++ {
				i++
				c, err := s.blockAt(i)
				if err != nil {
					return done, err
				}
				if c != next {
					break
				}
				n += int(m.block)
			}
			err = m.direct(p[done:done+n], b, in)
		}
		if err != nil {
			return done, fmt.Errorf("%s: %w", s.what, err)
		}
		done += n
		off += int64(n)
	}
	if short {
		return done, io.EOF
	}
	return done, nil
}

// read fills p or says that the stream is too short.
func (s *stream) read(p []byte, off int64) error {
	if off < 0 || off+int64(len(p)) > int64(s.size) {
		return malformed(s.what, "it has %d bytes, so none at %#x to %#x", s.size, off, off+int64(len(p)))
	}
	if len(p) == 0 {
		return nil
	}
	_, err := s.ReadAt(p, off)
	return err
}

func (s *stream) u32(off int64) (uint32, error) {
	var b [4]byte
	err := s.read(b[:], off)
	return le.Uint32(b[:]), err
}

// bytes reads a part of the stream, which the stream must really have.
func (s *stream) bytes(off, n int64) ([]byte, error) {
	if n < 0 || off < 0 || off+n > int64(s.size) {
		return nil, malformed(s.what, "it has %d bytes, so none at %#x to %#x", s.size, off, off+n)
	}
	p := make([]byte, n)
	return p, s.read(p, off)
}

// direct reads bytes of neighbouring blocks without the cache.
func (m *msf) direct(p []byte, block, in uint32) error {
	pos := int64(block)<<m.shift + int64(in)
	if block == 0 || pos+int64(len(p)) > int64(m.blocks)<<m.shift {
		return malformed("block list", "block %d of a file of %d", block, m.blocks)
	}
	if n, err := m.r.ReadAt(p, pos); n < len(p) {
		return fmt.Errorf("reading %d bytes at %#x: %w", len(p), pos, err)
	}
	return nil
}

// page copies a part of a block through the cache.
func (m *msf) page(block, in uint32, p []byte) error {
	if block >= m.blocks {
		return malformed("block list", "block %d of a file of %d", block, m.blocks)
	}
	m.mu.Lock()
	if i, ok := m.where[block]; ok {
		m.slots[i].used = true
		copy(p, m.slots[i].data[in:])
		m.mu.Unlock()
		return nil
	}
	buf := m.spare
	m.spare = nil
	m.mu.Unlock()
	if buf == nil {
		buf = make([]byte, m.block)
	}
	pos := int64(block) << m.shift
	if n, err := m.r.ReadAt(buf, pos); n < len(buf) {
		return fmt.Errorf("reading %d bytes at %#x: %w", len(buf), pos, err)
	}
	copy(p, buf[in:])
	m.keep(block, buf)
	return nil
}

// keep puts a page into the cache, in place of one that was not used lately.
func (m *msf) keep(block uint32, buf []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.where[block]; ok {
		m.spare = buf
		return
	}
	if len(m.slots) < cacheBytes>>m.shift {
		m.where[block] = len(m.slots)
		m.slots = append(m.slots, slot{block: block, used: true, data: buf})
		return
	}
	for m.slots[m.hand].used {
		m.slots[m.hand].used = false
		m.hand = (m.hand + 1) % len(m.slots)
	}
	s := &m.slots[m.hand]
	delete(m.where, s.block)
	m.where[block] = m.hand
	m.spare = s.data
	*s = slot{block: block, used: true, data: buf}
	m.hand = (m.hand + 1) % len(m.slots)
}

// lazy is a value that is made when it is first asked for. A failure is not
// kept: the next caller tries again.
type lazy[T any] struct {
	mu   sync.Mutex
	done bool
	v    T
}

func (l *lazy[T]) get(read func() (T, error)) (T, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.done {
		return l.v, nil
	}
	v, err := read()
	if err != nil {
		return v, err
	}
	l.v, l.done = v, true
	return v, nil
}

// window reads a stream from front to back in pieces.
type window struct {
	s     *stream
	buf   []byte
	from  int64
	piece int64 // bytes that are read at once; 0: windowBytes
}

const windowBytes = 64 << 10

// at returns n bytes at off, valid until the next call.
func (w *window) at(off, n int64) ([]byte, error) {
	if i := off - w.from; i >= 0 && i+n <= int64(len(w.buf)) {
		return w.buf[i : i+n], nil
	}
	if off < 0 || n < 0 || off+n > int64(w.s.size) {
		return nil, malformed(w.s.what, "it has %d bytes, so none at %#x to %#x", w.s.size, off, off+n)
	}
	piece := w.piece
	if piece == 0 {
		piece = windowBytes
	}
	size := min(max(n, piece), int64(w.s.size)-off)
	// Up to the end of a block: what is less goes through the cache, which has
	// no use for it.
	if cut := (off+size)&^int64(w.s.m.block-1) - off; cut >= n {
		size = cut
	}
	if int64(cap(w.buf)) < size {
		w.buf = make([]byte, size)
	}
	w.buf = w.buf[:size]
	w.from = off
	if err := w.s.read(w.buf, off); err != nil {
		w.buf = w.buf[:0]
		return nil, err
	}
	return w.buf[:n], nil
}
