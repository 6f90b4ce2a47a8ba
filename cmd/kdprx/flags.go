package main

import (
	"errors"
	"fmt"

	"openkd/connstr"
	"openkd/internal/options"
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

type option = options.Option[flags]

func table() []option {
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
		{Names: []string{"c"}, Arg: "transport", Example: "tcp:server=10.0.0.42,port=1234", Set: side("c", true, func(f *flags) **connstr.Transport { return &f.server }),
			Help: "how the server is reached, in the words of its clients:\n" +
				"tcp:server=<host>,port=<n>[,ipversion=6]\n" +
				"tcp:clicon=<host>,port=<n>|<low>:<high>[,ipversion=6]   the server connects in\n" +
				"npipe:server=<host>,pipe=<name>\n" +
				"com:port=<port>,baud=<rate>,channel=<0..254>"},
		{Names: []string{"s"}, Arg: "transport", Example: "tcp:port=9001", Set: side("s", false, func(f *flags) **connstr.Transport { return &f.client }),
			Help: "what clients connect to, in the words of a server:\n" +
				"tcp:port=<n>|<low>:<high>[,ipversion=6][,IcfEnable]\n" +
				"tcp:port=<n>,clicon=<host>[,ipversion=6]   the client is connected to\n" +
				"npipe:pipe=<name>[,IcfEnable]\n" +
				"com:port=<port>,baud=<rate>,channel=<0..254>"},
		{Names: []string{"p"}, Set: options.Flag(func(f *flags) *bool { return &f.keep }), Help: "stay when the last connection has ended"},
		{Names: []string{"pipeusers"}, Arg: "names", Example: `ann;LAB\ben`, Set: setPipeUsers,
			Help: "who may use npipe: on Windows besides this account and the\nadministrators: accounts, groups or SIDs, with ; between them"},
		{Names: []string{"logfile"}, Arg: "file", Example: "kdprx.log", Set: options.Text(func(f *flags) *string { return &f.logFile }),
			Help: "append the log to a file instead of standard error"},
		{Names: []string{"v"}, Set: options.Flag(func(f *flags) *bool { return &f.verbose }), Help: "log more"},
		{Names: []string{"version"}, Set: options.Flag(func(f *flags) *bool { return &f.version }), Help: "print the version"},
		{Names: []string{"?", "h", "help"}, Set: options.Flag(func(f *flags) *bool { return &f.help }), Help: "print this"},
	}
}

func setPipeUsers(f *flags, v string) error {
	names, err := options.Names("-pipeusers", v)
	f.pipeUsers = append(f.pipeUsers, names...)
	return err
}

func parse(args []string) (flags, error) {
	var f flags
	unknown := func(arg, _ string) error {
		return fmt.Errorf("%s is not an option of kdprx; kdprx -? lists them", arg)
	}
	if _, err := options.Parse(table(), args, &f, unknown, "options begin with -, as in kdprx -p -s tcp:port=9001 -c tcp:server=10.0.0.42,port=1234"); err != nil {
		return f, err
	}
	return f, f.check()
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

func usage() string { return usageHead + options.Usage(table()) + usageTail }
