package doors

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"openkd/internal/cable"
	"openkd/internal/captured"
	"openkd/internal/ports"
	"openkd/internal/shortdir"
	"openkd/link/fault"
	"openkd/sim"
	"openkd/sim/simtest"
	"openkd/transport/certs"
)

// patience bounds every wait; nothing comes near it.
const patience = 60 * time.Second

// programs are what the tests run, built once.
type programs struct{ dir string }

var built = sync.OnceValues(func() (*programs, error) {
	dir, err := shortdir.Make()
	if err != nil {
		return nil, err
	}
	build := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", dir+"/", "openkd/cmd/kd", "openkd/cmd/kdsrv", "openkd/cmd/kdprx")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as they are given to people
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("the programs do not build: %w\n%s", err, out)
	}
	return &programs{dir}, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if p, err := built(); err == nil {
		os.RemoveAll(p.dir)
	}
	os.Exit(code)
}

// certificate makes a certificate for servers in the site's user store, or the
// machine's.
func (s *site) certificate(store, name string) certs.Made {
	s.t.Helper()
	m, err := certs.Make(filepath.Join(s.dir, store), name, "lab.example", nil, time.Now(), time.Hour)
	if err != nil {
		s.t.Fatal(err)
	}
	return m
}

// site is where one door is tried: folders of its own and the processes that
// run there.
type site struct {
	t   testing.TB
	dir string
	env []string
	p   *programs
}

func newSite(t testing.TB) *site {
	t.Helper()
	p, err := built()
	if err != nil {
		t.Fatal(err)
	}
	// Short, because the paths of sockets are.
	dir := shortdir.New(t)
	s := &site{t: t, dir: dir, p: p}
	for _, d := range []string{"run", "certs", "machine-certs"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.env = append(os.Environ(),
		"OPENKD_RUN_DIR="+filepath.Join(dir, "run"),
		"OPENKD_CERT_DIR="+filepath.Join(dir, "certs"),
		"OPENKD_MACHINE_CERT_DIR="+filepath.Join(dir, "machine-certs"))
	return s
}

// process is a program that runs until the test ends.
type process struct {
	t        testing.TB
	cmd      *exec.Cmd
	out, err captured.Text
	ended    chan struct{}
}

func (s *site) start(name string, args ...string) *process {
	s.t.Helper()
	p := &process{t: s.t, cmd: exec.Command(filepath.Join(s.p.dir, name), args...), ended: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = s.env, &p.out, &p.err
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { defer close(p.ended); p.cmd.Wait() }()
	s.t.Cleanup(p.stop)
	return p
}

// stop ends the process as a service manager would.
func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.cmd.Process.Kill()
		<-p.ended
		p.t.Errorf("%v does not end on SIGTERM:\n%s%s", p.cmd.Args, p.out.String(), p.err.String())
	}
	if p.t.Failed() {
		p.t.Logf("%v:\n%s%s", p.cmd.Args, p.out.String(), p.err.String())
	}
}

// says waits for a line on standard output and returns its submatches.
func (p *process) says(pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if m := re.FindStringSubmatch(p.out.String()); m != nil {
			return m
		}
		select {
		case <-p.ended:
			p.t.Fatalf("%v ended: %s%s", p.cmd.Args, p.out.String(), p.err.String())
		default:
		}
		if time.Now().After(end) {
			p.t.Fatalf("%v does not say %q: %s%s", p.cmd.Args, pattern, p.out.String(), p.err.String())
		}
	}
}

// kdsrv starts a server on doors; the first one's port is returned, if it has
// one.
func (s *site) kdsrv(transports ...string) (port string, p *process) {
	s.t.Helper()
	var args []string
	for _, t := range transports {
		args = append(args, "-t", t)
	}
	p = s.start("kdsrv", args...)
	m := p.says(`kdsrv: listening on (?:[^(]*?Port=(\d+))?.*\n`)
	return m[1], p
}

// mainJob is what a debugger is for: attach at boot, look, set a breakpoint,
// run into it, step, write and read back, search, leave.
const mainJob = `vertarget
lm
r
u @rip l5
bp {nt!RtlFibonacci}
bl
db nt l80
dq @rsp l10
eb @rsp-100 11 22 33 44
db @rsp-100 l4
t
p
r rip
s -a nt l2000 "PE"
g
t
p
bc *
q
`

var (
	anyTime = regexp.MustCompile(`(at|debugger time:|Debug session time:|System Uptime:) .*`)
	banner  = regexp.MustCompile(`OpenKD kernel debugger .*`)
	via     = regexp.MustCompile(`Server=@\{[^}]*\}`)
	trans   = regexp.MustCompile(`Trans=@\{[^}]*\}`)
	opened  = regexp.MustCompile(`(?m)^(Opened|Waiting for|Connection server reached:) .*\n`)
)

// work runs the main job through a link and returns what was shown, without
// what names the way.
func (s *site) work(server string, link string) string {
	s.t.Helper()
	k := link
	if server != "" {
		k = fmt.Sprintf("kdsrv:server=@{%s},trans=@{%s}", server, link)
	}
	script := filepath.Join(s.dir, "job.txt")
	if err := os.WriteFile(script, []byte(job(s.t)), 0o600); err != nil {
		s.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.p.dir, "kd"), "-k", k, "-cf", script)
	cmd.Env = s.env
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		s.t.Fatalf("kd -k %q: %v\n%s%s", k, err, out.String(), errs.String())
	}
	shown := strings.ReplaceAll(out.String()+errs.String(), s.dir, "<dir>")
	for _, r := range []struct {
		re *regexp.Regexp
		to string
	}{{anyTime, "$1 <time>"}, {banner, "<banner>"}, {via, "<server>"}, {trans, "<trans>"}, {opened, ""}} {
		shown = r.re.ReplaceAllString(shown, r.to)
	}
	return shown
}

// job is the main job with the place of its breakpoint, which is the same in
// each machine.
func job(t testing.TB) string {
	m, err := sim.New(sim.Config{Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	at, ok := m.Symbol("nt!RtlFibonacci")
	if !ok {
		t.Fatal("the machine has no nt!RtlFibonacci")
	}
	return strings.ReplaceAll(mainJob, "{nt!RtlFibonacci}", fmt.Sprintf("%#x", at))
}

// door is one way to a server. open starts what it needs and returns the
// client's half of its connection string.
type door struct {
	name string
	open func(s *site) (client string)
}

const password = "password=main Job 7!"

func doors() []door {
	return []door{
		{"tcp", func(s *site) string {
			port, _ := s.kdsrv("tcp:port=0," + password)
			return "tcp:server=127.0.0.1,port=" + port + "," + password
		}},
		{"tcp, no password", func(s *site) string {
			port, _ := s.kdsrv("tcp:port=0")
			return "tcp:server=127.0.0.1,port=" + port
		}},
		{"tcp, a range whose first port is taken", func(s *site) string {
			taken := listen(s.t)
			lo := taken.Addr().(*net.TCPAddr).Port
			port, _ := s.kdsrv(fmt.Sprintf("tcp:port=%d:%d,%s", lo, min(lo+20, 65535), password))
			if port == fmt.Sprint(lo) {
				s.t.Errorf("port %s is taken, and was printed", port)
			}
			return "tcp:server=127.0.0.1,port=" + port + "," + password
		}},
		{"tcp, IPv6", func(s *site) string {
			if c, err := net.Listen("tcp6", "[::1]:0"); err != nil {
				s.t.Skip("no IPv6 here: ", err)
			} else {
				c.Close()
			}
			port, _ := s.kdsrv("tcp:port=0,ipversion=6," + password)
			return "tcp:server=::1,port=" + port + ",ipversion=6," + password
		}},
		{"tcp, by name", func(s *site) string {
			port, _ := s.kdsrv("tcp:port=0," + password)
			return `tcp:server=\\localhost,port=` + port + "," + password
		}},
		{"reverse tcp, server first", func(s *site) string {
			port := fmt.Sprint(ports.TCP(s.t))
			s.kdsrv("tcp:port=" + port + ",clicon=127.0.0.1," + password)
			return "tcp:clicon=127.0.0.1,port=" + port + "," + password
		}},
		{"reverse tcp, client first", func(s *site) string {
			port := fmt.Sprint(ports.TCP(s.t))
			time.AfterFunc(300*time.Millisecond, func() { // the client is there by then; the other order works as well
				s.kdsrv("tcp:port=" + port + ",clicon=127.0.0.1," + password)
			})
			return "tcp:clicon=127.0.0.1,port=" + port + "," + password
		}},
		{"ssl, by name", func(s *site) string {
			s.certificate("certs", "lab")
			port, _ := s.kdsrv("ssl:proto=tls13,certuser=lab,port=0," + password)
			return "ssl:proto=tls13,certuser=lab,server=127.0.0.1,port=" + port + "," + password
		}},
		{"ssl, TLS 1.2, by thumbprint, machine's certificate, client's certificate", func(s *site) string {
			server, client := s.certificate("machine-certs", "lab"), s.certificate("certs", "person")
			port, _ := s.kdsrv("ssl:proto=tls12,machuser=" + server.Thumbprint + ",clientca=" + client.Thumbprint + ",port=0," + password)
			return "ssl:proto=tls12,machuser=" + server.Thumbprint + ",clientcert=person,server=127.0.0.1,port=" + port + "," + password
		}},
		{"npipe", func(s *site) string {
			s.kdsrv("npipe:pipe=kernel," + password)
			return "npipe:server=localhost,pipe=kernel," + password
		}},
		{"spipe", func(s *site) string {
			m := s.certificate("certs", "lab")
			s.kdsrv("spipe:proto=tls13,certuser=lab,pipe=secure," + password)
			return "spipe:proto=tls13,certuser=" + m.Thumbprint + ",server=.,pipe=secure," + password
		}},
		{"com", func(s *site) string {
			here, there := cable.Join(s.t, fault.Config{})
			s.kdsrv("com:port=" + there + ",baud=115200,channel=7," + password)
			return "com:port=" + here + ",baud=115200,channel=7," + password
		}},
		{"com, a bad cable", func(s *site) string {
			here, there := cable.Join(s.t, fault.Config{Seed: 3, Drop: 1e-4, Corrupt: 1e-4, Duplicate: 1e-4, Spacing: 1})
			s.kdsrv("com:port=" + there + ",baud=115200,channel=254," + password)
			return "com:port=" + here + ",baud=115200,channel=254," + password
		}},
		{"reverse ssl", func(s *site) string {
			s.certificate("certs", "lab")
			port := fmt.Sprint(ports.TCP(s.t))
			s.kdsrv("ssl:proto=tls1,certuser=lab,port=" + port + ",clicon=127.0.0.1," + password)
			return "ssl:proto=tls1,certuser=lab,clicon=127.0.0.1,port=" + port + "," + password
		}},
	}
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

// differ tells the first lines that differ.
func differ(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	i := 0
	for i < len(w) && i < len(g) && w[i] == g[i] {
		i++
	}
	return fmt.Sprintf("from line %d, want\n%s\ngot\n%s", i+1,
		strings.Join(w[i:min(len(w), i+6)], "\n"), strings.Join(g[i:min(len(g), i+6)], "\n"))
}

// The same work through every door shows the same as on the machine itself.
func TestMainJob(t *testing.T) {
	want := newSite(t).work("", simtest.New(t, simtest.Steady()).TCP())
	for _, must := range []string{"Kernel Debugger connection established", "Breakpoint 0 hit", "11 22 33 44", "the target runs"} {
		if !strings.Contains(want, must) {
			t.Fatalf("%q is missing:\n%s", must, want)
		}
	}
	for _, d := range append(doors(), chains()...) {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			if got := s.work(d.open(s), simtest.New(t, simtest.Steady()).TCP()); got != want {
				t.Error(differ(want, got))
			}
		})
	}
}
