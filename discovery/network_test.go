package discovery

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// loopback is a network of this machine alone, on ports of its own. stranger
// makes the machine look like another one.
func loopback(t *testing.T, stranger bool) lan {
	t.Helper()
	free := func() uint16 {
		c, err := net.ListenPacket("udp", ":0")
		if err != nil {
			t.Skip("no UDP here:", err)
		}
		defer c.Close()
		return uint16(c.LocalAddr().(*net.UDPAddr).Port)
	}
	l := lan{mdnsPort: free(), directPort: free(), isOwn: isOwn}
	l.interfaces = func() ([]net.Interface, error) {
		all, err := net.Interfaces()
		return slices.DeleteFunc(all, func(i net.Interface) bool { return i.Flags&net.FlagLoopback == 0 }), err
	}
	if stranger {
		l.isOwn = func(netip.Addr) bool { return false }
	}
	return l
}

// deaf is a loopback that multicast does not reach.
func deaf(t *testing.T) lan {
	l := loopback(t, true)
	l.interfaces = func() ([]net.Interface, error) { return nil, nil }
	return l
}

// needMulticast skips the test where loopback carries none.
func needMulticast(t *testing.T, l lan) {
	t.Helper()
	for f := range families {
		s, err := openSocket(t.Context(), f, l.mdnsPort, true, l.mdnsPort)
		if err != nil {
			continue
		}
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan packet, 1)
		done := make(chan struct{})
		go func() { defer close(done); s.read(ctx, got) }()
		for _, w := range l.ways() {
			if s.join(&w.ifi) == nil {
				s.multicast(&w.ifi, []byte("hello"))
			}
		}
		ok := false
		select {
		case <-got:
			ok = true
		case <-time.After(time.Second):
		}
		cancel()
		s.c.Close()
		<-done
		if ok {
			return
		}
	}
	t.Skip("the loopback interface of this machine carries no multicast")
}

func announceOn(t *testing.T, l lan, entries ...Entry) *Announcement {
	t.Helper()
	a, err := l.announce(t.Context(), entries, Options{Release: "1.2.3", Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// finds asks until the answer is complete: on a busy computer a second may pass
// before anybody answers.
func finds(t *testing.T, want string, ask func() ([]Server, error)) (got []Server) {
	t.Helper()
	for range 20 {
		var err error
		if got, err = ask(); err == nil && lines(got) == want {
			return got
		} else if err != nil {
			t.Log(err)
		}
	}
	t.Fatalf("found:\n%swant:\n%s", lines(got), want)
	return nil
}

const three = "Debugger Server - tcp:Port=6\n" +
	"Remote Kernel Debugger Server - com:Port=com1,Baud=115200,Channel=3\n" +
	"Remote Kernel Debugger Server - tcp:Port=53:60,Password=*\n"

func threeDoors() []Entry {
	ranged := entry(Kernel, "tcp:port=51:60,password=geheim,icfenable")
	ranged.Transport.Port = 53
	return []Entry{ranged, entry(Debugger, "tcp:port=6"), entry(Kernel, "com:port=com1,baud=115200,channel=3"), entry(Kernel, "tcp:port=7,hidden"), entry(Kernel, "tcp:port=8,clicon=box")}
}

func TestMulticast(t *testing.T) {
	l := loopback(t, true)
	needMulticast(t, l)
	runDir(t)
	a := announceOn(t, l, threeDoors()...)
	b := announceOn(t, l, entry(Kernel, "ssl:proto=tls13,certuser=ab 38 f7,port=9"))
	quiet := announceLocal(t, entry(Kernel, "tcp:port=99"))
	const ssl = "Remote Kernel Debugger Server - ssl:Proto=tls13,CertUser=ab 38 f7,Port=9\n"
	want := strings.Replace(three, "Remote Kernel Debugger Server - tcp", ssl+"Remote Kernel Debugger Server - tcp", 1)
	got := finds(t, want, func() ([]Server, error) {
		got, err := l.browse(t.Context(), "")
		// There are those of the registry, and again those that look like another machine's.
		return slices.DeleteFunc(got, Server.Here), err
	})
	for _, s := range got {
		if !isOwn(s.Addr) || s.Release != "1.2.3" || s.Host != hostname() || s.PID != 0 {
			t.Errorf("%s at %v, %s, %s, %d", s, s.Addr, s.Host, s.Release, s.PID)
		}
	}
	// A name that the system does not know is looked for among those that servers
	// claim; .invalid never resolves (RFC 6761).
	if !isCalled(hostname(), hostname()+".local") || isCalled(hostname(), "x"+hostname()) || isCalled("", "") {
		t.Error("names are not compared")
	}
	if _, err := l.machine(t.Context(), "nosuch.invalid"); err == nil || !strings.Contains(err.Error(), "nosuch.invalid is not known here") {
		t.Errorf("an unknown name: %v", err)
	}
	a.Close()
	b.Close()
	quiet.Close()
	if got, err := l.browse(t.Context(), ""); err != nil || len(got) != 0 {
		t.Errorf("after their end: %v, %v", lines(got), err)
	}
}

// TestOwnMachine: what another user of this machine announces is found, and
// what the registry knows is not listed twice.
func TestOwnMachine(t *testing.T) {
	l := loopback(t, false)
	needMulticast(t, l)
	runDir(t)
	announceOn(t, l, entry(Kernel, "tcp:port=9"))
	runDir(t)
	announceOn(t, l, threeDoors()...)
	got := finds(t, three+"Remote Kernel Debugger Server - tcp:Port=9\n", func() ([]Server, error) { return l.browse(t.Context(), "") })
	for _, s := range got {
		if !s.Here() {
			t.Errorf("%s is at %v", s, s.Addr)
		}
	}
	for _, name := range []string{"localhost", `\\LOCALHOST`, ".", `\\.`, "127.0.0.1", "::1", "[::1]", hostname(), strings.ToUpper(hostname())} {
		got, err := l.browse(t.Context(), name)
		if s := lines(got); err != nil || s != three {
			t.Errorf("%s: %v\n%s", name, err, s)
		}
	}
}

// TestAskedByAddress: without any multicast, the first server of a machine
// tells of the others, and what is not announced it does not tell.
func TestAskedByAddress(t *testing.T) {
	l := deaf(t)
	runDir(t)
	if got, err := l.browse(t.Context(), "127.0.0.1"); err != nil || len(got) != 0 {
		t.Errorf("nobody there, and the machine says so: %v, %v", lines(got), err)
	}
	a := announceOn(t, l, threeDoors()...)
	b := announceOn(t, l, entry(Kernel, "tcp:port=9"))
	waitDirect(t, l)
	announceLocal(t, entry(Kernel, "tcp:port=99"))
	for _, addr := range []string{"127.0.0.1", "localhost"} {
		finds(t, three+"Remote Kernel Debugger Server - tcp:Port=9\n", func() ([]Server, error) { return l.machine(t.Context(), addr) })
	}
	a.Close()
	b.Close()
	if got, err := l.browse(t.Context(), "127.0.0.1"); err != nil || len(got) != 0 {
		t.Errorf("after their end: %v, %v", lines(got), err)
	}
}

// TestManyDoors: more than fit one answer, also to strangers, who get one
// packet for each of theirs.
func TestManyDoors(t *testing.T) {
	for _, strange := range []bool{false, true} {
		l := loopback(t, true)
		if strange {
			l = deaf(t)
		}
		runDir(t)
		var entries []Entry
		for i := range 20 {
			entries = append(entries, entry(Kernel, fmt.Sprintf("tcp:port=%d,password=x", 1000+i)))
		}
		announceOn(t, l, entries...)
		waitDirect(t, l)
		want := ""
		for _, e := range entries {
			want += "Remote Kernel Debugger Server - " + e.Transport.String() + "\n"
		}
		finds(t, want, func() ([]Server, error) { return l.machine(t.Context(), "127.0.0.1") })
	}
}

// waitDirect waits until somebody answers on the port for direct questions.
func waitDirect(t *testing.T, l lan) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		c, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", l.directPort))
		if err != nil {
			t.Fatal(err)
		}
		c.Write(ask(1, true, nil, maxPacket))
		c.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		n, err := c.Read(make([]byte, 9000))
		c.Close()
		if err == nil && n > 0 {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("nobody answers")
}

func TestNoAnswer(t *testing.T) {
	l := deaf(t)
	silent, err := net.ListenPacket("udp4", fmt.Sprintf("127.0.0.1:%d", l.directPort))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if got, err := l.browse(t.Context(), "127.0.0.1"); err == nil || !strings.Contains(err.Error(), "127.0.0.1 does not answer") {
		t.Errorf("%v, %v", got, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.browse(ctx, "127.0.0.1"); err != context.Canceled {
		t.Error(err)
	}
	for _, bad := range []string{`\\`, "a b", "a/b", `\\a\b`, "a,b", "\x1b", strings.Repeat("a", 300)} {
		if _, err := l.browse(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "is not the name") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestNoNetwork: a machine without interfaces, or whose port is not to be had,
// has a list of its own all the same.
func TestNoNetwork(t *testing.T) {
	l := deaf(t)
	c, err := net.ListenPacket("udp", fmt.Sprintf(":%d", l.mdnsPort))
	if err != nil {
		t.Skip(err)
	}
	defer c.Close()
	runDir(t)
	a := announceOn(t, l, entry(Kernel, "tcp:port=5"))
	got, err := l.browse(t.Context(), "")
	if err != nil || lines(got) != "Remote Kernel Debugger Server - tcp:Port=5\n" {
		t.Errorf("%v\n%s", err, lines(got))
	}
	a.Close()
}

// TestAnswers is what browsers of DNS-SD may ask.
func TestAnswers(t *testing.T) {
	z := zone{host: "openkd-p.local.", instances: []instance{
		{label: "box-p-0", kind: Kernel, connect: "tcp:Port=5", host: "BOX", release: "1", port: 5},
		{label: "box-p-1", kind: Debugger, connect: "tcp:Port=6", host: "BOX", release: "1", port: 6},
	}}
	addrs := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	for _, c := range []struct {
		name  string
		typ   dnsmessage.Type
		known string
		want  string // answers; extras
		ours  bool
	}{
		{serversService, dnsmessage.TypePTR, "", "PTR box-p-0._openkd-srv._tcp.local.; TXT SRV 5", true},
		{"_OPENKD-SRV._tcp.local.", dnsmessage.TypePTR, "", "PTR box-p-0._openkd-srv._tcp.local.; TXT SRV 5", true},
		{serversService, dnsmessage.TypePTR, "BOX-p-0._openkd-srv._tcp.local.", "; ", true},
		{debuggersService, dnsmessage.TypeALL, "", "PTR box-p-1._openkd-dbg._tcp.local.; TXT SRV 6", true},
		{serviceTypes, dnsmessage.TypePTR, "", "PTR _openkd-srv._tcp.local. PTR _openkd-dbg._tcp.local.; ", true},
		{serviceTypes, dnsmessage.TypePTR, serversService, "PTR _openkd-dbg._tcp.local.; ", true},
		{"box-p-0._openkd-srv._tcp.local.", dnsmessage.TypeSRV, "", "SRV 5; A AAAA", true},
		{"box-p-0._openkd-srv._tcp.local.", dnsmessage.TypeTXT, "", "TXT; ", true},
		{"box-p-0._openkd-srv._tcp.local.", dnsmessage.TypeALL, "", "TXT SRV 5; A AAAA", true},
		{"box-p-1._openkd-srv._tcp.local.", dnsmessage.TypeALL, "", "; ", false},
		{"openkd-p.local.", dnsmessage.TypeA, "", "A; ", true},
		{"openkd-p.local.", dnsmessage.TypeAAAA, "", "AAAA; ", true},
		{"openkd-p.local.", dnsmessage.TypeALL, "", "A AAAA; ", true},
		{"box.local.", dnsmessage.TypeA, "", "; ", false},
		{"_ipp._tcp.local.", dnsmessage.TypePTR, "", "; ", false},
		{serversService, dnsmessage.TypeA, "", "; ", false},
	} {
		m := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName(c.name), Type: c.typ, Class: dnsmessage.ClassINET}}}
		if c.known != "" {
			m.Answers = []dnsmessage.Resource{resource(c.name, false, lifeOfNames, &dnsmessage.PTRResource{PTR: dnsmessage.MustNewName(c.known)})}
		}
		b, err := m.Pack()
		if err != nil {
			t.Fatal(err)
		}
		q, ok := parseQuery(b)
		if !ok {
			t.Fatal("it is a query")
		}
		units, ours := z.answer(q, addrs)
		var answers, extras []string
		for _, u := range units {
			for _, r := range u.answers {
				answers = append(answers, describe(r))
			}
			for _, r := range u.extras {
				extras = append(extras, describe(r))
			}
		}
		if got := strings.Join(answers, " ") + "; " + strings.Join(extras, " "); got != c.want || ours != c.ours {
			t.Errorf("%s %v: %q, %v; want %q, %v", c.name, c.typ, got, ours, c.want, c.ours)
		}
	}
}

func describe(r dnsmessage.Resource) string {
	switch b := r.Body.(type) {
	case *dnsmessage.PTRResource:
		return "PTR " + b.PTR.String()
	case *dnsmessage.SRVResource:
		return fmt.Sprintf("SRV %d", b.Port)
	case *dnsmessage.TXTResource:
		return "TXT"
	case *dnsmessage.AResource:
		return "A"
	case *dnsmessage.AAAAResource:
		return "AAAA"
	}
	return "?"
}

// TestPassesOverOthers: names with dots, which other programs have and the
// reader of names refuses, hide nothing behind them.
func TestPassesOverOthers(t *testing.T) {
	dotted := []byte("\x09dotted.me\x04_ipp\x04_tcp\x05local\x00")
	var b []byte
	b = append(b, 0, 9, 0, 0, 0, 2, 0, 2, 0, 0, 0, 0)
	b = append(append(b, dotted...), 0, 33, 0, 1)
	b = append(b, "\x0b_openkd-srv\x04_tcp\x05local\x00\x00\x0c\x00\x01"...)
	b = append(append(b, dotted...), 0, 16, 0, 1, 0, 0, 0x10, 0, 0, 1, 0)
	known := "\x01a\x0b_openkd-srv\x04_tcp\x05local\x00"
	b = append(b, "\x0b_openkd-srv\x04_tcp\x05local\x00\x00\x0c\x00\x01\x00\x00\x11\x94\x00"...)
	b = append(append(b, byte(len(known))), known...)
	q, ok := parseQuery(b)
	if !ok || q.id != 9 || len(q.questions) != 1 || q.questions[0].Name.String() != serversService || !q.known["a._openkd-srv._tcp.local."] {
		t.Errorf("%+v %v", q, ok)
	}
	b[2] |= 0x80 // a response
	if _, ok := parseQuery(b); ok {
		t.Error("a response was taken for a query")
	}
}

// TestBadText: a door that does not say what it must is none.
func TestBadText(t *testing.T) {
	good := []string{"txtvers=1", "kind=kernel", "connect=tcp:Port=5,Password=*", "host=BOX", "release=1.0"}
	const name = "box-p-0._openkd-srv._tcp.local."
	for _, c := range []struct {
		name string
		text []string
		want string
	}{
		{name, good, "BOX kernel tcp:Port=5,Password=* 1.0"},
		{name, append([]string{"", "=", "x", "colour=red"}, good...), "BOX kernel tcp:Port=5,Password=* 1.0"},
		{name, []string{"TXTVERS=1", "Kind=kernel", "connect=TCP:port=5", "connect=tcp:port=6"}, " kernel tcp:Port=5 "},
		{name, []string{"txtvers=1", "kind=process", "connect=tcp:port=5", "host=\x1b[2J\u202ebox"}, "?[2J?box process tcp:Port=5 "},
		{"x._openkd-dbg._tcp.local.", good, ""},
		{"x._ipp._tcp.local.", good, ""},
		{"_openkd-srv._tcp.local.", good, ""},
		{"a.b._openkd-srv._tcp.local.", good, ""},
		{name, good[1:], ""},
		{name, append([]string{"txtvers=2"}, good...), ""},
		{name, good[:2], ""},
		{name, append([]string{"kind=printer"}, good...), ""},
		{name, append([]string{"connect=tcp:Port=5,Hidden"}, good...), ""},
		{name, append([]string{"connect=tcp:Port=5,CliCon=box"}, good...), ""},
		{name, append([]string{"connect=tcp:Port=5,Server=box"}, good...), ""},
		{name, append([]string{"connect=gopher:Port=70"}, good...), ""},
		{name, append([]string{"connect=ssl:Proto=tls13,CertUser=a\x1b]0;b,Port=5"}, good...), ""},
	} {
		u := unit{answers: []dnsmessage.Resource{resource(c.name, true, 1, &dnsmessage.TXTResource{TXT: c.text})}}
		b := pack(7, nil, []unit{u}, maxPacket, 1)
		id, l, ok := parseResponse(b[0])
		if !ok || id != 7 {
			t.Errorf("%q: no response", c.text)
			continue
		}
		got := ""
		for _, x := range l {
			got += fmt.Sprintf("%s %s %s %s", x.server.Host, x.server.Kind, x.server, x.server.Release)
		}
		if got != c.want {
			t.Errorf("%s %q: %q, want %q", c.name, c.text, got, c.want)
		}
	}
}

func FuzzPacket(f *testing.F) {
	z := zone{host: "openkd-p.local.", instances: []instance{{label: "box-p-0", kind: Kernel, connect: "tcp:Port=5", host: "BOX", port: 5}}}
	addrs := []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	f.Add(ask(1, true, []instanceName{{"a." + serversService, serversService}}, maxPacket))
	f.Add(ask(0, false, nil, 0))
	for _, b := range pack(0, nil, z.everything(addrs), maxPacket, maxPackets) {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, ok := parseQuery(b); ok {
			if len(q.questions) > maxAsked || len(q.known) > maxLooked {
				t.Error("no bound")
			}
			units, _ := z.answer(q, addrs)
			for _, limit := range []int{maxPacket, len(b)} {
				for _, p := range pack(q.id, q.questions, plain(units), limit, 1) {
					if len(p) > limit {
						t.Errorf("%d bytes, with a limit of %d", len(p), limit)
					}
					if _, _, ok := parseResponse(p); !ok {
						t.Errorf("the answer is no response: %x", p)
					}
				}
			}
		}
		_, l, _ := parseResponse(b)
		for _, x := range l {
			if s := x.server; !printable(s.String()+s.Host+s.Release) || s.Kind.Label() == "" || s.Transport.Hidden || len(s.String()) > 2*maxText {
				t.Errorf("%+v", s)
			}
		}
	})
}

// FuzzRecord: whatever a file of the registry holds.
func FuzzRecord(f *testing.F) {
	f.Add("kernel", "tcp:port=5:6,password=x", "1.0")
	f.Add("debugger", "ssl:proto=tls13,certuser=ab 38,port=9", "\x1b")
	f.Fuzz(func(t *testing.T, kind, connect, release string) {
		s, err := newServer(Kind(kind), connect, release)
		if err != nil {
			return
		}
		if !printable(s.String()+s.Release) || len(s.Release) > 64 {
			t.Errorf("%q", s)
		}
		again, err := newServer(s.Kind, s.String(), s.Release)
		if err != nil || again.String() != s.String() {
			t.Errorf("%s is read as %s, %v", s, again, err)
		}
	})
}

// TestNoAmplifier: who asks from elsewhere, or says so, gets no more bytes than
// he sent, in one packet.
func TestNoAmplifier(t *testing.T) {
	l := deaf(t)
	runDir(t)
	var entries []Entry
	for i := range 20 {
		entries = append(entries, entry(Kernel, fmt.Sprintf("tcp:port=%d", 1000+i)))
	}
	announceOn(t, l, entries...)
	waitDirect(t, l)
	for _, padded := range []int{0, 100, 300, maxPacket} {
		c, err := net.Dial("udp", fmt.Sprintf("127.0.0.1:%d", l.directPort))
		if err != nil {
			t.Fatal(err)
		}
		q := ask(1, true, nil, padded)
		c.Write(q)
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		b := make([]byte, 9000)
		n, err := c.Read(b)
		if err != nil || n > len(q) {
			t.Errorf("%d bytes for %d, %v", n, len(q), err)
		}
		// A second packet for the first question would come before the answer to
		// this one, which has another number.
		c.Write(ask(2, true, nil, padded))
		n, err = c.Read(b)
		if id, _, ok := parseResponse(b[:n]); err != nil || !ok || id != 2 {
			t.Errorf("with %d bytes: a second packet, %d %v %v", len(q), id, ok, err)
		}
		c.Close()
	}
}

// TestFarewell: what says good-bye while somebody listens is not listed.
func TestFarewell(t *testing.T) {
	z := zone{host: "openkd-p.local.", instances: []instance{{label: "box-p-0", kind: Kernel, connect: "tcp:Port=5", host: "BOX", port: 5}}}
	a := &asker{found: make(map[string]*found)}
	from := netip.MustParseAddr("192.0.2.1")
	for _, c := range []struct {
		units []unit
		found int
	}{{farewell(z.everything(nil)), 0}, {z.everything(nil), 1}, {z.everything(nil), 1}, {farewell(z.everything(nil)), 0}} {
		for _, b := range pack(0, nil, c.units, maxPacket, maxPackets) {
			_, l, ok := parseResponse(b)
			if !ok || len(l) != 1 {
				t.Fatal("no response")
			}
			a.add(l, from, false)
		}
		if len(a.found) != c.found {
			t.Errorf("%d found, want %d", len(a.found), c.found)
		}
	}
	// What floods the network is not all remembered.
	for i := range 2 * maxSighted {
		x := sighting{instanceName: instanceName{name: fmt.Sprint(i)}}
		for j := range 2 * maxTargets {
			a.add([]sighting{x}, netip.AddrFrom4([4]byte{10, 0, 0, byte(j)}), false)
		}
	}
	if len(a.found) > maxSighted || len(a.found["0"].addrs) > maxTargets {
		t.Errorf("%d doors, %d addresses", len(a.found), len(a.found["0"].addrs))
	}
	// The best address: one that people can type, then one for every interface.
	f := found{addrs: []netip.Addr{netip.MustParseAddr("fe80::1%eth0"), netip.MustParseAddr("2001:db8::1"), from}}
	if s := f.seen(); s.Addr != from {
		t.Error(s.Addr)
	}
	if f.addrs = f.addrs[:2]; f.seen().Addr != f.addrs[1] {
		t.Error(f.seen().Addr)
	}
}

// TestAnnouncements: twice when an interface comes up, and never more than once
// in a second, however often somebody asks.
func TestAnnouncements(t *testing.T) {
	r := newResponder(deaf(t), zone{}, nil, slog.New(slog.DiscardHandler))
	o := &outlet{}
	r.ways[1] = o
	r.schedule(o, 1)
	first := o.due
	r.schedule(o, 0)
	if o.due != first || o.more != 1 {
		t.Error("a question puts it off")
	}
	o.due = time.Now()
	r.announceDue()
	if o.due.IsZero() || o.more != 0 || o.due.Before(o.last.Add(repeatAfter)) {
		t.Errorf("the second one: %+v", o)
	}
	o.due = time.Now()
	r.announceDue()
	if !o.due.IsZero() {
		t.Errorf("a third one: %+v", o)
	}
	r.schedule(o, 0)
	if o.due.Before(o.last.Add(repeatAfter)) {
		t.Errorf("asked for at once: %+v", o)
	}
}
