package connstr

import (
	"errors"
	"strings"
	"testing"
)

func TestTransport(t *testing.T) {
	for _, c := range []struct {
		in     string
		server bool
		out    string // canonical
		fault  string // part named in the error
		why    string // piece of the reason
	}{
		{"tcp:port=1027", true, "tcp:Port=1027", "", ""},
		{"tcp:Port=5005,Server=HOST", false, "tcp:Port=5005,Server=HOST", "", ""},
		{"tcp:server=localhost, port=8081", false, "tcp:Port=8081,Server=localhost", "", ""},
		{`tcp:server=\\BOX17,port=1,password=Ab}c`, false, "tcp:Port=1,Password=*,Server=BOX17", "", ""},
		{"tcp:port=51:60,hidden", true, "tcp:Port=51:60,Hidden", "", ""},
		{"tcp:port=0", true, "tcp:Port=0", "", ""},
		{"tcp:port=9000,clicon=10.0.0.20,password=Secret", true, "tcp:Port=9000,Password=*,CliCon=10.0.0.20", "", ""},
		{"tcp:clicon=h,port=9000:9010", false, "tcp:Port=9000:9010,CliCon=h", "", ""},
		{"tcp:Port=53:60,Password=*,Server=h", false, "tcp:Port=53,Password=*,Server=h", "", ""}, // from a list
		{"tcp:server=[::1],port=1,ipversion=6", false, "tcp:Port=1,IpVersion=6,Server=::1", "", ""},
		{"npipe:pipe=KernelPipe,IcfEnable", true, "npipe:Pipe=KernelPipe,IcfEnable", "", ""},
		{"com:port=com2,baud=9600,channel=254", true, "com:Port=com2,Baud=9600,Channel=254", "", ""},
		{"ssl:proto=tls1,certuser=ab 38 f7,port=9", true, "ssl:Proto=tls1,CertUser=ab 38 f7,Port=9", "", ""},

		{"", true, "", "", "begins with"},
		{"port=1", true, "", "port=1", "begins with"},
		{"udp:port=1", true, "", "udp", "begins with"},
		{"tcp:", true, "", "", "port= is missing"},
		{"tcp:port=", true, "", "port=", "socket number"},
		{"tcp:port=70000", true, "", "port=70000", "65535"},
		{"tcp:port=0,server=h", false, "", "port=0", "from 1"},
		{"tcp:port=60:51", true, "", "port=60:51", "range"},
		{"tcp:port=2:1,server=h", false, "", "port=2:1", "range"},
		{"tcp:port=1:2,clicon=h", true, "", "port=1:2", "listens"},
		{"tcp:port=1,port=2", true, "", "port=2", "twice"},
		{"tcp:port=1,,hidden", true, "", "", "empty parameter"},
		{"tcp:port=1,hidden=1", true, "", "hidden=1", "without a value"},
		{"tcp:port=1,hidden,clicon=h", true, "", "hidden", "never listed"},
		{"tcp:port=1,bogus=2", true, "", "bogus=2", "knows no such parameter"},
		{"tcp:port=1", false, "", "", "names the machine"},
		{"tcp:port=1,server=h,clicon=i", false, "", "", "names the machine"},
		{"tcp:port=1,ipversion=4", true, "", "ipversion=4", "only value"},
		{"npipe:pipe=a b", true, "", "pipe=a b", "blanks"},
		{"npipe:pipe=kd%x", true, "npipe:Pipe=kd%x", "", ""},
		{"npipe:pipe=kd%s", true, "", "pipe=kd%s", "only codes"},
		{"npipe:pipe=kd%x,server=h", false, "", "pipe=kd%x", "that kdsrv printed"},
		{`npipe:pipe=\\.\pipe\kd,server=h`, false, "", `pipe=\\.\pipe\kd`, "write pipe=kd"},
		{"com:port=com2,baud=9600,channel=255", true, "", "channel=255", "0 to 254"},
		{"com:port=com2,baud=9600", true, "", "", "channel= is missing"},
		{"ssl:proto=ssl3,certuser=x,port=1", true, "", "proto=ssl3", "broken"},
		{"ssl:proto=tls1,certuser=x,machuser=y,port=1", true, "", "", "exactly one"},
		{"ssl:proto=tls1,port=1", true, "", "", "exactly one"},
		{"tcp:=5", true, "", "=5", "without a name"},
	} {
		got, err := ParseTransport(c.in, c.server)
		check(t, c.in, got.String(), err, c.out, c.fault, c.why)
	}
}

func check(t *testing.T, in, got string, err error, want, fault, why string) {
	t.Helper()
	if want != "" {
		if err != nil || got != want {
			t.Errorf("%q: got %q, %v; want %q", in, got, err, want)
		}
		return
	}
	var e *Error
	if !errors.As(err, &e) {
		t.Errorf("%q: got %q, %v; want an error", in, got, err)
		return
	}
	if e.Part != fault || !strings.Contains(e.Why, why) {
		t.Errorf("%q: error names %q (%s); want %q and %q", in, e.Part, e.Why, fault, why)
	}
	if strings.Contains(err.Error(), "\n") {
		t.Errorf("%q: more than one line: %q", in, err)
	}
}

func TestLink(t *testing.T) {
	for _, c := range []struct{ in, out, fault, why string }{
		{"com:port=com2,baud=57600", "COM:Port=com2,Baud=57600", "", ""},
		{`COM:Port=\\.\com3,Baud=115200,Timeout=4000`, `COM:Port=\\.\com3,Baud=115200,Timeout=4000`, "", ""},
		{"com:", "COM:", "", ""},
		{"com:baud=57600", "COM:Baud=57600", "", ""},
		{`com:pipe,port=\\.\pipe\vm,resets=0,reconnect`, `COM:Pipe,Port=\\.\pipe\vm,Resets=0,Reconnect`, "", ""},
		{"com:pipe,port=/tmp/vm.sock", "COM:Pipe,Port=/tmp/vm.sock", "", ""},
		{"com:pipe,port=/tmp/vm.sock,listen", "COM:Pipe,Port=/tmp/vm.sock,Listen", "", ""},
		{"com:ipport=5000,port=10.0.0.1", "COM:IpPort=5000,Port=10.0.0.1", "", ""},
		{"com:ipport=5000,port=[::1],reconnect", "COM:IpPort=5000,Port=::1,Reconnect", "", ""},
		{"com:ipport=5000,listen", "COM:IpPort=5000,Port=127.0.0.1,Listen", "", ""},

		{"com1", "", "com1", "begins with its kind"},
		{"", "", "", "begins with its kind"},
		{"com:port=2", "", "port=2", "bare number"},
		{"com:port=com1,baud=fast", "", "baud=fast", "decimal number"},
		{"com:pipe", "", "pipe", "needs port="},
		{"com:ipport=5000", "", "ipport", "port carries the address"},
		{"com:pipe,ipport=1,port=x", "", "ipport", "exclude each other"},
		{"com:port=com1,listen", "", "listen", "serial device"},
		{"com:port=com1,speed=3", "", "speed=3", "knows no such parameter"},
		{"com:modem", "", "modem", "not supported"},
		{"usb:targetname=x", "", "usb:", "not there yet"},
		{"net:port=50000,key=1.2.3.4", "NET:Port=50000,Key=*", "", ""},
		{" NET: key = 1.2.3.4 ,target=fe80::1%eth0, PORT=50001", "NET:Port=50001,Key=*,Target=fe80::1%eth0", "", ""},
		{"net:port=50000,key=1.2.3.4,target=lab7", "NET:Port=50000,Key=*,Target=lab7", "", ""},
		{"net:profile=lab7", "NET:Profile=lab7", "", ""},
		{"net:port=50000,key=1.2.3.4,hostip=10.0.0.1", "NET:Port=50000,Key=*,HostIP=10.0.0.1", "", ""},
		{"net:", "", "", "port=<UDP port> is missing"},
		{"net:port=50000", "", "", "key=<key> is missing"},
		{"net:key=1.2.3.4", "", "", "port=<UDP port> is missing"},
		{"net:port=70000,key=1.2.3.4", "", "port=70000", "1 to 65535"},
		{"net:port=50000,key=", "", "key=*", "needs a value"},
		{"net:port=50000,key=*", "", "key=*", "write the real one"},
		{"net:port=50000,key=1.2.3.4,key=2", "", "key=*", "given twice"},
		{"net:port=50000,key=1.2.3.4,baud=1", "", "baud=1", "knows no such parameter"},
		{"net:profile=lab7,port=50000", "", "profile=lab7", "stands alone"},
		{"net:port=50000,key=1.2.3.4,hostip=a,target=b", "", "hostip=a", "the debugger's"},
		{"tcp:port=1", "", "tcp:", "ipport"},
		{"kdsrv:server=@{}", "", "kdsrv:", "inside trans"},
		{"foo:bar", "", "foo:", "kinds of kernel link"},
	} {
		got, err := ParseLink(c.in)
		check(t, c.in, got.String(), err, c.out, c.fault, c.why)
	}
}

func TestKernel(t *testing.T) {
	for _, c := range []struct{ in, out, fault, why string }{
		{"", "KdSrv:Server=@{<Local>},Trans=@{COM:}", "", ""},
		{"com:port=com1", "KdSrv:Server=@{<Local>},Trans=@{COM:Port=com1}", "", ""},
		{"kdsrv:server=@{tcp:server=10.0.0.42,port=1027},trans=@{com:port=com1,baud=57600}", "KdSrv:Server=@{tcp:Port=1027,Server=10.0.0.42},Trans=@{COM:Port=com1,Baud=57600}", "", ""},
		{"KDSRV:Server=@{npipe:server=10.0.0.42,pipe=KernelPipe},Trans=@{com:baud=57600}", "KdSrv:Server=@{npipe:Pipe=KernelPipe,Server=10.0.0.42},Trans=@{COM:Baud=57600}", "", ""},
		{"kdsrv:trans=@{com:},server=@{tcp:server=h,port=1}", "KdSrv:Server=@{tcp:Port=1,Server=h},Trans=@{COM:}", "", ""},
		{"kdsrv:server=@{tcp:server=h,port=1}", "KdSrv:Server=@{tcp:Port=1,Server=h},Trans=@{COM:}", "", ""},
		{"kdsrv:server=@{tcp:server=h,port=1},trans=@{}", "KdSrv:Server=@{tcp:Port=1,Server=h},Trans=@{COM:}", "", ""},

		{"kdsrv:", "", "kdsrv:", "server=@{...} is missing"},
		{"kdsrv:server=tcp:server=h,port=1", "", "server=tcp:server=h,port=1", "needs its value in @{...}"},
		{"kdsrv:server=@{tcp:server=h,port=1", "", "server=@{tcp:server=h,port=1", "closing }"},
		{"kdsrv:server=@{tcp:server=h,port=1}trans=@{}", "", "trans=@{}", "comma"},
		{"kdsrv:server=@{tcp:server=h,port=1},", "", ",", "nothing follows"},
		{"kdsrv:server=@{tcp:server=h,port=1},x=@{}", "", "x=@{}", "only server="},
		{"kdsrv:server=@{tcp:server=h,port=1},server=@{}", "", "server=", "twice"},
		{"kdsrv:server=@{tcp:port=1,password=*,server=h},trans=@{com:}", "", "password=*", "the real one"},
	} {
		got, err := ParseKernel(c.in)
		check(t, c.in, got.String(), err, c.out, c.fault, c.why)
	}
}

func TestDefaults(t *testing.T) {
	env := func(m map[string]string) func(string) string { return func(k string) string { return m[k] } }
	k, err := ParseLink("com:baud=57600")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.WithDefaults(env(nil)); err == nil || !strings.Contains(err.Error(), "_NT_DEBUG_PORT") {
		t.Errorf("no port anywhere: %v", err)
	}
	got, err := k.WithDefaults(env(map[string]string{"_NT_DEBUG_PORT": "com1", "_NT_DEBUG_BAUD_RATE": "9600"}))
	if err != nil || got.Port != "com1" || got.Baud != 57600 {
		t.Errorf("got %v, %v; want port from the environment and the baud rate as written", got, err)
	}
	k.Baud = 0
	if _, err := k.WithDefaults(env(map[string]string{"_NT_DEBUG_PORT": "com1", "_NT_DEBUG_BAUD_RATE": "fast"})); err == nil {
		t.Error("a baud rate that is no number was taken")
	}
	if got, err := k.WithDefaults(env(map[string]string{"_NT_DEBUG_PORT": "com1"})); err != nil || got.Baud != DefaultBaud {
		t.Errorf("got %v, %v; want %d baud", got, err, DefaultBaud)
	}
}

// TestNoPassword: no error shows a password.
func TestNoPassword(t *testing.T) {
	for _, s := range []string{
		"tcp:port=1,password=hunter2,bogus", "udp:password=hunter2", "tcp:port=1,password=hunter2,password=hunter2",
		"kdsrv:server=@{tcp:server=h,port=x,password=hunter2},trans=@{com:}", "kdsrv:server={tcp:password=hunter2}",
		"kdsrv:server=@{tcp:server=h,port=1,password=hunter2", "kdsrv:password=hunter2",
	} {
		_, err := ParseKernel(s)
		_, err2 := ParseTransport(s, true)
		for _, e := range []error{err, err2} {
			if e != nil && strings.Contains(e.Error(), "hunter2") {
				t.Errorf("%q: the error shows the password: %v", s, e)
			}
		}
	}
}

func TestMask(t *testing.T) {
	for in, want := range map[string]string{
		"tcp:port=1,password=secret":                   "tcp:port=1,password=*",
		"tcp:PassWord=secret,port=1":                   "tcp:PassWord=*,port=1",
		"tcp:password \t= secret ,port=1":              "tcp:password \t=*,port=1",
		"com:port=1,key=1.2.3.4":                       "com:port=1,key=*",
		"kdsrv:server=@{tcp:password=s},trans=@{com:}": "kdsrv:server=@{tcp:password=*},trans=@{com:}",
		"\xc7pAssword=":                                "\xc7pAssword=*",
		"\xff\xffİpassword=secret":                     "\xff\xffİpassword=*",
		"password=password=x":                          "password=*",
		"no secrets, monkey":                           "no secrets, monkey",
		"password":                                     "password",
	} {
		if got := mask(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	for _, in := range []string{"\xc7pAssword=", "tcp:port=99999999,password = hush", "tcp:\xff,password=hush", "nix:password =hush"} {
		if _, err := ParseTransport(in, true); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%q: %v", in, err)
		}
		if _, err := ParseKernel(in); err == nil || strings.Contains(err.Error(), "hush") {
			t.Errorf("%q: %v", in, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"tcp:port=1,password=x", "com:pipe,port=/x,resets=0", "kdsrv:server=@{tcp:server=h,port=1},trans=@{com:port=com1}", "com:ipport=1,port=[::1]", "\xc7pAssword=", "com:ipport=1,port=[",
		"tcp:server=[[::1]],port=1", "tcp:server=[\th\t],port=1", "tcp:port=0", "tcp:clicon=[::1],port=1:2", "tcp:clicon=\u2028h,port=0",
		"ssl:proto=TLS1,certuser=a,clientca=b,port=1:2", "spipe:proto=tls13,machuser=a,clientcert=b,server=h,pipe=x", "npipe:pipe=a%x", "com:port=x,baud=+1,channel=0",
		"net:port=1,key=1.2.3.4", "net:port=1,key=0,target=0", "net:profile=0", "net:port=1,key=x,hostip=[[::1]]", "com:ipport=1,port=[ x", "com:ipport=1,port=[\u00a0x]", "com:ipport=1,listen",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, server := range []bool{true, false} {
			if want, err := ParseTransport(s, server); err == nil {
				text := want.String()
				if want.Password != "" {
					want.Password = "*"
				}
				want.ClientCA, want.ClientCert = "", "" // String leaves them out
				again, err := ParseTransport(text, server)
				if err != nil || again != want {
					t.Errorf("%q: canonical %q reads back as %+v, %v; want %+v", s, text, again, err, want)
				}
			}
		}
		if k, err := ParseLink(s); err == nil {
			again, err := ParseLink(k.Reveal()) // a hidden key is refused
			if err != nil || again != k {
				t.Errorf("%q: canonical %q reads back as %+v, %v; want %+v", s, k, again, err, k)
			}
		}
		if k, err := ParseKernel(s); err == nil {
			_ = k.String()
		}
	})
}
