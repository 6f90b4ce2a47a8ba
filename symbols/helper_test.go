package symbols

import (
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"openkd/image/pe"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		os.Exit(child())
	}
	goleak.VerifyTestMain(m)
}

// The fixtures are the simulator's kernel: images with PDBs.
const kernelDir = "../sim/kernel/image"

// fixture is an image and its PDB.
type fixture struct {
	image, pdb string // names
	imageData  []byte
	pdbData    []byte
	pdbWant    Wanted
	imageWant  Wanted
	im         *pe.Image
	cv         *pe.CodeView
}

func load(t testing.TB, image string) *fixture {
	t.Helper()
	f := &fixture{image: image}
	var err error
	if f.imageData, err = os.ReadFile(filepath.Join(kernelDir, image)); err != nil {
		t.Fatal(err)
	}
	if f.im, err = pe.Open(bytes.NewReader(f.imageData), pe.File); err != nil {
		t.Fatal(err)
	}
	if f.cv, err = f.im.CodeView(); err != nil || f.cv == nil {
		t.Fatal(f.cv, err)
	}
	f.pdb = f.cv.Name()
	if f.pdbData, err = os.ReadFile(filepath.Join(kernelDir, f.pdb)); err != nil {
		t.Fatal(err)
	}
	ext := strings.TrimPrefix(filepath.Ext(image), ".")
	f.pdbWant = Wanted{Name: f.pdb, Ext: ext, PDB: f.cv}
	f.imageWant = Wanted{Name: image, Ext: ext, Image: &ImageID{f.im.TimeDateStamp, f.im.SizeOfImage, f.im.CheckSum, false}}
	return f
}

func (f *fixture) pdbPath() string { return f.pdb + "/" + f.cv.Key() + "/" + f.pdb }

// other is the fixture's PDB wanted with another identity, the nth.
func (f *fixture) other(n int) Wanted {
	cv := *f.cv
	cv.GUID[0] ^= byte(n + 1)
	cv.GUID[1] ^= byte((n + 1) >> 8)
	w := f.pdbWant
	w.PDB = &cv
	return w
}

// modules are n wants that no store has.
func (f *fixture) modules(n int) []Wanted {
	out := make([]Wanted, n)
	for i := range out {
		out[i] = f.other(i)
	}
	return out
}

// bulky is an image of so many bytes: what lies behind an image's sections does
// not belong to it.
func (f *fixture) bulky(size int) []byte {
	out := append([]byte(nil), f.imageData...)
	for n := uint32(1); len(out) < size; n++ {
		out = binary.LittleEndian.AppendUint32(out, n*2654435761)
	}
	return out[:size]
}

func write(t testing.TB, data []byte, parts ...string) string {
	t.Helper()
	path := filepath.Join(parts...)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// squeeze makes a cabinet of one file with MSZIP.
func squeeze(name string, data []byte) []byte {
	le := binary.LittleEndian
	const frame = 32 << 10
	var blocks, b []byte
	count := 0
	for rest := data; len(rest) > 0; count++ {
		p := rest[:min(frame, len(rest))]
		rest = rest[len(p):]
		z := bytes.NewBufferString("CK")
		w, _ := flate.NewWriter(z, 6)
		_, _ = w.Write(p)
		_ = w.Close()
		blocks = append(blocks, 0, 0, 0, 0)
		blocks = le.AppendUint16(blocks, uint16(z.Len()))
		blocks = le.AppendUint16(blocks, uint16(len(p)))
		blocks = append(blocks, z.Bytes()...)
	}
	files := 36 + 8
	at := files + 16 + len(name) + 1
	b = append(b, "MSCF\x00\x00\x00\x00"...)
	b = le.AppendUint32(b, uint32(at+len(blocks)))
	b = le.AppendUint32(b, 0)
	b = le.AppendUint32(b, uint32(files))
	b = le.AppendUint32(b, 0)
	b = append(b, 3, 1, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0)
	b = le.AppendUint32(b, uint32(at))
	b = le.AppendUint16(b, uint16(count))
	b = le.AppendUint16(b, 1)
	b = le.AppendUint32(b, uint32(len(data)))
	b = le.AppendUint32(b, 0)
	b = append(b, 0, 0, 0, 0, 0, 0, 0x20, 0)
	b = append(b, name+"\x00"...)
	return append(b, blocks...)
}

// fakeServer serves files, and what a test makes of it.
type fakeServer struct {
	*httptest.Server
	mu    sync.Mutex
	files map[string][]byte
	asked []string // "path" or "path range"
	conns int
	// hook answers instead of the files when it returns true.
	hook func(w http.ResponseWriter, r *http.Request) bool
}

func serve(t testing.TB) *fakeServer {
	t.Helper()
	s := &fakeServer{files: map[string][]byte{}}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(s.handle))
	s.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			s.mu.Lock()
			s.conns++
			s.mu.Unlock()
		}
	}
	s.Start()
	t.Cleanup(s.Close)
	return s
}

func (s *fakeServer) handle(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.asked = append(s.asked, strings.TrimSpace(r.URL.Path+" "+r.Header.Get("Range")))
	data, ok := s.files[strings.TrimPrefix(r.URL.Path, "/")]
	hook := s.hook
	s.mu.Unlock()
	if hook != nil && hook(w, r) {
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", fmt.Sprintf(`"%x"`, len(data)))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

func (s *fakeServer) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.asked...)
}

// log is what a Finder says.
type log struct {
	mu       sync.Mutex
	lines    []string
	notices  []string
	progress []Progress
}

func (l *log) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, "\n")
}

func (l *log) noticed() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.notices...)
}

// finder makes one with short times and a cache of its own.
func finder(t testing.TB, change func(*Options)) (*Finder, *log) {
	t.Helper()
	l := &log{}
	o := Options{
		Cache:   filepath.Join(t.TempDir(), "cache"),
		Connect: 2 * time.Second, Header: 2 * time.Second, Stall: 2 * time.Second, pause: time.Millisecond,
		Proxy:    "",
		Log:      func(s string) { l.mu.Lock(); l.lines = append(l.lines, s); l.mu.Unlock() },
		Notice:   func(s string) { l.mu.Lock(); l.notices = append(l.notices, s); l.mu.Unlock() },
		Progress: func(p Progress) { l.mu.Lock(); l.progress = append(l.progress, p); l.mu.Unlock() },
	}
	if change != nil {
		change(&o)
	}
	f, err := NewFinder(o)
	if err != nil {
		t.Fatal(err)
	}
	f.SetNoisy(true)
	t.Cleanup(f.Close)
	return f, l
}

func path(t testing.TB, s string) Path {
	t.Helper()
	p, err := ParsePath(s)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// find fails the test if the file is not found or is another one.
func find(t testing.TB, f *Finder, p string, w Wanted, data []byte) Found {
	t.Helper()
	got, err := f.Find(context.Background(), path(t, p), w)
	if err != nil {
		t.Fatalf("%s: %v", p, err)
	}
	have, err := os.ReadFile(got.Path)
	if err != nil || !bytes.Equal(have, data) {
		t.Fatalf("%s: %s is another file (%v)", p, got.Path, err)
	}
	return got
}

// files lists what is below a folder.
func files(t testing.TB, root string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if os.IsNotExist(err) {
			return nil
		}
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(root, p)
			out = append(out, filepath.ToSlash(rel))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
