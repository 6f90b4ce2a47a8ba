package together

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"openkd/sharing"
)

// What somebody saw is a list of lines without what differs by right: prompts,
// what the client itself says about its connection, and the echo of what was
// typed at that very console, which stands there or not depending on what came
// between. All commands of the tests begin with .echo and the name of who types
// them, so that each shows that it was run, by whom and where in the order.

var (
	prompts = regexp.MustCompile(`^(?:(?:\d+: )?kd> )+`)
	// what RunRemote itself says
	asides = regexp.MustCompile(`^(?:Connected to the session |The connection to .* is lost |Connected again; nothing was missed\.|this client may only look; )`)
	// a client is not told that it has joined itself
	joins = regexp.MustCompile(`^(\S+) \([^)]*\)(?:, may only look,)? connected at `)
)

// seen are the lines of a console of who.
func seen(text, who string) []string {
	var l []string
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		bare := prompts.ReplaceAllString(line, "")
		own := strings.TrimPrefix(line, "["+who+"] ")
		switch {
		case own != line && prompts.MatchString(own):
		case bare == "" && line != "":
		case asides.MatchString(bare):
		case joined(bare, who):
		case bare != line && strings.HasPrefix(bare, ".echo "+who+"-"):
		default:
			l = append(l, bare)
		}
	}
	return l
}

func joined(line, who string) bool {
	m := joins.FindStringSubmatch(line)
	return m != nil && m[1] == who
}

// asText is the log as text.
func asText(log []sharing.Entry) string {
	var b strings.Builder
	for _, e := range log {
		switch e.Kind {
		case sharing.EntryText, sharing.EntryEvent, sharing.EntryNotice:
			b.WriteString(e.Text)
		case sharing.EntryCommand:
			if e.From != 0 {
				fmt.Fprintf(&b, "[%s] ", e.Who)
			}
			b.WriteString(e.Prompt + e.Text + "\n")
		}
	}
	return b.String()
}

// told is the log as a program is told that is who: the texts of its own
// commands come with their results.
func told(log []sharing.Entry, who string) []string {
	var all, own strings.Builder
	mine := false
	for _, e := range log {
		switch e.Kind {
		case sharing.EntryText:
			if mine {
				own.WriteString(e.Text)
			} else {
				all.WriteString(e.Text)
			}
		case sharing.EntryEvent:
			if e.Name == "print" {
				all.WriteString(e.Text)
			} else {
				fmt.Fprintf(&all, "<%s>\n", e.Name)
			}
		case sharing.EntryNotice:
			if !joined(e.Text, who) {
				all.WriteString(e.Text)
			}
		case sharing.EntryCommand:
			if mine = e.Who == who; !mine {
				fmt.Fprintf(&all, "[%s] %s%s\n", e.Who, e.Prompt, e.Text)
			}
		case sharing.EntryResult:
			if mine {
				fmt.Fprintf(&all, "%s<result %s %v>\n", own.String(), e.Text, e.OK)
			} else {
				fmt.Fprintf(&all, "<done %s %s %v>\n", e.Who, e.Text, e.OK)
			}
			mine = false
			own.Reset()
		}
	}
	return strings.Split(all.String(), "\n")
}

// heard is the same of what a program was told.
func heard(t testing.TB, out string) []string {
	t.Helper()
	var all strings.Builder
	for line := range strings.Lines(out) {
		var v struct {
			Type, Event, Text, Output, Command, Who, Prompt, About string
			OK                                                     bool
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Errorf("no JSON: %q", line)
			continue
		}
		switch v.Type {
		case "output":
			all.WriteString(v.Text)
		case "result":
			fmt.Fprintf(&all, "%s<result %s %v>\n", v.Output, v.Command, v.OK)
		case "event":
			switch v.Event {
			case "print":
				all.WriteString(v.Text)
			case "notice":
				if v.About != "link" {
					all.WriteString(v.Text + "\n")
				}
			case "command":
				fmt.Fprintf(&all, "[%s] %s%s\n", v.Who, v.Prompt, v.Command)
			case "done":
				fmt.Fprintf(&all, "<done %s %s %v>\n", v.Who, v.Command, v.OK)
			default:
				fmt.Fprintf(&all, "<%s>\n", v.Event)
			}
		}
	}
	return strings.Split(all.String(), "\n")
}

// before are the lines up to one.
func before(l []string, last string) []string {
	for i, s := range l {
		if s == last {
			return l[:i+1]
		}
	}
	return append(l[:len(l):len(l)], "(no "+last+")")
}

// same compares two views.
func same(t testing.TB, who string, got, want []string) {
	t.Helper()
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	if i == len(got) && i == len(want) {
		return
	}
	part := func(l []string) string {
		return strings.Join(l[max(0, i-3):min(len(l), i+5)], "\n")
	}
	t.Errorf("%s saw %d lines, not %d; from line %d:\n%s\nnot\n%s", who, len(got), len(want), i+1, part(got), part(want))
}
