package discovery

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	refreshEvery = 10 * time.Second       // interfaces and sockets are looked at anew
	repeatAfter  = time.Second            // between announcements, and of one record on a link (RFC 6762 sections 6, 8.3)
	delayLeast   = 20 * time.Millisecond  // before an answer that others may give too (section 6)
	delayMost    = 120 * time.Millisecond // same
	peersFor     = time.Second            // how long the registry is not read again

	// answers to single askers, per second
	replyRate  = 50
	replyBurst = 100
)

// responder announces a zone and answers questions about it. One goroutine
// owns it; the readers of its sockets only pass packets on to that one.
type responder struct {
	lan   lan
	zone  zone
	peers func() []instance // the other servers of this machine that are announced
	log   *slog.Logger

	in      chan packet
	readers sync.WaitGroup
	shared  [2]*socket // by family
	direct  [2]*socket
	ways    map[int]*outlet // by index of the interface
	told    bool            // that there is no socket
	limit   *rate.Limiter

	peersNow []instance
	peersAt  time.Time
}

// outlet is an interface in use.
type outlet struct {
	way
	joined [2]bool
	due    time.Time // of the next announcement, zero for none
	more   int       // announcements that follow it
	last   time.Time // of the last one
}

func newResponder(l lan, z zone, peers func() []instance, log *slog.Logger) *responder {
	return &responder{
		lan: l, zone: z, peers: peers, log: log,
		in: make(chan packet, 16), ways: make(map[int]*outlet), limit: rate.NewLimiter(replyRate, replyBurst),
	}
}

// run works until ctx ends, says good-bye, and waits for what it started.
func (r *responder) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer func() {
		r.farewell()
		cancel()
		for _, s := range slices.Concat(r.shared[:], r.direct[:]) {
			if s != nil {
				s.c.Close()
			}
		}
		r.readers.Wait()
	}()
	r.refresh(ctx)
	again := time.NewTicker(refreshEvery)
	defer again.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if next, ok := r.nextDue(); ok {
			timer.Reset(time.Until(next))
		} else {
			timer.Stop()
		}
		select {
		case <-ctx.Done():
			return
		case p := <-r.in:
			r.handle(p)
		case <-again.C:
			r.refresh(ctx)
		case <-timer.C:
			r.announceDue()
		}
	}
}

// refresh opens the sockets that are missing and takes up the interfaces that
// there are now. What cannot be had now may come later.
func (r *responder) refresh(ctx context.Context) {
	var first error
	for f := range families {
		if r.shared[f] == nil {
			s, err := r.open(ctx, f, r.lan.mdnsPort, true)
			if r.shared[f] = s; err != nil && first == nil {
				first = err
			}
		}
		if r.direct[f] == nil {
			// In use: another server of this machine answers there.
			r.direct[f], _ = r.open(ctx, f, r.lan.directPort, false)
		}
	}
	if r.shared[0] == nil && r.shared[1] == nil && !r.told {
		r.told = true
		r.log.Warn("this server is not announced on the network; kd -QR without a machine will not find it", "port", r.lan.mdnsPort, "error", first)
	}
	there := make(map[int]bool)
	for _, w := range r.lan.ways() {
		there[w.ifi.Index] = true
		o := r.ways[w.ifi.Index]
		if o == nil {
			o = &outlet{}
			r.ways[w.ifi.Index] = o
		}
		changed := !slices.Equal(o.addrs, w.addrs)
		o.way = w
		for f, s := range r.shared {
			if s != nil && !o.joined[f] && s.join(&w.ifi) == nil {
				o.joined[f], changed = true, true
			}
		}
		if changed && (o.joined[0] || o.joined[1]) {
			r.schedule(o, 1)
		}
	}
	for i := range r.ways {
		if !there[i] {
			delete(r.ways, i)
		}
	}
}

func (r *responder) open(ctx context.Context, family int, port uint16, shared bool) (*socket, error) {
	s, err := openSocket(ctx, family, port, shared, r.lan.mdnsPort)
	if err != nil {
		return nil, err
	}
	r.readers.Go(func() { s.read(ctx, r.in) })
	return s, nil
}

// schedule has the zone announced on a way soon, and more times after that.
func (r *responder) schedule(o *outlet, more int) {
	o.more = max(o.more, more)
	if !o.due.IsZero() {
		return
	}
	o.due = time.Now().Add(delayLeast + rand.N(delayMost-delayLeast))
	if t := o.last.Add(repeatAfter); o.due.Before(t) {
		o.due = t
	}
}

func (r *responder) nextDue() (t time.Time, ok bool) {
	for _, o := range r.ways {
		if !o.due.IsZero() && (!ok || o.due.Before(t)) {
			t, ok = o.due, true
		}
	}
	return t, ok
}

func (r *responder) announceDue() {
	now := time.Now()
	for _, o := range r.ways {
		if o.due.IsZero() || o.due.After(now) {
			continue
		}
		r.multicast(o, r.zone.everything(o.addrs))
		o.last, o.due = now, time.Time{}
		if o.more > 0 {
			o.more--
			o.due = now.Add(repeatAfter)
		}
	}
}

func (r *responder) farewell() {
	for _, o := range r.ways {
		if !o.last.IsZero() {
			r.multicast(o, farewell(r.zone.everything(o.addrs)))
		}
	}
}

func (r *responder) multicast(o *outlet, units []unit) {
	for _, b := range pack(0, nil, units, maxPacket, maxPackets) {
		for f, s := range r.shared {
			if s != nil && o.joined[f] {
				s.multicast(&o.ifi, b) // an interface may lack one of the families, or just go down
			}
		}
	}
}

// handle answers a question. Who asked by unicast hears about the other
// servers of this machine too; those get a copy of a multicast question.
func (r *responder) handle(p packet) {
	q, ok := parseQuery(p.data)
	if !ok {
		return
	}
	single := slices.Contains(r.direct[:], p.sock) || p.to.IsValid() && !p.to.IsMulticast()
	strange := p.from.Port() != r.lan.mdnsPort // RFC 6762 section 6.7
	o := r.ways[p.way]
	if p.way != 0 && o == nil && !single {
		return // joined by another program
	}
	if !single && !strange && !q.asksUnicast() {
		if units, _ := r.zone.answer(q, nil); len(units) == 0 {
			return
		}
		for _, w := range r.ways {
			if o == nil || w == o {
				r.schedule(w, 0)
			}
		}
		return
	}
	z := r.zone
	if single {
		z.instances = slices.Concat(z.instances, r.others())
	}
	units, ours := z.answer(q, r.addresses(o))
	if !ours || len(units) == 0 && !single || !r.limit.Allow() {
		return
	}
	echo := q.questions
	if !strange {
		echo = nil
	} else {
		units = plain(units)
	}
	limit, most := maxPacket, maxPackets
	if !r.onLink(p.from.Addr()) {
		// A stranger who lies about his address must not have more sent there
		// than he sends himself.
		limit, most = min(limit, len(p.data)), 1
	}
	for _, b := range pack(q.id, echo, units, limit, most) {
		if err := p.sock.reply(p, b); err != nil {
			r.log.Debug("an answer about this server could not be sent", "to", p.from.String(), "error", err)
			return
		}
	}
}

// addresses are those of one interface, of all if it is not known.
func (r *responder) addresses(o *outlet) []netip.Addr {
	if o != nil {
		return o.addrs
	}
	var l []netip.Addr
	for _, w := range r.ways {
		l = append(l, w.addrs...)
	}
	return l[:min(len(l), maxAddrs)]
}

func (r *responder) onLink(a netip.Addr) bool {
	a = a.WithZone("")
	for _, w := range r.ways {
		for _, p := range w.prefixes {
			if p.Contains(a) {
				return true
			}
		}
	}
	return false
}

func (r *responder) others() []instance {
	if now := time.Now(); now.Sub(r.peersAt) > peersFor {
		r.peersNow, r.peersAt = r.peers(), now
	}
	return r.peersNow
}
