package arch

import (
	"testing"

	"openkd/kdproto"
)

// TestUnclaimedFloatingPoint: a record that does not claim its floating-point
// part has none; one without any claim is taken as it is.
func TestUnclaimedFloatingPoint(t *testing.T) {
	for m, names := range map[kdproto.Machine][]string{
		kdproto.MachineAMD64: {"xmm0", "st0", "mm0", "fpcw"},
		kdproto.MachineI386:  {"xmm0", "st0", "mm0", "fpcw"},
		kdproto.MachineARM64: {"v0"},
	} {
		a, _ := For(m)
		for _, name := range names {
			r, ok := a.Reg(name)
			if !ok {
				t.Fatalf("%s has no %s", a.Name, name)
			}
			for flags, want := range map[uint32]bool{0: true, 0x100003: false, 0x40003B | 0x2C | 0x4: true} {
				s := State{Context: make([]byte, a.ContextSize)}
				a.SetContextFlags(s.Context, flags)
				if _, ok := r.Get(s); ok != want {
					t.Errorf("%s %s with ContextFlags %x: there %v", a.Name, name, flags, ok)
				}
			}
		}
	}
}
