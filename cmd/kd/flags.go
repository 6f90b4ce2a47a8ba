package main

import (
	"fmt"
	"strconv"
	"strings"

	"openkd/discovery"
	"openkd/sharing"
)

// flags is kd's command line. WinDbg's habits rule: / for -, case does not
// matter, options of one letter without argument can be merged (-rnv), -k may
// stand without a value.
type flags struct {
	kernel     *string // -k; nil: not given
	demo       bool
	commands   []string // -c, in order
	script     string   // -cf
	log        string
	logAppend  bool
	breakIn    bool // -b, -bonc
	firstLoad  bool // -d
	firstExc   bool // -x
	noisy      bool
	verbose    bool
	quiet      bool // -kqm
	noio       bool
	json       bool
	takeOver   bool
	servers    *string // -QR; nil: not given; "": everywhere
	password   string  // -passwordfile
	keygen     bool
	port       string   // -port, of -keygen
	hostip     string   // -hostip, of -keygen
	doors      []string // -server
	remote     *string  // -remote
	clines     int      // -clines; 0: the default
	clinesText string
	noShell    bool
	secure     bool
	audit      string // -audit
	as         string // -as
	version    bool
	help       bool
	given      []string // the names of all options
	extensions []string // -a, in order
	symbols    string   // -y
	images     string   // -i
	sources    string   // -srcpath
	lines      bool     // -lines
	symopt     *uint32  // -sflags; nil: not given
	symoptText *string
	loadAll    bool // -s

	noColor bool // -nocolor
}

// option is one row of the table. A one-letter row with a toggle can be
// merged.
type option struct {
	names  []string
	arg    string // name of the argument, "" for none
	help   string
	toggle func(*flags)
	value  func(*flags, string)
}

func options() []option {
	return []option{
		{[]string{"k"}, "<link>", "debug the kernel at a link (see below); without a value, the one of _NT_DEBUG_PORT", nil, func(f *flags, v string) { f.kernel = &v }},
		{[]string{"demo"}, "", "debug a simulated machine through a connection server on loopback", func(f *flags) { f.demo = true }, nil},
		{[]string{"c"}, "<commands>", "run commands at the first prompt", nil, func(f *flags, v string) { f.commands = append(f.commands, v) }},
		{[]string{"cf"}, "<file>", "run a script at the first prompt, before -c", nil, func(f *flags, v string) { f.script = v }},
		{[]string{"b", "bonc"}, "", "break in as soon as the target is there", func(f *flags) { f.breakIn = true }, nil},
		{[]string{"d"}, "", "break when the first kernel module loads after a reboot", func(f *flags) { f.firstLoad = true }, nil},
		{[]string{"x"}, "", "stop at first-chance exceptions", func(f *flags) { f.firstExc = true }, nil},
		{[]string{"n"}, "", "noisy: tell every module load and every place where symbols are looked for", func(f *flags) { f.noisy = true }, nil},
		{[]string{"v"}, "", "verbose: tell how the connection comes about", func(f *flags) { f.verbose = true }, nil},
		{[]string{"kqm"}, "", "quiet mode: no explanations", func(f *flags) { f.quiet = true }, nil},
		{[]string{"a<name>"}, "", "load an extension (a Starlark script) and search it first; no blank before its name", func(*flags) {}, nil},
		{[]string{"logo"}, "<file>", "write a log file, overwriting it", nil, func(f *flags, v string) { f.log, f.logAppend = v, false }},
		{[]string{"loga"}, "<file>", "append to a log file", nil, func(f *flags, v string) { f.log, f.logAppend = v, true }},
		{[]string{"noio"}, "", "no input and no output here; -c and the log still work", func(f *flags) { f.noio = true }, nil},
		{[]string{"nocolor"}, "", "no colours on the terminal, as with NO_COLOR in the environment", func(f *flags) { f.noColor = true }, nil},
		{[]string{"json"}, "", "events and results as JSON lines", func(f *flags) { f.json = true }, nil},
		{[]string{"takeover"}, "", "take the link over from the client that holds it", func(f *flags) { f.takeOver = true }, nil},
		{[]string{"server"}, "<transport>", "share the session at a door, as .server does; may be given again", nil, func(f *flags, v string) { f.doors = append(f.doors, v) }},
		{[]string{"remote"}, "<transport>", "join a session that another debugger shares; goes with -c, -clines, -bonc, -json and -passwordfile", nil, func(f *flags, v string) { f.remote = &v }},
		{[]string{"clines"}, "<n>", "lines of history for those who join later; with -remote: wanted", nil, func(f *flags, v string) { f.clinesText = v }},
		{[]string{"as"}, "<name>", "with -remote: the name that the others see (machine\\user)", nil, func(f *flags, v string) { f.as = v }},
		{[]string{"audit"}, "<file>", "append who joined and who ran what, as JSON lines", nil, func(f *flags, v string) { f.audit = v }},
		{[]string{"noshell"}, "", "forbid .shell to everybody", func(f *flags) { f.noShell = true }, nil},
		{[]string{"secure"}, "", "Secure Mode, for good: no commands that run programs or reach other machines, no downloads, extensions and symbols from local disks", func(f *flags) { f.secure = true }, nil},
		{[]string{"sflags"}, "<0xn>", "options of symbols as .symopt has them, in hexadecimal; 0xB0227 if not given, 0x40000 is Secure Mode", nil, func(f *flags, v string) { f.symoptText = &v }},
		{[]string{"passwordfile"}, "<file>", "its first line is the password for server=@{}, -server and -remote without one (else OPENKD_PASSWORD)", nil, func(f *flags, v string) { f.password = v }},
		{[]string{"QR"}, "<machine>", "list the servers of a machine, or of the local network; goes with -json alone", nil, func(f *flags, v string) { f.servers = &v }},
		{[]string{"keygen"}, "", "make a key for network debugging and print what to type on both sides", func(f *flags) { f.keygen = true }, nil},
		{[]string{"port"}, "<n>", "the UDP port of -keygen (default 50000)", nil, func(f *flags, v string) { f.port = v }},
		{[]string{"hostip"}, "<address>", "this machine's address for -keygen, as the target reaches it", nil, func(f *flags, v string) { f.hostip = v }},
		{[]string{"y"}, "<path>", "symbol path, as in .sympath; before what _NT_SYMBOL_PATH says", nil, func(f *flags, v string) { f.symbols = v }},
		{[]string{"i"}, "<path>", "image path, as in .exepath", nil, func(f *flags, v string) { f.images = v }},
		{[]string{"srcpath"}, "<path>", "source path, as in .srcpath; before what _NT_SOURCE_PATH says", nil, func(f *flags, v string) { f.sources = v }},
		{[]string{"lines"}, "", "show lines of source beside names, as .lines -e does", func(f *flags) { f.lines = true }, nil},
		{[]string{"s"}, "", "load the symbols of all modules at the first stop", func(f *flags) { f.loadAll = true }, nil},
		{[]string{"version"}, "", "print the version", func(f *flags) { f.version = true }, nil},
		{[]string{"?", "h", "help"}, "", "print this", func(f *flags) { f.help = true }, nil},
	}
}

// later names options of the original that are known but not there.
var later = map[string]string{
	"kl":       "local kernel debugging (-kl) needs Windows' own interface and is not supported",
	"kx":       "EXDI (-kx) is not a KD link and is not supported",
	"z":        "dump files (-z) are not read yet",
	"ee":       "only the MASM evaluator is there",
	"p":        "kd debugs kernels; processes are not supported",
	"cfr":      "a script that runs again after each restart (-cfr) is not there yet; use -cf",
	"logau":    "UTF-16 logs are not written; use -loga",
	"logou":    "UTF-16 logs are not written; use -logo",
	"wake":     "waking a user-mode debugger (-wake) is not supported",
	"iu":       "URL types (-iu) are not registered",
	"password": "a password belongs into the transport: tcp:server=<host>,port=<n>,password=<pw>, or into a file: -passwordfile <file>",
}

// usageError is a fault in the command line: one line that names the part.
type usageError string

func (e usageError) Error() string { return string(e) }

func parse(args []string) (flags, error) {
	var f flags
	table := options()
	find := func(name string) *option {
		for i := range table {
			for _, n := range table[i].names {
				if strings.EqualFold(n, name) {
					return &table[i]
				}
			}
		}
		return nil
	}
	for i := 0; i < len(args); i++ {
		a := args[i]
		if len(a) < 2 || (a[0] != '-' && a[0] != '/') {
			return f, usageError(fmt.Sprintf("%q is not an option; kd takes options only, as in kd -k com:pipe,port=/tmp/vm.sock (kd -? lists them)", a))
		}
		name := strings.ToLower(strings.TrimPrefix(a[1:], "-"))
		if o := find(name); o != nil {
			f.given = append(f.given, name)
			if o.value == nil {
				o.toggle(&f)
				continue
			}
			has := i+1 < len(args) && !looksLikeOption(args[i+1], find)
			switch {
			case has:
				i++
				o.value(&f, args[i])
			case name == "k", name == "qr":
				o.value(&f, "")
			default:
				return f, usageError(fmt.Sprintf("-%s needs %s behind it", name, o.arg))
			}
			continue
		}
		if why, ok := later[name]; !ok && len(name) > 1 && name[0] == 'a' {
			f.given = append(f.given, "a")
			f.extensions = append(f.extensions, strings.TrimPrefix(a[1:], "-")[1:])
			continue
		} else if ok {
			return f, usageError("-" + name + ": " + why)
		}
		merged := make([]*option, 0, len(name))
		for _, c := range name {
			o := find(string(c))
			if o == nil || o.toggle == nil {
				merged = nil
				break
			}
			merged = append(merged, o)
		}
		if merged == nil {
			return f, usageError(fmt.Sprintf("%s is not an option of kd (kd -? lists them)", a))
		}
		for _, o := range merged {
			f.given = append(f.given, o.names[0])
			o.toggle(&f)
		}
	}
	return f, f.check()
}

// looksLikeOption: a value may begin with - or / (a path does), so only the
// name of a known option ends a missing value.
func looksLikeOption(a string, find func(string) *option) bool {
	if len(a) < 2 || (a[0] != '-' && a[0] != '/') {
		return false
	}
	return a[0] == '-' && find(strings.ToLower(a[1:])) != nil
}

func (f *flags) check() error {
	if f.help || f.version {
		return nil
	}
	if f.keygen || f.port != "" || f.hostip != "" {
		for _, name := range f.given {
			if name != "keygen" && name != "port" && name != "hostip" {
				return usageError(fmt.Sprintf("-keygen, -port and -hostip make a key and do nothing else, so -%s does not go with them", name))
			}
		}
		if !f.keygen {
			return usageError("-port and -hostip belong to -keygen; the port of a link stands in it, as in kd -k net:port=50000,key=<key>")
		}
		return nil
	}
	if f.servers != nil {
		for _, name := range f.given {
			if name != "qr" && name != "json" {
				return usageError(fmt.Sprintf("-QR lists servers and does nothing else, so -%s does not go with it", name))
			}
		}
		if *f.servers != "" {
			if _, err := discovery.Machine(*f.servers); err != nil {
				return usageError("-QR: " + err.Error())
			}
		}
		return nil
	}
	if f.clinesText != "" {
		n, err := strconv.Atoi(f.clinesText)
		if err != nil || n < 1 || n > 1_000_000 {
			return usageError(fmt.Sprintf("-clines %s: a number of lines from 1 to 1000000 is expected", f.clinesText))
		}
		f.clines = n
	}
	if f.symoptText != nil {
		n, err := strconv.ParseUint(strings.TrimPrefix(strings.ToLower(*f.symoptText), "0x"), 16, 32)
		if err != nil {
			return usageError(fmt.Sprintf("-sflags %s: flags of 32 bits in hexadecimal are expected, as in -sflags 0xB0227", *f.symoptText))
		}
		f.symopt = new(uint32(n))
	}
	for _, text := range f.doors {
		if _, _, err := sharing.ParseDoor(text); err != nil {
			return usageError("-server: " + err.Error())
		}
	}
	if f.remote != nil {
		for _, name := range f.given {
			switch name {
			case "remote", "c", "clines", "as", "b", "bonc", "json", "passwordfile", "v", "n", "kqm":
			case "k", "demo":
				return usageError("-remote joins a session that another debugger shares and that has its target, so -" + name + " does not go with it; to reach a kernel through a connection server write -k \"kdsrv:server=@{tcp:server=<host>,port=<n>},trans=@{<link>}\" without -remote")
			case "server":
				return usageError("a debugger is either the one that shares (-server) or the one that joins (-remote); type .server <transport> in the session to open a door where it is shared")
			default:
				return usageError(fmt.Sprintf("-%s belongs to the debugger that shares the session, so it does not go with -remote", name))
			}
		}
		return nil
	}
	if f.demo && f.kernel != nil {
		return usageError("-demo brings its own machine, so -k does not go with it")
	}
	if f.json && f.noio {
		return usageError("-json writes to standard output, which -noio forbids")
	}
	return nil
}

const linksHelp = `
Links (quote the argument for the shell; in PowerShell use single quotes):
  com:port=<device>,baud=<rate>            a serial port, adapter or pty
  com:pipe,port=<path>[,reconnect]         a virtual machine's Unix socket or Windows pipe
  com:ipport=<TCP port>,port=<address>     serial bytes over TCP
  net:port=<UDP port>,key=<key>[,target=<host>]
                                           Windows' network debugging; with target= the machine is asked, and
                                           drops another debugger
  com:pipe,port=<path>,listen              wait for a machine that connects out (also com:ipport=<n>,listen)
  kdsrv:server=@{tcp:server=<host>,port=<n>,password=<pw>},trans=@{<link>}
                                           any of these on the machine of a kdsrv
Sharing: kd -server tcp:port=5005,password=<pw> -k <link>, and from elsewhere kd -remote tcp:port=5005,server=<host>,password=<pw>;
  readonly among the parameters of a door lets those who come through it look only.
Exit codes: 0 ended as asked, 1 bad command line, 2 a command of -c or -cf failed,
  3 the target or the link was lost, 4 no connection came about
  (-QR: the machine is not known or does not answer).
`

func usage() string {
	var b strings.Builder
	b.WriteString("kd, a kernel debugger for Windows and ReactOS targets\n\nkd -k <link> [options]    kd -demo\n\n")
	for _, o := range options() {
		left := "-" + strings.Join(o.names, ", -")
		if o.arg != "" {
			left += " " + o.arg
		}
		fmt.Fprintf(&b, "  %-18s %s\n", left, o.help)
	}
	b.WriteString(linksHelp)
	return b.String()
}
