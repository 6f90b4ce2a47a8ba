package dwarf

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// variant is one more way to compile the sources of the fixtures. The images
// are made where the compilers are installed, and not with -short.
type variant struct {
	name     string
	compiler string // what comes before gcc and g++, or "clang" with a target
	flags    string
	link     string
}

// variants are the versions of DWARF, the levels of optimisation and what else
// changes the shape of what compilers write.
var variants = []variant{
	{"x64-dwarf2-O0", "x86_64-w64-mingw32", "-gdwarf-2 -O0", ""},
	{"x64-dwarf3-O2", "x86_64-w64-mingw32", "-gdwarf-3 -O2", ""},
	{"x64-types4-Os", "x86_64-w64-mingw32", "-gdwarf-4 -Os -fdebug-types-section", ""},
	{"x64-types5-Os", "x86_64-w64-mingw32", "-gdwarf-5 -Os -fdebug-types-section", ""},
	{"x64-64bit-O2", "x86_64-w64-mingw32", "-gdwarf-5 -gdwarf64 -O2", ""},
	{"x64-lto-O2", "x86_64-w64-mingw32", "-gdwarf-5 -O2 -flto", "-gdwarf-5 -O2 -flto"},
	{"x86-dwarf3-O2", "i686-w64-mingw32", "-gdwarf-3 -O2", ""},
	{"x86-dwarf4-Os", "i686-w64-mingw32", "-gdwarf-4 -Os", ""},
	{"x86-dwarf5-O3", "i686-w64-mingw32", "-gdwarf-5 -O3", ""},
	{"clang-x64-dwarf4-O2", "clang --target=x86_64-w64-mingw32", "-gdwarf-4 -O2", "i386pep"},
	{"clang-x86-dwarf4-O1", "clang --target=i686-w64-mingw32", "-gdwarf-4 -O1", "i386pe"},
	{"clang-arm64-dwarf4-O2", "clang --target=aarch64-w64-mingw32", "-gdwarf-4 -O2", "arm64pe"},
	{"clang-arm64-dwarf5-O0", "clang --target=aarch64-w64-mingw32", "-gdwarf-5 -O0", "arm64pe"},
}

// builtDir is where the images are; TestMain removes it.
var builtDir string

// built are the images of the variants, as far as they can be made here.
var built = sync.OnceValues(func() ([]string, error) {
	var err error
	if builtDir, err = os.MkdirTemp("", "dwarf-variants"); err != nil {
		return nil, err
	}
	var list []string
	for _, v := range variants {
		path := filepath.Join(builtDir, v.name+".exe")
		ok, err := v.build(path)
		if err != nil {
			return nil, err
		}
		if ok {
			list = append(list, path)
		}
	}
	cxx := filepath.Join(builtDir, "exceptions.exe")
	if run("x86_64-w64-mingw32-g++", "-gdwarf-5", "-O1", "-static", "-o", cxx, "testdata/src/exceptions.cpp") == nil {
		list = append(list, cxx)
	}
	return list, nil
})

func run(args ...string) error {
	cmd := exec.Command(args[0], args[1:]...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	if err != nil {
		os.Stderr.Write(out.Bytes())
	}
	return err
}

// build makes the image; false: the compiler is not there.
func (v *variant) build(path string) (bool, error) {
	cc, cxx := []string{v.compiler + "-gcc"}, []string{v.compiler + "-g++"}
	var link []string
	if clang, target, ok := strings.Cut(v.compiler, " "); ok {
		cc, cxx = []string{clang, target, "-Wno-everything"}, []string{clang + "++", target, "-Wno-everything"}
		link = []string{"ld.lld", "-m", v.link, "--subsystem", "native", "-e"}
	} else {
		link = append(append(link, cc[0], "-nostdlib", "-Wl,--subsystem,native"), strings.Fields(v.link)...)
		link = append(link, "-Wl,-e")
	}
	for _, tool := range []string{cc[0], cxx[0], link[0]} {
		if _, err := exec.LookPath(tool); err != nil {
			return false, nil
		}
	}
	entry := "Start"
	if strings.Contains(v.compiler, "i686") {
		entry = "_Start"
	}
	if link[0] != "ld.lld" {
		entry = "-Wl," + entry
	}
	link = append(link, entry, "-o", path)
	flags := append(strings.Fields(v.flags), "-ffreestanding", "-mno-stack-arg-probe")
	for _, src := range []string{"types.c", "other.c", "code.c", "cxx.cpp"} {
		args := cc
		if src == "cxx.cpp" {
			args = append(cxx[:len(cxx):len(cxx)], "-fno-exceptions", "-fno-rtti", "-fno-threadsafe-statics")
		}
		object := path + "." + src + ".o"
		args = append(append(args[:len(args):len(args)], flags...), "-c", filepath.Join("testdata/src", src), "-o", object)
		if err := run(args...); err != nil {
			return false, err
		}
		link = append(link, object)
	}
	return true, run(link...)
}

// images are the fixtures, the variants of them, and the images that
// OPENKD_MINGW_IMAGES names.
func images(t *testing.T) []string {
	list, err := filepath.Glob("testdata/*.exe")
	if err != nil || len(list) == 0 {
		t.Fatal("no fixtures: ", err)
	}
	if !testing.Short() {
		more, err := built()
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, more...)
	}
	return append(list, filepath.SplitList(os.Getenv("OPENKD_MINGW_IMAGES"))...)
}
