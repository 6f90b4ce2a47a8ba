package rundir

import (
	"os"
	"path/filepath"
)

func systemPath() string { return "" }

func ownPath() string {
	d, err := os.UserCacheDir() // %LocalAppData%
	if err != nil {
		d = os.TempDir()
	}
	return filepath.Join(d, "OpenKD", "run")
}

// Private is true of what lies in a user's profile: its access list is the
// profile's.
func Private(string) error { return nil }
