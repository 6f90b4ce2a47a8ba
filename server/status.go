package server

import (
	"context"
	"errors"
	"os"
	"sort"
	"strings"
	"time"

	"openkd/kdrpc"
	"openkd/status"
	"openkd/target"
)

// Bounds of texts that clients choose, in characters: owners of sessions, and
// links or errors with parts of them in the log.
const (
	maxOwner  = 128
	maxReason = 512
)

// door is one listener that is served.
type door struct {
	transport string // canonical, the password hidden
	address   string
	// guarded by the server's mu
	clients  int
	accepted uint64
	in, out  uint64 // bytes of clients that are gone
}

// client is one connection: what is known about it, and what it may ask.
type client struct {
	s     *Server
	d     *door // nil: in this process
	peer  string
	since time.Time
	meter kdrpc.Meter

	// guarded by the server's mu
	owner string
	line  string
}

var _ kdrpc.Backend = (*client)(nil)

func (c *client) doorName() string {
	if c.d == nil {
		return ""
	}
	return c.d.transport
}

// Open implements kdrpc.Backend.
func (c *client) Open(ctx context.Context, o kdrpc.Open, peer string) (kdrpc.Session, error) {
	// The owner stands in lists, logs and other people's messages.
	o.Owner = status.Clean(o.Owner, maxOwner)
	c.s.mu.Lock()
	c.owner = o.Owner
	c.s.mu.Unlock()
	ses, err := c.s.open(ctx, o, peer)
	if err != nil {
		c.refused(o, err)
		return nil, err
	}
	c.s.mu.Lock()
	c.line = ses.Opened().Line
	c.s.mu.Unlock()
	return ses, nil
}

// refused notes why a client got no session. The link is not in it as it was
// typed: it may hold a key.
func (c *client) refused(o kdrpc.Open, err error) {
	if errors.Is(err, context.Canceled) {
		return // it left meanwhile
	}
	c.s.log.Warn("session refused", "audit", "refuse", "peer", c.peer, "door", c.doorName(), "owner", o.Owner, "reason", status.Clean(err.Error(), maxReason))
}

// EndServer implements kdrpc.Backend.
func (c *client) EndServer(_ context.Context, peer string) (func(), error) {
	return c.s.endServer(c, peer)
}

// ServerStatus implements kdrpc.Backend.
func (c *client) ServerStatus(ctx context.Context) (*status.Server, error) {
	return c.s.Status(ctx), nil
}

// statusWithin bounds asking all targets how they are. They answer at once,
// whatever they do (target.Target); one that does not must not hold up a list.
const statusWithin = 2 * time.Second

// Status tells what the server serves, and to whom. It does not touch a
// target.
func (s *Server) Status(ctx context.Context) *status.Server {
	ctx, cancel := context.WithTimeout(ctx, statusWithin)
	defer cancel()
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	out := &status.Server{
		Release: s.o.Release, Host: host, PID: os.Getpid(), Started: s.started, Now: time.Now(), MaxClients: s.o.MaxClients,
	}
	for _, ses := range s.list() {
		info, ok := ses.info()
		if !ok {
			continue
		}
		out.SessionCount++
		out.Sessions = append(out.Sessions, ses.status(ctx, info))
	}
	s.mu.Lock()
	out.ClientCount = len(s.present)
	in, to := map[*door]uint64{}, map[*door]uint64{}
	for c := range s.present {
		i, o := c.meter.Bytes()
		in[c.d] += i
		to[c.d] += o
		out.Clients = append(out.Clients, status.Client{
			Peer: c.peer, Door: c.doorName(), Since: c.since, Owner: c.owner, Line: c.line,
			BytesIn: i, BytesOut: o, RoundTrip: c.meter.RoundTrip(),
		})
	}
	for _, d := range s.doors {
		out.Doors = append(out.Doors, status.Door{
			Transport: d.transport, Address: d.address, Clients: d.clients, Accepted: d.accepted,
			BytesIn: d.in + in[d], BytesOut: d.out + to[d],
		})
	}
	s.mu.Unlock()
	sort.Slice(out.Sessions, func(i, j int) bool { return out.Sessions[i].Line < out.Sessions[j].Line })
	sort.Slice(out.Clients, func(i, j int) bool { return out.Clients[i].Since.Before(out.Clients[j].Since) })
	out.Sessions = out.Sessions[:min(len(out.Sessions), status.MaxList)]
	out.Clients = out.Clients[:min(len(out.Clients), status.MaxList)]
	return out
}

func (ses *session) status(ctx context.Context, info Info) status.Session {
	out := status.Session{
		Line: info.Line, Owner: info.Owner, Peer: info.Peer, Opened: ses.opened, Since: info.Since, Epoch: info.Epoch,
	}
	if !info.Lost.IsZero() {
		out.Lost, out.GraceSeconds = &info.Lost, uint32(max(ses.s.o.Grace, 0)/time.Second)
	}
	st, ok := ses.targetStatus(ctx)
	if !ok {
		return out
	}
	l := &st.Stats
	out.State, out.StateSince, out.Speed = st.State.String(), st.Since, st.Speed
	out.Link = status.Link{
		BytesIn: l.BytesIn, BytesOut: l.BytesOut, PacketsIn: l.PacketsIn, PacketsOut: l.PacketsOut,
		Resends: l.Resends, BadChecksums: l.BadChecksums, Garbage: l.Garbage, Resets: l.Resets, RoundTrip: l.RoundTrip,
	}
	if l.DatagramsIn+l.DatagramsOut > 0 || strings.HasPrefix(info.Line, "NET:") {
		out.Link.Net = &status.Net{
			Target: l.Peer, Handshakes: l.Sessions, DatagramsIn: l.DatagramsIn, DatagramsOut: l.DatagramsOut,
			Forged: l.BadTags, Replayed: l.Replays, Foreign: l.Foreign,
		}
	}
	return out
}

// targetStatus asks the target where it stands; not ok: it did not say.
func (ses *session) targetStatus(ctx context.Context) (st target.Status, ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	st, err := ses.tg.Status(ctx)
	return st, err == nil
}
