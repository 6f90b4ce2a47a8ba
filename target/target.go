// Package target is one kernel under debug.
//
// Target is the interface that everything above speaks to: batches of
// requests down, events up. Live implements it over a link; package kdrpc
// implements it over a stream to a connection server, so that a caller never
// knows how far away the line is. The package knows packets and links; it
// does not know symbols, breakpoint numbers, commands or people.
//
// Wire facts come from package kdproto's sources; what a stop needs and in
// which order comes from a captured WinDbg session (Lekensteyn/kdnet) and from
// recorded sessions with a ReactOS kernel.
package target

import (
	"context"
	"errors"
	"fmt"
	"time"

	"openkd/kdproto"
	"openkd/link"
)

// Target is one kernel under debug.
//
// Concurrency: every method may be called from any goroutine. Do, Resume,
// Switch and Close are served one after the other in the order they arrive;
// BreakIn and Status overtake them. Next is called by one goroutine at a
// time. Events are never dropped; prints may be merged when the reader is
// slow.
type Target interface {
	// Do runs a batch while the target is halted, back to back at the speed of
	// the line, and hands the answers to sink as they come: parts of one
	// request in order, requests in order. A request that fails on the target
	// is an answer with a status, not an error, and does not end the batch. An
	// error of sink ends the batch and is returned. Errors: ErrRunning, ErrLost,
	// ErrClosed, ErrLease, ErrBadRequest, the context's.
	Do(ctx context.Context, batch []Request, sink func(Part) error) error

	// Resume lets the halted target go and returns when it has been told; the
	// next stop is an event. A breakpoint that cannot be inserted makes it
	// return an *InsertError, and the target stays halted.
	Resume(ctx context.Context, r Resume) error

	// Switch makes another processor the reporting one. The stop that follows
	// is an event with Stop.Switched.
	Switch(ctx context.Context, processor int) error

	// BreakIn asks a running target to stop. While a batch runs it cancels the
	// rest of the batch. It returns when the request is on its way.
	BreakIn(ctx context.Context) error

	// Answer answers the open prompt of the target (EventPrompt).
	Answer(ctx context.Context, text string) error

	// Control is everything rare: reboot, crash, resynchronise, configure.
	Control(ctx context.Context, c Control) error

	// Next returns the next event, and ErrClosed after the last one.
	Next(ctx context.Context) (Event, error)

	// Status says where the session stands.
	Status(ctx context.Context) (Status, error)

	// Close ends the session. Breakpoints of ours are removed. With
	// LeaveRunning a halted target is let go.
	Close(ctx context.Context, l Leave) error
}

// Errors a caller decides on.
var (
	ErrRunning    = errors.New("the target is running")
	ErrHalted     = errors.New("the target is halted already")
	ErrLost       = errors.New("the link to the target is lost")
	ErrNotReady   = errors.New("no target has been met yet")
	ErrClosed     = errors.New("the session is closed")
	ErrLease      = errors.New("the lease of this link is held by another client")
	ErrBadRequest = errors.New("bad request")
)

// InsertError names the breakpoints that the target did not take.
type InsertError struct{ Addresses []uint64 }

func (e *InsertError) Error() string {
	return fmt.Sprintf("the target did not take %d breakpoint(s), the first at %016x: its table of 32 is full or the page is not there", len(e.Addresses), e.Addresses[0])
}

// Op is the kind of a Request.
type Op uint8

// Operations. Addr, Len and so on are fields of Request; all sizes are bytes.
const (
	OpNone Op = iota

	// OpReadVirtual reads Len bytes at Addr. Unreadable pages are left out:
	// Part.Offset tells where the data that follows belongs; the status is a
	// failure if anything could not be read.
	OpReadVirtual
	OpWriteVirtual // Data at Addr; Value: bytes written
	// OpReadPhysical reads like OpReadVirtual; Flags: cache attribute (0
	// default, 1 cached, 2 uncached, 3 write combined).
	OpReadPhysical
	OpWritePhysical
	OpReadControl  // Len bytes of control space of Processor at Addr (selector or offset)
	OpWriteControl // Data to control space of Processor at Addr
	OpReadMSR      // Addr: register; Value
	OpWriteMSR     // Addr: register, Value
	OpReadIO       // Addr: port, Len 1, 2 or 4; Value
	OpWriteIO      // Addr: port, Len 1, 2 or 4, Value
	OpReadBus      // Bus, Addr: offset, Len
	OpWriteBus     // Bus, Addr: offset, Data
	OpGetContext   // whole CONTEXT of Processor
	OpSetContext   // Data: whole CONTEXT; reporting processor only
	OpVersion      // Data: the 40-byte version block

	// OpSearch looks for Data in Len bytes at Addr, at steps of Value bytes
	// (0 counts as 1), at most Flags hits (0: one). Data of the answer: the
	// addresses, u64 little-endian. It runs next to the line.
	OpSearch
	// OpFill repeats Data over Len bytes at Addr; Flags 1 physical. Value:
	// bytes filled.
	OpFill
	// OpQuery tells what address Addr is; Value: address space (0 process, 1
	// session, 2 kernel) | access (1 read, 2 write, 4 execute, 8 fixed) << 32.
	OpQuery
	// OpString reads up to the first NUL of at most Len bytes at Addr; Flags:
	// size of a character (1 or 2 bytes). The NUL is left out.
	OpString
	// OpFollow follows the linked list in List; Data: see DecodeNodes. It runs
	// next to the line.
	OpFollow
	// OpPageIn asks for the page of Addr where the target can; today every
	// known target answers 0xC0000001.
	OpPageIn

	OpMax
)

// Limits of a batch. A batch over them is refused with ErrBadRequest.
const (
	MaxBatch    = 4096     // requests
	MaxRead     = 64 << 20 // bytes of one read
	MaxWrite    = 16 << 20 // bytes of one write
	MaxSearch   = 1 << 32  // bytes of one search
	MaxPattern  = 2048     // bytes of a pattern
	MaxString   = 64 << 10 // bytes of a string
	MaxNodes    = 16384    // nodes of a list
	MaxPieces   = 16       // pieces of a node
	MaxPiece    = 4096     // bytes of a piece
	MaxListData = 16 << 20 // bytes of all nodes
)

// Request is one question or order of a batch. Which fields count depends on
// Op.
type Request struct {
	Op        Op     `cbor:"1,keyasint"`
	Processor uint16 `cbor:"2,keyasint,omitempty"`
	Addr      uint64 `cbor:"3,keyasint,omitempty"`
	Len       uint64 `cbor:"4,keyasint,omitempty"`
	Value     uint64 `cbor:"5,keyasint,omitempty"`
	Flags     uint32 `cbor:"6,keyasint,omitempty"`
	Data      []byte `cbor:"7,keyasint,omitempty"`
	Bus       *Bus   `cbor:"8,keyasint,omitempty"`
	List      *List  `cbor:"9,keyasint,omitempty"`
}

// Bus names a device of OpReadBus and OpWriteBus. Type 4 is PCI configuration
// space, where Slot is device + 32*function.
type Bus struct {
	Type uint32 `cbor:"1,keyasint,omitempty"`
	Bus  uint32 `cbor:"2,keyasint,omitempty"`
	Slot uint32 `cbor:"3,keyasint,omitempty"`
}

// List describes a chase along a linked list. The pointer at Head leads to the
// link field of the first node; the list ends at Head, at a null pointer, at a
// node seen before, at MaxNodes, or at an unreadable link.
type List struct {
	Head       uint64  `cbor:"1,keyasint"`
	LinkOffset uint32  `cbor:"2,keyasint,omitempty"` // of the link field inside a node
	Pointer    uint8   `cbor:"3,keyasint"`           // pointer size in bytes, 4 or 8
	MaxNodes   uint32  `cbor:"4,keyasint"`
	Pieces     []Piece `cbor:"5,keyasint"`
}

// Via says how a Piece is reached.
type Via uint8

// Ways to a piece.
const (
	ViaNode    Via = iota // Len bytes at Offset of the node itself
	ViaPointer            // Len bytes where the pointer at Offset points, plus Add
	ViaUnicode            // the buffer of the UNICODE_STRING (or STRING) at Offset, at most Len bytes
)

// Piece is one thing to read of every node.
type Piece struct {
	Via    Via    `cbor:"1,keyasint,omitempty"`
	Offset uint32 `cbor:"2,keyasint,omitempty"`
	Add    uint32 `cbor:"3,keyasint,omitempty"`
	Len    uint32 `cbor:"4,keyasint"`
}

// Part is a piece of an answer. The parts of one request come in order; the
// last one has Done set and carries Status and Value. Data belongs at Offset
// of the request's range. Data is only valid during the call of the sink.
type Part struct {
	Index  int            `cbor:"1,keyasint,omitempty"` // of the request in its batch
	Offset uint64         `cbor:"2,keyasint,omitempty"`
	Data   []byte         `cbor:"3,keyasint,omitempty"`
	Done   bool           `cbor:"4,keyasint,omitempty"`
	Status kdproto.Status `cbor:"5,keyasint,omitempty"`
	Value  uint64         `cbor:"6,keyasint,omitempty"`
}

// Run is a run of readable bytes inside an answer.
type Run struct {
	Offset uint64
	Data   []byte
}

// Reply is a whole answer, put together from its parts.
type Reply struct {
	Status kdproto.Status
	Value  uint64
	Runs   []Run // readable stretches, in order, never adjacent
}

// Data is the answer's bytes from offset 0 up to the first hole.
func (r *Reply) Data() []byte {
	if len(r.Runs) > 0 && r.Runs[0].Offset == 0 {
		return r.Runs[0].Data
	}
	return nil
}

// Collect runs a batch and returns one Reply for each request.
func Collect(ctx context.Context, t Target, batch ...Request) ([]Reply, error) {
	out := make([]Reply, len(batch))
	err := t.Do(ctx, batch, func(p Part) error {
		if p.Index < 0 || p.Index >= len(out) {
			return fmt.Errorf("answer to request %d of a batch of %d", p.Index, len(batch))
		}
		r := &out[p.Index]
		if len(p.Data) > 0 {
			if n := len(r.Runs); n > 0 && r.Runs[n-1].Offset+uint64(len(r.Runs[n-1].Data)) == p.Offset {
				r.Runs[n-1].Data = append(r.Runs[n-1].Data, p.Data...)
			} else {
				r.Runs = append(r.Runs, Run{p.Offset, append([]byte(nil), p.Data...)})
			}
		}
		if p.Done {
			r.Status, r.Value = p.Status, p.Value
		}
		return nil
	})
	return out, err
}

// Mode is how a target is resumed.
type Mode uint8

// Modes of Resume.
const (
	Go   Mode = iota
	Step      // one instruction of the reporting processor
)

// Resume tells how the target goes on. The caller names the whole set of
// breakpoints each time; what is inserted and removed on the way, and the step
// off a breakpoint at the program counter, is the target's business. Our
// breakpoints are invisible: memory that is read while halted never shows
// them.
type Resume struct {
	Mode        Mode           `cbor:"1,keyasint,omitempty"`
	Status      kdproto.Status `cbor:"2,keyasint"` // DbgContinue, DbgExceptionHandled or DbgExceptionNotHandled
	Breakpoints []uint64       `cbor:"3,keyasint,omitempty"`
	Hardware    [4]HWBreak     `cbor:"4,keyasint"` // Dr0..Dr3 of every processor
	// BreakIn asks for the next stop before the target goes on, as BreakIn does
	// of one that runs. It keeps a request alive that a stop came in front of
	// which nobody is to see.
	BreakIn bool `cbor:"5,keyasint,omitempty"`
	// Config, when not nil, is what the client wants of the session from now on
	// (as ControlConfigure tells it), in the same exchange.
	Config *Config `cbor:"6,keyasint,omitempty"`
}

// HWBreak is a processor breakpoint. Len is 1, 2, 4 or 8 bytes (1 for
// execute). Kind 0 execute, 1 write, 2 I/O, 3 read or write, as in DR7.
type HWBreak struct {
	Enabled bool   `cbor:"1,keyasint,omitempty"`
	Kind    uint8  `cbor:"2,keyasint,omitempty"`
	Len     uint8  `cbor:"3,keyasint,omitempty"`
	Addr    uint64 `cbor:"4,keyasint,omitempty"`
}

// ControlOp is the kind of a Control.
type ControlOp uint8

// Control operations.
const (
	ControlNone      ControlOp = iota
	ControlReboot              // halted: the machine resets
	ControlCrash               // halted: bug check 0xE2
	ControlResync              // any time: start the link's numbering anew (CTRL+R)
	ControlConfigure           // any time: Config
	ControlReopen              // any time: close and open the line again (.restart)
)

// Control is a rare order.
type Control struct {
	Op     ControlOp `cbor:"1,keyasint"`
	Config Config    `cbor:"2,keyasint,omitempty"`
}

// Config is what a client wants of the session from now on.
type Config struct {
	// Break asks for a stop as soon as the target is met, now and after every
	// reboot.
	Break bool `cbor:"1,keyasint,omitempty"`
	// BreakOnFirstLoad stops at the first module load after each reboot (-d).
	BreakOnFirstLoad bool `cbor:"2,keyasint,omitempty"`
	// StopOnLoad and StopOnUnload stop when a module whose base name matches
	// loads or unloads ("*" for any; case does not matter). Empty: report and go on.
	StopOnLoad   string `cbor:"3,keyasint,omitempty"`
	StopOnUnload string `cbor:"4,keyasint,omitempty"`
}

// Leave says what becomes of a halted target when its session ends.
type Leave uint8

// Ways to leave.
const (
	LeaveRunning Leave = iota
	LeaveHalted
)

// Stage is how far the way to a halted target has come.
type Stage uint8

// Stages, in order. The first two belong to a connection server and never
// come from Live.
const (
	StageNone Stage = iota
	StageServerReached
	StageAuthenticated
	StageOpening      // the line is being opened, or waited for
	StageOpened       // the line is open, nothing was heard yet
	StageBytes        // bytes arrive, no packet among them yet
	StagePackets      // whole packets arrive
	StageSynchronised // the numbering is agreed
	StageConnected    // the target told what it is
	StageHalted
)

var stageNames = [...]string{"none", "server reached", "password accepted", "opening the line", "line open", "bytes seen", "packets seen", "synchronised", "connected", "halted"}

func (s Stage) String() string {
	if int(s) < len(stageNames) {
		return stageNames[s]
	}
	return fmt.Sprintf("stage %d", uint8(s))
}

// State is what the session can do now.
//
//	            +----------- line gone, no answer ------------+
//	            v                                             |
//	Waiting --first packet--> Running --stop--> Halted --Resume--> Running
//	   ^                        |  ^               |
//	   |                        |  +--symbols, prints (answered here)
//	   +---- reboot, SYNC ------+------------------+
//	any --Close--> Closed
type State uint8

// States.
const (
	StateWaiting State = iota // no target met yet, or lost and looked for again
	StateRunning
	StateHalted
	StateClosed
)

var stateNames = [...]string{"waiting", "running", "halted", "closed"}

func (s State) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Status is where a session stands.
type Status struct {
	State State      `cbor:"1,keyasint"`
	Stage Stage      `cbor:"2,keyasint"`
	Since time.Time  `cbor:"3,keyasint"` // of State
	Line  string     `cbor:"4,keyasint"` // the line in canonical spelling
	Speed int        `cbor:"5,keyasint"` // bits per second, 0 for a line that is not paced
	Stats link.Stats `cbor:"6,keyasint"`
}

// EventKind is the kind of an Event.
type EventKind uint8

// Kinds of event.
const (
	EventNone      EventKind = iota
	EventStage               // Stage, Text: StageOpened: the line's name; else a hint for a person, or nothing
	EventConnected           // Version, DataBlock: met, or met again after a reboot
	EventHalted              // Stop
	EventRunning             // the target runs
	EventPrint               // Text: DbgPrint
	EventPrompt              // Text, MaxAnswer: the target waits for Answer
	EventModule              // Module: loaded or unloaded, the target went on
	EventReloaded            // the target rebooted: forget modules, breakpoints' state, processors
	EventLost                // Text: why; the session goes on looking for the target
	EventNotice              // Text: something a person should know
	EventClosed              // Text: why; the last event
)

var eventNames = [...]string{"none", "stage", "connected", "halted", "running", "print", "prompt", "module", "reloaded", "lost", "notice", "closed"}

func (k EventKind) String() string {
	if int(k) < len(eventNames) {
		return eventNames[k]
	}
	return fmt.Sprintf("event %d", uint8(k))
}

// Event is something that happened.
type Event struct {
	Kind      EventKind        `cbor:"1,keyasint"`
	Time      time.Time        `cbor:"2,keyasint"`
	Stage     Stage            `cbor:"3,keyasint,omitempty"`
	Text      string           `cbor:"4,keyasint,omitempty"`
	MaxAnswer uint32           `cbor:"5,keyasint,omitempty"` // bytes
	Version   *kdproto.Version `cbor:"6,keyasint,omitempty"`
	DataBlock []byte           `cbor:"7,keyasint,omitempty"` // KDDEBUGGER_DATA64, nil where there is none
	Stop      *Stop            `cbor:"8,keyasint,omitempty"`
	Module    *Module          `cbor:"9,keyasint,omitempty"`
}

// Module is a module that the target reported as loaded or unloaded.
type Module struct {
	Unload    bool   `cbor:"1,keyasint,omitempty"`
	All       bool   `cbor:"2,keyasint,omitempty"` // "all symbols gone": shutdown or hand-over
	Base      uint64 `cbor:"3,keyasint,omitempty"`
	Size      uint32 `cbor:"4,keyasint,omitempty"`
	CheckSum  uint32 `cbor:"5,keyasint,omitempty"`
	ProcessID uint64 `cbor:"6,keyasint,omitempty"`
	Path      string `cbor:"7,keyasint,omitempty"`
}

// StopReason is why a target halted.
type StopReason uint8

// Reasons.
const (
	StopException StopReason = iota // Exception; breakpoints, break-in and steps included
	StopLoad                        // Module, because Config asked
	StopUnload
	StopCommand // the target called DbgCommandString: Command
)

// Stop is a halt of the target.
type Stop struct {
	Number     uint64             `cbor:"1,keyasint"` // counts halts; what is cached of one is void in the next
	Reason     StopReason         `cbor:"2,keyasint,omitempty"`
	Processor  int                `cbor:"3,keyasint"`
	Processors int                `cbor:"4,keyasint"`
	Thread     uint64             `cbor:"5,keyasint,omitempty"` // KTHREAD
	PC         uint64             `cbor:"6,keyasint"`           // sign-extended on 32-bit targets
	Exception  *kdproto.Exception `cbor:"7,keyasint,omitempty"`
	Dr6        uint64             `cbor:"8,keyasint,omitempty"`
	Dr7        uint64             `cbor:"9,keyasint,omitempty"`
	Module     *Module            `cbor:"10,keyasint,omitempty"`
	Command    string             `cbor:"11,keyasint,omitempty"`
	Breakpoint bool               `cbor:"12,keyasint,omitempty"` // PC is on a breakpoint of the last Resume
	Asked      bool               `cbor:"13,keyasint,omitempty"` // the answer to BreakIn, or to Config.Break
	Switched   bool               `cbor:"14,keyasint,omitempty"` // the answer to Switch
	Again      bool               `cbor:"15,keyasint,omitempty"` // met halted, or reported again: nothing new happened
	Bundle     Bundle             `cbor:"16,keyasint"`
}

// Bundle is what the first commands after a stop will ask for, so that they
// cost no exchange. How much it holds depends on the speed of the line.
type Bundle struct {
	Context []byte   `cbor:"1,keyasint,omitempty"` // CONTEXT of the reporting processor
	Special []byte   `cbor:"2,keyasint,omitempty"` // KSPECIAL_REGISTERS of the same
	Memory  []Memory `cbor:"3,keyasint,omitempty"` // virtual memory, page by page holes left out
}

// Memory is a stretch of virtual memory.
type Memory struct {
	Addr uint64 `cbor:"1,keyasint"`
	Data []byte `cbor:"2,keyasint"`
}
