package comline

import (
	"io"
	"testing"
	"time"

	"openkd/link/fault"
)

// The benchmarks run in real time on lines that are as slow as they say. They
// print ratios to what the line can carry, which is baud/10 bytes a second.

func benchWires(b *testing.B, baud int, faults fault.Config) (near, far *testWire) {
	x, y := cable()
	near = startWire(slow(fault.New(x, faults), baud), "a", baud)
	far = startWire(slow(y, baud), "b", baud)
	b.Cleanup(func() {
		near.stop()
		far.stop()
	})
	return near, far
}

// BenchmarkThroughput sends 20 KiB there and back for each op, at the same
// time, and prints the part of either direction that they take. The faulty line
// spoils a byte in two thousand.
func BenchmarkThroughput(b *testing.B) {
	for _, c := range []struct {
		name   string
		baud   int
		faults fault.Config
	}{
		{"115200", 115200, fault.Config{}},
		{"115200 faulty", 115200, bad},
		{"921600", 921600, fault.Config{}},
		{"12000000", 12_000_000, fault.Config{}},
	} {
		b.Run(c.name, func(b *testing.B) {
			near, _ := benchWires(b, c.baud, c.faults)
			s, err := near.dial(b.Context(), 7)
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			buf, back := make([]byte, 20<<10), make([]byte, 20<<10)
			n := 0
			for b.Loop() {
				go s.Write(buf)
				if _, err := io.ReadFull(s, back); err != nil {
					b.Fatal(err)
				}
				n += len(buf)
			}
			b.SetBytes(int64(len(buf)))
			b.ReportMetric(float64(n)*10/float64(c.baud)/b.Elapsed().Seconds(), "of-line")
		})
	}
}

// BenchmarkSmallBesideBig exchanges 10 bytes beside a transfer that fills the
// line in both directions, and prints how many frame times that takes.
func BenchmarkSmallBesideBig(b *testing.B) {
	const baud = 115200
	near, _ := benchWires(b, baud, fault.Config{})
	big, err := near.dial(b.Context(), 7)
	if err != nil {
		b.Fatal(err)
	}
	go func() {
		for {
			if _, err := big.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}()
	go io.Copy(io.Discard, big)
	small, err := near.dial(b.Context(), 7)
	if err != nil {
		b.Fatal(err)
	}
	time.Sleep(time.Second)
	buf := make([]byte, 10)
	for b.Loop() {
		small.Write(buf)
		if _, err := io.ReadFull(small, buf); err != nil {
			b.Fatal(err)
		}
	}
	frame := time.Duration(near.sp.payload+frameCost) * near.sp.perByte
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)/frame.Seconds(), "frames/exchange")
	b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)*1000, "ms/exchange")
	big.reset(refusal{code: codeBroken})
	small.Close()
}

// BenchmarkStreams opens a stream, exchanges a byte and closes it.
func BenchmarkStreams(b *testing.B) {
	near, _ := benchWires(b, fast, fault.Config{})
	buf := make([]byte, 1)
	for b.Loop() {
		s, err := near.dial(b.Context(), 7)
		if err != nil {
			b.Fatal(err)
		}
		s.Write(buf)
		if _, err := io.ReadFull(s, buf); err != nil {
			b.Fatal(err)
		}
		s.Close()
	}
}
