// Package audit picks the lines out of a program's log that say who came, was
// refused, held what and left: those with the attribute "audit", whose value is
// the kind of event. It counts them, and writes them as JSON lines to a stream
// of their own, one object each, if there is one.
//
// The kinds of kdsrv: start and stop of the server; connect and disconnect of a
// client that proved the password (peer, door, and at the end owner, duration,
// bytes of the protocol in and out, reason); refuse of a password, a session or
// a client too many (peer, door, reason); lease, takeover, resume and lost of a
// session (line, owner, peer, epoch); end of a session (line, owner, duration,
// bytes of the link in and out, reason); endpsrv, the end that a client asked
// for. Durations are seconds.
//
// Those of a shared session (kd -audit): door and enddoor of its doors; connect,
// lost and disconnect of a client (owner, id, peer, readonly, again, reason,
// duration); refuse of one too many; command of a line that runs or is served at
// once (owner, id, command), breakin, interrupt, key and answer; kick (by) and
// keyboard.
//
// It invents nothing: who logs such a line decides what is in it (packages
// server and transport), keeps passwords out and clients' text short.
package audit

import (
	"context"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"
)

// Key is the attribute that makes a line of the log one of the audit.
const Key = "audit"

// Trail is a slog.Handler that passes everything on and keeps the audit.
//
// Concurrency: as slog.Handler.
type Trail struct {
	log   slog.Handler
	lines slog.Handler // nil: counted only
	kind  string       // of every line, by WithAttrs
	*shared
}

type shared struct {
	mu     sync.Mutex
	counts map[string]uint64
	failed time.Time // when it was last said that the stream takes nothing
}

// maxKinds bounds the counters, should somebody log kinds without end.
const maxKinds = 32

// New returns a trail over a log. to may be nil.
func New(log slog.Handler, to io.Writer) *Trail {
	t := &Trail{log: log, shared: &shared{counts: make(map[string]uint64)}}
	if to != nil {
		t.lines = slog.NewJSONHandler(to, &slog.HandlerOptions{ReplaceAttr: seconds})
	}
	return t
}

// seconds: a duration in nanoseconds is for nobody to read.
func seconds(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.Float64Value(a.Value.Duration().Round(time.Millisecond).Seconds())
	}
	return a
}

// Counts says how often each kind of event was logged.
func (t *Trail) Counts() map[string]uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.counts)
}

func (t *Trail) count(kind string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.counts[kind]; ok || len(t.counts) < maxKinds {
		t.counts[kind]++
	}
}

// Enabled implements slog.Handler. Events are logged at Info or above.
func (t *Trail) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelInfo || t.log.Enabled(ctx, l)
}

// Handle implements slog.Handler.
func (t *Trail) Handle(ctx context.Context, r slog.Record) error {
	kind := t.kind
	r.Attrs(func(a slog.Attr) bool {
		if a.Key == Key {
			kind = a.Value.String()
		}
		return a.Key != Key
	})
	if kind != "" {
		t.count(kind)
		if t.lines != nil {
			if err := t.lines.Handle(ctx, r.Clone()); err != nil {
				t.complain(ctx, err)
			}
		}
	}
	if !t.log.Enabled(ctx, r.Level) {
		return nil
	}
	return t.log.Handle(ctx, r)
}

// complain says in the log that the stream is broken, but not with each line.
func (t *Trail) complain(ctx context.Context, err error) {
	now := time.Now()
	t.mu.Lock()
	again := now.Sub(t.failed) < time.Minute
	if !again {
		t.failed = now
	}
	t.mu.Unlock()
	if again {
		return
	}
	r := slog.NewRecord(now, slog.LevelError, "the audit file takes no lines", 0)
	r.AddAttrs(slog.Any("error", err))
	t.log.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (t *Trail) WithAttrs(as []slog.Attr) slog.Handler {
	c := *t
	for _, a := range as {
		if a.Key == Key {
			c.kind = a.Value.String()
		}
	}
	c.log = t.log.WithAttrs(as)
	if t.lines != nil {
		c.lines = t.lines.WithAttrs(slices.Clone(as))
	}
	return &c
}

// WithGroup implements slog.Handler.
func (t *Trail) WithGroup(name string) slog.Handler {
	c := *t
	c.log = t.log.WithGroup(name)
	if t.lines != nil {
		c.lines = t.lines.WithGroup(name)
	}
	return &c
}
