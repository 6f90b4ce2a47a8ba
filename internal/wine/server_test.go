//go:build linux

package wine

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"openkd/internal/ports"
)

// refusals: what is told to who is not let in, and to who cannot open a door.
func (l *lab) refusals(t *testing.T) {
	srv := l.serve(t, "kdsrv.exe", "npipe:pipe=refusals"+pw, "-t", "tcp:port=30000:39999"+pw)
	tcp := "tcp:server=127.0.0.1,port=" + srv.port()
	m := newMachine(t)
	for _, c := range []struct {
		name, kd, server string
		code             int
		want             string
	}{
		{"a wrong password", "kd.exe", "npipe:server=.,pipe=refusals,password=wrong", 4, `password refused by \\.\pipe\refusals (error 0x80004005)`},
		{"a wrong password, from elsewhere", "kd", tcp + ",password=wrong", 4, "password refused by 127.0.0.1:" + srv.port() + " (error 0x80004005)"},
		{"no password", "kd.exe", tcp, 4, "asks for a password (error 0x80004005)"},
		{"the star of a list", "kd.exe", tcp + ",password=*", 1, "write the real one"},
		{"a pipe that is not there", "kd.exe", "npipe:server=.,pipe=nobody", 4, "is kdsrv -t npipe:pipe=nobody running there?"},
		{"a pipe of another system", "kd", "npipe:server=192.0.2.1,pipe=refusals", 4, "use tcp or ssl, as in"},
	} {
		t.Run(c.name, func(t *testing.T) {
			kd := l.start(t, "", c.kd, "-k", through(c.server, m.TCP()))
			if code := kd.end(); code != c.code || !strings.Contains(kd.err.String(), c.want) {
				t.Errorf("exit code %d, %q", code, kd.err.String())
			}
		})
	}
	if log := srv.err.String(); strings.Count(log, "wrong password") != 2 || strings.Contains(log, password) {
		t.Errorf("the log tells the password, or not the refusals:\n%s", log)
	}
	for _, c := range []struct {
		name string
		args []string
		want string
	}{
		{"a pipe that is there", []string{"-t", "npipe:pipe=REFUSALS"}, "the pipe name REFUSALS is in use by another server"},
		{"a port that is taken", []string{"-t", "npipe:pipe=half", "-t", "tcp:port=" + srv.port()}, "port " + srv.port() + " is taken by another program"},
		{"an account that is not there", []string{"-t", "npipe:pipe=x", "-pipeusers", "no-such-account"}, `"no-such-account", who is to use it, is no account that this machine knows`},
		{"a certificate that is not there", []string{"-t", "ssl:proto=tls13,machuser=no-such,port=0"}, "machine's store of certificates"},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := l.start(t, "", "kdsrv.exe", append([]string{"-noannounce"}, c.args...)...)
			if code := p.end(); code != 2 || !strings.Contains(p.err.String(), c.want) || p.out.String() != "" {
				t.Errorf("exit code %d, %q", code, p.err.String())
			}
		})
	}
}

// status: a server tells what it does, to kdsrv.exe -status, to its client, to
// Prometheus and in its audit, until the client ends it.
func (l *lab) status(t *testing.T) {
	none := l.start(t, "", "kdsrv.exe", "-status")
	if code := none.end(); code != 3 || !strings.Contains(none.err.String(), "no kdsrv of this user runs") {
		t.Errorf("without a server: exit code %d, %q", code, none.err.String())
	}
	metrics := "127.0.0.1:" + fmt.Sprint(ports.TCP(t))
	srv := l.serve(t, "kdsrv.exe", "npipe:pipe=told"+pw, "-metrics", metrics, "-audit", `C:\kdsrv.audit`)
	l.burnOf(t, "status", "openkd-status-")

	m := newMachine(t)
	link := m.TCP()
	stdin, typed := io.Pipe()
	defer typed.Close()
	kd := l.startTyping(t, stdin, "kd.exe", "-kqm", "-k", through("npipe:server=.,pipe=told"+pw, link))
	kd.shows(`kd> $`)
	st := l.start(t, "", "kdsrv.exe", "-status")
	if code := st.end(); code != 0 {
		t.Errorf("-status: exit code %d, %q", code, st.err.String())
	}
	st.shows(`(?s)npipe:Pipe=told,Password=\* at \\\\\.\\pipe\\told: 1 client, .*halted since.*held by .*Clients: 1 of`)
	if r, err := (&http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + metrics + "/metrics"); err != nil {
		t.Error(err)
	} else {
		text, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if !strings.Contains(string(text), "\nkdsrv_clients 1\n") {
			t.Errorf("the figures:\n%s", text)
		}
	}
	io.WriteString(typed, ".psrvstatus\n")
	kd.shows(`(?s)npipe:Pipe=told,Password=\* at .*kd> $`)

	io.WriteString(typed, ".endpsrv\n")
	if code := srv.end(); code != 0 {
		t.Errorf("kdsrv.exe ended with %d after .endpsrv", code)
	}
	kd.shows(`The connection server ends`)
	m.untouched()
	typed.Close()
	kd.end()
	audit, err := os.ReadFile(filepath.Join(l.prefix, "drive_c", "kdsrv.audit"))
	for _, event := range []string{"start", "connect", "lease", "endpsrv", "end", "disconnect", "stop"} {
		if !strings.Contains(string(audit), `"audit":"`+event+`"`) {
			t.Errorf("the audit does not tell %q (%v):\n%s", event, err, audit)
		}
	}
}

// firewall: IcfEnable asks Windows for a rule. Wine's netsh does nothing and
// says yes to everything; the one of another release may say no.
func (l *lab) firewall(t *testing.T) {
	srv := l.serve(t, "kdsrv.exe", "npipe:pipe=wall,IcfEnable"+pw, "-t", "tcp:port=30000:39999,IcfEnable"+pw)
	srv.tells(`IcfEnable: .*firewall rule OpenKD-kdsrv-npipe `)
	srv.tells(`IcfEnable: .*firewall rule OpenKD-kdsrv-TCP-` + srv.port())
}

// burnOf is burn for the pipes whose names follow from files in a folder of
// the run directory.
func (l *lab) burnOf(t *testing.T, folder, prefix string) {
	t.Helper()
	files := filepath.Join(l.prefix, "drive_c", "users", "*", "AppData", "Local", "OpenKD", "run", folder, "*")
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		if list, _ := filepath.Glob(files); len(list) > 0 {
			for _, f := range list {
				l.burn(t, `\\.\pipe\`+prefix+filepath.Base(f))
			}
			return
		}
		if time.Now().After(end) {
			t.Fatalf("nothing in %s", files)
		}
	}
}
