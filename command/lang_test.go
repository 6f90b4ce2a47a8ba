package command

import (
	"context"
	"errors"
	"strings"
	"testing"
)

// offline is a session without a target, with a command that sets $t<n> so
// that loops can count: "set 0 1+1".
func offline(t testing.TB) (*Session, *strings.Builder) {
	var b strings.Builder
	s := NewSession(nil, &b, Options{})
	s.register([]*Command{
		{Names: []string{"set"}, Run: func(c *Call) error {
			n, rest, err := c.EvalPrefix(strings.Replace(c.Args, " ", ",", 1))
			if err != nil {
				return err
			}
			v, err := c.Eval(strings.TrimPrefix(rest, ","))
			if err != nil {
				return err
			}
			return c.S.SetTemp(int(n), v)
		}},
		{Names: []string{"fail"}, Run: func(*Call) error { return errors.New("it failed") }},
		{Names: []string{"leave"}, Run: func(*Call) error { return &Quit{} }},
		{Names: []string{"proc"}, Run: func(c *Call) error { c.Printf("%s %d [%s]\n", c.Name, c.Processor, c.Args); return nil }},
	})
	for _, k := range families() {
		for _, n := range k.Names {
			s.commands[n] = k
		}
	}
	return s, &b
}

func TestLanguage(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{".echo a", "a\n"},
		{".echo a; .echo b", "a\nb\n"},
		{`.echo "a; b"; .echo c`, "a; b\nc\n"},
		{".echo don't; .echo b", "don't\nb\n"},
		{"* .echo a; .echo b", ""},
		{"$$ nothing; .echo b", "b\n"},
		{";; ; .echo a;", "a\n"},
		{".block { .echo a; .echo b }.echo c", "a\nb\nc\n"},
		{"{ .echo a }", "a\n"},
		{".if (1) { .echo a } .else { .echo b }", "a\n"},
		{".if (0) { .echo a } .elsif (0) { .echo b } .else { .echo c }; .echo d", "c\nd\n"},
		{".if (0) { .echo a } .elsif (1) { .echo b } .else { .echo c }", "b\n"},
		{".for (set 0 0; @$t0 < 3; set 0 @$t0+1) { ? @$t0 }", "Evaluate expression: 0 = 00000000`00000000\nEvaluate expression: 1 = 00000000`00000001\nEvaluate expression: 2 = 00000000`00000002\n"},
		{"set 0 0; .while (@$t0 < 10) { set 0 @$t0+1; .if (@$t0 == 3) { .break } ; .echo x }", "x\nx\n"},
		{"set 0 0; .do { set 0 @$t0+1; .if (@$t0 == 2) { .continue }; .printf \"%d\\n\", @$t0 } (@$t0 < 3)", "1\n3\n"},
		{".foreach (v { .echo a b; .echo c }) { .echo <v> v ${v}x }", "<v> a ax\n<v> b bx\n<v> c cx\n"},
		{`.foreach /s (v "1 2 3") { .printf "%d\n", v + 1 }`, "2\n3\n4\n"},
		{`.foreach /pS 1 /ps 1 /s (v "1 2 3 4 5") { .echo v }`, "2\n4\n"},
		{".foreach (a { .echo 1 2 }) { .foreach (b { .echo x y }) { .echo a b } }", "1 x\n1 y\n2 x\n2 y\n"},
		{".catch { ? poi( ; .echo a }; .echo b", "                   ^ Numeric expression missing in '? poi('\na number, a register or a symbol is expected here\nb\n"},
		{".catch { .echo a; .leave; .echo b }; .echo c", "a\nc\n"},
		{"j (1) '.echo a; .echo b' ; '.echo c'", "a\nb\n"},
		{"j (0) '.echo a; .echo b' ; '.echo c'", "c\n"},
		{"j 0 .echo a ; .echo b; .echo c", "b\nc\n"},
		{"set 0 @$t0+1; z(@$t0 < 3); ? @$t0", "Evaluate expression: 3 = 00000000`00000003\n"},
		{"2proc x y", "proc 2 [x y]\n"},
		{"PROC x", "PROC -1 [x]\n"},
		{"?1+1", "Evaluate expression: 2 = 00000000`00000002\n"},
		{"as hi .echo hello\n hi", "hello\n"},
		{"aS x world; .block { .echo hello ${x} x xx }", "hello world world xx\n"},
		{"as one 1; 2", ""},
		{"aS x 5; .block { .echo ${/d:x} ${/d:nix} ${/f:nix}. ${/n:x} ${/v:x} }", "1 0 . x x\n"},
		{"as $u3 seven\n.echo [$u3]", "[seven]\n"},
		{"xyz", "    ^ Syntax error in 'xyz'\n\"xyz\" is not a command; .help lists them\n"},
		{".echo a; xyz 1; .echo b", "a\n             ^ Syntax error in 'xyz 1'\n\"xyz\" is not a command; .help lists them\n"},
		{"!nothere 1 2", "No export nothere found\n"},
		{"fail; .echo b", "It failed\n"},
		{".if (1 { .echo a }", "        ^ Syntax error in '.if (1 { .echo a }'\nthe ')' that closes the condition is missing\n"},
		{".if (1) .echo a", "            ^ Syntax error in '.if (1) .echo a'\n'{' is expected here, in front of the block\n"},
		{".break", ".break stands outside of a loop\n"},
		{"}", "    ^ Syntax error in '}'\nthis '}' closes nothing\n"},
		{"? foo", "      ^ Couldn't resolve error in '? foo'\n'foo': no number in base 16, no register, no module and no symbol that is known\n"},
		{"n 10; ? 10; n 16; ? 10", "base is 10\nEvaluate expression: 10 = 00000000`0000000a\nbase is 16\nEvaluate expression: 16 = 00000000`00000010\n"},
	} {
		s, b := offline(t)
		for _, line := range strings.Split(tt.in, "\n") {
			s.Execute(context.Background(), strings.TrimSpace(line))
		}
		if got := b.String(); got != tt.want {
			t.Errorf("%s\n got: %q\nwant: %q", tt.in, got, tt.want)
		}
	}
}
