package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"openkd/engine"
	"openkd/internal/shortdir"
	"openkd/sharing"
	"openkd/symbols"
)

// TestRoads: a command that Secure Mode removes is reached by no road. Each road is
// taken without Secure Mode too, where it must lead there.
func TestRoads(t *testing.T) {
	dir := shortdir.New(t)
	script := func(text string) string {
		f, err := os.CreateTemp(dir, "*.txt")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteString(text); err != nil {
			t.Fatal(err)
		}
		return f.Name()
	}
	exts := shortdir.New(t)
	if err := os.WriteFile(filepath.Join(exts, "road.star"), []byte(`
def go(args):
    run(args)
command(go)
def late():
    on("stop", lambda s: run(state["line"]))
def wait(args):
    state["line"] = args
    late()
command(wait)
def hit(args):
    breakpoint("nt+24da60", lambda: run(args))
command(hit)
`), 0o600); err != nil {
		t.Fatal(err)
	}
	call := func(s *Session, ctx context.Context, line string) {
		b, _ := json.Marshal(map[string]string{"commands": line})
		if _, err := s.Invoke(ctx, "run", b); err != nil {
			fmt.Fprintln(s.w, err)
		}
	}
	roads := map[string]func(r *rig, line string){
		"programs": func(r *rig, line string) { call(r.s, r.ctx, line) },
		"Script":   func(r *rig, line string) { r.s.Script(r.ctx, script(line), false) },
		"!list":    func(r *rig, line string) { (&Call{Ctx: r.ctx, S: r.s}).Run(line) },
		"a client": func(r *rig, line string) {
			r.s.Actor = sharing.Person{ID: 1, Name: "ann"}
			r.s.Execute(r.ctx, line)
		},
		"an empty line": func(r *rig, line string) {
			r.s.last = line
			r.s.Execute(r.ctx, "")
		},
		"a breakpoint": func(r *rig, line string) {
			r.script(bpStop(place))
			r.s.Execute(r.ctx, `bp nt+24da60 "`+line+`"; g`)
		},
		"a conditional breakpoint": func(r *rig, line string) {
			r.script(bpStop(place))
			r.s.Execute(r.ctx, `bp nt+24da60 "j (1) '`+line+`'; 'gc'"; g`)
		},
		"a step": func(r *rig, line string) {
			r.script(stepStop(place))
			r.s.Execute(r.ctx, `p 1 "`+line+`"`)
		},
		"an extension that waits": func(r *rig, line string) {
			r.script(stepStop(place))
			r.s.Execute(r.ctx, `!road.wait `+line)
			r.s.Execute(r.ctx, `p`)
		},
		"a breakpoint of an extension": func(r *rig, line string) {
			r.script(bpStop(place))
			r.s.Execute(r.ctx, `!road.hit `+line)
			r.s.Execute(r.ctx, `g`)
		},
	}
	for _, text := range []string{
		"%s", "  %s", "\t%s", ".echo x; %s", "{ %s }", ".block { %s }", ".if (1) { %s }", ".if (0) { } .elsif (1) { %s }", ".if (0) { } .else { %s }",
		".while (@$t0 == 0) { r $t0 = 1; %s }", ".do { %s } (0)", ".for (%s; 0; ) { }", ".for (; @$t0 == 0; r $t0 = 1; %s) { }", ".for (; @$t0 == 0; r $t0 = 1) { %s }",
		".foreach (x { .echo a }) { %s }", ".foreach (x { %s }) { }", `.foreach /s (x ".writemem") { x ` + "%[2]s }", ".catch { %s }", "j 1 '%s'", "j 0 'r' ; '%s'", "r $t0 = 1; %s; z(0)",
		"as x %s\nx", "as x .writemem\n.block { ${x} %[2]s }", "as y mem\nas z .write\n.block { ${z}${y} %[2]s }", "r $.u0=.writemem\n.block { $u0 %[2]s }", "as /c x %s", "aS x %s; .block { ${x} }", "!road.go %s",
		"$<%[3]s", "$><%[3]s", "$$<%[3]s", "$$><%[3]s", "$$>a<%[3]s", "as /f x %[3]s\n.block { ${x} }",
		".foreach /f (x \"%[4]s\") { .block { x %[2]s } }",
	} {
		roads[text] = func(r *rig, line string) {
			_, args, _ := strings.Cut(line, " ")
			all := fmt.Sprintf(text+"%.0[1]s%.0[2]s%.0[3]s%.0[4]s", line, args, script(line), script(".writemem"))
			for l := range strings.SplitSeq(all, "\n") {
				r.s.Execute(r.ctx, l)
			}
		}
	}
	for name, road := range roads {
		for _, secure := range []bool{false, true} {
			for _, word := range []string{".writemem", ".WriteMem"} {
				r := newRig(t, 1)
				r.s.SetExtensionPath([]string{exts})
				if secure {
					if notes := r.s.SetSecure(); notes != nil {
						t.Fatal(notes)
					}
				}
				out := filepath.Join(shortdir.New(t), "out")
				road(r, word+" "+out+" nt L10")
				got := r.out.Take()
				_, err := os.Stat(out)
				switch {
				case !secure && err != nil:
					t.Errorf("%s leads nowhere:\n%s", name, got)
				case secure && !errors.Is(err, os.ErrNotExist):
					t.Errorf("%s: Secure Mode does not hinder it:\n%s", name, got)
				case secure && !strings.Contains(got, ".writemem is not there in Secure Mode"):
					t.Errorf("%s: it does not say why:\n%s", name, got)
				}
			}
		}
	}
}

// TestRemoved: all that WinDbg removes is refused, whether it is there without
// Secure Mode or not, and in no list.
func TestRemoved(t *testing.T) {
	r := newRig(t, 1)
	if got := r.text(".help"); !strings.Contains(got, ".shell") || !strings.Contains(got, ".netuse") {
		t.Error("the list has no .shell")
	}
	r.s.SetSecure()
	for _, w := range secureRemoves {
		for _, line := range []string{w, strings.ToUpper(w), w + " x", ".hh " + w, ".block { " + w + " }"} {
			r.fails(line, w+" is not there in Secure Mode")
		}
	}
	for _, line := range []string{".help", ".hh", "?"} {
		got := r.text(line)
		for _, w := range secureRemoves {
			if strings.Contains(got, "\n  "+w+" ") || line == ".hh" && strings.Contains(got, " "+w+" ") {
				t.Errorf("%s shows %s", line, w)
			}
		}
	}
	r.fails(".shel", "is not a command")
	if got := r.text(".shel"); strings.Contains(got, ".shell") {
		t.Errorf("%s", got)
	}
	for _, c := range r.s.Complete(".she", 4).Candidates {
		t.Errorf("TAB offers %v", c)
	}
}

// TestSecureForGood: how the mode is turned on, and that it is not turned off.
func TestSecureForGood(t *testing.T) {
	ctx := context.Background()
	for _, on := range []string{".secure 1", ".symopt+0x40000", ".symopt+40000", ".symopt 0xF0227", ".block { .symopt+0x40000 }"} {
		s, b := offline(t)
		said := func(line string) string {
			b.Reset()
			s.Execute(ctx, line)
			return b.String()
		}
		if got := said(".secure"); got != "Secure Mode is off.\n" {
			t.Errorf("%q", got)
		}
		said(`.quit_lock /s "x"`)
		if got := said(on); !s.Secure() || !strings.Contains(got, "quit lock is removed") {
			t.Errorf("%s: %q", on, got)
		}
		for _, off := range []string{".secure 0", ".symopt-0x40000", ".symopt-FFFFFFFF", ".symopt 0", ".symopt B0227", ".block { .symopt- 0n262144 }"} {
			if got := said(off); !s.Secure() || !strings.Contains(got, "cannot be turned off") {
				t.Errorf("%s: %q", off, got)
			}
		}
		if got := said(".secure 1; .secure; .symopt"); !strings.HasPrefix(got, "Secure Mode is on.\nSecure Mode is on.\nSymbol options are 0xF0227:\n") || !strings.Contains(got, "  0x00040000 - SYMOPT_SECURE\n") {
			t.Errorf("%q", got)
		}
		if got := said("leave"); got != "" { // the lock is gone
			t.Errorf("%q", got)
		}
	}
	r := newRig(t, 1)
	for _, on := range []string{".secure 1", ".symopt+40000", ".symopt F0227"} {
		if r.fails(on, "while there is a target"); r.s.Secure() {
			t.Errorf("%s has turned it on", on)
		}
	}
	r.script() // nothing answers: it runs
	if err := r.e.Go(r.ctx, engine.GoOpt{}); err != nil {
		t.Fatal(err)
	}
	if r.fails(".secure 1", "while there is a target"); r.s.Secure() {
		t.Error("it was turned on while the target ran")
	}
}

// TestSecurePaths: symbols come from here only, with whatever command.
func TestSecurePaths(t *testing.T) {
	r := newRig(t, 1)
	near, far := shortdir.New(t), shortdir.New(t)
	f, err := symbols.NewFinder(symbols.Options{Cache: filepath.Join(shortdir.New(t), "cache"), Local: func(p string) error {
		if strings.HasPrefix(p, far) {
			return errors.New(p + " is far away")
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	set := r.e.UseSymbols(f)
	defer set.Close()
	p := func(text string) symbols.Path {
		p, err := symbols.ParsePath(text)
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	set.SetPaths(p("srv*;"+near+";cache*"), p(far))
	if got, want := strings.Join(r.s.SetSecure(), "\n"), "srv* is left out: Secure Mode asks no server over HTTP or HTTPS.\ncache* is left out: Secure Mode has no downstream store.\n"+far+" is left out: "+far+" is far away."; got != want {
		t.Errorf("%s", got)
	}
	if !f.Secure() {
		t.Error("the mode has not reached the finder")
	}
	paths := func(want, images string) {
		t.Helper()
		sp, ip := set.Paths()
		if sp.String() != want || ip.String() != images {
			t.Errorf("%s and %s", sp, ip)
		}
	}
	paths(near, "")
	r.fails(".sympath srv*", "srv* is left out: Secure Mode asks no server")
	r.fails(".sympath+ "+far, "far away")
	r.fails(".symfix", "so .symfix has none to set")
	r.fails(".symfix+ "+near, "so .symfix has none to set")
	r.fails(".exepath "+far, "far away")
	paths(near, "")
	if got := r.text(".sympath+ cache*;srv*" + near + ";https://u:secret@symbols.example/"); strings.Contains(got, "secret") || strings.Count(got, "is left out") != 2 || !strings.Contains(got, "Symbol search path is: "+near+";srv*"+near+"\n") {
		t.Errorf("%s", got)
	}
	r.text(".exepath+ " + near + ";" + far)
	paths(near+";srv*"+near, near)
}

// TestSecureExtensions: what may be loaded, and what stays.
func TestSecureExtensions(t *testing.T) {
	path, named, other := shortdir.New(t), shortdir.New(t), shortdir.New(t)
	put := func(text string, at ...string) string {
		p := filepath.Join(at...)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	const plain = "command(lambda: print('here'), 'go')"
	put(plain, path, "good.star")
	put(plain, path, "sub", "deep.star")
	put(plain, path, "text.txt")
	put("load('sub/lib.star', 'x')\nload('good.star', 'y')\n"+plain, named, "mine.star")
	put("x = 1", named, "sub", "lib.star")
	put("y = 1", path, "both", "good.star")
	put("y = 1\n"+plain, named, "good.star")
	put(plain, named, "beside.star")
	stranger := put(plain, other, "stranger.star")
	put("load('lib.star', 'x')\non('unload', lambda: print('I run'))\n"+plain, other, "noisy.star")
	put("x = 1", other, "lib.star")
	far := put(plain, path, "far", "away.star")

	ctx := context.Background()
	r := newRig(t, 1)
	s := r.s
	s.guards.local = func(p string) error {
		if strings.HasPrefix(p, filepath.Dir(far)) {
			return errors.New(p + " is far away")
		}
		return nil
	}
	s.SetExtensionPath([]string{path})
	s.NameExtension(filepath.Join(named, "mine"))
	s.NameExtension("nowhere")
	for _, n := range []string{"good", filepath.Join(named, "mine.star"), stranger, filepath.Join(other, "noisy"), filepath.Join(path, "far", "away")} {
		if _, err := s.ext.Load(ctx, n, false); err != nil {
			t.Fatal(err)
		}
	}
	notes := strings.Join(s.SetSecure(), "\n")
	for _, want := range []string{"stranger is unloaded: ", "noisy is unloaded: ", "away is unloaded: "} {
		if !strings.Contains(notes, want) {
			t.Errorf("not said: %s\n%s", want, notes)
		}
	}
	if got := r.out.Take(); strings.Contains(got, "I run") {
		t.Errorf("what is not allowed was called: %s", got)
	}
	chain := ""
	for _, x := range s.ext.Chain() {
		chain += x.Name + " "
	}
	if chain != "mine good " {
		t.Errorf("loaded are %s", chain)
	}
	for _, name := range []string{"good", filepath.Join(path, "good.star"), "sub/deep", filepath.Join(named, "mine"), filepath.Join(path, "..", filepath.Base(path), "good")} {
		for _, w := range []string{".load ", ".scriptload ", ".setdll "} {
			if err := s.Execute(ctx, w+name); err != nil {
				t.Errorf("%s%s: %v", w, name, err)
			}
		}
	}
	r.out.Take()
	for name, why := range map[string]string{
		stranger: "in no folder of the extension path", filepath.Join(named, "beside"): "in no folder", filepath.Join(path, "text.txt"): "does not end in .star",
		"text.txt": "does not end in .star", filepath.Join(path, "..", filepath.Base(other), "stranger"): "in no folder", far: "far away", "far/away": "far away",
	} {
		for _, w := range []string{".load ", ".scriptload ", ".scriptrun ", ".setdll "} {
			r.fails(w+name, why)
		}
	}
	// One in the current folder stands in nobody's way.
	t.Chdir(other)
	put(plain, other, "good.star")
	put(plain, other, "here.star")
	r.fails(".load here", "in no folder")
	r.fails("!here.go", "in no folder")
	r.fails("!stranger.go", "in no folder")
	if got := r.text(".unloadall; !good.go"); !strings.HasSuffix(got, "here\n") {
		t.Errorf("%s", got)
	}
	for _, w := range []string{".extpath " + other, ".extpath+ " + other} {
		r.fails(w, "stays as it is in Secure Mode")
	}
	if got := r.text(".extpath"); !strings.Contains(got, path) {
		t.Errorf("%s", got)
	}
}

// TestSecureShared: those who join are told.
func TestSecureShared(t *testing.T) {
	h := sharing.NewHub(sharing.Options{})
	defer h.Close("")
	s := NewSession(nil, nil, Options{Share: h})
	if h.Secure() {
		t.Error("it is on")
	}
	if s.SetSecure(); !h.Secure() {
		t.Error("the hub does not know")
	}
}

func TestNetUse(t *testing.T) {
	s := NewSession(nil, nil, Options{})
	for args, want := range map[string]netUse{
		`/a "m:" "\\box\share" "ann" "pw"`:              {"m:", `\\box\share`, "ann", "pw"},
		`/A "" "\\\\box\\share" "" ""`:                  {"", `\\box\share`, "", ""},
		`-a "Z:" "\\box\share\deeper" "d\\ann" "a;b\""`: {"Z:", `\\box\share\deeper`, `d\ann`, `a;b"`},
	} {
		got, err := (&Call{S: s, Args: args}).netUseArgs()
		if err != nil || got != want {
			t.Errorf("%s: %q, %v", args, got, err)
		}
	}
	for _, args := range []string{
		``, `/a`, `/d "m:"`, `"m:" "\\box\share" "" "hunter2"`, `/a "m:" "\\box\share" "ann" hunter2`, `/a "m:" "\\box\share" "ann" "hunter2`, `/a "m:" "\\box\share" "ann" "hunter2" "hunter2"`,
		`/a "mm:" "\\box\share" "" "hunter2"`, `/a "m" "\\box\share" "" "hunter2"`, `/a "m:" "box" "" "hunter2"`, `/a "m:" "\\box" "" "hunter2"`, `/a "m:" "\\box\" "" "hunter2"`, `/a "m:" "" "" "hunter2"`,
		"/a \"m:\" \"\\\\box\\share\" \"\" \"hunter2\x00\"",
	} {
		if _, err := (&Call{S: s, Args: args}).netUseArgs(); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", args, err)
		}
	}
}

// TestPasswordsAreNotShown: in echoes of scripts and in faults.
func TestPasswordsAreNotShown(t *testing.T) {
	file := filepath.Join(shortdir.New(t), "x.txt")
	line := `.netuse /a "m:" "\\box\share" "ann" "hunter2" )`
	if err := os.WriteFile(file, []byte(line+"\n.server tcp:port=1,password=hunter2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, b := offline(t)
	for _, l := range []string{line, "$<" + file, "$$><" + file, ".block { " + line + " }", `.netuse /a "m:" "\\box\share" "ann" "hunter2`, ".foo; .netuse /a a b c hunter2"} {
		s.Execute(context.Background(), l)
		if got := b.String(); strings.Contains(got, "hunter2") || got == "" {
			t.Errorf("%s shows\n%s", l, got)
		}
		b.Reset()
	}
}

// TestSymbolOptionsAtStart: -sflags turns Secure Mode on, and not off.
func TestSymbolOptionsAtStart(t *testing.T) {
	s, _ := offline(t)
	if s.SetSymbolOptions(0xF0227); !s.Secure() || s.symbolFlags() != 0xF0227 {
		t.Errorf("%x", s.symbolFlags())
	}
	if s.SetSymbolOptions(0); !s.Secure() || s.symbolFlags() != 0x40000 {
		t.Errorf("%x", s.symbolFlags())
	}
}

// TestSymbolOptions: the words of .symopt, and what they do here.
func TestSymbolOptions(t *testing.T) {
	s, b := offline(t)
	said := func(line string) string {
		b.Reset()
		s.Execute(context.Background(), line)
		return b.String()
	}
	if got := said(".symopt+ 2000100"); !strings.HasPrefix(got, "SYMOPT_NO_UNQUALIFIED_LOADS is noted, and changes nothing in this debugger.\nSYMOPT_DISABLE_SYMSRV_AUTODETECT is noted, and changes nothing in this debugger.\nSymbol options are 0x20B0327:\n") {
		t.Errorf("%s", got)
	}
	if got := said(".symopt 54"); !strings.Contains(got, "Symbol options are 0x54:\n  0x00000004 - SYMOPT_DEFERRED_LOADS\n  0x00000010 - SYMOPT_LOAD_LINES\n  0x00000040 - SYMOPT_LOAD_ANYTHING\n") || !s.source.lines || s.eager() {
		t.Errorf("%s", got)
	}
	if got := said(".symopt- 4"); !strings.HasPrefix(got, "Symbol options are 0x50:\n") || !s.eager() {
		t.Errorf("%s", got)
	}
	s.SetSymbolOptions(0x54)
	if s.SetSymbolOptions(0x40); s.symbolFlags() != 0x50 {
		t.Errorf("%x", s.symbolFlags())
	}
	for _, bad := range []string{".symopt 100000000", ".symopt 1`00000004", ".symopt+", ".symopt- x"} {
		if got := said(bad); !strings.Contains(got, "error") || s.symbolFlags() != 0x50 {
			t.Errorf("%s: %s", bad, got)
		}
	}
}
