package localdisk

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// TestNamed: what a path of Windows names, on every system.
func TestNamed(t *testing.T) {
	const there = elsewhere
	for path, want := range map[string]string{
		`C:\x`: "", `c:/x`: "", `x`: "", `..\x`: "", `\x`: "", `/x`: "", `C:x`: "", "": "",
		`\\host\share`: there, `//host/share`: there, `\/host\share`: there, `/\host/share`: there, `\\host`: there, `\\`: there,
		`\\?\UNC\host\share`: there, `//?/unc/host/share`: there, `\\.\UNC\host\share`: there, `\??\UNC\host\share`: there,
		`\\?\C:\x`: "", `\\.\c:\x`: "", `//?/C:/x`: "", `\??\C:\x`: "", `\\?\Volume{0}\x`: "",
		`\\.\pipe\x`: device, `\\.\PhysicalDrive0`: device, `\\?\GLOBALROOT\Device\Mup\host\share`: device, `\\?\`: device,
		`\\.\C:`: device, `\\?\1:\x`: device,
	} {
		if got := named(path); got != want {
			t.Errorf("%s: %q, want %q", path, got, want)
		}
	}
	if err := Named(`\\host\share`); (err != nil) != (runtime.GOOS == "windows") {
		t.Error(err)
	}
}

func TestCheck(t *testing.T) {
	dir := t.TempDir()
	if why := onDisk(dir); why != "" {
		t.Skip("the folder for tests ", why)
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"", "file", "none", filepath.Join("none", "deeper", "x")} {
		if err := Check(filepath.Join(dir, p)); err != nil {
			t.Error(err)
		}
	}
	if runtime.GOOS == "windows" {
		var e *Error
		if err := Check(`\\192.0.2.1\share`); !errors.As(err, &e) {
			t.Error(err)
		}
	}
}
