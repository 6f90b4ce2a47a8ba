//go:build !windows

package certs

import (
	"fmt"
	"io/fs"
	"runtime"
	"syscall"
)

func machineDir() string {
	if runtime.GOOS == "darwin" {
		return "/Library/Application Support/openkd/certs"
	}
	return "/etc/openkd/certs"
}

func systemStore(bool) []place { return nil }

// notForAll refuses what every user may write: a certificate that anybody could
// have put there says nothing about a server.
func notForAll(path string, fi fs.FileInfo) error {
	if fi.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf("%s can be written by everybody (%v): chmod o-w '%s'", path, fi.Mode().Perm(), path)
	}
	return nil
}

// private refuses a file with a private key that others can read. The group may
// read one that belongs to root, as it is usual for the keys of services.
func private(path string, fi fs.FileInfo) error {
	others := fs.FileMode(0o077)
	if st, ok := fi.Sys().(*syscall.Stat_t); ok && st.Uid == 0 {
		others = 0o037
	}
	if fi.Mode().Perm()&others != 0 {
		return fmt.Errorf("the private key in %s can be read by others (%v): chmod 600 '%s'", path, fi.Mode().Perm(), path)
	}
	return nil
}
