package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"openkd/engine/expr"
	"openkd/symbols"
)

// maxPlacing bounds how long a target stands while symbols are looked for to place
// a breakpoint in a module that is being loaded.
const maxPlacing = 2 * time.Minute

// Resolve evaluates the expression of a breakpoint that follows its name (bu):
// symbols, source lines, numbers and operators. Registers are not for it: they are
// other ones when the module comes.
func (e *Engine) Resolve(ctx context.Context, text string, radix int) (uint64, error) {
	return expr.Eval(text, &nameEnv{e: e, ctx: ctx}, expr.Options{Radix: radix})
}

// nameEnv answers names, and what the target's memory holds.
type nameEnv struct {
	e      *Engine
	ctx    context.Context
	module string // names without a module are looked for in this one; "": in all

	// noted, not nil, takes the modules of names instead; "" of one without.
	noted map[string]bool
}

var errNoRegisters = &expr.Unknown{Why: "the expression of a breakpoint that waits for a module has no registers"}

func (v *nameEnv) PointerSize() int {
	if a := v.e.Arch(); a != nil {
		return a.PointerSize
	}
	return 8
}

func (v *nameEnv) Register(string) (uint64, bool, error) { return 0, false, nil }
func (v *nameEnv) Pseudo(name string) (uint64, bool, error) {
	if name == "$ptrsize" {
		return uint64(v.PointerSize()), true, nil
	}
	return 0, false, errNoRegisters
}

func (v *nameEnv) Symbol(name string) (uint64, bool, error) {
	mod, rest := symbols.Split(name)
	if v.noted != nil {
		v.noted[mod] = true
		return 1 << 40, true, nil // whatever stands there
	}
	if mod == "" && v.module != "" {
		if addr, ok, err := v.e.Symbol(v.ctx, v.module+"!"+rest); ok || v.ctx.Err() != nil {
			return addr, ok, err
		}
	}
	return v.e.Symbol(v.ctx, name)
}

func (v *nameEnv) Line(place string) (uint64, error) {
	mod, rest, ok := strings.Cut(place, "!")
	if !ok {
		mod, rest = "", place
	}
	if v.noted != nil {
		v.noted[strings.TrimSpace(mod)] = true
		return 1 << 40, nil
	}
	if mod == "" && v.module != "" {
		if l, err := v.e.SourceLine(v.ctx, v.module+"!"+rest, ""); err == nil || v.ctx.Err() != nil {
			return l.Addr, err
		}
	}
	l, err := v.e.SourceLine(v.ctx, place, "")
	return l.Addr, err
}

func (v *nameEnv) Read(physical bool, addr uint64, size int) (uint64, error) {
	if v.noted != nil {
		return 1 << 40, nil
	}
	sp := Virtual
	if physical {
		sp = Physical
	}
	return v.e.ReadUint(v.ctx, sp, addr, size)
}

func (v *nameEnv) Valid(addr, n uint64) (bool, error) { return v.noted != nil, nil }

// Names reads the expression that text begins with without evaluating it: it lists
// the modules of the names in it, "" for a name without a module, and returns what
// follows it. The error is that of a text which is no expression.
func Names(text string, radix int) (modules []string, rest string, err error) {
	v := &nameEnv{e: &Engine{}, noted: map[string]bool{}}
	_, rest, err = expr.EvalPrefix(text, v, expr.Options{Radix: radix})
	for m := range v.noted {
		modules = append(modules, m)
	}
	slices.Sort(modules)
	return modules, rest, err
}

// waiting is a breakpoint that waits for its name, with what it would take to try
// again.
type waiting struct {
	Breakpoint
	module string // that was just loaded; "": none
}

// placePending places breakpoints that wait for their names: those of which more
// is known than when they were tried last. With load it loads the symbols of the
// modules that they name. It returns a line for each that was placed, or could not
// be although its module has come.
func (e *Engine) placePending(ctx context.Context, loaded string, load bool) (lines []string) {
	b := e.bps
	b.mu.Lock()
	var list []waiting
	for _, p := range b.bp {
		if p.Deferred && p.Expr != "" {
			list = append(list, waiting{*p, loaded})
		}
	}
	b.mu.Unlock()
	set := e.SymbolSet()
	for _, w := range list {
		mods, _, err := Names(w.Expr, w.Radix)
		if err != nil {
			continue
		}
		key, ready, mine := "", true, false
		for _, m := range mods {
			switch {
			case m == "":
				mine = mine || loaded != ""
				if set != nil {
					for _, st := range set.Modules() {
						if st.State != symbols.Deferred {
							key += fmt.Sprintf("%x %d %s;", st.Base, st.State, st.File)
						}
					}
				}
				key += loaded + ";"
			case set == nil:
				_, ready = e.baseOf(m)
			default:
				st, ok := set.Named(m)
				ready = ready && ok && (load || st.State != symbols.Deferred)
				mine = mine || ok && strings.EqualFold(st.Name, loaded)
				key += fmt.Sprintf("%x %x %d %s;", st.Base, st.Timestamp, st.State, st.File)
			}
		}
		if !ready || key == w.tried {
			continue
		}
		v := &nameEnv{e: e, ctx: ctx, module: loaded}
		addr, err := expr.Eval(w.Expr, v, expr.Options{Radix: w.Radix})
		if ctx.Err() != nil {
			return append(lines, fmt.Sprintf("Breakpoint %d (%s) was not placed: symbols were looked for until %v", w.ID, w.Expr, context.Cause(ctx)))
		}
		if many := isAmbiguous(err); many && w.Module != "" {
			// It was one of several: the one that lies where it did.
			if base, ok := e.baseOf(w.Module); ok {
				addr, err = base+w.Offset, nil
			}
		}
		if line := b.placed(w.ID, w.Expr, key, addr, err, mine && len(mods) > 0 && mods[0] != ""); line != "" {
			lines = append(lines, line)
		}
	}
	return lines
}

func isAmbiguous(err error) bool {
	var x *expr.Error
	return errors.As(err, &x) && x.Kind == expr.Ambiguous
}

// placed notes what came of trying to place a breakpoint.
func (b *Breakpoints) placed(id int, text, key string, addr uint64, err error, tell bool) string {
	addr = b.e.canon(addr)
	m, inside := b.e.moduleAt(addr)
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.find(id)
	if p == nil || !p.Deferred || p.Expr != text {
		return "" // changed meanwhile
	}
	p.tried = key
	if err != nil {
		if !tell {
			return ""
		}
		var x *expr.Error
		if errors.As(err, &x) && x.Help != "" {
			err = errors.New(x.Help)
		}
		return fmt.Sprintf("Breakpoint %d (%s) could not be placed: %v", id, text, err)
	}
	p.Addr, p.Deferred, p.tried = addr, false, ""
	p.Module, p.Offset = "", 0
	if inside {
		p.Module, p.Offset = m.Name, addr-m.Base
	}
	if err := b.room(p, p); err != nil && p.Enabled {
		p.Enabled = false
		return fmt.Sprintf("Breakpoint %d (%s) is disabled: %v", id, text, err)
	}
	return fmt.Sprintf("Breakpoint %d is set at %s (%s)", id, b.e.FormatAddr(addr), text)
}

// PlaceBreakpoints places breakpoints whose names have become known, by symbols
// that were loaded since: no symbols are loaded for it, and it costs no exchange.
func (e *Engine) PlaceBreakpoints(ctx context.Context) []string {
	return e.placePending(ctx, "", false)
}

// placing is a context in which symbols are looked for while the target stands at
// a stop that nobody sees: for a while, and until the person wants to break in.
func (e *Engine) placing(ctx context.Context, h *halt) (context.Context, context.CancelFunc) {
	ctx, timeout := context.WithTimeoutCause(judging(ctx, h), maxPlacing, fmt.Errorf("%v had passed", maxPlacing))
	ctx, cancel := context.WithCancelCause(ctx)
	e.mu.Lock()
	e.stopPlacing = func() { cancel(errors.New("a break-in was asked for")) }
	e.mu.Unlock()
	return ctx, func() {
		e.mu.Lock()
		e.stopPlacing = nil
		e.mu.Unlock()
		cancel(nil)
		timeout()
	}
}

// placeAt is placeAgain at a stop that is being judged.
func (e *Engine) placeAt(ctx context.Context, h *halt, loaded string) bool {
	ctx, done := e.placing(ctx, h)
	defer done()
	return e.placeAgain(ctx, loaded)
}
