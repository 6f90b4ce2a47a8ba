package symbols

import (
	"context"
	"errors"
	"os"
	"time"
)

// errLocked says that another process, or another part of this one, has the lock.
var errLocked = errors.New("the lock is held")

// lockWait is how often a lock that is held is looked at.
const lockWait = 100 * time.Millisecond

// lock takes the lock at path and waits for it. Locks end with the process that
// holds them. Where the file system has none, held is false: the caller must
// then not share files with others.
func lock(ctx context.Context, path string, waiting func()) (release func(), held bool, err error) {
	first, removed := true, 0
	for {
		l, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
		if err != nil {
			return nil, false, err
		}
		err = tryLock(l)
		if err == nil {
			// Whoever had it may have removed the file in between.
			here, e1 := l.Stat()
			there, e2 := os.Stat(path)
			if e1 == nil && e2 == nil && os.SameFile(here, there) {
				return func() { unlock(l, path) }, true, nil
			}
			_ = l.Close()
			const odd = 100 // a file system that cannot tell files apart
			if removed++; removed == odd {
				return func() {}, false, nil
			}
			continue
		}
		_ = l.Close()
		if !errors.Is(err, errLocked) {
			return func() {}, false, nil
		}
		if first {
			waiting()
			first = false
		}
		t := time.NewTimer(lockWait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil, false, ctx.Err()
		}
	}
}
