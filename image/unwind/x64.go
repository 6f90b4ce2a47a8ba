package unwind

import (
	"errors"
	"fmt"

	"openkd/arch"
	"openkd/image/disasm"
	"openkd/image/pe"
	"openkd/kdproto"
)

var (
	errShort     = errors.New("the memory ends there")
	errScattered = errors.New("the stack is scattered over too many places")
	errNoData    = errors.New("the image has none for code that called something, and nothing else tells its caller")
	errChain     = errors.New("the chain of unwind data is too long, or goes in a circle")
)

// Operations of UNWIND_CODE.
const (
	opPushNonvol    = 0
	opAllocLarge    = 1
	opAllocSmall    = 2
	opSetFPReg      = 3
	opSaveNonvol    = 4
	opSaveNonvolFar = 5
	opEpilog        = 6 // version 2; the SAVE_XMM of old compilers in version 1
	opSpare         = 7 // the SAVE_XMM_FAR of old compilers
	opSaveXMM       = 8
	opSaveXMMFar    = 9
	opPushMachine   = 10
)

// Flags of UNWIND_INFO.
const (
	flagEHandler = 1
	flagUHandler = 2
	flagChain    = 4
)

const (
	maxChain = 32 // chained entries of one function
	indirect = 1  // bit of pe.Function.Data: it points to another entry
)

// x64Op is one unwind code, undone by moving the stack pointer up by Value or
// by loading a register from Value.
type x64Op struct {
	offset uint8 // of the end of the instruction, from the function's start
	op     uint8
	info   uint8
	value  uint32 // bytes: size of an allocation, offset of a saved register
}

// x64Info is a decoded UNWIND_INFO.
type x64Info struct {
	version  uint8
	flags    uint8
	prolog   uint8 // bytes
	frameReg uint8 // 0: none
	frameOff uint8 // bytes, already scaled
	ops      []x64Op
	handler  uint32      // RVA, with a handler flag
	parent   pe.Function // with flagChain

	// Version 2: all epilogs have one size, and begin at these distances from
	// the function's end.
	epilogSize uint32
	epilogs    []uint32
}

// parseX64 decodes UNWIND_INFO; read fills a buffer from an offset in it. buf
// holds the record, ops and epilogs are appended to those of info.
func parseX64(info *x64Info, buf []byte, read func(off uint32, b []byte) error) error {
	h := buf[:4]
	if err := read(0, h); err != nil {
		return err
	}
	*info = x64Info{
		version: h[0] & 7, flags: h[0] >> 3, prolog: h[1], frameReg: h[3] & 15, frameOff: h[3] >> 4 * 16,
		ops: info.ops[:0], epilogs: info.epilogs[:0],
	}
	if info.version != 1 && info.version != 2 {
		return fmt.Errorf("UNWIND_INFO of version %d: 1 and 2 are known", info.version)
	}
	n := uint32(h[2])
	tail := uint32(0)
	switch {
	case info.flags&flagChain != 0:
		tail = 12
	case info.flags&(flagEHandler|flagUHandler) != 0:
		tail = 4
	}
	codes := buf[4 : 4+2*((n+1)&^1)+tail]
	if err := read(4, codes); err != nil {
		return err
	}
	end := codes[2*((n+1)&^1):]
	switch tail {
	case 4:
		info.handler = le.Uint32(end)
	case 12:
		info.parent = pe.Function{Begin: le.Uint32(end), End: le.Uint32(end[4:]), Data: le.Uint32(end[8:])}
	}
	header := true
	for i := uint32(0); i < n; {
		c := codes[2*i:]
		o := x64Op{offset: c[0], op: c[1] & 15, info: c[1] >> 4}
		slots := uint32(1)
		switch o.op {
		case opAllocLarge:
			switch o.info {
			case 0:
				slots = 2
			case 1:
				slots = 3
			default:
				return fmt.Errorf("unwind code %d: ALLOC_LARGE of form %d", i, o.info)
			}
		case opSaveNonvol, opSaveXMM:
			slots = 2
		case opSaveNonvolFar, opSaveXMMFar:
			slots = 3
		case opEpilog:
			if info.version == 1 {
				slots = 2
			}
		case opSpare:
			slots = 3
		}
		if i+slots > n {
			return fmt.Errorf("unwind code %d: operation %d needs %d slots of %d that are left", i, o.op, slots, n-i)
		}
		switch o.op {
		case opAllocSmall:
			o.value = uint32(o.info)*8 + 8
		case opAllocLarge, opSaveNonvol, opSaveNonvolFar, opSaveXMM, opSaveXMMFar:
			scale := uint32(8)
			if o.op == opSaveXMM {
				scale = 16
			}
			if slots == 2 {
				o.value = uint32(le.Uint16(c[2:])) * scale
			} else {
				o.value = le.Uint32(c[2:])
			}
		case opEpilog:
			if info.version == 2 {
				// The first says how long epilogs are, and whether one is at the
				// end; each other one where an epilog is, or nothing.
				switch at := uint32(o.info)<<8 | uint32(o.offset); {
				case header:
					info.epilogSize, header = uint32(o.offset), false
					if o.info&1 != 0 {
						info.epilogs = append(info.epilogs, info.epilogSize)
					}
				case at != 0:
					info.epilogs = append(info.epilogs, at)
				}
				i += slots
				continue
			}
		case opPushMachine:
			if o.info > 1 {
				return fmt.Errorf("unwind code %d: PUSH_MACHFRAME of form %d", i, o.info)
			}
		}
		if o.op > opPushMachine {
			return fmt.Errorf("unwind code %d: operation %d is not known", i, o.op)
		}
		info.ops = append(info.ops, o)
		i += slots
	}
	return nil
}

// imageError names the image's RVA that could not be read.
func imageError(what string, at uint32, err error) error {
	return fmt.Errorf("%s at offset %#x of its image: %w", what, at, err)
}

// info reads the unwind data of a function.
func (u *unwinder) info(im Image, fn pe.Function, info *x64Info) error {
	for range maxChain {
		if fn.Data&indirect == 0 {
			err := parseX64(info, u.data[:], func(off uint32, b []byte) error { return im.ReadRVA(fn.Data+off, b) })
			if err != nil {
				return imageError("unwind data", fn.Data, err)
			}
			return nil
		}
		at := fn.Data &^ indirect
		b := u.data[:12]
		if err := im.ReadRVA(at, b); err != nil {
			return imageError("function entry", at, err)
		}
		fn.Data = le.Uint32(b[8:])
	}
	return errChain
}

// primary follows chained entries to the function they belong to.
func (u *unwinder) primary(im Image, fn pe.Function) (pe.Function, error) {
	var info x64Info
	for range maxChain {
		if err := u.info(im, fn, &info); err != nil {
			return fn, err
		}
		if info.flags&flagChain == 0 {
			return fn, nil
		}
		fn = info.parent
	}
	return fn, errChain
}

// x64 unwinds one frame.
func (u *unwinder) x64() error {
	im := u.f.Image
	if im == nil {
		// Called through a bad pointer: the return address is still there. A
		// caller in no image is not believed.
		if !u.exact {
			return &errEnd{End{NoImage, u.f.PC, nil}}
		}
		return u.x64Leaf(Guess)
	}
	at := rva(im, u.f.PC)
	fn, found, err := im.Function(at)
	if err != nil {
		return err
	}
	if !u.exact && (!found || fn.Begin == at) && u.callBefore(im, at) {
		// The call was the last instruction of its function, which is then
		// not this one. (A new thread does "return" to the start of one.)
		if fn, found, err = im.Function(at - 1); err != nil {
			return err
		}
	}
	if !found {
		if !u.exact {
			return u.x64Leaf(Guess) // what has called something has unwind data
		}
		return u.x64Leaf(Leaf)
	}
	u.f.How = UnwindData
	before := *u.r
	if err := u.x64Function(im, fn, at); err != nil {
		return err
	}
	if u.exact && !u.trap && !u.moved {
		return u.displaced(before, fn, func() error { return u.x64Function(im, fn, at) })
	}
	return nil
}

// x64Leaf takes the return address from the top of the stack.
func (u *unwinder) x64Leaf(how How) error {
	u.f.How = how
	u.f.FP = u.r.SP
	before := *u.r
	pop := func() error { u.r.returned(); return u.pop() }
	if err := pop(); err != nil {
		return err
	}
	if how == Leaf {
		return u.displaced(before, pe.Function{}, pop)
	}
	if !u.exact && u.r.PC != 0 && u.credit(u.r.PC) != afterCall {
		return errNoData
	}
	return nil
}

// pop returns to the caller.
func (u *unwinder) pop() error {
	pc, err := u.stack.u64(u.r.SP)
	if err != nil {
		return err
	}
	u.r.PC = pc
	u.r.SP += 8
	return nil
}

// displaced looks again at a frame whose return address is doubtful: code that
// has just pushed something, and pops it a moment later, stands on a stack that
// unwind data does not describe (compilers read the flags so). The code up to the
// next branch tells how far it is off.
func (u *unwinder) displaced(before Regs, fn pe.Function, again func() error) error {
	if u.f.Image == nil {
		return nil
	}
	doubt := u.credit(u.r.PC)
	if doubt == afterCall {
		return nil
	}
	n := u.ahead(u.f.Image, fn, rva(u.f.Image, u.f.PC), before.SP, u.r.SP-8)
	if n == 0 {
		return nil
	}
	after := *u.r
	*u.r = before
	u.r.SP += n
	if err := again(); err != nil || u.credit(u.r.PC) <= doubt {
		*u.r = after
	}
	return nil
}

// ahead runs over straight code from an address. If it comes to an epilog it
// returns how far above slot the return address must be, else how many bytes are
// popped that have not been pushed.
func (u *unwinder) ahead(im Image, fn pe.Function, at uint32, sp, slot uint64) uint64 {
	start, most := sp, sp
	var info x64Info
	var e epilog
	for range 8 {
		if ok, err := u.matchEpilog(&e, im, fn, &info, at, sp); err != nil {
			return 0
		} else if ok {
			return e.sp - slot
		}
		var b [16]byte
		n := u.readCode(im, at, b[:])
		if n == 0 {
			break
		}
		in, err := disasm.Decode(kdproto.MachineAMD64, b[:n], 0, nil)
		if err != nil || !in.Valid() || in.Kind != disasm.Other {
			break
		}
		switch in.Mnemonic {
		case "push", "pushfq":
			sp -= 8
		case "pop", "popfq":
			sp += 8
			most = max(most, sp)
		}
		at += uint32(in.Len)
	}
	return most - start
}

// readCode reads what there is of code, up to the end of the image.
func (u *unwinder) readCode(im Image, at uint32, b []byte) int {
	for n := len(b); n > 0; n /= 2 {
		if im.ReadRVA(at, b[:n]) == nil {
			return n
		}
	}
	return 0
}

// How far an address is believed to be one that code returns to.
const (
	noReturn  = iota
	aStart    // a function begins there: a new thread
	afterCall // a call ends there
)

func (u *unwinder) credit(pc uint64) int {
	im, ok := u.ImageAt(pc)
	if !ok {
		return noReturn
	}
	at := rva(im, pc)
	if u.callBefore(im, at) {
		return afterCall
	}
	if fn, ok, err := im.Function(at); err == nil && ok && fn.Begin == at {
		return aStart
	}
	return noReturn
}

// callBefore reports whether a call instruction ends at an address.
func (u *unwinder) callBefore(im Image, at uint32) bool {
	var b [7]byte
	n := uint32(len(b))
	for ; n >= 2; n-- {
		if at >= n && im.ReadRVA(at-n, b[7-n:]) == nil {
			break
		}
	}
	if n < 2 {
		return false
	}
	if n >= 5 && b[2] == 0xE8 {
		return true
	}
	// call r/m: FF /2 with what ModRM asks for, at each length.
	for l := 2; l <= int(n); l++ {
		c := b[7-l:]
		if c[0] != 0xFF || c[1]>>3&7 != 2 {
			continue
		}
		mod, rm := c[1]>>6, c[1]&7
		want := 2
		if mod != 3 && rm == 4 {
			want = 3
			if mod == 0 && l > 2 && c[2]&7 == 5 {
				want = 7
			}
		}
		switch {
		case mod == 0 && rm == 5:
			want = 6
		case mod == 1:
			want++
		case mod == 2:
			want += 4
		}
		if want == l {
			return true
		}
	}
	return n == 7 && b[0] == 0x9A && u.arch.PointerSize == 4
}

// x64Function unwinds a frame by its unwind data.
func (u *unwinder) x64Function(im Image, fn pe.Function, at uint32) error {
	var info x64Info
	if err := u.info(im, fn, &info); err != nil {
		return err
	}
	r := u.r
	r.returned()
	offset := at - fn.Begin
	inProlog := offset < uint32(info.prolog)
	base, setsFP := r.SP, false
	if info.frameReg != 0 && (!inProlog || info.flags&flagChain != 0 || pastSetFP(&info, offset)) {
		// Offsets count from the start of the fixed allocation, to which
		// GCC adds behind the frame register.
		var below uint64
		below, setsFP = info.allocated()
		base = r.X[info.frameReg] - uint64(info.frameOff) - below
	}
	u.f.FP = base
	if u.exact && !inProlog {
		if done, err := u.x64Epilog(im, fn, &info, at); done || err != nil {
			if own, err := u.primary(im, fn); err == nil {
				u.f.FuncRVA = own.Begin
			}
			return err
		}
	}
	if setsFP && !inProlog {
		r.SP = base // without what the body has allocated
	}
	machine := false
	for depth := 0; ; depth++ {
		for _, o := range info.ops {
			// In the prolog only what is behind the program counter has been
			// done; of parents all of it.
			if depth == 0 && inProlog && uint32(o.offset) > offset {
				continue
			}
			if err := u.x64Undo(&info, o, base); err != nil {
				return err
			}
			if o.op == opPushMachine {
				machine = true
			}
		}
		if info.flags&flagChain == 0 {
			break
		}
		if depth == maxChain {
			return errChain
		}
		fn = info.parent
		if err := u.info(im, fn, &info); err != nil {
			return err
		}
	}
	u.f.FuncRVA = fn.Begin
	if machine {
		return nil
	}
	return u.pop()
}

// pastSetFP reports whether the prolog has set up the frame register.
func pastSetFP(info *x64Info, offset uint32) bool {
	for _, o := range info.ops {
		if o.op == opSetFPReg {
			return uint32(o.offset) <= offset
		}
	}
	return false
}

// allocated is how many bytes the prolog takes behind setting up the frame
// register, if it sets one up; a chained part does not.
func (info *x64Info) allocated() (n uint64, set bool) {
	for _, o := range info.ops {
		switch o.op {
		case opPushNonvol:
			n += 8
		case opAllocLarge, opAllocSmall:
			n += uint64(o.value)
		case opSetFPReg:
			return n, true
		}
	}
	return 0, false
}

// x64Undo undoes one operation of a prolog.
func (u *unwinder) x64Undo(info *x64Info, o x64Op, base uint64) error {
	r := u.r
	switch o.op {
	case opPushNonvol:
		v, err := u.stack.u64(r.SP)
		if err != nil {
			return err
		}
		r.Set(int(o.info), v)
		r.SP += 8
	case opAllocLarge, opAllocSmall:
		r.SP += uint64(o.value)
	case opSetFPReg:
		r.SP = r.X[info.frameReg] - uint64(info.frameOff)
		u.moved = true
	case opSaveNonvol, opSaveNonvolFar:
		v, err := u.stack.u64(base + uint64(o.value))
		if err != nil {
			return err
		}
		r.Set(int(o.info), v)
	case opSaveXMM, opSaveXMMFar:
		var b [16]byte
		if err := u.stack.read(base+uint64(o.value), b[:]); err != nil {
			return err
		}
		r.SetV(int(o.info), arch.Value{Lo: le.Uint64(b[:]), Hi: le.Uint64(b[8:])})
	case opPushMachine:
		return u.machineFrame(o.info == 1)
	}
	return nil
}

// machineFrame takes the registers that the processor pushed: rip, cs, rflags,
// rsp and ss, with an error code below them for some exceptions.
func (u *unwinder) machineFrame(hasError bool) error {
	if hasError {
		u.r.SP += 8
	}
	var b [40]byte
	if err := u.stack.read(u.r.SP, b[:]); err != nil {
		return err
	}
	u.f.MachineFrame, u.f.HasError = u.r.SP, hasError
	u.r.PC, u.r.SP = le.Uint64(b[:]), le.Uint64(b[24:])
	u.trap = true
	return nil
}

// x64Epilog finds out whether the code at an address is the rest of an epilog,
// and if so does what is left of it. Version 2 says where epilogs are; else it
// is one if what follows is nothing but stack released, registers popped and an
// instruction that leaves the function.
func (u *unwinder) x64Epilog(im Image, fn pe.Function, info *x64Info, at uint32) (bool, error) {
	if info.version == 2 {
		for _, e := range info.epilogs {
			start := fn.End - e
			if at >= start && at-start < info.epilogSize {
				return true, u.runEpilog(im, at)
			}
		}
		return false, nil
	}
	var e epilog
	if ok, err := u.matchEpilog(&e, im, fn, info, at, u.r.SP); !ok || err != nil {
		return false, err
	}
	if !e.released && e.kind != leaveReturn && e.kind != leaveTrap {
		// Nothing but a jump: out of the function in the midst of it, as some
		// exception filters are reached, or behind an epilog.
		if ret, err := u.stack.u64(e.sp); err != nil || u.credit(ret) != afterCall {
			return false, nil
		}
	}
	for _, p := range e.pops[:e.n] {
		v, err := u.stack.u64(p.at)
		if err != nil {
			return true, err
		}
		if p.reg != x64SP {
			u.r.Set(p.reg, v)
		}
	}
	u.r.SP, u.moved = e.sp, e.moved
	if e.kind == leaveTrap {
		return true, u.machineFrame(false)
	}
	if err := u.pop(); err != nil {
		return true, err
	}
	if e.kind == leaveReturn {
		u.r.SP += uint64(e.arg)
	}
	return true, nil
}

// epilog is what the rest of an epilog does.
type epilog struct {
	pops [64]struct { // of these n
		reg int
		at  uint64
	}
	n        int
	sp       uint64 // behind the last pop
	released bool   // something is popped, or stack released
	moved    bool   // sp comes from the frame register
	kind     leave
	arg      uint32
}

// matchEpilog decodes an epilog, if the code at an address is one.
func (u *unwinder) matchEpilog(e *epilog, im Image, fn pe.Function, info *x64Info, at uint32, sp uint64) (bool, error) {
	*e = epilog{sp: sp}
	code := u.code[:u.readCode(im, at, u.code[:])]
	for i := 0; i < len(code); {
		c := code[i:]
		if n, reg := popAt(c); n != 0 {
			e.pops[e.n].reg, e.pops[e.n].at = reg, e.sp
			e.n++
			e.sp += 8
			e.released = true
			i += n
			continue
		}
		if n, size := addSP(c); n != 0 {
			e.sp += size
			e.released = true
			i += n
			continue
		}
		if n, reg, disp := leaSP(c); n != 0 && info.frameReg != 0 && reg == int(info.frameReg) && e.n == 0 {
			e.sp = u.r.X[reg] + disp
			e.released, e.moved = true, true
			i += n
			continue
		}
		e.kind, e.arg = leaveAt(c)
		switch e.kind {
		case noLeave:
			return false, nil
		case leaveJump:
			same, err := u.sameFunction(im, fn, at+uint32(i)+e.arg)
			return !same, err
		case leaveIndirect:
			return e.released, nil // else the jump of a switch
		}
		return true, nil
	}
	return false, nil
}

// runEpilog does the rest of an epilog that is known to be one: what is popped
// up to the instruction that leaves.
func (u *unwinder) runEpilog(im Image, at uint32) error {
	code := u.code[:u.readCode(im, at, u.code[:])]
	for {
		n, reg := popAt(code)
		if n == 0 {
			break
		}
		v, err := u.stack.u64(u.r.SP)
		if err != nil {
			return err
		}
		if reg != x64SP {
			u.r.Set(reg, v)
		}
		u.r.SP += 8
		code = code[n:]
	}
	if err := u.pop(); err != nil {
		return err
	}
	if kind, arg := leaveAt(code); kind == leaveReturn {
		u.r.SP += uint64(arg)
	}
	return nil
}

// sameFunction reports whether a jump target belongs to the function of fn, all
// its fragments included. A jump to its very start is a call of itself.
func (u *unwinder) sameFunction(im Image, fn pe.Function, target uint32) (bool, error) {
	if fn.End == 0 {
		return false, nil // a leaf
	}
	if target >= fn.Begin && target < fn.End {
		own, err := u.primary(im, fn)
		return target != own.Begin, err
	}
	to, found, err := im.Function(target)
	if !found || err != nil {
		return false, err
	}
	own, err := u.primary(im, fn)
	if err != nil {
		return false, err
	}
	to, err = u.primary(im, to)
	return to.Begin == own.Begin && target != own.Begin, err
}

// popAt decodes the pop of a 64-bit register; length 0: it is none.
func popAt(c []byte) (n, reg int) {
	switch {
	case len(c) >= 1 && c[0]&0xF8 == 0x58:
		return 1, int(c[0] & 7)
	case len(c) >= 2 && c[0]&0xF0 == 0x40 && c[1]&0xF8 == 0x58:
		return 2, int(c[1]&7) | int(c[0]&1)<<3
	}
	return 0, 0
}

// addSP decodes "add rsp, constant".
func addSP(c []byte) (n int, size uint64) {
	switch {
	case len(c) >= 4 && c[0] == 0x48 && c[1] == 0x83 && c[2] == 0xC4:
		return 4, uint64(int64(int8(c[3])))
	case len(c) >= 7 && c[0] == 0x48 && c[1] == 0x81 && c[2] == 0xC4:
		return 7, uint64(int64(int32(le.Uint32(c[3:]))))
	}
	return 0, 0
}

// leaSP decodes "lea rsp, [register+constant]".
func leaSP(c []byte) (n, reg int, disp uint64) {
	if len(c) < 3 || c[0]&^1 != 0x48 || c[1] != 0x8D || c[2]>>3&7 != x64SP {
		return 0, 0, 0
	}
	mod, rm := c[2]>>6, int(c[2]&7)
	n = 3
	if rm == 4 {
		if len(c) < 4 || c[3] != 0x24 {
			return 0, 0, 0
		}
		n = 4
	}
	reg = rm | int(c[0]&1)<<3
	switch {
	case mod == 0 && rm != 5:
		return n, reg, 0
	case mod == 1 && len(c) > n:
		return n + 1, reg, uint64(int64(int8(c[n])))
	case mod == 2 && len(c) >= n+4:
		return n + 4, reg, uint64(int64(int32(le.Uint32(c[n:]))))
	}
	return 0, 0, 0
}

// Ways to leave a function.
type leave uint8

const (
	noLeave       leave = iota
	leaveReturn         // arg: bytes of parameters released
	leaveJump           // arg: the target, relative to the instruction
	leaveIndirect       // a jump that may as well be that of a switch
	leaveTail           // an indirect jump that is a tail call
	leaveTrap           // iretq
)

// leaveAt decodes the instruction that ends an epilog.
func leaveAt(c []byte) (k leave, arg uint32) {
	i := 0
	for i < len(c) && (c[i] == 0xF2 || c[i] == 0xF3 || c[i] == 0x3E) {
		i++ // bnd, rep, notrack
	}
	wide := false
	if i < len(c) && c[i]&0xF0 == 0x40 {
		wide = c[i]&8 != 0
		i++
	}
	at := func(n int) byte {
		if i+n < len(c) {
			return c[i+n]
		}
		return 0
	}
	switch at(0) {
	case 0xC3:
		return leaveReturn, 0
	case 0xC2:
		return leaveReturn, uint32(at(1)) | uint32(at(2))<<8
	case 0xEB:
		return leaveJump, uint32(i+2) + uint32(int32(int8(at(1))))
	case 0xE9:
		return leaveJump, uint32(i+5) + uint32(at(1)) + uint32(at(2))<<8 + uint32(at(3))<<16 + uint32(at(4))<<24
	case 0xFF:
		switch m := at(1); {
		case m == 0x25: // through an import
			return leaveTail, 0
		case m>>3&7 == 4 && wide: // how compilers mark a tail call
			return leaveTail, 0
		case m>>3&7 == 4:
			return leaveIndirect, 0
		}
	case 0xCF:
		if wide {
			return leaveTrap, 0
		}
	case 0x0F: // swapgs, and lfence behind it, on the way back to user mode
		if at(1) == 0x01 && at(2) == 0xF8 || at(1) == 0xAE && at(2) == 0xE8 {
			if k, _ := leaveAt(c[min(i+3, len(c)):]); k == leaveTrap {
				return leaveTrap, 0
			}
		}
	}
	return noLeave, 0
}
