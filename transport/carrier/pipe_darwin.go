package carrier

import (
	"os"

	"golang.org/x/sys/unix"
)

// credentials is who opened the other end of a socket (unix(4) of macOS,
// LOCAL_PEERCRED and LOCAL_PEERPID).
func credentials(fd int) (uid, pid int, err error) {
	c, err := unix.GetsockoptXucred(fd, unix.SOL_LOCAL, unix.LOCAL_PEERCRED)
	if err != nil {
		return 0, 0, err
	}
	pid, err = unix.GetsockoptInt(fd, unix.SOL_LOCAL, unix.LOCAL_PEERPID)
	return int(c.Uid), pid, err
}

// threadID is the process id: macOS gives no thread id without its C library.
func threadID() int { return os.Getpid() }
