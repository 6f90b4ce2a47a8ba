package command

import (
	"context"
	"errors"
	"strings"
	"testing"

	"openkd/engine"
	"openkd/engine/enginetest"
	"openkd/status"
	"openkd/target"
)

type telling struct {
	target.Target
	st  *status.Server
	err error
}

func (t telling) ServerStatus(context.Context) (*status.Server, error) { return t.st, t.err }

func TestServerStatus(t *testing.T) {
	fake := enginetest.New(1)
	show := func(tg target.Target) (string, error) {
		var out strings.Builder
		s := NewSession(engine.New(tg, engine.Options{}), &out, Options{})
		err := s.Execute(t.Context(), ".psrvstatus")
		return out.String(), err
	}
	if _, err := show(fake); err == nil || !strings.Contains(err.Error(), "no connection server") {
		t.Errorf("a session without a server: %v", err)
	}
	old := errors.New("it is of an older release")
	if _, err := show(telling{Target: fake, err: old}); !errors.Is(err, old) {
		t.Errorf("%v", err)
	}
	out, err := show(telling{Target: fake, st: &status.Server{Release: "9", Host: "lab7", ClientCount: 2, MaxClients: 5}})
	if err != nil || !strings.Contains(out, "kdsrv 9 on lab7") || !strings.Contains(out, "Clients: 2 of at most 5") {
		t.Errorf("%v\n%s", err, out)
	}
}
