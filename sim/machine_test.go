package sim

import (
	"bytes"
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"openkd/kdproto"
	"openkd/sim/cpu"
	"openkd/sim/kernel"
)

const (
	ok       = kdproto.StatusSuccess
	fail     = kdproto.StatusUnsuccessful
	breakSt  = kdproto.StatusBreakpoint
	stepSt   = kdproto.StatusSingleStep
	someAPIs = 8
)

func TestBootReportsTheKernelFirst(t *testing.T) {
	m := start(t, Config{BreakAtBoot: true})
	d := attach(t, m)
	s, fresh := d.freshStop()
	nt := sym(t, m, "__ImageBase")
	if !fresh || s.Kind != kdproto.StateLoadSymbols || s.Path() != "ntoskrnl.exe" || s.LoadSymbols.Base != nt || s.NumberProcessors != 1 {
		t.Fatalf("first report: fresh %v, %+v %q, kernel at %#x", fresh, s, s.Path(), nt)
	}
	d.goOn()
	s = d.stop()
	if s.Kind != kdproto.StateException || s.Exception.Code != breakSt || s.ProgramCounter != sym(t, m, "DbgBreakPointWithStatus") {
		t.Fatalf("stop at boot: %+v", s)
	}
	if rcx := le.Uint64(d.must(kdproto.APIGetContext, 0, nil, nil).Data[ctxRax+8:]); rcx != 1 {
		t.Fatalf("break status %d, want 1", rcx)
	}
	d.skip(0)
	d.goOn()
	var names []string
	for len(names) < 3 {
		s := d.stop()
		if s.Kind != kdproto.StateLoadSymbols {
			t.Fatalf("%+v", s)
		}
		names = append(names, s.Path())
		d.goOn()
	}
	if names[0] != `\SystemRoot\system32\hal.dll` || !strings.HasSuffix(names[2], "openkd.sys") {
		t.Fatal(names)
	}
	d.bootFiles()
	s = d.breakIn()
	if s.NumberProcessors != 2 || s.ProgramCounter != sym(t, m, "DbgBreakPointWithStatus") || s.Thread == 0 {
		t.Fatalf("break-in: %+v", s)
	}
	if len(d.files) != 2 || len(d.prints) == 0 || !strings.HasPrefix(d.prints[0], "NT: 2 processors") {
		t.Fatal(d.files, d.prints)
	}
	if len(s.Data) != 4 || le.Uint32(s.Data) != 1 {
		t.Fatalf("trace data %x", s.Data)
	}
	if r := s.DecodeReport(kdproto.MachineAMD64); r.Stream[0] != 0xCC || r.SegCs != selCode || r.SegDs != selUser || r.SegFs != selTeb || r.Flags != 3 {
		t.Fatalf("report %+v", r)
	}
}

// The image in memory is the file's, relocations and bound imports apart, and
// the bulk data is its formula.
func TestKernelImageInMemory(t *testing.T) {
	m, d := running(t, Config{})
	d.breakIn()
	a, end := sym(t, m, "MmBulkData"), sym(t, m, "MmBulkDataEnd")
	if end-a != 2<<20 {
		t.Fatalf("bulk data of %d bytes", end-a)
	}
	before := m.Stats().Exchanges
	const n = 256 << 10
	p := d.read(a+n, n)
	for i := 0; i < n; i += 4 {
		if want := uint32(uint64(n+i)/4*0x9E3779B1 + 0x4F4B4442); le.Uint32(p[i:]) != want {
			t.Fatalf("bulk data at %#x is %#x, want %#x", n+i, le.Uint32(p[i:]), want)
		}
	}
	if got := m.Stats().Exchanges - before; got != (n+kdproto.MaxTransfer-1)/kdproto.MaxTransfer {
		t.Fatalf("%d exchanges", got)
	}
	file, err := kernel.Image("ntoskrnl.exe")
	if err != nil {
		t.Fatal(err)
	}
	if i := bytes.Index(file, p[:256]); i < 0 || !bytes.Equal(file[i:i+n], p) {
		t.Fatal("the file does not hold the bulk data")
	}
	text := d.read(sym(t, m, "KiSystemStartup"), 4096)
	if !bytes.Equal(text[:0xF], file[0x400:0x40F]) {
		t.Fatalf("code %x, file %x", text[:16], file[0x400:0x410])
	}
}

func TestVersionDataBlockAndLists(t *testing.T) {
	m, d := running(t, Config{Processors: 3, Modules: 5})
	d.breakIn()
	var v kdproto.Version
	d.must(kdproto.APIGetVersion, 0xFFFF, &v, nil)
	nt := sym(t, m, "__ImageBase")
	if v.KernBase != nt || v.Machine != kdproto.MachineAMD64 || v.Protocol != 6 || v.Major != 0xF || v.Flags&7 != 7 ||
		v.PsLoadedModuleList != sym(t, m, "PsLoadedModuleList") {
		t.Fatalf("%+v", v)
	}
	block := d.u64(v.DebuggerDataList)
	h := d.read(block, 24)
	if string(h[16:20]) != "KDBG" || le.Uint32(h[20:]) != 0x380 {
		t.Fatalf("data block %x", h)
	}
	b := d.read(block, 0x380)
	for off, name := range map[int]string{
		0x18: "__ImageBase", 0x20: "DbgBreakPointWithStatus", 0x48: "PsLoadedModuleList", 0x50: "PsActiveProcessHead",
		0x78: "KeTimeIncrement", 0x88: "KiBugCheckData", 0x208: "NtBuildLab", 0x218: "KiProcessorBlock", 0x228: "MmLastUnloadedDriver",
	} {
		if got := le.Uint64(b[off:]); got != sym(t, m, name) {
			t.Errorf("data block %#x is %#x, want %s", off, got, name)
		}
	}
	if !strings.Contains(string(d.read(le.Uint64(b[0x208:]), 45)), "openkd_simulator") {
		t.Error("build lab")
	}
	names := d.list(v.PsLoadedModuleList, 0x58)
	if len(names) != 4+5 || names[0] != "ntoskrnl.exe" || names[1] != "hal.dll" || names[8] != "module004.sys" {
		t.Error(names)
	}
	// Processes, by the data block's offsets where it has them.
	var procs []string
	head := le.Uint64(b[0x50:])
	for e, n := d.u64(head), 0; e != head && n < 100; e, n = d.u64(e), n+1 {
		procs = append(procs, string(bytes.TrimRight(d.read(e+0x28, 15), "\x00")))
	}
	if strings.Join(procs, " ") != "System smss.exe csrss.exe explorer.exe" {
		t.Error(procs)
	}
	for i := range 3 {
		prcb := d.u64(sym(t, m, "KiProcessorBlock") + 8*uint64(i))
		c, _ := m.CPU(i)
		if prcb != c.Pcr+sizePrcbOffset || int(d.read(prcb+4, 1)[0]) != i || d.u64(c.Pcr+0x18) != c.Pcr || d.u64(c.Pcr+0x20) != prcb {
			t.Errorf("processor %d: PRCB %#x, PCR %#x", i, prcb, c.Pcr)
		}
		for sel, want := range map[uint64]uint64{0: c.Pcr, 1: prcb, 3: c.CurrentThread} {
			q := kdproto.Memory{Address: sel, Count: 8}
			if r := d.must(kdproto.APIReadControlSpace, i, &q, nil); le.Uint64(r.Data) != want {
				t.Errorf("processor %d, control space %d: %x, want %#x", i, sel, r.Data, want)
			}
		}
		q := kdproto.Memory{Address: 2, Count: 0x200}
		sp := d.must(kdproto.APIReadControlSpace, i, &q, nil).Data
		if len(sp) != specialSize || le.Uint64(sp[0x10:]) != c.CR3 || le.Uint64(sp[0xA8:]) != c.Pcr || le.Uint64(sp[spGdtr+2:]) != c.Pcr+0x1000 {
			t.Errorf("processor %d: special registers %x", i, sp)
		}
		if got := d.read(prcb+uint64(le.Uint16(b[0x2F2:])), specialSize); !bytes.Equal(got, sp) {
			t.Error("the PRCB's special registers differ")
		}
		ctx := d.must(kdproto.APIGetContext, i, nil, nil).Data
		if len(ctx) != contextSize || le.Uint64(ctx[ctxRip:]) != c.RIP || le.Uint64(ctx[ctxRax+8*4:]) != c.R[4] {
			t.Errorf("processor %d: context rip %#x, is at %#x", i, le.Uint64(ctx[ctxRip:]), c.RIP)
		}
		if got := d.read(prcb+uint64(le.Uint16(b[0x2BC:])), contextSize); !bytes.Equal(got, ctx) {
			t.Error("the PRCB's context differs")
		}
	}
	// Shared user data, and its time going on.
	k := d.read(sharedVA, 0x330)
	if le.Uint32(k[0x26C:]) != 10 || le.Uint32(k[0x260:]) != uint32(v.Minor) || k[0x2D4] != 3 || string(k[0x30:0x34]) != "C\x00:\x00" {
		t.Errorf("shared data %x", k[0x260:0x2D8])
	}
	if got, want := le.Uint64(k[0x320:]), d.u64(sym(t, m, "KeTickCount")); got != want || le.Uint64(k[8:]) != want*timeIncrement {
		t.Errorf("ticks %d %d, interrupt time %d", got, want, le.Uint64(k[8:]))
	}
}

// list walks a list of entries with a UNICODE_STRING in each.
func (d *debugger) list(head uint64, off uint64) (names []string) {
	d.t.Helper()
	for e, n := d.u64(head), 0; e != head; e, n = d.u64(e), n+1 {
		if n == 2000 {
			d.t.Fatal("the list does not end")
		}
		u := d.read(e+off, 16)
		s := d.read(le.Uint64(u[8:]), int(le.Uint16(u)))
		for i := range len(s) / 2 {
			s[i] = s[2*i]
		}
		names = append(names, string(s[:len(s)/2]))
	}
	return names
}

func TestMemoryRequests(t *testing.T) {
	m, d := running(t, Config{})
	d.breakIn()
	bulk := sym(t, m, "MmBulkData")
	end := sym(t, m, "__ImageBase")
	for a := end; ; a += pageSize { // the end of the image, where a hole begins
		var b [1]byte
		if m.ReadVirtual(a, b[:]) == 0 {
			end = a
			break
		}
	}
	q := kdproto.Memory{Address: end - 100, Count: 300}
	r := d.ask(kdproto.APIReadVirtualMemory, 0, &q, nil)
	if r.Status != fail || q.Actual != 100 || len(r.Data) != 100 {
		t.Fatalf("read into a hole: %v, %d, %d bytes", r.Status, q.Actual, len(r.Data))
	}
	q = kdproto.Memory{Address: end, Count: 4}
	if r = d.ask(kdproto.APIReadVirtualMemory, 0, &q, nil); r.Status != fail || q.Actual != 0 || len(r.Data) != 0 {
		t.Fatalf("read of a hole: %v %d", r.Status, q.Actual)
	}
	q = kdproto.Memory{Address: bulk, Count: 100000}
	if r = d.must(kdproto.APIReadVirtualMemory, 0, &q, nil); q.Actual != kdproto.MaxTransfer || len(r.Data) != kdproto.MaxTransfer {
		t.Fatalf("long read: %d", q.Actual)
	}
	// A write goes past the protection of a read-only page, and partial at a hole.
	q = kdproto.Memory{Address: bulk + 4090, Count: 12}
	d.must(kdproto.APIWriteVirtualMemory, 0, &q, []byte("hello, world"))
	if got := d.read(bulk+4090, 12); q.Actual != 12 || string(got) != "hello, world" {
		t.Fatalf("%d %q", q.Actual, got)
	}
	q = kdproto.Memory{Address: end - 3, Count: 8}
	if r = d.ask(kdproto.APIWriteVirtualMemory, 0, &q, make([]byte, 8)); r.Status != fail || q.Actual != 3 {
		t.Fatalf("write into a hole: %v %d", r.Status, q.Actual)
	}
	// Physical, by a page walk of our own through the self map.
	pte := d.u64(pteBase + bulk&0xFFFFFFFFFFFF>>12*8)
	pa, mapped := m.Translate(bulk)
	if !mapped || pte&pteAddr|bulk&0xFFF != pa || pte&pteWrite != 0 || pte&pteNX == 0 {
		t.Fatalf("PTE %#x, physical %#x", pte, pa)
	}
	q = kdproto.Memory{Address: pa + 4090, Count: 6}
	if r = d.must(kdproto.APIReadPhysicalMemory, 0, &q, nil); string(r.Data) != "hello," {
		t.Fatalf("%q", r.Data)
	}
	q = kdproto.Memory{Address: pa, Count: 2}
	d.must(kdproto.APIWritePhysicalMemory, 0, &q, []byte("PH"))
	if string(d.read(bulk, 2)) != "PH" {
		t.Fatal("physical write not seen")
	}
	q = kdproto.Memory{Address: 64<<20 - 2, Count: 4}
	if r = d.ask(kdproto.APIReadPhysicalMemory, 0, &q, nil); r.Status != fail || q.Actual != 2 {
		t.Fatalf("past the end of memory: %v %d", r.Status, q.Actual)
	}
	// Search over a page boundary, fill, query.
	s := kdproto.SearchMemory{Address: bulk, Length: 100000, Pattern: 5}
	if d.must(kdproto.APISearchMemory, 0, &s, []byte("world")); s.Address != bulk+4097 {
		t.Fatalf("found at %#x", s.Address-bulk)
	}
	s = kdproto.SearchMemory{Address: bulk + 4098, Length: 5000, Pattern: 5}
	if r = d.ask(kdproto.APISearchMemory, 0, &s, []byte("world")); r.Status != kdproto.StatusNoMoreEntries {
		t.Fatal(r.Status)
	}
	f := kdproto.FillMemory{Address: bulk + 1, Length: 10000, Flags: 1, Pattern: 3}
	d.must(kdproto.APIFillMemory, 0, &f, []byte("abc"))
	if got := d.read(bulk+1, 10000); f.Length != 10000 || !bytes.Equal(got, bytes.Repeat([]byte("abc"), 3334)[:10000]) {
		t.Fatal("fill", f.Length)
	}
	f = kdproto.FillMemory{Address: end - 5, Length: 100, Flags: 1, Pattern: 1}
	if r = d.ask(kdproto.APIFillMemory, 0, &f, []byte{1}); r.Status != fail || f.Length != 5 {
		t.Fatal(r.Status, f.Length)
	}
	for a, want := range map[uint64]uint32{bulk: 2, 0x1000: 0} {
		qm := kdproto.QueryMemory{Address: a}
		if d.must(kdproto.APIQueryMemory, 0, &qm, nil); qm.Space != want || qm.Flags == 0 {
			t.Errorf("query %#x: %+v", a, qm)
		}
	}
}

func TestOtherRequests(t *testing.T) {
	m, d := running(t, Config{})
	d.breakIn()
	// I/O space.
	io := kdproto.IoSpace{Port: 0x80, Size: 2, Value: 0xBEEF}
	d.must(kdproto.APIWriteIoSpace, 0, &io, nil)
	io.Value = 0
	if d.must(kdproto.APIReadIoSpace, 0, &io, nil); io.Value != 0xBEEF {
		t.Fatalf("%#x", io.Value)
	}
	io = kdproto.IoSpace{Port: 0x81, Size: 2}
	if r := d.ask(kdproto.APIReadIoSpace, 0, &io, nil); r.Status != kdproto.StatusInvalidParameter {
		t.Fatal(r.Status)
	}
	iox := kdproto.IoSpaceExtended{Size: 1, Interface: 1, Space: 1, Address: 0x81}
	if d.must(kdproto.APIReadIoSpaceExtended, 0, &iox, nil); iox.Value != 0xBE {
		t.Fatalf("%#x", iox.Value)
	}
	// MSRs: true ones, written ones, faults.
	msr := kdproto.Msr{Register: 0xC0000082}
	if d.must(kdproto.APIReadMsr, 0, &msr, nil); msr.Value != sym(t, m, "KiSystemCall64") {
		t.Fatalf("LSTAR %#x", msr.Value)
	}
	msr.Value = 0xFFFFF80012345678
	d.must(kdproto.APIWriteMsr, 0, &msr, nil)
	msr.Value = 0
	if d.must(kdproto.APIReadMsr, 0, &msr, nil); msr.Value != 0xFFFFF80012345678 {
		t.Fatalf("LSTAR %#x", msr.Value)
	}
	msr = kdproto.Msr{Register: 0x12345678}
	if r := d.ask(kdproto.APIReadMsr, 0, &msr, nil); r.Status != kdproto.StatusNoSuchDevice {
		t.Fatal(r.Status)
	}
	// PCI configuration space.
	bus := kdproto.BusData{Type: 4, Slot: 1, Length: 64}
	r := d.must(kdproto.APIGetBusData, 0, &bus, nil)
	if bus.Length != 64 || len(r.Data) != 64 || le.Uint32(r.Data) != 0x70008086 {
		t.Fatalf("%+v %x", bus, r.Data)
	}
	bus = kdproto.BusData{Type: 4, Slot: 1, Offset: 0x3C, Length: 1}
	d.must(kdproto.APISetBusData, 0, &bus, []byte{11})
	bus.Length = 1
	if r = d.must(kdproto.APIGetBusData, 0, &bus, nil); r.Data[0] != 11 {
		t.Fatalf("%x", r.Data)
	}
	bus = kdproto.BusData{Type: 4, Slot: 9, Length: 64}
	if r = d.must(kdproto.APIGetBusData, 0, &bus, nil); !bytes.Equal(r.Data, []byte{0xFF, 0xFF}) {
		t.Fatalf("%x", r.Data)
	}
	// Special calls.
	d.must(kdproto.APISetSpecialCall, 0, &kdproto.SpecialCall{Address: 0x1234}, nil)
	var sc kdproto.SpecialCalls
	if r = d.must(kdproto.APIQuerySpecialCalls, 0, &sc, nil); sc.Count != 1 || le.Uint64(r.Data) != 0x1234 {
		t.Fatalf("%+v", sc)
	}
	d.must(kdproto.APIClearSpecialCalls, 0, nil, nil)
	d.must(kdproto.APICheckLowMemory, 0, nil, nil)
	// What nobody implements.
	for _, api := range []kdproto.API{kdproto.APIPageIn, kdproto.APISwitchPartition, kdproto.APIWriteCustomBreakpoint, kdproto.APIOldVlm1, 0x3999} {
		if r := d.ask(api, 1, nil, []byte("x")); r.Status != fail || r.Processor != 1 || len(r.Data) != 0 {
			t.Errorf("%v: %+v", api, r)
		}
	}
	// Processors that are not there.
	for _, api := range []kdproto.API{kdproto.APIGetContext, kdproto.APIReadControlSpace, kdproto.APIGetContextEx} {
		if r := d.ask(api, 2, nil, nil); r.Status != fail {
			t.Errorf("%v of processor 2: %v", api, r.Status)
		}
	}
	if s := m.Stats(); s.Requests[kdproto.APIReadMsr] != 3 || s.Exchanges < someAPIs {
		t.Errorf("%+v", s)
	}
}

func TestContextRules(t *testing.T) {
	m, d := running(t, Config{})
	d.breakIn()
	c0, _ := m.CPU(0)
	blank := make([]byte, contextSize)
	if r := d.ask(kdproto.APISetContext, 0, &kdproto.ContextFlags{}, blank); r.Status != fail {
		t.Fatal("SetContext without GetContext: ", r.Status)
	}
	ctx := d.must(kdproto.APIGetContext, 0, nil, nil).Data
	le.PutUint64(ctx[ctxRax:], 0x1122334455667788)
	ctx[ctxXmm+16*15] = 0x99
	d.must(kdproto.APISetContext, 0, &kdproto.ContextFlags{}, ctx)
	ex := kdproto.ContextEx{Offset: ctxRax, Count: 8}
	if r := d.must(kdproto.APIGetContextEx, 0, &ex, nil); le.Uint64(r.Data) != 0x1122334455667788 || ex.Copied != 8 {
		t.Fatalf("%x", r.Data)
	}
	ex = kdproto.ContextEx{Offset: contextSize - 4, Count: 100}
	if r := d.must(kdproto.APIGetContextEx, 0, &ex, nil); len(r.Data) != 4 || ex.Copied != 4 {
		t.Fatal(len(r.Data))
	}
	// In chunks: applied with the last one.
	le.PutUint64(ctx[ctxRax:], 0x42)
	for o := 0; o < contextSize; o += 512 {
		if got := le.Uint64(d.must(kdproto.APIGetContext, 0, nil, nil).Data[ctxRax:]); got != 0x1122334455667788 {
			t.Fatalf("applied too early: %#x", got)
		}
		n := min(512, contextSize-o)
		ex = kdproto.ContextEx{Offset: uint32(o), Count: uint32(n), Copied: contextSize}
		d.must(kdproto.APISetContextEx, 0, &ex, ctx[o:o+n])
	}
	if got := le.Uint64(d.must(kdproto.APIGetContext, 0, nil, nil).Data[ctxRax:]); got != 0x42 {
		t.Fatalf("%#x", got)
	}
	// What was set is what runs.
	d.skip(0)
	d.step(0)
	s := d.exception()
	c, _ := m.CPU(0)
	if s.Exception.Code != stepSt || c.R[cpu.RAX] != 0x42 || c.XMM[15][0] != 0x99 || c.RIP == c0.RIP+1 {
		t.Fatalf("%v rax %#x rip %#x", s.Exception.Code, c.R[cpu.RAX], c.RIP)
	}
	if r := d.ask(kdproto.APISetContext, 0, &kdproto.ContextFlags{}, blank); r.Status != fail {
		t.Fatal("SetContext at a new stop without GetContext: ", r.Status)
	}
}

// Steps are compared with an interpreter that runs on a copy of the machine.
func TestStepsAreTheInterpreters(t *testing.T) {
	m, d := running(t, Config{Processors: 1})
	d.breakIn()
	d.skip(0)
	for range 40 { // out of the clock interrupt, into something
		d.step(0)
		d.exception()
	}
	m.mu.Lock()
	mem := &memory{ram: bytes.Clone(m.b.mem.ram)}
	o := m.b.cpus[0]
	twin := &cpu.CPU{
		R: o.R, RIP: o.RIP, RFlags: o.RFlags, CS: o.CS, DS: o.DS, ES: o.ES, FS: o.FS, GS: o.GS, SS: o.SS,
		FSBase: o.FSBase, GSBase: o.GSBase, KernelGSBase: o.KernelGSBase, CR0: o.CR0, CR2: o.CR2, CR3: o.CR3, CR4: o.CR4,
		DR: o.DR, GDTR: o.GDTR, IDTR: o.IDTR, TR: o.TR, EFER: o.EFER, STAR: o.STAR, LSTAR: o.LSTAR, SFMask: o.SFMask,
		MxCsr: o.MxCsr, XMM: o.XMM, Mem: mem,
	}
	m.mu.Unlock()
	steps := 1000
	if testing.Short() {
		steps = 200
	}
	for i := range steps {
		twin.RFlags |= cpu.FlagTF
		for n := 0; ; n++ {
			e := twin.Step()
			if e != nil && e.Vector != cpu.VecDB {
				t.Fatalf("step %d: the twin got exception %+v at %#x", i, e, twin.RIP)
			}
			if e != nil {
				break
			}
			if twin.Halted {
				// The clock wakes it; the twin has no clock of its own.
				if i < 100 {
					t.Fatalf("idle after %d steps", i)
				}
				return
			}
			if n > 10000 {
				t.Fatal("no trap")
			}
		}
		d.step(0)
		s := d.exception()
		if s.Exception.Code != stepSt || s.ProgramCounter != twin.RIP {
			// A clock interrupt between two steps is served whole and changes
			// nothing but time.
			t.Fatalf("step %d: %v at %#x, the twin is at %#x", i, s.Exception.Code, s.ProgramCounter, twin.RIP)
		}
		if c, _ := m.CPU(0); c.R != twin.R {
			t.Fatalf("step %d at %#x: registers %x, the twin's %x", i, twin.RIP, c.R, twin.R)
		}
	}
}

func TestBreakpoints(t *testing.T) {
	m, d := running(t, Config{})
	d.breakIn()
	at := sym(t, m, "openkd!OpenkdDispatchRead")
	old := d.read(at, 1)[0]
	b := kdproto.WriteBreakPoint{Address: at}
	d.must(kdproto.APIWriteBreakPoint, 0, &b, nil)
	if b.Handle != 1 || d.read(at, 1)[0] != 0xCC {
		t.Fatalf("handle %d, byte %x", b.Handle, d.read(at, 1))
	}
	if r := d.ask(kdproto.APIWriteBreakPoint, 0, &kdproto.WriteBreakPoint{Address: at}, nil); r.Status != fail {
		t.Fatal("a second one at the same address: ", r.Status)
	}
	d.skip(0)
	d.goOn()
	s := d.exception()
	if s.Exception.Code != breakSt || s.ProgramCounter != at || s.Exception.Address != at {
		t.Fatalf("%+v", s)
	}
	if r := s.DecodeReport(kdproto.MachineAMD64); r.Stream[0] != old || d.read(at, 1)[0] != old {
		t.Fatal("the breakpoint is still in the reported code")
	}
	if r := d.ask(kdproto.APIRestoreBreakPoint, 0, &kdproto.RestoreBreakPoint{Handle: 1}, nil); r.Status != fail {
		t.Fatal("it is gone from the table: ", r.Status)
	}
	d.step(int(s.Processor))
	if s = d.exception(); s.Exception.Code != stepSt || s.ProgramCounter <= at {
		t.Fatalf("step off the breakpoint: %+v", s)
	}
	// The whole table.
	var handles []uint32
	base := sym(t, m, "NtCreateFile") + 64
	for i := range 32 {
		b := kdproto.WriteBreakPoint{Address: base + uint64(i)}
		d.must(kdproto.APIWriteBreakPoint, 0, &b, nil)
		handles = append(handles, b.Handle)
	}
	if r := d.ask(kdproto.APIWriteBreakPoint, 0, &kdproto.WriteBreakPoint{Address: base + 100}, nil); r.Status != fail {
		t.Fatal("a 33rd: ", r.Status)
	}
	for _, h := range handles {
		d.must(kdproto.APIRestoreBreakPoint, 0, &kdproto.RestoreBreakPoint{Handle: h}, nil)
	}
	for _, h := range []uint32{0, 1, 33, 0xFFFFFFFF} {
		if r := d.ask(kdproto.APIRestoreBreakPoint, 0, &kdproto.RestoreBreakPoint{Handle: h}, nil); r.Status != fail {
			t.Errorf("handle %d: %v", h, r.Status)
		}
	}
	// Many in one request.
	var e []byte
	for i := range 3 {
		e = le.AppendUint64(e, base+uint64(i))
		e = le.AppendUint64(e, 0)
	}
	r := d.must(kdproto.APIWriteBreakPointEx, 0, &kdproto.BreakPointEx{Count: 3}, e)
	if len(r.Data) != 48 || le.Uint32(r.Data[8:]) != 1 || le.Uint32(r.Data[40:]) != 3 {
		t.Fatalf("%x", r.Data)
	}
	d.must(kdproto.APIRestoreBreakPointEx, 0, &kdproto.BreakPointEx{Count: 3}, []byte{1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0})
}

// A breakpoint in memory that is not there waits for it.
func TestBreakpointOnAbsentPage(t *testing.T) {
	m, d := running(t, Config{})
	d.breakIn()
	next := m.b.next
	b := kdproto.WriteBreakPoint{Address: next + 0x1000}
	d.must(kdproto.APIWriteBreakPoint, 0, &b, nil)
	d.skip(0)
	d.goOn()
	l := m.LoadDriver("sample.sys")
	s := d.stop()
	if s.Kind != kdproto.StateLoadSymbols || s.LoadSymbols.Base != next || s.LoadSymbols.Unload || s.Path() != `\SystemRoot\System32\drivers\sample.sys` {
		t.Fatalf("%+v %q", s, s.Path())
	}
	if got := d.read(next+0x1000, 1)[0]; got != 0xCC {
		t.Fatalf("the breakpoint did not come with its page: %x", got)
	}
	d.must(kdproto.APIRestoreBreakPoint, 0, &kdproto.RestoreBreakPoint{Handle: b.Handle}, nil)
	d.goOn()
	go func() { l.Wait(d.ctx); m.UnloadDriver("sample.sys") }()
	s = d.stop()
	if s.Kind != kdproto.StateLoadSymbols || !s.LoadSymbols.Unload || s.LoadSymbols.Base != next {
		t.Fatalf("%+v", s)
	}
	d.goOn()
	d.breakIn()
	if n := le.Uint32(d.read(sym(t, m, "MmLastUnloadedDriver"), 4)); n != 1 {
		t.Fatal("unloaded drivers: ", n)
	}
	for _, n := range d.list(sym(t, m, "PsLoadedModuleList"), 0x58) {
		if n == "sample.sys" {
			t.Fatal("still in the list")
		}
	}
	if got := strings.Join(d.prints, ""); !strings.Contains(got, "sample: loaded at") || !strings.Contains(got, "sample: unloaded") {
		t.Fatal(d.prints)
	}
}

func TestDataBreakpoint(t *testing.T) {
	m, d := running(t, Config{})
	d.breakIn()
	v := sym(t, m, "SimWatchedVariable")
	for n := range 2 {
		q := kdproto.Memory{Address: 2, Count: specialSize}
		sp := d.must(kdproto.APIReadControlSpace, n, &q, nil).Data
		le.PutUint64(sp[spDr0:], v)
		le.PutUint64(sp[spDr7:], 0xD0401)
		q = kdproto.Memory{Address: 2, Count: specialSize}
		d.must(kdproto.APIWriteControlSpace, n, &q, sp)
	}
	d.skip(0)
	d.send(kdproto.APIContinue2, 0, &kdproto.Continue2{Machine: kdproto.MachineAMD64, Status: kdproto.DbgContinue, Dr7: 0xD0401, SymbolStart: 1}, nil)
	m.Watch(0x77)
	s := d.exception()
	r := s.DecodeReport(kdproto.MachineAMD64)
	if s.Exception.Code != stepSt || r.Dr6&0xF != 1 || r.Dr7 != 0xD0401 || le.Uint32(d.read(v, 4)) != 0x77 {
		t.Fatalf("%v dr6 %#x dr7 %#x, value %x", s.Exception.Code, r.Dr6, r.Dr7, d.read(v, 4))
	}
	// An execute breakpoint, and going on from it.
	f := sym(t, m, "RtlFibonacci")
	for n := range 2 {
		q := kdproto.Memory{Address: 2, Count: specialSize}
		sp := d.must(kdproto.APIReadControlSpace, n, &q, nil).Data
		le.PutUint64(sp[spDr0:], f)
		d.must(kdproto.APIWriteControlSpace, n, &q, sp)
	}
	for range 3 {
		d.send(kdproto.APIContinue2, 0, &kdproto.Continue2{Machine: kdproto.MachineAMD64, Status: kdproto.DbgContinue, Dr7: 0x401, SymbolStart: 1}, nil)
		s = d.exception()
		if r := s.DecodeReport(kdproto.MachineAMD64); s.ProgramCounter != f || r.Dr6&0xF != 1 {
			t.Fatalf("at %#x, want %#x; dr6 %#x", s.ProgramCounter, f, r.Dr6)
		}
	}
	// Cleared for every processor by Continue2.
	d.goOn()
	d.breakIn()
	for n := range 2 {
		if c, _ := m.CPU(n); c.DR[7] != 0x400 {
			t.Errorf("processor %d: dr7 %#x", n, c.DR[7])
		}
	}
}

func TestSwitchProcessor(t *testing.T) {
	m, d := running(t, Config{})
	s := d.breakIn()
	if s.Processor != 0 {
		t.Fatalf("break-in on processor %d", s.Processor)
	}
	d.skip(0)
	d.send(kdproto.APISwitchProcessor, 1, nil, nil)
	s = d.stop()
	c1, _ := m.CPU(1)
	if s.Processor != 1 || s.Exception.Code != kdproto.StatusWakeSystemDebugger || s.ProgramCounter != c1.RIP {
		t.Fatalf("%+v, processor 1 is at %#x", s, c1.RIP)
	}
	for _, n := range []int{1, 17} {
		d.send(kdproto.APISwitchProcessor, n, nil, nil)
		if s = d.stop(); s.Processor != 1 {
			t.Fatalf("switch to %d: %+v", n, s)
		}
	}
	// Stepping the other processor: the first one reports once more, then it steps.
	d.step(1)
	if s = d.stop(); s.Processor != 0 || s.Exception.Code != breakSt {
		t.Fatalf("%+v", s)
	}
	d.goOn()
	if s = d.stop(); s.Processor != 1 || s.Exception.Code != stepSt {
		t.Fatalf("%+v", s)
	}
	d.goOn()
}

func TestBugCheck(t *testing.T) {
	m, d := running(t, Config{})
	m.BugCheck(0xD1, 1, 2, 3, 4)
	s := d.exception()
	status := func() uint64 {
		c, _ := m.CPU(int(s.Processor))
		return c.R[cpu.RCX]
	}
	text := strings.Join(d.prints, "")
	if s.ProgramCounter != sym(t, m, "DbgBreakPointWithStatus") || status() != 3 ||
		!strings.Contains(text, "*** Fatal System Error: 0x000000d1") || !strings.Contains(text, "0x0000000000000004") {
		t.Fatalf("%+v, status %d, %q", s, status(), text)
	}
	p := d.read(sym(t, m, "KiBugCheckData"), 40)
	for i, want := range []uint64{0xD1, 1, 2, 3, 4} {
		if le.Uint64(p[8*i:]) != want {
			t.Fatalf("KiBugCheckData %x", p)
		}
	}
	for range 3 { // and again at every continue
		d.skip(int(s.Processor))
		d.goOn()
		if s = d.exception(); status() != 4 {
			t.Fatalf("%+v, status %d", s, status())
		}
	}
	d.send(kdproto.APIReboot, 0, nil, nil)
	if s, fresh := d.freshStop(); !fresh || s.Kind != kdproto.StateLoadSymbols || s.Path() != "ntoskrnl.exe" {
		t.Fatalf("after the reboot: %v %+v", fresh, s)
	}
	if n := m.Stats().Boots; n != 2 {
		t.Fatal(n)
	}
}

func TestCauseBugCheck(t *testing.T) {
	m, d := running(t, Config{AutoReboot: true})
	d.breakIn()
	d.prints = nil
	d.send(kdproto.APICauseBugCheck, 0, nil, nil)
	s := d.exception()
	c, _ := m.CPU(int(s.Processor))
	if c.R[cpu.RCX] != 4 || d.u64(sym(t, m, "KiBugCheckData")) != 0xE2 || len(d.prints) != 0 {
		t.Fatalf("%+v, status %d, %q", s, c.R[cpu.RCX], d.prints)
	}
	d.skip(int(s.Processor))
	d.goOn()
	if s, fresh := d.freshStop(); !fresh || s.Path() != "ntoskrnl.exe" {
		t.Fatalf("no reboot: %+v", s)
	}
}

func TestExceptions(t *testing.T) {
	m, d := running(t, Config{})
	d.breakIn()
	// Handled: first chance only with the global flag.
	d.skip(0)
	d.goOn()
	l := m.SafeCopy(0x1000)
	if err := l.Wait(d.ctx); err == nil || !strings.Contains(err.Error(), "0xC0000005") {
		t.Fatal(err)
	}
	d.breakIn()
	q := kdproto.Memory{Address: sym(t, m, "NtGlobalFlag"), Count: 4}
	d.must(kdproto.APIWriteVirtualMemory, 0, &q, []byte{1, 0, 0, 0})
	d.skip(0)
	d.goOn()
	l = m.SafeCopy(0x1000)
	s := d.exception()
	if e := s.Exception; e.Code != kdproto.StatusAccessViolation || !e.FirstChance || e.NumberParameters != 2 || e.Information[0] != 0 || e.Information[1] != 0x1000 {
		t.Fatalf("%+v", s)
	}
	d.send(kdproto.APIContinue2, 0, &kdproto.Continue2{Machine: kdproto.MachineAMD64, Status: kdproto.DbgExceptionNotHandled, Dr7: 0x400}, nil)
	if err := l.Wait(d.ctx); err == nil {
		t.Fatal("the handler did not run")
	}
	// int 2Ch, int3 in a driver.
	m.Assert()
	s = d.exception()
	if s.Exception.Code != kdproto.StatusAssertionFailure || s.ProgramCounter != sym(t, m, "KiRaiseAssertionHere") {
		t.Fatalf("%+v", s)
	}
	d.skip(int(s.Processor))
	d.skip(int(s.Processor))
	d.goOn()
	m.Break()
	for range 3 { // stays on it until the debugger moves on
		if s = d.exception(); s.Exception.Code != breakSt || s.ProgramCounter != sym(t, m, "DbgBreakPoint") {
			t.Fatalf("%+v", s)
		}
		d.goOn()
	}
	s = d.exception()
	d.skip(int(s.Processor))
	d.goOn()
	// Nobody handles it: second chance, then the bug check.
	m.RaiseAccessViolation(0x2000, true)
	s = d.exception()
	if e := s.Exception; e.Code != kdproto.StatusAccessViolation || !e.FirstChance || e.Information[0] != 1 || e.Information[1] != 0x2000 {
		t.Fatalf("%+v", s)
	}
	no := &kdproto.Continue{Status: kdproto.DbgExceptionNotHandled}
	d.send(kdproto.APIContinue, 0, no, nil)
	if s = d.exception(); s.Exception.FirstChance || s.Exception.Code != kdproto.StatusAccessViolation {
		t.Fatalf("%+v", s)
	}
	d.send(kdproto.APIContinue, 0, no, nil)
	s = d.exception()
	p := d.read(sym(t, m, "KiBugCheckData"), 40)
	if s.Exception.Code != breakSt || le.Uint64(p) != 0x1E || le.Uint64(p[8:]) != 0xFFFFFFFFC0000005 || le.Uint64(p[24:]) != 1 || le.Uint64(p[32:]) != 0x2000 {
		t.Fatalf("%+v %x", s, p)
	}
}

func TestPrintPromptCommand(t *testing.T) {
	m, d := running(t, Config{})
	if err := m.Print("0000iiiibb\n").Wait(d.ctx); err != nil {
		t.Fatal(err)
	}
	answer := make(chan string, 1)
	go func() {
		a, err := m.Prompt(d.ctx, "sure (yn)? ")
		if err != nil {
			a = err.Error()
		}
		answer <- a
	}()
	typ, p, _ := d.receive()
	io, err := kdproto.DecodeDebugIO(p)
	if typ != kdproto.TypeDebugIO || err != nil || io.API != kdproto.APIGetString || string(io.Text) != "sure (yn)? " {
		t.Fatalf("%v %+v", typ, io)
	}
	if err := d.h.Send(d.ctx, kdproto.TypeDebugIO, kdproto.NewAnswer([]byte("why")).Append(nil)); err != nil {
		t.Fatal(err)
	}
	m.CommandString("sim", ".echo hello")
	s := d.stop()
	if name, text := s.Command(); s.Kind != kdproto.StateCommandString || name != "sim" || text != ".echo hello" {
		t.Fatalf("%+v", s)
	}
	d.goOn()
	if a := <-answer; a != "why" {
		t.Fatalf("answer %q", a)
	}
	if !strings.Contains(strings.Join(d.prints, ""), "0000iiiibb\n") {
		t.Fatal(d.prints)
	}
}

// The rows of the late-attach matrix.
func TestLateAttach(t *testing.T) {
	quick := Config{LinkTimeout: 5 * time.Millisecond}
	t.Run("booted without a host", func(t *testing.T) {
		m := start(t, quick)
		for m.Stats().Instructions < 200000 {
			time.Sleep(time.Millisecond)
		}
		var not [1]byte
		if m.ReadVirtual(sym(t, m, "KdDebuggerNotPresent"), not[:]); not[0] != 1 {
			t.Fatal("the kernel believes in a debugger")
		}
		d := attach(t, m)
		if err := d.h.BreakIn(); err != nil {
			t.Fatal(err)
		}
		s, fresh := d.freshStop()
		if !fresh || s.Exception.Code != breakSt || s.NumberProcessors != 2 {
			t.Fatalf("%v %+v", fresh, s)
		}
		if d.read(sym(t, m, "KdDebuggerNotPresent"), 1)[0] != 0 {
			t.Fatal("the kernel does not believe in a debugger")
		}
	})
	t.Run("crashed without a host", func(t *testing.T) {
		m := start(t, quick)
		for m.Stats().Instructions < 200000 {
			time.Sleep(time.Millisecond)
		}
		m.BugCheck(0xC4)
		time.Sleep(30 * time.Millisecond)
		d := attach(t, m)
		s, fresh := d.freshStop()
		if !fresh || s.Exception.Code != breakSt || d.u64(sym(t, m, "KiBugCheckData")) != 0xC4 {
			t.Fatalf("%v %+v", fresh, s)
		}
	})
	t.Run("host died at the prompt", func(t *testing.T) {
		m, d := running(t, Config{})
		d.breakIn()
		d.leave()
		d = attach(t, m)
		if err := d.h.Resync(); err != nil {
			t.Fatal(err)
		}
		if s := d.stop(); s.Exception.Code != breakSt {
			t.Fatalf("%+v", s)
		}
		d.u64(sym(t, m, "KeTickCount"))
	})
	t.Run("host died at the prompt, break-in byte", func(t *testing.T) {
		m, d := running(t, Config{})
		d.breakIn()
		d.leave()
		d = attach(t, m)
		if err := d.h.BreakIn(); err != nil {
			t.Fatal(err)
		}
		if s := d.stop(); s.Exception.Code != breakSt {
			t.Fatalf("%+v", s)
		}
	})
	t.Run("host died while it ran and printed", func(t *testing.T) {
		m, d := running(t, Config{LinkTimeout: 5 * time.Millisecond})
		d.leave()
		if err := m.Print("anybody?\n").Wait(context.Background()); err != nil {
			t.Fatal(err)
		}
		d = attach(t, m)
		if err := d.h.BreakIn(); err != nil {
			t.Fatal(err)
		}
		if s, fresh := d.freshStop(); !fresh || s.Exception.Code != breakSt {
			t.Fatalf("%v %+v", fresh, s)
		}
	})
	t.Run("host died while it ran in silence", func(t *testing.T) {
		m, d := running(t, Config{})
		d.leave()
		d = attach(t, m)
		if s := d.breakIn(); s.Exception.Code != breakSt {
			t.Fatalf("%+v", s)
		}
		d.u64(sym(t, m, "KeTickCount"))
	})
	t.Run("rebooted under the host", func(t *testing.T) {
		m, d := running(t, Config{})
		m.Reboot()
		s := d.stop()
		if !s.LoadSymbols.AllUnloaded() {
			t.Fatalf("%+v", s)
		}
		d.goOn()
		s, fresh := d.freshStop()
		if !fresh || s.Path() != "ntoskrnl.exe" {
			t.Fatalf("%v %+v", fresh, s)
		}
		m.Reset() // stopped as it is
		if s, fresh = d.freshStop(); !fresh || s.Path() != "ntoskrnl.exe" || m.Stats().Boots != 3 {
			t.Fatalf("%v %+v", fresh, s)
		}
	})
}

func TestReactOSQuirks(t *testing.T) {
	_, d := running(t, Config{Quirks: QuirksReactOS})
	s := d.breakIn()
	if s.Exception.Address != s.ProgramCounter+1 {
		t.Fatalf("%+v", s.Exception)
	}
	var v kdproto.Version
	d.must(kdproto.APIGetVersion, 0, &v, nil)
	if v.Major != 0x0C || v.Minor != 3790 || v.Flags != 7 {
		t.Fatalf("%+v", v)
	}
	q := kdproto.Memory{Address: 2, Count: 8}
	if r := d.must(kdproto.APIReadControlSpace, 0, &q, nil); len(r.Data) != 216 || q.Actual != 216 {
		t.Fatal(len(r.Data), q.Actual)
	}
	before := len(d.prints)
	for i, api := range []kdproto.API{kdproto.APISearchMemory, kdproto.APIFillMemory, kdproto.APIGetBusData, kdproto.APICheckLowMemory} {
		if r := d.ask(api, 0, nil, nil); r.Status != fail || len(d.prints) != before+i+1 {
			t.Errorf("%v: %v, %d prints", api, r.Status, len(d.prints)-before)
		}
	}
	d.skip(0)
	d.step(0)
	if s = d.exception(); s.DecodeReport(kdproto.MachineAMD64).EFlags&cpu.FlagTF == 0 {
		t.Error("no TF after a step")
	}
}

func TestInternalBreakpoint(t *testing.T) {
	m, d := running(t, Config{})
	d.breakIn()
	a := sym(t, m, "RtlChecksumTable")
	d.must(kdproto.APISetInternalBreakPoint, 0, &kdproto.InternalBreakPoint{Address: a, Flags: 1}, nil)
	d.skip(0)
	d.goOn()
	items := func() uint64 {
		var p [8]byte
		m.ReadVirtual(sym(t, m, "ExpWorkItemCount"), p[:])
		return le.Uint64(p[:])
	}
	for from := items(); items() < from+20; {
		time.Sleep(time.Millisecond)
	}
	d.breakIn()
	b := kdproto.InternalBreakPoint{Address: a}
	if d.must(kdproto.APIGetInternalBreakPoint, 0, &b, nil); b.Calls < 5 || b.Flags != 1 {
		t.Fatalf("%+v", b)
	}
	d.send(kdproto.APIClearAllInternalBreakpoints, 0, nil, nil)
	if r := d.ask(kdproto.APIGetInternalBreakPoint, 0, &b, nil); r.Status != fail || d.read(a, 1)[0] == 0xCC {
		t.Fatal(r.Status)
	}
}

func TestTwoMachines(t *testing.T) {
	m1, d1 := running(t, Config{Seed: 1})
	m2, d2 := running(t, Config{Seed: 2, Processors: 4})
	d1.breakIn()
	s := d2.breakIn()
	a1, a2 := sym(t, m1, "KeTickCount"), sym(t, m2, "KeTickCount")
	if a1 == a2 || s.NumberProcessors != 4 {
		t.Fatal("the machines share something")
	}
	d1.goOn()
	if v := le.Uint64(d2.read(a2, 8)); v == 0 {
		t.Fatal("no ticks")
	}
	var p [1]byte
	if m2.ReadVirtual(a1, p[:]) != 0 {
		t.Fatal("one machine's kernel is mapped in the other")
	}
}

func TestManyProcessorsAndModules(t *testing.T) {
	m, d := running(t, Config{Processors: 64, Modules: 200})
	s := d.breakIn()
	if s.NumberProcessors != 64 {
		t.Fatal(s.NumberProcessors)
	}
	if l := d.list(sym(t, m, "PsLoadedModuleList"), 0x58); len(l) != 204 {
		t.Fatal(len(l))
	}
	c := d.must(kdproto.APIGetContext, 63, nil, nil).Data
	if o, _ := m.CPU(63); le.Uint64(c[ctxRip:]) != o.RIP {
		t.Fatal("context of processor 63")
	}
}

func TestConfigErrors(t *testing.T) {
	for _, c := range []Config{{Processors: 65}, {Processors: -1}, {Modules: -1}, {Modules: 5000}, {Memory: 1}, {Quirks: "beos"}} {
		if _, err := New(c); err == nil || !strings.HasPrefix(err.Error(), "sim: ") {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

func TestServeAfterTheEnd(t *testing.T) {
	m, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := m.Run(ctx); err != nil {
		t.Fatal(err)
	}
	a, b := net.Pipe()
	defer a.Close()
	if err := m.Serve(context.Background(), b); err == nil {
		t.Fatal("served by a machine that is off")
	}
	if err := m.Run(ctx); err == nil {
		t.Fatal("a second Run")
	}
	if err := m.Print("x").Wait(context.Background()); err == nil {
		t.Fatal("a print by a machine that is off")
	}
}

// The same boot meets the same breakpoint in the same state.
func TestDeterminism(t *testing.T) {
	cfg := Config{Seed: 5, BootTime: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), BreakAtBoot: true}
	var first []byte
	for i, tick := range []time.Duration{time.Millisecond, 3 * time.Millisecond} {
		cfg.Tick = tick
		m := start(t, cfg)
		d := attach(t, m)
		d.exception()
		d.must(kdproto.APIWriteBreakPoint, 0, &kdproto.WriteBreakPoint{Address: sym(t, m, "MmZeroPageThread")}, nil)
		d.must(kdproto.APIWriteBreakPoint, 0, &kdproto.WriteBreakPoint{Address: sym(t, m, "openkd!OpenkdDispatchRead")}, nil)
		d.skip(0)
		d.goOn()
		d.exception()
		d.goOn()
		s := d.exception()
		state := d.must(kdproto.APIGetContext, int(s.Processor), nil, nil).Data
		state = append(state, d.read(sharedVA, 0x330)...)
		if i == 0 {
			first = state
		} else if !bytes.Equal(first, state) {
			t.Fatal("two boots of the same machine differ")
		}
	}
}

func TestDriversComeAndGo(t *testing.T) {
	_, d := running(t, Config{Drivers: 100 * time.Millisecond})
	for i := range 4 {
		s := d.stop()
		if s.Kind != kdproto.StateLoadSymbols || s.LoadSymbols.Unload != (i%2 == 1) || !strings.HasSuffix(s.Path(), "sample.sys") {
			t.Fatalf("%+v %q", s, s.Path())
		}
		d.goOn()
	}
}
