//go:build linux

package wine

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"openkd/internal/captured"
)

// patience bounds every wait; nothing comes near it.
const patience = time.Minute

// shim is what Go's runtime needs and Wine 8 has not.
const shim = `
#include <stddef.h>
__declspec(dllimport) unsigned char __stdcall SystemFunction036(void *, unsigned long); /* RtlGenRandom */
__declspec(dllexport) int __stdcall ProcessPrng(unsigned char *p, size_t n)
{
	while (n > 0) {
		unsigned long part = n > 0x10000000 ? 0x10000000 : (unsigned long)n;
		if (!SystemFunction036(p, part))
			return 0;
		p += part;
		n -= part;
	}
	return 1;
}
`

// lab is a Wine prefix, the programs of both systems, and nothing else.
type lab struct {
	prefix string
	bin    string   // the programs, and the same with .exe
	env    []string // of Wine
	unix   []string // of the programs of this system
}

// programs are built for both systems.
var programs = []string{"kd", "kdsrv", "kdtarget", "kdprx", "remote"}

func newLab(t *testing.T) *lab {
	t.Helper()
	if testing.Short() {
		t.Skip("making a Wine prefix takes a while")
	}
	for _, tool := range []string{"wine", "wineboot", "wineserver", "x86_64-w64-mingw32-gcc"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is missing (Debian: apt install wine64 gcc-mingw-w64-x86-64)", tool)
		}
	}
	dir := t.TempDir()
	l := &lab{prefix: filepath.Join(dir, "prefix"), bin: filepath.Join(dir, "bin")}
	for _, kv := range os.Environ() {
		switch name, _, _ := strings.Cut(kv, "="); {
		case name == "DISPLAY", name == "WAYLAND_DISPLAY", strings.HasPrefix(name, "WINE"), strings.HasPrefix(name, "_NT_"), strings.HasPrefix(name, "OPENKD_"):
		default:
			l.env = append(l.env, kv)
		}
	}
	// The two systems have nothing in common but the network and cables.
	l.unix = append(slices.Clip(l.env), "OPENKD_RUN_DIR="+filepath.Join(dir, "run"), "OPENKD_CERT_DIR="+filepath.Join(dir, "certs"))
	l.env = append(l.env, "WINEPREFIX="+l.prefix, "WINEARCH=win64", "WINEDEBUG=-all", "WINEDLLOVERRIDES=mscoree,mshtml,winemenubuilder.exe=d")

	var wg sync.WaitGroup
	var errs [3]error
	wg.Go(func() { errs[0] = l.build("") })
	wg.Go(func() { errs[1] = l.build(".exe", "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0") })
	wg.Go(func() { errs[2] = l.boot() })
	t.Cleanup(func() {
		// Every process of the prefix ends with its server.
		l.tool("wineserver", "-k")
		l.tool("wineserver", "-w")
	})
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	return l
}

func (l *lab) build(suffix string, env ...string) error {
	for _, p := range programs {
		cmd := exec.Command("go", "build", "-buildvcs=false", "-o", filepath.Join(l.bin, p+suffix), "openkd/cmd/"+p)
		cmd.Env = append(os.Environ(), env...)
		if text, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s%s does not build: %w\n%s", p, suffix, err, text)
		}
	}
	return nil
}

// boot makes the prefix.
func (l *lab) boot() error {
	if err := os.Mkdir(l.prefix, 0o700); err != nil {
		return err
	}
	// Before anything else, and without our pipes: it outlives what starts it.
	if err := l.tool("wineserver", "-p30"); err != nil {
		return err
	}
	if err := l.tool("wineboot", "-i"); err != nil {
		return err
	}
	src := filepath.Join(l.prefix, "shim.c")
	if err := os.WriteFile(src, []byte(shim), 0o600); err != nil {
		return err
	}
	out := filepath.Join(l.prefix, "drive_c", "windows", "system32", "bcryptprimitives.dll")
	if text, err := exec.Command("x86_64-w64-mingw32-gcc", "-shared", "-o", out, src, "-ladvapi32").CombinedOutput(); err != nil {
		return fmt.Errorf("the shim does not build: %w\n%s", err, text)
	}
	return nil
}

// tool runs a program of Wine's own. Its output is left alone: what it starts
// inherits that and stays.
func (l *lab) tool(name string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = l.env
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(cmd.Args, " "), err)
	}
	return nil
}

// mapPort makes a device of this system a COM port of the prefix.
func (l *lab) mapPort(t *testing.T, com, device string) {
	t.Helper()
	if err := os.Symlink(device, filepath.Join(l.prefix, "dosdevices", com)); err != nil {
		t.Fatal(err)
	}
}

// process is a running program of ours.
type process struct {
	t        *testing.T
	cmd      *exec.Cmd
	out, err captured.Text
}

// start starts a program; a name with .exe is run by Wine. It is killed when
// the test ends.
func (l *lab) start(t *testing.T, stdin, program string, args ...string) *process {
	t.Helper()
	return l.startTyping(t, strings.NewReader(stdin), program, args...)
}

// startTyping starts a program with a standard input that is written later.
func (l *lab) startTyping(t *testing.T, stdin io.Reader, program string, args ...string) *process {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &process{t: t}
	file := filepath.Join(l.bin, program)
	if strings.HasSuffix(program, ".exe") {
		p.cmd = exec.CommandContext(ctx, "wine", append([]string{file}, args...)...)
		p.cmd.Env = l.env
	} else {
		p.cmd = exec.CommandContext(ctx, file, args...)
		p.cmd.Env = l.unix
	}
	p.cmd.Dir = l.bin
	p.cmd.Stdin = stdin
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	p.cmd.WaitDelay = 5 * time.Second
	if err := p.cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		p.cmd.Wait()
		if t.Failed() {
			t.Logf("%s %q:\n%s\n[standard error]\n%s", program, args, p.out.String(), p.err.String())
		}
	})
	return p
}

// end waits for the end and returns the exit code.
func (p *process) end() int {
	p.t.Helper()
	stop := time.AfterFunc(patience, func() {
		p.t.Errorf("%q does not end", p.cmd.Args)
		p.cmd.Process.Kill()
	})
	defer stop.Stop()
	p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

// interrupt is Ctrl+C; Wine makes the control event of it.
func (p *process) interrupt() { p.cmd.Process.Signal(syscall.SIGINT) }

// kill ends the process without a word.
func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// shows waits until a pattern is on standard output and returns its groups.
func (p *process) shows(pattern string) []string {
	p.t.Helper()
	return p.await(&p.out, pattern)
}

// tells does so on standard error.
func (p *process) tells(pattern string) []string {
	p.t.Helper()
	return p.await(&p.err, pattern)
}

func (p *process) await(s *captured.Text, pattern string) []string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	var groups []string
	_, came := s.Wait(func(text string) bool {
		groups = re.FindStringSubmatch(text)
		return groups != nil
	})
	if !came {
		p.t.Fatalf("%q was not shown", pattern)
	}
	return groups
}
