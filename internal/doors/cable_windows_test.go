package doors

import (
	"testing"

	"openkd/link/fault"
)

func cable(t testing.TB, _ fault.Config) (here, there string) {
	t.Helper()
	t.Skip("no ptys here")
	return "", ""
}
