//go:build unix

package symbols

import (
	"bytes"
	"errors"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// limitFiles makes writes fail from so many bytes on, as on a full disk.
func limitFiles(bytes uint64) error {
	signal.Ignore(syscall.SIGXFSZ)
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &l); err != nil {
		return err
	}
	l.Cur = bytes
	return syscall.Setrlimit(syscall.RLIMIT_FSIZE, &l)
}

func TestFullDisk(t *testing.T) {
	fx := load(t, "tcpip.sys")
	srv := serve(t)
	whole := fx.bulky(300_000)
	name := fx.image + "/" + fx.imageWant.Key() + "/" + fx.image
	for what, data := range map[string][]byte{"a file": whole, "a cabinet": squeeze(fx.image, append(bytes.Clone(fx.imageData), make([]byte, 300_000)...))} {
		srv.mu.Lock() // another process is not seen to come after it
		srv.files[name] = bytes.Clone(data)
		srv.mu.Unlock()
		cache := filepath.Join(t.TempDir(), "c")
		cmd, out := run(t, order{Cache: cache, Path: srv.URL, Want: fx.imageWant, Limit: 100_000})
		var lines []string
		for {
			l, err := out.ReadString('\n')
			if l != "" && strings.TrimSpace(l) != "begun" {
				lines = append(lines, strings.TrimSpace(l))
			}
			if err != nil {
				break
			}
		}
		var exit interface{ ExitCode() int }
		if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
			t.Error(err)
		}
		if len(lines) != 1 || !strings.Contains(lines[0], "the symbol cache "+cache+" cannot be written") {
			t.Errorf("%s: %q", what, lines)
		}
		if got := files(t, cache); !slices.Equal(got, []string{pingName}) {
			t.Errorf("%s: left behind: %q", what, got)
		}
	}
}
