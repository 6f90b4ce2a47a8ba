package command

import (
	"io"
	"os"
	"sync"
)

// sink is where output ends: the terminal and the log file.
type sink struct {
	mu  sync.Mutex
	out io.Writer
	log *os.File
	bad error // of the log, reported once
}

func newSink(out io.Writer) *sink {
	if out == nil {
		out = io.Discard
	}
	return &sink{out: out}
}

func (k *sink) Write(b []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.toLogLocked(b)
	return k.out.Write(b)
}

func (k *sink) toLogLocked(b []byte) {
	if k.log != nil && k.bad == nil {
		// Unbuffered on purpose: a log survives a killed debugger.
		if _, err := k.log.Write(b); err != nil {
			k.bad = err
			io.WriteString(k.out, "The log file "+k.log.Name()+" cannot be written any more: "+err.Error()+"\n")
		}
	}
}

// SetOutput changes where output goes, besides the log. The console calls it
// when it takes the terminal over.
func (s *Session) SetOutput(w io.Writer) {
	if w == nil {
		w = io.Discard
	}
	s.out.mu.Lock()
	s.out.out = w
	s.out.mu.Unlock()
}

// PrintBy shows a text in another way than Output: it goes to the log, and show
// is called in its place in the order of the output.
func (s *Session) PrintBy(text string, show func()) {
	k := s.out
	k.mu.Lock()
	defer k.mu.Unlock()
	k.toLogLocked([]byte(text))
	show()
}
