package command

import (
	"context"
	"fmt"

	"openkd/target"
)

// serverEnder is a target behind a connection server that a client may end
// (kdrpc.Client).
type serverEnder interface {
	EndServer(ctx context.Context) error
}

// cmdEndServer is .endpsrv: end the connection server. It lets go of every
// target it holds, this one included, so this debugger has nothing left to do.
func cmdEndServer(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	s, ok := c.S.Engine.Target().(serverEnder)
	if !ok {
		return fmt.Errorf("this session has no connection server to end")
	}
	if err := s.EndServer(c.Ctx); err != nil {
		return err
	}
	c.Printf("The connection server ends; every target that it holds is let go.\n")
	return &Quit{Leave: target.LeaveRunning}
}
