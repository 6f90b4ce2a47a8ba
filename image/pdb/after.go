package pdb

import (
	"sort"

	"openkd/image/sym"
)

// After returns the public symbol that follows an address; false where none does.
func (f *File) After(rva uint32) (sym.Symbol, bool, error) {
	t, l, a, ok, err := f.whereabouts(rva)
	if !ok || err != nil {
		return sym.Symbol{}, false, err
	}
	at := func(i int) (symRec, error) {
		pos, err := t.publics.s.u32(t.byAddr.off + 4*int64(i))
		if err != nil {
			return symRec{}, err
		}
		return t.records.symbol(int64(pos))
	}
	n := int(t.byAddr.size / 4)
	var failed error
	i := sort.Search(n, func(i int) bool {
		r, err := at(i)
		if err != nil {
			failed = err
			return true
		}
		return addr{r.seg, r.off}.compare(a) > 0
	})
	if failed != nil {
		return sym.Symbol{}, false, failed
	}
	const most = 1024 // records that are no symbols of the image, one behind the other
	for k := 0; i < n && k < most; i, k = i+1, k+1 {
		r, err := at(i)
		if err != nil {
			return sym.Symbol{}, false, err
		}
		if p, ok := f.public(l, &r); ok && !p.absolute && p.rva > rva {
			return p.symbol(l), true, nil
		}
	}
	return sym.Symbol{}, false, nil
}
