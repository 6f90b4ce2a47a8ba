package sim

import (
	"fmt"
	"math/rand/v2"
	"time"

	"openkd/sim/cpu"
)

// Segment selectors and interrupt vectors of the machine.
const (
	selCode = 0x10
	selData = 0x18
	selUser = 0x2B
	selTeb  = 0x53
	selTSS  = 0x40

	vecAssertion = 0x2C
	vecService   = 0x2D
	vecClock     = 0xD1
	vecCrash     = 0xE1
)

const (
	poolVA   = 0xFFFF8A0000000000
	poolSize = 8 << 20
	procVA   = 0xFFFFBD8000000000 // a region of regionSize for each processor
	procStep = 0x20000
	stackTop = 0x10000 // end of the idle stack in the region
	sharedVA = 0xFFFFF78000000000
	userVA   = 0x7FFE0000 // the shared page in user space
	pebVA    = 0x7FFDF000 // a page of each process's own
	loaderVA = 0xFFFF900000000000

	sizePrcbOffset = 0x180 // KPCR.Prcb
	stateOffset    = sizePrcbOffset + 0x40
	contextOffset  = stateOffset + specialSize

	specialSize = 0xF0
	contextSize = 0x4D0
)

// board is one life of the machine, from power-on to reset: memory, processors
// and what the loader put there.
type board struct {
	mem     *memory
	top     uint64 // page tables of the System process
	cpus    []*cpu.CPU
	clock   []bool // a clock interrupt waits for the processor
	modules []*module
	next    uint64 // where the next driver is mapped
	nt      *module
	io      *ioSpace
	loader  int // pages of loader data used

	sym map[string]uint64 // kernel symbols by name
}

// pcr is the address of a processor's KPCR.
func (b *board) pcr(n int) uint64 { return procVA + uint64(n)*procStep }

// read and write use the System process's address space.
func (b *board) read(va uint64, p []byte) int  { return b.mem.read(b.top, va, p) }
func (b *board) write(va uint64, p []byte) int { return b.mem.write(b.top, va, p) }

func (b *board) u32(va uint64) uint32 {
	var p [4]byte
	b.read(va, p[:])
	return le.Uint32(p[:])
}

func (b *board) u64(va uint64) uint64 {
	var p [8]byte
	b.read(va, p[:])
	return le.Uint64(p[:])
}

func (b *board) putU32(va uint64, v uint32) { b.write(va, le.AppendUint32(nil, v)) }
func (b *board) putU64(va uint64, v uint64) { b.write(va, le.AppendUint64(nil, v)) }

// loadData copies loader data into memory the kernel can read.
func (b *board) loadData(p []byte) (uint64, error) {
	va := uint64(loaderVA) + uint64(b.loader)*pageSize
	n := (len(p) + pageSize - 1) / pageSize
	if err := b.mem.mapNew(b.top, va, uint64(n)*pageSize, pteWrite|pteNX|pteGlobal); err != nil {
		return 0, err
	}
	b.loader += n
	b.write(va, p)
	return va, nil
}

// bootModule is a module that the loader hands to the kernel.
type bootModule struct {
	m                *module
	full             string
	entry            uint64
	stamp, sum, flag uint32
}

// newBoard does what firmware and boot loader do.
func newBoard(cfg Config, life int) (*board, error) {
	rng := rand.New(rand.NewPCG(uint64(cfg.Seed), uint64(life)))
	b := &board{mem: newMemory(cfg.Memory), io: newIOSpace(), sym: map[string]uint64{}}
	var err error
	if b.top, err = b.mem.newTop(); err != nil {
		return nil, err
	}
	ntBase := 0xFFFFF80000000000 + (1+rng.Uint64N(0x3000))<<21 + 1<<21
	b.next = ntBase + 0x1000000
	const halGap = 0x100000

	var boot []bootModule
	load := func(name, full string, base uint64, flag uint32) (*module, error) {
		g, err := openImage(name)
		if err != nil {
			return nil, err
		}
		m, err := b.mapImage(g, base)
		if err != nil {
			return nil, err
		}
		bm := bootModule{m: m, full: full, stamp: g.timestamp, sum: g.checksum, flag: flag}
		if g.entry != 0 {
			bm.entry = base + uint64(g.entry)
		}
		boot = append(boot, bm)
		return m, nil
	}
	if _, err = load("hal.dll", `\SystemRoot\system32\hal.dll`, ntBase-halGap, 0); err != nil {
		return nil, err
	}
	if b.nt, err = load("ntoskrnl.exe", `\SystemRoot\system32\ntoskrnl.exe`, ntBase, 0); err != nil {
		return nil, err
	}
	boot[0], boot[1] = boot[1], boot[0] // the kernel is the first of the list
	for _, s := range b.nt.syms {
		b.sym[s.name] = b.nt.base + uint64(s.rva)
	}
	for _, d := range []string{"tcpip.sys", "openkd.sys"} {
		if _, err := load(d, `\SystemRoot\System32\drivers\`+d, b.place(rng), 1); err != nil {
			return nil, err
		}
	}
	for i := range cfg.Modules {
		name := fmt.Sprintf("module%03d.sys", i)
		m := &module{name: name, base: b.place(rng), size: pageSize}
		stamp := 0x60000000 + uint32(i)*86400
		if err := b.mem.mapNew(b.top, m.base, pageSize, pteGlobal|pteNX); err != nil {
			return nil, err
		}
		b.write(m.base, syntheticHeader(m.base, stamp))
		b.modules = append(b.modules, m)
		boot = append(boot, bootModule{m: m, full: `\SystemRoot\System32\drivers\` + name, stamp: stamp})
	}

	// Fixed regions, before the address spaces of the processes copy the upper half.
	if err := b.mem.mapNew(b.top, poolVA, poolSize, pteWrite|pteNX|pteGlobal); err != nil {
		return nil, err
	}
	shared, err := b.mem.alloc()
	if err != nil {
		return nil, err
	}
	if err := b.mem.mapPage(b.top, sharedVA, shared, pteWrite|pteNX|pteGlobal); err != nil {
		return nil, err
	}
	for n := range cfg.Processors {
		if err := b.mem.mapNew(b.top, b.pcr(n), 0x3000, pteWrite|pteNX|pteGlobal); err != nil { // PCR, tables
			return nil, err
		}
		if err := b.mem.mapNew(b.top, b.pcr(n)+stackTop-0x6000, 0x6000, pteWrite|pteNX|pteGlobal); err != nil {
			return nil, err
		}
	}
	loader, err := b.loadData(make([]byte, 5*pageSize)) // filled below
	if err != nil {
		return nil, err
	}

	processes := []struct {
		name string
		pid  uint64
	}{{"System", 4}, {"smss.exe", 0x154}, {"csrss.exe", 0x1C8}, {"explorer.exe", 0xA3C}}
	var ps []byte
	for i, p := range processes {
		top, peb := b.top, uint64(0)
		if i > 0 {
			if top, err = b.mem.newTop(); err != nil {
				return nil, err
			}
			for s := uint64(256); s < 512; s++ {
				if s != selfSlot {
					b.mem.putU64(top+8*s, b.mem.u64(b.top+8*s))
				}
			}
			peb = pebVA
			if err := b.mem.mapNew(top, peb, pageSize, pteWrite|pteUser|pteNX); err != nil {
				return nil, err
			}
			if err := b.mem.mapPage(top, userVA, shared, pteUser|pteNX); err != nil {
				return nil, err
			}
			b.mem.write(top, peb, le.AppendUint64(nil, p.pid))
			b.mem.write(top, peb+0x100, []byte("the own page of "+p.name))
		}
		e := make([]byte, 40)
		copy(e[:15], p.name)
		le.PutUint64(e[16:], top)
		le.PutUint64(e[24:], p.pid)
		le.PutUint64(e[32:], peb)
		ps = append(ps, e...)
	}
	psVA, err := b.loadData(ps)
	if err != nil {
		return nil, err
	}
	var ms []byte
	for _, m := range boot {
		e := make([]byte, 192)
		le.PutUint64(e[0:], m.m.base)
		le.PutUint64(e[8:], m.entry)
		le.PutUint32(e[16:], uint32(m.m.size))
		le.PutUint32(e[20:], m.sum)
		le.PutUint32(e[24:], m.stamp)
		le.PutUint32(e[28:], m.flag)
		copy(e[32:127], m.full)
		copy(e[128:191], m.m.name)
		ms = append(ms, e...)
	}
	msVA, err := b.loadData(ms)
	if err != nil {
		return nil, err
	}

	// LOADER_PARAMETER_BLOCK
	lb := make([]byte, 0x60+64*40)
	le.PutUint32(lb[0:], uint32(len(lb)))
	le.PutUint32(lb[4:], uint32(cfg.Processors))
	le.PutUint32(lb[8:], uint32(len(boot)))
	le.PutUint32(lb[12:], uint32(len(processes)))
	le.PutUint64(lb[16:], ntBase)
	le.PutUint64(lb[24:], poolVA)
	le.PutUint64(lb[32:], poolSize)
	le.PutUint64(lb[40:], cfg.Memory/pageSize)
	le.PutUint64(lb[48:], fileTime(cfg.now()))
	le.PutUint32(lb[56:], timeIncrement)
	le.PutUint32(lb[60:], uint32(cfg.Tick/time.Millisecond))
	le.PutUint32(lb[64:], uint32(cfg.Prints/(timeIncrement*100)))
	var flags uint32
	if cfg.BreakAtBoot {
		flags |= 1
	}
	if cfg.AutoReboot {
		flags |= 2
	}
	if cfg.Quirks == QuirksReactOS {
		flags |= 4
	}
	le.PutUint32(lb[68:], flags)
	le.PutUint64(lb[72:], msVA)
	le.PutUint64(lb[80:], psVA)
	for n := range cfg.Processors {
		p := lb[88+40*n:]
		r := b.pcr(n)
		le.PutUint64(p[0:], r)
		le.PutUint64(p[8:], r+0x1000)  // GDT
		le.PutUint64(p[16:], r+0x2000) // IDT
		le.PutUint64(p[24:], r+0x1100) // TSS
		le.PutUint64(p[32:], r+stackTop)
	}
	b.write(loader, lb)

	if cfg.Quirks == QuirksReactOS {
		b.write(b.sym["KdDebuggerDataBlock"]+20, le.AppendUint32(nil, 0x318))
		v := b.sym["KdVersionBlock"]
		b.write(v, le.AppendUint16(le.AppendUint16(nil, 0x0C), 3790))
		b.write(v+6, le.AppendUint16(nil, 7))
	} else if cfg.Processors == 1 {
		b.write(b.sym["KdVersionBlock"]+6, le.AppendUint16(nil, 0x46))
	}
	return b, b.newProcessors(cfg, loader)
}

// place gives the next driver a base.
func (b *board) place(rng *rand.Rand) uint64 {
	a := b.next
	b.next += 0x20000
	if rng != nil {
		b.next += rng.Uint64N(4) << 16
	}
	return a
}

// timeIncrement is the time of a clock tick in units of 100 ns: 15.625 ms.
const timeIncrement = 156250

func fileTime(t time.Time) uint64 { return uint64(t.UnixNano()/100) + 116444736000000000 }

func (b *board) newProcessors(cfg Config, loader uint64) error {
	gates := map[int]string{
		0: "KiDivideErrorFault", 1: "KiDebugTrapOrFault", 2: "KiNmiInterrupt", 3: "KiBreakpointTrap",
		4: "KiOverflowTrap", 5: "KiBoundFault", 6: "KiInvalidOpcodeFault", 7: "KiNpxNotAvailableFault",
		8: "KiDoubleFaultAbort", 9: "KiNpxSegmentOverrunAbort", 10: "KiInvalidTssFault",
		11: "KiSegmentNotPresentFault", 12: "KiStackFault", 13: "KiGeneralProtectionFault", 14: "KiPageFault",
		16: "KiFloatingErrorFault", 17: "KiAlignmentFault", 18: "KiMcheckAbort", 19: "KiXmmException",
		vecAssertion: "KiRaiseAssertion", vecService: "KiDebugServiceTrap", vecClock: "KiClockInterrupt",
		vecCrash: "KiCrashRequest",
	}
	entry, ok := b.sym["KiSystemStartup"]
	if !ok {
		return fmt.Errorf("sim: the kernel image has no symbol list")
	}
	for n := range cfg.Processors {
		r := b.pcr(n)
		gdt := make([]byte, 0x58)
		tss := r + 0x1100
		for sel, d := range map[int]uint64{
			0x10: 0x00209B0000000000, // kernel code
			0x18: 0x00CF93000000FFFF, // kernel data
			0x20: 0x00CFFB000000FFFF, // user code, 32-bit
			0x28: 0x00CFF3000000FFFF, // user data
			0x30: 0x0020FB0000000000, // user code
			0x40: 0x0000_8B00_0000_0067 | tss&0xFFFFFF<<16 | tss>>24&0xFF<<56,
			0x48: tss >> 32,
			0x50: 0x0040F30000003C00, // user TEB
		} {
			le.PutUint64(gdt[sel:], d)
		}
		b.write(r+0x1000, gdt)
		ts := make([]byte, 0x68)
		for _, o := range []int{4, 36, 44, 52} { // Rsp0, Ist1..3
			le.PutUint64(ts[o:], r+stackTop)
		}
		le.PutUint16(ts[0x66:], 0x68)
		b.write(tss, ts)
		idt := make([]byte, 4096)
		for v := range 256 {
			h := b.sym["KiUnexpectedInterrupt"]
			if name, ok := gates[v]; ok {
				h = b.sym[name]
			}
			typ := uint64(0x8E00)
			if v == 3 || v == vecAssertion || v == vecService {
				typ = 0xEE00
			}
			le.PutUint64(idt[16*v:], h&0xFFFF|selCode<<16|typ<<32|h>>16&0xFFFF<<48)
			le.PutUint64(idt[16*v+8:], h>>32)
		}
		b.write(r+0x2000, idt)

		c := &cpu.CPU{
			CS: selCode, SS: selData, DS: selUser, ES: selUser, FS: selTeb, GS: selUser,
			GSBase: r, CR3: b.top, TR: selTSS, Mem: b.mem, Ports: b.io,
		}
		c.GDTR.Base, c.GDTR.Limit = r+0x1000, 0x57
		c.IDTR.Base, c.IDTR.Limit = r+0x2000, 0xFFF
		c.InitLongMode()
		c.STAR = 0x0023001000000000
		c.LSTAR, c.CSTAR = b.sym["KiSystemCall64"], b.sym["KiSystemCall64"]
		c.SFMask = 0x4700
		c.RIP = entry
		c.R[cpu.RSP] = r + stackTop - 0x28
		c.R[cpu.RCX], c.R[cpu.RDX] = loader, uint64(n)
		b.cpus = append(b.cpus, c)
		c.FlushTLB()
	}
	b.clock = make([]bool, len(b.cpus))
	return nil
}
