//go:build darwin || freebsd

package localdisk

import (
	"fmt"

	"golang.org/x/sys/unix"
)

func onDisk(path string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return fmt.Sprintf("is on an unknown file system (%v)", err)
	}
	if uint64(st.Flags)&unix.MNT_LOCAL == 0 {
		return "is on no disk of this machine (" + unix.ByteSliceToString(st.Fstypename[:]) + ")"
	}
	return ""
}
