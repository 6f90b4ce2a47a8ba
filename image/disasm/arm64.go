package disasm

import (
	"encoding/binary"
	"fmt"
	"strings"

	a64 "golang.org/x/arch/arm64/arm64asm"
)

// armWord is the instruction as WinDbg shows it, one number; bytes that are no
// whole instruction are shown as bytes.
func armWord(b []byte) string {
	if len(b) == 4 {
		return fmt.Sprintf("%08x", binary.LittleEndian.Uint32(b))
	}
	return pad(fmt.Sprintf("%x", b), 8)[:8]
}

// arm64 decodes one ARM64 instruction.
func (d *decoder) arm64(code []byte) bool {
	if len(code) < 4 {
		return false
	}
	code = code[:4]
	d.inst.Len = 4
	w := binary.LittleEndian.Uint32(code)
	if d.arm64Extra(w) {
		return true
	}
	in, err := a64.Decode(code)
	if err != nil {
		return false
	}
	text := a64.GNUSyntax(in)
	name, rest, _ := strings.Cut(text, " ")
	rest = strings.TrimSpace(rest)
	if c, ok := strings.CutPrefix(name, "b."); ok {
		name = "b" + armWordText(c) // b.eq is written beq
	}
	d.inst.Mnemonic = name
	d.inst.Kind = armKind(w)
	ops := splitOperands(rest)
	for i, o := range ops {
		ops[i] = armOperand(o)
	}
	for _, arg := range in.Args {
		rel, ok := arg.(a64.PCRel)
		if !ok {
			continue
		}
		// The relative operand is the last one.
		var at uint64
		if in.Op == a64.ADRP {
			at = d.inst.Addr&^0xFFF + uint64(rel)
		} else {
			at = d.inst.Addr + uint64(rel)
		}
		if len(ops) == 0 {
			break
		}
		last := len(ops) - 1
		switch d.inst.Kind {
		case Call, Jump, CondJump:
			ops[last] = d.target(at)
		case Other:
			ops[last] = d.address(at)
			if in.Op != a64.ADRP && in.Op != a64.ADR { // load literal
				d.inst.MemRef = &Mem{HasAbs: true, Abs: at, AddrBits: 64}
			}
		}
	}
	if d.inst.MemRef == nil {
		d.armMem(in)
	}
	d.inst.Operands = strings.Join(ops, ",")
	return true
}

// arm64Extra holds the system instructions Windows code contains that
// arm64asm does not name: pointer authentication, branch targets.
func (d *decoder) arm64Extra(w uint32) bool {
	hint := map[uint32]string{
		0xD503233F: "paciasp", 0xD50323BF: "autiasp", 0xD503237F: "pacibsp", 0xD50323FF: "autibsp",
		0xD503231F: "paciaz", 0xD503239F: "autiaz", 0xD503235F: "pacibz", 0xD50323DF: "autibz",
		0xD503241F: "bti", 0xD503245F: "bti c", 0xD503249F: "bti j", 0xD50324DF: "bti jc",
		0xD50320FF: "xpaclri", 0xD503221F: "esb", 0xD503229F: "csdb",
		0xD65F0BFF: "retaa", 0xD65F0FFF: "retab", 0xD69F0BFF: "eretaa", 0xD69F0FFF: "eretab",
		0xD50330FF: "sb",
	}[w]
	if hint == "" {
		return false
	}
	d.inst.Mnemonic, d.inst.Operands, _ = strings.Cut(hint, " ")
	if strings.HasPrefix(hint, "ret") || strings.HasPrefix(hint, "eret") {
		d.inst.Kind = Ret
	}
	return true
}

// armKind reads the kind off the encoding.
func armKind(w uint32) Kind {
	switch {
	case w>>26 == 0b000101:
		return Jump
	case w>>26 == 0b100101:
		return Call
	case w&0xFF000010 == 0x54000000, w&0x7E000000 == 0x34000000, w&0x7E000000 == 0x36000000:
		return CondJump // b.cond, cbz, tbz
	case w&0xFFFFFC1F == 0xD61F0000:
		return Jump
	case w&0xFFFFFC1F == 0xD63F0000:
		return Call
	case w&0xFFFFFC1F == 0xD65F0000, w == 0xD69F03E0:
		return Ret
	case w&0xFFE0001F == 0xD4200000, w&0xFFE0001F == 0xD4400000:
		return Interrupt // brk, hlt
	case w&0xFFE0001F == 0xD4000001, w&0xFFE0001F == 0xD4000002, w&0xFFE0001F == 0xD4000003:
		return Syscall // svc, hvc, smc
	}
	return Other
}

// splitOperands cuts at the commas outside brackets and braces.
func splitOperands(s string) []string {
	if s == "" {
		return nil
	}
	var out []string
	depth, from := 0, 0
	for i := range len(s) {
		switch s[i] {
		case '[', '{':
			depth++
		case ']', '}':
			depth--
		case ',':
			if depth == 0 {
				out = append(out, strings.TrimSpace(s[from:i]))
				from = i + 1
			}
		}
	}
	return append(out, strings.TrimSpace(s[from:]))
}

// armOperand rewrites one operand: fp and lr for x29 and x30, hexadecimal in
// capitals, single digits plain, no space behind commas.
func armOperand(o string) string {
	var b strings.Builder
	for i := 0; i < len(o); {
		c := o[i]
		word := c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '_'
		if !word {
			if c == ' ' && i > 0 && o[i-1] == ',' {
				i++
				continue
			}
			b.WriteByte(c)
			i++
			continue
		}
		j := i
		for j < len(o) && (o[j] >= 'a' && o[j] <= 'z' || o[j] >= '0' && o[j] <= '9' || o[j] == '_') {
			j++
		}
		b.WriteString(armWordText(o[i:j]))
		i = j
	}
	return b.String()
}

func armWordText(t string) string {
	switch t {
	case "x29":
		return "fp"
	case "x30":
		return "lr"
	case "cs":
		return "hs"
	case "cc":
		return "lo"
	}
	var v uint64
	if strings.HasPrefix(t, "0x") {
		if _, err := fmt.Sscanf(t, "0x%x", &v); err != nil {
			return t
		}
	} else {
		for _, c := range t {
			if c < '0' || c > '9' {
				return t
			}
		}
		if _, err := fmt.Sscanf(t, "%d", &v); err != nil {
			return t
		}
	}
	if v < 10 {
		return fmt.Sprint(v)
	}
	return fmt.Sprintf("0x%X", v)
}

// armMem fills the memory operand where it can be read off the arguments.
func (d *decoder) armMem(in a64.Inst) {
	for _, arg := range in.Args {
		switch m := arg.(type) {
		case a64.MemImmediate:
			// Its offset has no exported field; the text has it.
			mem := &Mem{Base: armOperand(strings.ToLower(m.Base.String())), AddrBits: 64}
			if m.Mode != a64.AddrPostIndex && m.Mode != a64.AddrPostReg {
				t := strings.ToLower(m.String())
				if _, off, ok := strings.Cut(t, "#"); ok {
					neg := strings.HasPrefix(off, "-")
					off = strings.TrimLeft(off, "-")
					var v int64
					if strings.HasPrefix(off, "0x") {
						_, _ = fmt.Sscanf(off, "0x%x", &v)
					} else {
						_, _ = fmt.Sscanf(off, "%d", &v)
					}
					if neg {
						v = -v
					}
					mem.Disp = v
				}
			}
			d.inst.MemRef = mem
			return
		case a64.MemExtend:
			mem := &Mem{Base: armOperand(strings.ToLower(m.Base.String())), Index: armOperand(strings.ToLower(m.Index.String())),
				Scale: 1 << min(m.Amount, 7), AddrBits: 64}
			d.inst.MemRef = mem
			return
		}
	}
}
