// Package line opens the line to a target: a serial device or pty, a Unix
// socket or Windows pipe, a TCP port; by connecting, or by waiting for a
// virtual machine that connects out.
//
// It moves bytes and knows nothing of packets. What a line cannot do is said
// with the file or port, the system's reason and the usual remedy. Forms and
// parameters: connstr.Link.
package line

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"openkd/connstr"
)

// Error says which line could not be opened, why, and what usually helps.
type Error struct {
	Line   string // device, path or address
	Reason error  // the system's
	Remedy string
	// Temporary says that waiting may help: the pipe is not there yet, nobody
	// listens yet. A line with reconnect is tried again then.
	Temporary bool
}

func (e *Error) Error() string {
	s := "cannot open " + e.Line + ": " + reason(e.Reason)
	if e.Remedy != "" {
		s += "; " + e.Remedy
	}
	return s
}

func (e *Error) Unwrap() error { return e.Reason }

// reason is the innermost text of an error: "connection refused" rather than
// "dial unix /x: connect: connection refused".
func reason(err error) string {
	var n syscall.Errno
	if errors.As(err, &n) {
		return strings.TrimSuffix(n.Error(), ".") // Windows writes whole sentences
	}
	for {
		u := errors.Unwrap(err)
		if u == nil {
			return err.Error()
		}
		err = u
	}
}

// Line is a way to a target that can be opened again and again, one stream at
// a time. Its methods may be called from any goroutine.
type Line struct {
	link connstr.Link

	mu       sync.Mutex
	listener net.Listener // of a listening line, from the first Open on
	note     string
	closed   bool
}

// New makes a line. The link's defaults are filled in already
// (connstr.Link.WithDefaults).
func New(l connstr.Link) (*Line, error) {
	switch l.Kind {
	case connstr.LinkSerial, connstr.LinkPipe, connstr.LinkTCP:
		return &Line{link: l}, nil
	}
	return nil, fmt.Errorf("%s: links of this kind are not there yet", l.Kind)
}

// String is the canonical spelling of the link.
func (l *Line) String() string { return l.link.String() }

// Name is what a person calls the line: \\.\com1, /tmp/vm.sock, 10.0.0.1:5000.
func (l *Line) Name() string {
	if l.link.Kind == connstr.LinkTCP {
		return net.JoinHostPort(l.link.Port, strconv.Itoa(l.link.IPPort))
	}
	return l.link.Port
}

// Speed is the line's speed in bits per second, 0 for one that is not paced.
// One byte takes ten bits (8N1).
func (l *Line) Speed() int {
	if l.link.Kind == connstr.LinkSerial {
		return l.link.Baud
	}
	return 0
}

// Waits reports whether the line waits for a caller.
func (l *Line) Waits() bool { return l.link.Listen }

// Note is what is worth telling about the open line, such as which low-latency
// setting a serial adapter took; empty for nothing.
func (l *Line) Note() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.note
}

func (l *Line) setNote(s string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.note = s
}

// dialTimeout bounds one attempt to connect.
const dialTimeout = 10 * time.Second

// Open opens the line and, when it listens, waits for a caller until ctx ends.
// Closing the stream unblocks its reads and writes. Errors are *Error or the
// context's.
func (l *Line) Open(ctx context.Context) (io.ReadWriteCloser, error) {
	if l.link.Listen {
		return l.accept(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	switch l.link.Kind {
	case connstr.LinkSerial:
		s, note, err := openSerial(l.link.Port, l.link.Baud)
		if err != nil {
			return nil, err
		}
		l.setNote(note)
		return s, nil
	case connstr.LinkPipe:
		c, err := dialPipe(ctx, l.link.Port)
		if err != nil {
			return nil, pipeError(l.link.Port, err)
		}
		return c, nil
	default:
		c, err := (&net.Dialer{KeepAlive: 15 * time.Second}).DialContext(ctx, "tcp", l.Name())
		if err != nil {
			return nil, tcpError(l.Name(), err)
		}
		return nodelay(c), nil
	}
}

// nodelay: with Nagle's algorithm an acknowledgement and the next request,
// two small writes, cost some 60 ms together.
func nodelay(c net.Conn) net.Conn {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetNoDelay(true)
	}
	return c
}

// accept waits for a caller. The listener stays open between calls, so that a
// machine that restarts finds it.
func (l *Line) accept(ctx context.Context) (io.ReadWriteCloser, error) {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil, net.ErrClosed
	}
	if l.listener == nil {
		var err error
		if l.link.Kind == connstr.LinkTCP {
			if l.listener, err = net.Listen("tcp", l.Name()); err != nil {
				err = tcpError(l.Name(), err)
			}
		} else if l.listener, err = ListenPipe(l.link.Port); err != nil {
			err = pipeError(l.link.Port, err)
		}
		if err != nil {
			l.listener = nil
			l.mu.Unlock()
			return nil, err
		}
	}
	ln := l.listener
	l.mu.Unlock()

	type result struct {
		c   net.Conn
		err error
	}
	// Accept has no context: a deadline in the past would do on sockets, but
	// not on Windows pipes, so the listener is closed and made again next time.
	got := make(chan result, 1)
	go func() {
		c, err := ln.Accept()
		got <- result{c, err}
	}()
	select {
	case r := <-got:
		if r.err != nil {
			return nil, &Error{Line: l.Name(), Reason: r.err, Temporary: true}
		}
		return nodelay(r.c), nil
	case <-ctx.Done():
		l.dropListener()
		if r := <-got; r.c != nil {
			r.c.Close()
		}
		return nil, ctx.Err()
	}
}

func (l *Line) dropListener() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.listener != nil {
		l.listener.Close()
		l.listener = nil
	}
}

// Close ends the listening. A stream that is open stays open.
func (l *Line) Close() error {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.dropListener()
	return nil
}

func tcpError(addr string, err error) error {
	e := &Error{Line: addr, Reason: err}
	switch {
	case errors.Is(err, errConnRefused):
		e.Temporary = true
		e.Remedy = "nothing listens there: is the virtual machine or terminal server running, and is this its serial port?"
	case errors.Is(err, errAddrInUse):
		e.Remedy = "another program listens on that port; choose another or end it"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		e.Temporary = true
		e.Remedy = "no answer within 10 s: check the address and any firewall between"
	case errors.Is(err, errHostUnreach), errors.Is(err, errNetUnreach):
		e.Temporary = true
		e.Remedy = "check the address and the network"
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		e.Remedy = "no machine of that name is known; write its address (com:ipport=<TCP port>,port=<address>)"
	}
	return e
}

// isWindowsPipe reports the \\host\pipe\name form.
func isWindowsPipe(path string) bool {
	return strings.HasPrefix(path, `\\`)
}

func pipeError(path string, err error) error {
	e := &Error{Line: path, Reason: err}
	switch {
	case errors.Is(err, errWindowsName):
		e.Remedy = "such names exist on Windows only; here a virtual machine offers a Unix socket: com:pipe,port=/path/to/socket"
	case errors.Is(err, fs.ErrNotExist):
		e.Temporary = true
		e.Remedy = "start the virtual machine first, or add reconnect to wait for it"
	case errors.Is(err, fs.ErrPermission):
		e.Remedy = "your account may not open it: look at its owner and mode, or run as the account that runs the virtual machine"
		if runtime.GOOS == "windows" {
			e.Remedy = "your account may not open it: run elevated, or as the account that runs the virtual machine"
		}
	case errors.Is(err, errConnRefused):
		e.Temporary = true
		e.Remedy = "nobody listens at it: the virtual machine is not running, or the file was left over"
	case errors.Is(err, errAddrInUse):
		e.Remedy = "another program listens there" + holderText(path)
	case errors.Is(err, syscall.EPROTOTYPE):
		e.Remedy = "that socket is not a stream socket"
	}
	if st, serr := os.Stat(path); serr == nil && st.Mode()&fs.ModeSocket == 0 && !isWindowsPipe(path) {
		e.Temporary = false
		switch {
		case st.Mode()&fs.ModeNamedPipe != 0:
			e.Remedy = "it is a FIFO, which carries one direction only; let the virtual machine offer a Unix socket"
		case st.Mode()&fs.ModeCharDevice != 0:
			e.Remedy = "it is a device; write com:port=" + path + ",baud=115200"
		default:
			e.Remedy = "it is not a socket"
		}
	}
	if errors.Is(err, syscall.EINVAL) && len(path) > 104 {
		e.Remedy = "the path of a socket may have about 104 characters; this one has " + strconv.Itoa(len(path))
	}
	return e
}

var errWindowsName = errors.New("a Windows pipe name on a system without such pipes")

// holderText names the process that holds a device or socket, where the
// system tells.
func holderText(path string) string {
	if h := holder(path); h != "" {
		return ", held by " + h
	}
	return ""
}
