package console

import (
	"bytes"
	"testing"
	"unicode/utf8"
)

func TestVisible(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"plain", "nt!DbgPrint: a\tb\r\nc\n", "nt!DbgPrint: a\tb\r\nc\n"},
		{"letters", "Größe 日本 😀 \u202f", "Größe 日本 😀 \u202f"},
		{"erase", "\x1b[2J\x1b[H", "^[[2J^[[H"},
		{"title", "\x1b]0;mine\a", "^[]0;mine^G"},
		{"C1 as UTF-8", "\u009b31m", "\\x9b31m"},
		{"C1 as a byte", "\x9b31m", "\\x9b31m"},
		{"backspace, NUL, DEL", "a\b\x00\x7f", "a^H^@^?"},
		{"Latin-1", "Gr\xf6\xdfe\n", "Gr\xf6\xdfe\n"},
		{"cut short", "a\xe2\x80", "a"},
		{"cut and gone on otherwise", "\xc2", ""},
	} {
		var out bytes.Buffer
		v := &visible{w: &out}
		if n, err := v.Write([]byte(c.in)); n != len(c.in) || err != nil {
			t.Errorf("%s: %d, %v", c.name, n, err)
		}
		if got := out.String(); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		// Byte by byte it is the same.
		out.Reset()
		v = &visible{w: &out}
		for _, b := range []byte(c.in) {
			v.Write([]byte{b})
		}
		if got := out.String(); got != c.want {
			t.Errorf("%s, a byte at a time: %q, want %q", c.name, got, c.want)
		}
	}
}

// FuzzVisible: however the bytes are cut, nothing acts on the terminal.
func FuzzVisible(f *testing.F) {
	f.Add([]byte("\x1b[31m\xc2\x9b\xe2\x80\xa6\xf0\x9f"), 3)
	f.Fuzz(func(t *testing.T, b []byte, cut int) {
		var out bytes.Buffer
		v := &visible{w: &out}
		if cut < 0 || cut > len(b) {
			cut = 0
		}
		v.Write(b[:cut])
		v.Write(b[cut:])
		for s := out.Bytes(); len(s) > 0; {
			r, n := utf8.DecodeRune(s)
			if r < ' ' && r != '\n' && r != '\r' && r != '\t' || r >= 0x7F && r < 0xA0 {
				t.Fatalf("%q gave %q, with the control %#x", b, out.Bytes(), r)
			}
			if r == utf8.RuneError && n == 1 && s[0] < 0xA0 {
				t.Fatalf("%q gave %q, with the byte %#x", b, out.Bytes(), s[0])
			}
			s = s[n:]
		}
	})
}
