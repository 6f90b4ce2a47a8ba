package discovery

import (
	"errors"
	"syscall"

	"golang.org/x/sys/windows"
)

// share lets other programs use the port too, among them the system's own DNS
// client.
func share(_, _ string, c syscall.RawConn) error {
	var err error
	cerr := c.Control(func(fd uintptr) {
		err = windows.SetsockoptInt(windows.Handle(fd), windows.SOL_SOCKET, windows.SO_REUSEADDR, 1)
	})
	if cerr != nil {
		return cerr
	}
	return err
}

// isRefused says that the machine is there, but nobody on its port.
func isRefused(err error) bool {
	return errors.Is(err, windows.WSAECONNRESET) || errors.Is(err, windows.WSAECONNREFUSED)
}
