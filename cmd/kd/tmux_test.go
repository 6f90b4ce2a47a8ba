//go:build unix

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"openkd/internal/shortdir"
	"openkd/rundir"
)

// asKD in the environment makes this test's program kd itself, for terminals that
// start programs.
const asKD = "OPENKD_TEST_AS_KD"

func TestMain(m *testing.M) {
	if os.Getenv(asKD) != "" {
		os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
	}
	// Times of image files are shown as local ones.
	os.Setenv("TZ", "UTC")
	time.Local = time.UTC
	os.Exit(m.Run())
}

// mux is a terminal multiplexer of its own, with a window for each person.
type mux struct {
	t      *testing.T
	socket string
	env    []string
}

func newMux(t *testing.T) *mux {
	t.Helper()
	if testing.Short() {
		t.Skip("it works a session in real terminals")
	}
	if _, err := exec.LookPath("tmux"); err != nil {
		t.Skip("there is no tmux")
	}
	dir, err := shortdir.Make()
	if err != nil {
		t.Fatal(err)
	}
	m := &mux{t: t, socket: filepath.Join(dir, "tmux")}
	for _, v := range os.Environ() {
		switch name, _, _ := strings.Cut(v, "="); name {
		case "TMUX", "TMUX_PANE", "NO_COLOR", "TERM", "OPENKD_PASSWORD", "GOCOVERDIR":
		default:
			m.env = append(m.env, v)
		}
	}
	m.env = append(m.env, asKD+"=1", "OPENKD_HISTORY=off", rundir.Env+"="+dir, "TERM=screen", "LC_ALL=C.UTF-8", "SHELL=/bin/sh")
	t.Cleanup(func() {
		if t.Failed() {
			names, _ := m.command("list-windows", "-F", "#{window_name}").Output()
			for _, w := range strings.Fields(string(names)) {
				text, _ := m.command("capture-pane", "-p", "-S", "-", "-t", w).Output()
				t.Logf("%s shows\n%s", w, text)
			}
		}
		m.command("kill-server").Run()
		for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
			if m.command("has-session").Run() != nil {
				break
			}
			if time.Now().After(end) {
				t.Error("tmux does not end")
				break
			}
		}
		os.RemoveAll(dir)
	})
	return m
}

func (m *mux) command(args ...string) *exec.Cmd {
	c := exec.Command("tmux", append([]string{"-S", m.socket, "-f", os.DevNull}, args...)...)
	c.Env = m.env
	return c
}

func (m *mux) tmux(args ...string) string {
	m.t.Helper()
	out, err := m.command(args...).CombinedOutput()
	if err != nil {
		m.t.Fatalf("tmux %q: %v\n%s", args, err, out)
	}
	return string(out)
}

// window is one person's terminal.
type window struct {
	m    *mux
	name string
}

// ended is the file in which a window's shell writes kd's exit code. tmux itself
// misses the end of a process now and then, until the next one ends.
func (m *mux) ended(name string) string { return filepath.Join(filepath.Dir(m.socket), name+".ended") }

// open starts kd in a window of its own, with settings in its environment.
func (m *mux) open(name string, env []string, args ...string) *window {
	m.t.Helper()
	self, err := os.Executable()
	if err != nil {
		m.t.Fatal(err)
	}
	command := "env"
	for _, a := range append(append(env, self), args...) {
		command += " '" + a + "'"
	}
	command += "; echo $? >'" + m.ended(name) + "'"
	if m.command("has-session").Run() != nil {
		m.tmux("new-session", "-d", "-x", "100", "-y", "40", "-n", name, command, ";",
			"set-option", "-g", "remain-on-exit", "on", ";", "set-option", "-g", "history-limit", "20000")
	} else {
		m.tmux("new-window", "-d", "-n", name, command)
	}
	return &window{m, name}
}

// keys presses keys by their names.
func (w *window) keys(k ...string) {
	w.m.t.Helper()
	w.m.tmux(append([]string{"send-keys", "-t", w.name}, k...)...)
}

// types types a text.
func (w *window) types(text string) { w.m.t.Helper(); w.m.tmux("send-keys", "-t", w.name, "-l", text) }

// enters types a line.
func (w *window) enters(line string) { w.m.t.Helper(); w.types(line); w.keys("Enter") }

// lines is what the window shows, and has shown, without the empty rows at its
// end. Rows that a terminal has wrapped are one line.
func (w *window) lines(flags ...string) []string {
	w.m.t.Helper()
	text := w.m.tmux(append([]string{"capture-pane", "-p", "-J", "-S", "-", "-t", w.name}, flags...)...)
	l := strings.Split(strings.TrimRight(text, " \n"), "\n")
	for i := range l {
		l[i] = strings.TrimRight(l[i], " ")
	}
	return l
}

// until waits until the window is as ok wants it.
func (w *window) until(what string, ok func(lines []string) bool) {
	w.m.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		l := w.lines()
		if ok(l) {
			return
		}
		if time.Now().After(end) {
			w.m.t.Fatalf("%s never shows %s", w.name, what)
		}
	}
}

// lastly waits until the last lines are these.
func (w *window) lastly(want ...string) {
	w.m.t.Helper()
	w.until(fmt.Sprintf("%q at its end", want), func(l []string) bool {
		return strings.HasSuffix("\n"+strings.Join(l, "\n"), "\n"+strings.Join(want, "\n"))
	})
}

// ends waits until the program has ended, with this exit code.
func (w *window) ends(code string) {
	w.m.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		text, _ := os.ReadFile(w.m.ended(w.name))
		if status, whole := strings.CutSuffix(string(text), "\n"); whole {
			if status != code {
				w.m.t.Errorf("%s ends with %q", w.name, status)
			}
			return
		}
		if time.Now().After(end) {
			w.m.t.Fatalf("%s does not end", w.name)
		}
	}
}

// widen makes the window so many columns wide. tmux moves what it shows at once, and
// tells the program a moment later.
func (w *window) widen(columns int) {
	w.m.t.Helper()
	w.m.tmux("resize-window", "-t", w.name, "-x", strconv.Itoa(columns))
	tty, err := os.OpenFile(strings.TrimSpace(w.m.tmux("display-message", "-p", "-t", w.name, "#{pane_tty}")), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		w.m.t.Fatal(err)
	}
	defer tty.Close()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		if size, err := unix.IoctlGetWinsize(int(tty.Fd()), unix.TIOCGWINSZ); err != nil || int(size.Col) == columns {
			return
		}
		if time.Now().After(end) {
			w.m.t.Fatalf("the terminal of %s has never %d columns", w.name, columns)
		}
	}
}

// coloured says whether anything that the window shows has a colour or a weight.
func (w *window) coloured() bool {
	return regexp.MustCompile("\x1b\\[[0-9;]+m").MatchString(strings.Join(w.lines("-e"), "\n"))
}

// TestTerminals: people at real terminals share a session: they join, type, edit,
// search their history, complete, paste, break in and cancel, change their window,
// take the keyboard, and leave.
func TestTerminals(t *testing.T) {
	m := newMux(t)
	own := m.open("own", nil, "-demo", "-server", "tcp:port=0,password=pw,hidden")
	own.lastly("0: kd>")
	found := doorPort.FindStringSubmatch(strings.Join(own.lines(), "\n"))
	if found == nil {
		t.Fatal("no door is shown")
	}
	door := "tcp:server=127.0.0.1,password=pw,port=" + found[1]
	ann := m.open("ann", nil, "-remote", door, "-as", "ann")
	ann.lastly("0: kd>")
	own.until("ann's coming", func(l []string) bool { return strings.Contains(strings.Join(l, "\n"), "\nann (tcp 127.0.0.1:") })

	// Typing, seen by all.
	ann.enters("? 1+1")
	ann.lastly("0: kd> ? 1+1", "Evaluate expression: 2 = 00000000`00000002", "0: kd>")
	own.lastly("[ann] 0: kd> ? 1+1", "Evaluate expression: 2 = 00000000`00000002", "0: kd>")
	// What is being typed stays, with a fresh prompt, when others work.
	ann.types(".echo hxlf")
	ann.keys("Left", "Left", "BSpace")
	ann.types("a")
	own.enters("? 5+5")
	ann.lastly("0: kd> ? 5+5", "Evaluate expression: 10 = 00000000`0000000a", "0: kd> .echo half")
	ann.keys("End")
	ann.types(" done")
	ann.keys("Enter")
	ann.lastly("0: kd> .echo half done", "half done", "0: kd>")

	// History, its search, a line given up, completion.
	ann.keys("Up", "Up")
	ann.lastly("0: kd> ? 1+1")
	ann.keys("C-c")
	ann.lastly("0: kd>")
	ann.keys("C-r")
	ann.types("1+")
	ann.lastly("(reverse-i-search)`1+': ? 1+1")
	ann.keys("Enter")
	ann.lastly("0: kd> ? 1+1", "Evaluate expression: 2 = 00000000`00000002", "0: kd>")
	ann.types(".logo")
	ann.keys("Tab")
	ann.until("the name that TAB completes", func(l []string) bool { return l[len(l)-1] == "0: kd> .logopen" })
	ann.keys("C-u")

	// A paste of several lines: each is a command, and the last one waits.
	m.tmux("set-buffer", "-b", "paste", ".echo one\n.echo two\n.echo three")
	m.tmux("paste-buffer", "-p", "-b", "paste", "-t", "ann")
	ann.lastly("0: kd> .echo one", "one", "0: kd> .echo two", "two", "0: kd> .echo three")
	ann.keys("Enter")
	ann.lastly("three", "0: kd>")

	// CTRL+C while the target runs, and while a command works.
	ann.enters("g")
	own.lastly("[ann] 0: kd> g")
	ann.keys("C-c")
	ann.until("the stop", func(l []string) bool {
		n := len(l)
		return n > 1 && strings.HasSuffix(l[n-2], "int     3") && l[n-1] == "0: kd>"
	})
	own.until("the stop", func(l []string) bool {
		n := len(l)
		return n > 1 && strings.HasSuffix(l[n-2], "int     3") && l[n-1] == "0: kd>"
	})
	ann.enters(".while (1) { }")
	own.lastly("[ann] 0: kd> .while (1) { }")
	ann.keys("C-c")
	ann.lastly("Command cancelled.", "0: kd>")

	// The window: made narrow and wide again with a line in it that is longer, while
	// others write.
	long := ".echo " + strings.Repeat("abcdefghi ", 7) + "end"
	ann.types(long)
	ann.lastly("0: kd> " + long)
	for _, width := range []int{30, 17, 120, 60} {
		ann.widen(width)
		ann.lastly("0: kd> " + long)
		own.enters(fmt.Sprintf(".echo at %d", width))
		ann.lastly(fmt.Sprintf("0: kd> .echo at %d", width), fmt.Sprintf("at %d", width), "0: kd> "+long)
	}
	ann.keys("Enter")
	ann.lastly(long[len(".echo "):], "0: kd>")
	for _, l := range ann.lines() {
		if strings.HasPrefix(l, "abcdefghi") && l != long[len(".echo "):] || strings.HasPrefix(l, ".echo") {
			t.Errorf("left on ann's screen: %q", l)
		}
	}

	// The keyboard is asked for and given, and its holder is in the prompt on request.
	own.enters(".keyboard take")
	own.lastly("the server's console holds the keyboard", "0: kd>")
	own.enters(".keyboard show")
	ann.lastly("[keyboard: the server's console] 0: kd>")
	ann.enters("? 3")
	ann.lastly("the server's console holds the keyboard; .keyboard ask asks for it", "[keyboard: the server's console] 0: kd>")
	ann.enters(".keyboard ask")
	own.lastly("ann asks the server's console for the keyboard (.keyboard give hands it over)", "[keyboard: the server's console] 0: kd>")
	own.enters(".keyboard give")
	ann.lastly("ann holds the keyboard, from the server's console", "[keyboard: ann] 0: kd>")
	ann.enters(".keyboard free")
	ann.lastly("Nobody holds the keyboard: all may type", "0: kd>")

	// Colours, none with NO_COLOR, and a terminal that knows no control sequences.
	plain := m.open("plain", []string{"NO_COLOR=1"}, "-remote", door, "-as", "plain")
	dumb := m.open("dumb", []string{"TERM=dumb"}, "-remote", door, "-as", "dumb")
	plain.lastly("0: kd>")
	dumb.lastly("0: kd>")
	dumb.enters("? 7")
	for _, w := range []*window{dumb, plain, ann} {
		w.lastly("Evaluate expression: 7 = 00000000`00000007", "0: kd>")
	}
	if !ann.coloured() || plain.coloured() || dumb.coloured() {
		t.Errorf("colours: %v at a terminal, %v with NO_COLOR, %v on a dumb one", ann.coloured(), plain.coloured(), dumb.coloured())
	}

	// Ways to leave.
	own.enters(".kick dumb")
	dumb.until("that it was sent away", func(l []string) bool {
		return strings.Contains(strings.Join(l, "\n"), "You were sent away by the server's console.")
	})
	dumb.ends("3") // as of a script that has lost its session
	plain.keys("C-b", "Enter")
	plain.ends("0")
	own.until("that it has left", func(l []string) bool { return strings.Contains(strings.Join(l, "\n"), ") disconnected at ") })
	own.enters("q")
	ann.until("the end", func(l []string) bool {
		return strings.Contains(strings.Join(l, "\n"), "the server's console has ended the session (q).")
	})
	ann.ends("0")
	own.ends("0")
}
