package kdproto

import (
	"bytes"
	"fmt"
)

// StateChangeSize is the fixed part of a STATE_CHANGE64 payload, the same on
// x86, x64 and ARM64. Exceptions carry trace data behind it, symbol events a
// path, command strings two strings.
const StateChangeSize = 240

// StateKind is the NewState field without StateAlternate.
type StateKind uint32

// Kinds of state change.
const (
	StateException     StateKind = 0x3030
	StateLoadSymbols   StateKind = 0x3031
	StateCommandString StateKind = 0x3032

	StateAlternate = 0x10000 // OR-ed in: alternate source
)

// StateChange is a STATE_CHANGE64 record.
//
//	@0   u32 NewState
//	@4   u16 ProcessorLevel  CPU family
//	@6   u16 Processor       reporting processor
//	@8   u32 NumberProcessors
//	@16  u64 Thread          KTHREAD, 0 in the boot debugger
//	@24  u64 ProgramCounter  32-bit targets send addresses sign-extended
//	@32      union of Exception, LoadSymbols, CommandString
//	@192     control report, 48 bytes, see ControlReport
//	@240     Data
type StateChange struct {
	Kind             StateKind
	Alternate        bool
	ProcessorLevel   uint16
	Processor        uint16
	NumberProcessors uint32
	Thread           uint64
	ProgramCounter   uint64

	Exception   Exception   // Kind StateException
	LoadSymbols LoadSymbols // Kind StateLoadSymbols
	CommandFlag uint32      // Kind StateCommandString: @32 Flags

	Report [48]byte // control report, layout by machine
	Data   []byte   // trace data, path, or name and command
}

// Exception is the union of an exception report, EXCEPTION_RECORD64 and
// FirstChance.
//
//	@32  u32 Code, @36 u32 Flags (bit 0 noncontinuable), @40 u64 Record,
//	@48  u64 Address, @56 u32 NumberParameters, @64 u64 Information[15],
//	@184 u32 FirstChance
type Exception struct {
	Code             Status
	Flags            uint32
	Record, Address  uint64
	NumberParameters uint32
	Information      [15]uint64
	FirstChance      bool
}

// LoadSymbols is the union of a symbol load or unload report.
//
//	@32 u32 PathNameLength  with the final NUL; 0 no path
//	@40 u64 Base, @48 u64 ProcessID, @56 u32 CheckSum (PE optional header),
//	@60 u32 SizeOfImage, @64 u8 Unload
type LoadSymbols struct {
	PathLength            uint32
	Base, ProcessID       uint64
	CheckSum, SizeOfImage uint32
	Unload                bool
}

// AllUnloaded reports the special record "all symbols gone": the target is
// about to shut down, reboot or hand over to the next stage.
func (l *LoadSymbols) AllUnloaded() bool {
	return l.Unload && l.PathLength == 0 && l.Base == ^uint64(0)
}

// Append appends the payload of s to b.
func (s *StateChange) Append(b []byte) []byte {
	var r [StateChangeSize]byte
	k := uint32(s.Kind)
	if s.Alternate {
		k |= StateAlternate
	}
	le.PutUint32(r[0:], k)
	le.PutUint16(r[4:], s.ProcessorLevel)
	le.PutUint16(r[6:], s.Processor)
	le.PutUint32(r[8:], s.NumberProcessors)
	le.PutUint64(r[16:], s.Thread)
	le.PutUint64(r[24:], s.ProgramCounter)
	switch s.Kind {
	case StateException:
		e := &s.Exception
		le.PutUint32(r[32:], uint32(e.Code))
		le.PutUint32(r[36:], e.Flags)
		le.PutUint64(r[40:], e.Record)
		le.PutUint64(r[48:], e.Address)
		le.PutUint32(r[56:], e.NumberParameters)
		for i, v := range e.Information {
			le.PutUint64(r[64+8*i:], v)
		}
		if e.FirstChance {
			le.PutUint32(r[184:], 1)
		}
	case StateLoadSymbols:
		l := &s.LoadSymbols
		le.PutUint32(r[32:], l.PathLength)
		le.PutUint64(r[40:], l.Base)
		le.PutUint64(r[48:], l.ProcessID)
		le.PutUint32(r[56:], l.CheckSum)
		le.PutUint32(r[60:], l.SizeOfImage)
		if l.Unload {
			r[64] = 1
		}
	case StateCommandString:
		le.PutUint32(r[32:], s.CommandFlag)
	}
	copy(r[192:], s.Report[:])
	b = append(b, r[:]...)
	return append(b, s.Data...)
}

// DecodeStateChange reads a STATE_CHANGE64 payload. Data aliases b. A kind
// this package does not know is an error.
func DecodeStateChange(b []byte) (StateChange, error) {
	if len(b) < StateChangeSize {
		return StateChange{}, fmt.Errorf("state change of %d bytes, want at least %d: %w", len(b), StateChangeSize, ErrShort)
	}
	k := le.Uint32(b[0:])
	s := StateChange{
		Kind:             StateKind(k &^ StateAlternate),
		Alternate:        k&StateAlternate != 0,
		ProcessorLevel:   le.Uint16(b[4:]),
		Processor:        le.Uint16(b[6:]),
		NumberProcessors: le.Uint32(b[8:]),
		Thread:           le.Uint64(b[16:]),
		ProgramCounter:   le.Uint64(b[24:]),
		Data:             b[StateChangeSize:],
	}
	copy(s.Report[:], b[192:])
	switch s.Kind {
	case StateException:
		e := &s.Exception
		e.Code = Status(le.Uint32(b[32:]))
		e.Flags = le.Uint32(b[36:])
		e.Record = le.Uint64(b[40:])
		e.Address = le.Uint64(b[48:])
		e.NumberParameters = le.Uint32(b[56:])
		for i := range e.Information {
			e.Information[i] = le.Uint64(b[64+8*i:])
		}
		e.FirstChance = le.Uint32(b[184:]) != 0
	case StateLoadSymbols:
		s.LoadSymbols = LoadSymbols{
			PathLength: le.Uint32(b[32:]),
			Base:       le.Uint64(b[40:]), ProcessID: le.Uint64(b[48:]),
			CheckSum: le.Uint32(b[56:]), SizeOfImage: le.Uint32(b[60:]),
			Unload: b[64] != 0,
		}
	case StateCommandString:
		s.CommandFlag = le.Uint32(b[32:])
	default:
		return s, fmt.Errorf("state change of unknown kind %#x", k)
	}
	return s, nil
}

// Path is the image path of a symbol report, without its NUL. It takes what
// is there when PathLength promises more.
func (s *StateChange) Path() string {
	d := s.Data
	if s.Kind != StateLoadSymbols {
		return ""
	}
	if uint64(s.LoadSymbols.PathLength) < uint64(len(d)) {
		d = d[:s.LoadSymbols.PathLength]
	}
	if i := bytes.IndexByte(d, 0); i >= 0 {
		d = d[:i]
	}
	return string(d)
}

// Command is the name (at most 127 characters) and text of a command string
// report (DbgCommandString).
func (s *StateChange) Command() (name, text string) {
	if s.Kind != StateCommandString {
		return "", ""
	}
	n, rest, _ := bytes.Cut(s.Data, []byte{0})
	t, _, _ := bytes.Cut(rest, []byte{0})
	return string(n), string(t)
}

// ControlReport is the processor's part of a state change, at @192.
//
//	x86: u32 Dr6 @0, u32 Dr7 @4, u16 Count @8, u16 Flags @10, Stream[16] @12,
//	     u16 Cs @28, Ds @30, Es @32, Fs @34, u32 EFlags @36
//	x64: u64 Dr6 @0, u64 Dr7 @8, u32 EFlags @16, u16 Count @20, u16 Flags @22,
//	     Stream[16] @24, u16 Cs @40, Ds @42, Es @44, Fs @46
//	ARM64: u64 Bvr @0 (as Dr6), u64 Wvr @8 (as Dr7), u32 Count @16, Stream[16] @20
//
// The target removes its own breakpoints inside the reported instruction
// bytes before it fills the stream.
type ControlReport struct {
	Dr6, Dr7                   uint64
	EFlags                     uint32
	Flags                      uint16 // 1 segments valid, 2 CS is the standard kernel CS
	Stream                     []byte // 0..16 valid bytes at the program counter
	SegCs, SegDs, SegEs, SegFs uint16
}

// DecodeReport reads the control report of s for a machine. Stream aliases s.
func (s *StateChange) DecodeReport(m Machine) ControlReport {
	r := &s.Report
	var c ControlReport
	clamp := func(n uint32, stream []byte) []byte { return stream[:min(n, 16)] }
	switch m {
	case MachineI386:
		c.Dr6, c.Dr7 = uint64(le.Uint32(r[0:])), uint64(le.Uint32(r[4:]))
		c.Flags = le.Uint16(r[10:])
		c.Stream = clamp(uint32(le.Uint16(r[8:])), r[12:28])
		c.SegCs, c.SegDs, c.SegEs, c.SegFs = le.Uint16(r[28:]), le.Uint16(r[30:]), le.Uint16(r[32:]), le.Uint16(r[34:])
		c.EFlags = le.Uint32(r[36:])
	case MachineAMD64:
		c.Dr6, c.Dr7 = le.Uint64(r[0:]), le.Uint64(r[8:])
		c.EFlags = le.Uint32(r[16:])
		c.Flags = le.Uint16(r[22:])
		c.Stream = clamp(uint32(le.Uint16(r[20:])), r[24:40])
		c.SegCs, c.SegDs, c.SegEs, c.SegFs = le.Uint16(r[40:]), le.Uint16(r[42:]), le.Uint16(r[44:]), le.Uint16(r[46:])
	case MachineARM64:
		c.Dr6, c.Dr7 = le.Uint64(r[0:]), le.Uint64(r[8:])
		c.Stream = clamp(le.Uint32(r[16:]), r[20:36])
	}
	return c
}

// EncodeReport fills the control report of s from c.
func (s *StateChange) EncodeReport(m Machine, c ControlReport) {
	r := &s.Report
	*r = [48]byte{}
	n := min(len(c.Stream), 16)
	switch m {
	case MachineI386:
		le.PutUint32(r[0:], uint32(c.Dr6))
		le.PutUint32(r[4:], uint32(c.Dr7))
		le.PutUint16(r[8:], uint16(n))
		le.PutUint16(r[10:], c.Flags)
		copy(r[12:28], c.Stream[:n])
		le.PutUint16(r[28:], c.SegCs)
		le.PutUint16(r[30:], c.SegDs)
		le.PutUint16(r[32:], c.SegEs)
		le.PutUint16(r[34:], c.SegFs)
		le.PutUint32(r[36:], c.EFlags)
	case MachineAMD64:
		le.PutUint64(r[0:], c.Dr6)
		le.PutUint64(r[8:], c.Dr7)
		le.PutUint32(r[16:], c.EFlags)
		le.PutUint16(r[20:], uint16(n))
		le.PutUint16(r[22:], c.Flags)
		copy(r[24:40], c.Stream[:n])
		le.PutUint16(r[40:], c.SegCs)
		le.PutUint16(r[42:], c.SegDs)
		le.PutUint16(r[44:], c.SegEs)
		le.PutUint16(r[46:], c.SegFs)
	case MachineARM64:
		le.PutUint64(r[0:], c.Dr6)
		le.PutUint64(r[8:], c.Dr7)
		le.PutUint32(r[16:], uint32(n))
		copy(r[20:36], c.Stream[:n])
	}
}

// StateChange32 is the STATE_CHANGE32 record of Windows 2000 and older, read
// only so that such a target can be named in a message.
//
//	u32 NewState @0, u16 Level @4, u16 Processor @6, u32 NumberProcessors @8,
//	u32 Thread @12, u32 PC @16, exception: u32 Code @20, u32 FirstChance @100
type StateChange32 struct {
	Kind             StateKind
	Processor        uint16
	NumberProcessors uint32
	Thread, PC       uint32
	Code             Status
	FirstChance      bool
}

// Append appends the 104-byte record.
func (s *StateChange32) Append(b []byte) []byte {
	var r [104]byte
	le.PutUint32(r[0:], uint32(s.Kind))
	le.PutUint16(r[6:], s.Processor)
	le.PutUint32(r[8:], s.NumberProcessors)
	le.PutUint32(r[12:], s.Thread)
	le.PutUint32(r[16:], s.PC)
	le.PutUint32(r[20:], uint32(s.Code))
	if s.FirstChance {
		r[100] = 1
	}
	return append(b, r[:]...)
}

// DecodeStateChange32 reads the record.
func DecodeStateChange32(b []byte) (StateChange32, error) {
	if len(b) < 104 {
		return StateChange32{}, fmt.Errorf("32-bit state change of %d bytes, want at least 104: %w", len(b), ErrShort)
	}
	return StateChange32{
		Kind: StateKind(le.Uint32(b[0:])), Processor: le.Uint16(b[6:]), NumberProcessors: le.Uint32(b[8:]),
		Thread: le.Uint32(b[12:]), PC: le.Uint32(b[16:]), Code: Status(le.Uint32(b[20:])), FirstChance: le.Uint32(b[100:]) != 0,
	}, nil
}
