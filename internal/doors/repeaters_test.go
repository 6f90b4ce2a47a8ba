package doors

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"

	"openkd/connstr"
	"openkd/internal/cable"
	"openkd/internal/ports"
	"openkd/link/fault"
	"openkd/sim/simtest"
)

// kdprx starts a repeater; the port of its first side is returned, if it has
// one.
func (s *site) kdprx(client, server string) (port string, p *process) {
	s.t.Helper()
	p = s.start("kdprx", "-p", "-s", client, "-c", server)
	return p.says(`kdprx: passing (?:[a-z]+:(?:Port=(\d+))?)?.*\n`)[1], p
}

// chains are doors with repeaters in front of them.
func chains() []door {
	at := func(port string) string { return "tcp:server=127.0.0.1,port=" + port }
	in := func(port string) string { return "tcp:clicon=127.0.0.1,port=" + port }
	return []door{
		{"a repeater", func(s *site) string {
			far, _ := s.kdsrv("tcp:port=0," + password)
			near, _ := s.kdprx("tcp:port=0", at(far))
			return at(near) + "," + password
		}},
		{"two repeaters", func(s *site) string {
			far, _ := s.kdsrv("tcp:port=0," + password)
			mid, _ := s.kdprx("tcp:port=0", at(far))
			near, _ := s.kdprx("tcp:port=0", at(mid))
			return at(near) + "," + password
		}},
		{"two repeaters, a pipe between them", func(s *site) string {
			far, _ := s.kdsrv("tcp:port=0," + password)
			s.kdprx("npipe:pipe=mid", at(far))
			near, _ := s.kdprx("tcp:port=0", "npipe:server=.,pipe=mid")
			return at(near) + "," + password
		}},
		{"ssl through a repeater for tcp", func(s *site) string {
			m := s.certificate("certs", "lab")
			far, _ := s.kdsrv("ssl:proto=tls13,certuser=lab,port=0," + password)
			near, _ := s.kdprx("tcp:port=0", at(far))
			return "ssl:proto=tls13,certuser=" + m.Thumbprint + ",server=127.0.0.1,port=" + near + "," + password
		}},
		{"spipe through a repeater for npipe", func(s *site) string {
			m := s.certificate("certs", "lab")
			s.kdsrv("spipe:proto=tls13,certuser=lab,pipe=far," + password)
			s.kdprx("npipe:pipe=near", "npipe:server=.,pipe=far")
			return "spipe:proto=tls13,certuser=" + m.Thumbprint + ",server=.,pipe=near," + password
		}},
		{"two repeaters, a cable between them", func(s *site) string {
			here, there := cable.Join(s.t, fault.Config{})
			far, _ := s.kdsrv("tcp:port=0," + password)
			s.kdprx("com:port="+there+",baud=115200,channel=3", at(far))
			near, _ := s.kdprx("tcp:port=0", "com:port="+here+",baud=115200,channel=3")
			return at(near) + "," + password
		}},
		{"reverse, the documented chain", func(s *site) string {
			inner := fmt.Sprint(ports.TCP(s.t))
			outer, _ := s.kdprx("tcp:port=0", in(inner))
			s.kdsrv("tcp:port=" + inner + ",clicon=127.0.0.1," + password)
			return at(outer) + "," + password
		}},
		{"reverse, the documented chain, server first", func(s *site) string {
			inner := fmt.Sprint(ports.TCP(s.t))
			s.kdsrv("tcp:port=" + inner + ",clicon=127.0.0.1," + password)
			outer, _ := s.kdprx("tcp:port=0", in(inner))
			return at(outer) + "," + password
		}},
		{"reverse from a repeater to the client", func(s *site) string {
			far, _ := s.kdsrv("tcp:port=0," + password)
			near := fmt.Sprint(ports.TCP(s.t))
			s.kdprx("tcp:port="+near+",clicon=127.0.0.1", at(far))
			return in(near) + "," + password
		}},
		{"reverse all the way, two repeaters", func(s *site) string {
			far, mid, near := fmt.Sprint(ports.TCP(s.t)), fmt.Sprint(ports.TCP(s.t)), fmt.Sprint(ports.TCP(s.t))
			s.kdprx("tcp:port="+near+",clicon=127.0.0.1", in(mid))
			s.kdprx("tcp:port="+mid+",clicon=127.0.0.1", in(far))
			s.kdsrv("tcp:port=" + far + ",clicon=127.0.0.1," + password)
			return in(near) + "," + password
		}},
		{"reverse ssl through a repeater for tcp", func(s *site) string {
			m := s.certificate("certs", "lab")
			inner := fmt.Sprint(ports.TCP(s.t))
			s.kdsrv("ssl:proto=tls13,certuser=lab,clicon=127.0.0.1,port=" + inner + "," + password)
			outer, _ := s.kdprx("tcp:port=0", in(inner))
			return "ssl:proto=tls13,certuser=" + m.Thumbprint + ",server=127.0.0.1,port=" + outer + "," + password
		}},
	}
}

// Two people work at the same time through one pair of repeaters and the one
// cable between them.
func TestTwoAtOneCable(t *testing.T) {
	want := newSite(t).work("", simtest.New(t, simtest.Steady()).TCP())
	s := newSite(t)
	here, there := cable.Join(t, fault.Config{})
	far, _ := s.kdsrv("tcp:port=0," + password)
	s.kdprx("com:port="+there+",baud=115200,channel=3", "tcp:server=127.0.0.1,port="+far)
	near, _ := s.kdprx("tcp:port=0", "com:port="+here+",baud=115200,channel=3")
	var wg sync.WaitGroup
	for range 2 {
		person, link := newSite(t), simtest.New(t, simtest.Steady()).TCP()
		wg.Go(func() {
			if got := person.work("tcp:server=127.0.0.1,port="+near+","+password, link); got != want {
				t.Error(differ(want, got))
			}
		})
	}
	wg.Wait()
}

// Strangers at both sides of a repeater that a server connects in to, while
// somebody works through it: he does not notice, and the next one is served.
func TestStrangersAtARepeater(t *testing.T) {
	s := newSite(t)
	s.setenv(t)
	inner := fmt.Sprint(ports.TCP(t))
	outer, p := s.kdprx("tcp:port=0", "tcp:clicon=127.0.0.1,port="+inner)
	s.kdsrv("tcp:port=" + inner + ",clicon=127.0.0.1," + password)
	m := simtest.New(t, simtest.Steady())
	link := m.TCP()
	text := "tcp:server=127.0.0.1,port=" + outer + "," + password
	tr, err := connstr.ParseTransport(text, false)
	if err != nil {
		t.Fatal(err)
	}
	w := begin(t.Context(), t, tr, link)
	want := make([]byte, 4096)
	if m.ReadVirtual(w.base, want) != len(want) {
		t.Fatal("the machine has no kernel there")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // of the strangers: some wait for ever
	defer cancel()
	var wg sync.WaitGroup
	for i, st := range strangers() {
		for _, port := range []string{inner, outer} {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(i), 7))
				for range 5 {
					c, err := net.Dial("tcp", "127.0.0.1:"+port)
					if err != nil {
						t.Error(err)
						return
					}
					defer c.Close()
					st.do(ctx, c, r)
				}
			})
		}
	}
	gone := make(chan struct{})
	go func() { wg.Wait(); close(gone) }()
	for busy := true; busy; {
		if b, err := w.read(len(want)); err != nil || !bytes.Equal(b, want) {
			t.Fatalf("a read while strangers are at the doors: %d bytes, %v", len(b), err)
		}
		select {
		case <-gone:
			busy = false
		default:
		}
	}
	if text := w.notices(); text != "" {
		t.Errorf("the session noticed:\n%s", text)
	}
	w.leave()
	begin(t.Context(), t, tr, simtest.New(t, simtest.Steady()).TCP()).leave()
	if !regexp.MustCompile(`is no server`).MatchString(p.err.String()) {
		t.Error("no stranger was taken for one")
	}
}

// Ctrl+C ends the wait for a server, with a word about it.
func TestWaitBrokenOff(t *testing.T) {
	s := newSite(t)
	port := fmt.Sprint(ports.TCP(t))
	p := &process{t: t, ended: make(chan struct{})}
	p.cmd = exec.Command(filepath.Join(s.p.dir, "kd"), "-k", "kdsrv:server=@{tcp:clicon=127.0.0.1,port="+port+"},trans=@{com:port=x}")
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = s.env, &p.out, &p.err
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { defer close(p.ended); p.cmd.Wait() }()
	defer p.stop()
	p.says(`Waiting for 127\.0\.0\.1 to connect to port ` + port + ` of this machine`)
	p.cmd.Process.Signal(syscall.SIGINT)
	select {
	case <-p.ended:
	case <-time.After(patience):
		t.Fatal("it waits on")
	}
	want := fmt.Sprintf("kd: the wait for 127.0.0.1 to connect to port %s was broken off\n", port)
	if got, code := p.err.String(), p.cmd.ProcessState.ExitCode(); got != want || code != 4 {
		t.Errorf("exit %d, %q", code, got)
	}
}
