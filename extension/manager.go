package extension

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.starlark.net/starlark"
	"go.starlark.net/syntax"

	"openkd/engine"
	"openkd/image/sym"
	"openkd/target"
)

// Host is the command session that scripts belong to. Its methods are called
// from one goroutine at a time, while the one that called the Manager waits.
type Host interface {
	// Eval is the value of an expression.
	Eval(ctx context.Context, expression string) (uint64, error)
	// Radix is the base of numbers in expressions.
	Radix() int
	// Run runs commands and writes to w what they write. With still they must
	// neither let the target go nor end the session. An *Unwind ends the script.
	Run(ctx context.Context, commands string, w io.Writer, still bool) error
	// Interrupted says why nothing more is to be run, nil if nothing hinders.
	Interrupted(ctx context.Context) error
	// Output is where commands write now.
	Output() io.Writer
}

// Unwind ends a script at once, without a message: the session ends, the person
// interrupts, or a breakpoint's commands let the target go.
type Unwind struct{ Err error }

func (u *Unwind) Error() string { return u.Err.Error() }
func (u *Unwind) Unwrap() error { return u.Err }

// ScriptError is what went wrong in a script, with where it was.
type ScriptError struct {
	Text string
	Err  error
}

func (e *ScriptError) Error() string { return e.Text }
func (e *ScriptError) Unwrap() error { return e.Err }

// Options of a Manager. The zero value is usable.
type Options struct {
	// Allow is asked before a file is read, with its path; an error refuses it.
	// main: it is the script itself, not a file that it loads, which lies in the
	// script's folder, below it or on the search path.
	Allow func(path string, main bool) error
	// Path are the folders that are searched besides the current one.
	Path []string
	// Limits and Callbacks are those of commands and of callbacks; zero fields
	// mean the defaults.
	Limits, Callbacks Limits
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Ext is what the name of a script's file ends in.
const Ext = ".star"

// EnvPath is WinDbg's variable with folders of extensions.
const EnvPath = "_NT_DEBUGGER_EXTENSION_PATH"

// Manager is a session's extensions.
//
// Concurrency: Note may be called from any goroutine, everything else from the
// one that owns the session. A script runs on a goroutine of its own while that
// one waits for it.
type Manager struct {
	e    *engine.Engine
	host Host
	opt  Options

	chain   []*Extension // newest first
	deflt   string       // of .setdll
	path    []string
	state   map[string]*starlark.Dict // by extension, for the session
	api     []*Func
	byName  map[string]*Func
	current *invocation // the innermost script that runs
	epoch   uint64      // counts what scripts may have changed in the target
	fields  map[fieldKey]fieldInfo
	grace   time.Duration  // that a script has to end when it is told to
	stuck   sync.WaitGroup // scripts that were given up and have not ended

	events eventQueue
}

// Extension is a loaded script.
type Extension struct {
	Name string
	Path string

	commands []*scriptCommand
	handlers map[string][]starlark.Callable // by event
	hits     map[int]starlark.Callable      // by breakpoint
	globals  starlark.StringDict
	sums     map[string][sha256.Size]byte // of the files, by path
	modules  map[string]*scriptModule
	dead     bool
}

type scriptModule struct {
	globals starlark.StringDict
	err     error
	loading bool
}

type scriptCommand struct {
	name string
	f    starlark.Callable
	help string
	args bool // it takes the arguments
}

// New makes a Manager without extensions.
func New(e *engine.Engine, host Host, opt Options) *Manager {
	fill := func(l *Limits, d Limits) {
		if l.Steps == 0 {
			l.Steps = d.Steps
		}
		if l.Time == 0 {
			l.Time = d.Time
		}
		if l.Memory == 0 {
			l.Memory = d.Memory
		}
		if l.Output == 0 {
			l.Output = d.Output
		}
		if l.Depth == 0 {
			l.Depth = d.Depth
		}
	}
	fill(&opt.Limits, DefaultLimits())
	fill(&opt.Callbacks, CallbackLimits())
	if opt.Now == nil {
		opt.Now = time.Now
	}
	m := &Manager{
		e: e, host: host, opt: opt, path: opt.Path, state: map[string]*starlark.Dict{},
		api: Functions(), byName: map[string]*Func{}, fields: map[fieldKey]fieldInfo{}, grace: grace,
	}
	for _, f := range m.api {
		m.byName[f.Name] = f
	}
	return m
}

// SplitPath takes a list of folders apart: semicolons everywhere, and colons
// where they separate.
func SplitPath(text string) []string {
	var l []string
	for _, p := range strings.Split(text, ";") {
		for _, d := range filepath.SplitList(p) {
			if d = strings.TrimSpace(d); d != "" {
				l = append(l, d)
			}
		}
	}
	return l
}

// Path are the folders that are searched.
func (m *Manager) Path() []string { return slices.Clone(m.path) }

// SetPath changes them.
func (m *Manager) SetPath(folders []string) { m.path = slices.Clone(folders) }

// Default is the extension that is searched first, "" for none.
func (m *Manager) Default() string { return m.deflt }

// SetDefault makes a loaded extension the one that is searched first.
func (m *Manager) SetDefault(name string) error {
	x := m.Named(name)
	if x == nil {
		return fmt.Errorf("no extension %s is loaded; .chain lists them", name)
	}
	m.deflt = x.Name
	return nil
}

// Chain lists the extensions in the order in which they are searched.
func (m *Manager) Chain() []*Extension {
	l := slices.Clone(m.chain)
	slices.SortStableFunc(l, func(a, b *Extension) int {
		switch {
		case a.Name == m.deflt && b.Name != m.deflt:
			return -1
		case b.Name == m.deflt && a.Name != m.deflt:
			return 1
		}
		return 0
	})
	return l
}

// Named finds a loaded extension by its name or the path of its file.
func (m *Manager) Named(name string) *Extension {
	abs, _ := filepath.Abs(name)
	withExt, _ := filepath.Abs(name + Ext)
	for _, x := range m.chain {
		if strings.EqualFold(x.Name, name) || strings.EqualFold(x.Name+Ext, name) || x.Path == abs || x.Path == withExt {
			return x
		}
	}
	return nil
}

// Commands lists the names of an extension's commands.
func (x *Extension) Commands() []string {
	l := make([]string, len(x.commands))
	for i, c := range x.commands {
		l[i] = c.name
	}
	return l
}

func (x *Extension) command(name string) *scriptCommand {
	for _, c := range x.commands {
		if c.name == name {
			return c
		}
	}
	for _, c := range x.commands {
		if strings.EqualFold(c.name, name) {
			return c
		}
	}
	return nil
}

// find looks for a file as .load names it.
func (m *Manager) find(name string) (string, error) {
	if name == "" {
		return "", errors.New("the name of a script file is missing")
	}
	var names []string
	if !strings.EqualFold(filepath.Ext(name), Ext) {
		names = append(names, name+Ext)
	}
	names = append(names, name)
	var refused error // of one that is there; another may be allowed
	folders := []string{""}
	if !filepath.IsAbs(name) {
		folders = append(folders, m.path...)
	}
	for _, d := range folders {
		for _, n := range names {
			p := filepath.Join(d, n)
			if st, err := os.Stat(p); err != nil || !st.Mode().IsRegular() {
				continue
			}
			abs, err := filepath.Abs(p)
			if err != nil {
				return "", err
			}
			if err := m.allowed(abs, true); err == nil {
				return abs, nil
			} else if refused == nil {
				refused = err
			}
		}
	}
	if refused != nil {
		return "", refused
	}
	where := "the current folder"
	if filepath.IsAbs(name) {
		where = filepath.Dir(name)
	} else if len(m.path) > 0 {
		where += ", " + strings.Join(m.path, ", ")
	}
	return "", fmt.Errorf("there is no script %s in %s. .extpath+ adds a folder", names[0], where)
}

// allowed asks whether a file may be read.
func (m *Manager) allowed(path string, main bool) error {
	if m.opt.Allow == nil {
		return nil
	}
	return m.opt.Allow(path, main)
}

// Resolve finds the file that Load would load.
func (m *Manager) Resolve(name string) (string, error) { return m.find(name) }

// Expel unloads the extensions that may not be any more, by the rules of
// Options.Allow as they are now, without a call of theirs. The errors name them.
func (m *Manager) Expel(ctx context.Context) []error {
	var out []error
	for _, x := range m.Chain() {
		err := m.allowed(x.Path, true)
		for path := range x.sums {
			if err == nil && path != x.Path {
				err = m.allowed(path, false)
			}
		}
		if err != nil {
			m.drop(ctx, dying(x), nil)
			out = append(out, fmt.Errorf("%s is unloaded: %w", x.Name, err))
		}
	}
	return out
}

// nameOf is the name of an extension by its file.
func nameOf(path string) string {
	base := strings.TrimSuffix(filepath.Base(path), filepath.Ext(path))
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' {
			return r
		}
		return '_'
	}, base)
}

// readSource reads a script. The folder bounds what a link may lead to; "" does
// not.
func (m *Manager) readSource(path, folder string, main bool) ([]byte, error) {
	if err := m.allowed(path, main); err != nil {
		return nil, err
	}
	var f *os.File
	var err error
	if folder == "" {
		f, err = os.Open(path)
	} else {
		var root *os.Root
		if root, err = os.OpenRoot(folder); err != nil {
			return nil, err
		}
		defer root.Close()
		rel, rerr := filepath.Rel(folder, path)
		if rerr != nil {
			return nil, rerr
		}
		f, err = root.Open(rel)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	b, err := io.ReadAll(io.LimitReader(f, maxSource+1))
	if err != nil {
		return nil, err
	}
	return bytes.TrimPrefix(b, []byte("\ufeff")), nil
}

// Load loads a script by its file or name. One that is loaded already and has
// not changed is only put in front; again loads it anew in any case. If it
// cannot be loaded what was there stays.
func (m *Manager) Load(ctx context.Context, name string, again bool) (*Extension, error) {
	path, err := m.find(name)
	if err != nil {
		return nil, err
	}
	old := m.Named(nameOf(path))
	if old != nil && old.Path == path && !again && !m.changed(old) {
		m.front(old)
		return old, nil
	}
	x := &Extension{
		Name: nameOf(path), Path: path, handlers: map[string][]starlark.Callable{}, hits: map[int]starlark.Callable{},
		sums: map[string][sha256.Size]byte{}, modules: map[string]*scriptModule{},
	}
	if _, err := m.loadFile(ctx, x); err != nil {
		m.clearHits(x, old)
		return nil, err
	}
	if old != nil {
		m.drop(ctx, old, x)
	}
	m.chain = append([]*Extension{x}, m.chain...)
	m.events.want(m.chain)
	return x, nil
}

func (m *Manager) loadFile(ctx context.Context, x *Extension) (starlark.Value, error) {
	return m.run(ctx, x, false, func(t *starlark.Thread) (starlark.Value, error) {
		main := &scriptModule{loading: true}
		x.modules[x.Path] = main
		main.globals, main.err = m.exec(t, x, x.Path, "")
		main.loading = false
		x.globals = main.globals
		err := main.err
		return starlark.None, err
	})
}

// exec reads, compiles and runs a file of an extension.
func (m *Manager) exec(t *starlark.Thread, x *Extension, path, folder string) (starlark.StringDict, error) {
	src, err := m.readSource(path, folder, path == x.Path)
	if err != nil {
		return nil, err
	}
	x.sums[path] = sha256.Sum256(src)
	return m.compile(t, x, path, src)
}

func (m *Manager) compile(t *starlark.Thread, x *Extension, path string, src []byte) (starlark.StringDict, error) {
	f, err := parse(path, src)
	if err != nil {
		return nil, err
	}
	env := m.predeclared(x)
	prog, err := starlark.FileProgram(f, env.Has)
	if err != nil {
		return nil, err
	}
	// Globals are not frozen, as those of modules elsewhere are: counters and
	// tables of a command live in them. One script runs at a time.
	return prog.Init(t, env)
}

// predeclared are the names that a script has.
func (m *Manager) predeclared(x *Extension) starlark.StringDict {
	env := guards()
	for name, v := range universe() {
		env[name] = v
	}
	for _, f := range m.api {
		env[f.Name] = m.builtin(f)
	}
	key := strings.ToLower(x.Name)
	if m.state[key] == nil {
		m.state[key] = starlark.NewDict(8)
	}
	env["state"] = m.state[key]
	return env
}

const invocationKey = "invocation"

// builtin is a function of the API for scripts.
func (m *Manager) builtin(f *Func) *starlark.Builtin {
	return starlark.NewBuiltin(f.Name, func(t *starlark.Thread, _ *starlark.Builtin, given starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
		c, ok := t.Local(invocationKey).(*invocation)
		if !ok {
			return nil, errors.New("no script runs")
		}
		a, err := c.fromStarlark(f, given, kwargs)
		var v any
		if err == nil {
			v, err = c.do(f, a)
		}
		if err != nil {
			if e, ok := err.(*ArgError); ok {
				return nil, &ArgError{"", e.Param, e.Err}
			}
			return nil, err
		}
		s := toStarlark(v)
		if n := length(s); n > 0 {
			if err := charge(t, size(s, n)); err != nil {
				return nil, err
			}
		}
		return s, nil
	})
}

// do runs a function of the API. Meanwhile the script's clock stands.
func (c *invocation) do(f *Func, a args) (any, error) {
	c.b.rest()
	defer c.b.work()
	if err := c.ctx.Err(); err != nil {
		return nil, err
	}
	if !f.NoTarget && !c.m.e.Halted() {
		return nil, target.ErrRunning
	}
	return f.run(c, a)
}

// load serves load() of a script: files of the same folder and below it, and of
// the search path.
func (m *Manager) load(t *starlark.Thread, x *Extension, from, module string) (starlark.StringDict, error) {
	if !filepath.IsLocal(filepath.FromSlash(module)) {
		return nil, errors.New("a script loads files of its own folder, of those below it and of .extpath, by a relative name")
	}
	var path, folder string
	for _, d := range append([]string{filepath.Dir(from)}, m.path...) {
		abs, err := filepath.Abs(d)
		if err != nil {
			continue
		}
		p := filepath.Join(abs, filepath.FromSlash(module))
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() {
			path, folder = p, abs
			break
		}
	}
	if path == "" {
		return nil, fmt.Errorf("there is no such file in %s and on .extpath", filepath.Dir(from))
	}
	if mod := x.modules[path]; mod != nil {
		if mod.loading {
			return nil, errors.New("the files load each other in a circle")
		}
		return mod.globals, mod.err
	}
	if len(x.modules) >= 100 {
		return nil, errors.New("more than 100 files are loaded")
	}
	mod := &scriptModule{loading: true}
	x.modules[path] = mod
	// The same budget, the same invocation: it is the same script.
	sub := m.thread(t.Local(invocationKey).(*invocation), path)
	sub.Steps = t.Steps
	stop := context.AfterFunc(sub.Local(invocationKey).(*invocation).ctx, func() { sub.Cancel("interrupted") })
	defer stop()
	mod.globals, mod.err = m.exec(sub, x, path, folder)
	t.Steps = sub.Steps
	mod.loading = false
	return mod.globals, mod.err
}

// changed says whether one of an extension's files has.
func (m *Manager) changed(x *Extension) bool {
	for path, sum := range x.sums {
		b, err := m.readSource(path, "", path == x.Path)
		if err != nil || sha256.Sum256(b) != sum {
			return true
		}
	}
	return false
}

func (m *Manager) front(x *Extension) {
	m.chain = append([]*Extension{x}, slices.DeleteFunc(m.chain, func(y *Extension) bool { return y == x })...)
}

// Unload removes an extension, and its breakpoints with callbacks.
func (m *Manager) Unload(ctx context.Context, x *Extension) { m.drop(ctx, x, nil) }

func (m *Manager) drop(ctx context.Context, x, heir *Extension) {
	if !x.dead {
		m.fire(ctx, x, "unload", nil)
	}
	m.chain = slices.DeleteFunc(m.chain, func(y *Extension) bool { return y == x })
	if heir == nil && strings.EqualFold(m.deflt, x.Name) {
		m.deflt = ""
	}
	x.dead = true
	m.clearHits(x, heir)
	m.events.want(m.chain)
}

// clearHits removes the breakpoints of an extension that are not another one's.
func (m *Manager) clearHits(x, other *Extension) {
	for id := range x.hits {
		if other != nil && other.hits[id] != nil {
			continue
		}
		if bp, ok := m.e.Breakpoints().Get(id); ok && strings.EqualFold(bp.Command, hitCommand(x, id)) {
			m.e.Breakpoints().Clear(id)
		}
	}
}

// Close ends all extensions.
func (m *Manager) Close() {
	for _, x := range m.chain {
		x.dead = true
	}
	m.chain = nil
}

// Find finds what `!name` means: command of an extension of the chain, or
// extension.command, which may have to be loaded first.
func (m *Manager) Find(ctx context.Context, name string) (*Extension, string, error) {
	ext, cmd, qualified := strings.Cut(name, ".")
	if !qualified {
		for _, x := range m.Chain() {
			if x.command(name) != nil {
				return x, x.command(name).name, nil
			}
		}
		return nil, "", nil
	}
	x := m.Named(ext)
	if x == nil {
		if _, err := m.find(ext); err != nil || ext == "" {
			return nil, "", fmt.Errorf("no extension %s is loaded, and %w", ext, err)
		}
		var err error
		if x, err = m.Load(ctx, ext, false); err != nil {
			return nil, "", err
		}
	}
	if c := x.command(cmd); c != nil {
		return x, c.name, nil
	}
	if strings.EqualFold(cmd, "help") {
		return x, "help", nil
	}
	return x, "", fmt.Errorf("extension %s has no command %s; !%s.help lists what it has", x.Name, cmd, x.Name)
}

// Call runs a command of an extension with the arguments as they were typed.
func (m *Manager) Call(ctx context.Context, x *Extension, name, arguments string) error {
	c := x.command(name)
	if c == nil {
		return fmt.Errorf("extension %s has no command %s", x.Name, name)
	}
	_, err := m.run(ctx, x, false, func(t *starlark.Thread) (starlark.Value, error) {
		if !c.args {
			if strings.TrimSpace(arguments) != "" {
				return nil, fmt.Errorf("!%s takes no arguments", c.name)
			}
			return starlark.Call(t, c.f, nil, nil)
		}
		return starlark.Call(t, c.f, starlark.Tuple{starlark.String(strings.ToValidUTF8(arguments, "\ufffd"))}, nil)
	})
	return err
}

// Main runs the function main of an extension, if it has one.
func (m *Manager) Main(ctx context.Context, x *Extension) error {
	f, ok := x.globals["main"].(starlark.Callable)
	if !ok {
		return fmt.Errorf("%s has no function main", x.Path)
	}
	_, err := m.run(ctx, x, false, func(t *starlark.Thread) (starlark.Value, error) { return starlark.Call(t, f, nil, nil) })
	return err
}

// Help is what !ext.help shows, of one command or of all.
func (x *Extension) Help(name string) (string, error) {
	var b strings.Builder
	if name != "" {
		c := x.command(strings.TrimPrefix(strings.TrimPrefix(name, "!"), x.Name+"."))
		if c == nil {
			return "", fmt.Errorf("extension %s has no command %s; !%s.help lists what it has", x.Name, name, x.Name)
		}
		fmt.Fprintf(&b, "!%s.%s\n", x.Name, c.name)
		for line := range strings.Lines(c.help) {
			b.WriteString("    " + strings.TrimRight(line, "\n") + "\n")
		}
		return b.String(), nil
	}
	fmt.Fprintf(&b, "%s: %s\n", x.Name, x.Path)
	wide := 0
	for _, c := range x.commands {
		wide = max(wide, len(c.name))
	}
	for _, c := range x.commands {
		first, _, _ := strings.Cut(c.help, "\n")
		fmt.Fprintf(&b, "  %s\n", strings.TrimRight(fmt.Sprintf("!%-*s  %s", wide, c.name, first), " "))
	}
	return b.String(), nil
}

// Invoke calls a function of the API for a program, with arguments by name. What
// it returns is for encoding/json.
func (m *Manager) Invoke(ctx context.Context, name string, raw json.RawMessage) (any, error) {
	f := m.byName[name]
	if f == nil || f.Scripts {
		return nil, &ArgError{name, "", errors.New("it is not a function that programs can call; functions lists them")}
	}
	c := &invocation{m: m, ctx: ctx, host: m.host, b: newBudget(m.opt.Limits, m.opt.Now)}
	outer := m.current
	m.current = c
	defer func() { m.current = outer }()
	c.b.work()
	a, err := c.fromJSON(f, raw)
	if err != nil {
		return nil, err
	}
	v, err := c.do(f, a)
	if err != nil {
		var u *Unwind
		if errors.As(err, &u) {
			return nil, u.Err
		}
		return nil, err
	}
	return toJSON(v), nil
}

type parentKey struct{}

// thread makes a thread of the interpreter for an invocation.
func (m *Manager) thread(c *invocation, path string) *starlark.Thread {
	t := &starlark.Thread{Name: c.ext.Name}
	t.SetLocal(invocationKey, c)
	t.SetLocal(budgetKey, c.b)
	t.Load = func(t *starlark.Thread, module string) (starlark.StringDict, error) {
		return m.load(t, c.ext, path, module)
	}
	t.SetMaxExecutionSteps(checkEvery)
	t.OnMaxSteps = func(t *starlark.Thread) {
		t.SetMaxExecutionSteps(t.Steps + checkEvery)
		if err := c.b.step(t); err != nil {
			t.Cancel(err.Error())
		}
	}
	return t
}

// run runs something of an extension within the limits and waits for its end.
func (m *Manager) run(ctx context.Context, x *Extension, callback bool, f func(t *starlark.Thread) (starlark.Value, error)) (starlark.Value, error) {
	if x.dead {
		return nil, fmt.Errorf("extension %s was unloaded", x.Name)
	}
	c := &invocation{m: m, host: m.host, ext: x, callback: callback}
	if outer, ok := ctx.Value(parentKey{}).(*invocation); ok {
		// A script that runs a command of another one is still the same work, and
		// a callback's rules hold for all that it calls.
		c.callback = c.callback || outer.callback
		if !callback {
			c.b = outer.b
		}
	}
	if c.b == nil {
		l := m.opt.Limits
		if callback {
			l = m.opt.Callbacks
		}
		c.b = newBudget(l, m.opt.Now)
	}
	c.ctx = context.WithValue(ctx, parentKey{}, c)
	outer := m.current
	m.current = c
	defer func() { m.current = outer }()

	t := m.thread(c, x.Path)
	type result struct {
		v   starlark.Value
		err error
	}
	done := make(chan result, 1)
	c.b.work()
	go func() {
		defer func() {
			if p := recover(); p != nil { // of the interpreter or of ours: a script must not end the debugger
				done <- result{nil, fmt.Errorf("the script failed inside the debugger, which is a mistake of the debugger: %v", p)}
			}
		}()
		v, err := f(t)
		done <- result{v, err}
	}()

	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	interrupt := ctx.Done()
	var given time.Time // since when it should have ended
	for {
		select {
		case r := <-done:
			c.b.rest()
			c.b.steps += t.Steps
			return r.v, m.explain(ctx, c, r.err)
		case <-interrupt:
			interrupt = nil
			t.Cancel("interrupted")
			given = time.Now()
		case <-tick.C:
			late, working := c.b.late()
			if late != nil {
				t.Cancel(late.Error())
			}
			switch {
			case late == nil && interrupt != nil || !working:
				given = time.Time{}
			case given.IsZero():
				given = time.Now()
			case time.Since(given) > m.grace:
				// It hangs in one step of the interpreter, which can last for years
				// and where it changes nothing but values of its own. It ends when
				// that step does, or with the program.
				m.stuck.Go(func() { <-done })
				m.drop(context.WithoutCancel(ctx), dying(x), nil)
				return nil, fmt.Errorf("%s: %w", x.Name, errStuck)
			}
		}
	}
}

// dying marks an extension of which nothing may run any more.
func dying(x *Extension) *Extension {
	x.dead = true
	return x
}

// explain makes what a person reads of an error of a script.
func (m *Manager) explain(ctx context.Context, c *invocation, err error) error {
	if err == nil {
		return nil
	}
	var u *Unwind
	if errors.As(err, &u) {
		return u.Err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	limit, _ := c.b.late()
	var e *starlark.EvalError
	if !errors.As(err, &e) {
		return &ScriptError{err.Error(), err}
	}
	stack := slices.DeleteFunc(slices.Clone(e.CallStack), func(f starlark.CallFrame) bool { return isGuard(f.Name) })
	if limit != nil {
		// One line: where it was says more than how it came there.
		for i := len(stack) - 1; i >= 0; i-- {
			if f := stack[i]; f.Pos.Filename() != guardMark {
				return &ScriptError{fmt.Sprintf("%s: in %s: the script was ended: %v", f.Pos, f.Name, limit), limit}
			}
		}
		return &ScriptError{fmt.Sprintf("%s: the script was ended: %v", c.ext.Path, limit), limit}
	}
	msg := e.Msg
	var inner *ScriptError
	if errors.As(e.Unwrap(), &inner) {
		msg = inner.Text // of another script, or of a file that was loaded
	}
	return &ScriptError{(&starlark.EvalError{Msg: msg, CallStack: shorten(stack)}).Backtrace(), err}
}

func isGuard(name string) bool {
	switch name {
	case opAdd, opMul, opMod, opShift, opGrow, opAppend, opMethod:
		return true
	}
	return false
}

// shorten leaves the middle of a deep stack out.
func shorten(stack starlark.CallStack) starlark.CallStack {
	const most = 20
	if len(stack) <= most {
		return stack
	}
	out := slices.Clone(stack[:most/2])
	gap := starlark.CallFrame{Name: fmt.Sprintf("%d more calls", len(stack)-most), Pos: syntax.MakePosition(&dots, 0, 0)}
	return append(append(out, gap), stack[len(stack)-most/2:]...)
}

var dots = "..."

// fieldKey and fieldInfo remember where members are.
type fieldKey struct {
	file sym.File
	id   sym.TypeID
	name string
}

type fieldInfo struct {
	id  sym.TypeID
	off uint64
	err error
}

func (m *Manager) canon(v uint64) uint64 {
	if a := m.e.Arch(); a != nil {
		return a.Canon(v)
	}
	return v
}

// eventQueue holds what happened until scripts can be told.
type eventQueue struct {
	wants [3]atomic.Bool // by kind: stop, module, print
	mu    sync.Mutex
	list  []queued
	bytes int
	lost  int
}
