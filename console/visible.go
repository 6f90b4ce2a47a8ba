package console

import (
	"io"
	"os"
	"sync"
	"unicode/utf8"

	"golang.org/x/term"
)

// Visible returns a writer in front of a terminal that makes control characters
// visible instead of letting them act, and any other writer as it is.
//
// What a target prints, the names of its modules and what a server answers are
// other people's bytes. On a terminal an escape sequence among them could move
// the cursor, hide or forge text, set the window's title or have the terminal
// type an answer. Line feeds, carriage returns and tabs pass; other C0 controls
// and DEL become caret notation (ESC is ^[), C1 controls and stray bytes in
// their range become \x9b. Files, pipes and logs get the bytes as they are.
func Visible(w io.Writer) io.Writer {
	if f, ok := w.(*os.File); ok && term.IsTerminal(descriptor(f)) {
		return &visible{w: w}
	}
	return w
}

type visible struct {
	mu   sync.Mutex
	w    io.Writer
	tail []byte // the beginning of a character whose rest has not come yet
}

func (v *visible) Write(b []byte) (int, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if _, err := v.w.Write(v.clean(b)); err != nil {
		return 0, err
	}
	return len(b), nil
}

// under is where what is written goes.
func (v *visible) under() io.Writer {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.w
}

// redirect has what is written go elsewhere, past what makes it visible; undo
// takes that back.
func (v *visible) redirect(w io.Writer) (undo func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	old := v.w
	v.w = w
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.w = old
	}
}

// clean makes control characters visible. The beginning of a character waits for
// its rest. v.mu, or whoever v belongs to, keeps others away.
func (v *visible) clean(b []byte) []byte {
	in := b
	if len(v.tail) > 0 {
		in = append(v.tail, b...)
		v.tail = nil
	}
	out := make([]byte, 0, len(in)+16)
	for len(in) > 0 {
		c := in[0]
		switch {
		case c == '\n' || c == '\r' || c == '\t' || c >= ' ' && c < 0x7F:
			out, in = append(out, c), in[1:]
			continue
		case c < ' ' || c == 0x7F:
			out, in = append(out, '^', c^0x40), in[1:]
			continue
		}
		r, n := utf8.DecodeRune(in)
		switch {
		case r == utf8.RuneError && n == 1 && !utf8.FullRune(in):
			v.tail = append([]byte(nil), in...)
			n = len(in)
		case r == utf8.RuneError && n == 1 && c >= 0xA0:
			// Latin-1, or whatever the target's code page is.
			out = append(out, c)
		case r == utf8.RuneError && n == 1, r >= 0x80 && r < 0xA0:
			x := c
			if r != utf8.RuneError {
				x = byte(r)
			}
			const hex = "0123456789abcdef"
			out = append(out, '\\', 'x', hex[x>>4], hex[x&15])
		default:
			out = append(out, in[:n]...)
		}
		in = in[n:]
	}
	return out
}
