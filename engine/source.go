package engine

import (
	"bytes"
	"context"
	"crypto/md5"  // what compilers note of source files
	"crypto/sha1" // likewise
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"unicode/utf16"
	"unicode/utf8"

	"openkd/image/sym"
	"openkd/symbols"
)

const (
	maxSource     = 32 << 20 // bytes of a source file
	maxSources    = 16       // files that are kept
	maxSourceDirs = 256      // elements of a source path
	maxDirEntries = 65536    // of a folder that is searched whatever the case
)

// Sources finds source files on this machine: compilers note paths of the machine
// where they ran, so the ends of those are looked for along a path of folders.
//
// Concurrency: all methods from any goroutine.
type Sources struct {
	mu    sync.Mutex
	path  []string
	files []*SourceFile // those used last at the end
}

// SourceFile is a source file.
type SourceFile struct {
	Name  string // as the compiler noted it
	Path  string // where it is
	Lines []string
	// Differs: it is not the file that was compiled.
	Differs bool

	time int64
	size int64
}

// ErrNoSource says that a source file is not at hand.
var ErrNoSource = errors.New("the source file was not found")

// Path is the source path, its elements parted by semicolons.
func (s *Sources) Path() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.path, ";")
}

// Elements are those of the path.
func (s *Sources) Elements() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.path...)
}

// SetPath changes the path; add appends to it.
func (s *Sources) SetPath(text string, add bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !add {
		s.path = nil
	}
	for p := range strings.SplitSeq(text, ";") {
		if p = strings.TrimSpace(p); p != "" && len(s.path) < maxSourceDirs {
			s.path = append(s.path, p)
		}
	}
	s.files = nil
}

// Find finds the file that a line of source belongs to: the longest end of its
// path that is in a folder of the path, then the path itself. A file that is the
// one that was compiled, by its checksum, is taken before another one.
func (s *Sources) Find(l sym.Line) (*SourceFile, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, f := range s.files {
		if f.Name == l.File && f.fresh() {
			s.files = append(append(s.files[:i:i], s.files[i+1:]...), f)
			return f, nil
		}
	}
	parts := pathParts(l.File)
	if len(parts) == 0 {
		return nil, fmt.Errorf("%w: it has no name", ErrNoSource)
	}
	var other *SourceFile
	take := func(p string) (*SourceFile, error) {
		if p == "" {
			return nil, nil
		}
		f, err := readSource(p, &l)
		if err != nil {
			return nil, err
		}
		if !f.Differs {
			return f, nil
		}
		if other == nil {
			other = f
		}
		return nil, nil
	}
	var bad error
	for from := range parts {
		for _, dir := range s.path {
			f, err := take(findFold(dir, parts[from:]))
			if f != nil {
				return s.keep(f), nil
			}
			if err != nil && bad == nil {
				bad = err
			}
		}
	}
	// A path that leads to another machine is not followed because a file says so.
	if filepath.IsAbs(l.File) && !strings.HasPrefix(l.File, `\\`) && !strings.HasPrefix(l.File, "//") {
		f, err := take(l.File)
		switch {
		case f != nil:
			return s.keep(f), nil
		case err != nil && !errors.Is(err, os.ErrNotExist) && bad == nil:
			bad = err
		}
	}
	switch {
	case other != nil:
		return s.keep(other), nil
	case bad != nil:
		return nil, bad
	case len(s.path) == 0:
		return nil, fmt.Errorf("%w: %s, and there is no source path (.srcpath)", ErrNoSource, l.File)
	}
	return nil, fmt.Errorf("%w: %s, nor an end of that path in %s", ErrNoSource, l.File, strings.Join(s.path, ";"))
}

// keep keeps a file. mu is held.
func (s *Sources) keep(f *SourceFile) *SourceFile {
	s.files = append(s.files, f)
	if len(s.files) > maxSources {
		s.files = s.files[1:]
	}
	return f
}

func (f *SourceFile) fresh() bool {
	st, err := os.Stat(f.Path)
	return err == nil && st.Size() == f.size && st.ModTime().UnixNano() == f.time
}

// Line is a line by its number, from 1.
func (f *SourceFile) Line(n int) (string, bool) {
	if n < 1 || n > len(f.Lines) {
		return "", false
	}
	return f.Lines[n-1], true
}

// pathParts takes a path of any system apart: the drive and what leads upwards is
// left out.
func pathParts(p string) []string {
	var out []string
	for i, x := range strings.FieldsFunc(p, func(r rune) bool { return r == '\\' || r == '/' }) {
		switch {
		case i == 0 && len(x) == 2 && x[1] == ':', x == ".", x == "":
		case x == "..":
			out = out[:max(len(out)-1, 0)]
		case strings.ContainsRune(x, 0):
			return nil
		default:
			out = append(out, x)
		}
	}
	return out
}

// findFold finds a file below a folder, in any case where it is not there as it is
// written; "" where there is none.
func findFold(dir string, parts []string) string {
	at := filepath.Join(append([]string{dir}, parts...)...)
	if _, err := os.Stat(at); err == nil {
		return at
	}
	for _, p := range parts {
		next := filepath.Join(dir, p)
		if _, err := os.Stat(next); err == nil {
			dir = next
			continue
		}
		d, err := os.Open(dir)
		if err != nil {
			return ""
		}
		names, _ := d.Readdirnames(maxDirEntries)
		d.Close()
		found := ""
		for _, n := range names {
			if strings.EqualFold(n, p) {
				found = n
				break
			}
		}
		if found == "" {
			return ""
		}
		dir = filepath.Join(dir, found)
	}
	return dir
}

// readSource reads a source file. l says what the compiler noted of it.
func readSource(path string, l *sym.Line) (*SourceFile, error) {
	st, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, err
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a file", path)
	case st.Size() > maxSource:
		return nil, fmt.Errorf("%s has more than %d MB", path, maxSource>>20)
	}
	r, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxSource))
	if err != nil {
		return nil, err
	}
	return &SourceFile{Name: l.File, Path: path, Lines: sourceLines(b), Differs: !sumFits(b, l), time: st.ModTime().UnixNano(), size: st.Size()}, nil
}

// sumFits compares a checksum; ends of lines may be those of either system.
func sumFits(b []byte, l *sym.Line) bool {
	sum := func(b []byte) []byte {
		switch l.ChecksumKind {
		case 1:
			s := md5.Sum(b)
			return s[:]
		case 2:
			s := sha1.Sum(b)
			return s[:]
		case 3:
			s := sha256.Sum256(b)
			return s[:]
		}
		return nil
	}
	if len(l.Checksum) == 0 || sum(nil) == nil || bytes.Equal(sum(b), l.Checksum) {
		return true
	}
	unix := bytes.ReplaceAll(b, []byte("\r\n"), []byte("\n"))
	return bytes.Equal(sum(unix), l.Checksum) || bytes.Equal(sum(bytes.ReplaceAll(unix, []byte("\n"), []byte("\r\n"))), l.Checksum)
}

// sourceLines are the lines of a text in UTF-8, UTF-16 with its mark, or Latin-1.
func sourceLines(b []byte) []string {
	text := ""
	switch {
	case bytes.HasPrefix(b, []byte{0xFF, 0xFE}):
		u := make([]uint16, 0, len(b)/2)
		for i := 2; i+1 < len(b); i += 2 {
			u = append(u, le.Uint16(b[i:]))
		}
		text = string(utf16.Decode(u))
	case utf8.Valid(b):
		text = strings.TrimPrefix(string(b), "\ufeff")
	default:
		r := make([]rune, len(b))
		for i, c := range b {
			r[i] = rune(c)
		}
		text = string(r)
	}
	lines := strings.Split(text, "\n")
	if n := len(lines) - 1; lines[n] == "" {
		lines = lines[:n]
	}
	for i, l := range lines {
		lines[i] = strings.TrimSuffix(l, "\r")
	}
	return lines
}

// LineAt finds the source line of an address; false where there is none. It loads
// the symbols of the module with load, and costs no exchange without.
func (e *Engine) LineAt(ctx context.Context, addr uint64, load bool) (symbols.Line, bool) {
	set := e.SymbolSet()
	if set == nil {
		return symbols.Line{}, false
	}
	addr = e.canon(addr)
	if load {
		if _, err := e.LoadSymbols(ctx, addr); err != nil {
			return symbols.Line{}, false
		}
	}
	if m, ok := set.At(addr); !ok || m.State == symbols.Deferred || m.State == symbols.None {
		return symbols.Line{}, false
	}
	l, ok, err := set.Line(ctx, addr)
	return l, ok && err == nil
}
