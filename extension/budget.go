package extension

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/metrics"
	"sync"
	"time"

	"go.starlark.net/starlark"
)

// Limits of one run of a script: a command with all that it calls, or a
// callback.
type Limits struct {
	Steps  uint64        // of the interpreter, about one per operation
	Time   time.Duration // that it works itself; waiting for the target is not counted
	Memory uint64        // bytes by which the heap may grow
	Output int           // bytes that it may write
	Depth  int           // of calls in each other
}

// DefaultLimits are those of commands.
func DefaultLimits() Limits {
	return Limits{Steps: 1 << 30, Time: time.Minute, Memory: 256 << 20, Output: 4 << 20, Depth: 500}
}

// CallbackLimits are those of callbacks of breakpoints and events: the target
// stands while they run.
func CallbackLimits() Limits {
	l := DefaultLimits()
	l.Steps, l.Time, l.Output = 1<<26, 5*time.Second, 256<<10
	return l
}

// LimitError says that a script did or asked too much.
type LimitError struct{ What string }

func (e *LimitError) Error() string { return e.What }

const (
	checkEvery = 1000    // steps between two looks at the rest
	chargeMax  = 8 << 20 // bytes made between two looks at the heap
	garbageMax = 32 << 20
	grace      = 2 * time.Second
)

// budget is what is left to a run. Everything but the clock belongs to the
// script's goroutine.
type budget struct {
	lim     Limits
	now     func() time.Time
	steps   uint64 // of threads that have ended
	charged int
	base    uint64 // of the heap
	cycles  uint64 // collections before it began
	collect uint64 // heap at which a collection is worth it
	written int

	mu      sync.Mutex
	running int // scripts that work, the others wait for the target
	since   time.Time
	used    time.Duration
	err     error // the limit that was met
}

func newBudget(l Limits, now func() time.Time) *budget {
	b := &budget{lim: l, now: now}
	// What others left to be collected must not count as what was there before,
	// or a script could hold as much more.
	if b.base = heap(); b.base > metric("/gc/heap/live:bytes")+garbageMax {
		runtime.GC()
		b.base = heap()
	}
	b.cycles = metric("/gc/cycles/total:gc-cycles")
	b.collect = b.base + l.Memory
	return b
}

// heap is what is allocated, garbage that was not collected yet included.
func heap() uint64 { return metric("/memory/classes/heap/objects:bytes") }

func metric(name string) uint64 {
	s := []metrics.Sample{{Name: name}}
	metrics.Read(s)
	if s[0].Value.Kind() != metrics.KindUint64 {
		return 0
	}
	return s[0].Value.Uint64()
}

// work starts the clock, rest stops it.
func (b *budget) work() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running++; b.running == 1 {
		b.since = b.now()
	}
}

func (b *budget) rest() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.running--; b.running == 0 {
		b.used += b.now().Sub(b.since)
	}
}

// late reports the limit that was met, of time if of no other, and whether the
// script itself works.
func (b *budget) late() (err error, working bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	used := b.used
	if b.running > 0 {
		used += b.now().Sub(b.since)
	}
	if b.err == nil && used > b.lim.Time {
		b.err = &LimitError{fmt.Sprintf("it has worked for %v, which is the limit", b.lim.Time)}
	}
	return b.err, b.running > 0
}

func (b *budget) fail(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
	}
	return b.err
}

// step is called every now and then by the interpreter.
func (b *budget) step(t *starlark.Thread) error {
	switch {
	case b.steps+t.Steps > b.lim.Steps:
		return b.fail(&LimitError{fmt.Sprintf("it has made %d steps, which is the limit: does a loop not end?", b.lim.Steps)})
	case t.CallStackDepth() > b.lim.Depth:
		return b.fail(&LimitError{fmt.Sprintf("calls nest deeper than %d", b.lim.Depth)})
	}
	if err, _ := b.late(); err != nil {
		return err
	}
	return b.memory()
}

func (b *budget) memory() error {
	b.charged = 0
	if n := metric("/gc/cycles/total:gc-cycles"); n > b.cycles {
		b.cycles = n
		if live := metric("/gc/heap/live:bytes"); live < b.base {
			b.base, b.collect = live, live+b.lim.Memory
		}
	}
	h := heap()
	if h < b.collect {
		return nil
	}
	runtime.GC()
	h = heap()
	// As much again may be garbage by then.
	b.collect = max(b.base+b.lim.Memory, h+b.lim.Memory/4)
	if h > b.base+b.lim.Memory {
		return b.fail(&LimitError{fmt.Sprintf("it holds more than %d MiB, which is the limit", b.lim.Memory>>20)})
	}
	return nil
}

const budgetKey = "budget"

// charge notes that a script is about to make n bytes.
func charge(t *starlark.Thread, n int) error {
	b, ok := t.Local(budgetKey).(*budget)
	if !ok {
		return nil
	}
	if b.charged += n; b.charged < chargeMax {
		return nil
	}
	return b.memory()
}

// errStuck ends the wait for a script that hangs in a single step.
var errStuck = errors.New("it does not stop: a comparison of large structures cannot be interrupted. It was given up and its extension unloaded")
