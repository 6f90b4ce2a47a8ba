package connstr

import (
	"strings"
	"testing"
)

func TestForClient(t *testing.T) {
	for _, c := range []struct {
		door  string
		reach bool
		want  string
	}{
		{"tcp:port=1027", false, "tcp:server=lab7,port=1027"},
		{"tcp:port=51:60,hidden,password=x", true, "tcp:server=lab7,port=51,password=<password>"},
		{"tcp:port=9,ipversion=6,icfenable", true, "tcp:server=lab7,port=9,ipversion=6"},
		{"tcp:port=9000,clicon=10.0.0.20,password=x", true, "tcp:clicon=lab7,port=9000,password=<password>"},
		{"npipe:pipe=KernelPipe", true, "npipe:server=lab7,pipe=KernelPipe"},
		{"npipe:pipe=KernelPipe,password=x,hidden", false, "npipe:server=localhost,pipe=KernelPipe,password=<password>"},
		{"spipe:proto=tls1,certuser=ab 38 f7,pipe=k", true, "spipe:proto=tls1,certuser=ab 38 f7,server=lab7,pipe=k"},
		{"spipe:proto=tls13,machuser=lab,pipe=k", false, "spipe:proto=tls13,machuser=lab,server=localhost,pipe=k"},
		{"ssl:proto=tls13,certuser=lab,port=443,clientca=ab38f7", true, "ssl:proto=tls13,certuser=lab,clientcert=<your certificate>,server=lab7,port=443"},
		{"ssl:proto=tls13,certuser=lab,port=443,clicon=box", true, "ssl:proto=tls13,certuser=lab,clicon=lab7,port=443"},
		{"com:port=com2,baud=57600,channel=3,password=x", true, "com:port=<your port>,baud=57600,channel=3,password=<password>"},
	} {
		door, err := ParseTransport(c.door, true)
		if err != nil {
			t.Fatal(err)
		}
		got := door.ForClient("lab7", c.reach)
		if got != c.want {
			t.Errorf("%s: got  %s\nwant %s", c.door, got, c.want)
		}
		filled := strings.NewReplacer("<your port>", "com1", "<your certificate>", "me", "<password>", "x").Replace(got)
		if _, err := ParseTransport(filled, false); err != nil {
			t.Errorf("%s: a client cannot write %s: %v", c.door, got, err)
		}
	}
}
