package connstr

import (
	"errors"
	"strings"
	"testing"
)

func TestPipeNames(t *testing.T) {
	for _, c := range []struct {
		in, out string // out: with process 31 and thread 17; empty: refused
		why     string
	}{
		{"kernel", "kernel", ""},
		{"Größe-1_x.y:z", "Größe-1_x.y:z", ""},
		{"kd%x", "kd1f", ""},
		{"kd%d", "kd31", ""},
		{"%x%x", "1f11", ""},
		{"a%db%xc", "a31b11c", ""},
		{"%xx%d", "1fx17", ""},
		{"...", "...", ""},
		{strings.Repeat("ö", 247), strings.Repeat("ö", 247), ""},

		{"", "", "is missing"},
		{"a b", "", "blanks"},
		{"a\u00a0b", "", "blanks"},
		{`a"b`, "", "quotation marks"},
		{"a\x00b", "", "control"},
		{"a\nb", "", "control"},
		{"a\xffb", "", "control"},
		{"a/b", "", "slashes"},
		{`a\b`, "", "slashes"},
		{"../x", "", "slashes"},
		{"..", "", "folder"},
		{".", "", "folder"},
		{`\\.\pipe\kernel`, "", "write pipe=kernel"},
		{`\\BOX17\pipe\kernel`, "", "write pipe=kernel"},
		{"a,b", "", "comma"},
		{"a}b", "", "brace"},
		{strings.Repeat("ö", 248), "", "248 characters"},
		{strings.Repeat("x", 246) + "%d", "", "248 characters"},
		{"kd%", "", "only codes"},
		{"kd%%", "", "only codes"},
		{"kd%s", "", "only codes"},
		{"kd%X", "", "only codes"},
		{"kd%04x", "", "only codes"},
		{"%x%d%x", "", "only two"},
	} {
		got, err := ExpandPipe(c.in, 31, 17)
		var e *Error
		if got != c.out || (c.out == "") != (err != nil) || err != nil && (!errors.As(err, &e) || !strings.Contains(e.Why, c.why)) {
			t.Errorf("%q: %q, %v; want %q or an error about %q", c.in, got, err, c.out, c.why)
		}
		err = CheckPipe(c.in)
		if coded := strings.Contains(c.in, "%"); (err == nil) != (c.out != "" && !coded) || coded && !strings.Contains(err.Error(), "kdsrv printed") {
			t.Errorf("a client's %q: %v", c.in, err)
		}
	}
}

// FuzzExpandPipe: what comes out can be dialled, and is the last part of a path.
func FuzzExpandPipe(f *testing.F) {
	for _, s := range []string{"kd%x-%d", "%", "%%x", "..", `\\.\pipe\x`, "a%xb%dc%x", "\xff%x"} {
		f.Add(s, 4711, 1)
	}
	f.Fuzz(func(t *testing.T, s string, pid, tid int) {
		got, err := ExpandPipe(s, pid, tid)
		if err != nil {
			if got != "" || strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("%q: %q, %v", s, got, err)
			}
			return
		}
		if err := CheckPipe(got); err != nil {
			t.Errorf("%q became %q: %v", s, got, err)
		}
		if strings.ContainsAny(got, "/\\%\x00 ") || !strings.Contains(s, "%") && got != s {
			t.Errorf("%q became %q", s, got)
		}
	})
}
