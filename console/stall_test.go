//go:build unix

package console

import (
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"openkd/sharing"
	"openkd/target"
)

// TestStalledTerminal: the server's own terminal, with an editor on it, takes
// nothing for a while. Others go on; it tells what it lacks, and what was being
// typed stands at the prompt.
func TestStalledTerminal(t *testing.T) {
	const prints = 400
	d := newDesk(t, 80, 25)
	d.opt.backlog = 8 << 10
	hub := sharing.NewHub(sharing.Options{})
	d.opt.Session.Share = hub
	d.run()
	o, c := look(t, hub)
	d.press(".echo ha")
	d.lastly("0: kd> .echo ha")
	d.stall.Lock()
	for i := range prints {
		d.f.Send(target.Event{Kind: target.EventPrint, Text: fmt.Sprintf("print %d %s\n", i, strings.Repeat("x", 200))})
	}
	o.until(t, "what is printed", func(s string, _ map[sharing.EntryKind]int) bool {
		return strings.Contains(s, fmt.Sprintf("print %d ", prints-1))
	})
	d.press("lf") // typed blindly
	if _, err := c.Send(sharing.OpCommand, ".echo typed by ann"); err != nil {
		t.Fatal(err)
	}
	o.until(t, "the end of a command", func(s string, mine map[sharing.EntryKind]int) bool {
		return strings.Contains(s, "typed by ann\n") && mine[sharing.EntryResult] == 1
	})
	d.stall.Unlock()
	d.until("what is left out, and the prompt", func(l []string) bool {
		return slices.ContainsFunc(l, func(s string) bool { return strings.Contains(s, "lines were left out here") }) && strings.TrimRight(l[len(l)-1], " ") == "0: kd> .echo half"
	})
	d.press("\r")
	d.lastly("0: kd> .echo half", "half", "0: kd>")
	d.leave("q\r")
}

// TestInterruptSkips: CTRL+C at a terminal that is far behind shows the prompt
// instead of the rest.
func TestInterruptSkips(t *testing.T) {
	const prints = 2000
	d := newDesk(t, 80, 25)
	hub := sharing.NewHub(sharing.Options{})
	d.opt.Session.Share = hub
	d.run()
	o, _ := look(t, hub)
	d.stall.Lock()
	for i := range prints {
		d.f.Send(target.Event{Kind: target.EventPrint, Text: fmt.Sprintf("print %d %s\n", i, strings.Repeat("x", 200))})
	}
	o.until(t, "what is printed", func(s string, _ map[sharing.EntryKind]int) bool {
		return strings.Contains(s, fmt.Sprintf("print %d ", prints-1))
	})
	d.press("no\x03\x16") // CTRL+V is served behind it
	o.until(t, "the keys", func(s string, _ map[sharing.EntryKind]int) bool { return strings.Contains(s, "Verbose mode is on.") })
	d.stall.Unlock()
	d.lastly("Verbose mode is on.", "0: kd>")
	for _, l := range d.vt.All() {
		if strings.HasPrefix(l, fmt.Sprintf("print %d ", prints-1)) {
			t.Errorf("it is shown: %s", l)
		}
	}
	d.until("that something is left out", func(l []string) bool {
		return slices.ContainsFunc(l, func(s string) bool { return strings.Contains(s, "lines were left out here") })
	})
	d.leave("q\r")
}

// TestStalledClient: a client's terminal takes nothing. The server drops it with a
// note, nobody waits for it; when it wakes, the client is there again. CTRL+B
// leaves though nothing is taken.
func TestStalledClient(t *testing.T) {
	p := share(t)
	ends := make(chan net.Conn, 100)
	p.patient = ends
	ann := newFarDesk(t, p, "ann", map[string]string{"TERM": "xterm"})
	ann.lastly("0: kd>")
	server := <-ends
	o, c := look(t, p.h)
	ann.stall.Lock()
	for i := range 2000 {
		p.say("line %d %s\n", i, strings.Repeat("x", 200))
	}
	server.SetWriteDeadline(time.Unix(1, 0)) // the documented time has passed
	o.until(t, "a note that she was dropped", func(s string, _ map[sharing.EntryKind]int) bool {
		return strings.Contains(s, "ann (pipe) takes nothing and was dropped at")
	})
	if _, err := c.Send(sharing.OpCommand, "k"); err != nil {
		t.Fatal(err)
	}
	o.until(t, "the end of a command", func(s string, mine map[sharing.EntryKind]int) bool { return mine[sharing.EntryResult] == 1 })
	ann.stall.Unlock()
	ann.until("that she is there again", func(l []string) bool {
		return slices.ContainsFunc(l, func(s string) bool { return strings.HasPrefix(s, "Connected again") }) && l[len(l)-1] == "0: kd>"
	})
	ann.press("r\r")
	ann.until("the answer", func(l []string) bool { return slices.Contains(l, "answer 2 to r of ann") })
	ann.lastly("done 2", "0: kd>")
	ann.stall.Lock()
	for i := range 400 {
		p.say("more %d %s\n", i, strings.Repeat("x", 200))
	}
	ann.press(".key b\r")
	select {
	case <-ann.code:
	case <-time.After(time.Minute):
		t.Error("she cannot leave")
	}
	ann.stall.Unlock()
}
