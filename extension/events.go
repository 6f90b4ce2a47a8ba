package extension

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.starlark.net/starlark"

	"openkd/engine"
	"openkd/target"
)

// Events that scripts can be told of.
var eventNames = []string{"stop", "module", "print", "unload"}

const (
	wantStop = iota
	wantModule
	wantPrint
)

// Bounds of what is kept until the next stop.
const (
	maxEvents     = 10000
	maxEventBytes = 1 << 20
)

type queued struct {
	name  string
	value any
}

// want notes what the extensions of the chain listen to.
func (q *eventQueue) want(chain []*Extension) {
	for i, name := range eventNames[:wantPrint+1] {
		q.wants[i].Store(slices.ContainsFunc(chain, func(x *Extension) bool { return len(x.handlers[name]) > 0 }))
	}
}

// Note takes an event of the engine. Scripts are told at the next stop that the
// user sees. It may be called from any goroutine.
func (m *Manager) Note(ev engine.Event) {
	q := &m.events
	var e queued
	n := 64
	switch {
	case ev.Kind == target.EventModule && ev.Module != nil && q.wants[wantModule].Load():
		path := strings.ToValidUTF8(ev.Module.Path, "\ufffd")
		n += len(path)
		e = queued{"module", &Object{"module_event", []Field{
			{"name", ev.Name}, {"path", path}, {"unload", ev.Module.Unload}, {"base", Addr(ev.Module.Base)}, {"size", int(ev.Module.Size)},
		}}}
	case ev.Kind == target.EventPrint && q.wants[wantPrint].Load():
		text := strings.ToValidUTF8(ev.Text, "\ufffd")
		n += len(text)
		e = queued{"print", text}
	default:
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.list) >= maxEvents || q.bytes+n > maxEventBytes {
		q.lost++
		return
	}
	q.list = append(q.list, e)
	q.bytes += n
}

// Deliver tells scripts what happened up to a stop, and of the stop itself,
// which may be nil. The error is for the person; all are told all the same.
func (m *Manager) Deliver(ctx context.Context, st *engine.Stop) error {
	q := &m.events
	q.mu.Lock()
	list, lost := q.list, q.lost
	q.list, q.bytes, q.lost = nil, 0, 0
	q.mu.Unlock()
	if st != nil && q.wants[wantStop].Load() {
		list = append(list, queued{"stop", stopObject(m.e, st)})
	}
	var errs []error
	if lost > 0 {
		errs = append(errs, fmt.Errorf("%d events came faster than scripts could be told and are lost to them", lost))
	}
	for _, x := range slices.Clone(m.chain) {
		if err := m.fireAll(ctx, x, list); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// fireAll tells an extension of events, up to the first that fails; then its
// handlers are dropped, so that a mistake is told once.
func (m *Manager) fireAll(ctx context.Context, x *Extension, list []queued) error {
	for _, e := range list {
		if err := m.fire(ctx, x, e.name, e.value); err != nil {
			var u *Unwind
			if ctx.Err() != nil || errors.As(err, &u) {
				return err
			}
			delete(x.handlers, e.name)
			m.events.want(m.chain)
			return fmt.Errorf("%w\n%s is told of no %s any more; .load it again", err, x.Name, e.name)
		}
	}
	return nil
}

func (m *Manager) fire(ctx context.Context, x *Extension, name string, value any) error {
	for _, f := range x.handlers[name] {
		_, err := m.run(ctx, x, true, func(t *starlark.Thread) (starlark.Value, error) {
			var a starlark.Tuple
			if value != nil {
				a = starlark.Tuple{toStarlark(value)}
			}
			return starlark.Call(t, f, a, nil)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Hit runs the callback of a breakpoint and says whether the target goes on.
func (m *Manager) Hit(ctx context.Context, name string, id int) (goOn bool, err error) {
	x := m.Named(name)
	if x == nil || x.hits[id] == nil {
		return false, fmt.Errorf("breakpoint %d has a callback in %s, which is not loaded any more; bc %d clears it", id, name, id)
	}
	v, err := m.run(ctx, x, true, func(t *starlark.Thread) (starlark.Value, error) {
		f := x.hits[id]
		if takesArgument(f) {
			return starlark.Call(t, f, starlark.Tuple{starlark.MakeInt(id)}, nil)
		}
		return starlark.Call(t, f, nil, nil)
	})
	if err != nil {
		return false, err
	}
	b, ok := v.(starlark.Bool)
	if !ok && v != starlark.None {
		return false, fmt.Errorf("the callback of breakpoint %d returned %s: True goes on, False and None stop", id, article(v.Type()))
	}
	return bool(b), nil
}

// hitCommand is the command of a breakpoint with a callback.
func hitCommand(x *Extension, id int) string { return fmt.Sprintf(".scripthit %s %d", x.Name, id) }

func eventFuncs() []*Func {
	const g = "Events"
	return []*Func{
		{Name: "on", Group: g, Scripts: true, NoTarget: true, Summary: "Calls a function when something happens. Functions are called while the target stands: what happens while it runs is told at the next stop, in order. They must not let the target go.",
			Params: []Param{
				{Name: "event", Kind: Text, Doc: "`stop`: the target stopped where you see it; the function gets what stop() returns. `module`: one was loaded or unloaded; it gets name, path, unload, base, size. `print`: it gets the text of a DbgPrint. `unload`: the extension is unloaded or loaded anew; no argument"},
				{Name: "function", Kind: Function, Doc: "what is called"},
			},
			Returns: "nothing", Example: `on("module", lambda m: print("unloaded" if m.unload else "loaded", m.name))`,
			run: func(c *invocation, a args) (any, error) {
				name := a.text(0)
				if !slices.Contains(eventNames, name) {
					return nil, fmt.Errorf("%q is no event: %s", name, strings.Join(eventNames, ", "))
				}
				if len(c.ext.handlers[name]) >= 100 {
					return nil, errors.New("more than 100 functions wait for one event")
				}
				c.ext.handlers[name] = append(c.ext.handlers[name], a[1].(starlark.Callable))
				c.m.events.want(append([]*Extension{c.ext}, c.m.chain...))
				return nil, nil
			}},
	}
}

// takesArgument says whether a function of a script can take one.
func takesArgument(f starlark.Callable) bool {
	fn, ok := f.(*starlark.Function)
	return !ok || fn.NumParams() > 0
}
