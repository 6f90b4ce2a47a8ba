package cpu

// Memory is physical memory. Reads and writes never cross a 4 KiB page.
type Memory interface {
	ReadPhys(addr uint64, p []byte) bool  // false: no memory there
	WritePhys(addr uint64, p []byte) bool // false: no memory there
}

// Pager is what a Memory may also implement to be fast: Page returns the
// storage of the 4 KiB page at the physical address (a multiple of 4096), or
// nil where there is no plain memory. The processor keeps the pointer until
// FlushTLB, so it must stay the page's storage until then.
type Pager interface {
	Page(addr uint64) *[4096]byte
}

// Ports is I/O space. Sizes are 1, 2 or 4 bytes.
type Ports interface {
	In(port uint16, size int) uint32
	Out(port uint16, size int, v uint32)
}

// Table is a descriptor table register.
type Table = struct {
	Limit uint16
	Base  uint64
}

// Indices into CPU.R, the hardware's order.
const (
	RAX = iota
	RCX
	RDX
	RBX
	RSP
	RBP
	RSI
	RDI
	R8
	R9
	R10
	R11
	R12
	R13
	R14
	R15
)

// Bits of RFlags.
const (
	FlagCF   = 1 << 0
	FlagPF   = 1 << 2
	FlagAF   = 1 << 4
	FlagZF   = 1 << 6
	FlagSF   = 1 << 7
	FlagTF   = 1 << 8
	FlagIF   = 1 << 9
	FlagDF   = 1 << 10
	FlagOF   = 1 << 11
	FlagIOPL = 3 << 12
	FlagNT   = 1 << 14
	FlagRF   = 1 << 16
	FlagVM   = 1 << 17
	FlagAC   = 1 << 18
	FlagVIF  = 1 << 19
	FlagVIP  = 1 << 20
	FlagID   = 1 << 21

	flagStatus = FlagCF | FlagPF | FlagAF | FlagZF | FlagSF | FlagOF
)

// Bits of control registers and EFER that the interpreter acts on.
const (
	CR0PE = 1 << 0
	CR0MP = 1 << 1
	CR0EM = 1 << 2
	CR0TS = 1 << 3
	CR0ET = 1 << 4
	CR0NE = 1 << 5
	CR0WP = 1 << 16
	CR0AM = 1 << 18
	CR0NW = 1 << 29
	CR0CD = 1 << 30
	CR0PG = 1 << 31

	CR4TSD        = 1 << 2
	CR4DE         = 1 << 3
	CR4PAE        = 1 << 5
	CR4PGE        = 1 << 7
	CR4OSFXSR     = 1 << 9
	CR4OSXMMEXCPT = 1 << 10
	CR4FSGSBASE   = 1 << 16
	CR4SMEP       = 1 << 20
	CR4SMAP       = 1 << 21

	EFERSCE = 1 << 0
	EFERLME = 1 << 8
	EFERLMA = 1 << 10
	EFERNXE = 1 << 11
)

// Bits of DR6.
const (
	DR6BD = 1 << 13
	DR6BS = 1 << 14

	dr6Fixed = 0xFFFF0FF0
)

// Exception vectors that the interpreter raises by itself.
const (
	VecDE = 0
	VecDB = 1
	VecBP = 3
	VecUD = 6
	VecNM = 7
	VecTS = 10
	VecNP = 11
	VecSS = 12
	VecGP = 13
	VecPF = 14
)

// Exception is what an instruction raised instead of completing (faults) or
// after it (traps).
type Exception struct {
	Vector   int
	Error    uint64 // error code, 0 where the vector has none
	Addr     uint64 // #PF: linear address, also in CR2
	Software bool   // int n (not int3, not int1)
}

// HasError reports whether the hardware pushes an error code for e.
func (e *Exception) HasError() bool {
	if e.Software {
		return false
	}
	switch e.Vector {
	case 8, 10, 11, 12, 13, 14, 17, 21, 29, 30:
		return true
	}
	return false
}

// CPU is one logical processor. The exported fields are its state; the owner
// may change any of them between calls. The zero value has no long mode, see
// InitLongMode.
//
// While GDTR.Limit is zero, segments are flat: selectors loaded by mov, iretq
// and far branches are taken at face value and no descriptor is read.
type CPU struct {
	R                              [16]uint64 // rax rcx rdx rbx rsp rbp rsi rdi r8..r15
	RIP, RFlags                    uint64
	CS, DS, ES, FS, GS, SS         uint16 // CS bits 0-1 are the current privilege level
	FSBase, GSBase, KernelGSBase   uint64
	CR0, CR2, CR3, CR4, CR8        uint64
	DR                             [8]uint64 // 0-3, 6, 7
	GDTR, IDTR                     Table
	TR, LDTR                       uint16
	EFER, STAR, LSTAR, CSTAR       uint64
	SFMask                         uint64
	MxCsr                          uint32
	XMM                            [16][16]byte
	Mem                            Memory
	Ports                          Ports                                        // nil: reads all ones
	MSR                            func(reg uint32, write bool, v *uint64) bool // other MSRs; false faults; nil: all fault
	TSC                            func() uint64                                // nil: the number of instructions executed
	CPUID                          func(leaf, sub uint32) (a, b, c, d uint32)   // nil: what the interpreter covers
	Halted                         bool                                         // hlt executed; cleared by the owner or Deliver
	next                           uint64                                       // RIP after the current instruction
	count                          uint64                                       // instructions executed
	mode, amode                    uint64                                       // TLB tag bits of data and of any access
	slow                           uint8                                        // why step must take the careful path
	gpVec                          uint8                                        // vector of a non-canonical data access: #GP or #SS
	hits, carry                    uint8                                        // data breakpoints met; held over by a mov ss
	pend                           Exception
	trap                           bool // pend is reported after the instruction
	pager                          Pager
	memSeen                        Memory
	seenCR0, seenCR3, seenCR4, eef uint64 // what the TLB was filled under
	tlb                            *[3][tlbSize]tlbEntry
	icache                         *[icacheSize]inst
	tmp                            inst
	ibuf                           [16]byte
	scratch                        [16]byte
}

// Reasons for the careful path.
const (
	slowExec = 1 << iota // execute breakpoints enabled
	slowData             // data or I/O breakpoints enabled
	slowSTI              // previous instruction was sti
	slowSS               // previous instruction loaded ss
)

// InitLongMode sets control registers, flags, MXCSR and debug registers as a
// 64-bit kernel has them: paging, write protection, NX, SSE and syscall on.
// The general registers, RIP, CR3 and the segment registers stay.
func (c *CPU) InitLongMode() {
	c.CR0 = CR0PE | CR0MP | CR0ET | CR0NE | CR0WP | CR0AM | CR0PG
	c.CR4 = CR4DE | CR4PAE | CR4PGE | CR4OSFXSR | CR4OSXMMEXCPT
	c.EFER = EFERSCE | EFERLME | EFERLMA | EFERNXE
	c.RFlags = 2
	c.MxCsr = 0x1F80
	c.DR[6] = dr6Fixed
	c.DR[7] = 0x400
	c.FlushTLB()
}

// CPL is the current privilege level.
func (c *CPU) CPL() int { return int(c.CS & 3) }

// Interruptible reports whether a maskable interrupt may be delivered now:
// interrupts are on and the last instruction does not hold them off.
func (c *CPU) Interruptible() bool {
	return c.RFlags&FlagIF != 0 && c.slow&(slowSTI|slowSS) == 0
}

// Instructions is the number of instructions completed so far. Every part of
// a repeated string instruction that ran on its own counts.
func (c *CPU) Instructions() uint64 { return c.count }

// sync takes notice of what the owner changed between calls.
func (c *CPU) sync() {
	if c.tlb == nil {
		c.tlb = new([3][tlbSize]tlbEntry)
		c.icache = new([icacheSize]inst)
	}
	if c.CR0 != c.seenCR0 || c.CR3 != c.seenCR3 || c.CR4 != c.seenCR4 || c.EFER != c.eef || c.Mem != c.memSeen {
		c.FlushTLB()
	}
	c.RFlags = c.RFlags&^(1<<3|1<<5|1<<15) | 2
	c.syncDebug()
	c.syncMode()
}

// syncDebug derives the breakpoint switches from DR7.
func (c *CPU) syncDebug() {
	c.slow &^= slowExec | slowData
	dr7 := c.DR[7]
	if dr7&0xFF == 0 {
		return
	}
	for n := range 4 {
		if dr7>>(2*n)&3 == 0 {
			continue
		}
		if dr7>>(16+4*n)&3 == 0 {
			c.slow |= slowExec
		} else {
			c.slow |= slowData
		}
	}
}

// syncMode derives the tag bits that decide which TLB entries may be used.
func (c *CPU) syncMode() {
	m := uint64(tagValid)
	if c.CS&3 == 3 {
		m |= tagUser
	}
	if c.CR4&CR4SMAP != 0 && c.RFlags&FlagAC != 0 {
		m |= tagAC
	}
	c.amode = m
	if c.slow&slowData != 0 {
		m |= tagWatch
	}
	c.mode = m
}

// Step executes one instruction, or one iteration of a repeated string
// instruction while TF or breakpoints are on (otherwise some thousand
// iterations). nil means nothing happened. A halted processor does nothing.
//
// Faults leave the state as before the instruction. int3, int1 and int n leave
// RIP after the instruction. #DB for TF comes after the instruction with
// DR6.BS, for data breakpoints after the access with DR6.Bn, for execute
// breakpoints before the instruction; RF suppresses the latter and is cleared
// by the instruction that completes.
func (c *CPU) Step() *Exception {
	c.sync()
	if c.Halted {
		return nil
	}
	return c.step()
}

// Run executes up to n instructions and stops early at an exception or a hlt.
// steps counts what completed: a trap's instruction does, a fault's does not.
func (c *CPU) Run(n int) (steps int, e *Exception) {
	c.sync()
	start := c.count
	for k := 0; k < n && !c.Halted; k++ {
		if e = c.step(); e != nil {
			break
		}
	}
	return int(c.count - start), e
}

func (c *CPU) step() *Exception {
	if c.slow != 0 || c.RFlags&(FlagTF|FlagRF) != 0 {
		return c.stepCareful()
	}
	i := c.fetch()
	if i == nil {
		return c.taken()
	}
	c.next = c.RIP + uint64(i.len)
	if !c.exec(i) {
		return c.taken()
	}
	c.RIP = c.next
	c.count++
	return nil
}

// taken hands out the pending exception.
func (c *CPU) taken() *Exception {
	if c.trap {
		c.trap = false
		c.RIP = c.next
		c.count++
	}
	e := c.pend
	return &e
}

func (c *CPU) stepCareful() *Exception {
	rf, tf := c.RFlags&FlagRF, c.RFlags&FlagTF
	shadow := c.slow & (slowSTI | slowSS)
	if c.slow&slowExec != 0 && rf == 0 && shadow&slowSS == 0 {
		if hits := c.execHits(); hits != 0 {
			c.setDR6(uint64(hits))
			return &Exception{Vector: VecDB}
		}
	}
	c.slow &^= slowSTI | slowSS
	c.RFlags &^= FlagRF
	c.hits = c.carry
	i := c.fetch()
	if i == nil {
		c.RFlags |= rf
		c.slow |= shadow
		return c.taken()
	}
	c.next = c.RIP + uint64(i.len)
	if !c.exec(i) {
		if !c.trap {
			c.RFlags |= rf
			c.slow |= shadow
		} else {
			c.carry = 0
		}
		return c.taken()
	}
	c.RIP = c.next
	c.count++
	if c.slow&slowSS != 0 {
		c.carry = c.hits
		return nil
	}
	c.carry = 0
	if i.op == opSYSCALL || i.op == opSYSRET {
		// These two are stepped by the flags they load, not those they met.
		tf = c.RFlags & FlagTF
	}
	if tf != 0 || c.hits != 0 {
		d := uint64(c.hits)
		if tf != 0 {
			d |= DR6BS
		}
		c.setDR6(d)
		return &Exception{Vector: VecDB}
	}
	return nil
}

func (c *CPU) setDR6(bits uint64) {
	c.DR[6] = c.DR[6]&^0xF | dr6Fixed | bits
}

// execHits returns the execute breakpoints at RIP as a bit mask.
func (c *CPU) execHits() (hits uint8) {
	dr7 := c.DR[7]
	for n := range 4 {
		if dr7>>(2*n)&3 != 0 && dr7>>(16+4*n)&3 == 0 && c.DR[n] == c.RIP {
			hits |= 1 << n
		}
	}
	return hits
}

// watch notes the data breakpoints that an access meets.
func (c *CPU) watch(addr uint64, size uint64, write bool) {
	dr7 := c.DR[7]
	for n := range 4 {
		if dr7>>(2*n)&3 == 0 {
			continue
		}
		switch dr7 >> (16 + 4*n) & 3 {
		case 1:
			if !write {
				continue
			}
		case 3:
		default:
			continue
		}
		l := [4]uint64{1, 2, 8, 4}[dr7>>(18+4*n)&3]
		base := c.DR[n] &^ (l - 1)
		if addr-base < l || base-addr < size {
			c.hits |= 1 << n
		}
	}
}

// watchIO notes the I/O breakpoints that a port access meets.
func (c *CPU) watchIO(port uint16, size uint64) {
	if c.slow&slowData == 0 || c.CR4&CR4DE == 0 {
		return
	}
	dr7 := c.DR[7]
	for n := range 4 {
		if dr7>>(2*n)&3 == 0 || dr7>>(16+4*n)&3 != 2 {
			continue
		}
		l := [4]uint64{1, 2, 8, 4}[dr7>>(18+4*n)&3]
		base := c.DR[n] &^ (l - 1)
		if uint64(port)-base < l || base-uint64(port) < size {
			c.hits |= 1 << n
		}
	}
}

// raise makes a fault pending and returns false, so that callers can return it.
func (c *CPU) raise(vec int, code uint64) bool {
	c.pend = Exception{Vector: vec, Error: code}
	c.trap = false
	return false
}

func (c *CPU) gp(code uint64) bool { return c.raise(VecGP, code) }
func (c *CPU) ud() bool            { return c.raise(VecUD, 0) }

// raiseTrap makes an exception pending that is reported after the instruction.
func (c *CPU) raiseTrap(vec int, software bool) bool {
	c.pend = Exception{Vector: vec, Software: software}
	c.trap = true
	return false
}

func canonical(a uint64) bool { return uint64(int64(a<<16)>>16) == a }
