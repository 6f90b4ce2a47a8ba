package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"openkd/arch"
	"openkd/image/pe"
	"openkd/image/sym"
	"openkd/image/unwind"
	"openkd/kdproto"
	"openkd/target"
)

// Files gives what this machine has of modules. Without it, or for a module of
// which it has nothing, code and unwind data are read from the target.
//
// Concurrency: from any goroutine. It is asked again and again, so it must
// remember what it did not find. It must not talk to the target.
type Files interface {
	// Image is the file that a module was loaded from; nil: not at hand.
	Image(ctx context.Context, m Module) *pe.Image
	// SymbolFile is the module's symbol file; nil: not at hand.
	SymbolFile(ctx context.Context, m Module) sym.File
}

// SetFiles names the source of files. It must be called before Run.
func (e *Engine) SetFiles(f Files) { e.opt.Files = f }

// symbolFile is the symbol file of a module, nil where there is none.
func (e *Engine) symbolFile(ctx context.Context, m Module) sym.File {
	if e.opt.Files == nil {
		return nil
	}
	return e.opt.Files.SymbolFile(ctx, m)
}

const (
	// maxImageBytes bounds what is kept of all images.
	maxImageBytes = 64 << 20
	// maxDirectory and maxUnwindData are how large an exception directory and a
	// section of unwind data may be to be read whole.
	maxDirectory  = 4 << 20
	maxUnwindData = 256 << 10
)

// images keeps what was read of the images in the target's memory: code and
// unwind data stay as they are while an image is loaded, so they outlive the
// halt. Where breakpoints go is never decided by it: see code.
type images struct {
	mu   sync.Mutex
	mods map[uint64]*image // by base
	held int               // bytes
}

type image struct {
	size  uint32
	pages map[uint32][]byte // whole pages by offset
	file  *pe.Image         // that open was made of
	open  unwind.Image
}

// of is the image of a module. mu is held.
func (s *images) of(m Module) *image {
	im := s.mods[m.Base]
	if im == nil || im.size != m.Size {
		if s.mods == nil {
			s.mods = map[uint64]*image{}
		}
		im = &image{size: m.Size, pages: map[uint32][]byte{}}
		s.mods[m.Base] = im
	}
	return im
}

// forget drops what is kept of the image at a base.
func (s *images) forget(base uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.mods, base)
}

func (s *images) forgetAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mods, s.held = nil, 0
}

// written drops the pages of images that a write has changed.
func (s *images) written(addr uint64, n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for base, im := range s.mods {
		if addr < base+uint64(im.size) && addr+uint64(n) > base {
			im.pages = map[uint32][]byte{}
		}
	}
}

// errMissing stands for memory that was not asked for yet.
var errMissing = errors.New("it was not read yet")

// view is the target as it is known: halted memory, and images. It never talks
// to the target. What somebody wants and is not known is noted, so that all of
// it can be fetched in one exchange and the work done again.
type view struct {
	e    *Engine
	ctx  context.Context // of files only
	h    *halt
	a    *arch.Arch
	slow bool

	mods    []Module
	listed  bool // mods is the target's own list
	images  map[uint64]unwind.Image
	missing []target.Request
	files   *fileWish // files to be looked for before the target is asked; nil: only those at hand
	tail    uint64    // where known stack memory ends, if somebody looked behind it
	hasTail bool
}

func (e *Engine) newView(ctx context.Context, h *halt, a *arch.Arch) *view {
	e.mu.Lock()
	defer e.mu.Unlock()
	return &view{e: e, ctx: ctx, h: h, a: a, slow: e.slow, images: map[uint64]unwind.Image{},
		mods: append([]Module(nil), e.mods.list...), listed: e.mods.read}
}

// note asks for memory.
func (v *view) note(addr uint64, n int) {
	for i := range v.missing {
		if r := &v.missing[i]; addr >= r.Addr && addr+uint64(n) <= r.Addr+r.Len {
			return
		}
	}
	v.missing = append(v.missing, Virtual.ReadRequest(addr, n))
}

// maxFetch bounds the requests of one fetch.
const maxFetch = 512

// fetch reads what was noted, and the module list where that is wanted, in one
// exchange.
func (v *view) fetch(list bool) error {
	unit := uint64(pageSize)
	if v.slow {
		unit = slowUnit
	}
	var batch, mods []target.Request
	if list {
		mods = v.e.moduleRequests(v.a)
	}
	v.h.mu.Lock()
	for _, r := range v.missing[:min(len(v.missing), maxFetch)] {
		batch = append(batch, v.h.missing(v.a, Virtual, r.Addr, int(r.Len), unit)...)
	}
	v.h.mu.Unlock()
	if len(batch)+len(mods) == 0 {
		return nil
	}
	replies, err := v.e.do(v.ctx, v.h, append(mods, batch...)...)
	if err != nil {
		return err
	}
	v.e.mu.Lock()
	limit := v.e.cacheSize
	v.e.mu.Unlock()
	v.h.mu.Lock()
	v.h.trim(limit)
	for i, r := range replies[len(mods):] {
		v.h.fill(Virtual, batch[i].Addr, int(batch[i].Len), r)
	}
	v.h.mu.Unlock()
	if len(mods) > 0 {
		return v.e.takeModules(v.a, mods, replies[:len(mods)])
	}
	return nil
}

// fileWish is which modules a walk has met whose files nobody has looked for.
type fileWish struct {
	tried map[uint64]bool // by base
	todo  []uint64
}

// wish notes a module, and says whether its files are to be looked for first.
func (w *fileWish) wish(base uint64) bool {
	if w == nil || w.tried[base] {
		return false
	}
	w.tried[base] = true
	w.todo = append(w.todo, base)
	return true
}

// errNoModule: an address is in no module that is known.
var errNoModule = errors.New("the address is in no known module")

// look does something with what is known, fetches what it missed in one
// exchange, and does it again, until nothing is missing.
func (e *Engine) look(ctx context.Context, h *halt, a *arch.Arch, f func(v *view) error) error {
	return e.lookWith(ctx, h, a, nil, f)
}

// lookWith is look that looks for the files of modules first, so that what they hold
// is not read from the target. That may take as long as downloads do.
func (e *Engine) lookWith(ctx context.Context, h *halt, a *arch.Arch, files *fileWish, f func(v *view) error) error {
	listed := false
	for round := 0; ; round++ {
		v := e.newView(ctx, h, a)
		v.files = files
		err := f(v)
		if files != nil && len(files.todo) > 0 && round < maxRounds {
			todo := files.todo
			files.todo = nil
			if _, err := e.LoadSymbols(ctx, todo...); err != nil {
				return err
			}
			continue
		}
		list := !v.listed && !listed
		if len(v.missing) == 0 && !(list && errors.Is(err, errNoModule)) || round == maxRounds {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		listed = listed || list
		if err := v.fetch(list); err != nil {
			return err
		}
	}
}

// known copies what is known at addr into b and returns how many bytes that
// are. asked says that the byte behind them cannot be read; otherwise nobody
// has tried yet.
func (h *halt) known(a *arch.Arch, addr uint64, b []byte) (n int, asked bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.watch != nil {
		h.watch(a.Canon(addr), len(b))
	}
	for n < len(b) {
		at := a.Canon(addr + uint64(n))
		in := int(at % pageSize)
		p := h.pages[pageKey{Virtual, at - uint64(in)}]
		c := min(pageSize-in, len(b)-n)
		if p == nil {
			return n, false
		}
		for i := range c {
			if !p.valid.get(in + i) {
				return n, p.known.get(in + i)
			}
			b[n] = p.data[in+i]
			n++
		}
	}
	return n, true
}

// Read implements unwind.Memory. What is not known yet is a short read; the
// walk says whether it was needed.
func (v *view) Read(addr uint64, b []byte) (int, error) {
	n, asked := v.h.known(v.a, addr, b)
	switch {
	case n == len(b):
		return n, nil
	case asked:
		return n, &MemoryError{Addr: v.a.Canon(addr + uint64(n))}
	}
	v.tail, v.hasTail = v.a.Canon(addr+uint64(n)), true
	return n, errMissing
}

// moduleAt is the module of an address.
func (v *view) moduleAt(addr uint64) (Module, bool) {
	lo, hi := 0, len(v.mods)
	for lo < hi {
		if mid := (lo + hi) / 2; v.mods[mid].Base <= addr {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo > 0 && v.mods[lo-1].Contains(addr) {
		return v.mods[lo-1], true
	}
	return Module{}, false
}

// image is the image around an address.
func (v *view) image(addr uint64) (unwind.Image, bool) {
	m, ok := v.moduleAt(addr)
	if !ok {
		return nil, false
	}
	if im := v.images[m.Base]; im != nil {
		return im, true
	}
	im := v.open(m)
	v.images[m.Base] = im
	return im, true
}

func (v *view) open(m Module) unwind.Image {
	store := &v.e.images
	v.files.wish(m.Base)
	if v.e.opt.Files != nil {
		if f := v.e.opt.Files.Image(v.ctx, m); f != nil {
			store.mu.Lock()
			im := store.of(m)
			if im.file == f {
				defer store.mu.Unlock()
				return im.open
			}
			store.mu.Unlock()
			if open, err := unwind.NewImage(f, m.Base); err == nil {
				store.mu.Lock()
				defer store.mu.Unlock()
				im.file, im.open = f, open
				return open
			}
		}
	}
	return v.mapped(m)
}

// mapped is an image as it lies in the target's memory.
type mapped struct {
	v    *view
	m    Module
	pe   *pe.Image // nil: err
	err  error
	dir  pe.Directory // exception directory
	unit uint32       // bytes of an entry of it
}

func (v *view) mapped(m Module) *mapped {
	im := &mapped{v: v, m: m}
	im.pe, im.err = pe.Open(readerAt{im}, pe.Mapped)
	if im.err == nil {
		im.dir = im.pe.Dirs[pe.DirException]
		switch im.pe.Machine {
		case kdproto.MachineAMD64:
			im.unit = 12
		case kdproto.MachineARM64:
			im.unit = 8
		}
		if uint64(im.dir.VirtualAddress)+uint64(im.dir.Size) > uint64(m.Size) {
			im.err = fmt.Errorf("the exception directory of %s lies outside of the image", m.Name)
		}
	} else if !errors.Is(im.err, errMissing) {
		im.err = fmt.Errorf("%s has no image file at hand, and its headers in memory cannot be used: %w", m.Name, im.err)
	}
	return im
}

func (im *mapped) Base() uint64 { return im.m.Base }
func (im *mapped) Size() uint32 { return im.m.Size }

func (im *mapped) Machine() kdproto.Machine {
	if im.pe != nil {
		return im.pe.Machine
	}
	return im.v.a.Machine
}

// ReadRVA implements unwind.Image.
func (im *mapped) ReadRVA(rva uint32, b []byte) error {
	if uint64(rva)+uint64(len(b)) > uint64(im.m.Size) {
		return fmt.Errorf("%d bytes at %#x lie outside of %s, which has %#x", len(b), rva, im.m.Name, im.m.Size)
	}
	v, store := im.v, &im.v.e.images
	for len(b) > 0 {
		base, in := rva&^(pageSize-1), int(rva%pageSize)
		c := min(pageSize-in, len(b))
		store.mu.Lock()
		p := store.of(im.m).pages[base]
		store.mu.Unlock()
		if p == nil {
			p = v.keep(im.m, base)
		}
		if p != nil {
			copy(b[:c], p[in:])
		} else if n, asked := v.h.known(v.a, im.m.Base+uint64(rva), b[:c]); n < c {
			if asked {
				return &MemoryError{Addr: v.a.Canon(im.m.Base + uint64(rva) + uint64(n))}
			}
			im.want(rva+uint32(n), c-n)
			return errMissing
		}
		b, rva = b[c:], rva+uint32(c)
	}
	return nil
}

// want notes a part of the image, and what will be wanted next to it.
func (im *mapped) want(rva uint32, n int) {
	v, d := im.v, im.dir
	if !v.slow && im.unit != 0 && rva >= d.VirtualAddress && rva-d.VirtualAddress < d.Size && d.Size <= maxDirectory {
		v.note(im.m.Base+uint64(d.VirtualAddress), int(d.Size))
		for _, s := range im.pe.Sections {
			// MinGW puts it in a section of its own.
			if s.Name == ".xdata" && s.VirtualSize <= maxUnwindData && s.VirtualAddress < im.m.Size {
				v.note(im.m.Base+uint64(s.VirtualAddress), int(min(s.VirtualSize, im.m.Size-s.VirtualAddress)))
			}
		}
		return
	}
	if rva == 0 && !v.slow {
		n = int(min(pageSize, im.m.Size)) // all headers
	}
	v.note(im.m.Base+uint64(rva), n)
}

// keep takes a page of an image that was read whole in this halt along into
// the next; nil when it was not.
func (v *view) keep(m Module, base uint32) []byte {
	b := make([]byte, min(pageSize, m.Size-base))
	if n, _ := v.h.known(v.a, m.Base+uint64(base), b); n < len(b) {
		return nil
	}
	s := &v.e.images
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held += len(b); s.held > maxImageBytes {
		s.mods, s.held = nil, len(b)
	}
	s.of(m).pages[base] = b
	return b
}

// entry reads an entry of the exception directory.
func (im *mapped) entry(i uint32) (pe.Function, error) {
	var b [12]byte
	if err := im.ReadRVA(im.dir.VirtualAddress+im.unit*i, b[:im.unit]); err != nil {
		return pe.Function{}, fmt.Errorf("the exception directory of %s: %w", im.m.Name, err)
	}
	f := pe.Function{Begin: le.Uint32(b[:]), Data: le.Uint32(b[4:])}
	if im.unit == 12 {
		f.End, f.Data = le.Uint32(b[4:]), le.Uint32(b[8:])
	}
	return f, nil
}

// Function implements unwind.Image. Unlike pe.Functions it reads no more than
// the entries it looks at, which counts on a slow line.
func (im *mapped) Function(rva uint32) (pe.Function, bool, error) {
	if im.err != nil {
		return pe.Function{}, false, im.err
	}
	if im.unit == 0 || im.dir.VirtualAddress == 0 {
		return pe.Function{}, false, nil
	}
	lo, hi := uint32(0), im.dir.Size/im.unit
	var found pe.Function
	for lo < hi {
		mid := lo + (hi-lo)/2
		f, err := im.entry(mid)
		if err != nil {
			return pe.Function{}, false, err
		}
		if f.Begin > rva || f.Begin == 0 { // zeroes pad the end of some
			hi = mid
			continue
		}
		found, lo = f, mid+1
	}
	if lo == 0 || im.unit == 12 && rva >= found.End {
		return pe.Function{}, false, nil
	}
	return found, true, nil
}

// readerAt reads an image in memory.
type readerAt struct{ im *mapped }

func (r readerAt) ReadAt(p []byte, off int64) (int, error) {
	size := int64(r.im.m.Size)
	if off < 0 || off >= size {
		return 0, io.EOF
	}
	n := min(int64(len(p)), size-off)
	if err := r.im.ReadRVA(uint32(off), p[:n]); err != nil {
		return 0, err
	}
	if n < int64(len(p)) {
		return int(n), io.EOF
	}
	return int(n), nil
}
