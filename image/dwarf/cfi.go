package dwarf

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"openkd/image/sym"
)

// CFI is a row of call frame information: how the registers of the caller are
// found while the program counter is in a range. Registers that are not in Regs
// have the value they have, the stack pointer that of the CFA.
type CFI struct {
	RVA, Size uint32 // the row holds here
	// CFA is the canonical frame address, the caller's stack pointer: a Value,
	// which counts from Reg, or a ValueExpression.
	CFA    Rule
	Regs   []RegRule // in the order of DWARF's numbers
	Return string    // the register that is the return address: "eip", "rip", "lr"
	Signal bool      // a frame that an interrupt made: the return address is not behind a call

	f *File
}

// RegRule is the rule for one register.
type RegRule struct {
	Reg string // as package arch names it
	Rule
}

// Rule says how a value is found.
type Rule struct {
	Kind   RuleKind
	Reg    string // what Offset counts from; "" in Regs: the CFA
	Offset int64

	expr []byte // of expressions, which find the CFA on the stack
}

// RuleKind is the kind of a rule.
type RuleKind uint8

// Kinds of rules.
const (
	Undefined       RuleKind = iota + 1 // not known any more; of Return: there is no caller
	Saved                               // in memory at Reg + Offset
	Value                               // Reg + Offset itself
	SavedExpression                     // in memory at what an expression gives
	ValueExpression                     // what an expression gives
)

// Call frame instructions (DWARF 5, 7.24; GNU extensions as in the Linux
// Standard Base).
const (
	cfaAdvanceLoc       = 1 // in the two high bits
	cfaOffset           = 2
	cfaRestore          = 3
	cfaNop              = 0x00
	cfaSetLoc           = 0x01
	cfaAdvanceLoc1      = 0x02
	cfaAdvanceLoc2      = 0x03
	cfaAdvanceLoc4      = 0x04
	cfaOffsetExt        = 0x05
	cfaRestoreExt       = 0x06
	cfaUndefined        = 0x07
	cfaSameValue        = 0x08
	cfaRegister         = 0x09
	cfaRemember         = 0x0A
	cfaRestoreState     = 0x0B
	cfaDef              = 0x0C
	cfaDefRegister      = 0x0D
	cfaDefOffset        = 0x0E
	cfaDefExpression    = 0x0F
	cfaExpression       = 0x10
	cfaOffsetExtSF      = 0x11
	cfaDefSF            = 0x12
	cfaDefOffsetSF      = 0x13
	cfaValOffset        = 0x14
	cfaValOffsetSF      = 0x15
	cfaValExpression    = 0x16
	cfaGNUArgsSize      = 0x2E
	cfaGNUNegOffsetExt  = 0x2F
	maxRemembered       = 64
	maxFrameInstruction = 1 << 16
)

// fde is the call frame information of a piece of code.
type fde struct {
	span
	reach   uint32 // the highest hi up to this one
	cie     *cie
	program []byte
}

// cie is what the entries of a group have in common.
type cie struct {
	addr       uint8 // bytes of addresses
	code       uint64
	data       int64
	ret        uint64
	enc        uint8 // of addresses in .eh_frame
	augmented  bool
	signal     bool
	program    []byte
	unreadable bool // an augmentation that is not known
}

// frames are the pieces of code that have call frame information, by address.
func (f *File) frames() ([]fde, error) {
	return f.fdes.get(func() ([]fde, error) {
		var list []fde
		var first error
		for _, s := range []*section{&f.frame, &f.ehFrame} {
			if s.size == 0 {
				continue
			}
			b, err := s.read(0, uint64(s.size))
			r := frameReader{f: f, b: b, name: s.name, eh: s == &f.ehFrame, cies: map[uint64]*cie{}}
			for off := range entries(b) {
				if err != nil {
					break
				}
				var x fde
				var ok bool
				if x, ok, err = r.fde(off); ok {
					list = append(list, x)
				}
			}
			if err != nil && first == nil {
				first = err
			}
		}
		slices.SortStableFunc(list, func(a, b fde) int {
			return cmp.Or(cmp.Compare(a.lo, b.lo), cmp.Compare(b.hi, a.hi))
		})
		reach := uint32(0)
		for i := range list {
			reach = max(reach, list[i].hi)
			list[i].reach = reach
		}
		return list, first
	})
}

// frameReader reads a section of call frame information.
type frameReader struct {
	f    *File
	b    []byte
	name string
	eh   bool // it is .eh_frame
	cies map[uint64]*cie
}

// entries runs through the offsets of what is in a section of frames.
func entries(b []byte) iter.Seq[int] {
	return func(yield func(int) bool) {
		for p := 0; p < len(b); {
			c := cursor{b: b, p: p}
			n, _ := c.length()
			if c.bad {
				return
			}
			// Length 0 ends what one object file has brought.
			if n != 0 && !yield(p) || n > uint64(len(b)-c.p) {
				return
			}
			p = c.p + int(n)
		}
	}
}

// entryAt is the body of an entry: a cursor behind its length, which goes on to
// the end of the entry only.
func entryAt(b []byte, off int) (c cursor, size int, ok bool) {
	if off < 0 || off >= len(b) {
		return cursor{}, 0, false
	}
	c = cursor{b: b, p: off}
	n, size := c.length()
	if c.bad || n > uint64(len(b)-c.p) {
		return cursor{}, 0, false
	}
	c.b = b[:c.p+int(n)]
	return c, size, true
}

// fde reads the entry at off; false: it is a CIE, or of code that is not in the
// image, or not to be read.
func (r *frameReader) fde(off int) (fde, bool, error) {
	c, size, ok := entryAt(r.b, off)
	if !ok {
		return fde{}, false, malformed(r.name, "the entry at %#x is longer than the section", off)
	}
	at := uint64(c.p)
	id := c.uint(size)
	if r.common(id, size) {
		return fde{}, false, nil
	}
	if r.eh {
		id = at - id
	}
	g, ok := r.cies[id]
	if !ok {
		var err error
		if g, err = r.cie(id); err != nil {
			return fde{}, false, err
		}
		r.cies[id] = g
	}
	if g.unreadable {
		return fde{}, false, nil
	}
	var lo, n uint64
	if !r.eh {
		lo, n = c.uint(int(g.addr)), c.uint(int(g.addr))
	} else {
		here := r.f.im.ImageBase + uint64(r.f.ehFrameRVA)
		var ok1, ok2 bool
		lo, ok1 = pointer(&c, g.enc, g.addr, here)
		n, ok2 = pointer(&c, g.enc&0xF, g.addr, here)
		c.bad = c.bad || !ok1 || !ok2
		if g.augmented {
			c.bytes(c.uleb())
		}
	}
	if c.bad {
		return fde{}, false, malformed(r.name, "range of the entry at %#x", off)
	}
	sp, ok := r.f.span(lo, lo+n)
	return fde{span: sp, cie: g, program: c.b[c.p:]}, ok, nil
}

// common says whether an identifier is that of a CIE.
func (r *frameReader) common(id uint64, size int) bool {
	if r.eh {
		return id == 0
	}
	return id == 1<<(8*size)-1
}

const maxAugmentation = 8

func (r *frameReader) cie(off uint64) (*cie, error) {
	bad := func(why string) error { return malformed(r.name, "the CIE at %#x %s", off, why) }
	c, size, ok := entryAt(r.b, int(min(off, uint64(len(r.b)))))
	if !ok {
		return nil, bad("is not in the section")
	}
	g := &cie{addr: 4}
	if r.f.im.PE32Plus {
		g.addr = 8
	}
	if !r.common(c.uint(size), size) {
		return nil, bad("is none")
	}
	version := c.u8()
	var aug []byte
	for a := c.u8(); a != 0; a = c.u8() {
		if aug = append(aug, a); len(aug) > maxAugmentation {
			return nil, bad("has a long augmentation")
		}
	}
	if version == 4 {
		g.addr = c.u8()
		c.u8() // size of segment selectors
	}
	g.code, g.data = c.uleb(), c.sleb()
	if version == 1 {
		g.ret = uint64(c.u8())
	} else {
		g.ret = c.uleb()
	}
	if g.addr != 4 && g.addr != 8 || version < 1 || version == 2 || version > 4 {
		g.unreadable = true
	}
	var rest cursor // what the letters bring, without z nothing
	if g.augmented = len(aug) > 0 && aug[0] == 'z'; g.augmented {
		rest.b = c.bytes(c.uleb())
		aug = aug[1:]
	}
	for _, a := range aug {
		switch a {
		case 'R':
			g.enc = rest.u8()
		case 'P':
			enc := rest.u8()
			if _, ok := pointer(&rest, enc, g.addr, 0); !ok {
				g.unreadable = true
			}
		case 'L':
			rest.u8()
		case 'S':
			g.signal = true
		case 'B':
		default:
			g.unreadable = true
		}
	}
	g.unreadable = g.unreadable || rest.bad
	if c.bad {
		return nil, bad("is too short")
	}
	g.program = c.b[c.p:]
	return g, nil
}

// Encodings of pointers in .eh_frame (Linux Standard Base, DWARF Extensions).
const (
	encAbsolute = 0x00
	encULEB     = 0x01
	encU2       = 0x02
	encU4       = 0x03
	encU8       = 0x04
	encSLEB     = 0x09
	encS2       = 0x0A
	encS4       = 0x0B
	encS8       = 0x0C
	encRelative = 0x10 // to the place of the pointer itself
	encOmitted  = 0xFF
)

// pointer reads a pointer; here is the linked address of the cursor's start.
func pointer(c *cursor, enc, addr uint8, here uint64) (uint64, bool) {
	if enc == encOmitted {
		return 0, true
	}
	at := here + uint64(c.p)
	var v uint64
	switch enc & 0xF {
	case encAbsolute:
		v = c.uint(int(addr))
	case encULEB:
		v = c.uleb()
	case encU2:
		v = c.uint(2)
	case encU4:
		v = c.uint(4)
	case encU8:
		v = c.u64()
	case encSLEB:
		v = uint64(c.sleb())
	case encS2:
		v = uint64(c.sint(2))
	case encS4:
		v = uint64(c.sint(4))
	case encS8:
		v = c.u64()
	default:
		return 0, false
	}
	switch enc & 0xF0 {
	case encAbsolute:
	case encRelative:
		v += at
	default:
		return 0, false
	}
	if addr == 4 {
		v = uint64(uint32(v))
	}
	return v, !c.bad
}

// rules is the state of a frame program.
type rules struct {
	cfa  Rule
	regs map[uint64]Rule
}

func (r *rules) clone() rules {
	regs := make(map[uint64]Rule, len(r.regs))
	for k, v := range r.regs {
		regs[k] = v
	}
	return rules{r.cfa, regs}
}

// CFI returns how the frame of the code at an address is unwound. It is what
// .debug_frame and .eh_frame say; false: nothing. In images for x64 and ARM64
// the function table of the image (.pdata) is the better source.
func (f *File) CFI(rva uint32) (CFI, bool, error) {
	list, err := f.frames()
	for i := range reaching(len(list), rva, func(i int) (span, uint32) { return list[i].span, list[i].reach }) {
		row, err := f.cfiRow(list[i], rva)
		return row, err == nil, err
	}
	return CFI{}, false, err
}

func (f *File) cfiRow(x fde, rva uint32) (CFI, error) {
	m := frameMachine{f: f, g: x.cie, at: x.lo, want: rva, end: x.hi, now: rules{regs: map[uint64]Rule{}}}
	if err := m.run(x.cie.program); err != nil {
		return CFI{}, err
	}
	m.initial = m.now.clone()
	if err := m.run(x.program); err != nil {
		return CFI{}, err
	}
	row := CFI{RVA: m.at, Size: m.end - m.at, CFA: m.now.cfa, Return: f.register(x.cie.ret), Signal: x.cie.signal, f: f}
	var numbers []uint64
	for n := range m.now.regs {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		if name := f.register(n); name != "" {
			row.Regs = append(row.Regs, RegRule{name, m.now.regs[n]})
		}
	}
	return row, nil
}

// frameMachine runs call frame instructions up to an address.
type frameMachine struct {
	f            *File
	g            *cie
	at, want     uint32
	end          uint32 // where the row ends
	now, initial rules
	remembered   []rules
	steps        int
	over         bool // the row is complete
}

func (m *frameMachine) advance(n uint64) {
	next := uint64(m.at) + n*m.g.code
	if next > uint64(m.want) {
		m.end = uint32(min(next, uint64(m.end)))
		m.over = true
		return
	}
	m.at = uint32(next)
}

func (m *frameMachine) run(program []byte) error {
	g := m.g
	c := cursor{b: program}
	saved := func(reg uint64, off int64) { m.set(reg, Rule{Kind: Saved, Offset: off}) }
	for c.p < len(c.b) && !m.over {
		if m.steps++; m.steps > maxFrameInstruction {
			return malformed("call frame information", "more than %d instructions for %#x", maxFrameInstruction, m.want)
		}
		op := c.u8()
		low := uint64(op & 0x3F)
		switch op >> 6 {
		case cfaAdvanceLoc:
			m.advance(low)
			continue
		case cfaOffset:
			saved(low, int64(c.uleb())*g.data)
			continue
		case cfaRestore:
			m.restore(low)
			continue
		}
		switch op {
		case cfaNop:
		case cfaSetLoc:
			enc := g.enc &^ encRelative
			if to, ok := pointer(&c, enc, g.addr, 0); ok && g.enc&encRelative == 0 {
				if rva, ok := m.f.rva(to); ok && rva >= m.at {
					m.advance(uint64(rva-m.at) / max(g.code, 1))
					continue
				}
			}
			return malformed("call frame information", "DW_CFA_set_loc for %#x", m.want)
		case cfaAdvanceLoc1:
			m.advance(c.uint(1))
		case cfaAdvanceLoc2:
			m.advance(c.uint(2))
		case cfaAdvanceLoc4:
			m.advance(c.uint(4))
		case cfaOffsetExt:
			reg := c.uleb()
			saved(reg, int64(c.uleb())*g.data)
		case cfaOffsetExtSF:
			reg := c.uleb()
			saved(reg, c.sleb()*g.data)
		case cfaGNUNegOffsetExt:
			reg := c.uleb()
			saved(reg, -int64(c.uleb())*g.data)
		case cfaValOffset:
			reg := c.uleb()
			m.set(reg, Rule{Kind: Value, Offset: int64(c.uleb()) * g.data})
		case cfaValOffsetSF:
			reg := c.uleb()
			m.set(reg, Rule{Kind: Value, Offset: c.sleb() * g.data})
		case cfaRestoreExt:
			m.restore(c.uleb())
		case cfaUndefined:
			m.set(c.uleb(), Rule{Kind: Undefined})
		case cfaSameValue:
			delete(m.now.regs, c.uleb())
		case cfaRegister:
			reg, from := c.uleb(), c.uleb()
			m.set(reg, Rule{Kind: Value, Reg: m.f.register(from)})
		case cfaRemember:
			if len(m.remembered) == maxRemembered {
				return malformed("call frame information", "more than %d states for %#x", maxRemembered, m.want)
			}
			m.remembered = append(m.remembered, m.now.clone())
		case cfaRestoreState:
			n := len(m.remembered)
			if n == 0 {
				return malformed("call frame information", "no state to go back to, for %#x", m.want)
			}
			m.now, m.remembered = m.remembered[n-1], m.remembered[:n-1]
		case cfaDef:
			reg := c.uleb()
			m.now.cfa = Rule{Kind: Value, Reg: m.f.register(reg), Offset: int64(c.uleb())}
		case cfaDefSF:
			reg := c.uleb()
			m.now.cfa = Rule{Kind: Value, Reg: m.f.register(reg), Offset: c.sleb() * g.data}
		case cfaDefRegister:
			m.now.cfa = Rule{Kind: Value, Reg: m.f.register(c.uleb()), Offset: m.now.cfa.Offset}
		case cfaDefOffset:
			m.now.cfa.Offset = int64(c.uleb())
		case cfaDefOffsetSF:
			m.now.cfa.Offset = c.sleb() * g.data
		case cfaDefExpression:
			m.now.cfa = Rule{Kind: ValueExpression, expr: c.bytes(c.uleb())}
		case cfaExpression:
			reg := c.uleb()
			m.set(reg, Rule{Kind: SavedExpression, expr: c.bytes(c.uleb())})
		case cfaValExpression:
			reg := c.uleb()
			m.set(reg, Rule{Kind: ValueExpression, expr: c.bytes(c.uleb())})
		case cfaGNUArgsSize:
			c.uleb()
		default:
			return malformed("call frame information", "instruction %#x, for %#x", op, m.want)
		}
	}
	if c.bad {
		return malformed("call frame information", "an instruction is cut short, for %#x", m.want)
	}
	return nil
}

func (m *frameMachine) set(reg uint64, r Rule) {
	if m.f.register(reg) != "" {
		m.now.regs[reg] = r
	}
}

func (m *frameMachine) restore(reg uint64) {
	if r, ok := m.initial.regs[reg]; ok {
		m.now.regs[reg] = r
		return
	}
	delete(m.now.regs, reg)
}

// Caller applies the rules: reg gives the registers of the frame, read a number
// of size bytes from memory. It returns the registers of the caller that are
// not what they were, the stack pointer and Return among them; without Return
// there is no caller. An error means that something the rules need is not to be
// had.
func (c *CFI) Caller(reg func(name string) (uint64, bool), read func(addr uint64, size int) (uint64, error)) (map[string]uint64, error) {
	u := &unit{f: c.f}
	u.addr = 4
	if c.f.im.PE32Plus {
		u.addr = 8
	}
	fr := &frame{u: u, reg: reg, read: read}
	cfa, err := fr.rule(&c.CFA, nil)
	if err != nil {
		return nil, fmt.Errorf("frame address: %w", err)
	}
	caller := map[string]uint64{c.f.stackPointer(): cfa}
	for i := range c.Regs {
		r := &c.Regs[i]
		if r.Kind == Undefined {
			continue
		}
		v, err := fr.rule(&r.Rule, &cfa)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.Reg, err)
		}
		caller[r.Reg] = v
	}
	return caller, nil
}

// rule calculates a rule; cfa is what it counts from if it names no register.
func (fr *frame) rule(r *Rule, cfa *uint64) (uint64, error) {
	u := fr.u
	var v uint64
	switch {
	case r.expr != nil:
		var stack []term
		if cfa != nil {
			stack = append(stack, term{n: int64(*cfa)})
		}
		c := cursor{b: r.expr}
		for steps, ok := 0, true; c.p < len(c.b); steps++ {
			if stack, ok = fr.step(c.u8(), &c, stack); !ok || steps == maxExprSteps {
				return 0, malformed("call frame information", "expression % x", r.expr[:min(len(r.expr), 32)])
			}
		}
		if len(stack) == 0 || stack[len(stack)-1].base != baseNone {
			return 0, malformed("call frame information", "an expression without result")
		}
		v = uint64(stack[len(stack)-1].n)
	case r.Reg != "":
		from, ok := fr.reg(r.Reg)
		if !ok {
			return 0, fmt.Errorf("%s is not known", r.Reg)
		}
		v = from + uint64(r.Offset)
	case cfa == nil:
		return 0, malformed("call frame information", "no frame address")
	default:
		v = *cfa + uint64(r.Offset)
	}
	if u.addr == 4 {
		v = uint64(uint32(v))
	}
	if r.Kind == Saved || r.Kind == SavedExpression {
		return fr.read(v, int(u.addr))
	}
	return v, nil
}

func (f *File) stackPointer() string {
	switch f.im.Machine {
	case machineX86:
		return "esp"
	case machineX64:
		return "rsp"
	}
	return "sp"
}

// program writes an expression as a frame program of package sym; false: it
// needs an operation that such a program does not have. cfa: it makes use of the
// frame address, which it finds on the stack.
func (f *File) program(expr []byte, cfa bool) ([]string, bool) {
	var out []string
	depth := 0
	put := func(takes int, words ...string) bool {
		if depth < takes || len(out) > maxProgram/16 {
			return false
		}
		depth -= takes - 1
		out = append(out, words...)
		return true
	}
	number := func(n int64) bool {
		if n < 0 {
			return put(0, "0", strconv.FormatInt(-n, 10), "-")
		}
		return put(0, strconv.FormatInt(n, 10))
	}
	if cfa {
		put(0, "$T0")
	}
	for c := (cursor{b: expr}); c.p < len(c.b); {
		ok := false
		op := c.u8()
		switch {
		case op >= opLit0 && op < opReg0:
			ok = number(int64(op - opLit0))
		case op >= opBreg0 && op < opRegx:
			name, n := f.register(uint64(op-opBreg0)), c.sleb()
			ok = name != "" && put(0, "$"+name) && number(n) && put(2, "+")
		case op >= opConst1u && op <= opConst8s:
			n := 1 << ((op - opConst1u) / 2)
			if op&1 == 0 {
				ok = number(int64(c.uint(n)))
			} else {
				ok = number(c.sint(n))
			}
		case op == opConstu:
			ok = number(int64(c.uleb()))
		case op == opConsts:
			ok = number(c.sleb())
		case op == opPlusUconst:
			ok = number(int64(c.uleb())) && put(2, "+")
		case op == opDeref:
			ok = put(1, "^")
		case op == opPlus:
			ok = put(2, "+")
		case op == opMinus:
			ok = put(2, "-")
		case op == opMul:
			ok = put(2, "*")
		case op == opNop:
			ok = true
		}
		if !ok || c.bad {
			return nil, false
		}
	}
	return out, depth == 1
}

// trapFrameEip is where the kernel's trap frame has eip, which the processor
// pushed; it has never changed.
const trapFrameEip = 0x68

// X86Frame returns the call frame information of x86 code as a frame program
// that gives eip, esp and the registers that are saved, and what the name tells
// about arguments. The program stands for an interrupted frame at the address as
// well as for one that waits. Trap is set where the information counts from a
// trap frame of the kernel: it says that the stack pointer is in there, which
// holds only for traps that came from user mode.
func (f *File) X86Frame(rva uint32) (sym.X86Frame, bool, error) {
	if f.im.Machine != machineX86 {
		return sym.X86Frame{}, false, nil
	}
	row, ok, err := f.CFI(rva)
	if !ok || err != nil {
		return sym.X86Frame{}, false, err
	}
	// First what counts from registers, which the rest replaces: $T0 is the
	// frame address.
	cfa, ok := f.words(&row.CFA)
	if !ok {
		return sym.X86Frame{}, false, nil
	}
	words := append(append([]string{"$T0"}, cfa...), "=")
	var last []string
	fr := sym.X86Frame{RVA: row.RVA, Size: row.Size, HasProgram: true, Params: f.params86(rva)}
	if row.Signal && row.CFA.Reg == "ebp" && row.CFA.expr == nil {
		for _, r := range row.Regs {
			// With an error code or without, eip lies in the same place.
			fr.Trap = fr.Trap || r.Reg == row.Return && r.Kind == Saved && r.Rule.Reg == "" && row.CFA.Offset+r.Offset == trapFrameEip
		}
	}
	known := map[string]bool{}
	for i, r := range row.Regs {
		w, ok := f.words(&r.Rule)
		if r.Kind == Undefined && r.Reg == row.Return {
			w, ok = []string{"0"}, true // the end of the stack
		}
		if r.Kind == Undefined && !ok {
			continue
		}
		if !ok {
			return sym.X86Frame{}, false, nil
		}
		known[r.Reg] = true
		if w[0] != "$T0" {
			temp := "$T" + strconv.Itoa(i+1)
			words = append(append(append(words, temp), w...), "=")
			w = []string{temp}
		}
		last = append(append(append(last, "$"+r.Reg), w...), "=")
		if r.Kind != Value && r.Kind != ValueExpression && r.Reg != row.Return {
			fr.SavedRegs += 4
		}
		if r.Reg == "ebp" && row.CFA.Reg == "esp" {
			fr.UsesEBP = true
		}
	}
	words = append(words, last...)
	if !known["esp"] {
		words = append(words, "$esp", "$T0", "=")
	}
	fr.Program = strings.Join(words, " ")
	return fr, row.Return == "eip" && known["eip"], nil
}

// words is a rule as a piece of a frame program; false: it cannot be one.
func (f *File) words(r *Rule) ([]string, bool) {
	var words []string
	switch {
	case r.Kind == Undefined || r.Kind == 0:
		return nil, false
	case r.expr != nil:
		var ok bool
		if words, ok = f.program(r.expr, false); !ok {
			if words, ok = f.program(r.expr, true); !ok {
				return nil, false
			}
		}
	default:
		words = []string{"$T0"}
		if r.Reg != "" {
			words[0] = "$" + r.Reg
		}
		if r.Offset < 0 {
			words = append(words, strconv.FormatInt(-r.Offset, 10), "-")
		} else if r.Offset > 0 {
			words = append(words, strconv.FormatInt(r.Offset, 10), "+")
		}
	}
	if r.Kind == Saved || r.Kind == SavedExpression {
		words = append(words, "^")
	}
	return words, true
}

// params86 is the size of the arguments of the procedure around an address, as
// its name tells it.
func (f *File) params86(rva uint32) uint32 {
	t, _ := f.publics()
	for i := t.above(rva) - 1; i >= 0; i-- {
		if t.list[i].class != coffLabel {
			return f.stackArgs(t.list[i].linkage)
		}
	}
	return 0
}
