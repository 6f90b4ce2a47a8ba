package relay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"openkd/sharing"
)

// ClientOptions of Visit.
type ClientOptions struct {
	In         io.Reader
	Out        io.Writer
	Hello      func(sharing.Session) string // what stands above everything
	Join       func(ctx context.Context, v sharing.Viewer) (*sharing.Client, error)
	Interrupts <-chan os.Signal // CTRL+C: it is for the program
}

// Visit shows somebody else's program and types into it until the person leaves
// (@q), the input ends, or the program does. Errors: why the session could not
// be joined, or was lost.
func Visit(ctx context.Context, o ClientOptions) error {
	v := &viewer{out: o.Out, hello: o.Hello}
	c, err := o.Join(ctx, v)
	if err != nil {
		return err
	}
	defer c.Close()
	lines := make(chan string)
	over := make(chan struct{})
	defer close(over)
	go func() { // ends with the input, or with this process
		defer close(lines)
		r := bufio.NewScanner(o.In)
		r.Buffer(make([]byte, 4096), maxLine)
		for r.Scan() {
			select {
			case lines <- r.Text():
			case <-over:
				return
			}
		}
	}()
	for {
		select {
		case line, ok := <-lines:
			if !ok || strings.EqualFold(strings.TrimSpace(line), "@q") {
				c.Leave(10 * time.Second)
				return nil
			}
			for {
				_, err := c.Send(sharing.OpCommand, line)
				if !errors.Is(err, sharing.ErrBusy) {
					if err != nil {
						fmt.Fprintln(o.Out, err)
					}
					break
				}
				select {
				case <-time.After(10 * time.Millisecond):
				case <-c.Done():
				}
			}
		case <-o.Interrupts:
			c.Send(sharing.OpInterrupt, "")
		case <-c.Done():
			var e *sharing.Ended
			if err := c.Err(); errors.As(err, &e) {
				fmt.Fprintf(o.Out, "\n%v\n", err)
				return nil
			} else if err != nil {
				return err
			}
			return nil
		case <-ctx.Done():
			c.Leave(2 * time.Second)
			return nil
		}
	}
}

// viewer shows a session as text.
type viewer struct {
	out   io.Writer
	id    uint32
	hello func(sharing.Session) string
}

// Joined implements sharing.Viewer.
func (v *viewer) Joined(s sharing.Session) {
	v.id = s.ID
	if v.hello != nil {
		io.WriteString(v.out, v.hello(s))
		v.hello = nil
	}
}

// Entry implements sharing.Viewer.
func (v *viewer) Entry(e sharing.Entry, mine uint64) {
	switch e.Kind {
	case sharing.EntryText, sharing.EntryEvent:
		io.WriteString(v.out, e.Text)
	case sharing.EntryNotice:
		if e.Name != "joined" || e.From != v.id {
			io.WriteString(v.out, e.Text)
		}
	case sharing.EntryCommand:
		switch {
		case mine > 0: // it stands there, as it was typed
		case e.From == 0:
			fmt.Fprintf(v.out, "%s%s\n", e.Prompt, e.Text)
		default:
			fmt.Fprintf(v.out, "[%s] %s%s\n", e.Who, e.Prompt, e.Text)
		}
	case sharing.EntryPrompt:
		if e.Prompt != "" && (e.From == 0 || e.From == v.id) {
			io.WriteString(v.out, e.Prompt)
		}
	}
}

// Reply implements sharing.Viewer.
func (v *viewer) Reply(_ uint64, _, _ bool, text string) {
	if text != "" {
		io.WriteString(v.out, strings.TrimRight(text, "\n")+"\n")
	}
}

// Link implements sharing.Viewer.
func (v *viewer) Link(text string) { fmt.Fprintln(v.out, text) }
