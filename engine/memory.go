package engine

import (
	"context"
	"encoding/binary"
	"fmt"
	"sort"
	"sync"

	"openkd/arch"
	"openkd/kdproto"
	"openkd/target"
)

var le = binary.LittleEndian

// DefaultCacheSize is how much memory of one halt is kept, in bytes.
const DefaultCacheSize = 16 << 20

const (
	pageSize = 4096
	// Reads from this size on go past the cache in one request: they are
	// looked at once, and would push everything else out.
	bigRead = 256 << 10
	// slowUnit is what a read is rounded to on a line that is paced, where a
	// whole page would cost a third of a second.
	slowUnit = 128
)

// Space is the address space of a read or write. The physical ones differ in
// the cache attribute that the target is asked to use.
type Space uint8

// Spaces.
const (
	Virtual Space = iota
	Physical
	PhysicalCached
	PhysicalUncached
	PhysicalWriteCombined
)

func (s Space) String() string {
	if s == Virtual {
		return "virtual"
	}
	return "physical"
}

// IsPhysical reports whether addresses are physical.
func (s Space) IsPhysical() bool { return s != Virtual }

// ReadRequest is the request that reads n bytes at addr.
func (s Space) ReadRequest(addr uint64, n int) target.Request {
	if s == Virtual {
		return target.Request{Op: target.OpReadVirtual, Addr: addr, Len: uint64(n)}
	}
	return target.Request{Op: target.OpReadPhysical, Addr: addr, Len: uint64(n), Flags: uint32(s - Physical)}
}

// WriteRequest is the request that writes data at addr.
func (s Space) WriteRequest(addr uint64, data []byte) target.Request {
	if s == Virtual {
		return target.Request{Op: target.OpWriteVirtual, Addr: addr, Data: data}
	}
	return target.Request{Op: target.OpWritePhysical, Addr: addr, Data: data, Flags: uint32(s - Physical)}
}

// MemoryError says that memory could not be read or written.
type MemoryError struct {
	Space  Space
	Addr   uint64
	Write  bool
	Status kdproto.Status // 0 when not known any more
}

func (e *MemoryError) Error() string {
	verb := "read"
	if e.Write {
		verb = "written"
	}
	s := fmt.Sprintf("the %s memory at %s cannot be %s", e.Space, FormatAddr(e.Addr, 8), verb)
	if e.Status != 0 {
		s += fmt.Sprintf(" (status %s)", e.Status)
	}
	return s
}

// Span is a stretch of a Data: Len bytes at Offset.
type Span struct{ Offset, Len int }

// Data is the answer to a read. Bytes has the length asked for; what could not
// be read is zero there, and outside Spans.
type Data struct {
	Addr   uint64
	Bytes  []byte
	Spans  []Span         // readable, in order, never adjacent
	Status kdproto.Status // of the last part that failed, when known
}

// Valid reports whether byte i was read.
func (d *Data) Valid(i int) bool { return d.ValidRange(i, 1) }

// ValidRange reports whether the n bytes from i were all read.
func (d *Data) ValidRange(i, n int) bool {
	k := sort.Search(len(d.Spans), func(k int) bool { return d.Spans[k].Offset+d.Spans[k].Len > i })
	return k < len(d.Spans) && d.Spans[k].Offset <= i && i+n <= d.Spans[k].Offset+d.Spans[k].Len
}

// Complete reports whether every byte was read.
func (d *Data) Complete() bool { return len(d.Bytes) == 0 || d.ValidRange(0, len(d.Bytes)) }

// Prefix is the bytes from the start up to the first hole.
func (d *Data) Prefix() []byte {
	if len(d.Spans) == 0 || d.Spans[0].Offset != 0 {
		return nil
	}
	return d.Bytes[:d.Spans[0].Len]
}

// Read reads n bytes at addr. What cannot be read is a hole in Data, not an
// error. What is known of this halt costs no exchange, the rest costs one,
// whatever n is. n over target.MaxRead is cut to it. Virtual addresses may be
// given in either form of a 32-bit target.
func (e *Engine) Read(ctx context.Context, sp Space, addr uint64, n int) (Data, error) {
	h, a, err := e.viewFor(ctx)
	if err != nil {
		return Data{}, err
	}
	return e.read(ctx, h, a, sp, addr, n)
}

func (e *Engine) read(ctx context.Context, h *halt, a *arch.Arch, sp Space, addr uint64, n int) (Data, error) {
	if sp == Virtual {
		addr = a.Canon(addr)
	}
	n = min(max(n, 0), target.MaxRead)
	if left := -addr; left != 0 && uint64(n) > left {
		n = int(left) // no range runs over the end of the address space
	}
	if n == 0 {
		return Data{Addr: addr}, nil
	}
	if n >= bigRead {
		return e.readBig(ctx, h, sp, addr, n)
	}
	unit := uint64(pageSize)
	e.mu.Lock()
	if e.slow {
		unit = slowUnit
	}
	limit := e.cacheSize
	e.mu.Unlock()
	if sp.IsPhysical() && sp != Physical {
		unit = 1 // device memory asked for by its attribute: touch what was asked for only
	}
	h.mu.Lock()
	batch := h.missing(a, sp, addr, n, unit)
	h.mu.Unlock()
	var status kdproto.Status
	if len(batch) > 0 {
		replies, err := e.do(ctx, h, batch...)
		if err != nil {
			return Data{}, err
		}
		h.mu.Lock()
		h.trim(limit)
		for i, r := range replies {
			h.fill(sp, batch[i].Addr, int(batch[i].Len), r)
			if r.Status.Failed() {
				status = r.Status
			}
		}
		h.mu.Unlock()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.copyOut(a, sp, addr, n)
	d.Status = status
	return d, nil
}

func (e *Engine) readBig(ctx context.Context, h *halt, sp Space, addr uint64, n int) (Data, error) {
	r, err := e.do(ctx, h, sp.ReadRequest(addr, n))
	if err != nil {
		return Data{}, err
	}
	d := Data{Addr: addr, Bytes: make([]byte, n)}
	for _, run := range r[0].Runs {
		if run.Offset >= uint64(n) {
			continue
		}
		c := copy(d.Bytes[run.Offset:], run.Data)
		d.Spans = append(d.Spans, Span{int(run.Offset), c})
	}
	if r[0].Status.Failed() {
		d.Status = r[0].Status
	}
	return d, nil
}

// ReadFull reads n bytes and fails when one of them cannot be read.
func (e *Engine) ReadFull(ctx context.Context, sp Space, addr uint64, n int) ([]byte, error) {
	d, err := e.Read(ctx, sp, addr, n)
	if err != nil {
		return nil, err
	}
	if len(d.Bytes) < n || !d.Complete() {
		return nil, &MemoryError{Space: sp, Addr: d.Addr + uint64(len(d.Prefix())), Status: d.Status}
	}
	return d.Bytes, nil
}

// ReadUint reads a little-endian number of size bytes (1, 2, 4 or 8).
func (e *Engine) ReadUint(ctx context.Context, sp Space, addr uint64, size int) (uint64, error) {
	b, err := e.ReadFull(ctx, sp, addr, size)
	if err != nil {
		return 0, err
	}
	return uintOf(b), nil
}

// ReadPointer reads a pointer of the target, sign-extended on 32-bit ones.
func (e *Engine) ReadPointer(ctx context.Context, sp Space, addr uint64) (uint64, error) {
	a := e.Arch()
	if a == nil {
		return 0, ErrUnknownMachine
	}
	v, err := e.ReadUint(ctx, sp, addr, a.PointerSize)
	if err != nil {
		return 0, err
	}
	return a.Canon(v), nil
}

// ReadString reads up to the first NUL of at most max bytes; wide reads
// 16-bit characters. The bytes come without the NUL. It runs next to the line.
func (e *Engine) ReadString(ctx context.Context, addr uint64, wide bool, max int) ([]byte, error) {
	size := uint32(1)
	if wide {
		size = 2
	}
	r, err := e.Do(ctx, target.Request{Op: target.OpString, Addr: addr, Len: uint64(min(max, target.MaxString)), Flags: size})
	if err != nil {
		return nil, err
	}
	if b := r[0].Data(); b != nil || !r[0].Status.Failed() {
		return b, nil
	}
	return nil, &MemoryError{Addr: addr, Status: r[0].Status}
}

// Write writes data at addr and returns how many bytes the target took; fewer
// than all is a *MemoryError. What the cache holds of the range follows.
func (e *Engine) Write(ctx context.Context, sp Space, addr uint64, data []byte) (int, error) {
	h, a, err := e.view()
	if err != nil {
		return 0, err
	}
	if sp == Virtual {
		addr = a.Canon(addr)
	}
	if len(data) == 0 {
		return 0, nil
	}
	var batch []target.Request
	for off := 0; off < len(data); off += target.MaxWrite {
		batch = append(batch, sp.WriteRequest(addr+uint64(off), data[off:min(len(data), off+target.MaxWrite)]))
	}
	r, err := target.Collect(ctx, e.t, batch...)
	if sp == Virtual {
		e.images.written(addr, len(data))
	} else {
		e.images.forgetAll()
	}
	if err != nil {
		h.dropMemory()
		return 0, err
	}
	done := 0
	var status kdproto.Status
	for i := range r {
		n := int(min(r[i].Value, uint64(len(batch[i].Data))))
		done += n
		if status = r[i].Status; n < len(batch[i].Data) {
			break
		}
	}
	h.wrote(sp, addr, data[:done])
	if done < len(data) {
		return done, &MemoryError{Space: sp, Addr: addr + uint64(done), Write: true, Status: status}
	}
	return done, nil
}

// FlushCache forgets what was read in this halt, so that it is read again.
func (e *Engine) FlushCache() {
	e.mu.Lock()
	h := e.halt
	e.mu.Unlock()
	if h != nil {
		h.dropMemory()
	}
}

// CacheStats are the figures of the memory cache.
type CacheStats struct {
	Size  int // bytes at most
	Pages int // held
	Bytes int // known in them
}

// CacheStats returns the figures of the memory cache.
func (e *Engine) CacheStats() CacheStats {
	e.mu.Lock()
	h, size := e.halt, e.cacheSize
	e.mu.Unlock()
	s := CacheStats{Size: size}
	if h != nil {
		h.mu.Lock()
		for _, p := range h.pages {
			s.Pages++
			s.Bytes += p.known.count()
		}
		h.mu.Unlock()
	}
	return s
}

// SetCacheSize changes the limit of the memory cache, in bytes.
func (e *Engine) SetCacheSize(n int) {
	e.mu.Lock()
	e.cacheSize = max(n, pageSize)
	e.mu.Unlock()
}

func uintOf(b []byte) uint64 {
	var v uint64
	for i := len(b) - 1; i >= 0; i-- {
		v = v<<8 | uint64(b[i])
	}
	return v
}

// FormatAddr is an address in WinDbg's way: 8 bytes as fffff800`02e03904, 4
// bytes as eight digits.
func FormatAddr(addr uint64, pointerSize int) string {
	if pointerSize == 4 {
		return fmt.Sprintf("%08x", uint32(addr))
	}
	return fmt.Sprintf("%08x`%08x", uint32(addr>>32), uint32(addr))
}

// FormatAddr is an address in WinDbg's way, of the target's width.
func (e *Engine) FormatAddr(addr uint64) string {
	size := 8
	if a := e.Arch(); a != nil {
		size = a.PointerSize
	}
	return FormatAddr(addr, size)
}

// bitmap has one bit for each byte of a page.
type bitmap [pageSize / 64]uint64

func (b *bitmap) get(i int) bool { return b[i/64]>>(i%64)&1 != 0 }

func (b *bitmap) set(i, n int, on bool) {
	for ; n > 0; i, n = i+1, n-1 {
		if i%64 == 0 && n >= 64 {
			b[i/64] = 0
			if on {
				b[i/64] = ^uint64(0)
			}
			i, n = i+63, n-63
			continue
		}
		if on {
			b[i/64] |= 1 << (i % 64)
		} else {
			b[i/64] &^= 1 << (i % 64)
		}
	}
}

func (b *bitmap) count() int {
	n := 0
	for i := range pageSize {
		if b.get(i) {
			n++
		}
	}
	return n
}

// page is what is known of one page: known says asked for, valid says readable.
type page struct {
	data         [pageSize]byte
	known, valid bitmap
}

type pageKey struct {
	space Space
	addr  uint64
}

// halt is everything known about one stop. It is dropped whole when the target
// runs: memory does not change but by us while it stands.
type halt struct {
	stop     *target.Stop
	reporter int // processor that talks to us
	origin   int // processor that stopped first

	mu    sync.Mutex // guards what follows; never held during a call of the target
	proc  int        // processor that the user looks at
	scope scope      // what the user looks at there
	pages map[pageKey]*page
	cpus  map[int]*cpu
	watch func(addr uint64, n int) // of WatchReads: virtual memory that is looked at
}

func newHalt(s *target.Stop) *halt {
	h := &halt{stop: s, reporter: s.Processor, origin: s.Processor, proc: s.Processor, pages: map[pageKey]*page{}, cpus: map[int]*cpu{}}
	h.takeBundle(s)
	return h
}

// takeBundle puts what came with a stop where the commands look.
func (h *halt) takeBundle(s *target.Stop) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &cpu{}
	c.context = append([]byte(nil), s.Bundle.Context...)
	c.special = append([]byte(nil), s.Bundle.Special...)
	h.cpus[s.Processor] = c
	for _, m := range s.Bundle.Memory {
		if n := len(m.Data); n > 0 && n <= target.MaxRead && m.Addr+uint64(n)-1 >= m.Addr {
			h.fill(Virtual, m.Addr, n, target.Reply{Runs: []target.Run{{Data: m.Data}}})
		}
	}
}

// missing returns the reads that make [addr, addr+n) known, each rounded out
// to unit. mu is held.
func (h *halt) missing(a *arch.Arch, sp Space, addr uint64, n int, unit uint64) []target.Request {
	var out []target.Request
	for off := uint64(0); off < uint64(n); {
		at := addr + off
		if sp == Virtual {
			at = a.Canon(at)
		}
		base := at &^ (pageSize - 1)
		in := int(at - base)
		chunk := min(pageSize-in, n-int(off))
		p := h.pages[pageKey{sp, base}]
		for i := in; i < in+chunk; {
			if p != nil && p.known.get(i) {
				i++
				continue
			}
			j := i
			for j < in+chunk && (p == nil || !p.known.get(j)) {
				j++
			}
			lo := uint64(i) / unit * unit
			hi := min((uint64(j)+unit-1)/unit*unit, pageSize)
			lo, hi = base+lo, base+hi
			if k := len(out) - 1; k >= 0 && out[k].Addr+out[k].Len >= lo && out[k].Addr <= lo {
				if hi > out[k].Addr+out[k].Len {
					out[k].Len = hi - out[k].Addr
				}
			} else {
				out = append(out, sp.ReadRequest(lo, int(hi-lo)))
			}
			i = max(j, int(hi-base))
		}
		off += uint64(chunk)
	}
	return out
}

// fill notes the answer to a read of n bytes at addr. mu is held.
func (h *halt) fill(sp Space, addr uint64, n int, r target.Reply) {
	h.each(sp, addr, n, true, func(p *page, in, off, c int) { p.known.set(in, c, true); p.valid.set(in, c, false) })
	for _, run := range r.Runs {
		if run.Offset >= uint64(n) {
			continue
		}
		data := run.Data[:min(len(run.Data), n-int(run.Offset))]
		h.each(sp, addr+run.Offset, len(data), true, func(p *page, in, off, c int) {
			copy(p.data[in:], data[off:off+c])
			p.valid.set(in, c, true)
		})
	}
}

// each calls f for the pages of a range. Pages that are not held are skipped
// unless create is set. mu is held.
func (h *halt) each(sp Space, addr uint64, n int, create bool, f func(p *page, in, off, count int)) {
	for off := 0; off < n; {
		at := addr + uint64(off)
		base := at &^ (pageSize - 1)
		in := int(at - base)
		c := min(pageSize-in, n-off)
		k := pageKey{sp, base}
		p := h.pages[k]
		if p == nil && create {
			p = &page{}
			h.pages[k] = p
		}
		if p != nil {
			f(p, in, off, c)
		}
		off += c
	}
}

// copyOut builds the answer from the pages held. mu is held.
func (h *halt) copyOut(a *arch.Arch, sp Space, addr uint64, n int) Data {
	if h.watch != nil && sp == Virtual {
		h.watch(addr, n)
	}
	d := Data{Addr: addr, Bytes: make([]byte, n)}
	for off := 0; off < n; {
		at := addr + uint64(off)
		if sp == Virtual {
			at = a.Canon(at)
		}
		in := int(at % pageSize)
		c := min(pageSize-in, n-off)
		if p := h.pages[pageKey{sp, at - uint64(in)}]; p != nil {
			for i := 0; i < c; {
				if !p.valid.get(in + i) {
					i++
					continue
				}
				j := i
				for j < c && p.valid.get(in+j) {
					j++
				}
				copy(d.Bytes[off+i:off+j], p.data[in+i:in+j])
				if k := len(d.Spans) - 1; k >= 0 && d.Spans[k].Offset+d.Spans[k].Len == off+i {
					d.Spans[k].Len += j - i
				} else {
					d.Spans = append(d.Spans, Span{off + i, j - i})
				}
				i = j
			}
		}
		off += c
	}
	return d
}

// trim makes room when the cache is full. mu is held.
func (h *halt) trim(limit int) {
	if len(h.pages)*pageSize >= limit {
		h.pages = map[pageKey]*page{}
	}
}

func (h *halt) dropMemory() {
	h.mu.Lock()
	h.pages = map[pageKey]*page{}
	h.mu.Unlock()
}

func (h *halt) dropCPU(n int) {
	h.mu.Lock()
	delete(h.cpus, n)
	h.mu.Unlock()
}

// wrote follows a write. The same byte may have another address in the other
// spaces, so what is held of those is forgotten; so is any other virtual
// mapping of it, which nobody can know, as in every debugger.
func (h *halt) wrote(sp Space, addr uint64, data []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for k := range h.pages {
		if k.space != sp {
			delete(h.pages, k)
		}
	}
	h.each(sp, addr, len(data), false, func(p *page, in, off, c int) {
		if sp.IsPhysical() {
			// It may be a device register: read it again.
			p.known.set(in, c, false)
			p.valid.set(in, c, false)
			return
		}
		copy(p.data[in:], data[off:off+c])
		p.known.set(in, c, true)
		p.valid.set(in, c, true)
	})
}
