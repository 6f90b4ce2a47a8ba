package kdcom

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"openkd/kdproto"
	"openkd/link"
)

// wire is the far end of a host's stream, byte by byte, in a synctest bubble.
type wire struct {
	t    *testing.T
	host *Host
	far  net.Conn

	mu   sync.Mutex
	read []byte
}

func onWire(t *testing.T, opt HostOptions, test func(w *wire)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		w := &wire{t: t, host: NewHost(near, opt), far: far}
		go func() {
			buf := make([]byte, 4096)
			for {
				n, err := far.Read(buf)
				w.mu.Lock()
				w.read = append(w.read, buf[:n]...)
				w.mu.Unlock()
				if err != nil {
					return
				}
			}
		}()
		defer far.Close()
		defer w.host.Close()
		test(w)
	})
}

// send gives bytes to the host.
func (w *wire) send(parts ...[]byte) {
	w.t.Helper()
	if _, err := w.far.Write(bytes.Join(parts, nil)); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

// expect compares what the host has written since, in words.
func (w *wire) expect(want ...string) {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	b := w.read
	w.read = nil
	w.mu.Unlock()
	if got := words(b); strings.Join(got, ", ") != strings.Join(want, ", ") {
		w.t.Fatalf("the host wrote [%s], want [%s]", strings.Join(got, ", "), strings.Join(want, ", "))
	}
}

// words names the packets in b.
func words(b []byte) (out []string) {
	for len(b) > 0 {
		if b[0] == kdproto.BreakInByte {
			out, b = append(out, "b"), b[1:]
			continue
		}
		h, err := kdproto.DecodeHeader(b)
		if err != nil {
			return append(out, fmt.Sprintf("%x", b))
		}
		b = b[kdproto.HeaderSize:]
		switch {
		case h.Leader == kdproto.DataLeader:
			out = append(out, fmt.Sprintf("%v %x", h.Type, h.ID))
			b = b[min(len(b), int(h.ByteCount)+1):]
		case h.Type == kdproto.TypeAcknowledge:
			out = append(out, fmt.Sprintf("ACK %x", h.ID))
		default:
			out = append(out, strings.ToUpper(h.Type.String()))
		}
	}
	return out
}

// deliver compares what the host delivers without waiting, in words.
func (w *wire) deliver(want ...string) {
	w.t.Helper()
	synctest.Wait()
	var got []string
	for {
		ctx, cancel := context.WithTimeout(context.Background(), time.Nanosecond)
		p, err := w.host.Receive(ctx)
		cancel()
		if err != nil {
			break
		}
		s := fmt.Sprintf("%v %d", p.Type, number(p.Payload))
		if p.Fresh {
			s += " fresh"
		}
		if p.Repeated {
			s += " repeated"
		}
		got = append(got, s)
	}
	if strings.Join(got, ", ") != strings.Join(want, ", ") {
		w.t.Fatalf("the host delivered [%s], want [%s]", strings.Join(got, ", "), strings.Join(want, ", "))
	}
}

func (w *wire) stats() link.Stats { return w.host.Stats() }

// start begins a Send and returns where its end will be.
func (w *wire) start() chan error {
	end := make(chan error, 1)
	go func() { end <- w.host.Send(context.Background(), kdproto.TypeManipulate, request(1)) }()
	synctest.Wait()
	return end
}

func (w *wire) ended(end chan error, want error) {
	w.t.Helper()
	synctest.Wait()
	select {
	case err := <-end:
		if !errors.Is(err, want) {
			w.t.Fatalf("Send: %v, want %v", err, want)
		}
	default:
		w.t.Fatal("Send has not ended")
	}
}

// Packets of a target; n tells one from the other.
const (
	id0   = kdproto.InitialID
	id1   = kdproto.InitialID | 1
	sync0 = kdproto.FirstID
)

func stop(n int) []byte {
	s := kdproto.StateChange{Kind: kdproto.StateException, ProgramCounter: uint64(n)}
	return s.Append(nil)
}

func stopAt(id uint32, n int) []byte {
	return kdproto.AppendData(nil, kdproto.TypeStateChange64, id, stop(n))
}

func printAt(id uint32, n int) []byte {
	p := kdproto.NewPrint([]byte("0000iiii"))
	p.ProcessorLevel = uint16(n)
	return kdproto.AppendData(nil, kdproto.TypeDebugIO, id, p.Append(nil))
}

// number is the n of a packet.
func number(payload []byte) int {
	if len(payload) >= kdproto.StateChangeSize && payload[1] == 0x30 {
		return int(binary.LittleEndian.Uint64(payload[24:]))
	}
	return int(binary.LittleEndian.Uint16(payload[4:]))
}

func ctl(t kdproto.PacketType, id uint32) []byte { return kdproto.AppendControl(nil, t, id) }

func ack(id uint32) []byte { return ctl(kdproto.TypeAcknowledge, id) }

var (
	reset  = ctl(kdproto.TypeReset, 0)
	resend = ctl(kdproto.TypeResend, 0)
)

func TestSyncAndDuplicates(t *testing.T) {
	onWire(t, HostOptions{}, func(w *wire) {
		w.send(stopAt(sync0, 1))
		w.expect("ACK 80800000") // without SYNC
		w.deliver("StateChange64 1 fresh")
		w.send(stopAt(sync0, 1)) // the ACK was lost
		w.expect("ACK 80800000")
		w.deliver()
		w.send(printAt(id1, 2))
		w.send(printAt(id1, 2), printAt(id1, 2))
		w.expect("ACK 80800001", "ACK 80800001", "ACK 80800001")
		w.deliver("DebugIO 2")
		w.send(printAt(id0, 3), printAt(id1, 4))
		w.deliver("DebugIO 3", "DebugIO 4")
		if s := w.stats(); s.Duplicates != 3 || s.Syncs != 2 || s.PacketsIn != 4 || s.Garbage != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// SYNC in mid-session: both sides' numbers start anew, the host's own too.
func TestSyncMidSession(t *testing.T) {
	for before := range 3 {
		onWire(t, HostOptions{}, func(w *wire) {
			w.send(stopAt(sync0, 1))
			id := uint32(id0)
			for range before {
				end := w.start()
				w.send(ack(id))
				w.ended(end, nil)
				id ^= 1
			}
			end := w.start()
			w.send(printAt(sync0, 5))
			w.ended(end, link.ErrResynced)
			w.deliver("StateChange64 1 fresh", "DebugIO 5 fresh")
			w.mu.Lock()
			w.read = nil
			w.mu.Unlock()
			end = w.start()
			w.expect("Manipulate 80800000")
			w.send(ack(id0))
			w.ended(end, nil)
		})
	}
}

// The same packet with SYNC is a new start when something was acknowledged in
// between, or when too much time has passed for a repetition.
func TestSyncAgain(t *testing.T) {
	onWire(t, HostOptions{}, func(w *wire) {
		w.send(printAt(sync0, 1))
		end := w.start()
		w.send(ack(id0))
		w.ended(end, nil)
		w.send(printAt(sync0, 1))
		w.deliver("DebugIO 1 fresh", "DebugIO 1 fresh")
		time.Sleep(syncMemory)
		w.send(printAt(sync0, 1))
		w.deliver("DebugIO 1 fresh")
	})
}

func TestFirstPacketHasEitherID(t *testing.T) {
	for _, id := range []uint32{id0, id1} {
		onWire(t, HostOptions{}, func(w *wire) {
			w.send(printAt(id, 1), printAt(id, 1), printAt(id^1, 2))
			w.deliver("DebugIO 1", "DebugIO 2")
		})
	}
}

func TestAckIDs(t *testing.T) {
	onWire(t, HostOptions{}, func(w *wire) {
		w.send(ack(id0)) // for nothing
		end := w.start()
		w.expect("Manipulate 80800000")
		w.send(ack(id1), ack(0), ack(0xFFFFFFFF))
		select {
		case err := <-end:
			t.Fatalf("an ACK with a wrong id ended Send: %v", err)
		default:
		}
		w.send(ack(id0))
		w.ended(end, nil)
		end = w.start()
		w.expect("Manipulate 80800001")
		w.send(ack(id0)) // late, doubled
		w.send(ack(id1))
		w.ended(end, nil)
	})
}

func TestRetransmission(t *testing.T) {
	onWire(t, HostOptions{Retries: 4}, func(w *wire) {
		start := time.Now()
		end := w.start()
		if err := <-end; !errors.Is(err, link.ErrNoAnswer) {
			t.Fatal(err)
		}
		if d := time.Since(start); d != 4*time.Second {
			t.Errorf("gave up after %v", d)
		}
		w.expect("Manipulate 80800000", "Manipulate 80800000", "Manipulate 80800000", "Manipulate 80800000")
		if s := w.stats(); s.PacketsOut != 1 || s.Resends != 3 {
			t.Errorf("%+v", s)
		}
		// A late ACK still counts: the next packet has the next id.
		w.send(ack(id0))
		w.start()
		w.expect("Manipulate 80800001")
	})
}

func TestTimeoutsOfSlowLines(t *testing.T) {
	for _, c := range []struct {
		opt  HostOptions
		n    int
		want time.Duration
	}{
		{HostOptions{}, 4017, time.Second},
		{HostOptions{Speed: 115200}, 73, time.Second},
		{HostOptions{Speed: 9600}, 73, time.Second},
		{HostOptions{Speed: 9600}, 4017, 500*time.Millisecond + wireTime(4033, 9600)},
		{HostOptions{Speed: 9600, AckTimeout: 10 * time.Second}, 4017, 10 * time.Second},
	} {
		o := c.opt.withDefaults()
		if got := o.ackTimeout(c.n); got != c.want {
			t.Errorf("%+v: %d bytes wait %v, want %v", c.opt, c.n, got, c.want)
		}
	}
}

// An answer to RESEND waits for an ACK that may be on its way, and longer each
// time, so that the target's own byte timeout can end what it takes for a
// packet.
func TestResendWaits(t *testing.T) {
	onWire(t, HostOptions{}, func(w *wire) {
		end := w.start()
		w.expect("Manipulate 80800000")
		for _, wait := range []time.Duration{60, 240, 960, 1000} {
			w.send(resend, resend)
			time.Sleep(wait*time.Millisecond - 1)
			w.expect()
			time.Sleep(time.Nanosecond)
			w.expect("Manipulate 80800000")
		}
		w.send(resend)
		time.Sleep(10 * time.Millisecond)
		w.send(ack(id0))
		w.ended(end, nil)
		w.expect()
		w.send(resend) // nothing to send again
		time.Sleep(time.Minute)
		w.expect()
	})
}

func TestResetAsked(t *testing.T) {
	for _, odd := range []uint32{0, 0x0005F863, 0xDEADBEEF, sync0} {
		onWire(t, HostOptions{}, func(w *wire) {
			w.send(stopAt(sync0, 1))
			end := w.start()
			w.send(ack(id0))
			w.ended(end, nil)
			w.deliver("StateChange64 1 fresh")
			w.expect("ACK 80800000", "Manipulate 80800000")
			if err := w.host.Resync(); err != nil {
				t.Fatal(err)
			}
			w.expect("RESET")
			w.send(ctl(kdproto.TypeReset, odd), stopAt(id0, 1))
			w.expect("ACK 80800000") // and no RESET
			w.deliver("StateChange64 1 repeated")
			w.start()
			w.expect("Manipulate 80800000")
		})
	}
}

// An orphan reply is acknowledged even when the RESET follows at once.
func TestResyncKeepsAcks(t *testing.T) {
	onWire(t, HostOptions{}, func(w *wire) {
		w.host.mu.Lock() // no writer in between
		w.host.ackLocked(id1)
		w.host.askAgainLocked()
		w.host.mu.Unlock()
		if err := w.host.Resync(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		w.mu.Lock()
		got := strings.Join(words(w.read), ", ")
		w.mu.Unlock()
		// The RESEND is only there when the writer was quicker.
		if got != "ACK 80800001, RESET" && got != "ACK 80800001, RESEND, RESET" {
			t.Fatal(got)
		}
	})
}

func TestResetNotAsked(t *testing.T) {
	onWire(t, HostOptions{}, func(w *wire) {
		w.send(stopAt(sync0, 1))
		w.expect("ACK 80800000")
		end := w.start()
		w.expect("Manipulate 80800000")
		w.send(ctl(kdproto.TypeReset, 0x5F863))
		w.ended(end, link.ErrResynced)
		w.expect("RESET")
		w.send(reset) // the target answers: no bounce
		w.expect()
		w.send(stopAt(id0, 2))
		w.deliver("StateChange64 1 fresh", "StateChange64 2 fresh repeated")
		time.Sleep(time.Minute)
		w.send(reset)
		w.expect("ACK 80800000", "RESET")
		time.Sleep(resetWindow)
		w.send(reset)
		w.expect("RESET")
	})
}

// A booting machine answers every RESET that has piled up.
func TestResetStorm(t *testing.T) {
	onWire(t, HostOptions{}, func(w *wire) {
		w.host.Resync()
		w.host.Resync()
		time.Sleep(time.Second)
		w.host.Resync()
		w.expect("RESET")
		time.Sleep(time.Second)
		w.host.Resync()
		w.expect("RESET")
		for range 20 {
			w.send(reset, stopAt(id0, 1))
			time.Sleep(time.Millisecond)
		}
		want := make([]string, 20)
		for i := range want {
			want[i] = "ACK 80800000"
		}
		w.expect(want...) // each is a new start of the numbering, none is answered
	})
}

func TestResetLimits(t *testing.T) {
	onWire(t, HostOptions{UnlimitedResets: true}, func(w *wire) {
		for range 5 {
			w.host.Resync()
			w.expect("RESET")
		}
	})
	onWire(t, HostOptions{UnlimitedResets: true, MaxResets: 2}, func(w *wire) {
		for range 5 {
			w.host.Resync()
			synctest.Wait()
		}
		w.expect("RESET", "RESET")
		w.send([]byte{0})
		w.host.Resync()
		w.expect("RESET")
	})
}

func TestDamagedPackets(t *testing.T) {
	good := printAt(id0, 7)
	change := func(at int, to byte) []byte {
		b := bytes.Clone(good)
		b[at] = to
		return b
	}
	last := len(good) - 1
	for _, c := range []struct {
		name  string
		bytes []byte
		wait  bool // only silence shows it
		out   []string
	}{
		{"payload", change(20, 0xFF), false, []string{"RESEND"}},
		{"checksum", change(12, 0xFF), false, []string{"RESEND"}},
		{"trailer", change(last, 0xAB), true, []string{"RESEND"}},
		{"type of another packet", change(4, 7), true, []string{"RESEND"}},
		{"type not of its payload", change(4, 2), true, []string{"RESEND"}},
		{"impossible type", change(5, 0x77), true, nil},
		{"id", change(8, 0x55), false, []string{"RESEND"}},
		{"count too big", change(7, 0xFF), true, []string{"RESEND"}},
		{"count too small", change(6, 3), true, []string{"RESEND"}},
		{"count bigger", change(6, 200), true, []string{"RESEND"}},
		{"leader", change(2, 0x31), true, nil},
		{"cut in the leader", good[:3], true, nil},
		{"cut in the header", good[:10], true, []string{"RESEND"}},
		{"cut in the payload", good[:last-3], true, []string{"RESEND"}},
		{"no trailer", good[:last], true, []string{"RESEND"}},
		{"noise", []byte("\x00\xffBooting...\r\n\xaa\xaabbb"), true, nil},
		{"half an ACK", ack(id0)[:12], true, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			onWire(t, HostOptions{}, func(w *wire) {
				w.send(c.bytes)
				if c.wait {
					time.Sleep(DefaultByteGap)
				}
				w.expect(c.out...)
				w.deliver()
				time.Sleep(time.Second)
				w.send(good)
				w.expect("ACK 80800000")
				w.deliver("DebugIO 7")
			})
			// The next packet comes at once: it is found without a pause, or at
			// the latest when the line falls silent behind it.
			onWire(t, HostOptions{}, func(w *wire) {
				w.send(c.bytes, good)
				time.Sleep(DefaultByteGap)
				w.deliver("DebugIO 7")
			})
		})
	}
}

// One RESEND for a burst of damage: each would make one more copy.
func TestResendRate(t *testing.T) {
	onWire(t, HostOptions{}, func(w *wire) {
		bad := printAt(id0, 1)
		bad[17]++
		for range 10 {
			w.send(bad)
		}
		w.expect("RESEND")
		time.Sleep(DefaultResendWait)
		w.send(bad)
		w.expect("RESEND")
		if s := w.stats(); s.BadChecksums != 11 || s.ResendsAsked != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// Whatever stands in a payload is data while the packet is whole.
func TestPacketsInsidePayloads(t *testing.T) {
	onWire(t, HostOptions{}, func(w *wire) {
		inner := bytes.Join([][]byte{reset, stopAt(id0, 9), ack(id0), stopAt(id1, 8), []byte("bbbb"), resend, {0xAA}}, nil)
		m := kdproto.NewRequest(kdproto.APIReadVirtualMemory, 0, &kdproto.Memory{}, inner)
		payload := m.Append(nil)
		all := kdproto.AppendData(nil, kdproto.TypeManipulate, id0, payload)
		for i := range all { // one byte at a time, with pauses
			w.send(all[i : i+1])
			time.Sleep(DefaultByteGap / 2)
		}
		w.expect("ACK 80800000")
		p, err := w.host.Receive(context.Background())
		if err != nil || !bytes.Equal(p.Payload, payload) {
			t.Fatal(p, err)
		}
		w.deliver()
	})
}

// Bytes before a leader that look like its beginning.
func TestLeaderAfterLeaderBytes(t *testing.T) {
	for _, before := range []string{"0", "000", "00000", "i", "iiiiii", "0000000000000", "i0i0", "000i", "0000\x07"} {
		onWire(t, HostOptions{}, func(w *wire) {
			w.send([]byte(before), printAt(id0, 1))
			time.Sleep(DefaultByteGap)
			w.deliver("DebugIO 1")
		})
	}
}

func TestPrintBetweenRequestAndReply(t *testing.T) {
	onWire(t, HostOptions{}, func(w *wire) {
		end := w.start()
		w.send(printAt(id1, 1)) // even before the ACK
		w.send(ack(id0), printAt(id0, 2))
		w.ended(end, nil)
		w.deliver("DebugIO 1", "DebugIO 2")
		w.expect("Manipulate 80800000", "ACK 80800001", "ACK 80800000")
	})
}

// A full queue stops the acknowledgements, and with them the target.
func TestQueueBound(t *testing.T) {
	onWire(t, HostOptions{Queue: 2}, func(w *wire) {
		w.send(printAt(id0, 1), printAt(id1, 2), printAt(id0, 3))
		w.expect("ACK 80800000", "ACK 80800001")
		w.deliver("DebugIO 1", "DebugIO 2")
		w.send(printAt(id0, 3))
		w.expect("ACK 80800000")
		w.deliver("DebugIO 3")
	})
}

func TestBreakInBytes(t *testing.T) {
	onWire(t, HostOptions{}, func(w *wire) {
		w.host.BreakIn()
		w.expect("b")
		w.start()
		w.host.BreakIn()
		w.expect("Manipulate 80800000", "b")
	})
}

// A stream that takes nothing must not hold up Close, and break-ins that wait
// behind it become one.
func TestBlockedWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer far.Close()
		h := NewHost(near, HostOptions{})
		end := make(chan error, 1)
		go func() { end <- h.Send(context.Background(), kdproto.TypeManipulate, request(1)) }()
		synctest.Wait()
		for range 5 {
			if err := h.BreakIn(); err != nil {
				t.Fatal(err)
			}
		}
		if s := h.Stats(); s.BreakIns != 1 {
			t.Errorf("%d break-ins", s.BreakIns)
		}
		if err := <-end; !errors.Is(err, link.ErrNoAnswer) {
			t.Fatal(err)
		}
		if s := h.Stats(); s.Resends != 1 { // the second copy still waits behind the first
			t.Errorf("%+v", s)
		}
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Receive(context.Background()); !errors.Is(err, link.ErrClosed) {
			t.Fatal(err)
		}
	})
}

func TestStreamEnd(t *testing.T) {
	onWire(t, HostOptions{}, func(w *wire) {
		w.send(printAt(id0, 1))
		end := w.start()
		w.far.Close()
		w.ended(end, io.EOF)
		w.deliver("DebugIO 1")
		for range 2 {
			if _, err := w.host.Receive(context.Background()); err != io.EOF {
				t.Fatal(err)
			}
		}
	})
}

func TestTrace(t *testing.T) {
	var mu sync.Mutex
	var got []string
	opt := HostOptions{Trace: func(d Direction, b []byte) {
		mu.Lock()
		defer mu.Unlock()
		got = append(got, fmt.Sprintf("%v%d", d, len(b)))
	}}
	onWire(t, opt, func(w *wire) {
		w.send([]byte("noise"), stopAt(sync0, 1), []byte("x"))
		w.host.BreakIn()
		synctest.Wait()
		mu.Lock()
		defer mu.Unlock()
		// The order of the two directions is that of the goroutines.
		if s := strings.Join(got, " "); s != "<5 <257 <1 >16 >1" && s != "<5 <257 >16 <1 >1" {
			t.Errorf("traced %s", s)
		}
	})
}
