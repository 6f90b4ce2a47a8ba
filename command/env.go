package command

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"openkd/engine"
	"openkd/engine/expr"
	"openkd/symbols"
)

// Prompt is what a person is asked with: "kd> ", or "0: kd> " with the number
// of the current processor where there are several.
func (s *Session) Prompt() string {
	if s.Engine != nil && s.Engine.Processors() > 1 {
		return fmt.Sprintf("%d: kd> ", s.Engine.Processor())
	}
	return "kd> "
}

// pointerSize is that of the target in bytes; 8 before one was met.
func (s *Session) pointerSize() int {
	if s.Engine != nil {
		if a := s.Engine.Arch(); a != nil {
			return a.PointerSize
		}
	}
	return 8
}

// canon brings an address into the form that the target uses.
func (s *Session) canon(addr uint64) uint64 {
	if s.Engine != nil {
		if a := s.Engine.Arch(); a != nil {
			return a.Canon(addr)
		}
	}
	return addr
}

// addr is an address in WinDbg's way.
func (s *Session) addr(v uint64) string { return engine.FormatAddr(v, s.pointerSize()) }

// stopNumber tells halts apart; 0 while the target runs.
func (s *Session) stopNumber() uint64 {
	if s.Engine != nil {
		if st := s.Engine.Stop(); st != nil {
			return st.Number
		}
	}
	return 0
}

// Eval is the value of an expression. Errors are *expr.Error.
func (s *Session) Eval(ctx context.Context, e string) (uint64, error) {
	if s.cpp {
		return s.evalCpp(ctx, e)
	}
	v, err := expr.Eval(e, env{ctx, s}, expr.Options{Radix: s.radix})
	if err == nil {
		s.lastEval = v
	}
	return v, err
}

// evalPrefix is Eval of as much as is one expression.
func (s *Session) evalPrefix(ctx context.Context, e string) (uint64, string, error) {
	if s.cpp {
		return s.evalCppPrefix(ctx, e)
	}
	v, rest, err := expr.EvalPrefix(e, env{ctx, s}, expr.Options{Radix: s.radix})
	if err == nil {
		s.lastEval = v
	}
	return v, rest, err
}

// Eval is the value of all of an expression. Errors are *Fault, so that the
// caret finds its place.
func (c *Call) Eval(e string) (uint64, error) {
	v, err := c.S.Eval(c.Ctx, e)
	if err != nil {
		return 0, exprFault(err, e)
	}
	return v, nil
}

// EvalPrefix evaluates the expression that args begins with and returns what
// follows it.
func (c *Call) EvalPrefix(args string) (uint64, string, error) {
	v, rest, err := c.S.evalPrefix(c.Ctx, args)
	if err != nil {
		return 0, "", exprFault(err, args)
	}
	return v, rest, nil
}

// exprFault turns an error of an expression into a Fault. Errors that are not
// the typist's (target running, cancelled) stay what they are.
func exprFault(err error, text string) error {
	var e *expr.Error
	if !errors.As(err, &e) {
		return err
	}
	if e.Err != nil {
		var m *engine.MemoryError
		if !errors.As(e.Err, &m) && !errors.Is(e.Err, errNoValue) {
			return e.Err
		}
	}
	pos := min(max(e.Pos, 0), len(text))
	help := e.Help
	if e.Near != "" && help != "" {
		help = "'" + e.Near + "': " + help
	}
	return &Fault{Words: e.Kind.Words(), At: text[pos:], Help: help, pos: -1}
}

// maxRange is the most bytes of a range without L?, as documented.
const maxRange = 256 << 20

// Range reads an address range from args: `addr`, `addr end` (inclusive),
// `addr Ln`, `addr L?n` (no limit of 256 MB), `addr L-n` (ends before addr).
// unit is the size in bytes of what the command counts, deflt how many of them
// a single address stands for; 0 means that a range needs its end. n counts
// units.
func (c *Call) Range(args string, unit, deflt int) (addr, n uint64, rest string, err error) {
	u := uint64(max(unit, 1))
	addr, rest, err = c.EvalPrefix(args)
	if err != nil {
		return 0, 0, "", err
	}
	addr = c.S.canon(addr)
	limit := uint64(maxRange)
	at := rest
	switch {
	case isLength(rest):
		t := strings.TrimLeft(rest[1:], " \t")
		sign := byte(0)
		if t != "" && (t[0] == '?' || t[0] == '-') {
			sign, t = t[0], t[1:]
		}
		if n, rest, err = c.EvalPrefix(t); err != nil {
			return 0, 0, "", err
		}
		switch sign {
		case '?':
			limit = 1 << 40
		case '-':
			if n <= limit/u {
				if n*u > addr {
					return 0, 0, "", c.Fault("Range error", at, "the range would begin below address 0")
				}
				addr -= n * u
			}
		}
		if n == 0 {
			return 0, 0, "", c.Fault("Range error", at, "the range is empty")
		}
	case rest != "" && rangeEnd(rest):
		var end uint64
		if end, rest, err = c.EvalPrefix(rest); err != nil {
			return 0, 0, "", err
		}
		end = c.S.canon(end)
		if end < addr {
			return 0, 0, "", c.Fault("Range error", at, "the end %s lies below the start %s", c.S.addr(end), c.S.addr(addr))
		}
		n = (end-addr)/u + 1
	case deflt > 0:
		n = uint64(deflt)
		if u <= limit && n*u > -addr && addr != 0 {
			n = max((-addr)/u, 1) // a default never runs over the end of memory
		}
	default:
		return 0, 0, "", c.Fault("Range error", "", "the end of the range is missing: 'address L<count>' or 'address end'")
	}
	if n > limit/u {
		if limit == maxRange {
			return 0, 0, "", c.Fault("Range error", at, "the range is longer than 256 MB; L?<count> lifts the limit")
		}
		return 0, 0, "", c.Fault("Range error", at, "the range is longer than 1 TB")
	}
	if left := -addr; addr != 0 && n*u > left {
		return 0, 0, "", c.Fault("Range error", at, "the range runs over the end of the address space")
	}
	return addr, n, rest, nil
}

// isLength reports whether a range's L begins t.
func isLength(t string) bool {
	if t == "" || t[0] != 'L' && t[0] != 'l' {
		return false
	}
	if len(t) == 1 {
		return true
	}
	switch c := t[1]; {
	case c == '?' || c == '-' || c == ' ' || c == '\t' || c == '(' || c == '[' || c == '@' || c == '$' || c == '.' || c == '\'':
		return true
	case isDigit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F':
		return true
	}
	// L and the name of an operator or register: Lpoi(...), Lby(...).
	for _, w := range []string{"poi", "qwo", "by", "wo"} {
		if strings.HasPrefix(strings.ToLower(t[1:]), w) {
			return true
		}
	}
	return false
}

// rangeEnd reports whether t can begin an address.
func rangeEnd(t string) bool {
	c := t[0]
	return isLetter(c) || isDigit(c) || strings.IndexByte("@$_([.!+-`", c) >= 0
}

// env answers expressions out of a session's engine.
type env struct {
	ctx context.Context
	s   *Session
}

func (v env) PointerSize() int { return v.s.pointerSize() }

func (v env) Register(name string) (uint64, bool, error) {
	if v.s.Engine == nil {
		return 0, false, nil
	}
	val, reg, err := v.s.Engine.Register(v.ctx, name)
	switch {
	case errors.Is(err, engine.ErrUnknownRegister), errors.Is(err, engine.ErrUnknownMachine):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	}
	if reg.Bits == 32 {
		return uint64(int64(int32(val.Lo))), true, nil
	}
	return val.Lo, true, nil
}

func (v env) Symbol(name string) (uint64, bool, error) {
	if v.s.Engine == nil {
		return 0, false, nil
	}
	if local, ok := strings.CutPrefix(name, "$!"); ok {
		return v.s.localAddress(v.ctx, local)
	}
	if v.maybeLocal(name) {
		// A variable of the current function hides what else has its name, also
		// while its value is not known.
		a, ok, err := v.s.localAddress(v.ctx, name)
		if ok || errors.Is(err, errNoValue) {
			return a, ok, err
		}
		if v.ctx.Err() != nil {
			return 0, false, context.Cause(v.ctx)
		}
	}
	return v.s.Engine.Symbol(v.ctx, name)
}

// maybeLocal reports whether a name may be that of a variable of the current
// function. It is not if that would load symbols first, which nobody asked for.
func (v env) maybeLocal(name string) bool {
	e := v.s.Engine
	set := e.SymbolSet()
	if set == nil || strings.Contains(name, "!") || !e.Halted() {
		return false
	}
	if _, ok := set.Named(name); ok {
		return false
	}
	pc, err := e.PC(v.ctx)
	if err != nil {
		return false
	}
	st, ok := set.At(pc)
	return ok && st.State != symbols.Deferred && st.State != symbols.None && st.State != symbols.Exports
}

func (v env) Line(place string) (uint64, error) {
	if v.s.Engine == nil {
		return 0, engine.ErrUnknownMachine
	}
	l, err := v.s.Engine.SourceLine(v.ctx, place, v.s.currentSource(v.ctx))
	return l.Addr, err
}

func (v env) Read(physical bool, addr uint64, size int) (uint64, error) {
	if v.s.Engine == nil {
		return 0, engine.ErrUnknownMachine
	}
	sp := engine.Virtual
	if physical {
		sp = engine.Physical
	}
	return v.s.Engine.ReadUint(v.ctx, sp, addr, size)
}

func (v env) Valid(addr, n uint64) (bool, error) {
	if v.s.Engine == nil {
		return false, engine.ErrUnknownMachine
	}
	if n > maxRange {
		return false, fmt.Errorf("%w: the range is longer than 256 MB", errNoValue)
	}
	for n > 0 {
		k := min(n, 1<<20)
		d, err := v.s.Engine.Read(v.ctx, engine.Virtual, addr, int(k))
		if err != nil {
			return false, err
		}
		if uint64(len(d.Bytes)) < k || !d.Complete() {
			return false, nil
		}
		addr, n = addr+k, n-k
	}
	return true, nil
}

// errNoValue is the root of errors that name a pseudo-register without a value.
var errNoValue = errors.New("no value")

type noValue string

func (e noValue) Error() string     { return string(e) }
func (e noValue) Is(err error) bool { return err == errNoValue }

// needsTypes lists the pseudo-registers that only type information can fill.
var needsTypes = map[string]string{
	"$peb": "the layout of EPROCESS", "$tpid": "the layout of ETHREAD", "$tid": "the layout of ETHREAD",
	"$callret": "the result of .call", "$previp": "the event before this one, which is not kept",
}

// Pseudo is the pseudo-register by its documented name.
func (v env) Pseudo(name string) (uint64, bool, error) {
	s := v.s
	e := s.Engine
	if n, ok := strings.CutPrefix(name, "$t"); ok {
		if i, err := strconv.Atoi(n); err == nil && i >= 0 && i < len(s.temps) && (len(n) == 1 || n[0] != '0') {
			return s.temps[i], true, nil
		}
	}
	switch name {
	case "$exp":
		return s.lastEval, true, nil
	case "$p":
		return s.lastValue, true, nil
	case "$ptrsize":
		return uint64(s.pointerSize()), true, nil
	case "$pagesize":
		return 4096, true, nil
	case "$extret":
		return s.extret, s.hasExtret, nil
	}
	if e == nil {
		return 0, false, nil
	}
	if x, ok := v.byTypes(name); ok {
		return x, true, nil
	}
	if what, ok := needsTypes[name]; ok {
		return 0, false, noValue(name + " needs " + what)
	}
	if n, ok := strings.CutPrefix(name, "$bp"); ok {
		if i, err := strconv.Atoi(n); err == nil {
			bp, ok := e.Breakpoints().Get(i)
			if !ok {
				return 0, false, noValue(fmt.Sprintf("there is no breakpoint %d", i))
			}
			return bp.Addr, true, nil
		}
	}
	if n, ok := strings.CutPrefix(name, "$exr_"); ok {
		return v.exception(name, n)
	}
	if n, ok := strings.CutPrefix(name, "$bug_"); ok {
		return v.bug(name, n)
	}
	reg := func(byArch map[int]string) (uint64, bool, error) { return v.Register(byArch[s.machine()]) }
	switch name {
	case "$ip", "$relip":
		pc, err := e.PC(v.ctx)
		return pc, err == nil, err
	case "$scopeip":
		if e.Scope().Frame == 0 {
			pc, err := e.PC(v.ctx)
			return pc, err == nil, err
		}
		f, err := e.CurrentFrame(v.ctx)
		if err != nil {
			return 0, false, err
		}
		return f.PC, true, nil
	case "$frame":
		return uint64(e.Scope().Frame), true, nil
	case "$eventip":
		if st := e.LastStop(); st != nil {
			return st.PC, true, nil
		}
		return 0, false, noValue("there was no event yet")
	case "$csp":
		sp, err := e.SP(v.ctx)
		return sp, err == nil, err
	case "$retreg", "$retreg64":
		return reg(map[int]string{x86: "eax", x64: "rax", arm64: "x0"})
	case "$ra":
		ra, err := e.ReturnAddress(v.ctx)
		if err != nil && e.Halted() {
			err = noValue(err.Error())
		}
		return ra, err == nil, err
	case "$thread":
		return v.thread()
	case "$teb":
		return v.viaThread("$teb", 0x29a)
	case "$proc":
		return v.viaThread("$proc", 0x2a0)
	case "$exentry":
		mods, err := e.Modules(v.ctx)
		if err != nil {
			return 0, false, err
		}
		for i := range mods {
			if mods[i].Name == "nt" && mods[i].EntryPoint != 0 {
				return mods[i].EntryPoint, true, nil
			}
		}
		return 0, false, noValue("the entry point of the kernel is not known")
	case "$dbgtime":
		return fileTime(e.Now()), true, nil
	case "$ea", "$ea2":
		return v.effective(name)
	}
	return 0, false, nil
}

const (
	unknownMachine = iota
	x86
	x64
	arm64
)

// machine is the kind of processor of the target.
func (s *Session) machine() int {
	if s.Engine != nil {
		if a := s.Engine.Arch(); a != nil {
			switch a.Name {
			case "x86":
				return x86
			case "x64":
				return x64
			case "ARM64":
				return arm64
			}
		}
	}
	return unknownMachine
}

func (v env) exception(name, field string) (uint64, bool, error) {
	st := v.s.Engine.LastStop()
	if st == nil || st.Stop == nil || st.Exception == nil {
		return 0, false, noValue("the last event was no exception")
	}
	x := st.Exception
	switch field {
	case "code":
		return uint64(x.Code), true, nil
	case "chance":
		if x.FirstChance {
			return 1, true, nil
		}
		return 2, true, nil
	case "numparams":
		return uint64(x.NumberParameters), true, nil
	}
	if n, ok := strings.CutPrefix(field, "param"); ok {
		if i, err := strconv.Atoi(n); err == nil && i >= 0 && i < len(x.Information) {
			return x.Information[i], true, nil
		}
	}
	return 0, false, nil
}

func (v env) bug(name, field string) (uint64, bool, error) {
	i := 0
	switch field {
	case "code":
	case "param1", "param2", "param3", "param4":
		i = int(field[5] - '0')
	default:
		return 0, false, nil
	}
	b, err := v.s.Engine.BugCheck(v.ctx)
	if err != nil {
		return 0, false, err
	}
	if i == 0 {
		return b.Code, true, nil
	}
	return b.Args[i-1], true, nil
}

// thread is the KTHREAD of the current processor.
func (v env) thread() (uint64, bool, error) {
	st := v.s.Engine.Stop()
	if st == nil {
		_, err := v.s.Engine.PC(v.ctx) // says why there is none
		return 0, false, err
	}
	if cur := v.s.Engine.Processor(); cur != st.Processor {
		return 0, false, noValue(fmt.Sprintf("the thread is known for processor %d, which stopped; this is processor %d", st.Processor, cur))
	}
	if st.Thread == 0 {
		return 0, false, noValue("the target reported no thread")
	}
	return st.Thread, true, nil
}

// viaThread reads the pointer in KTHREAD whose offset stands at a place of the
// debugger data block.
func (v env) viaThread(name string, at int) (uint64, bool, error) {
	t, ok, err := v.thread()
	if !ok {
		return 0, false, err
	}
	block := v.s.Engine.DataBlock()
	if len(block) < at+2 || binary.LittleEndian.Uint16(block[at:]) == 0 {
		return 0, false, noValue(name + " needs the target's debugger data block, which does not tell where a thread keeps it")
	}
	p, err := v.s.Engine.ReadPointer(v.ctx, engine.Virtual, t+uint64(binary.LittleEndian.Uint16(block[at:])))
	return p, err == nil, err
}

// fileTime is t as a FILETIME: 100 ns steps since 1601.
func fileTime(t time.Time) uint64 {
	return uint64(t.Unix()+11644473600)*10_000_000 + uint64(t.Nanosecond()/100)
}
