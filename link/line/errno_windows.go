package line

import "golang.org/x/sys/windows"

// What sockets answer; syscall's names of Unix errors never match.
const (
	errConnRefused = windows.WSAECONNREFUSED
	errAddrInUse   = windows.WSAEADDRINUSE
	errHostUnreach = windows.WSAEHOSTUNREACH
	errNetUnreach  = windows.WSAENETUNREACH
)
