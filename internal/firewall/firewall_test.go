package firewall

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"openkd/connstr"
)

// fake is a machine with some programs. Answers are by the third word of what
// netsh is asked ("show", "add"): what it prints when it fails.
func fake(os string, fails map[string]string, ran *[]string, programs ...string) Machine {
	return Machine{
		OS: os, Program: `C:\Program Files\OpenKD\kdsrv.exe`,
		Find: func(p string) (string, error) {
			if slices.Contains(programs, p) {
				return p, nil
			}
			return "", errors.New("not found")
		},
		Run: func(_ context.Context, p string, args ...string) (string, error) {
			*ran = append(*ran, p+" "+strings.Join(args, " "))
			if text, ok := fails[args[2]]; ok {
				return text, errors.New("exit status 1")
			}
			return "Ok.", nil
		},
	}
}

func TestAllow(t *testing.T) {
	tcp := connstr.Transport{Proto: "tcp", Port: 1234}
	tcp6 := connstr.Transport{Proto: "tcp", Port: 1234, IPv6: true}
	pipe := connstr.Transport{Proto: "npipe", Pipe: "kernel"}
	missing := map[string]string{"show": "No rules match the specified criteria."}
	refused := map[string]string{"show": "", "add": "The requested operation requires elevation\r\n(Run as administrator)."}
	const add = `netsh advfirewall firewall add rule name=OpenKD-kdsrv-TCP-1234 dir=in action=allow protocol=TCP localport=1234 profile=any program=C:\Program Files\OpenKD\kdsrv.exe`
	for _, c := range []struct {
		what     string
		os       string
		programs []string
		fails    map[string]string
		t        connstr.Transport
		want     []string // of the text
		err      []string // of the error
		runs     []string // parts of what is run
	}{
		{"ufw wins over what it drives", "linux", []string{"iptables", "nft", "ufw"}, nil, tcp,
			[]string{"sudo ufw allow 1234/tcp", "sudo ufw delete allow 1234/tcp"}, nil, nil},
		{"firewalld", "linux", []string{"nft", "firewall-cmd"}, nil, tcp,
			[]string{"--permanent --add-port=1234/tcp && sudo firewall-cmd --reload", "--remove-port=1234/tcp"}, nil, nil},
		{"nftables", "linux", []string{"iptables", "/usr/sbin/nft"}, nil, tcp,
			[]string{"nft insert rule inet filter input tcp dport 1234 accept", "nft delete rule"}, nil, nil},
		{"iptables", "linux", []string{"/sbin/iptables"}, nil, tcp,
			[]string{"sudo iptables -I INPUT -p tcp --dport 1234 -j ACCEPT && sudo ip6tables -I", "sudo iptables -D INPUT"}, nil, nil},
		{"iptables, IPv6 only", "linux", []string{"iptables"}, nil, tcp6,
			[]string{"type\n  sudo ip6tables -I INPUT"}, nil, nil},
		{"none", "linux", nil, nil, tcp, []string{"no firewall was found (looked for ufw, firewall-cmd, nft, iptables)", "TCP port 1234"}, nil, nil},
		{"macOS", "darwin", []string{"ufw", "/sbin/pfctl"}, nil, tcp,
			[]string{"pass in proto tcp to any port 1234", "-a com.apple/openkd-1234 -F rules"}, nil, nil},
		{"macOS without anything", "darwin", nil, nil, tcp, []string{"looked for pfctl"}, nil, nil},
		{"a Unix socket", "linux", []string{"ufw"}, nil, pipe, []string{"no firewall stands before it"}, nil, nil},
		{"Windows", "windows", []string{"netsh"}, missing, tcp,
			[]string{"rule OpenKD-kdsrv-TCP-1234 lets TCP 1234 in", "stays when kdsrv ends", "delete rule name=OpenKD-kdsrv-TCP-1234"}, nil,
			[]string{"netsh advfirewall firewall show rule name=OpenKD-kdsrv-TCP-1234", add}},
		{"Windows, the rule is there", "windows", []string{"netsh"}, nil, tcp,
			[]string{"is there already", "delete rule"}, nil, []string{"show rule"}},
		{"Windows, named pipes", "windows", []string{"netsh"}, missing, pipe,
			[]string{"lets TCP 139,445 in"}, nil, []string{"show rule name=OpenKD-kdsrv-npipe", "protocol=TCP localport=139,445 profile=any"}},
		{"Windows, not elevated", "windows", []string{"netsh"}, refused, tcp, nil,
			[]string{"(The requested operation requires elevation (Run as administrator).)", "as administrator", `program="C:\Program Files\OpenKD\kdsrv.exe"`},
			[]string{"show", "add"}},
		{"Windows without netsh", "windows", nil, nil, tcp, nil, []string{"netsh was not found", "1234"}, nil},
	} {
		var ran []string
		text, err := fake(c.os, c.fails, &ran, c.programs...).Allow(t.Context(), c.t)
		if (err != nil) != (c.err != nil) {
			t.Errorf("%s: %v", c.what, err)
			continue
		}
		if err != nil {
			text, c.want = err.Error(), c.err
		}
		for _, w := range c.want {
			if !strings.Contains(text, w) {
				t.Errorf("%s: %q is missing in\n%s", c.what, w, text)
			}
		}
		if len(ran) != len(c.runs) {
			t.Errorf("%s: ran %q", c.what, ran)
			continue
		}
		for i, r := range c.runs {
			if !strings.Contains(ran[i], r) {
				t.Errorf("%s: ran %q, want %q in it", c.what, ran[i], r)
			}
		}
		if c.what == "Windows, named pipes" && strings.Contains(ran[1], "program=") {
			t.Errorf("%s: pipes are not served by this program: %q", c.what, ran[1])
		}
	}
}
