package command

import (
	"fmt"
	"sort"
	"strings"
	"time"

	"openkd/engine"
	"openkd/engine/expr"
	"openkd/symbols"
)

func moduleCommands() []*Command {
	f := "Modules"
	return []*Command{
		{Names: []string{"lm"}, Family: f, Glued: true, Run: cmdModules, Summary: "list modules: f paths, n names, t time stamps, v everything, 1m names only, k kernel, o loaded, u user, sm sorted by name",
			Usage: "lm[D o l v u k e c 1m sm][i|f|n|p|t] [a address] [m pattern|M pattern]", Example: "lmvm nt"},
	}
}

// listing is what lm was asked for.
type listing struct {
	verbose, loaded, user, errors, names, sorted bool
	details                                      byte // i f n p t, 0
	symbols, sum                                 bool
	at                                           *uint64
	set                                          *symbols.Set
	pattern, path                                string
}

// flags reads letters like "kvm"; m, M and a end them and take what follows.
func (c *Call) moduleOptions() (l listing, err error) {
	args := strings.TrimSpace(c.Args)
	for args != "" {
		word, rest := cutWord(args)
		for i := 0; i < len(word); i++ {
			switch word[i] {
			case 'D', 'k', 'c':
				l.sum = l.sum || word[i] == 'c'
			case 'v':
				l.verbose = true
			case 'o':
				l.loaded = true
			case 'l':
				l.symbols = true
			case 'u':
				l.user = true
			case 'e':
				l.errors = true
			case 'i', 'f', 'n', 'p', 't':
				l.details = word[i]
			case '1', 's':
				if i+1 >= len(word) || word[i+1] != 'm' {
					return l, c.Syntax(word[i:])
				}
				l.names = l.names || word[i] == '1'
				l.sorted = l.sorted || word[i] == 's'
				i++
			case 'm', 'M', 'a':
				arg := word[i+1:]
				if arg == "" {
					if arg, rest = cutWord(rest); arg == "" {
						return l, c.Fault("Syntax error", "", "%c needs %s", word[i], map[bool]string{true: "an address", false: "a pattern"}[word[i] == 'a'])
					}
				}
				switch word[i] {
				case 'm':
					l.pattern = arg
				case 'M':
					l.path = arg
				case 'a':
					// The address may have blanks: it is the rest of the line.
					v, tail, err := c.EvalPrefix(strings.TrimSpace(arg + " " + rest))
					if err != nil {
						return l, err
					}
					l.at, rest = &v, tail
				}
				i = len(word)
			default:
				return l, c.Syntax(word[i:])
			}
		}
		args = strings.TrimSpace(rest)
	}
	return l, nil
}

func cmdModules(c *Call) error {
	l, err := c.moduleOptions()
	if err != nil {
		return err
	}
	e := c.S.Engine
	all, err := e.Modules(c.Ctx)
	if err != nil {
		return err
	}
	l.set = e.SymbolSet()
	var mods []engine.Module
	for _, m := range all {
		if l.matches(c, &m) && l.selects(&m) {
			mods = append(mods, m)
		}
	}
	if l.user {
		mods = nil // those of processes are not listed
	}
	if l.verbose || l.details == 't' || l.sum {
		bases := make([]uint64, len(mods))
		for i := range mods {
			bases[i] = mods[i].Base
		}
		if len(bases) > 0 {
			if err := e.Headers(c.Ctx, bases...); err != nil {
				return err
			}
			fresh := map[uint64]engine.Module{}
			for _, m := range e.KnownModules() {
				fresh[m.Base] = m
			}
			for i := range mods {
				if m, ok := fresh[mods[i].Base]; ok {
					mods[i] = m
				}
			}
		}
	}
	if l.sorted {
		sort.SliceStable(mods, func(i, j int) bool { return strings.ToLower(mods[i].Name) < strings.ToLower(mods[j].Name) })
	}
	if l.names {
		for _, m := range mods {
			c.Printf("%s\n", m.Name)
		}
		return nil
	}
	width := 17
	if c.S.pointerSize() == 4 {
		width = 8
	}
	c.Printf("%-*s %-*s   module name\n", width, "start", width, "end")
	for i := range mods {
		c.moduleRow(&mods[i], l)
	}
	if l.loaded || l.verbose && (l.pattern != "" || l.at != nil) {
		return nil
	}
	c.unloaded(l)
	return nil
}

func (l *listing) matches(c *Call, m *engine.Module) bool {
	switch {
	case l.at != nil && !m.Contains(c.S.canon(*l.at)):
	case l.pattern != "" && !expr.Match(l.pattern, m.Name):
	case l.path != "" && !expr.Match(l.path, m.Path):
	default:
		return true
	}
	return false
}

// selects says whether a module has the symbols that are asked for: l any that are
// loaded, e problems with them.
func (l *listing) selects(m *engine.Module) bool {
	if !l.symbols && !l.errors {
		return true
	}
	if l.set == nil {
		return false
	}
	st, ok := l.set.Status(m.Base)
	return ok && (l.symbols && st.State != symbols.Deferred && st.State != symbols.None || l.errors && (st.Err != nil || st.Mismatched))
}

func (l *listing) symbolState(m *engine.Module) string {
	if l.set == nil {
		return "(deferred)"
	}
	st, ok := l.set.Status(m.Base)
	if !ok {
		return "(deferred)"
	}
	return st.String()
}

func imageName(m *engine.Module) string {
	if m.ImageName != "" {
		return m.ImageName
	}
	if m.Path != "" {
		return m.Path
	}
	return m.Name
}

func (c *Call) moduleRow(m *engine.Module, l listing) {
	row := fmt.Sprintf("%s %s   %-10s ", c.S.addr(m.Base), c.S.addr(m.End()), m.Name)
	switch l.details {
	case 'f', 'i':
		path := m.Path
		if path == "" {
			path = imageName(m)
		}
		row += path
	case 'n':
		row += imageName(m)
	case 't':
		row += fmt.Sprintf("%-12s %s", imageName(m), c.stamp(m))
	default:
		row += l.symbolState(m)
	}
	if l.sum && l.details != 't' {
		row += fmt.Sprintf(" %08X", m.CheckSum)
	}
	c.Printf("%s\n", strings.TrimRight(row, " "))
	if !l.verbose {
		return
	}
	path := m.Path
	if path == "" {
		path = imageName(m)
	}
	if l.set != nil {
		if st, ok := l.set.Status(m.Base); ok && st.File != "" {
			c.Printf("    Loaded symbol image file: %s\n", imageName(m))
			if st.ImageFile != "" {
				c.Printf("    Mapped memory image file: %s\n", st.ImageFile)
			}
		}
	}
	c.Printf("    Image path: %s\n", path)
	c.Printf("    Image name: %s\n", imageName(m))
	c.Printf("    Timestamp:        %s\n", c.stamp(m))
	c.Printf("    CheckSum:         %08X\n", m.CheckSum)
	c.Printf("    ImageSize:        %08X\n", m.Size)
}

// stamp is the link time of a module and the number it comes from.
func (c *Call) stamp(m *engine.Module) string {
	if m.TimeDateStamp == 0 {
		return "unavailable (00000000)"
	}
	return fmt.Sprintf("%s (%08X)", m.Time().In(c.S.now().Location()).Format(time.ANSIC), m.TimeDateStamp)
}

func (c *Call) unloaded(l listing) {
	head := false
	for _, u := range c.S.Engine.UnloadedModules() {
		if l.at != nil && (c.S.canon(*l.at) < u.Start || c.S.canon(*l.at) >= u.End) ||
			l.pattern != "" && !expr.Match(l.pattern, u.Name) && !expr.Match(l.pattern, stem(u.Name)) || l.path != "" {
			continue
		}
		if !head {
			c.Printf("\nUnloaded modules:\n")
			head = true
		}
		c.Printf("%s %s   %s\n", c.S.addr(u.Start), c.S.addr(u.End), u.Name)
		if l.verbose && !u.Time.IsZero() {
			c.Printf("    Unloaded:         %s\n", u.Time.In(c.S.now().Location()).Format(time.ANSIC))
		}
	}
}

func stem(name string) string {
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		return name[:i]
	}
	return name
}

// dots prints one for each module, 64 on a line.
func (c *Call) dots(n int) {
	for ; n > 64; n -= 64 {
		c.Printf("%s\n", strings.Repeat(".", 64))
	}
	c.Printf("%s\n", strings.Repeat(".", n))
}
