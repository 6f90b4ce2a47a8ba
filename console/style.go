package console

import (
	"maps"
	"regexp"
	"strings"
	"sync"

	"openkd/command"
	"openkd/console/lineedit"
)

// theme is the colours of a terminal, as parameters of SGR sequences; the zero
// value has none. They are few, of the basic eight, and no background is set, so
// that they can be read on light and on dark screens.
type theme struct {
	prompt   string
	mistake  string
	headline string
	debuggee string
	quiet    string // what the debugger says by itself, what waits, lists
	symbol   string
	changed  string // registers that are not what they were at the stop before
}

var colours = theme{prompt: "1", mistake: "31", headline: "1", debuggee: "32", quiet: "2", symbol: "36", changed: "31"}

// coloured says whether a terminal is to show colours: not if NO_COLOR has a
// value (no-color.org).
func coloured(getenv func(string) string, off bool) bool { return !off && getenv("NO_COLOR") == "" }

func (t *theme) of(st command.Style) string {
	switch st {
	case command.Mistake:
		return t.mistake
	case command.Headline:
		return t.headline
	case command.Debuggee:
		return t.debuggee
	case command.Aside:
		return t.quiet
	}
	return ""
}

// styled is the way of all text to a terminal with an editor: control characters
// become visible, and what has a style gets the colours of it. In plain output,
// names of symbols are found by their shape, and registers that have changed by
// remembering what was shown before.
type styled struct {
	screen *lineedit.Screen
	theme  theme

	mu   sync.Mutex
	safe visible
	regs registers
}

func (s *styled) Write(b []byte) (int, error) { return s.WriteStyled(command.Plain, b) }

// WriteStyled implements command.StyledWriter.
func (s *styled) WriteStyled(st command.Style, b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := string(s.safe.clean(b))
	switch {
	case text == "":
	case st != command.Plain || s.theme == (theme{}):
		s.screen.Print(lineedit.Span{Text: text, SGR: s.theme.of(st)})
	default:
		s.screen.Print(s.highlight(text)...)
	}
	return len(b), nil
}

// typed shows a line as it stands behind its prompt.
func (s *styled) typed(prompt, line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.screen.Print(lineedit.Span{Text: harmless(prompt), SGR: s.theme.prompt}, lineedit.Span{Text: harmless(line) + "\n"})
}

var (
	// module!name, module!name+0x12, module+0x12: as commands show them.
	symbolShape = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile("[A-Za-z_][A-Za-z0-9_.]*(![A-Za-z_?@$~`<][A-Za-z0-9_?@$~:`<>,.*&]*(\\+0x[0-9a-f]+)?|\\+0x[0-9a-f]+)")
	})
	registerRow = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^ *[a-z][a-z0-9]{0,4}=[0-9a-f]+( +([a-z][a-z0-9]{0,4}=[0-9a-f]+|[a-z]{2}))*\s*$`)
	})
	register = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`([a-z][a-z0-9]{0,4})=([0-9a-f]+)`)
	})
)

// maxHighlight bounds the lines in which shapes are looked for, in bytes.
const maxHighlight = 2000

// highlight finds what has a colour in plain output.
func (s *styled) highlight(text string) []lineedit.Span {
	var out []lineedit.Span
	plain := func(t string) {
		if n := len(out); n > 0 && out[n-1].SGR == "" {
			out[n-1].Text += t
		} else if t != "" {
			out = append(out, lineedit.Span{Text: t})
		}
	}
	for line := range strings.Lines(text) {
		if len(line) > maxHighlight {
			plain(line)
			continue
		}
		shape, sgr := symbolShape, s.theme.symbol
		isRow := strings.Contains(line, "=") && registerRow().MatchString(line)
		if isRow {
			shape, sgr = register, s.theme.changed
		} else if !strings.ContainsAny(line, "!+") {
			plain(line)
			continue
		}
		at := 0
		for _, m := range shape().FindAllStringSubmatchIndex(line, -1) {
			from, to := m[0], m[1]
			if !isRow {
				to = from + len(strings.TrimRight(line[from:to], ":,.&*"))
				if !strings.Contains(line[from:to], "!") && !alone(line, from, to) {
					continue
				}
			}
			if isRow && !s.regs.changed(line[m[2]:m[3]], line[m[4]:m[5]]) {
				continue
			}
			plain(line[at:from])
			out = append(out, lineedit.Span{Text: line[from:to], SGR: sgr})
			at = to
		}
		plain(line[at:])
	}
	return out
}

// alone says that nothing stands around a piece of a line that it could be a part
// of: [rax+0x10] is no name.
func alone(line string, from, to int) bool {
	return (from == 0 || strings.IndexByte(" \t(", line[from-1]) >= 0) && (to == len(line) || strings.IndexByte(" \t\r\n):", line[to]) >= 0)
}

// registers remembers what was shown of registers.
type registers struct {
	where       func() (stop uint64, cpu int) // the stop, and the current processor
	at          uint64                        // the stop that now belongs to
	before, now map[rowKey]string
}

type rowKey struct {
	cpu  int
	name string
}

// next: the target has run.
func (r *registers) next() {
	if r.before == nil {
		r.before = map[rowKey]string{}
	}
	maps.Copy(r.before, r.now)
	r.now = nil
}

// changed notes a value that is shown, and says whether it was another one when
// the target stood before.
func (r *registers) changed(name, value string) bool {
	if r.where == nil {
		return false
	}
	stop, cpu := r.where()
	if stop != r.at {
		r.next()
		r.at = stop
	}
	k := rowKey{cpu, name}
	if r.now == nil {
		r.now = map[rowKey]string{}
	}
	if len(r.now) < 4096 {
		r.now[k] = value
	}
	old, ok := r.before[k]
	return ok && old != value
}
