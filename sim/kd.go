package sim

import (
	"context"
	"strings"
	"time"

	"openkd/kdproto"
	"openkd/link"
	"openkd/sim/cpu"
)

// record is an exception to report.
type record struct {
	code    kdproto.Status
	address uint64
	params  []uint64
	first   bool
}

// breakpoint is an entry of the kernel's table; the handle is its index + 1.
type breakpoint struct {
	used    bool
	active  bool // the byte is in memory
	expired bool // removed by the host while its page was not there
	addr    uint64
	top     uint64 // address space, for user addresses
	old     byte
}

// kdState is what the kernel's KD module remembers; a reset forgets it.
type kdState struct {
	table       [32]breakpoint
	internal    []*internalBreakpoint
	special     []uint64 // special calls
	stops       uint64
	contextSent bool
	staged      []byte // SetContextEx
	present     bool   // what the kernel's variables say
	asked       bool
}

// send sends a packet with mu released, so that others can look meanwhile. It
// fails when a droppable packet is given up, and when this life is over.
func (m *Machine) send(t kdproto.PacketType, payload []byte, droppable bool) error {
	ctx := m.ctx
	m.mu.Unlock()
	var err error
	for {
		err = m.target.Send(ctx, t, payload, droppable)
		if err == nil || err == link.ErrNotPresent || ctx.Err() != nil {
			break
		}
		m.pause(ctx) // the stream ended this moment; nobody is there
	}
	m.mu.Lock()
	m.notePresence()
	return err
}

func (m *Machine) receive(t kdproto.PacketType) ([]byte, link.Result, error) {
	ctx := m.ctx
	m.mu.Unlock()
	p, r, err := m.target.Receive(ctx, t, 5*m.cfg.LinkTimeout/2)
	if err != nil && ctx.Err() == nil {
		m.pause(ctx)
		r, err = link.Timeout, nil
	}
	m.mu.Lock()
	m.notePresence()
	return p, r, err
}

func (m *Machine) pause(ctx context.Context) {
	select {
	case <-time.After(m.cfg.LinkTimeout):
	case <-ctx.Done():
	}
}

// notePresence copies what the link believes about the debugger into the
// kernel's variables.
func (m *Machine) notePresence() {
	p := m.target.Present()
	if m.kd.asked && p == m.kd.present {
		return
	}
	if m.b.read(sharedVA+0x2D4, make([]byte, 1)) == 0 || m.b.u32(m.b.sym["KeNumberProcessors"]) == 0 {
		return
	}
	m.kd.asked, m.kd.present = true, p
	not, enabled := byte(1), byte(1)
	if p {
		not, enabled = 0, 3
	}
	m.b.write(m.b.sym["KdDebuggerNotPresent"], []byte{not})
	m.b.write(sharedVA+0x2D4, []byte{enabled})
}

// processors is how many processors the kernel has started.
func (m *Machine) processors() int {
	return int(min(m.b.u32(m.b.sym["KeNumberProcessors"]), uint32(len(m.b.cpus))))
}

// freeze saves the state of every started processor where the kernel's own
// freeze code does: in its PRCB.
func (m *Machine) freeze() {
	for n := range m.processors() {
		c := m.b.cpus[n]
		a := m.b.pcr(n)
		m.b.write(a+stateOffset, specialRegisters(c))
		m.b.write(a+contextOffset, contextRecord(c))
	}
}

// thaw loads the saved state back: what the debugger changed takes effect.
func (m *Machine) thaw() {
	for n := range m.processors() {
		c := m.b.cpus[n]
		a := m.b.pcr(n)
		var sp [specialSize]byte
		var ctx [contextSize]byte
		m.b.read(a+stateOffset, sp[:])
		m.b.read(a+contextOffset, ctx[:])
		loadSpecial(c, sp[:])
		loadContext(c, ctx[:])
		c.FlushTLB()
	}
}

func (m *Machine) stateChange(n int, kind kdproto.StateKind) *kdproto.StateChange {
	s := &kdproto.StateChange{
		Kind: kind, ProcessorLevel: 6, Processor: uint16(n), NumberProcessors: uint32(max(m.processors(), 1)),
		Thread: m.b.u64(m.b.pcr(n) + sizePrcbOffset + 8),
	}
	a := m.b.pcr(n)
	var ctx [contextSize]byte
	var sp [specialSize]byte
	m.b.read(a+contextOffset, ctx[:])
	m.b.read(a+stateOffset, sp[:])
	s.ProgramCounter = le.Uint64(ctx[ctxRip:])
	r := kdproto.ControlReport{
		Dr6: le.Uint64(sp[spDr6:]), Dr7: le.Uint64(sp[spDr7:]), EFlags: le.Uint32(ctx[ctxEFlags:]), Flags: 1,
		SegCs: le.Uint16(ctx[ctxSegCs:]), SegDs: le.Uint16(ctx[ctxSegCs+2:]),
		SegEs: le.Uint16(ctx[ctxSegCs+4:]), SegFs: le.Uint16(ctx[ctxSegCs+6:]),
	}
	if r.SegCs == selCode {
		r.Flags |= 2
	}
	stream := make([]byte, 16)
	stream = stream[:m.b.cpus[n].ReadLinear(s.ProgramCounter, stream)]
	if m.removeRange(s.ProgramCounter, len(stream)) {
		m.b.cpus[n].ReadLinear(s.ProgramCounter, stream)
	}
	r.Stream = stream
	s.EncodeReport(kdproto.MachineAMD64, r)
	return s
}

// report stops the machine with an exception on processor n and serves the
// debugger until it lets the machine go. True means handled.
func (m *Machine) report(n int, r *record) bool {
	c := m.b.cpus[n]
	if m.processors() == 0 {
		m.reset = true // an exception before there are exceptions
		return true
	}
	if m.cfg.Quirks == QuirksWindows {
		c.RFlags &^= cpu.FlagTF
	}
	rip := c.RIP
	exec := r.code == kdproto.StatusSingleStep && c.DR[6]&0xF != 0 && executeHit(c)
	m.freeze()
	m.kd.stops++
	handled := false
	for at := n; ; {
		s := m.stateChange(at, kdproto.StateException)
		e := &s.Exception
		if at == n {
			e.Code, e.Address, e.FirstChance = r.code, r.address, r.first
			e.NumberParameters = uint32(copy(e.Information[:], r.params))
		} else {
			e.Code, e.Address, e.FirstChance = kdproto.StatusWakeSystemDebugger, s.ProgramCounter, true
		}
		s.Data = []byte{1, 0, 0, 0}
		w := m.serve(at, s, false)
		if m.reset || m.ctx.Err() != nil {
			break
		}
		if w.kind == waySwitch {
			if w.processor < m.processors() {
				at = w.processor
			}
			continue
		}
		if w.kind == wayCrash {
			m.thaw()
			m.writePending()
			m.deliver(n, vecCrash, 0, false)
			return true
		}
		if at != n {
			at = n // the processor that stopped reports once more
			continue
		}
		handled = !w.status.Failed()
		break
	}
	m.thaw()
	m.writePending()
	if exec && c.RIP == rip {
		c.RFlags |= cpu.FlagRF // else it would stop here for ever
	}
	return handled
}

func executeHit(c *cpu.CPU) bool {
	for n := range 4 {
		if c.DR[6]>>n&1 != 0 && c.DR[7]>>(16+4*n)&3 == 0 && c.DR[n] == c.RIP {
			return true
		}
	}
	return false
}

// Ways out of the command loop.
const (
	wayContinue = iota
	waySwitch
	wayCrash
)

type wayOut struct {
	kind      int
	status    kdproto.Status
	processor int
}

// serve sends a state change and answers requests until one ends the stop.
func (m *Machine) serve(n int, s *kdproto.StateChange, droppable bool) wayOut {
	payload := s.Append(nil)
	for {
		m.stats.StateChanges++
		if err := m.send(kdproto.TypeStateChange64, payload, droppable); err != nil {
			return wayOut{status: kdproto.DbgContinue}
		}
		for again := false; !again; {
			p, r, err := m.receive(kdproto.TypeManipulate)
			switch {
			case err != nil:
				return wayOut{status: kdproto.DbgContinue}
			case r == link.Timeout:
				continue
			case r == link.Resend:
				again = true
				continue
			}
			q, err := kdproto.DecodeManipulate(p)
			if err != nil {
				continue // the link checked the length
			}
			if w, out := m.request(n, &q); out {
				return w
			}
		}
	}
}

// Services of int 2Dh.
const (
	servicePrint   = 1
	servicePrompt  = 2
	serviceLoad    = 3
	serviceUnload  = 4
	serviceCommand = 5
)

// debugService is int 2Dh: the kernel's way to its KD module. The int 3 that
// follows the instruction is skipped.
func (m *Machine) debugService(n int) {
	c := m.b.cpus[n]
	service, a1, a2, a3, a4 := c.R[cpu.RAX], c.R[cpu.RCX], c.R[cpu.RDX], c.R[cpu.R8], c.R[cpu.R9]
	status := uint64(kdproto.StatusSuccess)
	stop := c.RIP // where the machine stands if it stops: on the int 3
	at := stop
	var b [1]byte
	if c.ReadLinear(at, b[:]); b[0] == 0xCC {
		at++
	}
	present := m.target.Present()
	switch uint32(service) {
	case servicePrint:
		text := make([]byte, min(a2, 512))
		text = text[:c.ReadLinear(a1, text)]
		if !present {
			status = 0xC000009D // device not connected
			break
		}
		if m.print(n, text) {
			status = uint64(kdproto.StatusBreakpoint)
		}
	case servicePrompt:
		text := make([]byte, min(a2, 512))
		text = text[:c.ReadLinear(a1, text)]
		answer := m.prompt(n, text, uint32(min(a4, 512)))
		answer = answer[:min(uint64(len(answer)), a4)]
		c.WriteLinear(a3, answer)
		status = uint64(len(answer))
	case serviceLoad, serviceUnload:
		if !present {
			break
		}
		path := m.ansiString(c, a1)
		var i [24]byte
		c.ReadLinear(a2, i[:])
		m.symbols(n, path, le.Uint64(i[0:]), le.Uint64(i[8:]), le.Uint32(i[16:]), le.Uint32(i[20:]), uint32(service) == serviceUnload)
	case serviceCommand:
		if !present {
			break
		}
		name, text := m.ansiString(c, a1), m.ansiString(c, a2)
		m.freeze()
		m.kd.stops++
		s := m.stateChange(n, kdproto.StateCommandString)
		s.Data = append(append(append([]byte(name[:min(len(name), 127)]), 0), text[:min(len(text), 3000)]...), 0)
		m.serveHere(n, s, false)
	default:
		status = uint64(kdproto.StatusInvalidParameter)
	}
	if c.RIP == stop {
		// The debugger may have moved on by itself.
		c.RIP = at
		c.R[cpu.RAX] = status
	}
}

// serveHere serves a stop that is not an exception; a processor switch reports
// the other processor and comes back here.
func (m *Machine) serveHere(n int, s *kdproto.StateChange, droppable bool) {
	for at := n; ; {
		w := m.serve(at, s, droppable)
		if m.reset || m.ctx.Err() != nil {
			return
		}
		switch {
		case w.kind == wayCrash:
			m.thaw()
			m.writePending()
			m.deliver(n, vecCrash, 0, false)
			return
		case w.kind == waySwitch:
			if w.processor >= m.processors() || w.processor == at {
				continue
			}
			at = w.processor
			o := m.stateChange(at, kdproto.StateException)
			o.Exception = kdproto.Exception{Code: kdproto.StatusWakeSystemDebugger, Address: o.ProgramCounter, FirstChance: true}
			o.Data = []byte{1, 0, 0, 0}
			if w = m.serve(at, o, false); w.kind == wayCrash {
				m.thaw()
				m.deliver(n, vecCrash, 0, false)
				return
			}
			at = n
			continue
		}
		m.thaw()
		m.writePending()
		return
	}
}

func (m *Machine) ansiString(c *cpu.CPU, a uint64) string {
	var h [16]byte
	if c.ReadLinear(a, h[:]) < len(h) {
		return ""
	}
	p := make([]byte, min(int(le.Uint16(h[0:])), 1024))
	p = p[:c.ReadLinear(le.Uint64(h[8:]), p)]
	return string(p)
}

// print sends text and reports whether a break-in came meanwhile.
func (m *Machine) print(n int, text []byte) bool {
	d := kdproto.NewPrint(text)
	d.Processor, d.ProcessorLevel = uint16(n), 6
	m.stats.Prints++
	if m.send(kdproto.TypeDebugIO, d.Append(nil), true) != nil {
		return false
	}
	return m.target.PollBreakIn()
}

func (m *Machine) prompt(n int, text []byte, most uint32) []byte {
	d := kdproto.NewPrompt(text, most)
	d.Processor, d.ProcessorLevel = uint16(n), 6
	for {
		if m.send(kdproto.TypeDebugIO, d.Append(nil), false) != nil {
			return nil
		}
		for {
			p, r, err := m.receive(kdproto.TypeDebugIO)
			if err != nil {
				return nil
			}
			if r == link.Resend {
				break
			}
			if r == link.Timeout {
				continue
			}
			if a, err := kdproto.DecodeDebugIO(p); err == nil {
				return append([]byte(nil), a.Text...)
			}
		}
	}
}

// symbols reports a module.
func (m *Machine) symbols(n int, path string, base, pid uint64, sum, size uint32, unload bool) {
	m.freeze()
	m.kd.stops++
	s := m.stateChange(n, kdproto.StateLoadSymbols)
	if unload && m.cfg.Quirks == QuirksReactOS {
		path, size, sum = path[strings.LastIndexByte(path, '\\')+1:], 0, 0
	}
	s.LoadSymbols = kdproto.LoadSymbols{Base: base, ProcessID: pid, CheckSum: sum, SizeOfImage: size, Unload: unload}
	if path != "" {
		s.Data = append([]byte(path), 0)
		s.LoadSymbols.PathLength = uint32(len(s.Data))
	}
	m.serveHere(n, s, true)
}

// portPoll is the kernel asking the serial port for a break-in at a tick.
func (m *Machine) portPoll() uint32 {
	if m.target.PollBreakIn() {
		return 1
	}
	return 0
}

// Operations of the service port and the layout of SIM_SERVICE.
const (
	simMapImage   = 1
	simUnmapImage = 2
	simReset      = 3
	simPullFile   = 4
	simUnloadAll  = 5

	serviceStatus   = 4
	serviceArgument = 8
	serviceName     = 40
)

// portService is the kernel asking its loader and firmware for something.
func (m *Machine) portService(op uint32) {
	b := m.b
	block := b.sym["SimService"]
	var name [128]byte
	b.read(block+serviceName, name[:])
	text, _, _ := strings.Cut(string(name[:]), "\x00")
	status := kdproto.StatusSuccess
	arg := func(i int) uint64 { return block + serviceArgument + 8*uint64(i) }
	switch op {
	case simMapImage:
		g, err := openImage(text)
		if err != nil {
			status = kdproto.StatusNoSuchFile
			break
		}
		mod, err := b.mapImage(g, b.place(nil))
		if err != nil {
			status = 0xC000009A // insufficient resources
			break
		}
		b.putU64(arg(0), mod.base)
		b.putU64(arg(1), mod.size)
		b.putU64(arg(2), mod.base+uint64(g.entry))
		b.putU64(arg(3), uint64(g.checksum)|uint64(g.timestamp)<<32)
		m.writePending()
	case simUnmapImage:
		base := b.u64(arg(0))
		for i, mod := range b.modules {
			if mod.base == base {
				m.pageOut(mod.base, mod.size)
				b.mem.unmap(b.top, mod.base, mod.size)
				b.modules = append(b.modules[:i], b.modules[i+1:]...)
				for _, c := range b.cpus {
					c.FlushTLB()
				}
				break
			}
		}
	case simReset:
		m.reset = true
		for _, c := range b.cpus {
			c.Halted = true
		}
	case simPullFile:
		status = m.pullFile(text)
	case simUnloadAll:
		if m.target.Present() {
			m.freeze()
			s := m.stateChange(0, kdproto.StateLoadSymbols)
			s.LoadSymbols = kdproto.LoadSymbols{Base: ^uint64(0), Unload: true}
			m.serve(0, s, true)
		}
	default:
		status = kdproto.StatusInvalidParameter
	}
	b.putU32(block+serviceStatus, uint32(status))
}

// pullFile asks the host whether it has a file to take in place of the
// machine's own. Files are not taken yet: an offered one is closed again.
func (m *Machine) pullFile(name string) kdproto.Status {
	if !m.target.Present() {
		return kdproto.StatusNoSuchFile
	}
	ask := func(f *kdproto.FileIO, droppable bool) (kdproto.FileIO, bool) {
		for {
			if m.send(kdproto.TypeFileIO, f.Append(nil), droppable) != nil {
				return kdproto.FileIO{}, false
			}
			for tries := 0; ; {
				p, r, err := m.receive(kdproto.TypeFileIO)
				if err != nil {
					return kdproto.FileIO{}, false
				}
				if r == link.Resend {
					break
				}
				if r == link.Timeout {
					if tries++; tries == 5 {
						return kdproto.FileIO{}, false // a host that knows no files
					}
					continue
				}
				if a, err := kdproto.DecodeFileIO(p); err == nil && a.API == f.API {
					return a, true
				}
			}
		}
	}
	a, ok := ask(kdproto.NewFileCreate(name), true)
	if !ok || a.Status.Failed() {
		return kdproto.StatusNoSuchFile
	}
	f := &kdproto.FileIO{API: kdproto.APIFileClose}
	copy(f.Union[0:8], a.Union[24:32])
	ask(f, false)
	return kdproto.StatusSuccess
}
