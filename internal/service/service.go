// Package service makes kdsrv a service of the operating system: it writes
// units of systemd, of the machine or of one user, it prints what launchd
// wants, and it registers with the service control manager of Windows. It does
// not run the server.
//
// Passwords do not go where others can read them: the command line of a service
// is readable by everybody, so only the name of a password file may be in it.
//
// Sources: systemd.unit(5), systemd.service(5), systemd.socket(5),
// systemd.exec(5) (credentials), launchd.plist(5), and "Service Programs" of the
// Windows documentation.
package service

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Name is what the service is called.
const Name = "kdsrv"

// Option is what Windows starts the service with, so that it knows that it is
// one: what can be asked of Windows about that is not answered everywhere
// (svc.IsWindowsService says no under Wine).
const Option = "service"

const description = "OpenKD KD connection server"

// Spec is what the service does.
type Spec struct {
	Program string   // absolute path of kdsrv
	Args    []string // of it, without the password file; paths are absolute
	// PasswordFile is the absolute path of the file for -passwordfile; "": none.
	PasswordFile string
	// Ports are those of its tcp doors that a service manager can open for it.
	Ports []int
}

// Self is the path of this program, for Spec.Program.
func Self() (string, error) {
	p, err := os.Executable()
	if err != nil {
		return "", err
	}
	return filepath.EvalSymlinks(p)
}

// within bounds one command of the service manager. It lets targets go before
// it stops a server.
const within = 90 * time.Second

// runner runs a command of the service manager. The error tells what it said.
type runner func(ctx context.Context, program string, args ...string) error

func run(ctx context.Context, program string, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	if err != nil {
		if said := strings.Join(strings.Fields(string(out)), " "); said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
		return fmt.Errorf("%s %s: %w", program, strings.Join(args, " "), err)
	}
	return nil
}
