// Package options reads the command lines of the programs that serve, by a table
// with a row for each option. It is not for kd, whose options follow WinDbg's
// habits (merged letters, values that may be missing).
package options

import (
	"fmt"
	"strings"
)

// Option is one row of a table; F is what the options are kept in.
type Option[F any] struct {
	Names   []string // lower case; the first one is listed
	Arg     string   // name of the argument, "" for none
	Example string   // of the argument, for who leaves it out
	Help    string   // lines
	Set     func(f *F, value string) error
	Path    bool // the argument is the name of a file
	Last    bool // what follows is not read
}

// Given is an option as it was given.
type Given[F any] struct {
	Option *Option[F]
	Value  string
}

// Flag makes the Set of an option without an argument.
func Flag[F any](p func(*F) *bool) func(*F, string) error {
	return func(f *F, _ string) error { *p(f) = true; return nil }
}

// Text makes the Set of an option whose argument is kept as it is.
func Text[F any](p func(*F) *string) func(*F, string) error {
	return func(f *F, v string) error { *p(f) = v; return nil }
}

// Names takes a list apart that has ; between its names, as -pipeusers does.
func Names(option, value string) ([]string, error) {
	var names []string
	for name := range strings.SplitSeq(value, ";") {
		name = strings.TrimSpace(name)
		if name == "" {
			return nil, fmt.Errorf(`%s %q: a name is missing; write %s ann or %s "ann;LAB\ben"`, option, value, option, option)
		}
		names = append(names, name)
	}
	return names, nil
}

// Parse reads a command line into f and returns the options in their order. /
// works for - and case does not matter. A fault is one line for people that
// names the part: unknown is asked for the text about an option that the table
// does not have (its name is in lower case), stray says how options look to who
// writes something else.
func Parse[F any](table []Option[F], args []string, f *F, unknown func(arg, name string) error, stray string) ([]Given[F], error) {
	var all []Given[F]
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if len(arg) < 2 || arg[0] != '-' && arg[0] != '/' {
			return nil, fmt.Errorf("%q is not an option; %s", arg, stray)
		}
		name := strings.ToLower(strings.TrimPrefix(arg[1:], "-"))
		o := find(table, name)
		if o == nil {
			return nil, unknown(arg, name)
		}
		v := ""
		if o.Arg != "" {
			i++
			if i >= len(args) {
				return nil, fmt.Errorf("%s needs a value, as in %s %s", arg, arg, o.Example)
			}
			v = args[i]
		}
		if err := o.Set(f, v); err != nil {
			return nil, err
		}
		all = append(all, Given[F]{o, v})
		if o.Last {
			break
		}
	}
	return all, nil
}

func find[F any](table []Option[F], name string) *Option[F] {
	for i := range table {
		for _, n := range table[i].Names {
			if n == name {
				return &table[i]
			}
		}
	}
	return nil
}

// Usage lists the options with their help.
func Usage[F any](table []Option[F]) string {
	var b strings.Builder
	for _, o := range table {
		left := "-" + o.Names[0]
		if o.Arg != "" {
			left += " " + o.Arg
		}
		for line := range strings.SplitSeq(o.Help, "\n") {
			if len(left) > 15 {
				fmt.Fprintf(&b, "  %s\n", left)
				left = ""
			}
			fmt.Fprintf(&b, "  %-15s %s\n", left, line)
			left = ""
		}
	}
	return b.String()
}
