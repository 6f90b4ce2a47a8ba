// Package connstr reads and writes connection strings: how a debugger reaches
// another debugger (transports, "tcp:port=1234,password=secret") and how it
// reaches a kernel (links, "com:pipe,port=/tmp/vm.sock,reconnect"), with the
// @{...} groups that put one inside the other.
//
// It opens nothing and knows no other package. Every error names the part at
// fault and says what is allowed there. The grammar is Microsoft's documented
// one (KdSrv Command-Line Options; Activating a Smart Client; Live Kernel-Mode
// Debugging Using KD); forms of our own are marked as such where they are
// declared.
package connstr

import "fmt"

// Error is a fault in a connection string.
type Error struct {
	Input string // the whole string
	Part  string // the part at fault
	Why   string // what is wrong with it and what would be right
}

func (e *Error) Error() string {
	if e.Part == "" {
		return fmt.Sprintf("connection string %q: %s", e.Input, e.Why)
	}
	return fmt.Sprintf("connection string %q: %q: %s", e.Input, e.Part, e.Why)
}

// Transport is how two debuggers reach each other. Which fields count depends
// on Proto; the parsers refuse the rest.
type Transport struct {
	Proto    string // "tcp", "npipe", "com", "spipe" or "ssl"
	Server   string // client: host name or address; "" on the server's side
	Port     int    // socket number, 0 for none; listener: 0 lets the system choose (ours)
	PortHigh int    // listener: end of the range, 0 for none
	Pipe     string
	ComPort  string
	Baud     int
	Channel  int
	ClientOf string // clicon=
	Secure   string // proto= of spipe and ssl, lower case
	CertUser string
	CertMach string
	// Certificates of clients, a form of our own: which one a client shows, and
	// which ones a server asks for (thumbprints and PEM files, between them ";").
	ClientCert string
	ClientCA   string
	Password   string
	Hidden     bool
	Firewall   bool // IcfEnable
	IPv6       bool // ipversion=6
}

// LinkKind is the kind of a kernel link.
type LinkKind string

// Kinds of link.
const (
	LinkSerial LinkKind = "serial" // com:port=,baud=
	LinkPipe   LinkKind = "pipe"   // com:pipe,port=
	LinkTCP    LinkKind = "tcp"    // com:ipport=,port=
	LinkModem  LinkKind = "modem"
	LinkNet    LinkKind = "net"
	LinkUSB    LinkKind = "usb"
	Link1394   LinkKind = "1394"
)

// Link is how a kernel is reached from the machine next to it.
type Link struct {
	Kind      LinkKind
	Port      string // device, pipe or socket path, or IP address or name
	Baud      int    // 0: not given
	IPPort    int    // TCP port; UDP port of net
	Reconnect bool   // open again after an error, wait for the pipe to appear
	Resets    int    // resets=; -1: not given; 0: unlimited
	Timeout   int    // milliseconds; 0: not given
	Listen    bool   // wait for the other side to connect (ours), for machines that connect out
	Key       string // net: four numbers in base 36 with dots between them, not looked at here
	Target    string // net: machine that connect requests go to
	Profile   string // net: name of port, key and target on the line's own machine (ours)
	HostIP    string // net: the debugger's address, for simulated machines (ours)
	TargetKey string // targetname=, symlink=
	Channel   int
}

// Kernel is the value of -k.
type Kernel struct {
	Server *Transport // nil: the line is on this machine
	Link   Link
}
