// Package firewall is IcfEnable: it lets clients through this machine's
// firewall to a door (Microsoft: "KdSrv Command-Line Options": opens the port
// of tcp, or ports 139 and 445 for npipe, and the holes stay afterwards).
//
// On Windows it adds the rule. Elsewhere it changes nothing and only says what
// to type, because there the rules are in the hands of whoever keeps them. It
// does not find out whether a firewall is active or blocks anything.
//
// The commands are those of ufw(8), firewall-cmd(1), nft(8), iptables(8),
// pfctl(8) and "netsh advfirewall firewall".
package firewall

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"runtime"
	"strings"
	"time"

	"openkd/connstr"
)

// Machine is where the door is. Its functions are those of package exec; tests
// bring their own.
type Machine struct {
	OS      string // as runtime.GOOS
	Program string // path of this program
	Find    func(program string) (path string, err error)
	Run     func(ctx context.Context, program string, args ...string) (output string, err error)
}

// This is the machine that the program runs on.
func This() Machine {
	self, err := os.Executable()
	if err != nil {
		self = ""
	}
	return Machine{OS: runtime.GOOS, Program: self, Find: exec.LookPath, Run: run}
}

func run(ctx context.Context, program string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, program, args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// within bounds what is asked of Windows.
const within = 30 * time.Second

// The ports that Windows serves named pipes of other machines on.
const pipePorts = "139,445"

// Allow makes the hole for a door, or says what makes it, and how it is closed
// again. The transport has the port that was taken. An error says what was
// refused and what to do; the door works for whom the firewall lets through.
func (m Machine) Allow(ctx context.Context, t connstr.Transport) (string, error) {
	if m.OS == "windows" {
		return m.windows(ctx, t)
	}
	if t.Proto != "tcp" {
		return fmt.Sprintf("IcfEnable: %s: is a socket of this machine alone here; no firewall stands before it.", t.Proto), nil
	}
	allow, remove := m.commands(t)
	if allow == "" {
		return fmt.Sprintf("IcfEnable: no firewall was found (looked for %s). If one stands before this machine, let TCP port %d in.", strings.Join(m.known(), ", "), t.Port), nil
	}
	return fmt.Sprintf("IcfEnable: to let clients through this machine's firewall, type\n  %s\nand to close it again\n  %s", allow, remove), nil
}

// windows adds a rule, unless it is there.
func (m Machine) windows(ctx context.Context, t connstr.Transport) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	name, ports := fmt.Sprintf("OpenKD-kdsrv-TCP-%d", t.Port), fmt.Sprint(t.Port)
	if t.Proto == "npipe" {
		name, ports = "OpenKD-kdsrv-npipe", pipePorts
	}
	rule := []string{"advfirewall", "firewall", "add", "rule", "name=" + name, "dir=in", "action=allow", "protocol=TCP", "localport=" + ports, "profile=any"}
	if t.Proto != "npipe" && m.Program != "" { // pipes are Windows' own to serve
		rule = append(rule, "program="+m.Program)
	}
	remove := "netsh advfirewall firewall delete rule name=" + name
	netsh, err := m.Find("netsh")
	if err != nil {
		return "", fmt.Errorf("IcfEnable: netsh was not found, so no rule was added: let TCP port %s in by hand", ports)
	}
	if _, err := m.Run(ctx, netsh, "advfirewall", "firewall", "show", "rule", "name="+name); err == nil {
		return fmt.Sprintf("IcfEnable: the firewall rule %s is there already. It stays when kdsrv ends; to remove it, type as administrator\n  %s", name, remove), nil
	}
	if out, err := m.Run(ctx, netsh, rule...); err != nil {
		if out == "" {
			out = err.Error()
		}
		return "", fmt.Errorf("IcfEnable: Windows did not take the firewall rule %s (%s). Start kdsrv once as administrator, or type there\n  netsh %s", name, oneLine(out), quote(rule))
	}
	return fmt.Sprintf("IcfEnable: the firewall rule %s lets TCP %s in. It stays when kdsrv ends; to remove it, type as administrator\n  %s", name, ports, remove), nil
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

// quote spells arguments for a command prompt of Windows.
func quote(args []string) string {
	var out []string
	for _, a := range args {
		if k, v, ok := strings.Cut(a, "="); ok && strings.Contains(v, " ") {
			a = k + `="` + v + `"`
		}
		out = append(out, a)
	}
	return strings.Join(out, " ")
}

// kind is one firewall: the program that tells that it is there, and what to
// type.
type kind struct {
	program       string
	allow, remove func(m Machine, t connstr.Transport) string
}

// kinds lists them as they stand over each other: ufw and firewalld write the
// rules of nftables and iptables, so who has those uses them.
func kinds(os string) []kind {
	f := func(format string) func(Machine, connstr.Transport) string {
		return func(_ Machine, t connstr.Transport) string {
			return strings.ReplaceAll(format, "{port}", fmt.Sprint(t.Port))
		}
	}
	if os == "darwin" {
		// The system's pf.conf evaluates every anchor below com.apple.
		return []kind{{"pfctl",
			f(`echo "pass in proto tcp to any port {port}" | sudo pfctl -a com.apple/openkd-{port} -f -`),
			f(`sudo pfctl -a com.apple/openkd-{port} -F rules`)}}
	}
	tables := func(op string) func(Machine, connstr.Transport) string {
		return func(m Machine, t connstr.Transport) string {
			s := fmt.Sprintf(" %s INPUT -p tcp --dport %d -j ACCEPT", op, t.Port)
			if t.IPv6 {
				return "sudo ip6tables" + s
			}
			return "sudo iptables" + s + " && sudo ip6tables" + s
		}
	}
	return []kind{
		{"ufw", f("sudo ufw allow {port}/tcp comment kdsrv"), f("sudo ufw delete allow {port}/tcp")},
		{"firewall-cmd",
			f("sudo firewall-cmd --permanent --add-port={port}/tcp && sudo firewall-cmd --reload"),
			f("sudo firewall-cmd --permanent --remove-port={port}/tcp && sudo firewall-cmd --reload")},
		{"nft",
			f(`sudo nft insert rule inet filter input tcp dport {port} accept comment '"kdsrv {port}"'`),
			f(`sudo nft delete rule inet filter input handle $(sudo nft -a list chain inet filter input | sed -n '/"kdsrv {port}"/s/.*handle //p')`)},
		{"iptables", tables("-I"), tables("-D")},
	}
}

func (m Machine) known() []string {
	var names []string
	for _, k := range kinds(m.OS) {
		names = append(names, k.program)
	}
	return names
}

// commands are what to type for the first firewall that is found; "": none.
func (m Machine) commands(t connstr.Transport) (allow, remove string) {
	for _, k := range kinds(m.OS) {
		if m.has(k.program) {
			return k.allow(m, t), k.remove(m, t)
		}
	}
	return "", ""
}

// has looks in the administrator's folders too: they are not in everybody's
// search path.
func (m Machine) has(program string) bool {
	for _, dir := range []string{"", "/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if _, err := m.Find(path.Join(dir, program)); err == nil {
			return true
		}
	}
	return false
}
