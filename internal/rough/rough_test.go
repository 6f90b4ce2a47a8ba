package rough

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"openkd/kdproto"
	"openkd/link"
	"openkd/link/fault"
	"openkd/link/kdcom"
	"openkd/sim"
	"openkd/sim/simtest"
	"openkd/target"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait; nothing comes near it.
const patience = 20 * time.Second

// machine is a simulated machine that has come up.
type machine struct {
	t testing.TB
	*simtest.Machine
	base  uint64
	code  []byte // its code as it is without breakpoints
	spots []uint64
	wg    sync.WaitGroup
}

// The kernel's code, and how much of the rest of its image is read at random.
const (
	codeAt   = 0x1000
	codeLen  = 0x4000
	imageLen = 0x200000
)

func newMachine(t testing.TB, seed int64) *machine {
	t.Helper()
	sm := simtest.New(t, sim.Config{Seed: seed, Tick: time.Millisecond, LinkTimeout: 30 * time.Millisecond, Retries: 3})
	sm.PowerOn()
	m := &machine{t: t, Machine: sm}
	t.Cleanup(m.wg.Wait)
	m.until("the machine comes up", func() bool {
		_, ok := m.CPU(1)
		return ok && m.Stats().Ticks > 50
	})
	for _, mod := range m.Modules() {
		if mod.Name == "nt" || mod.Name == "ntoskrnl.exe" {
			m.base = mod.Base
		}
	}
	if m.base == 0 {
		t.Fatal("no kernel among ", m.Modules())
	}
	m.code = make([]byte, codeLen)
	if n := m.ReadVirtual(m.base+codeAt, m.code); n != codeLen {
		t.Fatalf("%#x bytes of code", n)
	}
	for name, a := range m.Symbols() {
		if a >= m.base+codeAt && a < m.base+codeAt+codeLen && name != "DbgBreakPointWithStatus" {
			m.spots = append(m.spots, a)
		}
	}
	slices.Sort(m.spots)
	m.spots = slices.Compact(m.spots)
	return m
}

// until waits until something is true.
func (m *machine) until(what string, ok func() bool) {
	m.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			for n := range m.Processors() {
				if c, ok := m.CPU(n); ok {
					m.t.Logf("processor %d: rip nt+%#x, rcx %#x, halted %v, dr6 %#x, dr7 %#x", n, c.RIP-m.base, c.R[1], c.Halted, c.DR[6], c.DR[7])
				}
			}
			m.t.Fatalf("%s: not within %v; %+v", what, patience, m.Stats())
		}
	}
}

// untouched checks that the machine runs, and that nothing of a debugger is
// left in it.
func (m *machine) untouched(who string) {
	m.t.Helper()
	from := m.Stats().Ticks
	m.until(who+" is gone and the machine runs", func() bool { return m.Stats().Ticks > from+3 })
	m.clean(who)
	for n := range m.Processors() {
		if c, _ := m.CPU(n); c.DR[7]&0xFF != 0 {
			m.t.Errorf("%s left processor breakpoints on processor %d: dr7 %#x", who, n, c.DR[7])
		}
	}
}

// clean checks the code. (Of a machine that is stopped only that: it loads the
// debug registers when it goes on.)
func (m *machine) clean(who string) {
	m.t.Helper()
	now := make([]byte, codeLen)
	m.ReadVirtual(m.base+codeAt, now)
	for i := range now {
		if now[i] != m.code[i] {
			m.t.Errorf("%s left %#x in the code at nt+%#x", who, now[i], codeAt+i)
		}
	}
}

// wire is a debugger's end of the line. It dies after a number of bytes that
// were written, in the middle of whatever that is: its reader learns nothing
// and what is still under way is gone.
type wire struct {
	io.ReadWriteCloser
	left atomic.Int64
	dead chan struct{}
	once sync.Once
}

func (w *wire) die() {
	w.once.Do(func() { close(w.dead); w.Close() })
}

func (w *wire) Write(p []byte) (int, error) {
	if left := w.left.Add(-int64(len(p))); left < 0 {
		w.ReadWriteCloser.Write(p[:max(0, left+int64(len(p)))])
		w.die()
		return 0, io.ErrClosedPipe
	}
	return w.ReadWriteCloser.Write(p)
}

// debugger is a live target on the machine, and what it has been told.
type debugger struct {
	t    testing.TB
	m    *machine
	live *target.Live
	wire *wire
	ctx  context.Context
	stop *target.Stop
}

// attach opens a line with faults; life is how many bytes may be written to it.
func (m *machine) attach(f fault.Config, life int64, cfg target.Config) *debugger {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	m.t.Cleanup(cancel)
	d := &debugger{t: m.t, m: m, ctx: ctx}
	opened := false
	d.live = target.NewLive(target.LiveOptions{
		Open: func(context.Context) (link.Host, error) {
			if opened {
				return nil, errors.New("the process is dead")
			}
			opened = true
			near, far := net.Pipe()
			var spoilt io.ReadWriteCloser = far
			if f != (fault.Config{}) {
				spoilt = fault.New(far, f)
			}
			m.Attach(spoilt)
			d.wire = &wire{ReadWriteCloser: near, dead: make(chan struct{})}
			d.wire.left.Store(life)
			return kdcom.NewHost(d.wire, kdcom.HostOptions{AckTimeout: 100 * time.Millisecond, ByteGap: 30 * time.Millisecond}), nil
		},
		Name: "the line", Config: cfg, ReplyTimeout: 3 * time.Second, PokeEvery: 200 * time.Millisecond,
	})
	if err := d.live.Start(ctx); err != nil {
		m.t.Fatal(err)
	}
	return d
}

// await reads events until the target is halted or the time is over. It
// reports false for that and for a line that is dead.
func (d *debugger) await(within time.Duration) bool {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.ctx, within)
	defer cancel()
	over := make(chan struct{})
	defer close(over)
	d.m.wg.Go(func() {
		select {
		case <-d.wire.dead:
			cancel()
		case <-over:
		}
	})
	for {
		e, err := d.live.Next(ctx)
		if err != nil {
			if d.ctx.Err() != nil {
				st, _ := d.live.Status(context.Background())
				d.t.Fatalf("a debugger hangs: %+v", st)
			}
			return false
		}
		switch e.Kind {
		case target.EventHalted:
			d.stop = e.Stop
			return true
		case target.EventLost, target.EventClosed:
			d.stop = nil
			select {
			case <-d.wire.dead:
				return false
			default:
				if e.Kind == target.EventLost {
					d.t.Logf("lost: %s", e.Text)
				}
			}
		}
	}
}

// tell logs what was told up to the end, to understand a failure.
func (d *debugger) tell() {
	for {
		e, err := d.live.Next(d.ctx)
		if err != nil {
			return
		}
		d.t.Logf("%v %s", e.Kind, e.Text)
		if s := e.Stop; s != nil {
			d.t.Logf("stop %d at nt+%#x, asked %v, again %v, %+v", s.Number, s.PC-d.m.base, s.Asked, s.Again, s.Exception)
		}
	}
}

// die is kill -9.
func (d *debugger) die() {
	d.wire.die()
	d.live.Close(d.ctx, target.LeaveHalted) // frees what is ours; the line is gone
}

// dead tells an error that the death explains from one that nothing explains.
func (d *debugger) dead(what string, err error) bool {
	d.t.Helper()
	if err == nil {
		return false
	}
	select {
	case <-d.wire.dead:
	default:
		d.t.Fatalf("%s: %v", what, err)
	}
	return true
}

// act does one thing by chance and checks it. False: the line is dead.
func (d *debugger) act(r *rand.Rand) bool {
	d.t.Helper()
	m := d.m
	switch n := r.IntN(20); {
	case n < 9: // reads, over holes and breakpoints too
		at := m.base + r.Uint64N(imageLen)
		if n < 4 {
			at = m.base + codeAt + r.Uint64N(codeLen)
		}
		size := 1 + r.Uint64N(12000)
		got, err := target.Collect(d.ctx, d.live, target.Request{Op: target.OpReadVirtual, Addr: at, Len: size})
		if d.dead("read", err) {
			return false
		}
		d.compare(at, size, got[0])
	case n < 11: // registers
		got, err := target.Collect(d.ctx, d.live, target.Request{Op: target.OpGetContext, Processor: uint16(d.stop.Processor)})
		if d.dead("registers", err) {
			return false
		}
		c, _ := m.CPU(d.stop.Processor)
		// A debugger that died between moving the registers over a coded
		// breakpoint and letting go leaves them ahead of the processor.
		over := make([]byte, 1)
		moved := m.ReadVirtual(c.RIP, over) == 1 && over[0] == 0xCC
		if rip := le64(got[0].Data()[0xF8:]); rip != d.stop.PC || rip != c.RIP && !(moved && rip == c.RIP+1) {
			d.t.Fatalf("rip reads %#x, the processor has %#x, the stop said %#x", rip, c.RIP, d.stop.PC)
		}
	case n < 15: // a step, with breakpoints or without
		if d.dead("step", d.live.Resume(d.ctx, target.Resume{Mode: target.Step, Breakpoints: d.some(r, 4)})) {
			return false
		}
		return d.stopped("step")
	default: // go, with breakpoints of both kinds
		q := target.Resume{Breakpoints: d.some(r, 32)}
		if n == 19 {
			for i := range q.Hardware {
				q.Hardware[i] = target.HWBreak{Enabled: true, Addr: m.spots[r.IntN(len(m.spots))], Len: 1}
			}
		}
		if err := d.live.Resume(d.ctx, q); d.dead("go", err) {
			return false
		}
		if d.await(time.Duration(r.IntN(30)) * time.Millisecond) {
			return true
		}
		if d.dead("break in", d.live.BreakIn(d.ctx)) {
			return false
		}
		return d.stopped("break in")
	}
	return true
}

func (d *debugger) stopped(what string) bool {
	d.t.Helper()
	if d.await(patience) {
		return true
	}
	select {
	case <-d.wire.dead:
	default:
		d.t.Fatalf("%s: no stop", what)
	}
	return false
}

func (d *debugger) some(r *rand.Rand, most int) []uint64 {
	var b []uint64
	for range r.IntN(most + 1) {
		b = append(b, d.m.spots[r.IntN(len(d.m.spots))])
	}
	return b
}

// compare checks an answer against the machine's own memory.
func (d *debugger) compare(at, size uint64, got target.Reply) {
	d.t.Helper()
	next := uint64(0) // what is before it is settled
	hole := func(to uint64) {
		for ; next < to; next++ {
			if d.m.ReadVirtual(at+next, make([]byte, 1)) != 0 {
				d.t.Fatalf("%#x is readable and was not read (a read of %#x bytes at %#x)", at+next, size, at)
			}
		}
	}
	for _, run := range got.Runs {
		hole(run.Offset)
		want := make([]byte, len(run.Data))
		n := d.m.ReadVirtual(at+run.Offset, want)
		if n != len(want) || !bytes.Equal(want, run.Data) {
			i := 0
			for i < n && want[i] == run.Data[i] {
				i++
			}
			d.t.Fatalf("wrong data at %#x, byte %d of a read of %#x bytes at %#x", at+run.Offset+uint64(i), i, size, at)
		}
		next = run.Offset + uint64(len(run.Data))
	}
	hole(size)
}

func le64(b []byte) uint64 {
	var v uint64
	for i := range 8 {
		v |= uint64(b[i]) << (8 * i)
	}
	return v
}

// TestFaults: sessions over spoilt lines show what the machine has, and leave
// it as it was.
func TestFaults(t *testing.T) {
	for i, f := range []string{
		"",
		"drop=0.0005", "corrupt=0.0005", "duplicate=0.0005", "noise=0.0005",
		"drop=0.0002,corrupt=0.0002,duplicate=0.0002,noise=0.0002,split=7",
		"drop=0.01,spacing=5000", "corrupt=0.01,noise=0.01,spacing=5000,delay=1ms",
	} {
		t.Run(fmt.Sprintf("%d %s", i, f), func(t *testing.T) {
			if testing.Short() && i%3 != 2 {
				t.Skip("one of three")
			}
			t.Parallel()
			cfg, err := fault.Parse(f)
			if err != nil {
				t.Fatal(err)
			}
			m := newMachine(t, int64(i+1))
			r := rand.New(rand.NewPCG(uint64(i), 1))
			for session := range 1 + (8-i)/4 { // the last ones are slow
				cfg.Seed = uint64(100*i + session)
				d := m.attach(cfg, 1<<40, target.Config{Break: true})
				if !d.stopped("attach") {
					t.Fatal("no stop")
				}
				for range 15 {
					d.act(r)
				}
				if err := d.live.Close(d.ctx, target.LeaveRunning); err != nil {
					t.Fatal(err)
				}
				d.tell()
				m.untouched("a debugger that left")
			}
		})
	}
}

// TestSuddenDeath: debuggers die in the middle of something, one after the
// other, and the next one attaches at once and finds nothing of theirs.
func TestSuddenDeath(t *testing.T) {
	lives := 8
	if testing.Short() {
		lives = 3
	}
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, int64(seed)+50)
			r := rand.New(rand.NewPCG(seed, 2))
			for range lives {
				d := m.attach(fault.Config{}, 2000+r.Int64N(12000), target.Config{Break: true})
				if d.await(patience) {
					for d.act(r) {
					}
				}
				d.die()
			}
			d := m.attach(fault.Config{}, 1<<40, target.Config{Break: true})
			if !d.stopped("attach after the deaths") {
				t.Fatal("no stop")
			}
			m.clean("one that died")
			for range 5 {
				d.act(r)
			}
			if err := d.live.Close(d.ctx, target.LeaveRunning); err != nil {
				t.Fatal(err)
			}
			d.tell()
			m.untouched("the last one")
		})
	}
}

// babble is the other end of a line that is no machine.
type babble struct {
	name  string
	serve func(c net.Conn, r *rand.Rand)
}

func repeat(c net.Conn, next func() []byte) {
	for {
		if _, err := c.Write(next()); err != nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func babbles() []babble {
	return []babble{
		{"silence", func(c net.Conn, _ *rand.Rand) { io.Copy(io.Discard, c) }},
		{"zeros", func(c net.Conn, _ *rand.Rand) {
			go io.Copy(io.Discard, c)
			repeat(c, func() []byte { return make([]byte, 8192) })
		}},
		{"chance", func(c net.Conn, r *rand.Rand) {
			go io.Copy(io.Discard, c)
			b := make([]byte, 4096)
			repeat(c, func() []byte {
				for i := range b {
					b[i] = byte(r.Uint32())
				}
				return b
			})
		}},
		{"leaders without end", func(c net.Conn, _ *rand.Rand) {
			go io.Copy(io.Discard, c)
			repeat(c, func() []byte { return bytes.Repeat([]byte("0000iiii"), 512) })
		}},
		{"headers that promise much", func(c net.Conn, _ *rand.Rand) {
			go io.Copy(io.Discard, c)
			b := kdproto.AppendData(nil, kdproto.TypeStateChange64, kdproto.InitialID, make([]byte, 4000))
			repeat(c, func() []byte { return b[:100] })
		}},
		{"an echo", func(c net.Conn, _ *rand.Rand) {
			// Not io.Copy on both ends of one pipe: reads and writes would wait for
			// each other.
			q := make(chan []byte, 1000)
			go func() {
				defer close(q)
				for {
					b := make([]byte, 512)
					n, err := c.Read(b)
					if err != nil {
						return
					}
					q <- b[:n]
				}
			}()
			for b := range q {
				c.Write(b)
			}
		}},
		{"reports that mean nothing", func(c net.Conn, r *rand.Rand) {
			go io.Copy(io.Discard, c)
			id := uint32(kdproto.InitialID)
			repeat(c, func() []byte {
				p := make([]byte, 240)
				for i := range p {
					p[i] = byte(r.Uint32())
				}
				id ^= 1
				return kdproto.AppendData(nil, kdproto.TypeStateChange64, id, p)
			})
		}},
		{"a debugger at the other end, too", func(c net.Conn, _ *rand.Rand) {
			h := kdcom.NewHost(c, kdcom.HostOptions{})
			defer h.Close()
			for range 1000 {
				if h.BreakIn() != nil || h.Resync() != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		}},
		{"an end at once", func(c net.Conn, _ *rand.Rand) {}},
	}
}

// TestNoMachine: a line with something else at its end is no target, costs no
// work to speak of, and is left at once.
func TestNoMachine(t *testing.T) {
	for _, b := range babbles() {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			var wg sync.WaitGroup
			defer wg.Wait()
			opens := 0
			l := target.NewLive(target.LiveOptions{
				Open: func(context.Context) (link.Host, error) {
					opens++
					near, far := net.Pipe()
					wg.Go(func() {
						defer far.Close()
						b.serve(far, rand.New(rand.NewPCG(1, 1)))
					})
					return kdcom.NewHost(near, kdcom.HostOptions{}), nil
				},
				Name: "a line", Config: target.Config{Break: true}, PokeEvery: 50 * time.Millisecond, ReplyTimeout: 100 * time.Millisecond,
			})
			if err := l.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
			defer cancel()
			for {
				e, err := l.Next(ctx)
				if err != nil {
					break
				}
				if e.Kind == target.EventHalted || e.Kind == target.EventConnected {
					t.Errorf("%s was taken for a target: %+v", b.name, e)
				}
			}
			closed := make(chan error, 1)
			go func() { closed <- l.Close(context.Background(), target.LeaveRunning) }()
			select {
			case err := <-closed:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(patience):
				t.Fatal("it cannot be left")
			}
			if opens > 10 {
				t.Errorf("opened %d times", opens)
			}
		})
	}
}

// TestRememberedBreakIn: a break-in byte that a debugger sent to a machine which
// stood already, before it died, must not stop the machine when the next one
// has left.
func TestRememberedBreakIn(t *testing.T) {
	t.Parallel()
	m := newMachine(t, 90)
	for range 3 {
		d := m.attach(fault.Config{}, 1<<40, target.Config{Break: true})
		if !d.stopped("attach") {
			t.Fatal("no stop")
		}
		d.die()
	}
	d := m.attach(fault.Config{}, 1<<40, target.Config{})
	if !d.stopped("attach to a machine that stands") {
		t.Fatal("no stop")
	}
	if err := d.live.Close(d.ctx, target.LeaveRunning); err != nil {
		t.Fatal(err)
	}
	d.tell()
	m.untouched("the last one")
}
