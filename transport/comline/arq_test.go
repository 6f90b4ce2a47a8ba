package comline

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"
)

// TestOrder: over a line that loses a fifth of what it is given in either
// direction, every frame arrives once and in order, far beyond the numbers'
// turning over, and none goes again that had arrived, unless its acknowledgement
// was lost and the timer asked.
func TestOrder(t *testing.T) {
	const frames = 200_000
	for seed := range uint64(3) {
		dice := rand.New(rand.NewPCG(seed, 7))
		lost := func() bool { return dice.IntN(5) == 0 }
		now := time.Unix(0, 0)
		s, r := newSender(0), receiver{}
		var out, back []packet // on the line
		var space [maxBitmap]byte
		sent, got, resent, asked := 0, 0, 0, 0
		for got < frames {
			now = now.Add(time.Millisecond)
			seq, tx, data, again := s.again(now)
			if again {
				resent++
			} else if s.room() && sent < frames {
				data = binary.LittleEndian.AppendUint32(nil, uint32(sent))
				seq, tx = s.add(data, now)
				sent++
				again = true
			}
			if again {
				s.left(tx, now)
				if !lost() {
					out = append(out, packet{kind: frameData, seq: seq, tx: tx, data: data})
				}
			}
			for len(out) > 0 && (dice.IntN(3) > 0 || !again) {
				r.arrived(out[0], func(b []byte) {
					if n := int(binary.LittleEndian.Uint32(b)); n != got {
						t.Fatalf("frame %d came instead of %d", n, got)
					}
					got++
				})
				out = out[1:]
			}
			if r.due {
				p := packet{kind: frameAck}
				r.fill(&p, &space)
				p.bitmap = append([]byte(nil), p.bitmap...)
				if !lost() {
					back = append(back, p)
				}
			}
			for len(back) > 0 && dice.IntN(3) > 0 {
				if !s.acked(back[0], now) {
					t.Fatal("an acknowledgement made no sense")
				}
				back = back[1:]
			}
			if !again && len(out) == 0 && len(back) == 0 && s.inFlight() > 0 {
				s.expire()
				asked++
			}
		}
		t.Logf("%d frames, %d went again, %d came again, the timer asked %d times", frames, resent, r.dups, asked)
		if int(r.dups) > asked {
			t.Errorf("%d frames went again that had arrived, the timer asked %d times", r.dups, asked)
		}
	}
}

func TestStaleAck(t *testing.T) {
	now := time.Unix(0, 0)
	s := newSender(0)
	for range 10 {
		_, tx := s.add([]byte{1}, now)
		s.left(tx, now)
	}
	for _, p := range []packet{{ack: 11}, {ack: 0xffff}, {echo: 11}, {ack: 5, echo: 0x8000}} {
		if s.acked(p, now) || s.inFlight() != 10 {
			t.Errorf("%+v was believed", p)
		}
	}
	if !s.acked(packet{ack: 3, echo: 5, bitmap: []byte{0xff, 0xff}}, now.Add(time.Second)) || s.inFlight() != 7 {
		t.Errorf("%d in flight", s.inFlight())
	}
	if s.srtt != time.Second {
		t.Errorf("the round trip is %v", s.srtt)
	}
	if seq, _, _, ok := s.again(now); !ok || seq != 3 {
		t.Errorf("frame %d goes again, %v", seq, ok)
	}
	if _, _, _, ok := s.again(now); ok {
		t.Error("a frame that arrived goes again")
	}
}

// TestPatience: the timer backs off, within bounds, and comes back with news.
func TestPatience(t *testing.T) {
	now := time.Unix(0, 0)
	s := newSender(10 * time.Millisecond)
	_, tx := s.add([]byte{1}, now)
	s.left(tx, now)
	s.sample(100 * time.Millisecond)
	last := time.Duration(0)
	for range 20 {
		w := s.alarm().Sub(now)
		if w < last || w > maxWait+s.slack {
			t.Fatalf("waits %v after %v", w, last)
		}
		last = w
		now = now.Add(w)
		s.expire()
		if !s.alarm().IsZero() {
			t.Fatal("the timer runs before the frame has gone again")
		}
		_, tx, _, _ = s.again(now)
		s.left(tx, now)
	}
	if last < time.Second {
		t.Errorf("the last wait was %v", last)
	}
	s.acked(packet{ack: 1, echo: tx}, now)
	if !s.alarm().IsZero() {
		t.Error("the timer runs for nothing")
	}
	_, tx = s.add([]byte{1}, now)
	s.left(tx, now)
	if w := s.alarm().Sub(now); w > 600*time.Millisecond {
		t.Errorf("waits %v after news", w)
	}
}
