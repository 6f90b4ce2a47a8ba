package carrier_test

import (
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"openkd/internal/captured"
	"openkd/transport/carrier"
)

const nobody = 65534

// asNobody runs f on a thread that has become another user, and ends the thread.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		// The call of the system counts for this thread only.
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, nobody, nobody, nobody)
		if errno != 0 {
			done <- errno
			return
		}
		f()
		done <- nil
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// Permissions that somebody has opened do not let another user in, nor do they
// let another user's server be taken for ours.
func TestPipeOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	dir := pipeDir(t)
	var log captured.Text
	l := listenPipe(t, "k", carrier.Options{Logger: textLog(&log)})
	echoes(t, l)
	try := func() (err error) {
		asNobody(t, func() {
			var c net.Conn
			if c, err = net.Dial("unix", filepath.Join(dir, "k.pipe")); err == nil {
				c.SetDeadline(time.Now().Add(10 * time.Second))
				_, err = c.Read(make([]byte, 1))
				c.Close()
			}
		})
		return err
	}
	if err := try(); !errors.Is(err, os.ErrPermission) {
		t.Errorf("through the directory: %v", err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := try(); !errors.Is(err, os.ErrPermission) {
		t.Errorf("through the socket: %v", err)
	}
	if err := os.Chmod(filepath.Join(dir, "k.pipe"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := try(); !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("through both: %v; the connection should be made and ended", err)
	}
	if !strings.Contains(log.String(), "uid 65534") {
		t.Errorf("the log has %q", log.String())
	}
	c, err := dialPipe(t.Context(), "localhost", "k")
	if err != nil {
		t.Fatal(err)
	}
	answers(t, c)
	c.Close()

	// Another user's server: with his directory, and in one that is ours.
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	var theirs net.Listener
	asNobody(t, func() { theirs, err = net.Listen("unix", filepath.Join(dir, "trap.pipe")) })
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	if _, err := dialPipe(t.Context(), "localhost", "trap"); err == nil || !strings.Contains(err.Error(), "can be written by others") {
		t.Errorf("a directory that everybody can write to: %v", err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := dialPipe(t.Context(), "localhost", "trap"); err == nil || !strings.Contains(err.Error(), "another user (uid 65534") {
		t.Errorf("another user's server: %v", err)
	}
}
