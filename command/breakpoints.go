package command

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"openkd/arch"
	"openkd/engine"
	"openkd/engine/expr"
	"openkd/image/sym"
	"openkd/internal/brief"
	"openkd/symbols"
)

func breakpointCommands() []*Command {
	f := "Breakpoints"
	const options = `[/1] [/p eprocess] [/t ethread] [/c frames] [/C frames] [address [passes]] ["commands"]`
	return []*Command{
		{Names: []string{"bp"}, Family: f, Run: cmdBreakpoint, Summary: "set a breakpoint; one whose name means nothing yet waits for it, as with bu", Usage: "bp[id] " + options, Example: `bp nt!KeBugCheckEx 3 ".echo here; gc"`},
		{Names: []string{"bu"}, Family: f, Run: cmdBreakpoint, Summary: "set a breakpoint that follows its name: it waits for the module, through unloads and reboots", Usage: "bu[id] " + options, Example: "bu mydriver!DriverEntry"},
		{Names: []string{"bm"}, Family: f, Run: cmdBreakpointMatch, Summary: "set a breakpoint at every function whose name matches; /a at data too, /d by addresses, not names", Usage: `bm [/a] [/d] [/(] [/1] [/p eprocess] [/t ethread] [/c frames] [/C frames] module!pattern [passes] ["commands"]`, Example: "bm tcpip!Tcpip*"},
		{Names: []string{"ba"}, Family: f, Run: cmdBreakpoint, Summary: "set a processor breakpoint: execute, read or write, write, I/O", Usage: `ba[id] {e|r|w|i}{1|2|4|8} ` + options, Example: "ba w8 nt+300000"},
		{Names: []string{"bl"}, Family: f, NoTarget: true, Run: cmdBreakpointList, Summary: "list breakpoints", Usage: "bl [/L] [ids]", Example: "bl"},
		{Names: []string{"bc"}, Family: f, NoTarget: true, Run: cmdBreakpointChange, Summary: "clear breakpoints", Usage: `bc {ids|*|"pattern"}`, Example: "bc 0-2,5"},
		{Names: []string{"bd"}, Family: f, NoTarget: true, Run: cmdBreakpointChange, Summary: "disable breakpoints", Usage: `bd {ids|*|"pattern"}`, Example: `bd "nt!Rtl*"`},
		{Names: []string{"be"}, Family: f, NoTarget: true, Run: cmdBreakpointChange, Summary: "enable breakpoints", Usage: `be {ids|*|"pattern"}`, Example: "be 1"},
		{Names: []string{"bs"}, Family: f, NoTarget: true, Run: cmdBreakpointCommand, Summary: "change the commands of a breakpoint", Usage: `bs id ["commands"]`, Example: `bs 0 "r; gc"`},
		{Names: []string{"bsc"}, Family: f, NoTarget: true, Run: cmdBreakpointCondition, Summary: "make a breakpoint stop only when a condition holds", Usage: `bsc id condition ["commands"]`, Example: "bsc 0 @rcx == 3"},
		{Names: []string{"br"}, Family: f, NoTarget: true, Run: cmdBreakpointRenumber, Summary: "give breakpoints other numbers", Usage: "br old new [old new ...]", Example: "br 0 10 1 11"},
		{Names: []string{".bpcmds"}, Family: f, NoTarget: true, Run: cmdBreakpointCommands, Summary: "show the commands that set the breakpoints again", Usage: ".bpcmds", Example: ".bpcmds"},
	}
}

// glued reports whether the arguments follow the name without a blank: bp3.
func (c *Call) glued() bool {
	n := len(c.Name)
	if c.Processor >= 0 {
		n += len(strconv.Itoa(c.Processor))
	}
	return c.Args != "" && c.offset == n
}

func cmdBreakpoint(c *Call) error {
	bp := engine.Breakpoint{ID: -1}
	args := c.Args
	if c.glued() && isDigit(args[0]) {
		n := 0
		for n < len(args) && isDigit(args[n]) {
			n++
		}
		id, err := strconv.Atoi(args[:n])
		if err != nil || id > engine.MaxID {
			return c.Fault("Range error", args, "breakpoint numbers are 0 to %d", engine.MaxID)
		}
		bp.ID, args = id, strings.TrimLeft(args[n:], " \t")
	}
	if strings.EqualFold(c.Name, "ba") {
		var err error
		if args, err = c.access(&bp, args); err != nil {
			return err
		}
	}
	args, err := c.breakpointOptions(&bp, args)
	if err != nil {
		return err
	}
	notice := ""
	if args != "" && args[0] != '"' {
		if args, notice, err = c.breakpointPlace(&bp, args); err != nil {
			return err
		}
	} else if bp.Addr, err = c.S.Engine.PC(c.Ctx); err != nil {
		return err
	}
	if err := c.breakpointTail(&bp, args); err != nil {
		return err
	}
	set, replaced, err := c.S.Engine.Breakpoints().Set(bp)
	if err != nil {
		return err
	}
	c.Printf("%s", notice)
	if replaced {
		c.Printf("breakpoint %d redefined\n", set.ID)
	}
	return nil
}

// breakpointOptions reads the options that bp and its kin share.
func (c *Call) breakpointOptions(bp *engine.Breakpoint, args string) (string, error) {
	for strings.HasPrefix(args, "/") {
		var err error
		word := args[:min(2, len(args))]
		rest := strings.TrimLeft(args[len(word):], " \t")
		switch word {
		case "/1":
			bp.OneShot = true
		case "/p", "/P":
			bp.Process, rest, err = c.EvalPrefix(rest)
		case "/t", "/T":
			bp.Thread, rest, err = c.EvalPrefix(rest)
		case "/c", "/C":
			at := rest
			w, r := cutWord(rest)
			var n uint64
			if n, err = c.Eval(w); err == nil && (n < 1 || n > engine.MaxFrames) {
				err = c.Fault("Range error", at, "a stack has 1 to 0x%x frames", engine.MaxFrames)
			}
			if rest = r; word == "/c" {
				bp.Below = int(n)
			} else {
				bp.Above = int(n)
			}
		case "/w", "/W":
			return "", c.Fault("Syntax error", args, "%s is not supported; put the condition into the commands: \"j (condition) ''; 'gc'\"", word)
		default:
			return "", c.Syntax(args)
		}
		if err != nil {
			return "", err
		}
		args = strings.TrimLeft(rest, " \t")
	}
	return args, nil
}

// breakpointPlace reads where a breakpoint is to be. What bu is given, and what
// means nothing yet, is kept as it was written.
func (c *Call) breakpointPlace(bp *engine.Breakpoint, args string) (rest, notice string, err error) {
	mods, after, bad := engine.Names(args, c.S.Radix())
	text := strings.TrimSpace(args[:len(args)-len(after)])
	unresolved := strings.EqualFold(c.Name, "bu")
	bp.Addr, rest, err = c.EvalPrefix(args)
	var f *Fault
	waits := errors.As(err, &f) && f.Words == expr.Resolve.Words() && bad == nil && len(mods) > 0 && bp.Kind == engine.Software
	switch {
	case err != nil && !waits:
		return "", "", err
	case err != nil:
		if bp.Expr, bp.Deferred, rest = text, true, after; !unresolved {
			notice = "Bp expression '" + text + "' could not be resolved, adding deferred bp\n"
		}
		if _, known := c.S.Engine.KnownModule(mods[0]); f.Help != "" && (!unresolved || known) {
			notice += f.Help + "\n" // its module is there: it may be a mistake
		}
	case unresolved && len(mods) > 0 && bad == nil:
		bp.Expr = text
	}
	bp.Radix = c.S.Radix()
	return rest, notice, nil
}

// breakpointTail reads what follows the place: passes and commands.
func (c *Call) breakpointTail(bp *engine.Breakpoint, args string) error {
	if args = strings.TrimLeft(args, " \t"); args != "" && args[0] != '"' {
		at := args
		n, rest, err := c.EvalPrefix(args)
		if err != nil {
			return err
		}
		if n == 0 || n > 1<<31 {
			return c.Fault("Range error", at, "the pass count is 1 or more")
		}
		bp.Passes, args = uint32(n), rest
	}
	text, rest, _, err := c.CutString(strings.TrimLeft(args, " \t"))
	if err != nil {
		return err
	}
	bp.Command = text
	return c.End(rest)
}

// cmdBreakpointMatch is bm.
func cmdBreakpointMatch(c *Call) error {
	args := c.Args
	data, fixed := false, false
	for strings.HasPrefix(args, "/") {
		w, rest := cutWord(args)
		switch strings.ToLower(w) {
		case "/a":
			data = true
		case "/d":
			fixed = true
		case "/(":
		default:
			goto options
		}
		args = rest
	}
options:
	bp := engine.Breakpoint{ID: -1, Radix: c.S.Radix()}
	args, err := c.breakpointOptions(&bp, args)
	if err != nil {
		return err
	}
	pattern, args := cutWord(args)
	if pattern == "" || pattern[0] == '"' {
		return c.Syntax(pattern)
	}
	if err := c.breakpointTail(&bp, args); err != nil {
		return err
	}
	var found []symbols.Symbol
	for s, err := range c.S.Engine.EachSymbol(c.Ctx, pattern) {
		if err != nil {
			return c.S.Engine.NameError(pattern, err)
		}
		if s.HasAddress() && (data || s.Code) && s.Kind != sym.Label {
			if found = append(found, s); len(found) > maxMatches {
				return fmt.Errorf("more than %d symbols match, and the target's table holds %d software breakpoints: ask for fewer", maxMatches, engine.MaxSoftware)
			}
		}
	}
	// Where several names stand for one place, the private one is first.
	slices.SortStableFunc(found, func(a, b symbols.Symbol) int {
		if n := cmp.Compare(a.Addr, b.Addr); n != 0 {
			return n
		}
		return cmp.Compare(b2i(a.Kind == sym.Public), b2i(b.Kind == sym.Public))
	})
	found = slices.CompactFunc(found, func(a, b symbols.Symbol) bool { return a.Addr == b.Addr })
	l := c.S.Engine.Breakpoints()
	enabled := 0
	for _, b := range l.List() {
		if b.Enabled && !b.Deferred && b.Kind == engine.Software && !slices.ContainsFunc(found, func(s symbols.Symbol) bool { return s.Addr == b.Addr }) {
			enabled++
		}
	}
	switch {
	case len(found) == 0:
		return fmt.Errorf("no function matches %q; x %s shows what does, bu waits for a module that is not loaded", brief.Text(pattern, 60), brief.Text(pattern, 60))
	case len(found)+enabled > engine.MaxSoftware:
		return fmt.Errorf("%d functions match, and the target's table holds %d software breakpoints, of which %d are in use: ask for fewer", len(found), engine.MaxSoftware, enabled)
	}
	for _, s := range found {
		one := bp
		one.Addr = s.Addr
		if !fixed {
			one.Expr = `@!"` + s.Full() + `"`
		}
		set, _, err := l.Set(one)
		if err != nil {
			return err
		}
		c.Printf("%3d: %s @!\"%s\"\n", set.ID, c.S.addr(set.Addr), s.Full())
	}
	return nil
}

// maxMatches bounds what bm looks at.
const maxMatches = 4096

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// access reads "w4" of ba.
func (c *Call) access(bp *engine.Breakpoint, args string) (rest string, err error) {
	bp.Kind = engine.Processor
	word, rest := cutWord(args)
	if word == "" {
		return "", c.Syntax("")
	}
	kinds := map[byte]uint8{'e': arch.HWExecute, 'w': arch.HWWrite, 'i': arch.HWIO, 'r': arch.HWAccess}
	k, ok := kinds[word[0]|0x20]
	if !ok {
		return "", c.Fault("Syntax error", args, "the access is e (execute), r (read or write), w (write) or i (I/O), with a size: w4")
	}
	bp.Access = k
	size := word[1:]
	if size == "" { // "ba w 4 address"
		size, rest = cutWord(rest)
	}
	switch size {
	case "1", "2", "4", "8":
		bp.Len = size[0] - '0'
	default:
		return "", c.Fault("Syntax error", args, "the size is 1, 2, 4 or 8 bytes: %c4", word[0])
	}
	if k == arch.HWExecute && bp.Len != 1 {
		return "", c.Fault("Syntax error", args, "an execute breakpoint has size 1, at the first byte of an instruction: e1")
	}
	return strings.TrimLeft(rest, " \t"), nil
}

// ids reads a list of breakpoint numbers: "0 2", "1,3", "0-4", "*".
func (c *Call) ids(args string) ([]int, error) {
	list := c.S.Engine.Breakpoints().List()
	args = strings.TrimSpace(args)
	if args == "*" || strings.HasPrefix(args, `"`) {
		pattern := unquote(args)
		var out []int
		for _, b := range list {
			if args == "*" || expr.Match(pattern, strings.Trim(b.Expr, `@!"`)) || !b.Deferred && expr.Match(pattern, c.S.symbol(b.Addr)) {
				out = append(out, b.ID)
			}
		}
		if len(out) == 0 && args != "*" {
			return nil, fmt.Errorf("no breakpoint is at a place whose name matches %q", brief.Text(pattern, 60))
		}
		return out, nil
	}
	var out []int
	for _, w := range strings.FieldsFunc(args, func(r rune) bool { return r == ' ' || r == '\t' || r == ',' }) {
		lo, hi, isRange := strings.Cut(w, "-")
		a, err := strconv.Atoi(lo)
		b := a
		if err == nil && isRange {
			b, err = strconv.Atoi(hi)
		}
		if err != nil || a < 0 || b < a {
			return nil, c.Fault("Syntax error", args[strings.Index(args, w):], "breakpoint numbers are decimal: '0 2', '1,3', '0-4', or * for all")
		}
		if !isRange {
			out = append(out, a)
			continue
		}
		for _, p := range list { // only those there are: 0-9999 is not an error
			if p.ID >= a && p.ID <= b {
				out = append(out, p.ID)
			}
		}
	}
	return out, nil
}

func cmdBreakpointChange(c *Call) error {
	if strings.TrimSpace(c.Args) == "" {
		return c.Syntax("")
	}
	ids, err := c.ids(c.Args)
	if err != nil {
		return err
	}
	l := c.S.Engine.Breakpoints()
	var bad []error
	for _, id := range ids {
		switch strings.ToLower(c.Name) {
		case "bc":
			if !l.Clear(id) {
				bad = append(bad, fmt.Errorf("breakpoint %d does not exist", id))
			}
		case "bd":
			bad = append(bad, l.Enable(id, false))
		case "be":
			bad = append(bad, l.Enable(id, true))
		}
	}
	return errors.Join(bad...)
}

func cmdBreakpointList(c *Call) error {
	for _, l := range c.S.Engine.PlaceBreakpoints(c.Ctx) {
		c.Printf("%s\n", l)
	}
	list := c.S.Engine.Breakpoints().List()
	var want map[int]bool
	args, noLines := strings.TrimSpace(c.Args), false
	if w, rest := cutWord(args); w == "/L" || w == "/l" {
		args, noLines = strings.TrimSpace(rest), true
	}
	if args != "" {
		ids, err := c.ids(args)
		if err != nil {
			return err
		}
		want = map[int]bool{}
		for _, id := range ids {
			want[id] = true
		}
	}
	for _, b := range list {
		if want != nil && !want[b.ID] {
			continue
		}
		c.Printf("%s\n", c.breakpointLine(&b, !noLines))
		if b.Process != 0 {
			c.Printf("     Match process data %s\n", c.S.addr(b.Process))
		}
		if b.Thread != 0 {
			c.Printf("     Match thread data %s\n", c.S.addr(b.Thread))
		}
		if b.Below != 0 {
			c.Printf("     Call stack shallower than: %04x\n", b.Below)
		}
		if b.Above != 0 {
			c.Printf("     Call stack deeper than: %04x\n", b.Above)
		}
	}
	return nil
}

func accessText(b *engine.Breakpoint) string {
	if b.Kind != engine.Processor {
		return ""
	}
	return fmt.Sprintf("%c%d", "ewir"[b.Access&3], b.Len)
}

// breakpointLine is the line of bl.
func (c *Call) breakpointLine(b *engine.Breakpoint, lines bool) string {
	state := "d"
	if b.Enabled {
		state = "e"
	}
	addr := c.S.addr(b.Addr)
	name := c.S.Engine.Symbolize(b.Addr)
	if lines && name != "" && !b.Deferred {
		name += c.S.atLine(b.Addr)
	}
	if b.Kind == engine.Processor && b.Access == arch.HWIO {
		name = ""
	}
	if b.Deferred {
		state += "u"
		addr = strings.Repeat(" ", len(addr))
		name = fmt.Sprintf("(%s+0x%x)", b.Module, b.Offset)
		if b.Expr != "" {
			name = "(" + b.Expr + ")"
		}
	}
	line := fmt.Sprintf("%2d %s %s %s %04x (%04x)", b.ID, state, addr, accessText(b), b.PassesLeft, b.Passes)
	if name != "" {
		line += " " + name
	}
	if b.OneShot {
		line += " /1"
	}
	if b.Command != "" {
		line += " " + quote(b.Command)
	}
	return line
}

// quote writes a command string so that it can be typed again.
func quote(t string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(t) + `"`
}

func cmdBreakpointCommand(c *Call) error {
	word, rest := cutWord(c.Args)
	ids, err := c.ids(word)
	if err != nil {
		return err
	}
	if len(ids) != 1 {
		return c.Syntax(c.Args)
	}
	text, rest, _, err := c.CutString(strings.TrimLeft(rest, " \t"))
	if err != nil {
		return err
	}
	if err := c.End(rest); err != nil {
		return err
	}
	return c.S.Engine.Breakpoints().SetCommand(ids[0], text)
}

// cmdBreakpointCondition is bsc.
func cmdBreakpointCondition(c *Call) error {
	word, rest := cutWord(c.Args)
	ids, err := c.ids(word)
	if err != nil {
		return err
	}
	condition, rest := splitCommands(rest)
	if len(ids) != 1 || condition == "" {
		return c.Syntax("")
	}
	text, rest, _, err := c.CutString(rest)
	if err != nil {
		return err
	}
	if err := c.End(rest); err != nil {
		return err
	}
	return c.S.Engine.Breakpoints().SetCommand(ids[0], ".if ("+condition+") {"+text+"} .else {gc}")
}

// splitCommands parts a condition from the commands in quotes at its end.
func splitCommands(t string) (condition, commands string) {
	t = strings.TrimSpace(t)
	for i := 0; i < len(t); i++ {
		if t[i] != '"' {
			continue
		}
		if i > 1 && t[i-2:i] == "@!" { // a name in quotes
			if n := strings.IndexByte(t[i+1:], '"'); n >= 0 {
				i += n + 1
				continue
			}
		}
		return strings.TrimSpace(t[:i]), t[i:]
	}
	return t, ""
}

func cmdBreakpointRenumber(c *Call) error {
	words := strings.Fields(c.Args)
	if len(words) == 0 || len(words)%2 != 0 {
		return c.Syntax("")
	}
	var from, to []int
	for i, w := range words {
		n, err := strconv.Atoi(w)
		if err != nil {
			return c.Fault("Syntax error", w, "breakpoint numbers are decimal")
		}
		if i%2 == 0 {
			from = append(from, n)
		} else {
			to = append(to, n)
		}
	}
	return c.S.Engine.Breakpoints().Renumber(from, to)
}

func cmdBreakpointCommands(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	for _, b := range c.S.Engine.Breakpoints().List() {
		line := fmt.Sprintf("bp%d", b.ID)
		if b.Expr != "" {
			line = fmt.Sprintf("bu%d", b.ID)
		}
		if b.Kind == engine.Processor {
			line = fmt.Sprintf("ba%d %s", b.ID, accessText(&b))
		}
		if b.OneShot {
			line += " /1"
		}
		if b.Process != 0 {
			line += " /p 0x" + strconv.FormatUint(b.Process, 16)
		}
		if b.Thread != 0 {
			line += " /t 0x" + strconv.FormatUint(b.Thread, 16)
		}
		if b.Below != 0 {
			line += fmt.Sprintf(" /c 0x%x", b.Below)
		}
		if b.Above != 0 {
			line += fmt.Sprintf(" /C 0x%x", b.Above)
		}
		if b.Expr != "" {
			line += " " + b.Expr
		} else if b.Deferred || b.Module != "" {
			line += fmt.Sprintf(" %s+0x%x", b.Module, b.Offset)
		} else {
			line += " 0x" + c.S.addr(b.Addr)
		}
		if b.Passes > 1 {
			line += fmt.Sprintf(" 0x%x", b.Passes)
		}
		if b.Command != "" {
			line += " " + quote(b.Command)
		}
		c.Printf("%s;\n", line)
	}
	return nil
}
