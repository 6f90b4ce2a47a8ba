// Package metrics offers the status of a connection server to Prometheus.
//
// It has a registry of its own and serves it over plain HTTP: whoever reaches
// the address reads which lines there are and how much crosses them, so the
// address is one of this machine unless another is asked for. It collects
// nothing by itself: every scrape asks for the status anew, and no target is
// touched.
//
// Labels are bounded: doors are those of the command line, kinds of events
// those of the audit, lines at most MaxLines; the figures of more lines are
// summed up under the line "other".
package metrics

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"openkd/status"
)

// MaxLines bounds the values of the label line.
const MaxLines = 200

const (
	within   = 10 * time.Second // one request, and one answer
	maxConns = 32
	other    = "other"
)

// Source is where the figures come from.
type Source struct {
	Status func(ctx context.Context) *status.Server
	Events func() map[string]uint64 // of the audit, by kind
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("kdsrv_"+name, help, labels, nil)
}

// collector makes metrics of a Source. Its fields are the descriptions.
type collector struct {
	src Source

	info, started, clients, maxClients, trip, sessions, waiting, events *prometheus.Desc
	doorClients, doorAccepted, doorBytes                                *prometheus.Desc
	linkBytes, linkPackets, linkResends, linkBad                        *prometheus.Desc
	linkGarbage, linkResets, linkTrip                                   *prometheus.Desc
	netDatagrams, netRefused, netHandshakes                             *prometheus.Desc
}

func newCollector(src Source) *collector {
	return &collector{
		src:           src,
		info:          desc("info", "The release of the server.", "release"),
		started:       desc("start_time_seconds", "When the server was started, in seconds since 1970."),
		clients:       desc("clients", "Clients that are connected."),
		maxClients:    desc("clients_max", "Clients that are taken at most."),
		trip:          desc("client_round_trip_seconds", "Round trip to the clients by pings: the median and the longest.", "of"),
		sessions:      desc("sessions", "Sessions by the state of their target.", "state"),
		waiting:       desc("sessions_waiting", "Sessions that wait for a client whose connection was lost."),
		events:        desc("audit_events_total", "Lines of the audit by kind.", "event"),
		doorClients:   desc("door_clients", "Clients that are connected, by door.", "door"),
		doorAccepted:  desc("door_accepted_total", "Clients that proved the password, by door.", "door"),
		doorBytes:     desc("door_bytes_total", "Bytes of the protocol from (in) and to (out) clients, by door.", "door", "direction"),
		linkBytes:     desc("link_bytes_total", "Bytes from (in) and to (out) the target of a line.", "line", "direction"),
		linkPackets:   desc("link_packets_total", "Data packets from (in) and to (out) the target of a line.", "line", "direction"),
		linkResends:   desc("link_resends_total", "Data packets sent again.", "line"),
		linkBad:       desc("link_bad_checksums_total", "Packets with a bad checksum.", "line"),
		linkGarbage:   desc("link_garbage_bytes_total", "Bytes outside packets.", "line"),
		linkResets:    desc("link_resets_total", "Resets by the target.", "line"),
		netDatagrams:  desc("net_datagrams_total", "Datagrams from (in, refused ones too) and to (out) the target of a network line.", "line", "direction"),
		netRefused:    desc("net_refused_total", "Datagrams that were refused on a network line: forged (the key does not open them), replayed (late or sent again), foreign (of somebody else).", "line", "why"),
		netHandshakes: desc("net_handshakes_total", "Handshakes that led to a session with the target of a network line.", "line"),
		linkTrip:      desc("link_round_trip_seconds", "Smoothed time from a packet to its acknowledgement.", "line"),
	}
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.info, c.started, c.clients, c.maxClients, c.trip, c.sessions, c.waiting, c.events,
		c.doorClients, c.doorAccepted, c.doorBytes,
		c.linkBytes, c.linkPackets, c.linkResends, c.linkBad, c.linkGarbage, c.linkResets, c.linkTrip,
		c.netDatagrams, c.netRefused, c.netHandshakes,
	} {
		to <- d
	}
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	s := c.src.Status(ctx)
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(c.info, 1, s.Release)
	gauge(c.started, float64(s.Started.UnixNano())/1e9)
	gauge(c.clients, float64(s.ClientCount))
	gauge(c.maxClients, float64(s.MaxClients))
	var trips []time.Duration
	for _, cl := range s.Clients {
		if cl.RoundTrip > 0 {
			trips = append(trips, cl.RoundTrip)
		}
	}
	if n := len(trips); n > 0 {
		slices.Sort(trips)
		gauge(c.trip, trips[n/2].Seconds(), "median")
		gauge(c.trip, trips[n-1].Seconds(), "longest")
	}
	for kind, n := range c.src.Events() {
		counter(c.events, n, kind)
	}
	for name, d := range doors(s.Doors) {
		gauge(c.doorClients, float64(d.Clients), name)
		counter(c.doorAccepted, d.Accepted, name)
		counter(c.doorBytes, d.BytesIn, name, "in")
		counter(c.doorBytes, d.BytesOut, name, "out")
	}
	states, waiting := map[string]int{}, 0
	for _, x := range s.Sessions {
		state := x.State
		if state == "" {
			state = "unknown"
		}
		states[state]++
		if x.Lost != nil {
			waiting++
		}
	}
	for state, n := range states {
		gauge(c.sessions, float64(n), state)
	}
	gauge(c.waiting, float64(waiting))
	for line, l := range lines(s.Sessions) {
		counter(c.linkBytes, l.BytesIn, line, "in")
		counter(c.linkBytes, l.BytesOut, line, "out")
		counter(c.linkPackets, l.PacketsIn, line, "in")
		counter(c.linkPackets, l.PacketsOut, line, "out")
		counter(c.linkResends, l.Resends, line)
		counter(c.linkBad, l.BadChecksums, line)
		counter(c.linkGarbage, l.Garbage, line)
		counter(c.linkResets, l.Resets, line)
		if n := l.Net; n != nil {
			counter(c.netDatagrams, n.DatagramsIn, line, "in")
			counter(c.netDatagrams, n.DatagramsOut, line, "out")
			counter(c.netRefused, n.Forged, line, "forged")
			counter(c.netRefused, n.Replayed, line, "replayed")
			counter(c.netRefused, n.Foreign, line, "foreign")
			counter(c.netHandshakes, n.Handshakes, line)
		}
		if line != other && l.RoundTrip > 0 {
			gauge(c.linkTrip, l.RoundTrip.Seconds(), line)
		}
	}
}

// label makes a text one that every reader of metrics takes.
func label(s string) string { return status.Clean(s, 256) }

// doors are by name; two that are spelt alike (port=0) count together.
func doors(in []status.Door) map[string]status.Door {
	out := map[string]status.Door{}
	for _, d := range in {
		o := out[label(d.Transport)]
		o.Clients += d.Clients
		o.Accepted += d.Accepted
		o.BytesIn += d.BytesIn
		o.BytesOut += d.BytesOut
		out[label(d.Transport)] = o
	}
	return out
}

// lines are the links by line: the oldest ones by name, the rest together, so
// that a line keeps its name while others come and go.
func lines(in []status.Session) map[string]status.Link {
	byAge := slices.Clone(in)
	slices.SortStableFunc(byAge, func(a, b status.Session) int { return a.Opened.Compare(b.Opened) })
	out := map[string]status.Link{}
	for _, x := range byAge {
		name := label(x.Line)
		if _, ok := out[name]; ok || len(out) >= MaxLines {
			name = other
		}
		o, l := out[name], x.Link
		o.BytesIn += l.BytesIn
		o.BytesOut += l.BytesOut
		o.PacketsIn += l.PacketsIn
		o.PacketsOut += l.PacketsOut
		o.Resends += l.Resends
		o.BadChecksums += l.BadChecksums
		o.Garbage += l.Garbage
		o.Resets += l.Resets
		o.RoundTrip = l.RoundTrip
		o.Net = sum(o.Net, l.Net)
		out[name] = o
	}
	return out
}

// sum is both together, in a place of its own.
func sum(a, b *status.Net) *status.Net {
	if a == nil || b == nil {
		return cmp.Or(a, b)
	}
	return &status.Net{
		Handshakes: a.Handshakes + b.Handshakes, DatagramsIn: a.DatagramsIn + b.DatagramsIn, DatagramsOut: a.DatagramsOut + b.DatagramsOut,
		Forged: a.Forged + b.Forged, Replayed: a.Replayed + b.Replayed, Foreign: a.Foreign + b.Foreign,
	}
}

// Server serves /metrics.
type Server struct {
	ln   net.Listener
	http http.Server
	done chan struct{}
}

// Listen serves the metrics at an address: host:port, or a port alone, which
// means this machine only (127.0.0.1). public says that the address is not one
// of this machine alone.
func Listen(ctx context.Context, address string, src Source, log *slog.Logger) (s *Server, public bool, err error) {
	address, err = complete(address)
	if err != nil {
		return nil, false, err
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if err != nil {
		return nil, false, fmt.Errorf("metrics at %s: %w", address, err)
	}
	reg := prometheus.NewRegistry()
	reg.MustRegister(newCollector(src), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{Registry: reg, MaxRequestsInFlight: 4, Timeout: within}))
	s = &Server{
		ln: ln, done: make(chan struct{}),
		http: http.Server{
			Handler: mux, ReadHeaderTimeout: within, ReadTimeout: within, WriteTimeout: 2 * within, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
			ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		},
	}
	go func() {
		defer close(s.done)
		s.http.Serve(&bounded{Listener: ln, places: make(chan struct{}, maxConns), closed: make(chan struct{})})
	}()
	return s, !ln.Addr().(*net.TCPAddr).IP.IsLoopback(), nil
}

// Addr is where it listens.
func (s *Server) Addr() net.Addr { return s.ln.Addr() }

// Close ends it, and answers under way.
func (s *Server) Close() {
	s.http.Close()
	<-s.done
}

// complete makes an address of what people type: 9100, :9100, localhost:9100.
func complete(address string) (string, error) {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		host, port = "", address
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return "", fmt.Errorf("metrics at %q: an address is meant, as in 127.0.0.1:9100; a port alone is one of this machine only, 0.0.0.0:9100 is open to others", address)
	}
	if host == "" {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, fmt.Sprint(n)), nil
}

// bounded takes so many connections at once; more wait in the system's queue.
type bounded struct {
	net.Listener
	places chan struct{}
	closed chan struct{}
	once   sync.Once
}

func (b *bounded) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.Listener.Close()
}

func (b *bounded) Accept() (net.Conn, error) {
	select {
	case b.places <- struct{}{}:
	case <-b.closed:
		return nil, net.ErrClosed
	}
	c, err := b.Listener.Accept()
	if err != nil {
		<-b.places
		return nil, err
	}
	return &place{Conn: c, b: b}, nil
}

type place struct {
	net.Conn
	b    *bounded
	once sync.Once
}

func (p *place) Close() error {
	err := p.Conn.Close()
	p.once.Do(func() { <-p.b.places })
	return err
}
