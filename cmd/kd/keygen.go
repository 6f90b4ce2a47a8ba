package main

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"

	"openkd/link/kdnet"
)

// keygen makes a key for network debugging and prints what to type on both
// sides. hostip is this machine's address as the target reaches it.
func keygen(out io.Writer, port, hostip string) error {
	n := 50000
	if port != "" {
		var err error
		if n, err = strconv.Atoi(port); err != nil || n < 49152 || n > 65535 {
			return usageError(fmt.Sprintf("-port %s: network debugging takes a UDP port from 49152 to 65535; 50000 to 50039 are recommended, another one for each target", port))
		}
	}
	setting, note := "hostip:", ""
	if hostip == "" {
		if hostip = ownAddress(); hostip == "" {
			hostip = "<address>"
		}
		note = " (-hostip names another address of this machine)"
	} else {
		a, err := netip.ParseAddr(hostip)
		if err != nil {
			return usageError(fmt.Sprintf("-hostip %s: an address is wanted, as 10.0.0.1; the target looks no names up", hostip))
		}
		if a.Is6() {
			setting = "hostipv6:"
		}
	}
	key := kdnet.NewKey().Reveal()
	fmt.Fprintf(out, `A new key. Who has it can do anything to the target:

  %[1]s

On the target, in a prompt of an administrator%[2]s; then boot it again:

  bcdedit /dbgsettings net %[3]s%[4]s port:%[5]d key:%[1]s
  bcdedit /debug on

With Secure Boot the settings are refused until it is switched off. kdnet.exe of
the Debugging Tools, run there without arguments, tells whether its network
adapter is supported; kdnet.exe %[4]s %[5]d does what the two lines above do,
with a key that it makes itself and shows: use that one then. A firewall here
must let UDP port %[5]d in. Then, here:

  kd -k net:port=%[5]d,key=%[1]s

or, with the key kept beside a kdsrv, as a line of its file of profiles

  lab port=%[5]d,key=%[1]s

and from anywhere

  kd -k "kdsrv:server=@{tcp:server=<host>,port=<n>,password=<pw>},trans=@{net:profile=lab}"
`, key, note, setting, hostip, n)
	return nil
}

// ownAddress is an IPv4 address of this machine that others can reach, "" for
// none.
func ownAddress() string {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return ""
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.To4() != nil && n.IP.IsGlobalUnicast() {
			return n.IP.String()
		}
	}
	return ""
}
