package symbols

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// userAgent says who asks, and what servers that look for SymSrv want to see.
const userAgent = "OpenKD (compatible; Microsoft-Symbol-Server)"

// stallBytes must come in the time of Options.Stall, or the server has stalled.
const stallBytes = 16 << 10

// answer is the beginning of an answer to a GET.
type answer struct {
	*http.Response
	cancel context.CancelFunc
	leave  func()
}

func (a *answer) close() {
	_ = a.Body.Close()
	a.cancel()
	a.leave()
}

// get asks a host once. The error is errMissing, a *statusError, a *DownError,
// the context's, or says why there is no answer.
func (f *Finder) get(ctx context.Context, h *host, u *url.URL, header func(http.Header)) (*answer, error) {
	if f.secure.Load() {
		return nil, errSecureServer
	}
	answered, leave, err := h.enter(ctx)
	if err != nil {
		return nil, err
	}
	rctx, cancel := context.WithCancel(ctx)
	fail := func(err error) (*answer, error) {
		cancel()
		leave()
		return nil, err
	}
	req, err := http.NewRequestWithContext(rctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return fail(errors.New("the address is not a URL"))
	}
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set("Accept-Encoding", "identity")
	if header != nil {
		header(req.Header)
	}
	resp, err := f.client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // ue has the address, and what is secret in it
		}
		if ctx.Err() != nil {
			return fail(context.Cause(ctx))
		}
		switch {
		case errors.Is(err, errRedirects): // it answers, if nothing good
			answered(nil)
			h.bad(err)
		case cutOff(err):
			h.cut(err)
		default:
			answered(err)
			err = &DownError{h.name, err, f.now().Add(f.opt.Retry)}
		}
		return fail(err)
	}
	a := &answer{resp, cancel, leave}
	if resp.StatusCode == http.StatusProxyAuthRequired {
		err := errors.New("the proxy wants a password: _NT_SYMBOL_PROXY=http://user:password@host:port")
		answered(err)
		a.close()
		return nil, &DownError{h.name, err, f.now().Add(f.opt.Retry)}
	}
	answered(nil)
	switch code := resp.StatusCode; {
	case code == http.StatusOK || code == http.StatusPartialContent || code == http.StatusRequestedRangeNotSatisfiable:
		return a, nil
	case code >= 500 || code == http.StatusTooManyRequests || code == http.StatusRequestTimeout:
		st := &statusError{status: resp.Status}
		if n, aerr := strconv.Atoi(resp.Header.Get("Retry-After")); aerr == nil && n > 0 {
			st.after = time.Duration(min(n, 3600)) * time.Second
		}
		err = st
	case code >= 400:
		// Some stores say 403 of what they do not have.
		h.good()
		err = errMissing
		if code == http.StatusUnauthorized || code == http.StatusForbidden {
			err = fmt.Errorf("%w, or not for us (%s)", errMissing, resp.Status)
		}
	default:
		err = &statusError{status: resp.Status}
	}
	a.close()
	return nil, err
}

// cutOff says whether a connection was there and ended before an answer.
func cutOff(err error) bool {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Op != "dial" && !op.Timeout()
	}
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// small gets what has a few bytes at most.
func (f *Finder) small(ctx context.Context, s *search, srv *server, u *url.URL) ([]byte, error) {
	var out []byte
	err := f.retried(ctx, srv.host, func() (bool, error) {
		a, err := f.get(ctx, srv.host, u, nil)
		if err != nil {
			return false, err
		}
		defer a.close()
		if a.StatusCode != http.StatusOK {
			return false, &statusError{status: a.Status}
		}
		w := newWatch(f.opt.Stall, a)
		defer w.stop()
		out, err = io.ReadAll(io.LimitReader(a.Body, maxPointer+1))
		if err != nil {
			return false, w.why(err)
		}
		return false, nil
	})
	s.told(u, err)
	return out, err
}

// told notes what came of a request.
func (s *search) told(u *url.URL, err error) {
	switch {
	case err == nil:
		s.say("SYMSRV", "%s - received", redactURL(u))
	case errors.Is(err, errMissing):
		s.say("SYMSRV", "%s - %v", redactURL(u), err)
	}
}

// retried makes a request again when what went wrong may go right: an error of
// the server, a connection that was cut. try says whether something came.
func (f *Finder) retried(ctx context.Context, h *host, try func() (came bool, err error)) error {
	fruitless := 0
	for n := 0; ; n++ {
		came, err := try()
		if err == nil {
			h.good()
			return nil
		}
		var down *DownError
		var wrong *wrongFile
		var ce *CacheError
		var st *statusError
		if ctx.Err() != nil || errors.Is(err, errMissing) || errors.Is(err, errRedirects) || errors.Is(err, errSecureServer) || errors.As(err, &down) || errors.As(err, &wrong) || errors.As(err, &ce) {
			return err
		}
		if fruitless++; came {
			fruitless = 0
		}
		switch {
		case errors.Is(err, errStalled) && fruitless >= maxTries-1:
			h.dead(err, 0)
			return err
		case fruitless >= maxTries || n >= maxResumes || errors.As(err, &st) && st.after > 0:
			h.bad(err)
			return err
		}
		t := time.NewTimer(f.opt.pause << min(fruitless, 4))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
	}
}

// part is what has come of a file, on the disk.
type part struct {
	f    *Finder
	c    *cache
	file *os.File
	from string // the path of the note where it is from
	url  string // a hash: addresses may hold keys

	size  int64  // bytes that are there
	total int64  // bytes of the whole; 0: not known
	tag   string // what If-Range takes; "": it cannot be gone on with
}

func (f *Finder) openPart(c *cache, work string, u *url.URL) (*part, error) {
	sum := sha256.Sum256([]byte(u.String()))
	url := hex.EncodeToString(sum[:])
	work += "." + url[:16] // servers do not go on with each other's
	file, err := os.OpenFile(work+".part", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, f.cacheBroken(c.root, err)
	}
	p := &part{f: f, c: c, file: file, from: work + ".from", url: url}
	st, err := file.Stat()
	if err == nil && st.Size() > 0 {
		note, rerr := os.ReadFile(p.from)
		lines := strings.Split(string(note), "\n")
		if rerr == nil && len(lines) >= 2 && lines[0] == p.url && len(lines[1]) < 256 {
			p.size, p.tag = st.Size(), lines[1]
		} else {
			err = file.Truncate(0)
		}
	}
	if err != nil {
		_ = file.Close()
		return nil, f.cacheBroken(c.root, err)
	}
	return p, nil
}

// restart begins anew, with an answer that has the whole.
func (p *part) restart(a *answer) error {
	p.size, p.total, p.tag = 0, max(a.ContentLength, 0), ""
	if e := a.Header.Get("ETag"); strings.HasPrefix(e, `"`) && len(e) < 256 {
		p.tag = e
	} else if m := a.Header.Get("Last-Modified"); m != "" && len(m) < 256 && e == "" {
		p.tag = m
	}
	err := p.file.Truncate(0)
	if err == nil && p.tag != "" {
		err = os.WriteFile(p.from, []byte(p.url+"\n"+p.tag+"\n"), 0o644)
	}
	if err != nil {
		return p.f.cacheBroken(p.c.root, err)
	}
	return nil
}

// finish closes the file. What cannot be gone on with is removed.
func (p *part) finish(keep bool) error {
	err := p.file.Close()
	if !keep {
		_ = os.Remove(p.file.Name())
	}
	if !keep || p.tag == "" {
		_ = os.Remove(p.from)
	}
	return err
}

// download gets a file whole, going on where it was cut, into a temporary file.
func (f *Finder) download(ctx context.Context, s *search, srv *server, c *cache, work string, u *url.URL) (string, error) {
	p, err := f.openPart(c, work, u)
	if err != nil {
		return "", err
	}
	pr := &progressing{f: f, p: Progress{Name: s.w.Name, Server: srv.name}}
	defer pr.finish()
	err = f.retried(ctx, srv.host, func() (bool, error) {
		before := p.size
		err := f.piece(ctx, s.w, srv.host, p, u, pr)
		came := p.size - before
		if err != nil && came > 0 && ctx.Err() == nil {
			s.say("SYMSRV", "%s - cut after %d bytes: %v", redactURL(u), p.size, err)
		}
		return came >= stallBytes || came > 0 && p.size == p.total, err
	})
	var wrong *wrongFile
	var ce *CacheError
	if err == nil {
		if serr := p.file.Sync(); serr != nil {
			err = f.cacheBroken(c.root, serr)
		}
	}
	// What was interrupted is gone on with some day.
	keep := err == nil || p.size > 0 && p.tag != "" && !errors.As(err, &wrong) && !errors.As(err, &ce) && !errors.Is(err, errMissing)
	if cerr := p.finish(keep); err == nil && cerr != nil {
		err = f.cacheBroken(c.root, cerr)
	}
	s.told(u, err)
	if err != nil {
		return "", err
	}
	_ = os.Remove(p.from)
	return p.file.Name(), nil
}

// piece makes one request for what is missing.
func (f *Finder) piece(ctx context.Context, w *Wanted, h *host, p *part, u *url.URL, pr *progressing) error {
	resume := p.size > 0 && p.tag != ""
	a, err := f.get(ctx, h, u, func(h http.Header) {
		if resume {
			h.Set("Range", fmt.Sprintf("bytes=%d-", p.size))
			h.Set("If-Range", p.tag)
		}
	})
	if err != nil {
		return err
	}
	defer a.close()
	if e := a.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return &wrongFile{errEncoding}
	}
	switch {
	case a.StatusCode == http.StatusOK:
		if err := p.restart(a); err != nil {
			return err
		}
	case resume && a.StatusCode == http.StatusPartialContent:
		start, total, ok := contentRange(a.Header.Get("Content-Range"))
		if !ok || start != p.size || p.total > 0 && total != p.total {
			p.tag = "" // the next request is for all of it
			return errors.New("the server sends another piece than was asked for")
		}
		p.total = total
	default:
		had := p.tag != ""
		p.tag = ""
		if had && a.StatusCode == http.StatusRequestedRangeNotSatisfiable {
			return errors.New("the file on the server is shorter now")
		}
		return &statusError{status: a.Status}
	}
	most := f.opt.MaxFile
	tooLarge := func(n int64) error {
		return &wrongFile{fmt.Errorf("%s: the file has %d bytes or more, and %d are allowed", redactURL(u), n, most)}
	}
	if p.total > most {
		return tooLarge(p.total)
	}
	watch := newWatch(f.opt.Stall, a)
	defer watch.stop()
	buf := make([]byte, 64<<10)
	for {
		n, err := a.Body.Read(buf)
		watch.came(n)
		if n > 0 {
			if p.size+int64(n) > most {
				return tooLarge(p.size + int64(n))
			}
			if _, err := p.file.WriteAt(buf[:n], p.size); err != nil {
				return f.cacheBroken(p.c.root, err)
			}
			was := p.size
			p.size += int64(n)
			pr.at(p.size, p.total)
			if was < sniff && (p.size >= sniff || p.size == p.total) {
				head := make([]byte, min(sniff, p.size))
				if _, err := p.file.ReadAt(head, 0); err != nil {
					return f.cacheBroken(p.c.root, err)
				}
				if err := w.begins(head); err != nil {
					return &wrongFile{fmt.Errorf("%s: %w", redactURL(u), err)}
				}
			}
		}
		switch {
		case errors.Is(err, io.EOF):
			if p.total > 0 && p.size != p.total {
				return fmt.Errorf("%d of %d bytes came", p.size, p.total)
			}
			if p.size < sniff {
				return &wrongFile{fmt.Errorf("%s: a file of %d bytes", redactURL(u), p.size)}
			}
			return nil
		case err != nil:
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return watch.why(err)
		}
	}
}

// contentRange reads "bytes 5-9/10".
func contentRange(s string) (start, total int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes ")
	span, whole, ok2 := strings.Cut(s, "/")
	from, _, ok3 := strings.Cut(span, "-")
	start, err1 := strconv.ParseInt(from, 10, 64)
	total, err2 := strconv.ParseInt(whole, 10, 64)
	return start, total, ok && ok2 && ok3 && err1 == nil && err2 == nil && start >= 0 && start < total
}

// watch ends an answer that brings too little for too long.
type watch struct {
	every time.Duration
	timer *time.Timer
	n     int

	mu      sync.Mutex
	stalled bool
}

func newWatch(every time.Duration, a *answer) *watch {
	w := &watch{every: every}
	w.timer = time.AfterFunc(every, func() {
		w.mu.Lock()
		w.stalled = true
		w.mu.Unlock()
		a.cancel()
	})
	return w
}

func (w *watch) came(n int) {
	if w.n += n; w.n >= stallBytes {
		w.n = 0
		w.timer.Reset(w.every)
	}
}

func (w *watch) stop() { w.timer.Stop() }

// why is the reason for which an answer ended.
func (w *watch) why(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stalled {
		return fmt.Errorf("%w for %s", errStalled, w.every)
	}
	return err
}

// progressing tells of a download now and then.
type progressing struct {
	f     *Finder
	p     Progress
	last  time.Time
	begun bool
}

// tellEvery is how often a download tells how far it is.
const tellEvery = 100 * time.Millisecond

func (p *progressing) at(done, total int64) {
	p.p.Done, p.p.Total = done, total
	if now := time.Now(); !p.begun || now.Sub(p.last) >= tellEvery {
		p.begun, p.last = true, now
		p.f.progress(p.p)
	}
}

func (p *progressing) finish() {
	if p.begun {
		p.p.Finished = true
		p.f.progress(p.p)
	}
}
