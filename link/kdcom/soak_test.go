package kdcom

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"openkd/kdproto"
	"openkd/link"
	"openkd/link/fault"
)

// content is the data of exchange n in one direction: any receiver can make it
// again from n. It is full of what a receiver might take for something else.
func content(n uint64, reply bool) []byte {
	seed := n * 2
	if reply {
		seed++
	}
	dice := rand.New(rand.NewPCG(seed, 0x6b64))
	size := dice.IntN(200)
	if dice.IntN(50) == 0 {
		size = dice.IntN(kdproto.MaxTransfer + 1)
	}
	b := make([]byte, 0, size+64)
	for len(b) < size {
		switch dice.IntN(8) {
		case 0:
			b = append(b, "0000"...)
		case 1:
			b = append(b, "iiii"...)
		case 2:
			b = append(b, 0xAA, 'b', 0xAA, '0')
		case 3: // the header of a packet that will not come
			b = kdproto.Header{Leader: kdproto.DataLeader, Type: kdproto.TypeStateChange64,
				ByteCount: uint16(240 + dice.IntN(3760)), ID: kdproto.InitialID | dice.Uint32N(2)}.Append(b)
		default:
			b = binary.LittleEndian.AppendUint64(b, dice.Uint64())
		}
	}
	// Bytes put in before the end push the last ones out; where one of those
	// is a trailer, and the sums agree by chance, no receiver can see it. With
	// no AA near the end every single fault can be seen.
	b = b[:size]
	for i := max(0, size-8); i < size; i++ {
		if b[i] == kdproto.Trailer {
			b[i] = 'z'
		}
	}
	return b
}

func soakPacket(n uint64, reply bool) []byte {
	b := content(n, reply)
	return kdproto.NewRequest(kdproto.APIWriteVirtualMemory, 0, &kdproto.Memory{Address: n, Count: uint32(len(b))}, b).Append(nil)
}

// soakTarget serves requests, prints now and then, and checks every byte.
func soakTarget(ctx context.Context, k *Target) error {
	stop := func(n uint64) []byte {
		s := kdproto.StateChange{Kind: kdproto.StateException, ProgramCounter: n}
		return s.Append(nil)
	}
	var last, prints uint64
	if err := k.Send(ctx, kdproto.TypeStateChange64, stop(0), false); err != nil {
		return err
	}
	for {
		p, r, err := k.Receive(ctx, kdproto.TypeManipulate, 0)
		switch {
		case err != nil:
			return err
		case r == Timeout:
			continue
		case r == Resend:
			if err := k.Send(ctx, kdproto.TypeStateChange64, stop(last), false); err != nil {
				return err
			}
			continue
		}
		m, err := kdproto.DecodeManipulate(p)
		if err != nil {
			return err
		}
		var mem kdproto.Memory
		mem.Get(&m.Union)
		if !bytes.Equal(p, soakPacket(mem.Address, false)) {
			return fmt.Errorf("the target got wrong bytes in request %d", mem.Address)
		}
		if mem.Address != last+1 && mem.Address != last {
			return fmt.Errorf("the target got request %d after %d", mem.Address, last)
		}
		last = mem.Address
		if last%4 == 0 {
			prints++
			if err := k.Send(ctx, kdproto.TypeDebugIO, kdproto.NewPrint(strconv.AppendUint(nil, prints, 10)).Append(nil), false); err != nil {
				return err
			}
		}
		if err := k.Send(ctx, kdproto.TypeManipulate, soakPacket(last, true), false); err != nil {
			return err
		}
	}
}

// soakHost is what a debugger does above the link: one request at a time, and a
// resynchronisation when no reply comes.
type soakHost struct {
	h       *Host
	replied uint64 // last exchange that is complete
	printed uint64
	loose   bool // numbering began anew: the last packet may come once more

	resyncs, noAnswer, resynced, repeats int
}

var errNoReply = errors.New("no reply")

func (s *soakHost) exchange(ctx context.Context, n uint64) error {
	if err := s.h.Send(ctx, kdproto.TypeManipulate, soakPacket(n, false)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	for {
		p, err := s.h.Receive(ctx)
		if errors.Is(err, context.DeadlineExceeded) {
			return errNoReply
		}
		if err != nil {
			return err
		}
		if p.Fresh || p.Repeated {
			s.loose = true
		}
		switch p.Type {
		case kdproto.TypeStateChange64:
			if n > 1 && !s.loose {
				// A RESEND that came too late makes a stopped target repeat it.
				s.repeats++
			}
		case kdproto.TypeDebugIO:
			d, err := kdproto.DecodeDebugIO(p.Payload)
			if err != nil {
				return err
			}
			v, err := strconv.ParseUint(string(d.Text), 10, 64)
			if err != nil {
				return fmt.Errorf("wrong bytes in a print: %q", d.Text)
			}
			if v == s.printed && s.loose {
				s.repeats++
			} else if v != s.printed+1 && !(s.loose && v > s.printed) {
				return fmt.Errorf("print %d after %d", v, s.printed)
			}
			s.printed = v
		case kdproto.TypeManipulate:
			m, err := kdproto.DecodeManipulate(p.Payload)
			if err != nil {
				return err
			}
			var mem kdproto.Memory
			mem.Get(&m.Union)
			if !bytes.Equal(p.Payload, soakPacket(mem.Address, true)) {
				return fmt.Errorf("the host got wrong bytes in reply %d", mem.Address)
			}
			if mem.Address == n {
				s.replied = n
				s.loose = false
				return nil
			}
			if mem.Address != s.replied || !s.loose {
				return fmt.Errorf("reply %d while %d is asked", mem.Address, n)
			}
			s.repeats++
		default:
			return fmt.Errorf("a packet of type %v", p.Type)
		}
	}
}

// soak exchanges until packets data packets have gone both ways.
func soak(t testing.TB, packets int, cfg fault.Config) {
	a, b := net.Pipe()
	spoiled := fault.New(a, cfg)
	// Tiny time-outs make it quick; ten of them still last longer than a busy
	// machine lets a thread wait.
	h := NewHost(spoiled, HostOptions{AckTimeout: 40 * time.Millisecond, ResendWait: 2 * time.Millisecond, ByteGap: 4 * time.Millisecond, Retries: 10})
	k := NewTarget(b, TargetOptions{ByteTimeout: 8 * time.Millisecond})
	ctx, cancel := context.WithCancel(context.Background())
	end := make(chan error, 1)
	go func() { end <- soakTarget(ctx, k) }()
	defer func() {
		cancel()
		h.Close()
		k.Close()
	}()
	s := soakHost{h: h}
	start := time.Now()
	total := func(st link.Stats) int { return int(st.PacketsIn + st.PacketsOut) }
	n := uint64(0)
	for total(h.Stats()) < packets {
		n++
		for tries := 0; ; tries++ {
			err := s.exchange(ctx, n)
			if err == nil {
				break
			}
			switch {
			case errors.Is(err, errNoReply):
			case errors.Is(err, link.ErrResynced):
				s.resynced++
			case errors.Is(err, link.ErrNoAnswer):
				s.noAnswer++
			default:
				select {
				case err2 := <-end:
					t.Fatalf("exchange %d: %v; target: %v", n, err, err2)
				default:
					t.Fatalf("exchange %d: %v", n, err)
				}
			}
			if tries == 5 {
				t.Fatalf("exchange %d did not complete after 5 resynchronisations: %v; %+v", n, err, h.Stats())
			}
			select {
			case err := <-end:
				t.Fatalf("exchange %d: target: %v", n, err)
			default:
			}
			s.resyncs++
			s.loose = true
			if err := h.Resync(); err != nil {
				t.Fatal(err)
			}
			// The target says where it is; then the request is sent again.
			wait, stop := context.WithTimeout(ctx, time.Second)
			for {
				p, err := h.Receive(wait)
				if err != nil {
					break
				}
				if p.Type == kdproto.TypeDebugIO {
					if d, err := kdproto.DecodeDebugIO(p.Payload); err == nil {
						if v, err := strconv.ParseUint(string(d.Text), 10, 64); err == nil {
							s.printed = v
						}
					}
				}
				if p.Type == kdproto.TypeStateChange64 {
					break
				}
				if p.Type == kdproto.TypeManipulate && p.Repeated {
					h.Resync() // it was repeating a reply; once more for the stop
				}
			}
			stop()
		}
	}
	d := time.Since(start)
	st := h.Stats()
	t.Logf("%d packets in %v (%.0f/s), faults %+v", total(st), d.Round(time.Millisecond), float64(total(st))/d.Seconds(), spoiled.Counts())
	t.Logf("resyncs %d (no answer %d, numbering anew %d), repeats %d, link %+v", s.resyncs, s.noAnswer, s.resynced, s.repeats, st)
	c := spoiled.Counts()
	if cfg.Drop > 0 && (c.Drops == 0 || c.Corruptions == 0 || c.Dups == 0 || c.NoiseRun == 0) {
		t.Errorf("the line was too good: %+v", c)
	}
	if s.noAnswer > 0 {
		t.Errorf("%d sends were not answered within the retry budget", s.noAnswer)
	}
}

// TestSoak runs traffic over a line that spoils something every few packets:
// no wrong byte may arrive on either side, nothing twice but after the
// numbering began anew, and nothing may stall. OPENKD_SOAK is the number of
// packets.
func TestSoak(t *testing.T) {
	t.Parallel()
	packets := 10_000
	if v := os.Getenv("OPENKD_SOAK"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil {
			t.Fatalf("OPENKD_SOAK=%s is not a number of packets", v)
		}
		packets = n
	} else if testing.Short() {
		packets = 3000
	}
	soak(t, packets, fault.Config{Drop: 0.001, Corrupt: 0.001, Duplicate: 0.001, Noise: 0.001, Seed: 42})
}
