package engine

import (
	"context"
	"errors"
	"fmt"

	"openkd/image/unwind"
)

// ScopeKind says whose registers commands look at.
type ScopeKind uint8

// Kinds of scopes.
const (
	ScopeLive    ScopeKind = iota // the current processor's
	ScopeContext                  // those of a CONTEXT record in memory
	ScopeTrap                     // those of a trap frame
	ScopeThread                   // those of a thread that does not run
	ScopeFrame                    // those of a caller on the stack
)

// Scope is what commands look at in this halt besides the current processor. It
// ends with the halt, and with a change of the processor.
type Scope struct {
	Kind  ScopeKind
	Addr  uint64 // of the record, the trap frame, the thread, the stack pointer of the frame
	Frame int    // the current one of the stack that these registers begin
}

// scope is the state behind it. halt.mu guards it.
type scope struct {
	Scope
	context []byte // CONTEXT; nil with ScopeLive
	frame   *Frame // with its registers; nil: frame 0, not looked for yet
}

// Scope is what commands look at.
func (e *Engine) Scope() Scope {
	e.mu.Lock()
	h := e.halt
	e.mu.Unlock()
	if h == nil {
		return Scope{}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.scope.Scope
}

// ResetScope goes back to the registers of the current processor, and reports
// whether that is a change.
func (e *Engine) ResetScope() bool {
	e.mu.Lock()
	h := e.halt
	e.mu.Unlock()
	if h == nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	was := h.scope.Kind != ScopeLive || h.scope.Frame != 0
	h.scope = scope{}
	return was
}

// SetScope makes a CONTEXT record what commands look at: registers, stack,
// current frame. The target's own registers stay as they are, and so do the
// record and its place in memory.
func (e *Engine) SetScope(kind ScopeKind, addr uint64, record []byte) error {
	h, a, err := e.view()
	if err != nil {
		return err
	}
	if len(record) < a.ContextSize {
		return fmt.Errorf("a CONTEXT record of %d bytes: %s has %d", len(record), a.Name, a.ContextSize)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.scope = scope{Scope: Scope{Kind: kind, Addr: addr}, context: append([]byte(nil), record...)}
	return nil
}

// errScoped refuses what only a processor can do.
var errScoped = errors.New("these are not a processor's own registers, so they cannot be changed; .cxr goes back to those")

// Frame is a frame of the stack that the scope's registers begin, with its
// registers; n counts from 0.
func (e *Engine) Frame(ctx context.Context, n int) (*Frame, error) {
	if n < 0 || n >= MaxFrames {
		return nil, fmt.Errorf("frames are numbered 0 to 0x%x", MaxFrames-1)
	}
	r, err := e.Regs(ctx, -1)
	if err != nil {
		return nil, err
	}
	s, err := e.Stack(ctx, r, StackOpt{Limit: n + 1, Regs: true})
	if err != nil {
		return nil, err
	}
	if n >= len(s.Frames) {
		text := fmt.Sprintf("cannot find frame 0x%x, previous scope unchanged: the last one is 0x%x", n, len(s.Frames)-1)
		if why := s.End.String(); why != "" {
			text += ". " + why
		}
		return nil, errors.New(text)
	}
	return &s.Frames[n], nil
}

// CurrentFrame is the frame that commands look at.
func (e *Engine) CurrentFrame(ctx context.Context) (*Frame, error) {
	h, _, err := e.view()
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	f := h.scope.frame
	h.mu.Unlock()
	if f != nil {
		return f, nil
	}
	return e.Frame(ctx, 0)
}

// SetFrame makes a frame of the scope's stack the current one.
func (e *Engine) SetFrame(ctx context.Context, n int) (*Frame, error) {
	h, _, err := e.view()
	if err != nil {
		return nil, err
	}
	f, err := e.Frame(ctx, n)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.scope.Frame, h.scope.frame = n, f
	return f, nil
}

// FrameContext is the CONTEXT of a frame: its registers as far as they are
// known, and for the rest those of the scope.
func (e *Engine) FrameContext(ctx context.Context, f *Frame) ([]byte, error) {
	s, err := e.State(ctx, -1)
	if err != nil {
		return nil, err
	}
	if f.Regs == nil {
		return nil, errors.New("the registers of the frame were not kept")
	}
	return f.Regs.Context(s.Context), nil
}

// ReturnAddress is where the function returns to that the scope's registers are
// in; 0 and the reason where that is not known.
func (e *Engine) ReturnAddress(ctx context.Context) (uint64, error) {
	r, err := e.Regs(ctx, -1)
	if err != nil {
		return 0, err
	}
	s, err := e.Stack(ctx, r, StackOpt{Limit: 1, NoInline: true})
	if err != nil {
		return 0, err
	}
	if len(s.Frames) == 0 || s.Frames[0].Return == 0 {
		return 0, noCaller(s.End)
	}
	return s.Frames[0].Return, nil
}

// noCaller says why a function has no caller.
func noCaller(end unwind.End) error {
	if t := end.String(); t != "" {
		return fmt.Errorf("the caller is not known: %s", lowerFirst(t))
	}
	return errors.New("the function has no caller: the stack ends here")
}

func lowerFirst(s string) string {
	if s == "" || s[0] < 'A' || s[0] > 'Z' {
		return s
	}
	return string(s[0]+'a'-'A') + s[1:]
}
