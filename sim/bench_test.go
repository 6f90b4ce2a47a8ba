package sim

import (
	"context"
	"testing"
	"time"

	"openkd/kdproto"
)

// BenchmarkBoot is the time from power-on to the first report.
func BenchmarkBoot(b *testing.B) {
	for b.Loop() {
		m, err := New(Config{Seed: 1})
		if err != nil {
			b.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- m.Run(ctx) }()
		d := attach(b, m)
		d.stop()
		d.leave()
		cancel()
		<-done
	}
}

// BenchmarkRequest is a small read, from the request to its reply.
func BenchmarkRequest(b *testing.B) {
	m := start(b, Config{BreakAtBoot: true})
	d := attach(b, m)
	d.ctx = context.Background()
	d.exception()
	a := sym(b, m, "KeTickCount")
	for b.Loop() {
		d.read(a, 8)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}

// BenchmarkBulkRead reads 1 MiB at a time.
func BenchmarkBulkRead(b *testing.B) {
	m := start(b, Config{BreakAtBoot: true})
	d := attach(b, m)
	d.ctx = context.Background()
	d.exception()
	a := sym(b, m, "MmBulkData")
	b.SetBytes(1 << 20)
	for b.Loop() {
		d.read(a, 1<<20)
	}
}

// BenchmarkStep is a single step, from Continue2 to the report.
func BenchmarkStep(b *testing.B) {
	m := start(b, Config{BreakAtBoot: true})
	d := attach(b, m)
	d.ctx = context.Background()
	d.exception()
	d.skip(0)
	for b.Loop() {
		d.send(kdproto.APIContinue2, 0, &kdproto.Continue2{Machine: kdproto.MachineAMD64, Status: kdproto.DbgContinue, Trace: true, Dr7: 0x400}, nil)
		d.stop()
	}
}

// BenchmarkInstructions is the kernel's own code on the interpreter.
func BenchmarkInstructions(b *testing.B) {
	m := start(b, Config{Processors: 1, Slice: 2_000_000, Tick: time.Microsecond, LinkTimeout: time.Microsecond, Retries: 1})
	for m.Stats().Instructions < 100000 {
		time.Sleep(time.Millisecond)
	}
	before := m.Stats().Instructions
	for b.Loop() {
		if err := m.Call(22).Wait(context.Background()); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(m.Stats().Instructions-before)/b.Elapsed().Seconds(), "instructions/s")
}
