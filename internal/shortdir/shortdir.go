// Package shortdir gives tests a folder whose path is short and without blanks,
// wherever the system's temporary folder is: sockets lie in it, whose paths are
// limited to about 100 bytes, and lines that are split at blanks name it. It is
// for tests only.
package shortdir

import (
	"os"
	"runtime"
	"strings"
	"testing"
)

// longest path of a Base that leaves room for the names of folders and sockets.
const longest = 30

// New makes such a folder, which is removed when the test ends.
func New(t testing.TB) string {
	t.Helper()
	dir, err := Make()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// Make is New where there is no test. Who calls it removes the folder.
func Make() (string, error) { return os.MkdirTemp(Base(), "kd") }

// Base is where the folders are made: the system's temporary folder, or /tmp if
// that has a long name or one with blanks.
func Base() string {
	if dir := os.TempDir(); fits(dir) || runtime.GOOS == "windows" {
		return dir // Windows has no second place
	}
	return "/tmp"
}

func fits(dir string) bool { return len(dir) <= longest && !strings.Contains(dir, " ") }
