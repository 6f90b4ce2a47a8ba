package carrier

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"openkd/connstr"
)

// A dead peer of an idle connection is noticed by the system within half a
// minute; kdrpc's own pings are quicker and see more.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}

func tcpNetwork(t connstr.Transport) string {
	if t.IPv6 {
		return "tcp6"
	}
	return "tcp"
}

// dialTCP connects to host, which is t.Server or t.ClientOf.
func dialTCP(ctx context.Context, t connstr.Transport, host string) (net.Conn, error) {
	host = strings.TrimPrefix(host, `\\`)
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if host == "" {
		return nil, fmt.Errorf("%s: server= is missing: which host runs kdsrv?", t.Proto)
	}
	if t.Port <= 0 {
		return nil, fmt.Errorf("%s: port= is missing: which port is listened on?", t.Proto)
	}
	addr := net.JoinHostPort(host, strconv.Itoa(t.Port))
	d := net.Dialer{KeepAliveConfig: keepAlive}
	c, err := d.DialContext(ctx, tcpNetwork(t), addr)
	if err != nil {
		if errors.Is(err, errConnRefused) {
			return nil, fmt.Errorf("connecting to %s: %w: does anything listen there, on this port?", addr, err)
		}
		return nil, fmt.Errorf("connecting to %s: %w", addr, err)
	}
	return c, nil
}

type tcpListener struct {
	net.Listener
	t connstr.Transport
}

func (l tcpListener) Transport() connstr.Transport { return l.t }

func listenTCP(ctx context.Context, t connstr.Transport, host string) (Listener, error) {
	if t.Port == connstr.AnyPort {
		t.Port = 0
	}
	high := max(t.Port, t.PortHigh)
	if t.PortHigh != 0 && t.PortHigh < t.Port {
		return nil, fmt.Errorf("%s: the range port=%d:%d ends before it begins", t.Proto, t.Port, t.PortHigh)
	}
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	var ln net.Listener
	var first error
	for port := t.Port; port <= high && ln == nil; port++ {
		l, err := lc.Listen(ctx, tcpNetwork(t), net.JoinHostPort(host, strconv.Itoa(port)))
		if err == nil {
			ln = l
		} else if first == nil {
			first = err
		}
	}
	if ln == nil {
		switch {
		case high > t.Port:
			return nil, fmt.Errorf("%s: no port of %d:%d can be listened on; the first says: %w", t.Proto, t.Port, high, first)
		case errors.Is(first, errAddrInUse):
			return nil, fmt.Errorf("%s: port %d is taken by another program: choose another or a range like port=%d:%d: %w", t.Proto, t.Port, t.Port, t.Port+9, first)
		case errors.Is(first, errNotAllowed):
			return nil, fmt.Errorf("%s: port %d is not allowed to this user: choose one above 1023: %w", t.Proto, t.Port, first)
		}
		return nil, fmt.Errorf("%s: cannot listen: %w", t.Proto, first)
	}
	return takeSocket(t, ln), nil
}

func takeSocket(t connstr.Transport, ln net.Listener) Listener {
	if a, ok := ln.Addr().(*net.TCPAddr); ok {
		t.Port = a.Port
	}
	return tcpListener{ln, t}
}
