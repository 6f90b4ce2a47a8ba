package command

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"
)

// netResource is NETRESOURCEW of winnetwk.h.
type netResource struct {
	scope, kind, displayType, usage    uint32
	local, remote, comment, providedBy *uint16
}

var addConnection = windows.NewLazySystemDLL("mpr.dll").NewProc("WNetAddConnection2W")

// connect makes the connection for the rest of this logon session; it is not
// remembered. It takes as long as the system does to find the machine.
func (u *netUse) connect() error {
	text := func(s string) *uint16 {
		if s == "" {
			return nil // the system's choice
		}
		p, _ := windows.UTF16PtrFromString(s) // it holds no zero
		return p
	}
	const disk, temporary = 1, 4 // RESOURCETYPE_DISK, CONNECT_TEMPORARY
	r := netResource{kind: disk, local: text(u.local), remote: text(u.remote)}
	if err := addConnection.Find(); err != nil {
		return fmt.Errorf("this system cannot connect with shares: %w", err)
	}
	code, _, _ := addConnection.Call(uintptr(unsafe.Pointer(&r)), uintptr(unsafe.Pointer(text(u.password))), uintptr(unsafe.Pointer(text(u.user))), temporary)
	if code != 0 {
		return fmt.Errorf("%s cannot be connected: %w (error %d)", u.remote, syscall.Errno(code), code)
	}
	return nil
}
