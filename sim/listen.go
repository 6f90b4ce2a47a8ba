package sim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"time"

	"openkd/connstr"
	"openkd/link/fault"
	"openkd/link/kdnet"
	"openkd/link/line"
)

// Port is a machine's end of a kernel link: a socket or pipe that it makes and
// listens at, a TCP port, or a serial device.
type Port struct {
	link connstr.Link
	ln   net.Listener // nil: a serial device
	line *line.Line
	open io.ReadWriteCloser // the serial device, opened by Open
}

// OpenPort makes the socket, the pipe or the TCP listener of a link, or opens
// its serial device. A socket that a dead process left over is replaced. The
// link's defaults are filled in already (connstr.Link.WithDefaults).
func OpenPort(ctx context.Context, link connstr.Link) (*Port, error) {
	p := &Port{link: link}
	var err error
	switch link.Kind {
	case connstr.LinkPipe:
		if p.ln, err = line.ListenPipe(link.Port); err != nil {
			return nil, listenError(link.Port, err)
		}
	case connstr.LinkTCP:
		addr := net.JoinHostPort(link.Port, strconv.Itoa(link.IPPort))
		if p.ln, err = net.Listen("tcp", addr); err != nil {
			return nil, listenError(addr, err)
		}
	case connstr.LinkSerial:
		if p.line, err = line.New(link); err != nil {
			return nil, err
		}
		if p.open, err = p.line.Open(ctx); err != nil {
			return nil, err
		}
	case connstr.LinkNet: // the machine's own adapter, see NetConfig
	default:
		return nil, fmt.Errorf("a machine can be served at com:pipe, com:ipport=, com:port= and net:, not at a %s link", link.Kind)
	}
	return p, nil
}

func listenError(where string, err error) error {
	remedy := ""
	switch {
	case errors.Is(err, errAddrInUse):
		remedy = "; another program listens there: end it, or choose another name"
	case errors.Is(err, fs.ErrPermission):
		remedy = "; choose a folder that your account may write to"
	case errors.Is(err, fs.ErrNotExist):
		remedy = "; the folder does not exist"
	case errors.Is(err, syscall.EINVAL) && len(where) > 100:
		remedy = fmt.Sprintf("; the path of a socket may have about 104 characters, this one has %d", len(where))
	case errors.Is(err, errAddrNotAvail):
		remedy = "; the address is not one of this machine"
	}
	return fmt.Errorf("cannot listen at %s: %w%s", where, err, remedy)
}

// NetConfig is the network adapter (Config.Net) of a machine that is debugged
// over a net: link: hostip= and port= are the debugger's, as the machine's boot
// configuration has them. Without hostip= the machine waits at the port for
// connect requests. The faults are chances per datagram.
func NetConfig(ctx context.Context, link connstr.Link, faults fault.Config) (*kdnet.TargetConfig, error) {
	key, err := kdnet.ParseKey(link.Key)
	if err != nil {
		return nil, err
	}
	c := &kdnet.TargetConfig{Key: key}
	if link.HostIP == "" {
		c.Local = netip.AddrPortFrom(netip.Addr{}, uint16(link.IPPort))
	} else {
		ip, err := netip.ParseAddr(link.HostIP)
		if err != nil {
			ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", link.HostIP)
			if err != nil {
				return nil, fmt.Errorf("hostip=%s does not resolve: %w", link.HostIP, err)
			}
			ip = ips[0]
		}
		c.Host = netip.AddrPortFrom(ip.Unmap(), uint16(link.IPPort))
	}
	if faults != (fault.Config{}) {
		c.Socket = func(ctx context.Context, network, address string) (kdnet.Conn, error) {
			a, err := net.ResolveUDPAddr(network, address)
			if err != nil {
				return nil, err
			}
			s, err := net.ListenUDP(network, a)
			if err != nil {
				return nil, err
			}
			return fault.NewPackets(s, faults), nil
		}
	}
	return c, nil
}

// String is where the port is, for people.
func (p *Port) String() string {
	if p.link.Kind == connstr.LinkNet {
		if p.link.HostIP == "" {
			return fmt.Sprintf("udp/%d", p.link.IPPort)
		}
		return fmt.Sprintf("the network, for a debugger at %s udp/%d", p.link.HostIP, p.link.IPPort)
	}
	if p.ln != nil && p.link.Kind == connstr.LinkTCP {
		return p.ln.Addr().String()
	}
	return p.link.Port
}

// Attach is the connection string for a debugger on the same machine. For a
// serial line it is what the other end of the line is.
func (p *Port) Attach() string {
	switch p.link.Kind {
	case connstr.LinkNet:
		if p.link.HostIP == "" {
			return fmt.Sprintf("net:port=<another port>,key=<the key>,target=127.0.0.1:%d", p.link.IPPort)
		}
		return fmt.Sprintf("net:port=%d,key=<the key>", p.link.IPPort)
	case connstr.LinkPipe:
		return "com:pipe,port=" + p.link.Port
	case connstr.LinkTCP:
		host, port, _ := net.SplitHostPort(p.ln.Addr().String())
		if ip := net.ParseIP(host); ip != nil && ip.IsUnspecified() {
			host = "127.0.0.1"
		}
		return "com:ipport=" + port + ",port=" + host
	}
	return fmt.Sprintf("com:port=<the other end of %s>,baud=%d", p.link.Port, p.link.Baud)
}

// Close ends the listening and removes the socket.
func (p *Port) Close() error {
	if p.ln != nil {
		return p.ln.Close()
	}
	if p.open != nil {
		p.open.Close()
	}
	if p.line == nil {
		return nil
	}
	return p.line.Close()
}

// ServePort serves one debugger after another at a port until the context ends
// or the machine is switched off; the port is closed then. Each stream gets the
// faults, with a seed of its own, and a serial line is held to its speed. log
// may be nil.
func (m *Machine) ServePort(ctx context.Context, p *Port, faults fault.Config, log *slog.Logger) error {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	if p.link.Kind == connstr.LinkNet { // nothing to accept
		select {
		case <-ctx.Done():
		case <-m.ended:
		}
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		select {
		case <-ctx.Done():
		case <-m.ended:
			cancel()
		}
		p.Close()
	}()
	defer func() { cancel(); <-closed }()

	for n := uint64(0); ; n++ {
		stream, err := p.accept(ctx)
		if ctx.Err() != nil {
			if stream != nil {
				stream.Close()
			}
			return nil
		}
		if err != nil {
			log.Warn("waiting for a debugger", "at", p.String(), "error", err)
			select {
			case <-time.After(time.Second):
			case <-ctx.Done():
			}
			continue
		}
		log.Info("a debugger is connected", "at", p.String())
		if p.link.Baud > 0 {
			stream = fault.Throttle(stream, p.link.Baud)
		}
		if f := faults; f != (fault.Config{}) {
			f.Seed += n
			stream = fault.New(stream, f)
		}
		start := time.Now()
		err = m.Serve(ctx, stream)
		log.Info("the debugger is gone", "at", p.String(), "error", err)
		if p.ln == nil && time.Since(start) < time.Second {
			select { // the other end of a pty is not there
			case <-time.After(500 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}
}

func (p *Port) accept(ctx context.Context) (io.ReadWriteCloser, error) {
	if p.ln == nil {
		if s := p.open; s != nil {
			p.open = nil
			return s, nil
		}
		return p.line.Open(ctx)
	}
	c, err := p.ln.Accept()
	if err != nil {
		return nil, err
	}
	if t, ok := c.(*net.TCPConn); ok {
		t.SetNoDelay(true)
	}
	return c, nil
}
