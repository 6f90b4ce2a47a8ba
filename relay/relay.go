// Package relay shares the console of any program, as Microsoft's remote.exe
// does: the program runs beside a hub of package sharing, what it writes goes to
// everybody, and what anybody types is its input, in the order of arrival.
//
// It is no terminal emulator: programs that paint a screen are shown as the
// bytes that they write. On Unix the program has a terminal of its own, without
// echo, so that it writes its prompts at once; on Windows it has pipes, as with
// the original. Lines that begin with @ are for the relay itself.
//
// Facts: "Remote Tool", "Remote.exe: client and server command lines" of the
// Debugging Tools documentation.
package relay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"openkd/sharing"
)

// Options of Serve.
type Options struct {
	Command string    // for the system's shell
	In      io.Reader // of the person here; nil: none
	Out     io.Writer
	Hub     *sharing.Hub
	// Interrupts brings CTRL+C of the person here: it is for the program.
	Interrupts <-chan os.Signal
}

// maxLine bounds what is typed here at once.
const maxLine = sharing.MaxLine

const helpText = `@q leaves (at a client), @k ends the program (at the server), @m <text> is shown to all,
@p <text> too, with a mark, @h shows this. Everything else is typed into the program.
`

// Serve runs the program until it ends or ctx does, and returns its exit code.
// The hub is closed with it.
func Serve(ctx context.Context, o Options) (code int, err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	p, err := start(o.Command)
	if err != nil {
		return 1, fmt.Errorf("the program cannot be started: %w", err)
	}
	s := &server{o: o, p: p, stop: stop, lines: make(chan string, 64), arrival: make(chan struct{}, 1)}
	o.Hub.OnArrival(func() {
		select {
		case s.arrival <- struct{}{}:
		default:
		}
	})
	o.Hub.Attach(s)
	var wg sync.WaitGroup
	shown := make(chan struct{})
	wg.Go(func() {
		defer close(shown)
		s.output()
	})
	if o.In != nil {
		go s.read() // ends with the input, or with this process
	}
	over := make(chan struct{})
	typed := make(chan struct{})
	go func() {
		defer close(typed)
		s.feed(over)
	}()
	wg.Go(func() {
		for {
			select {
			case <-o.Interrupts:
				p.interrupt()
			case <-over:
				return
			}
		}
	})
	ended := make(chan error, 1)
	go func() { ended <- p.cmd.Wait() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		p.end()
		t := time.NewTimer(3 * time.Second)
		defer t.Stop()
		select {
		case err = <-ended:
		case <-t.C:
			p.kill()
			err = <-ended
		}
	}
	close(over)
	// What it wrote last is still to be read; a child of it may hold the terminal
	// open for ever.
	t := time.NewTimer(time.Second)
	defer t.Stop()
	select {
	case <-shown:
	case <-t.C:
	}
	p.close()
	wg.Wait()
	<-typed
	code = 0
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		code = max(exit.ExitCode(), 1)
	case err != nil:
		code = 1
	}
	text := fmt.Sprintf("The program has ended, code %d.", code)
	if s.killed.Load() {
		text = "The program was ended at the server."
	}
	o.Hub.Close(text)
	return code, nil
}

// server is the program with its person.
type server struct {
	o       Options
	p       *process
	stop    context.CancelFunc
	order   sync.Mutex // of what is shown here and what is appended
	lines   chan string
	arrival chan struct{}
	killed  atomic.Bool
}

// put shows a text here and to everybody.
func (s *server) put(e sharing.Entry) {
	s.order.Lock()
	defer s.order.Unlock()
	s.o.Hub.Append(e)
	io.WriteString(s.o.Out, e.Text)
}

// output passes on what the program writes.
func (s *server) output() {
	buf := make([]byte, 16<<10)
	for {
		n, err := s.p.out.Read(buf)
		if n > 0 {
			s.put(sharing.Entry{Kind: sharing.EntryText, Text: string(buf[:n])})
		}
		if err != nil {
			return
		}
	}
}

// read reads the person here.
func (s *server) read() {
	r := bufio.NewScanner(s.o.In)
	r.Buffer(make([]byte, 4096), maxLine)
	for r.Scan() {
		line := r.Text()
		if text, served := s.own(sharing.Person{}, line); served {
			s.order.Lock()
			io.WriteString(s.o.Out, text)
			s.order.Unlock()
			continue
		}
		s.lines <- line
	}
}

// feed types lines into the program, in the order in which they came.
func (s *server) feed(over chan struct{}) {
	write := func(line string) {
		// A program that reads nothing holds this up, until it ends.
		io.WriteString(s.p.in, line+"\n")
	}
	for {
		if l, ok := s.o.Hub.Take(func() bool { return false }); ok {
			s.order.Lock()
			s.o.Hub.Command(l, "")
			fmt.Fprintf(s.o.Out, "[%s] %s\n", l.Name, l.Text)
			s.order.Unlock()
			write(l.Text)
			s.o.Hub.Append(sharing.Entry{Kind: sharing.EntryResult, From: l.ID, Who: l.Name, ID: l.Request, OK: true, Name: "running"})
			continue
		}
		select {
		case line := <-s.lines:
			s.order.Lock()
			s.o.Hub.Command(sharing.Line{Text: line}, "")
			s.order.Unlock()
			write(line)
		case <-s.arrival:
		case <-over:
			return
		}
	}
}

// own serves lines that begin with @.
func (s *server) own(who sharing.Person, line string) (text string, served bool) {
	if !strings.HasPrefix(line, "@") {
		return "", false
	}
	word, rest, _ := strings.Cut(line, " ")
	switch strings.ToLower(word) {
	case "@h", "@?":
		return helpText, true
	case "@m":
		s.tell(who, "["+who.String()+"] "+rest+"\n")
	case "@p":
		s.tell(who, "*** ["+who.String()+"] "+rest+" ***\n")
	case "@k":
		if !who.Local() {
			return "@k ends the program at the server only; @q leaves.\n", true
		}
		s.killed.Store(true)
		s.stop()
	case "@q":
		if !who.Local() {
			return "", true // the client's own
		}
		return "@q leaves at a client; here @k ends the program.\n", true
	default:
		return "", false // for the program
	}
	return "", true
}

func (s *server) tell(who sharing.Person, text string) {
	s.put(sharing.Entry{Kind: sharing.EntryNotice, From: who.ID, Who: who.Name, Name: "chat", Text: text})
}

// Announce implements sharing.Host.
func (s *server) Announce(e sharing.Entry) { s.put(e) }

// Do implements sharing.Host.
func (s *server) Do(_ sharing.Person, op sharing.Op, _ string) error {
	switch op {
	case sharing.OpInterrupt, sharing.OpBreakIn:
		return s.p.interrupt()
	}
	return errors.New("this is no debugger's own session; only lines and CTRL+C reach the program")
}

// Early implements sharing.Host.
func (s *server) Early(who sharing.Person, line string) (string, bool) { return s.own(who, line) }
