package cab

import "encoding/binary"

// LZX, as cabinets have it: a window of 32 KiB to 2 MiB that lives as long as
// the folder, frames of 32 KiB that begin at a word of the input each, blocks of
// any size across them. Words are little-endian, bits are taken from the top.
const (
	minWindow = 15 // bits
	maxWindow = 21

	numChars    = 256
	numLengths  = 249 // symbols of the tree of lengths
	numAligned  = 8
	numPre      = 20
	minMatch    = 2
	longMatch   = 7       // in a symbol: the length goes on in the tree of lengths
	maxE8Frames = 1 << 15 // calls are translated in the first gigabyte only
	maxCode     = 16      // bits of a code
)

// Kinds of blocks.
const (
	verbatim = iota + 1
	aligned
	uncompressed
)

// slots by the bits of the window.
var slots = [...]int{minWindow: 30, 32, 34, 36, 38, 42, 50}

// position returns where the offsets of a slot begin, and how many bits follow.
func position(slot int) (base, extra uint) {
	switch {
	case slot < 4:
		return uint(slot), 0
	case slot < 36:
		extra = uint(slot)/2 - 1
		return (2 + uint(slot)&1) << extra, extra
	}
	return uint(slot-34) << 17, 17
}

type lzxDecoder struct {
	window []byte
	pos    int   // in the window, where the next byte goes
	total  int64 // bytes produced, by frames
	r      [3]uint

	begun    bool
	fileSize uint32 // for the translation of calls; 0: none

	kind int // of the block; 0: a new one begins
	left int // bytes of the block
	odd  bool

	mainLen   []uint8
	lengthLen [numLengths]uint8
	main      tree
	length    tree
	align     tree

	in  bits
	out []byte
}

func newLZX(windowBits int) *lzxDecoder {
	return &lzxDecoder{
		window:  make([]byte, 1<<windowBits),
		r:       [3]uint{1, 1, 1},
		mainLen: make([]uint8, numChars+8*slots[windowBits]),
		out:     make([]byte, frame),
	}
}

// expand decodes one frame.
func (d *lzxDecoder) expand(block []byte, size int) ([]byte, error) {
	d.in = bits{p: block}
	if !d.begun {
		d.begun = true
		if d.in.get(1) != 0 {
			d.fileSize = uint32(d.in.get(16)) << 16
			d.fileSize |= uint32(d.in.get(16))
		}
	}
	start := d.pos
	if size > len(d.window)-start {
		return nil, malformed("LZX data behind a frame that was short")
	}
	for left := size; left > 0; {
		if d.left == 0 {
			if err := d.block(); err != nil {
				return nil, err
			}
		}
		n := min(left, d.left)
		var err error
		if d.kind == uncompressed {
			err = d.copy(n)
		} else {
			err = d.decode(n)
		}
		if err != nil {
			return nil, err
		}
		left -= n
		d.left -= n
		d.pos += n
		d.total += int64(n)
	}
	if d.in.over {
		return nil, malformed("an LZX block whose input ends too soon")
	}
	out := d.out[:size]
	copy(out, d.window[start:d.pos])
	if d.pos == len(d.window) { // frames divide the window, none wraps around
		d.pos = 0
	}
	d.calls(out)
	return out, nil
}

// block reads the head of a block.
func (d *lzxDecoder) block() error {
	if d.odd {
		d.odd = false
		d.in.skipByte()
	}
	d.kind = int(d.in.get(3))
	d.left = int(d.in.get(16))<<8 | int(d.in.get(8))
	if d.in.over || d.left == 0 {
		return malformed("an LZX block of %d bytes", d.left)
	}
	switch d.kind {
	case aligned:
		var lens [numAligned]uint8
		for i := range lens {
			lens[i] = uint8(d.in.get(3))
		}
		if err := d.align.build(lens[:]); err != nil {
			return err
		}
		return d.trees()
	case verbatim:
		return d.trees()
	case uncompressed:
		d.in.toWord()
		var raw [12]byte
		if !d.in.raw(raw[:]) {
			return malformed("an LZX block whose input ends too soon")
		}
		for i := range d.r {
			d.r[i] = uint(le.Uint32(raw[4*i:]))
		}
		d.odd = d.left&1 != 0
		return nil
	}
	return malformed("an LZX block of kind %d", d.kind)
}

func (d *lzxDecoder) trees() error {
	for _, part := range [][]uint8{d.mainLen[:numChars], d.mainLen[numChars:], d.lengthLen[:]} {
		if err := d.lengths(part); err != nil {
			return err
		}
	}
	if err := d.main.build(d.mainLen); err != nil {
		return err
	}
	return d.length.build(d.lengthLen[:])
}

// lengths reads the lengths of the codes of a tree, as differences from those of
// the block before.
func (d *lzxDecoder) lengths(lens []uint8) error {
	var pre [numPre]uint8
	for i := range pre {
		pre[i] = uint8(d.in.get(4))
	}
	var t tree
	if err := t.build(pre[:]); err != nil {
		return err
	}
	next := func(old uint8) (uint8, error) {
		n, err := t.next(&d.in)
		if err != nil {
			return 0, err
		}
		if n > maxCode {
			return 0, malformed("an LZX code length of a code length")
		}
		return uint8((int(old) - n + 17) % 17), nil
	}
	for i := 0; i < len(lens); {
		n, err := t.next(&d.in)
		if err != nil {
			return err
		}
		run, value := 1, uint8(0)
		switch n {
		case 17:
			run = int(d.in.get(4)) + 4
		case 18:
			run = int(d.in.get(5)) + 20
		case 19:
			run = int(d.in.get(1)) + 4
			if value, err = next(lens[i]); err != nil {
				return err
			}
		default:
			value = uint8((int(lens[i]) - n + 17) % 17)
		}
		if run > len(lens)-i {
			return malformed("an LZX tree of more than %d lengths", len(lens))
		}
		for range run {
			lens[i] = value
			i++
		}
	}
	return nil
}

// copy takes n bytes of an uncompressed block.
func (d *lzxDecoder) copy(n int) error {
	if !d.in.raw(d.window[d.pos : d.pos+n]) {
		return malformed("an LZX block whose input ends too soon")
	}
	return nil
}

// decode makes n bytes of a compressed block.
func (d *lzxDecoder) decode(n int) error {
	w := d.window
	for pos, end := d.pos, d.pos+n; pos < end; {
		s, err := d.main.next(&d.in)
		if err != nil {
			return err
		}
		if s < numChars {
			w[pos] = byte(s)
			pos++
			continue
		}
		s -= numChars
		size := s & 7
		if size == longMatch {
			more, err := d.length.next(&d.in)
			if err != nil {
				return err
			}
			size += more
		}
		size += minMatch
		off, err := d.offset(s >> 3)
		if err != nil {
			return err
		}
		if size > end-pos {
			return malformed("an LZX match of %d bytes with %d to come", size, end-pos)
		}
		done := d.total + int64(pos-d.pos)
		if off == 0 || off > uint(len(w)) || int64(off) > done {
			return malformed("an LZX match %d bytes back from %d", off, done)
		}
		from := pos - int(off)
		if from < 0 {
			from += len(w)
		}
		for range size { // they may overlap
			w[pos] = w[from]
			pos++
			if from++; from == len(w) {
				from = 0
			}
		}
	}
	return nil
}

// offset reads how far back a match is, and moves it to the front of the last
// three.
func (d *lzxDecoder) offset(slot int) (uint, error) {
	switch slot {
	case 0:
		return d.r[0], nil
	case 1, 2:
		d.r[0], d.r[slot] = d.r[slot], d.r[0]
		return d.r[0], nil
	}
	base, extra := position(slot)
	off := base - 2
	if d.kind == aligned && extra >= 3 {
		off += uint(d.in.get(extra-3)) << 3
		a, err := d.align.next(&d.in)
		if err != nil {
			return 0, err
		}
		off += uint(a)
	} else {
		off += uint(d.in.get(extra))
	}
	d.r = [3]uint{off, d.r[0], d.r[1]}
	return off, nil
}

// calls undoes the translation of x86 calls, whose relative targets the encoder
// made absolute: of a frame, before its last ten bytes.
func (d *lzxDecoder) calls(p []byte) {
	at := d.total - int64(len(p))
	if d.fileSize == 0 || at/frame >= maxE8Frames {
		return
	}
	for i := 0; i < len(p)-10; i++ {
		if p[i] != 0xE8 {
			continue
		}
		here := int32(at) + int32(i)
		abs := int32(le.Uint32(p[i+1:]))
		switch {
		case abs >= 0 && abs < int32(d.fileSize):
			le.PutUint32(p[i+1:], uint32(abs-here))
		case abs < 0 && abs >= -here:
			le.PutUint32(p[i+1:], uint32(abs)+d.fileSize)
		}
		i += 4
	}
}

// bits is the input of one frame. Behind its end there are zeroes; over says
// that some were taken.
type bits struct {
	p    []byte
	acc  uint64 // the next n bits, at the bottom
	n    uint
	over bool
}

func (b *bits) fill(n uint) {
	for b.n < n {
		var w uint64
		if len(b.p) >= 2 {
			w = uint64(binary.LittleEndian.Uint16(b.p))
			b.p = b.p[2:]
		} else {
			if len(b.p) == 1 {
				w = uint64(b.p[0])
				b.p = nil
			} else {
				b.over = true
			}
		}
		b.acc = b.acc<<16 | w
		b.n += 16
	}
}

// get takes up to 17 bits.
func (b *bits) get(n uint) uint32 {
	b.fill(n)
	b.n -= n
	return uint32(b.acc>>b.n) & (1<<n - 1)
}

// toWord skips to the next word, at least one bit.
func (b *bits) toWord() {
	if b.n == 0 {
		b.fill(16)
	}
	b.n = 0 // get reads no word ahead
}

// raw takes whole bytes, at a word.
func (b *bits) raw(p []byte) bool {
	if len(b.p) < len(p) {
		return false
	}
	b.p = b.p[copy(p, b.p):]
	return true
}

// skipByte skips the byte that makes an uncompressed block of an odd size even.
// It is the last one of its frame if the block ends there, so a new frame has
// none.
func (b *bits) skipByte() {
	if b.n == 0 && len(b.p) > 0 {
		b.p = b.p[1:]
	}
}

// tree is a canonical prefix code: shorter codes first, among those of a length
// the lower symbol first.
type tree struct {
	count [maxCode + 1]int
	syms  []uint16
}

// build makes the code. One without any symbol is allowed, it cannot be used.
func (t *tree) build(lens []uint8) error {
	t.count = [maxCode + 1]int{}
	for _, n := range lens {
		t.count[n]++
	}
	used := len(lens) - t.count[0]
	t.count[0] = 0
	if used > 0 {
		room := 1
		for n := 1; n <= maxCode; n++ {
			if room = room<<1 - t.count[n]; room < 0 {
				return malformed("an LZX tree with too many codes of %d bits", n)
			}
		}
		if room != 0 && used > 1 {
			return malformed("an LZX tree that is not complete")
		}
	}
	var at [maxCode + 2]int
	for n := 1; n <= maxCode; n++ {
		at[n+1] = at[n] + t.count[n]
	}
	if cap(t.syms) < used {
		t.syms = make([]uint16, used)
	}
	t.syms = t.syms[:used]
	for s, n := range lens {
		if n != 0 {
			t.syms[at[n]] = uint16(s)
			at[n]++
		}
	}
	return nil
}

// next takes one code.
func (t *tree) next(in *bits) (int, error) {
	code, first, index := 0, 0, 0
	for n := 1; n <= maxCode; n++ {
		code |= int(in.get(1))
		if c := t.count[n]; code-first < c {
			return int(t.syms[index+code-first]), nil
		} else {
			index += c
			first = (first + c) << 1
			code <<= 1
		}
	}
	if in.over {
		return 0, malformed("an LZX block whose input ends too soon")
	}
	return 0, malformed("an LZX code that is not in its tree")
}
