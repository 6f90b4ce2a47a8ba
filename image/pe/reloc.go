package pe

import (
	"fmt"
	"io"
	"sort"
)

// Relocation types of the base relocation directory.
const (
	relocAbsolute = 0 // padding
	relocHigh     = 1
	relocLow      = 2
	relocHighLow  = 3
	relocDir64    = 10
)

type reloc struct {
	rva uint32
	typ uint8
}

func (r reloc) size() int {
	switch r.typ {
	case relocHigh, relocLow:
		return 2
	case relocDir64:
		return 8
	}
	return 4
}

// Relocated reads an image as the loader maps it at some base.
type Relocated struct {
	im     *Image
	delta  uint64
	relocs []reloc // sorted by address
}

// Relocate reads the base relocations, for comparing a target's memory with
// the image's file: the result reads the image as it is mapped at base. The
// header's ImageBase is not changed, nor are imports filled in. An image
// without relocations can only be read at its own base.
func (im *Image) Relocate(base uint64) (*Relocated, error) {
	out := &Relocated{im: im, delta: base - im.ImageBase}
	if im.Layout == Mapped {
		return nil, fmt.Errorf("relocations of a mapped image are applied already: %w", ErrUnsupported)
	}
	if out.delta == 0 {
		return out, nil
	}
	d := im.Dirs[DirBaseReloc]
	if d.VirtualAddress == 0 || d.Size == 0 {
		return nil, fmt.Errorf("the image has no relocations and cannot lie at %#x, only at %#x: %w", base, im.ImageBase, ErrUnsupported)
	}
	if uint64(d.VirtualAddress)+uint64(d.Size) > uint64(im.SizeOfImage) {
		return nil, malformed("base relocation directory", "%#x bytes at %#x leave the image", d.Size, d.VirtualAddress)
	}
	for at := uint32(0); at+8 <= d.Size; {
		var h [8]byte
		if err := readFull(im, h[:], int64(d.VirtualAddress)+int64(at), "base relocation block"); err != nil {
			return nil, err
		}
		page, size := le.Uint32(h[:]), le.Uint32(h[4:])
		if size == 0 {
			break // some linkers end the list so
		}
		if size < 8 || size > d.Size-at || size > 8+2*8192 {
			return nil, malformed("base relocation block", "size %#x at %#x of %#x", size, at, d.Size)
		}
		raw := make([]byte, size-8)
		if err := readFull(im, raw, int64(d.VirtualAddress)+int64(at)+8, "base relocation block"); err != nil {
			return nil, err
		}
		for ; len(raw) >= 2; raw = raw[2:] {
			v := le.Uint16(raw)
			r := reloc{page + uint32(v&0xFFF), uint8(v >> 12)}
			switch r.typ {
			case relocAbsolute:
				continue
			case relocHigh, relocLow, relocHighLow, relocDir64:
			default:
				return nil, fmt.Errorf("base relocation type %d at %#x: %w", r.typ, r.rva, ErrUnsupported)
			}
			if uint64(r.rva)+uint64(r.size()) > uint64(im.SizeOfImage) {
				return nil, malformed("base relocation", "%#x leaves the image", r.rva)
			}
			out.relocs = append(out.relocs, r)
		}
		at += size
	}
	sort.Slice(out.relocs, func(i, j int) bool { return out.relocs[i].rva < out.relocs[j].rva })
	return out, nil
}

// Patched tells which bytes relocation changed or would change, in [rva,
// rva+n): a comparison may leave them out.
func (r *Relocated) Patched(rva uint32, n int) bool {
	i := r.first(int64(rva))
	return i < len(r.relocs) && int64(r.relocs[i].rva) < int64(rva)+int64(n)
}

// first is the index of the first relocation that ends behind off.
func (r *Relocated) first(off int64) int {
	return sort.Search(len(r.relocs), func(i int) bool { return int64(r.relocs[i].rva)+8 > off })
}

// ReadAt implements io.ReaderAt over relative addresses.
func (r *Relocated) ReadAt(p []byte, off int64) (int, error) {
	n, err := r.im.ReadAt(p, off)
	for i := r.first(off); i < len(r.relocs) && int64(r.relocs[i].rva) < off+int64(n); i++ {
		e := r.relocs[i]
		size := e.size()
		// The value may begin before p or end behind it.
		var raw [8]byte
		if readFull(r.im, raw[:size], int64(e.rva), "relocated value") != nil {
			continue
		}
		v := le.Uint64(raw[:])
		switch e.typ {
		case relocHigh:
			v += r.delta >> 16
		default:
			v += r.delta
		}
		le.PutUint64(raw[:], v)
		for k := range size {
			if at := int64(e.rva) + int64(k) - off; at >= 0 && at < int64(n) {
				p[at] = raw[k]
			}
		}
	}
	return n, err
}

var (
	_ io.ReaderAt = (*Relocated)(nil)
	_ io.ReaderAt = (*Image)(nil)
)
