package sharing

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"openkd/connstr"
	"openkd/rundir"
	"openkd/transport"
)

// quick is a viewer that looks for its results only.
type quick struct{ done chan uint64 }

func (q *quick) Joined(Session) {}
func (q *quick) Entry(e Entry, mine uint64) {
	if e.Kind == EntryResult && mine > 0 {
		q.done <- mine
	}
}
func (q *quick) Reply(uint64, bool, bool, string) {}
func (q *quick) Link(string)                      {}

// BenchmarkFifty: a session that prints 10,000 lines a second, as much as a
// target on a fast link does. Told are the median time of a command for one
// client alone and with 49 more beside it that look on, over TLS on loopback,
// and the ratio; and the memory that a client costs which takes nothing.
func BenchmarkFifty(b *testing.B) {
	b.Setenv(rundir.Env, b.TempDir())
	h := NewHub(Options{Grace: time.Millisecond, Timeouts: Timeouts{Write: time.Hour, Dead: time.Hour}})
	h.Attach(benchHost{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer h.Close("")
	stop := make(chan struct{})
	defer close(stop)
	wg.Go(func() { // the program
		arrival := make(chan struct{}, 1)
		h.OnArrival(func() { poke(arrival) })
		for {
			h.SetPrompt("0: kd> ", "halted", 0)
			l, ok := h.Take(func() bool { return false })
			if !ok {
				select {
				case <-arrival:
					continue
				case <-stop:
					return
				}
			}
			h.Command(l, "0: kd> ")
			h.Append(Entry{Kind: EntryText, Text: "rip=fffff8019e201010\n"})
			h.Append(Entry{Kind: EntryResult, From: l.ID, ID: l.Request, OK: true, Name: "halted"})
		}
	})
	wg.Go(func() { // what the target prints
		t := time.NewTicker(time.Millisecond)
		defer t.Stop()
		for n := 0; ; {
			select {
			case <-t.C:
			case <-stop:
				return
			}
			for range 10 {
				n++
				h.Append(Entry{Kind: EntryEvent, Name: "print", Text: fmt.Sprintf("driver: %8d something happened at this place\n", n)})
			}
		}
	})
	there := connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: connstr.AnyPort, Password: "pw"}
	if _, err := h.OpenDoor(b.Context(), there, false); err != nil {
		b.Fatal(err)
	}
	there.Port = h.Doors()[0].Port
	dial := func(ctx context.Context) (net.Conn, error) { return transport.Dial(ctx, there, transport.Options{}) }
	join := func(v Viewer) *Client {
		c, err := Join(b.Context(), ClientOptions{Name: "bench", Where: "here", Dial: dial, Lines: -1}, v)
		if err != nil {
			b.Fatal(err)
		}
		return c
	}
	q := &quick{done: make(chan uint64, 1)}
	c := join(q)
	defer c.Close()
	measure := func(n int) time.Duration {
		var all []time.Duration
		for range n {
			at := time.Now()
			if _, err := c.Send(OpCommand, "r rip"); err != nil {
				b.Fatal(err)
			}
			<-q.done
			all = append(all, time.Since(at))
			time.Sleep(time.Millisecond) // a person, not a flood
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	measure(50)
	var alone, fifty []time.Duration
	for b.Loop() {
		alone = append(alone, measure(200))
		// They are on other machines: here they take what comes, and what it says
		// is not deciphered.
		var others []net.Conn
		for range 49 {
			conn := joinRaw(b, dial, "looker-on")
			raw := conn.(*tls.Conn).NetConn()
			wg.Go(func() { io.Copy(io.Discard, raw) })
			others = append(others, conn)
		}
		measure(20)
		fifty = append(fifty, measure(200))
		for _, o := range others {
			o.Close()
		}
	}
	slices.Sort(alone)
	slices.Sort(fifty)
	a, f := alone[len(alone)/2], fifty[len(fifty)/2]
	b.ReportMetric(float64(a.Microseconds()), "µs-alone")
	b.ReportMetric(float64(f.Microseconds()), "µs-fifty")
	b.ReportMetric(float64(f)/float64(a), "ratio")

	// Ten that take nothing, for as long as the log lasts.
	heap := func() float64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	for h.full() < 1 {
		time.Sleep(10 * time.Millisecond)
	}
	before := heap()
	var dead []net.Conn
	for range 10 {
		dead = append(dead, joinRaw(b, dial, "sloth"))
	}
	time.Sleep(500 * time.Millisecond)
	b.ReportMetric((heap()-before)/1024/float64(len(dead)), "KiB-stalled")
	for _, d := range dead {
		d.Close()
	}
}

// joinRaw joins and leaves the stream to the caller.
func joinRaw(b *testing.B, dial func(context.Context) (net.Conn, error), name string) net.Conn {
	conn, err := dial(b.Context())
	if err != nil {
		b.Fatal(err)
	}
	w := newWire(conn, Timeouts{Dead: time.Hour}.withDefaults())
	w.send(kindHello, encode(hello{Magic: magic, Min: 1, Max: 1}))
	w.next()
	w.send(kindJoin, encode(join{Name: name, Lines: -1}))
	return conn
}

// full says how full the log is, 1 when it begins to forget.
func (h *Hub) full() float64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.log.first() > 1 {
		return 1
	}
	return float64(h.log.n) / float64(h.log.maxEntries)
}

type benchHost struct{}

func (benchHost) Announce(Entry)                      {}
func (benchHost) Do(Person, Op, string) error         { return nil }
func (benchHost) Early(Person, string) (string, bool) { return "", false }
