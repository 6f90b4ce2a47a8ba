package command

import (
	"fmt"
	"strings"

	"openkd/engine"
	"openkd/image/disasm"
	"openkd/kdproto"
)

func codeCommands() []*Command {
	f := "Code"
	return []*Command{
		{Names: []string{"u", "uu"}, Family: f, Bare: true, Run: cmdUnassemble, Summary: "show instructions", Usage: "u [address [L count]]\nu address end", Example: "u @rip L4"},
		{Names: []string{"uf"}, Family: f, Run: cmdUnassembleFunction, Summary: "show all code of a function; /c its calls only, /i how many instructions", Usage: "uf [/c] [/i] [/D] [/m] [/o] [/O] [address]", Example: "uf @rip"},
		{Names: []string{"ub"}, Family: f, Run: cmdUnassembleBack, Summary: "show the instructions in front of an address", Usage: "ub [address [L count]]", Example: "ub @rip L4"},
	}
}

const (
	defaultCode = 8       // instructions
	longestCode = 16      // bytes of an instruction, with room
	maxCode     = 1 << 20 // instructions of one command
)

// codeRange reads `address`, `address Ln` (n instructions) or `address end`.
func (c *Call) codeRange(start uint64) (addr, count, end uint64, err error) {
	args := strings.TrimSpace(c.Args)
	addr, count = start, defaultCode
	if args == "" {
		return addr, count, 0, nil
	}
	addr, rest, err := c.EvalPrefix(args)
	if err != nil {
		return 0, 0, 0, err
	}
	addr = c.S.canon(addr)
	switch {
	case isLength(rest):
		at := rest
		t := strings.TrimLeft(rest[1:], " \t?")
		if count, rest, err = c.EvalPrefix(t); err != nil {
			return 0, 0, 0, err
		}
		if count == 0 || count > maxCode {
			return 0, 0, 0, c.Fault("Range error", at, "1 to 0x%x instructions are shown at once", maxCode)
		}
	case rest != "":
		at := rest
		if end, rest, err = c.EvalPrefix(rest); err != nil {
			return 0, 0, 0, err
		}
		if end = c.S.canon(end); end < addr {
			return 0, 0, 0, c.Fault("Range error", at, "the end %s lies below the start %s", c.S.addr(end), c.S.addr(addr))
		}
		if end-addr > maxCode {
			return 0, 0, 0, c.Fault("Range error", at, "the range is longer than 1 MiB")
		}
		count = end - addr + 1
	}
	return addr, count, end, c.End(rest)
}

// codeStart is where a bare u begins: where the last one ended, or the program
// counter after a stop.
func (c *Call) codeStart() (uint64, error) {
	if c.S.Engine == nil {
		return 0, engine.ErrUnknownMachine
	}
	if n := c.S.stopNumber(); n != c.S.codeStop || n == 0 {
		pc, err := c.S.Engine.PC(c.Ctx)
		if err != nil {
			return 0, err
		}
		c.S.SetNextCode(pc)
	}
	return c.S.nextCode, nil
}

// label is the line in front of instructions: "nt!Foo+0x10:".
func (c *Call) label(addr uint64) {
	c.Printf("%s", c.S.label(addr))
}

// newLabel is the label of an instruction that begins a function, as the ones
// above it do not belong to it, or a line of source.
func (s *Session) newLabel(addr uint64) string {
	if s.Engine != nil {
		if n, d, ok := s.Engine.Name(addr); ok && d == 0 && strings.Contains(n, "!") {
			return s.label(addr)
		}
	}
	return s.newLine(addr)
}

func (c *Call) machine() (kdproto.Machine, error) {
	if c.S.Engine != nil {
		if a := c.S.Engine.Arch(); a != nil {
			return a.Machine, nil
		}
	}
	return 0, engine.ErrUnknownMachine
}

func cmdUnassemble(c *Call) error {
	start, err := c.codeStart()
	if err != nil {
		return err
	}
	addr, count, end, err := c.codeRange(start)
	if err != nil {
		return err
	}
	m, err := c.machine()
	if err != nil {
		return err
	}
	c.named(addr)
	c.label(addr)
	for shown, first := uint64(0), true; shown < count && (end == 0 || addr <= end); {
		// As much as the rest can need, in one exchange. On a line that is slow
		// eight instructions are seldom longer than 64 bytes.
		want := min((count-shown)*8, chunk)
		if end != 0 {
			want = min(end-addr+longestCode, chunk)
		}
		want = max(want, longestCode)
		data, err := c.S.Engine.Read(c.Ctx, engine.Virtual, addr, int(want))
		if err != nil {
			return err
		}
		code := data.Prefix()
		if len(code) == 0 {
			c.S.SetNextCode(addr)
			c.Printf("%s %-15s %s\n", c.S.addr(addr), "??", "???")
			return &engine.MemoryError{Addr: addr, Status: data.Status}
		}
		complete := len(code) == int(want)
		var b strings.Builder
		for shown < count && (end == 0 || addr <= end) && len(code) > 0 {
			if len(code) < longestCode && complete {
				break // the rest may be the start of an instruction
			}
			in, err := disasm.Decode(m, code, addr, c.S.symbol)
			if err != nil {
				return err
			}
			if !first {
				b.WriteString(c.S.newLabel(addr))
			}
			first = false
			b.WriteString(in.Line())
			b.WriteByte('\n')
			code = code[in.Len:]
			addr += uint64(in.Len)
			shown++
		}
		c.Printf("%s", b.String())
	}
	c.S.SetNextCode(addr)
	return c.Ctx.Err()
}

func cmdUnassembleBack(c *Call) error {
	start, err := c.codeStart()
	if err != nil {
		return err
	}
	addr, count, end, err := c.codeRange(start)
	if err != nil {
		return err
	}
	if end != 0 {
		return c.Fault("Syntax error", c.Args, "ub takes an address and a count: ub @rip L4")
	}
	if count > 4096 {
		return c.Fault("Range error", c.Args, "ub shows at most 0x1000 instructions")
	}
	m, err := c.machine()
	if err != nil {
		return err
	}
	n := min(count*longestCode+64, addr)
	data, err := c.S.Engine.Read(c.Ctx, engine.Virtual, addr-n, int(n))
	if err != nil {
		return err
	}
	// What counts is the readable stretch that ends at the address.
	var code []byte
	if k := len(data.Spans); k > 0 {
		if s := data.Spans[k-1]; s.Offset+s.Len == int(n) {
			code = data.Bytes[s.Offset:]
		}
	}
	if len(code) == 0 {
		return &engine.MemoryError{Addr: addr - 1, Status: data.Status}
	}
	c.named(addr)
	list, err := disasm.UnassembleBack(m, code, addr-uint64(len(code)), int(count), c.S.symbol)
	if err != nil {
		return err
	}
	if len(list) == 0 {
		return fmt.Errorf("no instructions end at %s", c.S.addr(addr))
	}
	c.label(list[0].Addr)
	for i := range list {
		if i > 0 {
			c.Printf("%s", c.S.newLabel(list[i].Addr))
		}
		c.Printf("%s\n", list[i].Line())
	}
	c.S.SetNextCode(list[0].Addr)
	return nil
}

// cmdUnassembleFunction is uf. Its blocks come by address; links (/D, /O) and
// other orders (/m, /o) are accepted and change nothing.
func cmdUnassembleFunction(c *Call) error {
	args := strings.TrimSpace(c.Args)
	calls, count := false, false
	for strings.HasPrefix(args, "/") {
		w, rest := cutWord(args)
		switch w {
		case "/c", "/D":
			calls = true
		case "/i":
			count = true
		case "/m", "/o", "/O":
		default:
			return c.Syntax(args)
		}
		args = rest
	}
	var addr uint64
	var err error
	if args == "" {
		addr, err = c.codeStart()
	} else {
		var rest string
		if addr, rest, err = c.EvalPrefix(args); err == nil {
			err = c.End(rest)
		}
	}
	if err != nil {
		return err
	}
	c.named(addr)
	r, err := c.S.Engine.Routine(c.Ctx, addr, c.S.functionStart)
	if err != nil {
		return err
	}
	n := 0
	for i := range r.Blocks {
		n += len(r.Blocks[i].Insts)
	}
	if count {
		c.Printf("%d instructions scanned\n", n)
	}
	if r.Incomplete {
		c.Printf("Flow analysis was incomplete, some code may be missing\n")
	}
	if calls {
		c.calls(r)
		return nil
	}
	var b strings.Builder
	for i := range r.Blocks {
		k := &r.Blocks[i]
		if i > 0 {
			b.WriteByte('\n')
		}
		b.WriteString(c.S.label(k.Addr))
		for j := range k.Insts {
			b.WriteString(c.S.lineColumn(k.Insts[j].Addr) + k.Insts[j].Line() + "\n")
		}
	}
	c.Printf("%s", b.String())
	if i := len(r.Blocks) - 1; i >= 0 {
		last := r.Blocks[i].Insts
		in := &last[len(last)-1]
		c.S.SetNextCode(in.Addr + uint64(in.Len))
	}
	return nil
}

// calls is uf /c: what the function calls, and from where.
func (c *Call) calls(r *engine.Routine) {
	name := func(at uint64) string {
		if n := c.S.symbol(at); n != "" {
			return n + " (" + c.S.addr(at) + ")"
		}
		return c.S.addr(at)
	}
	c.Printf("%s\n", name(r.Start))
	for i := range r.Blocks {
		for j := range r.Blocks[i].Insts {
			in := &r.Blocks[i].Insts[j]
			if in.Kind != disasm.Call {
				continue
			}
			to := in.Operands
			if in.HasTarget {
				to = name(in.Target)
			}
			c.Printf("  %s:\n    call to %s\n", name(in.Addr), to)
		}
	}
}

// effective is $ea: the address that the current instruction refers to.
func (v env) effective(name string) (uint64, bool, error) {
	if name == "$ea2" {
		return 0, false, noValue("the current instruction has no second memory operand that is known")
	}
	pc, err := v.s.Engine.PC(v.ctx)
	if err != nil {
		return 0, false, err
	}
	in, err := v.s.Engine.Instruction(v.ctx, pc)
	if err != nil {
		return 0, false, err
	}
	if in.MemRef == nil {
		return 0, false, noValue("the current instruction refers to no memory")
	}
	var failed error
	addr, ok := in.MemRef.Address(func(name string) (uint64, bool) {
		val, _, err := v.s.Engine.Register(v.ctx, name)
		if err != nil {
			failed = err
		}
		return val.Lo, err == nil
	})
	if !ok {
		if failed != nil {
			return 0, false, noValue("the address of the current instruction cannot be told: " + failed.Error())
		}
		return 0, false, noValue("the address of the current instruction cannot be told")
	}
	return v.s.canon(addr), true, nil
}
