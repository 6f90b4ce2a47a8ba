package discovery

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
)

// lan is the network as this package sees it; tests make it smaller.
type lan struct {
	mdnsPort   uint16 // shared with the system's responder
	directPort uint16 // of the first server of a machine
	interfaces func() ([]net.Interface, error)
	isOwn      func(netip.Addr) bool
}

func realLAN() lan { return lan{5353, 15353, net.Interfaces, isOwn} }

var families = [2]string{"udp4", "udp6"}

func group(family int) netip.Addr {
	if family == 0 {
		return netip.AddrFrom4([4]byte{224, 0, 0, 251})
	}
	return netip.AddrFrom16([16]byte{0: 0xff, 1: 2, 15: 0xfb})
}

// way is an interface that multicast goes through.
type way struct {
	ifi      net.Interface
	addrs    []netip.Addr // without zone
	prefixes []netip.Prefix
}

const (
	maxWays  = 32
	maxAddrs = 8 // of one interface
)

// ways lists the interfaces that are up and carry multicast. Loopback is one:
// on a machine without a network, and between users of one machine. Tunnels
// between two points are none, they lead elsewhere.
func (l lan) ways() []way {
	ifis, err := l.interfaces()
	if err != nil {
		return nil
	}
	var ws []way
	for _, ifi := range ifis {
		if ifi.Flags&net.FlagUp == 0 || ifi.Flags&net.FlagPointToPoint != 0 || ifi.Flags&(net.FlagMulticast|net.FlagLoopback) == 0 {
			continue
		}
		w := way{ifi: ifi}
		addrs, err := ifi.Addrs()
		if err != nil {
			continue
		}
		for _, a := range addrs {
			n, ok := a.(*net.IPNet)
			if !ok {
				continue
			}
			ip, ok := netip.AddrFromSlice(n.IP)
			if !ok || len(w.addrs) == maxAddrs {
				continue
			}
			ip = ip.Unmap()
			ones, _ := n.Mask.Size()
			w.addrs = append(w.addrs, ip)
			w.prefixes = append(w.prefixes, netip.PrefixFrom(ip, ones).Masked())
		}
		if ws = append(ws, w); len(ws) == maxWays {
			break
		}
	}
	return ws
}

// packet is what a socket received.
type packet struct {
	sock *socket
	from netip.AddrPort
	to   netip.Addr // where it was sent to; not valid where the system does not tell (Windows)
	way  int        // index of the interface, 0 where the system does not tell
	data []byte
}

// socket is a UDP socket of one family.
//
// Concurrency: any method from any goroutine; read from one.
type socket struct {
	family int
	port   uint16 // of the group
	c      *net.UDPConn
	p4     *ipv4.PacketConn // one of the two
	p6     *ipv6.PacketConn
	mu     sync.Mutex // over choosing an interface and sending through it
}

// openSocket opens a socket on a port, 0 for any, alone or shared with other
// programs. group is the port of multicast DNS.
func openSocket(ctx context.Context, family int, port uint16, shared bool, group uint16) (*socket, error) {
	var lc net.ListenConfig
	if shared {
		lc.Control = share
	}
	pc, err := lc.ListenPacket(ctx, families[family], ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, err
	}
	c, ok := pc.(*net.UDPConn)
	if !ok {
		pc.Close()
		return nil, errors.New("not a UDP socket")
	}
	s := &socket{family: family, port: group, c: c}
	// What the system does not offer of these is done without. RFC 6762 section
	// 11 wants 255 hops, which nobody may check any more.
	if family == 0 {
		s.p4 = ipv4.NewPacketConn(c)
		s.p4.SetControlMessage(ipv4.FlagInterface|ipv4.FlagDst, true)
		s.p4.SetMulticastTTL(255)
		s.p4.SetMulticastLoopback(true)
	} else {
		s.p6 = ipv6.NewPacketConn(c)
		s.p6.SetControlMessage(ipv6.FlagInterface|ipv6.FlagDst, true)
		s.p6.SetMulticastHopLimit(255)
		s.p6.SetMulticastLoopback(true)
	}
	return s, nil
}

func (s *socket) join(ifi *net.Interface) error {
	g := &net.UDPAddr{IP: group(s.family).AsSlice()}
	if s.p4 != nil {
		return s.p4.JoinGroup(ifi, g)
	}
	return s.p6.JoinGroup(ifi, g)
}

// multicast sends through one interface.
func (s *socket) multicast(ifi *net.Interface, b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	to := group(s.family)
	var err error
	if s.p4 != nil {
		err = s.p4.SetMulticastInterface(ifi)
	} else {
		err = s.p6.SetMulticastInterface(ifi)
		to = to.WithZone(ifi.Name)
	}
	if err == nil {
		_, err = s.c.WriteToUDPAddrPort(b, netip.AddrPortFrom(to, s.port))
	}
	return err
}

// reply answers a packet, from the address that it was sent to.
func (s *socket) reply(p packet, b []byte) error {
	to := net.UDPAddrFromAddrPort(p.from)
	one := p.to.IsValid() && !p.to.IsMulticast()
	var err error
	switch {
	case one && s.p4 != nil:
		_, err = s.p4.WriteTo(b, &ipv4.ControlMessage{Src: p.to.AsSlice()}, to)
	case one:
		_, err = s.p6.WriteTo(b, &ipv6.ControlMessage{Src: p.to.AsSlice()}, to)
	default:
		_, err = s.c.WriteToUDPAddrPort(b, p.from)
	}
	return err
}

// read passes on what comes, until the socket is closed.
func (s *socket) read(ctx context.Context, out chan<- packet) {
	buf := make([]byte, 9000) // the most that multicast DNS sends (RFC 6762 section 17)
	for {
		p := packet{sock: s}
		n := 0
		var from net.Addr
		var err error
		if s.p4 != nil {
			var cm *ipv4.ControlMessage
			n, cm, from, err = s.p4.ReadFrom(buf)
			if cm != nil {
				p.way = cm.IfIndex
				p.to, _ = netip.AddrFromSlice(cm.Dst.To4())
			}
		} else {
			var cm *ipv6.ControlMessage
			n, cm, from, err = s.p6.ReadFrom(buf)
			if cm != nil {
				p.way = cm.IfIndex
				p.to, _ = netip.AddrFromSlice(cm.Dst)
			}
		}
		switch a, ok := from.(*net.UDPAddr); {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil || !ok:
			// Such as a message that somebody is not there; a way that fails for
			// good must not turn into a busy loop.
			select {
			case <-ctx.Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
			continue
		default:
			ap := a.AddrPort()
			p.from = netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
		}
		if p.from.Addr().IsUnspecified() {
			continue // from a machine without an address of this family, which cannot be answered
		}
		p.data = append([]byte(nil), buf[:n]...)
		select {
		case out <- p:
		case <-ctx.Done():
			return
		}
	}
}
