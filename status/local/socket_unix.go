//go:build !windows

package local

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"syscall"
)

// listen makes the socket under another name first: one that is there and
// refuses would be taken for a dead server's.
func listen(file string) (net.Listener, error) {
	early := filepath.Join(filepath.Dir(file), "."+filepath.Base(file))
	ln, err := net.Listen("unix", early)
	if err != nil {
		return nil, err
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	err = os.Chmod(early, 0o600)
	if err == nil {
		err = os.Rename(early, file)
	}
	if err != nil {
		ln.Close()
		os.Remove(early)
		return nil, err
	}
	return ln, nil
}

func dial(ctx context.Context, file string) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "unix", file)
}

// gone says that a dial failed because nobody listens any more.
func gone(err error) bool {
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, os.ErrNotExist)
}
