package kdnet

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"sync"
	"testing"
	"time"

	"openkd/kdproto"
	"openkd/link"
	"openkd/link/kdnet/recorded"
	"openkd/target"
)

// need skips a test where there is no recording.
func need(t testing.TB, err error) {
	t.Helper()
	if errors.Is(err, fs.ErrNotExist) {
		t.Skip("the recorded session is not there:", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func recordedKey(t testing.TB) Key {
	k, err := ParseKey(recorded.Key)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestRecordedDatagrams(t *testing.T) {
	all, err := recorded.Datagrams()
	need(t, err)
	if len(all) != 955 {
		t.Errorf("%d datagrams", len(all))
	}
	key := recordedKey(t)
	control, second := newSeal(key, key), recorded.NewReader([4]uint64{8, 8, 8, 8})
	var data *seal
	for i, d := range all {
		want, err := second.Read(d)
		if err != nil {
			t.Fatalf("datagram %d, second decoder: %v", i, err)
		}
		s := data
		if d[5] == chanControl {
			s = control
		}
		m, body, err := s.open(nil, d, want.Host)
		if err != nil {
			t.Fatalf("datagram %d: %v", i, err)
		}
		if m.sequence != want.Sequence || m.protocol != 4 || !bytes.Equal(body, want.Body) {
			t.Fatalf("datagram %d: %+v", i, m)
		}
		if again := s.append(nil, m, body); !bytes.Equal(again, d) {
			t.Fatalf("datagram %d is made otherwise", i)
		}
		if m.channel == chanControl {
			if want.Host {
				if _, ok := decodeResponse(body); !ok {
					t.Fatalf("datagram %d is no response", i)
				}
				data = newSeal(dataKey(key, body), key)
			} else if p, ok := decodePoke(body); !ok || !bytes.Equal(p.encode()[:70], body[:70]) {
				t.Fatalf("datagram %d is no poke", i)
			}
			continue
		}
		if len(body) == checkSize || len(body) == 1 {
			continue
		}
		if _, _, err := recorded.KD(body); err != nil {
			t.Fatalf("datagram %d: %v", i, err)
		}
	}
}

// TestReplay attaches a whole debugger to the recorded target, reads what
// WinDbg read then, and has the second decoder look at every datagram that our
// host sends.
func TestReplay(t *testing.T) {
	r, err := recorded.Load()
	need(t, err)
	if r.Report == nil || r.Version == nil || len(r.Reads) < 20 {
		t.Fatalf("the recording holds %d reads", len(r.Reads))
	}
	key := recordedKey(t)
	var wire *tap
	cfg := quick(key)
	cfg.Retransmit, cfg.Socket = DefaultRetransmit, tapped(&wire)
	listened := make(chan int, 1)
	live := target.NewLive(target.LiveOptions{
		Open: func(ctx context.Context) (link.Host, error) {
			h, err := Listen(ctx, cfg)
			if err != nil {
				return nil, err
			}
			listened <- h.Port()
			return h, nil
		},
		Name: "the recording", ReadSize: 1024, Config: target.Config{StopOnLoad: "*"},
	})
	if err := live.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tc := quickTarget(key, <-listened)
	tc.Protocol, tc.Timeout = 4, time.Second
	k := newTarget(t, tc)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { r.Serve(ctx, k, nil) })

	var met *kdproto.Version
	for met == nil {
		e, err := live.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if e.Kind == target.EventConnected {
			met = e.Version
		}
	}
	var want kdproto.Version
	want.Get((*[40]byte)(r.Version))
	if *met != want {
		t.Errorf("version %+v, want %+v", *met, want)
	}
	for e := (target.Event{}); e.Kind != target.EventHalted; {
		var err error
		if e, err = live.Next(ctx); err != nil {
			t.Fatal(err)
		}
	}
	good := 0
	for _, b := range r.Reads {
		req := kdproto.NewRequest(kdproto.APIReadVirtualMemory, 0, &kdproto.Memory{Address: b.Address, Count: b.Count}, nil).Append(nil)
		a, err := kdproto.DecodeManipulate(r.Answer(req))
		if err != nil {
			continue // asked with other flags
		}
		got, err := target.Collect(ctx, live, target.Request{Op: target.OpReadVirtual, Addr: b.Address, Len: uint64(b.Count)})
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got[0].Data(), a.Data) {
			t.Errorf("%#x: read %x, WinDbg read %x", b.Address, got[0].Data(), a.Data)
		}
		if len(a.Data) > 0 {
			good++
		}
	}
	if good < 10 {
		t.Errorf("only %d reads gave anything", good)
	}
	live.Close(ctx, target.LeaveRunning)
	t.Logf("%d of %d reads gave bytes", good, len(r.Reads))

	second, last, id := recorded.NewReader([4]uint64{8, 8, 8, 8}), uint64(0), uint32(0)
	for i, d := range wire.all() {
		p, err := second.Read(d)
		if err != nil || !p.Host || p.Protocol != 4 && p.Protocol != requestProtocol {
			t.Fatalf("our datagram %d: %+v %v", i, p, err)
		}
		if p.Channel == chanControl {
			if len(p.Body) == 322 {
				last = 0
			}
			continue
		}
		if p.Sequence <= last {
			t.Fatalf("our datagram %d: sequence %d behind %d", i, p.Sequence, last)
		}
		last = p.Sequence
		if len(p.Body) == 1 && p.Body[0] == 'b' {
			continue
		}
		h, _, err := recorded.KD(p.Body)
		if err != nil {
			t.Fatalf("our datagram %d: %v", i, err)
		}
		if h.Leader == kdproto.DataLeader {
			if h.ID != id && h.ID != id+2 && h.ID != 0x80000000 && h.ID != id+4 {
				t.Fatalf("our datagram %d: id %08x behind %08x", i, h.ID, id)
			}
			id = h.ID
		}
	}
	if last < 50 {
		t.Errorf("only %d data datagrams", last)
	}
}
