package command

import (
	"bytes"
	"testing"

	"openkd/sharing"
)

// TestRepeatsOwnLine: an empty line repeats what the same person typed before, not
// what somebody else did.
func TestRepeatsOwnLine(t *testing.T) {
	var out bytes.Buffer
	r := NewSession(nil, &out, Options{Quiet: true})
	ann, ben := sharing.Person{ID: 1, Name: "ann"}, sharing.Person{ID: 2, Name: "ben"}
	for _, x := range []struct {
		who        sharing.Person
		line, want string
	}{
		{ann, "", ""}, {ann, ".echo of ann", "of ann\n"}, {ben, "", ""}, {sharing.Person{}, "", ""},
		{sharing.Person{}, ".echo of the server", "of the server\n"}, {ben, ".echo of ben", "of ben\n"},
		{ann, "", "of ann\n"}, {sharing.Person{}, " ", "of the server\n"}, {ben, "", "of ben\n"},
	} {
		r.Actor = x.who
		out.Reset()
		if err := r.Execute(t.Context(), x.line); err != nil || out.String() != x.want {
			t.Errorf("%q of %s: %q, %v", x.line, x.who, out.String(), err)
		}
	}
}
