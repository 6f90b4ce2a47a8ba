package local

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"
)

// pipe is named after the file; its name is not to be guessed, so that nobody
// can be there first.
func pipe(file string) string { return `\\.\pipe\openkd-status-` + filepath.Base(file) }

func listen(file string) (net.Listener, error) {
	user, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return nil, err
	}
	ln, err := winio.ListenPipe(pipe(file), &winio.PipeConfig{
		SecurityDescriptor: fmt.Sprintf("D:P(A;;GA;;;%s)", user.User.Sid), // nobody but this user
	})
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		ln.Close()
		return nil, err
	}
	return pipeListener{ln}, nil
}

// pipeListener ends with the error of every other listener.
type pipeListener struct{ net.Listener }

func (l pipeListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if errors.Is(err, winio.ErrPipeListenerClosed) {
		err = net.ErrClosed
	}
	return c, err
}

func dial(ctx context.Context, file string) (net.Conn, error) {
	return winio.DialPipeContext(ctx, pipe(file))
}

// gone says that a dial failed because nobody listens any more.
func gone(err error) bool { return errors.Is(err, os.ErrNotExist) }
