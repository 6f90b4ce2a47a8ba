package symbols

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// away is a Local for which the folders below root are on another machine.
func away(root string) func(*Options) {
	return func(o *Options) {
		o.Local = func(path string) error {
			if path == root || strings.HasPrefix(path, root+string(filepath.Separator)) {
				return fmt.Errorf("%s is far away", path)
			}
			return nil
		}
	}
}

// TestSecured: what Secure Mode leaves of a path, and why it leaves out the rest.
func TestSecured(t *testing.T) {
	far, near := t.TempDir(), t.TempDir()
	f, _ := finder(t, away(far))
	const url, store, gone = "HTTP", "downstream", "far away"
	for _, c := range []struct{ path, why string }{
		{near, ""},
		{"srv*" + near, ""},
		{"symsrv*symsrv.dll*" + near, ""},
		{far, gone},
		{"srv*" + far, gone},
		{filepath.Join(far, "deep", "er"), gone},
		{"srv*", url},
		{"srv*" + near + "*", url},
		{"srv*" + near + "*https://symbols.example/x", url},
		{"srv*http://user:secret@symbols.example/x", url},
		{"HTTPS://symbols.example/x", url},
		{"symsrv*symsrv.dll*" + near + "*http://symbols.example", url},
		{"srv*" + near + "*" + t.TempDir(), store},
		{"srv**" + near, store},
		{"cache*" + near, store},
		{"cache*", store},
	} {
		p := path(t, near+";"+c.path+";"+near)
		got, left := f.Secured(p)
		if c.why == "" {
			if len(left) != 0 || got.String() != p.String() {
				t.Errorf("%s: %s, %v", c.path, got, left)
			}
			continue
		}
		if len(left) != 1 || got.String() != near+";"+near || !strings.Contains(left[0].Err.Error(), c.why) || strings.Contains(left[0].Element, "secret") {
			t.Errorf("%s: %s is left, and out are %v", c.path, got, left)
		}
	}
}

// TestSecureFetchesNothing: no path, whenever it was set, brings a file over the
// network or writes one.
func TestSecureFetchesNothing(t *testing.T) {
	fx := load(t, "tcpip.sys")
	srv := serve(t)
	srv.files[fx.pdbPath()] = fx.pdbData
	far, near := t.TempDir(), t.TempDir()
	if to, err := filepath.EvalSymlinks(far); err == nil {
		far = to
	}
	write(t, fx.pdbData, far, fx.pdb)
	write(t, fx.pdbData, near, "store", fx.pdb, fx.cv.Key(), fx.pdb)
	write(t, squeeze(fx.pdb, fx.pdbData), near, "packed", fx.pdb, fx.cv.Key(), squeezed(fx.pdb))
	write(t, []byte("PATH:"+filepath.Join(far, fx.pdb)), near, "pointing", fx.pdb, fx.cv.Key(), pointerName)
	linked := filepath.Join(near, "linked")
	if err := os.MkdirAll(linked, 0o755); err != nil {
		t.Fatal(err)
	}
	f, l := finder(t, func(o *Options) {
		away(far)(o)
		lexical := o.Local
		o.Local = func(p string) error { // as the system judges where a link leads
			if to, err := filepath.EvalSymlinks(p); err == nil {
				p = to
			}
			return lexical(p)
		}
	})
	links := os.Symlink(filepath.Join(far, fx.pdb), filepath.Join(linked, fx.pdb)) == nil
	cache := filepath.Join(t.TempDir(), "cache")
	set := NewSet(f, nil)
	defer set.Close()
	set.SetPaths(path(t, "srv*"+cache+"*"+srv.URL), Path{})
	f.SetSecure()
	set.Update([]Module{{Name: "tcpip", Image: "tcpip.sys", Base: 0x1000, Size: 0x1000, PDB: fx.cv, Header: true}})
	if err := set.Load(context.Background(), 0x1000, LoadOptions{Force: true}); err == nil {
		t.Error("a path set before the mode came on has brought a file")
	}
	var none *NotFoundError
	for p, why := range map[string]string{
		srv.URL: "HTTP", "srv*": "HTTP", "srv*" + cache + "*" + srv.URL: "HTTP", "cache*" + cache + ";" + srv.URL: "downstream", far: "far away", "srv*" + far: "far away",
		"srv*" + cache + "*" + filepath.Join(near, "store"): "downstream",
		"srv*" + filepath.Join(near, "packed"):              "compressed",
		"srv*" + filepath.Join(near, "pointing"):            "far away",
		linked:                                              "far away",
	} {
		if p == linked && !links {
			continue
		}
		l.lines = nil
		f.SetNoisy(true)
		if got, err := f.Find(context.Background(), path(t, p), fx.pdbWant); !errors.As(err, &none) || !strings.Contains(l.text(), why) {
			t.Errorf("%s: %v %v\n%s", p, got, err, l.text())
		}
	}
	if n := srv.requests(); len(n) != 0 {
		t.Errorf("a server was asked %q", n)
	}
	// Below the walk too, should something else lead there.
	s, err := f.serverOf(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.get(context.Background(), s.host, s.url(fx.pdbPath()), nil); !errors.Is(err, errSecureServer) || srv.conns != 0 {
		t.Error(err)
	}
	if _, err := f.openCache(cache); !errors.Is(err, errSecureStore) {
		t.Error(err)
	}
	for _, dir := range []string{cache, f.Cache()} {
		if got := files(t, dir); len(got) != 0 {
			t.Errorf("%s holds %q", dir, got)
		}
	}
	// What is here is read all the same, and ld /f too.
	find(t, f, far+";srv*"+filepath.Join(near, "store"), fx.pdbWant, fx.pdbData)
	if err := set.Load(context.Background(), 0x1000, LoadOptions{File: filepath.Join(far, fx.pdb)}); err == nil || !strings.Contains(err.Error(), "Secure Mode") {
		t.Error(err)
	}
	if err := set.Load(context.Background(), 0x1000, LoadOptions{File: filepath.Join(near, "store", fx.pdb, fx.cv.Key(), fx.pdb)}); err != nil {
		t.Error(err)
	}
	// Where the linker had put it.
	cv := *fx.cv
	cv.PDB = filepath.Join(far, fx.pdb)
	set.Update([]Module{{Name: "tcpip", Image: "tcpip.sys", Base: 0x2000, Size: 0x1000, PDB: &cv, Header: true}})
	if err := set.Load(context.Background(), 0x2000, LoadOptions{Force: true}); err == nil {
		t.Error("the linker's path was followed to another machine")
	}
}
