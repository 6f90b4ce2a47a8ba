//go:build !linux && !windows

package line

import (
	"errors"
	"io"
	"strings"

	"go.bug.st/serial"
)

// openSerial opens a serial port raw, 8N1, without flow control, with DTR and
// RTS set, and discards what was received before.
func openSerial(path string, baud int) (io.ReadWriteCloser, string, error) {
	p, err := serial.Open(strings.TrimPrefix(path, `\\.\`), &serial.Mode{
		BaudRate: baud, DataBits: 8, Parity: serial.NoParity, StopBits: serial.OneStopBit,
		InitialStatusBits: &serial.ModemOutputBits{DTR: true, RTS: true},
	})
	if err != nil {
		e := &Error{Line: path, Reason: err}
		var pe *serial.PortError
		if errors.As(err, &pe) {
			switch pe.Code() {
			case serial.PortNotFound:
				e.Temporary = true
				e.Remedy = "no such port" + ports()
			case serial.PortBusy:
				e.Remedy = "another program has it open; a line has one debugger at a time"
			case serial.PermissionDenied:
				e.Remedy = "your account may not open it, or another program has it open"
			case serial.InvalidSpeed:
				e.Remedy = "the port does not do that speed"
			}
		}
		return nil, "", e
	}
	p.ResetInputBuffer()
	return &port{p}, "", nil
}

func ports() string {
	l, err := serial.GetPortsList()
	if err != nil || len(l) == 0 {
		return ""
	}
	return "; this machine has " + strings.Join(l, ", ")
}

// port makes a read without bytes, which the library uses for a time-out, wait
// on.
type port struct{ serial.Port }

func (p *port) Read(b []byte) (int, error) {
	for {
		n, err := p.Port.Read(b)
		if n > 0 || err != nil || len(b) == 0 {
			return n, err
		}
	}
}

func holder(string) string { return "" }
