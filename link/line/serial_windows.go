package line

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/Microsoft/go-winio"
	"go.bug.st/serial"
	"golang.org/x/sys/windows"
)

// Flags of a DCB (winbase.h): bytes of eight bits as they are, DTR and RTS set,
// no flow control, nothing replaced or dropped.
const dcbFlags = dcbBinary | windows.DTR_CONTROL_ENABLE | windows.RTS_CONTROL_ENABLE

const dcbBinary = 1

// openSerial opens a serial port raw, 8N1, without flow control, with DTR and
// RTS set, exclusively, and discards what was received before.
func openSerial(path string, baud int) (io.ReadWriteCloser, string, error) {
	fail := func(err error) (io.ReadWriteCloser, string, error) { return nil, "", serialError(path, err) }
	name, err := windows.UTF16PtrFromString(`\\.\` + strings.TrimPrefix(path, `\\.\`))
	if err != nil {
		return fail(err)
	}
	// Without sharing: a line has one debugger at a time.
	h, err := windows.CreateFile(name, windows.GENERIC_READ|windows.GENERIC_WRITE, 0, nil, windows.OPEN_EXISTING, windows.FILE_FLAG_OVERLAPPED, 0)
	if err != nil {
		return fail(err)
	}
	if err := setUp(h, baud); err != nil {
		windows.CloseHandle(h)
		return fail(err)
	}
	f, err := winio.NewOpenFile(h)
	if err != nil {
		windows.CloseHandle(h)
		return fail(err)
	}
	return &port{ReadWriteCloser: f, h: h}, "", nil
}

var errNotSerial = errors.New("not a serial port")

func setUp(h windows.Handle, baud int) error {
	var dcb windows.DCB
	dcb.DCBlength = 28 // sizeof(DCB)
	if windows.GetCommState(h, &dcb) != nil {
		return errNotSerial
	}
	dcb.BaudRate, dcb.Flags = uint32(baud), dcbFlags
	dcb.ByteSize, dcb.Parity, dcb.StopBits = 8, windows.NOPARITY, windows.ONESTOPBIT
	if err := windows.SetCommState(h, &dcb); err != nil {
		return fmt.Errorf("%d baud refused: %w", baud, err)
	}
	// No time-outs: a read ends when it has what it asked for.
	if err := windows.SetCommTimeouts(h, &windows.CommTimeouts{}); err != nil {
		return err
	}
	return windows.PurgeComm(h, windows.PURGE_RXCLEAR|windows.PURGE_TXCLEAR)
}

// port waits for one byte and then takes what is there already. The driver
// could do so by itself, with time-outs of MAXDWORD, but not every one does:
// Wine's waits until the buffer is full.
type port struct {
	io.ReadWriteCloser
	h windows.Handle

	mu     sync.Mutex
	closed bool // h is no longer ours
}

func (p *port) Read(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	n, err := p.ReadWriteCloser.Read(b[:1])
	if n == 0 || err != nil || len(b) == 1 {
		return n, err
	}
	more := min(p.received(), len(b)-1)
	if more == 0 {
		return n, nil
	}
	m, _ := p.ReadWriteCloser.Read(b[1 : 1+more]) // an error comes again with the next read
	return n + m, nil
}

// received is how many bytes wait to be read. Asking also clears the errors
// (overruns, framing), after which some drivers stop.
func (p *port) received() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs uint32
	var st windows.ComStat
	if p.closed || windows.ClearCommError(p.h, &errs, &st) != nil {
		return 0
	}
	return int(st.CBInQue)
}

func (p *port) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	return p.ReadWriteCloser.Close()
}

func serialError(path string, err error) error {
	e := &Error{Line: path, Reason: err}
	switch {
	case errors.Is(err, windows.ERROR_FILE_NOT_FOUND):
		e.Temporary = true
		e.Remedy = "no such port" + ports()
	case errors.Is(err, windows.ERROR_ACCESS_DENIED), errors.Is(err, windows.ERROR_SHARING_VIOLATION):
		e.Remedy = "another program has it open; a line has one debugger at a time"
	case errors.Is(err, errNotSerial):
		e.Remedy = "write the name of one, such as com1" + ports()
	case errors.Is(err, windows.ERROR_INVALID_PARAMETER):
		e.Remedy = "the port does not do that speed"
	}
	return e
}

// ports lists the ports of this machine.
func ports() string {
	l, err := serial.GetPortsList()
	if err != nil || len(l) == 0 {
		return ""
	}
	return "; this machine has " + strings.Join(l, ", ")
}

func holder(string) string { return "" }
