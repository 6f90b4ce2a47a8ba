package console

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"sync"
	"time"

	"golang.org/x/term"

	"openkd/console/lineedit"
)

// Control keys of kd: those that count while no prompt is shown, or with ALT, and
// those of them that the line editor has no use for, which count at a prompt too.
const (
	kdKeys     = "\x01\x02\x03\x04\x06\x0b\x12\x16\x17\x1c"
	promptKeys = "\x16\x1c"
)

// terminal is a line editor on a terminal. It has a goroutine that reads the
// keyboard and waits for nothing else, and one that draws.
//
// The Screen's lock is taken before mu, never behind it.
type terminal struct {
	in, out *os.File
	outlet  *outlet // to out
	keys    keys
	state   *term.State
	undo    func() // of prepare
	screen  *lineedit.Screen
	theme   theme

	draw chan struct{} // something is to be drawn
	some chan struct{} // something came that next waits for
	done chan struct{} // close was called
	gone chan struct{} // the reader has ended
	wg   sync.WaitGroup

	mu       sync.Mutex
	ed       lineedit.Editor
	file     *lineedit.File
	asking   bool   // a prompt is shown: keys belong to the editor
	prompt   string // that is shown, or was
	commands bool   // commands are asked for: they are remembered, and completed
	status   string // what a command tells of its progress
	queue    []entered
	bytes    int  // in queue
	entering bool // the first of queue stands at the prompt still
	clear    bool // the screen is to be cleared
	bell     bool
	eof      bool
	keyed    bool // the last key was one of kd: an ENTER behind it belongs to it
	leaving  bool // the last key was CTRL+B on an empty line: an ENTER behind it leaves

	// complete answers at once, fetch later: it returns, and calls give, from any
	// goroutine, when it has an answer. One of them, or none.
	complete func(line string, cursor int) completion
	fetch    func(line string, cursor int, give func(completion))
	menu     []lineedit.Span
	wanted   uint64 // TAB was pressed: the number of the request, 0: none
	requests uint64
	holding  bool // keys wait for the completion
	held     []byte
	fetched  fetched
}

// fetched is a completion that comes from far away.
type fetched struct {
	request uint64 // which is under way, 0: none
	line    string // that was completed
	cursor  int
	answer  *completion
	late    bool // keys wait for it no longer
}

// holdKeys is how long keys wait for a completion from far away. What comes later
// counts if nothing was typed meanwhile.
const holdKeys = 400 * time.Millisecond

// entered is a line that was entered and not taken yet.
type entered struct {
	text   string
	looked bool // keys.line has seen it
	kept   bool // it is in the history
	end    bool // not a line: CTRL+D
}

// newTerminal takes the terminal over. What is shown goes to out by way of o.
func newTerminal(in, out *os.File, o *outlet, k keys) (*terminal, error) {
	undo, err := prepare(out)
	if err != nil {
		return nil, err
	}
	state, err := term.MakeRaw(descriptor(in))
	if err != nil {
		undo()
		return nil, err
	}
	t := &terminal{
		in: in, out: out, outlet: o, keys: k, state: state, undo: undo,
		draw: make(chan struct{}, 1), some: make(chan struct{}, 1), done: make(chan struct{}), gone: make(chan struct{}),
	}
	t.screen = lineedit.NewScreen(o, t.size, t.view)
	t.screen.Missed = func(lines int) lineedit.Span { return lineedit.Span{Text: leftOut(lines), SGR: t.theme.quiet} }
	o.woke = func() { poke(t.draw) }
	t.ed.History = &lineedit.History{}
	t.ed.Pass, t.ed.Chords = kdKeys, kdKeys
	t.ed.Reset()
	return t, nil
}

// remember has commands kept in a file.
func (t *terminal) remember(path string) error {
	f, lines, err := lineedit.OpenFile(path)
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.file, t.ed.History = f, lineedit.NewHistory(lines)
	return nil
}

func (t *terminal) size() (width, height int) {
	w, h, err := term.GetSize(descriptor(t.out))
	if err != nil {
		return 0, 0
	}
	return w, h
}

func (t *terminal) start() {
	t.screen.Raw("\x1b[?2004h") // pastes come with marks around them
	go t.read()
	t.wg.Go(t.paint)
}

func (t *terminal) output() io.Writer { return onScreen{t.screen} }

// onScreen is a Screen as a writer of text without control characters.
type onScreen struct{ s *lineedit.Screen }

func (o onScreen) Write(b []byte) (int, error) {
	o.s.Print(lineedit.Span{Text: string(b)})
	return len(b), nil
}

// paint draws, so that the reader never waits for a slow terminal.
func (t *terminal) paint() {
	resized := make(chan os.Signal, 1)
	notifyResize(resized)
	defer signal.Stop(resized)
	for {
		select {
		case <-t.draw:
		case <-resized:
		case <-t.done:
			return
		}
		t.mu.Lock()
		clear, bell := t.clear, t.bell
		t.clear, t.bell = false, false
		t.mu.Unlock()
		if clear {
			t.screen.Clear()
		} else {
			t.screen.Refresh()
		}
		if bell && t.outlet.Room() {
			t.screen.Raw("\a")
		}
	}
}

// view is what stands below the output now.
func (t *terminal) view() lineedit.View {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := lineedit.View{Text: t.ed.Text(), Cursor: t.ed.Cursor()}
	switch {
	case t.entering:
		// It stays where it was typed until next has made it part of the output.
		v.Text = t.queue[0].text
		v.Cursor = len(v.Text)
		v.Prompt = lineedit.Span{Text: t.prompt, SGR: t.theme.prompt}
	case t.asking:
		v.Prompt = lineedit.Span{Text: t.prompt, SGR: t.theme.prompt}
		if p := t.ed.Search(); p != "" {
			v.Prompt = lineedit.Span{Text: p, SGR: t.theme.quiet}
		}
		v.Below = t.menu
	default:
		p := t.status
		if n := len(t.queue); n > 0 {
			if p != "" {
				p += "  "
			}
			p += fmt.Sprintf("(%d waiting)", n)
		}
		if p != "" && v.Text != "" {
			p += " "
		}
		v.Prompt = lineedit.Span{Text: p, SGR: t.theme.quiet}
	}
	return v
}

// setStatus shows a short text below the output while a command works; "" removes
// it.
func (t *terminal) setStatus(text string) {
	t.mu.Lock()
	t.status = harmless(text)
	t.mu.Unlock()
	t.screen.Refresh()
}

// read takes keys from the keyboard all the time.
func (t *terminal) read() {
	defer close(t.gone)
	buf := make([]byte, 4096)
	for {
		n, err := t.in.Read(buf)
		t.arrived(buf[:n])
		if err != nil {
			t.mu.Lock()
			t.eof = true
			t.mu.Unlock()
			poke(t.some)
			t.keys.change()
			return
		}
	}
}

// arrived takes keys as they come from the keyboard.
func (t *terminal) arrived(b []byte) {
	t.mu.Lock()
	if t.holding {
		i := bytes.LastIndexByte(b, 0x03)
		if i < 0 {
			if len(t.held)+len(b) <= maxAhead {
				t.held = append(t.held, b...)
			}
			t.mu.Unlock()
			return
		}
		// CTRL+C gives up what is looked for, and what waits for it.
		t.wanted, t.holding, t.held, t.fetched = 0, false, nil, fetched{}
		b = b[i:]
	}
	t.mu.Unlock()
	t.feed(b)
}

// feed gives keys to the editor, up to a TAB, and serves what they ask for.
func (t *terminal) feed(b []byte) {
	for len(b) > 0 {
		var after func()
		t.mu.Lock()
		t.menu = nil
		if b[0] == 0x02 && t.asking && t.ed.Text() == "" && !t.ed.Pasting() && t.ed.Search() == "" {
			// There is nothing to go back in.
			t.leaving = true
			b = b[1:]
			t.mu.Unlock()
			continue
		}
		n, ev := t.ed.Feed(b)
		b = b[n:]
		leaves := t.leaving && t.asking && t.ed.Text() == "" && ev.Kind == lineedit.Enter
		t.leaving = false
		keyed := t.keyed
		t.keyed = ev.Kind == lineedit.Control && !t.asking
		if leaves {
			after = func() { t.keys.key(0x02) }
			ev.Kind = lineedit.Nothing
		}
		switch ev.Kind {
		case lineedit.Enter:
			if line := t.ed.Take(); line != "" || !keyed {
				after = t.enterLocked(line)
			}
		case lineedit.Control:
			switch {
			case ev.Key == 0x03 && t.asking:
				t.ed.Reset()
				after = t.hurry
			case ev.Key == 0x03:
				after = func() { t.hurry(); t.keys.key(ev.Key) }
			default:
				after = func() { t.keys.key(ev.Key) }
			}
		case lineedit.Complete:
			if t.asking && t.commands && (t.complete != nil || t.fetch != nil) {
				t.requests++
				t.wanted, t.holding = t.requests, true
				t.held = append(slices.Clone(b), t.held...)
				b = nil
				poke(t.some)
			} else {
				t.bell = t.asking
			}
		case lineedit.End:
			if t.asking {
				t.queue = append(t.queue, entered{end: true})
				t.askLocked(false)
				poke(t.some)
			}
		case lineedit.Clear:
			t.clear = true
		case lineedit.Bell:
			t.bell = true
		}
		t.mu.Unlock()
		if after != nil {
			after()
		}
	}
	poke(t.draw)
}

// hurry drops what a slow terminal has not shown yet: who presses CTRL+C does not
// want to see it.
func (t *terminal) hurry() {
	t.screen.Discard(func() (int, bool) { return t.outlet.discard(outletAhead) })
}

// enterLocked takes the line that was entered; what it returns is to be called
// without mu.
func (t *terminal) enterLocked(line string) func() {
	if len(t.queue) >= maxLines || t.bytes+len(line) > maxAhead {
		t.bell = true
		return nil
	}
	if t.asking {
		t.askLocked(false)
		// Keys that follow at once may go through the history.
		t.putLocked(entered{text: line, kept: t.commands && t.ed.History.Add(line)})
		t.entering = true
		return t.keys.change
	}
	return func() {
		if t.keys.line(line) {
			return
		}
		t.mu.Lock()
		t.putLocked(entered{text: line, looked: true})
		t.mu.Unlock()
		t.keys.change()
	}
}

func (t *terminal) putLocked(e entered) {
	t.queue = append(t.queue, e)
	t.bytes += len(e.text)
	poke(t.some)
}

func (t *terminal) takeLocked() entered {
	e := t.queue[0]
	t.queue = t.queue[1:]
	t.bytes -= len(e.text)
	t.entering = false
	return e
}

func (t *terminal) askLocked(on bool) {
	t.asking = on
	t.ed.Pass = kdKeys
	if on {
		t.ed.Pass = promptKeys
	}
}

func (t *terminal) ended() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.eof && len(t.queue) == 0
}

func (t *terminal) first() (string, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.queue) == 0 || t.queue[0].end {
		return "", false
	}
	return t.queue[0].text, true
}

// commandsNext says whether what next asks for from now on are commands.
func (t *terminal) commandsNext(on bool) {
	t.mu.Lock()
	t.commands = on
	t.mu.Unlock()
}

func (t *terminal) next(ctx context.Context, prompt string) (string, error) {
	for {
		t.mu.Lock()
		if t.wanted != 0 && t.wanted != t.fetched.request {
			t.mu.Unlock()
			t.completeNow()
			continue
		}
		if t.fetched.answer != nil || t.fetched.late && t.wanted != 0 {
			t.mu.Unlock()
			t.completeLater()
			continue
		}
		if len(t.queue) > 0 {
			t.mu.Unlock()
			line, err, aside := t.commit(prompt)
			if aside {
				continue
			}
			return line, err
		}
		if t.eof {
			t.askLocked(false)
			t.mu.Unlock()
			return "", io.EOF
		}
		t.prompt = prompt
		t.askLocked(true)
		t.mu.Unlock()
		t.screen.Refresh()
		select {
		case <-t.some:
		case <-ctx.Done():
			t.mu.Lock()
			t.askLocked(false)
			t.entering, t.wanted, t.menu, t.fetched = false, 0, nil, fetched{}
			t.mu.Unlock()
			t.release()
			t.screen.Refresh()
			return "", ctx.Err()
		}
	}
}

// commit makes the first line that waits part of the output, behind its prompt.
// aside says that nothing is left to do for it.
func (t *terminal) commit(prompt string) (line string, err error, aside bool) {
	var e entered
	var keep *lineedit.File
	t.screen.Commit(func() lineedit.View {
		t.mu.Lock()
		defer t.mu.Unlock()
		e = t.takeLocked()
		if e.kept || t.commands && !e.end && t.ed.History.Add(e.text) {
			keep = t.file
		}
		return lineedit.View{Prompt: lineedit.Span{Text: prompt, SGR: t.theme.prompt}, Text: e.text}
	})
	if e.end {
		return "", io.EOF, false
	}
	if err := keep.Add(e.text); err != nil {
		// A full disk or a folder that was taken away is no reason to bother anybody
		// at each line.
		t.mu.Lock()
		t.file = nil
		t.mu.Unlock()
	}
	return e.text, nil, !e.looked && t.keys.line(e.text)
}

// completeNow completes what stands before the cursor and then takes the keys
// that waited for it. It runs where next does. What comes from far away comes
// later.
func (t *terminal) completeNow() {
	t.mu.Lock()
	request, line, cursor := t.wanted, t.ed.Text(), t.ed.Cursor()
	if t.fetch != nil {
		t.fetched = fetched{request: request, line: line, cursor: cursor}
		t.mu.Unlock()
		t.fetch(line, cursor, func(c completion) { t.fetchedIs(request, func(f *fetched) { f.answer = &c }) })
		time.AfterFunc(holdKeys, func() { t.fetchedIs(request, func(f *fetched) { f.late = true }) })
		return
	}
	t.mu.Unlock()
	c := t.complete(line, cursor)
	width, _ := t.size()
	t.mu.Lock()
	if t.wanted != request { // given up
		t.mu.Unlock()
		return
	}
	t.wanted = 0
	t.completedLocked(c, width)
	t.mu.Unlock()
	t.release()
	poke(t.draw)
}

// completedLocked puts what was found into the line, or below it.
func (t *terminal) completedLocked(c completion, width int) {
	if line := t.ed.Text(); c.Insert != line[c.From:c.To] {
		t.ed.Replace(c.From, c.To, c.Insert)
	} else if len(c.Candidates) < 2 && !c.Incomplete && c.Note == "" {
		t.bell = true
	}
	t.menu = columns(c, width, t.theme)
}

// fetchedIs notes what has become of a request, if it is not given up.
func (t *terminal) fetchedIs(request uint64, note func(f *fetched)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.fetched.request == request {
		note(&t.fetched)
		poke(t.some)
	}
}

// completeLater takes an answer from far away, or the keys that have waited for it
// long enough. It runs where next does.
func (t *terminal) completeLater() {
	width, _ := t.size()
	t.mu.Lock()
	if f := t.fetched; f.answer != nil {
		t.fetched = fetched{}
		if t.ed.Text() == f.line && t.ed.Cursor() == f.cursor {
			t.completedLocked(*f.answer, width)
		}
	}
	t.wanted = 0
	t.mu.Unlock()
	t.release()
	poke(t.draw)
}

// release gives the keys that waited to the editor, up to the next TAB.
func (t *terminal) release() {
	for {
		t.mu.Lock()
		b := t.held
		t.held = nil
		t.holding = len(b) > 0 || t.wanted != 0
		if len(b) == 0 || t.wanted != 0 {
			t.held = b
			t.mu.Unlock()
			return
		}
		t.mu.Unlock()
		t.feed(b)
	}
}

// close gives the terminal back. What it shows last is written within
// outletPatience. The reader blocked on the keyboard ends with the process where
// the system cannot interrupt it.
func (t *terminal) close() {
	close(t.done)
	t.wg.Wait()
	t.mu.Lock()
	t.ed.Reset()
	t.askLocked(false)
	t.queue, t.entering, t.status, t.menu = nil, false, "", nil
	t.mu.Unlock()
	t.screen.End()
	t.screen.Raw("\x1b[?2004l")
	t.outlet.close(outletPatience, nil)
	_ = term.Restore(descriptor(t.in), t.state)
	t.undo()
	if interruptRead(t.in) {
		bounded(t.gone)
	}
}
