package repeater

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"openkd/connstr"
)

// Parse reads one side of a repeater: what -c takes (client true, the words of
// a client) or what -s takes (the words of a server).
func Parse(text string, client bool) (connstr.Transport, error) {
	word, _, _ := strings.Cut(text, ":")
	for tls, bare := range map[string]string{"ssl": "tcp", "spipe": "npipe"} {
		if strings.EqualFold(strings.TrimSpace(word), tls) {
			return connstr.Transport{}, fmt.Errorf("%s: is not for a repeater: write %s: instead and leave out proto= and the certificate; the client and the server make TLS between them and check the certificate through the repeater", tls, bare)
		}
	}
	t, err := connstr.ParseTransport(text, !client)
	if err != nil {
		return t, err
	}
	if t.Password != "" {
		return t, errors.New("password= is not for a repeater, which never sees it: leave it out; the client and the server check it through the repeater")
	}
	return t, nil
}

// Check looks at the two sides together.
func Check(server, client connstr.Transport) error {
	if server.Proto == "com" && client.Proto == "com" && comName(server.ComPort) == comName(client.ComPort) {
		return fmt.Errorf("-c and -s both name the serial port %s: a repeater stands between two lines; on one line debuggers reach each other without it", client.ComPort)
	}
	return nil
}

// comName is a serial port under one spelling.
func comName(s string) string {
	// /dev/serial/by-id. Windows has nothing of the kind, and resolves \\.\com2
	// to itself.
	if p, err := filepath.EvalSymlinks(s); err == nil && runtime.GOOS != "windows" {
		return p
	}
	s = strings.ToLower(strings.TrimPrefix(s, `\\.\`))
	if _, err := strconv.Atoi(s); err == nil {
		s = "com" + s
	}
	return s
}

// loops finds out whether the repeater would connect to itself, once for each
// connection, until nothing is left.
func (r *Repeater) loops(ctx context.Context) error {
	listens, calls, host := r.clients.Transport(), r.server, r.server.Server
	if r.callsClients {
		listens, calls, host = r.server, r.clients.Transport(), r.clients.Transport().ClientOf
	}
	reverse := r.servers != nil
	switch {
	case reverse != r.callsClients: // both sides listen, or both call
		return nil
	case listens.Proto != calls.Proto || listens.Port != calls.Port || listens.Pipe != calls.Pipe || listens.Proto == "com":
		return nil
	case !r.isLocal(ctx, host):
		return nil
	}
	return fmt.Errorf("-c and -s name the same door of this machine (%s): the repeater would connect to itself", calls)
}

func (r *Repeater) isLocal(ctx context.Context, host string) bool {
	host = strings.TrimPrefix(host, `\\`)
	if h, err := os.Hostname(); err == nil && strings.EqualFold(h, host) {
		return true
	}
	if host == "." || strings.EqualFold(host, "localhost") {
		return true
	}
	own, _ := net.InterfaceAddrs()
	for _, a := range r.lookUp(ctx, host) {
		if a.IsLoopback() || a.IsUnspecified() {
			return true
		}
		for _, n := range own {
			if p, err := netip.ParsePrefix(n.String()); err == nil && p.Addr().Unmap() == a {
				return true
			}
		}
	}
	return false
}

// lookUp returns the addresses of a host, none if they cannot be had.
func (r *Repeater) lookUp(ctx context.Context, host string) []netip.Addr {
	host = strings.TrimPrefix(host, `\\`)
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	ctx, cancel := context.WithTimeout(ctx, r.o.Within)
	defer cancel()
	l, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		r.log.Warn("the addresses of a host are not known", "host", host, "error", err)
	}
	for i := range l {
		l[i] = l[i].Unmap().WithZone("")
	}
	return l
}

// isNamed says whether a server that connects in comes from the machine that
// clicon= names. It proves nothing: a server may be behind an address of
// somebody else. But it keeps strangers from standing in the way.
func (r *Repeater) isNamed(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return false
	}
	ip := t.AddrPort().Addr().Unmap().WithZone("")
	for _, n := range r.names {
		if n == ip {
			return true
		}
	}
	return false
}
