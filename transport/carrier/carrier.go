// Package carrier moves bytes between debuggers over whatever lies between
// them: TCP, named pipes, channels of a serial line, in either direction of
// connecting.
//
// A carrier trusts nobody and hides nothing: encryption and passwords are
// package transport's, which runs over carriers. Only a repeater, which passes
// bytes through untouched, uses them bare. ssl is carried as tcp is, spipe as
// npipe is (Microsoft: "Repeaters", "KdSrv Command-Line Options").
package carrier

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"

	"openkd/connstr"
	"openkd/transport/comline"
)

// Listener hands out streams as they come in.
//
// Concurrency: as net.Listener. Accepted streams outlive the listener.
type Listener interface {
	net.Listener
	// Transport is what was asked for, with the port or the name that was
	// really taken.
	Transport() connstr.Transport
}

// Options tune Listen, Dial and Await. The zero value is right for production.
type Options struct {
	Logger *slog.Logger  // nil: nothing is logged
	Within time.Duration // bounds one attempt to connect; 0: 10 s
	// PipeUsers may use a named pipe besides its owner and the administrators:
	// account names or SIDs on Windows, ignored elsewhere.
	PipeUsers []string
	// Socket is a listening socket for a tcp or ssl door that was opened
	// already (socket activation). Listen takes it over.
	Socket net.Listener
	// Lines are the serial lines that this process shares between its streams.
	// nil: a stream has its line for itself, and takes it along when it ends.
	Lines *comline.Lines
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Within <= 0 {
		o.Within = 10 * time.Second
	}
	if o.Lines == nil {
		o.Lines = new(comline.Lines)
	}
	return o
}

// Listen opens the server's side of a door. With ClientOf it connects out
// instead, one stream at a time, and again whenever that one has ended: see
// reverse. ctx bounds the opening only.
func Listen(ctx context.Context, t connstr.Transport, o Options) (Listener, error) {
	o = o.withDefaults()
	switch t.Proto {
	case "tcp", "ssl":
		if t.ClientOf != "" {
			return newReverse(t, o), nil
		}
		if o.Socket != nil {
			return takeSocket(t, o.Socket), nil
		}
		return listenTCP(ctx, t, t.Server)
	case "npipe", "spipe":
		return listenPipe(ctx, t, o)
	case "com":
		return listenCom(ctx, t, o)
	}
	return nil, unknown(t)
}

// Dial opens a stream to a door. ctx and Options.Within bound it.
func Dial(ctx context.Context, t connstr.Transport, o Options) (net.Conn, error) {
	o = o.withDefaults()
	ctx, cancel := context.WithTimeout(ctx, o.Within)
	defer cancel()
	switch t.Proto {
	case "tcp", "ssl":
		if t.ClientOf != "" {
			return nil, fmt.Errorf("%s with clicon= waits to be connected to; it does not connect", t.Proto)
		}
		return dialTCP(ctx, t, t.Server)
	case "npipe", "spipe":
		return dialPipe(ctx, t, o)
	case "com":
		return dialCom(ctx, t, o)
	}
	return nil, unknown(t)
}

// Await opens the client's side of a reverse connection: it listens for the
// server that connects out. Who really comes is for the layer above to find
// out: an address proves nothing.
func Await(ctx context.Context, t connstr.Transport, o Options) (Listener, error) {
	if t.ClientOf == "" || (t.Proto != "tcp" && t.Proto != "ssl") {
		return nil, fmt.Errorf("%s: only tcp and ssl with clicon= are connected to from the server's side", t.Proto)
	}
	return listenTCP(ctx, t, "")
}

func unknown(t connstr.Transport) error {
	return fmt.Errorf("unknown transport %q: there are tcp, npipe, com, spipe and ssl", t.Proto)
}

// Name tells a door in errors and logs: host:port, \\host\pipe\name, or the
// channel of a serial port.
func Name(t connstr.Transport) string {
	host := t.Server
	if t.ClientOf != "" {
		host = t.ClientOf
	}
	host = strings.TrimPrefix(host, `\\`)
	switch t.Proto {
	case "npipe", "spipe":
		if host == "" {
			host = "."
		}
		return `\\` + host + `\pipe\` + t.Pipe
	case "com":
		return fmt.Sprintf("%s channel %d", t.ComPort, t.Channel)
	}
	return net.JoinHostPort(host, fmt.Sprint(max(t.Port, 0)))
}
