package comline

import (
	"math"
	"time"
)

// window is how many data frames may be under way: what a bitmap can tell.
const window = 8 * maxBitmap

// sender keeps data frames until they have arrived.
//
// The line does not reorder. So when a transmission is known to have arrived
// (packet.echo), every one before it has arrived or is lost, and what is lost
// goes again at once. Only when nothing comes back does a timer ask, by sending
// the oldest frame again.
type sender struct {
	base  uint16 // the oldest frame that has not arrived
	next  uint16 // the next frame
	tx    uint16 // the next transmission; the first is 1
	echo  uint16
	slots [128]slot       // by frame number; at least window, a power of two
	times [1024]time.Time // by transmission, when it left

	srtt, rttvar time.Duration
	slack        time.Duration // what the other side may take to find its turn
	backoff      int           // timers that went by without anything coming back
	armed        time.Time     // since when the timer runs; zero: it does not

	lost, sent float64 // lost frames and sent bytes lately
}

type slot struct {
	data    []byte
	tx      uint16
	arrived bool
	lost    bool
}

func newSender(slack time.Duration) *sender {
	return &sender{tx: 1, slack: slack}
}

func (s *sender) at(seq uint16) *slot { return &s.slots[seq%uint16(len(s.slots))] }

// inFlight is how many frames wait for an acknowledgement.
func (s *sender) inFlight() int { return int(s.next - s.base) }

// room reports whether the window takes one more frame.
func (s *sender) room() bool { return s.inFlight() < window }

// add takes a frame, which then is transmitted at once.
func (s *sender) add(data []byte, now time.Time) (seq, tx uint16) {
	if s.base == s.next {
		s.armed = time.Time{}
	}
	seq = s.next
	s.next++
	sl := s.at(seq)
	*sl = slot{data: append(sl.data[:0], data...)}
	return seq, s.transmit(seq, now)
}

// again returns the oldest frame that was lost, which then is transmitted.
func (s *sender) again(now time.Time) (seq, tx uint16, data []byte, ok bool) {
	for seq := s.base; seq != s.next; seq++ {
		if sl := s.at(seq); sl.lost {
			sl.lost = false
			return seq, s.transmit(seq, now), sl.data, true
		}
	}
	return 0, 0, nil, false
}

func (s *sender) transmit(seq uint16, now time.Time) uint16 {
	sl := s.at(seq)
	sl.tx = s.tx
	s.times[s.tx%uint16(len(s.times))] = now // until left says better
	s.tx++
	s.sent += float64(len(sl.data) + frameCost)
	if s.sent > 64<<10 {
		s.sent /= 2
		s.lost /= 2
	}
	return sl.tx
}

// left says when transmissions that have just been made left.
func (s *sender) left(tx uint16, now time.Time) {
	s.times[tx%uint16(len(s.times))] = now
	if s.armed.IsZero() {
		s.armed = now
	}
}

// acked takes an acknowledgement. It reports false for one that makes no sense.
func (s *sender) acked(p packet, now time.Time) bool {
	if p.ack-s.base > s.next-s.base || p.echo-s.echo >= s.tx-s.echo {
		// An older one than the last: nothing overtakes on a line.
		return false
	}
	news := false
	for ; s.base != p.ack; s.base++ {
		news = true
	}
	for i := range 8 * len(p.bitmap) {
		seq := p.ack + 1 + uint16(i)
		if p.bitmap[i/8]&(1<<(i%8)) == 0 || seq-s.base >= s.next-s.base {
			continue
		}
		if sl := s.at(seq); !sl.arrived {
			sl.arrived, sl.lost = true, false
			news = true
		}
	}
	if p.echo != s.echo {
		news = true
		s.echo = p.echo
		if s.tx-p.echo < uint16(len(s.times)) {
			s.sample(now.Sub(s.times[p.echo%uint16(len(s.times))]))
		}
		for seq := s.base; seq != s.next; seq++ {
			if sl := s.at(seq); !sl.arrived && !sl.lost && int16(s.echo-sl.tx) >= 0 {
				sl.lost = true
				s.lost++
			}
		}
	}
	if news {
		s.backoff = 0
		s.armed = time.Time{}
		if s.base != s.next {
			s.armed = now
		}
	}
	return true
}

// sample is RFC 6298 section 2.
func (s *sender) sample(rtt time.Duration) {
	rtt = max(rtt, 0)
	if s.srtt == 0 {
		s.srtt, s.rttvar = max(rtt, 1), rtt/2
		return
	}
	s.rttvar += ((s.srtt - rtt).Abs() - s.rttvar) / 4
	s.srtt += (rtt - s.srtt) / 8
}

const (
	firstWait = 200 * time.Millisecond // for an answer, before a round trip was measured
	maxWait   = 2 * time.Second
)

// wait is how long to wait for news before asking.
func (s *sender) wait() time.Duration {
	d := firstWait
	if s.srtt > 0 {
		d = s.srtt + 4*s.rttvar
	}
	return min((d+s.slack)<<min(s.backoff, 8), maxWait+s.slack)
}

// alarm is when the timer goes off; zero: it does not run.
func (s *sender) alarm() time.Time {
	if s.armed.IsZero() || s.base == s.next {
		return time.Time{}
	}
	return s.armed.Add(s.wait())
}

// expire is called when the timer has gone off: the oldest frame goes again.
func (s *sender) expire() {
	s.at(s.base).lost = true
	s.backoff++
	s.lost++
	s.armed = time.Time{} // runs again when the frame has left
}

// payload is how long frames should be where the line spoils bytes: the longer,
// the more is lost with one; the shorter, the more goes into headers. The best
// length is the root of cost times the bytes between faults.
func (s *sender) payload(most int) int {
	if s.lost < 3 {
		return most
	}
	return max(minPayload, min(most, int(math.Sqrt(frameCost*s.sent/s.lost))))
}

// receiver puts data frames in order.
type receiver struct {
	next uint16 // the first frame that has not arrived
	echo uint16 // the transmission that arrived last
	held [128][]byte
	far  uint16 // frames behind next up to the last that is held
	due  bool   // there is something to acknowledge
	dups uint64
}

// arrived takes a data frame and calls deliver for each that is in order now.
func (r *receiver) arrived(p packet, deliver func([]byte)) {
	r.due, r.echo = true, p.tx
	d := p.seq - r.next
	switch {
	case d >= window || d > 0 && r.held[p.seq%uint16(len(r.held))] != nil:
		r.dups++
		return
	case d > 0:
		r.held[p.seq%uint16(len(r.held))] = append([]byte(nil), p.data...)
		r.far = max(r.far, d)
		return
	}
	deliver(p.data)
	for {
		r.next++
		if r.far == 0 {
			return
		}
		r.far--
		h := &r.held[r.next%uint16(len(r.held))]
		if *h == nil {
			return
		}
		deliver(*h)
		*h = nil
	}
}

// fill puts what has arrived into a packet.
func (r *receiver) fill(p *packet, space *[maxBitmap]byte) {
	p.ack, p.echo = r.next, r.echo
	*space = [maxBitmap]byte{}
	for i := range r.far {
		if r.held[(r.next+1+i)%uint16(len(r.held))] != nil {
			space[i/8] |= 1 << (i % 8)
		}
	}
	p.bitmap = space[:(r.far+7)/8]
	r.due = false
}
