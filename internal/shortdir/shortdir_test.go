package shortdir

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestNew(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the system's temporary folder is the only one")
	}
	for _, name := range []string{"", "with a blank", strings.Repeat("long", 30)} {
		system := filepath.Join(t.TempDir(), name)
		if err := os.MkdirAll(system, 0o700); err != nil {
			t.Fatal(err)
		}
		t.Setenv("TMPDIR", system)
		var dir string
		t.Run("use", func(t *testing.T) {
			dir = New(t)
			if len(dir) > longest+14 || strings.Contains(dir, " ") {
				t.Errorf("in %s it is %s", system, dir)
			}
			if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); err != nil {
				t.Error(err)
			}
		})
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", dir, err)
		}
	}
}
