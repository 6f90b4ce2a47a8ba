package command

import (
	"context"
	"errors"
	"io"
	"runtime"
	"testing"
	"time"
)

// TestShellInput: when a command of the system is asked for input, and when not.
// The time that a command may take before stands still here, or is over.
func TestShellInput(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the commands are those of a POSIX shell")
	}
	r := newRig(t, 1)
	over := make(chan time.Time)
	close(over)
	never := func() <-chan time.Time { return nil }
	at := func() <-chan time.Time { return over }
	const notice = "<.shell process may need input; .shell_quit leaves it without more>\n"
	for _, c := range []struct {
		line  string
		wait  func() <-chan time.Time
		lines []string // that are typed
		want  string
		asked int
	}{
		{".shell echo hello; echo more >&2", never, nil, "hello\nmore\n.shell: Process exited\n", 0},
		{".shell exit 3", never, nil, ".shell: Process exited, code 3\n", 0},
		{".shell -i - cat", at, nil, ".shell: Process exited\n", 0},
		{".shell -i - -ci \"r rip\" tr a-z A-Z", at, nil, "RIP=FFFFF80319E4CA60\n.shell: Process exited\n", 0},
		{".shell read a; read b; echo $b $a", at, []string{"one", "two"}, notice + "two one\n.shell: Process exited\n", 3},
		{".shell cat", at, []string{"one", ".shell_quit"}, notice + "one\n.shell: Process exited\n", 2},
		{".shell cat; exit 2", at, []string{"one", "EOF"}, notice + "one\n.shell: Process exited, code 2\n", 2},
	} {
		asked := 0
		r.s.shellWait = c.wait
		r.s.Input = func(ctx context.Context, prompt string) (string, error) {
			if asked++; prompt != "Input> " {
				t.Errorf("the prompt is %q", prompt)
			}
			switch {
			case asked > len(c.lines): // nobody types: until the command has ended
				<-ctx.Done()
				return "", ctx.Err()
			case c.lines[asked-1] == "EOF":
				return "", io.EOF
			}
			return c.lines[asked-1], nil
		}
		r.do(c.line, c.want)
		if asked != c.asked {
			t.Errorf("%s: it was asked for %d times, want %d", c.line, asked, c.asked)
		}
	}
	// Ctrl+C ends a command that waits for input.
	ctx, cancel := context.WithCancel(r.ctx)
	r.s.Input = func(ctx context.Context, _ string) (string, error) {
		cancel()
		<-ctx.Done()
		return "", ctx.Err()
	}
	if err := r.s.Execute(ctx, ".shell cat"); !errors.Is(err, context.Canceled) {
		t.Errorf("after Ctrl+C: %v", err)
	}
}
