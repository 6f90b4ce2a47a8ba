package main

import (
	"errors"
	"strings"
	"testing"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		in    string
		check func(f flags) bool
	}{
		{"-k com:port=x", func(f flags) bool { return *f.kernel == "com:port=x" }},
		{"/K com:port=x", func(f flags) bool { return *f.kernel == "com:port=x" }},
		{"-k", func(f flags) bool { return *f.kernel == "" }},
		{"-k -b", func(f flags) bool { return *f.kernel == "" && f.breakIn }},
		{"-demo -c r|g -c q", func(f flags) bool { return f.demo && len(f.commands) == 2 && f.commands[0] == "r|g" }},
		{"-bonc -d -x", func(f flags) bool { return f.breakIn && f.firstLoad && f.firstExc }},
		{"-nvb", func(f flags) bool { return f.noisy && f.verbose && f.breakIn }},
		{"/NV", func(f flags) bool { return f.noisy && f.verbose }},
		{"-loga /tmp/x -cf /tmp/s", func(f flags) bool { return f.log == "/tmp/x" && f.logAppend && f.script == "/tmp/s" }},
		{"-logo x -kqm -noio", func(f flags) bool { return f.log == "x" && !f.logAppend && f.quiet && f.noio }},
		{"-?", func(f flags) bool { return f.help }},
		{"/?", func(f flags) bool { return f.help }},
		{"--version", func(f flags) bool { return f.version }},
		{"", func(f flags) bool { return f.kernel == nil && !f.demo }},
		{"-demo -secure -sflags 0xF0227", func(f flags) bool { return f.secure && *f.symopt == 0xF0227 }},
		{"-SFLAGS 80000000", func(f flags) bool { return *f.symopt == 0x80000000 }},
		{"-y srv* -k com:", func(f flags) bool { return f.symbols == "srv*" && *f.kernel == "com:" }},
	} {
		f, err := parse(strings.Fields(c.in))
		if err != nil || !c.check(f) {
			t.Errorf("%q: %+v, %v", c.in, f, err)
		}
	}
	for in, want := range map[string]string{
		"com:port=x":        "takes options only",
		"-c":                "-c needs <commands>",
		"-loga -b":          "-loga needs <file>",
		"-zork":             "-zork is not an option",
		"-kl":               "-kl",
		"-demo -k com:":     "does not go with it",
		"-json -noio":       "forbids",
		"-sflags":           "-sflags needs <0xn>",
		"-sflags 4g":        "in hexadecimal",
		"-sflags 100000000": "in hexadecimal",
		"-":                 "not an option",
		"-bk com:port=a":    "-bk is not an option",
		"-password sesam":   "belongs into the transport",
	} {
		_, err := parse(strings.Fields(in))
		var u usageError
		if !errors.As(err, &u) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: %v; want %q", in, err, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("-k com:\x00-b")
	f.Fuzz(func(t *testing.T, s string) { parse(strings.Split(s, "\x00")) })
}
