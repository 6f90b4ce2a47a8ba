package target_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"openkd/arch"
	"openkd/kdproto"
	"openkd/link"
	"openkd/link/kdcom"
	"openkd/target"
)

var le = binary.LittleEndian

const (
	kernBase  = 0xfffff80000400000
	kernSize  = 0x10000
	breakPC   = kernBase + 0x1000 // "int3; ret"
	codePC    = kernBase + 0x2000
	dataBlock = kernBase + 0x8000
	dataHead  = kernBase + 0x7000
	stackTop  = kernBase + 0xF000
	hole      = kernBase + kernSize // nothing is mapped from here on
	page      = 4096
)

// puppet is a kernel that does what a test tells it: memory, a breakpoint
// table, registers, and the command loop of a Windows target. It runs no code:
// a step moves the program counter by one.
type puppet struct {
	t    *testing.T
	link *kdcom.Target

	mu      sync.Mutex
	mem     []byte // at kernBase
	table   [33]uint64
	saved   [33]byte
	ctx     []byte
	special [2][]byte
	asked   []kdproto.API // requests, in order
	dr7     uint64
	steps   int
	cpu     uint16
	files   int // answers to file requests
	stuck   int // resumed on a coded breakpoint
	lose    int // break-in bytes to swallow

	// intercept, when set, sees a request before it is served and may swallow
	// it (no reply) or answer it.
	intercept func(m *kdproto.Manipulate) (handled bool)
	noSearch  bool

	do   chan func() // orders for the running kernel
	stop context.CancelFunc
	done chan struct{}
}

func newPuppet(t *testing.T, stream io.ReadWriteCloser) *puppet {
	p := &puppet{t: t, mem: make([]byte, kernSize), ctx: make([]byte, 1232), do: make(chan func(), 16), done: make(chan struct{})}
	for i := range p.mem {
		p.mem[i] = byte(i*7 + i>>8)
	}
	p.mem[breakPC-kernBase], p.mem[breakPC-kernBase+1] = 0xCC, 0xC3
	copy(p.mem[codePC-kernBase:], bytes.Repeat([]byte{0x90}, 256))
	le.PutUint64(p.mem[dataHead-kernBase:], dataBlock)
	b := p.mem[dataBlock-kernBase:]
	le.PutUint64(b, dataHead)
	copy(b[16:], "KDBG")
	le.PutUint32(b[20:], 0x340)
	le.PutUint64(b[0x18:], kernBase)
	le.PutUint64(b[0x20:], breakPC)
	le.PutUint32(p.ctx[0x30:], 0x10001F)
	p.setPC(codePC)
	le.PutUint64(p.ctx[0x98:], stackTop)
	for i := range p.special {
		p.special[i] = make([]byte, 0xD8)
		le.PutUint64(p.special[i][0x10:], 0x1AA000)
	}
	p.link = kdcom.NewTarget(stream, kdcom.TargetOptions{ByteTimeout: 40 * time.Millisecond, AckTimeout: 60 * time.Millisecond, Retries: 5})
	return p
}

func (p *puppet) pc() uint64      { return le.Uint64(p.ctx[0xF8:]) }
func (p *puppet) setPC(pc uint64) { le.PutUint64(p.ctx[0xF8:], pc) }

// start runs the kernel: boot (with its load-symbols report) or mid-life.
func (p *puppet) start(boot bool) {
	ctx, cancel := context.WithCancel(context.Background())
	p.stop = cancel
	go func() {
		defer close(p.done)
		if boot {
			p.loadSymbols(ctx, "ntoskrnl.exe", false)
		}
		for ctx.Err() == nil {
			select {
			case f := <-p.do:
				f()
			case <-time.After(time.Millisecond):
				if p.link.PollBreakIn() {
					p.mu.Lock()
					p.lose--
					lost := p.lose >= 0
					p.mu.Unlock()
					if lost {
						continue
					}
					p.breakIn(ctx)
				}
			}
		}
	}()
	p.t.Cleanup(func() {
		cancel()
		p.link.Close()
		<-p.done
		if p.stuck > 0 {
			p.t.Error("the kernel was resumed on its coded breakpoint")
		}
	})
}

// order has the kernel do something and waits until it has begun.
func (p *puppet) order(f func(ctx context.Context)) {
	begun := make(chan struct{})
	p.do <- func() { close(begun); f(context.Background()) }
	<-begun
}

func (p *puppet) breakIn(ctx context.Context) {
	p.mu.Lock()
	back := p.pc()
	p.setPC(breakPC)
	le.PutUint64(p.ctx[0x80:], 1) // rcx: control-C
	p.mu.Unlock()
	p.exception(ctx, kdproto.StatusBreakpoint)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.pc() {
	case breakPC:
		if ctx.Err() == nil {
			p.stuck++
		}
	case breakPC + 1:
		p.setPC(back) // ret
	}
}

func (p *puppet) report(kind kdproto.StateKind) kdproto.StateChange {
	s := kdproto.StateChange{Kind: kind, ProcessorLevel: 6, Processor: p.cpu, NumberProcessors: 2, Thread: 0xfffff80000500000, ProgramCounter: p.pc()}
	// The kernel takes out its breakpoints in the reported bytes first.
	for h, a := range p.table {
		if a != 0 && a-p.pc() < 16 {
			p.restore(uint32(h))
		}
	}
	var stream []byte
	if off := p.pc() - kernBase; off+16 <= kernSize {
		stream = p.mem[off : off+16]
	}
	s.EncodeReport(kdproto.MachineAMD64, kdproto.ControlReport{Dr6: 0xFFFF0FF0, Dr7: p.dr7 | 0x400, EFlags: 0x202, Stream: stream, Flags: 3, SegCs: 0x10})
	return s
}

func (p *puppet) exception(ctx context.Context, code kdproto.Status) {
	p.loop(ctx, func() kdproto.StateChange {
		s := p.report(kdproto.StateException)
		s.Exception = kdproto.Exception{Code: code, Address: p.pc(), NumberParameters: 1, FirstChance: true}
		return s
	}, false)
}

func (p *puppet) loadSymbols(ctx context.Context, path string, unload bool) {
	p.loop(ctx, func() kdproto.StateChange {
		s := p.report(kdproto.StateLoadSymbols)
		s.LoadSymbols = kdproto.LoadSymbols{PathLength: uint32(len(path) + 1), Base: kernBase, ProcessID: ^uint64(0), SizeOfImage: kernSize, Unload: unload}
		s.Data = append([]byte(path), 0)
		return s
	}, true)
}

// loop is the command loop of a stopped target.
func (p *puppet) loop(ctx context.Context, report func() kdproto.StateChange, droppable bool) {
again:
	if ctx.Err() != nil {
		return
	}
	p.mu.Lock()
	s := report()
	p.mu.Unlock()
	if p.link.Send(ctx, kdproto.TypeStateChange64, s.Append(nil), droppable) != nil {
		if droppable || ctx.Err() != nil {
			return
		}
		time.Sleep(2 * time.Millisecond) // a kernel repeats a stop for ever
		goto again
	}
	for ctx.Err() == nil {
		b, r, err := p.link.Receive(ctx, kdproto.TypeManipulate, 0)
		if err != nil {
			time.Sleep(2 * time.Millisecond) // nobody is at the line now
			continue
		}
		if r == kdcom.Resend {
			goto again
		}
		if r != kdcom.Received {
			continue
		}
		m, err := kdproto.DecodeManipulate(b)
		if err != nil {
			p.t.Error(err)
			continue
		}
		m.Data = bytes.Clone(m.Data)
		switch p.serve(ctx, &m, s) {
		case resumed:
			return
		case stopAgain:
			goto again
		}
	}
}

type served int

const (
	replied served = iota
	resumed
	stopAgain
)

func (p *puppet) serve(ctx context.Context, m *kdproto.Manipulate, s kdproto.StateChange) served {
	p.mu.Lock()
	p.asked = append(p.asked, m.API)
	intercept := p.intercept
	p.mu.Unlock()
	if intercept != nil && intercept(m) {
		return replied
	}
	p.mu.Lock()
	st := p.handle(m)
	p.mu.Unlock()
	switch m.API {
	case kdproto.APIContinue, kdproto.APIContinue2:
		return st
	case kdproto.APISwitchProcessor:
		p.mu.Lock()
		defer p.mu.Unlock()
		p.cpu = m.Processor
		return stopAgain
	}
	p.link.Send(ctx, kdproto.TypeManipulate, m.Append(nil), true)
	return replied
}

// handle serves a request in place.
func (p *puppet) handle(m *kdproto.Manipulate) served {
	m.Status = kdproto.StatusSuccess
	data := m.Data
	m.Data = nil
	switch m.API {
	case kdproto.APIGetVersion:
		v := kdproto.Version{Major: 0xF, Minor: 26100, Protocol: 6, SecondaryVersion: 2, Flags: 7, Machine: kdproto.MachineAMD64, KernBase: kernBase, DebuggerDataList: dataHead}
		v.Put(&m.Union)
	case kdproto.APIReadVirtualMemory, kdproto.APIReadPhysicalMemory:
		var b kdproto.Memory
		b.Get(&m.Union)
		off, n := b.Address-kernBase, uint64(min(b.Count, kdproto.MaxTransfer))
		if m.API == kdproto.APIReadPhysicalMemory {
			off = b.Address
		}
		if off < kernSize {
			m.Data = bytes.Clone(p.mem[off:min(off+n, kernSize)])
		}
		b.Actual = uint32(len(m.Data))
		if uint64(b.Actual) < n {
			m.Status = kdproto.StatusUnsuccessful
		}
		b.Put(&m.Union)
	case kdproto.APIWriteVirtualMemory:
		var b kdproto.Memory
		b.Get(&m.Union)
		off := b.Address - kernBase
		b.Actual = 0
		if off < kernSize {
			b.Actual = uint32(copy(p.mem[off:], data))
		}
		if int(b.Actual) < len(data) {
			m.Status = kdproto.StatusUnsuccessful
		}
		b.Put(&m.Union)
	case kdproto.APIGetContext:
		m.Data = bytes.Clone(p.ctx)
	case kdproto.APISetContext:
		copy(p.ctx, data)
	case kdproto.APIReadControlSpace:
		var b kdproto.Memory
		b.Get(&m.Union)
		m.Data = bytes.Clone(p.special[m.Processor%2])
		b.Actual = uint32(len(m.Data))
		b.Put(&m.Union)
	case kdproto.APIWriteControlSpace:
		copy(p.special[m.Processor%2], data)
	case kdproto.APIWriteBreakPoint:
		var b kdproto.WriteBreakPoint
		b.Get(&m.Union)
		if slices.Contains(p.table[:], b.Address) {
			m.Status = kdproto.StatusUnsuccessful
			break
		}
		i := slices.Index(p.table[1:], 0)
		if i < 0 {
			m.Status = kdproto.StatusUnsuccessful
			break
		}
		b.Handle = uint32(i + 1)
		p.table[b.Handle] = b.Address
		if off := b.Address - kernBase; off < kernSize {
			p.saved[b.Handle], p.mem[off] = p.mem[off], 0xCC
		}
		b.Put(&m.Union)
	case kdproto.APIRestoreBreakPoint:
		var b kdproto.RestoreBreakPoint
		b.Get(&m.Union)
		if b.Handle == 0 || b.Handle > 32 || p.table[b.Handle] == 0 {
			m.Status = kdproto.StatusUnsuccessful
			break
		}
		p.restore(b.Handle)
	case kdproto.APISearchMemory:
		var b kdproto.SearchMemory
		b.Get(&m.Union)
		if p.noSearch {
			m.Status = kdproto.StatusUnsuccessful
			break
		}
		off := b.Address - kernBase
		m.Status = kdproto.StatusNoMoreEntries
		if off < kernSize {
			if i := bytes.Index(p.mem[off:min(off+b.Length, kernSize)], data); i >= 0 {
				m.Status = kdproto.StatusSuccess
				b.Address += uint64(i)
				b.Put(&m.Union)
			}
		}
	case kdproto.APIReadMsr:
		var b kdproto.Msr
		b.Get(&m.Union)
		b.Value = 0x1122334455667788 + uint64(b.Register)
		b.Put(&m.Union)
	case kdproto.APIContinue:
		return resumed
	case kdproto.APIContinue2:
		b := kdproto.Continue2{Machine: kdproto.MachineAMD64}
		b.Get(&m.Union)
		p.dr7 = b.Dr7
		if b.Trace {
			// One instruction, after the command loop has ended.
			p.steps++
			p.setPC(p.pc() + 1)
			go func() { p.do <- func() { p.exception(context.Background(), kdproto.StatusSingleStep) } }()
		}
		return resumed
	case kdproto.APISwitchProcessor:
	default:
		m.Status = kdproto.StatusUnsuccessful
	}
	return replied
}

func (p *puppet) restore(h uint32) {
	if off := p.table[h] - kernBase; off < kernSize {
		p.mem[off] = p.saved[h]
	}
	p.table[h] = 0
}

// tally returns the requests since the last tally.
func (p *puppet) tally() []kdproto.API {
	p.mu.Lock()
	defer p.mu.Unlock()
	a := p.asked
	p.asked = nil
	return a
}

func (p *puppet) breakpoints() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.table {
		if a != 0 {
			n++
		}
	}
	return n
}

// bench joins a puppet and a live target through a pair of streams; reopening
// gives the puppet the new stream, as a virtual machine's socket does.
type bench struct {
	*puppet
	live *target.Live
	t    *testing.T
	dead atomic.Bool
}

// kill has the debugger vanish: it says nothing more and never comes back.
func (b *bench) kill() {
	b.dead.Store(true)
	b.puppet.link.Attach(nil)
}

// attach makes a live target on a new stream to the puppet.
func (p *puppet) attach(cfg target.Config, speed int) *bench {
	return p.attachWith(target.LiveOptions{Config: cfg, Speed: speed, ReplyTimeout: 400 * time.Millisecond})
}

func (p *puppet) attachWith(o target.LiveOptions) *bench {
	b := &bench{puppet: p, t: p.t}
	o.Open = func(context.Context) (link.Host, error) {
		if b.dead.Load() {
			return nil, io.EOF
		}
		a, end := net.Pipe()
		p.link.Attach(end)
		return kdcom.NewHost(a, kdcom.HostOptions{AckTimeout: 100 * time.Millisecond, ResendWait: 20 * time.Millisecond, ByteGap: 40 * time.Millisecond}), nil
	}
	o.Line, o.Name = "COM:Pipe,Port=puppet", "puppet"
	o.PokeEvery, o.BackOff, o.Hint = 150*time.Millisecond, 5*time.Millisecond, time.Hour
	b.live = target.NewLive(o)
	if err := b.live.Start(p.t.Context()); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { b.live.Close(context.Background(), target.LeaveRunning) })
	return b
}

// wait returns the next event of a kind, and what came before it.
func (b *bench) wait(k target.EventKind) target.Event {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	var before []string
	for {
		e, err := b.live.Next(ctx)
		if err != nil {
			b.t.Fatalf("waiting for %v: %v; before it came %q", k, err, before)
		}
		if e.Kind == k {
			return e
		}
		before = append(before, e.Kind.String()+" "+e.Text)
	}
}

func (b *bench) ask(reqs ...target.Request) []target.Reply {
	b.t.Helper()
	r, err := target.Collect(b.t.Context(), b.live, reqs...)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

func (b *bench) resume(r target.Resume) {
	b.t.Helper()
	if err := b.live.Resume(b.t.Context(), r); err != nil {
		b.t.Fatal(err)
	}
}

var x64, _ = arch.For(kdproto.MachineAMD64)

const (
	kdcomReceived = kdcom.Received
	kdcomTimeout  = kdcom.Timeout
)
