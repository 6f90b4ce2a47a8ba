package bench

import (
	"strings"
	"testing"

	"openkd/sim"
	"openkd/symbols"
)

// TestNameExchanges counts what commands with names cost once symbols are loaded:
// only what they show of memory, all of it at once.
func TestNameExchanges(t *testing.T) {
	_, link := machine(t, sim.Config{}, 0)
	r, set := symbolised(t, link)
	r.run("lm")
	if err := set.LoadAll(t.Context(), nil, symbols.LoadOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		line string
		most uint64
		want string
	}{
		{"x nt!Rtl*", 0, "nt!RtlFibonacci (unsigned int64 n)"},
		{"x nt!Mm*", 1, "nt!MmNumberOfPhysicalPages = 0x"},
		{"x *!*Thread*", 1, "nt!PspCreateThread ("},
		{"x nt!*", 1, "nt!KeTickCount = "},
		{"x nt!KeTickCount", 0, "nt!KeTickCount = "},
		{"ln nt!RtlFibonacci+3", 0, "|"},
		{"bu nt!RtlFibonacci", 0, ""},
		{"bu nosuch!DriverEntry", 0, ""},
		{"bm nt!Rtl*", 0, "RtlChecksumTable"},
		{"bp nt!NoSuchName", 0, "adding deferred bp"},
		{"bl", 0, "(nosuch!DriverEntry)"},
		{".bpcmds", 0, "bu"},
		{"dps nt!PsLoadedModuleList L40", 1, "nt!"},
		{"dpp nt!KiProcessorBlock L20", 1, ""},
		{"dpa nt!KdPrintCircularBuffer L4", 1, ""},
		{".lines -e", 0, ""},
		{"ln nt!RtlFibonacci+3", 0, "ex.c(25)"},
		{"? `nt!ex.c:25`", 0, "Evaluate"},
	} {
		text, n := r.run(c.line)
		if n > c.most || !strings.Contains(text, c.want) {
			t.Errorf("%s took %d exchanges and may take %d:\n%s", c.line, n, c.most, text)
		}
	}
}

// TestSourceStepExchanges: a step over a line that calls others is one exchange.
func TestSourceStepExchanges(t *testing.T) {
	_, link := machine(t, sim.Config{}, 0)
	r, set := symbolised(t, link)
	r.run("lm")
	if err := set.LoadAll(t.Context(), nil, symbols.LoadOptions{}, nil); err != nil {
		t.Fatal(err)
	}
	r.run("bp `nt!ex.c:49`")
	if text, _ := r.run("g"); !strings.Contains(text, "Breakpoint 0 hit") {
		t.Fatal(text)
	}
	r.run("bc *")
	r.run("l+t")
	r.run(".lines -e")
	for _, line := range []string{"@ 50]", "@ 51]"} {
		if text, n := r.run("p"); n > 1 || !strings.Contains(text, line) {
			t.Errorf("%d exchanges:\n%s", n, text)
		}
	}
}
