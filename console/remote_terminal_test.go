//go:build unix

package console

import (
	"context"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"openkd/console/lineedit/vttest"
	"openkd/internal/captured"
	"openkd/sharing"
)

// farDesk is a person at a terminal, at somebody else's session.
type farDesk struct {
	t           *testing.T
	master, tty *os.File
	vt          *vttest.Screen
	raw         *captured.Text
	code        chan int
	stall       sync.Mutex // held: the terminal takes nothing
}

func newFarDesk(t *testing.T, p *shared, name string, env map[string]string) *farDesk {
	t.Helper()
	master, tty, err := pty.Open()
	if err != nil {
		t.Skip("no pty: ", err)
	}
	d := &farDesk{t: t, master: master, tty: tty, vt: vttest.New(80, 24), raw: new(captured.Text), code: make(chan int, 1)}
	d.size(80, 24)
	before, err := term.GetState(descriptor(tty))
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() { defer close(read); io.Copy(gated{io.MultiWriter(d.vt, d.raw), &d.stall}, master) }()
	go func() {
		code, err := RunRemote(context.Background(), RemoteOptions{
			In: tty, Out: tty, Err: tty, Signals: make(chan os.Signal), backlog: 16 << 10,
			Terminal: Terminal{Getenv: func(n string) string { return env[n] }},
			Join: func(ctx context.Context, v sharing.Viewer) (*sharing.Client, error) {
				return sharing.Join(ctx, sharing.ClientOptions{Name: name, Where: "here", Dial: p.dial}, v)
			},
		})
		if err != nil {
			t.Error(err)
		}
		d.code <- code
	}()
	t.Cleanup(func() {
		if after, err := term.GetState(descriptor(tty)); err != nil || *after != *before {
			t.Error("the terminal is not as it was before")
		}
		tty.Close()
		master.Close()
		<-read
	})
	return d
}

func (d *farDesk) size(w, h int) {
	unix.IoctlSetWinsize(descriptor(d.tty), unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(h), Col: uint16(w)})
}

func (d *farDesk) press(keys string) { io.WriteString(d.master, keys) }

func (d *farDesk) until(what string, ok func(lines []string) bool) {
	d.t.Helper()
	limit := time.After(30 * time.Second)
	for {
		changed := d.vt.Changed()
		var lines []string
		for _, l := range d.vt.All() {
			lines = append(lines, strings.TrimRight(l, " "))
		}
		if ok(lines) {
			return
		}
		select {
		case <-changed:
		case <-time.After(10 * time.Millisecond): // not all that is waited for is on it
		case <-limit:
			d.t.Fatalf("the screen never shows %s:\n%s", what, strings.Join(lines, "\n"))
		}
	}
}

func (d *farDesk) lastly(want ...string) {
	d.t.Helper()
	d.until(strings.Join(want, " / ")+" at its end", func(lines []string) bool {
		return len(lines) >= len(want) && slices.Equal(lines[len(lines)-len(want):], want)
	})
}

// TestRemoteTerminal: a person at a real terminal joins, types while others do,
// asks for what he typed before, presses CTRL+C while something runs, makes the
// window narrower, sees control characters instead of obeying them, and leaves
// with the terminal as it was.
func TestRemoteTerminal(t *testing.T) {
	p := share(t)
	ann := newFarDesk(t, p, "ann", map[string]string{"TERM": "xterm", "NO_COLOR": "1"})
	ann.lastly("0: kd>")
	ann.press("r rip\r")
	ann.until("the answer", func(l []string) bool { return slices.Contains(l, "answer 1 to r rip of ann") })
	ann.lastly("done 1", "0: kd>")
	if n := strings.Count(strings.Join(ann.vt.All(), "\n"), "0: kd> r rip"); n != 1 {
		t.Errorf("the line that was typed stands there %d times", n)
	}

	// Another one types while a line is half written here.
	ben := newFarDesk(t, p, "ben", map[string]string{"TERM": "xterm"})
	ben.lastly("0: kd>")
	ann.press("half a")
	ann.lastly("0: kd> half a")
	ben.press("k\x1b]0;evil\x07\r") // the editor takes no such thing as text
	ben.press("\r")
	ben.press("lm\r")
	ann.until("what ben typed", func(l []string) bool { return slices.Contains(l, "[ben] 0: kd> lm") })
	ann.lastly("0: kd> half a")
	ann.press(" line\r")
	ann.until("the whole line's answer", func(l []string) bool {
		return slices.ContainsFunc(l, func(s string) bool { return strings.HasSuffix(s, "to half a line of ann") })
	})

	// What the program writes does not act.
	p.say("\x1b]0;title\x07\x1b[2Jred\n")
	ann.until("the control characters", func(l []string) bool { return slices.Contains(l, "^[]0;title^G^[[2Jred") })

	// History.
	ann.press("\x1b[A\x1b[A")
	ann.lastly("0: kd> r rip")
	ann.press("\x03") // clears the line
	ann.lastly("0: kd>")

	// A narrow window.
	ann.size(40, 24)
	ann.vt.Resize(40, 24)
	ann.press(strings.Repeat("abcdefghi ", 5))
	ann.until("a line that goes on below", func(l []string) bool {
		text := strings.Join(l, "")
		return strings.Contains(text, "0: kd> abcdefghi abcdefghi abcdefghi abcdefghi abcdefghi")
	})
	ann.press("\x15")

	// CTRL+C while a command runs.
	ann.press("block\r")
	ann.until("the command", func([]string) bool { return p.blocked() })
	ann.press("\x03")
	ann.until("the end of it", func(l []string) bool {
		return slices.ContainsFunc(l, func(s string) bool { return strings.HasPrefix(s, "interrupted") })
	})
	ann.lastly("0: kd>")

	if raw := ann.raw.String(); strings.Contains(raw, "\x1b]0;") || strings.Contains(raw, "\x1b[31m") || strings.Contains(raw, "\x1b[1;") {
		t.Errorf("something acted on the terminal, or was coloured: %q", raw)
	}
	ann.press("block\r")
	ann.until("the command", func([]string) bool { return p.blocked() })
	ann.press("\x02\r") // CTRL+B, while no prompt is shown
	if code := <-ann.code; code != ExitOK {
		t.Errorf("leaving ends with %d", code)
	}
	p.interrupt()
	// Which of the two comes first is chance, and CTRL+B without a prompt leaves.
	ben.until("ann's leaving and a prompt", func(l []string) bool {
		return l[len(l)-1] == "0: kd>" &&
			slices.ContainsFunc(l, func(s string) bool { return strings.HasPrefix(s, "ann (pipe) disconnected at") })
	})
	// At a prompt CTRL+B goes back in a line, and on an empty one leaves with ENTER.
	ben.press("lx\x02\x02\x1b[3~\x1b[3~km\x02\x02\x0b\x02k\r")
	ben.until("a line, not the end", func(l []string) bool {
		return slices.ContainsFunc(l, func(s string) bool { return strings.HasSuffix(s, " to k of ben") })
	})
	ben.lastly("0: kd>")
	ben.press("\x02\r")
	if code := <-ben.code; code != ExitOK {
		t.Errorf("leaving ends with %d", code)
	}
}

// TestRemoteCompletion: TAB at a client asks the server, once; keys that follow
// wait a moment for the answer, and no longer.
func TestRemoteCompletion(t *testing.T) {
	p := share(t)
	ann := newFarDesk(t, p, "ann", map[string]string{"TERM": "xterm"})
	ann.lastly("0: kd>")
	ann.press(".l\t")
	ann.lastly("0: kd> .log", "logclose  logopen")
	ann.press("o\tx\ty") // keys behind it, and a TAB for which there is nothing
	ann.lastly("0: kd> .logopen xy")
	if got, want := p.completions(), []string{".l", ".logo", ".logopen x"}; !slices.Equal(got, want) {
		t.Errorf("asked for %q", got)
	}
	ann.press("\x15")

	// The answer is late, and something was typed meanwhile.
	later := make(chan struct{})
	p.mu.Lock()
	p.later = later
	p.mu.Unlock()
	ann.press(".logo\tabc")
	ann.lastly("0: kd> .logoabc")
	p.mu.Lock()
	p.later = nil
	p.mu.Unlock()
	close(later)
	ann.press("\r")
	ann.until("the answer", func(l []string) bool { return slices.Contains(l, "answer 1 to .logoabc of ann") })
	ann.lastly("done 1", "0: kd>")

	// CTRL+C gives it up.
	later = make(chan struct{})
	p.mu.Lock()
	p.later = later
	p.mu.Unlock()
	ann.press(".logo\tabc\x03k")
	ann.lastly("0: kd> k")
	close(later)
	ann.press("\r")
	ann.until("the answer", func(l []string) bool { return slices.Contains(l, "answer 2 to k of ann") })
	ann.press(".key b\r")
	<-ann.code
}
