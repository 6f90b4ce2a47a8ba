package main

import (
	"fmt"
	"io"
	"sync/atomic"

	"openkd/kdproto"
	"openkd/link/kdcom"
)

// tracer shows what crosses the line (CTRL+D), one line a packet.
type tracer struct {
	out io.Writer
	on  atomic.Bool
}

func (t *tracer) set(on bool) { t.on.Store(on) }

func (t *tracer) packet(_ string, d kdcom.Direction, b []byte) {
	if !t.on.Load() {
		return
	}
	fmt.Fprintf(t.out, "KD %s %s\n", d, describe(b))
}

// describe names a packet; what is none is shown as bytes.
func describe(b []byte) string {
	if len(b) == 1 && b[0] == kdproto.BreakInByte {
		return "break-in"
	}
	h, err := kdproto.DecodeHeader(b)
	if err != nil || (h.Leader != kdproto.DataLeader && h.Leader != kdproto.ControlLeader) {
		return "bytes " + clip(b)
	}
	if h.Leader == kdproto.ControlLeader {
		return fmt.Sprintf("%v id %08x", h.Type, h.ID)
	}
	what := ""
	if p := b[kdproto.HeaderSize:]; h.Type == kdproto.TypeManipulate {
		if m, err := kdproto.DecodeManipulate(p); err == nil {
			what = fmt.Sprintf(" %v processor %d status %v", m.API, m.Processor, m.Status)
		}
	}
	return fmt.Sprintf("%v id %08x %d bytes%s", h.Type, h.ID, h.ByteCount, what)
}

// clip shortens a run of bytes.
func clip(b []byte) string {
	const most = 48
	if len(b) <= most {
		return fmt.Sprintf("% x", b)
	}
	return fmt.Sprintf("% x ... (%d bytes)", b[:most], len(b))
}
