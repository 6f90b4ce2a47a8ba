package discovery

import (
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

// What goes over the network, in DNS messages. For every announced door
//
//	<service>                PTR  <instance>.<service>
//	<instance>.<service>     SRV  <port> <process>.local.   (port 0: not a socket)
//	<instance>.<service>     TXT  txtvers=1 kind= connect= host= release=
//
// and for the process A and AAAA records of <process>.local., per interface.
// The names contain 60 random bits, so nobody else has them and the probing of
// RFC 6762 section 8.1 is left out. Lists need nothing but the TXT records; the
// others are there for browsers of DNS-SD in general.
const (
	serversService   = "_openkd-srv._tcp.local."
	debuggersService = "_openkd-dbg._tcp.local."
	serviceTypes     = "_services._dns-sd._udp.local." // RFC 6763 section 9

	textVersion = "1"
)

func serviceOf(k Kind) string {
	if k == Debugger {
		return debuggersService
	}
	return serversService
}

const (
	// topBit of a class asks for a unicast answer in a question, and tells that
	// a record replaces what was known in a response (RFC 6762 sections 5.4, 10.2).
	topBit = 1 << 15
	// Lives of records in seconds (RFC 6762 section 10), and the most that a
	// resolver hears which does not speak multicast DNS (section 6.7).
	lifeOfNames  = 4500
	lifeOfHost   = 120
	lifeOfLegacy = 10

	// maxPacket passes every link without fragments: the least MTU of IPv6
	// without its header and that of UDP.
	maxPacket  = 1280 - 40 - 8
	maxPackets = 16  // of one answer or announcement
	maxAsked   = 32  // questions looked at in a message
	maxLooked  = 256 // resources looked at in a message
	maxConnect = 255 - len("connect=")
)

// instance is one announced door.
type instance struct {
	label   string // unique, without dots
	kind    Kind
	connect string
	release string
	host    string // what the machine calls itself
	port    uint16
}

func (i instance) name() string { return i.label + "." + serviceOf(i.kind) }

// zone is what a process has to tell.
type zone struct {
	host      string // of the address records, "<process>.local."
	instances []instance
}

// unit is what belongs into one packet together.
type unit struct {
	answers []dnsmessage.Resource
	extras  []dnsmessage.Resource
}

func resource(name string, unique bool, life uint32, body dnsmessage.ResourceBody) dnsmessage.Resource {
	h := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(name), Class: dnsmessage.ClassINET, TTL: life}
	if unique {
		h.Class |= topBit
	}
	return dnsmessage.Resource{Header: h, Body: body}
}

func (i instance) ptr() dnsmessage.Resource {
	return resource(serviceOf(i.kind), false, lifeOfNames, &dnsmessage.PTRResource{PTR: dnsmessage.MustNewName(i.name())})
}

func (i instance) txt() dnsmessage.Resource {
	return resource(i.name(), true, lifeOfNames, &dnsmessage.TXTResource{TXT: []string{
		"txtvers=" + textVersion, "kind=" + string(i.kind), "connect=" + i.connect, "host=" + i.host, "release=" + i.release,
	}})
}

func (z zone) srv(i instance) dnsmessage.Resource {
	return resource(i.name(), true, lifeOfHost, &dnsmessage.SRVResource{Port: i.port, Target: dnsmessage.MustNewName(z.host)})
}

func (z zone) addresses(addrs []netip.Addr) []dnsmessage.Resource {
	var l []dnsmessage.Resource
	for _, a := range addrs {
		if a.Is4() {
			l = append(l, resource(z.host, true, lifeOfHost, &dnsmessage.AResource{A: a.As4()}))
		} else {
			l = append(l, resource(z.host, true, lifeOfHost, &dnsmessage.AAAAResource{AAAA: a.As16()}))
		}
	}
	return l
}

// services are the types of what is there.
func (z zone) services() []string {
	var l []string
	for _, s := range []string{serversService, debuggersService} {
		for _, i := range z.instances {
			if serviceOf(i.kind) == s {
				l = append(l, s)
				break
			}
		}
	}
	return l
}

func metaPTR(service string) dnsmessage.Resource {
	return resource(serviceTypes, false, lifeOfNames, &dnsmessage.PTRResource{PTR: dnsmessage.MustNewName(service)})
}

// everything is what an announcement says on an interface with these addresses.
func (z zone) everything(addrs []netip.Addr) []unit {
	var l []unit
	for _, i := range z.instances {
		l = append(l, unit{answers: []dnsmessage.Resource{i.ptr(), z.srv(i), i.txt()}})
	}
	last := unit{answers: z.addresses(addrs)}
	for _, s := range z.services() {
		last.answers = append(last.answers, metaPTR(s))
	}
	return append(l, last)
}

// farewell makes units say that what they name is gone.
func farewell(units []unit) []unit {
	for _, u := range units {
		for i := range u.answers {
			u.answers[i].Header.TTL = 0
		}
	}
	return units
}

// plain makes units fit for resolvers that know nothing of multicast DNS.
func plain(units []unit) []unit {
	for _, u := range units {
		for _, part := range [][]dnsmessage.Resource{u.answers, u.extras} {
			for i := range part {
				h := &part[i].Header
				h.Class &^= topBit
				h.TTL = min(h.TTL, lifeOfLegacy)
			}
		}
	}
	return units
}

// query is a question, or several, that came in.
type query struct {
	id        uint16
	questions []dnsmessage.Question
	known     map[string]bool // lower-case targets of PTR records that the asker has
}

// parseQuery reads a message; false: it is no query. What cannot be read in it
// is passed over: other programs' names are in the same messages.
func parseQuery(b []byte) (query, bool) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || h.Response || h.OpCode != 0 {
		return query{}, false
	}
	q := query{id: h.ID}
	for n := 0; ; n++ {
		x, err := p.Question()
		if err == dnsmessage.ErrSectionDone {
			break
		}
		if err != nil {
			if p.SkipQuestion() != nil {
				return q, len(q.questions) > 0
			}
		} else if n < maxAsked {
			q.questions = append(q.questions, x)
		}
	}
	for range maxLooked {
		h, err := p.AnswerHeader()
		if err == dnsmessage.ErrSectionDone {
			break
		}
		if err == nil && h.Type == dnsmessage.TypePTR && h.TTL >= lifeOfNames/2 { // RFC 6762 section 7.1
			if r, err := p.PTRResource(); err == nil {
				if q.known == nil {
					q.known = make(map[string]bool)
				}
				q.known[strings.ToLower(r.PTR.String())] = true
				continue
			}
		}
		if p.SkipAnswer() != nil {
			break
		}
	}
	return q, len(q.questions) > 0
}

// asksUnicast says that every question wants its answer sent to the asker alone.
func (q query) asksUnicast() bool {
	for _, x := range q.questions {
		if x.Class&topBit == 0 {
			return false
		}
	}
	return true
}

// answer is what the zone knows to a query. ours: it was asked for something of
// these services, if only for something that the asker has already.
func (z zone) answer(q query, addrs []netip.Addr) (units []unit, ours bool) {
	said := make(map[string]bool)
	say := func(key string, u unit) {
		if !said[key] && len(u.answers) > 0 {
			said[key] = true
			units = append(units, u)
		}
	}
	for _, x := range q.questions {
		name := strings.ToLower(x.Name.String())
		asks := func(t dnsmessage.Type) bool { return x.Type == t || x.Type == dnsmessage.TypeALL }
		switch name {
		case serviceTypes:
			for _, s := range z.services() {
				if asks(dnsmessage.TypePTR) {
					ours = true
					if !q.known[s] {
						say("meta "+s, unit{answers: []dnsmessage.Resource{metaPTR(s)}})
					}
				}
			}
			continue
		case serversService, debuggersService:
			ours = ours || asks(dnsmessage.TypePTR)
		case z.host:
			ours = true
			u := unit{}
			for _, r := range z.addresses(addrs) {
				_, v4 := r.Body.(*dnsmessage.AResource)
				if v4 && asks(dnsmessage.TypeA) || !v4 && asks(dnsmessage.TypeAAAA) {
					u.answers = append(u.answers, r)
				}
			}
			say("host", u)
		}
		for _, i := range z.instances {
			full := strings.ToLower(i.name())
			switch {
			case name == serviceOf(i.kind) && asks(dnsmessage.TypePTR) && !q.known[full]:
				u := unit{answers: []dnsmessage.Resource{i.ptr()}, extras: []dnsmessage.Resource{i.txt()}}
				if z.host != "" {
					u.extras = append(u.extras, z.srv(i))
				}
				say("ptr "+full, u)
			case name == full:
				ours = true
				if asks(dnsmessage.TypeTXT) {
					say("txt "+full, unit{answers: []dnsmessage.Resource{i.txt()}})
				}
				if asks(dnsmessage.TypeSRV) && z.host != "" {
					say("srv "+full, unit{answers: []dnsmessage.Resource{z.srv(i)}, extras: z.addresses(addrs)})
				}
			}
		}
	}
	return units, ours
}

// pack puts units into at most most messages of at most limit bytes each; what
// finds no room is left out. Without units it is one empty answer.
func pack(id uint16, echo []dnsmessage.Question, units []unit, limit, most int) [][]byte {
	var packets [][]byte
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: id, Response: true, Authoritative: true}, Questions: echo}
	empty := m
	last, err := m.Pack()
	if err != nil || len(last) > limit {
		return nil
	}
	for _, u := range units {
		for {
			next := m
			next.Answers = append(m.Answers[:len(m.Answers):len(m.Answers)], u.answers...)
			next.Additionals = append(m.Additionals[:len(m.Additionals):len(m.Additionals)], u.extras...)
			b, err := next.Pack()
			if err == nil && len(b) <= limit {
				m, last = next, b
				break
			}
			if len(m.Answers) == 0 { // too big for any
				break
			}
			if packets = append(packets, last); len(packets) == most {
				return packets
			}
			m = empty
		}
	}
	if len(m.Answers) > 0 || len(packets) == 0 {
		packets = append(packets, last)
	}
	return packets
}

// ask is the question for all servers. known are names that the asker has;
// padded is the size that the message is brought to (RFC 7830), 0 for none:
// who answers a stranger sends no more than he got.
func ask(id uint16, unicast bool, known []instanceName, padded int) []byte {
	class := dnsmessage.ClassINET
	if unicast {
		class |= topBit
	}
	m := dnsmessage.Message{Header: dnsmessage.Header{ID: id}}
	for _, s := range []string{serversService, debuggersService} {
		m.Questions = append(m.Questions, dnsmessage.Question{Name: dnsmessage.MustNewName(s), Type: dnsmessage.TypePTR, Class: class})
	}
	if padded == 0 {
		b, _ := m.Pack() // always the same, and a good one
		return b
	}
	for _, k := range known {
		name, err := dnsmessage.NewName(k.name)
		if err != nil {
			continue
		}
		m.Answers = append(m.Answers, resource(k.service, false, lifeOfNames, &dnsmessage.PTRResource{PTR: name}))
	}
	for ; ; m.Answers = m.Answers[:len(m.Answers)/2] {
		pad := &dnsmessage.OPTResource{Options: []dnsmessage.Option{{Code: 12, Data: []byte{}}}}
		m.Additionals = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName("."), Class: maxPacket}, Body: pad}}
		b, err := m.Pack()
		if err == nil && len(b) <= padded {
			pad.Options[0].Data = make([]byte, padded-len(b))
			b, err = m.Pack()
		}
		if err == nil && len(b) == padded || len(m.Answers) == 0 {
			return b
		}
	}
}

// instanceName is the full name of an instance and the service it is one of.
type instanceName struct{ name, service string }

// sighting is one door that a response tells of.
type sighting struct {
	instanceName
	gone   bool // it says good-bye
	server Server
}

// parseResponse reads the doors in a response; false: it is none. What is no
// door, or not a good one, is passed over.
func parseResponse(b []byte) (id uint16, l []sighting, ok bool) {
	var p dnsmessage.Parser
	h, err := p.Start(b)
	if err != nil || !h.Response || h.RCode != dnsmessage.RCodeSuccess || p.SkipAllQuestions() != nil {
		return 0, nil, false
	}
	for _, s := range []struct {
		header func() (dnsmessage.ResourceHeader, error)
		skip   func() error
	}{{p.AnswerHeader, p.SkipAnswer}, {p.AuthorityHeader, p.SkipAuthority}, {p.AdditionalHeader, p.SkipAdditional}} {
		for range maxLooked {
			r, err := s.header()
			if err == dnsmessage.ErrSectionDone {
				break
			}
			if err == nil && r.Type == dnsmessage.TypeTXT {
				if body, err := p.TXTResource(); err == nil {
					if x, ok := readText(r, body.TXT); ok {
						l = append(l, x)
					}
					continue
				}
			}
			if s.skip() != nil {
				return h.ID, l, true
			}
		}
	}
	return h.ID, l, true
}

// readText reads the TXT record of an instance.
func readText(h dnsmessage.ResourceHeader, text []string) (sighting, bool) {
	x := sighting{gone: h.TTL == 0}
	x.name = strings.ToLower(h.Name.String())
	_, x.service, _ = strings.Cut(x.name, ".")
	if x.service != serversService && x.service != debuggersService {
		return x, false
	}
	keys := make(map[string]string)
	for _, t := range text {
		k, v, _ := strings.Cut(t, "=")
		if k = strings.ToLower(k); keys[k] == "" { // RFC 6763 section 6.4: the first one counts
			keys[k] = v
		}
	}
	var err error
	x.server, err = newServer(Kind(keys["kind"]), keys["connect"], keys["release"])
	x.server.Host = clean(keys["host"])
	return x, err == nil && keys["txtvers"] == textVersion && serviceOf(x.server.Kind) == x.service
}
