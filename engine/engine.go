package engine

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"openkd/arch"
	"openkd/kdproto"
	"openkd/target"
)

// Options of an Engine. The zero value is usable.
type Options struct {
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Name is the session's name for display, such as
	// "Remote KD: KdSrv:Server=@{<Local>},Trans=@{COM:Port=...}".
	Name string
	// Sink gets every event in order; nil drops them.
	Sink Sink
	// Symbols answers names; nil leaves the names of modules only.
	Symbols Symbols
	// Files gives image and symbol files; nil: there are none.
	Files Files
	// Config is what the user wants of the session: initial break, stops at
	// module loads. New does not send it; Configure does.
	Config target.Config
	// StopFirstChance stops at first-chance exceptions from the beginning, which
	// are otherwise announced and passed on (-x). Filters change it.
	StopFirstChance bool
	// CacheSize limits the memory cache, in bytes; 0 means DefaultCacheSize.
	CacheSize int
}

// Sink takes events. Event is called in order from the goroutine of Run, and
// before a Wait that the event ends returns. It may call methods of the engine
// that do not talk to the target; it must not wait for Run.
type Sink interface{ Event(Event) }

// Symbols answers names.
//
// Concurrency: from any goroutine.
type Symbols interface {
	// Lookup finds the address of a name such as "nt!KeBugCheckEx". It may look
	// for symbol files, and ask the target which ones. The error says why there
	// is none.
	Lookup(ctx context.Context, name string) (addr uint64, err error)
	// Name finds the nearest name at or below an address and the distance. It
	// neither waits nor talks to the target.
	Name(addr uint64) (name string, displacement uint64, ok bool)
}

// Event is an event of the target with what the engine knows about it. Stops
// that were passed silently (pass counts, other threads at a step over) do not
// appear.
type Event struct {
	target.Event
	// Stop goes with EventHalted.
	Stop *Stop
	// Name goes with EventModule: the module's name as commands spell it.
	Name string
}

// Errors a caller decides on.
var (
	ErrRunning         = target.ErrRunning
	ErrUnknownRegister = errors.New("no such register")
	ErrUnknownMachine  = errors.New("no target has been met yet, so its processor is not known")
)

// StatusError is a request that the target refused.
type StatusError struct {
	What   string // "write of the context of processor 1"
	Status kdproto.Status
}

func (e *StatusError) Error() string {
	return fmt.Sprintf("the target refused the %s: status %s", e.What, e.Status)
}

// Engine is the debugger of one target.
//
// Concurrency: Run is called once and pumps events; every other method may be
// called from any goroutine. Methods that move the target (Go, Step, Switch,
// control) are meant for one caller at a time, the command prompt; a second
// one gets ErrRunning or the target's own refusal, never a mixed state.
// Methods that read may run beside each other.
type Engine struct {
	t   target.Target
	opt Options
	bps *Breakpoints

	// mu guards what follows. It is never held during a call of the target or
	// of the sink.
	mu          sync.Mutex
	change      chan struct{} // closed and replaced at every change that Wait looks at
	running     bool          // Run was called
	filters     []Filter      // ld, ud, ibp and iml stop as opt.Config says
	version     *kdproto.Version
	data        []byte
	arch        *arch.Arch
	halt        *halt   // the stop that the user sees; nil while it runs
	internal    *halt   // the stop being judged by the pump
	motion      *motion // what the target was let go for; nil when it ran by itself
	switching   chan error
	switchCPU   int
	lost        string // reason of a loss that no Wait has reported yet
	isLost      bool
	closed      bool
	closeText   string
	slow        bool // the line is paced: read ahead little
	config      target.Config
	userBreak   bool   // the stop that comes was asked for by the user too
	stopPlacing func() // ends the search for symbols while the target stands unseen
	strayStep   bool   // a step was interrupted: one single-step exception more may come
	rebooted    bool
	// toldRunning: the sink knows that the target runs.
	toldRunning bool
	headerFor   uint64 // kernel base whose image header was looked at
	lastStop    *Stop
	mods        modules
	lastBug     uint64 // status of the last bug check stop, to say that it repeats
	cacheSize   int
	images      images // has its own lock
}

// New makes an engine over t. Nothing happens until Run.
func New(t target.Target, opt Options) *Engine {
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.CacheSize <= 0 {
		opt.CacheSize = DefaultCacheSize
	}
	e := &Engine{t: t, opt: opt, change: make(chan struct{}), config: opt.Config, cacheSize: opt.CacheSize}
	e.bps = &Breakpoints{e: e}
	e.filters = newFilters(opt.StopFirstChance)
	return e
}

// SetSink names the taker of events. It must be called before Run.
func (e *Engine) SetSink(s Sink) { e.opt.Sink = s }

// SetSymbols names the source of names. It must be called before Run.
func (e *Engine) SetSymbols(s Symbols) { e.opt.Symbols = s }

// SessionName is the session's name for display.
func (e *Engine) SessionName() string { return e.opt.Name }

// Now is the engine's clock.
func (e *Engine) Now() time.Time { return e.opt.Now() }

// Target is what the engine drives. Callers that send requests of their own
// should use Do, which keeps the cache true.
func (e *Engine) Target() target.Target { return e.t }

// Run pumps the target's events until the session is closed (nil) or ctx ends
// (its error). It must be running for anything else to make progress.
func (e *Engine) Run(ctx context.Context) error {
	e.mu.Lock()
	if e.running {
		e.mu.Unlock()
		return errors.New("engine: Run was called twice")
	}
	e.running = true
	e.mu.Unlock()
	for {
		ev, err := e.t.Next(ctx)
		if err != nil {
			text := err.Error()
			if errors.Is(err, target.ErrClosed) {
				text, err = "", nil
			}
			e.mu.Lock()
			e.close(text)
			e.mu.Unlock()
			return err
		}
		e.handle(ctx, ev)
		if ev.Kind == target.EventClosed {
			return nil
		}
	}
}

// handle takes one event: state first, then the sink, then whoever waits.
func (e *Engine) handle(ctx context.Context, ev target.Event) {
	switch ev.Kind {
	case target.EventHalted:
		if ev.Stop == nil {
			return
		}
		e.halted(ctx, ev)
		return
	case target.EventConnected:
		e.connected(ctx, ev)
	case target.EventReloaded:
		e.reloaded(ctx, ev)
		return
	case target.EventModule:
		e.mu.Lock()
		name := ""
		if ev.Module != nil {
			name = e.moduleEvent(ev.Module)
		}
		e.mu.Unlock()
		e.emit(Event{Event: ev, Name: name})
		if m := ev.Module; m != nil && m.Unload && !m.All {
			e.moduleGone(ctx, m.Base)
		}
		return
	case target.EventRunning:
		e.mu.Lock()
		// A resume of ours is known already. One that is not ours (another
		// hand on the session, a lease that ended) voids the view all the same.
		if e.motion == nil && e.switching == nil && e.halt != nil {
			e.halt = nil
			e.wake()
		}
		// Passing a stop silently is no news.
		told := e.toldRunning
		e.toldRunning = true
		e.mu.Unlock()
		if told {
			return
		}
	}
	e.emit(Event{Event: ev})
	switch ev.Kind {
	case target.EventConnected:
		e.mu.Lock()
		e.isLost, e.lost = false, ""
		e.wake()
		e.mu.Unlock()
	case target.EventLost:
		e.mu.Lock()
		e.halt, e.internal, e.motion = nil, nil, nil
		e.isLost, e.lost = true, ev.Text
		if e.lost == "" {
			e.lost = "the target does not answer"
		}
		e.endSwitch(target.ErrLost)
		e.wake()
		e.mu.Unlock()
	case target.EventClosed:
		e.mu.Lock()
		e.close(ev.Text)
		e.mu.Unlock()
	}
}

func (e *Engine) connected(ctx context.Context, ev target.Event) {
	e.mu.Lock()
	if ev.Version != nil {
		v := *ev.Version
		if e.version != nil && e.version.KernBase != v.KernBase {
			e.mods.forget()
			e.images.forgetAll()
		}
		e.version = &v
		e.arch, _ = arch.For(v.Machine)
	}
	e.data = ev.DataBlock
	e.mu.Unlock()
	if st, err := e.t.Status(ctx); err == nil {
		e.mu.Lock()
		e.slow = st.Speed > 0 && st.Speed < 2_000_000
		e.mu.Unlock()
	}
}

// emit hands an event to the sink.
func (e *Engine) emit(ev Event) {
	if ev.Time.IsZero() {
		ev.Time = e.opt.Now()
	}
	if e.opt.Sink != nil {
		e.opt.Sink.Event(ev)
	}
}

func (e *Engine) notice(format string, a ...any) {
	e.emit(Event{Event: target.Event{Kind: target.EventNotice, Text: fmt.Sprintf(format, a...)}})
}

// wake tells every Wait to look again. mu is held.
func (e *Engine) wake() {
	close(e.change)
	e.change = make(chan struct{})
}

// close marks the end of the session. mu is held.
func (e *Engine) close(text string) {
	e.halt, e.internal, e.motion = nil, nil, nil
	e.closed, e.closeText = true, text
	e.endSwitch(target.ErrClosed)
	e.wake()
}

// OutcomeKind is what ended a Wait.
type OutcomeKind uint8

// Outcomes.
const (
	Stopped OutcomeKind = iota // Stop
	Lost                       // Text; the session goes on looking, Wait again
	Closed                     // Text
)

// Outcome is what ended a Wait.
type Outcome struct {
	Kind OutcomeKind
	Text string
	Stop *Stop
}

// Wait returns when the target is halted at a stop that the user must see,
// when the link is lost (once per loss), or when the session is closed. The
// error is the context's.
func (e *Engine) Wait(ctx context.Context) (Outcome, error) {
	for {
		e.mu.Lock()
		switch {
		case e.closed:
			text := e.closeText
			e.mu.Unlock()
			return Outcome{Kind: Closed, Text: text}, nil
		case e.halt != nil:
			s := e.lastStop
			e.mu.Unlock()
			return Outcome{Kind: Stopped, Stop: s}, nil
		case e.lost != "":
			text := e.lost
			e.lost = ""
			e.mu.Unlock()
			return Outcome{Kind: Lost, Text: text}, nil
		}
		c := e.change
		e.mu.Unlock()
		select {
		case <-c:
		case <-ctx.Done():
			return Outcome{}, ctx.Err()
		}
	}
}

// Halted reports whether the target stands at a stop that the user sees.
func (e *Engine) Halted() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.halt != nil
}

// IsLost reports whether the link is lost and looked for again.
func (e *Engine) IsLost() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.isLost
}

// IsClosed reports whether the session has ended.
func (e *Engine) IsClosed() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.closed
}

// Stop is the target's record of the current stop, nil while it runs. It must
// not be changed.
func (e *Engine) Stop() *target.Stop {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.halt == nil {
		return nil
	}
	return e.halt.stop
}

// LastStop is the last stop that the user saw, nil before the first. It stays
// while the target runs.
func (e *Engine) LastStop() *Stop {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.lastStop
}

// Version is the version block of the target met last, nil before.
func (e *Engine) Version() *kdproto.Version {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.version
}

// DataBlock is the debugger data block (KDDEBUGGER_DATA64), nil where the
// target has none. It must not be changed.
func (e *Engine) DataBlock() []byte {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.data
}

// Arch is the target's processor architecture, nil before it is known.
func (e *Engine) Arch() *arch.Arch {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.arch
}

// view returns what a command looks at: the halt and the architecture.
func (e *Engine) view() (*halt, *arch.Arch, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.viewLocked()
}

// viewFor is view, or with the ctx of judging what the pump looks at.
func (e *Engine) viewFor(ctx context.Context) (*halt, *arch.Arch, error) {
	h, _ := ctx.Value(haltKey{}).(*halt)
	e.mu.Lock()
	defer e.mu.Unlock()
	if h != nil && h == e.internal && e.arch != nil {
		return h, e.arch, nil
	}
	return e.viewLocked()
}

// viewLocked is view. mu is held.
func (e *Engine) viewLocked() (*halt, *arch.Arch, error) {
	switch {
	case e.closed:
		return nil, nil, target.ErrClosed
	case e.halt == nil && e.isLost:
		return nil, nil, target.ErrLost
	case e.halt == nil && e.version == nil:
		return nil, nil, target.ErrNotReady
	case e.halt == nil:
		return nil, nil, target.ErrRunning
	case e.arch == nil:
		if e.version != nil {
			return nil, nil, fmt.Errorf("the target's processor, %s, is not one this debugger knows (x86, x64, ARM64)", e.version.Machine)
		}
		return nil, nil, ErrUnknownMachine
	}
	return e.halt, e.arch, nil
}

// Do runs a batch in one exchange and puts the answers together. What it
// changes in the target is dropped from the cache.
func (e *Engine) Do(ctx context.Context, batch ...target.Request) ([]target.Reply, error) {
	h, _, err := e.view()
	if err != nil {
		return nil, err
	}
	return e.do(ctx, h, batch...)
}

func (e *Engine) do(ctx context.Context, h *halt, batch ...target.Request) ([]target.Reply, error) {
	r, err := target.Collect(ctx, e.t, batch...)
	for i := range batch {
		switch batch[i].Op {
		case target.OpWriteVirtual, target.OpWritePhysical, target.OpFill, target.OpPageIn, target.OpWriteIO, target.OpWriteBus:
			h.dropMemory()
			e.images.forgetAll()
		case target.OpWriteControl, target.OpSetContext:
			h.dropCPU(int(batch[i].Processor))
		}
	}
	return r, err
}

// Stream runs a batch and hands the parts to sink as they come, for answers
// that are too large to hold or that a person wants to see arrive.
func (e *Engine) Stream(ctx context.Context, batch []target.Request, sink func(target.Part) error) error {
	if _, _, err := e.view(); err != nil {
		return err
	}
	return e.t.Do(ctx, batch, sink)
}

// Configure changes what the user wants of the session.
func (e *Engine) Configure(ctx context.Context, c target.Config) error {
	e.mu.Lock()
	e.opt.Config = c
	e.mu.Unlock()
	return e.pushConfig(ctx)
}

// Config is what the user wants of the session.
func (e *Engine) Config() target.Config {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.opt.Config
}

// pushConfig sends the user's wishes, widened by what the engine needs to
// place breakpoints: those that are set need a stop at the kernel's load after a
// reboot, those in modules that are not loaded yet one at that load.
func (e *Engine) pushConfig(ctx context.Context) error {
	c, same := e.wantedConfig()
	if same {
		return nil
	}
	return e.forceConfig(ctx, c)
}

// wantedConfig is what pushConfig would send, and whether the target has it
// already.
func (e *Engine) wantedConfig() (c target.Config, same bool) {
	pending, set := e.bps.pending(), e.bps.any()
	e.mu.Lock()
	defer e.mu.Unlock()
	c = e.opt.Config
	c.BreakOnFirstLoad = c.BreakOnFirstLoad || set
	for _, name := range pending {
		// The target compares file names: a module name that was made to fit
		// (nt, odd letters) is not one.
		switch {
		case name == "nt" || strings.ContainsAny(name, "_$@*"):
			c.StopOnLoad = "*"
		case c.StopOnLoad == "":
			c.StopOnLoad = name
		case c.StopOnLoad != name:
			c.StopOnLoad = "*"
		}
	}
	return c, c == e.config
}

// tellConfig is pushConfig where nobody waits for its error.
func (e *Engine) tellConfig(ctx context.Context) {
	if err := e.pushConfig(ctx); err != nil {
		e.notice("The target was not told which stops are wanted from now on: %v", err)
	}
}

// moduleGone takes the breakpoints of an unloaded module off until it comes
// again.
func (e *Engine) moduleGone(ctx context.Context, base uint64) {
	lines := e.bps.unloaded(base)
	for _, l := range lines {
		e.notice("%s", l)
	}
	if len(lines) > 0 {
		e.tellConfig(ctx)
	}
}

func (e *Engine) forceConfig(ctx context.Context, c target.Config) error {
	if err := e.t.Control(ctx, target.Control{Op: target.ControlConfigure, Config: c}); err != nil {
		return err
	}
	e.mu.Lock()
	e.config = c
	e.mu.Unlock()
	return nil
}

// SendConfig sends the configuration of Options once, whatever was sent
// before. A session calls it when it starts.
func (e *Engine) SendConfig(ctx context.Context) error {
	return e.forceConfig(ctx, e.Config())
}

// BreakIn asks a running target to stop; the stop comes through Wait.
//
// A target that is halted only for a moment, at a stop that the user is not to
// see, says that it is halted already; then the next such stop is shown, or the
// request is made again.
func (e *Engine) BreakIn(ctx context.Context) error {
	e.mu.Lock()
	e.userBreak = true
	stop := e.stopPlacing
	e.mu.Unlock()
	if stop != nil {
		stop()
	}
	for try := 0; ; try++ {
		err := e.t.BreakIn(ctx)
		if !errors.Is(err, target.ErrHalted) || e.Halted() || try == 100 {
			return err
		}
		t := time.NewTimer(10 * time.Millisecond)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

// Answer answers the prompt of the target (EventPrompt).
func (e *Engine) Answer(ctx context.Context, text string) error { return e.t.Answer(ctx, text) }

// Status says where the session stands.
func (e *Engine) Status(ctx context.Context) (target.Status, error) { return e.t.Status(ctx) }

// Leave ends the session: breakpoints of ours are removed; with LeaveRunning
// a halted target is let go.
func (e *Engine) Leave(ctx context.Context, l target.Leave) error {
	err := e.t.Close(ctx, l)
	e.mu.Lock()
	e.halt, e.internal, e.motion = nil, nil, nil // EventClosed tells the rest
	e.mu.Unlock()
	return err
}

// Reboot resets the halted machine.
func (e *Engine) Reboot(ctx context.Context) error { return e.depart(ctx, target.ControlReboot) }

// Crash makes the halted machine bug check with code 0xE2.
func (e *Engine) Crash(ctx context.Context) error { return e.depart(ctx, target.ControlCrash) }

// depart sends an order after which the target runs.
func (e *Engine) depart(ctx context.Context, op target.ControlOp) error {
	h, _, err := e.view()
	if err != nil && !errors.Is(err, ErrUnknownMachine) {
		return err
	}
	e.tellConfig(ctx)
	e.mu.Lock()
	e.halt, e.motion = nil, &motion{kind: motionGo}
	e.mu.Unlock()
	if err := e.t.Control(ctx, target.Control{Op: op}); err != nil {
		e.restore(h)
		return err
	}
	return nil
}

// Resync starts the numbering of the link anew.
func (e *Engine) Resync(ctx context.Context) error {
	return e.t.Control(ctx, target.Control{Op: target.ControlResync})
}

// Reopen closes and opens the line again.
func (e *Engine) Reopen(ctx context.Context) error {
	e.mu.Lock()
	e.halt, e.internal, e.motion = nil, nil, nil // it is met again
	e.wake()
	e.mu.Unlock()
	return e.t.Control(ctx, target.Control{Op: target.ControlReopen})
}
