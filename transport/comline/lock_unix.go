//go:build !windows

package comline

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"openkd/connstr"
	"openkd/link/line"
)

// tryLock takes a lock that goes with its holder, however that ends. It returns
// nil when somebody has it. The file stays: who removed it could remove one
// that somebody else has just locked.
func tryLock(base string) (io.Closer, error) {
	f, err := os.OpenFile(base+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, &os.PathError{Op: "flock", Path: base + ".lock", Err: err}
	}
	return f, nil
}

func listenLocal(base string) (net.Listener, error) { return line.ListenPipe(base + ".sock") }

func dialLocal(ctx context.Context, base string) (io.ReadWriteCloser, error) {
	l, err := line.New(connstr.Link{Kind: connstr.LinkPipe, Port: base + ".sock"})
	if err != nil {
		return nil, err
	}
	return l.Open(ctx)
}

func deviceBusy(err error) bool { return errors.Is(err, syscall.EBUSY) }

// device is one name for all spellings of a device: what the symlinks of
// /dev/serial/by-id lead to, and of the two nodes that macOS has for each port
// the one that does not wait for a carrier.
func device(port string) string {
	if p, err := filepath.EvalSymlinks(port); err == nil {
		port = p
	}
	if p, err := filepath.Abs(port); err == nil {
		port = p
	}
	if rest, ok := strings.CutPrefix(port, "/dev/tty."); ok {
		port = "/dev/cu." + rest
	}
	return port
}
