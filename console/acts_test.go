//go:build unix

package console

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"openkd/internal/captured"
	"openkd/sharing"
	"openkd/target"
)

// steering are texts that act on terminals: they set a title, clear the screen, ask
// for an answer, go back in a line, turn the direction of writing.
var steering = []string{
	"\x1b]0;EVIL\a", "\x1b]2;EVIL\x1b\\", "\x1b[2JEVIL", "\x1b[6nEVIL", "\x1bP+qEVIL\x1b\\", "\u009b2JEVIL", "\u009d0;EVIL\u009c", "\x9b2JEVIL", "EVIL\b\b\b\b", "\x0eEVIL",
}

// acting is what of them is in a text.
func acting(text string) string {
	for _, s := range steering {
		if strings.Contains(text, s) {
			return s
		}
	}
	return ""
}

// TestNothingActsAtClients: whatever a session brings, wherever in it, is shown at a
// client's terminal and does not act on it.
func TestNothingActsAtClients(t *testing.T) {
	entry := func(e sharing.Entry) func(*shared) { return func(p *shared) { p.h.Append(e) } }
	for _, env := range []string{"xterm", "dumb"} {
		p := share(t)
		p.h.SetTitle("title " + strings.Join(steering, " "))
		ann := newFarDesk(t, p, "ann "+strings.Join(steering, " "), map[string]string{"TERM": env})
		ann.until("a prompt", func(l []string) bool { return len(l) > 0 && strings.HasSuffix(l[len(l)-1], "0: kd>") })
		n := 0
		for _, bad := range steering {
			for _, put := range []func(*shared){
				entry(sharing.Entry{Kind: sharing.EntryText, Text: bad + "\n"}),
				entry(sharing.Entry{Kind: sharing.EntryEvent, Name: "print", Text: bad + "\n"}),
				entry(sharing.Entry{Kind: sharing.EntryEvent, Name: bad, Text: bad + "\n", Data: []byte(bad)}),
				entry(sharing.Entry{Kind: sharing.EntryNotice, Name: bad, Who: bad, Text: bad + "\n"}),
				entry(sharing.Entry{Kind: sharing.EntryCommand, From: 99, Who: "who " + bad, Prompt: bad + "> ", Text: "line " + bad}),
				entry(sharing.Entry{Kind: sharing.EntryResult, From: 99, Who: bad, Text: bad, Message: bad, Failure: bad, Name: "halted", Prompt: bad}),
				func(p *shared) { p.h.SetPrompt(bad+" kd> ", "halted", 0) },
				func(p *shared) { p.h.SetPrompt("0: kd> ", "halted", 0) },
			} {
				put(p)
			}
			n++
			p.say("mark %d\n", n)
			ann.until("all of it", func(l []string) bool { return slices.Contains(l, fmt.Sprint("mark ", n)) })
		}
		p.h.Close("The end " + strings.Join(steering, " "))
		<-ann.code
		ann.until("the end", func(l []string) bool { return strings.Contains(strings.Join(l, ""), "The end ") })
		raw := ann.raw.String()
		if s := acting(raw); s != "" {
			t.Errorf("%s: %q acts", env, s)
		}
		for _, want := range []string{"^[[2JEVIL", "^[]0;EVIL^G", "[who ^[[2JEVIL] ", "line ^[[2JEVIL", `\x9b2JEVIL`, `title ?]0;EVIL?`} {
			if !strings.Contains(raw, want) {
				t.Errorf("%s: %q is not shown", env, want)
			}
		}
		if u := ann.vt.Unknown(); env == "xterm" && u != nil {
			t.Errorf("on the terminal acts %s", u)
		}
	}
}

// TestNothingActsAtTheServer: names, commands, chat and completions of others act
// nowhere at the server: not on its console, in its log, in the audit, nor in the
// lines that programs read.
func TestNothingActsAtTheServer(t *testing.T) {
	for _, js := range []bool{false, true} {
		log := filepath.Join(t.TempDir(), "log")
		var audit captured.Text
		r := newRig(nil)
		in, keys := io.Pipe()
		out := newTap(false)
		r.opt.In, r.opt.Out, r.opt.Err, r.opt.JSON = in, out, out, js
		hub := sharing.NewHub(sharing.Options{Logger: slog.New(slog.NewJSONHandler(&audit, nil))})
		r.opt.Session.Share = hub
		if err := r.opt.Session.OpenLog(log, false); err != nil {
			t.Fatal(err)
		}
		code := make(chan int, 1)
		go func() { code <- Run(context.Background(), r.opt) }()
		r.met()
		o, c := lookAs(t, hub, "ann "+strings.Join(steering, " "), false)
		_, looker := lookAs(t, hub, "ben "+strings.Join(steering, " "), true)
		// Before the console is there, lines are refused. Who comes may be told between
		// two lines of the stop.
		o.until(t, "the first stop", func(s string, _ map[sharing.EntryKind]int) bool { return strings.Contains(s, "int     3\n") })
		for i, bad := range steering {
			for _, line := range []string{".echo said " + bad, bad, ".kick " + bad, ".server npipe:pipe=" + bad} {
				if _, err := c.Send(sharing.OpCommand, line); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := looker.Send(sharing.OpCommand, ".echo chat "+bad); err != nil {
				t.Fatal(err)
			}
			o.until(t, "the ends of commands", func(s string, mine map[sharing.EntryKind]int) bool {
				return mine[sharing.EntryResult] == 4*(i+1) && strings.Count(s, "chat ") == i+1
			})
		}
		if js {
			r.f.Send(target.Event{Kind: target.EventPrint, Text: strings.Join(steering, " ") + "\x7f\n"})
			io.WriteString(keys, `{"id":1,"command":".echo end"}`+"\n"+`{"id":2,"command":"q"}`+"\n")
		} else {
			io.WriteString(keys, ".kick 1\nq\n")
		}
		<-code
		text := out.text()
		b, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		where := map[string]string{"the console": text, "the audit": audit.String()}
		if !js { // what a target prints stands in a log as it came
			where["the log"] = string(b)
		}
		for name, s := range where {
			if a := acting(s); a != "" {
				t.Errorf("JSON %v: %q acts in %s", js, a, name)
			}
			if !strings.Contains(s, "EVIL") {
				t.Errorf("JSON %v: nothing of it is in %s", js, name)
			}
		}
		for _, want := range []string{"said ^[[2JEVIL", "chat ^[[2JEVIL", "ann ?]0;EVIL?"} {
			if !strings.Contains(text, want) {
				t.Errorf("JSON %v: %q is not shown", js, want)
			}
		}
		if js && strings.ContainsFunc(text, func(r rune) bool { return r < ' ' && r != '\n' || r >= 0x7f && r < 0xa0 }) {
			t.Error("there are control characters in lines of JSON")
		}
	}
}
