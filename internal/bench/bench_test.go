package bench

import (
	"context"
	"slices"
	"testing"
	"time"

	"openkd/kdproto"
	"openkd/sim"
	"openkd/target"
)

// readAll reads n bytes of the kernel in one batch and returns the time it
// took.
func readAll(b *testing.B, r *rig, n uint64) time.Duration {
	b.Helper()
	got := 0
	start := time.Now()
	err := r.client.Do(context.Background(), []target.Request{{Op: target.OpReadVirtual, Addr: r.e.Version().KernBase, Len: n}}, func(p target.Part) error {
		got += len(p.Data)
		return nil
	})
	d := time.Since(start)
	if err != nil || got != int(n) {
		b.Fatalf("%d bytes of %d, %v", got, n, err)
	}
	return d
}

// BenchmarkBulkRead115200 reads over a line paced to 115200 baud and reports
// how much of the stop-and-wait ceiling it reaches: for 3944 bytes of data the
// line carries a request (73 bytes), its acknowledgement (16), the reply
// (16+56+3944+1) and its acknowledgement (16), at ten bits a byte.
func BenchmarkBulkRead115200(b *testing.B) {
	_, link := machine(b, sim.Config{}, 115200)
	r := local(b, link, func(o *target.LiveOptions) { o.Speed = 115200 }, nil)
	const data = 32 * kdproto.MaxTransfer
	wire := 32 * (73 + 16 + kdproto.HeaderSize + kdproto.MaxPayload + 1 + 16)
	ceiling := time.Duration(wire) * 10 * time.Second / 115200
	var worst float64 = 2
	for b.Loop() {
		worst = min(worst, float64(ceiling)/float64(readAll(b, r, data)))
	}
	b.ReportMetric(worst, "of-ceiling")
	b.ReportMetric(0, "ns/op")
}

// BenchmarkServerOverhead reads 1 MiB through a kdsrv process on loopback and
// directly, in turn, from machines in processes of their own, and reports the median of the ratios: on a line of
// 12 Mbaud, more than twice what QEMU's emulated serial port does, and on a Unix socket
// without any pacing, where the machine's own work is all there is to wait for
// and every cycle of the server shows.
func BenchmarkServerOverhead(b *testing.B) {
	for _, c := range []struct {
		name string
		baud int
	}{{"12Mbaud", 12_000_000}, {"unpaced", 0}} {
		b.Run(c.name, func(b *testing.B) {
			far, near := remote(b, apart(b, c.baud)), local(b, apart(b, c.baud), nil, nil)
			var ratios []float64
			var took time.Duration
			for b.Loop() {
				for range 10 {
					f, n := readAll(b, far, 1<<20), readAll(b, near, 1<<20)
					ratios = append(ratios, float64(f)/float64(n))
					took += n
				}
			}
			slices.Sort(ratios)
			b.ReportMetric(ratios[len(ratios)/2], "kdsrv/direct")
			b.ReportMetric(float64(took.Microseconds())/1000/float64(len(ratios)), "ms-direct")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// BenchmarkStep reports the time of a single step with its bundle.
func BenchmarkStep(b *testing.B) {
	_, link := machine(b, sim.Config{}, 0)
	r := local(b, link, nil, nil)
	for b.Loop() {
		r.run("t")
	}
}
