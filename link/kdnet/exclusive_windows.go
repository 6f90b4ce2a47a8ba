package kdnet

import "syscall"

// errInUse is WSAEADDRINUSE.
const errInUse = syscall.Errno(10048)

// soExclusiveAddrUse is SO_EXCLUSIVEADDRUSE, which keeps others from sharing
// the port with SO_REUSEADDR.
const soExclusiveAddrUse = ^4

func exclusive(_, _ string, c syscall.RawConn) error {
	var err error
	if e := c.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(syscall.Handle(fd), syscall.SOL_SOCKET, soExclusiveAddrUse, 1)
	}); e != nil {
		return e
	}
	return err
}
