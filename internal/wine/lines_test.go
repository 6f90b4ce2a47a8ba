//go:build linux

package wine

import (
	"io"
	"strings"
	"testing"

	"openkd/internal/cable"
	"openkd/link/fault"
)

// lines is one COM port that several programs share, as servers and as
// debuggers; want is what the job shows.
func (l *lab) lines(t *testing.T, want string) {
	const speed = ",baud=921600,channel="
	at := func(port, channel string) string { return "com:port=" + port + speed + channel + pw }
	work := func(t *testing.T, kd, port, channel string) {
		t.Helper()
		l.check(t, want, door{kd: kd, open: func(t *testing.T, l *lab, m *machine) string { return through(at(port, channel), m.TCP()) }})
	}
	// stay is a debugger that has a session and waits for commands.
	stay := func(t *testing.T, kd, port, channel string) (*process, io.WriteCloser) {
		t.Helper()
		stdin, typed := io.Pipe()
		t.Cleanup(func() { typed.Close() })
		p := l.startTyping(t, stdin, kd, "-kqm", "-k", through(at(port, channel), newMachine(t).TCP()))
		p.shows(`kd> $`)
		return p, typed
	}
	leave := func(t *testing.T, kd *process, typed io.WriteCloser) {
		t.Helper()
		io.WriteString(typed, "q\n")
		typed.Close()
		if code := kd.end(); code != 0 {
			t.Errorf("exit code %d, standard error: %s", code, kd.err.String())
		}
	}

	t.Run("two servers", func(t *testing.T) {
		here, there := cable.Join(t, fault.Config{})
		l.mapPort(t, "com31", there)
		one := l.serve(t, "kdsrv.exe", at("com31", "1"))
		l.serve(t, "kdsrv.exe", at(`\\.\COM31`, "2")) // another spelling of the same port
		kd, typed := stay(t, "kd", here, "1")
		work(t, "kd", here, "2")
		leave(t, kd, typed)

		for transport, want := range map[string]string{
			at("com31", "1"):                       "listened on already, by kdsrv.exe",
			"com:port=com31,baud=115200,channel=3": "write baud=921600 here too",
			at("com32", "1"):                       "no such port",
		} {
			p := l.start(t, "", "kdsrv.exe", "-noannounce", "-t", transport)
			if code := p.end(); code != 2 || !strings.Contains(p.err.String(), want) {
				t.Errorf("%s: exit code %d, %q", transport, code, p.err.String())
			}
		}

		// The one that has the port dies, and the other one takes it over.
		one.kill()
		work(t, "kd", here, "2")
	})
	t.Run("two debuggers", func(t *testing.T) {
		here, there := cable.Join(t, fault.Config{})
		l.mapPort(t, "com33", here)
		l.serve(t, "kdsrv", at(there, "0"), "-t", at(there, "254"))
		one, toOne := stay(t, "kd.exe", "com33", "0")
		work(t, "kd.exe", "com33", "254")
		// The session of who shares the port outlives the one that has it open.
		two, toTwo := stay(t, "kd.exe", "com33", "254")
		leave(t, one, toOne)
		two.shows(`is back; the session goes on`)
		io.WriteString(toTwo, "? 6*7\nr rip\n")
		two.shows(`= 00000000.0000002a\r?\n\d: kd> rip=[0-9a-f]{16}`)
		leave(t, two, toTwo)
	})
}
