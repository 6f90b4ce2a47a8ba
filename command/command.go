package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"
	"sync/atomic"
	"time"

	"openkd/engine"
	"openkd/extension"
	"openkd/internal/brief"
	"openkd/sharing"
	"openkd/target"
)

// Command is one entry of the registry.
type Command struct {
	Names   []string // as typed: "db", "dw", ".echo", "!db"; exact case wins over any case
	Family  string   // heading in .help
	Summary string   // one line
	Usage   string   // syntax, one form per line
	Example string   // one line that works, or that shows the shape

	// Glued lets letters follow the name without a space ("lmvm").
	Glued bool
	// Line gives the command the rest of the line, `;` included.
	Line bool
	// Bare makes an empty line repeat the command without its arguments, so
	// that d and u go on where they stopped.
	Bare bool
	// NoTarget marks a command that needs no halted target.
	NoTarget bool

	// Run does it. nil: a word of the language, handled by the interpreter.
	Run func(c *Call) error
}

// Call is one command being run. It lives on the goroutine of
// Session.Execute.
type Call struct {
	Ctx       context.Context
	S         *Session
	Name      string // as typed
	Args      string // the raw rest, without the space in front
	Processor int    // of a prefix ("2r"), -1 without one
	Command   *Command

	offset int // of Args in the statement
}

// Session is one person's (or script's) view of an engine: aliases, radix,
// $t0 to $t19, default addresses, the log.
//
// Concurrency: Execute, Prompt and the setters belong to one goroutine, the
// owner. Print, Output and SetOutput may be called from any.
type Session struct {
	Engine *engine.Engine
	Options

	commands map[string]*Command // exact names
	lower    map[string]*Command // names in lower case, where only one fits
	glued    []string            // names of Glued commands, longest first
	list     []*Command

	out  *sink
	w    io.Writer // where commands write: out, or a capture of .foreach
	last string    // the line that an empty line repeats, see again.go
	// lastOf is the same of those who share the session, by number.
	lastOf map[uint32]string

	radix     int
	temps     [20]uint64
	fixed     [10]string // $u0 to $u9
	aliases   map[string]string
	lastEval  uint64 // $exp
	lastValue uint64 // $p: the last value that d showed

	nextData uint64 // where a bare d goes on
	nextPhys uint64 // where a bare !d goes on
	nextCode uint64 // where a bare u goes on
	codeStop uint64 // number of the stop that nextCode belongs to
	lastD    string // name of the last d command
	lastE    string
	typing   // of C++ expressions, dt and !list

	guards guards // what was forbidden

	frames int // of .kframes; 0: the default

	source sourceState

	ext         *extension.Manager
	allowScript func(path string) error // see SetExtensionPolicy

	depth int // of nested blocks, scripts and aliases
	args  [][]string
	exec  execState    // letting the target go, see stop.go
	more  atomic.Int32 // blocks with something left to run
	halt  atomic.Bool  // Interrupt was called
	base  int          // width of the prompt, for carets
	names nameIndexes  // for completion

	shellWait func() <-chan time.Time // for tests, instead of shellPatience
}

// Options are fixed for the life of a Session.
type Options struct {
	// Share is where the session is shared; nil: it cannot be.
	Share *sharing.Hub
	// Actor is who typed what runs. The owner of the session sets it.
	Actor sharing.Person

	Quiet   bool // -kqm: leave out advice and banners
	Verbose bool // -v, and CTRL+V

	// Input asks the person for a line (the values of e without values). nil:
	// there is nobody to ask.
	Input func(ctx context.Context, prompt string) (string, error)

	// Progress shows one short line about a long transfer, and "" to remove
	// it. nil: no terminal.
	Progress func(text string)

	// Clear clears the screen; nil: no terminal.
	Clear func()
}

// NewSession returns a session over e that writes to out.
func NewSession(e *engine.Engine, out io.Writer, opt Options) *Session {
	s := &Session{
		Engine: e, Options: opt,
		out:     newSink(out),
		radix:   16,
		aliases: map[string]string{},
	}
	s.w = s.out
	s.ext = s.newExtensions(e)
	s.register(families())
	return s
}

func (s *Session) register(cmds []*Command) {
	s.commands = make(map[string]*Command, 2*len(cmds))
	s.lower = make(map[string]*Command, 2*len(cmds))
	for _, c := range cmds {
		s.list = append(s.list, c)
		for _, n := range c.Names {
			if s.commands[n] != nil {
				panic("command " + n + " is registered twice") // a mistake in the table, found by every test
			}
			s.commands[n] = c
			if c.Glued {
				s.glued = append(s.glued, n)
			}
		}
	}
	for _, c := range cmds {
		for _, n := range c.Names {
			// Names are tried in lower case when the exact case is unknown.
			l := strings.ToLower(n)
			if s.commands[l] != nil {
				s.lower[l] = s.commands[l]
			} else if s.lower[l] == nil {
				s.lower[l] = c
			}
		}
	}
	sort.Slice(s.glued, func(i, j int) bool { return len(s.glued[i]) > len(s.glued[j]) })
}

// Lookup finds a command by the name that was typed.
func (s *Session) Lookup(name string) (*Command, bool) {
	if c := s.commands[name]; c != nil {
		return c, true
	}
	c := s.lower[strings.ToLower(name)]
	return c, c != nil
}

// Commands lists the registry in its own order.
func (s *Session) Commands() []*Command { return s.list }

// Radix is the base of plain numbers: 8, 10 or 16.
func (s *Session) Radix() int { return s.radix }

// SetRadix changes the base of plain numbers.
func (s *Session) SetRadix(n int) error {
	if n != 8 && n != 10 && n != 16 {
		return fmt.Errorf("base %d is not one of 8, 10 and 16", n)
	}
	s.radix = n
	return nil
}

// Temp is pseudo-register $t<n>, 0 to 19.
func (s *Session) Temp(n int) uint64 {
	if n < 0 || n >= len(s.temps) {
		return 0
	}
	return s.temps[n]
}

// SetTemp sets $t<n>.
func (s *Session) SetTemp(n int, v uint64) error {
	if n < 0 || n >= len(s.temps) {
		return fmt.Errorf("$t%d: there are $t0 to $t19", n)
	}
	s.temps[n] = v
	s.typed[n] = typedTemp{}
	return nil
}

// FixedAlias is the text of $u<n>, 0 to 9.
func (s *Session) FixedAlias(n int) string {
	if n < 0 || n >= len(s.fixed) {
		return ""
	}
	return s.fixed[n]
}

// SetFixedAlias sets $u<n>, as `r $.u0=text` does.
func (s *Session) SetFixedAlias(n int, text string) error {
	if n < 0 || n >= len(s.fixed) {
		return fmt.Errorf("$u%d: there are $u0 to $u9", n)
	}
	s.fixed[n] = text
	return nil
}

// SetNextCode tells where a bare u starts. Commands that show a location
// (r, p, t, a stop) call it with the program counter.
func (s *Session) SetNextCode(addr uint64) { s.nextCode, s.codeStop = addr, s.stopNumber() }

// Print writes text to the terminal and the log, past any capture. Events are
// shown with it.
func (s *Session) Print(text string) { io.WriteString(s.out, text) }

// Output is the terminal and the log, past any capture. It may be used by any
// goroutine; a Write is never torn apart.
func (s *Session) Output() io.Writer { return s.out }

// Printf writes to the command's output.
func (c *Call) Printf(format string, args ...any) { fmt.Fprintf(c.S.w, format, args...) }

// Write writes to the command's output, so that a Call is an io.Writer.
func (c *Call) Write(b []byte) (int, error) { return c.S.w.Write(b) }

// Run runs commands inside this one: the action of a breakpoint, the command
// of p and t. Errors have been shown when it returns them.
func (c *Call) Run(commands string) error { return c.S.run(c.Ctx, commands, -1) }

// Fault is a mistake in what was typed. The interpreter shows it as a caret
// line and one line of help.
type Fault struct {
	Words string // "Syntax error", "Range error", "Extra character error" ...
	At    string // what stands at the fault, up to the end of the arguments
	Help  string // what would be right

	stmt string // the statement
	pos  int    // of the fault in it, -1 unknown
}

func (f *Fault) Error() string {
	at := brief.Text(f.At, 40)
	if at == "" {
		at = "<EOL>"
	}
	if f.Help == "" {
		return fmt.Sprintf("%s at '%s'", f.Words, at)
	}
	return fmt.Sprintf("%s at '%s': %s", f.Words, at, f.Help)
}

// Fault makes a *Fault. at is the rest of the arguments that begins with the
// mistake, or the part at fault.
func (c *Call) Fault(words, at, help string, args ...any) error {
	if len(args) > 0 {
		help = fmt.Sprintf(help, args...)
	}
	return &Fault{Words: words, At: at, Help: help, pos: -1}
}

// Syntax is Fault with "Syntax error" and the command's usage.
func (c *Call) Syntax(at string) error {
	help := ""
	if c.Command != nil && c.Command.Usage != "" {
		help = "usage: " + strings.ReplaceAll(c.Command.Usage, "\n", "  or  ")
	}
	return c.Fault("Syntax error", at, "%s", help)
}

// End checks that nothing is left of the arguments.
func (c *Call) End(rest string) error {
	if t := strings.TrimSpace(rest); t != "" {
		return c.Fault("Extra character error", t, "nothing is expected here")
	}
	return nil
}

// ErrQuit is what Execute returns, by errors.Is, when the person asked to
// leave. The error is a *Quit.
var ErrQuit = errors.New("quit")

// Quit asks the owner of the session to end it.
type Quit struct {
	Leave target.Leave // what becomes of a halted target
}

func (q *Quit) Error() string        { return "quit" }
func (q *Quit) Is(target error) bool { return target == ErrQuit }
