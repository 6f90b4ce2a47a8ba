package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"openkd/engine"
	"openkd/engine/enginetest"
	"openkd/image/sym"
	"openkd/symbols"
)

// fewNames is a nameSource of a handful of names.
type fewNames struct{ s *Session }

func (n fewNames) commands() []string {
	return []string{"bp", "bl", "dt", "dv", "r", "u", ".load", ".logopen", ".logclose", ".echo", "!pte", "!process", "!tools.list"}
}

func (n fewNames) command(text string) (string, int, bool, bool) {
	return (&sessionNames{s: n.s}).command(text)
}
func (n fewNames) modules() []string   { return []string{"hal", "nt", "NTFS", "tcpip"} }
func (n fewNames) registers() []string { return []string{"rax", "rbx", "rip", "$ip", "$proc", "$t0"} }
func (n fewNames) aliases() []string   { return []string{"myalias", "mybase"} }

func (n fewNames) names(module, prefix string, types bool) found {
	all := map[string][]string{
		"nt":       {"KeBugCheck", "KeBugCheckEx", "KiPageFault", "PsActiveProcessHead", "Foo::Bar", "漢字"},
		"nt types": {"_EPROCESS", "_EPROCESS_QUOTA", "_KPROCESS"},
		"tcpip":    {"TcpSend"},
	}
	out := found{done: module != "NTFS"}
	for m, list := range all {
		m, isTypes := strings.CutSuffix(m, " types")
		if isTypes != types || module != "" && !strings.EqualFold(m, module) {
			continue
		}
		for _, x := range list {
			if hasFold(x, prefix) {
				out.names = append(out.names, x)
			}
		}
	}
	if module == "hal" {
		out.note = "no symbols of hal are loaded"
	}
	out.total = len(out.names)
	slices.SortFunc(out.names, foldCompare)
	return out
}

func (n fewNames) fields(module, name string, path []string) []string {
	if name != "_EPROCESS" || module != "nt" && module != "" {
		return nil
	}
	switch strings.Join(path, ".") {
	case "":
		return []string{"Pcb", "ProcessLock", "ImageFileName"}
	case "Pcb", "Pcb[1]":
		return []string{"Header", "DirectoryTableBase"}
	}
	return nil
}

func (n fewNames) files(folder string) []string {
	switch folder {
	case "":
		return []string{"script.txt", "scripts/", ".hidden", "my log.txt"}
	case "scripts/":
		return []string{"a.kd", "b.kd"}
	}
	return nil
}

// TestComplete: | is the cursor; what is wanted is the line after a TAB, and the
// list that it shows.
func TestComplete(t *testing.T) {
	s := NewSession(nil, io.Discard, Options{})
	for _, c := range []struct{ line, want, list string }{
		// Commands.
		{"b|", "b|", "bl bp"},
		{"bl|", "bl |", ""},
		{"BL|", "bl |", ""},
		{"2u|", "2u |", ""},
		{".lo|", ".lo|", ".load .logclose .logopen"},
		{".log|", ".log|", ".logclose .logopen"},
		{".logc|", ".logclose |", ""},
		{".logc| x", ".logclose| x", ""},
		{"!p|", "!p|", "!process !pte"},
		{"!tools.|", "!tools.list |", ""},
		{"k; .ec|", "k; .echo |", ""},
		{"k ;  .ec|; r", "k ;  .echo |; r", ""},
		{".if (1) { .ec|", ".if (1) { .echo |", ""},
		{`bp nt!x "k; .ec|`, `bp nt!x "k; .echo |`, ""},
		{`bp nt!x "k; .ec|"`, `bp nt!x "k; .echo |"`, ""},
		{`bp nt!x "j (1) \"k\"; .ec|`, `bp nt!x "j (1) \"k\"; .echo |`, ""},
		{`.echo "text .ec|`, `.echo "text .ec|`, ""},
		{"zzz|", "zzz|", ""},
		{"|", "|", "bl bp dt dv r u"},
		{".help .logc|", ".help .logclose|", ""},
		{".hh |", ".hh |", ""},
		{"!help pt|", "!help pte|", ""},
		{"mya|", "myalias |", ""},
		// Modules and symbols.
		{"u nt!kebug|", "u nt!KeBugCheck|", "KeBugCheck KeBugCheckEx"},
		{"u NT!KeBugCheckE|", "u nt!KeBugCheckEx|", ""},
		{"u nt!|", "u nt!|", "Foo::Bar KeBugCheck KeBugCheckEx KiPageFault PsActiveProcessHead 漢字"},
		{"u nt!Foo::|", "u nt!Foo::Bar|", ""},
		{"u nt!漢|", "u nt!漢字|", ""},
		{"bp nt!Ki|+10", "bp nt!KiPageFault|+10", ""},
		{"? poi(nt!PsA|)", "? poi(nt!PsActiveProcessHead|)", ""},
		{"dq nt!KeBugCheck+@ra|", "dq nt!KeBugCheck+@rax|", ""},
		{"u tc|", "u tcp|", "tcpip! TcpSend"},
		{"u tcpi|", "u tcpip!|", ""},
		{"u n|", "u nt|", "nt! NTFS!"},
		{"u KeBug|", "u KeBugCheck|", "KeBugCheck KeBugCheckEx"},
		{"u ntfs!x|", "u ntfs!x|", "..."},
		{"u hal!x|", "u hal!x|", "(no symbols of hal are loaded)"},
		{"lm m tc|", "lm m tcpip|", ""},
		{"lmvm n|", "lmvm nt|", "nt NTFS"},
		{".reload /f nt|", ".reload /f nt|", "nt NTFS"},
		{"x nt!KeBugCheckE|", "x nt!KeBugCheckEx|", ""},
		{"bp nt!none|", "bp nt!none|", ""},
		// Types and fields.
		{"dt nt!_epr|", "dt nt!_EPROCESS|", "_EPROCESS _EPROCESS_QUOTA"},
		{"dt nt!_k|", "dt nt!_KPROCESS|", ""},
		{"dt nt!Ke|", "dt nt!KeBugCheck|", "KeBugCheck KeBugCheckEx"},
		{"dt _EPROCESS_|", "dt _EPROCESS_QUOTA|", ""},
		{"dt nt!_EPROCESS |", "dt nt!_EPROCESS |", "Pcb ProcessLock ImageFileName"},
		{"dt nt!_EPROCESS im|", "dt nt!_EPROCESS ImageFileName|", ""},
		{"dt -r2 nt!_EPROCESS Pcb.d|", "dt -r2 nt!_EPROCESS Pcb.DirectoryTableBase|", ""},
		{"dt nt!_EPROCESS ffff8000 Pc|", "dt nt!_EPROCESS ffff8000 Pcb|", ""},
		{"dt nt!_EPROCESS Pcb Pro|", "dt nt!_EPROCESS Pcb ProcessLock|", ""},
		{"dt nt!_EPROCESS @$pr|", "dt nt!_EPROCESS @$proc|", ""},
		{"?? sizeof(nt!_kp|", "?? sizeof(nt!_KPROCESS|", ""},
		{"?? ((nt!_EPROCESS*)@$proc)->Ima|", "?? ((nt!_EPROCESS*)@$proc)->ImageFileName|", ""},
		{"dx ((nt!_EPROCESS *)0x1000)->Pcb.Hea|", "dx ((nt!_EPROCESS *)0x1000)->Pcb.Header|", ""},
		{"dx (*(struct _EPROCESS*)@rax).Pc|", "dx (*(struct _EPROCESS*)@rax).Pcb|", ""},
		// Registers and aliases.
		{"r @r|", "r @r|", "rax rbx rip"},
		{"r ri|", "r rip|", ""},
		{"? @$pr|", "? @$proc|", ""},
		{"? $pr|", "? $proc|", ""},
		{".echo ${myb|", ".echo ${mybase}|", ""},
		{".if (1) { .echo ${myb}; .ec|", ".if (1) { .echo ${myb}; .echo |", ""},
		{"ad my|", "ad my|", "myalias mybase"},
		// Files.
		{"$$<scr|", "$$<script|", "script.txt scripts/"},
		{"$$>< scripts/|", "$$>< scripts/|", "a.kd b.kd"},
		{"$$>a<scripts/b|", "$$>a<scripts/b.kd|", ""},
		{".logopen /t scripts/a|", ".logopen /t scripts/a.kd|", ""},
		{`.logopen "my l|`, `.logopen "my log.txt|`, ""},
		{".load |", ".load |", "my log.txt script.txt scripts/"},
		{".load .h|", ".load .hidden|", ""},
		{".sympath srv*;scripts|", ".sympath srv*;scripts/|", ""},
		{".load nowhere/|", ".load nowhere/|", ""},
	} {
		cursor := strings.IndexByte(c.line, '|')
		line := c.line[:cursor] + c.line[cursor+1:]
		got := complete(line, cursor, fewNames{s})
		after := line[:got.From] + got.Insert + "|" + line[got.To:]
		var list []string
		if len(got.Candidates) > 1 {
			for _, x := range got.Candidates {
				list = append(list, x.Show)
			}
		}
		if got.Incomplete {
			list = append(list, "...")
		}
		if got.Note != "" {
			list = append(list, "("+got.Note+")")
		}
		if l := strings.Join(list, " "); after != c.want || l != c.list {
			t.Errorf("%s\nbecomes %s\nand not %s; it lists %q and not %q", c.line, after, c.want, l, c.list)
		}
		for _, x := range got.Candidates {
			if x.Kind == "" || !strings.HasSuffix(x.Text, x.Show) && x.Kind != KindCommand {
				t.Errorf("%s: %+v", c.line, x)
			}
		}
	}
}

// manyNames is a symbol file of nothing but names.
type manyNames struct {
	sym.File
	symbols, types []string
	walks          atomic.Int32
	wait           chan struct{} // nil: none
}

func (m *manyNames) Identity() sym.Identity { return sym.Identity{} }
func (m *manyNames) Private() bool          { return true }
func (m *manyNames) Close() error           { return nil }

func (m *manyNames) Symbols(match func(string) bool) iter.Seq2[sym.Symbol, error] {
	return func(yield func(sym.Symbol, error) bool) {
		m.walks.Add(1)
		if m.wait != nil {
			<-m.wait
		}
		for _, n := range m.symbols {
			if match(n) && !yield(sym.Symbol{Name: n, Kind: sym.Public}, nil) {
				return
			}
		}
	}
}

func (m *manyNames) TypeNames(match func(string) bool) iter.Seq2[sym.NamedType, error] {
	return func(yield func(sym.NamedType, error) bool) {
		for i, n := range m.types {
			if match(n) && !yield(sym.NamedType{Name: n, ID: sym.TypeID(i + 1)}, nil) {
				return
			}
		}
	}
}

func (m *manyNames) TypeByName(name string) (sym.TypeID, error) {
	return sym.TypeID(slices.Index(m.types, name) + 1), nil
}

func (m *manyNames) Type(id sym.TypeID) (sym.Type, error) {
	switch {
	case id == 100:
		return sym.Type{ID: id, Kind: sym.Pointer, Elem: 1}, nil
	case id == 101: // a type that is itself
		return sym.Type{ID: id, Kind: sym.Alias, Elem: 101}, nil
	case id > 0 && int(id) <= len(m.types):
		return sym.Type{ID: id, Kind: sym.Struct, Name: m.types[id-1]}, nil
	}
	return sym.Type{}, errors.New("no such type")
}

func (m *manyNames) Members(id sym.TypeID) ([]sym.Member, error) {
	if id == 2 {
		return []sym.Member{{Name: "base", Kind: sym.Base, Type: 2}}, nil // its own base
	}
	return []sym.Member{
		{Name: "Next", Kind: sym.Field, Type: 100}, {Name: "Strange", Kind: sym.Field, Type: 101},
		{Name: "Bases", Kind: sym.Field, Type: 2}, {Name: "", Kind: sym.Field, Type: 1},
	}, nil
}

// withNames is a session with a target whose module big has a symbol file, and
// small has none loaded.
func withNames(t testing.TB, file *manyNames) (*Session, *enginetest.Fake) {
	t.Helper()
	dir := t.TempDir()
	path := filepath.Join(dir, "big.pdb")
	if err := os.WriteFile(path, []byte("names"), 0o600); err != nil {
		t.Fatal(err)
	}
	finder, err := symbols.NewFinder(symbols.Options{Cache: dir, Openers: symbols.Openers{
		PDB:   func(string) (sym.File, error) { return file, nil },
		Image: func(string) (sym.File, error) { return nil, errors.New("none") },
	}})
	if err != nil {
		t.Fatal(err)
	}
	f := enginetest.New(1)
	e := engine.New(f, engine.Options{})
	set := e.UseSymbols(finder)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	done := make(chan error, 1)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	f.Connect()
	if err := e.BreakIn(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	e.AddModule(engine.Module{Name: "big", ImageName: "big.sys", Base: 0xfffff80000000000, Size: 0x10000})
	e.AddModule(engine.Module{Name: "small", ImageName: "small.sys", Base: 0xfffff80001000000, Size: 0x10000})
	f.Image(0xfffff80000000000, 0x10000, 1, 2)
	s := NewSession(e, io.Discard, Options{})
	e.SymbolSet() // tells it the modules
	if err := set.Load(context.Background(), 0xfffff80000000000, symbols.LoadOptions{File: path, Force: true, Loose: true}); err != nil {
		t.Fatal(err)
	}
	if st, _ := set.Named("big"); st.State == symbols.Deferred || st.State == symbols.None {
		t.Fatalf("%+v", st)
	}
	t.Cleanup(func() { s.CloseCompletion(); set.Close(); finder.Close() })
	return s, f
}

// TestCompleteSession: the names of a session, of which the target is asked
// nothing.
func TestCompleteSession(t *testing.T) {
	file := &manyNames{symbols: []string{"Alpha", "Alphabet", "beta", "bad name", "Alpha"}, types: []string{"_NODE", "_SELF"}}
	s, f := withNames(t, file)
	s.names.wait = time.Minute
	before := f.Count()
	if err := s.Execute(context.Background(), "as short something"); err != nil {
		t.Fatal(err)
	}
	at := func(line string) string {
		c := s.Complete(line, len(line))
		var l []string
		for _, x := range c.Candidates {
			l = append(l, x.Text)
		}
		if c.Note != "" {
			l = append(l, c.Note)
		}
		return c.Insert + ": " + strings.Join(l, " ")
	}
	for line, want := range map[string]string{
		"u big!al":                "big!Alpha: big!Alpha big!Alphabet",
		"u big!BETA":              "big!beta: big!beta",
		"u small!x":               "small!x: no symbols of small are loaded; .reload /f small looks for them",
		"u none!x":                "none!x: ",
		"u bi":                    "big!: big!",
		"dt big!_n":               "big!_NODE: big!_NODE",
		"dt big!_NODE ne":         "Next: Next",
		"dt big!_NODE Next.Next.": ": Next Strange Bases",
		"dt big!_NODE Strange.":   "Strange.: ",
		"dt big!_NODE Bases.":     ": ",
		"r rsi":                   "rsi: rsi",
		"u sho":                   "short: short",
		".logo":                   ".logopen : .logopen",
	} {
		if got := at(line); got != want {
			t.Errorf("%s gives %q and not %q", line, got, want)
		}
	}
	if n := file.walks.Load(); n != 1 {
		t.Errorf("the names were gathered %d times", n)
	}
	if n := f.Count() - before; n != 0 {
		t.Errorf("the target was asked %d times", n)
	}
}

// TestCompleteLate: who presses TAB while names are gathered is told so and does
// not wait; later they are there. An end does not wait for them for ever.
func TestCompleteLate(t *testing.T) {
	file := &manyNames{symbols: []string{"Alpha", "Alphabet"}, wait: make(chan struct{})}
	s, _ := withNames(t, file)
	s.names.wait = time.Millisecond
	if c := s.Complete("u big!a", 7); !c.Incomplete || len(c.Candidates) != 0 || c.Insert != "big!a" {
		t.Errorf("%+v", c)
	}
	close(file.wait)
	s.names.wait = time.Minute
	if c := s.Complete("u big!a", 7); c.Incomplete || len(c.Candidates) != 2 || c.Insert != "big!Alpha" {
		t.Errorf("%+v", c)
	}
	s.CloseCompletion()
	if c := s.Complete("dt big!_", 8); len(c.Candidates) != 0 {
		t.Errorf("%+v", c)
	}
}

// TestCompleteMany: of a million names as many are listed as anybody reads, the
// rest is counted, and what all have in common is right.
func TestCompleteMany(t *testing.T) {
	file := &manyNames{}
	for i := range 200_000 {
		file.symbols = append(file.symbols, fmt.Sprintf("Module%03dFunction%06d", i%7, i*7919%200_000))
	}
	s, _ := withNames(t, file)
	s.names.wait = time.Minute
	c := s.Complete("u big!mod", 9)
	if c.Insert != "big!Module00" || len(c.Candidates) != maxCandidates || c.More != 200_000-maxCandidates {
		t.Errorf("%q, %d candidates and %d more", c.Insert, len(c.Candidates), c.More)
	}
	c = s.Complete("u big!module003function00", 25)
	if c.Insert != "big!Module003Function00" || len(c.Candidates)+c.More == 0 || c.Candidates[0].Text >= c.Candidates[1].Text {
		t.Errorf("%q, %d candidates and %d more", c.Insert, len(c.Candidates), c.More)
	}
}

func FuzzComplete(f *testing.F) {
	for _, l := range []string{"dt nt!_EPR", `bp x "k; .ec`, "$$><scr", "?? ((nt!_EPROCESS*)@$proc)->I", "${", "2", "漢!\xff"} {
		f.Add(l, len(l))
	}
	s := NewSession(nil, io.Discard, Options{})
	f.Fuzz(func(t *testing.T, line string, cursor int) {
		c := complete(line, cursor, fewNames{s})
		if c.From < 0 || c.From > c.To || c.To > len(line) {
			t.Fatalf("%q at %d: from %d to %d", line, cursor, c.From, c.To)
		}
	})
}

// BenchmarkComplete tells how long a TAB takes in a module of a million names,
// the first time and after it.
func BenchmarkComplete(b *testing.B) {
	file := &manyNames{}
	for i := range 1_000_000 {
		file.symbols = append(file.symbols, fmt.Sprintf("Module%03dFunction%06d", i%7, i*7919%1_000_000))
	}
	s, _ := withNames(b, file)
	begun := time.Now()
	for s.Complete("u big!mod", 9).Incomplete {
	}
	first := time.Since(begun)
	for b.Loop() {
		s.Complete("u big!mod", 9)
	}
	b.ReportMetric(float64(first.Milliseconds()), "ms-gathered")
}
