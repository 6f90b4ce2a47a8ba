package symbols

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"
	"sync"
	"time"

	"openkd/image/sym"
)

const (
	defaultOpen = 64   // symbol files that are open at a time; macOS allows 256 files
	maxMisses   = 4096 // names that a module is known not to have
	loaders     = 8    // modules that are looked for at a time
)

// Set has the modules of one session and their symbols.
//
// A symbol file is looked for when somebody needs it and stays with its module;
// many may be known, but only some are open at a time. Methods with a context may
// look for files, which may take as long as a download; those without one answer
// from what is there.
//
// Concurrency: all methods from any goroutine. Who needs a module that is being
// loaded waits for that. A load that is interrupted leaves the module as it was.
type Set struct {
	f       *Finder
	target  Target
	maxOpen int

	mu     sync.Mutex
	mods   []*module // by base
	names  map[string]*module
	path   Path // of symbols
	images Path
	tick   uint64
	held   int // files that are open
	closed bool
	loose  bool
}

// NewSet makes an empty Set. target may be nil: then only what is said of a
// module is known of it. The Finder stays the caller's.
func NewSet(f *Finder, target Target) *Set {
	return &Set{f: f, target: target, maxOpen: defaultOpen, names: map[string]*module{}}
}

// Finder is where files are looked for.
func (s *Set) Finder() *Finder { return s.f }

// Paths are the symbol path and the image path.
func (s *Set) Paths() (symbols, images Path) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.path, s.images
}

// SetPaths changes them. Modules that have no symbol file are looked for anew;
// the others keep theirs.
func (s *Set) SetPaths(symbols, images Path) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.path, s.images = symbols, images
	for _, m := range s.mods {
		m.image, m.imageFile, m.imageTried, m.imageErr, m.blind, m.unread = nil, "", false, nil, false, false
		if m.state == None || m.state == Exports {
			s.drop(m)
		}
	}
}

// SetLoose has what is loaded from now on take files of the right name and the
// wrong identity, as LoadOptions.Loose does.
func (s *Set) SetLoose(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loose = on
}

// Close closes all files. What is in use is closed when it is not any more.
func (s *Set) Close() {
	s.Update(nil)
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
}

// Update says which modules there are. Those that stay keep their symbols.
func (s *Set) Update(mods []Module) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		mods = nil
	}
	if s.unchanged(mods) {
		return
	}
	old := map[uint64]*module{}
	for _, m := range s.mods {
		old[m.Base] = m
	}
	s.mods = nil
	for _, n := range mods {
		if n.Name == "" {
			n.Name = ModuleName(n.Image)
		}
		m := old[n.Base]
		if m != nil && m.said.same(&n) {
			delete(old, n.Base)
			if m.said != n {
				m.learn(n)
			}
		} else {
			m = &module{Module: n, loading: make(chan struct{}, 1)}
		}
		m.said = n
		s.mods = append(s.mods, m)
	}
	for _, m := range old {
		s.drop(m)
		m.gone = true
	}
	sort.SliceStable(s.mods, func(i, j int) bool { return s.mods[i].Base < s.mods[j].Base })
	s.names = make(map[string]*module, 2*len(s.mods))
	for _, m := range s.mods {
		// The file's name will do where it is nobody's own.
		if n := strings.ToLower(stem(m.Image)); s.names[n] == nil {
			s.names[n] = m
		}
	}
	for i := len(s.mods) - 1; i >= 0; i-- {
		s.names[strings.ToLower(s.mods[i].Name)] = s.mods[i]
	}
}

// unchanged says whether an Update brings nothing.
func (s *Set) unchanged(mods []Module) bool {
	if len(mods) != len(s.mods) {
		return false
	}
	for i := range mods {
		n := mods[i]
		if n.Name == "" {
			n.Name = ModuleName(n.Image)
		}
		if s.mods[i].said != n {
			return false
		}
	}
	return true
}

// learn takes what is new of a module. Set.mu is held.
func (m *module) learn(n Module) {
	m.Name = n.Name
	if n.Image != "" {
		m.Image = n.Image
	}
	if n.Size != 0 {
		m.Size = n.Size
	}
	if n.Timestamp != 0 {
		m.Timestamp = n.Timestamp
	}
	if n.CheckSum != 0 {
		m.CheckSum = n.CheckSum
	}
	if n.PDB != nil {
		m.PDB = n.PDB
	}
	if n.Header && !m.Header {
		m.Header, m.blind = true, false
	}
}

// drop makes a module deferred. Set.mu is held.
func (s *Set) drop(m *module) {
	s.shut(m)
	m.state, m.private, m.mismatched, m.file, m.err, m.tried = Deferred, false, false, "", nil, nil
	m.retry, m.misses, m.blind, m.unread, m.handle = time.Time{}, nil, false, false, nil
}

// shut closes a module's file, now or when it is not used any more. Set.mu is
// held.
func (s *Set) shut(m *module) {
	o := m.open
	if o == nil {
		return
	}
	m.open = nil
	if o.counted {
		s.held--
	}
	o.dead = true
	if o.refs == 0 {
		_ = o.Close() // it was only read
	}
}

// openFile is a symbol file that is open, with those who use it. Set.mu guards
// it.
type openFile struct {
	sym.File
	refs    int
	dead    bool // to be closed by the last user
	counted bool // it holds a file of the system
}

// Modules lists the modules by base.
func (s *Set) Modules() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Status, len(s.mods))
	for i, m := range s.mods {
		out[i] = m.status()
	}
	return out
}

// Status says what is known of the module at a base.
func (s *Set) Status(base uint64) (Status, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.exactly(base); m != nil {
		return m.status(), true
	}
	return Status{}, false
}

func (m *module) status() Status {
	return Status{Module: m.Module, State: m.state, Private: m.private, File: m.file, ImageFile: m.imageFile,
		Mismatched: m.mismatched, Err: m.err, Tried: m.tried}
}

// exactly finds a module by its base. Set.mu is held.
func (s *Set) exactly(base uint64) *module {
	if m := s.around(base); m != nil && m.Base == base {
		return m
	}
	return nil
}

// around finds the module of an address. Set.mu is held.
func (s *Set) around(addr uint64) *module {
	i := sort.Search(len(s.mods), func(i int) bool { return s.mods[i].Base > addr }) - 1
	if i < 0 || !s.mods[i].contains(addr) {
		return nil
	}
	return s.mods[i]
}

// At finds the module of an address.
func (s *Set) At(addr uint64) (Status, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.around(addr); m != nil {
		return m.status(), true
	}
	return Status{}, false
}

// Named finds a module by its name, or by that of its file, in any case.
func (s *Set) Named(name string) (Status, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.named(name); m != nil {
		return m.status(), true
	}
	return Status{}, false
}

func (s *Set) named(name string) *module {
	n := strings.ToLower(name)
	if m := s.names[n]; m != nil {
		return m
	}
	for _, m := range s.mods {
		if strings.ToLower(m.Image) == n {
			return m
		}
	}
	return nil
}

// Unload makes modules deferred again; all of them when none is named.
func (s *Set) Unload(bases ...uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, m := range s.mods {
		if len(bases) == 0 {
			s.drop(m)
		}
		for _, b := range bases {
			if m.Base == b {
				s.drop(m)
			}
		}
	}
}

// LoadOptions say how symbols are loaded. The zero value loads what is not loaded
// and was not looked for in vain.
type LoadOptions struct {
	// Force looks again, whatever is known already (.reload /f).
	Force bool
	// Loose takes a file of the right name and the wrong identity from a folder,
	// if there is no better one (.reload /i).
	Loose bool
	// File is taken and no other (ld /f).
	File string
	// NoTarget leaves the target alone: what is not known of a module is not asked.
	NoTarget bool
	// NoExports does not read what the image in the target's memory exports, which
	// takes its time over a slow line. A module of which nothing else is found
	// stays deferred.
	NoExports bool
}

// Load loads the symbols of the module at a base. The error is a *NoSymbolsError
// when there are none, and nil for exports.
func (s *Set) Load(ctx context.Context, base uint64, o LoadOptions) error {
	s.mu.Lock()
	m := s.exactly(base)
	s.mu.Unlock()
	if m == nil {
		return fmt.Errorf("%w at %x", ErrNoModule, base)
	}
	if o.Force {
		s.f.Forget()
	}
	return s.ensure(ctx, m, o)
}

// LoadAll loads the symbols of many modules side by side, all when none is named.
// done, which may be nil, is told of each, one at a time. The error is the
// context's; what became of each module its Status says.
func (s *Set) LoadAll(ctx context.Context, bases []uint64, o LoadOptions, done func(Status)) error {
	var list []*module
	s.mu.Lock()
	for _, b := range bases {
		if m := s.exactly(b); m != nil {
			list = append(list, m)
		}
	}
	if len(bases) == 0 {
		list = append(list, s.mods...)
	}
	s.mu.Unlock()
	if o.Force {
		s.f.Forget()
	}
	if !o.NoTarget {
		s.askAll(ctx, list, o)
	}
	work := make(chan *module)
	var wg sync.WaitGroup
	var tell sync.Mutex
	for range min(loaders, len(list)) {
		wg.Go(func() {
			for m := range work {
				_ = s.ensure(ctx, m, o) // the module keeps it
				if done != nil {
					tell.Lock()
					s.mu.Lock()
					st := m.status()
					s.mu.Unlock()
					done(st)
					tell.Unlock()
				}
			}
		})
	}
	for _, m := range list {
		if ctx.Err() != nil {
			break
		}
		work <- m
	}
	close(work)
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// askAll has the headers of many modules read at once.
func (s *Set) askAll(ctx context.Context, list []*module, o LoadOptions) {
	var todo []*module
	s.mu.Lock()
	for _, m := range list {
		if ok, _ := s.settled(m, o); !ok && !m.Header && (o.Force || m.state == Deferred) {
			todo = append(todo, m)
		}
	}
	s.mu.Unlock()
	if len(todo) > 0 {
		_ = s.ask(ctx, todo) // each asks again, and says why it fails
	}
}

// ask has headers read.
func (s *Set) ask(ctx context.Context, list []*module) error {
	if s.target == nil {
		return nil
	}
	mods := make([]Module, len(list))
	s.mu.Lock()
	for i, m := range list {
		mods[i] = m.Module
	}
	s.mu.Unlock()
	heads, err := s.target.Headers(ctx, mods)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, m := range list {
		if i < len(heads) && heads[i] != nil {
			h := heads[i]
			m.learn(Module{Name: m.Name, Size: h.Size, Timestamp: h.Timestamp, CheckSum: h.CheckSum, PDB: h.PDB, Header: true})
		}
	}
	return nil
}

// settled says whether there is nothing to do for a module, and what came of what
// was done. Set.mu is held.
func (s *Set) settled(m *module, o LoadOptions) (bool, error) {
	switch {
	case m.gone:
		return true, ErrUnloaded
	case o.Force || o.File != "":
		return false, nil
	case m.state == Deferred && o.NoExports && m.unread && (m.retry.IsZero() || s.f.now().Before(m.retry)):
		return true, &NoSymbolsError{m.Name, m.err}
	case m.state == Deferred:
		return o.NoTarget && m.blind, nil
	case m.state == PDB || m.state == InImage:
		return true, nil
	case o.Loose, !m.retry.IsZero() && !s.f.now().Before(m.retry):
		return false, nil
	case m.state == Exports:
		return true, nil
	}
	return true, &NoSymbolsError{m.Name, m.err}
}

// ensure loads a module unless that was done.
func (s *Set) ensure(ctx context.Context, m *module, o LoadOptions) error {
	s.mu.Lock()
	ok, err := s.settled(m, o)
	s.mu.Unlock()
	if ok {
		return err
	}
	select {
	case m.loading <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-m.loading }()
	s.mu.Lock()
	ok, err = s.settled(m, o) // by who was before us
	s.mu.Unlock()
	if ok {
		return err
	}
	return s.load(ctx, m, o)
}

// load looks for a module's symbols. The token of m.loading is held.
func (s *Set) load(ctx context.Context, m *module, o LoadOptions) error {
	s.mu.Lock()
	asked := m.Header || o.NoTarget || s.target == nil
	s.mu.Unlock()
	var askErr error
	if !asked {
		askErr = s.ask(ctx, []*module{m})
	}
	s.mu.Lock()
	o.Loose = o.Loose || s.loose
	l := &loader{s: s, o: o, m: m.Module, path: s.path, images: s.images}
	s.mu.Unlock()
	l.run(ctx)
	if ctx.Err() != nil && l.open == nil {
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if m.gone || s.closed {
		if l.open != nil {
			_ = l.open.Close()
		}
		return ErrUnloaded
	}
	if l.image != nil {
		m.image, m.imageFile, m.imageTried = l.image, l.imageFile, true
	}
	if l.state == None && !l.m.Header && l.m.PDB == nil {
		// What it is was not to be known now.
		switch {
		case o.NoTarget:
			m.blind = true
			return nil
		case askErr != nil:
			return fmt.Errorf("module %s: %w", m.Name, askErr)
		}
	}
	if o.File != "" && l.open == nil {
		return &NoSymbolsError{m.Name, l.err} // it keeps what it has
	}
	s.drop(m)
	m.state, m.file, m.mismatched, m.err, m.tried, m.retry = l.state, l.file, l.mismatched, l.err, l.tried, l.retry
	if l.open != nil {
		m.private = l.open.Private()
		m.id = l.open.Identity()
		s.adopt(m, l.open, l.state != Exports)
	}
	if !o.NoExports || l.state != None {
		s.f.log(m.line())
	}
	if l.state == None {
		if o.NoExports && l.image == nil && s.target != nil {
			m.state, m.unread = Deferred, true
		}
		return &NoSymbolsError{m.Name, m.err}
	}
	return nil
}

// line says in the log what came of a search.
func (m *module) line() string {
	kind := "no symbols loaded"
	switch {
	case m.state == PDB && m.private:
		kind = "private symbols & lines"
	case m.state == PDB:
		kind = "public symbols"
	case m.state == InImage && m.private:
		kind = "dwarf symbols & lines"
	case m.state == InImage:
		kind = "coff symbols"
	case m.state == Exports:
		kind = "export symbols"
	}
	if m.mismatched {
		kind += ", mismatched"
	}
	line := "DBGHELP: " + m.Name + " - " + kind
	if m.file != "" {
		line += " - " + m.file
	}
	return line
}

// adopt gives a module its open file. Set.mu is held.
func (s *Set) adopt(m *module, f sym.File, counted bool) {
	m.open = &openFile{File: f, counted: counted}
	s.tick++
	m.tick = s.tick
	if counted {
		s.held++
	}
	for s.held > s.maxOpen {
		var oldest *module
		for _, c := range s.mods {
			if c != m && c.open != nil && c.open.counted && c.open.refs == 0 && (oldest == nil || c.tick < oldest.tick) {
				oldest = c
			}
		}
		if oldest == nil {
			return
		}
		s.shut(oldest)
	}
}

// opened is the symbol file of a module, open until done is called.
type opened struct {
	sym.File
	module string // its name
	base   uint64
	done   func()
}

// acquire has a module's symbol file open. It looks for nothing.
func (s *Set) acquire(m *module) (*opened, error) {
	for {
		s.mu.Lock()
		switch {
		case m.gone || s.closed || m.state == Deferred:
			err := fmt.Errorf("module %s: %w", m.Name, ErrUnloaded)
			s.mu.Unlock()
			return nil, err
		case m.state == None:
			err := &NoSymbolsError{m.Name, m.err}
			s.mu.Unlock()
			return nil, err
		case m.open != nil:
			o := m.open
			o.refs++
			s.tick++
			m.tick = s.tick
			out := &opened{o.File, m.Name, m.Base, func() { s.release(o) }}
			s.mu.Unlock()
			return out, nil
		}
		s.mu.Unlock()
		if err := s.reopen(m); err != nil {
			return nil, err
		}
	}
}

func (s *Set) release(o *openFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if o.refs--; o.dead && o.refs == 0 {
		_ = o.Close()
	}
}

// reopen opens the file of a module again that was closed to save room. It does
// not wait for a search, so it takes no token: two may meet, and one is in vain.
func (s *Set) reopen(m *module) error {
	s.mu.Lock()
	state, file, id, name := m.state, m.file, m.id, m.Name
	s.mu.Unlock()
	open := s.f.opt.Openers.PDB
	if state == InImage {
		open = s.f.opt.Openers.Image
	}
	f, err := open(file)
	if err != nil {
		return fmt.Errorf("module %s: %w", name, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case f.Identity() != id:
		err = fmt.Errorf("%s is another file now; .reload /f %s looks for the right one", file, name)
	case m.gone || s.closed || m.state != state || m.file != file || m.open != nil:
		// acquire looks again.
	default:
		s.adopt(m, f, true)
		return nil
	}
	return errors.Join(err, f.Close())
}

// fileStamp tells whether a file on the disk is still the same.
type fileStamp struct {
	size int64
	time time.Time
}

func stampOf(f *os.File) (fileStamp, error) {
	st, err := f.Stat()
	if err != nil {
		return fileStamp{}, err
	}
	return fileStamp{st.Size(), st.ModTime()}, nil
}
