package kdcom

import (
	"net"
	"testing"

	"openkd/kdproto"
	"openkd/link/fault"
)

// BenchmarkBulkRead115200 reads memory over a line of 115200 baud and reports
// what part of the stop-and-wait ceiling it reaches: each 3944 bytes cost a
// request of 73 bytes, its ACK, a reply of 4017 and its ACK, one after the
// other.
func BenchmarkBulkRead115200(b *testing.B) {
	const baud = 115200
	near, far := net.Pipe()
	h := NewHost(near, HostOptions{Speed: baud})
	k := NewTarget(fault.Throttle(far, baud), TargetOptions{})
	b.Cleanup(func() { k.Close(); h.Close() })
	exchanges(b, h, k, kdproto.MaxTransfer)
	wire := wireTime(73+16+maxFrame+16, baud)
	b.ReportMetric(wire.Seconds()*float64(b.N)/b.Elapsed().Seconds(), "of-ceiling")
	b.ReportMetric(float64(h.Stats().Resends), "resends")
	b.ReportMetric(float64(b.N*kdproto.MaxTransfer)/b.Elapsed().Seconds(), "bytes/s")
}
