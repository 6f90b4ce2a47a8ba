//go:build unix

package console

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"openkd/command"
	"openkd/console/lineedit/vttest"
	"openkd/internal/captured"
	"openkd/internal/shortdir"
	"openkd/target"
)

// desk is a person at a terminal: a pty, and a screen that shows what the
// console writes to it.
type desk struct {
	*rig
	t      *testing.T
	master *os.File
	tty    *os.File
	vt     *vttest.Screen
	raw    *captured.Text // what was written
	read   chan struct{}
	code   chan int
	before *term.State
	env    map[string]string
	stall  sync.Mutex // held: the terminal takes nothing
}

// gated passes on what is written when nobody holds its mutex.
type gated struct {
	io.Writer
	stall *sync.Mutex
}

func (g gated) Write(b []byte) (int, error) {
	g.stall.Lock()
	defer g.stall.Unlock()
	return g.Writer.Write(b)
}

func newDesk(t *testing.T, width, height int) *desk {
	t.Helper()
	master, tty, err := pty.Open()
	if err != nil {
		t.Skip("no pty: ", err)
	}
	d := &desk{
		rig: newRig(nil), t: t, master: master, tty: tty, vt: vttest.New(width, height), raw: new(captured.Text),
		read: make(chan struct{}), code: make(chan int, 1), env: map[string]string{"TERM": "xterm"},
	}
	d.sized(width, height)
	if d.before, err = term.GetState(descriptor(tty)); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(d.read); io.Copy(gated{io.MultiWriter(d.vt, d.raw), &d.stall}, master) }()
	d.opt.In, d.opt.Out, d.opt.Err = tty, tty, tty
	d.opt.Terminal.Getenv = func(n string) string { return d.env[n] }
	t.Cleanup(func() {
		tty.Close()
		master.Close()
		<-d.read
	})
	return d
}

func (d *desk) sized(width, height int) {
	unix.IoctlSetWinsize(descriptor(d.tty), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(height), Col: uint16(width)})
}

// run starts the console, and has it met a target that stands.
func (d *desk) run() {
	d.t.Helper()
	go func() { d.code <- Run(context.Background(), d.opt) }()
	d.met()
	d.lastly("0: kd>")
}

func (d *desk) press(keys string) { io.WriteString(d.master, keys) }

// until waits until the screen is as ok wants it.
func (d *desk) until(what string, ok func(lines []string) bool) {
	d.t.Helper()
	limit := time.After(20 * time.Second)
	for {
		changed := d.vt.Changed()
		if ok(d.vt.All()) {
			return
		}
		select {
		case <-changed:
		case <-limit:
			d.t.Fatalf("the screen never shows %s:\n%s", what, strings.Join(d.vt.All(), "\n"))
		}
	}
}

// lastly waits until the last lines are these.
func (d *desk) lastly(want ...string) {
	d.t.Helper()
	d.until(fmt.Sprintf("%q at its end", want), func(lines []string) bool {
		if len(lines) < len(want) {
			return false
		}
		for i, l := range lines[len(lines)-len(want):] {
			if strings.TrimRight(l, " ") != want[i] {
				return false
			}
		}
		return true
	})
}

func (d *desk) resumes(n int) {
	d.t.Helper()
	for limit := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, got := d.f.LastResume(); got >= n {
			return
		}
		if time.Now().After(limit) {
			d.t.Fatalf("no resume %d", n)
		}
	}
}

// leave ends the session at a prompt, and looks at what is left.
func (d *desk) leave(keys string) {
	d.t.Helper()
	d.press(keys)
	select {
	case c := <-d.code:
		if c != ExitOK {
			d.t.Errorf("exit %d\n%s", c, strings.Join(d.vt.All(), "\n"))
		}
	case <-time.After(20 * time.Second):
		d.t.Fatalf("%q does not leave:\n%s", keys, strings.Join(d.vt.All(), "\n"))
	}
	after, err := term.GetState(descriptor(d.tty))
	if err != nil || *after != *d.before {
		d.t.Errorf("the terminal is not as it was: %v", err)
	}
	if len(d.f.Left) != 1 || d.f.Left[0] != target.LeaveRunning {
		d.t.Errorf("left %v", d.f.Left)
	}
	d.until("the end of bracketed pastes", func([]string) bool { return !d.vt.Mode("2004") && !d.vt.Mode("2026") })
	if u := d.vt.Unknown(); u != nil {
		d.t.Errorf("on the terminal acts %s", u)
	}
}

// TestTerminal drives the line editor over a pty: a prompt, an edited line,
// history, CTRL+C and CTRL+F while the target runs, text above the prompt, and
// a terminal that is given back as it was.
func TestTerminal(t *testing.T) {
	d := newDesk(t, 100, 25)
	d.run()
	d.press(".echx\x7fo edited\r")
	d.lastly("0: kd> .echo edited", "edited", "0: kd>")
	d.press("not this\x03.echo other\r") // CTRL+C clears the line
	d.lastly("0: kd> .echo other", "other", "0: kd>")
	d.press("\x1b[A\x1b[A\r") // history
	d.lastly("0: kd> .echo edited", "edited", "0: kd>")
	d.press("\x12oth") // search
	d.lastly("(reverse-i-search)`oth': .echo other")
	d.press("\r")
	d.lastly("0: kd> .echo other", "other", "0: kd>")
	d.press("\r") // repeats the last command
	d.lastly("other", "0: kd>", "other", "0: kd>")
	d.press("\x1b[A\x1b[A\x15") // an empty line is in no history
	d.press("g\r")
	d.resumes(1)
	d.f.Send(target.Event{Kind: target.EventPrint, Text: "printed by the target\n"})
	d.lastly("0: kd> g", "printed by the target")
	if st, ok := d.vt.Style("printed by"); !ok || st != colours.debuggee {
		t.Errorf("what the target prints has the style %q", st)
	}
	d.f.Send(target.Event{Kind: target.EventPrint, Text: "\x1b]0;mine\a\x1b[2Jcontrols by the target\n"})
	d.lastly("^[]0;mine^G^[[2Jcontrols by the target")
	d.press(".echo ahead") // is seen while it is typed
	d.lastly("^[]0;mine^G^[[2Jcontrols by the target", ".echo ahead")
	d.press("\r.echo more") // waits for the stop
	d.lastly("(1 waiting) .echo more")
	d.f.Send(target.Event{Kind: target.EventPrint, Text: "and more of it\n"})
	d.lastly("and more of it", "(1 waiting) .echo more")
	d.press("\x05\x15\x0b\r") // CTRL+K and ENTER, as in kd: that is no empty line
	d.lastly("Break at the next reboot.", "(1 waiting)")
	d.press(".echo more")
	d.press("\x06") // CTRL+F
	d.lastly("0: kd> .echo ahead", "ahead", "0: kd> .echo more")
	d.press("\r")
	d.lastly("0: kd> .echo more", "more", "0: kd>")
	d.press("g\r")
	d.resumes(2)
	d.press(".key break\r")
	d.lastly("fffff803`19e4ca60 cc              int     3", "0: kd>")
	d.press(".while (1) { }\r")
	d.until("the end of a loop", func(lines []string) bool {
		d.press("\x03")
		time.Sleep(5 * time.Millisecond)
		return slices.Contains(lines, "Command cancelled.")
	})
	d.lastly("0: kd>")
	d.leave("\x04") // CTRL+D at an empty line: the end of the input
}

// TestEnteredStays: a line that was entered stays at its prompt until it is made
// part of the output, whatever is drawn meanwhile.
func TestEnteredStays(t *testing.T) {
	k := &terminal{keys: keys{change: func() {}, line: func(string) bool { return false }}, draw: make(chan struct{}, 1), some: make(chan struct{}, 1), prompt: "0: kd> "}
	k.ed.Reset()
	k.askLocked(true)
	k.feed([]byte("k 3\rr"))
	if v := k.view(); v.Prompt.Text != "0: kd> " || v.Text != "k 3" {
		t.Errorf("what is shown: %+v", v)
	}
	k.takeLocked()
	if v := k.view(); v.Prompt.Text != "" || v.Text != "r" {
		t.Errorf("what is shown later: %+v", v)
	}
}

// TestTypedWhilePrinted: what is being typed stays below what comes meanwhile,
// whole, wherever the cursor stands in it, and however output is cut.
func TestTypedWhilePrinted(t *testing.T) {
	d := newDesk(t, 30, 12)
	d.run()
	d.press("g\r")
	d.resumes(1)
	d.press("? 0123456789012345678901234567890123\x1b[H\x1b[C\x1b[C")
	for i := range 5 {
		d.f.Send(target.Event{Kind: target.EventPrint, Text: fmt.Sprintf("line %d, ", i)})
		d.f.Send(target.Event{Kind: target.EventPrint, Text: "which comes in two pieces\n"})
	}
	d.lastly("line 4, which comes in two pieces", "? 0123456789012345678901234567890123")
	d.press("x")
	d.lastly("line 4, which comes in two pieces", "? x0123456789012345678901234567890123")
	d.f.Send(target.Event{Kind: target.EventPrint, Text: "no end"})
	d.lastly("no end", "? x0123456789012345678901234567890123")
	d.f.Send(target.Event{Kind: target.EventPrint, Text: ", now\n"})
	d.lastly("no end, now", "? x0123456789012345678901234567890123")
	// A stop brings the prompt, and the line stands behind it.
	d.met()
	d.lastly("fffff803`19e4ca60 cc              int     3", "0: kd> ? x0123456789012345678901234567890123")
	// Another width.
	d.vt.Resize(50, 12)
	d.sized(50, 12)
	d.press("y")
	d.lastly("0: kd> ? xy0123456789012345678901234567890123")
	for _, l := range d.vt.All() {
		if strings.Count(l, "? x") > 0 && !strings.HasPrefix(l, "0: kd> ? xy") {
			t.Errorf("left on the screen: %q", l)
		}
	}
	d.leave("\x05\x15q\r")
}

// TestPaste: several lines are several commands, in order, and the last one waits
// for ENTER; without the marks of a paste too.
func TestPaste(t *testing.T) {
	d := newDesk(t, 80, 25)
	d.run()
	d.press("\x1b[200~.echo one\r.echo two\n.echo three\x1b[201~")
	d.lastly("0: kd> .echo one", "one", "0: kd> .echo two", "two", "0: kd> .echo three")
	d.press("\r")
	d.lastly("three", "0: kd>")
	lines := 300
	var b strings.Builder
	for i := range lines {
		fmt.Fprintf(&b, ".echo line %d of many\r", i)
	}
	go d.press(b.String())
	d.lastly(fmt.Sprintf("0: kd> .echo line %d of many", lines-1), fmt.Sprintf("line %d of many", lines-1), "0: kd>")
	n := 0
	for _, l := range d.vt.All() {
		if l == fmt.Sprintf("line %d of many", n) {
			n++
		}
	}
	if n != lines {
		t.Errorf("%d of %d lines were run in order", n, lines)
	}
	d.leave("q\r")
}

// TestKeysAtThePrompt: keys of kd that the editor takes are reached with ALT, as
// in WinDbg, and those that it has no use for as they are.
func TestKeysAtThePrompt(t *testing.T) {
	d := newDesk(t, 80, 25)
	var traced []bool
	d.opt.Trace = func(on bool) { traced = append(traced, on) }
	d.opt.Versions = "version 1.2.3"
	d.run()
	d.press(".echo a\x1b\x04\x1b\x17\x16b\r") // CTRL+ALT+D, CTRL+ALT+W, CTRL+V
	d.lastly("Packet trace is on.", "version 1.2.3", "Verbose mode is on.", "0: kd> .echo ab", "ab", "0: kd>")
	d.press(".echo b\x01\x1b") // ESC alone, and then CTRL+B: a key of the editor
	d.lastly("0: kd> .echo b")
	d.press("\x02")
	d.press("\r")
	d.lastly("0: kd> .echo b", "b", "0: kd>")
	d.leave("\x1b\x02")
	if len(traced) != 1 || !traced[0] {
		t.Errorf("traced: %v", traced)
	}
}

// TestCompletion at a terminal: a list, what all have in common, one candidate,
// and keys that were pressed before it was there.
func TestCompletion(t *testing.T) {
	d := newDesk(t, 60, 25)
	d.run()
	d.press(".loga\tx\t")
	d.lastly("0: kd> .logappend x")
	d.press("\x15.lo\t")
	d.lastly("0: kd> .lo", ".load  .logappend  .logclose  .logfile  .logopen")
	if _, col := d.vt.Cursor(); col != len("0: kd> .lo") {
		t.Errorf("the cursor stands in column %d", col)
	}
	d.press("gc")
	d.lastly("0: kd> .logc") // the list is gone
	d.press("\t\x15.ech\thello\r")
	d.lastly("0: kd> .echo hello", "hello", "0: kd>")
	d.press("r @ra\t\r")
	d.lastly("0: kd> r @rax", "rax=0000000000000000", "0: kd>")
	d.leave("q\r")
}

func TestHistoryOfSessions(t *testing.T) {
	file := filepath.Join(shortdir.New(t), "state", "history")
	d := newDesk(t, 60, 25)
	d.opt.Terminal.History = file
	d.run()
	d.press(".echo one\r.echo one\r \r.echo password=secret\r")
	d.lastly("password=secret", "0: kd>")
	d.leave("q\r")
	b, err := os.ReadFile(file)
	if err != nil || string(b) != ".echo one\n.echo one\nq\n" {
		t.Errorf("the file holds %q, %v", b, err)
	}
	d = newDesk(t, 60, 25)
	d.opt.Terminal.History = file
	d.run()
	d.press("\x1b[A")
	d.lastly("0: kd> q")
	d.press("\x1b[A\x1b[A")
	d.lastly("0: kd> .echo one")
	d.press("\x15")
	d.leave("q\r")
	// A folder that is none, and one that cannot be: the session does without.
	d = newDesk(t, 60, 25)
	d.opt.Terminal.History = filepath.Join(file, "history")
	d.run()
	d.press(".echo x\r\x1b[A")
	d.lastly("x", "0: kd> .echo x")
	d.press("\x15")
	d.leave("q\r")
}

// TestInputIsNoCommand: what answers a question is in no history.
func TestInputIsNoCommand(t *testing.T) {
	d := newDesk(t, 60, 25)
	d.opt.Terminal.History = filepath.Join(shortdir.New(t), "history")
	d.run()
	d.press("g\r")
	d.resumes(1)
	d.f.Send(target.Event{Kind: target.EventPrompt, Text: "your name? ", MaxAnswer: 100})
	d.lastly("your name?", "Input>")
	d.press("an answer\r")
	d.lastly("Input> an answer")
	d.met()
	d.lastly("0: kd>")
	d.press("\x1b[A")
	d.lastly("0: kd> g")
	d.press("\x15")
	d.leave("q\r")
	if !slices.Equal(d.f.Answers, []string{"an answer"}) {
		t.Errorf("answered %q", d.f.Answers)
	}
}

// TestWithoutColours: NO_COLOR and -nocolor write what the colours are written
// around, to the byte, and nothing else.
func TestWithoutColours(t *testing.T) {
	session := func(change func(d *desk)) (string, string) {
		d := newDesk(t, 80, 25)
		change(d)
		log := filepath.Join(shortdir.New(t), "log")
		d.run()
		d.press(".logopen " + log + "\r")
		d.lastly("0: kd>")
		d.press("xyz\r")
		d.lastly(`"xyz" is not a command; .help lists them`, "0: kd>")
		d.press("u nt+1000 L1\r")
		d.until("code", func(l []string) bool {
			return strings.HasPrefix(l[len(l)-1], "0: kd>") && strings.Contains(l[len(l)-2], "`")
		})
		d.press(".foreach (x { u nt+1000 L1 }) { .echo x }\r")
		d.until("words", func(l []string) bool { return l[len(l)-1] == "0: kd> " || l[len(l)-1] == "0: kd>" && l[len(l)-2] != "" })
		d.leave("q\r")
		b, _ := os.ReadFile(log)
		return d.raw.String(), string(b)
	}
	coloured, log := session(func(*desk) {})
	if !strings.Contains(coloured, "\x1b[31m") || !strings.Contains(coloured, "\x1b[36m") || !strings.Contains(coloured, "\x1b[1m0: kd> \x1b[m") {
		t.Errorf("no colours: %q", coloured)
	}
	if strings.Contains(log, "\x1b") || !strings.Contains(log, "xyz") {
		t.Errorf("in the log: %q", log)
	}
	for name, change := range map[string]func(d *desk){
		"NO_COLOR": func(d *desk) { d.env["NO_COLOR"] = "0" },
		"-nocolor": func(d *desk) { d.opt.Terminal.NoColor = true },
	} {
		plain, _ := session(change)
		for _, s := range strings.Split(plain, "\x1b[")[1:] {
			if i := strings.IndexFunc(s, func(r rune) bool { return r >= 0x40 }); i >= 0 && s[i] == 'm' {
				t.Errorf("%s: colours are written: %q", name, plain)
				break
			}
		}
	}
	if plain, _ := session(func(d *desk) { d.env["NO_COLOR"] = "" }); !strings.Contains(plain, "\x1b[31m") {
		t.Error("an empty NO_COLOR turns colours off")
	}
}

// TestDumb: a terminal that knows no control sequences gets none, and lines are
// read as its driver hands them out.
func TestDumb(t *testing.T) {
	for _, kind := range []string{"dumb", ""} {
		d := newDesk(t, 80, 25)
		d.env["TERM"] = kind
		d.run()
		d.press(".echo plain\n")
		d.lastly("0: kd> .echo plain", "plain", "0: kd>")
		d.leave("q\n")
		if strings.Contains(d.raw.String(), "\x1b") {
			t.Errorf("TERM=%q: control sequences: %q", kind, d.raw.String())
		}
	}
}

// TestErrorsOnTheTerminal: what other parts of the program say on standard error
// stands above the prompt too.
func TestErrorsOnTheTerminal(t *testing.T) {
	d := newDesk(t, 60, 25)
	errs := Visible(d.tty)
	d.opt.Err = errs
	d.run()
	d.press(".echo x")
	d.lastly("0: kd> .echo x")
	fmt.Fprintf(errs, "KD sent 1\nKD received \x1b[2J\n")
	d.lastly("KD sent 1", "KD received ^[[2J", "0: kd> .echo x")
	d.press("\x15")
	d.leave("q\r")
	fmt.Fprint(errs, "\x1bend")
	d.until("what comes after the session", func(l []string) bool { return strings.HasSuffix(l[len(l)-1], "^[end") })
}

// TestProgress: how far something is stands below the output, and goes.
func TestProgress(t *testing.T) {
	d := newDesk(t, 60, 25)
	d.run()
	d.press(".sleep 0n600000\r")
	d.until("the command", func(l []string) bool { return l[len(l)-1] == "0: kd> .sleep 0n600000" })
	d.opt.Session.Progress("nt.pdb 50% \x1b[2J")
	d.lastly("0: kd> .sleep 0n600000", "nt.pdb 50% ^[[2J")
	d.opt.Session.Print("meanwhile\n")
	d.lastly("meanwhile", "nt.pdb 50% ^[[2J")
	d.press("k")
	d.lastly("meanwhile", "nt.pdb 50% ^[[2J k")
	d.opt.Session.Progress("")
	d.lastly("meanwhile", "k")
	d.press("\x7f\x03")
	d.lastly("Command cancelled.", "0: kd>")
	d.leave("q\r")
}

func TestColumns(t *testing.T) {
	list := func(names ...string) (c completion) {
		for _, n := range names {
			c.Candidates = append(c.Candidates, command.Candidate{Text: n, Show: n})
		}
		return c
	}
	var many []string
	for i := range 500 {
		many = append(many, fmt.Sprintf("KeSymbol%03d", i))
	}
	big := list(many...)
	big.More = 123456
	late := list("a", "b")
	late.Incomplete = true
	note := list()
	note.Note = "no symbols\x1b[31m"
	for _, tt := range []struct {
		name  string
		c     completion
		width int
		want  []string
	}{
		{"one", list("x"), 80, nil},
		{"two", list("ab", "c"), 80, []string{"ab  c"}},
		{"columns", list("aaa", "b", "cc", "ddd", "e"), 20, []string{"aaa  b  cc  ddd  e"}},
		{"rows", list("aaaa", "bbbbbbb", "cc", "ddddddddd", "e"), 20, []string{"aaaa     ddddddddd", "bbbbbbb  e", "cc"}},
		{"wider than the screen", list(strings.Repeat("x", 50), "y"), 30, []string{strings.Repeat("x", 50), "y"}},
		{"control characters", list("a\x1b[31m", "b"), 80, []string{"a^[[31m  b"}},
		{"wide characters", list("漢字", "b"), 80, []string{"漢字  b"}},
		{"late", late, 80, []string{"a  b", "(some names are still being gathered; TAB again)"}},
		{"a note", note, 80, []string{"(no symbols^[[31m)"}},
	} {
		var got []string
		for _, x := range columns(tt.c, tt.width, theme{}) {
			got = append(got, x.Text)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q", tt.name, got)
		}
	}
	menu := columns(big, 80, theme{quiet: "2"})
	if len(menu) != maxMenu+1 || menu[maxMenu].Text != "and 123,884 more" || menu[maxMenu].SGR != "2" || !strings.HasPrefix(menu[0].Text, "KeSymbol000  KeSymbol012  ") {
		t.Errorf("%q", menu)
	}
}
