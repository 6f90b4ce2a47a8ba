package server

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"openkd/kdrpc"
	"openkd/target"
)

// session is one line, its target, and whose it is.
//
//	opening --opened--> held --connection lost--> waiting --grace over--> ended
//	   |                 ^ |                         |
//	   |                 | +--Close, target closed, server ends--> ended
//	   +--failed-> ended +------resume, take-over----+
type session struct {
	s     *Server
	key   string
	token []byte // of the present lease; constant until a take-over
	log   *kdrpc.EventLog
	ready chan struct{} // closed when the target is there
	ended chan struct{} // closed when the session is gone from the table

	tg       target.Target // from ready on
	line     string        // from ready on
	opened   time.Time     // from ready on
	stopPump context.CancelFunc
	pumped   chan struct{}

	mu     sync.Mutex
	epoch  uint64
	owner  string
	peer   string
	since  time.Time
	lost   time.Time
	held   *attachment // nil: waiting for the holder
	grace  *time.Timer
	ending bool
	said   bool // EventClosed is in the log
	// What a client that has seen nothing needs to know.
	stage, connected, run, prompt *target.Event
}

func newSession(s *Server, key, owner, peer string) *session {
	return &session{
		s: s, key: key, token: newToken(), log: kdrpc.NewEventLog(),
		ready: make(chan struct{}), ended: make(chan struct{}), pumped: make(chan struct{}),
		owner: owner, peer: peer, since: time.Now(),
	}
}

// forget takes the session out of the table.
func (ses *session) forget() {
	ses.s.mu.Lock()
	for k, v := range ses.s.sessions {
		if v == ses {
			delete(ses.s.sessions, k)
		}
	}
	ses.s.mu.Unlock()
	ses.log.Close()
	close(ses.ended)
}

// start begins the session's life with its first holder.
func (ses *session) start(tg target.Target, line string) *attachment {
	ses.tg, ses.line, ses.opened = tg, line, time.Now()
	ctx, cancel := context.WithCancel(context.Background())
	ses.stopPump = cancel
	ses.mu.Lock()
	a := ses.attachLocked(0)
	ses.mu.Unlock()
	ses.s.log.Info("lease granted", "audit", "lease", "line", line, "owner", ses.owner, "peer", ses.peer, "epoch", a.epoch)
	// The pump outlives connections; end waits for it.
	go ses.pump(ctx)
	close(ses.ready)
	return a
}

func (ses *session) attachLocked(after uint64) *attachment {
	ses.epoch++
	if ses.grace != nil {
		ses.grace.Stop()
		ses.grace = nil
	}
	ses.lost = time.Time{}
	a := &attachment{ses: ses, epoch: ses.epoch, drained: make(chan struct{})}
	a.ctx, a.cancel = context.WithCancelCause(context.Background())
	grace := max(ses.s.o.Grace, 0)
	a.opened = kdrpc.Opened{
		Token: ses.token, Epoch: ses.epoch, Grace: uint32((grace + time.Second - 1) / time.Second),
		Line: ses.line, After: after,
	}
	ses.held = a
	return a
}

// heldFrom says who holds the lease; nil: nobody any more.
func (ses *session) heldFrom() *kdrpc.Refusal {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	if ses.ending {
		return nil
	}
	return ses.heldLocked()
}

func (ses *session) heldLocked() *kdrpc.Refusal {
	ref := &kdrpc.Refusal{Code: kdrpc.RefusedHeld, Holder: ses.owner, Since: ses.since, LostSince: ses.lost}
	if !ses.lost.IsZero() {
		ref.Grace = uint32(ses.s.o.Grace / time.Second)
	}
	return ref
}

// takeOver gives the lease to another. Who did not ask for that gets a session
// of his own only that waits for him; it is looked at here, because its holder
// may have come back since he was let through. nil, nil: the session is ending.
func (ses *session) takeOver(owner, peer string, asked bool) (*attachment, *kdrpc.Refusal) {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	if ses.ending {
		return nil, nil
	}
	if !asked && (ses.held != nil || ses.owner != owner) {
		return nil, ses.heldLocked()
	}
	before := ses.owner
	if old := ses.held; old != nil {
		old.taken = fmt.Sprintf("the lease of %s was taken over by %s", ses.line, owner)
		old.cancel(target.ErrLease)
	}
	ses.owner, ses.peer, ses.since = owner, peer, time.Now()
	ses.token = newToken()
	after := ses.log.Restart(ses.snapshotLocked()...)
	a := ses.attachLocked(after)
	ses.s.log.Warn("lease taken over", "audit", "takeover", "line", ses.line, "owner", owner, "peer", peer, "from", before, "epoch", a.epoch)
	return a, nil
}

// resume gives the session back to its owner; nil: the token is not good for
// what he asks.
func (ses *session) resume(o kdrpc.Open, peer string) *attachment {
	key, err := ses.s.o.Canonical(o.Link)
	ses.mu.Lock()
	defer ses.mu.Unlock()
	if subtle.ConstantTimeCompare(ses.token, o.Resume) != 1 {
		return nil
	}
	if err != nil || key != ses.key || o.Owner != ses.owner || ses.ending || ses.epoch == 0 {
		ses.s.log.Warn("a token that does not fit", "line", ses.line, "owner", o.Owner, "peer", peer)
		return nil
	}
	if old := ses.held; old != nil { // its connection is dead and nobody has noticed yet
		old.cancel(target.ErrLease)
	}
	ses.peer = peer
	a := ses.attachLocked(o.LastSeen)
	ses.s.log.Info("session resumed", "audit", "resume", "line", ses.line, "owner", o.Owner, "peer", peer, "epoch", a.epoch)
	return a
}

func (ses *session) snapshotLocked() []target.Event {
	var out []target.Event
	for _, e := range []*target.Event{ses.stage, ses.connected, ses.run, ses.prompt} {
		if e == nil {
			continue
		}
		c := *e
		if c.Stop != nil {
			stop := *c.Stop
			stop.Again = true
			c.Stop = &stop
		}
		out = append(out, c)
	}
	return out
}

func (ses *session) info() (Info, bool) {
	select {
	case <-ses.ready:
	default:
		return Info{}, false
	}
	ses.mu.Lock()
	defer ses.mu.Unlock()
	return Info{Line: ses.line, Owner: ses.owner, Peer: ses.peer, Since: ses.since, Epoch: ses.epoch, Lost: ses.lost}, true
}

// pump moves events from the target to the log.
func (ses *session) pump(ctx context.Context) {
	why := ""
	defer func() {
		v := recover()
		close(ses.pumped)
		if v != nil {
			ses.Panicked(v, debug.Stack())
			return
		}
		if ctx.Err() == nil { // the target ended by itself; end closes it only for form
			ses.end(context.Background(), target.LeaveRunning, why)
		}
	}()
	for {
		if ses.log.WaitRoom(ctx) != nil {
			return
		}
		e, err := ses.tg.Next(ctx)
		if err != nil {
			why = fmt.Sprintf("the target ended: %v", err)
			return
		}
		ses.mu.Lock()
		switch e.Kind {
		case target.EventStage:
			ses.stage = &e
		case target.EventConnected:
			ses.connected = &e
		case target.EventHalted, target.EventRunning, target.EventLost:
			ses.run, ses.prompt = &e, nil
		case target.EventPrompt:
			ses.prompt = &e
		case target.EventReloaded:
			ses.connected, ses.run, ses.prompt = nil, nil, nil
		case target.EventClosed:
			ses.said = true
		}
		ses.log.Append(e) // under mu: a take-over restarts the log from what was seen
		ses.mu.Unlock()
	}
}

// end ends the session: our breakpoints go, a halted target is let go unless
// its holder wants it halted. It waits until the session is gone, and returns
// target.ErrClosed if it had ended already.
func (ses *session) end(ctx context.Context, leave target.Leave, why string) error {
	return ses.endOf(ctx, 0, leave, why)
}

// endOf is end, but only while the lease is in an epoch; 0: in any.
func (ses *session) endOf(ctx context.Context, epoch uint64, leave target.Leave, why string) error {
	ses.mu.Lock()
	if epoch != 0 && ses.epoch != epoch {
		ses.mu.Unlock()
		return target.ErrLease
	}
	if ses.ending {
		ses.mu.Unlock()
		select {
		case <-ses.ended:
			return target.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	ses.ending = true
	if ses.grace != nil {
		ses.grace.Stop()
	}
	held := ses.held
	owner := ses.owner
	ses.mu.Unlock()
	if held != nil {
		// A batch that hangs must not keep the target from being let go.
		held.cancel(target.ErrClosed)
	}

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ses.s.o.CloseWithin)
	defer cancel()
	type end struct {
		in, out uint64 // bytes of the link
		err     error
	}
	closed := make(chan end, 1)
	go func() {
		defer func() {
			if v := recover(); v != nil {
				closed <- end{err: fmt.Errorf("closing the target panicked: %v", v)}
			}
		}()
		st, _ := ses.targetStatus(ctx)
		closed <- end{st.Stats.BytesIn, st.Stats.BytesOut, ses.tg.Close(ctx, leave)}
	}()
	var last end
	select {
	case last = <-closed:
	case <-ctx.Done():
		last.err = fmt.Errorf("the target was not closed within %v", ses.s.o.CloseWithin)
	}
	err := last.err
	log := ses.s.log.With("audit", "end", "line", ses.line, "owner", owner, "duration", time.Since(ses.opened), "in", last.in, "out", last.out, "reason", why)
	switch {
	case err != nil && !errors.Is(err, target.ErrClosed):
		log.Error("session ended, but the target was not let go in good order", "error", err)
	case leave == target.LeaveHalted:
		log.Info("session ended, the target stays as it is because its holder wants it")
	default:
		log.Info("session ended, the target is let go")
	}

	// The last events of the target.
	t := time.NewTimer(time.Second)
	select {
	case <-ses.pumped:
	case <-t.C:
	}
	t.Stop()
	ses.stopPump()
	<-ses.pumped
	ses.mu.Lock()
	if !ses.said {
		ses.log.Append(target.Event{Kind: target.EventClosed, Time: time.Now(), Text: why})
	}
	ses.mu.Unlock()
	ses.forget()
	return err
}

// drain waits until the holder's connection has taken the last event.
func (ses *session) drain(ctx context.Context, d time.Duration) {
	ses.mu.Lock()
	a := ses.held
	ses.mu.Unlock()
	if a == nil {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-a.drained:
	case <-t.C:
	case <-ctx.Done():
	}
}

// Panicked ends the session after a fault in it.
func (ses *session) Panicked(v any, stack []byte) {
	ses.s.log.Error("a session has a fault and is ended", "line", ses.line, "panic", v, "stack", string(stack))
	ses.end(context.Background(), target.LeaveRunning, "the server has a fault in this session")
}

// attachment is one connection's hold on a session. It implements
// kdrpc.Session. It is worth nothing once another epoch has begun.
type attachment struct {
	ses    *session
	epoch  uint64
	opened kdrpc.Opened
	taken  string // set before cancel: who took over

	ctx    context.Context // ends when the lease does; its cause says why
	cancel context.CancelCauseFunc

	saidTaken bool
	drained   chan struct{} // closed when the last event was taken
	drainOnce sync.Once
}

var _ kdrpc.Session = (*attachment)(nil)

// check is asked before every request: does the lease still belong here?
func (a *attachment) check() error {
	a.ses.mu.Lock()
	defer a.ses.mu.Unlock()
	switch {
	case a.ses.epoch != a.epoch:
		if a.taken != "" {
			return fmt.Errorf("%w: %s", target.ErrLease, a.taken)
		}
		return target.ErrLease
	case a.ses.ending:
		return target.ErrClosed
	}
	return nil
}

// with runs f as long as the lease lasts.
func (a *attachment) with(ctx context.Context, f func(ctx context.Context) error) error {
	if err := a.check(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(a.ctx, cancel)()
	err := f(ctx)
	if err != nil && a.ctx.Err() != nil {
		return a.lostLease()
	}
	return err
}

func (a *attachment) lostLease() error {
	if err := a.check(); err != nil {
		return err
	}
	return context.Cause(a.ctx)
}

// configure tells a target that is taken over what its new client wants.
func (a *attachment) configure(ctx context.Context, cfg target.Config) {
	if err := a.Control(ctx, target.Control{Op: target.ControlConfigure, Config: cfg}); err != nil {
		a.ses.s.log.Warn("the target did not take the new client's configuration", "line", a.ses.line, "error", err)
	}
}

func (a *attachment) Opened() kdrpc.Opened { return a.opened }

func (a *attachment) Do(ctx context.Context, batch []target.Request, sink func(target.Part) error) error {
	return a.with(ctx, func(ctx context.Context) error { return a.ses.tg.Do(ctx, batch, sink) })
}

func (a *attachment) Resume(ctx context.Context, r target.Resume) error {
	return a.with(ctx, func(ctx context.Context) error { return a.ses.tg.Resume(ctx, r) })
}

func (a *attachment) Switch(ctx context.Context, processor int) error {
	return a.with(ctx, func(ctx context.Context) error { return a.ses.tg.Switch(ctx, processor) })
}

func (a *attachment) BreakIn(ctx context.Context) error {
	return a.with(ctx, a.ses.tg.BreakIn)
}

func (a *attachment) Answer(ctx context.Context, text string) error {
	return a.with(ctx, func(ctx context.Context) error { return a.ses.tg.Answer(ctx, text) })
}

func (a *attachment) Control(ctx context.Context, c target.Control) error {
	return a.with(ctx, func(ctx context.Context) error { return a.ses.tg.Control(ctx, c) })
}

func (a *attachment) Status(ctx context.Context) (st target.Status, err error) {
	err = a.with(ctx, func(ctx context.Context) error {
		st, err = a.ses.tg.Status(ctx)
		return err
	})
	return st, err
}

func (a *attachment) Close(ctx context.Context, l target.Leave) error {
	if err := a.check(); err != nil {
		return err
	}
	return a.ses.endOf(ctx, a.epoch, l, "its client left")
}

func (a *attachment) Next(ctx context.Context, after uint64) (uint64, target.Event, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(a.ctx, func() {
		if errors.Is(context.Cause(a.ctx), target.ErrLease) {
			cancel()
		}
	})
	defer stop()
	seq, e, err := a.ses.log.Next(ctx, after)
	if errors.Is(err, target.ErrClosed) {
		a.drainOnce.Do(func() { close(a.drained) })
	}
	if errors.Is(context.Cause(a.ctx), target.ErrLease) {
		if a.taken != "" && !a.saidTaken {
			a.saidTaken = true
			return after + 1, target.Event{Kind: target.EventClosed, Time: time.Now(), Text: a.taken}, nil
		}
		return 0, target.Event{}, target.ErrClosed
	}
	return seq, e, err
}

func (a *attachment) Ack(seq uint64) {
	if a.check() == nil {
		a.ses.log.Ack(seq)
	}
}

// Detach begins the grace time.
func (a *attachment) Detach() {
	ses := a.ses
	ses.mu.Lock()
	defer ses.mu.Unlock()
	a.cancel(target.ErrClosed)
	a.drainOnce.Do(func() { close(a.drained) })
	if ses.held != a || ses.epoch != a.epoch {
		return
	}
	ses.held = nil
	if ses.ending {
		return
	}
	ses.lost = time.Now()
	grace := max(ses.s.o.Grace, 0)
	ses.s.log.Warn("the client's connection is lost; its session waits", "audit", "lost", "line", ses.line, "owner", ses.owner, "grace", grace)
	ses.grace = time.AfterFunc(grace, func() {
		ses.endOf(context.Background(), a.epoch, target.LeaveRunning, fmt.Sprintf("the client did not come back within %v", grace))
	})
}

func (a *attachment) Panicked(v any, stack []byte) { a.ses.Panicked(v, stack) }
