package pdb

import "math/bits"

// The hash table of global and of public symbols: a header, one entry of eight
// bytes for every symbol in the order of the buckets, a bit for every bucket
// that is not empty, and for each of those where its entries begin.
const (
	gsiBuckets = 4096
	gsiBitmap  = (gsiBuckets + 32) / 32 * 4
	gsiHeader  = 16
	gsiEntry   = 8
	// A bucket's beginning is counted in entries as they were in the memory
	// of the first 32-bit linker.
	gsiOldEntry = 12
	gsiVersion  = 0xeffe0000 + 19990810
)

// gsi finds records of the symbol record stream by their names.
type gsi struct {
	s       *stream
	count   uint32 // symbols
	entries int64  // position of the first
	bitmap  int64
	buckets uint32 // that are not empty
}

// openGSI reads the header of a table that begins at off and has size bytes.
func openGSI(s *stream, off, size int64) (gsi, error) {
	g := gsi{s: s, entries: off + gsiHeader}
	if size == 0 {
		return g, nil
	}
	raw, err := s.bytes(off, gsiHeader)
	if err != nil {
		return g, err
	}
	if le.Uint32(raw) != 0xffffffff || le.Uint32(raw[4:]) != gsiVersion {
		return g, malformed(s.what, "a hash table of version %#x", le.Uint32(raw[4:]))
	}
	entries, buckets := int64(le.Uint32(raw[8:])), int64(le.Uint32(raw[12:]))
	g.bitmap = g.entries + entries
	if entries%gsiEntry != 0 || g.bitmap+buckets > off+size || off+size > int64(s.size) {
		return g, malformed(s.what, "a hash table of %d and %d bytes in %d", entries, buckets, size)
	}
	if buckets < gsiBitmap {
		if entries > 0 {
			return g, malformed(s.what, "%d bytes for the buckets of a hash table", buckets)
		}
		return g, nil
	}
	g.count = uint32(entries / gsiEntry)
	g.buckets = uint32(buckets-gsiBitmap) / 4
	return g, nil
}

// find calls f with the positions of the records in the bucket of a name.
func (g *gsi) find(name []byte, f func(pos uint32) error) error {
	if g.count == 0 {
		return nil
	}
	var bits32 [gsiBitmap]byte
	if err := g.s.read(bits32[:], g.bitmap); err != nil {
		return err
	}
	h := hashV1(name) % gsiBuckets
	if bits32[h/8]>>(h%8)&1 == 0 {
		return nil
	}
	var before uint32
	for i := range h / 8 {
		before += uint32(bits.OnesCount8(bits32[i]))
	}
	before += uint32(bits.OnesCount8(bits32[h/8] & (1<<(h%8) - 1)))
	if before >= g.buckets {
		return malformed(g.s.what, "a hash table with %d buckets has no number %d", g.buckets, before)
	}
	from, err := g.s.u32(g.bitmap + gsiBitmap + 4*int64(before))
	if err != nil {
		return err
	}
	from /= gsiOldEntry
	to := g.count
	if before+1 < g.buckets {
		if to, err = g.s.u32(g.bitmap + gsiBitmap + 4*int64(before+1)); err != nil {
			return err
		}
		to /= gsiOldEntry
	}
	if from > to || to > g.count {
		return malformed(g.s.what, "a bucket from entry %d to %d of %d", from, to, g.count)
	}
	for i := from; i < to; i++ {
		pos, err := g.s.u32(g.entries + gsiEntry*int64(i))
		if err != nil {
			return err
		}
		// An entry has the position plus one: zero was none.
		if err := f(pos - 1); err != nil {
			return err
		}
	}
	return nil
}

// positions returns the positions of all records as a set over the record
// stream of size bytes. Records begin at multiples of four.
func (g *gsi) positions(size uint32) (posSet, error) {
	set := posSet(make([]uint64, (uint64(size)/4+63)/64))
	w := window{s: g.s}
	for i := range g.count {
		e, err := w.at(g.entries+gsiEntry*int64(i), gsiEntry)
		if err != nil {
			return nil, err
		}
		pos := le.Uint32(e) - 1
		if pos >= size || pos%4 != 0 {
			return nil, malformed(g.s.what, "entry %d is for %#x of %#x bytes of records", i, pos, size)
		}
		set[pos/256] |= 1 << (pos / 4 % 64)
	}
	return set, nil
}

// posSet has a bit for every possible position of a record: a thirty-second of
// the stream, and the way to read the stream from front to back.
type posSet []uint64

// each calls f with the positions in order until it fails.
func (s posSet) each(f func(pos uint32) error) error {
	for i, w := range s {
		for ; w != 0; w &= w - 1 {
			if err := f(uint32(i)*256 + uint32(bits.TrailingZeros64(w))*4); err != nil {
				return err
			}
		}
	}
	return nil
}

// hashV1 is the hash of names in PDBs: four bytes at a time, the rest by two and
// one, letters of either case alike.
func hashV1(name []byte) uint32 {
	var h uint32
	for ; len(name) >= 4; name = name[4:] {
		h ^= le.Uint32(name)
	}
	if len(name) >= 2 {
		h ^= uint32(le.Uint16(name))
		name = name[2:]
	}
	if len(name) == 1 {
		h ^= uint32(name[0])
	}
	h |= 0x20202020
	h ^= h >> 11
	return h ^ h>>16
}
