package dwarf

import (
	"fmt"
	"slices"
	"testing"
)

// TestLooks: what is found by looking through the file is what the tables and
// the index have, for every name and address.
func TestLooks(t *testing.T) {
	each(t, func(t *testing.T, whole *File, path string) {
		looking, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer looking.Close()
		looking.large = 0
		var names []string
		var rvas []uint32
		for s, err := range whole.Symbols(func(string) bool { return true }) {
			if err != nil {
				t.Fatal(err)
			}
			if names = append(names, s.Name, s.Linkage, s.Name[1:], stem(s.Linkage)); s.Code {
				rvas = append(rvas, s.RVA, s.RVA+s.Size/2)
			}
		}
		step := 1 + len(names)/300
		looked := int32(0)
		for i := 0; i < len(names); i += step {
			name := names[i]
			want, err1 := whole.ByName(name)
			looking.looked.Store(0)
			got, err2 := looking.ByName(name)
			looked += looking.looked.Load()
			if !slices.Equal(got, want) || fmt.Sprint(err1) != fmt.Sprint(err2) {
				t.Errorf("%q: %+v, %v; want %+v, %v", name, got, err2, want, err1)
			}
			if i%5 == 0 {
				looking.coff, looking.index = lazy[*coffTable]{}, lazy[*index]{} // some questions have needed it all
			}
		}
		for i := 0; i < len(rvas); i += 1 + len(rvas)/150 {
			want, ok1, err1 := whole.ByRVA(rvas[i])
			looking.looked.Store(0)
			got, ok2, err2 := looking.ByRVA(rvas[i])
			looked += looking.looked.Load()
			if got != want || ok1 != ok2 || err1 != nil || err2 != nil {
				t.Errorf("%#x: %+v, %v, %v; want %+v", rvas[i], got, ok2, err2, want)
			}
			if i%5 == 0 {
				looking.coff = lazy[*coffTable]{}
			}
		}
		types := 0
		for n, err := range whole.TypeNames(func(string) bool { return true }) {
			if err != nil {
				t.Fatal(err)
			}
			if types++; types > 100 {
				break
			}
			want, err1 := whole.TypeByName(n.Name)
			looking.index = lazy[*index]{}
			looking.asked.Store(0)
			got, err2 := looking.TypeByName(n.Name)
			if got != want || err1 != nil || err2 != nil {
				t.Errorf("%s: %#x, %v; want %#x, %v", n.Name, uint64(got), err2, uint64(want), err1)
			}
			a, err1 := whole.Type(want)
			b, err2 := looking.Type(want)
			if fmt.Sprint(a, err1) != fmt.Sprint(b, err2) {
				t.Errorf("%s: %+v, %v; want %+v, %v", n.Name, b, err2, a, err1)
			}
		}
		if looked < 20 || types < 20 {
			t.Errorf("%d questions, %d types", looked, types)
		}
	})
}
