package lineedit

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/rivo/uniseg"
)

// Span is a piece of output in one style.
type Span struct {
	Text string // without control characters other than LF, CR and TAB
	SGR  string // parameters of "select graphic rendition" ("1;31"), "" for none
}

// View is what stands below the output.
type View struct {
	Prompt Span
	Text   string
	Cursor int    // in Text, bytes
	Below  []Span // lines below it, cut at the edge of the screen
}

func (v *View) empty() bool { return v.Prompt.Text == "" && v.Text == "" }

// Screen draws on a terminal: output that scrolls up, and below it the line that
// is edited, which stays at the bottom.
//
// Every change is one write, in a synchronised update where the terminal knows
// them (mode 2026), so that nothing flickers. Output that ends within a line is
// gone on with where it ended, though the edited line stands below it. The line
// is written so that the terminal itself wraps it: what is selected with the
// mouse has no breaks in it, and a terminal that changes its width moves it.
//
// A writer that is an Outlet may have no room. Then nothing is drawn and output is
// left out, until there is room again: Missed says what stands in its place.
//
// Concurrency: all methods from any goroutine. The function given to NewScreen is
// called by them, under the Screen's lock: it must not call back, and who holds a
// lock that it takes must not call the Screen.
type Screen struct {
	mu   sync.Mutex
	w    io.Writer
	size func() (width, height int)
	view func() View

	width, height int

	// Missed is what is shown in the place of output that was left out, with so
	// many ends of lines; nil: nothing. It is set before the Screen is used.
	Missed func(lines int) Span
	missed bool
	lines  int

	// What is drawn now.
	shown bool
	last  View
	drawn View // the part of it that is on the screen, all in Text
	row   int  // of the cursor in the region
	stale bool // a part of the view only: it is drawn again whenever it is looked at
	plain bool // the cursor stands behind the last character, not at an edge

	// The end of the output.
	col  int  // columns in its last line
	hang bool // the region stands one line below it, which is to be gone on with
	full bool // the last line filled its row: a line feed is due already
}

// Outlet is a writer that does not wait, as long as there is room.
type Outlet interface {
	io.Writer
	// Room says whether what is written now will come out before long.
	Room() bool
	// Put writes, room or not.
	Put(b []byte)
}

// NewScreen returns a Screen that writes to w. size tells columns and rows of the
// terminal, 0 if they are not known; view tells what stands below the output.
func NewScreen(w io.Writer, size func() (width, height int), view func() View) *Screen {
	return &Screen{w: w, size: size, view: view}
}

const (
	beginUpdate = "\x1b[?2026h"
	endUpdate   = "\x1b[?2026l"
)

// measure looks at the terminal's size.
func (s *Screen) measure() {
	w, h := s.size()
	if w < 2 {
		w = 80
	}
	if h < 2 {
		h = 24
	}
	if s.width != 0 && w != s.width {
		if s.shown {
			// The terminal has wrapped the line anew.
			s.row = min(layout(&s.drawn, w).cursor.row, h-1)
		}
		s.hang, s.plain = false, false
	}
	s.width, s.height = w, h
}

// Refresh draws what has changed in the view.
func (s *Screen) Refresh() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.room() {
		return
	}
	s.measure()
	v := s.view()
	var b bytes.Buffer
	s.told(&b)
	s.region(&b, &v)
	s.flush(&b)
}

// room says whether there is any for what is drawn now.
func (s *Screen) room() bool {
	o, ok := s.w.(Outlet)
	return !ok || o.Room()
}

// skip leaves output out.
func (s *Screen) skip(lines int) {
	s.missed = true
	s.lines += lines
}

// told shows what stands for output that was left out.
func (s *Screen) told(b *bytes.Buffer) {
	if !s.missed {
		return
	}
	x := Span{}
	if s.Missed != nil {
		x = s.Missed(s.lines)
	}
	s.missed, s.lines = false, 0
	if x.Text == "" {
		return
	}
	if s.col > 0 && (!s.shown || s.hang) {
		s.print(b, []Span{{Text: "\n"}, x})
		return
	}
	s.print(b, []Span{x})
}

// Discard has drop throw away output that has been written and not shown yet;
// it says how many ends of lines that had, and whether there was any. A note
// stands in its place.
func (s *Screen) Discard(drop func() (lines int, dropped bool)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	lines, dropped := drop()
	if !dropped {
		return
	}
	s.skip(lines)
	s.measure()
	// What the terminal shows is not known: the view is drawn on a new line.
	var b bytes.Buffer
	b.WriteString("\x1b[m\r\n\x1b[J" + endUpdate)
	s.shown, s.row, s.col, s.hang, s.full, s.plain = false, 0, 0, false, false, false
	v := s.view()
	s.told(&b)
	s.region(&b, &v)
	s.flush(&b)
}

// Print writes output above the view.
func (s *Screen) Print(spans ...Span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.room() {
		n := 0
		for _, x := range spans {
			n += strings.Count(x.Text, "\n")
		}
		s.skip(n)
		return
	}
	s.measure()
	v := s.view()
	var b bytes.Buffer
	update := s.shown
	if update {
		b.WriteString(beginUpdate)
	}
	s.told(&b)
	s.print(&b, spans)
	s.region(&b, &v)
	if update {
		b.WriteString(endUpdate)
	}
	s.flush(&b)
}

// Commit makes a last view part of the output: the line that was entered. view is
// called in the place of the Screen's own.
func (s *Screen) Commit(view func() View) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := view()
	if !s.room() {
		s.skip(1)
		return
	}
	s.measure()
	v.Below, v.Cursor = nil, len(v.Text)
	var b bytes.Buffer
	s.told(&b)
	if s.shown && s.plain && s.last.Prompt == v.Prompt && s.last.Text == v.Text {
		b.WriteString("\r\n") // it stands there
	} else {
		s.erase(&b)
		l := layout(&v, s.width)
		if s.col > 0 {
			b.WriteString("\r\n")
		}
		s.write(&b, &v, l, 0, len(l.rows))
		if l.end.col > 0 || l.end.row == 0 {
			b.WriteString("\r\n")
		}
	}
	s.shown, s.row, s.col, s.hang, s.full = false, 0, 0, false, false
	v = s.view()
	s.region(&b, &v)
	s.flush(&b)
}

// Clear clears the screen; the view stays.
func (s *Screen) Clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.room() {
		return
	}
	s.measure()
	v := s.view()
	var b bytes.Buffer
	b.WriteString("\x1b[H\x1b[2J")
	s.shown, s.row, s.col, s.hang, s.full = false, 0, 0, false, false
	s.region(&b, &v)
	s.flush(&b)
}

// End ends what is drawn: the cursor stands at the beginning of a line below all
// output.
func (s *Screen) End() {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b bytes.Buffer
	s.told(&b)
	s.erase(&b)
	if s.col > 0 {
		b.WriteString("\r\n")
	}
	s.col, s.hang, s.full = 0, false, false
	s.flush(&b)
}

// Raw writes control sequences that move nothing.
func (s *Screen) Raw(t string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.put([]byte(t))
}

func (s *Screen) flush(b *bytes.Buffer) {
	if b.Len() > 0 {
		s.put(b.Bytes())
	}
}

func (s *Screen) put(b []byte) {
	if o, ok := s.w.(Outlet); ok {
		o.Put(b)
		return
	}
	_, _ = s.w.Write(b) // a terminal that is gone ends its input too
}

// erase removes the region; the cursor stands where output goes on.
func (s *Screen) erase(b *bytes.Buffer) {
	if !s.shown {
		return
	}
	up(b, s.row)
	// Some terminals take "erase all below" at their first cell for "clear", and
	// keep what was there among what has scrolled away.
	b.WriteString("\r\x1b[K\x1b[C\x1b[J\r")
	if s.hang {
		up(b, 1)
		right(b, s.col)
	}
	s.shown, s.hang, s.row = false, false, 0
}

func up(b *bytes.Buffer, n int) {
	if n > 0 {
		fmt.Fprintf(b, "\x1b[%dA", n)
	}
}

func right(b *bytes.Buffer, n int) {
	if n > 0 {
		fmt.Fprintf(b, "\x1b[%dC", n)
	}
}

// print writes output.
func (s *Screen) print(b *bytes.Buffer, spans []Span) {
	if s.shown && !s.hang {
		s.col = 0
	}
	s.erase(b)
	style := ""
	for _, x := range spans {
		t := x.Text
		if s.full {
			t = strings.TrimPrefix(strings.TrimPrefix(t, "\r"), "\n")
		}
		if t == "" {
			if x.Text != "" {
				s.full = false
			}
			continue
		}
		s.full = false
		for t != "" {
			line, rest, nl := strings.Cut(t, "\n")
			if line != "" {
				// Styles end with the line, so that no background runs on.
				if x.SGR != style {
					sgr(b, style, x.SGR)
					style = x.SGR
				}
				b.WriteString(line)
				s.advance(line)
			}
			if nl {
				sgr(b, style, "")
				style = ""
				b.WriteString("\r\n")
				s.col = 0
			}
			t = rest
		}
	}
	sgr(b, style, "")
	if s.col > 0 && s.col == s.width {
		// The cursor hangs at the edge, from where there is no way back: the line is
		// broken now.
		b.WriteString(" \r")
		s.col, s.full = 0, true
	}
}

func sgr(b *bytes.Buffer, from, to string) {
	if from == to {
		return
	}
	if from != "" {
		b.WriteString("\x1b[m")
	}
	if to != "" {
		b.WriteString("\x1b[" + to + "m")
	}
}

// advance moves the column over a text without line feeds.
func (s *Screen) advance(t string) {
	if i := strings.LastIndexByte(t, '\r'); i >= 0 {
		s.col, t = 0, t[i+1:]
	}
	for t != "" {
		var w int
		if c := t[0]; c == '\t' {
			t = t[1:]
			s.col = min(s.col/8*8+8, s.width-1)
			continue
		} else if c < 0x80 && (len(t) == 1 || t[1] < 0x80) {
			w, t = 1, t[1:]
		} else {
			_, t, w, _ = uniseg.FirstGraphemeClusterInString(t, -1)
		}
		if s.col+w > s.width {
			s.col = 0
		}
		s.col += w
	}
}

// region draws the view below the output.
func (s *Screen) region(b *bytes.Buffer, v *View) {
	if v.empty() {
		s.erase(b)
		s.last, s.plain = View{}, false
		return
	}
	if s.shown && s.typed(b, v) {
		return
	}
	l := layout(v, s.width)
	if s.shown {
		if !s.stale && same(&s.last, v) {
			return
		}
		up(b, s.row)
		b.WriteString("\r")
	} else if s.col > 0 {
		b.WriteString("\r\n")
		s.hang = true
	}
	// Of a line that is higher than the screen the part around the cursor shows, and
	// a row of output above it.
	first, last := 0, len(l.rows)
	height := max(1, s.height-1)
	if last > height {
		first = max(0, min(l.cursor.row-height/2, last-height))
		last = first + height
	}
	s.write(b, v, l, first, last)
	below := v.Below
	if room := height - (last - first); len(below) > room {
		below = below[:max(0, room)]
	}
	row := last - first - 1
	for _, x := range below {
		b.WriteString("\x1b[K\r\n")
		sgr(b, "", x.SGR)
		b.WriteString(cut(x.Text, s.width-1))
		sgr(b, x.SGR, "")
		row++
	}
	if last == len(l.rows) { // else the cursor may hang at the edge of the last row
		b.WriteString("\x1b[J")
	}
	s.row = l.cursor.row - first
	if row > s.row {
		up(b, row-s.row)
	}
	if row != s.row || l.cursor != l.end || len(below) > 0 {
		b.WriteString("\r")
		right(b, l.cursor.col)
	}
	s.shown, s.last, s.stale = true, *v, first > 0 || last < len(l.rows)
	all := v.Prompt.Text + v.Text
	to := len(all)
	if last < len(l.rows) {
		to = l.rows[last]
	}
	s.drawn = View{Text: all[l.rows[first]:to], Cursor: len(v.Prompt.Text) + v.Cursor - l.rows[first]}
	s.last.Below = slices.Clone(v.Below)
	s.plain = l.cursor == l.end && len(below) == 0 && first == 0 && last == len(l.rows) && l.cursor.col > 0
}

// typed draws the one change that is made most: characters at the end.
func (s *Screen) typed(b *bytes.Buffer, v *View) bool {
	o := &s.last
	if !s.plain || o.Prompt != v.Prompt || len(o.Below)+len(v.Below) > 0 || v.Cursor != len(v.Text) || len(v.Text) <= len(o.Text) || !strings.HasPrefix(v.Text, o.Text) {
		return false
	}
	t := v.Text[len(o.Text):]
	for i := range len(t) {
		if t[i] >= 0x80 { // it may combine with what stands there
			return false
		}
	}
	was := layout(o, s.width).end.col
	if was+len(t) >= s.width {
		return false
	}
	b.WriteString(t)
	s.last = *v
	s.drawn.Text += t
	s.drawn.Cursor += len(t)
	return true
}

func same(a, b *View) bool {
	return a.Prompt == b.Prompt && a.Text == b.Text && a.Cursor == b.Cursor && slices.Equal(a.Below, b.Below)
}

// place is a cell.
type place struct{ row, col int }

// lines is how a view's prompt and text lie on a screen.
type lines struct {
	rows        []int // where each row begins, in bytes of prompt and text
	cursor, end place
}

// layout puts the characters into rows. A row that is full is followed by another
// one, empty at the end: there the cursor can stand.
func layout(v *View, width int) lines {
	l := lines{rows: []int{0}}
	at := place{}
	all := v.Prompt.Text + v.Text
	want := len(v.Prompt.Text) + v.Cursor
	seen := false
	for i := 0; i < len(all); {
		n, w := 1, 1
		if all[i] >= 0x80 || i+1 < len(all) && all[i+1] >= 0x80 {
			var c string
			c, _, w, _ = uniseg.FirstGraphemeClusterInString(all[i:], -1)
			n = len(c)
		}
		if at.col+w > width {
			at = place{at.row + 1, 0}
			l.rows = append(l.rows, i)
		}
		if i >= want && !seen {
			l.cursor, seen = at, true
		}
		at.col += w
		i += n
		if at.col >= width {
			at = place{at.row + 1, 0}
			l.rows = append(l.rows, i)
		}
	}
	l.end = at
	if !seen {
		l.cursor = at
	}
	return l
}

// write writes rows of the prompt and the text.
func (s *Screen) write(b *bytes.Buffer, v *View, l lines, first, last int) {
	all := v.Prompt.Text + v.Text
	p := len(v.Prompt.Text)
	for row := first; row < last; row++ {
		from, to := l.rows[row], len(all)
		if row+1 < len(l.rows) {
			to = l.rows[row+1]
		}
		if from < p {
			sgr(b, "", v.Prompt.SGR)
			b.WriteString(all[from:min(p, to)])
			sgr(b, v.Prompt.SGR, "")
		}
		b.WriteString(all[min(max(from, p), to):to])
		if row+1 < last && Width(all[from:to]) < s.width {
			b.WriteString("\x1b[K") // no room for a wide character: what stood there goes
		}
	}
	if last == len(l.rows) && last > 1 && l.end.col == 0 {
		b.WriteString(" \r") // leaves the edge
	}
}

// cut shortens a line to a width.
func cut(t string, width int) string {
	w := 0
	for rest, st := t, -1; rest != ""; {
		var c string
		var n int
		c, rest, n, st = uniseg.FirstGraphemeClusterInString(rest, st)
		if w+n > width {
			return t[:len(t)-len(rest)-len(c)]
		}
		w += n
	}
	return t
}

// Width is how many columns a text takes.
func Width(t string) int { return uniseg.StringWidth(t) }
