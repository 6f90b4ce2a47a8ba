package discovery

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// Locks on Windows keep others from reading the range too, so a byte far behind
// the content is what is locked.
const lockedHigh = 0x40000000 // high half of its offset

// lock takes the file for its owner unless somebody holds a lock on it.
func lock(f *os.File) (bool, error) { return lockFile(f, windows.LOCKFILE_EXCLUSIVE_LOCK) }

// unowned says that no owner holds the file. While f is open none can.
func unowned(f *os.File) (bool, error) { return lockFile(f, 0) }

// lockFolder has nothing to do: a file that somebody has taken again cannot be
// removed.
func lockFolder(*os.File) bool { return true }

func lockFile(f *os.File, how uint32) (bool, error) {
	at := windows.Overlapped{OffsetHigh: lockedHigh}
	err := windows.LockFileEx(windows.Handle(f.Fd()), how|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &at)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
		return false, nil
	}
	return err == nil, err
}

// discard closes the file and removes it. In this order: an open file cannot be
// removed. One that was taken again in between cannot either, nor one that
// somebody looks at, so its owner leaves nothing in it that could be read then.
func discard(f *os.File) {
	name := f.Name()
	f.Truncate(0)
	f.Close()
	os.Remove(name)
}

// isGoing says that a file could not be opened because somebody is just
// removing it.
func isGoing(err error) bool {
	return errors.Is(err, windows.ERROR_SHARING_VIOLATION) || errors.Is(err, windows.ERROR_ACCESS_DENIED) || errors.Is(err, windows.ERROR_DELETE_PENDING)
}
