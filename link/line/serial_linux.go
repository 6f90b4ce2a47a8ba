package line

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// openSerial opens a tty raw, 8N1, without flow control, with DTR and RTS
// set, exclusively, and discards what was received before.
//
// It uses the runtime's poller rather than a serial library: a small exchange
// costs 13 microseconds instead of 85, Close unblocks Read, and descriptors
// over 1023 work.
func openSerial(path string, baud int) (io.ReadWriteCloser, string, error) {
	fail := func(err error) (io.ReadWriteCloser, string, error) { return nil, "", serialError(path, err) }
	if path == "/dev/ptmx" { // opening it makes a new pty that nobody is on
		return fail(unix.ENODEV)
	}
	f, err := os.OpenFile(path, os.O_RDWR|syscall.O_NOCTTY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return fail(err)
	}
	rc, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return fail(err)
	}
	var note string
	var oerr error
	if err := rc.Control(func(fd uintptr) { note, oerr = setUp(int(fd), path, baud) }); err != nil {
		oerr = err
	}
	if oerr != nil {
		f.Close()
		return fail(oerr)
	}
	return serialPort{f}, note, nil
}

// serialPort gives the device back when it is closed: the system keeps
// TIOCEXCL as long as anybody has it open, a getty for example, and then only
// root could open it again.
type serialPort struct{ *os.File }

func (p serialPort) Close() error {
	if rc, err := p.SyscallConn(); err == nil {
		rc.Control(func(fd uintptr) { unix.IoctlSetInt(int(fd), unix.TIOCNXCL, 0) })
	}
	return p.File.Close()
}

func setUp(fd int, path string, baud int) (string, error) {
	// TIOCEXCL does not hold against root; the lock does among programs that ask.
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return "", unix.EBUSY
	}
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS2)
	if err != nil {
		return "", err
	}
	// A pty keeps the mark until its other end is closed, too: after a program
	// that was killed only root could open it again.
	if !isPTY(path) {
		if err := unix.IoctlSetInt(fd, unix.TIOCEXCL, 0); err != nil && !errors.Is(err, unix.ENOTTY) {
			return "", err
		}
	}
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	t.Cflag = unix.CS8 | unix.CREAD | unix.CLOCAL | unix.BOTHER
	t.Ispeed, t.Ospeed = uint32(baud), uint32(baud)
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS2, t); err != nil {
		return "", fmt.Errorf("%d baud refused: %w", baud, err)
	}
	// A pty has no modem lines; a UART needs them for some cables.
	unix.IoctlSetPointerInt(fd, unix.TIOCMBIS, unix.TIOCM_DTR|unix.TIOCM_RTS)
	if err := unix.IoctlSetInt(fd, unix.TCFLSH, unix.TCIFLUSH); err != nil {
		return "", err
	}
	return lowLatency(fd, path), nil
}

// serialStruct is struct serial_struct of linux/serial.h; only Flags matters
// here, the rest is read and written back.
type serialStruct struct {
	Type, Line    int32
	Port          uint32
	IRQ, Flags    int32
	XmitFifoSize  int32
	CustomDivisor int32
	BaudBase      int32
	CloseDelay    uint16
	IOType        uint8
	_             [1]uint8
	Hub6          int32
	ClosingWait   uint16
	ClosingWait2  uint16
	IOMemBase     uintptr
	IOMemRegShift uint16
	PortHigh      uint32
	IOMapBase     uint
}

const asyncLowLatency = 1 << 13

// device is what a link to a device names.
func device(path string) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	return path
}

func isPTY(path string) bool { return strings.HasPrefix(device(path), "/dev/pts/") }

// lowLatency asks the driver to hand over bytes at once. The 16 ms timer of an
// FTDI adapter would otherwise halve the rate of small reads.
func lowLatency(fd int, path string) string {
	if isPTY(path) {
		return ""
	}
	var s serialStruct
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGSERIAL, uintptr(unsafe.Pointer(&s))); e == 0 {
		s.Flags |= asyncLowLatency
		if _, _, e := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCSSERIAL, uintptr(unsafe.Pointer(&s))); e == 0 {
			return "low latency set in the driver"
		}
	}
	timer := "/sys/class/tty/" + filepath.Base(device(path)) + "/device/latency_timer"
	if os.WriteFile(timer, []byte("1"), 0o644) == nil {
		return "latency timer of the adapter set to 1 ms"
	}
	if b, err := os.ReadFile(timer); err == nil {
		return "the adapter's latency timer stays at " + strings.TrimSpace(string(b)) + " ms; to lower it: echo 1 | sudo tee " + timer
	}
	return "no low-latency setting in this driver"
}

func serialError(path string, err error) error {
	e := &Error{Line: path, Reason: err}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		e.Temporary = true
		e.Remedy = "no such device; list them with: ls /dev/serial/by-id /dev/ttyS* /dev/ttyUSB*"
		if low := strings.ToLower(strings.TrimPrefix(path, `\\.\`)); strings.HasPrefix(low, "com") {
			if n, nerr := strconv.Atoi(low[3:]); nerr == nil && n > 0 {
				e.Temporary = false
				e.Remedy = fmt.Sprintf("that is a Windows name; the same port here is /dev/ttyS%d, an adapter is /dev/ttyUSB0", n-1)
			}
		}
	case errors.Is(err, fs.ErrPermission):
		e.Remedy = "your account may not open it: sudo usermod -aG dialout $USER and log in again (ls -l " + path + " shows the group)"
	case errors.Is(err, unix.EBUSY):
		e.Remedy = "the device is in use" + holderText(path) + "; a line has one debugger at a time (stop a getty on it, too)"
	case errors.Is(err, unix.EIO):
		e.Temporary = true
		e.Remedy = "no hardware behind it, or the wrong end of a pty: its other side is closed; use the name that the virtual machine printed"
	case errors.Is(err, unix.ENOTTY), errors.Is(err, unix.ENODEV):
		e.Remedy = "it is not a serial device"
		if st, serr := os.Stat(path); serr == nil && st.Mode()&fs.ModeSocket != 0 {
			e.Remedy = "it is a socket; write com:pipe,port=" + path
		}
	case errors.Is(err, unix.ENXIO):
		e.Remedy = "it is not a serial device; for a socket write com:pipe,port=" + path
	}
	if path == "/dev/ptmx" {
		e.Remedy = "it makes ptys and is not one; use the /dev/pts/N that the virtual machine printed"
	}
	return e
}

// holder finds who has a device or socket open, for the processes that this
// account may look at.
func holder(path string) string {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return ""
	}
	fds, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		return ""
	}
	me := strconv.Itoa(os.Getpid())
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err != nil || to != real {
			continue
		}
		pid := strings.Split(fd, "/")[2]
		name, _ := os.ReadFile("/proc/" + pid + "/comm")
		who := strings.TrimSpace(string(name)) + " (process " + pid + ")"
		if pid == me {
			who = "this program"
		}
		return who
	}
	return ""
}
