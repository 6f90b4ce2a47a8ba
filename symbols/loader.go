package symbols

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"openkd/image/dwarf"
	"openkd/image/pe"
	"openkd/image/sym"
	"openkd/internal/brief"
)

// loader looks for the symbols of one module, once:
//
//  1. the PDB that the image names, along the symbol path, then where the linker
//     had put it;
//  2. the image, along the image path and the symbol path: it names a PDB if its
//     headers could not be read in the target, or has symbols itself;
//  3. what the image exports, of the file, else of the target's memory.
type loader struct {
	s            *Set
	o            LoadOptions
	m            Module
	path, images Path

	state      State
	open       sym.File
	file       string
	mismatched bool
	err        error
	tried      []string
	retry      time.Time

	image     *pe.Image
	imageFile string
}

func (l *loader) run(ctx context.Context) {
	if l.o.File != "" {
		l.given()
	} else {
		l.search(ctx)
	}
	if l.open == nil {
		l.state = None
	}
}

// note keeps what was tried, and why it was in vain: the first reason is the one
// that is told.
func (l *loader) note(err error) {
	var nf *NotFoundError
	if errors.As(err, &nf) {
		if len(l.tried) < maxTried {
			l.tried = append(l.tried, nf.Tried...)
		}
		if !nf.Retry.IsZero() && (l.retry.IsZero() || nf.Retry.Before(l.retry)) {
			l.retry = nf.Retry
		}
	}
	if l.err == nil {
		l.err = err
	}
}

func (l *loader) search(ctx context.Context) {
	if l.m.PDB != nil && l.pdb(ctx, l.m.PDB, "") || ctx.Err() != nil {
		return
	}
	// An image that names a PDB is not downloaded only for what it exports.
	im, file, err := l.s.f.findImage(ctx, &l.m, l.images, l.path, l.m.PDB != nil)
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		l.note(err)
	} else {
		l.image, l.imageFile = im, file
		if cv, err := im.CodeView(); err != nil {
			l.note(fmt.Errorf("%s: %w", file, err))
		} else if cv != nil && l.m.PDB == nil && l.pdb(ctx, cv, filepath.Dir(file)) || ctx.Err() != nil {
			return
		} else if cv != nil && l.m.PDB != nil && l.beside(cv, filepath.Dir(file)) {
			return
		}
		if l.inImage(file) {
			return
		}
	}
	l.exports(ctx)
}

// pdb looks for a PDB: along the path, in a folder ("" for none), and where the
// linker put it.
func (l *loader) pdb(ctx context.Context, cv *pe.CodeView, dir string) bool {
	w := Wanted{Name: cv.Name(), Ext: extension(l.m.Image), PDB: cv, Loose: l.o.Loose}
	got, err := l.s.f.Find(ctx, l.path, w)
	if err == nil {
		l.tried = append(l.tried, got.Tried...)
		return l.use(got.Path, PDB, got.Mismatched, l.s.f.opt.Openers.PDB)
	}
	if ctx.Err() != nil {
		return false
	}
	l.note(err)
	return dir != "" && l.beside(cv, dir) || l.linked(&w, cv)
}

// beside looks for the PDB in the folder of its image.
func (l *loader) beside(cv *pe.CodeView, dir string) bool {
	w := Wanted{Name: cv.Name(), PDB: cv}
	if w.check() != nil {
		return false
	}
	path, err := lookUpFile(dir, w.Name)
	if err != nil {
		return false
	}
	return l.fits(&w, path)
}

// linked looks where the linker had put the PDB, if that is a path of this
// machine: who debugs where they build needs no symbol path. A share is not
// looked at, because images of strangers could make us log on to it.
func (l *loader) linked(w *Wanted, cv *pe.CodeView) bool {
	p := cv.PDB
	if w.check() != nil || !filepath.IsAbs(p) || strings.HasPrefix(p, `\\`) || strings.HasPrefix(p, "//") || strings.ContainsFunc(p, func(r rune) bool { return r < ' ' }) {
		return false
	}
	if runtime.GOOS == "windows" && (len(p) < 3 || p[1] != ':' || strings.Contains(p[2:], ":")) {
		return false
	}
	if err := l.s.f.local(p); err != nil {
		l.say("DBGHELP", "%v, which Secure Mode does not read", err)
		return false
	}
	if st, err := os.Stat(p); err != nil || !st.Mode().IsRegular() {
		l.say("DBGHELP", "%s - file not found", brief.Text(p, 80))
		return false
	}
	return l.fits(w, p)
}

func (l *loader) say(who, format string, a ...any) {
	line := who + ": " + fmt.Sprintf(format, a...)
	if len(l.tried) < maxTried {
		l.tried = append(l.tried, line)
	}
	l.s.f.log(line)
}

// fits takes a file if it is the right one.
func (l *loader) fits(w *Wanted, path string) bool {
	if err := l.s.f.local(path); err != nil {
		l.say("DBGHELP", "%v, which Secure Mode does not read", err)
		return false
	}
	if err := l.s.f.verify(w, path, path); err != nil {
		var mm *MismatchError
		if errors.As(err, &mm) {
			l.say("DBGHELP", "%s - mismatched: it has %s, and %s is wanted", path, mm.Have, mm.Want)
		} else {
			l.say("DBGHELP", "%s - %s", path, reason(err))
		}
		return false
	}
	l.say("DBGHELP", "%s - OK", path)
	return l.use(path, PDB, false, l.s.f.opt.Openers.PDB)
}

// use opens the file that was found.
func (l *loader) use(path string, state State, mismatched bool, open func(string) (sym.File, error)) bool {
	f, err := open(path)
	if err != nil {
		l.say("DBGHELP", "%s - %v", path, withoutPath(err, path))
		l.note(err)
		return false
	}
	l.open, l.file, l.state, l.mismatched, l.err, l.retry = f, path, state, mismatched, nil, time.Time{}
	return true
}

// inImage takes the symbols that the image itself has.
func (l *loader) inImage(path string) bool {
	f, err := l.s.f.opt.Openers.Image(path)
	if err != nil {
		l.say("DBGHELP", "%s - %v", path, withoutPath(err, path))
		if !errors.Is(err, dwarf.ErrNoSymbols) {
			l.note(err)
		}
		return false
	}
	why := l.err
	l.open, l.file, l.state, l.retry = f, path, InImage, time.Time{}
	if l.err = nil; !f.Private() {
		l.err = why // why there is nothing better
	}
	return true
}

func (l *loader) exports(ctx context.Context) {
	var x *exported
	var err error
	switch {
	case l.image != nil:
		x, err = readExports(l.image)
		l.file = l.imageFile
	case l.s.target != nil && !l.o.NoTarget && !l.o.NoExports:
		if x, err = exportsInMemory(l.s.target.Memory(ctx, l.m)); err == nil && x.id.ImageSize != l.m.Size && l.m.Size != 0 {
			err = fmt.Errorf("the image in memory has %x bytes, and its module %x", x.id.ImageSize, l.m.Size)
		}
	default:
		return
	}
	if err != nil {
		if l.file = ""; !errors.Is(err, errNoExports) {
			l.say("DBGHELP", "%s - its exports cannot be read: %v", l.m.Name, err)
		}
		return
	}
	l.open, l.state = x, Exports
}

// given takes the file that was named.
func (l *loader) given() {
	path := l.o.File
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if err := l.s.f.local(path); err != nil {
		l.err = fmt.Errorf("%w, and Secure Mode reads symbols on disks of this machine only", err)
		return
	}
	w := Wanted{Name: filepath.Base(path), PDB: l.m.PDB}
	open, state := l.s.f.opt.Openers.PDB, PDB
	if head, err := firstBytes(path); err != nil {
		l.err = err
		return
	} else if strings.HasPrefix(head, mz) {
		open, state = l.s.f.opt.Openers.Image, InImage
		w.PDB, w.Image = nil, l.m.imageID()
	}
	var err error
	if w.PDB == nil && w.Image == nil {
		err = fmt.Errorf("the module's headers do not say which PDB is its own, so %s cannot be told to be", path)
	} else {
		err = l.s.f.verify(&w, path, path)
	}
	if err != nil && !l.o.Loose {
		l.err = fmt.Errorf("%w; /i takes it all the same", err)
		return
	}
	l.use(path, state, err != nil, open)
}

func firstBytes(path string) (string, error) {
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		return "", fmt.Errorf("%s: %w", path, errNoFile) // a pipe would not end
	}
	r, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer r.Close()
	b := make([]byte, sniff)
	n, err := r.Read(b)
	if n == 0 && err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return string(b[:n]), nil
}

// findImage looks for the file of a module along the image path and then along
// the symbol path, of which it leaves the servers out if it is to stay local.
func (f *Finder) findImage(ctx context.Context, m *Module, images, symbols Path, local bool) (*pe.Image, string, error) {
	id := m.imageID()
	if m.Size == 0 || id.Timestamp == 0 && id.CheckSum == 0 && !id.Header {
		return nil, "", fmt.Errorf("the headers of %s cannot be read in the target, so it is not known which file it is", m.Image)
	}
	names := []string{m.Image}
	if isKernel(m.Image) || strings.EqualFold(m.Name, "nt") {
		for _, k := range kernels {
			if !strings.EqualFold(k, m.Image) {
				names = append(names, k)
			}
		}
	}
	var all error
	for i, p := range []Path{images, symbols} {
		for _, name := range names {
			if p.Empty() {
				continue
			}
			w := Wanted{Name: name, Ext: extension(name), Image: id, Local: i == 1 && local}
			got, err := f.Find(ctx, p, w)
			if ctx.Err() != nil {
				return nil, "", context.Cause(ctx)
			}
			if err == nil {
				im, err := openImage(got.Path)
				return im, got.Path, err
			}
			all = joinNotFound(all, err)
		}
	}
	if all == nil {
		all = &NotFoundError{Name: m.Image, Identity: id.String()}
	}
	return nil, "", all
}

// joinNotFound puts searches for one file under its several names together.
func joinNotFound(a, b error) error {
	var x, y *NotFoundError
	if a == nil || !errors.As(a, &x) {
		return b
	}
	if errors.As(b, &y) {
		x.Tried = append(x.Tried, y.Tried...)
		x.Rejected = append(x.Rejected, y.Rejected...)
		x.Failed = append(x.Failed, y.Failed...)
		if x.Retry.IsZero() {
			x.Retry = y.Retry
		}
	}
	return a
}

// imageFile reads the file of an image, which it does not keep open: there may be
// hundreds, and who reads them keeps what was read.
type imageFile struct {
	path  string
	stamp fileStamp
}

// errReplaced says that a file has become another one.
var errReplaced = errors.New("the file was replaced")

func (f *imageFile) ReadAt(p []byte, off int64) (int, error) {
	r, err := os.Open(f.path)
	if err != nil {
		return 0, err
	}
	defer r.Close()
	if st, err := stampOf(r); err != nil {
		return 0, err
	} else if st != f.stamp {
		return 0, &fs.PathError{Op: "read", Path: f.path, Err: errReplaced}
	}
	return r.ReadAt(p, off)
}

func openImage(path string) (*pe.Image, error) {
	r, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	st, err := stampOf(r)
	if err != nil {
		return nil, err
	}
	return pe.Open(&imageFile{path, st}, pe.File)
}
