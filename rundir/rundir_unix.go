//go:build !windows

package rundir

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"
)

func systemPath() string {
	if runtime.GOOS == "darwin" {
		return "/var/run/openkd"
	}
	return "/run/openkd"
}

func ownPath() string {
	if os.Geteuid() == 0 {
		return systemPath()
	}
	if d := os.Getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(d) {
		return filepath.Join(d, "openkd")
	}
	return filepath.Join(os.TempDir(), "openkd-"+strconv.Itoa(os.Geteuid()))
}

// Private says whether a directory is real, this user's or the
// administrator's, and closed to everybody else's writing.
func Private(dir string) error {
	fi, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	switch {
	case !fi.IsDir():
		return fmt.Errorf("%s is not a directory", dir)
	case ok && int(st.Uid) != os.Geteuid() && st.Uid != 0:
		return fmt.Errorf("%s belongs to another user (uid %d)", dir, st.Uid)
	case fi.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("%s can be written by others (%v)", dir, fi.Mode().Perm())
	}
	return nil
}
