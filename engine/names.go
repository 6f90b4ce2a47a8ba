package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"openkd/engine/expr"
	"openkd/internal/brief"
	"openkd/symbols"
)

// haltKey carries the stop that the pump is judging, which nobody else sees yet.
type haltKey struct{}

// judging lets what is done with ctx read the target at the stop that is being
// judged.
func judging(ctx context.Context, h *halt) context.Context {
	return context.WithValue(ctx, haltKey{}, h)
}

// AmbiguousError says that a name stands for several places.
type AmbiguousError struct {
	Name    string
	Symbols []symbols.Symbol // at different addresses, by address
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("%s is the name of %d symbols", e.Name, len(e.Symbols))
}

// place chooses what a name stands for: what all of its module sees, else what one
// source file sees; the module that comes first where none is named.
func place(name string, list []symbols.Symbol) (uint64, error) {
	for _, static := range []bool{false, true} {
		var out []symbols.Symbol
		for _, s := range list {
			if !s.HasAddress() || s.Static != static || len(out) > 0 && out[0].Base != s.Base {
				continue
			}
			if !slices.ContainsFunc(out, func(o symbols.Symbol) bool { return o.Addr == s.Addr }) {
				out = append(out, s)
			}
		}
		switch {
		case len(out) == 1:
			return out[0].Addr, nil
		case len(out) > 1:
			slices.SortFunc(out, byAddr)
			return 0, &AmbiguousError{name, out}
		}
	}
	return 0, fmt.Errorf("%s has no address: it is a constant, or a type", list[0].Full())
}

func byAddr(a, b symbols.Symbol) int {
	switch {
	case a.Addr < b.Addr:
		return -1
	case a.Addr > b.Addr:
		return 1
	}
	return strings.Compare(a.Name, b.Name)
}

// Symbol is Lookup for expressions: the error is an *expr.Unknown that says in few
// words why a name means nothing, or that of ctx.
func (e *Engine) Symbol(ctx context.Context, name string) (uint64, bool, error) {
	addr, err := e.Lookup(ctx, name)
	switch {
	case err == nil:
		return addr, true, nil
	case ctx.Err() != nil:
		return 0, false, context.Cause(ctx)
	}
	return 0, false, e.unknown(name, err)
}

// NameError says in few words why a name means nothing; err is what was said of it.
func (e *Engine) NameError(name string, err error) error { return e.unknown(name, err) }

// unknown says why a name was not found.
func (e *Engine) unknown(name string, err error) *expr.Unknown {
	mod, rest := symbols.Split(name)
	set := e.SymbolSet()
	var none *symbols.NoSymbolsError
	var many *AmbiguousError
	why := ""
	switch {
	case errors.As(err, &many):
		for i, s := range many.Symbols {
			if i == maxMatched {
				why += fmt.Sprintf("... and %d more\n", len(many.Symbols)-i)
				break
			}
			why += fmt.Sprintf("Matched: %s %s\n", e.FormatAddr(s.Addr), s.Full())
		}
		return &expr.Unknown{Why: why + "Write the address instead", Ambiguous: true}
	case errors.Is(err, symbols.ErrNoModule):
		why = fmt.Sprintf("no module is called %s (lm lists them)", brief.Text(mod, 40))
	case errors.As(err, &none):
		why = fmt.Sprintf("%s has no symbols", none.Module)
		if none.Err != nil {
			why += ": " + brief.Text(firstLine(none.Err.Error()), 160)
		}
		why += fmt.Sprintf(" (!lmi %s)", none.Module)
	case errors.Is(err, symbols.ErrNotFound) && mod != "" && set != nil:
		why = fmt.Sprintf("%s has no symbol of that name", mod)
		if st, ok := set.Named(mod); ok && st.State == symbols.Exports {
			why = fmt.Sprintf("%s exports nothing of that name, and its exports are all that is known of it", st.Name)
			if st.Err != nil {
				why += ": " + brief.Text(firstLine(st.Err.Error()), 160)
			}
		}
	case errors.Is(err, symbols.ErrNotFound) && set != nil:
		in, all := 0, set.Modules()
		for _, m := range all {
			if m.State != symbols.Deferred && m.State != symbols.None {
				in++
			}
		}
		switch {
		case in == 0:
			why = "no symbols are loaded, of none of the " + strconv.Itoa(len(all)) + " modules"
		case in == len(all):
			why = "no module has a symbol of that name"
		default:
			why = fmt.Sprintf("no symbol of that name is in the %d of %d modules whose symbols are loaded: write module!%s", in, len(all), brief.Text(rest, 40))
		}
	case errors.Is(err, ErrNoName) && set == nil && mod != "":
		why = "no symbols are read in this session"
	case errors.Is(err, ErrNoName) && set == nil:
		why = "there are no symbols"
	default:
		why = err.Error()
	}
	return &expr.Unknown{Why: why}
}

// maxMatched is how many places of an ambiguous name are shown.
const maxMatched = 32

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s
}

// SourceLine finds the code of a line of source: "module!file:line", of which the
// module may be missing, which stands for all whose symbols are loaded, or the
// file, which is then current. Lines are counted in decimal, or with 0x. Without a
// line it is the first one that has code. Errors are *expr.Unknown, or that of ctx.
func (e *Engine) SourceLine(ctx context.Context, place, current string) (symbols.Line, error) {
	set := e.SymbolSet()
	if set == nil {
		return symbols.Line{}, &expr.Unknown{Why: "no symbols are read in this session"}
	}
	mod, rest, ok := strings.Cut(place, "!")
	if !ok {
		mod, rest = "", place
	}
	file, number := strings.TrimSpace(rest), "1"
	// A colon in the second place belongs to a drive.
	if i := strings.LastIndexByte(file, ':'); i >= 0 && i != 1 {
		file, number = strings.TrimSpace(file[:i]), strings.TrimSpace(file[i+1:])
	}
	n, err := strconv.ParseUint(number, 0, 32)
	if err != nil || n == 0 {
		return symbols.Line{}, &expr.Unknown{Why: fmt.Sprintf("%q is not the number of a line: `module!file:123`, in decimal", brief.Text(number, 20))}
	}
	if file == "" {
		file = current
	}
	if file == "" {
		return symbols.Line{}, &expr.Unknown{Why: "there is no current source file: `module!file:line`"}
	}
	list, err := set.Addresses(ctx, strings.TrimSpace(mod), file, uint32(n))
	switch {
	case ctx.Err() != nil:
		return symbols.Line{}, context.Cause(ctx)
	case err != nil:
		return symbols.Line{}, e.unknown(mod+"!", err)
	case len(list) == 0 && mod == "":
		return symbols.Line{}, &expr.Unknown{Why: fmt.Sprintf("no module whose symbols are loaded has code of line %d of %s, or of one behind it: write `module!file:line`", n, brief.Text(file, 60))}
	case len(list) == 0:
		return symbols.Line{}, &expr.Unknown{Why: fmt.Sprintf("%s has no code of line %d of %s, or of one behind it", mod, n, brief.Text(file, 60))}
	}
	best := list[0]
	for _, l := range list[1:] {
		if l.Addr < best.Addr {
			best = l
		}
	}
	return best, nil
}
