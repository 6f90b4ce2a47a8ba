package engine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"

	"openkd/arch"
	"openkd/image/unwind"
	"openkd/target"
)

// MaxSoftware is how many software breakpoints a kernel takes at a time: its
// table has 32 entries.
const MaxSoftware = 32

// BreakpointKind is how a breakpoint is made.
type BreakpointKind uint8

// Kinds of breakpoint.
const (
	Software  BreakpointKind = iota // a breakpoint instruction in memory (bp)
	Processor                       // a debug register of every processor (ba)
)

// Breakpoint is one breakpoint as the user sees it.
type Breakpoint struct {
	ID      int
	Kind    BreakpointKind
	Addr    uint64 // in wire form
	Access  uint8  // Processor: arch.HWExecute, HWWrite, HWIO, HWAccess
	Len     uint8  // Processor: bytes
	Enabled bool
	OneShot bool // gone after its first hit (/1)

	// Passes is at which hit it stops; 1 is the first. PassesLeft counts down
	// to 1 and stays there. Only hits while the target was let go by a go
	// count.
	Passes, PassesLeft uint32
	Command            string // run at the hit by the command layer
	Thread             uint64 // KTHREAD it is limited to; 0 any
	Process            uint64 // EPROCESS it is limited to; 0 any
	// It counts only where the stack has fewer than Below frames, and more than
	// Above; 0: any.
	Below, Above int

	// Module and Offset are where Addr lay when it was set, so that the
	// breakpoint finds its place again after a reboot. Module is "" for an
	// address outside every module known then.
	Module string
	Offset uint64
	// Deferred: the module is not there (a reboot came, or it was never loaded),
	// or Expr means nothing yet; Addr is void.
	Deferred bool

	// Expr is what the breakpoint follows (bu): it is evaluated when its module is
	// loaded, in base Radix. "": the breakpoint follows Module and Offset.
	Expr  string
	Radix int
	tried string // what was known when Expr was tried in vain
}

// Breakpoints is the list of an engine. Changes reach the target when it is let
// go. Methods may be called from any goroutine.
type Breakpoints struct {
	e  *Engine
	mu sync.Mutex
	bp []*Breakpoint // by ID
}

// Breakpoints is the list of breakpoints.
func (e *Engine) Breakpoints() *Breakpoints { return e.bps }

// List returns copies of all breakpoints by number.
func (b *Breakpoints) List() []Breakpoint {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]Breakpoint, len(b.bp))
	for i, p := range b.bp {
		out[i] = *p
	}
	return out
}

// Get returns a copy of one breakpoint.
func (b *Breakpoints) Get(id int) (Breakpoint, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.find(id); p != nil {
		return *p, true
	}
	return Breakpoint{}, false
}

func (b *Breakpoints) find(id int) *Breakpoint {
	for _, p := range b.bp {
		if p.ID == id {
			return p
		}
	}
	return nil
}

// MaxID is the highest number a breakpoint may have.
const MaxID = 9999

// Set adds bp and returns it as it stands. A negative ID means the next free
// one; the ID of a breakpoint that exists replaces it. A software breakpoint
// at the address of another one, without an ID, replaces that one; replaced
// says so. A breakpoint that is to wait for what Expr names has Deferred set.
func (b *Breakpoints) Set(bp Breakpoint) (set Breakpoint, replaced bool, err error) {
	a := b.e.Arch()
	if a == nil {
		return Breakpoint{}, false, ErrUnknownMachine
	}
	if bp.ID > MaxID {
		return Breakpoint{}, false, fmt.Errorf("breakpoint number %d is over %d", bp.ID, MaxID)
	}
	if bp.Passes == 0 {
		bp.Passes = 1
	}
	bp.PassesLeft = bp.Passes
	bp.Enabled, bp.Deferred, bp.tried = true, bp.Deferred && bp.Expr != "", ""
	if bp.Deferred {
		bp.Addr = 0
	}
	if bp.Kind == Processor && !bp.Deferred {
		if bp.Access == arch.HWExecute {
			bp.Len = 1
		}
		if err := a.CheckHW(arch.HW{Enabled: true, Kind: bp.Access, Len: bp.Len}, bp.Addr); err != nil {
			return Breakpoint{}, false, err
		}
	}
	if bp.Kind == Software || bp.Access != arch.HWIO {
		bp.Addr = a.Canon(bp.Addr)
	}
	bp.Module, bp.Offset = "", 0
	if !bp.Deferred && (bp.Access != arch.HWIO || bp.Kind == Software) {
		if m, ok := b.e.moduleAt(bp.Addr); ok {
			bp.Module, bp.Offset = m.Name, bp.Addr-m.Base
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var old *Breakpoint
	if bp.ID >= 0 {
		old = b.find(bp.ID)
	} else {
		for _, p := range b.bp {
			same := !p.Deferred && !bp.Deferred && p.Addr == bp.Addr || p.Deferred && bp.Deferred && p.Expr == bp.Expr && p.Expr != ""
			if p.Kind == Software && bp.Kind == Software && same && p.Thread == bp.Thread && p.Process == bp.Process {
				old, bp.ID = p, p.ID
			}
		}
	}
	if err := b.room(&bp, old); err != nil {
		return Breakpoint{}, false, err
	}
	if bp.ID < 0 {
		for bp.ID = 0; b.find(bp.ID) != nil; bp.ID++ {
		}
	}
	if old != nil {
		*old = bp
		return bp, true, nil
	}
	b.bp = append(b.bp, &bp)
	sort.Slice(b.bp, func(i, j int) bool { return b.bp[i].ID < b.bp[j].ID })
	return bp, false, nil
}

// room checks that bp fits beside the enabled ones other than old. mu is held.
func (b *Breakpoints) room(bp, old *Breakpoint) error {
	hw, at := 0, map[uint64]bool{}
	for _, p := range b.bp {
		if p == old || p == bp || !p.Enabled || p.Deferred {
			continue
		}
		if p.Kind == Processor {
			hw++
		} else {
			at[p.Addr] = true
		}
	}
	if bp.Deferred {
		return nil // it is looked at again when it is placed
	}
	if bp.Kind == Processor && hw >= 4 {
		return errors.New("the processor has 4 breakpoint registers and all are in use; disable or clear one (bl lists them, bd and bc)")
	}
	if bp.Kind == Software && !at[bp.Addr] && len(at) >= MaxSoftware {
		return fmt.Errorf("the target's table holds %d software breakpoints and as many are enabled; disable or clear one, or use ba e1", MaxSoftware)
	}
	return nil
}

// Clear removes a breakpoint; false means there is none of that number.
func (b *Breakpoints) Clear(id int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, p := range b.bp {
		if p.ID == id {
			b.bp = append(b.bp[:i], b.bp[i+1:]...)
			return true
		}
	}
	return false
}

// Enable switches a breakpoint on or off.
func (b *Breakpoints) Enable(id int, on bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.find(id)
	if p == nil {
		return fmt.Errorf("breakpoint %d does not exist", id)
	}
	if on && !p.Enabled {
		if err := b.room(p, p); err != nil {
			return fmt.Errorf("breakpoint %d: %w", id, err)
		}
	}
	p.Enabled = on
	return nil
}

// Renumber gives breakpoints other numbers, all at once: from[i] becomes to[i].
func (b *Breakpoints) Renumber(from, to []int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	moved := make([]*Breakpoint, len(from))
	for i, id := range from {
		if moved[i] = b.find(id); moved[i] == nil {
			return fmt.Errorf("breakpoint %d does not exist", id)
		}
		if to[i] < 0 || to[i] > MaxID {
			return fmt.Errorf("breakpoint numbers are 0 to %d", MaxID)
		}
	}
	taken := map[int]bool{}
	for _, p := range b.bp {
		if !slices.Contains(moved, p) {
			taken[p.ID] = true
		}
	}
	for i, id := range to {
		if taken[id] || slices.Index(moved, moved[i]) != i {
			return fmt.Errorf("breakpoint %d exists already", id)
		}
		taken[id] = true
	}
	for i, p := range moved {
		p.ID = to[i]
	}
	sort.Slice(b.bp, func(i, j int) bool { return b.bp[i].ID < b.bp[j].ID })
	return nil
}

// SetCommand changes the commands of a breakpoint.
func (b *Breakpoints) SetCommand(id int, command string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.find(id)
	if p == nil {
		return fmt.Errorf("breakpoint %d does not exist", id)
	}
	p.Command = command
	return nil
}

// active returns what is to be inserted: software addresses, and the four
// processor breakpoints with the numbers of their owners (-1 none).
func (b *Breakpoints) active() (soft []uint64, hw [4]target.HWBreak, owner [4]int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	owner = [4]int{-1, -1, -1, -1}
	seen := map[uint64]bool{}
	n := 0
	for _, p := range b.bp {
		switch {
		case !p.Enabled || p.Deferred:
		case p.Kind == Software:
			if !seen[p.Addr] {
				seen[p.Addr] = true
				soft = append(soft, p.Addr)
			}
		case n < 4:
			hw[n] = target.HWBreak{Enabled: true, Kind: p.Access, Len: p.Len, Addr: p.Addr}
			owner[n] = p.ID
			n++
		}
	}
	return soft, hw, owner
}

// at returns the enabled software breakpoints at an address.
func (b *Breakpoints) at(addr uint64) []Breakpoint {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []Breakpoint
	for _, p := range b.bp {
		if p.Kind == Software && p.Enabled && !p.Deferred && p.Addr == addr {
			out = append(out, *p)
		}
	}
	return out
}

// pass counts a hit and tells whether it stops. A hit that stops takes a
// one-shot breakpoint away. Hits of a step neither count nor stop before the
// last pass.
func (b *Breakpoints) pass(id int, counts bool) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.find(id)
	if p == nil || !p.Enabled {
		return false
	}
	if p.PassesLeft > 1 {
		if counts {
			p.PassesLeft--
		}
		return false
	}
	if p.OneShot {
		for i := range b.bp {
			if b.bp[i] == p {
				b.bp = append(b.bp[:i], b.bp[i+1:]...)
				break
			}
		}
	}
	return true
}

// pending returns the names of modules that deferred breakpoints wait for; "*" is
// any.
func (b *Breakpoints) pending() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, p := range b.bp {
		if !p.Deferred || !p.Enabled {
			continue
		}
		mods := []string{p.Module}
		if p.Expr != "" {
			mods, _, _ = Names(p.Expr, p.Radix)
		}
		for _, m := range mods {
			if m == "" {
				m = "*"
			}
			if !contains(out, m) {
				out = append(out, m)
			}
		}
	}
	return out
}

// any reports whether one is enabled, placed or not.
func (b *Breakpoints) any() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.bp {
		if p.Enabled {
			return true
		}
	}
	return false
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if strings.EqualFold(x, s) {
			return true
		}
	}
	return false
}

// deferAll is the reboot: what lies in a module waits for it, what does not
// stays where it is. It returns a line for each.
func (b *Breakpoints) deferAll() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, p := range b.bp {
		p.PassesLeft = p.Passes
		if p.Expr != "" {
			p.Deferred, p.tried = true, ""
			out = append(out, fmt.Sprintf("Breakpoint %d is kept and waits for what %s names", p.ID, p.Expr))
			continue
		}
		if p.Module == "" {
			out = append(out, fmt.Sprintf("Breakpoint %d is kept at %s, which was in no known module", p.ID, b.e.FormatAddr(p.Addr)))
			continue
		}
		p.Deferred = true
		out = append(out, fmt.Sprintf("Breakpoint %d is kept and waits for %s to be loaded (%s+0x%x)", p.ID, p.Module, p.Module, p.Offset))
	}
	return out
}

// resolve places deferred breakpoints whose module is known now and returns a
// line for each.
func (b *Breakpoints) resolve(base func(module string) (uint64, bool)) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, p := range b.bp {
		if !p.Deferred || p.Expr != "" {
			continue
		}
		m, ok := base(p.Module)
		if !ok {
			continue
		}
		p.Addr, p.Deferred = m+p.Offset, false
		out = append(out, fmt.Sprintf("Breakpoint %d is set again at %s (%s+0x%x)", p.ID, b.e.FormatAddr(p.Addr), p.Module, p.Offset))
	}
	return out
}

// unloaded defers the breakpoints in the module at base, which goes away. The
// report gives the base; its name may differ from the one it was loaded with.
func (b *Breakpoints) unloaded(base uint64) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []string
	for _, p := range b.bp {
		if p.Module != "" && !p.Deferred && p.Addr-p.Offset == base {
			p.Deferred, p.tried = true, ""
			out = append(out, fmt.Sprintf("Breakpoint %d waits: %s was unloaded", p.ID, p.Module))
		}
	}
	return out
}

// InsertError says which breakpoints the target did not take. The target is
// still halted.
type InsertError struct {
	IDs   []int    // of breakpoints; those of a step or of g's own are not among them
	Addrs []uint64 // all that failed
	err   error
	text  string
}

func (e *InsertError) Error() string { return e.text }
func (e *InsertError) Unwrap() error { return e.err }

func (b *Breakpoints) insertError(err *target.InsertError) *InsertError {
	out := &InsertError{Addrs: err.Addresses, err: err}
	var lines []string
	for _, addr := range err.Addresses {
		ids := b.at(addr)
		for _, p := range ids {
			out.IDs = append(out.IDs, p.ID)
			lines = append(lines, fmt.Sprintf("Unable to insert breakpoint %d at %s: the target did not take it; its table of %d is full or another breakpoint is there", p.ID, b.e.FormatAddr(addr), MaxSoftware))
		}
		if len(ids) == 0 {
			lines = append(lines, fmt.Sprintf("Unable to insert the breakpoint of this command at %s: the target did not take it; its table of %d is full or another breakpoint is there", b.e.FormatAddr(addr), MaxSoftware))
		}
	}
	for _, id := range out.IDs {
		p, _ := b.Get(id)
		lines = append(lines, fmt.Sprintf("bp%d at %s failed", id, b.e.FormatAddr(p.Addr)))
	}
	lines = append(lines, "The target is still halted; disable (bd) or clear (bc) what cannot be inserted")
	out.text = strings.Join(lines, "\n")
	return out
}

// placeAgain resolves deferred breakpoints against what is known and tells.
// It reports whether any was placed. ctx is that of a stop that is being judged;
// loaded is the module that it is about.
func (e *Engine) placeAgain(ctx context.Context, loaded string) bool {
	lines := e.bps.resolve(e.baseOf)
	n := len(lines)
	if e.bps.waits() {
		more := e.placePending(ctx, loaded, true)
		lines = append(lines, more...)
		n += len(more)
	}
	for _, l := range lines {
		e.notice("%s", l)
	}
	return n > 0
}

// waits reports whether a breakpoint waits for its name.
func (b *Breakpoints) waits() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, p := range b.bp {
		if p.Deferred && p.Expr != "" {
			return true
		}
	}
	return false
}

// depthFits reports whether the stack of the processor that stopped is as deep as a
// breakpoint wants it. Where that cannot be told it is: a stop too many shows, one
// too few hides.
func (e *Engine) depthFits(ctx context.Context, h *halt, b *Breakpoint) bool {
	if b.Below == 0 && b.Above == 0 {
		return true
	}
	a := e.Arch()
	s, err := e.state(ctx, h, h.stop.Processor, false)
	if err != nil {
		return true
	}
	r, err := unwind.FromContext(a.Machine, s.Context)
	if err != nil {
		return true
	}
	opt := StackOpt{Limit: min(max(b.Below, b.Above+1), MaxFrames), NoInline: true}
	n := 0
	err = e.look(ctx, h, a, func(v *view) error {
		st := v.walk(r, opt)
		n = len(st.Frames)
		if v.needStack(st, opt); len(v.missing) > 0 {
			return errMissing
		}
		return nil
	})
	if err != nil {
		return true
	}
	return (b.Below == 0 || n < b.Below) && n > b.Above
}
