package console

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"

	"openkd/command"
	"openkd/console/lineedit"
	"openkd/console/lineedit/vttest"
)

// painted is what reaches a terminal of what is written by f.
func painted(th theme, where func() (uint64, int), f func(s *styled)) string {
	var out bytes.Buffer
	screen := lineedit.NewScreen(&out, func() (int, int) { return 200, 50 }, func() lineedit.View { return lineedit.View{} })
	f(&styled{screen: screen, theme: th, regs: registers{where: where}})
	return out.String()
}

func TestStyles(t *testing.T) {
	th := theme{mistake: "M", headline: "H", debuggee: "D", quiet: "Q", symbol: "S", changed: "C"}
	for _, c := range []struct {
		st         command.Style
		text, want string
	}{
		{command.Mistake, "^ Syntax error in 'x'\nhelp nt!KeBug\n", "\x1b[Mm^ Syntax error in 'x'\x1b[m\r\n\x1b[Mmhelp nt!KeBug\x1b[m\r\n"},
		{command.Headline, "Breakpoint 0 hit\n", "\x1b[HmBreakpoint 0 hit\x1b[m\r\n"},
		{command.Debuggee, "half", "\x1b[Dmhalf\x1b[m"},
		{command.Plain, "nt!KeBugCheckEx:\n", "\x1b[Smnt!KeBugCheckEx\x1b[m:\r\n"},
		{command.Plain, "00 fffff803`19e4ca60 nt!KiPageFault+0x42e\n", "00 fffff803`19e4ca60 \x1b[Smnt!KiPageFault+0x42e\x1b[m\r\n"},
		{command.Plain, "fffff803`19e4ca60 e8a0       call    nt!Foo::~Bar<int> (fffff803`19e4ca60)\n", "fffff803`19e4ca60 e8a0       call    \x1b[Smnt!Foo::~Bar<int>\x1b[m (fffff803`19e4ca60)\r\n"},
		{command.Plain, "nt+0x1020:\n", "\x1b[Smnt+0x1020\x1b[m:\r\n"},
		{command.Plain, "mov     rax, qword ptr [rsp+8]\n", "mov     rax, qword ptr [rsp+8]\r\n"},
		{command.Plain, "lea     rcx,[rax+0x10]\n", "lea     rcx,[rax+0x10]\r\n"},
		{command.Plain, "Done! Really! a+b 1+0x2\n", "Done! Really! a+b 1+0x2\r\n"},
		{command.Plain, "  +0x000 Pcb              : _KPROCESS\n", "  +0x000 Pcb              : _KPROCESS\r\n"},
		{command.Plain, "x=1 y=2\n", "x=1 y=2\r\n"},
		{command.Plain, strings.Repeat("nt!x ", 1000) + "\n", strings.Repeat("nt!x ", 1000) + "\r\n"},
	} {
		got := painted(th, nil, func(s *styled) { s.WriteStyled(c.st, []byte(c.text)) })
		if got != c.want {
			t.Errorf("%q becomes\n%q and not\n%q", c.text, got, c.want)
		}
		// Without colours there is not a byte of them.
		got = painted(theme{}, nil, func(s *styled) { s.WriteStyled(c.st, []byte(c.text)) })
		if want := strings.ReplaceAll(c.text, "\n", "\r\n"); got != want {
			t.Errorf("without colours %q becomes %q", c.text, got)
		}
	}
}

// TestChangedRegisters: what differs from the stop before is marked, as often as
// it is shown.
func TestChangedRegisters(t *testing.T) {
	stop, cpu := uint64(1), 0
	rows := func(rax, rip string) string {
		return fmt.Sprintf("rax=%s rbx=0000000000000001 rcx=0000000000000002\nrip=%s\n r8=00 r10=0a\niopl=0         nv up ei pl zr na po nc\ncs=0010  ss=0018             efl=00000246\n", rax, rip)
	}
	show := func(s *styled, w io.Writer, text string) string {
		return painted(theme{changed: "C"}, nil, func(x *styled) { s.screen = x.screen; s.Write([]byte(text)) })
	}
	s := &styled{theme: theme{changed: "C"}, regs: registers{where: func() (uint64, int) { return stop, cpu }}}
	marks := func(text string) string {
		out := show(s, nil, text)
		var m []string
		for _, p := range strings.Split(out, "\x1b[Cm")[1:] {
			m = append(m, p[:strings.Index(p, "\x1b[m")])
		}
		return strings.Join(m, " ")
	}
	for _, c := range []struct {
		what      string
		stop      uint64
		cpu       int
		rax, rip  string
		wantMarks string
	}{
		{"the first time", 1, 0, "10", "100", ""},
		{"after a step", 2, 0, "11", "101", "rax=11 rip=101"},
		{"once more", 2, 0, "11", "101", "rax=11 rip=101"},
		{"after another", 3, 0, "11", "102", "rip=102"},
		{"of another processor", 3, 1, "77", "700", ""},
		{"of that, later", 5, 1, "77", "701", "rip=701"},
		{"and of the first", 5, 0, "12", "102", "rax=12"},
	} {
		stop, cpu = c.stop, c.cpu
		if got := marks(rows(c.rax, c.rip)); got != c.wantMarks {
			t.Errorf("%s: %q is marked and not %q", c.what, got, c.wantMarks)
		}
	}
}

// TestNoInjection: what others say has no control characters on any way to the
// terminal, and no way to colours that are not its own.
func TestNoInjection(t *testing.T) {
	evil := "a\x1b[31mred\x1b]0;title\a\x9b2J\x00\x7fnt!\x1b[7mKe\u009b1mBug\n"
	vt := vttest.New(100, 10)
	screen := lineedit.NewScreen(vt, func() (int, int) { return 100, 10 }, func() lineedit.View { return lineedit.View{} })
	s := &styled{screen: screen, theme: colours}
	for _, st := range []command.Style{command.Plain, command.Mistake, command.Headline, command.Debuggee, command.Aside} {
		s.WriteStyled(st, []byte(evil))
		s.WriteStyled(st, []byte("cut \xe2"))
		s.WriteStyled(st, []byte("\x80\xa8 \xc2"))
		s.WriteStyled(st, []byte("\x9b1m\n"))
	}
	s.typed("kd\x1b[31m> ", "a\x1b[31m")
	if u := vt.Unknown(); u != nil {
		t.Errorf("on the terminal acts %s", u)
	}
	if got, ok := vt.Style("^[[31mred^["); !ok || got != "" {
		t.Errorf("red is written in %q, %v:\n%s", got, ok, strings.Join(vt.Lines(), "\n"))
	}
}
