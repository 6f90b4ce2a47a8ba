package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"

	"openkd/engine/expr"
	"openkd/image/pe"
	"openkd/image/sym"
	"openkd/symbols"
)

// UseSymbols makes a symbols.Set of the engine's modules, which from then on
// answers names and gives files. It must be called before Run. The caller closes
// the Set, after the engine has ended.
func (e *Engine) UseSymbols(f *symbols.Finder) *symbols.Set {
	s := &symbolSet{e: e}
	s.set = symbols.NewSet(f, s)
	e.opt.Symbols, e.opt.Files = s, s
	return s.set
}

// SymbolSet is the Set of UseSymbols with the modules as they are known now, nil
// where there is none.
func (e *Engine) SymbolSet() *symbols.Set {
	if s, ok := e.opt.Symbols.(*symbolSet); ok {
		return s.now()
	}
	return nil
}

// LoadSymbols loads the symbols of the modules around addresses, which takes an
// exchange or two if it is not known yet which files are theirs, and as long as
// downloads take. It says whether any were loaded that were not. Name shows only
// what is loaded: who is about to show names of many addresses loads them first.
// A module without symbols is no error, and what it exports is not read from the
// target's memory: that is done for who asks for a name.
func (e *Engine) LoadSymbols(ctx context.Context, addrs ...uint64) (bool, error) {
	set := e.SymbolSet()
	if set == nil {
		return false, nil
	}
	var bases []uint64
	for _, a := range addrs {
		if m, ok := set.At(e.canon(a)); ok && m.State == symbols.Deferred && !containsAddr(bases, m.Base) {
			bases = append(bases, m.Base)
		}
	}
	if len(bases) == 0 {
		return false, nil
	}
	loaded := false
	err := set.LoadAll(ctx, bases, symbols.LoadOptions{NoExports: true}, func(s symbols.Status) {
		loaded = loaded || s.State != symbols.Deferred && s.State != symbols.None
	})
	return loaded, err
}

// EachSymbol runs through the symbols that a pattern names, module!name, both with
// the wildcards of expr.Match. A module that is named in full is loaded for it;
// of a pattern for modules, those count whose symbols are loaded.
func (e *Engine) EachSymbol(ctx context.Context, pattern string) iter.Seq2[symbols.Symbol, error] {
	return func(yield func(symbols.Symbol, error) bool) {
		set := e.SymbolSet()
		if set == nil {
			yield(symbols.Symbol{}, errNoSymbols)
			return
		}
		mod, name := symbols.Split(pattern)
		if mod == "" {
			mod = "*"
		}
		var bases []uint64
		if m, ok := set.Named(mod); ok {
			bases = []uint64{m.Base}
		} else if !strings.ContainsAny(mod, "*?[#+") {
			yield(symbols.Symbol{}, fmt.Errorf("%w as %q", symbols.ErrNoModule, mod))
			return
		} else {
			for _, m := range set.Modules() {
				if m.State != symbols.Deferred && m.State != symbols.None && expr.Match(mod, m.Name) {
					bases = append(bases, m.Base)
				}
			}
		}
		match := matcher(name)
		for _, b := range bases {
			for s, err := range set.Each(ctx, b, match) {
				if !yield(s, err) || err != nil {
					return
				}
			}
		}
	}
}

var errNoSymbols = errors.New("no symbols are read in this session")

// matcher is expr.Match for many names: what most people ask for needs no more
// than a look at the beginning.
func matcher(pattern string) func(string) bool {
	head, star := strings.CutSuffix(pattern, "*")
	if strings.ContainsAny(head, `*?[#+\`) {
		return func(s string) bool { return expr.Match(pattern, s) }
	}
	if !star {
		return func(s string) bool { return strings.EqualFold(s, pattern) }
	}
	return func(s string) bool { return len(s) >= len(head) && strings.EqualFold(s[:len(head)], head) }
}

// symbolSet joins an engine and its Set.
type symbolSet struct {
	e   *Engine
	set *symbols.Set

	mu     sync.Mutex
	seen   uint64 // modules.changes when the Set was told; guarded by mu
	copies int    // how often it was told, for tests; guarded by mu
}

var (
	_ Symbols        = (*symbolSet)(nil)
	_ Files          = (*symbolSet)(nil)
	_ symbols.Target = (*symbolSet)(nil)
)

// now is the Set with the modules as they are known now. It is called for every
// name that is shown, so it looks at the list only where that has changed.
func (s *symbolSet) now() *symbols.Set {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.e.mu.Lock()
	changes := s.e.mods.changes
	if changes == s.seen {
		s.e.mu.Unlock()
		return s.set
	}
	list := slices.Clone(s.e.mods.list)
	s.e.mu.Unlock()
	s.seen, s.copies = changes, s.copies+1
	mods := make([]symbols.Module, len(list))
	for i, m := range list {
		mods[i] = symbols.Module{Name: m.Name, Image: m.ImageName, Base: m.Base, Size: m.Size, Timestamp: m.TimeDateStamp, CheckSum: m.CheckSum}
		if m.ImageName == "" {
			mods[i].Image = baseName(m.Path)
		}
	}
	s.set.Update(mods)
	return s.set
}

// Lookup implements Symbols.
func (s *symbolSet) Lookup(ctx context.Context, name string) (uint64, error) {
	list, err := s.now().Lookup(ctx, name)
	if err != nil {
		return 0, err
	}
	return place(name, list)
}

// Name implements Symbols.
func (s *symbolSet) Name(addr uint64) (string, uint64, bool) {
	x, d, ok := s.now().Known(addr)
	return x.Full(), d, ok
}

// Image implements Files.
func (s *symbolSet) Image(ctx context.Context, m Module) *pe.Image {
	im, err := s.now().Image(ctx, m.Base)
	if err != nil {
		return nil // the Set keeps why
	}
	return im
}

// SymbolFile implements Files.
func (s *symbolSet) SymbolFile(ctx context.Context, m Module) sym.File {
	f, err := s.now().File(ctx, m.Base, symbols.LoadOptions{NoTarget: true})
	if err != nil {
		return nil
	}
	return f
}

// Headers implements symbols.Target: headers, debug directories and what they
// point to, of all modules together, an exchange for each of the three steps.
func (s *symbolSet) Headers(ctx context.Context, mods []symbols.Module) ([]*symbols.Header, error) {
	h, a, err := s.e.viewFor(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]*symbols.Header, len(mods))
	err = s.e.look(ctx, h, a, func(v *view) error {
		for i, m := range mods {
			out[i] = nil
			im, err := pe.Open(readerAt{&mapped{v: v, m: Module{Name: m.Name, Base: m.Base, Size: m.Size}}}, pe.Mapped)
			if err != nil {
				continue // not read yet, paged out, or no image
			}
			cv, err := im.CodeView()
			if err == nil || errors.Is(err, pe.ErrUnsupported) || errors.Is(err, pe.ErrMalformed) {
				out[i] = &symbols.Header{Timestamp: im.TimeDateStamp, CheckSum: im.CheckSum, Size: im.SizeOfImage, PDB: cv}
			}
		}
		return nil
	})
	return out, err
}

// Memory implements symbols.Target.
func (s *symbolSet) Memory(ctx context.Context, m symbols.Module) io.ReaderAt {
	return moduleMemory{s.e, ctx, m}
}

// ModuleMemory reads a module as it lies in the target's memory, by offset from its
// base. Pages that are not there end a read with a *MemoryError.
func (e *Engine) ModuleMemory(ctx context.Context, m Module) io.ReaderAt {
	return moduleMemory{e, ctx, symbols.Module{Name: m.Name, Base: m.Base, Size: m.Size}}
}

type moduleMemory struct {
	e   *Engine
	ctx context.Context
	m   symbols.Module
}

func (m moduleMemory) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off >= int64(m.m.Size) {
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), int64(m.m.Size)-off))
	d, err := m.e.Read(m.ctx, Virtual, m.m.Base+uint64(off), n)
	if err != nil {
		return 0, err
	}
	got := copy(p, d.Prefix())
	switch {
	case got < n:
		return got, &MemoryError{Addr: d.Addr + uint64(got), Status: d.Status}
	case got < len(p):
		return got, io.EOF
	}
	return got, nil
}
