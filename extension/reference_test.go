package extension

import (
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the reference anew")

const referenceFile = "../extensions/REFERENCE.md"

// TestReference: the page is what the table says.
func TestReference(t *testing.T) {
	want := Reference()
	if *update {
		if err := os.WriteFile(referenceFile, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(referenceFile)
	if err != nil || strings.ReplaceAll(string(have), "\r\n", "\n") != want {
		t.Errorf("%s is not up to date (%v): go test ./extension -run Reference -update writes it", referenceFile, err)
	}
}

// TestTable: every function says all that the reference shows, and its parameters
// are such that calls are unambiguous.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range Functions() {
		if seen[f.Name] {
			t.Errorf("%s is there twice", f.Name)
		}
		seen[f.Name] = true
		if f.Summary == "" || f.Returns == "" || f.Example == "" || f.Group == "" || f.run == nil {
			t.Errorf("%s is not complete", f.Name)
		}
		if !strings.Contains(f.Example, f.Name+"(") {
			t.Errorf("the example of %s does not show it: %s", f.Name, f.Example)
		}
		optional := false
		for i, p := range f.Params {
			if p.Doc == "" || p.Name == "" {
				t.Errorf("%s: parameter %d is not described", f.Name, i)
			}
			if optional && !p.Optional && p.Kind != Rest {
				t.Errorf("%s: %s stands behind one that can be left out", f.Name, p.Name)
			}
			optional = optional || p.Optional
			if p.Kind == Rest && i != len(f.Params)-1 {
				t.Errorf("%s: %s takes all that follows and is not the last one", f.Name, p.Name)
			}
			if (p.Kind == Function || p.Kind == TypedOnly || p.Kind == AnyValue || p.Kind == Rest) && !p.Optional && !f.Scripts {
				t.Errorf("%s: programs cannot give %s, so the function is for scripts only", f.Name, p.Name)
			}
		}
	}
	if len(seen) < 40 {
		t.Errorf("only %d functions", len(seen))
	}
}
