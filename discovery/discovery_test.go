package discovery

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"openkd/connstr"
	"openkd/rundir"
)

// TestMain makes this program a server that only waits, for tests that kill one.
func TestMain(m *testing.M) {
	if s := os.Getenv("DISCOVERY_TEST_SERVER"); s != "" {
		a, err := Announce(context.Background(), []Entry{entry(Kernel, s)}, Options{LocalOnly: true})
		fmt.Println("announced:", err)
		time.Sleep(time.Minute)
		a.Close()
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func entry(k Kind, s string) Entry {
	t, err := connstr.ParseTransport(s, true)
	if err != nil {
		panic(err)
	}
	return Entry{k, t}
}

// runDir gives the test a run directory of its own.
func runDir(t *testing.T) string {
	t.Helper()
	d := filepath.Join(t.TempDir(), "run")
	t.Setenv(rundir.Env, d)
	return d
}

func announceLocal(t *testing.T, entries ...Entry) *Announcement {
	t.Helper()
	a, err := Announce(t.Context(), entries, Options{LocalOnly: true, Release: "1.2.3"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

// listed is the list as lines.
func listed(t *testing.T) string {
	t.Helper()
	l, err := Local(t.Context())
	if err != nil {
		t.Error(err)
	}
	return lines(l)
}

func lines(l []Server) string {
	var b strings.Builder
	for _, s := range l {
		fmt.Fprintf(&b, "%s - %s\n", s.Kind.Label(), s)
	}
	return b.String()
}

func TestRegistry(t *testing.T) {
	dir := runDir(t)
	if got := listed(t); got != "" {
		t.Errorf("without a run directory: %s", got)
	}
	port := entry(Kernel, "tcp:port=51:60,password=geheim,icfenable")
	port.Transport.Port = 53
	a := announceLocal(t,
		entry(Debugger, "npipe:pipe=MainPipe"),
		port,
		entry(Kernel, "com:port=com1,baud=115200,channel=3"),
		entry(Kernel, "tcp:port=7,hidden"),
		entry(Kernel, "tcp:port=8,clicon=box"),
	)
	b := announceLocal(t, entry(Kernel, "ssl:proto=tls13,certuser=ab 38 f7,port=9"))
	const first = "Debugger Server - npipe:Pipe=MainPipe\n" +
		"Remote Kernel Debugger Server - com:Port=com1,Baud=115200,Channel=3\n"
	const second = "Remote Kernel Debugger Server - ssl:Proto=tls13,CertUser=ab 38 f7,Port=9\n"
	const third = "Remote Kernel Debugger Server - tcp:Port=53:60,Password=*\n"
	if got := listed(t); got != first+second+third {
		t.Errorf("listed:\n%s", got)
	}
	l, _ := Local(t.Context())
	if s := l[0]; s.PID != os.Getpid() || s.Release != "1.2.3" || s.Host == "" || !s.Here() || s.At("box") != "npipe:Pipe=MainPipe,Server=box" {
		t.Errorf("%+v", s)
	}
	if s := l[1]; s.At("box") != "com:Port=com1,Baud=115200,Channel=3" {
		t.Errorf("a cable has no server: %s", s.At("box"))
	}
	files, _ := filepath.Glob(filepath.Join(dir, folder, "*"))
	for _, f := range files {
		if text, err := os.ReadFile(f); err != nil || strings.Contains(string(text), "geheim") {
			t.Errorf("%s: %s %v", f, text, err)
		}
	}
	b.Close()
	if got := listed(t); got != first+third {
		t.Errorf("listed after one has ended:\n%s", got)
	}
	a.Close()
	a.Close()
	if got := listed(t); got != "" {
		t.Errorf("listed after both have ended:\n%s", got)
	}
	if files, _ = filepath.Glob(filepath.Join(dir, folder, "*")); len(files) != 0 {
		t.Errorf("left behind: %v", files)
	}
}

func TestContextWithdraws(t *testing.T) {
	runDir(t)
	ctx, cancel := context.WithCancel(t.Context())
	a, err := Announce(ctx, []Entry{entry(Kernel, "tcp:port=5")}, Options{LocalOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	a.tasks.Wait()
	if got := listed(t); got != "" {
		t.Error(got)
	}
}

func TestKilledServerIsNotListed(t *testing.T) {
	dir := runDir(t)
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "DISCOVERY_TEST_SERVER=tcp:port=77")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 100)
	n, _ := out.Read(line)
	const want = "Remote Kernel Debugger Server - tcp:Port=77\n"
	if got := listed(t); got != want {
		t.Errorf("listed while it lives: %q (%s)", got, line[:n])
	}
	cmd.Process.Kill()
	cmd.Wait()
	if files, _ := filepath.Glob(filepath.Join(dir, folder, "*")); len(files) != 1 {
		t.Errorf("the killed server left %v", files)
	}
	if got := listed(t); got != "" {
		t.Errorf("listed after its death: %q", got)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, folder, "*")); len(files) != 0 {
		t.Errorf("not swept: %v", files)
	}
}

// TestForeignFiles: what lies in the folder without being a record of a live
// server is not listed, and nothing but dead records is removed.
func TestForeignFiles(t *testing.T) {
	dir := filepath.Join(runDir(t), folder)
	announceLocal(t, entry(Kernel, "tcp:port=5"))
	for i, text := range []string{
		"", "{", "null", `{"version":2,"kind":"kernel","connect":"tcp:port=1"}`,
		`{"version":1,"kind":"printer","connect":"tcp:port=1"}`,
		`{"version":1,"kind":"kernel","connect":"tcp:port=1,hidden"}`,
		`{"version":1,"kind":"kernel","connect":"tcp:port=1,clicon=x"}`,
		`{"version":1,"kind":"kernel","connect":"tcp:port=0"}`,
		`{"version":1,"kind":"kernel","connect":"ssl:proto=tls13,port=1,certuser=a\u001b]0;x\u0007"}`,
		`{"version":1,"kind":"kernel","connect":"ssl:proto=tls13,port=1,certuser=a\u202eb"}`,
		`{"version":1,"kind":"kernel","connect":"npipe:pipe=` + strings.Repeat("a", maxText) + `"}`,
		strings.Repeat(" ", maxRecord) + `{"version":1,"kind":"kernel","connect":"tcp:port=1"}`,
	} {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("1-%d.json", i)))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if ok, err := lock(f); !ok || err != nil {
			t.Fatal(ok, err)
		}
		f.WriteString(text)
	}
	for _, name := range []string{"notes.txt", "1.json", "a-1.json", "1-x.json"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(`{"version":1,"kind":"kernel","connect":"tcp:port=1"}`), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "3-0.json"), 0o755); err != nil {
		t.Fatal(err)
	}
	if got := listed(t); got != "Remote Kernel Debugger Server - tcp:Port=5\n" {
		t.Errorf("listed:\n%s", got)
	}
	if files, _ := filepath.Glob(filepath.Join(dir, "*")); len(files) != 1+12+4+1 {
		t.Errorf("left: %v", files)
	}
}

// TestManyAtOnce: servers come and go while others list; whoever is announced
// when a list begins and when it ends is on it.
func TestManyAtOnce(t *testing.T) {
	runDir(t)
	announceLocal(t, entry(Kernel, "tcp:port=1"))
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for range 50 {
				a, err := Announce(t.Context(), []Entry{entry(Kernel, fmt.Sprintf("tcp:port=%d", 100+i)), entry(Kernel, fmt.Sprintf("tcp:port=%d", 200+i))}, Options{LocalOnly: true})
				if err != nil {
					t.Error(err)
					return
				}
				got := listed(t)
				for _, want := range []string{"Port=1\n", fmt.Sprintf("Port=%d\n", 100+i), fmt.Sprintf("Port=%d\n", 200+i)} {
					if strings.Count(got, want) != 1 {
						t.Errorf("%s is not on the list once:\n%s", want, got)
					}
				}
				a.Close()
			}
		})
	}
	wg.Wait()
	if got := listed(t); got != "Remote Kernel Debugger Server - tcp:Port=1\n" {
		t.Errorf("in the end:\n%s", got)
	}
}

func TestNotAnnounced(t *testing.T) {
	d := runDir(t)
	for _, c := range []struct {
		entry Entry
		why   string
	}{
		{entry(Kernel, "tcp:port=0"), "not one to connect to"},
		{entry("printer", "tcp:port=1"), "kind is not known"},
		{entry(Kernel, "ssl:proto=tls13,certuser=a\x1bb,port=1"), "does not print"},
	} {
		if a, err := Announce(t.Context(), []Entry{entry(Kernel, "tcp:port=1"), c.entry}, Options{}); err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%v: %v %v", c.entry, a, err)
		}
	}
	if runtime.GOOS == "windows" {
		return
	}
	if err := os.Mkdir(d, 0o777); err != nil {
		t.Fatal(err)
	}
	os.Chmod(d, 0o777)
	if _, err := Announce(t.Context(), []Entry{entry(Kernel, "tcp:port=1")}, Options{}); err == nil || !strings.Contains(err.Error(), rundir.Env) {
		t.Errorf("in a directory of everybody: %v", err)
	}
}
