package service

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// marker is the first line of what this package writes; files without it are
// somebody else's.
const marker = "# Written by kdsrv -install; kdsrv -uninstall removes it.\n"

// Files of systemd.
const (
	unitFile   = Name + ".service"
	socketFile = Name + ".socket"
)

// systemd is a service manager of the machine (user false) or of one user.
type systemd struct {
	dir    string // where units go
	user   bool
	as     string   // user=false: whom the service runs as; "": a user made up for it
	groups []string // of a user that is made up
	run    runner
}

// quote spells a word of ExecStart=: % and $ mean something there.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, `%`, `%%`, `$`, `$$`, "\n", `\n`, "\t", `\t`).Replace(s) + `"`
}

// service is the text of the unit.
func (m systemd) service(s Spec) string {
	words := []string{quote(s.Program)}
	for _, a := range s.Args {
		words = append(words, quote(a))
	}
	credential := ""
	switch {
	case s.PasswordFile == "":
	case m.user:
		words = append(words, "-passwordfile", quote(s.PasswordFile))
	default:
		// The service's own user need not be able to read the file.
		words = append(words, "-passwordfile", "${CREDENTIALS_DIRECTORY}/password")
		credential = "LoadCredential=password:" + strings.ReplaceAll(s.PasswordFile, "%", "%%") + "\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s[Unit]\nDescription=%s\n", marker, description)
	if !m.user {
		b.WriteString("Wants=network-online.target\nAfter=network-online.target\n")
	}
	if len(s.Ports) > 0 {
		fmt.Fprintf(&b, "Requires=%s\nAfter=%s\n", socketFile, socketFile)
	}
	// Stopping lets every target run, which may take some seconds.
	fmt.Fprintf(&b, "\n[Service]\nType=notify\nExecStart=%s\nRestart=on-failure\nRestartSec=2\nTimeoutStopSec=40\nLimitNOFILE=65536\n%s", strings.Join(words, " "), credential)
	if m.user {
		b.WriteString("NoNewPrivileges=yes\n\n[Install]\nWantedBy=default.target\n")
		return b.String()
	}
	if m.as != "" {
		fmt.Fprintf(&b, "User=%s\n", m.as)
	} else {
		b.WriteString("DynamicUser=yes\n")
		if len(m.groups) > 0 {
			fmt.Fprintf(&b, "SupplementaryGroups=%s\n", strings.Join(m.groups, " "))
		}
	}
	// Where kd -QR and kdsrv -status of this user look (package rundir).
	b.WriteString("RuntimeDirectory=openkd\nRuntimeDirectoryMode=0700\nEnvironment=OPENKD_RUN_DIR=/run/openkd\n")
	b.WriteString(`NoNewPrivileges=yes
CapabilityBoundingSet=
ProtectSystem=full
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictRealtime=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK

[Install]
WantedBy=multi-user.target
`)
	return b.String()
}

// socket is the text of the unit that holds the ports while the service is
// away.
func (m systemd) socket(s Spec) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s[Unit]\nDescription=%s: its ports\n\n[Socket]\n", marker, description)
	for _, p := range s.Ports {
		fmt.Fprintf(&b, "ListenStream=%d\n", p)
	}
	b.WriteString("Backlog=4096\n\n[Install]\nWantedBy=sockets.target\n")
	return b.String()
}

func (m systemd) systemctl(ctx context.Context, args ...string) error {
	if m.user {
		args = append([]string{"--user"}, args...)
	}
	return m.run(ctx, "systemctl", args...)
}

// ours refuses a unit that somebody else wrote.
func (m systemd) ours(file string) (there bool, err error) {
	path := filepath.Join(m.dir, file)
	text, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return false, nil
	case err != nil:
		return false, err
	case !strings.HasPrefix(string(text), marker):
		return true, fmt.Errorf("%s was not written by kdsrv -install; move it away first", path)
	}
	return true, nil
}

func (m systemd) install(ctx context.Context, s Spec) (string, error) {
	units := []string{unitFile}
	texts := map[string]string{unitFile: m.service(s), socketFile: ""}
	if len(s.Ports) > 0 {
		units = append(units, socketFile)
		texts[socketFile] = m.socket(s)
	}
	replaced := false
	for _, f := range []string{unitFile, socketFile} {
		there, err := m.ours(f)
		if err != nil {
			return "", err
		}
		replaced = replaced || there
	}
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		return "", err
	}
	if replaced { // a running one has the old doors; it may not run
		m.systemctl(ctx, "stop", socketFile, unitFile)
	}
	for f, text := range texts {
		path := filepath.Join(m.dir, f)
		var err error
		if text == "" {
			err = os.Remove(path)
		} else {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
	}
	var b strings.Builder
	for _, u := range units {
		fmt.Fprintf(&b, "%s is written.\n", filepath.Join(m.dir, u))
	}
	err := m.systemctl(ctx, "daemon-reload")
	if err == nil {
		err = m.systemctl(ctx, append([]string{"enable", "--now"}, units...)...)
	}
	flag := ""
	if m.user {
		flag = "--user "
	}
	if err != nil {
		return b.String(), fmt.Errorf("the service is not started: %w; to try again, type: systemctl %sdaemon-reload && systemctl %senable --now %s", err, flag, flag, strings.Join(units, " "))
	}
	fmt.Fprintf(&b, "The service runs, and is started with the machine. Its log: journalctl %s-u %s\n", flag, Name)
	switch {
	case m.user:
		b.WriteString("It runs while you are logged in; to have it always, type: loginctl enable-linger\n")
	case m.as != "":
		fmt.Fprintf(&b, "It runs as %s, with what that user may open.\n", m.as)
	default:
		b.WriteString("It runs as a user of its own, who sees no sockets in /tmp or in homes; to have it run as you, install it with sudo.\n")
	}
	if len(s.Ports) > 0 {
		b.WriteString("systemd holds its ports: after .endpsrv the next client that connects starts it again.\n")
	}
	return b.String(), nil
}

func (m systemd) uninstall(ctx context.Context) (string, error) {
	var units []string
	for _, f := range []string{socketFile, unitFile} {
		there, err := m.ours(f)
		if err != nil {
			return "", err
		}
		if there {
			units = append(units, f)
		}
	}
	if len(units) == 0 {
		return "", fmt.Errorf("no service is installed: there is no %s", filepath.Join(m.dir, unitFile))
	}
	stopped := m.systemctl(ctx, append([]string{"disable", "--now"}, units...)...)
	var b strings.Builder
	for _, f := range units {
		if err := os.Remove(filepath.Join(m.dir, f)); err != nil {
			return b.String(), err
		}
		fmt.Fprintf(&b, "%s is removed.\n", filepath.Join(m.dir, f))
	}
	m.systemctl(ctx, "daemon-reload")
	if stopped != nil {
		return b.String(), fmt.Errorf("the service may still run: %w", stopped)
	}
	return b.String(), nil
}
