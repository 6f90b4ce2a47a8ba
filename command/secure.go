package command

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"openkd/extension"
	"openkd/internal/localdisk"
	"openkd/symbols"
)

// guards are what was forbidden for the life of the debugger. They only ever
// become stricter; the owner's goroutine sets them.
type guards struct {
	secure  atomic.Bool // completion asks too
	noShell bool
	quit    string                  // the password of .quit_lock; "": not locked
	named   []string                // files of the extensions that the command line names
	local   func(path string) error // tests set it; nil: localdisk.Check
}

// Secure Mode is what WinDbg documents under "Features of Secure Mode":
//
//   - the commands of secureRemoves are not there;
//   - extensions come from disks of this machine, and of two kinds only: scripts
//     (.star) in folders of the extension path, which stays as it is, and those
//     that the command line names (-a). WinDbg means its two programming
//     interfaces by its two kinds; there is one here, so that what counts is who
//     has put the script where it is;
//   - symbols come from folders and stores on disks of this machine: no HTTP or
//     HTTPS, no downstream store.
//
// Names of files on other machines (\\host\share) are refused to all commands,
// because they do what .netuse does, which is removed. Other files may be read
// and written as before: logs, scripts, lists, sources, .readmem. So Secure Mode
// keeps who may type from running programs, from other machines and from dumps;
// it is no wall around the account.

// secureRemoves are the commands that Secure Mode takes away; some are no
// commands of a kernel debugger and not here anyway.
var secureRemoves = []string{
	".shell", ".attach", ".create", ".detach", ".abandon", ".kill", ".tlist", ".dump", ".opendump", ".writemem", ".netuse", ".quit_lock",
}

var errSecureStays = errors.New("Secure Mode cannot be turned off again for the life of the debugger")

// SetSecure turns Secure Mode on, for the life of the debugger (-secure). It
// returns what it has taken away, a line each: elements of paths, extensions. It
// must be called before commands run and when symbols and paths have been set.
func (s *Session) SetSecure() []string {
	if s.guards.secure.Swap(true) {
		return nil
	}
	var notes []string
	if s.guards.quit != "" {
		s.guards.quit = ""
		notes = append(notes, "The quit lock is removed: Secure Mode has none.")
	}
	if s.Engine != nil {
		if set := s.Engine.SymbolSet(); set != nil {
			f := set.Finder()
			f.SetSecure()
			sp, ip := set.Paths()
			sp, left := f.Secured(sp)
			ip, more := f.Secured(ip)
			if left = append(left, more...); len(left) > 0 {
				set.SetPaths(sp, ip)
			}
			notes = append(notes, leftOut(left)...)
		}
	}
	var sources []string
	for _, p := range s.source.files.Elements() {
		if err := s.namesFile(p); err != nil {
			notes = append(notes, "Source path: "+err.Error())
			continue
		}
		sources = append(sources, p)
	}
	s.source.files.SetPath(strings.Join(sources, ";"), false)
	for _, err := range s.ext.Expel(context.Background()) {
		notes = append(notes, err.Error())
	}
	if s.Share != nil {
		s.Share.SetSecure()
	}
	return notes
}

// leftOut says what was left out of a path, a line for each element.
func leftOut(left []symbols.Problem) []string {
	var out []string
	for _, p := range left {
		why := p.Err.Error()
		if e := new(localdisk.Error); errors.As(p.Err, &e) {
			why = "it " + e.Why
		}
		out = append(out, fmt.Sprintf("%s is left out: %s.", p.Element, why))
	}
	return out
}

// securePath takes out of a path what Secure Mode refuses, and says so. If
// nothing is left that is an error.
func (c *Call) securePath(f *symbols.Finder, p symbols.Path) (symbols.Path, error) {
	if !c.S.Secure() {
		return p, nil
	}
	p, left := f.Secured(p)
	notes := leftOut(left)
	if p.Empty() && len(notes) > 0 {
		return p, errors.New(strings.Join(notes, "\n"))
	}
	for _, n := range notes {
		c.Printf("%s\n", n)
	}
	return p, nil
}

// Secure says whether Secure Mode is on. It may be called from any goroutine.
func (s *Session) Secure() bool { return s.guards.secure.Load() }

// SetNoShell forbids .shell for the life of the debugger (-noshell).
func (s *Session) SetNoShell() { s.guards.noShell = true }

// allowed says why a command may not run, whether there is one of that name or
// not.
func (s *Session) allowed(name string) error {
	if name = strings.ToLower(name); s.Secure() && slices.Contains(secureRemoves, name) {
		return fmt.Errorf("%s is not there in Secure Mode", name)
	}
	return nil
}

// shown are the commands that there are, for lists.
func (s *Session) shown() []*Command {
	if !s.Secure() {
		return s.list
	}
	return slices.DeleteFunc(slices.Clone(s.list), func(k *Command) bool { return s.allowed(k.Names[0]) != nil })
}

// namesFile says why a name of a file is not to be used: in Secure Mode no
// command reaches another machine by one. Nothing is touched.
func (s *Session) namesFile(name string) error {
	if !s.Secure() {
		return nil
	}
	if err := localdisk.Named(name); err != nil {
		return fmt.Errorf("%w, and Secure Mode reaches none", err)
	}
	return nil
}

// secureExtension is what Secure Mode says of the file of an extension. main: it
// is the script, not a file that it loads: those lie in the folder of a script
// that was allowed, or on the extension path.
func (s *Session) secureExtension(path string, main bool) error {
	if !s.Secure() {
		return nil
	}
	check := s.guards.local
	if check == nil {
		check = localdisk.Check
	}
	if err := check(path); err != nil {
		return fmt.Errorf("%w, and Secure Mode loads extensions from disks of this machine only", err)
	}
	if !strings.EqualFold(filepath.Ext(path), extension.Ext) {
		return fmt.Errorf("%s does not end in %s, and Secure Mode loads no other extensions", path, extension.Ext)
	}
	if !main || slices.Contains(s.guards.named, path) {
		return nil
	}
	for _, d := range s.ext.Path() {
		if abs, err := filepath.Abs(d); err == nil {
			if rel, err := filepath.Rel(abs, path); err == nil && filepath.IsLocal(rel) {
				return nil
			}
		}
	}
	return fmt.Errorf("%s is in no folder of the extension path, and Secure Mode loads extensions from there only, or as -a names them at the start", path)
}

func guardCommands() []*Command {
	f := "Sharing"
	return []*Command{
		{Names: []string{".secure"}, Family: f, NoTarget: true, Run: cmdSecure, Summary: "tell whether Secure Mode is on; turn it on, for good, before there is a target: no commands that run programs, no other machines, no downloads", Usage: ".secure [1]", Example: ".secure"},
		netUseCommand(),
		{Names: []string{".noshell"}, Family: f, NoTarget: true, Run: cmdNoShell, Summary: "forbid .shell to everybody, for good", Usage: ".noshell", Example: ".noshell"},
		{Names: []string{".quit_lock"}, Family: f, NoTarget: true, Run: cmdQuitLock, Summary: "guard against ending the session by mistake; without an option the password is shown", Usage: ".quit_lock [/s \"password\"|/q \"password\"]", Example: `.quit_lock /s "not yet"`},
		{Names: []string{".shell"}, Family: f, NoTarget: true, Line: true, Run: cmdShell, Summary: "run a command of the system where the debugger runs; lines typed meanwhile are its input, -i - gives it none", Usage: ".shell [-i file|-] [-o file] [-e file] [-t seconds] [-x] [-ci \"commands\"] command", Example: `.shell -ci "r" grep rip`},
	}
}

func cmdSecure(c *Call) error {
	s := c.S
	switch args := strings.TrimSpace(c.Args); args {
	case "":
	case "1":
		if err := c.turnSecure(); err != nil {
			return err
		}
	case "0":
		if s.Secure() {
			return errSecureStays
		}
	default:
		return c.Syntax(args)
	}
	if s.Secure() {
		c.Printf("Secure Mode is on.\n")
	} else {
		c.Printf("Secure Mode is off.\n")
	}
	return nil
}

// turnSecure turns Secure Mode on, if there is no target yet.
func (c *Call) turnSecure() error {
	if e := c.S.Engine; !c.S.Secure() && e != nil && (e.Halted() || e.LastStop() != nil || e.Version() != nil) {
		return errors.New("Secure Mode cannot be turned on while there is a target: start the debugger with -secure")
	}
	for _, n := range c.S.SetSecure() {
		c.Printf("%s\n", n)
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
