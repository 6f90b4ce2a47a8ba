package dwarf

import (
	"os/exec"
	"strings"
	"testing"
)

// short are the names that the ABI has abbreviations for, as c++filt writes
// them and as everybody else does.
var short = strings.NewReplacer(
	"std::basic_string<char, std::char_traits<char>, std::allocator<char> >", "std::string",
	"std::basic_istream<char, std::char_traits<char> >", "std::istream",
	"std::basic_ostream<char, std::char_traits<char> >", "std::ostream",
	"std::basic_iostream<char, std::char_traits<char> >", "std::iostream",
)

func tight(s string) string { return strings.ReplaceAll(s, " >", ">") }

// TestNamesAgainstCxxfilt compares every name of C++ in the images with what
// c++filt makes of it.
func TestNamesAgainstCxxfilt(t *testing.T) {
	if _, err := exec.LookPath("c++filt"); err != nil {
		t.Skip("c++filt is not installed")
	}
	each(t, func(t *testing.T, f *File, path string) {
		pub, err := f.publics()
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for i := range pub.list {
			if name := f.plain(pub.list[i].linkage); mangled(name) {
				names = append(names, stem(name))
			}
		}
		if len(names) == 0 {
			t.Skip("no C++")
		}
		cmd := exec.Command("c++filt", "-p")
		cmd.Stdin = strings.NewReader(strings.Join(names, "\n") + "\n")
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Split(string(out), "\n")
		d := differ{t: t}
		same := 0
		for i, name := range names {
			got, want := display(name), lines[i]
			if got != want && tight(short.Replace(got)) == tight(short.Replace(want)) {
				d.explain("c++filt: short")
				continue
			}
			if got != want {
				d.add("%s: %s; c++filt: %s", name, got, want)
				continue
			}
			same++
		}
		d.end(same, "names")
	})
}
