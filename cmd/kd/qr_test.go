package main

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"openkd/connstr"
	"openkd/discovery"
	"openkd/internal/shortdir"
	"openkd/rundir"
)

// TestServerLists plays transcripts that nobody else's servers may disturb.
func TestServerLists(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the machines of the transcripts are served at Unix sockets")
	}
	t.Setenv(rundir.Env, filepath.Join(shortdir.New(t), "run"))
	family(t, filepath.Join("testdata", "alone", "servers.txtar"), buildPrograms(t))
}

func running(kind discovery.Kind, text, host, addr string) discovery.Server {
	t, err := connstr.ParseTransport(text, true)
	if err != nil {
		panic(err)
	}
	s := discovery.Server{Kind: kind, Transport: t, Host: host, Release: "0.1.0"}
	if addr != "" {
		s.Addr = netip.MustParseAddr(addr)
	} else {
		s.PID = 7
	}
	return s
}

func TestListServers(t *testing.T) {
	here := []discovery.Server{
		running(discovery.Debugger, "npipe:pipe=MainPipe", "BOX17", ""),
		running(discovery.Process, "npipe:pipe=AnotherPipe", "BOX17", ""),
		running(discovery.Kernel, "npipe:pipe=KernelPipe", "BOX17", ""),
	}
	box18 := []discovery.Server{
		running(discovery.Kernel, "com:port=com1,baud=115200,channel=3", "BOX18", "192.0.2.18"),
		running(discovery.Kernel, "tcp:port=53:60,password=x", "BOX18", "192.0.2.18"),
	}
	v6 := []discovery.Server{running(discovery.Kernel, "tcp:port=5", "", "fe80::1%eth0")}
	named := []discovery.Server{box18[1]}
	named[0].NameOnly = true
	fault := errors.New("box19 does not answer")
	for _, c := range []struct {
		typed string
		json  bool
		list  []discovery.Server
		err   error
		code  int
		out   string
		errs  string
	}{
		{`\\BOX17`, false, here, nil, 0, `Servers on \\BOX17:
Debugger Server - npipe:Pipe=MainPipe
Remote Process Server - npipe:Pipe=AnotherPipe
Remote Kernel Debugger Server - npipe:Pipe=KernelPipe
`, ""},
		{"192.0.2.18", false, box18, nil, 0, `Servers on 192.0.2.18:
Remote Kernel Debugger Server - com:Port=com1,Baud=115200,Channel=3
Remote Kernel Debugger Server - tcp:Port=53:60,Password=*
`, ""},
		{"box18", false, named, nil, 0, `Servers on box18:
Remote Kernel Debugger Server - tcp:Port=53:60,Password=*,Server=192.0.2.18
`, ""},
		{"box19", false, nil, nil, 0, "Servers on box19:\nNo servers were found.\n", ""},
		{"box19", false, nil, fault, exitNoConnect, "", "kd: box19 does not answer\n"},
		{"", false, nil, nil, 0, "Servers on this machine and its networks:\nNo servers were found.\n", ""},
		{"", false, append(append(here[2:], box18...), v6...), fault, 0, `Servers on BOX17 (this machine):
Remote Kernel Debugger Server - npipe:Pipe=KernelPipe,Server=localhost
Servers on BOX18 (192.0.2.18):
Remote Kernel Debugger Server - com:Port=com1,Baud=115200,Channel=3
Remote Kernel Debugger Server - tcp:Port=53:60,Password=*,Server=192.0.2.18
Servers on fe80::1%eth0:
Remote Kernel Debugger Server - tcp:Port=5,Server=fe80::1%eth0
`, "kd: box19 does not answer\n"},
		{"", true, nil, nil, 0, "", ""},
		{"", true, append(here[:1:1], v6...), nil, 0, `{"type":"server","kind":"debugger","transport":"npipe:Pipe=MainPipe","connect":"npipe:Pipe=MainPipe,Server=localhost","host":"BOX17","pid":7,"release":"0.1.0"}
{"type":"server","kind":"kernel","transport":"tcp:Port=5","connect":"tcp:Port=5,Server=fe80::1%eth0","address":"fe80::1%eth0","release":"0.1.0"}
`, ""},
		{`\\box18`, true, box18[1:], nil, 0, `{"type":"server","kind":"kernel","transport":"tcp:Port=53:60,Password=*","connect":"tcp:Port=53:60,Password=*,Server=box18","host":"BOX18","address":"192.0.2.18","release":"0.1.0"}
`, ""},
	} {
		browse := func(_ context.Context, host string) ([]discovery.Server, error) {
			if host != c.typed {
				t.Errorf("asked for %q", host)
			}
			return c.list, c.err
		}
		var out, errs bytes.Buffer
		code := listServers(t.Context(), c.typed, c.json, browse, &out, &errs)
		if code != c.code || out.String() != c.out || errs.String() != c.errs {
			t.Errorf("-QR %s: exit %d, want %d\n%s%s", c.typed, code, c.code, out.String(), errs.String())
		}
		// What is shown can be pasted back, with the password in place of its star.
		for _, m := range regexp.MustCompile(`(?m) - (\S+)$|"connect":"([^"]*)"`).FindAllStringSubmatch(out.String(), -1) {
			text := strings.Replace(m[1]+m[2], "Password=*", "Password=real", 1)
			if !strings.Contains(text, "Server=") && !strings.HasPrefix(text, "com:") {
				text += ",Server=box"
			}
			if _, err := connstr.ParseKernel("kdsrv:server=@{" + text + "},trans=@{com:port=com1}"); err != nil {
				t.Error(err)
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var out, errs bytes.Buffer
	if code := listServers(ctx, "", false, func(ctx context.Context, _ string) ([]discovery.Server, error) { return nil, ctx.Err() }, &out, &errs); code != exitNoConnect || !strings.Contains(errs.String(), "interrupted") {
		t.Errorf("%d %s%s", code, out.String(), errs.String())
	}
}

// TestFoundOnTheNetwork: a server of another user of this machine, whose list
// is not to be read here, is found by multicast and can be reached.
func TestFoundOnTheNetwork(t *testing.T) {
	srv := buildPrograms(t)
	t.Setenv(rundir.Env, filepath.Join(shortdir.New(t), "theirs"))
	cmd, port := srv.start(t)
	defer func() { cmd.Process.Kill(); wait(cmd) }()
	t.Setenv(rundir.Env, filepath.Join(shortdir.New(t), "ours"))
	want := "tcp:Port=" + strconv.Itoa(port) + ",Password=*,Server=localhost\n"
	var out, errs bytes.Buffer
	for end := time.Now().Add(patience); ; {
		out.Reset()
		code := run([]string{"-QR"}, nil, &out, &errs)
		if code != 0 {
			t.Fatalf("exit %d: %s", code, errs.String())
		}
		if strings.Contains(out.String(), want) {
			return
		}
		if !multicastWorks(t) {
			t.Skip("no multicast on this machine")
		}
		if time.Now().After(end) {
			t.Fatalf("not found: %s", out.String())
		}
	}
}

// multicastWorks says whether what is sent to a group comes back on this machine.
func multicastWorks(t *testing.T) bool {
	t.Helper()
	l, err := net.ListenMulticastUDP("udp4", nil, &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251)})
	if err != nil {
		return false
	}
	defer l.Close()
	l.SetDeadline(time.Now().Add(time.Second))
	to := &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: l.LocalAddr().(*net.UDPAddr).Port}
	if _, err := l.WriteToUDP([]byte("hello"), to); err != nil {
		return false
	}
	_, _, err = l.ReadFromUDP(make([]byte, 10))
	return err == nil
}
