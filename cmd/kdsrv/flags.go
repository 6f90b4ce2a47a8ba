package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"openkd/connstr"
	"openkd/internal/service"
	"openkd/server"
)

// flags is kdsrv's command line.
type flags struct {
	transports []connstr.Transport // -t, in order
	password   string              // -passwordfile
	makeCert   string              // -makecert
	pipeUsers  []string            // -pipeusers
	grace      time.Duration
	maxClients int
	logFile    string
	audit      string
	metrics    string
	status     bool
	json       bool
	noAnnounce bool
	verbose    bool
	version    bool
	help       bool
	install    bool
	service    bool
	uninstall  bool
	given      []given // all of them, in order
	ready      func()  // -service: called when it serves
}

// given is an option as it was given.
type given struct {
	o     *option
	value string
}

// option is one row of the table.
type option struct {
	names   []string // lower case; the first one is listed
	arg     string   // name of the argument, "" for none
	example string   // of the argument, for who leaves it out
	help    string   // lines
	set     func(f *flags, v string) error
	path    bool // the argument is the name of a file
	last    bool // what follows is not read
}

func options() []option {
	flag := func(p func(*flags) *bool) func(*flags, string) error {
		return func(f *flags, _ string) error { *p(f) = true; return nil }
	}
	text := func(p func(*flags) *string) func(*flags, string) error {
		return func(f *flags, v string) error { *p(f) = v; return nil }
	}
	return []option{
		{names: []string{"t"}, arg: "transport", example: "tcp:port=1234,password=secret", set: setTransport,
			help: `where to listen; may be given more than once
tcp:port=<n>|<low>:<high>[,ipversion=6][,IcfEnable]
ssl:proto=tls13|tls12,certuser=<certificate>,port=<n>|<low>:<high>
npipe:pipe=<name>[,IcfEnable]   a named pipe; a Unix socket elsewhere
spipe:proto=tls13|tls12,certuser=<certificate>,pipe=<name>
com:port=<port>,baud=<rate>,channel=<0..254>   a cable between the debuggers
tcp: and ssl: with clicon=<client's host> connect out to the client.
All take password=<word> and hidden; machuser= for certuser= means the machine's
certificates; clientca=<thumbprint or file> asks clients for theirs`},
		{names: []string{"passwordfile"}, arg: "file", path: true, example: "password.txt", set: text(func(f *flags) *string { return &f.password }),
			help: "its first line is the password of every -t without password=;\nwithout it, the variable OPENKD_PASSWORD is"},
		{names: []string{"pipeusers"}, arg: "names", example: `ann;LAB\ben`, set: setPipeUsers,
			help: "who may use npipe: and spipe: on Windows besides this account and the\nadministrators: accounts, groups or SIDs, with ; between them"},
		{names: []string{"makecert"}, arg: "name", example: "lab", set: text(func(f *flags) *string { return &f.makeCert }),
			help: "make a certificate for ssl: and spipe:, print the command lines for both\nmachines, and end"},
		{names: []string{"grace"}, arg: "time", example: "90s", set: setGrace,
			help: "how long a session waits for a client whose connection was lost,\nsuch as 90s, before the target is let go (default 60s)"},
		{names: []string{"maxclients"}, arg: "n", example: "100", set: setMaxClients,
			help: fmt.Sprintf("how many clients are served at once; more are told so (default %d)", server.DefaultMaxClients)},
		{names: []string{"logfile"}, arg: "file", path: true, example: "kdsrv.log", set: text(func(f *flags) *string { return &f.logFile }),
			help: "append the log to a file instead of standard error"},
		{names: []string{"audit"}, arg: "file", path: true, example: "kdsrv.audit", set: text(func(f *flags) *string { return &f.audit }),
			help: "append who came, was refused, held what and left to a file too, as\nJSON lines"},
		{names: []string{"metrics"}, arg: "address", example: "127.0.0.1:9100", set: text(func(f *flags) *string { return &f.metrics }),
			help: "figures for Prometheus at http://<address>/metrics; a port alone is\nfor this machine only"},
		{names: []string{"status"}, set: flag(func(f *flags) *bool { return &f.status }),
			help: "show what every kdsrv of this user on this machine serves, and end"},
		{names: []string{"json"}, set: flag(func(f *flags) *bool { return &f.json }), help: "-status as JSON"},
		{names: []string{"install"}, set: flag(func(f *flags) *bool { return &f.install }),
			help: "make the rest of this command line a service that starts with the\nmachine (root, administrator) or with this user, and end"},
		{names: []string{"uninstall"}, set: flag(func(f *flags) *bool { return &f.uninstall }), help: "stop that service and remove it, and end"},
		{names: []string{service.Option}, set: flag(func(f *flags) *bool { return &f.service }), help: "how Windows starts that service"},
		{names: []string{"noannounce"}, set: flag(func(f *flags) *bool { return &f.noAnnounce }),
			help: "tell the network nothing; kd -QR lists this server on this machine\nonly (a door with hidden, or clicon=, nowhere)"},
		{names: []string{"v"}, set: flag(func(f *flags) *bool { return &f.verbose }), help: "log more"},
		{names: []string{"version"}, set: flag(func(f *flags) *bool { return &f.version }), help: "print the version"},
		{names: []string{"?", "h", "help"}, set: flag(func(f *flags) *bool { return &f.help }), help: "print this"},
		{names: []string{"x"}, set: func(*flags, string) error { return nil }, last: true, help: "ignore the rest of the command line"},
	}
}

// foreign are options of the original's twin for processes.
var foreign = []string{"c", "cs", "pc", "sifeo", "p", "noio", "uwmi"}

func setTransport(f *flags, v string) error {
	t, err := connstr.ParseTransport(v, true)
	if err != nil {
		return err
	}
	f.transports = append(f.transports, t)
	return nil
}

func setGrace(f *flags, v string) error {
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 || d > 24*time.Hour {
		return fmt.Errorf("-grace %q: a time from 0s to 24h is meant, as in -grace 90s", v)
	}
	f.grace = d
	return nil
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

func setMaxClients(f *flags, v string) error {
	n, err := strconv.Atoi(v)
	if err != nil || n < 1 || n > 1_000_000 {
		return fmt.Errorf("-maxclients %q: a number from 1 to 1000000 is meant, as in -maxclients 100", v)
	}
	f.maxClients = n
	return nil
}

func parse(args []string) (flags, error) {
	f := flags{grace: time.Minute}
	table := options()
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if len(arg) < 2 || arg[0] != '-' && arg[0] != '/' {
			return f, fmt.Errorf("%q is not an option; options begin with -, and the server is given as -t tcp:port=1234", arg)
		}
		o, err := find(table, arg)
		if err != nil {
			return f, err
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
		f.given = append(f.given, given{o, v})
		if o.last {
			break
		}
	}
	return f, f.check()
}

func find(table []option, arg string) (*option, error) {
	name := strings.ToLower(strings.TrimPrefix(arg[1:], "-"))
	for i := range table {
		for _, n := range table[i].names {
			if n == name {
				return &table[i], nil
			}
		}
	}
	for _, n := range foreign {
		if n == name {
			return nil, fmt.Errorf("%s belongs to process servers; kdsrv takes -t", arg)
		}
	}
	return nil, fmt.Errorf("%s is not an option of kdsrv; kdsrv -? lists them", arg)
}

// check looks at the options together.
func (f *flags) check() error {
	if f.json && !f.status {
		return errors.New("-json belongs to -status")
	}
	if f.help || f.version || f.makeCert != "" || f.status || f.uninstall {
		return nil
	}
	if len(f.transports) == 0 {
		return errors.New("-t is missing: where to listen, as in kdsrv -t tcp:port=1234,password=secret")
	}
	return nil
}

const usageHead = `kdsrv: a KD connection server; kernel debuggers elsewhere use the lines of this machine

  kdsrv -t tcp:port=1234,password=secret

then on the other machine

  kd -k "kdsrv:server=@{tcp:server=<this host>,port=1234,password=secret},trans=@{com:port=/dev/ttyUSB0,baud=115200}"

`

const usageTail = `
/ works for -. What a client leaves out of a link is filled in from
_NT_DEBUG_PORT and _NT_DEBUG_BAUD_RATE of this process. The server ends on
Ctrl+C, SIGTERM, or .endpsrv from a client, and lets every target run.

exit code: 0 ended on request, 1 the command line is wrong, 2 it cannot listen, log
  or change the service, 3 -status: no server runs
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
