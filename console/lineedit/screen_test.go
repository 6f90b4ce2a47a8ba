package lineedit

import (
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"openkd/console/lineedit/vttest"
)

// bench is a Screen on a terminal of the test's.
type bench struct {
	t    *testing.T
	vt   *vttest.Screen
	s    *Screen
	v    View
	w, h int
	n    int // writes
}

func newBench(t *testing.T, w, h int) *bench {
	b := &bench{t: t, vt: vttest.New(w, h), w: w, h: h}
	b.s = NewScreen(b, func() (int, int) { return b.w, b.h }, func() View { return b.v })
	return b
}

func (b *bench) Write(p []byte) (int, error) {
	b.n++
	return b.vt.Write(p)
}

func (b *bench) typed(prompt, text string, cursor int) {
	b.v = View{Prompt: Span{prompt, ""}, Text: text, Cursor: cursor}
	b.s.Refresh()
}

func (b *bench) want(what string, row, col int, lines ...string) {
	b.t.Helper()
	if got := b.vt.Lines(); !slices.Equal(got, lines) {
		b.t.Errorf("%s: the screen shows\n  %s\nand not\n  %s", what, strings.Join(got, "\n  "), strings.Join(lines, "\n  "))
	}
	if r, c := b.vt.Cursor(); r != row || c != col {
		b.t.Errorf("%s: the cursor stands at %d, %d and not at %d, %d", what, r, c, row, col)
	}
	if u := b.vt.Unknown(); u != nil {
		b.t.Errorf("%s: written: %s", what, u)
	}
}

func TestScreen(t *testing.T) {
	b := newBench(t, 20, 8)
	b.s.Print(Span{Text: "hello\n"})
	b.typed("kd> ", "", 0)
	b.want("a prompt", 1, 4, "hello", "kd>")
	b.typed("kd> ", "dt nt", 5)
	b.want("typed", 1, 9, "hello", "kd> dt nt")
	b.s.Print(Span{Text: "above\n"})
	b.want("output above", 2, 9, "hello", "above", "kd> dt nt")
	b.s.Print(Span{Text: "part"})
	b.want("part of a line", 3, 9, "hello", "above", "part", "kd> dt nt")
}

// TestOutputGoesOn: output that ends within a line is gone on with there, though
// the prompt stands below.
func TestOutputGoesOn(t *testing.T) {
	b := newBench(t, 20, 8)
	b.typed("kd> ", "x", 0)
	b.s.Print(Span{Text: "one "})
	b.want("the beginning", 1, 4, "one", "kd> x")
	b.s.Print(Span{Text: "two "}, Span{Text: "thr"})
	b.want("more", 1, 4, "one two thr", "kd> x")
	b.s.Print(Span{Text: "ee\nfour"})
	b.want("the end, and a beginning", 2, 4, "one two three", "four", "kd> x")
	b.v = View{}
	b.s.Refresh()
	b.want("nothing below", 1, 4, "one two three", "four")
	b.s.Print(Span{Text: "!"})
	b.want("output alone", 1, 5, "one two three", "four!")
	b.s.Commit(func() View { return View{Prompt: Span{Text: "kd> "}, Text: "g"} })
	b.want("a line of its own", 3, 0, "one two three", "four!", "kd> g")
	b.s.Print(Span{Text: "out\n"})
	b.want("output after it", 4, 0, "one two three", "four!", "kd> g", "out")
}

func TestExactlyFull(t *testing.T) {
	b := newBench(t, 10, 8)
	b.typed("kd> ", "", 0)
	b.s.Print(Span{Text: "0123456789"})
	b.want("a full line", 1, 4, "0123456789", "kd>")
	b.s.Print(Span{Text: "\n"})
	b.want("its end", 1, 4, "0123456789", "kd>")
	b.s.Print(Span{Text: "0123456789"})
	b.s.Print(Span{Text: "ab\n"})
	b.want("it goes on", 3, 4, "0123456789", "0123456789", "ab", "kd>")
	b.typed("kd> ", "12345", 5)
	b.typed("kd> ", "123456", 6)
	b.want("a full row", 4, 0, "0123456789", "0123456789", "ab", "kd> 123456")
	b.typed("kd> ", "123456", 0)
	b.want("its beginning", 3, 4, "0123456789", "0123456789", "ab", "kd> 123456")
	b.s.Commit(func() View { return b.v })
	b.v = View{Prompt: Span{Text: "> "}}
	b.s.Refresh()
	b.want("no empty line behind it", 4, 2, "0123456789", "0123456789", "ab", "kd> 123456", ">")
}

// TestLongLineWider: of a line that is higher than the screen only a part is moved
// by a terminal that gets wider: what stands above it stays.
func TestLongLineWider(t *testing.T) {
	b := newBench(t, 10, 4)
	b.s.Print(Span{Text: "top\nmore\n"})
	long := strings.Repeat("0123456789", 6)
	b.typed("> ", long, len(long))
	b.want("a part of it", 3, 2, "more", "8901234567", "8901234567", "89")
	b.w = 30
	b.vt.Resize(30, 4)
	b.s.Refresh()
	b.want("wider", 3, 2, "more", "> 0123456789012345678901234567", "890123456789012345678901234567", "89")
	b.s.Print(Span{Text: "others\n"})
	if all := b.vt.All(); !slices.Contains(all, "more") || !slices.Contains(all, "others") {
		t.Errorf("something is lost: %q", all)
	}
}

func TestLongLines(t *testing.T) {
	b := newBench(t, 10, 4)
	b.s.Print(Span{Text: "top\n"})
	b.typed("> ", "abcdefghijklmnop", 16)
	b.want("two rows", 2, 8, "top", "> abcdefgh", "ijklmnop")
	b.s.Print(Span{Text: "more\n"})
	b.want("output above them", 3, 8, "top", "more", "> abcdefgh", "ijklmnop")
	b.typed("> ", "abcdefghijklmnop", 1)
	b.want("the cursor in the first", 2, 3, "top", "more", "> abcdefgh", "ijklmnop")
	b.typed("> ", "ac", 2)
	b.want("shorter", 2, 4, "top", "more", "> ac")
	long := strings.Repeat("0123456789", 6)
	b.typed("> ", long, len(long))
	b.want("higher than the screen", 3, 2, "more", "8901234567", "8901234567", "89")
	b.typed("> ", long, 0)
	b.want("its beginning", 1, 2, "more", "> 01234567", "8901234567", "8901234567")
	b.s.Print(Span{Text: "others\n"})
	b.want("output above it", 1, 2, "others", "> 01234567", "8901234567", "8901234567")
	if all := b.vt.All(); strings.Count(strings.Join(all, "\n"), "> 0") != 1 {
		t.Errorf("a part of it stays behind: %q", all)
	}
	b.s.Commit(func() View { return b.v })
	b.v = View{}
	b.s.Refresh()
	if all := b.vt.All(); !slices.Contains(all, "> "+long) {
		t.Errorf("the whole line is not there once entered: %q", all)
	}
}

func TestWide(t *testing.T) {
	b := newBench(t, 10, 6)
	b.typed("> ", "漢字漢字", 12)
	b.want("four wide", 1, 0, "> 漢字漢字")
	b.typed("> ", "a漢字漢字", 13)
	b.want("one does not fit", 1, 2, "> a漢字漢", "字")
	b.typed("> ", "a漢字漢字", 1)
	b.want("the cursor", 0, 3, "> a漢字漢", "字")
	b.typed("> ", "e\u0301漢👩‍🚀x", len("e\u0301漢👩‍🚀x"))
	b.want("combining", 0, 8, "> e\u0301漢👩‍🚀x")
}

func TestBelow(t *testing.T) {
	b := newBench(t, 10, 5)
	b.s.Print(Span{Text: "out\n"})
	b.v = View{Prompt: Span{Text: "> "}, Text: "nt!K", Cursor: 4, Below: []Span{{Text: "KeA  KeB"}, {Text: "KeC and more that is cut", SGR: "2"}}}
	b.s.Refresh()
	b.want("a list", 1, 6, "out", "> nt!K", "KeA  KeB", "KeC and m")
	if st, ok := b.vt.Style("KeC"); !ok || st != "2" {
		t.Errorf("style %q", st)
	}
	b.s.Print(Span{Text: "more\n"})
	b.want("output", 2, 6, "out", "more", "> nt!K", "KeA  KeB", "KeC and m")
	b.typed("> ", "nt!Ke", 5)
	b.want("gone", 2, 7, "out", "more", "> nt!Ke")
}

// TestOneWrite: every change is one write, and what is typed at the end is no
// more than that.
func TestOneWrite(t *testing.T) {
	b := newBench(t, 40, 8)
	var written strings.Builder
	b.s.w = io.MultiWriter(b, &written)
	b.typed("0: kd> ", "k", 1)
	written.Reset()
	b.n = 0
	b.typed("0: kd> ", "kv", 2)
	if written.String() != "v" || b.n != 1 {
		t.Errorf("typing a key writes %q in %d writes", written.String(), b.n)
	}
	b.n = 0
	b.s.Print(Span{Text: "a\nb\n"})
	b.s.Refresh()
	if b.n != 1 {
		t.Errorf("output takes %d writes", b.n)
	}
	if !strings.Contains(written.String(), beginUpdate) || !strings.HasSuffix(written.String(), endUpdate) {
		t.Errorf("no synchronised update: %q", written.String())
	}
}

func TestResize(t *testing.T) {
	for _, c := range []struct{ w, to int }{{20, 10}, {10, 20}, {10, 40}, {40, 7}} {
		b := newBench(t, c.w, 10)
		b.s.Print(Span{Text: "above\n"})
		b.typed("0: kd> ", "dt nt!_EPROCESS", 15)
		b.vt.Resize(c.to, 10)
		b.w = c.to
		b.s.Refresh()
		b.s.Print(Span{Text: "more\n"})
		if got, want := b.vt.All(), []string{"above", "more", "0: kd> dt nt!_EPROCESS"}; !slices.Equal(got, want) {
			t.Errorf("from %d to %d: %q", c.w, c.to, got)
		}
	}
}

// TestResizeWithinALine: output that ended within a line is left alone when the
// terminal has wrapped it anew: where it ends now is not known.
func TestResizeWithinALine(t *testing.T) {
	b := newBench(t, 30, 10)
	b.s.Print(Span{Text: "above\n"})
	b.typed("> ", "x", 1)
	b.s.Print(Span{Text: "part of a line 0123456789"})
	b.vt.Resize(12, 10)
	b.w = 12
	b.s.Print(Span{Text: "its end\n"})
	if got, want := b.vt.All(), []string{"above", "part of a line 0123456789", "its end", "> x"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

// TestWideAtTheEdge: what stood where a wide character has no room goes.
func TestWideAtTheEdge(t *testing.T) {
	b := newBench(t, 10, 6)
	b.typed("> ", "abcdefghi", 9)
	b.typed("> ", "abcdefg漢", 10)
	b.want("a wide character", 1, 2, "> abcdefg", "漢")
}

func TestStyles(t *testing.T) {
	b := newBench(t, 30, 6)
	b.v = View{Prompt: Span{"kd> ", "1"}}
	b.s.Print(Span{Text: "plain "}, Span{"red\nred too ", "31"}, Span{Text: "plain again\n"})
	for text, want := range map[string]string{"plain ": "", "red": "31", "red too": "31", "plain again": "", "kd>": "1"} {
		if got, ok := b.vt.Style(text); !ok || got != want {
			t.Errorf("%q is written in %q, %v", text, got, ok)
		}
	}
}

// TestScreenModel compares what a screen shows after many random changes with
// what it must: all output, and the last view below it.
func TestScreenModel(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		b := newBench(t, 5+r.IntN(30), 16+r.IntN(20))
		var out strings.Builder
		pieces := []string{"a", "bc-", "word", "漢", "e\u0301", "x\n", "\n", "long-long-long-line-", "👩‍🚀", "[31m"}
		text := func(n int) string {
			var t strings.Builder
			for range r.IntN(n) {
				t.WriteString(pieces[r.IntN(len(pieces))])
			}
			return t.String()
		}
		for range 40 {
			switch r.IntN(6) {
			case 0, 1:
				t := text(5)
				out.WriteString(t)
				b.s.Print(Span{Text: t})
			case 2, 3:
				v := strings.ReplaceAll(text(6), "\n", "")
				b.v = View{Prompt: Span{Text: "kd>"}, Text: v, Cursor: len(v) * r.IntN(2)}
				b.s.Refresh()
			case 4:
				b.v = View{}
				b.s.Refresh()
			case 5:
				line := fmt.Sprintf("line-%d", r.IntN(100))
				s := out.String()
				if s != "" && !strings.HasSuffix(s, "\n") {
					out.WriteString("\n")
				}
				out.WriteString("kd>" + line + "\n")
				b.v = View{}
				b.s.Commit(func() View { return View{Prompt: Span{Text: "kd>"}, Text: line} })
			}
		}
		b.s.Refresh()
		want := out.String()
		if !b.v.empty() {
			if want != "" && !strings.HasSuffix(want, "\n") {
				want += "\n"
			}
			want += b.v.Prompt.Text + b.v.Text
		}
		lines := strings.Split(want, "\n")
		got := b.vt.All()
		if squeeze(got, b.w) != squeeze(lines, b.w) || b.vt.Unknown() != nil {
			t.Fatalf("seed %d, %dx%d:\n%q\nwanted\n%q", seed, b.w, b.h, got, lines)
		}
	}
}

// squeeze makes one text of lines. A break behind a row that is full cannot be
// told from none, nor from an empty line.
func squeeze(lines []string, width int) string {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l)
		lay := layout(&View{Text: l}, width)
		if lay.end.col > 0 {
			b.WriteByte('\n')
		}
	}
	return strings.TrimRight(b.String(), "\n")
}

func BenchmarkPrintAbove(b *testing.B) {
	s := NewScreen(io.Discard, func() (int, int) { return 80, 25 }, func() View {
		return View{Prompt: Span{Text: "0: kd> "}, Text: "dt nt!_EPROCESS", Cursor: 3}
	})
	for b.Loop() {
		s.Print(Span{Text: "a line that the target prints, of ordinary length\n"})
	}
}
