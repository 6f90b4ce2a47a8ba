package rooms

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// may says what a room may import of the project, itself and what is below it
// apart. Test files may import more (a test of target boots the simulator),
// so they are not looked at. A name with /... means the room and all below it.
var may = map[string][]string{
	"kdproto":                 {},
	"connstr":                 {},
	"rundir":                  {},
	"discovery":               {"connstr", "rundir"},
	"link":                    {"kdproto"},
	"link/kdcom":              {"kdproto", "link"},
	"link/kdnet":              {"kdproto", "link"},
	"link/kdnet/recorded":     {"kdproto", "link"},
	"link/line":               {"connstr"},
	"link/fault":              {"kdproto", "link"},
	"link/linktest":           {"kdproto", "link"},
	"arch":                    {"kdproto"},
	"target":                  {"kdproto", "link", "arch"},
	"target/targettest":       {"kdproto", "link", "target"},
	"transport":               {"connstr"},
	"transport/carrier":       {"connstr", "rundir", "transport/comline"},
	"transport/certs":         {},
	"transport/cpace":         {},
	"transport/comline":       {"connstr", "rundir", "link/line"},
	"transport/transporttest": {"connstr", "transport"},
	"status":                  {},
	"status/local":            {"rundir", "status"},
	"status/metrics":          {"status"},
	"kdrpc":                   {"internal/strict", "kdproto", "link", "status", "target", "transport"},
	"repeater":                {"connstr", "transport/carrier", "transport/comline"},
	"sharing":                 {"internal/localdisk", "internal/strict", "connstr", "discovery", "transport", "transport/comline"},
	"relay":                   {"sharing"},
	"server":                  {"kdproto", "connstr", "link", "link/kdcom", "link/kdnet", "link/line", "target", "transport", "kdrpc", "status"},
	"image/pe":                {"kdproto"},
	"image/sym":               {},
	"image/disasm":            {"kdproto", "arch"},
	"image/undname":           {},
	"image/dwarf":             {"image/sym", "image/pe"},
	"image/pdb":               {"image/sym", "image/undname"},
	"image/unwind":            {"kdproto", "arch", "image/pe", "image/sym", "image/disasm"},
	"symbols":                 {"internal/brief", "internal/localdisk", "image/sym", "image/pe", "image/pdb", "image/dwarf"},
	"engine":                  {"internal/brief", "kdproto", "target", "arch", "image/pe", "image/disasm", "image/sym", "image/unwind", "engine/expr", "symbols"},
	"engine/expr":             {"internal/brief"},
	"engine/types":            {"internal/brief", "image/sym"},
	"engine/cexpr":            {"internal/brief", "image/sym", "engine/expr", "engine/types"},
	"engine/enginetest":       {"kdproto", "target", "arch", "engine"},
	"command":                 {"internal/brief", "internal/localdisk", "sharing", "kdproto", "target", "status", "arch", "image/pe", "image/disasm", "image/sym", "image/unwind", "engine", "extension", "engine/expr", "engine/cexpr", "engine/types", "symbols"},
	"extension":               {"internal/brief", "arch", "target", "image/sym", "image/unwind", "engine", "engine/expr", "engine/types", "symbols"},
	"console":                 {"sharing", "kdproto", "target", "arch", "engine", "engine/expr", "command"},
	"console/lineedit":        {},
	"console/lineedit/vttest": {},
	"sim":                     {"kdproto", "connstr", "link", "link/kdcom", "link/kdnet", "link/fault", "link/line", "arch", "image/pe"},
	"sim/cpu":                 {},
	"sim/simtest":             {"sim"},
	"sim/kernel":              {},
	"internal/brief":          {},
	"internal/cable":          {"link/fault"},
	"internal/captured":       {},
	"internal/doors":          {},
	"internal/firewall":       {"connstr"},
	"internal/hostile":        {},
	"internal/localdisk":      {},
	"internal/options":        {},
	"internal/password":       {},
	"internal/ports":          {},
	"internal/shortdir":       {},
	"internal/rooms":          {},
	"internal/rough":          {},
	"internal/audit":          {},
	"internal/bench":          {},
	"internal/service":        {},
	"internal/strict":         {},
	"internal/version":        {},
	"internal/together":       {},
	"internal/wine":           {},
	"cmd/kd":                  {"*"},
	"cmd/kdprx":               {"*"},
	"cmd/kdsrv":               {"*"},
	"cmd/kdtarget":            {"*"},
	"cmd/remote":              {"*"},
}

type room struct {
	imports map[string]string // project package to a file that imports it
	doc     bool
	fuzz    []string
	tests   bool
}

// house reads every package of the project.
func house(t *testing.T) map[string]*room {
	t.Helper()
	if testing.Short() {
		t.Skip("it reads the sources, which are the same for the race detector")
	}
	root := "../.."
	rooms := map[string]*room{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if n := d.Name(); n != ".." && (strings.HasPrefix(n, ".") || n == "testdata") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, filepath.Dir(p))
		rel = filepath.ToSlash(rel)
		r := rooms[rel]
		if r == nil {
			r = &room{imports: map[string]string{}}
			rooms[rel] = r
		}
		if strings.HasSuffix(p, "_test.go") {
			r.tests = true
			for _, decl := range f.Decls {
				if fn, ok := decl.(*ast.FuncDecl); ok && fn.Recv == nil && strings.HasPrefix(fn.Name.Name, "Fuzz") {
					r.fuzz = append(r.fuzz, fn.Name.Name)
				}
			}
			return nil
		}
		if f.Doc != nil && f.Name.Name != "" {
			r.doc = true
		}
		for _, im := range f.Imports {
			name, _ := strconv.Unquote(im.Path.Value)
			if after, ok := strings.CutPrefix(name, "openkd/"); ok {
				r.imports[after] = p
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(rooms) < 5 {
		t.Fatalf("only %d packages found; the walk is wrong", len(rooms))
	}
	return rooms
}

func internalOf(p, of string) bool {
	return strings.HasPrefix(p, of+"/internal/") || p == of+"/internal"
}

func TestImports(t *testing.T) {
	for name, r := range house(t) {
		allowed, ok := may[name]
		if !ok {
			if i := strings.Index(name, "/internal"); i > 0 {
				allowed = may[name[:i]]
			} else {
				t.Errorf("room %s is not in the table", name)
				continue
			}
		}
		for im, file := range r.imports {
			if im == "internal/version" || slices.Contains(allowed, "*") || slices.Contains(allowed, im) || strings.HasPrefix(im, name+"/") || internalOf(im, name) || internalOf(im, path.Dir(name)) {
				continue
			}
			t.Errorf("%s imports openkd/%s, which its room may not know", strings.TrimPrefix(file, "../../"), im)
		}
	}
}

func TestEveryRoomSaysWhatItIs(t *testing.T) {
	for name, r := range house(t) {
		if !r.doc && !onlyTests(name) {
			t.Errorf("package %s has no package comment", name)
		}
	}
}

func onlyTests(name string) bool {
	files, _ := filepath.Glob(filepath.Join("../..", name, "*.go"))
	for _, f := range files {
		if !strings.HasSuffix(f, "_test.go") {
			return false
		}
	}
	return true
}

// TestEveryFuzzerRuns: continuous integration finds the fuzzers by itself
// (see .ci/run), in the form "func FuzzX" at the start of a line.
func TestEveryFuzzerRuns(t *testing.T) {
	ci, err := os.ReadFile("../../.ci/run")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(ci), "^func Fuzz") {
		t.Error(".ci/run no longer looks for fuzzers")
	}
	n := 0
	for _, r := range house(t) {
		n += len(r.fuzz)
	}
	if n == 0 {
		t.Error("no fuzzers found")
	}
}
