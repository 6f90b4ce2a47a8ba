package pdb

import (
	"cmp"
	"hash/fnv"
	"slices"
	"sort"
	"strings"
)

// hashed is an entry of a table by names that the file does not have: the hash
// of a name, and the position or number of a record.
type hashed struct {
	hash uint32
	pos  uint32
}

// cxxSpecial is the key of names that are no identifiers: constructors,
// operators, tables.
const cxxSpecial = "?"

// cxxKey returns the last part of a decorated name without undecorating it.
// Texts, which nobody looks for by name, have none.
func cxxKey(linkage []byte) string {
	s := string(linkage[1:])
	if strings.HasPrefix(s, "?_C@") {
		return ""
	}
	if strings.HasPrefix(s, "?$?") {
		return cxxSpecial
	}
	s = strings.TrimPrefix(s, "?$")
	i := strings.IndexByte(s, '@')
	if i <= 0 || s[0] == '?' {
		return cxxSpecial
	}
	return s[:i]
}

// lastParts returns the last and the last but one part of an undecorated name,
// without template arguments.
func lastParts(name string) (last, before string) {
	parts := []string{""}
	depth := 0
	for i := 0; i < len(name); i++ {
		switch c := name[i]; {
		case c == '<' && !strings.HasSuffix(parts[len(parts)-1], "operator"):
			depth++
		case c == '>' && depth > 0:
			depth--
		case depth > 0:
		case c == ':' && strings.HasPrefix(name[i:], "::"):
			parts = append(parts, "")
			i++
		default:
			parts[len(parts)-1] += string(c)
		}
	}
	n := len(parts)
	if n == 1 {
		return parts[0], ""
	}
	return parts[n-1], parts[n-2]
}

func cxxHash(key string) uint32 {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key))
	return h.Sum32()
}

// cxx looks for public symbols by their undecorated C++ name. The hash tables of
// the file know decorated names only, so a table is made of the last parts of
// undecorated ones: eight bytes for each.
func (q *query) cxx(name string) error {
	list, err := q.f.cxxNames.get(func() ([]hashed, error) {
		var list []hashed
		err := q.f.eachRecord(q.t, &q.t.publics, func(pos uint32, r *symRec) error {
			if len(r.name) > 1 && r.name[0] == '?' {
				if key := cxxKey(r.name); key != "" {
					list = append(list, hashed{cxxHash(key), pos})
				}
			}
			return nil
		})
		slices.SortFunc(list, func(a, b hashed) int {
			return cmp.Or(cmp.Compare(a.hash, b.hash), cmp.Compare(a.pos, b.pos))
		})
		return list, err
	})
	if err != nil {
		return err
	}
	last, before := lastParts(name)
	key := last
	if last == before || strings.HasPrefix(last, "~") || strings.HasPrefix(last, "operator") || strings.Contains(last, "`") {
		key = cxxSpecial
	}
	h := cxxHash(key)
	for i := sort.Search(len(list), func(i int) bool { return list[i].hash >= h }); i < len(list) && list[i].hash == h; i++ {
		r, err := q.t.records.symbol(int64(list[i].pos))
		if err != nil {
			return err
		}
		if err := q.public(&r, func(p public) bool { return sameName(p.name, name) }); err != nil {
			return err
		}
	}
	return nil
}
