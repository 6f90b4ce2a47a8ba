package dwarf

import (
	"bytes"
	"container/list"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
)

const (
	blockSize = 32 << 10
	keepBlock = 96 // blocks
)

// blocks reads a file piece by piece and keeps the last pieces, for strings and
// tables that are read here and there.
type blocks struct {
	r    io.ReaderAt
	size int64

	mu   sync.Mutex
	kept map[int64][]byte
	ring [keepBlock]int64
	next int
}

func newBlocks(r io.ReaderAt, size int64) *blocks {
	b := &blocks{r: r, size: size, kept: map[int64][]byte{}}
	for i := range b.ring {
		b.ring[i] = -1
	}
	return b
}

// block is piece n of the file. The last one is short.
func (b *blocks) block(n int64) ([]byte, error) {
	b.mu.Lock()
	p, ok := b.kept[n]
	b.mu.Unlock()
	if ok {
		return p, nil
	}
	p = make([]byte, min(blockSize, b.size-n*blockSize))
	if err := b.read(p, n*blockSize); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.kept[n]; !ok {
		delete(b.kept, b.ring[b.next])
		b.ring[b.next] = n
		b.next = (b.next + 1) % keepBlock
		b.kept[n] = p
	}
	return p, nil
}

// read fills p from the file itself.
func (b *blocks) read(p []byte, off int64) error {
	n, err := b.r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%d bytes at %#x of the file: %w", len(p), off, err)
}

// section is a piece of the file that New has found to lie within it; size 0
// when the image has none of the name.
type section struct {
	r    *blocks
	name string
	off  int64
	size uint32
	more *section // of the size the last bytes are there; nil: none
}

// read reads n bytes, which must be there, into memory of their own.
func (s *section) read(off, n uint64) ([]byte, error) { return s.readTo(nil, off, n) }

// readTo is read into the memory of room, if there is enough.
func (s *section) readTo(room []byte, off, n uint64) ([]byte, error) {
	if off > uint64(s.size) || n > uint64(s.size)-off {
		return nil, malformed(s.name, "%#x bytes at %#x, of %#x", n, off, s.size)
	}
	p := slices.Grow(room[:0], int(n))[:n]
	here := p
	if s.more != nil && s.more.size > 0 {
		first := uint64(s.size - s.more.size)
		if off >= first {
			return s.more.readTo(room, off-first, n)
		}
		if here = p[:min(n, first-off)]; len(here) < len(p) {
			if _, err := s.more.readTo(p[len(here):len(here)], 0, n-uint64(len(here))); err != nil {
				return nil, err
			}
		}
	}
	if err := s.r.read(here, s.off+int64(off)); err != nil {
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	return p, nil
}

// tail reads up to n bytes from off.
func (s *section) tail(off, n uint64) ([]byte, error) {
	if off > uint64(s.size) {
		return nil, malformed(s.name, "offset %#x, of %#x bytes", off, s.size)
	}
	return s.read(off, min(n, uint64(s.size)-off))
}

// small reads n bytes, at most 8, through the blocks.
func (s *section) small(off uint64, n int) (uint64, error) {
	if off > uint64(s.size) || uint64(n) > uint64(s.size)-off {
		return 0, malformed(s.name, "%d bytes at %#x, of %#x", n, off, s.size)
	}
	var v uint64
	at := s.off + int64(off)
	for i := 0; i < n; {
		b, err := s.r.block(at / blockSize)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", s.name, err)
		}
		for _, c := range b[at%blockSize:] {
			v |= uint64(c) << (8 * i)
			at++
			if i++; i == n {
				break
			}
		}
	}
	return v, nil
}

// bytes is the zero-terminated string at off without its end. It may not be
// written to and is valid as long as it is held.
func (s *section) bytes(off uint64) ([]byte, error) {
	if off >= uint64(s.size) {
		return nil, malformed(s.name, "string at %#x, of %#x bytes", off, s.size)
	}
	at, end := s.off+int64(off), s.off+int64(s.size)
	var long []byte
	for at < end && len(long) <= maxName {
		b, err := s.r.block(at / blockSize)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.name, err)
		}
		b = b[at%blockSize:]
		b = b[:min(int64(len(b)), end-at)]
		if i := bytes.IndexByte(b, 0); i >= 0 {
			if long == nil && i <= maxName {
				return b[:i:i], nil
			}
			if long = append(long, b[:i]...); len(long) <= maxName {
				return long, nil
			}
		}
		long = append(long, b...)
		at += int64(len(b))
	}
	if len(long) > maxName {
		return nil, malformed(s.name, "the string at %#x is longer than %d bytes", off, maxName)
	}
	return nil, malformed(s.name, "the string at %#x has no end", off)
}

// search calls found with each place where the section has the bytes of key, in
// order, until it returns an error.
func (s *section) search(key []byte, found func(at uint32) error) error {
	const window = 1 << 20
	var room []byte
	for off := uint64(0); off < uint64(s.size); {
		b, err := s.readTo(room, off, min(window, uint64(s.size)-off))
		if err != nil {
			return err
		}
		room = b
		for p := 0; ; p++ {
			i := bytes.Index(b[p:], key)
			if i < 0 {
				break
			}
			p += i
			if err := found(uint32(off) + uint32(p)); err != nil {
				return err
			}
		}
		if len(b) < window {
			break
		}
		off += uint64(len(b) - len(key) + 1)
	}
	return nil
}

// cursor reads numbers off the front of a piece. Past the end everything is 0
// and bad is set.
type cursor struct {
	b   []byte
	p   int
	bad bool
}

func (c *cursor) fail() {
	c.bad = true
	c.p = len(c.b)
}

func (c *cursor) bytes(n uint64) []byte {
	if n > uint64(len(c.b)-c.p) {
		c.fail()
		return nil
	}
	b := c.b[c.p : c.p+int(n) : c.p+int(n)]
	c.p += int(n)
	return b
}

func (c *cursor) uint(n int) uint64 {
	var v uint64
	for i, x := range c.bytes(uint64(n)) {
		v |= uint64(x) << (8 * i)
	}
	return v
}

func (c *cursor) u8() uint8 {
	if c.p >= len(c.b) {
		c.fail()
		return 0
	}
	c.p++
	return c.b[c.p-1]
}

func (c *cursor) u16() uint16 { return uint16(c.uint(2)) }
func (c *cursor) u32() uint32 { return uint32(c.uint(4)) }
func (c *cursor) u64() uint64 { return c.uint(8) }

func (c *cursor) sint(n int) int64 {
	s := 64 - 8*n
	return int64(c.uint(n)<<s) >> s
}

func (c *cursor) uleb() uint64 {
	var v uint64
	for s := 0; ; s += 7 {
		if c.p >= len(c.b) {
			c.fail()
			return 0
		}
		x := c.b[c.p]
		c.p++
		if s < 64 {
			v |= uint64(x&0x7F) << s
		}
		if x < 0x80 {
			return v
		}
	}
}

func (c *cursor) sleb() int64 {
	var v int64
	for s := 0; ; s += 7 {
		if c.p >= len(c.b) {
			c.fail()
			return 0
		}
		x := c.b[c.p]
		c.p++
		if s < 64 {
			v |= int64(x&0x7F) << s
		}
		if x < 0x80 {
			if s+7 < 64 && x&0x40 != 0 {
				v |= -1 << (s + 7)
			}
			return v
		}
	}
}

// str is a zero-terminated string without its end.
func (c *cursor) str() []byte {
	i := bytes.IndexByte(c.b[c.p:], 0)
	if i < 0 {
		c.fail()
		return nil
	}
	b := c.b[c.p : c.p+i : c.p+i]
	c.p += i + 1
	return b
}

// length is the unit length that begins each table: 32 bits, or 64 after
// 0xFFFFFFFF; size is that of offsets in what follows.
func (c *cursor) length() (n uint64, size int) {
	n, size = uint64(c.u32()), 4
	if n == math.MaxUint32 {
		n, size = c.u64(), 8
	}
	return n, size
}

// cache keeps values up to a sum of costs, the last used ones, and always the
// newest.
type cache[K comparable, V any] struct {
	mu     sync.Mutex
	budget int
	used   int
	order  list.List // of *cached, the last used in front
	at     map[K]*list.Element
}

type cached[K comparable, V any] struct {
	key  K
	v    V
	cost int
}

func newCache[K comparable, V any](budget int) *cache[K, V] {
	return &cache[K, V]{budget: budget, at: map[K]*list.Element{}}
}

// get returns what is kept, or makes it; two callers at once may both make it.
func (c *cache[K, V]) get(key K, make func() (V, int, error)) (V, error) {
	c.mu.Lock()
	if e := c.at[key]; e != nil {
		c.order.MoveToFront(e)
		c.mu.Unlock()
		return e.Value.(*cached[K, V]).v, nil
	}
	c.mu.Unlock()
	v, cost, err := make()
	if err != nil {
		return v, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at[key] != nil {
		return v, nil
	}
	c.at[key] = c.order.PushFront(&cached[K, V]{key, v, cost})
	c.used += cost
	for c.used > c.budget && c.order.Len() > 1 {
		last := c.order.Remove(c.order.Back()).(*cached[K, V])
		delete(c.at, last.key)
		c.used -= last.cost
	}
	return v, nil
}
