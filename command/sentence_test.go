package command

import (
	"errors"
	"strings"
	"testing"

	"openkd/engine"
)

// Errors are sentences; names that they begin with stay as they are.
func TestErrorsKeepNames(t *testing.T) {
	e := engine.New(nil, engine.Options{})
	for i, name := range []string{"nt", "hal", "kdcom", "the_driver", "disk"} {
		e.AddModule(engine.Module{Name: name, ImageName: name + ".sys", Base: 0x1000 * uint64(i+1), Size: 0x1000})
	}
	for _, tt := range []struct{ stmt, err, want string }{
		// Sentences.
		{"dv", "nothing is known", "Nothing is known"},
		{"lm", "a module has no name", "A module has no name"},
		{"g", "break-in was refused", "Break-in was refused"},
		{"g", "it's over", "It's over"},
		{"g", "stopped", "Stopped"},
		{".logopen x", "write: no room", "Write: no room"},
		{"", "target: lost", "Target: lost"},
		{"dv", "no", "No"},
		{"dv", "not now, later", "Not now, later"},
		// Names of modules and of what is in them.
		{"dv", "nt has nothing about the function", "nt has nothing about the function"},
		{".reload x", "hal lies at that address already", "hal lies at that address already"},
		{"dv", "disk: no symbols", "disk: no symbols"},
		{"dv", "diskette is no module", "Diskette is no module"},
		{"dt 5", "nt!_KTRAP_FRAME is not known", "nt!_KTRAP_FRAME is not known"},
		{"dv", "the_driver has no symbols", "the_driver has no symbols"},
		// Files, addresses, types, programs.
		{"lsf", "ntoskrnl.c has 5 lines", "ntoskrnl.c has 5 lines"},
		{".load", "c:\\x.star is missing", "c:\\x.star is missing"},
		{".load", "home/x is missing", "home/x is missing"},
		{"dps 5", "fffff801`9e201010 lies in no module", "fffff801`9e201010 lies in no module"},
		{"dt 5", "struct _X has no fields", "struct _X has no fields"},
		{"dt 5", "unsigned int64 has no fields", "unsigned int64 has no fields"},
		{"dt 5", "int64 has no fields", "int64 has no fields"},
		{"dt 5", "char * has no fields", "char * has no fields"},
		{"!net", "kdnet: the key is wrong", "kdnet: the key is wrong"},
		{".endpsrv", "kdsrv is gone", "kdsrv is gone"},
		{"r", "x: no such thing", "x: no such thing"},
		{"r", "x86 has no rax", "x86 has no rax"},
		// What was typed.
		{"q", "q of a client does not end the session", "q of a client does not end the session"},
		{"!list -t foo", "foo is no pointer", "foo is no pointer"},
		{"dt x.link", "link is static: it lies in no structure", "link is static: it lies in no structure"},
		{"!foo", "foo takes one argument", "foo takes one argument"},
		{"lm", "foo takes one argument", "Foo takes one argument"},
		{"x no*!y", "no module is called that", "No module is called that"},
		{".shell x", "shell commands are forbidden", "Shell commands are forbidden"},
		{"dv", "Déjà", "Déjà"},
		{"dv", "été", "été"},
		{"dv", "", ""},
	} {
		var b strings.Builder
		s := NewSession(e, &b, Options{})
		if err := s.show(errors.New(tt.err), tt.stmt, 0, 0); err == nil {
			t.Errorf("%q: no error", tt.err)
		}
		if got := strings.TrimSuffix(b.String(), "\n"); got != tt.want {
			t.Errorf("%s: %q, want %q", tt.stmt, got, tt.want)
		}
	}
	// Without a target there are no modules. What is WinDbg's own stays.
	var b strings.Builder
	s := NewSession(nil, &b, Options{})
	_ = s.show(errors.New("disk is full"), "", 0, 0)
	_ = s.show(phrased("couldn't resolve"), "", 0, 0)
	if got, want := b.String(), "Disk is full\ncouldn't resolve\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
