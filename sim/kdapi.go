package sim

import (
	"bytes"
	"fmt"

	"openkd/kdproto"
	"openkd/sim/cpu"
)

// internalBreakpoint counts the calls of an address by itself.
type internalBreakpoint struct {
	addr  uint64
	flags uint32
	calls uint32
	old   byte
	set   bool
}

const maxInternal = 20

// request answers one manipulate request. out says that the stop ends.
func (m *Machine) request(n int, q *kdproto.Manipulate) (w wayOut, out bool) {
	if q.API < kdproto.APIReadVirtualMemory || q.API > kdproto.APIMax {
		m.stats.Requests[kdproto.APIMax]++
	} else {
		m.stats.Requests[q.API]++
	}
	m.stats.Exchanges++
	switch q.API {
	case kdproto.APIContinue:
		var r kdproto.Continue
		r.Get(&q.Union)
		m.kd.contextSent = false
		return wayOut{status: r.Status}, true
	case kdproto.APIContinue2:
		r := kdproto.Continue2{Machine: kdproto.MachineAMD64}
		r.Get(&q.Union)
		m.kd.contextSent = false
		if !r.Status.Failed() {
			m.applyControl(n, &r)
		}
		return wayOut{status: r.Status}, true
	case kdproto.APISwitchProcessor:
		m.kd.contextSent = false
		return wayOut{kind: waySwitch, processor: int(q.Processor)}, true
	case kdproto.APIReboot:
		m.reset = true
		return wayOut{}, true
	case kdproto.APICauseBugCheck:
		if m.cfg.Quirks == QuirksReactOS {
			m.reset = true // a triple fault there
			return wayOut{}, true
		}
		return wayOut{kind: wayCrash}, true
	case kdproto.APIClearAllInternalBreakpoints:
		for _, i := range m.kd.internal {
			m.clearInternal(i)
		}
		m.kd.internal = nil
		return wayOut{}, false
	case kdproto.APIWriteBreakPointEx:
		if m.cfg.Quirks == QuirksReactOS {
			return wayOut{status: kdproto.StatusUnsuccessful}, true
		}
	}
	r := *q
	r.Data = nil
	r.Status = kdproto.StatusSuccess
	cont := m.answer(n, q, &r)
	if m.cfg.Quirks == QuirksReactOS && r.Status.Failed() && noisy[q.API] {
		m.print(n, fmt.Appendf(nil, "(ntoskrnl/kd64/kdapi.c) KD: request %#x failed: %#08x\n", uint32(q.API), uint32(r.Status)))
	}
	if m.send(kdproto.TypeManipulate, r.Append(nil), m.cfg.Quirks == QuirksReactOS) != nil {
		return wayOut{}, false // given up; the next request is waited for
	}
	if cont != kdproto.StatusPending {
		return wayOut{status: cont}, true
	}
	return wayOut{}, false
}

// noisy are the requests whose failure ReactOS announces with a print.
var noisy = map[kdproto.API]bool{
	kdproto.APISearchMemory: true, kdproto.APIFillMemory: true, kdproto.APIGetBusData: true, kdproto.APISetBusData: true,
	kdproto.APICheckLowMemory: true, kdproto.APISetInternalBreakPoint: true, kdproto.APIGetInternalBreakPoint: true,
	kdproto.APIQuerySpecialCalls: true, kdproto.APISetSpecialCall: true, kdproto.APIClearSpecialCalls: true,
	kdproto.APIPageIn: true, kdproto.APISwitchPartition: true, kdproto.APIRestoreBreakPointEx: true,
	kdproto.APIRestoreBreakPoint: true, kdproto.APIWriteBreakPoint: true, kdproto.APIWriteCustomBreakpoint: true,
}

// applyControl is the control set of Continue2.
func (m *Machine) applyControl(n int, r *kdproto.Continue2) {
	a := m.b.pcr(n) + contextOffset + ctxEFlags
	f := m.b.u32(a) &^ cpu.FlagTF
	if r.Trace {
		f |= cpu.FlagTF
	}
	m.b.putU32(a, f)
	for i := range m.processors() {
		s := m.b.pcr(i) + stateOffset
		m.b.putU64(s+spDr6, 0)
		m.b.putU64(s+spDr7, r.Dr7)
	}
}

// answer fills in the reply r. The result is a continue status when the
// request goes on by itself, else StatusPending.
func (m *Machine) answer(n int, q, r *kdproto.Manipulate) kdproto.Status {
	const fail = kdproto.StatusUnsuccessful
	c := m.b.cpus[n]
	reactos := m.cfg.Quirks == QuirksReactOS
	other := int(q.Processor)
	known := other < m.processors()
	switch q.API {
	case kdproto.APIReadVirtualMemory, kdproto.APIReadPhysicalMemory:
		var b kdproto.Memory
		b.Get(&q.Union)
		p := make([]byte, min(b.Count, kdproto.MaxTransfer))
		var done int
		if q.API == kdproto.APIReadVirtualMemory {
			done = c.ReadLinear(b.Address, p)
		} else if reactos && b.Actual != 0 || b.Actual > 3 {
			done = 0 // a cache attribute it does not do
		} else {
			done = m.physical(b.Address, p, false)
		}
		if done < len(p) {
			r.Status = fail
		}
		r.Data = p[:done]
		b.Actual = uint32(done)
		b.Put(&r.Union)
	case kdproto.APIWriteVirtualMemory, kdproto.APIWritePhysicalMemory:
		var b kdproto.Memory
		b.Get(&q.Union)
		var done int
		if q.API == kdproto.APIWriteVirtualMemory {
			done = c.WriteLinear(b.Address, q.Data)
		} else if !(reactos && b.Actual != 0 || b.Actual > 3) {
			done = m.physical(b.Address, q.Data, true)
		}
		if done < len(q.Data) {
			r.Status = fail
		}
		b.Actual = uint32(done)
		b.Put(&r.Union)
	case kdproto.APIGetContext:
		if !known {
			r.Status = fail
			break
		}
		r.Data = m.context(other)
		m.kd.contextSent = true
	case kdproto.APISetContext:
		if !known || !m.kd.contextSent || len(q.Data) < contextSize {
			r.Status = fail
			break
		}
		m.setContext(other, q.Data[:contextSize])
	case kdproto.APIGetContextEx:
		var b kdproto.ContextEx
		b.Get(&q.Union)
		b.Copied = 0
		if !known || b.Offset > contextSize {
			r.Status = fail
		} else {
			p := m.context(other)[b.Offset:]
			r.Data = p[:min(uint32(len(p)), b.Count, kdproto.MaxTransfer)]
			b.Copied = uint32(len(r.Data))
			m.kd.contextSent = true
		}
		b.Put(&r.Union)
	case kdproto.APISetContextEx:
		var b kdproto.ContextEx
		b.Get(&q.Union)
		total := b.Copied
		b.Copied = 0
		if !known || !m.kd.contextSent || uint64(b.Offset)+uint64(len(q.Data)) > contextSize || int(b.Count) > len(q.Data) {
			r.Status = fail
		} else {
			if b.Offset == 0 || m.kd.staged == nil {
				m.kd.staged = m.context(other)
			}
			end := b.Offset + b.Count
			copy(m.kd.staged[b.Offset:end], q.Data)
			b.Copied = b.Count
			if reactos || end >= total {
				m.setContext(other, m.kd.staged)
				m.kd.staged = nil
			}
		}
		b.Put(&r.Union)
	case kdproto.APIWriteBreakPoint:
		var b kdproto.WriteBreakPoint
		b.Get(&q.Union)
		if b.Handle = m.addBreakpoint(n, b.Address); b.Handle == 0 {
			r.Status = fail
		}
		b.Put(&r.Union)
	case kdproto.APIRestoreBreakPoint:
		var b kdproto.RestoreBreakPoint
		b.Get(&q.Union)
		if !m.deleteBreakpoint(b.Handle) {
			r.Status = fail
		}
	case kdproto.APIWriteBreakPointEx:
		var b kdproto.BreakPointEx
		b.Get(&q.Union)
		if b.Count > 32 || uint64(len(q.Data)) < 16*uint64(b.Count) {
			r.Status = fail
			break
		}
		r.Data = bytes.Clone(q.Data[:16*b.Count])
		for e := r.Data; len(e) > 0; e = e[16:] {
			h := m.addBreakpoint(n, le.Uint64(e))
			if h == 0 {
				r.Status = fail
			}
			le.PutUint32(e[8:], h)
		}
		return continueStatus(b.Status)
	case kdproto.APIRestoreBreakPointEx:
		var b kdproto.BreakPointEx
		b.Get(&q.Union)
		if reactos || b.Count > 32 || uint64(len(q.Data)) < 4*uint64(b.Count) {
			r.Status = fail
			break
		}
		for e := q.Data[:4*b.Count]; len(e) > 0; e = e[4:] {
			if !m.deleteBreakpoint(le.Uint32(e)) {
				r.Status = fail
			}
		}
		return continueStatus(b.Status)
	case kdproto.APIReadControlSpace, kdproto.APIWriteControlSpace:
		m.controlSpace(q, r, known, other)
	case kdproto.APIReadIoSpace, kdproto.APIWriteIoSpace:
		var b kdproto.IoSpace
		b.Get(&q.Union)
		if b.Size != 1 && b.Size != 2 && b.Size != 4 || b.Port%uint64(b.Size) != 0 || b.Port > 0xFFFF {
			r.Status = kdproto.StatusInvalidParameter
			break
		}
		if q.API == kdproto.APIReadIoSpace {
			b.Value = m.portIn(uint16(b.Port), int(b.Size))
		} else {
			m.portOut(uint16(b.Port), int(b.Size), b.Value)
		}
		b.Put(&r.Union)
	case kdproto.APIReadIoSpaceExtended, kdproto.APIWriteIoSpaceExtended:
		var b kdproto.IoSpaceExtended
		b.Get(&q.Union)
		if b.Interface != 1 || b.Bus != 0 || b.Space != 1 || b.Address > 0xFFFF ||
			b.Size != 1 && b.Size != 2 && b.Size != 4 || b.Address%uint64(b.Size) != 0 {
			r.Status = kdproto.StatusInvalidParameter
			break
		}
		if q.API == kdproto.APIReadIoSpaceExtended {
			b.Value = m.portIn(uint16(b.Address), int(b.Size))
		} else {
			m.portOut(uint16(b.Address), int(b.Size), b.Value)
		}
		b.Put(&r.Union)
	case kdproto.APIReadMsr, kdproto.APIWriteMsr:
		var b kdproto.Msr
		b.Get(&q.Union)
		if !m.msr(n, b.Register, q.API == kdproto.APIWriteMsr, &b.Value) {
			r.Status = kdproto.StatusNoSuchDevice
		}
		b.Put(&r.Union)
	case kdproto.APIGetVersion:
		m.b.read(m.b.sym["KdVersionBlock"], r.Union[:])
	case kdproto.APIQueryMemory:
		var b kdproto.QueryMemory
		b.Get(&q.Union)
		if b.Space != 0 {
			r.Status = kdproto.StatusInvalidParameter
			break
		}
		if b.Address>>63 == 1 {
			b.Space = 2
		}
		b.Reserved, b.Flags = 0, 7
		b.Put(&r.Union)
	case kdproto.APISearchMemory, kdproto.APIFillMemory, kdproto.APIGetBusData, kdproto.APISetBusData,
		kdproto.APICheckLowMemory, kdproto.APIQuerySpecialCalls, kdproto.APISetSpecialCall,
		kdproto.APIClearSpecialCalls, kdproto.APISetInternalBreakPoint, kdproto.APIGetInternalBreakPoint:
		if reactos {
			r.Status = fail
			break
		}
		m.answerWindows(n, q, r)
	default:
		r.Status = fail // page-in, partitions, custom breakpoints, and what nobody knows
	}
	return kdproto.StatusPending
}

// continueStatus says whether a breakpoint request goes on by itself.
func continueStatus(s kdproto.Status) kdproto.Status {
	switch s {
	case kdproto.DbgContinue, kdproto.DbgExceptionHandled, kdproto.DbgExceptionNotHandled:
		return s
	}
	return kdproto.StatusPending
}

// answerWindows answers what ReactOS does not.
func (m *Machine) answerWindows(n int, q, r *kdproto.Manipulate) {
	const fail = kdproto.StatusUnsuccessful
	c := m.b.cpus[n]
	switch q.API {
	case kdproto.APISearchMemory:
		var b kdproto.SearchMemory
		b.Get(&q.Union)
		pat := q.Data[:min(uint64(b.Pattern), uint64(len(q.Data)))]
		if len(pat) == 0 {
			r.Status = kdproto.StatusInvalidParameter
			break
		}
		a, ok := search(c, b.Address, b.Length, pat)
		if !ok {
			r.Status = kdproto.StatusNoMoreEntries
			break
		}
		b.Address = a
		b.Put(&r.Union)
	case kdproto.APIFillMemory:
		var b kdproto.FillMemory
		b.Get(&q.Union)
		pat := q.Data[:min(int(b.Pattern), len(q.Data))]
		if len(pat) == 0 || b.Flags != 1 && b.Flags != 2 {
			r.Status = kdproto.StatusInvalidParameter
			break
		}
		// Whole patterns of about a page, so that the phase stays.
		whole := bytes.Repeat(pat, max(1, pageSize/len(pat)))
		var done uint32
		for done < b.Length {
			p := whole[:min(uint32(len(whole)), b.Length-done)]
			var k int
			if b.Flags == 1 {
				k = c.WriteLinear(b.Address+uint64(done), p)
			} else {
				k = m.physical(b.Address+uint64(done), p, true)
			}
			done += uint32(k)
			if k < len(p) {
				r.Status = fail
				break
			}
		}
		b.Length = done
		b.Put(&r.Union)
	case kdproto.APIGetBusData, kdproto.APISetBusData:
		var b kdproto.BusData
		b.Get(&q.Union)
		m.busData(&b, q, r)
		b.Put(&r.Union)
	case kdproto.APICheckLowMemory:
	case kdproto.APIQuerySpecialCalls:
		b := kdproto.SpecialCalls{Count: uint32(len(m.kd.special))}
		b.Put(&r.Union)
		for _, a := range m.kd.special {
			r.Data = le.AppendUint64(r.Data, a)
		}
	case kdproto.APISetSpecialCall:
		var b kdproto.SpecialCall
		b.Get(&q.Union)
		if len(m.kd.special) == 10 {
			r.Status = fail
			break
		}
		m.kd.special = append(m.kd.special, b.Address)
	case kdproto.APIClearSpecialCalls:
		m.kd.special = nil
	case kdproto.APISetInternalBreakPoint:
		var b kdproto.InternalBreakPoint
		b.Get(&q.Union)
		i := m.findInternal(b.Address)
		if i == nil {
			if len(m.kd.internal) == maxInternal {
				r.Status = fail
				break
			}
			i = &internalBreakpoint{addr: b.Address}
			m.kd.internal = append(m.kd.internal, i)
		}
		i.flags, i.calls = b.Flags&^2, 0
		m.clearInternal(i)
		if i.flags&4 == 0 { // not suspended
			m.setInternal(i)
		}
	case kdproto.APIGetInternalBreakPoint:
		var b kdproto.InternalBreakPoint
		b.Get(&q.Union)
		i := m.findInternal(b.Address)
		b = kdproto.InternalBreakPoint{Address: b.Address, Flags: 2}
		if i == nil {
			r.Status = fail
		} else {
			b.Flags, b.Calls = i.flags, i.calls
		}
		b.Put(&r.Union)
	}
}

// search looks for a pattern in mapped memory; holes are skipped over a page
// at a time. The range is bounded by the memory the machine has.
func search(c *cpu.CPU, addr, length uint64, pat []byte) (uint64, bool) {
	length = min(length, 1<<28)
	var page [pageSize]byte
	var window []byte
	start := addr
	end := addr + length
	for a := addr; a < end && a >= addr; {
		p := page[:min(end-a, pageSize-a%pageSize)]
		k := c.ReadLinear(a, p)
		if k == 0 {
			a = (a/pageSize + 1) * pageSize
			window, start = window[:0], a
			continue
		}
		window = append(window, p[:k]...)
		if i := bytes.Index(window, pat); i >= 0 {
			return start + uint64(i), true
		}
		if keep := len(pat) - 1; len(window) > keep {
			start += uint64(len(window) - keep)
			window = append(window[:0], window[len(window)-keep:]...)
		}
		a += uint64(k)
	}
	return 0, false
}

// physical reads or writes RAM and returns the bytes done.
func (m *Machine) physical(addr uint64, p []byte, write bool) int {
	ram := m.b.mem.ram
	if addr >= uint64(len(ram)) {
		return 0
	}
	if write {
		return copy(ram[addr:], p)
	}
	return copy(p, ram[addr:])
}

func (m *Machine) context(n int) []byte {
	p := make([]byte, contextSize)
	m.b.read(m.b.pcr(n)+contextOffset, p)
	return p
}

func (m *Machine) setContext(n int, p []byte) { m.b.write(m.b.pcr(n)+contextOffset, p) }

func (m *Machine) controlSpace(q, r *kdproto.Manipulate, known bool, n int) {
	var b kdproto.Memory
	b.Get(&q.Union)
	b.Actual = 0
	defer func() { b.Put(&r.Union) }()
	r.Status = kdproto.StatusUnsuccessful
	if !known {
		return
	}
	pcr := m.b.pcr(n)
	if q.API == kdproto.APIWriteControlSpace {
		if b.Address == 2 {
			k := min(len(q.Data), specialSize)
			m.b.write(pcr+stateOffset, q.Data[:k])
			b.Actual = uint32(k)
			r.Status = kdproto.StatusSuccess
			if m.cfg.Quirks == QuirksReactOS {
				r.Data = q.Data
			}
		}
		return
	}
	var p []byte
	switch b.Address {
	case 0:
		p = le.AppendUint64(nil, pcr)
	case 1:
		p = le.AppendUint64(nil, pcr+sizePrcbOffset)
	case 2:
		p = make([]byte, specialSize)
		if m.cfg.Quirks == QuirksReactOS {
			p = p[:0xD8]
			b.Count = uint32(len(p)) // it gives the whole record, whatever was asked
		}
		m.b.read(pcr+stateOffset, p)
	case 3:
		p = le.AppendUint64(nil, m.b.u64(pcr+sizePrcbOffset+8))
	default:
		return
	}
	r.Data = p[:min(uint32(len(p)), b.Count)]
	b.Actual = uint32(len(r.Data))
	r.Status = kdproto.StatusSuccess
}

// portIn and portOut are the debugger's; the service ports are not for it.
func (m *Machine) portIn(port uint16, size int) uint32 {
	if port&^7 == portPoll {
		return ^uint32(0) >> (32 - 8*size)
	}
	return m.b.io.In(port, size)
}

func (m *Machine) portOut(port uint16, size int, v uint32) {
	if port&^7 != portPoll {
		m.b.io.Out(port, size, v)
	}
}

// msr reads or writes a model-specific register of a processor: those kept in
// the saved state there, others in the processor. False is a fault.
func (m *Machine) msr(n int, reg uint32, write bool, v *uint64) bool {
	c := m.b.cpus[n]
	s := m.b.pcr(n) + stateOffset
	at := map[uint32]uint64{
		0xC0000081: 0xB8, 0xC0000082: 0xC0, 0xC0000083: 0xC8, 0xC0000084: 0xD0, // STAR LSTAR CSTAR FMASK
		0xC0000100: 0xE0, 0xC0000101: 0xA8, 0xC0000102: 0xB0, // FS, GS, kernel GS base
	}
	if o, ok := at[reg]; ok {
		if write {
			m.b.putU64(s+o, *v)
		} else {
			*v = m.b.u64(s + o)
		}
		return true
	}
	switch reg {
	case 0x10: // time stamp counter
		if write {
			return false
		}
		*v = c.Instructions()
	case 0x1B: // APIC base
		if write {
			return false
		}
		*v = 0xFEE00800
		if n == 0 {
			*v |= 0x100
		}
	case 0xC0000080: // EFER
		if write {
			c.EFER = *v | cpu.EFERLME | cpu.EFERLMA
		} else {
			*v = c.EFER
		}
	default:
		return false
	}
	return true
}

// busData is PCI configuration space (type 4).
func (m *Machine) busData(b *kdproto.BusData, q, r *kdproto.Manipulate) {
	dev := m.b.io.pci[b.Bus<<8|b.Slot&0x1F<<3|b.Slot>>5&7]
	want := b.Length
	b.Length = 0
	if b.Type != 4 || b.Bus > 255 || b.Slot > 255 {
		r.Status = kdproto.StatusUnsuccessful
		return
	}
	if dev == nil {
		// As the HAL answers for a slot without a device: its vendor word.
		if q.API == kdproto.APIGetBusData && want >= 2 {
			r.Data, b.Length = []byte{0xFF, 0xFF}, 2
			return
		}
		r.Status = kdproto.StatusUnsuccessful
		return
	}
	if b.Offset >= uint32(len(dev)) {
		r.Status = kdproto.StatusUnsuccessful
		return
	}
	dev = dev[b.Offset:]
	if q.API == kdproto.APIGetBusData {
		r.Data = bytes.Clone(dev[:min(uint32(len(dev)), want)])
		b.Length = uint32(len(r.Data))
		return
	}
	b.Length = uint32(copy(dev, q.Data))
}

// addBreakpoint enters an address into the table; 0 is refusal.
func (m *Machine) addBreakpoint(n int, addr uint64) uint32 {
	slot := -1
	for i := range m.kd.table {
		e := &m.kd.table[i]
		if e.used && e.addr == addr {
			if e.expired {
				e.expired = false
				m.activate(e)
				return uint32(i + 1)
			}
			return 0
		}
		if !e.used && slot < 0 {
			slot = i
		}
	}
	if slot < 0 {
		return 0
	}
	e := &m.kd.table[slot]
	*e = breakpoint{used: true, addr: addr, top: m.b.cpus[n].CR3 & pteAddr}
	if !m.activate(e) && m.cfg.Quirks == QuirksReactOS {
		m.print(n, fmt.Appendf(nil, "Failed to set breakpoint at %#x, it is deferred\n", addr))
	}
	return uint32(slot + 1)
}

// activate writes the breakpoint instruction if its page is there.
func (m *Machine) activate(e *breakpoint) bool {
	if e.active {
		return true
	}
	var b [1]byte
	if m.b.mem.read(e.top, e.addr, b[:]) == 0 {
		return false
	}
	e.old, e.active = b[0], true
	m.b.mem.write(e.top, e.addr, []byte{0xCC})
	return true
}

// deactivate puts the original byte back if its page is there.
func (m *Machine) deactivate(e *breakpoint) bool {
	if e.active && m.b.mem.write(e.top, e.addr, []byte{e.old}) == 0 {
		return false
	}
	e.active = false
	return true
}

func (m *Machine) deleteBreakpoint(handle uint32) bool {
	if handle < 1 || handle > uint32(len(m.kd.table)) {
		return false
	}
	e := &m.kd.table[handle-1]
	if !e.used || e.expired {
		return false
	}
	var b [1]byte
	if m.b.mem.read(e.top, e.addr, b[:]) == 0 {
		e.active, e.expired = false, true // the slot stays taken until the page returns
		return true
	}
	m.deactivate(e)
	*e = breakpoint{}
	return true
}

// removeRange takes out the table's breakpoints in a range, as the kernel does
// with the instruction bytes that it reports.
func (m *Machine) removeRange(addr uint64, n int) (any bool) {
	for i := range m.kd.table {
		e := &m.kd.table[i]
		if e.used && e.addr >= addr && e.addr < addr+uint64(n) {
			m.deactivate(e)
			*e = breakpoint{}
			any = true
		}
	}
	return any
}

// writePending writes the entries whose page has come in, and frees those that
// were waiting for it to be taken out.
func (m *Machine) writePending() {
	for i := range m.kd.table {
		e := &m.kd.table[i]
		switch {
		case !e.used || e.active:
		case e.expired:
			if _, ok := m.b.mem.translate(e.top, e.addr); ok {
				*e = breakpoint{}
			}
		default:
			m.activate(e)
		}
	}
}

// pageOut notes that a range leaves memory: its breakpoints wait for it.
func (m *Machine) pageOut(base, size uint64) {
	for i := range m.kd.table {
		if e := &m.kd.table[i]; e.used && e.addr >= base && e.addr < base+size {
			e.active = false
		}
	}
}

func (m *Machine) findInternal(addr uint64) *internalBreakpoint {
	for _, i := range m.kd.internal {
		if i.addr == addr {
			return i
		}
	}
	return nil
}

func (m *Machine) setInternal(i *internalBreakpoint) {
	var b [1]byte
	if !i.set && m.b.read(i.addr, b[:]) == 1 {
		i.old, i.set = b[0], true
		m.b.write(i.addr, []byte{0xCC})
	}
}

func (m *Machine) clearInternal(i *internalBreakpoint) {
	if i.set {
		m.b.write(i.addr, []byte{i.old})
		i.set = false
	}
}

// countCall handles an int3 that is an internal breakpoint: it counts, and the
// instruction behind it runs.
func (m *Machine) countCall(n int) bool {
	c := m.b.cpus[n]
	i := m.findInternal(c.RIP - 1)
	if i == nil || !i.set {
		return false
	}
	i.calls++
	c.RIP--
	m.clearInternal(i)
	e := c.Step()
	m.setInternal(i)
	if e != nil {
		m.exception(n, e)
	}
	return true
}
