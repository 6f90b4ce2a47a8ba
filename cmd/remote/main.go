// Command remote shares the console of any program, and joins such a session:
// Microsoft's remote.exe over the doors of this project. Packages relay and
// sharing do the work; here are the command line and the exit codes.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/term"

	"openkd/connstr"
	"openkd/console"
	"openkd/discovery"
	"openkd/internal/password"
	"openkd/internal/version"
	"openkd/relay"
	"openkd/sharing"
	"openkd/transport"
)

const usage = `remote shares the console of a program, and joins a shared console or debugger

remote /s "<command>" <id> [options]     run a program that others may join
remote /c <server> <id> [options]        join one
remote /q <server>                       list those of a machine

<id> is a name, or a transport: tcp:port=5005,password=<pw> and all that kd -server
takes; with /c the server's name is added to it.
  /l <lines>     /c: lines of history (200)
  /u <user>      /s, Windows: who may join by name besides yourself; may be given again
  /v, /-v        /s: show it to /q, or do not (shown: commands with kd, dbg, remoteds, ntsd, cdb)
  /f <colour> /b <colour>   of the text: black blue green aqua red purple yellow white,
                 gray or l in front for the lighter ones
  /as <name>     /c: the name that the others see
  -version, -?
In a session: @q leaves (client), @k ends the program (server), @m <text> and @p <text>
are shown to all, @h helps. CTRL+C is for the program. On Windows programs run on
pipes and may hold their output back; elsewhere they have a terminal.
The password may be in the environment: ` + password.Env + `
Exit codes: /s that of the program; otherwise 0, 1 bad command line, 4 no connection
`

const (
	exitUsage     = 1
	exitNoConnect = 4
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// flags is the command line.
type flags struct {
	serve, join, query bool
	command, host, id  string
	lines              int
	users              []string
	visible            *bool
	fore, back         string
	as                 string
}

func parse(args []string) (f flags, err error) {
	f.lines = 200
	var words []string
	for i := 0; i < len(args); i++ {
		a := args[i]
		if len(a) < 2 || a[0] != '/' && a[0] != '-' {
			words = append(words, a)
			continue
		}
		name := strings.ToLower(a[1:])
		value := func() (string, error) {
			if i++; i >= len(args) {
				return "", fmt.Errorf("%s needs a value behind it", a)
			}
			return args[i], nil
		}
		on := func(v bool) { f.visible = &v }
		switch name {
		case "s":
			f.serve = true
		case "c":
			f.join = true
		case "q":
			f.query = true
		case "v":
			on(true)
		case "-v":
			on(false)
		case "l":
			var v string
			if v, err = value(); err == nil {
				if f.lines, err = strconv.Atoi(v); err != nil || f.lines < 1 || f.lines > 1_000_000 {
					err = fmt.Errorf("%s %s: a number of lines from 1 to 1000000 is expected", a, v)
				}
			}
		case "u":
			var v string
			v, err = value()
			f.users = append(f.users, v)
		case "f":
			f.fore, err = value()
		case "b":
			f.back, err = value()
		case "as":
			f.as, err = value()
		case "ud", "k":
			err = fmt.Errorf("%s is not served: only those who are named with /u, or know the password, may join, and colours by keyword are not shown", a)
		default:
			err = fmt.Errorf("%s is not an option of remote (remote -? lists them)", a)
		}
		if err != nil {
			return f, err
		}
	}
	n := 0
	for _, b := range []bool{f.serve, f.join, f.query} {
		if b {
			n++
		}
	}
	want := 2
	if f.query {
		want = 1
	}
	if n != 1 || len(words) != want {
		return f, errors.New(`one of remote /s "<command>" <id>, remote /c <server> <id> and remote /q <server> is expected (remote -? helps)`)
	}
	switch {
	case f.serve:
		f.command, f.id = words[0], words[1]
		if len(f.users) > 0 && runtime.GOOS != "windows" {
			return f, errors.New("/u is for Windows' named pipes; here a session by name is for the same user, and others use tcp: with a password")
		}
	case f.join:
		f.host, f.id = words[0], words[1]
	default:
		f.host = words[0]
	}
	for _, c := range []string{f.fore, f.back} {
		if _, ok := colour(c); c != "" && !ok {
			return f, fmt.Errorf("%q is not a colour", c)
		}
	}
	return f, nil
}

// colour is the number of a colour as SGR counts, 0 to 7 and 60 more for the
// lighter ones.
func colour(name string) (int, bool) {
	name = strings.ToLower(name)
	light := 0
	if rest, ok := strings.CutPrefix(name, "l"); ok {
		name, light = rest, 60
	}
	if name == "gray" || name == "grey" {
		return 60, true
	}
	for i, n := range []string{"black", "red", "green", "yellow", "blue", "purple", "aqua", "white"} {
		if n == name {
			return i + light, true
		}
	}
	return 0, false
}

var idShape = regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`)

// door is where a session is served, or found.
func door(id, host string) (connstr.Transport, bool, error) {
	if !strings.Contains(id, ":") {
		if !idShape.MatchString(id) {
			return connstr.Transport{}, false, fmt.Errorf("%q is not a name for a session: letters, digits, _, . and -, or a transport as in tcp:port=5005,password=<pw>", id)
		}
		t := connstr.Transport{Proto: "npipe", Pipe: sharing.RemotePipe(id)}
		if host != "" {
			t.Server = strings.TrimLeft(host, `\`)
			if here, err := os.Hostname(); runtime.GOOS != "windows" && err == nil && strings.EqualFold(t.Server, here) {
				t.Server = "localhost"
			}
			if runtime.GOOS != "windows" && t.Server != "localhost" {
				return t, false, fmt.Errorf("a session by name is on this machine only; the one on %s is reached through a door of its own, as in remote /c %s tcp:port=5005,password=<pw>", host, host)
			}
		}
		return t, false, nil
	}
	if host == "" {
		return sharing.ParseDoor(id)
	}
	if !strings.HasPrefix(strings.ToLower(id), "com:") && !strings.Contains(strings.ToLower(id), "clicon") {
		id += ",server=" + strings.TrimLeft(host, `\`)
	}
	return sharing.ParseClient(id)
}

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	stderr = console.Visible(stderr)
	if len(args) == 1 {
		switch strings.ToLower(strings.TrimLeft(args[0], "-/")) {
		case "?", "h", "help":
			io.WriteString(stdout, usage)
			return 0
		case "version":
			fmt.Fprintf(stdout, "OpenKD remote %s %s/%s\n", version.String(), runtime.GOOS, runtime.GOARCH)
			return 0
		}
	}
	f, err := parse(args)
	if err != nil {
		fmt.Fprintln(stderr, "remote:", err)
		return exitUsage
	}
	if f.query {
		return query(f.host, stdout, stderr)
	}
	t, readOnly, err := door(f.id, f.host)
	if err == nil && t.Password == "" {
		t.Password, err = password.Find("", os.Getenv)
	}
	if err != nil {
		fmt.Fprintln(stderr, "remote:", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	interrupts := make(chan os.Signal, 4)
	signal.Notify(interrupts, os.Interrupt)
	defer signal.Stop(interrupts)
	out := console.Visible(stdout)
	if o, ok := stdout.(*os.File); ok && term.IsTerminal(int(o.Fd())) && (f.fore != "" || f.back != "") {
		fore, _ := colour(f.fore)
		back, _ := colour(f.back)
		if f.fore != "" {
			fmt.Fprintf(stdout, "\x1b[%dm", 30+fore)
		}
		if f.back != "" {
			fmt.Fprintf(stdout, "\x1b[%dm", 40+back)
		}
		defer io.WriteString(stdout, "\x1b[0m")
	}
	if f.join {
		return visit(ctx, f, t, readOnly, stdin, out, stderr, interrupts)
	}
	return serve(ctx, f, t, readOnly, stdin, out, stderr, interrupts)
}

// shown: what /q lists unless it is told otherwise.
var shownWords = regexp.MustCompile(`(?i)kd|dbg|remoteds|ntsd|cdb`)

func serve(ctx context.Context, f flags, t connstr.Transport, readOnly bool, stdin io.Reader, stdout, stderr io.Writer, interrupts <-chan os.Signal) int {
	listed := shownWords.MatchString(f.command)
	if f.visible != nil {
		listed = *f.visible
	}
	hub := sharing.NewHub(sharing.Options{
		Program: "remote", Title: f.command, Release: version.Release, PipeUsers: f.users,
		Listed: listed, ListedAs: discovery.Console, ListedText: f.command,
	})
	defer hub.Close("The program has ended.")
	if _, err := hub.OpenDoor(ctx, t, readOnly); err != nil {
		fmt.Fprintln(stderr, "remote:", err)
		return exitNoConnect
	}
	here, err := os.Hostname()
	if err != nil || here == "" {
		here = "<this machine>"
	}
	id := f.id
	if strings.Contains(id, ":") {
		id = strings.Replace(hub.Doors()[0].String(), "Password=*", "Password=<password>", 1)
	} else if runtime.GOOS != "windows" {
		here = "localhost"
	}
	fmt.Fprintf(stdout, "%sTo Connect: Remote /C %s \"%s\"\n\n", banner("SERVER"), here, id)
	code, err := relay.Serve(ctx, relay.Options{Command: f.command, In: stdin, Out: stdout, Hub: hub, Interrupts: interrupts})
	if err != nil {
		fmt.Fprintln(stderr, "remote:", err)
	}
	return code
}

func banner(what string) string {
	const stars = "**************************************\n"
	return stars + "***********     REMOTE    ************\n***********     " + what + "    ************\n" + stars
}

func visit(ctx context.Context, f flags, t connstr.Transport, readOnly bool, stdin io.Reader, stdout, stderr io.Writer, interrupts <-chan os.Signal) int {
	hello := func(s sharing.Session) string {
		return banner("CLIENT") + fmt.Sprintf("Connected to %s: %s\n\n", t, s.Title)
	}
	err := relay.Visit(ctx, relay.ClientOptions{In: stdin, Out: stdout, Interrupts: interrupts, Hello: hello, Join: func(ctx context.Context, v sharing.Viewer) (*sharing.Client, error) {
		return sharing.Join(ctx, sharing.ClientOptions{
			Where: t.String(), Name: f.as, Release: version.Release, ReadOnly: readOnly, Lines: f.lines,
			Dial: func(ctx context.Context) (net.Conn, error) {
				return transport.Dial(ctx, t, transport.Options{Expect: "shared console"})
			},
		}, v)
	}})
	if err != nil {
		fmt.Fprintln(stderr, "remote:", err)
		return exitNoConnect
	}
	return 0
}

// query lists the visible sessions of a machine.
func query(host string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	list, err := discovery.Browse(ctx, host)
	if err != nil && len(list) == 0 {
		fmt.Fprintln(stderr, "remote:", err)
		return exitNoConnect
	}
	fmt.Fprintf(stdout, "Visible sessions on server %s:\n\n", host)
	n := 0
	for _, s := range list {
		if s.Kind != discovery.Console {
			continue
		}
		n++
		id := s.String()
		if rest, ok := strings.CutPrefix(s.Transport.Pipe, sharing.RemotePipe("")); ok && s.Transport.Proto == "npipe" {
			id = rest
		}
		fmt.Fprintf(stdout, "\"%s\", remote /c %s \"%s\"\n", s.Release, host, id)
	}
	if n == 0 {
		fmt.Fprintln(stdout, "No Visible Sessions.")
	}
	return 0
}
