package cpu

import (
	"encoding/binary"
	"testing"
)

// Selectors of the test kernel, in the order that syscall and sysret need.
const (
	selKernelCode = 0x10
	selKernelData = 0x18
	selUserData   = 0x28
	selUserCode   = 0x30
	selTSS        = 0x40
)

const (
	sysGDT  = 0x2000
	sysTSS  = 0x2200
	sysIDT  = 0x3000
	sysIST  = 0x9000
	sysRSP0 = 0xA000
)

// kernel is a machine with a GDT, a TSS and an IDT.
func kernel(t testing.TB, text string) *CPU {
	t.Helper()
	c, _ := machine(t, text)
	for sel, d := range map[uint64]uint64{
		selKernelCode: 0x00209B0000000000,
		selKernelData: 0x00CF93000000FFFF,
		0x20:          0x00CFFB000000FFFF, // 32-bit user code
		selUserData:   0x00CFF3000000FFFF,
		selUserCode:   0x0020FB0000000000,
		selTSS:        0x0000890000000067 | sysTSS<<16,
		0x50:          0x00CF13000000FFFF, // data, not present
	} {
		poke(t, c, sysGDT+sel, d)
	}
	poke(t, c, sysTSS+4, sysRSP0)
	poke(t, c, sysTSS+36+8*2, sysIST) // IST 3
	c.GDTR = Table{Limit: 0x5F, Base: sysGDT}
	c.IDTR = Table{Limit: 0xFFF, Base: sysIDT}
	c.TR = selTSS
	c.CS, c.SS = selKernelCode, selKernelData
	return c
}

// gate writes an IDT entry.
func gate(t testing.TB, c *CPU, vec int, to, typ, ist uint64) {
	t.Helper()
	poke(t, c, sysIDT+uint64(vec)*16, to&0xFFFF|selKernelCode<<16|ist<<32|typ<<40|1<<47|to>>16&0xFFFF<<48)
	poke(t, c, sysIDT+uint64(vec)*16+8, to>>32)
}

func TestDeliverAndReturn(t *testing.T) {
	for _, tc := range []struct {
		name   string
		user   bool
		ist    uint64
		vec    int
		hasErr bool
		typ    uint64
		top    uint64 // stack before the frame
	}{
		{"clock in the kernel", false, 0, 0xD1, false, 0xE, 0x7FF0},
		{"clock in user mode", true, 0, 0xD1, false, 0xE, sysRSP0},
		{"page fault in user mode", true, 0, 14, true, 0xE, sysRSP0},
		{"double fault on its own stack", false, 3, 8, true, 0xE, sysIST},
		{"trap gate leaves interrupts on", false, 0, 3, false, 0xF, 0x7FF0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := kernel(t, "")
			gate(t, c, tc.vec, testCode+0x200, tc.typ, tc.ist)
			c.WriteLinear(testCode+0x200, code(t, "48 cf"))
			c.R[RSP] = 0x7FF8 // not a multiple of 16: the frame aligns itself
			if tc.user {
				c.CS, c.SS = selUserCode|3, selUserData|3
			}
			c.RFlags |= FlagIF | FlagTF | FlagZF
			c.Halted = true
			before := *c
			if err := c.Deliver(tc.vec, 0x55, tc.hasErr); err != nil {
				t.Fatal(err)
			}
			frame := tc.top - 40
			if tc.hasErr {
				frame -= 8
				if v := peek(t, c, frame); v != 0x55 {
					t.Fatalf("error code %#x", v)
				}
			}
			if c.RIP != testCode+0x200 || c.R[RSP] != frame || c.CS != selKernelCode || c.RFlags&FlagTF != 0 || c.Halted {
				t.Fatalf("rip %#x rsp %#x cs %#x flags %#x", c.RIP, c.R[RSP], c.CS, c.RFlags)
			}
			if (c.RFlags&FlagIF != 0) != (tc.typ == 0xF) {
				t.Fatalf("flags %#x", c.RFlags)
			}
			if tc.user && c.SS != 0 || !tc.user && c.SS != before.SS {
				t.Fatalf("ss %#x", c.SS)
			}
			if tc.hasErr {
				if v := peek(t, c, frame+24); tc.vec == 14 && v&FlagRF == 0 {
					t.Fatalf("a fault's flags %#x without RF", v)
				}
				c.R[RSP] += 8
			}
			steps(t, c, 1)
			if c.RIP != before.RIP || c.R[RSP] != before.R[RSP] || c.CS != before.CS || c.SS != before.SS || c.RFlags&^FlagRF != before.RFlags {
				t.Fatalf("iretq came back to rip %#x rsp %#x cs %#x ss %#x flags %#x", c.RIP, c.R[RSP], c.CS, c.SS, c.RFlags)
			}
		})
	}
}

func TestDeliverRefuses(t *testing.T) {
	c := kernel(t, "")
	gate(t, c, 32, testCode, 0xE, 0)
	gate(t, c, 33, 1<<47, 0xE, 0)
	gate(t, c, 34, testCode, 0xC, 0) // a 32-bit gate
	gate(t, c, 35, testCode, 0xE, 1)
	before := *c
	for _, vec := range []int{-1, 256, 31, 33, 34} {
		if err := c.Deliver(vec, 0, false); err == nil {
			t.Errorf("vector %d was delivered", vec)
		}
	}
	c.TR = 0x18
	if err := c.Deliver(35, 0, false); err == nil {
		t.Error("delivered on a stack from a TSS that is data")
	}
	if c.R != before.R || c.RIP != before.RIP || c.CS != before.CS || c.RFlags != before.RFlags {
		t.Error("a refused delivery changed the processor")
	}
	if err := c.Deliver(32, 0, false); err != nil {
		t.Error(err)
	}
}

func TestDeliverKeepsRunningAfterRefusal(t *testing.T) {
	c, p := paged(t)
	p.mapPage(0x1000, 0x1000, pteP|pteW, 0)
	c.WriteLinear(0x1000, code(t, "90"))
	c.RIP, c.R[RSP] = 0x1000, 0x500000 // no stack
	c.IDTR = Table{Limit: 0xFFF, Base: 0x1000}
	poke(t, c, 0x1000+0x200, 0x00008E0000101000)
	if err := c.Deliver(32, 0, false); err == nil {
		t.Fatal("delivered without a stack")
	}
	steps(t, c, 1)
}

func TestSyscallAndBack(t *testing.T) {
	c := kernel(t, "0f 05")
	c.WriteLinear(testCode+0x200, code(t, "0f 01 f8  48 0f 07")) // swapgs; sysretq
	c.STAR = uint64(0x20|3)<<48 | selKernelCode<<32
	c.LSTAR = testCode + 0x200
	c.SFMask = FlagIF | FlagTF | FlagDF
	c.CS, c.SS = selUserCode|3, selUserData|3
	c.RFlags |= FlagIF | FlagCF
	c.GSBase, c.KernelGSBase = 1, 2
	steps(t, c, 1)
	if c.CS != selKernelCode || c.SS != selKernelData || c.R[RCX] != testCode+2 || c.R[R11] != FlagIF|FlagCF|2 || c.RFlags != FlagCF|2 {
		t.Fatalf("cs %#x ss %#x rcx %#x r11 %#x flags %#x", c.CS, c.SS, c.R[RCX], c.R[R11], c.RFlags)
	}
	steps(t, c, 2)
	if c.CS != selUserCode|3 || c.SS != selUserData|3 || c.RIP != testCode+2 || c.RFlags != FlagIF|FlagCF|2 || c.GSBase != 2 || c.KernelGSBase != 1 {
		t.Fatalf("cs %#x ss %#x rip %#x flags %#x gs %#x", c.CS, c.SS, c.RIP, c.RFlags, c.GSBase)
	}
	c.EFER &^= EFERSCE
	c.RIP = testCode
	wantEx(t, c.Step(), VecUD)
}

func TestPrivileged(t *testing.T) {
	for _, text := range []string{
		"f4", "fa", "fb", "0f 20 c0", "0f 22 c0", "0f 21 c0", "0f 23 c0", "0f 30", "0f 32", "0f 01 f8", "0f 01 3b",
		"0f 01 13", "0f 01 1b", "0f 00 d8", "0f 00 d0", "48 0f 07", "0f 06", "0f 09", "0f 08", "ec", "ef", "6c", "0f 01 f0",
	} {
		c := kernel(t, text)
		c.R[RBX] = testData
		c.CS |= 3
		e := c.Step()
		if e == nil || e.Vector != VecGP || e.Error != 0 || c.RIP != testCode {
			t.Errorf("%s in ring 3: %+v", text, e)
		}
		c.CS &^= 3
		if text == "0f 32" || text == "0f 30" {
			c.R[RCX] = 0xC0000102
		}
		if text == "0f 00 d8" {
			c.R[RAX] = selTSS
		}
		if text == "0f 22 c0" {
			c.R[RAX] = CR0PE
		}
		if e := c.Step(); e != nil {
			t.Errorf("%s in ring 0: %+v", text, *e)
		}
	}
}

func TestInterruptFlagAndShadow(t *testing.T) {
	c := kernel(t, "fb f4") // sti; hlt
	steps(t, c, 1)
	if c.RFlags&FlagIF == 0 || c.Interruptible() {
		t.Fatal("interruptible between sti and hlt")
	}
	steps(t, c, 1)
	if !c.Halted || !c.Interruptible() {
		t.Fatal("hlt did not halt")
	}
	// popf in ring 3 changes neither IF nor IOPL, and does not fault.
	c = kernel(t, "9d")
	c.CS |= 3
	poke(t, c, testStack, FlagIF|FlagIOPL|FlagCF)
	steps(t, c, 1)
	if c.RFlags != FlagCF|2 {
		t.Fatalf("flags %#x", c.RFlags)
	}
}

func TestSegments(t *testing.T) {
	// mov fs, ax with a descriptor takes its base; the null selector clears it.
	c := kernel(t, "8e e0 8e e1 8c c2 8e d8")
	poke(t, c, sysGDT+0x58, 0x12CF93345678FFFF)
	c.R[RAX], c.R[RCX] = 0x58, 0
	c.ES = 0x2B
	steps(t, c, 1)
	if c.FS != 0x58 || c.FSBase != 0x12345678 {
		t.Fatalf("fs %#x base %#x", c.FS, c.FSBase)
	}
	steps(t, c, 2)
	if c.FS != 0 || c.FSBase != 0 || c.R[RDX] != 0x2B {
		t.Fatalf("fs %#x base %#x edx %#x", c.FS, c.FSBase, c.R[RDX])
	}
	for _, tc := range []struct {
		sel uint64
		vec int
	}{{0x50, VecNP}, {0x68, VecGP}, {0x14, VecGP}, {selTSS, VecGP}} {
		c.R[RAX] = tc.sel
		e := c.Step()
		wantEx(t, e, tc.vec)
		if e.Error != tc.sel&^3 {
			t.Errorf("selector %#x: error code %#x", tc.sel, e.Error)
		}
	}
}

func TestIretChecks(t *testing.T) {
	for name, f := range map[string][5]uint64{
		"outer to inner":    {testCode, selKernelCode, 2, testStack, selKernelData},
		"null code":         {testCode, 3, 2, testStack, selUserData | 3},
		"32-bit code":       {testCode, 0x20 | 3, 2, testStack, selUserData | 3},
		"data as code":      {testCode, selUserData | 3, 2, testStack, selUserData | 3},
		"kernel stack":      {testCode, selUserCode | 3, 2, testStack, selKernelData},
		"null stack, ring3": {testCode, selUserCode | 3, 2, testStack, 3},
		"non-canonical":     {1 << 47, selUserCode | 3, 2, testStack, selUserData | 3},
	} {
		c := kernel(t, "48 cf")
		if name == "outer to inner" {
			c.CS |= 3
		}
		for k, v := range f {
			poke(t, c, testStack+8*uint64(k), v)
		}
		if e := c.Step(); e == nil || e.Vector != VecGP || c.R[RSP] != testStack {
			t.Errorf("%s: %+v", name, e)
		}
	}
}

func TestRetFar(t *testing.T) {
	c := kernel(t, "48 cb")
	poke(t, c, testStack, testCode+0x40)
	poke(t, c, testStack+8, selKernelCode)
	steps(t, c, 1)
	if c.RIP != testCode+0x40 || c.R[RSP] != testStack+16 {
		t.Fatalf("rip %#x rsp %#x", c.RIP, c.R[RSP])
	}
	// jmp far [rbx] and call far [rbx]
	for _, text := range []string{"48 ff 2b", "48 ff 1b"} {
		c = kernel(t, text)
		c.R[RBX] = testData
		poke(t, c, testData, testCode+0x80)
		poke(t, c, testData+8, selKernelCode)
		steps(t, c, 1)
		if c.RIP != testCode+0x80 || c.CS != selKernelCode {
			t.Fatalf("%s: rip %#x", text, c.RIP)
		}
	}
	if peek(t, c, testStack-16) != testCode+3 || peek(t, c, testStack-8) != selKernelCode {
		t.Fatal("call far pushed something else")
	}
}

func TestModelSpecific(t *testing.T) {
	c := kernel(t, "0f 30 0f 32") // wrmsr; rdmsr
	var seen uint32
	c.MSR = func(reg uint32, write bool, v *uint64) bool {
		seen = reg
		if !write {
			*v = 0x1122334455667788
		}
		return reg == 0x277
	}
	for _, tc := range []struct {
		reg  uint32
		v    uint64
		at   *uint64
		want int // vector, or -1
	}{
		{msrLSTAR, kernelBase, &c.LSTAR, -1},
		{msrKernelGSBase, 0x1234, &c.KernelGSBase, -1},
		{msrFSBase, 1 << 50, nil, VecGP},
		{msrSTAR, 1 << 60, &c.STAR, -1},
		{msrSFMASK, 0x4700, &c.SFMask, -1},
		{msrEFER, EFERSCE | EFERLME | EFERNXE, nil, -1},
		{msrEFER, 1 << 20, nil, VecGP},
		{0x277, 5, nil, -1},
		{0x999, 5, nil, VecGP},
	} {
		c.RIP = testCode
		c.R[RCX] = uint64(tc.reg)
		c.R[RAX], c.R[RDX] = tc.v&0xFFFFFFFF, tc.v>>32
		e := c.Step()
		if tc.want >= 0 {
			wantEx(t, e, tc.want)
			continue
		}
		if e != nil {
			t.Fatalf("msr %#x: %+v", tc.reg, *e)
		}
		if tc.at != nil && *tc.at != tc.v {
			t.Errorf("msr %#x is %#x", tc.reg, *tc.at)
		}
		steps(t, c, 1)
	}
	if seen != 0x999 || c.EFER&EFERLMA == 0 {
		t.Errorf("hook saw %#x, efer %#x", seen, c.EFER)
	}
}

type testPorts struct{ log []uint32 }

func (p *testPorts) In(port uint16, size int) uint32 { return uint32(port)<<16 | uint32(size) }
func (p *testPorts) Out(port uint16, size int, v uint32) {
	p.log = append(p.log, uint32(port), uint32(size), v)
}

func TestPorts(t *testing.T) {
	// in al, 60; in eax, dx; out dx, ax; rep outsb; without ports: in al, dx
	c := kernel(t, "e4 60 ed 66 ef f3 6e ec")
	p := &testPorts{}
	c.Ports = p
	c.R[RDX] = 0x3F8
	c.R[RAX] = 0xAABB
	steps(t, c, 1)
	if c.R[RAX] != 0xAA01 {
		t.Fatalf("al: %#x", c.R[RAX])
	}
	steps(t, c, 1)
	if c.R[RAX] != 0x03F80004 {
		t.Fatalf("eax: %#x", c.R[RAX])
	}
	c.R[RCX], c.R[RSI] = 2, testData
	c.WriteLinear(testData, []byte("OK"))
	steps(t, c, 2)
	want := []uint32{0x3F8, 2, 4, 0x3F8, 1, 'O', 0x3F8, 1, 'K'}
	if len(p.log) != len(want) {
		t.Fatalf("%x", p.log)
	}
	for k := range want {
		if p.log[k] != want[k] {
			t.Fatalf("%x", p.log)
		}
	}
	c.Ports = nil
	steps(t, c, 1)
	if c.R[RAX]&0xFF != 0xFF {
		t.Fatalf("al %#x without ports", c.R[RAX])
	}
}

func TestDescriptorTables(t *testing.T) {
	// lidt [rbx]; sidt [rbx+16]; ltr ax; str ecx
	c := kernel(t, "0f 01 1b 0f 01 4b 10 0f 00 d8 0f 00 c9")
	c.R[RBX], c.R[RAX] = testData, selTSS
	var b [10]byte
	binary.LittleEndian.PutUint16(b[:], 0x123)
	binary.LittleEndian.PutUint64(b[2:], kernelBase)
	c.WriteLinear(testData, b[:])
	c.TR = 0
	steps(t, c, 4)
	var got [10]byte
	c.ReadLinear(testData+16, got[:])
	if got != b || c.IDTR.Limit != 0x123 || c.IDTR.Base != kernelBase || c.R[RCX] != selTSS {
		t.Fatalf("%x %+v tr %#x", got, c.IDTR, c.R[RCX])
	}
	if peek(t, c, sysGDT+selTSS)>>41&1 == 0 {
		t.Fatal("the task state segment is not marked busy")
	}
	c.RIP = testCode + 7 // busy: again is a fault
	wantEx(t, c.Step(), VecGP)
}

func TestControlRegisters(t *testing.T) {
	c := kernel(t, "0f 22 d8 0f 20 d9 44 0f 22 c2") // mov cr3, rax; mov rcx, cr3; mov cr8, rdx
	c.R[RAX], c.R[RDX] = 0x123000, 0xF
	steps(t, c, 3)
	if c.R[RCX] != 0x123000 || c.CR8 != 0xF {
		t.Fatalf("cr3 %#x cr8 %#x", c.R[RCX], c.CR8)
	}
	c.RIP, c.R[RDX] = testCode+6, 0x10
	wantEx(t, c.Step(), VecGP)
	c = kernel(t, "0f 58 c1") // addps without the kernel's permission
	c.CR4 &^= CR4OSFXSR
	wantEx(t, c.Step(), VecUD)
	c.CR4 |= CR4OSFXSR
	c.CR0 |= CR0TS
	wantEx(t, c.Step(), VecNM)
}

func TestCPUID(t *testing.T) {
	c := kernel(t, "0f a2 0f 31")
	steps(t, c, 1)
	if c.R[RAX] != 1 || c.R[RBX] != 0x6E65704F {
		t.Fatalf("%x", c.R[:4])
	}
	c.TSC = func() uint64 { return 0x1_0000_0002 }
	steps(t, c, 1)
	if c.R[RAX] != 2 || c.R[RDX] != 1 {
		t.Fatalf("%x", c.R[:4])
	}
}
