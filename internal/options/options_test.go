package options

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

type flags struct {
	loud bool
	file string
	who  []string
}

func table() []Option[flags] {
	return []Option[flags]{
		{Names: []string{"v", "loud"}, Set: Flag(func(f *flags) *bool { return &f.loud }), Help: "tell more"},
		{Names: []string{"file"}, Arg: "name", Example: "a.txt", Set: Text(func(f *flags) *string { return &f.file }), Help: "where to\nwrite", Path: true},
		{Names: []string{"accountnames"}, Arg: "names", Example: "ann", Help: "who", Set: func(f *flags, v string) (err error) {
			f.who, err = Names("-accountnames", v)
			return err
		}},
		{Names: []string{"x"}, Set: func(*flags, string) error { return nil }, Help: "no more", Last: true},
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		args string
		want string // the options given, or a part of the error
		ok   bool
	}{
		{"", "", true},
		{"-v /LOUD --File A.txt", "v v file=A.txt", true},
		{"-accountnames ann;b -x rest -nonsense", "accountnames=ann;b x", true},
		{"-file -v", "file=-v", true},
		{"-accountnames ann;", `-accountnames "ann;": a name is missing`, false},
		{"-v -file", "-file needs a value, as in -file a.txt", false},
		{"-Vv", "-Vv is vv", false},
		{"v", `"v" is not an option; write -v`, false},
		{"-", `"-" is not an option`, false},
	} {
		var f flags
		all, err := Parse(table(), strings.Fields(c.args), &f, func(arg, name string) error { return errors.New(arg + " is " + name) }, "write -v")
		var got []string
		for _, g := range all {
			text := g.Option.Names[0]
			if g.Option.Arg != "" {
				text += "=" + g.Value
			}
			got = append(got, text)
		}
		text := strings.Join(got, " ")
		if err != nil {
			text = err.Error()
		}
		if (err == nil) != c.ok || c.ok && text != c.want || !strings.Contains(text, c.want) {
			t.Errorf("%q: %q, want %q", c.args, text, c.want)
		}
	}
	var f flags
	Parse(table(), []string{"-v", "-file", "a", "-accountnames", " ann ; LAB\\ben"}, &f, nil, "")
	if !f.loud || f.file != "a" || !slices.Equal(f.who, []string{"ann", `LAB\ben`}) {
		t.Errorf("%+v", f)
	}
}

func TestUsage(t *testing.T) {
	const want = "" +
		"  -v              tell more\n" +
		"  -file name      where to\n" +
		"                  write\n" +
		"  -accountnames names\n" +
		"                  who\n" +
		"  -x              no more\n"
	if got := Usage(table()); got != want {
		t.Errorf("%s", got)
	}
}
