package engine

import (
	"context"
	"errors"
	"fmt"

	"openkd/arch"
	"openkd/target"
)

// cpu is what is known of one processor in a halt. nil means not read yet.
type cpu struct {
	context, special []byte
	touched          bool // the context was written in this halt
}

// Processors is how many processors the target has, as its last stop said; 0
// before the first.
func (e *Engine) Processors() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.halt != nil {
		return max(e.halt.stop.Processors, 1)
	}
	if e.lastStop != nil {
		return max(e.lastStop.Processors, 1)
	}
	return 0
}

// Processor is the one that commands look at.
func (e *Engine) Processor() int {
	e.mu.Lock()
	h := e.halt
	e.mu.Unlock()
	if h == nil {
		return 0
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.proc
}

// SetProcessor changes the processor that commands look at. The target is not
// told: the saved state of every processor can be read from any of them, and a
// real switch is made only when that processor must do something.
func (e *Engine) SetProcessor(ctx context.Context, n int) error {
	h, _, err := e.view()
	if err != nil {
		return err
	}
	if count := max(e.stopOf(h).Processors, 1); n < 0 || n >= count {
		return fmt.Errorf("%d is not a valid processor number; the target has %d (0 to %d)", n, count, count-1)
	}
	if _, err := e.state(ctx, h, n, false); err != nil {
		return err
	}
	h.mu.Lock()
	h.proc, h.scope = n, scope{}
	h.mu.Unlock()
	return nil
}

// State returns the raw records of a processor; -1 means those that commands
// look at, the scope's. Context is always there. Special is there when it came
// with the stop or was asked for (FullState). The records are the caller's.
func (e *Engine) State(ctx context.Context, processor int) (arch.State, error) {
	h, _, err := e.view()
	if err != nil {
		return arch.State{}, err
	}
	return e.scoped(ctx, h, processor, false)
}

// scoped is state of a processor, or with -1 of the scope.
func (e *Engine) scoped(ctx context.Context, h *halt, processor int, special bool) (arch.State, error) {
	s, err := e.state(ctx, h, h.pick(processor), special)
	if err != nil || processor >= 0 {
		return s, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.scope.Kind != ScopeLive {
		s.Context = append([]byte(nil), h.scope.context...)
	}
	return s, nil
}

// FullState is State with the special registers in any case.
func (e *Engine) FullState(ctx context.Context, processor int) (arch.State, error) {
	h, _, err := e.view()
	if err != nil {
		return arch.State{}, err
	}
	return e.scoped(ctx, h, processor, true)
}

func (h *halt) pick(processor int) int {
	if processor >= 0 {
		return processor
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.proc
}

func (e *Engine) state(ctx context.Context, h *halt, n int, special bool) (arch.State, error) {
	a := e.Arch()
	if a == nil {
		return arch.State{}, ErrUnknownMachine
	}
	if stop := e.stopOf(h); n < 0 || n >= max(stop.Processors, stop.Processor+1, 1) {
		return arch.State{}, fmt.Errorf("%d is not a valid processor number; the target has %d", n, stop.Processors)
	}
	h.mu.Lock()
	c := h.cpus[n]
	if c == nil {
		c = &cpu{}
		h.cpus[n] = c
	}
	var batch []target.Request
	if len(c.context) == 0 {
		batch = append(batch, target.Request{Op: target.OpGetContext, Processor: uint16(n)})
	}
	if len(c.special) == 0 && (special || len(batch) > 0) {
		batch = append(batch, target.Request{Op: target.OpReadControl, Processor: uint16(n), Addr: a.SpecialAddr, Len: uint64(a.SpecialSize)})
	}
	h.mu.Unlock()
	if len(batch) > 0 {
		r, err := target.Collect(ctx, e.t, batch...)
		if err != nil {
			return arch.State{}, err
		}
		h.mu.Lock()
		for i := range batch {
			d := append([]byte(nil), r[i].Data()...)
			if batch[i].Op == target.OpGetContext {
				c.context = d
			} else if len(d) > 0 {
				c.special = d
			}
		}
		h.mu.Unlock()
		if batch[0].Op == target.OpGetContext && len(r[0].Data()) == 0 {
			return arch.State{}, &StatusError{fmt.Sprintf("read of the context of processor %d", n), r[0].Status}
		}
		if special && len(r[len(r)-1].Data()) == 0 {
			return arch.State{}, &StatusError{fmt.Sprintf("read of the special registers of processor %d", n), r[len(r)-1].Status}
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return arch.State{Context: append([]byte(nil), c.context...), Special: append([]byte(nil), c.special...)}, nil
}

// States returns the records of all processors, those not known yet in one
// exchange. Context is empty where the target refused.
func (e *Engine) States(ctx context.Context) ([]arch.State, error) {
	h, a, err := e.view()
	if err != nil {
		return nil, err
	}
	n := max(e.stopOf(h).Processors, 1)
	var batch []target.Request
	h.mu.Lock()
	for i := range n {
		if c := h.cpus[i]; c == nil || len(c.context) == 0 {
			batch = append(batch,
				target.Request{Op: target.OpGetContext, Processor: uint16(i)},
				target.Request{Op: target.OpReadControl, Processor: uint16(i), Addr: a.SpecialAddr, Len: uint64(a.SpecialSize)})
		}
	}
	h.mu.Unlock()
	var replies []target.Reply
	for left := batch; len(left) > 0; {
		k := min(len(left), target.MaxBatch)
		r, err := target.Collect(ctx, e.t, left[:k]...)
		if err != nil {
			return nil, err
		}
		replies, left = append(replies, r...), left[k:]
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := 0; i < len(batch); i += 2 {
		p := int(batch[i].Processor)
		if h.cpus[p] == nil {
			h.cpus[p] = &cpu{}
		}
		h.cpus[p].context = append([]byte(nil), replies[i].Data()...)
		if d := replies[i+1].Data(); len(d) > 0 {
			h.cpus[p].special = append([]byte(nil), d...)
		}
	}
	out := make([]arch.State, n)
	for i := range out {
		if c := h.cpus[i]; c != nil {
			out[i] = arch.State{Context: append([]byte(nil), c.context...), Special: append([]byte(nil), c.special...)}
		}
	}
	return out, nil
}

// PC is the program counter that commands look at.
func (e *Engine) PC(ctx context.Context) (uint64, error) { return e.pointer(ctx, (*arch.Arch).PC) }

// SP is the stack pointer that commands look at.
func (e *Engine) SP(ctx context.Context) (uint64, error) { return e.pointer(ctx, (*arch.Arch).SP) }

// pointer is a register of the context that commands look at.
func (e *Engine) pointer(ctx context.Context, of func(*arch.Arch, []byte) uint64) (uint64, error) {
	h, a, err := e.view()
	if err != nil {
		return 0, err
	}
	s, err := e.scoped(ctx, h, -1, false)
	if err != nil {
		return 0, err
	}
	return of(a, s.Context), nil
}

// Register reads a register that commands look at, in any spelling of case. The value is as recorded; on 32-bit targets it is not
// sign-extended. ErrUnknownRegister means that the processor has none of that
// name.
func (e *Engine) Register(ctx context.Context, name string) (arch.Value, *arch.Reg, error) {
	return e.RegisterOf(ctx, -1, name)
}

// RegisterOf is Register of a processor; -1 means what commands look at.
func (e *Engine) RegisterOf(ctx context.Context, processor int, name string) (arch.Value, *arch.Reg, error) {
	a := e.Arch()
	if a == nil {
		return arch.Value{}, nil, ErrUnknownMachine
	}
	r, ok := a.Reg(name)
	if !ok {
		return arch.Value{}, nil, fmt.Errorf("%w as %q on %s", ErrUnknownRegister, name, a.Name)
	}
	h, _, err := e.view()
	if err != nil {
		return arch.Value{}, r, err
	}
	s, err := e.scoped(ctx, h, processor, r.InSpecial())
	if err != nil {
		return arch.Value{}, r, err
	}
	v, ok := r.View(s)
	if !ok {
		return arch.Value{}, r, fmt.Errorf("register %s is not in the record that the target sent", r.Name)
	}
	return v, r, nil
}

// SetRegister writes a register of the processor that commands look at. The
// target has it when SetRegister returns. A register in the context of another
// processor than the reporting one makes a real switch first.
func (e *Engine) SetRegister(ctx context.Context, name string, v arch.Value) error {
	h, a, err := e.view()
	if err != nil {
		return err
	}
	r, ok := a.Reg(name)
	if !ok {
		return fmt.Errorf("%w as %q on %s", ErrUnknownRegister, name, a.Name)
	}
	if !r.InSpecial() && e.Scope().Kind != ScopeLive {
		return errScoped
	}
	n := h.pick(-1)
	s, err := e.state(ctx, h, n, r.InSpecial())
	if err != nil {
		return err
	}
	if !r.Set(s, v) {
		return fmt.Errorf("register %s is not in the record that the target sent", r.Name)
	}
	if r.InSpecial() {
		rep, err := target.Collect(ctx, e.t, target.Request{Op: target.OpWriteControl, Processor: uint16(n), Addr: a.SpecialAddr, Data: s.Special})
		if err != nil {
			return err
		}
		if rep[0].Status.Failed() {
			return &StatusError{fmt.Sprintf("write of register %s of processor %d", r.Name, n), rep[0].Status}
		}
		h.mu.Lock()
		h.cpus[n].special = s.Special
		h.pages = map[pageKey]*page{} // CR3 may be another one now
		h.mu.Unlock()
		return nil
	}
	if err := e.switchTo(ctx, h, n); err != nil {
		return err
	}
	return e.setContext(ctx, h, n, s.Context)
}

// setContext writes the context of the reporting processor.
func (e *Engine) setContext(ctx context.Context, h *halt, n int, record []byte) error {
	r, err := target.Collect(ctx, e.t, target.Request{Op: target.OpSetContext, Processor: uint16(n), Data: record})
	if err != nil {
		return err
	}
	if r[0].Status.Failed() {
		return &StatusError{fmt.Sprintf("write of the context of processor %d", n), r[0].Status}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cpus[n] == nil {
		h.cpus[n] = &cpu{}
	}
	h.cpus[n].context = record
	h.cpus[n].touched = true
	if h.scope.Kind == ScopeLive {
		h.scope = scope{} // another stack, maybe
	}
	return nil
}

// switchTo makes n the reporting processor and waits for its report.
func (e *Engine) switchTo(ctx context.Context, h *halt, n int) error {
	e.mu.Lock()
	switch {
	case e.halt != h:
		e.mu.Unlock()
		return target.ErrRunning
	case h.reporter == n:
		e.mu.Unlock()
		return nil
	case e.switching != nil:
		e.mu.Unlock()
		return errors.New("another switch of processors is under way")
	case !e.running:
		e.mu.Unlock()
		return errors.New("the engine does not run")
	}
	done := make(chan error, 1)
	e.switching, e.switchCPU = done, n
	e.mu.Unlock()
	if err := e.t.Switch(ctx, n); err != nil {
		e.mu.Lock()
		e.endSwitch(err)
		e.mu.Unlock()
		return err
	}
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		e.mu.Lock()
		e.endSwitch(ctx.Err())
		e.mu.Unlock()
		return ctx.Err()
	}
}

// endSwitch answers the waiter of a switch, if there is one. mu is held.
func (e *Engine) endSwitch(err error) {
	if e.switching != nil {
		e.switching <- err
		e.switching = nil
	}
}
