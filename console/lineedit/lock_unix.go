//go:build unix

package lineedit

import (
	"os"

	"golang.org/x/sys/unix"
)

// tryLock locks a file until it is closed.
func tryLock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }
