package disasm

import (
	"bufio"
	"bytes"
	"debug/elf"
	"debug/pe"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"

	"openkd/kdproto"
)

// The differential tests ask LLVM's disassembler about the same bytes. They
// compare lengths and mnemonics, not operands, whose notation differs.

func llvm(t *testing.T, name string) string {
	t.Helper()
	if testing.Short() {
		t.Skip("differential test: not with -short")
	}
	p, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed: no second disassembler to compare with", name)
	}
	return p
}

type llvmInst struct {
	addr uint64
	len  int
	name string // "" for bytes LLVM does not know
}

// parseObjdump reads the lines "  401000: 48 83 ec 08   \tsub\trsp, 8".
func parseObjdump(out []byte, arm bool) []llvmInst {
	var list []llvmInst
	sc := bufio.NewScanner(bytes.NewReader(out))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		addr, rest, ok := strings.Cut(sc.Text(), ":")
		if !ok {
			continue
		}
		a, err := strconv.ParseUint(strings.TrimSpace(addr), 16, 64)
		if err != nil {
			continue
		}
		hex, ins, ok := strings.Cut(rest, "\t")
		if !ok {
			continue
		}
		n := len(strings.Fields(hex))
		if arm {
			n = 4
		}
		i := llvmInst{addr: a, len: n}
		ins = strings.TrimSpace(strings.ReplaceAll(ins, "\t", " "))
		if !strings.HasPrefix(ins, "<unknown>") {
			i.name = ins
		}
		// LLVM puts some prefixes on a line of their own.
		if k := len(list) - 1; k >= 0 && list[k].addr+uint64(list[k].len) == a && lonePrefix[list[k].name] && i.name != "" {
			list[k].len += i.len
			list[k].name += " " + i.name
			continue
		}
		list = append(list, i)
	}
	return list
}

var lonePrefix = map[string]bool{"lock": true, "rep": true, "repe": true, "repne": true, "repz": true, "repnz": true, "data16": true,
	"xacquire": true, "xrelease": true, "bnd": true, "cs": true, "ds": true, "es": true, "fs": true, "gs": true, "ss": true,
	"rex64": true, "addr32": true, "addr16": true}

// sameName holds names of one instruction: ours (WinDbg's or x86asm's) on the
// left, LLVM's on the right.
var sameName = map[string]string{
	"movabs": "mov", "int3": "int", "int1": "int", "retf": "retf", "retfq": "retf", "retq": "ret", "iretd": "iret", "sysretq": "sysret",
	"sysexitq": "sysexit", "lretq": "retf", "lcall": "call", "ljmp": "jmp",
	"movsb": "movs", "movsw": "movs", "movsq": "movs", "cmpsb": "cmps", "cmpsw": "cmps", "cmpsq": "cmps",
	"stosb": "stos", "stosw": "stos", "stosd": "stos", "stosq": "stos", "lodsb": "lods", "lodsw": "lods", "lodsd": "lods", "lodsq": "lods",
	"scasb": "scas", "scasw": "scas", "scasd": "scas", "scasq": "scas", "insb": "ins", "insw": "ins", "insd": "ins",
	"outsb": "outs", "outsw": "outs", "outsd": "outs", "xlatb": "xlat",
	"pushal": "pushad", "popal": "popad", "pushaw": "pusha", "popaw": "popa", "pushfw": "pushf", "popfw": "popf",
	"sal": "shl", "wait": "wait", "fcompi": "fcomip", "fucompi": "fucomip", "ud2b": "ud1", "ud2a": "ud2", "salc": "salc",
	"cmpeq": "cmp", "nopw": "nop", "nopl": "nop",
}

func llvmName(s string) string {
	w := strings.Fields(s)
	for len(w) > 1 {
		switch w[0] {
		case "rep", "repe", "repz", "repne", "repnz", "lock", "bnd", "data16", "data32", "addr32", "addr16", "xacquire", "xrelease",
			"notrack", "rex64", "cs", "ds", "es", "fs", "gs", "ss", "{vex}", "{evex}":
			w = w[1:]
			continue
		}
		break
	}
	n := w[0]
	if m, ok := sameName[n]; ok {
		n = m
	}
	if strings.HasPrefix(n, "movsd") && !strings.Contains(s, "xmm") {
		return "movs"
	}
	if strings.HasPrefix(n, "cmpsd") && !strings.Contains(s, "xmm") {
		return "cmps"
	}
	if n == "cmps" {
		return n
	}
	// Comparisons written with their predicate: cmpltps, vcmpgt_oqss.
	for _, p := range []string{"vpcmp", "vcmp", "cmp", "vpcom", "pclmul", "vpclmul"} {
		if strings.HasPrefix(n, p) && n != "cmpxchg" && !strings.HasPrefix(n, "cmpxchg") && n != p {
			for _, suf := range []string{"ps", "pd", "ss", "sd", "ub", "uw", "ud", "uq", "b", "w", "d", "q", "qdq", "dq"} {
				if strings.HasSuffix(n, suf) {
					return p + "*"
				}
			}
		}
	}
	return n
}

func ourName(s string) string {
	w := strings.Fields(s)
	for len(w) > 1 {
		switch w[0] {
		case "rep", "repe", "repne", "lock", "bnd":
			w = w[1:]
			continue
		}
		break
	}
	n := w[0]
	if n == "nop" || n == "xchg" {
		return n
	}
	if m, ok := sameName[n]; ok {
		n = m
	}
	return llvmName(n + " xmm")
}

type tally struct {
	total, bothUnknown, sameLen, sameName int
	diff                                  map[string]int
	example                               map[string]string
}

func newTally() *tally { return &tally{diff: map[string]int{}, example: map[string]string{}} }

func (ta *tally) note(key, ex string) {
	ta.diff[key]++
	if ta.example[key] == "" {
		ta.example[key] = ex
	}
}

func (ta *tally) compare(m kdproto.Machine, l llvmInst, code []byte) {
	ta.total++
	in, err := Decode(m, code, l.addr, nil)
	if err != nil {
		ta.note("error", err.Error())
		return
	}
	if strings.HasPrefix(l.name, "udf") {
		l.name = "" // the permanently undefined instruction: filling between functions
	}
	show := fmt.Sprintf("% x", code[:min(len(code), max(l.len, in.Len))])
	switch {
	case l.name == "" && !in.Valid():
		ta.bothUnknown++
	case l.name == "":
		ta.note("only here: "+in.Mnemonic, show)
	case !in.Valid():
		ta.note("only LLVM: "+llvmName(l.name), show+" "+l.name)
	case in.Len != l.len:
		ta.note(fmt.Sprintf("length: %s / %s", in.Mnemonic, llvmName(l.name)), fmt.Sprintf("%s: %d, LLVM %d", show, in.Len, l.len))
	default:
		ta.sameLen++
		a, b := ourName(in.Mnemonic+" "+in.Operands), llvmName(l.name)
		if m == kdproto.MachineARM64 {
			a, b = in.Mnemonic, strings.ReplaceAll(strings.Fields(l.name)[0], "b.", "b")
		}
		if a == b || strings.HasSuffix(b, "*") && ourFamily(a) == b ||
			(a == "xchg" && b == "nop" || a == "nop" && b == "xchg") {
			ta.sameName++
		} else {
			ta.note("name: "+a+" / "+b, show+" "+in.Text()+" / "+l.name)
		}
	}
}

func ourFamily(a string) string {
	for _, p := range []string{"vpcmp", "vcmp", "cmp", "vpcom", "pclmul", "vpclmul"} {
		if strings.HasPrefix(a, p) {
			return p + "*"
		}
	}
	return a
}

func (ta *tally) report(t *testing.T, what string, limit int) {
	t.Helper()
	known := ta.total - ta.bothUnknown
	t.Logf("%s: %d instructions, unknown to both %d; of the rest same length %d (%.4f%%), same length and name %d (%.4f%%)",
		what, ta.total, ta.bothUnknown, ta.sameLen, 100*float64(ta.sameLen)/float64(max(known, 1)),
		ta.sameName, 100*float64(ta.sameName)/float64(max(known, 1)))
	keys := make([]string, 0, len(ta.diff))
	for k := range ta.diff {
		keys = append(keys, k)
	}
	sort.Slice(keys, func(i, j int) bool {
		if ta.diff[keys[i]] != ta.diff[keys[j]] {
			return ta.diff[keys[i]] > ta.diff[keys[j]]
		}
		return keys[i] < keys[j]
	})
	for i, k := range keys {
		if i == limit {
			t.Logf("  ... and %d more kinds of difference", len(keys)-limit)
			break
		}
		t.Logf("  %6d %s   (%s)", ta.diff[k], k, ta.example[k])
	}
}

type textSection struct {
	machine kdproto.Machine
	addr    uint64
	data    []byte
}

// textOf reads the code of an ELF or PE file; base is added for PE.
func textOf(path string) (textSection, error) {
	if f, err := elf.Open(path); err == nil {
		defer func() { _ = f.Close() }()
		s := f.Section(".text")
		if s == nil {
			return textSection{}, fmt.Errorf("no .text")
		}
		m := map[elf.Machine]kdproto.Machine{elf.EM_X86_64: kdproto.MachineAMD64, elf.EM_386: kdproto.MachineI386, elf.EM_AARCH64: kdproto.MachineARM64}[f.Machine]
		data, err := s.Data()
		return textSection{m, s.Addr, data}, err
	}
	f, err := pe.Open(path)
	if err != nil {
		return textSection{}, err
	}
	defer func() { _ = f.Close() }()
	s := f.Section(".text")
	if s == nil {
		return textSection{}, fmt.Errorf("no .text")
	}
	var base uint64
	switch h := f.OptionalHeader.(type) {
	case *pe.OptionalHeader32:
		base = uint64(h.ImageBase)
	case *pe.OptionalHeader64:
		base = h.ImageBase
	}
	data, err := s.Data()
	return textSection{kdproto.Machine(f.Machine), base + uint64(s.VirtualAddress), data}, err
}

// TestLLVMPrograms compares the code of real programs. Set
// OPENKD_DISASM_FILES to a list of files (separated as in PATH) to compare
// others, OPENKD_DISASM_ALL to read more than the first part of each.
func TestLLVMPrograms(t *testing.T) {
	objdump := llvm(t, "llvm-objdump")
	files := []string{"/bin/bash", "/lib/x86_64-linux-gnu/libc.so.6"}
	if self, err := os.Executable(); err == nil {
		files = append(files, self)
	}
	for _, p := range []string{"*.exe", "image/*.exe", "image/*.dll"} {
		kernels, _ := filepath.Glob("../../sim/kernel/" + p)
		files = append(files, kernels...)
	}
	if v := os.Getenv("OPENKD_DISASM_FILES"); v != "" {
		files = filepath.SplitList(v)
	}
	limit := uint64(64 << 10)
	if os.Getenv("OPENKD_DISASM_ALL") != "" {
		limit = 1 << 40
	}
	compared := 0
	for _, path := range files {
		s, err := textOf(path)
		if err != nil || len(s.data) == 0 || s.machine == 0 {
			t.Logf("%s: not compared (%v)", filepath.Base(path), err)
			continue
		}
		end := s.addr + min(uint64(len(s.data)), limit)
		out, err := exec.Command(objdump, "-d", "-j", ".text", "--x86-asm-syntax=intel",
			fmt.Sprintf("--start-address=%#x", s.addr), fmt.Sprintf("--stop-address=%#x", end), path).Output()
		if err != nil {
			t.Logf("%s: llvm-objdump: %v", filepath.Base(path), err)
			continue
		}
		ta := newTally()
		for _, l := range parseObjdump(out, s.machine == kdproto.MachineARM64) {
			if off := l.addr - s.addr; off < uint64(len(s.data)) {
				ta.compare(s.machine, l, s.data[off:min(off+15, uint64(len(s.data)))])
			}
		}
		ta.report(t, filepath.Base(path), 40)
		compared++
		if known := ta.total - ta.bothUnknown; ta.total == 0 || float64(ta.sameLen) < 0.999*float64(known) {
			t.Errorf("%s: lengths agree for %d of %d", filepath.Base(path), ta.sameLen, known)
		}
	}
	if compared == 0 {
		t.Skip("no program to compare")
	}
}

// TestLLVMOpcodes sweeps the opcode space: prefixes, opcode maps, all opcode
// bytes, and ModRM forms with a register, memory and RIP-relative operand; with
// OPENKD_DISASM_ALL also x86, VEX and EVEX, and every value of the ModRM register
// field (two minutes).
func TestLLVMOpcodes(t *testing.T) {
	objdump, objcopy := llvm(t, "llvm-objdump"), llvm(t, "llvm-objcopy")
	const slot = 32
	step, all := 8, os.Getenv("OPENKD_DISASM_ALL") != ""
	if all {
		step = 1
	}
	for _, mode := range []struct {
		m      kdproto.Machine
		format string
	}{{kdproto.MachineAMD64, "elf64-x86-64"}, {kdproto.MachineI386, "elf32-i386"}} {
		if mode.m == kdproto.MachineI386 && !all {
			continue
		}
		var img []byte
		var at []int
		put := func(b []byte) {
			at = append(at, len(img))
			s := bytes.Repeat([]byte{0x90}, slot)
			copy(s, b)
			img = append(img, s...)
		}
		prefixes := [][]byte{{}, {0x66}, {0xF3}, {0xF2}}
		if mode.m == kdproto.MachineAMD64 {
			prefixes = append(prefixes, []byte{0x48}, []byte{0xF3, 0x48})
		}
		tails := [][]byte{{0xC1}, {0x01}, {0x45, 0x10}, {0x05, 1, 2, 3, 4}, {0x84, 0x51, 1, 2, 3, 4}}
		if !all {
			tails = [][]byte{{0xC1}, {0x84, 0x51, 1, 2, 3, 4}}
		}
		// VEX and EVEX: the prefix holds the opcode map.
		if mode.m == kdproto.MachineAMD64 && all {
			for op := range 256 {
				for pp := range byte(4) {
					for _, p := range [][]byte{{0xC5, 0xF8 | pp}, {0xC5, 0xDC | pp},
						{0xC4, 0xE1, 0xF8 | pp}, {0xC4, 0xE2, 0x58 | pp}, {0xC4, 0xE2, 0xDC | pp}, {0xC4, 0xE2, 0xF8 | pp},
						{0xC4, 0xE3, 0x58 | pp}, {0xC4, 0xE3, 0x5C | pp}, {0xC4, 0xE3, 0x7C | pp}, {0xC4, 0xE3, 0xF8 | pp},
						{0x62, 0xF1, 0x7C | pp, 0x48}, {0x62, 0xF1, 0xDC | pp, 0x49}, {0x62, 0xF2, 0x7C | pp, 0x48}, {0x62, 0xF2, 0xDC | pp, 0x48}, {0x62, 0xF3, 0xDC | pp, 0x48}} {
						for reg := 0; reg < 8; reg += step * step {
							for _, tail := range [][]byte{{0xC1}, {0x01}, {0x84, 0x51, 1, 2, 3, 4}} {
								b := append(append(append([]byte{}, p...), byte(op)), tail...)
								b[len(p)+1] |= byte(reg << 3)
								put(append(b, 0x11))
							}
						}
					}
				}
			}
		}
		for _, opmap := range [][]byte{{}, {0x0F}, {0x0F, 0x38}, {0x0F, 0x3A}} {
			for op := range 256 {
				if len(opmap) == 0 && (op == 0x0F || isPrefixByte(byte(op), mode.m)) || len(opmap) == 1 && (op == 0x38 || op == 0x3A) {
					continue
				}
				for _, p := range prefixes {
					for reg := op % step; reg < 8; reg += step {
						for _, tail := range tails {
							b := append(append(append([]byte{}, p...), opmap...), byte(op))
							b = append(b, tail...)
							b[len(p)+len(opmap)+1] |= byte(reg << 3)
							put(append(b, 0x11, 0x12, 0x13, 0x14)[:min(len(b)+4, 14)])
						}
					}
				}
			}
		}
		dir := t.TempDir()
		bin, obj := filepath.Join(dir, "a.bin"), filepath.Join(dir, "a.o")
		if err := os.WriteFile(bin, img, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(objcopy, "-I", "binary", "-O", mode.format, bin, obj).CombinedOutput(); err != nil {
			t.Skipf("llvm-objcopy: %v: %s", err, out)
		}
		out, err := exec.Command(objdump, "-D", "-j", ".data", "--x86-asm-syntax=intel", obj).Output()
		if err != nil {
			t.Fatal(err)
		}
		ta := newTally()
		for _, l := range parseObjdump(out, false) {
			if l.addr%slot == 0 && int(l.addr) < len(img) {
				ta.compare(mode.m, l, img[l.addr:l.addr+15])
			}
		}
		if ta.total < len(at)*99/100 {
			t.Errorf("only %d of %d cases read back", ta.total, len(at))
		}
		limit := 60
		if v, err := strconv.Atoi(os.Getenv("OPENKD_DISASM_LIST")); err == nil {
			limit = v
		}
		ta.report(t, mode.format, limit)
		// 66 before a near branch is ignored by Intel's processors in 64-bit
		// mode and cuts the displacement on AMD's, which is LLVM's reading.
		for k, ex := range ta.example {
			if strings.HasPrefix(k, "length:") && !(strings.HasPrefix(ex, "66 ") && (strings.Contains(k, ": j") || strings.Contains(k, ": call"))) {
				t.Errorf("%s: %s", k, ex)
			}
		}
	}
}

// TestUnassembleBackPrograms measures how often ub finds the instructions a
// reading from the front gives.
func TestUnassembleBackPrograms(t *testing.T) {
	if testing.Short() {
		t.Skip("measurement: not with -short")
	}
	self, err := os.Executable()
	if err != nil {
		t.Skip(err)
	}
	for _, path := range []string{self, "/bin/bash"} {
		s, err := textOf(path)
		if err != nil || s.machine != kdproto.MachineAMD64 {
			t.Logf("%s: not read (%v)", filepath.Base(path), err)
			continue
		}
		data := s.data[:min(len(s.data), 100<<10)]
		var starts []int
		for at := 0; at < len(data); {
			in, err := Decode(s.machine, data[at:], 0, nil)
			if err != nil {
				t.Fatal(err)
			}
			starts = append(starts, at)
			at += in.Len
		}
		const n, window = 8, 16*8 + 64
		total, good := 0, 0
		for k := 100; k < len(starts); k += 97 {
			end := starts[k]
			from := max(0, end-window)
			got, err := UnassembleBack(s.machine, data[from:end], uint64(from), n, nil)
			if err != nil {
				t.Fatal(err)
			}
			total++
			same := len(got) == n
			for i := range got {
				same = same && got[i].Addr == uint64(starts[k-n+i])
			}
			if same {
				good++
			}
		}
		t.Logf("%s: %d of %d times the same %d instructions (%.1f%%)", filepath.Base(path), good, total, n, 100*float64(good)/float64(total))
		if good*10 < total*9 {
			t.Errorf("%s: %d of %d", filepath.Base(path), good, total)
		}
	}
}

func isPrefixByte(b byte, m kdproto.Machine) bool {
	switch b {
	case 0x26, 0x2E, 0x36, 0x3E, 0x64, 0x65, 0x66, 0x67, 0xF0, 0xF2, 0xF3, 0xC4, 0xC5, 0x62, 0x8F:
		return true
	}
	return m == kdproto.MachineAMD64 && b&0xF0 == 0x40
}
