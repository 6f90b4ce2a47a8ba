package command

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"openkd/engine"
	"openkd/engine/enginetest"
	"openkd/target"
)

type endable struct {
	target.Target
	asked int
	err   error
}

func (e *endable) EndServer(context.Context) error { e.asked++; return e.err }

func TestEndServer(t *testing.T) {
	fake := enginetest.New(1)
	var out strings.Builder
	s := NewSession(engine.New(fake, engine.Options{}), &out, Options{})
	if err := s.Execute(t.Context(), ".endpsrv"); err == nil || errors.Is(err, ErrQuit) {
		t.Errorf("a session without a server: %v", err)
	}
	for _, refused := range []error{nil, errors.New("not allowed")} {
		e := &endable{Target: fake, err: refused}
		s := NewSession(engine.New(e, engine.Options{}), io.Discard, Options{})
		err := s.Execute(t.Context(), ".endpsrv")
		if errors.Is(err, ErrQuit) != (refused == nil) || e.asked != 1 {
			t.Errorf("refusal %v: %v, asked %d times", refused, err, e.asked)
		}
	}
}
