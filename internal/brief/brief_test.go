package brief

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestText(t *testing.T) {
	for _, c := range []struct {
		in   string
		most int
		want string
	}{
		{"", 3, ""}, {"abc", 3, "abc"}, {"abcd", 3, "..."}, {"abcd", 4, "abcd"}, {"abcdef", 5, "ab..."},
		{"äöü", 6, "äöü"}, {"äöüx", 6, "ä..."}, {"äöüx", 5, "ä..."}, {"\xffabcdefg", 6, "ab..."},
	} {
		if got := Text(c.in, c.most); got != c.want {
			t.Errorf("%q, %d: %q, want %q", c.in, c.most, got, c.want)
		}
	}
	for most := 3; most < 40; most++ {
		if got := Text(strings.Repeat("漢", 30), most); len(got) > most || !utf8.ValidString(got) {
			t.Errorf("%d: %q", most, got)
		}
	}
}
