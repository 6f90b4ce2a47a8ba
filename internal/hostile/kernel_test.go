package hostile

import (
	"context"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"openkd/command"
	"openkd/engine"
	"openkd/engine/enginetest"
	"openkd/kdproto"
	"openkd/link"
	"openkd/link/kdcom"
	"openkd/target"
)

var le = binary.LittleEndian

// kernel is a machine made of the tables of an enginetest.Fake that speaks the
// protocol itself. mutate sees every payload before it is sent.
type kernel struct {
	f      *enginetest.Fake
	link   *kdcom.Target
	rng    *rand.Rand
	mutate func(k *kernel, t kdproto.PacketType, payload []byte) [][]byte // nil: nothing is sent
	read   func(addr uint64, n int) ([]byte, bool)                        // memory that is not in the tables
	cpu    int
	sent   atomic.Int64
	ctx    context.Context
}

// send sends what mutate makes of a payload. A packet that nobody
// acknowledges is given up.
func (k *kernel) send(ctx context.Context, t kdproto.PacketType, payload []byte) error {
	all := [][]byte{payload}
	if k.mutate != nil {
		all = k.mutate(k, t, payload)
	}
	for _, p := range all {
		if len(p) > kdproto.MaxPayload {
			p = p[:kdproto.MaxPayload]
		}
		k.sent.Add(1)
		if err := k.link.Send(ctx, t, p, true); err != nil {
			return err
		}
	}
	return nil
}

// run is the machine's life: it runs, stops when asked to, serves, runs on.
func (k *kernel) run(ctx context.Context) {
	for ctx.Err() == nil {
		if k.link.PollBreakIn() {
			k.halt(ctx, kdproto.StatusBreakpoint)
			continue
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (k *kernel) halt(ctx context.Context, code kdproto.Status) {
	for ctx.Err() == nil {
		a := k.f.Arch
		pc := a.PC(k.f.Context[k.cpu])
		s := kdproto.StateChange{Kind: kdproto.StateException, ProcessorLevel: 6, Processor: uint16(k.cpu), NumberProcessors: uint32(len(k.f.Context)), Thread: enginetest.Thread, ProgramCounter: pc}
		s.Exception = kdproto.Exception{Code: code, Address: pc, NumberParameters: 1, FirstChance: true}
		s.EncodeReport(a.Machine, kdproto.ControlReport{Dr6: 0xFFFF0FF0, Dr7: 0x400, EFlags: 0x202, Stream: k.bytes(k.f.Pages, pc, 16), Flags: 3, SegCs: 0x10})
		if k.send(ctx, kdproto.TypeStateChange64, s.Append(nil)) != nil {
			time.Sleep(2 * time.Millisecond)
			continue
		}
		switch again, next := k.serve(ctx); {
		case again:
		case next == 0:
			return
		default:
			code = next
		}
	}
}

// serve answers until the machine is let go: again says that the stop has to
// be reported anew; next is the code of another stop that follows at once.
func (k *kernel) serve(ctx context.Context) (again bool, next kdproto.Status) {
	quiet := 0
	for ctx.Err() == nil {
		b, r, err := k.link.Receive(ctx, kdproto.TypeManipulate, 0)
		if err != nil {
			time.Sleep(2 * time.Millisecond)
			continue
		}
		switch r {
		case kdcom.Resend:
			return true, 0
		case kdcom.Received:
		default:
			if quiet++; quiet > 10 && k.link.PollBreakIn() {
				return true, 0
			}
			continue
		}
		m, err := kdproto.DecodeManipulate(b)
		if err != nil {
			continue
		}
		switch m.API {
		case kdproto.APIContinue:
			return false, 0
		case kdproto.APIContinue2:
			c := kdproto.Continue2{Machine: k.f.Arch.Machine}
			c.Get(&m.Union)
			if c.Trace {
				pc := k.f.Arch.PC(k.f.Context[k.cpu])
				k.f.Arch.SetPC(k.f.Context[k.cpu], pc+1)
				return false, kdproto.StatusSingleStep
			}
			if k.rng.IntN(2) == 0 {
				return false, kdproto.StatusBreakpoint
			}
			return false, 0
		case kdproto.APISwitchProcessor:
			k.cpu = int(m.Processor) % len(k.f.Context)
			return true, 0
		case kdproto.APIReboot, kdproto.APICauseBugCheck:
			return true, 0
		}
		k.answer(&m)
		k.send(ctx, kdproto.TypeManipulate, m.Append(nil))
	}
	return false, 0
}

// bytes reads tables up to the first hole.
func (k *kernel) bytes(pages map[uint64][]byte, addr uint64, n int) []byte {
	var out []byte
	for len(out) < n {
		a := addr + uint64(len(out))
		pg := pages[a&^0xFFF]
		if pg == nil {
			if k.read != nil {
				if b, ok := k.read(a, n-len(out)); ok {
					out = append(out, b...)
					continue
				}
			}
			break
		}
		c := pg[a&0xFFF:]
		out = append(out, c[:min(len(c), n-len(out))]...)
	}
	return out
}

// answer makes m the right answer to itself.
func (k *kernel) answer(m *kdproto.Manipulate) {
	data := m.Data
	m.Data, m.Status = nil, kdproto.StatusSuccess
	cpu := int(m.Processor) % len(k.f.Context)
	switch m.API {
	case kdproto.APIGetVersion:
		v := k.f.Ver
		v.Put(&m.Union)
	case kdproto.APIReadVirtualMemory, kdproto.APIReadPhysicalMemory:
		var b kdproto.Memory
		b.Get(&m.Union)
		pages := k.f.Pages
		if m.API == kdproto.APIReadPhysicalMemory {
			pages = k.f.Phys
		}
		n := int(min(b.Count, kdproto.MaxTransfer))
		m.Data = k.bytes(pages, b.Address, n)
		b.Actual = uint32(len(m.Data))
		if len(m.Data) < n {
			m.Status = kdproto.StatusUnsuccessful
		}
		b.Put(&m.Union)
	case kdproto.APIWriteVirtualMemory, kdproto.APIWritePhysicalMemory:
		var b kdproto.Memory
		b.Get(&m.Union)
		b.Actual = uint32(len(data))
		b.Put(&m.Union)
	case kdproto.APIGetContext:
		m.Data = append([]byte(nil), k.f.Context[cpu]...)
	case kdproto.APISetContext, kdproto.APIWriteControlSpace:
	case kdproto.APIReadControlSpace:
		var b kdproto.Memory
		b.Get(&m.Union)
		m.Data = append([]byte(nil), k.f.Special[cpu]...)
		b.Actual = uint32(len(m.Data))
		b.Put(&m.Union)
	case kdproto.APIWriteBreakPoint:
		var b kdproto.WriteBreakPoint
		b.Get(&m.Union)
		b.Handle = 1 + k.rng.Uint32N(32)
		b.Put(&m.Union)
	case kdproto.APIRestoreBreakPoint, kdproto.APIReadMsr, kdproto.APIWriteMsr, kdproto.APIReadIoSpace, kdproto.APIWriteIoSpace:
	case kdproto.APISearchMemory:
		m.Status = kdproto.StatusNoMoreEntries
	default:
		m.Status = kdproto.StatusUnsuccessful
	}
}

// rig is a debugger whose target is a hostile kernel.
type rig struct {
	t    *testing.T
	k    *kernel
	live *target.Live
	e    *engine.Engine
	s    *command.Session
	out  counter
	ctx  context.Context
}

// counter counts what is printed and keeps the end of it.
type counter struct {
	mu   sync.Mutex
	n    int64
	tail []byte
}

func (c *counter) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += int64(len(b))
	c.tail = append(c.tail, b...)
	if len(c.tail) > 8<<10 {
		c.tail = append([]byte(nil), c.tail[len(c.tail)-4<<10:]...)
	}
	return len(b), nil
}

func (c *counter) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.tail)
}

func (c *counter) size() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// newRig starts both sides; the returned function ends them and fails the test
// when one of them does not come to its end.
func newRig(t *testing.T, f *enginetest.Fake, seed uint64, change func(*kernel)) (*rig, func()) {
	t.Helper()
	k := &kernel{f: f, rng: rand.New(rand.NewPCG(seed, 1))}
	k.link = kdcom.NewTarget(nil, kdcom.TargetOptions{ByteTimeout: 40 * time.Millisecond, AckTimeout: 60 * time.Millisecond, Retries: 5})
	if change != nil {
		change(k)
	}
	ctx, cancel := context.WithCancel(context.Background())
	k.ctx = ctx
	r := &rig{t: t, k: k, ctx: ctx}
	var ended atomic.Bool
	r.live = target.NewLive(target.LiveOptions{
		Open: func(context.Context) (link.Host, error) {
			a, b := net.Pipe()
			if ended.Load() {
				b.Close()
			} else {
				k.link.Attach(b)
			}
			return kdcom.NewHost(a, kdcom.HostOptions{AckTimeout: 100 * time.Millisecond, ResendWait: 20 * time.Millisecond, ByteGap: 40 * time.Millisecond}), nil
		},
		Temporary: func(error) bool { return true },
		Line:      "COM:Pipe,Port=hostile", Name: "hostile", Config: target.Config{Break: true},
		// Break-in bytes that come faster than the kernel's acknowledgement times
		// out keep it from repeating a packet: PokeEvery is well above that.
		ReplyTimeout: 80 * time.Millisecond, PokeEvery: 250 * time.Millisecond, BackOff: 2 * time.Millisecond, Hint: time.Hour,
	})
	if err := r.live.Start(ctx); err != nil {
		t.Fatal(err)
	}
	r.e = engine.New(r.live, engine.Options{})
	r.s = command.NewSession(r.e, &r.out, command.Options{Quiet: true})
	var wg sync.WaitGroup
	wg.Go(func() { k.run(ctx) })
	wg.Go(func() { r.e.Run(ctx) })
	return r, func() {
		t.Helper()
		r.within("leaving", 20*time.Second, func() {
			c, stop := context.WithTimeout(context.Background(), 500*time.Millisecond)
			r.live.Close(c, target.LeaveRunning)
			stop()
			ended.Store(true)
			cancel()
			k.link.Close()
			wg.Wait()
		})
	}
}

// within fails the whole test when f does not return: that is a hang.
func (r *rig) within(what string, d time.Duration, f func()) {
	r.t.Helper()
	timer := time.AfterFunc(d, func() { panic(what + " hangs; printed last:\n" + r.out.String()) })
	defer timer.Stop()
	f()
}

// do runs a line for at most d. Its errors do not matter here.
func (r *rig) do(line string, d time.Duration) {
	r.t.Helper()
	r.within(line, d+20*time.Second, func() {
		ctx, cancel := context.WithTimeout(r.ctx, d)
		defer cancel()
		r.s.Execute(ctx, line)
	})
}

// halted brings the target to a stop if it can be brought there.
func (r *rig) halted(d time.Duration) bool {
	if r.e.Halted() {
		return true
	}
	r.within("the wait for a stop", d+20*time.Second, func() {
		ctx, cancel := context.WithTimeout(r.ctx, d)
		defer cancel()
		r.e.BreakIn(ctx)
		r.s.WaitStop(ctx)
	})
	return r.e.Halted()
}
