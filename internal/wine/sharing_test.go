//go:build linux

package wine

import (
	"fmt"
	"io"
	"strings"
	"testing"

	"openkd/internal/cable"
	"openkd/internal/ports"
	"openkd/link/fault"
)

// sharing is one session and its people, of both systems: who serves it, who
// joins, and the door between them.
func (l *lab) sharing(t *testing.T) {
	tcp := func(t *testing.T) (string, func(*process) string) {
		return "tcp:port=30000:39999" + pw, func(kd *process) string { return "tcp:server=127.0.0.1,port=" + kd.port() + pw }
	}
	secure := func(name, door string) func(*testing.T) (string, func(*process) string) {
		return func(t *testing.T) (string, func(*process) string) {
			print := l.makeCertificate(t, "kdsrv.exe", name)
			at := func(where string) string { return strings.ReplaceAll(door, "{who}", where) + pw }
			return at(name), func(kd *process) string {
				client := strings.ReplaceAll(at(print), "port=30000:39999", "port=$port,server=127.0.0.1")
				if strings.Contains(client, "$port") {
					return strings.ReplaceAll(client, "$port", kd.port())
				}
				return client + ",server=."
			}
		}
	}
	for _, c := range []struct {
		name           string
		server, client string
		door           func(t *testing.T) (server string, client func(*process) string)
	}{
		{"tcp, kd.exe joins kd.exe", "kd.exe", "kd.exe", tcp},
		{"tcp, kd joins kd.exe", "kd.exe", "kd", tcp},
		{"tcp, kd.exe joins kd", "kd", "kd.exe", tcp},
		{"npipe", "kd.exe", "kd.exe", func(t *testing.T) (string, func(*process) string) {
			return "npipe:pipe=together" + pw, func(*process) string { return "npipe:server=.,pipe=together" + pw }
		}},
		{"spipe", "kd.exe", "kd.exe", secure("shared-pipe", "spipe:proto=tls13,certuser={who},pipe=shared")},
		{"ssl, kd joins kd.exe", "kd.exe", "kd", secure("shared-port", "ssl:proto=tls13,certuser={who},port=30000:39999")},
		{"com, kd joins kd.exe", "kd.exe", "kd", func(t *testing.T) (string, func(*process) string) {
			here, there := cable.Join(t, fault.Config{})
			l.mapPort(t, "com41", there)
			return "com:port=com41,baud=921600,channel=9" + pw, func(*process) string { return "com:port=" + here + ",baud=921600,channel=9" + pw }
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			door, way := c.door(t)
			server, typed := l.share(t, c.server, door)
			l.join(t, server, typed, c.client, way(server.process))
			say(typed, "q")
			if code := server.end(); code != 0 {
				t.Errorf("the server ended with %d", code)
			}
		})
	}
	t.Run("reverse", func(t *testing.T) {
		port := fmt.Sprint(ports.TCP(t))
		client, typing := l.typing(t, "kd.exe", "-remote", "tcp:clicon=127.0.0.1,port="+port+pw, "-as", "FAR")
		client.shows(`Waiting for 127\.0\.0\.1`)
		server, typed := l.share(t, "kd.exe", "tcp:clicon=127.0.0.1,port="+port+pw)
		l.together(t, server, typed, client, typing)
	})
	t.Run("program", func(t *testing.T) {
		server, _ := l.share(t, "kd.exe", "tcp:port=30000:39999"+pw)
		p, typing := l.typing(t, "kd.exe", "-remote", "tcp:server=127.0.0.1,port="+server.port()+pw, "-json")
		p.shows(`"type":"hello"`)
		io.WriteString(typing, `{"id":1,"command":"? 6*7"}`+"\n")
		p.shows(`"output":"Evaluate expression: 42 = [^"]*","prompt"[^\n]*"type":"result"`)
		say(typing, `{"id":2,"do":"leave"}`)
		if code := p.end(); code != 0 {
			t.Errorf("exit code %d, standard error: %s", code, p.err.String())
		}
	})
	t.Run("remote.exe", l.relay)
}

// typing starts a program whose input is typed as it goes.
func (l *lab) typing(t *testing.T, program string, args ...string) (*process, io.WriteCloser) {
	t.Helper()
	stdin, typed := io.Pipe()
	p := l.startTyping(t, stdin, program, args...)
	t.Cleanup(func() { typed.Close() }) // first, or its end would be waited for
	return p, typed
}

// say types the last line.
func say(typed io.WriteCloser, line string) {
	io.WriteString(typed, line+"\n")
	typed.Close()
}

// share starts a session with a door into it.
func (l *lab) share(t *testing.T, program, door string) (*session, io.WriteCloser) {
	t.Helper()
	m := newMachine(t)
	p, typed := l.typing(t, program, "-server", door, "-kqm", "-k", m.TCP())
	p.shows(`kd> $`)
	return &session{p, m}, typed
}

// session is a debugger with a door, and its machine.
type session struct {
	*process
	machine *machine
}

// join starts a client and has it and the server's console work together.
func (l *lab) join(t *testing.T, server *session, typed io.WriteCloser, program, way string) {
	t.Helper()
	client, typing := l.typing(t, program, "-remote", way, "-as", "FAR")
	l.together(t, server, typed, client, typing)
}

func (l *lab) together(t *testing.T, server *session, typed io.WriteCloser, client *process, typing io.WriteCloser) {
	t.Helper()
	client.shows(`Connected to the session (?s:.*)kd> $`)
	server.shows(`FAR \([^)]*\) connected at`)
	io.WriteString(typing, "? 6*7\n")
	server.shows(`\[FAR\] \d: kd> \? 6\*7\r?\nEvaluate expression: 42 = `)
	io.WriteString(typed, "? 0n1000\n")
	client.shows(`\d: kd> \? 0n1000\r?\nEvaluate expression: 1000 = `)
	io.WriteString(typing, "g\n")
	server.shows(`\[FAR\] \d: kd> g\r?\n`)
	server.machine.untouched() // it runs
	client.interrupt()         // one who joined breaks in
	server.shows(`(?s)\] \d: kd> g.*nt\+0x1020:.*kd> $`)
	client.shows(`(?s)nt\+0x1020:.*kd> $`)
	say(typing, ".remote_exit")
	if code := client.end(); code != 0 {
		t.Errorf("the client ended with %d, standard error: %s", code, client.err.String())
	}
	server.shows(`FAR \([^)]*\) disconnected`)
}

// relay is remote.exe: a program's console for others.
func (l *lab) relay(t *testing.T) {
	server, typed := l.typing(t, "remote.exe", "/s", `kd.exe -demo -kqm`, "lab")
	server.shows(`kd> $`)
	client, typing := l.typing(t, "remote.exe", "/c", "localhost", "lab")
	client.shows(`kd> `)
	io.WriteString(typing, "? 6*7\n")
	server.shows(`Evaluate expression: 42 = `)
	client.shows(`Evaluate expression: 42 = `)
	list := l.start(t, "", "remote.exe", "/q", "localhost")
	if code := list.end(); code != 0 || !strings.Contains(list.out.String(), "lab") {
		t.Errorf("exit code %d: %s%s", code, list.out.String(), list.err.String())
	}
	say(typing, "@q")
	if code := client.end(); code != 0 {
		t.Errorf("the client ended with %d, standard error: %s", code, client.err.String())
	}
	say(typed, "@k")
	if code := server.end(); code == 0 { // a program that is ended has failed
		t.Errorf("the server ended with %d, standard error: %s", code, server.err.String())
	}
}
