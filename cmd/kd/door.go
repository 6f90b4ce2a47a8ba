package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"openkd/connstr"
	"openkd/transport"
)

// door is the way to the connection server, for as many connections as the
// session takes. One of them is made at a time.
type door struct {
	t   connstr.Transport
	out io.Writer // for what is said until the first connection is there
	// there says how to start what connects, with the transport as %s; "": a
	// connection server.
	there  string
	expect string // what is hoped for there; "": a connection server
	// waits is the port that a reverse connection is waited for on.
	waits int
}

func (d *door) dial(ctx context.Context) (net.Conn, error) {
	c, err := transport.Dial(ctx, d.t, transport.Options{OnListen: d.listening, Expect: d.expect})
	if err != nil && ctx.Err() == context.Canceled && d.waits != 0 {
		return nil, fmt.Errorf("the wait for %s to connect to port %d was broken off", d.t.ClientOf, d.waits)
	}
	return c, err
}

// listening tells a person what is waited for. The server is told one port, so
// after a loss it is that one that is listened on again.
func (d *door) listening(t connstr.Transport) {
	d.t.Port, d.t.PortHigh = t.Port, 0
	if d.waits != 0 {
		return
	}
	d.waits = t.Port
	there := d.t
	there.ClientOf = "<this machine>"
	if host, err := os.Hostname(); err == nil && host != "" {
		there.ClientOf = host
	}
	how := d.there
	if how == "" {
		how = "run kdsrv -t \"%s\""
	}
	fmt.Fprintf(d.out, "Waiting for %s to connect to port %d of this machine; there %s. Ctrl+C ends the wait.\n",
		d.t.ClientOf, d.waits, fmt.Sprintf(how, strings.Replace(there.String(), "Password=*", "Password=<password>", 1)))
}
