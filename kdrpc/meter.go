package kdrpc

import (
	"sync/atomic"
	"time"
)

// Meter counts what crosses a connection.
//
// Concurrency: it is read from any goroutine while the connection lives and
// after.
type Meter struct {
	in, out atomic.Uint64
	rtt     atomic.Int64
}

// Bytes are those of the frames, in from and out to the other side.
func (m *Meter) Bytes() (in, out uint64) { return m.in.Load(), m.out.Load() }

// RoundTrip is the smoothed time from a ping to its answer; 0: none came yet.
func (m *Meter) RoundTrip() time.Duration { return time.Duration(m.rtt.Load()) }

// trip takes a measurement: an eighth of it counts, as in TCP (RFC 6298).
func (m *Meter) trip(d time.Duration) {
	if old := m.RoundTrip(); old > 0 {
		d = old + (d-old)/8
	}
	m.rtt.Store(int64(max(d, 1)))
}
