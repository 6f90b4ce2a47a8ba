package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"openkd/connstr"
	"openkd/internal/captured"
	"openkd/internal/shortdir"
	"openkd/kdrpc"
	"openkd/rundir"
	"openkd/sim"
	"openkd/sim/simtest"
	"openkd/status"
	"openkd/target"
	"openkd/target/targettest"
	"openkd/transport"
)

// asMain makes this program kdsrv.
const asMain = "KDSRV_TEST_MAIN"

// process is a kdsrv of its own.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	errs *captured.Text
	line string // on standard output
	once sync.Once
	code int
}

// command makes a kdsrv that is not started yet, with a run directory that all
// of a test share.
func command(t *testing.T, args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), asMain+"=1", "OPENKD_PASSWORD=")
	return cmd
}

func shortRunDir(t *testing.T) {
	t.Helper()
	d := shortdir.New(t)
	t.Setenv(rundir.Env, filepath.Join(d, "run"))
}

func startProcess(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, errs: new(captured.Text)}
	cmd.Stderr = p.errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); p.wait() })
	p.line, err = bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("it does not start: exit %d\n%s", p.wait(), p.errs)
	}
	return p
}

// wait waits for the end and returns the exit code.
func (p *process) wait() int {
	p.once.Do(func() {
		p.cmd.Wait()
		p.code = p.cmd.ProcessState.ExitCode()
	})
	return p.code
}

func (p *process) at() connstr.Transport {
	m := regexp.MustCompile(`Port=(\d+)`).FindStringSubmatch(p.line)
	if m == nil {
		p.t.Fatalf("it says %q", p.line)
	}
	port, _ := strconv.Atoi(m[1])
	return connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: port}
}

// machine is a simulated machine that listens for its debugger.
func machine(t *testing.T) (*simtest.Machine, string) {
	m := simtest.New(t, sim.Config{Seed: 1, Retries: 3})
	m.PowerOn()
	return m, m.TCP()
}

func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in a minute: %s", what)
		}
	}
}

// However a server is told to end, what it holds runs on.
func TestTargetsRunOn(t *testing.T) {
	shortRunDir(t)
	for how, end := range map[string]func(p *process, c *kdrpc.Client) error{
		"a signal": func(p *process, _ *kdrpc.Client) error { return p.cmd.Process.Signal(syscall.SIGTERM) },
		".endpsrv": func(_ *process, c *kdrpc.Client) error { return c.EndServer(t.Context()) },
	} {
		t.Run(how, func(t *testing.T) {
			if runtime.GOOS == "windows" && how == "a signal" {
				t.Skip("there are no signals between processes")
			}
			m, link := machine(t)
			p := startProcess(t, command(t, "-t", "tcp:port=0", "-noannounce"))
			c, err := kdrpc.Connect(t.Context(), dial(p.at()), kdrpc.Open{Link: link, Config: target.Config{Break: true}})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(context.Background(), target.LeaveRunning)
			targettest.Await(t.Context(), t, c, target.EventHalted)
			stood := m.Stats().Ticks
			time.Sleep(50 * time.Millisecond)
			if n := m.Stats().Ticks; n != stood {
				t.Fatalf("the machine runs although it is halted: %d ticks", n-stood)
			}
			if err := end(p, c); err != nil {
				t.Fatal(err)
			}
			if code := p.wait(); code != exitOK {
				t.Errorf("exit %d\n%s", code, p.errs)
			}
			await(t, "the machine runs on", func() bool { return m.Stats().Ticks > stood })
		})
	}
}

// What runs is shown, with the figures of its links, as text and as JSON; who
// is gone is not.
func TestStatus(t *testing.T) {
	shortRunDir(t)
	show := func(args ...string) (string, int) {
		out := new(captured.Text)
		code := run(t.Context(), append([]string{"-status"}, args...), noEnv, out, out)
		return out.String(), code
	}
	if text, code := show(); code != exitNone || !strings.Contains(text, "no kdsrv of this user") {
		t.Errorf("without any: exit %d\n%s", code, text)
	}
	if text, code := show("-json"); code != exitNone || !strings.HasPrefix(text, "[]\n") {
		t.Errorf("without any: exit %d\n%s", code, text)
	}
	_, link := machine(t)
	a := startProcess(t, command(t, "-t", "tcp:port=0,password=geheim", "-noannounce"))
	b := startProcess(t, command(t, "-t", "tcp:port=0,hidden", "-noannounce"))
	to := a.at()
	to.Password = "geheim"
	c, err := kdrpc.Connect(t.Context(), dial(to), kdrpc.Open{Link: link, Owner: "ann@lab", Config: target.Config{Break: true}})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(context.Background(), target.LeaveRunning)
	targettest.Await(t.Context(), t, c, target.EventHalted)
	text, code := show()
	if code != exitOK || strings.Count(text, "kdsrv ") != 2 || !strings.Contains(text, "held by ann@lab") || !strings.Contains(text, ": halted since") || strings.Contains(text, "geheim") {
		t.Errorf("exit %d\n%s", code, text)
	}
	text, code = show("-json")
	var servers []status.Server
	if err := json.Unmarshal([]byte(text), &servers); err != nil || code != exitOK || len(servers) != 2 {
		t.Fatalf("exit %d, %v\n%s", code, err, text)
	}
	s := servers[0]
	if s.PID != a.cmd.Process.Pid || len(s.Sessions) != 1 || s.Sessions[0].Link.PacketsIn == 0 || s.Sessions[0].Link.RoundTrip == 0 || len(s.Clients) != 1 || s.Clients[0].BytesOut == 0 {
		t.Errorf("%s", text)
	}
	b.cmd.Process.Kill()
	b.wait()
	if text, _ := show(); strings.Count(text, "kdsrv ") != 1 {
		t.Errorf("one was killed:\n%s", text)
	}
}

// Metrics and audit of a whole server.
func TestMetricsAndAudit(t *testing.T) {
	shortRunDir(t)
	dir := t.TempDir()
	trail, log := filepath.Join(dir, "audit"), filepath.Join(dir, "log")
	to, _, end := startServer(t, "-t", "tcp:port=0,password=geheim", "-noannounce", "-metrics", "0", "-audit", trail, "-logfile", log)
	link := "com:pipe,port=" + socketLine(t)
	if _, err := dial(to)(t.Context()); err == nil {
		t.Error("taken without the password")
	}
	to.Password = "geheim"
	c, err := kdrpc.Connect(t.Context(), dial(to), kdrpc.Open{Link: link, Owner: "ann@lab"})
	if err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(log)
	m := regexp.MustCompile(`address=(http://127\.0\.0\.1:\d+/metrics)`).FindSubmatch(text)
	if m == nil {
		t.Fatalf("the log does not tell the address:\n%s", text)
	}
	client := http.Client{Timeout: captured.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	metrics := func() string {
		r, err := client.Get(string(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		body, _ := io.ReadAll(r.Body)
		return string(body)
	}
	// What was refused knows it before it is written down.
	const refused = `kdsrv_audit_events_total{event="refuse"} 1`
	body := metrics()
	for end := time.Now().Add(captured.Patience); !strings.Contains(body, refused) && time.Now().Before(end); body = metrics() {
		time.Sleep(time.Millisecond)
	}
	for _, want := range []string{"kdsrv_clients 1\n", refused, `kdsrv_audit_events_total{event="lease"} 1`, `kdsrv_sessions{state=`, `kdsrv_link_bytes_total{direction="in",line="COM:Pipe`} {
		if !strings.Contains(body, want) {
			t.Errorf("the metrics lack %q", want)
		}
	}
	c.Close(t.Context(), target.LeaveRunning)
	end()
	file, err := os.Open(trail)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var events []string
	for sc := bufio.NewScanner(file); sc.Scan(); {
		var line struct{ Audit, Peer, Door, Reason string }
		if err := json.Unmarshal(sc.Bytes(), &line); err != nil {
			t.Errorf("%v: %s", err, sc.Text())
		}
		events = append(events, line.Audit)
		if line.Audit == "refuse" && (line.Peer == "" || !strings.HasPrefix(line.Door, "tcp:Port=") || line.Reason != "no password was given") {
			t.Errorf("%s", sc.Text())
		}
		if strings.Contains(sc.Text(), "geheim") {
			t.Errorf("the password is in the audit: %s", sc.Text())
		}
	}
	for _, want := range []string{"start", "refuse", "connect", "lease", "end", "disconnect", "stop"} {
		if !strings.Contains(" "+strings.Join(events, " ")+" ", " "+want+" ") {
			t.Errorf("the audit lacks %s: %v", want, events)
		}
	}
}

// A service manager opens the socket, long before the server runs; who has
// connected meanwhile is served, and the manager is told when.
func TestSocketActivation(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there is no socket activation on Windows")
	}
	shortRunDir(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	socket, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	port := ln.Addr().(*net.TCPAddr).Port
	manager := filepath.Join(filepath.Dir(os.Getenv(rundir.Env)), "notify")
	told, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: manager, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer told.Close()
	news := func() string {
		b := make([]byte, 4096)
		told.SetReadDeadline(time.Now().Add(30 * time.Second))
		n, err := told.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		return string(b[:n])
	}
	to := connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: port}
	early := make(chan error, 1)
	go func() {
		c, err := transport.Dial(context.Background(), to, transport.Options{Handshake: time.Minute})
		if err == nil {
			c.Close()
		}
		early <- err
	}()
	activate := func(args ...string) *exec.Cmd {
		// The shell is there for its process id, which becomes the server's.
		sh := append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, os.Args[0]}, args...)
		cmd := exec.Command("/bin/sh", sh...)
		cmd.Env = append(os.Environ(), asMain+"=1", "LISTEN_FDS=1", "NOTIFY_SOCKET="+manager)
		cmd.ExtraFiles = []*os.File{socket}
		return cmd
	}
	if out, err := activate("-t", "tcp:port=0", "-noannounce").CombinedOutput(); err == nil || !strings.Contains(string(out), "no -t names its port") {
		t.Errorf("a socket without a door: %v\n%s", err, out)
	}
	p := startProcess(t, activate("-t", fmt.Sprintf("tcp:port=%d", port), "-t", "tcp:port=0", "-noannounce"))
	ln.Close() // the server has its own
	if p.at().Port != port {
		t.Errorf("it says %s", p.line)
	}
	if err := <-early; err != nil {
		t.Errorf("who was there first: %v", err)
	}
	if s := news(); !strings.HasPrefix(s, "READY=1\n") || !strings.Contains(s, "STATUS=kdsrv: listening on tcp:Port=") {
		t.Errorf("the manager is told %q", s)
	}
	p.cmd.Process.Signal(syscall.SIGTERM)
	if s := news(); !strings.HasPrefix(s, "STOPPING=1") {
		t.Errorf("the manager is told %q", s)
	}
	if code := p.wait(); code != exitOK {
		t.Errorf("exit %d\n%s", code, p.errs)
	}
}

func TestInherited(t *testing.T) {
	pid := strconv.Itoa(os.Getpid())
	for _, c := range []struct{ pid, fds, want string }{
		{"", "", ""},
		{"1", "1", ""}, // somebody else's
		{pid, "0", ""},
		{pid, "many", "LISTEN_FDS=many"},
		{pid, "-1", "LISTEN_FDS=-1"},
		{pid, "1000", "LISTEN_FDS=1000"},
	} {
		env := map[string]string{"LISTEN_PID": c.pid, "LISTEN_FDS": c.fds}
		p, err := inherited(func(k string) string { return env[k] })
		if (c.want == "") != (err == nil) || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
		if p != nil && len(p.sockets) != 0 {
			t.Errorf("%+v: %d sockets", c, len(p.sockets))
		}
	}
}
