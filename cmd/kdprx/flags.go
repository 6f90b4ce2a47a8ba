package main

import (
	"errors"
	"fmt"
	"strings"

	"openkd/connstr"
	"openkd/repeater"
)

// flags is kdprx's command line.
type flags struct {
	server    *connstr.Transport // -c
	client    *connstr.Transport // -s
	keep      bool
	pipeUsers []string // -pipeusers
	logFile   string
	verbose   bool
	version   bool
	help      bool
}

// option is one row of the table.
type option struct {
	names   []string // lower case; the first one is listed
	arg     string   // name of the argument, "" for none
	example string   // of the argument, for who leaves it out
	help    string   // lines
	set     func(f *flags, v string) error
}

func options() []option {
	flag := func(p func(*flags) *bool) func(*flags, string) error {
		return func(f *flags, _ string) error { *p(f) = true; return nil }
	}
	side := func(name string, client bool, p func(*flags) **connstr.Transport) func(*flags, string) error {
		return func(f *flags, v string) error {
			t, err := repeater.Parse(v, client)
			switch {
			case err != nil:
				return fmt.Errorf("-%s: %w", name, err)
			case *p(f) != nil:
				return fmt.Errorf("-%s is given twice; a repeater has two sides, and another pair takes another kdprx", name)
			}
			*p(f) = &t
			return nil
		}
	}
	return []option{
		{names: []string{"c"}, arg: "transport", example: "tcp:server=10.0.0.42,port=1234", set: side("c", true, func(f *flags) **connstr.Transport { return &f.server }),
			help: "how the server is reached, in the words of its clients:\n" +
				"tcp:server=<host>,port=<n>[,ipversion=6]\n" +
				"tcp:clicon=<host>,port=<n>|<low>:<high>[,ipversion=6]   the server connects in\n" +
				"npipe:server=<host>,pipe=<name>\n" +
				"com:port=<port>,baud=<rate>,channel=<0..254>"},
		{names: []string{"s"}, arg: "transport", example: "tcp:port=9001", set: side("s", false, func(f *flags) **connstr.Transport { return &f.client }),
			help: "what clients connect to, in the words of a server:\n" +
				"tcp:port=<n>|<low>:<high>[,ipversion=6][,IcfEnable]\n" +
				"tcp:port=<n>,clicon=<host>[,ipversion=6]   the client is connected to\n" +
				"npipe:pipe=<name>[,IcfEnable]\n" +
				"com:port=<port>,baud=<rate>,channel=<0..254>"},
		{names: []string{"p"}, set: flag(func(f *flags) *bool { return &f.keep }), help: "stay when the last connection has ended"},
		{names: []string{"pipeusers"}, arg: "names", example: `ann;LAB\ben`, set: setPipeUsers,
			help: "who may use npipe: on Windows besides this account and the\nadministrators: accounts, groups or SIDs, with ; between them"},
		{names: []string{"logfile"}, arg: "file", example: "kdprx.log", set: func(f *flags, v string) error { f.logFile = v; return nil },
			help: "append the log to a file instead of standard error"},
		{names: []string{"v"}, set: flag(func(f *flags) *bool { return &f.verbose }), help: "log more"},
		{names: []string{"version"}, set: flag(func(f *flags) *bool { return &f.version }), help: "print the version"},
		{names: []string{"?", "h", "help"}, set: flag(func(f *flags) *bool { return &f.help }), help: "print this"},
	}
}

func setPipeUsers(f *flags, v string) error {
	for name := range strings.SplitSeq(v, ";") {
		name = strings.TrimSpace(name)
		if name == "" {
			return fmt.Errorf(`-pipeusers %q: a name is missing; write -pipeusers ann or -pipeusers "ann;LAB\ben"`, v)
		}
		f.pipeUsers = append(f.pipeUsers, name)
	}
	return nil
}

func parse(args []string) (flags, error) {
	var f flags
	table := options()
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if len(arg) < 2 || arg[0] != '-' && arg[0] != '/' {
			return f, fmt.Errorf("%q is not an option; options begin with -, as in kdprx -p -s tcp:port=9001 -c tcp:server=10.0.0.42,port=1234", arg)
		}
		o := find(table, arg)
		if o == nil {
			return f, fmt.Errorf("%s is not an option of kdprx; kdprx -? lists them", arg)
		}
		v := ""
		if o.arg != "" {
			i++
			if i >= len(args) {
				return f, fmt.Errorf("%s needs a value, as in %s %s", arg, arg, o.example)
			}
			v = args[i]
		}
		if err := o.set(&f, v); err != nil {
			return f, err
		}
	}
	return f, f.check()
}

func find(table []option, arg string) *option {
	name := strings.ToLower(strings.TrimPrefix(arg[1:], "-"))
	for i := range table {
		for _, n := range table[i].names {
			if n == name {
				return &table[i]
			}
		}
	}
	return nil
}

// check looks at the options together.
func (f *flags) check() error {
	switch {
	case f.help || f.version:
		return nil
	case f.server == nil:
		return errors.New("-c is missing: how the server is reached, as in -c tcp:server=10.0.0.42,port=1234")
	case f.client == nil:
		return errors.New("-s is missing: what clients connect to, as in -s tcp:port=9001")
	}
	return repeater.Check(*f.server, *f.client)
}

const usageHead = `kdprx: a repeater; it passes the bytes of debuggers that cannot reach each other

  kdprx -p -c tcp:server=<host of kdsrv>,port=1234 -s tcp:port=9001

then kd connects to this host, port 9001, as if kdsrv were here. With clicon=
(reverse connections) the far side need not be reachable at all:

  kdprx -p -c tcp:clicon=<host of kdsrv>,port=9000 -s tcp:port=9001
  kdsrv -t tcp:port=9000,clicon=<this host>,password=secret

`

const usageTail = `
/ works for -. Bytes are passed on untouched: TLS, passwords and certificates are
between the two ends, so password= is given to them and not to kdprx. For ssl
write tcp here, for spipe npipe. A repeater is in no list of servers. It ends on
Ctrl+C, on SIGTERM and, without -p, when the last connection has ended.

exit code: 0 ended, 1 the command line is wrong, 2 it cannot listen or log
`

func usage() string {
	var b strings.Builder
	b.WriteString(usageHead)
	for _, o := range options() {
		left := "-" + o.names[0]
		if o.arg != "" {
			left += " " + o.arg
		}
		for line := range strings.SplitSeq(o.help, "\n") {
			if len(left) > 15 {
				fmt.Fprintf(&b, "  %s\n", left)
				left = ""
			}
			fmt.Fprintf(&b, "  %-15s %s\n", left, line)
			left = ""
		}
	}
	b.WriteString(usageTail)
	return b.String()
}
