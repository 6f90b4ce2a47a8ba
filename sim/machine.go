package sim

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"openkd/kdproto"
	"openkd/link"
	"openkd/link/kdcom"
	"openkd/link/kdnet"
	"openkd/sim/cpu"
)

// Quirks choose the kernel whose KD module the machine behaves like.
type Quirks string

// Personalities.
const (
	QuirksWindows Quirks = ""        // as Windows 10
	QuirksReactOS Quirks = "reactos" // as ReactOS 0.4.16 x64: no search, fill, bus data; other versions
)

// Config describes a machine. The zero value is a machine of two processors.
//
// What a machine does follows from Seed, BootTime and what the debugger and the
// methods of Machine ask, not from how fast it runs: the same breakpoints after
// the same boot are met in the same state. Only where a break-in or a request
// lands depends on real time.
type Config struct {
	Processors int           // 1..64; 0: 2
	Memory     uint64        // bytes of RAM, a multiple of 4096; 0: 64 MiB and more where Processors or Modules need it
	Modules    int           // synthetic modules in the loaded-module list besides the real ones, at most 1000
	Seed       int64         // chooses the load addresses
	BootTime   time.Time     // the machine's clock at power-on; zero: now
	Tick       time.Duration // real time between two clock ticks, each 15.625 ms of the machine's time; 0: 15.625 ms
	Slice      int           // instructions a busy processor runs per tick; 0: 20000
	Prints     time.Duration // machine time between two prints of the kernel; 0: none
	Drivers    time.Duration // machine time between loading and unloading sample.sys; 0: it stays away
	Quirks     Quirks

	BreakAtBoot bool // the kernel stops right after its first report
	AutoReboot  bool // a bug check reboots when its second stop is continued

	// LinkTimeout is how long the kernel's port waits for a byte or an
	// acknowledgement; 0: 100 ms. Retries is how often it repeats a packet
	// before it believes that no debugger is there; 0: 20.
	LinkTimeout time.Duration
	Retries     int

	// Net, if not nil, is the network adapter that the kernel is debugged over,
	// in place of the serial port. Its times and Tamper are this Config's.
	Net *kdnet.TargetConfig

	// Tamper sees every packet before it is sent, see kdcom.TargetOptions.
	Tamper func(packet []byte) []byte
}

func (c Config) now() time.Time {
	if c.BootTime.IsZero() {
		return time.Now()
	}
	return c.BootTime
}

func (c Config) withDefaults() (Config, error) {
	if c.Processors == 0 {
		c.Processors = 2
	}
	if c.Processors < 1 || c.Processors > 64 {
		return c, fmt.Errorf("sim: %d processors: the machine has 1 to 64", c.Processors)
	}
	if c.Modules < 0 || c.Modules > 1000 {
		return c, fmt.Errorf("sim: %d synthetic modules: 0 to 1000 are possible", c.Modules)
	}
	if c.Memory == 0 {
		c.Memory = 64 << 20
	}
	if c.Memory%pageSize != 0 || c.Memory < 32<<20 || c.Memory > 4<<30 {
		return c, fmt.Errorf("sim: %d bytes of memory: 32 MiB to 4 GiB in whole pages are possible", c.Memory)
	}
	if c.Quirks != QuirksWindows && c.Quirks != QuirksReactOS {
		return c, fmt.Errorf("sim: quirks %q: only %q and the empty string are known", c.Quirks, QuirksReactOS)
	}
	if c.Tick <= 0 {
		c.Tick = 15625 * time.Microsecond
	}
	if c.Slice <= 0 {
		c.Slice = 20000
	}
	if c.LinkTimeout <= 0 {
		c.LinkTimeout = 100 * time.Millisecond
	}
	return c, nil
}

// Stats are the machine's counters since New.
type Stats struct {
	Requests     map[kdproto.API]uint64 // manipulate requests served, by number; unknown ones as APIMax
	Exchanges    uint64                 // all of them together
	StateChanges uint64
	Prints       uint64
	Ticks        uint64 // clock ticks
	Instructions uint64
	Boots        uint64 // power-on and reboots
}

// Machine is a simulated machine.
//
// Concurrency: all methods may be called from any goroutine. Run is called
// once; it does the machine's work until its context ends. Methods that look
// at memory or processors see the machine between two instructions.
type Machine struct {
	cfg    Config
	target link.Target
	serial *kdcom.Target // target, if that is the serial port

	serveMu sync.Mutex
	serving *serialLine

	started chan struct{} // closed by Run
	ended   chan struct{} // closed when Run returns
	once    sync.Once
	wake    chan struct{} // capacity 1: something to do before the next tick

	mu    sync.Mutex // held while processors run and requests are handled
	b     *board
	life  int
	ctx   context.Context // of this life: ends with the machine or a reset
	end   context.CancelFunc
	reset bool
	err   error // why the machine cannot go on
	jobs  []*job
	job   *job // in the kernel's mailbox
	stats Stats
	kd    kdState

	lastClock uint64 // ticks of this life
	sampleIn  bool
}

// New makes a machine that is powered off; Run starts it.
func New(cfg Config) (*Machine, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	m := &Machine{
		cfg: cfg, started: make(chan struct{}), ended: make(chan struct{}), wake: make(chan struct{}, 1),
		stats: Stats{Requests: map[kdproto.API]uint64{}},
	}
	if cfg.Net != nil {
		n := *cfg.Net
		n.Timeout, n.Retries, n.Tamper = cfg.LinkTimeout, cfg.Retries, cfg.Tamper
		if m.target, err = kdnet.NewTarget(n); err != nil {
			return nil, err
		}
	} else {
		m.serial = kdcom.NewTarget(nil, kdcom.TargetOptions{
			ByteTimeout: cfg.LinkTimeout, AckTimeout: cfg.LinkTimeout, Retries: cfg.Retries,
			ReactOS: cfg.Quirks == QuirksReactOS, Tamper: cfg.Tamper,
		})
		m.target = m.serial
	}
	if err := m.powerOn(); err != nil {
		m.target.Close()
		return nil, err
	}
	return m, nil
}

// powerOn makes a new life. The caller holds mu, or nobody else has m.
func (m *Machine) powerOn() error {
	b, err := newBoard(m.cfg, m.life)
	if err != nil {
		return err
	}
	m.life++
	m.b = b
	b.io.poll = m.portPoll
	b.io.service = m.portService
	m.kd = kdState{}
	m.lastClock = 0
	m.sampleIn = false
	m.stats.Boots++
	if m.job != nil {
		m.job.finish(errors.New("sim: the machine was reset"))
		m.job = nil
	}
	m.target.Restart()
	return nil
}

// Run powers the machine on and runs it until the context ends or the kernel
// gets itself into a state that no hardware would leave (the error says which).
func (m *Machine) Run(ctx context.Context) error {
	first := false
	m.once.Do(func() { first = true })
	if !first {
		return errors.New("sim: Run was called before")
	}
	close(m.started)
	defer close(m.ended)
	defer m.target.Close()
	if m.serial != nil {
		stop := context.AfterFunc(ctx, func() { m.serial.Attach(nil) })
		defer stop()
	}

	m.mu.Lock()
	defer m.mu.Unlock()
	m.ctx, m.end = context.WithCancel(ctx)
	defer func() { m.end() }()
	next := time.Now()
	for ctx.Err() == nil && m.err == nil {
		before := m.kd.stops
		m.tick()
		if m.reset {
			m.reset = false
			m.end()
			m.ctx, m.end = context.WithCancel(ctx)
			if err := m.powerOn(); err != nil {
				m.err = err
			}
		}
		next = next.Add(m.cfg.Tick)
		now := time.Now()
		if m.kd.stops != before || next.Before(now) {
			next = now.Add(m.cfg.Tick) // the clock stands while the machine is stopped
		}
		m.mu.Unlock()
		timer := time.NewTimer(time.Until(next))
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		m.mu.Lock()
	}
	for _, j := range append(m.jobs, m.job) {
		if j != nil {
			j.finish(errors.New("sim: the machine was switched off"))
		}
	}
	m.jobs, m.job = nil, nil
	if ctx.Err() != nil {
		return nil
	}
	return m.err
}

// tick gives every processor a clock interrupt and its share of instructions.
func (m *Machine) tick() {
	b := m.b
	m.stats.Ticks++
	m.lastClock++
	m.mailbox()
	for i := range max(m.processors(), 1) {
		b.clock[i] = true
	}
	const share = 1000
	budget := make([]int, len(b.cpus))
	for i := range budget {
		budget[i] = m.cfg.Slice
	}
	for busy := true; busy && !m.reset && m.ctx.Err() == nil && m.err == nil; {
		busy = false
		started := max(m.processors(), 1) // the kernel starts the others itself
		for i, c := range b.cpus[:started] {
			if budget[i] <= 0 {
				continue
			}
			if b.clock[i] && c.Interruptible() {
				b.clock[i] = false
				m.deliver(i, vecClock, 0, false)
			}
			if c.Halted {
				if !b.clock[i] || c.RFlags&cpu.FlagIF == 0 {
					continue
				}
			}
			n, e := c.Run(min(share, budget[i]))
			m.stats.Instructions += uint64(n)
			budget[i] -= n + 1
			if e != nil {
				m.exception(i, e)
			}
			if m.reset || m.err != nil {
				return
			}
			busy = true
		}
	}
}

// deliver enters the kernel's handler; a processor that cannot is reset, as
// hardware is by a triple fault.
func (m *Machine) deliver(n, vector int, code uint64, hasCode bool) {
	if err := m.b.cpus[n].Deliver(vector, code, hasCode); err != nil {
		m.reset = true
	}
}

// exception is what the kernel's trap handlers do.
func (m *Machine) exception(n int, e *cpu.Exception) {
	c := m.b.cpus[n]
	r := record{first: true}
	switch {
	case e.Software && e.Vector == vecService:
		m.debugService(n)
		return
	case e.Software && e.Vector == vecAssertion:
		c.RIP -= 2
		r.code, r.address = kdproto.StatusAssertionFailure, c.RIP
	case e.Software:
		m.deliver(n, cpu.VecGP, uint64(e.Vector)<<3|2, true)
		return
	case e.Vector == cpu.VecBP:
		if m.countCall(n) {
			return
		}
		c.RIP--
		r.code, r.address, r.params = kdproto.StatusBreakpoint, c.RIP, []uint64{0}
		if m.cfg.Quirks == QuirksReactOS {
			r.address++
			r.params = []uint64{0, 0, 0}
		}
	case e.Vector == cpu.VecDB:
		r.code, r.address = kdproto.StatusSingleStep, c.RIP
	case e.Vector == cpu.VecPF:
		if a, ok := m.safeCopy(c.RIP); ok && e.Addr>>63 == 1 {
			c.RIP = a
			return
		}
		if e.Addr>>63 == 1 {
			m.deliver(n, e.Vector, e.Error, true) // the memory manager's bug check
			return
		}
		kind := uint64(0)
		if e.Error&16 != 0 {
			kind = 8
		} else if e.Error&2 != 0 {
			kind = 1
		}
		r.code, r.address, r.params = kdproto.StatusAccessViolation, c.RIP, []uint64{kind, e.Addr}
	case e.Vector == cpu.VecGP:
		r.code, r.address, r.params = kdproto.StatusAccessViolation, c.RIP, []uint64{0, ^uint64(0)}
	case e.Vector == cpu.VecUD:
		r.code, r.address = 0xC000001D, c.RIP // illegal instruction
	case e.Vector == cpu.VecDE:
		r.code, r.address = 0xC0000094, c.RIP // integer divide by zero
	default:
		m.deliver(n, e.Vector, e.Error, e.HasError())
		return
	}
	if m.dispatch(n, &r) {
		return
	}
	m.deliver(n, e.Vector, e.Error, e.HasError())
}

// dispatch offers an exception to the debugger and to handlers, in the order
// of the kernel: first chance, handler, second chance. False means that
// nobody took it.
func (m *Machine) dispatch(n int, r *record) bool {
	flags := m.b.u32(m.b.sym["NtGlobalFlag"])
	switch r.code {
	case kdproto.StatusBreakpoint, kdproto.StatusSingleStep, kdproto.StatusAssertionFailure:
		if m.report(n, r) {
			return true
		}
	default:
		if flags&1 != 0 && m.report(n, r) {
			return true
		}
	}
	if m.reset || m.ctx.Err() != nil {
		return true
	}
	c := m.b.cpus[n]
	if a, ok := m.safeCopy(c.RIP); ok {
		c.RIP = a
		return true
	}
	r.first = false
	return m.report(n, r)
}

// safeCopy finds the handler of the code that copies memory which may not be
// there.
func (m *Machine) safeCopy(rip uint64) (uint64, bool) {
	s := m.b.sym
	if rip >= s["KiSafeCopyMemory"] && rip < s["KiSafeCopyEnd"] {
		return s["KiSafeCopyFault"], true
	}
	return 0, false
}
