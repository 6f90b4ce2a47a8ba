package kdproto

import "fmt"

// Status is an NTSTATUS value: of a reply, of a continue request, or an
// exception code.
type Status uint32

// NTSTATUS values of the protocol.
const (
	StatusSuccess            Status = 0x00000000
	StatusPending            Status = 0x00000103 // what WinDbg leaves in requests
	DbgExceptionHandled      Status = 0x00010001 // continue status
	DbgContinue              Status = 0x00010002 // continue status
	StatusBreakpoint         Status = 0x80000003 // exception code
	StatusSingleStep         Status = 0x80000004 // exception code
	StatusWakeSystemDebugger Status = 0x80000007 // exception code of a processor switch report
	StatusNoMoreEntries      Status = 0x8000001A // SearchMemory: not found
	DbgExceptionNotHandled   Status = 0x80010001 // continue status
	StatusUnsuccessful       Status = 0xC0000001 // generic failure of nearly every request
	StatusAccessViolation    Status = 0xC0000005 // exception code
	StatusInvalidParameter   Status = 0xC000000D
	StatusNoSuchDevice       Status = 0xC000000E // MSR access faulted
	StatusNoSuchFile         Status = 0xC000000F // refusal of a FILE_IO create
	StatusAssertionFailure   Status = 0xC0000420 // exception code of int 2Ch
)

// Failed reports whether the top bit is set. The target decides on that bit
// only: DbgExceptionNotHandled is a failure, DbgContinue is not.
func (s Status) Failed() bool { return int32(s) < 0 }

func (s Status) String() string { return fmt.Sprintf("0x%08X", uint32(s)) }
