package command

import (
	"strings"
	"testing"
)

// TestAbsent: a command that is named as absent is not there, and one that is
// there is not named so.
func TestAbsent(t *testing.T) {
	s := NewSession(nil, nil, Options{})
	n := 0
	for _, w := range strings.Fields("k kb kv gu wt uf .thread .frame x ln dt dv dx bu bm .sympath .reload .server .clients .dump .kdfiles sxe sxd .process .context .tss dg a bp bs u r .tlist .wake .detach") {
		_, there := s.Lookup(w)
		said := absent(w) != ""
		if there == said {
			t.Errorf("%s: there %v, said to be absent %v", w, there, said)
		}
		if said {
			n++
		}
	}
	if n < 8 {
		t.Errorf("only %d commands are said to be absent", n)
	}
}
