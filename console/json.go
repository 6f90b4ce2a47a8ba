package console

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"openkd/command"
	"openkd/engine"
	"openkd/engine/expr"
	"openkd/sharing"
	"openkd/target"
)

// The JSON mode is described in JSON.md; a field that is added there is added
// here, and none is ever taken away within a protocol number.

// jsonProtocol is the number in the hello line.
const jsonProtocol = 1

// maxOutput is the most text of a command that its result holds; what comes
// before it is sent ahead in output lines.
const maxOutput = 1 << 20

// jsonOut writes JSON lines. Its methods may be called from any goroutine.
type jsonOut struct {
	completing atomic.Int32 // requests

	mu      sync.Mutex
	out     io.Writer
	running bool     // a command runs: text belongs to its result
	call    *apiCall // what runs is one
	id      any
	buf     bytes.Buffer
}

func newJSON(out io.Writer) *jsonOut {
	j := &jsonOut{out: out}
	j.put(map[string]any{"type": "hello", "protocol": jsonProtocol})
	return j
}

func (j *jsonOut) put(v map[string]any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.putLocked(v)
}

func (j *jsonOut) putLocked(v map[string]any) {
	var b bytes.Buffer
	e := json.NewEncoder(&b) // ends the line
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		b.Reset()
		e.Encode(map[string]any{"type": "error", "message": err.Error()})
	}
	j.out.Write(noControls(b.Bytes()))
}

// noControls writes DEL and C1 controls as JSON's escapes, which the encoder
// leaves as they are: on a terminal they would act.
func noControls(b []byte) []byte {
	if bytes.IndexByte(b, 0x7f) < 0 && bytes.IndexByte(b, 0xc2) < 0 {
		return b
	}
	out := make([]byte, 0, len(b)+32)
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case c == 0x7f:
			out = append(out, `\u007f`...)
		case c == 0xc2 && i+1 < len(b) && b[i+1] < 0xa0: // strings are valid UTF-8
			i++
			out = fmt.Appendf(out, `\u%04x`, b[i])
		default:
			out = append(out, c)
		}
	}
	return out
}

// jsonText is where commands write in JSON mode.
type jsonText struct{ j *jsonOut }

func (j *jsonOut) text() io.Writer { return jsonText{j} }

func (t jsonText) Write(b []byte) (int, error) {
	j := t.j
	j.mu.Lock()
	defer j.mu.Unlock()
	j.buf.Write(b)
	if !j.running || j.buf.Len() > maxOutput {
		j.flushLocked()
	}
	return len(b), nil
}

func (j *jsonOut) flushLocked() {
	v := map[string]any{"type": "output", "text": j.takeLocked()}
	if j.running && j.id != nil {
		v["id"] = j.id
	}
	j.putLocked(v)
}

func (j *jsonOut) takeLocked() string {
	s := strings.ToValidUTF8(j.buf.String(), "\ufffd")
	j.buf.Reset()
	return s
}

// apiCall is a call of a program in the place of a command. It travels as the id
// of its line.
type apiCall struct {
	id   any
	name string
	args json.RawMessage
	data any // the answer
}

// start begins a command: its output is kept for the result.
func (j *jsonOut) start(id any) {
	j.mu.Lock()
	j.running, j.id = true, id
	j.mu.Unlock()
}

// result ends a command.
func (j *jsonOut) result(k *console, id any, l sharing.Line, err error, before *engine.Stop) {
	state := k.state()
	stop := k.newStop(before)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.running, j.id = false, nil
	v := map[string]any{"type": "result", "command": l.Text, "output": j.takeLocked(), "state": state, "ok": err == nil || errors.Is(err, command.ErrQuit)}
	if id != nil {
		v["id"] = id
	}
	if !l.Local() {
		v["who"] = l.Name
	}
	if c := j.call; c != nil {
		delete(v, "command")
		if v["call"] = c.name; err == nil {
			v["data"] = c.data
		}
	}
	if stop != nil {
		v["stop"] = json.RawMessage(stop)
	}
	if state == "halted" {
		v["prompt"] = k.s.Prompt()
	}
	if err != nil && !errors.Is(err, command.ErrQuit) {
		v["error"] = map[string]any{"kind": errorKind(err), "message": err.Error()}
	}
	j.putLocked(v)
}

// errorKind sorts errors for programs.
func errorKind(err error) string {
	var f *command.Fault
	var e *expr.Error
	var m *engine.MemoryError
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "cancelled"
	case errors.As(err, &f), errors.As(err, &e):
		return "syntax"
	case errors.As(err, &m):
		return "memory"
	case errors.Is(err, target.ErrRunning):
		return "running"
	case errors.Is(err, target.ErrLost):
		return "lost"
	case errors.Is(err, target.ErrClosed):
		return "closed"
	case errors.Is(err, target.ErrNotReady):
		return "not ready"
	case errors.Is(err, target.ErrLease):
		return "lease"
	}
	return "failed"
}

// state is where the session stands, in one word.
func (k *console) state() string {
	k.mu.Lock()
	met, lost, gone := k.met, k.lost, k.gone
	k.mu.Unlock()
	switch {
	case gone || k.e.IsClosed():
		return "closed"
	case k.e.Halted():
		return "halted"
	case lost:
		return "lost"
	case met:
		return "running"
	}
	return "waiting"
}

// request is a line of input in JSON mode.
type request struct {
	ID      any             `json:"id"`
	Command *string         `json:"command"`
	Do      string          `json:"do"`
	Answer  *string         `json:"answer"`
	Call    string          `json:"call"` // a function of the extensions' API
	Args    json.RawMessage `json:"args"`
	Timeout float64         `json:"timeout"` // of wait, seconds; 0: a day
	After   uint64          `json:"after"`   // of wait: a stop later than the one with this number
	Line    *string         `json:"line"`    // of complete
	Cursor  *int            `json:"cursor"`  // of complete, in bytes; without it the end of the line
}

// parse reads a line: an object, or a plain command.
func parseRequest(line string) (request, error) {
	t := strings.TrimSpace(line)
	if !strings.HasPrefix(t, "{") {
		return request{Command: &line}, nil
	}
	var r request
	d := json.NewDecoder(strings.NewReader(t))
	d.UseNumber()
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return request{}, fmt.Errorf("the line is no request: %v", err)
	}
	switch r.ID.(type) {
	case nil, string, json.Number, bool:
	default:
		return request{}, errors.New(`"id" is a string or a number`)
	}
	n := 0
	for _, have := range []bool{r.Command != nil, r.Do != "", r.Answer != nil, r.Call != ""} {
		if have {
			n++
		}
	}
	if n != 1 {
		return r, errors.New(`a request has one of "command", "call", "do" and "answer"`)
	}
	return r, nil
}

// early serves requests that do not wait for the command that runs.
func (j *jsonOut) early(k *console) func(line string) bool {
	return func(line string) bool {
		r, err := parseRequest(line)
		reply := map[string]any{"type": "ack"}
		if r.ID != nil {
			reply["id"] = r.ID
		}
		fail := func(err error) bool {
			reply["type"], reply["message"] = "error", err.Error()
			j.put(reply)
			return true
		}
		switch {
		case err != nil:
			k.failed.Store(true)
			return fail(err)
		case r.Answer != nil:
			if err := k.answerTarget(*r.Answer); err != nil {
				return fail(err)
			}
			reply["answer"] = *r.Answer
		case r.Do != "":
			reply["do"] = r.Do
			switch r.Do {
			case "breakin":
				if k.e.Halted() {
					return fail(errors.New("the target is halted already"))
				}
				k.breakIn()
			case "cancel":
				k.interrupt()
			case "leave":
				k.key(0x02)
			case "resync":
				k.key(0x12)
			case "status":
				reply["state"] = k.state()
			case "wait":
				k.waits.wait(k, r)
				return true
			case "complete":
				if err := j.complete(k, r); err != nil {
					return fail(err)
				}
				return true
			default:
				return fail(fmt.Errorf("%q is not known: breakin, cancel, complete, leave, resync, status, wait", r.Do))
			}
		default:
			return false
		}
		j.put(reply)
		return true
	}
}

// maxCompleting is how many requests for completion are served at a time.
const maxCompleting = 8

// completing is what a request for completion asks.
func (r *request) completing() (line string, cursor int, err error) {
	if r.Line == nil {
		return "", 0, errors.New(`"complete" needs a "line"`)
	}
	cursor = len(*r.Line)
	if r.Cursor != nil {
		cursor = *r.Cursor
	}
	if cursor < 0 || cursor > len(*r.Line) {
		return "", 0, fmt.Errorf(`"cursor" is 0 to %d, in bytes`, len(*r.Line))
	}
	return *r.Line, cursor, nil
}

// complete answers a request for completion, beside everything else: it may wait
// for a folder that is read.
func (j *jsonOut) complete(k *console, r request) error {
	line, cursor, err := r.completing()
	if err != nil {
		return err
	}
	if j.completing.Add(1) > maxCompleting {
		j.completing.Add(-1)
		return fmt.Errorf("%d completions are under way already", maxCompleting)
	}
	k.wg.Go(func() {
		defer j.completing.Add(-1)
		j.completion(r.ID, k.s.Complete(line, cursor))
	})
	return nil
}

// completion writes what was found.
func (j *jsonOut) completion(id any, c completion) {
	list := []map[string]any{}
	for _, x := range c.Candidates {
		list = append(list, map[string]any{"text": strings.ToValidUTF8(x.Text, "\ufffd"), "kind": x.Kind})
	}
	v := map[string]any{"type": "completion", "from": c.From, "to": c.To, "insert": strings.ToValidUTF8(c.Insert, "\ufffd"), "candidates": list, "more": c.More, "incomplete": c.Incomplete}
	if c.Note != "" {
		v["note"] = c.Note
	}
	if id != nil {
		v["id"] = id
	}
	j.put(v)
}

// next is the next command. Its line was looked at by early, so it is one.
func (j *jsonOut) next(ctx context.Context, k *console) (string, any, error) {
	line, err := k.src.next(ctx, "")
	if err != nil {
		return "", nil, err
	}
	r, err := parseRequest(line)
	if err == nil && r.Call != "" {
		return "call " + r.Call, &apiCall{id: r.ID, name: r.Call, args: r.Args}, nil
	}
	if err != nil || r.Command == nil {
		return "", nil, errors.New("not a command")
	}
	return *r.Command, r.ID, nil
}

func (j *jsonOut) event(name string, at time.Time, fields map[string]any) {
	fields["type"], fields["event"], fields["time"] = "event", name, at.UTC().Format(time.RFC3339Nano)
	j.put(fields)
}

func hex64(v uint64) string { return fmt.Sprintf("0x%016x", v) }

// send writes an event of the target.
func (j *jsonOut) send(k *console, ev engine.Event) {
	j.event(ev.Kind.String(), ev.Time, eventFields(ev))
}

// eventFields is what a program is told of an event, besides its name and time.
func eventFields(ev engine.Event) map[string]any {
	f := map[string]any{}
	if ev.Text != "" {
		f["text"] = strings.ToValidUTF8(ev.Text, "\ufffd")
	}
	switch ev.Kind {
	case target.EventStage:
		f["stage"] = ev.Stage.String()
	case target.EventConnected:
		if v := ev.Version; v != nil {
			f["version"] = map[string]any{
				"machine": engine.MachineName(v.Machine), "build": v.Minor, "major": v.Major, "flags": v.Flags,
				"kernelBase": hex64(v.KernBase), "moduleList": hex64(v.PsLoadedModuleList), "dataBlocks": hex64(v.DebuggerDataList),
			}
		}
	case target.EventPrompt:
		f["maxAnswer"] = ev.MaxAnswer
	case target.EventModule:
		if m := ev.Module; m != nil {
			f["module"] = moduleJSON(m, ev.Name)
		}
	case target.EventHalted:
		if s := ev.Stop; s != nil && s.Stop != nil {
			f["stop"] = stopJSON(s)
		}
	}
	return f
}

func moduleJSON(m *target.Module, name string) map[string]any {
	return map[string]any{
		"name": name, "path": strings.ToValidUTF8(m.Path, "\ufffd"), "unload": m.Unload, "all": m.All,
		"base": hex64(m.Base), "size": m.Size, "checksum": m.CheckSum, "processId": hex64(m.ProcessID),
	}
}

func stopJSON(s *engine.Stop) map[string]any {
	v := map[string]any{
		"number": s.Number, "reason": s.Reason.String(), "headline": s.Headline, "description": s.Description,
		"processor": s.Processor, "processors": s.Processors, "thread": hex64(s.Thread), "pc": hex64(s.PC),
	}
	if x := s.Exception; x != nil {
		args := []string{}
		for i := range min(int(x.NumberParameters), len(x.Information)) {
			args = append(args, hex64(x.Information[i]))
		}
		v["exception"] = map[string]any{
			"code": fmt.Sprintf("0x%08x", uint32(x.Code)), "flags": x.Flags, "address": hex64(x.Address), "firstChance": x.FirstChance, "parameters": args,
		}
	}
	var hit []map[string]any
	for _, b := range s.Breakpoints {
		hit = append(hit, map[string]any{"id": b.ID, "address": hex64(b.Addr), "command": b.Command})
	}
	if hit != nil {
		v["breakpoints"] = hit
	}
	if b := s.BugCheck; b != nil {
		v["bugCheck"] = map[string]any{"code": hex64(b.Code), "parameters": []string{hex64(b.Args[0]), hex64(b.Args[1]), hex64(b.Args[2]), hex64(b.Args[3])}}
	}
	if m := s.Module; m != nil {
		v["module"] = moduleJSON(m, "")
	}
	if len(s.Bundle.Context) > 0 {
		v["context"] = hex.EncodeToString(s.Bundle.Context)
	}
	return v
}
