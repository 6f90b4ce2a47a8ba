//go:build linux

package pdb

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"openkd/image/sym"
)

// The large PDB of the benchmarks.
const (
	bigModules   = 2000
	bigFunctions = 300 // of a module
	bigData      = 200 // of a module
	bigTypes     = 50  // of a module
)

func bigFunction(mod, i int) string {
	return fmt.Sprintf("bench::module_%d::function_%d_%d", mod, mod, i)
}

// bigFile writes a PDB of about 200 MB with a million public symbols, the
// private symbols and lines behind them, and 100,000 structures.
func bigFile(path string) error {
	b := newBuilder(machineX64)
	const size = 16 // of a function
	b.sections = []section{{rva: 0x1000, size: bigModules * bigFunctions * size, code: true}, {rva: 0x10000000, size: bigModules * bigData * 8}}
	args := b.typ(lfArgList, uint32(1), uint32(0x74))
	fn := b.typ(lfProcedure, uint32(0x74), uint8(0), uint8(0), uint16(1), args)
	for mod := range bigModules {
		m := b.module(fmt.Sprintf(`c:\bench\obj\module_%d.obj`, mod), uint32(mod*bigFunctions*size), bigFunctions*size)
		file := fmt.Sprintf(`c:\bench\src\module_%d.cpp`, mod)
		m.files = []string{file}
		for i := range bigFunctions {
			name := bigFunction(mod, i)
			off := uint32((mod*bigFunctions + i) * size)
			p := m.proc(sGProc32, name, fn, off, size)
			m.add(sFrameProc, uint32(0), uint32(0), uint32(0), uint32(0), uint32(0), uint16(0), uint32(1<<frameLocalShift|1<<frameParamShift))
			m.add(sLocal, uint32(0x74), uint16(localParam), "argument")
			m.add(sDefRangeFP, int32(8), off, uint16(1), uint16(size))
			m.end(p, sEnd)
			m.sub(subLines, off, uint16(1), uint16(0), uint32(size), uint32(0), uint32(2), uint32(28), uint32(0), uint32(10*i+1), uint32(8), uint32(10*i+2))
			b.global(sProcRef, uint32(0), p, uint16(mod+1), name)
			b.pub(fmt.Sprintf("?function_%d_%d@module_%d@bench@@YAHH@Z", mod, i, mod), 1, off, pubFunction)
		}
		m.sub(subChecksum, b.text(file), uint8(0), uint8(0))
		for i := range bigData {
			name := fmt.Sprintf("variable_of_module_%d_%d", mod, i)
			b.global(sGData32, uint32(0x74), uint32((mod*bigData+i)*8), uint16(2), name)
			b.pub(name, 2, uint32((mod*bigData+i)*8), 0)
		}
		for i := range bigTypes {
			fields := b.typ(lfFieldList, uint16(lfMember), uint16(3), uint32(0x74), uint16(0), "first_member", uint16(lfMember), uint16(3), uint32(0x77), uint16(8), "second_member",
				uint16(lfMember), uint16(3), uint32(0x670), uint16(16), "third_member")
			b.typ(lfStructure, uint16(3), uint16(0), fields, uint32(0), uint32(0), uint16(24), fmt.Sprintf("structure_%d_%d", mod, i))
		}
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(f, 1<<20)
	if err := writeMSF(w, b.build(), msfOptions{block: 4096}); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}

// benchEnv says what a process of the benchmarks is to do: a word, a path, and
// what is asked for.
const benchEnv = "OPENKD_PDB_BENCH"

// TestBenchProcess is no test but the process that a benchmark measures.
func TestBenchProcess(t *testing.T) {
	what := strings.SplitN(os.Getenv(benchEnv), "|", 3)
	if len(what) != 3 {
		t.Skip("it is for benchmarks")
	}
	path, arg := what[1], what[2]
	if what[0] == "generate" {
		if err := bigFile(path); err != nil {
			t.Fatal(err)
		}
		return
	}
	start := time.Now()
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	switch what[0] {
	case "name":
		s, err := f.ByName(arg)
		if err != nil || len(s) == 0 {
			t.Fatalf("%+v, %v", s, err)
		}
	case "address":
		rva, err := strconv.ParseUint(arg, 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		s, ok, err := f.ByRVA(uint32(rva))
		if err != nil || !ok || s.Kind != sym.Function {
			t.Fatalf("%+v, %v, %v", s, ok, err)
		}
		if l, ok, err := f.Line(uint32(rva)); err != nil || !ok {
			t.Fatalf("%+v, %v, %v", l, ok, err)
		}
	case "publics":
		w := bufio.NewWriter(os.Stdout)
		tab, err := f.tables()
		if err != nil {
			t.Fatal(err)
		}
		l, err := f.layout()
		if err != nil {
			t.Fatal(err)
		}
		err = f.eachRecord(tab, &tab.publics, func(_ uint32, r *symRec) error {
			p, _ := f.public(l, r)
			_, err := fmt.Fprintln(w, p.rva, p.name)
			return err
		})
		if err != nil || w.Flush() != nil {
			t.Fatal(err)
		}
	case "symbols":
		n := 0
		for _, err := range f.Symbols(func(string) bool { return true }) {
			if err != nil {
				t.Fatal(err)
			}
			n++
		}
		fmt.Println(n)
	case "type":
		id, err := f.TypeByName(arg)
		if err != nil || id == 0 {
			t.Fatal(err)
		}
		if m, err := f.Members(id); err != nil || len(m) == 0 {
			t.Fatalf("%+v, %v", m, err)
		}
	}
	took := time.Since(start)
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if kb, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			fmt.Fprintf(os.Stderr, "\npeak %s in %d\n", strings.Fields(kb)[0], took.Microseconds())
		}
	}
}

// runOurs runs a process of ours. whole is the time from its start to its end,
// inside without what starting a Go test costs; peak is in bytes.
func runOurs(b *testing.B, what, path, arg string) (whole, inside time.Duration, peak float64) {
	b.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestBenchProcess$")
	cmd.Env = append(os.Environ(), benchEnv+"="+what+"|"+path+"|"+arg)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	start := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatalf("%v %s: %v: %s", what, arg, err, errs.String())
	}
	whole = time.Since(start)
	var kb, us int64
	if i := strings.Index(errs.String(), "peak "); i >= 0 {
		if _, err := fmt.Sscanf(errs.String()[i:], "peak %d in %d", &kb, &us); err != nil {
			b.Fatal(err)
		}
	}
	return whole, time.Duration(us) * time.Microsecond, float64(kb) * 1024
}

// runTheirs runs a tool of LLVM, and returns its time and peak.
func runTheirs(b *testing.B, args ...string) (time.Duration, float64) {
	b.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	start := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatalf("%v: %v", args, err)
	}
	took := time.Since(start)
	use, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage)
	if !ok {
		return took, 0
	}
	return took, float64(use.Maxrss) * 1024
}

// BenchmarkAgainstLLVM opens a file and asks one thing, each time in a new
// process, and prints how that compares with LLVM's tools on the same file:
// times of whole processes and of the work without their beginnings, the peaks
// of memory, and ratios (under 1: we are quicker).
func BenchmarkAgainstLLVM(b *testing.B) {
	dir := b.TempDir()
	big := filepath.Join(dir, "x64.pdb") // the name that the image of the fixture has for it
	runOurs(b, "generate", big, "")
	st, err := os.Stat(big)
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("%s has %d MB", filepath.Base(big), st.Size()>>20)
	image, err := os.ReadFile("testdata/x64.exe")
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "x64.exe"), image, 0o700); err != nil {
		b.Fatal(err)
	}
	smallPath, err := filepath.Abs("testdata/x64.pdb")
	if err != nil {
		b.Fatal(err)
	}
	util, symbolizer := tool(b, "llvm-pdbutil"), tool(b, "llvm-symbolizer")
	// What it costs them to begin, mostly to load their library.
	var begin time.Duration
	for range 5 {
		t, _ := runTheirs(b, util, "--version")
		begin += t / 5
	}
	rva := uint32(0x1000 + (1234*bigFunctions+56)*16 + 4)
	for _, c := range []struct {
		name, what, path, arg string
		theirs                []string
	}{
		{"big/name", "name", big, bigFunction(1234, 56), []string{util, "dump", "-globals", "-global-name=" + bigFunction(1234, 56), big}},
		{"big/address", "address", big, fmt.Sprintf("%x", rva), []string{symbolizer, "--obj=" + filepath.Join(dir, "x64.exe"), fmt.Sprintf("0x%x", 0x140000000+uint64(rva))}},
		{"big/publics", "publics", big, "", []string{util, "dump", "-publics", big}},
		{"big/symbols", "symbols", big, "", []string{util, "dump", "-publics", "-globals", big}},
		{"big/type", "type", big, "structure_1234_5", []string{util, "dump", "-types", "-type-index=0x1234", "-dont-resolve-forward-refs", big}},
		{"small/name", "name", smallPath, "optimised", []string{util, "dump", "-globals", "-global-name=optimised", smallPath}},
		{"small/address", "address", smallPath, "1662", []string{symbolizer, "--obj=" + strings.TrimSuffix(smallPath, ".pdb") + ".exe", "0x140001662"}},
		{"small/publics", "publics", smallPath, "", []string{util, "dump", "-publics", smallPath}},
		{"small/type", "type", smallPath, "All", []string{util, "dump", "-types", "-type-index=0x103d", "-dont-resolve-forward-refs", smallPath}},
	} {
		b.Run(c.name, func(b *testing.B) {
			var ours, inside, theirs time.Duration
			var peak, theirPeak float64
			n := 0
			for b.Loop() {
				w, in, p := runOurs(b, c.what, c.path, c.arg)
				t, tp := runTheirs(b, c.theirs...)
				ours, inside, theirs, n = ours+w, inside+in, theirs+t, n+1
				peak, theirPeak = max(peak, p), max(theirPeak, tp)
			}
			ms := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(n) }
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(ms(inside), "ms")
			b.ReportMetric(ms(ours), "ms-process")
			b.ReportMetric(ms(theirs), "llvm-ms-process")
			b.ReportMetric(float64(ours)/float64(theirs), "of-llvm-process")
			// In small files there is next to no work.
			if work := theirs - time.Duration(n)*begin; work > theirs/5 {
				b.ReportMetric(float64(inside)/float64(work), "of-llvm-work")
			}
			b.ReportMetric(peak/(1<<20), "MB")
			b.ReportMetric(theirPeak/(1<<20), "llvm-MB")
		})
	}
}

// BenchmarkWarm is what further questions cost in a process that has the file
// open.
func BenchmarkWarm(b *testing.B) {
	f := open(b, "testdata/x64.pdb")
	b.Run("name", func(b *testing.B) {
		for b.Loop() {
			if s, err := f.ByName("optimised"); err != nil || len(s) != 1 {
				b.Fatal(s, err)
			}
		}
	})
	b.Run("address", func(b *testing.B) {
		for b.Loop() {
			if s, ok, err := f.ByRVA(0x1662); err != nil || !ok {
				b.Fatal(s, err)
			}
		}
	})
	b.Run("line", func(b *testing.B) {
		for b.Loop() {
			if l, ok, err := f.Line(0x1662); err != nil || !ok {
				b.Fatal(l, err)
			}
		}
	})
	b.Run("scopes", func(b *testing.B) {
		for b.Loop() {
			if s, err := f.Scopes(0x1662); err != nil || len(s) == 0 {
				b.Fatal(s, err)
			}
		}
	})
	b.Run("members", func(b *testing.B) {
		id, err := f.TypeByName("All")
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if m, err := f.Members(id); err != nil || len(m) == 0 {
				b.Fatal(m, err)
			}
		}
	})
}
