//go:build !windows

package transport

import "syscall"

const (
	errAddrInUse   = syscall.EADDRINUSE
	errNotAllowed  = syscall.EACCES
	errConnRefused = syscall.ECONNREFUSED
)
