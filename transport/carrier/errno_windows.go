package carrier

import "golang.org/x/sys/windows"

const (
	errAddrInUse   = windows.WSAEADDRINUSE
	errNotAllowed  = windows.WSAEACCES
	errConnRefused = windows.WSAECONNREFUSED
)
