package kdnet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/maphash"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"openkd/kdproto"
	"openkd/link"
)

// Defaults of Config.
const (
	DefaultRetransmit = 500 * time.Millisecond
	DefaultResendWait = 15 * time.Millisecond
	DefaultRetries    = 20
	DefaultConnect    = 500 * time.Millisecond
	DefaultQuiet      = 10 * time.Second
	DefaultSilence    = time.Minute
	DefaultQueue      = 256
)

const (
	// hostFirst is the id of a host's first packet, and idStep what each new one
	// adds, in both directions (kd-protocol, section 4.8).
	hostFirst = 0x80000000
	idStep    = 2

	// checkSize is the size of the target's connection check (4.7).
	checkSize = 12

	// echo is how long after a RESET of ours another one counts as its answer.
	echo = 250 * time.Millisecond
	// resetTries is how often an unanswered RESET is sent. A target that runs
	// answers none; for one that stands, a datagram was lost.
	resetTries = 4
	// askTries is how often a target that was answered and says nothing is asked
	// for another offer before its next one.
	askTries = 4
	// candidates bounds the offers that were answered and not yet taken up.
	candidates = 8
	// politeFactor is how many times less often a polite host asks.
	politeFactor = 6
	// resolveEvery is how often the name of a target is looked up again.
	resolveEvery = 30 * time.Second
	// doubt is how many datagrams of the target in a row our key does not open
	// when it is no longer the target's.
	doubt = 3
	// Bounds of what is done for others than the target, for each of them by
	// itself (fair): datagrams that cost a decryption, authentic offers that are
	// answered, and datagrams that nobody has authenticated and that make us ask
	// for an offer. These have a bound for everybody, too: it does not matter
	// much if a target is not asked.
	workBurst, workPerSecond     = 16, 10
	answerBurst, answerPerSecond = 8, 4
	askBurst, askPerSecond       = 2, 1
	askAllBurst, askAllPerSecond = 20, 20
)

// Conn is what a host and a target need of a UDP socket. *net.UDPConn is one.
type Conn interface {
	ReadFromUDPAddrPort(b []byte) (n int, addr netip.AddrPort, err error)
	WriteToUDPAddrPort(b []byte, addr netip.AddrPort) (int, error)
	LocalAddr() net.Addr
	Close() error
}

// Config says where a Host listens and tunes it.
type Config struct {
	Key  Key
	Port int // UDP; 0: the system chooses

	// Target is the machine to send connect requests to (target=): an address or
	// a name, with a port of its own if it has another one. It drops the
	// debugger it has. "": wait for an offer, in both address families;
	// "0.0.0.0" and "::": in that one.
	Target string
	// Polite leaves a target that has another debugger to it, whatever Target
	// says.
	Polite bool

	// Times and bounds; zero means the default.
	Retransmit time.Duration // until an unacknowledged packet is sent again: 500 ms
	ResendWait time.Duration // the same after a RESEND: 15 ms
	Retries    int           // transmissions before link.ErrNoAnswer: 20
	Connect    time.Duration // between connect requests: 500 ms
	Quiet      time.Duration // without any sign of life until people are told; half of it, until the target is asked: 10 s
	Silence    time.Duration // without any sign of life until the link ends: 1 min
	Queue      int           // packets received and not yet fetched: 256

	// Socket opens a UDP socket; nil: one that nobody else can share.
	Socket func(ctx context.Context, network, address string) (Conn, error)
	// Trace sees every packet and break-in as it crosses the link, decrypted and
	// without a trailer. It must not call the host and must not keep the slice.
	Trace func(out bool, packet []byte)
}

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&c.Retransmit, DefaultRetransmit)
	def(&c.ResendWait, DefaultResendWait)
	def(&c.Connect, DefaultConnect)
	def(&c.Quiet, DefaultQuiet)
	def(&c.Silence, DefaultSilence)
	if c.Retries <= 0 {
		c.Retries = DefaultRetries
	}
	if c.Queue <= 0 {
		c.Queue = DefaultQueue
	}
	if c.Socket == nil {
		c.Socket = listenExclusively
	}
	return c
}

// sending is a Send in progress.
type sending struct {
	id     uint32
	packet []byte
	done   chan error    // capacity 1: the end, nil for an ACK
	resend chan struct{} // capacity 1: a RESEND came
	sent   time.Time     // the last time
	times  int           // transmissions
}

// session is a data channel, or the offer of one that was answered.
type session struct {
	seal     *seal
	socket   Conn
	peer     netip.AddrPort
	local    netip.Addr // ours, as the target calls it
	protocol byte
	nonce    [nonceSize]byte
	offered  bool           // the target had no debugger: its numbering is new
	control  uint64         // highest sequence number of the target's control channel
	self     netip.AddrPort // whom the target calls connected, once it said so
	in, out  uint64         // sequence numbers of the data channel
	answered time.Time      // when
	asks     int            // requests for another offer since
}

// sameBoot reports whether a nonce is of the same boot of the target: all but
// its first four bytes stay as long as it is up.
func (s *session) sameBoot(nonce [nonceSize]byte) bool {
	return [nonceSize - 4]byte(s.nonce[4:]) == [nonceSize - 4]byte(nonce[4:])
}

// Host implements link.Host and link.Finder over UDP. See link.Host for the
// concurrency contract.
//
// Under mu are all who touch the state: a reader for each socket, the caller of
// Send, and tend, which looks after what is due. A datagram is sealed and
// written under mu too, so that sequence numbers leave in order; a socket's
// buffer may make that wait for a moment, never for the target.
type Host struct {
	cfg     Config
	control *seal
	port    int
	target  *where

	packets chan link.Packet
	dead    chan struct{} // closed when err is set
	sendSem chan struct{} // capacity 1: one Send at a time
	stop    context.CancelFunc
	wg      sync.WaitGroup
	sockets []Conn

	mu     sync.Mutex
	err    error
	closed bool
	stats  link.Stats
	plain  []byte // of the datagram in hand
	seed   maphash.Seed
	frame  []byte // of the datagram that goes out

	sess   *session
	prev   *seal      // of the session before, to know its late datagrams
	cands  []*session // answered offers, the newest last
	work   *fair      // for datagrams of strangers
	reply  *fair      // for answers to offers
	nudge  *fair      // for asking for an offer
	nudges bucket     // the same, for everybody

	sendID  uint32
	unacked bool // a packet with sendID is out; its ACK may still come
	pending *sending
	known   bool   // last is valid
	last    uint32 // highest id of the target
	lastSum uint64 // of the packet with that id
	alike   bool   // the next data packet may be the last one again, with another id
	first   bool   // no data packet has come in this session yet
	fresh   bool   // the next data packet starts the numbering anew
	repeat  bool   // the next data packet answers our RESET

	breakWanted  bool // asked for without a session
	resetWanted  bool // the same
	resetAt      time.Time
	resetWaiting bool
	resetTries   int
	resetID      uint32 // what it carried
	resendAt     time.Time

	heard   time.Time // the last sign of life of the target
	spoken  time.Time // the last datagram that our key opened
	probed  time.Time // the last time that a quiet target was asked
	bad     sighting  // whose datagrams the key does not open
	badByte byte      // their protocol byte
	held    sighting  // a target with another debugger
	heldBy  netip.AddrPort
	rival   sighting // another target with the key and port of ours
	streak  int      // datagrams of the peer that did not open, one after the other

	request time.Time // last connect request
	addrs   []netip.AddrPort
}

var (
	_ link.Host   = (*Host)(nil)
	_ link.Finder = (*Host)(nil)
)

// Listen opens the UDP port and waits for the target from then on. Errors name
// the port or the target and say what to do. ctx bounds the look-up of a name.
func Listen(ctx context.Context, cfg Config) (*Host, error) {
	cfg = cfg.withDefaults()
	w, err := parseTarget(cfg.Target, cfg.Port)
	if err != nil {
		return nil, err
	}
	addrs, err := w.resolve(ctx)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	h := &Host{
		cfg: cfg, control: newSeal(cfg.Key, cfg.Key), target: w, addrs: addrs,
		packets: make(chan link.Packet, cfg.Queue), plain: make([]byte, 0, maxDatagram), dead: make(chan struct{}), sendSem: make(chan struct{}, 1),
		sendID: hostFirst, heard: now, seed: maphash.MakeSeed(),
		work: newFair(workBurst, workPerSecond, true), reply: newFair(answerBurst, answerPerSecond, false), nudge: newFair(askBurst, askPerSecond, false),
		nudges: newBucket(askAllBurst, askAllPerSecond),
	}
	if err := h.open(ctx); err != nil {
		return nil, err
	}
	run, stop := context.WithCancel(context.Background())
	h.stop = stop
	for _, s := range h.sockets {
		h.wg.Go(func() { h.read(s) })
	}
	h.wg.Go(func() { h.tend(run) })
	return h, nil
}

// open opens the sockets. A machine without IPv6 does with IPv4.
func (h *Host) open(ctx context.Context) error {
	h.port = h.cfg.Port
	for _, network := range h.target.networks() {
		s, err := h.cfg.Socket(ctx, network, fmt.Sprintf(":%d", h.port))
		if err != nil {
			if network == "udp6" && len(h.sockets) > 0 && !errors.Is(err, errInUse) {
				continue
			}
			for _, s := range h.sockets {
				s.Close()
			}
			return listenError(h.port, err)
		}
		h.sockets = append(h.sockets, s)
		if a, ok := s.LocalAddr().(*net.UDPAddr); ok {
			h.port = a.Port
		}
	}
	return nil
}

// Port is the UDP port that the host listens on.
func (h *Host) Port() int { return h.port }

// read is the reader of a socket.
func (h *Host) read(s Conn) {
	buf := make([]byte, 64<<10)
	for failures := 0; ; {
		n, from, err := s.ReadFromUDPAddrPort(buf)
		if err == nil {
			failures = 0
			h.datagram(s, netip.AddrPortFrom(from.Addr().Unmap(), from.Port()), buf[:n])
			continue
		}
		// Windows reports here that an earlier datagram was refused, or that one
		// is too long.
		failures++
		if errors.Is(err, net.ErrClosed) || failures > 100 {
			h.fail(err)
			return
		}
		select {
		case <-h.dead:
			return
		case <-time.After(time.Duration(failures) * time.Millisecond):
		}
	}
}

// datagram takes one from a socket.
func (h *Host) datagram(s Conn, from netip.AddrPort, d []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return
	}
	h.stats.DatagramsIn++
	protocol, channel, err := peek(d)
	if err != nil {
		h.stats.Foreign++
		return
	}
	h.stats.BytesIn += uint64(len(d))
	if (h.sess == nil || from != h.sess.peer) && !h.work.take(from) {
		h.stats.Foreign++
		return
	}
	if channel == chanControl {
		h.controlLocked(s, from, protocol, d)
		return
	}
	h.dataLocked(s, from, d)
}

// openLocked checks a datagram of the target's. What it returns is valid until
// the next.
func (h *Host) openLocked(s *seal, d []byte) (meta, []byte, error) {
	return s.open(h.plain, d, false)
}

// controlLocked handles the control channel: offers and signs of life.
func (h *Host) controlLocked(s Conn, from netip.AddrPort, protocol byte, d []byte) {
	if len(d) != pokeDatagram {
		h.stats.Foreign++
		return
	}
	m, body, err := h.openLocked(h.control, d)
	if err != nil {
		h.stats.BadTags++
		if err == errTag {
			if h.bad.see(from, time.Now()) {
				h.badByte = protocol
			}
		}
		return
	}
	p, ok := decodePoke(body)
	if !ok {
		h.stats.Foreign++
		return
	}
	now := time.Now()
	if c := h.sess; c != nil {
		if c.sameBoot(p.nonce) && m.sequence <= c.control {
			h.stats.Replays++
			return
		}
		switch mine := c.peer.Addr() == from.Addr(); {
		case mine && p.connected.Port() != 0:
			if !c.sameBoot(p.nonce) {
				h.stats.Replays++
				return
			}
			if h.streak >= doubt && now.Sub(h.spoken) > 3*h.cfg.Retransmit {
				h.streak = 0
				break // its key is another one than ours
			}
			c.control, h.heard, h.stats.LastByte = m.sequence, now, now
			// What it calls us is what it says first; asked for, it may be about
			// somebody else.
			if !c.self.IsValid() && (p.connected == netip.AddrPortFrom(c.local, uint16(h.port)) || now.Sub(h.probed) > h.cfg.Quiet/4) {
				c.self = p.connected
			}
			if c.self != p.connected {
				h.failLocked(&TakenError{Target: from, By: p.connected})
				return
			}
			c.peer, c.socket = from, s // its port may change on the way
			return
		case !mine && now.Sub(h.heard) < h.cfg.Quiet:
			// Another machine with the same key, a record of this one, or this one
			// after a restart elsewhere.
			h.stats.Foreign++
			h.rival.see(from, now)
			return
		case p.connected.Port() != 0:
			h.stats.Foreign++
			return
		}
	}
	if h.othersLocked(&p) {
		if h.held.see(from, now) {
			h.heldBy = p.connected
		}
		return
	}
	for _, c := range h.cands {
		if c.nonce == p.nonce {
			h.stats.Duplicates++
			return
		}
	}
	if !h.reply.take(from) {
		return
	}
	var random [nonceSize]byte
	rand.Read(random[:]) // never fails
	body = encodeResponse(p.nonce, random)
	c := &session{
		seal: newSeal(dataKey(h.cfg.Key, body), h.cfg.Key), socket: s, peer: from, local: p.host.Addr(), protocol: protocol,
		nonce: p.nonce, offered: p.connected.Port() == 0, control: m.sequence, answered: now,
	}
	h.candidateLocked(c)
	h.writeLocked(s, from, h.control, meta{protocol: protocol, channel: chanControl, host: true, sequence: m.sequence}, body)
}

// othersLocked reports whether a target has another debugger, which keeps it.
func (h *Host) othersLocked(p *poke) bool {
	switch {
	case p.connected.Port() == 0:
		return false
	case !h.target.named():
		// It says so to us unasked: the port alone may be changed on the way. Of
		// several addresses here we may have answered from another one.
		return p.connected.Addr() != p.host.Addr() && !(p.connected.Port() == uint16(h.port) && ownAddress(p.connected.Addr()))
	}
	return h.cfg.Polite && p.connected != p.host
}

// ownAddress reports whether an address is one of this machine.
func ownAddress(a netip.Addr) bool {
	own, err := net.InterfaceAddrs()
	if err != nil {
		return false
	}
	return slices.ContainsFunc(own, func(n net.Addr) bool {
		p, ok := n.(*net.IPNet)
		return ok && p.IP.Equal(a.AsSlice())
	})
}

// candidateLocked keeps an answered offer. When there are too many, whoever has
// most of them loses the oldest: one that offers a lot does not push others
// out.
func (h *Host) candidateLocked(c *session) {
	if len(h.cands) == candidates {
		of, most := map[netip.Addr]int{}, 0
		for _, o := range h.cands {
			of[o.peer.Addr()]++
			most = max(most, of[o.peer.Addr()])
		}
		i := slices.IndexFunc(h.cands, func(o *session) bool { return of[o.peer.Addr()] == most })
		h.cands = slices.Delete(h.cands, i, i+1)
	}
	h.cands = append(h.cands, c)
}

// askLocked sends an empty control datagram, which makes a target offer itself
// at once.
func (h *Host) askLocked(s Conn, to netip.AddrPort, protocol byte) {
	h.writeLocked(s, to, h.control, meta{protocol: protocol, channel: chanControl, host: true, sequence: 1}, nil)
}

func (h *Host) writeLocked(s Conn, to netip.AddrPort, with *seal, m meta, payload []byte) {
	h.frame = with.append(h.frame[:0], m, payload)
	// What a socket cannot send is lost like what a network loses.
	if n, err := s.WriteToUDPAddrPort(h.frame, to); err == nil {
		h.stats.DatagramsOut++
		h.stats.BytesOut += uint64(n)
	}
}

// dataLocked handles the data channel. An answered offer becomes the session
// when the target speaks under its key: a recorded offer that somebody sends
// again changes nothing.
func (h *Host) dataLocked(s Conn, from netip.AddrPort, d []byte) {
	if c := h.sess; c != nil {
		m, p, err := h.openLocked(c.seal, d)
		switch {
		case err == nil && from != c.peer && m.sequence <= c.in:
			h.stats.Replays++
			return
		case err == nil:
			// A datagram of the target's that is new may come from elsewhere: its
			// address is translated on the way, or has changed.
			c.peer, c.socket = from, s
			h.streak, h.spoken = 0, time.Now()
			h.sessionLocked(c, m, p)
			return
		case err != errTag:
			h.stats.BadTags++
			return
		}
	}
	for _, c := range h.cands {
		if c.peer != from {
			continue
		}
		if m, p, err := h.openLocked(c.seal, d); err == nil {
			h.promoteLocked(c)
			h.sessionLocked(c, m, p)
			return
		}
	}
	switch {
	case h.sess == nil:
		// Of a session that an earlier debugger had, it may be. The next sign of
		// life would come in three seconds.
		h.stats.Foreign++
		if h.nudge.take(from) && h.nudges.take() {
			h.askLocked(s, from, d[4])
		}
	case from != h.sess.peer:
		h.stats.Foreign++
	default:
		if h.prev != nil {
			if _, _, err := h.openLocked(h.prev, d); err == nil {
				h.stats.Replays++
				return
			}
		}
		h.stats.BadTags++
		// The target may have taken up another answer of ours, or made a key with
		// somebody else; its next sign of life tells.
		if h.streak++; h.streak == doubt && h.nudge.take(from) {
			h.askLocked(h.sess.socket, from, h.sess.protocol)
		}
	}
}

// promoteLocked makes an answered offer the session.
func (h *Host) promoteLocked(c *session) {
	old := h.sess
	if old != nil {
		h.prev = old.seal
	}
	// The others stay: answers may overtake each other, and the target then
	// takes up an older one last.
	h.cands = slices.DeleteFunc(h.cands, func(o *session) bool { return o == c })
	h.sess, h.streak, h.spoken = c, 0, time.Now()
	h.held, h.rival, h.bad = sighting{}, sighting{}, sighting{}
	h.stats.Sessions++
	if old != nil && old.sameBoot(c.nonce) && (!c.offered || c.answered.Sub(old.answered) < h.cfg.Quiet) {
		// The same kernel with another key: both numberings go on.
		if p := h.pending; p != nil {
			h.transmitLocked(p.packet)
		}
		return
	}
	h.endSendLocked(link.ErrResynced)
	h.sendID, h.unacked = hostFirst, false
	h.known, h.first, h.alike = false, true, false
	h.fresh, h.repeat, h.resetWaiting = false, false, false
	if h.resetWanted && !c.offered {
		h.resetLocked()
	}
	h.resetWanted = false
	if h.breakWanted {
		h.breakWanted = false
		h.transmitLocked([]byte{kdproto.BreakInByte})
	}
}

// transmitLocked sends a packet under the session's key and next number.
func (h *Host) transmitLocked(packet []byte) {
	c := h.sess
	if c == nil || h.err != nil {
		return
	}
	c.out++
	if h.cfg.Trace != nil {
		h.cfg.Trace(true, packet)
	}
	h.writeLocked(c.socket, c.peer, c.seal, meta{protocol: c.protocol, host: true, sequence: c.out}, packet)
}

func (h *Host) controlOutLocked(t kdproto.PacketType, id uint32) {
	var b [kdproto.HeaderSize]byte
	h.transmitLocked(kdproto.AppendControl(b[:0], t, id))
}

// sessionLocked handles an authentic datagram of the session.
func (h *Host) sessionLocked(c *session, m meta, p []byte) {
	if m.sequence <= c.in {
		h.stats.Replays++
		return
	}
	c.in = m.sequence
	h.heard = time.Now()
	h.stats.LastByte = h.heard
	if h.cfg.Trace != nil {
		h.cfg.Trace(false, p)
	}
	if len(p) < kdproto.HeaderSize {
		if len(p) == checkSize {
			h.resendOutLocked()
			return
		}
		h.stats.Garbage += uint64(len(p))
		return
	}
	hd, _ := kdproto.DecodeHeader(p)
	switch hd.Leader {
	case kdproto.ControlLeader:
		h.packetControlLocked(hd)
		return
	case kdproto.DataLeader:
	default:
		h.stats.Garbage += uint64(len(p))
		return
	}
	payload := p[kdproto.HeaderSize:]
	switch {
	case int(hd.ByteCount) != len(payload):
		h.stats.Truncated++
		h.askAgainLocked()
	case kdproto.Checksum(payload) != hd.Checksum:
		h.stats.BadChecksums++
		h.askAgainLocked()
	default:
		h.packetDataLocked(hd, payload)
	}
}

func (h *Host) resendOutLocked() {
	h.stats.ResendsAsked++
	h.controlOutLocked(kdproto.TypeResend, 0)
}

// askAgainLocked asks for the last packet again, not too often.
func (h *Host) askAgainLocked() {
	now := time.Now()
	if now.Sub(h.resendAt) < h.cfg.ResendWait {
		return
	}
	h.resendAt = now
	h.resendOutLocked()
}

func (h *Host) packetControlLocked(hd kdproto.Header) {
	switch hd.Type {
	case kdproto.TypeAcknowledge:
		if !h.unacked || hd.ID != h.sendID {
			return // late
		}
		h.unacked = false
		h.sendID += idStep
		if p := h.pending; p != nil {
			h.pending = nil
			if p.times == 1 { // else nobody knows which copy it is for
				h.roundTripLocked(time.Since(p.sent))
			}
			p.done <- nil
		}
	case kdproto.TypeResend:
		if p := h.pending; p != nil {
			select {
			case p.resend <- struct{}{}:
			default:
			}
		}
	case kdproto.TypeReset:
		h.stats.Resets++
		switch {
		case h.resetWaiting:
			h.resetWaiting = false
			h.known, h.repeat = false, true
			return
		case time.Since(h.resetAt) < echo:
			h.known, h.alike = false, true // of a copy of ours
			return
		}
		h.endSendLocked(link.ErrResynced)
		h.known, h.fresh, h.repeat = false, true, false
		h.nextIDLocked()
		h.resetAt = time.Now()
		h.controlOutLocked(kdproto.TypeReset, h.sendID)
	}
}

// nextIDLocked gives up the id of a packet that is out, whose acknowledgement
// must not be taken for the next one's.
func (h *Host) nextIDLocked() {
	if h.unacked {
		h.sendID += idStep
		h.unacked = false
	}
}

func (h *Host) roundTripLocked(d time.Duration) {
	if h.stats.RoundTrip == 0 {
		h.stats.RoundTrip = d
		return
	}
	h.stats.RoundTrip += (d - h.stats.RoundTrip) / 8
}

func (h *Host) endSendLocked(err error) {
	if p := h.pending; p != nil {
		h.pending = nil
		p.done <- err
	}
}

// packetDataLocked handles a data packet with a good checksum.
func (h *Host) packetDataLocked(hd kdproto.Header, payload []byte) {
	if h.known && hd.ID == 0 && h.last != 0 {
		// Late copies do not get past the sequence numbers, so this is the first
		// packet of another one: the boot loader has handed over to the kernel.
		h.endSendLocked(link.ErrResynced)
		h.sendID, h.unacked = hostFirst, false
		h.known, h.fresh, h.repeat = false, true, false
	}
	if h.known && int32(hd.ID-h.last) <= 0 {
		h.stats.Duplicates++
		h.controlOutLocked(kdproto.TypeAcknowledge, hd.ID)
		return
	}
	sum := maphash.Bytes(h.seed, payload) ^ uint64(hd.Type)
	if h.alike && sum == h.lastSum {
		h.alike = false
		h.known, h.last = true, hd.ID
		h.stats.Duplicates++
		h.controlOutLocked(kdproto.TypeAcknowledge, hd.ID)
		return
	}
	if len(h.packets) == cap(h.packets) {
		return // not acknowledged: the target keeps it and comes again
	}
	h.alike, h.lastSum = false, sum
	if h.first && (h.sess.offered || hd.ID == 0) {
		h.fresh, h.repeat = true, false
	}
	h.first = false
	h.known, h.last = true, hd.ID
	h.stats.PacketsIn++
	p := link.Packet{Type: hd.Type, Payload: append([]byte(nil), payload...), Fresh: h.fresh, Repeated: h.repeat}
	h.fresh, h.repeat = false, false
	// It has room: only this place fills it, under mu, which lets nothing be
	// sent before the acknowledgement.
	h.packets <- p
	h.controlOutLocked(kdproto.TypeAcknowledge, hd.ID)
}

// tend does what is due at certain times until the host is closed.
func (h *Host) tend(ctx context.Context) {
	var looking sync.WaitGroup
	defer looking.Wait()
	tick := time.NewTicker(max(min(h.cfg.Connect, h.cfg.Retransmit, h.cfg.Silence)/4, time.Millisecond))
	defer tick.Stop()
	resolved, busy := time.Now(), false
	found := make(chan []netip.AddrPort, 1)
	for {
		select {
		case <-ctx.Done():
			return
		case a := <-found:
			busy = false
			if a != nil {
				h.mu.Lock()
				h.addrs = a
				h.mu.Unlock()
			}
		case <-tick.C:
			if !h.due() && h.target.name != "" && !busy && time.Since(resolved) > resolveEvery {
				resolved, busy = time.Now(), true
				looking.Go(func() {
					a, err := h.target.resolve(ctx)
					if err != nil {
						a = nil
					}
					found <- a
				})
			}
		}
	}
}

// due does what is due and reports whether a session stands.
func (h *Host) due() bool {
	now := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err != nil {
		return true
	}
	if h.resetWaiting && h.resetTries < resetTries && now.Sub(h.resetAt) >= h.cfg.Retransmit {
		tries := h.resetTries
		h.resetLocked()
		h.resetTries = tries + 1
	}
	for _, c := range h.cands {
		// The answer or what came of it was lost.
		if (h.sess == nil || c.answered.After(h.sess.answered)) && c.asks < askTries && now.Sub(c.answered) >= time.Duration(c.asks+1)*h.cfg.Retransmit {
			c.asks++
			h.askLocked(c.socket, c.peer, c.protocol)
		}
	}
	if c := h.sess; c != nil {
		quiet := now.Sub(h.heard)
		if quiet > h.cfg.Quiet/2 && now.Sub(h.probed) > h.cfg.Quiet/4 {
			// Its offer tells whether it has another debugger now.
			h.probed = now
			h.askLocked(c.socket, c.peer, c.protocol)
		}
		if quiet > h.cfg.Silence {
			h.failLocked(fmt.Errorf("no sign of life from %s for %s", c.peer, quiet.Round(time.Second)))
		}
		return true
	}
	every := h.cfg.Connect
	if h.cfg.Polite {
		every *= politeFactor
	}
	if len(h.addrs) > 0 && now.Sub(h.request) >= every {
		h.request = now
		for _, a := range h.addrs {
			for _, s := range h.sockets {
				if v6(s) == a.Addr().Is6() {
					h.askLocked(s, a, requestProtocol)
				}
			}
		}
	}
	return false
}

// fail ends the link with an error; the first one stays.
func (h *Host) fail(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.failLocked(err)
}

func (h *Host) failLocked(err error) {
	if h.err == nil {
		h.err = err
		close(h.dead)
	}
}

func (h *Host) errLocked() error {
	if h.closed {
		return link.ErrClosed
	}
	return h.err
}

// Send implements link.Host. Without a session it waits for one as long as it
// would for an acknowledgement.
func (h *Host) Send(ctx context.Context, t kdproto.PacketType, payload []byte) error {
	if len(payload) > kdproto.MaxPayload {
		return fmt.Errorf("kdnet: payload of %d bytes does not fit into a packet of %d", len(payload), kdproto.MaxPayload)
	}
	select {
	case h.sendSem <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-h.sendSem }()

	h.mu.Lock()
	if err := h.errLocked(); err != nil {
		h.mu.Unlock()
		return err
	}
	h.nextIDLocked()
	packet := kdproto.AppendData(make([]byte, 0, kdproto.HeaderSize+len(payload)+1), t, h.sendID, payload)
	p := &sending{
		id: h.sendID, packet: packet[:len(packet)-1], // no trailer on this link
		done: make(chan error, 1), resend: make(chan struct{}, 1),
	}
	h.pending, h.unacked = p, true
	h.stats.PacketsOut++
	h.mu.Unlock()

	timer := time.NewTimer(h.cfg.Retransmit)
	defer timer.Stop()
	for range h.cfg.Retries {
		h.mu.Lock()
		if h.pending == p {
			select {
			case <-p.resend: // was about the copy before
			default:
			}
			p.times++
			p.sent = time.Now()
			if p.times > 1 {
				h.stats.Resends++
			}
			h.transmitLocked(p.packet)
		}
		h.mu.Unlock()
		timer.Reset(h.cfg.Retransmit)
		if done, err := h.await(ctx, p, timer); done {
			return err
		}
	}
	h.mu.Lock()
	if h.pending == p {
		h.endSendLocked(link.ErrNoAnswer)
	}
	h.mu.Unlock()
	return <-p.done
}

// await waits until p has to be sent again or is done.
func (h *Host) await(ctx context.Context, p *sending, timer *time.Timer) (done bool, err error) {
	resend := p.resend
	for {
		select {
		case err := <-p.done:
			return true, err
		case <-resend:
			resend = nil
			timer.Reset(h.cfg.ResendWait)
		case <-timer.C:
			return false, nil
		case <-ctx.Done():
			h.mu.Lock()
			if h.pending == p {
				h.endSendLocked(ctx.Err())
			}
			h.mu.Unlock()
			return true, <-p.done
		case <-h.dead:
			select {
			case err := <-p.done:
				return true, err
			default:
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.pending == p {
				h.pending = nil
			}
			return true, h.errLocked()
		}
	}
}

// Receive implements link.Host.
func (h *Host) Receive(ctx context.Context) (link.Packet, error) {
	select {
	case p := <-h.packets:
		return p, nil
	default:
	}
	select {
	case p := <-h.packets:
		return p, nil
	case <-ctx.Done():
		return link.Packet{}, ctx.Err()
	case <-h.dead:
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case p := <-h.packets:
		if !h.closed {
			return p, nil
		}
	default:
	}
	return link.Packet{}, h.errLocked()
}

// BreakIn implements link.Host. Before a session stands it is remembered.
func (h *Host) BreakIn() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.errLocked(); err != nil {
		return err
	}
	if h.sess == nil {
		if !h.breakWanted {
			h.stats.BreakIns++
		}
		h.breakWanted = true
		return nil
	}
	h.stats.BreakIns++
	h.transmitLocked([]byte{kdproto.BreakInByte})
	return nil
}

// Resync implements link.Host. An unanswered RESET is repeated a few times:
// unlike bytes in a pipe, datagrams do not pile up in front of a target.
func (h *Host) Resync() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.errLocked(); err != nil {
		return err
	}
	for len(h.packets) > 0 {
		select {
		case <-h.packets:
		default:
		}
	}
	h.endSendLocked(link.ErrResynced)
	if h.sess == nil {
		h.resetWanted = true
		return nil
	}
	h.nextIDLocked()
	if h.resetID == h.sendID {
		h.sendID += idStep // so that it is no copy of the one before
	}
	h.fresh, h.repeat = false, false
	h.resetLocked()
	return nil
}

// resetLocked sends a RESET of ours, with our next id. Until its answer comes,
// what arrives was sent before it, copies of the last packet too.
func (h *Host) resetLocked() {
	h.resetAt, h.resetWaiting, h.resetTries, h.resetID = time.Now(), true, 1, h.sendID
	h.controlOutLocked(kdproto.TypeReset, h.sendID)
}

// Stats implements link.Host.
func (h *Host) Stats() link.Stats {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.stats
	if c := h.sess; c != nil {
		s.Peer = c.peer.String()
	}
	return s
}

// Close implements link.Host.
func (h *Host) Close() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	h.failLocked(link.ErrClosed)
	h.mu.Unlock()
	h.stop()
	var errs []error
	for _, s := range h.sockets {
		errs = append(errs, s.Close())
	}
	h.wg.Wait()
	return errors.Join(errs...)
}
