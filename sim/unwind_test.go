package sim

import (
	"bytes"
	"context"
	"fmt"
	"hash/maphash"
	"sort"
	"strings"
	"testing"

	"openkd/image/disasm"
	"openkd/image/pe"
	"openkd/image/unwind"
	"openkd/kdproto"
	"openkd/sim/cpu"
	"openkd/sim/kernel"
)

// The kernel is run instruction by instruction. What calls, returns, interrupts
// and returns from them do to the stack is noted as it happens, and before every
// instruction the unwinder has to find the callers that were noted, with the
// registers they had.

// A caller is one place that the code now running goes back to.
type caller struct {
	slot uint64 // where on the stack the return address or the saved rip is
	pc   uint64
	sp   uint64 // after the return
	trap bool
	regs *[16]uint64 // when it called; nil: not known
	xmm  *[16][16]byte
}

// stackOf is one stack: the idle stack of a processor, or a thread's.
type stackOf struct {
	limit, base uint64
	callers     []caller // outermost first, so that slots fall
}

// follower notes the callers of all stacks.
type follower struct {
	t      testing.TB
	m      *Machine
	stacks []*stackOf
	seen   map[uint64]bool // threads
	kinds  map[uint64]disasm.Kind
	lens   map[uint64]int
	images map[uint64]unwind.Image
	walker unwind.Walker
	cpu    *cpu.CPU

	hash   maphash.Hash
	done   map[uint64]bool // states that were checked
	frames int
	where  map[uint64]bool // instructions checked
	hows   map[unwind.How]int
	fails  int
	deep   int
	reads  int

	swap     [2]uint64 // KiSwapContext
	swapping bool
}

func follow(t testing.TB, m *Machine) *follower {
	f := &follower{
		t: t, m: m, seen: map[uint64]bool{}, kinds: map[uint64]disasm.Kind{}, lens: map[uint64]int{},
		images: map[uint64]unwind.Image{}, done: map[uint64]bool{}, where: map[uint64]bool{}, hows: map[unwind.How]int{},
	}
	f.hash.SetSeed(maphash.MakeSeed())
	f.walker = unwind.Walker{Memory: f, ImageAt: f.imageAt}
	f.swap = [2]uint64{m.b.sym["KiSwapContext"], m.b.sym["KiStartSystemThread"]}
	for n := range m.b.cpus {
		base := m.b.pcr(n) + stackTop
		f.stacks = append(f.stacks, &stackOf{limit: base - 0x6000, base: base})
	}
	return f
}

// Read implements unwind.Memory. Nothing but stacks may be asked for.
func (f *follower) Read(addr uint64, b []byte) (int, error) {
	f.reads++
	for _, mod := range f.m.b.modules {
		if addr >= mod.base && addr < mod.base+mod.size {
			f.t.Errorf("the unwinder reads %#x, in %s, from the target", addr, mod.name)
		}
	}
	n := f.cpu.ReadLinear(addr, b)
	if n < len(b) {
		return n, fmt.Errorf("not mapped")
	}
	return n, nil
}

func (f *follower) module(pc uint64) *module {
	for _, mod := range f.m.b.modules {
		if pc >= mod.base && pc < mod.base+mod.size {
			return mod
		}
	}
	return nil
}

func (f *follower) imageAt(pc uint64) (unwind.Image, bool) {
	mod := f.module(pc)
	if mod == nil || mod.img == nil {
		return nil, false
	}
	im, ok := f.images[mod.base]
	if !ok {
		data, err := kernel.Image(mod.name)
		if err != nil {
			f.t.Fatal(err)
		}
		p, err := pe.Open(bytes.NewReader(data), pe.File)
		if err != nil {
			f.t.Fatal(err)
		}
		if im, err = unwind.NewImage(p, mod.base); err != nil {
			f.t.Fatal(err)
		}
		f.images[mod.base] = im
	}
	return im, true
}

func (f *follower) name(pc uint64) string {
	mod := f.module(pc)
	if mod == nil {
		return fmt.Sprintf("%#x", pc)
	}
	rva := uint32(pc - mod.base)
	i := sort.Search(len(mod.syms), func(i int) bool { return mod.syms[i].rva > rva })
	if i == 0 {
		return fmt.Sprintf("%s+%#x", mod.name, rva)
	}
	return fmt.Sprintf("%s!%s+%#x", mod.name, mod.syms[i-1].name, rva-mod.syms[i-1].rva)
}

// stack finds the stack that an address lies on. The current thread's is noted
// when it is met first: its caller is where the scheduler goes to.
func (f *follower) stack(n int, sp uint64) *stackOf {
	b := f.m.b
	if th := b.u64(b.pcr(n) + sizePrcbOffset + 8); th != 0 && !f.seen[th] {
		f.seen[th] = true
		limit, base := b.u64(th+0x20), b.u64(th+0x28)
		known := false
		for _, s := range f.stacks {
			known = known || s.base == base
		}
		if !known {
			slot := base - 0x38
			f.stacks = append(f.stacks, &stackOf{limit: limit, base: base, callers: []caller{{slot: slot, pc: b.u64(slot), sp: slot + 8}}})
		}
	}
	for _, s := range f.stacks {
		if sp > s.limit && sp <= s.base {
			return s
		}
	}
	f.t.Fatalf("processor %d has its stack at %#x, on none that is known", n, sp)
	return nil
}

func (s *stackOf) drop(sp uint64) {
	for len(s.callers) > 0 && s.callers[len(s.callers)-1].slot < sp {
		s.callers = s.callers[:len(s.callers)-1]
	}
}

func (s *stackOf) add(c caller) {
	s.drop(c.slot + 1)
	s.callers = append(s.callers, c)
}

// entered notes that the processor pushed a machine frame.
func (f *follower) entered(n int, before cpu.CPU) {
	c := f.m.b.cpus[n]
	if c.R[cpu.RSP] == before.R[cpu.RSP] {
		return
	}
	slot := c.R[cpu.RSP]
	if before.R[cpu.RSP]&^15-slot == 48 {
		slot += 8 // an error code lies below
	}
	var b [40]byte
	c.ReadLinear(slot, b[:])
	regs, xmm := before.R, before.XMM
	f.stack(n, slot).add(caller{slot: slot, pc: le.Uint64(b[:]), sp: le.Uint64(b[24:]), trap: true, regs: &regs, xmm: &xmm})
}

// step runs one instruction of processor n.
func (f *follower) step(n int) {
	c := f.m.b.cpus[n]
	f.cpu = c
	rip := c.RIP
	kind, ok := f.kinds[rip]
	if !ok {
		var b [15]byte
		k := c.ReadLinear(rip, b[:])
		in, err := disasm.Decode(kdproto.MachineAMD64, b[:max(k, 1)], rip, nil)
		if err != nil {
			f.t.Fatal(err)
		}
		kind = in.Kind
		f.kinds[rip], f.lens[rip] = kind, in.Len
	}
	before := *c
	e := c.Step()
	if e != nil {
		f.exception(n, e)
		return
	}
	if c.RIP == rip {
		return // a repeated instruction
	}
	sp := c.R[cpu.RSP]
	switch kind {
	case disasm.Call:
		regs, xmm := before.R, before.XMM
		f.stack(n, sp).add(caller{slot: sp, pc: rip + uint64(f.lens[rip]), sp: sp + 8, regs: &regs, xmm: &xmm})
	case disasm.Ret:
		f.stack(n, before.R[cpu.RSP]).drop(before.R[cpu.RSP] + 1)
	}
}

// exception does what the machine does without a debugger, or as with one that
// lets the kernel go on over its breakpoints.
func (f *follower) exception(n int, e *cpu.Exception) {
	c := f.m.b.cpus[n]
	switch {
	case e.Software && e.Vector == vecService && c.R[cpu.RAX] == servicePrompt:
		c.R[cpu.RAX] = 0 // nobody is there to answer
		c.RIP++
		return
	case e.Software && e.Vector == vecService:
		f.m.debugService(n)
		return
	case e.Vector == cpu.VecBP && !e.Software:
		return
	case e.Vector == cpu.VecPF:
		if a, ok := f.m.safeCopy(c.RIP); ok {
			c.RIP = a
			return
		}
	}
	if e.Software && e.Vector == vecAssertion {
		c.RIP -= 2
	}
	f.deliver(n, e.Vector, e.Error, e.HasError())
}

func (f *follower) deliver(n, vector int, code uint64, has bool) {
	before := *f.m.b.cpus[n]
	f.m.deliver(n, vector, code, has)
	f.entered(n, before)
}

// run gives the processors clock ticks and instructions, as Machine.tick does.
func (f *follower) run(ticks, slice int, check bool) {
	m, b := f.m, f.m.b
	for range ticks {
		m.lastClock++
		m.mailbox()
		for i := range max(m.processors(), 1) {
			b.clock[i] = true
		}
		budget := make([]int, len(b.cpus))
		for i := range budget {
			budget[i] = slice
		}
		for busy := true; busy && !m.reset && m.err == nil; {
			busy = false
			for i, c := range b.cpus[:max(m.processors(), 1)] {
				for k := 0; k < 1000 && budget[i] > 0 && !m.reset; k++ {
					if b.clock[i] && c.Interruptible() {
						b.clock[i] = false
						f.deliver(i, vecClock, 0, false)
					}
					if c.Halted && (!b.clock[i] || c.RFlags&cpu.FlagIF == 0) {
						break
					}
					if check {
						f.check(i)
					}
					f.step(i)
					budget[i]--
					busy = true
				}
			}
		}
		if m.reset || f.fails > 20 {
			return
		}
	}
}

// check compares the callers that the unwinder finds with those noted.
func (f *follower) check(n int) {
	c := f.m.b.cpus[n]
	f.cpu = c
	s := f.stack(n, c.R[cpu.RSP])
	callers := s.callers
	for len(callers) > 0 && callers[len(callers)-1].slot < c.R[cpu.RSP] {
		callers = callers[:len(callers)-1]
	}
	// The same code below the same callers was checked before.
	f.hash.Reset()
	var w [8]byte
	put := func(v uint64) { le.PutUint64(w[:], v); f.hash.Write(w[:]) }
	put(c.RIP)
	for i := range callers {
		put(callers[i].pc)
	}
	if h := f.hash.Sum64(); f.done[h] {
		return
	} else {
		f.done[h] = true
	}
	f.where[c.RIP] = true
	// Its unwind data does not say where it saves vector registers.
	f.swapping = c.RIP >= f.swap[0] && c.RIP < f.swap[1]
	f.deep = max(f.deep, len(callers))

	r, err := unwind.FromContext(kdproto.MachineAMD64, contextRecord(c))
	if err != nil {
		f.t.Fatal(err)
	}
	var problem string
	var got []string
	i := 0
	f.reads = 0
	end := f.walker.Walk(context.Background(), r, 1000, func(fr *unwind.Frame) bool {
		f.frames++
		f.hows[fr.How]++
		got = append(got, fmt.Sprintf("%x %s trap=%v %v", fr.SP, f.name(fr.PC), fr.Trap, fr.How))
		bad := func(format string, a ...any) {
			if problem == "" {
				problem = fmt.Sprintf("frame %d: ", i) + fmt.Sprintf(format, a...)
			}
		}
		defer func() { i++ }()
		want := caller{pc: c.RIP, sp: c.R[cpu.RSP], trap: true, regs: &c.R, xmm: &c.XMM}
		if i > len(callers) {
			bad("there is none")
			return false
		}
		if i > 0 {
			want = callers[len(callers)-i]
		}
		if fr.PC != want.pc || fr.SP != want.sp || fr.Trap != want.trap {
			bad("pc %s sp %x trap %v, want %s %x %v", f.name(fr.PC), fr.SP, fr.Trap, f.name(want.pc), want.sp, want.trap)
		}
		if i < len(callers) {
			to := callers[len(callers)-1-i]
			if fr.Return != to.pc || fr.CFA != to.sp || (fr.MachineFrame != 0) != to.trap || to.trap && fr.MachineFrame != to.slot {
				bad("return %s, cfa %x, machine frame %x; want %s %x %v", f.name(fr.Return), fr.CFA, fr.MachineFrame, f.name(to.pc), to.sp, to.slot)
			}
		}
		if want.regs == nil {
			return true
		}
		for k := range 16 {
			if v, ok := fr.Regs.Reg(k); ok && k != cpu.RSP && v != want.regs[k] {
				bad("register %d is %x, want %x", k, v, want.regs[k])
			} else if !ok && k != cpu.RSP && (k == cpu.RBX || k >= cpu.RBP && k <= cpu.RDI || k >= cpu.R12) {
				bad("register %d is not known", k)
			}
		}
		for k := 6; k < 16 && !f.swapping; k++ {
			v := fr.Regs.V[k]
			if v.Lo != le.Uint64(want.xmm[k][:]) || v.Hi != le.Uint64(want.xmm[k][8:]) {
				bad("xmm%d is %x, want %x", k, v, want.xmm[k])
			}
		}
		return true
	})
	if problem == "" && (end.Reason != unwind.Bottom || i != len(callers)+1) {
		problem = fmt.Sprintf("%d frames and the end %v %s, want %d", i, end.Reason, end, len(callers)+1)
	}
	if problem == "" && f.reads > 2 {
		problem = fmt.Sprintf("%d reads for %d frames", f.reads, i)
	}
	if problem != "" {
		f.fails++
		if f.fails <= 20 {
			f.t.Errorf("at %s: %s\n  %s", f.name(c.RIP), problem, strings.Join(got, "\n  "))
		}
	}
}

func unwindMachine(t testing.TB, cfg Config) (*Machine, func()) {
	cfg.Seed, cfg.Processors, cfg.Tick, cfg.LinkTimeout = 7, 2, 1, 1
	m, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	ctx, cancel := context.WithCancel(context.Background())
	m.ctx, m.end = ctx, cancel
	return m, func() { cancel(); m.mu.Unlock(); m.target.Close() }
}

// TestUnwindAtEveryInstruction runs all that the kernel can be made to do, and
// lets every interrupt and exception of the processor come once.
func TestUnwindAtEveryInstruction(t *testing.T) {
	where := map[string]map[uint32]bool{}
	states, frames, deep := 0, 0, 0
	hows := map[unwind.How]int{}
	run := func(name string, cfg Config, script func(f *follower)) {
		t.Run(name, func(t *testing.T) {
			m, end := unwindMachine(t, cfg)
			defer end()
			f := follow(t, m)
			script(f)
			for pc := range f.where {
				mod := f.module(pc)
				if mod == nil {
					continue // a driver that is gone
				}
				if where[mod.name] == nil {
					where[mod.name] = map[uint32]bool{}
				}
				where[mod.name][uint32(pc-mod.base)] = true
			}
			states += len(f.done)
			frames += f.frames
			deep = max(deep, f.deep)
			for h, n := range f.hows {
				hows[h] += n
			}
		})
	}
	long := 1
	if testing.Short() {
		long = 4
	}
	post := func(f *follower, j *job) {
		j.done = make(chan struct{})
		f.m.jobs = append(f.m.jobs, j)
	}
	run("work", Config{Prints: 100e6}, func(f *follower) {
		f.run(60/long, 20000, true)
		for _, j := range []*job{
			{command: cmdPrint, text: "a text\n"},
			{command: cmdLoadDriver, name: "sample.sys"},
			{command: cmdSafeCopy, args: [5]uint64{0x1000}},
			{command: cmdSafeCopy, args: [5]uint64{sharedVA}},
			{command: cmdPrompt, text: "a question"},
			{command: cmdCommandString, name: "name", text: "text"},
			{command: cmdBreakPoint},
			{command: cmdWatch, args: [5]uint64{7}},
			{command: cmdCall, args: [5]uint64{uint64(12 / long)}},
			{command: cmdUnloadDriver, name: "sample.sys"},
		} {
			post(f, j)
			f.run(6, 20000, true)
		}
		post(f, &job{command: cmdReboot})
		f.run(6, 20000, true)
	})
	run("bug check", Config{}, func(f *follower) {
		f.run(20, 20000, false)
		post(f, &job{command: cmdBugCheck, args: [5]uint64{0xE2, 1, 2, 3, 4}})
		f.run(6, 20000, true)
	})
	run("bad access", Config{}, func(f *follower) {
		f.run(20, 20000, false)
		post(f, &job{command: cmdBadAccess, args: [5]uint64{0x1000}})
		f.run(6, 20000, true)
	})
	run("assertion", Config{}, func(f *follower) {
		f.run(20, 20000, false)
		post(f, &job{command: cmdAssert})
		f.run(6, 20000, true)
	})
	for _, v := range []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 16, 17, 18, 19, vecAssertion, vecService, vecCrash, 0x77} {
		run(fmt.Sprintf("vector %#x", v), Config{}, func(f *follower) {
			f.run(20, 20000, false)
			post(f, &job{command: cmdCall, args: [5]uint64{7}})
			f.run(1, 3000+100*v, false)
			e := cpu.Exception{Vector: v}
			f.deliver(0, v, 0, e.HasError())
			f.run(2, 2000, true)
		})
	}
	t.Logf("%d states of the stack, %d frames, the deepest below %d callers, by %v", states, frames, deep, hows)
	if len(where["ntoskrnl.exe"]) == 0 {
		return
	}
	for _, name := range []string{"ntoskrnl.exe", "hal.dll", "openkd.sys", "tcpip.sys"} {
		total, met, missed := codeOf(t, name, where[name])
		t.Logf("%s: %d of %d instructions; functions not met: %v", name, met, total, missed)
		if name == "ntoskrnl.exe" && !testing.Short() && met*10 < total*8 {
			t.Errorf("only %d of the kernel's %d instructions were met", met, total)
		}
	}
}

// codeOf counts the instructions of the functions of an image, those that were
// met, and names the functions of which none was.
func codeOf(t *testing.T, name string, met map[uint32]bool) (total, seen int, missed []string) {
	g, err := openImage(name)
	if err != nil {
		t.Fatal(err)
	}
	m := g.flat()
	syms := imageSymbols(name)
	for _, s := range g.sections {
		if s.Name != ".text" {
			continue
		}
		for i, y := range syms {
			end := s.VirtualAddress + s.VirtualSize
			if i+1 < len(syms) {
				end = min(end, syms[i+1].rva)
			}
			if y.rva < s.VirtualAddress || y.rva >= end {
				continue
			}
			any := false
			for at := y.rva; at < end; {
				in, err := disasm.Decode(kdproto.MachineAMD64, m[at:min(at+15, end)], 0, nil)
				if err != nil {
					t.Fatal(err)
				}
				if in.Text() != "int     3" && in.Mnemonic != "nop" { // between functions
					total++
					if met[at] {
						seen++
						any = true
					}
				}
				at += uint32(in.Len)
			}
			if !any {
				missed = append(missed, y.name)
			}
		}
	}
	return total, seen, missed
}
