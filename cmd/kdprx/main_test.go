package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"openkd/connstr"
	"openkd/internal/captured"
	"openkd/internal/shortdir"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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
		{"", 1, "", "kdprx -p -c tcp:server="},
		{"-?", 0, "-logfile file", ""},
		{"/?", 0, "exit code: 0 ended, 1", ""},
		{"-version", 0, "OpenKD repeater", ""},
		{"-p", 1, "", "-c is missing"},
		{"-s tcp:port=1", 1, "", "-c is missing"},
		{"-c tcp:server=h,port=1", 1, "", "-s is missing"},
		{"-s", 1, "", "-s needs a value, as in -s tcp:port=9001"},
		{"tcp:port=1", 1, "", "is not an option"},
		{"-t tcp:port=1", 1, "", "-t is not an option of kdprx"},
		{"-s tcp:port=1 -s tcp:port=2", 1, "", "-s is given twice"},
		{"-s tcp:port=x -c tcp:server=h,port=1", 1, "", "-s: connection string"},
		{"-s tcp:port=1 -c tcp:port=1", 1, "", "-c: connection string"},
		{"-s tcp:port=1,password=verysecret -c tcp:server=h,port=1", 1, "", "-s: password= is not for a repeater"},
		{"-s tcp:port=1 -c tcp:server=h,port=1,password=verysecret", 1, "", "-c: password= is not for a repeater"},
		{"-s ssl:proto=tls13,certuser=x,port=1 -c tcp:server=h,port=1", 1, "", "-s: ssl: is not for a repeater: write tcp: instead"},
		{"-s tcp:port=1 -c spipe:proto=tls13,certuser=x,pipe=p,server=h", 1, "", "write npipe: instead"},
		{"-s com:port=com2,baud=9600,channel=1 -c com:port=COM2,baud=9600,channel=2", 1, "", "both name the serial port"},
		{"-pipeusers ann;;ben -s npipe:pipe=x -c tcp:server=h,port=1", 1, "", "a name is missing"},
		{"-s tcp:port=0,clicon=h -c tcp:server=h,port=1", 1, "", "port=0"},
		{"-s tcp:port=1:5,clicon=h -c tcp:server=h,port=1", 1, "", "only the side that listens"},
		{fmt.Sprintf("-s tcp:port=%d -c tcp:server=192.0.2.1,port=1", busy), 2, "", "taken by another program"},
		{fmt.Sprintf("-s tcp:port=0 -c tcp:clicon=192.0.2.1,port=%d", busy), 2, "", "taken by another program"},
		{"-s tcp:port=23456 -c tcp:server=localhost,port=23456", 2, "", "connect to itself"},
		{"-s tcp:port=0 -c tcp:server=h,port=1 -logfile " + filepath.Join(shortdir.New(t), "no", "such"), 2, "", "log file"},
	} {
		out, errs := new(captured.Text), new(captured.Text)
		code := run(t.Context(), strings.Fields(c.args), out, errs)
		if code != c.code || !strings.Contains(out.String(), c.out) || !strings.Contains(errs.String(), c.stderr) || c.out == "" && out.String() != "" {
			t.Errorf("kdprx %s: exit %d, want %d\n%s%s", c.args, code, c.code, out, errs)
		}
		if strings.Contains(errs.String(), "verysecret") {
			t.Errorf("kdprx %s: the password is printed", c.args)
		}
	}
}

// launch runs kdprx in this process until it says where it listens.
func launch(t *testing.T, args ...string) (line string, errs *captured.Text, end func() int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	out, errs := new(captured.Text), new(captured.Text)
	code, ended := make(chan int, 1), make(chan struct{})
	go func() { defer close(ended); code <- run(ctx, args, out, errs) }()
	end = sync.OnceValue(func() int { cancel(); return <-code })
	t.Cleanup(func() { end() })
	line, ok := out.WaitUnless(ended, func(text string) bool { return strings.HasSuffix(text, "\n") })
	if !ok {
		t.Fatalf("it says %q\nexit %d: %s", line, end(), errs)
	}
	return line, errs, end
}

func TestPasses(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	to := fmt.Sprintf("tcp:server=127.0.0.1,port=%d", server.Addr().(*net.TCPAddr).Port)
	logFile := filepath.Join(shortdir.New(t), "kdprx.log")
	line, errs, end := launch(t, "/P", "-S", "tcp:port=0", "-c", to, "-logfile", logFile, "-v")
	m := regexp.MustCompile(`^kdprx: passing tcp:Port=(\d+) on to tcp:Port=\d+,Server=127\.0\.0\.1 \(connect with kd -k "kdsrv:server=@\{tcp:server=[^,]+,port=(\d+)\},trans=@\{com:port=<device>,baud=115200\}", with the server's password= if it has one\)\n$`).FindStringSubmatch(line)
	if m == nil || m[1] != m[2] {
		t.Fatalf("it says %q", line)
	}
	c, err := net.Dial("tcp", "127.0.0.1:"+m[1])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	io.WriteString(c, "hello")
	got := make([]byte, 5)
	if _, err := io.ReadFull(s, got); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	if code := end(); code != exitOK {
		t.Errorf("exit %d after a signal", code)
	}
	for _, x := range []net.Conn{c, s} {
		x.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := x.Read(got); err == nil || os.IsTimeout(err) {
			t.Error("a connection outlives the repeater")
		}
	}
	if errs.String() != "" {
		t.Errorf("on standard error, with a log file:\n%s", errs)
	}
	log, _ := os.ReadFile(logFile)
	for _, want := range []string{"started", "msg=connected client=127.0.0.1:", "to_server=5", "msg=ended"} {
		if !strings.Contains(string(log), want) {
			t.Errorf("the log lacks %q:\n%s", want, log)
		}
	}
}

// Without -p it ends by itself.
func TestEnds(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	line, errs, _ := launch(t, "-s", "tcp:port=0", "-c", fmt.Sprintf("tcp:server=127.0.0.1,port=%d", server.Addr().(*net.TCPAddr).Port))
	c, err := net.Dial("tcp", "127.0.0.1:"+regexp.MustCompile(`Port=(\d+)`).FindStringSubmatch(line)[1])
	if err != nil {
		t.Fatal(err)
	}
	s, err := server.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	s.Close()
	for end := time.Now().Add(20 * time.Second); !strings.Contains(errs.String(), `reason="the last connection ended"`); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not end:\n%s", errs)
		}
	}
}

func TestAnnounce(t *testing.T) {
	for _, c := range []struct {
		client, server connstr.Transport
		want           []string
	}{
		{connstr.Transport{Proto: "tcp", Port: 9001}, connstr.Transport{Proto: "tcp", Port: 9000, PortHigh: 9010, ClientOf: "10.0.0.10"},
			[]string{"passing tcp:Port=9001 on to tcp:Port=9000:9010,CliCon=10.0.0.10 (", "connect with kd -k", "port=9001}", "; on 10.0.0.10 connect in with kdsrv -t tcp:clicon=", ",port=9000)"}},
		{connstr.Transport{Proto: "tcp", Port: 9001, ClientOf: "10.0.0.9", IPv6: true}, connstr.Transport{Proto: "com", ComPort: "com2", Baud: 9600, Channel: 3},
			[]string{"on to com:Port=com2,Baud=9600,Channel=3 (", "on 10.0.0.9 wait with kd -k", "server=@{tcp:clicon=", ",port=9001,ipversion=6}"}},
		{connstr.Transport{Proto: "npipe", Pipe: "near"}, connstr.Transport{Proto: "npipe", Server: "far", Pipe: "kd"},
			[]string{"npipe:Pipe=near on to npipe:Pipe=kd,Server=far (", "server=@{npipe:server=", ",pipe=near}"}},
		{connstr.Transport{Proto: "com", ComPort: "com1", Baud: 115200, Channel: 7}, connstr.Transport{Proto: "tcp", Server: "far", Port: 1},
			[]string{"server=@{com:port=<your port>,baud=115200,channel=7}"}},
	} {
		got := announce(c.client, c.server)
		for _, w := range c.want {
			if !strings.Contains(got, w) {
				t.Errorf("%q lacks %q", got, w)
			}
		}
		if strings.Contains(got, "\n") {
			t.Errorf("more than a line: %q", got)
		}
	}
}
