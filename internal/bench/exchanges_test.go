package bench

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"openkd/sim"
	"openkd/target"
)

// TestExchanges counts what commands cost a client far away. A question costs
// one exchange however much it asks; what the stop's bundle holds costs none.
// The counts are the same with 100 ms between client and server as without.
func TestExchanges(t *testing.T) {
	for _, c := range []struct {
		name string
		by   time.Duration
	}{{"next to the server", 0}, {"100 ms away", 100 * time.Millisecond}} {
		t.Run(c.name, func(t *testing.T) {
			m, link := machine(t, sim.Config{Modules: 200}, 0)
			wrap := func(n net.Conn) net.Conn {
				if c.by == 0 {
					return n
				}
				return delay(n, c.by)
			}
			r := local(t, link, nil, wrap)

			// Let it run and stop it again, so that nothing is left of attaching.
			stop := func() {
				t.Helper()
				go func() { time.Sleep(50 * time.Millisecond); r.e.BreakIn(t.Context()) }()
				r.run("g")
			}
			stop()
			if text, n := r.run("r; u; db @$scopeip"); n != 0 || !strings.Contains(text, "rip=") || strings.Count(text, "\n") < 20 {
				t.Errorf("r; u; db @$scopeip after a stop took %d exchanges, and printed\n%s", n, text)
			}
			if text, n := r.run("lm"); n > 1 || strings.Count(text, "(deferred)") < 200 {
				t.Errorf("lm over %d modules took %d exchanges", strings.Count(text, "(deferred)"), n)
			}
			nt, _ := m.Symbol("nt")
			if nt == 0 {
				nt = r.e.Version().KernBase
			}
			before := r.client.Exchanges()
			got, err := target.Collect(t.Context(), r.client, target.Request{Op: target.OpReadVirtual, Addr: nt, Len: 1 << 20})
			if err != nil {
				t.Fatal(err)
			}
			want := make([]byte, 1<<20)
			m.ReadVirtual(nt, want)
			if n := r.client.Exchanges() - before; n != 1 || !bytes.Equal(got[0].Data(), want) {
				t.Errorf("1 MiB took %d exchanges, %d bytes came", n, len(got[0].Data()))
			}
			if _, n := r.run(fmt.Sprintf(".writemem %s/mib nt L100000", t.TempDir())); n > 1 {
				t.Errorf(".writemem of 1 MiB took %d exchanges", n)
			}

			// 32 breakpoints: setting them asks nothing of the server, the resume
			// carries them all, and the next one takes them all back.
			for i := range 32 {
				if _, n := r.run(fmt.Sprintf("bp nt+%x", 0x8000+16*i)); n != 0 {
					t.Errorf("bp took %d exchanges", n)
				}
			}
			count := func(line string) uint64 {
				go func() { time.Sleep(2*c.by + 100*time.Millisecond); r.e.BreakIn(t.Context()) }()
				_, n := r.run(line)
				return n - 1 // the break-in is one of its own
			}
			if n := count("g"); n != 1 {
				t.Errorf("going on with 32 breakpoints took %d exchanges", n)
			}
			if _, n := r.run("bc *"); n != 0 {
				t.Errorf("bc * took %d exchanges", n)
			}
			if n := count("g"); n != 1 {
				t.Errorf("going on without them took %d exchanges", n)
			}
		})
	}
}
