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

// A device that somebody else has open, too, can be opened again when it was
// closed here: by root always, by others only if it is not exclusive any more.
func TestSerialIsGivenBack(t *testing.T) {
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
	exclusive := func() bool {
		n, err := unix.IoctlGetInt(int(slave.Fd()), unix.TIOCGEXCL)
		if err != nil {
			t.Fatal(err)
		}
		return n != 0
	}
	if !exclusive() {
		t.Error("it is not exclusive while it is in use")
	}
	a.Close()
	if exclusive() {
		t.Error("it stays exclusive")
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
