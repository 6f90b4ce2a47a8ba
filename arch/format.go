package arch

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"

	"openkd/kdproto"
)

// FormatValue prints a value of the register the way r does after the equals
// sign: whole-width hexadecimal, flags as short as can be, x87 registers in
// decimal, vectors as four single floats with the highest first.
func (r *Reg) FormatValue(v Value) string {
	switch r.Type {
	case TypeFlag:
		return strconv.FormatUint(v.Lo, 16)
	case TypeFloat80:
		return formatFloat80(v)
	case TypeVector:
		f := func(x uint64) string { return formatFloat32(math.Float32frombits(uint32(x))) }
		return f(v.Hi>>32) + " " + f(v.Hi) + " " + f(v.Lo>>32) + " " + f(v.Lo)
	}
	if r.Bits > 64 {
		return fmt.Sprintf("%0*x%016x", (r.Bits-64)/4, v.Hi, v.Lo)
	}
	return fmt.Sprintf("%0*x", (r.Bits+3)/4, v.Lo)
}

// show is the value of a register for a display, or question marks of the same
// width when the record does not hold it: a missing value must not read as 0.
func (r *Reg) show(s State) string {
	if v, ok := r.View(s); ok {
		return r.FormatValue(v)
	}
	switch r.Type {
	case TypeVector:
		return "? ? ? ?"
	case TypeFloat80:
		return " ?"
	}
	return strings.Repeat("?", (r.Bits+3)/4)
}

// Format prints the groups of registers in mask (see the Mask constants; 0
// means DefaultMask), each line ending in a newline, laid out as WinDbg's r
// and rM do. Bits without a group are ignored. A register that the records do
// not hold is shown as question marks. The trap flag is never shown as set:
// see Reg.View.
func (a *Arch) Format(s State, mask uint32) string {
	if mask == 0 {
		mask = a.DefaultMask
	}
	f := &formatter{a: a, s: s}
	switch a.Machine {
	case kdproto.MachineARM64:
		f.arm64(mask)
	default:
		f.intel(mask)
	}
	return f.b.String()
}

type formatter struct {
	a *Arch
	s State
	b strings.Builder
}

// reg is "name=value" with the name right-aligned to width.
func (f *formatter) reg(width int, name string) string {
	return fmt.Sprintf("%*s=%s", width, name, f.a.byName[name].show(f.s))
}

func (f *formatter) line(width int, sep string, names ...string) {
	for i, n := range names {
		if i > 0 {
			f.b.WriteString(sep)
		}
		f.b.WriteString(f.reg(width, n))
	}
	f.b.WriteByte('\n')
}

func (f *formatter) raw(name string) (uint64, bool) {
	v, ok := f.a.byName[name].Get(f.s)
	return v.Lo, ok
}

// FlagsText is the flags line of r: on x86 and x64 for example
// "iopl=0         nv up di pl zr na po nc" (the gap holds vip and vif when they
// are set), on ARM64 "-ZC- EL1".
func (a *Arch) FlagsText(flags uint32) string {
	pick := func(bit uint32, set, clear string) string {
		if flags&bit != 0 {
			return set
		}
		return clear
	}
	if a.Machine == kdproto.MachineARM64 {
		t := pick(1<<31, "N", "-") + pick(1<<30, "Z", "-") + pick(1<<29, "C", "-") + pick(1<<28, "V", "-")
		if flags&0x10 != 0 {
			return t + " AArch32"
		}
		return t + fmt.Sprintf(" EL%d", flags>>2&3)
	}
	return fmt.Sprintf("iopl=%d %s %s %s %s %s %s %s %s %s %s", flags>>12&3,
		pick(FlagVIP, "vip", "   "), pick(FlagVIF, "vif", "   "),
		pick(FlagOF, "ov", "nv"), pick(FlagDF, "dn", "up"), pick(FlagIF, "ei", "di"), pick(FlagSF, "ng", "pl"),
		pick(FlagZF, "zr", "nz"), pick(FlagAF, "ac", "na"), pick(FlagPF, "pe", "po"), pick(FlagCF, "cy", "nc"))
}

func (f *formatter) flags(name string) string {
	v, ok := f.raw(name)
	if !ok {
		return "flags not known"
	}
	return f.a.FlagsText(uint32(v))
}

func (f *formatter) intel(mask uint32) {
	x64 := f.a.PointerSize == 8
	if mask&(MaskInt32|MaskInt64) != 0 {
		if x64 {
			f.line(3, " ", "rax", "rbx", "rcx")
			f.line(3, " ", "rdx", "rsi", "rdi")
			f.line(3, " ", "rip", "rsp", "rbp")
			f.line(3, " ", "r8", "r9", "r10")
			f.line(3, " ", "r11", "r12", "r13")
			f.line(3, " ", "r14", "r15")
			f.b.WriteString(f.flags("efl") + "\n")
		} else {
			f.line(3, " ", "eax", "ebx", "ecx", "edx", "esi", "edi")
			f.b.WriteString(f.reg(3, "eip") + " " + f.reg(3, "esp") + " " + f.reg(3, "ebp") + " " + f.flags("efl") + "\n")
		}
	}
	if mask&MaskSegment != 0 {
		for _, n := range []string{"cs", "ss", "ds", "es", "fs"} {
			f.b.WriteString(f.reg(2, n) + "  ")
		}
		f.b.WriteString(f.reg(2, "gs") + strings.Repeat(" ", 13) + f.reg(3, "efl") + "\n")
	}
	if mask&MaskFloat != 0 {
		f.x87()
	}
	if mask&MaskMMX != 0 {
		for i := 0; i < 8; i += 2 {
			f.line(3, "  ", fmt.Sprintf("mm%d", i), fmt.Sprintf("mm%d", i+1))
		}
	}
	if mask&MaskXMM != 0 {
		n := 8
		if x64 {
			n = 16
		}
		for i := range n {
			f.line(4, "", fmt.Sprintf("xmm%d", i))
		}
	}
	if mask&MaskControl != 0 {
		f.line(3, " ", "cr0", "cr2", "cr3")
		if x64 {
			f.line(3, " ", "cr8")
		}
	}
	if mask&MaskDebug != 0 {
		f.line(3, " ", "dr0", "dr1", "dr2")
		f.line(3, " ", "dr3", "dr6", "dr7", "cr4")
	}
	if mask&MaskDesc != 0 {
		f.b.WriteString(f.reg(4, "gdtr") + "   " + f.reg(4, "gdtl") + " " + f.reg(4, "idtr") + "   " + f.reg(4, "idtl") +
			" " + f.reg(2, "tr") + "  " + f.reg(4, "ldtr") + "\n")
	}
}

// x87 prints the floating-point group:
//
//	fpcw=027F: rn 53 puozdi  fpsw=4020: top=0 cc=1000 --p-----  fptw=FFFF
//	fopcode=0000  fpip=0023:74b785bc  fpdp=002b:00020a84
//	st0= 0.000000000000000000000e+0000  st1= ...
func (f *formatter) x87() {
	cw, ok1 := f.raw("fpcw")
	sw, ok2 := f.raw("fpsw")
	tw, ok3 := f.raw("fptw")
	op, ok4 := f.raw("fopcode")
	if !ok1 || !ok2 || !ok3 || !ok4 {
		f.b.WriteString("floating-point state not in the record\n")
		return
	}
	letters := func(names string, v uint64) string {
		s := []byte(names)
		for i := range s {
			if v>>(len(s)-1-i)&1 == 0 {
				s[i] = '-'
			}
		}
		return string(s)
	}
	fmt.Fprintf(&f.b, "fpcw=%04X: %s %s %s  fpsw=%04X: top=%d cc=%d%d%d%d %s  fptw=%04X\n",
		cw, [4]string{"rn", "rd", "ru", "rz"}[cw>>10&3], [4]string{"24", "??", "53", "64"}[cw>>8&3], letters("puozdi", cw),
		sw, sw>>11&7, sw>>14&1, sw>>10&1, sw>>9&1, sw>>8&1, letters("espuozdi", sw), tw)
	fmt.Fprintf(&f.b, "fopcode=%04x  fpip=%s:%s  fpdp=%s:%s\n", op,
		f.a.byName["fpipsel"].show(f.s), f.a.byName["fpip"].show(f.s),
		f.a.byName["fpdpsel"].show(f.s), f.a.byName["fpdp"].show(f.s))
	for i := 0; i < 8; i += 2 {
		f.line(3, "  ", fmt.Sprintf("st%d", i), fmt.Sprintf("st%d", i+1))
	}
}

func (f *formatter) columns(width, per int, sep string, names ...string) {
	for len(names) > 0 {
		n := min(per, len(names))
		f.line(width, sep, names[:n]...)
		names = names[n:]
	}
}

func (f *formatter) arm64(mask uint32) {
	if mask&(MaskInt32|MaskInt64) != 0 {
		f.columns(3, 4, "  ", append(numbered("x%d", 0, 29), "fp", "lr", "sp")...)
		f.b.WriteString(f.reg(3, "pc") + "  " + f.reg(3, "psr") + " " + f.flags("psr") + "\n")
	}
	if mask&MaskFloat != 0 {
		f.line(4, "  ", "fpcr", "fpsr")
		f.columns(3, 1, "", numbered("v%d", 0, 32)...)
	}
	if mask&MaskDebug != 0 {
		f.columns(4, 4, "  ", numbered("bvr%d", 0, 8)...)
		f.columns(4, 4, "  ", numbered("bcr%d", 0, 8)...)
		f.columns(4, 4, "  ", "wvr0", "wvr1", "wcr0", "wcr1")
	}
	if mask&MaskControl != 0 {
		f.line(1, "  ", "elr_el1", "spsr_el1")
		f.line(1, "  ", "tpidr_el0", "tpidrro_el0", "tpidr_el1")
	}
}

// formatFloat32 is C's %g with the three-digit exponents of Microsoft's
// run-time library.
func formatFloat32(x float32) string {
	d := float64(x)
	switch {
	case math.IsNaN(d):
		if math.Signbit(d) {
			return "-1.#QNAN"
		}
		return "1.#QNAN"
	case math.IsInf(d, 1):
		return "1.#INF"
	case math.IsInf(d, -1):
		return "-1.#INF"
	}
	t := strconv.FormatFloat(d, 'g', 6, 64)
	m, e, found := strings.Cut(t, "e")
	if !found {
		return t
	}
	return m + "e" + e[:1] + strings.Repeat("0", max(0, 3-len(e[1:]))) + e[1:]
}

// formatFloat80 prints an x87 extended value as sign or space, one digit, 21
// decimals and a four-digit exponent.
func formatFloat80(v Value) string {
	sign := " "
	if v.Hi>>15&1 != 0 {
		sign = "-"
	}
	exp, man := int(v.Hi&0x7FFF), v.Lo
	if exp == 0x7FFF {
		kind := "#INF"
		switch {
		case man<<1 == 0:
		case man>>62&1 == 0:
			kind = "#SNAN"
		case man<<2 == 0 && sign == "-":
			kind = "#IND"
		default:
			kind = "#QNAN"
		}
		return sign + "1." + kind + strings.Repeat("0", 21-len(kind)) + "e+0000"
	}
	if exp == 0 {
		exp = 1 // denormal: same scale as the smallest normal, no implied bit to miss
	}
	x := new(big.Float).SetPrec(64).SetUint64(man)
	x.SetMantExp(x, exp-16383-63)
	t := x.Text('e', 21)
	m, e, _ := strings.Cut(t, "e")
	return sign + m + "e" + e[:1] + strings.Repeat("0", max(0, 4-len(e[1:]))) + e[1:]
}
