package symbols

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestFolders(t *testing.T) {
	fx := load(t, "tcpip.sys")
	cases := []struct {
		name  string
		parts []string
		data  []byte
	}{
		{"the folder", []string{fx.pdb}, fx.pdbData},
		{"symbols\\sys", []string{"symbols", "sys", fx.pdb}, fx.pdbData},
		{"sys", []string{"sys", fx.pdb}, fx.pdbData},
		{"a store", []string{fx.pdb, fx.cv.Key(), fx.pdb}, fx.pdbData},
		{"compressed in a store", []string{fx.pdb, fx.cv.Key(), "tcpip.pd_"}, squeeze(fx.pdb, fx.pdbData)},
	}
	for _, c := range cases {
		f, l := finder(t, nil)
		dir := t.TempDir()
		file := write(t, c.data, append([]string{dir}, c.parts...)...)
		got := find(t, f, dir, fx.pdbWant, fx.pdbData)
		if !strings.HasSuffix(file, "_") && got.Path != file {
			t.Errorf("%s: %s", c.name, got.Path)
		}
		if !strings.Contains(l.text(), "OK") && !strings.Contains(l.text(), "expanded") {
			t.Errorf("%s: the log does not say so:\n%s", c.name, l.text())
		}
	}
}

func TestThreeTiers(t *testing.T) {
	fx := load(t, "tcpip.sys")
	f, _ := finder(t, nil)
	dir := t.TempDir()
	write(t, nil, dir, tiersName)
	write(t, fx.pdbData, dir, "tc", fx.pdb, fx.cv.Key(), fx.pdb)
	find(t, f, dir, fx.pdbWant, fx.pdbData)
	// A cache that has them keeps to it.
	cache := t.TempDir()
	write(t, nil, cache, tiersName)
	got := find(t, f, "srv*"+cache+"*"+dir, fx.pdbWant, fx.pdbData)
	if want := filepath.Join(cache, "tc", fx.pdb, fx.cv.Key(), fx.pdb); got.Path != want {
		t.Errorf("%s, want %s", got.Path, want)
	}
}

func TestFolderPointer(t *testing.T) {
	fx := load(t, "tcpip.sys")
	f, l := finder(t, nil)
	dir, elsewhere := t.TempDir(), t.TempDir()
	file := write(t, fx.pdbData, elsewhere, "x.pdb")
	write(t, []byte("PATH:"+file+"\r\n"), dir, fx.pdb, fx.cv.Key(), pointerName)
	if got := find(t, f, "srv*"+dir, fx.pdbWant, fx.pdbData); got.Path != file {
		t.Error(got.Path)
	}
	// One that leads to the wrong file, to none, to a device, to a message.
	wrong := write(t, load(t, "hal.dll").pdbData, elsewhere, "y.pdb")
	for text, want := range map[string]string{
		"PATH:" + wrong:            "mismatched",
		"PATH:" + file + "x":       "file not found",
		"PATH:" + elsewhere:        "file not found",
		"MSG: thrown away":         "thrown away",
		"PATH:http://127.0.0.1/x":  "not followed from a folder",
		"PATH:" + os.DevNull:       "file not found",
		strings.Repeat("x", 10000): "longer",
	} {
		write(t, []byte(text), dir, fx.pdb, fx.cv.Key(), pointerName)
		_, err := f.Find(context.Background(), path(t, "srv*"+dir), fx.pdbWant)
		if err == nil || !strings.Contains(l.text(), want) {
			t.Errorf("%.40q: %v\n%s", text, err, l.text())
		}
	}
}

func TestCaches(t *testing.T) {
	fx := load(t, "tcpip.sys")
	f, _ := finder(t, nil)
	at := func(dir string) string { return filepath.Join(dir, fx.pdb, fx.cv.Key(), fx.pdb) }
	top := t.TempDir()
	c1, c2, c3 := filepath.Join(top, "1"), filepath.Join(top, "2"), filepath.Join(top, "3")
	store := filepath.Join(top, "store")
	write(t, fx.pdbData, at(store))

	// A folder needs no cache.
	if got := find(t, f, "srv*"+store, fx.pdbWant, fx.pdbData); got.Path != at(store) {
		t.Error(got.Path)
	}
	// Each store on the way gets one, and the nearest is used.
	if got := find(t, f, "srv*"+c1+"*"+c2+"*"+store, fx.pdbWant, fx.pdbData); got.Path != at(c1) {
		t.Error(got.Path)
	}
	if want := []string{pingName, fx.pdbPath()}; !slices.Equal(files(t, c1), want) || !slices.Equal(files(t, c2), want) {
		t.Error(files(t, c1), files(t, c2))
	}
	if err := os.RemoveAll(store); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(c1); err != nil {
		t.Fatal(err)
	}
	if got := find(t, f, "srv*"+c1+"*"+c2+"*"+store, fx.pdbWant, fx.pdbData); got.Path != at(c1) {
		t.Error(got.Path)
	}
	// cache* gets what comes after it, of folders too.
	plain := filepath.Join(top, "plain")
	write(t, fx.pdbData, plain, fx.pdb)
	if got := find(t, f, "cache*"+c3+";"+plain, fx.pdbWant, fx.pdbData); got.Path != at(c3) {
		t.Error(got.Path)
	}
	if err := os.RemoveAll(plain); err != nil {
		t.Fatal(err)
	}
	if got := find(t, f, "cache*"+c3+";"+plain, fx.pdbWant, fx.pdbData); got.Path != at(c3) {
		t.Error(got.Path)
	}
	// The default one.
	find(t, f, "cache*;"+c3, fx.pdbWant, fx.pdbData)
	if _, err := os.Stat(at(f.Cache())); err != nil {
		t.Error(err)
	}
	// A damaged file in a cache is found out and replaced.
	write(t, fx.pdbData[:100], at(c3))
	if got := find(t, f, "srv*"+c3+"*"+c2, fx.pdbWant, fx.pdbData); got.Path != at(c3) {
		t.Error(got.Path)
	}
}

func TestImages(t *testing.T) {
	fx := load(t, "tcpip.sys")
	f, _ := finder(t, nil)
	dir := t.TempDir()
	file := write(t, fx.imageData, dir, "sys", "TCPIP.SYS")
	if runtime.GOOS == "linux" {
		if got := find(t, f, dir, fx.imageWant, fx.imageData); got.Path != file {
			t.Error(got.Path)
		}
	}
	store := t.TempDir()
	key := fx.imageWant.Key()
	write(t, fx.imageData, store, fx.image, key, fx.image)
	find(t, f, "srv*"+store, fx.imageWant, fx.imageData)
	// By the check sum alone, where the time stamp is not known; not in stores.
	w := fx.imageWant
	w.Image = &ImageID{Size: fx.im.SizeOfImage, CheckSum: fx.im.CheckSum}
	write(t, fx.imageData, dir, fx.image)
	if fx.im.CheckSum != 0 {
		find(t, f, dir, w, fx.imageData)
	}
	w.Image = &ImageID{Timestamp: fx.im.TimeDateStamp + 1, Size: fx.im.SizeOfImage}
	_, err := f.Find(context.Background(), path(t, dir), w)
	var mm *MismatchError
	if !errors.As(err, &mm) || !strings.Contains(mm.Want, "time stamp") || mm.Want == mm.Have {
		t.Error(err)
	}
	w.Image = &ImageID{Size: fx.im.SizeOfImage}
	if _, err := f.Find(context.Background(), path(t, dir), w); err == nil || !strings.Contains(err.Error(), "neither the time stamp") {
		t.Error(err)
	}
}

func TestMismatched(t *testing.T) {
	fx, other := load(t, "tcpip.sys"), load(t, "hal.dll")
	f, l := finder(t, nil)
	dir := t.TempDir()
	file := write(t, other.pdbData, dir, fx.pdb)
	_, err := f.Find(context.Background(), path(t, dir), fx.pdbWant)
	var mm *MismatchError
	if !errors.As(err, &mm) {
		t.Fatal(err)
	}
	for _, want := range []string{fx.pdbWant.Identity(), other.pdbWant.Identity(), file} {
		if !strings.Contains(err.Error(), want) || !strings.Contains(l.text(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	if !strings.Contains(l.text(), "mismatched") {
		t.Error(l.text())
	}
	w := fx.pdbWant
	w.Loose = true
	got, err := f.Find(context.Background(), path(t, dir), w)
	if err != nil || got.Path != file || !got.Mismatched {
		t.Error(got, err)
	}
	// An age is part of it.
	w = fx.pdbWant
	cv := *w.PDB
	cv.Age++
	w.PDB = &cv
	write(t, fx.pdbData, dir, fx.pdb)
	if _, err := f.Find(context.Background(), path(t, dir), w); !errors.As(err, &mm) {
		t.Error(err)
	}
	// What is not a PDB at all.
	for _, junk := range []string{"", "<!DOCTYPE html><html>", "MZ", strings.Repeat("\x00", 5000), msf7, msf2 + "\r\n", "MSCF"} {
		write(t, []byte(junk), dir, fx.pdb)
		_, err := f.Find(context.Background(), path(t, dir), fx.pdbWant)
		if err == nil || errors.As(err, &mm) || !strings.Contains(err.Error(), file) {
			t.Errorf("%.20q: %v", junk, err)
		}
	}
}

func TestHostileNames(t *testing.T) {
	fx := load(t, "tcpip.sys")
	f, _ := finder(t, nil)
	for _, name := range []string{"", "..", "../x.pdb", `..\x.pdb`, "/etc/passwd", `C:\x.pdb`, "nul", "a\x00b"} {
		w := fx.pdbWant
		w.Name = name
		if _, err := f.Find(context.Background(), path(t, t.TempDir()), w); err == nil || !strings.Contains(err.Error(), "not the name of a file") {
			t.Errorf("%q: %v", name, err)
		}
	}
	w := fx.pdbWant
	w.Ext = "../.."
	dir := t.TempDir()
	write(t, fx.pdbData, dir, fx.pdb)
	find(t, f, filepath.Join(dir), w, fx.pdbData)
	if _, err := f.Find(context.Background(), Path{}, Wanted{Name: "x"}); err == nil {
		t.Error("a want without an identity")
	}
}

func TestNowhere(t *testing.T) {
	fx := load(t, "tcpip.sys")
	f, l := finder(t, nil)
	for p, want := range map[string]string{
		"":            "the symbol path is empty",
		t.TempDir():   "in 4 places",
		"/nonexisten": "in the one place",
	} {
		_, err := f.Find(context.Background(), path(t, p), fx.pdbWant)
		var nf *NotFoundError
		if !errors.As(err, &nf) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v\n%s", p, err, l.text())
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := f.Find(ctx, path(t, t.TempDir()), fx.pdbWant); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

func TestCacheTrouble(t *testing.T) {
	fx := load(t, "tcpip.sys")
	f, l := finder(t, nil)
	dir := t.TempDir()
	write(t, squeeze(fx.pdb, fx.pdbData), dir, "store", fx.pdb, fx.cv.Key(), "tcpip.pd_")
	notDir := write(t, nil, dir, "file")
	p := path(t, "srv*"+filepath.Join(notDir, "cache")+"*"+filepath.Join(dir, "store"))
	for range 3 {
		_, err := f.Find(context.Background(), p, fx.pdbWant)
		var ce *CacheError
		if !errors.As(err, &ce) || !strings.Contains(err.Error(), ".sympath srv*folder*server") {
			t.Fatal(err)
		}
	}
	if n := l.noticed(); len(n) != 1 || !strings.Contains(n[0], "cannot be written") {
		t.Error(n)
	}
	err := &CacheError{"/c", &os.PathError{Op: "write", Path: "/c/x", Err: syscall.ENOSPC}}
	if !strings.Contains(err.Error(), "disk of the symbol cache /c is full") {
		t.Error(err)
	}
}

func TestLog(t *testing.T) {
	fx := load(t, "tcpip.sys")
	f, l := finder(t, nil)
	dir := t.TempDir()
	f.SetNoisy(false)
	_, _ = f.Find(context.Background(), path(t, dir), fx.pdbWant)
	if l.text() != "" {
		t.Error("quiet, and says", l.text())
	}
	f.SetNoisy(true)
	write(t, fx.pdbData, dir, "sys", fx.pdb)
	write(t, nil, dir, "s", pingName)
	find(t, f, "srv*"+filepath.Join(dir, "c")+"*"+filepath.Join(dir, "s")+";"+dir, fx.pdbWant, fx.pdbData)
	want := []string{
		"SYMSRV: " + filepath.Join(dir, "c") + " - path not found",
		"SYMSRV: " + filepath.Join(dir, "s", fx.pdbPath()) + " - path not found",
		"DBGHELP: " + filepath.Join(dir, "symbols", "sys", fx.pdb) + " - file not found",
		"DBGHELP: " + filepath.Join(dir, "sys", fx.pdb) + " - OK",
	}
	if got := l.text(); got != strings.Join(want, "\n") {
		t.Errorf("%s\n\nwant\n%s", got, strings.Join(want, "\n"))
	}
}

// TestDeadShare: a folder on a machine that does not answer costs one wait.
func TestDeadShare(t *testing.T) {
	fx := load(t, "tcpip.sys")
	c := &clock{t: time.Now()}
	var looked atomic.Int32
	dead := filepath.Join(t.TempDir(), "dead")
	f, l := finder(t, func(o *Options) {
		o.slow, o.Now = time.Millisecond, c.now
		o.stat = func(name string) (fs.FileInfo, error) {
			if name == dead {
				looked.Add(1)
				time.Sleep(5 * time.Millisecond)
				return nil, &fs.PathError{Op: "stat", Path: name, Err: errors.New("the network path was not found")}
			}
			return os.Stat(name)
		}
	})
	p := path(t, "srv*"+dead+";"+dead)
	for _, err := range all(f, p, fx.modules(30)) {
		var nf *NotFoundError
		if !errors.As(err, &nf) || nf.Retry.IsZero() || !strings.Contains(err.Error(), "network path") {
			t.Fatal(err)
		}
	}
	if n, said := looked.Load(), l.noticed(); n != 1 || len(said) != 1 || !strings.Contains(said[0], dead) {
		t.Errorf("looked %d times, said %q", n, said)
	}
	c.pass(2 * time.Minute)
	all(f, p, fx.modules(3))
	if n := looked.Load(); n != 2 {
		t.Errorf("looked %d times", n)
	}
}
