package pdb

import (
	"bytes"
	"cmp"
	"io"
	"math/rand/v2"
	"slices"
	"testing"
)

// msfOptions are how writeMSF lays out a file.
type msfOptions struct {
	block    int
	mapArray bool       // the super block lists every block of the map
	shuffle  *rand.Rand // blocks in any order
	deleted  []int      // streams whose size is given as "deleted"
}

// writeMSF writes a multi-stream file.
func writeMSF(w io.Writer, streams [][]byte, o msfOptions) error {
	bs := o.block
	count := func(n int) int { return (n + bs - 1) / bs }
	next := 3
	alloc := func() uint32 {
		// Two blocks of every interval are for the map of free blocks.
		for next%bs == 1 || next%bs == 2 {
			next++
		}
		next++
		return uint32(next - 1)
	}
	var numbers []uint32
	total := 0
	for _, s := range streams {
		total += count(len(s))
	}
	for range total {
		numbers = append(numbers, alloc())
	}
	if o.shuffle != nil {
		o.shuffle.Shuffle(len(numbers), func(i, j int) { numbers[i], numbers[j] = numbers[j], numbers[i] })
	}
	var dir []byte
	dir = le.AppendUint32(dir, uint32(len(streams)))
	for i, s := range streams {
		size := uint32(len(s))
		if slices.Contains(o.deleted, i) {
			size = noSize
		}
		dir = le.AppendUint32(dir, size)
	}
	type put struct {
		block uint32
		data  []byte
	}
	var puts []put
	add := func(block uint32, data []byte, i int) {
		puts = append(puts, put{block, data[i*bs : min(len(data), (i+1)*bs)]})
	}
	k := 0
	for _, s := range streams {
		for i := range count(len(s)) {
			dir = le.AppendUint32(dir, numbers[k])
			add(numbers[k], s, i)
			k++
		}
	}
	var dirMap []byte
	for i := range count(len(dir)) {
		n := alloc()
		dirMap = le.AppendUint32(dirMap, n)
		add(n, dir, i)
	}
	// The blocks of the map: wherever, or one behind the other.
	var mapBlocks []uint32
	for range count(len(dirMap)) {
		mapBlocks = append(mapBlocks, alloc())
	}
	if o.mapArray {
		slices.Reverse(mapBlocks)
	}
	for i, n := range mapBlocks {
		add(n, dirMap, i)
	}
	super := bytes.Clone(magicMSF7)
	for _, v := range []uint32{uint32(bs), 1, uint32(next), uint32(len(dir)), 0} {
		super = le.AppendUint32(super, v)
	}
	if !o.mapArray {
		mapBlocks = mapBlocks[:1]
	}
	for _, n := range mapBlocks {
		super = le.AppendUint32(super, n)
	}
	puts = append(puts, put{0, super})
	slices.SortFunc(puts, func(a, b put) int { return cmp.Compare(a.block, b.block) })
	zero := make([]byte, bs)
	at := uint32(0)
	for _, p := range puts {
		for ; at < p.block; at++ {
			if _, err := w.Write(zero); err != nil {
				return err
			}
		}
		if _, err := w.Write(p.data); err != nil {
			return err
		}
		if _, err := w.Write(zero[len(p.data):]); err != nil {
			return err
		}
		at++
	}
	for ; at < uint32(next); at++ {
		if _, err := w.Write(zero); err != nil {
			return err
		}
	}
	return nil
}

// enc appends values: integers by their size, strings with a zero behind.
func enc(b []byte, values ...any) []byte {
	for _, v := range values {
		switch v := v.(type) {
		case uint8:
			b = append(b, v)
		case uint16:
			b = le.AppendUint16(b, v)
		case uint32:
			b = le.AppendUint32(b, v)
		case int32:
			b = le.AppendUint32(b, uint32(v))
		case uint64:
			b = le.AppendUint64(b, v)
		case string:
			b = append(append(b, v...), 0)
		case st:
			b = append(append(b, byte(len(v))), v...)
		case []byte:
			b = append(b, v...)
		default:
			panic(v)
		}
	}
	return b
}

// st is a name with its length in front.
type st string

// record makes a record of symbols, padded to four bytes.
func record(kind uint16, values ...any) []byte {
	b := enc(nil, uint16(0), kind)
	b = enc(b, values...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	le.PutUint16(b, uint16(len(b)-2))
	return b
}

// leaf makes a type record, padded in the way of types.
func leaf(kind uint16, values ...any) []byte {
	b := enc(nil, uint16(0), kind)
	b = enc(b, values...)
	for len(b)%4 != 0 {
		b = append(b, byte(lfPad+4-len(b)%4))
	}
	le.PutUint16(b, uint16(len(b)-2))
	return b
}

// builder makes a PDB.
type builder struct {
	machine  uint16
	flags    uint16
	age      uint32
	version  uint32 // of the info stream
	features []uint32
	sections []section
	modules  []*moduleBuilder
	publics  [][]byte // records, sorted by address
	globals  [][]byte
	types    [][]byte
	ids      [][]byte
	names    []byte // the texts
	frames   []byte // frame data
	fpo      []byte
	now      []omap
	then     []omap
	original []section // with now and then: before
	contribs []contrib // else one for each module
	noHash   bool      // types without hash stream
	noTypes  bool
	disorder bool // buckets of hash tables are not sorted
}

type moduleBuilder struct {
	name    string
	symbols []byte
	c13     []byte
	files   []string
	contrib contrib
}

func newBuilder(machine uint16) *builder {
	return &builder{machine: machine, age: 1, version: 20000404, names: []byte{0},
		sections: []section{{rva: 0x1000, size: 0x10000, code: true}, {rva: 0x20000, size: 0x10000}}}
}

// module begins a module whose code is size bytes at off of the first section.
func (b *builder) module(name string, off, size uint32) *moduleBuilder {
	m := &moduleBuilder{name: name, symbols: enc(nil, uint32(moduleSignature)), contrib: contrib{addr{1, off}, size, uint16(len(b.modules))}}
	b.modules = append(b.modules, m)
	return m
}

// add appends a record and returns where it is.
func (m *moduleBuilder) add(kind uint16, values ...any) uint32 {
	pos := uint32(len(m.symbols))
	m.symbols = append(m.symbols, record(kind, values...)...)
	return pos
}

// end closes the scope that begins at pos.
func (m *moduleBuilder) end(pos uint32, kind uint16) {
	le.PutUint32(m.symbols[pos+8:], uint32(len(m.symbols)))
	m.add(kind)
}

// proc begins a procedure.
func (m *moduleBuilder) proc(kind uint16, name any, typ, off, size uint32) uint32 {
	return m.add(kind, uint32(0), uint32(0), uint32(0), size, uint32(0), size, typ, off, uint16(1), uint8(0), name)
}

// sub appends a subsection of line records.
func (m *moduleBuilder) sub(kind uint32, values ...any) {
	data := enc(nil, values...)
	m.c13 = enc(m.c13, kind, uint32(len(data)))
	m.c13 = append(m.c13, data...)
	for len(m.c13)%4 != 0 {
		m.c13 = append(m.c13, 0)
	}
}

// text adds a text to the table and returns its offset.
func (b *builder) text(s string) uint32 {
	n := uint32(len(b.names))
	b.names = enc(b.names, s)
	return n
}

func (b *builder) pub(name string, seg uint16, off, flags uint32) {
	b.publics = append(b.publics, record(sPub32, flags, off, seg, name))
}

func (b *builder) global(kind uint16, values ...any) {
	b.globals = append(b.globals, record(kind, values...))
}

// typ adds a type and returns its number.
func (b *builder) typ(kind uint16, values ...any) uint32 {
	b.types = append(b.types, leaf(kind, values...))
	return firstType + uint32(len(b.types)) - 1
}

func (b *builder) id(kind uint16, values ...any) uint32 {
	b.ids = append(b.ids, leaf(kind, values...))
	return firstType + uint32(len(b.ids)) - 1
}

// gsiTable makes a hash table over records that begin at the given positions.
// Linkers sort the buckets.
func gsiTable(list [][]byte, positions []uint32, sorted bool) []byte {
	type entry struct {
		bucket, pos uint32
		name        []byte
	}
	entries := make([]entry, len(list))
	for i, raw := range list {
		r, err := decodeSym(le.Uint16(raw[2:]), raw[4:])
		if err != nil {
			panic(err)
		}
		entries[i] = entry{hashV1(r.name) % gsiBuckets, positions[i], r.name}
	}
	slices.SortStableFunc(entries, func(a, b entry) int {
		if a.bucket != b.bucket || !sorted {
			return cmp.Compare(a.bucket, b.bucket)
		}
		return compareNames(a.name, b.name)
	})
	bits := make([]byte, gsiBitmap)
	var body, buckets []byte
	for i, e := range entries {
		if i == 0 || entries[i-1].bucket != e.bucket {
			bits[e.bucket/8] |= 1 << (e.bucket % 8)
			buckets = enc(buckets, uint32(i*gsiOldEntry))
		}
		body = enc(body, e.pos+1, uint32(1))
	}
	out := enc(nil, uint32(0xffffffff), uint32(gsiVersion), uint32(len(body)), uint32(len(bits)+len(buckets)))
	out = append(out, body...)
	out = append(out, bits...)
	return append(out, buckets...)
}

// typeStreams makes a stream of types and the one with its hashes.
func (b *builder) typeStreams(list [][]byte, hash uint16) (data, hashes []byte) {
	const buckets = 4096
	var body, values, offsets []byte
	next := 0
	for i, raw := range list {
		if len(body) >= next {
			offsets = enc(offsets, uint32(firstType+i), uint32(len(body)))
			next = len(body) + 8<<10
		}
		h := uint32(i) * 2654435761 // of those that are not looked for by name
		if u, ok, err := decodeUDT(le.Uint16(raw[2:]), raw[4:]); ok && err == nil && !u.forward() {
			key := u.name
			if u.prop&propScoped != 0 {
				key = u.unique
			}
			h = hashV1(key)
		}
		values = enc(values, h%buckets)
		body = append(body, raw...)
	}
	if b.noHash {
		hash = noStream
	}
	data = enc(nil, uint32(20040203), uint32(typeHeader), uint32(firstType), uint32(firstType+len(list)), uint32(len(body)),
		hash, uint16(noStream), uint32(4), uint32(buckets), uint32(0), uint32(len(values)), uint32(len(values)), uint32(len(offsets)), uint32(0), uint32(0))
	return append(data, body...), append(values, offsets...)
}

func sectionHeaders(list []section) []byte {
	var out []byte
	for _, s := range list {
		flags := uint32(0x40000040)
		if s.code {
			flags = 0x60000020
		}
		out = enc(out, []byte(".section"), s.size, s.rva, s.size, uint32(0), make([]byte, 12), flags)
	}
	return out
}

// build makes the streams of the file.
func (b *builder) build() [][]byte {
	const (
		nInfo = 1 + iota
		nTPI
		nDBI
		nIPI
		nNames
		nTPIHash
		nIPIHash
		nGlobals
		nPublics
		nRecords
		nSections
		nOriginal
		nNow
		nThen
		nFrames
		nFPO
		nModules
	)
	streams := make([][]byte, nModules)
	guid := make([]byte, 16)
	for i := range guid {
		guid[i] = byte(0x10 + i)
	}
	streams[nInfo] = enc(nil, b.version, uint32(0x12345678), b.age, guid,
		uint32(7), "/names", // the texts of the map
		uint32(1), uint32(2), uint32(1), uint32(1), uint32(0), uint32(0), uint32(nNames), uint32(0))
	for _, f := range b.features {
		streams[nInfo] = enc(streams[nInfo], f)
	}
	streams[nNames] = enc(nil, uint32(textMagic), uint32(1), uint32(len(b.names)), b.names, uint32(1), uint32(0), uint32(0))
	if !b.noTypes {
		streams[nTPI], streams[nTPIHash] = b.typeStreams(b.types, nTPIHash)
		streams[nIPI], streams[nIPIHash] = b.typeStreams(b.ids, nIPIHash)
	}

	// Symbols.
	var records []byte
	place := func(list [][]byte) []uint32 {
		var at []uint32
		for _, r := range list {
			at = append(at, uint32(len(records)))
			records = append(records, r...)
		}
		return at
	}
	pubs := place(b.publics)
	globals := place(b.globals)
	streams[nRecords] = records
	streams[nGlobals] = gsiTable(b.globals, globals, !b.disorder)
	hash := gsiTable(b.publics, pubs, !b.disorder)
	type by struct {
		a   addr
		pos uint32
	}
	var order []by
	for i, raw := range b.publics {
		r, _ := decodeSym(le.Uint16(raw[2:]), raw[4:])
		order = append(order, by{addr{r.seg, r.off}, pubs[i]})
	}
	slices.SortStableFunc(order, func(a, b by) int { return a.a.compare(b.a) })
	out := enc(nil, uint32(len(hash)), uint32(4*len(order)), uint32(0), uint32(0), uint16(0), uint16(0), uint32(0), uint32(0))
	out = append(out, hash...)
	for _, o := range order {
		out = enc(out, o.pos)
	}
	streams[nPublics] = out

	// Modules.
	var mods, files, offsets, counts, indices, names []byte
	contribs := enc(nil, uint32(contribV1))
	list := b.contribs
	seen := map[string]uint32{}
	for i, m := range b.modules {
		stream := uint16(noStream)
		if len(m.symbols) > 4 || len(m.c13) > 0 {
			stream = uint16(len(streams))
			s := slices.Concat(m.symbols, m.c13, enc(nil, uint32(0)))
			streams = append(streams, s)
		}
		mods = enc(mods, uint32(0), m.contrib.seg, uint16(0), m.contrib.off, m.contrib.size, uint32(0x60000020), uint16(i), uint16(0), uint32(0), uint32(0),
			uint16(0), stream, uint32(len(m.symbols)), uint32(0), uint32(len(m.c13)), uint16(len(m.files)), uint16(0), uint32(0), uint32(0), uint32(0), m.name, m.name)
		for len(mods)%4 != 0 {
			mods = append(mods, 0)
		}
		if b.contribs == nil {
			list = append(list, m.contrib)
		}
		indices = enc(indices, uint16(i))
		counts = enc(counts, uint16(len(m.files)))
		for _, f := range m.files {
			if _, ok := seen[f]; !ok {
				seen[f] = uint32(len(names))
				names = enc(names, f)
			}
			offsets = enc(offsets, seen[f])
		}
	}
	for _, c := range list {
		contribs = enc(contribs, c.seg, uint16(0), c.off, c.size, uint32(0x60000020), c.mod, uint16(0), uint32(0), uint32(0))
	}
	files = enc(nil, uint16(len(b.modules)), uint16(len(seen)), indices, counts, offsets, names)
	for len(files)%4 != 0 {
		files = append(files, 0)
	}
	debug := slices.Repeat([]uint16{noStream}, 11)
	set := func(i int, n uint16, data []byte) {
		if data != nil {
			debug[i], streams[n] = n, data
		}
	}
	omapBytes := func(list []omap) (out []byte) {
		for _, o := range list {
			out = enc(out, o.from, o.to)
		}
		return out
	}
	set(debugSections, nSections, sectionHeaders(b.sections))
	if b.original != nil {
		set(debugSectionOrig, nOriginal, sectionHeaders(b.original))
		set(debugOmapFrom, nNow, omapBytes(b.now))
		set(debugOmapTo, nThen, omapBytes(b.then))
	}
	set(debugFrameData, nFrames, b.frames)
	set(debugFPO, nFPO, b.fpo)
	var debugBytes []byte
	for _, n := range debug {
		debugBytes = enc(debugBytes, n)
	}
	ec := enc(nil, uint32(textMagic), uint32(1), uint32(1), uint8(0), uint32(1), uint32(0), uint32(0))
	dbi := enc(nil, uint32(0xffffffff), uint32(19990903), b.age, uint16(nGlobals), uint16(0x8800), uint16(nPublics), uint16(0), uint16(nRecords), uint16(0),
		uint32(len(mods)), uint32(len(contribs)), uint32(4), uint32(len(files)), uint32(0), uint32(0), uint32(len(debugBytes)), uint32(len(ec)), b.flags, b.machine, uint32(0))
	streams[nDBI] = slices.Concat(dbi, mods, contribs, enc(nil, uint32(0)), files, ec, debugBytes)
	return streams
}

func (b *builder) bytes(t testing.TB) []byte {
	t.Helper()
	return msfBytes(t, b.build(), msfOptions{block: 4096})
}

func msfBytes(t testing.TB, streams [][]byte, o msfOptions) []byte {
	t.Helper()
	var w bytes.Buffer
	if err := writeMSF(&w, streams, o); err != nil {
		t.Fatal(err)
	}
	return w.Bytes()
}

func (b *builder) file(t testing.TB) *File {
	t.Helper()
	raw := b.bytes(t)
	f, err := New(bytes.NewReader(raw), int64(len(raw)))
	if err != nil {
		t.Fatal(err)
	}
	return f
}
