//go:build linux

package wine

import (
	"fmt"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"go.uber.org/goleak"
	"golang.org/x/term"

	"openkd/internal/cable"
	"openkd/internal/ports"
	"openkd/link/fault"
	"openkd/sim/simtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const password = "Wine-and-water7"

// job is what is done through every door. {name} stands for the address of a
// symbol of the kernel.
const job = `vertarget
lm
r
u {nt!RtlFibonacci} L4
db {nt!RtlFibonacci} L20
bp {nt!RtlFibonacci}
bp {nt!CcLazyWriter} "r rcx; g"
bl
g
r
t
p
eb nt+f000 41 42 43
db nt+f000 L4
? 1+1
bc *
bl
q
`

// door is a way between a debugger and a machine, of which at least one part
// is a program for Windows.
type door struct {
	name string
	kd   string // the debugger: kd or kd.exe
	// open starts what the way needs and returns what -k of the debugger is.
	open func(t *testing.T, l *lab, m *machine) string
	// then starts what the debugger waits for.
	then func(t *testing.T, l *lab, kd *process)
}

// pw is what doors have in common.
const pw = ",password=" + password

var doors = []door{
	{name: "tcp link", kd: "kd.exe", open: func(t *testing.T, l *lab, m *machine) string {
		return m.TCP()
	}},
	{name: "serial port", kd: "kd.exe", open: func(t *testing.T, l *lab, m *machine) string {
		l.mapPort(t, "com21", m.pty())
		return "com:port=com21,baud=115200"
	}},
	{name: "serial port of kdsrv.exe", kd: "kd", open: func(t *testing.T, l *lab, m *machine) string {
		l.mapPort(t, "com22", m.pty())
		return through(l.tcpServer(t, "kdsrv.exe"), `com:port=\\.\com22,baud=115200`)
	}},

	{name: "tcp, kd.exe to kdsrv.exe", kd: "kd.exe", open: func(t *testing.T, l *lab, m *machine) string {
		return through(l.tcpServer(t, "kdsrv.exe"), m.TCP())
	}},
	{name: "tcp, kd to kdsrv.exe", kd: "kd", open: func(t *testing.T, l *lab, m *machine) string {
		return through(l.tcpServer(t, "kdsrv.exe"), m.TCP())
	}},
	{name: "tcp, kd.exe to kdsrv", kd: "kd.exe", open: func(t *testing.T, l *lab, m *machine) string {
		return through(l.tcpServer(t, "kdsrv"), m.TCP())
	}},

	{name: "npipe", kd: "kd.exe", open: func(t *testing.T, l *lab, m *machine) string {
		l.serve(t, "kdsrv.exe", "npipe:pipe=kernel"+pw)
		return through("npipe:server=.,pipe=kernel"+pw, m.TCP())
	}},
	{name: "npipe, other accounts, a name with the process id", kd: "kd.exe", open: func(t *testing.T, l *lab, m *machine) string {
		// A name is looked up, and a SID is taken as it is.
		srv := l.serve(t, "kdsrv.exe", "npipe:pipe=kernel%x"+pw, "-pipeusers", "Users;S-1-5-11")
		return through("npipe:server=localhost,pipe="+srv.shows(`npipe:Pipe=(kernel[0-9a-f]+),`)[1]+pw, m.TCP())
	}},
	{name: "spipe, by name", kd: "kd.exe", open: func(t *testing.T, l *lab, m *machine) string {
		l.makeCertificate(t, "kdsrv.exe", "pipes")
		l.serve(t, "kdsrv.exe", "spipe:proto=tls13,certuser=pipes,pipe=secure"+pw)
		return through(`spipe:proto=tls13,certuser=pipes,server=\\.,pipe=secure`+pw, m.TCP())
	}},
	{name: "ssl, kd.exe to kdsrv.exe, by name", kd: "kd.exe", open: func(t *testing.T, l *lab, m *machine) string {
		l.makeCertificate(t, "kdsrv.exe", "here")
		return through(l.portServer(t, "kdsrv.exe", "ssl:proto=tls13,certuser=here"), m.TCP())
	}},
	{name: "ssl, kd to kdsrv.exe, by thumbprint, TLS 1.2", kd: "kd", open: func(t *testing.T, l *lab, m *machine) string {
		print := l.makeCertificate(t, "kdsrv.exe", "windows")
		return through(l.portServer(t, "kdsrv.exe", "ssl:proto=tls12,certuser="+print), m.TCP())
	}},
	{name: "ssl, kd.exe to kdsrv, both by thumbprint", kd: "kd.exe", open: func(t *testing.T, l *lab, m *machine) string {
		server, client := l.makeCertificate(t, "kdsrv", "server"), l.makeCertificate(t, "kdsrv.exe", "client")
		srv := l.serve(t, "kdsrv", "ssl:proto=tls13,certuser=server,clientca="+client+",port=30000:39999"+pw)
		return through("ssl:proto=tls13,certuser="+server+",clientcert=client,server=127.0.0.1,port="+srv.port()+pw, m.TCP())
	}},
	{name: "ssl, by a name in the user's store of Windows", kd: "kd.exe", open: func(t *testing.T, l *lab, m *machine) string {
		l.makeCertificate(t, "kdsrv", "of-the-user")
		l.importCertificate(t, "of-the-user", "user")
		return through(l.portServer(t, "kdsrv", "ssl:proto=tls13,certuser=of-the-user"), m.TCP())
	}},
	{name: "ssl, by a name in the machine's store of Windows", kd: "kd.exe", open: func(t *testing.T, l *lab, m *machine) string {
		l.makeCertificate(t, "kdsrv", "of-the-machine")
		l.importCertificate(t, "of-the-machine", "machine")
		srv := l.serve(t, "kdsrv", "ssl:proto=tls13,certuser=of-the-machine,port=30000:39999"+pw)
		return through("ssl:proto=tls13,machuser=of-the-machine,server=127.0.0.1,port="+srv.port()+pw, m.TCP())
	}},

	{name: "com, kd to kdsrv.exe", kd: "kd", open: func(t *testing.T, l *lab, m *machine) string {
		here, there := cable.Join(t, fault.Config{})
		l.mapPort(t, "com23", there)
		l.serve(t, "kdsrv.exe", "com:port=com23,baud=921600,channel=7"+pw)
		return through("com:port="+here+",baud=921600,channel=7"+pw, m.TCP())
	}},
	{name: "com, kd.exe to kdsrv", kd: "kd.exe", open: func(t *testing.T, l *lab, m *machine) string {
		here, there := cable.Join(t, fault.Config{})
		l.mapPort(t, "com24", here)
		l.serve(t, "kdsrv", "com:port="+there+",baud=921600,channel=254"+pw)
		return through("com:port=24,baud=921600,channel=254"+pw, m.TCP())
	}},

	{name: "reverse, kd.exe first", kd: "kd.exe", open: func(t *testing.T, l *lab, m *machine) string {
		return through("tcp:clicon=127.0.0.1,port=30000:39999"+pw, m.TCP())
	}, then: func(t *testing.T, l *lab, kd *process) {
		port := kd.shows(`Waiting for 127\.0\.0\.1 to connect to port (\d+)`)[1]
		l.serve(t, "kdsrv.exe", "tcp:clicon=127.0.0.1,port="+port+pw)
	}},
	{name: "reverse, kdsrv.exe first", kd: "kd.exe", open: func(t *testing.T, l *lab, m *machine) string {
		port := fmt.Sprint(ports.TCP(t))
		l.serve(t, "kdsrv.exe", "tcp:clicon=127.0.0.1,port="+port+pw)
		return through("tcp:clicon=127.0.0.1,port="+port+pw, m.TCP())
	}},
	{name: "reverse ssl, kdsrv.exe to kd", kd: "kd", open: func(t *testing.T, l *lab, m *machine) string {
		port, print := fmt.Sprint(ports.TCP(t)), l.makeCertificate(t, "kdsrv.exe", "outwards")
		l.serve(t, "kdsrv.exe", "ssl:proto=tls13,certuser=outwards,clicon=127.0.0.1,port="+port+pw)
		return through("ssl:proto=tls13,certuser="+print+",clicon=127.0.0.1,port="+port+pw, m.TCP())
	}},

	{name: "kdprx.exe between tcp and tcp", kd: "kd.exe", open: func(t *testing.T, l *lab, m *machine) string {
		srv := l.serve(t, "kdsrv.exe", "tcp:port=30000:39999"+pw)
		prx := l.repeat(t, "kdprx.exe", "tcp:port=30000:39999", "tcp:server=127.0.0.1,port="+srv.port())
		return through("tcp:server=127.0.0.1,port="+prx.port()+pw, m.TCP())
	}},
	{name: "kdprx.exe from the network to a pipe", kd: "kd", open: func(t *testing.T, l *lab, m *machine) string {
		l.serve(t, "kdsrv.exe", "npipe:pipe=far"+pw)
		prx := l.repeat(t, "kdprx.exe", "tcp:port=30000:39999", "npipe:server=.,pipe=far")
		return through("tcp:server=127.0.0.1,port="+prx.port()+pw, m.TCP())
	}},
	{name: "kdprx.exe from a pipe to a reverse server", kd: "kd.exe", open: func(t *testing.T, l *lab, m *machine) string {
		port := fmt.Sprint(ports.TCP(t))
		l.repeat(t, "kdprx.exe", "npipe:pipe=near", "tcp:clicon=127.0.0.1,port="+port)
		l.serve(t, "kdsrv", "tcp:clicon=127.0.0.1,port="+port+pw)
		return through("npipe:server=.,pipe=near"+pw, m.TCP())
	}},
}

func through(server, link string) string {
	return fmt.Sprintf("kdsrv:server=@{%s},trans=@{%s}", server, link)
}

// serve starts a server that only this machine hears of.
func (l *lab) serve(t *testing.T, program, transport string, args ...string) *process {
	t.Helper()
	p := l.start(t, "", program, append([]string{"-noannounce", "-t", transport}, args...)...)
	p.shows(`kdsrv: listening on .*\n`)
	return p
}

// portServer starts a server on a free port and returns the way to it.
func (l *lab) portServer(t *testing.T, program, transport string) string {
	t.Helper()
	srv := l.serve(t, program, transport+",port=30000:39999"+pw)
	return transport + ",server=127.0.0.1,port=" + srv.port() + pw
}

func (l *lab) tcpServer(t *testing.T, program string) string {
	t.Helper()
	srv := l.serve(t, program, "tcp:port=30000:39999"+pw)
	return "tcp:server=127.0.0.1,port=" + srv.port() + pw
}

// repeat starts a repeater.
func (l *lab) repeat(t *testing.T, program, client, server string) *process {
	t.Helper()
	p := l.start(t, "", program, "-p", "-s", client, "-c", server)
	p.shows(`kdprx: passing .*\n`)
	return p
}

// port is the first one that a program says it listens on.
func (p *process) port() string {
	p.t.Helper()
	return p.shows(`Port=(\d+)`)[1]
}

// TestWindows runs everything in one prefix, which takes longer to make than
// most of what is done in it.
func TestWindows(t *testing.T) {
	l := newLab(t)
	t.Run("doors", func(t *testing.T) {
		// What a debugger of this system says, with nothing in between.
		want := l.doJob(t, door{kd: "kd", open: func(t *testing.T, l *lab, m *machine) string { return m.TCP() }})
		for _, text := range []string{"Breakpoint 0 hit", "41 42 43", "0 e fffff8", "Evaluate expression: 2"} {
			if !strings.Contains(want, text) {
				t.Fatalf("the reference does not show %q:\n%s", text, want)
			}
		}
		for _, d := range doors {
			t.Run(d.name, func(t *testing.T) { l.check(t, want, d) })
		}
		t.Run("shared port", func(t *testing.T) { l.lines(t, want) })
	})
	t.Run("suites", l.suites)
	t.Run("demonstration", l.demo)
	t.Run("pipe", l.pipe)
	t.Run("ctrl+c", l.ctrlC)
	t.Run("messages", l.messages)
	t.Run("refusals", l.refusals)
	t.Run("status", l.status)
	t.Run("firewall", l.firewall)
	t.Run("servers", l.servers)
	t.Run("service", l.service)
	t.Run("sharing", l.sharing)
}

// check does the job through a door and compares what is shown.
func (l *lab) check(t *testing.T, want string, d door) {
	t.Helper()
	if got := l.doJob(t, d); got != want {
		t.Errorf("not what kd of this system shows:\n%s", diff(want, got))
	}
}

// doJob does the job through a door and returns what was shown.
func (l *lab) doJob(t *testing.T, d door) string {
	t.Helper()
	m := newMachine(t)
	kd := l.start(t, m.expand(job), d.kd, "-kqm", "-k", d.open(t, l, m))
	if d.then != nil {
		d.then(t, l, kd)
	}
	code := kd.end()
	if code != 0 || kd.err.String() != "" {
		t.Errorf("exit code %d, standard error: %s", code, kd.err.String())
	}
	m.untouched()
	return normalise(kd.out.String())
}

// Only what cannot be equal in two runs is replaced: the clock, the build, the
// way, and how much of a machine's past each kind of line lets through.
var (
	clock  = regexp.MustCompile(`(target at) \([^)]* \(UTC [^)]*\)\)`)
	now    = regexp.MustCompile(`(debugger time:) .*`)
	banner = regexp.MustCompile(`(OpenKD kernel debugger) \S+ \S+/\S+`)
	opened = regexp.MustCompile(`(?m)^(Opened|Waiting for) .*\n`)
)

func normalise(s string) string {
	s = strings.ReplaceAll(s, "\r\n", "\n")
	s = clock.ReplaceAllString(s, "$1 (<now>)")
	s = now.ReplaceAllString(s, "$1 <now>")
	s = banner.ReplaceAllString(s, "$1 <version> <system>")
	return opened.ReplaceAllString(s, "")
}

// diff shows the first line that differs, with what is around it.
func diff(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	i := 0
	for i < len(w) && i < len(g) && w[i] == g[i] {
		i++
	}
	return fmt.Sprintf("line %d\nwanted:\n%s\nshown:\n%s", i+1,
		strings.Join(w[max(0, i-3):min(len(w), i+6)], "\n"), strings.Join(g[max(0, i-3):min(len(g), i+6)], "\n"))
}

// machine is a simulated machine in this process that stops soon after it is
// switched on.
type machine struct {
	t *testing.T
	*simtest.Machine
	code []byte // the kernel's code as it is without breakpoints
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	cfg := simtest.Steady()
	cfg.BreakAtBoot = false
	m := &machine{t: t, Machine: simtest.New(t, cfg)}
	m.Break()
	m.code = m.readCode()
	return m
}

// pty serves the machine on a pty and returns the device of the other end.
func (m *machine) pty() string {
	m.t.Helper()
	master, slave, err := pty.Open()
	if err != nil {
		m.t.Skip("no ptys here: ", err)
	}
	// Held open, so that a debugger that goes is no hang-up; raw, so that
	// nothing is echoed before it comes.
	m.t.Cleanup(func() { slave.Close() })
	if _, err := term.MakeRaw(int(slave.Fd())); err != nil {
		m.t.Fatal(err)
	}
	m.Attach(master)
	return slave.Name()
}

var symbolRef = regexp.MustCompile(`\{(\w+!\w+)\}`)

// expand puts addresses of symbols into a text.
func (m *machine) expand(text string) string {
	return symbolRef.ReplaceAllStringFunc(text, func(ref string) string {
		at, ok := m.Symbol(ref[1 : len(ref)-1])
		if !ok {
			m.t.Fatalf("the machine has no symbol %s", ref)
		}
		return fmt.Sprintf("0x%x", at)
	})
}

// readCode reads the code around the breakpoints of the job.
func (m *machine) readCode() []byte {
	m.t.Helper()
	var code []byte
	for _, name := range []string{"nt!RtlFibonacci", "nt!CcLazyWriter"} {
		at, ok := m.Symbol(name)
		b := make([]byte, 64)
		if !ok || m.ReadVirtual(at, b) != len(b) {
			m.t.Fatalf("no code at %s", name)
		}
		code = append(code, b...)
	}
	return code
}

// untouched checks that the machine runs and that no breakpoint is left in it.
func (m *machine) untouched() {
	m.t.Helper()
	from := m.Stats().Ticks
	for end := time.Now().Add(patience); m.Stats().Ticks < from+3; time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			m.t.Fatal("the machine does not run")
		}
	}
	if string(m.readCode()) != string(m.code) {
		m.t.Error("a breakpoint was left in the machine")
	}
}

// demo: nothing but kd.exe.
func (l *lab) demo(t *testing.T) {
	kd := l.start(t, "", "kd.exe", "-demo", "-c", "vertarget;lm;q")
	if code := kd.end(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	kd.shows(`(?s)windows/amd64.*Windows 11 Kernel Version 26100 MP.*openkd .*The session is closed; the target runs`)
}

// pipe: a machine served at a named pipe, as virtual machines do.
func (l *lab) pipe(t *testing.T) {
	const name = `\\.\pipe\openkd-test`
	machine := l.start(t, "", "kdtarget.exe", "-t", "com:pipe,port="+name, "-seed", "7")
	machine.shows(`serving at (.*); attach`)
	l.burn(t, name)
	for range 2 { // one debugger after another
		kd := l.start(t, "", "kd.exe", "-b", "-k", "com:pipe,port="+name, "-c", "vertarget;lm;q")
		if code := kd.end(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		kd.shows(`(?s)Opened \\\\\.\\pipe\\openkd-test.*Windows 11 Kernel Version 26100.*openkd .*The session is closed; the target runs`)
	}
	machine.interrupt()
	if code := machine.end(); code != 0 {
		t.Errorf("kdtarget.exe ended with %d after Ctrl+C", code)
	}
}

// burn uses up the first instance of a pipe, see the package comment.
func (l *lab) burn(t *testing.T, pipe string) {
	t.Helper()
	if err := l.tool("wine", "cmd", "/c", "type nul < "+pipe); err != nil {
		t.Fatal(err)
	}
}

// ctrlC: it breaks in at the debugger, and ends the server, which lets the
// machine run.
func (l *lab) ctrlC(t *testing.T) {
	m := newMachine(t)
	srv := l.serve(t, "kdsrv.exe", "tcp:port=30000:39999"+pw)
	server := "tcp:server=127.0.0.1,port=" + srv.port() + pw
	stdin, typed := io.Pipe()
	defer typed.Close()
	kd := l.startTyping(t, stdin, "kd.exe", "-kqm", "-k", through(server, m.TCP()))
	kd.shows(`kd> $`)
	io.WriteString(typed, "g\n")
	m.untouched()
	kd.interrupt()
	kd.shows(`(?s)nt\+0x1020:.*kd> $`) // a break-in, not the stop at the start
	io.WriteString(typed, "bp "+m.expand("{nt!RtlFibonacci}")+"; g\n")
	kd.shows(`(?s)Breakpoint 0 hit.*kd> $`)
	srv.interrupt()
	if code := srv.end(); code != 0 {
		t.Errorf("kdsrv.exe ended with %d after Ctrl+C", code)
	}
	kd.shows(`The server is ending; the target is let go`)
	m.untouched()
	typed.Close()
	if code := kd.end(); code != 3 {
		t.Errorf("kd.exe ended with %d", code)
	}
}

// messages: what a person is told when something is not there.
func (l *lab) messages(t *testing.T) {
	for _, c := range []struct{ link, want string }{
		{"com:port=com77", "no such port"},
		{`com:pipe,port=\\.\pipe\nobody`, "start the virtual machine first"},
		{"com:ipport=1,port=127.0.0.1", "nothing listens there"},
		{through("tcp:server=127.0.0.1,port=1", "com:port=com1"), "127.0.0.1"},
	} {
		t.Run(c.link, func(t *testing.T) {
			kd := l.start(t, "", "kd.exe", "-k", c.link)
			if code := kd.end(); code != 4 {
				t.Errorf("exit code %d", code)
			}
			if text := kd.err.String(); !strings.Contains(text, c.want) || strings.Count(text, "\n") != 1 {
				t.Errorf("told %q, wanted %q", text, c.want)
			}
		})
	}
}
