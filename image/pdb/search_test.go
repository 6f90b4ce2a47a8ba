package pdb

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sort"
	"testing"
)

// TestSearch compares the search of sorted addresses with halving, and counts
// what it looks at.
func TestSearch(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	l := &layout{sections: []section{{rva: 0x1000, size: 1 << 24}, {rva: 0x10000000, size: 1 << 20}, {rva: 0x20000000}}}
	spread := map[string]func(n int) []addr{
		"even":   func(n int) []addr { return addresses(n, func(i int) addr { return addr{1, uint32(i * 16)} }) },
		"random": func(n int) []addr { return addresses(n, func(int) addr { return addr{1, rnd.Uint32N(1 << 24)} }) },
		"two": func(n int) []addr {
			return addresses(n, func(i int) addr { return addr{uint16(1 + i%2), rnd.Uint32N(1 << 20)} })
		},
		"heaped": func(n int) []addr { return addresses(n, func(i int) addr { return addr{1, uint32(i * i % 4096)} }) },
		"outside": func(n int) []addr {
			return addresses(n, func(int) addr { return addr{uint16(rnd.Uint32N(6)), rnd.Uint32()} })
		},
	}
	for name, make := range spread {
		for _, n := range []int{0, 1, 2, 16, 17, 40, 1000, 100000} {
			list := make(n)
			most := 0
			for range 200 {
				a := addr{uint16(rnd.Uint32N(4)), rnd.Uint32N(1 << 24)}
				if n > 0 && rnd.Uint32N(2) == 0 {
					a = list[rnd.IntN(n)]
				}
				looks := 0
				got, err := l.search(n, a, func(i int) (addr, error) {
					looks++
					return list[i], nil
				})
				want := sort.Search(n, func(i int) bool { return list[i].compare(a) > 0 })
				if err != nil || got != want {
					t.Fatalf("%s %d %v: %d, %v; want %d", name, n, a, got, err, want)
				}
				most = max(most, looks)
			}
			// Halving takes 17 for 100000; the two ends and the guesses come on top
			// where they do not help.
			if limit := map[string]int{"even": 12, "random": 14}[name]; n == 100000 && limit != 0 && most > limit {
				t.Errorf("%s: %d looks", name, most)
			} else if most > 17+2+5 {
				t.Errorf("%s %d: %d looks", name, n, most)
			}
		}
	}
	failing := fmt.Errorf("no")
	if _, err := l.search(100, addr{1, 50}, func(int) (addr, error) { return addr{}, failing }); err != failing {
		t.Error(err)
	}
}

func addresses(n int, at func(int) addr) []addr {
	list := make([]addr, n)
	for i := range list {
		list[i] = at(i)
	}
	slices.SortFunc(list, addr.compare)
	return list
}

// TestSearchBucket: in a sorted bucket every name is found, and few records are
// looked at; one out of order is noticed or does not matter.
func TestSearchBucket(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{1, 32, 33, 34, 50, 244, 5000} {
		names := make([][]byte, n)
		for i := range names {
			names[i] = fmt.Appendf(nil, "name_%d", rnd.IntN(n)) // some twice
		}
		slices.SortFunc(names, compareNames)
		looks := 0
		at := func(i int) (symRec, error) {
			looks++
			return symRec{name: names[i]}, nil
		}
		ask := append(slices.Clone(names), []byte(""), []byte("name_x"), []byte("name_99999999"))
		for _, name := range ask {
			looks = 0
			first, sorted, err := searchBucket(n, name, at)
			if err != nil || sorted != (n > 32) {
				t.Fatalf("%d: sorted %v, %v", n, sorted, err)
			}
			want := sort.Search(n, func(i int) bool { return compareNames(names[i], name) >= 0 })
			if !sorted {
				want = 0
			}
			if first != want || looks > 16 {
				t.Fatalf("%d %s: %d after %d looks; want %d", n, name, first, looks, want)
			}
		}
		if n <= 32 {
			continue
		}
		for range 20 {
			rnd.Shuffle(n, func(i, k int) { names[i], names[k] = names[k], names[i] })
			if _, sorted, _ := searchBucket(n, ask[rnd.IntN(n)], at); sorted {
				t.Errorf("%d: in no order, but taken for sorted", n)
			}
		}
		slices.SortFunc(names, compareNames)
		names[n-1] = nil // a record without a name
		if _, sorted, _ := searchBucket(n, ask[0], at); sorted {
			t.Errorf("%d: a record without a name is in order", n)
		}
	}
}

// TestFirstModules asks for modules in an order that reads the list in pieces.
func TestFirstModules(t *testing.T) {
	f := open(t, "testdata/x64.pdb")
	all, err := f.moduleList()
	if err != nil || len(all) == 0 {
		t.Fatal(len(all), err)
	}
	g := open(t, "testdata/x64.pdb")
	for n := range all {
		list, err := g.firstModules(n + 1)
		if err != nil || !slices.Equal(list, all[:len(list)]) || len(list) < n+1 {
			t.Fatalf("%d: %v, %v", n+1, list, err)
		}
	}
	if list, err := g.firstModules(len(all) + 7); err != nil || !slices.Equal(list, all) {
		t.Fatalf("%d of %d modules, %v", len(list), len(all), err)
	}
}
