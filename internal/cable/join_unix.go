//go:build !windows

package cable

import (
	"io"
	"os"
	"sync"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/term"

	"openkd/link/fault"
)

// Join makes a cable with faults and returns the devices at its ends. It is cut
// when the test ends. The test is skipped where there are no ptys.
func Join(t testing.TB, cfg fault.Config) (here, there string) {
	t.Helper()
	var ends [2]*os.File
	var names [2]string
	for i := range ends {
		p, tty, err := pty.Open()
		if err != nil {
			t.Skip("no ptys here: ", err)
		}
		// The terminal stays open, or its other end would break between two users
		// of it; raw, since the programs come later than the first byte.
		t.Cleanup(func() { tty.Close() })
		if _, err := term.MakeRaw(int(tty.Fd())); err != nil {
			t.Fatal(err)
		}
		// pty leaves its files blocking; Close would not wake their readers.
		fd, err := syscall.Dup(int(p.Fd()))
		if err == nil {
			err = syscall.SetNonblock(fd, true)
		}
		if err != nil {
			t.Fatal(err)
		}
		p.Close()
		ends[i], names[i] = os.NewFile(uintptr(fd), "pty"), tty.Name()
	}
	var wg sync.WaitGroup
	bad := fault.New(ends[0], cfg)
	wg.Go(func() { io.Copy(ends[1], bad) })
	wg.Go(func() { io.Copy(bad, ends[1]) })
	t.Cleanup(func() { bad.Close(); ends[1].Close(); wg.Wait() })
	return names[0], names[1]
}
