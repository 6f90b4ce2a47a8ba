package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"openkd/command"
	"openkd/engine"
	"openkd/sharing"
	"openkd/target"
)

// A shared session. Everything that this console shows or runs goes through the
// log of the hub too, in the order of command.Session's output; lines of others
// come out of the hub's queue. Without a hub (command.Options.Share is nil)
// none of this does anything.

// tee is where commands write while the session can be shared. Its Write is
// called under the lock of the session's output.
type tee struct {
	hub   *sharing.Hub
	local io.Writer
}

func (t tee) Write(b []byte) (int, error) {
	t.hub.Append(sharing.Entry{Kind: sharing.EntryText, Text: string(b)})
	return t.local.Write(b)
}

// WriteStyled implements command.StyledWriter.
func (t tee) WriteStyled(st command.Style, b []byte) (int, error) {
	t.hub.Append(sharing.Entry{Kind: sharing.EntryText, Text: string(b)})
	command.WriteStyled(t.local, st, string(b))
	return len(b), nil
}

// share begins to share: text is where this console's own text goes.
func (k *console) share(text io.Writer) io.Writer {
	k.local = text
	if k.s.Share == nil {
		return text
	}
	k.s.Share.Attach(k)
	return tee{k.s.Share, text}
}

// arrives wraps what looks at lines as they come: their order among those of
// others is noted.
func (k *console) arrives(early func(string) bool) func(string) bool {
	return func(line string) bool {
		if early(line) {
			return true
		}
		if k.s.Share != nil {
			k.s.Share.Local()
		}
		k.waits.cameCommand()
		return false
	}
}

// take waits for the next line, whoever types it. id is that of a JSON request.
func (k *console) take(ctx context.Context, prompting func() string, state string) (l sharing.Line, id any, err error) {
	hub := k.s.Share
	prompt := prompting()
	for {
		c, end := context.WithCancel(ctx)
		if hub != nil {
			if l, ok := hub.Take(k.holds); ok {
				l.Text = sharing.Shown(l.Text)
				end()
				k.taken()
				k.promptEnds(true)
				return l, nil, nil
			}
			if now := prompting(); now != prompt { // somebody else holds the keyboard
				prompt = now
				k.promptEnds(true)
			}
			hub.SetPrompt(prompt, state, 0)
			hub.OnArrival(end)
		}
		p := k.drawPrompt(prompt, end)
		if k.js != nil && state == "halted" {
			k.waits.resting(k, true)
			l.Text, id, err = k.js.next(c, k)
			k.waits.resting(k, false)
		} else {
			l.Text, err = k.src.next(c, p)
		}
		if err == nil {
			k.taken()
		}
		arrived := c.Err() != nil && ctx.Err() == nil
		end()
		if !arrived || err == nil {
			k.promptEnds(false)
		}
		if hub != nil {
			hub.OnArrival(nil)
			if err == nil {
				hub.TookLocal()
			}
		}
		if err != nil && arrived && !errors.Is(err, io.EOF) {
			continue
		}
		return l, id, err
	}
}

// taken notes that there is a line to run: what interrupts from now on is meant
// for it.
func (k *console) taken() {
	k.mu.Lock()
	k.struck = false
	k.mu.Unlock()
}

// Without an editor that keeps it below, a prompt that others' words come
// between is ended with a new line and shown again. The lock k.drawing keeps it
// from being shown between that new line and the words.

// drawPrompt shows a prompt, unless it stands already, and notes how to show it
// again. It returns what the source has to show of it.
func (k *console) drawPrompt(prompt string, again func()) string {
	if k.tty || k.js != nil || k.s.Share == nil {
		return prompt
	}
	k.drawing.Lock()
	defer k.drawing.Unlock()
	k.mu.Lock()
	stood := k.stands
	k.stands, k.again = true, again
	k.mu.Unlock()
	if !stood {
		io.WriteString(k.local, prompt)
	}
	return ""
}

// promptEnds notes that no prompt stands any more; others: because of what
// others say.
func (k *console) promptEnds(others bool) {
	k.drawing.Lock()
	defer k.drawing.Unlock()
	k.promptEndsLocked(others)
}

// promptEndsLocked is promptEnds of who holds k.drawing.
func (k *console) promptEndsLocked(others bool) {
	k.mu.Lock()
	stood, again := k.stands, k.again
	k.stands, k.again = false, nil
	k.mu.Unlock()
	if stood && others {
		io.WriteString(k.local, "\n")
		again()
	}
}

// promptAgain shows a prompt again that may have been left out, whenever a console
// without an editor takes something again.
func (k *console) promptAgain() {
	for {
		select {
		case <-k.awake:
		case <-k.ctx.Done():
			return
		}
		k.mu.Lock()
		stood, again := k.stands, k.again
		k.stands, k.again = false, nil
		k.mu.Unlock()
		if stood {
			again()
		}
	}
}

// prompting is the prompt, with who holds the keyboard if that is wanted.
func (k *console) prompting() string {
	if k.s.Share == nil {
		return k.s.Prompt()
	}
	return k.s.Share.PromptMark() + k.s.Prompt()
}

// held says that somebody else holds the keyboard, whatever line it is that was
// typed here; lines that change that, or that leave, are served all the same.
func (k *console) held(l sharing.Line) error {
	if k.s.Share == nil || !l.Local() {
		return nil
	}
	switch word, _, _ := strings.Cut(strings.TrimSpace(l.Text), " "); strings.ToLower(word) {
	case ".keyboard", ".kick", "q", "qq", "qd":
		return nil
	}
	why := k.s.Share.MayType(sharing.Person{})
	if why == "" {
		return nil
	}
	fmt.Fprintf(k.s.Output(), "%s\n", why)
	return errors.New(why)
}

// holds says whether a line of this console waits.
func (k *console) holds() bool {
	_, ok := k.src.first()
	return ok
}

// input asks for a line inside a command: whoever runs the command.
func (k *console) input(ctx context.Context, prompt string) (string, error) {
	hub := k.s.Share
	if hub == nil || k.actor.Local() {
		line, err := k.src.next(ctx, prompt)
		if hub != nil && err == nil {
			hub.TookLocal()
			hub.Command(sharing.Line{Text: line}, prompt)
		}
		return line, err
	}
	arrival := make(chan struct{}, 1)
	hub.OnArrival(func() { poke(arrival) })
	defer hub.OnArrival(nil)
	hub.SetPrompt(prompt, "input", k.actor.ID)
	for {
		l, ok, gone := hub.TakeFrom(k.actor.ID)
		switch {
		case ok:
			l.Text = sharing.Shown(l.Text)
			k.echo(l, prompt)
			hub.Append(sharing.Entry{Kind: sharing.EntryResult, From: l.ID, ID: l.Request, OK: true, Name: "input"})
			return l.Text, nil
		case gone:
			return "", io.EOF
		}
		select {
		case <-arrival:
		case <-ctx.Done():
			hub.SetPrompt("", k.state(), 0)
			return "", ctx.Err()
		}
	}
}

// echo shows a line that somebody else typed.
func (k *console) echo(l sharing.Line, prompt string) {
	l.Text = sharing.Masked(l.Text)
	text := "[" + l.Name + "] " + prompt + l.Text + "\n"
	k.s.PrintBy(text, func() {
		k.s.Share.Command(l, prompt)
		if k.js == nil {
			io.WriteString(k.local, text)
			return
		}
		k.js.event("command", time.Now(), map[string]any{"who": l.Name, "command": l.Text, "prompt": prompt})
	})
}

// typed tells everybody of a line that was typed here.
func (k *console) typed(text, prompt string) {
	if k.s.Share != nil {
		k.s.Share.Command(sharing.Line{Text: text}, prompt)
	}
}

// ended tells everybody how a line ended.
func (k *console) ended(l sharing.Line, err error, before *engine.Stop) {
	hub := k.s.Share
	if hub == nil {
		return
	}
	e := sharing.Entry{Kind: sharing.EntryResult, From: l.ID, Who: l.Name, ID: l.Request, Text: l.Text, OK: err == nil || errors.Is(err, command.ErrQuit), Name: k.state(), Data: k.newStop(before)}
	if e.Name == "halted" {
		e.Prompt = k.prompting()
	}
	if !e.OK {
		e.Failure, e.Message = errorKind(err), err.Error()
	}
	hub.Append(e)
}

// newStop is what a result says about the stop that its command has brought: a
// step is not taken for a run, nor a run for a step. nil: there was none.
func (k *console) newStop(before *engine.Stop) []byte {
	// A step over an int 3 is a stop of its own in the same halt: the number does
	// not tell.
	st := k.e.LastStop()
	if st == nil || st == before || !k.e.Halted() {
		return nil
	}
	b, err := json.Marshal(shortStop(st))
	if err != nil {
		return nil
	}
	return b
}

func shortStop(st *engine.Stop) map[string]any {
	return map[string]any{"number": st.Number, "reason": st.Reason.String(), "headline": st.Headline, "description": st.Description, "pc": hex64(st.PC)}
}

// tell gives an event to everybody; text is what people see of it.
func (k *console) tell(ev engine.Event, text string) {
	e := sharing.Entry{Kind: sharing.EntryEvent, Name: ev.Kind.String(), Text: text, Time: ev.Time.UnixNano()}
	if ev.Kind != target.EventPrint {
		if b, err := json.Marshal(eventFields(ev)); err == nil {
			e.Data = b
		}
	}
	k.s.PrintBy(text, func() {
		k.s.Share.Append(e)
		if k.js == nil {
			command.WriteStyled(k.local, styleOf(ev.Kind), text)
			return
		}
		k.js.send(k, ev)
	})
}

// Announce implements sharing.Host.
func (k *console) Announce(e sharing.Entry) {
	k.s.PrintBy(e.Text, func() {
		k.s.Share.Append(e)
		if k.js == nil {
			k.drawing.Lock()
			defer k.drawing.Unlock()
			k.promptEndsLocked(true)
			io.WriteString(k.local, e.Text)
			return
		}
		k.js.event("notice", time.Now(), map[string]any{"text": strings.TrimRight(e.Text, "\n"), "about": e.Name, "who": e.Who})
	})
}

// Do implements sharing.Host.
func (k *console) Do(who sharing.Person, op sharing.Op, text string) error {
	switch op {
	case sharing.OpBreakIn:
		if k.e.Halted() {
			return errors.New("the target is halted already")
		}
		k.breakIn()
	case sharing.OpInterrupt:
		k.interrupt()
	case sharing.OpAnswer:
		return k.answerTarget(text)
	case sharing.OpKey:
		if len(text) != 1 || text[0] == 0x02 || !k.key(text[0]) {
			return errors.New("the debugger has no such key")
		}
	}
	return nil
}

// Complete implements sharing.Completer. What is being run comes first: nothing is
// looked up beside it. The names of files on this machine are for those who can
// work with them.
func (k *console) Complete(who sharing.Person, readOnly bool, line string, cursor int) sharing.Completion {
	k.mu.Lock()
	busy := k.busy
	k.mu.Unlock()
	if busy {
		return sharing.Completion{From: cursor, To: cursor, Note: "a command is being run; TAB completes when it has ended"}
	}
	f := k.s.Complete
	if readOnly || k.s.Secure() {
		f = k.s.CompleteNames
	}
	c := f(line, cursor)
	out := sharing.Completion{From: c.From, To: c.To, Insert: c.Insert, More: c.More, Incomplete: c.Incomplete, Note: c.Note}
	for _, x := range c.Candidates {
		show := 0
		if strings.HasSuffix(x.Text, x.Show) {
			show = len(x.Text) - len(x.Show)
		}
		out.Candidates = append(out.Candidates, sharing.Candidate{Text: x.Text, Show: show, Kind: string(x.Kind)})
	}
	return out
}

// answerTarget answers what the target asks, in JSON.
func (k *console) answerTarget(text string) error {
	k.mu.Lock()
	open := k.prompt != nil
	k.prompt = nil
	if k.unask != nil {
		k.unask()
	}
	k.mu.Unlock()
	if !open {
		return errors.New("the target asks nothing")
	}
	k.aside("The answer did not reach the target", func(ctx context.Context) error { return k.e.Answer(ctx, text) })
	return nil
}

// Early implements sharing.Host.
func (k *console) Early(who sharing.Person, line string) (string, bool) {
	f := strings.Fields(line)
	if len(f) == 0 {
		return "", false
	}
	switch strings.ToLower(f[0]) {
	case "q", "qd":
		return "A client does not end the session: CTRL+B or .remote_exit leaves it, qq ends it for everybody.", true
	case ".restart":
		return ".restart works where the session is shared, not at a client.", true
	case ".remote_exit":
		return ".remote_exit is served by the client itself; this one does not know it.", true
	case ".breakin":
		if len(f) == 1 && !k.e.Halted() {
			k.breakIn()
			return "", true
		}
	}
	if name, args, ok := sharing.IsWord(line); ok && !k.e.Halted() {
		ctx, cancel := context.WithTimeout(k.ctx, 10*time.Second)
		defer cancel()
		text, err := k.s.Share.Run(ctx, who, name, args)
		if err != nil {
			text = err.Error()
		}
		return text, true
	}
	return "", false
}

// earlyShare serves the commands of sharing that are typed at a terminal while
// the target runs. In a script they wait as all others do.
func (k *console) earlyShare(line string) bool {
	name, args, ok := sharing.IsWord(line)
	if !ok || k.s.Share == nil || !k.tty || k.e.Halted() {
		return false
	}
	k.aside(name, func(ctx context.Context) error {
		text, err := k.s.Share.Run(ctx, sharing.Person{}, name, args)
		if err == nil && text != "" {
			k.say("%s", text)
		}
		return err
	})
	return true
}

// stays says that the session goes on without input here: others may come.
func (k *console) stays() bool { return k.opt.NoIO && k.s.Share != nil && k.s.Share.Shared() }

// never is an input in which nothing comes. Close ends it.
func never() io.Reader {
	r, _ := io.Pipe()
	return r
}

// endShare tells everybody that the session is over.
func (k *console) endShare() {
	if k.s.Share == nil {
		return
	}
	k.mu.Lock()
	text := k.farewell
	k.mu.Unlock()
	k.shared = !k.alone()
	if text == "" {
		text = "The debugger that shares this session has ended."
	}
	k.s.Share.Close(text)
}

// leaves notes who ended the session.
func (k *console) leaves(l sharing.Line) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.farewell = fmt.Sprintf("%s has ended the session (%s).", l.Person, strings.TrimSpace(l.Text))
}
