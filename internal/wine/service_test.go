//go:build linux

package wine

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"openkd/connstr"
	"openkd/kdrpc"
	"openkd/target"
	"openkd/target/targettest"
	"openkd/transport"
)

// service is kdsrv as a service of Windows: made, started, used, stopped while
// it holds a target, and gone. Wine runs every service as the same user, so
// what the account of the service may do is not shown.
func (l *lab) service(t *testing.T) {
	// Wine starts no services in the session that has made the prefix, and ends
	// them with the last program that is none.
	for _, arg := range []string{"-k", "-w", "-p30"} {
		l.tool("wineserver", arg)
	}
	l.start(t, "", "kdsrv.exe", "-noannounce", "-t", "npipe:pipe=awake").shows("listening on")
	if p := l.start(t, "", "kdsrv.exe", "-status"); p.end() != 0 || !strings.Contains(p.out.String(), "npipe:Pipe=awake") {
		t.Errorf("-status: %s%s", p.out.String(), p.err.String())
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0") // for a number that is free
	if err != nil {
		t.Fatal(err)
	}
	port := ln.Addr().(*net.TCPAddr).Port
	ln.Close()
	pw := filepath.Join(l.prefix, "drive_c", "kdsrv.pw")
	if err := os.WriteFile(pw, []byte(password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := l.start(t, "", "kdsrv.exe", "-install", "-noannounce", "-t", fmt.Sprintf("tcp:port=%d", port), "-passwordfile", `C:\kdsrv.pw`)
	if code := p.end(); code != 0 || !strings.Contains(p.out.String(), "It runs.") {
		t.Fatalf("-install: exit code %d\n%s", code, p.out.String())
	}
	log := filepath.Join(l.prefix, "drive_c", "ProgramData", "OpenKD", "kdsrv.log")
	defer func() {
		if t.Failed() {
			text, _ := os.ReadFile(log)
			t.Logf("the log of the service:\n%s", text)
		}
	}()
	if p := l.start(t, "", "kdsrv.exe", "-install", "-t", "tcp:port=1"); p.end() == 0 || !strings.Contains(p.err.String(), "is there already") {
		t.Errorf("-install again: %s", p.err.String())
	}
	m := newMachine(t)
	to := connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: port, Password: password}
	dial := func(ctx context.Context) (net.Conn, error) { return transport.Dial(ctx, to, transport.Options{}) }
	var c *kdrpc.Client
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		if c, err = kdrpc.Connect(t.Context(), dial, kdrpc.Open{Link: m.TCP(), Config: target.Config{Break: true}}); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	defer c.Close(context.Background(), target.LeaveRunning)
	targettest.Await(t.Context(), t, c, target.EventHalted)
	stood := m.Stats().Ticks

	p = l.start(t, "", "kdsrv.exe", "-uninstall")
	if code := p.end(); code != 0 || !strings.Contains(p.out.String(), "is removed") {
		t.Errorf("-uninstall: exit code %d\n%s", code, p.out.String())
	}
	for end := time.Now().Add(patience); m.Stats().Ticks == stood; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the service was stopped, and its target stands")
		}
	}
	if text, _ := os.ReadFile(log); !strings.Contains(string(text), "msg=ended") || strings.Contains(string(text), password) {
		t.Error("the log of the service does not tell its end, or tells the password")
	}
	if p := l.start(t, "", "kdsrv.exe", "-uninstall"); p.end() == 0 || !strings.Contains(p.err.String(), "no service is installed") {
		t.Errorf("-uninstall again: %s", p.err.String())
	}
}
