package main

import (
	"bytes"
	"io"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"openkd/rundir"
)

const patience = 30 * time.Second

// screen collects what is shown.
type screen struct {
	mu   sync.Mutex
	b    bytes.Buffer
	more chan struct{}
}

func newScreen() *screen { return &screen{more: make(chan struct{}, 1)} }

func (s *screen) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b.Write(b)
	select {
	case s.more <- struct{}{}:
	default:
	}
	return len(b), nil
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

func (s *screen) until(t *testing.T, part string) {
	t.Helper()
	end := time.After(patience)
	for !strings.Contains(s.text(), part) {
		select {
		case <-s.more:
		case <-end:
			t.Fatalf("%q was not shown:\n%s", part, s.text())
		}
	}
}

// person is somebody with a remote of his own.
type person struct {
	out, errs *screen
	in        *io.PipeWriter
	code      chan int
}

func start(t *testing.T, args ...string) *person {
	in, w := io.Pipe()
	p := &person{newScreen(), newScreen(), w, make(chan int, 1)}
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
		t.Fatalf("it does not end:\n%s%s", p.out.text(), p.errs.text())
		return -1
	}
}

func unixOnly(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the programs of this test are Unix's")
	}
	// Short, because the paths of sockets are.
	dir, err := os.MkdirTemp("", "rmt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv(rundir.Env, dir)
}

// TestTogether: two people and the owner at one program; each sees what it
// writes and what the others type; history, messages, leaving, the end.
func TestTogether(t *testing.T) {
	unixOnly(t)
	owner := start(t, "/s", `while read line; do echo "got $line"; done; exit 7`, "shop", "/v")
	owner.out.until(t, `To Connect: Remote /C localhost "shop"`)
	owner.say("early")
	owner.out.until(t, "got early")
	ann := start(t, "/c", "localhost", "shop", "/as", "BOX\\ann")
	ann.out.until(t, "got early")
	ben := start(t, "/c", "localhost", "shop", "/as", "BOX\\ben", "/l", "1")
	ben.out.until(t, "CLIENT")
	owner.out.until(t, "BOX\\ben (npipe) connected at")
	ann.say("apples")
	ben.out.until(t, "[BOX\\ann] apples\ngot apples\n")
	owner.out.until(t, "[BOX\\ann] apples\ngot apples\n")
	if strings.Contains(ann.out.text(), "[BOX\\ann] apples") {
		t.Error("the own line is shown twice")
	}
	ben.say("@m lunch?")
	ann.out.until(t, "[BOX\\ben] lunch?\n")
	ben.say("@h")
	ben.out.until(t, "@k ends the program (at the server)")
	ben.say("@k")
	ben.out.until(t, "at the server only")
	if strings.Contains(ben.out.text(), "got early") {
		t.Error("/l 1 brings more than a line of history")
	}

	list := newScreen()
	if code := run([]string{"/q", "localhost"}, nil, list, io.Discard); code != 0 || !strings.Contains(list.text(), `remote /c localhost "shop"`) {
		t.Errorf("/q: %d\n%s", code, list.text())
	}

	ben.say("@q")
	if code := ben.ends(t); code != 0 {
		t.Errorf("leaving ends with %d", code)
	}
	owner.out.until(t, "BOX\\ben (npipe) disconnected at")
	owner.say("@m closing")
	ann.out.until(t, "[the server's console] closing")
	owner.say("@k")
	if code := owner.ends(t); code == 0 {
		t.Error("a program that was ended ends well")
	}
	ann.ends(t)
	ann.out.until(t, "The program was ended at the server.")
}

// TestExit: the program's own end and exit code; CTRL+C of a client reaches it;
// a terminal, so that it writes at once.
func TestExit(t *testing.T) {
	unixOnly(t)
	owner := start(t, "/s", `test -t 1 && echo terminal; printf 'ask> '; read x; trap 'echo caught' INT; read y; echo "$x$y"; exit 5`, "tcp:port=0,password=pw")
	owner.out.until(t, "To Connect")
	owner.out.until(t, "terminal\nask> ")
	port := regexp.MustCompile(`Port=(\d+)`).FindStringSubmatch(owner.out.text())[1]
	ann := start(t, "/c", "127.0.0.1", "tcp:port="+port+",password=pw")
	ann.out.until(t, "ask> ")
	ann.say("one")
	ann.out.until(t, "ask> ")
	owner.out.until(t, "] one\n")
	owner.say("two")
	if code := owner.ends(t); code != 5 {
		t.Errorf("the exit code is %d:\n%s", code, owner.out.text())
	}
	ann.ends(t)
	ann.out.until(t, "onetwo\n")
	ann.out.until(t, "The program has ended, code 5.")
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
		out := newScreen()
		code := run(strings.Fields(x.args), strings.NewReader(""), out, out)
		if code != x.code || !strings.Contains(out.text(), x.want) {
			t.Errorf("remote %s: %d\n%s", x.args, code, out.text())
		}
	}
	if out := newScreen(); run([]string{"/q", "localhost"}, nil, out, out) != 0 || !strings.Contains(out.text(), "No Visible Sessions.") {
		t.Errorf("/q: %s", out.text())
	}
}
