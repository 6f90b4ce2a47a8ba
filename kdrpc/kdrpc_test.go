package kdrpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"openkd/kdproto"
	"openkd/status"
	"openkd/target"
	"openkd/target/targettest"
	"openkd/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// one is a backend with one session and no rules.
type one struct {
	tg   target.Target
	log  *EventLog
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu       sync.Mutex
	opens    []Open
	detached int
	ended    chan struct{}
	panicked chan struct{} // closed by the first Panicked
	fault    sync.Once
	refuse   error
	status   *status.Server
}

func newOne(tg target.Target) *one {
	ctx, cancel := context.WithCancel(context.Background())
	o := &one{tg: tg, log: NewEventLog(), stop: cancel, panicked: make(chan struct{}), ended: make(chan struct{})}
	o.wg.Go(func() {
		for o.log.WaitRoom(ctx) == nil {
			e, err := tg.Next(ctx)
			if err != nil {
				break
			}
			o.log.Append(e)
		}
		o.log.Close()
	})
	return o
}

func (o *one) close() { o.stop(); o.wg.Wait() }

func (o *one) Open(ctx context.Context, op Open, peer string) (Session, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.opens = append(o.opens, op)
	if o.refuse != nil {
		return nil, o.refuse
	}
	return oneSession{o.tg, o, op.LastSeen}, nil
}

func (o *one) ServerStatus(context.Context) (*status.Server, error) { return o.status, nil }

func (o *one) EndServer(context.Context, string) (func(), error) {
	return func() { close(o.ended) }, nil
}

type oneSession struct {
	target.Target
	o     *one
	after uint64
}

func (s oneSession) Opened() Opened {
	return Opened{Token: []byte("token"), Epoch: 1, Grace: 3, Line: "line", After: s.after}
}
func (s oneSession) Next(ctx context.Context, after uint64) (uint64, target.Event, error) {
	return s.o.log.Next(ctx, after)
}
func (s oneSession) Ack(seq uint64) { s.o.log.Ack(seq) }
func (s oneSession) Detach() {
	s.o.mu.Lock()
	defer s.o.mu.Unlock()
	s.o.detached++
}
func (s oneSession) Panicked(any, []byte) { s.o.fault.Do(func() { close(s.o.panicked) }) }

// host serves a backend over pipes and can cut them.
type host struct {
	b     Backend
	times Timeouts
	wg    sync.WaitGroup

	mu    sync.Mutex
	conns []transport.Conn
	errs  []error
	down  bool
}

func (h *host) dial(context.Context) (net.Conn, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.down {
		return nil, errors.New("nobody listens")
	}
	a, b := transport.Pipe()
	h.conns = append(h.conns, b)
	h.wg.Go(func() {
		err := Serve(context.Background(), b, h.b, ServeOptions{Timeouts: h.times})
		h.mu.Lock()
		h.errs = append(h.errs, err)
		h.mu.Unlock()
	})
	return a, nil
}

func (h *host) cut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.conns {
		c.Close()
	}
	h.conns = nil
}

func (h *host) setDown(d bool) {
	h.mu.Lock()
	h.down = d
	h.mu.Unlock()
}

func start(t testing.TB, f target.Target, opts ...Option) (*Client, *one, *host) {
	t.Helper()
	o := newOne(f)
	h := &host{b: o}
	c, err := Connect(context.Background(), h.dial, Open{Link: "com:", Owner: "me@here"}, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		c.Close(ctx, target.LeaveRunning)
		h.cut()
		h.wg.Wait()
		f.Close(ctx, target.LeaveRunning)
		o.close()
	})
	return c, o, h
}

func TestConformance(t *testing.T) {
	targettest.Run(t, func(t *testing.T, f *targettest.Fake) target.Target {
		c, _, _ := start(t, f)
		return c
	})
}

func halted(t testing.TB, c *Client, f *targettest.Fake) {
	t.Helper()
	targettest.Prepare(f)
	f.Halt(targettest.Base)
	targettest.Await(t.Context(), t, c, target.EventHalted)
}

func TestExchanges(t *testing.T) {
	f := targettest.New()
	c, _, _ := start(t, f)
	if n := c.Exchanges(); n != 2 {
		t.Errorf("hello and open cost %d exchanges", n)
	}
	before := c.Exchanges()
	halted(t, c, f) // the bundle comes with it
	if n := c.Exchanges() - before; n != 0 {
		t.Errorf("a stop and its bundle cost %d exchanges", n)
	}
	rep, err := target.Collect(t.Context(), c, target.Request{Op: target.OpReadVirtual, Addr: targettest.Base, Len: 1 << 20})
	if err != nil || len(rep[0].Data()) != 1<<20 {
		t.Fatalf("%d bytes, %v", len(rep[0].Data()), err)
	}
	if n := c.Exchanges() - before; n != 1 {
		t.Errorf("1 MiB cost %d exchanges", n)
	}
	bps := make([]uint64, 32)
	for i := range bps {
		bps[i] = uint64(i)
	}
	before = c.Exchanges()
	if err := c.Resume(t.Context(), target.Resume{Status: kdproto.DbgContinue, Breakpoints: bps}); err != nil {
		t.Fatal(err)
	}
	if n := c.Exchanges() - before; n != 1 {
		t.Errorf("32 breakpoints cost %d exchanges", n)
	}
}

func TestLostConnectionInBatch(t *testing.T) {
	f := targettest.New()
	c, o, h := start(t, f)
	halted(t, c, f)
	f2 := make(chan struct{})
	var once sync.Once
	// The batch stands in the middle when the connection breaks.
	err := c.Do(t.Context(), []target.Request{{Op: target.OpReadVirtual, Addr: targettest.Base, Len: 1 << 20}}, func(target.Part) error {
		once.Do(func() { h.cut(); close(f2) })
		return nil
	})
	<-f2
	// All of it may have arrived before the cut took effect.
	if err != nil && (!errors.Is(err, ErrDisconnected) || !errors.Is(err, target.ErrLost)) {
		t.Errorf("the batch: %v", err)
	}
	f.Print("said meanwhile")
	lost, back, said := false, false, false
	for !(lost && back && said) {
		e, err := c.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		lost = lost || strings.Contains(e.Text, "is lost")
		back = back || strings.Contains(e.Text, "is back")
		said = said || e.Text == "said meanwhile"
	}
	o.mu.Lock()
	last := o.opens[len(o.opens)-1]
	o.mu.Unlock()
	if string(last.Resume) != "token" || last.LastSeen == 0 || last.Owner != "me@here" {
		t.Errorf("resumed with %+v", last)
	}
	if _, err := target.Collect(t.Context(), c, target.Request{Op: target.OpVersion}); err != nil {
		t.Errorf("after the connection is back: %v", err)
	}
}

func TestNotBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := targettest.New()
		c, _, h := start(t, f, WithAttempt(time.Second))
		h.setDown(true)
		h.cut()
		begin := time.Now()
		_, err := c.Status(t.Context())
		for errors.Is(err, ErrDisconnected) && time.Since(begin) == 0 { // it was under way when the connection broke
			_, err = c.Status(t.Context())
		}
		if !errors.Is(err, ErrDisconnected) || !errors.Is(err, target.ErrLost) || time.Since(begin) != time.Second {
			t.Errorf("a request while the connection is lost: %v after %v", err, time.Since(begin))
		}
		e := targettest.Await(t.Context(), t, c, target.EventClosed)
		if !strings.Contains(e.Text, "did not come back: nobody listens") {
			t.Errorf("closed: %q", e.Text)
		}
		if d := time.Since(begin); d != 3*time.Second {
			t.Errorf("given up after %v, the grace is 3 s", d)
		}
		if _, err := c.Next(t.Context()); !errors.Is(err, target.ErrClosed) {
			t.Error(err)
		}
		if _, err := c.Status(t.Context()); !errors.Is(err, target.ErrClosed) {
			t.Error(err)
		}
	})
}

// silent swallows everything from some moment on, as a cable that was pulled.
type silent struct {
	transport.Conn
	mu   sync.Mutex
	dead bool
}

func (s *silent) Write(b []byte) (int, error) {
	s.mu.Lock()
	dead := s.dead
	s.mu.Unlock()
	if dead {
		return len(b), nil
	}
	return s.Conn.Write(b)
}

func (s *silent) pull() {
	s.mu.Lock()
	s.dead = true
	s.mu.Unlock()
}

func TestSilentPeer(t *testing.T) {
	patient := Timeouts{Dead: 24 * time.Hour}
	for name, times := range map[string]struct{ client, server Timeouts }{
		"the server notices": {client: patient},
		"the client notices": {server: patient},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { silentPeer(t, times.client, times.server) })
		})
	}
}

func silentPeer(t *testing.T, client, server Timeouts) {
	f := targettest.New()
	o := newOne(f)
	a, b := transport.Pipe()
	sa, sb := &silent{Conn: a}, &silent{Conn: b}
	served := make(chan error, 1)
	go func() { served <- Serve(context.Background(), sb, o, ServeOptions{Timeouts: server}) }()
	first := true
	c, err := Connect(t.Context(), func(context.Context) (net.Conn, error) {
		if !first {
			return nil, errors.New("no route")
		}
		first = false
		return sa, nil
	}, Open{Owner: "me"}, WithTimeouts(client))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Hour) // pings keep an idle connection
	if _, err := c.Status(t.Context()); err != nil {
		t.Fatalf("after an hour of silence: %v", err)
	}
	sa.pull()
	sb.pull()
	begin := time.Now()
	if server.Dead == 0 {
		if err := <-served; !errors.Is(err, errSilent) {
			t.Errorf("served: %v", err)
		}
	}
	for {
		e, err := c.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind != target.EventNotice || !strings.Contains(e.Text, "is lost") {
			continue
		}
		if client.Dead == 0 && !strings.Contains(e.Text, "silent for 15s") {
			t.Errorf("the client says %q", e.Text)
		}
		break
	}
	if d := time.Since(begin); d > 21*time.Second {
		t.Errorf("noticed after %v", d)
	}
	c.Close(t.Context(), target.LeaveRunning)
	if server.Dead != 0 {
		<-served
	}
	f.Close(t.Context(), target.LeaveRunning)
	o.close()
}

func TestCloseWhileLost(t *testing.T) {
	f := targettest.New()
	c, _, h := start(t, f)
	h.setDown(true)
	h.cut()
	for {
		e, err := c.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(e.Text, "is lost") {
			break
		}
	}
	if err := c.Close(t.Context(), target.LeaveHalted); !errors.Is(err, ErrDisconnected) || !strings.Contains(err.Error(), "lets the target run") {
		t.Errorf("Close: %v", err)
	}
	targettest.Await(t.Context(), t, c, target.EventClosed)
	if _, err := c.Next(t.Context()); !errors.Is(err, target.ErrClosed) {
		t.Error(err)
	}
}

func TestRefused(t *testing.T) {
	f := targettest.New()
	o := newOne(f)
	defer func() { f.Close(context.Background(), 0); o.close() }()
	since := time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	for _, r := range []*Refusal{
		{Code: RefusedHeld, Holder: "ann@lab", Since: since},
		{Code: RefusedHeld, Holder: "ann@lab", Since: since, LostSince: since.Add(time.Hour), Grace: 60},
		{Code: RefusedLink, Text: "/dev/ttyS9: no such file"},
		{Code: RefusedToken}, {Code: RefusedEnding},
	} {
		o.refuse = r
		h := &host{b: o}
		_, err := Connect(t.Context(), h.dial, Open{})
		var got *Refusal
		if !errors.As(err, &got) || got.Code != r.Code || got.Error() != r.Error() {
			t.Errorf("%v, want %v", err, r)
		}
		if errors.Is(err, target.ErrLease) != (r.Code == RefusedHeld) {
			t.Errorf("%v as ErrLease", err)
		}
		h.cut()
		h.wg.Wait()
	}
}

func TestVersions(t *testing.T) {
	o := &one{}
	h := &host{b: o}
	conn, _ := h.dial(t.Context())
	conn.Write(appendFrames(nil, 0, KindHello, encode(Hello{Magic: magic, Release: "openkd 99", Min: 7, Max: 9})))
	f, err := newFrameReader(conn).next()
	if err != nil || f.kind != KindRefuse {
		t.Fatalf("%+v, %v", f, err)
	}
	var r Refusal
	if err := decode(f.payload, &r); err != nil || r.Code != RefusedVersion || r.Release != Release || r.Max != ProtocolMax {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := io.ReadAll(conn); err != nil {
		t.Error(err)
	}
	conn.Close()
	h.wg.Wait()
	if msg := h.errs[0].Error(); !strings.Contains(msg, `"openkd 99" and speaks protocol 7 to 9`) || !strings.Contains(msg, Release) {
		t.Error(msg)
	}
	// And the other way round: an old client meets a server of the future.
	_, err = Connect(t.Context(), func(context.Context) (net.Conn, error) {
		a, b := transport.Pipe()
		b.Write(appendFrames(nil, 0, KindHello, encode(Hello{Magic: magic, Release: "openkd 99", Min: 7, Max: 9})))
		return a, nil
	}, Open{})
	if err == nil || !strings.Contains(err.Error(), `release "openkd 99" and speaks protocol 7 to 9; this is release "`+Release) {
		t.Error(err)
	}
}

func TestErrorsCross(t *testing.T) {
	for _, e := range []error{
		target.ErrRunning, target.ErrHalted, target.ErrLost, target.ErrNotReady, target.ErrClosed, target.ErrLease, target.ErrBadRequest,
		context.Canceled, context.DeadlineExceeded,
	} {
		for _, in := range []error{e, fmt.Errorf("more: %w", e)} {
			var r Result
			if err := decode(encode(resultOf(in)), &r); err != nil {
				t.Fatal(err)
			}
			if out := r.err(); !errors.Is(out, e) || out.Error() != in.Error() {
				t.Errorf("%v became %v", in, out)
			}
		}
	}
	ie := &target.InsertError{Addresses: []uint64{1, 1 << 63}}
	var out *target.InsertError
	r := resultOf(fmt.Errorf("x: %w", ie))
	if !errors.As(r.err(), &out) || !reflect.DeepEqual(out, ie) {
		t.Errorf("%v", r.err())
	}
	r = resultOf(errors.New(strings.Repeat("x", 1<<20)))
	if n := len(r.err().Error()); n > 20<<10 {
		t.Errorf("an error of %d bytes crosses", n)
	}
	if err := (&Result{Code: 999}).err(); err == nil {
		t.Error("an unknown code is success")
	}
	if err := (&Result{Code: CodeInsert}).err(); err == nil {
		t.Error("an insert error without addresses is success")
	}
}

func TestPanicInTarget(t *testing.T) {
	f := targettest.New()
	f.OnPart = func(context.Context, int, uint64, int) error { panic("boom") }
	c, o, _ := start(t, f)
	halted(t, c, f)
	_, err := target.Collect(t.Context(), c, target.Request{Op: target.OpVersion})
	if !errors.Is(err, target.ErrClosed) {
		t.Errorf("%v", err)
	}
	select {
	case <-o.panicked:
	case <-time.After(time.Minute):
		t.Error("the session was not told")
	}
}

func TestEndServer(t *testing.T) {
	c, o, _ := start(t, targettest.New())
	if err := c.EndServer(t.Context()); err != nil {
		t.Error(err)
	}
	<-o.ended
}

// A client that takes its time slows the target's line; the server's memory
// does not grow by what it has not taken.
func TestSlowClient(t *testing.T) {
	f := targettest.New()
	var mu sync.Mutex
	sent := 0
	stalled := make(chan struct{}, 1)
	f.OnPart = func(_ context.Context, _ int, _ uint64, n int) error {
		mu.Lock()
		sent += n
		mu.Unlock()
		return nil
	}
	c, _, _ := start(t, f)
	big := make([]byte, 12<<20)
	f.Map(1<<40, big)
	halted(t, c, f)
	taken := 0
	err := c.Do(t.Context(), []target.Request{{Op: target.OpReadVirtual, Addr: 1 << 40, Len: 12 << 20}}, func(p target.Part) error {
		if taken == 0 {
			// The server reads the window ahead, and then nothing more.
			for begin := time.Now(); time.Since(begin) < 20*time.Second; time.Sleep(time.Millisecond) {
				mu.Lock()
				now := sent
				mu.Unlock()
				if now >= creditWindow {
					break
				}
			}
			time.Sleep(50 * time.Millisecond)
			stalled <- struct{}{}
			mu.Lock()
			if sent > creditWindow+maxOut+fragment {
				t.Errorf("%d bytes were read for a client that takes none", sent)
			}
			if sent < creditWindow {
				t.Errorf("only %d bytes were read ahead", sent)
			}
			mu.Unlock()
		}
		taken += len(p.Data)
		return nil
	})
	if err != nil || taken != 12<<20 {
		t.Errorf("%d bytes, %v", taken, err)
	}
	<-stalled
}

// While the sink of a batch stands still, everything else goes on.
func TestNothingWaitsForASlowSink(t *testing.T) {
	f := targettest.New()
	c, _, _ := start(t, f)
	f.Map(1<<40, make([]byte, 16<<20))
	halted(t, c, f)
	enough := errors.New("enough")
	err := c.Do(t.Context(), []target.Request{{Op: target.OpReadVirtual, Addr: 1 << 40, Len: 16 << 20}}, func(target.Part) error {
		if _, err := c.Status(t.Context()); err != nil {
			t.Errorf("status: %v", err)
		}
		f.Print("x")
		targettest.Await(t.Context(), t, c, target.EventPrint)
		if err := c.BreakIn(t.Context()); err != nil {
			t.Errorf("break-in: %v", err)
		}
		return enough
	})
	if err != enough || f.Breaks() != 1 {
		t.Errorf("%v, %d", err, f.Breaks())
	}
}

// A client that does not read at all is let go, and the memory it held with it.
func TestClientThatNeverReads(t *testing.T) {
	f := targettest.New()
	o := newOne(f)
	defer func() { f.Close(context.Background(), 0); o.close() }()
	h := &host{b: o, times: Timeouts{Ping: 20 * time.Millisecond, Dead: 60 * time.Millisecond}}
	conn, _ := h.dial(t.Context())
	defer conn.Close()
	conn.Write(appendFrames(nil, 0, KindHello, encode(Hello{Magic: magic, Min: 1, Max: 1})))
	conn.Write(appendFrames(nil, 1, KindOpen, encode(Open{})))
	for range 200 {
		f.Print(strings.Repeat("x", 64<<10))
	}
	h.wg.Wait()
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.detached != 1 {
		t.Errorf("detached %d times", o.detached)
	}
}

func TestLongBodies(t *testing.T) {
	f := targettest.New()
	c, _, _ := start(t, f)
	halted(t, c, f)
	data := bytes.Repeat([]byte{0x5A}, 700<<10)
	rep, err := target.Collect(t.Context(), c,
		target.Request{Op: target.OpWriteVirtual, Addr: targettest.Base, Data: data},
		target.Request{Op: target.OpReadVirtual, Addr: targettest.Base, Len: uint64(len(data))})
	if err != nil || rep[0].Value != uint64(len(data)) || !bytes.Equal(rep[1].Data(), data) {
		t.Errorf("%d bytes written, %v", rep[0].Value, err)
	}
	var batch []target.Request
	for range 3 {
		batch = append(batch, target.Request{Op: target.OpWriteVirtual, Data: make([]byte, target.MaxWrite)})
	}
	if err := c.Do(t.Context(), batch, nil); !errors.Is(err, target.ErrBadRequest) {
		t.Errorf("48 MiB: %v", err)
	}
	// A stop with a bundle that takes several frames.
	st := &target.Stop{Number: 77, Bundle: target.Bundle{Memory: []target.Memory{{Addr: 1, Data: data}}}}
	f.Emit(target.Event{Kind: target.EventHalted, Stop: st})
	if e := targettest.Await(t.Context(), t, c, target.EventHalted); !reflect.DeepEqual(e.Stop, st) {
		t.Error("the bundle arrived changed")
	}
}

func TestManyAtOnce(t *testing.T) {
	f := targettest.New()
	c, _, _ := start(t, f)
	halted(t, c, f)
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			rep, err := target.Collect(t.Context(), c, target.Request{Op: target.OpReadVirtual, Addr: targettest.Base + uint64(i), Len: 10000})
			if err != nil || len(rep[0].Data()) != 10000 || rep[0].Data()[0] != targettest.Pattern(i) {
				t.Errorf("reader %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

// parting is a connection whose other side has spoken and goes: nothing can be
// written any more, and what it said comes late.
type parting struct {
	net.Conn
	gone  atomic.Bool
	reads chan struct{} // closed when something was to be written
	once  sync.Once
}

func (p *parting) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	if p.gone.Load() {
		<-p.reads
	}
	return n, err
}

func (p *parting) Write(b []byte) (int, error) {
	if p.gone.Load() {
		p.once.Do(func() { close(p.reads) })
		return 0, syscall.EPIPE
	}
	return p.Conn.Write(b)
}

// TestLastWords: what a server says before it goes arrives, though the client has
// found already that it takes no more.
func TestLastWords(t *testing.T) {
	o := newOne(targettest.New())
	h := &host{b: o}
	p := &parting{reads: make(chan struct{})}
	c, err := Connect(t.Context(), func(ctx context.Context) (net.Conn, error) {
		conn, err := h.dial(ctx)
		p.Conn = conn
		return p, err
	}, Open{Link: "com:", Owner: "me@here"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		c.Close(context.Background(), target.LeaveRunning)
		h.cut()
		h.wg.Wait()
		o.close()
	}()
	p.gone.Store(true)
	h.setDown(true)
	o.log.Append(target.Event{Kind: target.EventClosed, Text: "the server is ending"})
	o.log.Close()
	if err := c.BreakIn(t.Context()); err == nil {
		t.Error("a break-in reached nobody")
	}
	if e := targettest.Await(t.Context(), t, c, target.EventClosed); e.Text != "the server is ending" {
		t.Errorf("closed: %q", e.Text)
	}
}
