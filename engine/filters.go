package engine

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"openkd/kdproto"
)

// FilterAction is what becomes of an event of the target.
type FilterAction uint8

// Actions, as sxe, sxd, sxn and sxi name them. An event that is no
// exception has one chance: FilterSecond is FilterTell then.
const (
	FilterBreak  FilterAction = iota // it stops, an exception at its first chance
	FilterSecond                     // an exception is told, and stops at its second chance
	FilterTell                       // it is told and never stops
	FilterIgnore                     // it is not even told
)

func (a FilterAction) String() string {
	return [...]string{"break", "second-chance break", "output", "ignore"}[min(a, FilterIgnore)]
}

// Filter says what becomes of one kind of event (the sx family).
type Filter struct {
	Name string // av, ld; "*" for exceptions without a row of their own; "" for a code that was added
	Text string // Access violation
	Code kdproto.Status
	// Exception tells exceptions from the events ld, ud, ibp and iml.
	Exception bool
	// Fixed says that the event always stops: the target stands for it because it
	// was asked to, or will not go on by itself.
	Fixed  bool
	Action FilterAction
	// Handled is the answer to an exception that does not stop.
	Handled bool
	// Module is the pattern of names to which ld and ud are limited; "": all.
	Module string
	// Command and Second are run at a stop for the event, Second at the second
	// chance of an exception.
	Command, Second string
}

// filterRows are the exceptions that have short names, in the order in which they
// are listed; exceptionNames has the names.
var filterRows = []kdproto.Status{
	kdproto.StatusAccessViolation, kdproto.StatusAssertionFailure, kdproto.StatusBreakpoint,
	0xE06D7363, 0xE0434352, 0x40010005, 0x80000002, 0x80000001, 0xC000001D, 0xC0000006, 0xC0000094, 0xC0000095, 0xC0000008, 0xC000001E,
	kdproto.StatusSingleStep, 0xC0000409, 0xC00000FD, 0xC0000421, kdproto.StatusWakeSystemDebugger, 0x4000001F, 0x4000001E,
}

// newFilters are the filters of a session that begins: exceptions stop at their
// second chance, with first at the first one too.
func newFilters(first bool) []Filter {
	action := FilterSecond
	if first {
		action = FilterBreak
	}
	l := []Filter{
		{Name: "ld", Text: "Load module", Action: FilterTell}, {Name: "ud", Text: "Unload module", Action: FilterTell},
		{Name: "ibp", Text: "Initial breakpoint", Action: FilterIgnore}, {Name: "iml", Text: "Initial module load", Action: FilterIgnore},
	}
	for _, code := range filterRows {
		text, short := ExceptionName(code)
		f := Filter{Name: short, Text: text, Code: code, Exception: true, Action: action}
		switch code {
		case kdproto.StatusBreakpoint, kdproto.StatusSingleStep, kdproto.StatusAssertionFailure, kdproto.StatusWakeSystemDebugger:
			f.Fixed, f.Action = true, FilterBreak
		}
		l = append(l, f)
	}
	return append(l, Filter{Name: "*", Text: "Other exception", Exception: true, Action: action})
}

// Filters lists what becomes of events, exceptions that were added by their
// codes last.
func (e *Engine) Filters() []Filter {
	e.mu.Lock()
	defer e.mu.Unlock()
	l := slices.Clone(e.filters)
	c := e.opt.Config
	for i := range l {
		on, pattern := false, ""
		switch f := &l[i]; f.Name {
		case "ld":
			on, pattern = c.StopOnLoad != "", c.StopOnLoad
		case "ud":
			on, pattern = c.StopOnUnload != "", c.StopOnUnload
		case "ibp":
			on = c.Break
		case "iml":
			on = c.BreakOnFirstLoad
		default:
			continue
		}
		if pattern != "*" {
			l[i].Module = pattern
		}
		if on {
			l[i].Action = FilterBreak
		} else if l[i].Action == FilterBreak { // a key has changed it
			l[i].Action = FilterIgnore
		}
	}
	return l
}

// maxFilters bounds the codes that are added.
const maxFilters = 200

// SetFilter changes the filter of f's name, or of its code where it has none. For
// ld, ud, ibp and iml the target is told. Text, Exception and Fixed are not looked
// at; what is Fixed keeps its action.
func (e *Engine) SetFilter(ctx context.Context, f Filter) error {
	e.mu.Lock()
	i := slices.IndexFunc(e.filters, func(o Filter) bool {
		return f.Name != "" && o.Name == f.Name || f.Name == "" && o.Exception && o.Name != "*" && o.Code == f.Code
	})
	switch {
	case i < 0 && f.Name != "":
		e.mu.Unlock()
		return fmt.Errorf("there is no event %q", f.Name)
	case i < 0 && len(e.filters) >= maxFilters:
		e.mu.Unlock()
		return fmt.Errorf("there are %d filters; sxr takes away those that were added", maxFilters)
	case i < 0:
		name, _ := ExceptionName(f.Code)
		e.filters = append(e.filters, Filter{Text: name, Code: f.Code, Exception: true})
		i = len(e.filters) - 1
	}
	p := &e.filters[i]
	if !p.Exception && f.Action == FilterSecond {
		f.Action = FilterTell
	}
	if !p.Fixed {
		p.Action = f.Action
	}
	p.Handled, p.Command, p.Second = f.Handled, f.Command, f.Second
	c, event := e.opt.Config, !p.Exception
	stop := f.Action == FilterBreak
	pattern := ""
	if stop {
		pattern = cmp.Or(f.Module, "*")
	}
	switch p.Name {
	case "ld":
		c.StopOnLoad = pattern
	case "ud":
		c.StopOnUnload = pattern
	case "ibp":
		c.Break = stop
	case "iml":
		c.BreakOnFirstLoad = stop
	}
	e.mu.Unlock()
	if !event {
		return nil
	}
	return e.Configure(ctx, c)
}

// ResetFilters makes all filters what they were when the session began, without
// stops at module loads and reboots.
func (e *Engine) ResetFilters(ctx context.Context) error {
	e.mu.Lock()
	e.filters = newFilters(e.opt.StopFirstChance)
	c := e.opt.Config
	e.mu.Unlock()
	c.StopOnLoad, c.StopOnUnload, c.Break, c.BreakOnFirstLoad = "", "", false, false
	return e.Configure(ctx, c)
}

// filterOf is the filter of an exception.
func (e *Engine) filterOf(code kdproto.Status) Filter {
	e.mu.Lock()
	defer e.mu.Unlock()
	var other Filter
	for _, f := range e.filters {
		switch {
		case f.Name == "*":
			other = f
		case f.Exception && f.Code == code:
			return f
		}
	}
	return other
}

// filterNamed is the filter of an event.
func (e *Engine) filterNamed(name string) Filter {
	for _, f := range e.Filters() {
		if f.Name == name {
			return f
		}
	}
	return Filter{}
}

// Tells says whether the load or unload of a module is to be told where such
// events are: it is neither ignored nor stopped at, which tells it.
func (e *Engine) Tells(ev Event) bool {
	if ev.Module == nil {
		return false
	}
	f := e.filterNamed(moduleFilter(ev.Module.Unload))
	stops := f.Action == FilterBreak && matchModule(cmp.Or(f.Module, "*"), ev.Name, baseName(ev.Module.Path))
	return f.Action != FilterIgnore && !stops
}

func moduleFilter(unload bool) string {
	if unload {
		return "ud"
	}
	return "ld"
}

// passes says whether an exception does not stop, and what it is answered then.
func (f *Filter) passes(first bool) (bool, kdproto.Status) {
	status := kdproto.DbgExceptionNotHandled
	if f.Handled {
		status = kdproto.DbgExceptionHandled
	}
	return f.Action == FilterTell || f.Action == FilterIgnore || first && f.Action == FilterSecond, status
}

// commands are what is to be run at a stop for the event.
func (f *Filter) commands(first bool) string {
	if f.Exception && !first {
		return f.Second
	}
	return f.Command
}
