package target

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"openkd/kdproto"
)

var le = binary.LittleEndian

const pageSize = 4096

// Do implements Target.
func (l *Live) Do(ctx context.Context, batch []Request, sink func(Part) error) error {
	if err := CheckBatch(batch); err != nil {
		return err
	}
	return l.run(ctx, func() error {
		if err := l.ready(); err != nil {
			return err
		}
		l.mu.Lock()
		l.cancelBatch = false
		l.mu.Unlock()
		for i := range batch {
			x := exchange{l: l, ctx: ctx, index: i, sink: sink}
			if err := x.do(&batch[i]); err != nil {
				return err
			}
		}
		return nil
	})
}

// CheckBatch refuses a batch over the limits, so that a caller far away learns
// of it before anything is sent.
func CheckBatch(batch []Request) error {
	if len(batch) > MaxBatch {
		return fmt.Errorf("%w: %d requests in one batch, at most %d", ErrBadRequest, len(batch), MaxBatch)
	}
	for i := range batch {
		if err := batch[i].check(); err != nil {
			return fmt.Errorf("%w: request %d: %w", ErrBadRequest, i, err)
		}
	}
	return nil
}

func (r *Request) check() error {
	atMost := func(what string, n, limit uint64) error {
		if n > limit {
			return fmt.Errorf("%d bytes of %s, at most %d", n, what, limit)
		}
		return nil
	}
	if (r.Op == OpReadBus || r.Op == OpWriteBus) && r.Bus == nil {
		return errors.New("no bus named")
	}
	switch r.Op {
	case OpReadVirtual, OpReadPhysical:
		return atMost("a read", r.Len, MaxRead)
	case OpWriteVirtual, OpWritePhysical:
		return atMost("a write", uint64(len(r.Data)), MaxWrite)
	case OpReadControl, OpReadBus:
		return atMost("a read", r.Len, kdproto.MaxTransfer)
	case OpWriteControl, OpWriteBus, OpSetContext:
		return atMost("a write", uint64(len(r.Data)), kdproto.MaxTransfer)
	case OpReadIO, OpWriteIO:
		if (r.Len != 1 && r.Len != 2 && r.Len != 4) || r.Addr%r.Len != 0 || r.Addr > 0xFFFF {
			return errors.New("a port is a number up to 0xffff, read in 1, 2 or 4 bytes and aligned to that")
		}
	case OpSearch:
		if len(r.Data) == 0 || len(r.Data) > MaxPattern || r.Flags > 1<<16 {
			return fmt.Errorf("a pattern has 1 to %d bytes, and at most 65536 hits are told", MaxPattern)
		}
		return atMost("a search", r.Len, MaxSearch)
	case OpFill:
		if len(r.Data) == 0 || len(r.Data) > MaxPattern {
			return fmt.Errorf("a pattern has 1 to %d bytes", MaxPattern)
		}
		return atMost("a fill", r.Len, MaxRead)
	case OpString:
		if r.Flags != 1 && r.Flags != 2 {
			return errors.New("characters have 1 or 2 bytes")
		}
		return atMost("a string", r.Len, MaxString)
	case OpFollow:
		return r.List.check()
	case OpGetContext, OpReadMSR, OpWriteMSR, OpVersion, OpQuery, OpPageIn:
	default:
		return fmt.Errorf("operation %d", r.Op)
	}
	return nil
}

func (q *List) check() error {
	if q == nil {
		return errors.New("no list named")
	}
	if q.Pointer != 4 && q.Pointer != 8 {
		return errors.New("a pointer has 4 or 8 bytes")
	}
	if q.MaxNodes == 0 || q.MaxNodes > MaxNodes || len(q.Pieces) > MaxPieces {
		return fmt.Errorf("a list has 1 to %d nodes of up to %d pieces", MaxNodes, MaxPieces)
	}
	for _, p := range q.Pieces {
		if p.Len > MaxPiece || p.Via > ViaUnicode {
			return fmt.Errorf("a piece has at most %d bytes", MaxPiece)
		}
	}
	return nil
}

// exchange is one request of a batch being served.
type exchange struct {
	l     *Live
	ctx   context.Context
	index int
	sink  func(Part) error
}

func (x *exchange) part(p Part) error { p.Index = x.index; return x.sink(p) }

func (x *exchange) done(status kdproto.Status, value uint64) error {
	return x.part(Part{Done: true, Status: status, Value: value})
}

// stopped says whether the rest of the batch is not wanted any more.
func (x *exchange) stopped() error {
	if err := x.ctx.Err(); err != nil {
		return err
	}
	x.l.mu.Lock()
	defer x.l.mu.Unlock()
	if x.l.cancelBatch {
		return context.Canceled
	}
	return nil
}

// ask makes one exchange with the target.
func (x *exchange) ask(m *kdproto.Manipulate) (kdproto.Manipulate, error) {
	if err := x.stopped(); err != nil {
		return kdproto.Manipulate{}, err
	}
	return x.l.transact(m)
}

func (x *exchange) do(r *Request) error {
	l := x.l
	switch r.Op {
	case OpReadVirtual:
		l.look(r.Addr, r.Len)
		return x.read(kdproto.APIReadVirtualMemory, r.Addr, r.Len, 0)
	case OpReadPhysical:
		if err := l.takeOutAll(); err != nil { // our breakpoints' bytes have physical addresses, too
			return err
		}
		return x.read(kdproto.APIReadPhysicalMemory, r.Addr, r.Len, r.Flags)
	case OpWriteVirtual:
		return x.write(kdproto.APIWriteVirtualMemory, r.Addr, r.Data, 0)
	case OpWritePhysical:
		if err := l.takeOutAll(); err != nil {
			return err
		}
		return x.write(kdproto.APIWritePhysicalMemory, r.Addr, r.Data, r.Flags)
	case OpReadControl:
		return x.readControl(r)
	case OpWriteControl:
		b := kdproto.Memory{Address: r.Addr, Count: uint32(len(r.Data))}
		a, err := x.ask(kdproto.NewRequest(kdproto.APIWriteControlSpace, r.Processor, &b, r.Data))
		if err != nil {
			return err
		}
		b.Get(&a.Union)
		return x.done(a.Status, uint64(b.Actual))
	case OpReadMSR, OpWriteMSR:
		b, api := kdproto.Msr{Register: uint32(r.Addr), Value: r.Value}, kdproto.APIReadMsr
		if r.Op == OpWriteMSR {
			api = kdproto.APIWriteMsr
		}
		a, err := x.ask(kdproto.NewRequest(api, r.Processor, &b, nil))
		if err != nil {
			return err
		}
		b.Get(&a.Union)
		return x.done(a.Status, b.Value)
	case OpReadIO, OpWriteIO:
		b, api := kdproto.IoSpace{Port: r.Addr, Size: uint32(r.Len), Value: uint32(r.Value)}, kdproto.APIReadIoSpace
		if r.Op == OpWriteIO {
			api = kdproto.APIWriteIoSpace
		}
		a, err := x.ask(kdproto.NewRequest(api, r.Processor, &b, nil))
		if err != nil {
			return err
		}
		b.Get(&a.Union)
		return x.done(a.Status, uint64(b.Value)&(1<<(8*r.Len)-1))
	case OpReadBus, OpWriteBus:
		b := kdproto.BusData{Type: r.Bus.Type, Bus: r.Bus.Bus, Slot: r.Bus.Slot, Offset: uint32(r.Addr), Length: uint32(r.Len)}
		api := kdproto.APIGetBusData
		if r.Op == OpWriteBus {
			api, b.Length = kdproto.APISetBusData, uint32(len(r.Data))
		}
		a, err := x.ask(kdproto.NewRequest(api, r.Processor, &b, r.Data))
		if err != nil {
			return err
		}
		b.Get(&a.Union)
		if r.Op == OpReadBus && !a.Status.Failed() {
			if err := x.part(Part{Data: a.Data[:min(uint64(len(a.Data)), uint64(b.Length), r.Len)]}); err != nil {
				return err
			}
		}
		return x.done(a.Status, uint64(b.Length))
	case OpGetContext:
		if err := x.stopped(); err != nil {
			return err
		}
		c := l.getContext(r.Processor)
		if c == nil {
			return x.refused()
		}
		if err := x.part(Part{Data: c}); err != nil {
			return err
		}
		return x.done(kdproto.StatusSuccess, uint64(len(c)))
	case OpSetContext:
		if r.Processor != l.report.Processor {
			return x.done(kdproto.StatusInvalidParameter, 0)
		}
		if err := x.stopped(); err != nil {
			return err
		}
		l.getContext(r.Processor) // a target refuses a context that nobody has read since the stop
		if err := l.setContext(r.Processor, r.Data); err != nil {
			return x.refused()
		}
		l.moved = l.arch.PC(r.Data) != l.stop.PC
		return x.done(kdproto.StatusSuccess, uint64(len(r.Data)))
	case OpVersion:
		a, err := x.ask(kdproto.NewRequest(kdproto.APIGetVersion, l.report.Processor, nil, nil))
		if err != nil {
			return err
		}
		if err := x.part(Part{Data: a.Union[:]}); err != nil {
			return err
		}
		return x.done(a.Status, 0)
	case OpSearch:
		return x.search(r)
	case OpFill:
		return x.fill(r)
	case OpQuery:
		b := kdproto.QueryMemory{Address: r.Addr}
		a, err := x.ask(kdproto.NewRequest(kdproto.APIQueryMemory, r.Processor, &b, nil))
		if err != nil {
			return err
		}
		b.Get(&a.Union)
		return x.done(a.Status, uint64(b.Space)|uint64(b.Flags)<<32)
	case OpString:
		return x.str(r)
	case OpFollow:
		return x.follow(r.List)
	case OpPageIn:
		a, err := x.ask(kdproto.NewRequest(kdproto.APIPageIn, r.Processor, &kdproto.Memory{Address: r.Addr}, nil))
		if err != nil {
			return err
		}
		return x.done(a.Status, 0)
	}
	return fmt.Errorf("%w: operation %d", ErrBadRequest, r.Op)
}

// refused ends a request that the target did not serve, or reports that the
// target is gone.
func (x *exchange) refused() error {
	if x.l.getState() != StateHalted {
		return ErrLost
	}
	return x.done(kdproto.StatusUnsuccessful, 0)
}

// look remembers what a client read, so that the next stop brings it along.
func (l *Live) look(addr, n uint64) {
	const ranges, most = 4, 1024
	if l.opt.Speed != 0 || n == 0 || n > most || len(l.looked) >= ranges || l.stop == nil {
		return
	}
	for _, m := range append(l.stop.Bundle.Memory, l.looked...) {
		if addr-m.Addr < uint64(len(m.Data)) && addr-m.Addr+n <= uint64(len(m.Data)) {
			return
		}
	}
	l.looked = append(l.looked, Memory{Addr: addr, Data: make([]byte, n)})
}

// read reads a range at the speed of the line: requests of the largest size,
// wherever the pages end. One that hits a hole gives what is before the hole;
// reading goes on at the next page.
func (x *exchange) read(api kdproto.API, addr, n uint64, flags uint32) error {
	if api == kdproto.APIReadVirtualMemory {
		if err := x.l.takeOut(addr, n); err != nil {
			return err
		}
	}
	status := kdproto.StatusSuccess
	for off := uint64(0); off < n; {
		want := min(n-off, x.l.readSize)
		b := kdproto.Memory{Address: addr + off, Count: uint32(want), Actual: flags}
		a, err := x.ask(kdproto.NewRequest(api, x.l.report.Processor, &b, nil))
		if err != nil {
			x.l.readSize = uint64(x.l.opt.ReadSize) // more may be what it does not answer
			return err
		}
		b.Get(&a.Union)
		got := min(uint64(b.Actual), uint64(len(a.Data)), want)
		if got > 0 {
			if err := x.part(Part{Offset: off, Data: a.Data[:got]}); err != nil {
				return err
			}
			off += got
		}
		if x.l.gave(addr+off, want, got, a.Status) {
			continue
		}
		if got == want || (got > 0 && !a.Status.Failed()) {
			continue
		}
		status = kdproto.StatusUnsuccessful
		off += pageSize - (addr+off)%pageSize
	}
	return x.done(status, 0)
}

// gave learns from an answer how much the target's packets hold: what is asked
// for grows while all of it is given. again: nothing was given of more than the
// link begins with; less may succeed. end is the address behind what was given.
func (l *Live) gave(end, want, got uint64, status kdproto.Status) (again bool) {
	least := uint64(l.opt.ReadSize)
	if least == kdproto.MaxTransfer {
		return false
	}
	switch {
	case got == 0 && want > least:
		l.readSize, l.readMost = least, true
		return true
	case got == want && got == l.readSize && !l.readMost:
		l.readSize = min(2*got, kdproto.MaxTransfer)
	case got < want && !status.Failed() && end%pageSize != 0:
		l.readSize, l.readMost = max(got, minRead), true
	}
	return false
}

// minRead is the least that is asked for, whatever a target gives.
const minRead = 256

func (x *exchange) write(api kdproto.API, addr uint64, data []byte, flags uint32) error {
	l := x.l
	if api == kdproto.APIWriteVirtualMemory {
		if err := l.takeOut(addr, uint64(len(data))); err != nil {
			return err
		}
	}
	written := uint64(0)
	for written < uint64(len(data)) {
		chunk := data[written:min(uint64(len(data)), written+uint64(l.opt.ReadSize))]
		b := kdproto.Memory{Address: addr + written, Count: uint32(len(chunk)), Actual: flags}
		a, err := x.ask(kdproto.NewRequest(api, l.report.Processor, &b, chunk))
		if err != nil {
			return err
		}
		b.Get(&a.Union)
		got := min(uint64(b.Actual), uint64(len(chunk)))
		written += got
		if a.Status.Failed() || got == 0 {
			return x.done(kdproto.StatusUnsuccessful, written)
		}
	}
	return x.done(kdproto.StatusSuccess, written)
}

func (x *exchange) readControl(r *Request) error {
	l := x.l
	if l.version.Machine == kdproto.MachineAMD64 && r.Addr > 3 {
		// Some kernels assert on selectors they do not know.
		return x.done(kdproto.StatusInvalidParameter, 0)
	}
	b := kdproto.Memory{Address: r.Addr, Count: uint32(r.Len)}
	a, err := x.ask(kdproto.NewRequest(kdproto.APIReadControlSpace, r.Processor, &b, nil))
	if err != nil {
		return err
	}
	b.Get(&a.Union)
	// ReactOS reports the whole structure whatever was asked.
	got := min(uint64(b.Actual), uint64(len(a.Data)), r.Len)
	if got > 0 {
		if err := x.part(Part{Data: a.Data[:got]}); err != nil {
			return err
		}
	}
	return x.done(a.Status, got)
}

// getContext reads the whole CONTEXT of a processor, nil if the target does
// not tell.
func (l *Live) getContext(p uint16) []byte {
	r, err := l.transact(kdproto.NewRequest(kdproto.APIGetContext, p, nil, nil))
	if err != nil {
		return nil
	}
	if !r.Status.Failed() && len(r.Data) > 0 {
		return bytes.Clone(r.Data)
	}
	var c []byte
	for len(c) < l.arch.ContextSize {
		b := kdproto.ContextEx{Offset: uint32(len(c)), Count: uint32(min(l.arch.ContextSize-len(c), kdproto.MaxTransfer))}
		r, err := l.transact(kdproto.NewRequest(kdproto.APIGetContextEx, p, &b, nil))
		if err != nil || r.Status.Failed() {
			return nil
		}
		b.Get(&r.Union)
		n := min(int(b.Copied), len(r.Data), l.arch.ContextSize-len(c))
		if n == 0 {
			return nil
		}
		c = append(c, r.Data[:n]...)
	}
	return c
}

// setContext writes the whole CONTEXT of the reporting processor.
func (l *Live) setContext(p uint16, c []byte) error {
	r, err := l.transact(kdproto.NewRequest(kdproto.APISetContext, p, &kdproto.ContextFlags{Flags: l.arch.ContextFlags(c)}, c))
	if err != nil {
		return err
	}
	if !r.Status.Failed() {
		return nil
	}
	// At most 512 bytes at once, in order; the target applies them when the
	// total is there.
	for off := 0; off < len(c); off += 512 {
		chunk := c[off:min(off+512, len(c))]
		b := kdproto.ContextEx{Offset: uint32(off), Count: uint32(len(chunk)), Copied: uint32(len(c))}
		r, err := l.transact(kdproto.NewRequest(kdproto.APISetContextEx, p, &b, chunk))
		if err != nil {
			return err
		}
		if r.Status.Failed() {
			return fmt.Errorf("the target refused the registers (%v)", r.Status)
		}
	}
	return nil
}

// getSpecial reads the special registers of a processor, nil if the target
// does not tell.
func (l *Live) getSpecial(p uint16) []byte {
	b := kdproto.Memory{Address: l.arch.SpecialAddr, Count: uint32(l.arch.SpecialSize)}
	r, err := l.transact(kdproto.NewRequest(kdproto.APIReadControlSpace, p, &b, nil))
	if err != nil || r.Status.Failed() {
		return nil
	}
	b.Get(&r.Union)
	n := min(int(b.Actual), len(r.Data), l.arch.SpecialSize)
	if n == 0 {
		return nil
	}
	return bytes.Clone(r.Data[:n])
}

// readRuns reads a range of virtual memory for the owner's own use.
func (l *Live) readRuns(addr uint64, n int) []Memory {
	var out []Memory
	x := exchange{l: l, ctx: l.ctx, sink: func(p Part) error {
		if len(p.Data) == 0 {
			return nil
		}
		at := addr + p.Offset
		if k := len(out); k > 0 && out[k-1].Addr+uint64(len(out[k-1].Data)) == at {
			out[k-1].Data = append(out[k-1].Data, p.Data...)
		} else {
			out = append(out, Memory{at, bytes.Clone(p.Data)})
		}
		return nil
	}}
	x.read(kdproto.APIReadVirtualMemory, addr, uint64(n), 0)
	return out
}

// readAll reads n bytes, or as many as there are before the first hole.
func (l *Live) readAll(addr uint64, n int) []byte {
	if r := l.readRuns(addr, n); len(r) > 0 && r[0].Addr == addr {
		return r[0].Data
	}
	return nil
}

func getPointer(b []byte, size int) uint64 {
	switch {
	case len(b) < size:
		return 0
	case size == 4:
		return uint64(le.Uint32(b))
	}
	return le.Uint64(b)
}

func (l *Live) pointerAt(addr uint64, size int) (uint64, bool) {
	b := l.readAll(addr, size)
	return l.arch.Canon(getPointer(b, size)), len(b) == size
}

// search looks for a pattern: by the target's own search where it has one and
// the steps allow it, else by reading, next to the line.
func (x *exchange) search(r *Request) error {
	l := x.l
	step := max(r.Value, 1)
	most := int(max(r.Flags, 1))
	var hits []byte
	found := 0
	at, end := r.Addr, r.Addr+r.Len
	hit := func(a uint64) {
		if (a-r.Addr)%step == 0 {
			hits = le.AppendUint64(hits, a)
			found++
		}
	}
	finish := func(status kdproto.Status) error {
		if found == 0 && status == kdproto.StatusSuccess {
			status = kdproto.StatusNoMoreEntries
		}
		if len(hits) > 0 {
			if err := x.part(Part{Data: hits}); err != nil {
				return err
			}
		}
		return x.done(status, uint64(found))
	}
	if err := l.takeOut(r.Addr, r.Len); err != nil {
		return err
	}
	n := uint64(len(r.Data))
	for !l.noSearch && found < most && at+n <= end && end-at > 2*kdproto.MaxTransfer {
		b := kdproto.SearchMemory{Address: at, Length: end - at, Pattern: uint32(n)}
		a, err := x.ask(kdproto.NewRequest(kdproto.APISearchMemory, l.report.Processor, &b, r.Data))
		if err != nil {
			return err
		}
		if a.Status == kdproto.StatusNoMoreEntries {
			// Whether it passed over holes or stopped at one, it does not say: only
			// a readable range is settled by this.
			break
		}
		b.Get(&a.Union)
		if a.Status.Failed() || b.Address < at || b.Address+n > end {
			l.noSearch = true
			break
		}
		hit(b.Address)
		at = b.Address + 1
	}
	// Overlapping windows, so that no hit is cut.
	var window []byte
	var base uint64
	stop := errors.New("enough")
	scan := func(p Part) error {
		if len(p.Data) == 0 {
			return nil
		}
		a := at + p.Offset
		if uint64(len(window)) == 0 || base+uint64(len(window)) != a {
			window, base = window[:0], a
		}
		window = append(window, p.Data...)
		for from := 0; ; {
			i := bytes.Index(window[from:], r.Data)
			if i < 0 {
				break
			}
			hit(base + uint64(from+i))
			from += i + 1
			if found >= most {
				return stop
			}
		}
		if keep := min(uint64(len(window)), n-1); true {
			base += uint64(len(window)) - keep
			window = append(window[:0], window[uint64(len(window))-keep:]...)
		}
		return nil
	}
	if found >= most || at >= end {
		return finish(kdproto.StatusSuccess)
	}
	y := exchange{l: l, ctx: x.ctx, sink: func(p Part) error { return scan(p) }}
	err := y.read(kdproto.APIReadVirtualMemory, at, end-at, 0)
	if err != nil && err != stop {
		return err
	}
	return finish(kdproto.StatusSuccess)
}

// fill repeats a pattern: by the target where it can, else by writing.
func (x *exchange) fill(r *Request) error {
	l := x.l
	physical := r.Flags&1 != 0
	var err error
	if physical {
		err = l.takeOutAll()
	} else {
		err = l.takeOut(r.Addr, r.Len)
	}
	if err != nil {
		return err
	}
	if !l.noFill && r.Len > kdproto.MaxTransfer && r.Len <= 1<<31 {
		b := kdproto.FillMemory{Address: r.Addr, Length: uint32(r.Len), Flags: 1, Pattern: uint16(len(r.Data))}
		if physical {
			b.Flags = 2
		}
		a, err := x.ask(kdproto.NewRequest(kdproto.APIFillMemory, l.report.Processor, &b, r.Data))
		if err != nil {
			return err
		}
		b.Get(&a.Union)
		if !a.Status.Failed() && uint64(b.Length) == r.Len {
			return x.done(a.Status, uint64(b.Length))
		}
		l.noFill = true
	}
	api := kdproto.APIWriteVirtualMemory
	if physical {
		api = kdproto.APIWritePhysicalMemory
	}
	// Whole patterns only, so that each write begins at the pattern's start.
	whole := kdproto.MaxTransfer / len(r.Data) * len(r.Data)
	buf := bytes.Repeat(r.Data, whole/len(r.Data))
	written := uint64(0)
	for written < r.Len {
		chunk := buf[:min(uint64(whole), r.Len-written)]
		b := kdproto.Memory{Address: r.Addr + written, Count: uint32(len(chunk))}
		a, err := x.ask(kdproto.NewRequest(api, l.report.Processor, &b, chunk))
		if err != nil {
			return err
		}
		b.Get(&a.Union)
		got := min(uint64(b.Actual), uint64(len(chunk)))
		written += got
		if a.Status.Failed() || got != uint64(len(chunk)) {
			return x.done(kdproto.StatusUnsuccessful, written)
		}
	}
	return x.done(kdproto.StatusSuccess, written)
}

// str reads a string in small reads that end at pages, up to its NUL.
func (x *exchange) str(r *Request) error {
	var s []byte
	size := int(r.Flags)
	for uint64(len(s)) < r.Len {
		at := r.Addr + uint64(len(s))
		n := min(r.Len-uint64(len(s)), 256, pageSize-at%pageSize)
		if size == 2 && n == 1 {
			n = 2
		}
		if err := x.stopped(); err != nil {
			return err
		}
		b := x.l.readAll(at, int(n))
		for i := 0; i+size <= len(b); i += size {
			if b[i] == 0 && (size == 1 || b[i+1] == 0) {
				s = append(s, b[:i]...)
				return x.text(s, kdproto.StatusSuccess)
			}
		}
		s = append(s, b...)
		if len(b) < int(n) {
			return x.text(s, kdproto.StatusUnsuccessful)
		}
	}
	return x.text(s[:min(uint64(len(s)), r.Len)], kdproto.StatusSuccess)
}

func (x *exchange) text(s []byte, status kdproto.Status) error {
	if x.l.getState() != StateHalted {
		return ErrLost
	}
	if len(s) > 0 {
		if err := x.part(Part{Data: s}); err != nil {
			return err
		}
	}
	return x.done(status, uint64(len(s)))
}

// follow walks a list. The pieces that lie close together in a node are read
// with its link in one exchange.
func (x *exchange) follow(q *List) error {
	l := x.l
	ps := int(q.Pointer)
	lo, hi := q.LinkOffset, q.LinkOffset+uint32(ps)
	for _, p := range q.Pieces {
		need := p.Len
		switch p.Via {
		case ViaPointer:
			need = uint32(ps)
		case ViaUnicode:
			need = uint32(2 * ps)
		}
		l2, h2 := min(lo, p.Offset), max(hi, p.Offset+need)
		if h2 >= p.Offset && h2-l2 <= 1024 {
			lo, hi = l2, h2
		}
	}
	seen := make(map[uint64]bool)
	var out []byte
	sent := uint64(0)
	total := 0
	flush := func() error {
		if len(out) == 0 {
			return nil
		}
		err := x.part(Part{Offset: sent, Data: out})
		sent += uint64(len(out))
		out = out[:0]
		return err
	}
	status := kdproto.StatusSuccess
	nodes := uint64(0)
	next, ok := l.pointerAt(q.Head, ps)
	for ; ; nodes++ {
		if err := x.stopped(); err != nil {
			return err
		}
		if l.getState() != StateHalted {
			return ErrLost
		}
		if !ok {
			status = kdproto.StatusUnsuccessful
			break
		}
		if next == 0 || next == l.arch.Canon(q.Head) || seen[next] || nodes >= uint64(q.MaxNodes) || total > MaxListData {
			break
		}
		seen[next] = true
		node := next - uint64(q.LinkOffset)
		span := l.readAll(node+uint64(lo), int(hi-lo))
		// in gives n bytes at an offset of the node.
		in := func(off, n uint32) []byte {
			if off >= lo && off-lo+n <= uint32(len(span)) {
				return span[off-lo : off-lo+n]
			}
			b := l.readAll(node+uint64(off), int(n))
			if len(b) < int(n) {
				return nil
			}
			return b
		}
		nd := Node{Addr: node}
		for _, p := range q.Pieces {
			nd.Pieces = append(nd.Pieces, l.piece(p, in, ps))
		}
		before := len(out)
		out = AppendNode(out, nd)
		total += len(out) - before
		if len(out) > 16<<10 {
			if err := flush(); err != nil {
				return err
			}
		}
		link := in(q.LinkOffset, uint32(ps))
		next, ok = l.arch.Canon(getPointer(link, ps)), len(link) == ps
	}
	if err := flush(); err != nil {
		return err
	}
	return x.done(status, nodes)
}

func (l *Live) piece(p Piece, in func(off, n uint32) []byte, ps int) []byte {
	switch p.Via {
	case ViaNode:
		return in(p.Offset, p.Len)
	case ViaPointer:
		b := in(p.Offset, uint32(ps))
		if b == nil {
			return nil
		}
		at := l.arch.Canon(getPointer(b, ps))
		if at == 0 {
			return nil
		}
		return l.readAll(at+uint64(p.Add), int(p.Len))
	}
	b := in(p.Offset, uint32(2*ps)) // Length u16, MaximumLength u16, padding, Buffer
	if b == nil {
		return nil
	}
	n := min(uint32(le.Uint16(b)), p.Len)
	if n == 0 {
		return []byte{}
	}
	return l.readAll(l.arch.Canon(getPointer(b[ps:], ps)), int(n))
}

func lastSlash(s string) int { return strings.LastIndexAny(s, `\/`) }

func trimExt(s string) string {
	if i := strings.LastIndexByte(s, '.'); i > 0 {
		return s[:i]
	}
	return s
}

// globMatch matches * and ? without regard to case.
func globMatch(pattern, s string) bool {
	p, t := strings.ToLower(pattern), strings.ToLower(s)
	pi, ti, star, mark := 0, 0, -1, 0
	for ti < len(t) {
		switch {
		case pi < len(p) && (p[pi] == '?' || p[pi] == t[ti]):
			pi++
			ti++
		case pi < len(p) && p[pi] == '*':
			star, mark = pi, ti
			pi++
		case star >= 0:
			mark++
			pi, ti = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(p[pi:], "*") == ""
}
