//go:build !windows

package line

import (
	"context"
	"net"
	"os"
	"time"
)

func dialPipe(ctx context.Context, path string) (net.Conn, error) {
	if isWindowsPipe(path) {
		return nil, errWindowsName
	}
	return (&net.Dialer{}).DialContext(ctx, "unix", path)
}

// ListenPipe makes a Unix socket that only the owner may use. A socket left
// over by a dead process is replaced; one that somebody listens on is not.
func ListenPipe(path string) (net.Listener, error) {
	if isWindowsPipe(path) {
		return nil, errWindowsName
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		st, serr := os.Lstat(path)
		if serr != nil || st.Mode()&os.ModeSocket == 0 {
			return nil, err
		}
		if c, derr := net.DialTimeout("unix", path, time.Second); derr == nil {
			c.Close()
			return nil, err
		}
		if os.Remove(path) != nil {
			return nil, err
		}
		if ln, err = net.Listen("unix", path); err != nil {
			return nil, err
		}
	}
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}
