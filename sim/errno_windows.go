package sim

import "golang.org/x/sys/windows"

// What sockets answer; syscall's names of Unix errors never match.
const (
	errAddrInUse    = windows.WSAEADDRINUSE
	errAddrNotAvail = windows.WSAEADDRNOTAVAIL
)
