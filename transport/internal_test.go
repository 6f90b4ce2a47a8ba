package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"openkd/transport/cpace"
)

// transcript is what passes inside TLS during one password exchange.
type transcript struct{ toServer, toClient bytes.Buffer }

type spy struct {
	*tls.Conn
	w *bytes.Buffer
}

func (s spy) Write(b []byte) (int, error) {
	s.w.Write(b)
	return s.Conn.Write(b)
}

// exchange runs both sides over TLS over a pipe.
func exchange(t *testing.T, server, client string, peer net.Addr, g *door) (tr transcript, sid []byte, serr, cerr error) {
	t.Helper()
	a, b := Pipe()
	cert, err := ephemeralCertificate()
	if err != nil {
		t.Fatal(err)
	}
	scfg, ccfg := tlsConfig(), tlsConfig()
	scfg.Certificates = []tls.Certificate{cert}
	ccfg.InsecureSkipVerify = true
	s, c := tls.Server(a, scfg), tls.Client(b, ccfg)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if serr = s.Handshake(); serr == nil {
			serr = authServer(context.Background(), spy{s, &tr.toClient}, server, peer, g)
		}
		s.Close()
	}()
	if cerr = c.Handshake(); cerr == nil {
		st := c.ConnectionState()
		sid, _ = st.ExportKeyingMaterial(authLabel, nil, 32)
		cerr = authClient(spy{c, &tr.toServer}, client, "test")
	}
	c.Close()
	<-done
	return tr, sid, serr, cerr
}

var peerA = &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1000}

// The shape of the exchange on the wire, field by field.
func TestAuthMessages(t *testing.T) {
	tr, _, serr, cerr := exchange(t, "secret", "secret", peerA, NewLimiter(Guesses{}).door("secret"))
	if serr != nil || cerr != nil {
		t.Fatal(serr, cerr)
	}
	up, down := tr.toServer.Bytes(), tr.toClient.Bytes()
	if len(up) != 38+64 || !bytes.HasPrefix(up, []byte("KDPW\x01\x01")) {
		t.Errorf("client: %x", up)
	}
	if len(down) != 36+65 || !bytes.HasPrefix(down, []byte{0, 1, 0, 0}) || down[36] != 0 {
		t.Errorf("server: %x", down)
	}
}

// Who terminates TLS knows the keying material of his own connections and all
// messages. A relayed run must not confirm a guess, not even the right one.
func TestRecordConfirmsNothing(t *testing.T) {
	g := NewLimiter(Guesses{}).door("secret")
	tr, sid, _, cerr := exchange(t, "secret", "secret", peerA, g)
	if cerr != nil {
		t.Fatal(cerr)
	}
	confirmsNothing(t, "secret", sid, tr.toServer.Bytes(), tr.toClient.Bytes())
}

// confirmsNothing tries a password, the right one, against what passed.
func confirmsNothing(t *testing.T, password string, sid, up, down []byte) {
	t.Helper()
	shareA, tagA, shareB := up[6:38], up[38:], down[4:36]
	// With the password and both shares, but without a secret scalar, the best
	// an attacker can do is to take part with a scalar of his own.
	for _, role := range []cpace.Role{cpace.Initiator, cpace.Responder} {
		run := cpace.New(role, cpace.Inputs{Password: []byte(password), Channel: []byte(authChannel), Session: sid})
		for _, peer := range [][]byte{shareA, shareB} {
			key, err := run.Finish(peer, down[:4], up[:6])
			if err != nil {
				t.Fatal(err)
			}
			if key.Verify(tagA) || key.Verify(down[37:]) {
				t.Error("a record of the exchange confirms the password")
			}
		}
	}
}

// testdata/login.txt is a login as it passed inside TLS: what a man in the
// middle who terminated TLS would have. LOGIN_RECORD=1 records another.
func TestRecordedLogin(t *testing.T) {
	const file, password = "testdata/login.txt", "Lab 7, bench 3"
	if os.Getenv("LOGIN_RECORD") != "" {
		tr, sid, _, err := exchange(t, password, password, peerA, NewLimiter(Guesses{}).door(password))
		if err != nil {
			t.Fatal(err)
		}
		up, down := tr.toServer.Bytes(), tr.toClient.Bytes()
		text := fmt.Sprintf("# A login with the password %q, inside TLS 1.3 (auth.go says what the fields are).\n"+
			"# exported keying material of the connection\nsid %x\n# client: magic, version, flags, share\n> %x\n"+
			"# server: code, flags, seconds, share\n< %x\n# client: its confirmation\n> %x\n# server: code, its confirmation\n< %x\n",
			password, sid, up[:authLen1], down[:authLen2], up[authLen1:], down[authLen2:])
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string][]byte{}
	for line := range strings.Lines(string(text)) {
		if who, h, ok := strings.Cut(strings.TrimSpace(line), " "); ok && who != "#" {
			b, err := hex.DecodeString(h)
			if err != nil {
				t.Fatal(err)
			}
			got[who] = append(got[who], b...)
		}
	}
	up, down := got[">"], got["<"]
	if len(up) != authLen1+authLen3 || len(down) != authLen2+authLen4 || len(got["sid"]) != 32 {
		t.Fatalf("%d bytes up, %d down", len(up), len(down))
	}
	if !bytes.HasPrefix(up, []byte("KDPW\x01\x01")) || down[0] != codeGo || down[1] != flagPassword || down[authLen2] != codeGo {
		t.Errorf("fields: % x, % x", up[:6], down[:4])
	}
	if bytes.Contains(text, []byte(hex.EncodeToString([]byte(password)))) {
		t.Error("the password travels")
	}
	confirmsNothing(t, password, got["sid"], up, down)
}

func TestWrongPasswordsAreSlowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewLimiter(Guesses{}).door("secret")
		try := func(pw string, peer net.Addr) error {
			_, _, _, err := exchange(t, "secret", pw, peer, g)
			return err
		}
		start := time.Now()
		for i := range 5 {
			if err := try(fmt.Sprint("guess", i), peerA); err == nil {
				t.Fatal("accepted")
			}
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("the first five took %v", d)
		}
		for range 3 {
			before := time.Now()
			if err := try("guess", peerA); err == nil {
				t.Fatal("accepted")
			}
			if d := time.Since(before); d < 1900*time.Millisecond || d > 2100*time.Millisecond {
				t.Errorf("the next wrong one took %v, want 2 s", d)
			}
		}
		// Another address does not wait for this one.
		before := time.Now()
		if err := try("secret", &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2)}); err != nil {
			t.Error(err)
		}
		if d := time.Since(before); d != 0 {
			t.Errorf("another address waited %v", d)
		}
		// Many at once win nothing: over ten seconds at most ten more are tried.
		tried := make(chan error, 50)
		before = time.Now()
		for range 50 {
			go func() { tried <- try("guess", peerA) }()
		}
		counts := map[AuthReason]int{}
		for range 50 {
			var ae *AuthError
			if err := <-tried; !errors.As(err, &ae) {
				t.Errorf("%v", err)
				continue
			}
			counts[ae.Reason]++
		}
		if counts[AuthRefused] > 3 || counts[AuthRefused]+counts[AuthWait] != 50 {
			t.Errorf("in %v: %v", time.Since(before), counts)
		}
		// Right ones do not count, and after a while this address is free again.
		time.Sleep(time.Minute)
		before = time.Now()
		for range 20 {
			if err := try("secret", peerA); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Since(before); d != 0 {
			t.Errorf("right ones waited %v", d)
		}
	})
}

func TestGuessesOverall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewLimiter(Guesses{PeerBurst: 5, PeerEvery: time.Second, AllBurst: 10, AllEvery: time.Second, MaxDelay: 3 * time.Second}).door("secret")
		refused := 0
		for i := range 40 {
			peer := &net.TCPAddr{IP: net.IPv4(198, 51, 100, byte(i))}
			tn, wait, err := g.take(context.Background(), peer)
			if err != nil {
				t.Fatal(err)
			}
			if tn == nil {
				refused++
				if wait <= 0 {
					t.Error("no time to wait")
				}
				continue
			}
			tn.done(wrong)
		}
		if d := time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)); d < 29*time.Second {
			t.Errorf("40 wrong ones from 40 addresses took only %v (%d refused)", d, refused)
		}
	})
}

// Who guesses from many addresses uses up what all have together, and does not
// lock an address out that has proved the password before.
func TestKnownAddressIsNotLockedOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewLimiter(Guesses{PeerBurst: 2, PeerEvery: time.Second, AllBurst: 10, AllEvery: time.Hour, MaxDelay: time.Second}).door("secret")
		at := func(i int) net.Addr { return &net.TCPAddr{IP: net.IPv4(198, 51, byte(i>>8), byte(i))} }
		try := func(i int, o outcome) bool {
			tn, _, err := g.take(context.Background(), at(i))
			if err != nil {
				t.Fatal(err)
			}
			if tn != nil {
				tn.done(o)
			}
			return tn != nil
		}
		try(1, right)
		for i := range maxPeers + 100 {
			try(2+i, wrong)
		}
		if try(9999, right) {
			t.Error("an unknown address was served though all had used up what they have")
		}
		for range 2 {
			if !try(1, wrong) {
				t.Error("the owner's address is locked out")
			}
		}
		start := time.Now()
		try(1, wrong)
		if time.Since(start) == 0 {
			t.Error("the owner's address has no limit of its own")
		}
		time.Sleep(knownFor)
		if try(1, gaveUp); g.peers[peerKey(at(1))].known(g, time.Now()) {
			t.Error("an address is known for ever")
		}
	})
}

// Doors that share a limiter share what may be tried; what is proved at one of
// them says nothing at another, and nothing is proved where there is no
// password.
func TestDoorsShareALimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimiter(Guesses{PeerBurst: 4, PeerEvery: time.Hour, AllBurst: 6, AllEvery: time.Hour, MaxDelay: time.Second})
		a, b, open := l.door("secret"), l.door("another"), l.door("")
		try := func(d *door, ip byte, o outcome) bool {
			tn, _, err := d.take(context.Background(), &net.TCPAddr{IP: net.IPv4(192, 0, 2, ip)})
			if err != nil {
				t.Fatal(err)
			}
			if tn != nil {
				tn.done(o)
			}
			return tn != nil
		}
		try(a, 2, right)
		try(open, 3, right)
		for i, d := range []*door{a, b, a, b} {
			if !try(d, 1, wrong) {
				t.Errorf("guess %d is refused", i+1)
			}
		}
		if try(a, 1, wrong) || try(b, 1, wrong) {
			t.Error("the other door was a new chance")
		}
		try(b, 4, wrong)
		try(b, 5, wrong)
		for _, c := range []struct {
			d    *door
			ip   byte
			want bool
		}{{a, 2, true}, {b, 2, false}, {a, 3, false}, {a, 6, false}} {
			if got := try(c.d, c.ip, gaveUp); got != c.want {
				t.Errorf("address %d, with all used up: %v, want %v", c.ip, got, c.want)
			}
		}
	})
}

func TestLimiterTable(t *testing.T) {
	g := NewLimiter(Guesses{PeerBurst: 1, PeerEvery: time.Hour, AllBurst: 1e6, AllEvery: time.Nanosecond, MaxDelay: time.Second}).door("secret")
	for i := range maxPeers + 100 {
		tn, _, err := g.take(context.Background(), &net.TCPAddr{IP: net.IPv4(10, byte(i>>16), byte(i>>8), byte(i))})
		if err != nil || tn == nil {
			t.Fatal(err)
		}
		tn.done(outcome(i % 2))
	}
	if len(g.peers) > maxPeers {
		t.Errorf("%d addresses remembered", len(g.peers))
	}
}

func TestPeerKey(t *testing.T) {
	for in, want := range map[string]string{
		"192.0.2.7:99":            "192.0.2.7/32",
		"[::ffff:192.0.2.7]:99":   "192.0.2.7/32",
		"[2001:db8:1:2:3::4]:99":  "2001:db8:1:2::/64",
		"[fe80::1%eth0]:99":       "fe80::/64",
		"<Local>":                 "invalid Prefix",
		strings.Repeat("x", 1000): "invalid Prefix",
	} {
		if got := peerKey(stringAddr(in)); got.String() != want {
			t.Errorf("%s: %v", in, got)
		}
	}
	if peerKey(nil) != (netip.Prefix{}) {
		t.Error("nil address")
	}
}

type stringAddr string

func (s stringAddr) Network() string { return "test" }
func (s stringAddr) String() string  { return string(s) }

// FuzzAuthServer feeds the server's side of the exchange.
func FuzzAuthServer(f *testing.F) {
	f.Add([]byte("KDPW\x01\x01"))
	f.Add(append([]byte("KDPW\x01\x01"), make([]byte, 200)...))
	f.Add([]byte("KDPW\x02\x00aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"))
	g := NewLimiter(Guesses{PeerBurst: 1 << 30, PeerEvery: 1, AllBurst: 1 << 30, AllEvery: 1, MaxDelay: time.Second}).door("secret")
	cert, err := ephemeralCertificate()
	if err != nil {
		f.Fatal(err)
	}
	a, b := Pipe()
	scfg, ccfg := tlsConfig(), tlsConfig()
	scfg.Certificates = []tls.Certificate{cert}
	ccfg.InsecureSkipVerify = true
	s, c := tls.Server(a, scfg), tls.Client(b, ccfg)
	go s.Handshake()
	if err := c.Handshake(); err != nil {
		f.Fatal(err)
	}
	st := s.ConnectionState()
	f.Fuzz(func(t *testing.T, in []byte) {
		if err := authServer(context.Background(), &canned{bytes.NewReader(in), st}, "secret", peerA, g); err == nil {
			t.Fatalf("%x was accepted", in)
		}
	})
}

type canned struct {
	*bytes.Reader
	st tls.ConnectionState
}

func (c *canned) Write(b []byte) (int, error)          { return len(b), nil }
func (c *canned) ConnectionState() tls.ConnectionState { return c.st }
