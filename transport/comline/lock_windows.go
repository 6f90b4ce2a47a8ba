package comline

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"strings"

	"golang.org/x/sys/windows"

	"openkd/connstr"
	"openkd/link/line"
)

// tryLock takes a lock that goes with its holder, however that ends. It returns
// nil when somebody has it.
func tryLock(base string) (io.Closer, error) {
	path := base + ".lock"
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	h, err := windows.CreateFile(name, windows.GENERIC_READ|windows.GENERIC_WRITE, 0, nil, windows.OPEN_ALWAYS, windows.FILE_ATTRIBUTE_NORMAL, 0)
	if errors.Is(err, windows.ERROR_SHARING_VIOLATION) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "lock", Path: path, Err: err}
	}
	return os.NewFile(uintptr(h), path), nil
}

// listenLocal makes a pipe for its owner and administrators. Its name is not to
// be guessed, so that nobody else can have made a pipe of that name before; it
// is told in a file that only the owner can write.
func listenLocal(base string) (net.Listener, error) {
	name := `\\.\pipe\openkd-com-` + rand.Text()
	ln, err := line.ListenPipe(name)
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(base+".pipe", []byte(name), 0o600); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

func dialLocal(ctx context.Context, base string) (io.ReadWriteCloser, error) {
	name, err := os.ReadFile(base + ".pipe")
	if err != nil {
		return nil, err
	}
	l, err := line.New(connstr.Link{Kind: connstr.LinkPipe, Port: string(name)})
	if err != nil {
		return nil, err
	}
	return l.Open(ctx)
}

func deviceBusy(err error) bool {
	return errors.Is(err, windows.ERROR_ACCESS_DENIED) || errors.Is(err, windows.ERROR_SHARING_VIOLATION)
}

// device is one name for all spellings of a device: com2, COM2:, \\.\com2.
func device(port string) string {
	port = strings.ToLower(port)
	port = strings.TrimPrefix(port, `\\.\`)
	return strings.TrimSuffix(port, ":")
}
