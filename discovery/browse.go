package discovery

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	listenFor    = 1500 * time.Millisecond // for the answers of a network
	answerWithin = time.Second             // for those of one machine, once its address is known
	settleFor    = 400 * time.Millisecond  // least time for other answers, when the machine itself has told all
	nameWithin   = time.Second             // for the address of a name
	maxTargets   = 8                       // addresses of one machine that are asked
	maxSighted   = 1024                    // doors that are remembered
	maxRounds    = 50                      // questions to one address
)

// askAgain is when a question is put again that may have been lost.
var askAgain = [...]time.Duration{0, 250 * time.Millisecond, 700 * time.Millisecond}

// Machine reads the name or the address of a machine as people type it: leading
// backslashes and the brackets of an IPv6 address are taken off.
func Machine(typed string) (string, error) {
	h := strings.TrimPrefix(strings.TrimSpace(typed), `\\`)
	if strings.HasPrefix(h, "[") && strings.HasSuffix(h, "]") {
		h = h[1 : len(h)-1]
	}
	if h == "" || len(h) > 253 || strings.ContainsAny(h, ` ,"\/`) || !printable(h) {
		return "", fmt.Errorf("%q is not the name or the address of a machine, such as box17 or 192.0.2.7", typed)
	}
	return h, nil
}

// Browse lists the servers of a machine, by name or address, or with "" those
// of this machine and of the networks it is on. This machine, whatever it is
// called, is looked up in the registry. Others are given up to two seconds; ctx
// may end it sooner.
//
// A machine that answers that it has none is an empty list; one whose name is
// not known, or from which nothing comes, is an error.
func Browse(ctx context.Context, host string) ([]Server, error) {
	return realLAN().browse(ctx, host)
}

func (l lan) browse(ctx context.Context, host string) ([]Server, error) {
	if host == "" {
		return l.everywhere(ctx)
	}
	host, err := Machine(host)
	if err != nil {
		return nil, err
	}
	if l.isThisMachine(host) {
		return Local(ctx)
	}
	return l.machine(ctx, host)
}

// isThisMachine knows the names of this machine that need no look-up.
func (l lan) isThisMachine(host string) bool {
	own, err := os.Hostname()
	if err != nil {
		own = ""
	}
	short, _, _ := strings.Cut(own, ".")
	for _, n := range []string{".", "localhost", own, short, short + ".local"} {
		if strings.EqualFold(strings.TrimSuffix(host, "."), strings.TrimSuffix(n, ".")) {
			return true
		}
	}
	a, err := netip.ParseAddr(host)
	return err == nil && l.isOwn(a)
}

// isOwn says that an address is one of this machine.
func isOwn(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if a.IsLoopback() || a.IsUnspecified() {
		return true
	}
	addrs, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(addrs, func(x net.Addr) bool {
		n, ok := x.(*net.IPNet)
		if !ok {
			return false
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		return ok && ip.Unmap() == a
	})
}

// everywhere lists this machine and its networks.
func (l lan) everywhere(ctx context.Context) ([]Server, error) {
	records, err := registered(ctx)
	list := servers(records)
	a := newAsker(ctx, l)
	defer a.close()
	a.listen(nil)
	if ctx.Err() != nil {
		return list, ctx.Err()
	}
	listed := make(map[string]bool)
	for _, r := range records {
		listed[r.Instance] = true
	}
	for _, x := range a.found {
		s := x.seen()
		if l.isOwn(s.Addr) { // in another user's registry, if not in this one's
			label, _, _ := strings.Cut(x.name, ".")
			if listed[label] {
				continue
			}
			s.Host, s.Addr = hostname(), netip.Addr{}
		}
		list = append(list, s)
	}
	order(list)
	return list, err
}

// machine lists another machine. What is multicast on the networks in the
// meantime is heard too, but only what comes from the addresses of the machine
// counts; its name on the network counts if the system does not know the name.
func (l lan) machine(ctx context.Context, host string) ([]Server, error) {
	a := newAsker(ctx, l)
	defer a.close()
	names := make(chan resolution, 1)
	a.tasks.Go(func() { names <- resolve(a.ctx, host) })
	res := a.listen(names)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if slices.ContainsFunc(res.addrs, l.isOwn) {
		return Local(ctx)
	}
	var list []Server
	for _, x := range a.found {
		s := x.seen()
		switch {
		case res.err == nil:
			if !x.direct && !slices.ContainsFunc(x.addrs, func(a netip.Addr) bool { return slices.Contains(res.addrs, a) }) {
				continue
			}
		case isCalled(s.Host, host):
			s.NameOnly = true
		default:
			continue
		}
		list = append(list, s)
	}
	order(list)
	switch {
	case len(list) > 0 || a.answered():
		return list, nil
	case res.err != nil:
		return nil, fmt.Errorf("%s is not known here as a machine (%w), and no server on the local network announces itself from there", host, res.err)
	}
	return nil, fmt.Errorf("%s does not answer: it is switched off, no server there announces itself, or a firewall drops UDP ports %d and %d", host, l.mdnsPort, l.directPort)
}

// isCalled compares what a machine calls itself with what was typed.
func isCalled(itself, typed string) bool {
	typed = strings.TrimSuffix(typed, ".")
	if n := len(typed) - len(".local"); n > 0 && strings.EqualFold(typed[n:], ".local") {
		typed = typed[:n]
	}
	short, _, _ := strings.Cut(itself, ".")
	return itself != "" && (strings.EqualFold(itself, typed) || strings.EqualFold(short, typed))
}

// resolution is what the system knows about a name.
type resolution struct {
	addrs []netip.Addr
	err   error
}

func resolve(ctx context.Context, host string) resolution {
	ctx, cancel := context.WithTimeout(ctx, nameWithin)
	defer cancel()
	if a, err := netip.ParseAddr(host); err == nil {
		return resolution{addrs: []netip.Addr{a.Unmap()}}
	}
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for i := range addrs {
		addrs[i] = addrs[i].Unmap()
	}
	return resolution{addrs[:min(len(addrs), maxTargets)], err}
}

// found is one door that was sighted.
type found struct {
	sighting
	addrs  []netip.Addr // where it was told of, in the order of arrival
	direct bool         // the machine was asked for it by address
}

// seen is the server with the best of its addresses: IPv4, since people can
// type it; then one that does not depend on the interface.
func (f *found) seen() Server {
	s := f.server
	rank := func(a netip.Addr) int {
		switch {
		case a.Is4():
			return 0
		case !a.IsLinkLocalUnicast():
			return 1
		}
		return 2
	}
	s.Addr = slices.MinFunc(f.addrs, func(a, b netip.Addr) int { return rank(a) - rank(b) })
	return s
}

// asker puts one question to networks and machines and gathers the answers. One
// goroutine, that of listen, owns it.
type asker struct {
	lan     lan
	ctx     context.Context
	cancel  context.CancelFunc
	tasks   sync.WaitGroup
	shared  []*socket // on the port of multicast DNS, where answers to all come
	own     []*socket // on a port of its own, where answers to it alone come
	in      chan packet
	replies chan reply
	targets []*target
	found   map[string]*found
}

// target is an address that is asked directly.
type target struct {
	addr   netip.Addr
	id     uint16
	conns  []net.Conn // the first one is to directPort
	names  []instanceName
	rounds int
	told   bool // it has told all, or that nobody is there to tell
	dead   bool // it cannot be reached
}

// reply is what came from a target.
type reply struct {
	t    *target
	conn int
	data []byte
	err  error
}

// newAsker opens the sockets. Without any, nothing will be found.
func newAsker(ctx context.Context, l lan) *asker {
	a := &asker{lan: l, in: make(chan packet, 16), replies: make(chan reply, 16), found: make(map[string]*found)}
	a.ctx, a.cancel = context.WithCancel(ctx)
	ways := l.ways()
	for f := range families {
		for _, shared := range []bool{true, false} {
			port := uint16(0)
			if shared {
				port = l.mdnsPort
			}
			s, err := openSocket(a.ctx, f, port, shared, l.mdnsPort)
			if err != nil {
				continue
			}
			if shared {
				for i := range ways {
					s.join(&ways[i].ifi) // what cannot be joined is not heard
				}
				a.shared = append(a.shared, s)
			} else {
				a.own = append(a.own, s)
			}
			a.tasks.Go(func() { s.read(a.ctx, a.in) })
		}
	}
	return a
}

func (a *asker) close() {
	a.cancel()
	for _, s := range slices.Concat(a.shared, a.own) {
		s.c.Close()
	}
	for _, t := range a.targets {
		for _, c := range t.conns {
			c.Close()
		}
	}
	a.tasks.Wait()
}

// listen asks and gathers until enough has been heard. names, unless nil, gives
// the addresses to ask directly.
func (a *asker) listen(names <-chan resolution) (res resolution) {
	start := time.Now()
	end := time.NewTimer(listenFor)
	defer end.Stop()
	again := time.NewTimer(0)
	defer again.Stop()
	tries := 0
	for {
		select {
		case <-a.ctx.Done():
			return res
		case <-end.C:
			return res
		case <-again.C:
			a.askAll()
			for _, t := range a.targets {
				a.askTarget(t)
			}
			if tries++; tries < len(askAgain) {
				again.Reset(askAgain[tries] - askAgain[tries-1])
			}
		case res = <-names:
			if res.err != nil {
				continue
			}
			a.aim(res.addrs)
			end.Reset(answerWithin)
			tries = 0
			again.Reset(0)
		case p := <-a.in:
			if _, l, ok := parseResponse(p.data); ok && p.from.Port() == a.lan.mdnsPort {
				a.add(l, p.from.Addr(), false)
			}
		case r := <-a.replies:
			a.heard(r)
			if !slices.ContainsFunc(a.targets, func(t *target) bool { return !t.told && !t.dead }) {
				end.Reset(max(0, settleFor-time.Since(start)))
			}
		}
	}
}

// askAll asks everybody on every network: for an answer to all, which comes
// through firewalls that let multicast DNS in, and for one to this socket
// alone, which comes where the port cannot be shared.
func (a *asker) askAll() {
	q := ask(0, false, nil, 0)
	for _, w := range a.lan.ways() {
		for _, s := range slices.Concat(a.shared, a.own) {
			s.multicast(&w.ifi, q) // no IPv6 on this interface, say; others will do
		}
	}
}

// aim opens the ways to the addresses of a machine.
func (a *asker) aim(addrs []netip.Addr) {
	for _, addr := range addrs {
		t := &target{addr: addr, id: uint16(rand.Uint32())}
		for _, port := range []uint16{a.lan.directPort, a.lan.mdnsPort} {
			c, err := (&net.Dialer{}).DialContext(a.ctx, "udp", net.JoinHostPort(addr.String(), strconv.Itoa(int(port))))
			if err != nil {
				t.dead = true
				break
			}
			n := len(t.conns)
			t.conns = append(t.conns, c)
			a.tasks.Go(func() { a.hear(t, n, c) })
		}
		a.targets = append(a.targets, t)
	}
}

// hear passes on what a target sends, until the connection is closed.
func (a *asker) hear(t *target, n int, c net.Conn) {
	buf := make([]byte, 9000)
	for {
		k, err := c.Read(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		r := reply{t, n, append([]byte(nil), buf[:k]...), err}
		select {
		case a.replies <- r:
		case <-a.ctx.Done():
			return
		}
		if err != nil {
			select { // it may have been one lost packet's fault; no busy loop
			case <-a.ctx.Done():
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}
}

func (a *asker) askTarget(t *target) {
	if t.told || t.dead {
		return
	}
	for i := range t.conns {
		a.askOne(t, i)
	}
}

func (a *asker) askOne(t *target, conn int) {
	t.rounds++
	if _, err := t.conns[conn].Write(ask(t.id, true, t.names, maxPacket)); err != nil && !isRefused(err) {
		t.dead = true
	}
}

// heard takes what a target said. As long as there is something new in it, it is
// asked for what it has besides.
func (a *asker) heard(r reply) {
	t := r.t
	if r.err != nil {
		if r.conn == 0 {
			t.told = t.told || isRefused(r.err)
			t.dead = t.dead || !isRefused(r.err)
		}
		return
	}
	id, l, ok := parseResponse(r.data)
	if !ok || id != t.id {
		return
	}
	known := len(t.names)
	for _, x := range l {
		if !slices.Contains(t.names, x.instanceName) && !x.gone && known < maxSighted {
			t.names = append(t.names, x.instanceName)
		}
	}
	a.add(l, t.addr, true)
	switch {
	case len(t.names) > known && t.rounds < maxRounds:
		a.askOne(t, r.conn)
	case r.conn == 0:
		t.told = true // the other port may be that of somebody who knows nothing
	}
}

// answered says that a machine told of all that it has, even if that is nothing.
func (a *asker) answered() bool {
	return slices.ContainsFunc(a.targets, func(t *target) bool { return t.told })
}

func (a *asker) add(l []sighting, from netip.Addr, direct bool) {
	for _, x := range l {
		f := a.found[x.name]
		switch {
		case x.gone:
			delete(a.found, x.name)
			continue
		case f == nil && len(a.found) >= maxSighted:
			continue
		case f == nil:
			f = &found{}
			a.found[x.name] = f
		}
		f.sighting = x
		f.direct = f.direct || direct
		if !slices.Contains(f.addrs, from) && len(f.addrs) < maxTargets {
			f.addrs = append(f.addrs, from)
		}
	}
}
