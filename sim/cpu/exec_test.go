package cpu

import "testing"

// TestInstructions has hand-known results of what the comparison with the
// real processor leaves out: stack, branches, strings, and some of the rest.
func TestInstructions(t *testing.T) {
	type regs map[int]uint64
	type mem map[uint64]uint64
	for _, tc := range []struct {
		name, text string
		steps      int
		in         regs
		inMem      mem
		inFlags    uint64
		out        regs
		outMem     mem
		rip        uint64 // offset from the start; 0: the end
	}{
		{name: "push pop", text: "50 59", in: regs{RAX: 7}, out: regs{RCX: 7, RSP: testStack}, steps: 2},
		{name: "push rsp pushes the old value", text: "54", out: regs{RSP: testStack - 8}, outMem: mem{testStack - 8: testStack}},
		{name: "pop rsp", text: "5c", inMem: mem{testStack: 0x1234}, out: regs{RSP: 0x1234}},
		{name: "pop [rsp]", text: "8f 04 24", inMem: mem{testStack: 0x1234}, out: regs{RSP: testStack + 8}, outMem: mem{testStack + 8: 0x1234}},
		{name: "push 16", text: "66 50", in: regs{RAX: 0x12345}, out: regs{RSP: testStack - 2}},
		{name: "push imm8", text: "6a ff", outMem: mem{testStack - 8: ^uint64(0)}},
		{name: "push imm32", text: "68 00 00 00 80", outMem: mem{testStack - 8: 0xFFFFFFFF80000000}},
		{name: "call ret", text: "e8 01 00 00 00 90 c3", steps: 2, out: regs{RSP: testStack}, outMem: mem{testStack - 8: testCode + 5}, rip: 5},
		{name: "call [rsp]", text: "ff 14 24", inMem: mem{testStack: testCode + 0x50}, outMem: mem{testStack - 8: testCode + 3}, rip: 0x50},
		{name: "ret imm", text: "c2 10 00", inMem: mem{testStack: testCode + 0x10}, out: regs{RSP: testStack + 0x18}, rip: 0x10},
		{name: "jmp rax", text: "ff e0", in: regs{RAX: testCode + 9}, rip: 9},
		{name: "jmp back", text: "eb fe", rip: 0x10000}, // itself
		{name: "jz taken", text: "74 10", inFlags: FlagZF, rip: 0x12},
		{name: "jz not taken", text: "74 10"},
		{name: "jl near", text: "0f 8c 00 01 00 00", inFlags: FlagSF, rip: 0x106},
		{name: "loop", text: "e2 fe", in: regs{RCX: 3}, steps: 3, out: regs{RCX: 0}},
		{name: "jrcxz", text: "e3 10", rip: 0x12},
		{name: "jecxz", text: "67 e3 10", in: regs{RCX: 1 << 32}, rip: 0x13},
		{name: "leave", text: "c9", in: regs{RBP: testData}, inMem: mem{testData: 0x77}, out: regs{RBP: 0x77, RSP: testData + 8}},
		{name: "enter", text: "c8 20 00 00", in: regs{RBP: 0x77}, out: regs{RBP: testStack - 8, RSP: testStack - 0x28}, outMem: mem{testStack - 8: 0x77}},
		{name: "enter nested", text: "c8 00 00 02", in: regs{RBP: testData}, inMem: mem{testData - 8: 0x99},
			out:    regs{RBP: testStack - 8, RSP: testStack - 24},
			outMem: mem{testStack - 8: testData, testStack - 16: 0x99, testStack - 24: testStack - 8}},
		{name: "rep movsb", text: "f3 a4", in: regs{RCX: 8, RSI: testData, RDI: testData + 0x20}, inMem: mem{testData: 0x1122334455667788},
			out: regs{RCX: 0, RSI: testData + 8, RDI: testData + 0x28}, outMem: mem{testData + 0x20: 0x1122334455667788}},
		{name: "rep movsb overlapping repeats", text: "f3 a4", in: regs{RCX: 7, RSI: testData, RDI: testData + 1}, inMem: mem{testData: 0x11},
			outMem: mem{testData: 0x1111111111111111}},
		{name: "std movsq", text: "fd 48 a5", steps: 2, in: regs{RSI: testData + 8, RDI: testData + 0x28}, inMem: mem{testData + 8: 5},
			out: regs{RSI: testData, RDI: testData + 0x20}, outMem: mem{testData + 0x28: 5}},
		{name: "rep stosq", text: "f3 48 ab", in: regs{RAX: 9, RCX: 2, RDI: testData}, out: regs{RCX: 0, RDI: testData + 16}, outMem: mem{testData: 9, testData + 8: 9, testData + 16: 0}},
		{name: "rep stos nothing", text: "f3 48 ab", in: regs{RAX: 9, RDI: testData}, out: regs{RDI: testData}, outMem: mem{testData: 0}},
		{name: "repne scasb", text: "f2 ae", in: regs{RCX: 100, RDI: testData}, inMem: mem{testData: 0x0000434241}, out: regs{RCX: 96, RDI: testData + 4}},
		{name: "repe cmpsb", text: "f3 a6", in: regs{RCX: 8, RSI: testData, RDI: testData + 8}, inMem: mem{testData: 0x0044434241, testData + 8: 0x0045434241},
			out: regs{RCX: 4, RSI: testData + 4, RDI: testData + 12}},
		{name: "lodsd", text: "ad", in: regs{RSI: testData, RAX: ^uint64(0)}, inMem: mem{testData: 0x80000001}, out: regs{RAX: 0x80000001, RSI: testData + 4}},
		{name: "32-bit string addresses", text: "67 f3 aa", in: regs{RCX: 1<<32 | 2, RDI: 1<<32 | testData, RAX: 0xEE}, out: regs{RCX: 0, RDI: testData + 2}, outMem: mem{testData: 0xEEEE}},
		{name: "xlat", text: "d7", in: regs{RBX: testData, RAX: 0x103}, inMem: mem{testData: 0x0405060708}, out: regs{RAX: 0x105}},
		{name: "rip-relative", text: "48 8b 05 f9 2f 00 00", inMem: mem{testData: 0x42}, out: regs{RAX: 0x42}},
		{name: "moffs", text: "48 a1 00 40 00 00 00 00 00 00", inMem: mem{testData: 0x42}, out: regs{RAX: 0x42}},
		{name: "addr32", text: "67 8b 03", in: regs{RBX: 0xFFFFFFFF00000000 | testData}, inMem: mem{testData: 0x42}, out: regs{RAX: 0x42}},
		{name: "sib without base", text: "8b 04 8d 00 40 00 00", in: regs{RCX: 2}, inMem: mem{testData + 8: 3}, out: regs{RAX: 3}},
		{name: "lahf reserved bits", text: "9f", inFlags: FlagCF, out: regs{RAX: 0x300}},
		{name: "rex is cancelled by a prefix after it", text: "48 66 b8 34 12", in: regs{RAX: ^uint64(0)}, out: regs{RAX: 0xFFFFFFFFFFFF1234}},
		{name: "endbr64 nop pause", text: "f3 0f 1e fa 0f 1f 84 00 00 00 00 00 f3 90 66 90", steps: 4},
		{name: "fences", text: "0f ae e8 0f ae f0 0f ae f8", steps: 3},
		{name: "prefetch touches nothing", text: "0f 18 08", in: regs{RAX: 1 << 50}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, _ := machine(t, tc.text)
			for r, v := range tc.in {
				c.R[r] = v
			}
			for a, v := range tc.inMem {
				poke(t, c, a, v)
			}
			c.RFlags |= tc.inFlags
			steps(t, c, max(tc.steps, 1))
			for r, v := range tc.out {
				if c.R[r] != v {
					t.Errorf("r%d = %#x, want %#x", r, c.R[r], v)
				}
			}
			for a, v := range tc.outMem {
				if got := peek(t, c, a); got != v {
					t.Errorf("[%#x] = %#x, want %#x", a, got, v)
				}
			}
			want := testCode + uint64(len(code(t, tc.text)))
			switch tc.rip {
			case 0:
			case 0x10000:
				want = testCode
			default:
				want = testCode + tc.rip
			}
			if c.RIP != want {
				t.Errorf("rip %#x, want %#x", c.RIP, want)
			}
		})
	}
}

func TestSegmentOverrides(t *testing.T) {
	// mov rax, gs:[rbx]; mov rcx, fs:[0]; lea rdx, gs:[rbx]
	c, _ := machine(t, "65 48 8b 03  64 48 8b 0c 25 00 00 00 00  65 48 8d 13")
	c.GSBase, c.FSBase, c.R[RBX] = testData, testData+0x10, 8
	poke(t, c, testData+8, 1)
	poke(t, c, testData+0x10, 2)
	steps(t, c, 3)
	if c.R[RAX] != 1 || c.R[RCX] != 2 || c.R[RDX] != 8 {
		t.Fatalf("%x", c.R[:4])
	}
}

func TestDivideFaults(t *testing.T) {
	for _, tc := range []struct {
		name, text    string
		rax, rdx, rcx uint64
	}{
		{"by zero", "48 f7 f1", 1, 0, 0},
		{"too big", "48 f7 f1", 0, 5, 5},
		{"byte", "f6 f1", 0x200, 0, 2},
		{"byte signed", "f6 f9", 0x80, 0, 1},
		{"most negative", "48 f7 f9", 1 << 63, ^uint64(0), ^uint64(0)},
		{"most negative 32", "f7 f9", 1 << 31, 0xFFFFFFFF, 0xFFFFFFFF},
		{"most negative 32 wide", "f7 f9", 0, 0x80000000, 0xFFFFFFFF},
	} {
		c, _ := machine(t, tc.text)
		c.R[RAX], c.R[RDX], c.R[RCX] = tc.rax, tc.rdx, tc.rcx
		e := c.Step()
		if e == nil || e.Vector != VecDE || c.R[RAX] != tc.rax || c.RIP != testCode {
			t.Errorf("%s: %+v", tc.name, e)
		}
	}
	c, _ := machine(t, "48 f7 f9")
	c.R[RAX], c.R[RDX], c.R[RCX] = 1<<63, ^uint64(0), 1
	if e := c.Step(); e != nil || c.R[RAX] != 1<<63 {
		t.Errorf("the most negative quotient: %+v", e)
	}
}

func TestUndefinedInstructions(t *testing.T) {
	for _, text := range []string{
		"0f 0b", "06", "0f ff c0", "0f b9 c0", "c4 e2 7b f7 c0", "c5 f8 77", "62 f1", "d8 c0", "0f 6f c1", "0f 38 00 c1",
		"f0 90", "f0 48 89 03", "f0 01 c8", "f0 38 03", "f0 0f ba 23 01", // lock where there is none
		"8d c0", "c6 48 00 00", "8f c8", "fe d0", "ff f8", "0f c7 c8", "0f 01 f9 0f", "8e c8", "8c f0", "0f ba c0 01", "0f 20 c8",
	} {
		c, _ := machine(t, text)
		c.R[RBX] = testData
		if text == "0f 01 f9 0f" { // rdtscp is there, what follows is short
			steps(t, c, 1)
			continue
		}
		if e := c.Step(); e == nil || e.Vector != VecUD || c.RIP != testCode {
			t.Errorf("%s: %+v", text, e)
		}
	}
}

func TestTooLong(t *testing.T) {
	c, _ := machine(t, "66 66 66 66 66 66 66 66 66 66 66 66 66 66 90")
	steps(t, c, 1) // 15 bytes
	c, _ = machine(t, "66 66 66 66 66 66 66 66 66 66 66 66 66 66 66 90")
	wantEx(t, c.Step(), VecGP)
	c, _ = machine(t, "2e 2e 2e 2e 2e 2e 2e 48 81 80 00 00 00 00 00 00 00 00")
	wantEx(t, c.Step(), VecGP)
}

func TestLongRepeatIsInterruptible(t *testing.T) {
	c, _ := machine(t, "f3 aa")
	c.R[RCX], c.R[RDI] = stringChunk+10, 0x2000
	if n, e := c.Run(1); n != 1 || e != nil || c.R[RCX] != 10 || c.RIP != testCode || c.RFlags&FlagRF == 0 {
		t.Fatalf("%d %+v rcx %d rip %#x", n, e, c.R[RCX], c.RIP)
	}
	steps(t, c, 1)
	if c.R[RCX] != 0 || c.RIP != testCode+2 || c.RFlags&FlagRF != 0 {
		t.Fatalf("rcx %d rip %#x flags %#x", c.R[RCX], c.RIP, c.RFlags)
	}
}

func TestRepeatFaultsInTheMiddle(t *testing.T) {
	c, p := paged(t)
	p.mapPage(0x1000, 0x1000, pteP, 0)
	p.mapPage(0x400000, 0x5000, pteP|pteW, 0)
	c.WriteLinear(0x1000, code(t, "f3 48 ab"))
	c.RIP, c.R[RCX], c.R[RDI] = 0x1000, 20, 0x400FC0
	e := c.Step()
	wantEx(t, e, VecPF)
	if c.R[RCX] != 12 || c.R[RDI] != 0x401000 || c.RIP != 0x1000 || e.Addr != 0x401000 {
		t.Fatalf("rcx %d rdi %#x rip %#x %+v", c.R[RCX], c.R[RDI], c.RIP, *e)
	}
	p.mapPage(0x401000, 0x6000, pteP|pteW, 0)
	steps(t, c, 1)
	if c.R[RCX] != 0 || c.R[RDI] != 0x401060 {
		t.Fatalf("rcx %d rdi %#x", c.R[RCX], c.R[RDI])
	}
}

func TestMisalignedVectors(t *testing.T) {
	for text, ok := range map[string]bool{
		"0f 28 03": false, "66 0f 6f 03": false, "66 0f ef 03": false, "0f 58 03": false, "0f 29 03": false,
		"0f 10 03": true, "f3 0f 6f 03": true, "f2 0f 58 03": true, "0f 11 03": true,
	} {
		c, _ := machine(t, text)
		c.R[RBX] = testData + 8
		e := c.Step()
		if ok != (e == nil) || e != nil && e.Vector != VecGP {
			t.Errorf("%s: %+v", text, e)
		}
	}
}
