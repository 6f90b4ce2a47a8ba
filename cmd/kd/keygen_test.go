package main

import (
	"bytes"
	"regexp"
	"strings"
	"testing"

	"openkd/connstr"
	"openkd/link/kdnet"
)

// What -keygen prints for this side is a link that kd takes, and the key in the
// target's command is the same.
func TestKeygen(t *testing.T) {
	for hostip, setting := range map[string]string{"10.0.0.1": "hostip:10.0.0.1", "fe80::1": "hostipv6:fe80::1"} {
		var out bytes.Buffer
		if err := keygen(&out, "50007", hostip); err != nil {
			t.Fatal(err)
		}
		m := regexp.MustCompile(`(?m)^  kd -k (net:\S+)$`).FindStringSubmatch(out.String())
		if m == nil {
			t.Fatal(out.String())
		}
		l, err := connstr.ParseLink(m[1])
		if err != nil || l.IPPort != 50007 {
			t.Fatal(l, err)
		}
		if _, err := kdnet.ParseKey(l.Key); err != nil {
			t.Error(err)
		}
		if !strings.Contains(out.String(), "bcdedit /dbgsettings net "+setting+" port:50007 key:"+l.Key+"\n") {
			t.Error(out.String())
		}
	}
}
