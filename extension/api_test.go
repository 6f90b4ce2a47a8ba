package extension

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.starlark.net/starlark"

	"openkd/engine"
	"openkd/engine/enginetest"
	"openkd/target"
)

const data = enginetest.KernBase + 0x310000

// TestValues: what functions return, to scripts.
func TestValues(t *testing.T) {
	s := newStage(t, Options{})
	s.f.Write(data, []byte{0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0xfa, 0xf9, 0xf8, 'h', 'i', 0, 'x'})
	s.f.WritePhys(0x5000, []byte("physical"))
	d := "at = 0xfffff80319f10000\n"
	for _, c := range []struct{ script, want string }{
		{`print(u8(at), u16(at), u32(at), u64(at))`, "255 65279 4244504319 17940646550795321087"},
		{`print(i8(at), i16(at), i32(at), i64(at))`, "-1 -257 -50462977 -506097522914230529"},
		{`print(u8(at, count=3), u16(at, 2), u8(at, count=0))`, "[255, 254, 253] [65279, 64765] []"},
		{`print(ptr(at) == u64(at), pointer_size())`, "True 8"},
		{`print(cstring(at + 8), cstring(at + 8, max = 1), len(read(at, 8)), read(at + 8, 2) == b"hi")`, "hi h 8 True"},
		{`print(read(at - 0x10000 * 4096, 16, partial = True) == b"")`, "True"},
		{`print(read_many([(at + 8, 2), [0x10, 4], ("nt", 2)]))`, `[b"hi", None, b"MZ"]`},
		{`print(readable(at), readable(at, 1 << 20), readable(0))`, "True False False"},
		{`write(at, "AB"); write(at + 2, b"CD"); write(at + 4, [69, 70]); print(cstring(at, 6))`, "ABCDEF"},
		{`write_number(at, 0x1122334455667788); write_number(at + 8, -2, 2); print("%x" % u64(at), i16(at + 8))`, "1122334455667788 -2"},
		{`print(read_physical(0x5000, 8), number(b"\x01\x02\x03\xff", 2, 2, signed = True), number(b"abcd") == 0x64636261)`, "physical -253 True"},
		{`print([m.name for m in modules()], [m.name for m in modules("t*")])`, `["hal", "nt", "tcpip"] ["tcpip"]`},
		{`print(module("nt").base == addr("nt"), module(addr("nt") + 5).name, module(5), module("NTOSKRNL.EXE").name)`, "True nt None nt"},
		{`m = module("hal"); print(m.end - m.base == m.size, dir(m)[:3], m == module("hal"), m == module("nt"))`, `True ["base", "checksum", "end"] True False`},
		{`print(sprintf("%5d|%-5d|%05d|%x|%#X|%o|%b|%s|%p|%c%c|%%|%*d|%.3f", 42, 42, 42, 255, 255, 8, 5, [1, "a"], 0xfffff80319c00000, 65, "B", 4, 7, 1.5))`,
			`   42|42   |00042|ff|0XFF|10|101|[1, "a"]|fffff803` + "`" + `19c00000|AB|%|   7|1.500`},
		{`print(sprintf("%x %I64x %lu %08x", -1, 16, 3, -1))`, "ffffffffffffffff 10 3 ffffffffffffffff"},
		{`print(words("a  \"b c\" d"), words(""))`, `["a", "b c", "d"] []`},
		{`print(eval("1+2*3"), addr("10"), addr(16) == addr("10"), name(addr("hal") + 4))`, "7 16 True hal+0x4"},
		{`print(reg("rip") == stop().pc, regs()["rsp"] == reg("rsp"), reg("@zf") in [0, 1], processors(), processor())`, "True True True 2 0"},
		{`set_processor(1); print(processor()); set_processor(0); set_reg("rax", -1); print(reg("rax") == (1 << 64) - 1, reg("al"))`, "1\nTrue 255"},
		{`print(stop().reason, "%x" % stop().exception.code, stop().bugcheck, system().build)`, "exception 80000003 None 19041"},
		{`print(run("k"), run("r") == "text of r\n")`, "text of k\n True"},
		{`print(data("lm")[1].name, data("lm m h*")[0].name, data(".lastevent").reason, data("bl"))`, "nt hal exception []"},
		{`print([f.module for f in stack(1)], stack(1)[0].pc == reg("rip"))`, `["nt"] True`},
		{`b = breakpoint(at, once = True, passes = 3); print(b, breakpoints()[0].passes, breakpoints()[0].once); enable_breakpoint(b, False); print(breakpoints()[0].enabled, clear_breakpoint(b), clear_breakpoint(b))`, "0 3 True\nFalse True False"},
		{`b = breakpoint(at, access = "w4"); print(breakpoints()[0].access); clear_breakpoint(b)`, "w4"},
		{`print(len(functions()) > 30, functions()[0].name)`, "True read"},
		{`print(find("nt", 0x2000, b"MZ") == [addr("nt")], find("nt", 1, "MZ"))`, "True []"},
		{`print(source_line(at), symbol(at))`, "None None"},
		{`l = [1]; l.append(l); print(l, (1,), (), {"a": (1, 2)}, set([3]), None, True, 1.5, b"x", print)`, `[1, ...] (1,) () {"a": (1, 2)} set([3]) None True 1.5 x <built-in print>`},
		{`x = [1]; x += [2]; y = x; y += (3,); print(x, [0] * 3, "ab" * 2, 3 * (1,), "%s-%d-%r" % ("a", 1, [2]), "{} {x}".format([1], x = 2))`, `[1, 2, 3] [0, 0, 0] abab (1, 1, 1) a-1-[2] [1] 2`},
		{`d = {}; d.update([("a", 1)], b = 2); print(d, ",".join(["a", "b"]), "aXb".replace("X", "--"), getattr("a", "join")(["x", "y"]), hasattr(d, "update"), getattr(d, "nosuch", 5))`, `{"a": 1, "b": 2} a,b a--b xay True 5`},
		{"x = 1\nx += 2\nx *= 5\nx <<= 1\ns = 'a%s'\ns %= 1\nl = [[1]]\nl[0] += [2]\nprint(x, s, l, 7 % 4, 1 << 3)", "30 a1 [[1, 2]] 3 8"},
		{"def f(a, b = 1 + 1, *args, **kw):\n    return a + b\nprint(f(1), f(*[1, 5]), f(1, b = 2 * 3), (lambda q = 2 * 2: q)())", "3 6 7 4"},
		{"n = 0\nwhile n < 5:\n    n += 1\nprint(n, [i * 2 for i in range(3) if i % 2 == 0], {k: v + 1 for k, v in [(1, 2)]}, 'abc'[0 + 1:])", "5 [0, 4] {1: 3} bc"},
	} {
		out, err := s.play(d + c.script)
		if got := strings.TrimSuffix(out, "\n"); err != nil || got != c.want {
			t.Errorf("%s\nshows %q (%v), want %q", c.script, got, err, c.want)
		}
	}
}

// TestMistakes: calls that are wrong say what is right.
func TestMistakes(t *testing.T) {
	s := newStage(t, Options{})
	for _, c := range []struct{ script, want string }{
		{`read()`, "Error in read: argument address is missing: read(address, size, partial=False)"},
		{`read(1, 2, 3, 4)`, "4 arguments are too many"},
		{`read(1, size = 2, size2 = 3)`, "there is no argument size2"},
		{`read(1, 2, size = 3)`, "argument size: it is given twice"},
		{`read([], 2)`, "argument address: an address is expected, not a list"},
		{`read(1 << 70, 2)`, "argument address: it has more than 64 bits"},
		{`read("no such", 2)`, "Couldn't resolve error"},
		{`read(0, 4)`, "Error in read: the virtual memory at 00000000`00000000 cannot be read"},
		{`read_many([1])`, "element 0 is no (address, size)"},
		{`read_many([(1, -1)])`, "the size is not within"},
		{`u32(1, count = "x")`, "argument count: a number is expected, not a string"},
		{`u32(0x1000, count = 1 << 30)`, "is not within 0 to 262144"},
		{`write("nt", [256])`, "element 0 is no byte"},
		{`write_number("nt", 1, 3)`, "argument size: 3 is not one of 1, 2, 4 and 8"},
		{`find("nt", 16, b"")`, "argument pattern: it has 1 to 2048 bytes, not 0"},
		{`typed("nt!_EPROCESS", 0)`, "no symbols are read in this session"},
		{`breakpoint("nt", access = "z9")`, `"z9" is not e, w, r or i`},
		{`breakpoint("nt", lambda: True, commands = "r")`, "a function or commands, not both"},
		{`reg("nosuch")`, "no such register"},
		{`command(lambda: 1)`, `"lambda" is no name`},
		{"def f(a, b): pass\ncommand(f)", "f has 2 parameters"},
		{`on("nosuch", print)`, `"nosuch" is no event: stop, module, print, unload`},
		{`sprintf("%d", "x")`, "%d takes a number, not a string"},
		{`sprintf("%d")`, "there is no value for %d"},
		{`sprintf("x", 1)`, "1 values are left over"},
		{`sprintf("%q", 1)`, "%q is not known"},
		{`sprintf("%")`, `"%" ends the text`},
		{`data("nosuch")`, `"nosuch" has no data`},
		{`module("nt").nosuch`, "module has no .nosuch field or method"},
		{`fail("that", [1])`, "Error in fail: that [1]"},
		{`x = undefined_name`, "play.star:1:5: undefined: undefined_name"},
		{`set_processor(7)`, "7"},
		{`"a".join`, ""},
		{`"a".join([1])`, "join: in list, want string, got int"},
		{`x = 1 + "a"`, "unknown binary op: int + string"},
		{`x = [1].nosuch`, "list has no .nosuch field or method"},
		{`x = (5).join`, "int has no .join field or method"},
	} {
		_, err := s.play(c.script)
		if c.want == "" {
			if err != nil {
				t.Errorf("%s: %v", c.script, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\nends with %v\nwanted: %s", c.script, err, c.want)
		}
	}
}

// TestExchanges: functions that are made for far lines take one exchange.
func TestExchanges(t *testing.T) {
	s := newStage(t, Options{})
	for i := range uint64(64) {
		s.f.Write(enginetest.KernBase+0x500000+i*0x10000, []byte{byte(i)})
	}
	for _, c := range []struct {
		script string
		most   int
	}{
		{`x = read_many([(0xfffff8031a100000 + i * 0x10000, 1) for i in range(64)])`, 1},
		{`x = u64("nt", count = 500)`, 1},
		{`x = u64(0xfffff80319c00008, count = 4)`, 0}, // known by now
		{`x = chase(0xfffff8031a000000, 0, 0x60)`, 1},
		{`x = modules(); y = modules(headers = True); z = [module("nt") for i in range(10)]`, 1},
		{`x = find("nt", 0x1000, b"MZ", max = 5)`, 1},
	} {
		s.show(`modules(); x = module("nt")`)
		before := s.f.Count()
		s.show(c.script)
		if n := s.f.Count() - before; n > c.most {
			t.Errorf("%s takes %d exchanges, not %d", c.script, n, c.most)
		}
	}
}

// TestPrograms: calls of programs, in JSON.
func TestPrograms(t *testing.T) {
	s := newStage(t, Options{})
	s.f.Write(data, []byte{0xff, 0xfe, 0xfd, 0xfc, 0xfb, 0xfa, 0xf9, 0xf8})
	for _, c := range []struct{ name, args, want string }{
		{"u8", `{"address":"0xfffff80319f10000"}`, `255`},
		{"u64", `{"address":"0xfffff80319f10000"}`, `"0xf8f9fafbfcfdfeff"`},
		{"i64", `{"address":18446735290936655872}`, `"-506097522914230529"`},
		{"u16", `{"address":"nt+310000","count":2}`, `[65279,64765]`},
		{"read", `{"address":"nt","size":"0x2"}`, `"4d5a"`},
		{"read_many", `{"ranges":[["nt",2],["0x10",4]]}`, `["4d5a",null]`},
		{"write", `{"address":"nt+310000","data":"0102"}`, `null`},
		{"module", `{"address":"0xfffff80319a00010"}`, `{"name":"hal","image":"hal.dll","path":"\\SystemRoot\\system32\\hal.dll","base":"0xfffff80319a00000","end":"0xfffff80319aa0000","size":655360,"timestamp":0,"checksum":0}`},
		{"eval", `{"expression":"1+1"}`, `"0x0000000000000002"`},
		{"run", `{"commands":"k"}`, `"text of k\n"`},
		{"processors", ``, `2`},
		{"processors", `{}`, `2`},
		{"read", `[]`, `error: read: "args" is an object with the arguments by name`},
		{"read", `null`, `error: read: "args" is an object with the arguments by name`},
		{"read", `{"address":1}`, `error: read: argument size is missing: read(address, size, partial=False)`},
		{"read", `{"address":1,"size":"x"}`, `error: read: argument size: "x" is no number of 64 bits; 0x stands in front of hexadecimal digits`},
		{"read", `{"address":1,"size":1e3}`, `error: read: argument size: "1e3" is no number of 64 bits; 0x stands in front of hexadecimal digits`},
		{"read", `{"address":{},"size":1}`, `error: read: argument address: an address is expected`},
		{"read", `{"address":1,"size":1,"x":2}`, `error: read: there is no argument "x": read(address, size, partial=False)`},
		{"write", `{"address":"nt","data":"xyz"}`, `error: write: argument data: bytes are hexadecimal digits: encoding/hex: invalid byte: U+0078 'x'`},
		{"breakpoint", `{"address":"nt","function":1}`, `error: breakpoint: argument function: only scripts have a function`},
		{"print", ``, `error: print: it is not a function that programs can call; functions lists them`},
		{"nosuch", ``, `error: nosuch: it is not a function that programs can call; functions lists them`},
	} {
		v, err := s.m.Invoke(s.ctx, c.name, json.RawMessage(c.args))
		got := ""
		if err != nil {
			got = "error: " + err.Error()
		} else {
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			got = string(b)
		}
		if got != c.want {
			t.Errorf("%s %s\nanswers %s\nwanted  %s", c.name, c.args, got, c.want)
		}
	}
}

// TestRunning: what needs a halted target says so while it runs.
func TestRunning(t *testing.T) {
	s := newStage(t, Options{})
	if err := s.e.Go(s.ctx, engine.GoOpt{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.m.Invoke(s.ctx, "read", json.RawMessage(`{"address":1,"size":1}`)); !errors.Is(err, target.ErrRunning) {
		t.Errorf("read of a running target: %v", err)
	}
	if out := s.show(`print(breakpoints(), sprintf("%d", 1))`); out != "[] 1\n" {
		t.Errorf("shown is %q", out)
	}
}

// TestInterrupt: the end of the context ends a script at once, in the script and
// in a command that it runs.
func TestInterrupt(t *testing.T) {
	for _, script := range []string{"while True:\n    pass", `run("wait")`, "x = sorted([1, 2], key = lambda v: [i for i in range(1 << 24)])"} {
		s := newStage(t, Options{})
		ctx, cancel := context.WithCancel(s.ctx)
		s.run = func(ctx context.Context, _ string, _ io.Writer, _ bool) error {
			<-ctx.Done()
			return &Unwind{ctx.Err()}
		}
		p := s.write("loop.star", script)
		time.AfterFunc(30*time.Millisecond, cancel)
		_, err := s.m.Load(ctx, p, true)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%q interrupted ends with %v", script, err)
		}
	}
}

// TestTime: the time that a script works itself is limited, that of commands it
// runs is not.
func TestTime(t *testing.T) {
	clock := make(chan time.Duration, 1)
	clock <- 0
	now := func() time.Time {
		d := <-clock
		d += time.Millisecond // every look takes one
		clock <- d
		return time.Unix(0, 0).Add(d)
	}
	s := newStage(t, Options{Limits: Limits{Time: time.Second}, Now: now})
	s.run = func(context.Context, string, io.Writer, bool) error {
		d := <-clock
		clock <- d + time.Hour
		return nil
	}
	s.show(`run("g"); print("goes on")`)
	_, err := s.play("while True:\n    pass")
	var l *LimitError
	if !errors.As(err, &l) || !strings.Contains(err.Error(), "it has worked for 1s, which is the limit") {
		t.Errorf("a loop ends with %v", err)
	}
}

// TestUnwind: what ends a script from outside is returned as it is, past scripts
// in each other.
func TestUnwind(t *testing.T) {
	s := newStage(t, Options{})
	quit := errors.New("quit")
	s.run = func(ctx context.Context, commands string, _ io.Writer, _ bool) error {
		if commands == "inner" {
			x, name, err := s.m.Find(ctx, "leave")
			if err != nil {
				return err
			}
			if err := s.m.Call(ctx, x, name, ""); err != nil {
				return &Unwind{err}
			}
			return nil
		}
		return &Unwind{quit}
	}
	s.show("def leave():\n    run('q')\n    print('no')\ncommand(leave)\ndef outer():\n    run('inner')\n    print('no')\ncommand(outer)")
	for _, name := range []string{"leave", "outer"} {
		s.out.Reset()
		x, cmd, err := s.m.Find(s.ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.m.Call(s.ctx, x, cmd, ""); err != quit || s.out.Len() > 0 {
			t.Errorf("%s ends with %v and %q", name, err, s.out.String())
		}
	}
}

// TestDeferred: a place whose module is not there yet is kept, a mistake is not.
func TestDeferred(t *testing.T) {
	s := newStage(t, Options{})
	s.show("n = breakpoint('later!Start+4', lambda: True, once = True)\nprint(n, [(b.deferred, b.address, b.once) for b in breakpoints()])")
	list := s.e.Breakpoints().List()
	if len(list) != 1 || !list[0].Deferred || list[0].Expr != "later!Start+4" || list[0].Radix != 16 || list[0].Command != ".scripthit play 0" {
		t.Errorf("%+v", list)
	}
	for _, call := range []string{
		"breakpoint('later!Start', access = 'e1')", "breakpoint('later!Start +', lambda: True)", "breakpoint('later!Start )')", "breakpoint('@nonsense')", "breakpoint('')",
	} {
		if text, err := s.play(call); err == nil {
			t.Errorf("%s: %s", call, text)
		}
	}
	if got := s.e.Breakpoints().List(); len(got) != 1 || got[0].Expr != "later!Start+4" {
		t.Errorf("%+v", got) // scripts that fail change nothing
	}
}

// TestCallbacks: breakpoints of scripts, and what becomes of them.
func TestCallbacks(t *testing.T) {
	s := newStage(t, Options{})
	s.show("n = []\ndef hit(id):\n    n.append(id)\n    return len(n) < 3\nbreakpoint('nt+1000', hit)\nbreakpoint('nt+2000', lambda: run('g') and None)\nbreakpoint('nt+3000', lambda: 'x')")
	list := s.e.Breakpoints().List()
	if len(list) != 3 || list[0].Command != ".scripthit play 0" {
		t.Fatalf("breakpoints %+v", list)
	}
	for i, want := range []bool{true, true, false} {
		if on, err := s.m.Hit(s.ctx, "play", 0); on != want || err != nil {
			t.Errorf("hit %d: %v, %v", i, on, err)
		}
	}
	if on, err := s.m.Hit(s.ctx, "play", 1); on || err != nil || s.runs[len(s.runs)-1] != "g still=true" {
		t.Errorf("a callback that runs: %v, %v, %q", on, err, s.runs)
	}
	if _, err := s.m.Hit(s.ctx, "play", 2); err == nil || !strings.Contains(err.Error(), "returned a string") {
		t.Errorf("a callback that returns text: %v", err)
	}
	if _, err := s.m.Hit(s.ctx, "play", 7); err == nil || !strings.Contains(err.Error(), "bc 7 clears it") {
		t.Errorf("a callback that is not there: %v", err)
	}
	// Loaded anew, the script has those that it sets now; the user's stay.
	if err := s.e.Breakpoints().SetCommand(1, "r"); err != nil {
		t.Fatal(err)
	}
	s.show("breakpoint('nt+1000', lambda: True)")
	list = s.e.Breakpoints().List()
	if len(list) != 2 || list[0].ID != 0 || list[1].ID != 1 {
		t.Errorf("after a second load: %+v", list)
	}
	s.m.Unload(s.ctx, s.m.Named("play"))
	if list = s.e.Breakpoints().List(); len(list) != 1 || list[0].Command != "r" {
		t.Errorf("after the unload: %+v", list)
	}
	if _, err := s.m.Hit(s.ctx, "play", 0); err == nil {
		t.Error("a callback of an extension that is gone was called")
	}
}

// TestEvents: handlers are called in order, bounded, and once told of a mistake
// no more.
func TestEvents(t *testing.T) {
	s := newStage(t, Options{})
	s.m.Note(engine.Event{Event: target.Event{Kind: target.EventPrint, Text: "nobody listens"}})
	s.show(`on("print", lambda t: print("said", t))
on("module", lambda m: print(m.name, m.unload))
on("stop", lambda x: print(x.reason, run("r").strip()))`)
	s.out.Reset()
	s.m.Note(engine.Event{Event: target.Event{Kind: target.EventPrint, Text: "a\xff"}})
	s.m.Note(engine.Event{Event: target.Event{Kind: target.EventModule, Module: &target.Module{Base: 5, Path: "x"}}, Name: "x"})
	if err := s.m.Deliver(s.ctx, s.e.LastStop()); err != nil {
		t.Fatal(err)
	}
	if got := s.out.String(); got != "said a\ufffd\nx False\nexception text of r\n" || s.runs[0] != "r still=true" {
		t.Errorf("told were %q %q", got, s.runs)
	}
	s.show(`on("print", lambda t: None)`)
	for range maxEvents + 7 {
		s.m.Note(engine.Event{Event: target.Event{Kind: target.EventPrint, Text: "x"}})
	}
	if err := s.m.Deliver(s.ctx, nil); err == nil || !strings.Contains(err.Error(), "7 events came faster") {
		t.Errorf("too many events: %v", err)
	}
	s.show(`on("print", lambda t: fail("no"))`)
	for range 3 {
		s.m.Note(engine.Event{Event: target.Event{Kind: target.EventPrint, Text: "x"}})
	}
	if err := s.m.Deliver(s.ctx, nil); err == nil || strings.Count(err.Error(), "no\n") != 1 {
		t.Errorf("a handler that fails: %v", err)
	}
	s.m.Note(engine.Event{Event: target.Event{Kind: target.EventPrint, Text: "x"}})
	if err := s.m.Deliver(s.ctx, nil); err != nil {
		t.Errorf("a handler that failed is called again: %v", err)
	}
}

// TestLoads: which files a script may load, and who is asked.
func TestLoads(t *testing.T) {
	var asked []string
	refuse := ""
	s := newStage(t, Options{Allow: func(path string, _ bool) error {
		asked = append(asked, filepath.Base(path))
		if refuse != "" && strings.HasSuffix(path, refuse) {
			return errors.New("scripts of that folder are not allowed here")
		}
		return nil
	}})
	outside := filepath.Join(t.TempDir(), "outside.star")
	if err := os.WriteFile(outside, []byte("x = 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.write("sub/lib.star", "load('more.star', 'y')\nx = y + 1")
	s.write("sub/more.star", "y = 1")
	if out := s.show(`load("sub/lib.star", "x"); load("sub/more.star", z = "y"); print(x, z)`); out != "2 1\n" {
		t.Errorf("shown is %q", out)
	}
	if asked = slices.Compact(asked); len(asked) != 3 { // a script is asked for when it is found, and when it is read
		t.Errorf("asked was for %q", asked)
	}
	bad := map[string]string{
		`load("../x.star", "x")`:                         "of its own folder",
		`load("` + filepath.ToSlash(outside) + `", "x")`: "of its own folder",
		`load("nosuch.star", "x")`:                       "there is no such file",
		`load("sub", "x")`:                               "there is no such file",
		`load("play.star", "x")`:                         "in a circle",
		`load("sub/more.star", "nosuch")`:                "nosuch not found",
	}
	if runtime.GOOS != "windows" {
		if err := os.Symlink(outside, filepath.Join(s.dir, "link.star")); err != nil {
			t.Fatal(err)
		}
		bad[`load("link.star", "x")`] = "path escapes"
	}
	for script, want := range bad {
		if _, err := s.play(script); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", script, err, want)
		}
	}
	refuse = "more.star"
	if _, err := s.play(`load("sub/lib.star", "x")`); err == nil || !strings.Contains(err.Error(), "are not allowed here") {
		t.Errorf("a refused file: %v", err)
	}
	refuse = "play.star"
	if _, err := s.play(`print(1)`); err == nil || s.out.Len() > 0 {
		t.Errorf("a refused script: %v", err)
	}
	if _, err := s.m.Load(s.ctx, s.dir, true); err == nil {
		t.Error("a folder was loaded")
	}
}

// TestStuck: a script that hangs where the interpreter cannot be interrupted is
// given up, and others run before it ends. It hangs here until it is let go.
func TestStuck(t *testing.T) {
	var clock atomic.Int64
	s := newStage(t, Options{Now: func() time.Time { return time.Unix(0, clock.Load()) }})
	s.m.grace = 0
	s.show("def slow():\n    command(slow, 'late')\ncommand(slow)")
	x, name, err := s.m.Find(s.ctx, "slow")
	if err != nil {
		t.Fatal(err)
	}
	script, letGo := x.command(name).f, make(chan struct{})
	var late error
	_, err = s.m.run(s.ctx, x, false, func(th *starlark.Thread) (starlark.Value, error) {
		clock.Store(int64(s.m.opt.Limits.Time) + 1)
		<-letGo
		var v starlark.Value
		v, late = starlark.Call(th, script, nil, nil)
		return v, late
	})
	if !errors.Is(err, errStuck) {
		t.Errorf("it ended with %v", err)
	}
	if s.m.Named("play") != nil {
		t.Error("the extension is still there")
	}
	if out := s.show("print(1)"); out != "1\n" {
		t.Errorf("while it hangs shown is %q", out)
	}
	close(letGo)
	s.m.stuck.Wait()
	if late == nil || x.command("late") != nil {
		t.Errorf("it went on when it had been given up, and ended with %v", late)
	}
	if out := s.show("print(1)"); out != "1\n" {
		t.Errorf("afterwards shown is %q", out)
	}
}

// FuzzScript: any text as a script, with a target behind it, ends in time and
// without a panic.
func FuzzScript(f *testing.F) {
	for _, seed := range []string{
		"print(1)", "x = [i for i in range(10)]", "def f(): return f()\nf()", "x = 'a' * 1000\nprint(x.join(['b']))",
		"for m in modules(): print(m)", "x = {}\nx[1] = 2\nx |= {3: 4}\nprint(x % 2)", "load('x.star', 'y')", "on('stop', print)\ncommand(print)",
		"print(sprintf('%08x %p %s', 1, 2, [3]))", "breakpoint('nt', lambda: True)", "x = (1, 2)\na, b = x\na += b\n[a, b] = [b, a]", "while True:\n  pass",
		"x = typed('nt!_X', 0).y[0].z", "\"\"\"a\"\"\"\nif 1: pass\nelif 2: pass\nelse: fail(x)", "lambda x, *, y = 1 * 2, **z: x << y % z", "read('nt', 16)[0:4]",
	} {
		f.Add(seed)
	}
	s := newStage(f, Options{Limits: Limits{Steps: 20000, Time: time.Hour, Memory: 64 << 20, Output: 10000, Depth: 50}}) // by steps, not by time
	f.Fuzz(func(t *testing.T, text string) {
		s.t = t
		_, err := s.play(text)
		if err != nil && strings.Contains(err.Error(), "mistake of the debugger") {
			t.Fatal(err)
		}
		if errors.Is(err, errStuck) {
			t.Fatal(err)
		}
		for _, b := range s.e.Breakpoints().List() {
			s.e.Breakpoints().Clear(b.ID)
		}
		for _, x := range s.m.Chain() {
			if _, err := x.Help(""); err != nil {
				t.Fatal(err)
			}
			s.m.Unload(s.ctx, x)
		}
	})
}

// FuzzCall: any arguments of a program's call end in an answer or an error.
func FuzzCall(f *testing.F) {
	for _, fn := range Functions() {
		if !fn.Scripts {
			f.Add(fn.Name, `{}`)
		}
	}
	for _, a := range []string{`{"address":"nt","size":4}`, `{"ranges":[["nt",2]]}`, `{"address":"0xffffffffffffffff","count":-1}`, `{"type":"nt!_X"}`, `{"pattern":"*"}`, `[`, `{"address":1e99}`, `{"expression":"((((1"}`, `{"head":"nt","link":0,"size":1}`} {
		f.Add("read", a)
		f.Add("read_many", a)
		f.Add("chase", a)
	}
	s := newStage(f, Options{})
	f.Fuzz(func(t *testing.T, name, args string) {
		v, err := s.m.Invoke(context.Background(), name, json.RawMessage(args))
		if err != nil {
			return
		}
		if _, err := json.Marshal(v); err != nil {
			t.Fatalf("%s %s: %v", name, args, err)
		}
	})
}
