//go:build !windows

package password

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A shell's <(command) is a pipe; one that nobody writes to must not hang.
func TestPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	w.WriteString("secret\n")
	w.Close()
	if name := fmt.Sprint("/dev/fd/", r.Fd()); exists(name) {
		if got, err := Find(name, os.Getenv); got != "secret" || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Skip("no named pipes here:", err)
	}
	if _, err := Find(fifo, os.Getenv); err == nil || !strings.Contains(err.Error(), "empty") {
		t.Errorf("a pipe without a writer: %v", err)
	}
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}
