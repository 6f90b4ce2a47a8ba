package server

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"openkd/connstr"
)

// ProfilesEnv names the file of network profiles; without it, net-profiles in
// the openkd folder of the user's configuration is read. Each line is a name
// and what stands behind net: in a link,
//
//	lab7 port=50000,key=1.2.3.4
//
// so that a key stays on the machine next to the target. Lines that begin with
// # are comments.
const ProfilesEnv = "OPENKD_NET_PROFILES"

const maxProfiles = 1 << 20 // bytes

// profile reads a network profile. Errors never quote a key.
func (o Lines) profile(name string) (connstr.Link, error) {
	path := ""
	if o.Getenv != nil {
		path = o.Getenv(ProfilesEnv)
	}
	if path == "" {
		dir, err := os.UserConfigDir()
		if err != nil {
			return connstr.Link{}, fmt.Errorf("profile=%s: no file of profiles: set %s on the machine next to the target", name, ProfilesEnv)
		}
		path = filepath.Join(dir, "openkd", "net-profiles")
	}
	fail := func(format string, a ...any) (connstr.Link, error) {
		return connstr.Link{}, fmt.Errorf("profile=%s: the file %s on the machine next to the target "+format, append([]any{name, path}, a...)...)
	}
	f, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return fail("is not there; write it, with the line\n  %s port=<n>,key=<key>", name)
		}
		var pe *fs.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		return fail("cannot be opened: %w", err)
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return fail("cannot be looked at: %w", err)
	}
	if !fi.Mode().IsRegular() {
		return fail("is no ordinary file")
	}
	if runtime.GOOS != "windows" && fi.Mode().Perm()&0o077 != 0 {
		return fail("can be read by others (mode %04o); chmod 600 it", fi.Mode().Perm())
	}
	b, err := io.ReadAll(io.LimitReader(f, maxProfiles))
	if err != nil {
		return fail("cannot be read: %w", err)
	}
	sc := bufio.NewScanner(bytes.NewReader(b))
	for n := 1; sc.Scan(); n++ {
		text := strings.TrimSpace(sc.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		first, rest, _ := strings.Cut(text, " ")
		if !strings.EqualFold(first, name) {
			continue
		}
		l, err := connstr.ParseLink("net:" + rest)
		if err == nil && l.Profile != "" {
			err = errors.New("a profile cannot lead to another one")
		}
		if err != nil {
			return fail("has a mistake in line %d: %w", n, err)
		}
		return l, nil
	}
	if err := sc.Err(); err != nil {
		return fail("has a line that is too long")
	}
	return fail("has no such profile")
}
