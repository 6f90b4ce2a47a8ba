package command

import (
	"testing"

	"openkd/symbols"
)

// TestDownloads: several downloads share a line, which goes when the last ends.
func TestDownloads(t *testing.T) {
	var last string
	d := NewDownloads(func(s string) { last = s })
	for _, step := range []struct {
		p    symbols.Progress
		want string
	}{
		{symbols.Progress{Name: "/c/a.pdb", Server: "http://s", Done: 1e6, Total: 4e6}, "a.pdb from http://s [#####...............]  25% of 4.0 MB"},
		{symbols.Progress{Name: "/c/b.pdb", Server: "http://s", Done: 0, Total: 4e6}, "a.pdb and 1 more from http://s [##..................]  12% of 8.0 MB"},
		{symbols.Progress{Name: "/c/c.pdb", Server: "http://s", Done: 1e6}, "a.pdb and 2 more from http://s 2.0 MB"},
		{symbols.Progress{Name: "/c/a.pdb", Server: "http://s", Finished: true}, "b.pdb and 1 more from http://s 1.0 MB"},
		{symbols.Progress{Name: "/c/c.pdb", Server: "http://s", Finished: true}, "b.pdb from http://s [....................]   0% of 4.0 MB"},
		{symbols.Progress{Name: "/c/x.pdb", Server: "http://s", Finished: true}, "b.pdb from http://s [....................]   0% of 4.0 MB"},
		{symbols.Progress{Name: "/c/b.pdb", Server: "http://s", Done: 4e6, Total: 4e6, Finished: true}, ""},
	} {
		if d.Progress(step.p); last != step.want {
			t.Errorf("%q, want %q", last, step.want)
		}
	}
}
