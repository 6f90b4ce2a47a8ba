package console

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"openkd/command"
	"openkd/engine"
	"openkd/engine/enginetest"
	"openkd/internal/captured"
	"openkd/kdproto"
	"openkd/sharing"
	"openkd/target"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type rig struct {
	f   *enginetest.Fake
	out *captured.Text
	opt Options
}

func newRig(in io.Reader) *rig {
	f := enginetest.New(2)
	e := engine.New(f, engine.Options{Now: func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) }})
	out := new(captured.Text)
	s := command.NewSession(e, io.Discard, command.Options{Quiet: true})
	return &rig{f: f, out: out, opt: Options{In: in, Out: out, Err: out, Session: s, Engine: e, EndWait: 500 * time.Millisecond, Signals: make(chan os.Signal)}}
}

// met makes the target known and halted.
func (r *rig) met() {
	r.f.Connect()
	r.f.Stop(target.Stop{PC: enginetest.Break, Asked: true, Exception: enginetest.Exception(kdproto.StatusBreakpoint, true)})
}

const stopText = "Break instruction exception - code 80000003 (first chance)\nnt+0x24ca60:\nfffff803`19e4ca60 cc              int     3\n"

const connectText = "Connected to Windows 10 19041 x64 target at (Fri Jan  2 03:04:05.000 2026 (UTC + 0:00)), ptr64 TRUE\nKernel Debugger connection established.\n"

func TestScript(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		commands []string
		want     string
		code     int
	}{
		{"quit", "? 1\nq\n", nil, "0: kd> Evaluate expression: 1 = 00000000`00000001\n0: kd> ", 0},
		{"end of input", "? 1\n", nil, "0: kd> Evaluate expression: 1 = 00000000`00000001\n0: kd> \n", 0},
		{"last line without its end", "? 2", nil, "0: kd> Evaluate expression: 2 = 00000000`00000002\n0: kd> \n", 0},
		{"command error", "xyz\n? 1\n", nil, "0: kd>        ^ Syntax error in 'xyz'\n\"xyz\" is not a command; .help lists them\n0: kd> Evaluate expression: 1 = 00000000`00000001\n0: kd> \n", 2},
		{"-c", "", []string{".echo a; .echo b"}, "0: kd> .echo a; .echo b\na\nb\n0: kd> \n", 0},
		{"-c then input", ".echo c\n", []string{".echo a"}, "0: kd> .echo a\na\n0: kd> c\n0: kd> \n", 0},
		{"a go at the end leaves", "g\n", nil, "0: kd> ", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(strings.NewReader(tt.in))
			r.opt.Commands = tt.commands
			if tt.commands == nil && tt.in == "" {
				t.Fatal("nothing to do")
			}
			r.met()
			code := Run(context.Background(), r.opt)
			if got := strings.TrimSuffix(r.out.String(), "left\n"); got != connectText+stopText+tt.want || code != tt.code {
				t.Errorf("exit %d, want %d\n got: %q\nwant: %q", code, tt.code, got, connectText+stopText+tt.want)
			}
			if len(r.f.Left) != 1 || r.f.Left[0] != target.LeaveRunning {
				t.Errorf("left %v", r.f.Left)
			}
		})
	}
}

// TestQueue: lines wait for the next stop, and a go with more to do waits too.
func TestQueue(t *testing.T) {
	r := newRig(strings.NewReader("g; .echo after\n.echo next\n"))
	r.f.OnResume = func(f *enginetest.Fake, _ target.Resume) {
		f.Send(target.Event{Kind: target.EventPrint, Text: "hello from the target\n"})
		f.Stop(target.Stop{PC: enginetest.Break, Exception: enginetest.Exception(kdproto.StatusBreakpoint, true)})
	}
	r.met()
	code := Run(context.Background(), r.opt)
	want := connectText + stopText + "0: kd> hello from the target\n" + stopText + "after\n0: kd> next\n0: kd> \n"
	if got := strings.TrimSuffix(r.out.String(), "left\n"); got != want || code != 0 {
		t.Errorf("exit %d\n got: %q\nwant: %q", code, got, want)
	}
}

// TestInterrupt: CTRL+C breaks in while the target runs, and cancels a command
// while one works; the break-in does not wait behind anything.
func TestInterrupt(t *testing.T) {
	in, w := io.Pipe()
	sig := make(chan os.Signal)
	r := newRig(in)
	r.opt.Signals = sig
	code := make(chan int)
	go func() { code <- Run(context.Background(), r.opt) }()
	r.met()
	r.out.Until(t, "0: kd> ")
	io.WriteString(w, "g\n.echo queued\n")
	for {
		if _, n := r.f.LastResume(); n == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	sig <- os.Interrupt
	r.out.Until(t, "queued")
	io.WriteString(w, ".while (1) { }\n")
	io.WriteString(w, ".echo alive\n")
	for i := 0; !strings.Contains(r.out.String(), "alive"); i++ {
		sig <- os.Interrupt // again until the loop has begun
		time.Sleep(time.Millisecond)
	}
	io.WriteString(w, "g\n")
	for {
		if _, n := r.f.LastResume(); n == 2 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	io.WriteString(w, ".key break\n")
	for strings.Count(r.out.String(), "int     3") < 3 {
		time.Sleep(time.Millisecond)
	}
	io.WriteString(w, "q\n")
	if c := <-code; c != 0 {
		t.Errorf("exit %d\n%s", c, r.out.String())
	}
	w.Close()
}

// TestInterruptAtOnce: CTRL+C that comes when a line is seen by all, and not yet
// run, is for that line. The clock of the session's log is read at that moment.
func TestInterruptAtOnce(t *testing.T) {
	in, w := io.Pipe()
	sig := make(chan os.Signal)
	r := newRig(in)
	var strike atomic.Bool
	hub := sharing.NewHub(sharing.Options{Now: func() time.Time {
		if strike.Load() {
			sig <- os.Interrupt
			sig <- os.Interrupt // taken when the first has been dealt with
		}
		return time.Now()
	}})
	defer hub.Close("")
	r.opt.Session = command.NewSession(r.opt.Engine, io.Discard, command.Options{Quiet: true, Share: hub})
	r.opt.Signals = sig
	code := make(chan int)
	go func() { code <- Run(context.Background(), r.opt) }()
	r.met()
	r.out.Until(t, "0: kd> ")
	strike.Store(true)
	io.WriteString(w, "g\n")
	r.out.Until(t, "Command cancelled.\n")
	strike.Store(false)
	if _, n := r.f.LastResume(); n != 0 {
		t.Errorf("let go %d times", n)
	}
	io.WriteString(w, "? 2\n")
	r.out.Until(t, "= 00000000`00000002\n")
	io.WriteString(w, "q\n")
	if c := <-code; c != 0 {
		t.Errorf("exit %d\n%s", c, r.out.String())
	}
	w.Close()
}

func TestLostAndNever(t *testing.T) {
	// The session ends under a command.
	r := newRig(strings.NewReader("g; .echo x\n"))
	r.f.OnResume = func(f *enginetest.Fake, _ target.Resume) {
		f.Send(target.Event{Kind: target.EventClosed, Text: "the server ended the session"})
	}
	r.met()
	if c := Run(context.Background(), r.opt); c != ExitLost {
		t.Errorf("exit %d\n%s", c, r.out.String())
	}
	// Nothing was ever met, and nothing is left to do.
	r = newRig(strings.NewReader(""))
	if c := Run(context.Background(), r.opt); c != ExitConnect {
		t.Errorf("exit %d\n%s", c, r.out.String())
	}
	// Cancelled from outside while it waits.
	ctx, cancel := context.WithCancel(context.Background())
	in, w := io.Pipe()
	r = newRig(in)
	code := make(chan int)
	go func() { code <- Run(ctx, r.opt) }()
	cancel()
	<-code
	w.Close()
	if len(r.f.Left) != 1 {
		t.Errorf("left %v", r.f.Left)
	}
}

// TestPrompt: the target asks, the person answers.
func TestPrompt(t *testing.T) {
	in, w := io.Pipe()
	r := newRig(in)
	code := make(chan int)
	go func() { code <- Run(context.Background(), r.opt) }()
	r.f.Connect()
	r.f.Send(target.Event{Kind: target.EventRunning})
	r.f.Send(target.Event{Kind: target.EventPrompt, Text: "Break (b) or ignore (i)? ", MaxAnswer: 3})
	r.out.Until(t, "Input> ")
	io.WriteString(w, "bcd\n")
	for len(answers(r.f)) == 0 {
		time.Sleep(time.Millisecond)
	}
	if a := answers(r.f); a[0] != "bc" {
		t.Errorf("%q", a)
	}
	w.Close()
	<-code
}

// TestPromptWhileCommandWaits: a target that g let go asks, and can be answered.
func TestPromptWhileCommandWaits(t *testing.T) {
	in, w := io.Pipe()
	r := newRig(in)
	r.f.OnResume = func(f *enginetest.Fake, _ target.Resume) {
		f.Send(target.Event{Kind: target.EventRunning})
		f.Send(target.Event{Kind: target.EventPrompt, Text: "Really? ", MaxAnswer: 10})
	}
	code := make(chan int)
	go func() { code <- Run(context.Background(), r.opt) }()
	r.met()
	r.out.Until(t, "kd> ")
	io.WriteString(w, "g\n")
	r.out.Until(t, "Really? Input> ")
	io.WriteString(w, "yes\n")
	for len(answers(r.f)) == 0 {
		time.Sleep(time.Millisecond)
	}
	if a := answers(r.f); a[0] != "yes" {
		t.Errorf("%q", a)
	}
	w.Close()
	<-code
}

func answers(f *enginetest.Fake) []string {
	f.Lock()
	defer f.Unlock()
	return append([]string(nil), f.Answers...)
}

// TestJSON: every line is an object, ids come back, what does not wait does
// not.
func TestJSON(t *testing.T) {
	in, w := io.Pipe()
	r := newRig(in)
	r.opt.JSON = true
	code := make(chan int)
	go func() { code <- Run(context.Background(), r.opt) }()
	r.met()
	r.out.Until(t, `"event":"halted"`)
	for _, l := range []string{
		`{"id":1,"command":"? 1+1"}`, `{"id":"b","command":"xyz"}`, `.echo plain`, `{"nonsense":1}`, `{"id":2,"do":"status"}`,
	} {
		io.WriteString(w, l+"\n")
	}
	r.out.Until(t, `"plain\n"`)
	io.WriteString(w, `{"id":3,"command":"g"}`+"\n"+`{"id":4,"command":".echo late"}`+"\n")
	for {
		if _, n := r.f.LastResume(); n == 1 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	io.WriteString(w, `{"id":5,"do":"breakin"}`+"\n")
	r.out.Until(t, `"late\n"`)
	io.WriteString(w, `{"id":6,"command":"q"}`+"\n")
	if c := <-code; c != ExitCommand {
		t.Errorf("exit %d", c)
	}
	w.Close()
	byID := map[string]map[string]any{}
	var last map[string]any
	events := map[string]int{}
	for _, l := range strings.Split(strings.TrimSpace(r.out.String()), "\n") {
		var v map[string]any
		if err := json.Unmarshal([]byte(l), &v); err != nil {
			t.Fatalf("%q: %v", l, err)
		}
		if id, ok := v["id"]; ok {
			b, _ := json.Marshal(id)
			byID[string(b)] = v
		}
		if e, ok := v["event"].(string); ok {
			events[e]++
		}
		last = v
	}
	if v := byID["1"]; v["output"] != "Evaluate expression: 2 = 00000000`00000002\n" || v["ok"] != true || v["state"] != "halted" || v["prompt"] != "0: kd> " {
		t.Errorf("1: %v", v)
	}
	if v := byID[`"b"`]; v["ok"] != false || v["error"].(map[string]any)["kind"] != "syntax" {
		t.Errorf("b: %v", v)
	}
	if v := byID["2"]; v["type"] != "ack" {
		t.Errorf("2: %v", v)
	}
	if v := byID["3"]; v["ok"] != true || !strings.Contains(v["output"].(string), "int     3") {
		t.Errorf("3: %v", v)
	}
	if v := byID["5"]; v["type"] != "ack" {
		t.Errorf("5: %v", v)
	}
	if events["connected"] != 1 || events["halted"] != 2 {
		t.Errorf("%v", events)
	}
	if last["type"] != "exit" || last["code"] != float64(2) {
		t.Errorf("%v", last)
	}
}

func FuzzJSONRequest(f *testing.F) {
	f.Add(`{"id":1,"command":"r"}`)
	f.Add(`{"do":"breakin"}`)
	f.Add(`{"call":"r"}`)
	f.Add(`{"\u0063all":"r","args":null}`)
	f.Fuzz(func(t *testing.T, line string) {
		r, err := parseRequest(line)
		if err == nil && r.Command == nil && r.Do == "" && r.Answer == nil && r.Call == "" {
			t.Errorf("%q asks for nothing", line)
		}
	})
}

// TestJSONComplete: completion is answered while the target runs, and a request
// that is wrong with what is wrong.
func TestJSONComplete(t *testing.T) {
	in, w := io.Pipe()
	r := newRig(in)
	r.opt.JSON = true
	code := make(chan int)
	go func() { code <- Run(context.Background(), r.opt) }()
	r.met()
	r.out.Until(t, `"event":"halted"`) // or the input's end may come before the target
	for _, c := range []struct{ in, want string }{
		{`{"id":1,"do":"complete","line":"k; .logc"}`, `{"candidates":[{"kind":"command","text":".logclose"}],"from":3,"id":1,"incomplete":false,"insert":".logclose ","more":0,"to":8,"type":"completion"}`},
		{`{"id":"b","do":"complete","line":".lo x","cursor":3}`, `"from":0,"id":"b","incomplete":false,"insert":".lo","more":0,"to":3,"type":"completion"}`},
		{`{"id":2,"do":"complete","line":"u nt!x"}`, `"candidates":[],`},
		{`{"id":3,"do":"complete"}`, `"message":"\"complete\" needs a \"line\"","type":"error"}`},
		{`{"id":4,"do":"complete","line":"x","cursor":2}`, `"message":"\"cursor\" is 0 to 1, in bytes","type":"error"}`},
	} {
		io.WriteString(w, c.in+"\n")
		r.out.Until(t, c.want)
	}
	w.Close()
	if c := <-code; c != ExitOK {
		t.Errorf("exit %d", c)
	}
}
