package command

import "strings"

// cutString takes a string in double quotes off the front of t. `\"` and `\\`
// in it stand for the second character, so that a command string can hold
// another; other backslashes stay, for .printf and for paths.
func cutString(t string) (text, rest string, ok bool) {
	if t == "" || t[0] != '"' {
		return "", t, false
	}
	end := quoteEnd(t, 0)
	if end == 0 {
		return "", t, false
	}
	return unescape(t[1 : end-1]), strings.TrimLeft(t[end:], " \t"), true
}

func unescape(t string) string {
	if !strings.Contains(t, `\`) {
		return t
	}
	var b strings.Builder
	for i := 0; i < len(t); i++ {
		if t[i] == '\\' && i+1 < len(t) && (t[i+1] == '"' || t[i+1] == '\\') {
			i++
		}
		b.WriteByte(t[i])
	}
	return b.String()
}

// CutString takes a string in double quotes off the front of args, such as
// the commands of a breakpoint. ok is false if none stands there; a quote that
// is never closed is an error.
func (c *Call) CutString(args string) (text, rest string, ok bool, err error) {
	args = strings.TrimLeft(args, " \t")
	if args == "" || args[0] != '"' {
		return "", args, false, nil
	}
	if text, rest, ok = cutString(args); !ok {
		return "", args, false, c.Fault("Syntax error", args, "the closing quote is missing")
	}
	return text, rest, true, nil
}

// Word takes the first word off args.
func (c *Call) Word(args string) (word, rest string) { return cutWord(args) }

func cutWord(t string) (word, rest string) {
	t = strings.TrimLeft(t, " \t")
	n := strings.IndexAny(t, " \t")
	if n < 0 {
		return t, ""
	}
	return t[:n], strings.TrimLeft(t[n:], " \t")
}

// fields splits at blanks; double quotes hold a word together.
func fields(t string) []string {
	var out []string
	for {
		t = strings.TrimLeft(t, " \t")
		if t == "" {
			return out
		}
		if q, rest, ok := cutString(t); ok {
			out, t = append(out, q), rest
			continue
		}
		w, rest := cutWord(t)
		out, t = append(out, w), rest
	}
}

// fileName takes a file name off args: quoted, or one word.
func (c *Call) fileName(args string) (name, rest string, err error) {
	q, rest, ok, err := c.CutString(args)
	if err != nil || ok {
		return q, rest, err
	}
	name, rest = cutWord(args)
	return name, rest, nil
}
