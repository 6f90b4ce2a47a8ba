package bench

import (
	"strings"
	"testing"

	"openkd/sim"
)

// TestExtensionExchanges counts what the example scripts cost over the whole way:
// a list is one question however long it is, and so are the import tables of all
// modules, piece by piece.
func TestExtensionExchanges(t *testing.T) {
	_, link := machine(t, sim.Config{Modules: 100}, 0)
	r, _ := symbolised(t, link)
	r.run("lm")
	r.run("ld nt; .load ../../extensions/processes; .load ../../extensions/imports")
	for _, c := range []struct {
		command, want string
		most          uint64
	}{
		{"!ps", "4 processes", 1},
		{"!ps", "explorer.exe", 1}, // lists are not kept: they may be written to
		{"!imports", "5 imports of 3 modules checked, 0 of them lead elsewhere", 5},
		{"!imports", "5 imports of 3 modules checked", 0}, // what was read is
	} {
		out, n := r.run(c.command)
		if n > c.most {
			t.Errorf("%s took %d exchanges, and may take %d", c.command, n, c.most)
		}
		if !strings.Contains(out, c.want) {
			t.Errorf("%s shows\n%s", c.command, out)
		}
	}
}
