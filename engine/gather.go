package engine

import (
	"context"
	"errors"

	"openkd/arch"
	"openkd/target"
)

// Peek is virtual memory as it is known of the halt. It is given to the function
// of Gather, and is of no use after that.
//
// Concurrency: one goroutine.
type Peek struct{ v *view }

// Read fills b from addr as far as it is known and can be read, and returns how
// much. What is not known is fetched before the function runs again.
func (p *Peek) Read(_ context.Context, addr uint64, b []byte) (int, error) {
	n, err := p.v.Read(addr, b)
	if errors.Is(err, errMissing) && len(p.v.missing) < maxFetch {
		p.v.note(p.v.a.Canon(addr+uint64(n)), len(b)-n)
	}
	return n, err
}

// maxGather bounds the exchanges of one Gather.
const maxGather = 64

// Gather runs f with the memory that is known of the halt. What f wanted and
// was not there is fetched in one exchange, all of it, and f runs again, until it
// wants nothing more. So f must begin anew every time: only what its last run
// made counts. After 64 exchanges what is still missing counts as memory that
// cannot be read.
func (e *Engine) Gather(ctx context.Context, f func(m *Peek) error) error {
	h, a, err := e.view()
	if err != nil {
		return err
	}
	for round := 0; ; round++ {
		v := e.newView(ctx, h, a)
		err := f(&Peek{v})
		if len(v.missing) == 0 || round == maxGather {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := v.fetch(false); err != nil {
			return err
		}
	}
}

// Want is a piece of virtual memory that somebody is about to read, and what
// pointers in it lead to.
type Want struct {
	Addr uint64
	Len  int
	Then []Deref
}

// Deref is a pointer in a Want, or in what another pointer leads to, and how
// much is wanted of what it leads to.
type Deref struct {
	Offset uint32 // of the pointer
	Len    int    // bytes
	Then   []Deref
}

const (
	// Bounds of one Fetch; what is over them is left to who reads it.
	maxFollowed     = 1024    // pointers
	maxFollowedSlow = 64      // over a slow line
	maxFetchBytes   = 4 << 20 // of what pointers lead to
)

// Fetch makes memory known that will be read, in one exchange; none, if it is
// known already. Pointers are followed next to the line, two deep. It is a
// help and no more: what cannot be read, or is too much, is not there
// afterwards.
func (e *Engine) Fetch(ctx context.Context, wants ...Want) error {
	h, a, err := e.view()
	if err != nil {
		return err
	}
	_, err = e.newFetcher(ctx, h, a, wants).run()
	return err
}

func (e *Engine) newFetcher(ctx context.Context, h *halt, a *arch.Arch, wants []Want) *fetcher {
	v := e.newView(ctx, h, a)
	f := &fetcher{v: v, ps: a.PointerSize, left: maxFollowed, bytes: maxFetchBytes}
	if v.slow {
		f.left = maxFollowedSlow
	}
	for _, w := range wants {
		f.want(w)
	}
	return f
}

// chase is a request for what the pointer at head leads to.
type chase struct {
	head uint64
	d    Deref
	then []Deref // whose pieces follow the first one
}

// A chase reads the structure in pieces of at most target.MaxPiece; it may have
// as many as maxChunks of them.
const maxChunks = 4

type fetcher struct {
	v      *view
	ps     int
	left   int // pointers
	bytes  int
	chases []chase
}

func (f *fetcher) want(w Want) {
	if f.left <= 0 {
		return
	}
	w.Len = min(max(w.Len, 0), target.MaxRead)
	b := make([]byte, min(w.Len, 1<<20))
	n, err := f.v.Read(w.Addr, b)
	if errors.Is(err, errMissing) {
		f.v.note(f.v.a.Canon(w.Addr+uint64(n)), w.Len-n)
	}
	for _, d := range w.Then {
		if int64(d.Offset)+int64(f.ps) > int64(w.Len) {
			continue // it is no part of what is wanted
		}
		if int64(d.Offset)+int64(f.ps) <= int64(n) { // the pointer is known
			if to := f.v.a.Canon(uintOf(b[d.Offset : int(d.Offset)+f.ps])); to != 0 {
				f.left--
				f.want(Want{Addr: to, Len: d.Len, Then: d.Then})
			}
			continue
		}
		f.follow(w.Addr+uint64(d.Offset), d)
	}
}

// follow asks for what an unknown pointer leads to.
func (f *fetcher) follow(head uint64, d Deref) {
	d.Len = max(d.Len, f.ps)
	if d.Len > maxChunks*target.MaxPiece || d.Len > f.bytes {
		return
	}
	then := d.Then
	for {
		c := chase{head: head, d: d}
		room := target.MaxPieces - (d.Len+target.MaxPiece-1)/target.MaxPiece
		for len(then) > 0 && len(c.then) < room {
			t := then[0]
			then = then[1:]
			if t.Len > 0 && t.Len <= min(f.bytes, target.MaxPiece) && int(t.Offset)+f.ps <= d.Len && f.left > 0 {
				c.then = append(c.then, t)
				f.left--
				f.bytes -= t.Len
			}
		}
		f.chases = append(f.chases, c)
		f.left--
		f.bytes -= d.Len
		if len(then) == 0 || f.left <= 0 || f.bytes < d.Len {
			return
		}
	}
}

// run asks for what was noted, and for more beside it, whose answers it returns.
func (f *fetcher) run(more ...target.Request) ([]target.Reply, error) {
	v := f.v
	unit := uint64(pageSize)
	if v.slow {
		unit = slowUnit
	}
	var batch []target.Request
	v.h.mu.Lock()
	for _, r := range v.missing[:min(len(v.missing), maxFetch)] {
		batch = append(batch, v.h.missing(v.a, Virtual, r.Addr, int(r.Len), unit)...)
	}
	v.h.mu.Unlock()
	reads := len(batch)
	f.chases = f.chases[:min(len(f.chases), max(target.MaxBatch-reads-len(more), 0))]
	for _, c := range f.chases {
		l := &target.List{Head: v.a.Canon(c.head), Pointer: uint8(f.ps), MaxNodes: 1}
		for off := 0; off < c.d.Len; off += target.MaxPiece {
			l.Pieces = append(l.Pieces, target.Piece{Offset: uint32(off), Len: uint32(min(c.d.Len-off, target.MaxPiece))})
		}
		for _, t := range c.then {
			l.Pieces = append(l.Pieces, target.Piece{Via: target.ViaPointer, Offset: t.Offset, Len: uint32(t.Len)})
		}
		batch = append(batch, target.Request{Op: target.OpFollow, List: l})
	}
	batch = append(batch, more...)
	if len(batch) == 0 {
		return nil, nil
	}
	replies, err := v.e.do(v.ctx, v.h, batch...)
	if err != nil {
		return nil, err
	}
	v.e.mu.Lock()
	limit := v.e.cacheSize
	v.e.mu.Unlock()
	v.h.mu.Lock()
	defer v.h.mu.Unlock()
	v.h.trim(limit)
	for i, r := range replies[:reads] {
		v.h.fill(Virtual, batch[i].Addr, int(batch[i].Len), r)
	}
	for i, c := range f.chases {
		f.take(c, replies[reads+i])
	}
	return replies[len(replies)-len(more):], nil
}

// take puts what a chase has brought into the cache. Pieces that could not be
// read as a whole are not known by that: half of one may be there. halt.mu is
// held.
func (f *fetcher) take(c chase, r target.Reply) {
	nodes, err := target.DecodeNodes(r.Data())
	if err != nil || len(nodes) == 0 {
		return // nothing, or a pointer to nowhere
	}
	n := nodes[0]
	put := func(addr uint64, b []byte) {
		if len(b) > 0 && addr+uint64(len(b)) > addr {
			f.v.h.fill(Virtual, f.v.a.Canon(addr), len(b), target.Reply{Runs: []target.Run{{Data: b}}})
		}
	}
	var whole []byte
	chunks := (c.d.Len + target.MaxPiece - 1) / target.MaxPiece
	if len(n.Pieces) != chunks+len(c.then) {
		return
	}
	for i, b := range n.Pieces[:chunks] {
		put(n.Addr+uint64(i*target.MaxPiece), b)
		if len(whole) == i*target.MaxPiece {
			whole = append(whole, b...)
		}
	}
	for i, b := range n.Pieces[chunks:] {
		at := int(c.then[i].Offset)
		if at+f.ps > len(whole) {
			continue
		}
		if to := f.v.a.Canon(uintOf(whole[at : at+f.ps])); to != 0 {
			put(to, b)
		}
	}
}

// ChaseEnd is how a list ended that did not end well.
type ChaseEnd struct {
	Broken bool // a link cannot be read
	Circle bool // it comes back to a node that is not where it began
	Addr   uint64
}

// Chase follows a list next to the line, in one exchange, and makes known what it
// has read of the nodes. The nodes come in order; where the pieces are read that
// pointers lead to, the node must be among the pieces in front of them. What is
// wanted beside it comes in the same exchange.
func (e *Engine) Chase(ctx context.Context, l target.List, beside ...Want) (nodes []uint64, end ChaseEnd, err error) {
	h, a, err := e.view()
	if err != nil {
		return nil, end, err
	}
	l.Head = a.Canon(l.Head)
	l.Pieces = append(l.Pieces[:min(len(l.Pieces), target.MaxPieces-1):min(len(l.Pieces), target.MaxPieces-1)],
		target.Piece{Offset: l.LinkOffset, Len: uint32(a.PointerSize)})
	r, err := e.newFetcher(ctx, h, a, beside).run(target.Request{Op: target.OpFollow, List: &l})
	if err != nil {
		return nil, end, err
	}
	list, err := target.DecodeNodes(r[0].Data())
	if err != nil {
		return nil, end, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	put := func(addr uint64, b []byte) {
		if len(b) > 0 && addr+uint64(len(b)) > addr {
			h.fill(Virtual, a.Canon(addr), len(b), target.Reply{Runs: []target.Run{{Data: b}}})
		}
	}
	seen := map[uint64]bool{}
	last := uint64(0)
	for _, n := range list {
		if len(n.Pieces) != len(l.Pieces) {
			continue
		}
		at := a.Canon(n.Addr)
		nodes = append(nodes, at)
		seen[at] = true
		for i, p := range l.Pieces {
			b := n.Pieces[i]
			if p.Via == target.ViaNode {
				put(at+uint64(p.Offset), b)
				continue
			}
			var ptr [8]byte
			if p.Via == target.ViaPointer && len(b) > 0 && h.knownLocked(a, at+uint64(p.Offset), ptr[:a.PointerSize]) {
				put(a.Canon(uintOf(ptr[:a.PointerSize]))+uint64(p.Add), b)
			}
		}
		last = 0
		if b := n.Pieces[len(l.Pieces)-1]; len(b) == a.PointerSize {
			last = a.Canon(uintOf(b))
		} else {
			end = ChaseEnd{Broken: true, Addr: at + uint64(l.LinkOffset)}
		}
	}
	switch next := a.Canon(last - uint64(l.LinkOffset)); {
	case len(nodes) == 0 && r[0].Status.Failed():
		end = ChaseEnd{Broken: true, Addr: l.Head}
	case end.Broken:
	case last != 0 && last != l.Head && seen[next]:
		end = ChaseEnd{Circle: true, Addr: next}
	case last != 0 && last != l.Head && r[0].Status.Failed():
		end = ChaseEnd{Broken: true, Addr: last}
	}
	return nodes, end, nil
}

// knownLocked is known for a few bytes of one page or two. mu is held.
func (h *halt) knownLocked(a *arch.Arch, addr uint64, b []byte) bool {
	for i := range b {
		at := a.Canon(addr + uint64(i))
		p := h.pages[pageKey{Virtual, at &^ (pageSize - 1)}]
		if p == nil || !p.valid.get(int(at%pageSize)) {
			return false
		}
		b[i] = p.data[at%pageSize]
	}
	return true
}

// maxWatched bounds what WatchReads keeps.
const maxWatched = 1024

// WatchReads notes from now on what virtual memory is looked at in this halt,
// known or not, until stop is called, which says what it was.
func (e *Engine) WatchReads() (stop func() []Range) {
	e.mu.Lock()
	h := e.halt
	e.mu.Unlock()
	if h == nil {
		return func() []Range { return nil }
	}
	var out []Range
	h.mu.Lock()
	h.watch = func(addr uint64, n int) {
		if len(out) < maxWatched {
			out = append(out, Range{addr, n})
		}
	}
	h.mu.Unlock()
	return func() []Range {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.watch = nil
		return out
	}
}
