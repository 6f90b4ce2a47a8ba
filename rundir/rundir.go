// Package rundir knows the one directory of a user where running programs of
// this project leave what others on the same machine look for: the sockets of
// named pipes, the list of running servers.
//
// It is private to its owner, because who can write there can pretend to be a
// server. It is not a place for settings or for anything that outlives a
// restart of the machine.
//
//	Linux, other Unix, root    /run/openkd (macOS: /var/run/openkd)
//	with XDG_RUNTIME_DIR       $XDG_RUNTIME_DIR/openkd (XDG Base Directory Specification 0.8)
//	without                    <temporary directory>/openkd-<uid>
//	Windows                    %LOCALAPPDATA%\OpenKD\run
//
// OPENKD_RUN_DIR replaces all of them.
package rundir

import (
	"fmt"
	"os"
	"path/filepath"
)

// Env is the variable that names another directory.
const Env = "OPENKD_RUN_DIR"

// Path is where the directory is, whether it exists or not.
func Path() string {
	if d := os.Getenv(Env); d != "" {
		return filepath.Clean(d)
	}
	return ownPath()
}

// Search lists where to look for what others left: this user's directory
// first, then the one of the machine's administrator, if they differ.
func Search() []string {
	own := Path()
	if os.Getenv(Env) != "" {
		return []string{own}
	}
	if sys := systemPath(); sys != "" && sys != own {
		return []string{own, sys}
	}
	return []string{own}
}

// Make creates the directory if it is missing and returns its path. It fails
// when the directory is not this user's alone: another user could have put it
// there to be connected to.
func Make() (string, error) {
	d := Path()
	if err := os.MkdirAll(d, 0o700); err != nil {
		return "", fmt.Errorf("the run directory cannot be made: %w; %s names another one", err, Env)
	}
	if err := Private(d); err != nil {
		return "", fmt.Errorf("%w; %s names another directory", err, Env)
	}
	return d, nil
}
