package extension

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"openkd/engine"
	"openkd/engine/enginetest"
	"openkd/engine/expr"
	"openkd/kdproto"
	"openkd/target"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// stage is an engine over a target made of tables, and a host that knows
// numbers and a few commands.
type stage struct {
	t    testing.TB
	f    *enginetest.Fake
	e    *engine.Engine
	m    *Manager
	out  bytes.Buffer
	dir  string
	ctx  context.Context
	runs []string // commands
	run  func(ctx context.Context, commands string, w io.Writer, still bool) error
	halt error
}

func (s *stage) Eval(ctx context.Context, text string) (uint64, error) {
	if text == "@$thread" {
		return enginetest.Thread, nil
	}
	return expr.Eval(text, names{s, ctx}, expr.Options{})
}

func (s *stage) Radix() int { return 16 }

type names struct {
	s   *stage
	ctx context.Context
}

func (n names) Register(string) (uint64, bool, error) { return 0, false, nil }
func (n names) Symbol(name string) (uint64, bool, error) {
	v, err := n.s.e.Lookup(n.ctx, name)
	return v, err == nil, nil
}
func (n names) Pseudo(string) (uint64, bool, error) { return 0, false, nil }
func (n names) Read(_ bool, addr uint64, size int) (uint64, error) {
	return n.s.e.ReadUint(n.ctx, engine.Virtual, addr, size)
}
func (n names) Line(string) (uint64, error)        { return 0, errors.New("no lines") }
func (n names) Valid(uint64, uint64) (bool, error) { return true, nil }
func (n names) PointerSize() int                   { return 8 }

func (s *stage) Run(ctx context.Context, commands string, w io.Writer, still bool) error {
	s.runs = append(s.runs, fmt.Sprintf("%s still=%v", commands, still))
	if s.run != nil {
		return s.run(ctx, commands, w, still)
	}
	_, err := io.WriteString(w, "text of "+commands+"\n")
	return err
}
func (s *stage) Interrupted(context.Context) error { return s.halt }
func (s *stage) Output() io.Writer                 { return &s.out }

func newStage(t testing.TB, opt Options) *stage {
	t.Helper()
	s := &stage{t: t, f: enginetest.New(2), dir: t.TempDir(), ctx: t.Context()}
	s.f.NoBundle = true
	s.e = engine.New(s.f, engine.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.e.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	s.f.Connect()
	s.f.Stop(target.Stop{Exception: enginetest.Exception(kdproto.StatusBreakpoint, true)})
	if _, err := s.e.Wait(ctx); err != nil {
		t.Fatal(err)
	}
	opt.Path = append(opt.Path, s.dir)
	s.m = New(s.e, s, opt)
	return s
}

// write makes a file of the stage's folder.
func (s *stage) write(name, text string) string {
	s.t.Helper()
	p := filepath.Join(s.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(p), 0o700); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return p
}

// play loads a script and returns what it wrote.
func (s *stage) play(text string) (string, error) {
	s.t.Helper()
	s.out.Reset()
	p := s.write("play.star", text)
	_, err := s.m.Load(s.ctx, p, true)
	return s.out.String(), err
}

// show is play for scripts that work.
func (s *stage) show(text string) string {
	s.t.Helper()
	out, err := s.play(text)
	if err != nil {
		s.t.Fatalf("%s\n%v", text, err)
	}
	return out
}

// TestBounds: scripts that ask for too much end with one message that says where
// they were, quickly and without the memory they asked for.
func TestBounds(t *testing.T) {
	// No script here may come to its end by time.
	lim := Limits{Steps: 1_000_000, Memory: 64 << 20, Output: 64 << 10, Depth: 100, Time: time.Hour}
	s := newStage(t, Options{Limits: lim})
	deep := "x = " + strings.Repeat("[", 300) + strings.Repeat("]", 300)
	for _, c := range []struct{ script, want string }{
		{"while True:\n    pass", "play.star:1:1: in <toplevel>: the script was ended: it has made 1000000 steps"},
		{"for i in range(10000000):\n    x = i", "steps"},
		{"x = [i for i in range(10000000)]", "the script was ended"},
		{`x = "a" * (1 << 40)`, "the string would be longer than 4 MiB"},
		{`x = (1 << 40) * "a"`, "the string would be longer"},
		{`x = "a" * (1 << 29)`, "the string would be longer"},
		{`x = [0] * (1 << 28)`, "more than 1048576 elements"},
		{`x = (0,) * (1 << 28)`, "more than 1048576 elements"},
		{`x = b"a" * (1 << 28)`, "more than 16 MiB"},
		{"x = 'a'\nfor i in range(60):\n    x += x", "play.star:3:7: in <toplevel>\nError: the string would be longer"},
		{"x = 'a'\nfor i in range(60):\n    x = x + x", "the string would be longer"},
		{"x = [0]\nfor i in range(60):\n    x += x", "more than 1048576 elements"},
		{"x = [0]\nfor i in range(60):\n    x.extend(x)", "more than 1048576 elements"},
		{"x = [[0]]\nfor i in range(60):\n    x[0] += x[0]", "more than 1048576 elements"},
		{"x = ['a']\nfor i in range(60):\n    x[0] += x[0]", "the string would be longer"},
		{"x = 10\nfor i in range(60):\n    x = x * x", "more than 65536 bits"},
		{"x = 10\nfor i in range(60):\n    x *= x", "more than 65536 bits"},
		{"x = 1\nfor i in range(1000):\n    x = x << 511", "more than 65536 bits"},
		{"x = 1\nfor i in range(1000):\n    x <<= 511", "more than 65536 bits"},
		{`x = int("9" * 1000000)`, "more than 65536 bits"},
		{`x = "a" * 100000; y = "".join([x] * 1000)`, "the string would be longer"},
		{`x = "a" * 100000; y = x.replace("a", x)`, "the string would be longer"},
		{`x = "a" * 100000; y = x.replace("", x)`, "the string would be longer"},
		{`x = "a" * 100000; y = getattr(x, "replace")("a", x)`, "the string would be longer"},
		{`x = "a" * 100000; y = ("{0}" * 1000).format(x)`, "the string would be longer"},
		{`x = "a" * 100000; y = ("%s" * 1000) % ((x,) * 1000)`, "the string would be longer"},
		{`x = "a" * 100000; y = ("%(k)s" * 1000) % {"k": x}`, "the string would be longer"},
		{"a = [1]\nfor i in range(60):\n    a = [a, a]\nprint(a)", "too large to be written"},
		{"a = [1]\nfor i in range(60):\n    a = [a, a]\nx = str(a)", "too large to be written"},
		{"a = [1]\nfor i in range(60):\n    a = [a, a]\nx = '%s' % a", "too large to be written"},
		{"a = [1]\nfor i in range(60):\n    a = [a, a]\nx = '{}'.format(a)", "too large to be written"},
		{"a = [1]\nfor i in range(60):\n    a = [a, a]\nfail(a)", "too large to be written"},
		{"x = list(range(1 << 23))", "more than the 1048576"},
		{"x = sorted(range(1 << 23))", "more than the 1048576"},
		{"x = [].extend(range(1 << 23))", "more than 1048576 elements"},
		{"x = range(1 << 50)", "use while"},
		{"l = list(range(1 << 20))\nx = zip(*([l] * 1000))", "more than may be made"},
		{"def f(n):\n    return f(n + 1)\nf(0)", "calls nest deeper than 100"},
		{"def f(n):\n    return [x for x in sorted([1, 2], key = lambda y: f(y))]\nf(0)", "calls nest deeper than 100"},
		{"l = []\nwhile True:\n    l.append('x' * 100000)", "it holds more than 64 MiB"},
		{"l = []\nwhile True:\n    l.append([0] * 100000)", "it holds more than 64 MiB"},
		{"d = {}\nfor i in range(100):\n    d[i] = list(range(100000))", "it holds more than 64 MiB"},
		{"l = []\nfor i in range(1000):\n    l.append(read('nt', 4096) * 256)", "it holds more than 64 MiB"},
		{"while True:\n    print('x' * 1000)", "it has written more than 64 KiB"},
		{"printf('%5000d', 1)", "a width is a number up to 4096"},
		{deep, "brackets nest deeper than 200"},
		{"x = [1]\nx[0] *= 3", "works on names only"},
		{"read(0, 1 << 40)", "read: argument size: 1099511627776 is not within 0 to 16777216"},
		{"read_many([(0, 1 << 24)] * 20)", "more than 16 MiB"},
		{"find('nt', 1 << 40, b'x')", "is not within"},
	} {
		t.Run("", func(t *testing.T) {
			out, err := s.play(c.script)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%.200s\nends with %v\nwanted: %s", c.script, err, c.want)
			} else if len(err.Error()) > 2000 || len(out) > lim.Output {
				t.Errorf("%.200s\nsays too much: %.300s", c.script, err.Error())
			}
			var l *LimitError
			if errors.As(err, &l) && strings.Count(err.Error(), "\n") > 0 {
				t.Errorf("a limit is told in one line, not in %q", err)
			}
		})
	}
	// The session goes on.
	if out := s.show("print(1 + 1)"); out != "2\n" {
		t.Errorf("afterwards print shows %q", out)
	}
}
