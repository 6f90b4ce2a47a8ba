package kdproto

import (
	"fmt"
	"unicode/utf16"
)

// Sizes of the fixed headers in this file.
const (
	DebugIOSize        = 16
	TraceIOSize        = 64
	ControlRequestSize = 12
	FileIOSize         = 64
	MaxFileRead        = MaxPayload - FileIOSize // 3936 bytes of one file-read answer
)

// Numbers of DEBUG_IO, TRACE_IO, CONTROL_REQUEST and FILE_IO packets.
const (
	APIPrintString    = 0x3230
	APIGetString      = 0x3231
	APIPrintTrace     = 0x3330
	APIFileCreate     = 0x3430
	APIFileRead       = 0x3431
	APIFileWrite      = 0x3432
	APIFileClose      = 0x3433
	APIRequestHWBreak = 0x4300
	APIReleaseHWBreak = 0x4301
)

// DebugIO is a DEBUG_IO packet: a print, a prompt, or the answer to a prompt.
//
//	@0  u32 API
//	@4  u16 ProcessorLevel
//	@6  u16 Processor
//	@8  u32 print: bytes of text; prompt: bytes of prompt text
//	@12 u32 prompt: longest answer in bytes; answer: its length
//	@16     Text, 8-bit, not NUL-terminated by contract
type DebugIO struct {
	API            uint32
	ProcessorLevel uint16
	Processor      uint16
	Length         uint32
	MaxAnswer      uint32
	Text           []byte
}

// Append appends the payload.
func (d *DebugIO) Append(b []byte) []byte {
	b = le.AppendUint32(b, d.API)
	b = le.AppendUint16(b, d.ProcessorLevel)
	b = le.AppendUint16(b, d.Processor)
	b = le.AppendUint32(b, d.Length)
	b = le.AppendUint32(b, d.MaxAnswer)
	return append(b, d.Text...)
}

// NewPrint is a print of text.
func NewPrint(text []byte) *DebugIO {
	return &DebugIO{API: APIPrintString, Length: uint32(len(text)), Text: text}
}

// NewPrompt is a prompt that accepts an answer of at most maxAnswer bytes.
func NewPrompt(text []byte, maxAnswer uint32) *DebugIO {
	return &DebugIO{API: APIGetString, Length: uint32(len(text)), MaxAnswer: maxAnswer, Text: text}
}

// NewAnswer is the host's answer to a prompt.
func NewAnswer(text []byte) *DebugIO {
	return &DebugIO{API: APIGetString, MaxAnswer: uint32(len(text)), Text: text}
}

// DecodeDebugIO reads a DEBUG_IO payload. Text aliases b. That of a print is
// cut to the stated length where that is shorter than what is there; that of a
// prompt or an answer is what is there.
func DecodeDebugIO(b []byte) (DebugIO, error) {
	if len(b) < DebugIOSize {
		return DebugIO{}, fmt.Errorf("debug I/O packet of %d bytes, want at least %d: %w", len(b), DebugIOSize, ErrShort)
	}
	d := DebugIO{
		API: le.Uint32(b[0:]), ProcessorLevel: le.Uint16(b[4:]), Processor: le.Uint16(b[6:]),
		Length: le.Uint32(b[8:]), MaxAnswer: le.Uint32(b[12:]), Text: b[DebugIOSize:],
	}
	if d.API == APIPrintString && uint64(d.Length) < uint64(len(d.Text)) {
		d.Text = d.Text[:d.Length]
	}
	return d, nil
}

// TraceIO is a TRACE_IO packet (64-byte header); it is only acknowledged.
//
//	@0 u32 API, @4 u16 ProcessorLevel, @6 u16 Processor, @8 u32 Length, @64 Data
type TraceIO struct {
	API                       uint32
	ProcessorLevel, Processor uint16
	Length                    uint32
	Data                      []byte
}

// Append appends the payload.
func (t *TraceIO) Append(b []byte) []byte {
	var h [TraceIOSize]byte
	le.PutUint32(h[0:], t.API)
	le.PutUint16(h[4:], t.ProcessorLevel)
	le.PutUint16(h[6:], t.Processor)
	le.PutUint32(h[8:], t.Length)
	return append(append(b, h[:]...), t.Data...)
}

// DecodeTraceIO reads a TRACE_IO payload. Data aliases b.
func DecodeTraceIO(b []byte) (TraceIO, error) {
	if len(b) < TraceIOSize {
		return TraceIO{}, fmt.Errorf("trace packet of %d bytes, want at least %d: %w", len(b), TraceIOSize, ErrShort)
	}
	return TraceIO{le.Uint32(b[0:]), le.Uint16(b[4:]), le.Uint16(b[6:]), le.Uint32(b[8:]), b[TraceIOSize:]}, nil
}

// ControlRequest is a CONTROL_REQUEST packet: code in the target wants a
// hardware breakpoint.
//
//	@0 u32 API, @4 u32 Number, @8 u32 Result  (available or released; answer)
type ControlRequest struct{ API, Number, Result uint32 }

// Append appends the payload.
func (c *ControlRequest) Append(b []byte) []byte {
	b = le.AppendUint32(b, c.API)
	b = le.AppendUint32(b, c.Number)
	return le.AppendUint32(b, c.Result)
}

// DecodeControlRequest reads a CONTROL_REQUEST payload.
func DecodeControlRequest(b []byte) (ControlRequest, error) {
	if len(b) < ControlRequestSize {
		return ControlRequest{}, fmt.Errorf("control request of %d bytes, want at least %d: %w", len(b), ControlRequestSize, ErrShort)
	}
	return ControlRequest{le.Uint32(b[0:]), le.Uint32(b[4:]), le.Uint32(b[8:])}, nil
}

// FileIO is a FILE_IO packet; the target asks, the host answers with a packet
// of the same layout.
//
//	@0  u32 API
//	@4  u32 Status (answer)
//	create: u32 Access @8, u32 Attributes @12, u32 Share @16, u32 Disposition @20,
//	        u32 Options @24, u64 Handle @32 (answer), u64 Length @40 (answer),
//	        @64 name, UTF-16LE with NUL
//	read, write: u64 Handle @8, u64 Offset @16, u32 Count @24, @64 file bytes
//	close:  u64 Handle @8
//
// The 56-byte union is kept as it came, since unused parts hold garbage that
// an answer echoes; the accessors read and write the fields.
type FileIO struct {
	API    uint32
	Status Status
	Union  [56]byte
	Data   []byte
}

// Append appends the payload.
func (f *FileIO) Append(b []byte) []byte {
	b = le.AppendUint32(b, f.API)
	b = le.AppendUint32(b, uint32(f.Status))
	b = append(b, f.Union[:]...)
	return append(b, f.Data...)
}

// DecodeFileIO reads a FILE_IO payload. Data aliases b.
func DecodeFileIO(b []byte) (FileIO, error) {
	if len(b) < FileIOSize {
		return FileIO{}, fmt.Errorf("file I/O packet of %d bytes, want at least %d: %w", len(b), FileIOSize, ErrShort)
	}
	f := FileIO{API: le.Uint32(b[0:]), Status: Status(le.Uint32(b[4:])), Data: b[FileIOSize:]}
	copy(f.Union[:], b[8:])
	return f, nil
}

// Name is the file name of a create request.
func (f *FileIO) Name() string {
	u := make([]uint16, 0, len(f.Data)/2)
	for i := 0; i+1 < len(f.Data); i += 2 {
		c := le.Uint16(f.Data[i:])
		if c == 0 {
			break
		}
		u = append(u, c)
	}
	return string(utf16.Decode(u))
}

// NewFileCreate is a target's create request for reading a file.
func NewFileCreate(name string) *FileIO {
	f := &FileIO{API: APIFileCreate}
	le.PutUint32(f.Union[0:], 0x120089) // DesiredAccess: generic read
	le.PutUint32(f.Union[4:], 0x80)     // FileAttributes: normal
	le.PutUint32(f.Union[8:], 1)        // ShareAccess: read
	le.PutUint32(f.Union[12:], 1)       // CreateDisposition: open
	for _, c := range append(utf16.Encode([]rune(name)), 0) {
		f.Data = le.AppendUint16(f.Data, c)
	}
	return f
}

// Handle is the handle of a read, write or close request.
func (f *FileIO) Handle() uint64 { return le.Uint64(f.Union[0:]) }

// Offset is the file offset in bytes of a read or write request.
func (f *FileIO) Offset() uint64 { return le.Uint64(f.Union[8:]) }

// Count is the byte count of a read or write request.
func (f *FileIO) Count() uint32 { return le.Uint32(f.Union[16:]) }

// Refusal is the answer "no such file" to any request of the target: the
// header as it came with Status 0xC000000F. A host without files must still
// answer, since an unanswered create blocks the boot.
func (f *FileIO) Refusal() *FileIO {
	return &FileIO{API: f.API, Status: StatusNoSuchFile, Union: f.Union}
}
