package kdnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// where is what target= says.
type where struct {
	text string
	v4   bool
	v6   bool
	addr netip.AddrPort // of a literal
	name string         // to look up
	port uint16
}

// parseTarget reads target=. Without a port of its own the target has ours.
func parseTarget(s string, port int) (*where, error) {
	w := &where{text: s, v4: true, v6: true, port: uint16(port)}
	if s == "" {
		return w, nil
	}
	host := s
	if a, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); err == nil {
		host = a.String()
	} else if h, p, err := net.SplitHostPort(s); err == nil {
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || n == 0 {
			return nil, fmt.Errorf("target=%s: the port of the target is a number from 1 to 65535", s)
		}
		host, w.port = h, uint16(n)
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		if host == "" || strings.ContainsAny(host, " \t:/\\[]") {
			return nil, fmt.Errorf("target=%s is neither an address nor the name of a machine", s)
		}
		w.name = host
		return w, nil
	}
	a = a.Unmap()
	w.v4, w.v6 = a.Is4(), a.Is6()
	if !a.IsUnspecified() {
		w.addr = netip.AddrPortFrom(a, w.port)
	}
	return w, nil
}

// named reports whether a target is asked for, not only an address family.
func (w *where) named() bool { return w.name != "" || w.addr.IsValid() }

func (w *where) networks() []string {
	var n []string
	if w.v4 {
		n = append(n, "udp4")
	}
	if w.v6 {
		n = append(n, "udp6")
	}
	return n
}

// maxAddrs bounds the addresses of a name that get connect requests.
const maxAddrs = 8

// resolve returns where connect requests go.
func (w *where) resolve(ctx context.Context) ([]netip.AddrPort, error) {
	if w.addr.IsValid() {
		return []netip.AddrPort{w.addr}, nil
	}
	if w.name == "" {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", w.name)
	if err != nil {
		return nil, &UnknownTargetError{Target: w.name, Err: err}
	}
	var out []netip.AddrPort
	for _, a := range ips[:min(len(ips), maxAddrs)] {
		out = append(out, netip.AddrPortFrom(a.Unmap(), w.port))
	}
	return out, nil
}

// UnknownTargetError says that the name of a target does not resolve. It may
// later.
type UnknownTargetError struct {
	Target string
	Err    error
}

func (e *UnknownTargetError) Error() string {
	why := e.Err.Error()
	var d *net.DNSError
	if errors.As(e.Err, &d) {
		why = d.Err
	}
	return fmt.Sprintf("target=%s does not resolve (%s): write its address, or leave target= out and wait for its offer", e.Target, why)
}

func (e *UnknownTargetError) Unwrap() error { return e.Err }

// TakenError says that another debugger has taken the target over.
type TakenError struct{ Target, By netip.AddrPort }

func (e *TakenError) Error() string {
	return fmt.Sprintf("another debugger (%s) has taken the target %s over", e.By, e.Target)
}

// PortError says that the UDP port could not be opened.
type PortError struct {
	Port int
	Busy bool // another program has it; that may end
	Err  error
}

func (e *PortError) Error() string {
	if e.Busy {
		return fmt.Sprintf("udp/%d is in use: another debugger or program on this machine has the port; end it, or choose another port here and on the target (each target needs its own)", e.Port)
	}
	return fmt.Sprintf("cannot listen on udp/%d: %v", e.Port, e.Err)
}

func (e *PortError) Unwrap() error { return e.Err }

func listenError(port int, err error) error {
	return &PortError{Port: port, Busy: errors.Is(err, errInUse), Err: err}
}

// listenExclusively opens a UDP socket that no other program can share.
func listenExclusively(ctx context.Context, network, address string) (Conn, error) {
	lc := net.ListenConfig{Control: exclusive}
	c, err := lc.ListenPacket(ctx, network, address)
	if err != nil {
		return nil, err
	}
	u := c.(*net.UDPConn)
	u.SetReadBuffer(1 << 20) // a burst while the reader is not scheduled; as much as the system allows
	return u, nil
}

// v6 reports the address family of a socket.
func v6(s Conn) bool {
	a, ok := s.LocalAddr().(*net.UDPAddr)
	return ok && a.IP.To4() == nil
}
