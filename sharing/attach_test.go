package sharing

import (
	"slices"
	"testing"
)

// announced notes what a program is to show.
type announced struct {
	h    *Hub
	said []string
}

func (a *announced) Announce(e Entry) {
	a.said = append(a.said, e.Text)
	a.h.Append(e)
}
func (a *announced) Do(Person, Op, string) error         { return nil }
func (a *announced) Early(Person, string) (string, bool) { return "", false }

// TestAttach: who came before the program had its console is shown there, too.
func TestAttach(t *testing.T) {
	h := NewHub(Options{})
	defer h.Close("")
	h.announce(Entry{Text: "one\n"})
	h.announce(Entry{Text: "two\n"})
	a := &announced{h: h}
	h.Attach(a)
	h.announce(Entry{Text: "three\n"})
	if want := []string{"one\n", "two\n", "three\n"}; !slices.Equal(a.said, want) {
		t.Errorf("announced is %q, not %q", a.said, want)
	}
	if n := h.log.last(); n != 3 {
		t.Errorf("the log has %d entries", n)
	}
}
