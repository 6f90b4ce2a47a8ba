package sim

import (
	"context"
	"errors"
	"io"
	"sync"
)

// serialLine is the wire between the machine's serial chip and a stream. A
// chip notices nothing when the other end goes away: reads find silence, writes
// vanish. The one who serves the stream is told.
type serialLine struct {
	rw     io.ReadWriteCloser
	ended  chan struct{} // the stream failed or ended
	closed chan struct{} // the machine let go of it
	end    sync.Once
	close  sync.Once
	mu     sync.Mutex
	err    error
}

func newSerialLine(rw io.ReadWriteCloser) *serialLine {
	return &serialLine{rw: rw, ended: make(chan struct{}), closed: make(chan struct{})}
}

func (l *serialLine) fail(err error) {
	l.end.Do(func() {
		l.mu.Lock()
		l.err = err
		l.mu.Unlock()
		close(l.ended)
	})
}

func (l *serialLine) Read(p []byte) (int, error) {
	n, err := l.rw.Read(p)
	if err == nil {
		return n, nil
	}
	l.fail(err)
	if n > 0 {
		return n, nil
	}
	<-l.closed
	return 0, io.EOF
}

func (l *serialLine) Write(p []byte) (int, error) {
	if n, err := l.rw.Write(p); err != nil {
		l.fail(err)
		return max(n, len(p)), nil
	}
	return len(p), nil
}

func (l *serialLine) Close() error {
	var err error
	l.close.Do(func() {
		close(l.closed)
		err = l.rw.Close()
	})
	return err
}

// Serve connects a debugger's stream to the machine's serial port until the
// stream ends, the context ends, the machine is switched off, or another Serve
// takes the port; the stream is closed then. The machine does not notice: it
// keeps its packet ids and its idea of the debugger, as with the socket of a
// virtual machine's serial port. nil means that the other end closed, or that
// the port was taken.
func (m *Machine) Serve(ctx context.Context, stream io.ReadWriteCloser) error {
	if m.serial == nil {
		stream.Close()
		return errors.New("sim: the machine is debugged over the network, not over its serial port")
	}
	l := newSerialLine(stream)
	m.serveMu.Lock()
	select {
	case <-m.ended:
		m.serveMu.Unlock()
		l.Close()
		return errors.New("sim: the machine is switched off")
	default:
	}
	m.serving = l
	m.serial.Attach(l)
	m.serveMu.Unlock()

	var err error
	select {
	case <-l.ended:
		l.mu.Lock()
		err = l.err
		l.mu.Unlock()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) {
			err = nil
		}
	case <-l.closed:
	case <-m.ended:
	case <-ctx.Done():
		err = ctx.Err()
	}
	m.serveMu.Lock()
	if m.serving == l {
		m.serving = nil
		m.serial.Attach(nil)
	}
	m.serveMu.Unlock()
	l.Close()
	return err
}
