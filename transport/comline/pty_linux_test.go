package comline

import (
	"bufio"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
)

// ptys are two serial ports with a cable between them, as far as a program can
// tell: what goes into one device comes out of the other. What is sent while
// nobody has the other device open is lost, as on a cable.
func ptys(t testing.TB, wrap func(io.ReadWriteCloser) io.ReadWriteCloser) (a, b string) {
	var names [2]string
	var masters [2]io.ReadWriteCloser
	for i := range masters {
		m, s, err := pty.Open()
		if err != nil {
			t.Skip("no ptys here: ", err)
		}
		names[i] = s.Name()
		s.Close()
		masters[i] = hup{m}
		if wrap != nil {
			masters[i] = wrap(masters[i])
		}
	}
	var wg sync.WaitGroup
	for i := range masters {
		wg.Go(func() { io.Copy(masters[1-i], masters[i]) })
	}
	t.Cleanup(func() {
		masters[0].Close()
		masters[1].Close()
		wg.Wait()
	})
	return names[0], names[1]
}

// hup is the master of a pty whose other side may be closed for a while, which
// reads tell by EIO.
type hup struct{ io.ReadWriteCloser }

func (h hup) Read(b []byte) (int, error) {
	for {
		n, err := h.ReadWriteCloser.Read(b)
		if !errors.Is(err, syscall.EIO) {
			return n, err
		}
		time.Sleep(time.Millisecond)
	}
}

func PTYEnds(t testing.TB, wrap func(io.ReadWriteCloser) io.ReadWriteCloser) (a, b Config) {
	x, y := ptys(t, wrap)
	d := dir(t)
	return Config{Port: x, Baud: ptyBaud, Dir: d}, Config{Port: y, Baud: ptyBaud, Dir: d}
}

type program struct {
	*exec.Cmd
	in io.WriteCloser
}

// start starts a program that listens on a channel and echoes.
func start(t *testing.T, cfg Config, channel int) *program {
	t.Helper()
	p := &program{Cmd: exec.Command(os.Args[0], cfg.Port, cfg.Dir, strconv.Itoa(channel))}
	p.Env = append(os.Environ(), helperEnv+"=1", "GORACE=atexit_sleep_ms=0")
	p.Stderr = os.Stderr
	var err error
	if p.in, err = p.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Process.Kill()
		p.Wait()
	})
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the program says %q", line)
	}
	return p
}

// TestTakeOver: of two programs that share a port, the one that has the device
// is killed. The other one takes the device over, and is there for a third.
func TestTakeOver(t *testing.T) {
	near, far := PTYEnds(t, nil)
	one := start(t, far, 1)
	start(t, far, 2)
	var ls Lines
	c1, c2 := again(t, &ls, near, 1), again(t, &ls, near, 2)
	one.Process.Kill()
	one.Wait()
	for _, c := range []io.ReadCloser{c1, c2} {
		if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("a stream over a program that was killed: %v", err)
		}
		c.Close()
	}
	again(t, &ls, near, 2).Close()
	three := start(t, far, 1)
	again(t, &ls, near, 1).Close()

	// Who only joined goes without anybody noticing.
	c2 = again(t, &ls, near, 2)
	three.Process.Kill()
	three.Wait()
	if err := talk(c2, 10_000); err != nil {
		t.Error(err)
	}
	c2.Close()
}

// TestProgramsCome: many programs at once; one of them has the device.
func TestProgramsCome(t *testing.T) {
	near, far := PTYEnds(t, nil)
	var wg sync.WaitGroup
	var mu sync.Mutex
	var programs []*program
	for i := range 6 {
		wg.Go(func() {
			p := start(t, far, i)
			mu.Lock()
			defer mu.Unlock()
			programs = append(programs, p)
		})
	}
	wg.Wait()
	var ls Lines
	keep := serve(t, &ls, near, 100)
	for i := range 6 {
		again(t, &ls, near, i).Close()
	}
	for _, p := range programs {
		p.in.Close()
		if err := p.Wait(); err != nil {
			t.Errorf("a program that was told to end: %v", err)
		}
	}
	for {
		if st, ok := keep.Stats(); ok && st.Streams == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond) // the last farewell is still on its way
	}
}

// TestSymlink: a link to the device is the device.
func TestSymlink(t *testing.T) {
	near, far := PTYEnds(t, nil)
	var one, two, ls Lines
	serve(t, &one, far, 1)
	link := filepath.Join(far.Dir, "usb-Adapter-port0")
	if err := os.Symlink(far.Port, link); err != nil {
		t.Fatal(err)
	}
	far.Port = link
	serve(t, &two, far, 2)
	keep := serve(t, &ls, near, 1)
	again(t, &ls, near, 1).Close()
	again(t, &ls, near, 2).Close()
	keep.Close()
}

// TestForeignProgram: a device that a program of another kind has open is told
// in the words of package line.
func TestForeignProgram(t *testing.T) {
	near, _ := PTYEnds(t, nil)
	f, err := os.OpenFile(near.Port, os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	_, err = Listen(context.Background(), near, 1)
	if err == nil || !errors.Is(err, syscall.EBUSY) {
		t.Errorf("a device in use: %v", err)
	}
	t.Log(err)
}
