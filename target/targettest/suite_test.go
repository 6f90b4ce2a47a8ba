package targettest_test

import (
	"testing"

	"go.uber.org/goleak"

	"openkd/target"
	"openkd/target/targettest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestFake(t *testing.T) {
	targettest.Run(t, func(t *testing.T, f *targettest.Fake) target.Target { return f })
}
