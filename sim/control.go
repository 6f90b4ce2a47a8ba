package sim

import (
	"context"
	"fmt"
	"maps"
	"sort"

	"openkd/kdproto"
	"openkd/sim/cpu"
)

// Commands of the kernel's mailbox, SIM_MAILBOX.
const (
	cmdPrint         = 1
	cmdPrompt        = 2
	cmdLoadDriver    = 3
	cmdUnloadDriver  = 4
	cmdBugCheck      = 5
	cmdBadAccess     = 6
	cmdCommandString = 7
	cmdBreakPoint    = 8
	cmdReboot        = 9
	cmdSafeCopy      = 10
	cmdAssert        = 11
	cmdWatch         = 12
	cmdCall          = 13

	boxStatus   = 4
	boxArgument = 8
	boxName     = 48
	boxText     = 176
	boxTextSize = 1024
	boxNameSize = 128
)

// job is one thing for the kernel's command thread to do.
type job struct {
	command    uint32
	args       [5]uint64
	name, text string
	done       chan struct{}
	err        error
	status     kdproto.Status
	answer     string // text afterwards
}

func (j *job) finish(err error) {
	j.err = err
	close(j.done)
}

// mailbox moves jobs between the queue and the kernel, once per tick.
func (m *Machine) mailbox() {
	b := m.b
	box := b.sym["SimMailbox"]
	if m.job != nil {
		if b.u32(box) != 0 {
			return
		}
		m.job.status = kdproto.Status(b.u32(box + boxStatus))
		for i := range m.job.args {
			m.job.args[i] = b.u64(box + boxArgument + 8*uint64(i))
		}
		text := make([]byte, boxTextSize)
		b.read(box+boxText, text)
		m.job.answer = string(text)
		m.job.finish(nil)
		m.job = nil
	}
	if len(m.jobs) == 0 && m.cfg.Drivers > 0 && m.lastClock%max(uint64(m.cfg.Drivers/(timeIncrement*100)), 1) == 0 {
		j := &job{command: cmdLoadDriver, name: "sample.sys", done: make(chan struct{})}
		if m.sampleIn {
			j.command = cmdUnloadDriver
		}
		m.sampleIn = !m.sampleIn
		m.jobs = append(m.jobs, j)
	}
	if len(m.jobs) == 0 {
		return
	}
	j := m.jobs[0]
	m.jobs = m.jobs[1:]
	m.job = j
	name, text := make([]byte, boxNameSize), make([]byte, boxTextSize)
	copy(name[:boxNameSize-1], j.name)
	copy(text[:boxTextSize-1], j.text)
	b.write(box+boxName, name)
	b.write(box+boxText, text)
	for i, a := range j.args {
		b.putU64(box+boxArgument+8*uint64(i), a)
	}
	b.putU32(box, j.command)
}

func (m *Machine) post(j *job) *job {
	j.done = make(chan struct{})
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.ended:
		j.finish(fmt.Errorf("sim: the machine is switched off"))
	default:
		m.jobs = append(m.jobs, j)
	}
	return j
}

// Request is something the machine was asked to do. Its kernel does it in a
// thread of its own when it runs, which may take until a debugger lets it.
type Request struct{ j *job }

// Wait waits until the kernel has done it. The error names an NTSTATUS that it
// failed with, a reset of the machine, or the context's end.
func (r Request) Wait(ctx context.Context) error {
	select {
	case <-r.j.done:
		if r.j.err != nil {
			return r.j.err
		}
		if r.j.status.Failed() {
			return fmt.Errorf("sim: the kernel answered %v", r.j.status)
		}
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Print makes the kernel print text with DbgPrint (at most 512 bytes).
func (m *Machine) Print(text string) Request {
	return Request{m.post(&job{command: cmdPrint, text: text})}
}

// Prompt makes the kernel ask the debugger's user with DbgPrompt and returns
// the answer.
func (m *Machine) Prompt(ctx context.Context, text string) (string, error) {
	r := Request{m.post(&job{command: cmdPrompt, text: text})}
	if err := r.Wait(ctx); err != nil {
		return "", err
	}
	return r.j.answer[:min(r.j.args[0], boxTextSize/2)], nil
}

// LoadDriver loads a driver: sample.sys, or another of the images.
func (m *Machine) LoadDriver(name string) Request {
	return Request{m.post(&job{command: cmdLoadDriver, name: name})}
}

// UnloadDriver unloads a driver that can be unloaded: sample.sys.
func (m *Machine) UnloadDriver(name string) Request {
	return Request{m.post(&job{command: cmdUnloadDriver, name: name})}
}

// BugCheck makes the kernel stop with KeBugCheckEx.
func (m *Machine) BugCheck(code uint32, p ...uint64) Request {
	j := &job{command: cmdBugCheck}
	j.args[0] = uint64(code)
	copy(j.args[1:], p)
	return Request{m.post(j)}
}

// RaiseAccessViolation makes the kernel read (or write) a user address that is
// not mapped.
func (m *Machine) RaiseAccessViolation(addr uint64, write bool) Request {
	j := &job{command: cmdBadAccess}
	j.args[0] = addr
	if write {
		j.args[1] = 1
	}
	return Request{m.post(j)}
}

// SafeCopy makes the kernel copy from an address with a handler around it; the
// status is an access violation where nothing is mapped.
func (m *Machine) SafeCopy(addr uint64) Request {
	return Request{m.post(&job{command: cmdSafeCopy, args: [5]uint64{addr}})}
}

// CommandString makes the kernel call DbgCommandString.
func (m *Machine) CommandString(name, text string) Request {
	return Request{m.post(&job{command: cmdCommandString, name: name, text: text})}
}

// Break makes the kernel run into a breakpoint instruction of its own,
// DbgBreakPoint.
func (m *Machine) Break() Request { return Request{m.post(&job{command: cmdBreakPoint})} }

// Assert makes the kernel raise an assertion failure (int 2Ch).
func (m *Machine) Assert() Request { return Request{m.post(&job{command: cmdAssert})} }

// Watch makes the kernel write a value to SimWatchedVariable.
func (m *Machine) Watch(v uint32) Request {
	return Request{m.post(&job{command: cmdWatch, args: [5]uint64{uint64(v)}})}
}

// Call makes the kernel compute RtlFibonacci(n), a deep recursion.
func (m *Machine) Call(n uint64) Request {
	return Request{m.post(&job{command: cmdCall, args: [5]uint64{n}})}
}

// Reboot makes the kernel shut down in an orderly way, telling the debugger
// that all symbols are gone, and reset. Wait reports the reset as an error.
func (m *Machine) Reboot() Request { return Request{m.post(&job{command: cmdReboot})} }

// Reset pulls the reset line: the machine starts again without a word, also
// when it is stopped in the debugger.
func (m *Machine) Reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reset = true
	if m.end != nil {
		m.end()
	}
}

// Processors is the number of processors.
func (m *Machine) Processors() int { return m.cfg.Processors }

// Symbol is the address of a symbol of the kernel, or of "module!name" where
// module is an image's name without its extension ("nt" and "openkd").
func (m *Machine) Symbol(name string) (uint64, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, mod := range m.b.modules {
		short, _, _ := cut(mod.name)
		if short == "ntoskrnl" {
			short = "nt"
		}
		if len(name) > len(short) && name[:len(short)] == short && name[len(short)] == '!' {
			return mod.symbol(name[len(short)+1:])
		}
	}
	a, ok := m.b.sym[name]
	return a, ok
}

func cut(name string) (base, ext string, ok bool) {
	for i := len(name) - 1; i >= 0; i-- {
		if name[i] == '.' {
			return name[:i], name[i+1:], true
		}
	}
	return name, "", false
}

// Symbols returns the kernel's symbols, by name.
func (m *Machine) Symbols() map[string]uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.b.sym)
}

// Module is a mapped image.
type Module struct {
	Name string
	Base uint64
	Size uint64
}

// Modules returns what is mapped, by address.
func (m *Machine) Modules() []Module {
	m.mu.Lock()
	defer m.mu.Unlock()
	var l []Module
	for _, mod := range m.b.modules {
		l = append(l, Module{mod.name, mod.base, mod.size})
	}
	sort.Slice(l, func(i, k int) bool { return l[i].Base < l[k].Base })
	return l
}

// ReadVirtual reads memory in the System process's address space; it returns
// the bytes before the first page that is not there.
func (m *Machine) ReadVirtual(addr uint64, p []byte) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.b.read(addr, p)
}

// WriteVirtual writes memory, whatever its protection.
func (m *Machine) WriteVirtual(addr uint64, p []byte) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.b.write(addr, p)
}

// ReadPhysical reads RAM; it returns the bytes before its end.
func (m *Machine) ReadPhysical(addr uint64, p []byte) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.physical(addr, p, false)
}

// Translate walks the System process's page tables.
func (m *Machine) Translate(addr uint64) (uint64, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.b.mem.translate(m.b.top, addr)
}

// CPU is a processor's state.
type CPU struct {
	R                         [16]uint64 // rax rcx rdx rbx rsp rbp rsi rdi r8..r15
	RIP, RFlags               uint64
	CR0, CR2, CR3, CR4        uint64
	DR                        [8]uint64
	GSBase                    uint64
	XMM                       [16][16]byte
	Halted                    bool
	Instructions              uint64
	Pcr                       uint64 // address of its KPCR
	CurrentThread, IdleThread uint64 // KTHREAD addresses
}

// CPU returns the state of a processor, or false where there is none.
func (m *Machine) CPU(n int) (CPU, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if n < 0 || n >= len(m.b.cpus) {
		return CPU{}, false
	}
	return m.snapshot(n, m.b.cpus[n]), true
}

func (m *Machine) snapshot(n int, c *cpu.CPU) CPU {
	p := m.b.pcr(n)
	return CPU{
		R: c.R, RIP: c.RIP, RFlags: c.RFlags, CR0: c.CR0, CR2: c.CR2, CR3: c.CR3, CR4: c.CR4, DR: c.DR,
		GSBase: c.GSBase, XMM: c.XMM, Halted: c.Halted, Instructions: c.Instructions(), Pcr: p,
		CurrentThread: m.b.u64(p + sizePrcbOffset + 8), IdleThread: m.b.u64(p + sizePrcbOffset + 0x18),
	}
}

// Stats returns the counters.
func (m *Machine) Stats() Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.stats
	s.Requests = maps.Clone(s.Requests)
	return s
}
