package command

import "io"

// Style says what a piece of output is, for a terminal that shows it in a way of
// its own. It is no part of the text: logs, captures and programs never see it.
type Style uint8

// Styles. What has none is Plain.
const (
	Plain    Style = iota
	Mistake        // why a command failed
	Headline       // what stopped the target
	Debuggee       // what the target prints
	Aside          // what the debugger says by itself
)

// StyledWriter is an output that shows styles. Others get the text alone.
type StyledWriter interface {
	io.Writer
	WriteStyled(st Style, b []byte) (int, error)
}

// WriteStyled writes a text in a style, where w has styles.
func WriteStyled(w io.Writer, st Style, text string) {
	if s, ok := w.(StyledWriter); ok && st != Plain {
		_, _ = s.WriteStyled(st, []byte(text))
		return
	}
	_, _ = io.WriteString(w, text)
}

// WriteStyled implements StyledWriter.
func (k *sink) WriteStyled(st Style, b []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.toLogLocked(b)
	if s, ok := k.out.(StyledWriter); ok {
		return s.WriteStyled(st, b)
	}
	return k.out.Write(b)
}

// PrintStyled is Print in a style.
func (s *Session) PrintStyled(st Style, text string) { WriteStyled(s.out, st, text) }
