package sim

import (
	"context"
	"net"
	"testing"
	"time"

	"openkd/kdproto"
	"openkd/link/kdcom"
)

func TestBootSmoke(t *testing.T) {
	m, err := New(Config{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	a, b := net.Pipe()
	go m.Serve(ctx, b)
	h := kdcom.NewHost(a, kdcom.HostOptions{})
	start := time.Now()
	rctx, rc := context.WithTimeout(ctx, 2*time.Second)
	defer rc()
	for {
		p, err := h.Receive(rctx)
		if err != nil {
			s, _ := m.CPU(0)
			t.Logf("cpu0 %+v", s)
			s, _ = m.CPU(1)
			t.Logf("cpu1 %+v", s)
			t.Logf("%+v", m.Stats())
			break
		}
		switch p.Type {
		case kdproto.TypeStateChange64:
			s, err := kdproto.DecodeStateChange(p.Payload)
			t.Log(time.Since(start), s.Kind, s.Path(), err, s.ProgramCounter, s.Exception.Code)
			h.Send(ctx, kdproto.TypeManipulate, kdproto.NewRequest(kdproto.APIContinue, 0, &kdproto.Continue{Status: kdproto.DbgContinue}, nil).Append(nil))
		case kdproto.TypeDebugIO:
			d, _ := kdproto.DecodeDebugIO(p.Payload)
			t.Logf("%q", d.Text)
		case kdproto.TypeFileIO:
			f, _ := kdproto.DecodeFileIO(p.Payload)
			t.Log(f.Name())
			h.Send(ctx, kdproto.TypeFileIO, f.Refusal().Append(nil))
		}
	}
	cancel()
	h.Close()
	<-done
}
