package symbols

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"openkd/symbols/internal/cab"
)

// A cache is a store that files are put into: complete, checked, and with one
// rename, so that who reads it, this process, another or another debugger, never
// sees a part of one. What is not complete lies in a folder of its own:
//
//	openkd.tmp/<hash>.part   what has come of a file
//	openkd.tmp/<hash>.from   where from, so that the rest can be asked for
//	openkd.tmp/<hash>.lock   held by who is writing it
const tempName = "openkd.tmp"

// staleAfter is when what nobody went on with is thrown away.
const staleAfter = 7 * 24 * time.Hour

// CacheError says that a cache cannot be written.
type CacheError struct {
	Folder string
	Err    error
}

func (e *CacheError) Error() string {
	var p *fs.PathError
	err := e.Err
	if errors.As(err, &p) {
		err = p.Err
	}
	if full(err) {
		return fmt.Sprintf("the disk of the symbol cache %s is full; make room, or name another cache: .sympath srv*folder*server", e.Folder)
	}
	return fmt.Sprintf("the symbol cache %s cannot be written (%v); name another: .sympath srv*folder*server", e.Folder, err)
}

func (e *CacheError) Unwrap() error { return e.Err }

func full(err error) bool { return errors.Is(err, syscall.ENOSPC) || diskFull(err) }

// cache is a folder that files are put into.
type cache struct {
	root string
	tmp  string
}

// openCache makes the folders of a cache. It fails at once for one that was found
// to be full or read-only a moment ago.
func (f *Finder) openCache(root string) (*cache, error) {
	if root == "" {
		return nil, &CacheError{"(default)", errors.New("there is no folder for it")}
	}
	if f.secure.Load() {
		return nil, errSecureStore
	}
	f.mu.Lock()
	broken, known := f.caches[root]
	f.mu.Unlock()
	if known && broken.err != nil && f.now().Before(broken.until) {
		return nil, broken.err
	}
	c := &cache{root: root, tmp: filepath.Join(root, tempName)}
	_, err := os.Stat(root)
	fresh := errors.Is(err, fs.ErrNotExist)
	if err := os.MkdirAll(c.tmp, 0o755); err != nil {
		return nil, f.cacheBroken(root, err)
	}
	if fresh {
		// Debuggers know a store by this file.
		if err := os.WriteFile(filepath.Join(root, pingName), nil, 0o644); err != nil {
			return nil, f.cacheBroken(root, err)
		}
	}
	if !known {
		c.sweep(f.now())
	}
	f.mu.Lock()
	f.caches[root] = brokenCache{}
	f.mu.Unlock()
	return c, nil
}

type brokenCache struct {
	err   error
	until time.Time
}

// cacheBroken remembers that a cache cannot be written, so that 200 modules do
// not find it out one by one.
func (f *Finder) cacheBroken(root string, err error) error {
	var ce *CacheError
	if errors.As(err, &ce) {
		return err
	}
	ce = &CacheError{root, err}
	f.mu.Lock()
	was := f.caches[root]
	f.caches[root] = brokenCache{ce, f.now().Add(f.opt.Retry)}
	f.mu.Unlock()
	if was.err == nil || was.err.Error() != ce.Error() {
		f.notice("%v", ce)
	}
	return ce
}

// sweep removes what was left behind long ago.
func (c *cache) sweep(now time.Time) {
	list, err := os.ReadDir(c.tmp)
	if err != nil {
		return
	}
	for _, e := range list {
		if st, err := e.Info(); err == nil && !e.IsDir() && now.Sub(st.ModTime()) > staleAfter {
			_ = os.Remove(filepath.Join(c.tmp, e.Name())) // whoever uses it still has it
		}
	}
}

// path is where the cache has the file, or is to have it.
func (c *cache) path(w *Wanted) string {
	return filepath.Join(append([]string{c.root}, tiersOf(c.root).place(w, w.Name)...)...)
}

// work is the stem of the names of temporary files for w.
func (c *cache) work(w *Wanted) string {
	sum := sha256.Sum256([]byte(strings.ToLower(w.Name + "/" + w.Key())))
	return filepath.Join(c.tmp, hex.EncodeToString(sum[:16]))
}

// adopt checks a temporary file and makes it the cache's, expanded if it is a
// cabinet. The temporary file is gone afterwards. where names its origin.
func (f *Finder) adopt(ctx context.Context, c *cache, w *Wanted, tmp, where string) (string, error) {
	defer os.Remove(tmp)
	if ok, err := isCabinet(tmp); err != nil {
		return "", f.cacheBroken(c.root, err)
	} else if ok {
		big, err := f.expand(ctx, c, tmp)
		if err != nil {
			var ce *CacheError
			if errors.As(err, &ce) || ctx.Err() != nil {
				return "", err
			}
			return "", fmt.Errorf("%s: %w", where, err)
		}
		defer os.Remove(big)
		tmp = big
	}
	if err := f.verify(w, tmp, where); err != nil {
		var mm *MismatchError
		if errors.As(err, &mm) {
			return "", err
		}
		return "", &wrongFile{fmt.Errorf("%s: %w", where, err)}
	}
	final := c.path(w)
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return "", f.cacheBroken(c.root, err)
	}
	if err := os.Rename(tmp, final); err != nil {
		// On Windows a file that is open cannot be replaced; it is as good.
		if f.verify(w, final, final) == nil {
			return final, nil
		}
		return "", f.cacheBroken(c.root, err)
	}
	return final, nil
}

func isCabinet(path string) (bool, error) {
	r, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer r.Close()
	b := make([]byte, len(cab.Signature))
	_, err = io.ReadFull(r, b)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return false, err
	}
	return string(b) == cab.Signature, nil
}

// expand makes a temporary file of a cabinet's file.
func (f *Finder) expand(ctx context.Context, c *cache, path string) (string, error) {
	r, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer r.Close()
	return f.temporary(ctx, c, func(w io.Writer) error {
		_, err := cab.Expand(ctx, w, bufio.NewReaderSize(r, 64<<10), f.opt.MaxFile)
		return err
	})
}

// temporary makes a file in the cache's folder for them, complete and on the
// disk.
func (f *Finder) temporary(ctx context.Context, c *cache, fill func(io.Writer) error) (string, error) {
	out, err := os.CreateTemp(c.tmp, "*.new")
	if err != nil {
		return "", f.cacheBroken(c.root, err)
	}
	w := &markedWriter{w: out}
	err = fill(w)
	if w.err == nil && err == nil {
		w.err = out.Sync()
	}
	if cerr := out.Close(); w.err == nil && err == nil {
		w.err = cerr
	}
	if w.err != nil {
		err = f.cacheBroken(c.root, w.err)
	}
	if err != nil {
		_ = os.Remove(out.Name())
		return "", err
	}
	return out.Name(), nil
}

// markedWriter tells errors of the writer from those of who fills it.
type markedWriter struct {
	w   io.Writer
	err error
}

func (m *markedWriter) Write(p []byte) (int, error) {
	n, err := m.w.Write(p)
	if err != nil {
		m.err = err
	}
	return n, err
}

// copyIn puts a copy of a file into a cache.
func (f *Finder) copyIn(ctx context.Context, root string, w *Wanted, src, where string) (string, error) {
	c, err := f.openCache(root)
	if err != nil {
		return "", err
	}
	if final := c.path(w); final == src || f.verify(w, final, final) == nil {
		return final, nil
	}
	r, err := os.Open(src)
	if err != nil {
		return "", err
	}
	defer r.Close()
	if st, err := r.Stat(); err != nil {
		return "", err
	} else if st.Size() > f.opt.MaxFile {
		return "", fmt.Errorf("%s has %d bytes, and %d are allowed", where, st.Size(), f.opt.MaxFile)
	}
	tmp, err := f.temporary(ctx, c, func(w io.Writer) error {
		_, err := io.Copy(w, &untilDone{ctx, r})
		return err
	})
	if err != nil {
		return "", err
	}
	return f.adopt(ctx, c, w, tmp, where)
}

// untilDone is a reader that ends with its context.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u *untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

// wrongFile is what was found and cannot be used: not what was asked for, or
// damaged.
type wrongFile struct{ err error }

func (e *wrongFile) Error() string { return e.err.Error() }
func (e *wrongFile) Unwrap() error { return e.err }
