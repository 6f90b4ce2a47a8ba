package pdb

import "strings"

// Modules that were compiled while linking (/GL, LTO) refer to types and ids of
// each other. Such a number has the highest bit set and says where in the
// module's list of imports it is: which module, and which of its numbers. That
// module exports the number under the one that the whole file has for it.
const (
	crossRef    = 1 << 31
	crossModule = 20 // bits below the module's number
	crossMask   = 1<<crossModule - 1
	crossMods   = 0x7ff
)

// global returns the number that the type or id streams have for one that a
// record of this module has.
func (u *unit) global(id uint32) (uint32, error) {
	if id&crossRef == 0 {
		return id, nil
	}
	x, err := u.lineTable()
	if err != nil {
		return 0, err
	}
	name, local, err := u.imported(x.imports, id)
	if err != nil {
		return 0, err
	}
	from, err := u.f.moduleNamed(name)
	if err != nil {
		return 0, err
	}
	if from == nil {
		return 0, malformed(u.s.what, "number %#x is of a module %q, which is not there", id, name)
	}
	if x, err = from.lineTable(); err != nil {
		return 0, err
	}
	w := window{s: from.s}
	for off := x.exports.off; off+8 <= x.exports.end(); off += 8 {
		b, err := w.at(off, 8)
		if err != nil {
			return 0, err
		}
		if le.Uint32(b) == local {
			return le.Uint32(b[4:]), nil
		}
	}
	return 0, malformed(from.s.what, "it exports no number %#x", local)
}

// imported finds the module and number behind an import. The list has for each
// module its name, how many numbers there are, and those.
func (u *unit) imported(p part, id uint32) (name string, local uint32, err error) {
	mod, index := id>>crossModule&crossMods, int64(id&crossMask)
	for off := p.off; off+8 <= p.end(); mod-- {
		b, err := u.s.bytes(off, 8)
		if err != nil {
			return "", 0, err
		}
		count := int64(le.Uint32(b[4:]))
		if mod == 0 {
			if at := off + 8 + 4*index; index < count && at+4 <= p.end() {
				if local, err = u.s.u32(at); err != nil {
					return "", 0, err
				}
				name, err = u.f.text(le.Uint32(b))
				return name, local, err
			}
			break
		}
		off += 8 + 4*count
	}
	return "", 0, malformed(u.s.what, "it imports no number %#x", id)
}

// moduleNamed returns the module of a name; nil: none.
func (f *File) moduleNamed(name string) (*unit, error) {
	mods, err := f.moduleList()
	if err != nil {
		return nil, err
	}
	for i, m := range mods {
		s, err := f.dbi.s.text(int64(m.name))
		if err != nil {
			return nil, err
		}
		if strings.EqualFold(s, name) {
			return f.unit(uint16(i))
		}
	}
	return nil, nil
}
