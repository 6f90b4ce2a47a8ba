//go:build linux

package wine

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// suites are tests of other rooms as programs for Windows: what every door
// must be able to do, and what only Windows' pipes do.
func (l *lab) suites(t *testing.T) {
	for _, s := range []struct {
		room, run string
		passed    []string
	}{
		{"transport/carrier", "TestPipe", []string{
			"TestPipe", "TestPipeCloseInterrupts", "TestPipeCrowd", "TestPipeNameTaken", "TestPipeNameHeld", "TestPipeDeadServer", "TestPipeUsers", "TestPipeOfAnotherMachine",
		}},
		{"transport", "TestConformance", []string{
			"TestConformance/tcp", "TestConformance/tcp,_reverse", "TestConformance/npipe", "TestConformance/ssl", "TestConformance/ssl,_TLS_1.2", "TestConformance/spipe",
		}},
	} {
		t.Run(s.room, func(t *testing.T) {
			t.Parallel()
			exe := filepath.Join(l.bin, strings.ReplaceAll(s.room, "/", "-")+".test.exe")
			build := exec.Command("go", "test", "-c", "-o", exe, "openkd/"+s.room)
			build.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
			if text, err := build.CombinedOutput(); err != nil {
				t.Fatalf("it does not build: %v\n%s", err, text)
			}
			p := l.start(t, "", filepath.Base(exe), "-test.v", "-test.short", "-test.run", "^"+s.run)
			p.end()
			out := p.out.String()
			for _, name := range s.passed {
				if !strings.Contains(out, "--- PASS: "+name+" (") {
					t.Errorf("%s did not pass", name)
				}
			}
			// The exit code says nothing: Wine 8 cannot remove folders as package
			// os wants to, which fails each test that has a temporary one.
			for line := range strings.Lines(out) {
				if strings.HasPrefix(line, "    ") && strings.Contains(line, "--- FAIL") {
					t.Error(strings.TrimSpace(line))
				}
			}
		})
	}
}
