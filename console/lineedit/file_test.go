package lineedit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestHistoryFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "openkd", "history")
	f, lines, err := OpenFile(path)
	if err != nil || lines != nil {
		t.Fatalf("%q, %v", lines, err)
	}
	if _, err := os.Stat(filepath.Dir(path)); err == nil {
		t.Error("a folder is made though nothing was entered")
	}
	for _, l := range []string{"k", "dt nt!_EPROCESS", "", "k", " secret of mine", ".quit_lock \"abc\"", ".server tcp:port=1,Password=abc", ".server tcp:port=1, pass word = x, PASSWORD = y",
		".restart net:port=50000,key=1.2.3.4", "r  \r", "漢"} {
		if err := f.Add(l); err != nil {
			t.Fatal(err)
		}
	}
	_, lines, err = OpenFile(path)
	if want := []string{"dt nt!_EPROCESS", "k", "r", "漢"}; err != nil || !slices.Equal(lines, want) {
		t.Errorf("%q, %v", lines, err)
	}
	if runtime.GOOS != "windows" {
		for p, want := range map[string]os.FileMode{path: 0o600, path + ".lock": 0o600, filepath.Dir(path): 0o700} {
			if st, err := os.Stat(p); err != nil || st.Mode().Perm() != want {
				t.Errorf("%s: %v, %v", p, st.Mode(), err)
			}
		}
		os.Chmod(path, 0o644)
		f.Add("g")
		if st, _ := os.Stat(path); st.Mode().Perm() != 0o600 {
			t.Errorf("a file for others to read stays %v", st.Mode())
		}
	}
	b, _ := os.ReadFile(path)
	if s := strings.ToLower(string(b)); strings.Contains(s, "abc") || strings.Contains(s, "1.2.3.4") || strings.Contains(s, "secret") || strings.Contains(s, "= y") {
		t.Errorf("a secret is in the file: %q", b)
	}
}

func TestHistoryDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	os.WriteFile(path, []byte("k\r\n\n\xff\xfe bad\nbp nt!x\n\x1b[31mred\ntab\tbed\n"+strings.Repeat("x", maxRememberedLine+1)+"\nk\n.quit_lock x\n\u202eok\x00\nunfinished"), 0o600)
	_, lines, err := OpenFile(path)
	if want := []string{"bp nt!x", "k"}; err != nil || !slices.Equal(lines, want) {
		t.Errorf("%q, %v", lines, err)
	}
}

// TestHistoryHuge: a file that has grown beyond all bounds is read at its end,
// and made smaller by the next line.
func TestHistoryHuge(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	h, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Truncate(8 << 30); err != nil { // without using the disk
		t.Skip("no file with a hole in it: ", err)
	}
	h.Seek(0, 2)
	h.WriteString("\n")
	for i := range 5000 {
		fmt.Fprintf(h, "command %d\n", i)
	}
	h.Close()
	f, lines, err := OpenFile(path)
	if err != nil || len(lines) != maxRemembered || lines[len(lines)-1] != "command 4999" {
		t.Fatalf("%d lines, %v", len(lines), err)
	}
	if err := f.Add("the last"); err != nil {
		t.Fatal(err)
	}
	if st, _ := os.Stat(path); st.Size() > maxFile {
		t.Errorf("%d bytes are left", st.Size())
	}
	_, lines, _ = OpenFile(path)
	if len(lines) != maxRemembered || lines[len(lines)-1] != "the last" || lines[0] != "command 3001" {
		t.Errorf("%d lines from %q to %q", len(lines), lines[0], lines[len(lines)-1])
	}
	left, _ := filepath.Glob(path + ".*")
	if len(left) != 1 {
		t.Errorf("left behind: %q", left)
	}
}

// TestHistoryCut: of a file that is read from within, the first line is not taken
// for one.
func TestHistoryCut(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	var b strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&b, "%04d%s\n", i, strings.Repeat("-", 696))
	}
	os.WriteFile(path, []byte(b.String()), 0o600)
	_, lines, err := OpenFile(path)
	if err != nil || len(lines) < 700 || len(lines) >= 1000 {
		t.Fatalf("%d lines, %v", len(lines), err)
	}
	for _, l := range lines {
		if len(l) != 700 {
			t.Errorf("a line was cut: %.20q, %d bytes", l, len(l))
		}
	}
}

// TestHistoryWriters: what several programs add at a time is all there, whole,
// though they make the file shorter meanwhile.
func TestHistoryWriters(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history")
	long := strings.Repeat("-", 700)
	const writers, each = 8, 120
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			f, _, err := OpenFile(path)
			if err != nil {
				t.Error(err)
				return
			}
			for i := range each {
				if err := f.Add(fmt.Sprintf("writer %d line %d %s", w, i, long)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	_, lines, err := OpenFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// Of every writer the last lines are there, in their order and without a gap.
	next := map[int]int{}
	for _, l := range lines {
		var w, i int
		var rest string
		if n, _ := fmt.Sscanf(l, "writer %d line %d %s", &w, &i, &rest); n != 3 || rest != long {
			t.Fatalf("a torn line: %.60q", l)
		}
		if want, seen := next[w]; seen && i != want {
			t.Fatalf("writer %d: line %d where %d belongs", w, i, want)
		}
		next[w] = i + 1
	}
	for w, n := range next { // one that was done early may be gone as a whole
		if n != each {
			t.Errorf("writer %d: the last of its lines is %d", w, n-1)
		}
	}
	if len(lines) < maxFile/2/800 {
		t.Errorf("only %d lines are left", len(lines))
	}
}

func TestHistoryNowhere(t *testing.T) {
	dir := t.TempDir()
	if _, _, err := OpenFile(dir); err == nil {
		t.Error("a folder is taken for a file")
	}
	file := filepath.Join(dir, "file")
	os.WriteFile(file, nil, 0o600)
	if f, _, err := OpenFile(filepath.Join(file, "history")); err == nil {
		if err := f.Add("k"); err == nil {
			t.Error("a line was added below a file")
		}
	}
	var none *File
	if err := none.Add("k"); err != nil {
		t.Error(err)
	}
	if runtime.GOOS == "windows" {
		return
	}
	pipe := filepath.Join(dir, "pipe")
	if exec.Command("mkfifo", pipe).Run() == nil {
		if _, _, err := OpenFile(pipe); err == nil {
			t.Error("a pipe is taken for a file")
		}
	}
	if os.Getuid() == 0 {
		return // who may write everywhere
	}
	os.Chmod(dir, 0o500)
	defer os.Chmod(dir, 0o700)
	f, _, err := OpenFile(filepath.Join(dir, "new"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Add("k"); err == nil {
		t.Error("a line was added in a folder that cannot be written")
	}
}

func TestHistoryBounds(t *testing.T) {
	h := &History{}
	for i := range 3 * maxRemembered {
		h.Add(fmt.Sprint("line ", i))
	}
	if h.Len() != maxRemembered || h.At(0) != fmt.Sprint("line ", 2*maxRemembered) {
		t.Errorf("%d lines from %q", h.Len(), h.At(0))
	}
	var none *History
	if none.Len() != 0 || none.Add("k") {
		t.Error("no history remembers")
	}
}
