//go:build !windows

package discovery

import (
	"errors"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// share lets other programs use the port too. The BSDs, macOS among them, want
// SO_REUSEPORT for that; on Linux it would split what is sent to one address
// among processes of one user, and SO_REUSEADDR is enough.
func share(_, _ string, c syscall.RawConn) error {
	var err error
	cerr := c.Control(func(fd uintptr) {
		err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		if err == nil && runtime.GOOS != "linux" {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		}
	})
	if cerr != nil {
		return cerr
	}
	return err
}

// isRefused says that the machine is there, but nobody on its port.
func isRefused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
