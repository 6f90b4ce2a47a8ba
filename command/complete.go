package command

import (
	"context"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"openkd/image/sym"
	"openkd/symbols"
)

// Limits of completion.
const (
	maxCandidates = 500
	maxFolder     = 10000 // entries of a folder that are looked at
	maxIndexed    = 4 << 20
	maxNameLength = 512
	// completionWait is how long a person waits for the names of a module to be
	// gathered; they are there at the next TAB.
	completionWait = 40 * time.Millisecond
)

// Completion is what can stand at a place of a line.
type Completion struct {
	// From and To are the part of the line that is completed, in bytes.
	From, To int
	// Insert is what to put there: as much as all candidates have in common, or
	// what stands there already.
	Insert string
	// Candidates are sorted, the likeliest kind first. More are not listed.
	Candidates []Candidate
	More       int
	// Incomplete says that there may be others: names are still being gathered.
	Incomplete bool
	// Note says why there are none, where that is worth saying.
	Note string
}

// Candidate is one of the texts that can stand there.
type Candidate struct {
	Text string // in place of From to To
	Show string // its part that differs from others, for a list
	Kind Kind
}

// Kind is what a candidate is.
type Kind string

// Kinds of candidates.
const (
	KindCommand  Kind = "command"
	KindModule   Kind = "module"
	KindSymbol   Kind = "symbol"
	KindType     Kind = "type"
	KindField    Kind = "field"
	KindRegister Kind = "register"
	KindAlias    Kind = "alias"
	KindFile     Kind = "file"
)

// Complete says what the word at the cursor (a byte offset) can become. It asks
// the target nothing, loads nothing and waits at most some tens of milliseconds:
// what counts are the modules, symbols and types that are loaded. It may be called
// from any goroutine.
func (s *Session) Complete(line string, cursor int) Completion {
	return complete(line, cursor, &sessionNames{s: s})
}

// CompleteNames is Complete without the names of files, for those who are not to
// see what there is on this machine.
func (s *Session) CompleteNames(line string, cursor int) Completion {
	return complete(line, cursor, &sessionNames{s: s, noFiles: true})
}

// nameSource is where the names come from that complete chooses among. Each method
// may say more than fits: what does not is left out.
type nameSource interface {
	// commands lists the names of commands, with dots, bangs and all.
	commands() []string
	// command finds the command that a text begins with, and where its arguments
	// are; whole says that a ; does not end them.
	command(text string) (cmd string, args int, whole, ok bool)
	modules() []string
	// names lists symbols or types of a module that begin with a text, in any
	// case. module "" means those whose names are at hand.
	names(module, prefix string, types bool) found
	// fields lists the fields of a type, or of the one that a path leads to.
	fields(module, name string, path []string) []string
	registers() []string
	aliases() []string
	// files lists the entries of a folder; folders end with a slash.
	files(folder string) []string
}

// found is names, sorted without regard to case.
type found struct {
	names []string // the first ones
	total int      // how many there are
	last  string   // the last of all
	done  bool     // false: they are still being gathered
	note  string   // why there are none
}

// What the arguments of commands are, where names of symbols and registers are
// not all that stands there. Names are in lower case.
var (
	takesFile = words(`.logopen .logappend .load .unload .setdll .scriptload .scriptrun .scriptunload .writemem .readmem
		$$< $$>< $$>a< $< $>< .sympath .sympath+ .exepath .exepath+ .srcpath .srcpath+ .extpath .extpath+ .kdfiles .dump .opendump .run lsf .lsf`)
	takesCommand  = words(".help .hh !help")
	takesType     = words("dt ?? dx dtx !list dv r? .process .thread")
	takesModule   = words("lm lmv lmi lmvm lmm .reload ld !lmi !dh !sym .unreload sxe sxd sxi sxn")
	takesCommands = words(`bp bu bm ba bs j z .foreach .if .elsif .while .do .for .catch .block !list p t pa ta pt tt pc tc gu g
		.outmask .printf as as aS ~`)
	takesAlias = words("ad al as aS")
)

func words(t string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(t) {
		m[strings.ToLower(w)] = true
	}
	return m
}

// complete is Session.Complete over names.
func complete(line string, cursor int, from nameSource) Completion {
	cursor = max(0, min(cursor, len(line)))
	c := Completion{From: cursor, To: cursor}
	if len(line) > maxLine {
		return c
	}
	start, quoted := statementStart(line[:cursor], from)
	text := line[start:cursor]
	trimmed := strings.TrimLeft(text, " \t")
	start += len(text) - len(trimmed)
	text = trimmed
	f := finder{Completion: c, from: from, line: line, cursor: cursor}
	cmd, args, _, isCommand := from.command(text)
	switch {
	case quoted >= 0: // a string that is no command
		if takesFile[strings.ToLower(cmd)] {
			f.file(quoted + 1)
		}
	case !isCommand || args > len(text) || args == len(text) && !endsName(text):
		f.command(start)
	default:
		f.arguments(cmd, start+args)
	}
	f.finish()
	return f.Completion
}

// endsName says that a name of a command cannot go on behind text.
func endsName(text string) bool {
	if text == "" {
		return false
	}
	switch c := text[len(text)-1]; {
	case isBlank(c), c == '<' && strings.HasPrefix(text, "$"), c == '?', c == '*', c == '|', c == '~', c == '#', c == '+':
		return true
	}
	return false
}

// statementStart is where the command begins that the end of text belongs to.
// quoted is where the string begins around it, if that holds no commands, or -1.
func statementStart(text string, from nameSource) (start, quoted int) {
	quoted = -1
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case ';':
			if _, _, whole, _ := from.command(strings.TrimLeft(text[start:i], " \t")); !whole {
				start = i + 1
			}
		case '\n':
			start = i + 1
		case '{', '}':
			if i == 0 || text[i] == '{' && text[i-1] != '$' || text[i] == '}' && strings.LastIndex(text[:i], "${") <= strings.LastIndexByte(text[:i], '{')-2 {
				start = i + 1
			}
		case '\\':
			i++
		case '"':
			if end := quoteEnd(text, i); end > 0 {
				i = end - 1
				continue
			}
			cmd, _, _, ok := from.command(strings.TrimLeft(text[start:i], " \t"))
			if ok && takesCommands[strings.ToLower(cmd)] {
				inner, q := statementStart(text[i+1:], from)
				if q >= 0 {
					q += i + 1
				}
				return i + 1 + inner, q
			}
			return start, i
		}
	}
	return start, quoted
}

// finder gathers candidates.
type finder struct {
	Completion
	from   nameSource
	line   string
	cursor int
	seen   map[string]bool
	only   string   // what stands behind the one candidate, if there is no more
	far    []string // candidates that are not listed, as different as any
}

// add adds a candidate; show is what a list says.
func (f *finder) add(k Kind, text, show string) {
	if f.seen == nil {
		f.seen = map[string]bool{}
	}
	if f.seen[text] || len(text) > maxNameLength || clean(text) != text {
		return
	}
	f.seen[text] = true
	f.Candidates = append(f.Candidates, Candidate{Text: text, Show: show, Kind: k})
}

// clean leaves out what cannot be typed.
func clean(t string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || r >= 0x80 && r < 0xa0 || r == 0xfffd {
			return -1
		}
		return r
	}, t)
}

// fold adds those of names that begin with prefix, in any case.
func (f *finder) fold(k Kind, names []string, prefix, before, behind string) {
	for _, n := range names {
		if hasFold(n, prefix) {
			f.add(k, before+n+behind, n+behind)
		}
	}
}

func hasFold(n, prefix string) bool {
	return len(n) >= len(prefix) && strings.EqualFold(n[:len(prefix)], prefix)
}

// command completes the name of a command that begins at start.
func (f *finder) command(start int) {
	// A number in front names a processor.
	for start < f.cursor && isDigit(f.line[start]) {
		start++
	}
	word := f.line[start:f.cursor]
	if strings.ContainsAny(word, " \t") {
		f.expression("")
		return
	}
	f.From = start
	names := f.from.commands()
	if word == "" {
		// Everything is no answer; what people begin with is.
		names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !isLetter(n[0]) })
	}
	f.fold(KindCommand, slices.Sorted(slices.Values(names)), word, "", "")
	if word != "" && isLetter(word[0]) {
		f.fold(KindAlias, f.from.aliases(), word, "", "")
	}
	f.only = " "
}

// arguments completes an argument of a command; args is where they begin.
func (f *finder) arguments(cmd string, args int) {
	switch name := strings.ToLower(cmd); {
	case takesCommand[name]:
		f.From = f.word(" \t")
		word := f.line[f.From:f.cursor]
		names := f.from.commands()
		if name == "!help" {
			names = slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n[0] != '!' })
			for i := range names {
				names[i] = names[i][1:]
			}
		}
		f.fold(KindCommand, names, word, "", "")
		if word == "" {
			f.Candidates = nil
		}
	case takesFile[name]:
		for args < f.cursor && isBlank(f.line[args]) {
			args++
		}
		f.file(args)
	case takesAlias[name]:
		f.From = f.word(" \t")
		f.fold(KindAlias, f.from.aliases(), f.line[f.From:f.cursor], "", "")
	case takesModule[name] || strings.HasPrefix(name, "lm"):
		f.From = f.word(" \t:")
		f.fold(KindModule, f.from.modules(), f.line[f.From:f.cursor], "", "")
	default:
		if name == "dt" && f.dtFields(args) {
			return
		}
		if (name == "dx" || name == "??") && f.memberFields(args) {
			return
		}
		f.expression(name)
	}
}

// word is where the word begins that ends at the cursor.
func (f *finder) word(stops string) int {
	return strings.LastIndexAny(f.line[:f.cursor], stops) + 1
}

// nameBytes are what names of symbols are made of, and what leads to one.
func nameByte(c byte) bool {
	return isLetter(c) || isDigit(c) || c >= 0x80 || strings.IndexByte("_!@$?~:`.", c) >= 0
}

// expression completes a name in an expression.
func (f *finder) expression(cmd string) {
	i := f.cursor
	for i > 0 && nameByte(f.line[i-1]) {
		i--
	}
	word := f.line[i:f.cursor]
	if strings.HasPrefix(word, "$") && i > 0 && f.line[i-1] == '{' { // ${name}
		return
	}
	if i > 1 && f.line[i-1] == '{' && f.line[i-2] == '$' {
		f.From = i
		f.fold(KindAlias, f.from.aliases(), word, "", "}")
		return
	}
	wantsType := takesType[cmd]
	mod, name, bang := strings.Cut(word, "!")
	switch {
	case strings.HasPrefix(word, "@"), strings.HasPrefix(word, "$"), cmd == "r" && !bang:
		f.From = i
		at := ""
		if word != "" && word[0] == '@' {
			at, word = "@", word[1:]
		}
		f.fold(KindRegister, f.from.registers(), word, at, "")
		if at == "" {
			f.fold(KindAlias, f.from.aliases(), word, "", "")
		}
	case bang:
		for _, m := range f.from.modules() {
			if strings.EqualFold(m, mod) {
				mod = m
			}
		}
		f.From = i
		f.named(mod, mod+"!", name, wantsType)
	case word == "" && cmd == "":
	default:
		f.From = i
		// A star or a name of a file in front of it belong to something else.
		f.fold(KindModule, f.from.modules(), word, "", "!")
		f.fold(KindAlias, f.from.aliases(), word, "", "")
		if len(word) >= 2 {
			f.named("", "", word, wantsType)
		}
	}
}

// named adds types and symbols.
func (f *finder) named(mod, before, name string, wantsType bool) {
	if wantsType && f.found(KindType, f.from.names(mod, name, true), before) && strings.HasPrefix(name, "_") {
		return // a type was meant
	}
	f.found(KindSymbol, f.from.names(mod, name, false), before)
}

func (f *finder) found(k Kind, x found, before string) bool {
	for _, n := range x.names {
		f.add(k, before+n, n)
	}
	if more := x.total - len(x.names); more > 0 {
		f.More += more
		f.far = append(f.far, before+x.last)
	}
	f.Incomplete = f.Incomplete || !x.done
	f.Note = x.note
	return x.total > 0
}

// dtFields completes `dt module!type field.field`; true: that is what stands
// there.
func (f *finder) dtFields(args int) bool {
	w := strings.Fields(f.line[args:f.cursor])
	if len(w) == 0 || isBlank(f.line[f.cursor-1]) {
		w = append(w, "")
	}
	// Options, and numbers that belong to them, stand in front of the type.
	i := 0
	for i < len(w)-1 && (strings.HasPrefix(w[i], "-") || i > 0 && strings.HasPrefix(w[i-1], "-") && isDigit(w[i][0])) {
		i++
	}
	if i >= len(w)-1 {
		return false
	}
	field := w[len(w)-1]
	if field != "" && !isLetter(field[0]) && field[0] != '_' {
		return false
	}
	mod, name, bang := strings.Cut(w[i], "!")
	if !bang {
		mod, name = "", w[i]
	}
	path := strings.Split(field, ".")
	last := path[len(path)-1]
	names := f.from.fields(mod, name, path[:len(path)-1])
	if names == nil && field != "" {
		return false // the address, perhaps
	}
	f.From = f.cursor - len(last)
	f.fold(KindField, names, last, "", "")
	return true
}

// cast is what stands in front of the fields of ((nt!_EPROCESS*)@$proc)->a.b
var cast = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`\(\s*(?:struct\s+|union\s+)?(?:([A-Za-z0-9_]+)!)?([A-Za-z_][A-Za-z0-9_]*)\s*\*+\s*\)[^()]*\)?\s*(?:->|\.)\s*((?:[A-Za-z_][A-Za-z0-9_]*(?:\[[^\]]*\])?\s*(?:->|\.)\s*)*)([A-Za-z_][A-Za-z0-9_]*)?$`)
})

// memberFields completes fields behind a cast; true: that is what stands there.
func (f *finder) memberFields(args int) bool {
	m := cast().FindStringSubmatch(f.line[args:f.cursor])
	if m == nil {
		return false
	}
	path := strings.FieldsFunc(strings.ReplaceAll(m[3], "->", "."), func(r rune) bool { return r == '.' || r == ' ' })
	f.From = f.cursor - len(m[4])
	f.fold(KindField, f.from.fields(m[1], m[2], path), m[4], "", "")
	return true
}

// file completes a name of a file that begins at start, perhaps with a quote.
func (f *finder) file(start int) {
	if start < f.cursor && f.line[start] == '"' {
		start++
	}
	// Options, and what stands in front of the name in a list.
	if i := strings.LastIndexAny(f.line[start:f.cursor], ";*,"); i >= 0 {
		start += i + 1
	}
	for {
		word, rest, more := strings.Cut(f.line[start:f.cursor], " ")
		if !more || len(word) != 2 || word[0] != '/' {
			break
		}
		start = f.cursor - len(rest)
	}
	path := f.line[start:f.cursor]
	cut := strings.LastIndexByte(path, '/')
	if runtime.GOOS == "windows" {
		cut = strings.LastIndexAny(path, `/\`)
	}
	folder, base := path[:cut+1], path[cut+1:]
	f.From = start
	names := f.from.files(folder)
	sort.Strings(names)
	for _, n := range names {
		fits := strings.HasPrefix(n, base)
		if runtime.GOOS == "windows" {
			fits = hasFold(n, base)
		}
		if fits && (base != "" || !strings.HasPrefix(n, ".")) {
			f.add(KindFile, folder+n, n)
		}
	}
}

// finish finds what all candidates have in common, and bounds them.
func (f *finder) finish() {
	typed := f.line[f.From:f.To]
	f.Insert = typed
	if len(f.Candidates) > 0 || f.Incomplete {
		f.Note = ""
	}
	if len(f.Candidates) == 0 || f.Incomplete {
		f.bound()
		return
	}
	common := f.Candidates[0].Text
	for _, c := range f.Candidates[1:] {
		common = commonFold(common, c.Text)
	}
	for _, t := range f.far {
		common = commonFold(common, t)
	}
	if len(common) >= len(typed) {
		f.Insert = common
	}
	if len(f.Candidates) == 1 && f.More == 0 {
		f.Insert = f.Candidates[0].Text
		if rest := f.line[f.To:]; f.only != "" && (rest == "" || !isBlank(rest[0])) {
			f.Insert += f.only
		}
	}
	f.bound()
}

func (f *finder) bound() {
	if n := len(f.Candidates) - maxCandidates; n > 0 {
		f.More += n
		f.Candidates = f.Candidates[:maxCandidates]
	}
}

// commonFold is what a and b begin with, in any case, as a has it.
func commonFold(a, b string) string {
	i := 0
	for i < len(a) && i < len(b) && (a[i] == b[i] || a[i] < 0x80 && b[i] < 0x80 && a[i]|0x20 == b[i]|0x20 && isLetter(a[i])) {
		i++
	}
	for i > 0 && i < len(a) && a[i]&0xc0 == 0x80 { // not within a character
		i--
	}
	return a[:i]
}

// sessionNames is the names of a session.
type sessionNames struct {
	s       *Session
	noFiles bool
}

func (n *sessionNames) commands() []string {
	var out []string
	for _, c := range n.s.shown() {
		for _, name := range c.Names {
			if name != "{" && name != "*" && !strings.HasPrefix(name, "$$") || len(name) > 2 {
				out = append(out, name)
			}
		}
	}
	for _, x := range n.published().extensions {
		out = append(out, "!"+x)
	}
	sort.Strings(out)
	return out
}

func (n *sessionNames) command(text string) (string, int, bool, bool) {
	st, ok := n.s.cut(text, 0)
	if !ok && strings.HasPrefix(st.name, "!") && len(st.name) > 1 {
		ok = true // of an extension
	}
	return st.name, st.name1, st.cmd != nil && st.cmd.Line, ok
}

func (n *sessionNames) modules() []string {
	var out []string
	if e := n.s.Engine; e != nil {
		for _, m := range e.KnownModules() {
			out = append(out, m.Name)
		}
	}
	sort.Slice(out, func(i, j int) bool { return strings.ToLower(out[i]) < strings.ToLower(out[j]) })
	return out
}

// pseudo lists the registers of the debugger.
var pseudo = strings.Fields(`$ip $ra $retreg $retreg64 $csp $p $exp $ea $ea2 $eventip $relip $scopeip $exentry $frame $dbgtime $proc $thread
	$peb $teb $tpid $tid $ptrsize $pagesize $bug_code $bug_param1 $bug_param2 $bug_param3 $bug_param4 $exr_chance $exr_code $exr_numparams
	$exr_param0 $exr_param1 $exr_param2 $exr_param3
	$t0 $t1 $t2 $t3 $t4 $t5 $t6 $t7 $t8 $t9 $t10 $t11 $t12 $t13 $t14 $t15 $t16 $t17 $t18 $t19`)

func (n *sessionNames) registers() []string {
	var out []string
	if e := n.s.Engine; e != nil {
		if a := e.Arch(); a != nil {
			for _, r := range a.Regs() {
				out = append(out, r.Name)
			}
		}
	}
	return append(out, pseudo...)
}

func (n *sessionNames) aliases() []string { return n.published().aliases }

func (n *sessionNames) files(folder string) []string {
	if n.noFiles {
		return nil
	}
	dir := folder
	if dir == "" {
		dir = "."
	}
	if strings.HasPrefix(dir, "~/") {
		if home, err := os.UserHomeDir(); err == nil {
			dir = home + dir[1:]
		}
	}
	if n.s.namesFile(dir) != nil {
		return nil
	}
	h, err := os.Open(dir)
	if err != nil {
		return nil
	}
	defer h.Close()
	list, _ := h.ReadDir(maxFolder) // what could be read will do
	var out []string
	for _, d := range list {
		name := d.Name()
		if isFolder(dir, d) {
			name += "/"
		}
		out = append(out, name)
	}
	return out
}

func isFolder(dir string, d fs.DirEntry) bool {
	if d.Type()&fs.ModeSymlink != 0 {
		st, err := os.Stat(filepath.Join(dir, d.Name()))
		return err == nil && st.IsDir()
	}
	return d.IsDir()
}

// published is what completion knows of the session's own state, which belongs to
// another goroutine.
type published struct{ aliases, extensions []string }

func (n *sessionNames) published() *published {
	if p := n.s.names.known.Load(); p != nil {
		return p
	}
	return &published{}
}

// publish tells completion what names there are. The owner calls it when a line
// has been run.
func (s *Session) publish() {
	p := &published{extensions: s.ExtensionCommands()}
	for a := range s.aliases {
		p.aliases = append(p.aliases, a)
	}
	sort.Strings(p.aliases)
	s.names.known.Store(p)
}

// loaded lists the modules that have symbols now: one, or all.
func (n *sessionNames) loaded(module string) []symbols.Status {
	if n.s.Engine == nil {
		return nil
	}
	set := n.s.Engine.SymbolSet()
	if set == nil {
		return nil
	}
	var out []symbols.Status
	for _, m := range set.Modules() {
		if (module == "" || strings.EqualFold(m.Name, module)) && m.State != symbols.Deferred && m.State != symbols.None {
			out = append(out, m)
		}
	}
	return out
}

// names looks in the indexes of modules, which are made when they are first asked
// for. Without a module those count that are there already, and the kernel.
func (n *sessionNames) names(module, prefix string, types bool) found {
	out := found{done: true}
	x := &n.s.names
	deadline := time.Now().Add(x.patience())
	mods := n.loaded(module)
	if module != "" && len(mods) == 0 {
		for _, m := range n.modules() {
			if strings.EqualFold(m, module) {
				out.note = "no symbols of " + m + " are loaded; .reload /f " + m + " looks for them"
			}
		}
	}
	for _, m := range mods {
		i := x.of(n.s.Engine.SymbolSet(), m, types, module != "" || m.Name == "nt")
		if i == nil {
			continue
		}
		if !i.waitUntil(deadline) {
			out.done = false
			continue
		}
		names := i.with(prefix)
		if len(names) == 0 {
			continue
		}
		if out.total += len(names); out.last == "" || foldCompare(names[len(names)-1], out.last) > 0 {
			out.last = names[len(names)-1]
		}
		out.names = append(out.names, names[:min(len(names), maxCandidates)]...)
	}
	slices.SortFunc(out.names, foldCompare)
	out.names = out.names[:min(len(out.names), maxCandidates)]
	return out
}

// fields lists the fields at the end of a path.
func (n *sessionNames) fields(module, name string, path []string) []string {
	for _, m := range n.loaded(module) {
		// The module is loaded, so this opens a file at most.
		f, err := n.s.Engine.SymbolSet().File(context.Background(), m.Base, symbols.LoadOptions{NoTarget: true})
		if err != nil {
			continue
		}
		id, err := f.TypeByName(name)
		if err != nil || id == 0 {
			continue
		}
		return membersAt(f, id, path)
	}
	return nil
}

// membersAt walks along a path of fields and lists what is there.
func membersAt(f sym.File, id sym.TypeID, path []string) []string {
	const deepest = 32
	for steps := 0; ; steps++ {
		t, err := f.Type(id)
		for hops := 0; err == nil && hops < deepest && (t.Kind == sym.Modifier || t.Kind == sym.Alias || t.Kind == sym.Pointer || t.Kind == sym.Array); hops++ {
			t, err = f.Type(t.Elem)
		}
		if err != nil || t.Kind != sym.Struct && t.Kind != sym.Union || steps > deepest {
			return nil
		}
		members, err := f.Members(t.ID)
		if err != nil {
			return nil
		}
		// Fields of bases are fields too.
		for i, n := 0, 0; i < len(members) && n < deepest; i++ {
			if m := members[i]; m.Kind == sym.Base {
				n++
				if more, err := f.Members(m.Type); err == nil && len(members) < maxCandidates {
					members = append(members, more...)
				}
			}
		}
		if len(path) == 0 {
			out := []string{}
			for _, m := range members {
				if (m.Kind == sym.Field || m.Kind == sym.StaticField) && m.Name != "" {
					out = append(out, m.Name)
				}
			}
			return out
		}
		step, _, _ := strings.Cut(path[0], "[")
		path = path[1:]
		id = 0
		for _, m := range members {
			if m.Kind == sym.Field && strings.EqualFold(m.Name, step) {
				id = m.Type
			}
		}
		if id == 0 {
			return nil
		}
	}
}

// nameIndexes are the names of modules, sorted, for completion. They are made in
// goroutines of their own, which close waits for.
type nameIndexes struct {
	known atomic.Pointer[published]
	wait  time.Duration // how long a person waits; 0: completionWait

	mu     sync.Mutex
	list   map[indexKey]*nameIndex
	order  []indexKey // the newest last
	ctx    context.Context
	stop   context.CancelFunc
	work   sync.WaitGroup
	closed bool
}

// CloseCompletion ends what completion has under way. Complete goes on with what
// it has.
func (s *Session) CloseCompletion() { s.names.close() }

type indexKey struct {
	base  uint64
	file  string
	state symbols.State
	types bool
}

// nameIndex is the names of a module.
type nameIndex struct {
	done  chan struct{} // closed when the rest is there
	names []string      // by foldLess
}

func (x *nameIndexes) patience() time.Duration {
	if x.wait > 0 {
		return x.wait
	}
	return completionWait
}

// of is the index of a module, which may be under way. If there is none it is
// made if that is wanted; else of returns nil.
func (x *nameIndexes) of(set *symbols.Set, m symbols.Status, types, wanted bool) *nameIndex {
	k := indexKey{m.Base, m.File, m.State, types}
	x.mu.Lock()
	defer x.mu.Unlock()
	if i := x.list[k]; i != nil || !wanted {
		return i
	}
	i := &nameIndex{done: make(chan struct{})}
	if x.closed || set == nil {
		close(i.done)
		return i
	}
	if x.list == nil {
		x.list = map[indexKey]*nameIndex{}
		x.ctx, x.stop = context.WithCancel(context.Background())
	}
	x.forgetLocked()
	x.list[k] = i
	x.order = append(x.order, k)
	ctx := x.ctx
	x.work.Go(func() {
		defer close(i.done)
		i.names = gather(ctx, set, m.Base, types)
	})
	return i
}

// forgetLocked drops the oldest indexes that are complete while there are too
// many names.
func (x *nameIndexes) forgetLocked() {
	total := 0
	for j := len(x.order) - 1; j >= 0; j-- {
		i := x.list[x.order[j]]
		select {
		case <-i.done:
		default:
			continue
		}
		if total += len(i.names); total > maxIndexed {
			delete(x.list, x.order[j])
			x.order = slices.Delete(x.order, j, j+1)
		}
	}
}

// close ends what is under way.
func (x *nameIndexes) close() {
	x.mu.Lock()
	x.closed = true
	if x.stop != nil {
		x.stop()
	}
	x.mu.Unlock()
	x.work.Wait()
}

// gather reads the names of a module.
func gather(ctx context.Context, set *symbols.Set, base uint64, types bool) []string {
	var names []string
	take := func(n string) bool {
		if n != "" && len(n) <= maxNameLength && !strings.ContainsAny(n, " \"';") {
			names = append(names, strings.Clone(n))
		}
		return ctx.Err() != nil || len(names) >= maxIndexed // what is taken is not asked for again
	}
	if types {
		for _, err := range set.EachType(ctx, base, take) {
			if err != nil || ctx.Err() != nil || len(names) >= maxIndexed {
				break
			}
		}
	} else {
		for _, err := range set.Each(ctx, base, take) {
			if err != nil || ctx.Err() != nil || len(names) >= maxIndexed {
				break
			}
		}
	}
	slices.SortFunc(names, foldCompare)
	return slices.Clip(slices.Compact(names))
}

// foldCompare orders names in lower case, and equal ones as they are.
func foldCompare(a, b string) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		if x, y := lower(a[i]), lower(b[i]); x != y {
			return int(x) - int(y)
		}
	}
	if len(a) != len(b) {
		return len(a) - len(b)
	}
	return strings.Compare(a, b)
}

func lower(c byte) byte {
	if c >= 'A' && c <= 'Z' {
		return c + 0x20
	}
	return c
}

func (i *nameIndex) waitUntil(deadline time.Time) bool {
	select {
	case <-i.done:
		return true
	default:
	}
	t := time.NewTimer(time.Until(deadline))
	defer t.Stop()
	select {
	case <-i.done:
		return true
	case <-t.C:
		return false
	}
}

// with lists the names that begin with a text. The index is complete.
func (i *nameIndex) with(prefix string) []string {
	at := func(n string) int {
		if len(n) > len(prefix) {
			n = n[:len(prefix)]
		}
		return foldCompareBytes(n, prefix)
	}
	from := sort.Search(len(i.names), func(j int) bool { return at(i.names[j]) >= 0 })
	to := from + sort.Search(len(i.names)-from, func(j int) bool { return at(i.names[from+j]) > 0 })
	return i.names[from:to]
}

// foldCompareBytes is foldCompare without regard to case at the end.
func foldCompareBytes(a, b string) int {
	for i := 0; i < len(a) && i < len(b); i++ {
		if x, y := lower(a[i]), lower(b[i]); x != y {
			return int(x) - int(y)
		}
	}
	return len(a) - len(b)
}
