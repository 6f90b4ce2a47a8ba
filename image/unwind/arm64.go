package unwind

import (
	"errors"
	"fmt"

	"openkd/arch"
	"openkd/image/pe"
)

// Kinds of ARM64 unwind operations. Each stands for one instruction of a prolog
// or epilog, but those from armTrapFrame on, which describe what no instruction
// of the function did.
type armKind uint8

const (
	armAlloc     armKind = iota // sp += off
	armSave                     // reg, and reg2 if it is not none, from [sp+off]
	armSetFP                    // sp = fp - off
	armNop                      // nothing to undo
	armSignLR                   // lr carries a signature
	armNext                     // the pair after that of the operation that follows
	armEnd                      // of the codes
	armEndC                     // of the codes of this fragment; its parent's follow
	armTrapFrame                // a KTRAP_FRAME at sp
	armMachine                  // sp and pc at sp
	armContext                  // a CONTEXT at sp
	armExact                    // lr is where the caller was interrupted
)

// Register files of armSave.
const (
	fileX = iota
	fileD
	fileQ
)

const noReg = 0xFF

// armOp is one operation.
type armOp struct {
	kind      armKind
	file      uint8
	reg, reg2 uint8
	off       uint32 // bytes
	writeback bool   // armSave: the registers are at [sp], then sp += off
	code      byte   // that it was decoded from; 0: packed data
	prologue  bool   // packed data: the prolog has this instruction, the epilog not
}

func (o *armOp) instruction() bool {
	return o.kind < armEnd
}

// armLen is the length of an unwind code, by its first byte.
func armLen(c byte) int {
	switch {
	case c < 0xC0:
		return 1
	case c < 0xE0, c == 0xE2, c == 0xF8:
		return 2
	case c == 0xE7, c == 0xF9:
		return 3
	case c == 0xE0, c == 0xFA:
		return 4
	case c == 0xFB:
		return 5
	}
	return 1
}

// decodeARM decodes the unwind code at the start of c.
func decodeARM(c []byte) (o armOp, n int, err error) {
	if len(c) == 0 {
		return o, 0, errors.New("the unwind codes have no end")
	}
	n = armLen(c[0])
	if len(c) < n {
		return o, 0, fmt.Errorf("unwind code %#02x is cut off", c[0])
	}
	o = armOp{reg2: noReg, code: c[0]}
	b := c[0]
	var w uint32 // of two bytes
	if n >= 2 {
		w = uint32(c[0])<<8 | uint32(c[1])
	}
	// save fills in a save of one or two registers. writeback offsets count
	// from one.
	save := func(file uint8, reg uint32, pair bool, off uint32, back bool) {
		o.kind, o.file, o.reg, o.off, o.writeback = armSave, file, uint8(reg), off*8, back
		if back {
			o.off += 8
		}
		if pair {
			o.reg2 = uint8(reg) + 1
		}
	}
	switch {
	case b < 0x20: // alloc_s
		o.kind, o.off = armAlloc, uint32(b)*16
	case b < 0x40: // save_r19r20_x, whose offset counts from zero
		save(fileX, 19, true, uint32(b&0x1F), false)
		o.writeback = true
	case b < 0x80: // save_fplr
		save(fileX, arm64FP, true, uint32(b&0x3F), false)
	case b < 0xC0: // save_fplr_x
		save(fileX, arm64FP, true, uint32(b&0x3F), true)
	case b < 0xC8: // alloc_m
		o.kind, o.off = armAlloc, w&0x7FF*16
	case b < 0xCC: // save_regp
		save(fileX, 19+w>>6&15, true, w&63, false)
	case b < 0xD0: // save_regp_x
		save(fileX, 19+w>>6&15, true, w&63, true)
	case b < 0xD4: // save_reg
		save(fileX, 19+w>>6&15, false, w&63, false)
	case b < 0xD6: // save_reg_x
		save(fileX, 19+w>>5&15, false, w&31, true)
	case b < 0xD8: // save_lrpair
		save(fileX, 19+2*(w>>6&7), true, w&63, false)
		o.reg2 = arm64LR
	case b < 0xDA: // save_fregp
		save(fileD, 8+w>>6&7, true, w&63, false)
	case b < 0xDC: // save_fregp_x
		save(fileD, 8+w>>6&7, true, w&63, true)
	case b < 0xDE: // save_freg
		save(fileD, 8+w>>6&7, false, w&63, false)
	case b == 0xDE: // save_freg_x
		save(fileD, 8+w>>5&7, false, w&31, true)
	case b == 0xE0: // alloc_l
		o.kind, o.off = armAlloc, (uint32(c[1])<<16|uint32(c[2])<<8|uint32(c[3]))*16
	case b == 0xE1:
		o.kind = armSetFP
	case b == 0xE2:
		o.kind, o.off = armSetFP, uint32(c[1])*8
	case b == 0xE3:
		o.kind = armNop
	case b == 0xE4:
		o.kind = armEnd
	case b == 0xE5:
		o.kind = armEndC
	case b == 0xE6:
		o.kind = armNext
	case b == 0xE7: // save_any_reg: 0pxrrrrr ffoooooo
		pair, back, file := c[1]&0x40 != 0, c[1]&0x20 != 0, c[2]>>6
		if c[1]&0x80 != 0 || file > fileQ {
			return o, n, fmt.Errorf("unwind code % x: registers of the scalable vector extension have no known size", c[:3])
		}
		o.kind, o.file, o.reg, o.writeback = armSave, file, c[1]&0x1F, back
		o.off = uint32(c[2] & 0x3F)
		if back {
			o.off++
		}
		if pair {
			o.reg2 = o.reg + 1
		}
		if pair || back || file == fileQ {
			o.off *= 16
		} else {
			o.off *= 8
		}
	case b == 0xE8:
		o.kind = armTrapFrame
	case b == 0xE9:
		o.kind = armMachine
	case b == 0xEA:
		o.kind = armContext
	case b == 0xEC:
		o.kind = armExact
	case b == 0xFC:
		o.kind = armSignLR
	default: // alloc_z, EC_CONTEXT, reserved codes
		return o, n, fmt.Errorf("unwind code %#02x is not supported", b)
	}
	if o.kind == armSave {
		limit := uint8(arm64LR)
		if o.file != fileX {
			limit = 31
		}
		if o.reg > limit || o.reg2 != noReg && o.reg2 > limit {
			return o, n, fmt.Errorf("unwind code % x names a register that there is not", c[:n])
		}
	}
	return o, n, nil
}

// armInfo is the unwind data of a function or a fragment of one.
type armInfo struct {
	length  uint32 // bytes of code
	packed  bool
	canon   bool    // packed data of a function with its own prolog and epilog
	ops     []armOp // packed data
	codes   []byte  // xdata
	single  bool    // one epilog, at the end, described by the codes from first on
	first   uint32
	scopes  uint32 // number of epilog scopes
	scopeAt uint32 // their RVA
	handler uint32 // RVA; 0: none
}

// armPacked expands packed unwind data into the operations of its prolog, the
// last instruction first.
func armPacked(info *armInfo, data uint32) error {
	flag := data & 3
	regF, regI := int(data>>13&7), int(data>>16&15)
	home, cr, frame := data>>20&1 != 0, data>>21&3, (data>>23)*16
	*info = armInfo{length: data >> 2 & 0x7FF * 4, packed: true, canon: flag == 1, ops: info.ops[:0]}
	if flag == 3 {
		return fmt.Errorf("packed unwind data %#08x: form 3 is not known", data)
	}
	if regI > 10 {
		return fmt.Errorf("packed unwind data %#08x: %d saved registers, 10 are possible", data, regI)
	}
	floats := 0
	if regF > 0 {
		floats = regF + 1
	}
	ints := uint32(8 * regI)
	if cr == 1 {
		ints += 8
	}
	saved := ints + uint32(8*floats)
	if home {
		saved += 64
	}
	saved = (saved + 15) &^ 15
	if saved > frame {
		return fmt.Errorf("packed unwind data %#08x: %d bytes of saved registers in a frame of %d", data, saved, frame)
	}
	locals := frame - saved
	add := func(o armOp) { info.ops = append(info.ops, o) }
	chained := cr >= 2
	if chained {
		add(armOp{kind: armSetFP, reg2: noReg, prologue: true})
		if locals <= 512 {
			add(armOp{kind: armSave, reg: arm64FP, reg2: arm64LR, off: locals, writeback: true})
		} else {
			add(armOp{kind: armSave, reg: arm64FP, reg2: arm64LR})
		}
	}
	if !chained && locals > 0 || locals > 512 {
		if locals > 4080 {
			add(armOp{kind: armAlloc, reg2: noReg, off: locals - 4080})
			locals = 4080
		}
		add(armOp{kind: armAlloc, reg2: noReg, off: locals})
	}
	// The first save of all makes room for the rest of them.
	room := len(info.ops)
	if home {
		for range 4 {
			add(armOp{kind: armNop, reg2: noReg, prologue: true})
		}
	}
	for i := (floats+1)/2 - 1; i >= 0; i-- {
		o := armOp{kind: armSave, file: fileD, reg: uint8(8 + 2*i), reg2: uint8(9 + 2*i), off: ints + uint32(16*i)}
		if 2*i+1 == floats {
			o.reg2 = noReg
		}
		add(o)
	}
	if cr == 1 && regI%2 == 0 {
		add(armOp{kind: armSave, reg: arm64LR, reg2: noReg, off: ints - 8})
	}
	for i := (regI+1)/2 - 1; i >= 0; i-- {
		o := armOp{kind: armSave, reg: uint8(19 + 2*i), reg2: uint8(20 + 2*i), off: uint32(16 * i)}
		if 2*i+1 == regI {
			o.reg2 = noReg
			if cr == 1 {
				o.reg2 = arm64LR
			}
		}
		add(o)
	}
	if saved > 0 && len(info.ops) > room {
		switch last := &info.ops[len(info.ops)-1]; {
		case last.kind == armSave && !(last.reg2 == arm64LR && last.reg != arm64FP):
			last.off, last.writeback = saved, true
		case last.kind == armNop:
			*last = armOp{kind: armAlloc, reg2: noReg, off: saved}
		default: // a pair with lr cannot
			add(armOp{kind: armAlloc, reg2: noReg, off: saved})
		}
	}
	if cr == 2 {
		add(armOp{kind: armSignLR, reg2: noReg})
	}
	return nil
}

// parseARM decodes the unwind data that the second word of a .pdata entry holds
// or points to; read fills a buffer from an RVA. buf holds the codes.
func parseARM(info *armInfo, data uint32, buf []byte, read func(rva uint32, b []byte) error) error {
	if data&3 != 0 {
		return armPacked(info, data)
	}
	var h [8]byte
	if err := read(data, h[:4]); err != nil {
		return err
	}
	w := le.Uint32(h[:])
	*info = armInfo{length: w & 0x3FFFF * 4, ops: info.ops[:0]}
	if v := w >> 18 & 3; v != 0 {
		return fmt.Errorf(".xdata of version %d: 0 is known", v)
	}
	epilogs, words := w>>22&31, w>>27
	at := data + 4
	if w>>22 == 0 {
		if err := read(at, h[4:]); err != nil {
			return err
		}
		x := le.Uint32(h[4:])
		epilogs, words = x&0xFFFF, x>>16&0xFF
		at += 4
	}
	if info.single = w>>21&1 != 0; info.single {
		info.first = epilogs
	} else {
		info.scopes, info.scopeAt = epilogs, at
	}
	at += 4 * info.scopes
	info.codes = buf[:4*words]
	if err := read(at, info.codes); err != nil {
		return err
	}
	if w>>20&1 != 0 {
		if err := read(at+4*words, h[:4]); err != nil {
			return err
		}
		info.handler = le.Uint32(h[:])
	}
	return nil
}

// armScopes calls f with where each epilog begins, in bytes from the start of
// the function, and with the index of its codes, until f returns false.
func armScopes(info *armInfo, read func(rva uint32, b []byte) error, f func(start, index uint32) bool) error {
	var b [64]byte
	for i := uint32(0); i < info.scopes; i += 16 {
		n := min(info.scopes-i, 16)
		if err := read(info.scopeAt+4*i, b[:4*n]); err != nil {
			return err
		}
		for k := range n {
			w := le.Uint32(b[4*k:])
			if !f(w&0x3FFFF*4, w>>22) {
				return nil
			}
		}
	}
	return nil
}

// armSequence counts the instructions that the codes from an index on describe.
func armSequence(codes []byte, index uint32) (n uint32, err error) {
	for i := int(index); ; {
		o, l, err := decodeARM(codes[min(i, len(codes)):])
		if err != nil {
			return n, err
		}
		if o.kind == armEnd || o.kind == armEndC {
			return n, nil
		}
		if o.instruction() {
			n++
		}
		i += l
	}
}

// arm64 unwinds one frame.
func (u *unwinder) arm64() error {
	r := u.r
	u.f.FP = r.X[arm64FP]
	im := u.f.Image
	if im == nil {
		if !u.exact {
			return &errEnd{End{NoImage, u.f.PC, nil}}
		}
		return u.armLeaf(Guess)
	}
	at := rva(im, u.f.PC)
	fn, found, err := u.armFunction(im, at)
	if err != nil {
		return err
	}
	if !u.exact && (!found || fn.Begin == at) && u.afterBL(im, at) {
		if fn, found, err = u.armFunction(im, at-4); err != nil {
			return err
		}
	}
	if !found {
		if u.exact {
			return u.armLeaf(Leaf)
		}
		return u.armChain()
	}
	u.f.How, u.f.FuncRVA = UnwindData, fn.Begin
	return u.armUnwind(im, fn, at)
}

// armFunction finds the entry of the function around an offset. Entries do not
// say where functions end; their unwind data does.
func (u *unwinder) armFunction(im Image, at uint32) (pe.Function, bool, error) {
	fn, found, err := im.Function(at)
	if !found || err != nil {
		return fn, false, err
	}
	length := fn.Data >> 2 & 0x7FF * 4
	if fn.Data&3 == 0 {
		var h [4]byte
		if err := im.ReadRVA(fn.Data, h[:]); err != nil {
			return fn, false, imageError("unwind data", fn.Data, err)
		}
		length = le.Uint32(h[:]) & 0x3FFFF * 4
	}
	return fn, at-fn.Begin < length, nil
}

// armLeaf returns to what lr holds.
func (u *unwinder) armLeaf(how How) error {
	lr, ok := u.r.Reg(arm64LR)
	if !ok {
		return errNoData
	}
	u.f.How = how
	u.r.returned()
	u.r.X[arm64LR] = lr
	u.armReturn()
	return nil
}

// armChain takes the frame record that fp points to.
func (u *unwinder) armChain() error {
	r := u.r
	fp := r.X[arm64FP]
	u.f.How = FramePointer
	if fp < r.SP || fp%8 != 0 {
		return errNoData
	}
	var b [16]byte
	if err := u.stack.read(fp, b[:]); err != nil {
		return err
	}
	pc := unsigned(le.Uint64(b[8:]))
	if im, ok := u.ImageAt(pc); pc != 0 && (!ok || !u.afterBL(im, rva(im, pc))) {
		return errNoData
	}
	r.returned()
	r.PC, r.SP = pc, fp+16
	r.Set(arm64FP, le.Uint64(b[:]))
	return nil
}

// afterBL reports whether a bl or blr ends at an address.
func (u *unwinder) afterBL(im Image, at uint32) bool {
	var b [4]byte
	if at < 4 || im.ReadRVA(at-4, b[:]) != nil {
		return false
	}
	w := le.Uint32(b[:])
	return w>>26 == 0x25 || w&0xFFFFFC1F == 0xD63F0000 || w&0xFEFFF800 == 0xD63F0800 // bl; blr; blraa and kin
}

// unsigned takes the pointer authentication code out of a return address: an
// address is 48 bits, bit 55 tells the half of the address space.
func unsigned(pc uint64) uint64 {
	if pc>>55&1 != 0 {
		return pc | 0xFFFF<<48
	}
	return pc &^ (0xFFFF << 48)
}

// armUnwind undoes what the function has done up to an address.
func (u *unwinder) armUnwind(im Image, fn pe.Function, at uint32) error {
	var info armInfo
	info.ops = u.armOps[:0]
	if err := parseARM(&info, fn.Data, u.data[:], im.ReadRVA); err != nil {
		return imageError("unwind data", fn.Data, err)
	}
	u.armOps = info.ops
	done := (at - fn.Begin) / 4 // instructions before the program counter
	if info.packed {
		return u.armRunPacked(&info, done)
	}
	prolog, err := armSequence(info.codes, 0)
	if err != nil {
		return err
	}
	if done < prolog {
		return u.armRun(&info, 0, prolog-done)
	}
	if !u.exact { // a call is in no epilog
		return u.armRun(&info, 0, 0)
	}
	index, skip := uint32(0), uint32(0)
	in := func(start, first uint32) (bool, error) {
		if done < start {
			return false, nil
		}
		n, err := armSequence(info.codes, first)
		if err != nil || done > start+n { // the instruction that leaves included
			return false, err
		}
		index, skip = first, done-start
		return true, nil
	}
	if info.single {
		n, err := armSequence(info.codes, info.first)
		if err != nil {
			return err
		}
		if end := info.length / 4; end > n {
			if _, err := in(end-n-1, info.first); err != nil {
				return err
			}
		}
	} else if err2 := armScopes(&info, im.ReadRVA, func(start, first uint32) bool {
		var found bool
		found, err = in(start/4, first)
		return !found && err == nil && start/4 <= done
	}); err2 != nil {
		return imageError("unwind data", fn.Data, err2)
	}
	if err != nil {
		return err
	}
	return u.armRun(&info, index, skip)
}

// armRunPacked runs the operations of packed data.
func (u *unwinder) armRunPacked(info *armInfo, done uint32) error {
	skip, epilog := uint32(0), false
	if info.canon {
		n := uint32(0)
		for _, o := range info.ops {
			if !o.prologue {
				n++
			}
		}
		end := info.length / 4
		switch {
		case done < uint32(len(info.ops)):
			skip = uint32(len(info.ops)) - done
		case u.exact && end > n && done >= end-n-1 && done < end:
			skip, epilog = done-(end-n-1), true
		}
	}
	u.r.returned()
	for _, o := range info.ops {
		if epilog && o.prologue {
			continue
		}
		if skip > 0 {
			skip--
			continue
		}
		if err := u.armUndo(o, 0); err != nil {
			return err
		}
	}
	u.armReturn()
	return nil
}

// armReturn returns to what lr holds, where lr then still points.
func (u *unwinder) armReturn() {
	u.r.PC = unsigned(u.r.X[arm64LR])
	u.r.Set(arm64LR, u.r.PC)
}

// armRun runs unwind codes from an index on, after so many instructions' worth.
func (u *unwinder) armRun(info *armInfo, index, skip uint32) error {
	r := u.r
	r.returned()
	left := false
	next := 0
	for i := int(index); ; {
		o, n, err := decodeARM(info.codes[min(i, len(info.codes)):])
		if err != nil {
			return err
		}
		i += n
		if o.kind == armEnd {
			break
		}
		if skip > 0 && o.instruction() {
			skip--
			continue
		}
		switch o.kind {
		case armNext:
			next++
			continue
		case armSave:
			if next > 0 && o.reg2 == noReg {
				return fmt.Errorf("unwind code %#02x: save_next before the save of one register", o.code)
			}
			err = u.armUndo(o, next)
		case armEndC:
		case armMachine:
			var b [16]byte
			if err = u.stack.read(r.SP, b[:]); err == nil {
				u.f.MachineFrame = r.SP + 8
				r.SP, r.PC = le.Uint64(b[:]), le.Uint64(b[8:])
				left = true
			}
		case armTrapFrame:
			if u.TrapFrame == nil {
				return errors.New("the function has a trap frame, and no symbols tell its layout (nt!_KTRAP_FRAME)")
			}
			u.f.MachineFrame = r.SP
			if err = u.TrapFrame(r.SP, r); err == nil {
				left = true
			}
		case armContext:
			c := make([]byte, u.arch.ContextSize)
			if err = u.stack.read(r.SP, c); err == nil {
				u.f.MachineFrame = r.SP + 0x108 // its program counter
				*r, err = FromContext(u.arch.Machine, c)
				left = true
			}
		case armExact:
			u.trap = true
		default:
			err = u.armUndo(o, 0)
		}
		if err != nil {
			return err
		}
		if o.kind != armNext {
			next = 0
		}
	}
	if left {
		u.trap = true
		return nil
	}
	u.armReturn()
	return nil
}

// armUndo undoes one instruction, and a save of register pairs those of the
// pairs that follow, next of them.
func (u *unwinder) armUndo(o armOp, next int) error {
	r := u.r
	switch o.kind {
	case armAlloc:
		r.SP += uint64(o.off)
	case armSetFP:
		r.SP = r.X[arm64FP] - uint64(o.off)
		u.moved = true
	case armSignLR:
		r.X[arm64LR] = unsigned(r.X[arm64LR])
	case armSave:
		at := r.SP
		if o.writeback {
			r.SP += uint64(o.off)
		} else {
			at += uint64(o.off)
		}
		size := uint64(8)
		if o.file == fileQ {
			size = 16
		}
		file, reg, reg2 := o.file, o.reg, o.reg2
		for k := 0; ; k++ {
			if err := u.armLoad(file, reg, at); err != nil {
				return err
			}
			if reg2 != noReg {
				if err := u.armLoad(file, reg2, at+size); err != nil {
					return err
				}
			}
			if k == next {
				break
			}
			// The pair after the last integer registers is the first of floating point.
			at += 2 * size
			reg += 2
			if file == fileX && reg > 27 {
				file, reg = fileD, 8
			}
			if reg > 30 {
				return errors.New("save_next after the last register")
			}
			reg2 = reg + 1
		}
	}
	return nil
}

func (u *unwinder) armLoad(file, reg uint8, at uint64) error {
	if file == fileX {
		v, err := u.stack.u64(at)
		if err == nil {
			u.r.Set(int(reg), v)
		}
		return err
	}
	var b [16]byte
	n := 8
	if file == fileQ {
		n = 16
	}
	if err := u.stack.read(at, b[:n]); err != nil {
		return err
	}
	u.r.SetV(int(reg), arch.Value{Lo: le.Uint64(b[:]), Hi: le.Uint64(b[8:])})
	return nil
}
