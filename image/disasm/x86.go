package disasm

import (
	"fmt"
	"strings"

	x "golang.org/x/arch/x86/x86asm"

	"openkd/kdproto"
)

func (d *decoder) mode() int {
	if d.inst.Machine == kdproto.MachineI386 {
		return 32
	}
	return 64
}

// x86 decodes one instruction of x86 or x64 code.
func (d *decoder) x86(code []byte) bool {
	if len(code) > 15 {
		code = code[:15] // the processor faults on anything longer
	}
	if d.extra(code) {
		return true
	}
	if d.mode() == 32 {
		// 82 is another encoding of 80 that x86asm does not know.
		r := &raw{mode: 32}
		if r.prefixes(code) && code[r.pos] == 0x82 {
			code = append([]byte(nil), code...)
			code[r.pos] = 0x80
		}
	}
	in, err := x.Decode(code, d.mode())
	if err != nil || in.Op == 0 || in.Len < 1 || in.Len > len(code) {
		return false
	}
	d.inst.Len = in.Len
	f := &x86text{decoder: d, in: &in}
	f.format()
	return true
}

type x86text struct {
	*decoder
	in *x.Inst
}

// mnemonics that are not the lower-case name of x86asm.
var x86Names = map[x.Op]string{
	x.LRET: "retf", x.LCALL: "call", x.LJMP: "jmp", x.ICEBP: "int", x.FWAIT: "wait",
	x.MOVSD_XMM: "movsd", x.CMPSD_XMM: "cmpsd", x.XLATB: "xlat",
	x.MOVSB: "movs", x.MOVSW: "movs", x.MOVSD: "movs", x.MOVSQ: "movs",
	x.CMPSB: "cmps", x.CMPSW: "cmps", x.CMPSD: "cmps", x.CMPSQ: "cmps",
	x.STOSB: "stos", x.STOSW: "stos", x.STOSD: "stos", x.STOSQ: "stos",
	x.LODSB: "lods", x.LODSW: "lods", x.LODSD: "lods", x.LODSQ: "lods",
	x.SCASB: "scas", x.SCASW: "scas", x.SCASD: "scas", x.SCASQ: "scas",
	x.INSB: "ins", x.INSW: "ins", x.INSD: "ins",
	x.OUTSB: "outs", x.OUTSW: "outs", x.OUTSD: "outs",
}

// stringSize is the element size of the string instructions, 0 for others.
func stringSize(op x.Op) int {
	switch op {
	case x.MOVSB, x.CMPSB, x.STOSB, x.LODSB, x.SCASB, x.INSB, x.OUTSB:
		return 1
	case x.MOVSW, x.CMPSW, x.STOSW, x.LODSW, x.SCASW, x.INSW, x.OUTSW:
		return 2
	case x.MOVSD, x.CMPSD, x.STOSD, x.LODSD, x.SCASD, x.INSD, x.OUTSD:
		return 4
	case x.MOVSQ, x.CMPSQ, x.STOSQ, x.LODSQ, x.SCASQ:
		return 8
	}
	return 0
}

func (f *x86text) format() {
	in := f.in
	name, ok := x86Names[in.Op]
	if !ok {
		name = strings.ToLower(in.Op.String())
	}
	args := in.Args[:]
	for i, a := range args {
		if a == nil {
			args = args[:i]
			break
		}
	}
	str := stringSize(in.Op)
	rep := ""
	for _, p := range in.Prefix {
		if p == 0 {
			break
		}
		if p&x.PrefixImplicit != 0 && !(p&0xFF == 0xF0) {
			continue
		}
		switch p &^ (x.PrefixIgnored | x.PrefixImplicit) {
		case x.PrefixLOCK, x.PrefixXACQUIRE, x.PrefixXRELEASE:
			if p&0xFF == 0xF0 {
				name = "lock " + name
			}
		case x.PrefixREP:
			if p&x.PrefixIgnored == 0 || str != 0 || in.Op == x.RET {
				rep = "rep "
				if in.Op == x.CMPSB || in.Op == x.CMPSW || in.Op == x.CMPSD || in.Op == x.CMPSQ ||
					in.Op == x.SCASB || in.Op == x.SCASW || in.Op == x.SCASD || in.Op == x.SCASQ {
					rep = "repe "
				}
			}
		case x.PrefixREPN:
			if p&x.PrefixIgnored == 0 || str != 0 {
				rep = "repne "
			}
		case x.PrefixBND:
			rep = "bnd "
		}
	}
	if str == 0 && rep != "" && rep != "bnd " {
		// A repeat prefix on anything else is written only where compilers
		// put it on purpose.
		if in.Op != x.RET {
			rep = ""
		}
	}
	name = rep + name
	f.inst.Kind = f.kind(str != 0 && rep != "")

	ops := make([]string, 0, 4)
	switch in.Op {
	case x.INT:
		// CC is written like CD 03.
		ops = append(ops, f.imm8(args))
	case x.ICEBP:
		ops = append(ops, "1")
	case x.LCALL, x.LJMP:
		if len(args) == 2 { // selector and offset
			sel, _ := args[0].(x.Imm)
			off, _ := args[1].(x.Imm)
			ops = append(ops, fmt.Sprintf("%04X:%08X", uint16(sel), uint32(off)))
		} else {
			ops = f.plain(args)
		}
	case x.NOP:
		switch {
		case len(args) > 0:
			ops = f.plain(args)
		case in.Opcode>>24 == 0x90 && in.DataSize == 16:
			name, ops = "xchg", []string{"ax", "ax"}
		}
	case x.STOSB, x.STOSW, x.STOSD, x.STOSQ:
		ops = f.plain(args[:min(1, len(args))])
	case x.LODSB, x.LODSW, x.LODSD, x.LODSQ, x.SCASB, x.SCASW, x.SCASD, x.SCASQ:
		ops = f.plain(args[min(1, len(args)):])
	case x.XLATB:
		ops = f.plain(args[:min(1, len(args))])
	case x.MONITOR, x.MWAIT: // their operands are implied
	case x.BLENDVPD, x.BLENDVPS, x.PBLENDVB:
		ops = f.plain(args[:min(2, len(args))])
	default:
		ops = f.plain(args)
	}
	f.inst.Mnemonic, f.inst.Operands = name, strings.Join(ops, ",")
}

func (f *x86text) kind(repeated bool) Kind {
	switch f.in.Op {
	case x.CALL, x.LCALL:
		return Call
	case x.RET, x.LRET, x.IRET, x.IRETD, x.IRETQ, x.SYSRET, x.SYSEXIT, x.RSM:
		return Ret
	case x.JMP, x.LJMP:
		return Jump
	case x.JA, x.JAE, x.JB, x.JBE, x.JCXZ, x.JE, x.JECXZ, x.JG, x.JGE, x.JL, x.JLE, x.JNE, x.JNO, x.JNP, x.JNS,
		x.JO, x.JP, x.JRCXZ, x.JS, x.LOOP, x.LOOPE, x.LOOPNE, x.XBEGIN:
		return CondJump
	case x.INT, x.INTO, x.ICEBP, x.UD0, x.UD1, x.UD2:
		return Interrupt
	case x.SYSCALL, x.SYSENTER:
		return Syscall
	}
	if repeated {
		return Rep
	}
	return Other
}

func (f *x86text) imm8(args []x.Arg) string {
	if len(args) > 0 {
		if v, ok := args[0].(x.Imm); ok {
			return hexNum(uint64(uint8(v)))
		}
	}
	return "3"
}

// mask registers of EVEX instructions are written behind the destination, as
// assemblers do: zmm1{k1}{z}.
func (f *x86text) plain(args []x.Arg) []string {
	var ops []string
	evex := false
	for _, p := range f.in.Prefix {
		evex = evex || p&0xFF == x.PrefixEVEX && p.IsEVEX() && strings.HasPrefix(f.in.Op.String(), "V")
	}
	for i, a := range args {
		if r, ok := a.(x.Reg); ok && i == 1 && evex && x.K0 <= r && r <= x.K7 && len(ops) > 0 {
			if r != x.K0 {
				ops[0] += "{" + regName(r) + "}"
			}
			if f.in.Zeroing {
				ops[0] += "{z}"
			}
			continue
		}
		ops = append(ops, f.arg(i, a, args))
	}
	return ops
}

func (f *x86text) arg(i int, a x.Arg, args []x.Arg) string {
	switch v := a.(type) {
	case x.Reg:
		return f.reg(v, args)
	case x.Rel:
		return f.target(f.inst.Addr + uint64(f.in.Len) + uint64(int64(v)))
	case x.Imm:
		return f.immediate(i, v, args)
	case x.Mem:
		return f.mem(v, args)
	}
	return strings.ToLower(a.String())
}

// reg names a register; st(0) is "st". Instructions with a segment register
// and a general one are written with the 16-bit name.
func (f *x86text) reg(r x.Reg, args []x.Arg) string {
	switch f.in.Op {
	case x.LTR, x.LLDT, x.VERR, x.VERW, x.LMSW:
		if s := regSize(r); s > 2 {
			r = to16(r)
		}
	case x.MOV:
		if f.in.Op == x.MOV && len(args) == 2 {
			if s, ok := args[0].(x.Reg); ok && x.ES <= s && s <= x.GS {
				r = to16(r)
			}
		}
	}
	return regName(r)
}

func to16(r x.Reg) x.Reg {
	switch {
	case x.EAX <= r && r <= x.R15L:
		return r - x.EAX + x.AX
	case x.RAX <= r && r <= x.R15:
		return r - x.RAX + x.AX
	}
	return r
}

func regSize(r x.Reg) int {
	switch {
	case x.AL <= r && r <= x.R15B:
		return 1
	case x.AX <= r && r <= x.R15W:
		return 2
	case x.EAX <= r && r <= x.R15L:
		return 4
	case x.RAX <= r && r <= x.R15:
		return 8
	}
	return 0
}

func regName(r x.Reg) string {
	switch {
	case r == x.F0:
		return "st"
	case x.F0 < r && r <= x.F7:
		return fmt.Sprintf("st(%d)", r-x.F0)
	case x.M0 <= r && r <= x.M7:
		return fmt.Sprintf("mm%d", r-x.M0)
	case x.X0 <= r && r <= x.X31:
		return fmt.Sprintf("xmm%d", r-x.X0)
	case x.Y0 <= r && r <= x.Y31:
		return fmt.Sprintf("ymm%d", r-x.Y0)
	case x.Z0 <= r && r <= x.Z31:
		return fmt.Sprintf("zmm%d", r-x.Z0)
	case x.R8L <= r && r <= x.R15L:
		return fmt.Sprintf("r%dd", r-x.R8L+8)
	case x.SPB <= r && r <= x.DIB:
		return [...]string{"spl", "bpl", "sil", "dil"}[r-x.SPB]
	}
	return strings.ToLower(r.String())
}

// signExtended are the instructions whose immediate has the operand's size.
func signExtended(op x.Op) bool {
	switch op {
	case x.MOV, x.ADD, x.OR, x.ADC, x.SBB, x.AND, x.SUB, x.XOR, x.CMP, x.TEST, x.PUSH, x.IMUL:
		return true
	}
	return false
}

func (f *x86text) immediate(i int, v x.Imm, args []x.Arg) string {
	u := uint64(v)
	if !signExtended(f.in.Op) {
		switch f.in.Op {
		case x.RET, x.LRET:
			return hexNum(u & 0xFFFF)
		case x.ENTER:
			if i == 0 {
				return hexNum(u & 0xFFFF)
			}
			return hexNum(u & 0xFF)
		}
		if v < -128 || v > 255 {
			return hexNum(u & 0xFFFFFFFF)
		}
		return hexNum(u & 0xFF)
	}
	size := f.in.DataSize / 8
	if f.in.Op == x.PUSH {
		if f.mode() == 64 && size != 2 {
			size = 8
		}
	} else if len(args) > 0 {
		switch d := args[0].(type) {
		case x.Reg:
			size = regSize(d)
		case x.Mem:
			size = f.in.MemBytes
		}
	}
	switch size {
	case 1:
		u &= 0xFF
	case 2:
		u &= 0xFFFF
	case 4:
		u &= 0xFFFFFFFF
	}
	// A constant of address size may be an address.
	if size == f.arch.PointerSize && f.addressImm() {
		if s := f.sym(f.arch.Canon(u)); s != "" {
			return "offset " + s + " (" + formatAddr(f.inst.Machine, u) + ")"
		}
	}
	return hexNum(u)
}

// addressImm: mov and push with a full-size immediate field.
func (f *x86text) addressImm() bool {
	op := byte(f.in.Opcode >> 24)
	if f.mode() == 64 {
		return op&0xF8 == 0xB8
	}
	return op&0xF8 == 0xB8 || op == 0xC7 || op == 0x68
}

// isSSE reports whether an argument is an XMM or MMX register.
func isSSE(args []x.Arg) bool {
	for _, a := range args {
		if r, ok := a.(x.Reg); ok && (x.M0 <= r && r <= x.M7 || x.X0 <= r && r <= x.X31) {
			return true
		}
	}
	return false
}

// memSize is the size of the memory operand, 0 when none is written.
func (f *x86text) memSize(args []x.Arg) int {
	if s := stringSize(f.in.Op); s != 0 {
		return s
	}
	switch f.in.Op {
	case x.LEA, x.PREFETCHW, x.PREFETCHNTA, x.PREFETCHT0, x.PREFETCHT1, x.PREFETCHT2, x.CLFLUSH, x.INVLPG,
		x.FXSAVE, x.FXSAVE64, x.FXRSTOR, x.FXRSTOR64, x.FNSAVE, x.FRSTOR, x.FLDENV, x.FNSTENV,
		x.XSAVE, x.XSAVE64, x.XSAVEC, x.XSAVEC64, x.XSAVEOPT, x.XSAVEOPT64, x.XSAVES, x.XSAVES64,
		x.XRSTOR, x.XRSTOR64, x.XRSTORS, x.XRSTORS64:
		return 0
	case x.LAR:
		return 2
	case x.LDS, x.LES, x.LFS, x.LGS, x.LSS, x.LCALL, x.LJMP:
		if f.in.DataSize == 64 {
			return 10
		}
		if f.in.DataSize == 16 {
			return 4
		}
		return 6
	case x.SGDT, x.SIDT, x.LGDT, x.LIDT:
		if f.mode() == 64 {
			return 10
		}
		return 6
	case x.CMPXCHG16B:
		return 16
	case x.XLATB:
		return 1
	case x.FLD, x.FSTP, x.FBLD, x.FBSTP:
		if f.in.MemBytes == 0 {
			return 10
		}
	case x.NOP:
		return f.in.DataSize / 8
	case x.CALL, x.JMP, x.PUSH, x.POP:
		if f.in.MemBytes == 0 {
			return f.arch.PointerSize
		}
	case x.MOV, x.SLDT, x.STR, x.SMSW:
		// A selector in memory is a word, whatever the operand size.
		for _, a := range args {
			if r, ok := a.(x.Reg); ok && x.ES <= r && r <= x.GS {
				return 2
			}
		}
		if f.in.Op != x.MOV {
			return 2
		}
	}
	return f.in.MemBytes
}

func sizeName(size int, sse bool) string {
	switch size {
	case 1:
		return "byte ptr "
	case 2:
		return "word ptr "
	case 4:
		return "dword ptr "
	case 6:
		return "fword ptr "
	case 8:
		if sse {
			return "mmword ptr "
		}
		return "qword ptr "
	case 10:
		return "tbyte ptr "
	case 16:
		return "xmmword ptr "
	case 32:
		return "ymmword ptr "
	case 64:
		return "zmmword ptr "
	}
	return ""
}

func (f *x86text) mem(v x.Mem, args []x.Arg) string {
	size := f.memSize(args)
	sse := size == 8 && isSSE(args)
	switch f.in.Op {
	case x.CVTSI2SD, x.CVTSI2SS, x.PINSRQ, x.PEXTRQ:
		sse = false
	}
	name := sizeName(size, sse)
	switch f.in.Op {
	case x.SGDT, x.SIDT, x.LGDT, x.LIDT, x.LCALL, x.LJMP, x.LSS, x.LFS, x.LGS, x.LDS, x.LES:
		name = "fword ptr "
	case x.CMPXCHG16B:
		name = "xmmword ptr "
	}
	// x86asm does not extend a 32-bit displacement; only the mov with a whole
	// address in the instruction (A0..A3) has a longer one.
	if f.in.Opcode>>24&^3 != 0xA0 || f.in.Op != x.MOV {
		v.Disp = int64(int32(v.Disp))
	}
	m := &Mem{Disp: v.Disp, Size: size, AddrBits: f.in.AddrSize}
	if v.Base != 0 && v.Base != x.RIP && v.Base != x.EIP {
		m.Base = regName(v.Base)
	}
	if v.Index != 0 && v.Scale != 0 {
		m.Index, m.Scale = regName(v.Index), v.Scale
	}
	written := f.segment(v)
	m.Seg = written
	if f.in.Op == x.LEA || f.in.Op == x.NOP {
		m.Size = 0 // touches nothing
	}
	switch {
	case v.Base == x.RIP || v.Base == x.EIP:
		m.HasAbs, m.Abs = true, f.inst.Addr+uint64(f.in.Len)+uint64(v.Disp)
		if v.Base == x.EIP || f.in.AddrSize == 32 {
			m.Abs &= 0xFFFFFFFF
		}
		f.setMem(m)
		return name + seg(written) + "[" + f.address(m.Abs) + "]"
	case m.Base == "" && m.Index == "":
		m.HasAbs, m.Abs = true, uint64(v.Disp)
		if f.mode() == 32 || f.in.AddrSize == 32 {
			m.Abs &= 0xFFFFFFFF
		}
		f.setMem(m)
		if f.mode() == 32 {
			if written == "" || written == "ds" {
				if s := f.sym(f.arch.Canon(m.Abs)); s != "" {
					return name + "[" + s + " (" + formatAddr(f.inst.Machine, m.Abs) + ")]"
				}
				return name + fmt.Sprintf("ds:[%08Xh]", m.Abs)
			}
			return name + written + fmt.Sprintf(":[%08Xh]", m.Abs)
		}
		if written == "" {
			if s := f.sym(m.Abs); s != "" {
				return name + "[" + s + " (" + formatAddr(f.inst.Machine, m.Abs) + ")]"
			}
		}
		return name + seg(written) + "[" + hexNum(m.Abs) + "]"
	}
	f.setMem(m)
	var b strings.Builder
	b.WriteString(name + seg(written))
	disp := v.Disp
	b.WriteString("[" + m.Base)
	if m.Index != "" {
		if m.Base != "" {
			b.WriteByte('+')
		}
		b.WriteString(m.Index)
		if m.Scale != 1 {
			fmt.Fprintf(&b, "*%d", m.Scale)
		}
	}
	switch {
	case disp < 0 && (m.Base == "" || disp < -0x100000):
		// Far below zero it is an address with an index, not an offset.
		if f.mode() == 32 {
			b.WriteString("+" + hexNum(uint64(uint32(disp))))
		} else {
			b.WriteString("-" + hexNum(uint64(-disp)))
		}
	case disp < 0:
		b.WriteString("-" + hexNum(uint64(-disp)))
	case disp > 0:
		b.WriteString("+" + hexNum(uint64(disp)))
	}
	b.WriteByte(']')
	return b.String()
}

// setMem keeps the first memory operand: of a string move, the destination.
func (f *x86text) setMem(m *Mem) {
	if f.inst.MemRef == nil {
		f.inst.MemRef = m
	}
}

func seg(s string) string {
	if s == "" {
		return ""
	}
	return s + ":"
}

// segment is the segment that is written: an override, and on x86 the es of
// string instructions.
func (f *x86text) segment(v x.Mem) string {
	if f.in.Op == x.LEA {
		return ""
	}
	s := ""
	if v.Segment != 0 {
		s = regName(v.Segment)
	}
	if f.mode() == 64 {
		if s == "fs" || s == "gs" || s != "" && f.in.Op == x.NOP {
			return s
		}
		return ""
	}
	switch v.Base {
	case x.ESP, x.EBP, x.SP, x.BP:
		if s == "ss" {
			return ""
		}
	default:
		if s == "ds" {
			return ""
		}
	}
	return s
}
