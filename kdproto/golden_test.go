package kdproto

import (
	"bytes"
	"encoding/hex"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// unhex reads hex with blanks.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func same(t testing.TB, what string, got, want []byte) {
	t.Helper()
	if !bytes.Equal(got, want) {
		t.Errorf("%s:\n got %x\nwant %x", what, got, want)
	}
}

// TestKnownBytes are whole packets as they stand on a wire.
func TestKnownBytes(t *testing.T) {
	version := NewRequest(APIGetVersion, 0, nil, nil)
	read := NewRequest(APIReadVirtualMemory, 0, &Memory{Address: 0xfffff80000000000, Count: 0x40}, nil)
	for _, c := range []struct {
		name string
		got  []byte
		want string
	}{
		{"RESET", AppendControl(nil, TypeReset, 0), "69696969 0600 0000 00000000 00000000"},
		{"ACK", AppendControl(nil, TypeAcknowledge, InitialID), "69696969 0400 0000 00008080 00000000"},
		{"RESEND", AppendControl(nil, TypeResend, 0), "69696969 0500 0000 00000000 00000000"},
		{"GetVersion", AppendData(nil, TypeManipulate, InitialID, version.Append(nil)),
			"30303030 0200 3800 00008080 7b000000 46310000 0000 0000 03010000" + strings.Repeat("00", 44) + "aa"},
		{"ReadVirtualMemory", AppendData(nil, TypeManipulate, InitialID^1, read.Append(nil)),
			"30303030 0200 3800 01008080 9b030000 30310000 0000 0000 03010000 00000000 0000000000f8ffff 40000000 00000000" + strings.Repeat("00", 24) + "aa"},
		{"first print", AppendData(nil, TypeDebugIO, FirstID, NewPrint([]byte("hello\n")).Append(nil)),
			"30303030 0300 1600 00088080 86020000 30320000 0000 0000 06000000 00000000 68656c6c6f0a aa"},
		{"empty payload", AppendData(nil, TypeUnused, InitialID, nil), "30303030 0000 0000 00008080 00000000 aa"},
		{"appended", AppendControl([]byte{1, 2}, TypeReset, 0xDEADBEEF), "0102 69696969 0600 0000 efbeadde 00000000"},
	} {
		same(t, c.name, c.got, unhex(t, c.want))
	}
}

func TestHeader(t *testing.T) {
	b := unhex(t, "30303030 0b00 a00f 00088080 78563412")
	want := Header{DataLeader, TypeFileIO, MaxPayload, FirstID, 0x12345678}
	h, err := DecodeHeader(append(b, 0xEE))
	if err != nil || h != want {
		t.Fatalf("%+v, %v", h, err)
	}
	same(t, "header", h.Append(nil), b)
	if _, err := DecodeHeader(b[:15]); !errors.Is(err, ErrShort) {
		t.Errorf("15 bytes: %v", err)
	}
}

func TestTooLongPayloadPanics(t *testing.T) {
	AppendData(nil, TypeManipulate, 0, make([]byte, MaxPayload))
	defer func() {
		if recover() == nil {
			t.Error("4001 bytes went into a packet")
		}
	}()
	AppendData(nil, TypeManipulate, 0, make([]byte, MaxPayload+1))
}

func TestChecksum(t *testing.T) {
	if s := Checksum(bytes.Repeat([]byte{0xFF}, MaxPayload)); s != 4000*255 {
		t.Error(s)
	}
	if s := Checksum(nil); s != 0 {
		t.Error(s)
	}
}

// TestConstants pins the numbers that are the protocol.
func TestConstants(t *testing.T) {
	for _, c := range [][2]int{
		{HeaderSize, 16}, {MaxPayload, 4000}, {ManipulateSize, 56}, {MaxTransfer, 3944}, {StateChangeSize, 240},
		{MaxFileRead, 3936}, {TraceIOSize, 64}, {ControlRequestSize, 12}, {UnionSize, 40},
		{int(TypeStateChange64), 7}, {int(TypeStateChange32), 1}, {int(TypeManipulate), 2}, {int(TypeDebugIO), 3},
		{int(TypeAcknowledge), 4}, {int(TypeResend), 5}, {int(TypeReset), 6}, {int(TypePollBreakIn), 8},
		{int(TypeTraceIO), 9}, {int(TypeControlRequest), 10}, {int(TypeFileIO), 11}, {int(TypeMax), 12},
		{InitialID, 0x80800000}, {FirstID, 0x80800800}, {int(APIMax), 0x3161},
	} {
		if c[0] != c[1] {
			t.Errorf("%#x, want %#x", c[0], c[1])
		}
	}
	for typ, n := range map[PacketType]int{TypeManipulate: 56, TypeDebugIO: 16, TypeStateChange64: 240, TypeTraceIO: 64,
		TypeControlRequest: 12, TypeFileIO: 64, TypeStateChange32: 0, TypeAcknowledge: 0} {
		if got := typ.MessageHeaderSize(); got != n {
			t.Errorf("%v begins with %d bytes, want %d", typ, got, n)
		}
	}
	// Every number between the first and the last request has a name.
	for a := APIReadVirtualMemory; a < APIMax; a++ {
		if named := !strings.HasPrefix(a.String(), "API("); named != (a < 0x314A || a >= 0x3150) {
			t.Errorf("%#x is called %v", uint32(a), a)
		}
	}
	silent := map[API]bool{APIContinue: true, APIContinue2: true, APIReboot: true, APICauseBugCheck: true,
		APISwitchProcessor: true, APIClearAllInternalBreakpoints: true}
	for a := APIReadVirtualMemory; a < APIMax; a++ {
		if a.HasReply() == silent[a] {
			t.Errorf("%v.HasReply() = %v", a, a.HasReply())
		}
	}
	for s, failed := range map[Status]bool{StatusSuccess: false, StatusPending: false, DbgContinue: false,
		DbgExceptionHandled: false, DbgExceptionNotHandled: true, StatusUnsuccessful: true, StatusNoMoreEntries: true} {
		if s.Failed() != failed {
			t.Errorf("%v.Failed() = %v", s, !failed)
		}
	}
	if n, a := TypeFileIO.String(), TypeMax.String(); n != "FileIO" || a != "PacketType(12)" {
		t.Error(n, a)
	}
	if s := StatusNoSuchFile.String(); s != "0xC000000F" {
		t.Error(s)
	}
}

// bodies are all manipulate bodies with their bytes in the union; "--" is a
// byte that the body does not own.
var bodies = []struct {
	name string
	body Body
	want string
}{
	{"Memory", &Memory{0x1122334455667788, 0x99AABBCC, 0xDDEEFF01}, "8877665544332211 ccbbaa99 01ffeedd"},
	{"ContextFlags", &ContextFlags{0x0010001F}, "1f001000"},
	{"ContextEx", &ContextEx{0x01020304, 0x05060708, 0x090A0B0C}, "04030201 08070605 0c0b0a09"},
	{"WriteBreakPoint", &WriteBreakPoint{0xfffff80319e4ca60, 32}, "60cae41903f8ffff 20000000"},
	{"RestoreBreakPoint", &RestoreBreakPoint{0x20}, "20000000"},
	{"Continue", &Continue{DbgExceptionNotHandled}, "01000180"},
	{"Continue2 x86", &Continue2{MachineI386, DbgContinue, true, 0x00000401, 1, 0x80400000},
		"02000100 01000000 01040000 01000000 00004080"},
	{"Continue2 x64", &Continue2{MachineAMD64, DbgExceptionHandled, false, 0x400, 1, 0xfffff80000000001},
		"01000100 00000000 0004000000000000 0100000000000000 01000000 00f8ffff"},
	{"Continue2 ARM64", &Continue2{Machine: MachineARM64, Status: DbgContinue, Trace: true}, "02000100 01000000"},
	{"IoSpace", &IoSpace{0x3F8, 1, 0x62}, "f803000000000000 01000000 62000000"},
	{"IoSpaceExtended", &IoSpaceExtended{4, 1, 2, 3, 0x1122334455667788, 0x99AABBCC},
		"04000000 01000000 02000000 03000000 8877665544332211 ccbbaa99"},
	{"SpecialCalls", &SpecialCalls{7}, "07000000"},
	{"SpecialCall", &SpecialCall{0x1122334455667788}, "8877665544332211"},
	{"InternalBreakPoint", &InternalBreakPoint{0x1122334455667788, 1, 2, 3, 4, 5, 6},
		"8877665544332211 01000000 02000000 03000000 04000000 05000000 06000000"},
	{"BreakPointEx", &BreakPointEx{2, DbgContinue}, "02000000 02000100"},
	{"Msr", &Msr{0xC0000080, 0x1122334455667788}, "800000c0 88776655 44332211"},
	{"SearchMemory", &SearchMemory{0x1122334455667788, 0x1000000000, 4}, "8877665544332211 0000000010000000 04000000"},
	{"BusData", &BusData{4, 1, 0x22, 0x10, 0x100}, "04000000 01000000 22000000 10000000 00010000"},
	{"FillMemory", &FillMemory{0x1122334455667788, 0x1000, 2, 0x0403}, "8877665544332211 00100000 0200 0304"},
	{"QueryMemory", &QueryMemory{0x1122334455667788, 0x99, 2, 0xD}, "8877665544332211 9900000000000000 02000000 0d000000"},
	{"SwitchPartition", &SwitchPartition{1}, "01000000"},
	{"CustomBreakpoint", &CustomBreakpoint{0x1122334455667788, 0xCC, 3, 1, 8}, "8877665544332211 cc00000000000000 03000000 01 08"},
	// Windows 8.1 x64.
	{"Version", &Version{Major: 0x000F, Minor: 9600, Protocol: 6, SecondaryVersion: 2, Flags: 7, Machine: MachineAMD64,
		MaxPacketType: 12, MaxStateChange: 3, MaxManipulate: 0x31, Simulation: 0,
		KernBase: 0xfffff80000400000, PsLoadedModuleList: 0xfffff800006c2d50, DebuggerDataList: 0xfffff800006c9530},
		"0f00 8025 06 02 0700 6486 0c 03 31 00 ---- 0000400000f8ffff 502d6c0000f8ffff 30956c0000f8ffff"},
}

func TestBodies(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range bodies {
		seen[reflect.TypeOf(c.body).Elem().Name()] = true
		want := strings.Join(strings.Fields(c.want), "")
		want += strings.Repeat("--", UnionSize-len(want)/2)
		for _, fill := range []byte{0x00, 0xEE} {
			var u [UnionSize]byte
			for i := range u {
				u[i] = fill
			}
			c.body.Put(&u)
			filled := strings.ReplaceAll(want, "--", hex.EncodeToString([]byte{fill}))
			same(t, c.name, u[:], unhex(t, filled))

			got := reflect.New(reflect.TypeOf(c.body).Elem()).Interface().(Body)
			if c2, ok := got.(*Continue2); ok {
				c2.Machine = c.body.(*Continue2).Machine
			}
			got.Get(&u)
			if !reflect.DeepEqual(got, c.body) {
				t.Errorf("%s: Get gives %+v, want %+v", c.name, got, c.body)
			}
		}
	}
	if len(seen) != len(bodies)-2 { // Continue2 comes three times
		t.Errorf("%d body types of %d entries", len(seen), len(bodies))
	}
}

func TestManipulate(t *testing.T) {
	m := Manipulate{API: APIReadVirtualMemory, ProcessorLevel: 6, Processor: 3, Status: StatusUnsuccessful, Data: []byte{1, 2}}
	for i := range m.Union {
		m.Union[i] = byte(i)
	}
	want := unhex(t, "30310000 0600 0300 010000c0 00000000"+
		"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2021222324252627 0102")
	same(t, "encode", m.Append(nil), want)
	got, err := DecodeManipulate(want)
	if err != nil || !reflect.DeepEqual(got, m) {
		t.Fatalf("%+v, %v", got, err)
	}
	if _, err := DecodeManipulate(want[:55]); !errors.Is(err, ErrShort) {
		t.Error(err)
	}
	if r := NewRequest(APIGetContext, 5, nil, nil); r.Status != StatusPending || r.Processor != 5 || len(r.Append(nil)) != 56 {
		t.Errorf("%+v", r)
	}
}

func TestStateChanges(t *testing.T) {
	head := func(kind string) string {
		return kind + " 0600 0200 04000000 00000000 0010000080f8ffff a04c16000ff8ffff"
	}
	base := StateChange{ProcessorLevel: 6, Processor: 2, NumberProcessors: 4, Thread: 0xfffff88000001000, ProgramCounter: 0xfffff80f00164ca0}
	exception, load, command := base, base, base
	exception.Kind = StateException
	exception.Exception = Exception{Code: StatusAccessViolation, Flags: 1, Record: 2, Address: 3, NumberParameters: 2, FirstChance: true}
	exception.Exception.Information[0], exception.Exception.Information[1] = 1, 0xfffff800deadbeef
	exception.Exception.Information[14] = 0xE
	exception.Data = []byte{1, 0, 0, 0}
	load.Kind, load.Alternate = StateLoadSymbols, true
	load.LoadSymbols = LoadSymbols{PathLength: 6, Base: 0xfffff80000400000, ProcessID: 1<<64 - 1, CheckSum: 0x11223344, SizeOfImage: 0x889000, Unload: true}
	load.Data = []byte("a.sys\x00")
	command.Kind, command.CommandFlag, command.Data = StateCommandString, 9, []byte("name\x00!analyze\x00")
	command.Report[0], command.Report[47] = 1, 2
	zero := func(n int) string { return strings.Repeat("00", n) }
	for _, c := range []struct {
		name string
		s    StateChange
		want string
	}{
		{"exception", exception, head("30300000") + "050000c0 01000000 0200000000000000 0300000000000000 02000000 00000000" +
			"0100000000000000 efbeadde00f8ffff" + zero(96) + "0e00000000000000 01000000 00000000" + zero(48) + "01000000"},
		{"load", load, head("31300100") + "06000000 00000000 0000400000f8ffff ffffffffffffffff 44332211 00908800 01" + zero(127) + zero(48) + "612e73797300"},
		{"command", command, head("32300000") + "09000000" + zero(156) + "01" + zero(46) + "02" + "6e616d6500 21616e616c797a6500"},
	} {
		want := unhex(t, c.want)
		same(t, c.name, c.s.Append(nil), want)
		got, err := DecodeStateChange(want)
		if err != nil || !reflect.DeepEqual(got, c.s) {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
		if _, err := DecodeStateChange(want[:239]); !errors.Is(err, ErrShort) {
			t.Error(err)
		}
	}
	if p := load.Path(); p != "a.sys" {
		t.Errorf("path %q", p)
	}
	load.LoadSymbols.PathLength = 3
	if p := load.Path(); p != "a.s" {
		t.Errorf("path of 3 bytes %q", p)
	}
	load.LoadSymbols.PathLength = 1 << 31
	if p := load.Path(); p != "a.sys" {
		t.Errorf("path of 2 GiB %q", p)
	}
	if n, x := command.Command(); n != "name" || x != "!analyze" {
		t.Errorf("%q %q", n, x)
	}
	if p := command.Path(); p != "" {
		t.Errorf("a command's path %q", p)
	}
	if n, x := load.Command(); n != "" || x != "" {
		t.Errorf("a report's command %q %q", n, x)
	}
	if !(&LoadSymbols{Unload: true, Base: 1<<64 - 1}).AllUnloaded() || load.LoadSymbols.AllUnloaded() {
		t.Error("AllUnloaded")
	}
	unknown := (&StateChange{Kind: 0x3040}).Append(nil)
	if _, err := DecodeStateChange(unknown); err == nil {
		t.Error("a state change of unknown kind was read")
	}
}

func TestReports(t *testing.T) {
	stream := unhex(t, "cc 90 0f05 48 89 5c24 08 48 89 7424 10 57 cc")
	full := ControlReport{Dr6: 0xffff0ff0, Dr7: 0x400, EFlags: 0x246, Flags: 3, Stream: stream, SegCs: 0x10, SegDs: 0x2b, SegEs: 0x2c, SegFs: 0x53}
	for _, c := range []struct {
		m    Machine
		r    ControlReport
		want string
	}{
		{MachineI386, full, "f00fffff 00040000 1000 0300 cc900f0548895c240848897424105" + "7cc 1000 2b00 2c00 5300 46020000 0000000000000000"},
		{MachineAMD64, full, "f00fffff00000000 0004000000000000 46020000 1000 0300 cc900f0548895c2408488974241057cc 1000 2b00 2c00 5300"},
		{MachineARM64, ControlReport{Dr6: 1, Dr7: 2, Stream: stream[:4]}, "0100000000000000 0200000000000000 04000000 cc900f05" + strings.Repeat("00", 24)},
	} {
		s := StateChange{Kind: StateException}
		s.EncodeReport(c.m, c.r)
		same(t, c.m.String(), s.Report[:], unhex(t, c.want))
		if got := s.DecodeReport(c.m); !reflect.DeepEqual(got, c.r) {
			t.Errorf("%v: %+v, want %+v", c.m, got, c.r)
		}
		// A count that is too big does not reach over the stream.
		for i := range s.Report {
			s.Report[i] = 0xFF
		}
		if got := s.DecodeReport(c.m); len(got.Stream) != 16 {
			t.Errorf("%v: %d stream bytes", c.m, len(got.Stream))
		}
	}
}

func TestStateChange32(t *testing.T) {
	s := StateChange32{Kind: StateException, Processor: 1, NumberProcessors: 2, Thread: 0x80112233, PC: 0x80400001, Code: StatusBreakpoint, FirstChance: true}
	b := s.Append(nil)
	want := unhex(t, "30300000 0000 0100 02000000 33221180 01004080 03000080"+strings.Repeat("00", 76)+"01000000")
	same(t, "32-bit", b, want)
	if got, err := DecodeStateChange32(b); err != nil || got != s {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := DecodeStateChange32(b[:103]); !errors.Is(err, ErrShort) {
		t.Error(err)
	}
}

func TestDebugIO(t *testing.T) {
	for _, c := range []struct {
		name string
		d    *DebugIO
		want string
	}{
		{"print", NewPrint([]byte("hi\n")), "30320000 0000 0000 03000000 00000000 68690a"},
		{"prompt", NewPrompt([]byte("(boipt)? "), 2), "31320000 0000 0000 09000000 02000000 28626f697074293f20"},
		{"answer", NewAnswer([]byte("b")), "31320000 0000 0000 00000000 01000000 62"},
	} {
		want := unhex(t, c.want)
		same(t, c.name, c.d.Append(nil), want)
		if got, err := DecodeDebugIO(want); err != nil || !reflect.DeepEqual(&got, c.d) {
			t.Errorf("%s: %+v, %v", c.name, got, err)
		}
	}
	long := NewPrint([]byte("hi\n"))
	long.Length = 2
	if d, _ := DecodeDebugIO(long.Append(nil)); string(d.Text) != "hi" {
		t.Errorf("%q", d.Text)
	}
	long.Length = 1 << 31
	if d, _ := DecodeDebugIO(long.Append(nil)); string(d.Text) != "hi\n" {
		t.Errorf("%q", d.Text)
	}
	if _, err := DecodeDebugIO(make([]byte, 15)); !errors.Is(err, ErrShort) {
		t.Error(err)
	}
}

func TestTraceAndControl(t *testing.T) {
	tr := TraceIO{API: APIPrintTrace, ProcessorLevel: 1, Processor: 2, Length: 3, Data: []byte("abc")}
	want := unhex(t, "30330000 0100 0200 03000000"+strings.Repeat("00", 52)+"616263")
	same(t, "trace", tr.Append(nil), want)
	if got, err := DecodeTraceIO(want); err != nil || !reflect.DeepEqual(got, tr) {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := DecodeTraceIO(want[:63]); !errors.Is(err, ErrShort) {
		t.Error(err)
	}
	c := ControlRequest{APIReleaseHWBreak, 3, 1}
	want = unhex(t, "01430000 03000000 01000000")
	same(t, "control", c.Append(nil), want)
	if got, err := DecodeControlRequest(want); err != nil || got != c {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := DecodeControlRequest(want[:11]); !errors.Is(err, ErrShort) {
		t.Error(err)
	}
}

func TestFileIO(t *testing.T) {
	f := NewFileCreate(`\x.sys`)
	want := unhex(t, "30340000 00000000 89001200 80000000 01000000 01000000"+strings.Repeat("00", 40)+
		"5c00 7800 2e00 7300 7900 7300 0000")
	same(t, "create", f.Append(nil), want)
	got, err := DecodeFileIO(want)
	if err != nil || !reflect.DeepEqual(&got, f) || got.Name() != `\x.sys` {
		t.Errorf("%+v, %q, %v", got, got.Name(), err)
	}
	if n := NewFileCreate("\\😀ä").Name(); n != "\\😀ä" {
		t.Errorf("%q", n)
	}
	got.Data = got.Data[:5]
	if got.Name() != `\x` {
		t.Errorf("a name cut in the middle: %q", got.Name())
	}
	same(t, "refusal", f.Refusal().Append(nil), append(unhex(t, "30340000 0f0000c0"), want[8:64]...))

	read := unhex(t, "31340000 00000000 8877665544332211 0010000000000000 600f0000"+strings.Repeat("00", 36))
	r, err := DecodeFileIO(read)
	if err != nil || r.Handle() != 0x1122334455667788 || r.Offset() != 0x1000 || r.Count() != 3936 || r.Count() != MaxFileRead {
		t.Errorf("%x %x %d, %v", r.Handle(), r.Offset(), r.Count(), err)
	}
	if _, err := DecodeFileIO(read[:63]); !errors.Is(err, ErrShort) {
		t.Error(err)
	}
}

func TestMachines(t *testing.T) {
	for m, want := range map[Machine]string{MachineI386: "x86 4", MachineAMD64: "x64 8", MachineARM64: "ARM64 8", MachineARMNT: "ARM 4", 0x1C0: "machine 0x1c0 4", 7: "machine 0x7 0"} {
		if got := m.String() + " " + string(rune('0'+m.PointerSize())); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
