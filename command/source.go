package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"openkd/engine"
	"openkd/image/sym"
	"openkd/symbols"
)

func sourceCommands() []*Command {
	f := "Source"
	return []*Command{
		{Names: []string{".srcpath", ".lsrcpath"}, Family: f, Line: true, NoTarget: true, Run: cmdSourcePath, Summary: "show or set the source path; + appends. The ends of paths that compilers noted are looked for in its folders",
			Usage: ".srcpath[+] [folder[;folder...]]", Example: ".srcpath+ /home/me/driver"},
		{Names: []string{".lines"}, Family: f, NoTarget: true, Run: cmdLines, Summary: "show lines of source beside names: -e on, -d off, -t or nothing the other way round", Usage: ".lines [-e|-d|-t]", Example: ".lines -e"},
		{Names: []string{"l"}, Family: f, NoTarget: true, Run: cmdSourceOptions,
			Summary: "source options: t step by lines of source (p, t), l show the line's number at stops, s its text, o its text only; * all",
			Usage:   "l+{t|l|s|o|*}\nl-{t|l|s|o|*}", Example: "l+t"},
		{Names: []string{"ls"}, Family: f, Bare: true, NoTarget: true, Run: cmdListSource, Summary: "show lines of the current source file; without numbers, those behind the last ones", Usage: "ls [.] [first] [, count]", Example: "ls 120, 10"},
		{Names: []string{"lsa"}, Family: f, Run: cmdListSourceAt, Summary: "show the lines of source around an address, and make their file the current one", Usage: "lsa address [, first [, count]]", Example: "lsa @rip"},
		{Names: []string{"lsc"}, Family: f, NoTarget: true, Run: cmdSourceFile, Summary: "show which source file is the current one", Usage: "lsc", Example: "lsc"},
		{Names: []string{"lsf"}, Family: f, NoTarget: true, Run: cmdSourceFile, Summary: "make a source file the current one; lsf- forgets it", Usage: "lsf file\nlsf-", Example: "lsf ke.c"},
		{Names: []string{"lsp"}, Family: f, NoTarget: true, Run: cmdSourceCount, Summary: "show or set how many lines are shown before and after that of a stop, with -a by lsa", Usage: "lsp [-a] [before, after]", Example: "lsp -a 5, 10"},
	}
}

// Options of l+ and l-.
const (
	sourceStep   = 1 << iota // t
	sourceNumber             // l
	sourceText               // s
	sourceOnly               // o
	sourceAll    = sourceStep | sourceNumber | sourceText | sourceOnly
)

var sourceOptions = []struct {
	letter byte
	bit    uint32
	text   string
}{
	{'t', sourceStep, "Step/trace by source line"},
	{'l', sourceNumber, "List source line at prompt"},
	{'s', sourceText, "List source code at prompt"},
	{'o', sourceOnly, "Only show source code at prompt"},
}

// sourceState is what a session knows of sources.
type sourceState struct {
	files   engine.Sources
	lines   bool   // .lines
	flags   uint32 // of .symopt: what differs from the default and has no effect
	options uint32 // of l+
	file    *engine.SourceFile
	next    int // line where a bare ls goes on
	mark    int // line of file that is marked; 0: none
	// Lines before and after: at a stop, and by lsa. A zero after counts as one.
	before, after    int
	aroundSet        bool
	aBefore, aAfter  int
	differs, missing string // what was said last
}

// Defaults of lsa and ls.
const (
	linesBefore = 4
	linesAfter  = 5
	linesListed = 10
	maxListed   = 10000
)

// SetSources gives the source path and says whether lines are shown (-srcpath,
// -lines). It must be called before commands run.
func (s *Session) SetSources(path string, lines bool) {
	s.source.files.SetPath(path, false)
	s.source.lines = lines
}

// lineText is a place in source as ln and stops show it.
func lineText(file string, line int, d uint64) string {
	if d != 0 {
		return fmt.Sprintf("%s(%d)+0x%x", visible(file), line, d)
	}
	return fmt.Sprintf("%s(%d)", visible(file), line)
}

// line is the source line of an address, if lines are shown. It loads the module's
// symbols.
func (s *Session) line(ctx context.Context, addr uint64) (symbols.Line, bool) {
	if !s.source.lines || s.Engine == nil {
		return symbols.Line{}, false
	}
	return s.Engine.LineAt(ctx, addr, true)
}

// atLine is the source line of an address as it stands behind a name, " [file @
// line]", if lines are shown and the module's symbols are loaded; else "".
func (s *Session) atLine(addr uint64) string {
	if !s.source.lines || s.Engine == nil {
		return ""
	}
	l, ok := s.Engine.LineAt(context.Background(), addr, false)
	if !ok {
		return ""
	}
	return fmt.Sprintf(" [%s @ %d]", visible(l.File), l.Line.Line)
}

// frameLines are the lines of source of frames as k shows them, " [file @ line]", nil
// where lines are not shown. What was built into a function stands where it is called
// in what is around it.
func (c *Call) frameLines(st *engine.Stack) []string {
	set := c.S.Engine.SymbolSet()
	if !c.S.source.lines || set == nil {
		return nil
	}
	text := func(l *sym.Line) string {
		if l.File == "" {
			return ""
		}
		return fmt.Sprintf(" [%s @ %d]", visible(l.File), l.Line)
	}
	out := make([]string, len(st.Frames))
	var inlined []sym.Scope // around the frame, outermost first; what is left of them
	inside := false
	for i := range st.Frames {
		f := &st.Frames[i]
		at := f.PC
		if !f.Exact {
			at-- // behind a call
		}
		if !inside {
			if l, ok := c.S.Engine.LineAt(c.Ctx, at, false); ok {
				out[i] = text(&l.Line)
			}
			if inlined = nil; f.Inline != "" {
				scopes, _ := set.Scopes(c.Ctx, at)
				for _, s := range scopes {
					if s.Inlined && s.Name != "" {
						inlined = append(inlined, s)
					}
				}
			}
		} else if n := len(inlined); n > 0 {
			out[i] = text(&inlined[n-1].Call)
			inlined = inlined[:n-1]
		}
		inside = f.Inline != ""
	}
	return out
}

// currentSource is the file that `:123` is in: the current one, or that of the
// current function.
func (s *Session) currentSource(ctx context.Context) string {
	if s.source.file != nil {
		return s.source.file.Name
	}
	if pc, err := s.Engine.PC(ctx); err == nil {
		if l, ok := s.Engine.LineAt(ctx, pc, true); ok {
			return l.File
		}
	}
	return ""
}

// sourceOnly shows the line of source of a stop, if nothing else is wanted (l+o) and
// it is at hand.
func (s *Session) sourceOnly(ctx context.Context, pc uint64) bool {
	if s.source.options&sourceOnly == 0 {
		return false
	}
	l, ok := s.Engine.LineAt(ctx, pc, true)
	return ok && s.sourceText(l)
}

// sourceAt shows the source of a stop, as l+l and l+s ask for.
func (s *Session) sourceAt(ctx context.Context, pc uint64) {
	o := s.source.options
	if o&(sourceNumber|sourceText) == 0 {
		return
	}
	l, ok := s.Engine.LineAt(ctx, pc, true)
	if !ok {
		return
	}
	if o&sourceNumber != 0 {
		put(s, lineText(l.File, int(l.Line.Line), pc-l.Addr)+"\n")
	}
	if o&sourceText != 0 {
		s.sourceText(l)
	}
}

// sourceText shows a line of source and what is around it. It says once of each
// file that it is not at hand.
func (s *Session) sourceText(l symbols.Line) bool {
	f, err := s.openSource(l.Line)
	if err != nil {
		if text := err.Error(); text != s.source.missing {
			s.source.missing = text
			put(s, s.sentence(text, "")+"\n")
		}
		return false
	}
	n := int(l.Line.Line)
	s.source.file, s.source.mark, s.source.next = f, n, n
	s.listSource(n-s.source.before, s.source.before+max(s.source.after, 1))
	return true
}

// label is the name of an address, as it stands above code.
func (s *Session) label(addr uint64) string {
	n := s.symbol(addr)
	if n == "" {
		return ""
	}
	return n + s.atLine(addr) + ":\n"
}

// newLine is the label of an instruction that begins a line of source, if lines are
// shown.
func (s *Session) newLine(addr uint64) string {
	if !s.source.lines {
		return ""
	}
	if l, ok := s.Engine.LineAt(context.Background(), addr, false); !ok || l.Addr != addr {
		return ""
	}
	return s.label(addr)
}

// lineColumn is the number of the line of an instruction in front of it, as uf has
// it, if lines are shown.
func (s *Session) lineColumn(addr uint64) string {
	if !s.source.lines {
		return ""
	}
	l, ok := s.Engine.LineAt(context.Background(), addr, false)
	if !ok {
		return "      "
	}
	return fmt.Sprintf("%5d ", l.Line.Line)
}

// openSource finds a source file, and says once of each that it is another one.
func (s *Session) openSource(l sym.Line) (*engine.SourceFile, error) {
	f, err := s.source.files.Find(l)
	if err != nil {
		return nil, err
	}
	if f.Differs && f.Path != s.source.differs {
		s.source.differs = f.Path
		put(s, f.Path+" is not the file that was compiled: its checksum differs, so lines may be others.\n")
	}
	return f, nil
}

// listSource shows lines of the current file.
func (s *Session) listSource(first, count int) {
	f := s.source.file
	if first < 1 {
		count, first = count+first-1, 1
	}
	var b strings.Builder
	for n := first; n < first+count; n++ {
		text, ok := f.Line(n)
		if !ok {
			break
		}
		mark := ' '
		if n == s.source.mark {
			mark = '>'
		}
		fmt.Fprintf(&b, "%c%5d: %s\n", mark, n, visible(strings.ReplaceAll(text, "\t", "    ")))
		s.source.next = n + 1
	}
	put(s, b.String())
}

func cmdSourcePath(c *Call) error {
	files := &c.S.source.files
	args, more := plus(c.Args)
	if text := unquote(args); text != "" {
		for p := range strings.SplitSeq(text, ";") {
			if err := c.S.namesFile(strings.TrimSpace(p)); err != nil {
				return err
			}
		}
		files.SetPath(text, more)
		c.S.source.file, c.S.source.missing, c.S.source.differs = nil, "", ""
	}
	path := files.Path()
	if path == "" {
		path = "<empty>"
	}
	c.Printf("Source search path is: %s\n", path)
	text := ""
	for _, p := range files.Elements() {
		st, err := os.Stat(p)
		switch {
		case strings.HasPrefix(strings.ToLower(p), "srv*"):
			err = errors.New("source servers are not asked")
		case err != nil:
			var pe *os.PathError
			if errors.As(err, &pe) {
				err = pe.Err
			}
		case !st.IsDir():
			err = errors.New("it is not a folder")
		}
		if err != nil {
			if text == "" {
				text = "\n************* Path validation summary **************\nResponse                         Time (ms)     Location\n"
			}
			text += fmt.Sprintf("%-32s %-13s %s: %v\n", "Error", "", p, err)
		}
	}
	c.Printf("%s", text)
	return nil
}

func cmdLines(c *Call) error {
	s := &c.S.source
	switch strings.ToLower(strings.TrimSpace(c.Args)) {
	case "-e":
		s.lines = true
	case "-d":
		s.lines = false
	case "", "-t":
		s.lines = !s.lines
	default:
		return c.Syntax(c.Args)
	}
	if s.lines {
		c.Printf("Line number information will be loaded\n")
	} else {
		c.Printf("Line number information will not be loaded\n")
	}
	return nil
}

func cmdSourceOptions(c *Call) error {
	letters := strings.TrimSpace(c.Args)
	if letters == "" || letters[0] != '+' && letters[0] != '-' {
		return c.Syntax(letters)
	}
	on := letters[0] == '+'
	letters = strings.TrimSpace(letters[1:])
	var bits uint32
	for i := range len(letters) {
		found := letters[i] == '*'
		if found {
			bits |= sourceAll
		}
		for _, o := range sourceOptions {
			if letters[i]|0x20 == o.letter {
				bits, found = bits|o.bit, true
			}
		}
		if !found {
			return c.Fault("Syntax error", letters[i:], "the source options are t l s o, and * for all")
		}
	}
	s := &c.S.source
	if on {
		s.options |= bits
	} else {
		s.options &^= bits
	}
	c.Printf("Source options are %x:\n", s.options)
	for _, o := range sourceOptions {
		if s.options&o.bit != 0 {
			c.Printf("%6x/%c - %s\n", o.bit, o.letter, o.text)
		}
	}
	return nil
}

// numbers reads decimal numbers parted by commas; empty ones are negative.
func (c *Call) numbers(args string, most int) ([]int, error) {
	var out []int
	if strings.TrimSpace(args) == "" {
		return nil, nil
	}
	for f := range strings.SplitSeq(args, ",") {
		f = strings.TrimSpace(f)
		if f == "" {
			out = append(out, -1)
			continue
		}
		n, err := strconv.ParseInt(f, 0, 32)
		if err != nil {
			return nil, c.Fault("Syntax error", f, "lines are counted in decimal, or with 0x")
		}
		out = append(out, int(n))
	}
	if len(out) > most {
		return nil, c.Syntax(args)
	}
	return out, nil
}

func cmdListSource(c *Call) error {
	s := &c.S.source
	args := strings.TrimSpace(c.Args)
	if w, rest := cutWord(args); w == "." || args == "." {
		args = rest
		pc, err := c.S.Engine.PC(c.Ctx)
		if err != nil {
			return err
		}
		if err := c.currentAt(pc); err != nil {
			return err
		}
		s.next = max(s.mark-linesBefore, 1)
	}
	if s.file == nil {
		return errors.New("there is no current source file: lsf names one, lsa shows that of an address")
	}
	n, err := c.numbers(args, 2)
	if err != nil {
		return err
	}
	first, count := s.next, linesListed
	if len(n) > 0 && n[0] > 0 {
		first = n[0]
	}
	if len(n) > 1 && n[1] > 0 {
		count = n[1]
	}
	if count > maxListed {
		return c.Fault("Range error", args, "at most %d lines are shown", maxListed)
	}
	if first > len(s.file.Lines) {
		return fmt.Errorf("%s has %d lines", s.file.Path, len(s.file.Lines))
	}
	c.S.listSource(first, count)
	return nil
}

// currentAt makes the source file of an address the current one, and its line the
// marked one.
func (c *Call) currentAt(addr uint64) error {
	l, ok := c.S.Engine.LineAt(c.Ctx, addr, true)
	if !ok {
		name := c.S.symbol(addr)
		if name == "" {
			name = c.S.addr(addr)
		}
		return fmt.Errorf("no line of source is known for %s", name)
	}
	f, err := c.S.openSource(l.Line)
	if err != nil {
		return fmt.Errorf("line %d: %w", l.Line.Line, err)
	}
	c.S.source.file, c.S.source.mark = f, int(l.Line.Line)
	return nil
}

func cmdListSourceAt(c *Call) error {
	if strings.TrimSpace(c.Args) == "" {
		return c.Syntax("")
	}
	addr, rest, err := c.EvalPrefix(c.Args)
	if err != nil {
		return err
	}
	n, err := c.numbers(strings.TrimPrefix(strings.TrimSpace(rest), ","), 2)
	if err != nil {
		return err
	}
	if err := c.currentAt(c.S.canon(addr)); err != nil {
		return err
	}
	s := &c.S.source
	before, after := linesBefore, linesAfter
	if s.aroundSet {
		before, after = s.aBefore, s.aAfter
	}
	first, count := s.mark-before, before+1+after
	if len(n) > 0 && strings.TrimSpace(rest) != "" {
		// From the line of the address on, and so many of them.
		first = s.mark + n[0]
		if n[0] == -1 && strings.TrimSpace(strings.SplitN(strings.TrimPrefix(strings.TrimSpace(rest), ","), ",", 2)[0]) == "" {
			first = s.mark - before
		}
	}
	if len(n) > 1 && n[1] > 0 {
		count = min(n[1], maxListed)
	}
	if first > len(s.file.Lines) {
		return fmt.Errorf("%s has %d lines, and that of the address is %d", s.file.Path, len(s.file.Lines), s.mark)
	}
	c.S.listSource(first, count)
	return nil
}

func cmdSourceFile(c *Call) error {
	s := &c.S.source
	name := unquote(c.Args)
	switch {
	case strings.EqualFold(c.Name, "lsf") && name == "-":
		s.file = nil
	case strings.EqualFold(c.Name, "lsf") && name != "":
		if err := c.S.namesFile(name); err != nil {
			return err
		}
		f, err := c.S.openSource(sym.Line{File: name})
		if err != nil {
			return err
		}
		s.file, s.mark, s.next = f, 0, 1
	case name != "":
		return c.End(name)
	}
	if s.file == nil {
		c.Printf("No current source file\n")
		return nil
	}
	c.Printf("Current: %s(%d)\n", s.file.Path, max(s.next, 1))
	return nil
}

func cmdSourceCount(c *Call) error {
	s := &c.S.source
	args, around := strings.TrimSpace(c.Args), false
	if w, rest := cutWord(args); w == "-a" {
		args, around = rest, true
	}
	n, err := c.numbers(args, 2)
	if err != nil {
		return err
	}
	if len(n) == 1 {
		n = append([]int{0}, n...)
	}
	if len(n) == 2 {
		if n[0] < 0 || n[1] < 0 || n[0] > maxListed || n[1] > maxListed {
			return c.Fault("Range error", args, "0 to %d lines are shown before and after", maxListed)
		}
		if around {
			s.aroundSet, s.aBefore, s.aAfter = true, n[0], n[1]
		} else {
			s.before, s.after = n[0], n[1]
		}
	}
	before, after := linesBefore, linesAfter
	if s.aroundSet {
		before, after = s.aBefore, s.aAfter
	}
	c.Printf("At the prompt, display %d lines before and %d after\n", s.before, max(s.after, 1))
	c.Printf("For lsa, display %d lines before and %d after\n", before, after)
	return nil
}
