// Package vttest is a small terminal for tests: what is written to it becomes a
// screen that a test can look at, with styles, lines scrolled off the top, and
// widths that change as terminals that wrap lines anew change them.
//
// It knows the sequences that package lineedit writes, after ECMA-48 and xterm's
// documentation; all others are noted in Unknown, so that a test can say that
// there were none. It is no terminal for people.
package vttest

import (
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/rivo/uniseg"
)

type cell struct {
	text  string // "" : blank; "\x00": the right half of a wide character
	style string
}

type row struct {
	cells   []cell
	wrapped bool // goes on in the next row
}

// Screen is a terminal.
//
// Concurrency: all methods from any goroutine.
type Screen struct {
	mu            sync.Mutex
	width, height int
	rows          []row // the last height of them are on the screen
	y, x          int   // y from the first of rows
	pending       bool  // the cursor hangs behind the last column
	style         string
	seq           []byte
	modes         map[string]bool
	unknown       []string
	changed       chan struct{} // closed at the next Write
}

// New is an empty screen.
func New(width, height int) *Screen {
	s := &Screen{width: width, height: height, modes: map[string]bool{}, changed: make(chan struct{})}
	for range height {
		s.rows = append(s.rows, s.blank())
	}
	return s
}

func (s *Screen) blank() row { return row{cells: make([]cell, s.width)} }

func (s *Screen) top() int { return len(s.rows) - s.height }

// Changed is closed when something more is written.
func (s *Screen) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Write implements io.Writer.
func (s *Screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range b {
		s.byte(c)
	}
	close(s.changed)
	s.changed = make(chan struct{})
	return len(b), nil
}

func (s *Screen) byte(c byte) {
	if len(s.seq) > 0 {
		s.seq = append(s.seq, c)
		switch q := s.seq; {
		case q[0] == 0x1b && len(q) == 2 && c == '[':
		case q[0] == 0x1b && len(q) == 2:
			s.note(string(q))
		case q[0] == 0x1b && c >= 0x40 && c < 0x7f:
			s.csi(string(q[2:]))
			s.seq = nil
		case q[0] == 0x1b && (c < 0x20 || c >= 0x7f):
			s.note(string(q))
		case q[0] >= 0x80 && utf8.FullRune(q):
			s.put(string(q))
			s.seq = nil
		}
		return
	}
	switch {
	case c == 0x1b || c >= 0x80:
		s.seq = []byte{c}
	case c == '\r':
		s.x, s.pending = 0, false
	case c == '\n':
		s.pending = false
		s.down()
	case c == '\t':
		s.x, s.pending = min(s.x/8*8+8, s.width-1), false
	case c == '\a':
	case c < 0x20 || c == 0x7f:
		s.note(string(c))
	default:
		s.put(string(c))
	}
}

func (s *Screen) note(t string) {
	s.unknown = append(s.unknown, strconv.Quote(t))
	s.seq = nil
}

func (s *Screen) down() {
	if s.y++; s.y == len(s.rows) {
		s.rows = append(s.rows, s.blank())
	}
}

func (s *Screen) put(t string) {
	r := s.rows[s.y].cells
	// What combines joins the character before it.
	if at := s.x - 1; t[0] >= 0x80 {
		if s.pending {
			at = s.width - 1
		}
		if at >= 0 && r[at].text == "\x00" {
			at--
		}
		if at >= 0 && r[at].text != "" && uniseg.GraphemeClusterCount(r[at].text+t) == 1 {
			r[at].text += t
			return
		}
	}
	w := max(1, uniseg.StringWidth(t))
	if s.pending || s.x+w > s.width {
		s.rows[s.y].wrapped = true
		s.down()
		s.x, s.pending = 0, false
		r = s.rows[s.y].cells
	}
	r[s.x] = cell{t, s.style}
	if w == 2 {
		r[s.x+1] = cell{"\x00", s.style}
	}
	if s.x += w; s.x >= s.width {
		s.x, s.pending = s.width-1, true
	}
	if s.x < len(r) && r[s.x].text == "\x00" && !s.pending {
		r[s.x] = cell{}
	}
}

func (s *Screen) csi(q string) {
	final := q[len(q)-1]
	params := q[:len(q)-1]
	n, err := strconv.Atoi(params)
	if params == "" {
		n, err = 0, nil
	}
	bad := func() { s.unknown = append(s.unknown, strconv.Quote("\x1b["+q)) }
	switch {
	case strings.HasPrefix(params, "?") && (final == 'h' || final == 'l'):
		s.modes[params[1:]] = final == 'h'
	case final == 'm':
		s.style = params
	case err != nil:
		bad()
	case final == 'A':
		s.y, s.pending = max(s.top(), s.y-max(1, n)), false
	case final == 'C':
		s.x, s.pending = min(s.width-1, s.x+max(1, n)), false
	case final == 'H' && params == "":
		s.y, s.x, s.pending = s.top(), 0, false
	case final == 'K' && n == 0:
		s.erase(s.y, s.x)
	case final == 'J' && n == 0:
		s.erase(s.y, s.x)
		for y := s.y + 1; y < len(s.rows); y++ {
			s.erase(y, 0)
		}
	case final == 'J' && n == 2:
		for y := s.top(); y < len(s.rows); y++ {
			s.erase(y, 0)
		}
	default:
		bad()
	}
}

func (s *Screen) erase(y, x int) {
	r := &s.rows[y]
	clear(r.cells[x:])
	r.wrapped = false
}

func (r *row) text() string {
	var b strings.Builder
	for _, c := range r.cells {
		switch c.text {
		case "":
			b.WriteByte(' ')
		case "\x00":
		default:
			b.WriteString(c.text)
		}
	}
	return strings.TrimRight(b.String(), " ")
}

// Lines are the rows of the screen, without blanks at their ends and empty ones
// at the end.
func (s *Screen) Lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return texts(s.rows[s.top():])
}

// All is Lines with what has scrolled off, with rows that the terminal wrapped
// joined.
func (s *Screen) All() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	joins := false
	for i := range s.rows {
		t := s.rows[i].text()
		if n := len(s.rows[i].cells); s.rows[i].wrapped && s.rows[i].cells[n-1].text == " " {
			// The blanks were written, and stand within the line.
			t += strings.Repeat(" ", n-uniseg.StringWidth(t))
		}
		if joins {
			out[len(out)-1] += t
		} else {
			out = append(out, t)
		}
		joins = s.rows[i].wrapped
	}
	return trim(out)
}

func texts(rows []row) []string {
	var out []string
	for i := range rows {
		out = append(out, rows[i].text())
	}
	return trim(out)
}

func trim(out []string) []string {
	for len(out) > 0 && out[len(out)-1] == "" {
		out = out[:len(out)-1]
	}
	return out
}

// Cursor is where the cursor stands on the screen, from 0.
func (s *Screen) Cursor() (row, col int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.y - s.top(), s.x
}

// Style is the style in which the first place where a text stands on the screen
// or above it is written; false: it is not there, or in several styles.
func (s *Screen) Style(text string) (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.rows {
		line := ""
		var styles []string
		for _, c := range r.cells {
			t := c.text
			if t == "" {
				t = " "
			}
			if t == "\x00" {
				continue
			}
			line += t
			for range len(t) {
				styles = append(styles, c.style)
			}
		}
		if i := strings.Index(line, text); i >= 0 {
			for _, x := range styles[i : i+len(text)] {
				if x != styles[i] {
					return "", false
				}
			}
			return styles[i], true
		}
	}
	return "", false
}

// Mode says whether a private mode is set.
func (s *Screen) Mode(n string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.modes[n]
}

// Unknown lists what was written that the screen does not know.
func (s *Screen) Unknown() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.unknown...)
}

// Resize changes the size and wraps lines anew, as most terminals do.
func (s *Screen) Resize(width, height int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	type logical struct {
		cells  []cell
		cursor int // in it, -1: elsewhere
	}
	var all []logical
	joins := false
	last := 0
	for i := range s.rows {
		if s.rows[i].text() != "" || i <= s.y {
			last = i
		}
	}
	for i := range s.rows[:last+1] {
		if !joins {
			all = append(all, logical{cursor: -1})
		}
		l := &all[len(all)-1]
		if i == s.y {
			l.cursor = len(l.cells) + s.x
		}
		l.cells = append(l.cells, s.rows[i].cells...)
		joins = s.rows[i].wrapped
	}
	s.width, s.height, s.rows, s.pending = width, height, nil, false
	for _, l := range all {
		n := len(l.cells)
		for n > 0 && l.cells[n-1].text == "" && n-1 >= l.cursor {
			n--
		}
		l.cells = l.cells[:n]
		r := s.blank()
		x := 0
		for i, c := range l.cells {
			wide := i+1 < n && l.cells[i+1].text == "\x00"
			if x == width || wide && x+1 == width {
				r.wrapped = true
				s.rows = append(s.rows, r)
				r, x = s.blank(), 0
			}
			if i == l.cursor {
				s.y, s.x = len(s.rows), x
			}
			r.cells[x] = c
			x++
		}
		if l.cursor >= n {
			if x == width {
				r.wrapped = true
				s.rows = append(s.rows, r)
				r, x = s.blank(), 0
			}
			s.y, s.x = len(s.rows), x
		}
		s.rows = append(s.rows, r)
	}
	for len(s.rows) < height {
		s.rows = append(s.rows, s.blank())
	}
}
