//go:build unix

package symbols

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

func tryLock(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return errLocked
	}
	return err
}

// unlock removes the file first: who waits for it sees that and makes another.
func unlock(f *os.File, path string) {
	_ = os.Remove(path)
	_ = f.Close()
}

func diskFull(err error) bool { return errors.Is(err, unix.EDQUOT) }
