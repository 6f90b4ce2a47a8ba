package lineedit

import "strings"

// maxRemembered is how many lines a History holds.
const maxRemembered = 2000

// maxRememberedLine is how long a line may be that is remembered, in bytes.
const maxRememberedLine = 4096

// History is the lines that were entered, oldest first, each once.
//
// Concurrency: one goroutine at a time. A nil History is empty.
type History struct {
	lines []string
}

// NewHistory is a History of lines, oldest first.
func NewHistory(lines []string) *History {
	h := &History{}
	h.lines = tidy(lines)
	return h
}

// Len is how many there are.
func (h *History) Len() int {
	if h == nil {
		return 0
	}
	return len(h.lines)
}

// At is a line, 0 the oldest.
func (h *History) At(i int) string { return h.lines[i] }

// Add remembers a line, unless it is one of those that are not kept; then it
// returns false.
func (h *History) Add(line string) bool {
	line = strings.TrimRight(line, " \t\r\n")
	if h == nil || !Keeps(line) {
		return false
	}
	for i := len(h.lines) - 1; i >= 0; i-- {
		if h.lines[i] == line {
			h.lines = append(h.lines[:i], h.lines[i+1:]...)
			break
		}
	}
	h.lines = append(h.lines, line)
	if len(h.lines) > maxRemembered {
		h.lines = append(h.lines[:0], h.lines[len(h.lines)-maxRemembered:]...)
	}
	return true
}

// secrets are parts of lines that may hold a password or a key.
var secrets = []string{"password", "passwd", ".quit_lock", ".netuse", "key=", "pfx="}

// Keeps says whether a line may be remembered: not an empty one, not one that
// begins with a blank, as in shells, and none with a password or a key in it.
func Keeps(line string) bool {
	if line == "" || line[0] == ' ' || line[0] == '\t' || len(line) > maxRememberedLine {
		return false
	}
	l := strings.ToLower(strings.ReplaceAll(line, " ", ""))
	for _, s := range secrets {
		if strings.Contains(l, s) {
			return false
		}
	}
	return true
}

// tidy drops what is not kept and all but the last of equal lines, and bounds
// the rest.
func tidy(lines []string) []string {
	seen := make(map[string]bool, len(lines))
	var out []string
	for i := len(lines) - 1; i >= 0 && len(out) < maxRemembered; i-- {
		if l := lines[i]; !seen[l] && Keeps(l) && clean(l) == l {
			seen[l] = true
			out = append(out, l)
		}
	}
	for i, j := 0, len(out)-1; i < j; i, j = i+1, j-1 {
		out[i], out[j] = out[j], out[i]
	}
	return out
}
