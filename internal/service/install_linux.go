package service

import (
	"context"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
)

// Groups that own serial ports, by distribution.
var serialGroups = [...]string{"dialout", "uucp"}

// here is the service manager for who asks: root's is the machine's.
func here() (systemd, error) {
	m := systemd{run: run}
	if os.Geteuid() != 0 {
		config, err := os.UserConfigDir()
		if err != nil {
			return m, err
		}
		m.user, m.dir = true, filepath.Join(config, "systemd", "user")
		return m, nil
	}
	m.dir = "/etc/systemd/system"
	if name := os.Getenv("SUDO_USER"); name != "" && name != "root" {
		u, err := user.Lookup(name)
		if err != nil {
			return m, fmt.Errorf("SUDO_USER: %w", err)
		}
		m.as = u.Username
		return m, nil
	}
	for _, g := range serialGroups {
		if _, err := user.LookupGroup(g); err == nil {
			m.groups = append(m.groups, g)
		}
	}
	return m, nil
}

// Install installs the service and starts it, for the machine when root asks
// and else for the user. The text says what was done, also with an error.
func Install(ctx context.Context, s Spec) (string, error) {
	m, err := here()
	if err != nil {
		return "", err
	}
	return m.install(ctx, s)
}

// Uninstall stops the service and removes it.
func Uninstall(ctx context.Context) (string, error) {
	m, err := here()
	if err != nil {
		return "", err
	}
	return m.uninstall(ctx)
}
