//go:build unix

package sym_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A question is asked of our reader and of the programs that read such files.
type question struct {
	what   string
	ask    []string   // the question and its argument, for testdata/ask
	theirs [][]string // the programs
}

// symbolFile is a file with its questions.
type symbolFile struct {
	name, path string
	questions  []question
}

// cost is what a process took: its time from start to end, the shortest of
// several, and the memory it had at most.
type cost struct {
	args []string
	time time.Duration
	mem  int64 // bytes
}

// run runs the process once more.
func (c *cost) run(b *testing.B) {
	b.Helper()
	cmd := exec.Command(c.args[0], c.args[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatalf("%v: %v", c.args, err)
	}
	if took := time.Since(begin); c.time == 0 || took < c.time {
		c.time = took
	}
	if use, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		c.mem = max(c.mem, use.Maxrss*rssUnit)
	}
}

// generate makes a test of another package write its large file.
func generate(b *testing.B, pkg, env, path string) {
	b.Helper()
	cmd := exec.Command("go", "test", "-count=1", "-run=^TestGenerate$", pkg)
	cmd.Env = append(os.Environ(), env+"="+path)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	st, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	b.Logf("%s has %d MB", filepath.Base(path), st.Size()>>20)
}

func tool(names ...string) string {
	for _, n := range names {
		if p, err := exec.LookPath(n); err == nil {
			return p
		}
	}
	return ""
}

func absolute(b *testing.B, path string) string {
	p, err := filepath.Abs(path)
	if err != nil {
		b.Fatal(err)
	}
	return p
}

// BenchmarkColdFiles is what a symbol file costs a person who has just started:
// each question is asked of a new process of ours, and of new processes of
// llvm-pdbutil and llvm-symbolizer, or gdb, nm and addr2line, on the same file.
// It prints a table of times, of peaks of memory, and of ratios, in which 10x
// means that theirs takes ten times as long, or as much memory:
//
//	go test ./image/sym -run '^$' -bench ColdFiles -benchtime 5x
//
// The files are a generated PDB of 200 MB with a million public symbols, a small
// one, a generated image of MinGW's shape with 600,000 procedures and a million
// symbols, a small one, and the images that OPENKD_MINGW_IMAGES names, if they
// are kernels of ReactOS. With -short the large ones are left out. Programs that
// are not installed are left out too.
func BenchmarkColdFiles(b *testing.B) {
	dir := b.TempDir()
	ask := filepath.Join(dir, "ask")
	if out, err := exec.Command("go", "build", "-o", ask, "./testdata/ask").CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, out)
	}
	pdbutil, symbolizer := tool("llvm-pdbutil", "llvm-pdbutil-14", "llvm-pdbutil-19"), tool("llvm-symbolizer", "llvm-symbolizer-14", "llvm-symbolizer-19")
	gdb, nm, addr2line := tool("gdb"), tool("nm"), tool("addr2line")

	pdbQuestions := func(path, image, name, typ, typeIndex string, rva uint32) []question {
		return []question{
			{"first symbol by name", []string{"name", name}, [][]string{{pdbutil, "dump", "-globals", "-global-name=" + name, path}}},
			{"first symbol and line by address", []string{"line", fmt.Sprintf("%x", rva)}, [][]string{{symbolizer, "--obj=" + image, fmt.Sprintf("%#x", 0x140000000+uint64(rva))}}},
			// They find a type by its number only, and say so little of it in less time.
			{"first dt", []string{"type", typ}, [][]string{{pdbutil, "dump", "-types", "-type-index=" + typeIndex, "-dont-resolve-forward-refs", path}}},
			{"all symbols", []string{"all", ""}, [][]string{{pdbutil, "dump", "-publics", "-globals", path}}},
		}
	}
	imageQuestions := func(path, name, typ string, base uint64, rva uint32) []question {
		gdbs := func(command string) []string { return []string{gdb, "-nx", "-batch", "-ex", command, path} }
		return []question{
			{"first symbol by name", []string{"name", name}, [][]string{gdbs("info address " + name), {nm, path}}},
			{"first symbol and line by address", []string{"line", fmt.Sprintf("%x", rva)}, [][]string{
				{addr2line, "-f", "-e", path, fmt.Sprintf("%#x", base+uint64(rva))}, gdbs(fmt.Sprintf("info line *%#x", base+uint64(rva)))}},
			{"first dt", []string{"type", typ}, [][]string{gdbs("ptype /o struct " + typ)}},
			// gdb's lists of functions and variables take minutes for the large one.
			{"all symbols", []string{"all", ""}, [][]string{{nm, path}}},
		}
	}
	small := absolute(b, "../pdb/testdata/x64")
	mingw := absolute(b, "../dwarf/testdata/x64.exe")
	files := []symbolFile{
		{"small PDB", small + ".pdb", pdbQuestions(small+".pdb", small+".exe", "optimised", "All", "0x103d", 0x1662)},
		{"small MinGW image", mingw, imageQuestions(mingw, "Recursive", "_OBJECT", 0x140000000, 0x1020)},
	}
	if !testing.Short() {
		path := filepath.Join(dir, "x64.pdb") // the name that the image of the fixture has for it
		generate(b, "openkd/image/pdb", "OPENKD_PDB_GENERATE", path)
		image, err := os.ReadFile(small + ".exe")
		if err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "x64.exe"), image, 0o600); err != nil {
			b.Fatal(err)
		}
		files = append(files, symbolFile{"large PDB", path, pdbQuestions(path, filepath.Join(dir, "x64.exe"),
			"bench::module_1234::function_1234_56", "structure_1234_5", "0x1234", 0x1000+(1234*300+56)*16+4)})
		path = filepath.Join(dir, "large.exe")
		generate(b, "openkd/image/dwarf", "OPENKD_DWARF_GENERATE", path)
		files = append(files, symbolFile{"large MinGW image", path, imageQuestions(path, "function_1234_56", "structure_1234_5", 0x140000000, 0x1000+(1234*300+56)*16+4)})
	}
	for _, path := range filepath.SplitList(os.Getenv("OPENKD_MINGW_IMAGES")) {
		if strings.Contains(path, "ntoskrnl") {
			files = append(files, symbolFile{"ReactOS kernel", path, imageQuestions(path, "NtClose", "_EPROCESS", 0x400000, 0x20000)})
		}
	}

	var all []*cost
	add := func(args ...string) *cost {
		c := &cost{args: args}
		all = append(all, c)
		return c
	}
	idle := map[string]*cost{ask: add(ask, "nothing", "", "")} // what starting costs
	for _, args := range [][]string{{pdbutil, "--version"}, {symbolizer, "--version"}, {gdb, "-nx", "-batch"}, {nm, "--version"}, {addr2line, "--version"}} {
		if args[0] != "" {
			idle[args[0]] = add(args...)
		}
	}
	type pair struct {
		file, what   string
		ours, theirs *cost
	}
	var pairs []pair
	for _, f := range files {
		for _, q := range f.questions {
			ours := add(ask, q.ask[0], f.path, q.ask[1])
			for _, args := range q.theirs {
				if args[0] != "" {
					pairs = append(pairs, pair{f.name, q.what, ours, add(args...)})
				}
			}
		}
	}
	for b.Loop() {
		for _, c := range all {
			c.run(b)
		}
	}
	rows := [][]string{{"file", "question", "ours", "", "theirs", "", "", "their time", "less starting", "their memory"}}
	mb := func(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/(1<<20)) }
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f ms", d.Seconds()*1000) }
	for _, p := range pairs {
		o, t := p.ours, p.theirs
		program := t.args[0]
		// What is left without starting, where there is something.
		work := "-"
		if w := t.time - idle[program].time; w > t.time/5 && o.time > idle[ask].time {
			work = fmt.Sprintf("%.1fx", w.Seconds()/(o.time-idle[ask].time).Seconds())
		}
		ratio := t.time.Seconds() / o.time.Seconds()
		rows = append(rows, []string{p.file, p.what, ms(o.time), mb(o.mem), filepath.Base(program), ms(t.time), mb(t.mem),
			fmt.Sprintf("%.1fx", ratio), work, fmt.Sprintf("%.1fx", float64(t.mem)/float64(o.mem))})
		if p.what == "first symbol by name" && (program == gdb || program == pdbutil) {
			b.ReportMetric(ratio, strings.ReplaceAll(p.file, " ", "-")+":first-symbol-x")
		}
	}
	b.ReportMetric(0, "ns/op")
	width := make([]int, len(rows[0]))
	for _, r := range rows {
		for i, s := range r {
			width[i] = max(width[i], len(s))
		}
	}
	var table strings.Builder
	for _, r := range rows {
		for i, s := range r {
			if slices.Contains([]int{0, 1, 4}, i) {
				fmt.Fprintf(&table, "%-*s  ", width[i], s)
			} else {
				fmt.Fprintf(&table, "%*s  ", width[i], s)
			}
		}
		table.WriteString("\n")
	}
	fmt.Print("\n" + table.String())
}
