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
			t.Errorf("exit code %d, standard error: %s", code, p.err.String())
		}
		return strings.ReplaceAll(p.out.String(), "\r", "")
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
	// Without a network (see the package comment) there is still this machine,
	// and what is listed can be pasted.
	l.makeCertificate(t, "kdsrv.exe", "listed")
	srv := l.start(t, "", "kdsrv.exe", "-t", "tcp:port=30000:39999"+pw, "-t", "npipe:pipe=three"+pw, "-t", "spipe:proto=tls13,certuser=listed,pipe=four"+pw)
	tcp := "tcp:Port=" + srv.shows(`listening on tcp:Port=(\d+)`)[1] + ":39999"
	all := l.start(t, "", "kd.exe", "-QR")
	all.end()
	for _, door := range []string{tcp, "npipe:Pipe=three", "spipe:Proto=tls13,CertUser=listed,Pipe=four"} {
		line := all.shows(`Remote Kernel Debugger Server - (` + door + `,Password=\*,Server=localhost)\r?\n`)[1]
		kd := l.start(t, "q\n", "kd.exe", "-kqm", "-k", through(strings.Replace(line, "*", password, 1), newMachine(t).TCP()))
		if code := kd.end(); code != 0 || !strings.Contains(kd.out.String(), "The session is closed") {
			t.Errorf("%s: exit code %d, standard error: %s", line, code, kd.err.String())
		}
	}
}
