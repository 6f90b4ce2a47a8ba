package bench

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"openkd/engine"
	"openkd/kdrpc"
	"openkd/server"
	"openkd/sim"
	"openkd/symbols"
)

// symbolised attaches with the symbols of the simulator's kernel at hand.
func symbolised(t *testing.T, link string) (*rig, *symbols.Set) {
	t.Helper()
	f, err := symbols.NewFinder(symbols.Options{Cache: filepath.Join(t.TempDir(), "cache")})
	if err != nil {
		t.Fatal(err)
	}
	path, err := symbols.ParsePath("../../sim/kernel/image")
	if err != nil {
		t.Fatal(err)
	}
	lines := server.Lines{}
	srv := server.InProcess(server.Options{Opener: lines.Open, Canonical: lines.Key})
	t.Cleanup(func() { srv.Shutdown(context.Background()) })
	dial := func(ctx context.Context) (net.Conn, error) { return srv.Dial(ctx) }
	var set *symbols.Set
	t.Cleanup(func() { set.Close(); f.Close() })
	r := attachWith(t, link, dial, func(e *engine.Engine) {
		set = e.UseSymbols(f)
		set.SetPaths(path, symbols.Path{})
	}, kdrpc.WithLocal())
	return r, set
}

// TestSymbolExchanges counts what names cost: to find out which files belong to
// modules takes three exchanges for all of them, names themselves none.
func TestSymbolExchanges(t *testing.T) {
	m, link := machine(t, sim.Config{Modules: 200}, 0)
	r, set := symbolised(t, link)
	ctx := t.Context()
	r.run("lm")
	counted := func(what string, most uint64, do func() error) {
		t.Helper()
		before := r.client.Exchanges()
		if err := do(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if n := r.client.Exchanges() - before; n > most {
			t.Errorf("%s took %d exchanges, and may take %d", what, n, most)
		}
	}
	pc, err := r.e.Lookup(ctx, "nt")
	if err != nil {
		t.Fatal(err)
	}
	if name := r.e.Symbolize(pc + 0x1010); strings.Contains(name, "!") {
		t.Errorf("%s, before anything was loaded", name)
	}
	counted("a module", 3, func() error {
		loaded, err := r.e.LoadSymbols(ctx, pc, pc+1)
		if err == nil && !loaded {
			err = fmt.Errorf("%+v was not loaded", set.Modules()[0])
		}
		return err
	})
	if st, _ := set.Named("nt"); st.State != symbols.PDB {
		t.Fatalf("%+v", st)
	}
	for _, name := range []string{"KeBugCheckEx", "DbgBreakPointWithStatus", "KeBugCheckEx"} {
		want, ok := m.Symbol("nt!" + name)
		if !ok {
			want, ok = m.Symbol(name)
		}
		if !ok {
			t.Fatal(name)
		}
		counted(name, 0, func() error {
			got, err := r.e.Lookup(ctx, "nt!"+name)
			if err == nil && got != want {
				err = fmt.Errorf("%x, and not %x", got, want)
			}
			return err
		})
		counted("the name of "+name, 0, func() error {
			if got := r.e.Symbolize(want + 1); got != "nt!"+name+"+0x1" {
				return fmt.Errorf("%s", got)
			}
			return nil
		})
	}
	counted("all modules", 4, func() error { return set.LoadAll(ctx, nil, symbols.LoadOptions{}, nil) })
	states := map[string]symbols.State{}
	for _, st := range set.Modules() {
		states[st.Name] = st.State
	}
	for _, name := range []string{"nt", "hal", "tcpip"} {
		if states[name] != symbols.PDB {
			t.Errorf("%s: %v", name, states[name])
		}
	}
	counted("loading again", 0, func() error { return set.LoadAll(ctx, nil, symbols.LoadOptions{}, nil) })

	var names []string
	counted("a pattern", 0, func() error {
		for s, err := range r.e.EachSymbol(ctx, "tcp*!Tcpip*e?t*") {
			if err != nil {
				return err
			}
			names = append(names, s.Full())
		}
		return nil
	})
	slices.Sort(names)
	if got := strings.Join(names, " "); got != "tcpip!TcpipSegment tcpip!TcpipSegments" {
		t.Error(got)
	}
	for _, err := range r.e.EachSymbol(ctx, "none!x") {
		if err == nil || !strings.Contains(err.Error(), "no such module") {
			t.Error(err)
		}
	}
	if text, n := r.run("? tcpip!tcpipchecksum"); n != 0 || !strings.Contains(text, "= ") {
		t.Errorf("%d exchanges: %s", n, text)
	}
	if text, n := r.run("u nt!KeBugCheckEx L1"); n > 1 || !strings.Contains(text, "nt!KeBugCheckEx") {
		t.Errorf("%d exchanges: %s", n, text)
	}
}

// TestStackExchanges counts what a deep stack costs: nothing where the stop's bundle
// has it, else one exchange, however many frames it has. With the image files at
// hand no unwind data is asked for.
func TestStackExchanges(t *testing.T) {
	m, link := machine(t, sim.Config{Modules: 200}, 0)
	r, _ := symbolised(t, link)
	r.run("ld nt")
	m.Call(40)
	r.run("bp nt!RtlFibonacci 0n34 \"kc 1\"")
	r.run("g")
	text, n := r.run("k 1e")
	if lines := strings.Count(text, "nt!RtlFibonacci"); lines != 30 || n > 1 {
		t.Errorf("30 frames took %d exchanges, and %d were shown:\n%s", n, lines, text)
	}
	if text, n := r.run("k 1e"); n != 0 || strings.Count(text, "\n") != 31 {
		t.Errorf("once more, it took %d exchanges:\n%s", n, text)
	}
	if text, n := r.run("k 3"); n != 0 || strings.Count(text, "\n") != 4 {
		t.Errorf("its top took %d exchanges:\n%s", n, text)
	}
}
