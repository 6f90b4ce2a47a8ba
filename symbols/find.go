package symbols

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"openkd/internal/brief"
	"openkd/internal/localdisk"
)

// Options of a Finder. The zero value is usable.
type Options struct {
	// Cache is the default cache, a folder; "" is that of FromEnvironment.
	Cache string
	// Proxy is host:port or a URL; "" is what HTTP_PROXY and its kin say.
	Proxy string
	// Connect, Header and Stall bound the wait for a connection to a server, for
	// the beginning of an answer, and between pieces of one: 5, 15 and 20 s.
	Connect, Header, Stall time.Duration
	// Retry is how long a server that does not answer is left alone: 60 s, and
	// longer each time, up to ten times as long.
	Retry time.Duration
	// MaxFile bounds a file, in bytes: 4 GiB.
	MaxFile int64
	// Parallel is how many requests a server gets at a time: 4.
	Parallel int
	// Log takes the lines of !sym noisy, those of DbgHelp as far as there are any.
	Log func(line string)
	// Notice takes what a person should read even when nothing is noisy, a line
	// each: a server does not answer, a cache is full. It comes once.
	Notice func(text string)
	// Progress takes how far downloads are.
	Progress func(Progress)
	// Openers read symbol files; the zero value means DefaultOpeners.
	Openers Openers
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Local says why a path does not lie on a disk of this machine, for Secure
	// Mode; nil means localdisk.Check.
	Local func(path string) error

	pause time.Duration // before a request that failed is made again; 500 ms
	slow  time.Duration // a folder that takes so long to say that it is not there is on a dead machine; 1 s
	stat  func(string) (fs.FileInfo, error)
}

// Progress is how far a download is. Several run at a time; each says last that
// it is finished.
type Progress struct {
	Name     string // of the file
	Server   string // without passwords
	Done     int64  // bytes
	Total    int64  // bytes; 0: not known
	Finished bool   // well or not
}

// Finder looks for files.
//
// Concurrency: all methods from any goroutine. Log, Notice and Progress are
// called from whichever goroutine finds something, one call at a time; they must
// not call the Finder. Nothing goes on when no method runs.
type Finder struct {
	opt    Options
	client *http.Client
	noisy  atomic.Bool
	secure atomic.Bool

	sayMu sync.Mutex // held while somebody is told something

	mu      sync.Mutex
	hosts   map[string]*host   // by scheme and host
	servers map[string]*server // by URL
	caches  map[string]brokenCache
	shares  map[string]*share // folders
}

// NewFinder makes a Finder. The error is about the proxy.
func NewFinder(o Options) (*Finder, error) {
	set := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	set(&o.Connect, 5*time.Second)
	set(&o.Header, 15*time.Second)
	set(&o.Stall, 20*time.Second)
	set(&o.Retry, time.Minute)
	set(&o.pause, 500*time.Millisecond)
	set(&o.slow, time.Second)
	if o.stat == nil {
		o.stat = os.Stat
	}
	if o.MaxFile <= 0 {
		o.MaxFile = 4 << 30
	}
	if o.Parallel <= 0 {
		o.Parallel = 4
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Cache == "" {
		o.Cache = FromEnvironment(os.Getenv).Cache
	}
	if o.Local == nil {
		o.Local = localdisk.Check
	}
	if o.Openers.PDB == nil {
		o.Openers = DefaultOpeners()
	}
	f := &Finder{opt: o, hosts: map[string]*host{}, servers: map[string]*server{}, caches: map[string]brokenCache{}, shares: map[string]*share{}}
	var err error
	f.client, err = newClient(&f.opt)
	return f, err
}

// Close drops idle connections.
func (f *Finder) Close() { f.client.CloseIdleConnections() }

// Cache is the default cache.
func (f *Finder) Cache() string { return f.opt.Cache }

// SetNoisy switches the log on and off (!sym noisy, !sym quiet).
func (f *Finder) SetNoisy(on bool) { f.noisy.Store(on) }

// Noisy says whether the log is on.
func (f *Finder) Noisy() bool { return f.noisy.Load() }

// Forget drops what is remembered: files that servers did not have, servers that
// did not answer, caches that could not be written.
func (f *Finder) Forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range f.hosts {
		h.forget()
	}
	f.servers = map[string]*server{}
	f.caches = map[string]brokenCache{}
	f.shares = map[string]*share{}
}

func (f *Finder) now() time.Time { return f.opt.Now() }

func (f *Finder) notice(format string, a ...any) {
	if f.opt.Notice != nil {
		f.sayMu.Lock()
		defer f.sayMu.Unlock()
		f.opt.Notice(fmt.Sprintf(format, a...))
	}
}

func (f *Finder) log(line string) {
	if f.opt.Log != nil && f.noisy.Load() {
		f.sayMu.Lock()
		defer f.sayMu.Unlock()
		f.opt.Log(line)
	}
}

func (f *Finder) progress(p Progress) {
	if f.opt.Progress != nil {
		f.sayMu.Lock()
		defer f.sayMu.Unlock()
		f.opt.Progress(p)
	}
}

// Found is a file that was looked for.
type Found struct {
	Path       string
	Mismatched bool     // taken all the same (Wanted.Loose)
	Tried      []string // every place, as the log has it
}

// NotFoundError says that a file is nowhere. Its text says what came nearest.
type NotFoundError struct {
	Name, Identity string
	Tried          []string  // every place, as the log has it
	Rejected       []error   // files that are not the one
	Failed         []error   // places that could not be asked
	Retry          time.Time // when asking again may help; zero: not before something changes
}

func (e *NotFoundError) Error() string {
	s := fmt.Sprintf("%s (%s) was not found", e.Name, e.Identity)
	switch {
	case len(e.Rejected) > 0:
		s += ": " + e.Rejected[0].Error()
	case len(e.Failed) > 0:
		s += ": " + e.Failed[0].Error()
	case len(e.Tried) == 0:
		s += ": the symbol path is empty; set one: .sympath srv*"
	case len(e.Tried) == 1:
		s += " in the one place that was looked at; !sym noisy shows it"
	default:
		s += fmt.Sprintf(" in %d places; !sym noisy shows them", len(e.Tried))
	}
	return s
}

// Unwrap gives what was rejected and what failed.
func (e *NotFoundError) Unwrap() []error {
	return append(append([]error(nil), e.Rejected...), e.Failed...)
}

// maxTried bounds what is kept of one search, in lines.
const maxTried = 500

// search is one walk along a path. It belongs to one goroutine.
type search struct {
	f     *Finder
	w     *Wanted
	found Found
	none  NotFoundError
	loose string // a file of the name with another identity
}

// say notes a place, and what came of it.
func (s *search) say(who, format string, a ...any) {
	line := who + ": " + fmt.Sprintf(format, a...)
	if len(s.found.Tried) < maxTried {
		s.found.Tried = append(s.found.Tried, line)
	}
	s.f.log(line)
}

// Find looks for a file along a path. The error is a *NotFoundError, the
// context's, or says what is wrong with w.
func (f *Finder) Find(ctx context.Context, p Path, w Wanted) (Found, error) {
	if err := w.check(); err != nil {
		return Found{}, err
	}
	s := &search{f: f, w: &w, none: NotFoundError{Name: w.Name, Identity: w.Identity()}}
	path, ok := s.walk(ctx, p)
	if err := ctx.Err(); err != nil && !ok {
		return Found{}, context.Cause(ctx)
	}
	if !ok && w.Loose && s.loose != "" {
		path, ok, s.found.Mismatched = s.loose, true, true
		s.say("DBGHELP", "%s - mismatched, and taken because it was asked to be", path)
	}
	if !ok {
		s.none.Tried = s.found.Tried
		return Found{}, &s.none
	}
	s.found.Path = path
	return s.found, nil
}

func (s *search) walk(ctx context.Context, p Path) (string, bool) {
	// copyTo is the cache that gets what later elements have.
	copyTo := ""
	for _, e := range p.elements {
		if ctx.Err() != nil {
			return "", false
		}
		if s.f.secure.Load() {
			if err := s.f.refuses(&e); err != nil {
				s.say("DBGHELP", "%s - left out: %v", e, err)
				continue
			}
		}
		switch e.Kind {
		case Folder:
			if path, ok := s.folder(ctx, e.Stores[0], copyTo); ok {
				return s.copied(ctx, copyTo, path), true
			}
		case Cache:
			dir := s.f.folder(e.Stores[0])
			if path, ok := s.store(ctx, dir, dir); ok {
				return s.copied(ctx, copyTo, path), true
			}
			copyTo = dir
		case Server:
			if path, ok := s.chain(ctx, e.Stores, copyTo); ok {
				return s.copied(ctx, copyTo, path), true
			}
		}
	}
	return "", false
}

// folder is a folder of a path by its name; "" is the default cache.
func (f *Finder) folder(name string) string {
	if name == "" {
		name = f.opt.Cache
	}
	if abs, err := filepath.Abs(name); err == nil {
		return abs
	}
	return name
}

// copied puts a copy into a cache, "" for none, and returns the path to use.
func (s *search) copied(ctx context.Context, root, path string) string {
	if root == "" || s.f.secure.Load() {
		return path
	}
	if s.w.Key() == "" {
		return path // a store could not hold it
	}
	got, err := s.f.copyIn(ctx, root, s.w, path, path)
	if err != nil {
		s.say("SYMSRV", "%s - not copied to %s: %v", path, root, err)
		return path
	}
	return got
}

// folder looks in a symbol folder: as DbgHelp does, then as in a store. What is
// compressed there is expanded into scratch, "" for the default cache.
func (s *search) folder(ctx context.Context, dir, scratch string) (string, bool) {
	dir = s.f.folder(dir)
	if !s.reachable("DBGHELP", dir) {
		return "", false
	}
	places := [][]string{{s.w.Name}}
	if s.w.Ext != "" {
		places = [][]string{{"symbols", s.w.Ext, s.w.Name}, {s.w.Ext, s.w.Name}, {s.w.Name}}
	}
	for _, p := range places {
		path, err := lookUpFile(dir, p...)
		if err != nil {
			s.say("DBGHELP", "%s - %s", path, reason(err))
			continue
		}
		if s.fits("DBGHELP", path, true) {
			return path, true
		}
	}
	return s.store(ctx, dir, scratch)
}

// share is a folder, which may be another machine's.
type share struct {
	mu    sync.Mutex // held while it is looked at, which may take long
	err   error
	until time.Time
}

// reachable says whether a folder is there. One that takes long to say no is on a
// machine that does not answer, and is left alone for a while, like a server.
func (s *search) reachable(who, root string) bool {
	f := s.f
	f.mu.Lock()
	sh := f.shares[root]
	if sh == nil {
		sh = &share{}
		f.shares[root] = sh
	}
	f.mu.Unlock()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.err != nil && f.now().Before(sh.until) {
		s.say(who, "%s - not asked: %s", root, reason(sh.err))
		s.failed(fmt.Errorf("%s: %w", root, sh.err), sh.until)
		return false
	}
	sh.err = nil
	begin := time.Now()
	_, err := f.opt.stat(root)
	if err == nil {
		return true
	}
	why := reason(err)
	if errors.Is(err, fs.ErrNotExist) {
		why = "path not found"
	}
	s.say(who, "%s - %s", root, why)
	if time.Since(begin) >= f.opt.slow {
		sh.err, sh.until = err, f.now().Add(f.opt.Retry)
		s.failed(fmt.Errorf("%s: %w", root, err), sh.until)
		f.notice("The symbol folder %s cannot be reached: %s. It is left alone for %s; .reload /f looks there at once.", root, reason(err), f.opt.Retry.Round(time.Second))
	}
	return false
}

// fits checks a file that is there and says what came of it.
func (s *search) fits(who, path string, own bool) bool {
	if err := s.f.local(path); err != nil { // a link leads away
		s.say(who, "%v, which Secure Mode does not read", err)
		return false
	}
	err := s.f.verify(s.w, path, path)
	if err == nil {
		s.say(who, "%s - OK", path)
		return true
	}
	var mm *MismatchError
	if errors.As(err, &mm) {
		s.say(who, "%s - mismatched: it has %s, and %s is wanted", path, mm.Have, mm.Want)
		if own && s.loose == "" {
			s.loose = path
		}
		s.reject(err)
		return false
	}
	s.say(who, "%s - %s", path, reason(err))
	if !errors.Is(err, fs.ErrNotExist) {
		s.reject(fmt.Errorf("%s: %w", path, withoutPath(err, path)))
	}
	return false
}

// maxReasons bounds how many files and failures an error keeps.
const maxReasons = 32

func (s *search) reject(err error) {
	if len(s.none.Rejected) < maxReasons {
		s.none.Rejected = append(s.none.Rejected, err)
	}
}

// failed notes a place that could not be asked. retry is when it may be again.
func (s *search) failed(err error, retry time.Time) {
	if len(s.none.Failed) < maxReasons {
		s.none.Failed = append(s.none.Failed, err)
	}
	if s.none.Retry.IsZero() || retry.Before(s.none.Retry) {
		s.none.Retry = retry
	}
}

// store looks in a store that is a folder.
func (s *search) store(ctx context.Context, root, scratch string) (string, bool) {
	if s.w.Key() == "" {
		return "", false
	}
	if !s.reachable("SYMSRV", root) {
		return "", false
	}
	place := tiersOf(root).place(s.w, s.w.Name)
	dir, _, err := lookUp(root, place[:len(place)-1]...)
	if err != nil {
		why := reason(err)
		if errors.Is(err, fs.ErrNotExist) {
			why = "path not found"
		}
		s.say("SYMSRV", "%s - %s", filepath.Join(dir, s.w.Name), why)
		return "", false
	}
	path, err := lookUpFile(dir, s.w.Name)
	if err != nil {
		s.say("SYMSRV", "%s - %s", path, reason(err))
	} else if s.fits("SYMSRV", path, false) {
		return path, true
	}
	if path, err = lookUpFile(dir, squeezed(s.w.Name)); err == nil && s.f.secure.Load() {
		s.say("SYMSRV", "%s - %v", path, errSecurePacked)
		s.reject(fmt.Errorf("%s: %w", path, errSecurePacked))
	} else if err == nil {
		if scratch == "" {
			scratch = s.f.folder("")
		}
		got, err := s.f.copyIn(ctx, scratch, s.w, path, path)
		if err == nil {
			s.say("SYMSRV", "%s - expanded to %s", path, got)
			return got, true
		}
		s.trouble(ctx, "SYMSRV", path, err)
	}
	if path, err = lookUpFile(dir, pointerName); err == nil {
		return s.follow(path)
	}
	return "", false
}

// trouble notes an error with a file of a store.
func (s *search) trouble(ctx context.Context, who, where string, err error) {
	var mm *MismatchError
	var ce *CacheError
	switch {
	case ctx.Err() != nil:
		s.say(who, "%s - interrupted", where)
	case errors.As(err, &mm):
		s.say(who, "%s - mismatched: it has %s, and %s is wanted", where, mm.Have, mm.Want)
		s.reject(err)
	case errors.As(err, &ce):
		s.say(who, "%s - %v", where, ce)
		s.failed(ce, s.f.now().Add(s.f.opt.Retry))
	default:
		s.say(who, "%s - %v", where, err)
		s.reject(err)
	}
}

// follow goes where a file.ptr of a folder points, once.
func (s *search) follow(ptr string) (string, bool) {
	p, err := readPointer(ptr)
	switch {
	case err != nil:
		s.say("SYMSRV", "%s - %s", ptr, reason(err))
		return "", false
	case p.message != "" || p.path == "":
		s.say("SYMSRV", "%s - %s", ptr, p.message)
		return "", false
	case isURL(p.path):
		s.say("SYMSRV", "%s - points to %s, which is not followed from a folder", ptr, redact(p.path))
		return "", false
	case foreign(p.path):
		s.say("SYMSRV", "%s - points to %s, a folder of Windows that cannot be reached by that name here", ptr, brief.Text(p.path, 80))
		return "", false
	}
	path := p.path
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(ptr), path)
	}
	s.say("SYMSRV", "%s - points to %s", ptr, brief.Text(path, 80))
	if err := s.f.local(path); err != nil {
		s.say("SYMSRV", "%v, which Secure Mode does not read", err)
		return "", false
	}
	if st, err := os.Stat(path); err != nil || !st.Mode().IsRegular() {
		s.say("SYMSRV", "%s - file not found", brief.Text(path, 80))
		return "", false
	}
	return path, s.fits("SYMSRV", path, false)
}

// chain looks in the stores of a srv* element, nearest first. What is found is
// put into the folders before it.
func (s *search) chain(ctx context.Context, stores []string, copyTo string) (string, bool) {
	var near []string // folders that were passed
	for i, name := range stores {
		if ctx.Err() != nil {
			return "", false
		}
		if !isURL(name) {
			dir := s.f.folder(name)
			scratch := copyTo
			if i < len(stores)-1 {
				scratch = dir // it is a cache itself
			} else if len(near) > 0 {
				scratch = near[len(near)-1]
			}
			if path, ok := s.store(ctx, dir, scratch); ok {
				return s.copyBack(ctx, near, path), true
			}
			near = append(near, dir)
			continue
		}
		into := copyTo
		switch {
		case len(near) > 0:
			into = near[len(near)-1]
		case into == "":
			into = s.f.folder("")
			if path, ok := s.store(ctx, into, into); ok {
				return path, true
			}
		}
		if s.w.Local {
			continue
		}
		if path, ok := s.server(ctx, name, into); ok {
			return s.copyBack(ctx, near, path), true
		}
	}
	return "", false
}

// copyBack puts copies into the nearer stores, the nearest last.
func (s *search) copyBack(ctx context.Context, near []string, path string) string {
	for i := len(near) - 1; i >= 0; i-- {
		if !strings.HasPrefix(path, near[i]+string(filepath.Separator)) {
			path = s.copied(ctx, near[i], path)
		}
	}
	return path
}
