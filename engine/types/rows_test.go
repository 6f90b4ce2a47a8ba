package types

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"openkd/image/sym"
)

// fieldsOf parses fields as dt does.
func fieldsOf(t *testing.T, names ...string) []Field {
	t.Helper()
	var out []Field
	for _, n := range names {
		n, prefix := strings.CutPrefix(n, "-y ")
		f, err := ParseField(n, prefix)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, f)
	}
	return out
}

func TestFields(t *testing.T) {
	m := node()
	p := &Printer{File: fixture(), PointerSize: 8}
	at := "0xfffff800`00001008"
	for _, c := range []struct {
		fields []string
		o      Options
		want   string
	}{
		{[]string{"Flags"}, Options{}, "   +0x000 Flags : 0x1c\n"},
		{[]string{"byte", "FLAGS"}, Options{}, "   +0x000 Flags : 0x1c\n   +0x02f Byte  : 0x41 'A'\n"},
		{[]string{"-y Le", "nosuch"}, Options{}, "   +0x030 Level  : 0y101\n"},
		{[]string{"Le*"}, Options{}, "   +0x030 Level : 0y101\n"},
		{[]string{"?ig"}, Options{}, "   +0x068 Big : 0x00000001`23456789\n"},
		{[]string{"Links."}, Options{}, "   +0x008 Links  :  [ " + at + " - " + at + " ]\n      +0x000 Flink  : " + at + " _LIST_ENTRY [ " + at + " - " + at + " ]\n      +0x008 Blink  : " + at + " _LIST_ENTRY [ " + at + " - " + at + " ]\n"},
		{[]string{"Links.Blink"}, Options{}, "   +0x008 Links       :  [ " + at + " - " + at + " ]\n      +0x008 Blink       : " + at + " _LIST_ENTRY [ " + at + " - " + at + " ]\n"},
		{[]string{"Next->Mode"}, Options{}, "   +0x018 Next       : 0xfffff800`00001000 \n      +0x034 Mode       : 1 ( UserMode )\n"},
		{[]string{"Next->Next->Byte"}, Options{NoIndent: true, NoOffset: true}, "Next             : 0xfffff800`00001000 \nNext             : 0xfffff800`00001000 \nByte             : 0x41 'A'\n"},
		{[]string{"Pair[1]"}, Options{}, "   +0x060 Pair[1] : 0\n"},
		{[]string{"Pair[0]"}, Options{}, "   +0x058 Pair[0] : 7\n"},
		{[]string{"Name[1]"}, Options{}, "   +0x021 Name[1] : 0x79 'y'\n"},
		{[]string{"Pair[99999999]"}, Options{}, "   +0x2faf0850 Pair[99999999] : ????\n"},
		{[]string{"Pair"}, Options{Arrays: -1}, "   +0x058 Pair : \n    [00] 7\n    [01] 0\n"},
		{[]string{"Pair"}, Options{Arrays: 1, NoOffset: true}, "   Pair : \n    [00] 7\n"},
		{[]string{"Name"}, Options{Arrays: 2}, "   +0x020 Name : \n    [00] 0x53 'S'\n    [01] 0x79 'y'\n"},
		{[]string{"Mode", "Byte"}, Options{Compact: true}, " +0x02f Byte : 0x41 'A' +0x034 Mode : 1 ( UserMode )"},
		{[]string{"On", "Level"}, Options{Verbose: true}, "   +0x030 On    : Bitfield 0y1\n   +0x030 Level : Bitfield 0y101\n"},
	} {
		o := c.o
		o.Addr, o.Memory, o.Fields = m.at, m, fieldsOf(t, c.fields...)
		got := ""
		for r, err := range p.Rows(t.Context(), tNode, o) {
			if err != nil {
				t.Errorf("%v: %v", c.fields, err)
			}
			got += r.String()
			if !o.Compact {
				got += "\n"
			}
		}
		if got != c.want {
			t.Errorf("%v\n%s--- want\n%s", c.fields, got, c.want)
		}
	}
	for _, bad := range []string{"a[", "a[x]", "a[1", "[1]", strings.Repeat(".", 40), "a[1]b", "a[123456789012345]"} {
		if _, err := ParseField(bad, false); err == nil {
			t.Errorf("%q is a field", bad)
		}
	}
}

// What is unreadable is said, once, at the end.
func TestUnreadable(t *testing.T) {
	m := node()
	p := &Printer{File: fixture(), PointerSize: 8}
	short := &memory{at: m.at, b: m.b[:0x22]}
	ty, err := p.of(tNode)
	if err != nil {
		t.Fatal(err)
	}
	var last error
	n := 0
	for _, err := range p.TypeRows(t.Context(), ty, Options{Addr: m.at, Memory: short}) {
		if n++; err != nil {
			last = err
		}
	}
	var lost *UnreadableError
	if !errors.As(last, &lost) || lost.Addr != m.at+0x22 || n != 16 {
		t.Errorf("%d rows, %v", n, last)
	}
	if s := fmt.Sprint(last); s != "Memory read error fffff80000001022" {
		t.Error(s)
	}
}

func TestVerboseAndBlocks(t *testing.T) {
	m := node()
	p := &Printer{File: fixture(), PointerSize: 8}
	got := lines(t, p.Rows(t.Context(), tNode, Options{Verbose: true}))
	for _, want := range []string{
		"   +0x008 Links            : struct _LIST_ENTRY, 2 elements, 0x10 bytes\n", "   +0x018 Next             : Ptr64 to struct _NODE, 15 elements, 0x80 bytes\n",
		"   +0x030 Level            : Bitfield Pos 4, 3 Bits\n", "   +0x034 Mode             : Enum _MODE,  3 total enums\n", "   +0x050 Context          : Ptr64 to Void\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	got = lines(t, p.Rows(t.Context(), tNode, Options{Blocks: true, Addr: m.at, Memory: m}))
	for _, want := range []string{
		"      +0x000 Flink            : 0xfffff800`00001008 \n", "   +0x018 Next             : 0xfffff800`00001000 \n   +0x020", "   +0x058 Pair             : \n    [00] 7\n    [01] 0\n",
		"   +0x038 Text             : _UNICODE_STRING \"te?t\"\n      +0x000 Length           : 8\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in\n%s", want, got)
		}
	}
	if h := p.Headline(must(p.of(tNode))); h != "struct _NODE, 15 elements, 0x80 bytes" {
		t.Error(h)
	}
}

func must(t Type, err error) Type {
	if err != nil {
		panic(err)
	}
	return t
}

func TestNatural(t *testing.T) {
	m := node()
	p := &Printer{File: fixture(), PointerSize: 8, Symbol: func(a uint64) (string, uint64, bool) { return "nt!F", a & 0xFF, true }}
	ty := must(p.of(tNode))
	show := func(o Natural) string {
		o.Addr, o.Memory = m.at, m
		var s strings.Builder
		s.WriteString(p.NaturalHead(t.Context(), "x", ty, &o) + "\n")
		for l, err := range p.NaturalRows(t.Context(), ty, o) {
			if err != nil && !errors.Is(err, ErrTooMuch) {
				t.Fatal(err)
			}
			s.WriteString(l + "\n")
		}
		return s.String()
	}
	want := `x                 [Type: _NODE]
    [+0x000] Flags            : 0x1c [Type: unsigned long]
    [+0x004] Signed           : -1 [Type: long]
    [+0x008] Links            [Type: _LIST_ENTRY]
    [+0x018] Next             : 0xfffff80000001000 [Type: _NODE *]
    [+0x020] Name             : "System" [Type: unsigned char [15]]
    [+0x02f] Byte             : 0x41 [Type: unsigned char]
    [+0x030 ( 0: 0)] On               : 0x1 [Type: unsigned long]
    [+0x030 ( 6: 4)] Level            : 0x5 [Type: unsigned long]
    [+0x034] Mode             : UserMode (1) [Type: _MODE]
    [+0x038] Text             : "te?t" [Type: _UNICODE_STRING]
    [+0x048] Routine          : 0xfffff80000002000 : nt!F+0x0 [Type: long (__cdecl*)()]
    [+0x050] Context          : 0x0 [Type: void *]
    [+0x058] Pair             [Type: unsigned __int64 [2]]
    [+0x068] Big              : 0x123456789 [Type: unsigned __int64]
    [+0x070] Weight           : 1.500000 [Type: double]
`
	if got := show(Natural{Depth: 1}); got != want {
		t.Errorf("got\n%s", got)
	}
	if got := show(Natural{}); got != "x                 [Type: _NODE]\n" {
		t.Errorf("got\n%s", got)
	}
	got := show(Natural{Depth: 2, Base: 'd', Names: true})
	for _, w := range []string{"        [0]              : 7 [Type: unsigned __int64]\n", "Flags            : 28 [Type", "Mode             : UserMode [Type", "        [+0x008] Blink            : 0xfffff80000001008 [Type: _LIST_ENTRY *]\n"} {
		if !strings.Contains(got, w) {
			t.Errorf("no %q in\n%s", w, got)
		}
	}
	if n := strings.Count(show(Natural{Depth: 1000}), "\n"); n < 1000 || n > maxRows+2 {
		t.Errorf("%d lines", n)
	}
	o := Natural{Addr: 0x10, Memory: m}
	if got := p.NaturalHead(t.Context(), "y", must(p.of(tUlong)), &o); got != "y                 : Unable to read memory at Address 0x10" {
		t.Error(got)
	}
}

// zeros is memory that can be read everywhere.
type zeros struct{ bytes *int }

func (z zeros) Read(_ context.Context, _ uint64, b []byte) (int, error) {
	*z.bytes += len(b)
	for i := range b {
		b[i] = 1
	}
	return len(b), nil
}

// Files that lie about their types cost no more than a bounded answer.
func TestHostile(t *testing.T) {
	const (
		self = iota + 100
		pself
		array
		deep
		unnamed
		based
		enum
		opaque
		wide
		huge
		bit
	)
	f := fixture()
	f.types[self] = sym.Type{Kind: sym.Struct, Name: "SELF", Size: 1 << 40}
	f.types[pself] = sym.Type{Kind: sym.Pointer, Size: 8, Elem: self}
	f.types[array] = sym.Type{Kind: sym.Array, Elem: self, Count: 1 << 40, Size: 1 << 62}
	f.types[deep] = sym.Type{Kind: sym.Array, Elem: deep, Count: 1 << 40}
	f.types[unnamed] = sym.Type{Kind: sym.Union, Size: 8}
	f.types[based] = sym.Type{Kind: sym.Struct, Name: "BASED", Size: 8}
	f.types[enum] = sym.Type{Kind: sym.Enum, Size: 1 << 50, Elem: enum}
	f.types[opaque] = sym.Type{Kind: sym.Opaque}
	f.types[wide] = sym.Type{Kind: sym.Int, Size: 1 << 33}
	f.types[huge] = sym.Type{Kind: sym.Pointer, Size: 1 << 44, Elem: huge}
	f.types[bit] = sym.Type{Kind: sym.BitField, Elem: bit, BitPos: 250, BitLen: 255}
	var many []sym.Member
	for i := range 3000 {
		many = append(many, sym.Member{Name: fmt.Sprintf("m%d", i), Kind: sym.Field, Type: sym.TypeID(self + i%11), Offset: uint64(i) << 50})
	}
	f.members[self] = append([]sym.Member{{Name: "me", Kind: sym.Field, Type: self}, {Name: "next", Kind: sym.Field, Type: pself}}, many...)
	var in []sym.Member
	for range 200 {
		in = append(in, sym.Member{Kind: sym.Field, Type: unnamed}, sym.Member{Kind: sym.Field, Type: based})
	}
	f.members[unnamed] = in
	f.members[based] = append([]sym.Member{{Kind: sym.Base, Type: based}, {Kind: sym.Base, Type: unnamed}, {Kind: sym.VirtualBase, Type: 9999}, {Name: "gone", Kind: sym.Field, Type: 9999}}, in...)
	f.members[enum] = many
	p := &Printer{File: f, PointerSize: 8}
	for id := sym.TypeID(self); id <= bit; id++ {
		for _, o := range []Options{{}, {Depth: 1000}, {Blocks: true, Arrays: -1}, {Verbose: true, Depth: 3}, {Fields: []Field{{Pattern: "me.me.me.."}}}, {Depth: 16, Compact: true}} {
			for _, memory := range []bool{false, true} {
				bytes, rows := 0, 0
				f.asked = 0
				if memory {
					o.Memory, o.Addr = zeros{&bytes}, 0xFFFFFFFFFFFFF000
				}
				ty, err := p.of(id)
				if err != nil {
					continue
				}
				for r := range p.TypeRows(t.Context(), ty, o) {
					rows++
					_ = r.String()
				}
				if memory {
					size, then := p.Plan(ty, o)
					if size > maxValue || len(then) > maxPlanned {
						t.Errorf("%d: a plan of %d bytes and %d pointers", id, size, len(then))
					}
					if o.Depth != 1000 {
						continue
					}
					for range p.NaturalRows(t.Context(), ty, Natural{Depth: o.Depth, Memory: o.Memory, Addr: o.Addr}) {
						rows++
					}
					_ = p.Text(t.Context(), o.Memory, ty, []byte{1, 2, 3, 4, 5, 6, 7, 8})
					_ = p.Expression(t.Context(), o.Memory, ty, []byte{1, 2, 3, 4, 5, 6, 7, 8})
					_, _ = p.Value(t.Context(), o.Memory, id, 8)
				}
				_, _, _ = ty.C(Model), ty.C(Expression), p.Name(id)
				if rows > 2*maxRows+4 || bytes > 64<<20 {
					t.Errorf("%d %+v: %d rows, %d bytes", id, o, rows, bytes)
				}
				if f.asked > 100*(rows+1) {
					t.Errorf("%d %+v: the file was asked %d times for %d rows", id, o, f.asked, rows)
				}
			}
		}
	}
}

// FuzzParseField reads fields that people type.
func FuzzParseField(f *testing.F) {
	f.Add("Links.Flink", false)
	f.Add("Pair[1][2]..", true)
	f.Add("Next->Next->Byte", false)
	f.Add("Pair[999999999999]", false)
	f.Add("Next->Next->Next->Next->Next->", true)
	m := node()
	p := &Printer{File: fixture(), PointerSize: 8}
	f.Fuzz(func(t *testing.T, s string, prefix bool) {
		fl, err := ParseField(s, prefix)
		if err != nil {
			return
		}
		n := 0
		for r := range p.Rows(t.Context(), tNode, Options{Fields: []Field{fl}, Addr: m.at, Memory: m}) {
			_ = r.String()
			n++
		}
		if n > maxRows+1 {
			t.Fatalf("%q: %d rows", s, n)
		}
	})
}
