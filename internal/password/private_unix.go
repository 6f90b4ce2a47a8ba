//go:build !windows

package password

import (
	"fmt"
	"io/fs"
	"syscall"
)

const nonblock = syscall.O_NONBLOCK

// private refuses what others can read: then it is no secret.
func private(fi fs.FileInfo, file string) error {
	if p := fi.Mode().Perm(); p&0o077 != 0 {
		return fmt.Errorf("is open to other users of this machine (%v); type: chmod 600 %s", p, file)
	}
	return nil
}
