//go:build !windows

package cable

import (
	"io"
	"os"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"openkd/link/fault"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Bytes come out of the other end as they are, also those that terminals have
// a meaning for, and a user of an end may go and come again.
func TestJoin(t *testing.T) {
	here, there := Join(t, fault.Config{})
	for _, way := range [][2]string{{here, there}, {there, here}, {here, there}} {
		var ends [2]*os.File
		for i, name := range way {
			f, err := os.OpenFile(name, os.O_RDWR|syscall.O_NOCTTY, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			ends[i] = f
		}
		const text = "\x00\x03\x04\r\n\x11\x13\x1a\x7f\xff"
		if _, err := io.WriteString(ends[0], text); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(text))
		if _, err := io.ReadFull(ends[1], got); err != nil || string(got) != text {
			t.Errorf("%q came as %q, %v", text, got, err)
		}
	}
}
