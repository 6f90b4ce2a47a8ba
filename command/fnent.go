package command

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"openkd/engine"
)

// The words and layouts are those of Microsoft's "x64 exception handling" and
// "ARM64 exception handling".

var unwindOps = [...]string{
	"UWOP_PUSH_NONVOL", "UWOP_ALLOC_LARGE", "UWOP_ALLOC_SMALL", "UWOP_SET_FPREG", "UWOP_SAVE_NONVOL", "UWOP_SAVE_NONVOL_FAR",
	"UWOP_EPILOG", "UWOP_SPARE_CODE", "UWOP_SAVE_XMM128", "UWOP_SAVE_XMM128_FAR", "UWOP_PUSH_MACHFRAME",
}

var unwindRegs = [...]string{"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"}

// cmdFunctionEntry is .fnent.
func cmdFunctionEntry(c *Call) error {
	if strings.TrimSpace(c.Args) == "" {
		return c.Syntax("")
	}
	addr, err := c.Eval(c.Args)
	if err != nil {
		return err
	}
	addr = c.S.canon(addr)
	e := c.S.Engine
	if c.S.machine() == x86 {
		return c.frameEntry(addr)
	}
	f, ok, err := e.Function(c.Ctx, addr)
	if err != nil {
		return err
	}
	if !ok {
		return phrased("No function entry for " + c.S.addr(addr))
	}
	c.Printf("Function entry for:\n(%s)   %s\n\n", c.S.addr(f.Begin), c.S.nameOf(f.Begin))
	c.Printf("BeginAddress      = %s\n", c.S.addr(uint64(f.Entry.Begin)))
	c.Printf("EndAddress        = %s\n", c.S.addr(f.End-f.Module.Base))
	if c.S.machine() == arm64 {
		return c.armEntry(&f)
	}
	return c.unwindInfo(&f)
}

// unwindInfo shows UNWIND_INFO, and what it is chained to.
func (c *Call) unwindInfo(f *engine.Function) error {
	data := f.Entry.Data
	for range 32 {
		c.Printf("UnwindInfoAddress = %s\n\n", c.S.addr(uint64(data)))
		if data&1 != 0 { // it points to another entry
			var b [12]byte
			if err := c.S.Engine.ReadImage(c.Ctx, f.Module, data&^1, b[:]); err != nil {
				return err
			}
			data = binary.LittleEndian.Uint32(b[8:])
			continue
		}
		next, err := c.unwindCodes(f, data)
		if err != nil || next == 0 {
			return err
		}
		data = next
	}
	return errors.New("the chain of unwind data goes in a circle")
}

// unwindCodes shows one record and returns the one it is chained to.
func (c *Call) unwindCodes(f *engine.Function, data uint32) (next uint32, err error) {
	var h [4]byte
	if err := c.S.Engine.ReadImage(c.Ctx, f.Module, data, h[:]); err != nil {
		return 0, err
	}
	n := int(h[2])
	flags := h[0] >> 3
	codes := make([]byte, 2*((n+1)&^1)+12)
	size := len(codes) - 12
	switch {
	case flags&4 != 0:
		size += 12
	case flags&3 != 0:
		size += 4
	}
	if err := c.S.Engine.ReadImage(c.Ctx, f.Module, data+4, codes[:size]); err != nil {
		return 0, err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "Unwind info at %s, %x bytes\n", c.S.addr(f.Module.Base+uint64(data)), 4+size)
	fmt.Fprintf(&b, "  version %x, flags %x, prolog %x, codes %x\n", h[0]&7, flags, h[1], n)
	if h[3] != 0 {
		fmt.Fprintf(&b, "  frame reg %x (%s), frame offs %x\n", h[3]&15, unwindRegs[h[3]&15], h[3]>>4*16)
	}
	for i := 0; i < n; {
		at := codes[2*i:]
		op, info := int(at[1]&15), int(at[1]>>4)
		name := "UWOP_?"
		if op < len(unwindOps) {
			name = unwindOps[op]
		}
		u16 := int(binary.LittleEndian.Uint16(at[2:]))
		u32 := int(binary.LittleEndian.Uint32(at[2:]))
		note, slots := "", 1
		switch op {
		case 0:
			note = " reg: " + unwindRegs[info]
		case 1:
			if slots = 2; info == 0 {
				note = fmt.Sprintf(" size: %x", 8*u16)
			} else {
				note, slots = fmt.Sprintf(" size: %x", u32), 3
			}
		case 2:
			note = fmt.Sprintf(" size: %x", 8*info+8)
		case 4:
			note, slots = fmt.Sprintf(" FrameOffset: %x reg: %s", 8*u16, unwindRegs[info]), 2
		case 5:
			note, slots = fmt.Sprintf(" FrameOffset: %x reg: %s", u32, unwindRegs[info]), 3
		case 6:
			if h[0]&7 == 1 {
				slots = 2
			}
		case 7:
			slots = 3
		case 8:
			note, slots = fmt.Sprintf(" FrameOffset: %x reg: xmm%d", 16*u16, info), 2
		case 9:
			note, slots = fmt.Sprintf(" FrameOffset: %x reg: xmm%d", u32, info), 3
		case 10:
			if info == 1 {
				note = " with an error code"
			}
		}
		fmt.Fprintf(&b, "  %02x: offs %x, unwind op %x, op info %x\t%s%s.\n", i, at[0], op, info, name, note)
		i += slots
	}
	tail := codes[2*((n+1)&^1):]
	switch {
	case flags&4 != 0:
		begin, end := binary.LittleEndian.Uint32(tail), binary.LittleEndian.Uint32(tail[4:])
		next = binary.LittleEndian.Uint32(tail[8:])
		fmt.Fprintf(&b, "\nChained to:\nBeginAddress      = %s\nEndAddress        = %s\n", c.S.addr(uint64(begin)), c.S.addr(uint64(end)))
	case flags&3 != 0:
		at := f.Module.Base + uint64(binary.LittleEndian.Uint32(tail))
		fmt.Fprintf(&b, "  handler routine: %s (%s)\n", c.S.nameOf(at), c.S.addr(at))
	}
	c.Printf("%s", b.String())
	return next, nil
}

// armEntry shows the unwind data of ARM64: packed into the entry, or a record.
func (c *Call) armEntry(f *engine.Function) error {
	d := f.Entry.Data
	if d&3 != 0 {
		c.Printf("UnwindData        = %08x, packed\n  length %x, regF %d, regI %d, homes %d, cr %d, frame size %x\n",
			d, d>>2&0x7FF*4, d>>13&7, d>>16&15, d>>20&1, d>>21&3, d>>23*16)
		return nil
	}
	var b [4]byte
	if err := c.S.Engine.ReadImage(c.Ctx, f.Module, d, b[:]); err != nil {
		return err
	}
	h := binary.LittleEndian.Uint32(b[:])
	epilogs, words, at := h>>22&31, h>>27, d+4
	if epilogs == 0 && words == 0 {
		if err := c.S.Engine.ReadImage(c.Ctx, f.Module, d+4, b[:]); err != nil {
			return err
		}
		ext := binary.LittleEndian.Uint32(b[:])
		epilogs, words, at = ext&0xFFFF, ext>>16&0xFF, d+8
	}
	c.Printf("UnwindInfoAddress = %s\n\nUnwind info at %s\n  length %x, version %d, handler %d, epilogs %d, code words %d\n",
		c.S.addr(uint64(d)), c.S.addr(f.Module.Base+uint64(d)), h&0x3FFFF*4, h>>18&3, h>>20&1, epilogs, words)
	if h>>21&1 == 0 {
		at += 4 * epilogs
	}
	codes := make([]byte, 4*words)
	if err := c.S.Engine.ReadImage(c.Ctx, f.Module, at, codes); err != nil {
		return err
	}
	c.Printf("  codes: % x\n", codes)
	return nil
}

// frameEntry shows what the symbol file says of x86 code.
func (c *Call) frameEntry(addr uint64) error {
	f, ok, err := c.S.Engine.X86Frame(c.Ctx, addr)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("x86 code has no unwind data in its image, and no symbol file tells the frame of the code at %s", c.S.addr(addr))
	}
	c.Printf("RVA %x, size %x, prolog %x\n  params %x, locals %x, saved registers %x, uses ebp %v, trap %v\n",
		f.RVA, f.Size, f.Prolog, f.Params, f.Locals, f.SavedRegs, f.UsesEBP, f.Trap)
	if f.HasProgram {
		c.Printf("  program: %s\n", f.Program)
	}
	return nil
}
