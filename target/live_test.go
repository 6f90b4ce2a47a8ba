package target_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"openkd/arch"
	"openkd/kdproto"
	"openkd/link"
	"openkd/link/kdcom"
	"openkd/target"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// halted attaches to a running puppet and breaks in.
func halted(t *testing.T) *bench {
	t.Helper()
	p := newPuppet(t, nil)
	p.start(false)
	b := p.attach(target.Config{Break: true}, 0)
	e := b.wait(target.EventHalted)
	if !e.Stop.Asked || e.Stop.PC != breakPC {
		t.Fatalf("stop %s", brief(e.Stop))
	}
	return b
}

func TestAttachRunning(t *testing.T) {
	p := newPuppet(t, nil)
	p.start(false)
	b := p.attach(target.Config{Break: true}, 0)
	c := b.wait(target.EventConnected)
	if c.Version.KernBase != kernBase || len(c.DataBlock) != 0x340 {
		t.Errorf("connected %+v with a block of %d bytes", c.Version, len(c.DataBlock))
	}
	s := b.wait(target.EventHalted).Stop
	if !s.Asked || s.Again || s.PC != breakPC || s.Processors != 2 || s.Exception.Code != kdproto.StatusBreakpoint {
		t.Errorf("stop %s", brief(s))
	}
	// The bundle holds what r, u and db at the program counter ask.
	if x64.PC(s.Bundle.Context) != breakPC || len(s.Bundle.Special) != 0xD8 {
		t.Errorf("bundle with PC %x and %d bytes of special registers", x64.PC(s.Bundle.Context), len(s.Bundle.Special))
	}
	covered := func(addr uint64, n int) bool {
		return slices.ContainsFunc(s.Bundle.Memory, func(m target.Memory) bool {
			return addr >= m.Addr && addr+uint64(n) <= m.Addr+uint64(len(m.Data)) &&
				bytes.Equal(m.Data[addr-m.Addr:][:n], p.mem[addr-kernBase:][:n])
		})
	}
	if !covered(breakPC, 128) || !covered(stackTop, 64) {
		t.Error("the bundle lacks code or stack, or has it wrong")
	}
	if err := b.live.Close(t.Context(), target.LeaveRunning); err != nil {
		t.Fatal(err)
	}
	if e := b.wait(target.EventClosed); !strings.Contains(e.Text, "runs") {
		t.Errorf("closed: %q", e.Text)
	}
	if _, err := b.live.Next(t.Context()); !errors.Is(err, target.ErrClosed) {
		t.Errorf("after the last event: %v", err)
	}
}

func dr7(special []byte) uint64 {
	r, _ := x64.Reg("dr7")
	v, _ := r.Get(arch.State{Special: special})
	return v.Lo
}

// TestAttachMatrix: a second debugger finds the target in every state that a
// first one can leave it in.
func TestAttachMatrix(t *testing.T) {
	for _, c := range []struct {
		name  string
		leave func(b *bench) // what the first debugger does before it dies
		cfg   target.Config
		check func(t *testing.T, s *target.Stop)
	}{
		{"killed while halted", func(b *bench) {}, target.Config{}, func(t *testing.T, s *target.Stop) {
			if !s.Again || s.PC != breakPC {
				t.Errorf("stop %s", brief(s))
			}
		}},
		{"killed while halted, break asked", func(b *bench) {}, target.Config{Break: true}, func(t *testing.T, s *target.Stop) {
			if s.PC != breakPC {
				t.Errorf("stop %s", brief(s))
			}
		}},
		{"killed with a request in flight", func(b *bench) {
			killed := make(chan struct{})
			b.puppet.mu.Lock()
			b.puppet.intercept = func(m *kdproto.Manipulate) bool {
				b.puppet.mu.Lock()
				b.puppet.intercept = nil
				b.puppet.mu.Unlock()
				b.kill() // before the reply
				close(killed)
				return false
			}
			b.puppet.mu.Unlock()
			ctx, cancel := context.WithCancel(b.t.Context())
			answered := make(chan struct{})
			go func() {
				defer close(answered)
				target.Collect(ctx, b.live, target.Request{Op: target.OpVersion})
			}()
			<-killed
			cancel()
			<-answered
		}, target.Config{}, func(t *testing.T, s *target.Stop) {
			if s.PC != breakPC {
				t.Errorf("stop %s", brief(s))
			}
		}},
		{"killed while running", func(b *bench) {
			b.resume(target.Resume{Status: kdproto.DbgContinue})
		}, target.Config{Break: true}, func(t *testing.T, s *target.Stop) {
			if s.PC != breakPC {
				t.Errorf("stop %s", brief(s))
			}
		}},
		{"killed with breakpoints in the table", func(b *bench) {
			b.resume(target.Resume{Breakpoints: []uint64{codePC, codePC + 64}})
		}, target.Config{Break: true}, func(t *testing.T, s *target.Stop) {}},
		{"killed with processor breakpoints", func(b *bench) {
			b.resume(target.Resume{Hardware: [4]target.HWBreak{1: {Enabled: true, Addr: codePC + 8, Kind: 1, Len: 4}}})
			b.puppet.mu.Lock()
			defer b.puppet.mu.Unlock()
			for n, sp := range b.puppet.special {
				if dr7(sp)&0xFF == 0 {
					b.t.Errorf("the processor breakpoint was not set on processor %d", n)
				}
			}
		}, target.Config{Break: true}, func(t *testing.T, s *target.Stop) {}},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := newPuppet(t, nil)
			p.start(false)
			first := p.attach(target.Config{Break: true}, 0)
			first.wait(target.EventHalted)
			c.leave(first)
			first.kill()
			second := p.attach(c.cfg, 0)
			s := second.wait(target.EventHalted).Stop
			c.check(t, s)
			if n := p.breakpoints(); n != 0 {
				t.Errorf("%d breakpoints of the dead debugger are left", n)
			}
			p.mu.Lock()
			for n, sp := range p.special {
				if v := dr7(sp); v&0xFF != 0 {
					t.Errorf("processor %d still has the dead debugger's breakpoints, dr7 is %#x", n, v)
				}
			}
			p.mu.Unlock()
			r := second.ask(target.Request{Op: target.OpReadVirtual, Addr: codePC, Len: 8})
			if !bytes.Equal(r[0].Data(), bytes.Repeat([]byte{0x90}, 8)) {
				t.Errorf("code reads % x", r[0].Data())
			}
		})
	}
}

func TestBoot(t *testing.T) {
	p := newPuppet(t, nil)
	b := p.attach(target.Config{Break: true}, 0)
	p.start(true)
	m := b.wait(target.EventModule)
	if m.Module.Path != "ntoskrnl.exe" || m.Module.Base != kernBase {
		t.Errorf("module %+v", m.Module)
	}
	if s := b.wait(target.EventHalted).Stop; s.PC != breakPC || !s.Asked {
		t.Errorf("stop %s", brief(s))
	}
}

func TestBreakOnFirstLoad(t *testing.T) {
	p := newPuppet(t, nil)
	b := p.attach(target.Config{BreakOnFirstLoad: true}, 0)
	p.start(true)
	if s := b.wait(target.EventHalted).Stop; s.Reason != target.StopLoad || s.Module.Path != "ntoskrnl.exe" {
		t.Errorf("stop %s", brief(s))
	}
}

func TestStopOnLoad(t *testing.T) {
	b := halted(t)
	b.live.Control(t.Context(), target.Control{Op: target.ControlConfigure, Config: target.Config{StopOnLoad: "my*"}})
	b.resume(target.Resume{})
	b.order(func(ctx context.Context) {
		b.loadSymbols(ctx, `\SystemRoot\other.sys`, false)
		b.loadSymbols(ctx, `\SystemRoot\MyDriver.sys`, false)
	})
	s := b.wait(target.EventHalted).Stop
	if s.Reason != target.StopLoad || s.Module.Path != `\SystemRoot\MyDriver.sys` {
		t.Errorf("stop %s", brief(s))
	}
}

// TestBreakInBehindLoad: a stop that is asked for with the order to go on from a
// module's load comes, and comes once.
func TestBreakInBehindLoad(t *testing.T) {
	p := newPuppet(t, nil)
	b := p.attach(target.Config{Break: true, BreakOnFirstLoad: true}, 0)
	p.start(true)
	if s := b.wait(target.EventHalted).Stop; s.Reason != target.StopLoad {
		t.Fatalf("stop %s", brief(s))
	}
	b.resume(target.Resume{Breakpoints: []uint64{codePC + 8}, BreakIn: true})
	if s := b.wait(target.EventHalted).Stop; s.PC != breakPC || !s.Asked {
		t.Errorf("stop %s", brief(s))
	}
	if n := b.breakpoints(); n != 1 {
		t.Errorf("%d breakpoints", n)
	}
}

// TestLeaveDead: leaving a halted target that has died meanwhile says so.
func TestLeaveDead(t *testing.T) {
	b := halted(t)
	b.resume(target.Resume{Breakpoints: []uint64{codePC + 8}})
	waitFor(t, func() bool { return b.breakpoints() == 1 })
	b.live.BreakIn(t.Context())
	b.wait(target.EventHalted)
	b.puppet.mu.Lock()
	b.puppet.intercept = func(*kdproto.Manipulate) bool { return true }
	b.puppet.mu.Unlock()
	if err := b.live.Close(t.Context(), target.LeaveRunning); err != nil {
		t.Fatal(err)
	}
	if e := b.wait(target.EventClosed); !strings.Contains(e.Text, "stopped answering") {
		t.Errorf("closed: %q", e.Text)
	}
	b.puppet.mu.Lock()
	b.puppet.intercept = nil
	b.puppet.mu.Unlock()
	// Nobody lets the kernel go any more.
	b.puppet.stop()
}

// TestReboot: a target that starts again is met again, and said to be new.
func TestReboot(t *testing.T) {
	b := halted(t)
	b.resume(target.Resume{Breakpoints: []uint64{codePC + 8}})
	b.order(func(ctx context.Context) {
		b.puppet.mu.Lock()
		b.table = [33]uint64{}
		b.mem[codePC+8-kernBase] = 0x90
		b.puppet.mu.Unlock()
		b.puppet.link.Restart()
		b.loadSymbols(ctx, "ntoskrnl.exe", false)
	})
	b.wait(target.EventReloaded)
	b.wait(target.EventConnected)
	if s := b.wait(target.EventHalted).Stop; !s.Asked {
		t.Errorf("Config.Break holds for every boot; stop %+v", s)
	}
}

// TestShutdown: a target that says that everything is unloaded is said to be
// new, once, also where its next life lies at the same place.
func TestShutdown(t *testing.T) {
	b := halted(t)
	b.resume(target.Resume{})
	b.order(func(ctx context.Context) {
		b.loop(ctx, func() kdproto.StateChange {
			s := b.report(kdproto.StateLoadSymbols)
			s.LoadSymbols = kdproto.LoadSymbols{Base: ^uint64(0), Unload: true}
			return s
		}, true)
		b.loadSymbols(ctx, "ntoskrnl.exe", false)
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	reloaded := 0
	for {
		ev, err := b.live.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		switch ev.Kind {
		case target.EventReloaded:
			reloaded++
		case target.EventConnected:
			if reloaded != 1 {
				t.Errorf("said to be new %d times", reloaded)
			}
			return
		}
	}
}

// TestOddities: what a line does between a request and its reply never gives
// wrong data.
func TestOddities(t *testing.T) {
	want := func(p *puppet) []byte { return p.mem[0x3000:0x3100] }
	for name, odd := range map[string]func(b *bench, m *kdproto.Manipulate) bool{
		"print before the reply": func(b *bench, m *kdproto.Manipulate) bool {
			b.puppet.link.Send(context.Background(), kdproto.TypeDebugIO, kdproto.NewPrint([]byte("hello\n")).Append(nil), true)
			return false
		},
		"file request before the reply": func(b *bench, m *kdproto.Manipulate) bool {
			b.puppet.link.Send(context.Background(), kdproto.TypeFileIO, kdproto.NewFileCreate(`\x.sys`).Append(nil), false)
			for {
				data, r, err := b.puppet.link.Receive(context.Background(), kdproto.TypeFileIO, time.Second)
				if err != nil {
					return true
				}
				if r == kdcomReceived {
					f, err := kdproto.DecodeFileIO(data)
					if err != nil || f.Status != kdproto.StatusNoSuchFile {
						b.t.Errorf("file answer %+v, %v", f, err)
					}
					b.files++
					return false
				}
			}
		},
		"orphan of another request": func(b *bench, m *kdproto.Manipulate) bool {
			o := kdproto.NewRequest(kdproto.APIReadMsr, 0, nil, []byte("wrong"))
			b.puppet.link.Send(context.Background(), kdproto.TypeManipulate, o.Append(nil), false)
			return false
		},
		"no reply at all": func(b *bench, m *kdproto.Manipulate) bool { return true },
	} {
		t.Run(name, func(t *testing.T) {
			b := halted(t)
			b.puppet.mu.Lock()
			b.puppet.intercept = func(m *kdproto.Manipulate) bool {
				b.puppet.mu.Lock()
				b.puppet.intercept = nil
				b.puppet.mu.Unlock()
				return odd(b, m)
			}
			b.puppet.mu.Unlock()
			r := b.ask(target.Request{Op: target.OpReadVirtual, Addr: kernBase + 0x3000, Len: 0x100})
			if r[0].Status.Failed() || !bytes.Equal(r[0].Data(), want(b.puppet)) {
				t.Errorf("status %v, %d bytes, wrong data", r[0].Status, len(r[0].Data()))
			}
		})
	}
}

// TestSilence: a target that never answers again is lost within a bound, and
// found when it comes back.
func TestSilence(t *testing.T) {
	b := halted(t)
	b.puppet.mu.Lock()
	b.puppet.intercept = func(m *kdproto.Manipulate) bool { return m.API == kdproto.APIReadVirtualMemory }
	b.puppet.mu.Unlock()
	_, err := target.Collect(t.Context(), b.live, target.Request{Op: target.OpReadVirtual, Addr: codePC, Len: 8})
	if !errors.Is(err, target.ErrLost) {
		t.Errorf("got %v", err)
	}
	b.wait(target.EventLost)
	b.puppet.mu.Lock()
	b.puppet.intercept = nil
	b.puppet.mu.Unlock()
	if s := b.wait(target.EventHalted).Stop; !s.Again {
		t.Errorf("stop %s", brief(s))
	}
}

func TestLineComesBack(t *testing.T) {
	b := halted(t)
	b.puppet.link.Attach(nil) // closes the old stream
	b.wait(target.EventLost)
	if s := b.wait(target.EventHalted).Stop; !s.Again || s.PC != breakPC {
		t.Errorf("stop %s", brief(s))
	}
}

// TestHoles: what cannot be read is left out, what can is right.
func TestHoles(t *testing.T) {
	b := halted(t)
	r := b.ask(
		target.Request{Op: target.OpReadVirtual, Addr: kernBase, Len: kernSize + 2*page},
		target.Request{Op: target.OpReadVirtual, Addr: hole, Len: 16},
		target.Request{Op: target.OpReadVirtual, Addr: kernBase, Len: 0},
		target.Request{Op: target.OpReadMSR, Addr: 0x10},
	)
	if !r[0].Status.Failed() || len(r[0].Runs) != 1 || !bytes.Equal(r[0].Data(), b.mem) {
		t.Errorf("status %v, runs %d", r[0].Status, len(r[0].Runs))
	}
	if !r[1].Status.Failed() || len(r[1].Runs) != 0 || r[2].Status.Failed() || r[3].Value != 0x1122334455667798 {
		t.Errorf("got %+v", r[1:])
	}
}

// TestBreakpointsAreInvisible: reading never shows them, and reading elsewhere
// costs nothing for them.
func TestBreakpointsAreInvisible(t *testing.T) {
	b := halted(t)
	bps := []uint64{codePC + 16, codePC + 32, codePC + 48}
	b.resume(target.Resume{Breakpoints: bps})
	waitFor(t, func() bool { return b.breakpoints() == 3 })
	b.live.BreakIn(t.Context())
	b.wait(target.EventHalted)
	b.tally()
	b.ask(target.Request{Op: target.OpReadVirtual, Addr: kernBase + 0x4000, Len: 64})
	if got := b.tally(); len(got) != 1 {
		t.Errorf("a read elsewhere took %v", got)
	}
	if n := b.breakpoints(); n != 3 {
		t.Errorf("%d breakpoints stayed in", n)
	}
	r := b.ask(target.Request{Op: target.OpReadVirtual, Addr: codePC, Len: 40})
	if !bytes.Equal(r[0].Data(), bytes.Repeat([]byte{0x90}, 40)) {
		t.Errorf("code reads % x", r[0].Data())
	}
	if n := b.breakpoints(); n != 1 {
		t.Errorf("%d breakpoints stayed in, want the one that nobody looked at", n)
	}
	b.tally()
	b.resume(target.Resume{Breakpoints: bps})
	waitFor(t, func() bool { return b.breakpoints() == 3 })
	if n := count(b.tally(), kdproto.APIWriteBreakPoint); n != 2 {
		t.Errorf("%d breakpoints were written, want the two that were out", n)
	}
	if err := b.live.Close(t.Context(), target.LeaveRunning); err != nil {
		t.Fatal(err)
	}
	if n := b.breakpoints(); n != 0 {
		t.Errorf("%d breakpoints were left behind", n)
	}
}

func brief(s *target.Stop) string {
	c := *s
	c.Bundle = target.Bundle{}
	return fmt.Sprintf("%+v", c)
}

func count(apis []kdproto.API, a kdproto.API) (n int) {
	for _, x := range apis {
		if x == a {
			n++
		}
	}
	return n
}

func waitFor(t *testing.T, f func() bool) {
	t.Helper()
	for range 2000 {
		if f() {
			return
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("it did not happen")
}

// TestStepOff: going on from a breakpoint runs one instruction without it and
// then has it in.
func TestStepOff(t *testing.T) {
	b := halted(t)
	c := b.ask(target.Request{Op: target.OpGetContext})[0].Data()
	x64.SetPC(c, codePC)
	b.ask(target.Request{Op: target.OpSetContext, Data: c})
	b.resume(target.Resume{Breakpoints: []uint64{codePC}})
	waitFor(t, func() bool { return b.breakpoints() == 1 })
	b.puppet.mu.Lock()
	defer b.puppet.mu.Unlock()
	if b.steps != 1 || b.pc() != codePC+1 {
		t.Errorf("%d steps, PC %x", b.steps, b.pc())
	}
}

// TestBreakpointOnCoded: one at a breakpoint instruction, at which the target
// stands, is passed and stays.
func TestBreakpointOnCoded(t *testing.T) {
	for _, edited := range []bool{false, true} {
		b := halted(t)
		if edited {
			c := b.ask(target.Request{Op: target.OpGetContext})[0].Data()
			c[0x80] = 7
			b.ask(target.Request{Op: target.OpSetContext, Data: c})
		}
		b.resume(target.Resume{Breakpoints: []uint64{breakPC}})
		waitFor(t, func() bool {
			b.puppet.mu.Lock()
			defer b.puppet.mu.Unlock()
			return b.pc() == codePC
		})
		if n := b.breakpoints(); n != 1 || b.steps != 0 {
			t.Errorf("%d breakpoints, %d steps", n, b.steps)
		}
		b.live.BreakIn(t.Context())
		if s := b.wait(target.EventHalted).Stop; s.PC != breakPC {
			t.Errorf("stop %s", brief(s))
		}
	}
}

func TestStep(t *testing.T) {
	b := halted(t)
	c := b.ask(target.Request{Op: target.OpGetContext})[0].Data()
	x64.SetPC(c, codePC)
	b.ask(target.Request{Op: target.OpSetContext, Data: c})
	for i := range 3 {
		b.resume(target.Resume{Mode: target.Step})
		s := b.wait(target.EventHalted).Stop
		if s.PC != codePC+uint64(i)+1 || s.Exception.Code != kdproto.StatusSingleStep {
			t.Fatalf("stop %s", brief(s))
		}
	}
}

func TestTableFull(t *testing.T) {
	b := halted(t)
	var bps []uint64
	for i := range 33 {
		bps = append(bps, codePC+32+4*uint64(i))
	}
	err := b.live.Resume(t.Context(), target.Resume{Breakpoints: bps})
	var ie *target.InsertError
	if !errors.As(err, &ie) || len(ie.Addresses) != 1 || ie.Addresses[0] != bps[32] {
		t.Fatalf("got %v", err)
	}
	if st, _ := b.live.Status(t.Context()); st.State != target.StateHalted {
		t.Errorf("state %v", st.State)
	}
	b.resume(target.Resume{Breakpoints: bps[:32]})
}

func TestHardware(t *testing.T) {
	b := halted(t)
	r := target.Resume{}
	r.Hardware[1] = target.HWBreak{Enabled: true, Kind: 1, Len: 4, Addr: codePC + 0x40}
	b.resume(r)
	waitFor(t, func() bool { b.puppet.mu.Lock(); defer b.puppet.mu.Unlock(); return b.dr7 != 0 })
	b.puppet.mu.Lock()
	for i := range b.special {
		if got := le.Uint64(b.special[i][0x28:]); got != codePC+0x40 {
			t.Errorf("processor %d: Dr1 %x", i, got)
		}
	}
	if b.dr7>>20&0xF != 0xD || b.dr7>>2&3 == 0 {
		t.Errorf("Dr7 %x", b.dr7)
	}
	b.puppet.mu.Unlock()
	if err := b.live.Close(t.Context(), target.LeaveRunning); err != nil {
		t.Fatal(err)
	}
	b.puppet.mu.Lock()
	defer b.puppet.mu.Unlock()
	if b.dr7&0xFF != 0 {
		t.Errorf("Dr7 %x after leaving", b.dr7)
	}
}

func TestLeaveHalted(t *testing.T) {
	b := halted(t)
	b.tally()
	if err := b.live.Close(t.Context(), target.LeaveHalted); err != nil {
		t.Fatal(err)
	}
	if e := b.wait(target.EventClosed); !strings.Contains(e.Text, "stays halted") {
		t.Errorf("closed: %q", e.Text)
	}
	if a := b.tally(); count(a, kdproto.APIContinue)+count(a, kdproto.APIContinue2) != 0 {
		t.Errorf("the target was told %v", a)
	}
}

// TestLeaveAtOnce: a target that has run for a while has no break-in byte left to
// stop for, so nobody waits for one when it is let go for good.
func TestLeaveAtOnce(t *testing.T) {
	p := newPuppet(t, nil)
	p.start(false)
	const reply = time.Minute // a third of it is waited for a byte
	b := p.attachWith(target.LiveOptions{Config: target.Config{Break: true}, ReplyTimeout: reply, Leftover: 10 * time.Millisecond})
	b.wait(target.EventHalted)
	again := func() {
		t.Helper()
		b.resume(target.Resume{Status: kdproto.DbgContinue})
		b.wait(target.EventRunning)
		time.Sleep(time.Second) // the live target looks fifty times meanwhile
		if err := b.live.BreakIn(t.Context()); err != nil {
			t.Fatal(err)
		}
		b.wait(target.EventHalted)
	}
	p.mu.Lock()
	p.lose = 1 // one byte more is sent than stops the target
	p.mu.Unlock()
	again()
	again()
	ctx, cancel := context.WithTimeout(t.Context(), reply/6)
	defer cancel()
	if err := b.live.Close(ctx, target.LeaveRunning); err != nil {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Error("it waited for a byte that cannot be there")
	}
}

// TestChases: lists and strings are read next to the line, and bad ones end.
func TestChases(t *testing.T) {
	b := halted(t)
	b.puppet.mu.Lock()
	put := func(off int, v uint64) { le.PutUint64(b.mem[off:], v) }
	// Three nodes with the link at 8, a number at 0 and a UNICODE_STRING at 16.
	head := 0x5000
	nodes := []int{0x5100, 0x5200, 0x5300}
	at := head
	for i, n := range nodes {
		put(at, kernBase+uint64(n)+8)
		put(n, uint64(100+i))
		le.PutUint16(b.mem[n+16:], 4)
		put(n+24, kernBase+uint64(n)+64)
		copy(b.mem[n+64:], []byte{'a' + byte(i), 0, 'z', 0})
		at = n + 8
	}
	put(at, kernBase+uint64(head))
	copy(b.mem[0x5800:], "hello\x00")
	copy(b.mem[kernSize-3:], "abc")
	b.puppet.mu.Unlock()
	list := &target.List{Head: kernBase + uint64(head), LinkOffset: 8, Pointer: 8, MaxNodes: 100, Pieces: []target.Piece{
		{Len: 8}, {Via: target.ViaUnicode, Offset: 16, Len: 64}, {Via: target.ViaPointer, Offset: 24, Add: 2, Len: 2},
	}}
	r := b.ask(
		target.Request{Op: target.OpFollow, List: list},
		target.Request{Op: target.OpString, Addr: kernBase + 0x5800, Len: 100, Flags: 1},
		target.Request{Op: target.OpString, Addr: kernBase + kernSize - 3, Len: 100, Flags: 1},
	)
	got, err := target.DecodeNodes(r[0].Data())
	if err != nil || len(got) != 3 {
		t.Fatalf("%d nodes, %v", len(got), err)
	}
	for i, n := range got {
		if n.Addr != kernBase+uint64(nodes[i]) || le.Uint64(n.Pieces[0]) != uint64(100+i) || !bytes.Equal(n.Pieces[1], []byte{'a' + byte(i), 0, 'z', 0}) || !bytes.Equal(n.Pieces[2], []byte("z\x00")) {
			t.Errorf("node %d: %x %q", i, n.Addr, n.Pieces)
		}
	}
	if string(r[1].Data()) != "hello" || string(r[2].Data()) != "abc" || !r[2].Status.Failed() {
		t.Errorf("strings %q, %q", r[1].Data(), r[2].Data())
	}
	// A cycle that never comes back to the head, and a link into nowhere.
	b.puppet.mu.Lock()
	put(nodes[2]+8, kernBase+uint64(nodes[1])+8)
	b.puppet.mu.Unlock()
	if n, _ := target.DecodeNodes(b.ask(target.Request{Op: target.OpFollow, List: list})[0].Data()); len(n) != 3 {
		t.Errorf("%d nodes of a cycle", len(n))
	}
	b.puppet.mu.Lock()
	put(nodes[1]+8, hole+64)
	b.puppet.mu.Unlock()
	rep := b.ask(target.Request{Op: target.OpFollow, List: list})[0]
	if n, _ := target.DecodeNodes(rep.Data()); !rep.Status.Failed() || len(n) != 3 || n[2].Pieces[0] != nil {
		t.Errorf("status %v, %d nodes with a link into nowhere", rep.Status, len(n))
	}
}

// TestSearch: by the target's own search and by reading, the answer is the same.
func TestSearch(t *testing.T) {
	for _, own := range []bool{true, false} {
		b := halted(t)
		b.puppet.mu.Lock()
		b.noSearch = !own
		pattern := []byte("needle--")
		var want []uint64
		for _, off := range []int{0x0, 0x101, 0xF60, 0x3FFD, kernSize - 8} {
			copy(b.mem[off:], pattern)
			want = append(want, kernBase+uint64(off))
		}
		b.puppet.mu.Unlock()
		b.tally()
		r := b.ask(
			target.Request{Op: target.OpSearch, Addr: kernBase, Len: kernSize, Data: pattern, Flags: 100},
			target.Request{Op: target.OpSearch, Addr: kernBase, Len: kernSize, Data: pattern, Flags: 2, Value: 4},
			target.Request{Op: target.OpSearch, Addr: kernBase + 0x4000, Len: 0x2000, Data: []byte("not there")},
		)
		if own != (count(b.tally(), kdproto.APISearchMemory) > 3) {
			t.Errorf("own=%v: the target's own search was not used as it should", own)
		}
		hits := func(r target.Reply) (h []uint64) {
			for d := r.Data(); len(d) >= 8; d = d[8:] {
				h = append(h, le.Uint64(d))
			}
			return h
		}
		if got := hits(r[0]); !slices.Equal(got, want) {
			t.Errorf("own=%v: hits %x, want %x", own, got, want)
		}
		if got := hits(r[1]); !slices.Equal(got, []uint64{want[0], want[2]}) {
			t.Errorf("own=%v: aligned hits %x", own, got)
		}
		if r[2].Status != kdproto.StatusNoMoreEntries || r[2].Value != 0 {
			t.Errorf("own=%v: %+v", own, r[2])
		}
	}
}

func TestFill(t *testing.T) {
	b := halted(t)
	r := b.ask(target.Request{Op: target.OpFill, Addr: kernBase + 0x9000, Len: 5000, Data: []byte{1, 2, 3}})
	if r[0].Status.Failed() || r[0].Value != 5000 || !bytes.Equal(b.mem[0x9000:0x9000+5000], bytes.Repeat([]byte{1, 2, 3}, 1667)[:5000]) {
		t.Errorf("filled %d, %v", r[0].Value, r[0].Status)
	}
}

func TestSwitch(t *testing.T) {
	b := halted(t)
	if err := b.live.Switch(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if s := b.wait(target.EventHalted).Stop; s.Processor != 1 {
		t.Errorf("stop %s", brief(s))
	}
	if err := b.live.Switch(t.Context(), 7); !errors.Is(err, target.ErrBadRequest) {
		t.Errorf("processor 7: %v", err)
	}
}

// TestPrompt: the target's question reaches the client and the answer the
// target.
func TestPrompt(t *testing.T) {
	b := halted(t)
	b.resume(target.Resume{})
	answer := make(chan string, 1)
	b.order(func(ctx context.Context) {
		b.puppet.link.Send(ctx, kdproto.TypeDebugIO, kdproto.NewPrompt([]byte("Break, ignore (bi)? "), 2).Append(nil), false)
		for {
			d, r, err := b.puppet.link.Receive(ctx, kdproto.TypeDebugIO, 5*time.Second)
			if err != nil || r == kdcomTimeout {
				answer <- "nothing"
				return
			}
			if r == kdcomReceived {
				io, _ := kdproto.DecodeDebugIO(d)
				answer <- string(io.Text)
				return
			}
		}
	})
	if e := b.wait(target.EventPrompt); e.Text != "Break, ignore (bi)? " || e.MaxAnswer != 2 {
		t.Errorf("prompt %+v", e)
	}
	if err := b.live.Answer(t.Context(), "i"); err != nil {
		t.Fatal(err)
	}
	if a := <-answer; a != "i" {
		t.Errorf("the target was answered %q", a)
	}
	if err := b.live.Answer(t.Context(), "i"); !errors.Is(err, target.ErrBadRequest) {
		t.Errorf("an answer without a question: %v", err)
	}
}

// TestBreakInIsRepeated: a byte that arrives while the target prints is
// swallowed; nobody has to ask twice.
func TestBreakInIsRepeated(t *testing.T) {
	b := halted(t)
	b.resume(target.Resume{})
	b.puppet.mu.Lock()
	b.lose = 2
	b.puppet.mu.Unlock()
	if err := b.live.BreakIn(t.Context()); err != nil {
		t.Fatal(err)
	}
	// The target talks all the while, which must not put the repetition off.
	talk := make(chan struct{})
	go func() {
		defer close(talk)
		for range 20 {
			b.do <- func() { b.loadSymbols(context.Background(), "x.sys", false) }
		}
	}()
	if s := b.wait(target.EventHalted).Stop; !s.Asked {
		t.Errorf("stop %s", brief(s))
	}
	b.resume(target.Resume{})
	<-talk
}

// TestWhileRunning: what needs a halted target says so at once.
func TestWhileRunning(t *testing.T) {
	b := halted(t)
	b.resume(target.Resume{})
	if _, err := target.Collect(t.Context(), b.live, target.Request{Op: target.OpVersion}); !errors.Is(err, target.ErrRunning) {
		t.Errorf("got %v", err)
	}
	if err := b.live.Resume(t.Context(), target.Resume{}); !errors.Is(err, target.ErrRunning) {
		t.Errorf("got %v", err)
	}
}

// TestLimits: a request out of bounds is refused before anything is sent.
func TestLimits(t *testing.T) {
	b := halted(t)
	b.tally()
	for _, r := range []target.Request{
		{Op: target.OpReadVirtual, Len: target.MaxRead + 1}, {Op: target.OpNone}, {Op: target.OpMax},
		{Op: target.OpFollow}, {Op: target.OpFollow, List: &target.List{Pointer: 3}}, {Op: target.OpSearch, Len: 8},
		{Op: target.OpString, Flags: 4}, {Op: target.OpReadIO, Addr: 1, Len: 2}, {Op: target.OpReadIO}, {Op: target.OpFill, Len: 1},
		{Op: target.OpReadBus}, {Op: target.OpFollow, List: &target.List{Pointer: 8, MaxNodes: target.MaxNodes + 1}},
	} {
		if _, err := target.Collect(t.Context(), b.live, r); !errors.Is(err, target.ErrBadRequest) {
			t.Errorf("%+v: %v", r, err)
		}
	}
	if a := b.tally(); len(a) != 0 {
		t.Errorf("the target was asked %v", a)
	}
}

// TestBreakInOvertakes: a break-in ends a long batch between two exchanges.
func TestBreakInOvertakes(t *testing.T) {
	b := halted(t)
	n := 0
	err := b.live.Do(t.Context(), []target.Request{{Op: target.OpReadVirtual, Addr: kernBase, Len: kernSize}}, func(p target.Part) error {
		if n++; n == 2 {
			b.live.BreakIn(t.Context())
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || n != 2 {
		t.Errorf("%d parts, %v", n, err)
	}
}

func FuzzDecodeNodes(f *testing.F) {
	f.Add(target.AppendNode(nil, target.Node{Addr: 1, Pieces: [][]byte{nil, {}, {1, 2}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		nodes, err := target.DecodeNodes(b)
		if err != nil {
			return
		}
		var again []byte
		for _, n := range nodes {
			again = target.AppendNode(again, n)
		}
		if !bytes.Equal(again, b) {
			t.Errorf("% x reads back as % x", b, again)
		}
	})
}

// TestEndsAtOnce: a line that opens and ends at once is told once, and tried at
// growing distances.
func TestEndsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opens := 0
		l := target.NewLive(target.LiveOptions{
			Open: func(context.Context) (link.Host, error) {
				if opens++; opens > 1000 {
					return nil, errors.New("enough")
				}
				host, far := net.Pipe()
				far.Close()
				return kdcom.NewHost(host, kdcom.HostOptions{}), nil
			},
			Name: "line",
		})
		if err := l.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		lost := 0
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		events := 0
		for ; ; events++ {
			e, err := l.Next(ctx)
			if err != nil {
				break
			}
			if e.Kind == target.EventLost {
				lost++
			}
		}
		l.Close(t.Context(), target.LeaveRunning)
		if lost != 1 || events > 10 {
			t.Errorf("%d events, %d of them losses", events, lost)
		}
		// 200 ms doubling to 2 s: about 33 in a minute.
		if opens < 20 || opens > 40 {
			t.Errorf("opened %d times in a minute", opens)
		}
	})
}
