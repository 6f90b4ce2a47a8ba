package localdisk

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

const mounts = `22 27 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw
27 1 259:1 / / rw,relatime shared:1 - ext4 /dev/root rw
90 27 0:53 / /home/a/far rw,nosuid shared:50 - fuse.sshfs box:/srv rw
91 27 8:17 / /mnt/stick rw shared:51 - fuseblk /dev/sdb1 rw
92 27 0:54 / /merged rw - fuse.fuse-overlayfs fuse-overlayfs rw
93 27 0:55 / /host rw - virtiofs tag rw
94 27 0:56
`

func TestFuse(t *testing.T) {
	for device, want := range map[string]string{"0:53": "fuse.sshfs", "8:17": "", "0:54": "", "0:55": "virtiofs", "0:56": "fuse", "9:9": "fuse"} {
		if got := fuseIn(strings.NewReader(mounts), device); got != want {
			t.Errorf("%s: %q, want %q", device, got, want)
		}
	}
}

// TestKinds: the table has the numbers of the system's own headers.
func TestKinds(t *testing.T) {
	for n, want := range map[int64]string{
		unix.NFS_SUPER_MAGIC: "nfs", unix.CIFS_SUPER_MAGIC: "cifs", unix.SMB2_SUPER_MAGIC: "smb3", unix.SMB_SUPER_MAGIC: "smbfs",
		unix.V9FS_MAGIC: "9p", unix.AFS_FS_MAGIC: "afs", unix.AFS_SUPER_MAGIC: "afs", unix.CEPH_SUPER_MAGIC: "ceph",
		unix.CODA_SUPER_MAGIC: "coda", unix.NCP_SUPER_MAGIC: "ncpfs", unix.OCFS2_SUPER_MAGIC: "ocfs2", unix.AUTOFS_SUPER_MAGIC: "autofs",
		unix.EXT4_SUPER_MAGIC: "", unix.TMPFS_MAGIC: "", unix.BTRFS_SUPER_MAGIC: "", unix.XFS_SUPER_MAGIC: "", unix.OVERLAYFS_SUPER_MAGIC: "",
	} {
		if got := remoteKinds[uint32(n)]; got != want {
			t.Errorf("%x: %q, want %q", n, got, want)
		}
	}
	if unix.FUSE_SUPER_MAGIC != fuse {
		t.Error("FUSE has another number")
	}
}
