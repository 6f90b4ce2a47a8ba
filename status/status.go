// Package status is what a connection server says about itself: its doors,
// the sessions that it holds, the figures of their links, the clients that are
// connected.
//
// It holds the figures and how people read them. It does not collect them
// (package server does) and does not carry them (package kdrpc to clients,
// kdsrv to programs of its user on the same machine). No password is in it;
// text that clients chose (owners) is printable and bounded.
package status

import "time"

// Server is one connection server at one moment.
type Server struct {
	Release    string    `cbor:"1,keyasint" json:"release"`
	Host       string    `cbor:"2,keyasint,omitempty" json:"host"`
	PID        int       `cbor:"3,keyasint" json:"pid"`
	Started    time.Time `cbor:"4,keyasint" json:"started"`
	Now        time.Time `cbor:"5,keyasint" json:"now"` // by the server's clock, as all times here
	MaxClients int       `cbor:"6,keyasint" json:"maxClients"`
	// How many there are; the lists below end at MaxList.
	ClientCount  int `cbor:"7,keyasint" json:"clientCount"`
	SessionCount int `cbor:"8,keyasint" json:"sessionCount"`

	Doors    []Door    `cbor:"9,keyasint,omitempty" json:"doors"`
	Sessions []Session `cbor:"10,keyasint,omitempty" json:"sessions"` // by line
	Clients  []Client  `cbor:"11,keyasint,omitempty" json:"clients"`  // oldest first
}

// MaxList bounds each list of a Server, so that it always fits in a message.
const MaxList = 4096

// Door is one way into the server.
type Door struct {
	Transport string `cbor:"1,keyasint" json:"transport"` // canonical, the password hidden
	Address   string `cbor:"2,keyasint" json:"address"`   // that is listened on, or connected to
	Clients   int    `cbor:"3,keyasint" json:"clients"`   // now
	Accepted  uint64 `cbor:"4,keyasint" json:"accepted"`  // that proved the password, so far
	// Bytes of all its clients so far, as in Client.
	BytesIn  uint64 `cbor:"5,keyasint,omitempty" json:"bytesIn"`
	BytesOut uint64 `cbor:"6,keyasint,omitempty" json:"bytesOut"`
}

// Session is one line, its target, and whose it is.
type Session struct {
	Line   string    `cbor:"1,keyasint" json:"line"`
	Owner  string    `cbor:"2,keyasint" json:"owner"`
	Peer   string    `cbor:"3,keyasint" json:"peer"`
	Opened time.Time `cbor:"4,keyasint" json:"opened"` // of the line
	Since  time.Time `cbor:"5,keyasint" json:"since"`  // of the lease
	Epoch  uint64    `cbor:"6,keyasint" json:"epoch"`
	// When the holder's connection was lost, and how long from then on the
	// session waits for him. nil: he is there.
	Lost         *time.Time `cbor:"7,keyasint,omitempty" json:"lost,omitempty"`
	GraceSeconds uint32     `cbor:"8,keyasint,omitempty" json:"graceSeconds,omitempty"`

	State      string    `cbor:"9,keyasint" json:"state"` // in words: "halted"; "": not told in time
	StateSince time.Time `cbor:"10,keyasint" json:"stateSince"`
	Speed      int       `cbor:"11,keyasint,omitempty" json:"bitsPerSecond,omitempty"` // 0: not paced
	Link       Link      `cbor:"12,keyasint" json:"link"`
}

// Link are the figures of a session's link since the line was opened. In is
// from the target.
type Link struct {
	BytesIn      uint64 `cbor:"1,keyasint,omitempty" json:"bytesIn"`
	BytesOut     uint64 `cbor:"2,keyasint,omitempty" json:"bytesOut"`
	PacketsIn    uint64 `cbor:"3,keyasint,omitempty" json:"packetsIn"`
	PacketsOut   uint64 `cbor:"4,keyasint,omitempty" json:"packetsOut"`
	Resends      uint64 `cbor:"5,keyasint,omitempty" json:"resends"` // packets sent again
	BadChecksums uint64 `cbor:"6,keyasint,omitempty" json:"badChecksums"`
	Garbage      uint64 `cbor:"7,keyasint,omitempty" json:"garbageBytes"` // outside packets
	Resets       uint64 `cbor:"8,keyasint,omitempty" json:"resets"`       // by the target
	// RoundTrip is the smoothed time from a packet to its acknowledgement; 0:
	// not known yet.
	RoundTrip time.Duration `cbor:"9,keyasint,omitempty" json:"roundTripNs"`
	Net       *Net          `cbor:"10,keyasint,omitempty" json:"net,omitempty"` // of a network link
}

// Net are the figures of a network link besides. Datagrams count whether they
// were taken or refused; a refused one is one of Forged, Replayed and Foreign.
type Net struct {
	Target       string `cbor:"1,keyasint,omitempty" json:"target,omitempty"` // its address; "": none yet
	Handshakes   uint64 `cbor:"2,keyasint,omitempty" json:"handshakes"`       // that led to a session
	DatagramsIn  uint64 `cbor:"3,keyasint,omitempty" json:"datagramsIn"`
	DatagramsOut uint64 `cbor:"4,keyasint,omitempty" json:"datagramsOut"`
	Forged       uint64 `cbor:"5,keyasint,omitempty" json:"forged"`   // that the key does not open
	Replayed     uint64 `cbor:"6,keyasint,omitempty" json:"replayed"` // authentic, but late or again
	Foreign      uint64 `cbor:"7,keyasint,omitempty" json:"foreign"`  // of somebody else, or no datagram of the protocol
}

// Client is one connection.
type Client struct {
	Peer  string    `cbor:"1,keyasint" json:"peer"`
	Door  string    `cbor:"2,keyasint" json:"door"` // its transport
	Since time.Time `cbor:"3,keyasint" json:"since"`
	Owner string    `cbor:"4,keyasint,omitempty" json:"owner,omitempty"` // "": has asked for no session yet
	Line  string    `cbor:"5,keyasint,omitempty" json:"line,omitempty"`  // of its session
	// Bytes of the protocol, without TLS. In is from the client.
	BytesIn  uint64 `cbor:"6,keyasint,omitempty" json:"bytesIn"`
	BytesOut uint64 `cbor:"7,keyasint,omitempty" json:"bytesOut"`
	// RoundTrip is the smoothed time from a ping to its answer; 0: not known
	// yet.
	RoundTrip time.Duration `cbor:"8,keyasint,omitempty" json:"roundTripNs"`
}
