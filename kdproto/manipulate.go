package kdproto

import "fmt"

// Sizes of the manipulate packet.
const (
	ManipulateSize = 56                          // fixed header, union included
	UnionSize      = 40                          // API specific part of the header
	MaxTransfer    = MaxPayload - ManipulateSize // 3944 bytes of bulk data in one request or reply
)

// API is the number of a manipulate request.
type API uint32

// Manipulate requests. Those marked "no reply" are answered by the link-level
// acknowledgement only.
const (
	APIReadVirtualMemory           API = 0x3130
	APIWriteVirtualMemory          API = 0x3131
	APIGetContext                  API = 0x3132
	APISetContext                  API = 0x3133
	APIWriteBreakPoint             API = 0x3134
	APIRestoreBreakPoint           API = 0x3135
	APIContinue                    API = 0x3136 // no reply
	APIReadControlSpace            API = 0x3137
	APIWriteControlSpace           API = 0x3138
	APIReadIoSpace                 API = 0x3139
	APIWriteIoSpace                API = 0x313A
	APIReboot                      API = 0x313B // no reply
	APIContinue2                   API = 0x313C // no reply
	APIReadPhysicalMemory          API = 0x313D
	APIWritePhysicalMemory         API = 0x313E
	APIQuerySpecialCalls           API = 0x313F
	APISetSpecialCall              API = 0x3140
	APIClearSpecialCalls           API = 0x3141
	APISetInternalBreakPoint       API = 0x3142 // sources differ on the reply
	APIGetInternalBreakPoint       API = 0x3143
	APIReadIoSpaceExtended         API = 0x3144
	APIWriteIoSpaceExtended        API = 0x3145
	APIGetVersion                  API = 0x3146
	APIWriteBreakPointEx           API = 0x3147 // never sent by us: may continue the target
	APIRestoreBreakPointEx         API = 0x3148 // never sent by us
	APICauseBugCheck               API = 0x3149 // no reply
	APISwitchProcessor             API = 0x3150 // no reply, a state change follows
	APIPageIn                      API = 0x3151 // obsolete
	APIReadMsr                     API = 0x3152
	APIWriteMsr                    API = 0x3153
	APIOldVlm1                     API = 0x3154 // obsolete
	APIOldVlm2                     API = 0x3155 // obsolete
	APISearchMemory                API = 0x3156
	APIGetBusData                  API = 0x3157
	APISetBusData                  API = 0x3158
	APICheckLowMemory              API = 0x3159
	APIClearAllInternalBreakpoints API = 0x315A // no reply
	APIFillMemory                  API = 0x315B
	APIQueryMemory                 API = 0x315C
	APISwitchPartition             API = 0x315D
	APIWriteCustomBreakpoint       API = 0x315E
	APIGetContextEx                API = 0x315F
	APISetContextEx                API = 0x3160
	APIMax                         API = 0x3161
)

var apiNames = map[API]string{
	APIReadVirtualMemory: "ReadVirtualMemory", APIWriteVirtualMemory: "WriteVirtualMemory",
	APIGetContext: "GetContext", APISetContext: "SetContext",
	APIWriteBreakPoint: "WriteBreakPoint", APIRestoreBreakPoint: "RestoreBreakPoint",
	APIContinue: "Continue", APIReadControlSpace: "ReadControlSpace",
	APIWriteControlSpace: "WriteControlSpace", APIReadIoSpace: "ReadIoSpace",
	APIWriteIoSpace: "WriteIoSpace", APIReboot: "Reboot", APIContinue2: "Continue2",
	APIReadPhysicalMemory: "ReadPhysicalMemory", APIWritePhysicalMemory: "WritePhysicalMemory",
	APIQuerySpecialCalls: "QuerySpecialCalls", APISetSpecialCall: "SetSpecialCall",
	APIClearSpecialCalls: "ClearSpecialCalls", APISetInternalBreakPoint: "SetInternalBreakPoint",
	APIGetInternalBreakPoint: "GetInternalBreakPoint", APIReadIoSpaceExtended: "ReadIoSpaceExtended",
	APIWriteIoSpaceExtended: "WriteIoSpaceExtended", APIGetVersion: "GetVersion",
	APIWriteBreakPointEx: "WriteBreakPointEx", APIRestoreBreakPointEx: "RestoreBreakPointEx",
	APICauseBugCheck: "CauseBugCheck", APISwitchProcessor: "SwitchProcessor", APIPageIn: "PageIn",
	APIReadMsr: "ReadMsr", APIWriteMsr: "WriteMsr", APIOldVlm1: "OldVlm1", APIOldVlm2: "OldVlm2",
	APISearchMemory: "SearchMemory", APIGetBusData: "GetBusData", APISetBusData: "SetBusData",
	APICheckLowMemory: "CheckLowMemory", APIClearAllInternalBreakpoints: "ClearAllInternalBreakpoints",
	APIFillMemory: "FillMemory", APIQueryMemory: "QueryMemory", APISwitchPartition: "SwitchPartition",
	APIWriteCustomBreakpoint: "WriteCustomBreakpoint", APIGetContextEx: "GetContextEx",
	APISetContextEx: "SetContextEx",
}

func (a API) String() string {
	if n, ok := apiNames[a]; ok {
		return n
	}
	return fmt.Sprintf("API(%#x)", uint32(a))
}

// HasReply reports whether a target answers the request with a manipulate
// packet of the same number.
func (a API) HasReply() bool {
	switch a {
	case APIContinue, APIContinue2, APIReboot, APICauseBugCheck, APISwitchProcessor,
		APIClearAllInternalBreakpoints:
		return false
	}
	return true
}

// Manipulate is a manipulate packet; request and reply share one layout.
//
//	@0  u32 API
//	@4  u16 ProcessorLevel  ignored in requests, echoed in replies
//	@6  u16 Processor       whose registers or control space are meant
//	@8  u32 Status          ignored in requests, NTSTATUS in replies
//	@12 u32 padding
//	@16     Union           40 bytes, see the Body types
//	@56     Data
//
// Processor selects a register file, never an address space: memory is served
// in the address space of the processor that reported the stop.
type Manipulate struct {
	API            API
	ProcessorLevel uint16
	Processor      uint16
	Status         Status
	Union          [UnionSize]byte
	Data           []byte
}

// Append appends the packet's payload to b.
func (m *Manipulate) Append(b []byte) []byte {
	b = le.AppendUint32(b, uint32(m.API))
	b = le.AppendUint16(b, m.ProcessorLevel)
	b = le.AppendUint16(b, m.Processor)
	b = le.AppendUint32(b, uint32(m.Status))
	b = le.AppendUint32(b, 0)
	b = append(b, m.Union[:]...)
	return append(b, m.Data...)
}

// DecodeManipulate reads a manipulate payload. Data aliases b.
func DecodeManipulate(b []byte) (Manipulate, error) {
	if len(b) < ManipulateSize {
		return Manipulate{}, fmt.Errorf("manipulate packet of %d bytes, want at least %d: %w", len(b), ManipulateSize, ErrShort)
	}
	m := Manipulate{
		API:            API(le.Uint32(b[0:])),
		ProcessorLevel: le.Uint16(b[4:]),
		Processor:      le.Uint16(b[6:]),
		Status:         Status(le.Uint32(b[8:])),
		Data:           b[ManipulateSize:],
	}
	copy(m.Union[:], b[16:])
	return m, nil
}

// Body is the API specific part of a manipulate packet: one of the types in
// this file. Put overwrites only the union bytes the body owns (Windows echoes
// the rest of the request in its reply); Get reads them.
type Body interface {
	Put(u *[UnionSize]byte)
	Get(u *[UnionSize]byte)
}

// NewRequest makes a request for a processor from its number, body (nil for
// none) and data. ReturnStatus is STATUS_PENDING, as WinDbg sends it.
func NewRequest(api API, processor uint16, body Body, data []byte) *Manipulate {
	m := &Manipulate{API: api, Processor: processor, Status: StatusPending, Data: data}
	if body != nil {
		body.Put(&m.Union)
	}
	return m
}

// Memory is the body of Read/WriteVirtualMemory, Read/WritePhysicalMemory and
// Read/WriteControlSpace.
//
//	U+0  u64 Address  virtual, physical, or control-space selector or offset
//	U+8  u32 Count    bytes asked for
//	U+12 u32 Actual   reply: bytes done; physical request: cache attribute
//	                  (0 default, 1 cached, 2 uncached, 3 write combined)
type Memory struct {
	Address uint64
	Count   uint32
	Actual  uint32
}

// Put implements Body.
func (r *Memory) Put(u *[UnionSize]byte) {
	le.PutUint64(u[0:], r.Address)
	le.PutUint32(u[8:], r.Count)
	le.PutUint32(u[12:], r.Actual)
}

// Get implements Body.
func (r *Memory) Get(u *[UnionSize]byte) {
	*r = Memory{le.Uint64(u[0:]), le.Uint32(u[8:]), le.Uint32(u[12:])}
}

// ContextFlags is the body of GetContext (unused by targets) and SetContext.
//
//	U+0 u32 Flags
type ContextFlags struct{ Flags uint32 }

// Put implements Body.
func (r *ContextFlags) Put(u *[UnionSize]byte) { le.PutUint32(u[0:], r.Flags) }

// Get implements Body.
func (r *ContextFlags) Get(u *[UnionSize]byte) { r.Flags = le.Uint32(u[0:]) }

// ContextEx is the body of GetContextEx and SetContextEx.
//
//	U+0 u32 Offset  into the CONTEXT record
//	U+4 u32 Count   bytes asked for
//	U+8 u32 Copied  reply: bytes done; SetContextEx request: total size staged
type ContextEx struct{ Offset, Count, Copied uint32 }

// Put implements Body.
func (r *ContextEx) Put(u *[UnionSize]byte) {
	le.PutUint32(u[0:], r.Offset)
	le.PutUint32(u[4:], r.Count)
	le.PutUint32(u[8:], r.Copied)
}

// Get implements Body.
func (r *ContextEx) Get(u *[UnionSize]byte) {
	*r = ContextEx{le.Uint32(u[0:]), le.Uint32(u[4:]), le.Uint32(u[8:])}
}

// WriteBreakPoint is the body of WriteBreakPoint. Handles are 1..32.
//
//	U+0 u64 Address
//	U+8 u32 Handle   reply
type WriteBreakPoint struct {
	Address uint64
	Handle  uint32
}

// Put implements Body.
func (r *WriteBreakPoint) Put(u *[UnionSize]byte) {
	le.PutUint64(u[0:], r.Address)
	le.PutUint32(u[8:], r.Handle)
}

// Get implements Body.
func (r *WriteBreakPoint) Get(u *[UnionSize]byte) {
	*r = WriteBreakPoint{le.Uint64(u[0:]), le.Uint32(u[8:])}
}

// RestoreBreakPoint is the body of RestoreBreakPoint.
//
//	U+0 u32 Handle
type RestoreBreakPoint struct{ Handle uint32 }

// Put implements Body.
func (r *RestoreBreakPoint) Put(u *[UnionSize]byte) { le.PutUint32(u[0:], r.Handle) }

// Get implements Body.
func (r *RestoreBreakPoint) Get(u *[UnionSize]byte) { r.Handle = le.Uint32(u[0:]) }

// Continue is the body of Continue.
//
//	U+0 u32 Status
type Continue struct{ Status Status }

// Put implements Body.
func (r *Continue) Put(u *[UnionSize]byte) { le.PutUint32(u[0:], uint32(r.Status)) }

// Get implements Body.
func (r *Continue) Get(u *[UnionSize]byte) { r.Status = Status(le.Uint32(u[0:])) }

// Continue2 is the body of Continue2; its control set is packed to 4 bytes and
// differs by machine.
//
//	U+0 u32 Status
//	U+4 u32 Trace    1: run one instruction
//	x86: u32 Dr7 @8, u32 SymbolStart @12, u32 SymbolEnd @16
//	x64: u64 Dr7 @8, u64 SymbolStart @16, u64 SymbolEnd @24
//	ARM64: Trace only; zeros else (sources differ on the width of the rest)
//
// Dr7 is written to every processor: 0 erases all processor breakpoints, 0x400
// is "none active". SymbolStart 1 means "leave the trace range unchanged".
type Continue2 struct {
	Machine                Machine // layout; not on the wire
	Status                 Status
	Trace                  bool
	Dr7                    uint64
	SymbolStart, SymbolEnd uint64
}

// Put implements Body.
func (r *Continue2) Put(u *[UnionSize]byte) {
	le.PutUint32(u[0:], uint32(r.Status))
	var t uint32
	if r.Trace {
		t = 1
	}
	le.PutUint32(u[4:], t)
	switch r.Machine {
	case MachineI386:
		le.PutUint32(u[8:], uint32(r.Dr7))
		le.PutUint32(u[12:], uint32(r.SymbolStart))
		le.PutUint32(u[16:], uint32(r.SymbolEnd))
	case MachineAMD64:
		le.PutUint64(u[8:], r.Dr7)
		le.PutUint64(u[16:], r.SymbolStart)
		le.PutUint64(u[24:], r.SymbolEnd)
	}
}

// Get implements Body; the receiver's Machine chooses the layout.
func (r *Continue2) Get(u *[UnionSize]byte) {
	r.Status = Status(le.Uint32(u[0:]))
	r.Trace = le.Uint32(u[4:]) != 0
	switch r.Machine {
	case MachineI386:
		r.Dr7 = uint64(le.Uint32(u[8:]))
		r.SymbolStart = uint64(le.Uint32(u[12:]))
		r.SymbolEnd = uint64(le.Uint32(u[16:]))
	case MachineAMD64:
		r.Dr7 = le.Uint64(u[8:])
		r.SymbolStart = le.Uint64(u[16:])
		r.SymbolEnd = le.Uint64(u[24:])
	}
}

// IoSpace is the body of Read/WriteIoSpace.
//
//	U+0  u64 Port   aligned to Size
//	U+8  u32 Size   1, 2 or 4 bytes
//	U+12 u32 Value  read: reply; write: request
type IoSpace struct {
	Port        uint64
	Size, Value uint32
}

// Put implements Body.
func (r *IoSpace) Put(u *[UnionSize]byte) {
	le.PutUint64(u[0:], r.Port)
	le.PutUint32(u[8:], r.Size)
	le.PutUint32(u[12:], r.Value)
}

// Get implements Body.
func (r *IoSpace) Get(u *[UnionSize]byte) {
	*r = IoSpace{le.Uint64(u[0:]), le.Uint32(u[8:]), le.Uint32(u[12:])}
}

// IoSpaceExtended is the body of Read/WriteIoSpaceExtended.
//
//	U+0  u32 Size
//	U+4  u32 Interface  1 = ISA
//	U+8  u32 Bus
//	U+12 u32 Space      1 = I/O
//	U+16 u64 Address
//	U+24 u32 Value
type IoSpaceExtended struct {
	Size, Interface, Bus, Space uint32
	Address                     uint64
	Value                       uint32
}

// Put implements Body.
func (r *IoSpaceExtended) Put(u *[UnionSize]byte) {
	le.PutUint32(u[0:], r.Size)
	le.PutUint32(u[4:], r.Interface)
	le.PutUint32(u[8:], r.Bus)
	le.PutUint32(u[12:], r.Space)
	le.PutUint64(u[16:], r.Address)
	le.PutUint32(u[24:], r.Value)
}

// Get implements Body.
func (r *IoSpaceExtended) Get(u *[UnionSize]byte) {
	*r = IoSpaceExtended{le.Uint32(u[0:]), le.Uint32(u[4:]), le.Uint32(u[8:]), le.Uint32(u[12:]), le.Uint64(u[16:]), le.Uint32(u[24:])}
}

// SpecialCalls is the body of QuerySpecialCalls' reply.
//
//	U+0 u32 Count
type SpecialCalls struct{ Count uint32 }

// Put implements Body.
func (r *SpecialCalls) Put(u *[UnionSize]byte) { le.PutUint32(u[0:], r.Count) }

// Get implements Body.
func (r *SpecialCalls) Get(u *[UnionSize]byte) { r.Count = le.Uint32(u[0:]) }

// SpecialCall is the body of SetSpecialCall.
//
//	U+0 u64 Address
type SpecialCall struct{ Address uint64 }

// Put implements Body.
func (r *SpecialCall) Put(u *[UnionSize]byte) { le.PutUint64(u[0:], r.Address) }

// Get implements Body.
func (r *SpecialCall) Get(u *[UnionSize]byte) { r.Address = le.Uint64(u[0:]) }

// InternalBreakPoint is the body of Set/GetInternalBreakPoint (call counting).
//
//	U+0  u64 Address
//	U+8  u32 Flags      1 count only, 2 invalid, 4 suspended, 8 dying
//	U+12 u32 Calls, U+16 u32 MaxCallsPerPeriod, U+20 u32 MinInstructions,
//	U+24 u32 MaxInstructions, U+28 u32 TotalInstructions (reply of Get)
type InternalBreakPoint struct {
	Address                          uint64
	Flags, Calls, MaxCallsPerPeriod  uint32
	MinInstructions, MaxInstructions uint32
	TotalInstructions                uint32
}

// Put implements Body.
func (r *InternalBreakPoint) Put(u *[UnionSize]byte) {
	le.PutUint64(u[0:], r.Address)
	for i, v := range [...]uint32{r.Flags, r.Calls, r.MaxCallsPerPeriod, r.MinInstructions, r.MaxInstructions, r.TotalInstructions} {
		le.PutUint32(u[8+4*i:], v)
	}
}

// Get implements Body.
func (r *InternalBreakPoint) Get(u *[UnionSize]byte) {
	*r = InternalBreakPoint{le.Uint64(u[0:]), le.Uint32(u[8:]), le.Uint32(u[12:]), le.Uint32(u[16:]), le.Uint32(u[20:]), le.Uint32(u[24:]), le.Uint32(u[28:])}
}

// BreakPointEx is the body of Write/RestoreBreakPointEx. Its data is Count
// entries of 16 bytes (address u64, handle u32, padding), or of u32 handles.
//
//	U+0 u32 Count
//	U+4 u32 Status  continue status
type BreakPointEx struct {
	Count  uint32
	Status Status
}

// Put implements Body.
func (r *BreakPointEx) Put(u *[UnionSize]byte) {
	le.PutUint32(u[0:], r.Count)
	le.PutUint32(u[4:], uint32(r.Status))
}

// Get implements Body.
func (r *BreakPointEx) Get(u *[UnionSize]byte) {
	*r = BreakPointEx{le.Uint32(u[0:]), Status(le.Uint32(u[4:]))}
}

// Msr is the body of Read/WriteMsr.
//
//	U+0 u32 Register
//	U+4 u32 low half, U+8 u32 high half of Value
type Msr struct {
	Register uint32
	Value    uint64
}

// Put implements Body.
func (r *Msr) Put(u *[UnionSize]byte) {
	le.PutUint32(u[0:], r.Register)
	le.PutUint32(u[4:], uint32(r.Value))
	le.PutUint32(u[8:], uint32(r.Value>>32))
}

// Get implements Body.
func (r *Msr) Get(u *[UnionSize]byte) {
	*r = Msr{le.Uint32(u[0:]), uint64(le.Uint32(u[4:])) | uint64(le.Uint32(u[8:]))<<32}
}

// SearchMemory is the body of SearchMemory; the pattern is the data.
//
//	U+0  u64 Address   request: start; reply: where it was found
//	U+8  u64 Length    bytes to search
//	U+16 u32 Pattern   length of the pattern in bytes
type SearchMemory struct {
	Address, Length uint64
	Pattern         uint32
}

// Put implements Body.
func (r *SearchMemory) Put(u *[UnionSize]byte) {
	le.PutUint64(u[0:], r.Address)
	le.PutUint64(u[8:], r.Length)
	le.PutUint32(u[16:], r.Pattern)
}

// Get implements Body.
func (r *SearchMemory) Get(u *[UnionSize]byte) {
	*r = SearchMemory{le.Uint64(u[0:]), le.Uint64(u[8:]), le.Uint32(u[16:])}
}

// BusData is the body of Get/SetBusData.
//
//	U+0 u32 Type  4 = PCI configuration; U+4 u32 Bus;
//	U+8 u32 Slot  device + 32*function; U+12 u32 Offset; U+16 u32 Length
type BusData struct{ Type, Bus, Slot, Offset, Length uint32 }

// Put implements Body.
func (r *BusData) Put(u *[UnionSize]byte) {
	for i, v := range [...]uint32{r.Type, r.Bus, r.Slot, r.Offset, r.Length} {
		le.PutUint32(u[4*i:], v)
	}
}

// Get implements Body.
func (r *BusData) Get(u *[UnionSize]byte) {
	*r = BusData{le.Uint32(u[0:]), le.Uint32(u[4:]), le.Uint32(u[8:]), le.Uint32(u[12:]), le.Uint32(u[16:])}
}

// FillMemory is the body of FillMemory; the pattern is the data.
//
//	U+0  u64 Address
//	U+8  u32 Length   bytes to fill; reply: bytes filled
//	U+12 u16 Flags    1 virtual, 2 physical
//	U+14 u16 Pattern  length of the pattern in bytes
type FillMemory struct {
	Address        uint64
	Length         uint32
	Flags, Pattern uint16
}

// Put implements Body.
func (r *FillMemory) Put(u *[UnionSize]byte) {
	le.PutUint64(u[0:], r.Address)
	le.PutUint32(u[8:], r.Length)
	le.PutUint16(u[12:], r.Flags)
	le.PutUint16(u[14:], r.Pattern)
}

// Get implements Body.
func (r *FillMemory) Get(u *[UnionSize]byte) {
	*r = FillMemory{le.Uint64(u[0:]), le.Uint32(u[8:]), le.Uint16(u[12:]), le.Uint16(u[14:])}
}

// QueryMemory is the body of QueryMemory.
//
//	U+0  u64 Address
//	U+8  u64 Reserved
//	U+16 u32 Space    request 0; reply 0 process, 1 session, 2 kernel
//	U+20 u32 Flags    reply: 1 read, 2 write, 4 execute, 8 fixed
type QueryMemory struct {
	Address, Reserved uint64
	Space, Flags      uint32
}

// Put implements Body.
func (r *QueryMemory) Put(u *[UnionSize]byte) {
	le.PutUint64(u[0:], r.Address)
	le.PutUint64(u[8:], r.Reserved)
	le.PutUint32(u[16:], r.Space)
	le.PutUint32(u[20:], r.Flags)
}

// Get implements Body.
func (r *QueryMemory) Get(u *[UnionSize]byte) {
	*r = QueryMemory{le.Uint64(u[0:]), le.Uint64(u[8:]), le.Uint32(u[16:]), le.Uint32(u[20:])}
}

// SwitchPartition is the body of SwitchPartition.
//
//	U+0 u32 Partition  0 default, 1 alternate
type SwitchPartition struct{ Partition uint32 }

// Put implements Body.
func (r *SwitchPartition) Put(u *[UnionSize]byte) { le.PutUint32(u[0:], r.Partition) }

// Get implements Body.
func (r *SwitchPartition) Get(u *[UnionSize]byte) { r.Partition = le.Uint32(u[0:]) }

// CustomBreakpoint is the body of WriteCustomBreakpoint.
//
//	U+0  u64 Address
//	U+8  u64 Instruction
//	U+16 u32 Handle
//	U+20 u8  Size, U+21 u8 Alignment
type CustomBreakpoint struct {
	Address, Instruction uint64
	Handle               uint32
	Size, Alignment      uint8
}

// Put implements Body.
func (r *CustomBreakpoint) Put(u *[UnionSize]byte) {
	le.PutUint64(u[0:], r.Address)
	le.PutUint64(u[8:], r.Instruction)
	le.PutUint32(u[16:], r.Handle)
	u[20], u[21] = r.Size, r.Alignment
}

// Get implements Body.
func (r *CustomBreakpoint) Get(u *[UnionSize]byte) {
	*r = CustomBreakpoint{le.Uint64(u[0:]), le.Uint64(u[8:]), le.Uint32(u[16:]), u[20], u[21]}
}

// Machine is an IMAGE_FILE_MACHINE value.
type Machine uint16

// Machines of the version block.
const (
	MachineI386  Machine = 0x014C
	MachineARMNT Machine = 0x01C4
	MachineAMD64 Machine = 0x8664
	MachineARM64 Machine = 0xAA64
)

// PointerSize is 4 or 8 bytes, and 0 for a machine this package does not know.
func (m Machine) PointerSize() int {
	switch m {
	case MachineI386, MachineARMNT, 0x1C0:
		return 4
	case MachineAMD64, MachineARM64:
		return 8
	}
	return 0
}

func (m Machine) String() string {
	switch m {
	case MachineI386:
		return "x86"
	case MachineARMNT:
		return "ARM"
	case MachineAMD64:
		return "x64"
	case MachineARM64:
		return "ARM64"
	}
	return fmt.Sprintf("machine %#x", uint16(m))
}

// Flags of the version block.
const (
	VersionMP        = 0x01 // multiprocessor kernel
	VersionData      = 0x02 // data block valid
	VersionPtr64     = 0x04 // 64-bit pointers; take Machine instead, the x64 boot debugger leaves it out
	VersionNoMM      = 0x08
	VersionHWStep    = 0x10
	VersionPartition = 0x20
	VersionHalInNtos = 0x40
)

// Version is the 40-byte version block, the union of a GetVersion reply.
//
//	U+0 u16 Major  high byte kind (0 NT, 4 boot debugger ...), low byte 0x0F free, 0x0C checked
//	U+2 u16 Minor  build number
//	U+4 u8 Protocol, U+5 u8 SecondaryVersion, U+6 u16 Flags, U+8 u16 Machine,
//	U+10 u8 MaxPacketType, U+11 u8 MaxStateChange, U+12 u8 MaxManipulate,
//	U+13 u8 Simulation, U+14 u16 unused,
//	U+16 u64 KernBase, U+24 u64 PsLoadedModuleList, U+32 u64 DebuggerDataList
type Version struct {
	Major, Minor                                             uint16
	Protocol, SecondaryVersion                               uint8
	Flags                                                    uint16
	Machine                                                  Machine
	MaxPacketType, MaxStateChange, MaxManipulate, Simulation uint8
	KernBase, PsLoadedModuleList, DebuggerDataList           uint64
}

// Put implements Body.
func (r *Version) Put(u *[UnionSize]byte) {
	le.PutUint16(u[0:], r.Major)
	le.PutUint16(u[2:], r.Minor)
	u[4], u[5] = r.Protocol, r.SecondaryVersion
	le.PutUint16(u[6:], r.Flags)
	le.PutUint16(u[8:], uint16(r.Machine))
	u[10], u[11], u[12], u[13] = r.MaxPacketType, r.MaxStateChange, r.MaxManipulate, r.Simulation
	le.PutUint64(u[16:], r.KernBase)
	le.PutUint64(u[24:], r.PsLoadedModuleList)
	le.PutUint64(u[32:], r.DebuggerDataList)
}

// Get implements Body.
func (r *Version) Get(u *[UnionSize]byte) {
	*r = Version{
		Major: le.Uint16(u[0:]), Minor: le.Uint16(u[2:]),
		Protocol: u[4], SecondaryVersion: u[5],
		Flags: le.Uint16(u[6:]), Machine: Machine(le.Uint16(u[8:])),
		MaxPacketType: u[10], MaxStateChange: u[11], MaxManipulate: u[12], Simulation: u[13],
		KernBase: le.Uint64(u[16:]), PsLoadedModuleList: le.Uint64(u[24:]), DebuggerDataList: le.Uint64(u[32:]),
	}
}
