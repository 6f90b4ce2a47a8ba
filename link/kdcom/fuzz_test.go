package kdcom

import (
	"bytes"
	"context"
	"io"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"openkd/kdproto"
)

// sink is a stream that reads what it was given, one piece at a time, and then
// waits for Close.
type sink struct {
	mu     sync.Mutex
	pieces [][]byte
	idle   chan struct{} // closed when all was read
	closed chan struct{}
}

func newSink(pieces ...[]byte) *sink {
	return &sink{pieces: pieces, idle: make(chan struct{}), closed: make(chan struct{})}
}

func (s *sink) Read(p []byte) (int, error) {
	s.mu.Lock()
	if len(s.pieces) > 0 {
		n := copy(p, s.pieces[0])
		if s.pieces[0] = s.pieces[0][n:]; len(s.pieces[0]) == 0 {
			s.pieces = s.pieces[1:]
		}
		s.mu.Unlock()
		return n, nil
	}
	select {
	case <-s.idle:
	default:
		close(s.idle)
	}
	s.mu.Unlock()
	<-s.closed
	return 0, io.ErrClosedPipe
}

func (s *sink) Write(p []byte) (int, error) { return len(p), nil }

func (s *sink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.closed:
	default:
		close(s.closed)
	}
	return nil
}

// FuzzHost feeds a host anything. It must deliver only packets that are there,
// account for every byte, and close.
func FuzzHost(f *testing.F) {
	f.Add([]byte{}, uint16(1))
	f.Add(bytes.Join([][]byte{[]byte("noise"), stopAt(sync0, 1), reset, stopAt(id0, 1), ack(id0), resend}, nil), uint16(100))
	f.Add(append(stopAt(id0, 1)[:100], stopAt(id0, 1)...), uint16(7))
	f.Add(bytes.Repeat([]byte("0"), 5000), uint16(999))
	f.Add(kdproto.Header{Leader: kdproto.DataLeader, Type: 3, ByteCount: 4000, ID: id0}.Append(nil), uint16(3))
	f.Fuzz(func(t *testing.T, b []byte, cut uint16) {
		n := min(int(cut), len(b))
		s := newSink(bytes.Clone(b[:n]), bytes.Clone(b[n:]))
		h := NewHost(s, HostOptions{ByteGap: time.Millisecond, AckTimeout: time.Millisecond, Retries: 2})
		h.Send(context.Background(), kdproto.TypeManipulate, request(1))
		<-s.idle
		// Turns and not time, which goes by on a busy machine too.
		for turns := 0; ; time.Sleep(100 * time.Microsecond) {
			h.mu.Lock()
			left := h.rx.pending()
			h.mu.Unlock()
			if !left {
				break
			}
			if turns++; turns > 100_000 {
				t.Fatal("half a packet is kept for ever")
			}
		}
		if st := h.Stats(); st.BytesIn != uint64(len(b)) || st.Garbage > st.BytesIn {
			t.Fatalf("%d bytes fed, %+v", len(b), st)
		}
		for len(h.packets) > 0 {
			p := <-h.packets
			if len(p.Payload) > kdproto.MaxPayload || !bytes.Contains(b, p.Payload) {
				t.Fatalf("a packet that was not sent: %v %x", p.Type, p.Payload)
			}
		}
		if err := h.Close(); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzTarget feeds a target anything.
func FuzzTarget(f *testing.F) {
	f.Add(bytes.Join([][]byte{[]byte("b00"), reset, kdproto.AppendData(nil, kdproto.TypeManipulate, id0, request(1))}, nil), uint8(2))
	f.Add([]byte("bbbb"), uint8(4))
	f.Fuzz(func(t *testing.T, b []byte, want uint8) {
		s := newSink(b)
		k := NewTarget(s, TargetOptions{ByteTimeout: time.Millisecond})
		<-s.idle
		ctx := context.Background()
		for range len(b)/kdproto.HeaderSize + 2 {
			p, r, err := k.Receive(ctx, kdproto.PacketType(want), 0)
			if err != nil {
				t.Fatal(err)
			}
			if r == Timeout {
				break
			}
			if len(p) > kdproto.MaxPayload || !bytes.Contains(b, p) {
				t.Fatalf("a packet that was not sent: %x", p)
			}
		}
		k.Close()
		if _, _, err := k.Receive(ctx, kdproto.TypeManipulate, 0); err != io.ErrClosedPipe {
			t.Fatal(err)
		}
	})
}

// TestReceiverFindsPackets: whatever is between packets that are whole, as long
// as it holds no leader, every packet is found, however the bytes are cut.
func TestReceiverFindsPackets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var stream []byte
		var want [][]byte
		for range rapid.IntRange(1, 6).Draw(t, "packets") {
			noise := rapid.SliceOfN(rapid.SampledFrom([]byte("b\x00\xa9\xffxi0")), 0, 3).Draw(t, "noise")
			stream = append(stream, noise...)
			if len(noise) > 0 {
				stream = append(stream, 'x') // a leader byte before a leader is another test
			}
			payload := rapid.SliceOfN(rapid.SampledFrom([]byte("0ib\xaa\x00\x31\x07")), 0, 300).Draw(t, "payload")
			p := append(make([]byte, kdproto.ManipulateSize), payload...)
			if n := len(p); p[n-1] == kdproto.Trailer {
				p[n-1] = 0
			}
			want = append(want, p)
			stream = kdproto.AppendData(stream, kdproto.TypeManipulate, id0|uint32(len(want)&1), p)
		}
		var r receiver
		var got [][]byte
		for len(stream) > 0 {
			n := rapid.IntRange(1, len(stream)).Draw(t, "cut")
			r.feed(stream[:n])
			stream = stream[n:]
			for {
				v, _, n := r.next(false)
				if v == needMore {
					break
				}
				if v == goodData {
					got = append(got, bytes.Clone(r.bytes(n)[kdproto.HeaderSize:n-1]))
				}
				r.skip(n)
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d packets of %d", len(got), len(want))
		}
		for i := range got {
			if !bytes.Equal(got[i], want[i]) {
				t.Fatalf("packet %d differs", i)
			}
		}
	})
}

// exchanges runs requests whose replies carry size bytes.
func exchanges(b *testing.B, h *Host, k *Target, size int) {
	ctx, cancel := context.WithCancel(context.Background())
	end := make(chan error, 1)
	go func() {
		if err := k.Send(ctx, kdproto.TypeStateChange64, stop(1), false); err != nil {
			end <- err
			return
		}
		data := make([]byte, size)
		for {
			p, r, err := k.Receive(ctx, kdproto.TypeManipulate, 0)
			if err == nil && r == Received {
				err = k.Send(ctx, kdproto.TypeManipulate, append(p, data...), false)
			}
			if err != nil {
				end <- err
				return
			}
		}
	}()
	if _, err := h.Receive(ctx); err != nil {
		b.Fatal(err)
	}
	b.ResetTimer()
	for b.Loop() {
		if err := h.Send(ctx, kdproto.TypeManipulate, request(1)); err != nil {
			b.Fatal(err)
		}
		if p, err := h.Receive(ctx); err != nil || len(p.Payload) != kdproto.ManipulateSize+size {
			b.Fatal(len(p.Payload), err)
		}
	}
	b.StopTimer()
	cancel()
	<-end
}

// BenchmarkPackets is the link's own cost: two data packets and two ACKs over
// memory.
func BenchmarkPackets(b *testing.B) {
	for _, c := range []struct {
		name string
		size int
	}{{"small", 16}, {"bulk", kdproto.MaxTransfer}} {
		b.Run(c.name, func(b *testing.B) {
			h, k := pair(b, HostOptions{}, TargetOptions{})
			exchanges(b, h, k, c.size)
			b.ReportMetric(2*float64(b.N)/b.Elapsed().Seconds(), "packets/s")
			if c.size > 16 {
				b.SetBytes(int64(c.size))
			}
		})
	}
}
