package dwarf

import (
	"strings"

	"openkd/image/sym"
)

// After returns the linker's symbol that follows an address; false where none does.
func (f *File) After(rva uint32) (sym.Symbol, bool, error) {
	t, err := f.publics()
	if t == nil {
		return sym.Symbol{}, false, err
	}
	for i := t.above(rva); i < len(t.list); i++ {
		if p := &t.list[i]; p.class == coffLabel && strings.HasPrefix(p.linkage, ".") {
			continue // local to a page of assembler
		}
		return f.full(t, i), true, nil
	}
	return sym.Symbol{}, false, err
}
