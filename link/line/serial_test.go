//go:build linux

package line

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

func TestPTY(t *testing.T) {
	master, slave, err := pty.Open()
	if err != nil {
		t.Skip("no ptys here: ", err)
	}
	defer master.Close()
	path := slave.Name()
	a, err := open(t, "com:port="+path+",baud=12345")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, "com:port="+path); err == nil || !strings.Contains(err.Error(), "in use, held by") {
		t.Errorf("opened twice: %v", err)
	}
	slave.Close()
	echo(t, a, struct {
		io.ReadWriter
		io.Closer
	}{master, io.NopCloser(nil)})
}

// A pty has no mark of exclusive use: it would outlive a program that is killed,
// as long as the machine at the other end runs.
func TestPTYAfterAKill(t *testing.T) {
	master, slave, err := pty.Open()
	if err != nil {
		t.Skip("no ptys here: ", err)
	}
	defer master.Close()
	defer slave.Close()
	a, err := open(t, "com:port="+slave.Name())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	n, err := unix.IoctlGetInt(int(slave.Fd()), unix.TIOCGEXCL)
	if err != nil {
		t.Fatal(err)
	}
	if n != 0 {
		t.Error("only root could open it after a kill")
	}
}

func TestWrongEndOfPTY(t *testing.T) {
	master, slave, err := pty.Open()
	if err != nil {
		t.Skip("no ptys here: ", err)
	}
	path := slave.Name()
	slave.Close()
	master.Close()
	if _, err := os.Stat(path); err == nil {
		t.Skip("the pty stays")
	}
	if _, err := open(t, "com:port="+path); err == nil {
		t.Error("a pty that is gone was opened")
	}
}
