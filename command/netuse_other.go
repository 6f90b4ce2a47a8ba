//go:build !windows

package command

import (
	"fmt"
	"runtime"
)

func (u *netUse) connect() error {
	return fmt.Errorf(".netuse connects Windows with a share, and this debugger runs on %s: mount %s there and name the folder", runtime.GOOS, u.remote)
}
