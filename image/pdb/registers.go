package pdb

import "strconv"

// reg is a register by the name that a debugger has for it, and its bytes.
type reg struct {
	name string
	size uint8
}

// register translates a CodeView register number.
func register(machine, n uint16) (reg, bool) {
	var r reg
	switch machine {
	case machineX86, machineX64:
		r = x86Register(n)
	case machineARM64:
		r = arm64Register(n)
	}
	return r, r.name != ""
}

// Registers of x86 by their numbers from 1, and those of x64 from 328.
var (
	x86Low = [...]string{
		"al", "cl", "dl", "bl", "ah", "ch", "dh", "bh",
		"ax", "cx", "dx", "bx", "sp", "bp", "si", "di",
		"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi",
		"es", "cs", "ss", "ds", "fs", "gs", "ip", "flags", "eip", "efl"}
	x64Low = [...]string{"sil", "dil", "bpl", "spl", "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp"}
)

func x86Register(n uint16) reg {
	num := func(prefix string, first uint16, size uint8, suffix string) reg {
		return reg{prefix + strconv.Itoa(int(n-first)) + suffix, size}
	}
	in := func(first, count uint16) bool { return n >= first && n-first < count }
	switch {
	case in(1, 8):
		return reg{x86Low[n-1], 1}
	case in(9, 8), in(25, 8):
		return reg{x86Low[n-1], 2}
	case in(17, 8), in(33, 2):
		return reg{x86Low[n-1], 4}
	case in(80, 5):
		return num("cr", 80, 4, "")
	case in(90, 8):
		return num("dr", 90, 4, "")
	case in(128, 8):
		return num("st", 128, 10, "")
	case in(146, 8):
		return num("mm", 146, 8, "")
	case in(154, 8):
		return num("xmm", 154, 16, "")
	case n == 211:
		return reg{"mxcsr", 4}
	case in(252, 8):
		return num("xmm", 252-8, 16, "")
	case in(324, 4):
		return reg{x64Low[n-324], 1}
	case in(328, 8):
		return reg{x64Low[n-324], 8}
	case in(336, 8):
		return num("r", 336-8, 8, "")
	case in(344, 8):
		return num("r", 344-8, 1, "b")
	case in(352, 8):
		return num("r", 352-8, 2, "w")
	case in(360, 8):
		return num("r", 360-8, 4, "d")
	case in(368, 16):
		return num("ymm", 368, 32, "")
	case in(694, 16):
		return num("xmm", 694-16, 16, "")
	case in(710, 16):
		return num("ymm", 710-16, 32, "")
	case in(726, 32):
		return num("zmm", 726, 64, "")
	}
	return reg{}
}

func arm64Register(n uint16) reg {
	num := func(prefix string, first uint16, size uint8) reg {
		return reg{prefix + strconv.Itoa(int(n-first)), size}
	}
	in := func(first, count uint16) bool { return n >= first && n-first < count }
	switch {
	case in(10, 31):
		return num("w", 10, 4)
	case in(50, 29):
		return num("x", 50, 8)
	case n == 79:
		return reg{"fp", 8}
	case n == 80:
		return reg{"lr", 8}
	case n == 81:
		return reg{"sp", 8}
	case in(100, 32):
		return num("s", 100, 4)
	case in(140, 32):
		return num("d", 140, 8)
	case in(180, 32):
		return num("q", 180, 16)
	case n == 220:
		return reg{"fpsr", 4}
	}
	return reg{}
}
