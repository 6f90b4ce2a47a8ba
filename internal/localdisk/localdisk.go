// Package localdisk tells whether a path lies on a disk of this machine. Secure
// Mode of the debugger asks it.
//
// It says what the system tells cheaply: names of other machines in paths of
// Windows, the type of a Windows drive, the kind of a file system on Linux, the
// flag MNT_LOCAL on macOS and FreeBSD. It is no lock: a link or a mount can
// change behind a check, by somebody who has an account on this machine.
//
// The forms of names follow Microsoft's page "Naming Files, Paths, and
// Namespaces", the numbers of file systems statfs(2) and the kernel's
// linux/magic.h.
package localdisk

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
)

// Error says why a path is not one of a local disk.
type Error struct {
	Path string
	Why  string
	// Device: it names a device or a pipe of this machine, as \\.\com2 does.
	Device bool
}

func (e *Error) Error() string { return fmt.Sprintf("%s %s", e.Path, e.Why) }

// Check says why a path is not on a disk of this machine; nil: it is, as far as
// the system tells. What is not there yet is judged by the folder where it
// would be. Errors are *Error. A path that names another machine is not touched.
func Check(path string) error {
	if err := Named(path); err != nil {
		return err
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return &Error{Path: path, Why: "is no path: " + err.Error()}
	}
	if err := Named(abs); err != nil { // the working folder may be a share
		return &Error{Path: path, Why: err.(*Error).Why}
	}
	if why := onDisk(nearest(abs)); why != "" {
		return &Error{Path: path, Why: why}
	}
	return nil
}

// Named says that a path names another machine or a device rather than a file
// here, whatever is there: \\host\share and its kin on Windows. Nothing is
// touched. Errors are *Error.
func Named(path string) error {
	if runtime.GOOS != "windows" {
		return nil // there is no such name
	}
	if why := named(path); why != "" {
		return &Error{Path: path, Why: why, Device: why == device}
	}
	return nil
}

// What a path of Windows names.
const (
	elsewhere = "is on another machine"
	device    = "names a device"
)

// named is Named for a path of Windows: "" for a file here.
func named(path string) string {
	p := strings.ReplaceAll(path, "/", `\`)
	switch {
	case strings.HasPrefix(p, `\\?\`), strings.HasPrefix(p, `\\.\`), strings.HasPrefix(p, `\??\`):
		rest := p[4:]
		drive := len(rest) >= 3 && rest[1] == ':' && rest[2] == '\\' && (rest[0]|0x20 >= 'a' && rest[0]|0x20 <= 'z')
		switch low := strings.ToLower(rest); {
		case drive, strings.HasPrefix(low, "volume{"):
			return ""
		case strings.HasPrefix(low, `unc\`):
			return elsewhere
		}
		return device
	case strings.HasPrefix(p, `\\`):
		return elsewhere
	}
	return ""
}

// nearest is the path, or the folder above it that is there.
func nearest(path string) string {
	for {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return path
		}
		up := filepath.Dir(path)
		if up == path {
			return path
		}
		path = up
	}
}
