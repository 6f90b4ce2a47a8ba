package sharing

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Shown is one line of somebody else's with nothing in it that acts on a terminal,
// in a log or in a title: C0 controls but for the tab become caret notation (ESC is
// ^[), C1 controls and what turns the direction of writing \u009b and \u202e, a
// stray byte that some terminals take for a C1 control \x9b. Everything else stays
// as it is.
func Shown(line string) string {
	if !strings.ContainsFunc(line, acts) {
		return line
	}
	var b strings.Builder
	for i := 0; i < len(line); {
		r, n := utf8.DecodeRuneInString(line[i:])
		switch c := line[i]; {
		case !acts(r) || r == utf8.RuneError && (n > 1 || c >= 0xa0):
			b.WriteString(line[i : i+n])
		case r == utf8.RuneError:
			fmt.Fprintf(&b, `\x%02x`, c)
		case r < ' ' || r == 0x7f:
			b.WriteByte('^')
			b.WriteByte(byte(r) ^ 0x40)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		i += n
	}
	return b.String()
}

func acts(r rune) bool {
	switch {
	case r == '\t':
		return false
	case r < ' ', r >= 0x7f && r < 0xa0, r == utf8.RuneError:
		return true
	}
	return r == 0x61c || r == 0x200e || r == 0x200f || r >= 0x2028 && r <= 0x202e || r >= 0x2066 && r <= 0x2069
}
