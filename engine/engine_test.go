package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"openkd/arch"
	"openkd/engine/enginetest"
	"openkd/kdproto"
	"openkd/target"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// events records what the sink got.
type events struct {
	mu   sync.Mutex
	list []Event
}

func (s *events) Event(e Event) {
	s.mu.Lock()
	s.list = append(s.list, e)
	s.mu.Unlock()
}

func (s *events) texts(k target.EventKind) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, e := range s.list {
		if e.Kind == k {
			out = append(out, e.Text)
		}
	}
	return out
}

type rig struct {
	*testing.T
	ctx  context.Context
	f    *enginetest.Fake
	e    *Engine
	sink *events
}

// newRig runs an engine over a connected fake target of n processors.
func newRig(t *testing.T, n int, change ...func(*enginetest.Fake, *Options)) *rig {
	t.Helper()
	r := &rig{T: t, f: enginetest.New(n), sink: &events{}}
	opt := Options{Sink: r.sink}
	for _, c := range change {
		c(r.f, &opt)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	r.ctx = ctx
	r.e = New(r.f, opt)
	done := make(chan error, 1)
	go func() { done <- r.e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	r.f.Connect()
	return r
}

func (r *rig) wait() *Stop {
	r.Helper()
	o, err := r.e.Wait(r.ctx)
	if err != nil {
		r.Fatal(err)
	}
	if o.Kind != Stopped {
		r.Fatalf("outcome %d (%s), want a stop", o.Kind, o.Text)
	}
	return o.Stop
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// broken breaks into the target.
func (r *rig) broken() *Stop {
	r.Helper()
	r.must(r.e.BreakIn(r.ctx))
	return r.wait()
}

// script answers resumes with stops, one after the other.
func (r *rig) script(stops ...target.Stop) {
	n := 0
	r.f.Lock()
	r.f.OnResume = func(f *enginetest.Fake, _ target.Resume) {
		if n < len(stops) {
			n++
			f.Stop(stops[n-1])
		}
	}
	r.f.Unlock()
}

func at(pc uint64) target.Stop {
	return target.Stop{PC: pc, Breakpoint: true, Exception: enginetest.Exception(kdproto.StatusBreakpoint, true)}
}

func stepped(pc uint64) target.Stop {
	return target.Stop{PC: pc, Dr6: 0xFFFF4FF0, Exception: enginetest.Exception(kdproto.StatusSingleStep, true)}
}

// TestStepCodedBreakpoint: a step from an int 3 that has a breakpoint too goes
// behind it.
func TestStepCodedBreakpoint(t *testing.T) {
	r := newRig(t, 1)
	r.broken()
	_, _, err := r.e.Breakpoints().Set(Breakpoint{ID: -1, Addr: enginetest.Break})
	r.must(err)
	r.must(r.e.Step(r.ctx, StepOpt{}))
	if s := r.wait(); s.Reason != ReasonStep || s.PC != enginetest.Break+1 {
		t.Errorf("%v at %x", s.Reason, s.PC)
	}
}

// TestAssertion: going on from int 2Ch passes it when the exception is handled.
func TestAssertion(t *testing.T) {
	for _, c := range []struct {
		name   string
		bytes  []byte
		status kdproto.Status
		move   bool
		pc     uint64
	}{
		{"g", assertion, 0, false, code + 2},
		{"gh", assertion, kdproto.DbgExceptionHandled, false, code + 2},
		{"gn", assertion, kdproto.DbgExceptionNotHandled, false, code},
		{"moved", assertion, 0, true, code + 8},
		{"something else", []byte{0xCD, 0x2D}, 0, false, code},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 1)
			r.f.Write(code, c.bytes)
			r.broken()
			r.script(target.Stop{PC: code, Exception: enginetest.Exception(kdproto.StatusAssertionFailure, true)})
			r.must(r.e.Go(r.ctx, GoOpt{}))
			r.wait()
			opt := GoOpt{Status: c.status}
			if c.move {
				to := uint64(code + 8)
				opt.From = &to
			}
			r.must(r.e.Go(r.ctx, opt))
			r.f.Lock()
			defer r.f.Unlock()
			if pc := r.f.Arch.PC(r.f.Context[0]); pc != c.pc {
				t.Errorf("goes on at %x, want %x", pc, c.pc)
			}
		})
	}
	r := newRig(t, 1)
	r.f.Write(code, assertion)
	r.broken()
	r.script(target.Stop{PC: code, Exception: enginetest.Exception(kdproto.StatusAssertionFailure, true)})
	r.must(r.e.Go(r.ctx, GoOpt{}))
	r.wait()
	r.must(r.e.Step(r.ctx, StepOpt{}))
	if s := r.wait(); s.Reason != ReasonStep || s.PC != code+2 {
		t.Errorf("step: %v at %x", s.Reason, s.PC)
	}
}

// parked breaks in and steps over the break instruction, which runs nothing.
func (r *rig) parked() {
	r.Helper()
	r.broken()
	r.must(r.e.Step(r.ctx, StepOpt{Over: true}))
	s := r.wait()
	if s.Reason != ReasonStep || s.PC != enginetest.Break+1 || len(r.f.Resumes) != 0 {
		r.Fatalf("step over int 3: %v at %x", s.Reason, s.PC)
	}
	if pc, _ := r.e.PC(r.ctx); pc != enginetest.Break+1 {
		r.Fatalf("pc %x", pc)
	}
}

const code = enginetest.Break + 0x1000

func TestBreakIn(t *testing.T) {
	r := newRig(t, 2)
	s := r.broken()
	if s.Reason != ReasonBreakIn || s.Headline != "Break instruction exception - code 80000003 (first chance)" {
		t.Errorf("got %v %q", s.Reason, s.Headline)
	}
	if got := r.e.Symbolize(enginetest.Break); got != "nt+0x24ca60" {
		t.Errorf("name %q", got)
	}
	if r.e.Processors() != 2 || r.e.Processor() != 0 || !r.e.Halted() {
		t.Error("processors or state")
	}
}

// What comes with a stop answers the first commands: no exchange.
func TestFirstCommandsCostNothing(t *testing.T) {
	r := newRig(t, 2)
	r.broken()
	before := r.f.Count()
	st, err := r.e.State(r.ctx, -1)
	r.must(err)
	if r.e.Arch().PC(st.Context) != enginetest.Break {
		t.Error("pc")
	}
	if _, _, err := r.e.Register(r.ctx, "cr3"); err != nil {
		t.Error(err)
	}
	if d, err := r.e.Read(r.ctx, Virtual, enginetest.Break, 0x80); err != nil || !d.Complete() || d.Bytes[0] != 0xCC {
		t.Error("code", err)
	}
	if d, err := r.e.Read(r.ctx, Virtual, enginetest.Stack, 0x80); err != nil || !d.Complete() {
		t.Error("stack", err)
	}
	r.e.Symbolize(enginetest.Break)
	if n := r.f.Count() - before; n != 0 {
		t.Errorf("%d exchanges, want 0", n)
	}
}

func TestReadCache(t *testing.T) {
	r := newRig(t, 1)
	base := uint64(0xFFFF800000000000)
	r.f.Write(base, bytes.Repeat([]byte{1}, 4096))
	r.f.Write(base+8192, bytes.Repeat([]byte{3}, 4096))
	r.parked()
	before := r.f.Count()
	d, err := r.e.Read(r.ctx, Virtual, base+4000, 4300)
	r.must(err)
	if r.f.Count() != before+1 {
		t.Errorf("%d exchanges for one read", r.f.Count()-before)
	}
	want := []Span{{0, 96}, {4192, 108}}
	if fmt.Sprint(d.Spans) != fmt.Sprint(want) || d.Valid(96) || !d.Valid(4192) || d.Complete() || len(d.Prefix()) != 96 {
		t.Errorf("spans %v", d.Spans)
	}
	if d, _ = r.e.Read(r.ctx, Virtual, base+4200, 10); d.Complete() || r.f.Count() != before+1 {
		t.Error("a hole was asked for again")
	}
	n, err := r.e.Write(r.ctx, Virtual, base+4090, []byte{9, 9, 9, 9, 9, 9, 9, 9})
	var me *MemoryError
	if n != 6 || !errors.As(err, &me) || me.Addr != base+4096 {
		t.Errorf("write: %d %v", n, err)
	}
	count := r.f.Count()
	d, _ = r.e.Read(r.ctx, Virtual, base+4088, 8)
	if !bytes.Equal(d.Bytes, []byte{1, 1, 9, 9, 9, 9, 9, 9}) || r.f.Count() != count {
		t.Errorf("after the write: %v", d.Bytes)
	}
	// Resume drops everything.
	r.script(stepped(code))
	r.must(r.e.Step(r.ctx, StepOpt{}))
	r.wait()
	r.f.Lock()
	r.f.Pages[base][0] = 7
	r.f.Unlock()
	if d, _ = r.e.Read(r.ctx, Virtual, base, 1); d.Bytes[0] != 7 {
		t.Error("the cache outlived its halt")
	}
}

func TestReadEdges(t *testing.T) {
	r := newRig(t, 1)
	r.f.Write(0xFFFFFFFFFFFFF000, bytes.Repeat([]byte{5}, 4096))
	r.broken()
	d, err := r.e.Read(r.ctx, Virtual, 0xFFFFFFFFFFFFFFF0, 64)
	if err != nil || len(d.Bytes) != 16 || !d.Complete() {
		t.Errorf("top of memory: %d %v", len(d.Bytes), err)
	}
	for _, n := range []int{0, -1} {
		if d, err := r.e.Read(r.ctx, Virtual, 0, n); err != nil || len(d.Bytes) != 0 {
			t.Error("empty read", err)
		}
	}
	r.f.WritePhys(0x1000, []byte{1, 2, 3})
	d, err = r.e.Read(r.ctx, PhysicalUncached, 0x1001, 2)
	if err != nil || !bytes.Equal(d.Bytes, []byte{2, 3}) {
		t.Error(d, err)
	}
	last := r.f.Asked[len(r.f.Asked)-1]
	if last.Op != target.OpReadPhysical || last.Len != 2 || last.Flags != 2 {
		t.Errorf("device memory read as %+v", last)
	}
	big, err := r.e.Read(r.ctx, Virtual, enginetest.KernBase, 1<<20)
	if err != nil || len(big.Bytes) != 1<<20 || !big.Valid(0) || big.Valid(0x10000) {
		t.Error("big read", err)
	}
}

// A read through the cache is the memory, whatever was read and written before.
func TestReadProperty(t *testing.T) {
	r := newRig(t, 1)
	base := uint64(0xFFFF900000000000)
	model := map[uint64]byte{}
	for p := range uint64(8) {
		if p == 2 || p == 5 {
			continue
		}
		b := make([]byte, 4096)
		for i := range b {
			b[i] = byte(uint64(i)*7 + p)
			model[base+p*4096+uint64(i)] = b[i]
		}
		r.f.Write(base+p*4096, b)
	}
	r.broken()
	for _, slow := range []bool{false, true} {
		r.e.mu.Lock()
		r.e.slow = slow
		r.e.mu.Unlock()
		rapid.Check(t, func(t *rapid.T) {
			a := base + rapid.Uint64Range(0, 8*4096-1).Draw(t, "addr")
			n := rapid.IntRange(1, 9000).Draw(t, "n")
			if rapid.Bool().Draw(t, "write") {
				b := rapid.SliceOfN(rapid.Byte(), 1, 64).Draw(t, "data")
				done, _ := r.e.Write(r.ctx, Virtual, a, b)
				for i, c := range b {
					if _, ok := model[a+uint64(i)]; !ok {
						if done > i {
							t.Fatalf("wrote into a hole")
						}
						return
					}
					model[a+uint64(i)] = c
				}
				return
			}
			d, err := r.e.Read(r.ctx, Virtual, a, n)
			if err != nil || len(d.Bytes) != n {
				t.Fatal(err)
			}
			for i := range d.Bytes {
				v, ok := model[a+uint64(i)]
				if ok != d.Valid(i) || v != d.Bytes[i] {
					t.Fatalf("byte %d at %x: %x valid %v, want %x %v", i, a, d.Bytes[i], d.Valid(i), v, ok)
				}
			}
		})
	}
}

func TestRegisters(t *testing.T) {
	r := newRig(t, 2)
	r.broken()
	r.must(r.e.SetRegister(r.ctx, "RAX", arch.Value{Lo: 0x1234}))
	v, reg, err := r.e.Register(r.ctx, "eax")
	if err != nil || v.Lo != 0x1234 || reg.Bits != 32 {
		t.Error(v, err)
	}
	if got, _ := r.f.Arch.Reg("rax"); true {
		x, _ := got.Get(arch.State{Context: r.f.Context[0]})
		if x.Lo != 0x1234 {
			t.Error("the target does not have it")
		}
	}
	r.must(r.e.SetRegister(r.ctx, "cr3", arch.Value{Lo: 0x1AD000}))
	if v, _, _ := r.e.Register(r.ctx, "cr3"); v.Lo != 0x1AD000 {
		t.Error("cr3")
	}
	if _, _, err := r.e.Register(r.ctx, "bogus"); !errors.Is(err, ErrUnknownRegister) {
		t.Error(err)
	}
	// Another processor: one exchange to look, no switch.
	n := r.f.Count()
	r.must(r.e.SetProcessor(r.ctx, 1))
	if v, _, err := r.e.Register(r.ctx, "rip"); err != nil || v.Lo != enginetest.Break+0x100 {
		t.Errorf("rip of 1: %x %v", v.Lo, err)
	}
	if r.f.Count() != n+1 || len(r.f.Switches) != 0 {
		t.Errorf("%d exchanges, %v switches", r.f.Count()-n, r.f.Switches)
	}
	if err := r.e.SetProcessor(r.ctx, 2); err == nil {
		t.Error("processor 2 of 2")
	}
	// Writing its context switches.
	r.must(r.e.SetRegister(r.ctx, "rbx", arch.Value{Lo: 7}))
	if len(r.f.Switches) != 1 || r.f.Switches[0] != 1 {
		t.Errorf("switches %v", r.f.Switches)
	}
	if v, _, _ := r.e.Register(r.ctx, "rbx"); v.Lo != 7 || r.e.Processor() != 1 {
		t.Error("rbx of 1")
	}
	// A go answers the processor that stopped first.
	r.must(r.e.Go(r.ctx, GoOpt{}))
	if len(r.f.Switches) != 2 || r.f.Switches[1] != 0 {
		t.Errorf("switches %v", r.f.Switches)
	}
}

func TestStepOtherProcessor(t *testing.T) {
	r := newRig(t, 2)
	r.broken()
	r.must(r.e.SetProcessor(r.ctx, 1))
	n := 0
	r.f.OnResume = func(f *enginetest.Fake, res target.Resume) {
		n++
		switch n {
		case 1: // the first processor reports again
			if res.Mode != target.Step {
				t.Errorf("mode %v", res.Mode)
			}
			f.Stop(target.Stop{Processor: 0, Again: true, Exception: enginetest.Exception(kdproto.StatusBreakpoint, true)})
		case 2:
			if res.Mode != target.Go {
				t.Errorf("second mode %v", res.Mode)
			}
			s := stepped(code)
			s.Processor = 1
			f.Stop(s)
		}
	}
	r.must(r.e.Step(r.ctx, StepOpt{}))
	s := r.wait()
	if s.Reason != ReasonStep || s.Processor != 1 || r.e.Processor() != 1 || n != 2 {
		t.Errorf("%v on %d after %d resumes", s.Reason, s.Processor, n)
	}
}

func TestBreakpointHit(t *testing.T) {
	r := newRig(t, 1)
	r.broken()
	b, replaced, err := r.e.Breakpoints().Set(Breakpoint{ID: -1, Addr: code, Passes: 3, Command: ".echo hi"})
	if err != nil || replaced || b.ID != 0 || b.Module != "nt" || b.Offset != 0x24DA60 {
		t.Fatal(b, replaced, err)
	}
	r.script(at(code), at(code), at(code), at(code))
	r.must(r.e.Go(r.ctx, GoOpt{}))
	s := r.wait()
	if s.Reason != ReasonBreakpoint || s.Headline != "Breakpoint 0 hit" || s.Breakpoints[0].Command != ".echo hi" {
		t.Errorf("%v %q %v", s.Reason, s.Headline, s.Breakpoints)
	}
	if _, n := r.f.LastResume(); n != 3 {
		t.Errorf("%d resumes, want 3", n)
	}
	if b, _ := r.e.Breakpoints().Get(0); b.PassesLeft != 1 {
		t.Errorf("passes left %d", b.PassesLeft)
	}
	for _, res := range r.f.Resumes {
		if len(res.Breakpoints) != 1 || res.Breakpoints[0] != code || res.Status != kdproto.DbgExceptionHandled {
			t.Errorf("resume %+v", res)
		}
	}
	// From now on every hit stops.
	r.must(r.e.Go(r.ctx, GoOpt{}))
	if s := r.wait(); s.Reason != ReasonBreakpoint {
		t.Error(s.Reason)
	}
}

func TestBreakpointThread(t *testing.T) {
	r := newRig(t, 1)
	r.f.Write(0x5000+0x220, []byte{0, 0x10, 0, 0, 0, 0xE0, 0xFF, 0xFF})
	r.broken()
	set := func(b Breakpoint) {
		b.ID = -1
		_, _, err := r.e.Breakpoints().Set(b)
		r.must(err)
	}
	set(Breakpoint{Addr: code, Thread: 0x5000})
	set(Breakpoint{Addr: code, Process: 0xFFFFE00000001000})
	other, mine := at(code), at(code)
	other.Thread, mine.Thread = 0x7000, 0x5000
	r.script(other, mine)
	r.f.Lock()
	r.f.Write(0x7000+0x220, []byte{1})
	r.f.Unlock()
	r.must(r.e.Go(r.ctx, GoOpt{}))
	s := r.wait()
	if s.Headline != "Breakpoint 0 hit\nBreakpoint 1 hit" || len(r.f.Resumes) != 2 {
		t.Errorf("%q after %d", s.Headline, len(r.f.Resumes))
	}
	if len(r.f.Resumes[0].Breakpoints) != 1 {
		t.Error("one address, two breakpoints, inserted twice")
	}
}

func TestBreakpointRules(t *testing.T) {
	r := newRig(t, 1)
	r.broken()
	l := r.e.Breakpoints()
	for i := range MaxSoftware {
		if b, _, err := l.Set(Breakpoint{ID: -1, Addr: code + uint64(i)}); err != nil || b.ID != i {
			t.Fatal(b, err)
		}
	}
	if _, _, err := l.Set(Breakpoint{ID: -1, Addr: code + 100}); err == nil || !strings.Contains(err.Error(), "32") {
		t.Error(err)
	}
	if b, replaced, err := l.Set(Breakpoint{ID: -1, Addr: code + 5, Passes: 9}); err != nil || !replaced || b.ID != 5 {
		t.Error(b, replaced, err)
	}
	if err := r.e.Go(r.ctx, GoOpt{Until: []uint64{code + 100}}); err == nil || !r.e.Halted() {
		t.Error("33 breakpoints", err)
	}
	r.must(l.Enable(3, false))
	if _, _, err := l.Set(Breakpoint{ID: -1, Addr: code + 100}); err != nil {
		t.Error(err)
	}
	if err := l.Enable(3, true); err == nil {
		t.Error("enabled the 33rd")
	}
	for i := range 5 {
		_, _, err := l.Set(Breakpoint{ID: -1, Kind: Processor, Access: arch.HWWrite, Len: 4, Addr: code + 8*uint64(i)})
		if (err != nil) != (i == 4) {
			t.Errorf("processor breakpoint %d: %v", i, err)
		}
	}
	if _, _, err := l.Set(Breakpoint{ID: 40, Kind: Processor, Access: arch.HWWrite, Len: 4, Addr: code + 2}); err == nil {
		t.Error("misaligned")
	}
	if !l.Clear(0) || l.Clear(0) {
		t.Error("clear")
	}
	if err := l.Enable(77, true); err == nil {
		t.Error("enable 77")
	}
}

func TestProcessorBreakpoint(t *testing.T) {
	r := newRig(t, 2)
	r.broken()
	for _, id := range []int{4, 7} {
		_, _, err := r.e.Breakpoints().Set(Breakpoint{ID: id, Kind: Processor, Access: arch.HWAccess, Len: 8, Addr: 0xFFFFF80319D00000 + uint64(id)*8})
		r.must(err)
	}
	hit := stepped(code)
	hit.Dr6 = 0xFFFF0FF2
	hit.Processor = 1
	r.script(hit)
	r.must(r.e.Go(r.ctx, GoOpt{}))
	s := r.wait()
	if s.Headline != "Breakpoint 7 hit" || s.Processor != 1 {
		t.Errorf("%q", s.Headline)
	}
	res, _ := r.f.LastResume()
	if !res.Hardware[0].Enabled || res.Hardware[1].Len != 8 || res.Hardware[1].Kind != arch.HWAccess || res.Hardware[2].Enabled {
		t.Errorf("%+v", res.Hardware)
	}
	// ga
	r.script(func() target.Stop { s := stepped(code + 8); s.Dr6 = 0xFFFF0FF4; return s }())
	r.must(r.e.Go(r.ctx, GoOpt{Until: []uint64{code + 8}, UntilHW: true}))
	if s := r.wait(); s.Reason != ReasonStep || s.Headline != "" || s.Description != "Hit temporary breakpoint" {
		t.Errorf("%v %q %q", s.Reason, s.Headline, s.Description)
	}
}

// An execute register at the program counter is stepped off.
func TestExecuteRegisterAtPC(t *testing.T) {
	r := newRig(t, 1)
	r.parked()
	_, _, err := r.e.Breakpoints().Set(Breakpoint{ID: 0, Kind: Processor, Access: arch.HWExecute, Addr: code})
	r.must(err)
	hit := func(pc uint64) target.Stop {
		s := stepped(pc)
		s.Dr6 = 0xFFFF0FF1
		return s
	}
	r.script(hit(code), stepped(code+2), hit(code), stepped(code+2))
	r.must(r.e.Go(r.ctx, GoOpt{}))
	r.wait()
	r.must(r.e.Go(r.ctx, GoOpt{}))
	if s := r.wait(); s.Headline != "Breakpoint 0 hit" {
		t.Errorf("%q", s.Headline)
	}
	r.must(r.e.Step(r.ctx, StepOpt{}))
	if s := r.wait(); s.Reason != ReasonStep || s.PC != code+2 {
		t.Errorf("%v at %x", s.Reason, s.PC)
	}
	var got []string
	for _, res := range r.f.Resumes {
		got = append(got, fmt.Sprint(res.Mode, res.Hardware[0].Enabled))
	}
	if fmt.Sprint(got) != fmt.Sprint([]string{"0 true", "1 false", "0 true", "1 false"}) {
		t.Errorf("resumes %v", got)
	}
}

// Once the context was written, the far side no longer passes a coded
// breakpoint by itself.
func TestGoAfterSetRegister(t *testing.T) {
	r := newRig(t, 1)
	r.broken()
	r.must(r.e.SetRegister(r.ctx, "rax", arch.Value{Lo: 5}))
	r.must(r.e.Go(r.ctx, GoOpt{}))
	if pc := r.f.Arch.PC(r.f.Context[0]); pc != enginetest.Break+1 {
		t.Errorf("pc %x", pc)
	}
	r = newRig(t, 1)
	r.broken()
	from := uint64(code)
	r.must(r.e.Go(r.ctx, GoOpt{From: &from}))
	if pc := r.f.Arch.PC(r.f.Context[0]); pc != code {
		t.Errorf("pc %x", pc)
	}
}

// A break-in that meets a stop which would be passed is answered with it.
func TestBreakInAtPassedStop(t *testing.T) {
	r := newRig(t, 1)
	r.broken()
	_, _, err := r.e.Breakpoints().Set(Breakpoint{ID: 0, Addr: code, Passes: 1 << 30})
	r.must(err)
	n := 0
	r.f.OnResume = func(f *enginetest.Fake, _ target.Resume) {
		if n++; n == 50 {
			r.e.mu.Lock()
			r.e.userBreak = true // as BreakIn does, when the target says that it is halted
			r.e.mu.Unlock()
		}
		f.Stop(at(code))
	}
	r.must(r.e.Go(r.ctx, GoOpt{}))
	if s := r.wait(); s.Reason != ReasonBreakIn || n != 50 {
		t.Errorf("%v after %d", s.Reason, n)
	}
}

func TestInsertError(t *testing.T) {
	r := newRig(t, 1)
	r.broken()
	r.f.FailInsert[code] = true
	_, _, err := r.e.Breakpoints().Set(Breakpoint{ID: 3, Addr: code})
	r.must(err)
	err = r.e.Go(r.ctx, GoOpt{})
	var ie *InsertError
	if !errors.As(err, &ie) || len(ie.IDs) != 1 || ie.IDs[0] != 3 || !strings.Contains(err.Error(), "Unable to insert breakpoint 3 at fffff803`19e4da60") {
		t.Fatalf("%v", err)
	}
	if !r.e.Halted() {
		t.Error("not halted after a failed insert")
	}
	if s := r.wait(); s.Reason != ReasonBreakIn {
		t.Error("the stop was lost")
	}
	// In a silent resume it becomes a stop.
	r.must(r.e.Breakpoints().Enable(3, false))
	_, _, err = r.e.Breakpoints().Set(Breakpoint{ID: 4, Addr: code + 1, Passes: 5})
	r.must(err)
	r.f.OnResume = func(f *enginetest.Fake, _ target.Resume) {
		f.Lock()
		f.FailInsert[code+1] = true
		f.Unlock()
		f.Stop(at(code + 1))
	}
	r.must(r.e.Go(r.ctx, GoOpt{}))
	if s := r.wait(); s.Reason != ReasonInsert || !strings.Contains(s.Headline, "breakpoint 4") {
		t.Errorf("%v %q", s.Reason, s.Headline)
	}
}

func TestStep(t *testing.T) {
	r := newRig(t, 1)
	r.parked()
	r.script(stepped(code))
	r.must(r.e.Step(r.ctx, StepOpt{}))
	if s := r.wait(); s.Reason != ReasonStep || s.Headline != "" || s.PC != code {
		t.Errorf("%+v", s)
	}
	if res, _ := r.f.LastResume(); res.Mode != target.Step {
		t.Error("mode")
	}
	if err := r.e.Step(r.ctx, StepOpt{}); err != nil {
		t.Error(err)
	}
	if _, err := r.e.Read(r.ctx, Virtual, 0, 1); !errors.Is(err, ErrRunning) {
		t.Error("read while running", err)
	}
	if err := r.e.Step(r.ctx, StepOpt{}); !errors.Is(err, ErrRunning) {
		t.Error("step while running", err)
	}
}

// put writes code where the target is parked and returns its address.
func (r *rig) put(hex ...byte) uint64 {
	r.f.Lock()
	defer r.f.Unlock()
	r.f.Write(enginetest.Break, append([]byte{0xCC}, hex...))
	return enginetest.Break + 1
}

func TestStepOver(t *testing.T) {
	r := newRig(t, 2)
	pc := r.put(0xE8, 0x10, 0, 0, 0, 0xF3, 0xA4, 0x90, 0xC3) // call; rep movsb; nop; ret
	r.parked()
	// Another thread and a deeper frame come by first.
	other, deep, mine := at(pc+5), at(pc+5), at(pc+5)
	other.Thread, other.Processor = 0x7000, 1
	n := 0
	r.f.OnResume = func(f *enginetest.Fake, res target.Resume) {
		n++
		if len(res.Breakpoints) != 1 || res.Breakpoints[0] != pc+5 || res.Mode != target.Go {
			t.Errorf("resume %d: %+v", n, res)
		}
		f.Lock()
		sp := uint64(enginetest.Stack)
		if n == 2 {
			sp -= 0x100
		}
		reg, _ := f.Arch.Reg("rsp")
		reg.Set(arch.State{Context: f.Context[0]}, arch.Value{Lo: sp})
		f.Unlock()
		f.Stop([]target.Stop{other, deep, mine}[n-1])
	}
	before := r.f.Count()
	r.must(r.e.Step(r.ctx, StepOpt{Over: true}))
	if s := r.wait(); s.Reason != ReasonStep || s.PC != pc+5 || n != 3 {
		t.Errorf("%v at %x after %d", s.Reason, s.PC, n)
	}
	if r.f.Count() != before {
		t.Errorf("%d exchanges", r.f.Count()-before)
	}
	// A repeated string instruction likewise, without the stack.
	r.script(at(pc + 7))
	r.must(r.e.Step(r.ctx, StepOpt{Over: true}))
	if s := r.wait(); s.Reason != ReasonStep || s.PC != pc+7 {
		t.Errorf("%v at %x", s.Reason, s.PC)
	}
	// Anything else is a plain step.
	r.script(stepped(pc + 8))
	r.must(r.e.Step(r.ctx, StepOpt{Over: true}))
	r.wait()
	if res, _ := r.f.LastResume(); res.Mode != target.Step || len(res.Breakpoints) != 0 {
		t.Errorf("%+v", res)
	}
}

// A breakpoint inside what is stepped over stops there and ends the step.
func TestStepOverHitsBreakpoint(t *testing.T) {
	r := newRig(t, 1)
	pc := r.put(0xE8, 0x10, 0, 0, 0, 0x90)
	r.parked()
	for _, b := range []Breakpoint{{ID: 1, Addr: code}, {ID: 2, Addr: code + 1, Passes: 2}} {
		_, _, err := r.e.Breakpoints().Set(b)
		r.must(err)
	}
	r.script(at(code+1), at(code))
	r.must(r.e.Step(r.ctx, StepOpt{Over: true}))
	if s := r.wait(); s.Reason != ReasonBreakpoint || s.Headline != "Breakpoint 1 hit" {
		t.Errorf("%v %q", s.Reason, s.Headline)
	}
	if b, _ := r.e.Breakpoints().Get(2); b.PassesLeft != 2 {
		t.Errorf("a step counted: %d left", b.PassesLeft)
	}
	r.script()
	r.must(r.e.Go(r.ctx, GoOpt{}))
	if res, _ := r.f.LastResume(); len(res.Breakpoints) != 2 {
		t.Errorf("%x still holds %x", res.Breakpoints, pc+5)
	}
}

func TestStepToReturn(t *testing.T) {
	r := newRig(t, 1)
	pc := r.put(0x90, 0xE8, 0x10, 0, 0, 0, 0x90, 0xC3)
	r.parked()
	r.script(at(pc + 7))
	r.must(r.e.Step(r.ctx, StepOpt{Over: true, Until: StepToReturn}))
	if s := r.wait(); s.Reason != ReasonStep || s.PC != pc+7 || s.Steps != 3 {
		t.Errorf("%v at %x, %d steps", s.Reason, s.PC, s.Steps)
	}
	if res, n := r.f.LastResume(); n != 1 || res.Mode != target.Go || len(res.Breakpoints) != 1 || res.Breakpoints[0] != pc+7 {
		t.Errorf("%d resumes, the last %+v", n, res)
	}
}

// An interrupted step leaves the trap flag in its thread: one more single step
// is passed over, a second one is shown.
func TestStrayStep(t *testing.T) {
	r := newRig(t, 2)
	r.put(0x90, 0x90)
	r.parked()
	_, _, err := r.e.Breakpoints().Set(Breakpoint{ID: 0, Addr: code})
	r.must(err)
	other := at(code)
	other.Processor, other.Thread = 1, 0x7000
	r.script(other, stepped(code+2), stepped(code+3))
	r.must(r.e.Step(r.ctx, StepOpt{}))
	if s := r.wait(); s.Reason != ReasonBreakpoint {
		t.Fatal(s.Reason)
	}
	r.must(r.e.Go(r.ctx, GoOpt{}))
	if s := r.wait(); s.Reason != ReasonException || s.PC != code+3 {
		t.Errorf("%v at %x", s.Reason, s.PC)
	}
}

func TestGoUntil(t *testing.T) {
	r := newRig(t, 1)
	r.broken()
	r.script(at(code + 4))
	from := uint64(code)
	r.must(r.e.Go(r.ctx, GoOpt{From: &from, Until: []uint64{code + 4}, Status: kdproto.DbgExceptionNotHandled}))
	if s := r.wait(); s.Reason != ReasonStep || s.PC != code+4 || s.Description != "Hit temporary breakpoint" {
		t.Errorf("%v %q", s.Reason, s.Description)
	}
	res, _ := r.f.LastResume()
	if res.Status != kdproto.DbgExceptionNotHandled || len(res.Breakpoints) != 1 {
		t.Errorf("%+v", res)
	}
	// The temporary one is gone.
	r.must(r.e.Go(r.ctx, GoOpt{}))
	if res, _ := r.f.LastResume(); len(res.Breakpoints) != 0 {
		t.Errorf("%+v", res)
	}
}

// Exceptions that are passed over, and what they are answered; codes that have no
// name; what is reset.
func TestFilters(t *testing.T) {
	const denied kdproto.Status = 0xC0000022
	for _, c := range []struct {
		name    string
		f       Filter
		chances []bool
		told    int
		answers []kdproto.Status // to those that do not stop
		stops   bool             // at the last one
	}{
		{"told at both chances", Filter{Code: denied, Action: FilterTell}, []bool{true, false}, 2, []kdproto.Status{kdproto.DbgExceptionNotHandled, kdproto.DbgExceptionNotHandled}, false},
		{"ignored", Filter{Code: denied, Action: FilterIgnore}, []bool{true, false}, 0, []kdproto.Status{kdproto.DbgExceptionNotHandled, kdproto.DbgExceptionNotHandled}, false},
		{"handled", Filter{Code: denied, Action: FilterIgnore, Handled: true}, []bool{true}, 0, []kdproto.Status{kdproto.DbgExceptionHandled}, false},
		{"second chance, handled", Filter{Code: denied, Action: FilterSecond, Handled: true}, []bool{true, false}, 1, []kdproto.Status{kdproto.DbgExceptionHandled}, true},
		{"another code", Filter{Code: 0xC0000023, Action: FilterIgnore}, []bool{true, false}, 1, []kdproto.Status{kdproto.DbgExceptionNotHandled}, true},
		{"others", Filter{Name: "*", Action: FilterTell}, []bool{true, false}, 2, []kdproto.Status{kdproto.DbgExceptionNotHandled, kdproto.DbgExceptionNotHandled}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 1)
			r.broken()
			r.must(r.e.SetFilter(r.ctx, c.f))
			var script []target.Stop
			for _, first := range c.chances {
				script = append(script, target.Stop{PC: code, Exception: enginetest.Exception(denied, first)})
			}
			if !c.stops {
				script = append(script, target.Stop{PC: code, Exception: enginetest.Exception(kdproto.StatusAssertionFailure, true)})
			}
			r.script(script...)
			r.must(r.e.Go(r.ctx, GoOpt{}))
			s := r.wait()
			if stopped := s.Exception.Code == denied; stopped != c.stops || stopped && s.Exception.FirstChance {
				t.Errorf("it stopped for %s", s.Headline)
			}
			if got := len(r.sink.texts(target.EventNotice)); got != c.told {
				t.Errorf("%d notices, want %d", got, c.told)
			}
			var answers []kdproto.Status
			for _, x := range r.f.Resumes[1:] {
				answers = append(answers, x.Status)
			}
			if !slices.Equal(answers, c.answers) {
				t.Errorf("answered %x, want %x", answers, c.answers)
			}
		})
	}
}

func TestExceptions(t *testing.T) {
	r := newRig(t, 1)
	r.broken()
	av := func(first bool) target.Stop {
		return target.Stop{PC: code, Exception: enginetest.Exception(0xC0000005, first)}
	}
	r.script(av(true), av(false))
	r.must(r.e.Go(r.ctx, GoOpt{}))
	s := r.wait()
	if s.Headline != "Access violation - code c0000005 (!!! second chance !!!)" || s.Reason != ReasonException {
		t.Errorf("%q", s.Headline)
	}
	if res, n := r.f.LastResume(); n != 2 || res.Status != kdproto.DbgExceptionNotHandled {
		t.Errorf("%d %+v", n, res)
	}
	if n := r.sink.texts(target.EventNotice); len(n) != 1 || n[0] != "Access violation - code c0000005 (first chance) at nt+0x24da60" {
		t.Errorf("%q", n)
	}
	r.must(r.e.SetFilter(r.ctx, Filter{Name: "av", Command: "r", Second: "k"}))
	r.must(r.e.SetFilter(r.ctx, Filter{Name: "*"}))
	r.script(av(true))
	r.must(r.e.Go(r.ctx, GoOpt{}))
	if s := r.wait(); s.Headline != "Access violation - code c0000005 (first chance)" || s.Commands != "r" {
		t.Errorf("%q, commands %q", s.Headline, s.Commands)
	}
	// A coded breakpoint, a stray step, an unknown code.
	for _, c := range []struct {
		code kdproto.Status
		want string
	}{
		{0x80000003, "Break instruction exception - code 80000003 (first chance)"},
		{0x80000004, "Single step exception - code 80000004 (first chance)"},
		{0xC0000420, "Assertion failure - code c0000420 (first chance)"},
		{0xDEADBEEF, "Unknown exception - code deadbeef (first chance)"},
	} {
		r.script(target.Stop{PC: code, Dr6: 0xFFFF4FF0, Exception: enginetest.Exception(c.code, true)})
		r.must(r.e.Go(r.ctx, GoOpt{}))
		if s := r.wait(); s.Headline != c.want {
			t.Errorf("%q, want %q", s.Headline, c.want)
		}
	}
}

func TestBugCheck(t *testing.T) {
	r := newRig(t, 1)
	r.broken()
	put := func(status byte) {
		r.f.Lock()
		r.f.Write(enginetest.BugData, []byte{0xD1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2})
		reg, _ := r.f.Arch.Reg("rcx")
		reg.Set(arch.State{Context: r.f.Context[0]}, arch.Value{Lo: uint64(status)})
		r.f.Unlock()
	}
	for i, status := range []byte{3, 4, 4} {
		r.f.OnResume = func(f *enginetest.Fake, _ target.Resume) {
			put(status)
			f.Stop(target.Stop{PC: enginetest.Break, Exception: enginetest.Exception(kdproto.StatusBreakpoint, true)})
		}
		r.must(r.e.Go(r.ctx, GoOpt{}))
		s := r.wait()
		if s.Reason != ReasonBugCheck || s.BugCheck.Code != 0xD1 || s.BugCheck.Args != [4]uint64{1, 2} || s.BugCheck.Status != uint64(status) || s.BugCheck.Repeat != (i == 2) {
			t.Errorf("%d: %v %+v", i, s.Reason, s.BugCheck)
		}
	}
}

func TestModules(t *testing.T) {
	r := newRig(t, 1)
	var mods []enginetest.Module
	for i := range 200 {
		mods = append(mods, enginetest.Module{Base: 0xFFFFF80320000000 + uint64(i)*0x10000, Size: 0x8000, Path: fmt.Sprintf(`\SystemRoot\System32\drivers\drv%d.sys`, i), Name: fmt.Sprintf("drv%d.sys", i)})
	}
	mods[0] = enginetest.Module{Base: enginetest.KernBase, Size: enginetest.KernSize, Path: `\SystemRoot\system32\ntkrnlmp.exe`, Name: "ntkrnlmp.exe"}
	r.f.Modules(mods...)
	// Two that are gone.
	array := make([]byte, 50*0x28)
	for i, n := range []string{"dump_a.sys", "dump_b.sys"} {
		e := array[i*0x28:]
		w := make([]byte, 0, 32)
		for _, c := range n {
			w = append(w, byte(c), 0)
		}
		le.PutUint16(e, uint16(len(w)))
		le.PutUint64(e[8:], 0xFFFF800000002000+uint64(i)*64)
		le.PutUint64(e[0x10:], 0xFFFFF80330000000)
		le.PutUint64(e[0x18:], 0xFFFFF80330001000)
		le.PutUint64(e[0x20:], 132000000000000000+uint64(i))
		r.f.Write(0xFFFF800000002000+uint64(i)*64, w)
	}
	r.f.Write(0xFFFF800000000000, array)
	r.f.Write(enginetest.Unloaded, le.AppendUint64(nil, 0xFFFF800000000000))
	r.parked()
	n := r.f.Count()
	got, err := r.e.Modules(r.ctx)
	r.must(err)
	if len(got) != 200 || r.f.Count() != n+1 {
		t.Fatalf("%d modules in %d exchanges", len(got), r.f.Count()-n)
	}
	if got[0].Name != "nt" || got[0].ImageName != "ntkrnlmp.exe" || got[5].Name != "drv5" {
		t.Errorf("%+v", got[0])
	}
	if u := r.e.UnloadedModules(); len(u) != 2 || u[0].Name != "dump_b.sys" || u[0].End != 0xFFFFF80330001000 {
		t.Errorf("%+v", u)
	}
	r.must(r.e.Headers(r.ctx))
	if r.f.Count() != n+2 {
		t.Errorf("%d exchanges with headers", r.f.Count()-n)
	}
	got, _ = r.e.Modules(r.ctx)
	if got[0].TimeDateStamp != 0x5DBC0E10 || !got[0].Header || got[1].Header {
		t.Errorf("%+v", got[0])
	}
	if v, err := r.e.Lookup(r.ctx, "DRV7"); err != nil || v != got[7].Base {
		t.Errorf("%x %v", v, err)
	}
	if _, err := r.e.Lookup(r.ctx, "nope"); !errors.Is(err, ErrNoName) {
		t.Error(err)
	}
	// Events keep it.
	r.f.Send(target.Event{Kind: target.EventModule, Module: &target.Module{Base: got[7].Base, Unload: true}})
	r.f.Send(target.Event{Kind: target.EventModule, Module: &target.Module{Base: 0xFFFFF80340000000, Size: 0x3000, Path: `\SystemRoot\new-1.sys`}})
	r.script(stepped(code))
	r.must(r.e.Step(r.ctx, StepOpt{}))
	r.wait()
	got, _ = r.e.Modules(r.ctx)
	if len(got) != 200 || got[199].Name != "new_1" || r.f.Count() != n+2 {
		t.Errorf("%d modules, last %+v", len(got), got[len(got)-1])
	}
	if r.e.Symbolize(0xFFFFF80340000010) != "new_1+0x10" {
		t.Error("name of a new module")
	}
}

func TestModulesEarly(t *testing.T) {
	r := newRig(t, 1, func(f *enginetest.Fake, _ *Options) { f.Modules() })
	r.f.Send(target.Event{Kind: target.EventModule, Module: &target.Module{Base: enginetest.KernBase, Size: 0x1000, Path: `multi(0)disk(0)\reactos\system32\ntoskrnl.exe`}})
	r.broken()
	m, err := r.e.Modules(r.ctx)
	if err != nil || len(m) != 1 || m[0].Name != "nt" || m[0].ImageName != "ntoskrnl.exe" {
		t.Errorf("%+v %v", m, err)
	}
}

func TestReboot(t *testing.T) {
	r := newRig(t, 1)
	r.broken()
	_, err := r.e.Modules(r.ctx)
	r.must(err)
	set := func(a uint64) {
		_, _, err := r.e.Breakpoints().Set(Breakpoint{ID: -1, Addr: a})
		r.must(err)
	}
	set(code)                  // nt
	set(0xFFFFF80320000040)    // tcpip
	set(0xFFFF_9000_0000_1000) // nowhere
	asked := make(chan bool, 9)
	r.f.OnBreak = func(*enginetest.Fake) { asked <- true }
	r.must(r.e.Reboot(r.ctx))
	if r.e.Halted() {
		t.Error("halted after .reboot")
	}
	r.f.Send(target.Event{Kind: target.EventReloaded})
	// The kernel comes back elsewhere.
	r.f.Lock()
	r.f.Ver.KernBase = enginetest.KernBase + 0x10000000
	r.f.Data = nil
	r.f.Unlock()
	r.f.Connect()
	// It stops where it reports itself, is let go with what is known, and waits
	// for tcpip.
	resumed := make(chan target.Resume, 4)
	r.f.OnResume = func(f *enginetest.Fake, res target.Resume) { resumed <- res }
	r.f.Stop(target.Stop{Reason: target.StopLoad, PC: 0xFFFFF80329E4CA60, Module: &target.Module{Base: enginetest.KernBase + 0x10000000, Size: enginetest.KernSize, Path: "ntoskrnl.exe"}})
	res := <-resumed
	if fmt.Sprintf("%x", res.Breakpoints) != fmt.Sprintf("%x", []uint64{code + 0x10000000, 0xFFFF900000001000}) {
		t.Errorf("after the reboot %x", res.Breakpoints)
	}
	r.f.Stop(target.Stop{Reason: target.StopLoad, Module: &target.Module{Base: 0xFFFFF80350000000, Size: 0x20000, Path: `\SystemRoot\System32\drivers\tcpip.sys`}})
	res = <-resumed
	if len(res.Breakpoints) != 3 || res.Breakpoints[1] != 0xFFFFF80350000040 || res.Status != kdproto.DbgContinue {
		t.Errorf("after tcpip %x %v", res.Breakpoints, res.Status)
	}
	if n := r.sink.texts(target.EventNotice); len(n) != 5 || !strings.Contains(n[4], "Breakpoint 1 is set again at fffff803`50000040 (tcpip+0x40)") {
		t.Errorf("%q", n)
	}
	r.f.Lock()
	var cfg []target.Config
	for _, c := range r.f.Controls {
		if c.Op == target.ControlConfigure {
			cfg = append(cfg, c.Config)
		}
	}
	r.f.Unlock()
	first := target.Config{BreakOnFirstLoad: true}
	all, tcpip := first, first
	all.StopOnLoad, tcpip.StopOnLoad = "*", "tcpip"
	if want := []target.Config{first, all, tcpip, first}; fmt.Sprint(cfg) != fmt.Sprint(want) || len(asked) != 0 {
		t.Errorf("configured %+v", cfg)
	}
	if r.e.Halted() {
		t.Error("halted")
	}
}

// TestRebootStops: the stop at the kernel's load, which places breakpoints, takes
// none away: not the kernel's own, not one that the user waits for.
func TestRebootStops(t *testing.T) {
	for _, c := range []struct {
		name     string
		config   target.Config
		disabled bool
		user     bool
	}{{name: "kernel"}, {name: "disabled", disabled: true}, {name: "initial break", config: target.Config{Break: true}}, {name: "user", user: true}} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 1, func(_ *enginetest.Fake, o *Options) { o.Config = c.config })
			r.broken()
			_, err := r.e.Modules(r.ctx)
			r.must(err)
			bp, _, err := r.e.Breakpoints().Set(Breakpoint{ID: -1, Addr: code})
			r.must(err)
			if c.disabled {
				r.must(r.e.Breakpoints().Enable(bp.ID, false))
			}
			breaks := 0
			r.f.OnBreak = func(*enginetest.Fake) { breaks++ }
			r.must(r.e.Reboot(r.ctx))
			if c.user {
				r.must(r.e.BreakIn(r.ctx))
			}
			resumed := make(chan target.Resume, 4)
			r.f.OnResume = func(f *enginetest.Fake, res target.Resume) { resumed <- res }
			r.f.Send(target.Event{Kind: target.EventReloaded})
			r.f.Connect()
			if !c.disabled {
				r.f.Stop(target.Stop{Reason: target.StopLoad, Module: &target.Module{Base: enginetest.KernBase, Size: enginetest.KernSize, Path: "ntoskrnl.exe"}})
				if res := <-resumed; len(res.Breakpoints) != 1 || res.BreakIn != (c.user || c.config.Break) {
					t.Errorf("let go with %+v", res)
				}
			}
			// The kernel's boot breakpoint, or the stop that was asked for.
			r.f.Stop(target.Stop{PC: enginetest.Break, Asked: c.user || c.config.Break, Exception: enginetest.Exception(kdproto.StatusBreakpoint, true)})
			if s := r.wait(); s.PC != enginetest.Break {
				t.Errorf("stopped at %x", s.PC)
			}
			r.f.Lock()
			want := 0
			if c.user {
				want = 1
			}
			if breaks != want {
				t.Errorf("%d break-ins, want %d", breaks, want)
			}
			r.f.Unlock()
			if n := r.sink.texts(target.EventNotice); len(n) != 2 {
				t.Errorf("%q", n)
			}
		})
	}
}

func TestLostAndClosed(t *testing.T) {
	r := newRig(t, 1)
	r.broken()
	r.f.Send(target.Event{Kind: target.EventLost, Text: "gone"})
	for r.e.Halted() {
		time.Sleep(time.Millisecond)
	}
	o, err := r.e.Wait(r.ctx)
	if err != nil || o.Kind != Lost || o.Text != "gone" {
		t.Fatal(o, err)
	}
	ctx, cancel := context.WithCancel(r.ctx)
	cancel()
	if _, err := r.e.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Error("a loss is told once", err)
	}
	r.f.Connect()
	r.f.Stop(target.Stop{Again: true, PC: code, Exception: enginetest.Exception(kdproto.StatusBreakpoint, true)})
	if s := r.wait(); s.Reason != ReasonAgain {
		t.Error(s.Reason)
	}
	r.must(r.e.Leave(r.ctx, target.LeaveRunning))
	for !r.e.IsClosed() {
		time.Sleep(time.Millisecond)
	}
	if o, err := r.e.Wait(r.ctx); err != nil || o.Kind != Closed {
		t.Error(o, err)
	}
	if _, err := r.e.Do(r.ctx); !errors.Is(err, target.ErrClosed) {
		t.Error(err)
	}
}

func TestFirstLoad(t *testing.T) {
	r := newRig(t, 1, func(_ *enginetest.Fake, o *Options) { o.Config.BreakOnFirstLoad = true; o.Config.StopOnLoad = "foo*" })
	r.f.Send(target.Event{Kind: target.EventReloaded})
	base := uint64(enginetest.KernBase)
	load := func(p string) target.Stop {
		base += 0x1000000
		return target.Stop{Reason: target.StopLoad, PC: code, Module: &target.Module{Base: base - 0x1000000, Size: 0x1000, Path: p}}
	}
	r.f.Stop(load(`\x\ntoskrnl.exe`))
	s := r.wait()
	if s.Reason != ReasonLoad || s.Headline != "ModLoad: fffff803`19c00000 fffff803`19c01000   ntoskrnl.exe" {
		t.Errorf("%v %q", s.Reason, s.Headline)
	}
	r.script(load(`\x\bar.sys`), load(`\x\Foo1.sys`))
	r.must(r.e.Go(r.ctx, GoOpt{}))
	if s := r.wait(); !strings.Contains(s.Headline, "Foo1.sys") {
		t.Errorf("%q", s.Headline)
	}
	if res, n := r.f.LastResume(); n != 2 || res.Status != kdproto.DbgContinue {
		t.Error(n, res)
	}
}

func TestCommandString(t *testing.T) {
	r := newRig(t, 1)
	r.broken()
	r.script(target.Stop{Reason: target.StopCommand, Command: "!evil\x1b[2J", PC: code}, stepped(code))
	r.must(r.e.Go(r.ctx, GoOpt{}))
	r.wait()
	if n := r.sink.texts(target.EventNotice); len(n) != 1 || strings.Contains(n[0], "\x1b") || !strings.Contains(n[0], "!evil") {
		t.Errorf("%q", n)
	}
}

func TestFileTime(t *testing.T) {
	if !fileTime(0).IsZero() || !fileTime(^uint64(0)).IsZero() {
		t.Error("nonsense became a time")
	}
	if got := fileTime(116444736000000000 + 15e7); !got.Equal(time.Unix(15, 0)) {
		t.Error(got)
	}
}

// Whatever a target says in its lists, the engine keeps its feet.
func FuzzModules(f *testing.F) {
	f.Add([]byte{1, 2, 3}, []byte(`a\b.sys`))
	f.Fuzz(func(t *testing.T, raw, path []byte) {
		e := New(enginetest.New(1), Options{})
		e.arch, _ = arch.For(kdproto.MachineAMD64)
		nodes, _ := target.DecodeNodes(raw)
		var replies []target.Reply
		for range nodes {
			replies = append(replies, target.Reply{Runs: []target.Run{{Data: raw}}})
		}
		e.unloadedAnswer(nil, replies, 8, unloaded64)
		e.noteHeader(0, raw)
		for i := range min(len(raw), 8) {
			e.mods.event(nil, &target.Module{Base: uint64(raw[i]), Size: uint32(len(path)), Path: string(path), Unload: i%3 == 2})
		}
		e.Symbolize(uint64(len(raw)))
		text16(raw)
		matchModule(string(path), "a", string(raw))
	})
}
