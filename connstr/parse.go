package connstr

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// maxInput bounds a connection string; longer ones are refused unread.
const maxInput = 4096

// param is one "key=value" or flag of a parameter list.
type param struct {
	text  string // as written
	key   string // lower case
	value string
	has   bool // "=" was there
}

// list is a parameter list being consumed: what nobody took is an error.
type list struct {
	input  string // whole string, for errors
	kind   string // "tcp:", "com: link" ..., for errors
	params []param
	known  []string
}

func (l *list) errf(part, format string, a ...any) error {
	return &Error{Input: mask(l.input), Part: part, Why: fmt.Sprintf(format, a...)}
}

// mask hides the values of password= and key= so that errors can be logged.
// Blanks around the name do not matter, as they do not when it is parsed.
func mask(s string) string {
	low := []byte(s) // strings.ToLower changes lengths
	for i, c := range low {
		if c >= 'A' && c <= 'Z' {
			low[i] = c + 'a' - 'A'
		}
	}
	stop := ","
	if strings.Contains(s, "{") {
		stop = ",}" // inside a group a value ends at the brace too
	}
	var out strings.Builder
	for i := 0; i < len(s); {
		n := 0 // of name, blanks and equals sign
		for _, k := range []string{"password", "key"} {
			if string(low[i:min(len(s), i+len(k))]) == k {
				j := i + len(k)
				j += len(s[j:]) - len(strings.TrimLeftFunc(s[j:], unicode.IsSpace))
				if j < len(s) && s[j] == '=' {
					n = j + 1 - i
				}
			}
		}
		if n == 0 {
			out.WriteByte(s[i])
			i++
			continue
		}
		out.WriteString(s[i:i+n] + "*")
		for i += n; i < len(s) && strings.IndexByte(stop, s[i]) < 0; i++ {
		}
	}
	return out.String()
}

// splitParams cuts at commas. Blanks around a parameter are tolerated, since
// people type them.
func splitParams(input, kind, body string) (*list, error) {
	l := &list{input: input, kind: kind}
	if strings.TrimSpace(body) == "" {
		return l, nil
	}
	for text := range strings.SplitSeq(body, ",") {
		text = strings.TrimSpace(text)
		if text == "" {
			return nil, l.errf("", "an empty parameter: two commas in a row, or one at the end")
		}
		k, v, has := strings.Cut(text, "=")
		p := param{text, strings.ToLower(strings.TrimSpace(k)), strings.TrimSpace(v), has}
		if p.key == "" {
			return nil, l.errf(text, "a value without a name; write name=value")
		}
		for _, q := range l.params {
			if q.key == p.key {
				return nil, l.errf(maskParam(p), "%s is given twice", p.key)
			}
		}
		l.params = append(l.params, p)
	}
	return l, nil
}

func maskParam(p param) string {
	if p.key == "password" || p.key == "key" {
		return p.key + "=*"
	}
	return p.text
}

// take removes a parameter from the list.
func (l *list) take(key string) (param, bool) {
	l.known = append(l.known, key)
	for i, p := range l.params {
		if p.key == key {
			l.params = slices.Delete(l.params, i, i+1)
			return p, true
		}
	}
	return param{}, false
}

func (l *list) str(key string, dst *string) error {
	p, ok := l.take(key)
	if !ok {
		return nil
	}
	if p.value == "" {
		return l.errf(maskParam(p), "%s needs a value: %s=<value>", key, key)
	}
	*dst = p.value
	return nil
}

func (l *list) num(key string, lo, hi int, dst *int) error {
	p, ok := l.take(key)
	if !ok {
		return nil
	}
	n, err := strconv.Atoi(p.value)
	if err != nil || n < lo || n > hi {
		return l.errf(p.text, "%s takes a decimal number from %d to %d", key, lo, hi)
	}
	*dst = n
	return nil
}

func (l *list) flag(key string, dst *bool) error {
	p, ok := l.take(key)
	if !ok {
		return nil
	}
	if p.has {
		return l.errf(p.text, "%s stands alone, without a value", key)
	}
	*dst = true
	return nil
}

// done reports what nobody took.
func (l *list) done() error {
	if len(l.params) == 0 {
		return nil
	}
	slices.Sort(l.known)
	return l.errf(maskParam(l.params[0]), "%s knows no such parameter; it takes %s", l.kind, strings.Join(l.known, ", "))
}

func tooLong(s string) error {
	if len(s) <= maxInput {
		return nil
	}
	return &Error{Input: s[:32] + "...", Why: fmt.Sprintf("%d characters long; at most %d are allowed", len(s), maxInput)}
}

// ParseTransport reads a transport: what kdsrv -t takes (server true) or what
// stands in server=@{...} (server false).
func ParseTransport(s string, server bool) (Transport, error) {
	var t Transport
	if err := tooLong(s); err != nil {
		return t, err
	}
	proto, body, ok := strings.Cut(s, ":")
	t.Proto = strings.ToLower(strings.TrimSpace(proto))
	if !ok || !slices.Contains([]string{"tcp", "npipe", "com", "spipe", "ssl"}, t.Proto) {
		return t, &Error{Input: mask(s), Part: mask(proto), Why: "a transport begins with tcp:, npipe:, ssl:, spipe: or com:, as in tcp:port=1234"}
	}
	l, err := splitParams(s, "a "+t.Proto+": transport", body)
	if err != nil {
		return t, err
	}
	steps := []func() error{func() error { return l.str("password", &t.Password) }}
	if !server {
		steps = append(steps, func() error { return l.host("server", &t.Server) })
	} else {
		steps = append(steps, func() error { return l.flag("hidden", &t.Hidden) })
	}
	switch t.Proto {
	case "tcp", "ssl":
		steps = append(steps,
			func() error { return l.host("clicon", &t.ClientOf) },
			func() error { return l.sockets(&t, server) },
			func() error { return l.ipversion(&t) })
	case "npipe", "spipe":
		steps = append(steps, func() error { return l.str("pipe", &t.Pipe) })
	case "com":
		t.Channel = -1
		steps = append(steps,
			func() error { return l.str("port", &t.ComPort) },
			func() error { return l.num("baud", 1, maxBaud, &t.Baud) },
			func() error { return l.num("channel", 0, 254, &t.Channel) })
	}
	switch t.Proto {
	case "ssl", "spipe":
		steps = append(steps,
			func() error { return l.str("proto", &t.Secure) },
			func() error { return l.str("certuser", &t.CertUser) },
			func() error { return l.str("machuser", &t.CertMach) })
		if server {
			steps = append(steps, func() error { return l.str("clientca", &t.ClientCA) })
		} else {
			steps = append(steps, func() error { return l.str("clientcert", &t.ClientCert) })
		}
	case "tcp", "npipe":
		if server {
			steps = append(steps, func() error { return l.flag("icfenable", &t.Firewall) })
		}
	}
	for _, f := range steps {
		if err := f(); err != nil {
			return t, err
		}
	}
	if err := l.done(); err != nil {
		return t, err
	}
	return t, t.check(l, server)
}

const maxBaud = 12_000_000

// host takes a machine's name; leading backslashes are optional.
func (l *list) host(key string, dst *string) error {
	if err := l.str(key, dst); err != nil {
		return err
	}
	h := strings.TrimPrefix(*dst, `\\`)
	if strings.HasPrefix(h, "[") && strings.HasSuffix(h, "]") {
		h = h[1 : len(h)-1]
	}
	if strings.ContainsAny(h, `"\/[]`) || strings.ContainsFunc(h, unicode.IsSpace) || (*dst != "" && h == "") {
		return l.errf(key+"="+*dst, "%s takes the name or the address of a machine", key)
	}
	*dst = h
	return nil
}

// sockets reads port=n or, for a listener, port=lo:hi. A listener may say 0:
// the system chooses (a form of our own). Lists of servers show port=lo:hi with
// the port that was taken in front, so a client that pastes it means the first.
func (l *list) sockets(t *Transport, server bool) error {
	p, ok := l.take("port")
	if !ok {
		return nil
	}
	listens := server != (t.ClientOf != "")
	lo, hi, ranged := strings.Cut(p.value, ":")
	min := 1
	if listens {
		min = 0
	}
	a, err := strconv.Atoi(lo)
	if err != nil || a < min || a > 65535 {
		return l.errf(p.text, "port takes a socket number from %d to 65535", min)
	}
	t.Port = a
	if a == 0 {
		t.Port = AnyPort
	}
	if !ranged {
		return nil
	}
	if !listens && server {
		return l.errf(p.text, "only the side that listens may give a range; name the port that it printed")
	}
	b, err := strconv.Atoi(hi)
	if err != nil || b < a || b > 65535 || a == 0 {
		return l.errf(p.text, "a range is port=<low>:<high>, both from 1 to 65535 and in that order")
	}
	if listens {
		t.PortHigh = b
	}
	return nil
}

// AnyPort is Transport.Port of a listener that lets the system choose.
const AnyPort = -1

func (l *list) ipversion(t *Transport) error {
	p, ok := l.take("ipversion")
	if !ok {
		return nil
	}
	if p.value != "6" {
		return l.errf(p.text, "the only value of ipversion is 6; without it the address decides")
	}
	t.IPv6 = true
	return nil
}

// check looks at the parameters together.
func (t *Transport) check(l *list, server bool) error {
	missing := func(key, example string) error {
		return l.errf("", "%s= is missing, as in %s", key, example)
	}
	switch t.Proto {
	case "tcp", "ssl":
		if t.Port == 0 {
			return missing("port", t.Proto+":port=1234")
		}
		if t.ClientOf != "" && t.Hidden {
			return l.errf("hidden", "a reverse connection (clicon=) is never listed, so hidden does not go with it")
		}
		if t.ClientOf != "" && t.Firewall {
			return l.errf("IcfEnable", "a reverse connection (clicon=) opens no port here, so IcfEnable does not go with it")
		}
		if !server && (t.Server == "") == (t.ClientOf == "") {
			return l.errf("", "a client names the machine: either server=<host>, or clicon=<host> when the server connects out")
		}
	case "npipe", "spipe":
		if t.Pipe == "" {
			return missing("pipe", t.Proto+":pipe=kernel")
		}
		err := CheckPipe(t.Pipe)
		if server {
			_, err = ExpandPipe(t.Pipe, 0, 0) // the ids come when the pipe is made
		}
		if fault, ok := errors.AsType[*Error](err); ok {
			return l.errf("pipe="+t.Pipe, "%s", fault.Why)
		}
		if !server && t.Server == "" {
			return missing("server", t.Proto+":server=localhost,pipe=kernel")
		}
	case "com":
		for _, m := range []struct {
			is   bool
			name string
		}{{t.ComPort == "", "port"}, {t.Baud == 0, "baud"}, {t.Channel < 0, "channel"}} {
			if m.is {
				return missing(m.name, "com:port=com1,baud=115200,channel=0")
			}
		}
		if !server && t.Server != "" {
			return l.errf("server="+t.Server, "a com: transport is a cable and has no server name")
		}
	}
	if t.Proto == "ssl" || t.Proto == "spipe" {
		switch strings.ToLower(t.Secure) {
		case "":
			return missing("proto", t.Proto+":proto=tls13")
		case "tls1", "tls12", "tls13":
			t.Secure = strings.ToLower(t.Secure)
		case "pct1", "ssl2", "ssl3":
			return l.errf("proto="+t.Secure, "that protocol is broken and not offered; use tls13 (or tls12; tls1 means current TLS)")
		default:
			return l.errf("proto="+t.Secure, "proto is tls13, tls12, or tls1 for current TLS")
		}
		if (t.CertUser == "") == (t.CertMach == "") {
			return l.errf("", "exactly one of certuser=<certificate> and machuser=<certificate> is needed")
		}
	}
	return nil
}

// String is the canonical spelling with the password hidden, the server's own
// parameters first, as lists print it. ClientCA and ClientCert are not in it:
// they name files of one side, which the other has no use for.
func (t Transport) String() string {
	var b strings.Builder
	b.WriteString(t.Proto)
	sep := ":"
	add := func(s string) { b.WriteString(sep + s); sep = "," }
	if t.Secure != "" {
		add("Proto=" + t.Secure)
	}
	if t.CertUser != "" {
		add("CertUser=" + t.CertUser)
	}
	if t.CertMach != "" {
		add("MachUser=" + t.CertMach)
	}
	switch {
	case t.Port == AnyPort:
		add("Port=0")
	case t.PortHigh != 0:
		add(fmt.Sprintf("Port=%d:%d", t.Port, t.PortHigh))
	case t.Port != 0:
		add(fmt.Sprintf("Port=%d", t.Port))
	}
	if t.Pipe != "" {
		add("Pipe=" + t.Pipe)
	}
	if t.ComPort != "" {
		add("Port=" + t.ComPort)
		add(fmt.Sprintf("Baud=%d", t.Baud))
		add(fmt.Sprintf("Channel=%d", t.Channel))
	}
	if t.Hidden {
		add("Hidden")
	}
	if t.IPv6 {
		add("IpVersion=6")
	}
	if t.Firewall {
		add("IcfEnable")
	}
	if t.Password != "" {
		add("Password=*")
	}
	if t.ClientOf != "" {
		add("CliCon=" + t.ClientOf)
	}
	if t.Server != "" {
		add("Server=" + t.Server)
	}
	return b.String()
}

// ParseLink reads a kernel link: what -k and trans=@{...} take.
func ParseLink(s string) (Link, error) {
	k := Link{Resets: -1}
	if err := tooLong(s); err != nil {
		return k, err
	}
	kind, body, ok := strings.Cut(s, ":")
	kind = strings.ToLower(strings.TrimSpace(kind))
	if !ok {
		return k, &Error{Input: mask(s), Part: mask(kind), Why: "a kernel link begins with its kind and a colon: com:port=<device>,baud=<rate>; com:pipe,port=<path>; com:ipport=<n>,port=<address>; net:port=<UDP port>,key=<key>"}
	}
	l, err := splitParams(s, "a "+kind+": link", body)
	if err != nil {
		return k, err
	}
	switch kind {
	case "com":
		err = k.com(l)
	case "net":
		err = k.net(l)
	case "usb", "usb2", "1394":
		return k, l.errf(kind+":", "%s links are not there yet; com:port=, com:pipe, com:ipport= and net: are", kind)
	case "kdsrv":
		return k, l.errf("kdsrv:", "a connection server cannot stand inside trans=@{}; name the line next to it, such as com:pipe,port=<path>")
	case "exdi":
		return k, l.errf("exdi:", "EXDI is not a KD link and is not supported")
	case "tcp", "npipe", "ssl", "spipe":
		return k, l.errf(kind+":", "%s: is a transport between debuggers, not a line to a kernel; for serial bytes over TCP write com:ipport=<port>,port=<address>", kind)
	default:
		return k, l.errf(kind+":", "the kinds of kernel link are com:port=, com:pipe, com:ipport=, net: and kdsrv:")
	}
	return k, err
}

func (k *Link) net(l *list) error {
	k.Kind = LinkNet
	for _, f := range []func() error{
		func() error { return l.num("port", 1, 65535, &k.IPPort) },
		func() error { return l.str("key", &k.Key) },
		func() error { return l.host("target", &k.Target) },
		func() error { return l.str("profile", &k.Profile) },
		func() error { return l.host("hostip", &k.HostIP) },
		l.done,
	} {
		if err := f(); err != nil {
			return err
		}
	}
	const shape = "net:port=50000,key=<w.x.y.z>"
	switch {
	case k.Profile != "" && (k.IPPort != 0 || k.Key != "" || k.Target != "" || k.HostIP != ""):
		return l.errf("profile="+k.Profile, "a profile brings port, key and target with it and stands alone")
	case k.Profile != "":
	case k.IPPort == 0:
		return l.errf("", "port=<UDP port> is missing, as in "+shape)
	case k.Key == "":
		return l.errf("", "key=<key> is missing, as in "+shape+"; bcdedit /dbgsettings on the target shows it, kd -keygen makes one")
	case k.Key == "*":
		return l.errf("key=*", "lists show every key as *; write the real one")
	case k.HostIP != "" && k.Target != "":
		return l.errf("hostip="+k.HostIP, "hostip= is the machine's side, target= the debugger's; only one of them can stand here")
	}
	return nil
}

func (k *Link) com(l *list) error {
	var pipe, modem bool
	for _, f := range []func() error{
		func() error { return l.flag("pipe", &pipe) },
		func() error { return l.flag("modem", &modem) },
		func() error { return l.str("port", &k.Port) },
		func() error { return l.num("baud", 1, maxBaud, &k.Baud) },
		func() error { return l.num("ipport", 1, 65535, &k.IPPort) },
		func() error { return l.num("resets", 0, 1_000_000, &k.Resets) },
		func() error { return l.num("timeout", 1, 600_000, &k.Timeout) },
		func() error { return l.flag("reconnect", &k.Reconnect) },
		func() error { return l.flag("listen", &k.Listen) },
		l.done,
	} {
		if err := f(); err != nil {
			return err
		}
	}
	switch {
	case modem:
		return l.errf("modem", "modem links are not supported; give the modem's device as port=<device>")
	case pipe && k.IPPort != 0:
		return l.errf("ipport", "pipe and ipport= exclude each other: a line is a pipe or a TCP port")
	case pipe:
		k.Kind = LinkPipe
		if k.Port == "" {
			return l.errf("pipe", `com:pipe needs port=<path>, such as port=/tmp/vm.sock or port=\\.\pipe\vm`)
		}
	case k.IPPort != 0:
		k.Kind = LinkTCP
		if k.Port == "" {
			if !k.Listen {
				return l.errf("ipport", "com:ipport=<TCP port> needs port=<address> too (mind the names: port carries the address)")
			}
			k.Port = "127.0.0.1"
		}
		host := k.Port
		if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
			host = strings.TrimSpace(host[1 : len(host)-1])
		}
		if host == "" || strings.ContainsAny(host, "[]") {
			return l.errf("port="+k.Port, "an IPv6 address stands in one pair of brackets: port=[::1]")
		}
		k.Port = host
	default:
		k.Kind = LinkSerial
		if _, err := strconv.Atoi(k.Port); err == nil {
			return l.errf("port="+k.Port, `a bare number is not a port here; write com%s, \\.\com%s or a device such as /dev/ttyUSB0`, k.Port, k.Port)
		}
		if k.Listen {
			return l.errf("listen", "listen belongs to com:pipe and com:ipport=; a serial device has no caller to wait for")
		}
		if k.Reconnect {
			return nil // a USB adapter that is pulled out and comes back
		}
	}
	return nil
}

// DefaultBaud is the speed of a serial link whose speed nobody named.
const DefaultBaud = 115200

// WithDefaults fills in what is missing from the environment of the machine
// that owns the line: _NT_DEBUG_PORT and _NT_DEBUG_BAUD_RATE, and 115200 baud
// where neither names a speed. It fails if no port is known then.
func (k Link) WithDefaults(getenv func(string) string) (Link, error) {
	if k.Kind != LinkSerial {
		return k, nil
	}
	if k.Port == "" {
		k.Port = getenv("_NT_DEBUG_PORT")
		if k.Port == "" {
			return k, &Error{Input: k.String(), Why: "no port is named, and _NT_DEBUG_PORT is not set on the machine that owns the line; write com:port=<device>,baud=<rate>"}
		}
	}
	if k.Baud == 0 {
		if v := getenv("_NT_DEBUG_BAUD_RATE"); v != "" {
			n, err := strconv.Atoi(v)
			if err != nil || n < 1 || n > maxBaud {
				return k, &Error{Input: "_NT_DEBUG_BAUD_RATE=" + v, Part: v, Why: "the baud rate is a decimal number such as 115200"}
			}
			k.Baud = n
		} else {
			k.Baud = DefaultBaud
		}
	}
	return k, nil
}

// String is the canonical spelling, with the key hidden:
// COM:Port=\\.\com3,Baud=115200, NET:Port=50000,Key=*.
func (k Link) String() string {
	if k.Key != "" {
		k.Key = "*"
	}
	return k.Reveal()
}

// Reveal is String with the key in it, for the server that opens the link and
// nobody else.
func (k Link) Reveal() string {
	var p []string
	if k.Kind == LinkNet {
		port := ""
		if k.IPPort != 0 {
			port = strconv.Itoa(k.IPPort)
		}
		for _, v := range [...]struct{ name, value string }{
			{"Port", port}, {"Key", k.Key}, {"Target", k.Target}, {"Profile", k.Profile}, {"HostIP", k.HostIP},
		} {
			if v.value != "" {
				p = append(p, v.name+"="+v.value)
			}
		}
		return "NET:" + strings.Join(p, ",")
	}
	switch k.Kind {
	case LinkPipe:
		p = append(p, "Pipe")
	case LinkTCP:
		p = append(p, fmt.Sprintf("IpPort=%d", k.IPPort))
	}
	if k.Port != "" {
		p = append(p, "Port="+k.Port)
	}
	if k.Baud != 0 {
		p = append(p, fmt.Sprintf("Baud=%d", k.Baud))
	}
	if k.Timeout != 0 {
		p = append(p, fmt.Sprintf("Timeout=%d", k.Timeout))
	}
	if k.Resets >= 0 {
		p = append(p, fmt.Sprintf("Resets=%d", k.Resets))
	}
	if k.Reconnect {
		p = append(p, "Reconnect")
	}
	if k.Listen {
		p = append(p, "Listen")
	}
	return "COM:" + strings.Join(p, ",")
}

// Resource names what only one debugger can hold, however its parameters are
// spelt: the device, pipe or address without speed and options.
func (k Link) Resource() string {
	switch k.Kind {
	case LinkTCP:
		return fmt.Sprintf("tcp %s %d", strings.ToLower(k.Port), k.IPPort)
	case LinkPipe:
		return "pipe " + k.Port
	case LinkNet:
		if k.Profile != "" {
			return "net profile " + k.Profile
		}
		return fmt.Sprintf("udp %d", k.IPPort)
	}
	return "com " + strings.TrimPrefix(k.Port, `\\.\`)
}

// ParseKernel reads the value of -k: a link of this machine, or
// kdsrv:server=@{<transport>},trans=@{<link>}. An empty value, and trans=@{}
// or none, mean the defaults of the machine that owns the line.
func ParseKernel(s string) (Kernel, error) {
	if err := tooLong(s); err != nil {
		return Kernel{}, err
	}
	if len(s) < 6 || !strings.EqualFold(s[:6], "kdsrv:") {
		if s == "" {
			s = "com:"
		}
		k, err := ParseLink(s)
		return Kernel{Link: k}, err
	}
	fail := func(part, why string) (Kernel, error) {
		return Kernel{}, &Error{Input: mask(s), Part: mask(part), Why: why}
	}
	const shape = `write kdsrv:server=@{tcp:server=<host>,port=<n>},trans=@{<link>} and quote the whole argument for the shell`
	var server, trans *string
	rest := s[6:]
	for rest != "" {
		key, after, ok := strings.Cut(rest, "=")
		key = strings.ToLower(strings.TrimSpace(key))
		if !ok || (key != "server" && key != "trans") {
			return fail(strings.TrimSpace(rest), "after kdsrv: only server=@{...} and trans=@{...} can stand; "+shape)
		}
		after = strings.TrimSpace(after)
		if !strings.HasPrefix(after, "@{") {
			return fail(key+"="+after, key+"= needs its value in @{...}; a shell may have eaten the braces: "+shape)
		}
		end := strings.IndexByte(after, '}')
		if end < 0 {
			return fail(key+"="+after, "the closing } is missing; "+shape)
		}
		v := after[2:end]
		dst := &server
		if key == "trans" {
			dst = &trans
		}
		if *dst != nil {
			return fail(key+"=", key+"= is given twice")
		}
		*dst = &v
		rest = strings.TrimSpace(after[end+1:])
		if rest != "" {
			if rest[0] != ',' {
				return fail(rest, "a comma stands between server=@{...} and trans=@{...}")
			}
			rest = strings.TrimSpace(rest[1:])
			if rest == "" {
				return fail(",", "nothing follows the comma")
			}
		}
	}
	if server == nil {
		return fail("kdsrv:", "server=@{...} is missing; "+shape)
	}
	t, err := ParseTransport(*server, false)
	if err != nil {
		return Kernel{}, err
	}
	if t.Password == "*" { // pasted from a list
		return fail("password=*", "lists show every password as *; write the real one")
	}
	link := "com:"
	if trans != nil && strings.TrimSpace(*trans) != "" {
		link = *trans
	}
	k, err := ParseLink(link)
	if err != nil {
		return Kernel{}, err
	}
	return Kernel{Server: &t, Link: k}, nil
}

// String is the session name that debuggers print:
// KdSrv:Server=@{<Local>},Trans=@{COM:...}.
func (k Kernel) String() string {
	server := "<Local>"
	if k.Server != nil {
		server = k.Server.String()
	}
	return "KdSrv:Server=@{" + server + "},Trans=@{" + k.Link.String() + "}"
}
