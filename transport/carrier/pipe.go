package carrier

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"openkd/connstr"
)

// pipeAddr is one end of a named pipe: its name, or who is behind it.
type pipeAddr string

func (pipeAddr) Network() string  { return "pipe" }
func (a pipeAddr) String() string { return string(a) }

// listenPipe makes a named pipe: one of the system on Windows, elsewhere a Unix
// socket in the run directory. A name that a live server has is an error.
func listenPipe(ctx context.Context, t connstr.Transport, o Options) (Listener, error) {
	name, err := connstr.ExpandPipe(t.Pipe, os.Getpid(), threadID())
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.Proto, err)
	}
	t.Pipe = name
	return makePipe(ctx, t, o)
}

func dialPipe(ctx context.Context, t connstr.Transport, o Options) (net.Conn, error) {
	if err := connstr.CheckPipe(t.Pipe); err != nil {
		return nil, fmt.Errorf("%s: %w", t.Proto, err)
	}
	return openPipe(ctx, t, bareHost(t.Server))
}

// pipeInUse is what the second server for a name is told.
func pipeInUse(t connstr.Transport, holder string) error {
	return fmt.Errorf("%s: the pipe name %s is in use by another server%s: choose another name, or one like %s%%x, where %%x becomes the process id", t.Proto, t.Pipe, holder, t.Pipe)
}

// bareHost is a machine as the user wrote it without what may stand around it.
func bareHost(host string) string {
	host = strings.TrimPrefix(host, `\\`)
	return strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
}

// isThisMachine says whether host is this machine by one of its own names or
// addresses. It asks nobody.
func isThisMachine(host string) bool {
	if host == "" || host == "." || strings.EqualFold(host, "localhost") {
		return true
	}
	if own, err := os.Hostname(); err == nil && strings.EqualFold(own, host) {
		return true
	}
	a, err := netip.ParseAddr(host)
	return err == nil && isOwnAddress(a)
}

func isOwnAddress(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if a.IsLoopback() {
		return true
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	for _, o := range own {
		if p, err := netip.ParsePrefix(o.String()); err == nil && p.Addr().Unmap() == a {
			return true
		}
	}
	return false
}
