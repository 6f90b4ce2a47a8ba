package command

import (
	"fmt"
	"slices"
	"strings"

	"openkd/engine"
	"openkd/kdproto"
)

// filterCommands are the sx family.
func filterCommands() []*Command {
	f := "Execution"
	const usage = ` [-c "commands"] [-c2 "commands"] [-h] event[:module]`
	set := func(name, what, example string) *Command {
		return &Command{Names: []string{name}, Family: f, NoTarget: true, Run: cmdFilter, Summary: what + "; -c runs commands at a stop, -c2 at that of a second chance; events: av and other names that sx lists, a code, * for other exceptions, ld[:module], ud[:module], ibp, iml", Usage: name + usage, Example: example}
	}
	return []*Command{
		{Names: []string{"sx"}, Family: f, NoTarget: true, Run: cmdFilters, Summary: "list at which events the target stops; sx- changes the commands of one and nothing else", Usage: `sx | sx- [-c "commands"] [-c2 "commands"] event`, Example: `sx- -c ".echo again" av`},
		set("sxe", "stop at an event, an exception at its first chance; with -h an exception that does not stop is answered as handled", "sxe ld:tcpip"),
		set("sxd", "tell the first chance of an exception and stop at its second; with -h not handled", "sxd av"),
		set("sxn", "tell an event and never stop for it; with -h not handled", "sxn dz"),
		set("sxi", "pass an event over without a word; with -h handled", "sxi eh"),
		{Names: []string{"sxr"}, Family: f, NoTarget: true, Run: cmdFilterReset, Summary: "make all events what they were at the beginning, without stops at loads and reboots", Usage: "sxr", Example: "sxr"},
	}
}

// cmdFilters is sx, and sx-.
func cmdFilters(c *Call) error {
	if rest, ok := strings.CutPrefix(c.Args, "-"); ok {
		return c.setFilter("sx-", rest)
	}
	if err := c.End(c.Args); err != nil {
		return err
	}
	list := c.S.Engine.Filters()
	row := func(f engine.Filter) {
		name := f.Name
		if name == "" {
			name = fmt.Sprintf("%x", uint32(f.Code))
		}
		c.Printf("%4s - %s - %s", name, f.Text, f.Action)
		if f.Exception && !f.Fixed {
			c.Printf(" - %s", map[bool]string{true: "handled", false: "not handled"}[f.Handled])
		}
		c.Printf("\n")
		for _, x := range [][2]string{{"(only break for %s)", f.Module}, {"Command: \"%s\"", f.Command}, {"Second command: \"%s\"", f.Second}} {
			if x[1] != "" {
				c.Printf("       "+x[0]+"\n", x[1])
			}
		}
	}
	for _, exceptions := range []bool{false, true} {
		for _, f := range list {
			if f.Exception == exceptions && f.Name != "*" {
				row(f)
			}
		}
		c.Printf("\n")
	}
	for _, f := range list {
		if f.Name == "*" {
			row(f)
		}
	}
	return nil
}

// userEvents are events of WinDbg that no kernel reports.
var userEvents = []string{"ct", "et", "cpr", "epr", "ser", "aph", "out", "svh", "rto", "rtt", "clrn", "vcpp", "dbce", "3c", "isc"}

// cmdFilter is sxe and its kin.
func cmdFilter(c *Call) error { return c.setFilter(strings.ToLower(c.Name), c.Args) }

func (c *Call) setFilter(verb, args string) error {
	args = strings.TrimLeft(args, " \t")
	whole := args
	var command, second *string
	handling := false
	for strings.HasPrefix(args, "-") {
		w, rest := cutWord(args)
		switch w {
		case "-c", "-c2":
			text, r, ok, err := c.CutString(rest)
			if err != nil {
				return err
			}
			if !ok {
				return c.Fault("Syntax error", rest, `commands in quotes are expected, as in %s -c "k" av`, verb)
			}
			if rest = r; w == "-c" {
				command = &text
			} else {
				second = &text
			}
		case "-h":
			handling = true
		default:
			return c.Fault("Syntax error", args, "%s has the options -c, -c2 and -h", verb)
		}
		args = strings.TrimLeft(rest, " \t")
	}
	name, rest := cutWord(args)
	name, pattern, limited := strings.Cut(name, ":")
	if err := c.End(rest); err != nil {
		return err
	}
	if name == "" {
		return c.Fault("Syntax error", args, "an event is missing: sx lists them")
	}
	f, err := c.filter(args, strings.ToLower(name))
	if err != nil {
		return err
	}
	module := f.Name == "ld" || f.Name == "ud"
	switch {
	case limited && !module:
		return c.Fault("Syntax error", args, "only ld and ud take a module: sxe ld:tcpip")
	case handling && !f.Exception:
		return c.Fault("Syntax error", args, "%s is no exception, so nothing is handled", f.Name)
	case f.Fixed && (handling || verb != "sxe" && verb != "sx-"):
		return c.Fault("Range error", args, "the target always stops for %s; its commands can be changed (sxe -c)", f.Name)
	}
	action := map[string]engine.FilterAction{"sxe": engine.FilterBreak, "sxd": engine.FilterSecond, "sxn": engine.FilterTell, "sxi": engine.FilterIgnore}
	switch a, ok := action[verb]; {
	case !ok: // sx-
		if command == nil && second == nil {
			return c.Fault("Syntax error", whole, `nothing is to be changed: sx- -c "commands" %s`, f.Name)
		}
	case handling:
		f.Handled = a == engine.FilterBreak || a == engine.FilterIgnore
	default:
		f.Action = a
		if module {
			f.Module = pattern
		}
	}
	if command != nil {
		f.Command = *command
	}
	if second != nil {
		if !f.Exception {
			return c.Fault("Syntax error", args, "%s has no second chance", f.Name)
		}
		f.Second = *second
	}
	return c.S.Engine.SetFilter(c.Ctx, f)
}

// filter finds the filter of a name or of an exception's code.
func (c *Call) filter(at, name string) (engine.Filter, error) {
	list := c.S.Engine.Filters()
	if i := slices.IndexFunc(list, func(f engine.Filter) bool { return f.Name == name }); i >= 0 {
		return list[i], nil
	}
	if slices.Contains(userEvents, name) {
		return engine.Filter{}, c.Fault("Range error", at, "a kernel does not report %s to its debugger", name)
	}
	v, err := c.Eval(name)
	if high := v >> 32; err != nil || v == 0 || high != 0 && high != 1<<32-1 { // c0000022 is a negative number
		return engine.Filter{}, c.Fault("Syntax error", at, "%s is neither an event that sx lists nor the code of an exception", name)
	}
	code := kdproto.Status(v)
	if i := slices.IndexFunc(list, func(f engine.Filter) bool { return f.Exception && f.Name != "*" && f.Code == code }); i >= 0 {
		return list[i], nil
	}
	f := list[slices.IndexFunc(list, func(f engine.Filter) bool { return f.Name == "*" })]
	return engine.Filter{Code: code, Exception: true, Action: f.Action, Handled: f.Handled}, nil
}

// cmdFilterReset is sxr.
func cmdFilterReset(c *Call) error {
	if err := c.End(c.Args); err != nil {
		return err
	}
	return c.S.Engine.ResetFilters(c.Ctx)
}
