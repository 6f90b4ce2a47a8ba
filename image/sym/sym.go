// Package sym says what a symbol file tells a debugger, whatever its format:
// names and addresses, types, source lines, scopes and local variables, and how
// frames of x86 are laid out. Packages image/pdb and image/dwarf read files into
// it; package symbols finds the files.
//
// It reads nothing itself. All addresses are RVAs: bytes from the base of the
// image as it is loaded.
package sym

import "iter"

// Identity is what an image and its symbol file have in common.
type Identity struct {
	GUID      [16]byte // as stored: the first three fields little-endian; zero for none
	Age       uint32
	Timestamp uint32 // of the PE header, for files without GUID
	ImageSize uint32 // SizeOfImage, with Timestamp; 0: unknown
}

// File is an open symbol file.
//
// Concurrency: all methods from any goroutine. They read the file as they need
// it and keep what they read within bounds of their own. An error says what in
// the file is damaged; what is merely not there is no error.
type File interface {
	// Identity is what the image must have to belong to this file.
	Identity() Identity
	// Private says whether types and locals are there, not only public names.
	Private() bool

	// ByName returns the symbols of exactly this name, case-sensitive; none is
	// no error. Decorated and undecorated C names (_name, name@8) both match.
	ByName(name string) ([]Symbol, error)
	// ByRVA returns the symbol that covers an address: the procedure or datum
	// around it, else the nearest at or below it in the same section. Where
	// several stand at one address the private one wins.
	ByRVA(rva uint32) (Symbol, bool, error)
	// Symbols runs through all symbols whose name matches, in no order. The
	// match gets the name as Symbol.Name has it. Linkage and the Size of Data
	// may be left out where finding them costs a search each; what ByName and
	// ByRVA return is complete.
	Symbols(match func(name string) bool) iter.Seq2[Symbol, error]

	// Line returns the source line that an address belongs to: in an inlined
	// call a line of what is inlined. Where the calls stand Scopes says.
	Line(rva uint32) (Line, bool, error)
	// Addresses returns where the code of a source line begins, one entry for
	// each place: the lowest address in every function and in every inlined
	// copy. file matches the end of the path, either slash, any case. If the
	// line has no code the next one that has is taken.
	Addresses(file string, line uint32) ([]Line, error)

	// TypeByName finds a type by its name (without struct, union, enum), the
	// full definition if there is one; 0: none.
	TypeByName(name string) (TypeID, error)
	// TypeNames runs through the names of types that match.
	TypeNames(match func(name string) bool) iter.Seq2[NamedType, error]
	// Type describes a type. Forward declarations are resolved.
	Type(id TypeID) (Type, error)
	// Members lists the fields, bases and enumerators of a structure, union or
	// enumeration in the order of declaration.
	Members(id TypeID) ([]Member, error)

	// Scopes returns the procedure at an address, the blocks in it and the
	// inlined calls around the address, outermost first, with their variables.
	Scopes(rva uint32) ([]Scope, error)

	// X86Frame returns how the frame of x86 code at an address is laid out.
	X86Frame(rva uint32) (X86Frame, bool, error)

	Close() error
}

// Kind is what a symbol names.
type Kind uint8

// Kinds of symbols.
const (
	Public   Kind = iota + 1 // a name of the linker: no type, no size
	Function                 // a procedure with its length
	Data                     // a global or static variable
	Label
	Thunk
	Constant // Value
	TypeDef  // a name for Type
)

// Symbol is a name with an address.
type Symbol struct {
	Name    string // as a person writes it: C++ names undecorated, without parameters
	Linkage string // as the linker knows it, if it differs
	Kind    Kind
	RVA     uint32
	Size    uint32 // bytes; 0: unknown
	Type    TypeID // 0: unknown
	Static  bool   // visible in one source file only
	Code    bool   // it is in code
	Value   int64  // of a Constant
}

// Line is a piece of code that belongs to a source line.
type Line struct {
	File string // as the compiler noted it
	Line uint32
	RVA  uint32 // of the first byte
	Size uint32 // bytes up to the next line; 0: unknown
	// Checksum of the source file, if the compiler noted one.
	ChecksumKind byte // 0 none, 1 MD5, 2 SHA-1, 3 SHA-256 (CodeView FileChecksumKind)
	Checksum     []byte
}

// TypeID names a type within its file. 0 is none. It is not stable from one
// program to the next.
type TypeID uint64

// NamedType is a type with its name.
type NamedType struct {
	Name string
	ID   TypeID
}

// TypeKind is the kind of a type.
type TypeKind uint8

// Kinds of types.
const (
	Void TypeKind = iota + 1
	Bool
	Char  // a character of Size bytes, signed as Signed says
	WChar // a UTF-16 character
	Int   // Signed or not
	Float
	Pointer  // Elem; Reference
	Array    // Elem, Count
	Struct   // Class says how it was declared
	Union    //
	Enum     // Elem: the integer under it
	Func     // Elem: what it returns; Params
	BitField // Elem, BitPos, BitLen
	Modifier // Elem; Const, Volatile
	Alias    // Name, Elem: a typedef
	Opaque   // declared and nowhere defined
)

// Type is a type. Fields that do not belong to its Kind are zero.
type Type struct {
	ID        TypeID
	Kind      TypeKind
	Name      string // "" for pointers, arrays and what else has none
	Size      uint64 // bytes
	Elem      TypeID
	Count     uint64 // elements of an Array
	Signed    bool
	Reference bool
	Const     bool
	Volatile  bool
	Class     bool // of a Struct: declared with class
	BitPos    uint8
	BitLen    uint8
	Params    []TypeID
	Variadic  bool
}

// MemberKind is what a member is.
type MemberKind uint8

// Kinds of members.
const (
	Field MemberKind = iota + 1
	Base             // a base class; Offset says where
	VirtualBase
	StaticField
	VTable // the pointer to the table of virtual functions
	Enumerator
)

// Member is a field, a base or an enumerator.
type Member struct {
	Name string
	Kind MemberKind
	Type TypeID // of a bit field: a type of Kind BitField
	// Bytes from the start. A VirtualBase is where the object says: in a PDB
	// this is where the pointer to its table is, and Value the entry.
	Offset uint64
	// Of an Enumerator, as its bits are, widened as the type under it says.
	Value int64
}

// Scope is a procedure, a block or an inlined call.
type Scope struct {
	Name      string // of a procedure or an inlined call; "" of a block
	Inlined   bool
	RVA, Size uint32
	Type      TypeID // of the procedure
	Call      Line   // of an inlined call: where it stands
	Vars      []Var
}

// Var is a parameter or a local variable.
type Var struct {
	Name  string
	Type  TypeID
	Param bool
	// Where it is at the address that was asked for; none: optimised away.
	Loc []Location
}

// LocKind is how a variable is found.
type LocKind uint8

// Kinds of locations.
const (
	InRegister  LocKind = iota + 1 // Reg
	RegRelative                    // at Reg + Offset
	FrameBase                      // at the frame's base + Offset: the compiler's frame pointer of the procedure; x86 PDB: $T0 of X86Frame.Program
	CFARelative                    // at the canonical frame address (the stack pointer before the call) + Offset
	AtRVA                          // at RVA
	IsConstant                     // Value
)

// Location is where a piece of a variable is.
type Location struct {
	Kind   LocKind
	Reg    string // lower case, as package arch names registers
	Offset int64
	RVA    uint32
	Value  []byte
	// The piece of the variable in bytes; PieceSize 0: all of it.
	PieceOffset, PieceSize uint32
}

// X86Frame is the layout of a frame of x86 code (FPO_DATA, or the frame data
// of a PDB). Sizes are bytes.
type X86Frame struct {
	RVA, Size  uint32
	Prolog     uint32
	Locals     uint32
	Params     uint32
	SavedRegs  uint32
	UsesEBP    bool   // as a general register: it must not be taken for the frame pointer
	HasProgram bool   // Program restores the caller's registers
	Program    string // postfix, as in the PDB but with registers by name: "$T0 .raSearch = $eip $T0 ^ = ..."
	Trap       bool   // a trap frame or a task frame
}
