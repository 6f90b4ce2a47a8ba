package comline

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// serve echoes what comes to a channel until the test ends.
func serve(t *testing.T, ls *Lines, cfg Config, channel int) *Listener {
	t.Helper()
	ln, err := ls.Listen(t.Context(), cfg, channel)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				if !errors.Is(err, net.ErrClosed) {
					t.Error(err)
				}
				return
			}
			wg.Go(func() {
				io.Copy(c, c)
				c.Close()
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return ln
}

// talk sends something over a stream that echoes.
func talk(c net.Conn, n int) error {
	msg, got := some(n, 5), make([]byte, n)
	errs := make(chan error, 1)
	go func() {
		_, err := c.Write(msg)
		errs <- err
	}()
	if _, err := io.ReadFull(c, got); err != nil {
		return err
	}
	if !bytes.Equal(got, msg) {
		return errors.New("bytes arrived changed")
	}
	return <-errs
}

// again dials and talks until it works: what the layer above does.
func again(t *testing.T, ls *Lines, cfg Config, channel int) net.Conn {
	t.Helper()
	var err error
	for range 100 {
		var c net.Conn
		if c, err = ls.Dial(t.Context(), cfg, channel); err == nil {
			if err = talk(c, 1000); err == nil {
				return c
			}
			c.Close()
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal(err)
	return nil
}

// TestTakeOverInside: two users in one process that do not know of each other.
// When the one that has the device goes, the other one takes it.
func TestTakeOverInside(t *testing.T) {
	a, b := ends(t, fast, nil)
	var first, second, far Lines
	one := serve(t, &first, b, 1)
	serve(t, &second, b, 2)
	c1, c2 := again(t, &far, a, 1), again(t, &far, a, 2)
	if err := talk(c2, 100_000); err != nil {
		t.Fatal(err)
	}
	c1.Close()
	time.Sleep(50 * time.Millisecond) // lets the echo of channel 1 end, so that only its listener holds the device
	one.Close()
	if _, err := c2.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("a stream over a process that has gone: %v", err)
	}
	c2.Close()
	again(t, &far, a, 2).Close()
	if _, err := far.Dial(t.Context(), a, 1); err == nil || !strings.Contains(err.Error(), "nobody listens on this channel") {
		t.Errorf("a channel that was closed: %v", err)
	}
	serve(t, &first, b, 1)
	again(t, &far, a, 1).Close()
}

// TestSharedDevice: what is opened through one Lines keeps the device as long
// as any of it is open.
func TestSharedDevice(t *testing.T) {
	a, b := ends(t, fast, nil)
	var near, far Lines
	serve(t, &far, b, 1)
	first := again(t, &near, a, 1)
	second := again(t, &near, a, 1)
	first.Close()
	if err := talk(second, 10_000); err != nil {
		t.Error(err)
	}
	second.Close()
}

func TestDeviceLost(t *testing.T) {
	a, b := ends(t, fast, nil)
	open := a.Open
	var mu sync.Mutex
	var devs []io.ReadWriteCloser
	fail := 0
	a.Open = func(ctx context.Context) (io.ReadWriteCloser, error) {
		mu.Lock()
		defer mu.Unlock()
		if fail > 0 {
			fail--
			return nil, errors.New("no such device")
		}
		dev, err := open(ctx)
		devs = append(devs, dev)
		return dev, err
	}
	var near, far Lines
	serve(t, &near, a, 1)
	c := again(t, &far, b, 1)
	mu.Lock()
	fail = 2
	devs[0].Close() // unplugged
	mu.Unlock()
	if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("read: %v", err)
	}
	c.Close()
	again(t, &far, b, 1).Close()
}

func TestErrors(t *testing.T) {
	a, b := ends(t, fast, nil)
	var one, two, far Lines
	serve(t, &one, a, 3)
	serve(t, &far, b, 4)
	other := a
	other.Baud = 9600
	nothing := Config{Port: filepath.Join(dir(t), "tty"), Baud: 9600, Dir: a.Dir}
	broken := a
	broken.Port = "c"
	broken.Open = func(context.Context) (io.ReadWriteCloser, error) { return nil, os.ErrPermission }
	for _, c := range []struct {
		ls      *Lines
		cfg     Config
		channel int
		dial    bool
		want    string
	}{
		{&one, a, 3, false, "a channel 3: it is listened on already, by " + who()},
		{&two, a, 3, false, "a channel 3: it is listened on already, by " + who()},
		{&one, other, 4, false, "a is open at 100000000 baud by this program; a line has one speed: write baud=100000000"},
		{&two, other, 4, false, "a is open at 100000000 baud by " + who()},
		{&two, other, 4, true, "a is open at 100000000 baud by " + who()},
		{&two, a, 255, false, "channel=255 does not exist; there are 0 to 254"},
		{&two, a, -1, true, "channel=-1 does not exist"},
		{&two, Config{Baud: 1}, 1, true, "port= is missing"},
		{&two, Config{Port: "2"}, 1, true, "baud=0 is no speed"},
		{&two, nothing, 1, true, "cannot open " + nothing.Port},
		{&two, nothing, 1, false, "cannot open " + nothing.Port},
		{&two, broken, 1, false, "permission denied"},
		{&two, a, 9, true, "nobody listens on this channel"},
		{&one, a, 9, true, "nobody listens on this channel"},
	} {
		var err error
		if c.dial {
			_, err = c.ls.Dial(t.Context(), c.cfg, c.channel)
		} else {
			_, err = c.ls.Listen(t.Context(), c.cfg, c.channel)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v\nwant: %s", err, c.want)
		}
	}
	// Nothing of that is left behind.
	again(t, &two, a, 4).Close()
	again(t, &one, a, 4).Close()
}

// TestNobodyBehindAnother: the reason comes from the process that has the line.
func TestNobodyBehindAnother(t *testing.T) {
	a, _ := ends(t, fast, nil)
	var one, two Lines
	serve(t, &one, a, 3)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := two.Dial(ctx, a, 1)
	if err == nil || !strings.Contains(err.Error(), "nobody answers at the other end of a (100000000 baud)") {
		t.Error(err)
	}
}

func TestListenCancelled(t *testing.T) {
	a, _ := ends(t, fast, nil)
	hangs := make(chan struct{})
	a.Open = func(ctx context.Context) (io.ReadWriteCloser, error) {
		close(hangs)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-hangs
		cancel()
	}()
	if _, err := Listen(ctx, a, 1); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// TestCloseUnaccepted: who was not accepted when the listener closes is told.
func TestCloseUnaccepted(t *testing.T) {
	a, b := ends(t, fast, nil)
	var near, far Lines
	ln, err := far.Listen(t.Context(), b, 1)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, &far, b, 2)
	c, err := near.Dial(t.Context(), a, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	idle, err := far.Listen(t.Context(), b, 3)
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error)
	go func() {
		_, err := idle.Accept()
		waiting <- err
	}()
	idle.Close()
	if err := <-waiting; !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v", err)
	}
	ln.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil || !strings.Contains(err.Error(), "the program at the other end is gone") {
		t.Errorf("read: %v", err)
	}
	if err := ln.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed again: %v", err)
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept: %v", err)
	}
}

func TestStats(t *testing.T) {
	a, b := ends(t, fast, nil)
	var one, two, far Lines
	owner := serve(t, &one, a, 1)
	joined := serve(t, &two, a, 2)
	defer again(t, &far, b, 1).Close()
	defer again(t, &far, b, 2).Close()
	x, ok := owner.Stats()
	if !ok || x.BytesIn == 0 || x.BytesOut == 0 || x.FramesIn == 0 || x.FramesOut == 0 || x.RTT == 0 || x.Sessions != 1 {
		t.Errorf("%+v", x)
	}
	y, ok := joined.Stats()
	if !ok || y.BytesIn < x.BytesIn || y.Sessions != 1 || y.RTT == 0 {
		t.Errorf("%+v, of the owner %+v", y, x)
	}
	for i, n := range statsOf(Stats{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}.counts()).counts() {
		if n != uint64(i+1) {
			t.Errorf("counter %d is %d", i, n)
		}
	}
}

// TestStrangers: what connects to the socket and does not speak, or speaks
// something else, disturbs nobody.
func TestStrangers(t *testing.T) {
	a, b := ends(t, fast, nil)
	var near, far Lines
	serve(t, &near, a, 1)
	c := again(t, &far, b, 1)
	defer c.Close()
	base := filepath.Join(a.Dir, rendezvous(a.Port))
	// The first one says nothing. (In Wine 8 nobody accepts it, and it alone.)
	silent, err := dialLocal(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for _, say := range [][]byte{
		{0xff, 0xff}, {1, 0, 0xee}, []byte("GET / HTTP/1.1\r\n\r\n"),
		putBlock(appendMessage(make([]byte, 2), message{kind: msgOpen, stream: 3})),
		putBlock(appendMessage(make([]byte, 2), message{kind: msgAttach, stream: Version + 1, text: "x"})),
	} {
		s, err := dialLocal(t.Context(), base)
		if err != nil {
			t.Fatal(err)
		}
		s.Write(say)
		if err := talk(c, 1000); err != nil {
			t.Error(err)
		}
		got, _ := io.ReadAll(s)
		if len(say) > 4 && say[2] == msgAttach && !strings.Contains(string(got), "another release") {
			t.Errorf("another version was told %q", got)
		}
		s.Close()
	}
	// One that attached and then breaks the rules.
	s, err := dialLocal(t.Context(), base)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	writeMessage(s, message{kind: msgAttach, stream: Version, n: fast, window: 5000, text: "x\x1b[2J"})
	if m, err := readMessage(s); err != nil || m.kind != msgWelcome {
		t.Fatalf("%+v, %v", m, err)
	}
	writeMessage(s, message{kind: msgListen, stream: 255})
	if _, err := io.ReadAll(s); err != nil {
		t.Log(err)
	}
	if err := talk(c, 1000); err != nil {
		t.Error(err)
	}
}

func TestOneDeviceManyNames(t *testing.T) {
	if runtime.GOOS == "windows" {
		for _, name := range []string{"com2", "COM2", "com2:", `\\.\com2`, `\\.\COM2`} {
			if rendezvous(name) != rendezvous("com2") {
				t.Errorf("%s is another line than com2", name)
			}
		}
		return
	}
	d := t.TempDir()
	tty := filepath.Join(d, "ttyS0")
	if err := os.WriteFile(tty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("ttyS0", filepath.Join(d, "usb-Vendor_Adapter-if00-port0")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{filepath.Join(d, "usb-Vendor_Adapter-if00-port0"), filepath.Join(d, ".", "x", "..", "ttyS0"), d + "//ttyS0"} {
		if rendezvous(name) != rendezvous(tty) {
			t.Errorf("%s is another line than %s", name, tty)
		}
	}
	if rendezvous(tty) == rendezvous(tty+"1") {
		t.Error("two devices are one line")
	}
}
