package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"openkd/connstr"
	"openkd/internal/options"
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
	given      []options.Given[flags] // all of them, in order
	ready      func()                 // -service: called when it serves
}

type option = options.Option[flags]

func table() []option {
	return []option{
		{Names: []string{"t"}, Arg: "transport", Example: "tcp:port=1234,password=secret", Set: setTransport,
			Help: `where to listen; may be given more than once
tcp:port=<n>|<low>:<high>[,ipversion=6][,IcfEnable]
ssl:proto=tls13|tls12,certuser=<certificate>,port=<n>|<low>:<high>
npipe:pipe=<name>[,IcfEnable]   a named pipe; a Unix socket elsewhere
spipe:proto=tls13|tls12,certuser=<certificate>,pipe=<name>
com:port=<port>,baud=<rate>,channel=<0..254>   a cable between the debuggers
tcp: and ssl: with clicon=<client's host> connect out to the client.
All take password=<word> and hidden; machuser= for certuser= means the machine's
certificates; clientca=<thumbprint or file> asks clients for theirs`},
		{Names: []string{"passwordfile"}, Arg: "file", Path: true, Example: "password.txt", Set: options.Text(func(f *flags) *string { return &f.password }),
			Help: "its first line is the password of every -t without password=;\nwithout it, the variable OPENKD_PASSWORD is"},
		{Names: []string{"pipeusers"}, Arg: "names", Example: `ann;LAB\ben`, Set: setPipeUsers,
			Help: "who may use npipe: and spipe: on Windows besides this account and the\nadministrators: accounts, groups or SIDs, with ; between them"},
		{Names: []string{"makecert"}, Arg: "name", Example: "lab", Set: options.Text(func(f *flags) *string { return &f.makeCert }),
			Help: "make a certificate for ssl: and spipe:, print the command lines for both\nmachines, and end"},
		{Names: []string{"grace"}, Arg: "time", Example: "90s", Set: setGrace,
			Help: "how long a session waits for a client whose connection was lost,\nsuch as 90s, before the target is let go (default 60s)"},
		{Names: []string{"maxclients"}, Arg: "n", Example: "100", Set: setMaxClients,
			Help: fmt.Sprintf("how many clients are served at once; more are told so (default %d)", server.DefaultMaxClients)},
		{Names: []string{"logfile"}, Arg: "file", Path: true, Example: "kdsrv.log", Set: options.Text(func(f *flags) *string { return &f.logFile }),
			Help: "append the log to a file instead of standard error"},
		{Names: []string{"audit"}, Arg: "file", Path: true, Example: "kdsrv.audit", Set: options.Text(func(f *flags) *string { return &f.audit }),
			Help: "append who came, was refused, held what and left to a file too, as\nJSON lines"},
		{Names: []string{"metrics"}, Arg: "address", Example: "127.0.0.1:9100", Set: options.Text(func(f *flags) *string { return &f.metrics }),
			Help: "figures for Prometheus at http://<address>/metrics; a port alone is\nfor this machine only"},
		{Names: []string{"status"}, Set: options.Flag(func(f *flags) *bool { return &f.status }),
			Help: "show what every kdsrv of this user on this machine serves, and end"},
		{Names: []string{"json"}, Set: options.Flag(func(f *flags) *bool { return &f.json }), Help: "-status as JSON"},
		{Names: []string{"install"}, Set: options.Flag(func(f *flags) *bool { return &f.install }),
			Help: "make the rest of this command line a service that starts with the\nmachine (root, administrator) or with this user, and end"},
		{Names: []string{"uninstall"}, Set: options.Flag(func(f *flags) *bool { return &f.uninstall }), Help: "stop that service and remove it, and end"},
		{Names: []string{service.Option}, Set: options.Flag(func(f *flags) *bool { return &f.service }), Help: "how Windows starts that service"},
		{Names: []string{"noannounce"}, Set: options.Flag(func(f *flags) *bool { return &f.noAnnounce }),
			Help: "tell the network nothing; kd -QR lists this server on this machine\nonly (a door with hidden, or clicon=, nowhere)"},
		{Names: []string{"v"}, Set: options.Flag(func(f *flags) *bool { return &f.verbose }), Help: "log more"},
		{Names: []string{"version"}, Set: options.Flag(func(f *flags) *bool { return &f.version }), Help: "print the version"},
		{Names: []string{"?", "h", "help"}, Set: options.Flag(func(f *flags) *bool { return &f.help }), Help: "print this"},
		{Names: []string{"x"}, Set: func(*flags, string) error { return nil }, Last: true, Help: "ignore the rest of the command line"},
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
	names, err := options.Names("-pipeusers", v)
	f.pipeUsers = append(f.pipeUsers, names...)
	return err
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
	given, err := options.Parse(table(), args, &f, unknown, "options begin with -, and the server is given as -t tcp:port=1234")
	if err != nil {
		return f, err
	}
	f.given = given
	return f, f.check()
}

func unknown(arg, name string) error {
	if slices.Contains(foreign, name) {
		return fmt.Errorf("%s belongs to process servers; kdsrv takes -t", arg)
	}
	return fmt.Errorf("%s is not an option of kdsrv; kdsrv -? lists them", arg)
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

func usage() string { return usageHead + options.Usage(table()) + usageTail }
