//go:build !windows

package kdnet

import "syscall"

const errInUse = syscall.EADDRINUSE

// exclusive does nothing: elsewhere a port is shared only by those who ask to.
func exclusive(_, _ string, _ syscall.RawConn) error { return nil }
