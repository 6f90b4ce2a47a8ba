package carrier_test

import (
	"bufio"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/Microsoft/go-winio"

	"openkd/transport/carrier"
)

// Whoever has the name already, with an access list that lets everybody in, does
// not get our clients: the pipe is not made.
func TestPipeNameTaken(t *testing.T) {
	theirs, err := winio.ListenPipe(`\\.\pipe\openkd-taken`, &winio.PipeConfig{SecurityDescriptor: "D:P(A;;GA;;;WD)"})
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	if _, err := carrier.Listen(t.Context(), pipeOf("openkd-taken"), carrier.Options{}); err == nil || !strings.Contains(err.Error(), "openkd-taken is in use") {
		t.Errorf("%v", err)
	}
}

// The name is held from the first instance to the end of the listener, whatever
// clients do, and a name differs from another by more than its case.
func TestPipeNameHeld(t *testing.T) {
	l := listenPipe(t, "openkd-held", carrier.Options{})
	echoes(t, l)
	for range 20 {
		c, err := dialPipe(t.Context(), ".", "OPENKD-Held")
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		if l, err := carrier.Listen(t.Context(), pipeOf("OpenKD-held"), carrier.Options{}); err == nil {
			l.Close()
			t.Fatal("the name was free")
		}
	}
	// Accepted streams are instances of their own.
	c, err := dialPipe(t.Context(), ".", "openkd-held")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	answers(t, c)
}

// Nothing is left of a server that died.
func TestPipeDeadServer(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envServe+"=openkd-dead")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); strings.TrimSpace(line) != "<nil>" {
		t.Errorf("the other server: %s %v", line, err)
	}
	if _, err := carrier.Listen(t.Context(), pipeOf("openkd-dead"), carrier.Options{}); err == nil || !strings.Contains(err.Error(), "is in use") {
		t.Errorf("while it lives: %v", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	listenPipe(t, "openkd-dead", carrier.Options{}).Close()
}

func TestPipeUsers(t *testing.T) {
	l := listenPipe(t, "openkd-users", carrier.Options{PipeUsers: []string{"S-1-5-32-545", "S-1-5-11"}}) // users, authenticated users
	echoes(t, l)
	c, err := dialPipe(t.Context(), "localhost", "openkd-users")
	if err != nil {
		t.Fatal(err)
	}
	answers(t, c)
	c.Close()
	for who, why := range map[string]string{"": "no name", "no such account": `"no such account"`, "S-1-x": `"S-1-x"`} {
		_, err := carrier.Listen(t.Context(), pipeOf("openkd-users2"), carrier.Options{PipeUsers: []string{who}})
		if err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%q: %v", who, err)
		}
	}
}

// A machine that is not there is told as such, and in time.
func TestPipeOfAnotherMachine(t *testing.T) {
	_, err := dialPipe(t.Context(), "192.0.2.1", "x")
	if err == nil || !strings.Contains(err.Error(), `connecting to \\192.0.2.1\pipe\x`) {
		t.Errorf("%v", err)
	}
	t.Log(err)
	_, err = dialPipe(t.Context(), "fe80::1%3", "x")
	if err == nil {
		t.Error("a machine of documentation answers")
	}
	t.Log(err)
}
