//go:build linux

package wine

import (
	"strings"
	"testing"
)

// servers is the list of running servers: the file locks of Windows, and a
// process that dies without a word.
func (l *lab) servers(t *testing.T) {
	quiet := func(pipe string) *process {
		p := l.start(t, "", "kdsrv.exe", "-noannounce", "-t", "npipe:pipe="+pipe, "-t", "npipe:pipe="+pipe+"x,hidden")
		p.shows(`listening on`)
		return p
	}
	listed := func(machine string) string {
		p := l.start(t, "", "kd.exe", "-QR", machine)
		if code := p.end(); code != 0 {
			t.Errorf("exit code %d, standard error: %s", code, p.err.text())
		}
		return strings.ReplaceAll(p.out.text(), "\r", "")
	}
	const none = "Servers on .:\nNo servers were found.\n"
	if got := listed("."); got != none {
		t.Errorf("before:\n%s", got)
	}
	quiet("one")
	two := quiet("two")
	const one = "Servers on \\\\localhost:\nRemote Kernel Debugger Server - npipe:Pipe=one\n"
	if got := listed(`\\localhost`); got != one+"Remote Kernel Debugger Server - npipe:Pipe=two\n" {
		t.Errorf("two servers:\n%s", got)
	}
	two.cmd.Process.Kill()
	two.end()
	if got := listed(`\\localhost`); got != one {
		t.Errorf("after the sudden death of one:\n%s", got)
	}
	// Without a network (see the package comment) there is still this machine.
	loud := l.start(t, "", "kdsrv.exe", "-t", "tcp:port=30000:39999,password="+password)
	want := "tcp:Port=" + loud.shows(`listening on tcp:Port=(\d+)`)[1] + `:39999,Password=\*,Server=localhost\r?\n`
	l.start(t, "", "kd.exe", "-QR").shows(want)
}
