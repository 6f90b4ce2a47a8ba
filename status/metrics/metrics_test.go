package metrics

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/goleak"

	"openkd/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func source(s *status.Server) Source {
	return Source{
		Status: func(context.Context) *status.Server { return s },
		Events: func() map[string]uint64 { return map[string]uint64{"connect": 3, "refuse": 1} },
	}
}

func example() *status.Server {
	now := time.Now()
	return &status.Server{
		Release: "1", Started: time.Unix(1000, 0), MaxClients: 4096, ClientCount: 3,
		Doors: []status.Door{{Transport: "tcp:Port=1", Clients: 1, Accepted: 2, BytesIn: 10, BytesOut: 20}, {Transport: "tcp:Port=1", Accepted: 1}},
		Sessions: []status.Session{
			{Line: "COM:Port=a", State: "halted", Link: status.Link{BytesIn: 5, BytesOut: 6, PacketsIn: 7, Resends: 1, RoundTrip: 2 * time.Millisecond}},
			{Line: "COM:Port=b\xff\x1b", State: "", Lost: &now},
			{Line: "NET:Port=50000,Key=*", State: "halted", Link: status.Link{Net: &status.Net{Target: "10.0.0.5:50000", Handshakes: 1, DatagramsIn: 12, DatagramsOut: 13, Forged: 3, Replayed: 4, Foreign: 5}}},
		},
		Clients: []status.Client{{RoundTrip: time.Millisecond}, {RoundTrip: 3 * time.Millisecond}, {}},
	}
}

func TestCollector(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	reg.MustRegister(newCollector(source(example())))
	rec := httptest.NewRecorder()
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(rec, httptest.NewRequest("GET", "/", nil))
	body := "\n" + rec.Body.String()
	for want := range strings.Lines(`# TYPE kdsrv_audit_events_total counter
kdsrv_audit_events_total{event="connect"} 3
kdsrv_audit_events_total{event="refuse"} 1
# TYPE kdsrv_client_round_trip_seconds gauge
kdsrv_client_round_trip_seconds{of="longest"} 0.003
kdsrv_client_round_trip_seconds{of="median"} 0.003
# TYPE kdsrv_clients gauge
kdsrv_clients 3
# TYPE kdsrv_door_bytes_total counter
kdsrv_door_bytes_total{direction="in",door="tcp:Port=1"} 10
kdsrv_door_bytes_total{direction="out",door="tcp:Port=1"} 20
# TYPE kdsrv_door_accepted_total counter
kdsrv_door_accepted_total{door="tcp:Port=1"} 3
# TYPE kdsrv_link_bytes_total counter
kdsrv_link_bytes_total{direction="in",line="COM:Port=a"} 5
kdsrv_link_bytes_total{direction="out",line="COM:Port=a"} 6
kdsrv_link_bytes_total{direction="in",line="COM:Port=b??"} 0
kdsrv_link_bytes_total{direction="out",line="COM:Port=b??"} 0
# TYPE kdsrv_link_round_trip_seconds gauge
kdsrv_link_round_trip_seconds{line="COM:Port=a"} 0.002
# TYPE kdsrv_net_datagrams_total counter
kdsrv_net_datagrams_total{direction="in",line="NET:Port=50000,Key=*"} 12
kdsrv_net_datagrams_total{direction="out",line="NET:Port=50000,Key=*"} 13
# TYPE kdsrv_net_handshakes_total counter
kdsrv_net_handshakes_total{line="NET:Port=50000,Key=*"} 1
# TYPE kdsrv_net_refused_total counter
kdsrv_net_refused_total{line="NET:Port=50000,Key=*",why="foreign"} 5
kdsrv_net_refused_total{line="NET:Port=50000,Key=*",why="forged"} 3
kdsrv_net_refused_total{line="NET:Port=50000,Key=*",why="replayed"} 4
# TYPE kdsrv_sessions gauge
kdsrv_sessions{state="halted"} 2
kdsrv_sessions{state="unknown"} 1
# TYPE kdsrv_sessions_waiting gauge
kdsrv_sessions_waiting 1
`) {
		if !strings.Contains(body, "\n"+want) {
			t.Errorf("%s is missing in%s", want, body)
		}
	}
	if strings.Contains(body, `kdsrv_net_datagrams_total{direction="in",line="COM`) {
		t.Errorf("a serial line has datagrams:%s", body)
	}
}

// However many lines there are, and however they are called, the label has so
// many values, and no byte is lost.
func TestLabelsAreBounded(t *testing.T) {
	s := &status.Server{}
	for i := range 3 * MaxLines {
		s.Sessions = append(s.Sessions, status.Session{Line: fmt.Sprint(i, strings.Repeat("x", 5000)), Opened: time.Unix(int64(i), 0), Link: status.Link{BytesIn: 1}})
	}
	got := lines(s.Sessions)
	if len(got) != MaxLines+1 || got[other].BytesIn != 2*MaxLines {
		t.Errorf("%d lines, %d bytes in %s", len(got), got[other].BytesIn, other)
	}
	for name := range got {
		if len(name) > 300 {
			t.Errorf("a label of %d bytes", len(name))
		}
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	r, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func TestListen(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	for _, c := range []struct {
		address string
		public  bool
	}{{"0", false}, {":0", false}, {"127.0.0.1:0", false}, {"localhost:0", false}, {"0.0.0.0:0", true}} {
		s, public, err := Listen(t.Context(), c.address, source(example()), log)
		if err != nil {
			t.Errorf("%s: %v", c.address, err)
			continue
		}
		if public != c.public {
			t.Errorf("%s: public %v", c.address, public)
		}
		at := fmt.Sprintf("http://127.0.0.1:%d", s.Addr().(*net.TCPAddr).Port)
		code, body := get(t, at+"/metrics")
		if code != 200 || !strings.Contains(body, "kdsrv_clients 3\n") || !strings.Contains(body, "go_goroutines") {
			t.Errorf("%s: %d\n%s", c.address, code, body)
		}
		if code, _ := get(t, at+"/"); code != 404 {
			t.Errorf("%s: / answers %d", c.address, code)
		}
		s.Close()
	}
	for _, bad := range []string{"", "x", "localhost", "1.2.3.4", ":99999", "localhost:http-alt"} {
		if s, _, err := Listen(t.Context(), bad, source(example()), log); err == nil || !strings.Contains(err.Error(), "127.0.0.1:9100") {
			t.Errorf("%q: %v", bad, err)
			if s != nil {
				s.Close()
			}
		}
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	if _, _, err := Listen(t.Context(), taken.Addr().String(), source(example()), log); err == nil {
		t.Error("a taken port was taken again")
	}
}

// Silent connections take all places, but not the end.
func TestSilentConnections(t *testing.T) {
	s, _, err := Listen(t.Context(), "0", source(example()), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 * maxConns {
		c, err := net.Dial("tcp", s.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	s.Close()
}
