//go:build !windows

package carrier

import "syscall"

const (
	errAddrInUse   = syscall.EADDRINUSE
	errNotAllowed  = syscall.EACCES
	errConnRefused = syscall.ECONNREFUSED
)
