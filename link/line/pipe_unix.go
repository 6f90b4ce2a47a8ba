//go:build !windows

package line

import (
	"context"
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

func dialPipe(ctx context.Context, path string) (net.Conn, error) {
	if isWindowsPipe(path) {
		return nil, errWindowsName
	}
	return (&net.Dialer{}).DialContext(ctx, "unix", path)
}

// ListenPipe makes a Unix socket that only the owner may use. A socket left
// over by a dead process is replaced; one that somebody listens on is not.
func ListenPipe(path string) (net.Listener, error) {
	if isWindowsPipe(path) {
		return nil, errWindowsName
	}
	ln, err := listenUnix(path)
	if err != nil {
		st, serr := os.Lstat(path)
		if serr != nil || st.Mode()&os.ModeSocket == 0 {
			return nil, err
		}
		c, derr := net.DialTimeout("unix", path, time.Second)
		if derr == nil {
			c.Close()
			return nil, err
		}
		// Only a refusal says that nobody is there: a full queue, or a socket of
		// somebody else, does not.
		if !errors.Is(derr, syscall.ECONNREFUSED) {
			return nil, err
		}
		if os.Remove(path) != nil {
			return nil, err
		}
		if ln, err = listenUnix(path); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// listenUnix listens at a socket that is made with mode 0600 where the system
// takes the mode of the descriptor for that (Linux), so that nobody connects
// before the chmod that follows.
func listenUnix(path string) (net.Listener, error) {
	c := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) { syscall.Fchmod(int(fd), 0o600) }) // fails on other systems
	}}
	return c.Listen(context.Background(), "unix", path)
}
