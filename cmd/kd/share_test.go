package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"openkd/discovery"
	"openkd/internal/shortdir"
	"openkd/rundir"
)

// TestSharedIsListed: -QR names the doors of a shared session, not the hidden
// ones, and none when it is over.
func TestSharedIsListed(t *testing.T) {
	t.Setenv(rundir.Env, shortdir.New(t))
	in, keep := io.Pipe()
	out := &screen{changed: make(chan struct{}, 1)}
	code := make(chan int, 1)
	go func() {
		code <- run([]string{"-demo", "-server", "tcp:port=0,password=pw", "-server", "tcp:port=0,password=pw,hidden"}, in, out, out)
		in.Close()
	}()
	if !out.until(func(s string) bool { return atPrompt.MatchString(s) }, patience) {
		t.Fatalf("the session does not start:\n%s", out.text())
	}
	doors := doorPort.FindAllStringSubmatch(out.text(), -1)
	list := func() string {
		var b bytes.Buffer
		listServers(t.Context(), "localhost", false, discovery.Browse, &b, &b)
		return b.String()
	}
	got := list()
	if !strings.Contains(got, "Debugger Server - tcp:Port="+doors[0][1]+",Password=*\n") || strings.Contains(got, doors[1][1]) {
		t.Errorf("doors %v are listed as\n%s", doors, got)
	}
	keep.Close()
	<-code
	if got := list(); strings.Contains(got, "Debugger Server - tcp:Port="+doors[0][1]) {
		t.Errorf("it is over, and still listed:\n%s", got)
	}
}

// TestNoIO: a session without a console of its own lives on until a client ends
// it; its commands of -c run.
func TestNoIO(t *testing.T) {
	t.Setenv(rundir.Env, shortdir.New(t))
	port := freeTCP(t)
	out := &screen{changed: make(chan struct{}, 1)}
	code := make(chan int, 1)
	go func() {
		code <- run([]string{"-demo", "-noio", "-server", "tcp:port=" + port + ",password=pw,hidden", "-c", ".echo first words"}, strings.NewReader(""), out, out)
	}()
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			c.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatalf("there is no door:\n%s", out.text())
		}
	}
	client := &screen{changed: make(chan struct{}, 1)}
	in, keep := io.Pipe()
	left := make(chan int, 1)
	go func() {
		left <- run([]string{"-remote", "tcp:server=127.0.0.1,port=" + port + ",password=pw"}, in, client, client)
		in.Close()
	}()
	if !client.until(func(s string) bool { return strings.Contains(s, "first words\n") && atPrompt.MatchString(s) }, patience) {
		t.Fatalf("what -c said is not shown:\n%s", client.text())
	}
	io.WriteString(keep, "qq\n")
	for what, c := range map[string]chan int{"the session": code, "the client": left} {
		select {
		case n := <-c:
			if n != 0 {
				t.Errorf("%s ends with %d:\n%s", what, n, client.text())
			}
		case <-time.After(patience):
			t.Fatalf("%s does not end:\n%s", what, client.text())
		}
	}
	keep.Close()
	if s := out.text(); s != "" {
		t.Errorf("-noio shows %q", s)
	}
}

func freeTCP(t *testing.T) string {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return strconv.Itoa(ln.Addr().(*net.TCPAddr).Port)
}
