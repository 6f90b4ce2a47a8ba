package carrier

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/Microsoft/go-winio"
	"golang.org/x/sys/windows"

	"openkd/connstr"
)

// The instances of a pipe are made here and not by go-winio's listener: that
// one turns clients of other machines away, and its first instance, which is
// never served, can be met by a client where the system does not know what an
// instance without access rights is (Wine). Reading, writing and dialling are
// go-winio's.

// What may be asked for by who only uses a pipe: all of reading and writing but
// FILE_CREATE_PIPE_INSTANCE (4, which GENERIC_WRITE contains), with which he
// could serve clients in our name (Microsoft: "Named Pipe Security and Access
// Rights").
const pipeAccess = windows.FILE_READ_DATA | windows.FILE_WRITE_DATA |
	windows.FILE_READ_EA | windows.FILE_WRITE_EA |
	windows.FILE_READ_ATTRIBUTES | windows.FILE_WRITE_ATTRIBUTES |
	windows.READ_CONTROL | windows.SYNCHRONIZE

// Bytes that the system holds for each direction of an instance.
const pipeBuffer = 64 << 10

func threadID() int { return int(windows.GetCurrentThreadId()) }

func pipePath(host, name string) string { return `\\` + host + `\pipe\` + name }

type pipeListener struct {
	t    connstr.Transport
	path string
	sec  windows.SecurityAttributes
	stop windows.Handle // an event, set by Close
	o    Options

	once sync.Once

	mu sync.Mutex // held by Accept while it waits
	// next is the instance that the next client meets. There always is one, so
	// that nobody else can take the name while we live.
	next    windows.Handle
	over    windows.Overlapped // of the wait for a client; here because the system writes to it
	arrived windows.Handle     // the event of over
	closed  bool
}

func makePipe(_ context.Context, t connstr.Transport, o Options) (_ Listener, err error) {
	fail := func(err error) (Listener, error) {
		return nil, fmt.Errorf("%s: the pipe %s cannot be made: %w", t.Proto, t.Pipe, err)
	}
	sddl, err := pipeSecurity(o.PipeUsers)
	if err != nil {
		return fail(err)
	}
	sd, err := windows.SecurityDescriptorFromString(sddl)
	if err != nil {
		return fail(fmt.Errorf("security descriptor %s: %w", sddl, err))
	}
	l := &pipeListener{t: t, path: pipePath(".", t.Pipe), o: o}
	l.sec.Length = uint32(unsafe.Sizeof(l.sec))
	l.sec.SecurityDescriptor = sd
	if l.stop, err = windows.CreateEvent(nil, 1, 0, nil); err != nil {
		return fail(err)
	}
	if l.arrived, err = windows.CreateEvent(nil, 1, 0, nil); err != nil {
		windows.CloseHandle(l.stop)
		return fail(err)
	}
	if l.next, err = l.instance(windows.FILE_FLAG_FIRST_PIPE_INSTANCE); err != nil {
		windows.CloseHandle(l.stop)
		windows.CloseHandle(l.arrived)
		// The first is what FILE_FLAG_FIRST_PIPE_INSTANCE says of a name that is
		// there, the others are said where its pipe is of another kind.
		if errors.Is(err, windows.ERROR_ACCESS_DENIED) || errors.Is(err, windows.ERROR_PIPE_BUSY) || errors.Is(err, windows.ERROR_ALREADY_EXISTS) {
			return nil, pipeInUse(t, "")
		}
		return fail(err)
	}
	// Wine does not know that flag, and puts ours beside another server's.
	var instances uint32
	if err := windows.GetNamedPipeHandleState(l.next, nil, &instances, nil, nil, nil, 0); err != nil || instances != 1 {
		l.Close()
		if err != nil {
			return fail(err)
		}
		return nil, pipeInUse(t, "")
	}
	return l, nil
}

// pipeSecurity lets the owner, administrators and the system do everything, and
// users read and write. Nobody else gets in.
func pipeSecurity(users []string) (string, error) {
	me, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return "", fmt.Errorf("the account of this process: %w", err)
	}
	own := me.User.Sid.String()
	var b strings.Builder
	fmt.Fprintf(&b, "O:%sD:P(A;;GA;;;%s)(A;;GA;;;BA)(A;;GA;;;SY)", own, own)
	for _, u := range users {
		sid, err := accountSID(u)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "(A;;%#x;;;%s)", uint32(pipeAccess), sid)
	}
	return b.String(), nil
}

// accountSID finds whom the user means: a SID, or an account or a group by name.
func accountSID(user string) (string, error) {
	if user == "" {
		return "", errors.New("an account that is to use it has no name")
	}
	if sid, err := windows.StringToSid(user); err == nil {
		return sid.String(), nil
	}
	sid, _, _, err := windows.LookupSID("", user)
	if err != nil {
		return "", fmt.Errorf(`%q, who is to use it, is no account that this machine knows: %w; write a name such as ann or DOMAIN\ann, or a SID`, user, err)
	}
	return sid.String(), nil
}

// instance makes an instance that a client can meet at once.
func (l *pipeListener) instance(first uint32) (windows.Handle, error) {
	name, err := windows.UTF16PtrFromString(l.path)
	if err != nil {
		return 0, err
	}
	return windows.CreateNamedPipe(name, windows.PIPE_ACCESS_DUPLEX|windows.FILE_FLAG_OVERLAPPED|first,
		windows.PIPE_TYPE_BYTE|windows.PIPE_READMODE_BYTE|windows.PIPE_WAIT,
		windows.PIPE_UNLIMITED_INSTANCES, pipeBuffer, pipeBuffer, 0, &l.sec)
}

func (l *pipeListener) Transport() connstr.Transport { return l.t }
func (l *pipeListener) Addr() net.Addr               { return pipeAddr(l.path) }

func (l *pipeListener) Accept() (net.Conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		if l.closed {
			return nil, net.ErrClosed
		}
		if err := l.wait(); errors.Is(err, net.ErrClosed) {
			return nil, err
		} else if err != nil {
			windows.DisconnectNamedPipe(l.next) // else it stays as it is
			if errors.Is(err, windows.ERROR_NO_DATA) {
				continue // came and went
			}
			return nil, fmt.Errorf("waiting for a client of %s: %w", l.path, err)
		}
		next, err := l.instance(0)
		if err != nil {
			// Without another one, this client's has to serve the next.
			windows.DisconnectNamedPipe(l.next)
			return nil, fmt.Errorf("another instance of %s cannot be made: %w", l.path, err)
		}
		h := l.next
		l.next = next
		f, err := winio.NewOpenFile(h)
		if err != nil {
			windows.CloseHandle(h)
			return nil, err
		}
		return &pipeConn{pipeFile: f.(pipeFile), local: pipeAddr(l.path), remote: clientOf(h)}, nil
	}
}

// wait waits until a client is at the next instance.
func (l *pipeListener) wait() error {
	if err := windows.ResetEvent(l.arrived); err != nil {
		return err
	}
	l.over = windows.Overlapped{HEvent: l.arrived}
	err := windows.ConnectNamedPipe(l.next, &l.over)
	if err == nil || errors.Is(err, windows.ERROR_PIPE_CONNECTED) {
		return nil
	}
	if !errors.Is(err, windows.ERROR_IO_PENDING) {
		return err
	}
	which, err := windows.WaitForMultipleObjects([]windows.Handle{l.stop, l.arrived}, false, windows.INFINITE)
	stopped := err == nil && which == windows.WAIT_OBJECT_0
	if stopped || err != nil {
		windows.CancelIoEx(l.next, &l.over)
	}
	var n uint32
	done := windows.GetOverlappedResult(l.next, &l.over, &n, true)
	if stopped {
		return net.ErrClosed
	}
	return errors.Join(err, done)
}

// Close ends the listening. The system keeps the name as long as one of the
// streams lives.
func (l *pipeListener) Close() error {
	l.once.Do(func() {
		windows.SetEvent(l.stop)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.closed = true
		for _, h := range []windows.Handle{l.next, l.stop, l.arrived} {
			windows.CloseHandle(h)
		}
	})
	return nil
}

// clientOf says who has connected to an instance.
func clientOf(h windows.Handle) pipeAddr {
	var text []string
	// Not in golang.org/x/sys. It fails for a client of this machine.
	if proc := windows.NewLazySystemDLL("kernel32.dll").NewProc("GetNamedPipeClientComputerNameW"); proc.Find() == nil {
		var name [256]uint16
		if ok, _, _ := proc.Call(uintptr(h), uintptr(unsafe.Pointer(&name[0])), unsafe.Sizeof(name)); ok != 0 {
			if s := windows.UTF16ToString(name[:]); s != "" {
				text = append(text, "machine "+s)
			}
		}
	}
	var pid uint32
	if windows.GetNamedPipeClientProcessId(h, &pid) == nil {
		text = append(text, fmt.Sprintf("pid %d", pid))
	}
	if len(text) == 0 {
		return "a client of the pipe"
	}
	return pipeAddr(strings.Join(text, " "))
}

// pipeFile is what go-winio makes of a handle.
type pipeFile interface {
	io.ReadWriteCloser
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

// pipeConn is a stream of a pipe. It cannot be closed for writing alone. What
// was written stays for the other end to read when it is closed: only
// disconnecting throws it away (Microsoft: "DisconnectNamedPipe").
type pipeConn struct {
	pipeFile
	local, remote pipeAddr
}

func (c *pipeConn) LocalAddr() net.Addr  { return c.local }
func (c *pipeConn) RemoteAddr() net.Addr { return c.remote }

func (c *pipeConn) Read(b []byte) (int, error) {
	if len(b) == 0 { // would wait
		return 0, nil
	}
	n, err := c.pipeFile.Read(b)
	return n, pipeError(err)
}

func (c *pipeConn) Write(b []byte) (int, error) {
	n, err := c.pipeFile.Write(b)
	return n, pipeError(err)
}

func (c *pipeConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// pipeError says in the words of package net what files say in their own.
func pipeError(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return net.ErrClosed
	}
	return err
}

// openPipe opens a pipe of this machine, or of another one by way of Windows'
// file sharing.
func openPipe(ctx context.Context, t connstr.Transport, host string) (net.Conn, error) {
	local := isThisMachine(host)
	if local {
		host = "."
	}
	path := pipePath(uncHost(host), t.Pipe)
	c, err := openWithin(ctx, path)
	if err == nil {
		return &pipeConn{pipeFile: c, local: pipeAddr(path), remote: pipeAddr(path)}, nil
	}
	if pe, ok := errors.AsType[*os.PathError](err); ok {
		err = pe.Err
	}
	what := ""
	is := func(codes ...windows.Errno) bool {
		return slices.ContainsFunc(codes, func(e windows.Errno) bool { return errors.Is(err, e) })
	}
	switch {
	case is(windows.ERROR_FILE_NOT_FOUND):
		what = fmt.Sprintf("there is no such pipe: is kdsrv -t %s:pipe=%s running there?", t.Proto, t.Pipe)
	case local && is(windows.ERROR_ACCESS_DENIED):
		what = "this account may not use it: start kdsrv with -pipeusers <this account>"
	case is(windows.ERROR_ACCESS_DENIED, windows.ERROR_LOGON_FAILURE, windows.ERROR_ACCOUNT_RESTRICTION, windows.ERROR_NO_SUCH_LOGON_SESSION):
		what = fmt.Sprintf(`that machine does not let this account in: log on with net use \\%s\ipc$ /user:<name>, and start kdsrv there with -pipeusers <name> if that is not its own account`, uncHost(host))
	case is(windows.ERROR_BAD_NETPATH, windows.ERROR_BAD_NET_NAME, windows.ERROR_NETWORK_UNREACHABLE, windows.ERROR_HOST_UNREACHABLE, windows.ERROR_REM_NOT_LIST, windows.ERROR_NO_NET_OR_BAD_PATH, windows.ERROR_PATH_NOT_FOUND):
		what = fmt.Sprintf("the host %s is not found, or its file sharing (TCP port 445) is off or blocked", host)
	case ctx.Err() != nil:
		what = "no answer in time, or every instance of the pipe was taken all the while"
	}
	if what != "" {
		return nil, fmt.Errorf("connecting to %s: %s (%w)", Name(t), what, err)
	}
	return nil, fmt.Errorf("connecting to %s: %w", Name(t), err)
}

// uncHost is how a host stands in a path: an address of IPv6 cannot be there
// (Microsoft: "IPv6 Address Formats", UNC paths).
func uncHost(host string) string {
	if !strings.Contains(host, ":") {
		return host
	}
	return strings.NewReplacer(":", "-", "%", "s").Replace(host) + ".ipv6-literal.net"
}

// openWithin opens the client's end. While every instance is taken it is tried
// again (go-winio). Looking for another machine takes as long as the system
// likes, in a call that knows no context: when the context ends the call is
// called off.
func openWithin(ctx context.Context, path string) (pipeFile, error) {
	type result struct {
		c   net.Conn
		err error
	}
	done := make(chan result, 1)
	on := make(chan windows.Handle, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		var thread windows.Handle // 0: cannot be called off
		self := windows.CurrentProcess()
		windows.DuplicateHandle(self, windows.CurrentThread(), self, &thread, 0, false, windows.DUPLICATE_SAME_ACCESS)
		on <- thread
		// A server must not act in the name of its clients.
		c, err := winio.DialPipeAccessImpLevel(ctx, path, pipeAccess, winio.PipeImpLevelAnonymous)
		done <- result{c, err}
	}()
	thread := <-on
	defer windows.CloseHandle(thread)
	end := ctx.Done()
	again := time.NewTicker(20 * time.Millisecond) // the call may not have begun
	defer again.Stop()
	cancel := windows.NewLazySystemDLL("kernel32.dll").NewProc("CancelSynchronousIo")
	for {
		select {
		case r := <-done:
			if r.err != nil && ctx.Err() != nil {
				return nil, ctx.Err()
			} else if r.err != nil {
				return nil, r.err
			}
			return r.c.(pipeFile), nil
		case <-end:
			end = nil
		case <-again.C:
		}
		if ctx.Err() != nil && thread != 0 && cancel.Find() == nil {
			cancel.Call(uintptr(thread))
		}
	}
}
