package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unicode"

	"openkd/engine"
	"openkd/engine/types"
	"openkd/internal/brief"
	"openkd/sharing"
	"openkd/target"
)

// Limits of the language. Loops have none: they end with their condition, and
// CTRL+C ends them at the next command.
const (
	maxDepth  = 64       // blocks, scripts and command strings in each other
	maxLine   = 1 << 20  // bytes of a line after the aliases in it are replaced
	maxScript = 16 << 20 // bytes of a script file
)

// Words of control flow travel as errors to the block they belong to.
var (
	errBreak    = errors.New(".break stands outside of a loop")
	errContinue = errors.New(".continue stands outside of a loop")
	errLeave    = errors.New(".leave stands outside of a .catch block")
)

// shown marks an error whose text the person has seen.
type shown struct{ error }

func (e shown) Unwrap() error { return e.error }

// Execute runs one line as a person types it: commands separated by `;`,
// blocks, comments. An empty line repeats the last one of who types it (Actor).
//
// What went wrong has been shown when Execute returns it. An error ends the
// line, as it does in WinDbg; `.catch` keeps it inside a block, and the lines
// of a `$<` script go on with the next. A *Quit (ErrQuit) and the context's
// error are returned unshown.
func (s *Session) Execute(ctx context.Context, line string) error {
	line = strings.TrimRight(line, "\r\n")
	if strings.TrimSpace(line) == "" {
		if line = s.lastLine(); line == "" {
			return nil
		}
	} else {
		s.keepLast(s.repeat(line))
	}
	s.base = len(s.Prompt())
	s.halt.Store(false)
	defer s.publish()
	return unshow(s.run(ctx, line, 0))
}

// Interrupt ends the line that runs, before its next command. It may be called
// from any goroutine. It does not end the command itself: cancel the context
// of Execute for that, or break in where the command waits for the target.
func (s *Session) Interrupt() { s.halt.Store(true) }

// ClearInterrupt forgets an Interrupt. Execute does so too.
func (s *Session) ClearInterrupt() { s.halt.Store(false) }

// Last says whether nothing is left of the line that runs behind the command
// that runs now. It may be called from any goroutine.
func (s *Session) Last() bool { return s.more.Load() == 0 }

// stopped is why a line must not go on.
func (s *Session) stopped(ctx context.Context) error {
	if s.halt.Load() {
		return context.Canceled
	}
	return ctx.Err()
}

func unshow(err error) error {
	var sh shown
	if errors.As(err, &sh) {
		return sh.error
	}
	return err
}

// phrased is an error in WinDbg's own words, capital and all.
type phrased string

func (e phrased) Error() string { return string(e) }

// repeat is what an empty line does after line: commands that walk memory go
// on without their arguments.
func (s *Session) repeat(line string) string {
	t := strings.TrimSpace(line)
	st, ok := s.cut(t, 0)
	if ok && st.cmd != nil && st.cmd.Bare && st.end == len(t) {
		return t[:st.name1]
	}
	return line
}

// statement is a command found in a text; the numbers are offsets in it.
type statement struct {
	start, name0, name1 int // prefix, name
	arg0, end           int // arguments up to end, where the next one begins
	name                string
	cmd                 *Command
	processor           int
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
func isDigit(c byte) bool  { return c >= '0' && c <= '9' }
func isBlank(c byte) bool  { return c == ' ' || c == '\t' || c == '\r' }

// words of the language that begin with a sign, longest first.
var signs = []string{"$$>a<", "$$><", "$$<", "$$", "$><", "$<", "||", "??", "*", "?", "~", "|", "#", "{"}

// cut finds the command at i of text: its name and where its arguments end.
// false: the name means nothing.
func (s *Session) cut(text string, i int) (statement, bool) {
	st := statement{start: i, name0: i, processor: -1}
	// A number in front names a processor; no blank stands between.
	if j := i; j < len(text) && isDigit(text[j]) {
		n := 0
		for j < len(text) && isDigit(text[j]) && n < 1<<16 {
			n = n*10 + int(text[j]-'0')
			j++
		}
		if j < len(text) && isLetter(text[j]) {
			st.processor, st.name0 = n, j
		}
	}
	i = st.name0
	st.name1 = i
	if i < len(text) {
		switch c := text[i]; {
		case isLetter(c):
			for st.name1 < len(text) && isLetter(text[st.name1]) {
				st.name1++
			}
		case c == '.' || c == '!':
			st.name1++
			for st.name1 < len(text) && (isLetter(text[st.name1]) || isDigit(text[st.name1]) || text[st.name1] == '_' || c == '!' && text[st.name1] == '.') {
				st.name1++
			}
		default:
			for _, g := range signs {
				if strings.HasPrefix(text[i:], g) {
					st.name1 += len(g)
					break
				}
			}
		}
	}
	st.name = text[st.name0:st.name1]
	var ok bool
	if st.cmd, ok = s.Lookup(st.name); !ok && st.name != "" {
		for _, g := range s.glued {
			if len(st.name) > len(g) && strings.EqualFold(st.name[:len(g)], g) {
				st.cmd, st.name, st.name1 = s.commands[g], text[st.name0:st.name0+len(g)], st.name0+len(g)
				ok = true
				break
			}
		}
	}
	st.arg0 = st.name1
	for st.arg0 < len(text) && isBlank(text[st.arg0]) {
		st.arg0++
	}
	if st.cmd != nil && st.cmd.Line {
		st.end = lineEnd(text, st.arg0)
	} else {
		st.end = statementEnd(text, st.arg0)
	}
	return st, ok
}

func lineEnd(text string, i int) int {
	if j := strings.IndexByte(text[i:], '\n'); j >= 0 {
		return i + j
	}
	return len(text)
}

// statementEnd is the next `;` or line end outside of double quotes. A quote
// that is never closed protects nothing.
func statementEnd(text string, i int) int {
	for i < len(text) {
		switch text[i] {
		case ';', '\n':
			return i
		case '"':
			if j := quoteEnd(text, i); j > 0 {
				i = j
				continue
			}
		}
		i++
	}
	return i
}

// quoteEnd is the offset behind the string that begins at i, 0 if it is not
// closed on its line. `\"` does not close it.
func quoteEnd(text string, i int) int {
	q := text[i]
	for j := i + 1; j < len(text); j++ {
		switch text[j] {
		case '\\':
			j++
		case '\n':
			if q == '"' {
				return 0
			}
		case q:
			return j + 1
		}
	}
	return 0
}

// run replaces the aliases of text and runs it. base is the offset of text in
// the line that was typed, -1 if it does not stand there.
func (s *Session) run(ctx context.Context, text string, base int) error {
	s.depth++
	defer func() { s.depth-- }()
	if s.depth > maxDepth {
		return s.show(fmt.Errorf("blocks, scripts and command strings nest deeper than %d levels", maxDepth), text, 0, -1)
	}
	plain, err := s.expand(text)
	if err != nil {
		return s.show(err, text, 0, base)
	}
	if plain != text {
		base = -1
	}
	return s.sequence(ctx, plain, base)
}

func (s *Session) sequence(ctx context.Context, text string, base int) error {
	for i := 0; i < len(text); {
		if c := text[i]; c == ';' || c == '\n' || isBlank(c) {
			i++
			continue
		}
		if err := s.stopped(ctx); err != nil {
			return err
		}
		next, err := s.statement(ctx, text, i, base)
		if err != nil {
			end := max(i, min(next, len(text)))
			return s.show(err, text[i:end], i, base)
		}
		if next == 0 { // z: once more from the start
			i = 0
			continue
		}
		i = next
	}
	return nil
}

// statement runs the command at i and returns where the next one begins; 0
// starts the sequence again. With an error it returns where the command ends.
func (s *Session) statement(ctx context.Context, text string, i, base int) (int, error) {
	st, ok := s.cut(text, i)
	name := st.name
	if ok {
		name = st.cmd.Names[0]
	}
	if err := s.allowed(name); err != nil {
		return st.end, err
	}
	if !ok && len(st.name) > 1 && st.name[0] == '!' {
		var err error
		if st.cmd, err = s.extensionCommand(ctx, st.name[1:]); err != nil {
			return st.end, err
		}
		ok = st.cmd != nil
	}
	if !ok {
		word := text[st.name0:max(st.name1, min(st.name0+1, len(text)))]
		if strings.HasPrefix(word, "!") && len(word) > 1 {
			return st.end, phrased("No export " + word[1:] + " found")
		}
		if word == "}" {
			return st.end, &Fault{Words: "Syntax error", At: text[i:], Help: "this '}' closes nothing", stmt: text[i:st.end], pos: st.name0 - i}
		}
		help := absent(word)
		if help == "" {
			help = fmt.Sprintf("%q is not a command; ", brief.Text(strings.ToValidUTF8(word, "?"), 40))
			if near := s.near(word, false); len(near) > 0 {
				help += "did you mean " + orList(near) + "? "
			}
			help += ".help lists them"
		}
		return st.end, &Fault{Words: "Syntax error", At: text[i:], Help: help, stmt: text[i:st.end], pos: st.name0 - i}
	}
	p := &phrase{s: s, ctx: ctx, text: text, i: st.arg0, start: i, base: base}
	if f, ok := grammar[st.cmd.Names[0]]; ok && st.cmd.Run == nil {
		// What is left behind a block is not known before it is read; a word of
		// the language counts as unfinished as long as it runs.
		s.more.Add(1)
		err := f(p)
		s.more.Add(-1)
		if err == nil && p.again {
			return 0, nil
		}
		return max(p.i, i+1), err
	}
	c := &Call{
		Ctx: ctx, S: s, Name: st.name, Args: strings.TrimRight(text[st.arg0:st.end], " \t\r"),
		Processor: st.processor, Command: st.cmd, offset: st.arg0 - i,
	}
	left := strings.Trim(text[st.end:], "; \t\r\n") != ""
	if left {
		s.more.Add(1)
	}
	err := st.cmd.Run(c)
	if left {
		s.more.Add(-1)
	}
	var f *Fault
	if errors.As(err, &f) && f.stmt == "" {
		f.stmt = text[i:st.end]
		f.pos = c.offset + c.locate(f.At)
	}
	return max(st.end, i+1), err
}

// locate is the offset in Args where a fault stands.
func (c *Call) locate(at string) int {
	at = strings.TrimRight(at, " \t\r")
	switch {
	case at == "":
		return len(c.Args)
	case strings.HasSuffix(c.Args, at):
		return len(c.Args) - len(at)
	}
	return max(strings.Index(c.Args, at), 0)
}

// show tells the person what went wrong, once.
func (s *Session) show(err error, stmt string, off, base int) error {
	var sh shown
	switch {
	case err == errBreak, err == errContinue, err == errLeave:
		if s.depth > 1 {
			return err // a block further out may know it
		}
	case errors.As(err, &sh), errors.Is(err, ErrQuit):
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	var f *Fault
	if errors.As(err, &f) {
		col := f.pos + s.base
		if base >= 0 {
			col += base + off
		}
		if f.pos < 0 || col > 500 {
			col = s.base
		}
		text := f.stmt
		if text == "" {
			text = stmt
		}
		WriteStyled(s.w, Mistake, fmt.Sprintf("%*s^ %s in '%s'\n", col, "", f.Words, brief.Text(strings.TrimSpace(sharing.Masked(text)), 80)))
		if f.Help != "" {
			WriteStyled(s.w, Mistake, f.Help+"\n")
		}
		return shown{err}
	}
	text := explain(err)
	if _, ok := err.(phrased); !ok {
		text = s.sentence(text, stmt)
	}
	WriteStyled(s.w, Mistake, text+"\n")
	return shown{err}
}

// sentence begins what an error says with a capital, unless it begins with a
// name: those keep their spelling. stmt is what was typed.
func (s *Session) sentence(t, stmt string) string {
	w := firstWord(t)
	if w == "" || s.isName(w, stmt) {
		return t
	}
	return string(t[0]-32) + t[1:]
}

// firstWord is the word that a text begins with; "" if that is none of a sentence,
// such as a path, an address or a symbol.
func firstWord(t string) string {
	n := 0
	for n < len(t) && (t[n] >= 'a' && t[n] <= 'z' || n > 0 && (t[n] == '-' || t[n] == '\'')) {
		n++
	}
	switch rest := strings.TrimLeft(t[n:], ",:;.!?"); {
	case rest != "" && rest[0] != ' ' && rest[0] != '\n', n == 1 && t[0] != 'a':
		return ""
	}
	return t[:n]
}

// isName says whether a word that begins an error is the name of something: of a
// module, a type of C, a program of ours, or what was typed, commands included.
func (s *Session) isName(w, stmt string) bool {
	if _, ok := types.Known(w, 8); ok || strings.HasPrefix(w, "kd") {
		return true
	}
	switch w {
	case "struct", "union", "enum", "class", "unsigned":
		return true
	}
	for _, typed := range strings.Fields(stmt) {
		if typed[0] == '.' || strings.ContainsAny(typed, "*?[") {
			continue // .shell is no shell, and a pattern is no name
		}
		if slices.Contains(strings.FieldsFunc(typed, func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) }), w) {
			return true
		}
	}
	if s.Engine == nil {
		return false
	}
	return slices.ContainsFunc(s.Engine.KnownModules(), func(m engine.Module) bool { return m.Name == w })
}

// explain adds what to do to errors that many commands share.
func explain(err error) string {
	switch {
	case errors.Is(err, target.ErrRunning):
		return "The target is running. Break in first (CTRL+C), or wait for the next stop."
	case errors.Is(err, target.ErrNotReady):
		return "No target has been met yet. Start it, or see .status for how far the way to it has come."
	case errors.Is(err, target.ErrLost) && strings.Contains(err.Error(), target.ErrLost.Error()): // else it is the way to the server
		return "The link to the target is lost; it is looked for again. CTRL+R resynchronises it."
	}
	return err.Error()
}

// phrase is the text behind a word of the language.
type phrase struct {
	s     *Session
	ctx   context.Context
	text  string
	i     int
	start int // of the statement
	base  int
	again bool // run the sequence from its start once more
}

// grammar holds the words that the interpreter itself knows, by first name.
var grammar map[string]func(p *phrase) error

func init() {
	// Set here because the functions lead back to the interpreter. It is never
	// changed afterwards.
	grammar = map[string]func(p *phrase) error{
		"*":         (*phrase).comment,
		"$$":        (*phrase).remark,
		"$<":        func(p *phrase) error { return p.script(false, true, false) },
		"$><":       func(p *phrase) error { return p.script(true, true, false) },
		"$$<":       func(p *phrase) error { return p.script(false, false, false) },
		"$$><":      func(p *phrase) error { return p.script(true, false, false) },
		"$$>a<":     func(p *phrase) error { return p.script(true, false, true) },
		".block":    (*phrase).blockWord,
		"{":         (*phrase).blockWord,
		".if":       (*phrase).ifWord,
		".elsif":    func(p *phrase) error { return p.fault(p.start, ".elsif follows the block of an .if") },
		".else":     func(p *phrase) error { return p.fault(p.start, ".else follows the block of an .if") },
		".while":    (*phrase).whileWord,
		".do":       (*phrase).doWord,
		".for":      (*phrase).forWord,
		".foreach":  (*phrase).foreachWord,
		".catch":    (*phrase).catchWord,
		".break":    func(*phrase) error { return errBreak },
		".continue": func(*phrase) error { return errContinue },
		".leave":    func(*phrase) error { return errLeave },
		"j":         (*phrase).j,
		"z":         (*phrase).z,
	}
}

func (p *phrase) fault(at int, help string, args ...any) error {
	if len(args) > 0 {
		help = fmt.Sprintf(help, args...)
	}
	at = min(at, len(p.text))
	end := max(statementEnd(p.text, p.start), at)
	p.i = max(p.i, end)
	return &Fault{Words: "Syntax error", At: p.text[at:], Help: help, stmt: p.text[p.start:end], pos: at - p.start}
}

// space skips blanks and line ends.
func (p *phrase) space() {
	for p.i < len(p.text) && (isBlank(p.text[p.i]) || p.text[p.i] == '\n') {
		p.i++
	}
}

// take returns the text between the bracket at the current place and its
// partner, which may hold quotes and pairs of its own.
func (p *phrase) take(open, closing byte, what string) (inner string, at int, err error) {
	p.space()
	if p.i >= len(p.text) || p.text[p.i] != open {
		return "", 0, p.fault(p.i, "'%c' is expected here, in front of %s", open, what)
	}
	from := p.i
	depth := 0
	for j := p.i; j < len(p.text); j++ {
		switch c := p.text[j]; c {
		case '"':
			if k := quoteEnd(p.text, j); k > 0 {
				j = k - 1
			}
		case open:
			depth++
		case closing:
			if depth--; depth == 0 {
				p.i = j + 1
				return p.text[from+1 : j], from + 1, nil
			}
		}
	}
	return "", 0, p.fault(from, "the '%c' that closes %s is missing", closing, what)
}

// at is the base of a piece of the phrase, for carets.
func (p *phrase) at(off int) int {
	if p.base < 0 {
		return -1
	}
	return p.base + off
}

func (p *phrase) block() (body string, at int, err error) {
	return p.take('{', '}', "the block")
}

func (p *phrase) run(body string, at int) error {
	return p.s.run(p.ctx, body, p.at(at))
}

// truth evaluates a condition that stands at offset at.
func (p *phrase) truth(cond string, at int) (bool, error) {
	v, err := p.s.Eval(p.ctx, cond)
	if err != nil {
		return false, p.evalFault(err, cond, at)
	}
	return v != 0, nil
}

// evalFault places an error of an expression in the statement.
func (p *phrase) evalFault(err error, expression string, at int) error {
	f := exprFault(err, expression)
	if fault, ok := f.(*Fault); ok {
		end := min(max(p.i, statementEnd(p.text, p.start)), len(p.text))
		fault.stmt = p.text[p.start:end]
		fault.pos = at - p.start + len(expression) - len(fault.At)
	}
	return f
}

func (p *phrase) comment() error {
	p.i = lineEnd(p.text, p.i)
	return nil
}

func (p *phrase) remark() error {
	for p.i < len(p.text) && p.text[p.i] != ';' && p.text[p.i] != '\n' {
		p.i++
	}
	return nil
}

func (p *phrase) blockWord() error {
	if p.text[p.start] == '{' {
		p.i = p.start
	}
	body, at, err := p.block()
	if err != nil {
		return err
	}
	return p.run(body, at)
}

func (p *phrase) condition() (cond string, at int, err error) {
	cond, at, err = p.take('(', ')', "the condition")
	if err == nil && strings.TrimSpace(cond) == "" {
		err = p.fault(at, "the condition is empty")
	}
	return cond, at, err
}

// word reports whether w follows, as a word of its own, and skips it.
func (p *phrase) word(w string) bool {
	save := p.i
	p.space()
	r := p.text[p.i:]
	if len(r) >= len(w) && strings.EqualFold(r[:len(w)], w) && (len(r) == len(w) || !isLetter(r[len(w)])) {
		p.i += len(w)
		return true
	}
	p.i = save
	return false
}

func (p *phrase) ifWord() error {
	type arm struct {
		cond     string
		body     string
		condAt   int
		bodyAt   int
		elseOnly bool
	}
	var arms []arm
parse:
	for first := true; ; first = false {
		var a arm
		var err error
		switch {
		case first || p.word(".elsif"):
			if a.cond, a.condAt, err = p.condition(); err != nil {
				return err
			}
		case p.word(".else"):
			a.elseOnly = true
		default:
			break parse
		}
		if a.body, a.bodyAt, err = p.block(); err != nil {
			return err
		}
		arms = append(arms, a)
		if a.elseOnly {
			break
		}
	}
	for _, a := range arms {
		ok := a.elseOnly
		if !ok {
			var err error
			if ok, err = p.truth(a.cond, a.condAt); err != nil {
				return err
			}
		}
		if ok {
			return p.run(a.body, a.bodyAt)
		}
	}
	return nil
}

// loop runs a body once and reports whether the loop ends.
func (p *phrase) loop(body string, at int) (done bool, err error) {
	switch err = p.run(body, at); err {
	case errBreak:
		return true, nil
	case nil, errContinue:
		return false, p.s.stopped(p.ctx)
	}
	return true, err
}

func (p *phrase) whileWord() error {
	cond, condAt, err := p.condition()
	if err != nil {
		return err
	}
	body, at, err := p.block()
	if err != nil {
		return err
	}
	for {
		ok, err := p.truth(cond, condAt)
		if err != nil || !ok {
			return err
		}
		if done, err := p.loop(body, at); done || err != nil {
			return err
		}
	}
}

func (p *phrase) doWord() error {
	body, at, err := p.block()
	if err != nil {
		return err
	}
	cond, condAt, err := p.condition()
	if err != nil {
		return err
	}
	for {
		if done, err := p.loop(body, at); done || err != nil {
			return err
		}
		ok, err := p.truth(cond, condAt)
		if err != nil || !ok {
			return err
		}
	}
}

func (p *phrase) forWord() error {
	head, headAt, err := p.take('(', ')', "the head of the loop")
	if err != nil {
		return err
	}
	a := topSemicolon(head)
	if a < 0 {
		return p.fault(headAt, ".for takes (first commands ; condition ; commands after each turn)")
	}
	b := topSemicolon(head[a+1:])
	if b < 0 {
		return p.fault(headAt, ".for takes (first commands ; condition ; commands after each turn)")
	}
	b += a + 1
	body, at, err := p.block()
	if err != nil {
		return err
	}
	if err := p.run(head[:a], headAt); err != nil {
		return err
	}
	cond, condAt := head[a+1:b], headAt+a+1
	for {
		if strings.TrimSpace(cond) != "" {
			ok, err := p.truth(cond, condAt)
			if err != nil || !ok {
				return err
			}
		}
		if done, err := p.loop(body, at); done || err != nil {
			return err
		}
		if err := p.run(head[b+1:], headAt+b+1); err != nil {
			return err
		}
	}
}

// topSemicolon is the first `;` outside of quotes and braces.
func topSemicolon(t string) int {
	depth := 0
	for i := 0; i < len(t); i++ {
		switch t[i] {
		case '"':
			if j := quoteEnd(t, i); j > 0 {
				i = j - 1
			}
		case '{':
			depth++
		case '}':
			depth--
		case ';':
			if depth <= 0 {
				return i
			}
		}
	}
	return -1
}

func (p *phrase) catchWord() error {
	body, at, err := p.block()
	if err != nil {
		return err
	}
	err = p.run(body, at)
	var sh shown
	if err == errLeave || errors.As(err, &sh) {
		return nil
	}
	return err
}

// foreachWord is `.foreach [/pS n] [/ps n] (v { commands }) { body }`, with
// /s (v "text") and /f (v "file").
func (p *phrase) foreachWord() error {
	var first, each uint64
	form := byte('c')
	for {
		p.space()
		if p.i+1 >= len(p.text) || p.text[p.i] != '/' {
			break
		}
		opt := p.i
		for p.i < len(p.text) && !isBlank(p.text[p.i]) && p.text[p.i] != '(' {
			p.i++
		}
		switch w := p.text[opt:p.i]; w {
		case "/s", "/f":
			form = w[1]
		case "/pS", "/ps":
			p.space()
			from := p.i
			for p.i < len(p.text) && !isBlank(p.text[p.i]) && p.text[p.i] != '(' {
				p.i++
			}
			v, err := p.s.Eval(p.ctx, p.text[from:p.i])
			if err != nil {
				return p.evalFault(err, p.text[from:p.i], from)
			}
			if w == "/pS" {
				first = v
			} else {
				each = v
			}
		default:
			return p.fault(opt, ".foreach knows /pS n, /ps n, /s and /f")
		}
	}
	head, headAt, err := p.take('(', ')', "the variable of .foreach")
	if err != nil {
		return err
	}
	t := strings.TrimLeft(head, " \t\r\n")
	n := 0
	for n < len(t) && !isBlank(t[n]) && t[n] != '{' && t[n] != '"' && t[n] != '\n' {
		n++
	}
	name, source := t[:n], strings.TrimSpace(t[n:])
	if name == "" || source == "" {
		return p.fault(headAt, ".foreach takes (variable { commands }), /s (variable \"text\") or /f (variable \"file\")")
	}
	body, _, err := p.block()
	if err != nil {
		return err
	}
	var text string
	switch form {
	case 's', 'f':
		text = source
		if q, rest, ok := cutString(source); ok && strings.TrimSpace(rest) == "" {
			text = q
		}
		if form == 'f' {
			if text, err = p.s.readText(text); err != nil {
				return err
			}
		}
	default:
		if len(source) < 2 || source[0] != '{' || source[len(source)-1] != '}' {
			return p.fault(headAt, "the commands whose output .foreach walks stand in { }")
		}
		if text, err = p.s.capture(p.ctx, source[1:len(source)-1]); err != nil {
			return err
		}
	}
	words := strings.Fields(text)
	for i := min(first, uint64(len(words))); i < uint64(len(words)); i++ {
		turn, err := substitute(body, map[string]string{name: words[i]})
		if err != nil {
			return err
		}
		if done, err := p.loop(turn, -1<<30); done || err != nil {
			return err
		}
		if each >= uint64(len(words)) {
			break
		}
		i += each
	}
	return nil
}

// maxCapture bounds what .foreach collects.
const maxCapture = 64 << 20

// capture runs commands and returns what they write.
func (s *Session) capture(ctx context.Context, commands string) (string, error) {
	var b capture
	old := s.w
	s.w = &b
	err := s.run(ctx, commands, -1)
	s.w = old
	if err != nil {
		// What was said about the mistake went into the capture.
		s.w.Write(b.b)
		return "", err
	}
	if b.over {
		return "", fmt.Errorf("the output for .foreach is longer than %d MiB", maxCapture>>20)
	}
	return string(b.b), nil
}

type capture struct {
	b    []byte
	over bool
}

func (c *capture) Write(b []byte) (int, error) {
	if len(c.b)+len(b) > maxCapture {
		c.over = true
	} else {
		c.b = append(c.b, b...)
	}
	return len(b), nil
}

// j is `j expr 'commands' ; 'commands'`; either may stand without quotes.
func (p *phrase) j() error {
	from := p.i
	rest := p.text[from:lineEnd(p.text, from)]
	v, tail, err := p.s.evalPrefix(p.ctx, rest)
	if err != nil {
		return p.evalFault(err, rest, from)
	}
	p.i = from + len(rest) - len(tail)
	one, oneAt, err := p.command()
	if err != nil {
		return err
	}
	var two string
	var twoAt int
	p.space()
	if p.i < len(p.text) && p.text[p.i] == ';' {
		p.i++
		if two, twoAt, err = p.command(); err != nil {
			return err
		}
	}
	if v != 0 {
		return p.run(one, oneAt)
	}
	return p.run(two, twoAt)
}

// command is one argument of j: quoted commands, or one plain command.
func (p *phrase) command() (string, int, error) {
	p.space()
	from := p.i
	if from < len(p.text) && (p.text[from] == '\'' || p.text[from] == '"') {
		q := p.text[from]
		end := strings.IndexByte(p.text[from+1:], q)
		if end < 0 {
			return "", 0, p.fault(from, "the closing quote is missing")
		}
		p.i = from + end + 2
		return p.text[from+1 : from+1+end], from + 1, nil
	}
	p.i = statementEnd(p.text, from)
	return p.text[from:p.i], from, nil
}

// z is `commands ; z(expr)`: the sequence runs again while expr is true.
func (p *phrase) z() error {
	cond, at, err := p.condition()
	if err != nil {
		return err
	}
	p.again, err = p.truth(cond, at)
	if err != nil {
		return err
	}
	return p.s.stopped(p.ctx)
}

// script is $<file and kin. joined: one block of all lines; line: the name
// reaches to the end of the line.
func (p *phrase) script(joined, line, args bool) error {
	end := statementEnd(p.text, p.i)
	if line {
		end = lineEnd(p.text, p.i)
	}
	name := strings.TrimSpace(p.text[p.i:end])
	from := p.i
	p.i = end
	var words []string
	if args {
		words = fields(name)
		if len(words) > 0 {
			name = words[0]
		}
	} else if q, rest, ok := cutString(name); ok && strings.TrimSpace(rest) == "" {
		name = q
	}
	if name == "" {
		return p.fault(from, "the name of a script file is missing")
	}
	if args {
		p.s.args = append(p.s.args, words)
		defer func() { p.s.args = p.s.args[:len(p.s.args)-1] }()
	}
	return p.s.script(p.ctx, name, joined)
}

// Script runs a script file as `$$><file` (joined) or `$<file` does. Errors
// have been shown when it returns them. Lines of a `$<` script go on after an
// error; the first error is returned at the end.
func (s *Session) Script(ctx context.Context, file string, joined bool) error {
	err := s.script(ctx, file, joined)
	return unshow(s.show(orNil(err), file, 0, -1))
}

// orNil keeps show from being called with nothing.
func orNil(err error) error {
	if err == nil {
		return shown{nil}
	}
	return err
}

func (s *Session) script(ctx context.Context, name string, joined bool) error {
	text, err := s.readText(name)
	if err != nil {
		return err
	}
	if joined {
		return s.run(ctx, text, -1)
	}
	var first error
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		fmt.Fprintf(s.w, "%s%s\n", s.Prompt(), sharing.Masked(line))
		err := s.run(ctx, line, -1)
		var sh shown
		switch {
		case err == nil:
		case errors.As(err, &sh):
			if first == nil {
				first = err
			}
		default:
			return err // quit, cancelled, or a word for a block further out
		}
	}
	return first
}

// readText reads a script or list file.
func (s *Session) readText(name string) (string, error) {
	if err := s.namesFile(name); err != nil {
		return "", err
	}
	f, err := os.Open(name)
	if err != nil {
		return "", fmt.Errorf("Command file execution failed: %w", err)
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && !st.Mode().IsRegular() {
		return "", fmt.Errorf("Command file execution failed: %s is not a regular file", name)
	}
	b := make([]byte, 0, 4096)
	for {
		if len(b) > maxScript {
			return "", fmt.Errorf("Command file execution failed: %s is longer than %d MiB", name, maxScript>>20)
		}
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
		n, err := f.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if err != nil {
			break
		}
	}
	t := strings.TrimPrefix(string(b), "\ufeff")
	return strings.ReplaceAll(t, "\r\n", "\n"), nil
}

func languageCommands() []*Command {
	f := "Language"
	return []*Command{
		{Names: []string{"*"}, Family: f, Summary: "comment, to the end of the line", Usage: "* text", Example: "* nothing of this is run"},
		{Names: []string{"$$"}, Family: f, Summary: "comment, up to the next semicolon", Usage: "$$ text", Example: "$$ show the registers; r"},
		{Names: []string{"$<"}, Family: f, Line: true, Summary: "run the lines of a file, each as if it was typed", Usage: "$<file", Example: "$</home/me/start.txt"},
		{Names: []string{"$><"}, Family: f, Line: true, Summary: "run a file as one block of commands", Usage: "$><file", Example: "$></home/me/walk.txt"},
		{Names: []string{"$$<"}, Family: f, Summary: "as $<; other commands may follow", Usage: "$$<file", Example: "$$<start.txt; r"},
		{Names: []string{"$$><"}, Family: f, Summary: "as $><; other commands may follow", Usage: "$$><file", Example: "$$><walk.txt; r"},
		{Names: []string{"$$>a<"}, Family: f, Summary: "run a file as one block; its arguments are ${$arg1} and so on", Usage: "$$>a<file arg ...", Example: "$$>a<walk.txt nt 10"},
		{Names: []string{"{"}, Family: f, Summary: "as .block", Usage: "{ commands }", Example: "{ r; u }"},
		{Names: []string{".block"}, Family: f, Summary: "a block; aliases in it are replaced when it is entered", Usage: ".block { commands }", Example: "aS x r; .block { ${x} }"},
		{Names: []string{".if"}, Family: f, Summary: "run commands if a condition is true", Usage: ".if (condition) { commands } .elsif (condition) { commands } .else { commands }", Example: ".if (@$t0 > 3) { .echo more } .else { .echo less }"},
		{Names: []string{".elsif"}, Family: f, Summary: "see .if", Usage: ".elsif (condition) { commands }", Example: ".if (0) { } .elsif (1) { .echo second }"},
		{Names: []string{".else"}, Family: f, Summary: "see .if", Usage: ".else { commands }", Example: ".if (0) { } .else { .echo otherwise }"},
		{Names: []string{".for"}, Family: f, Summary: "loop with a start, a condition and a step", Usage: ".for (commands ; condition ; commands) { commands }", Example: ".for (r $t0 = 0; @$t0 < 3; r $t0 = @$t0 + 1) { ? @$t0 }"},
		{Names: []string{".while"}, Family: f, Summary: "loop while a condition is true", Usage: ".while (condition) { commands }", Example: ".while (@$t0 < 3) { r $t0 = @$t0 + 1 }"},
		{Names: []string{".do"}, Family: f, Summary: "loop until a condition is false; at least once", Usage: ".do { commands } (condition)", Example: ".do { r $t0 = @$t0 + 1 } (@$t0 < 3)"},
		{Names: []string{".break"}, Family: f, Summary: "leave the loop", Usage: ".break", Example: ".while (1) { .break }"},
		{Names: []string{".continue"}, Family: f, Summary: "begin the next turn of the loop", Usage: ".continue", Example: ".foreach (x { .echo a b }) { .continue }"},
		{Names: []string{".foreach"}, Family: f, Summary: "run commands for each word of an output, a text or a file", Usage: ".foreach [/pS n] [/ps n] (variable { commands }) { commands }\n.foreach [/pS n] [/ps n] /s (variable \"text\") { commands }\n.foreach [/pS n] [/ps n] /f (variable \"file\") { commands }", Example: ".foreach /s (x \"10 20\") { ? x }"},
		{Names: []string{".catch"}, Family: f, Summary: "keep an error inside the block", Usage: ".catch { commands }", Example: ".catch { ? poi(0) }; .echo goes on"},
		{Names: []string{".leave"}, Family: f, Summary: "leave the .catch block", Usage: ".leave", Example: ".catch { .if (1) { .leave } }"},
		{Names: []string{"j"}, Family: f, Summary: "run one of two commands", Usage: "j expression 'commands' ; 'commands'", Example: "j (@$t0 == 0) '.echo zero' ; '.echo more'"},
		{Names: []string{"z"}, Family: f, Summary: "run the commands in front again while a condition is true", Usage: "commands ; z(expression)", Example: "r $t0 = @$t0 + 1 ; z(@$t0 < 5)"},
	}
}
