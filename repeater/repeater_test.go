package repeater

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"openkd/connstr"
	"openkd/internal/captured"
	"openkd/internal/ports"
	"openkd/internal/shortdir"
	"openkd/transport"
	"openkd/transport/transporttest"
)

func TestMain(m *testing.M) {
	dir, err := shortdir.Make()
	if err != nil {
		panic(err)
	}
	os.Setenv("OPENKD_RUN_DIR", dir) // where pipes are
	// go-winio has one for all files of a process.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/Microsoft/go-winio.ioCompletionProcessor"), goleak.Cleanup(func(code int) {
		os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// patience bounds every wait; nothing comes near it.
const patience = 20 * time.Second

// running is a repeater that runs.
type running struct {
	*Repeater
	log  *captured.Text
	stop func()
	done chan struct{}
	why  error // when done
}

func start(t testing.TB, server, client connstr.Transport, o Options) *running {
	t.Helper()
	x := &running{log: new(captured.Text), done: make(chan struct{})}
	o.Logger = slog.New(slog.NewTextHandler(x.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	r, err := Open(t.Context(), server, client, o)
	if err != nil {
		t.Fatal(err)
	}
	x.Repeater = r
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(x.done)
		x.why = r.Run(ctx)
	}()
	x.stop = func() {
		cancel()
		<-x.done
	}
	t.Cleanup(x.stop)
	return x
}

func tcp(port int) connstr.Transport {
	if port == 0 {
		port = connstr.AnyPort
	}
	return connstr.Transport{Proto: "tcp", Port: port}
}

// to is how a client reaches what is listened on here.
func to(port int) connstr.Transport {
	return connstr.Transport{Proto: "tcp", Server: "127.0.0.1", Port: port}
}

func reverse(port int) connstr.Transport {
	return connstr.Transport{Proto: "tcp", ClientOf: "127.0.0.1", Port: port}
}

func (x *running) port() int { return x.Client().Port }

func dial(t testing.TB, port int) *net.TCPConn {
	t.Helper()
	c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// listenTCP is a server that does nothing by itself.
func listenTCP(t testing.TB) (net.Listener, int) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l, l.Addr().(*net.TCPAddr).Port
}

func accept(t testing.TB, l net.Listener) *net.TCPConn {
	t.Helper()
	l.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// echo is a server that says what it hears.
func echo(t testing.TB) int {
	l, port := listenTCP(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { io.Copy(c, c); c.Close() })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return port
}

func says(t testing.TB, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
}

func hears(t testing.TB, c net.Conn, text string) {
	t.Helper()
	b := make([]byte, len(text))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != text {
		t.Fatalf("heard %q, %v; want %q", b, err, text)
	}
}

// hearsEnd: the other side ended it well.
func hearsEnd(t testing.TB, c net.Conn) {
	t.Helper()
	if b, err := io.ReadAll(c); err != nil || len(b) != 0 {
		t.Fatalf("heard %q, %v; want the end", b, err)
	}
}

// isOver: the connection ended, well or not.
func isOver(t testing.TB, c net.Conn) {
	t.Helper()
	_, err := io.Copy(io.Discard, c)
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		t.Fatal("the connection is kept")
	}
}

const password = "conformance"

// secure connects a debugging client with a server over chain, which puts
// repeaters between them: it is given how the server's side is written and
// returns how the client's is.
func secure(t *testing.T, server connstr.Transport, chain func(l transport.Listener) connstr.Transport) (client, srv transport.Conn) {
	t.Helper()
	server.Password = password
	l, err := transport.Listen(t.Context(), server, transport.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	tr := chain(l)
	tr.Password = password
	accepted := make(chan transport.Conn, 1)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	go func() {
		c, _ := l.Accept(ctx)
		accepted <- c
	}()
	c, err := transport.Dial(ctx, tr, transport.Options{})
	if err != nil {
		cancel()
		<-accepted
		t.Fatal(err)
	}
	s := <-accepted
	if s == nil {
		c.Close()
		t.Fatal("nothing was accepted")
	}
	return c, s
}

// Every chain carries a stream as if there were none.
func TestConformance(t *testing.T) {
	for _, c := range []struct {
		name string
		pair func(t *testing.T) (transport.Conn, transport.Conn)
	}{
		// Without TLS a half close is one of TCP, which the repeater has to pass on.
		{"bare tcp through two", func(t *testing.T) (transport.Conn, transport.Conn) {
			l, port := listenTCP(t)
			first := start(t, to(port), tcp(0), Options{Keep: true})
			second := start(t, to(first.port()), tcp(0), Options{Keep: true})
			a := dial(t, second.port())
			a.SetDeadline(time.Time{})
			b := accept(t, l)
			b.SetDeadline(time.Time{})
			return a, b
		}},
		{"through two", func(t *testing.T) (transport.Conn, transport.Conn) {
			return secure(t, tcp(0), func(l transport.Listener) connstr.Transport {
				first := start(t, to(l.Transport().Port), tcp(0), Options{Keep: true})
				return to(start(t, to(first.port()), tcp(0), Options{Keep: true}).port())
			})
		}},
		{"through two, a pipe between them", func(t *testing.T) (transport.Conn, transport.Conn) {
			return secure(t, tcp(0), func(l transport.Listener) connstr.Transport {
				name := "kd" + crand.Text()[:10]
				start(t, to(l.Transport().Port), connstr.Transport{Proto: "npipe", Pipe: name}, Options{Keep: true})
				return to(start(t, connstr.Transport{Proto: "npipe", Server: ".", Pipe: name}, tcp(0), Options{Keep: true}).port())
			})
		}},
		{"the server connects in", func(t *testing.T) (transport.Conn, transport.Conn) {
			port := ports.TCP(t)
			return secure(t, reverse(port), func(transport.Listener) connstr.Transport {
				return to(start(t, reverse(port), tcp(0), Options{Keep: true}).port())
			})
		}},
		{"the server connects in, the client through a pipe", func(t *testing.T) (transport.Conn, transport.Conn) {
			port, name := ports.TCP(t), "kd"+crand.Text()[:10]
			return secure(t, reverse(port), func(transport.Listener) connstr.Transport {
				start(t, reverse(port), connstr.Transport{Proto: "npipe", Pipe: name}, Options{Keep: true})
				return to(start(t, connstr.Transport{Proto: "npipe", Server: ".", Pipe: name}, tcp(0), Options{Keep: true}).port())
			})
		}},
		{"the client is connected to", func(t *testing.T) (transport.Conn, transport.Conn) {
			port := ports.TCP(t)
			return secure(t, tcp(0), func(l transport.Listener) connstr.Transport {
				start(t, to(l.Transport().Port), reverse(port), Options{Keep: true})
				return reverse(port)
			})
		}},
		{"both in reverse, through two", func(t *testing.T) (transport.Conn, transport.Conn) {
			in, mid, out := ports.TCP(t), ports.TCP(t), ports.TCP(t)
			return secure(t, reverse(in), func(transport.Listener) connstr.Transport {
				start(t, reverse(in), reverse(mid), Options{Keep: true})
				start(t, reverse(mid), reverse(out), Options{Keep: true})
				return reverse(out)
			})
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			transporttest.Run(t, c.pair)
		})
	}
}

// The same words as without a repeater, from the one who checks.
func TestWrongPassword(t *testing.T) {
	server := tcp(0)
	server.Password = "right"
	l, err := transport.Listen(t.Context(), server, transport.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	first := start(t, to(l.Transport().Port), tcp(0), Options{Keep: true})
	second := start(t, to(first.port()), tcp(0), Options{Keep: true})
	for pw, want := range map[string]string{
		"wrong": "password refused by 127.0.0.1:%d (error 0x80004005)",
		"":      "127.0.0.1:%d asks for a password",
	} {
		at := to(second.port())
		at.Password = pw
		_, err = transport.Dial(t.Context(), at, transport.Options{})
		if !errors.Is(err, transport.ErrPassword) || !strings.Contains(fmt.Sprint(err), fmt.Sprintf(want, second.port())) {
			t.Errorf("%q: %v", pw, err)
		}
	}
	for _, x := range []*running{first, second} {
		if strings.Contains(x.log.String(), "right") || strings.Contains(x.log.String(), "wrong") {
			t.Errorf("a password is in the log:\n%s", x.log)
		}
	}
}

func TestEndsWithTheLastConnection(t *testing.T) {
	port := echo(t)
	x := start(t, to(port), tcp(0), Options{})
	a, b := dial(t, x.port()), dial(t, x.port())
	for _, c := range []net.Conn{a, b} {
		says(t, c, "hello")
		hears(t, c, "hello")
	}
	a.Close()
	x.log.Until(t, "msg=ended")
	says(t, b, "still there")
	hears(t, b, "still there")
	b.Close()
	<-x.done
	if !errors.Is(x.why, errLast) {
		t.Error(x.why)
	}
	if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", x.port())); err == nil {
		c.Close()
		t.Error("it still listens")
	}

	keeps := start(t, to(port), tcp(0), Options{Keep: true})
	for range 3 {
		c := dial(t, keeps.port())
		says(t, c, "hello")
		hears(t, c, "hello")
		c.Close()
	}
	keeps.log.Times(t, "msg=ended", 3)
	select {
	case <-keeps.done:
		t.Error("it ended although it was to stay")
	default:
	}
	keeps.stop()
	if !errors.Is(keeps.why, context.Canceled) {
		t.Error(keeps.why)
	}
}

// A server that is not there: the client is told by being closed, nothing
// stays, and the next client may have more luck.
func TestServerOutOfReach(t *testing.T) {
	port := ports.TCP(t)
	x := start(t, to(port), tcp(0), Options{})
	for i := range 3 {
		c := dial(t, x.port())
		says(t, c, "hello")
		isOver(t, c)
		x.log.Times(t, "the server cannot be reached", i+1)
	}
	select {
	case <-x.done:
		t.Fatal("it ended before there was a connection")
	default:
	}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := dial(t, x.port())
	s := accept(t, l)
	says(t, s, "at last")
	hears(t, c, "at last")
}

// One end breaks: the other hears of it, with all that was said before.
func TestBothEnd(t *testing.T) {
	l, port := listenTCP(t)
	x := start(t, to(port), tcp(0), Options{Keep: true})
	for _, reset := range []bool{false, true} {
		for _, clientEnds := range []bool{false, true} {
			a := dial(t, x.port())
			b := accept(t, l)
			if !clientEnds {
				a, b = b, a
			}
			says(t, a, "last words")
			hears(t, b, "last words")
			if reset {
				a.SetLinger(0)
			}
			a.Close()
			isOver(t, b)
			b.Close()
		}
	}
	x.log.Until(t, "the client ended it")
	x.log.Until(t, "the server ended it")
	x.log.Until(t, "the client was lost")
	x.log.Until(t, "the server was lost")
}

// What a server says while it leaves arrives, although the client is still
// speaking and cannot be heard any more.
func TestLastWords(t *testing.T) {
	l, port := listenTCP(t)
	x := start(t, to(port), tcp(0), Options{Keep: true})
	c := dial(t, x.port())
	s := accept(t, l)
	says(t, c, "go on")
	hears(t, s, "go on")
	says(t, s, strings.Repeat("last words", 1000))
	s.CloseWrite()
	says(t, c, "not heard")
	hears(t, c, strings.Repeat("last words", 1000))
	hearsEnd(t, c)
}

// A half closed connection that falls silent is not kept for ever; one that
// speaks is.
func TestLinger(t *testing.T) {
	// A machine that is too busy for the pace gets more time.
	for linger := 200 * time.Millisecond; ; linger *= 4 {
		l, port := listenTCP(t)
		x := start(t, to(port), tcp(0), Options{Keep: true, Linger: linger})
		c := dial(t, x.port())
		s := accept(t, l)
		c.CloseWrite()
		hearsEnd(t, s)
		kept := true
		for last := time.Now(); kept && time.Since(last) < 3*linger/2; { // longer than Linger altogether
			at := time.Now()
			if _, err := s.Write([]byte("slowly")); err != nil {
				kept = false
			} else if _, err := io.ReadFull(c, make([]byte, len("slowly"))); err != nil {
				kept = false
			}
			time.Sleep(linger / 4)
			if d := time.Since(at); kept && d > linger/2 {
				kept = false
			} else if !kept && d < linger/2 {
				t.Fatal("a connection that speaks was ended")
			}
		}
		if !kept && linger < time.Minute {
			continue
		}
		isOver(t, c)
		x.log.Until(t, "msg=ended")
		return
	}
}

// Who does not read stops the other, and costs bounded memory.
func TestBackPressure(t *testing.T) {
	l, port := listenTCP(t)
	x := start(t, to(port), tcp(0), Options{Keep: true})
	c := dial(t, x.port())
	s := accept(t, l)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	c.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	sent := 0
	chunk := make([]byte, 256<<10)
	for {
		n, err := c.Write(chunk)
		sent += n
		if err != nil {
			break
		}
		if sent > 512<<20 {
			t.Fatal("512 MiB were taken that nobody read")
		}
	}
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 16<<20 {
		t.Errorf("%d bytes are held for %d that nobody read", grown, sent)
	}
	c.CloseWrite()
	if n, err := io.Copy(io.Discard, s); err != nil || n != int64(sent) {
		t.Errorf("%d of %d bytes arrived, %v", n, sent, err)
	}
}

func TestFlood(t *testing.T) {
	const clients = 1000
	port := echo(t)
	x := start(t, to(port), tcp(0), Options{Keep: true})
	y := start(t, to(x.port()), tcp(0), Options{Keep: true})
	var wg sync.WaitGroup
	release := make(chan struct{})
	var ready sync.WaitGroup
	ready.Add(clients)
	for range clients {
		wg.Go(func() {
			c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", y.port()))
			if err != nil {
				t.Error(err)
				ready.Done()
				return
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(60 * time.Second))
			msg := make([]byte, 3000)
			crand.Read(msg)
			talk := func() {
				if _, err := c.Write(msg); err != nil {
					t.Error(err)
					return
				}
				got := make([]byte, len(msg))
				if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, msg) {
					t.Error("not what was said: ", err)
				}
			}
			talk()
			ready.Done()
			<-release // all are there at one time
			talk()
		})
	}
	ready.Wait()
	close(release)
	wg.Wait()
	y.log.Times(t, "msg=ended", clients)
	x.log.Times(t, "msg=ended", clients)
}

func TestTooMany(t *testing.T) {
	x := start(t, to(echo(t)), tcp(0), Options{Keep: true, MaxClients: 2})
	var held []net.Conn
	for range 2 {
		c := dial(t, x.port())
		says(t, c, "hello")
		hears(t, c, "hello")
		held = append(held, c)
	}
	isOver(t, dial(t, x.port()))
	x.log.Until(t, "clients are turned away")
	held[0].Close()
	x.log.Until(t, "msg=ended")
	c := dial(t, x.port())
	says(t, c, "hello")
	hears(t, c, "hello")
}

// Servers that connect in wait for clients, and clients for servers, in the
// order in which they came.
func TestServersConnectIn(t *testing.T) {
	x := start(t, reverse(ports.TCP(t)), tcp(0), Options{Keep: true})
	in := x.Server().Port
	server := func(n int) *net.TCPConn {
		s := dial(t, in)
		x.log.Times(t, "a server connected in", n)
		return s
	}
	pair := func(c, s net.Conn) {
		t.Helper()
		says(t, s, "answer")
		hears(t, c, "answer")
		c.Close()
		s.Close()
	}
	// Servers first.
	s1, s2 := server(1), server(2)
	time.Sleep(20 * time.Millisecond) // the order of two that are there is that of their goroutines
	c1 := dial(t, x.port())
	says(t, c1, "one")
	hears(t, s1, "one")
	c2 := dial(t, x.port())
	says(t, c2, "two")
	hears(t, s2, "two")
	pair(c1, s1)
	pair(c2, s2)

	// Clients first. One who says nothing takes nobody's turn.
	silent := dial(t, x.port())
	c1 = dial(t, x.port())
	says(t, c1, "one")
	x.log.Until(t, "the client waits")
	c2 = dial(t, x.port())
	says(t, c2, "two")
	x.log.Times(t, "the client waits", 2)
	time.Sleep(20 * time.Millisecond)
	s1 = server(3)
	hears(t, s1, "one")
	s2 = server(4)
	hears(t, s2, "two")
	pair(c1, s1)
	pair(c2, s2)
	silent.Close()
	x.log.Until(t, "the client left")

	// One who left while he waited gets nobody, and who is gone is given to nobody.
	c1 = dial(t, x.port())
	says(t, c1, "gone")
	x.log.Times(t, "the client waits", 3)
	c1.Close()
	x.log.Times(t, "the client left", 2)
	s1 = server(5)
	s1.Close()
	x.log.Until(t, "a server left")
	s1, c1 = server(6), dial(t, x.port())
	says(t, c1, "here")
	hears(t, s1, "here")
	pair(c1, s1)

	// Strangers speak before they are asked.
	s1 = dial(t, in)
	says(t, s1, "GET / HTTP/1.1\r\n\r\n")
	isOver(t, s1)
	x.log.Until(t, "is no server")
}

func TestNoServerConnectsIn(t *testing.T) {
	x := start(t, reverse(ports.TCP(t)), tcp(0), Options{Keep: true, Wait: 50 * time.Millisecond, Within: 50 * time.Millisecond})
	c := dial(t, x.port())
	says(t, c, "hello")
	isOver(t, c)
	x.log.Until(t, "no server has connected to port")
	isOver(t, dial(t, x.port()))
	x.log.Until(t, "it has said nothing for")
}

// A machine that clicon= does not name may be the server all the same, but is
// not given to a client before the one that it names.
func TestStrangersStandBack(t *testing.T) {
	back := connstr.Transport{Proto: "tcp", ClientOf: "192.0.2.1", Port: ports.TCP(t)}
	x := start(t, back, tcp(0), Options{Keep: true})
	stranger := dial(t, back.Port)
	x.log.Until(t, `"named by clicon"=false`)
	for range maxOthers + 5 {
		dial(t, back.Port)
	}
	x.log.Until(t, "a server is turned away")
	c := dial(t, x.port())
	says(t, c, "hello")
	hears(t, stranger, "hello")

	back = connstr.Transport{Proto: "tcp", ClientOf: "127.0.0.1", Port: ports.TCP(t)}
	x = start(t, back, tcp(0), Options{Keep: true})
	far := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}} // another machine
	c2, err := far.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", back.Port))
	if err != nil {
		t.Skip("one loopback address only: ", err)
	}
	defer c2.Close()
	x.log.Until(t, `"named by clicon"=false`)
	named := dial(t, back.Port)
	x.log.Until(t, `"named by clicon"=true`)
	c = dial(t, x.port())
	says(t, c, "hello")
	hears(t, named, "hello")
}

// A client that is connected to: only when there is a server for him, and a
// server is dialled only when he speaks.
func TestClientIsConnectedTo(t *testing.T) {
	l, port := listenTCP(t)
	cl, clientPort := listenTCP(t)
	x := start(t, to(port), reverse(clientPort), Options{Keep: true})
	for range 2 {
		c := accept(t, cl)
		l.(*net.TCPListener).SetDeadline(time.Now().Add(50 * time.Millisecond))
		if s, err := l.Accept(); err == nil {
			s.Close()
			t.Fatal("a server was dialled for a client that has said nothing")
		}
		says(t, c, "hello")
		s := accept(t, l)
		hears(t, s, "hello")
		c.Close()
		isOver(t, s)
		s.Close()
	}
	x.stop()

	in := ports.TCP(t)
	x = start(t, reverse(in), reverse(clientPort), Options{Keep: true})
	cl.(*net.TCPListener).SetDeadline(time.Now().Add(50 * time.Millisecond))
	if c, err := cl.Accept(); err == nil {
		c.Close()
		t.Fatal("a client was connected to without a server for him")
	}
	gone := dial(t, in)
	c := accept(t, cl)
	gone.Close()
	s := dial(t, in)
	says(t, c, "hello")
	hears(t, s, "hello")
	x.stop()
	isOver(t, c)
	isOver(t, s)
}

func TestBadOptions(t *testing.T) {
	taken, port := listenTCP(t)
	defer taken.Close()
	com := func(port string) connstr.Transport { return connstr.Transport{Proto: "com", ComPort: port, Baud: 9600} }
	for _, c := range []struct {
		server, client connstr.Transport
		want           string
	}{
		{com(`\\.\COM2`), com("2"), "both name the serial port"},
		{com("com2"), com("com2"), "both name the serial port"},
		{to(port), connstr.Transport{Proto: "tcp", Port: port}, "taken by another program"},
		{connstr.Transport{Proto: "tcp", ClientOf: "10.0.0.1", Port: port}, tcp(0), "taken by another program"},
	} {
		if c.want == "taken by another program" && runtime.GOOS == "windows" {
			continue // there two may listen on one port, one of them on one address
		}
		r, err := Open(t.Context(), c.server, c.client, Options{})
		if err == nil {
			r.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v, %v: %v", c.server, c.client, err)
		}
	}
	if err := Check(com("com1"), com("com2")); err != nil {
		t.Error(err)
	}
	free := ports.TCP(t)
	for _, host := range []string{"localhost", "127.0.0.1", `\\LocalHost`} {
		at := to(free)
		at.Server = host
		r, err := Open(t.Context(), at, tcp(free), Options{})
		if err == nil {
			r.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "connect to itself") {
			t.Errorf("%s: %v", host, err)
		}
		at.Server, at.ClientOf = "", host
		r, err = Open(t.Context(), at, reverse(free), Options{})
		if err == nil {
			r.Close()
		}
		if err == nil || !strings.Contains(err.Error(), "connect to itself") {
			t.Errorf("reverse, %s: %v", host, err)
		}
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		text   string
		client bool
		want   string // part of the error; empty: none
	}{
		{"tcp:port=1", false, ""},
		{"tcp:port=1,hidden", false, ""},
		{"tcp:port=1:9", false, ""},
		{"tcp:port=1,clicon=h", false, ""},
		{"tcp:port=1,clicon=h", true, ""},
		{"tcp:port=1:9,clicon=h", true, ""},
		{"npipe:pipe=a", false, ""},
		{"npipe:server=h,pipe=a", true, ""},
		{"com:port=2,baud=9600,channel=1", true, ""},
		{"tcp:port=1", true, "names the machine"},
		{"tcp:port=1,server=h", false, "server=h"},
		{"tcp:port=1:9,clicon=h", false, "only the side that listens"},
		{"tcp:port=1,password=secret", false, "password= is not for a repeater"},
		{"tcp:port=1,server=h,password=secret", true, "password= is not for a repeater"},
		{"ssl:port=1", false, "write tcp: instead"},
		{"SSL:proto=tls1,certuser=x,port=1,server=h", true, "write tcp: instead"},
		{"spipe:pipe=x", false, "write npipe: instead"},
		{"udp:port=1", false, "begins with"},
	} {
		_, err := Parse(c.text, c.client)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.text, err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the password is printed: %v", err)
		}
	}
}

// BenchmarkThroughput prints what share is left of the throughput of a loop
// that copies between the same sockets, and of no stop on the way at all.
func BenchmarkThroughput(b *testing.B) {
	const size = 64 << 20
	l, port := listenTCP(b)
	loop, loopPort := listenTCP(b)
	go func() {
		in, err := loop.Accept()
		if err != nil {
			return
		}
		defer in.Close()
		out, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return
		}
		defer out.Close()
		buf := make([]byte, bigBuffer)
		for {
			n, err := in.Read(buf)
			if _, werr := out.Write(buf[:n]); err != nil || werr != nil {
				return
			}
		}
	}()
	var took [3]time.Duration
	var from, into [3]net.Conn
	for i, p := range []int{port, loopPort, start(b, to(port), tcp(0), Options{Keep: true}).port()} {
		from[i] = dial(b, p)
		from[i].SetDeadline(time.Time{})
		into[i] = accept(b, l)
		into[i].SetDeadline(time.Time{})
	}
	chunk := make([]byte, 64<<10)
	b.SetBytes(size)
	for b.Loop() {
		for i := range took {
			begin := time.Now()
			go func() {
				for range size / len(chunk) {
					from[i].Write(chunk)
				}
			}()
			if _, err := io.CopyN(io.Discard, into[i], size); err != nil {
				b.Fatal(err)
			}
			took[i] += time.Since(begin)
		}
	}
	b.ReportMetric(float64(took[1])/float64(took[2]), "of-a-copy-loop")
	b.ReportMetric(float64(took[0])/float64(took[2]), "of-no-stop")
}
