// Package targettest holds a scripted Target for tests above the target
// package, and the suite that every implementation of target.Target passes.
//
// The fake has memory, registers and a state, but executes nothing: a test
// says when it halts, prints or dies. It knows no packets.
package targettest

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"openkd/kdproto"
	"openkd/target"
)

var _ target.Target = (*Fake)(nil)

const page = 4096

// Fake is a scripted target.
//
// Concurrency: as target.Target says. The exported fields are set before the
// fake is used.
type Fake struct {
	// PartSize is how much one part of a read holds, as a packet would. 0: 4000.
	PartSize int
	// OnPart is called before each part is handed to the sink, with no lock
	// held; an error ends the batch. It can wait, to model a line.
	OnPart func(ctx context.Context, index int, offset uint64, n int) error
	// OnBreakIn is called by BreakIn; nil: a running fake halts.
	OnBreakIn func()
	// OnClose is called by Close, with no lock held.
	OnClose func(target.Leave)
	// InsertFails are breakpoint addresses that Resume refuses.
	InsertFails []uint64
	// Line is what Status reports.
	Line string

	turn chan struct{} // holds one token: Do, Resume, Switch and Close take turns

	mu       sync.Mutex
	state    target.State
	since    time.Time
	virt     map[uint64]*[page]byte
	phys     map[uint64]*[page]byte
	control  map[uint64][]byte // by processor<<48 | address
	msr, io  map[uint64]uint64
	contexts map[uint16][]byte
	version  kdproto.Version
	stops    uint64
	cpu      int
	cpus     int
	prompt   uint32
	answers  []string
	resumes  []target.Resume
	controls []target.Control
	breaks   int
	batches  int
	leave    *target.Leave
	cancel   context.CancelFunc // of the batch that runs
	events   []target.Event
	more     chan struct{}
}

// New returns a fake with two processors that runs and has been met: its first
// event is EventConnected.
func New() *Fake {
	f := &Fake{
		Line: "com:pipe,port=/tmp/fake", turn: make(chan struct{}, 1), more: make(chan struct{}, 1),
		state: target.StateRunning, since: time.Now(), cpus: 2,
		virt: map[uint64]*[page]byte{}, phys: map[uint64]*[page]byte{},
		control: map[uint64][]byte{}, msr: map[uint64]uint64{}, io: map[uint64]uint64{},
		contexts: map[uint16][]byte{0: make([]byte, 0x4D0), 1: make([]byte, 0x4D0)},
		version: kdproto.Version{
			Major: 15, Minor: 19041, Protocol: 6, Flags: 5, Machine: kdproto.MachineAMD64,
			MaxPacketType: 12, MaxStateChange: 3, MaxManipulate: 0x33,
			KernBase: 0xFFFFF80000000000, PsLoadedModuleList: 0xFFFFF80000010000, DebuggerDataList: 0xFFFFF80000020000,
		},
	}
	f.turn <- struct{}{}
	v := f.version
	f.Emit(target.Event{Kind: target.EventConnected, Version: &v, DataBlock: bytes.Repeat([]byte{0xDB}, 0x380)})
	return f
}

// Emit queues an event; the time is filled in. Prints that wait are merged.
func (f *Fake) Emit(e target.Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.emitLocked(e)
}

func (f *Fake) emitLocked(e target.Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	if n := len(f.events); n > 0 && e.Kind == target.EventPrint && f.events[n-1].Kind == target.EventPrint {
		f.events[n-1].Text += e.Text
	} else {
		f.events = append(f.events, e)
	}
	select {
	case f.more <- struct{}{}:
	default:
	}
}

// Halt stops a running fake, as a breakpoint at pc would.
func (f *Fake) Halt(pc uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.haltLocked(target.Stop{PC: pc})
}

func (f *Fake) haltLocked(s target.Stop) {
	if f.state == target.StateClosed {
		return
	}
	f.state, f.since = target.StateHalted, time.Now()
	f.stops++
	s.Number, s.Processor, s.Processors = f.stops, f.cpu, f.cpus
	s.Exception = &kdproto.Exception{Code: kdproto.StatusBreakpoint, Address: s.PC, FirstChance: true}
	s.Bundle = target.Bundle{
		Context: bytes.Clone(f.contexts[uint16(f.cpu)]), Special: make([]byte, 0xF0),
		Memory: []target.Memory{{Addr: s.PC, Data: bytes.Repeat([]byte{0xCC}, 256)}, {Addr: 0xFFFFA00000000000, Data: make([]byte, 1024)}},
	}
	f.emitLocked(target.Event{Kind: target.EventHalted, Stop: &s})
}

// Print queues a DbgPrint.
func (f *Fake) Print(text string) { f.Emit(target.Event{Kind: target.EventPrint, Text: text}) }

// Prompt opens a prompt for at most max bytes.
func (f *Fake) Prompt(text string, max uint32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.prompt = max
	f.emitLocked(target.Event{Kind: target.EventPrompt, Text: text, MaxAnswer: max})
}

// Map puts data into virtual memory, pages as needed.
func (f *Fake) Map(addr uint64, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	mapInto(f.virt, addr, data)
}

// MapPhysical puts data into physical memory.
func (f *Fake) MapPhysical(addr uint64, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	mapInto(f.phys, addr, data)
}

func mapInto(m map[uint64]*[page]byte, addr uint64, data []byte) {
	for len(data) > 0 {
		p := m[addr/page]
		if p == nil {
			p = new([page]byte)
			m[addr/page] = p
		}
		n := copy(p[addr%page:], data)
		addr, data = addr+uint64(n), data[n:]
	}
}

// Resumes, Controls, Answers, Breaks, Batches and Left tell what was asked.
func (f *Fake) Resumes() []target.Resume {
	return locked(f, func() []target.Resume { return f.resumes })
}

// Controls returns the control orders so far.
func (f *Fake) Controls() []target.Control {
	return locked(f, func() []target.Control { return f.controls })
}

// Answers returns the answers to prompts so far.
func (f *Fake) Answers() []string { return locked(f, func() []string { return f.answers }) }

// Breaks returns how many break-ins were asked for.
func (f *Fake) Breaks() int { return locked(f, func() int { return f.breaks }) }

// Batches returns how many batches were begun.
func (f *Fake) Batches() int { return locked(f, func() int { return f.batches }) }

// Left returns how the session was closed, and whether it was.
func (f *Fake) Left() (target.Leave, bool) {
	l := locked(f, func() *target.Leave { return f.leave })
	if l == nil {
		return 0, false
	}
	return *l, true
}

func locked[T any](f *Fake, get func() T) T {
	f.mu.Lock()
	defer f.mu.Unlock()
	return get()
}

func (f *Fake) take(ctx context.Context) error {
	select {
	case <-f.turn:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (f *Fake) give() { f.turn <- struct{}{} }

// wantLocked says why the fake is not in the state that a call needs.
func (f *Fake) wantLocked(s target.State) error {
	switch {
	case f.state == s:
		return nil
	case f.state == target.StateClosed:
		return target.ErrClosed
	case f.state == target.StateWaiting:
		return target.ErrNotReady
	case f.state == target.StateRunning:
		return target.ErrRunning
	}
	return target.ErrHalted
}

// Do implements target.Target.
func (f *Fake) Do(ctx context.Context, batch []target.Request, sink func(target.Part) error) error {
	if err := target.CheckBatch(batch); err != nil {
		return err
	}
	if err := f.take(ctx); err != nil {
		return err
	}
	defer f.give()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.mu.Lock()
	err := f.wantLocked(target.StateHalted)
	f.cancel = cancel
	if err == nil {
		f.batches++
	}
	f.mu.Unlock()
	if err != nil {
		return err
	}
	for i := range batch {
		if err := f.one(ctx, i, &batch[i], sink); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fake) one(ctx context.Context, i int, r *target.Request, sink func(target.Part) error) error {
	done := func(st kdproto.Status, value uint64, data []byte) error {
		if err := f.before(ctx, i, 0, len(data)); err != nil {
			return err
		}
		return sink(target.Part{Index: i, Done: true, Status: st, Value: value, Data: data})
	}
	bad := kdproto.StatusUnsuccessful
	const ok = kdproto.StatusSuccess
	switch r.Op {
	case target.OpReadVirtual:
		return f.read(ctx, i, f.virt, r, sink)
	case target.OpReadPhysical:
		return f.read(ctx, i, f.phys, r, sink)
	case target.OpWriteVirtual, target.OpWritePhysical:
		m := f.virt
		if r.Op == target.OpWritePhysical {
			m = f.phys
		}
		n := locked(f, func() int { return writeOver(m, r.Addr, r.Data) })
		if n < len(r.Data) {
			return done(bad, uint64(n), nil)
		}
		return done(ok, uint64(n), nil)
	case target.OpReadControl:
		d := locked(f, func() []byte { return bytes.Clone(f.control[uint64(r.Processor)<<48|r.Addr]) })
		if d == nil {
			return done(bad, 0, nil)
		}
		return done(ok, 0, d[:min(uint64(len(d)), r.Len)])
	case target.OpWriteControl:
		locked(f, func() int { f.control[uint64(r.Processor)<<48|r.Addr] = bytes.Clone(r.Data); return 0 })
		return done(ok, 0, nil)
	case target.OpReadMSR, target.OpReadIO:
		m := f.msr
		if r.Op == target.OpReadIO {
			m = f.io
		}
		return done(ok, locked(f, func() uint64 { return m[r.Addr] }), nil)
	case target.OpWriteMSR, target.OpWriteIO:
		m := f.msr
		if r.Op == target.OpWriteIO {
			m = f.io
		}
		locked(f, func() int { m[r.Addr] = r.Value; return 0 })
		return done(ok, 0, nil)
	case target.OpGetContext:
		d := locked(f, func() []byte { return bytes.Clone(f.contexts[r.Processor]) })
		if d == nil {
			return done(bad, 0, nil)
		}
		return done(ok, 0, d)
	case target.OpSetContext:
		locked(f, func() int { f.contexts[uint16(f.cpu)] = bytes.Clone(r.Data); return 0 })
		return done(ok, 0, nil)
	case target.OpVersion:
		var u [kdproto.UnionSize]byte
		f.version.Put(&u)
		return done(ok, 0, u[:])
	case target.OpString:
		size := max(1, int(r.Flags))
		b, _ := f.peek(r.Addr, int(min(r.Len, target.MaxString)))
		for n := 0; n+size <= len(b); n += size {
			if !bytes.ContainsFunc(b[n:n+size], func(c rune) bool { return c != 0 }) {
				return done(ok, 0, b[:n])
			}
		}
		return done(ok, 0, b)
	case target.OpFill:
		fill := bytes.Repeat(r.Data, int(r.Len)/max(1, len(r.Data))+1)[:r.Len]
		n := locked(f, func() int { return writeOver(f.virt, r.Addr, fill) })
		return done(ok, uint64(n), nil)
	case target.OpSearch:
		b, _ := f.peek(r.Addr, int(min(r.Len, 64<<20)))
		var hits []byte
		for n := uint64(0); n < uint64(len(b)); n += max(1, r.Value) {
			if bytes.HasPrefix(b[n:], r.Data) {
				hits = binary.LittleEndian.AppendUint64(hits, r.Addr+n)
				if len(hits)/8 >= max(1, int(r.Flags)) {
					break
				}
			}
		}
		return done(ok, 0, hits)
	case target.OpFollow:
		return done(ok, 0, f.follow(r.List))
	}
	return done(bad, 0, nil)
}

func (f *Fake) before(ctx context.Context, i int, offset uint64, n int) error {
	if f.OnPart != nil {
		if err := f.OnPart(ctx, i, offset, n); err != nil {
			return err
		}
	}
	return ctx.Err()
}

func (f *Fake) read(ctx context.Context, i int, m map[uint64]*[page]byte, r *target.Request, sink func(target.Part) error) error {
	size := uint64(f.PartSize)
	if size == 0 {
		size = 4000
	}
	st := kdproto.StatusSuccess
	buf := make([]byte, size)
	for off := uint64(0); off < r.Len; {
		n := min(size, r.Len-off)
		f.mu.Lock()
		got := copyOut(m, r.Addr+off, buf[:n])
		f.mu.Unlock()
		if got == 0 { // skip to the next page
			st = kdproto.StatusUnsuccessful
			off += page - (r.Addr+off)%page
			continue
		}
		if err := f.before(ctx, i, off, got); err != nil {
			return err
		}
		if err := sink(target.Part{Index: i, Offset: off, Data: buf[:got]}); err != nil {
			return err
		}
		off += uint64(got)
	}
	return sink(target.Part{Index: i, Offset: r.Len, Done: true, Status: st})
}

// copyOut copies what is mapped from addr on and returns how much it is.
func copyOut(m map[uint64]*[page]byte, addr uint64, buf []byte) int {
	n := 0
	for n < len(buf) {
		p := m[(addr+uint64(n))/page]
		if p == nil {
			break
		}
		n += copy(buf[n:], p[(addr+uint64(n))%page:])
	}
	return n
}

// writeOver writes where something is mapped and returns how much it was.
func writeOver(m map[uint64]*[page]byte, addr uint64, data []byte) int {
	n := 0
	for n < len(data) {
		p := m[(addr+uint64(n))/page]
		if p == nil {
			break
		}
		n += copy(p[(addr+uint64(n))%page:], data[n:])
	}
	return n
}

func (f *Fake) peek(addr uint64, n int) ([]byte, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b := make([]byte, n)
	k := copyOut(f.virt, addr, b)
	return b[:k], k == n
}

// follow knows node pieces and pointer pieces; what it cannot read is nil.
func (f *Fake) follow(l *target.List) []byte {
	var out []byte
	if l == nil || l.Pointer != 4 && l.Pointer != 8 {
		return nil
	}
	ptr := func(addr uint64) (uint64, bool) {
		b, ok := f.peek(addr, int(l.Pointer))
		var w [8]byte
		copy(w[:], b)
		return binary.LittleEndian.Uint64(w[:]), ok
	}
	seen := map[uint64]bool{}
	at, ok := ptr(l.Head)
	for n := uint32(0); ok && at != 0 && at != l.Head && !seen[at] && n < min(l.MaxNodes, target.MaxNodes); n++ {
		seen[at] = true
		node := target.Node{Addr: at - uint64(l.LinkOffset)}
		for _, p := range l.Pieces {
			addr, ok := node.Addr+uint64(p.Offset), p.Via != target.ViaUnicode
			if p.Via == target.ViaPointer {
				addr, ok = ptr(addr)
				addr += uint64(p.Add)
			}
			var b []byte
			if ok {
				if got, whole := f.peek(addr, int(min(p.Len, target.MaxPiece))); whole {
					b = got
				}
			}
			node.Pieces = append(node.Pieces, b)
		}
		out = target.AppendNode(out, node)
		at, ok = ptr(at)
	}
	return out
}

// Resume implements target.Target.
func (f *Fake) Resume(ctx context.Context, r target.Resume) error {
	if err := f.take(ctx); err != nil {
		return err
	}
	defer f.give()
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.wantLocked(target.StateHalted); err != nil {
		return err
	}
	var failed []uint64
	for _, a := range r.Breakpoints {
		for _, b := range f.InsertFails {
			if a == b {
				failed = append(failed, a)
			}
		}
	}
	if failed != nil {
		return &target.InsertError{Addresses: failed}
	}
	f.resumes = append(f.resumes, r)
	f.state, f.since = target.StateRunning, time.Now()
	f.emitLocked(target.Event{Kind: target.EventRunning})
	if r.Mode == target.Step {
		f.haltLocked(target.Stop{PC: 0xFFFFF80000001000 + f.stops})
	}
	return nil
}

// Switch implements target.Target.
func (f *Fake) Switch(ctx context.Context, processor int) error {
	if err := f.take(ctx); err != nil {
		return err
	}
	defer f.give()
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.wantLocked(target.StateHalted); err != nil {
		return err
	}
	if processor < 0 || processor >= f.cpus {
		return fmt.Errorf("%w: there is no processor %d", target.ErrBadRequest, processor)
	}
	f.cpu = processor
	f.haltLocked(target.Stop{Switched: true})
	return nil
}

// BreakIn implements target.Target.
func (f *Fake) BreakIn(ctx context.Context) error {
	f.mu.Lock()
	if f.state == target.StateClosed {
		f.mu.Unlock()
		return target.ErrClosed
	}
	f.breaks++
	if f.cancel != nil {
		f.cancel()
	}
	if f.OnBreakIn == nil && f.state == target.StateRunning {
		f.haltLocked(target.Stop{PC: 0xFFFFF80000005000, Asked: true})
	}
	f.mu.Unlock()
	if f.OnBreakIn != nil {
		f.OnBreakIn()
	}
	return nil
}

// Answer implements target.Target.
func (f *Fake) Answer(ctx context.Context, text string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.state == target.StateClosed:
		return target.ErrClosed
	case f.prompt == 0:
		return fmt.Errorf("%w: no prompt is open", target.ErrBadRequest)
	}
	f.prompt = 0
	f.answers = append(f.answers, text)
	return nil
}

// Control implements target.Target.
func (f *Fake) Control(ctx context.Context, c target.Control) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state == target.StateClosed {
		return target.ErrClosed
	}
	if c.Op == target.ControlReboot || c.Op == target.ControlCrash {
		if err := f.wantLocked(target.StateHalted); err != nil {
			return err
		}
	}
	f.controls = append(f.controls, c)
	if c.Op == target.ControlReboot {
		f.state, f.since = target.StateWaiting, time.Now()
		f.emitLocked(target.Event{Kind: target.EventReloaded})
	}
	return nil
}

// Next implements target.Target.
func (f *Fake) Next(ctx context.Context) (target.Event, error) {
	for {
		f.mu.Lock()
		if len(f.events) > 0 {
			e := f.events[0]
			f.events = f.events[1:]
			f.mu.Unlock()
			return e, nil
		}
		closed := f.state == target.StateClosed
		f.mu.Unlock()
		if closed {
			return target.Event{}, target.ErrClosed
		}
		select {
		case <-f.more:
		case <-ctx.Done():
			return target.Event{}, ctx.Err()
		}
	}
}

// Status implements target.Target.
func (f *Fake) Status(ctx context.Context) (target.Status, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	st := target.Status{State: f.state, Stage: target.StageConnected, Since: f.since, Line: f.Line, Speed: 115200}
	st.Stats.BytesIn, st.Stats.PacketsIn, st.Stats.RoundTrip = 1234, 5, 3*time.Millisecond
	if f.state == target.StateHalted {
		st.Stage = target.StageHalted
	}
	return st, nil
}

// Close implements target.Target.
func (f *Fake) Close(ctx context.Context, l target.Leave) error {
	f.mu.Lock()
	if f.cancel != nil {
		f.cancel()
	}
	f.mu.Unlock()
	if err := f.take(ctx); err != nil {
		return err
	}
	defer f.give()
	f.mu.Lock()
	closed := f.state == target.StateClosed
	if !closed {
		f.state, f.since = target.StateClosed, time.Now()
		f.leave = &l
		f.emitLocked(target.Event{Kind: target.EventClosed, Text: "closed"})
	}
	f.mu.Unlock()
	if !closed && f.OnClose != nil {
		f.OnClose(l)
	}
	return nil
}
