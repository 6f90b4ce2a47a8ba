// Package disasm turns machine code of x86, x64 and ARM64 into instructions
// and into text laid out the way WinDbg prints it.
//
// It reads no memory and knows no symbols: the caller brings the bytes and a
// function from address to name. It decides nothing about execution either,
// but it fills in what stepping needs: the kind of an instruction, where it
// goes, and which memory it touches.
//
// Decoding is done by golang.org/x/arch, with a table of our own for what that
// does not know (extra.go). The text follows published WinDbg transcripts.
package disasm

import (
	"fmt"
	"strings"

	"openkd/arch"
	"openkd/kdproto"
)

// Kind says what an instruction does to the flow of control.
type Kind uint8

// Kinds of instructions.
const (
	Other Kind = iota
	Call
	Ret
	Jump
	CondJump
	Rep       // a repeated string instruction: one step is one turn
	Interrupt // int 3, int n, into, brk, svc, hlt-like traps
	Syscall   // syscall, sysenter, svc, hvc, smc
)

var kindNames = [...]string{"other", "call", "ret", "jump", "condjump", "rep", "interrupt", "syscall"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("Kind(%d)", uint8(k))
}

// Mem is the memory operand of an instruction. Register names are those of
// package arch, empty when there is none.
type Mem struct {
	Base, Index string
	Scale       uint8 // 1, 2, 4, 8
	Disp        int64
	Seg         string // override that changes the address (fs, gs), or any written one
	Size        int    // bytes accessed; 0 when the instruction does not say (lea, nop)
	HasAbs      bool   // Abs is the address: RIP-relative or without registers
	Abs         uint64
	AddrBits    int // 16, 32 or 64: the sum wraps at this width
}

// Address is the effective address, with registers read through reg. For the
// segments fs and gs it asks for "fsbase" and "gsbase". It reports false when
// a register is not known.
func (m *Mem) Address(reg func(name string) (uint64, bool)) (uint64, bool) {
	a := uint64(m.Disp)
	if m.HasAbs {
		a = m.Abs
	} else {
		for _, r := range []struct {
			name  string
			scale uint64
		}{{m.Base, 1}, {m.Index, uint64(m.Scale)}} {
			if r.name == "" {
				continue
			}
			v, ok := reg(r.name)
			if !ok {
				return 0, false
			}
			a += v * r.scale
		}
	}
	switch m.AddrBits {
	case 16:
		a &= 0xFFFF
	case 32:
		a &= 0xFFFFFFFF
	}
	if m.Seg == "fs" || m.Seg == "gs" {
		v, ok := reg(m.Seg + "base")
		if !ok {
			return 0, false
		}
		a += v
	}
	return a, true
}

// Inst is one decoded instruction.
type Inst struct {
	Addr      uint64
	Bytes     []byte // a part of the code given to Decode
	Mnemonic  string // with prefixes: "rep stos"; "???" for bytes that are no instruction
	Operands  string
	Len       int
	Kind      Kind
	Target    uint64 // where a direct call or jump goes, in wire form (arch.Canon)
	HasTarget bool
	MemRef    *Mem // nil without a memory operand
	Machine   kdproto.Machine
}

// Valid reports whether the bytes were an instruction.
func (i *Inst) Valid() bool { return i.Mnemonic != "???" }

// Text is the mnemonic and the operands, padded as in Line.
func (i *Inst) Text() string {
	if i.Operands == "" {
		return i.Mnemonic
	}
	w := 8
	if i.Machine == kdproto.MachineARM64 {
		w = 12
	}
	return pad(i.Mnemonic, w) + i.Operands
}

// Line is the instruction as WinDbg's u prints it, without a newline:
//
//	fffff803`19e4ca60 cc              int     3
//
// The bytes have a field of 16 characters and the mnemonic one of 8; longer
// bytes take from the mnemonic's field so that operands stay in line. ARM64
// shows the instruction word as a number and pads the mnemonic to 12.
func (i *Inst) Line() string {
	addr := formatAddr(i.Machine, i.Addr)
	if i.Machine == kdproto.MachineARM64 {
		return addr + " " + armWord(i.Bytes) + " " + i.Text()
	}
	hex := fmt.Sprintf("%x", i.Bytes)
	if len(hex) < 16 {
		return addr + " " + pad(hex, 16) + i.Text()
	}
	if i.Operands == "" {
		return addr + " " + hex + " " + i.Mnemonic
	}
	return addr + " " + pad(hex+" "+i.Mnemonic, 25) + i.Operands
}

// pad makes s at least w wide and ends it in at least one space.
func pad(s string, w int) string {
	if len(s) >= w {
		return s + " "
	}
	return s + strings.Repeat(" ", w-len(s))
}

// formatAddr writes 8 digits for 32-bit machines and two halves for others.
func formatAddr(m kdproto.Machine, a uint64) string {
	if m == kdproto.MachineI386 {
		return fmt.Sprintf("%08x", uint32(a))
	}
	return fmt.Sprintf("%08x`%08x", a>>32, uint32(a))
}

// Decode decodes the first instruction of code, which lies at addr. sym may be
// nil; otherwise it names an address ("nt!KeFoo+0x10") or returns "". Bytes
// that are no instruction, or only the beginning of one, give the mnemonic
// "???" with length 1 (ARM64: up to 4), as WinDbg shows them. The error is for
// a machine that is not known and for empty code only.
func Decode(m kdproto.Machine, code []byte, addr uint64, sym func(uint64) string) (Inst, error) {
	a, ok := arch.For(m)
	if !ok {
		return Inst{}, fmt.Errorf("no disassembler for machine %v: x86, x64 and ARM64 are known", m)
	}
	if len(code) == 0 {
		return Inst{}, fmt.Errorf("no bytes to disassemble at %s", formatAddr(m, addr))
	}
	if sym == nil {
		sym = func(uint64) string { return "" }
	}
	d := &decoder{arch: a, sym: sym}
	d.inst = Inst{Addr: addr, Machine: m}
	ok = false
	if m == kdproto.MachineARM64 {
		ok = d.arm64(code)
	} else {
		ok = d.x86(code)
	}
	if !ok {
		n := 1
		if m == kdproto.MachineARM64 {
			n = min(4, len(code))
		}
		return Inst{Addr: addr, Machine: m, Mnemonic: "???", Len: n, Bytes: code[:n]}, nil
	}
	d.inst.Bytes = code[:d.inst.Len]
	return d.inst, nil
}

type decoder struct {
	arch *arch.Arch
	sym  func(uint64) string
	inst Inst
}

// address is a code address as an operand: "nt!Foo (fffff803`12345678)".
func (d *decoder) address(a uint64) string {
	t := formatAddr(d.inst.Machine, a)
	if s := d.sym(a); s != "" {
		return s + " (" + t + ")"
	}
	return t
}

// target notes a direct target and returns its text.
func (d *decoder) target(a uint64) string {
	a = d.arch.Canon(a)
	d.inst.Target, d.inst.HasTarget = a, true
	return d.address(a)
}

// hexNum writes a number the assembler's way: 8, 20h, 0FFh.
func hexNum(v uint64) string {
	if v < 10 {
		return string(rune('0' + v))
	}
	s := fmt.Sprintf("%Xh", v)
	if s[0] > '9' {
		s = "0" + s
	}
	return s
}

// UnassembleBack finds the n instructions that end exactly at the end of code,
// whose first byte lies at base, for ub. Code that runs backwards has no one
// reading: every start in code is tried, the reading must consist of valid
// instructions and end exactly, and among the readings that do, the chain that
// most starts agree on is taken, since wrong starts fall into step with the
// right one after a few instructions. The further code reaches back, the surer
// the result; 16 bytes for each instruction wanted, and a few more, is enough.
// Fewer than n come back when code does not hold more; none means that no
// reading ends there.
func UnassembleBack(m kdproto.Machine, code []byte, base uint64, n int, sym func(uint64) string) ([]Inst, error) {
	if n <= 0 {
		return nil, nil
	}
	// What lies further back than any chain of n instructions, with room to
	// fall into step, changes nothing.
	if limit := 16*n + 64; len(code) > limit && n < 1<<20 {
		base += uint64(len(code) - limit)
		code = code[len(code)-limit:]
	}
	if m == kdproto.MachineARM64 {
		if skip := len(code) % 4; skip != 0 {
			code, base = code[skip:], base+uint64(skip)
		}
	}
	if len(code) == 0 {
		return nil, nil
	}
	if _, err := Decode(m, code, base, nil); err != nil {
		return nil, err
	}
	// length[i] is the length of the valid instruction at i, 0 when there is
	// none; ends[i]: a chain from i reaches the end exactly.
	length := make([]int, len(code))
	ends := make([]bool, len(code)+1)
	ends[len(code)] = true
	for i := len(code) - 1; i >= 0; i-- {
		in, err := Decode(m, code[i:], base+uint64(i), nil)
		if err != nil || !in.Valid() || in.Mnemonic == "" {
			continue
		}
		length[i] = in.Len
		ends[i] = ends[i+in.Len]
	}
	// votes[i] counts the starts whose chain passes through i.
	votes := make([]int, len(code)+1)
	for i := range code {
		if ends[i] {
			votes[i]++
			votes[i+length[i]] += votes[i]
		}
	}
	// Walk back from the end, each time to the predecessor with most votes.
	var starts []int
	for at := len(code); at > 0 && len(starts) < n; {
		best := -1
		for p := max(0, at-15); p < at; p++ {
			if ends[p] && p+length[p] == at && (best < 0 || votes[p] > votes[best]) {
				best = p
			}
		}
		if best < 0 {
			break
		}
		starts = append(starts, best)
		at = best
	}
	out := make([]Inst, 0, len(starts))
	for k := len(starts) - 1; k >= 0; k-- {
		i := starts[k]
		in, err := Decode(m, code[i:], base+uint64(i), sym)
		if err != nil {
			return nil, err
		}
		out = append(out, in)
	}
	return out, nil
}
