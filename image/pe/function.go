package pe

import (
	"fmt"
	"sync"

	"openkd/kdproto"
)

// Function is an entry of the exception directory (.pdata). What Data points
// to, or holds, is for package unwind to know.
type Function struct {
	Begin uint32 // relative to the base
	End   uint32 // of the first byte behind it; 0 on ARM64, where Data tells the length
	Data  uint32 // x64: RVA of UNWIND_INFO; ARM64: the second word of the entry
}

// Functions is the exception directory: what the linker noted of every function
// that has a frame, sorted by address. It reads on demand, a page at a time.
//
// Concurrency: all methods from any goroutine, if the reader's ReadAt is safe.
type Functions struct {
	dir  Directory
	size uint32 // bytes of an entry
	n    uint32

	mu sync.Mutex
	p  *pager // guarded by mu
}

// maxFunctions bounds the directory; the largest images have some hundred
// thousand entries.
const maxFunctions = 1 << 24

// Functions opens the exception directory; nil without an error when the image
// has none, as those of x86.
func (im *Image) Functions() (*Functions, error) {
	d := im.Dirs[DirException]
	if d.VirtualAddress == 0 || d.Size == 0 || im.Machine == kdproto.MachineI386 {
		return nil, nil
	}
	f := &Functions{dir: d, p: &pager{r: im, limit: int64(im.SizeOfImage), pages: map[int64][]byte{}}}
	switch im.Machine {
	case kdproto.MachineAMD64:
		f.size = 12
	case kdproto.MachineARM64:
		f.size = 8
	default:
		return nil, fmt.Errorf("exception directory of machine %v: %w", im.Machine, ErrUnsupported)
	}
	f.n = d.Size / f.size
	if f.n > maxFunctions {
		return nil, malformed("exception directory", "%d entries", f.n)
	}
	if uint64(d.VirtualAddress)+uint64(d.Size) > uint64(im.SizeOfImage) {
		return nil, malformed("exception directory", "it ends at %#x, behind the image's %#x bytes", uint64(d.VirtualAddress)+uint64(d.Size), im.SizeOfImage)
	}
	return f, nil
}

// Len is the number of entries.
func (f *Functions) Len() int { return int(f.n) }

// At reads entry i, which must be below Len.
func (f *Functions) At(i int) (Function, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.at(uint32(i))
}

func (f *Functions) at(i uint32) (Function, error) {
	var b [12]byte
	at := int64(f.dir.VirtualAddress) + int64(f.size)*int64(i)
	if len(f.p.pages) >= maxPages {
		f.p.pages, f.p.errs = map[int64][]byte{}, nil
	}
	if err := readFull(f.p, b[:f.size], at, "exception directory"); err != nil {
		return Function{}, err
	}
	fn := Function{Begin: le.Uint32(b[:])}
	if f.size == 12 {
		fn.End, fn.Data = le.Uint32(b[4:]), le.Uint32(b[8:])
	} else {
		fn.Data = le.Uint32(b[4:])
	}
	return fn, nil
}

// maxNested bounds how deep entries may lie in each other: some compilers put
// the parts of a function inside its own range.
const maxNested = 16

// Find returns the entry that covers a relative address: on x64 the innermost
// one whose range holds it, on ARM64, where entries have no end, the last one at
// or below it. The search is binary: in a table that is not sorted it may miss.
func (f *Functions) Find(rva uint32) (Function, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	lo, hi := uint32(0), f.n // the answer is below hi, entries below lo begin at or below rva
	var found Function
	for lo < hi {
		mid := lo + (hi-lo)/2
		fn, err := f.at(mid)
		if err != nil {
			return Function{}, false, err
		}
		// Entries of zeroes pad the end of some tables.
		if fn.Begin > rva || fn.Begin == 0 {
			hi = mid
			continue
		}
		found, lo = fn, mid+1
	}
	if f.size == 8 {
		return found, lo > 0, nil
	}
	for i := lo; i > 0 && lo-i < maxNested; i-- {
		fn, err := f.at(i - 1)
		if err != nil || fn.Begin <= rva && rva < fn.End { // in a table that is not sorted it may begin behind it
			return fn, err == nil, err
		}
	}
	return Function{}, false, nil
}
