package cable

import (
	"testing"

	"openkd/link/fault"
)

// Join skips the test: Windows has no ptys that are serial ports.
func Join(t testing.TB, _ fault.Config) (here, there string) {
	t.Helper()
	t.Skip("no ptys here")
	return "", ""
}
