package unwind

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"openkd/image/pe"
	"openkd/kdproto"
)

// NewImage makes an Image of one that is loaded at base, in wire form. What it
// reads it keeps, a page at a time and within bounds, until it is dropped: one
// over a target's memory must not outlive the halt.
func NewImage(im *pe.Image, base uint64) (Image, error) {
	f, err := im.Functions()
	if err != nil {
		return nil, err
	}
	return &peImage{im: im, base: base, funcs: f, pages: map[uint32][]byte{}}, nil
}

const (
	pageSize = 4096
	maxPages = 1024 // of one image
)

type peImage struct {
	im    *pe.Image
	base  uint64
	funcs *pe.Functions // nil: the image has none

	mu    sync.Mutex
	pages map[uint32][]byte // guarded by mu; shorter than a page where reading ended
}

func (p *peImage) Base() uint64             { return p.base }
func (p *peImage) Size() uint32             { return p.im.SizeOfImage }
func (p *peImage) Machine() kdproto.Machine { return p.im.Machine }

func (p *peImage) Function(rva uint32) (pe.Function, bool, error) {
	if p.funcs == nil {
		return pe.Function{}, false, nil
	}
	return p.funcs.Find(rva)
}

func (p *peImage) ReadRVA(rva uint32, b []byte) error {
	if uint64(rva)+uint64(len(b)) > uint64(p.im.SizeOfImage) {
		return fmt.Errorf("%d bytes at %#x lie outside the image of %#x bytes", len(b), rva, p.im.SizeOfImage)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(b) > 0 {
		n := rva / pageSize
		pg, ok := p.pages[n]
		in := int(rva % pageSize)
		if !ok || in >= len(pg) {
			// What could not be read before may be readable now.
			pg = make([]byte, min(pageSize, p.im.SizeOfImage-n*pageSize))
			k, err := p.im.ReadAt(pg, int64(n)*pageSize)
			pg = pg[:min(max(k, 0), len(pg))]
			if len(p.pages) >= maxPages {
				clear(p.pages)
			}
			p.pages[n] = pg
			if in >= len(pg) {
				if err == nil || errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return fmt.Errorf("the image at %#x: %w", rva, err)
			}
		}
		k := copy(b, pg[in:])
		b, rva = b[k:], rva+uint32(k)
	}
	return nil
}
