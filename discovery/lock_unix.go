//go:build !windows

package discovery

import (
	"errors"
	"os"
	"syscall"
)

// Locks are those of flock(2): they belong to the open file, end with the
// process, and are not passed to children, since Go opens with O_CLOEXEC.

// lock takes the file for its owner unless somebody holds a lock on it.
func lock(f *os.File) (bool, error) { return flock(f, syscall.LOCK_EX) }

// unowned says that no owner holds the file. While f is open none can.
func unowned(f *os.File) (bool, error) { return flock(f, syscall.LOCK_SH) }

// lockFolder makes this the only process that removes dead files, until the
// folder is closed.
func lockFolder(d *os.File) bool {
	free, err := flock(d, syscall.LOCK_EX)
	return free && err == nil
}

func flock(f *os.File, how int) (bool, error) {
	c, err := f.SyscallConn()
	if err != nil {
		return false, err
	}
	var lockErr error
	err = c.Control(func(fd uintptr) {
		for {
			if lockErr = syscall.Flock(int(fd), how|syscall.LOCK_NB); lockErr != syscall.EINTR {
				return
			}
		}
	})
	switch {
	case err != nil:
		return false, err
	case errors.Is(lockErr, syscall.EWOULDBLOCK):
		return false, nil
	}
	return lockErr == nil, lockErr
}

// discard removes the file and closes it. In this order: behind an unlocked
// file another one of this name could have come up.
func discard(f *os.File) {
	os.Remove(f.Name())
	f.Close()
}

// isGoing is for systems where removing a file gets into the way of opening it.
func isGoing(error) bool { return false }
