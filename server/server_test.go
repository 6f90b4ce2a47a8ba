package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"openkd/connstr"
	"openkd/internal/captured"
	"openkd/kdproto"
	"openkd/kdrpc"
	"openkd/server"
	"openkd/target"
	"openkd/target/targettest"
	"openkd/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bench is a server over fakes: one fake for each link, made when it is opened.
type bench struct {
	t    testing.TB
	srv  *server.Server
	log  *captured.Text
	open func(ctx context.Context, link string) error // before a link opens

	mu    sync.Mutex
	fakes map[string]*targettest.Fake
	opens int
	conns []net.Conn
	down  bool
}

func newBench(t testing.TB, change ...func(*server.Options)) *bench {
	b := &bench{t: t, log: new(captured.Text), fakes: make(map[string]*targettest.Fake)}
	o := server.Options{
		Logger: slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Opener: b.opener,
		Canonical: func(link string) (string, error) {
			if strings.HasPrefix(link, "bad") {
				return "", errors.New("connection string \"bad\": no such link")
			}
			return strings.ToUpper(strings.TrimSpace(link)), nil
		},
	}
	for _, c := range change {
		c(&o)
	}
	b.srv = server.New(o)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := b.srv.Shutdown(ctx); err != nil {
			t.Errorf("shutdown: %v", err)
		}
	})
	return b
}

func (b *bench) opener(ctx context.Context, link string, cfg target.Config) (target.Target, string, error) {
	if b.open != nil {
		if err := b.open(ctx, link); err != nil {
			return nil, "", err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opens++
	f := targettest.New()
	targettest.Prepare(f)
	line := strings.ToUpper(strings.TrimSpace(link))
	if i := strings.Index(line, "="); i >= 0 {
		return f, line[i+1:], nil // "alias=X" is the line X, as only opening it tells
	}
	b.fakes[line] = f
	return f, line, nil
}

func (b *bench) fake(line string) *targettest.Fake {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.fakes[line]
}

func (b *bench) dial(ctx context.Context) (net.Conn, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down {
		return nil, errors.New("no route")
	}
	c, err := b.srv.Dial(ctx)
	b.conns = append(b.conns, c)
	return c, err
}

// cut breaks every connection, and keeps new ones away if down.
func (b *bench) cut(down bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = down
	for _, c := range b.conns {
		c.Close()
	}
	b.conns = nil
}

func (b *bench) client(o kdrpc.Open, opts ...kdrpc.Option) (*kdrpc.Client, error) {
	return kdrpc.Connect(context.Background(), b.dial, o, opts...)
}

func (b *bench) must(link, owner string, takeOver bool) *kdrpc.Client {
	b.t.Helper()
	c, err := b.client(kdrpc.Open{Link: link, Owner: owner, TakeOver: takeOver})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close(context.Background(), target.LeaveRunning) })
	return c
}

func version(c *kdrpc.Client) error {
	_, err := target.Collect(context.Background(), c, target.Request{Op: target.OpVersion})
	return err
}

func (b *bench) halt(line string, c *kdrpc.Client) {
	b.t.Helper()
	b.fake(line).Halt(targettest.Base)
	targettest.Await(context.Background(), b.t, c, target.EventHalted)
}

func (b *bench) until(what string, cond func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("not in 20 s: %s\n%s", what, b.log)
		}
	}
}

func TestConformance(t *testing.T) {
	targettest.Run(t, func(t *testing.T, f *targettest.Fake) target.Target {
		srv := server.InProcess(server.Options{Opener: func(context.Context, string, target.Config) (target.Target, string, error) { return f, "line", nil }})
		t.Cleanup(func() { srv.Shutdown(context.Background()) })
		c, err := kdrpc.Connect(t.Context(), srv.Dial, kdrpc.Open{Link: "com:"}, kdrpc.WithLocal())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close(context.Background(), target.LeaveRunning) })
		return c
	})
}

func TestTwoClientsOnTwoLinks(t *testing.T) {
	b := newBench(t)
	x, y := b.must("x", "ann@lab", false), b.must("y", "ben@lab", false)
	b.halt("X", x)
	b.halt("Y", y)
	b.fake("X").Map(0x1000, []byte("this is x"))
	b.fake("Y").Map(0x1000, []byte("this is y"))
	var wg sync.WaitGroup
	for want, c := range map[string]*kdrpc.Client{"this is x": x, "this is y": y} {
		for range 5 {
			wg.Go(func() {
				rep, err := target.Collect(t.Context(), c, target.Request{Op: target.OpReadVirtual, Addr: 0x1000, Len: 9})
				if err != nil || string(rep[0].Data()) != want {
					t.Errorf("%q: %q, %v", want, rep[0].Data(), err)
				}
			})
		}
	}
	wg.Wait()
	if s := b.srv.Sessions(); len(s) != 2 || s[0].Line != "X" || s[0].Owner != "ann@lab" || s[1].Line != "Y" {
		t.Errorf("sessions %+v", s)
	}
	// One leaves; the other does not notice, and the line is free again.
	if err := x.Close(t.Context(), target.LeaveHalted); err != nil {
		t.Fatal(err)
	}
	if l, ok := b.fake("X").Left(); !ok || l != target.LeaveHalted {
		t.Errorf("x was left %v, %v", l, ok)
	}
	if err := version(y); err != nil {
		t.Error(err)
	}
	b.must("x", "cid@lab", false)
	if s := b.srv.Sessions(); len(s) != 2 || s[0].Owner != "cid@lab" {
		t.Errorf("sessions %+v", s)
	}
}

func TestLease(t *testing.T) {
	b := newBench(t)
	ann := b.must("x", "ann@lab", false)
	b.halt("X", ann)
	for _, link := range []string{"x", " X ", "alias=x"} {
		_, err := b.client(kdrpc.Open{Link: link, Owner: "ben@lab"})
		var ref *kdrpc.Refusal
		if !errors.As(err, &ref) || !errors.Is(err, target.ErrLease) || ref.Holder != "ann@lab" || time.Since(ref.Since) > time.Minute {
			t.Fatalf("%q: %v", link, err)
		}
		if !strings.Contains(err.Error(), "held by ann@lab since") || !strings.Contains(err.Error(), "kd -takeover") {
			t.Errorf("%v", err)
		}
	}
	if err := version(ann); err != nil {
		t.Fatal(err)
	}

	// A take-over ends a batch of the old holder and tells both.
	f := b.fake("X")
	reached := make(chan struct{}, 1)
	f.OnPart = func(ctx context.Context, index int, _ uint64, _ int) error {
		if index == 1 {
			reached <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	}
	batch := make(chan error, 1)
	go func() {
		_, err := target.Collect(t.Context(), ann, target.Request{Op: target.OpVersion}, target.Request{Op: target.OpVersion})
		batch <- err
	}()
	<-reached
	ben := b.must("x", "ben@lab", true)
	if err := <-batch; !errors.Is(err, target.ErrLease) {
		t.Errorf("the batch of the old holder: %v", err)
	}
	if e, ok := ben.Opened().Epoch, ben.Opened().Epoch > ann.Opened().Epoch; !ok {
		t.Errorf("epoch %d", e)
	}
	for what, err := range map[string]error{
		"Do": version(ann), "Resume": ann.Resume(t.Context(), target.Resume{}), "BreakIn": ann.BreakIn(t.Context()),
		"Switch": ann.Switch(t.Context(), 1), "Control": ann.Control(t.Context(), target.Control{Op: target.ControlResync}),
		"Answer": ann.Answer(t.Context(), "x"),
	} {
		if !errors.Is(err, target.ErrLease) || !strings.Contains(err.Error(), "taken over by ben@lab") {
			t.Errorf("%s of the old holder: %v", what, err)
		}
	}
	if e := targettest.Await(t.Context(), t, ann, target.EventClosed); !strings.Contains(e.Text, "taken over by ben@lab") {
		t.Errorf("the old holder is told %q", e.Text)
	}
	// The new one is told where things stand.
	if e := targettest.Await(t.Context(), t, ben, target.EventConnected); e.Version == nil {
		t.Error("no version")
	}
	if e := targettest.Await(t.Context(), t, ben, target.EventHalted); !e.Stop.Again || e.Stop.PC != targettest.Base {
		t.Errorf("%+v", e.Stop)
	}
	if err := version(ben); err != nil {
		t.Error(err)
	}
	// The old one goes; the new one's session stays.
	ann.Close(t.Context(), target.LeaveHalted)
	if err := version(ben); err != nil {
		t.Error(err)
	}
	if _, ok := f.Left(); ok || b.opens != 2 {
		t.Errorf("left %v, opened %d times", ok, b.opens)
	}
}

func TestResume(t *testing.T) {
	b := newBench(t)
	c := b.must("x", "ann@lab", false)
	b.halt("X", c)
	f := b.fake("X")
	var once sync.Once
	err := c.Do(t.Context(), []target.Request{{Op: target.OpReadVirtual, Addr: targettest.Base, Len: 1 << 20}}, func(target.Part) error {
		once.Do(func() { b.cut(true) })
		return nil
	})
	if err != nil && !errors.Is(err, target.ErrLost) {
		t.Errorf("%v", err)
	}
	for i := range 100 {
		f.Print(fmt.Sprintf("line %d\n", i))
		if i%10 == 0 {
			f.Emit(target.Event{Kind: target.EventModule, Module: &target.Module{Base: uint64(i)}})
		}
	}
	b.cut(false)
	text, modules := "", 0
	for modules < 10 || !strings.Contains(text, "line 99\n") {
		e, err := c.Next(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		switch e.Kind {
		case target.EventPrint:
			text += e.Text
		case target.EventModule:
			if e.Module.Base != uint64(modules*10) {
				t.Errorf("module %d comes as number %d", e.Module.Base, modules)
			}
			modules++
		}
	}
	for i := range 100 {
		if strings.Count(text, fmt.Sprintf("line %d\n", i)) != 1 {
			t.Errorf("line %d came %d times", i, strings.Count(text, fmt.Sprintf("line %d\n", i)))
		}
	}
	if err := version(c); err != nil {
		t.Errorf("after resumption: %v", err)
	}
	if o := c.Opened(); o.Epoch != 2 || b.opens != 1 {
		t.Errorf("epoch %d, opened %d times", o.Epoch, b.opens)
	}
	if _, ok := f.Left(); ok {
		t.Error("the target was let go")
	}
}

func TestTokenOfAnother(t *testing.T) {
	b := newBench(t)
	x, y := b.must("x", "ann@lab", false), b.must("y", "ben@lab", false)
	b.cut(true)
	for name, o := range map[string]kdrpc.Open{
		"another's owner":     {Link: "x", Owner: "ben@lab", Resume: x.Opened().Token},
		"another link":        {Link: "x", Owner: "ben@lab", Resume: y.Opened().Token},
		"guessed":             {Link: "x", Owner: "ann@lab", Resume: make([]byte, 16)},
		"short":               {Link: "x", Owner: "ann@lab", Resume: x.Opened().Token[:8]},
		"empty, but not none": {Link: "x", Owner: "ben@lab", Resume: []byte{}}, // ann herself would be let in without one
	} {
		_, err := kdrpc.Connect(t.Context(), b.srv.Dial, o)
		var ref *kdrpc.Refusal
		if !errors.As(err, &ref) || ref.Code != kdrpc.RefusedToken && ref.Code != kdrpc.RefusedHeld {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.cut(false)
	if err := x.BreakIn(t.Context()); err != nil {
		t.Errorf("the rightful one: %v", err)
	}
}

// The token of before a take-over is worth nothing.
func TestTokenAfterTakeOver(t *testing.T) {
	b := newBench(t)
	ann := b.must("x", "ann@lab", false)
	token := ann.Opened().Token
	b.must("x", "ann@lab", true)
	_, err := b.client(kdrpc.Open{Link: "x", Owner: "ann@lab", Resume: token})
	var ref *kdrpc.Refusal
	if !errors.As(err, &ref) || ref.Code != kdrpc.RefusedToken {
		t.Errorf("%v", err)
	}
}

func TestGraceExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		c := b.must("x", "ann@lab", false)
		b.halt("X", c)
		f := b.fake("X")
		begin := time.Now()
		left := make(chan time.Duration, 1)
		f.OnClose = func(l target.Leave) {
			if l != target.LeaveRunning {
				t.Errorf("left %v", l)
			}
			left <- time.Since(begin)
		}
		b.cut(true)
		time.Sleep(30 * time.Second)
		if s := b.srv.Sessions(); len(s) != 1 || s[0].Lost.IsZero() {
			t.Errorf("in the grace time: %+v", s)
		}
		_, err := kdrpc.Connect(t.Context(), b.srv.Dial, kdrpc.Open{Link: "x", Owner: "ben@lab"})
		if err == nil || !strings.Contains(err.Error(), "whose connection was lost at") {
			t.Errorf("in the grace time another gets: %v", err)
		}
		if d := <-left; d != time.Minute {
			t.Errorf("let go after %v", d)
		}
		time.Sleep(2 * time.Second)
		if s := b.srv.Sessions(); len(s) != 0 {
			t.Errorf("after the grace time: %+v", s)
		}
		if !strings.Contains(b.log.String(), "did not come back within 1m0s") || !strings.Contains(b.log.String(), "the target is let go") {
			t.Errorf("the log says nothing of it:\n%s", b.log)
		}
		if e := targettest.Await(t.Context(), t, c, target.EventClosed); !strings.Contains(e.Text, "did not come back") {
			t.Errorf("the client says %q", e.Text)
		}
		b.cut(false)
		c2 := b.must("x", "ben@lab", false) // the line is free
		c2.Close(t.Context(), target.LeaveRunning)
	})
}

// Who comes back in time stops the clock.
func TestGraceStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		c := b.must("x", "ann@lab", false)
		b.halt("X", c)
		for range 5 {
			b.cut(true)
			time.Sleep(40 * time.Second)
			b.cut(false)
			time.Sleep(20 * time.Second)
			if err := version(c); err != nil {
				t.Fatal(err)
			}
		}
		if _, ok := b.fake("X").Left(); ok {
			t.Error("let go")
		}
		c.Close(t.Context(), target.LeaveRunning)
	})
}

func TestTakeOverInGrace(t *testing.T) {
	b := newBench(t)
	ann := b.must("x", "ann@lab", false)
	b.halt("X", ann)
	b.cut(true)
	for b.srv.Sessions()[0].Lost.IsZero() {
		time.Sleep(time.Millisecond)
	}
	b.mu.Lock()
	b.down = false
	b.mu.Unlock()
	ben := b.must("x", "ben@lab", true)
	targettest.Await(t.Context(), t, ben, target.EventHalted)
	if err := version(ben); err != nil {
		t.Error(err)
	}
	// Ann's client comes back by itself and learns that it is over.
	targettest.Await(t.Context(), t, ann, target.EventClosed)
}

// TestOwnerComesBack: an owner whose debugger was killed gets his session
// without asking to take it over; somebody else does not, and nobody does while
// the owner is there.
func TestOwnerComesBack(t *testing.T) {
	b := newBench(t)
	ann := b.must("x", "ann@lab", false)
	b.halt("X", ann)
	if _, err := b.client(kdrpc.Open{Link: "x", Owner: "ann@lab"}); err == nil {
		t.Error("a second debugger of the same owner was let in")
	}
	b.cut(true)
	for b.srv.Sessions()[0].Lost.IsZero() {
		time.Sleep(time.Millisecond)
	}
	open := func(owner string) (*kdrpc.Client, error) {
		return kdrpc.Connect(t.Context(), b.srv.Dial, kdrpc.Open{Link: "x", Owner: owner}, kdrpc.WithLocal())
	}
	if _, err := open("ben@lab"); !errors.Is(err, target.ErrLease) {
		t.Errorf("somebody else: %v", err)
	}
	again, err := open("ann@lab")
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close(context.Background(), target.LeaveRunning)
	targettest.Await(t.Context(), t, again, target.EventHalted)
	if err := version(again); err != nil {
		t.Error(err)
	}
	b.mu.Lock()
	b.down = false // the old debugger was not dead after all
	b.mu.Unlock()
	targettest.Await(t.Context(), t, ann, target.EventClosed)
}

func TestShutdown(t *testing.T) {
	b := newBench(t)
	x, y := b.must("x", "ann@lab", false), b.must("y", "ben@lab", false)
	b.halt("X", x)
	fx, fy := b.fake("X"), b.fake("Y")
	// A batch that hangs does not keep anybody.
	fx.OnPart = func(ctx context.Context, _ int, _ uint64, _ int) error { <-ctx.Done(); return ctx.Err() }
	batch := make(chan error, 1)
	go func() { batch <- version(x) }()
	for fx.Batches() == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := y.EndServer(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-b.srv.EndAsked()
	if err := b.srv.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-batch; err == nil {
		t.Error("the batch went on")
	}
	for name, f := range map[string]*targettest.Fake{"x": fx, "y": fy} {
		if l, ok := f.Left(); !ok || l != target.LeaveRunning {
			t.Errorf("%s was left %v, %v", name, l, ok)
		}
	}
	for _, c := range []*kdrpc.Client{x, y} {
		if e := targettest.Await(t.Context(), t, c, target.EventNotice); !strings.Contains(e.Text, "the target is let go") {
			t.Errorf("notice %q", e.Text)
		}
		targettest.Await(t.Context(), t, c, target.EventClosed)
	}
	if _, err := b.srv.Dial(t.Context()); err == nil {
		t.Error("a server that ended takes clients")
	}
	if n := strings.Count(b.log.String(), "the target is let go"); n != 2 {
		t.Errorf("the log says it %d times", n)
	}
}

// A target that does not come to an end does not keep the server.
func TestShutdownBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, func(o *server.Options) { o.CloseWithin = 3 * time.Second })
		c := b.must("x", "ann@lab", false)
		release := make(chan struct{})
		b.fake("X").OnClose = func(target.Leave) { <-release }
		begin := time.Now()
		if err := b.srv.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if d := time.Since(begin); d < 3*time.Second || d > 6*time.Second {
			t.Errorf("took %v", d)
		}
		if !strings.Contains(b.log.String(), "not let go in good order") {
			t.Error("the log does not say it")
		}
		close(release)
		c.Close(t.Context(), target.LeaveRunning)
	})
}

func TestPanicEndsOneSession(t *testing.T) {
	b := newBench(t)
	x, y := b.must("x", "ann@lab", false), b.must("y", "ben@lab", false)
	b.halt("X", x)
	b.halt("Y", y)
	b.fake("X").OnPart = func(context.Context, int, uint64, int) error { panic("boom") }
	if err := version(x); !errors.Is(err, target.ErrClosed) {
		t.Errorf("the session with the fault: %v", err)
	}
	targettest.Await(t.Context(), t, x, target.EventClosed)
	if err := version(y); err != nil {
		t.Errorf("the other session: %v", err)
	}
	if l, ok := b.fake("X").Left(); !ok || l != target.LeaveRunning {
		t.Errorf("left %v, %v", l, ok)
	}
	if !strings.Contains(b.log.String(), "boom") {
		t.Error("the log does not say it")
	}
	b.must("x", "ann@lab", false)
}

// panicky panics where the server calls it on its own account.
type panicky struct{ *targettest.Fake }

func (panicky) Next(context.Context) (target.Event, error) { panic("in Next") }

func TestPanicInPumpAndOpener(t *testing.T) {
	b := newBench(t, func(o *server.Options) {
		o.Opener = func(_ context.Context, link string, _ target.Config) (target.Target, string, error) {
			if link == "opener" {
				panic("in Opener")
			}
			return panicky{targettest.New()}, link, nil
		}
	})
	if _, err := b.client(kdrpc.Open{Link: "opener"}); err == nil || !strings.Contains(err.Error(), "the server has a fault") {
		t.Errorf("%v", err)
	}
	c := b.must("next", "ann@lab", false)
	targettest.Await(t.Context(), t, c, target.EventClosed)
}

func TestOpening(t *testing.T) {
	b := newBench(t)
	var ref *kdrpc.Refusal
	if _, err := b.client(kdrpc.Open{Link: "bad"}); !errors.As(err, &ref) || ref.Code != kdrpc.RefusedLink || !strings.Contains(err.Error(), "no such link") {
		t.Errorf("a bad link: %v", err)
	}
	fail := errors.New("/dev/ttyS9: permission denied: add yourself to the group dialout")
	b.open = func(context.Context, string) error { return fail }
	if _, err := b.client(kdrpc.Open{Link: "x"}); !errors.As(err, &ref) || err.Error() != fail.Error() {
		t.Errorf("a link that does not open: %v", err)
	}
	if s := b.srv.Sessions(); len(s) != 0 {
		t.Errorf("%+v", s)
	}
	// While one opens it, another is refused; who gives up frees the line.
	inside := make(chan struct{}, 1)
	b.open = func(ctx context.Context, _ string) error {
		inside <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := kdrpc.Connect(ctx, b.dial, kdrpc.Open{Link: "x", Owner: "ann@lab"})
		first <- err
	}()
	<-inside
	if _, err := b.client(kdrpc.Open{Link: "x"}); !errors.As(err, &ref) || ref.Code != kdrpc.RefusedHeld || ref.Holder != "ann@lab" {
		t.Errorf("while another opens it: %v", err)
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	b.open = nil
	for {
		c, err := b.client(kdrpc.Open{Link: "x"})
		if err == nil {
			c.Close(t.Context(), target.LeaveRunning)
			break
		}
		if !errors.As(err, &ref) || ref.Code != kdrpc.RefusedHeld { // until the server has noticed
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestTargetEndsByItself(t *testing.T) {
	b := newBench(t)
	c := b.must("x", "ann@lab", false)
	b.fake("X").Close(t.Context(), target.LeaveRunning)
	targettest.Await(t.Context(), t, c, target.EventClosed)
	if _, err := c.Next(t.Context()); !errors.Is(err, target.ErrClosed) {
		t.Error(err)
	}
	if err := version(c); !errors.Is(err, target.ErrClosed) {
		t.Error(err)
	}
	if err := c.Close(t.Context(), target.LeaveRunning); err != nil {
		t.Errorf("Close: %v", err)
	}
}

func TestLocalServerCannotBeEnded(t *testing.T) {
	srv := server.InProcess(server.Options{Opener: func(context.Context, string, target.Config) (target.Target, string, error) {
		return targettest.New(), "line", nil
	}})
	defer srv.Shutdown(t.Context())
	c, err := kdrpc.Connect(t.Context(), srv.Dial, kdrpc.Open{}, kdrpc.WithLocal())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close(t.Context(), target.LeaveRunning)
	if err := c.EndServer(t.Context()); err == nil || !strings.Contains(err.Error(), "no server process") {
		t.Error(err)
	}
	if e, err := c.Next(t.Context()); err != nil || e.Kind != target.EventConnected {
		t.Errorf("the first event is %v, %v", e.Kind, err)
	}
}

// overTCP connects through a real door.
func overTCP(t testing.TB, b *bench, password string) func(context.Context) (net.Conn, error) {
	l, err := transport.Listen(t.Context(), connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Password: password}, transport.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() { b.srv.Serve(context.Background(), l) })
	t.Cleanup(func() { l.Close(); wg.Wait() })
	to := connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: l.Transport().Port, Password: password}
	return func(ctx context.Context) (net.Conn, error) { return transport.Dial(ctx, to, transport.Options{}) }
}

func TestOverTCP(t *testing.T) {
	b := newBench(t)
	dial := overTCP(t, b, "secret")
	c, err := kdrpc.Connect(t.Context(), dial, kdrpc.Open{Link: "x", Owner: "ann@lab"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []target.Stage{target.StageServerReached, target.StageAuthenticated} {
		if e, err := c.Next(t.Context()); err != nil || e.Kind != target.EventStage || e.Stage != want {
			t.Errorf("%v %v, %v, want %v", e.Kind, e.Stage, err, want)
		}
	}
	b.halt("X", c)
	rep, err := target.Collect(t.Context(), c, target.Request{Op: target.OpReadVirtual, Addr: targettest.Base, Len: targettest.Size})
	if err != nil || len(rep[0].Data()) != targettest.Size {
		t.Fatalf("%v", err)
	}
	for i, v := range rep[0].Data() {
		if v != targettest.Pattern(i) {
			t.Fatalf("wrong byte at %d", i)
		}
	}
	if err := c.Resume(t.Context(), target.Resume{Status: kdproto.DbgContinue}); err != nil {
		t.Error(err)
	}
	if err := c.Close(t.Context(), target.LeaveRunning); err != nil {
		t.Error(err)
	}
}

// What is not kdrpc closes its connection, within a bound, and nothing else.
func TestBadClients(t *testing.T) {
	b := newBench(t, func(o *server.Options) {
		o.Timeouts = kdrpc.Timeouts{Ping: 500 * time.Millisecond, Dead: 2 * time.Second, Frame: 2 * time.Second, Hello: 2 * time.Second, Open: 2 * time.Second}
	})
	dial := overTCP(t, b, "secret")
	hello := []byte("\x27\x00\x00\x00\x00\x00\x00\x00\x01\xa4\x01\x6copenkd-kdrpc\x02\x6atest 1.0.0\x03\x01\x04\x01")
	hello[0] = byte(len(hello) - 4)
	t.Run("bad", func(t *testing.T) {
		for name, send := range map[string][]byte{
			"silence":                nil,
			"rubbish":                bytes.Repeat([]byte("rubbish "), 1000),
			"zeros":                  make([]byte, 4096),
			"giant length":           []byte("\xFF\xFF\xFF\xFF\x00\x00\x00\x00\x01"),
			"half a frame":           hello[:10],
			"a hello, then silence":  hello,
			"a hello, then rubbish":  append(bytes.Clone(hello), bytes.Repeat([]byte("x"), 1000)...),
			"a request without open": append(bytes.Clone(hello), "\x05\x00\x00\x00\x01\x00\x00\x00\x14"...),
			"pings only":             append(bytes.Clone(hello), bytes.Repeat([]byte("\x05\x00\x00\x00\x00\x00\x00\x00\x03"), 1000)...),
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				c, err := dial(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				c.Write(send)
				c.SetReadDeadline(time.Now().Add(time.Minute))
				buf := make([]byte, 4096)
				for err == nil {
					_, err = c.Read(buf)
				}
				var ne net.Error
				if errors.As(err, &ne) && ne.Timeout() {
					t.Error("the server keeps the connection")
				}
			})
		}
	})
	c, err := kdrpc.Connect(t.Context(), dial, kdrpc.Open{Link: "x"})
	if err != nil {
		t.Fatal(err)
	}
	b.halt("X", c)
	c.Close(t.Context(), target.LeaveRunning)
}

// quick models a link that gives a part of 4000 bytes every 30 microseconds,
// as a stop-and-wait link over a local socket does.
func quick() *targettest.Fake {
	f := targettest.New()
	targettest.Prepare(f)
	f.OnPart = func(context.Context, int, uint64, int) error {
		for begin := time.Now(); time.Since(begin) < 30*time.Microsecond; {
		}
		return nil
	}
	f.Halt(targettest.Base)
	return f
}

func BenchmarkBulkRead(b *testing.B) {
	read := func(b *testing.B, tg target.Target) time.Duration {
		n := 0
		begin := time.Now()
		err := tg.Do(b.Context(), []target.Request{{Op: target.OpReadVirtual, Addr: targettest.Base, Len: 1 << 20}}, func(p target.Part) error {
			n += len(p.Data)
			return nil
		})
		if err != nil || n != 1<<20 {
			b.Fatalf("%d bytes, %v", n, err)
		}
		return time.Since(begin)
	}
	for _, way := range []string{"pipe", "tcp"} {
		b.Run(way, func(b *testing.B) {
			f := quick()
			direct := quick()
			srv := server.New(server.Options{Opener: func(context.Context, string, target.Config) (target.Target, string, error) { return f, "line", nil }})
			defer srv.Shutdown(context.Background())
			dial := srv.Dial
			if way == "tcp" {
				dial = overTCP(b, &bench{srv: srv}, "secret")
			}
			c, err := kdrpc.Connect(b.Context(), dial, kdrpc.Open{})
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close(context.Background(), target.LeaveRunning)
			b.SetBytes(1 << 20)
			var near, far time.Duration
			for b.Loop() {
				far += read(b, c)
				b.StopTimer()
				near += read(b, direct)
				b.StartTimer()
			}
			b.ReportMetric(float64(far)/float64(near), "ratio-to-direct")
		})
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	srv := server.New(server.Options{Opener: func(context.Context, string, target.Config) (target.Target, string, error) {
		return targettest.New(), "line", nil
	}})
	defer srv.Shutdown(context.Background())
	for way, dial := range map[string]func(context.Context) (net.Conn, error){"pipe": srv.Dial, "tcp": overTCP(b, &bench{srv: srv}, "secret")} {
		b.Run(way, func(b *testing.B) {
			c, err := kdrpc.Connect(b.Context(), dial, kdrpc.Open{Link: way})
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close(context.Background(), target.LeaveRunning)
			for b.Loop() {
				if _, err := c.Status(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestMaxClients(t *testing.T) {
	b := newBench(t, func(o *server.Options) { o.MaxClients = 2 })
	a := b.must("one", "ann@lab", false)
	b.must("two", "ben@lab", false)
	var ref *kdrpc.Refusal
	if _, err := b.client(kdrpc.Open{Link: "three"}); !errors.As(err, &ref) || ref.Code != kdrpc.RefusedFull || !strings.Contains(err.Error(), "2 clients") {
		t.Errorf("a third client: %v", err)
	}
	a.Close(t.Context(), target.LeaveRunning)
	b.until("there is room", func() bool {
		c, err := b.client(kdrpc.Open{Link: "three"})
		if err == nil {
			c.Close(t.Context(), target.LeaveRunning)
		}
		return err == nil
	})
}

// A client whose connection was lost comes back although its place was taken
// meanwhile: it tries again until there is room.
func TestMaxClientsComingBack(t *testing.T) {
	b := newBench(t, func(o *server.Options) { o.MaxClients = 1 })
	c := b.must("one", "ann@lab", false)
	b.cut(true)
	var other net.Conn
	b.until("another has its place", func() bool {
		if other != nil {
			other.Close()
		}
		var err error
		if other, err = b.srv.Dial(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond)
		return strings.Count(b.log.String(), "client connected") == 2
	})
	b.mu.Lock()
	b.down = false
	b.mu.Unlock()
	b.until("it is refused", func() bool { return strings.Count(b.log.String(), "client refused") > 0 })
	other.Close()
	b.until("it is back", func() bool { return strings.Contains(b.log.String(), "session resumed") })
	if err := version(c); err != nil && !errors.Is(err, target.ErrRunning) {
		t.Error(err)
	}
}
