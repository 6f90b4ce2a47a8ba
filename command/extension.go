package command

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"openkd/engine"
	"openkd/extension"
	"openkd/internal/brief"
	"openkd/sharing"
)

func extensionCommands() []*Command {
	f := "Extensions"
	return []*Command{
		{Names: []string{".load"}, Family: f, NoTarget: true, Run: cmdLoad, Summary: "load an extension: a Starlark script with commands; one that has changed is loaded anew", Usage: ".load {name|file}", Example: ".load processes"},
		{Names: []string{".unload"}, Family: f, NoTarget: true, Run: cmdUnload, Summary: "unload an extension: the default one, or the newest, if none is named", Usage: ".unload [name]", Example: ".unload processes"},
		{Names: []string{".unloadall"}, Family: f, NoTarget: true, Run: cmdUnloadAll, Summary: "unload all extensions", Usage: ".unloadall", Example: ".unloadall"},
		{Names: []string{".chain"}, Family: f, NoTarget: true, Run: cmdChain, Summary: "list the loaded extensions in the order in which they are searched, and where extensions are looked for", Usage: ".chain", Example: ".chain"},
		{Names: []string{".extpath"}, Family: f, Line: true, NoTarget: true, Run: cmdExtensionPath, Summary: "show or set the folders in which extensions are looked for, besides the current one; + appends", Usage: ".extpath[+] [folder[;folder...]]", Example: ".extpath+ /home/me/kd"},
		{Names: []string{".setdll"}, Family: f, NoTarget: true, Run: cmdSetDefault, Summary: "show or set the extension that is searched first; it is loaded if need be", Usage: ".setdll [name|file]", Example: ".setdll processes"},
		{Names: []string{".scriptload"}, Family: f, NoTarget: true, Run: cmdScriptLoad, Summary: "load a script anew, whether it has changed or not", Usage: ".scriptload file", Example: ".scriptload processes.star"},
		{Names: []string{".scriptrun"}, Family: f, NoTarget: true, Run: cmdScriptLoad, Summary: "load a script anew and run its function main", Usage: ".scriptrun file", Example: ".scriptrun survey.star"},
		{Names: []string{".scriptunload"}, Family: f, NoTarget: true, Run: cmdScriptUnload, Summary: "unload a script", Usage: ".scriptunload file", Example: ".scriptunload processes.star"},
		{Names: []string{".scriptlist"}, Family: f, NoTarget: true, Run: cmdScriptList, Summary: "list the loaded scripts", Usage: ".scriptlist", Example: ".scriptlist"},
		{Names: []string{".scriptproviders"}, Family: f, NoTarget: true, Run: cmdScriptProviders, Summary: "list the languages that scripts can have", Usage: ".scriptproviders", Example: ".scriptproviders"},
		{Names: []string{".scripthit"}, Family: f, Run: cmdScriptHit, Summary: "call the function of an extension that belongs to a breakpoint; breakpoint() of a script sets it as the breakpoint's command", Usage: ".scripthit extension id", Example: ".scripthit calls 0"},
		{Names: []string{"!help"}, Family: f, NoTarget: true, Run: cmdExtensionHelp, Summary: "list the commands of the loaded extensions, or explain one; !extension.help lists those of one", Usage: "!help [command]\n!extension.help [command]", Example: "!help"},
	}
}

// SetExtensionPolicy names who is asked before a script's file is read, besides
// Secure Mode. nil: all are.
func (s *Session) SetExtensionPolicy(allow func(path string) error) { s.allowScript = allow }

// NameExtension says that the command line names an extension (-a), which Secure
// Mode allows. It must be called before commands run. What is not there is left to
// who loads it.
func (s *Session) NameExtension(name string) {
	if path, err := s.ext.Resolve(name); err == nil {
		s.guards.named = append(s.guards.named, path)
	}
}

// SetExtensionPath names the folders in which extensions are looked for, besides
// the current one.
func (s *Session) SetExtensionPath(folders []string) { s.ext.SetPath(folders) }

// extensionPath is the path for people: the current folder is searched first.
func (s *Session) extensionPath() string {
	path := s.ext.Path()
	if !s.Secure() {
		path = append([]string{"."}, path...)
	}
	return cmp.Or(strings.Join(path, string(filepath.ListSeparator)), "<empty>")
}

// ExtensionCommands lists what ! can be followed by, of the loaded extensions.
func (s *Session) ExtensionCommands() []string {
	var l []string
	for _, x := range s.ext.Chain() {
		for _, n := range x.Commands() {
			l = append(l, n, x.Name+"."+n)
		}
	}
	return l
}

// Note takes an event for extensions that want to be told. It may be called from
// any goroutine.
func (s *Session) Note(ev engine.Event) { s.ext.Note(ev) }

// Invoke calls a function of the extensions' API for a program (JSON.md), as if
// it was a command. The result is for encoding/json. Errors are not shown.
func (s *Session) Invoke(ctx context.Context, name string, args json.RawMessage) (any, error) {
	s.halt.Store(false)
	v, err := s.ext.Invoke(ctx, name, args)
	var a *extension.ArgError
	if errors.As(err, &a) {
		return nil, &Fault{Words: "Argument error", At: name, Help: (&extension.ArgError{Param: a.Param, Err: a.Err}).Error(), pos: -1}
	}
	return v, unshow(err)
}

func (s *Session) newExtensions(e *engine.Engine) *extension.Manager {
	return extension.New(e, scriptHost{s}, extension.Options{Allow: func(path string, main bool) error {
		if s.allowScript != nil {
			if err := s.allowScript(path); err != nil {
				return err
			}
		}
		return s.secureExtension(path, main)
	}})
}

// scriptHost is the session as scripts see it.
type scriptHost struct{ s *Session }

// Eval implements extension.Host.
func (h scriptHost) Eval(ctx context.Context, e string) (uint64, error) { return h.s.Eval(ctx, e) }

// Radix implements extension.Host.
func (h scriptHost) Radix() int { return h.s.Radix() }

// Output implements extension.Host.
func (h scriptHost) Output() io.Writer { return h.s.w }

// Interrupted implements extension.Host.
func (h scriptHost) Interrupted(ctx context.Context) error { return h.s.stopped(ctx) }

var errStill = errors.New("a callback cannot let the target go: the callback of a breakpoint returns True for that")

// Run implements extension.Host.
func (h scriptHost) Run(ctx context.Context, commands string, w io.Writer, still bool) error {
	s := h.s
	oldOut, oldStill := s.w, s.exec.still
	still = still || oldStill
	s.w, s.exec.still = w, still
	err := s.run(ctx, commands, -1)
	s.w, s.exec.still = oldOut, oldStill
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrQuit) && still:
		return errors.New("a callback cannot end the session")
	case errors.Is(err, ErrQuit), errors.Is(err, errResumed), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return &extension.Unwind{Err: err}
	}
	return fmt.Errorf("%s: %w", brief.Text(strings.TrimSpace(sharing.Masked(commands)), 60), unshow(err))
}

// extensionCommand is what `!name` means where it is no command of the debugger;
// nil for nothing.
func (s *Session) extensionCommand(ctx context.Context, name string) (*Command, error) {
	x, cmd, err := s.ext.Find(ctx, name)
	if err != nil || x == nil {
		return nil, err
	}
	return &Command{Names: []string{"!" + name}, Family: "Extensions", NoTarget: true, Run: func(c *Call) error {
		if strings.EqualFold(cmd, "help") && !has(x.Commands(), cmd) {
			return c.extensionHelp([]*extension.Extension{x}, c.Args)
		}
		return s.ext.Call(c.Ctx, x, cmd, c.Args)
	}}, nil
}

func has(list []string, name string) bool {
	for _, n := range list {
		if strings.EqualFold(n, name) {
			return true
		}
	}
	return false
}

// deliver tells extensions what happened up to a stop.
func (s *Session) deliver(ctx context.Context, st *engine.Stop) error {
	if err := s.ext.Deliver(ctx, st); err != nil {
		return s.show(err, "", 0, -1)
	}
	return nil
}

// scriptName is the one argument of the commands that load.
func (c *Call) scriptName() (string, error) {
	name, rest, err := c.fileName(c.Args)
	if err != nil {
		return "", err
	}
	if name == "" || strings.TrimSpace(rest) != "" {
		return "", c.Syntax(c.Args)
	}
	return name, c.S.namesFile(name)
}

func cmdLoad(c *Call) error {
	name, err := c.scriptName()
	if err != nil {
		return err
	}
	_, err = c.S.ext.Load(c.Ctx, name, false)
	return err
}

func cmdScriptLoad(c *Call) error {
	name, err := c.scriptName()
	if err != nil {
		return err
	}
	x, err := c.S.ext.Load(c.Ctx, name, true)
	if err != nil {
		return err
	}
	c.Printf("Starlark script successfully loaded from '%s'\n", x.Path)
	if strings.EqualFold(c.Name, ".scriptrun") {
		return c.S.ext.Main(c.Ctx, x)
	}
	return nil
}

func cmdScriptUnload(c *Call) error {
	name, err := c.scriptName()
	if err != nil {
		return err
	}
	x := c.S.ext.Named(name)
	if x == nil {
		return fmt.Errorf("no script %s is loaded; .scriptlist lists them", name)
	}
	c.S.ext.Unload(c.Ctx, x)
	c.Printf("Starlark script unloaded from '%s'\n", x.Path)
	return nil
}

func cmdScriptList(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	c.Printf("Command Loaded Scripts:\n")
	list := c.S.ext.Chain()
	if len(list) == 0 {
		c.Printf("    <None Loaded>\n")
	}
	for _, x := range list {
		c.Printf("    Starlark script from '%s'\n", x.Path)
	}
	return nil
}

func cmdScriptProviders(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	c.Printf("Available Script Providers:\n    Starlark (extension '%s')\n", extension.Ext)
	return nil
}

func cmdUnload(c *Call) error {
	list := c.S.ext.Chain()
	if strings.TrimSpace(c.Args) == "" {
		if len(list) == 0 {
			return errors.New("no extension is loaded")
		}
		c.unloadExtension(list[0])
		return nil
	}
	name, err := c.scriptName()
	if err != nil {
		return err
	}
	x := c.S.ext.Named(name)
	if x == nil {
		return fmt.Errorf("no extension %s is loaded; .chain lists them", name)
	}
	c.unloadExtension(x)
	return nil
}

func (c *Call) unloadExtension(x *extension.Extension) {
	c.Printf("Unloading %s extension\n", x.Name)
	c.S.ext.Unload(c.Ctx, x)
}

func cmdUnloadAll(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	for _, x := range c.S.ext.Chain() {
		c.unloadExtension(x)
	}
	return nil
}

func cmdChain(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	c.Printf("Extension DLL search Path:\n    %s\nExtension DLL chain:\n", c.S.extensionPath())
	for _, x := range c.S.ext.Chain() {
		mark := ""
		if x.Name == c.S.ext.Default() {
			mark = ", default"
		}
		n := len(x.Commands())
		c.Printf("    %s: Starlark, API %s, %d %s%s\n        [path: %s]\n", x.Name, extension.Version, n, plural(n, "command", "commands"), mark, x.Path)
	}
	return nil
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

func cmdExtensionPath(c *Call) error {
	args := strings.TrimSpace(c.Args)
	add, more := strings.CutPrefix(args, "+")
	if more {
		args = strings.TrimSpace(add)
	}
	if args != "" {
		if c.S.Secure() {
			return errors.New("the extension path stays as it is in Secure Mode")
		}
		if q, rest, ok := cutString(args); ok && strings.TrimSpace(rest) == "" {
			args = q
		}
		path := extension.SplitPath(args)
		if more {
			path = append(c.S.ext.Path(), path...)
		}
		c.S.ext.SetPath(path)
	}
	c.Printf("Extension search path is: %s\n", c.S.extensionPath())
	return nil
}

func cmdSetDefault(c *Call) error {
	if strings.TrimSpace(c.Args) != "" {
		name, err := c.scriptName()
		if err != nil {
			return err
		}
		x := c.S.ext.Named(name)
		if x == nil {
			if x, err = c.S.ext.Load(c.Ctx, name, false); err != nil {
				return err
			}
		}
		if err := c.S.ext.SetDefault(x.Name); err != nil {
			return err
		}
	}
	if name := c.S.ext.Default(); name != "" {
		c.Printf("Default extension: %s\n", name)
	} else {
		c.Printf("There is no default extension.\n")
	}
	return nil
}

func cmdScriptHit(c *Call) error {
	name, rest := cutWord(c.Args)
	id, err := strconv.Atoi(strings.TrimSpace(rest))
	if err != nil || name == "" {
		return c.Syntax(c.Args)
	}
	goOn, err := c.S.ext.Hit(c.Ctx, name, id)
	if err != nil || !goOn {
		return err
	}
	if c.S.exec.last == nil || !c.S.exec.action {
		return c.S.follow(c.Ctx, c.S.plainGo(0))
	}
	return c.S.follow(c.Ctx, c.S.exec.last)
}

func cmdExtensionHelp(c *Call) error { return c.extensionHelp(c.S.ext.Chain(), c.Args) }

func (c *Call) extensionHelp(list []*extension.Extension, name string) error {
	name = strings.TrimSpace(name)
	if len(list) == 0 {
		c.Printf("No extension is loaded. .load loads one; .extpath says where they are looked for.\n")
		return nil
	}
	var err error
	for _, x := range list {
		var text string
		if text, err = x.Help(name); err == nil {
			c.Printf("%s", text)
			if name != "" {
				return nil
			}
		}
	}
	return err
}
