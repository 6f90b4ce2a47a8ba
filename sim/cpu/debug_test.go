package cpu

import "testing"

func wantEx(t *testing.T, e *Exception, vec int) {
	t.Helper()
	if e == nil || e.Vector != vec {
		t.Fatalf("exception %+v, want vector %d", e, vec)
	}
}

func TestSingleStep(t *testing.T) {
	// nop; nop; pushf; pop rax
	c, _ := machine(t, "90 90 9c 58")
	c.RFlags |= FlagTF
	e := c.Step()
	wantEx(t, e, VecDB)
	if c.RIP != testCode+1 || c.DR[6]&DR6BS == 0 || c.RFlags&FlagTF == 0 {
		t.Fatalf("rip %#x dr6 %#x flags %#x", c.RIP, c.DR[6], c.RFlags)
	}
	c.RFlags &^= FlagTF
	if n, e := c.Run(3); n != 3 || e != nil {
		t.Fatal(n, e)
	}
	if c.R[RAX]&FlagTF != 0 {
		t.Fatalf("pushed flags %#x", c.R[RAX])
	}
}

func TestStepFlagLoadedByPopf(t *testing.T) {
	// push 0x102; popf; nop; nop: the trap comes after the first nop.
	c, _ := machine(t, "68 02 01 00 00  9d  90  90")
	n, e := c.Run(10)
	wantEx(t, e, VecDB)
	if n != 3 || c.RIP != testCode+7 {
		t.Fatalf("%d instructions, rip %#x", n, c.RIP)
	}
}

func TestStepAfterMovSS(t *testing.T) {
	// mov ss, ax; nop; nop: no trap between the first two.
	c, _ := machine(t, "8e d0 90 90")
	c.R[RAX] = 0x18
	c.RFlags |= FlagTF | FlagIF
	if e := c.Step(); e != nil {
		t.Fatalf("%+v after mov ss", *e)
	}
	if c.Interruptible() {
		t.Fatal("interruptible after mov ss")
	}
	wantEx(t, c.Step(), VecDB)
	if !c.Interruptible() {
		t.Fatal("not interruptible one instruction later")
	}
}

func TestStepSyscallByNewFlags(t *testing.T) {
	c, _ := machine(t, "0f 05")
	c.LSTAR = testCode + 0x100
	c.STAR = 0x10 << 32
	c.SFMask = FlagTF
	c.RFlags |= FlagTF
	if e := c.Step(); e != nil || c.RIP != c.LSTAR || c.R[R11]&FlagTF == 0 {
		t.Fatalf("%+v rip %#x r11 %#x", e, c.RIP, c.R[R11])
	}
}

func TestBreakInstruction(t *testing.T) {
	for _, tc := range []struct {
		text string
		vec  int
		soft bool
		len  uint64
	}{{"cc", 3, false, 1}, {"cd 2c", 0x2C, true, 2}, {"cd 2d", 0x2D, true, 2}, {"cd 03", 3, true, 2}, {"f1", 1, false, 1}} {
		c, _ := machine(t, tc.text)
		c.RFlags |= FlagTF // the handler starts without it; no second exception
		e := c.Step()
		wantEx(t, e, tc.vec)
		if e.Software != tc.soft || c.RIP != testCode+tc.len || c.DR[6]&DR6BS != 0 {
			t.Errorf("%s: %+v rip %#x dr6 %#x", tc.text, *e, c.RIP, c.DR[6])
		}
	}
}

func TestPatchedCodeIsSeen(t *testing.T) {
	c, _ := machine(t, "90 eb fd") // nop; jmp back
	c.Run(100)
	c.WriteLinear(testCode, []byte{0xCC})
	_, e := c.Run(10)
	wantEx(t, e, VecBP)
	c.WriteLinear(testCode, []byte{0x90})
	c.RIP = testCode
	if n, e := c.Run(10); e != nil || n != 10 {
		t.Fatal(n, e)
	}
}

func TestExecuteBreakpoint(t *testing.T) {
	c, _ := machine(t, "90 90 90 90")
	c.DR[0] = testCode + 2
	c.DR[7] = 0x401
	n, e := c.Run(10)
	wantEx(t, e, VecDB)
	if n != 2 || c.RIP != testCode+2 || c.DR[6]&0xF != 1 {
		t.Fatalf("%d instructions, rip %#x, dr6 %#x", n, c.RIP, c.DR[6])
	}
	// Still there without RF, gone for one instruction with it.
	_, e = c.Run(10)
	wantEx(t, e, VecDB)
	c.RFlags |= FlagRF
	if e := c.Step(); e != nil || c.RIP != testCode+3 || c.RFlags&FlagRF != 0 {
		t.Fatalf("%+v rip %#x flags %#x", e, c.RIP, c.RFlags)
	}
	c.RIP = testCode + 2
	_, e = c.Run(1)
	wantEx(t, e, VecDB)
}

func TestDataBreakpoint(t *testing.T) {
	const write, any = 1, 3
	for _, tc := range []struct {
		name   string
		text   string
		rw, ln uint64
		hit    bool
	}{
		{"write", "48 89 03", write, 2, true},           // mov [rbx], rax
		{"write seen by rw", "48 89 03", any, 2, true},  //
		{"read not write", "48 8b 03", write, 2, false}, // mov rax, [rbx]
		{"read", "48 8b 03", any, 2, true},
		{"byte at the end", "88 43 07", write, 2, true}, // mov [rbx+7], al
		{"byte after", "88 43 08", any, 2, false},
		{"byte before", "88 43 ff", any, 2, false},
		{"covers from below", "48 89 43 f9", write, 0, true}, // mov [rbx-7], rax touches rbx
		{"byte breakpoint missed", "88 43 01", write, 0, false},
		{"read-modify-write", "48 ff 03", write, 2, true}, // inc qword [rbx]
		{"failed cmpxchg still writes", "f0 48 0f b1 0b", write, 2, true},
		{"push", "50", write, 2, true},
		{"sse", "0f 11 03", write, 2, true}, // movups [rbx], xmm0
		{"lea touches nothing", "48 8d 03", any, 2, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c, _ := machine(t, tc.text+" 90")
			c.R[RBX] = testData
			if tc.name == "push" {
				c.R[RSP] = testData + 8
			}
			poke(t, c, testData, 1)
			c.DR[2] = testData
			c.DR[7] = 0x400 | 2<<4 | (tc.ln<<2|tc.rw)<<24
			e := c.Step()
			if c.RIP != testCode+uint64(len(code(t, tc.text))) {
				t.Fatalf("not after the instruction: %#x", c.RIP)
			}
			if tc.hit {
				wantEx(t, e, VecDB)
				if c.DR[6]&0xF != 4 || c.DR[6]&DR6BS != 0 {
					t.Fatalf("dr6 %#x", c.DR[6])
				}
			} else if e != nil {
				t.Fatalf("%+v", *e)
			}
		})
	}
}

func TestDataBreakpointWithStepAndAcrossPages(t *testing.T) {
	c, _ := machine(t, "48 89 03")
	c.R[RBX] = testData + 0xFFC // crosses into the next page
	c.DR[1] = testData + 0x1000
	c.DR[7] = 0x400 | 1<<2 | (3<<2|1)<<20
	c.RFlags |= FlagTF
	wantEx(t, c.Step(), VecDB)
	if c.DR[6]&(0xF|DR6BS) != 2|DR6BS {
		t.Fatalf("dr6 %#x", c.DR[6])
	}
}

func TestDataBreakpointInRepeat(t *testing.T) {
	c, _ := machine(t, "f3 48 a5 90") // rep movsq
	c.R[RSI], c.R[RDI], c.R[RCX] = testData, testData+0x100, 8
	c.DR[0] = testData + 0x110
	c.DR[7] = 0x401 | (2<<2|1)<<16
	n, e := c.Run(100)
	wantEx(t, e, VecDB)
	if n != 3 || c.R[RCX] != 5 || c.RIP != testCode || c.RFlags&FlagRF == 0 {
		t.Fatalf("%d steps, rcx %d, rip %#x, flags %#x", n, c.R[RCX], c.RIP, c.RFlags)
	}
	if n, e := c.Run(6); n != 6 || e != nil || c.RIP != testCode+4 {
		t.Fatalf("%d steps, %+v, rip %#x", n, e, c.RIP)
	}
}

func TestExecuteBreakpointOnRepeatFiresOnce(t *testing.T) {
	c, _ := machine(t, "f3 aa 90") // rep stosb
	c.R[RDI], c.R[RCX] = testData, 20
	c.DR[0] = testCode
	c.DR[7] = 0x401
	_, e := c.Run(1)
	wantEx(t, e, VecDB)
	c.RFlags |= FlagRF
	if n, e := c.Run(21); n != 21 || e != nil || c.RIP != testCode+3 {
		t.Fatalf("%d %+v rip %#x", n, e, c.RIP)
	}
}

func TestDebugRegisterAccess(t *testing.T) {
	// mov dr7, rax; mov rbx, dr7; mov rcx, dr6
	c, _ := machine(t, "0f 23 f8  0f 21 fb  0f 21 f1")
	c.R[RAX] = 0x101
	steps(t, c, 3)
	if c.R[RBX] != 0x501 || c.R[RCX] != dr6Fixed {
		t.Fatalf("dr7 %#x dr6 %#x", c.R[RBX], c.R[RCX])
	}
	// General detect: the access faults and the bit goes.
	c.RIP = testCode + 3
	c.DR[7] |= 1 << 13
	wantEx(t, c.Step(), VecDB)
	if c.DR[6]&DR6BD == 0 || c.DR[7]&(1<<13) != 0 || c.RIP != testCode+3 {
		t.Fatalf("dr6 %#x dr7 %#x", c.DR[6], c.DR[7])
	}
	c.CS |= 3
	wantEx(t, c.Step(), VecGP)
}
