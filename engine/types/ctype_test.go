package types

import (
	"testing"

	"openkd/image/sym"
)

// How ?? and dx write types that are made of others.
func TestCNames(t *testing.T) {
	ptr := func(t Type) Type { return PointerTo(t, 8) }
	array := func(of Type, n uint64) Type {
		a, err := ArrayOf(of, n)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	ref := ptr(ptr(Int))
	ref.Reference = true
	fn := Type{Type: sym.Type{Kind: sym.Func}, To: &Void}
	deep := Int
	for range 40 {
		deep = ptr(deep)
	}
	for _, c := range []struct {
		t                 Type
		expression, model string
	}{
		{Int, "int", "int"},
		{Int64, "int64", "__int64"},
		{ptr(Char), "char *", "char *"},
		{ptr(ptr(Char)), "char **", "char * *"},
		{ref, "int *&", "int * &"},
		{array(Int, 4), "int [4]", "int [4]"},
		{array(array(Int, 4), 3), "int [3][4]", "int [3][4]"},
		{array(ptr(Int), 4), "int * [4]", "int * [4]"},
		{ptr(array(Int, 4)), "int (*)[4]", "int (*)[4]"},
		{ptr(ptr(array(array(Int, 4), 3))), "int (**)[3][4]", "int (**)[3][4]"},
		{array(ptr(array(Int, 4)), 2), "int (*)[4] [2]", "int (*)[4] [2]"},
		{ptr(fn), "<function> *", "void (__cdecl*)()"},
		{ptr(ptr(fn)), "<function> **", "void (__cdecl**)()"},
		{deep, "... ****************", "... ****************"},
	} {
		if e, m := c.t.C(Expression), c.t.C(Model); e != c.expression || m != c.model {
			t.Errorf("%q and %q, want %q and %q", e, m, c.expression, c.model)
		}
	}
}
