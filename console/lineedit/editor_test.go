package lineedit

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// press feeds keys as a terminal sends them and returns the line with | at the
// cursor, and what was asked for before.
func press(e *Editor, keys string) string {
	return feed(e, keys) + e.Text()[:e.Cursor()] + "|" + e.Text()[e.Cursor():]
}

func feed(e *Editor, keys string) string {
	out := ""
	for b := []byte(keys); len(b) > 0; {
		n, ev := e.Feed(b)
		b = b[n:]
		switch ev.Kind {
		case Enter:
			t := e.Take()
			e.History.Add(t)
			out += "<" + t + ">"
		case Control:
			out += "[" + string(ev.Key+0x40) + "]"
		case Complete:
			out += "[TAB]"
		case End:
			out += "[END]"
		case Clear:
			out += "[CLEAR]"
		case Bell:
			out += "[BELL]"
		}
	}
	return out
}

func TestKeys(t *testing.T) {
	const (
		up, down, right, left = "\x1b[A", "\x1b[B", "\x1b[C", "\x1b[D"
		home, end, del        = "\x1b[H", "\x1b[F", "\x1b[3~"
	)
	for _, c := range []struct{ name, keys, want string }{
		{"typing", "dt nt!_EPROCESS", "dt nt!_EPROCESS|"},
		{"enter", "k\rr\n", "<k><r>|"},
		{"enter of Windows", "k\r\nr\r\n", "<k><r>|"},
		{"enter in the middle", "kv\x02\rx", "<kv>x|"},
		{"home and end", "abc\x01x\x05y" + home + "1" + end + "2", "1xabcy2|"},
		{"home and end of other terminals", "abc\x1b[1~x\x1b[4~y\x1bOHz\x1bOF.\x1b[7~>\x1b[8~<", ">zxabcy.<|"},
		{"left and right", "abc\x02\x02x\x06y" + left + left + "1" + right + "2", "ax1b2|yc"},
		{"arrows of application mode", "abc\x1bOD\x1bOD-\x1bOC", "a-b|c"},
		{"edges", left + right + "\x02\x06\x7f" + del + "a", "a|"},
		{"backspace", "abcd\x7f\x08", "ab|"},
		{"delete", "abcd\x01\x04" + del, "|cd"},
		{"words", "bp nt!KeBugCheckEx+10\x1bb\x1bb", "bp nt!|KeBugCheckEx+10"},
		{"words forward", "bp nt!KeBug+10\x01\x1bf\x1bf\x1bf", "bp nt!KeBug|+10"},
		{"words with arrows", "one two\x1b[1;5D\x1b[1;3D\x1b[1;5Cx", "onex| two"},
		{"words of rxvt", "one two\x1bOd\x1bOd\x1bOcx", "onex| two"},
		{"kill to the end, yank", "one two\x1bb\x0b\x01\x19", "two|one "},
		{"kill to the beginning", "one two\x1bb\x15", "|two"},
		{"kill a word", "dt nt!_K x\x17\x17\x19", "dt nt!_K x|"},
		{"kill words of names", "nt!KeBug\x1b\x7f", "nt!|"},
		{"kill words, the other code", "nt!KeBug\x1b\x08", "nt!|"},
		{"kill a word forward", "one two\x01\x1bd", "| two"},
		{"control and delete", "one two\x01\x1b[3;5~", "| two"},
		{"yank the one before", "one\x15two\x15\x19\x1by", "one|"},
		{"yank nothing", "\x19", "[BELL]|"},
		{"undo", "one \x15two\x1f\x1f", "one |"},
		{"undo nothing", "\x1f", "[BELL]|"},
		{"swap", "ab\x14\x02\x14", "ab|"},
		{"case of words", "abc def ghi\x01\x1bu\x1bc\x1bl", "ABC Def ghi|"},
		{"end of the input", "\x04a\x04", "[END]a|"},
		{"interrupt", "ab\x03", "[C]ab|"},
		{"complete, clear", "a\t\x0c", "[TAB][CLEAR]a|"},
		{"CTRL and ALT", "a\x1b\x12\x1b\x01b", "[R][A]ab|"},
		{"unknown keys", "a\x1b[15~\x1b[?1;2c\x1b[1;5P\x1bOP\x1b[[A\x1b[I\x1bxb", "ab|"},
		{"a key behind ESC ESC", "a\x1b\x1b[Db", "b|a"},
		{"interrupt inside of a sequence", "a\x1b[\x03b", "[C]ab|"},
		{"umlauts", "aäö\x02x\x7f\x7f", "a|ö"},
		{"wide characters", "漢字\x02x", "漢x|字"},
		{"what combines moves together", "e\u0301x\x02\x02y", "y|e\u0301x"},
		{"what combines is removed alone", "e\u0301\x7f", "e|"},
		{"an emoji is one", "👩‍🚀\x7f", "|"},
		{"flags", "🇩🇪🇫🇷\x02x", "🇩🇪x|🇫🇷"},
		{"broken text", "a\xffb\xc3(c\xe4\r", "<ab(c>|"},
		{"no control characters of other kinds", "a\u0085b\u2028c\u00a0d", "abc d|"},
		{"a paste of lines", "x\x1b[200~ one\rtwo\nthree\r\nfour\x1b[201~\x01", "<x one><two><three>|four"},
		{"no keys in a paste", "\x1b[200~a\tb\x01\x04\x7f\x1b[D\x1b]0;x\ac\x1b[201~d", "a b0;xcd|"},
		{"escapes before the end of a paste", "\x1b[200~a\x1b\x1b[20\x1b[201~\x02b", "b|a"},
		{"a paste without end", "\x1b[200~abc\x03\x7f", "[C]ab|"},
		{"history", "one\rtwo\r" + up + up + "x", "<one><two>onex|"},
		{"history and back", "one\rtwo\rdra" + up + up + down + down + "ft", "<one><two>draft|"},
		{"history of control keys", "one\rtwo\r\x10\x10\x0e", "<one><two>two|"},
		{"the ends of the history", "one\r" + up + up, "<one>[BELL]one|"},
		{"first and last", "1\r2\r3\rx\x1b<\x1b>", "<1><2><3>x|"},
		{"no empty lines, each once", "one\r\r\rtwo\rone\r" + up + up + up, "<one><><><two><one>[BELL]two|"},
		{"what begins so", "dt a\rk\rdt b\rdt\x1b[5~\x1b[5~\x1b[6~", "<dt a><k><dt b>dt b|"},
		{"nothing begins so", "dt a\rk\x1b[5~", "<dt a>[BELL]k|"},
		{"search", "bp one\rk\rbp two\r\x12one\r", "<bp one><k><bp two><bp one>|"},
		{"search again", "bp one\rk\rbp two\r\x12bp\x12\x05!", "<bp one><k><bp two>bp one!|"},
		{"search and forward", "bp 1\rbp 2\rbp 3\r\x12bp\x12\x12\x13\x05", "<bp 1><bp 2><bp 3>bp 2|"},
		{"search given up", "one\rtwo\rxy\x12one\x07z", "<one><two>xyz|"},
		{"search, shorter again", "one\ronly\r\x12onex\x7f\x7f\x7f\x05", "<one><only>only|"},
		{"search in any case", "bp KeBug\r\x12kebug\x05", "<bp KeBug>bp KeBug|"},
		{"search and move on", "one two\r\x12two\x1b[D", "<one two>one| two"},
		{"search from a recalled line", "a1\ra2\ra3\r" + up + up + "\x12a\x12\x05", "<a1><a2><a3>a1|"},
	} {
		e := &Editor{History: &History{}, Chords: "\x01\x12"}
		e.Reset()
		if got := press(e, c.keys); got != c.want {
			t.Errorf("%s: %q gives %q and not %q", c.name, c.keys, got, c.want)
		}
		// The same, a byte at a time, as a slow line brings it. ALT with a control
		// key is the exception: there it is known by coming in one piece.
		if strings.Contains(c.name, "ALT") {
			continue
		}
		e = &Editor{History: &History{}, Chords: "\x01\x12"}
		e.Reset()
		got := ""
		for i := range len(c.keys) {
			got += feed(e, c.keys[i:i+1])
		}
		got += press(e, "")
		if c.want != got {
			t.Errorf("%s, byte by byte: %q gives %q and not %q", c.name, c.keys, got, c.want)
		}
	}
}

// TestPass: keys that are kd's while no prompt is shown do not edit.
func TestPass(t *testing.T) {
	e := &Editor{Pass: "\x01\x02\x04\x06\x0b\x12\x16\x17\x1c"}
	if got := press(e, "ab\x02\x0b\x15x\x1b\x06\x01"); got != "[B][K][F][A]x|" {
		t.Errorf("%q", got)
	}
}

func TestSearchPrompt(t *testing.T) {
	e := &Editor{History: NewHistory([]string{"one", "two"})}
	e.Reset()
	for _, c := range []struct{ keys, want string }{
		{"\x12", "(reverse-i-search)`': "}, {"tw", "(reverse-i-search)`tw': "}, {"x", "(failed reverse-i-search)`twx': "}, {"\x13", "(failed i-search)`twx': "}, {"\x07", ""},
	} {
		press(e, c.keys)
		if got := e.Search(); got != c.want {
			t.Errorf("%q shows %q", c.keys, got)
		}
	}
}

func TestReplace(t *testing.T) {
	e := &Editor{}
	press(e, "dt nt!_EPR x\x02\x02")
	e.Replace(3, 10, "nt!_EPROCESS")
	if got := press(e, "y\x1f\x1f"); got != "dt nt!_EPR| x" {
		t.Errorf("%q", got)
	}
	e.Replace(90, 100, "z")
	if got := press(e, ""); got != "dt nt!_EPR xz|" {
		t.Errorf("%q", got)
	}
}

func TestLimits(t *testing.T) {
	e := &Editor{History: &History{}}
	big := strings.Repeat("x", MaxLine)
	press(e, big)
	if got := press(e, "yy\x15\x19\x19"); len(got) != MaxLine+1 {
		t.Errorf("a line of %d bytes", len(got))
	}
	press(e, "\x15")
	for range 10 * maxUndo {
		press(e, "a \x7f")
	}
	for range 10 * maxKills {
		press(e, "a\x15b\x02")
	}
	if len(e.undo) > maxUndo || len(e.kills) > maxKills {
		t.Errorf("%d undone, %d killed", len(e.undo), len(e.kills))
	}
	press(e, "\x1b["+strings.Repeat("1;", 1000))
	if len(e.seq) > maxSequence {
		t.Errorf("a sequence of %d bytes", len(e.seq))
	}
}

func FuzzEditor(f *testing.F) {
	f.Add("dt nt!_E\tx\x1b[D\x1b[200~a\rb\x1b[201~\x12a\x12\x07\x14\x19\x1f")
	f.Add("漢e\u0301\x02\x14\x1bu\x7f\x1b\x7f\x1by")
	f.Add("İȺ\r\x12ⱥ") // letters that are shorter and longer in lower case
	f.Fuzz(func(t *testing.T, keys string) {
		e := &Editor{History: NewHistory([]string{"one", "two 漢", "e\u0301"}), Chords: "\x02"}
		e.Reset()
		for b := []byte(keys); len(b) > 0; {
			n, ev := e.Feed(b)
			if n == 0 {
				t.Fatalf("nothing is taken of %q", b)
			}
			b = b[n:]
			if ev.Kind == Enter {
				e.History.Add(e.Take())
			}
			if e.Cursor() < 0 || e.Cursor() > len(e.Text()) || !utf8.ValidString(e.Text()) || !utf8.ValidString(e.Text()[:e.Cursor()]) {
				t.Fatalf("%q, cursor at %d", e.Text(), e.Cursor())
			}
			if clean(e.Text()) != e.Text() {
				t.Fatalf("control characters in %q", e.Text())
			}
		}
	})
}
