package unwind

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"openkd/image/disasm"
	"openkd/image/sym"
	"openkd/kdproto"
)

// Offsets of KTRAP_FRAME of x86, which have never changed.
const (
	trapArgMark = 0x08
	trapEsp2    = 0x14 // TempEsp
	trapEdx     = 0x3C
	trapEcx     = 0x40
	trapEax     = 0x44
	trapEdi     = 0x54
	trapEsi     = 0x58
	trapEbx     = 0x5C
	trapEbp     = 0x60
	trapEip     = 0x68
	trapSegCs   = 0x6C
	trapEFlags  = 0x70
	trapEsp     = 0x74
	trapSize    = 0x7C

	trapMark = 0xBADB0D00 // what KTRAP_FRAME.DbgArgMark holds
	flagV86  = 1 << 17
)

const (
	maxChainGap = 1 << 20 // bytes from one frame pointer to the next
	scanWords   = 1024    // how far a return address is looked for
)

// x86 unwinds one frame.
func (u *unwinder) x86() error {
	if err := u.x86Frame(); err != nil || u.trap || u.r.PC == 0 {
		return err
	}
	// A trap handler that is jumped to has no return address: the trap frame
	// lies where that would be, and takes its place.
	slot := word(u.f.CFA - 4)
	if mark, err := u.stack.u32(slot + trapArgMark); err != nil || mark != trapMark || u.credit(u.r.PC) == afterCall {
		return nil
	}
	before, fp, cfa := *u.r, u.f.FP, u.f.CFA
	if ok, err := u.x86Trap(slot); !ok || err != nil {
		*u.r, u.trap, u.f.FP, u.f.CFA, u.f.MachineFrame = before, false, fp, cfa, 0
		return nil
	}
	u.f.FP, u.calleeParams = fp, 0
	return nil
}

// x86Frame is x86 without trap frames in unusual places.
func (u *unwinder) x86Frame() error {
	calleeParams := u.calleeParams
	u.calleeParams = 0
	before := *u.r
	try := func(f func() (bool, error)) (bool, error) {
		ok, err := f()
		if !ok || err != nil {
			*u.r = before
			u.trap, u.f.MachineFrame, u.f.CFA = false, 0, 0
		}
		return ok, err
	}
	if u.X86Frame != nil {
		if fr, ok := u.X86Frame(u.lookupPC()); ok {
			done, err := try(func() (bool, error) { return u.x86Symbols(fr, calleeParams) })
			if done && err == nil {
				u.f.X86, u.f.FuncRVA = fr, fr.RVA
				if u.f.How == FPO {
					u.calleeParams = fr.Params
				}
				return nil
			}
		}
	}
	if u.exact && u.f.Image != nil {
		for _, f := range []func() (bool, error){u.x86Entry, func() (bool, error) { return u.x86Epilog(0, 0) }} {
			if ok, err := try(f); ok || err != nil {
				return err
			}
		}
	}
	if ok, err := try(u.x86Chain); ok || err != nil {
		return err
	}
	return u.x86Scan(calleeParams)
}

// lookupPC is an address inside the function of the frame: a return address may
// lie behind it.
func (u *unwinder) lookupPC() uint64 {
	if u.exact {
		return u.f.PC
	}
	return u.f.PC - 1
}

// word is an address as the processor has it.
func word(v uint64) uint64 { return v & 0xFFFFFFFF }

// x86Return leaves the frame: ret is where the return address is.
func (u *unwinder) x86Return(ret uint64) error {
	pc, err := u.stack.u32(ret)
	if err != nil {
		return err
	}
	u.r.PC, u.r.SP = u.arch.Canon(uint64(pc)), u.arch.Canon(ret+4)
	u.f.FP, u.f.CFA = u.arch.Canon(ret-4), u.r.SP
	return nil
}

// x86Load restores a register from the stack.
func (u *unwinder) x86Load(reg int, at uint64) error {
	v, err := u.stack.u32(at)
	if err == nil {
		u.r.Set(reg, uint64(v))
	}
	return err
}

// x86Symbols unwinds by what the symbol file says.
func (u *unwinder) x86Symbols(fr sym.X86Frame, calleeParams uint32) (bool, error) {
	if fr.Trap {
		if ok, err := u.x86Trap(word(u.r.X[x86BP])); ok || err != nil || !fr.HasProgram {
			return ok, err
		}
	}
	if u.exact && u.f.Image != nil {
		from, to := fr.RVA, fr.RVA+fr.Size
		if fr.HasProgram {
			from, to = 0, 0 // of a part of the function
		}
		if ok, err := u.x86Epilog(from, to); ok || err != nil {
			return ok, err
		}
	}
	u.f.How = FPO
	if fr.HasProgram {
		return u.x86Program(fr, calleeParams)
	}
	return u.x86FPO(fr, calleeParams)
}

// x86FPO unwinds by FPO_DATA, which tells sizes, and by the function's prolog,
// which tells where registers are.
func (u *unwinder) x86FPO(fr sym.X86Frame, calleeParams uint32) (bool, error) {
	r := u.r
	p := x86Prolog{depth: 4 + fr.Locals + fr.SavedRegs}
	if im := u.f.Image; im != nil {
		at := rva(im, u.f.PC)
		p = u.x86Prolog(im, fr, at)
		if uint32(u.lookupPC()-im.Base())-fr.RVA >= fr.Prolog && !p.frame {
			// Room for locals may be made in ways that are not seen.
			p.depth = max(p.depth, 4+fr.Locals+fr.SavedRegs)
		}
	}
	r.returned()
	var cfa uint64
	if p.frame {
		cfa = word(r.X[x86BP]) + uint64(p.frameDepth)
	} else {
		ret, err := u.returnSlot(word(r.SP)+uint64(p.depth-4)+uint64(calleeParams), scanWords)
		if err != nil {
			return false, err
		}
		cfa = ret + 4
	}
	for _, s := range p.saved {
		if s.reg != x86SP {
			if err := u.x86Load(s.reg, cfa-uint64(s.depth)); err != nil {
				return false, err
			}
		}
	}
	return true, u.x86Return(cfa - 4)
}

// x86Prolog is what the executed part of a prolog has done.
type x86Prolog struct {
	depth      uint32 // bytes on the stack, return address included
	frame      bool   // ebp is the frame pointer
	frameDepth uint32 // depth where ebp points
	saved      []savedReg
}

type savedReg struct {
	reg   int
	depth uint32 // it lies so many bytes below the stack pointer before the call
}

// x86Prolog reads the prolog of a function as far as it has been executed.
func (u *unwinder) x86Prolog(im Image, fr sym.X86Frame, at uint32) x86Prolog {
	p := x86Prolog{depth: 4}
	end := at
	if fr.Prolog != 0 {
		end = min(end, fr.RVA+fr.Prolog)
	}
	for pos := fr.RVA; pos < end && len(p.saved) < 8; {
		c := u.code[:u.readCode(im, pos, u.code[:16])]
		n := 0
		switch {
		case len(c) < 16:
			return p
		case c[0]&0xF8 == 0x50: // push register
			n = 1
			p.depth += 4
			p.saved = append(p.saved, savedReg{int(c[0] & 7), p.depth})
		case c[0] == 0x8B && c[1] == 0xEC, c[0] == 0x89 && c[1] == 0xE5: // mov ebp, esp
			n = 2
			p.frame, p.frameDepth = true, p.depth
		case c[0] == 0x83 && c[1] == 0xEC: // sub esp, constant
			n = 3
			p.depth += uint32(int32(int8(c[2])))
		case c[0] == 0x81 && c[1] == 0xEC:
			n = 6
			p.depth += le.Uint32(c[2:])
		case c[0] == 0x6A: // push constant
			n = 2
			p.depth += 4
		case c[0] == 0x68:
			n = 5
			p.depth += 4
		default:
			in, err := disasm.Decode(kdproto.MachineI386, c, 0, nil)
			if err != nil || !in.Valid() || in.Kind != disasm.Other {
				return p
			}
			n = in.Len
			if strings.HasPrefix(in.Mnemonic, "push") {
				p.depth += 4
			}
		}
		pos += uint32(n)
	}
	return p
}

// returnSlot looks for a return address on the stack from an address on.
func (u *unwinder) returnSlot(from uint64, words int) (uint64, error) {
	for i := range words {
		at := from + uint64(4*i)
		v, err := u.stack.u32(at)
		if err != nil {
			if i > 0 {
				break
			}
			return 0, err
		}
		if u.credit(u.arch.Canon(uint64(v))) == afterCall {
			return at, nil
		}
	}
	return from, nil // as good as any: the outermost frame has none
}

// x86Entry recognises the first instructions of the usual prolog.
func (u *unwinder) x86Entry() (bool, error) {
	im := u.f.Image
	at := rva(im, u.f.PC)
	c := u.code[:u.readCode(im, at, u.code[:8])]
	u.f.How = Code
	if isPrefix(c, "\x8B\xFF\x55\x8B\xEC") || isPrefix(c, "\x55\x8B\xEC") || isPrefix(c, "\x55\x89\xE5") {
		u.r.returned()
		return true, u.x86Return(word(u.r.SP))
	}
	if isPrefix(c, "\x8B\xEC") || isPrefix(c, "\x89\xE5") {
		var b [1]byte
		if at > 0 && im.ReadRVA(at-1, b[:]) == nil && b[0] == 0x55 {
			u.r.returned()
			if err := u.x86Load(x86BP, word(u.r.SP)); err != nil {
				return false, err
			}
			return true, u.x86Return(word(u.r.SP) + 4)
		}
	}
	// Whatever it begins with: the return address on the stack is behind a call
	// of this very instruction.
	if ret, err := u.stack.u32(word(u.r.SP)); err == nil && u.calledFrom(u.arch.Canon(uint64(ret))) {
		u.r.returned()
		return true, u.x86Return(word(u.r.SP))
	}
	return false, nil
}

// calledFrom reports whether the direct call that ends at ret leads to where the
// frame is.
func (u *unwinder) calledFrom(ret uint64) bool {
	im, ok := u.ImageAt(ret)
	if !ok {
		return false
	}
	var b [5]byte
	at := rva(im, ret)
	return at >= 5 && im.ReadRVA(at-5, b[:]) == nil && b[0] == 0xE8 && uint32(ret)+le.Uint32(b[1:]) == uint32(u.f.PC)
}

// x86Epilog recognises the rest of an epilog, which no symbol file describes.
// from and to are the function's offsets in the image, 0 if they are not known.
func (u *unwinder) x86Epilog(from, to uint32) (bool, error) {
	im := u.f.Image
	at := rva(im, u.f.PC)
	c := u.code[:u.readCode(im, at, u.code[:])]
	u.f.How = Code
	sp := word(u.r.SP)
	bp := word(u.r.X[x86BP])
	var pops []savedReg // depth: address
	frame := false
	for i := 0; i < len(c); {
		c := c[i:]
		switch {
		case c[0]&0xF8 == 0x58: // pop register
			if c[0]&7 == x86BP {
				v, err := u.stack.u32(sp)
				if err != nil {
					return false, err
				}
				bp, frame = uint64(v), true
			}
			pops = append(pops, savedReg{int(c[0] & 7), uint32(sp)})
			sp += 4
			i++
		case c[0] == 0xC9: // leave
			v, err := u.stack.u32(bp)
			if err != nil {
				return false, err
			}
			pops = append(pops, savedReg{x86BP, uint32(bp)})
			sp, bp, frame = bp+4, uint64(v), true
			i++
		case isPrefix(c, "\x8B\xE5") || isPrefix(c, "\x89\xEC"): // mov esp, ebp
			sp = bp
			i += 2
		case isPrefix(c, "\x8D\x65") && len(c) >= 3: // lea esp, [ebp+constant]
			sp = word(bp + uint64(int64(int8(c[2]))))
			i += 3
		case isPrefix(c, "\x8D\xA5") && len(c) >= 6:
			sp = word(bp + uint64(int64(int32(le.Uint32(c[2:])))))
			i += 6
		case isPrefix(c, "\x83\xC4") && len(c) >= 3: // add esp, constant
			sp = word(sp + uint64(int64(int8(c[2]))))
			i += 3
		case isPrefix(c, "\x81\xC4") && len(c) >= 6:
			sp = word(sp + uint64(le.Uint32(c[2:])))
			i += 6
		default:
			kind, arg := leaveAt(c)
			switch kind {
			case leaveReturn, leaveTail:
			case leaveJump:
				// A tail call leaves the function; without its bounds only
				// what has taken down a frame is believed to be one.
				target := at + uint32(i) + arg
				if inside := target > from && target < to; inside || to == 0 && !frame {
					return false, nil
				}
				if i == 0 {
					return false, nil
				}
			default:
				return false, nil
			}
			u.r.returned()
			for _, p := range pops {
				if p.reg != x86SP {
					if err := u.x86Load(p.reg, uint64(p.depth)); err != nil {
						return false, err
					}
				}
			}
			if err := u.x86Return(sp); err != nil {
				return false, err
			}
			if kind == leaveReturn {
				u.r.SP = u.arch.Canon(u.r.SP + uint64(arg))
			}
			return true, nil
		}
	}
	return false, nil
}

func isPrefix(c []byte, p string) bool { return len(c) >= len(p) && string(c[:len(p)]) == p }

// x86Chain follows the frame pointer, if it is one. Behind a guess nobody knows
// ebp, but if it looks like one it may be.
func (u *unwinder) x86Chain() (bool, error) {
	bp, sp := word(u.r.X[x86BP]), word(u.r.SP)
	if bp < sp || bp-sp > maxChainGap || bp%4 != 0 {
		return false, nil
	}
	u.f.How = FramePointer
	if mark, err := u.stack.u32(bp + trapArgMark); err == nil && mark == trapMark {
		return u.x86Trap(bp)
	}
	next, err := u.stack.u32(bp)
	if err != nil {
		return false, nil
	}
	ret, err := u.stack.u32(bp + 4)
	if err != nil {
		return false, nil
	}
	if ret != 0 && u.credit(u.arch.Canon(uint64(ret))) != afterCall {
		return false, nil
	}
	u.r.returned()
	u.r.known = 0 // what else the function saved is not known
	u.r.Set(x86BP, uint64(next))
	return true, u.x86Return(bp + 4)
}

// x86Trap takes the registers out of the kernel's trap frame.
func (u *unwinder) x86Trap(at uint64) (bool, error) {
	var b [trapSize]byte
	if err := u.stack.read(at, b[:trapEsp]); err != nil {
		return false, err
	}
	get := func(off int) uint64 { return uint64(le.Uint32(b[off:])) }
	if get(trapArgMark) != trapMark && !u.knownCode(get(trapEip)) {
		return false, nil
	}
	sp := at + trapEsp
	cs := get(trapSegCs)
	switch {
	case cs&3 != 0 || get(trapEFlags)&flagV86 != 0: // the processor changed stacks
		if err := u.stack.read(at+trapEsp, b[trapEsp:]); err != nil {
			return false, err
		}
		sp = get(trapEsp)
	case cs&0xFFFC == 0: // the kernel has moved the stack pointer in the frame
		sp = get(trapEsp2)
	}
	for _, s := range []struct{ reg, off int }{
		{0, trapEax}, {1, trapEcx}, {2, trapEdx}, {x86BX, trapEbx}, {x86BP, trapEbp}, {x86SI, trapEsi}, {x86DI, trapEdi},
	} {
		u.r.Set(s.reg, get(s.off))
	}
	u.r.PC, u.r.SP = u.arch.Canon(get(trapEip)), u.arch.Canon(sp)
	u.f.How, u.f.FP, u.f.CFA = FramePointer, u.arch.Canon(at), u.r.SP
	u.f.MachineFrame = u.arch.Canon(at + trapEip)
	u.f.HasError = true // KTRAP_FRAME always has room for it
	u.trap = true
	return true, nil
}

func (u *unwinder) knownCode(pc uint64) bool {
	_, ok := u.ImageAt(u.arch.Canon(pc))
	return ok
}

// x86Scan takes the first thing on the stack that looks like a return address.
func (u *unwinder) x86Scan(calleeParams uint32) error {
	from := word(u.r.SP) + uint64(calleeParams)
	at, err := u.returnSlot(from, scanWords)
	if err != nil {
		return err
	}
	v, err := u.stack.u32(at)
	if err != nil {
		return err
	}
	if u.credit(u.arch.Canon(uint64(v))) != afterCall {
		if u.f.Image == nil {
			return &errEnd{End{NoImage, u.f.PC, nil}}
		}
		return errors.New("there are no symbols and no frame pointer, and nothing on the stack looks like a return address")
	}
	u.f.How = Guess
	u.r.known = 0
	return u.x86Return(at)
}

// programError says that a frame program is of no use.
type programError struct{ text string }

func (e *programError) Error() string { return "frame program: " + e.text }

// Bounds of frame programs. Real ones have some twenty words.
const (
	maxProgram = 4096 // bytes
	maxOperand = 32
)

// x86Program runs the postfix program of a frame: names and numbers are pushed,
// operators take two values, ^ reads memory, = assigns.
func (u *unwinder) x86Program(fr sym.X86Frame, calleeParams uint32) (bool, error) {
	old := *u.r
	vars := map[string]uint32{
		"$eip": uint32(old.PC), "$esp": uint32(old.SP),
		".cbLocals": fr.Locals, ".cbParams": fr.Params, ".cbSavedRegs": fr.SavedRegs, ".cbCalleeParams": calleeParams,
	}
	for i, name := range names32 {
		if v, ok := old.Reg(i); ok && i != x86SP {
			vars["$"+name] = uint32(v)
		}
	}
	start := uint32(old.SP) + calleeParams + fr.Locals + fr.SavedRegs
	search := func() (uint32, error) {
		at, err := u.returnSlot(uint64(start), scanWords)
		return uint32(at), err
	}
	assigned, err := runProgram(fr.Program, vars, search, func(at uint32) (uint32, error) { return u.stack.u32(uint64(at)) })
	if err != nil {
		return false, err
	}
	if !assigned["$eip"] || !assigned["$esp"] {
		return false, &programError{"it does not tell the caller's eip and esp"}
	}
	u.r.returned()
	for i, name := range names32 {
		if i != x86SP && assigned["$"+name] {
			u.r.Set(i, uint64(vars["$"+name]))
		}
	}
	u.r.PC, u.r.SP = u.arch.Canon(uint64(vars["$eip"])), u.arch.Canon(uint64(vars["$esp"]))
	u.f.CFA = u.r.SP
	u.f.FP = u.arch.Canon(uint64(vars["$esp"] - 8))
	return true, nil
}

// runProgram runs a frame program over vars and returns what it assigned.
func runProgram(program string, vars map[string]uint32, search func() (uint32, error), read func(at uint32) (uint32, error)) (map[string]bool, error) {
	if len(program) > maxProgram {
		return nil, &programError{fmt.Sprintf("%d bytes long", len(program))}
	}
	type value struct {
		name string // assignable
		v    uint32
		ok   bool
	}
	var stack []value
	assigned := map[string]bool{}
	pop := func() (value, error) {
		if len(stack) == 0 {
			return value{}, &programError{"an operator without operands"}
		}
		v := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		return v, nil
	}
	number := func() (uint32, error) {
		v, err := pop()
		if err == nil && !v.ok {
			err = &programError{v.name + " has no value"}
		}
		return v.v, err
	}
	for _, t := range strings.Fields(program) {
		switch t {
		case "=":
			v, err := number()
			if err != nil {
				return nil, err
			}
			to, err := pop()
			if err != nil {
				return nil, err
			}
			if !strings.HasPrefix(to.name, "$") {
				return nil, &programError{"it assigns to what is no variable"}
			}
			vars[to.name] = v
			assigned[to.name] = true
		case "^":
			at, err := number()
			if err != nil {
				return nil, err
			}
			v, err := read(at)
			if err != nil {
				return nil, err
			}
			stack = append(stack, value{v: v, ok: true})
		case "+", "-", "*", "/", "%", "@":
			b, err := number()
			if err != nil {
				return nil, err
			}
			a, err := number()
			if err != nil {
				return nil, err
			}
			if b == 0 && (t == "/" || t == "%") {
				return nil, &programError{"division by zero"}
			}
			switch t {
			case "+":
				a += b
			case "-":
				a -= b
			case "*":
				a *= b
			case "/":
				a /= b
			case "%":
				a %= b
			case "@": // align down
				if b == 0 || b&(b-1) != 0 {
					return nil, &programError{"alignment to what is no power of two"}
				}
				a &^= b - 1
			}
			stack = append(stack, value{v: a, ok: true})
		case ".raSearch", ".raSearchStart":
			v, err := search()
			if err != nil {
				return nil, err
			}
			stack = append(stack, value{v: v, ok: true})
		default:
			if t[0] == '$' || t[0] == '.' {
				v, ok := vars[t]
				stack = append(stack, value{t, v, ok})
				break
			}
			n, err := strconv.ParseInt(t, 0, 64)
			if err != nil || n > 1<<32-1 || n < -1<<31 {
				return nil, &programError{fmt.Sprintf("%q is neither a number nor a variable", t)}
			}
			stack = append(stack, value{v: uint32(n), ok: true})
		}
		if len(stack) > maxOperand {
			return nil, &programError{"too many operands"}
		}
	}
	return assigned, nil
}
