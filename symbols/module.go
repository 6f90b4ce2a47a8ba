package symbols

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"openkd/image/pe"
	"openkd/image/sym"
)

// Module is an image that a target has loaded.
type Module struct {
	Name  string // as commands spell it; "" means what ModuleName says
	Image string // file name, without folders
	Base  uint64
	Size  uint32
	// Time stamp and check sum of the PE header; 0: unknown.
	Timestamp uint32
	CheckSum  uint32
	// PDB is what the image says of its PDB. nil: nothing, or, unless Header is
	// set, that it is not known yet.
	PDB    *pe.CodeView
	Header bool
}

// end is the first address behind the module.
func (m *Module) contains(addr uint64) bool {
	return addr == m.Base || addr > m.Base && addr-m.Base < uint64(m.Size)
}

// same says whether two are one image at one place, if perhaps more is known of
// one.
func (m *Module) same(o *Module) bool {
	known := func(a, b uint32) bool { return a == 0 || b == 0 || a == b }
	return m.Base == o.Base && known(m.Size, o.Size) && (m.Image == "" || o.Image == "" || strings.EqualFold(m.Image, o.Image)) &&
		known(m.Timestamp, o.Timestamp) && known(m.CheckSum, o.CheckSum)
}

// imageID is what the module's file must have.
func (m *Module) imageID() *ImageID { return &ImageID{m.Timestamp, m.Size, m.CheckSum, m.Header} }

// kernels are the names that the kernel's file goes by. They are tried for each
// other: the boot loader calls whichever it took ntoskrnl.exe.
var kernels = []string{"ntoskrnl.exe", "ntkrnlmp.exe", "ntkrnlpa.exe", "ntkrpamp.exe", "ntkrnlup.exe"}

func isKernel(image string) bool {
	for _, k := range kernels {
		if strings.EqualFold(image, k) {
			return true
		}
	}
	return false
}

// ModuleName is the name that commands use for an image: the file's name without
// its extension, "nt" for the kernel.
func ModuleName(image string) string {
	if isKernel(image) {
		return "nt"
	}
	return stem(image)
}

func stem(name string) string {
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		return name[:i]
	}
	return name
}

func extension(name string) string {
	if i := strings.LastIndexByte(name, '.'); i > 0 {
		return strings.ToLower(name[i+1:])
	}
	return ""
}

// Header is what the headers of a module say in the target's memory.
type Header struct {
	Timestamp, CheckSum, Size uint32
	PDB                       *pe.CodeView // nil: none
}

// Target is what a Set asks of a target's memory.
type Target interface {
	// Headers reads the headers of modules, in the order given, with as few
	// exchanges as it takes; nil for those that cannot be read, because they are
	// paged out or no image. The error is for all: the target runs, is lost.
	Headers(ctx context.Context, mods []Module) ([]*Header, error)
	// Memory reads a module as it lies in memory, by offset from its base.
	Memory(ctx context.Context, m Module) io.ReaderAt
}

// State says what symbols a module has.
type State uint8

// States.
const (
	Deferred State = iota // not looked for yet
	PDB                   // a PDB
	InImage               // DWARF or COFF symbols in the image
	Exports               // only what the image exports
	None                  // nothing was found
)

// Status is a module with what is known of its symbols.
type Status struct {
	Module
	State      State
	Private    bool   // types and locals are there
	File       string // the symbol file; for Exports the image, "" for memory
	ImageFile  string // the image, if it was looked for and found
	Mismatched bool   // taken although its identity is another one
	// Err says why there is no symbol file.
	Err error
	// Tried is every place that was looked at, as the log has it.
	Tried []string
}

// String is the state as lm shows it, with the file where there is one.
func (s *Status) String() string {
	text := "(deferred)"
	switch s.State {
	case PDB:
		text = "(pdb symbols)"
		if s.Private {
			text = "(private pdb symbols)"
		}
	case InImage:
		text = "(coff symbols)"
		if s.Private {
			text = "(dwarf symbols)"
		}
	case Exports:
		text = "(export symbols)"
	case None:
		text = "(no symbols)"
	}
	file := s.File
	if s.State == Exports && file == "" {
		file = s.Image
	}
	if file == "" {
		return text
	}
	if s.Mismatched {
		text += " (mismatched)"
	}
	return fmt.Sprintf("%-23s %s", text, file)
}

// ErrUnloaded says that the symbols of a module were dropped, or the module.
var ErrUnloaded = errors.New("the symbols were unloaded")

// ErrNoModule says that no module has a name or an address.
var ErrNoModule = errors.New("no such module")

// ErrNotFound says that a name is not there.
var ErrNotFound = errors.New("no such symbol")

// NoSymbolsError says that a module has no symbol file.
type NoSymbolsError struct {
	Module string
	Err    error
}

func (e *NoSymbolsError) Error() string {
	if e.Err == nil {
		return "module " + e.Module + " has no symbols"
	}
	return "module " + e.Module + " has no symbols: " + e.Err.Error()
}

func (e *NoSymbolsError) Unwrap() error { return e.Err }

// module is a module of a Set, which is guarded by Set.mu, but for loading.
type module struct {
	Module
	said Module // what Update was told; headers may say more, and other things
	// loading holds a token while somebody looks for its symbols.
	loading chan struct{}

	state      State
	private    bool
	mismatched bool
	file       string
	id         sym.Identity // of the symbol file
	err        error
	tried      []string
	retry      time.Time // when looking again may help; zero: not before something changes
	blind      bool      // it was looked for in vain without knowing what it is
	unread     bool      // it was looked for in vain, but for the exports in memory
	gone       bool

	open   *openFile // nil: none, or closed to save room
	handle *handle   // for who holds the file; nil: not asked for
	tick   uint64    // of the last use
	misses map[string]struct{}

	image      *pe.Image
	imageFile  string
	imageTried bool
	imageErr   error
}
