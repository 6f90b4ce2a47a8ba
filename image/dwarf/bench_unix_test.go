//go:build unix

package dwarf

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// askVar makes the test binary answer one question and end, so that what is
// measured is a whole process, as gdb is one.
const askVar = "OPENKD_DWARF_ASK"

// TestAnswer is that process.
func TestAnswer(t *testing.T) {
	what, image, ok := strings.Cut(os.Getenv(askVar), " ")
	if !ok {
		t.Skip("it is a part of the benchmarks")
	}
	f, err := Open(image)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	switch kind, name, _ := strings.Cut(what, ":"); kind {
	case "name":
		if list, err := f.ByName(name); len(list) == 0 {
			t.Fatal(err)
		}
	case "type":
		id, err := f.TypeByName(name)
		if id == 0 {
			t.Fatal(err)
		}
		members, err := f.Members(id)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range members {
			if _, err := f.Type(m.Type); err != nil {
				t.Fatal(err)
			}
		}
	case "line":
		list, err := f.ByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, ok, err := f.Line(list[0].RVA); !ok {
			t.Fatal(err)
		}
	case "all":
		n := 0
		for _, err := range f.Symbols(func(string) bool { return true }) {
			if n++; err != nil {
				t.Fatal(err)
			}
		}
		if n < 10 {
			t.Fatal(n)
		}
	}
}

// process runs a program and says how long it took and how much memory it had
// at most.
func process(b *testing.B, env string, name string, args ...string) (time.Duration, int64) {
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env)
	begin := time.Now()
	out, err := cmd.Output()
	took := time.Since(begin)
	if err != nil {
		b.Fatalf("%s: %v: %s", name, err, out)
	}
	return took, int64(cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss)
}

// BenchmarkAgainstGDB asks this package and gdb, or nm, the same question, each
// as a process that has just been started, and reports how many times as long
// and as large theirs is. With OPENKD_MINGW_IMAGES its first image is asked,
// which must be the kernel of ReactOS.
func BenchmarkAgainstGDB(b *testing.B) {
	image, function, typ := "testdata/x64.exe", "Recursive", "_OBJECT"
	if list := filepath.SplitList(os.Getenv("OPENKD_MINGW_IMAGES")); len(list) > 0 {
		image, function, typ = list[0], "NtClose", "_EPROCESS"
	}
	for _, q := range []struct {
		name, ask string
		theirs    []string
	}{
		{"first symbol", "name:" + function, []string{"gdb", "-nx", "-batch", "-ex", "info address " + function, image}},
		{"first type", "type:" + typ, []string{"gdb", "-nx", "-batch", "-ex", "ptype /o struct " + typ, image}},
		{"first line", "line:" + function, []string{"gdb", "-nx", "-batch", "-ex", "info line " + function, image}},
		{"all symbols", "all:", []string{"nm", image}},
	} {
		b.Run(strings.ReplaceAll(q.name, " ", "-"), func(b *testing.B) {
			if _, err := exec.LookPath(q.theirs[0]); err != nil {
				b.Skip(q.theirs[0], " is not installed")
			}
			var ours, theirs time.Duration
			var mem, theirMem int64
			for range b.N {
				t, m := process(b, fmt.Sprintf("%s=%s %s", askVar, q.ask, image), os.Args[0], "-test.run=^TestAnswer$")
				ours, mem = ours+t, max(mem, m)
				t, m = process(b, "LC_ALL=C", q.theirs[0], q.theirs[1:]...)
				theirs, theirMem = theirs+t, max(theirMem, m)
			}
			b.ReportMetric(float64(theirs)/float64(ours), "times-as-long")
			b.ReportMetric(float64(theirMem)/float64(mem), "times-the-memory")
			b.ReportMetric(float64(mem)/1024, "our-MB(linux)")
			b.ReportMetric(float64(ours.Milliseconds())/float64(b.N), "our-ms")
		})
	}
}
