package symbols

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"openkd/internal/brief"
)

// What a server is asked, and what comes of it. A host that does not answer is
// left alone for a while, so that it costs one wait and not one for each module:
// the first request to it goes alone, and the others wait for how that ends.

// Errors of one request.
var (
	errMissing   = errors.New("not found")
	errEncoding  = errors.New("the server sent it in an encoding that was not asked for")
	errStalled   = errors.New("the server stopped sending")
	errRedirects = errors.New("a redirect of the server is not followed")
)

const (
	maxRedirects = 5
	maxFails     = 3 // answers that are errors, one after the other, that make a host count as dead
	maxTries     = 3 // of one request, with nothing coming; of one that stalls, one less
	maxResumes   = 30
	maxMissing   = 1 << 16 // names that a server is known not to have
)

// statusError is an answer that is neither the file nor a plain no.
type statusError struct {
	status string
	after  time.Duration // Retry-After; 0: none
}

func (e *statusError) Error() string { return "the server answers " + e.status }

// DownError says that a server does not answer, or was not asked because it did
// not.
type DownError struct {
	Server string // without passwords
	Err    error
	Until  time.Time
}

func (e *DownError) Error() string {
	return fmt.Sprintf("the symbol server %s cannot be used (%v)", e.Server, e.Err)
}

func (e *DownError) Unwrap() error { return e.Err }

// newClient makes the client for all servers.
func newClient(o *Options) (*http.Client, error) {
	proxy := http.ProxyFromEnvironment
	if o.Proxy != "" {
		text := o.Proxy
		if !strings.Contains(text, "://") {
			text = "http://" + text
		}
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" && u.Scheme != "socks5" {
			return nil, errors.New("the proxy for symbols is not host:port (_NT_SYMBOL_PROXY)")
		}
		proxy = http.ProxyURL(u)
	}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                  proxy,
			DialContext:            (&net.Dialer{Timeout: o.Connect}).DialContext,
			TLSHandshakeTimeout:    o.Connect,
			ResponseHeaderTimeout:  o.Header,
			MaxResponseHeaderBytes: 64 << 10,
			MaxIdleConnsPerHost:    o.Parallel,
			IdleConnTimeout:        30 * time.Second,
			DisableCompression:     true, // lengths and ranges are those of the file
			ForceAttemptHTTP2:      true,
		},
		CheckRedirect: redirect,
	}, nil
}

func redirect(to *http.Request, via []*http.Request) error {
	for _, r := range via {
		if r.URL.String() == to.URL.String() {
			return fmt.Errorf("%w: it leads back to %s", errRedirects, redactURL(to.URL))
		}
	}
	last := via[len(via)-1].URL
	switch {
	case len(via) > maxRedirects:
		return fmt.Errorf("%w: it is the %dth in a row", errRedirects, len(via))
	case last.Scheme == "https" && to.URL.Scheme != "https":
		return fmt.Errorf("%w: it leads from https to %s", errRedirects, redactURL(to.URL))
	}
	return nil
}

// host is one machine that servers are on.
type host struct {
	f     *Finder
	name  string
	slots chan struct{}

	mu    sync.Mutex
	alive bool
	first chan struct{} // a request is finding out whether it lives; closed at its end
	fails int           // errors in a row
	cuts  int           // connections that ended without an answer, in a row
	cause error         // nil: not dead
	until time.Time
	waits int  // times it was dead in a row
	told  bool // a person was told
}

func (h *host) forget() {
	h.mu.Lock()
	h.cause, h.fails, h.waits, h.told = nil, 0, 0, false
	h.mu.Unlock()
}

// enter waits for a turn. The caller calls answered as soon as there is an
// answer or none, then leave.
func (h *host) enter(ctx context.Context) (answered func(error), leave func(), err error) {
	for {
		h.mu.Lock()
		if h.cause != nil {
			if h.f.now().Before(h.until) {
				err := &DownError{h.name, h.cause, h.until}
				h.mu.Unlock()
				return nil, nil, err
			}
			h.cause, h.alive = nil, false
		}
		if h.alive {
			h.mu.Unlock()
			select {
			case h.slots <- struct{}{}:
			case <-ctx.Done():
				return nil, nil, context.Cause(ctx)
			}
			h.mu.Lock()
			ok := h.alive && h.cause == nil
			h.mu.Unlock()
			if !ok {
				<-h.slots
				continue
			}
			return h.answered, func() { <-h.slots }, nil
		}
		if first := h.first; first != nil {
			h.mu.Unlock()
			select {
			case <-first:
			case <-ctx.Done():
				return nil, nil, context.Cause(ctx)
			}
			continue
		}
		first := make(chan struct{})
		h.first = first
		h.mu.Unlock()
		var once sync.Once
		done := func() {
			once.Do(func() {
				h.mu.Lock()
				h.first = nil
				h.mu.Unlock()
				close(first)
			})
		}
		select {
		case h.slots <- struct{}{}:
		case <-ctx.Done():
			done()
			return nil, nil, context.Cause(ctx)
		}
		return func(err error) { h.answered(err); done() }, func() { done(); <-h.slots }, nil
	}
}

// answered notes that the host has answered (nil), or did not.
func (h *host) answered(err error) {
	if err == nil {
		h.mu.Lock()
		h.alive, h.cause, h.waits, h.cuts, h.told = true, nil, 0, 0, false
		h.mu.Unlock()
		return
	}
	h.dead(err, 0)
}

// cut notes a connection that ended without an answer. Once may be chance.
func (h *host) cut(err error) {
	h.mu.Lock()
	h.cuts++
	dead := h.cuts >= maxTries
	h.mu.Unlock()
	if dead {
		h.dead(err, 0)
	}
}

// good notes an answer that was the file, or a plain no.
func (h *host) good() {
	h.mu.Lock()
	h.fails = 0
	h.mu.Unlock()
}

// bad notes an answer that was an error. Enough of them in a row, and the host is
// left alone.
func (h *host) bad(err error) {
	h.mu.Lock()
	h.fails++
	dead := h.fails >= maxFails
	h.mu.Unlock()
	var st *statusError
	if errors.As(err, &st) && st.after > 0 {
		h.dead(err, st.after)
	} else if dead {
		h.dead(err, 0)
	}
}

// dead leaves the host alone for a while; 0: for a while that grows.
func (h *host) dead(err error, wait time.Duration) {
	const longest = 10
	retry := h.f.opt.Retry
	h.mu.Lock()
	if wait <= 0 {
		wait = retry << min(h.waits, 8)
	}
	wait = min(wait, longest*retry)
	if h.cause == nil { // those that were under way are not new failures
		h.waits++
		h.until = h.f.now().Add(wait)
	}
	h.alive, h.cause, h.fails, h.cuts = false, err, 0, 0
	tell := !h.told
	h.told = true
	h.mu.Unlock()
	if tell {
		h.f.notice("The symbol server %s cannot be used: %v. It is left alone for %s; .reload /f asks it at once.",
			h.name, err, wait.Round(time.Second))
	}
}

// server is one symbol server: a URL, with what is known of it.
type server struct {
	host *host
	base *url.URL
	name string // without passwords

	mu      sync.Mutex
	tiers   tiers
	probing chan struct{} // its layout is being found out; closed at the end
	missing map[string]error
}

func (f *Finder) serverOf(base string) (*server, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.servers[base]; s != nil {
		return s, nil
	}
	u, err := url.Parse(base)
	if err != nil {
		return nil, errors.New("the server's address is not a URL")
	}
	key := strings.ToLower(u.Scheme + "://" + u.Host)
	h := f.hosts[key]
	if h == nil {
		h = &host{f: f, name: u.Scheme + "://" + u.Host, slots: make(chan struct{}, f.opt.Parallel)}
		f.hosts[key] = h
	}
	s := &server{host: h, base: u, name: redactURL(u), missing: map[string]error{}}
	f.servers[base] = s
	return s, nil
}

// url is the address of a file on the server.
func (s *server) url(parts ...string) *url.URL {
	u := *s.base
	tail := "/" + strings.Join(parts, "/")
	if u.RawPath != "" {
		var t url.URL
		t.Path = tail
		u.RawPath = strings.TrimRight(u.RawPath, "/") + t.EscapedPath()
	}
	u.Path = strings.TrimRight(u.Path, "/") + tail
	return &u
}

// lacks says why the server is known not to have a file.
func (s *server) lacks(w *Wanted) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.missing[w.Name+"/"+w.Key()]
}

func (s *server) remember(w *Wanted, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.missing) >= maxMissing {
		clear(s.missing)
	}
	s.missing[w.Name+"/"+w.Key()] = err
}

// server asks one symbol server, and puts what it has into a cache.
func (s *search) server(ctx context.Context, base, into string) (string, bool) {
	if s.w.Key() == "" {
		return "", false
	}
	srv, err := s.f.serverOf(base)
	if err != nil {
		s.failed(err, time.Time{})
		return "", false
	}
	if why := srv.lacks(s.w); why != nil {
		s.say("SYMSRV", "%s - %s/%s - not asked again: %v", srv.name, s.w.Name, s.w.Key(), why)
		if !errors.Is(why, errMissing) {
			s.reject(why)
		}
		return "", false
	}
	path, err := s.f.fetch(ctx, s, srv, into)
	if err == nil {
		return path, true
	}
	var wrong *wrongFile
	var mm *MismatchError
	var down *DownError
	var ce *CacheError
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, errMissing):
		srv.remember(s.w, errMissing)
	case errors.As(err, &mm):
		s.say("SYMSRV", "%s - mismatched: it has %s, and %s is wanted", mm.Where, mm.Have, mm.Want)
		s.reject(err)
		srv.remember(s.w, err)
	case errors.As(err, &wrong):
		s.say("SYMSRV", "%v", err)
		s.reject(err)
		srv.remember(s.w, err)
	case errors.As(err, &down):
		s.say("SYMSRV", "%s - not asked: %v", srv.name, err)
		s.failed(err, down.Until)
	case errors.As(err, &ce):
		s.say("SYMSRV", "%s - %v", srv.name, err)
		s.failed(err, s.f.now().Add(s.f.opt.Retry))
	default:
		s.say("SYMSRV", "%s - %v", srv.name, err)
		s.failed(fmt.Errorf("%s: %w", srv.name, err), s.f.now().Add(s.f.opt.Retry))
	}
	return "", false
}

// fetch gets a file from a server into a cache. errMissing: the server has none.
func (f *Finder) fetch(ctx context.Context, s *search, srv *server, into string) (string, error) {
	c, err := f.openCache(into)
	if err != nil {
		return "", err
	}
	work := c.work(s.w)
	release, held, err := lock(ctx, work+".lock", func() {
		s.say("SYMSRV", "%s - another download of it is awaited", s.w.Name)
	})
	if err != nil {
		if ctx.Err() != nil {
			return "", err
		}
		return "", f.cacheBroken(into, err)
	}
	defer release()
	if final := c.path(s.w); f.verify(s.w, final, final) == nil {
		s.say("SYMSRV", "%s - OK", final) // somebody else has brought it
		return final, nil
	}
	if !held {
		work += "." + strconv.Itoa(os.Getpid())
	}

	t := srv.layout()
	tmp, where, err := f.fetchNames(ctx, s, srv, c, work, t)
	if errors.Is(err, errMissing) && t == unknownTiers {
		if t, err = f.probe(ctx, s, srv); err != nil {
			return "", err
		}
		err = errMissing
		if t == threeTiers {
			tmp, where, err = f.fetchNames(ctx, s, srv, c, work, t)
		}
	} else if err == nil {
		srv.setLayout(t)
	}
	if err != nil {
		return "", err
	}
	final, err := f.adopt(ctx, c, s.w, tmp, where)
	if err != nil {
		return "", err
	}
	s.say("SYMSRV", "%s - OK", final)
	return final, nil
}

// fetchNames tries the names that a file may have on a server: its own, the one
// it has when it is compressed, and a pointer to another place.
func (f *Finder) fetchNames(ctx context.Context, s *search, srv *server, c *cache, work string, t tiers) (tmp, where string, err error) {
	for _, name := range []string{s.w.Name, squeezed(s.w.Name)} {
		u := srv.url(t.place(s.w, name)...)
		tmp, err := f.download(ctx, s, srv, c, work, u)
		if !errors.Is(err, errMissing) {
			return tmp, redactURL(u), err
		}
	}
	u := srv.url(t.place(s.w, pointerName)...)
	b, err := f.small(ctx, s, srv, u)
	if err != nil {
		return "", "", err
	}
	p, err := parsePointer(b)
	switch {
	case err != nil:
		s.say("SYMSRV", "%s - %v", redactURL(u), err)
		return "", "", errMissing
	case p.message != "" || p.path == "":
		s.say("SYMSRV", "%s - %s", redactURL(u), p.message)
		return "", "", errMissing
	case !isURL(p.path):
		// It could be any file of ours, or make us log on at a stranger's.
		s.say("SYMSRV", "%s - points to the file %s, which is not followed from a server; name its folder in the symbol path", redactURL(u), brief.Text(p.path, 80))
		return "", "", errMissing
	}
	to, err := url.Parse(p.path)
	if err != nil || to.Host == "" {
		s.say("SYMSRV", "%s - points to something that is not a URL", redactURL(u))
		return "", "", errMissing
	}
	s.say("SYMSRV", "%s - points to %s", redactURL(u), redactURL(to))
	other, err := f.serverOf(to.Scheme + "://" + to.Host)
	if err != nil {
		return "", "", err
	}
	tmp, err = f.download(ctx, s, other, c, work, to)
	return tmp, redactURL(to), err
}

func (s *server) layout() tiers {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.tiers
}

func (s *server) setLayout(t tiers) {
	if t == unknownTiers {
		t = twoTiers // that is what was tried
	}
	s.mu.Lock()
	s.tiers = t
	s.mu.Unlock()
}

// probe finds out how a server is laid out, once.
func (f *Finder) probe(ctx context.Context, s *search, srv *server) (tiers, error) {
	for {
		srv.mu.Lock()
		if t := srv.tiers; t != unknownTiers {
			srv.mu.Unlock()
			return t, nil
		}
		if wait := srv.probing; wait != nil {
			srv.mu.Unlock()
			select {
			case <-wait:
				continue
			case <-ctx.Done():
				return 0, context.Cause(ctx)
			}
		}
		done := make(chan struct{})
		srv.probing = done
		srv.mu.Unlock()
		t := threeTiers
		_, err := f.small(ctx, s, srv, srv.url(tiersName))
		if errors.Is(err, errMissing) {
			t, err = twoTiers, nil
		}
		srv.mu.Lock()
		if err == nil {
			srv.tiers = t
		}
		srv.probing = nil
		srv.mu.Unlock()
		close(done)
		return t, err
	}
}
