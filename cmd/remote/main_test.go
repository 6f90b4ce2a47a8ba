package main

import (
	"io"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	"openkd/internal/captured"
	"openkd/internal/shortdir"
	"openkd/rundir"
)

const patience = 30 * time.Second

// person is somebody with a remote of his own.
type person struct {
	out, errs *captured.Text
	in        *io.PipeWriter
	code      chan int
}

func start(t *testing.T, args ...string) *person {
	in, w := io.Pipe()
	p := &person{new(captured.Text), new(captured.Text), w, make(chan int, 1)}
	go func() {
		p.code <- run(args, in, p.out, p.errs)
		in.Close()
	}()
	t.Cleanup(func() { w.Close() })
	return p
}

func (p *person) say(line string) { io.WriteString(p.in, line+"\n") }

func (p *person) ends(t *testing.T) int {
	t.Helper()
	select {
	case c := <-p.code:
		return c
	case <-time.After(patience):
		t.Fatalf("it does not end:\n%s%s", p.out.String(), p.errs.String())
		return -1
	}
}

func unixOnly(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the programs of this test are Unix's")
	}
	// Short, because the paths of sockets are.
	dir := shortdir.New(t)
	t.Setenv(rundir.Env, dir)
}

// TestTogether: two people and the owner at one program; each sees what it
// writes and what the others type; history, messages, leaving, the end.
func TestTogether(t *testing.T) {
	unixOnly(t)
	owner := start(t, "/s", `while read line; do echo "got $line"; done; exit 7`, "shop", "/v")
	owner.out.Until(t, `To Connect: Remote /C localhost "shop"`)
	owner.say("early")
	owner.out.Until(t, "got early")
	ann := start(t, "/c", "localhost", "shop", "/as", "BOX\\ann")
	ann.out.Until(t, "got early")
	ben := start(t, "/c", "localhost", "shop", "/as", "BOX\\ben", "/l", "1")
	ben.out.Until(t, "CLIENT")
	owner.out.Until(t, "BOX\\ben (npipe) connected at")
	ann.say("apples")
	ben.out.Until(t, "[BOX\\ann] apples\ngot apples\n")
	owner.out.Until(t, "[BOX\\ann] apples\ngot apples\n")
	if strings.Contains(ann.out.String(), "[BOX\\ann] apples") {
		t.Error("the own line is shown twice")
	}
	ben.say("@m lunch?")
	ann.out.Until(t, "[BOX\\ben] lunch?\n")
	ben.say("@h")
	ben.out.Until(t, "@k ends the program (at the server)")
	ben.say("@k")
	ben.out.Until(t, "at the server only")
	if strings.Contains(ben.out.String(), "got early") {
		t.Error("/l 1 brings more than a line of history")
	}

	list := new(captured.Text)
	if code := run([]string{"/q", "localhost"}, nil, list, io.Discard); code != 0 || !strings.Contains(list.String(), `remote /c localhost "shop"`) {
		t.Errorf("/q: %d\n%s", code, list.String())
	}

	ben.say("@q")
	if code := ben.ends(t); code != 0 {
		t.Errorf("leaving ends with %d", code)
	}
	owner.out.Until(t, "BOX\\ben (npipe) disconnected at")
	owner.say("@m closing")
	ann.out.Until(t, "[the server's console] closing")
	owner.say("@k")
	if code := owner.ends(t); code == 0 {
		t.Error("a program that was ended ends well")
	}
	ann.ends(t)
	ann.out.Until(t, "The program was ended at the server.")
}

// TestExit: the program's own end and exit code; CTRL+C of a client reaches it;
// a terminal, so that it writes at once.
func TestExit(t *testing.T) {
	unixOnly(t)
	owner := start(t, "/s", `test -t 1 && echo terminal; printf 'ask> '; read x; trap 'echo caught' INT; read y; echo "$x$y"; exit 5`, "tcp:port=0,password=pw")
	owner.out.Until(t, "To Connect")
	owner.out.Until(t, "terminal\nask> ")
	port := regexp.MustCompile(`Port=(\d+)`).FindStringSubmatch(owner.out.String())[1]
	ann := start(t, "/c", "127.0.0.1", "tcp:port="+port+",password=pw")
	ann.out.Until(t, "ask> ")
	ann.say("one")
	ann.out.Until(t, "ask> ")
	owner.out.Until(t, "] one\n")
	owner.say("two")
	if code := owner.ends(t); code != 5 {
		t.Errorf("the exit code is %d:\n%s", code, owner.out.String())
	}
	ann.ends(t)
	ann.out.Until(t, "onetwo\n")
	ann.out.Until(t, "The program has ended, code 5.")
}

// TestWords: what is said about wrong command lines.
func TestWords(t *testing.T) {
	unixOnly(t)
	for _, x := range []struct {
		args string
		code int
		want string
	}{
		{"", 1, "one of remote /s"},
		{"/s cmd", 1, "one of remote /s"},
		{"/s /c a b", 1, "one of remote /s"},
		{"/c a b /l none", 1, "a number of lines"},
		{"/c a b /l", 1, "needs a value"},
		{"/c a b /ud c", 1, "is not served"},
		{"/c a b /f pink", 1, "is not a colour"},
		{"/c a b /z", 1, "not an option"},
		{"/c elsewhere b", 1, "remote /c elsewhere tcp:port=5005"},
		{"/s cmd a/b", 1, "is not a name"},
		{"/s cmd tcp:port=x", 1, "port takes"},
		{"/c localhost nobody", 4, "nobody"},
		{"/?", 0, "remote /q <server>"},
		{"-version", 0, "OpenKD remote"},
	} {
		out := new(captured.Text)
		code := run(strings.Fields(x.args), strings.NewReader(""), out, out)
		if code != x.code || !strings.Contains(out.String(), x.want) {
			t.Errorf("remote %s: %d\n%s", x.args, code, out.String())
		}
	}
	if out := new(captured.Text); run([]string{"/q", "localhost"}, nil, out, out) != 0 || !strings.Contains(out.String(), "No Visible Sessions.") {
		t.Errorf("/q: %s", out.String())
	}
}
