package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"openkd/connstr"
	"openkd/internal/captured"
	"openkd/internal/shortdir"
	"openkd/kdrpc"
	"openkd/rundir"
	"openkd/target"
	"openkd/transport"
)

// TestMain keeps the servers of these tests out of the list of this machine.
func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	dir, err := shortdir.Make()
	if err != nil {
		panic(err)
	}
	os.Setenv(rundir.Env, filepath.Join(dir, "run"))
	// go-winio has one for all files of a process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/Microsoft/go-winio.ioCompletionProcessor"), goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

func noEnv(string) string { return "" }

func TestCommandLine(t *testing.T) {
	taken, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	busy := taken.Addr().(*net.TCPAddr).Port
	for _, c := range []struct {
		args        string
		code        int
		out, stderr string // parts
	}{
		{"", 1, "", "kdsrv -t tcp:port=1234"},
		{"-?", 0, "-grace time", ""},
		{"/?", 0, "-grace time", ""},
		{"-version", 0, "OpenKD connection server", ""},
		{"-t", 1, "", "-t needs a value"},
		{"tcp:port=1", 1, "", "is not an option"},
		{"-t tcp", 1, "", "a transport begins with"},
		{"-t tcp:port=x", 1, "", "port=x"},
		{"-t tcp:port=1,color=red", 1, "", "color=red"},
		{"-t tcp:password=verysecret", 1, "", "port= is missing"},
		{"-t tcp:port=0,channel=3", 1, "", "channel=3"},
		{"-grace soon -t tcp:port=0", 1, "", "-grace \"soon\""},
		{"-grace -1s -t tcp:port=0", 1, "", "-grace"},
		{"-install", 1, "", "-t is missing"},
		{"-install -t tcp:port=1,password=verysecret", 1, "", "-passwordfile"},
		{"-json -t tcp:port=0", 1, "", "-json belongs to -status"},
		{"-metrics everywhere -t tcp:port=0", 2, "", "127.0.0.1:9100"},
		{"-t tcp:port=0 -audit " + filepath.Join(shortdir.New(t), "no", "such"), 2, "", "audit file"},
		{"-maxclients 0 -t tcp:port=0", 1, "", "-maxclients \"0\""},
		{"-pipeusers ann; -t npipe:pipe=x", 1, "", "-pipeusers \"ann;\": a name is missing"},
		{"-t npipe:pipe=%s", 1, "", "pipe=%s"},
		{"-frobnicate", 1, "", "-frobnicate is not an option"},
		{"-c notepad.exe", 1, "", "process servers"},
		{"-v", 1, "", "-t is missing"},
		{fmt.Sprintf("-t tcp:port=%d", busy), 2, "", "taken by another program"},
		{fmt.Sprintf("-t tcp:port=0 -t tcp:port=%d", busy), 2, "", "taken by another program"},
		{"-t tcp:port=0 -logfile " + filepath.Join(shortdir.New(t), "no", "such"), 2, "", "log file"},
	} {
		out, errs := new(captured.Text), new(captured.Text)
		code := run(t.Context(), strings.Fields(c.args), noEnv, out, errs)
		if code != c.code || !strings.Contains(out.String(), c.out) || !strings.Contains(errs.String(), c.stderr) || c.out == "" && out.String() != "" {
			t.Errorf("kdsrv %s: exit %d, want %d\n%s%s", c.args, code, c.code, out, errs)
		}
		if strings.Contains(errs.String(), "verysecret") {
			t.Errorf("kdsrv %s: the password is printed", c.args)
		}
	}
}

// startServer runs kdsrv in this process and returns where it listens.
func startServer(t *testing.T, args ...string) (to connstr.Transport, errs *captured.Text, end func() int) {
	t.Helper()
	return startWith(t, noEnv, args...)
}

func startWith(t *testing.T, getenv func(string) string, args ...string) (to connstr.Transport, errs *captured.Text, end func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, errs := new(captured.Text), new(captured.Text)
	code, ended := make(chan int, 1), make(chan struct{})
	go func() { defer close(ended); code <- run(ctx, args, getenv, out, errs) }()
	var once sync.Once
	res := 0
	end = func() int {
		once.Do(func() { cancel(); res = <-code })
		return res
	}
	t.Cleanup(func() { end() })
	began := regexp.MustCompile(`^kdsrv: listening on tcp:Port=(\d+)\S*( and \S+)* \(connect with kd -k "kdsrv:.*"\)\n$`)
	var m []string
	line, ok := out.WaitUnless(ended, func(text string) bool { m = began.FindStringSubmatch(text); return m != nil })
	if !ok {
		t.Fatalf("it says %q\nexit %d: %s", line, end(), errs)
	}
	port, _ := strconv.Atoi(m[1])
	to = connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: port}
	t.Cleanup(func() {
		if n := strings.Count(out.String(), "\n"); n != 1 {
			t.Errorf("%d lines on standard output:\n%s", n, out)
		}
	})
	return to, errs, end
}

func dial(to connstr.Transport) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) { return transport.Dial(ctx, to, transport.Options{}) }
}

// A password in a file or in the environment is that of every door without
// one, and nearer ones win.
func TestPasswordFromElsewhere(t *testing.T) {
	file := filepath.Join(shortdir.New(t), "password")
	if err := os.WriteFile(file, []byte("from the file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := func(name string) string {
		if name == "OPENKD_PASSWORD" {
			return "from the environment"
		}
		return ""
	}
	for _, c := range []struct {
		args, want string
		env        func(string) string
	}{
		{"-t tcp:port=0,password=own -passwordfile " + file, "own", env},
		{"-t tcp:port=0 -passwordfile " + file, "from the file", env},
		{"-passwordfile " + file + " -t tcp:port=0", "from the file", noEnv},
		{"-t tcp:port=0", "from the environment", env},
	} {
		to, errs, end := startWith(t, c.env, strings.Fields(c.args)...)
		for _, pw := range []string{"own", "from the file", "from the environment"} {
			to.Password = pw
			conn, err := dial(to)(t.Context())
			if err == nil {
				conn.Close()
			}
			if (err == nil) != (pw == c.want) {
				t.Errorf("kdsrv %s: password %q: %v", c.args, pw, err)
			}
		}
		end()
		if strings.Contains(errs.String(), "from the") {
			t.Errorf("kdsrv %s: the password is in the log:\n%s", c.args, errs)
		}
	}
	if runtime.GOOS != "windows" {
		os.Chmod(file, 0o644)
		errs := new(captured.Text)
		code := run(t.Context(), []string{"-t", "tcp:port=0", "-passwordfile", file}, noEnv, new(captured.Text), errs)
		if code != exitUsage || !strings.Contains(errs.String(), "chmod 600 "+file) {
			t.Errorf("a file that everybody can read: exit %d\n%s", code, errs)
		}
	}
}

// Somewhere else than on Windows IcfEnable changes nothing: it says what to
// type, to the person and not to the log.
func TestIcfEnable(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the firewall of this machine would be changed")
	}
	to, errs, end := startServer(t, "-t", "tcp:port=0,password=secret,IcfEnable", "-logfile", filepath.Join(shortdir.New(t), "log"))
	end()
	if s := errs.String(); !strings.HasPrefix(s, "kdsrv: IcfEnable: ") || !strings.Contains(s, strconv.Itoa(to.Port)) {
		t.Errorf("on standard error:\n%s", s)
	}
}

// socketLine is a Unix socket that somebody listens on, as a virtual machine
// does with its serial port.
func socketLine(t *testing.T) string {
	if runtime.GOOS == "windows" {
		t.Skip("a Unix socket is needed")
	}
	dir, err := shortdir.Make()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				buf := make([]byte, 4096)
				for err == nil {
					_, err = c.Read(buf)
				}
				c.Close()
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait(); os.RemoveAll(dir) })
	return path
}

func TestServes(t *testing.T) {
	logFile := filepath.Join(shortdir.New(t), "kdsrv.log")
	to, errs, end := startServer(t, "/T", "tcp:port=0,password=secret", "-t", "tcp:port=0,password=other", "-v", "-logfile", logFile)
	var ae *transport.AuthError
	if _, err := kdrpc.Connect(t.Context(), dial(to), kdrpc.Open{}); !errors.As(err, &ae) || ae.Reason != transport.AuthNeeded {
		t.Errorf("without the password: %v", err)
	}
	to.Password = "secreT"
	if _, err := kdrpc.Connect(t.Context(), dial(to), kdrpc.Open{}); !errors.As(err, &ae) || !strings.Contains(err.Error(), "password refused by 127.0.0.1:") {
		t.Errorf("with a wrong password: %v", err)
	}
	to.Password = "secret"
	var ref *kdrpc.Refusal
	if _, err := kdrpc.Connect(t.Context(), dial(to), kdrpc.Open{Link: "com:pipe,port=/no/such/socket"}); !errors.As(err, &ref) || !strings.Contains(err.Error(), "/no/such/socket") {
		t.Errorf("a line that is not there: %v", err)
	}
	if _, err := kdrpc.Connect(t.Context(), dial(to), kdrpc.Open{Link: "com:colour=red"}); !errors.As(err, &ref) || !strings.Contains(err.Error(), "colour=red") {
		t.Errorf("a link that is none: %v", err)
	}
	link := "com:pipe,port=" + socketLine(t)
	c, err := kdrpc.Connect(t.Context(), dial(to), kdrpc.Open{Link: link, Owner: "ann@lab"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kdrpc.Connect(t.Context(), dial(to), kdrpc.Open{Link: link, Owner: "ben@lab"}); !errors.Is(err, target.ErrLease) || !strings.Contains(err.Error(), "ann@lab") {
		t.Errorf("a second client: %v", err)
	}
	if code := end(); code != 0 {
		t.Errorf("exit %d after a signal", code)
	}
	for {
		e, err := c.Next(t.Context())
		if err != nil {
			t.Fatal("no last event")
		}
		if e.Kind == target.EventClosed {
			break
		}
	}
	c.Close(t.Context(), target.LeaveRunning)
	if errs.String() != "" {
		t.Errorf("on standard error, with a log file:\n%s", errs)
	}
	log, _ := os.ReadFile(logFile)
	for _, want := range []string{"password refused", "lease granted", "session refused", "the target is let go", "ending: told by a signal", "ended"} {
		if !strings.Contains(string(log), want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
	for _, never := range []string{"secret", "secreT", "other"} {
		if strings.Contains(strings.ReplaceAll(string(log), "another", ""), never) {
			t.Errorf("the log contains %q", never)
		}
	}
}

func TestEndpsrv(t *testing.T) {
	to, errs, end := startServer(t, "-t", "tcp:port=0", "-grace", "0s")
	c, err := kdrpc.Connect(t.Context(), dial(to), kdrpc.Open{Link: "com:pipe,port=" + socketLine(t)})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.EndServer(t.Context()); err != nil {
		t.Error(err)
	}
	for {
		if e, err := c.Next(t.Context()); err != nil || e.Kind == target.EventClosed {
			break
		}
	}
	if err := c.Close(t.Context(), target.LeaveRunning); err != nil {
		t.Error(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for !strings.Contains(errs.String(), "ending: told by a client") && time.Now().Before(deadline) {
		time.Sleep(time.Millisecond)
	}
	if code := end(); code != 0 {
		t.Errorf("exit %d", code)
	}
	for _, want := range []string{"no password", "ending: told by a client", "sessions="} {
		if !strings.Contains(errs.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, errs)
		}
	}
}
