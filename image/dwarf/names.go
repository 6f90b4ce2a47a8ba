package dwarf

import (
	"strings"

	"github.com/ianlancetaylor/demangle"
)

// plain takes off what x86 compilers put around names of C: _name (cdecl),
// _name@8 (stdcall), @name@8 (fastcall), name@@16 (vectorcall). The names of
// C++ are left with one underscore, as everywhere else.
func (f *File) plain(linkage string) string {
	if f.im.Machine != machineX86 {
		return linkage
	}
	s := linkage
	if s != "" && (s[0] == '_' || s[0] == '@') {
		s = s[1:]
	}
	if s = withoutArgs(s); s == "" {
		return linkage
	}
	return s
}

// withoutArgs is a name without the size of its arguments. What GCC appends to
// name a copy of the procedure stays.
func withoutArgs(s string) string {
	if i := strings.LastIndexByte(s, '@'); i > 0 {
		size := stem(s[i+1:])
		if digits(size) {
			return strings.TrimSuffix(s[:i], "@") + s[i+1+len(size):]
		}
	}
	return s
}

// stackArgs is the size of the arguments that a stdcall or fastcall name of x86
// tells, in bytes.
func (f *File) stackArgs(linkage string) uint32 {
	i := strings.LastIndexByte(linkage, '@')
	if i > 0 {
		linkage = linkage[:i+1] + stem(linkage[i+1:])
	}
	if f.im.Machine != machineX86 || i <= 0 || !digits(linkage[i+1:]) || len(linkage)-i > 6 {
		return 0
	}
	n := uint32(0)
	for _, c := range linkage[i+1:] {
		n = 10*n + uint32(c-'0')
	}
	if linkage[0] == '@' {
		n -= min(n, 8) // in ecx and edx
	}
	return n
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// stem is a name without what GCC appends to keep names apart: counter.0 for a
// static variable of a function, name.isra.0, name.part.0, name.cold.
func stem(s string) string {
	if i := strings.IndexByte(s, '.'); i > 0 {
		return s[:i]
	}
	return s
}

func mangled(s string) bool { return strings.HasPrefix(s, "_Z") }

// display is a plain name as a person writes it.
func display(s string) string {
	if !mangled(s) || len(s) > maxName {
		return s
	}
	// The suffix of a clone stays: it is another piece of code.
	name, err := demangle.ToString(stem(s), demangle.NoParams, demangle.MaxLength(12))
	if err != nil {
		return s
	}
	return name + s[len(stem(s)):]
}

// component is an identifier that the mangled form of a name of C++ contains as
// it is; "" where that cannot be told.
func component(name string) string {
	if strings.Contains(name, "operator") || strings.Contains(name, "std::") || strings.Contains(name, " ") {
		return ""
	}
	depth, end := 0, len(name)
	for i := len(name) - 1; i >= 0; i-- {
		switch c := name[i]; {
		case c == '>':
			depth++
		case c == '<':
			if depth--; depth == 0 {
				end = i
			}
		case depth == 0 && (c == ':' || c == '~' || c == ')' || c == '}'):
			return name[i+1 : end]
		}
	}
	return name[:end]
}
