package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"openkd/engine"
	"openkd/engine/enginetest"
	"openkd/internal/shortdir"
)

func TestScripts(t *testing.T) {
	dir := shortdir.New(t)
	file := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	lines := file("lines.txt", "\ufeff.echo one\r\n\r\n* a comment; .echo no\r\nxyz\r\n.echo two\r\n")
	block := file("block.txt", ".if (${$arg1} == 5) {\n  * over lines\n  .echo five ${$arg2}\n} .else {\n  .echo other\n}\n$$ done; .echo ${$arg0}\n")
	words := file("words.txt", "a b\nc\n")
	again := filepath.Join(dir, "again.txt")
	file("again.txt", "$$><"+again+"\n")
	for _, tt := range []struct{ in, want string }{
		{"$<" + lines, "kd> .echo one\none\nkd> * a comment; .echo no\nkd> xyz\n    ^ Syntax error in 'xyz'\n\"xyz\" is not a command; .help lists them\nkd> .echo two\ntwo\n"},
		{"$$>a<" + block + " 5 \"x y\"; .echo behind", "five x y\n" + block + "\nbehind\n"},
		{"$$>a<" + block + " 6 x", "other\n" + block + "\n"},
		{".foreach /f (w \"" + words + "\") { .echo <w> w }", "<w> a\n<w> b\n<w> c\n"},
		{"as /f text " + words + "\n.echo ${text}", "a b\n   ^ Syntax error in 'c'\n\"c\" is not a command; .help lists them\n"},
		{"$<" + dir, "Command file execution failed: " + dir + " is not a regular file\n"},
		{"$<", "      ^ Syntax error in '$<'\nthe name of a script file is missing\n"},
	} {
		s, b := offline(t)
		delete(s.commands, "c")
		delete(s.lower, "c")
		for _, l := range strings.Split(tt.in, "\n") {
			s.Execute(context.Background(), l)
		}
		got := b.String()
		if strings.HasPrefix(tt.in, "as /f") {
			if !strings.HasPrefix(got, "a b\n") {
				t.Errorf("%q", got)
			}
			continue
		}
		if got != tt.want {
			t.Errorf("%s\n got: %q\nwant: %q", tt.in, got, tt.want)
		}
	}
	// A script that runs itself ends.
	s, b := offline(t)
	if err := s.Execute(context.Background(), "$$><"+again); err == nil || !strings.Contains(b.String(), "nest deeper than") {
		t.Errorf("%v %q", err, b.String())
	}
	// The error of a script is what -cf reports, and quit passes.
	s, _ = offline(t)
	if err := s.Script(context.Background(), lines, false); err == nil {
		t.Error("the failed line is forgotten")
	}
	if err := s.Script(context.Background(), file("q.txt", "leave\n.echo no\n"), false); !errors.Is(err, ErrQuit) {
		t.Errorf("%v", err)
	}
	if err := s.Script(context.Background(), words+"x", true); err == nil || !strings.Contains(err.Error(), "Command file execution failed") {
		t.Errorf("%v", err)
	}
}

func TestLog(t *testing.T) {
	name := filepath.Join(shortdir.New(t), "a b.log")
	s, b := offline(t)
	ctx := context.Background()
	s.Execute(ctx, `.logopen "`+name+`"`)
	s.PrintBy("kd> .echo x\n", func() {})
	s.Execute(ctx, ".echo x; .logfile")
	s.Print("from the target\n")
	s.Execute(ctx, ".logclose")
	s.Execute(ctx, ".echo not in it")
	got, _ := os.ReadFile(name)
	want := "Opened log file '" + name + "'\nkd> .echo x\nx\nLog '" + name + "' opened\nfrom the target\nClosing open log file " + name + "\n"
	if string(got) != want {
		t.Errorf("%q", got)
	}
	b.Reset()
	s.Execute(ctx, `.logappend "`+name+`"; .echo more; .logclose; .logclose; .logfile`)
	if got, _ := os.ReadFile(name); !strings.HasPrefix(string(got), want) || !strings.Contains(string(got), "more") {
		t.Errorf("%q", got)
	}
	if !strings.Contains(b.String(), "No log file is open") {
		t.Errorf("%q", b.String())
	}
	plain := filepath.Join(shortdir.New(t), "plain.log") // a path that begins with / is no option
	if err := s.Execute(ctx, ".logopen /u "+plain+"; .echo plain; .logclose"); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(plain); !strings.Contains(string(got), "plain\n") {
		t.Errorf("%q", got)
	}
	if err := s.Execute(ctx, ".logopen "+filepath.Join(shortdir.New(t), "no", "such")); err == nil || !strings.Contains(err.Error(), "such") {
		t.Error("opened in no folder")
	}
}

// TestCancel: no loop outlives its context or an interrupt.
func TestCancel(t *testing.T) {
	for _, l := range []string{".while (1) { }", ".do { .echo x } (1)", ".for (;;) { }", "? 1; z(1)", ".foreach /s (x \"1 2 3\") { .while (1) { .block { } } }", ".sleep 0n86400000"} {
		s, _ := offline(t)
		s.SetOutput(io.Discard)
		ctx, cancel := context.WithCancel(context.Background())
		time.AfterFunc(5*time.Millisecond, cancel)
		if err := s.Execute(ctx, l); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", l, err)
		}
		if strings.HasPrefix(l, ".sleep") {
			continue // the context ends a command; an interrupt, what comes behind
		}
		// Execute forgets an interrupt that comes before it begins, so that one is
		// not enough.
		ended, quiet := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(quiet)
			for tick := time.NewTicker(time.Millisecond); ; {
				select {
				case <-tick.C:
					s.Interrupt()
				case <-ended:
					tick.Stop()
					return
				}
			}
		}()
		if err := s.Execute(context.Background(), l); !errors.Is(err, context.Canceled) {
			t.Errorf("%s interrupted: %v", l, err)
		}
		close(ended)
		<-quiet
		if !s.Last() {
			t.Errorf("%s: something is left to run", l)
		}
	}
}

func TestAliasBombs(t *testing.T) {
	s, b := offline(t)
	ctx := context.Background()
	s.Execute(ctx, "as a a a a a a a a a a a")
	s.Execute(ctx, ".echo a")
	for i := range 9 {
		s.SetFixedAlias(i, strings.Repeat(fmt.Sprintf("$u%d", i+1), 20))
	}
	s.Execute(ctx, ".echo $u0")
	if !strings.Contains(b.String(), "aliases") {
		t.Errorf("%.200q", b.String())
	}
}

// TestHelp: every command is explained, with an example that names it.
func TestHelp(t *testing.T) {
	s, b := offline(t)
	for _, k := range families() {
		if k.Summary == "" || k.Usage == "" || k.Example == "" || k.Family == "" {
			t.Errorf("%v lacks help", k.Names)
		}
		for _, n := range k.Names {
			b.Reset()
			s.Execute(context.Background(), ".help "+n)
			if !strings.Contains(b.String(), k.Summary) {
				t.Errorf(".help %s: %q", n, b.String())
			}
		}
		if k.Run == nil && grammar[k.Names[0]] == nil {
			t.Errorf("%v runs nothing", k.Names)
		}
	}
	b.Reset()
	s.Execute(context.Background(), ".help nosuch")
	if !strings.Contains(b.String(), "there is no command of that name") {
		t.Errorf("%q", b.String())
	}
}

func FuzzExecute(f *testing.F) {
	for _, l := range []string{
		".if (1) { .echo a } .elsif (0) { } .else { .echo b }", ".for (set 0 0; @$t0 < 3; set 0 @$t0+1) { ? @$t0 }",
		".foreach /pS 1 /ps 1 /s (v \"1 2\") { .echo ${v} }", "j 1 'a' ; 'b'", "aS x y; .block { x }", ".catch { ? ( }", "$$ x; * y",
		".printf \"%08x %ma %-5d\\n\", 1, 2, 3", "db 0 L10", "2r", "!x.y z", "~0s", "? 1; z(0)", "as a a a", "${/d:x}", "{{{}}}", "s -[l3]sa 0 L4", "eb 0 \"", "u 0 L1",
	} {
		f.Add(l)
	}
	fake := enginetest.New(1) // never met: commands that need a target say so
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, line string) {
		t.Chdir(dir) // not before: an input that fails is kept in the package's folder
		if strings.Contains(line, "<") || strings.ContainsAny(line, "/\\") && !strings.Contains(line, "/p") || strings.Contains(strings.ToLower(line), "log") ||
			strings.Contains(strings.ToLower(line), "mem") || strings.Contains(strings.ToLower(line), "sleep") ||
			strings.Contains(strings.ToLower(line), "shell") || strings.Contains(strings.ToLower(line), "server") {
			t.Skip() // nothing outside is read, written or started, nothing waits
		}
		s, _ := offline(t)
		s.Engine = engine.New(fake, engine.Options{})
		s.SetOutput(io.Discard)
		ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
		defer cancel()
		s.Execute(ctx, line)
		s.Execute(ctx, "")
		if s.depth != 0 || !s.Last() {
			t.Errorf("%q leaves depth %d", line, s.depth)
		}
	})
}
