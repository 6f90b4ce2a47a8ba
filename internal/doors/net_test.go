package doors

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"openkd/connstr"
	"openkd/internal/ports"
	"openkd/kdrpc"
	"openkd/link/kdnet"
	"openkd/sim"
	"openkd/sim/simtest"
	"openkd/target"
	"openkd/transport"
)

// netKey is a key whose parts nobody writes by chance.
const netKey = "k1alpha.k2bravo.k3charlie.k4delta"

// secrets are the ways in which a text could hold a part of a key.
func secrets(t testing.TB) []string {
	key, err := kdnet.ParseKey(netKey)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for i, part := range strings.Split(netKey, ".") {
		b := key[8*i : 8*i+8]
		inverse := make([]byte, len(b)) // of the MAC key
		for i := range b {
			inverse[i] = ^b[i]
		}
		for _, b := range [][]byte{b, inverse} {
			out = append(out, hex.EncodeToString(b), fmt.Sprintf("% x", b), strings.Trim(fmt.Sprint(b), "[]"), strings.Trim(strings.ReplaceAll(fmt.Sprint(b), " ", ","), "[]"), string(b))
		}
		out = append(out, part)
	}
	return out
}

// netMachine switches a machine on that is debugged over UDP.
func netMachine(t testing.TB, port, seed int) *simtest.Machine {
	t.Helper()
	key, err := kdnet.ParseKey(netKey)
	if err != nil {
		t.Fatal(err)
	}
	m := simtest.New(t, sim.Config{
		Processors: 2, Seed: int64(seed), Tick: time.Millisecond,
		Net: &kdnet.TargetConfig{Key: key, Host: netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(port)), Offer: 100 * time.Millisecond},
	})
	m.PowerOn()
	return m
}

// Two network targets at two ports of one kdsrv, whose keys only the server
// knows. Two clients work at the same time, each sees its own machine, and one
// that leaves does not disturb the other. Nobody else gets at a port that is
// held, however it is spelt. Whatever all of them say, log, count and list,
// most talkative, holds no part of the key.
func TestNetworkTargets(t *testing.T) {
	s := newSite(t)
	s.setenv(t)
	held := [2]int{ports.UDP(t), ports.UDP(t)}
	profiles := filepath.Join(s.dir, "profiles")
	text := fmt.Sprintf("# the lab\nlab7 port=%d,key=%s\nlab8 port=%d,key=%s\ntwisted port=%d,key=%s.5\n", held[0], netKey, held[1], netKey, held[1], netKey)
	if err := os.WriteFile(profiles, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s.env = append(s.env, "OPENKD_NET_PROFILES="+profiles, "OPENKD_PASSWORD=main Job 7!")
	var said bytes.Buffer // by everybody
	note := func(what, text string) { fmt.Fprintf(&said, "=== %s\n%s\n", what, text) }

	log, audit := filepath.Join(s.dir, "log"), filepath.Join(s.dir, "audit")
	srv := s.start("kdsrv", "-t", "tcp:port=0", "-v", "-logfile", log, "-audit", audit, "-metrics", "0", "-noannounce")
	port := srv.says(`kdsrv: listening on [^(]*?Port=(\d+)`)[1]
	tr, err := connstr.ParseTransport("tcp:server=127.0.0.1,port="+port+","+password, false)
	if err != nil {
		t.Fatal(err)
	}
	machines := [2]*simtest.Machine{netMachine(t, held[0], 7), netMachine(t, held[1], 8)}
	ctx := t.Context()
	begun := [2]*worker{begin(ctx, t, tr, "net:profile=lab7"), begin(ctx, t, tr, "net:profile=lab8")}
	const n = 64 << 10
	look := func(i int) {
		t.Helper()
		want := make([]byte, n)
		if machines[i].ReadVirtual(begun[i].base, want) != n {
			t.Fatal("no kernel there")
		}
		if got, err := begun[i].read(n); err != nil || !bytes.Equal(got, want) {
			t.Errorf("machine %d: %d bytes, %v", i, len(got), err)
		}
	}
	var both sync.WaitGroup
	for i := range begun {
		both.Go(func() { look(i) })
	}
	both.Wait()
	if begun[0].base == begun[1].base {
		t.Error("the machines are not different, this shows nothing")
	}

	// Junk at both ports meanwhile: counted below, and not noticed.
	stranger, err := net.Dial("udp4", fmt.Sprintf("127.0.0.1:%d", held[0]))
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	for range 20 {
		stranger.Write(append([]byte("MDBG\x05\x01"), make([]byte, 374-6)...))
	}
	look(0)

	refused := func(link, want string) {
		t.Helper()
		dial := func(ctx context.Context) (net.Conn, error) { return transport.Dial(ctx, tr, transport.Options{}) }
		c, err := kdrpc.Connect(ctx, dial, kdrpc.Open{Link: link, Owner: "eve@lab"})
		if err == nil {
			c.Close(ctx, target.LeaveRunning)
			t.Errorf("%s: taken", link)
			return
		}
		note(link, err.Error())
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", link, err, want)
		}
	}
	refused("net:profile=LAB7", "held")
	refused(fmt.Sprintf("net:port=%d,key=1.2.3.4", held[0]), "held")
	refused("net:profile=twisted", "the key has 5 parts")
	refused("net:profile=lab9", "has no such profile")
	refused("net:profile=../profiles", "has no such profile")
	refused("net:profile=lab7,target=10.0.0.1", "stands alone")
	refused(fmt.Sprintf("net:port=%d,key=1.2.3.4,target=no.such.invalid", ports.UDP(t)), "target=no.such.invalid does not resolve")

	// People look at everything.
	run := func(name string, args ...string) string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		cmd := exec.CommandContext(ctx, filepath.Join(s.p.dir, name), args...)
		cmd.Env = s.env
		out, err := cmd.CombinedOutput()
		note(fmt.Sprint(name, args, err), string(out))
		return string(out)
	}
	status := run("kdsrv", "-status")
	for i, m := range begun {
		want := fmt.Sprintf("NET:Port=%d,Key=*: ", held[i])
		if !strings.Contains(status, want) {
			t.Errorf("-status lacks %q (%v):\n%s", want, m.c, status)
		}
	}
	if !strings.Contains(status, "target: 127.0.0.1:") || !strings.Contains(status, "refused: 20 datagrams that the key does not open") && !strings.Contains(status, " of somebody else") {
		t.Errorf("-status does not tell of the network:\n%s", status)
	}
	run("kdsrv", "-status", "-json")
	run("kd", "-QR", "localhost")
	run("kd", "-json", "-QR", "localhost")
	b, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	at := regexp.MustCompile(`http://127\.0\.0\.1:\d+/metrics`).FindString(string(b))
	r, err := http.Get(at)
	if err != nil {
		t.Fatal(err)
	}
	b, _ = io.ReadAll(r.Body)
	r.Body.Close()
	note("metrics", string(b))
	if want := fmt.Sprintf("kdsrv_net_datagrams_total{direction=\"in\",line=\"NET:Port=%d,Key=*\"}", held[1]); !strings.Contains(string(b), want) {
		t.Errorf("metrics lack %s", want)
	}

	// One leaves; its port is free, the other works on.
	begun[0].leave()
	note("notices", begun[0].notices())
	look(1)
	if text := begun[1].notices(); text != "" {
		t.Errorf("the second session noticed:\n%s", text)
	}
	kd := func(args ...string) string { return run("kd", append([]string{"-v", "-n", "-b"}, args...)...) }
	door := "kdsrv:server=@{tcp:server=127.0.0.1,port=" + port + "},trans=@{net:profile=lab7}"
	own := filepath.Join(s.dir, "own.log")
	commands := ".psrvstatus; !net; ||; r; q"
	for _, args := range [][]string{{"-json", "-k", door, "-c", commands}, {"-k", door, "-logo", own, "-c", commands}} {
		out := kd(args...)
		if !strings.Contains(out, "127.0.0.1:") || !strings.Contains(out, "Refused:") {
			t.Errorf("kd %v shows no figures:\n%s", args, out)
		}
	}
	begun[1].leave()
	note("notices", begun[1].notices())
	// Without a server between, where the one process knows the key, and traces.
	direct := exec.CommandContext(ctx, filepath.Join(s.p.dir, "kd"), "-v", "-n", "-b", "-json", "-k", fmt.Sprintf("net:port=%d,key=%s", held[1], netKey), "-c", commands)
	direct.Env = s.env
	out, err := direct.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "127.0.0.1:") {
		t.Errorf("%v\n%s", err, out)
	}
	note("direct", string(out))

	srv.stop()
	note("kdsrv", srv.out.String()+srv.err.String())
	for _, file := range []string{log, audit, own} {
		b, err := os.ReadFile(file)
		if err != nil || len(b) == 0 {
			t.Errorf("%s: %d bytes, %v", file, len(b), err)
		}
		note(file, string(b))
	}
	for _, secret := range secrets(t) {
		if i := strings.Index(strings.ToLower(said.String()), secret); i >= 0 {
			t.Errorf("%q is said:\n%s", secret, said.String()[max(0, i-300):min(said.Len(), i+300)])
		}
	}
	t.Logf("%d bytes were said in all", said.Len())
	if os.Getenv("SHOW") != "" {
		t.Log(said.String())
	}
}
