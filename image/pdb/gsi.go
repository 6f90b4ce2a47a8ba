package pdb

import (
	"bytes"
	"math/bits"
	"slices"
	"sort"
)

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
	records *stream
	count   uint32 // symbols
	entries int64  // position of the first
	bitmap  int64
	buckets uint32 // that are not empty
}

// openGSI reads the header of a table that begins at off and has size bytes.
func openGSI(s, records *stream, off, size int64) (gsi, error) {
	g := gsi{s: s, records: records, entries: off + gsiHeader}
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

// find calls f with the records of a name, which may be others of the same
// bucket too.
func (g *gsi) find(name []byte, f func(r *symRec) error) error {
	from, to, err := g.bucket(hashV1(name) % gsiBuckets)
	if err != nil || from == to {
		return err
	}
	raw, err := g.s.bytes(g.entries+gsiEntry*int64(from), gsiEntry*int64(to-from))
	if err != nil {
		return err
	}
	n := len(raw) / gsiEntry
	at := func(i int) (symRec, error) {
		// An entry has the position plus one: zero was none.
		return g.records.symbol(int64(le.Uint32(raw[gsiEntry*i:])) - 1)
	}
	first, sorted, err := searchBucket(n, name, at)
	if err != nil {
		return err
	}
	for i := first; i < n; i++ {
		r, err := at(i)
		if err != nil {
			return err
		}
		if sorted && compareNames(r.name, name) != 0 {
			break
		}
		if err := f(&r); err != nil {
			return err
		}
	}
	return nil
}

// searchBucket returns the first record of a bucket that may have a name. Linkers
// sort buckets, but no rule says so: whether this one is sorted is told by the
// records that the search looks at, a dozen at least. Small buckets and others
// have to be looked through.
func searchBucket(n int, name []byte, at func(int) (symRec, error)) (first int, sorted bool, err error) {
	const (
		small   = 32
		samples = 12
	)
	if n <= small {
		return 0, false, nil
	}
	type sample struct {
		i    int
		name []byte
	}
	seen := make([]sample, 0, 2*samples) // by i
	low, high := 0, n                    // the first is in between
	// look narrows this down; false: a record stands in no order with those seen
	// before.
	look := func(i int) (bool, error) {
		r, err := at(i)
		if err != nil || r.name == nil {
			return false, err
		}
		k := sort.Search(len(seen), func(k int) bool { return seen[k].i > i })
		if k > 0 && compareNames(seen[k-1].name, r.name) > 0 || k < len(seen) && compareNames(r.name, seen[k].name) > 0 {
			return false, nil
		}
		seen = slices.Insert(seen, k, sample{i, r.name})
		if compareNames(r.name, name) < 0 {
			low = max(low, i+1)
		} else {
			high = min(high, i)
		}
		return true, nil
	}
	for k := 0; k < samples || low < high; k++ {
		i := (low + high) / 2
		switch {
		case k == 0:
			i = 0
		case k == 1:
			i = n - 1
		case low == high: // found too soon: look where least was seen
			from, to := 0, 0
			for k := range len(seen) - 1 {
				if a, b := seen[k].i, seen[k+1].i; b-a > to-from {
					from, to = a, b
				}
			}
			i = (from + to) / 2
		}
		if ok, err := look(i); !ok || err != nil {
			return 0, false, err
		}
	}
	return low, true, nil
}

// compareNames is the order in a bucket: shorter names first, names of ASCII
// only without regard to case.
func compareNames(a, b []byte) int {
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	for i := range a {
		if a[i]|b[i] >= 0x80 {
			return bytes.Compare(a, b)
		}
	}
	lower := func(c byte) byte {
		if c >= 'A' && c <= 'Z' {
			return c + 'a' - 'A'
		}
		return c
	}
	for i := range a {
		if x, y := lower(a[i]), lower(b[i]); x != y {
			return int(x) - int(y)
		}
	}
	return 0
}

// bucket returns which entries are in a bucket.
func (g *gsi) bucket(h uint32) (from, to uint32, err error) {
	if g.count == 0 {
		return 0, 0, nil
	}
	var used [gsiBitmap]byte
	if err := g.s.read(used[:], g.bitmap); err != nil {
		return 0, 0, err
	}
	if used[h/8]>>(h%8)&1 == 0 {
		return 0, 0, nil
	}
	var before uint32
	for i := range h / 8 {
		before += uint32(bits.OnesCount8(used[i]))
	}
	before += uint32(bits.OnesCount8(used[h/8] & (1<<(h%8) - 1)))
	if before >= g.buckets {
		return 0, 0, malformed(g.s.what, "a hash table with %d buckets has no number %d", g.buckets, before)
	}
	if from, err = g.s.u32(g.bitmap + gsiBitmap + 4*int64(before)); err != nil {
		return 0, 0, err
	}
	from /= gsiOldEntry
	to = g.count
	if before+1 < g.buckets {
		if to, err = g.s.u32(g.bitmap + gsiBitmap + 4*int64(before+1)); err != nil {
			return 0, 0, err
		}
		to /= gsiOldEntry
	}
	if from > to || to > g.count {
		return 0, 0, malformed(g.s.what, "a bucket from entry %d to %d of %d", from, to, g.count)
	}
	return from, to, nil
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
