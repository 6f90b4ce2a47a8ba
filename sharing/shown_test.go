package sharing

import (
	"testing"
	"unicode/utf8"
)

func TestShown(t *testing.T) {
	for _, x := range []struct{ in, want string }{
		{"r rip", "r rip"}, {".echo a\tb", ".echo a\tb"}, {"größe 時 \xe4\xff", "größe 時 \xe4\xff"}, {"", ""},
		{"\x1b]0;title\a", "^[]0;title^G"}, {"\x1b[2J", "^[[2J"}, {"a\rb\nc\x00\x7f", "a^Mb^Jc^@^?"},
		{"\u009b2J", `\u009b2J`}, {"\x9b2J", `\x9b2J`}, {"a\u202eb\u2066c\u2028", `a\u202eb\u2066c\u2028`},
		{"\ufffd", "\ufffd"},
	} {
		got := Shown(x.in)
		if got != x.want {
			t.Errorf("%q is shown as %q", x.in, got)
		}
		for i := 0; i < len(got); {
			r, n := utf8.DecodeRuneInString(got[i:])
			if acts(r) && !(r == utf8.RuneError && (n > 1 || got[i] >= 0xa0)) {
				t.Errorf("%q: %q acts", x.in, got[i:])
			}
			i += n
		}
	}
}
