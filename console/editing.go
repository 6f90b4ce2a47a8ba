package console

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/term"

	"openkd/command"
	"openkd/console/lineedit"
)

// Terminal is how a terminal is used; the zero value is a good way.
type Terminal struct {
	// History is the file that keeps the commands which were entered; "" keeps
	// them for this session only. HistoryFile names the usual one.
	History string
	// NoColor turns colours off, as NO_COLOR in the environment does.
	NoColor bool
	// Getenv reads the environment (TERM, NO_COLOR). nil: os.Getenv.
	Getenv func(string) string
}

// HistoryFile is where the commands that were entered are kept: OPENKD_HISTORY,
// or a file in the folder that the system has for such things. "" means nowhere:
// OPENKD_HISTORY is "off", or there is no home.
func HistoryFile(getenv func(string) string) string {
	if v := getenv("OPENKD_HISTORY"); v != "" {
		if v == "off" {
			return ""
		}
		return v
	}
	var dir string
	switch runtime.GOOS {
	case "windows":
		dir = getenv("LOCALAPPDATA")
	case "darwin":
		if home := getenv("HOME"); home != "" {
			dir = filepath.Join(home, "Library", "Application Support")
		}
	default:
		dir = getenv("XDG_STATE_HOME")
		if home := getenv("HOME"); home != "" && !filepath.IsAbs(dir) {
			dir = filepath.Join(home, ".local", "state")
		}
	}
	if !filepath.IsAbs(dir) {
		return ""
	}
	return filepath.Join(dir, "openkd", "history")
}

// openTerminal takes a terminal over for editing; nil where there is none, or one
// that cannot do what editing takes: then lines are read as they come. through is
// the way to output.
func openTerminal(input io.Reader, output io.Writer, through *outlet, errs io.Writer, o Terminal, hooks keys) *terminal {
	in, isFile := input.(*os.File)
	out, outFile := output.(*os.File)
	if !isFile || !outFile || !term.IsTerminal(descriptor(in)) || !term.IsTerminal(descriptor(out)) {
		return nil
	}
	getenv := o.Getenv
	if getenv == nil {
		getenv = os.Getenv
	}
	if dumb(getenv("TERM")) {
		return nil
	}
	t, err := newTerminal(in, out, through, hooks)
	if err != nil {
		fmt.Fprintf(errs, "The terminal cannot be used as one: %v. Lines are read as they are.\n", err)
		return nil
	}
	if coloured(getenv, o.NoColor) {
		t.theme = colours
	}
	if o.History != "" {
		_ = t.remember(o.History) // without it there is the session's own
	}
	return t
}

// styled is where text for the terminal goes. where tells which stop it is, and
// whose registers are shown; nil: they are not looked at.
func (t *terminal) styled(where func() (stop uint64, cpu int)) *styled {
	return &styled{screen: t.screen, theme: t.theme, regs: registers{where: where}}
}

// completion is what a TAB brings.
type completion = command.Completion

// maxMenu is how many rows a list of candidates has.
const maxMenu = 12

// columns lays out the candidates of a completion below the line. The whole width
// is used, and no more rows than a person looks through.
func columns(c completion, width int, th theme) []lineedit.Span {
	var menu []lineedit.Span
	if len(c.Candidates) < 2 && c.More == 0 && !c.Incomplete && c.Note == "" {
		return nil
	}
	if width < 20 {
		width = 80
	}
	names := make([]string, len(c.Candidates))
	for i, x := range c.Candidates {
		names[i] = harmless(x.Show)
	}
	fit, cols, widths := 0, 0, []int(nil)
	if len(names) > 0 {
		fit, cols, widths = arrange(names, width-1)
	}
	rows := 0
	if cols > 0 {
		rows = (fit + cols - 1) / cols
	}
	for r := range rows {
		var b strings.Builder
		for col := range cols {
			i := col*rows + r
			if i >= fit {
				break
			}
			if col > 0 {
				b.WriteString("  ")
			}
			b.WriteString(names[i])
			if (col+1)*rows+r < fit {
				b.WriteString(strings.Repeat(" ", max(0, widths[col]-lineedit.Width(names[i]))))
			}
		}
		menu = append(menu, lineedit.Span{Text: b.String()})
	}
	more := len(names) - fit + c.More
	switch {
	case c.Note != "":
		menu = append(menu, lineedit.Span{Text: harmless("(" + c.Note + ")"), SGR: th.quiet})
	case c.Incomplete && len(names) == 0:
		menu = append(menu, lineedit.Span{Text: "(the names are still being gathered; TAB again)", SGR: th.quiet})
	case c.Incomplete:
		menu = append(menu, lineedit.Span{Text: "(some names are still being gathered; TAB again)", SGR: th.quiet})
	case more > 0:
		menu = append(menu, lineedit.Span{Text: "and " + thousands(more) + " more", SGR: th.quiet})
	}
	return menu
}

// arrange finds the most columns in which names have room, column by column, and
// how many names fit into maxMenu rows.
func arrange(names []string, width int) (fit, cols int, widths []int) {
	w := make([]int, len(names))
	for i, n := range names {
		w[i] = lineedit.Width(n)
	}
	for cols = min(len(names), width/3+1); cols > 1; cols-- {
		n := min(len(names), cols*maxMenu)
		rows := (n + cols - 1) / cols
		widths = widths[:0]
		total := -2
		for from := 0; from < n; from += rows {
			widest := 0
			for _, x := range w[from:min(from+rows, n)] {
				widest = max(widest, x)
			}
			widths = append(widths, widest)
			total += widest + 2
		}
		if total <= width {
			return n, len(widths), widths
		}
	}
	return min(len(names), maxMenu), 1, []int{0}
}

// thousands is a number as people write it.
func thousands(n int) string {
	t := fmt.Sprint(n)
	for i := len(t) - 3; i > 0; i -= 3 {
		t = t[:i] + "," + t[i:]
	}
	return t
}
