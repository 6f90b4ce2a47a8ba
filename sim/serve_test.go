package sim

import (
	"bytes"
	"context"
	"errors"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"openkd/connstr"
	"openkd/internal/shortdir"
	"openkd/kdproto"
	"openkd/link/fault"
	"openkd/link/kdcom"
)

// servePort serves a machine at a link for the time of a test.
func servePort(t *testing.T, m *Machine, link string, f fault.Config) *Port {
	t.Helper()
	l, err := connstr.ParseLink(link)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	p, err := OpenPort(ctx, l)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- m.ServePort(ctx, p, f, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return p
}

// version connects, stops the machine or finds it stopped, asks a question and
// leaves without a word.
func version(t *testing.T, network, addr string) kdproto.Version {
	t.Helper()
	c, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	d := &debugger{t: t, h: kdcom.NewHost(c, kdcom.HostOptions{}), ctx: ctx}
	defer d.h.Close()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for { // a break-in is lost where the kernel does not look
			d.h.BreakIn()
			select {
			case <-time.After(500 * time.Millisecond):
				d.h.Resync()
			case <-stop:
				return
			}
		}
	}()
	d.m = nil
	p, err := d.h.Receive(ctx)
	for ; err == nil && p.Type != kdproto.TypeStateChange64; p, err = d.h.Receive(ctx) {
		d.aside(p.Type, p.Payload)
	}
	if err != nil {
		t.Fatal(err)
	}
	stop <- struct{}{}
	q := kdproto.NewRequest(kdproto.APIGetVersion, 0, nil, nil).Append(nil)
	for {
		if err := d.h.Send(ctx, kdproto.TypeManipulate, q); err != nil {
			if ctx.Err() != nil {
				t.Fatal(err)
			}
			continue
		}
		// The ids of the debugger before may be in force: then the request is
		// acknowledged as a duplicate, and only a RESET brings an answer.
		once, cancel := context.WithTimeout(ctx, 2*time.Second)
		for {
			p, err := d.h.Receive(once)
			if err != nil {
				if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
					t.Fatal(err)
				}
				d.h.Resync()
				break
			}
			if p.Type == kdproto.TypeStateChange64 {
				break // repeated: ask again
			}
			if r, err := kdproto.DecodeManipulate(p.Payload); err == nil && r.API == kdproto.APIGetVersion {
				cancel()
				var v kdproto.Version
				v.Get(&r.Union)
				return v
			}
		}
		cancel()
	}
}

func TestServeOneAfterAnother(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("Unix sockets")
	}
	dir := shortdir.New(t)
	path := filepath.Join(dir, "kd.sock")
	// A socket that a dead process left over.
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	old.SetUnlinkOnClose(false)
	old.Close()

	m := start(t, Config{})
	p := servePort(t, m, "com:pipe,port="+path, fault.Config{})
	if p.Attach() != "com:pipe,port="+path || p.String() != path {
		t.Error(p.Attach(), p)
	}
	if _, err := OpenPort(context.Background(), connstr.Link{Kind: connstr.LinkPipe, Port: path}); err == nil || !strings.Contains(err.Error(), "another program listens") {
		t.Error("a second machine at the same socket:", err)
	}
	for range 2 {
		if v := version(t, "unix", path); v.KernBase != sym(t, m, "__ImageBase") {
			t.Fatalf("%+v", v)
		}
	}
}

func TestServeTCP(t *testing.T) {
	m := start(t, Config{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close()
	_, port, _ := net.SplitHostPort(addr)
	p := servePort(t, m, "com:ipport="+port+",port=127.0.0.1", fault.Config{})
	if p.Attach() != "com:ipport="+port+",port=127.0.0.1" {
		t.Error(p.Attach())
	}
	if v := version(t, "tcp", addr); v.KernBase != sym(t, m, "__ImageBase") {
		t.Fatalf("%+v", v)
	}
}

func TestOpenPortErrors(t *testing.T) {
	for _, l := range []connstr.Link{
		{Kind: connstr.LinkPipe, Port: filepath.Join(t.TempDir(), "no", "folder")},
		{Kind: connstr.LinkSerial, Port: filepath.Join(t.TempDir(), "no-device"), Baud: 115200},
		{Kind: connstr.LinkUSB},
	} {
		if _, err := OpenPort(context.Background(), l); err == nil {
			t.Errorf("%+v opened", l)
		}
	}
}

// With faults on the line reads are slower, never wrong.
func TestFaultyLine(t *testing.T) {
	m := start(t, Config{BreakAtBoot: true})
	a, b := net.Pipe()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	served := make(chan error, 1)
	go func() {
		served <- m.Serve(context.Background(), fault.New(b, fault.Config{Drop: 1e-4, Corrupt: 1e-4, Duplicate: 1e-4, Seed: 3}))
	}()
	d := &debugger{t: t, m: m, ctx: ctx, h: kdcom.NewHost(a, kdcom.HostOptions{AckTimeout: 100 * time.Millisecond, Retries: 50}), served: served}
	defer d.leave()
	d.exception()
	bulk := sym(t, m, "MmBulkData")
	want := make([]byte, 1000)
	for i := range uint64(60) {
		m.ReadVirtual(bulk+i*1000, want)
		if got := d.read(bulk+i*1000, 1000); !bytes.Equal(got, want) {
			t.Fatalf("read %d is wrong", i)
		}
	}
	if s := d.h.Stats(); s.BadChecksums+s.Truncated+s.Garbage+s.Resends == 0 {
		t.Error("the line was clean")
	}
}

// No request, however odd, may harm the simulator.
func FuzzRequest(f *testing.F) {
	for api := kdproto.APIReadVirtualMemory; api < kdproto.APIMax; api++ {
		f.Add(kdproto.NewRequest(api, 0, &kdproto.Memory{Address: 0xFFFFF78000000000, Count: 16}, []byte("0123456789abcdef")).Append(nil))
	}
	f.Add(kdproto.NewRequest(kdproto.APIFillMemory, 0, &kdproto.FillMemory{Length: 1 << 31, Flags: 2, Pattern: 1}, []byte{0xFF}).Append(nil))
	f.Fuzz(func(t *testing.T, p []byte) {
		q, err := kdproto.DecodeManipulate(p)
		if err != nil || len(q.Data) > kdproto.MaxTransfer {
			return
		}
		m, err := New(Config{Processors: 1, Memory: 32 << 20, BreakAtBoot: true, LinkTimeout: time.Microsecond, Retries: 1})
		if err != nil {
			t.Fatal(err)
		}
		defer m.target.Close()
		// Bring it up to where it would stop, then ask as the command loop does.
		m.mu.Lock()
		defer m.mu.Unlock()
		m.ctx, m.end = context.WithCancel(context.Background())
		m.end() // nobody is there to acknowledge
		for range 20 {
			if m.processors() > 0 {
				break
			}
			m.b.cpus[0].Run(100000)
		}
		m.freeze()
		if w, out := m.request(0, &q); out && w.kind == wayContinue {
			m.thaw()
		}
	})
}
