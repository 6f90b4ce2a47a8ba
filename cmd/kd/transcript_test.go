package main

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"openkd/internal/shortdir"
	"openkd/rundir"
	"openkd/sim"
	"openkd/sim/simtest"
)

// The transcripts in testdata pin what a person sees. Each file is a family of
// commands; each "-- name.in --" in it is a session with a machine of its own,
// and "-- name.out --" is everything that was shown and typed. A session is run
// twice: on a server in this process, and through a kdsrv process on TCP. Both
// must show the same, byte for byte, and what the file says. With -short it is
// run once, on a server in this process: there the race detector sees all of it.
//
//	go test ./cmd/kd -run Transcript -update    writes the .out anew; read them!
//
// The lines of an .in are typed, each when the debugger waits at a prompt.
// {nt!Name} in them stands for nt+0x..., the place of a symbol that the
// debugger does not know yet, {tmp} for a folder of the session, {images} for
// the one with the machine's images and symbol files, and {sources} for that with
// their sources. Lines that
// begin with # are for the stage hands:
//
//	#kd args           start a debugger; quotes keep blanks together. A machine
//	                   is switched on when its first debugger connects. The
//	                   link is added, unless args have a -k or begin with -nolink
//	#only system       elsewhere this session is left out
//	#remote            the session is about the way to the server, which it starts
//	                   itself, so it is played once; -k is given
//	#ports name ...    choose free TCP ports, {name} from then on
//	#run name program args...   start kdsrv, kdprx or kdtarget and wait until it is ready
//	#kill name         kill what was started under that name
//	#join name args    start another debugger beside the first, for -remote; what
//	                   it showed stands at the end of the transcript
//	#at name           what follows is typed at that one, or waited for there;
//	                   without a name: at the first
//	#door name         wait until the first has a door and call its port {name}
//	#over              end the input and wait until the debugger has ended
//	#machine k=v ...   before the first #kd: processors, seed, modules, quirks,
//	                   break=boot
//	#order what args   ask the machine for something that it does when it runs
//	#wait text         until text has been shown since the last line typed
//	#running           until the machine runs
//	#type line         type at once, whether or not there is a prompt
//	#reset             pull the machine's reset line
//	#batch             what follows, up to the next #kd, is standard input as a
//	                   whole, not typed, and so not in the transcript
//	#registers         what was shown last are the registers of processor 0
//	#memory nt!Name    what was shown last (db) are the machine's bytes there
//	#file name         write what follows, up to #end, into {tmp}/name
//	#cat name          show a file of {tmp}
//	#end               end of #file; elsewhere, the end of the input
//	# text             nothing: a comment
//
// At the end of an .in and before the next #kd the input ends, if q has not
// been typed, and the exit code is noted.
var update = flag.Bool("update", false, "write the transcripts anew")

// patience bounds every wait of a transcript; nothing comes near it.
var patience = time.Minute

func init() {
	flag.DurationVar(&patience, "patience", patience, "how long a transcript waits for anything")
}

// Only what cannot be equal in two runs is replaced.
var (
	clock      = regexp.MustCompile(`(target|occurred) at \([A-Z][a-z]{2} [A-Z][a-z]{2} +\d+ \d\d:\d\d:\d\d\.\d{3} \d{4} \(UTC [+-] \d+:\d\d\)\)`)
	now        = regexp.MustCompile(`(debugger time:) .*`)
	build      = regexp.MustCompile(`(OpenKD kernel debugger) \S+ \S+/\S+`)
	via        = regexp.MustCompile(`(Remote KD: KdSrv:Server=@\{)[^}]*\}`)
	lost       = regexp.MustCompile(`((?:connection to \S+ is lost|said anything) \()[^\n]*(\)[:.] )`) // an end or a reset
	peerPort   = regexp.MustCompile(`(refused by [0-9.]+:)\d+`)
	cutPrompt  = regexp.MustCompile(`(?m)^(\[[^\]\n]*\] )?((\d: )?kd|Input)> \n`) // others' words came between
	auditNow   = regexp.MustCompile(`("time":"|"duration":|"peer":"tcp )[^",}]*`)
	guestAt    = regexp.MustCompile(`\((tcp|ssl) [0-9.\[\]:a-f]+\)`) // who shares a session
	stampText  = regexp.MustCompile(`(at|active|since) [A-Z][a-z]{2} [A-Z][a-z]{2} \d\d \d\d:\d\d:\d\d \d{4}`)
	machine    = regexp.MustCompile(`(Server=|server=|-QR )` + regexp.QuoteMeta(hostName()) + `\b`)
	offerPort  = regexp.MustCompile(`(come from [0-9.]+:)\d+`)
	here       = regexp.MustCompile(`(CliCon=)[^",}]*(". Ctrl)`) // this machine's name
	goBuild    = regexp.MustCompile(`built with go.*`)
	stages     = regexp.MustCompile(`(?m)^(Connection server reached: .*|Password accepted|Bytes seen)\n`) // -v: of a server, and of packets in pieces
	stageEv    = regexp.MustCompile(`(?m)^\{"event":"stage".*\n`)                                          // as stages
	rawContext = regexp.MustCompile(`("context":)"[0-9a-f]+"`)                                             // long
	jsonNow    = regexp.MustCompile(`"time":"[^"]*"`)
)

// images is the folder with the images of the simulated machine and their symbols.
func images() string { return folder("sim", "kernel", "image") }

// sources is the folder with their sources: {sources}.
func sources() string { return folder("sim", "kernel", "src") }

// extensions is the folder with the example scripts.
func extensions() string { return folder("extensions") }

func folder(name ...string) string {
	dir, err := filepath.Abs(filepath.Join("..", "..", filepath.Join(name...)))
	if err != nil {
		panic(err)
	}
	return dir
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return "<host>"
	}
	return name
}

func normalise(s string, at *stage) string {
	s = strings.ReplaceAll(s, at.socket, "<socket>")
	s = strings.ReplaceAll(s, at.tmp, "<tmp>")
	s = strings.ReplaceAll(s, images(), "<images>")
	s = strings.ReplaceAll(s, sources(), "<sources>")
	s = strings.ReplaceAll(s, extensions(), "<extensions>")
	s = strings.ReplaceAll(s, rundir.Path(), "<run>")
	for name, p := range at.ports {
		s = regexp.MustCompile(`\b`+strconv.Itoa(p)+`\b`).ReplaceAllString(s, "<"+name+">")
	}
	s = lost.ReplaceAllString(s, "$1<why>$2")
	s = peerPort.ReplaceAllString(s, "$1<port>")
	s = auditNow.ReplaceAllString(s, "$1<now>")
	s = guestAt.ReplaceAllString(s, "($1 <peer>)")
	s = stampText.ReplaceAllString(s, "$1 <now>")
	s = machine.ReplaceAllString(s, "$1<host>")
	s = offerPort.ReplaceAllString(s, "$1<port>")
	s = here.ReplaceAllString(s, "$1<host>$2")
	s = clock.ReplaceAllString(s, "$1 at (<now>)")
	s = now.ReplaceAllString(s, "$1 <now>")
	s = via.ReplaceAllString(s, "$1<server>}")
	s = goBuild.ReplaceAllString(s, "built with <go>")
	s = stages.ReplaceAllString(s, "")
	s = build.ReplaceAllString(s, "$1 <version> <system>")
	s = rawContext.ReplaceAllString(s, `$1"<context>"`)
	s = stageEv.ReplaceAllString(s, "")
	return jsonNow.ReplaceAllString(s, `"time":"<now>"`)
}

func TestTranscripts(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("the machines of the transcripts are served at Unix sockets")
	}
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts:", err)
	}
	// Short, because the paths of sockets are.
	dir, err := shortdir.Make()
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	t.Setenv(rundir.Env, dir)
	for _, v := range []string{"_NT_SYMBOL_PATH", "_NT_ALT_SYMBOL_PATH", "_NT_EXECUTABLE_IMAGE_PATH", "_NT_SOURCE_PATH"} {
		t.Setenv(v, "")
	}
	t.Setenv("DBGHELP_HOMEDIR", dir) // no cache of the person who runs this
	srv := startServer(t)
	t.Run("families", func(t *testing.T) {
		for _, file := range files {
			t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
				t.Parallel()
				family(t, file, srv)
			})
		}
	})
}

func family(t *testing.T, file string, srv *kdsrvProcess) {
	a, err := readArchive(file)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(a.comment) == "" {
		t.Error("the file does not say what it shows")
	}
	golden := map[string]string{}
	for _, f := range a.files {
		if name, ok := strings.CutSuffix(f.name, ".out"); ok {
			golden[name] = f.data
		}
	}
	var mu sync.Mutex
	got := map[string]string{}
	t.Run("sessions", func(t *testing.T) {
		for _, f := range a.files {
			name, ok := strings.CutSuffix(f.name, ".in")
			if !ok {
				continue
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				var local, remote string
				switch {
				case strings.Contains(f.data, "\n#remote\n"):
					remote = play(t, f.data, srv)
					local = remote
				case testing.Short():
					local = play(t, f.data, nil)
					remote = local
				default:
					remote, local = play(t, f.data, srv), play(t, f.data, nil)
				}
				mu.Lock()
				got[name] = local
				mu.Unlock()
				if local != remote {
					t.Errorf("a server in the process and a kdsrv process differ:\n%s", diff(local, remote))
				}
				if want, ok := golden[name]; !*update && (!ok || local != want) {
					t.Errorf("not as in %s (go test -update writes it anew):\n%s", file, diff(want, local))
				}
			})
		}
	})
	for name := range golden {
		if _, ok := got[name]; !ok && !t.Failed() && flag.Lookup("test.run").Value.String() == "" {
			t.Errorf("%s.out belongs to no session", name)
		}
	}
	if *update && !t.Failed() {
		out := archive{comment: a.comment}
		for _, f := range a.files {
			if strings.HasSuffix(f.name, ".out") {
				continue
			}
			out.files = append(out.files, f)
			if name, ok := strings.CutSuffix(f.name, ".in"); ok {
				text, ran := got[name]
				if !ran {
					text = golden[name]
				}
				out.files = append(out.files, archiveFile{name + ".out", text})
			}
		}
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// archive is a file of files: a comment, and behind each line "-- name --" a
// file (the txtar format of the Go tools).
type archive struct {
	comment string
	files   []archiveFile
}

type archiveFile struct{ name, data string }

func readArchive(file string) (archive, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return archive{}, err
	}
	text := strings.ReplaceAll(string(b), "\r\n", "\n")
	marks := regexp.MustCompile(`(?m)^-- (\S+) --\n`).FindAllStringSubmatchIndex(text, -1)
	a := archive{comment: text}
	for i, m := range marks {
		if i == 0 {
			a.comment = text[:m[0]]
		}
		end := len(text)
		if i+1 < len(marks) {
			end = marks[i+1][0]
		}
		a.files = append(a.files, archiveFile{text[m[2]:m[3]], text[m[1]:end]})
	}
	return a, nil
}

func (a archive) String() string {
	var b strings.Builder
	b.WriteString(a.comment)
	for _, f := range a.files {
		fmt.Fprintf(&b, "-- %s --\n%s", f.name, f.data)
		if !strings.HasSuffix(f.data, "\n") {
			b.WriteByte('\n')
		}
	}
	return b.String()
}

// diff shows the first lines that differ, with what is around them.
func diff(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	i := 0
	for i < len(w) && i < len(g) && w[i] == g[i] {
		i++
	}
	var b strings.Builder
	from := max(0, i-5)
	for _, l := range w[from:i] {
		fmt.Fprintf(&b, "  %s\n", l)
	}
	for _, l := range w[i:min(len(w), i+8)] {
		fmt.Fprintf(&b, "- %s\n", l)
	}
	for _, l := range g[i:min(len(g), i+8)] {
		fmt.Fprintf(&b, "+ %s\n", l)
	}
	return fmt.Sprintf("line %d:\n%s", i+1, b.String())
}

// kdsrvProcess is one kdsrv for all sessions, on a password.
type kdsrvProcess struct {
	port int
	exe  string
	prx  string // the repeater's program
	vm   string // the program of machines of their own
}

const srvPassword = "transcript"

func startServer(t *testing.T) *kdsrvProcess {
	t.Helper()
	s := buildPrograms(t)
	cmd, port := s.start(t)
	s.port = port
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		if err := wait(cmd); err != nil {
			t.Errorf("kdsrv ended with %v:\n%s", err, cmd.Stderr)
		}
	})
	return s
}

func buildPrograms(t *testing.T) *kdsrvProcess {
	t.Helper()
	dir := t.TempDir()
	s := &kdsrvProcess{exe: filepath.Join(dir, "kdsrv"), prx: filepath.Join(dir, "kdprx"), vm: filepath.Join(dir, "kdtarget")}
	build := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", dir+"/", "openkd/cmd/kdsrv", "openkd/cmd/kdprx", "openkd/cmd/kdtarget")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as they are given to people
	if text, err := build.CombinedOutput(); err != nil {
		t.Fatalf("the programs do not build: %v\n%s", err, text)
	}
	return s
}

// start starts another process of kdsrv.
func (s *kdsrvProcess) start(t *testing.T) (*exec.Cmd, int) {
	t.Helper()
	cmd := exec.Command(s.exe, "-t", "tcp:port=0,password="+srvPassword)
	cmd.Stderr = new(bytes.Buffer)
	first := &screen{changed: make(chan struct{}, 1)}
	cmd.Stdout = first
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`^kdsrv: listening on tcp:Port=(\d+),.*\n`)
	if !first.until(func(s string) bool { return line.MatchString(s) }, patience) {
		cmd.Process.Kill()
		wait(cmd)
		t.Fatalf("kdsrv does not say where it listens: %q\n%s", first.text(), cmd.Stderr)
	}
	port, _ := strconv.Atoi(line.FindStringSubmatch(first.text())[1])
	return cmd, port
}

// wait waits for the process, and kills it when it does not end.
func wait(cmd *exec.Cmd) error {
	stop := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer stop.Stop()
	return cmd.Wait()
}

// screen collects what is shown.
type screen struct {
	mu      sync.Mutex
	b       []byte
	typed   int // where the output begins that came after the last line typed
	changed chan struct{}
}

func (s *screen) Write(p []byte) (int, error) {
	s.mu.Lock()
	s.b = append(s.b, p...)
	s.mu.Unlock()
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return len(p), nil
}

// echo shows a line as a terminal would while it is typed.
func (s *screen) echo(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.b = append(append(s.b, line...), '\n')
	s.typed = len(s.b)
}

func (s *screen) text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.b)
}

func (s *screen) since() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.b[s.typed:])
}

// until waits until what was shown since the last line typed is as asked for.
func (s *screen) until(ok func(string) bool, d time.Duration) bool {
	return s.wait(s.since, ok, d)
}

// untilEnd is until with no more than the last 100 bytes of it.
func (s *screen) untilEnd(ok func(string) bool, d time.Duration) bool {
	return s.wait(func() string {
		s.mu.Lock()
		defer s.mu.Unlock()
		return string(s.b[max(s.typed, len(s.b)-100):])
	}, ok, d)
}

func (s *screen) wait(shown func() string, ok func(string) bool, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	for !ok(shown()) {
		select {
		case <-s.changed:
		case <-t.C:
			return ok(shown())
		}
	}
	return true
}

// stage is where a session plays: a machine, its socket, and one debugger after
// another.
type stage struct {
	t      *testing.T
	srv    *kdsrvProcess
	tmp    string
	socket string
	cfg    sim.Config
	m      *simtest.Machine
	*player
	first  *player
	guests []*player
	all    strings.Builder // the transcript of the debuggers that have ended
	ports  map[string]int  // of #ports
	others map[string]*exec.Cmd
}

// player is one debugger of a session.
type player struct {
	name   string
	title  string // its command line
	screen *screen
	stderr *screen
	in     *io.PipeWriter
	code   chan int // nil: it has ended
}

// play runs a session and returns its transcript.
func play(t *testing.T, script string, srv *kdsrvProcess) string {
	t.Helper()
	// Short, because the paths of sockets are, and of one length, because carets
	// stand below paths.
	dir := filepath.Join(shortdir.Base(), "kd"+crand.Text()[:10])
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &stage{
		t: t, srv: srv, tmp: dir, socket: filepath.Join(dir, "vm.sock"),
		cfg: simtest.Steady(),
	}
	s.cfg.BreakAtBoot = false
	if testing.Short() { // with the race detector a machine that idles takes a processor
		s.cfg.Tick = 5 * time.Millisecond
	}
	s.first = &player{}
	s.player = s.first
	// Off at once: a machine that nobody looks at computes all the same.
	defer func() {
		if s.m != nil {
			s.m.Off()
		}
	}()
	defer s.everybodyOut()
	lines := strings.Split(strings.TrimSuffix(script, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		line := s.expand(lines[i])
		if t.Failed() {
			break
		}
		if !strings.HasPrefix(line, "#") {
			s.prompt()
			s.typeLine(line)
			continue
		}
		verb, rest, _ := strings.Cut(line[1:], " ")
		switch verb {
		case "":
		case "only":
			if runtime.GOOS != rest {
				t.Skip("the texts are those of " + rest)
			}
		case "over":
			s.hangUp()
		case "join":
			name, args, _ := strings.Cut(rest, " ")
			s.join(name, args)
		case "at":
			s.at(rest)
		case "door":
			s.door(rest)
		case "machine":
			s.machine(rest)
		case "remote":
		case "ports":
			s.choosePorts(strings.Fields(rest))
		case "run":
			name, command, _ := strings.Cut(rest, " ")
			s.runOther(name, words(command))
		case "kill":
			s.killOther(rest)
		case "file":
			var b strings.Builder
			for i++; i < len(lines) && lines[i] != "#end"; i++ {
				b.WriteString(s.expand(lines[i]) + "\n")
			}
			if err := os.WriteFile(filepath.Join(s.tmp, rest), []byte(b.String()), 0o600); err != nil {
				t.Fatal(err)
			}
		case "cat":
			s.hangUp()
			b, err := os.ReadFile(filepath.Join(s.tmp, rest))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&s.all, "[%s]\n%s[end of %s]\n", rest, b, rest)
		case "kd":
			s.hangUp()
			s.kd(rest)
		case "batch":
			var b strings.Builder
			for i++; i < len(lines) && !strings.HasPrefix(lines[i], "#kd"); i++ {
				b.WriteString(s.expand(lines[i]) + "\n")
			}
			i--
			io.WriteString(s.in, b.String())
			s.in.Close()
		case "order":
			s.order(rest)
		case "wait":
			if !s.screen.until(func(shown string) bool { return strings.Contains(shown, rest) }, patience) {
				t.Fatalf("%q was not shown:\n%s", rest, s.screen.text())
			}
		case "running":
			s.running()
		case "registers":
			s.checkRegisters()
		case "memory":
			s.checkMemory(rest)
		case "reset":
			s.m.Reset()
		case "type":
			s.typeLine(rest)
		case "end":
			s.in.Close()
		default:
			t.Fatalf("%q is no direction", line)
		}
	}
	s.everybodyOut()
	return normalise(s.all.String(), s)
}

// nextPort counts up from a random place below those that the system gives to
// whoever asks: two sessions must not meet at one.
var nextPort = func() *atomic.Int32 {
	var n atomic.Int32
	n.Store(10000 + rand.Int32N(8000))
	return &n
}()

// choosePorts finds free ports.
func (s *stage) choosePorts(names []string) {
	if s.ports == nil {
		s.ports = make(map[string]int)
	}
	for _, name := range names {
		for s.ports[name] == 0 {
			p := int(nextPort.Add(1))
			if ln, err := net.Listen("tcp", fmt.Sprintf(":%d", p)); err == nil {
				ln.Close()
				s.ports[name] = p
			}
		}
	}
}

// runOther starts kdsrv, kdprx or kdtarget and waits for its line.
func (s *stage) runOther(name string, args []string) {
	exe := map[string]string{"kdsrv": s.srv.exe, "kdprx": s.srv.prx, "kdtarget": s.srv.vm}[args[0]]
	cmd := exec.Command(exe, args[1:]...)
	out := &screen{changed: make(chan struct{}, 1)}
	cmd.Stdout, cmd.Stderr = out, new(bytes.Buffer)
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	if s.others == nil {
		s.others = make(map[string]*exec.Cmd)
	}
	s.others[name] = cmd
	s.t.Cleanup(func() {
		if s.others[name] == cmd {
			s.killOther(name)
		}
	})
	if !out.until(func(shown string) bool { return strings.HasSuffix(shown, "\n") }, patience) {
		s.t.Fatalf("%v does not say that it is ready:\n%s", args, cmd.Stderr)
	}
}

func (s *stage) killOther(name string) {
	cmd := s.others[name]
	delete(s.others, name)
	cmd.Process.Kill()
	cmd.Wait()
	if s.t.Failed() {
		s.t.Logf("%v:\n%s", cmd.Args, cmd.Stderr)
	}
}

var symbolRef = regexp.MustCompile(`\{(\w+)!([\w.]+)\}`)

// expand puts folders and places of symbols into a line.
func (s *stage) expand(line string) string {
	line = strings.ReplaceAll(line, "{tmp}", s.tmp)
	line = strings.ReplaceAll(line, "{images}", images())
	line = strings.ReplaceAll(line, "{sources}", sources())
	line = strings.ReplaceAll(line, "{extensions}", extensions())
	line = strings.ReplaceAll(line, "{socket}", s.socket)
	for name, p := range s.ports {
		line = strings.ReplaceAll(line, "{"+name+"}", strconv.Itoa(p))
	}
	return symbolRef.ReplaceAllStringFunc(line, func(ref string) string {
		s.powerUp()
		name := ref[1 : len(ref)-1]
		mod, _, _ := strings.Cut(name, "!")
		at, ok := s.m.Symbol(name)
		if !ok {
			s.t.Fatalf("the machine has no symbol %s", name)
		}
		for _, m := range s.m.Modules() {
			if at >= m.Base && at < m.Base+m.Size {
				return fmt.Sprintf("%s+0x%x", mod, at-m.Base)
			}
		}
		return fmt.Sprintf("%#x", at)
	})
}

func (s *stage) machine(text string) {
	for _, kv := range strings.Fields(text) {
		k, v, _ := strings.Cut(kv, "=")
		n, _ := strconv.Atoi(v)
		switch k {
		case "processors":
			s.cfg.Processors = n
		case "modules":
			s.cfg.Modules = n
		case "seed":
			s.cfg.Seed = int64(n)
		case "quirks":
			s.cfg.Quirks = sim.Quirks(v)
		case "break":
			s.cfg.BreakAtBoot = v == "boot"
		case "autoreboot":
			s.cfg.AutoReboot = true
		default:
			s.t.Fatalf("a machine has no %q", kv)
		}
	}
}

// powerUp makes the machine and its socket, once. It is switched on when the
// first debugger connects, so that the boot is met in full by every run.
func (s *stage) powerUp() {
	if s.m != nil {
		return
	}
	ln, err := net.Listen("unix", s.socket)
	if err != nil {
		s.t.Fatal(err)
	}
	s.m = simtest.New(s.t, s.cfg)
	s.m.Listen(ln, nil)
}

// kd starts a debugger.
func (s *stage) kd(text string) {
	s.powerUp()
	args := words(text)
	if len(args) > 0 && args[0] == "-nolink" {
		args = args[1:]
	} else if !contains(args, "-k") {
		link := "com:pipe,port=" + s.socket
		if s.srv != nil {
			link = s.through(link)
		}
		args = append([]string{"-k", link}, args...)
	}
	s.start(text, args)
}

// start starts the current player.
func (s *stage) start(text string, args []string) {
	s.screen = &screen{changed: make(chan struct{}, 1)}
	s.stderr = &screen{changed: make(chan struct{}, 1)}
	var in *io.PipeReader
	in, s.in = io.Pipe()
	s.code = make(chan int, 1)
	s.title = strings.TrimSpace("$ kd " + text)
	code, out, errs := s.code, s.screen, s.stderr
	go func() {
		c := run(args, in, out, errs)
		in.CloseWithError(errors.New("kd has ended"))
		code <- c
	}()
}

// join starts a debugger beside the first.
func (s *stage) join(name, args string) {
	s.player = &player{name: name}
	s.guests = append(s.guests, s.player)
	s.start(args, words(args))
}

// at turns to another debugger.
func (s *stage) at(name string) {
	s.player = s.first
	for _, g := range s.guests {
		if g.name == name {
			s.player = g
		}
	}
	if s.player.name != name {
		s.t.Fatalf("there is no debugger %q", name)
	}
}

var doorPort = regexp.MustCompile(`-remote "?(?:tcp|ssl):(?:Port=|.*,Port=)(\d+)`)

// door gives the port of the last door that the first debugger has opened a
// name.
func (s *stage) door(name string) {
	sc := s.first.screen
	if !sc.until(func(string) bool { return doorPort.MatchString(sc.text()) }, patience) {
		s.t.Fatalf("no door was opened:\n%s\n%s", sc.text(), s.first.stderr.text())
	}
	all := doorPort.FindAllStringSubmatch(sc.text(), -1)
	if s.ports == nil {
		s.ports = make(map[string]int)
	}
	s.ports[name], _ = strconv.Atoi(all[len(all)-1][1])
}

// everybodyOut ends all debuggers, those that joined first.
func (s *stage) everybodyOut() {
	guests := s.guests
	s.guests = nil
	for _, g := range guests {
		s.player = g
		s.leave()
	}
	s.player = s.first
	s.hangUp()
	for _, g := range guests {
		s.all.WriteString(g.title + "\n" + g.screen.text())
	}
	if len(guests) > 0 {
		// Whether a prompt was shown before the next line came is chance.
		text := cutPrompt.ReplaceAllString(s.all.String(), "")
		s.all.Reset()
		s.all.WriteString(text)
	}
}

func (s *stage) through(link string) string {
	return fmt.Sprintf("kdsrv:server=@{tcp:server=127.0.0.1,port=%d,password=%s},trans=@{%s}", s.srv.port, srvPassword, link)
}

func contains(l []string, s string) bool {
	for _, x := range l {
		if x == s {
			return true
		}
	}
	return false
}

// words splits at blanks outside of double quotes.
func words(text string) []string {
	var l []string
	for _, m := range regexp.MustCompile(`"([^"]*)"|(\S+)`).FindAllStringSubmatch(text, -1) {
		l = append(l, m[1]+m[2])
	}
	return l
}

// hangUp ends the first debugger, or the one that is turned to, and writes down
// what it has shown. Of a guest that is done at the end.
func (s *stage) hangUp() {
	if s.code == nil {
		return
	}
	s.leave()
	if s.player == s.first {
		s.all.WriteString(s.title + "\n" + s.screen.text())
	}
}

// leave ends the input, waits for the debugger's end and notes its exit code.
func (s *stage) leave() {
	if s.code == nil {
		return
	}
	s.in.Close()
	var code int
	select {
	case code = <-s.code:
	case <-time.After(patience):
		s.t.Fatalf("kd does not end:\n%s", s.screen.text())
	}
	s.code = nil
	if text := s.stderr.text(); text != "" {
		fmt.Fprintf(s.screen, "[standard error]\n%s", text)
	}
	fmt.Fprintf(s.screen, "[exit code %d]\n\n", code)
}

var atPrompt = regexp.MustCompile(`(?:^|[^\w])(?:\d+: )?kd> $|Input> $|(?:^|\n)[0-9a-f\x60]{17} [0-9a-f]+ $`)

// prompt waits until the debugger waits.
func (s *stage) prompt() {
	// The last line is enough, and a long output comes in many pieces.
	if !s.screen.untilEnd(func(end string) bool { return atPrompt.MatchString(end) }, patience) {
		s.t.Fatalf("no prompt:\n%s\n%s", s.screen.text(), s.stderr.text())
	}
}

func (s *stage) typeLine(line string) {
	s.screen.echo(line)
	if _, err := io.WriteString(s.in, line+"\n"); err != nil {
		s.t.Errorf("nobody reads %q: %v\n%s", line, err, s.screen.text())
	}
}

// running waits until the processors work.
func (s *stage) running() {
	from := s.m.Stats().Ticks
	for end := time.Now().Add(patience); s.m.Stats().Ticks < from+3; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			s.t.Fatalf("the machine does not run:\n%s", s.screen.text())
		}
	}
}

// checkRegisters compares the registers just shown with those of the processor.
func (s *stage) checkRegisters() {
	s.prompt()
	c, _ := s.m.CPU(0)
	shown := s.screen.since()
	for i, n := range []string{"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"} {
		if want := fmt.Sprintf("%3s=%016x", n, c.R[i]); !strings.Contains(shown, want) {
			s.t.Errorf("the processor has %s:\n%s", want, shown)
		}
	}
	if want := fmt.Sprintf("rip=%016x ", c.RIP); !strings.Contains(shown, want) {
		s.t.Errorf("the processor has %s:\n%s", want, shown)
	}
	if want := fmt.Sprintf("efl=%08x", c.RFlags); !strings.Contains(shown, want) {
		s.t.Errorf("the processor has %s:\n%s", want, shown)
	}
}

// checkMemory compares the lines of db just shown with the machine's memory.
func (s *stage) checkMemory(symbol string) {
	s.prompt()
	at, ok := s.m.Symbol(symbol)
	if !ok {
		s.t.Fatalf("the machine has no symbol %s", symbol)
	}
	lines := regexp.MustCompile(`(?m)^([0-9a-f]{8})\x60([0-9a-f]{8})  ([0-9a-f -]{47}) `).FindAllStringSubmatch(s.screen.since(), -1)
	if len(lines) == 0 {
		s.t.Fatalf("no memory is shown:\n%s", s.screen.since())
	}
	for i, l := range lines {
		b := make([]byte, 16)
		s.m.ReadVirtual(at+uint64(i)*16, b)
		want := fmt.Sprintf("% x-% x", b[:8], b[8:])
		if addr := fmt.Sprintf("%016x", at+uint64(i)*16); l[1]+l[2] != addr || l[3] != want {
			s.t.Errorf("at %s the machine has\n%s, shown is\n%s", addr, want, l[0])
		}
	}
}

// order asks the machine for something.
func (s *stage) order(text string) {
	s.powerUp()
	what, rest, _ := strings.Cut(text, " ")
	var n []uint64
	for _, f := range strings.Fields(rest) {
		v, _ := strconv.ParseUint(f, 0, 64)
		n = append(n, v)
	}
	n = append(n, make([]uint64, 5)...)
	switch what {
	case "break":
		s.m.Break()
	case "print":
		s.m.Print(strings.ReplaceAll(rest, `\n`, "\n"))
	case "prompt":
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		done := make(chan struct{})
		go func() {
			defer close(done)
			if answer, err := s.m.Prompt(ctx, rest); err == nil {
				s.m.Print(fmt.Sprintf("the answer is %q\n", answer))
			}
		}()
		s.t.Cleanup(func() { cancel(); <-done })
	case "load":
		s.m.LoadDriver(rest)
	case "unload":
		s.m.UnloadDriver(rest)
	case "bugcheck":
		s.m.BugCheck(uint32(n[0]), n[1:5]...)
	case "access":
		s.m.RaiseAccessViolation(n[0], n[1] != 0)
	case "assert":
		s.m.Assert()
	case "watch":
		s.m.Watch(uint32(n[0]))
	case "call":
		s.m.Call(n[0])
	case "command":
		s.m.CommandString("test", rest)
	case "reboot":
		s.m.Reboot()
	default:
		s.t.Fatalf("the machine takes no order %q", text)
	}
}
