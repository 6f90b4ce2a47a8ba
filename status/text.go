package status

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
)

// Write prints s for a person. What comes from a server of another release is
// made printable first.
func (s *Server) Write(w io.Writer) {
	p := func(format string, args ...any) { fmt.Fprintf(w, format, args...) }
	p("kdsrv %s on %s, process %d, since %s\n", clean(s.Release), clean(s.Host), s.PID, s.when(s.Started))
	if len(s.Doors) > 0 {
		p("\nDoors\n")
	}
	for _, d := range s.Doors {
		p("  %s at %s: %s, %d so far\n", clean(d.Transport), clean(d.Address), count(d.Clients, "client"), d.Accepted)
	}
	p("\nSessions: %d\n", s.SessionCount)
	for i := range s.Sessions {
		s.session(p, &s.Sessions[i])
	}
	s.more(p, s.SessionCount, len(s.Sessions))
	p("\nClients: %d of at most %d\n", s.ClientCount, s.MaxClients)
	for _, c := range s.Clients {
		p("  %s", clean(c.Peer))
		if c.Owner != "" {
			p(", %s", clean(c.Owner))
		}
		if c.Line != "" {
			p(", at %s", clean(c.Line))
		}
		p(", since %s\n    ", s.when(c.Since))
		if c.Door != "" {
			p("through %s, ", clean(c.Door))
		}
		p("%s in, %s out, round trip %s\n", size(c.BytesIn), size(c.BytesOut), trip(c.RoundTrip))
	}
	s.more(p, s.ClientCount, len(s.Clients))
}

func (s *Server) session(p func(string, ...any), x *Session) {
	p("  %s: ", clean(x.Line))
	switch {
	case x.State == "":
		p("does not tell its state now\n")
	case x.StateSince.IsZero():
		p("%s\n", clean(x.State))
	default:
		p("%s since %s\n", clean(x.State), s.when(x.StateSince))
	}
	p("    held by %s from %s since %s, epoch %d\n", clean(x.Owner), clean(x.Peer), s.when(x.Since), x.Epoch)
	if x.Lost != nil {
		p("    connection lost at %s; the target is let go %d s after that\n", x.Lost.Local().Format(time.TimeOnly), x.GraceSeconds)
	}
	l := &x.Link
	p("    link: %s and %s in, %s and %s out, round trip %s\n",
		size(l.BytesIn), count(l.PacketsIn, "packet"), size(l.BytesOut), count(l.PacketsOut, "packet"), trip(l.RoundTrip))
	if l.Resends+l.BadChecksums+l.Garbage+l.Resets > 0 {
		p("    link: %d sent again, %s, %s, %s\n", l.Resends, count(l.BadChecksums, "bad checksum"), count(l.Garbage, "stray byte"), count(l.Resets, "reset"))
	}
	if n := l.Net; n != nil {
		at := "none yet"
		if n.Target != "" {
			at = clean(n.Target)
		}
		p("    target: %s, %s; %s in, %d out\n", at, count(n.Handshakes, "handshake"), count(n.DatagramsIn, "datagram"), n.DatagramsOut)
		if n.Forged+n.Replayed+n.Foreign > 0 {
			p("    refused: %s that the key does not open, %d late or sent again, %d of somebody else\n", count(n.Forged, "datagram"), n.Replayed, n.Foreign)
		}
	}
}

func (s *Server) more(p func(string, ...any), n, shown int) {
	if n > shown {
		p("  and %d more\n", n-shown)
	}
}

// when is a time of the server's clock, and how long ago that was.
func (s *Server) when(t time.Time) string {
	ago := s.Now.Sub(t).Round(time.Second)
	if ago < 0 {
		ago = 0
	}
	return fmt.Sprintf("%s (%v)", t.Local().Format(time.DateTime), ago)
}

func count[N int | uint64](n N, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

func size(n uint64) string {
	switch {
	case n < 10_000:
		return fmt.Sprintf("%d bytes", n)
	case n < 10_000_000:
		return fmt.Sprintf("%d kB", n/1000)
	}
	return fmt.Sprintf("%d MB", n/1_000_000)
}

func trip(d time.Duration) string {
	switch {
	case d <= 0:
		return "not known yet"
	case d < time.Millisecond:
		return d.Round(time.Microsecond).String()
	}
	return d.Round(100 * time.Microsecond).String()
}

// maxText bounds a text that somebody else chose, in characters.
const maxText = 256

// clean makes a text harmless for a terminal.
func clean(s string) string { return Clean(s, maxText) }

// Clean is s with what does not print replaced, and not longer than most
// characters: for text that a client chose and a person or a log gets to see.
func Clean(s string, most int) string {
	n := 0
	return strings.Map(func(r rune) rune {
		switch n++; {
		case n > most:
			return -1
		case r == unicode.ReplacementChar || !unicode.IsPrint(r):
			return '?'
		}
		return r
	}, s)
}
