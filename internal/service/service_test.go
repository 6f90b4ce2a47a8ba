package service

import (
	"context"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// manager is a systemd that is not there: it notes what is asked of it.
func manager(t *testing.T, user bool, fail string) (systemd, *[]string) {
	var asked []string
	return systemd{dir: filepath.Join(t.TempDir(), "units"), user: user, run: func(_ context.Context, p string, args ...string) error {
		line := p + " " + strings.Join(args, " ")
		asked = append(asked, line)
		if fail != "" && strings.Contains(line, fail) {
			return errors.New("no bus")
		}
		return nil
	}}, &asked
}

var spec = Spec{
	Program: "/opt/open kd/kdsrv", Args: []string{"-t", "tcp:port=1234,IcfEnable", "-t", "npipe:pipe=kd%x", "-audit", `/var/a "b" $c\d`},
	PasswordFile: "/etc/kd pw%", Ports: []int{1234},
}

func read(t *testing.T, m systemd, file string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(m.dir, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestSystemdOfTheMachine(t *testing.T) {
	m, asked := manager(t, false, "")
	m.as = "ann"
	text, err := m.install(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	unit := read(t, m, unitFile)
	for _, want := range []string{
		`ExecStart="/opt/open kd/kdsrv" "-t" "tcp:port=1234,IcfEnable" "-t" "npipe:pipe=kd%%x" "-audit" "/var/a \"b\" $$c\\d" -passwordfile ${CREDENTIALS_DIRECTORY}/password` + "\n",
		"LoadCredential=password:/etc/kd pw%%\n", "Type=notify\n", "User=ann\n", "Requires=kdsrv.socket\n", "NoNewPrivileges=yes\n",
		"RuntimeDirectory=openkd\n", "WantedBy=multi-user.target\n",
	} {
		if !strings.Contains(unit, want) {
			t.Errorf("the unit lacks %s\n%s", want, unit)
		}
	}
	if s := read(t, m, socketFile); !strings.Contains(s, "\nListenStream=1234\n") || strings.Contains(s, "npipe") {
		t.Errorf("the socket:\n%s", s)
	}
	if !slices.Equal(*asked, []string{"systemctl daemon-reload", "systemctl enable --now kdsrv.service kdsrv.socket"}) {
		t.Errorf("asked %q", *asked)
	}
	if !strings.Contains(text, "as ann") || !strings.Contains(text, "journalctl -u kdsrv") {
		t.Error(text)
	}

	// Again, with other doors: the old ones go, the socket too.
	*asked = nil
	again := spec
	again.Ports, again.PasswordFile = nil, ""
	m.as, m.groups = "", []string{"dialout"}
	if _, err := m.install(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	unit = read(t, m, unitFile)
	if strings.Contains(unit, "socket") || strings.Contains(unit, "assword") || !strings.Contains(unit, "DynamicUser=yes\nSupplementaryGroups=dialout\n") {
		t.Errorf("the unit:\n%s", unit)
	}
	if _, err := os.Stat(filepath.Join(m.dir, socketFile)); err == nil {
		t.Error("the socket of before is there still")
	}
	if (*asked)[0] != "systemctl stop kdsrv.socket kdsrv.service" {
		t.Errorf("asked %q", *asked)
	}

	*asked = nil
	if _, err := m.uninstall(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(m.dir); len(left) != 0 || !slices.Equal(*asked, []string{"systemctl disable --now kdsrv.service", "systemctl daemon-reload"}) {
		t.Errorf("left %v, asked %q", left, *asked)
	}
	if _, err := m.uninstall(t.Context()); err == nil || !strings.Contains(err.Error(), "no service is installed") {
		t.Errorf("twice: %v", err)
	}
}

func TestSystemdOfAUser(t *testing.T) {
	m, asked := manager(t, true, "")
	text, err := m.install(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	unit := read(t, m, unitFile)
	if !strings.Contains(unit, `-passwordfile "/etc/kd pw%%"`) || strings.Contains(unit, "User=") || strings.Contains(unit, "Protect") || !strings.Contains(unit, "WantedBy=default.target") {
		t.Errorf("the unit:\n%s", unit)
	}
	if (*asked)[1] != "systemctl --user enable --now kdsrv.service kdsrv.socket" || !strings.Contains(text, "enable-linger") {
		t.Errorf("asked %q\n%s", *asked, text)
	}
}

func TestSystemdThatIsNotThere(t *testing.T) {
	m, _ := manager(t, true, "daemon-reload")
	text, err := m.install(t.Context(), spec)
	if err == nil || !strings.Contains(err.Error(), "no bus") || !strings.Contains(err.Error(), "type: systemctl --user daemon-reload && systemctl --user enable --now kdsrv.service kdsrv.socket") || !strings.Contains(text, "is written") {
		t.Errorf("%v\n%s", err, text)
	}
}

func TestForeignUnit(t *testing.T) {
	m, asked := manager(t, false, "")
	if err := os.MkdirAll(m.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	const theirs = "[Unit]\nDescription=hand made\n"
	if err := os.WriteFile(filepath.Join(m.dir, unitFile), []byte(theirs), 0o644); err != nil {
		t.Fatal(err)
	}
	for what, f := range map[string]func() (string, error){
		"install":   func() (string, error) { return m.install(t.Context(), spec) },
		"uninstall": func() (string, error) { return m.uninstall(t.Context()) },
	} {
		if _, err := f(); err == nil || !strings.Contains(err.Error(), "was not written by kdsrv") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if read(t, m, unitFile) != theirs || len(*asked) != 0 {
		t.Errorf("it was touched; asked %q", *asked)
	}
}

// systemd itself has nothing against the units.
func TestSystemdTakesTheUnits(t *testing.T) {
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	for _, user := range []bool{false, true} {
		m, _ := manager(t, user, "")
		m.groups = []string{"root"}
		s := spec
		s.Program = os.Args[0] // it has to exist
		if _, err := m.install(t.Context(), s); err != nil {
			t.Fatal(err)
		}
		args := []string{"verify", "--man=no", filepath.Join(m.dir, unitFile), filepath.Join(m.dir, socketFile)}
		if user {
			args = append([]string{"--user"}, args...)
		}
		cmd := exec.Command(analyze, args...)
		cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if strings.Contains(string(out), "Failed to initialize manager") || strings.Contains(string(out), "Failed to connect") {
			t.Skipf("systemd-analyze does not work here: %s", out)
		}
		// It speaks of other units of the machine too.
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, Name) {
				t.Errorf("user %v: %v: %s", user, err, line)
			}
		}
	}
}

func TestLaunchd(t *testing.T) {
	s := spec
	s.Args = append(slices.Clone(s.Args), "<&>")
	text := launchd(s, "/Users/ann")
	var words []string
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in\n%s", err, text)
		}
		if e, ok := tok.(xml.StartElement); ok && e.Name.Local == "string" {
			var v string
			if err := d.DecodeElement(&v, &e); err != nil {
				t.Fatal(err)
			}
			words = append(words, v)
		}
	}
	want := append([]string{label, s.Program}, s.Args...)
	want = append(want, "-passwordfile", s.PasswordFile)
	if !slices.Equal(words, want) {
		t.Errorf("%q, want %q", words, want)
	}
	if !strings.Contains(text, "/Users/ann/Library/LaunchAgents/openkd.kdsrv.plist") {
		t.Error(text)
	}
}
