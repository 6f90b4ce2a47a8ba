package command

import (
	"context"
	"fmt"

	"openkd/status"
)

// serverTeller is a target behind a connection server that tells what it
// serves (kdrpc.Client).
type serverTeller interface {
	ServerStatus(ctx context.Context) (*status.Server, error)
}

// cmdServerStatus is .psrvstatus: what the connection server of this session
// serves, and to whom. The target is not asked, so it may run or be busy.
func cmdServerStatus(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	s, ok := c.S.Engine.Target().(serverTeller)
	if !ok {
		return fmt.Errorf("this session has no connection server to ask")
	}
	st, err := s.ServerStatus(c.Ctx)
	if err != nil {
		return err
	}
	st.Write(c)
	return nil
}
