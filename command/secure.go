package command

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// guards are what was forbidden for the life of the debugger. They only ever
// become stricter; the owner's goroutine sets them.
type guards struct {
	secure  bool
	noShell bool
	quit    string // the password of .quit_lock; "": not locked
}

// secureRemoves are the commands that Secure Mode takes away, as documented
// (Features Disabled in Secure Mode); most of them are no commands of a kernel
// debugger and not here anyway.
var secureRemoves = []string{
	".shell", ".attach", ".create", ".detach", ".abandon", ".kill", ".tlist", ".dump", ".opendump", ".writemem", ".netuse", ".quit_lock",
}

// SetSecure turns Secure Mode on, for the life of the debugger (-secure).
func (s *Session) SetSecure() { s.guards.secure = true }

// Secure says whether Secure Mode is on.
func (s *Session) Secure() bool { return s.guards.secure }

// SetNoShell forbids .shell for the life of the debugger (-noshell).
func (s *Session) SetNoShell() { s.guards.noShell = true }

// allowed says why a command may not run.
func (s *Session) allowed(c *Command) error {
	if s.guards.secure && slices.Contains(secureRemoves, c.Names[0]) {
		return fmt.Errorf("%s is not there in secure mode", c.Names[0])
	}
	return nil
}

func guardCommands() []*Command {
	f := "Sharing"
	return []*Command{
		{Names: []string{".secure"}, Family: f, NoTarget: true, Run: cmdSecure, Summary: "tell whether Secure Mode is on; turn it on, for good, before there is a target", Usage: ".secure [1]", Example: ".secure"},
		{Names: []string{".noshell"}, Family: f, NoTarget: true, Run: cmdNoShell, Summary: "forbid .shell to everybody, for good", Usage: ".noshell", Example: ".noshell"},
		{Names: []string{".quit_lock"}, Family: f, NoTarget: true, Run: cmdQuitLock, Summary: "guard against ending the session by mistake; without an option the password is shown", Usage: ".quit_lock [/s \"password\"|/q \"password\"]", Example: `.quit_lock /s "not yet"`},
		{Names: []string{".shell"}, Family: f, NoTarget: true, Line: true, Run: cmdShell, Summary: "run a command of the system where the debugger runs; lines typed meanwhile are its input", Usage: ".shell [-i file] [-o file] [-e file] [-t seconds] [-x] [-ci \"commands\"] command", Example: `.shell -ci "r" grep rip`},
	}
}

func cmdSecure(c *Call) error {
	s := c.S
	switch args := strings.TrimSpace(c.Args); args {
	case "":
	case "1":
		if e := s.Engine; !s.guards.secure && e != nil && (e.Halted() || e.LastStop() != nil) {
			return errors.New("secure mode cannot be turned on while there is a target: start the debugger with -secure")
		}
		s.SetSecure()
	case "0":
		if s.guards.secure {
			return errors.New("secure mode cannot be turned off again for the life of the debugger")
		}
	default:
		return c.Syntax(args)
	}
	if s.guards.secure {
		c.Printf("Secure mode is on.\n")
	} else {
		c.Printf("Secure mode is off.\n")
	}
	return nil
}

func cmdNoShell(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	c.S.SetNoShell()
	c.Printf("Shell commands are forbidden from now on.\n")
	return nil
}

func cmdQuitLock(c *Call) error {
	g := &c.S.guards
	word, rest := cutWord(c.Args)
	if word == "" {
		if g.quit == "" {
			c.Printf("There is no quit lock.\n")
		} else {
			c.Printf("The quit lock is set; its password is \"%s\"\n", g.quit)
		}
		return nil
	}
	password, left, ok, err := c.CutString(rest)
	if err != nil {
		return err
	}
	if !ok {
		password, left = cutWord(rest)
	}
	if err := c.End(left); err != nil {
		return err
	}
	if password == "" {
		return c.Syntax(rest)
	}
	switch strings.ToLower(word) {
	case "/s", "-s":
		if g.quit != "" {
			return errors.New("there is a quit lock already; .quit_lock /q with its password removes it")
		}
		g.quit = password
		c.Printf("The quit lock is set: q, qq and qd are refused until .quit_lock /q \"%s\"\n", password)
	case "/q", "-q":
		switch {
		case g.quit == "":
			return errors.New("there is no quit lock")
		case g.quit != password:
			return errors.New("that is not the password of the quit lock")
		}
		g.quit = ""
		c.Printf("The quit lock is removed.\n")
	default:
		return c.Syntax(word)
	}
	return nil
}
