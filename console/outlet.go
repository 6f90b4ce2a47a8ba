package console

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"openkd/command"
)

// Bounds of an outlet, in bytes.
const (
	outletLimit = 4 << 20  // what waits for a terminal; what comes then is left out
	outletAhead = 64 << 10 // what waits while nobody else is kept waiting
	outletPiece = 32 << 10 // of one write
)

// outletPatience is how long the end waits for a terminal that takes nothing.
const outletPatience = 2 * time.Second

// outlet is the way to a terminal, a pipe or a file, any of which may take nothing
// for a while: a window in which somebody selects text, CTRL+S, a pipe that nobody
// reads, a line that is far away. Its Write never waits. What is written waits in
// a bounded queue for a goroutine that writes it; where that is full, text is left
// out until all that waits has been taken, and a note stands in its place. Who
// may wait (for nobody else is kept from anything) calls wait before he writes:
// then nothing is ever left out.
//
// Concurrency: all methods from any goroutine.
type outlet struct {
	w     io.Writer
	limit int
	note  func(lines int) string // stands for what was left out by Write; with its end of line
	woke  func()                 // after a time without room all is taken; may be nil. It must not wait

	some chan struct{} // there is something to write, or the end
	gone chan struct{} // the goroutine has ended

	mu      sync.Mutex
	queue   []byte
	base    []byte        // a small queue, to be used again
	pending int           // bytes not taken yet: of queue, and what is being written
	full    bool          // no room until all is taken
	skipped bool          // something was left out by Write ...
	lines   int           // ... with so many ends of lines
	within  bool          // what was queued last ends within a line
	taken   chan struct{} // closed when something was taken
	waits   int           // who waits for that
	closed  bool
	err     error // of w: nothing can be written any more
}

func newOutlet(w io.Writer, note func(lines int) string) *outlet {
	o := &outlet{w: w, limit: outletLimit, note: note, some: make(chan struct{}, 1), gone: make(chan struct{}), taken: make(chan struct{})}
	go o.run()
	return o
}

// leftOut is what stands in the place of lines that a terminal had no room for.
func leftOut(lines int) string {
	what := "1 line was"
	switch {
	case lines == 0:
		what = "Something was"
	case lines > 1:
		what = thousands(lines) + " lines were"
	}
	return fmt.Sprintf("[%s left out here: this terminal took nothing meanwhile. A log (.logopen) has all.]\n", what)
}

// Write implements io.Writer. It never waits. An error is that of the last write.
func (o *outlet) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.err != nil:
		return 0, o.err
	case o.closed, len(b) == 0:
		return len(b), nil
	}
	if !o.roomLocked() {
		o.skipped = true
		o.lines += strings.Count(string(b), "\n")
		return len(b), nil
	}
	o.putLocked(b)
	return len(b), nil
}

func (o *outlet) putLocked(b []byte) {
	fresh := len(o.queue) == 0
	o.queue = append(o.queue, b...)
	if fresh && cap(o.queue) <= 4*outletPiece {
		o.base = o.queue[:0]
	}
	o.pending += len(b)
	o.within = b[len(b)-1] != '\n'
	poke(o.some)
}

func (o *outlet) roomLocked() bool {
	if o.pending >= o.limit {
		o.full = true
	}
	return !o.full
}

// Room implements lineedit.Outlet: it says whether what is written now will be
// shown. If not, woke is called when there is room.
func (o *outlet) Room() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err == nil && !o.closed && o.roomLocked()
}

// Put implements lineedit.Outlet: it writes, room or not.
func (o *outlet) Put(b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err == nil && !o.closed && len(b) > 0 && o.pending < 2*o.limit {
		o.putLocked(b)
	}
}

// wait waits until at most so many bytes are on their way, or must says that it
// is not to wait (any more), or over is closed, or the end.
func (o *outlet) wait(most int, over <-chan struct{}, must func() bool) {
	var t *time.Ticker
	for {
		o.mu.Lock()
		if o.pending <= most || o.closed || o.err != nil {
			o.mu.Unlock()
			break
		}
		taken := o.taken
		o.waits++
		o.mu.Unlock()
		more := must == nil || must()
		if more && t == nil {
			t = time.NewTicker(200 * time.Millisecond)
		}
		if more {
			select {
			case <-taken:
			case <-over:
				more = false
			case <-t.C: // must may say something else now
			}
		}
		o.mu.Lock()
		o.waits--
		o.mu.Unlock()
		if !more {
			break
		}
	}
	if t != nil {
		t.Stop()
	}
}

// run writes, in pieces.
func (o *outlet) run() {
	defer close(o.gone)
	piece := make([]byte, outletPiece)
	for {
		o.mu.Lock()
		woke := o.full && o.pending == 0
		if woke {
			o.full = false
			if o.skipped {
				note := o.note(o.lines)
				if o.within {
					note = "\n" + note
				}
				o.skipped, o.lines = false, 0
				o.putLocked([]byte(note))
			}
		}
		n := copy(piece, o.queue)
		if o.queue = o.queue[n:]; len(o.queue) == 0 {
			o.queue = o.base[:0]
		}
		over := o.closed && n == 0
		o.mu.Unlock()
		if woke && o.woke != nil {
			o.woke()
		}
		switch {
		case n > 0:
			if !o.write(piece[:n]) {
				return
			}
		case over:
			return
		case !woke:
			<-o.some
		}
	}
}

// write writes a piece; false: there is no more use in that.
func (o *outlet) write(b []byte) bool {
	n, err := o.w.Write(b)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pending -= len(b)
	if err == nil {
		err = o.err // given up
	}
	if err != nil {
		o.err, o.pending, o.queue = err, 0, nil
	}
	if o.waits > 0 {
		close(o.taken)
		o.taken = make(chan struct{})
	}
	return err == nil
}

// discard drops what waits and is not being written yet, if it is more than least
// bytes; it returns how many ends of lines that had.
func (o *outlet) discard(least int) (lines int, dropped bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) <= least {
		return 0, false
	}
	lines = strings.Count(string(o.queue), "\n")
	o.pending -= len(o.queue)
	o.queue = o.base[:0]
	return lines, true
}

// close ends the outlet when all is taken, or the time has passed or over is closed and
// outletPatience with it. within 0: it waits as long as it takes.
func (o *outlet) close(within time.Duration, over <-chan struct{}) {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	poke(o.some)
	var late <-chan time.Time
	if within > 0 {
		t := time.NewTimer(within)
		defer t.Stop()
		late = t.C
		over = nil
	}
	for {
		select {
		case <-o.gone:
			return
		case <-over:
			over = nil
			t := time.NewTimer(outletPatience)
			defer t.Stop()
			late = t.C
			continue
		case <-late:
		}
		break
	}
	// What is left is given up. A write that the system cannot interrupt ends with
	// the process.
	o.mu.Lock()
	o.queue, o.pending, o.err = nil, 0, errors.New("the output took nothing at the end")
	o.mu.Unlock()
	poke(o.some)
	if f, ok := o.w.(*os.File); ok && f.SetWriteDeadline(time.Unix(1, 0)) == nil {
		bounded(o.gone)
		_ = f.SetWriteDeadline(time.Time{})
	}
}

// paced is the way of what a session shows on its own console. Its writers wait
// for a console that is slow as long as nobody else is in the session.
type paced struct {
	w    io.Writer
	wait func()
}

func (p paced) Write(b []byte) (int, error) {
	p.wait()
	return p.w.Write(b)
}

// WriteStyled implements command.StyledWriter.
func (p paced) WriteStyled(st command.Style, b []byte) (int, error) {
	p.wait()
	command.WriteStyled(p.w, st, string(b))
	return len(b), nil
}

// outlets opens the ways to an output and to what is told beside it, which may be
// the same. errs is what the latter is written to from now on. end closes them: it
// waits until all is taken, but not longer than patience() (0: for ever), nor
// longer than outletPatience when over is closed.
func outlets(out, beside io.Writer, note func(lines int) string, over <-chan struct{}, patience func() time.Duration) (o *outlet, errs io.Writer, end func()) {
	o = newOutlet(out, note)
	e := o
	v, seen := beside.(*visible)
	under := beside
	if seen {
		under = v.under()
	}
	if !sameFile(out, under) {
		e = newOutlet(under, leftOut)
	}
	undo := func() {}
	if errs = e; seen {
		undo, errs = v.redirect(e), v
	}
	return o, errs, func() {
		undo()
		o.close(patience(), over)
		if e != o {
			e.close(patience(), over)
		}
	}
}

// openOutput opens the way to the console's own output; it returns what ends it.
func (k *console) openOutput() (end func()) {
	note := leftOut
	if k.opt.JSON {
		note = leftOutJSON
	}
	file, ok := k.opt.Out.(*os.File)
	terminal := ok && term.IsTerminal(descriptor(file))
	k.out, k.opt.Err, end = outlets(k.opt.Out, k.opt.Err, note, k.outside, func() time.Duration {
		if terminal || k.shared {
			return outletPatience
		}
		return 0
	})
	if k.opt.backlog > 0 {
		k.out.limit = k.opt.backlog
	}
	return end
}

// pace has who shows something wait for a console that is slow, if that keeps
// nobody else from anything.
func (k *console) pace() { k.out.wait(outletAhead, k.ctx.Done(), k.alone) }

// alone says that nobody shares the session, nor can.
func (k *console) alone() bool { return k.s.Share == nil || !k.s.Share.Shared() }

// leftOutJSON is leftOut for programs.
func leftOutJSON(lines int) string {
	return fmt.Sprintf("{\"type\":\"event\",\"event\":\"leftout\",\"time\":%q,\"lines\":%d}\n", time.Now().UTC().Format(time.RFC3339Nano), lines)
}

// sameFile says that two writers end in the same place.
func sameFile(a, b io.Writer) bool {
	x, ok := a.(*os.File)
	y, ok2 := b.(*os.File)
	if ok && ok2 {
		s, err := x.Stat()
		t, err2 := y.Stat()
		return err == nil && err2 == nil && os.SameFile(s, t)
	}
	if ok || ok2 {
		return false
	}
	return a != nil && b != nil && reflect.TypeOf(a).Comparable() && reflect.TypeOf(b).Comparable() && a == b
}
