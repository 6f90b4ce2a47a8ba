package command

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

func helpCommands() []*Command {
	return []*Command{
		{Names: []string{".help", ".hh"}, Family: "Help", NoTarget: true, Run: cmdHelp,
			Summary: "list the commands, or explain one: .help lists them with a line each, .hh by name, and both explain a command or keys",
			Usage:   ".help [command|keys]\n.hh [command|keys]", Example: ".hh bp"},
		{Names: []string{".key"}, Family: "Help", NoTarget: true, Run: cmdKey,
			Summary: "do what a control key of the debugger does; stands on a line of its own, and does not wait while the target runs",
			Usage:   ".key {speed|leave|interrupt|trace|break|cycle|resync|verbose|versions}\n.key {a|b|c|d|f|k|r|v|w}", Example: ".key break"},
	}
}

// helpWidth is how wide lists are made.
const helpWidth = 79

const keysHelp = `Keys while no prompt is shown; the same with ALT at a prompt (CTRL+ALT+K), or by name with .key:

    CTRL+C     break in; while a command works, cancel it; at a prompt, clear the line
    CTRL+F     break in, where CTRL+C is taken by something else
    CTRL+B     leave at once; the target runs (at a prompt, too: CTRL+B and ENTER on an empty line)
    CTRL+D     packet trace on or off
    CTRL+K     at the next reboot: do not break, break, break at the first module load
    CTRL+R     resynchronise the link
    CTRL+V     verbose mode on or off (at a prompt, too)
    CTRL+W     versions
    CTRL+A     speed of the line: only tells where it is set

Without an editor (no terminal, or TERM=dumb) a key on a line of its own does the same, where it gets through;
.key always does.

Keys at a prompt are those of Emacs and of most shells:

    UP DOWN, CTRL+P CTRL+N     the history; ALT+< and ALT+> its ends
    CTRL+R CTRL+S              search the history backwards, forwards; CTRL+G gives up
    PAGE UP, PAGE DOWN         lines that begin like this one up to the cursor
    TAB                        complete; press it again when names are still gathered
    HOME END, CTRL+A CTRL+E    the ends of the line
    CTRL+LEFT, CTRL+RIGHT      by words, also ALT+B ALT+F
    CTRL+W, ALT+D              remove a word; CTRL+U CTRL+K to the ends of the line
    CTRL+Y, ALT+Y              bring back what was removed, or what was removed before
    CTRL+T, ALT+U ALT+L ALT+C  swap two characters; a word in capitals, small, with one capital
    CTRL+_                     undo
    CTRL+L                     clear the screen
    CTRL+D                     at an empty line: the end of the input, which leaves

An empty line repeats the last command; in a shared session, your own last one. What is typed while the target
runs waits for the next stop.
`

func cmdHelp(c *Call) error {
	name := strings.TrimSpace(c.Args)
	switch {
	case name == "" && strings.EqualFold(c.Name, ".hh"):
		c.index()
		return nil
	case name == "":
		c.list()
		return nil
	case strings.EqualFold(name, "keys"):
		c.Printf("%s", keysHelp)
		return nil
	}
	if err := c.S.allowed(name); err != nil {
		return err
	}
	if k, ok := c.S.Lookup(name); ok {
		c.explain(k)
		return nil
	}
	// Letters may stand behind a name: lmvm.
	if st, ok := c.S.cut(name, 0); ok && st.cmd != nil && (st.cmd.Glued || st.name1 == len(name)) {
		c.explain(st.cmd)
		return nil
	}
	if ext, ok := strings.CutPrefix(name, "!"); ok {
		for _, x := range c.S.ext.Chain() {
			if text, err := x.Help(ext); err == nil {
				c.Printf("%s", text)
				return nil
			}
		}
	}
	if help := absent(name); help != "" {
		return c.Fault("Syntax error", name, "%s", help)
	}
	help := ".hh lists the commands"
	if near := c.S.near(name, true); len(near) > 0 {
		help = "did you mean " + orList(near) + "?"
	}
	return c.Fault("Syntax error", name, "there is no command of that name; %s", help)
}

// cmdKey: the console serves .key before it comes here, where it stands alone.
func cmdKey(c *Call) error {
	return fmt.Errorf(".key stands on a line of its own, at a prompt or while the target runs; .hh keys says what keys do")
}

// list is .help: every command with a line.
func (c *Call) list() {
	for _, fam := range c.S.helpFamilies() {
		c.Printf("%s\n", fam)
		for _, k := range c.S.shown() {
			if k.Family == fam {
				names := strings.Join(k.Names, " ")
				if len(names) > 22 {
					names = k.Names[0] + " ..."
				}
				c.Printf("  %-22s %s\n", names, k.short(helpWidth-25))
			}
		}
		c.Printf("\n")
	}
	c.Printf(".hh <command> shows the syntax and an example, .hh keys the keys.\n';' separates commands, an empty line repeats the last one.\n")
}

// short is the summary in a width: as a whole, or its beginning.
func (k *Command) short(width int) string {
	s := k.Summary
	if len(s) <= width {
		return s
	}
	depth := 0
	for i := 0; i < len(s)-1; i++ {
		switch s[i] {
		case '(':
			depth++
		case ')':
			depth--
		case ':', ';':
			if depth == 0 && s[i+1] == ' ' && i <= width {
				return s[:i]
			}
		}
	}
	s = s[:max(0, width-3)]
	if i := strings.LastIndexByte(s, ' '); i > 0 {
		s = s[:i]
	}
	return s + "..."
}

// index is .hh: names by family.
func (c *Call) index() {
	for _, fam := range c.S.helpFamilies() {
		c.Printf("%s\n", fam)
		line := " "
		for _, k := range c.S.shown() {
			if k.Family != fam {
				continue
			}
			for _, n := range k.Names {
				if len(line)+1+len(n) > helpWidth {
					c.Printf("%s\n", line)
					line = " "
				}
				line += " " + n
			}
		}
		c.Printf("%s\n", line)
	}
	c.Printf("\n.hh <command> explains one, .help lists them with a line each, .hh keys shows the keys.\n")
}

// summary is `?`: the commands without a dot in front, as people type them.
func (c *Call) summary() {
	list := slices.DeleteFunc(slices.Clone(c.S.shown()), func(k *Command) bool {
		return !isLetter(k.Names[0][0]) && k.Names[0][0] != '?' && k.Names[0][0] != '~'
	})
	slices.SortStableFunc(list, func(a, b *Command) int { return foldCompare(a.Names[0], b.Names[0]) })
	for _, k := range list {
		use, _, _ := strings.Cut(k.Usage, "\n")
		if len(use) > 38 {
			use = strings.Join(k.Names, " ")
			if len(use) > 38 {
				use = k.Names[0] + " ..."
			}
		}
		c.Printf("%s - %s\n", use, k.short(helpWidth-3-len(use)))
	}
	c.Printf("\n.hh lists all commands, with those that begin with . and !; .hh <command> explains one.\n")
}

// explain prints what .help says about one command.
func (c *Call) explain(k *Command) {
	c.Printf("%s - %s\n\n", strings.Join(k.Names, ", "), k.Summary)
	for _, u := range strings.Split(k.Usage, "\n") {
		c.Printf("    %s\n", u)
	}
	c.Printf("\nExample:\n    %s\n", k.Example)
}

// helpFamilies lists the families in the order in which the registry has them.
func (s *Session) helpFamilies() []string {
	var out []string
	for _, k := range s.shown() {
		if !slices.Contains(out, k.Family) {
			out = append(out, k.Family)
		}
	}
	return out
}

// near lists the names of commands that a person may have meant, the nearest
// first. parts lets names count that have the word in them.
func (s *Session) near(word string, parts bool) []string {
	const most = 5
	word = strings.ToLower(word)
	bare := strings.Trim(word, ".!")
	if bare == "" || len(word) > 64 {
		return nil
	}
	type match struct {
		name string
		far  int
	}
	var found []match
	for _, k := range s.shown() {
		for _, n := range k.Names {
			l := strings.ToLower(n)
			far := edits(word, l)
			switch {
			case strings.Trim(l, ".!") == bare: // only the sign in front is another one
				far = 0
			case parts && strings.Contains(l, bare):
				far = min(far, 2)
			case far > (len(bare)+1)/4:
				continue
			}
			found = append(found, match{n, far})
		}
	}
	sort.SliceStable(found, func(i, j int) bool { return found[i].far < found[j].far })
	var out []string
	for _, m := range found[:min(len(found), most)] {
		out = append(out, m.name)
	}
	return out
}

// edits is how many characters are to be put in, left out, changed or swapped to
// make b of a.
func edits(a, b string) int {
	if d := len(a) - len(b); d > 3 || d < -3 {
		return 99
	}
	before, row := make([]int, len(b)+1), make([]int, len(b)+1)
	var last []int
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		last, before, row = before, row, make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(before[j]+1, row[j-1]+1, before[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], last[j-2]+1)
			}
		}
	}
	return row[len(b)]
}

// orList is a, b or c.
func orList(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " or " + names[len(names)-1]
}
