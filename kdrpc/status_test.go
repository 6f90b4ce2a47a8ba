package kdrpc

import (
	"context"
	"errors"
	"net"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"openkd/status"
	"openkd/target"
	"openkd/target/targettest"
	"openkd/transport"
)

func TestServerStatus(t *testing.T) {
	f := targettest.New()
	held, let := make(chan struct{}), make(chan struct{})
	f.OnPart = func(context.Context, int, uint64, int) error {
		close(held)
		<-let
		return nil
	}
	c, o, _ := start(t, f)
	o.status = &status.Server{Release: "9", Now: goldenTime, Sessions: []status.Session{{Line: "x", Lost: &goldenTime}}}
	f.Map(0x1000, make([]byte, 8))
	halted(t, c, f)
	// The target is busy, and stays so.
	done := make(chan error, 1)
	go func() {
		_, err := target.Collect(t.Context(), c, target.Request{Op: target.OpReadVirtual, Addr: 0x1000, Len: 8})
		done <- err
	}()
	<-held
	got, err := c.ServerStatus(t.Context())
	if err != nil || !reflect.DeepEqual(got, o.status) {
		t.Errorf("%+v, %v", got, err)
	}
	close(let)
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A status that no message can hold loses the ends of its lists, not the
// connection.
func TestServerStatusFits(t *testing.T) {
	c, o, _ := start(t, targettest.New())
	long := strings.Repeat("x", 4000)
	o.status = &status.Server{SessionCount: 4096}
	for range o.status.SessionCount {
		o.status.Sessions = append(o.status.Sessions, status.Session{Line: long})
		o.status.Clients = append(o.status.Clients, status.Client{Peer: long})
	}
	got, err := c.ServerStatus(t.Context())
	if err != nil || len(got.Sessions) == 0 || len(got.Sessions) == got.SessionCount {
		t.Errorf("%v", err)
	}
}

// A server of an older release answers with code 12.
func TestServerStatusUnknown(t *testing.T) {
	a, b := transport.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		defer b.Close()
		r := newFrameReader(b)
		for {
			f, err := r.next()
			if err != nil {
				return
			}
			var answer []byte
			switch f.kind {
			case KindHello:
				answer = golden()["hello"]
			case KindOpen:
				answer = appendFrames(nil, f.id, KindOpened, encode(Opened{Token: []byte("t"), Line: "x"}))
			case KindServer:
				answer = appendFrames(nil, f.id, KindDone, encode(Result{Code: CodeUnknown, Text: "this server does not know requests of kind 0x1a"}))
			case KindClose:
				answer = appendFrames(nil, f.id, KindDone, nil)
				answer = append(answer, golden()["events, no more"]...)
			}
			if _, err := b.Write(answer); err != nil {
				return
			}
		}
	})
	dial := func(context.Context) (net.Conn, error) { return a, nil }
	c, err := Connect(t.Context(), dial, Open{Link: "x"})
	if err != nil {
		t.Fatal(err)
	}
	var re *RemoteError
	if _, err = c.ServerStatus(t.Context()); !errors.As(err, &re) || re.Code != CodeUnknown || !strings.Contains(err.Error(), "older release") {
		t.Errorf("%v", err)
	}
	c.Close(t.Context(), target.LeaveRunning)
	wg.Wait()
}

// far is a connection that takes a time for each direction.
type far struct {
	net.Conn
	delay time.Duration
}

func (c far) Write(b []byte) (int, error) {
	time.Sleep(c.delay)
	return c.Conn.Write(b)
}

// The round trip is measured at the start and now and then, whether or not
// there is silence, and bytes are counted as they cross.
func TestMeter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const delay = 20 * time.Millisecond
		f := targettest.New()
		o := newOne(f)
		a, b := transport.Pipe()
		m := new(Meter)
		var wg sync.WaitGroup
		wg.Go(func() {
			Serve(context.Background(), far{b, delay}, o, ServeOptions{Meter: m})
		})
		c, err := Connect(t.Context(), func(context.Context) (net.Conn, error) { return far{a, delay}, nil }, Open{Link: "x"})
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * delay)
		if d := m.RoundTrip(); d < 2*delay || d > 4*delay {
			t.Errorf("measured at first: %v", d)
		}
		m.rtt.Store(0)
		in, out := m.Bytes()
		if in == 0 || out == 0 {
			t.Errorf("%d bytes in, %d out", in, out)
		}
		// Never silent, and measured all the same.
		for range 40 {
			c.BreakIn(t.Context())
			time.Sleep(time.Second)
		}
		if d := m.RoundTrip(); d < 2*delay || d > 4*delay {
			t.Errorf("measured later: %v", d)
		}
		if in2, out2 := m.Bytes(); in2 < in+40*frameHeader || out2 < out+40*frameHeader {
			t.Errorf("%d bytes in, %d out behind 40 requests", in2-in, out2-out)
		}
		c.Close(t.Context(), target.LeaveRunning)
		wg.Wait()
		o.close()
	})
}

func TestRoundTripIsSmoothed(t *testing.T) {
	var m Meter
	m.trip(80)
	m.trip(160)
	if got := m.RoundTrip(); got != 90 {
		t.Errorf("80 and 160 make %v, want 90", got)
	}
	m = Meter{}
	m.trip(0)
	if m.RoundTrip() <= 0 {
		t.Error("a measurement of nothing at all looks like none")
	}
}

// A pong that nobody asked for measures nothing.
func TestStrayPong(t *testing.T) {
	a, b := transport.Pipe()
	m := new(Meter)
	done := make(chan error, 1)
	o := newOne(targettest.New())
	defer o.close()
	go func() { done <- Serve(context.Background(), b, o, ServeOptions{Meter: m}) }()
	a.Write(golden()["hello"])
	a.Write(golden()["pong"])
	a.Write(appendFrames(nil, 1, KindServer, nil))
	r := newFrameReader(a)
	for {
		f, err := r.next()
		if err != nil {
			t.Fatal(err)
		}
		if f.kind == KindDone { // without a session, too
			break
		}
	}
	a.Close()
	<-done
	if m.RoundTrip() != 0 {
		t.Errorf("measured %v", m.RoundTrip())
	}
	if in, _ := m.Bytes(); in != uint64(len(golden()["hello"])+2*frameHeader) {
		t.Errorf("%d bytes in", in)
	}
}
