package symbols

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestDownload(t *testing.T) {
	fx := load(t, "tcpip.sys")
	srv := serve(t)
	srv.files["sym/"+fx.pdbPath()] = fx.pdbData
	f, l := finder(t, nil)
	cache := filepath.Join(t.TempDir(), "c")
	p := "srv*" + cache + "*" + srv.URL + "/sym"
	got := find(t, f, p, fx.pdbWant, fx.pdbData)
	if want := filepath.Join(cache, fx.pdbPath()); got.Path != want {
		t.Errorf("%s, want %s", got.Path, want)
	}
	if n := srv.requests(); len(n) != 1 {
		t.Errorf("asked %q", n)
	}
	// Only the file and the mark of a store stay.
	if got := files(t, cache); !slices.Equal(got, []string{pingName, fx.pdbPath()}) {
		t.Error(got)
	}
	last := l.progress[len(l.progress)-1]
	if n := int64(len(fx.pdbData)); !last.Finished || last.Done != n || last.Total != n || last.Server != srv.URL+"/sym" || last.Name != fx.pdb {
		t.Errorf("%+v", last)
	}
	// From the cache, without the server; by another Finder too.
	srv.Close()
	find(t, f, p, fx.pdbWant, fx.pdbData)
	g, _ := finder(t, nil)
	find(t, g, p, fx.pdbWant, fx.pdbData)
}

func TestDefaultCache(t *testing.T) {
	fx := load(t, "tcpip.sys")
	srv := serve(t)
	srv.files[fx.pdbPath()] = fx.pdbData
	f, _ := finder(t, nil)
	for _, p := range []string{srv.URL, "srv*" + srv.URL, "srv**" + srv.URL, "symsrv*symsrv.dll*" + srv.URL + "/"} {
		if got := find(t, f, p, fx.pdbWant, fx.pdbData); got.Path != filepath.Join(f.Cache(), fx.pdbPath()) {
			t.Error(p, got.Path)
		}
	}
	if n := srv.requests(); len(n) != 1 {
		t.Errorf("asked %q", n)
	}
	// With a cache* before it, that one.
	dir := t.TempDir()
	if got := find(t, f, "cache*"+dir+";srv*"+srv.URL, fx.pdbWant, fx.pdbData); got.Path != filepath.Join(dir, fx.pdbPath()) {
		t.Error(got.Path)
	}
	if n := srv.requests(); len(n) != 2 {
		t.Errorf("asked %q", n)
	}
	if _, err := f.Find(context.Background(), path(t, srv.URL), Wanted{Name: "x.pdb", PDB: fx.other(0).PDB, Local: true}); err == nil {
		t.Error("found")
	}
	if n := srv.requests(); len(n) != 2 {
		t.Errorf("asked for what was wanted from here only: %q", n)
	}
}

func TestKindsOfAnswers(t *testing.T) {
	fx := load(t, "tcpip.sys")
	key := fx.pdb + "/" + fx.cv.Key() + "/"
	t.Run("compressed", func(t *testing.T) {
		srv := serve(t)
		srv.files[key+"tcpip.pd_"] = squeeze(fx.pdb, fx.pdbData)
		f, _ := finder(t, nil)
		find(t, f, srv.URL, fx.pdbWant, fx.pdbData)
	})
	t.Run("compressed under its own name", func(t *testing.T) {
		srv := serve(t)
		srv.files[fx.pdbPath()] = squeeze(fx.pdb, fx.pdbData)
		f, _ := finder(t, nil)
		find(t, f, srv.URL, fx.pdbWant, fx.pdbData)
	})
	t.Run("three tiers", func(t *testing.T) {
		srv := serve(t)
		srv.files[tiersName] = nil
		srv.files["tc/"+fx.pdbPath()] = fx.pdbData
		f, _ := finder(t, nil)
		find(t, f, srv.URL, fx.pdbWant, fx.pdbData)
		n := len(srv.requests())
		_, _ = f.Find(context.Background(), path(t, srv.URL), fx.other(0))
		for _, r := range srv.requests()[n:] {
			if !strings.HasPrefix(r, "/tc/") {
				t.Errorf("asked for %s of a store whose layout is known", r)
			}
		}
	})
	t.Run("image", func(t *testing.T) {
		srv := serve(t)
		srv.files[fx.image+"/"+fx.imageWant.Key()+"/"+fx.image] = fx.imageData
		f, _ := finder(t, nil)
		find(t, f, srv.URL, fx.imageWant, fx.imageData)
	})
	t.Run("pointer", func(t *testing.T) {
		srv, other := serve(t), serve(t)
		other.files["deep/x y.pdb"] = fx.pdbData
		srv.files[key+pointerName] = []byte("PATH:" + other.URL + "/deep/x%20y.pdb\r\n")
		f, _ := finder(t, nil)
		find(t, f, srv.URL, fx.pdbWant, fx.pdbData)
	})
	t.Run("pointer to a file of ours", func(t *testing.T) {
		srv := serve(t)
		file := write(t, fx.pdbData, t.TempDir(), "x.pdb")
		f, l := finder(t, nil)
		for _, text := range []string{"PATH:" + file, `PATH:\\server\share\x.pdb`, "MSG: gone", "", "PATH:ftp://x", "PATH:http://"} {
			srv.files[key+pointerName] = []byte(text)
			f.Forget()
			if _, err := f.Find(context.Background(), path(t, srv.URL), fx.pdbWant); err == nil {
				t.Errorf("%q was followed", text)
			}
		}
		for _, want := range []string{"not followed from a server", "gone", "empty", "not a URL"} {
			if !strings.Contains(l.text(), want) {
				t.Errorf("%q is not in the log:\n%s", want, l.text())
			}
		}
	})
	t.Run("odd names", func(t *testing.T) {
		srv := serve(t)
		w := fx.pdbWant
		w.Name = "a b#c%20+ä.pdb"
		srv.files["s p/"+w.Name+"/"+w.Key()+"/"+w.Name] = fx.pdbData
		f, _ := finder(t, nil)
		find(t, f, srv.URL+"/s%20p/", w, fx.pdbData)
	})
}

func TestMissing(t *testing.T) {
	fx := load(t, "tcpip.sys")
	srv := serve(t)
	f, l := finder(t, nil)
	p := path(t, srv.URL)
	for range 3 {
		if _, err := f.Find(context.Background(), p, fx.pdbWant); err == nil {
			t.Fatal("found")
		}
	}
	key := "/" + fx.pdb + "/" + fx.cv.Key() + "/"
	want := []string{key + fx.pdb, key + "tcpip.pd_", key + pointerName, "/" + tiersName}
	if got := srv.requests(); !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
	if !strings.Contains(l.text(), "not asked again") {
		t.Error(l.text())
	}
	// It may have come.
	srv.files[fx.pdbPath()] = fx.pdbData
	f.Forget()
	find(t, f, srv.URL, fx.pdbWant, fx.pdbData)
	// What is refused counts as missing.
	srv.hook = func(w http.ResponseWriter, r *http.Request) bool {
		w.WriteHeader(http.StatusForbidden)
		return true
	}
	_, err := f.Find(context.Background(), p, fx.other(1))
	if err == nil || !strings.Contains(l.text(), "not for us (403 Forbidden)") || len(l.noticed()) > 0 {
		t.Error(err, l.noticed())
	}
}

// cutting sends so many bytes of each answer and then cuts the connection, as
// often as it is told.
func cutting(times *atomic.Int32, most int) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if times.Add(-1) < 0 {
			return false
		}
		rec := httptest.NewRecorder()
		http.ServeContent(rec, r, "", time.Time{}, bytes.NewReader(nil))
		return cutAfter(w, r, most)
	}
}

var cutData sync.Map // path to data

func cutAfter(w http.ResponseWriter, r *http.Request, most int) bool {
	v, ok := cutData.Load(r.Host + r.URL.Path)
	if !ok {
		return false
	}
	w.Header().Set("ETag", fmt.Sprintf(`"%x"`, len(v.([]byte))))
	http.ServeContent(&cutter{ResponseWriter: w, left: most}, r, "", time.Time{}, bytes.NewReader(v.([]byte)))
	panic(http.ErrAbortHandler)
}

type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	if c.left -= n; c.left == 0 && err == nil {
		c.ResponseWriter.(http.Flusher).Flush()
		err = errors.New("cut")
	}
	return n, err
}

func TestResume(t *testing.T) {
	fx := load(t, "tcpip.sys")
	data := fx.bulky(2 << 20)
	name := "/" + fx.image + "/" + fx.imageWant.Key() + "/" + fx.image
	start := func(t *testing.T, cuts int32) (*fakeServer, *atomic.Int32) {
		srv := serve(t)
		srv.files[name[1:]] = data
		cutData.Store(strings.TrimPrefix(srv.URL, "http://")+name, data)
		n := &atomic.Int32{}
		n.Store(cuts)
		srv.hook = cutting(n, 600_000)
		return srv, n
	}
	ranges := func(srv *fakeServer) (out []string) {
		for _, r := range srv.requests() {
			out = append(out, strings.TrimSpace(strings.TrimPrefix(r, name)))
		}
		return out
	}
	t.Run("cut three times", func(t *testing.T) {
		srv, _ := start(t, 3)
		f, l := finder(t, nil)
		find(t, f, srv.URL, fx.imageWant, data)
		got := ranges(srv)
		if len(got) != 4 || got[0] != "" {
			t.Fatalf("%q", got)
		}
		for _, r := range got[1:] {
			if !strings.HasPrefix(r, "bytes=") || r == "bytes=0-" {
				t.Errorf("asked for %q", r)
			}
		}
		if !strings.Contains(l.text(), "cut after") {
			t.Error(l.text())
		}
	})
	t.Run("changed in between", func(t *testing.T) {
		srv, _ := start(t, 1)
		other := append(bytes.Clone(data), 1, 2, 3) // another ETag
		srv.files[name[1:]] = other
		f, _ := finder(t, nil)
		find(t, f, srv.URL, fx.imageWant, other)
		if got := ranges(srv); len(got) != 2 {
			t.Errorf("%q", got)
		}
	})
	t.Run("without a tag", func(t *testing.T) {
		srv, _ := start(t, 0)
		var cut atomic.Bool
		srv.hook = func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			if cut.CompareAndSwap(false, true) {
				_, _ = w.Write(data[:500_000])
				panic(http.ErrAbortHandler)
			}
			_, _ = w.Write(data)
			return true
		}
		f, _ := finder(t, nil)
		find(t, f, srv.URL, fx.imageWant, data)
		if got := ranges(srv); !slices.Equal(got, []string{"", ""}) {
			t.Errorf("%q", got)
		}
	})
	t.Run("a piece that was not asked for", func(t *testing.T) {
		srv, n := start(t, 1)
		cuts := srv.hook
		srv.hook = func(w http.ResponseWriter, r *http.Request) bool {
			if n.Load() == 0 && r.Header.Get("Range") != "" {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-9/%d", len(data)))
				w.WriteHeader(http.StatusPartialContent)
				_, _ = w.Write(data[:10])
				return true
			}
			return cuts(w, r)
		}
		f, _ := finder(t, nil)
		find(t, f, srv.URL, fx.imageWant, data)
	})
	t.Run("by another session", func(t *testing.T) {
		srv, _ := start(t, 0)
		srv.hook = func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			w.Header().Set("ETag", fmt.Sprintf(`"%x"`, len(data)))
			_, _ = w.Write(data[:600_000])
			w.(http.Flusher).Flush()
			<-r.Context().Done()
			return true
		}
		cache := filepath.Join(t.TempDir(), "c")
		f, _ := finder(t, func(o *Options) { o.Cache, o.Stall = cache, time.Minute })
		ctx, cancel := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		wg.Go(func() {
			for { // until it has come
				list, _ := filepath.Glob(filepath.Join(cache, tempName, "*.part"))
				if len(list) == 1 {
					if st, err := os.Stat(list[0]); err == nil && st.Size() == 600_000 {
						break
					}
				}
				time.Sleep(5 * time.Millisecond)
			}
			cancel()
		})
		if _, err := f.Find(ctx, path(t, srv.URL), fx.imageWant); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		wg.Wait()
		if got := files(t, cache); len(got) != 3 {
			t.Fatalf("what has come is not there: %q", got)
		}
		srv.mu.Lock()
		srv.hook, srv.asked = nil, nil
		srv.mu.Unlock()
		g, _ := finder(t, func(o *Options) { o.Cache = cache })
		find(t, g, srv.URL, fx.imageWant, data)
		if got := ranges(srv); len(got) != 1 || !strings.HasPrefix(got[0], "bytes=") {
			t.Errorf("%q", got)
		}
		if got := files(t, cache); len(got) != 2 {
			t.Errorf("%q", got)
		}
	})
	t.Run("cut for ever", func(t *testing.T) {
		srv, _ := start(t, 1<<30)
		srv.hook = func(w http.ResponseWriter, r *http.Request) bool { return cutAfter(w, r, 100) }
		f, _ := finder(t, nil)
		_, err := f.Find(context.Background(), path(t, srv.URL), fx.imageWant)
		if n := len(srv.requests()); err == nil || n > maxTries {
			t.Errorf("%v after %d requests", err, n)
		}
	})
}

func TestWrongFile(t *testing.T) {
	fx, other := load(t, "tcpip.sys"), load(t, "hal.dll")
	srv := serve(t)
	f, l := finder(t, nil)
	clean := func() {
		t.Helper()
		if got := files(t, f.Cache()); !slices.Equal(got, []string{pingName}) {
			t.Errorf("the cache has %q", got)
		}
	}
	srv.files[fx.pdbPath()] = other.pdbData
	for range 2 {
		_, err := f.Find(context.Background(), path(t, srv.URL), fx.pdbWant)
		var mm *MismatchError
		if !errors.As(err, &mm) || !strings.Contains(err.Error(), fx.pdbWant.Identity()) || !strings.Contains(err.Error(), other.pdbWant.Identity()) {
			t.Fatal(err)
		}
		clean()
	}
	if n := srv.requests(); len(n) != 1 {
		t.Errorf("asked %q", n)
	}
	// Compressed.
	f.Forget()
	srv.files[fx.pdbPath()] = squeeze(fx.pdb, other.pdbData)
	if _, err := f.Find(context.Background(), path(t, srv.URL), fx.pdbWant); err == nil {
		t.Error("found")
	}
	clean()
	// A page for people, endless: the first bytes are enough.
	var sent atomic.Int64
	srv.hook = func(w http.ResponseWriter, r *http.Request) bool {
		for {
			n, err := w.Write(bytes.Repeat([]byte("<html>"), 10_000))
			sent.Add(int64(n))
			if err != nil {
				return true
			}
		}
	}
	f.Forget()
	_, err := f.Find(context.Background(), path(t, srv.URL), fx.pdbWant)
	if err == nil || !strings.Contains(err.Error(), `begins with "<html>`) {
		t.Error(err)
	}
	clean()
	// It begins well and ends soon, is damaged, is a cabinet of something.
	for name, data := range map[string][]byte{
		"short":     fx.pdbData[:20],
		"cut":       fx.pdbData[:5000],
		"empty":     {},
		"cabinet":   squeeze("x", []byte("something else, which is longer than what is looked at first, and no PDB")),
		"bad":       append([]byte("MSCF"), make([]byte, 300)...),
		"empty cab": squeeze("x", nil),
	} {
		srv.hook = nil
		srv.files[fx.pdbPath()] = data
		f.Forget()
		if _, err := f.Find(context.Background(), path(t, srv.URL), fx.pdbWant); err == nil {
			t.Errorf("%s: found", name)
		}
		clean()
	}
	if n := l.noticed(); len(n) > 0 {
		t.Errorf("a wrong file is no dead server: %q", n)
	}
	// Gzip where none was asked for.
	srv.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Accept-Encoding") != "identity" {
			t.Errorf("asked for %q", r.Header.Get("Accept-Encoding"))
		}
		w.Header().Set("Content-Encoding", "gzip")
		_, _ = w.Write(fx.pdbData)
		return true
	}
	f.Forget()
	if _, err := f.Find(context.Background(), path(t, srv.URL), fx.pdbWant); err == nil || !strings.Contains(err.Error(), "encoding") {
		t.Error(err)
	}
	clean()
}

func TestTooLarge(t *testing.T) {
	fx := load(t, "tcpip.sys")
	srv := serve(t)
	f, _ := finder(t, func(o *Options) { o.MaxFile = 50_000 })
	for _, length := range []bool{true, false} {
		var sent atomic.Int64
		srv.hook = func(w http.ResponseWriter, r *http.Request) bool {
			if length {
				w.Header().Set("Content-Length", "99999999999")
			}
			for range 100 {
				n, err := w.Write(fx.pdbData)
				sent.Add(int64(n))
				if err != nil {
					break
				}
			}
			return true
		}
		f.Forget()
		_, err := f.Find(context.Background(), path(t, srv.URL), fx.pdbWant)
		if err == nil || !strings.Contains(err.Error(), "50000 are allowed") {
			t.Error(err)
		}
		if got := files(t, f.Cache()); !slices.Equal(got, []string{pingName}) {
			t.Errorf("the cache has %q", got)
		}
	}
	// A cabinet that grows.
	srv.hook = nil
	srv.files[fx.pdbPath()] = squeeze(fx.pdb, fx.pdbData)
	f.Forget()
	if _, err := f.Find(context.Background(), path(t, srv.URL), fx.pdbWant); err == nil || !strings.Contains(err.Error(), "50000 are allowed") {
		t.Error(err)
	}
}

// all looks for many files at once and returns what was said of them.
func all(f *Finder, p Path, list []Wanted) []error {
	errs := make([]error, len(list))
	var wg sync.WaitGroup
	for i := range list {
		wg.Go(func() { _, errs[i] = f.Find(context.Background(), p, list[i]) })
	}
	wg.Wait()
	return errs
}

// silent accepts connections and says nothing.
func silent(t *testing.T) (addr string, conns *atomic.Int32) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns = &atomic.Int32{}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns.Add(1)
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
		for _, c := range open {
			_ = c.Close()
		}
	})
	return l.Addr().String(), conns
}

type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	c.t = c.t.Add(d)
	c.mu.Unlock()
}

func TestDeadServer(t *testing.T) {
	fx := load(t, "tcpip.sys")
	addr, conns := silent(t)
	c := &clock{t: time.Now()}
	f, l := finder(t, func(o *Options) { o.Header = 300 * time.Millisecond; o.Now = c.now })
	dir := t.TempDir()
	write(t, fx.pdbData, dir, fx.pdb)
	p := path(t, "srv*http://"+addr+"/a;srv*http://"+addr+"/b;"+dir)
	for _, err := range all(f, p, fx.modules(30)) {
		var nf *NotFoundError
		var down *DownError
		if !errors.As(err, &nf) || !errors.As(err, &down) || !nf.Retry.After(c.now()) {
			t.Fatal(err)
		}
	}
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections for 30 modules and 2 stores", n)
	}
	if n := l.noticed(); len(n) != 1 || !strings.Contains(n[0], addr) || !strings.Contains(n[0], "left alone for 1m0s") {
		t.Errorf("%q", n)
	}
	// What is here is found all the same, and the server is left alone.
	find(t, f, "srv*http://"+addr+"/a;"+dir, fx.pdbWant, fx.pdbData)
	if n := conns.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	// After a while it is tried once more, by one.
	c.pass(61 * time.Second)
	all(f, p, fx.modules(30))
	if n := conns.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
	c.pass(61 * time.Second) // it is left alone for longer
	all(f, p, fx.modules(5))
	if n := conns.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
	f.Forget()
	all(f, p, fx.modules(5))
	if n := conns.Load(); n != 3 {
		t.Errorf("%d connections", n)
	}
}

func TestNobodyThere(t *testing.T) {
	fx := load(t, "tcpip.sys")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	f, said := finder(t, nil)
	for _, err := range all(f, path(t, "http://"+addr), fx.modules(30)) {
		if err == nil || !strings.Contains(err.Error(), "cannot be used") {
			t.Fatal(err)
		}
	}
	if n := said.noticed(); len(n) != 1 {
		t.Errorf("%q", n)
	}
	if n := strings.Count(said.text(), "not asked"); n != 30 {
		t.Errorf("%d lines say so", n)
	}
}

func TestStall(t *testing.T) {
	fx := load(t, "tcpip.sys")
	data := fx.bulky(2 << 20)
	srv := serve(t)
	srv.hook = func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:5000])
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}
	f, l := finder(t, func(o *Options) { o.Stall = 200 * time.Millisecond })
	w := fx.imageWant
	errs := all(f, path(t, srv.URL), []Wanted{w, fx.other(0), fx.other(1)})
	if errs[0] == nil || len(srv.requests()) > 6 {
		t.Errorf("%v after %q", errs, srv.requests())
	}
	if n := l.noticed(); len(n) != 1 || !strings.Contains(n[0], "stopped sending") {
		t.Errorf("%q", n)
	}
}

func TestErrorsOfServer(t *testing.T) {
	fx := load(t, "tcpip.sys")
	srv := serve(t)
	srv.files[fx.pdbPath()] = fx.pdbData
	var bad atomic.Int32
	status := http.StatusInternalServerError
	srv.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if bad.Add(-1) < 0 {
			return false
		}
		if status == http.StatusServiceUnavailable {
			w.Header().Set("Retry-After", "7")
		}
		w.WriteHeader(status)
		return true
	}
	// Once is no harm.
	bad.Store(2)
	f, l := finder(t, nil)
	find(t, f, srv.URL, fx.pdbWant, fx.pdbData)
	// For ever: some requests, then none.
	bad.Store(1 << 30)
	srv.asked = nil
	for _, w := range fx.modules(30) {
		_, err := f.Find(context.Background(), path(t, srv.URL), w)
		if err == nil || !strings.Contains(err.Error(), "500 Internal Server Error") {
			t.Fatal(err)
		}
	}
	if n := len(srv.requests()); n != maxFails*maxTries {
		t.Errorf("%d requests for 30 modules", n)
	}
	if n := l.noticed(); len(n) != 1 {
		t.Errorf("%q", n)
	}
	// It says when to come again.
	status = http.StatusServiceUnavailable
	c := &clock{t: time.Now()}
	f, l = finder(t, func(o *Options) { o.Now = c.now })
	srv.asked = nil
	for _, w := range fx.modules(5) {
		_, _ = f.Find(context.Background(), path(t, srv.URL), w)
	}
	if n := len(srv.requests()); n != 1 {
		t.Errorf("%d requests", n)
	}
	if n := l.noticed(); len(n) != 1 || !strings.Contains(n[0], "7s") {
		t.Errorf("%q", n)
	}
	bad.Store(0)
	c.pass(8 * time.Second)
	find(t, f, srv.URL, fx.pdbWant, fx.pdbData)
}

func TestCutOff(t *testing.T) {
	fx := load(t, "tcpip.sys")
	srv := serve(t)
	srv.hook = func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }
	f, l := finder(t, nil)
	for _, err := range all(f, path(t, srv.URL), fx.modules(30)) {
		if err == nil {
			t.Error("found")
		}
	}
	if n := len(srv.requests()); n != maxTries {
		t.Errorf("%d requests", n)
	}
	if n := l.noticed(); len(n) != 1 {
		t.Errorf("%q", n)
	}
}

func TestRedirects(t *testing.T) {
	fx := load(t, "tcpip.sys")
	other := serve(t)
	other.files["blob"] = fx.pdbData
	srv := serve(t)
	to := func(f func(r *http.Request) string) {
		srv.mu.Lock()
		defer srv.mu.Unlock()
		srv.asked = nil
		srv.hook = func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, f(r), http.StatusFound)
			return true
		}
	}
	to(func(*http.Request) string { return other.URL + "/blob?sig=secret" })
	f, _ := finder(t, nil)
	find(t, f, srv.URL, fx.pdbWant, fx.pdbData)

	to(func(r *http.Request) string { return r.URL.String() })
	f, l := finder(t, nil)
	for _, w := range fx.modules(30) {
		_, err := f.Find(context.Background(), path(t, srv.URL), w)
		if err == nil || !strings.Contains(err.Error(), "redirect") {
			t.Fatal(err)
		}
	}
	if n := len(srv.requests()); n != maxFails {
		t.Errorf("%d requests of 30 modules, to a server that redirects to itself", n)
	}
	if n := l.noticed(); len(n) != 1 || !strings.Contains(n[0], "leads back") {
		t.Errorf("%q", n)
	}

	var n atomic.Int32
	to(func(r *http.Request) string { return fmt.Sprintf("/%d?sig=secret", n.Add(1)) })
	f, l = finder(t, nil)
	_, err := f.Find(context.Background(), path(t, srv.URL), fx.pdbWant)
	if err == nil || len(srv.requests()) > maxRedirects+1 {
		t.Errorf("%v, after %d requests", err, len(srv.requests()))
	}
	to(func(r *http.Request) string { return "file:///etc/passwd" })
	if _, err := f.Find(context.Background(), path(t, srv.URL), fx.other(1)); err == nil {
		t.Error("found")
	}
	if strings.Contains(l.text()+strings.Join(l.noticed(), ""), "secret") {
		t.Errorf("the log tells a key:\n%s", l.text())
	}
}

func TestTLS(t *testing.T) {
	fx := load(t, "tcpip.sys")
	plain := serve(t)
	plain.files["x"] = fx.pdbData
	down := &atomic.Bool{}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() {
			http.Redirect(w, r, plain.URL+"/x", http.StatusFound)
			return
		}
		if user, password, _ := r.BasicAuth(); user != "joe" || password != "s3cret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		_, _ = w.Write(fx.pdbData)
	}))
	srv.Config.ErrorLog = stdlog.New(io.Discard, "", 0) // a client that does not trust it is wanted
	srv.StartTLS()
	t.Cleanup(srv.Close)
	p := strings.Replace(srv.URL, "https://", "https://joe:s3cret@", 1)

	// Nobody vouches for it.
	f, l := finder(t, nil)
	if _, err := f.Find(context.Background(), path(t, p), fx.pdbWant); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Error(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	f, l2 := finder(t, nil)
	f.client.Transport.(*http.Transport).TLSClientConfig = &tls.Config{RootCAs: roots}
	find(t, f, p, fx.pdbWant, fx.pdbData)
	down.Store(true)
	_, err := f.Find(context.Background(), path(t, p), fx.other(0))
	if err == nil || !strings.Contains(err.Error(), "from https to http") || len(plain.requests()) > 0 {
		t.Error(err)
	}
	for _, s := range []string{l.text(), l2.text(), strings.Join(l.noticed(), ""), strings.Join(l2.noticed(), ""), err.Error(), fmt.Sprint(l2.progress)} {
		if strings.Contains(s, "s3cret") {
			t.Errorf("tells the password: %s", s)
		}
	}
}

func TestProxy(t *testing.T) {
	fx := load(t, "tcpip.sys")
	var asked atomic.Value
	proxy := serve(t)
	proxy.hook = func(w http.ResponseWriter, r *http.Request) bool {
		asked.Store(r.URL.String())
		if r.Header.Get("Proxy-Authorization") == "" {
			w.WriteHeader(http.StatusProxyAuthRequired)
			return true
		}
		_, _ = w.Write(fx.pdbData)
		return true
	}
	addr := strings.TrimPrefix(proxy.URL, "http://")
	f, l := finder(t, func(o *Options) { o.Proxy = addr })
	for _, err := range all(f, path(t, "srv*http://symbols.invalid/s"), fx.modules(10)) {
		if err == nil || !strings.Contains(err.Error(), "_NT_SYMBOL_PROXY") {
			t.Error(err)
		}
	}
	if n := l.noticed(); len(n) != 1 || len(proxy.requests()) != 1 {
		t.Errorf("%q, %q", n, proxy.requests())
	}
	f, _ = finder(t, func(o *Options) { o.Proxy = "http://joe:secret@" + addr })
	find(t, f, "srv*http://symbols.invalid/s", fx.pdbWant, fx.pdbData)
	if want := "http://symbols.invalid/s/" + fx.pdbPath(); asked.Load() != want {
		t.Errorf("the proxy was asked for %v, not %s", asked.Load(), want)
	}
	for _, bad := range []string{"http://", "::", "ftp://a:1"} {
		if _, err := NewFinder(Options{Proxy: bad}); err == nil || !strings.Contains(err.Error(), "_NT_SYMBOL_PROXY") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestParallel(t *testing.T) {
	fx := load(t, "tcpip.sys")
	data := fx.bulky(100_000)
	srv := serve(t)
	const n = 24
	var list []Wanted
	for i := range n {
		w := fx.imageWant
		w.Name = fmt.Sprintf("m%d.sys", i)
		list = append(list, w)
		srv.files[w.Name+"/"+w.Key()+"/"+w.Name] = data
	}
	// Nobody gets an answer before all four are there.
	var now, most atomic.Int32
	four := make(chan struct{})
	srv.hook = func(w http.ResponseWriter, r *http.Request) bool {
		k := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); k > m && !most.CompareAndSwap(m, k); m = most.Load() {
		}
		if k == 4 {
			select {
			case <-four:
			default:
				close(four)
			}
		}
		// The first one is alone, to see whether anybody answers.
		if len(srv.requests()) > 1 {
			select {
			case <-four:
			case <-r.Context().Done():
			}
		}
		return false
	}
	f, l := finder(t, func(o *Options) { o.Header, o.Stall = time.Minute, time.Minute })
	for i, err := range all(f, path(t, srv.URL), list) {
		if err != nil {
			t.Error(i, err)
		}
	}
	if m := most.Load(); m != 4 {
		t.Errorf("%d requests at a time", m)
	}
	finished := 0
	for _, p := range l.progress {
		if p.Finished {
			finished++
		}
	}
	if finished != n || len(srv.requests()) != n {
		t.Errorf("%d finished, %d requests", finished, len(srv.requests()))
	}
}

func TestCancel(t *testing.T) {
	fx := load(t, "tcpip.sys")
	addr, _ := silent(t)
	f, l := finder(t, func(o *Options) { o.Header = time.Hour })
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("Ctrl+C")
	var wg sync.WaitGroup
	for _, w := range fx.modules(10) {
		wg.Go(func() {
			if _, err := f.Find(ctx, path(t, "http://"+addr), w); !errors.Is(err, why) {
				t.Error(err)
			}
		})
	}
	time.Sleep(50 * time.Millisecond)
	cancel(why)
	wg.Wait()
	if n := l.noticed(); len(n) > 0 {
		t.Errorf("who was interrupted does not know whether the server is dead: %q", n)
	}
}

// run starts a process that looks for a file.
func run(t *testing.T, o order) (*exec.Cmd, *bufio.Reader) {
	t.Helper()
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childEnv+"="+string(text))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewReader(out)
}

func TestProcesses(t *testing.T) {
	fx := load(t, "tcpip.sys")
	data := fx.bulky(3 << 20)
	srv := serve(t)
	name := fx.image + "/" + fx.imageWant.Key() + "/" + fx.image
	srv.mu.Lock() // another process is not seen to come after it
	srv.files[name] = data
	// Half of it, and the rest when it is let go.
	gates := make(chan chan struct{}, 1)
	srv.hook = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Range") != "" {
			return false
		}
		var gate chan struct{}
		select {
		case gate = <-gates:
		default:
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		w.Header().Set("ETag", fmt.Sprintf(`"%x"`, len(data)))
		_, _ = w.Write(data[:len(data)/2])
		w.(http.Flusher).Flush()
		select {
		case <-gate:
		case <-r.Context().Done():
			return true
		}
		_, _ = w.Write(data[len(data)/2:])
		return true
	}
	srv.mu.Unlock()
	cache := filepath.Join(t.TempDir(), "c")
	o := order{Cache: cache, Path: srv.URL, Want: fx.imageWant}
	line := func(r *bufio.Reader) string {
		s, _ := r.ReadString('\n')
		return strings.TrimSpace(s)
	}
	found := "found " + filepath.Join(cache, filepath.FromSlash(name))

	// The second waits for the first, and asks nobody.
	gate := make(chan struct{})
	gates <- gate
	a, aOut := run(t, o)
	if s := line(aOut); s != "begun" {
		t.Fatal(s)
	}
	b, bOut := run(t, o)
	time.Sleep(300 * time.Millisecond)
	close(gate)
	if s := line(aOut); s != found {
		t.Error(s)
	}
	if s := line(bOut); s != found {
		t.Error(s)
	}
	if err := errors.Join(a.Wait(), b.Wait()); err != nil {
		t.Error(err)
	}
	if n := srv.requests(); len(n) != 1 {
		t.Errorf("asked %q", n)
	}
	if got, err := os.ReadFile(filepath.Join(cache, filepath.FromSlash(name))); err != nil || !bytes.Equal(got, data) {
		t.Error("another file", err)
	}

	// The first dies, and the second goes on where it was.
	if err := os.RemoveAll(cache); err != nil {
		t.Fatal(err)
	}
	srv.mu.Lock()
	srv.asked = nil
	srv.mu.Unlock()
	gates <- make(chan struct{}) // never
	a, aOut = run(t, o)
	if s := line(aOut); s != "begun" {
		t.Fatal(s)
	}
	b, bOut = run(t, o)
	time.Sleep(300 * time.Millisecond)
	if err := a.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = a.Wait()
	if s := line(bOut); s != "begun" {
		t.Error(s)
	}
	if s := line(bOut); s != found {
		t.Error(s)
	}
	if err := b.Wait(); err != nil {
		t.Error(err)
	}
	n := srv.requests()
	if len(n) != 2 || !strings.Contains(n[1], "bytes=") {
		t.Errorf("asked %q", n)
	}
	if got, err := os.ReadFile(filepath.Join(cache, filepath.FromSlash(name))); err != nil || !bytes.Equal(got, data) {
		t.Error("another file", err)
	}
	if got := files(t, cache); len(got) != 2 {
		t.Errorf("left behind: %q", got)
	}
}
