package kdnet

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"openkd/kdproto"
	"openkd/link"
)

// Defaults of TargetConfig. Windows' targets offer themselves every 3.017 s.
const (
	DefaultOffer         = 3017 * time.Millisecond
	DefaultTargetTimeout = 250 * time.Millisecond
	DefaultTargetRetries = 20
)

const (
	// offerStep is what the sequence number of the control channel grows by with
	// each offer; it begins there, too. Windows does so, nobody knows why.
	offerStep = 3
	// recent is how many offers may still be answered.
	recent = 8
	// inboxSize bounds the datagrams that the machine has not looked at.
	inboxSize = 256
)

// TargetConfig says where a Target finds its debugger.
type TargetConfig struct {
	Key  Key
	Host netip.AddrPort // hostip and port of the debugger; zero: wait for connect requests
	// Local is the target's own address. Without a port the system chooses one
	// (a machine of its own takes the debugger's number; one process on the same
	// machine cannot), without an address the way to Host decides.
	Local    netip.AddrPort
	Protocol byte // 0: 5

	Offer   time.Duration // between offers, and signs of life; 0: 3.017 s
	Timeout time.Duration // silence while waiting for an ACK; 0: 250 ms
	Retries int           // silent waits before a droppable packet is given up; 0: 20

	// Socket opens the UDP socket; nil: the system's.
	Socket func(ctx context.Context, network, address string) (Conn, error)
	// Tamper sees every packet before it is sealed and returns what to send in
	// its place; nothing loses the packet. It is called by the goroutine that
	// calls the target.
	Tamper func(packet []byte) []byte
}

// Target implements link.Target over UDP.
//
// A reader takes the datagrams of the socket and answers the handshake, an
// offerer sends the offers; both work whatever the machine does, as Windows'
// targets offer themselves in every state. What the host sends on the data
// channel waits in the inbox until the machine looks.
type Target struct {
	cfg     TargetConfig
	control *seal // under mu
	socket  Conn
	local   netip.AddrPort

	inbox  chan []byte
	joined chan struct{} // capacity 1: a host took an offer up
	done   chan struct{} // closed by Close
	wg     sync.WaitGroup

	current  uint32 // id of the next packet sent
	expected uint32 // id of the next packet of the host
	reset    time.Time
	used     bool // since the last Restart

	mu       sync.Mutex
	closed   bool
	present  bool
	breakIn  bool
	boot     [nonceSize]byte // of the next offer
	offers   [][nonceSize]byte
	sequence uint64
	seal     *seal // of the data channel; nil: no host
	peer     netip.AddrPort
	in, out  uint64
	frame    []byte
	plain    []byte
	work     *fair  // for datagrams of others than the host
	asked    *fair  // for offers asked for
	askedAll bucket // for everybody
}

var _ link.Target = (*Target)(nil)

// NewTarget opens the target's socket and begins to offer.
func NewTarget(cfg TargetConfig) (*Target, error) {
	if cfg.Offer <= 0 {
		cfg.Offer = DefaultOffer
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = DefaultTargetTimeout
	}
	if cfg.Retries <= 0 {
		cfg.Retries = DefaultTargetRetries
	}
	if cfg.Protocol == 0 {
		cfg.Protocol = requestProtocol
	}
	if cfg.Socket == nil {
		cfg.Socket = listenExclusively
	}
	if !cfg.Host.IsValid() && cfg.Local.Port() == 0 {
		return nil, errors.New("kdnet: a target needs the address of its debugger, or a port to wait at for connect requests")
	}
	local, err := localAddress(cfg)
	if err != nil {
		return nil, err
	}
	network, address := "udp4", fmt.Sprintf(":%d", cfg.Local.Port())
	if local.Addr().Is6() {
		network = "udp6"
	}
	if cfg.Local.Addr().IsValid() {
		address = cfg.Local.String()
	}
	s, err := cfg.Socket(context.Background(), network, address)
	if err != nil {
		return nil, listenError(int(cfg.Local.Port()), err)
	}
	if a, ok := s.LocalAddr().(*net.UDPAddr); ok {
		local = netip.AddrPortFrom(local.Addr(), uint16(a.Port))
	}
	t := &Target{
		cfg: cfg, control: newSeal(cfg.Key, cfg.Key), socket: s, local: local,
		inbox: make(chan []byte, inboxSize), joined: make(chan struct{}, 1), done: make(chan struct{}),
		plain: make([]byte, 0, maxDatagram),
		work:  newFair(workBurst, workPerSecond, true), asked: newFair(answerBurst, answerPerSecond, false), askedAll: newBucket(askAllBurst, askAllPerSecond),
	}
	t.used = true
	t.Restart()
	t.wg.Go(t.read)
	t.wg.Go(t.offer)
	return t, nil
}

// localAddress is what the target calls itself in its offers.
func localAddress(cfg TargetConfig) (netip.AddrPort, error) {
	if cfg.Local.Addr().IsValid() || !cfg.Host.IsValid() {
		a := cfg.Local.Addr()
		if !a.IsValid() {
			a = netip.IPv4Unspecified()
		}
		return netip.AddrPortFrom(a, cfg.Local.Port()), nil
	}
	// Nothing is sent: the system only says which address it would send from.
	c, err := net.Dial("udp", cfg.Host.String())
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("kdnet: no way to the debugger at %s: %w", cfg.Host, err)
	}
	defer c.Close()
	a := c.LocalAddr().(*net.UDPAddr).AddrPort()
	return netip.AddrPortFrom(a.Addr().Unmap(), cfg.Local.Port()), nil
}

// Local is the target's address.
func (t *Target) Local() netip.AddrPort { return t.local }

// Restart implements link.Target: another boot, no host, ids anew. A machine
// that has not done anything yet need not start again.
func (t *Target) Restart() {
	if !t.used {
		return
	}
	t.used = false
	t.current, t.expected, t.reset = 0, hostFirst, time.Time{}
	t.mu.Lock()
	t.present, t.breakIn = true, false
	rand.Read(t.boot[:])
	t.offers, t.sequence = nil, 0
	t.seal, t.peer = nil, netip.AddrPort{}
	t.emptyLocked()
	t.offerLocked(t.cfg.Host)
	t.mu.Unlock()
}

func (t *Target) emptyLocked() {
	for len(t.inbox) > 0 {
		select {
		case <-t.inbox:
		default:
		}
	}
}

// offer is the offerer.
func (t *Target) offer() {
	tick := time.NewTicker(t.cfg.Offer)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-t.done:
			return
		}
		t.mu.Lock()
		to := t.cfg.Host
		if t.seal != nil {
			to = t.peer
		}
		t.offerLocked(to)
		t.mu.Unlock()
	}
}

// offerLocked sends an offer, or a sign of life.
func (t *Target) offerLocked(to netip.AddrPort) {
	if !to.IsValid() || t.closed {
		return
	}
	binary.LittleEndian.PutUint32(t.boot[:], binary.LittleEndian.Uint32(t.boot[:])+1)
	t.sequence += offerStep
	if len(t.offers) == recent {
		t.offers = t.offers[1:]
	}
	t.offers = append(t.offers, t.boot)
	p := poke{nonce: t.boot, target: t.local, host: to, connected: t.peer}
	if t.seal == nil {
		p.connected = netip.AddrPortFrom(netip.IPv4Unspecified(), 0)
	}
	t.writeLocked(to, t.control, meta{protocol: t.cfg.Protocol, channel: chanControl, sequence: t.sequence}, p.encode())
}

// writeLocked: what a socket cannot send is lost like what a network loses.
func (t *Target) writeLocked(to netip.AddrPort, with *seal, m meta, payload []byte) {
	t.frame = with.append(t.frame[:0], m, payload)
	t.socket.WriteToUDPAddrPort(t.frame, to)
}

// read is the reader.
func (t *Target) read() {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := t.socket.ReadFromUDPAddrPort(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			select {
			case <-t.done:
				return
			case <-time.After(time.Millisecond): // Windows tells of refused datagrams here
			}
			continue
		}
		t.datagram(netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), buf[:n])
	}
}

func (t *Target) datagram(from netip.AddrPort, d []byte) {
	_, channel, err := peek(d)
	if err != nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed || (t.seal == nil || from != t.peer) && !t.work.take(from) {
		return
	}
	if channel == chanControl {
		_, body, err := t.control.open(t.plain, d, true)
		if err != nil {
			return
		}
		if len(body) == 0 {
			if t.asked.take(from) && t.askedAll.take() {
				t.offerLocked(from)
			}
			return
		}
		t.responseLocked(from, body)
		return
	}
	if t.seal == nil || from != t.peer {
		return
	}
	m, body, err := t.seal.open(t.plain, d, true)
	if err != nil || m.sequence <= t.in {
		return
	}
	t.in = m.sequence
	t.present = true
	select {
	case t.inbox <- append([]byte(nil), body...):
	default: // a machine that does not look
	}
}

// responseLocked takes an answer to an offer: there is a host now, in place of
// the one before.
func (t *Target) responseLocked(from netip.AddrPort, body []byte) {
	nonce, ok := decodeResponse(body)
	if !ok {
		return
	}
	for i, n := range t.offers {
		if n != nonce {
			continue
		}
		// An answer counts once, and not behind that to a later offer.
		t.offers = t.offers[i+1:]
		t.seal = newSeal(dataKey(t.cfg.Key, body), t.cfg.Key)
		t.peer, t.in, t.out = from, 0, 0
		t.present = true
		t.emptyLocked()
		var check [checkSize]byte
		if a := from.Addr(); a.Is4() {
			ip := a.As4()
			binary.BigEndian.PutUint32(check[8:], binary.LittleEndian.Uint32(ip[:]))
		}
		t.sendLocked(check[:])
		select {
		case t.joined <- struct{}{}:
		default:
		}
		return
	}
}

// sendLocked sends a packet on the data channel, if there is one.
func (t *Target) sendLocked(packet []byte) {
	if t.seal == nil || t.closed {
		return
	}
	t.out++
	t.writeLocked(t.peer, t.seal, meta{protocol: t.cfg.Protocol, sequence: t.out}, packet)
}

func (t *Target) write(packet []byte) {
	if t.cfg.Tamper != nil {
		if packet = t.cfg.Tamper(packet); len(packet) == 0 {
			return
		}
	}
	t.mu.Lock()
	t.sendLocked(packet)
	t.mu.Unlock()
}

func (t *Target) writeControl(typ kdproto.PacketType, id uint32) {
	t.write(kdproto.AppendControl(make([]byte, 0, kdproto.HeaderSize), typ, id))
}

// Present implements link.Target.
func (t *Target) Present() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.present
}

// breakInSeen reports and forgets a break-in that Send or Receive found.
func (t *Target) breakInSeen() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := t.breakIn
	t.breakIn = false
	return b
}

// PollBreakIn implements link.Target.
func (t *Target) PollBreakIn() bool {
	t.used = true
	if t.breakInSeen() {
		return true
	}
	select {
	case p := <-t.inbox:
		return isBreakIn(p)
	default:
		return false
	}
}

func isBreakIn(p []byte) bool { return len(p) == 1 && p[0] == kdproto.BreakInByte }

// Close implements link.Target.
func (t *Target) Close() error {
	t.mu.Lock()
	was := t.closed
	t.closed = true
	t.mu.Unlock()
	if was {
		return nil
	}
	close(t.done)
	err := t.socket.Close()
	t.wg.Wait()
	return err
}

// Send implements link.Target. While it waits, the host's next data packet
// counts as the acknowledgement.
func (t *Target) Send(ctx context.Context, typ kdproto.PacketType, payload []byte, droppable bool) error {
	if len(payload) > kdproto.MaxPayload {
		return fmt.Errorf("kdnet: payload of %d bytes does not fit into a packet of %d", len(payload), kdproto.MaxPayload)
	}
	t.used = true
	for retries := t.cfg.Retries; ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		select {
		case <-t.joined: // this copy is the new host's
		default:
		}
		p := kdproto.AppendData(make([]byte, 0, kdproto.HeaderSize+len(payload)+1), typ, t.current, payload)
		t.write(p[:len(p)-1]) // no trailer on this link
		_, r, err := t.receive(ctx, kdproto.TypeAcknowledge, t.cfg.Timeout)
		if err != nil {
			return err
		}
		switch r {
		case link.Received:
			return nil
		case link.Timeout:
			if retries > 0 {
				retries--
			}
			if retries == 0 && droppable {
				t.mu.Lock()
				t.present = false
				t.mu.Unlock()
				t.current += idStep // the host may have it, and would take the next for a copy
				return link.ErrNotPresent
			}
		}
	}
}

// Receive implements link.Target. Resend says that the host sent RESEND, RESET
// or a break-in, which a stopped kernel remembers.
func (t *Target) Receive(ctx context.Context, want kdproto.PacketType, timeout time.Duration) ([]byte, link.Result, error) {
	if timeout <= 0 {
		timeout = t.cfg.Timeout
	}
	return t.receive(ctx, want, timeout)
}

func (t *Target) receive(ctx context.Context, want kdproto.PacketType, timeout time.Duration) ([]byte, link.Result, error) {
	t.used = true
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	for {
		var p []byte
		select {
		case p = <-t.inbox:
		default:
			select {
			case p = <-t.inbox:
			case <-t.joined:
				if want == kdproto.TypeAcknowledge {
					return nil, link.Resend, nil
				}
				continue
			case <-timer.C:
				return nil, link.Timeout, nil
			case <-ctx.Done():
				return nil, link.Timeout, ctx.Err()
			case <-t.done:
				return nil, link.Timeout, io.ErrClosedPipe
			}
		}
		timer.Reset(timeout)
		if isBreakIn(p) {
			t.mu.Lock()
			t.breakIn = true
			t.mu.Unlock()
			return nil, link.Resend, nil
		}
		h, err := kdproto.DecodeHeader(p)
		if err != nil {
			continue
		}
		if h.Leader == kdproto.ControlLeader {
			switch h.Type {
			case kdproto.TypeAcknowledge:
				if want == kdproto.TypeAcknowledge && h.ID == t.current {
					t.current += idStep
					return nil, link.Received, nil
				}
			case kdproto.TypeResend:
				return nil, link.Resend, nil
			case kdproto.TypeReset:
				// The packet that is out keeps its id; the host counts on from its own.
				copied := want != kdproto.TypeAcknowledge && h.ID == t.expected && time.Since(t.reset) < echo
				t.expected, t.reset = h.ID, time.Now()
				t.writeControl(kdproto.TypeReset, t.current)
				if copied {
					continue // and what it asked for has arrived
				}
				return nil, link.Resend, nil
			}
			continue
		}
		if h.Leader != kdproto.DataLeader {
			continue
		}
		if want == kdproto.TypeAcknowledge && h.ID == t.expected {
			// The host has gone on, so it must have seen our packet. Its own is not
			// read; it comes again.
			t.writeControl(kdproto.TypeResend, 0)
			t.current += idStep
			return nil, link.Received, nil
		}
		payload := p[kdproto.HeaderSize:]
		least := want.MessageHeaderSize()
		if want == kdproto.TypeAcknowledge {
			least = 0
		}
		if len(payload) < least || len(payload) > kdproto.MaxPayload || int(h.ByteCount) != len(payload) || kdproto.Checksum(payload) != h.Checksum {
			t.writeControl(kdproto.TypeResend, 0)
			continue
		}
		t.writeControl(kdproto.TypeAcknowledge, h.ID)
		if int32(h.ID-t.expected) < 0 || h.Type != want {
			continue
		}
		t.expected, t.reset = h.ID+idStep, time.Time{}
		return payload, link.Received, nil
	}
}
