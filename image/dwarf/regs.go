package dwarf

import "strconv"

// Numbers of registers in DWARF: System V ABI i386, figure 2.14 (GCC uses it
// for all of MinGW's sections); System V ABI AMD64, figure 3.36; DWARF for the
// Arm 64-bit Architecture, section 4.1.
var (
	regsX86 = [...]string{
		"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "eip", "efl", "",
		"st0", "st1", "st2", "st3", "st4", "st5", "st6", "st7", "", "",
		"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
		"mm0", "mm1", "mm2", "mm3", "mm4", "mm5", "mm6", "mm7", "fpcw", "fpsw", "mxcsr",
		"es", "cs", "ss", "ds", "fs", "gs",
	}
	regsX64 = [...]string{
		"rax", "rdx", "rcx", "rbx", "rsi", "rdi", "rbp", "rsp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip",
		"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7",
		"xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15",
		"st0", "st1", "st2", "st3", "st4", "st5", "st6", "st7",
		"mm0", "mm1", "mm2", "mm3", "mm4", "mm5", "mm6", "mm7", "efl",
		"es", "cs", "ss", "ds", "fs", "gs",
	}
)

// register is the name of a register as package arch has it, "" if there is
// none.
func (f *File) register(n uint64) string {
	switch f.im.Machine {
	case machineX86:
		if n < uint64(len(regsX86)) {
			return regsX86[n]
		}
	case machineX64:
		if n < uint64(len(regsX64)) {
			return regsX64[n]
		}
	case machineARM64:
		switch {
		case n < 29:
			return "x" + strconv.FormatUint(n, 10)
		case n == 29:
			return "fp"
		case n == 30:
			return "lr"
		case n == 31:
			return "sp"
		case n == 32:
			return "pc"
		case n >= 64 && n < 96:
			return "v" + strconv.FormatUint(n-64, 10)
		}
	}
	return ""
}
