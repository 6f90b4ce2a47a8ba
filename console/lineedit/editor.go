package lineedit

import (
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rivo/uniseg"
)

// Limits of a line and of what it takes to edit one, in bytes and steps.
const (
	MaxLine     = 1 << 20
	maxSequence = 32 // bytes of an escape sequence
	maxUndo     = 128
	maxKills    = 16
)

// EventKind is what keys ask for besides editing.
type EventKind uint8

// Kinds of events.
const (
	Nothing  EventKind = iota
	Enter              // the line is finished: Take
	Control            // a control key that is not the editor's: Key
	Complete           // TAB
	End                // CTRL+D at an empty line
	Clear              // CTRL+L: clear the screen
	Bell               // there is nothing to do what was asked with
)

// Event is what keys ask for.
type Event struct {
	Kind EventKind
	Key  byte
}

// Editor is one line that is being edited.
//
// Concurrency: one goroutine at a time.
type Editor struct {
	History *History // nil: none

	// Pass lists the control keys that are not for editing now: they come back as
	// events. CTRL+C always does.
	Pass string
	// Chords lists those that come back when ALT is held with them.
	Chords string

	text string
	pos  int // in bytes, at the edge of a character

	seq   []byte // the beginning of an escape sequence or of a character
	paste bool   // between the marks of a bracketed paste
	cr    bool   // the last byte was a carriage return

	kills  []string // the last one at the end
	kill   int      // index of what was yanked
	yanked int      // where what was yanked begins, -1: the last key did no yank
	killed bool     // the last key killed: the next one adds to it

	undo  []state
	typed bool // the last key inserted: the next one is undone with it

	at    int    // place in the history, or newest
	draft string // the new line while others are shown
	stem  string // what PgUp looks for
	steps bool   // the last key was PgUp or PgDn

	search *search
}

// newest is the place of the line that is in no history yet.
const newest = math.MaxInt

// here is the place in the history; Len is that of the new line.
func (e *Editor) here() int { return min(e.at, e.History.Len()) }

type state struct {
	text string
	pos  int
}

// search is a search through the history, CTRL+R or CTRL+S.
type search struct {
	what    string
	at      int // entry that is shown
	forward bool
	failed  bool
	before  state // what stood there
	from    int   // place in the history before
}

// Text is the line as it is.
func (e *Editor) Text() string { return e.text }

// Cursor is where the cursor stands, in bytes.
func (e *Editor) Cursor() int { return e.pos }

// Pasting says whether a paste is under way.
func (e *Editor) Pasting() bool { return e.paste }

// Search is what stands in the place of the prompt while the history is
// searched, "" otherwise.
func (e *Editor) Search() string {
	s := e.search
	if s == nil {
		return ""
	}
	t := "(reverse-i-search)`"
	if s.forward {
		t = "(i-search)`"
	}
	if s.failed {
		t = "(failed " + t[1:]
	}
	return t + s.what + "': "
}

// Take returns the line and begins a new one.
func (e *Editor) Take() string {
	t := e.text
	e.reset("")
	return t
}

// Reset drops the line.
func (e *Editor) Reset() { e.reset("") }

func (e *Editor) reset(t string) {
	e.text, e.pos = t, len(t)
	e.undo, e.search, e.draft = nil, nil, ""
	e.at = newest
	e.yanked, e.killed, e.typed, e.steps = -1, false, false, false
}

// Replace puts t in the place of the bytes from to to; the cursor stands behind.
func (e *Editor) Replace(from, to int, t string) {
	from, to = max(0, min(from, len(e.text))), max(0, min(to, len(e.text)))
	t = clean(t)
	if from > to || len(e.text)-(to-from)+len(t) > MaxLine {
		return
	}
	e.save()
	e.text, e.pos = e.text[:from]+t+e.text[to:], from+len(t)
}

// Feed takes keys up to the first that asks for something; it returns how many
// bytes that were. An Event of kind Nothing means that all are taken.
func (e *Editor) Feed(b []byte) (n int, ev Event) {
	fresh := true // the sequence, if there is one, began in b
	if len(e.seq) > 0 {
		fresh = false
	}
	for n < len(b) {
		c := b[n]
		if len(e.seq) > 0 {
			n++
			e.seq = append(e.seq, c)
			if c == 0x03 { // nothing swallows it
				e.seq = e.seq[:0]
				return n, e.control(c)
			}
			if ev, done := e.sequence(fresh); done {
				e.seq = e.seq[:0]
				fresh = true
				if ev.Kind != Nothing {
					return n, ev
				}
			}
			continue
		}
		fresh = true
		cr := e.cr
		e.cr = c == '\r'
		switch {
		case c == '\n' && cr: // CR LF is one key
			n++
		case c == 0x1b:
			n++
			e.seq = append(e.seq, c)
		case c < 0x20 || c == 0x7f:
			n++
			if ev := e.control(c); ev.Kind != Nothing {
				return n, ev
			}
		default:
			m := n
			for m < len(b) && b[m] >= 0x20 && b[m] != 0x7f {
				m++
			}
			run := b[n:m]
			// A character may be cut in two.
			if cut := incomplete(run); cut > 0 && m == len(b) {
				e.seq = append(e.seq, run[len(run)-cut:]...)
				run = run[:len(run)-cut]
			}
			n = m
			if len(run) > 0 {
				e.insert(clean(string(run)))
			}
		}
	}
	return n, Event{}
}

// incomplete is how many bytes at the end of b begin a character that goes on.
func incomplete(b []byte) int {
	for i := 1; i < utf8.UTFMax && i <= len(b); i++ {
		if c := b[len(b)-i]; utf8.RuneStart(c) {
			if c >= utf8.RuneSelf && !utf8.FullRune(b[len(b)-i:]) {
				return i
			}
			return 0
		}
	}
	return 0
}

// clean leaves only what can stand in a line.
func clean(t string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError, r < 0x20, r >= 0x7f && r < 0xa0, r == '\u2028', r == '\u2029':
			return -1
		case r == '\u00a0': // pasted from web pages, where it stands for a blank
			return ' '
		}
		return r
	}, t)
}

// sequence takes what has been collected; done says that it is complete.
func (e *Editor) sequence(fresh bool) (Event, bool) {
	s := e.seq
	if s[0] != 0x1b { // a character
		c := s[len(s)-1]
		if utf8.RuneStart(c) { // it was none after all
			e.seq = e.seq[:0]
			_, ev := e.Feed([]byte{c})
			return ev, len(e.seq) == 0
		}
		if !utf8.FullRune(s) {
			return Event{}, false
		}
		e.insert(clean(string(s)))
		return Event{}, true
	}
	if e.paste {
		const end = "\x1b[201~"
		if string(s) == end {
			e.paste = false
			return Event{}, true
		}
		// Escapes inside of a paste are no keys.
		if s[len(s)-1] == 0x1b && len(s) > 1 {
			e.seq = append(e.seq[:0], 0x1b)
			return Event{}, false
		}
		return Event{}, !strings.HasPrefix(end, string(s))
	}
	switch {
	case len(s) == 1:
		return Event{}, false
	case len(s) == 2 && (s[1] == '[' || s[1] == 'O'):
		return Event{}, false
	case len(s) == 2 && s[1] == 0x1b: // ESC ESC: the second one begins anew
		e.seq = e.seq[:1]
		return Event{}, false
	case s[1] == '[' || s[1] == 'O':
		c := s[len(s)-1]
		if len(s) == 3 && s[1] == '[' && c == '[' { // the Linux console's function keys
			return Event{}, false
		}
		switch {
		case c < 0x20: // a broken sequence
			return e.control(c), true
		case c >= 0x40 && c < 0x7f:
			return e.named(string(s[1:])), true
		}
		return Event{}, len(s) >= maxSequence
	case s[1] < 0x20:
		// ALT with a control key arrives in one piece; ESC and then the key does
		// not, and means the key.
		if fresh && strings.IndexByte(e.Chords, s[1]) >= 0 {
			return Event{Control, s[1]}, true
		}
		if s[1] == 0x08 {
			e.killTo(e.wordLeft())
			return Event{}, true
		}
		return e.control(s[1]), true
	case s[1] >= utf8.RuneSelf:
		e.seq = e.seq[:0]
		_, ev := e.Feed([]byte{s[1]})
		return ev, len(e.seq) == 0
	}
	return e.meta(s[1]), true
}

// control serves a control key, or DEL.
func (e *Editor) control(c byte) Event {
	if e.paste && c != 0x03 {
		switch c {
		case '\r', '\n':
			return e.enter()
		case '\t':
			e.insert(" ")
		}
		return Event{}
	}
	if c == 0x03 {
		e.paste = false // a terminal that forgot the end must not keep CTRL+C away
		return Event{Control, c}
	}
	if strings.IndexByte(e.Pass, c) >= 0 {
		return Event{Control, c}
	}
	if e.search != nil {
		if ev, served := e.searching(c); served {
			return ev
		}
	}
	switch c {
	case 0x01:
		e.move(0)
	case 0x02:
		e.move(e.left())
	case 0x04:
		if e.text == "" {
			return Event{Kind: End}
		}
		e.cut(e.pos, e.right())
	case 0x05:
		e.move(len(e.text))
	case 0x06:
		e.move(e.right())
	case 0x08, 0x7f:
		if e.pos == 0 {
			return Event{}
		}
		e.cut(e.back(), e.pos)
	case '\t':
		return Event{Kind: Complete}
	case '\n', '\r':
		return e.enter()
	case 0x0b:
		e.killTo(len(e.text))
	case 0x0c:
		return Event{Kind: Clear}
	case 0x0e:
		return e.step(1)
	case 0x10:
		return e.step(-1)
	case 0x12, 0x13:
		e.settle()
		e.search = &search{at: e.here(), from: e.here(), forward: c == 0x13, before: state{e.text, e.pos}}
		if e.here() == e.History.Len() {
			e.draft = e.text
		}
	case 0x14:
		e.swap()
	case 0x15:
		e.killTo(0)
	case 0x17:
		i := e.pos
		for i > 0 && isSpace(e.text[i-1]) {
			i--
		}
		for i > 0 && !isSpace(e.text[i-1]) {
			i--
		}
		e.killTo(i)
	case 0x19:
		if len(e.kills) == 0 {
			return Event{Kind: Bell}
		}
		e.kill = len(e.kills) - 1
		e.yank()
	case 0x1f:
		return e.back1()
	default:
		if strings.IndexByte(e.Chords, c) >= 0 && c != 0 {
			return Event{Control, c}
		}
	}
	return Event{}
}

// meta serves ALT or ESC with a key.
func (e *Editor) meta(c byte) Event {
	e.leaveSearch(true)
	switch c {
	case 'b', 'B':
		e.move(e.wordLeft())
	case 'f', 'F':
		e.move(e.wordRight())
	case 'd', 'D':
		e.killTo(e.wordRight())
	case 0x7f:
		e.killTo(e.wordLeft())
	case 'y', 'Y':
		if e.yanked < 0 || len(e.kills) == 0 {
			return Event{Kind: Bell}
		}
		e.text, e.pos = e.text[:e.yanked]+e.text[e.pos:], e.yanked
		e.kill = (e.kill + len(e.kills) - 1) % len(e.kills)
		e.yank()
	case 'u', 'U':
		e.change(strings.ToUpper)
	case 'l', 'L':
		e.change(strings.ToLower)
	case 'c', 'C':
		e.change(func(t string) string {
			i := strings.IndexFunc(t, isWord)
			if i < 0 {
				return t
			}
			_, n := utf8.DecodeRuneInString(t[i:])
			return t[:i] + strings.ToUpper(t[i:i+n]) + strings.ToLower(t[i+n:])
		})
	case '<':
		return e.show(0)
	case '>':
		return e.show(e.History.Len())
	case 'p', 'P':
		return e.prefix(-1)
	case 'n', 'N':
		return e.prefix(1)
	}
	return Event{}
}

// named serves the keys that have names: arrows and their kin. s is the sequence
// behind ESC.
func (e *Editor) named(s string) Event {
	if strings.HasPrefix(s, "[[") {
		return Event{}
	}
	if s == "[200~" {
		e.leaveSearch(true)
		e.paste = true
		return Event{}
	}
	final := s[len(s)-1]
	params := s[1 : len(s)-1]
	first, modifier, _ := strings.Cut(params, ";")
	// 3 is ALT, 5 CTRL, 7 both, 2 with SHIFT added; some terminals write only 5.
	wide := len(modifier) == 1 && modifier[0] >= '3' && modifier[0] <= '8' || modifier == "" && first == "5" && final != '~' || s[0] == 'O' && final >= 'a' && final <= 'd'
	e.leaveSearch(true)
	switch final {
	case 'A', 'a':
		return e.step(-1)
	case 'B', 'b':
		return e.step(1)
	case 'C', 'c':
		if wide {
			e.move(e.wordRight())
		} else {
			e.move(e.right())
		}
	case 'D', 'd':
		if wide {
			e.move(e.wordLeft())
		} else {
			e.move(e.left())
		}
	case 'H':
		e.move(0)
	case 'F':
		e.move(len(e.text))
	case 'M': // the keypad's ENTER
		if s == "OM" {
			return e.enter()
		}
	case '~', '^', '@', '$':
		switch first {
		case "1", "7":
			e.move(0)
		case "4", "8":
			e.move(len(e.text))
		case "3":
			if wide || final == '^' {
				e.killTo(e.wordRight())
			} else {
				e.cut(e.pos, e.right())
			}
		case "5":
			return e.prefix(-1)
		case "6":
			return e.prefix(1)
		}
	}
	return Event{}
}

// enter finishes the line, wherever the cursor stands.
func (e *Editor) enter() Event {
	e.leaveSearch(true)
	e.pos = len(e.text)
	return Event{Kind: Enter}
}

// save notes the line for CTRL+_.
func (e *Editor) save() {
	e.settle()
	if len(e.undo) >= maxUndo {
		e.undo = slices.Delete(e.undo, 0, maxUndo/2)
	}
	e.undo = append(e.undo, state{e.text, e.pos})
}

// settle ends what keys in a row add up to.
func (e *Editor) settle() { e.yanked, e.killed, e.typed, e.steps = -1, false, false, false }

// insert puts text at the cursor.
func (e *Editor) insert(t string) {
	if e.search != nil && !e.paste {
		e.search.what += t
		e.find(e.search.at, true)
		return
	}
	if t == "" || len(e.text)+len(t) > MaxLine {
		return
	}
	if !e.typed {
		e.save()
	}
	e.settle()
	e.typed = true
	e.text, e.pos = e.text[:e.pos]+t+e.text[e.pos:], e.pos+len(t)
}

func (e *Editor) move(to int) {
	e.settle()
	e.pos = to
}

// cut removes a piece.
func (e *Editor) cut(from, to int) {
	if from >= to {
		e.settle()
		return
	}
	e.save()
	e.text, e.pos = e.text[:from]+e.text[to:], from
}

// killTo removes what stands between the cursor and a place; CTRL+Y brings it
// back. Kills in a row are one.
func (e *Editor) killTo(to int) {
	if to == e.pos {
		return
	}
	joined := e.killed
	from := min(e.pos, to)
	t := e.text[from:max(e.pos, to)]
	switch {
	case joined && len(e.kills) > 0 && to < e.pos:
		e.kills[len(e.kills)-1] = t + e.kills[len(e.kills)-1]
	case joined && len(e.kills) > 0:
		e.kills[len(e.kills)-1] += t
	default:
		if len(e.kills) >= maxKills {
			e.kills = slices.Delete(e.kills, 0, 1)
		}
		e.kills = append(e.kills, t)
	}
	e.cut(from, from+len(t))
	e.killed = true
}

func (e *Editor) yank() {
	t := e.kills[e.kill]
	if len(e.text)+len(t) > MaxLine {
		return
	}
	e.save()
	e.yanked = e.pos
	e.text, e.pos = e.text[:e.pos]+t+e.text[e.pos:], e.pos+len(t)
}

// back1 is undo.
func (e *Editor) back1() Event {
	if len(e.undo) == 0 {
		return Event{Kind: Bell}
	}
	u := e.undo[len(e.undo)-1]
	e.undo = e.undo[:len(e.undo)-1]
	e.settle()
	e.text, e.pos = u.text, u.pos
	return Event{}
}

// swap is CTRL+T.
func (e *Editor) swap() {
	p := e.pos
	if p == len(e.text) {
		p = e.left()
	}
	if p == 0 || len(e.text) == 0 {
		return
	}
	e.save()
	e.pos = p
	a, b := e.left(), e.right()
	e.text = e.text[:a] + e.text[p:b] + e.text[a:p] + e.text[b:]
	e.pos = b
}

// change changes the rest of the word.
func (e *Editor) change(f func(string) string) {
	to := e.wordRight()
	if to == e.pos {
		return
	}
	e.save()
	t := f(e.text[e.pos:to])
	e.text, e.pos = e.text[:e.pos]+t+e.text[to:], e.pos+len(t)
}

// left and right are the edges of the character (with what combines with it) at
// the cursor.
func (e *Editor) left() int {
	if e.pos == 0 {
		return 0
	}
	// ASCII needs no look at what stands before it.
	if c := e.text[e.pos-1]; c < utf8.RuneSelf {
		return e.pos - 1
	}
	// Clusters are found from a place where one surely begins.
	from := e.pos
	for from > 0 {
		from--
		if e.text[from] < utf8.RuneSelf {
			break
		}
	}
	last := from
	rest, st := e.text[from:e.pos], -1
	for rest != "" {
		last = e.pos - len(rest)
		_, rest, _, st = uniseg.FirstGraphemeClusterInString(rest, st)
	}
	return last
}

func (e *Editor) right() int {
	if e.pos == len(e.text) {
		return e.pos
	}
	c, _, _, _ := uniseg.FirstGraphemeClusterInString(e.text[e.pos:], -1)
	return e.pos + len(c)
}

// back is what BACKSPACE removes: the last character of a cluster, as people who
// compose characters expect, but an emoji whole.
func (e *Editor) back() int {
	from := e.left()
	r, n := utf8.DecodeLastRuneInString(e.text[:e.pos])
	if n > 0 && unicode.Is(unicode.Mn, r) && r < 0xfe00 {
		return e.pos - n
	}
	return from
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' }

// isWord: names of symbols are words; ! and . and the rest part them.
func isWord(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r) }

func (e *Editor) wordLeft() int {
	t := e.text[:e.pos]
	t = strings.TrimRightFunc(t, func(r rune) bool { return !isWord(r) })
	return len(strings.TrimRightFunc(t, func(r rune) bool { return isWord(r) || unicode.Is(unicode.M, r) }))
}

func (e *Editor) wordRight() int {
	t := e.text[e.pos:]
	t = strings.TrimLeftFunc(t, func(r rune) bool { return !isWord(r) })
	t = strings.TrimLeftFunc(t, func(r rune) bool { return isWord(r) || unicode.Is(unicode.M, r) })
	return len(e.text) - len(t)
}

// step goes through the history, line by line.
func (e *Editor) step(by int) Event { return e.show(e.here() + by) }

// show shows an entry of the history; Len is the new line.
func (e *Editor) show(at int) Event {
	n := e.History.Len()
	at = max(0, min(at, n))
	if at == e.here() {
		return Event{Kind: Bell}
	}
	if e.here() == n {
		e.draft = e.text
	}
	e.save()
	e.at, e.text = newest, e.draft
	if at < n {
		e.at, e.text = at, e.History.At(at)
	}
	e.pos = len(e.text)
	return Event{}
}

// prefix goes to the next line that begins as this one does up to the cursor.
func (e *Editor) prefix(by int) Event {
	if !e.steps {
		e.stem = e.text[:e.pos]
	}
	stem := e.stem
	for i := e.here() + by; i >= 0 && i <= e.History.Len(); i += by {
		if i < e.History.Len() && !strings.HasPrefix(e.History.At(i), stem) {
			continue
		}
		if i == e.History.Len() && by < 0 {
			continue
		}
		ev := e.show(i)
		e.steps, e.stem = true, stem
		return ev
	}
	e.steps, e.stem = true, stem
	return Event{Kind: Bell}
}

// searching serves keys of a search.
func (e *Editor) searching(c byte) (Event, bool) {
	s := e.search
	switch c {
	case 0x12, 0x13:
		s.forward = c == 0x13
		if s.what == "" {
			return Event{}, true
		}
		return e.find(s.at, false), true
	case 0x08, 0x7f:
		_, n := utf8.DecodeLastRuneInString(s.what)
		s.what = s.what[:len(s.what)-n]
		s.at = s.from
		return e.find(s.from, true), true
	case 0x07: // CTRL+G
		e.leaveSearch(false)
		return Event{}, true
	}
	e.leaveSearch(true)
	return Event{}, false
}

// find looks for the next line from at on; here says that at counts.
func (e *Editor) find(at int, here bool) Event {
	s := e.search
	by := -1
	if s.forward {
		by = 1
	}
	if !here {
		at += by
	}
	if s.what == "" {
		s.failed = false
		e.text, e.pos = s.before.text, s.before.pos
		return Event{}
	}
	for i := min(at, e.History.Len()); i >= 0 && i <= e.History.Len(); i += by {
		t := e.draft
		if i < e.History.Len() {
			t = e.History.At(i)
		}
		if j := indexFold(t, s.what); j >= 0 {
			s.at, s.failed = i, false
			e.text, e.pos = t, j
			return Event{}
		}
	}
	s.failed = true
	return Event{Kind: Bell}
}

// indexFold is strings.Index without regard to case unless what has capitals.
func indexFold(t, what string) int {
	if strings.ToLower(what) != what {
		return strings.Index(t, what)
	}
	found := strings.Index(strings.ToLower(t), what)
	if found <= 0 {
		return found
	}
	// A letter may be longer or shorter in lower case.
	at := 0
	for i, r := range t {
		if at >= found {
			return i
		}
		at += utf8.RuneLen(unicode.ToLower(r))
	}
	return len(t)
}

// leaveSearch ends a search, with what it found or as it was before.
func (e *Editor) leaveSearch(keep bool) {
	s := e.search
	if s == nil {
		return
	}
	e.search = nil
	if !keep || s.what == "" {
		e.text, e.pos = s.before.text, s.before.pos
		return
	}
	e.at = s.at
	if s.at >= e.History.Len() {
		e.at = newest
	}
	e.undo = append(e.undo, s.before)
}
