//go:build unix

package console

import (
	"context"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"openkd/target"
)

// TestTerminal drives the line editor over a pty: a prompt, an edited line,
// history, CTRL+C and CTRL+F while the target runs, text above the prompt, and
// a terminal that is given back as it was.
func TestTerminal(t *testing.T) {
	master, tty, err := pty.Open()
	if err != nil {
		t.Skip("no pty: ", err)
	}
	defer tty.Close()
	unix.IoctlSetWinsize(descriptor(tty), unix.TIOCSWINSZ, &unix.Winsize{Row: 25, Col: 100})
	before, err := term.GetState(descriptor(tty))
	if err != nil {
		t.Fatal(err)
	}
	screen := newSafe()
	read := make(chan struct{})
	go func() { defer close(read); io.Copy(screen, master) }()
	r := newRig(nil)
	r.opt.In, r.opt.Out = tty, tty
	code := make(chan int, 1)
	go func() { code <- Run(context.Background(), r.opt) }()
	r.met()
	typed := func(s string) { io.WriteString(master, s) }
	resumes := func(n int) {
		t.Helper()
		for limit := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			if _, got := r.f.LastResume(); got >= n {
				return
			}
			if time.Now().After(limit) {
				t.Fatalf("no resume %d:\n%q", n, screen.String())
			}
		}
	}
	screen.until(t, "0: kd> ")
	typed(".echx\x7fo edited\r")
	screen.until(t, "\r\nedited\r\n")
	typed("not this\x03.echo other\r") // CTRL+C clears the line
	screen.until(t, "\r\nother\r\n")
	typed("\x1b[A\x1b[A\r") // history
	for strings.Count(screen.String(), "\r\nedited\r\n") < 2 {
		time.Sleep(time.Millisecond)
	}
	typed("g\r")
	resumes(1)
	r.f.Send(target.Event{Kind: target.EventPrint, Text: "printed by the target\n"})
	screen.until(t, "\r\nprinted by the target\r\n")
	r.f.Send(target.Event{Kind: target.EventPrint, Text: "\x1b]0;mine\a\x1b[2Jcontrols by the target\n"})
	screen.until(t, "^[]0;mine^G^[[2Jcontrols by the target\r\n")
	typed(".echo ahead\r") // waits for the stop
	typed("\x06")          // CTRL+F
	screen.until(t, "\r\nahead\r\n")
	typed("g\r")
	resumes(2)
	typed(".key break\r")
	for strings.Count(screen.String(), "int     3") < 3 {
		time.Sleep(time.Millisecond)
	}
	typed(".while (1) { }\r")
	for !strings.Contains(screen.String(), "Command cancelled.") {
		typed("\x03")
		time.Sleep(5 * time.Millisecond)
	}
	typed("\x04") // CTRL+D at an empty line: the end of the input
	if c := <-code; c != ExitOK {
		t.Errorf("exit %d\n%q", c, screen.String())
	}
	after, err := term.GetState(descriptor(tty))
	if err != nil || *after != *before {
		t.Errorf("the terminal is not as it was: %v", err)
	}
	if len(r.f.Left) != 1 || r.f.Left[0] != target.LeaveRunning {
		t.Errorf("left %v", r.f.Left)
	}
	tty.Close()
	master.Close()
	<-read
}
