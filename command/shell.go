package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// shellOptions are what stands between .shell and its command.
type shellOptions struct {
	in, out, errs string // -i - gives no input
	commands      string // -ci: their output is its input
	wait          time.Duration
	detached      bool // -x
}

// shellPatience is how long a command runs before it is asked whether it wants
// input.
const shellPatience = 500 * time.Millisecond

func (c *Call) shellOptions() (o shellOptions, command string, err error) {
	rest := strings.TrimSpace(c.Args)
	for strings.HasPrefix(rest, "-") {
		word, after := cutWord(rest)
		value := func(dst *string) error {
			text, left, ok, err := c.CutString(after)
			if err != nil {
				return err
			}
			if !ok {
				text, left = cutWord(after)
			}
			if text == "" {
				return c.Syntax(word)
			}
			*dst, after = text, strings.TrimSpace(left)
			return nil
		}
		switch word {
		case "-i":
			err = value(&o.in)
		case "-o":
			err = value(&o.out)
		case "-e":
			err = value(&o.errs)
		case "-ci":
			err = value(&o.commands)
		case "-x":
			o.detached = true
		case "-t":
			var text string
			if err = value(&text); err == nil {
				n, bad := strconv.Atoi(text)
				if bad != nil || n < 1 || n > 24*3600 {
					return o, "", c.Fault("Range error", text, "-t takes seconds, 1 to 86400")
				}
				o.wait = time.Duration(n) * time.Second
			}
		default:
			return o, "", c.Syntax(word)
		}
		if err != nil {
			return o, "", err
		}
		rest = after
	}
	return o, rest, nil
}

// cmdShell runs a command where the debugger runs, with the debugger's rights.
func cmdShell(c *Call) error {
	if c.S.guards.noShell {
		return errors.New("shell commands are forbidden (.noshell or -noshell)")
	}
	o, command, err := c.shellOptions()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(c.Ctx)
	defer cancel()
	if o.detached {
		cmd := systemShell(context.Background(), command)
		if err := cmd.Start(); err != nil {
			return fmt.Errorf(".shell: %w", err)
		}
		go cmd.Wait() // it outlives the command on purpose; nobody waits for what it says
		c.Printf(".shell: Process %d started\n", cmd.Process.Pid)
		return nil
	}
	cmd := systemShell(ctx, command)
	cmd.WaitDelay = 2 * time.Second // for grandchildren that hold the pipes
	var files []io.Closer
	defer func() {
		for _, f := range files {
			f.Close()
		}
	}()
	file := func(name string) (io.Writer, error) {
		f, err := os.Create(name)
		if err == nil {
			files = append(files, f)
		}
		return f, err
	}
	// One pointer for both: the command then has one pipe, and what it writes
	// keeps its order.
	shown := &shellOut{c: c}
	cmd.Stdout, cmd.Stderr = shown, shown
	if o.out != "" {
		if cmd.Stdout, err = file(o.out); err != nil {
			return err
		}
	}
	if o.errs != "" {
		if cmd.Stderr, err = file(o.errs); err != nil {
			return err
		}
	}
	asks := false
	var stdin io.WriteCloser
	switch {
	case o.in == "-" && o.commands == "": // it finds the end of its input
	case o.in != "" && o.in != "-":
		f, err := os.Open(o.in)
		if err != nil {
			return err
		}
		files = append(files, f)
		cmd.Stdin = f
	case o.commands != "":
		text, err := c.S.capture(ctx, o.commands)
		if err != nil {
			return err
		}
		cmd.Stdin = strings.NewReader(text)
	case c.S.Input != nil:
		if stdin, err = cmd.StdinPipe(); err != nil {
			return err
		}
		asks = true
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf(".shell: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	if o.wait > 0 {
		t := time.AfterFunc(o.wait, cancel)
		defer t.Stop()
	}
	if asks {
		err = c.shellInput(ctx, shown, stdin, ended, command != "")
	} else {
		err = <-ended
	}
	switch {
	case c.Ctx.Err() != nil:
		return c.Ctx.Err()
	case ctx.Err() != nil:
		return fmt.Errorf(".shell: the command did not end within %v and was ended", o.wait)
	}
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return fmt.Errorf(".shell: %w", err)
	}
	if exit != nil && exit.ExitCode() != 0 {
		c.Printf(".shell: Process exited, code %d\n", exit.ExitCode())
		return nil
	}
	c.Printf(".shell: Process exited\n")
	return nil
}

// shellInput hands lines to a running command until it ends.
func (c *Call) shellInput(ctx context.Context, out io.Writer, stdin io.WriteCloser, ended chan error, quick bool) error {
	defer stdin.Close()
	if quick {
		// How long a command takes depends on the machine, so a script says -i -
		// where its next line must not become input.
		var over <-chan time.Time
		if c.S.shellWait != nil {
			over = c.S.shellWait()
		} else {
			t := time.NewTimer(shellPatience)
			defer t.Stop()
			over = t.C
		}
		select {
		case err := <-ended:
			return err
		case <-over:
		}
		select {
		case err := <-ended: // on a busy machine both have happened
			return err
		default:
			io.WriteString(out, "<.shell process may need input; .shell_quit leaves it without more>\n")
		}
	}
	asking, stop := context.WithCancel(ctx)
	defer stop()
	result := make(chan error, 1)
	go func() {
		result <- <-ended
		stop()
	}()
	for {
		line, err := c.S.Input(asking, "Input> ")
		switch {
		case err != nil, strings.TrimSpace(line) == ".shell_quit":
			stdin.Close()
			return <-result
		}
		if _, err := io.WriteString(stdin, line+"\n"); err != nil {
			return <-result
		}
	}
}

// shellOut is where a command's output and our notices go: a Write of the
// session is never torn apart.
type shellOut struct {
	mu sync.Mutex
	c  *Call
}

func (o *shellOut) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.c.Write(b)
}
