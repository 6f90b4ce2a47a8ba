package command

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"openkd/arch"
	"openkd/engine"
	"openkd/internal/brief"
)

func registerCommands() []*Command {
	f := "Registers"
	r := func(name, summary, example string) *Command {
		return &Command{Names: []string{name}, Family: f, Run: cmdRegisters, Summary: summary, Usage: "[processor]" + name + " [register[:type] [= value], ...]", Example: example}
	}
	all := r("r", "show or change registers", "r rax=5, rbx")
	all.Usage = "[processor]r [register[:[n]type] [= value], ...]\nr.\nr $t0 = value\nr? $t0 = C++ expression\nr $.u0 = text"
	m := r("rM", "show registers by mask (see rm ?)", "rM 80")
	m.Usage = "[processor]rM mask [register ...]"
	return []*Command{
		all, m,
		r("rF", "show the floating-point registers", "rF"),
		r("rX", "show the SSE XMM registers", "rX"),
		{Names: []string{"rm"}, Family: f, NoTarget: true, Run: cmdRegisterMask, Summary: "show or set which registers r shows", Usage: "rm [?|mask]", Example: "rm 2a"},
		{Names: []string{"rdmsr"}, Family: f, Run: cmdReadMSR, Summary: "read a model-specific register", Usage: "rdmsr id", Example: "rdmsr c0000082"},
		{Names: []string{"wrmsr"}, Family: f, Run: cmdWriteMSR, Summary: "write a model-specific register", Usage: "wrmsr id value", Example: "wrmsr 277 0007010600070106"},
	}
}

// specialMask is the groups of registers that are not in the context.
const specialMask = arch.MaskDebug | arch.MaskControl | arch.MaskDesc

// processor is the one a prefix names, -1 for the current one.
func (c *Call) processor() (int, error) {
	if n := c.S.Engine.Processors(); c.Processor >= n && n > 0 {
		return 0, fmt.Errorf("%d is not a valid processor number; the target has %d (0 to %d)", c.Processor, n, n-1)
	}
	return c.Processor, nil
}

func (c *Call) arch() (*arch.Arch, error) {
	if a := c.S.Engine.Arch(); a != nil {
		return a, nil
	}
	return nil, engine.ErrUnknownMachine
}

func cmdRegisters(c *Call) error {
	a, err := c.arch()
	if err != nil {
		return err
	}
	args := strings.TrimSpace(c.Args)
	mask := c.S.exec.mask
	switch c.Name {
	case "rF":
		mask = arch.MaskFloat
	case "rX":
		mask = arch.MaskXMM
	case "rM":
		if args == "" {
			return c.Syntax("")
		}
		v, rest, err := c.EvalPrefix(args)
		if err != nil {
			return err
		}
		args = strings.TrimLeft(rest, " \t,")
		if mask = c.validMask(a, v); mask == 0 {
			return nil
		}
	}
	n, err := c.processor()
	if err != nil {
		return err
	}
	switch {
	case args == "":
		return c.showRegisters(a, n, mask)
	case args == ".":
		return c.usedRegisters(a, n)
	case args[0] == '?':
		return c.typedRegister(args[1:])
	}
	return c.registerList(a, n, args)
}

// showRegisters prints a block of registers and the location.
func (c *Call) showRegisters(a *arch.Arch, n int, mask uint32) error {
	e := c.S.Engine
	get := e.State
	if mask&specialMask != 0 {
		get = e.FullState
	}
	st, err := get(c.Ctx, n)
	if err != nil {
		return err
	}
	c.Printf("%s", a.Format(st, mask))
	if n < 0 || n == e.Processor() {
		c.S.location(c.Ctx, a.PC(st.Context))
		return nil
	}
	c.Printf("%s", e.LocationLines(c.Ctx, a.PC(st.Context)))
	return nil
}

// usedRegisters is `r.`: the registers that the current instruction names.
func (c *Call) usedRegisters(a *arch.Arch, n int) error {
	e := c.S.Engine
	st, err := e.State(c.Ctx, n)
	if err != nil {
		return err
	}
	in, err := e.Instruction(c.Ctx, a.PC(st.Context))
	if err != nil {
		return err
	}
	var out []string
	seen := map[string]bool{}
	for _, w := range strings.FieldsFunc(in.Operands, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9')
	}) {
		r, ok := a.Reg(w)
		if !ok || seen[r.Name] || r.InSpecial() || r.Type == arch.TypeFlag {
			continue
		}
		seen[r.Name] = true
		if v, ok := r.View(st); ok {
			out = append(out, r.Name+"="+r.FormatValue(v))
		}
	}
	if len(out) > 0 {
		c.Printf("%s\n", strings.Join(out, " "))
	}
	return nil
}

// registerList is `r a, b=1, c`. Values are shown on one line, in order.
func (c *Call) registerList(a *arch.Arch, n int, args string) error {
	var out []string
	for args != "" {
		at := args
		if args[0] == '@' {
			args = args[1:]
		}
		end := 0
		for end < len(args) && (isLetter(args[end]) || isDigit(args[end]) || strings.IndexByte("_$.", args[end]) >= 0) {
			end++
		}
		name := args[:end]
		args = args[end:]
		if name == "" {
			return c.Fault("Syntax error", at, "the name of a register is expected here")
		}
		kind := ""
		if strings.HasPrefix(args, ":") {
			end := 1
			for end < len(args) && (isLetter(args[end]) || isDigit(args[end])) {
				end++
			}
			kind, args = strings.ToLower(args[1:end]), args[end:]
		}
		args = strings.TrimLeft(args, " \t")
		if strings.HasPrefix(args, "=") && !strings.HasPrefix(args, "==") {
			rest, err := c.assign(a, n, name, kind, at, strings.TrimLeft(args[1:], " \t"))
			if err != nil {
				return err
			}
			args = rest
		} else {
			text, err := c.registerText(a, n, name, kind, at)
			if err != nil {
				return err
			}
			out = append(out, text)
		}
		args = strings.TrimLeft(args, " \t,")
	}
	if len(out) > 0 {
		c.Printf("%s\n", strings.Join(out, " "))
	}
	return nil
}

// registerText is "rax=..." of a register or pseudo-register.
func (c *Call) registerText(a *arch.Arch, n int, name, kind, at string) (string, error) {
	if strings.HasPrefix(name, "$.u") && len(name) == 4 && isDigit(name[3]) {
		return name[:1] + name[2:] + "=" + c.S.FixedAlias(int(name[3]-'0')), nil
	}
	if strings.HasPrefix(name, "$") {
		v, err := c.Eval("@" + name)
		if err != nil {
			return "", err
		}
		return fmt.Sprintf("%s=%0*x", strings.ToLower(name), 2*c.S.pointerSize(), clipTo(v, c.S.pointerSize())), nil
	}
	if _, ok := a.Reg(name); !ok {
		return "", c.badRegister(a, name, at)
	}
	v, r, err := c.S.Engine.RegisterOf(c.Ctx, n, name)
	if err != nil {
		return "", err
	}
	if kind == "" {
		return r.Name + "=" + r.FormatValue(v), nil
	}
	text, ok := typedValue(v, r.Bits, kind)
	if !ok {
		return "", c.Fault("Syntax error", at, "the type is ib ub iw uw id ud iq uq f or d, with a count in front if not all are wanted: xmm0:4f")
	}
	return r.Name + "=" + text, nil
}

func clipTo(v uint64, size int) uint64 {
	if size == 4 {
		return uint64(uint32(v))
	}
	return v
}

func (c *Call) badRegister(a *arch.Arch, name, at string) error {
	return c.Fault("Bad register error", at, "%s has no register %q; r and rM show what there is", a.Name, brief.Text(name, 20))
}

// typedValue shows a register as numbers of a type, the highest first. A count
// in front of the type takes that many of the lowest.
func typedValue(v arch.Value, bits int, kind string) (string, bool) {
	i := 0
	for i < len(kind) && isDigit(kind[i]) {
		i++
	}
	count, _ := strconv.Atoi(kind[:i])
	size := map[string]int{"ib": 1, "ub": 1, "iw": 2, "uw": 2, "id": 4, "ud": 4, "iq": 8, "uq": 8, "f": 4, "d": 8}[kind[i:]]
	if size == 0 {
		return "", false
	}
	n := max(bits/8/size, 1)
	if count > 0 && count < n {
		n = count
	}
	var out []string
	for k := n - 1; k >= 0; k-- {
		w := v.Lo
		off := k * size * 8
		if off >= 64 {
			w, off = v.Hi, off-64
		}
		w >>= off
		if size < 8 {
			w &= 1<<(8*size) - 1
		}
		switch kind[i:] {
		case "ib":
			out = append(out, strconv.Itoa(int(int8(w))))
		case "iw":
			out = append(out, strconv.Itoa(int(int16(w))))
		case "id":
			out = append(out, strconv.Itoa(int(int32(w))))
		case "iq":
			out = append(out, strconv.FormatInt(int64(w), 10))
		case "f":
			out = append(out, cFloat(float64(math.Float32frombits(uint32(w))), 32))
		case "d":
			out = append(out, cFloat(math.Float64frombits(w), 64))
		default:
			out = append(out, fmt.Sprintf("%0*x", 2*size, w))
		}
	}
	return strings.Join(out, " "), true
}

// assign writes a register or pseudo-register and returns what follows the
// value.
func (c *Call) assign(a *arch.Arch, n int, name, kind, at, text string) (rest string, err error) {
	if strings.HasPrefix(name, "$.u") && len(name) == 4 && isDigit(name[3]) {
		return "", c.S.SetFixedAlias(int(name[3]-'0'), strings.TrimSpace(text))
	}
	if text == "" {
		return "", c.Fault("Syntax error", "", "a value is expected behind '='")
	}
	if kind != "" {
		return "", c.Fault("Syntax error", at, "a type is for showing; values are written whole")
	}
	if strings.HasPrefix(name, "$") {
		v, rest, err := c.EvalPrefix(text)
		if err != nil {
			return "", err
		}
		low := strings.ToLower(name)
		if t, ok := strings.CutPrefix(low, "$t"); ok {
			if i, err := strconv.Atoi(t); err == nil && strconv.Itoa(i) == t {
				return rest, c.S.SetTemp(i, v)
			}
		}
		if low != "$ip" {
			return "", c.Fault("Syntax error", at, "%s cannot be written; $ip and $t0 to $t19 can", name)
		}
		return rest, c.setRegister(n, c.pcName(), arch.Value{Lo: v})
	}
	r, ok := a.Reg(name)
	if !ok {
		return "", c.badRegister(a, name, at)
	}
	if r.Type == arch.TypeFloat80 {
		return "", c.Fault("Syntax error", at, "x87 registers can be shown, not changed")
	}
	if r.Type == arch.TypeVector {
		v, rest, err := c.vector(text)
		if err != nil {
			return "", err
		}
		return rest, c.setRegister(n, name, v)
	}
	v, rest, err := c.EvalPrefix(text)
	if err != nil {
		return "", err
	}
	if r.Bits < 64 && v>>r.Bits != 0 && (r.Bits < 32 || uint64(int64(int32(v))) != v) {
		return "", c.Fault("Overflow error", at, "register %s has %d bits", r.Name, r.Bits)
	}
	return rest, c.setRegister(n, name, arch.Value{Lo: v})
}

func (c *Call) pcName() string {
	return map[int]string{x86: "eip", x64: "rip", arm64: "pc"}[c.S.machine()]
}

// vector reads the value of an XMM register: one number, which is the low half,
// or four floats, the highest first, as they are shown.
func (c *Call) vector(text string) (arch.Value, string, error) {
	var f []uint64
	rest := text
	for len(f) < 4 {
		word, r := cutWord(strings.TrimLeft(rest, " \t"))
		word, tail, comma := strings.Cut(word, ",")
		x, err := strconv.ParseFloat(word, 32)
		if err != nil {
			break
		}
		f = append(f, uint64(math.Float32bits(float32(x))))
		if rest = r; comma {
			rest = tail + " " + r
			break
		}
	}
	if len(f) == 4 {
		return arch.Value{Hi: f[0]<<32 | f[1], Lo: f[2]<<32 | f[3]}, rest, nil
	}
	v, rest, err := c.EvalPrefix(text)
	if err == nil && strings.TrimLeft(rest, " \t") != "" && !strings.HasPrefix(strings.TrimLeft(rest, " \t"), ",") {
		return arch.Value{}, "", c.Fault("Syntax error", text, "an XMM register takes one number for its low half, or four floats")
	}
	return arch.Value{Lo: v}, rest, err
}

func (c *Call) setRegister(n int, name string, v arch.Value) error {
	if n >= 0 && n != c.S.Engine.Processor() {
		return fmt.Errorf("the registers of processor %d are read-only from here; ~%ds makes it the current one", n, n)
	}
	return c.S.Engine.SetRegister(c.Ctx, name, v)
}

func (c *Call) validMask(a *arch.Arch, v uint64) uint32 {
	valid := uint64(a.ValidMask())
	if bad := v &^ valid; bad != 0 {
		c.Printf("Ignored invalid bits %X\n", bad)
	}
	return uint32(v & valid)
}

func cmdRegisterMask(c *Call) error {
	a, err := c.arch()
	if err != nil {
		return err
	}
	args := strings.TrimSpace(c.Args)
	mask := c.S.exec.mask
	if mask == 0 {
		mask = a.DefaultMask
	}
	switch args {
	case "":
		c.Printf("Register output mask is %x:\n", mask)
	case "?":
		mask = ^uint32(0)
	default:
		v, err := c.Eval(args)
		if err != nil {
			return err
		}
		if m := c.validMask(a, v); m != 0 {
			c.S.exec.mask = m
		} else {
			return errors.New("the mask is not changed: nothing would be shown")
		}
		return nil
	}
	for _, g := range a.MaskGroups() {
		if g.Bit&mask != 0 {
			c.Printf("%8x - %s\n", g.Bit, g.Text)
		}
	}
	return nil
}

func (c *Call) msrID(args string) (uint32, string, error) {
	if strings.TrimSpace(args) == "" {
		return 0, "", c.Syntax("")
	}
	v, rest, err := c.EvalPrefix(args)
	if err != nil {
		return 0, "", err
	}
	// 32-bit constants are sign-extended by the evaluator.
	if v>>32 != 0 && uint64(int64(int32(v))) != v {
		return 0, "", c.Fault("Range error", args, "the number of an MSR has 32 bits")
	}
	return uint32(v), rest, nil
}

func cmdReadMSR(c *Call) error {
	id, rest, err := c.msrID(c.Args)
	if err != nil {
		return err
	}
	if err := c.End(rest); err != nil {
		return err
	}
	v, err := c.S.Engine.ReadMSR(c.Ctx, id)
	if err != nil {
		return err
	}
	c.Printf("msr[%x] = %s\n", id, engine.FormatAddr(v, 8))
	return nil
}

func cmdWriteMSR(c *Call) error {
	id, rest, err := c.msrID(c.Args)
	if err != nil {
		return err
	}
	if strings.TrimSpace(rest) == "" {
		return c.Fault("Syntax error", "", "the value is missing: wrmsr id value")
	}
	v, rest, err := c.EvalPrefix(rest)
	if err != nil {
		return err
	}
	if err := c.End(rest); err != nil {
		return err
	}
	return c.S.Engine.WriteMSR(c.Ctx, id, v)
}
