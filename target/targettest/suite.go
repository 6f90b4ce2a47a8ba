package targettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"testing"
	"time"

	"openkd/kdproto"
	"openkd/target"
)

// Memory that the suite expects at Base: Size bytes of Pattern, and nothing in
// the page behind it.
const (
	Base = 0xFFFFF80000100000
	Size = 1 << 20
)

// Pattern is the byte at offset i of the suite's memory.
func Pattern(i int) byte { return byte(i*7 + i>>8*13 + i>>16) }

// Prepare gives a fake the memory that the suite expects.
func Prepare(f *Fake) {
	b := make([]byte, Size)
	for i := range b {
		b[i] = Pattern(i)
	}
	f.Map(Base, b)
}

// Run runs the suite against targets that wrap fakes. open returns the target
// under test around f and is called once for each part of the suite.
func Run(t *testing.T, open func(t *testing.T, f *Fake) target.Target) {
	for _, c := range []struct {
		name string
		run  func(t *testing.T, ctx context.Context, f *Fake, tg target.Target)
	}{
		{"running", running},
		{"reads", reads},
		{"writes and the rest", rest},
		{"order of parts", order},
		{"sink error", sinkError},
		{"context", cancelled},
		{"bad requests", badRequests},
		{"resume and switch", resume},
		{"insert error", insertError},
		{"break-in cancels a batch", breakIn},
		{"prompt, control, status", small},
		{"events", events},
		{"close", closing},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := New()
			Prepare(f)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			tg := open(t, f)
			defer tg.Close(ctx, target.LeaveRunning)
			c.run(t, ctx, f, tg)
		})
	}
}

// Await returns the next event of a kind and skips others.
func Await(ctx context.Context, t testing.TB, tg target.Target, k target.EventKind) target.Event {
	t.Helper()
	for {
		e, err := tg.Next(ctx)
		if err != nil {
			t.Fatalf("waiting for %v: %v", k, err)
		}
		if e.Kind == k {
			return e
		}
	}
}

func halt(ctx context.Context, t *testing.T, f *Fake, tg target.Target) target.Event {
	t.Helper()
	f.Halt(Base)
	return Await(ctx, t, tg, target.EventHalted)
}

func want(t *testing.T, what string, err, is error) {
	t.Helper()
	if !errors.Is(err, is) {
		t.Errorf("%s: %v, want %v", what, err, is)
	}
}

func running(t *testing.T, ctx context.Context, f *Fake, tg target.Target) {
	_, err := target.Collect(ctx, tg, target.Request{Op: target.OpReadVirtual, Addr: Base, Len: 4})
	want(t, "Do", err, target.ErrRunning)
	want(t, "Resume", tg.Resume(ctx, target.Resume{Status: kdproto.DbgContinue}), target.ErrRunning)
	want(t, "Switch", tg.Switch(ctx, 1), target.ErrRunning)
}

func reads(t *testing.T, ctx context.Context, f *Fake, tg target.Target) {
	halt(ctx, t, f, tg)
	all := make([]byte, Size)
	for i := range all {
		all[i] = Pattern(i)
	}
	rep, err := target.Collect(ctx, tg,
		target.Request{Op: target.OpReadVirtual, Addr: Base, Len: Size},
		target.Request{Op: target.OpReadVirtual, Addr: Base + 5, Len: 3},
		target.Request{Op: target.OpReadVirtual, Addr: Base + Size - 10, Len: 20},
		target.Request{Op: target.OpReadVirtual, Addr: 0x1000, Len: 8},
		target.Request{Op: target.OpReadVirtual, Addr: Base, Len: 0},
	)
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range []struct {
		data []byte
		ok   bool
	}{{all, true}, {all[5:8], true}, {all[Size-10:], false}, {nil, false}, {nil, true}} {
		if !bytes.Equal(rep[i].Data(), w.data) || rep[i].Status.Failed() == w.ok {
			t.Errorf("read %d: %d bytes, status %x", i, len(rep[i].Data()), uint32(rep[i].Status))
		}
	}
	if len(rep[0].Runs) != 1 {
		t.Errorf("one stretch came as %d runs", len(rep[0].Runs))
	}
}

func rest(t *testing.T, ctx context.Context, f *Fake, tg target.Target) {
	halt(ctx, t, f, tg)
	f.Map(0x20000, append([]byte("hello"), 0, 'x'))
	ctxRecord := bytes.Repeat([]byte{0xA5}, 0x4D0)
	rep, err := target.Collect(ctx, tg,
		target.Request{Op: target.OpWriteVirtual, Addr: Base + 100, Data: []byte{1, 2, 3}},
		target.Request{Op: target.OpReadVirtual, Addr: Base + 99, Len: 5},
		target.Request{Op: target.OpWriteControl, Processor: 1, Addr: 2, Data: []byte("special")},
		target.Request{Op: target.OpReadControl, Processor: 1, Addr: 2, Len: 7},
		target.Request{Op: target.OpWriteMSR, Addr: 0xC0000082, Value: 0xFFFFF80012345678},
		target.Request{Op: target.OpReadMSR, Addr: 0xC0000082},
		target.Request{Op: target.OpSetContext, Data: ctxRecord},
		target.Request{Op: target.OpGetContext},
		target.Request{Op: target.OpString, Addr: 0x20000, Len: 100, Flags: 1},
		target.Request{Op: target.OpSearch, Addr: 0x20000, Len: 100, Data: []byte("l"), Flags: 2},
		target.Request{Op: target.OpVersion},
		target.Request{Op: target.OpPageIn, Addr: 1},
		target.Request{Op: target.OpFollow, List: &target.List{Head: 0x20000, Pointer: 8, MaxNodes: 5, Pieces: []target.Piece{{Len: 4}}}},
	)
	if err != nil {
		t.Fatal(err)
	}
	check := func(i int, ok bool, what string) {
		if !ok {
			t.Errorf("%s: %+v", what, rep[i])
		}
	}
	check(0, rep[0].Value == 3, "write")
	check(1, bytes.Equal(rep[1].Data(), []byte{Pattern(99), 1, 2, 3, Pattern(103)}), "read back")
	check(3, string(rep[3].Data()) == "special", "control space")
	check(5, rep[5].Value == 0xFFFFF80012345678, "MSR")
	check(7, bytes.Equal(rep[7].Data(), ctxRecord), "context")
	check(8, string(rep[8].Data()) == "hello", "string")
	check(9, len(rep[9].Data()) == 16, "search")
	check(10, len(rep[10].Data()) == kdproto.UnionSize, "version")
	check(11, rep[11].Status == kdproto.StatusUnsuccessful, "page in")
	check(12, !rep[12].Status.Failed(), "follow")
}

func order(t *testing.T, ctx context.Context, f *Fake, tg target.Target) {
	halt(ctx, t, f, tg)
	var batch []target.Request
	for i := range 50 {
		batch = append(batch, target.Request{Op: target.OpReadVirtual, Addr: Base + uint64(i), Len: uint64(i * 400)})
	}
	index, next := 0, uint64(0)
	err := tg.Do(ctx, batch, func(p target.Part) error {
		if p.Index != index {
			return fmt.Errorf("part of request %d while %d is not done", p.Index, index)
		}
		if len(p.Data) > 0 && p.Offset != next {
			return fmt.Errorf("request %d: offset %d after %d", index, p.Offset, next)
		}
		for k, c := range p.Data {
			if c != Pattern(index+int(next)+k) {
				return fmt.Errorf("request %d: wrong byte at %d", index, int(next)+k)
			}
		}
		next += uint64(len(p.Data))
		if p.Done {
			if next != uint64(index*400) {
				return fmt.Errorf("request %d: %d bytes", index, next)
			}
			index, next = index+1, 0
		}
		return nil
	})
	if err != nil || index != 50 {
		t.Errorf("%d requests answered: %v", index, err)
	}
}

func sinkError(t *testing.T, ctx context.Context, f *Fake, tg target.Target) {
	halt(ctx, t, f, tg)
	enough := errors.New("enough")
	calls := 0
	err := tg.Do(ctx, []target.Request{{Op: target.OpReadVirtual, Addr: Base, Len: Size}, {Op: target.OpReadVirtual, Addr: Base, Len: Size}}, func(target.Part) error {
		calls++
		if calls == 3 {
			return enough
		}
		return nil
	})
	if err != enough || calls != 3 {
		t.Errorf("%d calls, %v", calls, err)
	}
	reads(t, ctx, f, tg) // it can be used on
}

func cancelled(t *testing.T, ctx context.Context, f *Fake, tg target.Target) {
	halt(ctx, t, f, tg)
	one, cancel := context.WithCancel(ctx)
	err := tg.Do(one, []target.Request{{Op: target.OpReadVirtual, Addr: Base, Len: Size}}, func(target.Part) error {
		cancel()
		return nil
	})
	want(t, "Do", err, context.Canceled)
	_, err = tg.Next(one)
	want(t, "Next", err, context.Canceled)
	reads(t, ctx, f, tg)
}

func badRequests(t *testing.T, ctx context.Context, f *Fake, tg target.Target) {
	halt(ctx, t, f, tg)
	for name, b := range map[string][]target.Request{
		"none":     {{}},
		"unknown":  {{Op: target.OpMax}},
		"too long": {{Op: target.OpReadVirtual, Len: target.MaxRead + 1}},
		"too many": make([]target.Request, target.MaxBatch+1),
	} {
		want(t, name, tg.Do(ctx, b, func(target.Part) error { return nil }), target.ErrBadRequest)
	}
	if err := tg.Do(ctx, nil, nil); err != nil {
		t.Errorf("an empty batch: %v", err)
	}
}

func resume(t *testing.T, ctx context.Context, f *Fake, tg target.Target) {
	halt(ctx, t, f, tg)
	r := target.Resume{Status: kdproto.DbgContinue, Breakpoints: []uint64{1, 2, Base}}
	r.Hardware[2] = target.HWBreak{Enabled: true, Kind: 3, Len: 8, Addr: Base}
	if err := tg.Resume(ctx, r); err != nil {
		t.Fatal(err)
	}
	if got := f.Resumes(); len(got) != 1 || !reflect.DeepEqual(got[0], r) {
		t.Errorf("resumed with %+v", got)
	}
	Await(ctx, t, tg, target.EventRunning)
	st := halt(ctx, t, f, tg).Stop
	if st.PC != Base || st.Exception == nil || st.Exception.Code != kdproto.StatusBreakpoint || len(st.Bundle.Memory) != 2 || len(st.Bundle.Context) != 0x4D0 {
		t.Errorf("stop %+v", st)
	}
	if err := tg.Switch(ctx, 1); err != nil {
		t.Fatal(err)
	}
	if e := Await(ctx, t, tg, target.EventHalted); !e.Stop.Switched || e.Stop.Processor != 1 || e.Stop.Number != st.Number+1 {
		t.Errorf("after the switch: %+v", e.Stop)
	}
	want(t, "Switch", tg.Switch(ctx, 99), target.ErrBadRequest)
	if err := tg.Resume(ctx, target.Resume{Mode: target.Step, Status: kdproto.DbgContinue}); err != nil {
		t.Fatal(err)
	}
	Await(ctx, t, tg, target.EventHalted)
}

func insertError(t *testing.T, ctx context.Context, f *Fake, tg target.Target) {
	f.InsertFails = []uint64{0x1000, 0x3000}
	halt(ctx, t, f, tg)
	err := tg.Resume(ctx, target.Resume{Status: kdproto.DbgContinue, Breakpoints: []uint64{0x1000, 0x2000, 0x3000}})
	var ie *target.InsertError
	if !errors.As(err, &ie) || !reflect.DeepEqual(ie.Addresses, f.InsertFails) {
		t.Fatalf("%v", err)
	}
	reads(t, ctx, f, tg) // still halted
}

func breakIn(t *testing.T, ctx context.Context, f *Fake, tg target.Target) {
	reached := make(chan struct{}, 1)
	f.OnPart = func(ctx context.Context, index int, offset uint64, n int) error {
		if index == 1 {
			reached <- struct{}{}
			<-ctx.Done() // as a line that does not answer
			return ctx.Err()
		}
		return nil
	}
	halt(ctx, t, f, tg)
	errs := make(chan error, 1)
	go func() {
		_, err := target.Collect(ctx, tg, target.Request{Op: target.OpReadVirtual, Addr: Base, Len: 4}, target.Request{Op: target.OpReadVirtual, Addr: Base, Len: 4})
		errs <- err
	}()
	<-reached
	if err := tg.BreakIn(ctx); err != nil {
		t.Error(err)
	}
	if err := <-errs; err == nil {
		t.Error("the batch went on")
	}
	if err := tg.Resume(ctx, target.Resume{Status: kdproto.DbgContinue}); err != nil {
		t.Fatal(err)
	}
	if err := tg.BreakIn(ctx); err != nil {
		t.Fatal(err)
	}
	for {
		if e := Await(ctx, t, tg, target.EventHalted); e.Stop.Asked {
			break
		}
	}
}

func small(t *testing.T, ctx context.Context, f *Fake, tg target.Target) {
	want(t, "Answer without a prompt", tg.Answer(ctx, "x"), target.ErrBadRequest)
	f.Prompt("Break, Ignore?", 8)
	if e := Await(ctx, t, tg, target.EventPrompt); e.Text != "Break, Ignore?" || e.MaxAnswer != 8 {
		t.Errorf("%+v", e)
	}
	if err := tg.Answer(ctx, "i"); err != nil {
		t.Error(err)
	}
	if a := f.Answers(); len(a) != 1 || a[0] != "i" {
		t.Errorf("answers %q", a)
	}
	cfg := target.Control{Op: target.ControlConfigure, Config: target.Config{Break: true, StopOnLoad: "nt*"}}
	if err := tg.Control(ctx, cfg); err != nil {
		t.Error(err)
	}
	want(t, "Reboot", tg.Control(ctx, target.Control{Op: target.ControlReboot}), target.ErrRunning)
	if c := f.Controls(); c[len(c)-1] != cfg {
		t.Errorf("controls %+v", c)
	}
	direct, _ := f.Status(ctx)
	got, err := tg.Status(ctx)
	if err != nil || got.State != direct.State || got.Stage != direct.Stage || got.Line != direct.Line || !got.Since.Equal(direct.Since) || !reflect.DeepEqual(got.Stats, direct.Stats) {
		t.Errorf("status %+v, %v; want %+v", got, err, direct)
	}
}

func events(t *testing.T, ctx context.Context, f *Fake, tg target.Target) {
	Await(ctx, t, tg, target.EventConnected)
	f.Print("one\n")
	f.Print("two \xFF\xFE not UTF-8\n")
	mod := &target.Module{Base: 0xFFFFF80012340000, Size: 0x5000, CheckSum: 7, ProcessID: ^uint64(0), Path: `\SystemRoot\drivers\x.sys`}
	f.Emit(target.Event{Kind: target.EventModule, Module: mod})
	f.Emit(target.Event{Kind: target.EventLost, Text: "gone"})
	text := ""
	for {
		e, err := tg.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if e.Time.IsZero() {
			t.Errorf("%v without a time", e.Kind)
		}
		if e.Kind == target.EventPrint {
			text += e.Text
		}
		if e.Kind == target.EventModule && !reflect.DeepEqual(e.Module, mod) {
			t.Errorf("module %+v", e.Module)
		}
		if e.Kind == target.EventLost {
			break
		}
	}
	if text != "one\ntwo \xFF\xFE not UTF-8\n" {
		t.Errorf("prints %q", text)
	}
}

func closing(t *testing.T, ctx context.Context, f *Fake, tg target.Target) {
	halt(ctx, t, f, tg)
	if err := tg.Close(ctx, target.LeaveHalted); err != nil {
		t.Fatal(err)
	}
	if l, ok := f.Left(); !ok || l != target.LeaveHalted {
		t.Errorf("left %v, %v", l, ok)
	}
	_, err := target.Collect(ctx, tg, target.Request{Op: target.OpReadVirtual, Addr: Base, Len: 4})
	want(t, "Do", err, target.ErrClosed)
	want(t, "Resume", tg.Resume(ctx, target.Resume{Status: kdproto.DbgContinue}), target.ErrClosed)
	last := target.EventNone
	for {
		e, err := tg.Next(ctx)
		if err != nil {
			want(t, "Next", err, target.ErrClosed)
			break
		}
		last = e.Kind
	}
	if last != target.EventClosed {
		t.Errorf("the last event is %v", last)
	}
	if err := tg.Close(ctx, target.LeaveRunning); err != nil && !errors.Is(err, target.ErrClosed) {
		t.Errorf("a second Close: %v", err)
	}
}
