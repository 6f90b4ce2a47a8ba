package console

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"
)

// source is where lines come from.
//
// next is called by the owner only. The functions given to start are called
// from the reader's goroutine and must not block.
type source interface {
	// next shows the prompt and returns the next line; io.EOF at the end, the
	// context's error when it ends first.
	next(ctx context.Context, prompt string) (string, error)
	// ended says whether no line is left and none will come.
	ended() bool
	// first is the line that comes next, if it is there. Only the owner, or
	// somebody for whom it waits, may ask.
	first() (string, bool)
	// output is where text for the person goes.
	output() io.Writer
	// start begins to read.
	start()
	close()
}

// keys are what the reader does by itself.
type keys struct {
	key    func(k byte) bool      // a control key; true: served
	line   func(line string) bool // a line that does not wait; true: served
	change func()                 // a line came, or the end
}

// Limits of what is typed ahead.
const (
	maxLines     = 10000   // lines
	maxLineBytes = 1 << 20 // bytes of a line
	maxAhead     = 1 << 16 // bytes of keys
)

// plain reads lines from a stream that is no terminal.
type plain struct {
	out  io.Writer
	in   io.Reader
	keys keys

	mu    sync.Mutex
	lines []string
	eof   bool
	room  chan struct{} // a line was taken
	some  chan struct{} // a line came, or the end
	done  chan struct{} // close was called
	gone  chan struct{} // the reader has ended
}

func newPlain(in io.Reader, out io.Writer, k keys) *plain {
	return &plain{out: out, in: in, keys: k, room: make(chan struct{}, 1), some: make(chan struct{}, 1), done: make(chan struct{}), gone: make(chan struct{})}
}

func (p *plain) start() { go p.read() }

func (p *plain) output() io.Writer { return p.out }

func (p *plain) read() {
	defer close(p.gone)
	defer func() {
		p.mu.Lock()
		p.eof = true
		p.mu.Unlock()
		poke(p.some)
		p.keys.change()
	}()
	if p.in == nil {
		return
	}
	r := bufio.NewReaderSize(p.in, 4096)
	for {
		line, err := readLine(r)
		if line != "" || err == nil {
			if !p.served(line) {
				for {
					p.mu.Lock()
					full := len(p.lines) >= maxLines
					if !full {
						p.lines = append(p.lines, line)
					}
					p.mu.Unlock()
					if !full {
						break
					}
					select {
					case <-p.room:
					case <-p.done:
						return
					}
				}
				poke(p.some)
				p.keys.change()
			}
		}
		if err != nil {
			return
		}
		select {
		case <-p.done:
			return
		default:
		}
	}
}

// served handles control keys, which stand alone on a line without a terminal,
// and lines that do not wait.
func (p *plain) served(line string) bool {
	t := strings.TrimSpace(line)
	if len(t) == 1 && t[0] < 0x20 {
		return p.keys.key(t[0])
	}
	return p.keys.line(line)
}

// readLine reads a line of bounded length, without its end.
func readLine(r *bufio.Reader) (string, error) {
	var b []byte
	for {
		part, err := r.ReadSlice('\n')
		if len(b)+len(part) <= maxLineBytes {
			b = append(b, part...)
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		return strings.TrimRight(string(b), "\r\n"), err
	}
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (p *plain) ended() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.eof && len(p.lines) == 0
}

func (p *plain) first() (string, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.lines) == 0 {
		return "", false
	}
	return p.lines[0], true
}

func (p *plain) next(ctx context.Context, prompt string) (string, error) {
	if prompt != "" {
		io.WriteString(p.out, prompt)
	}
	for {
		p.mu.Lock()
		if len(p.lines) > 0 {
			l := p.lines[0]
			p.lines = p.lines[1:]
			p.mu.Unlock()
			poke(p.room)
			return l, nil
		}
		eof := p.eof
		p.mu.Unlock()
		if eof {
			return "", io.EOF
		}
		select {
		case <-p.some:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

// close ends the reader. A read that the system cannot interrupt (a blocking
// standard input) ends with the process.
func (p *plain) close() {
	close(p.done)
	if interruptRead(p.in) {
		bounded(p.gone)
	}
}

// bounded waits for a reader that was interrupted. A stream that somebody has
// made blocking is not interrupted after all.
func bounded(gone chan struct{}) {
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-gone:
	case <-t.C:
	}
}

// interruptRead unblocks a read where the stream can.
func interruptRead(in io.Reader) bool {
	switch f := in.(type) {
	case nil:
		return true
	case *os.File:
		return f.SetReadDeadline(time.Unix(1, 0)) == nil
	case io.Closer:
		return f.Close() == nil
	}
	return false
}

// terminal is a line editor on a terminal.
type terminal struct {
	in, out *os.File
	keys    keys
	state   *term.State
	t       *term.Terminal
	gone    chan struct{}

	mu     sync.Mutex
	cond   *sync.Cond
	ahead  []byte
	eof    bool
	asking bool // a prompt is shown: keys belong to the editor

	lines chan result // of the ReadLine in flight
	busy  bool        // one is in flight; the owner's
}

type result struct {
	line string
	err  error
}

// newTerminal takes the terminal over.
func newTerminal(in, out *os.File, k keys) (*terminal, error) {
	state, err := term.MakeRaw(descriptor(in))
	if err != nil {
		return nil, err
	}
	c := &terminal{in: in, out: out, keys: k, state: state, gone: make(chan struct{}), lines: make(chan result, 1)}
	c.cond = sync.NewCond(&c.mu)
	c.t = term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{editorInput{c}, out}, "")
	return c, nil
}

func (c *terminal) start() { go c.read() }

func (c *terminal) output() io.Writer { return c.t }

// read takes keys from the keyboard all the time.
func (c *terminal) read() {
	defer close(c.gone)
	buf := make([]byte, 256)
	for {
		n, err := c.in.Read(buf)
		for _, b := range buf[:n] {
			c.mu.Lock()
			asking := c.asking
			c.mu.Unlock()
			switch {
			case b == 0x03 && asking:
				b = 0x15 // clears the line
			case b < 0x20 && b != '\r' && b != '\n' && b != '\t' && b != 0x1b && b != 0x08 && (!asking || b == 0x03):
				if c.keys.key(b) {
					continue
				}
			}
			if !asking && (b == '\r' || b == '\n') && c.aside() {
				continue
			}
			c.mu.Lock()
			if len(c.ahead) < maxAhead {
				c.ahead = append(c.ahead, b)
			}
			c.cond.Broadcast()
			c.mu.Unlock()
			if !asking && (b == '\r' || b == '\n') {
				c.keys.change()
			}
		}
		if err != nil {
			c.mu.Lock()
			c.eof = true
			c.cond.Broadcast()
			c.mu.Unlock()
			c.keys.change()
			return
		}
	}
}

// aside serves a line that was typed while no prompt is shown and does not
// wait for one.
func (c *terminal) aside() bool {
	c.mu.Lock()
	from := bytes.LastIndexAny(c.ahead, "\r\n") + 1
	line := string(c.ahead[from:])
	c.mu.Unlock()
	if !c.keys.line(line) {
		return false
	}
	c.mu.Lock()
	if from <= len(c.ahead) && string(c.ahead[from:]) == line {
		c.ahead = c.ahead[:from]
	}
	c.mu.Unlock()
	return true
}

// editorInput is the editor's view of the keyboard.
type editorInput struct{ c *terminal }

func (e editorInput) Read(b []byte) (int, error) {
	c := e.c
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.ahead) == 0 && !c.eof {
		c.cond.Wait()
	}
	if len(c.ahead) == 0 {
		return 0, io.EOF
	}
	// One line at a time, so that what follows stays typed ahead.
	n := len(c.ahead)
	for i, k := range c.ahead {
		if k == '\r' || k == '\n' {
			n = i + 1
			break
		}
	}
	n = copy(b, c.ahead[:n])
	c.ahead = c.ahead[n:]
	return n, nil
}

func (c *terminal) ended() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.eof && len(c.ahead) == 0
}

func (c *terminal) first() (string, bool) {
	if c.busy {
		select {
		case r := <-c.lines:
			c.lines <- r
			return r.line, r.err == nil
		default:
			return "", false
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := bytes.IndexAny(c.ahead, "\r\n")
	return string(c.ahead[:max(n, 0)]), n >= 0
}

func (c *terminal) next(ctx context.Context, prompt string) (string, error) {
	for {
		if !c.busy {
			if w, h, err := term.GetSize(descriptor(c.out)); err == nil && w > 0 && h > 0 {
				c.t.SetSize(w, h)
			}
			c.t.SetPrompt(prompt)
			c.ask(true)
			c.busy = true
			go func() {
				l, err := c.t.ReadLine()
				c.lines <- result{l, err}
				c.keys.change()
			}()
		} else {
			c.ask(true)
		}
		select {
		case r := <-c.lines:
			c.busy = false
			c.ask(false)
			if errors.Is(r.err, term.ErrPasteIndicator) {
				r.err = nil
			}
			if c.keys.line(r.line) && r.err == nil {
				continue
			}
			return r.line, r.err
		case <-ctx.Done():
			c.ask(false)
			return "", ctx.Err()
		}
	}
}

func (c *terminal) ask(on bool) {
	c.mu.Lock()
	c.asking = on
	c.mu.Unlock()
}

// close gives the terminal back. The reader blocked on the keyboard ends with
// the process where the system cannot interrupt it.
func (c *terminal) close() {
	if c.busy {
		io.WriteString(c.t, "\n")
	}
	term.Restore(descriptor(c.in), c.state)
	if interruptRead(c.in) {
		bounded(c.gone)
	}
	c.mu.Lock()
	c.eof = true
	c.ahead = nil
	c.cond.Broadcast()
	c.mu.Unlock()
	if c.busy {
		<-c.lines
	}
}

// descriptor is the file's own number. File.Fd would make the file blocking,
// and a read of it could not be interrupted any more.
func descriptor(f *os.File) int {
	n := -1
	if c, err := f.SyscallConn(); err == nil {
		c.Control(func(fd uintptr) { n = int(fd) })
	}
	return n
}
