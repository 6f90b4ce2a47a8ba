package types

import (
	"errors"
	"fmt"
	"strings"

	"openkd/image/sym"
	"openkd/internal/brief"
)

// Type is a type: one of a symbol file, or one that an expression made. Names of
// types and const are looked through. The zero value is void.
type Type struct {
	sym.Type
	// File is what ID and Elem belong to; nil for a type of the language, or made
	// by an expression.
	File sym.File
	// To is what a pointer or an array of an expression is of, in place of Elem.
	To *Type
	// Module is the name of the module of File.
	Module string
}

// errEndless is what a file says that names types in a circle.
var errEndless = errors.New("the type is a chain of names without end")

// Of is a type of a symbol file.
func Of(f sym.File, id sym.TypeID, module string) (Type, error) {
	t, err := resolve(f, id)
	return Type{Type: t, File: f, Module: module}, err
}

// resolve looks through typedefs and const.
func resolve(f sym.File, id sym.TypeID) (sym.Type, error) {
	if id == 0 {
		return sym.Type{Kind: sym.Void}, nil
	}
	for range maxDepth {
		t, err := f.Type(id)
		if err != nil || (t.Kind != sym.Modifier && t.Kind != sym.Alias) || t.Elem == 0 {
			return t, err
		}
		id = t.Elem
	}
	return sym.Type{}, errEndless
}

// Element is what a pointer or an array is of, what a function returns, the
// integer under an enumeration and what a bit field is cut from.
func (t Type) Element() (Type, error) {
	if t.To != nil {
		return *t.To, nil
	}
	if t.File == nil {
		return Type{}, nil
	}
	return Of(t.File, t.Elem, t.Module)
}

// PointerTo is the type of a pointer, of size bytes.
func PointerTo(t Type, size int) Type {
	return Type{Type: sym.Type{Kind: sym.Pointer, Size: uint64(size)}, To: &t, Module: t.Module}
}

// ArrayOf is the type of n elements in a row.
func ArrayOf(t Type, n uint64) (Type, error) {
	if t.Size != 0 && n > (1<<62)/t.Size {
		return Type{}, fmt.Errorf("an array of %d elements of %d bytes is larger than any memory", n, t.Size)
	}
	return Type{Type: sym.Type{Kind: sym.Array, Size: n * t.Size, Count: n}, To: &t, Module: t.Module}, nil
}

// Fundamental types of the language.
var (
	Void   = Type{Type: sym.Type{Kind: sym.Void, Name: "void"}}
	Bool   = base(sym.Bool, "bool", 1, false)
	Char   = base(sym.Char, "char", 1, true)
	UChar  = base(sym.Char, "unsigned char", 1, false)
	WChar  = base(sym.WChar, "wchar_t", 2, false)
	Short  = base(sym.Int, "short", 2, true)
	UShort = base(sym.Int, "unsigned short", 2, false)
	Int    = base(sym.Int, "int", 4, true)
	UInt   = base(sym.Int, "unsigned int", 4, false)
	Long   = base(sym.Int, "long", 4, true)
	ULong  = base(sym.Int, "unsigned long", 4, false)
	Int64  = base(sym.Int, "__int64", 8, true)
	UInt64 = base(sym.Int, "unsigned __int64", 8, false)
	Float  = base(sym.Float, "float", 4, true)
	Double = base(sym.Float, "double", 8, true)
)

func base(k sym.TypeKind, name string, size uint64, signed bool) Type {
	return Type{Type: sym.Type{Kind: k, Name: name, Size: size, Signed: signed}}
}

// IsInteger says whether values are whole numbers, enumerations and bit fields
// included.
func (t Type) IsInteger() bool {
	switch t.Kind {
	case sym.Bool, sym.Char, sym.WChar, sym.Int, sym.Enum, sym.BitField:
		return true
	}
	return false
}

// HasMembers says whether it is a structure or a union.
func (t Type) HasMembers() bool { return t.Kind == sym.Struct || t.Kind == sym.Union }

// isText says whether values are characters that make strings.
func (t Type) isText() bool {
	return t.Size == 1 && (t.Kind == sym.Char || t.Kind == sym.Int) || t.Kind == sym.WChar && t.Size == 2
}

// Style is how C writes types.
type Style uint8

// Styles.
const (
	Expression Style = iota // of ?? and dv: struct _X *, int64, <function> *
	Model                   // of dx: _X *, __int64, void (__cdecl*)(int)
)

// fixed are names of fundamental types as they are written in DWARF.
var fixed = map[string]string{
	"long unsigned int": "unsigned long", "long int": "long", "short int": "short", "short unsigned int": "unsigned short",
	"long long int": "__int64", "long long unsigned int": "unsigned __int64", "_Bool": "bool", "unsigned": "unsigned int",
}

// C is the type as C writes it.
func (t Type) C(s Style) string { return t.c(s, 0) }

func (t Type) c(s Style, depth int) string {
	if depth > maxDepth {
		return "..."
	}
	of := func() string {
		e, err := t.Element()
		if err != nil {
			return "<damaged type>"
		}
		return e.c(s, depth+1)
	}
	switch t.Kind {
	case 0, sym.Void:
		return "void"
	case sym.Pointer:
		// The stars of a chain together: those in front of an array or a function
		// stand in parentheses, as in int (**)[4].
		stars := ""
		e, err := t, error(nil)
		for n := 0; e.Kind == sym.Pointer && err == nil && n < maxDepth; n++ {
			star := "*"
			if e.Reference {
				star = "&"
			}
			stars = star + stars
			e, err = e.Element()
		}
		switch {
		case err != nil:
			return "<damaged type> " + stars
		case e.Kind == sym.Pointer: // to itself, most likely
			return "... " + stars
		case e.Kind == sym.Func && s == Model:
			r, _ := e.Element()
			return r.c(s, depth+1) + " (__cdecl" + stars + ")(" + e.params(depth+1) + ")"
		case e.Kind == sym.Array:
			of, dims, err := e.dims()
			switch {
			case err != nil:
				return "<damaged type> " + stars
			case of.Kind == sym.Array:
				return "... (" + stars + ")" + dims
			}
			return of.c(s, depth+1) + " (" + stars + ")" + dims
		case s == Model:
			stars = strings.Join(strings.Split(stars, ""), " ") // char * *
		}
		return e.c(s, depth+1) + " " + stars
	case sym.Array:
		e, dims, err := t.dims()
		if err != nil {
			return "<damaged type> " + dims
		}
		if e.Kind == sym.Array { // it is of itself, most likely
			return "... " + dims
		}
		return e.c(s, depth+1) + " " + dims
	case sym.Func:
		if s == Expression {
			return "<function>"
		}
		return of() + " (" + t.params(depth+1) + ")"
	case sym.BitField:
		return of()
	case sym.Enum, sym.Struct, sym.Union:
		name := t.Name
		if name == "" {
			name = "<unnamed-tag>"
		}
		if s == Model {
			return name
		}
		return t.tag() + " " + name
	}
	name := t.Name
	if n, ok := fixed[name]; ok {
		name = n
	}
	if name == "" {
		name = t.plain()
	}
	if s == Expression {
		name = strings.ReplaceAll(name, "__int", "int")
	}
	return name
}

// dims are the dimensions of an array, and what is in it.
func (t Type) dims() (e Type, dims string, err error) {
	e = t
	for range maxDepth {
		if e.Kind != sym.Array || err != nil {
			break
		}
		dims += fmt.Sprintf("[%d]", e.Count)
		e, err = e.Element()
	}
	return e, dims, err
}

// params are the parameters of a function.
func (t Type) params(depth int) string {
	var out []string
	for _, id := range t.Params[:min(len(t.Params), 32)] {
		p, err := Of(t.File, id, t.Module)
		if err != nil {
			return "..."
		}
		out = append(out, p.c(Model, depth+1))
	}
	if t.Variadic || len(t.Params) > 32 {
		out = append(out, "...")
	}
	return strings.Join(out, ",")
}

// tag is the word in front of the name of a type.
func (t Type) tag() string {
	switch {
	case t.Kind == sym.Union:
		return "union"
	case t.Kind == sym.Enum:
		return "enum"
	case t.Class:
		return "class"
	}
	return "struct"
}

// plain is a name for a number whose file gave it none.
func (t Type) plain() string {
	sign := "unsigned "
	if t.Signed {
		sign = ""
	}
	switch {
	case t.Kind == sym.Bool:
		return "bool"
	case t.Kind == sym.Float && t.Size == 4:
		return "float"
	case t.Kind == sym.Float && t.Size == 8:
		return "double"
	case t.Kind == sym.Char && t.Size == 1:
		return sign + "char"
	case t.Kind == sym.WChar:
		return "wchar_t"
	case t.Kind == sym.Int:
		switch t.Size {
		case 1:
			return sign + "char"
		case 2:
			return sign + "short"
		case 4:
			return sign + "long"
		}
		return fmt.Sprintf("%s__int%d", sign, 8*t.Size)
	}
	return "<unnamed-type>"
}

// Member is a field of a structure, wherever it is declared: the fields of bases
// and of unnamed structures and unions count as its own.
type Member struct {
	sym.Member
	Of Type // the structure that declares it
}

// Members are the fields of a structure or union, or the enumerators, in order,
// at most maxMembers. Offsets are from the start of t. With whole, bases stay
// what they are.
func (t Type) Members(whole bool) ([]Member, error) {
	if t.File == nil || t.ID == 0 {
		return nil, nil
	}
	f := flattener{whole: whole, inner: maxInner}
	err := f.add(t, 0, 0)
	return f.out, err
}

type flattener struct {
	out   []Member
	whole bool
	inner int // left of the fields of bases and unnamed structures, which a file may say hold each other
}

func (f *flattener) add(t Type, at uint64, depth int) error {
	list, err := t.File.Members(t.ID)
	if err != nil {
		return err
	}
	for _, m := range list {
		if depth > 0 {
			f.inner--
		}
		if len(f.out) >= maxMembers || f.inner < 0 {
			return nil
		}
		m.Offset += at
		inline := m.Kind == sym.Base && !f.whole || m.Kind == sym.Field && m.Name == ""
		if inline && depth < maxNested {
			inner, err := Of(t.File, m.Type, t.Module)
			if err != nil {
				return err
			}
			if inner.HasMembers() && inner.ID != t.ID {
				if err := f.add(inner, m.Offset, depth+1); err != nil {
					return err
				}
				continue
			}
		}
		f.out = append(f.out, Member{m, t})
	}
	return nil
}

// Find is a field by its name: as it is written and, if there is none, in any
// case.
func (t Type) Find(name string) (Type, Member, error) {
	if !t.HasMembers() {
		return Type{}, Member{}, fmt.Errorf("%s has no fields", t.C(Expression))
	}
	list, err := t.Members(false)
	if err != nil {
		return Type{}, Member{}, err
	}
	for _, exact := range []bool{true, false} {
		for _, m := range list {
			if m.Kind == sym.Enumerator || m.Name == "" || m.Name != name && (exact || !strings.EqualFold(m.Name, name)) {
				continue
			}
			ft, err := Of(m.Of.File, m.Type, t.Module)
			return ft, m, err
		}
	}
	return Type{}, Member{}, fmt.Errorf("%s has no field %q", t.C(Expression), brief.Text(name, 60))
}

// Path finds a field by its path, as Header.Lock or Items[2].Next, and says what
// it is and how far from the start. It follows no pointers.
func (t Type) Path(path string) (Type, uint64, error) {
	at := uint64(0)
	if strings.Count(path, ".") > maxDepth {
		return Type{}, 0, fmt.Errorf("the path %q is longer than %d fields", brief.Text(path, 60), maxDepth)
	}
	for step := range strings.SplitSeq(path, ".") {
		name, index, err := splitIndex(strings.TrimSpace(step))
		if err != nil {
			return Type{}, 0, err
		}
		ft, m, err := t.Find(name)
		if err != nil {
			return Type{}, 0, err
		}
		if m.Kind == sym.StaticField {
			return Type{}, 0, fmt.Errorf("%s is static: it lies in no structure", m.Name)
		}
		t, at = ft, at+m.Offset
		for _, i := range index {
			if t.Kind != sym.Array {
				return Type{}, 0, fmt.Errorf("%s is no array", name)
			}
			if t, err = t.Element(); err != nil {
				return Type{}, 0, err
			}
			if t.Size != 0 && i > (maxOffset-min(at, maxOffset))/t.Size {
				return Type{}, 0, fmt.Errorf("%s: element %d is in no memory", name, i)
			}
			at += i * t.Size
		}
	}
	return t, at, nil
}

// maxOffset is how far behind the beginning of a type a field is looked for, in
// bytes. An index may be beyond an array, whose last element many structures let
// stand for more.
const maxOffset = 1 << 62

// splitIndex takes name[1][2] apart.
func splitIndex(step string) (name string, index []uint64, err error) {
	name, rest, ok := strings.Cut(step, "[")
	if name == "" {
		return "", nil, errors.New("a field has a name")
	}
	for ok {
		var in string
		if in, rest, ok = strings.Cut(rest, "]"); !ok {
			return "", nil, fmt.Errorf("%q: the index ends with ]", brief.Text(step, 60))
		}
		n, err := decimal(in)
		if err != nil {
			return "", nil, fmt.Errorf("%q: %w", brief.Text(step, 60), err)
		}
		if index = append(index, n); len(index) > maxNested {
			return "", nil, fmt.Errorf("%q: an array has fewer dimensions", brief.Text(step, 60))
		}
		if rest == "" {
			return name, index, nil
		}
		if rest, ok = strings.CutPrefix(rest, "["); !ok {
			return "", nil, fmt.Errorf("%q: something follows the index", brief.Text(step, 60))
		}
	}
	return name, index, nil
}

// decimal reads an index, which is decimal whatever the base is.
func decimal(s string) (uint64, error) {
	if s == "" || len(s) > 12 {
		return 0, errors.New("an index is a decimal number")
	}
	n := uint64(0)
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, errors.New("an index is a decimal number")
		}
		n = n*10 + uint64(c-'0')
	}
	return n, nil
}

// known are types that every Windows program knows, for files that do not name
// them: a letter for each, and how they are made.
var known = map[string]Type{
	"bool": Bool, "char": Char, "short": Short, "int": Int, "long": Long, "float": Float, "double": Double, "void": Void, "wchar_t": WChar,
	"__int8": Char, "__int16": Short, "__int32": Int, "__int64": Int64, "int64": Int64,
	"CHAR": Char, "UCHAR": UChar, "BYTE": UChar, "BOOLEAN": UChar, "KIRQL": UChar, "CCHAR": Char, "UINT8": UChar, "INT8": Char, "KPROCESSOR_MODE": Char,
	"SHORT": Short, "USHORT": UShort, "WORD": UShort, "WCHAR": WChar, "INT16": Short, "UINT16": UShort,
	"INT": Int, "UINT": UInt, "BOOL": Int, "INT32": Int, "UINT32": UInt,
	"LONG": Long, "ULONG": ULong, "DWORD": ULong, "NTSTATUS": Long, "HRESULT": Long, "LONG32": Int, "ULONG32": UInt, "ACCESS_MASK": ULong, "KPRIORITY": Long,
	"LONGLONG": Int64, "ULONGLONG": UInt64, "LONG64": Int64, "ULONG64": UInt64, "DWORD64": UInt64, "DWORDLONG": UInt64, "INT64": Int64, "UINT64": UInt64,
	"FLOAT": Float, "DOUBLE": Double, "VOID": Void,
}

// Known is a type that every Windows program knows by its name: int, ULONG,
// PVOID. pointer is the size of a pointer in bytes.
func Known(name string, pointer int) (Type, bool) {
	if t, ok := known[name]; ok {
		return t, true
	}
	word := func(wide, narrow Type) Type {
		if pointer == 8 {
			return wide
		}
		return narrow
	}
	switch name {
	case "ULONG_PTR", "SIZE_T", "DWORD_PTR", "UINT_PTR", "size_t", "KAFFINITY", "uintptr_t", "KSPIN_LOCK":
		return word(UInt64, ULong), true
	case "LONG_PTR", "SSIZE_T", "INT_PTR", "ptrdiff_t", "intptr_t":
		return word(Int64, Long), true
	case "PVOID", "HANDLE", "PVOID64":
		return PointerTo(Void, pointer), true
	case "PSTR", "LPSTR", "PCSTR", "LPCSTR", "PCHAR":
		return PointerTo(Char, pointer), true
	case "PWSTR", "LPWSTR", "PCWSTR", "LPCWSTR", "PWCHAR":
		return PointerTo(WChar, pointer), true
	}
	if to, ok := known[strings.TrimPrefix(name, "P")]; ok && strings.HasPrefix(name, "P") && name == strings.ToUpper(name) {
		return PointerTo(to, pointer), true
	}
	return Type{}, false
}
