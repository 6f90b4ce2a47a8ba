package disasm

import (
	"encoding/hex"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"openkd/kdproto"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func testSym(a uint64) string {
	switch a {
	case 0xfffff80312345678:
		return "nt!KeFoo"
	case 0x7ffe0308:
		return "SharedUserData+0x308"
	case 0xffffffff80551234, 0x80551234:
		return "nt!KeFoo"
	}
	return ""
}

// TestLinesX64 pins the layout; most of the lines are from published
// transcripts.
func TestLinesX64(t *testing.T) {
	for _, c := range []struct{ addr, code, want string }{
		{"fffff80319e4ca60", "cc", "fffff803`19e4ca60 cc              int     3"},
		{"fffff80319e4ca60", "c3", "fffff803`19e4ca60 c3              ret"},
		{"fffff80002d4f5e7", "33ff", "fffff800`02d4f5e7 33ff            xor     edi,edi"},
		{"fffff80002d4f5e9", "488978c8", "fffff800`02d4f5e9 488978c8        mov     qword ptr [rax-38h],rdi"},
		{"fffff80002d4f5ed", "4889b878ffffff", "fffff800`02d4f5ed 4889b878ffffff  mov     qword ptr [rax-88h],rdi"},
		{"fffff80002d4f5f8", "65488b042588010000", "fffff800`02d4f5f8 65488b042588010000 mov   rax,qword ptr gs:[188h]"},
		{"fffff80002d4f601", "440fb6b0f6010000", "fffff800`02d4f601 440fb6b0f6010000 movzx   r14d,byte ptr [rax+1F6h]"},
		{"fffff80002d4f609", "4584f6", "fffff800`02d4f609 4584f6          test    r14b,r14b"},
		{"fffff80002d4f60c", "0f84e60a0000", "fffff800`02d4f60c 0f84e60a0000    je      fffff800`02d500f8"},
		{"00007ff95f671a5d", "f30f7f40f0", "00007ff9`5f671a5d f30f7f40f0      movdqu  xmmword ptr [rax-10h],xmm0"},
		{"0", "f604250803fe7f01", "00000000`00000000 f604250803fe7f01 test    byte ptr [SharedUserData+0x308 (00000000`7ffe0308)],1"},
		{"fffff80312345673", "e800000000", "fffff803`12345673 e800000000      call    nt!KeFoo (fffff803`12345678)"},
		{"fffff80312345671", "488b0500000000", "fffff803`12345671 488b0500000000  mov     rax,qword ptr [nt!KeFoo (fffff803`12345678)]"},
		{"fffff80312345672", "488b0500000000", "fffff803`12345672 488b0500000000  mov     rax,qword ptr [fffff803`12345679]"},
		{"fffff80312345672", "ff1500000000", "fffff803`12345672 ff1500000000    call    qword ptr [nt!KeFoo (fffff803`12345678)]"},
		{"0", "48c7442420feffffff", "00000000`00000000 48c7442420feffffff mov   qword ptr [rsp+20h],0FFFFFFFFFFFFFFFEh"},
		{"0", "66660f1f840000000000", "00000000`00000000 66660f1f840000000000 nop word ptr [rax+rax]"},
		{"0", "0f1f840000000000", "00000000`00000000 0f1f840000000000 nop     dword ptr [rax+rax]"},
		{"0", "0f1f4000", "00000000`00000000 0f1f4000        nop     dword ptr [rax]"},
		{"0", "6690", "00000000`00000000 6690            xchg    ax,ax"},
		{"0", "90", "00000000`00000000 90              nop"},
		{"0", "06", "00000000`00000000 06              ???"},
	} {
		check(t, kdproto.MachineAMD64, c.addr, c.code, c.want)
	}
}

func check(t *testing.T, m kdproto.Machine, addr, code, want string) {
	t.Helper()
	var a uint64
	for _, r := range addr {
		a = a<<4 | uint64(strings.IndexRune("0123456789abcdef", r))
	}
	in, err := Decode(m, unhex(t, code), a, testSym)
	if err != nil {
		t.Fatal(err)
	}
	if got := in.Line(); got != want {
		t.Errorf("%s\n got %q\nwant %q", code, got, want)
	}
}

func text(t testing.TB, m kdproto.Machine, code string) (string, Inst) {
	in, err := Decode(m, unhex(t, code), 0x1000, testSym)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(in.Text()), " "), in
}

func TestTextX64(t *testing.T) {
	for _, c := range []struct{ code, want string }{
		{"48895c2408", "mov qword ptr [rsp+8],rbx"},
		{"4883ec28", "sub rsp,28h"},
		{"488d4c2430", "lea rcx,[rsp+30h]"},
		{"488b45f0", "mov rax,qword ptr [rbp-10h]"},
		{"0fb64110", "movzx eax,byte ptr [rcx+10h]"},
		{"84c0", "test al,al"},
		{"4863c9", "movsxd rcx,ecx"},
		{"0f45c1", "cmovne eax,ecx"},
		{"0f94c0", "sete al"},
		{"f00fc101", "lock xadd dword ptr [rcx],eax"},
		{"f0480fb111", "lock cmpxchg qword ptr [rcx],rdx"},
		{"f3ab", "rep stos dword ptr [rdi]"},
		{"f348ab", "rep stos qword ptr [rdi]"},
		{"f348a5", "rep movs qword ptr [rdi],qword ptr [rsi]"},
		{"f3a4", "rep movs byte ptr [rdi],byte ptr [rsi]"},
		{"f2ae", "repne scas byte ptr [rdi]"},
		{"f3a6", "repe cmps byte ptr [rsi],byte ptr [rdi]"},
		{"ac", "lods byte ptr [rsi]"},
		{"f390", "pause"},
		{"83f8ff", "cmp eax,0FFFFFFFFh"},
		{"4883f8ff", "cmp rax,0FFFFFFFFFFFFFFFFh"},
		{"4883e4f0", "and rsp,0FFFFFFFFFFFFFFF0h"},
		{"4883c480", "add rsp,0FFFFFFFFFFFFFF80h"},
		{"6aff", "push 0FFFFFFFFFFFFFFFFh"},
		{"b9050000c0", "mov ecx,0C0000005h"},
		{"b90a000000", "mov ecx,0Ah"},
		{"b909000000", "mov ecx,9"},
		{"66b9ffff", "mov cx,0FFFFh"},
		{"b0ff", "mov al,0FFh"},
		{"48b81400000080f7ffff", "mov rax,0FFFFF78000000014h"},
		{"48b87856341203f8ffff", "mov rax,offset nt!KeFoo (fffff803`12345678)"},
		{"cd29", "int 29h"},
		{"cd2c", "int 2Ch"},
		{"cd03", "int 3"},
		{"c20800", "ret 8"},
		{"f3c3", "rep ret"},
		{"cb", "retf"},
		{"48cf", "iretq"},
		{"0f01f8", "swapgs"},
		{"0f05", "syscall"},
		{"480f07", "sysret"},
		{"0f32", "rdmsr"},
		{"440f20c0", "mov rax,cr8"},
		{"0f22d8", "mov cr3,rax"},
		{"0f21f8", "mov rax,dr7"},
		{"ffe0", "jmp rax"},
		{"ff20", "jmp qword ptr [rax]"},
		{"41ff5210", "call qword ptr [r10+10h]"},
		{"ebfe", "jmp 00000000`00001000"},
		{"7202", "jb 00000000`00001004"},
		{"7302", "jae 00000000`00001004"},
		{"7602", "jbe 00000000`00001004"},
		{"7702", "ja 00000000`00001004"},
		{"7a02", "jp 00000000`00001004"},
		{"e302", "jrcxz 00000000`00001004"},
		{"d1e0", "shl eax,1"},
		{"c1f804", "sar eax,4"},
		{"d3e8", "shr eax,cl"},
		{"0fa4c108", "shld ecx,eax,8"},
		{"6bc164", "imul eax,ecx,64h"},
		{"8b0488", "mov eax,dword ptr [rax+rcx*4]"},
		{"8b04c500010000", "mov eax,dword ptr [rax*8+100h]"},
		{"458b8482a8c30f00", "mov r8d,dword ptr [r10+rax*4+0FC3A8h]"},
		{"f20f10442420", "movsd xmm0,mmword ptr [rsp+20h]"},
		{"f30f10442420", "movss xmm0,dword ptr [rsp+20h]"},
		{"0f114110", "movups xmmword ptr [rcx+10h],xmm0"},
		{"f2480f2ac1", "cvtsi2sd xmm0,rcx"},
		{"d9e8", "fld1"},
		{"dd4508", "fld qword ptr [rbp+8]"},
		{"db6d08", "fld tbyte ptr [rbp+8]"},
		{"ddd9", "fstp st(1)"},
		{"dec1", "faddp st(1),st"},
		{"d97dfe", "fnstcw word ptr [rbp-2]"},
		{"0f0d09", "prefetchw [rcx]"},
		{"0f01d0", "xgetbv"},
		{"0fae142580010000", "ldmxcsr dword ptr [180h]"},
		{"650fae142580010000", "ldmxcsr dword ptr gs:[180h]"},
		{"0f0118", "lidt fword ptr [rax]"},
		{"0f00d8", "ltr ax"},
		{"8ed8", "mov ds,ax"},
		{"8cd8", "mov eax,ds"},
		{"9c", "pushfq"}, {"9d", "popfq"},
		{"4898", "cdqe"}, {"4899", "cqo"}, {"99", "cdq"}, {"98", "cwde"},
		{"c9", "leave"},
		{"480fc70f", "cmpxchg16b xmmword ptr [rdi]"},
		{"0f0b", "ud2"},
		// The table of our own.
		{"0f01ca", "clac"}, {"0f01cb", "stac"},
		{"f30f1efa", "endbr64"}, {"f30f1efb", "endbr32"},
		{"f3480f1ec9", "rdsspq rcx"}, {"f30f1ec9", "rdsspd ecx"},
		{"f3480faee9", "incsspq rcx"}, {"f30faee9", "incsspd ecx"},
		{"0faee8", "lfence"},
		{"f30f01682a", "rstorssp qword ptr [rax+2Ah]"},
		{"0f01c1", "vmcall"}, {"0f01d4", "vmfunc"}, {"0f01c2", "vmlaunch"}, {"0f01c3", "vmresume"}, {"0f01c4", "vmxoff"},
		{"0f78c8", "vmread rax,rcx"}, {"0f79c8", "vmwrite rcx,rax"}, {"0f780c24", "vmread qword ptr [rsp],rcx"},
		{"0fc73424", "vmptrld qword ptr [rsp]"}, {"660fc73424", "vmclear qword ptr [rsp]"}, {"f30fc73424", "vmxon qword ptr [rsp]"},
		{"480fc7f8", "rdseed rax"}, {"0fc7f0", "rdrand eax"}, {"f30fc7f8", "rdpid rax"},
		{"0f01e8", "serialize"}, {"0f01fa", "monitorx"}, {"0f01fb", "mwaitx"},
		{"0f01ee", "rdpkru"}, {"0f01ef", "wrpkru"}, {"0f01d9", "vmmcall"},
		{"480fc72f", "xsaves64 [rdi]"}, {"480fae27", "xsave64 [rdi]"},
		{"660f388100", "invvpid rax,xmmword ptr [rax]"}, {"660f38820c24", "invpcid rcx,xmmword ptr [rsp]"},
		{"0fffc1", "ud0 eax,ecx"}, {"0fb9c1", "ud1 eax,ecx"},
		{"66410faef0", "tpause r8d"}, {"660fae37", "clwb [rdi]"},
		{"f30f09", "wbnoinvd"}, {"0f0d0500000000", "prefetch [00000000`00001007]"},
		{"c5f877", "vzeroupper"}, {"c5fe6f00", "vmovdqu ymm0,ymmword ptr [rax]"},
	} {
		if got, _ := text(t, kdproto.MachineAMD64, c.code); got != c.want {
			t.Errorf("%s: got %q, want %q", c.code, got, c.want)
		}
	}
}

func TestTextX86(t *testing.T) {
	for _, c := range []struct{ code, want string }{
		{"8bff", "mov edi,edi"},
		{"fe8ef0000000", "dec byte ptr [esi+0F0h]"},
		{"64a118000000", "mov eax,dword ptr fs:[00000018h]"},
		{"a134125580", "mov eax,dword ptr [nt!KeFoo (80551234)]"},
		{"a1d8c0d477", "mov eax,dword ptr ds:[77D4C0D8h]"},
		{"ff1534125580", "call dword ptr [nt!KeFoo (80551234)]"},
		{"6834125580", "push offset nt!KeFoo (80551234)"},
		{"e82f025580", "call nt!KeFoo (80551234)"},
		{"6aff", "push 0FFFFFFFFh"},
		{"6a05", "push 5"},
		{"f3ab", "rep stos dword ptr es:[edi]"},
		{"f3a5", "rep movs dword ptr es:[edi],dword ptr [esi]"},
		{"60", "pushad"}, {"61", "popad"}, {"9c", "pushfd"}, {"9d", "popfd"},
		{"ea00000000 3300", "jmp 0033:00000000"},
		{"0fb745fc", "movzx eax,word ptr [ebp-4]"},
		{"0f34", "sysenter"}, {"cd2e", "int 2Eh"},
		{"8b048550125580", "mov eax,dword ptr [eax*4+80551250h]"},
		{"c20400", "ret 4"},
		{"0f01cb", "stac"},
	} {
		if got, _ := text(t, kdproto.MachineI386, c.code); got != c.want {
			t.Errorf("%s: got %q, want %q", c.code, got, c.want)
		}
	}
	check(t, kdproto.MachineI386, "7526aeb0", "8bff", "7526aeb0 8bff            mov     edi,edi")
}

func TestARM64(t *testing.T) {
	for _, c := range []struct{ addr, code, want string }{
		{"fffff8031bd2d5a0", "00003ed4", "fffff803`1bd2d5a0 d43e0000 brk         #0xF000"},
		{"1000", "fd7bbfa9", "00000000`00001000 a9bf7bfd stp         fp,lr,[sp,#-0x10]!"},
		{"1000", "c0035fd6", "00000000`00001000 d65f03c0 ret"},
		{"fffff80312345674", "01000094", "fffff803`12345674 94000001 bl          nt!KeFoo (fffff803`12345678)"},
		{"1000", "40000054", "00000000`00001000 54000040 beq         00000000`00001008"},
		{"1000", "e00301aa", "00000000`00001000 aa0103e0 mov         x0,x1"},
		{"1000", "000840f9", "00000000`00001000 f9400800 ldr         x0,[x0,#0x10]"},
		{"1000", "7f2303d5", "00000000`00001000 d503237f pacibsp"},
		{"1000", "00010034", "00000000`00001000 34000100 cbz         w0,00000000`00001020"},
		{"1000", "00000000", "00000000`00001000 00000000 ???"},
	} {
		check(t, kdproto.MachineARM64, c.addr, c.code, c.want)
	}
}

func TestKinds(t *testing.T) {
	const x64, arm = kdproto.MachineAMD64, kdproto.MachineARM64
	for _, c := range []struct {
		m      kdproto.Machine
		code   string
		kind   Kind
		target uint64
	}{
		{x64, "e800000000", Call, 0x1005},
		{x64, "ffd0", Call, 0},
		{x64, "ff1500000000", Call, 0},
		{x64, "c3", Ret, 0}, {x64, "c20800", Ret, 0}, {x64, "f3c3", Ret, 0}, {x64, "48cf", Ret, 0}, {x64, "480f07", Ret, 0},
		{x64, "ebfe", Jump, 0x1000}, {x64, "ffe0", Jump, 0},
		{x64, "7410", CondJump, 0x1012}, {x64, "0f8510000000", CondJump, 0x1016}, {x64, "e2fe", CondJump, 0x1000},
		{x64, "f3ab", Rep, 0}, {x64, "f2ae", Rep, 0}, {x64, "ab", Other, 0}, {x64, "f30f10c1", Other, 0}, {x64, "f390", Other, 0},
		{x64, "cc", Interrupt, 0}, {x64, "cd29", Interrupt, 0}, {x64, "0f0b", Interrupt, 0},
		{x64, "0f05", Syscall, 0}, {x64, "90", Other, 0},
		{arm, "01000094", Call, 0x1004}, {arm, "00003fd6", Call, 0}, {arm, "c0035fd6", Ret, 0}, {arm, "01000014", Jump, 0x1004},
		{arm, "00001fd6", Jump, 0}, {arm, "40000054", CondJump, 0x1008}, {arm, "00003ed4", Interrupt, 0}, {arm, "010000d4", Syscall, 0},
	} {
		_, in := text(t, c.m, c.code)
		if in.Kind != c.kind || in.Target != c.target || in.HasTarget != (c.target != 0) {
			t.Errorf("%s %s: kind %v target %#x %v; want %v %#x", c.code, in.Text(), in.Kind, in.Target, in.HasTarget, c.kind, c.target)
		}
	}
	// x86 targets come in wire form.
	in, _ := Decode(kdproto.MachineI386, unhex(t, "e800000000"), 0x80400000, nil)
	if in.Target != 0xFFFFFFFF80400005 {
		t.Errorf("x86 target %#x", in.Target)
	}
}

func TestMemRef(t *testing.T) {
	regs := map[string]uint64{"rax": 0x1000, "rcx": 0x20, "r10": 0x5000, "gsbase": 0x900000, "ecx": 0xFFFFFFF0, "rdi": 0x7000, "sp": 0x300, "x1": 0x40, "x2": 3}
	reg := func(n string) (uint64, bool) { v, ok := regs[n]; return v, ok }
	for _, c := range []struct {
		m    kdproto.Machine
		code string
		addr uint64
		size int
	}{
		{kdproto.MachineAMD64, "8b448804", 0x1084, 4},             // [rax+rcx*4+4]
		{kdproto.MachineAMD64, "65488b042588010000", 0x900188, 8}, // gs:[188h]
		{kdproto.MachineAMD64, "488b0500000000", 0x1007, 8},
		{kdproto.MachineAMD64, "f348ab", 0x7000, 8},
		{kdproto.MachineAMD64, "67 8b4120", 0x10, 4}, // [ecx+20h] wraps
		{kdproto.MachineAMD64, "488d4808", 0x1008, 0},
		{kdproto.MachineI386, "a134125580", 0x80551234, 4},
		{kdproto.MachineARM64, "fd7bbfa9", 0x2F0, 0},
	} {
		in, _ := Decode(c.m, unhex(t, c.code), 0x1000, nil)
		if in.MemRef == nil {
			t.Errorf("%s: no memory operand", in.Text())
			continue
		}
		a, ok := in.MemRef.Address(reg)
		want := c.addr
		if !ok || a != want || in.MemRef.Size != c.size {
			t.Errorf("%s: address %#x %v size %d; want %#x %d", in.Text(), a, ok, in.MemRef.Size, want, c.size)
		}
	}
	in, _ := Decode(kdproto.MachineAMD64, unhex(t, "8b03"), 0, nil)
	if _, ok := in.MemRef.Address(reg); ok {
		t.Error("rbx is not known, but an address came back")
	}
}

func TestDecodeErrors(t *testing.T) {
	if _, err := Decode(kdproto.MachineARMNT, []byte{0}, 0, nil); err == nil {
		t.Error("unknown machine accepted")
	}
	if _, err := Decode(kdproto.MachineAMD64, nil, 0, nil); err == nil {
		t.Error("no bytes accepted")
	}
	for _, c := range []string{"48", "e80000", "0f", "0f38", "f3", "66666666666666666666666666666690", "c4", "62"} {
		in, err := Decode(kdproto.MachineAMD64, unhex(t, c), 0, nil)
		if err != nil || in.Valid() || in.Len != 1 {
			t.Errorf("%s: %v %q len %d", c, err, in.Mnemonic, in.Len)
		}
	}
}

func TestUnassembleBack(t *testing.T) {
	code := unhex(t, "cccccccccccccccc 48895c2408 4889742410 57 4883ec20 488bd9 488bfa e800000000 84c0 7410 488b5c2430 488b742438 4883c420 5f c3 cc")
	var want []uint64
	for at := 0; at < len(code); {
		in, _ := Decode(kdproto.MachineAMD64, code[at:], uint64(at), nil)
		want = append(want, uint64(at))
		at += in.Len
	}
	for n := 1; n <= len(want); n++ {
		got, err := UnassembleBack(kdproto.MachineAMD64, code, 0, n, nil)
		if err != nil || len(got) != n {
			t.Fatalf("%d: %v, %d instructions", n, err, len(got))
		}
		for i, in := range got {
			if in.Addr != want[len(want)-n+i] {
				t.Errorf("n=%d: instruction %d at %#x, want %#x", n, i, in.Addr, want[len(want)-n+i])
			}
		}
	}
	arm := unhex(t, "fd7bbfa9 01000094 c0035fd6")
	got, err := UnassembleBack(kdproto.MachineARM64, append([]byte{1, 2}, arm...), 0xFFE, 8, nil)
	if err != nil || len(got) != 3 || got[0].Addr != 0x1000 {
		t.Errorf("arm: %v %+v", err, got)
	}
	if got, err := UnassembleBack(kdproto.MachineAMD64, []byte{0x06}, 0, 1, nil); err != nil || len(got) != 0 {
		t.Errorf("bad code: %v %v", got, err)
	}
}

// A chain always ends where it must, in valid instructions that touch.
func TestUnassembleBackProperty(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := rapid.SampledFrom([]kdproto.Machine{kdproto.MachineI386, kdproto.MachineAMD64, kdproto.MachineARM64}).Draw(t, "machine")
		code := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "code")
		n := rapid.IntRange(0, 12).Draw(t, "n")
		const base uint64 = 0xfffff80000000000
		got, err := UnassembleBack(m, code, base, n, nil)
		if err != nil || len(got) > n {
			t.Fatalf("%v, %d", err, len(got))
		}
		at := base + uint64(len(code))
		for i := len(got) - 1; i >= 0; i-- {
			if !got[i].Valid() || got[i].Addr+uint64(got[i].Len) != at {
				t.Fatalf("instruction at %#x, length %d, does not reach %#x", got[i].Addr, got[i].Len, at)
			}
			at = got[i].Addr
		}
	})
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{"cc", "48895c2408", "f348ab", "c5fe6f00", "62f17c48580a", "0f01ca", "f30f1efa", "fd7bbfa9", "67668b00"} {
		b, _ := hex.DecodeString(s)
		f.Add(b, uint64(0xfffff80319e4ca60))
	}
	f.Fuzz(func(t *testing.T, code []byte, addr uint64) {
		for _, m := range []kdproto.Machine{kdproto.MachineI386, kdproto.MachineAMD64, kdproto.MachineARM64} {
			in, err := Decode(m, code, addr, func(a uint64) string { return "m!s" })
			if err != nil {
				if len(code) != 0 {
					t.Fatal(err)
				}
				continue
			}
			if in.Len < 1 || in.Len > 15 || in.Len > len(code) || len(in.Bytes) != in.Len || in.Mnemonic == "" {
				t.Fatalf("%v % x: %+v", m, code, in)
			}
			_ = in.Line()
			if in.MemRef != nil {
				in.MemRef.Address(func(string) (uint64, bool) { return addr, true })
			}
			_, _ = UnassembleBack(m, code, addr, 4, nil)
		}
	})
}
