package types

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"regexp"
	"strings"
	"testing"

	"openkd/image/pdb"
	"openkd/image/sym"
)

// file is a symbol file made of tables.
type file struct {
	sym.File
	types   map[sym.TypeID]sym.Type
	members map[sym.TypeID][]sym.Member
	asked   int // types and lists of members
}

func (f *file) Type(id sym.TypeID) (sym.Type, error) {
	f.asked++
	t, ok := f.types[id]
	if !ok {
		return t, fmt.Errorf("no type %d", id)
	}
	t.ID = id
	return t, nil
}
func (f *file) Members(id sym.TypeID) ([]sym.Member, error) {
	f.asked++
	return f.members[id], nil
}

// memory is a target with one piece of memory.
type memory struct {
	at    uint64
	b     []byte
	reads int
}

func (m *memory) Read(_ context.Context, addr uint64, b []byte) (int, error) {
	m.reads++
	if addr < m.at || addr >= m.at+uint64(len(m.b)) {
		return 0, fmt.Errorf("%#x cannot be read", addr)
	}
	return copy(b, m.b[addr-m.at:]), nil
}

const (
	tUlong = iota + 1
	tLong
	tByte
	tVoid
	tPVoid
	tUlonglong
	tList
	tPList
	tBit0
	tBits
	tMode
	tName
	tString
	tPWchar
	tUshort
	tFunc
	tPFunc
	tAlias
	tNode
	tPNode
	tArray
	tSelf
	tWchar
	tFloat
)

func fixture() *file {
	return &file{
		types: map[sym.TypeID]sym.Type{
			tUlong: {Kind: sym.Int, Size: 4}, tLong: {Kind: sym.Int, Size: 4, Signed: true},
			tByte: {Kind: sym.Char, Size: 1}, tVoid: {Kind: sym.Void},
			tPVoid: {Kind: sym.Pointer, Size: 8, Elem: tVoid}, tUlonglong: {Kind: sym.Int, Size: 8},
			tList: {Kind: sym.Struct, Name: "_LIST_ENTRY", Size: 16}, tPList: {Kind: sym.Pointer, Size: 8, Elem: tList},
			tBit0: {Kind: sym.BitField, Elem: tUlong, BitPos: 0, BitLen: 1}, tBits: {Kind: sym.BitField, Elem: tUlong, BitPos: 4, BitLen: 3},
			tMode: {Kind: sym.Enum, Name: "_MODE", Size: 4, Elem: tLong}, tName: {Kind: sym.Array, Elem: tByte, Count: 15, Size: 15},
			tString: {Kind: sym.Struct, Name: "_UNICODE_STRING", Size: 16}, tWchar: {Kind: sym.WChar, Size: 2},
			tPWchar: {Kind: sym.Pointer, Size: 8, Elem: tWchar}, tUshort: {Kind: sym.Int, Size: 2},
			tFunc: {Kind: sym.Func, Elem: tLong}, tPFunc: {Kind: sym.Pointer, Size: 8, Elem: tFunc},
			tAlias: {Kind: sym.Alias, Name: "ULONG", Elem: tUlong}, tNode: {Kind: sym.Struct, Name: "_NODE", Size: 0x80},
			tPNode: {Kind: sym.Pointer, Size: 8, Elem: tNode}, tArray: {Kind: sym.Array, Elem: tUlonglong, Count: 2, Size: 16},
			tSelf: {Kind: sym.Alias, Name: "LOOP", Elem: tSelf}, tFloat: {Kind: sym.Float, Size: 8},
		},
		members: map[sym.TypeID][]sym.Member{
			tList:   {{Name: "Flink", Kind: sym.Field, Type: tPList}, {Name: "Blink", Kind: sym.Field, Type: tPList, Offset: 8}},
			tString: {{Name: "Length", Kind: sym.Field, Type: tUshort}, {Name: "MaximumLength", Kind: sym.Field, Type: tUshort, Offset: 2}, {Name: "Buffer", Kind: sym.Field, Type: tPWchar, Offset: 8}},
			tMode:   {{Name: "KernelMode", Kind: sym.Enumerator}, {Name: "UserMode", Kind: sym.Enumerator, Value: 1}, {Name: "Far", Kind: sym.Enumerator, Value: -2}},
			tNode: {
				{Name: "Flags", Kind: sym.Field, Type: tAlias}, {Name: "Signed", Kind: sym.Field, Type: tLong, Offset: 4},
				{Name: "Links", Kind: sym.Field, Type: tList, Offset: 8}, {Name: "Next", Kind: sym.Field, Type: tPNode, Offset: 0x18},
				{Name: "Name", Kind: sym.Field, Type: tName, Offset: 0x20}, {Name: "Byte", Kind: sym.Field, Type: tByte, Offset: 0x2f},
				{Name: "On", Kind: sym.Field, Type: tBit0, Offset: 0x30}, {Name: "Level", Kind: sym.Field, Type: tBits, Offset: 0x30},
				{Name: "Mode", Kind: sym.Field, Type: tMode, Offset: 0x34}, {Name: "Text", Kind: sym.Field, Type: tString, Offset: 0x38},
				{Name: "Routine", Kind: sym.Field, Type: tPFunc, Offset: 0x48}, {Name: "Context", Kind: sym.Field, Type: tPVoid, Offset: 0x50},
				{Name: "Pair", Kind: sym.Field, Type: tArray, Offset: 0x58}, {Name: "Big", Kind: sym.Field, Type: tUlonglong, Offset: 0x68},
				{Name: "Weight", Kind: sym.Field, Type: tFloat, Offset: 0x70},
			},
		},
	}
}

func lines(t *testing.T, s iter.Seq2[Row, error]) string {
	t.Helper()
	var b strings.Builder
	for r, err := range s {
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(r.String() + "\n")
	}
	return b.String()
}

const layout = `   +0x000 Flags            : Uint4B
   +0x004 Signed           : Int4B
   +0x008 Links            : _LIST_ENTRY
   +0x018 Next             : Ptr64 _NODE
   +0x020 Name             : [15] UChar
   +0x02f Byte             : UChar
   +0x030 On               : Pos 0, 1 Bit
   +0x030 Level            : Pos 4, 3 Bits
   +0x034 Mode             : _MODE
   +0x038 Text             : _UNICODE_STRING
   +0x048 Routine          : Ptr64     long 
   +0x050 Context          : Ptr64 Void
   +0x058 Pair             : [2] Uint8B
   +0x068 Big              : Uint8B
   +0x070 Weight           : Double
`

func TestLayout(t *testing.T) {
	indented := strings.ReplaceAll(layout, "   +", "      +") // of what a pointer leads to
	indented = regexp.MustCompile(`(\S+) +: `).ReplaceAllStringFunc(indented, func(s string) string {
		return fmt.Sprintf("%-5s : ", strings.Fields(s)[0])
	})
	p := &Printer{File: fixture(), PointerSize: 8}
	if got := lines(t, p.Rows(t.Context(), tNode, Options{})); got != layout {
		t.Errorf("got\n%s", got)
	}
	if got := lines(t, p.Rows(t.Context(), tNode, Options{Fields: []Field{{Pattern: "links"}, {Pattern: "N*"}}, Depth: 1})); got != `   +0x008 Links : _LIST_ENTRY
      +0x000 Flink : Ptr64 _LIST_ENTRY
      +0x008 Blink : Ptr64 _LIST_ENTRY
   +0x018 Next  : Ptr64 _NODE
`+indented+`   +0x020 Name  : [15] UChar
` {
		t.Errorf("got\n%s", got)
	}
	if got := lines(t, p.Rows(t.Context(), tMode, Options{})); got != "   KernelMode = 0n0\n   UserMode = 0n1\n   Far = 0n-2\n" {
		t.Errorf("got\n%s", got)
	}
}

func node() *memory {
	b := make([]byte, 0x100)
	le := binary.LittleEndian
	le.PutUint32(b, 0x1c)
	le.PutUint32(b[4:], 0xFFFFFFFF)
	le.PutUint64(b[8:], 0xfffff80000001008)
	le.PutUint64(b[0x10:], 0xfffff80000001008)
	le.PutUint64(b[0x18:], 0xfffff80000001000)
	copy(b[0x20:], "System\x00rest")
	b[0x2f] = 'A'
	le.PutUint32(b[0x30:], 0x51)
	le.PutUint32(b[0x34:], 1)
	le.PutUint16(b[0x38:], 8)
	le.PutUint64(b[0x40:], 0xfffff80000001080)
	le.PutUint64(b[0x48:], 0xfffff80000002000)
	le.PutUint64(b[0x58:], 7)
	le.PutUint64(b[0x68:], 0x123456789)
	le.PutUint64(b[0x70:], 0x3FF8000000000000)
	copy(b[0x80:], "t\x00e\x00\x1b\x00t\x00")
	return &memory{at: 0xfffff80000001000, b: b}
}

func TestValues(t *testing.T) {
	m := node()
	p := &Printer{File: fixture(), PointerSize: 8, Symbol: func(a uint64) (string, uint64, bool) { return "nt!F", a & 0xFFF, true }}
	got := lines(t, p.Rows(t.Context(), tNode, Options{Addr: m.at, Memory: m}))
	want := "   +0x000 Flags            : 0x1c\n" +
		"   +0x004 Signed           : 0n-1\n" +
		"   +0x008 Links            : _LIST_ENTRY [ 0xfffff800`00001008 - 0xfffff800`00001008 ]\n" +
		"   +0x018 Next             : 0xfffff800`00001000 _NODE\n" +
		"   +0x020 Name             : [15]  \"System\"\n" +
		"   +0x02f Byte             : 0x41 'A'\n" +
		"   +0x030 On               : 0y1\n" +
		"   +0x030 Level            : 0y101\n" +
		"   +0x034 Mode             : 1 ( UserMode )\n" +
		"   +0x038 Text             : _UNICODE_STRING \"te?t\"\n" +
		"   +0x048 Routine          : 0xfffff800`00002000     long  nt!F+0\n" +
		"   +0x050 Context          : (null) \n" +
		"   +0x058 Pair             : [2] 7\n" +
		"   +0x068 Big              : 0x00000001`23456789\n" +
		"   +0x070 Weight           : 1.5\n"
	if got != want {
		t.Errorf("got\n%s", got)
	}
	if m.reads != 2 { // the structure, and the string's text
		t.Errorf("%d reads", m.reads)
	}
	short := &memory{at: m.at, b: m.b[:0x22]}
	got = lines(t, p.Rows(t.Context(), tNode, Options{Addr: m.at, Memory: short}))
	if !strings.Contains(got, "Next             : 0xfffff800`00001000 _NODE") || !strings.Contains(got, "Byte             : ????") {
		t.Errorf("half of it cannot be read:\n%s", got)
	}
	if s, err := p.Value(t.Context(), m, tUlong, m.at); s != "0x1c" || err != nil {
		t.Errorf("%q %v", s, err)
	}
	if _, err := p.Value(t.Context(), m, tUlong, 4); err == nil {
		t.Error("a value at 4")
	}
}

// A list that comes back to itself, and a name of itself, end.
func TestCycles(t *testing.T) {
	m := node()
	p := &Printer{File: fixture(), PointerSize: 8}
	rows := 0
	var last error
	for _, err := range p.Rows(t.Context(), tNode, Options{Addr: m.at, Memory: m, Depth: 100}) {
		rows++
		last = err
	}
	if rows > maxRows+1 || last != ErrTooMuch {
		t.Errorf("%d rows, %v", rows, last)
	}
	if _, err := p.Size(tSelf); err == nil {
		t.Error("a name of itself has a size")
	}
	if s := p.Name(tSelf); s != "..." {
		t.Errorf("%q", s)
	}
}

func TestField(t *testing.T) {
	p := &Printer{File: fixture(), PointerSize: 8}
	for path, want := range map[string]struct {
		id sym.TypeID
		at uint64
	}{"Flags": {tUlong, 0}, "flags": {tUlong, 0}, "Links.Blink": {tPList, 0x10}, "Pair[1]": {tUlonglong, 0x60}, "Name[3]": {tByte, 0x23}} {
		if id, at, err := p.Field(tNode, path); id != want.id || at != want.at || err != nil {
			t.Errorf("%s: %d at %#x, %v", path, id, at, err)
		}
	}
	for _, path := range []string{"", "Nothing", "Flags.x", "Flags[0]", "Pair[x]", "Links[", "Next.Flags"} {
		if _, _, err := p.Field(tNode, path); err == nil {
			t.Errorf("%q is a field", path)
		}
	}
}

// The simulator's kernel, as its compiler described it.
func TestPDB(t *testing.T) {
	f, err := pdb.Open("../../sim/kernel/image/ntkrnlmp.pdb")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	id, err := f.TypeByName("_LIST_ENTRY")
	if err != nil || id == 0 {
		t.Fatal(id, err)
	}
	p := &Printer{File: f, PointerSize: 8}
	if got := lines(t, p.Rows(t.Context(), id, Options{})); got != "   +0x000 Flink            : Ptr64 _LIST_ENTRY\n   +0x008 Blink            : Ptr64 _LIST_ENTRY\n" {
		t.Errorf("got\n%s", got)
	}
	n := 0
	for nt, err := range f.TypeNames(func(string) bool { return true }) {
		if err != nil {
			t.Fatal(err)
		}
		n++
		for _, err := range p.Rows(t.Context(), nt.ID, Options{Depth: 2}) {
			if err != nil {
				t.Errorf("%s: %v", nt.Name, err)
			}
		}
	}
	if n < 20 {
		t.Errorf("%d types", n)
	}
}

// FuzzField reads paths that people type.
func FuzzField(f *testing.F) {
	f.Add("Links.Flink")
	f.Add("Pair[1]")
	f.Add("Pair[999999999999]")
	f.Add("Next.Pair[0][0]")
	f.Add("LİNKS.ſlot[000000000001]")
	p := &Printer{File: fixture(), PointerSize: 8}
	f.Fuzz(func(t *testing.T, path string) {
		if id, at, err := p.Field(tNode, path); err == nil && (id == 0 || at > maxOffset+0x80) {
			t.Errorf("%q: %d at %#x", path, id, at)
		}
	})
}
