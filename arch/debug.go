package arch

import (
	"fmt"

	"openkd/kdproto"
)

// Kinds of a processor breakpoint, as DR7 encodes them.
const (
	HWExecute uint8 = 0 // before the instruction runs; Len is 1
	HWWrite   uint8 = 1
	HWIO      uint8 = 2 // port access, needs CR4.DE
	HWAccess  uint8 = 3 // read or write
)

// HW is one of the four processor breakpoints of x86 and x64.
type HW struct {
	Enabled bool
	Kind    uint8 // HWExecute...
	Len     uint8 // bytes: 1, 2, 4, on x64 also 8
}

// dr7Fixed is bit 10, which reads as one and must be written as one.
const dr7Fixed = 1 << 10

// EncodeDr7 gives the DR7 value for four processor breakpoints. Enabled ones
// set the local enable bit, which is what Windows itself uses and keeps across
// its thread switches; the global bits stay clear. Disabled ones leave their
// fields zero. An execute breakpoint always encodes length 1, as the processor
// demands; a length the processor does not have encodes as 1: see CheckHW. On
// ARM64, which has no DR7, the result is 0.
func (a *Arch) EncodeDr7(hw [4]HW) uint64 {
	if a.Machine == kdproto.MachineARM64 {
		return 0
	}
	v := uint64(dr7Fixed)
	for i, h := range hw {
		if !h.Enabled {
			continue
		}
		n := lenCode(h.Len)
		if h.Kind&3 == HWExecute || (n == 2 && a.PointerSize == 4) {
			n = 0
		}
		v |= 1 << (2 * i)
		v |= uint64(h.Kind&3) << (16 + 4*i)
		v |= n << (18 + 4*i)
	}
	return v
}

// The length code 2 is 8 bytes, not 3: it was added when code 3 was taken.
func lenCode(n uint8) uint64 {
	switch n {
	case 2:
		return 1
	case 8:
		return 2
	case 4:
		return 3
	}
	return 0
}

var codeLen = [4]uint8{1, 2, 8, 4}

// DecodeDr7 reads the four processor breakpoints of a DR7 value. A slot counts
// as enabled by its local or its global bit; others come back as the zero HW.
func DecodeDr7(dr7 uint64) [4]HW {
	var hw [4]HW
	for i := range hw {
		if dr7>>(2*i)&3 == 0 {
			continue
		}
		hw[i] = HW{true, uint8(dr7 >> (16 + 4*i) & 3), codeLen[dr7>>(18+4*i)&3]}
	}
	return hw
}

// CheckHW says why a processor breakpoint cannot be set at addr, nil if it can.
func (a *Arch) CheckHW(h HW, addr uint64) error {
	switch {
	case a.Machine == kdproto.MachineARM64:
		return fmt.Errorf("processor breakpoints of %s targets are not DR7 breakpoints", a.Name)
	case h.Kind > HWAccess:
		return fmt.Errorf("processor breakpoint kind %d is not execute (0), write (1), I/O (2) or access (3)", h.Kind)
	case h.Kind == HWExecute && h.Len != 1:
		return fmt.Errorf("an execute breakpoint has length 1, not %d", h.Len)
	}
	switch h.Len {
	case 1, 2, 4:
	case 8:
		if a.PointerSize == 4 {
			return fmt.Errorf("a processor breakpoint of 8 bytes needs an x64 target; use 1, 2 or 4 bytes")
		}
	default:
		return fmt.Errorf("a processor breakpoint covers 1, 2, 4 or (x64) 8 bytes, not %d", h.Len)
	}
	if addr%uint64(h.Len) != 0 {
		return fmt.Errorf("a processor breakpoint of %d bytes must lie on an address divisible by %d", h.Len, h.Len)
	}
	return nil
}

// Dr6 is what the processor says about a debug exception.
type Dr6 struct {
	Hit        [4]bool // the slot's condition was met, enabled or not
	SingleStep bool    // TF caused it
	Access     bool    // an access to a debug register (general detect)
	TaskSwitch bool
}

// DecodeDr6 reads a DR6 value; the always-one bits do not matter.
func DecodeDr6(dr6 uint64) Dr6 {
	var d Dr6
	for i := range d.Hit {
		d.Hit[i] = dr6>>i&1 != 0
	}
	d.Access, d.SingleStep, d.TaskSwitch = dr6>>13&1 != 0, dr6>>14&1 != 0, dr6>>15&1 != 0
	return d
}

// SetDebug writes KernelDr0..3 and KernelDr7 into a special-register record,
// and nothing else. It reports false, and changes nothing, when the record is
// too short or the architecture has no DR7.
func (a *Arch) SetDebug(special []byte, addrs [4]uint64, dr7 uint64) bool {
	last, ok := a.byName["dr7"]
	if !ok {
		return false
	}
	s := State{Special: special}
	if !last.Set(s, Value{Lo: dr7}) {
		return false
	}
	for i, addr := range addrs {
		a.byName[dr0to3[i]].Set(s, Value{Lo: addr})
	}
	return true
}

var dr0to3 = [4]string{"dr0", "dr1", "dr2", "dr3"}
