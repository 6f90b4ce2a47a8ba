package transport_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"openkd/connstr"
	"openkd/internal/cable"
	"openkd/internal/captured"
	"openkd/internal/shortdir"
	"openkd/link/fault"
	"openkd/transport"
	"openkd/transport/comline"
	"openkd/transport/transporttest"
)

func TestMain(m *testing.M) {
	// go-winio has one for all files of a process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/Microsoft/go-winio.ioCompletionProcessor"))
}

func listen(t testing.TB, password string, o transport.Options) transport.Listener {
	t.Helper()
	l, err := transport.Listen(t.Context(), connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Password: password}, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func dialTo(l transport.Listener, password string) connstr.Transport {
	return connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: l.Transport().Port, Password: password}
}

// works shows that the listener still serves.
func works(t testing.TB, l transport.Listener, password string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	accepted := make(chan transport.Conn, 1)
	go func() {
		c, _ := l.Accept(ctx)
		accepted <- c
	}()
	c, err := transport.Dial(ctx, dialTo(l, password), transport.Options{})
	if err != nil {
		t.Fatalf("an honest client: %v", err)
	}
	defer c.Close()
	s := <-accepted
	if s == nil {
		t.Fatal("nothing accepted")
	}
	defer s.Close()
	go s.Write([]byte("hello"))
	buf := make([]byte, 5)
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hello" {
		t.Fatalf("%q, %v", buf, err)
	}
}

// pipeDir is where pipes are made that are Unix sockets: a folder with a short
// path, since the names of sockets are short.
func pipeDir(t *testing.T) {
	t.Helper()
	dir := shortdir.New(t)
	t.Setenv("OPENKD_RUN_DIR", dir)
}

func TestConformance(t *testing.T) {
	t.Run("pipe in the process", func(t *testing.T) {
		transporttest.Run(t, func(t *testing.T) (transport.Conn, transport.Conn) { return transport.Pipe() })
	})
	t.Run("tcp, reverse", func(t *testing.T) {
		transporttest.Run(t, func(t *testing.T) (transport.Conn, transport.Conn) {
			s, c, _ := reversePair(t, "secret", false)
			return s, c
		})
	})
	pipeDir(t)
	certificates(t)
	for _, door := range []struct{ name, server, client string }{
		{"tcp", "tcp:port=0", "tcp:server=127.0.0.1"},
		{"npipe", "npipe:pipe=plain-%x", "npipe:server=localhost"},
		{"ssl", "ssl:proto=tls13,certuser=lab,port=0", "ssl:proto=tls13,certuser=lab,server=127.0.0.1"},
		{"ssl, TLS 1.2", "ssl:proto=tls12,certuser=lab,port=0", "ssl:proto=tls12,certuser=lab,server=127.0.0.1"},
		{"spipe", "spipe:proto=tls1,certuser=lab,pipe=secure-%x", "spipe:proto=tls1,certuser=lab,server=localhost"},
		{"com", "com:port={there},baud=12000000,channel=3", "com:port={here},baud=12000000,channel=3"},
	} {
		t.Run(door.name, func(t *testing.T) {
			if strings.Contains(door.server, "{there}") {
				here, there := cable.Join(t, fault.Config{Seed: 11, Drop: 2e-5, Corrupt: 2e-5, Duplicate: 2e-5, Noise: 2e-5, Spacing: 1})
				door.server = strings.ReplaceAll(door.server, "{there}", there)
				door.client = strings.ReplaceAll(door.client, "{here}", here)
			}
			at, err := connstr.ParseTransport(door.server+",password=secret", true)
			if err != nil {
				t.Fatal(err)
			}
			lines := new(comline.Lines)
			l, err := transport.Listen(t.Context(), at, transport.Options{Lines: lines})
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			taken, client := l.Transport(), door.client
			switch at.Proto {
			case "tcp", "ssl":
				client += fmt.Sprintf(",port=%d", taken.Port)
			case "npipe", "spipe":
				client += ",pipe=" + taken.Pipe
			}
			to, err := connstr.ParseTransport(client+",password=secret", false)
			if err != nil {
				t.Fatal(err)
			}
			transporttest.RunDoor(t, l, func(ctx context.Context) (transport.Conn, error) {
				return transport.Dial(ctx, to, transport.Options{Handshake: time.Minute, Lines: lines})
			})
		})
	}
}

func TestPasswords(t *testing.T) {
	long := strings.Repeat("pä$$ w0rd,}=", 19)
	for _, c := range []struct {
		server, client string
		want           string // part of the error; empty: accepted
		reason         transport.AuthReason
	}{
		{"secret", "secret", "", 0},
		{"", "", "", 0},
		{long, long, "", 0},
		{"secret", "Secret", "password refused by 127.0.0.1:%d (error 0x80004005)", transport.AuthRefused},
		{"secret", "", "127.0.0.1:%d asks for a password", transport.AuthNeeded},
		{"", "secret", "127.0.0.1:%d has no password but one was given", transport.AuthNotSet},
	} {
		l := listen(t, c.server, transport.Options{})
		if c.want == "" {
			works(t, l, c.client)
			continue
		}
		_, err := transport.Dial(t.Context(), dialTo(l, c.client), transport.Options{})
		var ae *transport.AuthError
		if !errors.As(err, &ae) || !errors.Is(err, transport.ErrPassword) || ae.Reason != c.reason {
			t.Errorf("%q to %q: %v", c.client, c.server, err)
			continue
		}
		if want := fmt.Sprintf(c.want, l.Transport().Port); !strings.Contains(err.Error(), want) {
			t.Errorf("%q to %q: %v, want %q", c.client, c.server, err, want)
		}
		works(t, l, c.server)
	}
	_, err := transport.Listen(t.Context(), connstr.Transport{Proto: "tcp", Password: strings.Repeat("x", 257)}, transport.Options{})
	if err == nil || !strings.Contains(err.Error(), "at most 256") {
		t.Errorf("257 bytes: %v", err)
	}
}

func TestLogs(t *testing.T) {
	var b captured.Text
	log := slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}))
	l := listen(t, "a secret that is long", transport.Options{Logger: log})
	works(t, l, "a secret that is long")
	if _, err := transport.Dial(t.Context(), dialTo(l, "gue55"), transport.Options{Logger: log}); err == nil {
		t.Fatal("accepted")
	}
	l.Close()
	listen(t, "", transport.Options{Logger: log})
	for _, want := range []string{"twelve letters", "password refused", "anyone who reaches"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, b.String())
		}
	}
	for _, never := range []string{"a secret that", "gue55"} {
		if strings.Contains(b.String(), never) {
			t.Errorf("the log contains %q", never)
		}
	}
}

// Who knocks again and again without the password does not fill the log, and
// how often is told all the same.
func TestRefusalsDoNotFillTheLog(t *testing.T) {
	var log captured.Text
	l := listen(t, "secret", transport.Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	const knocks = 60
	begun := time.Now()
	for range knocks {
		if _, err := transport.Dial(t.Context(), dialTo(l, ""), transport.Options{}); err == nil {
			t.Fatal("taken")
		}
	}
	time.Sleep(1100 * time.Millisecond) // a line more is allowed
	transport.Dial(t.Context(), dialTo(l, ""), transport.Options{})
	l.Close() // every handshake has ended
	lines := strings.Count(log.String(), "password refused")
	unsaid := 0
	for line := range strings.Lines(log.String()) {
		if _, after, ok := strings.Cut(line, "unsaid="); ok {
			n, _ := strconv.Atoi(strings.TrimSpace(after))
			unsaid += n
		}
	}
	most := 32 + int(time.Since(begun).Seconds()) // 30 at once, and one a second
	if lines > most || lines+unsaid != knocks+1 || !strings.Contains(log.String(), `audit=refuse`) || !strings.Contains(log.String(), "no password was given") {
		t.Errorf("%d lines, %d told as unsaid:\n%s", lines, unsaid, log.String())
	}
}

func TestPortRange(t *testing.T) {
	a := listen(t, "", transport.Options{})
	port := a.Transport().Port
	_, err := transport.Listen(t.Context(), connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: port}, transport.Options{})
	if err == nil || !strings.Contains(err.Error(), "taken by another program") {
		t.Errorf("a port in use: %v", err)
	}
	b, err := transport.Listen(t.Context(), connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: port, PortHigh: port + 20}, transport.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if tr := b.Transport(); tr.Port <= port || tr.Port > port+20 || tr.PortHigh != port+20 {
		t.Errorf("took %d of %d:%d", tr.Port, port, tr.PortHigh)
	}
	works(t, b, "")
	if _, err := transport.Listen(t.Context(), connstr.Transport{Proto: "tcp", Port: 9, PortHigh: 8}, transport.Options{}); err == nil {
		t.Error("a range that ends before it begins was taken")
	}
}

func TestIPv6(t *testing.T) {
	l, err := transport.Listen(t.Context(), connstr.Transport{Proto: "tcp", Server: "::1", IPv6: true}, transport.Options{})
	if err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	defer l.Close()
	go func() {
		if c, _ := l.Accept(t.Context()); c != nil {
			c.Close()
		}
	}()
	c, err := transport.Dial(t.Context(), connstr.Transport{Proto: "tcp", Server: "[::1]", Port: l.Transport().Port, IPv6: true}, transport.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
}

// reversePair connects both sides of a reverse connection.
func reversePair(t testing.TB, password string, serverFirst bool) (server, client transport.Conn, l transport.Listener) {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	tr := connstr.Transport{Proto: "tcp", ClientOf: "127.0.0.1", Port: port, Password: password}
	listening := make(chan struct{})
	var once sync.Once
	var wg sync.WaitGroup
	dial := func() {
		c, err := transport.Dial(t.Context(), tr, transport.Options{OnListen: func(connstr.Transport) { once.Do(func() { close(listening) }) }})
		if err != nil {
			t.Error(err)
		}
		client = c
	}
	if !serverFirst {
		wg.Go(dial)
		<-listening
	}
	l, err = transport.Listen(t.Context(), tr, transport.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if serverFirst {
		wg.Go(dial)
	}
	server, err = l.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	wg.Wait()
	return server, client, l
}

func TestReverse(t *testing.T) {
	for _, serverFirst := range []bool{false, true} {
		s, c, _ := reversePair(t, "secret", serverFirst)
		if s == nil || c == nil {
			t.Fatal("no pair")
		}
		go s.Write([]byte("hello"))
		buf := make([]byte, 5)
		if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hello" {
			t.Errorf("%q %v", buf, err)
		}
		s.Close()
		c.Close()
	}
}

// The next client is served by the same server, without a restart.
func TestReverseAgain(t *testing.T) {
	s, c, l := reversePair(t, "secret", false)
	tr := l.Transport()
	for range 2 {
		c.Close()
		s.Close()
		accepted := make(chan transport.Conn, 1)
		go func() {
			c, _ := l.Accept(t.Context())
			accepted <- c
		}()
		var err error
		if c, err = transport.Dial(t.Context(), tr, transport.Options{}); err != nil {
			t.Fatal(err)
		}
		if s = <-accepted; s == nil {
			t.Fatal("nothing accepted")
		}
	}
	c.Close()
	s.Close()
}

// Strangers who connect to a waiting client and say nothing lose their places
// to the server.
func TestManySilentAtAWaitingClient(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	tr := connstr.Transport{Proto: "tcp", ClientOf: "127.0.0.1", Port: port, Password: "secret"}
	var l transport.Listener
	o := transport.Options{MaxPending: 8, Handshake: 30 * time.Second, OnListen: func(at connstr.Transport) {
		for range 80 {
			raw, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", at.Port))
			if err != nil {
				t.Error(err)
				return
			}
			t.Cleanup(func() { raw.Close() })
		}
		if l, err = transport.Listen(t.Context(), tr, transport.Options{}); err != nil {
			t.Error(err)
		}
	}}
	c, err := transport.Dial(t.Context(), tr, o)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	l.Close()
}

func TestReverseWrongPassword(t *testing.T) {
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tr := connstr.Transport{Proto: "tcp", ClientOf: "127.0.0.1", Port: free.Addr().(*net.TCPAddr).Port, Password: "secret"}
	free.Close()
	l, err := transport.Listen(t.Context(), tr, transport.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	bad := tr
	bad.Password = "wrong"
	var ae *transport.AuthError
	if _, err := transport.Dial(t.Context(), bad, transport.Options{}); !errors.As(err, &ae) || ae.Reason != transport.AuthRefused {
		t.Errorf("%v", err)
	}
	// Whatever else connects to the waiting client is no server.
	accepted := make(chan transport.Conn, 1)
	go func() {
		c, _ := l.Accept(t.Context())
		accepted <- c
	}()
	c, err := transport.Dial(t.Context(), tr, transport.Options{OnListen: func(at connstr.Transport) {
		raw, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", at.Port))
		if err != nil {
			t.Error(err)
			return
		}
		io.WriteString(raw, "GET / HTTP/1.1\r\n\r\n")
		raw.Close()
	}})
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	(<-accepted).Close()

	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	l.Close()
	if _, err := transport.Dial(ctx, tr, transport.Options{}); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// A client that reaches something else gets told.
func TestWrongServer(t *testing.T) {
	for name, answer := range map[string]func(net.Conn){
		"closes":     func(c net.Conn) { c.Close() },
		"HTTP":       func(c net.Conn) { io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n"); c.Close() },
		"silent":     func(c net.Conn) { io.Copy(io.Discard, c); c.Close() },
		"giant auth": func(c net.Conn) { c.Write(make([]byte, 1<<16)); c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			defer wg.Wait()
			defer ln.Close()
			wg.Go(func() {
				if c, err := ln.Accept(); err == nil {
					answer(c)
				}
			})
			_, err = transport.Dial(t.Context(), connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: ln.Addr().(*net.TCPAddr).Port},
				transport.Options{Handshake: 100 * time.Millisecond})
			if err == nil || !strings.Contains(err.Error(), "connecting to 127.0.0.1:") {
				t.Errorf("%v", err)
			}
		})
	}
	_, err := transport.Dial(t.Context(), connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: 1}, transport.Options{})
	if err == nil || !strings.Contains(err.Error(), "does anything listen there") {
		t.Errorf("nobody listens: %v", err)
	}
}

// Rubbish, half a handshake, silence: closed within a bound, others served.
func TestBadClients(t *testing.T) {
	l := listen(t, "secret", transport.Options{Handshake: 3 * time.Second}) // enough for honest clients of a busy machine
	all := t
	var kept sync.WaitGroup
	defer kept.Wait()
	rubbish := make([]byte, 5000)
	rand.Read(rubbish)
	tlsDial := func(raw net.Conn) *tls.Conn {
		c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"openkd"}})
		if err := c.Handshake(); err != nil {
			t.Errorf("TLS: %v", err)
		}
		return c
	}
	for name, send := range map[string]func(raw net.Conn){
		"silence":           func(raw net.Conn) {},
		"rubbish":           func(raw net.Conn) { raw.Write(rubbish) },
		"HTTP":              func(raw net.Conn) { io.WriteString(raw, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") },
		"giant TLS record":  func(raw net.Conn) { raw.Write([]byte{22, 3, 1, 0xFF, 0xFF, 1, 0xFF, 0xFF, 0xFF}) },
		"half a hello":      func(raw net.Conn) { raw.Write([]byte{22, 3, 1, 0, 200, 1, 0, 0}) },
		"TLS, then silence": func(raw net.Conn) { tlsDial(raw) },
		"TLS, then rubbish": func(raw net.Conn) { tlsDial(raw).Write(rubbish) },
		"half a share":      func(raw net.Conn) { tlsDial(raw).Write([]byte("KDPW\x01\x01abc")) },
		"not an element": func(raw net.Conn) {
			tlsDial(raw).Write(append([]byte("KDPW\x01\x01"), strings.Repeat("\xFF", 32)...))
		},
		"neutral element": func(raw net.Conn) {
			tlsDial(raw).Write(append([]byte("KDPW\x01\x01"), make([]byte, 32)...))
		},
		"other version": func(raw net.Conn) {
			tlsDial(raw).Write(append([]byte("KDPW\x07\x01"), make([]byte, 32)...))
		},
		"a browser": func(raw net.Conn) {
			c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
			c.Handshake()
		},
	} {
		t.Run(name, func(t *testing.T) {
			raw, err := net.Dial("tcp", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			raw.SetDeadline(time.Now().Add(time.Minute))
			send(raw)
			works(t, l, "secret")
			kept.Go(func() { // those that are kept for some time, for the same
				defer raw.Close()
				// Closed by the server: end of file or a reset, but not our deadline.
				_, err := io.Copy(io.Discard, raw)
				var ne net.Error
				if errors.As(err, &ne) && ne.Timeout() {
					all.Errorf("%s: the server keeps the connection", name)
				}
			})
		})
	}
	kept.Wait()
	works(t, l, "secret")
}

func TestManySilent(t *testing.T) {
	l := listen(t, "secret", transport.Options{MaxPending: 16, Handshake: time.Minute})
	for range 320 { // far more than have a place; a client gives up after 10 s
		raw, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
	}
	works(t, l, "secret") // the oldest silent ones had to go
}

// A client that goes away with its own context.
func TestDialCancel(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err = transport.Dial(ctx, connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: ln.Addr().(*net.TCPAddr).Port}, transport.Options{})
	if err == nil {
		t.Error("no error")
	}
}

// middle terminates TLS on both sides and passes the plain bytes on.
func middle(t *testing.T, server string) (port int, seen *captured.Text) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	seen = new(captured.Text)
	cert, err := transport.EphemeralCertificate() // any does: nobody checks it
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			raw, err := ln.Accept()
			if err != nil {
				return
			}
			down := tls.Server(raw, &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"openkd"}})
			up, err := tls.Dial("tcp", server, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"openkd"}})
			if err != nil {
				t.Errorf("middle: %v", err)
				raw.Close()
				return
			}
			wg.Go(func() { io.Copy(io.MultiWriter(up, seen), down); up.Close(); down.Close() })
			wg.Go(func() { io.Copy(io.MultiWriter(down, seen), up); up.Close(); down.Close() })
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return ln.Addr().(*net.TCPAddr).Port, seen
}

func TestManInTheMiddle(t *testing.T) {
	l := listen(t, "secret", transport.Options{})
	port, seen := middle(t, l.Addr().String())
	accepted := make(chan transport.Conn, 1)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		c, _ := l.Accept(ctx)
		accepted <- c
	})
	_, err := transport.Dial(t.Context(), connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: port, Password: "secret"}, transport.Options{})
	var ae *transport.AuthError
	if !errors.As(err, &ae) || ae.Reason != transport.AuthRefused {
		t.Errorf("through a man in the middle, with the right password: %v", err)
	}
	cancel()
	wg.Wait()
	if c := <-accepted; c != nil {
		t.Error("the server took the stream")
		c.Close()
	}
	if len(seen.String()) < 38+36+64 {
		t.Errorf("the middle saw %d bytes: the test did not test", len(seen.String()))
	}
	works(t, l, "secret")
}
