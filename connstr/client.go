package connstr

import (
	"fmt"
	"strings"
)

// ForClient is what a client writes in server=@{...} to come through a server's
// door of the machine host. Where pipes do not reach beyond their machine the
// client's is the same machine. What only a person can know is in angle
// brackets.
func (t Transport) ForClient(host string, pipesReach bool) string {
	var p []string
	add := func(format string, a ...any) { p = append(p, fmt.Sprintf(format, a...)) }
	if t.Secure != "" {
		add("proto=%s", t.Secure)
	}
	if t.CertUser != "" {
		add("certuser=%s", t.CertUser)
	}
	if t.CertMach != "" {
		add("machuser=%s", t.CertMach)
	}
	if t.ClientCA != "" {
		add("clientcert=<your certificate>")
	}
	pipe := t.Proto == "npipe" || t.Proto == "spipe"
	switch {
	case t.Proto == "com": // a cable has no name
	case t.ClientOf != "":
		add("clicon=%s", host)
	case pipe && !pipesReach:
		add("server=localhost")
	default:
		add("server=%s", host)
	}
	switch {
	case pipe:
		add("pipe=%s", t.Pipe)
	case t.Proto == "com":
		add("port=<your port>,baud=%d,channel=%d", t.Baud, t.Channel)
	default:
		add("port=%d", t.Port)
	}
	if t.IPv6 {
		add("ipversion=6")
	}
	if t.Password != "" {
		add("password=<password>")
	}
	return t.Proto + ":" + strings.Join(p, ",")
}
