package dwarf

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// TestTrapFrames: trap handlers describe the trap frame as a frame that has the
// stack pointer in it, which is so for traps from user mode only. They are told
// from other frames of signals, and from those of functions.
func TestTrapFrames(t *testing.T) {
	const gcc = "i686-w64-mingw32-gcc"
	if _, err := exec.LookPath(gcc); err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	source, exe := filepath.Join(dir, "trap.s"), filepath.Join(dir, "trap.exe")
	const text = `
	.cfi_sections .debug_frame
.macro handler name, offset, signal
.globl \name
\name:
	.cfi_startproc simple
	.if \signal
	.cfi_signal_frame
	.endif
	.cfi_def_cfa esp, 4
	.cfi_offset eip, -4
	nop
	.cfi_def_cfa ebp, \offset
	.cfi_offset eip, 0x68 - \offset
	.cfi_offset esp, 0x74 - \offset
	nop
	ret
	.cfi_endproc
.endm
	.text
	handler _plain, 0x6C, 1
	handler _error, 0x68, 1
	handler _function, 0x6C, 0
.globl _other
_other:
	.cfi_startproc simple
	.cfi_signal_frame
	.cfi_def_cfa ebp, 0x70
	.cfi_offset eip, -4
	.cfi_offset esp, 8
	ret
	.cfi_endproc
`
	if err := os.WriteFile(source, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(gcc, "-nostdlib", "-Wl,-e,_plain", "-o", exe, source).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	f, err := Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, c := range []struct {
		name string
		off  uint32
		want bool
	}{
		{"plain", 0, false}, {"plain", 1, true}, {"plain", 2, true},
		{"error", 1, true}, {"function", 1, false}, {"other", 0, false},
	} {
		fr, ok, err := f.X86Frame(one(t, f, c.name).RVA + c.off)
		if !ok || err != nil || !fr.HasProgram || fr.Trap != c.want {
			t.Errorf("%s+%d: %+v, %v, %v; want trap %v", c.name, c.off, fr, ok, err, c.want)
		}
	}
}
