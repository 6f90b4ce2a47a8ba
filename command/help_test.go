package command

import (
	"strings"
	"testing"
)

// TestHelpOfEveryCommand: each says what it does, how it is written, and has an
// example that is a line of commands in which it occurs.
func TestHelpOfEveryCommand(t *testing.T) {
	s := NewSession(nil, nil, Options{})
	for _, k := range s.Commands() {
		name := k.Names[0]
		if k.Summary == "" || k.Usage == "" || k.Example == "" || k.Family == "" {
			t.Errorf("%s: %+v", name, k)
			continue
		}
		if strings.Contains(k.Summary, "\n") || strings.HasSuffix(k.Summary, ".") || len(k.short(40)) > 40 {
			t.Errorf("%s: the summary is not one line without a full stop: %q", name, k.Summary)
		}
		if strings.ContainsAny(k.Example, "\n") {
			t.Errorf("%s: the example is not one line: %q", name, k.Example)
		}
		// The usage begins with a name, or says what stands in front of one.
		fits := false
		for _, u := range strings.Split(k.Usage, "\n") {
			for _, n := range k.Names {
				fits = fits || strings.Contains(strings.ToLower(u), strings.ToLower(n)) || strings.HasPrefix(n, u[:1])
			}
		}
		if !fits {
			t.Errorf("%s: the usage is of something else: %q", name, k.Usage)
		}
		st, ok := s.cut(k.Example, 0)
		if !ok {
			t.Errorf("%s: the example is no command: %q", name, k.Example)
			continue
		}
		used := st.cmd == k
		for _, n := range k.Names {
			used = used || strings.Contains(k.Example, n)
		}
		if !used {
			t.Errorf("%s: the example is one of something else: %q", name, k.Example)
		}
		if _, err := s.expand(k.Example); err != nil {
			t.Errorf("%s: %q: %v", name, k.Example, err)
		}
		if strings.Count(k.Example, `"`)%2 != 0 || strings.Count(k.Example, "{") != strings.Count(k.Example, "}") && len(name) > 1 || strings.Count(k.Example, "(") != strings.Count(k.Example, ")") {
			t.Errorf("%s: something is left open in %q", name, k.Example)
		}
	}
}

func TestHelpText(t *testing.T) {
	r := newRig(t, 1)
	for line, parts := range map[string][]string{
		".hh":           {"Help\n  .help .hh .key\n", "Memory\n  d da db ", "\n.hh <command> explains one"},
		".help":         {"  .help .hh              list the commands, or explain one\n", "  p pr                   one instruction, or several; over calls\n", ".hh <command> shows"},
		"?":             {"\np[r] [=start] [count] [\"commands\"] - one instruction, or several; over calls\n", "\n.hh lists all commands"},
		".hh bp":        {"bp - set a breakpoint", "\n    bp[", "\n\nExample:\n    bp "},
		".help .ECHO":   {".echo - show a text\n\n    .echo text\n"},
		".hh !DB":       {"!db, !dc"},
		".hh lmvm":      {"lm - list modules"},
		".hh keys":      {"CTRL+F     break in", "CTRL+K     at the next reboot"},
		".hh .reloda":   {"there is no command of that name; did you mean .reload?"},
		".hh log":       {"did you mean .logopen, .logappend, .logclose or .logfile?"},
		".hh reload":    {"did you mean .reload?"},
		".hh .kdfiles":  {".kdfiles is a command of WinDbg that is not there yet"},
		".hh zzzzzz":    {"there is no command of that name; .hh lists the commands"},
		".hh \xff\x1b":  {"there is no command of that name; .hh lists"},
		".relaod":       {`".relaod" is not a command; did you mean .reload? .help lists them`},
		"zzzzzz":        {`"zzzzzz" is not a command; .help lists them`},
		".echo; .key a": {".key stands on a line of its own"},
	} {
		got := r.text(line)
		for _, p := range parts {
			if !strings.Contains(got, p) {
				t.Errorf("%s shows\n%s\nwithout %q", line, got, p)
			}
		}
		for l := range strings.Lines(got) {
			if (line == ".hh" || line == ".help" || line == "?") && len(strings.TrimRight(l, "\n")) > helpWidth && !strings.Contains(l, ".hh") {
				t.Errorf("%s: a long line: %q", line, l)
			}
		}
	}
}

func TestEdits(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"a", "", 1}, {"abc", "abc", 0}, {"abc", "acb", 1}, {"abc", "abd", 1}, {"abc", "xabc", 1}, {"abcdef", "abdcfe", 2}, {"a", "abcdefgh", 99}} {
		if got := edits(c.a, c.b); got != c.want {
			t.Errorf("%q to %q: %d and not %d", c.a, c.b, got, c.want)
		}
	}
}
