package status

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestWrite(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.Local)
	at := func(ago time.Duration) time.Time { return now.Add(-ago) }
	lost := at(20 * time.Second)
	s := Server{
		Release: "0.9.1", Host: "lab7", PID: 42, Started: at(26 * time.Hour), Now: now, MaxClients: 4096, ClientCount: 3, SessionCount: 4,
		Doors: []Door{{Transport: "tcp:Port=1234,Password=*", Address: "[::]:1234", Clients: 1, Accepted: 12}},
		Sessions: []Session{
			{Line: "COM:Port=/dev/ttyUSB0,Baud=115200", Owner: "ann@lab", Peer: "10.0.0.7:5", Since: at(time.Minute), Epoch: 2, State: "halted", StateSince: at(3 * time.Second),
				Link: Link{BytesIn: 1_234_567, PacketsIn: 1200, BytesOut: 999, PacketsOut: 1, Resends: 3, BadChecksums: 1, RoundTrip: 1234567}},
			{Line: "COM:Pipe,Port=/tmp/vm", Owner: "evil\x1b]0;\a", Peer: "<Local>", Since: at(0), Epoch: 1, Lost: &lost, GraceSeconds: 60},
			{Line: "NET:Port=50000,Key=*", Owner: "ben@lab", Peer: "10.0.0.8:5", Since: at(time.Minute), Epoch: 1, State: "running", StateSince: at(3 * time.Second),
				Link: Link{BytesIn: 2000, PacketsIn: 10, RoundTrip: 350 * time.Microsecond, Net: &Net{Target: "10.0.0.5:50000", Handshakes: 1, DatagramsIn: 31, DatagramsOut: 30, Forged: 3, Replayed: 4, Foreign: 5}}},
			{Line: "NET:Port=50001,Key=*", Owner: "ben@lab", Peer: "10.0.0.8:5", Since: at(time.Minute), Epoch: 1, State: "waiting", StateSince: at(3 * time.Second), Link: Link{Net: &Net{}}},
		},
		Clients: []Client{{Peer: "10.0.0.7:5", Door: "tcp:Port=1234,Password=*", Since: at(time.Minute), Owner: "ann@lab", Line: "COM:Port=/dev/ttyUSB0,Baud=115200", BytesIn: 20, BytesOut: 30_000_000, RoundTrip: 250 * time.Microsecond}, {Peer: "<Local>", Since: now}},
	}
	const want = `kdsrv 0.9.1 on lab7, process 42, since 2026-11-20 10:00:00 (26h0m0s)

Doors
  tcp:Port=1234,Password=* at [::]:1234: 1 client, 12 so far

Sessions: 4
  COM:Port=/dev/ttyUSB0,Baud=115200: halted since 2026-11-21 11:59:57 (3s)
    held by ann@lab from 10.0.0.7:5 since 2026-11-21 11:59:00 (1m0s), epoch 2
    link: 1234 kB and 1200 packets in, 999 bytes and 1 packet out, round trip 1.2ms
    link: 3 sent again, 1 bad checksum, 0 stray bytes, 0 resets
  COM:Pipe,Port=/tmp/vm: does not tell its state now
    held by evil?]0;? from <Local> since 2026-11-21 12:00:00 (0s), epoch 1
    connection lost at 11:59:40; the target is let go 60 s after that
    link: 0 bytes and 0 packets in, 0 bytes and 0 packets out, round trip not known yet
  NET:Port=50000,Key=*: running since 2026-11-21 11:59:57 (3s)
    held by ben@lab from 10.0.0.8:5 since 2026-11-21 11:59:00 (1m0s), epoch 1
    link: 2000 bytes and 10 packets in, 0 bytes and 0 packets out, round trip 350µs
    target: 10.0.0.5:50000, 1 handshake; 31 datagrams in, 30 out
    refused: 3 datagrams that the key does not open, 4 late or sent again, 5 of somebody else
  NET:Port=50001,Key=*: waiting since 2026-11-21 11:59:57 (3s)
    held by ben@lab from 10.0.0.8:5 since 2026-11-21 11:59:00 (1m0s), epoch 1
    link: 0 bytes and 0 packets in, 0 bytes and 0 packets out, round trip not known yet
    target: none yet, 0 handshakes; 0 datagrams in, 0 out

Clients: 3 of at most 4096
  10.0.0.7:5, ann@lab, at COM:Port=/dev/ttyUSB0,Baud=115200, since 2026-11-21 11:59:00 (1m0s)
    through tcp:Port=1234,Password=*, 20 bytes in, 30 MB out, round trip 250µs
  <Local>, since 2026-11-21 12:00:00 (0s)
    0 bytes in, 0 bytes out, round trip not known yet
  and 1 more
`
	var b strings.Builder
	s.Write(&b)
	if b.String() != want {
		t.Errorf("it says\n%s\nwant\n%s", b.String(), want)
	}
}

func FuzzClean(f *testing.F) {
	f.Add("ann@lab", 5)
	f.Add("\x1b[31m\u202e\xff\u00a0", 100)
	f.Fuzz(func(t *testing.T, s string, most int) {
		got := Clean(s, most)
		if n := utf8.RuneCountInString(got); n > max(most, 0) {
			t.Errorf("%q has %d characters", got, n)
		}
		if strings.ContainsAny(got, "\x1b\r\n\u202e\u200b\ufffd") || !utf8.ValidString(got) {
			t.Errorf("%q is not harmless", got)
		}
	})
}
