package expr

import "strings"

type numberKind uint8

const (
	notNumber numberKind = iota
	isNumber
	tooBig
)

// number reads the constant that w begins with and returns its value and
// length. All of w must belong to it, except that, with prefix set, an L that
// begins the length of a range ends it ("1000L20").
func number(w string, radix int, prefix bool) (uint64, int, numberKind) {
	if v, k := digits(w, radix); k != notNumber {
		return v, len(w), k
	}
	if i := strings.IndexAny(w, "lL"); prefix && i > 0 && w[0] >= '0' && w[0] <= '9' {
		if v, k := digits(w[:i], radix); k != notNumber {
			return v, i, k
		}
	}
	return 0, 0, notNumber
}

// prefixes are the letters behind a leading zero that name a base.
var prefixes = map[byte]int{'x': 16, 'n': 10, 't': 8, 'y': 2}

func digits(w string, radix int) (uint64, numberKind) {
	s := w
	base := uint64(radix)
	if len(s) > 1 && s[0] == '0' {
		if b, ok := prefixes[s[1]|0x20]; ok {
			s, base = s[2:], uint64(b)
		}
	}
	if n := len(s); n > 1 && len(s) == len(w) && (s[n-1] == 'h' || s[n-1] == 'H') {
		s, base = s[:n-1], 16
	}
	if s == "" || s[0] == '`' || s[len(s)-1] == '`' {
		return 0, notNumber
	}
	var v uint64
	kind := isNumber
	tick := false
	for i := range len(s) {
		var d uint64
		switch c := s[i]; {
		case c == '`':
			tick = true
			continue
		case c >= '0' && c <= '9':
			d = uint64(c - '0')
		case c >= 'a' && c <= 'f':
			d = uint64(c-'a') + 10
		case c >= 'A' && c <= 'F':
			d = uint64(c-'A') + 10
		default:
			return 0, notNumber
		}
		if d >= base {
			return 0, notNumber
		}
		if v > (1<<64-1-d)/base {
			kind = tooBig // the rest must still be digits
		}
		v = v*base + d
	}
	if kind == isNumber && !tick && v >= 1<<31 && v < 1<<32 {
		v = signExtend32(v)
	}
	return v, kind
}
