//go:build !windows

package carrier

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"openkd/connstr"
	"openkd/rundir"
)

// A pipe <name> is the Unix socket <name>.pipe in the run directory. Beside it
// lies <name>.pipe.lock, which the server holds locked (flock) as long as it
// lives: who has the lock has the name, and a socket that lies there then was
// left behind by a server that died. The system drops the lock with the process.
const (
	pipeSuffix = ".pipe"
	lockSuffix = ".lock"
)

type pipeListener struct {
	*net.UnixListener
	t     connstr.Transport
	path  string
	lock  *os.File
	o     Options
	close sync.Once
	err   error // of Close
}

func makePipe(ctx context.Context, t connstr.Transport, o Options) (_ Listener, err error) {
	if len(o.PipeUsers) > 0 {
		o.Logger.Warn("users of a pipe can be named on Windows only; here its owner and root may use it", "pipe", t.Pipe)
	}
	dir, err := rundir.Make()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", t.Proto, err)
	}
	path, err := pipePath(dir, t)
	if err != nil {
		return nil, err
	}
	lock, holder, err := lockName(path + lockSuffix)
	if errors.Is(err, errLocked) {
		return nil, pipeInUse(t, holder)
	} else if err != nil {
		return nil, fmt.Errorf("%s: the pipe name %s cannot be taken: %w", t.Proto, t.Pipe, err)
	}
	defer func() {
		if err != nil {
			unlockName(lock)
		}
	}()
	if err := removeStale(ctx, path); errors.Is(err, errLocked) {
		return nil, pipeInUse(t, "")
	} else if err != nil {
		return nil, fmt.Errorf("%s: the pipe %s cannot be made: %w", t.Proto, t.Pipe, err)
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("%s: the pipe %s cannot be made: %w", t.Proto, t.Pipe, err)
	}
	ln.SetUnlinkOnClose(false) // Close does it, and in order
	// Who came before this is refused by Accept if he is not allowed.
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		os.Remove(path)
		return nil, fmt.Errorf("%s: the pipe %s cannot be closed to others: %w", t.Proto, t.Pipe, err)
	}
	return &pipeListener{UnixListener: ln, t: t, path: path, lock: lock, o: o}, nil
}

func (l *pipeListener) Transport() connstr.Transport { return l.t }
func (l *pipeListener) Addr() net.Addr               { return pipeAddr(l.path) }

// Accept hands out streams of the owner and of root. Others cannot get through
// the permissions of the directory, unless somebody has changed them.
func (l *pipeListener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		who, err := trusted(c)
		if err == nil {
			return &pipeConn{UnixConn: c, local: pipeAddr(l.path), remote: who}, nil
		}
		l.o.Logger.Warn("a connection to the pipe was refused", "pipe", l.t.Pipe, "error", err)
		c.Close()
	}
}

// Close gives the name back. Nobody can take it between the two removals.
func (l *pipeListener) Close() error {
	l.close.Do(func() {
		os.Remove(l.path)
		l.err = l.UnixListener.Close()
		unlockName(l.lock)
	})
	return l.err
}

// pipeConn is a stream of a Unix socket that says who is at its other end.
type pipeConn struct {
	*net.UnixConn
	local, remote pipeAddr
}

func (c *pipeConn) LocalAddr() net.Addr  { return c.local }
func (c *pipeConn) RemoteAddr() net.Addr { return c.remote }

// trusted says who is at the other end of a socket, and an error if it is
// another user than this one and not root either.
func trusted(c *net.UnixConn) (pipeAddr, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return "", err
	}
	var uid, pid int
	var credErr error
	if err := raw.Control(func(fd uintptr) { uid, pid, credErr = credentials(int(fd)) }); err != nil {
		return "", err
	}
	if credErr != nil {
		return "", fmt.Errorf("the system does not say who is at the other end: %w", credErr)
	}
	if uid != 0 && uid != os.Geteuid() {
		return "", fmt.Errorf("the other end belongs to another user (uid %d, pid %d); only uid %d and root are trusted", uid, pid, os.Geteuid())
	}
	return pipeAddr(fmt.Sprintf("uid %d pid %d", uid, pid)), nil
}

// pipePath is where the socket of a pipe lies.
func pipePath(dir string, t connstr.Transport) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("%s: the run directory %s: %w", t.Proto, dir, err)
	}
	path := filepath.Join(dir, t.Pipe+pipeSuffix)
	const room = len(unix.RawSockaddrUnix{}.Path) - 1
	if len(path) > room {
		return "", fmt.Errorf("%s: the name of the socket %s has %d bytes, %d is the most that the system takes: choose a shorter pipe name, or name a directory with a shorter path in %s, for server and client alike",
			t.Proto, path, len(path), room, rundir.Env)
	}
	return path, nil
}

var errLocked = errors.New("locked")

// lockName takes the lock at path. errLocked: somebody has it, and holder tells
// who if it is known.
func lockName(path string) (f *os.File, holder string, err error) {
	for {
		// Never through a link: what it points to would be made or written to.
		f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
		if errors.Is(err, unix.ELOOP) {
			return nil, "", fmt.Errorf("%s is a symbolic link that no server of this program has made; remove it", path)
		} else if err != nil {
			return nil, "", err
		}
		opened, err := f.Stat()
		if err == nil && !opened.Mode().IsRegular() {
			err = fmt.Errorf("no file (%v); remove it", opened.Mode().Type())
		}
		if err == nil {
			err = os.NewSyscallError("flock", unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB))
		}
		if errors.Is(err, unix.EWOULDBLOCK) {
			b := make([]byte, 20)
			n, _ := f.ReadAt(b, 0)
			if pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n]))); err == nil {
				holder = fmt.Sprintf(" (process %d)", pid)
			}
			f.Close()
			return nil, holder, errLocked
		}
		if err != nil {
			f.Close()
			return nil, "", fmt.Errorf("%s: %w", path, err)
		}
		// A server that ended between our opening and our locking has removed the
		// file; then this lock is of no use.
		there, err := os.Lstat(path)
		if err != nil || !os.SameFile(there, opened) {
			f.Close()
			continue
		}
		// Only for the message of whoever finds the name taken.
		f.Truncate(0)
		f.WriteAt(strconv.AppendInt(nil, int64(os.Getpid()), 10), 0)
		return f, "", nil
	}
}

func unlockName(f *os.File) {
	os.Remove(f.Name()) // before it is unlocked: afterwards it may be another's
	f.Close()
}

// removeStale removes what a dead server has left behind. The caller holds the
// lock. A socket that somebody listens on although its lock was gone (some
// systems clean old files out of temporary directories) is errLocked.
func removeStale(ctx context.Context, path string) error {
	fi, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	if fi.Mode().Type() != os.ModeSocket {
		return fmt.Errorf("%s is in the way and is no socket; remove it", path)
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
	switch {
	case err == nil:
		c.Close()
		return errLocked
	case errors.Is(err, unix.EAGAIN): // it listens, and too many wait already
		return errLocked
	case errors.Is(err, unix.ECONNREFUSED):
		return os.Remove(path)
	}
	return err
}

// openPipe looks for the socket in the run directories of this machine.
func openPipe(ctx context.Context, t connstr.Transport, host string) (net.Conn, error) {
	if !isThisMachine(host) && !resolvesHere(ctx, host) {
		return nil, fmt.Errorf("%s: named pipes of another machine (%s) can be opened from Windows to Windows only; between other machines use tcp or ssl, as in kdsrv -t tcp:port=<n>,password=<word> there and server=@{tcp:server=%s,port=<n>,password=<word>} here", t.Proto, host, host)
	}
	var looked []string
	var told error
	for _, dir := range rundir.Search() {
		path, err := pipePath(dir, t)
		if err != nil {
			return nil, err
		}
		fi, err := os.Lstat(path)
		switch {
		case errors.Is(err, os.ErrNotExist):
			looked = append(looked, dir)
			continue
		case errors.Is(err, os.ErrPermission): // usual for the administrator's
			looked = append(looked, dir+", which is closed to this user")
			continue
		case err == nil && fi.Mode().Type() != os.ModeSocket:
			err = fmt.Errorf("%s is no socket", path)
		case err == nil:
			err = rundir.Private(dir)
		}
		if err == nil {
			var c net.Conn
			if c, err = connect(ctx, path); err == nil {
				return c, nil
			}
		}
		if told == nil {
			told = err
		}
	}
	switch {
	case told == nil:
		return nil, fmt.Errorf("connecting to %s: there is no such pipe in %s: is kdsrv -t %s:pipe=%s running here, as this user?", Name(t), strings.Join(looked, " or in "), t.Proto, t.Pipe)
	case errors.Is(told, os.ErrPermission):
		return nil, fmt.Errorf("connecting to %s: %w: only the user that runs kdsrv, and root, may use its pipes", Name(t), told)
	}
	return nil, fmt.Errorf("connecting to %s: %w", Name(t), told)
}

// connect connects to a socket of a user that can be trusted.
func connect(ctx context.Context, path string) (net.Conn, error) {
	for {
		c, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
		if errors.Is(err, unix.EAGAIN) { // so many wait that the system takes no more
			select {
			case <-time.After(10 * time.Millisecond):
				continue
			case <-ctx.Done():
				return nil, fmt.Errorf("too many wait to be served: %w", ctx.Err())
			}
		}
		if errors.Is(err, unix.ECONNREFUSED) {
			return nil, fmt.Errorf("%s was left behind by a server that has ended: start kdsrv again", path)
		} else if err != nil {
			return nil, err
		}
		who, err := trusted(c.(*net.UnixConn))
		if err != nil {
			c.Close()
			return nil, err
		}
		return &pipeConn{UnixConn: c.(*net.UnixConn), local: pipeAddr(path), remote: who}, nil
	}
}

// resolvesHere says whether host is a name for this machine and no other.
func resolvesHere(ctx context.Context, host string) bool {
	addrs, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for _, a := range addrs {
		if !isOwnAddress(a) {
			return false
		}
	}
	return err == nil && len(addrs) > 0
}
