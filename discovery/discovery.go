// Package discovery tells debuggers which servers run where.
//
// On one machine there is a registry: a small file per open door of a server in
// the run directory, held locked by the server's process. The lock goes with
// the process, however it ends, so that a list shows live servers only; a file
// without a lock is swept away by whoever sees it.
//
// Between machines it is DNS-SD (RFC 6763) over multicast DNS (RFC 6762), with
// two types of service: _openkd-srv._tcp for connection and process servers,
// _openkd-dbg._tcp for debugging servers. A TXT record carries what a list
// shows: the kind, the canonical connection string, the name of the machine,
// the release. A password never travels, nor whether it is a good one.
//
// What works when, without elevation anywhere:
//
//   - On one link, multicast finds every server, however many processes and
//     other responders (Avahi, mDNSResponder, the Windows DNS client) share UDP
//     port 5353: each of them gets a copy of what is multicast.
//   - A machine that is named is asked by unicast too, across routers and where
//     multicast is not carried. Of those who share port 5353 only one gets a
//     unicast packet, and it may be the system's responder. So the question also
//     goes to UDP port 15353, which the first server of the machine holds; it
//     answers for the others that it finds in its user's registry. When it ends
//     another one takes the port within ten seconds. Servers of other users on
//     the same machine are found by multicast only.
//   - A firewall must let UDP 5353 (multicast) or 15353 (asked by name) in.
//
// It is no protocol for trust: anyone on the link can announce anything. Strings
// from the network are parsed, bounded and refused if they contain anything
// that does not print; who a server is, its password proves.
//
// hidden servers and reverse ones (clicon=) are never registered and never
// announced, whoever asks for it.
package discovery

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"openkd/connstr"
)

// Kind is what a server gives its clients.
type Kind string

// Kinds of server. There is no process server in this project; lists know the
// word because others may write it.
const (
	Debugger Kind = "debugger" // a debugger that shares its session
	Process  Kind = "process"  // processes of the machine
	Kernel   Kind = "kernel"   // KD connection server: the lines of the machine
	Console  Kind = "console"  // the console of some program, for command remote; its release is the program's command line
)

// Label is how lists name the kind, "" for none of those above.
func (k Kind) Label() string {
	switch k {
	case Debugger:
		return "Debugger Server"
	case Process:
		return "Remote Process Server"
	case Kernel:
		return "Remote Kernel Debugger Server"
	case Console:
		return "Remote Console"
	}
	return ""
}

// Entry is one door of a server: what is announced.
type Entry struct {
	Kind      Kind
	Transport connstr.Transport // as the listener has it, with the port that was taken
}

// Server is one door of a server that was found.
type Server struct {
	Kind      Kind
	Transport connstr.Transport // of the server's side, without Server=; Password is "*" if there is one
	Release   string
	Host      string     // what the machine calls itself; unproven when it comes from the network
	Addr      netip.Addr // where the answer came from; not valid for one of this machine
	PID       int        // of a server in this machine's registry, otherwise 0
	NameOnly  bool       // the name that was asked for is what the server claims; only Addr leads to it
}

// String is the canonical connection string as lists show it, without Server=.
func (s Server) String() string { return s.Transport.String() }

// At is the string that a client on another machine can use: with Server=host,
// except for a serial cable, which has no such thing.
func (s Server) At(host string) string {
	t := s.Transport
	if t.Proto != "com" {
		t.Server = host
	}
	return t.String()
}

// Here says that the server runs on this machine.
func (s Server) Here() bool { return !s.Addr.IsValid() }

// Options tune Announce.
type Options struct {
	Release   string       // of the program
	LocalOnly bool         // nothing goes to the network
	Logger    *slog.Logger // nil: nothing is logged
}

// maxDoors bounds what one process announces.
const maxDoors = 300 // 255 channels of a serial line, and some

// Announcement is what one process has announced.
type Announcement struct {
	stop  context.CancelFunc
	tasks sync.WaitGroup
}

// Announce puts entries on the list of this machine and, unless
// o.LocalOnly, on the network, until ctx ends or Close. Entries that must not
// or cannot be found are left out: hidden ones, reverse ones, and on the
// network those that no other machine can reach.
//
// It fails when the list of this machine cannot be written. A network that is
// missing, comes late or changes is no failure.
func Announce(ctx context.Context, entries []Entry, o Options) (*Announcement, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return realLAN().announce(ctx, entries, o)
}

func (l lan) announce(ctx context.Context, entries []Entry, o Options) (*Announcement, error) {
	process := strings.ToLower(rand.Text()[:12])
	records, err := newRecords(process, entries, o)
	if err != nil {
		return nil, err
	}
	files, err := register(records)
	if err != nil {
		return nil, err
	}
	z := zone{host: "openkd-" + process + ".local.", instances: instances(records)}
	ctx, stop := context.WithCancel(ctx)
	a := &Announcement{stop: stop}
	a.tasks.Go(func() {
		if len(z.instances) > 0 {
			newResponder(l, z, others(z), o.Logger).run(ctx)
		}
		<-ctx.Done()
		for _, f := range files {
			discard(f)
		}
	})
	return a, nil
}

// instances are the records that go to the network.
func instances(records []record) []instance {
	var l []instance
	host := hostname()
	for _, r := range records {
		s, err := r.server()
		if err != nil || !isLabel(r.Instance) {
			continue
		}
		i := instance{label: r.Instance, kind: s.Kind, connect: s.String(), release: s.Release, host: host}
		if s.Transport.Port > 0 {
			i.port = uint16(s.Transport.Port)
		}
		if len(i.connect) <= maxConnect {
			l = append(l, i)
		}
	}
	return l
}

// others reads the registry for what other processes announce.
func others(z zone) func() []instance {
	return func() []instance {
		// What cannot be read is not told of.
		records, _ := registered(context.Background())
		return slices.DeleteFunc(instances(records), func(i instance) bool {
			return slices.ContainsFunc(z.instances, func(own instance) bool { return own.label == i.label })
		})
	}
}

// isLabel says whether a name on the network can be one that newRecords gives.
func isLabel(name string) bool {
	return name != "" && len(name) <= 63 && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// label is the name of a door on the network: the machine's, for people, and
// what makes it unique.
func label(process string, n int) string {
	host := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			return r
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		}
		return '-'
	}, hostname())
	return fmt.Sprintf("%.40s-%s-%d", host, process, n)
}

// Close withdraws what was announced and waits until that is done. It may be
// called more than once and from any goroutine.
func (a *Announcement) Close() {
	a.stop()
	a.tasks.Wait()
}

// newRecords is what of the entries may be known.
func newRecords(process string, entries []Entry, o Options) ([]record, error) {
	if len(entries) > maxDoors {
		return nil, fmt.Errorf("%d doors cannot be listed; at most %d can", len(entries), maxDoors)
	}
	var records []record
	for i, e := range entries {
		t := e.Transport
		if t.Hidden || t.ClientOf != "" {
			continue
		}
		r := record{Version: recordVersion, Kind: e.Kind, Release: o.Release, Started: time.Now().UTC()}
		network := !o.LocalOnly && reachable(t)
		t.Server, t.Firewall = "", false // of the listener, not of the way to it
		r.Connect = t.String()
		switch {
		case network && len(r.Connect) > maxConnect:
			o.Logger.Warn("a connection string is too long to be announced on the network", "transport", r.Connect, "most", maxConnect)
		case network:
			r.Instance = label(process, i)
		}
		if _, err := r.server(); err != nil {
			return nil, fmt.Errorf("%s cannot be listed: %w", r.Connect, err)
		}
		records = append(records, r)
	}
	return records, nil
}

// maxText bounds a connection string and any other text of an entry.
const maxText = 1024

// newServer checks what a registry or the network says about a server.
func newServer(kind Kind, text, release string) (Server, error) {
	if kind.Label() == "" {
		return Server{}, errors.New("its kind is not known")
	}
	if len(text) > maxText {
		return Server{}, fmt.Errorf("its connection string is longer than %d bytes", maxText)
	}
	t, err := connstr.ParseTransport(text, true)
	switch {
	case err != nil:
		return Server{}, err
	case t.Hidden || t.ClientOf != "" || t.Port == connstr.AnyPort:
		return Server{}, errors.New("its connection string is not one to connect to")
	case !printable(t.String()):
		return Server{}, errors.New("its connection string does not print")
	}
	return Server{Kind: kind, Transport: t, Release: clean(release)}, nil
}

// printable: what is shown on a terminal can neither steer it nor look like
// something else (unicode.IsPrint excludes controls and the marks that turn
// the direction of writing).
func printable(s string) bool {
	for _, r := range s {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return false
		}
	}
	return true
}

// clean makes a text printable, and at most 64 bytes long, that nothing depends
// on: a name, a release.
func clean(s string) string {
	const most = 64
	n := 0
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			r = '?'
		}
		if n += utf8.RuneLen(r); n > most {
			return -1
		}
		return r
	}, s)
}

// reachable says whether another machine has any use for the door: a Unix
// socket and a loopback address are of this machine alone.
func reachable(t connstr.Transport) bool {
	switch t.Proto {
	case "npipe", "spipe":
		return runtime.GOOS == "windows"
	}
	a, err := netip.ParseAddr(t.Server)
	return t.Server != "localhost" && (err != nil || !a.IsLoopback())
}
