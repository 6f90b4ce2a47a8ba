package comline

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"openkd/link/fault"
)

// bubble runs a test in virtual time with two wires on a cable that carries baud
// bits per second and meets the faults. Channel 7 of the second one echoes,
// channel 8 swallows, channel 9 is not read; streams to other channels are
// refused.
func bubble(t *testing.T, baud int, faults fault.Config, run func(t *testing.T, a, b *wire)) {
	synctest.Test(t, func(t *testing.T) {
		x, y := cable()
		a := startWire(slow(fault.New(x, faults), baud), "a", baud)
		b := startWire(slow(y, baud), "b", baud)
		run(t, a.wire, b.wire)
		a.stop()
		b.stop()
	})
}

func slow(dev io.ReadWriteCloser, baud int) io.ReadWriteCloser {
	return &written{dev, fault.Throttle(dev, baud)}
}

// written throttles what is written only: what is read was throttled by who
// wrote it.
type written struct {
	io.ReadWriteCloser
	w *fault.Throttled
}

func (w *written) Write(b []byte) (int, error) { return w.w.Write(b) }
func (w *written) Close() error                { return w.w.Close() }

type testWire struct {
	*wire
	wg sync.WaitGroup
}

func (w *testWire) stop() {
	w.close()
	w.wg.Wait()
}

func startWire(dev io.ReadWriteCloser, name string, baud int) *testWire {
	w := &testWire{}
	var mu sync.Mutex
	mu.Lock()
	defer mu.Unlock()
	w.wire = newWire(dev, name, baud, slog.New(slog.DiscardHandler), func(s *stream) {
		switch s.channel {
		case 7:
			s.accept()
			w.wg.Go(func() {
				io.Copy(s, s)
				s.Close()
			})
		case 8:
			s.accept()
			w.wg.Go(func() {
				io.Copy(io.Discard, s)
				s.Close()
			})
		case 9:
			s.accept()
		default:
			s.refuse(refusal{code: codeNobody})
		}
	})
	return w
}

func dial(t *testing.T, w *wire, channel int) *stream {
	t.Helper()
	s, err := w.dial(context.Background(), channel)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func some(n int, seed uint64) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed)})
	r.Read(b)
	return b
}

// echo sends bytes and wants them back.
func echo(t *testing.T, s *stream, n int) {
	t.Helper()
	msg := some(n, 1)
	go func() {
		s.Write(msg)
		s.CloseWrite()
	}()
	got, err := io.ReadAll(s)
	if err != nil || !bytes.Equal(got, msg) {
		t.Errorf("echo of %d bytes: %d bytes, equal %v, %v", n, len(got), bytes.Equal(got, msg), err)
	}
	s.Close()
}

var bad = fault.Config{Drop: 1. / 8000, Corrupt: 1. / 8000, Duplicate: 1. / 8000, Noise: 1. / 8000, Spacing: 1}

// TestSpeeds: whatever the line's speed and faults, what is written arrives.
func TestSpeeds(t *testing.T) {
	for _, c := range []struct {
		baud, bytes int
		clean       float64
	}{{300, 2_000, 0.5}, {9600, 20_000, 0.7}, {115200, 200_000, 0.85}, {921600, 1_000_000, 0.85}, {12_000_000, 4_000_000, 0.85}} {
		for _, faults := range []fault.Config{{}, bad} {
			seeds := uint64(3)
			if faults.Drop == 0 {
				seeds = 1 // they seed faults only
			}
			for seed := range seeds {
				faults.Seed = seed
				if testing.Short() {
					c.bytes = min(c.bytes, 200_000)
				}
				bubble(t, c.baud, faults, func(t *testing.T, a, b *wire) {
					start := time.Now()
					echo(t, dial(t, a, 7), c.bytes)
					took := time.Since(start)
					ratio := float64(c.bytes) * 10 / float64(c.baud) / took.Seconds()
					t.Logf("%8d baud, faults %q: %7d bytes there and back, %.2f of the line; %+v", c.baud, faults.String(), c.bytes, ratio, a.Stats())
					if faults.Drop == 0 && ratio < c.clean {
						t.Errorf("a clean line was used to %.2f", ratio)
					}
				})
				if faults.Drop == 0 {
					break
				}
			}
		}
	}
}

// TestSmallBesideBig counts how long something small takes beside long
// transfers in both directions: its own frame, the rest of the one that is on
// the line, what the system has already, and the turns of the others.
func TestSmallBesideBig(t *testing.T) {
	const baud = 115200
	bubble(t, baud, fault.Config{}, func(t *testing.T, a, b *wire) {
		big := dial(t, a, 7)
		go big.Write(make([]byte, 10<<20))
		go io.Copy(io.Discard, big)
		time.Sleep(time.Second)
		small := dial(t, a, 7)
		buf := make([]byte, 10)
		var worst, sum time.Duration
		const rounds = 50
		for range rounds {
			start := time.Now()
			small.Write(buf)
			if _, err := io.ReadFull(small, buf); err != nil {
				t.Fatal(err)
			}
			d := time.Since(start)
			worst, sum = max(worst, d), sum+d
			time.Sleep(7 * time.Millisecond)
		}
		frame := time.Duration(a.sp.payload+frameCost) * a.sp.perByte
		t.Logf("there and back: mean %v, worst %v; a frame takes %v", sum/rounds, worst, frame)
		// Each way: a frame that is on the line, the turn of the transfer if this
		// stream has just had its own, and a small frame.
		if worst > 5*frame {
			t.Errorf("10 bytes took %v, a frame takes %v", worst, frame)
		}
		big.reset(refusal{code: codeBroken})
		small.Close()
	})
}

// TestChannelsTakeTurns: fifty streams on one channel do not starve the one of
// another.
func TestChannelsTakeTurns(t *testing.T) {
	bubble(t, 115200, fault.Config{}, func(t *testing.T, a, b *wire) {
		var many, one atomic.Int64
		var streams []*stream
		send := func(channel int, n *atomic.Int64) {
			s := dial(t, a, channel)
			streams = append(streams, s)
			go func() {
				for {
					k, err := s.Write(make([]byte, 500))
					n.Add(int64(k))
					if err != nil {
						return
					}
				}
			}()
		}
		for range 50 {
			send(8, &many)
		}
		send(7, &one)
		s := streams[50]
		go io.Copy(io.Discard, s)
		time.Sleep(time.Minute)
		synctest.Wait()
		for _, s := range streams {
			s.reset(refusal{code: codeBroken})
		}
		synctest.Wait()
		m, o := many.Load()-50*int64(a.sp.sendBuffer), one.Load() // the buffers hold the rest
		t.Logf("a minute: %d bytes of fifty streams, %d of one", m, o)
		if m < o*9/10 || m > o*11/10 {
			t.Errorf("%d bytes of one channel, %d of another", m, o)
		}
	})
}

// TestSlowReader: what nobody reads waits for itself.
func TestSlowReader(t *testing.T) {
	bubble(t, 115200, fault.Config{}, func(t *testing.T, a, b *wire) {
		unread := dial(t, a, 9)
		wrote := make(chan int)
		go func() {
			n, _ := unread.Write(make([]byte, 1<<20))
			wrote <- n
		}()
		time.Sleep(5 * time.Second)
		before := a.Stats().BytesOut
		echo(t, dial(t, a, 7), 20_000)
		if out := a.Stats().BytesOut - before; out > 24_000 {
			t.Errorf("%d bytes went out for 20000 beside a stream that nobody reads", out)
		}
		unread.reset(refusal{code: codeBroken})
		if n, most := <-wrote, b.sp.window+a.sp.sendBuffer; n > most {
			t.Errorf("%d bytes were taken of a stream that nobody reads, want %d at most", n, most)
		}
	})
}

// TestThousandStreams: a thousand streams at once, each with its own bytes.
func TestThousandStreams(t *testing.T) {
	for _, faults := range []fault.Config{{}, bad} {
		bubble(t, 921600, faults, func(t *testing.T, a, b *wire) {
			var wg sync.WaitGroup
			for i := range 1000 {
				wg.Go(func() {
					w := a
					if i%2 == 1 {
						w = b
					}
					s, err := w.dial(t.Context(), 7)
					if err != nil {
						t.Error(err)
						return
					}
					msg := some(500+i, uint64(i))
					got := make([]byte, len(msg))
					s.Write(msg)
					if _, err := io.ReadFull(s, got); err != nil || !bytes.Equal(got, msg) {
						t.Errorf("stream %d: %v", i, err)
					}
					s.Close()
				})
			}
			wg.Wait()
			if n := a.Stats().Streams; n > 1000 {
				t.Errorf("%d streams", n)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if st := a.Stats(); st.Streams != 0 {
				t.Errorf("%d streams are left: %+v", st.Streams, st)
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	bubble(t, 115200, fault.Config{}, func(t *testing.T, a, b *wire) {
		start := time.Now()
		if _, err := a.dial(t.Context(), 5); err == nil || !strings.Contains(err.Error(), "nobody listens on this channel") {
			t.Errorf("a channel without a listener: %v", err)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("it took %v", d)
		}
		for range maxStreams {
			dial(t, a, 9)
		}
		if _, err := a.dial(t.Context(), 9); err == nil || !strings.Contains(err.Error(), "2048 streams already") {
			t.Errorf("one stream too many: %v", err)
		}
		if _, err := b.dial(t.Context(), 9); err == nil || !strings.Contains(err.Error(), "2048 streams already") {
			t.Errorf("one stream too many, from the other end: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := a.dial(ctx, 5); !errors.Is(err, context.Canceled) && err == nil {
			t.Errorf("cancelled: %v", err)
		}
	})
}

// TestNobody: a dial says what it has seen of the other end.
func TestNobody(t *testing.T) {
	for _, c := range []struct {
		name string
		far  func(*end)
		want string
	}{
		{"silence", func(*end) {}, "nothing at all was received"},
		{"login prompt", func(e *end) {
			for range 3 {
				time.Sleep(time.Second)
				e.Write([]byte("\r\nwelcome to host\r\nhost login: \x00"))
			}
		}, "bytes came that mean nothing"},
		{"other speed", func(e *end) {
			for i := range uint64(100) {
				e.Write(some(100, i))
				time.Sleep(50 * time.Millisecond)
			}
		}, "is baud= the same there"},
		{"echo", func(e *end) { io.Copy(e, e) }, "sends back what is sent"},
		{"other version", func(e *end) {
			e.Write(stuff(nil, seal([]byte{frameHello, Version + 1, 1, 2, 3}, nil)))
		}, "speaks version 2 of the line's protocol, this program version 1"},
		{"frozen", func(e *end) { // says hello, answers nothing
			var d deframer
			buf := make([]byte, 1000)
			for {
				n, err := e.Read(buf)
				if err != nil {
					return
				}
				for in := buf[:n]; len(in) > 0; {
					var f []byte
					if in, f, _ = d.next(in); f == nil {
						continue
					}
					if b, ok := unseal(f, nil); ok {
						h, _ := parseHello(b)
						e.Write(stuff(nil, seal(appendHello(nil, frameHello, hello{version: Version, sender: 99, receiver: h.sender, window: 5000}), nil)))
					}
				}
			}
		}, "is there but has not answered"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				x, y := cable()
				a := startWire(slow(x, 115200), "/dev/ttyS9", 115200)
				var wg sync.WaitGroup
				if c.name != "echo" && c.name != "frozen" {
					wg.Go(func() { io.Copy(io.Discard, y) })
				}
				wg.Go(func() { c.far(y) })
				start := time.Now()
				_, err := a.dial(t.Context(), 1)
				if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "/dev/ttyS9 (115200 baud)") {
					t.Errorf("%v, want %q in it", err, c.want)
				}
				if d := time.Since(start); d > answerBound+time.Second {
					t.Errorf("it took %v", d)
				}
				t.Log(err)
				a.stop()
				y.Close()
				wg.Wait()
			})
		})
	}
}

// TestSilentLine: an idle line with nobody behind it is sent three hellos and
// no more, and one where both are there nothing at all.
func TestSilentLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := cable()
		a := startWire(x, "a", 115200)
		time.Sleep(time.Hour)
		if st := a.Stats(); st.FramesOut != greetings {
			t.Errorf("an idle end sent %d frames", st.FramesOut)
		}
		b := startWire(y, "b", 115200)
		echo(t, dial(t, b.wire, 7), 100)
		time.Sleep(time.Minute)
		before := a.Stats()
		time.Sleep(time.Hour)
		if st := a.Stats(); st != before {
			t.Errorf("idle ends talk: %+v, before %+v", st, before)
		}
		a.stop()
		b.stop()
	})
}

// TestRubbishFirst: what a line says before anybody is there does not matter,
// whatever it ends with.
func TestRubbishFirst(t *testing.T) {
	for _, rubbish := range [][]byte{
		[]byte("\r\nlogin: "), some(5000, 1), bytes.Repeat([]byte{0}, 3000), bytes.Repeat([]byte{0xff}, 5000),
		seal([]byte{frameHello, Version}, nil), stuff(nil, seal([]byte{frameData}, nil)),
	} {
		synctest.Test(t, func(t *testing.T) {
			x, y := cable()
			a := startWire(x, "a", 115200)
			y.Write(rubbish)
			b := startWire(y, "b", 115200)
			echo(t, dial(t, b.wire, 7), 1000)
			st := a.Stats()
			if want := len(bytes.ReplaceAll(rubbish, []byte{0}, nil)); int(st.Rubbish) != want {
				t.Errorf("%.20q: %d bytes of rubbish counted, want %d", rubbish, st.Rubbish, want)
			}
			if st.Resends != 0 {
				t.Errorf("%.20q: %+v", rubbish, st)
			}
			a.stop()
			b.stop()
		})
	}
}

// TestRestart: a program that died without a word and came back is another one.
// Streams of the old one break, at both ends; new ones work.
func TestRestart(t *testing.T) {
	for _, busy := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			x, y := cable()
			a := startWire(slow(x, 115200), "a", 115200)
			b := startWire(slow(&unplug{end: y}, 115200), "b", 115200)
			out, in := dial(t, a.wire, 7), dial(t, b.wire, 9)
			if busy {
				go io.Copy(io.Discard, out)
				go out.Write(make([]byte, 1<<20))
				time.Sleep(time.Second)
			}
			b.over(errWireClosed) // no bye: it was killed
			b.wg.Wait()
			if _, err := in.Read(make([]byte, 1)); err == nil {
				t.Error("a stream of a closed wire can be read")
			}
			start := time.Now()
			b2 := startWire(slow(y, 115200), "b", 115200)
			for {
				if _, err := out.Write([]byte{1}); err != nil {
					if !errors.Is(err, errPeerNew) {
						t.Errorf("write: %v", err)
					}
					break
				}
				time.Sleep(10 * time.Millisecond)
			}
			if d := time.Since(start); d > time.Second {
				t.Errorf("the restart was noticed after %v", d)
			}
			echo(t, dial(t, a.wire, 7), 10_000)
			echo(t, dial(t, b2.wire, 7), 10_000)
			out.Close()
			a.stop()
			b2.stop()
		})
	}
}

// gate lets bytes through or loses them.
type gate struct {
	io.ReadWriteCloser
	mu  sync.Mutex
	out bool // the cable is out
}

func (g *gate) set(out bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.out = out
}

func (g *gate) Write(b []byte) (int, error) {
	g.mu.Lock()
	out := g.out
	g.mu.Unlock()
	if out {
		return len(b), nil
	}
	return g.ReadWriteCloser.Write(b)
}

// TestCableOut: a short time without the cable costs time, a long one the
// streams; then everything works again by itself.
func TestCableOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := cable()
		gx, gy := &gate{ReadWriteCloser: x}, &gate{ReadWriteCloser: y}
		out := func(d time.Duration) {
			gx.set(true)
			gy.set(true)
			time.Sleep(d)
			gx.set(false)
			gy.set(false)
		}
		a, b := startWire(slow(gx, 115200), "a", 115200), startWire(slow(gy, 115200), "b", 115200)
		s := dial(t, a.wire, 7)
		var wg sync.WaitGroup
		wg.Go(func() { echo(t, s, 100_000) })
		time.Sleep(time.Second)
		out(5 * time.Second)
		wg.Wait()

		s = dial(t, a.wire, 7)
		idle := dial(t, b.wire, 9)
		start := time.Now()
		wg.Go(func() {
			_, err := io.Copy(io.Discard, s)
			if !errors.Is(err, errPeerSilent) {
				t.Errorf("read: %v", err)
			}
			if d := time.Since(start); d > 2*deadAfter {
				t.Errorf("noticed after %v", d)
			}
		})
		out(time.Minute)
		wg.Wait()
		if _, err := idle.Read(make([]byte, 1)); !errors.Is(err, errPeerSilent) {
			t.Errorf("read: %v", err)
		}
		echo(t, dial(t, a.wire, 7), 10_000)
		echo(t, dial(t, b.wire, 7), 10_000)

		// One end gives up, the other has nothing to notice it by.
		dial(t, a.wire, 9)
		out(time.Minute)
		echo(t, dial(t, b.wire, 7), 10_000)
		a.stop()
		b.stop()
	})
}

// TestLeave: who leaves says so, after everything was delivered.
func TestLeave(t *testing.T) {
	bubble(t, 9600, bad, func(t *testing.T, a, b *wire) {
		in := make(chan *stream, 1)
		b.mu.Lock()
		b.take = func(s *stream) {
			s.accept()
			in <- s
		}
		b.mu.Unlock()
		s := dial(t, a, 1)
		other := dial(t, a, 1)
		first, second := <-in, <-in
		msg := some(2000, 2)
		s.Write(msg)
		s.Close()
		a.close()
		got, err := io.ReadAll(first)
		if err != nil || !bytes.Equal(got, msg) {
			t.Errorf("%d of %d bytes, %v", len(got), len(msg), err)
		}
		if _, err := second.Read(make([]byte, 1)); !errors.Is(err, errPeerLeft) {
			t.Errorf("a stream that was not closed: %v", err)
		}
		if _, err := other.Write([]byte{1}); !errors.Is(err, errWireClosed) {
			t.Errorf("write: %v", err)
		}
	})
}

// TestLeaveSomebodyWhoDoesNotRead: leaving does not wait for ever.
func TestLeaveSomebodyWhoDoesNotRead(t *testing.T) {
	bubble(t, 115200, fault.Config{}, func(t *testing.T, a, b *wire) {
		s := dial(t, a, 9)
		s.SetWriteDeadline(time.Now().Add(10 * time.Second))
		s.Write(make([]byte, 1<<20))
		s.Close()
		start := time.Now()
		a.close()
		if d := time.Since(start); d > drainBound+time.Second {
			t.Errorf("leaving took %v", d)
		}
	})
}

// TestLinger: a closed stream that the other side does not read goes in the end.
func TestLinger(t *testing.T) {
	bubble(t, 115200, fault.Config{}, func(t *testing.T, a, b *wire) {
		s := dial(t, a, 9)
		s.SetWriteDeadline(time.Now().Add(10 * time.Second))
		s.Write(make([]byte, 1<<20))
		s.Close()
		time.Sleep(3 * lingerFor)
		if a, b := a.Stats().Streams, b.Stats().Streams; a != 0 || b != 0 {
			t.Errorf("%d and %d streams are left", a, b)
		}
	})
}
