package doors

import (
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"openkd/internal/cable"
	"openkd/internal/ports"
	"openkd/link/fault"
	"openkd/sim/simtest"
)

// shared is one way into a shared session for three clients: what kd is given
// behind -server, each, and what the clients write behind -remote. A door for
// all has one of each. {port} in a client's is the port that the door says.
type shared struct {
	name string
	open func(s *site) (servers, clients []string)
	// through starts what stands between, when the doors are open, and returns
	// what the clients write.
	through func(s *site, port string) string
}

func sharedDoors() []shared {
	one := func(server, client string) func(s *site) ([]string, []string) {
		return func(*site) ([]string, []string) { return []string{server + "," + password}, []string{client} }
	}
	at := "tcp:server=127.0.0.1,port="
	return []shared{
		{name: "tcp", open: one("tcp:port=0", at+"{port},"+password)},
		{name: "npipe", open: one("npipe:pipe=session", "npipe:server=localhost,pipe=session,"+password)},
		{name: "reverse tcp", open: func(s *site) (servers, clients []string) {
			for range 3 { // each has one client
				t := "tcp:clicon=127.0.0.1,port=" + fmt.Sprint(ports.TCP(s.t)) + "," + password
				servers, clients = append(servers, t), append(clients, t)
			}
			return servers, clients
		}},
		{name: "ssl, by name", open: func(s *site) ([]string, []string) {
			s.certificate("certs", "lab")
			return []string{"ssl:proto=tls13,certuser=lab,port=0," + password}, []string{"ssl:proto=tls13,certuser=lab,server=127.0.0.1,port={port}," + password}
		}},
		{name: "ssl, by thumbprint, client's certificate", open: func(s *site) ([]string, []string) {
			server, client := s.certificate("machine-certs", "lab"), s.certificate("certs", "person")
			return []string{"ssl:proto=tls12,machuser=" + server.Thumbprint + ",clientca=" + client.Thumbprint + ",port=0," + password},
				[]string{"ssl:proto=tls12,machuser=" + server.Thumbprint + ",clientcert=person,server=127.0.0.1,port={port}," + password}
		}},
		{name: "spipe, by thumbprint", open: func(s *site) ([]string, []string) {
			m := s.certificate("certs", "lab")
			return []string{"spipe:proto=tls13,certuser=lab,pipe=secure," + password},
				[]string{"spipe:proto=tls13,certuser=" + m.Thumbprint + ",server=.,pipe=secure," + password}
		}},
		{name: "com", open: func(s *site) ([]string, []string) {
			here, there := cable.Join(s.t, fault.Config{})
			return []string{"com:port=" + there + ",baud=115200,channel=7," + password}, []string{"com:port=" + here + ",baud=115200,channel=7," + password}
		}},
		{name: "com, a bad cable", open: func(s *site) ([]string, []string) {
			here, there := cable.Join(s.t, fault.Config{Seed: 3, Drop: 1e-4, Corrupt: 1e-4, Duplicate: 1e-4, Spacing: 1})
			return []string{"com:port=" + there + ",baud=115200,channel=254," + password}, []string{"com:port=" + here + ",baud=115200,channel=254," + password}
		}},
		{name: "a repeater", open: one("tcp:port=0", ""), through: func(s *site, port string) string {
			near, _ := s.kdprx("tcp:port=0", at+port)
			return at + near + "," + password
		}},
		{name: "two repeaters, a pipe between them", open: one("tcp:port=0", ""), through: func(s *site, port string) string {
			s.kdprx("npipe:pipe=mid", at+port)
			near, _ := s.kdprx("tcp:port=0", "npipe:server=.,pipe=mid")
			return at + near + "," + password
		}},
		{name: "ssl through two repeaters for tcp", open: func(s *site) ([]string, []string) {
			s.certificate("certs", "lab")
			return []string{"ssl:proto=tls13,certuser=lab,port=0," + password}, []string{""}
		}, through: func(s *site, port string) string {
			mid, _ := s.kdprx("tcp:port=0", at+port)
			near, _ := s.kdprx("tcp:port=0", at+mid)
			return "ssl:proto=tls13,certuser=lab,server=127.0.0.1,port=" + near + "," + password
		}},
	}
}

// person is somebody at a kd whose input the test types.
type person struct {
	*process
	in io.WriteCloser
}

func (s *site) kd(args ...string) *person {
	s.t.Helper()
	p := &process{t: s.t, cmd: exec.Command(filepath.Join(s.p.dir, "kd"), args...), ended: make(chan struct{})}
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = s.env, &p.out, &p.err
	in, err := p.cmd.StdinPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() { defer close(p.ended); p.cmd.Wait() }()
	s.t.Cleanup(p.stop)
	return &person{p, in}
}

func (p *person) typed(line string) { io.WriteString(p.in, line+"\n") }

// gone ends the input and waits for the end of the program.
func (p *person) gone() {
	p.t.Helper()
	p.in.Close()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.t.Errorf("%v does not end: %s%s", p.cmd.Args, p.out.String(), p.err.String())
	}
}

var (
	atAnyPrompt = regexp.MustCompile(`^(?:(?:\d+: )?kd> )+`)
)

// console are the lines between two that a console of who shows, without
// prompts, and without the echo of what was typed there and at the session's own
// console: whether it stands there depends on what came between. (Each command
// says with .echo who typed it.)
func console(out, who, from, to string) []string {
	var l []string
	for line := range strings.Lines(out) {
		line = strings.TrimSuffix(line, "\n")
		bare := atAnyPrompt.ReplaceAllString(line, "")
		switch own := strings.TrimPrefix(line, "["+who+"] "); {
		case bare == "" && line != "", bare != line && strings.HasPrefix(bare, ".echo "):
		case own != line && atAnyPrompt.MatchString(own):
		case strings.HasPrefix(bare, "this client may only look; "):
		default:
			l = append(l, bare)
		}
	}
	return between(l, from, to)
}

// program is the same of what a program was told.
func program(t testing.TB, out, from, to string) []string {
	t.Helper()
	var b strings.Builder
	for line := range strings.Lines(out) {
		var v struct{ Type, Event, Text, Output, Command, Who, Prompt string }
		if !strings.HasPrefix(line, "{") {
			continue // the banner
		}
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Errorf("no JSON: %q", line)
		}
		switch {
		case v.Type == "output", v.Event == "print":
			b.WriteString(v.Text)
		case v.Type == "result":
			b.WriteString(v.Output)
		case v.Event == "notice":
			b.WriteString(v.Text + "\n")
		case v.Event == "command" && v.Who != "":
			fmt.Fprintf(&b, "[%s] %s%s\n", v.Who, v.Prompt, v.Command)
		}
	}
	return between(strings.Split(b.String(), "\n"), from, to)
}

func between(l []string, from, to string) []string {
	a, b := slices.Index(l, from), slices.Index(l, to)
	if a < 0 || b < a {
		return append([]string{"(not from " + from + " to " + to + ")"}, l...)
	}
	return l[a:b]
}

// Three clients of one session, a console, one that may only look and a
// program, through every door: each sees what the session's own console shows.
func TestSharedThroughEveryDoor(t *testing.T) {
	for _, layers := range []int{2, 3} {
		for i, d := range sharedDoors() {
			if layers == 3 && d.name != "tcp" && d.name != "two repeaters, a pipe between them" {
				continue
			}
			if testing.Short() && i%3 != 0 {
				continue
			}
			name := d.name
			if layers == 3 {
				name = "three layers, " + name
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				play(t, d, layers)
			})
		}
	}
}

func play(t *testing.T, d shared, layers int) {
	s := newSite(t)
	m := simtest.New(t, simtest.Steady())
	link := m.TCP()
	if layers == 3 {
		port, _ := s.kdsrv("tcp:port=0," + password)
		link = fmt.Sprintf("kdsrv:server=@{tcp:server=127.0.0.1,port=%s,%s},trans=@{%s}", port, password, link)
	}
	servers, clients := d.open(s)
	args := []string{"-kqm", "-k", link}
	for _, x := range servers {
		args = append(args, "-server", x)
	}
	srv := s.kd(args...)
	port := ""
	if strings.Contains(clients[0], "{port}") || d.through != nil {
		port = srv.says(`(?i)-remote .*port=(\d+)`)[1]
	}
	if d.through != nil {
		clients[0] = d.through(s, port)
	}
	way := func(i int) string {
		return strings.ReplaceAll(clients[i%len(clients)], "{port}", port)
	}
	srv.says(`kd> $`)
	ann := s.kd("-remote", way(0), "-as", "ann")
	eve := s.kd("-remote", way(1)+",readonly", "-as", "eve")
	prog := s.kd("-remote", way(2), "-as", "prog", "-json")
	for _, who := range []string{"ann", "eve", "prog"} {
		srv.says(`(?m)^(?:.*kd> )?` + who + `( \(.*)? connected at`)
	}
	srv.typed(".echo srv-begin")
	ann.says("srv-begin\n")
	eve.says("srv-begin\n")
	prog.says(`srv-begin\\n`)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 4 {
			ann.typed(fmt.Sprintf(".echo ann-%d; ? 0n%d", i, 1000+i))
		}
	})
	wg.Go(func() {
		for i := range 4 {
			prog.typed(fmt.Sprintf(`{"id":%d,"command":".echo prog-%d; r rip"}`, i, i))
		}
	})
	eve.typed("r @$t0 = 1")
	wg.Wait()
	ann.says(`Evaluate expression: 1003`)
	prog.says(`"id":3`)
	// Not before: what comes between a program's command and its result it is told
	// ahead of the result's text.
	eve.typed(".echo eve-0")
	srv.says(`\[eve\] eve-0`)
	ann.typed(".echo ann-4; g")
	srv.says(`ann-4\n`)
	for i := range 20 {
		m.Print(fmt.Sprintf("the machine says %d\n", i))
	}
	prog.says(`the machine says 19\\n`)
	prog.typed(`{"id":4,"do":"breakin"}`)
	prog.says(`"event":"done"[^\n]*ann-4|ann-4[^\n]*"event":"done"`)
	prog.typed(`{"id":5,"command":".echo prog-5; p"}`)
	prog.says(`"id":5`)
	srv.typed(".echo srv-end")
	ann.says("srv-end\n")
	eve.says("srv-end\n")
	prog.says(`srv-end\\n`)
	ann.gone()
	eve.gone()
	prog.gone()
	srv.gone()
	for _, v := range []struct {
		who string
		got []string
	}{
		{"ann", console(ann.out.String(), "ann", "srv-begin", "srv-end")},
		{"eve", console(eve.out.String(), "eve", "srv-begin", "srv-end")},
		{"prog", program(t, prog.out.String(), "srv-begin", "srv-end")},
	} {
		want := console(srv.out.String(), v.who, "srv-begin", "srv-end")
		if !slices.Equal(v.got, want) {
			t.Errorf("%s: %s", v.who, differ(strings.Join(want, "\n"), strings.Join(v.got, "\n")))
		}
	}
	all := srv.out.String()
	for _, who := range []string{"ann", "prog"} {
		for i := range 4 {
			if n := strings.Count(all, fmt.Sprintf("kd> .echo %s-%d;", who, i)); n != 1 {
				t.Errorf("line %d of %s was run %d times", i, who, n)
			}
		}
	}
	if strings.Contains(all, "$t0") {
		t.Errorf("what eve may not do was done:\n%s", all)
	}
}
