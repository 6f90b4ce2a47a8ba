package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/term"

	"openkd/command"
	"openkd/engine"
	"openkd/sharing"
	"openkd/target"
)

// Exit codes of Run.
const (
	ExitOK      = 0 // left as asked
	ExitUsage   = 1 // for the program around: a bad command line
	ExitCommand = 2 // a command failed; without a terminal, or of -c and -cf
	ExitLost    = 3 // the target or the link was lost
	ExitConnect = 4 // no target was ever met
)

// Options of Run.
type Options struct {
	In       io.Reader // nil: no input
	Out, Err io.Writer
	Session  *command.Session
	Engine   *engine.Engine

	Commands   []string // run at the first prompt, in order (-c)
	ScriptFile string   // run before them (-cf)

	JSON     bool     // events and results as JSON lines, see JSON.md
	NoIO     bool     // neither input nor output here
	Terminal Terminal // how a terminal is used
	Noisy    bool     // tell every module that is loaded or unloaded (-n)
	Verbose  bool     // tell every stage on the way to the target (-v)

	// Versions is what CTRL+W shows.
	Versions string
	// Trace turns the packet trace on or off (CTRL+D); nil: there is none.
	Trace func(on bool)
	// EndWait is how long a last command that lets the target go waits for a
	// stop when the input has ended; 0 means 3 seconds.
	EndWait time.Duration
	// Signals brings interrupts. nil: Run takes the process's own (CTRL+C).
	Signals <-chan os.Signal

	backlog int // what may wait for a stalled console, bytes; 0: outletLimit
}

// Run is a whole session: it pumps the engine's events, serves the person or
// the script until they leave or the input ends, ends the session with the
// target, and returns the exit code. It must be the only one to call the
// engine's Run. When ctx ends it leaves, with the target running.
//
// The end of the input means q: breakpoints are removed and the target runs.
// What is still to be done (lines, -c, the rest of the line that waits for a
// stop, commands of breakpoints) is done first. A last `g` with nothing behind
// it waits Options.EndWait for a stop, so that a step is shown and a script
// that only lets the target go ends.
func Run(ctx context.Context, opt Options) int {
	if opt.Out == nil || opt.NoIO {
		opt.Out = io.Discard
	}
	if opt.Err == nil {
		opt.Err = io.Discard
	}
	if opt.NoIO {
		opt.In = nil
	}
	opt.Err = Visible(opt.Err)
	k := &console{opt: opt, s: opt.Session, e: opt.Engine, changed: make(chan struct{}, 1), outside: ctx.Done()}
	k.ctx, k.stop = context.WithCancel(ctx)
	defer k.stop()
	if k.stays() {
		k.opt.In = never()
	}
	return k.main()
}

type console struct {
	opt  Options
	s    *command.Session
	e    *engine.Engine
	ctx  context.Context
	stop context.CancelFunc
	src  source
	tty  bool
	term *terminal // with an editor; nil: none
	text *styled   // on it
	js   *jsonOut
	wg   sync.WaitGroup

	outside <-chan struct{} // closed when the context given to Run ends
	out     *outlet         // to Options.Out
	shared  bool            // the session was shared when it ended
	awake   chan struct{}   // what had no room there for a while has it again
	local   io.Writer       // what this console shows, see share.go
	actor   sharing.Person  // who runs the command; the owner's

	// drawing is held while a prompt is shown or others' words take its place.
	// Before mu.
	drawing sync.Mutex
	changed chan struct{} // something that the owner looks at while it waits

	mu      sync.Mutex
	cancel  context.CancelFunc // of the command or wait of the owner
	struck  bool               // CTRL+C came while the target stood, since the last line was taken
	busy    bool               // a command runs (not just a wait)
	prompt  *target.Event      // the target asks
	unask   context.CancelFunc // ends the wait for what it asks; nil: none yet
	leave   bool               // CTRL+B
	asking  bool               // the owner waits at a prompt
	asked   int                // break-ins since the last stop
	cycle   int                // CTRL+K
	met     bool               // a target was met
	lost    bool
	gone    bool // the session is closed
	hinted  bool // no target was met in the time that a hint allows
	trace   bool
	greeted bool         // the banner was shown; of the goroutine of render
	stage   target.Stage // the last one told
	noticed time.Time    // when the last notice came

	waits jsonWaits // of -json

	farewell string // what those are told who share the session
	stands   bool   // a prompt is shown, see drawPrompt
	again    func()

	failed  atomic.Bool // a command failed
	pending []string    // -cf and -c, not run yet
}

func (k *console) main() int {
	endOutput := k.openOutput()
	k.awake = make(chan struct{}, 1)
	hooks := keys{key: k.key, line: k.arrives(k.early), change: k.poke}
	if k.opt.JSON {
		k.js = newJSON(paced{k.out, k.pace})
		hooks = keys{key: func(byte) bool { return true }, line: k.arrives(k.js.early(k)), change: k.poke}
	}
	if !k.opt.JSON {
		if t := openTerminal(k.opt.In, k.opt.Out, k.out, k.opt.Err, k.opt.Terminal, hooks); t != nil {
			t.complete = k.s.Complete
			k.src, k.tty, k.term, k.text = t, true, t, t.styled(k.where)
		}
	}
	if k.src == nil {
		var o io.Writer = k.out
		if k.js != nil {
			o = k.js.text()
		} else {
			k.out.woke = func() { poke(k.awake) }
			k.wg.Go(k.promptAgain)
		}
		k.src = newPlain(k.opt.In, o, hooks)
	}
	k.src.start()
	text := k.src.output()
	undo := func() {}
	if k.term != nil {
		text = k.text
		if v, ok := k.opt.Err.(*visible); ok {
			undo = v.redirect(text) // what else is told on this terminal
		}
	} else if out, ok := k.opt.Out.(*os.File); ok && k.js == nil && term.IsTerminal(descriptor(out)) {
		text = &visible{w: text}
	}
	if k.js == nil {
		text = paced{text, k.pace}
	}
	k.s.SetOutput(k.share(text))
	if k.s.Input == nil && !k.opt.JSON {
		k.s.Input = k.input
	}
	if k.term != nil && k.s.Clear == nil {
		k.s.Clear = k.term.screen.Clear
	}
	if k.term != nil && k.s.Progress == nil {
		k.s.Progress = k.term.setStatus
	}
	defer func() {
		k.src.close()
		undo()
		endOutput()
	}()

	if k.opt.ScriptFile != "" {
		k.pending = append(k.pending, "$<"+k.opt.ScriptFile)
	}
	k.pending = append(k.pending, k.opt.Commands...)

	k.e.SetSink(k)
	k.wg.Go(func() {
		if err := k.e.Run(k.ctx); err != nil && k.ctx.Err() == nil {
			fmt.Fprintf(k.opt.Err, "The session with the target ended: %v\n", err)
		}
		k.mu.Lock()
		k.gone = true
		k.mu.Unlock()
		k.poke()
	})
	k.signals()
	k.wg.Go(k.hints)
	if err := k.e.SendConfig(k.ctx); err != nil && k.ctx.Err() == nil {
		k.say("The wishes for this session could not be sent to the target: %v\n", err)
	}

	code := k.owner()

	k.stop()
	k.s.CloseCompletion()
	k.wg.Wait()
	k.waits.stop()
	k.endShare()
	if err := k.s.CloseLog(); err != nil {
		fmt.Fprintf(k.opt.Err, "%v\n", err)
	}
	if k.js != nil {
		k.js.put(map[string]any{"type": "exit", "code": code})
	}
	return code
}

// say shows a line of the console itself.
func (k *console) say(format string, args ...any) {
	if k.js != nil {
		text := fmt.Sprintf(format, args...)
		k.s.PrintBy("", func() {
			k.js.event("notice", time.Now(), map[string]any{"text": strings.TrimRight(text, "\n")})
			if k.s.Share != nil {
				k.s.Share.Append(sharing.Entry{Kind: sharing.EntryNotice, Text: text})
			}
		})
		return
	}
	k.s.Print(fmt.Sprintf(format, args...))
}

func (k *console) poke() {
	poke(k.changed)
	k.mu.Lock()
	defer k.mu.Unlock()
	// What waits when the session is over, or at a prompt of a target that does
	// not stand any more, is let go.
	if k.cancel != nil && (k.leave || k.gone || k.asking && (k.lost || !k.e.Halted())) {
		k.cancel()
	}
}

// finishedLocked says that the input has ended and that the command which runs
// only waits for the target, with nothing to do at the next stop.
func (k *console) finishedLocked() bool {
	if k.tty || !k.src.ended() || len(k.pending) > 0 || !k.s.Last() || k.e.Halted() {
		return false
	}
	for _, b := range k.e.Breakpoints().List() {
		if b.Enabled && strings.TrimSpace(b.Command) != "" {
			return false
		}
	}
	return true
}

// begin makes the context of a command or a wait.
func (k *console) begin(busy bool) (context.Context, func()) {
	ctx, cancel := context.WithCancel(k.ctx)
	k.mu.Lock()
	k.cancel, k.busy = cancel, busy
	k.mu.Unlock()
	return ctx, func() {
		cancel()
		k.mu.Lock()
		k.cancel, k.busy = nil, false
		k.mu.Unlock()
	}
}

// owner is the loop that runs commands. It returns the exit code.
func (k *console) owner() int {
	first := true
	for {
		if code, over := k.over(); over {
			return code
		}
		if k.promptOpen() {
			k.answer()
			continue
		}
		for k.isLost() && k.e.Halted() && k.ctx.Err() == nil {
			time.Sleep(time.Millisecond) // the engine is about to note the loss that it has just told
		}
		if first || !k.e.Halted() {
			// Nothing left to run and nobody to type: leave.
			if k.src.ended() && len(k.pending) == 0 {
				return k.quit(target.LeaveRunning)
			}
			if k.wait() {
				first = false
			}
			continue
		}
		line, id, err := k.line()
		if err != nil && k.s.Share != nil {
			k.s.Share.SetPrompt("", k.state(), 0)
		}
		switch {
		case errors.Is(err, io.EOF):
			if k.js == nil && k.term == nil {
				k.say("\n") // what follows begins a line of its own
			}
			return k.quit(target.LeaveRunning)
		case err != nil:
			continue // the state changed; look again
		}
		if q := k.run(line, id); q != nil {
			k.leaves(line)
			return k.quit(q.Leave)
		}
	}
}

func (k *console) isLost() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.lost
}

// over reports what ends the session from outside.
func (k *console) over() (int, bool) {
	k.mu.Lock()
	leave, gone, met := k.leave, k.gone, k.met
	k.mu.Unlock()
	gone = gone || k.e.IsClosed()
	switch {
	case k.ctx.Err() != nil:
		return k.quit(target.LeaveRunning), true
	case gone && !met:
		return ExitConnect, true
	case gone:
		return ExitLost, true
	case leave:
		return k.quit(target.LeaveRunning), true
	}
	return 0, false
}

// wait waits for a stop and shows it; true when there was one.
func (k *console) wait() bool {
	k.s.ClearInterrupt()
	ctx, end := k.begin(false)
	defer end()
	done := make(chan struct{})
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case <-k.changed:
				k.mu.Lock()
				k.leave = k.leave || k.leavesLocked()
				look := k.prompt != nil || k.leave || k.gone || k.src.ended() && len(k.pending) == 0
				cancel := k.cancel
				k.mu.Unlock()
				if look && cancel != nil {
					cancel()
				}
			case <-done:
				return
			}
		}
	})
	poke(k.changed) // what changed before
	err := k.s.WaitStop(ctx)
	close(done)
	watch.Wait()
	k.note(err)
	k.mu.Lock()
	k.asked = 0
	k.mu.Unlock()
	return err == nil || k.e.Halted() && ctx.Err() == nil
}

// note remembers that something failed that the person did not end himself.
func (k *console) note(err error) {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, command.ErrQuit) {
		return
	}
	k.failed.Store(true)
}

// line is the next command line: of -cf and -c first.
func (k *console) line() (l sharing.Line, id any, err error) {
	prompt := k.prompting()
	if len(k.pending) > 0 {
		k.mu.Lock()
		l.Text, k.pending = k.pending[0], k.pending[1:]
		k.struck = false
		k.mu.Unlock()
		k.waits.cameCommand()
		k.s.PrintBy(prompt+sharing.Masked(l.Text)+"\n", func() {
			k.typed(l.Text, prompt)
			if k.js == nil {
				k.showLine(prompt, l.Text)
			}
		})
		return l, nil, nil
	}
	ctx, end := k.begin(false)
	defer end()
	k.mu.Lock()
	k.asking = true
	k.mu.Unlock()
	defer func() {
		k.mu.Lock()
		k.asking = false
		k.mu.Unlock()
	}()
	k.poke() // what changed before
	if k.term != nil {
		k.term.commandsNext(true)
	}
	l, id, err = k.take(ctx, k.prompting, "halted")
	prompt = k.s.Prompt() // who holds the keyboard is no part of what was typed
	if k.term != nil {
		k.term.commandsNext(false)
	}
	switch {
	case err != nil:
	case !l.Local():
		k.echo(l, prompt)
	case k.js != nil:
		k.typed(l.Text, prompt)
	default:
		k.s.PrintBy(prompt+sharing.Masked(l.Text)+"\n", func() { k.typed(l.Text, prompt) })
	}
	return l, id, err
}

// showLine shows a line that nobody types here, as if somebody did.
func (k *console) showLine(prompt, line string) {
	if k.text == nil {
		io.WriteString(k.local, prompt+line+"\n")
		return
	}
	k.text.typed(prompt, line)
}

// run runs one line; it returns what ends the session.
func (k *console) run(l sharing.Line, id any) *command.Quit {
	ctx, end := k.begin(true)
	k.mu.Lock()
	if k.struck {
		k.cancel() // CTRL+C came between the line and its beginning
	}
	k.mu.Unlock()
	call, _ := id.(*apiCall)
	if call != nil {
		id = call.id
	}
	if k.js != nil {
		k.js.call = call
		k.js.start(id)
	}
	k.actor, k.s.Actor = l.Person, l.Person
	stop := k.e.LastStop()
	stopWatch, stopPrompts := k.watchEnd(), k.watchPrompts()
	err := k.held(l)
	if err != nil {
		// Shown already.
	} else if call != nil {
		call.data, err = k.s.Invoke(ctx, call.name, call.args)
	} else {
		err = k.s.Execute(ctx, l.Text)
	}
	stopPrompts()
	stopWatch()
	end()
	k.mu.Lock()
	k.asked = 0
	k.mu.Unlock()
	var q *command.Quit
	quit := errors.As(err, &q)
	switch {
	case quit:
	case errors.Is(err, target.ErrClosed):
		// over tells
	case errors.Is(err, context.Canceled):
		if k.ctx.Err() == nil && k.js == nil && k.e.Halted() {
			k.say("Command cancelled.\n")
		}
	default:
		if l.Local() {
			k.note(err)
		}
	}
	if k.js != nil {
		k.s.PrintBy("", func() { // here as in the log: nothing comes between
			k.js.result(k, id, l, err, stop)
			k.ended(l, err, stop)
		})
	} else {
		k.ended(l, err, stop)
	}
	if l.Local() {
		k.waits.ended()
	}
	if quit {
		return q
	}
	return nil
}

// watchEnd ends a command that waits for the target when nothing else will ever
// be typed. It must be told when the command is over.
func (k *console) watchEnd() (stop func()) {
	if k.tty {
		return func() {}
	}
	patience := k.opt.EndWait
	if patience <= 0 {
		patience = 3 * time.Second
	}
	done := make(chan struct{})
	var w sync.WaitGroup
	w.Go(func() {
		look := time.NewTicker(min(patience, 100*time.Millisecond))
		defer look.Stop()
		var since time.Time
		for {
			select {
			case <-look.C:
			case <-done:
				return
			}
			k.mu.Lock()
			finished, cancel := k.finishedLocked(), k.cancel
			k.mu.Unlock()
			switch now := time.Now(); {
			case !finished:
				since = time.Time{}
			case since.IsZero():
				since = now
			case now.Sub(since) >= patience && cancel != nil:
				cancel()
				return
			}
		}
	})
	return func() { close(done); w.Wait() }
}

// quit ends the session with the target.
func (k *console) quit(l target.Leave) int {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(k.ctx), 10*time.Second)
	defer cancel()
	code := ExitOK
	k.mu.Lock()
	lost, met := k.lost, k.met
	k.mu.Unlock()
	if err := k.e.Leave(ctx, l); err != nil && !errors.Is(err, target.ErrClosed) {
		fmt.Fprintf(k.opt.Err, "The target could not be left in order: %v\n", err)
		if met {
			code = ExitLost
		}
	}
	switch {
	case code != ExitOK:
	case lost && !k.tty:
		code = ExitLost
	case k.failed.Load() && !k.tty:
		code = ExitCommand
	case !met && !k.tty:
		code = ExitConnect
	}
	return code
}

// hintAfter is how long a stage lasts before a person is told what usually
// holds it up.
const hintAfter = 6 * time.Second

var hints = map[target.Stage]string{
	target.StageNone:          "Nothing was heard of the connection server yet. Is it started, and are its name and port right?",
	target.StageServerReached: "The connection server was reached and has not accepted the password yet.",
	target.StageAuthenticated: "The connection server has not opened the line yet.",
	target.StageOpening:       "The line is not open yet. A pipe or socket comes with the virtual machine: is it started?",
	target.StageOpened:        "Nothing was heard on the line yet. Is the target on, booted with debugging on, and set to this port and speed? A target that runs quietly answers a break-in (CTRL+C).",
	target.StageBytes:         "Bytes arrive, but no packets. The speed of the line may be wrong, or the target writes its boot log there.",
	target.StagePackets:       "Packets arrive, but the numbering is not agreed yet. Another debugger may hold the line; CTRL+R resynchronises.",
	target.StageSynchronised:  "The link is up and the target runs. It says what it is when it stops: CTRL+C breaks in.",
}

// names of the keys for `.key`, by letter and by what they do.
var keyNames = map[string]byte{
	"a": 0x01, "speed": 0x01, "b": 0x02, "leave": 0x02, "c": 0x03, "interrupt": 0x03, "d": 0x04, "trace": 0x04,
	"f": 0x06, "break": 0x06, "k": 0x0b, "cycle": 0x0b, "r": 0x12, "resync": 0x12, "v": 0x16, "verbose": 0x16, "w": 0x17, "versions": 0x17,
}

// early serves lines that do not wait for the owner: .key, and .breakin while
// the target runs.
func (k *console) early(line string) bool {
	f := strings.Fields(line)
	if len(f) == 0 {
		return false
	}
	if k.earlyShare(line) {
		return true
	}
	switch strings.ToLower(f[0]) {
	case ".key":
		if len(f) == 2 {
			if b, ok := keyNames[strings.ToLower(f[1])]; ok {
				return k.key(b)
			}
		}
		k.say("Usage: .key {a|b|c|d|f|k|r|v|w}, or by name: .key {speed|leave|interrupt|trace|break|cycle|resync|verbose|versions}\n")
		return true
	case ".breakin":
		if len(f) == 1 && !k.e.Halted() {
			k.breakIn()
			return true
		}
	}
	return false
}

// leavesLocked says that the next line only ends the session and that there is
// no target which it could wait for. Scripts give a machine the time that it
// takes until a hint is due.
func (k *console) leavesLocked() bool {
	if k.js != nil || len(k.pending) > 0 || !k.lost && (k.met || !k.tty && !k.hinted) || k.e.Halted() {
		return false
	}
	line, ok := k.src.first()
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "q", "qq", "qd":
		return ok
	}
	return false
}
