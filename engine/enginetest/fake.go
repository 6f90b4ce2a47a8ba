// Package enginetest is a target made of tables: memory, contexts and stops
// that a test writes down. It executes nothing; a test says what happens after
// each resume. It counts exchanges, which is what most tests are about.
//
// It is for tests only. A machine that really runs is package sim.
package enginetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"sync"
	"time"
	"unicode/utf16"

	"openkd/arch"
	"openkd/kdproto"
	"openkd/target"
)

var le = binary.LittleEndian

// Addresses of the machine that New makes.
const (
	KernBase   = 0xFFFFF80319C00000
	KernSize   = 0x800000
	Break      = KernBase + 0x24CA60 // BreakpointWithStatus: int 3; ret
	ListHead   = KernBase + 0x400000 // PsLoadedModuleList
	BugData    = KernBase + 0x310000 // KiBugCheckData
	BuildLab   = KernBase + 0x320000
	Unloaded   = KernBase + 0x330000 // MmUnloadedDrivers, the variable
	Stack      = 0xFFFFF8031C1B7B78
	SharedData = 0xFFFFF78000000000
	Thread     = 0xFFFFE00012345080
)

// Fake is the target. Fields are set before the engine runs, or under Lock.
type Fake struct {
	sync.Mutex
	Arch       *arch.Arch
	Ver        kdproto.Version
	Data       []byte
	Pages      map[uint64][]byte // virtual, by page address
	Phys       map[uint64][]byte
	MSR        map[uint64]uint64
	Ports      map[uint64]uint64
	Context    [][]byte
	Special    [][]byte
	Speed      int
	NoBundle   bool // stops bring nothing
	FailInsert map[uint64]bool
	FailOps    map[target.Op]kdproto.Status

	// OnResume says what follows a resume; it runs with the lock free. nil:
	// the target runs on.
	OnResume func(f *Fake, r target.Resume)
	// OnSwitch likewise for a switch; nil: the report of a switch.
	OnSwitch func(f *Fake, n int)

	// OnBreak says what follows a break-in of the running target; it runs with
	// the lock held. nil: a stop at the break instruction.
	OnBreak func(f *Fake)

	Does     int // exchanges
	Asked    []target.Request
	Resumes  []target.Resume
	Controls []target.Control
	Switches []int
	Answers  []string
	Left     []target.Leave

	halted bool
	closed bool
	number uint64
	queue  []target.Event
	more   chan struct{}
	clock  time.Time
}

var _ target.Target = (*Fake)(nil)

// New makes an x64 machine with a kernel image, a module list, a debugger data
// block and n processors. It is not halted and says nothing until Connect.
func New(n int) *Fake {
	a, _ := arch.For(kdproto.MachineAMD64)
	f := &Fake{
		Arch:  a,
		Pages: map[uint64][]byte{}, Phys: map[uint64][]byte{}, MSR: map[uint64]uint64{}, Ports: map[uint64]uint64{},
		FailInsert: map[uint64]bool{}, FailOps: map[target.Op]kdproto.Status{},
		Ver: kdproto.Version{Major: 0x0F, Minor: 19041, Protocol: 6, SecondaryVersion: 2, Flags: 7, Machine: kdproto.MachineAMD64,
			MaxPacketType: 12, MaxStateChange: 3, MaxManipulate: 0x31, KernBase: KernBase, PsLoadedModuleList: ListHead, DebuggerDataList: KernBase + 0x340000},
		Data:  make([]byte, 0x360),
		more:  make(chan struct{}, 1),
		clock: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	if n == 1 {
		f.Ver.Flags = 6
	}
	for i := range n {
		c := make([]byte, a.ContextSize)
		a.SetContextFlags(c, 0x10001F)
		a.SetPC(c, Break+uint64(i)*0x100)
		a.SetSP(c, Stack-uint64(i)*0x10000)
		a.SetFlags(c, 0x46)
		f.Context = append(f.Context, c)
		f.Special = append(f.Special, make([]byte, 0xE0))
	}
	le.PutUint64(f.Data[0x18:], KernBase)
	le.PutUint64(f.Data[0x20:], Break)
	le.PutUint64(f.Data[0x48:], ListHead)
	le.PutUint64(f.Data[0x88:], BugData)
	le.PutUint64(f.Data[0x208:], BuildLab)
	le.PutUint64(f.Data[0x220:], Unloaded)
	le.PutUint16(f.Data[0x2A0:], 0x220) // OffsetKThreadApcProcess
	f.Write(Break, []byte{0xCC, 0xC3})
	f.Write(BugData, make([]byte, 40))
	f.Write(BuildLab, append([]byte("19041.1.amd64fre.vb_release.191206-1406"), 0))
	f.Write(Unloaded, make([]byte, 16))
	f.Write(Stack, bytes.Repeat([]byte{0x11}, 0x400))
	for p := uint64(Break) &^ 0xFFF; p < Break+0x4000; p += 0x1000 {
		f.page(f.Pages, p)
	}
	f.Image(KernBase, KernSize, 0x5DBC0E10, 0xA6F3B1)
	f.Modules(
		Module{KernBase, KernSize, `\SystemRoot\system32\ntoskrnl.exe`, "ntoskrnl.exe"},
		Module{0xFFFFF80319A00000, 0xA0000, `\SystemRoot\system32\hal.dll`, "hal.dll"},
		Module{0xFFFFF80320000000, 0x20000, `\SystemRoot\System32\drivers\tcpip.sys`, "tcpip.sys"},
	)
	return f
}

// NewX86 makes an x86 machine of one processor with a module list; the kernel
// lies at 80400000, and addresses in its structures have 32 bits.
func NewX86() *Fake {
	f := New(1)
	a, _ := arch.For(kdproto.MachineI386)
	f.Arch, f.Pages = a, map[uint64][]byte{}
	f.Ver = kdproto.Version{Major: 0x0C, Minor: 3790, Protocol: 6, Flags: 2, Machine: kdproto.MachineI386,
		KernBase: KernBase86, PsLoadedModuleList: KernBase86 + 0x100000}
	f.Data = nil
	c := make([]byte, a.ContextSize)
	a.SetPC(c, Break86)
	a.SetSP(c, 0xFFFFFFFF80A01000)
	f.Context, f.Special = [][]byte{c}, [][]byte{make([]byte, 84)}
	f.Write(Break86, []byte{0xCC, 0xC3})
	f.Image(KernBase86, 0x400000, 0x11223344, 0)
	f.Modules(Module{KernBase86, 0x400000, `\reactos\system32\ntoskrnl.exe`, "ntoskrnl.exe"}, Module{0xFFFFFFFF80800000, 0x10000, `\reactos\system32\hal.dll`, "hal.dll"})
	return f
}

// Addresses of the machine that NewX86 makes, as they are on the wire.
const (
	KernBase86 = 0xFFFFFFFF80400000
	Break86    = KernBase86 + 0x1234
)

// Module is an entry of the loaded-module list.
type Module struct {
	Base uint64
	Size uint32
	Path string
	Name string
}

// Modules writes the loaded-module list.
func (f *Fake) Modules(mods ...Module) {
	if f.Arch.PointerSize == 4 {
		f.modules86(mods)
		return
	}
	at := uint64(ListHead + 0x1000)
	prev := uint64(ListHead)
	for i, m := range mods {
		e := make([]byte, 0xA0)
		next := at + 0x400
		if i == len(mods)-1 {
			next = ListHead
		}
		path, name := wide(m.Path), wide(m.Name)
		le.PutUint64(e[0:], next)
		le.PutUint64(e[8:], prev)
		le.PutUint64(e[0x30:], m.Base)
		le.PutUint64(e[0x38:], m.Base+0x1000)
		le.PutUint32(e[0x40:], m.Size)
		le.PutUint16(e[0x48:], uint16(len(path)))
		le.PutUint64(e[0x50:], at+0x100)
		le.PutUint16(e[0x58:], uint16(len(name)))
		le.PutUint64(e[0x60:], at+0x300)
		f.Write(at, e)
		f.Write(at+0x100, path)
		f.Write(at+0x300, name)
		var link [8]byte
		le.PutUint64(link[:], at)
		f.Write(prev, link[:])
		prev, at = at, next
	}
	if len(mods) == 0 {
		var link [8]byte
		le.PutUint64(link[:], ListHead)
		f.Write(ListHead, link[:])
	}
}

func (f *Fake) modules86(mods []Module) {
	head := f.Ver.PsLoadedModuleList
	prev := head
	for i, m := range mods {
		at := head + 0x1000 + uint64(i)*0x400
		next := at + 0x400
		if i == len(mods)-1 {
			next = head
		}
		path, name := wide(m.Path), wide(m.Name)
		e := make([]byte, 0x5C)
		le.PutUint32(e[0:], uint32(next))
		le.PutUint32(e[0x18:], uint32(m.Base))
		le.PutUint32(e[0x20:], m.Size)
		le.PutUint16(e[0x24:], uint16(len(path)))
		le.PutUint32(e[0x28:], uint32(at+0x100))
		le.PutUint16(e[0x2C:], uint16(len(name)))
		le.PutUint32(e[0x30:], uint32(at+0x300))
		f.Write(at, e)
		f.Write(at+0x100, path)
		f.Write(at+0x300, name)
		f.Write(prev, le.AppendUint32(nil, uint32(at)))
		prev = at
	}
}

func wide(s string) []byte {
	var b []byte
	for _, u := range utf16.Encode([]rune(s)) {
		b = le.AppendUint16(b, u)
	}
	return b
}

// Image writes a PE header.
func (f *Fake) Image(base uint64, size, stamp, sum uint32) {
	b := make([]byte, 0x400)
	b[0], b[1] = 'M', 'Z'
	le.PutUint32(b[0x3C:], 0x108)
	nt := b[0x108:]
	copy(nt, "PE\x00\x00")
	le.PutUint16(nt[4:], 0x8664)
	le.PutUint32(nt[8:], stamp)
	le.PutUint32(nt[0x50:], size)
	le.PutUint32(nt[0x58:], sum)
	f.Write(base, b)
}

func (f *Fake) page(m map[uint64][]byte, addr uint64) []byte {
	p := m[addr&^0xFFF]
	if p == nil {
		p = make([]byte, 4096)
		m[addr&^0xFFF] = p
	}
	return p
}

// Write puts bytes into virtual memory, making pages.
func (f *Fake) Write(addr uint64, b []byte) {
	for i, c := range b {
		a := addr + uint64(i)
		f.page(f.Pages, a)[a&0xFFF] = c
	}
}

// WritePhys puts bytes into physical memory, making pages.
func (f *Fake) WritePhys(addr uint64, b []byte) {
	for i, c := range b {
		a := addr + uint64(i)
		f.page(f.Phys, a)[a&0xFFF] = c
	}
}

// Bytes reads virtual memory; pages that are not there read as zero.
func (f *Fake) Bytes(addr uint64, n int) []byte {
	out := make([]byte, n)
	for i := range out {
		a := addr + uint64(i)
		if p := f.Pages[a&^0xFFF]; p != nil {
			out[i] = p[a&0xFFF]
		}
	}
	return out
}

// Send queues an event.
func (f *Fake) Send(ev target.Event) {
	f.Lock()
	defer f.Unlock()
	f.send(ev)
}

func (f *Fake) send(ev target.Event) {
	if ev.Time.IsZero() {
		ev.Time = f.clock
	}
	f.queue = append(f.queue, ev)
	select {
	case f.more <- struct{}{}:
	default:
	}
}

// Connect tells the engine what the target is.
func (f *Fake) Connect() {
	f.Lock()
	defer f.Unlock()
	v := f.Ver
	f.send(target.Event{Kind: target.EventConnected, Version: &v, DataBlock: append([]byte(nil), f.Data...)})
}

// Stop halts the target with s, whose number, processors, thread and bundle
// are filled in where they are empty. PC goes into the context.
func (f *Fake) Stop(s target.Stop) {
	f.Lock()
	defer f.Unlock()
	f.stop(s)
}

func (f *Fake) stop(s target.Stop) {
	f.halted = true
	f.number++
	s.Number = f.number
	if s.Processors == 0 {
		s.Processors = len(f.Context)
	}
	if s.Thread == 0 {
		s.Thread = Thread
	}
	c := f.Context[s.Processor]
	if s.PC == 0 {
		s.PC = f.Arch.PC(c)
	}
	f.Arch.SetPC(c, s.PC)
	if !f.NoBundle {
		s.Bundle.Context = append([]byte(nil), c...)
		s.Bundle.Special = append([]byte(nil), f.Special[s.Processor]...)
		for _, r := range [][2]uint64{{s.PC &^ 0xFF, 0x200}, {f.Arch.SP(c), 0x100}} {
			if f.Pages[r[0]&^0xFFF] != nil {
				n := min(r[1], 0x1000-r[0]&0xFFF)
				s.Bundle.Memory = append(s.Bundle.Memory, target.Memory{Addr: r[0], Data: f.Bytes(r[0], int(n))})
			}
		}
	}
	f.send(target.Event{Kind: target.EventHalted, Stop: &s})
}

// Exception is a stop record of an exception.
func Exception(code kdproto.Status, first bool) *kdproto.Exception {
	return &kdproto.Exception{Code: code, FirstChance: first}
}

// Next implements target.Target.
func (f *Fake) Next(ctx context.Context) (target.Event, error) {
	for {
		f.Lock()
		if len(f.queue) > 0 {
			ev := f.queue[0]
			f.queue = f.queue[1:]
			f.Unlock()
			return ev, nil
		}
		closed := f.closed
		f.Unlock()
		if closed {
			return target.Event{}, target.ErrClosed
		}
		select {
		case <-f.more:
		case <-ctx.Done():
			return target.Event{}, ctx.Err()
		}
	}
}

// Do implements target.Target.
func (f *Fake) Do(ctx context.Context, batch []target.Request, sink func(target.Part) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.Lock()
	defer f.Unlock()
	switch {
	case f.closed:
		return target.ErrClosed
	case !f.halted:
		return target.ErrRunning
	case len(batch) > target.MaxBatch:
		return target.ErrBadRequest
	}
	f.Does++
	for i, r := range batch {
		f.Asked = append(f.Asked, r)
		p := target.Part{Index: i, Done: true}
		if s, ok := f.FailOps[r.Op]; ok {
			p.Status = s
		} else {
			f.one(r, &p, func(off uint64, b []byte) error {
				return sink(target.Part{Index: i, Offset: off, Data: b})
			})
		}
		if err := sink(p); err != nil {
			return err
		}
	}
	return nil
}

func (f *Fake) one(r target.Request, p *target.Part, data func(off uint64, b []byte) error) {
	bad := kdproto.StatusUnsuccessful
	pages := f.Pages
	cpu := int(r.Processor)
	if cpu >= len(f.Context) {
		p.Status = bad
		return
	}
	switch r.Op {
	case target.OpReadPhysical:
		pages = f.Phys
		fallthrough
	case target.OpReadVirtual:
		for off := uint64(0); off < r.Len; {
			a := r.Addr + off
			n := min(r.Len-off, 0x1000-a&0xFFF)
			if pg := pages[a&^0xFFF]; pg != nil {
				data(off, pg[a&0xFFF:a&0xFFF+n])
			} else {
				p.Status = bad
			}
			off += n
		}
	case target.OpWritePhysical:
		pages = f.Phys
		fallthrough
	case target.OpWriteVirtual:
		for i, c := range r.Data {
			a := r.Addr + uint64(i)
			pg := pages[a&^0xFFF]
			if pg == nil {
				p.Status = bad
				break
			}
			pg[a&0xFFF] = c
			p.Value++
		}
	case target.OpGetContext:
		data(0, f.Context[cpu])
	case target.OpSetContext:
		f.Context[cpu] = append([]byte(nil), r.Data...)
	case target.OpReadControl:
		if r.Addr != f.Arch.SpecialAddr {
			p.Status = bad
			return
		}
		data(0, f.Special[cpu][:min(int(r.Len), len(f.Special[cpu]))])
	case target.OpWriteControl:
		f.Special[cpu] = append([]byte(nil), r.Data...)
	case target.OpReadMSR:
		v, ok := f.MSR[r.Addr]
		if !ok {
			p.Status = kdproto.StatusNoSuchDevice
		}
		p.Value = v
	case target.OpWriteMSR:
		f.MSR[r.Addr] = r.Value
	case target.OpFollow:
		f.follow(r.List, data)
	case target.OpString:
		size := uint64(max(r.Flags, 1))
		var text []byte
		for off := uint64(0); off+size <= r.Len; off += size {
			a := r.Addr + off
			if f.Pages[a&^0xFFF] == nil {
				p.Status = bad
				break
			}
			c := f.Bytes(a, int(size))
			if bytes.Count(c, []byte{0}) == len(c) {
				break
			}
			text = append(text, c...)
		}
		data(0, text)
	case target.OpSearch:
		step, most := max(r.Value, 1), max(r.Flags, 1)
		var hits []byte
		for off := uint64(0); off+uint64(len(r.Data)) <= r.Len && most > 0; off += step {
			a := r.Addr + off
			if f.Pages[a&^0xFFF] == nil {
				off += (0x1000 - a&0xFFF - 1) / step * step // the last in this page
				continue
			}
			if f.Pages[(a+uint64(len(r.Data))-1)&^0xFFF] != nil && bytes.Equal(f.Bytes(a, len(r.Data)), r.Data) {
				hits = le.AppendUint64(hits, a)
				most--
			}
		}
		data(0, hits)
	case target.OpFill:
		if r.Flags == 1 {
			pages = f.Phys
		}
		for ; p.Value < r.Len; p.Value++ {
			a := r.Addr + p.Value
			pg := pages[a&^0xFFF]
			if pg == nil {
				p.Status = bad
				break
			}
			pg[a&0xFFF] = r.Data[p.Value%uint64(len(r.Data))]
		}
	case target.OpReadIO:
		p.Value = f.Ports[r.Addr]
	case target.OpWriteIO:
		f.Ports[r.Addr] = r.Value
	default:
		p.Status = bad
	}
}

func (f *Fake) ptr(a uint64) (uint64, bool) {
	if f.Pages[a&^0xFFF] == nil {
		return 0, false
	}
	if f.Arch.PointerSize == 4 {
		return f.Arch.Canon(uint64(le.Uint32(f.Bytes(a, 4)))), true
	}
	return le.Uint64(f.Bytes(a, 8)), true
}

func (f *Fake) follow(l *target.List, data func(off uint64, b []byte) error) {
	at, ok := f.ptr(l.Head)
	var out []byte
	for n := uint32(0); ok && n < l.MaxNodes && at != 0 && at != l.Head; n++ {
		node := at - uint64(l.LinkOffset)
		var ps [][]byte
		for _, p := range l.Pieces {
			a, n := node+uint64(p.Offset), int(p.Len)
			switch p.Via {
			case target.ViaPointer:
				v, ok := f.ptr(a)
				if !ok || v == 0 {
					ps = append(ps, nil)
					continue
				}
				a = v + uint64(p.Add)
			case target.ViaUnicode:
				n = min(n, int(le.Uint16(f.Bytes(a, 2))))
				v, ok := f.ptr(a + uint64(f.Arch.PointerSize))
				if !ok || v == 0 {
					ps = append(ps, nil)
					continue
				}
				a = v
			}
			if f.Pages[a&^0xFFF] == nil {
				ps = append(ps, nil)
				continue
			}
			ps = append(ps, f.Bytes(a, n))
		}
		out = target.AppendNode(out, target.Node{Addr: node, Pieces: ps})
		at, ok = f.ptr(at)
	}
	data(0, out)
}

// Resume implements target.Target.
func (f *Fake) Resume(ctx context.Context, r target.Resume) error {
	f.Lock()
	if !f.halted {
		f.Unlock()
		return target.ErrRunning
	}
	var bad []uint64
	for _, a := range r.Breakpoints {
		if f.FailInsert[a] {
			bad = append(bad, a)
		}
	}
	if bad != nil {
		f.Unlock()
		return &target.InsertError{Addresses: bad}
	}
	f.halted = false
	f.Resumes = append(f.Resumes, r)
	next := f.OnResume
	f.Unlock()
	if next != nil {
		next(f, r)
	}
	return nil
}

// Switch implements target.Target.
func (f *Fake) Switch(ctx context.Context, n int) error {
	f.Lock()
	if !f.halted {
		f.Unlock()
		return target.ErrRunning
	}
	f.Switches = append(f.Switches, n)
	next := f.OnSwitch
	f.Unlock()
	if next != nil {
		next(f, n)
		return nil
	}
	f.Stop(target.Stop{Processor: n, Switched: true, Exception: Exception(kdproto.StatusWakeSystemDebugger, true)})
	return nil
}

// BreakIn implements target.Target: it stops at the break instruction.
func (f *Fake) BreakIn(ctx context.Context) error {
	f.Lock()
	defer f.Unlock()
	switch {
	case f.closed:
		return target.ErrClosed
	case f.halted:
	case f.OnBreak != nil:
		f.OnBreak(f)
	default:
		f.Arch.SetPC(f.Context[0], Break)
		f.stop(target.Stop{PC: Break, Asked: true, Exception: Exception(kdproto.StatusBreakpoint, true)})
	}
	return nil
}

// Answer implements target.Target.
func (f *Fake) Answer(ctx context.Context, text string) error {
	f.Lock()
	defer f.Unlock()
	f.Answers = append(f.Answers, text)
	return nil
}

// Control implements target.Target. A reboot or crash lets the target run.
func (f *Fake) Control(ctx context.Context, c target.Control) error {
	f.Lock()
	defer f.Unlock()
	f.Controls = append(f.Controls, c)
	if c.Op == target.ControlReboot || c.Op == target.ControlCrash {
		if !f.halted {
			return target.ErrRunning
		}
		f.halted = false
	}
	return nil
}

// Status implements target.Target.
func (f *Fake) Status(ctx context.Context) (target.Status, error) {
	f.Lock()
	defer f.Unlock()
	s := target.Status{State: target.StateRunning, Stage: target.StageConnected, Speed: f.Speed, Since: f.clock, Line: "com:pipe,port=/tmp/fake.sock"}
	if f.halted {
		s.State, s.Stage = target.StateHalted, target.StageHalted
	}
	return s, nil
}

// Close implements target.Target.
func (f *Fake) Close(ctx context.Context, l target.Leave) error {
	f.Lock()
	defer f.Unlock()
	if f.closed {
		return target.ErrClosed
	}
	f.Left = append(f.Left, l)
	f.send(target.Event{Kind: target.EventClosed, Text: "left"})
	f.closed = true
	return nil
}

// Count returns the exchanges so far.
func (f *Fake) Count() int {
	f.Lock()
	defer f.Unlock()
	return f.Does
}

// LastResume returns the last order to run and how many there were.
func (f *Fake) LastResume() (target.Resume, int) {
	f.Lock()
	defer f.Unlock()
	if len(f.Resumes) == 0 {
		return target.Resume{}, 0
	}
	return f.Resumes[len(f.Resumes)-1], len(f.Resumes)
}
