package arch

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"openkd/kdproto"
)

var all = []kdproto.Machine{kdproto.MachineI386, kdproto.MachineAMD64, kdproto.MachineARM64}

func get(t testing.TB, m kdproto.Machine) *Arch {
	t.Helper()
	a, ok := For(m)
	if !ok {
		t.Fatalf("no architecture for %v", m)
	}
	return a
}

func (a *Arch) blank() State {
	return State{make([]byte, a.ContextSize), make([]byte, a.SpecialSize)}
}

func set(t testing.TB, a *Arch, s State, name string, v uint64) {
	t.Helper()
	r, ok := a.Reg(name)
	if !ok || !r.Set(s, Value{Lo: v}) {
		t.Fatalf("%s: cannot set %s", a.Name, name)
	}
}

func TestForKnowsItsMachines(t *testing.T) {
	for _, m := range all {
		a := get(t, m)
		if a.Machine != m || a.PointerSize != m.PointerSize() {
			t.Errorf("%v: machine %v, pointer size %d", m, a.Machine, a.PointerSize)
		}
	}
	if _, ok := For(kdproto.MachineARMNT); ok {
		t.Error("32-bit ARM must not be known")
	}
}

// TestOffsets pins registers to the offsets of the public headers.
func TestOffsets(t *testing.T) {
	for _, c := range []struct {
		m    kdproto.Machine
		name string
		off  int
		spec bool
	}{
		{kdproto.MachineI386, "eax", 0xB0, false},
		{kdproto.MachineI386, "ah", 0xB1, false},
		{kdproto.MachineI386, "eip", 0xB8, false},
		{kdproto.MachineI386, "xmm0", 0x16C, false},
		{kdproto.MachineI386, "xmm7", 0x1DC, false},
		{kdproto.MachineI386, "st0", 0x38, false},
		{kdproto.MachineI386, "st7", 0x38 + 70, false},
		{kdproto.MachineI386, "cr4", 0x0C, true},
		{kdproto.MachineI386, "dr7", 0x24, true},
		{kdproto.MachineI386, "gdtr", 0x2C, true},
		{kdproto.MachineI386, "idtl", 0x32, true},
		{kdproto.MachineI386, "ldtr", 0x3A, true},
		{kdproto.MachineAMD64, "rax", 0x78, false},
		{kdproto.MachineAMD64, "r15", 0xF0, false},
		{kdproto.MachineAMD64, "rip", 0xF8, false},
		{kdproto.MachineAMD64, "gs", 0x40, false},
		{kdproto.MachineAMD64, "st0", 0x120, false},
		{kdproto.MachineAMD64, "xmm0", 0x1A0, false},
		{kdproto.MachineAMD64, "xmm15", 0x290, false},
		{kdproto.MachineAMD64, "dr6", 0x40, true},
		{kdproto.MachineAMD64, "dr7", 0x48, true},
		{kdproto.MachineAMD64, "kdr7", 0x48, true},
		{kdproto.MachineAMD64, "cr8", 0xA0, true},
		{kdproto.MachineAMD64, "gsswap", 0xB0, true},
		{kdproto.MachineAMD64, "syscallmask", 0xD0, true},
		{kdproto.MachineAMD64, "xcr0", 0xD8, true},
		{kdproto.MachineARM64, "x0", 8, false},
		{kdproto.MachineARM64, "x28", 0xE8, false},
		{kdproto.MachineARM64, "w30", 0xF8, false},
		{kdproto.MachineARM64, "pc", 0x108, false},
		{kdproto.MachineARM64, "v31", 0x300, false},
		{kdproto.MachineARM64, "fpsr", 0x314, false},
		{kdproto.MachineARM64, "wcr1", 0x9C, true},
	} {
		r, ok := get(t, c.m).Reg(strings.ToUpper(c.name))
		if !ok {
			t.Errorf("%v: no %s", c.m, c.name)
			continue
		}
		if off, _ := r.Span(); off != c.off || r.InSpecial() != c.spec {
			t.Errorf("%v %s: at %#x, special %v; want %#x, %v", c.m, c.name, off, r.InSpecial(), c.off, c.spec)
		}
	}
}

func TestRegistersLieInTheirRecords(t *testing.T) {
	for _, m := range all {
		a := get(t, m)
		for _, r := range a.Regs() {
			off, n := r.Span()
			limit := a.ContextSize
			if r.InSpecial() {
				limit = a.SpecialSize
			}
			if off+n > limit || n > 16 || r.Bits < 1 {
				t.Errorf("%s %s: bytes %#x..%#x of %#x", a.Name, r.Name, off, off+n, limit)
			}
		}
	}
}

// Whole registers of one architecture must not lie on each other, but for the
// MMX registers, which are the low halves of the x87 ones.
func TestWholeRegistersDoNotOverlap(t *testing.T) {
	for _, m := range all {
		a := get(t, m)
		owner := map[[2]int]string{}
		for _, r := range a.Regs() {
			if r.Sub || r.Mask == MaskMMX {
				continue
			}
			rec := 0
			if r.InSpecial() {
				rec = 1
			}
			off, n := r.Span()
			for i := off; i < off+n; i++ {
				if o := owner[[2]int{rec, i}]; o != "" {
					t.Fatalf("%s: %s lies on %s at %#x", a.Name, r.Name, o, i)
				}
				owner[[2]int{rec, i}] = r.Name
			}
		}
	}
}

// Set then Get is the identity on the register's width, and Set touches the
// register's bits only.
func TestSetGetProperty(t *testing.T) {
	for _, m := range all {
		a := get(t, m)
		t.Run(a.Name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				s := a.blank()
				rng := rand.NewChaCha8([32]byte{rapid.Byte().Draw(t, "seed")})
				_, _ = rng.Read(s.Context)
				_, _ = rng.Read(s.Special)
				a.SetContextFlags(s.Context, ^uint32(0)) // every part is claimed
				v := Value{rapid.Uint64().Draw(t, "lo"), rapid.Uint64().Draw(t, "hi")}
				for _, r := range a.regs {
					before := State{bytes.Clone(s.Context), bytes.Clone(s.Special)}
					if !r.Set(s, v) {
						t.Fatalf("%s: not set", r.Name)
					}
					want := Value{v.Lo & maskBits(min(r.Bits, 64)), 0}
					if r.Bits > 64 {
						want.Hi = v.Hi & maskBits(r.Bits-64)
					}
					if got, ok := r.Get(s); !ok || got != want {
						t.Fatalf("%s: got %x, want %x", r.Name, got, want)
					}
					checkOnlyChanged(t, r, before, s)
				}
			})
		})
	}
}

func checkOnlyChanged(t *rapid.T, r *Reg, before, after State) {
	off, _ := r.Span()
	diff := func(b, c []byte, own bool) {
		for i := range b {
			if b[i] == c[i] {
				continue
			}
			for bit := range 8 {
				pos := 8*(i-off) + bit - r.shift
				if own && pos >= 0 && pos < r.Bits {
					continue
				}
				if (b[i]^c[i])>>bit&1 != 0 {
					t.Fatalf("%s: byte %#x bit %d changed", r.Name, i, bit)
				}
			}
		}
	}
	diff(before.Context, after.Context, !r.special)
	diff(before.Special, after.Special, r.special)
}

func TestShortRecordsAreRefused(t *testing.T) {
	for _, m := range all {
		a := get(t, m)
		for _, r := range a.Regs() {
			off, n := r.Span()
			short := make([]byte, off+n-1)
			s := State{short, short}
			if _, ok := r.Get(s); ok {
				t.Errorf("%s %s: read from a short record", a.Name, r.Name)
			}
			if r.Set(s, Value{^uint64(0), ^uint64(0)}) || !bytes.Equal(short, make([]byte, len(short))) {
				t.Errorf("%s %s: wrote to a short record", a.Name, r.Name)
			}
		}
		a.SetPC(nil, 1)
		a.SetSP(nil, 1)
		a.SetFlags(nil, 1)
		a.SetContextFlags(nil, 1)
		if a.PC(nil)|a.SP(nil)|uint64(a.Flags(nil))|uint64(a.ContextFlags(nil)) != 0 {
			t.Errorf("%s: something read from nothing", a.Name)
		}
		if !strings.Contains(a.Format(State{}, a.ValidMask()), "?") {
			t.Errorf("%s: missing records are not shown as unknown", a.Name)
		}
	}
}

func TestPCAndCanon(t *testing.T) {
	x86 := get(t, kdproto.MachineI386)
	s := x86.blank()
	x86.SetPC(s.Context, 0xFFFFFFFF80400000)
	if pc := x86.PC(s.Context); pc != 0xFFFFFFFF80400000 {
		t.Errorf("x86 pc %#x", pc)
	}
	if r, _ := x86.Reg("eip"); x86.Canon(0x80400000) != 0xFFFFFFFF80400000 || x86.Canon(0x7FFE0000) != 0x7FFE0000 {
		t.Error("canon")
	} else if v, _ := r.Get(s); v.Lo != 0x80400000 {
		t.Errorf("eip %#x", v.Lo)
	}
	x64 := get(t, kdproto.MachineAMD64)
	if x64.Canon(0x80400000) != 0x80400000 {
		t.Error("x64 addresses must stay")
	}
}

func TestFormatX64(t *testing.T) {
	a := get(t, kdproto.MachineAMD64)
	s := a.blank()
	for n, v := range map[string]uint64{
		"rax": 1, "rbx": 0xfffff8031a2b3c80, "rcx": 1, "rip": 0xfffff80319e4ca60, "rsp": 0xfffff8031c1b7b78,
		"cs": 0x10, "ss": 0x18, "ds": 0x2b, "es": 0x2b, "fs": 0x53, "gs": 0x2b, "efl": 0x46, "r8": 8, "r15": 0xf,
	} {
		set(t, a, s, n, v)
	}
	const want = `rax=0000000000000001 rbx=fffff8031a2b3c80 rcx=0000000000000001
rdx=0000000000000000 rsi=0000000000000000 rdi=0000000000000000
rip=fffff80319e4ca60 rsp=fffff8031c1b7b78 rbp=0000000000000000
 r8=0000000000000008  r9=0000000000000000 r10=0000000000000000
r11=0000000000000000 r12=0000000000000000 r13=0000000000000000
r14=0000000000000000 r15=000000000000000f
iopl=0         nv up di pl zr na pe nc
cs=0010  ss=0018  ds=002b  es=002b  fs=0053  gs=002b             efl=00000046
`
	if got := a.Format(s, 0); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// A target leaves TF set after a step; nobody should see it.
	set(t, a, s, "tf", 1)
	if got := a.Format(s, 0); got != want {
		t.Errorf("with TF: got\n%s", got)
	}
	if a.Flags(s.Context) != 0x146 {
		t.Errorf("the record lost TF: %#x", a.Flags(s.Context))
	}
	if v, _ := a.byName["tf"].View(s); v.Lo != 0 {
		t.Error("tf shown")
	}
}

func TestFormatX64Special(t *testing.T) {
	a := get(t, kdproto.MachineAMD64)
	s := a.blank()
	for n, v := range map[string]uint64{
		"cr0": 0x80050031, "cr3": 0x1ab000, "cr8": 0xf, "cr4": 0x6f8, "dr6": 0xffff0ff0, "dr7": 0x400,
		"gdtr": 0xfffff80000b95000, "gdtl": 0x6f, "idtr": 0xfffff80000b95080, "idtl": 0xfff, "tr": 0x40,
	} {
		set(t, a, s, n, v)
	}
	const want = `cr0=0000000080050031 cr2=0000000000000000 cr3=00000000001ab000
cr8=000000000000000f
dr0=0000000000000000 dr1=0000000000000000 dr2=0000000000000000
dr3=0000000000000000 dr6=00000000ffff0ff0 dr7=0000000000000400 cr4=00000000000006f8
gdtr=fffff80000b95000   gdtl=006f idtr=fffff80000b95080   idtl=0fff tr=0040  ldtr=0000
`
	if got := a.Format(s, MaskControl|MaskDebug|MaskDesc); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// The record of an old system ends before cr8.
	s.Special = s.Special[:0xA0]
	if got := a.Format(s, MaskControl); !strings.HasSuffix(got, "cr8=????????????????\n") {
		t.Errorf("short record: %q", got)
	}
}

// The display of a published transcript (rM 1ff of a 32-bit kernel).
func TestFormatX86(t *testing.T) {
	a := get(t, kdproto.MachineI386)
	s := a.blank()
	for n, v := range map[string]uint64{
		"eax": 0x025ad9d4, "ecx": 0x7c91056d, "edx": 0xba0000, "esi": 0x7c810976, "edi": 0x10000080,
		"eip": 0x7c810978, "esp": 0x025ad780, "ebp": 0x025adbec, "efl": 0x202,
		"cs": 0x1b, "ss": 0x23, "ds": 0x23, "es": 0x23, "fs": 0x3b,
		"fpcw": 0x27f, "fpsw": 0x4020, "fptw": 0xffff, "fpip": 0x74b785bc, "fpipsel": 0x23, "fpdp": 0x20a84, "fpdpsel": 0x2b,
		"cr0": 0x8001003b, "cr2": 0x7c99a3d8, "cr3": 0x07f40280, "dr6": 0xffff4ff0, "dr7": 0x400, "cr4": 0x6f9,
		"gdtr": 0x8003f000, "gdtl": 0x3ff, "idtr": 0x8003f400, "idtl": 0x7ff, "tr": 0x28,
	} {
		set(t, a, s, n, v)
	}
	xmm0 := a.byName["xmm0"]
	xmm0.Set(s, Value{Lo: 0x3f8000003f000000, Hi: 0x80})
	st1 := a.byName["st1"]
	st1.Set(s, Value{Lo: 0xC000000000000000, Hi: 0xBFFF})
	const want = `eax=025ad9d4 ebx=00000000 ecx=7c91056d edx=00ba0000 esi=7c810976 edi=10000080
eip=7c810978 esp=025ad780 ebp=025adbec iopl=0         nv up ei pl nz na po nc
cs=001b  ss=0023  ds=0023  es=0023  fs=003b  gs=0000             efl=00000202
fpcw=027F: rn 53 puozdi  fpsw=4020: top=0 cc=1000 --p-----  fptw=FFFF
fopcode=0000  fpip=0023:74b785bc  fpdp=002b:00020a84
st0= 0.000000000000000000000e+0000  st1=-1.500000000000000000000e+0000
st2= 0.000000000000000000000e+0000  st3= 0.000000000000000000000e+0000
st4= 0.000000000000000000000e+0000  st5= 0.000000000000000000000e+0000
st6= 0.000000000000000000000e+0000  st7= 0.000000000000000000000e+0000
mm0=0000000000000000  mm1=c000000000000000
mm2=0000000000000000  mm3=0000000000000000
mm4=0000000000000000  mm5=0000000000000000
mm6=0000000000000000  mm7=0000000000000000
xmm0=0 1.79366e-043 1 0.5
xmm1=0 0 0 0
xmm2=0 0 0 0
xmm3=0 0 0 0
xmm4=0 0 0 0
xmm5=0 0 0 0
xmm6=0 0 0 0
xmm7=0 0 0 0
cr0=8001003b cr2=7c99a3d8 cr3=07f40280
dr0=00000000 dr1=00000000 dr2=00000000
dr3=00000000 dr6=ffff4ff0 dr7=00000400 cr4=000006f9
gdtr=8003f000   gdtl=03ff idtr=8003f400   idtl=07ff tr=0028  ldtr=0000
`
	if got := a.Format(s, 0x1ff); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestFormatARM64(t *testing.T) {
	a := get(t, kdproto.MachineARM64)
	s := a.blank()
	for n, v := range map[string]uint64{
		"x0": 0x78, "x1": 0x2037b0069e0, "x12": 0x7ffea822efe0, "fp": 0x293a8ffc10, "lr": 0x7ffea80f7388,
		"sp": 0x293a8ff9e0, "pc": 0x7ffea80e30f4, "psr": 0x60000000,
	} {
		set(t, a, s, n, v)
	}
	got := strings.Split(a.Format(s, 0), "\n")
	want := map[int]string{
		0: " x0=0000000000000078   x1=000002037b0069e0   x2=0000000000000000   x3=0000000000000000",
		3: "x12=00007ffea822efe0  x13=0000000000000000  x14=0000000000000000  x15=0000000000000000",
		7: "x28=0000000000000000   fp=000000293a8ffc10   lr=00007ffea80f7388   sp=000000293a8ff9e0",
		8: " pc=00007ffea80e30f4  psr=60000000 -ZC- EL0",
		9: "",
	}
	if len(got) != 10 {
		t.Fatalf("%d lines", len(got))
	}
	for i, w := range want {
		if got[i] != w {
			t.Errorf("line %d: got %q, want %q", i, got[i], w)
		}
	}
}

func TestFlagsText(t *testing.T) {
	a := get(t, kdproto.MachineAMD64)
	for f, want := range map[uint32]string{
		0:        "iopl=0         nv up di pl nz na po nc",
		0x246:    "iopl=0         nv up ei pl zr na pe nc",
		0xFD7:    "iopl=0         ov dn ei ng zr ac pe cy",
		0x3000:   "iopl=3         nv up di pl nz na po nc",
		0x180000: "iopl=0 vip vif nv up di pl nz na po nc",
	} {
		if got := a.FlagsText(f); got != want {
			t.Errorf("%#x: %q, want %q", f, got, want)
		}
	}
	b := get(t, kdproto.MachineARM64)
	for f, want := range map[uint32]string{0x600003C4: "-ZC- EL1", 0x90000000: "N--V EL0"} {
		if got := b.FlagsText(f); got != want {
			t.Errorf("%#x: %q, want %q", f, got, want)
		}
	}
}

func TestFloat80(t *testing.T) {
	for _, c := range []struct {
		v    Value
		want string
	}{
		{Value{0x8000000000000000, 0x3FFF}, " 1.000000000000000000000e+0000"},
		{Value{0xA000000000000000, 0xC002}, "-1.000000000000000000000e+0001"},
		{Value{0xC90FDAA22168C235, 0x4000}, " 3.141592653589793238513e+0000"},
		{Value{0xFFFFFFFFFFFFFFFF, 0x7FFE}, " 1.189731495357231765021e+4932"},
		{Value{1, 0}, " 3.645199531882474602528e-4951"},
		{Value{0, 0}, " 0.000000000000000000000e+0000"},
		{Value{0x8000000000000000, 0x7FFF}, " 1.#INF00000000000000000e+0000"},
		{Value{0xC000000000000000, 0xFFFF}, "-1.#IND00000000000000000e+0000"},
		{Value{0xC000000000000001, 0xFFFF}, "-1.#QNAN0000000000000000e+0000"},
	} {
		if got := formatFloat80(c.v); got != c.want {
			t.Errorf("%x: %q, want %q", c.v, got, c.want)
		}
	}
}

func TestDr7(t *testing.T) {
	x64, x86 := get(t, kdproto.MachineAMD64), get(t, kdproto.MachineI386)
	for _, c := range []struct {
		hw   [4]HW
		want uint64
	}{
		{[4]HW{}, 0x400},
		{[4]HW{{true, HWExecute, 1}}, 0x401},
		{[4]HW{{true, HWExecute, 4}}, 0x401}, // the processor wants length 1
		{[4]HW{{true, HWWrite, 4}}, 0xD0401},
		{[4]HW{{}, {true, HWAccess, 1}}, 0x300404},
		{[4]HW{{}, {}, {true, HWAccess, 2}}, 0x7000410},
		{[4]HW{{}, {}, {}, {true, HWWrite, 8}}, 0x90000440},
		{[4]HW{{}, {false, HWWrite, 4}}, 0x400},
	} {
		if got := x64.EncodeDr7(c.hw); got != c.want {
			t.Errorf("%v: %#x, want %#x", c.hw, got, c.want)
		}
	}
	if got := x86.EncodeDr7([4]HW{{true, HWWrite, 8}}); got != 0x10401 {
		t.Errorf("x86 has no 8 byte length: %#x", got)
	}
	if get(t, kdproto.MachineARM64).EncodeDr7([4]HW{{true, HWWrite, 4}}) != 0 {
		t.Error("ARM64 has no DR7")
	}
	if hw := DecodeDr7(0x402); !hw[0].Enabled || hw[0].Len != 1 {
		t.Errorf("global enable bit: %v", hw)
	}
	rapid.Check(t, func(t *rapid.T) {
		var hw [4]HW
		for i := range hw {
			if !rapid.Bool().Draw(t, "on") {
				continue
			}
			hw[i] = HW{true, rapid.Uint8Range(0, 3).Draw(t, "kind"), rapid.SampledFrom([]uint8{1, 2, 4, 8}).Draw(t, "len")}
			if hw[i].Kind == HWExecute {
				hw[i].Len = 1
			}
			if err := x64.CheckHW(hw[i], 0x1000); err != nil {
				t.Fatal(err)
			}
		}
		v := x64.EncodeDr7(hw)
		if DecodeDr7(v) != hw || v&0x400 == 0 || v>>32 != 0 || v&0xAA != 0 {
			t.Fatalf("%v: %#x, back %v", hw, v, DecodeDr7(v))
		}
	})
}

func TestCheckHW(t *testing.T) {
	x86 := get(t, kdproto.MachineI386)
	for _, c := range []struct {
		h    HW
		addr uint64
		want string // "" is fine
	}{
		{HW{true, HWWrite, 4}, 0x1000, ""},
		{HW{true, HWWrite, 4}, 0x1002, "divisible by 4"},
		{HW{true, HWWrite, 8}, 0x1000, "needs an x64"},
		{HW{true, HWWrite, 3}, 0x1000, "not 3"},
		{HW{true, HWWrite, 0}, 0x1000, "not 0"},
		{HW{true, HWExecute, 2}, 0x1000, "length 1"},
		{HW{true, 4, 1}, 0x1000, "kind 4"},
	} {
		err := x86.CheckHW(c.h, c.addr)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v at %#x: %v, want %q", c.h, c.addr, err, c.want)
		}
	}
	if get(t, kdproto.MachineARM64).CheckHW(HW{true, HWWrite, 4}, 0) == nil {
		t.Error("ARM64 accepted")
	}
}

func TestDr6(t *testing.T) {
	if d := DecodeDr6(0xFFFF4FF0); d != (Dr6{SingleStep: true}) {
		t.Errorf("%+v", d)
	}
	if d := DecodeDr6(0xFFFF0FF1); d != (Dr6{Hit: [4]bool{true}}) {
		t.Errorf("%+v", d)
	}
}

func TestSetDebug(t *testing.T) {
	for _, m := range []kdproto.Machine{kdproto.MachineI386, kdproto.MachineAMD64} {
		a := get(t, m)
		sp := bytes.Repeat([]byte{0xA5}, a.SpecialSize)
		if !a.SetDebug(sp, [4]uint64{1, 2, 3, 4}, 0xD0401) {
			t.Fatalf("%s: refused", a.Name)
		}
		s := State{Special: sp}
		for i, n := range []string{"dr0", "dr1", "dr2", "dr3", "dr7"} {
			want := []uint64{1, 2, 3, 4, 0xD0401}[i]
			if v, _ := a.byName[n].Get(s); v.Lo != want {
				t.Errorf("%s %s = %#x", a.Name, n, v.Lo)
			}
		}
		if n := bytes.Count(sp, []byte{0xA5}); n != a.SpecialSize-5*a.PointerSize {
			t.Errorf("%s: %d bytes left alone", a.Name, n)
		}
		short := make([]byte, 0x20)
		if a.SetDebug(short, [4]uint64{1, 2, 3, 4}, 1) || !bytes.Equal(short, make([]byte, 0x20)) {
			t.Errorf("%s: short record written", a.Name)
		}
	}
	if get(t, kdproto.MachineARM64).SetDebug(make([]byte, 0xA0), [4]uint64{}, 0) {
		t.Error("ARM64 has no DR7")
	}
}

// TestRecorded decodes the contexts and special registers of recorded
// sessions; each must make sense for an x64 kernel.
func TestRecorded(t *testing.T) {
	files, _ := filepath.Glob("../../shared/data/kdcom/*.txt")
	if len(files) == 0 {
		t.Skip("no recorded sessions at ../shared/data (seen from the repository root)")
	}
	a := get(t, kdproto.MachineAMD64)
	contexts, specials, steps := 0, 0, 0
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		sc := bufio.NewScanner(f)
		sc.Buffer(nil, 1<<20)
		for sc.Scan() {
			w := strings.Fields(sc.Text())
			if len(w) < 3 || w[1] != "<" || strings.HasSuffix(w[2], "...") {
				continue
			}
			p, err := hex.DecodeString(w[2])
			if err != nil || len(p) < 16+56 || p[0] != 0x30 || le.Uint16(p[4:]) != 2 {
				continue
			}
			body := p[16:]
			if le.Uint32(body[8:]) != 0 {
				continue
			}
			switch api := le.Uint32(body); {
			case api == 0x3132 && len(body) >= 56+a.ContextSize:
				s := State{Context: body[56 : 56+a.ContextSize]}
				if a.PC(s.Context)>>40 != 0xFFFFF8 || a.SP(s.Context)&7 != 0 || a.SP(s.Context) == 0 {
					t.Errorf("%s: pc %#x sp %#x", name, a.PC(s.Context), a.SP(s.Context))
				}
				if cf := a.ContextFlags(s.Context); cf&0x10001B != 0x10001B {
					t.Errorf("%s: context flags %#x", name, cf)
				}
				if a.Flags(s.Context)&FlagTF != 0 {
					steps++
				}
				text := a.Format(s, 0)
				if !strings.Contains(text, "cs=0010") || strings.Contains(text, "?") {
					t.Errorf("%s: %s", name, text)
				}
				contexts++
			case api == 0x3137 && le.Uint64(body[16:]) == 2 && len(body) >= 56+0xD8+1:
				sp := body[56:]
				s := State{Special: sp[:len(sp)-1]}
				cr0, _ := a.byName["cr0"].Get(s)
				cr3, _ := a.byName["cr3"].Get(s)
				tr, _ := a.byName["tr"].Get(s)
				gdtl, _ := a.byName["gdtl"].Get(s)
				if cr0.Lo&0x80000001 != 0x80000001 || cr3.Lo == 0 || cr3.Lo&0xFFF != 0 || tr.Lo != 0x40 || gdtl.Lo&7 != 7 {
					t.Errorf("%s: cr0 %x cr3 %x tr %x gdtl %x", name, cr0.Lo, cr3.Lo, tr.Lo, gdtl.Lo)
				}
				specials++
			}
		}
		if err := sc.Err(); err != nil {
			t.Error(err)
		}
		_ = f.Close()
	}
	t.Logf("%d contexts (%d with TF), %d special-register records", contexts, steps, specials)
	if contexts == 0 {
		t.Error("no context found in the recordings")
	}
}
