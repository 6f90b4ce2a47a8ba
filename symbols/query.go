package symbols

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"openkd/image/pe"
	"openkd/image/sym"
	"openkd/internal/brief"
)

// Symbol is a symbol of a module.
type Symbol struct {
	sym.Symbol
	Module string
	Base   uint64
	Addr   uint64 // 0 for what has no address
}

// Full is the name with its module: nt!KeBugCheckEx.
func (s *Symbol) Full() string { return s.Module + "!" + s.Name }

// HasAddress says whether the symbol is a place.
func (s *Symbol) HasAddress() bool { return s.Kind != sym.Constant && s.Kind != sym.TypeDef }

// Type is a type of a module.
type Type struct {
	sym.NamedType
	Module string
	Base   uint64
}

// Line is a piece of code of a source line.
type Line struct {
	sym.Line
	Module string
	Base   uint64
	Addr   uint64 // of the first byte
}

// Split takes a name apart: nt!KeBugCheckEx, !KeBugCheckEx, KeBugCheckEx.
func Split(name string) (module, rest string) {
	if m, r, ok := strings.Cut(name, "!"); ok {
		return strings.TrimSpace(m), strings.TrimSpace(r)
	}
	return "", strings.TrimSpace(name)
}

func (f *opened) symbol(x sym.Symbol) Symbol {
	out := Symbol{Symbol: x, Module: f.module, Base: f.base}
	if out.HasAddress() {
		out.Addr = f.base + uint64(x.RVA)
	}
	return out
}

func (f *opened) line(x sym.Line) Line { return Line{x, f.module, f.base, f.base + uint64(x.RVA)} }

// of puts the module's name before an error of its file.
func (f *opened) of(err error) error {
	if err == nil || errors.Is(err, errEnough) {
		return err
	}
	return fmt.Errorf("module %s: %w", f.module, err)
}

// wanted lists the modules that a name without a module may be in: the kernel,
// which is loaded for it, and those whose symbols are loaded. Others are left
// alone, because a mistyped name would load them all.
func (s *Set) wanted(ctx context.Context) []*module {
	s.mu.Lock()
	kernel := s.names["nt"]
	s.mu.Unlock()
	if kernel != nil {
		_ = s.ensure(ctx, kernel, LoadOptions{}) // without it there are the others
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []*module
	for _, m := range s.mods {
		if m.state == Deferred || m.state == None {
			continue
		}
		if out = append(out, m); m == kernel {
			copy(out[1:], out[:len(out)-1])
			out[0] = m
		}
	}
	return out
}

// withSymbols finds the module of a name and loads its symbols.
func (s *Set) withSymbols(ctx context.Context, name string) (*module, error) {
	s.mu.Lock()
	m := s.named(name)
	s.mu.Unlock()
	if m == nil {
		return nil, fmt.Errorf("%w as %q; lm lists them", ErrNoModule, brief.Text(name, 80))
	}
	return m, s.ensure(ctx, m, LoadOptions{})
}

// Lookup finds the symbols of a name, module!name or name. Module names match in
// any case; symbols as they are written and, if there is none, in any case. There
// may be several: functions of one name in several source files.
func (s *Set) Lookup(ctx context.Context, name string) ([]Symbol, error) {
	mod, rest := Split(name)
	if rest == "" {
		return nil, fmt.Errorf("%w as %q", ErrNotFound, brief.Text(name, 80))
	}
	if mod != "" {
		m, err := s.withSymbols(ctx, mod)
		if err != nil {
			return nil, err
		}
		found, err := s.lookup(ctx, m, rest)
		if err == nil && len(found) == 0 {
			err = fmt.Errorf("%w as %s!%s", ErrNotFound, brief.Text(mod, 80), brief.Text(rest, 80))
		}
		return found, err
	}
	mods := s.wanted(ctx)
	var out []Symbol
	var first error
	for _, m := range mods {
		found, err := s.lookup(ctx, m, rest)
		if out = append(out, found...); err != nil && first == nil {
			first = err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	if first != nil {
		return nil, first
	}
	return nil, s.notFound(rest, len(mods))
}

// notFound says where a name without a module was looked for.
func (s *Set) notFound(name string, in int) error {
	s.mu.Lock()
	all := len(s.mods)
	s.mu.Unlock()
	if in == all {
		return fmt.Errorf("%w as %q in any module", ErrNotFound, brief.Text(name, 80))
	}
	return fmt.Errorf("%w as %q in the %d of %d modules whose symbols are loaded; write module!name, or load more: .reload /f", ErrNotFound, brief.Text(name, 80), in, all)
}

// lookup finds the symbols of a name in a module.
func (s *Set) lookup(ctx context.Context, m *module, name string) ([]Symbol, error) {
	var out []Symbol
	err := s.with(m, func(f *opened) error {
		list, err := f.ByName(name)
		if err != nil {
			return err
		}
		for _, x := range list {
			out = append(out, f.symbol(x))
		}
		if len(list) > 0 || s.missed(m, name) {
			return nil
		}
		for x, err := range f.Symbols(func(n string) bool { return strings.EqualFold(n, name) }) {
			if err == nil && ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			if err != nil {
				return err
			}
			out = append(out, f.symbol(x))
		}
		if len(out) == 0 {
			s.miss(m, name)
		}
		return nil
	})
	return out, err
}

// missed says whether a name is known not to be in a module: finding that out
// takes a walk through all of its names.
func (s *Set) missed(m *module, name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := m.misses[name]
	return ok
}

func (s *Set) miss(m *module, name string) {
	const longest = 512 // bytes that are worth keeping
	if len(name) > longest {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.misses == nil || len(m.misses) >= maxMisses {
		m.misses = map[string]struct{}{}
	}
	m.misses[name] = struct{}{}
}

// Nearest finds the symbol around or below an address, and how far it is from
// there. It loads the symbols of the module; ok is false without any.
func (s *Set) Nearest(ctx context.Context, addr uint64) (x Symbol, displacement uint64, ok bool, err error) {
	s.mu.Lock()
	m := s.around(addr)
	s.mu.Unlock()
	if m == nil {
		return x, 0, false, nil
	}
	if err := s.ensure(ctx, m, LoadOptions{}); err != nil {
		return x, 0, false, err
	}
	return s.nearest(m, addr)
}

// Known is Nearest among the symbols that are loaded. It neither waits for one
// that is being loaded nor asks anybody.
func (s *Set) Known(addr uint64) (x Symbol, displacement uint64, ok bool) {
	s.mu.Lock()
	m := s.around(addr)
	if m != nil && (m.state == Deferred || m.state == None) {
		m = nil
	}
	s.mu.Unlock()
	if m == nil {
		return x, 0, false
	}
	x, displacement, ok, _ = s.nearest(m, addr) // without, there is the module's name
	return x, displacement, ok
}

func (s *Set) nearest(m *module, addr uint64) (out Symbol, displacement uint64, ok bool, err error) {
	err = s.with(m, func(f *opened) error {
		rva := uint32(addr - f.base)
		x, found, err := f.ByRVA(rva)
		if err == nil && found && x.RVA <= rva {
			out, displacement, ok = f.symbol(x), uint64(rva-x.RVA), true
		}
		return err
	})
	return out, displacement, ok, err
}

// Each runs through the symbols of the module at a base whose names match. It
// loads them first.
func (s *Set) Each(ctx context.Context, base uint64, match func(name string) bool) iter.Seq2[Symbol, error] {
	return func(yield func(Symbol, error) bool) {
		err := s.use(ctx, base, func(f *opened) error {
			for x, err := range f.Symbols(match) {
				if err == nil && ctx.Err() != nil {
					err = context.Cause(ctx)
				}
				if err != nil {
					return err
				}
				if !yield(f.symbol(x), nil) {
					return errEnough
				}
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(Symbol{}, err)
		}
	}
}

// errEnough ends a walk whose caller has enough.
var errEnough = errors.New("enough")

// EachType runs through the types of the module at a base whose names match. It
// loads them first.
func (s *Set) EachType(ctx context.Context, base uint64, match func(name string) bool) iter.Seq2[Type, error] {
	return func(yield func(Type, error) bool) {
		err := s.use(ctx, base, func(f *opened) error {
			for x, err := range f.TypeNames(match) {
				if err == nil && ctx.Err() != nil {
					err = context.Cause(ctx)
				}
				if err != nil {
					return err
				}
				if !yield(Type{x, f.module, f.base}, nil) {
					return errEnough
				}
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			yield(Type{}, err)
		}
	}
}

// use loads a module and has its file open for the time of do.
func (s *Set) use(ctx context.Context, base uint64, do func(*opened) error) error {
	s.mu.Lock()
	m := s.exactly(base)
	s.mu.Unlock()
	if m == nil {
		return fmt.Errorf("%w at %x", ErrNoModule, base)
	}
	if err := s.ensure(ctx, m, LoadOptions{}); err != nil {
		return err
	}
	return s.with(m, do)
}

func (s *Set) with(m *module, do func(*opened) error) error {
	f, err := s.acquire(m)
	if err != nil {
		return err
	}
	defer f.done()
	return f.of(do(f))
}

// FindType finds a type by its name, module!name or name, without struct, union
// or enum: as it is written and, if there is none, in any case.
func (s *Set) FindType(ctx context.Context, name string) (Type, error) {
	mod, rest := Split(name)
	if rest == "" {
		return Type{}, fmt.Errorf("no such type as %q", brief.Text(name, 80))
	}
	var mods []*module
	if mod != "" {
		m, err := s.withSymbols(ctx, mod)
		if err != nil {
			return Type{}, err
		}
		mods = []*module{m}
	} else {
		mods = s.wanted(ctx)
	}
	var out Type
	for _, exact := range []bool{true, false} {
		for _, m := range mods {
			err := s.with(m, func(f *opened) error {
				id, err := f.TypeByName(rest)
				found := rest
				if id == 0 && err == nil && !exact && !s.missed(m, "type "+rest) {
					for t, terr := range f.TypeNames(func(n string) bool { return strings.EqualFold(n, rest) }) {
						if terr != nil {
							return terr
						}
						id, found = t.ID, t.Name
						break
					}
					if id == 0 {
						s.miss(m, "type "+rest)
					}
				}
				if id != 0 {
					out = Type{sym.NamedType{Name: found, ID: id}, f.module, f.base}
				}
				return err
			})
			if err != nil && (mod != "" || ctx.Err() != nil) {
				return Type{}, err
			}
			if out.ID != 0 {
				return out, nil
			}
		}
	}
	if mod != "" {
		return Type{}, fmt.Errorf("%w: no type %s!%s", ErrNotFound, brief.Text(mod, 80), brief.Text(rest, 80))
	}
	return Type{}, s.notFound(rest, len(mods))
}

// Line finds the source line of an address. It loads the symbols of the module.
func (s *Set) Line(ctx context.Context, addr uint64) (l Line, ok bool, err error) {
	s.mu.Lock()
	m := s.around(addr)
	s.mu.Unlock()
	if m == nil {
		return l, false, nil
	}
	err = s.use(ctx, m.Base, func(f *opened) error {
		var x sym.Line
		if x, ok, err = f.Line(uint32(addr - f.base)); ok {
			l = f.line(x)
		}
		return err
	})
	return l, ok && err == nil, err
}

// Addresses finds where the code of a source line begins, in one module or, with
// "", in all whose symbols are loaded.
func (s *Set) Addresses(ctx context.Context, mod, file string, line uint32) ([]Line, error) {
	mods := []*module{nil}
	if mod != "" {
		m, err := s.withSymbols(ctx, mod)
		if err != nil {
			return nil, err
		}
		mods[0] = m
	} else {
		mods = s.wanted(ctx)
	}
	var out []Line
	for _, m := range mods {
		err := s.with(m, func(f *opened) error {
			list, err := f.Addresses(file, line)
			for _, x := range list {
				out = append(out, f.line(x))
			}
			return err
		})
		if err != nil && mod != "" {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
	return out, nil
}

// Scopes finds the procedure, blocks and inlined calls around an address,
// outermost first. It loads the symbols of the module.
func (s *Set) Scopes(ctx context.Context, addr uint64) (out []sym.Scope, err error) {
	s.mu.Lock()
	m := s.around(addr)
	s.mu.Unlock()
	if m == nil {
		return nil, fmt.Errorf("%w at %x", ErrNoModule, addr)
	}
	err = s.use(ctx, m.Base, func(f *opened) error {
		out, err = f.Scopes(uint32(addr - f.base))
		return err
	})
	return out, err
}

// File is the symbol file of the module at a base, which is loaded if need be. It
// stays usable as long as the module keeps it, however many files are open; then
// its methods say ErrUnloaded. Close does nothing.
func (s *Set) File(ctx context.Context, base uint64, o LoadOptions) (sym.File, error) {
	s.mu.Lock()
	m := s.exactly(base)
	s.mu.Unlock()
	if m == nil {
		return nil, fmt.Errorf("%w at %x", ErrNoModule, base)
	}
	if err := s.ensure(ctx, m, o); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.state == Deferred || m.state == None {
		return nil, &NoSymbolsError{m.Name, m.err}
	}
	if m.handle == nil {
		m.handle = &handle{s, m, m.id, m.private}
	}
	return m.handle, nil
}

// Image is the file of the module at a base, found along the image path, or on
// this machine along the symbol path. What was not found is remembered until a
// path changes or the module is loaded by force. The target is not asked.
func (s *Set) Image(ctx context.Context, base uint64) (*pe.Image, error) {
	s.mu.Lock()
	m := s.exactly(base)
	if m == nil {
		s.mu.Unlock()
		return nil, fmt.Errorf("%w at %x", ErrNoModule, base)
	}
	if m.imageTried {
		defer s.mu.Unlock()
		return m.image, m.imageErr
	}
	info, images, path := m.Module, s.images, s.path
	s.mu.Unlock()
	im, file, err := s.f.findImage(ctx, &info, images, path, true)
	if ctx.Err() != nil && im == nil {
		return nil, context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !m.imageTried && m.Timestamp == info.Timestamp { // more may be known of it now
		m.image, m.imageFile, m.imageErr, m.imageTried = im, file, err, true
	}
	return im, err
}

// handle is the symbol file of a module, open or not.
type handle struct {
	s       *Set
	m       *module
	id      sym.Identity
	private bool
}

var _ sym.File = (*handle)(nil)

// with has the file open for the time of do. A file of another load is not it:
// its types have other numbers.
func (h *handle) with(do func(sym.File) error) error {
	return h.s.with(h.m, func(f *opened) error {
		if f.Identity() != h.id {
			return ErrUnloaded
		}
		return do(f.File)
	})
}

func (h *handle) Identity() sym.Identity { return h.id }
func (h *handle) Private() bool          { return h.private }
func (h *handle) Close() error           { return nil }

func (h *handle) ByName(name string) (out []sym.Symbol, err error) {
	err = h.with(func(f sym.File) (err error) { out, err = f.ByName(name); return err })
	return out, err
}

func (h *handle) ByRVA(rva uint32) (out sym.Symbol, ok bool, err error) {
	err = h.with(func(f sym.File) (err error) { out, ok, err = f.ByRVA(rva); return err })
	return out, ok && err == nil, err
}

func (h *handle) Symbols(match func(string) bool) iter.Seq2[sym.Symbol, error] {
	return walk(h, func(f sym.File) iter.Seq2[sym.Symbol, error] { return f.Symbols(match) })
}

func (h *handle) TypeNames(match func(string) bool) iter.Seq2[sym.NamedType, error] {
	return walk(h, func(f sym.File) iter.Seq2[sym.NamedType, error] { return f.TypeNames(match) })
}

func walk[T any](h *handle, over func(sym.File) iter.Seq2[T, error]) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		err := h.with(func(f sym.File) error {
			for x, err := range over(f) {
				if err != nil {
					return err
				}
				if !yield(x, nil) {
					return errEnough
				}
			}
			return nil
		})
		if err != nil && !errors.Is(err, errEnough) {
			var none T
			yield(none, err)
		}
	}
}

func (h *handle) Line(rva uint32) (out sym.Line, ok bool, err error) {
	err = h.with(func(f sym.File) (err error) { out, ok, err = f.Line(rva); return err })
	return out, ok && err == nil, err
}

func (h *handle) Addresses(file string, line uint32) (out []sym.Line, err error) {
	err = h.with(func(f sym.File) (err error) { out, err = f.Addresses(file, line); return err })
	return out, err
}

func (h *handle) TypeByName(name string) (id sym.TypeID, err error) {
	err = h.with(func(f sym.File) (err error) { id, err = f.TypeByName(name); return err })
	return id, err
}

func (h *handle) Type(id sym.TypeID) (out sym.Type, err error) {
	err = h.with(func(f sym.File) (err error) { out, err = f.Type(id); return err })
	return out, err
}

func (h *handle) Members(id sym.TypeID) (out []sym.Member, err error) {
	err = h.with(func(f sym.File) (err error) { out, err = f.Members(id); return err })
	return out, err
}

func (h *handle) Scopes(rva uint32) (out []sym.Scope, err error) {
	err = h.with(func(f sym.File) (err error) { out, err = f.Scopes(rva); return err })
	return out, err
}

func (h *handle) X86Frame(rva uint32) (out sym.X86Frame, ok bool, err error) {
	err = h.with(func(f sym.File) (err error) { out, ok, err = f.X86Frame(rva); return err })
	return out, ok && err == nil, err
}

// After finds the symbol that follows an address in its module. It loads the
// symbols of the module; ok is false without any.
func (s *Set) After(ctx context.Context, addr uint64) (x Symbol, ok bool, err error) {
	s.mu.Lock()
	m := s.around(addr)
	s.mu.Unlock()
	if m == nil {
		return x, false, nil
	}
	err = s.use(ctx, m.Base, func(f *opened) error {
		rva := uint32(addr - f.base)
		// What lies in a function is not behind it.
		if here, found, err := f.ByRVA(rva); err == nil && found && here.RVA <= rva && rva-here.RVA < here.Size {
			rva = here.RVA + here.Size - 1
		}
		var best sym.Symbol
		take := func(c sym.Symbol, found bool, err error) {
			if err == nil && found && c.RVA > rva && (!ok || c.RVA < best.RVA) {
				best, ok = c, true
			}
		}
		if fast, is := f.File.(follower); is {
			take(fast.After(rva))
		} else {
			for c, err := range f.Symbols(func(string) bool { return true }) {
				if err == nil {
					err = ctx.Err()
				}
				if err != nil {
					return err
				}
				take(c, c.Kind != sym.Constant && c.Kind != sym.TypeDef, nil)
			}
		}
		// What the linker does not know is looked for behind what fills the gap.
		stop := rva + maxGap
		if ok {
			stop = min(stop, best.RVA)
		}
		for to, step := rva+1, uint32(1); to > rva && to < stop; to, step = (to+step)&^(step-1), min(2*step, 16) {
			if c, found, err := f.ByRVA(to); err == nil && found && c.RVA > rva {
				take(c, true, nil)
				break
			}
		}
		if ok {
			// By the name that the place goes by.
			if own, found, err := f.ByRVA(best.RVA); err == nil && found && own.RVA == best.RVA {
				best = own
			}
			x = f.symbol(best)
		}
		return nil
	})
	return x, ok && err == nil, err
}

// follower is a symbol file that finds the linker's symbol behind an address
// without looking at all of them.
type follower interface {
	After(rva uint32) (sym.Symbol, bool, error)
}

// maxGap is how far behind a function After looks for one that the linker does not
// know, in bytes.
const maxGap = 512
