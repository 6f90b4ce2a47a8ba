package localdisk

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// remoteKinds are file systems whose files are on other machines, or on the one
// that this machine is a guest of.
var remoteKinds = map[uint32]string{
	0x6969:     "nfs",
	0xFF534D42: "cifs",
	0xFE534D42: "smb3",
	0x517B:     "smbfs",
	0x01021997: "9p",
	0x5346414F: "afs",
	0x6B414653: "afs",
	0x00C36400: "ceph",
	0x73757245: "coda",
	0x564C:     "ncpfs",
	0x0BD00BD0: "lustre",
	0x47504653: "gpfs",
	0x19830326: "beegfs",
	0x20030528: "orangefs",
	0xAAD7AAEA: "panfs",
	0x7461636F: "ocfs2",
	0x01161970: "gfs2",
	0x786F4256: "vboxsf",
	0xBACBACBC: "vmhgfs",
	0x0187:     "autofs", // nobody knows yet what will be there
}

const fuse = 0x65735546

func onDisk(path string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return fmt.Sprintf("is on an unknown file system (%v)", err)
	}
	kind := remoteKinds[uint32(st.Type)]
	if uint32(st.Type) == fuse {
		kind = fuseKind(path)
	}
	if kind == "" {
		return ""
	}
	return "is on no disk of this machine (" + kind + ")"
}

// fuseKind is the kind of a file system that a program serves, "" for a local
// one: the kernel tells them apart only in the list of mounts.
func fuseKind(path string) string {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "fuse"
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "fuse"
	}
	defer f.Close()
	return fuseIn(f, fmt.Sprintf("%d:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev))))
}

// fuseIn finds the kind of a device ("0:53") in the list of mounts.
func fuseIn(mounts io.Reader, device string) string {
	in := bufio.NewScanner(mounts)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		// 36 35 98:0 /root /mount options - kind source options
		front, back, ok := strings.Cut(in.Text(), " - ")
		f := strings.Fields(front)
		if !ok || len(f) < 5 || f[2] != device {
			continue
		}
		kind, _, _ := strings.Cut(back, " ")
		switch kind {
		case "fuseblk", "fuse.fuse-overlayfs": // a disk, and the folders of a container
			return ""
		}
		return kind
	}
	return "fuse"
}
