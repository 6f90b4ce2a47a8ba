package disasm

import (
	"fmt"
)

// The instructions x86asm does not know, or takes for others. The manuals'
// notation is kept short: a two-byte opcode 0F xx or three-byte 0F 38 xx, the
// mandatory prefix, and the fields of ModRM. The differential tests found them.

// forms of operands
type form uint8

const (
	formNone form = iota
	formE         // the r/m operand
	formGE        // register, r/m
	formEG        // r/m, register
	formR         // r/m is a register; memory is another instruction
	formM         // r/m is memory; a register is another instruction
	formGM        // register, memory
	formMG        // memory, register
	formReg       // r/m is a register, which is not written
)

// sizes of operands
type opsize uint8

const (
	szNone  opsize = iota // memory without a size
	szByte                // 1
	szWord                // 2
	szDword               // 4
	szV                   // operand size: 2, 4, 8
	szY                   // 4, or 8 with REX.W
	szPtr                 // 8 in 64-bit mode, else 4
	szQword               // 8
	szXmm                 // 16
)

// extraOp is one such instruction. modrm is the whole ModRM byte, -1
// when it varies, -2 when there is none; ext is its reg field, -1 for any.
type extraOp struct {
	name  string
	pfx   byte // 0 none of F2, F3, 66; 1: any of them, or none
	map38 bool
	op    byte
	modrm int
	ext   int
	form  form
	size  opsize
	kind  Kind
	nameQ string // with REX.W, when it is another
}

var extraOps = map[uint16][]extraOp{}

func init() {
	add := func(e extraOp) {
		k := uint16(e.op)
		if e.map38 {
			k |= 0x3800
		}
		extraOps[k] = append(extraOps[k], e)
	}
	// 0F 01 with a register ModRM: an opcode extension.
	for _, e := range []struct {
		modrm byte
		pfx   byte
		name  string
		kind  Kind
	}{
		{0xC0, 0, "enclv", Other}, {0xC1, 0, "vmcall", Syscall}, {0xC2, 0, "vmlaunch", Other}, {0xC3, 0, "vmresume", Other},
		{0xC4, 0, "vmxoff", Other}, {0xC5, 0, "pconfig", Other}, {0xCA, 0, "clac", Other}, {0xCB, 0, "stac", Other},
		{0xCF, 0, "encls", Other}, {0xD4, 0, "vmfunc", Other}, {0xD7, 0, "enclu", Other},
		{0xD8, 0, "vmrun", Other}, {0xD9, 0, "vmmcall", Syscall}, {0xDA, 0, "vmload", Other}, {0xDB, 0, "vmsave", Other},
		{0xDC, 0, "stgi", Other}, {0xDD, 0, "clgi", Other}, {0xDE, 0, "skinit", Other}, {0xDF, 0, "invlpga", Other},
		{0xE8, 0, "serialize", Other}, {0xE8, 0xF2, "xsusldtrk", Other}, {0xE9, 0xF2, "xresldtrk", Other},
		{0xE8, 0xF3, "setssbsy", Other}, {0xEA, 0xF3, "saveprevssp", Other}, {0xEC, 0xF3, "uiret", Ret},
		{0xED, 0xF3, "testui", Other}, {0xEE, 0xF3, "clui", Other}, {0xEF, 0xF3, "stui", Other},
		{0xEE, 0, "rdpkru", Other}, {0xEF, 0, "wrpkru", Other}, {0xFA, 0, "monitorx", Other}, {0xFB, 0, "mwaitx", Other},
		{0xFC, 0, "clzero", Other}, {0xFD, 0, "rdpru", Other},
		{0xFE, 0, "invlpgb", Other}, {0xFF, 0, "tlbsync", Other},
		{0xFE, 0xF2, "rmpupdate", Other}, {0xFE, 0xF3, "rmpadjust", Other}, {0xFF, 0xF2, "pvalidate", Other}, {0xFF, 0xF3, "psmash", Other},
	} {
		add(extraOp{name: e.name, pfx: e.pfx, op: 0x01, modrm: int(e.modrm), ext: -1, kind: e.kind})
	}
	for _, e := range []extraOp{
		{name: "rstorssp", pfx: 0xF3, op: 0x01, modrm: -1, ext: 5, form: formM, size: szQword},
		{name: "wbnoinvd", pfx: 0xF3, op: 0x09, modrm: -2, ext: -1},
		{name: "femms", op: 0x0E, modrm: -2, ext: -1},
		{name: "getsec", op: 0x37, modrm: -2, ext: -1},
		{name: "prefetch", pfx: 1, op: 0x0D, modrm: -1, ext: 0, form: formM},
		{name: "prefetchwt1", pfx: 1, op: 0x0D, modrm: -1, ext: 2, form: formM},
		{name: "endbr64", pfx: 0xF3, op: 0x1E, modrm: 0xFA, ext: -1},
		{name: "endbr32", pfx: 0xF3, op: 0x1E, modrm: 0xFB, ext: -1},
		{name: "rdsspd", nameQ: "rdsspq", pfx: 0xF3, op: 0x1E, modrm: -1, ext: 1, form: formR, size: szY},
		{name: "cldemote", op: 0x1C, modrm: -1, ext: 0, form: formM},
		{name: "bndldx", op: 0x1A, modrm: -1, ext: -1, form: formM, size: szNone},
		{name: "bndstx", op: 0x1B, modrm: -1, ext: -1, form: formM, size: szNone},
		{name: "vmread", op: 0x78, modrm: -1, ext: -1, form: formEG, size: szPtr},
		{name: "vmwrite", op: 0x79, modrm: -1, ext: -1, form: formGE, size: szPtr},
		{name: "incsspd", nameQ: "incsspq", pfx: 0xF3, op: 0xAE, modrm: -1, ext: 5, form: formR, size: szY},
		{name: "clrssbsy", pfx: 0xF3, op: 0xAE, modrm: -1, ext: 6, form: formM, size: szQword},
		{name: "ptwrite", pfx: 0xF3, op: 0xAE, modrm: -1, ext: 4, form: formE, size: szY},
		{name: "clwb", pfx: 0x66, op: 0xAE, modrm: -1, ext: 6, form: formM},
		{name: "clflushopt", pfx: 0x66, op: 0xAE, modrm: -1, ext: 7, form: formM},
		{name: "tpause", pfx: 0x66, op: 0xAE, modrm: -1, ext: 6, form: formR, size: szDword},
		{name: "umonitor", pfx: 0xF3, op: 0xAE, modrm: -1, ext: 6, form: formR, size: szPtr},
		{name: "umwait", pfx: 0xF2, op: 0xAE, modrm: -1, ext: 6, form: formR, size: szDword},
		{name: "vmptrld", op: 0xC7, modrm: -1, ext: 6, form: formM, size: szQword},
		{name: "vmclear", pfx: 0x66, op: 0xC7, modrm: -1, ext: 6, form: formM, size: szQword},
		{name: "vmxon", pfx: 0xF3, op: 0xC7, modrm: -1, ext: 6, form: formM, size: szQword},
		{name: "vmptrst", op: 0xC7, modrm: -1, ext: 7, form: formM, size: szQword},
		{name: "rdseed", op: 0xC7, modrm: -1, ext: 7, form: formR, size: szV},
		{name: "rdseed", pfx: 0x66, op: 0xC7, modrm: -1, ext: 7, form: formR, size: szV},
		{name: "rdpid", pfx: 0xF3, op: 0xC7, modrm: -1, ext: 7, form: formR, size: szPtr},
		{name: "senduipi", pfx: 0xF3, op: 0xC7, modrm: -1, ext: 6, form: formR, size: szPtr},
		{name: "invept", map38: true, pfx: 0x66, op: 0x80, modrm: -1, ext: -1, form: formGM, size: szPtr},
		{name: "invvpid", map38: true, pfx: 0x66, op: 0x81, modrm: -1, ext: -1, form: formGM, size: szPtr},
		{name: "invpcid", map38: true, pfx: 0x66, op: 0x82, modrm: -1, ext: -1, form: formGM, size: szPtr},
		{name: "wrussd", nameQ: "wrussq", map38: true, pfx: 0x66, op: 0xF5, modrm: -1, ext: -1, form: formMG, size: szY},
		{name: "wrssd", nameQ: "wrssq", map38: true, op: 0xF6, modrm: -1, ext: -1, form: formMG, size: szY},
		{name: "adcx", map38: true, pfx: 0x66, op: 0xF6, modrm: -1, ext: -1, form: formGE, size: szY},
		{name: "adox", map38: true, pfx: 0xF3, op: 0xF6, modrm: -1, ext: -1, form: formGE, size: szY},
		{name: "movdir64b", map38: true, pfx: 0x66, op: 0xF8, modrm: -1, ext: -1, form: formGM, size: szPtr},
		{name: "enqcmd", map38: true, pfx: 0xF2, op: 0xF8, modrm: -1, ext: -1, form: formGM, size: szPtr},
		{name: "enqcmds", map38: true, pfx: 0xF3, op: 0xF8, modrm: -1, ext: -1, form: formGM, size: szPtr},
		{name: "movdiri", map38: true, op: 0xF9, modrm: -1, ext: -1, form: formMG, size: szY},
		{name: "ud0", pfx: 1, op: 0xFF, modrm: -1, ext: -1, form: formGE, size: szV, kind: Interrupt},
		{name: "ud1", pfx: 1, op: 0xB9, modrm: -1, ext: -1, form: formGE, size: szV, kind: Interrupt},
		{name: "syscall", pfx: 1, op: 0x05, modrm: -2, ext: -1, kind: Syscall},
		{name: "sysret", pfx: 1, op: 0x07, modrm: -2, ext: -1, kind: Ret},
		{name: "lfence", op: 0xAE, modrm: -1, ext: 5, form: formReg},
		{name: "mfence", op: 0xAE, modrm: -1, ext: 6, form: formReg},
		{name: "sfence", op: 0xAE, modrm: -1, ext: 7, form: formReg},
	} {
		add(e)
	}
	// The reserved no-operations; x86asm has 0F 1F /0 only.
	for op := byte(0x18); op <= 0x1F; op++ {
		if op == 0x1A || op == 0x1B {
			continue
		}
		for ext := range 8 {
			if op == 0x18 && ext < 4 || op == 0x1F && ext == 0 {
				continue // prefetches, and the usual nop
			}
			add(extraOp{name: "nop", pfx: 1, op: op, modrm: -1, ext: ext, form: formE, size: szV})
		}
	}
}

// raw is the encoding of an instruction taken apart as far as the table needs.
type raw struct {
	mode          int
	pos           int // of the next byte
	data16, addr  bool
	rep           byte // the last of F2 and F3
	rex           byte
	segName       string
	modrm         byte
	mod, reg, rm  int
	disp          int64
	base, index   int // -1 none
	scale         uint8
	ripRel, isMem bool
	lock          bool
}

// prefixes reads legacy prefixes and REX; it reports false when code ends.
func (r *raw) prefixes(code []byte) bool {
	for ; r.pos < len(code); r.pos++ {
		switch c := code[r.pos]; c {
		case 0x66:
			r.data16 = true
		case 0x67:
			r.addr = true
		case 0xF2, 0xF3:
			r.rep = c
		case 0xF0:
			r.lock = true
		case 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65:
			r.segName = map[byte]string{0x26: "es", 0x2E: "cs", 0x36: "ss", 0x3E: "ds", 0x64: "fs", 0x65: "gs"}[c]
		default:
			if r.mode == 64 && c&0xF0 == 0x40 {
				r.rex = c
				r.pos++
			}
			return r.pos < len(code)
		}
	}
	return false
}

// readModRM reads ModRM, SIB and displacement with 32 or 64-bit addressing;
// 16-bit addressing has its own rules.
func (r *raw) readModRM(code []byte) bool {
	if r.pos >= len(code) {
		return false
	}
	r.modrm = code[r.pos]
	r.pos++
	r.mod, r.reg, r.rm = int(r.modrm>>6), int(r.modrm>>3&7)|int(r.rex>>2&1)<<3, int(r.modrm&7)
	r.base, r.index = -1, -1
	if r.mod == 3 {
		r.rm |= int(r.rex&1) << 3
		return true
	}
	r.isMem = true
	n := [...]int{0, 1, 4}[r.mod]
	if r.mode == 32 && r.addr {
		if r.mod == 2 || r.mod == 0 && r.rm == 6 {
			n = 2
		}
		pairs := [8][2]int{{3, 6}, {3, 7}, {5, 6}, {5, 7}, {6, -1}, {7, -1}, {5, -1}, {3, -1}}
		if !(r.mod == 0 && r.rm == 6) {
			r.base, r.index = pairs[r.rm][0], pairs[r.rm][1]
			r.scale = 1
		}
	} else {
		switch {
		case r.rm == 4:
			if r.pos >= len(code) {
				return false
			}
			sib := code[r.pos]
			r.pos++
			r.scale = 1 << (sib >> 6)
			if i := int(sib>>3&7) | int(r.rex>>1&1)<<3; i != 4 {
				r.index = i
			}
			r.base = int(sib&7) | int(r.rex&1)<<3
			if sib&7 == 5 && r.mod == 0 {
				r.base, n = -1, 4
			}
		case r.rm == 5 && r.mod == 0:
			n = 4
			r.ripRel = r.mode == 64
		default:
			r.base = r.rm | int(r.rex&1)<<3
		}
	}
	if r.pos+n > len(code) {
		return false
	}
	var u uint64
	for i := range n {
		u |= uint64(code[r.pos+i]) << (8 * i)
	}
	r.pos += n
	if n > 0 {
		s := 64 - 8*n
		r.disp = int64(u<<s) >> s
	}
	return true
}

var (
	names64 = [16]string{"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"}
	names32 = [16]string{"eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi", "r8d", "r9d", "r10d", "r11d", "r12d", "r13d", "r14d", "r15d"}
	names16 = [16]string{"ax", "cx", "dx", "bx", "sp", "bp", "si", "di", "r8w", "r9w", "r10w", "r11w", "r12w", "r13w", "r14w", "r15w"}
)

func gpr(i, size int) string {
	switch size {
	case 8:
		return names64[i&15]
	case 2:
		return names16[i&15]
	}
	return names32[i&15]
}

// extra decodes the instructions of the table; false leaves everything to
// x86asm.
func (d *decoder) extra(code []byte) bool {
	r := &raw{mode: d.mode()}
	if !r.prefixes(code) {
		return false
	}
	switch c := code[r.pos:]; {
	case c[0] == 0xD6 && r.mode == 32:
		d.inst.Len, d.inst.Mnemonic = r.pos+1, "salc"
		return true
	case c[0] == 0xC5 && len(c) >= 3 && c[2] == 0x77, c[0] == 0xC4 && len(c) >= 4 && c[1]&0x1F == 1 && c[3] == 0x77:
		// The only VEX instructions without ModRM; x86asm counts one.
		n := 3
		if c[0] == 0xC4 {
			n = 4
		}
		if r.mode == 32 && c[1] < 0xC0 || c[n-2]&3 != 0 || r.rex != 0 || r.data16 || r.rep != 0 || r.lock {
			return false
		}
		d.inst.Mnemonic = "vzeroupper"
		if c[n-2]&4 != 0 {
			d.inst.Mnemonic = "vzeroall"
		}
		d.inst.Len = r.pos + n
		return true
	case c[0] != 0x0F:
		return false
	}
	if r.pos+1 >= len(code) {
		return false
	}
	k := uint16(code[r.pos+1])
	r.pos += 2
	if k == 0x38 {
		if r.pos >= len(code) {
			return false
		}
		k = 0x3800 | uint16(code[r.pos])
		r.pos++
	}
	list := extraOps[k]
	if list == nil {
		return false
	}
	pfx := r.rep
	if pfx == 0 && r.data16 {
		pfx = 0x66
	}
	opEnd := r.pos
	gotModRM := r.readModRM(code)
	for i := range list {
		e := &list[i]
		if e.pfx != 1 && e.pfx != pfx {
			continue
		}
		if e.modrm == -2 {
			r.pos = opEnd
			d.inst.Len, d.inst.Mnemonic, d.inst.Kind = r.pos, e.name, e.kind
			return true
		}
		if !gotModRM || e.modrm >= 0 && int(r.modrm) != e.modrm || e.ext >= 0 && r.reg&7 != e.ext {
			continue
		}
		if (e.form == formM || e.form == formGM || e.form == formMG) && !r.isMem || (e.form == formR || e.form == formReg) && r.isMem {
			continue
		}
		d.finishExtra(e, r)
		return true
	}
	return false
}

func (d *decoder) finishExtra(e *extraOp, r *raw) {
	d.inst.Len, d.inst.Mnemonic, d.inst.Kind = r.pos, e.name, e.kind
	wide := r.rex&8 != 0
	if wide && e.nameQ != "" {
		d.inst.Mnemonic = e.nameQ
	}
	size := 0
	switch e.size {
	case szByte:
		size = 1
	case szWord:
		size = 2
	case szDword:
		size = 4
	case szV:
		size = 4
		if wide {
			size = 8
		} else if r.data16 {
			size = 2
		}
	case szY:
		size = 4
		if wide {
			size = 8
		}
	case szPtr:
		size = d.arch.PointerSize
	case szQword:
		size = 8
	case szXmm:
		size = 16
	}
	rmText := func(memSize int) string {
		if !r.isMem {
			return gpr(r.rm, size)
		}
		return d.rawMem(r, memSize)
	}
	g := gpr(r.reg, size)
	switch e.form {
	case formE, formM, formR:
		d.inst.Operands = rmText(size)
	case formGE:
		d.inst.Operands = g + "," + rmText(size)
	case formEG, formMG:
		d.inst.Operands = rmText(size) + "," + g
	case formGM:
		m := 16
		if e.name == "movdir64b" || e.name == "enqcmd" || e.name == "enqcmds" {
			m = 64
		}
		d.inst.Operands = g + "," + rmText(m)
	}
}

// rawMem writes the memory operand of a table instruction.
func (d *decoder) rawMem(r *raw, size int) string {
	bits := r.mode
	if r.addr {
		bits /= 2
	}
	reg := func(i int) string {
		if i < 0 {
			return ""
		}
		return gpr(i, bits/8)
	}
	m := &Mem{Base: reg(r.base), Index: reg(r.index), Scale: r.scale, Disp: r.disp, Size: size, AddrBits: bits}
	if m.Index == "" {
		m.Scale = 0
	}
	if r.mode == 32 || r.segName == "fs" || r.segName == "gs" {
		m.Seg = r.segName
	}
	d.inst.MemRef = m
	text := sizeName(size, false) + seg(m.Seg) + "["
	switch {
	case r.ripRel:
		m.HasAbs, m.Abs = true, d.inst.Addr+uint64(d.inst.Len)+uint64(r.disp)
		if bits == 32 {
			m.Abs &= 0xFFFFFFFF
		}
		return text + d.address(m.Abs) + "]"
	case m.Base == "" && m.Index == "":
		m.HasAbs, m.Abs = true, uint64(r.disp)
		if r.mode == 32 {
			m.Abs &= 0xFFFFFFFF
			if m.Seg == "" {
				text = sizeName(size, false) + "ds:["
			}
			return text + fmt.Sprintf("%08Xh]", m.Abs)
		}
		return text + hexNum(m.Abs) + "]"
	}
	text += m.Base
	if m.Index != "" {
		if m.Base != "" {
			text += "+"
		}
		text += m.Index
		if m.Scale > 1 {
			text += fmt.Sprintf("*%d", m.Scale)
		}
	}
	if r.disp > 0 {
		text += "+" + hexNum(uint64(r.disp))
	} else if r.disp < 0 {
		text += "-" + hexNum(uint64(-r.disp))
	}
	return text + "]"
}
