// Package unwind walks stacks of x64, ARM64 and x86 code: from the registers of
// one frame to those of its caller, and so on to the end.
//
// What it needs of the target is stack memory only, read in large blocks. Code
// and unwind data come from images, so from files where there are files. x64
// and ARM64 are unwound by the exception directory of the image; x86 by what
// the symbol file says of frames, then by frame pointers, then by looking for
// return addresses. A guess is marked as one (Frame.How).
//
// It knows no names, no types and no commands. It does not search for exception
// handlers, and it changes nothing.
//
// Facts: Microsoft's "x64 exception handling", "x64 prolog and epilog" and
// "ARM64 exception handling"; the epilog codes of version 2 from the notes of
// LLVM's Windows unwind support; FPO_DATA from winnt.h and the frame programs of
// PDB files from the Debug Interface Access documentation and Breakpad's notes;
// the x86 trap frame from the public WDK and ReactOS headers.
package unwind

import (
	"context"
	"errors"
	"fmt"

	"openkd/arch"
	"openkd/image/pe"
	"openkd/image/sym"
	"openkd/kdproto"
)

// Memory is the target's memory. Read fills b from addr on as far as it can and
// returns how many bytes that were; fewer than all come with the reason.
// Addresses are in wire form (arch.Canon).
//
// A Walk calls it from its own goroutine only, once for each block of stack.
type Memory interface {
	Read(addr uint64, b []byte) (int, error)
}

// Image is a loaded image: its code and its unwind data, from the image's file
// or, without one, from where it is mapped. NewImage makes one.
//
// Concurrency: all methods from any goroutine.
type Image interface {
	Base() uint64 // in wire form
	Size() uint32 // bytes
	Machine() kdproto.Machine
	// ReadRVA fills b from an offset to the base, or says why it cannot.
	ReadRVA(rva uint32, b []byte) error
	// Function finds the entry of the exception directory for an offset, as
	// pe.Functions.Find does. An image without the directory has none.
	Function(rva uint32) (pe.Function, bool, error)
}

// Walker is what a walk needs. Memory and ImageAt must be set.
//
// Concurrency: a Walker that is not changed any more may be used by several
// goroutines, if what it is made of may.
type Walker struct {
	Memory  Memory
	ImageAt func(pc uint64) (Image, bool) // the image around an address
	// X86Frame tells how the symbol file describes the frame of x86 code, DWARF's
	// call frame information included, which comes as a frame program; nil:
	// there are no symbol files.
	X86Frame func(pc uint64) (sym.X86Frame, bool)
	// TrapFrame reads the processor's registers out of the kernel's trap frame
	// at an address, whose layout symbols tell; nil: not possible. ARM64 unwind
	// data asks for it.
	TrapFrame func(addr uint64, r *Regs) error
	// Block is how much stack one read fetches ahead, in bytes; 0: 8192.
	Block int
}

// How says what a frame's caller was found by.
type How uint8

// Ways from a frame to its caller.
const (
	None         How = iota // there is no caller: the walk ends here
	UnwindData              // the image's exception directory
	Leaf                    // no unwind data, so nothing on the stack but the return address
	FPO                     // the symbol file's FPO or frame data
	FramePointer            // the chain of frame pointers
	Code                    // the function's own instructions
	Guess                   // what looks like a return address
)

var hows = [...]string{"none", "unwind data", "leaf", "FPO", "frame pointer", "code", "guess"}

func (h How) String() string {
	if int(h) < len(hows) {
		return hows[h]
	}
	return fmt.Sprintf("How(%d)", uint8(h))
}

// Frame is one activation of a function. Addresses are in wire form.
type Frame struct {
	PC     uint64
	SP     uint64
	Return uint64 // where the frame returns to, or where it was interrupted; 0: not known
	// FP is the base of the frame. x86: where the caller's ebp is or would be
	// saved, below the return address (ChildEBP). x64: the start of the fixed
	// stack allocation. ARM64: fp.
	FP uint64
	// CFA is the caller's stack pointer before its call. On x64 the homes of
	// the first four parameters begin here, on x86 the parameters; on ARM64
	// there are none. Of a frame that was entered by a trap it is the stack
	// pointer of the interrupted code. 0: not known.
	CFA  uint64
	Regs Regs // at PC
	// Trap: the frame was interrupted, or is the first one, so PC is exact and
	// not where a call returns to.
	Trap bool
	// MachineFrame is where the processor pushed the registers of the caller
	// (at the saved program counter), if the frame was entered by a trap; 0: by
	// a call. HasError: an error code lies below it.
	MachineFrame uint64
	HasError     bool

	How     How
	X86     sym.X86Frame // what the symbol file says, with How FPO
	Image   Image        // around PC; nil: none known
	FuncRVA uint32       // start of the function in Image, or of the part of it that is described, with How UnwindData or FPO
}

// Reason is why a walk ended.
type Reason uint8

// Reasons.
const (
	Bottom     Reason = iota // the outermost frame: its return address is zero
	Limit                    // as many frames as were asked for
	Stopped                  // yield said so
	Cancelled                // the context ended
	Unreadable               // stack memory that cannot be read, at End.Addr
	NoImage                  // the program counter, End.Addr, is in no image
	BadData                  // End.Err says what is wrong with the unwind data of the code at End.Addr
	Loop                     // the stack pointer, End.Addr, does not advance
)

// End says how a walk ended.
type End struct {
	Reason Reason
	Addr   uint64
	Err    error // with Unreadable, BadData, Cancelled
}

// String is a sentence for a person; empty for ends that need none.
func (e End) String() string {
	switch e.Reason {
	case Bottom, Limit, Stopped:
		return ""
	case Cancelled:
		return fmt.Sprintf("The walk was interrupted: %v", e.Err)
	case Unreadable:
		return fmt.Sprintf("The stack cannot be read at %#x: %v", e.Addr, e.Err)
	case NoImage:
		return fmt.Sprintf("The walk ends at %#x, which is in no module", e.Addr)
	case BadData:
		return fmt.Sprintf("The unwind data for %#x cannot be used: %v", e.Addr, e.Err)
	case Loop:
		return fmt.Sprintf("The stack goes in a circle at %#x", e.Addr)
	}
	return fmt.Sprintf("Reason(%d)", uint8(e.Reason))
}

// defaultBlock holds 30 usual frames of a kernel stack.
const defaultBlock = 8192

// Walk calls yield for the frame of start, which is taken as interrupted at its
// program counter, and for its callers, until yield returns false or nothing is
// left, at most limit times. A frame that cannot be left is yielded too, with
// How None. The frame belongs to Walk: copy what is kept.
func (w *Walker) Walk(ctx context.Context, start Regs, limit int, yield func(*Frame) bool) End {
	return w.walk(ctx, start, true, limit, yield)
}

// WalkWaiting is Walk from a frame that waits for a call to return to its
// program counter, such as that of a thread that does not run.
func (w *Walker) WalkWaiting(ctx context.Context, start Regs, limit int, yield func(*Frame) bool) End {
	return w.walk(ctx, start, false, limit, yield)
}

func (w *Walker) walk(ctx context.Context, start Regs, exact bool, limit int, yield func(*Frame) bool) End {
	a, ok := arch.For(start.Machine)
	if !ok {
		return End{BadData, start.PC, fmt.Errorf("no unwinder for machine %v: x86, x64 and ARM64 are known", start.Machine)}
	}
	block := w.Block
	if block <= 0 {
		block = defaultBlock
	}
	// Few frames need little stack.
	block = min(block, 1024+256*min(max(limit, 0), 1<<16))
	u := &unwinder{Walker: w, arch: a, stack: stack{mem: w.Memory, block: block, canon: a.Canon}}
	seen := map[[2]uint64]bool{}
	r := start
	r.PC, r.SP = a.Canon(r.PC), a.Canon(r.SP)
	f := new(Frame)
	for range limit {
		if err := ctx.Err(); err != nil {
			return End{Cancelled, 0, err}
		}
		if k := [2]uint64{r.PC, r.SP}; seen[k] {
			return End{Loop, r.SP, nil}
		} else {
			seen[k] = true
		}
		*f = Frame{PC: r.PC, SP: r.SP, Regs: r, Trap: exact}
		u.f, u.r, u.exact, u.trap = f, &r, exact, false
		if im, ok := w.ImageAt(r.PC); ok {
			f.Image = im
		}
		err := u.step()
		if err != nil {
			f.How = None
			yield(f)
			return u.end(f.PC, err)
		}
		f.Return = r.PC
		if f.CFA == 0 {
			f.CFA = r.SP
		}
		if r.PC == 0 {
			f.How = None
		}
		if !yield(f) {
			return End{Reason: Stopped}
		}
		if r.PC == 0 {
			return End{Reason: Bottom}
		}
		if !u.advances(f, &r) {
			return End{Loop, r.SP, nil}
		}
		exact = u.trap
	}
	return End{Reason: Limit}
}

// advances reports whether the caller's stack pointer may follow the frame's.
// Stacks grow down, so callers lie above; a machine frame or a frame register
// may lead to another stack anywhere (what comes round is seen by Walk). On
// ARM64 a leaf has nothing on the stack, and calls no one.
func (u *unwinder) advances(f *Frame, r *Regs) bool {
	if r.SP > f.SP || u.trap || u.moved {
		return true
	}
	return r.SP == f.SP && u.arch.Machine == kdproto.MachineARM64 && f.Trap && r.PC != f.PC
}

// unwinder is the state of one walk.
type unwinder struct {
	*Walker
	arch  *arch.Arch
	stack stack

	f     *Frame
	r     *Regs // of the frame, then of its caller
	exact bool  // the frame was interrupted at r.PC
	trap  bool  // its caller was
	moved bool  // the stack pointer was restored from a register

	calleeParams uint32 // x86: bytes of parameters that the frame below was called with

	// Scratch.
	code   [64]byte
	data   [1024]byte // UNWIND_INFO, or ARM64's unwind codes
	armOps []armOp
}

// errEnd stops a walk for a reason other than bad unwind data.
type errEnd struct{ End }

func (e *errEnd) Error() string { return e.String() }

func (u *unwinder) end(pc uint64, err error) End {
	if u.arch.PointerSize == 4 {
		pc = word(pc) // as people write it
	}
	var e *errEnd
	if errors.As(err, &e) {
		return e.End
	}
	return End{BadData, pc, err}
}

// step replaces the registers of the frame by those of its caller.
func (u *unwinder) step() error {
	u.moved = false
	switch u.arch.Machine {
	case kdproto.MachineAMD64:
		return u.x64()
	case kdproto.MachineARM64:
		return u.arm64()
	}
	return u.x86()
}

// rva is the offset of an address in an image.
func rva(im Image, addr uint64) uint32 { return uint32(addr - im.Base()) }
