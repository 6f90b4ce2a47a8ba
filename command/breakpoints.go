package command

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"openkd/arch"
	"openkd/engine"
)

func breakpointCommands() []*Command {
	f := "Breakpoints"
	return []*Command{
		{Names: []string{"bp"}, Family: f, Run: cmdBreakpoint, Summary: "set a breakpoint", Usage: `bp[id] [/1] [/p eprocess] [/t ethread] [address [passes]] ["commands"]`, Example: `bp nt+12345 3 ".echo here; gc"`},
		{Names: []string{"ba"}, Family: f, Run: cmdBreakpoint, Summary: "set a processor breakpoint: execute, read or write, write, I/O", Usage: `ba[id] {e|r|w|i}{1|2|4|8} [/1] [/p eprocess] [/t ethread] [address [passes]] ["commands"]`, Example: "ba w8 nt+300000"},
		{Names: []string{"bl"}, Family: f, NoTarget: true, Run: cmdBreakpointList, Summary: "list breakpoints", Usage: "bl [ids]", Example: "bl"},
		{Names: []string{"bc"}, Family: f, NoTarget: true, Run: cmdBreakpointChange, Summary: "clear breakpoints", Usage: "bc {ids|*}", Example: "bc 0-2,5"},
		{Names: []string{"bd"}, Family: f, NoTarget: true, Run: cmdBreakpointChange, Summary: "disable breakpoints", Usage: "bd {ids|*}", Example: "bd *"},
		{Names: []string{"be"}, Family: f, NoTarget: true, Run: cmdBreakpointChange, Summary: "enable breakpoints", Usage: "be {ids|*}", Example: "be 1"},
		{Names: []string{"bs"}, Family: f, NoTarget: true, Run: cmdBreakpointCommand, Summary: "change the commands of a breakpoint", Usage: `bs id ["commands"]`, Example: `bs 0 "r; gc"`},
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
	for strings.HasPrefix(args, "/") {
		var err error
		word := args[:min(2, len(args))]
		rest := strings.TrimLeft(args[len(word):], " \t")
		switch strings.ToLower(word) {
		case "/1":
			bp.OneShot = true
		case "/p":
			bp.Process, rest, err = c.EvalPrefix(rest)
		case "/t":
			bp.Thread, rest, err = c.EvalPrefix(rest)
		case "/c", "/w":
			return c.Fault("Syntax error", args, "%s is not supported; put the condition into the commands: \"j (condition) ''; 'gc'\"", word)
		default:
			return c.Syntax(args)
		}
		if err != nil {
			return err
		}
		args = strings.TrimLeft(rest, " \t")
	}
	var err error
	if args != "" && args[0] != '"' {
		if bp.Addr, args, err = c.EvalPrefix(args); err != nil {
			return err
		}
		if args = strings.TrimLeft(args, " \t"); args != "" && args[0] != '"' {
			var n uint64
			at := args
			if n, args, err = c.EvalPrefix(args); err != nil {
				return err
			}
			if n == 0 || n > 1<<31 {
				return c.Fault("Range error", at, "the pass count is 1 or more")
			}
			bp.Passes = uint32(n)
		}
	} else if bp.Addr, err = c.S.Engine.PC(c.Ctx); err != nil {
		return err
	}
	text, rest, _, err := c.CutString(strings.TrimLeft(args, " \t"))
	if err != nil {
		return err
	}
	if err := c.End(rest); err != nil {
		return err
	}
	bp.Command = text
	set, replaced, err := c.S.Engine.Breakpoints().Set(bp)
	if err != nil {
		return err
	}
	if replaced {
		c.Printf("breakpoint %d redefined\n", set.ID)
	}
	return nil
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
	if args == "*" {
		var out []int
		for _, b := range list {
			out = append(out, b.ID)
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
	list := c.S.Engine.Breakpoints().List()
	var want map[int]bool
	if strings.TrimSpace(c.Args) != "" {
		ids, err := c.ids(c.Args)
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
		c.Printf("%s\n", c.breakpointLine(&b))
		if b.Process != 0 {
			c.Printf("     Match process data %s\n", c.S.addr(b.Process))
		}
		if b.Thread != 0 {
			c.Printf("     Match thread data %s\n", c.S.addr(b.Thread))
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
func (c *Call) breakpointLine(b *engine.Breakpoint) string {
	state := "d"
	if b.Enabled {
		state = "e"
	}
	addr := c.S.addr(b.Addr)
	name := c.S.Engine.Symbolize(b.Addr)
	if b.Kind == engine.Processor && b.Access == arch.HWIO {
		name = ""
	}
	if b.Deferred {
		state += "u"
		addr = strings.Repeat(" ", len(addr))
		name = fmt.Sprintf("(%s+0x%x)", b.Module, b.Offset)
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

func cmdBreakpointCommands(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	for _, b := range c.S.Engine.Breakpoints().List() {
		line := fmt.Sprintf("bp%d", b.ID)
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
		if b.Deferred || b.Module != "" {
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
