package kdnet

import (
	"context"
	"flag"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"openkd/kdproto"
	"openkd/link"
	"openkd/link/fault"
)

// packets of the soak, both directions together; by hand:
//
//	go test ./link/kdnet -run Soak -packets 1000000 -timeout 1h
var soakPackets = flag.Int("packets", 3000, "packets of the soak")

// TestSoak exchanges packets while datagrams are lost, changed, doubled and
// overtaken: no wrong byte, none lost, none twice.
func TestSoak(t *testing.T) {
	key := NewKey()
	f := fault.Config{Drop: 0.01, Duplicate: 0.01, Reorder: 0.01, Corrupt: 0.01, Noise: 0.01, Seed: 42}
	cfg := quick(key)
	cfg.Retransmit, cfg.Silence, cfg.Socket = 20*time.Millisecond, 10*time.Minute, spoilt(f)
	h := listen(t, cfg)
	tc := quickTarget(key, h.Port())
	tc.Timeout, tc.Offer = 20*time.Millisecond, time.Second
	k := newTarget(t, tc)
	meet(t, h, k)
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	n := *soakPackets / 2
	// Behind the last reply the target goes on listening until the host has it:
	// the acknowledgement of the last request may be lost, too. It waits for more
	// of the kind, since what is too short for another kind it would ask for again.
	asked, over := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		err := answer(ctx, k, n, 1000)
		if err != nil {
			t.Error(err)
		}
		for err == nil {
			_, _, err = k.Receive(asked, kdproto.TypeManipulate, time.Second)
		}
	})
	if err := ask(ctx, h, n, 1000); err != nil {
		t.Error(err)
		cancel()
	}
	over()
	wg.Wait()
	s := h.Stats()
	if s.BadTags == 0 || s.Replays == 0 || s.Resends == 0 || s.Foreign == 0 {
		t.Errorf("the faults did not show: %+v", s)
	}
	t.Logf("%d packets: %+v", *soakPackets, s)
}

// FuzzHost gives the host's state machine what a machine with the key may
// send, on both channels, in any order.
func FuzzHost(f *testing.F) {
	key := key1234(f)
	p := poke{nonce: [nonceSize]byte{1}, host: netip.MustParseAddrPort("10.0.0.1:50000")}
	f.Add(append([]byte{chanControl, 0x57, 0x01}, p.encode()...))
	data := kdproto.AppendData(nil, kdproto.TypeStateChange64, 0, make([]byte, kdproto.StateChangeSize))
	f.Add(append([]byte{chanData, byte(len(data) - 1), 0}, data[:len(data)-1]...))
	f.Add(append([]byte{chanData, 16, 0}, kdproto.AppendControl(nil, kdproto.TypeReset, 0)...))
	f.Fuzz(func(t *testing.T, script []byte) {
		sink := &nowhere{}
		h := &Host{
			cfg: Config{Key: key, Queue: 4}.withDefaults(), control: newSeal(key, key), target: &where{v4: true, v6: true}, sockets: []Conn{sink},
			packets: make(chan link.Packet, 4), dead: make(chan struct{}), plain: make([]byte, 0, maxDatagram), sendID: hostFirst,
			work: newFair(1e9, 1e9, false), reply: newFair(1e9, 1e9, false), nudge: newFair(1e9, 1e9, false), nudges: newBucket(1e9, 1e9),
		}
		from := netip.MustParseAddrPort("10.0.0.2:50000")
		control, seq := newSeal(key, key), uint64(3)
		for len(script) >= 3 {
			n := min(int(script[1])|int(script[2])<<8&0xF00, len(script)-3)
			body := script[3 : 3+n]
			s := control
			if script[0]&1 == chanData {
				h.mu.Lock()
				if len(h.cands) > 0 {
					s = h.cands[len(h.cands)-1].seal
				} else if h.sess != nil {
					s = h.sess.seal
				}
				h.mu.Unlock()
			}
			h.datagram(sink, from, s.append(nil, meta{protocol: 5, channel: script[0] & 1, sequence: seq}, body))
			if script[0]&2 == 0 {
				seq++
			}
			if script[0]&4 != 0 {
				h.Resync()
			}
			if script[0]&8 != 0 {
				h.BreakIn()
			}
			h.Condition()
			script = script[3+n:]
		}
		if len(h.packets) > 4 || len(h.cands) > candidates {
			t.Error("a bound does not hold")
		}
	})
}

// FuzzTarget does the same to the target.
func FuzzTarget(f *testing.F) {
	key := key1234(f)
	f.Add([]byte{0, 1, 0, 0x62})
	f.Add(append([]byte{0, 16, 0}, kdproto.AppendControl(nil, kdproto.TypeReset, hostFirst)...))
	f.Add(append([]byte{0, 0x48, 0}, kdproto.AppendData(nil, kdproto.TypeManipulate, hostFirst, make([]byte, 56))...))
	f.Add([]byte{1, 0, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		k := &Target{
			cfg: TargetConfig{Key: key, Timeout: time.Nanosecond, Retries: 1}, control: newSeal(key, key), socket: &nowhere{},
			inbox: make(chan []byte, inboxSize), joined: make(chan struct{}, 1), done: make(chan struct{}), plain: make([]byte, 0, maxDatagram),
			work: newFair(1e9, 1e9, false), asked: newFair(1e9, 1e9, false), askedAll: newBucket(1e9, 1e9),
		}
		k.used = true
		k.Restart()
		from := netip.MustParseAddrPort("10.0.0.1:50000")
		k.cfg.Host = from
		control := newSeal(key, key)
		k.offerLocked(from)
		body := encodeResponse(k.boot, [nonceSize]byte{})
		k.datagram(from, control.append(nil, meta{channel: chanControl, host: true, sequence: 3}, body))
		data := newSeal(dataKey(key, body), key)
		for seq := uint64(1); len(script) >= 3; seq++ {
			n := min(int(script[1])|int(script[2])<<8&0xF00, len(script)-3)
			s := data
			if script[0]&1 == chanControl {
				s = control
			}
			k.datagram(from, s.append(nil, meta{channel: script[0] & 1, host: true, sequence: seq}, script[3:3+n]))
			switch {
			case script[0]&2 != 0:
				k.PollBreakIn()
			case script[0]&4 != 0:
				k.Receive(t.Context(), kdproto.TypeManipulate, time.Nanosecond)
			case script[0]&8 != 0:
				k.Send(t.Context(), kdproto.TypeDebugIO, script[3:3+n], true)
			}
			script = script[3+n:]
		}
	})
}

// nowhere is a socket whose datagrams vanish.
type nowhere struct{}

func (*nowhere) ReadFromUDPAddrPort([]byte) (int, netip.AddrPort, error) {
	return 0, netip.AddrPort{}, net.ErrClosed
}
func (*nowhere) WriteToUDPAddrPort(b []byte, _ netip.AddrPort) (int, error) { return len(b), nil }
func (*nowhere) LocalAddr() net.Addr                                        { return &net.UDPAddr{IP: net.IPv4zero, Port: 50000} }
func (*nowhere) Close() error                                               { return nil }
