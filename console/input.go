package console

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"time"
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
	maxAhead     = 4 << 20 // bytes of lines at a terminal
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

// descriptor is the file's own number. File.Fd would make the file blocking,
// and a read of it could not be interrupted any more.
func descriptor(f *os.File) int {
	n := -1
	if c, err := f.SyscallConn(); err == nil {
		c.Control(func(fd uintptr) { n = int(fd) })
	}
	return n
}
