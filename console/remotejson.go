package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"openkd/sharing"
)

// remoteJSON is a shared session as JSON lines: the protocol of JSON.md, made of
// the session's entries.
type remoteJSON struct {
	r *remote
	j *jsonOut

	mu     sync.Mutex
	ids    map[uint64]asked // requests without an end
	open   int              // commands among them
	mine   uint64           // the own command that runs
	other  bool             // somebody else's command runs
	state  string
	prompt bool // the session is at its prompt
	stop   json.RawMessage
	number uint64
	waits  map[int]waiter
	nextW  int
	info   sharing.Session
}

// asked is a request of the program.
type asked struct {
	id      any
	do      string
	command string
	answer  *string
}

type waiter struct {
	id    any
	after uint64
	timer *time.Timer
}

func newRemoteJSON(r *remote) *remoteJSON {
	return &remoteJSON{r: r, j: &jsonOut{out: r.outlet}, ids: make(map[uint64]asked), waits: make(map[int]waiter)}
}

func withID(v map[string]any, id any) map[string]any {
	if id != nil {
		v["id"] = id
	}
	return v
}

func (x *remoteJSON) notice(text string) {
	x.j.event("notice", time.Now(), map[string]any{"text": text})
}

// Joined implements sharing.Viewer.
func (x *remoteJSON) Joined(s sharing.Session) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.info = s
	x.state, x.prompt = s.State, s.Prompt != ""
	x.stopLocked(s.Stop)
	x.other = false // what becomes of the own command comes as a reply
	session := map[string]any{"program": s.Program, "title": s.Title, "release": s.Release, "client": s.ID, "readonly": s.ReadOnly}
	if s.Secure {
		session["secure"] = true
	}
	hello := map[string]any{"type": "hello", "protocol": jsonProtocol, "state": stateWord(s.State), "session": session}
	if x.stop != nil {
		hello["stop"] = x.stop
	}
	x.j.put(hello)
	x.lookLocked()
}

// stateWord: a session that has not said anything yet waits for its target.
func stateWord(s string) string {
	switch s {
	case "":
		return "waiting"
	case "input", "asks":
		return "running"
	}
	return s
}

// stopLocked remembers the stop of a halted event.
func (x *remoteJSON) stopLocked(data []byte) {
	var f struct {
		Stop struct {
			Number      uint64 `json:"number"`
			Reason      string `json:"reason"`
			Headline    string `json:"headline"`
			Description string `json:"description"`
			PC          string `json:"pc"`
		} `json:"stop"`
	}
	if len(data) == 0 || json.Unmarshal(data, &f) != nil || f.Stop.Number == 0 {
		return
	}
	x.number = f.Stop.Number
	x.stop, _ = json.Marshal(f.Stop)
}

// Entry implements sharing.Viewer.
func (x *remoteJSON) Entry(e sharing.Entry, mine uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	at := time.Unix(0, e.Time)
	// How the session stands after its history was said when it was joined. Who
	// waits for a stop must not get one that has been meanwhile.
	past := e.Seq <= x.info.History
	switch e.Kind {
	case sharing.EntryText:
		x.textLocked(e.Text)
	case sharing.EntryCommand:
		x.prompt = x.prompt && past
		a, known := x.ids[mine]
		if mine > 0 && known && a.do == "" {
			x.mine = mine
			x.j.start(a.id)
			return
		}
		x.other = true
		x.j.event("command", at, map[string]any{"who": e.Who, "command": e.Text, "prompt": e.Prompt})
	case sharing.EntryResult:
		if !past {
			x.state = e.Name
		}
		a, known := x.ids[mine]
		if mine == 0 || !known {
			x.other = false
			v := map[string]any{"who": e.Who, "command": e.Text, "ok": e.OK, "state": stateWord(e.Name)}
			x.finish(v, e)
			x.j.event("done", at, v)
			break
		}
		delete(x.ids, mine)
		x.open--
		x.mine = 0
		v := withID(map[string]any{"type": "result", "command": a.command, "ok": e.OK, "state": stateWord(e.Name)}, a.id)
		x.finish(v, e)
		x.j.mu.Lock()
		x.j.running, x.j.id = false, nil
		v["output"] = x.j.takeLocked()
		x.j.putLocked(v)
		x.j.mu.Unlock()
		if !e.OK {
			x.r.mu.Lock()
			x.r.failed = true
			x.r.mu.Unlock()
		}
	case sharing.EntryEvent:
		f := map[string]any{}
		if len(e.Data) > 0 {
			d := json.NewDecoder(strings.NewReader(string(e.Data)))
			d.UseNumber()
			if d.Decode(&f) != nil || f == nil {
				f = map[string]any{}
			}
		} else {
			f["text"] = strings.ToValidUTF8(e.Text, "\ufffd")
		}
		switch {
		case past:
		case e.Name == "halted":
			x.state = e.Name
			x.stopLocked(e.Data)
		case e.Name == "running", e.Name == "lost", e.Name == "closed":
			x.state, x.prompt = e.Name, false
		}
		x.j.event(e.Name, at, f)
	case sharing.EntryPrompt:
		if !past {
			x.state, x.prompt = e.Name, e.Prompt != "" && e.Name == "halted"
		}
		if e.Name == "input" && e.From == x.info.ID && x.mine > 0 {
			x.j.event("input", at, map[string]any{"prompt": e.Prompt})
		}
	case sharing.EntryNotice:
		if e.Name == "joined" && e.From == x.info.ID {
			return
		}
		x.j.event("notice", at, map[string]any{"text": strings.TrimRight(strings.ToValidUTF8(e.Text, "\ufffd"), "\n"), "about": e.Name, "who": e.Who})
	}
	x.lookLocked()
}

// finish adds what a result says.
func (x *remoteJSON) finish(v map[string]any, e sharing.Entry) {
	if e.Prompt != "" {
		v["prompt"] = e.Prompt
	}
	if len(e.Data) > 0 && json.Valid(e.Data) {
		v["stop"] = json.RawMessage(e.Data)
	}
	if !e.OK {
		v["error"] = map[string]any{"kind": e.Failure, "message": strings.ToValidUTF8(e.Message, "\ufffd")}
	}
}

// textLocked: text belongs to the own command that runs, or to nobody's.
func (x *remoteJSON) textLocked(text string) { x.j.text().Write([]byte(text)) }

// Reply implements sharing.Viewer.
func (x *remoteJSON) Reply(id uint64, ok, done bool, text string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	a, known := x.ids[id]
	if !known || !done {
		x.r.poke() // there is room for a request more
		return
	}
	delete(x.ids, id)
	text = strings.TrimRight(strings.ToValidUTF8(text, "\ufffd"), "\n")
	switch {
	case a.do == "" && a.answer == nil:
		x.open--
		output := ""
		if x.mine == id { // it began, and how it ended is not known
			x.mine = 0
			x.j.mu.Lock()
			x.j.running, x.j.id = false, nil
			output = x.j.takeLocked()
			x.j.mu.Unlock()
		}
		v := withID(map[string]any{"type": "result", "command": a.command, "ok": ok, "output": output, "state": stateWord(x.state)}, a.id)
		if ok {
			if text != "" {
				v["output"] = output + text + "\n"
			}
		} else {
			v["error"] = map[string]any{"kind": "refused", "message": text}
			x.r.mu.Lock()
			x.r.failed = true
			x.r.mu.Unlock()
		}
		x.j.put(v)
	case !ok:
		x.j.put(withID(map[string]any{"type": "error", "message": text}, a.id))
	case a.answer != nil:
		x.j.put(withID(map[string]any{"type": "ack", "answer": *a.answer}, a.id))
	default:
		x.j.put(withID(map[string]any{"type": "ack", "do": a.do}, a.id))
	}
	x.lookLocked()
}

// Link implements sharing.Viewer.
func (x *remoteJSON) Link(text string) {
	x.j.event("notice", time.Now(), map[string]any{"text": text, "about": "link"})
}

// lookLocked answers those who wait for a stop, and wakes the owner.
func (x *remoteJSON) lookLocked() {
	for n, w := range x.waits {
		if x.stands(w) {
			w.timer.Stop()
			delete(x.waits, n)
			x.ackWait(w)
		}
	}
	x.r.poke()
}

// stands says that the target stands, that nobody's command runs, and that the
// stop is the one that is waited for.
func (x *remoteJSON) stands(w waiter) bool {
	return x.state == "halted" && x.prompt && x.open == 0 && x.number > w.after
}

func (x *remoteJSON) ackWait(w waiter) {
	v := withID(map[string]any{"type": "ack", "do": "wait", "state": "halted"}, w.id)
	if x.stop != nil {
		v["stop"] = x.stop
	}
	x.j.put(v)
}

// wait begins a wait for a stop.
func (x *remoteJSON) wait(req request) {
	x.mu.Lock()
	defer x.mu.Unlock()
	w := waiter{id: req.ID, after: req.After}
	if x.stands(w) {
		x.ackWait(w)
		return
	}
	within := time.Duration(float64(time.Second) * req.Timeout)
	if req.Timeout <= 0 || req.Timeout > 24*3600 {
		within = 24 * time.Hour
	}
	n := x.nextW
	x.nextW++
	w.timer = time.AfterFunc(within, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		if _, still := x.waits[n]; !still {
			return
		}
		delete(x.waits, n)
		x.j.put(timedOut(req, stateWord(x.state)))
		x.r.poke()
	})
	x.waits[n] = w
}

// owner reads requests until the client leaves. It returns the exit code.
func (x *remoteJSON) owner() int {
	code := x.serve()
	x.mu.Lock()
	for n, w := range x.waits {
		w.timer.Stop()
		delete(x.waits, n)
	}
	x.mu.Unlock()
	return code
}

// exit writes the last lines. Nobody writes any more.
func (x *remoteJSON) exit(code int) {
	if err := x.r.c.Err(); err != nil {
		x.j.event("ended", time.Now(), map[string]any{"text": strings.ToValidUTF8(err.Error(), "\ufffd")})
	}
	x.j.put(map[string]any{"type": "exit", "code": code})
}

func (x *remoteJSON) serve() int {
	r := x.r
	for _, line := range r.opt.Commands {
		x.command(nil, line)
	}
	for {
		ctx, cancel := context.WithCancel(r.ctx)
		r.mu.Lock()
		r.ask = cancel
		r.mu.Unlock()
		// Whoever ends it later wakes the reading.
		if code, over := x.overJSON(); over {
			cancel()
			return code
		}
		line, err := r.src.next(ctx, "")
		cancel()
		switch {
		case errors.Is(err, io.EOF):
			return x.drain()
		case err != nil:
			continue
		}
		if x.request(line) {
			return r.code()
		}
	}
}

func (x *remoteJSON) overJSON() (int, bool) {
	r := x.r
	select {
	case <-r.c.Done():
		r.mu.Lock()
		defer r.mu.Unlock()
		var e *sharing.Ended
		if errors.As(r.c.Err(), &e) && r.quits {
			return ExitOK, true
		}
		return ExitLost, true
	default:
	}
	if r.ctx.Err() != nil {
		return r.code(), true
	}
	return 0, false
}

// drain waits for what is under way when the input has ended: for commands as
// long as they work, for a target that runs only a moment.
func (x *remoteJSON) drain() int {
	r := x.r
	var since time.Time
	for {
		if code, over := x.overJSON(); over {
			return code
		}
		x.mu.Lock()
		idle := x.open == 0 && len(x.waits) == 0
		running := x.state != "halted" && len(x.waits) == 0
		x.mu.Unlock()
		if idle {
			return r.code()
		}
		var late <-chan time.Time
		if running {
			if since.IsZero() {
				since = time.Now()
			}
			left := r.opt.EndWait - time.Since(since)
			if left <= 0 {
				return r.code()
			}
			late = time.After(left)
		} else {
			since = time.Time{}
		}
		select {
		case <-r.changed:
		case <-late:
		}
	}
}

// command sends a line.
func (x *remoteJSON) command(id any, line string) {
	r := x.r
	r.mu.Lock()
	r.quits = strings.EqualFold(strings.TrimSpace(line), "qq")
	r.mu.Unlock()
	x.send(sharing.OpCommand, line, asked{id: id, command: line})
}

// send sends a request. When too many wait it waits, too: the program that
// writes them is not read further.
func (x *remoteJSON) send(op sharing.Op, text string, a asked) {
	for {
		x.mu.Lock()
		id, err := x.r.c.Send(op, text)
		if err == nil {
			x.ids[id] = a
			if op == sharing.OpCommand {
				x.open++
			}
		}
		x.mu.Unlock()
		switch {
		case err == nil:
			return
		case errors.Is(err, sharing.ErrBusy):
			select {
			case <-x.r.changed:
				continue
			case <-x.r.ctx.Done():
				return
			}
		}
		x.j.put(withID(map[string]any{"type": "error", "message": err.Error()}, a.id))
		return
	}
}

// request serves one line of input; true: the client leaves.
func (x *remoteJSON) request(line string) bool {
	req, err := parseRequest(line)
	fail := func(err error) {
		x.j.put(withID(map[string]any{"type": "error", "message": err.Error()}, req.ID))
	}
	switch {
	case err != nil:
		x.r.mu.Lock()
		x.r.failed = true
		x.r.mu.Unlock()
		fail(err)
	case req.Answer != nil:
		x.send(sharing.OpAnswer, *req.Answer, asked{id: req.ID, answer: req.Answer})
	case req.Command != nil:
		x.command(req.ID, *req.Command)
	default:
		a := asked{id: req.ID, do: req.Do}
		switch req.Do {
		case "breakin":
			x.send(sharing.OpBreakIn, "", a)
		case "cancel":
			x.send(sharing.OpInterrupt, "", a)
		case "resync":
			x.send(sharing.OpKey, "\x12", a)
		case "leave":
			x.j.put(withID(map[string]any{"type": "ack", "do": "leave"}, req.ID))
			return true
		case "status":
			x.mu.Lock()
			v := withID(map[string]any{"type": "ack", "do": "status", "state": stateWord(x.state)}, req.ID)
			if x.stop != nil {
				v["stop"] = x.stop
			}
			x.mu.Unlock()
			x.j.put(v)
		case "wait":
			x.wait(req)
		case "complete":
			line, cursor, err := req.completing()
			if err == nil && x.j.completing.Add(1) > maxCompleting {
				x.j.completing.Add(-1)
				err = fmt.Errorf("%d completions are under way already", maxCompleting)
			}
			if err != nil {
				fail(err)
				break
			}
			x.r.complete(line, cursor, func(c completion, err error) {
				x.j.completing.Add(-1)
				if err != nil {
					fail(err)
					return
				}
				x.j.completion(req.ID, c)
			})
		default:
			fail(fmt.Errorf("%q is not known: breakin, cancel, complete, leave, resync, status, wait", req.Do))
		}
	}
	return false
}
