package bench

import (
	"fmt"
	"strings"
	"testing"

	"openkd/sim"
)

// TestTypeExchanges counts what structures and lists cost: one exchange however
// much is in them, none where the stop has brought it.
func TestTypeExchanges(t *testing.T) {
	_, link := machine(t, sim.Config{Modules: 200}, 0)
	r, _ := symbolised(t, link)
	r.run("lm")
	r.run("dt nt!_LIST_ENTRY") // the symbols of the kernel
	r.run("? @$proc")
	forget := func() {
		t.Helper()
		r.e.FlushCache()
	}
	for _, c := range []struct {
		line string
		most uint64
		has  string
		n    int // lines at least
	}{
		{"dt nt!_EPROCESS", 0, "+0x088 ImageFileName    : [15] UChar", 10},
		{"dt nt!_EPROCESS %s", 1, `"Idle"`, 10},
		{"dt nt!_EPROCESS %s ImageFileName", 1, `"Idle"`, 1},
		{"dt -r1 nt!_EPROCESS %s", 1, "ProfileListHead", 25},
		{"dt -r2 nt!_EPROCESS %s", 2, "WaitListHead", 40},
		{"dt -b nt!_EPROCESS %s", 1, "SignalState", 30},
		{"dt nt!PsActiveProcessHead", 1, "Flink", 2},
		{"dt nt!PsInitialSystemProcess", 1, `"System"`, 10},
		{"dt nt!_LDR_DATA_TABLE_ENTRY poi(nt!PsNtosImageEntry)", 2, `"ntoskrnl.exe"`, 5},
		{"?? nt!PsInitialSystemProcess", 2, `"System"`, 10},
		{"dx -r1 *nt!PsInitialSystemProcess", 2, `"System"`, 10},
		{"dt -l InLoadOrderLinks.Flink nt!_KLDR_DATA_TABLE_ENTRY BaseDllName poi(nt!PsNtosImageEntry)", 3, `"tcpip.sys"`, 600}, // the address, the list, and what its head looks like
		{`!list -t nt!_LIST_ENTRY.Flink -x "dt nt!_KLDR_DATA_TABLE_ENTRY DllBase" poi(nt!PsLoadedModuleList)`, 3, "DllBase", 300},
		{`!list -t nt!_KLDR_DATA_TABLE_ENTRY.InLoadOrderLinks.Flink -x "dd @$extret L2" poi(nt!PsLoadedModuleList)`, 3, "\n\n", 200},
	} {
		line := c.line
		if strings.Contains(line, "%s") {
			line = fmt.Sprintf(line, procAddress(t, r))
		}
		forget()
		text, n := r.run(line)
		if n > c.most {
			t.Errorf("%s took %d exchanges, and may take %d", line, n, c.most)
		}
		if !strings.Contains(text, c.has) || strings.Count(text, "\n") < c.n {
			t.Errorf("%s:\n%s", line, text)
		}
		// What is known now costs nothing.
		if strings.HasPrefix(line, "dt") && !strings.Contains(line, "-l") {
			if again, n := r.run(line); n != 0 || again != text {
				t.Errorf("%s once more took %d exchanges", line, n)
			}
		}
	}
}

// procAddress is the process of the stop, as text.
func procAddress(t *testing.T, r *rig) string {
	t.Helper()
	text, _ := r.run("?? (unsigned __int64)@$proc")
	f := strings.Fields(text)
	if len(f) != 3 {
		t.Fatal(text)
	}
	return f[2]
}
