package unwind

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"openkd/image/pe"
	"openkd/sim/kernel"
)

// What llvm-readobj prints of the unwind data has to be what this package reads,
// operation by operation. The differences that are known are named below.

// readobj returns the dump of an image, one list of lines for each function.
func readobj(t *testing.T, path string, stdin []byte) [][]string {
	t.Helper()
	var tool string
	for _, name := range []string{"llvm-readobj", "llvm-readobj-19", "llvm-readobj-18", "llvm-readobj-17", "llvm-readobj-16", "llvm-readobj-15", "llvm-readobj-14"} {
		if p, err := exec.LookPath(name); err == nil {
			tool = p
			break
		}
	}
	if tool == "" {
		t.Skip("llvm-readobj is not installed")
	}
	cmd := exec.Command(tool, "--unwind", path)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v", tool, err)
	}
	var l [][]string
	for line := range strings.Lines(string(out)) {
		line = strings.TrimSpace(line)
		if line == "RuntimeFunction {" {
			l = append(l, nil)
			continue
		}
		if len(l) > 0 {
			i := len(l) - 1
			l[i] = append(l[i], line)
		}
	}
	return l
}

func compare(t *testing.T, name string, got, want []string) {
	t.Helper()
	for i := range max(len(got), len(want)) {
		var g, w string
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Errorf("%s: line %d: we read %q, llvm-readobj %q\n%s", name, i, g, w, strings.Join(want, "\n"))
			return
		}
	}
}

func dumpX64(t *testing.T, im Image, fn pe.Function, base uint64) []string {
	u := unwinder{}
	var info x64Info
	if err := u.info(im, fn, &info); err != nil {
		t.Fatal(err)
	}
	var l []string
	add := func(format string, args ...any) { l = append(l, fmt.Sprintf(format, args...)) }
	reg := func(i uint8) string { return strings.ToUpper(names64[i]) }
	add("StartAddress: (0x%X)", base+uint64(fn.Begin))
	add("EndAddress: (0x%X)", base+uint64(fn.End))
	add("UnwindInfoAddress: (0x%X)", base+uint64(fn.Data))
	add("Version: %d", info.version)
	add("Flags [ (0x%X)", info.flags)
	for i, n := range []string{"ExceptionHandler (0x1)", "TerminateHandler (0x2)", "ChainInfo (0x4)"} {
		if info.flags>>i&1 != 0 {
			add("%s", n)
		}
	}
	add("PrologSize: %d", info.prolog)
	if info.frameReg != 0 {
		add("FrameRegister: %s (0x%X)", reg(info.frameReg), info.frameReg)
		add("FrameOffset: 0x%X", info.frameOff/16)
	} else {
		add("FrameRegister: -")
		add("FrameOffset: -")
	}
	for _, o := range info.ops {
		head := fmt.Sprintf("0x%02X: ", o.offset)
		switch o.op {
		case opPushNonvol:
			add("%sPUSH_NONVOL reg=%s", head, reg(o.info))
		case opAllocLarge:
			add("%sALLOC_LARGE size=%d", head, o.value)
		case opAllocSmall:
			add("%sALLOC_SMALL size=%d", head, o.value)
		case opSetFPReg:
			add("%sSET_FPREG reg=%s, offset=0x%X", head, reg(info.frameReg), info.frameOff)
		case opSaveNonvol:
			add("%sSAVE_NONVOL reg=%s, offset=0x%X", head, reg(o.info), o.value)
		case opSaveNonvolFar:
			add("%sSAVE_NONVOL_FAR reg=%s, offset=0x%X", head, reg(o.info), o.value)
		case opSaveXMM:
			add("%sSAVE_XMM128 reg=XMM%d, offset=0x%X", head, o.info, o.value)
		case opSaveXMMFar:
			add("%sSAVE_XMM128_FAR reg=XMM%d, offset=0x%X", head, o.info, o.value)
		case opPushMachine:
			add("%sPUSH_MACHFRAME errcode=%s", head, [2]string{"no", "yes"}[o.info])
		}
	}
	switch {
	case info.flags&flagChain != 0:
		add("StartAddress: (0x%X)", base+uint64(info.parent.Begin))
		add("EndAddress: (0x%X)", base+uint64(info.parent.End))
		add("UnwindInfoAddress: (0x%X)", base+uint64(info.parent.Data))
	case info.flags != 0:
		add("Handler: (0x%X)", base+uint64(info.handler))
	}
	return l
}

// nameOfAddress is what llvm-readobj says of an address where an image has
// symbols.
var nameOfAddress = regexp.MustCompile(`^(\w+Address|Handler): [^(]\S.*? \(`)

func TestX64LikeReadobj(t *testing.T) {
	check := func(t *testing.T, im Image, fns []pe.Function, base uint64, name string, data []byte) {
		dump := readobj(t, "-", data)
		if len(dump) != len(fns) {
			t.Fatalf("%s: %d functions, llvm-readobj has %d", name, len(fns), len(dump))
		}
		for i, fn := range fns {
			var want []string
			for _, line := range dump[i] {
				switch {
				case line == "}", line == "]", strings.HasSuffix(line, "{"), strings.HasSuffix(line, "["), strings.HasPrefix(line, "UnwindCodeCount"):
				default:
					want = append(want, nameOfAddress.ReplaceAllString(line, "$1: ("))
				}
			}
			compare(t, at(name, fn.Begin), dumpX64(t, im, fn, base), want)
		}
		t.Logf("%s: %d functions", name, len(fns))
	}
	for _, level := range levels {
		f := openFixture(t, "x64-"+level+".sys")
		check(t, f.im, f.functions(t), fixtureBase, f.name, f.data)
	}
	images := map[string][]byte{}
	for _, name := range []string{"ntoskrnl.exe", "hal.dll", "openkd.sys", "tcpip.sys", "sample.sys"} {
		data, err := kernel.Image(name)
		if err != nil {
			t.Fatal(err)
		}
		images[name] = data
	}
	// Real ones are large and not ours to pass on.
	for _, path := range filepath.SplitList(os.Getenv("OPENKD_MINGW_IMAGES")) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		images[path] = data
	}
	for name, data := range images {
		p, err := pe.Open(bytes.NewReader(data), pe.File)
		if err != nil {
			t.Fatal(err)
		}
		im, err := NewImage(p, p.ImageBase)
		if err != nil {
			t.Fatal(err)
		}
		f := &fixture{name, data, p, im}
		check(t, im, f.functions(t), p.ImageBase, name, data)
	}
}

// armText writes an operation as llvm-readobj does.
func armText(o armOp, epilog bool) string {
	reg := func(r uint8) string {
		if o.file == fileD {
			return fmt.Sprintf("d%d", r)
		}
		if r == arm64LR && o.code>>1 == 0xD6>>1 {
			return "lr"
		}
		return fmt.Sprintf("x%d", r)
	}
	switch o.kind {
	case armAlloc:
		return fmt.Sprintf("%s sp, #%d", pick(epilog, "add", "sub"), o.off)
	case armSave:
		regs, op := reg(o.reg), "r"
		if o.reg2 != noReg {
			regs, op = regs+", "+reg(o.reg2), "p"
		}
		op = pick(epilog, "ld", "st") + op
		switch {
		case !o.writeback:
			return fmt.Sprintf("%s %s, [sp, #%d]", op, regs, o.off)
		case epilog:
			return fmt.Sprintf("%s %s, [sp], #%d", op, regs, o.off)
		}
		return fmt.Sprintf("%s %s, [sp, #-%d]!", op, regs, o.off)
	case armSetFP:
		switch {
		case o.code == 0xE1:
			return pick(epilog, "mov sp, fp", "mov fp, sp")
		case epilog:
			return fmt.Sprintf("sub sp, fp, #%d", o.off)
		}
		return fmt.Sprintf("add fp, sp, #%d", o.off)
	case armNop:
		return "nop"
	case armNext:
		return pick(epilog, "restore next", "save next")
	case armEnd:
		return "end"
	case armEndC:
		return "end_c"
	case armTrapFrame:
		return "trap frame"
	case armMachine:
		return "machine frame"
	case armContext:
		return "context"
	case armExact:
		return "clear unwound to call"
	case armSignLR:
		return "pac_sign_lr"
	}
	return "?"
}

func pick(b bool, yes, no string) string {
	if b {
		return yes
	}
	return no
}

func dumpARM(t *testing.T, im Image, fn pe.Function, base uint64) []string {
	u := unwinder{}
	var info armInfo
	if err := parseARM(&info, fn.Data, u.data[:], im.ReadRVA); err != nil {
		t.Fatal(err)
	}
	var l []string
	add := func(format string, args ...any) { l = append(l, fmt.Sprintf(format, args...)) }
	yes := func(b bool) string { return pick(b, "Yes", "No") }
	add("Function: 0x%X", base+uint64(fn.Begin))
	if info.packed {
		add("Fragment: %s", yes(!info.canon))
		add("FunctionLength: %d", info.length)
		add("RegF: %d", fn.Data>>13&7)
		add("RegI: %d", fn.Data>>16&15)
		add("HomedParameters: %s", yes(fn.Data>>20&1 != 0))
		add("CR: %d", fn.Data>>21&3)
		add("FrameSize: %d", fn.Data>>23*16)
		add("Prologue [")
		home := 8 // the next pair of parameters to be stored, from the last one down
		for _, o := range info.ops {
			switch {
			case o.kind == armNop || o.kind == armAlloc && home > 0 && home < 8: // llvm-readobj says what the stores of parameters store
				home -= 2
				add("home")
			case o.kind == armSetFP:
				add("mov x29, sp")
			case o.kind == armSave && o.reg2 == arm64LR && o.reg != arm64FP:
				o.code = 0xD6
				add("%s", armText(o, false))
			case o.kind == armSave && o.reg == arm64LR:
				o.code = 0xD6
				add("%s", armText(o, false))
			case o.kind == armSave && o.reg == arm64FP:
				add("%s", strings.Replace(armText(o, false), "x30", "lr", 1))
			default:
				add("%s", strings.Replace(armText(o, false), "sub sp, ", "sub sp, sp, ", 1))
			}
		}
		add("end")
		add("]")
		add("}")
		return l
	}
	sequence := func(index uint32, epilog bool) {
		for i := int(index); ; {
			o, n, err := decodeARM(info.codes[i:])
			if err != nil {
				t.Fatal(err)
			}
			add("%-20s; %s", fmt.Sprintf("0x%x", info.codes[i:i+n]), armText(o, epilog))
			if i += n; o.kind == armEnd || o.kind == armEndC {
				return
			}
		}
	}
	add("ExceptionRecord: 0x%X", base+uint64(fn.Data))
	add("ExceptionData {")
	add("FunctionLength: %d", info.length)
	add("Version: 0")
	add("ExceptionData: %s", yes(info.handler != 0))
	add("EpiloguePacked: %s", yes(info.single))
	if info.single {
		add("EpilogueOffset: %d", info.first)
	} else {
		add("EpilogueScopes: %d", info.scopes)
	}
	add("ByteCodeLength: %d", len(info.codes))
	add("Prologue [")
	sequence(0, false)
	add("]")
	if info.single {
		if info.first != 0 { // else it is the prolog's
			add("Epilogue [")
			sequence(info.first, true)
			add("]")
		}
	} else {
		add("EpilogueScopes [")
		err := armScopes(&info, im.ReadRVA, func(start, index uint32) bool {
			add("EpilogueScope {")
			add("StartOffset: %d", start/4)
			add("EpilogueStartIndex: %d", index)
			add("Opcodes [")
			sequence(index, true)
			add("]")
			add("}")
			return true
		})
		if err != nil {
			t.Fatal(err)
		}
		add("]")
	}
	if info.handler != 0 {
		add("ExceptionHandler [")
		add("Routine: 0x%X", base+uint64(info.handler))
	}
	return l
}

// trim takes off the lines that only close, and the handler's data, of which
// llvm-readobj prints the first word.
func trim(l []string) []string {
	for len(l) > 0 {
		switch last := l[len(l)-1]; {
		case last == "]", last == "}", last == "", strings.HasPrefix(last, "Parameter: "):
			l = l[:len(l)-1]
		default:
			return l
		}
	}
	return l
}

func TestARM64LikeReadobj(t *testing.T) {
	for _, level := range levels {
		f := openFixture(t, "arm64-"+level+".sys")
		dump := readobj(t, "-", f.data)
		fns := f.functions(t)
		if len(dump) != len(fns) {
			t.Fatalf("%s: %d functions, llvm-readobj has %d", f.name, len(fns), len(dump))
		}
		same := 0
		different := map[string]int{}
		for i, fn := range fns {
			want := dump[i]
			text := strings.Join(want, "\n")
			reason := ""
			switch {
			case strings.Contains(text, "Bad opcode!"), strings.Contains(text, "save_any_reg"), strings.Contains(text, "pac"):
				reason = "save_any_reg, pac_sign_lr: LLVM learnt them later"
			case strings.Contains(text, "CR: 2"):
				reason = "CR 2: LLVM learnt it later"
			case strings.Contains(text, "INVALID!"):
				reason = "CR 1 with one register: LLVM has no text for it"
			}
			if reason != "" {
				different[reason]++
				continue
			}
			// Homed parameters: one line each, whatever it stores.
			for k, line := range want {
				for _, r := range []string{"x0, x1", "x2, x3", "x4, x5", "x6, x7"} {
					if strings.HasPrefix(line, "stp "+r+",") {
						want[k] = "home"
					}
				}
			}
			got := dumpARM(t, f.im, fn, fixtureBase)
			compare(t, at(f.name, fn.Begin), trim(got), trim(want))
			same++
		}
		t.Logf("%s: %d functions the same; %v", f.name, same, different)
		if n := different["save_any_reg, pac_sign_lr: LLVM learnt them later"]; n > 2 || len(fns)-same > 5 {
			t.Errorf("%s: %v", f.name, different)
		}
	}
}
