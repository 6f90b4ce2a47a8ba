package command

import (
	"fmt"
	"os"
	"sort"
	"strconv"
	"strings"

	"openkd/engine/expr"
)

// expand replaces aliases: ${name} and its forms, $u0 to $u9, and names that
// stand alone. A line that begins with as, aS, al or ad stays as it is, so
// that an alias can be defined anew.
func (s *Session) expand(text string) (string, error) {
	if len(text) > maxLine {
		return "", fmt.Errorf("the line is longer than %d bytes", maxLine)
	}
	switch w, _ := cutWord(text); w {
	case "as", "aS", "al", "ad":
		return text, nil
	}
	if !strings.Contains(text, "$") && len(s.aliases) == 0 {
		return text, nil
	}
	x := expander{known: s.alias, bare: s.aliases, fixed: true, nested: true}
	return x.replace(text, 0)
}

// alias looks a name up: arguments of the script, fixed and named aliases.
func (s *Session) alias(name string) (string, bool) {
	if n, ok := strings.CutPrefix(name, "$arg"); ok && len(s.args) > 0 {
		if i, err := strconv.Atoi(n); err == nil && i >= 0 {
			if a := s.args[len(s.args)-1]; i < len(a) {
				return a[i], true
			}
			return "", false
		}
	}
	if n, ok := strings.CutPrefix(name, "$u"); ok && len(n) == 1 && isDigit(n[0]) {
		return s.fixed[n[0]-'0'], true
	}
	v, ok := s.aliases[name]
	return v, ok
}

// substitute replaces the variable of .foreach.
func substitute(text string, vars map[string]string) (string, error) {
	x := expander{known: func(n string) (string, bool) { v, ok := vars[n]; return v, ok }, bare: vars}
	return x.replace(text, 0)
}

func isEdge(c byte) bool {
	return isBlank(c) || c == '\n' || c == ';' || c == '"' || c == '\'' || c == '(' || c == ')' || c == '{' || c == '}' || c == ','
}

// expander is one replacement of aliases in a line.
type expander struct {
	known  func(string) (string, bool) // answers ${name}
	bare   map[string]string           // replaced where they stand alone
	fixed  bool                        // replace $u0 to $u9 too
	nested bool                        // replace aliases in what aliases stand for
	count  int                         // of replacements
}

const (
	maxNested  = 10
	maxReplace = 100_000
)

// text is what an alias stands for, with the aliases in it replaced.
func (x *expander) text(v string, depth int) (string, error) {
	if x.count++; x.count > maxReplace {
		return "", fmt.Errorf("more than %d aliases are replaced in one line; is one defined by itself?", maxReplace)
	}
	if !x.nested || depth >= maxNested {
		return v, nil
	}
	return x.replace(v, depth+1)
}

// replace is one pass over text. An unknown ${name} stays as it is, for an
// alias that comes later.
func (x *expander) replace(text string, depth int) (string, error) {
	var b strings.Builder
	put := func(v string) error {
		v, err := x.text(v, depth)
		b.WriteString(v)
		return err
	}
	for i := 0; i < len(text); {
		if b.Len() > maxLine {
			return "", fmt.Errorf("the line grows over %d bytes when its aliases are replaced; is one defined by itself?", maxLine)
		}
		if strings.HasPrefix(text[i:], "${") {
			if end := strings.IndexByte(text[i:], '}'); end > 0 {
				v, final, ok := form(text[i+2:i+end], x.known)
				if ok {
					if final {
						b.WriteString(v)
					} else if err := put(v); err != nil {
						return "", err
					}
					i += end + 1
					continue
				}
			}
		}
		if x.fixed && strings.HasPrefix(text[i:], "$u") && i+2 < len(text) && isDigit(text[i+2]) && (i+3 == len(text) || !isLetter(text[i+3])) {
			v, _ := x.known(text[i : i+3])
			if err := put(v); err != nil {
				return "", err
			}
			i += 3
			continue
		}
		if len(x.bare) > 0 && !isEdge(text[i]) && (i == 0 || isEdge(text[i-1])) {
			j := i
			for j < len(text) && !isEdge(text[j]) {
				j++
			}
			if v, ok := x.bare[text[i:j]]; ok {
				if err := put(v); err != nil {
					return "", err
				}
			} else if strings.Contains(text[i:j], "$") {
				// It may hold a form or a fixed alias further on.
				b.WriteByte(text[i])
				i++
				continue
			} else {
				b.WriteString(text[i:j])
			}
			i = j
			continue
		}
		b.WriteByte(text[i])
		i++
	}
	return b.String(), nil
}

// form is what stands in ${ }: name, /v:name (the name itself), /n:name (the
// name, if it is an alias), /d:name (1 if it is one, else 0), /f:name (its
// text, or nothing). final: nothing in the answer is replaced any more.
func form(t string, known func(string) (string, bool)) (text string, final, ok bool) {
	if len(t) > 3 && t[0] == '/' && t[2] == ':' {
		name := t[3:]
		v, have := known(name)
		switch t[1] {
		case 'v':
			return name, true, true
		case 'n':
			return name, true, have
		case 'd':
			if have {
				return "1", true, true
			}
			return "0", true, true
		case 'f':
			return v, false, true
		}
		return "", false, false
	}
	text, ok = known(t)
	return text, false, ok
}

func aliasCommands() []*Command {
	f := "Aliases"
	return []*Command{
		{Names: []string{"as"}, Family: f, Line: true, Run: cmdAs, Summary: "define an alias; its text is the rest of the line",
			Usage: "as name text\nas /e name variable\nas /ma name address\nas /mu name address\nas /x name expression\nas /f name file\nas /c name commands", Example: "as stack dq @rsp L8"},
		{Names: []string{"aS"}, Family: f, Run: cmdAs, Summary: "define an alias; its text ends at the semicolon", Usage: "aS [/e|/ma|/mu|/x|/f|/c] name text", Example: "aS reg r; .block { ${reg} }"},
		{Names: []string{"ad"}, Family: f, Run: cmdAd, Summary: "delete aliases", Usage: "ad [/q] name\nad *", Example: "ad stack"},
		{Names: []string{"al"}, Family: f, Run: cmdAl, Summary: "list aliases", Usage: "al", Example: "al"},
	}
}

func cmdAs(c *Call) error {
	args := c.Args
	kind := ""
	for strings.HasPrefix(args, "/") {
		var w string
		w, args = cutWord(args)
		switch strings.ToLower(w) {
		case "/e", "/ma", "/mu", "/x", "/f", "/c":
			kind = strings.ToLower(w)
		default:
			return c.Syntax(w)
		}
	}
	name, text := cutWord(args)
	if name == "" || text == "" && kind == "" {
		return c.Syntax(args)
	}
	name = plainName(name)
	if strings.ContainsAny(name, "\";{}") {
		return c.Fault("Syntax error", name, "the name of an alias holds no quotes, semicolons or braces")
	}
	if kind != "" && text == "" {
		return c.Syntax("")
	}
	switch kind {
	case "/e":
		v, ok := os.LookupEnv(text)
		if !ok {
			return c.Fault("Syntax error", text, "the environment has no variable of that name")
		}
		text = v
	case "/ma", "/mu":
		addr, err := c.Eval(text)
		if err != nil {
			return err
		}
		if text, err = c.S.readString(c.Ctx, addr, len(kind) == 3 && kind[2] == 'u', maxStringText); err != nil {
			return err
		}
	case "/x":
		v, err := c.Eval(text)
		if err != nil {
			return err
		}
		text = fmt.Sprintf("0x%x", v)
	case "/f":
		file, _, err := c.fileName(text)
		if err != nil {
			return err
		}
		if text, err = c.S.readText(file); err != nil {
			return err
		}
		text = strings.TrimRight(text, "\n")
	case "/c":
		out, err := c.S.capture(c.Ctx, text)
		if err != nil {
			return err
		}
		text = strings.TrimRight(out, "\n")
	}
	if len(text) > maxLine {
		return fmt.Errorf("the text of alias %s is longer than %d bytes", name, maxLine)
	}
	if n, ok := strings.CutPrefix(name, "$u"); ok && len(n) == 1 && isDigit(n[0]) {
		return c.S.SetFixedAlias(int(n[0]-'0'), text)
	}
	c.S.aliases[name] = text
	return nil
}

func cmdAd(c *Call) error {
	args := c.Args
	quiet := false
	if w, rest := cutWord(args); strings.EqualFold(w, "/q") {
		quiet, args = true, rest
	}
	name, rest := cutWord(args)
	if name == "" || rest != "" {
		return c.Syntax(rest)
	}
	name = plainName(name)
	if name == "*" {
		clear(c.S.aliases)
		return nil
	}
	if _, ok := c.S.aliases[name]; ok {
		delete(c.S.aliases, name)
		return nil
	}
	n := 0
	if strings.ContainsAny(name, "*?[") {
		for a := range c.S.aliases {
			if expr.Match(name, a) {
				delete(c.S.aliases, a)
				n++
			}
		}
	}
	if n == 0 && !quiet {
		return c.Fault("Syntax error", name, "there is no alias of that name; al lists them")
	}
	return nil
}

func cmdAl(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	if len(c.S.aliases) == 0 {
		c.Printf("No aliases\n")
		return nil
	}
	names := make([]string, 0, len(c.S.aliases))
	for n := range c.S.aliases {
		names = append(names, n)
	}
	sort.Strings(names)
	c.Printf("  Alias            Value  \n -------          ------- \n")
	for _, n := range names {
		c.Printf(" %-16s %s \n", n, c.S.aliases[n])
	}
	return nil
}

// plainName takes the name out of ${/v:name}.
func plainName(t string) string {
	if n, ok := strings.CutPrefix(t, "${/v:"); ok {
		return strings.TrimSuffix(n, "}")
	}
	return t
}
