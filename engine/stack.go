package engine

import (
	"context"
	"errors"
	"fmt"

	"openkd/image/sym"
	"openkd/image/unwind"
)

// MaxFrames bounds a walk.
const MaxFrames = 0xFFFF

// Frame is one line of a stack.
type Frame struct {
	Number int
	// Inline is the name of a function that has no frame of its own, because it
	// was built into the one of the frame that follows; PC is all that it has.
	Inline string

	PC     uint64
	SP     uint64
	Return uint64 // where it returns to, or where it was interrupted; 0: not known
	// FP, CFA, MachineFrame, HasError, How and X86 are as unwind.Frame has them.
	FP, CFA      uint64
	MachineFrame uint64
	HasError     bool
	How          unwind.How
	Exact        bool         // it was interrupted at PC, which is not where a call returns to
	X86          sym.X86Frame // with How unwind.FPO
	Func         uint64       // where the piece of the function that holds PC begins; 0: not known
	Regs         *unwind.Regs // at PC; nil unless asked for
}

// Stack is a walk.
type Stack struct {
	Frames []Frame
	End    unwind.End
}

// StackOpt says how a stack is walked.
type StackOpt struct {
	Limit int  // frames, at most MaxFrames; 0: DefaultFrames
	Regs  bool // keep the registers of every frame
	// NoInline leaves out the functions that have no frames of their own.
	NoInline bool
}

// DefaultFrames is how deep a walk goes if nobody says.
const DefaultFrames = 256

const (
	// A walk that wants stack memory which is not known gets so much of it, in
	// bytes; a slow line less.
	stackAhead     = 8192
	stackAheadSlow = 512
	// How much of the stack is looked through for what the walk will want, and
	// for how many return addresses on a slow line.
	speculation     = 8192
	speculationSlow = 12
	// maxRounds bounds the exchanges of one walk.
	maxRounds = 4096
)

// Regs are the registers that a walk begins with: those of a processor, or of
// the scope with -1.
func (e *Engine) Regs(ctx context.Context, processor int) (unwind.Regs, error) {
	s, err := e.State(ctx, processor)
	if err != nil {
		return unwind.Regs{}, err
	}
	return unwind.FromContext(e.Arch().Machine, s.Context)
}

// Stack walks a stack. It first works with what is known of the halt and of
// images; what it misses it fetches in one exchange, together with what the
// return addresses on the stack suggest, and begins again. Where all is known it
// costs no exchange. The symbols and images of the modules on the way are looked
// for first, which may take as long as downloads do.
//
// How the walk ended is in the result. The error is for targets that do not
// stand, and the context's.
func (e *Engine) Stack(ctx context.Context, from unwind.Regs, opt StackOpt) (*Stack, error) {
	h, a, err := e.view()
	if err != nil {
		return nil, err
	}
	if opt.Limit <= 0 {
		opt.Limit = DefaultFrames
	}
	opt.Limit = min(opt.Limit, MaxFrames)
	var s *Stack
	files := &fileWish{tried: map[uint64]bool{}}
	err = e.lookWith(ctx, h, a, files, func(v *view) error {
		s = v.walk(from, opt)
		if len(files.todo) > 0 {
			return errMissing
		}
		if v.needStack(s, opt); len(v.missing) > 0 {
			v.speculate(from.SP)
			return errMissing
		}
		if !opt.NoInline {
			v.inline(s, opt.Limit)
		}
		if s.End.Reason == unwind.NoImage && !v.listed {
			v.speculate(from.SP)
			return errNoModule
		}
		return nil
	})
	if err != nil && !errors.Is(err, errNoModule) {
		return nil, err
	}
	for i := range s.Frames {
		s.Frames[i].Number = i
	}
	return s, ctx.Err()
}

// walk walks as far as what is known goes.
func (v *view) walk(from unwind.Regs, opt StackOpt) *Stack {
	s := &Stack{}
	w := unwind.Walker{Memory: v, ImageAt: v.image, X86Frame: v.x86Frame, TrapFrame: v.trapFrame, Block: pageSize}
	s.End = w.Walk(v.ctx, from, opt.Limit, func(f *unwind.Frame) bool {
		if len(v.missing) > 0 {
			return false // what follows may be wrong
		}
		out := Frame{
			PC: f.PC, SP: f.SP, Return: f.Return, FP: f.FP, CFA: f.CFA, MachineFrame: f.MachineFrame, HasError: f.HasError,
			How: f.How, Exact: f.Trap, X86: f.X86,
		}
		if f.Image != nil && (f.How == unwind.UnwindData || f.How == unwind.FPO) {
			out.Func = f.Image.Base() + uint64(f.FuncRVA)
		}
		if opt.Regs {
			r := f.Regs
			out.Regs = &r
		}
		s.Frames = append(s.Frames, out)
		return true
	})
	return s
}

// needStack notes stack memory that a walk has missed.
func (v *view) needStack(s *Stack, opt StackOpt) {
	ahead := min(stackAhead, 1024+256*opt.Limit)
	if v.slow {
		ahead = stackAheadSlow
	}
	if s.End.Reason == unwind.Unreadable && errors.Is(s.End.Err, errMissing) {
		v.note(s.End.Addr, ahead)
		return
	}
	if !v.hasTail {
		return
	}
	// Memory is read in blocks, so that its end need not matter. Looking for
	// return addresses, and at code that has just pushed something, it does.
	for i := range s.Frames {
		f := &s.Frames[i]
		end := f.CFA + 64
		if f.How == unwind.Guess || f.How == unwind.FPO {
			end = max(end, f.SP+pageSize)
		}
		if v.tail >= f.SP && v.tail < end {
			v.note(v.tail, ahead)
			return
		}
	}
}

// speculate notes what the unwinder will want of the images that the stack
// points to.
func (v *view) speculate(sp uint64) {
	b := make([]byte, speculation)
	n, _ := v.h.known(v.a, sp, b)
	size := v.a.PointerSize
	seen := map[uint64]bool{}
	for off := 0; off+size <= n && len(v.missing) < maxFetch/2; off += size {
		pc := v.a.Canon(uintOf(b[off : off+size]))
		if seen[pc] {
			continue
		}
		im, ok := v.image(pc)
		if !ok {
			continue
		}
		if v.slow && len(seen) == speculationSlow {
			return
		}
		seen[pc] = true
		m, ok := im.(*mapped)
		if !ok || m.err != nil {
			continue // a file, or its headers have just been noted
		}
		at := uint32(pc - m.m.Base)
		if !v.slow && (len(seen) <= 16 || m.unit == 0) {
			var code [8]byte // is there a call in front of it?
			_ = m.ReadRVA(at-min(at, uint32(len(code))), code[:min(at, uint32(len(code)))])
		}
		f, ok, err := m.Function(at)
		if err != nil || !ok || m.unit == 8 && f.Data&3 != 0 {
			continue
		}
		data := f.Data &^ 3
		if data < m.m.Size {
			var info [64]byte
			_ = m.ReadRVA(data, info[:min(uint32(len(info)), m.m.Size-data)])
		}
	}
}

// x86Frame implements unwind.Walker's function of that name.
func (v *view) x86Frame(pc uint64) (sym.X86Frame, bool) {
	m, ok := v.moduleAt(pc)
	if !ok {
		return sym.X86Frame{}, false
	}
	f := v.e.symbolFile(v.ctx, m)
	if f == nil {
		return sym.X86Frame{}, false
	}
	fr, ok, err := f.X86Frame(uint32(pc - m.Base))
	return fr, ok && err == nil
}

// X86Frame is what the symbol file says of the frame of x86 code at an address.
func (e *Engine) X86Frame(ctx context.Context, addr uint64) (sym.X86Frame, bool, error) {
	m, ok, err := e.ModuleAt(ctx, addr)
	if err != nil || !ok {
		return sym.X86Frame{}, false, err
	}
	f := e.symbolFile(ctx, m)
	if f == nil {
		return sym.X86Frame{}, false, nil
	}
	return f.X86Frame(uint32(e.canon(addr) - m.Base))
}

// inline puts the functions in front of a frame that were built into its
// function.
func (v *view) inline(s *Stack, limit int) {
	if v.e.opt.Files == nil {
		return
	}
	var out []Frame
	for _, f := range s.Frames {
		at := f.PC
		if !f.Exact {
			at--
		}
		if m, ok := v.moduleAt(at); ok {
			if file := v.e.symbolFile(v.ctx, m); file != nil {
				scopes, err := file.Scopes(uint32(at - m.Base))
				for i := len(scopes) - 1; i >= 0 && err == nil; i-- {
					if sc := &scopes[i]; sc.Inlined && sc.Name != "" {
						name := m.Name + "!" + sc.Name
						if d := f.PC - m.Base - uint64(sc.RVA); d != 0 && d < 1<<31 {
							name += fmt.Sprintf("+0x%x", d)
						}
						out = append(out, Frame{Inline: name, PC: f.PC, SP: f.SP, Exact: f.Exact, Regs: f.Regs})
					}
				}
			}
		}
		out = append(out, f)
	}
	s.Frames = out[:min(len(out), limit)]
}
