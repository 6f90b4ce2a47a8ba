package command

import (
	"context"
	"encoding/binary"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"openkd/arch"
	"openkd/engine"
	"openkd/engine/enginetest"
	"openkd/internal/captured"
	"openkd/kdproto"
	"openkd/target"
)

// rig is a session over a target made of tables, broken into.
type rig struct {
	*testing.T
	ctx context.Context
	f   *enginetest.Fake
	e   *engine.Engine
	s   *Session
	out *captured.Text
}

func newRig(t *testing.T, n int) *rig {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	r := &rig{T: t, ctx: ctx, f: enginetest.New(n), out: new(captured.Text)}
	r.e = engine.New(r.f, engine.Options{
		Name: "Remote KD: KdSrv:Server=@{<Local>},Trans=@{COM:Port=fake}",
		Now:  func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC) },
	})
	r.s = NewSession(r.e, r.out, Options{Quiet: true})
	done := make(chan error, 1)
	go func() { done <- r.e.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	r.f.Connect()
	if err := r.e.BreakIn(ctx); err != nil {
		t.Fatal(err)
	}
	if err := r.s.WaitStop(ctx); err != nil {
		t.Fatal(err)
	}
	if got, want := r.out.Take(), "Break instruction exception - code 80000003 (first chance)\nnt+0x24ca60:\nfffff803`19e4ca60 cc              int     3\n"; got != want {
		t.Fatalf("first stop:\n%s", got)
	}
	return r
}

// do runs a line and compares what it printed.
func (r *rig) do(line, want string) {
	r.Helper()
	r.s.Execute(r.ctx, line)
	if got := r.out.Take(); got != want {
		r.Errorf("%s\n--- got\n%s--- want\n%s", line, got, want)
	}
}

// text runs a line and returns what it printed.
func (r *rig) text(line string) string {
	r.s.Execute(r.ctx, line)
	return r.out.Take()
}

// fails runs a line and looks for a part of its message.
func (r *rig) fails(line, part string) {
	r.Helper()
	err := r.s.Execute(r.ctx, line)
	if got := r.out.Take(); err == nil || !strings.Contains(got, part) {
		r.Errorf("%s: error %v, text %q, want %q", line, err, got, part)
	}
}

// script answers resumes with stops, one after the other.
func (r *rig) script(stops ...target.Stop) {
	n := 0
	r.f.Lock()
	r.f.OnResume = func(f *enginetest.Fake, _ target.Resume) {
		if n < len(stops) {
			n++
			f.Stop(stops[n-1])
		}
	}
	r.f.Unlock()
}

func bpStop(pc uint64) target.Stop {
	return target.Stop{PC: pc, Breakpoint: true, Exception: enginetest.Exception(kdproto.StatusBreakpoint, true)}
}

func stepStop(pc uint64) target.Stop {
	return target.Stop{PC: pc, Dr6: 0xFFFF4FF0, Exception: enginetest.Exception(kdproto.StatusSingleStep, true)}
}

const place = enginetest.Break + 0x1000 // nt+0x24da60

const placeLines = "nt+0x24da60:\nfffff803`19e4da60 0000            add     byte ptr [rax],al\n"

// The same on a 32-bit target, whose addresses are shown with eight digits.
func TestX86(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	r := &rig{T: t, ctx: ctx, f: enginetest.NewX86(), out: new(captured.Text)}
	r.e = engine.New(r.f, engine.Options{})
	r.s = NewSession(r.e, r.out, Options{})
	done := make(chan error, 1)
	go func() { done <- r.e.Run(ctx) }()
	defer func() { cancel(); <-done }()
	r.f.Connect()
	r.f.Stop(target.Stop{PC: enginetest.Break86, Asked: true, Exception: enginetest.Exception(kdproto.StatusBreakpoint, true)})
	if err := r.s.WaitStop(ctx); err != nil {
		t.Fatal(err)
	}
	if got := r.out.Take(); !strings.Contains(got, "NOT A BUG OR A SYSTEM CRASH") || !strings.HasSuffix(got, "nt+0x1234:\n80401234 cc              int     3\n") {
		t.Error(got)
	}
	r.do("lm", "start    end        module name\n80400000 80800000   nt         (deferred)\n80800000 80810000   hal        (deferred)\n")
	r.do("r eip, $ip", "eip=80401234 $ip=80401234\n")
	r.do("bp nt+1240; bp 80401250; ba w4 80401260; bl", " 0 e 80401240  0001 (0001) nt+0x1240\n 1 e 80401250  0001 (0001) nt+0x1250\n 2 e 80401260 w4 0001 (0001) nt+0x1260\n")
	r.fails("ba w8 80401260", "needs an x64 target")
	r.script(bpStop(0xFFFFFFFF80401250))
	r.do("g", "Breakpoint 1 hit\nnt+0x1250:\n80401250 0000            add     byte ptr [eax],al\n")
	r.do("vertarget", "Windows Server 2003 Kernel Version 3790 UP (1 proc) Checked x86 compatible\nMachine Name:\nKernel base = 0x80400000 PsLoadedModuleList = 0x80500000\nDebug session time: not available\nSystem Uptime: not available\n")
	r.fails(".bugcheck", "no debugger data block")
}

func TestFirstCommandsCostNoExchange(t *testing.T) {
	r := newRig(t, 2)
	n := r.f.Count()
	r.s.Execute(r.ctx, "r; u; db @$scopeip")
	if got := r.out.Take(); !strings.Contains(got, "rip=fffff80319e4ca60") || strings.Count(got, "\n") < 20 || strings.Contains(got, "??") {
		t.Errorf("%s", got)
	}
	if d := r.f.Count() - n; d != 0 {
		t.Errorf("%d exchanges", d)
	}
}

func TestRegisterCommands(t *testing.T) {
	r := newRig(t, 2)
	r.do("r", `rax=0000000000000000 rbx=0000000000000000 rcx=0000000000000000
rdx=0000000000000000 rsi=0000000000000000 rdi=0000000000000000
rip=fffff80319e4ca60 rsp=fffff8031c1b7b78 rbp=0000000000000000
 r8=0000000000000000  r9=0000000000000000 r10=0000000000000000
r11=0000000000000000 r12=0000000000000000 r13=0000000000000000
r14=0000000000000000 r15=0000000000000000
iopl=0         nv up di pl zr na pe nc
cs=0000  ss=0000  ds=0000  es=0000  fs=0000  gs=0000             efl=00000046
`+"nt+0x24ca60:\nfffff803`19e4ca60 cc              int     3\n")
	r.do("r rax = 5, rbx=@rax+1; r rax, @rbx zf al", "rax=0000000000000005 rbx=0000000000000006 zf=1 al=05\n")
	r.do("r eax=0xffffffff; r rax", "rax=00000000ffffffff\n")
	r.do("r eax:ub, eax:2iw", "eax=ff ff ff ff eax=-1 -1\n")
	r.do("r xmm1 = 1 2 3 4.5; r xmm1:2f; r xmm1=ff; r xmm1:uq", "xmm1=3 4.5\nxmm1=0000000000000000 00000000000000ff\n")
	r.do("r $t3 = 1234; r $t3; r $.u4=abc; r $.u4", "$t3=0000000000001234\n$u4=abc\n")
	r.do("r $ip = fffff803`19e4da60; r rip", "rip=fffff80319e4da60\n")
	r.do("r.", "rax=00000000ffffffff al=ff\n")
	r.do("2r", "2 is not a valid processor number; the target has 2 (0 to 1)\n")
	r.do("1r rip", "rip=fffff80319e4cb60\n")
	r.do("rm", "Register output mask is a:\n       2 - Integer state (64-bit), 64-bit takes precedence\n       8 - Segment registers\n")
	r.do("rm 1008", "Ignored invalid bits 1000\n")
	r.do("r", "cs=0000  ss=0000  ds=0000  es=0000  fs=0000  gs=0000             efl=00000046\n"+placeLines)
	r.do("rM 80", "cr0=0000000000000000 cr2=0000000000000000 cr3=0000000000000000\ncr8=0000000000000000\n"+placeLines)
	r.fails("1r rax=5", "read-only from here; ~1s makes it")
	r.fails("r al=100", "register al has 8 bits")
	r.fails("r nosuch", "x64 has no register \"nosuch\"")
	r.fails("r rax=", "a value is expected")
	r.fails("r $proc=5", "cannot be written")
	r.fails("r rax:zz", "the type is")
	r.fails("r ,", "name of a register")
	r.do("r? $t1=5; ? @$t1; r? $t1", "Evaluate expression: 5 = 00000000`00000005\nint 0n5\n")
}

// The caret stands where the value is missing.
func TestMissingValue(t *testing.T) {
	r := newRig(t, 1)
	r.s.Execute(r.ctx, "r rax=")
	if got := r.out.Take(); !strings.HasPrefix(got, strings.Repeat(" ", len("kd> r rax="))+"^") {
		t.Error(got)
	}
}

func TestMSRCommands(t *testing.T) {
	r := newRig(t, 1)
	r.f.MSR[0xC0000082] = 0xFFFFF80012345678
	r.do("rdmsr c0000082", "msr[c0000082] = fffff800`12345678\n")
	r.do("wrmsr c0000082 1; rdmsr 0xc0000082", "msr[c0000082] = 00000000`00000001\n")
	r.fails("rdmsr 10", "MSR 10 faulted on processor 0 (status 0xC000000E)")
	r.fails("wrmsr 10", "the value is missing")
	r.fails("rdmsr 1`00000000", "32 bits")
}

func TestBreakpointCommands(t *testing.T) {
	r := newRig(t, 2)
	r.do("bp nt+24da60 3 \".echo hi\"; bp7 /1 fffff803`19e4da61; ba w4 fffff803`19e4da64; bp /t ffffe000`00001000 nt+24da70 \"\"", "")
	list := ` 0 e fffff803` + "`" + `19e4da60  0003 (0003) nt+0x24da60 ".echo hi"
 1 e fffff803` + "`" + `19e4da64 w4 0001 (0001) nt+0x24da64
 2 e fffff803` + "`" + `19e4da70  0001 (0001) nt+0x24da70
     Match thread data ffffe000` + "`" + `00001000
 7 e fffff803` + "`" + `19e4da61  0001 (0001) nt+0x24da61 /1
`
	r.do("bl", list)
	r.do("bd 1-2; bl 1,2", strings.ReplaceAll(strings.Join(strings.SplitAfter(list, "\n")[1:4], ""), " e ", " d "))
	r.do("be *; bc 1 2 7; bl", strings.SplitAfter(list, "\n")[0])
	r.do("bp nt+24da60 \"a \\\"b\\\"\"", "breakpoint 0 redefined\n")
	r.do(".bpcmds", "bp0 nt+0x24da60 \"a \\\"b\\\"\";\n")
	r.do("bs 0 \"gc\"; bl", " 0 e fffff803`19e4da60  0001 (0001) nt+0x24da60 \"gc\"\n")
	r.fails("bc 5", "Breakpoint 5 does not exist")
	r.fails("bc", "usage")
	r.fails("bc x", "decimal")
	r.fails("ba w3 nt", "the size is 1, 2, 4 or 8")
	r.fails("ba w8 nt+1", "divisible by 8")
	r.fails("ba e4 nt", "an execute breakpoint has size 1")
	r.fails("ba x4 nt", "the access is")
	r.fails("bp nt 0", "1 or more")
	r.fails("bp nt \"abc", "closing quote")
	r.fails("bp nt 1 \"abc\" d", "Extra character")
	r.fails("bp /w \"x\" nt", "not supported")
	r.do("bc *; bp nosuch!thing+4 2; bl", "Bp expression 'nosuch!thing+4' could not be resolved, adding deferred bp\n'nosuch!thing': no symbols are read in this session\n 0 eu                    0002 (0002) (nosuch!thing+4)\n")
	r.do("bp /C 2 nt; bc 0; bl", " 1 e fffff803`19c00000  0001 (0001) nt\n     Call stack deeper than: 0002\n")
	r.do("br 1 4; bsc 4 @rax == 1 \"r\"; .bpcmds", "bp4 /C 0x2 nt+0x0 \".if (@rax == 1) {r} .else {gc}\";\n")
	r.fails("bm", "usage")
	r.fails("bp /c 0 nt", "1 to 0xffff frames")
	r.do("bc *; bl", "")
}

func TestGo(t *testing.T) {
	r := newRig(t, 1)
	r.script(bpStop(place))
	r.do("bp nt+24da60; g", "Breakpoint 0 hit\n"+placeLines)
	r.script(stepStop(place + 2))
	r.do("bc *; .prompt_allow -reg; t", "Allow the following information to be displayed at the prompt:\n(Other settings can affect whether the information is actually displayed)\n   sym - Symbol for current instruction: +\n   dis - Disassembly of current instruction: +\n   reg - Register state after p and t: -\nnt+0x24da62:\nfffff803`19e4da62 0000            add     byte ptr [rax],al\n")
	r.script(bpStop(place + 4))
	r.do("g =nt+24da70 nt+24da64", "nt+0x24da64:\nfffff803`19e4da64 0000            add     byte ptr [rax],al\n")
	if res, _ := r.f.LastResume(); len(res.Breakpoints) != 1 || res.Breakpoints[0] != place+4 {
		t.Errorf("%+v", res)
	}
	for line, status := range map[string]kdproto.Status{"g": kdproto.DbgExceptionHandled, "gh": kdproto.DbgExceptionHandled, "gn": kdproto.DbgExceptionNotHandled, "gN": kdproto.DbgExceptionNotHandled} {
		r.script(target.Stop{PC: place, Exception: enginetest.Exception(0xC0000005, false)})
		r.do(line, "Access violation - code c0000005 (!!! second chance !!!)\n"+placeLines)
		if res, _ := r.f.LastResume(); res.Status != status {
			t.Errorf("%s: %v", line, res.Status)
		}
	}
	r.fails("g nosuch", "nosuch")
	r.f.FailInsert[place] = true
	r.fails("bp1 nt+24da60; g", "bp1 at fffff803`19e4da60 failed")
	if !r.e.Halted() {
		t.Error("not halted")
	}
}

func TestSteps(t *testing.T) {
	r := newRig(t, 1)
	r.do("pr", strings.Replace(placeLines, "24da60:\nfffff803`19e4da60 0000            add     byte ptr [rax],al", "24ca61:\nfffff803`19e4ca61 c3              ret", 1))
	line := func(pc string) string {
		return "nt+0x24da" + pc + ":\nfffff803`19e4da" + pc + " 0000            add     byte ptr [rax],al\n"
	}
	r.script(stepStop(place), stepStop(place+2), stepStop(place+4))
	r.do("p 3 \".echo x\"", line("60")+"x\n"+line("62")+"x\n"+line("64")+"x\n")
	r.f.Lock()
	r.f.Write(place+12, []byte{0xC3})
	r.f.Unlock()
	r.script(stepStop(place+6), stepStop(place+8), stepStop(place+10))
	r.do("ta nt+24da68", line("66")+line("68"))
	r.script(bpStop(place + 12)) // the code between leads there and nowhere else
	r.do("tt", "nt+0x24da6c:\nfffff803`19e4da6c c3              ret\n")
	r.script(bpStop(place))
	r.do("bp nt+24da60; p 5", "Breakpoint 0 hit\n"+line("60"))
	r.fails("p 0", "the count is 1")
	r.fails("t nosuch", "nosuch")
	r.fails("ta", "usage")
	r.script(stepStop(place))
	r.s.Execute(r.ctx, "tr")
	if got := r.out.Take(); !strings.HasPrefix(got, "rax=") || !strings.HasSuffix(got, placeLines) {
		t.Errorf("tr: %s", got)
	}
	// An empty line steps again.
	r.script(stepStop(place+2), stepStop(place+4))
	r.s.Execute(r.ctx, "t")
	r.out.Take()
	r.s.Execute(r.ctx, "")
	if got := r.out.Take(); !strings.Contains(got, line("64")) {
		t.Errorf("repeat: %s", got)
	}
}

// The commands of a breakpoint may let the target go any number of times.
func TestConditionalBreakpoint(t *testing.T) {
	r := newRig(t, 1)
	n := 0
	r.f.OnResume = func(f *enginetest.Fake, _ target.Resume) {
		n++
		f.Lock()
		reg, _ := f.Arch.Reg("rcx")
		reg.Set(arch.State{Context: f.Context[0]}, arch.Value{Lo: uint64(n)})
		f.Unlock()
		f.Stop(bpStop(place))
	}
	r.s.Execute(r.ctx, `bp nt+24da60 "j (@rcx == 0n300) '.echo there'; 'gc'"; .prompt_allow -dis -sym`)
	r.out.Take()
	r.s.Execute(r.ctx, "g; .echo after")
	if got := r.out.Take(); n != 300 || got != "there\nafter\n" {
		t.Errorf("%d resumes, %d bytes, end %q", n, len(got), got[max(0, len(got)-60):])
	}
	// The rest of the list is not run after a resume, and .if works as well.
	r.s.Execute(r.ctx, `bs 0 ".if (@rcx < 0n310) {gc; .echo never} .else {.echo enough}"`)
	r.out.Take()
	r.s.Execute(r.ctx, "g")
	if got := r.out.Take(); n != 310 || got != "enough\n" {
		t.Errorf("%d resumes: %q", n, got)
	}
	// Where it stands comes after the commands, mistakes included.
	r.s.Execute(r.ctx, `.prompt_allow +dis +sym; bs 0 "nonsense"`)
	r.out.Take()
	err := r.s.Execute(r.ctx, "g")
	if got := r.out.Take(); err == nil || !strings.Contains(got, "not a command") || !strings.HasSuffix(got, placeLines) {
		t.Errorf("%v %q", err, got)
	}
	// q inside leaves.
	r.s.Execute(r.ctx, `bs 0 "q"`)
	if err := r.s.Execute(r.ctx, "g"); !errors.Is(err, ErrQuit) {
		t.Error(err)
	}
}

func TestModuleCommands(t *testing.T) {
	r := newRig(t, 1)
	head := "start             end                 module name\n"
	hal := "fffff803`19a00000 fffff803`19aa0000   hal        (deferred)\n"
	nt := "fffff803`19c00000 fffff803`1a400000   nt         (deferred)\n"
	tcpip := "fffff803`20000000 fffff803`20020000   tcpip      (deferred)\n"
	n := r.f.Count()
	r.do("lm", head+hal+nt+tcpip)
	if r.f.Count() != n+1 {
		t.Errorf("%d exchanges", r.f.Count()-n)
	}
	r.do("lm m t*", head+tcpip)
	r.do("lmm nt", head+nt)
	r.do("lma nt+1234", head+nt)
	r.do("lm k u", head)
	r.do("lm1m", "hal\nnt\ntcpip\n")
	r.do("lmf m nt", head+"fffff803`19c00000 fffff803`1a400000   nt         \\SystemRoot\\system32\\ntoskrnl.exe\n")
	r.do("lmn sm m nt", head+"fffff803`19c00000 fffff803`1a400000   nt         ntoskrnl.exe\n")
	r.do("lmt m nt", head+"fffff803`19c00000 fffff803`1a400000   nt         ntoskrnl.exe Fri Nov  1 10:50:56 2019 (5DBC0E10)\n")
	r.do("lmvm nt", head+nt+`    Image path: \SystemRoot\system32\ntoskrnl.exe
    Image name: ntoskrnl.exe
    Timestamp:        Fri Nov  1 10:50:56 2019 (5DBC0E10)
    CheckSum:         00A6F3B1
    ImageSize:        00800000
`)
	r.fails("lmx", "usage")
	r.fails("lm m", "needs a pattern")
	r.fails("lm a zzz!", "zzz")
	r.do(".reload", "Connected to Windows 10 19041 x64 target at (Fri Jan  2 03:04:05.000 2026 (UTC + 0:00)), ptr64 TRUE\nLoading Kernel Symbols\n...\nLoading User Symbols\n\nLoading unloaded module list\n\n")
	r.do(".reload /f tcpip.sys", "")
	r.do(".reload -f tcpip.sys", "")
	for _, q := range []string{"-?", "/?", "/f -?"} {
		if text := r.text(".reload " + q); !strings.Contains(text, "    .reload /u module\n") || !strings.HasSuffix(text, "Example:\n    .reload /f nt\n") {
			t.Error(text)
		}
	}
	r.fails(".reload -q", "Syntax error")
	r.do(".help {", "{ - as .block\n\n    { commands }\n\nExample:\n    { r; u }\n")
	r.do("r $t0 = $exentry; .printf \"%p\\n\", @$t0", "fffff80319c01000\n")
	r.fails(".reload nosuch", "not found in the image list")
}

func sharedData(f *enginetest.Fake) {
	b := make([]byte, 0x1000)
	le := binary.LittleEndian
	le.PutUint64(b[0x08:], 20_534*10_000)
	le.PutUint64(b[0x14:], uint64(time.Date(2026, 1, 2, 11, 0, 0, 0, time.UTC).Unix()+11644473600)*1e7)
	le.PutUint64(b[0x20:], 8*36_000_000_000)
	le.PutUint32(b[0x264:], 1)
	b[0x268] = 1
	le.PutUint32(b[0x26C:], 10)
	le.PutUint32(b[0x2D0:], 0x110)
	f.Write(enginetest.SharedData, b)
}

func TestTargetCommands(t *testing.T) {
	r := newRig(t, 2)
	sharedData(r.f)
	r.f.FailOps[target.OpString] = 0
	n := r.f.Count()
	times := "Debug session time: Fri Jan  2 03:00:00.000 2026 (UTC - 8:00)\nSystem Uptime: 0 days 0:00:20.534\n"
	r.do("vertarget", "Windows 10 Kernel Version 19041 MP (2 procs) Free x64\nProduct: WinNt, suite: TerminalServer SingleUserTS\nMachine Name:\nKernel base = 0xfffff803`19c00000 PsLoadedModuleList = 0xfffff803`1a000000\n"+times)
	if r.f.Count() != n+1 {
		t.Errorf("%d exchanges", r.f.Count()-n)
	}
	r.do(".time", times)
	r.do(".time -h 2", strings.Replace(times, "03:00:00.000 2026 (UTC - 8", "13:00:00.000 2026 (UTC + 2", 1))
	r.s.SetProgram("kd 0.1")
	r.s.Execute(r.ctx, "version")
	if got := r.out.Take(); !regexp.MustCompile(`Remote KD: KdSrv.*\nkd 0\.1\nbuilt with go`).MatchString(got) {
		t.Error(got)
	}
	r.do("||", ".  0 Remote KD: KdSrv:Server=@{<Local>},Trans=@{COM:Port=fake}\n")
	r.do(".lastevent", "Last event: Break instruction exception - code 80000003 (first chance)\n  debugger time: Fri Jan  2 03:04:05.000 2026 (UTC + 0:00)\n")
	r.do(".exr -1", "ExceptionAddress: 0000000000000000\n   ExceptionCode: 80000003 (Break instruction exception)\n  ExceptionFlags: 00000000\nNumberParameters: 0\n")
	rec := make([]byte, 8+16+8+15*8)
	binary.LittleEndian.PutUint32(rec, 0xC0000005)
	binary.LittleEndian.PutUint64(rec[16:], place)
	rec[24] = 2
	rec[32], rec[40] = 1, 0x42
	r.f.Write(place+0x100, rec)
	r.e.FlushCache()
	r.do(".exr nt+24db60", "ExceptionAddress: fffff80319e4da60 (nt+0x24da60)\n   ExceptionCode: c0000005 (Access violation)\n  ExceptionFlags: 00000000\nNumberParameters: 2\n   Parameter[0]: 0000000000000001\n   Parameter[1]: 0000000000000042\nAttempt to write to address 0000000000000042\n")
	r.fails(".exr 0", "cannot be read")
	r.f.Write(enginetest.BugData, []byte{0xD1})
	r.do(".bugcheck", "Bugcheck code 000000D1\nArguments 00000000`00000000 00000000`00000000 00000000`00000000 00000000`00000000\n")
	r.do(".cache flushall", "Max cache size is       : 16777216 bytes (0x4000 KB)\nTotal memory in cache   : 0 bytes (0x0 KB)\nNumber of regions cached: 0\n")
	r.fails(".cache hold", "belongs to a stop")
	r.fails(".cache 0", "KB")
}

func TestProcessorCommands(t *testing.T) {
	r := newRig(t, 2)
	n := r.f.Count()
	r.do("~", ".  0  fffff803`19e4ca60 nt+0x24ca60\n   1  fffff803`19e4cb60 nt+0x24cb60\n")
	if r.f.Count() != n+1 {
		t.Errorf("%d exchanges", r.f.Count()-n)
	}
	r.do("~1s", "nt+0x24cb60:\nfffff803`19e4cb60 0000            add     byte ptr [rax],al\n")
	if p := r.s.Prompt(); p != "1: kd> " {
		t.Errorf("prompt %q", p)
	}
	r.do("~", "#  0  fffff803`19e4ca60 nt+0x24ca60\n.  1  fffff803`19e4cb60 nt+0x24cb60\n")
	r.do("0r rip; r rip", "rip=fffff80319e4ca60\nrip=fffff80319e4cb60\n")
	r.fails("~5s", "5 is not a valid processor number")
	r.fails("~x", "lists the processors")
}

func TestBugCheckStop(t *testing.T) {
	r := newRig(t, 1)
	r.f.OnResume = func(f *enginetest.Fake, _ target.Resume) {
		f.Lock()
		f.Write(enginetest.BugData, []byte{0xD1, 0, 0, 0, 0, 0, 0, 0, 9})
		reg, _ := f.Arch.Reg("rcx")
		reg.Set(arch.State{Context: f.Context[0]}, arch.Value{Lo: 4})
		f.Unlock()
		f.Stop(target.Stop{PC: enginetest.Break, Exception: enginetest.Exception(kdproto.StatusBreakpoint, true)})
	}
	for range 2 {
		r.s.Execute(r.ctx, "g")
	}
	got := r.out.Take()
	if strings.Count(got, "BugCheck D1, {9, 0, 0, 0}\n") != 2 || strings.Count(got, "stops here at every g") != 1 {
		t.Error(got)
	}
	if !strings.Contains(got, ".\n\n******") || strings.Count(got, "Bugcheck Analysis") != 2 {
		t.Error(got)
	}
	if strings.Count(got, "Bugcheck callbacks have been invoked") != 2 {
		t.Error(got)
	}
	r.fails(".crash", "inside a bug check already")
	// One that was asked for has no first stop, and says nothing of callbacks.
	r = newRig(t, 1)
	r.f.Lock()
	r.f.Write(enginetest.BugData, []byte{0xE2})
	reg, _ := r.f.Arch.Reg("rcx")
	reg.Set(arch.State{Context: r.f.Context[0]}, arch.Value{Lo: 4})
	r.f.Unlock()
	r.script(target.Stop{PC: enginetest.Break, Exception: enginetest.Exception(kdproto.StatusBreakpoint, true)})
	r.s.Execute(r.ctx, "g")
	if got := r.out.Take(); strings.Contains(got, "have been invoked") || !strings.Contains(got, "BugCheck E2, {0, 0, 0, 0}\n") || !strings.Contains(got, "was asked for") {
		t.Error(got)
	}
}

func TestControlCommands(t *testing.T) {
	r := newRig(t, 1)
	var q *Quit
	if err := r.s.Execute(r.ctx, "q"); !errors.As(err, &q) || q.Leave != target.LeaveRunning {
		t.Error(err)
	}
	if err := r.s.Execute(r.ctx, "qd /h"); !errors.As(err, &q) || q.Leave != target.LeaveHalted {
		t.Error(err)
	}
	r.fails("q now", "Extra character")
	r.fails(".breakin", "halted already")
	// .reboot waits for the machine to come back.
	done := make(chan error, 1)
	go func() { done <- r.s.Execute(r.ctx, ".reboot; .echo back") }()
	for r.e.Halted() {
		time.Sleep(time.Millisecond)
	}
	r.f.Send(target.Event{Kind: target.EventReloaded})
	r.f.Connect()
	r.f.Stop(target.Stop{PC: place, Asked: true, Exception: enginetest.Exception(kdproto.StatusBreakpoint, true)})
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := r.out.Take(); !strings.HasSuffix(got, "back\n") {
		t.Error(got)
	}
	if len(r.f.Controls) == 0 || r.f.Controls[0].Op != target.ControlReboot {
		t.Errorf("%+v", r.f.Controls)
	}
	// A lost link: scripts end, people wait.
	r.s.SetLostEnds(true)
	r.script()
	go func() { done <- r.s.Execute(r.ctx, "g") }()
	for r.e.Halted() {
		time.Sleep(time.Millisecond)
	}
	r.f.Send(target.Event{Kind: target.EventLost, Text: "the pipe ended"})
	if err := <-done; !errors.Is(err, target.ErrLost) {
		t.Error(err)
	}
	r.out.Take()
	r.fails("r", "link to the target is lost")
}

// Every command names itself and shows an example.
func TestCommandTable(t *testing.T) {
	for _, fam := range [][]*Command{executionCommands(), breakpointCommands(), registerCommands(), moduleCommands(), controlCommands()} {
		for _, c := range fam {
			if c.Summary == "" || c.Usage == "" || c.Example == "" || c.Run == nil || c.Family == "" {
				t.Errorf("%v is not described", c.Names)
			}
		}
	}
}

// Nothing that is typed at these commands breaks them.
func FuzzTargetCommands(f *testing.F) {
	for _, s := range []string{"r rax=5,rbx", "bp0 /1 nt 3 \"x\"", "ba w8 nt", "lmvm nt", "~1s", "rM 80 x", "g =0 1 2", "p 3 \"x\"", ".exr -1", "bc 0-9", "r xmm0=1 2 3 4", "lm a nt+1 v"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, line string) {
		low := strings.ToLower(line)
		for _, w := range []string{"sleep", "$<", "$>", "log", "writemem", "readmem", ".for", ".while", ".do", "z", "reboot", "restart", "crash", "shell", "server", "{"} {
			if strings.Contains(low, w) {
				t.Skip()
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		fake := enginetest.New(2)
		e := engine.New(fake, engine.Options{})
		done := make(chan error, 1)
		go func() { done <- e.Run(ctx) }()
		defer func() { cancel(); <-done }()
		fake.Connect()
		e.BreakIn(ctx)
		if _, err := e.Wait(ctx); err != nil {
			t.Fatal(err)
		}
		n := 0
		fake.OnResume = func(f *enginetest.Fake, _ target.Resume) {
			if n++; n > 20 {
				cancel()
				return
			}
			f.Stop(stepStop(place + uint64(n)))
		}
		most, enough := context.WithTimeout(ctx, 5*time.Second) // searches of all memory
		defer enough()
		NewSession(e, nil, Options{}).Execute(most, line)
	})
}
