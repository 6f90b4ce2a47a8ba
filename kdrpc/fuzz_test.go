package kdrpc

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"openkd/status"
	"openkd/target"
	"openkd/target/targettest"
	"openkd/transport"
)

// patience is after what time something hangs, on a busy machine too.
const patience = 2 * time.Minute

// serveBytes serves a client that says b and leaves. It must end.
func serveBytes(t *testing.T, b []byte) {
	f := targettest.New()
	f.Halt(targettest.Base)
	o := newOne(f)
	client, srv := transport.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { io.Copy(io.Discard, client) })
	wg.Go(func() {
		client.Write(b)
		client.CloseWrite()
	})
	done := time.AfterFunc(patience, func() { panic("the server does not come to an end") })
	Serve(context.Background(), srv, anyEnd{o}, ServeOptions{})
	client.Close()
	wg.Wait()
	f.Close(context.Background(), target.LeaveRunning)
	o.close()
	done.Stop()
	select {
	case <-o.panicked:
		t.Error("the server panics")
	default:
	}
}

// anyEnd takes any number of requests to end.
type anyEnd struct{ *one }

func (anyEnd) ServerStatus(context.Context) (*status.Server, error) { return &status.Server{}, nil }
func (anyEnd) EndServer(context.Context, string) (func(), error)    { return func() {}, nil }

// connectBytes connects to a server that says b and leaves. It must end.
func connectBytes(t *testing.T, b []byte) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var wg sync.WaitGroup
	first := true
	c, err := Connect(ctx, func(context.Context) (net.Conn, error) {
		if !first {
			return nil, &Refusal{Code: RefusedToken}
		}
		first = false
		a, s := transport.Pipe()
		wg.Go(func() { io.Copy(io.Discard, s) })
		wg.Go(func() {
			s.Write(b)
			s.Close()
		})
		return a, nil
	}, Open{Owner: "x"})
	if err == nil {
		c.Do(ctx, []target.Request{{Op: target.OpVersion}}, func(target.Part) error { return nil })
		for err == nil {
			_, err = c.Next(ctx)
		}
		if !errors.Is(err, target.ErrClosed) {
			t.Errorf("the events end with %v", err)
		}
		c.Close(ctx, target.LeaveRunning)
	}
	wg.Wait()
}
