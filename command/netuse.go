package command

import (
	"errors"
	"fmt"
	"strings"
)

func netUseCommand() *Command {
	return &Command{Names: []string{".netuse"}, Family: "Sharing", NoTarget: true, Run: cmdNetUse,
		Summary: "connect the machine where the debugger runs with a share, by a drive or none, as user and with password or as who runs it; on Windows",
		Usage:   `.netuse /a "[drive]" "\\machine\share" "[user]" "[password]"`, Example: `.netuse /a "m:" "\\files\symbols" "" ""`}
}

// netUse is a connection with a share.
type netUse struct{ local, remote, user, password string }

// netUseArgs reads the four texts of .netuse.
func (c *Call) netUseArgs() (u netUse, err error) {
	// The arguments are not quoted in faults: one is a password.
	syntax := func() error {
		return errors.New(`.netuse takes four texts in quotes, of which the first, third and fourth may be empty: .netuse /a "[drive]" "\\machine\share" "[user]" "[password]"`)
	}
	word, rest := cutWord(c.Args)
	if !strings.EqualFold(word, "/a") && word != "-a" {
		return u, syntax()
	}
	for _, dst := range []*string{&u.local, &u.remote, &u.user, &u.password} {
		text, left, ok := cutString(rest)
		if !ok {
			return u, syntax()
		}
		*dst, rest = text, left
	}
	if strings.TrimSpace(rest) != "" {
		return u, syntax()
	}
	// In a text \\ means \, so that people write two of them or four.
	if strings.HasPrefix(u.remote, `\`) && !strings.HasPrefix(u.remote, `\\`) {
		u.remote = `\` + u.remote
	}
	machine, share, _ := strings.Cut(strings.TrimPrefix(u.remote, `\\`), `\`)
	switch drive := strings.ToLower(u.local); {
	case !strings.HasPrefix(u.remote, `\\`) || machine == "" || share == "":
		return u, fmt.Errorf(`%q is not the name of a share: \\machine\share`, u.remote)
	case drive != "" && (len(drive) != 2 || drive[1] != ':' || drive[0] < 'a' || drive[0] > 'z'):
		return u, fmt.Errorf(`%q is not a drive, as in "m:", nor empty`, u.local)
	}
	for _, t := range []string{u.remote, u.user, u.password} {
		if strings.ContainsRune(t, 0) {
			return u, errors.New("a text of .netuse holds a zero")
		}
	}
	return u, nil
}

func cmdNetUse(c *Call) error {
	u, err := c.netUseArgs()
	if err != nil {
		return err
	}
	if err := u.connect(); err != nil {
		return err
	}
	if u.local == "" {
		c.Printf("Connected to %s\n", u.remote)
	} else {
		c.Printf("%s is connected to %s\n", u.local, u.remote)
	}
	return nil
}
