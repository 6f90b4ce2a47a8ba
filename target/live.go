package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"openkd/arch"
	"openkd/kdproto"
	"openkd/link"
)

// LiveOptions are what a live target needs to know.
type LiveOptions struct {
	// Open opens the line and starts a link on it. It is called again after the
	// line was lost. It may block until ctx ends (a line that waits for a
	// caller).
	Open func(ctx context.Context) (link.Host, error)
	// Temporary reports whether an error of Open may go away by waiting. Nil:
	// never.
	Temporary func(error) bool

	Line      string        // canonical spelling, for Status
	Name      string        // what a person calls the line, for messages
	Note      func() string // what is worth telling about the open line, "" for nothing; may be nil
	Speed     int           // bits per second, 0 for a line that is not paced
	Reconnect bool          // wait for the line at the start, too
	Waits     bool          // Open waits for a caller
	Config    Config
	// ReadSize is how many bytes of memory one request asks for at first, where
	// a link's packets may be smaller than KD's; it grows while the target gives
	// all of it. Writes keep to it. 0: as many as a packet holds.
	ReadSize int

	// Times; zero means the default. Tests shorten them.
	ReplyTimeout time.Duration // from acknowledgement to reply: 5 s
	PokeEvery    time.Duration // between attempts to get an answer at attach: 2 s
	BackOff      time.Duration // first wait before opening again: 200 ms, doubling to 2 s
	Hint         time.Duration // in one stage until a hint is given: 5 s
	// Leftover is how soon after it was let go a target stops for a break-in byte
	// that was lying in a buffer: 3 s.
	Leftover time.Duration
}

func (o *LiveOptions) defaults() {
	def := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	def(&o.ReplyTimeout, 5*time.Second)
	def(&o.PokeEvery, 2*time.Second)
	def(&o.BackOff, 200*time.Millisecond)
	def(&o.Hint, 5*time.Second)
	def(&o.Leftover, 3*time.Second)
	if o.ReadSize <= 0 || o.ReadSize > kdproto.MaxTransfer {
		o.ReadSize = kdproto.MaxTransfer
	}
	if o.Name == "" {
		o.Name = o.Line
	}
	if o.Temporary == nil {
		o.Temporary = func(error) bool { return false }
	}
}

// Live is a target at the end of a link.
//
// One goroutine, the owner, speaks to the link and holds all that is known
// about the target; methods queue their work to it. Another receives packets,
// so that the target's prints are acknowledged while the owner is busy.
//
// What it keeps invisible: a breakpoint of ours is taken out of the target
// when somebody looks at its bytes and put back at the next Resume, so reading
// never shows it, and leaving it in costs nothing while nobody looks.
type Live struct {
	opt    LiveOptions
	events *eventQueue
	work   chan func()
	ctx    context.Context
	cancel context.CancelFunc
	done   chan struct{} // the owner has ended

	mu          sync.Mutex // guards the following
	state       State
	since       time.Time
	stage       Stage
	host        link.Host // nil while the line is not open
	cfg         Config
	breakWanted bool // somebody waits for a stop
	breaksSent  int  // break-in bytes on their way that no stop has answered yet
	lastBreak   time.Time
	cancelBatch bool
	oldStats    link.Stats // of links before the present one
	promptOpen  bool

	// Of the owner alone.
	packets    chan link.Packet
	linkErr    chan error
	backlog    []link.Packet // packets set aside while waiting for another
	version    *kdproto.Version
	dataBlock  []byte
	breakPC    uint64 // BreakpointWithStatus of the data block, 0 unknown
	arch       *arch.Arch
	stop       *Stop // the present stop, nil while running
	report     kdproto.StateChange
	stops      uint64            // number of stops so far
	moved      bool              // the client set a context since the stop
	inserted   map[uint64]uint32 // breakpoints in the target: address to handle
	wanted     []uint64          // of the last Resume
	hw         [4]HWBreak        // of the last Resume
	hwWritten  [4]HWBreak        // what the processors' debug registers hold
	stepping   bool              // the last Resume was a step
	origin     int               // processor that reported the stop before Switch, -1 none
	originStop kdproto.StateChange
	resumed    time.Time
	swallow    *kdproto.StateChange // repeated report expected after resuming a switched target
	swallowBy  time.Time
	agreed     bool     // the numbering of this link was agreed: by SYNC or a RESET of ours
	freshStop  bool     // the report being handled starts a stream
	firstLoad  bool     // no module load was reported since the reload
	looked     []Memory // ranges read in this stop (Data unused but for its length)
	learnt     []Memory // of the stop before
	noSearch   bool     // the target does not search by itself
	noFill     bool
	pokes      int
	lastPoke   time.Time
	stageSince time.Time
	hinted     bool
	readSize   uint64 // bytes that one request asks for
	readMost   bool   // it does not hold more
	found      string // what the link told last of how it is found
	doubt      bool   // a break-in byte of an earlier debugger may be left in the target
	quiet      bool   // the line ended at once the last time; its comings and goings were told
}

// NewLive makes a live target. Start opens its line.
func NewLive(opt LiveOptions) *Live {
	opt.defaults()
	ctx, cancel := context.WithCancel(context.Background())
	return &Live{
		opt: opt, events: newEventQueue(), work: make(chan func()), ctx: ctx, cancel: cancel,
		done: make(chan struct{}), since: time.Now(), cfg: opt.Config, origin: -1,
		inserted: make(map[uint64]uint32), breakWanted: opt.Config.Break,
	}
}

// Start opens the line and starts the session. A line that is not there fails
// at once, unless Reconnect is set and waiting may help, or the line waits
// for a caller. After an error the target is closed.
func (l *Live) Start(ctx context.Context) error {
	l.setStage(StageOpening, "")
	if l.opt.Waits {
		l.emit(Event{Kind: EventStage, Stage: StageOpening, Text: "Waiting for a machine to connect to " + l.opt.Name})
		go l.own(nil)
		return nil
	}
	h, err := l.opt.Open(ctx)
	if err != nil {
		if !l.opt.Reconnect || !l.opt.Temporary(err) {
			l.cancel()
			l.setState(StateClosed)
			l.events.close()
			close(l.done)
			return err
		}
		l.emit(Event{Kind: EventStage, Stage: StageOpening, Text: "Waiting for " + l.opt.Name + " (" + err.Error() + ")"})
	}
	go l.own(h)
	return nil
}

func (l *Live) emit(e Event) {
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	l.events.put(e)
}

func (l *Live) notice(format string, a ...any) {
	l.emit(Event{Kind: EventNotice, Text: fmt.Sprintf(format, a...)})
}

func (l *Live) setState(s State) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.state != s && l.state != StateClosed {
		l.state, l.since = s, time.Now()
	}
}

func (l *Live) getState() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

// setStage notes how far the way to the prompt has come and tells it.
func (l *Live) setStage(s Stage, text string) {
	l.mu.Lock()
	same := l.stage == s
	l.stage = s
	l.mu.Unlock()
	if same {
		return
	}
	if s > StageOpened {
		l.quiet = false
	}
	if l.quiet {
		return
	}
	l.stageSince, l.hinted = time.Now(), false
	l.emit(Event{Kind: EventStage, Stage: s, Text: text})
}

func (l *Live) getStage() Stage {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stage
}

// own is the owner: it opens the line, again and again, and serves it.
func (l *Live) own(h link.Host) {
	defer close(l.done)
	defer l.events.close()
	backOff := l.opt.BackOff
	for {
		if h != nil {
			opened := time.Now()
			err := l.serve(h)
			stats := h.Stats()
			l.mu.Lock()
			l.host = nil
			addStats(&l.oldStats, stats)
			l.mu.Unlock()
			h.Close()
			h = nil
			if l.ctx.Err() != nil {
				return
			}
			// A line that opens and ends at once, again and again (nobody behind a
			// terminal server, a port that is taken), is told once and tried at
			// growing distances.
			asked := errors.Is(err, errReopen)
			brief := !asked && stats.BytesIn == 0 && time.Since(opened) < briefLine
			switch {
			case asked:
				l.notice("The line %s is opened again.", l.opt.Name)
			case !l.quiet:
				l.lost(fmt.Sprintf("%s ended: %v", l.opt.Name, err))
			}
			l.setStage(StageOpening, "Waiting to reconnect...")
			l.quiet = brief
			if brief {
				l.pause(backOff)
				backOff = min(2*backOff, 10*l.opt.BackOff)
			} else {
				backOff = l.opt.BackOff
			}
			if l.ctx.Err() != nil {
				return
			}
		}
		var err error
		opened := make(chan struct{})
		go func() {
			defer close(opened)
			h, err = l.opt.Open(l.ctx)
		}()
		l.serveWithout(opened)
		if l.ctx.Err() != nil {
			if h != nil {
				h.Close()
			}
			return
		}
		if err == nil {
			continue
		}
		h = nil
		if !l.hinted && time.Since(l.stageSince) > l.opt.Hint {
			l.hinted = true
			l.notice("Still waiting: %v", err)
		}
		l.pause(backOff)
		backOff = min(2*backOff, 10*l.opt.BackOff)
		if l.ctx.Err() != nil {
			return
		}
	}
}

// briefLine is how long a line lives at least that is not counted as one that
// ends at once.
const briefLine = time.Second

// pause serves without a line for a while.
func (l *Live) pause(d time.Duration) {
	over := make(chan struct{})
	t := time.AfterFunc(d, func() { close(over) })
	l.serveWithout(over)
	t.Stop()
}

// serveWithout does queued work, which can only fail politely, until ready is
// closed or the session ends; then it waits for ready all the same.
func (l *Live) serveWithout(ready <-chan struct{}) {
	for {
		select {
		case f := <-l.work:
			f()
		case <-ready:
			return
		case <-l.ctx.Done():
			select {
			case <-ready:
			case <-time.After(time.Minute): // Open ignores its context; do not hang for it
			}
			return
		}
	}
}

var errReopen = errors.New("asked to open again")

// serve runs the session over one link until the link fails or the session
// ends.
func (l *Live) serve(h link.Host) error {
	l.mu.Lock()
	l.host = h
	l.mu.Unlock()
	ctx, cancel := context.WithCancel(l.ctx)
	l.packets, l.linkErr, l.backlog = make(chan link.Packet), make(chan error, 1), nil
	pumped := make(chan struct{})
	go func() {
		defer close(pumped)
		for {
			p, err := h.Receive(ctx)
			if err != nil {
				l.linkErr <- err
				return
			}
			select {
			case l.packets <- p:
			case <-ctx.Done():
				return
			}
		}
	}()
	defer func() { cancel(); <-pumped }()

	l.setState(StateWaiting)
	l.stop, l.pokes, l.lastPoke, l.agreed = nil, 0, time.Time{}, false
	l.readSize, l.readMost, l.found = uint64(l.opt.ReadSize), false, ""
	name := l.opt.Name
	if l.opt.Note != nil {
		if n := l.opt.Note(); n != "" {
			name += " (" + n + ")"
		}
	}
	l.setStage(StageOpened, name)
	tick := time.NewTicker(min(l.opt.PokeEvery/8, 250*time.Millisecond))
	defer tick.Stop()
	l.poke(h)
	for {
		if len(l.backlog) > 0 {
			p := l.backlog[0]
			l.backlog = l.backlog[1:]
			l.packet(p)
			continue
		}
		select {
		case p := <-l.packets:
			l.packet(p)
		case err := <-l.linkErr:
			return err
		case f := <-l.work:
			f()
		case <-tick.C:
			l.tick(h)
		case <-l.ctx.Done():
			return nil
		}
		l.mu.Lock()
		reopen := l.host == nil
		l.mu.Unlock()
		if reopen {
			return errReopen
		}
	}
}

// condition asks a link how it is found, and tells what is new.
func (l *Live) condition(h link.Host) link.Condition {
	f, ok := h.(link.Finder)
	if !ok {
		return link.Condition{}
	}
	c := f.Condition()
	if c.Text != "" && c.Text != l.found {
		l.notice("%s", c.Text)
	}
	l.found = c.Text
	return c
}

// tick is done some times a second: watch the stages, poke a silent target.
func (l *Live) tick(h link.Host) {
	if l.getState() == StateRunning && time.Since(l.resumed) > l.opt.Leftover {
		l.mu.Lock()
		if l.doubt = false; !l.breakWanted {
			l.breaksSent = 0 // or it would have stopped again by now
		}
		l.mu.Unlock()
	}
	c := l.condition(h)
	if st := l.getStage(); st == StageOpened && h.Stats().BytesIn > 0 {
		l.setStage(StageBytes, "")
	}
	l.mu.Lock()
	wanted, state, stage := l.breakWanted, l.state, l.stage
	l.mu.Unlock()
	if !l.hinted && time.Since(l.stageSince) > l.opt.Hint && state == StateWaiting {
		l.hinted = true
		t := c.Hint
		if t == "" {
			t = stageHint(stage, wanted, h.Stats())
		}
		if t != "" {
			l.notice("%s", t)
		}
	}
	if state == StateWaiting || (state == StateRunning && wanted) {
		l.poke(h)
	}
}

// stageHint says what usually keeps a session in a stage.
func stageHint(s Stage, wanted bool, st link.Stats) string {
	switch s {
	case StageOpened:
		if wanted {
			return "Nothing was heard yet. Usual causes: the machine is off or still in its firmware; it was not booted with kernel debugging on this port (bcdedit /debug on; ReactOS: /DEBUG /DEBUGPORT=COM1); another speed; the wrong end of a pipe or cable."
		}
		return "Nothing was heard yet. A target that runs and prints nothing is silent: break in (Ctrl+C). Else: it is not booted with kernel debugging on this port, or the line is the wrong one."
	case StageBytes:
		return fmt.Sprintf("%d bytes came, but no KD packet among them. Usual causes: a boot loader's or login text on the same port; another baud rate on the other side.", st.BytesIn)
	case StagePackets, StageSynchronised:
		return "Packets arrive, but the target does not stop or answer; break in (Ctrl+C)."
	}
	return ""
}

// poke asks for a sign of life: a break-in byte when somebody wants a stop,
// else a RESET, which a target that is stopped answers and a running one
// swallows. Asked for a stop, the two take turns (a stopped target answers the
// RESET only). Without an answer the pauses grow, since all of it piles up in
// front of a machine that is still booting.
func (l *Live) poke(h link.Host) {
	l.mu.Lock()
	wanted, state := l.breakWanted, l.state
	if l.lastBreak.After(l.lastPoke) {
		l.lastPoke = l.lastBreak
	}
	pause := l.opt.PokeEvery
	if state == StateRunning {
		// A byte that arrives while the target prints is swallowed. What is sent
		// too much is passed over later.
		if l.breaksSent <= 1 {
			pause /= 4
		}
	} else if l.pokes > 4 {
		pause *= time.Duration(min(l.pokes-3, 8))
		if wanted {
			pause = min(pause, 2*l.opt.PokeEvery)
		}
	}
	due := l.pokes == 0 || time.Since(l.lastPoke) >= pause
	if due {
		l.lastPoke = time.Now()
		l.pokes++
	}
	l.mu.Unlock()
	if !due {
		return
	}
	if wanted && (l.pokes%2 == 1 || state == StateRunning) {
		l.sendBreak(h)
		return
	}
	if state == StateWaiting {
		h.Resync()
	}
}

func (l *Live) sendBreak(h link.Host) error {
	l.mu.Lock()
	l.breaksSent++
	l.lastBreak = time.Now()
	l.mu.Unlock()
	return h.BreakIn()
}

// lost notes that the target is out of reach.
func (l *Live) lost(why string) {
	if l.getState() == StateClosed {
		return
	}
	l.setState(StateWaiting)
	l.stop = nil
	l.pokes = 1 // not at once
	l.lastPoke = time.Now()
	l.mu.Lock()
	l.stage = StageOpened
	l.mu.Unlock()
	l.stageSince, l.hinted = time.Now(), false
	l.emit(Event{Kind: EventLost, Text: why})
}

// packet handles a packet that no request waits for.
func (l *Live) packet(p link.Packet) {
	if l.getStage() < StagePackets {
		if h := l.getHost(); h != nil {
			l.condition(h)
		}
		l.setStage(StagePackets, "")
	}
	switch p.Type {
	case kdproto.TypeStateChange64:
		s, err := kdproto.DecodeStateChange(p.Payload)
		if err != nil {
			l.notice("The target sent a damaged report: %v", err)
			return
		}
		if p.Fresh || p.Repeated {
			l.agreed = true
		}
		l.freshStop = p.Fresh
		l.stateChange(s, p.Fresh)
	case kdproto.TypeManipulate:
		// A reply to a debugger that is gone. The numbering is agreed now; ask
		// for the report that stands behind it.
		if l.getState() != StateHalted {
			if h := l.getHost(); h != nil {
				h.Resync()
			}
		}
	default:
		l.inline(p)
		if l.getState() == StateWaiting {
			// It prints, so it runs.
			l.stop = nil
			l.setState(StateRunning)
			l.setStage(StageSynchronised, "")
			l.emit(Event{Kind: EventRunning})
		}
	}
}

func (l *Live) getHost() link.Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.host
}

// inline answers what may come at any time, between a request and its reply
// too.
func (l *Live) inline(p link.Packet) {
	switch p.Type {
	case kdproto.TypeDebugIO:
		d, err := kdproto.DecodeDebugIO(p.Payload)
		if err != nil {
			l.notice("The target sent a damaged print: %v", err)
			return
		}
		text := printable(d.Text)
		if d.API == kdproto.APIGetString {
			l.mu.Lock()
			l.promptOpen = true
			l.mu.Unlock()
			l.emit(Event{Kind: EventPrompt, Text: text, MaxAnswer: d.MaxAnswer})
			return
		}
		if text != "" {
			l.emit(Event{Kind: EventPrint, Text: text})
		}
	case kdproto.TypeFileIO:
		f, err := kdproto.DecodeFileIO(p.Payload)
		if err != nil {
			return
		}
		// An unanswered create blocks the boot until its retries run out.
		l.send(kdproto.TypeFileIO, f.Refusal().Append(nil))
	case kdproto.TypeControlRequest:
		c, err := kdproto.DecodeControlRequest(p.Payload)
		if err != nil {
			return
		}
		c.Result = 0
		l.send(kdproto.TypeControlRequest, c.Append(nil))
	case kdproto.TypeStateChange32:
		l.notice("This target speaks the debugger protocol of Windows 2000 or older, which is not supported.")
	}
}

// printable makes text of 8-bit output: NULs go, the rest stays as it is when
// it is UTF-8 and is read as Latin-1 when it is not.
func printable(b []byte) string {
	b = slices.DeleteFunc(slices.Clone(b), func(c byte) bool { return c == 0 })
	if utf8.Valid(b) {
		return string(b)
	}
	rs := make([]rune, len(b))
	for i, c := range b {
		rs[i] = rune(c)
	}
	return string(rs)
}

func (l *Live) send(t kdproto.PacketType, payload []byte) error {
	h := l.getHost()
	if h == nil {
		return ErrLost
	}
	return h.Send(l.ctx, t, payload)
}

// stateChange handles a report of the target.
func (l *Live) stateChange(s kdproto.StateChange, fresh bool) {
	if l.getStage() < StageSynchronised {
		l.setStage(StageSynchronised, "")
	}
	if fresh {
		// The table of breakpoints is of another life, or may be.
		clear(l.inserted)
		l.hwWritten = [4]HWBreak{}
		l.origin = -1
	}
	if s.Kind == kdproto.StateLoadSymbols && s.LoadSymbols.AllUnloaded() {
		known := l.version != nil
		l.version, l.arch, l.dataBlock, l.breakPC = nil, nil, nil, 0
		clear(l.inserted)
		l.hwWritten = [4]HWBreak{}
		l.emit(Event{Kind: EventModule, Module: &Module{Unload: true, All: true}})
		if known {
			l.emit(Event{Kind: EventReloaded}) // nothing else tells of the shutdown
		}
		l.report = s
		l.contin(kdproto.DbgContinue)
		return
	}
	if l.version == nil || fresh || kernelName(s.Path()) {
		if !l.connect(s, fresh) {
			return
		}
	}
	switch s.Kind {
	case kdproto.StateLoadSymbols:
		l.symbols(s)
	case kdproto.StateCommandString:
		_, text := s.Command()
		l.halted(s, StopCommand, nil, text)
	default:
		if l.repeatedAfterSwitch(s) || l.leftover(s) {
			return
		}
		l.halted(s, StopException, nil, "")
	}
}

// connect learns what the target is, at its first report or after its
// numbering started anew. It reports failure when the target does not answer.
func (l *Live) connect(s kdproto.StateChange, fresh bool) bool {
	if !l.agreed {
		// A debugger that died left the target with numbers of its own, which the
		// first report does not tell: it would take our first request for a
		// duplicate.
		if err := l.resync(); err == nil {
			l.agreed = true
		}
	}
	m := kdproto.NewRequest(kdproto.APIGetVersion, s.Processor, nil, nil)
	r, err := l.transact(m)
	if err != nil {
		l.lost("the target reported a stop, but does not answer: " + err.Error())
		return false
	}
	var v kdproto.Version
	v.Get(&r.Union)
	// The kernel's own load is reported once, by a kernel that starts. Whether
	// the SYNC of that report was seen depends on the RESETs under way.
	boot := s.Kind == kdproto.StateLoadSymbols && !s.LoadSymbols.Unload &&
		(s.LoadSymbols.Base == v.KernBase || (v.KernBase == 0 && fresh))
	if boot {
		clear(l.inserted)
		l.hwWritten = [4]HWBreak{}
		l.firstLoad = true
		l.mu.Lock()
		l.breakWanted = l.breakWanted || l.cfg.Break
		l.breaksSent, l.lastBreak = 0, time.Time{} // those before the boot went nowhere
		l.mu.Unlock()
	}
	old := l.version
	a, ok := arch.For(v.Machine)
	if !ok {
		l.notice("The target calls itself a %s, which is not supported; only its prints are shown.", v.Machine)
		l.version = nil
		return false
	}
	l.version, l.arch = &v, a
	l.noSearch, l.noFill = false, false
	if !boot {
		// Breakpoints of a debugger that died displace bytes and fill the table.
		l.clearTable(s.Processor)
		l.clearHardware(s)
		l.doubt = true
	}
	l.readDataBlock(s.Processor)
	if old != nil && (boot || old.KernBase != v.KernBase || old.Machine != v.Machine) {
		l.emit(Event{Kind: EventReloaded})
	}
	l.setStage(StageConnected, "")
	ev := v
	l.emit(Event{Kind: EventConnected, Version: &ev, DataBlock: slices.Clone(l.dataBlock)})
	return true
}

// kernelName reports the names a kernel's image has.
func kernelName(path string) bool {
	base := strings.ToLower(path[lastSlash(path)+1:])
	switch base {
	case "ntoskrnl.exe", "ntkrnlmp.exe", "ntkrnlpa.exe", "ntkrpamp.exe":
		return true
	}
	return false
}

// clearTable removes every entry of the target's breakpoint table.
func (l *Live) clearTable(processor uint16) {
	for h := uint32(1); h <= 32; h++ {
		m := kdproto.NewRequest(kdproto.APIRestoreBreakPoint, processor, &kdproto.RestoreBreakPoint{Handle: h}, nil)
		if _, err := l.transact(m); err != nil {
			return
		}
	}
	clear(l.inserted)
}

// clearHardware switches off the processor breakpoints of a debugger that died,
// on each processor: resuming writes the debug register of one only.
func (l *Live) clearHardware(s kdproto.StateChange) {
	dr7, ok := l.arch.Reg("dr7")
	if !ok {
		return
	}
	none := l.arch.EncodeDr7([4]arch.HW{})
	for p := range uint16(min(s.NumberProcessors, maxProcessors)) {
		b := kdproto.Memory{Address: l.arch.SpecialAddr, Count: uint32(l.arch.SpecialSize)}
		r, err := l.transact(kdproto.NewRequest(kdproto.APIReadControlSpace, p, &b, nil))
		if err != nil {
			return
		}
		sp := bytes.Clone(r.Data[:min(len(r.Data), l.arch.SpecialSize)])
		v, ok := dr7.Get(arch.State{Special: sp})
		if r.Status.Failed() || !ok || v.Lo&0xFF == 0 || !l.arch.SetDebug(sp, [4]uint64{}, none) {
			continue
		}
		b = kdproto.Memory{Address: l.arch.SpecialAddr, Count: uint32(len(sp))}
		if _, err := l.transact(kdproto.NewRequest(kdproto.APIWriteControlSpace, p, &b, sp)); err != nil {
			return
		}
	}
	l.hw, l.hwWritten = [4]HWBreak{}, [4]HWBreak{}
}

// maxProcessors bounds what a report may claim.
const maxProcessors = 256

// maxDataBlock bounds the debugger data block; the largest known one has some
// 0x3C0 bytes.
const maxDataBlock = 0x1000

// readDataBlock reads KDDEBUGGER_DATA64: DebuggerDataList is the address of a
// list head whose blocks begin with 16 bytes of links, the tag KDBG and a
// size. Targets without it, or with an encoded one, go without.
func (l *Live) readDataBlock(processor uint16) {
	l.dataBlock, l.breakPC = nil, 0
	head := l.version.DebuggerDataList
	if head == 0 {
		return
	}
	ps := l.arch.PointerSize
	next, ok := l.pointerAt(head, ps)
	for range 8 {
		if !ok || next == 0 || next == head {
			return
		}
		h := l.readAll(next, 24)
		if len(h) < 24 {
			return
		}
		if le.Uint32(h[16:]) == 0x4742444B {
			size := le.Uint32(h[20:])
			if size < 24 || size > maxDataBlock {
				return
			}
			l.dataBlock = l.readAll(next, int(size))
			if len(l.dataBlock) >= 0x28 {
				l.breakPC = l.arch.Canon(le.Uint64(l.dataBlock[0x20:]))
			}
			return
		}
		next = l.arch.Canon(getPointer(h, ps))
	}
}

// symbols handles a module's load or unload: tell it and go on, or stop if
// the client asked for that.
func (l *Live) symbols(s kdproto.StateChange) {
	ls := s.LoadSymbols
	m := &Module{Unload: ls.Unload, Base: l.arch.Canon(ls.Base), Size: ls.SizeOfImage, CheckSum: ls.CheckSum, ProcessID: ls.ProcessID, Path: printable([]byte(s.Path()))}
	l.mu.Lock()
	cfg := l.cfg
	l.mu.Unlock()
	stop := matchModule(cfg.StopOnLoad, m.Path)
	reason, first := StopLoad, false
	if m.Unload {
		stop, reason = matchModule(cfg.StopOnUnload, m.Path), StopUnload
	} else if l.firstLoad {
		l.firstLoad, first = false, true
		stop = stop || cfg.BreakOnFirstLoad
	}
	l.emit(Event{Kind: EventModule, Module: m})
	if stop {
		l.halted(s, reason, m, "")
		return
	}
	l.report = s
	if first {
		l.askEarly()
	}
	l.contin(kdproto.DbgContinue)
}

// askEarly leaves a break-in byte with a kernel that stands at a report, such
// as that of its own load, so that it stops as early as it can. A stopped target takes a byte that is
// followed by silence for a break-in: it remembers it and reports again. (One
// sent right after the resume meets a kernel that prints and is swallowed.)
func (l *Live) askEarly() {
	l.mu.Lock()
	wanted, h := l.breakWanted, l.host
	l.mu.Unlock()
	if !wanted || h == nil || l.sendBreak(h) != nil {
		return
	}
	t := time.NewTimer(min(l.opt.ReplyTimeout, time.Second))
	defer t.Stop()
	for {
		p, err := l.nextReply(t.C)
		switch {
		case err != nil:
			return
		case p.Type != kdproto.TypeStateChange64:
			if p.Type != kdproto.TypeManipulate {
				l.inline(p)
			}
		case p.Fresh:
			l.backlog = append(l.backlog, p)
			return
		default:
			return
		}
	}
}

// contin sends Continue, which leaves the debug registers alone, for reports
// that are not stops.
func (l *Live) contin(status kdproto.Status) error {
	if l.version != nil && l.version.Major>>8 == 4 && len(l.streamAtPC()) > 0 && l.coded() {
		// The boot debugger reports symbols with the program counter on a coded
		// breakpoint and does not step over it by itself.
		l.stepOverCoded()
	}
	m := kdproto.NewRequest(kdproto.APIContinue, l.report.Processor, &kdproto.Continue{Status: status}, nil)
	return l.letGo(m)
}

// letGo sends a continue request, which only the link acknowledges.
func (l *Live) letGo(m *kdproto.Manipulate) error {
	l.mu.Lock()
	l.cancelBatch = false
	l.mu.Unlock()
	l.stop, l.moved = nil, false
	l.learnt, l.looked = l.looked, nil
	before := l.getState()
	l.setState(StateRunning)
	l.resumed = time.Now()
	err := l.send(kdproto.TypeManipulate, m.Append(nil))
	switch {
	case err == nil:
	case errors.Is(err, link.ErrNoAnswer), errors.Is(err, link.ErrResynced):
		// The acknowledgement may have been lost and the target run: a break-in
		// tells. A target that is still stopped repeats its report.
		if h := l.getHost(); h != nil {
			l.sendBreak(h)
			h.Resync()
		}
	default:
		l.setState(StateWaiting)
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	if before == StateHalted {
		l.emit(Event{Kind: EventRunning})
	}
	return nil
}

// repeatedAfterSwitch: resuming a target whose reporting processor was
// switched hands control back to the first processor, which reports its stop
// again. Resuming that one really runs.
func (l *Live) repeatedAfterSwitch(s kdproto.StateChange) bool {
	w := l.swallow
	if w == nil {
		return false
	}
	l.swallow = nil
	if time.Now().After(l.swallowBy) || s.Processor != w.Processor || s.ProgramCounter != w.ProgramCounter {
		return false
	}
	l.report = s
	l.passOn()
	return true
}

// passOn lets a target go from a report that nobody needs to see.
func (l *Live) passOn() {
	if l.coded() && l.stepOverCoded() != nil {
		return
	}
	l.continue2(false, kdproto.DbgContinue)
}

// leftover passes over a stop that an extra break-in byte caused: several were
// sent while the target did not answer, and one of them was lying in a buffer,
// or a debugger that died had sent one to a target that stood.
func (l *Live) leftover(s kdproto.StateChange) bool {
	l.mu.Lock()
	extra := (l.breaksSent > 0 || l.doubt) && !l.breakWanted && l.state == StateRunning
	l.mu.Unlock()
	if !extra || s.Kind != kdproto.StateException || s.Exception.Code != kdproto.StatusBreakpoint ||
		l.breakPC == 0 || l.arch.Canon(s.ProgramCounter) != l.breakPC || time.Since(l.resumed) > l.opt.Leftover {
		return false
	}
	if slices.Contains(l.wanted, l.breakPC) {
		return false
	}
	// DbgBreakPointWithStatus carries its reason in a register; only a control-C
	// is ours to pass over.
	l.report = s
	if ctx := l.getContext(s.Processor); ctx == nil || l.statusRegister(ctx) != 1 {
		return false
	}
	l.mu.Lock()
	l.breaksSent = max(l.breaksSent-1, 0)
	l.mu.Unlock()
	l.passOn()
	return true
}

func (l *Live) statusRegister(ctx []byte) uint64 {
	name := map[kdproto.Machine]string{kdproto.MachineAMD64: "rcx", kdproto.MachineI386: "eax", kdproto.MachineARM64: "x0"}[l.arch.Machine]
	if r, ok := l.arch.Reg(name); ok {
		if v, ok := r.Get(arch.State{Context: ctx}); ok {
			return v.Lo & 0xFFFFFFFF
		}
	}
	return 0
}

// halted makes a stop of a report.
func (l *Live) halted(s kdproto.StateChange, reason StopReason, mod *Module, command string) {
	pc := l.arch.Canon(s.ProgramCounter)
	again := false
	if l.stop != nil {
		// A stopped target that received a break-in byte reports itself again,
		// and remembers the byte.
		if l.stop.Processor == int(s.Processor) && l.arch.Canon(l.report.ProgramCounter) == pc && l.stop.Reason == reason &&
			(reason != StopException || l.stop.Exception.Code == s.Exception.Code) {
			l.report = s
			return
		}
	}
	rep := s.DecodeReport(l.version.Machine)
	stepped := l.stepping
	onOurs := slices.Contains(l.wanted, pc)
	l.report = s
	l.stops++
	l.moved = false

	l.mu.Lock()
	met := l.state == StateWaiting
	asked := false
	if l.breakWanted {
		asked = reason == StopException && s.Exception.Code == kdproto.StatusBreakpoint && !onOurs && !met
		if asked && l.breaksSent > 0 {
			l.breaksSent--
		}
		if met && reason == StopException && l.breakPC != 0 && pc == l.breakPC {
			// It ran and stopped for our byte, or it stood here since a debugger
			// died: then it remembers the byte and stops once more later. A stream
			// that starts anew is of a target that ran.
			asked = true
			if l.freshStop && l.breaksSent > 0 {
				l.breaksSent--
			}
		}
		l.breakWanted = false
	}
	l.mu.Unlock()
	again = met && !asked

	st := &Stop{
		Number: l.stops, Reason: reason, Processor: int(s.Processor), Processors: int(min(s.NumberProcessors, 1<<16)),
		Thread: l.arch.Canon(s.Thread), PC: pc, Dr6: rep.Dr6, Dr7: rep.Dr7, Module: mod, Command: command,
		Breakpoint: onOurs && reason == StopException && s.Exception.Code == kdproto.StatusBreakpoint,
		Asked:      asked, Again: again,
		Switched: l.origin >= 0 && reason == StopException && s.Exception.Code == kdproto.StatusWakeSystemDebugger,
	}
	if reason == StopException {
		e := s.Exception
		e.Address = l.arch.Canon(e.Address)
		st.Exception = &e
	}
	l.stop = st
	// The target takes out the breakpoints inside the bytes that it reports.
	l.takeOut(pc, 16)
	l.bundle(st, stepped)
	l.stepping = false
	l.setState(StateHalted)
	l.setStage(StageHalted, "")
	l.emit(Event{Kind: EventHalted, Stop: cloneStop(st)})
}

// cloneStop keeps the reader of an event from sharing what the owner edits.
func cloneStop(s *Stop) *Stop {
	c := *s
	return &c
}

// bundle reads what the first commands after a stop will ask. On a slow line
// it is what r, u and db at the program counter need and no more; after a
// step without the special registers.
func (l *Live) bundle(st *Stop, stepped bool) {
	p := uint16(st.Processor)
	st.Bundle.Context = l.getContext(p)
	if c := st.Bundle.Context; c != nil && st.Reason == StopException {
		// The same, unless a debugger that died had moved it: the report is made
		// once, and the registers count.
		st.PC = l.arch.PC(c)
	}
	if !stepped {
		st.Bundle.Special = l.getSpecial(p)
	}
	before, after, stack := uint64(128), uint64(256), uint64(1024)
	if l.opt.Speed > 0 && l.opt.Speed < 1_000_000 {
		before, after, stack = 0, 144, 0
	}
	var want []Memory
	if st.PC != 0 {
		want = append(want, Memory{Addr: st.PC - min(st.PC, before), Data: make([]byte, before+after)})
	}
	if stack != 0 && st.Bundle.Context != nil {
		if sp := l.arch.SP(st.Bundle.Context); sp != 0 {
			want = append(want, Memory{Addr: sp, Data: make([]byte, stack)})
		}
	}
	if l.opt.Speed == 0 && !stepped {
		want = append(want, l.learnt...)
	}
	for _, w := range want {
		st.Bundle.Memory = append(st.Bundle.Memory, l.readRuns(w.Addr, len(w.Data))...)
	}
}

// matchModule matches a pattern against the base name of a module's path.
func matchModule(pattern, path string) bool {
	if pattern == "" {
		return false
	}
	if i := lastSlash(path); i >= 0 {
		path = path[i+1:]
	}
	return globMatch(pattern, path) || globMatch(pattern, trimExt(path))
}

func addStats(a *link.Stats, b link.Stats) {
	a.BytesIn += b.BytesIn
	a.BytesOut += b.BytesOut
	a.PacketsIn += b.PacketsIn
	a.PacketsOut += b.PacketsOut
	a.Resends += b.Resends
	a.ResendsAsked += b.ResendsAsked
	a.BadChecksums += b.BadChecksums
	a.Truncated += b.Truncated
	a.Garbage += b.Garbage
	a.Duplicates += b.Duplicates
	a.Resets += b.Resets
	a.Syncs += b.Syncs
	a.BreakIns += b.BreakIns
	a.DatagramsIn += b.DatagramsIn
	a.DatagramsOut += b.DatagramsOut
	a.BadTags += b.BadTags
	a.Replays += b.Replays
	a.Foreign += b.Foreign
	a.Sessions += b.Sessions
	if b.Peer != "" {
		a.Peer = b.Peer
	}
	if b.LastByte.After(a.LastByte) {
		a.LastByte = b.LastByte
	}
	if b.RoundTrip != 0 {
		a.RoundTrip = b.RoundTrip
	}
}
