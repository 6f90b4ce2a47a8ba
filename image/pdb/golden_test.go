package pdb

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"openkd/image/pe"
	"openkd/image/sym"
)

var update = flag.Bool("update", false, "write testdata/*.txt anew")

// TestGolden compares all that is said of the fixtures with what was checked in.
// The tests against LLVM say whether that is right; this one works without.
func TestGolden(t *testing.T) {
	for _, name := range []string{"x86", "x64", "arm64"} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() && name != "x64" {
				t.Skip("one is enough to see that it works")
			}
			f := open(t, "testdata/"+name+".pdb")
			got := everything(t, f)
			path := "testdata/" + name + ".txt"
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			want := strings.ReplaceAll(string(raw), "\r\n", "\n")
			if got == want {
				return
			}
			g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
			for i := range max(len(g), len(w)) {
				if i >= len(g) || i >= len(w) || g[i] != w[i] {
					t.Fatalf("line %d\n got %q\nwant %q", i+1, g[min(i, len(g)-1)], w[min(i, len(w)-1)])
				}
			}
		})
	}
}

// everything describes symbols, types, lines and scopes.
func everything(t *testing.T, f *File) string {
	var b strings.Builder
	id := f.Identity()
	fmt.Fprintf(&b, "identity %x %d private %v\n", id.GUID, id.Age, f.Private())
	var list []sym.Symbol
	for s, err := range f.Symbols(func(string) bool { return true }) {
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b sym.Symbol) int {
		return cmp.Or(cmp.Compare(a.RVA, b.RVA), strings.Compare(a.Name+a.Linkage, b.Name+b.Linkage))
	})
	kinds := map[sym.Kind]string{sym.Public: "public", sym.Function: "function", sym.Data: "data", sym.Label: "label", sym.Thunk: "thunk", sym.Constant: "constant", sym.TypeDef: "typedef"}
	for _, s := range list {
		if s.Kind == sym.Constant || s.Kind == sym.TypeDef {
			fmt.Fprintf(&b, "%s %s %s %d\n", kinds[s.Kind], s.Name, typeName(t, f, s.Type, 0), s.Value)
			continue
		}
		full, ok, err := f.ByRVA(s.RVA)
		if err != nil {
			t.Fatal(err)
		}
		if ok && full.RVA == s.RVA && full.Name == s.Name {
			s = full
		}
		fmt.Fprintf(&b, "%s %x+%x %s", kinds[s.Kind], s.RVA, s.Size, s.Name)
		if s.Linkage != "" {
			fmt.Fprintf(&b, " = %s", s.Linkage)
		}
		if s.Static {
			b.WriteString(" static")
		}
		if s.Code {
			b.WriteString(" code")
		}
		if s.Type != 0 {
			b.WriteString(" : " + typeName(t, f, s.Type, 0))
		}
		b.WriteByte('\n')
	}
	var types []sym.NamedType
	for n, err := range f.TypeNames(func(string) bool { return true }) {
		if err != nil {
			t.Fatal(err)
		}
		types = append(types, n)
	}
	slices.SortFunc(types, func(a, b sym.NamedType) int { return strings.Compare(a.Name, b.Name) })
	for _, n := range types {
		typ, err := f.Type(n.ID)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "type %s = %s size %d\n", n.Name, typeName(t, f, n.ID, 0), typ.Size)
		if typ.Name != n.Name {
			continue
		}
		members, err := f.Members(n.ID)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range members {
			if m.Kind == sym.Enumerator {
				fmt.Fprintf(&b, "  %s = %d\n", m.Name, m.Value)
				continue
			}
			kind := map[sym.MemberKind]string{sym.Base: "base ", sym.VirtualBase: "virtual base ", sym.StaticField: "static ", sym.VTable: "vtable "}[m.Kind]
			fmt.Fprintf(&b, "  +%d %s%s : %s\n", m.Offset, kind, m.Name, typeName(t, f, m.Type, 0))
		}
	}
	// Frames, lines and variables wherever one of them changes.
	for _, s := range list {
		if s.Kind != sym.Function {
			continue
		}
		last := ""
		for off := range s.Size {
			text := strings.Join(framesAt(t, f, s.RVA+off), " < ")
			text = strings.ReplaceAll(text, `c:\fixture\`, "")
			scopes, err := f.Scopes(s.RVA + off)
			if err != nil {
				t.Fatal(err)
			}
			for _, sc := range scopes {
				for _, v := range sc.Vars {
					if len(v.Loc) == 0 {
						continue
					}
					text += " " + v.Name
					if v.Param {
						text += "^"
					}
					for _, l := range v.Loc {
						switch l.Kind {
						case sym.InRegister:
							text += ":" + l.Reg
						case sym.RegRelative:
							text += fmt.Sprintf(":[%s%+d]", l.Reg, l.Offset)
						case sym.FrameBase:
							text += fmt.Sprintf(":[base%+d]", l.Offset)
						case sym.AtRVA:
							text += fmt.Sprintf(":%x", l.RVA)
						case sym.IsConstant:
							text += fmt.Sprintf(":=%x", l.Value)
						}
						if l.PieceSize != 0 {
							text += fmt.Sprintf("(%d,%d)", l.PieceOffset, l.PieceSize)
						}
					}
				}
			}
			if text != last {
				fmt.Fprintf(&b, "%x %s\n", s.RVA+off, text)
				last = text
			}
		}
	}
	return b.String()
}

// typeName writes a type.
func typeName(t *testing.T, f *File, id sym.TypeID, depth int) string {
	if id == 0 {
		return "none"
	}
	if depth > 8 {
		return "..."
	}
	typ, err := f.Type(id)
	if err != nil {
		t.Fatal(err)
	}
	q := ""
	if typ.Const {
		q += " const"
	}
	if typ.Volatile {
		q += " volatile"
	}
	elem := func() string { return typeName(t, f, typ.Elem, depth+1) }
	switch typ.Kind {
	case sym.Pointer:
		if typ.Reference {
			return elem() + "&" + q
		}
		return elem() + "*" + q
	case sym.Modifier:
		return elem() + q
	case sym.Array:
		return fmt.Sprintf("%s[%d]", elem(), typ.Count)
	case sym.BitField:
		return fmt.Sprintf("%s:%d.%d", elem(), typ.BitPos, typ.BitLen)
	case sym.Func:
		var params []string
		for _, p := range typ.Params {
			params = append(params, typeName(t, f, p, depth+1))
		}
		if typ.Variadic {
			params = append(params, "...")
		}
		return elem() + "(" + strings.Join(params, ",") + ")"
	case sym.Struct:
		if typ.Class {
			return "class " + typ.Name
		}
		return "struct " + typ.Name
	case sym.Union:
		return "union " + typ.Name
	case sym.Enum:
		return "enum " + typ.Name + " " + elem()
	case sym.Opaque:
		return "opaque " + typ.Name
	}
	return typ.Name
}

// TestImagesMatch: the images of the fixtures name their PDBs by what Identity
// returns.
func TestImagesMatch(t *testing.T) {
	for _, name := range []string{"x86", "x64", "arm64"} {
		file, err := os.Open("testdata/" + name + ".exe")
		if err != nil {
			t.Fatal(err)
		}
		im, err := pe.Open(file, pe.File)
		if err != nil {
			t.Fatal(err)
		}
		cv, err := im.CodeView()
		if err != nil {
			t.Fatal(err)
		}
		id := open(t, "testdata/"+name+".pdb").Identity()
		if cv == nil || [16]byte(cv.GUID) != id.GUID || cv.Age != id.Age {
			t.Errorf("%s: %+v, the PDB has %+v", name, cv, id)
		}
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	}
}
