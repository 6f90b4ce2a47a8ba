package carrier

import "golang.org/x/sys/unix"

// credentials is who opened the other end of a socket (unix(7), SO_PEERCRED).
func credentials(fd int) (uid, pid int, err error) {
	c, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, 0, err
	}
	return int(c.Uid), int(c.Pid), nil
}

func threadID() int { return unix.Gettid() }
