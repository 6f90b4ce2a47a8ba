package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"openkd/command"
	"openkd/sharing"
)

// RemoteOptions of RunRemote.
type RemoteOptions struct {
	In       io.Reader // nil: no input
	Out, Err io.Writer
	// Join joins the session. ctx ends when the person breaks the attempt off.
	Join func(ctx context.Context, v sharing.Viewer) (*sharing.Client, error)

	Commands []string // for the server, at the first prompt (-c)
	Break    bool     // break in at once (-bonc)
	JSON     bool     // see JSON.md
	Terminal Terminal // how a terminal is used
	// EndWait and Signals are as in Options.
	EndWait time.Duration
	Signals <-chan os.Signal

	backlog int // what may wait for a stalled terminal, bytes; 0: maxBacklog
}

// RunRemote is a whole visit to a session that somebody else shares: it shows
// it, sends what is typed, and leaves when the person does, when the input
// ends, or when ctx does. Leaving changes nothing for the session. err is why
// the session could not be joined; otherwise the exit code is the result.
func RunRemote(ctx context.Context, opt RemoteOptions) (code int, err error) {
	if opt.Out == nil {
		opt.Out = io.Discard
	}
	if opt.Err == nil {
		opt.Err = io.Discard
	}
	opt.Err = Visible(opt.Err)
	if opt.EndWait <= 0 {
		opt.EndWait = 3 * time.Second
	}
	if opt.backlog <= 0 {
		opt.backlog = maxBacklog
	}
	r := &remote{opt: opt, changed: make(chan struct{}, 1)}
	r.ctx, r.stop = context.WithCancel(ctx)
	defer r.stop()
	file, ok := opt.Out.(*os.File)
	patience, note := time.Duration(0), leftOut
	if ok && term.IsTerminal(descriptor(file)) {
		patience = outletPatience
	}
	if opt.JSON {
		note = leftOutJSON
	}
	var end func()
	r.outlet, r.opt.Err, end = outlets(opt.Out, opt.Err, note, ctx.Done(), func() time.Duration { return patience })
	defer end()
	if opt.JSON {
		r.js = newRemoteJSON(r)
	}
	return r.main()
}

// remote is a client's console: the owner's goroutine reads lines, the client's
// shows the session.
type remote struct {
	opt  RemoteOptions
	ctx  context.Context
	stop context.CancelFunc
	c    *sharing.Client
	src  source

	outlet *outlet   // to Options.Out
	out    io.Writer // what the person sees, by way of it
	tty    bool
	term   *terminal // with an editor; nil: none
	undo   func()    // of what was redirected to it
	js     *remoteJSON
	wg     sync.WaitGroup

	changed chan struct{} // something that the owner waits for

	// drawing is held while a prompt is shown or other text takes its place.
	// Before mu.
	drawing sync.Mutex

	mu       sync.Mutex
	info     sharing.Session
	caughtUp bool   // the history is shown
	prompt   string // "": none
	state    string
	flight   uint64             // the line that was sent and has no result yet
	taken    bool               // it was taken by the server
	early    map[uint64]bool    // lines that went out beside the one in flight
	clean    bool               // nothing was shown since it was typed
	shown    bool               // a prompt stands at the end of what is shown
	stands   string             // which
	ask      context.CancelFunc // ends the reading of a line
	leave    bool
	quits    bool // the last line ends the session for everybody
	failed   bool
}

func (r *remote) main() (int, error) {
	ctx, cancel := signal.NotifyContext(r.ctx, os.Interrupt)
	if r.opt.Signals != nil {
		cancel()
		ctx, cancel = context.WithCancel(r.ctx)
	}
	var v sharing.Viewer = r
	if r.js != nil {
		v = r.js
	}
	// The terminal is taken over when somebody has answered.
	gate := &gatedViewer{v: v, open: make(chan struct{}), pace: r.pace}
	c, err := r.opt.Join(ctx, gate)
	cancel()
	if err != nil {
		return ExitConnect, err
	}
	r.c = c
	defer c.Close()
	defer gate.release()
	r.setup()
	defer func() {
		r.src.close()
		if r.undo != nil {
			r.undo()
		}
	}()
	if r.js == nil {
		s := c.Session()
		fmt.Fprintf(r.out, "Connected to %s%s. .remote_exit leaves it; it goes on without you.\n", titled(s), role(s))
		if s.Above > 0 {
			fmt.Fprintf(r.out, "%d lines of it came before those that follow.\n", s.Above)
		}
	}
	gate.release()
	r.src.start()
	r.signals()
	r.wg.Go(func() {
		select {
		case <-c.Done():
		case <-r.ctx.Done():
		}
		r.poke()
	})
	if r.opt.Break {
		r.request(sharing.OpBreakIn, "")
	}
	var code int
	if r.js != nil {
		code = r.js.owner()
	} else {
		code = r.owner()
	}
	r.stop()
	c.Leave(5 * time.Second)
	r.wg.Wait()
	if r.js != nil {
		r.js.exit(code)
	}
	return code, nil
}

// titled names a session for people.
func titled(s sharing.Session) string {
	if s.Title != "" {
		return "the session " + s.Title
	}
	return "the session of " + s.Program
}

func role(s sharing.Session) string {
	text := ""
	if s.Secure {
		text = "; it is in Secure Mode (.hh .secure says what that takes away)"
	}
	if s.ReadOnly {
		text += "; you may look, and .echo <text> is shown to all"
	}
	return text
}

// maxBacklog is how much a client's own terminal may be behind before the client
// reads no more of the session, bytes: then the server has it, up to what it keeps.
const maxBacklog = 256 << 10

// pace waits for a slow terminal. Pings and what is typed go on meanwhile; leaving
// ends the wait.
func (r *remote) pace() { r.outlet.wait(r.opt.backlog, r.ctx.Done(), nil) }

// gatedViewer holds the session back until there is something to show it on, and
// while that is slow.
type gatedViewer struct {
	v    sharing.Viewer
	pace func()
	open chan struct{}
	once sync.Once
}

func (g *gatedViewer) release() { g.once.Do(func() { close(g.open) }) }

func (g *gatedViewer) Joined(s sharing.Session) { g.v.Joined(s) }

func (g *gatedViewer) Entry(e sharing.Entry, mine uint64) {
	<-g.open
	g.pace()
	g.v.Entry(e, mine)
}

func (g *gatedViewer) Reply(id uint64, ok, done bool, text string) {
	<-g.open
	g.v.Reply(id, ok, done, text)
}

func (g *gatedViewer) Link(text string) {
	<-g.open
	g.v.Link(text)
}

// setup makes the source of lines and the way to the person.
func (r *remote) setup() {
	hooks := keys{key: r.key, line: r.earlyLine, change: r.poke}
	if r.js != nil {
		hooks = keys{key: func(byte) bool { return true }, line: func(string) bool { return false }, change: r.poke}
	}
	if r.js == nil {
		if t := openTerminal(r.opt.In, r.opt.Out, r.outlet, r.opt.Err, r.opt.Terminal, hooks); t != nil {
			r.src, r.tty, r.term, r.out = t, true, t, t.styled(nil)
			t.fetch = func(line string, cursor int, give func(completion)) {
				r.complete(line, cursor, func(c completion, _ error) { give(c) })
			}
			if v, ok := r.opt.Err.(*visible); ok {
				r.undo = v.redirect(r.out) // what else is told on this terminal
			}
			return
		}
	}
	r.src = newPlain(r.opt.In, r.outlet, hooks)
	r.out = r.src.output()
	if out, ok := r.opt.Out.(*os.File); ok && term.IsTerminal(descriptor(out)) {
		// What others type and print is shown, and does not act.
		r.out = &visible{w: r.out}
	}
}

// completionPatience is how long an answer of the server is of use.
const completionPatience = 3 * time.Second

// complete asks the server what can stand at the cursor, in one exchange. give is
// called when there is an answer, or none.
func (r *remote) complete(line string, cursor int, give func(completion, error)) {
	r.wg.Go(func() {
		ctx, cancel := context.WithTimeout(r.ctx, completionPatience)
		defer cancel()
		c, err := r.c.Complete(ctx, line, cursor)
		if err != nil {
			give(completion{From: cursor, To: cursor}, err)
			return
		}
		out := completion{From: c.From, To: c.To, Insert: c.Insert, More: c.More, Incomplete: c.Incomplete, Note: c.Note}
		for _, x := range c.Candidates {
			out.Candidates = append(out.Candidates, command.Candidate{Text: x.Text, Show: x.Text[x.Show:], Kind: command.Kind(x.Kind)})
		}
		give(out, nil)
	})
}

// harmless is a text without control characters that could act.
func harmless(text string) string {
	return string((&visible{}).clean([]byte(text)))
}

func (r *remote) poke() {
	poke(r.changed)
	select {
	case <-r.ctx.Done():
		r.mu.Lock()
		r.wakeLocked()
		r.mu.Unlock()
	default:
	}
	if c := r.c; c != nil {
		select {
		case <-c.Done():
			r.mu.Lock()
			r.wakeLocked()
			r.mu.Unlock()
		default:
		}
	}
}

// wakeLocked has the owner look again.
func (r *remote) wakeLocked() {
	if r.ask != nil {
		r.ask()
	}
	poke(r.changed)
}

func (r *remote) signals() {
	r.wg.Go(interrupts(r.ctx, r.opt.Signals, func() { r.key(0x03) }))
}

// request sends something that is not a line in its turn.
func (r *remote) request(op sharing.Op, text string) {
	r.mu.Lock() // its reply is not looked at before it is noted
	id, err := r.c.Send(op, text)
	if err == nil {
		if r.early == nil {
			r.early = make(map[uint64]bool)
		}
		r.early[id] = true
	}
	r.mu.Unlock()
	if err != nil {
		r.print(err.Error() + "\n")
	}
}

// key serves a control key of kd.
func (r *remote) key(b byte) bool {
	switch b {
	case 0x03:
		r.request(sharing.OpInterrupt, "")
	case 0x02:
		r.mu.Lock()
		r.leave = true
		r.wakeLocked()
		r.mu.Unlock()
	case 0x01, 0x04, 0x06, 0x0b, 0x12, 0x16, 0x17, 0x1c:
		r.request(sharing.OpKey, string(rune(b)))
	default:
		return false
	}
	return true
}

// earlyLine serves lines that do not wait for a prompt.
func (r *remote) earlyLine(line string) bool {
	f := strings.Fields(line)
	if len(f) == 0 {
		return false
	}
	r.mu.Lock()
	running := r.prompt == "" && r.caughtUp
	r.mu.Unlock()
	word := strings.ToLower(f[0])
	switch {
	case word == ".key":
		if len(f) == 2 {
			if b, ok := keyNames[strings.ToLower(f[1])]; ok {
				return r.key(b)
			}
		}
		r.print("Usage: .key {a|b|c|d|f|k|r|v|w}, or by name: .key {speed|leave|interrupt|trace|break|cycle|resync|verbose|versions}\n")
		return true
	case word == ".breakin" && len(f) == 1 && running:
		r.request(sharing.OpBreakIn, "")
		return true
	}
	if _, _, ok := sharing.IsWord(line); ok && running && r.tty {
		r.request(sharing.OpCommand, line)
		return true
	}
	return false
}

// print shows a text in its place among the session's.
func (r *remote) print(text string) {
	if r.js != nil {
		r.js.notice(strings.TrimRight(text, "\n"))
		return
	}
	r.drawing.Lock()
	defer r.drawing.Unlock()
	r.mu.Lock()
	r.breakLocked()
	r.mu.Unlock()
	io.WriteString(r.out, text)
}

// breakLocked ends the line with a prompt on it, where no editor does.
func (r *remote) breakLocked() {
	r.clean = false
	if r.shown && !r.tty {
		io.WriteString(r.out, "\n")
		r.shown = false
		r.wakeLocked() // shows it again
	}
}

// Joined implements sharing.Viewer.
func (r *remote) Joined(s sharing.Session) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.info = s
	r.caughtUp = false
	r.state = s.State
	r.catchUpLocked(s.Shown)
}

// catchUpLocked: when the history has been shown, the prompt is the one that
// stood at its end.
func (r *remote) catchUpLocked(seq uint64) {
	if !r.caughtUp && seq >= r.info.History {
		r.caughtUp = true
		r.state, r.prompt = r.info.State, sharing.Shown(r.info.Prompt)
		r.wakeLocked()
	}
}

// Entry implements sharing.Viewer.
func (r *remote) Entry(e sharing.Entry, mine uint64) {
	text := e.Text
	r.drawing.Lock()
	defer r.drawing.Unlock()
	r.mu.Lock()
	switch e.Kind {
	case sharing.EntryCommand:
		r.prompt = ""
		who := ""
		if e.From != 0 {
			who = "[" + sharing.Shown(e.Who) + "] "
		}
		if mine > 0 {
			who = ""
		}
		text = who + sharing.Shown(e.Prompt) + sharing.Shown(e.Text) + "\n"
		if mine > 0 && mine == r.flight && r.clean {
			text = "" // it stands there, as it was typed
		}
	case sharing.EntryResult:
		text = ""
		r.prompt, r.state = "", e.Name
		if mine > 0 && mine == r.flight {
			r.flight = 0
			r.failed = r.failed || !e.OK
		}
	case sharing.EntryPrompt:
		text = ""
		r.state = e.Name
		r.prompt = ""
		if e.From == 0 || e.From == r.info.ID {
			r.prompt = sharing.Shown(e.Prompt)
		}
		if e.Name == "input" && r.prompt != "" {
			r.flight = 0 // the command in flight asks
		}
	case sharing.EntryNotice:
		if e.Name == "joined" && e.From == r.info.ID {
			text = ""
		}
	case sharing.EntryEvent:
		switch e.Name {
		case "running", "halted", "lost", "closed":
			r.state = e.Name
		}
	}
	r.catchUpLocked(e.Seq)
	if text != "" {
		r.breakLocked()
	}
	switch {
	case r.prompt != "" && r.shown && r.prompt != r.stands: // somebody else holds the keyboard
		r.breakLocked()
		r.wakeLocked()
	case r.prompt == "" || !r.shown || r.ask == nil: // nobody reads at it
		r.wakeLocked()
	}
	r.mu.Unlock()
	if text != "" {
		io.WriteString(r.out, text)
	}
}

// Reply implements sharing.Viewer.
func (r *remote) Reply(id uint64, ok, done bool, text string) {
	r.mu.Lock()
	beside := r.early[id]
	delete(r.early, id)
	if id == r.flight {
		r.taken = true
		if done {
			r.flight = 0
			r.failed = r.failed || !ok
		}
		r.wakeLocked()
	}
	r.mu.Unlock()
	if text == "" || beside && r.opt.Break && !r.tty && strings.Contains(text, "halted already") {
		return
	}
	if !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	r.print(text)
}

// Link implements sharing.Viewer.
func (r *remote) Link(text string) { r.print(text + "\n") }

// owner reads lines and sends them, one at a time. It returns the exit code.
func (r *remote) owner() int {
	pending := r.opt.Commands
	var over time.Time // since when only a running target is waited for
	for {
		if code, done := r.over(); done {
			return code
		}
		r.mu.Lock()
		prompt, flight, ready := r.prompt, r.flight, r.caughtUp
		running := r.state != "halted" && r.state != "input"
		r.mu.Unlock()
		switch {
		case ready && prompt != "" && flight == 0 && len(pending) > 0:
			line := pending[0]
			pending = pending[1:]
			if r.send(line, false) {
				return r.code()
			}
			continue
		case ready && prompt != "" && flight == 0:
			line, err := r.read(prompt)
			if errors.Is(err, io.EOF) {
				if code, done := r.over(); done { // that was before
					return code
				}
				if !r.tty {
					r.print("")
				} else {
					r.print("\n")
				}
				return r.code()
			}
			if err == nil && r.send(line, true) {
				return r.code()
			}
			continue
		}
		// Nothing to do but wait. Without more input not forever.
		var late <-chan time.Time
		var t *time.Timer
		if !r.tty && len(pending) == 0 && r.src.ended() && running && ready {
			if over.IsZero() {
				over = time.Now()
			}
			left := r.opt.EndWait - time.Since(over)
			if left <= 0 {
				return r.code()
			}
			t = time.NewTimer(left)
			late = t.C
		} else {
			over = time.Time{}
		}
		select {
		case <-r.changed:
		case <-late:
		}
		if t != nil {
			t.Stop()
		}
	}
}

// over reports what ends the visit from outside.
func (r *remote) over() (int, bool) {
	r.mu.Lock()
	leave, quits := r.leave, r.quits
	r.mu.Unlock()
	select {
	case <-r.c.Done():
		err := r.c.Err()
		if err != nil {
			r.print(err.Error() + "\n")
		}
		var e *sharing.Ended
		if errors.As(err, &e) && (quits || r.tty) {
			return ExitOK, true
		}
		return ExitLost, true
	default:
	}
	if leave || r.ctx.Err() != nil {
		return r.code(), true
	}
	return 0, false
}

func (r *remote) code() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failed && !r.tty {
		return ExitCommand
	}
	return ExitOK
}

// drawPrompt shows a prompt, if it is the one that stands and is not shown yet,
// and notes how the reading of a line ends. p is what the source has to show.
func (r *remote) drawPrompt(prompt string, end context.CancelFunc) (p string, stands bool) {
	r.drawing.Lock()
	defer r.drawing.Unlock()
	r.mu.Lock()
	if r.prompt != prompt || r.leave {
		r.mu.Unlock()
		return "", false
	}
	shown := r.shown
	r.ask, r.shown, r.stands = end, true, prompt
	r.mu.Unlock()
	if r.tty {
		return prompt, true
	}
	if !shown {
		io.WriteString(r.out, prompt)
	}
	return "", true
}

// read reads a line at a prompt, as long as it stands.
func (r *remote) read(prompt string) (string, error) {
	ctx, cancel := context.WithCancel(r.ctx)
	defer cancel()
	p, stands := r.drawPrompt(prompt, cancel)
	if !stands {
		return "", context.Canceled
	}
	select {
	case <-r.c.Done():
		cancel()
	default:
	}
	if r.term != nil {
		r.term.commandsNext(strings.HasSuffix(prompt, "> ") && prompt != "Input> ")
	}
	line, err := r.src.next(ctx, p)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ask = nil
	if err == nil {
		r.shown = false
		r.clean = true
	}
	return line, err
}

// send sends a line; true: the client leaves. typed: it stands on the screen.
func (r *remote) send(line string, typed bool) bool {
	word, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
	leaves := strings.EqualFold(word, ".remote_exit")
	if leaves {
		if line = strings.TrimSpace(rest); line == "" {
			return true
		}
	}
	r.mu.Lock()
	id, err := r.c.Send(sharing.OpCommand, line)
	if err == nil {
		r.flight, r.taken = id, false
		r.clean = r.clean && typed
		r.quits = strings.EqualFold(word, "qq")
	}
	r.mu.Unlock()
	if err != nil {
		r.print(upperFirst(err.Error()) + "\n")
		return false
	}
	for leaves {
		// The last line is to be taken before the client goes.
		r.mu.Lock()
		done := r.taken || r.flight != id
		r.mu.Unlock()
		if _, over := r.over(); over || done {
			return true
		}
		<-r.changed
	}
	return false
}
