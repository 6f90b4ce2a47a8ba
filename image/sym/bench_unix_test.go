//go:build unix

package sym_test

import (
	"bytes"
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

// command is a program with its arguments, and a text that its answer has in it.
type command struct {
	args []string
	says string
}

// A question is asked of our reader and of the programs that read such files.
type question struct {
	what   string
	ours   command   // of testdata/ask: the question and its argument
	theirs []command // the programs
}

// symbolFile is a file with its questions.
type symbolFile struct {
	name, path string
	questions  []question
}

// cost is what a process took from its start to its end, in several runs, and
// the memory it had at most.
type cost struct {
	command
	wall []time.Duration
	cpu  []time.Duration // of its own and of the system for it
	mem  int64           // bytes
	mute bool            // it does not say what it should
}

// process is the same for all programs: the same environment, nothing to read,
// nobody to write to.
func (c *cost) process() *exec.Cmd {
	cmd := exec.Command(c.args[0], c.args[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	return cmd
}

// check runs the process for the first time and reads its answer.
func (c *cost) check(b *testing.B) {
	b.Helper()
	cmd, f := c.process(), &finder{text: []byte(c.says)}
	cmd.Stdout = f
	if err := cmd.Run(); err != nil {
		b.Fatalf("%v: %v", c.args, err)
	}
	c.mute = !f.found && c.says != ""
}

// run runs the process once more.
func (c *cost) run(b *testing.B) {
	b.Helper()
	cmd := c.process()
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		b.Fatalf("%v: %v", c.args, err)
	}
	c.wall = append(c.wall, time.Since(begin))
	c.cpu = append(c.cpu, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
	if use, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		c.mem = max(c.mem, use.Maxrss*rssUnit)
	}
}

// best is the time of the run that was disturbed least.
func (c *cost) best() time.Duration { return slices.Min(c.wall) }

// leastCPU is that of the run with the least.
func (c *cost) leastCPU() time.Duration { return slices.Min(c.cpu) }

func (c *cost) median() time.Duration {
	return slices.Sorted(slices.Values(c.wall))[len(c.wall)/2]
}

// finder looks for a text in what is written to it.
type finder struct {
	text  []byte
	last  []byte
	found bool
}

func (f *finder) Write(p []byte) (int, error) {
	if !f.found {
		f.last = append(f.last, p...)
		f.found = bytes.Contains(f.last, f.text)
		f.last = append(f.last[:0], f.last[max(0, len(f.last)-len(f.text)):]...)
	}
	return len(p), nil
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
// llvm-pdbutil and llvm-symbolizer, or gdb, nm and addr2line, on the same file,
// which the system has in memory. All are started alike, in turns, and write
// their answers nowhere; before that each gave its answer once and it was looked
// at. A program without the answer stands in brackets.
//
// It prints a table: the time of the best run and of the median one, the least
// processor time, the peak of memory (what is below that of the benchmark itself
// cannot be seen, and has a < in front); and ratios, in which 10x means that theirs
// take ten times as much. Those of time are of the best runs, because others use
// the machine too; where they use much of it, only that of processor time is of
// use:
//
//	go test ./image/sym -run '^$' -bench ColdFiles -benchtime 5x
//
// The first rows are the floor: what an empty program of Go takes in the same
// loop, and ours without a question. For first questions most of our time is
// that. "At most" is the ratio that the empty program would have in our place: no
// reader written in Go can have a better one. "Less starting" is the ratio without
// what either program takes for doing nothing. Both are of processor time.
//
// The files are a generated PDB of 200 MB with a million public symbols, a small
// one, a generated image of MinGW's shape with 600,000 procedures and a million
// symbols, a small one, and the images that OPENKD_MINGW_IMAGES names, if they
// are kernels of ReactOS. With -short the large ones are left out. Programs that
// are not installed are left out too.
func BenchmarkColdFiles(b *testing.B) {
	dir := b.TempDir()
	build := func(name string) string {
		path := filepath.Join(dir, name)
		if out, err := exec.Command("go", "build", "-o", path, "./testdata/"+name).CombinedOutput(); err != nil {
			b.Fatalf("%v: %s", err, out)
		}
		return path
	}
	ask, empty := build("ask"), build("empty")
	pdbutil, symbolizer := tool("llvm-pdbutil", "llvm-pdbutil-14", "llvm-pdbutil-19"), tool("llvm-symbolizer", "llvm-symbolizer-14", "llvm-symbolizer-19")
	gdb, nm, addr2line := tool("gdb"), tool("nm"), tool("addr2line")

	// symbol is what is asked for: a function, an address in it and where that
	// stands in the source, a type with a member.
	type symbol struct {
		name     string
		rva      uint32 // of the function
		at       uint32 // RVA too
		file     string
		line     int
		typ      string
		member   string
		index    string // of the type in a PDB
		itsWords string // of what llvm-pdbutil shows by that
	}
	const base = 0x140000000
	pdbQuestions := func(path, image string, s symbol) []question {
		line := fmt.Sprintf(":%d", s.line)
		return []question{
			// Theirs says which record of which module it is, not the address.
			{"first symbol by name", command{[]string{"name", s.name}, fmt.Sprintf("%x %s", s.rva, s.name)},
				[]command{{[]string{pdbutil, "dump", "-globals", "-global-name=" + s.name, path}, "S_PROCREF [size"}}},
			// Of a file with a drive's letter theirs loses the name.
			{"first symbol and line by address", command{[]string{"line", fmt.Sprintf("%x", s.at)}, s.file + line},
				[]command{{[]string{symbolizer, "--obj=" + image, fmt.Sprintf("%#x", base+uint64(s.at))}, line}}},
			// They find a type by its number only, and say so little of it in less time.
			{"first dt", command{[]string{"type", s.typ}, s.member},
				[]command{{[]string{pdbutil, "dump", "-types", "-type-index=" + s.index, "-dont-resolve-forward-refs", path}, s.itsWords}}},
			{"all symbols", command{[]string{"all", ""}, s.name},
				[]command{{[]string{pdbutil, "dump", "-publics", "-globals", path}, s.name}}},
		}
	}
	imageQuestions := func(path string, base uint64, s symbol) []question {
		gdbs := func(text, says string) command {
			return command{[]string{gdb, "-nx", "-batch", "-ex", text, path}, says}
		}
		place, line := "", ""
		if s.rva != 0 {
			place = fmt.Sprintf("%x", s.rva)
		}
		if s.line != 0 {
			line = fmt.Sprintf("%s:%d", s.file, s.line)
		}
		return []question{
			{"first symbol by name", command{[]string{"name", s.name}, strings.TrimSpace(place + " " + s.name)},
				[]command{gdbs("info address "+s.name, place), {[]string{nm, path}, place + " T " + s.name}}},
			{"first symbol and line by address", command{[]string{"line", fmt.Sprintf("%x", s.at)}, line},
				[]command{{[]string{addr2line, "-f", "-e", path, fmt.Sprintf("%#x", base+uint64(s.at))}, line},
					gdbs(fmt.Sprintf("info line *%#x", base+uint64(s.at)), fmt.Sprintf("Line %d of ", s.line))}},
			{"first dt", command{[]string{"type", s.typ}, s.member}, []command{gdbs("ptype /o struct "+s.typ, s.member)}},
			// gdb's lists of functions and variables take minutes for the large one.
			{"all symbols", command{[]string{"all", ""}, s.name}, []command{{[]string{nm, path}, s.name}}},
		}
	}
	small := absolute(b, "../pdb/testdata/x64")
	mingw := absolute(b, "../dwarf/testdata/x64.exe")
	files := []symbolFile{
		{"small PDB", small + ".pdb", pdbQuestions(small+".pdb", small+".exe", symbol{"optimised", 0x1620, 0x1662, "included.h", 103, "All", "links", "0x103d", "`All`"})},
		{"small MinGW image", mingw, imageQuestions(mingw, base, symbol{"Recursive", 0x11ed, 0x1020, "types.c", 32, "_OBJECT", "Callback", "", ""})},
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
		const rva = 0x1000 + (1234*300+56)*16
		files = append(files, symbolFile{"large PDB", path, pdbQuestions(path, filepath.Join(dir, "x64.exe"),
			symbol{"bench::module_1234::function_1234_56", rva, rva + 4, "module_1234.cpp", 561, "structure_1234_5", "third_member", "0x1234", "third_member"})})
		path = filepath.Join(dir, "large.exe")
		generate(b, "openkd/image/dwarf", "OPENKD_DWARF_GENERATE", path)
		files = append(files, symbolFile{"large MinGW image", path, imageQuestions(path, base,
			symbol{"function_1234_56", rva, rva + 4, "unit_1234.c", 113, "structure_1234_5", "third_member", "", ""})})
	}
	for _, path := range filepath.SplitList(os.Getenv("OPENKD_MINGW_IMAGES")) {
		if strings.Contains(path, "ntoskrnl") {
			files = append(files, symbolFile{"ReactOS kernel", path, imageQuestions(path, 0x400000, symbol{name: "NtClose", at: 0x20000, typ: "_EPROCESS", member: "ImageFileName"})})
		}
	}

	var all []*cost
	add := func(c command) *cost {
		all = append(all, &cost{command: c})
		return all[len(all)-1]
	}
	floor := add(command{args: []string{empty}})
	idle := map[string]*cost{ask: add(command{args: []string{ask, "nothing", "", ""}})} // what starting costs
	for _, args := range [][]string{{pdbutil, "--version"}, {symbolizer, "--version"}, {gdb, "-nx", "-batch"}, {nm, "--version"}, {addr2line, "--version"}} {
		if args[0] != "" {
			idle[args[0]] = add(command{args: args})
		}
	}
	type pair struct {
		file, what   string
		ours, theirs *cost
	}
	var pairs []pair
	for _, f := range files {
		for _, q := range f.questions {
			ours := add(command{[]string{ask, q.ours.args[0], f.path, q.ours.args[1]}, q.ours.says})
			for _, c := range q.theirs {
				if c.args[0] != "" {
					pairs = append(pairs, pair{f.name, q.what, ours, add(c)})
				}
			}
		}
	}
	for _, c := range all {
		if c.check(b); c.mute && c.args[0] == ask {
			b.Fatalf("%v: the answer has no %q in it", c.args, c.says)
		}
	}
	const (
		short  = 100 * time.Millisecond
		rounds = 10 // of those that take less: their times are the noisiest
	)
	for b.Loop() {
		for round := range rounds {
			for _, c := range all {
				if round == 0 || c.leastCPU() < short {
					c.run(b)
				}
			}
		}
	}
	rows := [][]string{{"file", "question", "best", "median", "cpu", "memory", "theirs", "best", "median", "cpu", "memory", "best", "cpu", "memory", "at most", "less starting"}}
	mb := func(n int64) string {
		// A new process begins with the peak of the one that starts it.
		sign := ""
		if n <= floor.mem+floor.mem/16 {
			sign = "<"
		}
		return fmt.Sprintf("%s%.1f MB", sign, float64(n)/(1<<20))
	}
	ms := func(d time.Duration) string { return fmt.Sprintf("%.2f ms", d.Seconds()*1000) }
	times := func(theirs, ours float64) string { return fmt.Sprintf("%.1fx", theirs/ours) }
	figures := func(c *cost) []string { return []string{ms(c.best()), ms(c.median()), ms(c.leastCPU()), mb(c.mem)} }
	rows = append(rows,
		append([]string{"none", "the floor: an empty program"}, figures(floor)...),
		append([]string{"none", "nothing"}, figures(idle[ask])...))
	for _, p := range pairs {
		o, t := p.ours, p.theirs
		program := t.args[0]
		// What is left without starting, where there is something.
		work := "-"
		if w := t.leastCPU() - idle[program].leastCPU(); w > t.leastCPU()/5 && o.leastCPU() > idle[ask].leastCPU() {
			work = times(w.Seconds(), (o.leastCPU() - idle[ask].leastCPU()).Seconds())
		}
		name := filepath.Base(program)
		if t.mute {
			name = "(" + name + ")"
		}
		row := append([]string{p.file, p.what}, figures(o)...)
		row = append(append(row, name), figures(t)...)
		rows = append(rows, append(row, times(t.best().Seconds(), o.best().Seconds()), times(t.leastCPU().Seconds(), o.leastCPU().Seconds()),
			times(float64(t.mem), float64(o.mem)), times(t.leastCPU().Seconds(), floor.leastCPU().Seconds()), work))
		if strings.HasPrefix(p.what, "first symbol") && slices.Contains([]string{gdb, pdbutil, symbolizer}, program) {
			what := "by-name"
			if p.what != "first symbol by name" {
				what = "by-address"
			}
			of := strings.ReplaceAll(p.file, " ", "-") + ":" + what
			b.ReportMetric(t.best().Seconds()/o.best().Seconds(), of)
			b.ReportMetric(t.leastCPU().Seconds()/o.leastCPU().Seconds(), of+"-cpu")
		}
	}
	b.ReportMetric(floor.best().Seconds()*1000, "floor-ms")
	b.ReportMetric(floor.leastCPU().Seconds()*1000, "floor-cpu-ms")
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
			if slices.Contains([]int{0, 1, 6}, i) {
				fmt.Fprintf(&table, "%-*s  ", width[i], s)
			} else {
				fmt.Fprintf(&table, "%*s  ", width[i], s)
			}
		}
		table.WriteString("\n")
	}
	fmt.Print("\n" + table.String())
}
