package main

import (
	"context"
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"openkd/connstr"
	"openkd/transport"
)

// A range takes the first free port; that one is told, once, and kept.
func TestDoorKeepsItsPort(t *testing.T) {
	taken, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	low := taken.Addr().(*net.TCPAddr).Port
	said := &screen{changed: make(chan struct{}, 1)}
	d := &door{out: said, t: connstr.Transport{
		Proto: "tcp", ClientOf: "127.0.0.1", Port: low, PortHigh: min(low+50, 65535), Password: "secret",
	}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	type result struct {
		c   net.Conn
		err error
	}
	dialled := make(chan result, 1)
	dial := func(ctx context.Context) {
		c, err := d.dial(ctx)
		dialled <- result{c, err}
	}
	go dial(ctx)
	if !said.until(func(s string) bool { return strings.HasSuffix(s, "\n") }, patience) {
		t.Fatal("it does not say that it waits")
	}
	m := regexp.MustCompile(`^Waiting for 127\.0\.0\.1 to connect to port (\d+) of this machine; there run kdsrv -t "tcp:Port=(\d+),Password=<password>,CliCon=[^"]+"\. Ctrl\+C ends the wait\.\n$`).FindStringSubmatch(said.text())
	if m == nil || m[1] != m[2] || m[1] == strconv.Itoa(low) {
		t.Fatalf("it says %q", said.text())
	}
	port, _ := strconv.Atoi(m[1])
	l, err := transport.Listen(ctx, connstr.Transport{Proto: "tcp", ClientOf: "127.0.0.1", Port: port, Password: "secret"}, transport.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	pair := func() {
		t.Helper()
		s, err := l.Accept(ctx)
		if err != nil {
			t.Fatal(err)
		}
		r := <-dialled
		if r.err != nil {
			t.Fatal(r.err)
		}
		r.c.Close()
		s.Close()
	}
	pair()
	taken.Close() // the range has an earlier one now
	go dial(ctx)
	pair()
	l.Close()

	before := said.text()
	end, broken := context.WithCancel(ctx)
	time.AfterFunc(20*time.Millisecond, broken)
	go dial(end)
	if r := <-dialled; r.err == nil || r.err.Error() != fmt.Sprintf("the wait for 127.0.0.1 to connect to port %d was broken off", port) {
		t.Errorf("after Ctrl+C: %v", r.err)
	}
	if said.text() != before || strings.Count(before, "\n") != 1 {
		t.Errorf("it says\n%s", said.text())
	}
}
