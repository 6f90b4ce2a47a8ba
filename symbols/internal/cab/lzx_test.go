package cab

import (
	"math/rand/v2"
	"slices"
	"sort"
)

// lzxEncoder writes LZX as cabinets have it. It is for tests: it knows every
// kind of block and every way to name a match, and takes them by chance. What
// it writes is checked against cabextract, see TestCabextract.
type lzxEncoder struct {
	rnd        *rand.Rand
	windowBits int
	e8         uint32

	data      []byte // all of it, after the translation of calls
	r         [3]int
	mainLen   []uint8
	lengthLen []uint8
	table     map[uint32][]int // where four bytes were seen
	out       []byte
	acc       uint64
	n         uint
}

// lzxFrames compresses data, one element for each frame.
func lzxFrames(seed uint64, data []byte, windowBits int, e8 uint32) [][]byte {
	e := &lzxEncoder{
		rnd: rand.New(rand.NewPCG(seed, 1)), windowBits: windowBits, e8: e8,
		r: [3]int{1, 1, 1}, mainLen: make([]uint8, numChars+8*slots[windowBits]),
		lengthLen: make([]uint8, numLengths), table: map[uint32][]int{},
	}
	e.data = append([]byte(nil), data...)
	if e8 != 0 {
		for at := 0; at < len(data); at += frame {
			e.calls(e.data[at:min(at+frame, len(data))], at)
		}
		e.put(1, 1)
		e.put(16, uint(e8>>16))
		e.put(16, uint(e8&0xFFFF))
	} else {
		e.put(1, 0)
	}
	var frames [][]byte
	flush := func() {
		if e.n > 0 {
			e.put(16-e.n%16, 0)
		}
		frames = append(frames, e.out)
		e.out = nil
	}
	for at := 0; at < len(data); {
		// A block of any size; what lies in one frame is tokens of their own.
		size := min(len(data)-at, 1+e.rnd.IntN(90000))
		if e.rnd.IntN(4) == 0 {
			size = min(size, 1+e.rnd.IntN(64))
		}
		kind := verbatim + e.rnd.IntN(3)
		end := at + size
		if kind == uncompressed {
			e.head(kind, size)
			// One to sixteen bits up to the next word.
			e.put(16-e.n%16, 0)
			for _, r := range e.r {
				e.out = append(e.out, byte(r), byte(r>>8), byte(r>>16), byte(r>>24))
			}
			for at < end {
				stop := min(end, (at/frame+1)*frame)
				e.out = append(e.out, e.data[at:stop]...)
				at = stop
				if at == end && size&1 != 0 {
					e.out = append(e.out, 0)
				}
				if at%frame == 0 || at == len(data) {
					flush()
				}
			}
			continue
		}
		var tokens []lzxToken
		for p := at; p < end; {
			t := e.token(p, min(end, (p/frame+1)*frame))
			tokens = append(tokens, t)
			p += t.size
		}
		e.head(kind, size)
		codes := e.trees(kind, tokens)
		for _, t := range tokens {
			codes.put(e, kind, t)
			at += t.size
			if at%frame == 0 || at == len(data) {
				flush()
			}
		}
	}
	return frames
}

func (e *lzxEncoder) calls(p []byte, at int) {
	for i := 0; i < len(p)-10; i++ {
		if p[i] != 0xE8 {
			continue
		}
		here, rel := int32(at+i), int32(le.Uint32(p[i+1:]))
		if rel >= -here && rel < int32(e.e8)-here {
			le.PutUint32(p[i+1:], uint32(rel+here))
		} else if rel >= int32(e.e8)-here && rel < int32(e.e8) {
			le.PutUint32(p[i+1:], uint32(rel)-e.e8)
		}
		i += 4
	}
}

func (e *lzxEncoder) put(n, v uint) {
	e.acc = e.acc<<n | uint64(v)&(1<<n-1)
	e.n += n
	for e.n >= 16 {
		e.n -= 16
		w := uint16(e.acc >> e.n)
		e.out = append(e.out, byte(w), byte(w>>8))
	}
	e.acc &= 1<<e.n - 1
}

func (e *lzxEncoder) head(kind, size int) {
	e.put(3, uint(kind))
	e.put(8, uint(size>>16))
	e.put(16, uint(size&0xFFFF))
}

type lzxToken struct {
	size         int
	main, length int // length -1: none
	extra, value uint
}

// token makes a literal or a match for what stands at p, which ends before end.
func (e *lzxEncoder) token(p, end int) lzxToken {
	lit := lzxToken{size: 1, main: int(e.data[p]), length: -1}
	if end-p < 4 {
		return lit
	}
	key := le.Uint32(e.data[p:])
	seen := e.table[key]
	e.table[key] = append(seen, p)
	if p == 0 || e.rnd.IntN(8) == 0 {
		return lit
	}
	off := 0
	if i := e.rnd.IntN(5); i < 3 && e.r[i] <= p && e.match(p, e.r[i], end) >= 2 {
		off = e.r[i]
	} else if len(seen) > 0 {
		off = p - seen[e.rnd.IntN(len(seen))]
	}
	if off == 0 || off > 1<<e.windowBits-3 {
		return lit
	}
	size := e.match(p, off, min(end, p+257))
	if size < 2 {
		return lit
	}
	t := lzxToken{size: size, length: -1}
	slot := -1
	for i, r := range e.r {
		if r == off {
			slot = i
			e.r[0], e.r[i] = e.r[i], e.r[0]
			break
		}
	}
	if slot < 0 {
		for slot = 3; slot+1 < slots[e.windowBits]; slot++ {
			if base, _ := position(slot + 1); int(base) > off+2 {
				break
			}
		}
		base, extra := position(slot)
		t.extra, t.value = extra, uint(off+2)-base
		e.r = [3]int{off, e.r[0], e.r[1]}
	}
	code := size - minMatch
	if code >= longMatch {
		t.length, code = code-longMatch, longMatch
	}
	t.main = numChars + slot<<3 + code
	return t
}

func (e *lzxEncoder) match(p, off, end int) int {
	n := 0
	for p+n < end && e.data[p+n] == e.data[p+n-off] {
		n++
	}
	return n
}

type lzxCodes struct {
	main, length, align []lzxCode
}

type lzxCode struct {
	bits uint8
	code uint
}

func (c *lzxCodes) put(e *lzxEncoder, kind int, t lzxToken) {
	code := func(c lzxCode) { e.put(uint(c.bits), c.code) }
	code(c.main[t.main])
	if t.length >= 0 {
		code(c.length[t.length])
	}
	if kind == aligned && t.extra >= 3 {
		e.put(t.extra-3, t.value>>3)
		code(c.align[t.value&7])
	} else if t.extra > 0 {
		e.put(t.extra, t.value)
	}
}

func (e *lzxEncoder) trees(kind int, tokens []lzxToken) *lzxCodes {
	mainUse := make([]int, len(e.mainLen))
	lengthUse := make([]int, numLengths)
	alignUse := make([]int, numAligned)
	for _, t := range tokens {
		mainUse[t.main]++
		if t.length >= 0 {
			lengthUse[t.length]++
		}
		if t.extra >= 3 {
			alignUse[t.value&7]++
		}
	}
	c := &lzxCodes{}
	if kind == aligned {
		if slices.Max(alignUse) == 0 { // decoders want a code, used or not
			alignUse[0] = 1
		}
		lens := codeLengths(alignUse, 7)
		for _, n := range lens {
			e.put(3, uint(n))
		}
		c.align = canonical(lens)
	}
	mainLen, lengthLen := codeLengths(mainUse, maxCode), codeLengths(lengthUse, maxCode)
	e.lengths(e.mainLen[:numChars], mainLen[:numChars])
	e.lengths(e.mainLen[numChars:], mainLen[numChars:])
	e.lengths(e.lengthLen, lengthLen)
	c.main, c.length = canonical(mainLen), canonical(lengthLen)
	return c
}

// lengths writes lens as differences from old, which it replaces.
func (e *lzxEncoder) lengths(old, lens []uint8) {
	type item struct {
		sym, value uint
		bits       uint
		then       int // a difference that follows, -1: none
	}
	var items []item
	delta := func(i int) uint { return uint((int(old[i]) - int(lens[i]) + 17) % 17) }
	for i := 0; i < len(lens); {
		run := 1
		for i+run < len(lens) && lens[i+run] == lens[i] {
			run++
		}
		switch {
		case lens[i] == 0 && run >= 20 && e.rnd.IntN(8) > 0:
			run = min(run, 51)
			items = append(items, item{18, uint(run - 20), 5, -1})
		case lens[i] == 0 && run >= 4 && e.rnd.IntN(8) > 0:
			run = min(run, 19)
			items = append(items, item{17, uint(run - 4), 4, -1})
		case run >= 4 && e.rnd.IntN(8) > 0:
			run = min(run, 5)
			items = append(items, item{19, uint(run - 4), 1, int(delta(i))})
		default:
			run = 1
			items = append(items, item{delta(i), 0, 0, -1})
		}
		i += run
	}
	use := make([]int, numPre)
	for _, it := range items {
		use[it.sym]++
		if it.then >= 0 {
			use[it.then]++
		}
	}
	pre := codeLengths(use, 15)
	for _, n := range pre {
		e.put(4, uint(n))
	}
	codes := canonical(pre)
	for _, it := range items {
		e.put(uint(codes[it.sym].bits), codes[it.sym].code)
		e.put(it.bits, it.value)
		if it.then >= 0 {
			e.put(uint(codes[it.then].bits), codes[it.then].code)
		}
	}
	copy(old, lens)
}

// codeLengths makes a complete prefix code for what is used, of at most limit
// bits.
func codeLengths(use []int, limit int) []uint8 {
	lens := make([]uint8, len(use))
	var syms []int
	for s, n := range use {
		if n > 0 {
			syms = append(syms, s)
		}
	}
	switch len(syms) {
	case 0:
		return lens
	case 1: // decoders want a complete code
		lens[syms[0]] = 1
		other := 0
		if syms[0] == 0 {
			other = 1
		}
		lens[other] = 1
		return lens
	}
	for flat := 0; ; flat++ {
		type node struct {
			weight int
			syms   []int
		}
		var nodes []node
		for _, s := range syms {
			nodes = append(nodes, node{use[s]>>flat + 1, []int{s}})
		}
		clear(lens)
		deepest := uint8(0)
		for len(nodes) > 1 {
			sort.SliceStable(nodes, func(i, j int) bool { return nodes[i].weight < nodes[j].weight })
			a, b := nodes[0], nodes[1]
			both := append(append([]int(nil), a.syms...), b.syms...)
			for _, s := range both {
				lens[s]++
				deepest = max(deepest, lens[s])
			}
			nodes = append(nodes[2:], node{a.weight + b.weight, both})
		}
		if int(deepest) <= limit {
			return lens
		}
	}
}

func canonical(lens []uint8) []lzxCode {
	codes := make([]lzxCode, len(lens))
	code := uint(0)
	for n := uint8(1); n <= maxCode; n++ {
		for s, l := range lens {
			if l == n {
				codes[s] = lzxCode{n, code}
				code++
			}
		}
		code <<= 1
	}
	return codes
}
