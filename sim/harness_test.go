package sim

import (
	"context"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"

	"openkd/kdproto"
	"openkd/link/kdcom"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait of these tests.
const patience = 20 * time.Second

// start runs a machine for the time of a test.
func start(t testing.TB, cfg Config) *Machine {
	t.Helper()
	if cfg.Tick == 0 {
		cfg.Tick = time.Millisecond
	}
	if cfg.LinkTimeout == 0 {
		cfg.LinkTimeout = 30 * time.Millisecond
	}
	if cfg.Seed == 0 {
		cfg.Seed = 7
	}
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return m
}

// debugger is a raw host: a packet loop without a debugger behind it.
type debugger struct {
	t      testing.TB
	m      *Machine
	h      *kdcom.Host
	ctx    context.Context
	prints []string
	files  []string
	served chan error
}

func attach(t testing.TB, m *Machine) *debugger {
	t.Helper()
	a, b := net.Pipe()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	d := &debugger{t: t, m: m, ctx: ctx, h: kdcom.NewHost(a, kdcom.HostOptions{}), served: make(chan error, 1)}
	go func() { d.served <- m.Serve(context.Background(), b) }()
	t.Cleanup(func() { d.leave(); cancel() })
	return d
}

// leave drops the line, as a debugger does that is killed.
func (d *debugger) leave() {
	d.t.Helper()
	d.h.Close()
	if d.served != nil {
		if err := <-d.served; err != nil {
			d.t.Error("Serve:", err)
		}
		d.served = nil
	}
}

// receive gives the next packet that is not a print or a file request.
func (d *debugger) receive() (kdproto.PacketType, []byte, bool) {
	d.t.Helper()
	for {
		p, err := d.h.Receive(d.ctx)
		if err != nil {
			d.t.Fatal("receive: ", err, d.m.Stats())
		}
		if !d.aside(p.Type, p.Payload) {
			return p.Type, p.Payload, p.Fresh
		}
	}
}

// aside takes what may come at any time.
func (d *debugger) aside(t kdproto.PacketType, p []byte) bool {
	d.t.Helper()
	switch t {
	case kdproto.TypeDebugIO:
		io, err := kdproto.DecodeDebugIO(p)
		if err != nil {
			d.t.Fatal(err)
		}
		if io.API == kdproto.APIPrintString {
			d.prints = append(d.prints, string(io.Text))
			return true
		}
	case kdproto.TypeFileIO:
		f, err := kdproto.DecodeFileIO(p)
		if err != nil {
			d.t.Fatal(err)
		}
		d.files = append(d.files, f.Name())
		if err := d.h.Send(d.ctx, kdproto.TypeFileIO, f.Refusal().Append(nil)); err != nil {
			d.t.Fatal(err)
		}
		return true
	}
	return false
}

func (d *debugger) stop() *kdproto.StateChange {
	d.t.Helper()
	s, _ := d.freshStop()
	return s
}

func (d *debugger) freshStop() (*kdproto.StateChange, bool) {
	d.t.Helper()
	for {
		typ, p, fresh := d.receive()
		if typ != kdproto.TypeStateChange64 {
			d.t.Logf("packet of type %v in place of a stop", typ)
			continue
		}
		s, err := kdproto.DecodeStateChange(p)
		if err != nil {
			d.t.Fatal(err)
		}
		return &s, fresh
	}
}

// exception waits for an exception; symbol reports before it are continued.
func (d *debugger) exception() *kdproto.StateChange {
	d.t.Helper()
	for {
		s := d.stop()
		if s.Kind == kdproto.StateException {
			return s
		}
		d.goOn()
	}
}

func (d *debugger) send(api kdproto.API, cpu int, body kdproto.Body, data []byte) {
	d.t.Helper()
	q := kdproto.NewRequest(api, uint16(cpu), body, data)
	if err := d.h.Send(d.ctx, kdproto.TypeManipulate, q.Append(nil)); err != nil {
		d.t.Fatalf("%v: %v", api, err)
	}
}

func (d *debugger) ask(api kdproto.API, cpu int, body kdproto.Body, data []byte) kdproto.Manipulate {
	d.t.Helper()
	d.send(api, cpu, body, data)
	typ, p, _ := d.receive()
	if typ != kdproto.TypeManipulate {
		d.t.Fatalf("%v answered by a packet of type %v", api, typ)
	}
	r, err := kdproto.DecodeManipulate(p)
	if err != nil || r.API != api {
		d.t.Fatalf("%v answered by %v, %v", api, r.API, err)
	}
	if body != nil {
		body.Get(&r.Union)
	}
	return r
}

// must is ask for requests that have to succeed.
func (d *debugger) must(api kdproto.API, cpu int, body kdproto.Body, data []byte) kdproto.Manipulate {
	d.t.Helper()
	r := d.ask(api, cpu, body, data)
	if r.Status.Failed() {
		d.t.Fatalf("%v failed: %v", api, r.Status)
	}
	return r
}

func (d *debugger) goOn() {
	d.t.Helper()
	d.send(kdproto.APIContinue2, 0, &kdproto.Continue2{Machine: kdproto.MachineAMD64, Status: kdproto.DbgContinue, Dr7: 0x400, SymbolStart: 1}, nil)
}

func (d *debugger) step(cpu int) {
	d.t.Helper()
	d.send(kdproto.APIContinue2, cpu, &kdproto.Continue2{Machine: kdproto.MachineAMD64, Status: kdproto.DbgExceptionHandled, Trace: true, Dr7: 0x400, SymbolStart: 1}, nil)
}

// breakIn stops a running machine.
func (d *debugger) breakIn() *kdproto.StateChange {
	d.t.Helper()
	if err := d.h.BreakIn(); err != nil {
		d.t.Fatal(err)
	}
	return d.exception()
}

// skip moves the program counter past the breakpoint instruction it stands on.
func (d *debugger) skip(cpu int) {
	d.t.Helper()
	c := d.must(kdproto.APIGetContext, cpu, nil, nil).Data
	le.PutUint64(c[ctxRip:], le.Uint64(c[ctxRip:])+1)
	d.must(kdproto.APISetContext, cpu, &kdproto.ContextFlags{}, c)
}

func (d *debugger) read(addr uint64, n int) []byte {
	d.t.Helper()
	var out []byte
	for n > 0 {
		b := kdproto.Memory{Address: addr, Count: uint32(min(n, kdproto.MaxTransfer))}
		r := d.must(kdproto.APIReadVirtualMemory, 0, &b, nil)
		if int(b.Actual) != len(r.Data) || len(r.Data) == 0 {
			d.t.Fatalf("read of %#x: %d bytes, says %d", addr, len(r.Data), b.Actual)
		}
		out = append(out, r.Data...)
		addr += uint64(len(r.Data))
		n -= len(r.Data)
	}
	return out
}

func (d *debugger) u64(addr uint64) uint64 { d.t.Helper(); return le.Uint64(d.read(addr, 8)) }

func sym(t testing.TB, m *Machine, name string) uint64 {
	t.Helper()
	a, ok := m.Symbol(name)
	if !ok {
		t.Fatalf("no symbol %s", name)
	}
	return a
}

// running attaches to a machine from its power-on and lets it boot. A break-in
// byte while the kernel asks for files would be lost, as on a real machine.
func running(t testing.TB, cfg Config) (*Machine, *debugger) {
	t.Helper()
	m := start(t, cfg)
	d := attach(t, m)
	reports := 4 + cfg.Modules
	if cfg.Quirks == QuirksReactOS {
		reports++ // hal.dll comes twice
	}
	for range reports {
		s := d.stop()
		if s.Kind != kdproto.StateLoadSymbols {
			t.Fatalf("stop %+v during boot", s)
		}
		d.goOn()
	}
	d.bootFiles()
	return m, d
}

func (d *debugger) bootFiles() {
	d.t.Helper()
	for len(d.files) < 2 {
		p, err := d.h.Receive(d.ctx)
		if err != nil {
			d.t.Fatal(err)
		}
		d.aside(p.Type, p.Payload)
	}
}
