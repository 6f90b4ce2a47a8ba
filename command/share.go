package command

import (
	"errors"
	"fmt"
	"strings"
)

func shareCommands() []*Command {
	f := "Sharing"
	return []*Command{
		{Names: []string{".server"}, Family: f, NoTarget: true, Line: true, Run: cmdShare, Summary: "share this session: others join it with kd -remote; with readonly they may only look", Usage: ".server transport[,readonly]", Example: ".server tcp:port=5005,password=s3same"},
		{Names: []string{".remote"}, Family: f, NoTarget: true, Run: cmdShare, Summary: "share this session by a name, for remote /c", Usage: ".remote id", Example: ".remote kernel"},
		{Names: []string{".servers"}, Family: f, NoTarget: true, Run: cmdShare, Summary: "list the doors of this session", Usage: ".servers", Example: ".servers"},
		{Names: []string{".endsrv"}, Family: f, NoTarget: true, Run: cmdShare, Summary: "close a door; who came through it stays", Usage: ".endsrv id", Example: ".endsrv 0"},
		{Names: []string{".clients"}, Family: f, NoTarget: true, Run: cmdShare, Summary: "list who shares this session", Usage: ".clients", Example: ".clients"},
		{Names: []string{".kick"}, Family: f, NoTarget: true, Run: cmdShare, Summary: "send a client away", Usage: ".kick id", Example: ".kick 2"},
		{Names: []string{".keyboard"}, Family: f, NoTarget: true, Run: cmdShare, Summary: "tell who may type; hold the keyboard alone, ask for it, hand it over, show its holder in the prompt", Usage: ".keyboard [take|ask|give [id]|free|show [on|off]]", Example: ".keyboard take"},
		{Names: []string{".remote_exit"}, Family: f, NoTarget: true, Line: true, Run: cmdRemoteExit, Summary: "leave the session of somebody else, after some last commands", Usage: ".remote_exit [commands]", Example: ".remote_exit g"},
	}
}

// errNotShared is told where a session has no hub: in programs that use this
// package without one.
var errNotShared = errors.New("this session cannot be shared")

func cmdShare(c *Call) error {
	h := c.S.Share
	if h == nil {
		return errNotShared
	}
	text, err := h.Run(c.Ctx, c.S.Actor, strings.ToLower(c.Command.Names[0]), strings.TrimSpace(c.Args))
	if err != nil {
		return err
	}
	c.Printf("%s", text)
	return nil
}

func cmdRemoteExit(c *Call) error {
	return fmt.Errorf(".remote_exit leaves a session that was joined with kd -remote; this is the session itself, which q ends")
}

// mayQuit says why who asks may not end the session.
func (s *Session) mayQuit(name string) error {
	if !s.Actor.Local() && name != "qq" {
		return fmt.Errorf("%s of a client does not end the session: CTRL+B or .remote_exit leaves it, qq ends it for everybody", name)
	}
	if s.guards.quit != "" {
		return errors.New("the quit lock is set; .quit_lock /q with its password removes it, and .quit_lock tells it")
	}
	return nil
}
